/**
 * Iris Seal v1: requests that only the chosen node can open, from a browser or from Node.
 *
 * `chat` does everything: it checks the roster of nodes, chooses one, seals to its certified key
 * and yields the answer as it opens. The parts that it is made of are exported, too. The format is
 * described in the documentation of the Rust module `iris_crypto::seal`, whose names are used here.
 *
 * Everything is WebCrypto's (X25519, Ed25519, HMAC, AES-GCM, SHA-256) and nothing is depended on.
 * Whatever is refused throws an `IrisSealError` whose `code` says why. Integers of 64 bits are
 * refused above 2^53 - 1, which no honest time, serial or count reaches.
 *
 * @module iris-seal
 */

/** The media type of a wire request and of the records of an answer. */
export const MEDIA_TYPE = "application/vnd.iris.sealed";
/** The longest wire request, in bytes. */
export const MAX_REQUEST = 28 * 2 ** 20;
/** The longest time that a request may be good for, in milliseconds. */
export const MAX_TTL = 600_000;
/** The most bytes of a record after its length. */
export const MAX_RECORD = 66_000;
/** Most frames of one answer. */
export const MAX_FRAMES = 2 ** 20;
/** Longest answer, in bytes of its pieces' data. */
export const MAX_ANSWER = 64 * 2 ** 20;
/** The bytes of a frame's text in shapes that hide lengths. */
export const SHAPED_FRAME = 256;
/** The longest lifetime of a certificate, in seconds. */
export const MAX_LIFETIME = 24 * 3600;
/** How far two clocks may differ, in seconds. */
export const MAX_SKEW = 300;
/** The oldest roster that is believed, in seconds. */
export const MAX_ROSTER_AGE = 600;
/** How many nodes may refuse in a row, although the roster calls them free. */
export const MAX_REFUSALS = 5;

/** What the key of a certificate is used for. */
export const Role = Object.freeze({ Node: 1, Coordinator: 2 });
/** What lengths and times of an answer may tell: everything, bursts, its class of duration. */
export const Shape = Object.freeze({ Off: 0, Batched: 1, Paced: 2 });
/** What the body of a prompt is. */
export const Operation = Object.freeze({ Chat: 1, Completion: 2 });
/** How an answer ended, in a receipt. */
export const Outcome = Object.freeze({ Complete: 1, Failed: 2 });
/** What a record is. */
export const RecordKind = Object.freeze({
  KeepAlive: 0,
  Opening: 1,
  Frame: 2,
  Receipt: 3,
  Failure: 4,
});

const PieceKind = Object.freeze({ Text: 1, Whole: 2, Fault: 3, End: 4, Json: 5, Receipt: 6 });
const MORE = 0x80;
const TAG_LEN = 16;
const MAX_PADDED = 256 * 110_218;
const MAX_REASON = 64;

/**
 * Why something was refused. Codes are the names of the Rust errors' variants:
 *
 * - engine: `Unsupported`;
 * - certificates: `Malformed`, `UnknownSuite`, `BadSignature`, `WrongRole`, `WrongOrigin`,
 *   `BadLifetime`, `NotYetValid`, `Expired`, `OldSerial`, `WeakSealingKey`, `WrongNode`;
 * - sealing: `Malformed`, `TooLong`, `WeakKey`;
 * - answers: `Rejected`, `WrongNode`, `OutOfPlace`, `Malformed`, `TooLong`, `RecordTooLong`,
 *   `Truncated`, `Failed` (with `error`), `Over`, and, when the answer itself is complete,
 *   `ReceiptMissing` and `ReceiptDisputed` (with `reason`);
 * - roster and log: `Malformed`, `WrongCoordinator`, `BadSignature`, `NotInLog`, `TooLarge`,
 *   `BadInclusion`, `Stale`, `ClockSkew`, and `Fork` (with `evidence`, which is worth keeping);
 * - choosing and asking: `NoNode`, `Busy`, `SteeringSuspected`, `Unreachable`, and `Refused` (with
 *   `status` and the coordinator's `error`).
 */
export class IrisSealError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {object} [details] further members, and `cause`
   */
  constructor(code, message, { cause, ...details } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "IrisSealError";
    /** @type {string} */
    this.code = code;
    Object.assign(this, details);
  }
}

// ------------------------------------------------------------------------------------ certificates

const CERTIFICATE_MAGIC = ascii("iris/keycert/v1\0");
const MAX_EXTENSIONS = 1024;
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
const SUITE_IDS = [0x0020, 0x0001, 0x0002];

/** A certificate that passed every check: what can be sealed to. Made by `verifyCertificate`. */
export class VerifiedCertificate {
  /** @hidden */
  constructor(claims, proof) {
    if (proof !== VERIFIED) throw new TypeError("use verifyCertificate");
    /** @type {string} the node's identity, in hexadecimal */
    this.identity = claims.identity;
    /** @type {string} the node's id */
    this.nodeId = claims.nodeId;
    /** @type {Uint8Array} the key to seal to */
    this.sealingKey = claims.sealingKey;
    /** @type {number} seconds since the Unix epoch */
    this.notBefore = claims.notBefore;
    /** @type {number} seconds since the Unix epoch */
    this.notAfter = claims.notAfter;
    /** @type {number} grows with every certificate of an identity */
    this.serial = claims.serial;
    /** @type {string} the coordinator in whose network it holds */
    this.origin = claims.origin;
    /** @type {Uint8Array} the SHA-256 by which requests name it */
    this.hash = claims.hash;
    Object.freeze(this);
  }
}

const VERIFIED = Symbol("verified");

/**
 * Reads a certificate and checks everything that can be checked.
 *
 * @param {Uint8Array | string} encoded bytes, or unpadded base64url
 * @param {object} expected
 * @param {string} expected.origin the coordinator: the text of its identity
 * @param {number} [expected.role]
 * @param {number} [expected.now] milliseconds since the Unix epoch
 * @param {number} [expected.minSerial] the highest serial seen of this identity before
 * @returns {Promise<VerifiedCertificate>}
 */
export async function verifyCertificate(encoded, expected) {
  const { origin, role = Role.Node, now = Date.now(), minSerial = 0 } = expected;
  const bytes = typeof encoded === "string" ? fromBase64url(encoded) : encoded;
  const claims = decodeCertificate(bytes);
  const said = bytes.subarray(0, bytes.length - 64);
  if (!(await isSigned(claims.identityKey, said, bytes.subarray(bytes.length - 64)))) {
    throw new IrisSealError("BadSignature", "the certificate's signature does not hold");
  }
  if (claims.role !== role) {
    throw new IrisSealError("WrongRole", `the certificate is for the role ${claims.role}`);
  }
  if (claims.origin !== origin) {
    throw new IrisSealError("WrongOrigin", `the certificate is for ${claims.origin}`);
  }
  const { notBefore, notAfter, serial } = claims;
  if (notAfter <= notBefore || notAfter - notBefore > MAX_LIFETIME) {
    throw new IrisSealError("BadLifetime", "the certificate must last between 1 s and 24 hours");
  }
  if (notBefore * 1000 > now + MAX_SKEW * 1000) {
    throw new IrisSealError("NotYetValid", "the certificate is from the future: check the clocks");
  }
  if (now > (notAfter + MAX_SKEW) * 1000) {
    throw new IrisSealError("Expired", "the certificate has ended, or a clock is wrong");
  }
  if (serial < minSerial) {
    const message = `the certificate's serial ${serial} is older than ${minSerial}, seen before`;
    throw new IrisSealError("OldSerial", message);
  }
  // With a key of small order every agreement gives zero, whatever the other key.
  const any = await importPrivate("X25519", new Uint8Array(32).fill(0x55), ["deriveBits"]);
  if (!(await agree(any, claims.sealingKey))) {
    throw new IrisSealError("WeakSealingKey", "the certificate's sealing key is of small order");
  }
  const identity = toHex(claims.identityKey);
  const nodeId = await nodeIdOf(claims.identityKey);
  const hash = await sha256(said);
  return new VerifiedCertificate({ ...claims, identity, nodeId, hash }, VERIFIED);
}

