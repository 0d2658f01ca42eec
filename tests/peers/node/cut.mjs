// A pool of Nodemailer whose connection is cut behind the dot tries again by itself.
import { createTransport } from 'nodemailer'

const transport = createTransport({
  pool: true, maxConnections: 1, maxRequeues: 5,
  host: '127.0.0.1', port: Number(process.env.PORT), secure: false, ignoreTLS: true,
  auth: { user: 'sendkit', pass: process.env.KEY },
})
const mail = {
  from: 'App <app@sender.test>', to: 'ann@there.test', subject: 'Once', text: 'It works', html: '<p>It works</p>',
  messageId: '<order-17@sender.test>', date: new Date(1764000000000),
}
let info
for (let tries = 0; !info; tries++) {
  try {
    info = await transport.sendMail(mail)
  } catch (error) {
    if (tries === 4) throw error
  }
}
console.log(info.response)
transport.close()
