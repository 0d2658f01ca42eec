// The SDK as CommonJS; prints the id.
const { Sendkit, SendKit } = require('@sendkitdev/sdk');

const sendkit = new SendKit(process.env.KEY, { baseUrl: `${process.env.SENDKIT_BASE_URL}/` });
sendkit.emails
  .send({ from: 'hello@sender.test', to: ['ann@there.test'], subject: 'Hi', html: '<p>by CommonJS</p>' })
  .then(({ data, error }) => console.log(JSON.stringify({ id: data?.id, error, same: Sendkit === SendKit })));
