// What is asked of a real network, in every engine.

import { Shape, chat, createTrust } from "../iris-seal.mjs";
import { collect, holds, refused, same } from "./check.mjs";

const QUESTION = [{ role: "user", content: "What is the capital of France?" }];
const ANSWER = "The capital of France is Paris.";

/** Returns the tests as `{ name, run }`. */
export function casesOfNetwork({ baseUrl, key, model }) {
  const cases = [];
  const test = (name, run) => cases.push({ name, run });
  const ask = (changes) => {
    const { request, ...others } = changes;
    const asked = { model, messages: QUESTION, temperature: 0, ...request };
    return chat({ baseUrl, key, trust: createTrust(), request: asked, ...others });
  };

  for (const [name, shape] of Object.entries(Shape)) {
    test(`a streamed answer comes sealed, shape ${name}`, async () => {
      const events = await collect(ask({ shape, request: { stream: true } }));
      const said = events.filter(({ type }) => type === "text").map(({ text }) => text);
      same(said.join(""), ANSWER);
      const [opened] = events;
      same([opened.type, opened.privacy], ["opened", "sealed"]);
      const finished = events.find(({ type }) => type === "finished");
      same(finished.reason, "stop");
      holds(finished.usage.completion_tokens > 0, "nothing was counted");
      const { type, receipt } = events.at(-1);
      same([type, receipt?.usage.completion_tokens % 64], ["receipt", 0]);
    });
  }

  test("a whole answer comes sealed", async () => {
    const events = await collect(ask({ shape: Shape.Off, request: {} }));
    same(events.map(({ type }) => type), ["opened", "whole", "finished", "receipt"]);
    const { choices } = JSON.parse(events[1].json);
    same(choices[0].message.content, ANSWER);
  });

  test("what the node refuses is said sealed", async () => {
    const request = { messages: "not a list" };
    const error = await refused("Failed", () => collect(ask({ shape: Shape.Off, request })));
    same(error.error.kind, "rejected");
  });

  test("trust is kept from one question to the next", async () => {
    const trust = createTrust();
    await collect(ask({ trust, shape: Shape.Off, request: {} }));
    const { coordinator, checkpoint } = trust;
    // A second later a new roster may be made, and the log has grown.
    const again = JSON.parse(JSON.stringify(trust));
    await collect(ask({ trust: again, shape: Shape.Off, request: {} }));
    same(again.coordinator, coordinator);
    holds(checkpoint !== null && Object.keys(again.guards).length === 1, "nothing was kept");
    const other = createTrust({ coordinator: "0".repeat(63) + "3" });
    await refused("WrongCoordinator", () => collect(ask({ trust: other, request: {} })));
  });

  test("nobody else is asked for one's own nodes", async () => {
    await refused("NoNode", () => collect(ask({ policy: "own", request: {} })));
  });

  test("a model that nobody has is an error", async () => {
    await refused("NoNode", () => collect(ask({ request: { model: "no-such-model" } })));
  });

  test("an unknown key is refused", async () => {
    const error = await refused("Refused", () => collect(ask({ key: "iris_wrong", request: {} })));
    same(error.status, 401);
  });

  return cases;
}
