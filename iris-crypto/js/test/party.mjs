// The other side, for tests: a node that answers, and a coordinator with its log, in one process.

import {
  MEDIA_TYPE,
  Operation,
  Outcome,
  RecordKind,
  Role,
  Shape,
  leafHash,
  rosterEntry,
  testing,
} from "../iris-seal.mjs";

const { concat, fromHex, sha256, toHex, u32, u64 } = testing;
const text = (string) => new TextEncoder().encode(string);
const u16 = (number) => [number >> 8, number & 0xff];
const random = (length) => crypto.getRandomValues(new Uint8Array(length));
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const base64url = (bytes) =>
  base64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/** An Ed25519 key pair. */
export class Signer {
  static async from(seed = random(32)) {
    const signer = new Signer();
    signer.key = await testing.importPrivate("Ed25519", seed, ["sign"]);
    // WebCrypto gives the public half of a key that was imported only in a form of JSON.
    const pair = await crypto.subtle.importKey("jwk", await jwk(seed), "Ed25519", true, ["sign"]);
    const { x } = await crypto.subtle.exportKey("jwk", pair);
    const binary = atob(x.replaceAll("-", "+").replaceAll("_", "/"));
    signer.public = Uint8Array.from(binary, (byte) => byte.charCodeAt(0));
    return signer;
  }

  async sign(message) {
    return new Uint8Array(await crypto.subtle.sign("Ed25519", this.key, message));
  }
}

async function jwk(seed) {
  const oid = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
  const key = concat(oid, seed);
  const imported = await crypto.subtle.importKey("pkcs8", key, "Ed25519", true, ["sign"]);
  return crypto.subtle.exportKey("jwk", imported);
}

/** An X25519 key pair of given bytes. */
export async function agreement(seed = random(32)) {
  const secret = await testing.importPrivate("X25519", seed, ["deriveBits"]);
  const base = new Uint8Array(32);
  base[0] = 9;
  return { secret, encapsulated: await testing.agree(secret, base) };
}

/** A node that opens requests. */
export class Party {
  static async create({ seed, sealing } = {}) {
    const party = new Party();
    party.identity = await Signer.from(seed);
    party.key = await agreement(sealing);
    return party;
  }

  /** Returns the bytes of a certificate for this node's key. */
  async certificate({ origin, now = Date.now(), serial = now, role = Role.Node, life = 21_600 }) {
    const from = Math.floor(now / 1000);
    const said = concat(
      text("iris/keycert/v1\0"),
      [role],
      this.identity.public,
      [0, 0x20, 0, 1, 0, 2],
      this.key.encapsulated,
      ...[from, from + life, serial].map(u64),
      u16(origin.length),
      text(origin),
      [0, 0],
    );
    return concat(said, await this.identity.sign(said));
  }

  /** Opens a wire request, and returns the prompt and what seals its answer. */
  async open(wire, nonce = random(32)) {
    const name = 12 + 1 + 16 + 32;
    const headerLength = name + 2 + wire[name] * 256 + wire[name + 1] + 17;
    const header = wire.slice(0, headerLength);
    const encapsulated = wire.slice(headerLength, headerLength + 32);
    const sealed = wire.slice(headerLength + 36);
    const dh = await testing.agree(this.key.secret, encapsulated);
    const shared = await testing.sharedSecret(dh, encapsulated, this.key.encapsulated);
    const context = await testing.schedule(shared, header);
    const padded = await testing.decrypt(context.key, context.baseNonce, text("req"), sealed);
    if (!padded) return undefined;
    const end = padded.lastIndexOf(0x80);
    const secret = await testing.exported(context.exporter, text("iris/resp/v1"));
    const keys = await testing.answerKeys(encapsulated, nonce, secret);
    return {
      operation: padded[0],
      stream: padded[1] === 1,
      body: new TextDecoder().decode(padded.subarray(2, end)),
      answer: new Answer({
        keys,
        nonce,
        shape: header.at(-1),
        task: header.slice(13, 29),
        certificate: header.slice(29, 61),
        request: await sha256(wire),
        identity: this.identity,
      }),
    };
  }
}

export const record = (kind, payload) =>
  concat(u32(payload.length + 1), [kind], payload);

/** Seals one answer. */
class Answer {
  constructor(about) {
    this.about = about;
    this.next = 0;
    this.chain = new Uint8Array(32);
    this.content = [];
  }

