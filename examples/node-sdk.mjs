import { Sendkit } from '@sendkitdev/sdk';

const sendkit = new Sendkit(process.env.SENDKIT_API_KEY);
const { data, error } = await sendkit.emails.send({
  from: process.env.MAIL_FROM ?? 'hello@example.com',
  to: process.env.MAIL_TO ?? 'you@example.com',
  subject: 'Hello from the Node SDK',
  text: 'It works',
  html: '<p>It works</p>',
});
if (error) {
  console.error(error.name, error.message, error.statusCode);
  process.exitCode = 1;
} else {
  console.log(data.id);
}
