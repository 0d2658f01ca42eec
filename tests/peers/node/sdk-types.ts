// Must compile as an ES module and as CommonJS; each expected error must be one.
import { SendKit, Sendkit, type Result, type SentEmail } from '@sendkitdev/sdk';

const sendkit: Sendkit = new SendKit('sk_live_x', { baseUrl: 'http://127.0.0.1:8080', timeoutMs: 1000 });

export async function send(): Promise<string> {
  const result: Result<SentEmail> = await sendkit.emails.send({
    from: 'a@b.test',
    to: ['c@d.test'],
    subject: 's',
    text: 't',
    tags: [{ name: 'kind', value: 'welcome' }],
    attachments: [{ filename: 'a', content: new Uint8Array(1) }],
  });
  const { data, error } = result;
  if (error) {
    const status: number | null = error.statusCode;
    return `${error.name} ${error.message} ${status}`;
  }
  // @ts-expect-error `from` is missing
  await sendkit.emails.send({ to: 'c@d.test', subject: 's' });
  // @ts-expect-error `to` is no number
  await sendkit.emails.send({ from: 'a@b.test', to: 5, subject: 's' });
  const id: string = data.id;
  return id;
}
