import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { Script, client, connect, models, network, post, refused } from "./network.mjs";

const HELLO = [{ role: "user", content: "Hello" }];
const chat = (request) => client.chat.completions.create(request);

function comesBackSoon(error) {
  const seconds = Number(error.headers.get("retry-after"));
  assert.ok(seconds >= 1 && seconds <= 60, `Retry-After: ${error.headers.get("retry-after")}`);
}

for (const stream of [false, true]) {
  test(`an unknown key is an authentication error (stream: ${stream})`, async () => {
    const stranger = connect("iris_wrong").chat.completions;
    const error = await refused(OpenAI.AuthenticationError, () =>
      stranger.create({ model: models.engine, messages: HELLO, stream }),
    );
    assert.deepEqual([error.code, error.type], ["invalid_api_key", "invalid_request_error"]);
    assert.equal(error.headers.get("www-authenticate"), "Bearer");
  });

  test(`an unknown model is not found (stream: ${stream})`, async () => {
    const error = await refused(OpenAI.NotFoundError, () =>
      chat({ model: "no-such-model", messages: HELLO, stream }),
    );
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
  });

  test(`a model whose node has gone is unavailable for a while (stream: ${stream})`, async () => {
    const error = await refused(OpenAI.InternalServerError, () =>
      chat({ model: models.gone, messages: HELLO, stream }),
    );
    assert.deepEqual([error.status, error.type], [503, "server_error"]);
    comesBackSoon(error);
  });

  test(`a too long prompt is the caller's fault (stream: ${stream})`, async () => {
    const { messages } = new Script("too-long");
    const error = await refused(OpenAI.BadRequestError, () =>
      chat({ model: models.scripted, messages, stream }),
    );
    assert.equal(error.code, "context_length_exceeded");
  });
}

test("the key of a node may not ask", async () => {
  const node = connect(network.node_key).chat.completions;
  await refused(OpenAI.PermissionDeniedError, () =>
    node.create({ model: models.engine, messages: HELLO }),
  );
});

test("a busy model says when to come back", async () => {
  const holder = new Script("hold", network.single_url);
  const held = await chat({ model: models.single, messages: holder.messages, stream: true });
  await held[Symbol.asyncIterator]().next();
  const { messages } = new Script("hello", network.single_url);
  const error = await refused(OpenAI.RateLimitError, () =>
    chat({ model: models.single, messages, stream: true }),
  );
  held.controller.abort();
  assert.equal(error.code, "rate_limit_exceeded");
  comesBackSoon(error);
  await holder.waitFor("left");
});

test("a client that retries gets its answer once the model is free", async () => {
  const patient = connect(network.key, 5).chat.completions;
  const holder = new Script("hold", network.single_url);
  const held = await chat({ model: models.single, messages: holder.messages, stream: true });
  await held[Symbol.asyncIterator]().next();
  const { messages } = new Script("hello", network.single_url);
  const waiting = patient.create({ model: models.single, messages }).then((answer) => answer);
  // By the time that this request is refused the earlier one has been, too.
  await refused(OpenAI.RateLimitError, () => chat({ model: models.single, messages: HELLO }));
  held.controller.abort();
  const answer = await waiting;
  assert.equal(answer.choices[0].message.content, network.greeting);
});

test("a wrong type is a bad request that names its member", async () => {
  const error = await refused(OpenAI.BadRequestError, () =>
    chat({ model: models.engine, messages: "not a list" }),
  );
  assert.deepEqual([error.type, error.param], ["invalid_request_error", "messages"]);
});

for (const body of ["", "{", "[]", "null", '{"a":1,"a":2}']) {
  test(`the malformed body '${body}' is a bad request`, async () => {
    const answer = await post(body);
    assert.equal(answer.status, 400);
    assert.equal(answer.headers.get("content-type"), "application/json");
    assert.ok(answer.headers.get("x-request-id"));
    const { error } = await answer.json();
    assert.deepEqual(Object.keys(error).sort(), ["code", "message", "param", "type"]);
    assert.equal(error.type, "invalid_request_error");
  });
}

test("a wrong method names the right one", async () => {
  const error = await refused(OpenAI.APIError, () => client.get("/chat/completions"));
  assert.equal(error.status, 405);
  assert.match(error.headers.get("allow"), /POST/);
});

test("an unknown path is not found", async () => {
  await refused(OpenAI.NotFoundError, () => client.get("/no/such/path"));
});

test("a too large body is refused", async () => {
  const content = "a".repeat(33 << 20);
  const error = await refused(OpenAI.APIError, () =>
    chat({ model: models.engine, messages: [{ role: "user", content }] }),
  );
  assert.equal(error.status, 413);
});
