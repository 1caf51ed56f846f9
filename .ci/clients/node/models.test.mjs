import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { client, models, refused } from "./network.mjs";

test("the list has every model with its members", async () => {
  const listed = new Map();
  for await (const model of client.models.list()) {
    assert.equal(model.object, "model");
    assert.ok(Number.isInteger(model.created) && model.created > 0);
    assert.equal(typeof model.owned_by, "string");
    listed.set(model.id, model);
  }
  for (const name of [models.engine, models.scripted, models.single]) {
    assert.ok(listed.has(name), `${name} is not listed`);
  }
});

for (const kind of ["engine", "scripted"]) {
  test(`the ${kind} model is found by its name`, async () => {
    assert.equal((await client.models.retrieve(models[kind])).id, models[kind]);
  });
}

test("a name with an unencoded slash is found", async () => {
  assert.equal((await client.get(`/models/${models.scripted}`)).id, models.scripted);
});

test("an unknown model is not found", async () => {
  const error = await refused(OpenAI.NotFoundError, () => client.models.retrieve("no-such-model"));
  assert.equal(error.code, "model_not_found");
});
