// The tests that run in every engine: in Node by `seal.test.mjs`, in Chromium by `browser.mjs`.

import {
  AnswerOpener,
  MAX_RECORD,
  RecordReader,
  Shape,
  chat,
  createTrust,
  leafHash,
  seal,
  testing,
  verifyCertificate,
  verifyCheckpoint,
  verifyConsistency,
  verifyInclusion,
  verifyNode,
  verifyReceipt,
  verifyRoster,
} from "../iris-seal.mjs";
import { collect, holds, refused, same } from "./check.mjs";
import * as party from "./party.mjs";

const { concat, fromHex, toHex } = testing;

/** Returns the tests as `{ name, run }`. @param {object} vectors of `iris-crypto/tests/vectors` */
export function casesOf(vectors) {
  const cases = [];
  const test = (name, run) => cases.push({ name, run });
  vectorsOf(vectors.seal, test);
  partsOf(test);
  logVectorsOf(vectors.log, test);
  logOf(test);
  chatsOf(test);
  return cases;
}

// ---------------------------------------------------------------------------- vectors

function vectorsOf({ node, exchanges, refused: wrong }, test) {
  const { origin } = node;
  const now = exchanges[0].request.issued_at;
  const verified = () =>
    verifyCertificate(fromHex(node.certificate), { origin, now, minSerial: node.serial });

  /** Seals the request of an exchange again, with its secrets. */
  async function sealed({ request }) {
    const { model, ttl, shape, operation, stream, body } = request;
    const terms = { model, issuedAt: request.issued_at, ttl, maxTokens: request.max_tokens, shape };
    const ephemeral = await party.agreement(fromHex(request.ephemeral_secret));
    const task = fromHex(request.task);
    return testing.sealWith(await verified(), terms, { operation, stream, body }, task, ephemeral);
  }

  test("the certificate says what the vector says", async () => {
    const certificate = await verified();
    same(certificate.identity, node.identity);
    same(certificate.nodeId, node.id);
    same(toHex(certificate.sealingKey), node.sealing_key);
    same([certificate.notBefore, certificate.notAfter], [node.not_before, node.not_after]);
    same(toHex(certificate.hash), node.certificate_hash);
  });

  for (const { name, certificate, now: seconds, min_serial, error } of wrong.certificates) {
    test(`a certificate is refused: ${name}`, async () => {
      const expected = { origin, now: seconds * 1000, minSerial: min_serial };
      await refused(error, () => verifyCertificate(fromHex(certificate), expected), name);
    });
  }

  for (const exchange of exchanges) {
    const { name, request, answer } = exchange;
    test(`a request seals to the same bytes: ${name}`, async () => {
      const { wire, task } = await sealed(exchange);
      same(toHex(testing.padded(request)), request.padded);
      same(toHex(task), request.task);
      same(toHex(wire), request.wire);
    });

    test(`a request opens at its node: ${name}`, async () => {
      const [seed, sealing] = [node.identity_seed, node.sealing_secret].map(fromHex);
      const asked = await party.Party.create({ seed, sealing });
      same(toHex(asked.identity.public), node.identity);
      const opened = await asked.open(fromHex(request.wire), fromHex(answer.rn));
      same([opened.operation, opened.stream], [request.operation, request.stream]);
      same(opened.body, request.body);
      same(toHex(opened.answer.opening()), answer.records[0]);
    });

    for (const size of [1, 7, 1000, Infinity]) {
      test(`an answer opens, cut into parts of ${size}: ${name}`, async () => {
        const { opener } = await sealed(exchange);
        const bytes = fromHex(answer.records.join(""));
        const events = await opened(opener, parts(bytes, size));
        const receipt = events.at(-1).receipt;
        same(toHex(receipt.encoded), answer.receipt + answer.signature);
        same([receipt.nonce, receipt.chain], [answer.rn, answer.chain]);
        events.at(-1).receipt = undefined;
        const { outcome, usage } = receipt;
        same([...events.slice(0, -1), { type: "receipt", outcome, usage }], answer.events);
      });
    }

    test(`a receipt is checked by itself, and no bit of it can be altered: ${name}`, async () => {
      const encoded = fromHex(answer.receipt + answer.signature);
      const certificate = fromHex(node.certificate);
      const { nodeId, receipt } = await verifyReceipt(encoded, certificate);
      same([nodeId, receipt.nonce, receipt.chain], [node.id, answer.rn, answer.chain]);
      for (let place = 0; place < encoded.length; place += 7) {
        const altered = encoded.slice();
        altered[place] ^= 1;
        await refused("ReceiptDisputed", () => verifyReceipt(altered, certificate), `byte ${place}`);
      }
    });

    test(`no bit of an answer can be altered: ${name}`, async () => {
      const { opener } = await sealed(exchange);
      const whole = answer.records.map(fromHex);
      const end = await placeOfEnd(opener, whole);
      for (let turn = 0; turn < 6 * whole.length; turn += 1) {
        const place = turn % whole.length;
        const records = whole.map((record) => record.slice());
        // The length and the kind are the relay's.
        const at = 5 + Math.floor(Math.random() * (records[place].length - 5));
        records[place][at] ^= 1 << Math.floor(Math.random() * 8);
        const { events, error } = await attempt((await sealed(exchange)).opener, records);
        holds(error, `record ${place}, byte ${at} was altered and taken`);
        same(isEnded(events), place > end, `record ${place}, byte ${at}`);
      }
    });
  }

  for (const { name, exchange, records, events, finished, error, reason } of wrong.answers) {
    test(`an answer is refused: ${name}`, async () => {
      const { opener } = await sealed(exchanges[exchange]);
      const of = exchanges[exchange].answer.records;
      const bytes = records.map((part) => fromHex(typeof part === "number" ? of[part] : part));
      const found = await attempt(opener, [concat(...bytes)]);
      same(found.error?.code, error, `${name}: ${found.error}`);
      same(found.error.reason, reason);
      same(found.events.length, events);
      same(found.events.some(({ type }) => type === "finished"), finished);
      // After an error nothing is opened any more.
      if (opener.progress === "Broken") {
        const frame = { kind: 2, payload: new Uint8Array(272) };
        await refused("Over", () => opener.handleRecord(frame));
        await refused("Over", async () => opener.close());
      }
    });
  }

  // What a client cannot be told is told by whom it asked.
  for (const { name, wire, error } of wrong.requests) {
    if (error !== "Rejected" || name.includes("padded") || name.includes("operation")) continue;
    test(`a request is refused by its node: ${name}`, async () => {
      const [seed, sealing] = [node.identity_seed, node.sealing_secret].map(fromHex);
      const asked = await party.Party.create({ seed, sealing });
      same(await asked.open(fromHex(wire)), undefined);
    });
  }
}

