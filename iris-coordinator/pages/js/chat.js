// The chat.

import { call, strangers, who } from "./api.js";
import { $, h, icon } from "./dom.js";
import { clock, duration, number, text } from "./i18n.js";
import { note as noteInLog } from "./log.js";
import { copy, fault, notice } from "./shell.js";
import { ask } from "./stream.js";
import * as talks from "./talks.js";

/** Longest document, in bytes: what a request may have, less what goes around it. */
const LONGEST_DOCUMENT = 24 * 2 ** 20;
/** Milliseconds between two looks at an answer that is being written. */
const REDRAW = 60;

const messages = $("messages");
const question = $("question");
const compact = matchMedia("(max-width: 860px)");

let talk = fresh();
let document_ = null;
/** What is being answered: `{ controller }`. */
let running = null;
let isLetIn = {};

function fresh() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()), updated: Date.now(), messages: [] };
}

// --------------------------------------------------------------------------------- its formatting

/** What formats answers is most of what the page weighs, and comes when there is one to expect. */
let markdown = null;
let loading = null;
const load = () =>
  (loading ??= import("./markdown.js").then(
    (loaded) => (markdown = loaded),
    // Without a connection texts stay as they are.
    () => (loading = null),
  ));

/** Shows a text formatted, or for the moment as it is. */
function show(body, content, isWhole) {
  if (markdown) return markdown.show(body, content, isWhole);
  body.textContent = content;
  load().then(() => markdown?.show(body, content, isWhole));
}

// ------------------------------------------------------------------------------- the conversation

/** Makes the element of a message, and what shows the rest of an answer in it. */
function messageElement(message, place) {
  const isMine = message.role === "user";
  const body = h("div", { class: "body", raw: true });
  if (isMine) body.textContent = message.content;
  const element = h("article", { class: `message ${isMine ? "mine" : "theirs"}`, label: isMine ? "chat.you" : "chat.answer" });
  if (message.document) {
    element.append(h("p", { class: "chosen" }, icon("file"), h("span", { raw: true }, message.document.name)));
  }
  const work = h("div", { class: "work" });
  if (!isMine) element.append(work);
  element.append(body);
  const foot = h("div", { class: "foot" });
  element.append(foot);
  if (!isMine) {
    if (message.content) show(body, message.content, true);
    if (message.steps?.length) work.append(stepsElement(message.steps, true));
    finish(foot, message, place);
    if (message.error) element.insertBefore(fault(message.error), foot);
  } else {
    foot.append(
      action("edit", "chat.edit", () => edit(place)),
      action("copy", "chat.copy", (button) => copy(button, message.content)),
    );
  }
  return { element, body, work, foot };
}

function action(picture, label, act) {
  const button = h("button", { type: "button", class: "quiet", label }, icon(picture));
  button.addEventListener("click", () => act(button));
  return button;
}

/** Says under an answer who gave it, and offers what can be done with it. */
function finish(foot, message, place) {
  const facts = [];
  if (message.privacy) {
    facts.push(h("span", { class: `badge ${message.privacy}` }, icon(message.privacy === "open" ? "open" : "lock"),
      h("span", { t: `privacy.${message.privacy}` })));
  }
  if (message.node) facts.push(h("span", { class: "fact" }, icon("node"), h("span", { raw: true, title: message.node }, shortened(message.node))));
  if (message.model) facts.push(h("span", { class: "fact", raw: true }, message.model));
  if (message.took) facts.push(h("span", { class: "fact", t: "chat.took", values: { time: duration(message.took) } }));
  if (message.usage?.completion_tokens) {
    facts.push(h("span", { class: "fact", t: "chat.tokens", values: { n: number(message.usage.completion_tokens) } }));
  }
  if (message.task && message.steps) facts.push(jobLink(message.task));
  if (message.stopped) facts.push(h("span", { class: "fact", t: "chat.stopped" }));
  if (message.reason === "length") facts.push(h("span", { class: "fact warn", t: "chat.cut" }));
  if (message.unproven) facts.push(h("span", { class: "fact warn", t: "chat.unproven" }));
  foot.replaceChildren(
    ...facts,
    h("span", { class: "grow" }),
    action("copy", "chat.copy", (button) => copy(button, message.content)),
    action("retry", "chat.retry", () => retry(place)),
  );
}

/** Leads to the page of a divided task, in a tab that is signed in as this one. */
const jobLink = (task) =>
  h("a", { class: "fact", href: `/jobs/${encodeURIComponent(task)}`, target: "_blank", rel: "opener", t: "chat.job" });

const shortened = (node) => node.slice(0, 8);

