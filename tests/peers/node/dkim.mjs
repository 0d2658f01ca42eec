// Verifies the DKIM signatures of mails with mailauth. stdin: {"dns": "host:port", "mails": [base64]}.
import { promises } from 'node:dns';
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';

let input = '';
for await (const chunk of process.stdin) input += chunk;
const { dns, mails } = JSON.parse(input);
const resolver = new promises.Resolver();
resolver.setServers([dns]);

const verdicts = [];
for (const mail of mails) {
  const { results } = await dkimVerify(Buffer.from(mail, 'base64'), {
    resolver: (name, type) => resolver.resolve(name, type),
  });
  verdicts.push(results.map(({ algo, status }) => `${algo} ${status.result}`));
}
console.log(JSON.stringify(verdicts));
