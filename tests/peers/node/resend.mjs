// Resend's own client, pointed at this server by RESEND_BASE_URL: domains and keys from end to end. Prints what it was told.
import { Resend } from "resend";

const resend = new Resend(process.env.RESEND_API_KEY);
const said = {};
said.created = await resend.domains.create({ name: "mail.shop.co.uk", customReturnPath: "bounces" });
const id = said.created.data.id;
said.second = await resend.domains.create({ name: "second.test", region: "eu-west-1" });
said.got = await resend.domains.get(id);
said.listed = await resend.domains.list({ limit: 1 });
said.next = await resend.domains.list({ limit: 1, after: said.listed.data.data[0].id });
said.updated = await resend.domains.update({ id, openTracking: true, tls: "enforced" });
said.verified = await resend.domains.verify(id);
said.removed = await resend.domains.remove(id);
said.gone = await resend.domains.get(id);
said.noName = await resend.domains.create({});
said.key = await resend.apiKeys.create({ name: "sends", permission: "sending_access" });
said.keys = await resend.apiKeys.list();
said.renamed = await resend.patch(`/api-keys/${said.key.data.id}`, { name: "sends mail" });
said.keyRemoved = await resend.apiKeys.remove(said.key.data.id);
said.wrongKey = await new Resend("re_nobody").domains.list();
said.foreign = await resend.emails.send({ from: "a@nowhere.test", to: "ann@there.test", subject: "x", text: "x" });
said.sent = await resend.emails.send({ from: "a@sender.test", to: "ann@there.test", subject: "x", text: "x" });
console.log(JSON.stringify(said));