function draw() {
  if (talk.messages.length === 0) {
    messages.replaceChildren(welcome());
    return;
  }
  const shown = talk.messages.map((message, place) => messageElement(message, place).element);
  messages.replaceChildren(...shown);
  scrollDown(true);
}

function welcome() {
  const examples = ["chat.example.1", "chat.example.2", "chat.example.3"].map((key) => {
    const button = h("button", { type: "button", class: "example", t: key });
    button.addEventListener("click", () => {
      question.value = text(key);
      grow();
      question.focus();
    });
    return button;
  });
  const card = h("div", { class: "welcome" }, h("h2", { t: "chat.welcome" }), h("p", { t: "chat.welcome.more" }));
  if (who()) card.append(h("div", { class: "examples" }, examples));
  else card.append(signInHint());
  return card;
}

function signInHint() {
  return h("p", { class: "hint" },
    h("span", { t: isLetIn.public_chat ? "chat.stranger" : "chat.members" }),
    " ",
    h("a", { href: "/account", t: "chat.signin" }));
}

function scrollDown(always) {
  const room = messages.scrollHeight - messages.scrollTop - messages.clientHeight;
  if (always || room < 120) messages.scrollTop = messages.scrollHeight;
}

// ------------------------------------------------------------------------------------------- steps

/** Notes an event of a divided task in its steps. */
function note(steps, event) {
  const find = () => {
    let step = steps.find((step) => step.unit === event.unit);
    if (!step) steps.push((step = { unit: event.unit, state: "waiting", nodes: [] }));
    return step;
  };
  if (!event.unit) return;
  const step = find();
  if (event.event === "started") {
    step.state = "running";
    if (event.node) step.nodes.push({ node: event.node, number: event.number, state: "running" });
  }
  const asked = step.nodes.find((asked) => asked.number === event.number);
  if (event.event === "answered" && asked) Object.assign(asked, { state: "finished", took: event.took_ms });
  if (event.event === "failed" && asked) Object.assign(asked, { state: "failed" });
  if (event.event === "agreed") Object.assign(step, { agreed: event.agreed.length, dissent: event.dissent.length });
  if (event.event === "over") step.state = event.state;
}

function stepsElement(steps, isOver) {
  const done = steps.filter((step) => !["waiting", "running"].includes(step.state)).length;
  const rows = steps.map((step) =>
    h("li", { class: `step ${step.state}` },
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span", { class: "unit", raw: true }, step.unit),
      h("span", { class: "unseen", t: `step.${step.state}` }),
      ...step.nodes.map((asked) =>
        h("span", { class: `worker ${asked.state}` }, icon("node"), h("span", { raw: true, title: asked.node }, shortened(asked.node)),
          asked.took && h("span", { raw: true }, duration(asked.took)))),
      step.agreed !== undefined && h("span", { class: "fact", t: "step.agreed", values: { agreed: step.agreed, all: step.agreed + step.dissent } })));
  return h("details", isOver ? {} : { open: true },
    h("summary", null, h("span", { t: "step.summary", values: { done, all: steps.length } })),
    h("ol", { class: "steps" }, rows));
}

// ------------------------------------------------------------------------------------------ asking

/** Returns the model to ask; for one node alone it may be left open. */
function chosenModel() {
  const [first] = [...$("model").options].map((option) => option.value).filter(Boolean);
  return $("model").value || (mode() === "single" ? undefined : first);
}

const mode = () => (who() ? $("mode").value : "anonymous");

async function send(content, document) {
  if (running || !content.trim()) return;
  const before = talk.messages.map(({ role, content }) => ({ role, content })).filter(({ content }) => content);
  if (talk.messages.length === 0) {
    messages.replaceChildren();
    talk.title = content.trim().slice(0, 80);
  }
  talk.messages.push({ role: "user", content, ...(document ? { document } : {}) });
  messages.append(messageElement(talk.messages.at(-1), talk.messages.length - 1).element);
  await answer([...before, { role: "user", content }], document);
}

