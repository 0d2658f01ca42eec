// The SDK as an ES module, told by the environment alone; prints what each call gave.
import Default, { SendKit, Sendkit } from '@sendkitdev/sdk';

const mail = { from: 'Acme <hello@sender.test>', to: 'ann@there.test', subject: 'Hi ✓', text: 'by SDK' };
const circular = { ...mail };
circular.metadata = circular;
const sendkit = new Sendkit(undefined, {});
const sent = await sendkit.emails.send({
  ...mail,
  replyTo: 'desk@sender.test',
  attachments: [{ filename: 'a.bin', content: new Uint8Array([0, 255, 10]), contentType: 'application/x-test' }],
});
let noKey;
try {
  delete process.env.SENDKIT_API_KEY;
  new Sendkit();
} catch (error) {
  noKey = error.message;
}
const other = (key, options) => new Sendkit(key, { baseUrl: process.env.SENDKIT_BASE_URL, ...options });
const answering = (status, body) => other('sk', { fetch: async () => new Response(body, { status }) });
console.log(
  JSON.stringify({
    same: Sendkit === SendKit && Sendkit === Default,
    sent,
    got: await other(`${process.env.KEY}\n`).emails.get(sent.data.id),
    noTo: await other(process.env.KEY).emails.send({ ...mail, to: [] }),
    nothing: await other(process.env.KEY).emails.send(undefined),
    wrongKey: await other('sk_wrong').emails.send(mail),
    closed: await other('sk', { baseUrl: 'http://127.0.0.1:1' }).emails.send(mail),
    circular: await other('sk').emails.send(circular),
    html: await answering(502, '<h1>Bad gateway</h1>').emails.send(mail),
    bare: await answering(200, 'null').emails.send(mail),
    noKey,
  }),
);
