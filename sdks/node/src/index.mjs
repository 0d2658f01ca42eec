const DEFAULT_BASE_URL = 'http://127.0.0.1:8080';
const DEFAULT_TIMEOUT_MS = 30_000;

const environment = (name) => globalThis.process?.env?.[name] || undefined;

/** The API speaks snake_case; these are the only members whose names differ. */
const WIRE_NAMES = {
  replyTo: 'reply_to',
  contentType: 'content_type',
  contentId: 'content_id',
  checkOnly: 'check_only',
};

const failure = (name, message, statusCode = null) => ({
  data: null,
  error: { name, message, statusCode },
});

/** What an HTTP answer means: only a 2xx with a JSON object is a success. */
const outcome = (response, text) => {
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = undefined;
  }
  if (answer === null || typeof answer !== 'object') {
    return failure('application_error', `The answer was no JSON object (HTTP ${response.status}).`, response.status);
  }
  if (response.ok) return { data: answer, error: null };
  return {
    data: null,
    error: {
      ...answer,
      name: answer.name ?? 'application_error',
      message: answer.message ?? `HTTP ${response.status}`,
      statusCode: answer.statusCode ?? response.status,
    },
  };
};

const toBase64 = (bytes) => {
  if (globalThis.Buffer) return Buffer.from(bytes).toString('base64');
  let text = '';
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
};

const toWire = (value) =>
  Object.fromEntries(Object.entries(value).map(([name, member]) => [WIRE_NAMES[name] ?? name, member]));

const attachmentToWire = (attachment) => {
  const wire = toWire(attachment);
  if (wire.content instanceof ArrayBuffer) wire.content = new Uint8Array(wire.content);
  if (ArrayBuffer.isView(wire.content)) wire.content = toBase64(new Uint8Array(
    wire.content.buffer, wire.content.byteOffset, wire.content.byteLength));
  return wire;
};

const emailToWire = (email) => {
  const wire = toWire(email);
  if (Array.isArray(wire.attachments)) wire.attachments = wire.attachments.map(attachmentToWire);
  return wire;
};

class Emails {
  #client;

  constructor(client) {
    this.#client = client;
  }

  /** Sends an email. Never throws: `data` on success, `error` otherwise, the other one null. */
  send(email) {
    return this.#client.request('POST', '/emails', () => emailToWire(email ?? {}));
  }

  /** What became of an email, by its id or Message-ID. */
  get(id) {
    return this.#client.request('GET', `/emails/${encodeURIComponent(String(id))}`);
  }
}

export class Sendkit {
  #key;
  #baseUrl;
  #timeoutMs;
  #fetch;

  /**
   * @param key API key; default: the environment's SENDKIT_API_KEY.
   * @param options baseUrl (default: SENDKIT_BASE_URL, else http://127.0.0.1:8080), timeoutMs, fetch.
   */
  constructor(key, options = {}) {
    // A key read from a file ends with a line break, which no header can carry.
    this.#key = String(key ?? environment('SENDKIT_API_KEY') ?? '').trim();
    if (!this.#key) {
      throw new Error("Missing API key. Pass it to the constructor: new Sendkit('sk_live_...')");
    }
    this.#baseUrl = (options.baseUrl ?? environment('SENDKIT_BASE_URL') ?? DEFAULT_BASE_URL).replace(/\/+$/, '');
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#fetch = options.fetch ?? ((...args) => globalThis.fetch(...args));
    this.emails = new Emails(this);
  }

  /** One call of the API. `body` is a function, so that what cannot be encoded becomes an error, too. */
  async request(method, path, body) {
    const headers = { Authorization: `Bearer ${this.#key}`, Accept: 'application/json' };
    const init = { method, headers };
    if (body) {
      headers['Content-Type'] = 'application/json';
      try {
        init.body = JSON.stringify(body());
      } catch (reason) {
        return failure('validation_error', `The email cannot be written as JSON: ${reason?.message ?? reason}`);
      }
    }
    let response;
    let text;
    try {
      init.signal = AbortSignal.timeout(this.#timeoutMs);
      response = await this.#fetch(this.#baseUrl + path, init);
      text = await response.text();
    } catch (reason) {
      const cause = reason?.cause?.message ? ` (${reason.cause.message})` : '';
      return failure('application_error', `No answer from ${this.#baseUrl}: ${reason?.message ?? reason}${cause}`);
    }
    return outcome(response, text);
  }
}

export { Sendkit as SendKit };
export default Sendkit;