async function answer(asked, document) {
  const message = { role: "assistant", content: "", privacy: mode() === "sealed" ? null : "open" };
  const place = talk.messages.push(message) - 1;
  const parts = messageElement(message, place);
  parts.foot.replaceChildren(h("span", { class: "fact thinking", t: "chat.waiting" }));
  messages.append(parts.element);
  messages.setAttribute("aria-busy", "true");
  scrollDown(true);
  const controller = new AbortController();
  const mine = talk;
  running = { controller };
  showRunning();
  const began = performance.now();
  const draw = painter(parts.body, () => message.content);
  try {
    const model = chosenModel();
    const events = ask({ mode: mode(), model, messages: asked, document: document?.text, signal: controller.signal });
    let isDone = false;
    for await (const event of events) {
      if (event.type === "text") message.content += event.text;
      if (event.type === "whole" && event.text !== undefined) message.content = event.text;
      if (event.type === "node") Object.assign(message, { node: event.node, model: event.model ?? model });
      if (event.type === "privacy") message.privacy = event.privacy;
      if (event.type === "limit") showLimit(event.left);
      if (event.type === "task") message.task = event.task;
      if (event.type === "unproven") message.unproven = true;
      if (event.type === "step") {
        message.steps ??= [];
        note(message.steps, event);
        parts.work.replaceChildren(stepsElement(message.steps, false), jobLink(message.task));
      }
      if (event.type === "done") {
        isDone = true;
        Object.assign(message, { usage: event.usage, reason: event.reason, took: Math.round(performance.now() - began) });
        draw.end();
        finish(parts.foot, message, place);
        // A sealed answer is complete here; what proves it comes up to a quarter of its time later.
        messages.removeAttribute("aria-busy");
      }
      if (!isDone) {
        parts.foot.firstChild.dataset.t = message.content ? "chat.writing" : message.node ? "chat.reading" : "chat.waiting";
        parts.foot.firstChild.textContent = text(parts.foot.firstChild.dataset.t);
        draw.soon();
      }
    }
  } catch (error) {
    if (controller.signal.aborted) message.stopped = true;
    else {
      message.error = { code: error.code, message: error.message };
      if (error.headers) showLimit(limitOf(error));
      parts.element.insertBefore(fault(error), parts.foot);
    }
  }
  draw.end();
  if (message.steps) parts.work.replaceChildren(stepsElement(message.steps, true));
  finish(parts.foot, message, place);
  messages.removeAttribute("aria-busy");
  noteEnd(message, Math.round(performance.now() - began));
  running = null;
  showRunning();
  mine.updated = Date.now();
  await talks.save(mine).catch(() => notice("chat.unsaved"));
  await list();
}

/** Notes in the log that an answer is over; neither the question nor the answer. */
function noteEnd({ task, model, node, privacy, stopped, error }, took) {
  const state = stopped ? "cancelled" : error ? "failed" : "finished";
  const facts = { task, model: model ?? text("chat.model.any"), node, state, took_ms: took, sealed: privacy === "sealed" };
  noteInLog("task", facts, task ? `task:${task}` : undefined);
}

const limitOf = (error) => {
  const read = (name) => error.headers.get(`x-ratelimit-${name}-requests`);
  return read("limit") ? { kind: "requests", limit: Number(read("limit")), remaining: Number(read("remaining")), reset: read("reset") } : null;
};

/** Draws an answer as it grows: seldom enough that long ones do not hold anything up. */
function painter(body, content) {
  let timer = null;
  let cost = 0;
  const paint = (isWhole) => {
    const began = performance.now();
    if (content()) show(body, content(), isWhole);
    cost = performance.now() - began;
    scrollDown(false);
  };
  return {
    soon: () => {
      timer ??= setTimeout(() => {
        timer = null;
        paint(false);
      }, Math.max(REDRAW, cost * 5));
    },
    end: () => {
      clearTimeout(timer);
      timer = -1;
      paint(true);
    },
  };
}

/** Asks the question of an answer once more. */
async function retry(place) {
  if (running) return;
  const before = talk.messages.slice(0, place);
  const last = before.findLast((message) => message.role === "user");
  talk.messages = before;
  draw();
  const asked = before.map(({ role, content }) => ({ role, content })).filter(({ content }) => content);
  await answer(asked, last?.document);
}

/** Takes a question back into the box, and what came after it away. */
function edit(place) {
  if (running) return;
  const { content, document } = talk.messages[place];
  talk.messages = talk.messages.slice(0, place);
  draw();
  question.value = content;
  setDocument(document ?? null);
  grow();
  question.focus();
}

// ------------------------------------------------------------------------------------- the controls

