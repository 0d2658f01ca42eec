// Many mails over Nodemailer's pool, with TLS from the start; prints each mail's 250.
import nodemailer from 'nodemailer';

const { PORT, KEY, COUNT } = process.env;
const transport = nodemailer.createTransport({
  pool: true, maxConnections: 2, host: 'localhost', port: Number(PORT), secure: true,
  auth: { user: 'sendkit', pass: KEY },
});
const mails = Array.from({ length: Number(COUNT) }, (_, number) => ({
  from: '"Ácme, Inc." <app@sender.test>',
  to: 'Änn <ann@there.test>',
  cc: ['carl@there.test'],
  bcc: 'hidden@there.test',
  subject: `Grüße ${number} ✓`,
  text: `ünïcode ${number}\n.\n..dots\nFrom here\n`,
  attachments: [{ filename: 'größe ☃.txt', content: 'fünf' }],
}));
const sent = await Promise.all(mails.map((mail) => transport.sendMail(mail)));
for (const { response, messageId } of sent) console.log(`${response}\t${messageId}`);
transport.close();
