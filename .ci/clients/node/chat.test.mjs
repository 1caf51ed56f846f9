import assert from "node:assert/strict";
import { test } from "node:test";

import { Script, client, collect, models, network, textOf } from "./network.mjs";

const QUESTION = [{ role: "user", content: "What is the capital of France?" }];
const ANSWER = "The capital of France is Paris.";
const ASK = { model: models.engine, messages: QUESTION };
const TOOL = {
  type: "function",
  function: {
    name: "weather",
    description: "Tells the weather",
    parameters: { type: "object", properties: { city: { type: "string" } } },
  },
};
const SCHEMA = {
  type: "json_schema",
  json_schema: {
    name: "city",
    strict: true,
    schema: { type: "object", properties: { name: { type: "string" } } },
  },
};

const chat = (request) => client.chat.completions.create(request);
const stream = async (request) => collect(await chat({ ...request, stream: true }));

test("the engine answers", async () => {
  const answer = await chat(ASK);
  assert.equal(answer.object, "chat.completion");
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.model, models.engine);
  assert.equal(answer.choices.length, 1);
  const [choice] = answer.choices;
  assert.equal(choice.message.role, "assistant");
  assert.equal(choice.message.content, ANSWER);
  assert.equal(choice.finish_reason, "stop");
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.ok(prompt_tokens > 0 && completion_tokens > 0);
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
});

test("the engine streams the same answer", async () => {
  const chunks = await stream(ASK);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(textOf(chunks), ANSWER);
  assert.ok(chunks.length > 3, "the answer came in one piece");
  assert.equal(new Set(chunks.map((c) => `${c.id} ${c.created} ${c.model}`)).size, 1);
  const reasons = chunks.map((chunk) => chunk.choices[0].finish_reason);
  assert.deepEqual(reasons, [...Array(chunks.length - 1).fill(null), "stop"]);
  assert.ok(chunks.every((chunk) => !chunk.usage));
});

test("usage comes in a last chunk when asked for", async () => {
  const whole = await chat(ASK);
  const chunks = await stream({ ...ASK, stream_options: { include_usage: true } });
  const last = chunks.pop();
  assert.ok(chunks.every((chunk) => chunk.usage === null));
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, whole.usage);
});

test("stop ends the answer before its text", async () => {
  for (const [stop, expected] of [
    [" Paris", "The capital of France is"],
    [[" of", " Paris"], "The capital"],
  ]) {
    const [choice] = (await chat({ ...ASK, stop })).choices;
    assert.deepEqual([choice.message.content, choice.finish_reason], [expected, "stop"]);
    assert.equal(textOf(await stream({ ...ASK, stop })), expected);
  }
});

for (const name of ["max_tokens", "max_completion_tokens"]) {
  test(`${name} ends the answer`, async () => {
    const answer = await chat({ ...ASK, [name]: 2 });
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, 2);
    assert.ok(ANSWER.startsWith(answer.choices[0].message.content));
    const chunks = await stream({ ...ASK, [name]: 2 });
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  });
}

test("a text completion is answered", async () => {
  const ask = { model: models.engine, prompt: "The capital of France", max_tokens: 4 };
  const whole = await client.completions.create(ask);
  assert.equal(whole.object, "text_completion");
  const chunks = await collect(await client.completions.create({ ...ask, stream: true }));
  const text = chunks.map((chunk) => chunk.choices[0].text).join("");
  assert.equal(text, whole.choices[0].text);
});

test("another server answers through its node", async () => {
  const answer = await chat({ model: models.scripted, messages: new Script("hello").messages });
  assert.equal(answer.model, models.scripted);
  assert.equal(answer.choices[0].message.content, network.greeting);
  assert.deepEqual(answer.usage, network.usage);
});

test("another server streams through its node", async () => {
  const chunks = await stream({
    model: models.scripted,
    messages: new Script("hello").messages,
    stream_options: { include_usage: true },
  });
  assert.equal(textOf(chunks), network.greeting);
  assert.deepEqual(chunks.at(-1).usage, network.usage);
});

for (const streamed of [false, true]) {
  test(`a request reaches the server unchanged (stream: ${streamed})`, async () => {
    const script = new Script("tool");
    const request = {
      model: models.scripted,
      messages: [{ role: "system", content: 'Be brief. ä"\\\n' }, ...script.messages],
      tools: [TOOL],
      tool_choice: { type: "function", function: { name: "weather" } },
      parallel_tool_calls: false,
      response_format: SCHEMA,
      temperature: 0.25,
      top_p: 0.5,
      stop: ["END"],
      max_tokens: 77,
      seed: 7,
      user: "somebody",
      top_k: 40,
      chat_template_kwargs: { thinking: false },
    };
    const answer = await chat({ ...request, stream: streamed });
    if (streamed) await collect(answer);
    const { stream: asked, stream_options: _, ...received } = (await script.recorded()).body;
    assert.equal(asked, streamed);
    // What is left of one caller's prompt would show in the times of another's.
    const added = network.privacy === "sealed" ? { cache_prompt: false } : {};
    assert.deepEqual(received, { ...request, ...added });
  });
}

test("a tool call comes back", async () => {
  const { messages } = new Script("tool");
  const [choice] = (await chat({ model: models.scripted, messages, tools: [TOOL] })).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.equal(choice.message.content, null);
  const [call] = choice.message.tool_calls;
  assert.deepEqual([call.id, call.function.name], ["call_1", "weather"]);
  assert.equal(call.function.arguments, '{"city":"Paris"}');
});

test("a streamed tool call is put together by the client", async () => {
  const { messages } = new Script("tool");
  const running = client.chat.completions.stream({
    model: models.scripted,
    messages,
    tools: [TOOL],
  });
  const answer = await running.finalChatCompletion();
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  const [call] = answer.choices[0].message.tool_calls;
  assert.deepEqual([call.id, call.function.name], ["call_1", "weather"]);
  assert.equal(call.function.arguments, '{"city":"Paris"}');
});

test("answers name their request, node and privacy", async () => {
  const { messages } = new Script("hello");
  const asked = chat({ model: models.scripted, messages });
  const { response, request_id } = await asked.withResponse();
  assert.ok(request_id);
  assert.equal(response.headers.get("x-request-id"), request_id);
  assert.ok(response.headers.get("x-iris-node"));
  assert.equal(response.headers.get("x-iris-privacy"), network.privacy);
});