  opening() {
    return record(RecordKind.Opening, concat(this.about.nonce, this.about.keys.commit));
  }

  piece(kind, data) {
    if ([1, 2, 5].includes(kind & 0x7f)) this.content.push(data);
    return concat([kind], u16(data.length), data);
  }

  async frame(pieces = new Uint8Array(0), isLast = false) {
    const { keys, shape } = this.about;
    const length = shape === Shape.Off ? pieces.length : 256;
    const plain = new Uint8Array(length);
    plain.set(pieces);
    const nonce = testing.numbered(keys.nonce, this.next);
    const aad = concat([isLast ? 1 : 0], u64(this.next));
    const sealed = await testing.encrypt(keys.key, nonce, aad, plain);
    if (!isLast) this.chain = await sha256(concat(this.chain, sealed));
    this.next += 1;
    return record(RecordKind.Frame, sealed);
  }

  says(string) {
    return this.frame(this.piece(1, text(string)));
  }

  async end(usage, reason = "stop") {
    const digest = await sha256(concat(...this.content));
    const counts = [usage.prompt_tokens, usage.completion_tokens].map(u32);
    return this.frame(this.piece(4, concat(...counts, digest, text(reason))));
  }

  fails(error) {
    return this.frame(this.piece(3, text(JSON.stringify(error))));
  }

  /** Returns the last frame and the receipt. */
  async finish(usage, outcome = Outcome.Complete) {
    const { task, certificate, request, nonce, identity } = this.about;
    const rounded = [usage.prompt_tokens, usage.completion_tokens].map((n) =>
      u32(Math.ceil(n / 64) * 64),
    );
    const said = concat(
      text("iris/receipt/v1\0"),
      ...[task, certificate, request, nonce, this.chain],
      ...rounded,
      new Uint8Array(64),
      [outcome],
    );
    const last = await this.frame(this.piece(6, await sha256(said)), true);
    const receipt = record(RecordKind.Receipt, concat(said, await identity.sign(said)));
    return [last, receipt];
  }
}

export const USAGE = { prompt_tokens: 10, completion_tokens: 3 };

/** Returns the records of an answer that says `words`. */
export async function answer(opened, words = ["Hello", " there."]) {
  const sealing = opened.answer;
  const records = [sealing.opening()];
  for (const word of words) records.push(await sealing.says(word));
  records.push(await sealing.end(USAGE), await sealing.frame());
  return [...records, ...(await sealing.finish(USAGE))];
}

// ---------------------------------------------------------------------------- coordinator

/** A coordinator whose nodes answer as they are told; `fetch` is its network. */
export class Network {
  static async create({ nodes = 1, model = "test/model" } = {}) {
    const network = new Network();
    network.model = model;
    network.identity = await Signer.from();
    network.origin = toHex(network.identity.public);
    network.entries = [concat(text("iris/log/coordinator/v1\0"), network.identity.public)];
    network.nodes = [];
    network.asked = [];
    network.age = 0;
    for (let number = 0; number < nodes; number += 1) await network.join();
    return network;
  }

  async join(changes = {}) {
    const party = await Party.create();
    const node = {
      party,
      certificate: await party.certificate({ origin: this.origin }),
      free: "many",
      owner: String(this.nodes.length).padStart(32, "0"),
      /** What it does with a request: returns a Response, or records. */
      act: async (opened) => answer(opened),
      ...changes,
    };
    node.id = await nodeId(party.identity.public);
    this.nodes.push(node);
    return node;
  }

  /** Returns what `chat` needs to ask here. */
  options(trust, changes = {}) {
    const request = { model: this.model, messages: [], stream: true };
    const fetch = (url, init) => this.fetch(url, init);
    const to = { baseUrl: "https://iris.example/", key: "iris_key" };
    return { ...to, trust, request, fetch, patience: 0, ...changes };
  }

  async fetch(url, init = {}) {
    const { pathname, searchParams } = new URL(url);
    if (init.headers?.authorization !== "Bearer iris_key") return json(401, { error: {} });
    if (pathname === "/roster") return json(200, await this.roster());
    if (pathname === "/log/consistency") {
      const [from, to] = ["from", "to"].map((name) => Number(searchParams.get(name)));
      return json(200, { hashes: (await this.consistency(from, to)).map(base64url) });
    }
    return this.sealed(init.body);
  }

