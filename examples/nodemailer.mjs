import nodemailer from 'nodemailer';

const transport = nodemailer.createTransport({
  host: process.env.SENDKIT_SMTP_HOST ?? 'localhost',
  port: Number(process.env.SENDKIT_SMTP_PORT ?? 2587),
  auth: { user: 'sendkit', pass: process.env.SENDKIT_API_KEY },
});
const info = await transport.sendMail({
  from: process.env.MAIL_FROM ?? 'hello@example.com',
  to: process.env.MAIL_TO ?? 'you@example.com',
  subject: 'Hello from Nodemailer',
  text: 'It works',
  html: '<p>It works</p>',
});
console.log(info.messageId);