function decodeCertificate(bytes) {
  const fields = new Fields(bytes, "not a key certificate");
  fields.magic(CERTIFICATE_MAGIC);
  const role = fields.u8();
  fields.check(role === Role.Node || role === Role.Coordinator, "an unknown role");
  const identityKey = fields.take(32);
  fields.check(isUsablePoint(identityKey), "not an Ed25519 key");
  const suite = [fields.u16(), fields.u16(), fields.u16()];
  if (suite.some((id, place) => id !== SUITE_IDS[place])) {
    throw new IrisSealError("UnknownSuite", `the certificate's suite ${suite} is not supported`);
  }
  const sealingKey = fields.take(32);
  const [notBefore, notAfter, serial] = [fields.u64(), fields.u64(), fields.u64()];
  const name = fields.lp();
  const isPlain = name.every((byte) => byte > 0x20 && byte < 0x7f);
  fields.check(name.length >= 1 && name.length <= 255 && isPlain, "not an origin");
  fields.check(fields.lp().length <= MAX_EXTENSIONS, "too many extensions");
  fields.check(fields.rest().length === 64, "not followed by exactly one signature");
  const origin = String.fromCharCode(...name);
  return { role, identityKey, sealingKey, notBefore, notAfter, serial, origin };
}

/** Returns the id of the node that holds an identity. */
async function nodeIdOf(identityKey) {
  const hash = await sha256(concat(ascii("iris/node-id/v1"), identityKey));
  let bits = "";
  for (const byte of hash.subarray(0, 17)) bits += byte.toString(2).padStart(8, "0");
  const digit = (at) => "abcdefghijklmnopqrstuvwxyz234567"[parseInt(bits.slice(at, at + 5), 2)];
  return Array.from({ length: 26 }, (_, place) => digit(place * 5)).join("");
}

// ---------------------------------------------------------------------------------------- requests

const REQUEST_MAGIC = ascii("iris/req/v1\0");
const TO_NODE = 1;

/**
 * Seals a prompt to the node of a certificate, under a new random task.
 *
 * Each sealing is good for one node and one attempt: for another, seal again.
 *
 * @param {VerifiedCertificate} certificate
 * @param {object} terms
 * @param {string} terms.model
 * @param {number} [terms.issuedAt] milliseconds since the Unix epoch
 * @param {number} [terms.ttl] milliseconds, at most `MAX_TTL`
 * @param {number} [terms.maxTokens] 0 where the prompt names no limit
 * @param {number} [terms.shape] one of `Shape`; `Paced` unless said otherwise
 * @param {object} prompt
 * @param {string | Uint8Array | object} prompt.body the OpenAI request
 * @param {boolean} [prompt.stream] whether the answer is wanted as it is written
 * @param {number} [prompt.operation] one of `Operation`; `Chat` unless said otherwise
 * @returns {Promise<{wire: Uint8Array, task: Uint8Array, opener: AnswerOpener}>} the bytes to send,
 *   and what opens the answer
 */
export async function seal(certificate, terms, prompt) {
  const drawn = await supported("X25519", () =>
    crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]),
  );
  const encapsulated = new Uint8Array(await crypto.subtle.exportKey("raw", drawn.publicKey));
  const ephemeral = { secret: drawn.privateKey, encapsulated };
  return sealWith(certificate, terms, prompt, random(16), ephemeral);
}

async function sealWith(certificate, terms, prompt, task, ephemeral) {
  if (!(certificate instanceof VerifiedCertificate)) {
    throw new TypeError("only a certificate from verifyCertificate can be sealed to");
  }
  const { shape = Shape.Paced } = terms;
  const header = encodeHeader(certificate, terms, task, shape);
  const text = padded(prompt);
  const { encapsulated } = ephemeral;
  const context = await setupSender(ephemeral, certificate.sealingKey, header);
  const aad = ascii("req");
  const sealed = await encrypt(context.key, context.baseNonce, aad, text);
  const wire = concat(header, encapsulated, u32(sealed.length), sealed);
  if (wire.length > MAX_REQUEST) throw new IrisSealError("TooLong", "too long to be sealed");
  const secret = await exported(context.exporter, ascii("iris/resp/v1"));
  const opener = new AnswerOpener({
    secret,
    encapsulated,
    identity: fromHex(certificate.identity),
    shape,
    task,
    certificate: certificate.hash,
    request: await sha256(wire),
  });
  return { wire, task, opener };
}

function encodeHeader(certificate, terms, task, shape) {
  const { model, issuedAt = Date.now(), ttl = MAX_TTL, maxTokens = 0 } = terms;
  const name = utf8(model);
  const isValid = [
    name.length >= 1 && name.length <= 200,
    Number.isSafeInteger(issuedAt) && issuedAt >= 0,
    Number.isInteger(ttl) && ttl >= 0,
    Number.isInteger(maxTokens) && maxTokens >= 0 && maxTokens < 2 ** 32,
    Object.values(Shape).includes(shape),
  ];
  if (isValid.includes(false)) throw new IrisSealError("Malformed", "not the terms of a request");
  return concat(
    REQUEST_MAGIC,
    [TO_NODE],
    task,
    certificate.hash,
    u16(name.length),
    name,
    u64(issuedAt),
    u32(Math.min(ttl, MAX_TTL)),
    u32(maxTokens),
    [shape],
  );
}

/** Returns a prompt's bytes, padded. */
function padded({ body, stream = false, operation = Operation.Chat }) {
  if (!Object.values(Operation).includes(operation)) {
    throw new IrisSealError("Malformed", "an unknown operation");
  }
  let text = body;
  if (!(text instanceof Uint8Array)) {
    text = utf8(typeof body === "string" ? body : JSON.stringify(body));
  }
  const size = paddedLength(text.length + 3);
  if (size === undefined) throw new IrisSealError("TooLong", "too long to be sealed");
  const out = new Uint8Array(size);
  out.set([operation, stream ? 1 : 0]);
  out.set(text, 2);
  out[text.length + 2] = 0x80;
  return out;
}

/** Returns the size that `length` bytes are padded to. */
function paddedLength(length) {
  for (let octave = 1024; octave <= MAX_PADDED; octave *= 2) {
    for (const root of [65536, 77936, 92682, 110_218]) {
      const size = Math.ceil(Math.ceil((octave * root) / 65536) / 64) * 64;
      if (size >= length && size <= MAX_PADDED) return size;
    }
  }
  return undefined;
}

// ----------------------------------------------------------------------------------------- records

/** Takes bytes in as they arrive, and gives records out. */
export class RecordReader {
  #bytes = new Uint8Array(0);

  /** Takes in what arrived. @param {Uint8Array} bytes */
  push(bytes) {
    this.#bytes = concat(this.#bytes, bytes);
  }

