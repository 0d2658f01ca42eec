// Nodemailer as its own examples begin: host and port, nothing else; then with a user that nobody knows.
import nodemailer from 'nodemailer';

const where = { host: '127.0.0.1', port: Number(process.env.PORT) };
for (const options of [where, { ...where, auth: { user: 'anyone', pass: 'anything' } }]) {
  const mail = { from: 'app@example.com', to: 'you@example.com', subject: 'Nodemailer ✓', text: 'It works' };
  const info = await nodemailer.createTransport(options).sendMail(mail);
  console.log(info.response);
}
