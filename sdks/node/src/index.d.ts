export interface Tag {
  name: string;
  value?: string;
}

export interface Attachment {
  filename?: string | null;
  /** Base64 text, or bytes. */
  content: string | Uint8Array | ArrayBuffer;
  contentType?: string;
  /** Makes it an inline part that the HTML names as `cid:…`. */
  contentId?: string;
}

export interface SendEmail {
  /** `hello@example.com` or `Acme <hello@example.com>`, at a domain that the key may send from. */
  from: string;
  to: string | string[];
  subject: string;
  html?: string;
  text?: string;
  cc?: string | string[];
  bcc?: string | string[];
  replyTo?: string | string[];
  headers?: Record<string, string>;
  tags?: Tag[];
  metadata?: Record<string, string>;
  attachments?: Attachment[];
  /** Check everything, store and send nothing. */
  checkOnly?: boolean;
  /** Any further member of the API, by its name there. */
  [member: string]: unknown;
}

export interface Warning {
  name: string;
  message: string;
  fix: string;
}

export interface SentEmail {
  id: string;
  status: string;
  validation: { valid: boolean; recipients: { email: string; valid: boolean; reasons: string[] }[] };
  warnings: Warning[];
  data: { id: string; to: string; status: string }[];
}

export interface Recipient {
  email: string;
  role: 'to' | 'cc' | 'bcc';
  status: string;
  reason: string | null;
  next_attempt_at: string | null;
  attempts: number;
}

export interface Email {
  id: string;
  from: string;
  to: string;
  subject: string;
  status: string;
  last_event: string;
  reason: string | null;
  next_attempt_at: string | null;
  message_id: string;
  recipients: Recipient[];
  events: { id: string; type: string; metadata: Record<string, unknown>; created_at: string }[];
  tags: Tag[];
  metadata: Record<string, string>;
  created_at: string;
  sent_at: string | null;
  [member: string]: unknown;
}

export interface SendkitError {
  name: string;
  message: string;
  /** null when no answer came at all. */
  statusCode: number | null;
  /** The member at fault, such as `to[1]`. */
  field?: string;
  retryable?: boolean;
  doc_url?: string;
  [member: string]: unknown;
}

export type Result<T> = { data: T; error: null } | { data: null; error: SendkitError };

export interface Options {
  /** Default: the environment's SENDKIT_BASE_URL, else http://127.0.0.1:8080. */
  baseUrl?: string;
  /** Default: 30000. */
  timeoutMs?: number;
  /** Another fetch, for tests. */
  fetch?: typeof globalThis.fetch;
}

export declare class Sendkit {
  /** @param key Default: the environment's SENDKIT_API_KEY. */
  constructor(key?: string, options?: Options);
  readonly emails: {
    /** Sends an email. Never throws. */
    send(email: SendEmail): Promise<Result<SentEmail>>;
    /** What became of an email, by its id or Message-ID. Never throws. */
    get(id: string): Promise<Result<Email>>;
  };
}

export { Sendkit as SendKit };
export default Sendkit;
