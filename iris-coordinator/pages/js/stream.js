// Asks a question in one way or another, and tells what happens in one form:
//
//   { type: "node", node, model }       a node has it
//   { type: "step", ...}                what a divided task is at (see `GET /inference/{id}/events`)
//   { type: "text", text }              the answer goes on
//   { type: "queued", place }           it stands in line
//   { type: "limit", left }             what is left of the limits
//   { type: "task", task }              under which name the coordinator knows it
//   { type: "privacy", privacy }        who could read it
//   { type: "unproven", message }       it is complete, and the node's receipt for it is not there
//   { type: "done", usage, reason }     it is complete; nothing else means that

import { ApiError, call, open, token } from "./api.js";
import { events } from "./events.js";

const broken = () => new ApiError(0, { code: "interrupted", message: "" });

/** Reads what is left of a limit from an answer's headers; the tighter of requests and tokens. */
export function left(headers) {
  const read = (kind) => {
    const limit = Number(headers.get(`x-ratelimit-limit-${kind}`));
    const remaining = Number(headers.get(`x-ratelimit-remaining-${kind}`));
    return limit > 0 ? { kind, limit, remaining, reset: headers.get(`x-ratelimit-reset-${kind}`) } : null;
  };
  const found = [read("requests"), read("tokens")].filter(Boolean);
  return found.sort((a, b) => a.remaining / a.limit - b.remaining / b.limit)[0] ?? null;
}

/** One question, as OpenAI's programs ask it. */
async function* single({ model, messages, signal }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  const answer = await open("/v1/chat/completions", { body, signal });
  yield { type: "limit", left: left(answer.headers) };
  yield { type: "task", task: answer.headers.get("x-iris-task") };
  const node = answer.headers.get("x-iris-node");
  if (node) yield { type: "node", node };
  let reason;
  let usage;
  for await (const data of events(answer)) {
    if (data === "[DONE]") {
      yield { type: "done", usage, reason };
      return;
    }
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(200, event.error);
    const choice = event.choices?.[0];
    if (choice?.delta?.content) yield { type: "text", text: choice.delta.content };
    reason = choice?.finish_reason ?? reason;
    usage = event.usage ?? usage;
  }
  throw broken();
}

/** A question of somebody without a key. */
async function* anonymous({ messages, signal }) {
  const answer = await open("/api/chat/stream", { body: { messages }, signal, anonymous: true });
  yield { type: "limit", left: left(answer.headers) };
  for await (const data of events(answer)) {
    const event = JSON.parse(data);
    if (event.type === "queued") yield { type: "queued", place: event.place_in_line };
    if (event.type === "start") yield { type: "node", node: event.node, model: event.model };
    if (event.type === "chunk") yield { type: "text", text: event.text };
    if (event.type === "error") throw new ApiError(200, event.error);
    if (event.type === "end") {
      yield { type: "done", usage: event.usage, reason: event.finish_reason };
      return;
    }
  }
  throw broken();
}

/** A question that the coordinator divides among nodes. */
async function* divided({ mode, model, messages, document, signal }) {
  const body = { mode, model, messages, priority: "high", ...(document ? { document } : {}) };
  const answer = await open("/inference", { body, signal, headers: { accept: "text/event-stream" } });
  const task = answer.headers.get("x-iris-task");
  yield { type: "limit", left: left(answer.headers) };
  yield { type: "task", task };
  let isOver = false;
  try {
    for await (const data of events(answer)) {
      const event = JSON.parse(data);
      if (event.event === "text") yield { type: "text", text: event.text };
      else if (event.event !== "ended") yield { type: "step", ...event };
      else {
        isOver = true;
        if (event.end !== "finished") {
          throw new ApiError(200, { code: event.error?.code ?? event.end, message: event.error?.message ?? event.reason ?? event.end });
        }
        const status = await call(`/inference/${task}`);
        yield { type: "whole", text: event.output?.text ?? status.result?.text };
        yield { type: "done", usage: status.usage, reason: "stop" };
        return;
      }
    }
    throw broken();
  } finally {
    // It would go on without its reader.
    if (!isOver && task) call(`/inference/${task}`, { method: "DELETE" }).catch(() => {});
  }
}

const TRUST = "iris-trust";

/** Waits for a lock that all tabs share, and returns what releases it. */
const lock = (name, signal) =>
  new Promise((resolve, reject) => {
    // Where there are no locks there is no sealing either, and that says so itself.
    if (!navigator.locks) return resolve(() => {});
    navigator.locks.request(name, { signal }, () => new Promise(resolve)).catch(reject);
  });

/** Reads what is remembered of the coordinator and its nodes. */
function remembered(createTrust) {
  try {
    return JSON.parse(localStorage.getItem(TRUST)) ?? createTrust();
  } catch {
    return createTrust();
  }
}

function remember(trust) {
  try {
    localStorage.setItem(TRUST, JSON.stringify(trust));
  } catch {
    // The next visit is the first one then.
  }
}

/** A question that only the node can read that answers it. */
async function* sealed({ model, messages, signal }) {
  const { chat, createTrust } = await import("../vendor/iris-seal.mjs");
  const key = await token();
  // What is remembered changes until an answer has begun; tabs take turns in that.
  let release = await lock(TRUST, signal);
  const trust = remembered(createTrust);
  const settle = () => {
    if (!release) return;
    remember(trust);
    release();
    release = null;
  };
  try {
    const request = { model, messages, stream: true };
    for await (const event of chat({ baseUrl: location.origin, key, trust, request, signal })) {
      if (event.type !== "opened") settle();
      if (event.type === "opened") {
        yield { type: "node", node: event.node, model };
        yield { type: "privacy", privacy: event.privacy };
      }
      if (event.type === "text") yield { type: "text", text: event.text };
      if (event.type === "json") yield { type: "text", text: event.json?.choices?.[0]?.delta?.content ?? "" };
      if (event.type === "finished") yield { type: "done", usage: event.usage, reason: event.reason };
      if (event.type === "unreceipted") yield { type: "unproven", message: event.error?.message };
    }
  } finally {
    settle();
  }
}

/** Asks, in the way that `mode` names. */
export function ask(question) {
  if (question.mode === "anonymous") return anonymous(question);
  if (question.mode === "single") return single(question);
  if (question.mode === "sealed") return sealed(question);
  return divided(question);
}