const isEnded = (events) => events.some(({ type }) => type === "finished" || type === "failed");

/** Returns which record has the answer's end. */
async function placeOfEnd(opener, records) {
  for (let place = 0; ; place += 1) {
    const reader = new RecordReader();
    reader.push(records[place]);
    if (isEnded(await opener.handleRecord(reader.pop()))) return place;
  }
}

function* parts(bytes, size) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Opens an answer to its end. */
async function opened(opener, chunks) {
  const { events, error } = await attempt(opener, chunks);
  if (error) throw error;
  return events;
}

/** Opens an answer until something is refused. */
async function attempt(opener, chunks) {
  const reader = new RecordReader();
  const events = [];
  try {
    for (const chunk of chunks) {
      reader.push(chunk);
      for (let record = reader.pop(); record; record = reader.pop()) {
        events.push(...(await opener.handleRecord(record)));
      }
    }
    opener.close();
  } catch (error) {
    return { events, error };
  }
  return { events };
}

// ---------------------------------------------------------------------------- parts

function partsOf(test) {
  test("prompts grow by a quarter at most", async () => {
    let last = 0;
    for (let length = 0; length < 300_000; length += 997) {
      const size = testing.padded({ body: new Uint8Array(length) }).length;
      holds(size >= length + 3 && size % 64 === 0 && size >= last, `${length}: ${size}`);
      holds(size <= Math.max(1024, (length + 3) * 1.25), `${length}: ${size}`);
      last = size;
    }
    await refused("TooLong", async () => testing.padded({ body: new Uint8Array(28_215_808) }));
  });

  test("only a verified certificate is sealed to", async () => {
    const forged = { sealingKey: new Uint8Array(32), hash: new Uint8Array(32), identity: "" };
    const error = await seal(forged, { model: "m" }, { body: "{}" }).catch((thrown) => thrown);
    holds(error instanceof TypeError, String(error));
  });

  test("each request has another key and another task", async () => {
    const node = await party.Party.create();
    const origin = "origin";
    const certificate = await verifyCertificate(await node.certificate({ origin }), { origin });
    const requests = await Promise.all(
      [1, 2].map(() => seal(certificate, { model: "m" }, { body: { a: 1 } })),
    );
    const [first, second] = requests.map(({ wire }) => wire);
    holds(toHex(first.subarray(13, 29)) !== toHex(second.subarray(13, 29)), "the task is the same");
    const { body, stream } = await node.open(first);
    same([body, stream], ['{"a":1}', false]);
    const impossible = { model: "m", shape: 3 };
    await refused("Malformed", () => seal(certificate, impossible, { body: "{}" }));
  });

  test("records are taken in the order of the calls", async () => {
    const node = await party.Party.create();
    const certificate = await verifyCertificate(await node.certificate({ origin: "o" }), {
      origin: "o",
    });
    const { wire, opener } = await seal(certificate, { model: "m", shape: Shape.Off }, {
      body: "{}",
    });
    holds(opener instanceof AnswerOpener, "an opener");
    const reader = new RecordReader();
    reader.push(concat(...(await party.answer(await node.open(wire)))));
    const handled = [];
    for (let record = reader.pop(); record; record = reader.pop()) {
      handled.push(opener.handleRecord(record));
    }
    const events = (await Promise.all(handled)).flat();
    same(events.map(({ type }) => type), ["opened", "text", "text", "finished", "receipt"]);
    same(opener.progress, "Receipted");
    opener.close();
  });

  test("records that are longer than any are refused before they come", async () => {
    const reader = new RecordReader();
    reader.push(testing.u32(MAX_RECORD + 1));
    await refused("RecordTooLong", async () => reader.pop());
  });
}