function showRunning() {
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  if (!running) question.focus({ preventScroll: true });
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, 260)}px`;
}

function showLimit(left) {
  const limit = $("limit");
  if (!left) {
    limit.replaceChildren();
    return;
  }
  const isLow = left.remaining <= Math.max(1, left.limit * 0.2);
  // A pace that is far away concerns nobody.
  if (!isLow && left.limit > 100) return limit.replaceChildren();
  limit.className = isLow ? "limit low" : "limit";
  const values = { remaining: number(left.remaining), limit: number(left.limit), reset: left.reset ?? "" };
  limit.replaceChildren(h("span", { t: `limit.${left.kind}`, values }));
}

function showPrivacy() {
  const chosen = mode();
  const label = chosen === "sealed" ? "sealed" : "open";
  $("privacy").replaceChildren(
    h("span", { class: `badge ${label}` }, icon(label === "open" ? "open" : "lock"), h("span", { t: `privacy.${label}` })),
    h("span", { t: `privacy.of.${["single", "sealed", "anonymous"].includes(chosen) ? chosen : "divided"}` }),
  );
  $("document").hidden = !document_;
}

function setDocument(next) {
  document_ = next;
  const shown = $("document");
  shown.hidden = !next;
  if (next) {
    const away = h("button", { type: "button", class: "quiet", label: "chat.document.remove" }, icon("close"));
    away.addEventListener("click", () => setDocument(null));
    const size = h("span", { class: "fine", t: "chat.document.size", values: { n: number(next.text.length / 1000, 1) } });
    shown.replaceChildren(icon("file"), h("span", { raw: true }, next.name), size, away);
    $("mode").value = "context";
  }
  showPrivacy();
}

async function takeFile(file) {
  if (!file) return;
  if (!who()) return notice("chat.document.members");
  if (file.size > LONGEST_DOCUMENT) return notice("chat.document.long", { most: LONGEST_DOCUMENT / 2 ** 20 });
  try {
    const read = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (read.includes("\0")) throw new TypeError("not a text");
    setDocument({ name: file.name, text: read });
    question.focus();
  } catch {
    notice("chat.document.text");
  }
}

async function list() {
  const kept = await talks.all().catch(() => []);
  const rows = kept.map((one) => {
    const open = h("button", { type: "button", class: "talk-name", raw: true, title: clock(one.updated / 1000) }, one.title ?? "…");
    if (one.id === talk.id) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => choose(one));
    const away = h("button", { type: "button", class: "quiet", label: "chat.delete", values: { title: one.title ?? "" } }, icon("trash"));
    away.addEventListener("click", async () => {
      await talks.remove(one.id);
      if (one.id === talk.id) choose(fresh());
      await list();
    });
    return h("li", null, open, away);
  });
  $("talk-list").replaceChildren(...rows);
}

function choose(next) {
  running?.controller.abort();
  talk = next;
  setDocument(null);
  draw();
  openDrawer(false);
  list();
  question.focus({ preventScroll: true });
}

function openDrawer(isOpen) {
  $("talks").classList.toggle("open", isOpen);
  $("drawer").setAttribute("aria-expanded", String(isOpen));
}

async function showModels() {
  const select = $("model");
  const any = h("option", { value: "", t: "chat.model.any" });
  const isMember = Boolean(who());
  select.disabled = !isMember;
  $("mode").disabled = !isMember;
  $("attach").disabled = !isMember;
  if (!isMember) {
    select.replaceChildren(any);
    return;
  }
  const before = select.value;
  const { data } = await call("/v1/models").catch((error) => {
    notice("chat.models.failed");
    return { data: [], error };
  });
  // A way of working has its own place to be chosen.
  const names = data.map((model) => model.id).filter((id) => !id.startsWith("iris/"));
  select.replaceChildren(...names.map((name) => h("option", { value: name, raw: true }, name)));
  select.append(h("option", { value: "", t: names.length === 0 ? "chat.model.none" : "chat.model.any" }));
  if (names.includes(before)) select.value = before;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = question.value;
  if (running || !content.trim()) return;
  const document = document_;
  question.value = "";
  grow();
  setDocument(null);
  if (document) $("mode").value = "context";
  send(content, document);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !compact.matches) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
question.addEventListener("input", grow);
question.addEventListener("focus", load);
$("stop").addEventListener("click", () => running?.controller.abort());
$("new").addEventListener("click", () => choose(fresh()));
$("drawer").addEventListener("click", () => openDrawer(!$("talks").classList.contains("open")));
$("mode").addEventListener("change", showPrivacy);
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  takeFile($("file").files[0]);
  $("file").value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.controller.abort();
  else openDrawer(false);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => document.body.classList.remove("dropping"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  takeFile(event.dataTransfer?.files[0]);
});
document.addEventListener("session", () => {
  showModels();
  showPrivacy();
});
document.addEventListener("language", showPrivacy);

isLetIn = await strangers;
if (!who() && isLetIn.public_chat) showLimit({ kind: "requests", limit: 1, remaining: 1, reset: "" });
draw();
showPrivacy();
list();
showModels();
grow();