  /**
   * Returns the next record that is complete.
   * @returns {{kind: number, payload: Uint8Array} | undefined}
   */
  pop() {
    if (this.#bytes.length < 4) return undefined;
    const length = new DataView(this.#bytes.buffer, this.#bytes.byteOffset).getUint32(0);
    if (length < 1 || length > MAX_RECORD) {
      const message = "a record of the answer has no length that is allowed";
      throw new IrisSealError("RecordTooLong", message);
    }
    if (this.#bytes.length < 4 + length) return undefined;
    const record = this.#bytes.slice(4, 4 + length);
    this.#bytes = this.#bytes.subarray(4 + length);
    return { kind: record[0], payload: record.subarray(1) };
  }

  /** Whether nothing of a further record has arrived. */
  get isEmpty() {
    return this.#bytes.length === 0;
  }
}

// ----------------------------------------------------------------------------------------- answers

const RECEIPT_MAGIC = ascii("iris/receipt/v1\0");
const BACKEND_ERRORS = [
  "rejected",
  "model_not_found",
  "busy",
  "unavailable",
  "failed",
  "malformed",
  "timeout",
];

/**
 * @typedef {{prompt_tokens: number, completion_tokens: number}} Usage
 *
 * @typedef {object} Receipt what the node signed; bytes are in hexadecimal
 * @property {string} task
 * @property {string} certificate
 * @property {string} request
 * @property {string} nonce
 * @property {string} chain
 * @property {Usage} usage rounded up to multiples of 64
 * @property {string} modelDigest
 * @property {string} logprobRoot
 * @property {number} outcome one of `Outcome`
 * @property {Uint8Array} encoded with its signature: the evidence
 *
 * @typedef {{type: "opened"} | {type: "text", text: string} | {type: "json", json: string}
 *   | {type: "whole", json: string} | {type: "finished", reason: string, usage: Usage}
 *   | {type: "failed", error: {kind: string, status?: number, code?: string | null,
 *     param?: string | null, message?: string}}
 *   | {type: "receipt", receipt: Receipt}} AnswerEvent
 */

/**
 * Opens the answer to one request: takes records in, in the order in which they arrive.
 *
 * Success is the event `finished` and nothing else. After an error nothing is opened any more; what
 * came before it is a part of the answer at best. When the records end, call `close`. Made by
 * `seal`.
 */
export class AnswerOpener {
  #request;
  #stage = "Waiting";
  #turn = Promise.resolve();
  #keys;
  #nonce;
  #next = 0;
  #chain = new Uint8Array(32);
  #content = [];
  #length = 0;
  #begun;
  #ended;
  #digest;

  /** @hidden */
  constructor(request) {
    this.#request = request;
  }

  /**
   * How far the answer has come.
   * @returns {"Waiting" | "Open" | "Ended" | "Receipted" | "Broken"}
   */
  get progress() {
    if (this.#stage === "Open") return this.#ended ? "Ended" : "Open";
    return this.#stage === "Last" ? "Ended" : this.#stage;
  }

  /**
   * Takes the next record in, and returns what it tells.
   *
   * Keep-alives and the relay's advice say nothing of the answer and are skipped.
   *
   * @param {{kind: number, payload: Uint8Array}} record
   * @returns {Promise<AnswerEvent[]>}
   */
  handleRecord(record) {
    // Records count in the order of the calls, whoever waits for them or does not.
    const handled = this.#turn.then(() => this.#handle(record));
    this.#turn = handled.catch(() => {});
    return handled;
  }

  /** Throws unless the answer is complete and its receipt has come. */
  close() {
    switch (this.progress) {
      case "Receipted":
        return;
      case "Ended":
        throw new IrisSealError("ReceiptMissing", "the node's receipt is missing");
      case "Broken":
        throw over();
      default:
        throw new IrisSealError("Truncated", "the answer was cut off before its end");
    }
  }

  async #handle({ kind, payload }) {
    try {
      switch (kind) {
        case RecordKind.Opening:
          return await this.#handleOpening(payload);
        case RecordKind.Frame:
          return await this.#handleFrame(payload);
        case RecordKind.Receipt:
          return await this.#handleReceipt(payload);
        default:
          return [];
      }
    } catch (error) {
      this.#stage = "Broken";
      throw error;
    }
  }

  #demand(stage, what) {
    if (this.#stage === "Broken") throw over();
    if (this.#stage !== stage) throw outOfPlace(what);
  }

  async #handleOpening(payload) {
    this.#demand("Waiting", "an opening");
    if (payload.length < 32) throw malformed("a short opening");
    const { encapsulated, secret } = this.#request;
    const nonce = payload.slice(0, 32);
    const keys = await answerKeys(encapsulated, nonce, secret);
    if (!equal(keys.commit, payload.subarray(32))) {
      throw new IrisSealError("WrongNode", "the answer is not from the node that was asked");
    }
    this.#keys = keys;
    this.#nonce = nonce;
    this.#stage = "Open";
    return [{ type: "opened" }];
  }

  async #handleFrame(sealed) {
    this.#demand("Open", "a frame");
    if (this.#next >= MAX_FRAMES) throw tooLong();
    const { isLast, text } = await this.#open(sealed);
    const isShaped = this.#request.shape !== Shape.Off;
    // Without padding there is no other way to say nothing than to be empty.
    const fits = isShaped ? text.length === SHAPED_FRAME : text[0] !== 0;
    if (!fits) throw malformed("a frame has not its shape's length");
    if (isLast) {
      const [piece, ...others] = readPieces(text);
      const isHash = piece?.kind === PieceKind.Receipt && !piece.more && piece.data.length === 32;
      if (!isHash || others.length > 0) throw malformed("the last frame is not one");
      this.#digest = piece.data;
      this.#stage = "Last";
      return [];
    }
    const events = [];
    for (const piece of readPieces(text)) {
      const event = await this.#take(piece);
      if (event) events.push(event);
    }
    return events;
  }

  /** Opens the next frame. The last one is known by opening as that, and comes behind the end. */
  async #open(sealed) {
    const { key, nonce } = this.#keys;
    const number = this.#next;
    const attempt = (flag) =>
      decrypt(key, numbered(nonce, number), concat([flag], u64(number)), sealed);
    let text = await attempt(0);
    const isLast = text === undefined && this.#ended !== undefined;
    if (isLast) text = await attempt(1);
    if (text === undefined) {
      const message = "a part of the answer was altered, moved or left out on the way";
      throw new IrisSealError("Rejected", message);
    }
    if (!isLast) this.#chain = await sha256(concat(this.#chain, sealed));
    this.#next += 1;
    return { isLast, text };
  }

  /** Takes a piece in and returns what it completes. */
  async #take({ kind, more, data }) {
    if (this.#ended) throw outOfPlace("a piece behind the end");
    this.#length += data.length;
    if (this.#length > MAX_ANSWER) throw tooLong();
    const content = [PieceKind.Text, PieceKind.Whole, PieceKind.Json];
    if (content.includes(kind)) this.#content.push(data);
    const begun = this.#begun;
    if (begun && begun.kind !== kind) throw outOfPlace("a piece of another kind");
    const parts = begun?.parts ?? [];
    parts.push(data);
    this.#begun = more ? { kind, parts } : undefined;
    return more ? undefined : this.#complete(kind, joined(parts));
  }

  async #complete(kind, data) {
    switch (kind) {
      case PieceKind.Text:
        return { type: "text", text: fromUtf8(data, "text is not UTF-8") };
      case PieceKind.Json:
        return { type: "json", json: fromUtf8(data, "JSON is not UTF-8") };
      case PieceKind.Whole:
        return { type: "whole", json: fromUtf8(data, "JSON is not UTF-8") };
      case PieceKind.Fault: {
        const error = readFault(data);
        this.#ended = { outcome: Outcome.Failed };
        return { type: "failed", error };
      }
      case PieceKind.End: {
        const { usage, reason, digest } = readEnd(data);
        if (!equal(digest, await sha256(joined(this.#content)))) {
          throw malformed("the end is of another answer");
        }
        this.#content = [];
        this.#ended = { outcome: Outcome.Complete, usage };
        return { type: "finished", reason, usage };
      }
      default:
        throw outOfPlace("a receipt's hash");
    }
  }

  async #handleReceipt(payload) {
    this.#demand("Last", "a receipt");
    const { task, certificate, request, identity } = this.#request;
    const receipt = decodeReceipt(payload);
    const said = payload.subarray(0, payload.length - 64);
    if (!(await isSigned(identity, said, payload.subarray(payload.length - 64)))) {
      throw disputed("BadSignature", "its signature does not hold");
    }
    const { outcome, usage } = this.#ended;
    const fits = {
      task: equal(receipt.task, task),
      certificate: equal(receipt.certificate, certificate),
      request: equal(receipt.request, request),
      answer: equal(receipt.nonce, this.#nonce),
      content: equal(receipt.chain, this.#chain),
      outcome: receipt.outcome === outcome,
      usage: outcome === Outcome.Failed || sameUsage(receipt.usage, coarse(usage)),
      "receipt than the answer's own": equal(await sha256(said), this.#digest),
    };
    const wrong = Object.keys(fits).find((what) => !fits[what]);
    if (wrong) throw disputed("Mismatch", `another ${wrong}`);
    this.#stage = "Receipted";
    return [{ type: "receipt", receipt: shownReceipt(receipt, payload) }];
  }
}

/** The response derivation of RFC 9458, section 4.4, and a commitment. */
async function answerKeys(encapsulated, nonce, secret) {
  const prk = await extract(concat(encapsulated, nonce), secret);
  const [key, baseNonce, commit] = await Promise.all([
    expand(prk, ascii("key"), 32),
    expand(prk, ascii("nonce"), 12),
    expand(prk, ascii("commit"), 32),
  ]);
  return { key: await importAes(key), nonce: baseNonce, commit };
}

/** Reads the pieces of a frame's text. */
function* readPieces(text) {
  let at = 0;
  while (at < text.length) {
    const kind = text[at] & ~MORE;
    if (text[at] === 0) {
      if (text.subarray(at).some((byte) => byte !== 0)) {
        throw malformed("something follows the pieces");
      }
      return;
    }
    if (kind < PieceKind.Text || kind > PieceKind.Receipt) {
      throw malformed("a piece has an unknown kind");
    }
    const length = text.length < at + 3 ? Infinity : text[at + 1] * 256 + text[at + 2];
    if (text.length < at + 3 + length) throw malformed("a piece is cut off");
    if (length === 0) throw malformed("a piece is empty");
    yield { kind, more: (text[at] & MORE) !== 0, data: text.slice(at + 3, at + 3 + length) };
    at += 3 + length;
  }
}

function readEnd(data) {
  if (data.length < 40 || data.length > 40 + MAX_REASON) throw malformed("the end is not one");
  const view = new DataView(data.buffer, data.byteOffset);
  const usage = { prompt_tokens: view.getUint32(0), completion_tokens: view.getUint32(4) };
  const reason = fromUtf8(data.subarray(40), "the end is not one");
  return { usage, reason, digest: data.subarray(8, 40) };
}

function readFault(data) {
  let error;
  try {
    error = JSON.parse(fromUtf8(data, "the failure is not one"));
  } catch {
    throw malformed("the failure is not one");
  }
  const isText = (text) => typeof text === "string";
  const isWord = (text) => text === undefined || text === null || isText(text);
  const { kind, status, code, param, message } = error ?? {};
  const isStatus = Number.isInteger(status) && status >= 0 && status < 65536;
  const isWhole = isStatus && isWord(code) && isWord(param) && isText(message);
  if (!BACKEND_ERRORS.includes(kind) || (kind === "rejected" && !isWhole)) {
    throw malformed("the failure is not one");
  }
  return error;
}

function decodeReceipt(bytes) {
  try {
    const fields = new Fields(bytes, "not a receipt");
    fields.magic(RECEIPT_MAGIC);
    const receipt = {
      task: fields.take(16),
      certificate: fields.take(32),
      request: fields.take(32),
      nonce: fields.take(32),
      chain: fields.take(32),
      usage: { prompt_tokens: fields.u32(), completion_tokens: fields.u32() },
      modelDigest: fields.take(32),
      logprobRoot: fields.take(32),
      outcome: fields.u8(),
    };
    fields.check(Object.values(Outcome).includes(receipt.outcome), "an unknown outcome");
    fields.check(sameUsage(receipt.usage, coarse(receipt.usage)), "exact usage");
    fields.check(fields.rest().length === 64, "not followed by exactly one signature");
    return receipt;
  } catch (cause) {
    throw disputed("Malformed", "the bytes are no receipt", cause);
  }
}

/**
 * Reads a receipt, and checks that the node signed it whose certificate this is: any that the node
 * ever had, since its identity stays.
 *
 * @param {Uint8Array | string} encoded bytes, or unpadded base64url
 * @param {Uint8Array | string} certificate bytes, or unpadded base64url
 * @returns {Promise<{nodeId: string, receipt: Receipt}>}
 */
export async function verifyReceipt(encoded, certificate) {
  const [bytes, proof] = [encoded, certificate].map((one) =>
    typeof one === "string" ? fromBase64url(one) : one,
  );
  const receipt = decodeReceipt(bytes);
  const { identityKey } = decodeCertificate(proof);
  const said = bytes.subarray(0, bytes.length - 64);
  if (!(await isSigned(identityKey, said, bytes.subarray(bytes.length - 64)))) {
    throw disputed("BadSignature", "the node did not sign it");
  }
  return { nodeId: await nodeIdOf(identityKey), receipt: shownReceipt(receipt, bytes) };
}

/** Writes a receipt's bytes in hexadecimal. */
function shownReceipt(receipt, encoded) {
  const shown = Object.entries(receipt).map(([name, value]) => [
    name,
    value instanceof Uint8Array ? toHex(value) : value,
  ]);
  return { ...Object.fromEntries(shown), encoded };
}

/** Rounds usage up to multiples of 64 tokens. */
function coarse({ prompt_tokens, completion_tokens }) {
  const round = (tokens) => Math.min(Math.ceil(tokens / 64) * 64, 2 ** 32 - 64);
  return { prompt_tokens: round(prompt_tokens), completion_tokens: round(completion_tokens) };
}

function sameUsage(a, b) {
  return a.prompt_tokens === b.prompt_tokens && a.completion_tokens === b.completion_tokens;
}

const malformed = (what) =>
  new IrisSealError("Malformed", `a part of the answer cannot be read: ${what}`);
const outOfPlace = (what) =>
  new IrisSealError("OutOfPlace", `${what} came out of place in the answer`);
const tooLong = () => new IrisSealError("TooLong", "the answer is too long");
const over = () => new IrisSealError("Over", "the answer had failed before");
const disputed = (reason, what, cause) => {
  const message = `the answer is complete, but its receipt is disputed: ${what}`;
  return new IrisSealError("ReceiptDisputed", message, { reason, cause });
};

// ------------------------------------------------------------------------------------- log, roster

const MAX_PROOF_LEN = 64;
const MAX_CHECKPOINT_LEN = 8192;
const LOG_ORIGIN = "iris-log/";
// Of Ed25519, among the algorithms of signed notes.
const NOTE_ED25519 = 1;
const MAX_NOTE_SIGNATURES = 16;

/**
 * Reads a signed checkpoint and checks that `coordinator` signed it.
 *
 * @param {string} text
 * @param {string} [coordinator] an identity in hexadecimal; the one that it names if left out
 * @returns {Promise<{coordinator: string, size: number, root: Uint8Array}>}
 */
export async function verifyCheckpoint(text, coordinator) {
  const wrong = (what) => new IrisSealError("Malformed", `not a checkpoint: ${what}`);
  const parts = text.length <= MAX_CHECKPOINT_LEN ? text.split("\n\n") : [];
  if (parts.length !== 2) throw wrong("no signed note");
  const [origin, sizeText, rootText, ...more] = parts[0].split("\n");
  const identity = origin.startsWith(LOG_ORIGIN) ? origin.slice(LOG_ORIGIN.length) : "";
  const size = Number(sizeText);
  const root = fromBase64(rootText ?? "");
  if (!/^[0-9a-f]{64}$/.test(identity) || !isUsablePoint(fromHex(identity))) throw wrong("origin");
  if (!Number.isSafeInteger(size) || String(size) !== sizeText) throw wrong("size");
  if (root.length !== 32 || more.length > 0) throw wrong("root");
  const signature = await ownSignature(parts[1], origin, fromHex(identity));
  if (!signature) throw wrong("signatures");
  if (coordinator !== undefined && coordinator !== identity) {
    const message = `another coordinator answers than the one that is trusted: ${identity}`;
    throw new IrisSealError("WrongCoordinator", message);
  }
  if (!(await isSigned(fromHex(identity), utf8(`${parts[0]}\n`), signature))) {
    throw new IrisSealError("BadSignature", "the checkpoint's signature does not hold");
  }
  return { coordinator: identity, size, root };
}

/** Returns the coordinator's signature of a note; those of witnesses may follow it. */
async function ownSignature(text, origin, identityKey) {
  const lines = text.split("\n");
  if (lines.pop() !== "" || lines.length < 1 || lines.length > MAX_NOTE_SIGNATURES) return undefined;
  const read = lines.map((line) => /^\u2014 ([^\s+]+) ([A-Za-z0-9+/]+=*)$/u.exec(line));
  if (read.includes(null)) return undefined;
  const signatures = read.map(([, name, signed]) => ({ name, signed: fromBase64(signed) }));
  const [own, ...witnesses] = signatures;
  const named = concat(utf8(`${origin}\n`), [NOTE_ED25519], identityKey);
  const keyId = (await sha256(named)).subarray(0, 4);
  const isOwn = own.name === origin && own.signed.length === 68;
  if (!isOwn || !equal(own.signed.subarray(0, 4), keyId)) return undefined;
  return witnesses.every(({ signed }) => signed.length >= 5) ? own.signed.subarray(4) : undefined;
}

/** Returns the hash of an entry's bytes in the tree. @param {Uint8Array} entry */
export const leafHash = (entry) => sha256(concat([0], entry));
const parent = (left, right) => sha256(concat([1], left, right));

/** Returns the bytes of a roster's entry in the log. @param {string} roster its text */
export const rosterEntry = async (roster) =>
  concat(ascii("iris/log/roster/v1\0"), await sha256(utf8(roster)));

/**
 * Checks that the entry whose hash is `leaf` is at `index` in the log of a checkpoint.
 *
 * @param {Uint8Array} leaf
 * @param {number} index
 * @param {{size: number, root: Uint8Array}} checkpoint
 * @param {Uint8Array[]} proof
 */
export async function verifyInclusion(leaf, index, { size, root }, proof) {
  checkSize(size);
  if (!Number.isSafeInteger(index) || index < 0 || index >= size) {
    throw new IrisSealError("NotInLog", `a log of ${size} entries has no entry ${index}`);
  }
  const bad = new IrisSealError("BadInclusion", "the proof does not show the entry in the log");
  if (proof.length > MAX_PROOF_LEN) throw bad;
  const path = { node: index, last: size - 1 };
  let hash = leaf;
  for (const sibling of proof) {
    const side = step(path);
    if (!side) throw bad;
    hash = side === "left" ? await parent(sibling, hash) : await parent(hash, sibling);
  }
  if (path.last !== 0 || !equal(hash, root)) throw bad;
}

/**
 * Checks that the log of `next` begins with all entries of the log of `old`.
 *
 * @param {{size: number, root: Uint8Array}} old
 * @param {{size: number, root: Uint8Array}} next
 * @param {Uint8Array[]} proof empty where the sizes are the same, or `old` has none
 */
export async function verifyConsistency(old, next, proof) {
  checkSize(next.size);
  if (old.size > next.size) {
    throw new IrisSealError("Shrunk", `the log shrank from ${old.size} to ${next.size} entries`);
  }
  if (old.size === next.size && !equal(old.root, next.root)) {
    throw new IrisSealError("Fork", `there are two different logs of ${old.size} entries`);
  }
  const bad = new IrisSealError("BadConsistency", "the proof does not show that the log only grew");
  const empty = await sha256(new Uint8Array(0));
  for (const { size, root } of [old, next]) {
    if (size === 0 && !equal(root, empty)) throw bad;
  }
  if (old.size === 0 || old.size === next.size) {
    if (proof.length > 0) throw bad;
    return;
  }
  // The proof starts at the largest complete subtree that ends where the old log does. Its root is
  // not repeated when that is the old log itself.
  const [start, ...siblings] = isPowerOfTwo(old.size) ? [old.root, ...proof] : proof;
  if (!start || proof.length > MAX_PROOF_LEN) throw bad;
  const path = { node: old.size - 1, last: next.size - 1 };
  while (path.node % 2 === 1) up(path);
  let [oldRoot, newRoot] = [start, start];
  for (const sibling of siblings) {
    const side = step(path);
    if (!side) throw bad;
    if (side === "left") {
      oldRoot = await parent(sibling, oldRoot);
      newRoot = await parent(sibling, newRoot);
    } else {
      newRoot = await parent(newRoot, sibling);
    }
  }
  if (path.last !== 0 || !equal(oldRoot, old.root) || !equal(newRoot, next.root)) throw bad;
}

function checkSize(size) {
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new IrisSealError("TooLarge", `a log cannot have ${size} entries`);
  }
}

function isPowerOfTwo(size) {
  while (size > 1 && size % 2 === 0) size /= 2;
  return size === 1;
}

/** Goes up past one sibling and says on which side it is; `undefined` at the root. */
function step(path) {
  if (path.last === 0) return undefined;
  const isLeft = path.node % 2 === 1 || path.node === path.last;
  // The last node of a row that has no sibling is the last of the next row too.
  if (isLeft) while (path.node % 2 === 0 && path.node !== 0) up(path);
  up(path);
  return isLeft ? "left" : "right";
}

// Not by shifting, which is for 32 bits only.
function up(path) {
  path.node = Math.floor(path.node / 2);
  path.last = Math.floor(path.last / 2);
}

/**
 * @typedef {object} Trust what a client believes of one coordinator: JSON, to be kept by the caller
 *   as it is, in the form of the trust file of `iris`
 * @property {"iris-trust/v1"} version
 * @property {string | null} coordinator its identity, in hexadecimal
 * @property {string | null} checkpoint the last one of its log
 * @property {string[]} own ids of one's own nodes
 * @property {Record<string, {first_seen: number, serial: number}>} nodes
 * @property {Record<string, {node: string, since: number, listed: number}[]>} guards by model
 */

/**
 * Makes the trust of somebody who has seen nothing: the first coordinator that answers is believed,
 * unless its identity is given.
 *
 * @param {{coordinator?: string, own?: string[]}} [known]
 * @returns {Trust}
 */
export function createTrust({ coordinator = null, own = [] } = {}) {
  return { version: "iris-trust/v1", coordinator, checkpoint: null, own, nodes: {}, guards: {} };
}

/**
 * Checks a signed roster: who signed it, that it is in the log, that the log only grew since the
 * last checkpoint in `trust`, and its age. Only a believed roster changes `trust`.
 *
 * @param {Trust} trust
 * @param {{roster: string, index: number, hashes: string[], checkpoint: string}} signed
 * @param {object} options
 * @param {(from: number, to: number) => Promise<string[]>} options.consistency asks the coordinator
 *   for a proof, as unpadded base64url
 * @param {number} [options.now] milliseconds since the Unix epoch
 * @returns {Promise<object>} the roster
 */
export function verifyRoster(trust, signed, { consistency, now = Date.now() }) {
  return inTurn(trust, () => believeRoster(trust, signed, consistency, now));
}

/** What waits for its turn with a `trust`. */
const turns = new WeakMap();

/**
 * Does `work` when all work on the same `trust` before it is done: two questions at a time that each
 * compared what they were shown with the same past would not see that it differs.
 */
function inTurn(trust, work) {
  const done = (turns.get(trust) ?? Promise.resolve()).then(work);
  turns.set(
    trust,
    done.then(
      () => {},
      () => {},
    ),
  );
  return done;
}

async function believeRoster(trust, signed, consistency, now) {
  const { roster: text, index, hashes, checkpoint: note } = signed ?? {};
  if (typeof text !== "string" || typeof note !== "string" || !Array.isArray(hashes)) {
    throw new IrisSealError("Malformed", "not a signed roster");
  }
  const shown = await verifyCheckpoint(note, trust.coordinator ?? undefined);
  const proof = hashes.map(readHash);
  await verifyInclusion(await leafHash(await rosterEntry(text)), index, shown, proof);
  const roster = readRoster(text);
  if (roster.coordinator !== shown.coordinator) {
    throw new IrisSealError("WrongCoordinator", "the roster is of another coordinator");
  }
  const age = now / 1000 - roster.issued;
  if (age < -MAX_SKEW) {
    throw new IrisSealError("ClockSkew", "the roster is from the future: check the clocks");
  }
  if (age > MAX_ROSTER_AGE + MAX_SKEW) {
    const message = `the roster is ${Math.floor(age / 60)} minutes old, or a clock is wrong`;
    throw new IrisSealError("Stale", message);
  }
  const known = trust.checkpoint === null ? undefined : await verifyCheckpoint(trust.checkpoint);
  if (known) await verifyGrowth(trust, known, shown, note, consistency);
  trust.coordinator = shown.coordinator;
  if (!known || shown.size > known.size) trust.checkpoint = note;
  return roster;
}

/** Checks that two checkpoints are of one log, whichever is the later one. */
async function verifyGrowth(trust, known, shown, note, consistency) {
  const [old, next] = shown.size < known.size ? [shown, known] : [known, shown];
  const isTrivial = old.size === 0 || old.size === next.size;
  try {
    const hashes = isTrivial ? [] : await consistency(old.size, next.size);
    await verifyConsistency(old, next, hashes.map(readHash));
  } catch (cause) {
    // A coordinator that will not prove it has two logs; one that is in trouble may be asked again.
    const isTrouble = !(cause instanceof IrisSealError) || cause.code === "Unreachable";
    const isUnproven = cause.code !== "Refused" || [400, 404].includes(cause.status);
    if (isTrouble || !isUnproven) throw cause;
    const message = `the coordinator shows different people different logs: ${cause.message}`;
    const evidence = { reason: cause.message, checkpoints: [trust.checkpoint, note] };
    throw new IrisSealError("Fork", message, { cause, evidence });
  }
}

function readHash(text) {
  const hash = fromBase64url(typeof text === "string" ? text : "");
  if (hash.length !== 32) throw new IrisSealError("Malformed", "not a hash of the log");
  return hash;
}

function readRoster(text) {
  let roster;
  try {
    roster = JSON.parse(text);
  } catch {
    // What follows is about that, too.
  }
  const isNode = (node) =>
    [node?.id, node?.certificate, node?.owner].every((member) => typeof member === "string") &&
    Array.isArray(node.models) &&
    Number.isInteger(node.slots);
  const { nodes, issued } = roster ?? {};
  if (!Number.isSafeInteger(issued) || !Array.isArray(nodes) || !nodes.every(isNode)) {
    throw new IrisSealError("Malformed", "the roster is not one of this version");
  }
  if (nodes.some((node, place) => place > 0 && nodes[place - 1].id >= node.id)) {
    throw new IrisSealError("Malformed", "the roster is not in order");
  }
  return roster;
}

/**
 * Checks the certificate of a node of the roster before something is sealed to it, and remembers
 * its serial in `trust`, so that no older key of the node is ever taken again.
 *
 * @param {Trust} trust
 * @param {string} node its id
 * @param {string} certificate unpadded base64url
 * @param {number} [now] milliseconds since the Unix epoch
 * @returns {Promise<VerifiedCertificate>}
 */
export function verifyNode(trust, node, certificate, now = Date.now()) {
  return inTurn(trust, () => believeNode(trust, node, certificate, now));
}

async function believeNode(trust, node, certificate, now) {
  if (trust.coordinator === null) throw new TypeError("verify a roster first");
  const bytes = fromBase64url(certificate);
  const found = await nodeIdOf(decodeCertificate(bytes).identityKey);
  if (found !== node) {
    const message = `the key that is offered for node ${node} belongs to ${found}`;
    throw new IrisSealError("WrongNode", message);
  }
  const known = Object.hasOwn(trust.nodes, node) ? trust.nodes[node] : undefined;
  const expected = { origin: trust.coordinator, now, minSerial: known?.serial ?? 0 };
  const verified = await verifyCertificate(bytes, expected);
  const firstSeen = known?.first_seen ?? Math.floor(now / 1000);
  trust.nodes[node] = { first_seen: firstSeen, serial: verified.serial };
  return verified;
}

// ---------------------------------------------------------------------------------------- choosing

const DAY = 86_400;
const GUARDS = 3;
const MOST_GUARDS = 9;
const GUARD_LIFETIME = 30 * DAY;
const GUARD_ABSENCE = 7 * DAY;
const MAX_WEIGHT = 8;

/**
 * Returns the nodes to ask, in order: one's own, or the guards of the model, those first that the
 * roster calls free.
 *
 * Guards stay for a month, and one that is busy is no reason to draw another: who always draws anew
 * meets every node in the long run.
 */
function chooseNodes(trust, roster, { model, policy, now }) {
  const offers = (node) => node.models.some((offer) => offer.name === model);
  const able = roster.nodes.filter(offers);
  const chosen =
    policy === "own"
      ? able.filter((node) => trust.own.includes(node.id))
      : guardsOf(trust, model, able, Math.floor(now / 1000));
  const [free, busy] = [chosen.filter(isFree), chosen.filter((node) => !isFree(node))];
  return [...shuffled(free), ...shuffled(busy)];
}

const isFree = (node) => node.free !== "none";

function guardsOf(trust, model, able, now) {
  const find = (id) => able.find((node) => node.id === id);
  const stored = Object.hasOwn(trust.guards, model) ? trust.guards[model] : [];
  const guards = stored
    .map((guard) => (find(guard.node) ? { ...guard, listed: now } : guard))
    .filter(({ since, listed }) => now < since + GUARD_LIFETIME && now < listed + GUARD_ABSENCE);
  for (;;) {
    const active = guards.map((guard) => find(guard.node)).filter(Boolean).slice(0, GUARDS);
    const isDue = guards.length < GUARDS || (active.length === 0 && guards.length < MOST_GUARDS);
    const fresh = able.filter((node) => !guards.some((guard) => guard.node === node.id));
    // Those of other owners first.
    const others = fresh.filter((node) => !active.some((guard) => guard.owner === node.owner));
    const drawn = isDue ? drawOne(others.length > 0 ? others : fresh) : undefined;
    if (!drawn) {
      if (guards.length > 0) trust.guards[model] = guards;
      return active;
    }
    guards.push({ node: drawn.id, since: now, listed: now });
  }
}

/** Draws one of `nodes`: the more slots, the likelier, within limits. */
function drawOne(nodes) {
  const weight = (node) => Math.min(Math.max(node.slots, 1), MAX_WEIGHT);
  const total = nodes.reduce((sum, node) => sum + weight(node), 0);
  let place = randomFraction() * total;
  for (const node of nodes) {
    place -= weight(node);
    if (place < 0) return node;
  }
  return nodes.at(-1);
}

function shuffled(nodes) {
  const left = [...nodes];
  const order = [];
  while (left.length > 0) order.push(...left.splice(left.indexOf(drawOne(left)), 1));
  return order;
}

const randomFraction = () => new DataView(random(4).buffer).getUint32(0) / 2 ** 32;

// ------------------------------------------------------------------------------------------ asking

/**
 * Asks one question: checks the roster, chooses a node, seals to it, and yields the answer's
 * events, each `opened` with the `node` and the `privacy` that was verified (`own` or `sealed`).
 *
 * A node that is busy, gone or has a new key is no error as long as another can be sealed to and
 * nothing of an answer has come. The answer is a success once `finished` came; should its receipt
 * be missing or disputed, `unreceipted` follows with the `error`. Leaving the loop ends the request.
 *
 * @param {object} options
 * @param {string} options.baseUrl the coordinator's address, without `/v1`
 * @param {string} options.key an API key
 * @param {Trust} options.trust changed in place; keep it
 * @param {object} options.request an OpenAI chat request with `model`, `messages` and maybe `stream`
 * @param {number} [options.shape] one of `Shape`; `Paced` unless said otherwise, `Off` for one's own
 * @param {"sealed" | "own"} [options.policy] `own` asks one's own nodes only
 * @param {number} [options.patience] how long to wait for a free node, in milliseconds
 * @param {AbortSignal} [options.signal]
 * @param {typeof fetch} [options.fetch]
 * @returns {AsyncGenerator<AnswerEvent | {type: "opened", node: string, privacy: string}
 *   | {type: "unreceipted", error: IrisSealError}>}
 */
export async function* chat(options) {
  const { trust, request, policy = "sealed", patience = 60_000 } = options;
  const coordinator = new Coordinator(options);
  const until = Date.now() + patience;
  const refusals = { inRow: 0, counted: new Map(), last: undefined };
  for (;;) {
    const roster = await coordinator.roster(trust);
    const nodes = chooseNodes(trust, roster, { model: request.model, policy, now: Date.now() });
    if (nodes.length === 0) {
      const whose = policy === "own" ? "none of your own nodes" : "no node";
      throw new IrisSealError("NoNode", `${whose} offers ${request.model} now`);
    }
    let pause = Infinity;
    for (const node of nodes) {
      const refused = yield* askNode(coordinator, node, options);
      if (!refused) return;
      refusals.last = refused.error;
      // A node counts once for each roster: asked again, it may still be busy.
      if (isFree(node) && refusals.counted.get(node.id) !== roster.number) {
        refusals.counted.set(node.id, roster.number);
        refusals.inRow += 1;
      }
      if (refusals.inRow > MAX_REFUSALS) {
        const message = `${refusals.inRow} nodes refused in a row that the roster calls free`;
        throw new IrisSealError("SteeringSuspected", message, { cause: refused.error });
      }
      pause = Math.min(pause, refused.after);
    }
    if (Date.now() + pause > until) {
      throw new IrisSealError("Busy", "no node was free in time", { cause: refusals.last });
    }
    await sleep(pause, options.signal);
  }
}

/** Asks one node; returns why it refused, unless it answered. */
async function* askNode(coordinator, node, options) {
  const { trust, request, shape: wanted } = options;
  const isOwn = trust.own.includes(node.id);
  const shape = wanted ?? (isOwn ? Shape.Off : Shape.Paced);
  const limit = request.max_completion_tokens ?? request.max_tokens;
  const maxTokens = Number.isInteger(limit) && limit > 0 ? Math.min(limit, 2 ** 32 - 1) : 0;
  const prompt = { body: request, stream: request.stream === true };
  let encoded = node.certificate;
  // A node may have changed its key since the roster was made, once.
  for (const isFirst of [true, false]) {
    let certificate;
    try {
      certificate = await verifyNode(trust, node.id, encoded);
    } catch (error) {
      if (error.code !== "Expired" && error.code !== "NotYetValid") throw error;
      return { error, after: 1000 };
    }
    const terms = { model: request.model, maxTokens, shape };
    const { wire, opener } = await seal(certificate, terms, prompt);
    const sent = await coordinator.send(wire);
    if (!sent.refused) {
      const opened = { node: node.id, privacy: isOwn ? "own" : "sealed" };
      return yield* readAnswer(sent.response, opener, opened);
    }
    const { code, after, certificate: current } = sent.refused;
    const error = new IrisSealError("Refused", `node ${node.id} refused: ${code}`, sent.refused);
    if (code !== "stale_key") return { error, after };
    if (!isFirst || typeof current !== "string") return { error, after };
    encoded = current;
  }
  return undefined;
}

/** Yields the events of an answer; returns why there is none, if the next node may be asked. */
async function* readAnswer(response, opener, opened) {
  const records = new RecordReader();
  const body = response.body.getReader();
  let [isFinished, hasContent, advice] = [false, false, undefined];
  try {
    for (;;) {
      const { done, value } = await body.read();
      if (done) break;
      records.push(value);
      for (let record = records.pop(); record; record = records.pop()) {
        if (record.kind === RecordKind.Failure) advice = readAdvice(record.payload);
        for (const event of await opener.handleRecord(record)) {
          if (event.type === "failed") {
            const error = failure(event.error);
            const isElsewhere = ["busy", "unavailable"].includes(event.error.kind);
            if (isElsewhere && !hasContent) return { error, after: 1000 };
            throw error;
          }
          isFinished ||= event.type === "finished";
          hasContent ||= event.type !== "opened";
          yield event.type === "opened" ? { ...event, ...opened } : event;
        }
      }
    }
    opener.close();
  } catch (thrown) {
    const progress = opener.progress;
    const isOurs = thrown instanceof IrisSealError;
    const isBroken = !isOurs || thrown.code === "Truncated";
    if (thrown?.name === "AbortError" || thrown?.code === "Failed") throw thrown;
    const error = isOurs
      ? thrown
      : new IrisSealError("Truncated", "the connection ended first", { cause: thrown });
    if (advice) error.advice = advice;
    if (isFinished) {
      yield { type: "unreceipted", error };
      return undefined;
    }
    // Nothing was begun, as far as anybody can tell.
    if (isBroken && progress === "Waiting") return { error, after: 1000 };
    throw error;
  } finally {
    // Also when the caller leaves: the node need not go on.
    body.cancel().catch(() => {});
  }
  return undefined;
}

function readAdvice(payload) {
  try {
    return JSON.parse(new TextDecoder().decode(payload)).error;
  } catch {
    return undefined;
  }
}

function failure(error) {
  const message = error.message ?? `the node's model server: ${error.kind}`;
  return new IrisSealError("Failed", message, { error });
}

/** The coordinator's HTTP interface, as far as sealed requests go. */
class Coordinator {
  #base;
  #headers;
  #signal;
  #fetch;

  constructor({ baseUrl, key, signal, fetch = globalThis.fetch }) {
    this.#base = baseUrl.replace(/\/+$/, "");
    this.#headers = { authorization: `Bearer ${key}` };
    this.#signal = signal;
    // Browsers' fetch works only as a function of its own.
    this.#fetch = (...request) => fetch(...request);
  }

  /** Returns the roster, once it is believed. */
  async roster(trust) {
    const consistency = async (from, to) =>
      (await this.#get(`/log/consistency?from=${from}&to=${to}`)).hashes;
    return verifyRoster(trust, await this.#get("/roster"), { consistency });
  }

  /** Sends a wire request; returns the response, or how it was refused. */
  async send(wire) {
    const headers = { ...this.#headers, "content-type": MEDIA_TYPE };
    const response = await this.#ask("/sealed", { method: "POST", headers, body: wire });
    if (response.ok) {
      const found = response.headers.get("content-type") ?? "";
      if (found.split(";")[0].trim() === MEDIA_TYPE && response.body) return { response };
      await response.body?.cancel();
      throw new IrisSealError("Malformed", `a sealed request was answered with ${found}`);
    }
    const { error, certificate } = await readJson(response);
    const code = error?.code;
    const isNodes = ["stale_key", "node_busy", "node_offline"].includes(code);
    if (!isNodes) throw refusal(response, error);
    const seconds = Number(response.headers.get("retry-after"));
    const after = Math.min(Math.max(Number.isFinite(seconds) ? seconds : 1, 1), 60) * 1000;
    return { refused: { status: response.status, code, after, certificate } };
  }

  async #get(path) {
    const response = await this.#ask(path, { headers: this.#headers });
    const answer = await readJson(response);
    if (!response.ok) throw refusal(response, answer.error);
    return answer;
  }

  async #ask(path, request) {
    try {
      return await this.#fetch(this.#base + path, { ...request, signal: this.#signal });
    } catch (cause) {
      if (cause?.name === "AbortError") throw cause;
      const message = `the coordinator at ${this.#base} cannot be reached`;
      throw new IrisSealError("Unreachable", message, { cause });
    }
  }
}

async function readJson(response) {
  try {
    return (await response.json()) ?? {};
  } catch {
    return {};
  }
}

function refusal(response, error) {
  const message = error?.message ?? `the coordinator answered ${response.status}`;
  return new IrisSealError("Refused", message, { status: response.status, error });
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

// ------------------------------------------------------------------------------------ cryptography

// HPKE (RFC 9180) in base mode, for one message. Every secret of it has at most 32 bytes, so
// expanding is a single HMAC; WebCrypto's HKDF would not give the two halves apart.
const HPKE_VERSION = ascii("HPKE-v1");
const KEM_SUITE = concat(ascii("KEM"), u16(SUITE_IDS[0]));
const HPKE_SUITE = concat(ascii("HPKE"), ...SUITE_IDS.map(u16));

async function setupSender({ secret, encapsulated }, recipient, info) {
  const dh = await agree(secret, recipient);
  if (!dh) throw new IrisSealError("WeakKey", "the node's key is of small order");
  return schedule(await sharedSecret(dh, encapsulated, recipient), info);
}

async function sharedSecret(dh, encapsulated, recipient) {
  const prk = await labeledExtract(KEM_SUITE, [], "eae_prk", dh);
  return labeledExpand(KEM_SUITE, prk, "shared_secret", concat(encapsulated, recipient), 32);
}

/** The key schedule of RFC 9180, section 5.1. */
async function schedule(shared, info) {
  const idHash = await labeledExtract(HPKE_SUITE, [], "psk_id_hash", []);
  const infoHash = await labeledExtract(HPKE_SUITE, [], "info_hash", info);
  const context = concat([0], idHash, infoHash);
  const secret = await labeledExtract(HPKE_SUITE, shared, "secret", []);
  const [key, baseNonce, exporter] = await Promise.all([
    labeledExpand(HPKE_SUITE, secret, "key", context, 32),
    labeledExpand(HPKE_SUITE, secret, "base_nonce", context, 12),
    labeledExpand(HPKE_SUITE, secret, "exp", context, 32),
  ]);
  return { key: await importAes(key), baseNonce, exporter };
}

const exported = (exporter, context) => labeledExpand(HPKE_SUITE, exporter, "sec", context, 32);

const labeledExtract = (suite, salt, label, material) =>
  extract(salt, concat(HPKE_VERSION, suite, ascii(label), material));

const labeledExpand = (suite, prk, label, info, length) =>
  expand(prk, concat(u16(length), HPKE_VERSION, suite, ascii(label), info), length);

// An empty salt is as good as one of zeros, and WebCrypto takes no empty key.
const extract = (salt, material) => hmac(salt.length > 0 ? salt : new Uint8Array(32), material);

async function expand(prk, info, length) {
  return (await hmac(prk, concat(info, [1]))).subarray(0, length);
}

async function hmac(key, data) {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const imported = await subtle().importKey("raw", key, algorithm, false, ["sign"]);
  return new Uint8Array(await subtle().sign("HMAC", imported, data));
}

async function sha256(data) {
  return new Uint8Array(await subtle().digest("SHA-256", data));
}

const importAes = (key) => subtle().importKey("raw", key, "AES-GCM", false, ["encrypt", "decrypt"]);

async function encrypt(key, iv, additionalData, text) {
  const algorithm = { name: "AES-GCM", iv, additionalData };
  return new Uint8Array(await subtle().encrypt(algorithm, key, text));
}

/** Returns the text; `undefined` where it does not open. */
async function decrypt(key, iv, additionalData, sealed) {
  if (sealed.length < TAG_LEN) return undefined;
  try {
    const algorithm = { name: "AES-GCM", iv, additionalData };
    return new Uint8Array(await subtle().decrypt(algorithm, key, sealed));
  } catch (error) {
    if (error?.name === "OperationError") return undefined;
    throw error;
  }
}

/** Combines a nonce with a message's number. */
function numbered(nonce, number) {
  const out = nonce.slice();
  u64(number).forEach((byte, place) => (out[4 + place] ^= byte));
  return out;
}

/** Returns what two keys agree on; `undefined` where that would be zero. */
async function agree(secret, publicKey) {
  const algorithm = { name: "X25519" };
  const peer = await supported("X25519", () =>
    subtle().importKey("raw", publicKey, algorithm, false, []),
  );
  let bits;
  try {
    bits = new Uint8Array(await subtle().deriveBits({ ...algorithm, public: peer }, secret, 256));
  } catch (error) {
    if (error?.name === "OperationError") return undefined;
    throw error;
  }
  return bits.some((byte) => byte !== 0) ? bits : undefined;
}

/** Imports 32 bytes as a private key, in the one form that WebCrypto has for them: PKCS #8. */
function importPrivate(name, bytes, usages) {
  const oid = name === "X25519" ? 0x6e : 0x70;
  const head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, oid, 4, 0x22, 4, 0x20];
  return supported(name, () =>
    subtle().importKey("pkcs8", concat(head, bytes), { name }, false, usages),
  );
}

/**
 * Checks a signature strictly, as the Rust side does: no key or commitment of small order and no
 * second spelling of one, which engines differ about.
 */
async function isSigned(publicKey, message, signature) {
  if (!isUsablePoint(publicKey) || !isUsablePoint(signature.subarray(0, 32))) return false;
  const algorithm = { name: "Ed25519" };
  const key = await supported("Ed25519", () =>
    subtle().importKey("raw", publicKey, algorithm, false, ["verify"]),
  );
  try {
    return await subtle().verify(algorithm, key, signature, message);
  } catch (error) {
    // Not a point of the curve, for some engines.
    if (error?.name === "OperationError" || error?.name === "DataError") return false;
    throw error;
  }
}

// The y of the points of small order, without the sign of x.
const SMALL_ORDER = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
];

/** Returns whether an encoded point is in its only spelling, and not of small order. */
function isUsablePoint(point) {
  const y = point.slice();
  y[31] &= 0x7f;
  const isReduced = y[0] < 0xed || y[31] < 0x7f || y.subarray(1, 31).some((byte) => byte < 0xff);
  return isReduced && !SMALL_ORDER.includes(toHex(y));
}

function subtle() {
  const found = globalThis.crypto?.subtle;
  if (found) return found;
  const message = "this engine has no WebCrypto here: a page must come by https or from localhost";
  throw new IrisSealError("Unsupported", message);
}

/** Says so when the engine is too old. */
async function supported(name, call) {
  subtle();
  try {
    return await call();
  } catch (cause) {
    if (cause?.name !== "NotSupportedError") throw cause;
    const message = `this engine's WebCrypto lacks ${name}: use a newer one`;
    throw new IrisSealError("Unsupported", message, { cause });
  }
}

function random(length) {
  return crypto.getRandomValues(new Uint8Array(length));
}

// ------------------------------------------------------------------------------------------- bytes

/** Reads fields off the front of bytes. */
class Fields {
  #bytes;
  #what;

  constructor(bytes, what) {
    // A copy, since Node's buffers share one store and only look like arrays of their own.
    this.#bytes = Uint8Array.from(bytes);
    this.#what = what;
  }

  check(isSo, problem) {
    if (!isSo) throw new IrisSealError("Malformed", `${this.#what}: ${problem}`);
  }

  take(length) {
    this.check(this.#bytes.length >= length, "too short");
    const field = this.#bytes.slice(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return field;
  }

  magic(expected) {
    this.check(equal(this.take(expected.length), expected), "another kind or version");
  }

  u8() {
    return this.take(1)[0];
  }

  u16() {
    return new DataView(this.take(2).buffer).getUint16(0);
  }

  u32() {
    return new DataView(this.take(4).buffer).getUint32(0);
  }

  u64() {
    const number = Number(new DataView(this.take(8).buffer).getBigUint64(0));
    this.check(Number.isSafeInteger(number), "a number out of range");
    return number;
  }

  lp() {
    return this.take(this.u16());
  }

  rest() {
    return this.#bytes;
  }
}

function concat(...parts) {
  return joined(parts);
}

/** Joins any number of byte arrays. */
function joined(parts) {
  const out = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function u16(number) {
  return [number >> 8, number & 0xff];
}

function u32(number) {
  const out = new Uint8Array(4);
  new DataView(out.buffer).setUint32(0, number);
  return out;
}

function u64(number) {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt(number));
  return out;
}

/** Compares without telling by its time where two differ. */
function equal(a, b) {
  let difference = a.length ^ b.length;
  for (let at = 0; at < Math.min(a.length, b.length); at += 1) difference |= a[at] ^ b[at];
  return difference === 0;
}

function ascii(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function utf8(text) {
  return new TextEncoder().encode(text);
}

function fromUtf8(bytes, problem) {
  try {
    // A byte order mark is a character like others here.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw malformed(problem);
  }
}

function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function fromHex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));
}

/** Decodes padded base64 in its only spelling; gives nothing where it is not that. */
function fromBase64(text) {
  try {
    const binary = atob(text);
    return btoa(binary) === text ? ascii(binary) : new Uint8Array(0);
  } catch {
    return new Uint8Array(0);
  }
}

function fromBase64url(text) {
  const isPlain = /^[A-Za-z0-9_-]*$/.test(text);
  const padding = "=".repeat((4 - (text.length % 4)) % 4);
  const padded = text.replaceAll("-", "+").replaceAll("_", "/") + padding;
  return isPlain ? fromBase64(padded) : new Uint8Array(0);
}

/** Not for use: what the tests need to choose secrets, and to be the other side. */
export const testing = Object.freeze({
  agree,
  answerKeys,
  concat,
  decrypt,
  encrypt,
  exported,
  fromHex,
  importPrivate,
  numbered,
  padded,
  schedule,
  sealWith,
  sha256,
  sharedSecret,
  toHex,
  u32,
  u64,
});