// ---------------------------------------------------------------------------- log

function logVectorsOf({ coordinator, entries, checkpoints, inclusions, consistencies }, test) {
  const bytes = (text) => {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(binary, (byte) => byte.charCodeAt(0));
  };
  const state = (size) => verifyCheckpoint(checkpoints[size - 1], coordinator);

  test("the checkpoints and proofs of the vectors hold, and altered ones do not", async () => {
    for (const { index, size, hashes } of inclusions) {
      const leaf = await leafHash(fromHex(entries[index]));
      const proof = hashes.map(bytes);
      await verifyInclusion(leaf, index, await state(size), proof);
      if (proof.length === 0) continue;
      proof[0][0] ^= 1;
      const altered = async () => verifyInclusion(leaf, index, await state(size), proof);
      await refused("BadInclusion", altered, `${index} of ${size}`);
    }
    for (const { from, to, hashes } of consistencies) {
      const proof = hashes.map(bytes);
      await verifyConsistency(await state(from), await state(to), proof);
      if (proof.length === 0) continue;
      proof[0][0] ^= 1;
      const altered = async () => verifyConsistency(await state(from), await state(to), proof);
      await refused("BadConsistency", altered, `${from} to ${to}`);
    }
  });
}

function logOf(test) {
  test("entries of logs of every size are proven, and nothing else", async () => {
    const leaves = await Promise.all(
      Array.from({ length: 21 }, (_, number) => leafHash(new Uint8Array([number]))),
    );
    for (let size = 1; size <= leaves.length; size += 1) {
      const some = leaves.slice(0, size);
      const checkpoint = { size, root: await party.rootOf(some) };
      for (let index = 0; index < size; index += 1) {
        const proof = await party.inclusion(some, index);
        await verifyInclusion(some[index], index, checkpoint, proof);
        const wrong = [
          () => verifyInclusion(leaves[(index + 1) % 21], index, checkpoint, proof),
          () => verifyInclusion(some[index], index, checkpoint, [...proof, leaves[0]]),
          () => verifyInclusion(some[index], index, { size, root: leaves[20] }, proof),
        ];
        if (size > 1) {
          wrong.push(
            () => verifyInclusion(some[index], index, checkpoint, proof.slice(1)),
            () => verifyInclusion(some[index], (index + 1) % size, checkpoint, proof),
          );
        }
        if (size < 21) for (const call of wrong) await refused("BadInclusion", call, `${index}`);
        await refused("NotInLog", () => verifyInclusion(some[index], size, checkpoint, proof));
      }
    }
  });

  test("logs that only grew are told from others", async () => {
    const leaves = await Promise.all(
      Array.from({ length: 19 }, (_, number) => leafHash(new Uint8Array([number]))),
    );
    for (let to = 1; to <= leaves.length; to += 1) {
      const next = { size: to, root: await party.rootOf(leaves.slice(0, to)) };
      for (let from = 1; from <= to; from += 1) {
        const old = { size: from, root: await party.rootOf(leaves.slice(0, from)) };
        const proof = await party.consistency(leaves.slice(0, to), from);
        await verifyConsistency(old, next, proof);
        const other = { size: from, root: new Uint8Array(32) };
        const code = from === to ? "Fork" : "BadConsistency";
        await refused(code, () => verifyConsistency(other, next, proof));
        await refused("BadConsistency", () => verifyConsistency(old, next, [...proof, old.root]));
        if (from < to) {
          await refused("Shrunk", () => verifyConsistency(next, old, proof));
          await refused("BadConsistency", () => verifyConsistency(old, next, proof.slice(1)));
        }
      }
    }
  });

  test("checkpoints have one spelling and one signer", async () => {
    const network = await party.Network.create();
    const { checkpoint } = await network.roster();
    const { coordinator, size } = await verifyCheckpoint(checkpoint);
    same([coordinator, size], [network.origin, 2]);
    const witness = `${checkpoint}\u2014 witness.example AAAAAAA=\n`;
    same((await verifyCheckpoint(witness, network.origin)).size, 2);
    await refused("WrongCoordinator", () => verifyCheckpoint(checkpoint, "0".repeat(64)));
    const [origin, , root] = checkpoint.split("\n");
    const signature = checkpoint.split("\n\n")[1];
    const another = (body) => () => verifyCheckpoint(`${body}\n\n${signature}`);
    await refused("BadSignature", another(`${origin}\n3\n${root}`));
    for (const body of [
      `${origin}\n02\n${root}`,
      `${origin}\n+2\n${root}`,
      `${origin}\n9007199254740993\n${root}`,
      `${origin}\n2\n${root.slice(0, -1)}`,
      `${origin}\n2\n${root}\nmore`,
      `iris-log/${"0".repeat(64)}\n2\n${root}`,
    ]) {
      await refused("Malformed", another(body), body);
    }
    for (const text of ["", "\n\n", checkpoint.slice(0, -1), `${checkpoint}\n`, `${checkpoint}x`]) {
      await refused("Malformed", () => verifyCheckpoint(text), JSON.stringify(text));
    }
  });

  test("a roster is believed when it is signed, logged and fresh", async () => {
    const network = await party.Network.create({ nodes: 3 });
    const trust = createTrust();
    const proven = [];
    const consistency = async (from, to) => {
      proven.push([from, to]);
      return (await (await network.fetch(`https://x/log/consistency?from=${from}&to=${to}`, {
        headers: { authorization: "Bearer iris_key" },
      })).json()).hashes;
    };
    const first = await network.roster();
    same((await verifyRoster(trust, first, { consistency })).nodes.length, 3);
    const second = await network.roster();
    await verifyRoster(trust, second, { consistency });
    same(trust.checkpoint, second.checkpoint);
    // An answer that was overtaken does not set the log back.
    await verifyRoster(trust, first, { consistency });
    same([trust.checkpoint, proven], [second.checkpoint, [[2, 3], [2, 3]]]);
    const before = JSON.stringify(trust);
    const fails = (code, signed, now) =>
      refused(code, () => verifyRoster(trust, signed, { consistency, now }));
    const third = await network.roster();
    await fails("BadInclusion", { ...third, roster: third.roster.replace("many", "some") });
    await fails("BadInclusion", { ...third, index: 1 });
    await fails("NotInLog", { ...third, index: 4 });
    await fails("Malformed", { ...third, hashes: ["x"] });
    await fails("Malformed", { ...third, roster: undefined });
    await fails("Stale", third, Date.now() + 901_000);
    await fails("ClockSkew", third, Date.now() - 302_000);
    const other = await party.Network.create();
    await fails("WrongCoordinator", await other.roster());
    same(JSON.stringify(trust), before, "what is not believed changes nothing");
  });

  test("a coordinator that shows two logs is caught, with the evidence", async () => {
    const network = await party.Network.create();
    const trust = createTrust({ coordinator: network.origin });
    const consistency = async (from, to) => {
      const { hashes } = await (await network.fetch(`https://x/log/consistency?from=${from}&to=${to}`, {
        headers: { authorization: "Bearer iris_key" },
      })).json();
      return hashes;
    };
    const { checkpoint } = await network.roster();
    await verifyRoster(trust, await network.roster(), { consistency });
    network.entries[1] = new Uint8Array([1]);
    for (const length of [2, 3]) {
      network.entries.length = length;
      const shown = await network.roster();
      const error = await refused("Fork", () => verifyRoster(trust, shown, { consistency }));
      same(error.evidence.checkpoints, [trust.checkpoint, shown.checkpoint]);
      holds(!error.evidence.checkpoints.includes(checkpoint), "both are of now");
    }
  });

  test("two logs shown at the same time are caught as well", async () => {
    const network = await party.Network.create();
    const trust = createTrust({ coordinator: network.origin });
    await verifyRoster(trust, await network.roster(), { consistency: async () => [] });
    // Each goes on from what is known, and from nothing of the other's.
    const [shown, proofs] = [[], []];
    for (const age of [0, 1]) {
      network.age = age;
      shown.push(await network.roster());
      const hashes = await network.consistency(network.entries.length - 1, network.entries.length);
      proofs.push(hashes.map((hash) => btoa(String.fromCharCode(...hash)).replaceAll("+", "-")
        .replaceAll("/", "_").replaceAll("=", "")));
      network.entries.pop();
    }
    const verified = await Promise.allSettled(
      shown.map((each, which) =>
        verifyRoster(trust, each, { consistency: async () => proofs[which] })),
    );
    same(verified[0].status, "fulfilled");
    same(verified[1].reason?.code, "Fork");
    same(trust.checkpoint, shown[0].checkpoint);
  });

  test("a node is known by its id, and never goes back to an older key", async () => {
    const network = await party.Network.create({ nodes: 2 });
    const trust = createTrust({ coordinator: network.origin });
    const [first, second] = network.nodes;
    const encoded = ({ certificate }) =>
      btoa(String.fromCharCode(...certificate)).replaceAll("+", "-").replaceAll("/", "_")
        .replaceAll("=", "");
    await verifyNode(trust, first.id, encoded(first));
    await refused("WrongNode", () => verifyNode(trust, second.id, encoded(first)));
    const { origin } = network;
    const older = await first.party.certificate({ origin, serial: Date.now() - 1_000_000 });
    const back = encoded({ certificate: older });
    await refused("OldSerial", () => verifyNode(trust, first.id, back));
    const kept = JSON.parse(JSON.stringify(trust));
    await refused("OldSerial", () => verifyNode(kept, first.id, back));
    await refused("Malformed", () => verifyNode(trust, first.id, `${encoded(first)}=`));
  });
}

