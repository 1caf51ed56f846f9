import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { Script, client, models, network, post } from "./network.mjs";

const chat = (request, options) => client.chat.completions.create(request, options);

test("a cut stream raises after what had come", async () => {
  const { messages } = new Script("cut");
  const stream = await chat({ model: models.scripted, messages, stream: true });
  let text = "";
  await assert.rejects(async () => {
    for await (const chunk of stream) {
      text += chunk.choices[0].delta.content ?? "";
      assert.equal(chunk.choices[0].finish_reason, null);
    }
  }, OpenAI.APIError);
  const words = Array.from({ length: network.cut_after }, (_, n) => `word${n}`);
  assert.deepEqual(text.trim().split(" "), words);
});

test("a cut stream ends with an error and without [DONE]", async () => {
  const { messages } = new Script("cut");
  const answer = await post(JSON.stringify({ model: models.scripted, messages, stream: true }));
  assert.equal(answer.status, 200);
  const text = await answer.text();
  assert.ok(!text.includes("[DONE]"));
  const events = text.split("\n").filter((line) => line.startsWith("data: "));
  const { error } = JSON.parse(events.at(-1).slice(6));
  assert.equal(error?.type, "server_error", events.at(-1));
});

test("a whole stream ends with [DONE], once", async () => {
  const { messages } = new Script("hello");
  const answer = await post(JSON.stringify({ model: models.scripted, messages, stream: true }));
  const text = await answer.text();
  assert.ok(text.endsWith("\n\ndata: [DONE]\n\n"));
  assert.equal(text.split("[DONE]").length, 2);
});

test("a cut answer that is not streamed is an error", async () => {
  const { messages } = new Script("cut");
  await assert.rejects(chat({ model: models.scripted, messages }), OpenAI.InternalServerError);
});

test("a caller who leaves a stream frees the node within a second", async () => {
  const held = new Script("hold");
  const stream = await chat({ model: models.scripted, messages: held.messages, stream: true });
  let chunks = 0;
  for await (const _ of stream) {
    chunks += 1;
    // Leaving the loop closes the connection.
    if (chunks === 3) break;
  }
  const left = Date.now() / 1000;
  const seconds = (await held.waitFor("left")) - left;
  assert.ok(seconds < 1, `the server was freed after ${seconds} s`);
});

test("a caller who gives up waiting frees the node within a second", async () => {
  const held = new Script("hold");
  const request = { model: models.scripted, messages: held.messages };
  await assert.rejects(chat(request, { timeout: 500 }), OpenAI.APIConnectionTimeoutError);
  const left = Date.now() / 1000;
  const seconds = (await held.waitFor("left")) - left;
  assert.ok(seconds < 1, `the server was freed after ${seconds} s`);
});
