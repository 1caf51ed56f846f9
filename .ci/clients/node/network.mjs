// What every test gets: the network's addresses and keys, and clients that do not retry.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as wait } from "node:timers/promises";

import OpenAI from "openai";

// A client that waits longer than this has found a fault.
export const TIMEOUT = 20_000;

export const network = JSON.parse(readFileSync(process.env.IRIS_TEST_NETWORK, "utf8"));
export const models = network.models;
export const client = connect(network.key);

export function connect(apiKey, maxRetries = 0) {
  return new OpenAI({ baseURL: network.base_url, apiKey, maxRetries, timeout: TIMEOUT });
}

// One request to a scripted server: the prompt for it, and what the server saw of it.
export class Script {
  constructor(action, server = network.scripted_url) {
    const marker = randomUUID();
    this.messages = [{ role: "user", content: `${marker} ${action}` }];
    this.url = `${server}/recorded?marker=${marker}`;
  }

  async recorded() {
    const answer = await fetch(this.url, { signal: AbortSignal.timeout(TIMEOUT) });
    return answer.json();
  }

  async waitFor(fact, limit = 5_000) {
    const end = performance.now() + limit;
    while (performance.now() < end) {
      const record = await this.recorded();
      if (fact in record) return record[fact];
      await wait(20);
    }
    assert.fail(`the scripted server saw no '${fact}' within ${limit} ms`);
  }
}

export async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

export function textOf(chunks) {
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}

// Expects a refusal of exactly one class, and returns it after checking what all refusals have.
export async function refused(kind, call) {
  const error = await call().then(
    () => assert.fail(`no ${kind.name} was thrown`),
    (thrown) => thrown,
  );
  assert.equal(error.constructor, kind, `${error.constructor.name}: ${error.message}`);
  assert.ok(error.requestID, "no x-request-id");
  assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
  return error;
}

export const post = (body, signal) =>
  fetch(`${network.base_url}/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${network.key}`, "content-type": "application/json" },
    body,
    signal: signal ?? AbortSignal.timeout(TIMEOUT),
  });