// ---------------------------------------------------------------------------- chats

const TYPES = ["opened", "text", "text", "finished", "receipt"];
const types = (events) => events.map(({ type }) => type);

function chatsOf(test) {
  test("a chat is answered, and says who could read it", async () => {
    const network = await party.Network.create();
    const trust = createTrust();
    let prompt;
    network.nodes[0].act = async (opened, wire) => {
      prompt = opened;
      holds(!toHex(wire).includes(toHex(new TextEncoder().encode("messages"))), "it is sealed");
      return party.answer(opened);
    };
    const events = await collect(chat(network.options(trust)));
    same(types(events), TYPES);
    same(events[0], { type: "opened", node: network.nodes[0].id, privacy: "sealed" });
    same([prompt.stream, prompt.operation], [true, party.Operation.Chat]);
    same(JSON.parse(prompt.body).model, network.model);
    same(prompt.answer.about.shape, Shape.Paced);
    same(trust.coordinator, network.origin);
    trust.own.push(network.nodes[0].id);
    const own = await collect(chat(network.options(trust, { policy: "own" })));
    same(own[0].privacy, "own");
    same(prompt.answer.about.shape, Shape.Off);
  });

  for (const [name, refuse] of Object.entries({ busy: party.busy, offline: party.offline })) {
    test(`the request is sealed anew when a node is ${name}`, async () => {
      const network = await party.Network.create({ nodes: 3 });
      const wires = [];
      for (const node of network.nodes) {
        node.act = async (opened, wire) => {
          wires.push(toHex(wire));
          return wires.length < 3 ? refuse() : party.answer(opened);
        };
      }
      same(types(await collect(chat(network.options(createTrust())))), TYPES);
      same([new Set(wires).size, new Set(network.asked).size], [3, 3]);
      const tasks = wires.map((wire) => wire.slice(26, 58));
      same(new Set(tasks).size, 3, "tasks");
    });
  }

  test("the request is sealed to the new key of a node that changed it", async () => {
    const network = await party.Network.create();
    const [node] = network.nodes;
    const old = node.act;
    node.act = async () => {
      node.party.key = await party.agreement();
      node.certificate = await node.party.certificate({ origin: network.origin });
      node.act = old;
      return party.stale(node.certificate);
    };
    same(types(await collect(chat(network.options(createTrust())))), TYPES);
    same(network.asked.length, 2);
  });

  test("a key that somebody else offers is not sealed to", async () => {
    const network = await party.Network.create({ nodes: 2 });
    const [first, second] = network.nodes;
    first.act = async () => party.stale(second.certificate);
    second.act = async () => party.stale(first.certificate);
    await refused("WrongNode", () => collect(chat(network.options(createTrust()))));
    const trust = createTrust();
    const role = 2;
    const own = await first.party.certificate({ origin: network.origin, role });
    first.act = second.act = async () => party.stale(own);
    const error = await collect(chat(network.options(trust))).catch((thrown) => thrown);
    holds(["WrongRole", "WrongNode"].includes(error.code), error.code);
  });

  test("nobody free in time is an error, and many who refuse are noticed", async () => {
    const network = await party.Network.create({ nodes: 3 });
    for (const node of network.nodes) node.act = async () => party.busy();
    const error = await refused("Busy", () => collect(chat(network.options(createTrust()))));
    same(error.cause.status, 429);
    const patience = 5_000;
    const steered = () => collect(chat(network.options(createTrust(), { patience })));
    await refused("SteeringSuspected", steered);
    for (const node of network.nodes) node.free = "none";
    await refused("Busy", () => collect(chat(network.options(createTrust(), { patience: 1_500 }))));
  });

  test("guards are kept, and own nodes are the only ones where that is asked for", async () => {
    const network = await party.Network.create({ nodes: 9 });
    let trust = createTrust();
    for (let turn = 0; turn < 12; turn += 1) {
      await collect(chat(network.options(trust)));
      trust = JSON.parse(JSON.stringify(trust));
    }
    holds(new Set(network.asked).size <= 3, `${new Set(network.asked).size} nodes were asked`);
    const own = createTrust({ own: [network.nodes[4].id] });
    network.asked.length = 0;
    for (let turn = 0; turn < 4; turn += 1) {
      await collect(chat(network.options(own, { policy: "own" })));
    }
    same([...new Set(network.asked)], [network.nodes[4].id]);
    const none = network.options(createTrust(), { policy: "own" });
    await refused("NoNode", () => collect(chat(none)));
  });

  test("an answer that breaks is an error after what had come", async () => {
    const network = await party.Network.create();
    const [node] = network.nodes;
    const advice = party.record(4, new TextEncoder().encode('{"error":{"message":"gone"}}'));
    node.act = async (opened) => [...(await party.answer(opened)).slice(0, 3), advice];
    const events = [];
    const error = await refused("Truncated", async () => {
      for await (const event of chat(network.options(createTrust()))) events.push(event);
    });
    same([types(events), error.advice], [["opened", "text", "text"], { message: "gone" }]);
    node.act = async (opened) => (await party.answer(opened)).toSpliced(2, 1);
    await refused("Rejected", () => collect(chat(network.options(createTrust()))));
  });

  test("an answer whose receipt is missing is complete and says so", async () => {
    const network = await party.Network.create();
    network.nodes[0].act = async (opened) => (await party.answer(opened)).slice(0, -1);
    const events = await collect(chat(network.options(createTrust())));
    same(types(events), ["opened", "text", "text", "finished", "unreceipted"]);
    same(events.at(-1).error.code, "ReceiptMissing");
  });

  test("a node that did not begin is replaced by the next", async () => {
    const network = await party.Network.create({ nodes: 2 });
    let turns = 0;
    for (const node of network.nodes) {
      node.act = async (opened) => {
        turns += 1;
        return turns === 1 ? [] : party.answer(opened);
      };
    }
    same(types(await collect(chat(network.options(createTrust())))), TYPES);
    turns = -1;
    for (const node of network.nodes) {
      node.act = async ({ answer }) => {
        turns += 1;
        const error = { kind: turns === 0 ? "busy" : "failed" };
        return [answer.opening(), await answer.fails(error)];
      };
    }
    const error = await refused("Failed", () => collect(chat(network.options(createTrust()))));
    same([error.error.kind, turns], ["failed", 1]);
  });

  test("a 200 in plain JSON is no answer", async () => {
    const network = await party.Network.create();
    network.nodes[0].act = async () => party.json(200, { choices: [{ message: {} }] });
    await refused("Malformed", () => collect(chat(network.options(createTrust()))));
    network.nodes[0].act = async () => party.sealedResponse([new TextEncoder().encode("{}{}{}")]);
    await refused("RecordTooLong", () => collect(chat(network.options(createTrust()))));
  });

  test("a coordinator that cannot or will not is no reason to ask in clear", async () => {
    const network = await party.Network.create();
    const asked = [];
    const failing = (status) => async (url, init) => {
      asked.push([new URL(url).pathname, init.method ?? "GET"]);
      return party.json(status, { error: { code: "not_found", message: "no such path" } });
    };
    for (const status of [404, 500, 401]) {
      const fetch = failing(status);
      const error = await refused("Refused", () =>
        collect(chat(network.options(createTrust(), { fetch }))),
      );
      same([error.status, error.message], [status, "no such path"]);
    }
    const fetch = () => Promise.reject(new TypeError("fetch failed"));
    await refused("Unreachable", () => collect(chat(network.options(createTrust(), { fetch }))));
    same(asked, Array(3).fill(["/roster", "GET"]));
  });

  test("leaving the loop cancels the request", async () => {
    const network = await party.Network.create();
    let isCancelled = false;
    network.nodes[0].act = async (opened) => {
      const records = await party.answer(opened);
      const body = new ReadableStream({
        pull: (controller) => controller.enqueue(records.shift() ?? party.record(0, [])),
        cancel: () => {
          isCancelled = true;
        },
      });
      const headers = { "content-type": "application/vnd.iris.sealed" };
      return new Response(body, { headers });
    };
    for await (const event of chat(network.options(createTrust()))) {
      if (event.type === "text") break;
    }
    holds(isCancelled, "the body was not cancelled");
  });
}