  async sealed(wire) {
    const hashes = await Promise.all(
      this.nodes.map(async ({ certificate }) => toHex(await sha256(certificate.slice(0, -64)))),
    );
    const node = this.nodes[hashes.indexOf(toHex(wire.subarray(29, 61)))];
    if (!node) return json(409, { error: { code: "stale_key" } });
    this.asked.push(node.id);
    const opened = await node.party.open(wire);
    const acted = await node.act(opened, wire);
    return acted instanceof Response ? acted : sealedResponse(acted);
  }

  async roster() {
    const nodes = this.nodes.map((node) => ({
      id: node.id,
      certificate: base64url(node.certificate),
      models: [{ name: this.model, context_length: 1024 }],
      slots: 1,
      free: node.free,
      points: 100,
      since: 0,
      owner: node.owner,
    }));
    nodes.sort((a, b) => (a.id < b.id ? -1 : 1));
    const issued = Math.floor(Date.now() / 1000) - this.age;
    const roster = JSON.stringify({
      coordinator: this.origin,
      number: this.entries.length,
      issued,
      nodes,
      away: [],
    });
    this.entries.push(await rosterEntry(roster));
    const size = this.entries.length;
    const leaves = await Promise.all(this.entries.map(leafHash));
    const hashes = await inclusion(leaves, size - 1);
    const checkpoint = await this.checkpoint(size, await rootOf(leaves));
    return { roster, index: size - 1, hashes: hashes.map(base64url), checkpoint };
  }

  async checkpoint(size, root) {
    const origin = `iris-log/${this.origin}`;
    const body = `${origin}\n${size}\n${base64(root)}\n`;
    const named = concat(text(`${origin}\n`), [1], this.identity.public);
    const id = (await sha256(named)).subarray(0, 4);
    const signed = base64(concat(id, await this.identity.sign(text(body))));
    return `${body}\n\u2014 ${origin} ${signed}\n`;
  }

  async consistency(from, to) {
    const leaves = await Promise.all(this.entries.slice(0, to).map(leafHash));
    return consistency(leaves, from, true);
  }
}

export function json(status, body, headers = {}) {
  const type = { "content-type": "application/json" };
  return new Response(JSON.stringify(body), { status, headers: { ...type, ...headers } });
}

export function sealedResponse(records) {
  return new Response(concat(...records), { headers: { "content-type": MEDIA_TYPE } });
}

export const busy = () =>
  json(429, { error: { code: "node_busy", message: "busy" } }, { "retry-after": "1" });
export const offline = () => json(503, { error: { code: "node_offline", message: "gone" } });
export const stale = (certificate) =>
  json(409, {
    error: { code: "stale_key", message: "stale" },
    ...(certificate && { certificate: base64url(certificate) }),
  });

async function nodeId(identity) {
  const hash = await sha256(concat(text("iris/node-id/v1"), identity));
  const bits = Array.from(hash, (byte) => byte.toString(2).padStart(8, "0")).join("");
  const digits = bits.match(/.{5}/g).slice(0, 26);
  return digits.map((digit) => "abcdefghijklmnopqrstuvwxyz234567"[parseInt(digit, 2)]).join("");
}

// RFC 6962, section 2.1, word by word.

const join = (left, right) => sha256(concat([1], left, right));
const middle = (count) => 2 ** Math.ceil(Math.log2(count) - 1);

export async function rootOf(leaves) {
  if (leaves.length === 1) return leaves[0];
  const at = middle(leaves.length);
  return join(await rootOf(leaves.slice(0, at)), await rootOf(leaves.slice(at)));
}

export async function inclusion(leaves, index) {
  if (leaves.length === 1) return [];
  const at = middle(leaves.length);
  const [left, right] = [leaves.slice(0, at), leaves.slice(at)];
  return index < at
    ? [...(await inclusion(left, index)), await rootOf(right)]
    : [...(await inclusion(right, index - at)), await rootOf(left)];
}

export async function consistency(leaves, old, isWhole = true) {
  if (old === leaves.length) return isWhole ? [] : [await rootOf(leaves)];
  const at = middle(leaves.length);
  const [left, right] = [leaves.slice(0, at), leaves.slice(at)];
  return old <= at
    ? [...(await consistency(left, old, isWhole)), await rootOf(right)]
    : [...(await consistency(right, old - at, false)), await rootOf(left)];
}

export { Operation, fromHex, toHex };
