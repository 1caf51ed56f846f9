// One's own tasks: all of them, or one with its plan, step by step, as it is carried out.

import "../i18n/jobs.js";

import { call, open, who } from "./api.js";
import { $, h, icon } from "./dom.js";
import { events } from "./events.js";
import { draw } from "./graph.js";
import { duration, has, number, text } from "./i18n.js";
import { button, card, certain, field, form, save, table, when } from "./parts.js";
import { fault, notice } from "./shell.js";

const place = $("jobs");
const id = location.pathname.split("/")[2] ?? "";
// The list shows nothing that a model wrote.
const { show } = id ? await import("./markdown.js") : {};
const OVER = ["finished", "failed", "cancelled", "expired"];
/** Milliseconds between two looks at the list, and at least between two at a task. */
const [LIST_AGAIN, LOOK_AGAIN] = [5000, 700];
/** Units that are listed at a time. */
const ROWS = 60;
/** The name of the one step of a task that is not divided. */
const SINGLE = "task";

const badge = (state, key = `task.${state}`) => {
  const kind = { finished: "good", failed: "bad", expired: "bad", undone: "bad", review: "warn" }[state] ?? "";
  return h("span", { class: `badge ${kind}`, t: key });
};

const mode = (name) => h("span", { t: `mode.${name ?? "single"}` });
const node = (name, full) => h("span", { class: "worker" }, icon("node"), h("span", { raw: true, title: full ?? name }, name.slice(0, 8)));

function showGate(error) {
  $("state").replaceChildren();
  const link = h("p", null, h("a", { href: "/account", t: "chat.signin" }));
  const back = h("p", null, h("a", { href: "/jobs", t: "jobs.all" }));
  const said = error ? [fault(error), who() && id ? back : link] : [h("p", { t: "jobs.members" }), link];
  place.replaceChildren(h("div", { class: "gate card stack" }, said));
}

// ---------------------------------------------------------------------------------------- the list

let again = null;

async function showList() {
  clearTimeout(again);
  if (!who()) return showGate();
  let tasks;
  try {
    ({ tasks } = await call("/inference"));
  } catch (error) {
    // What is shown stays while the coordinator is away.
    if (![401, 403].includes(error.status) && place.querySelector("table")) {
      again = setTimeout(showList, LIST_AGAIN);
      return;
    }
    again = null;
    return showGate(error);
  }
  const rows = tasks.map((task) => h("tr", null,
    h("td", null, h("a", { href: `/jobs/${encodeURIComponent(task.id)}`, class: "id", raw: true }, task.id.slice(0, 8))),
    h("td", null, badge(task.status), task.waits && [" ", badge("review", "jobs.waits")]),
    h("td", null, mode(task.mode)),
    h("td", { raw: true }, task.model),
    h("td", null, when(task.created)),
    h("td", { class: "number", raw: true }, task.finished ? duration(Math.max(0, task.finished - task.created) * 1000) : "–")));
  const head = ["jobs.task", "jobs.state", "jobs.mode", "jobs.model", "jobs.when", ["jobs.took", "number"]];
  place.replaceChildren(h("section", { class: "card" },
    h("p", { class: "fine", t: "jobs.explained" }),
    rows.length > 0 ? table("jobs.title", head, rows, "nodes") : h("p", { class: "empty", t: "jobs.none" })));
  if (tasks.some(({ status }) => !OVER.includes(status))) again = setTimeout(() => (document.hidden ? (again = null) : showList()), LIST_AGAIN);
}

// ---------------------------------------------------------------------------------------- one task

const job = { status: null, steps: [], why: new Map(), outputs: new Map(), text: "", rows: ROWS, decided: new Set() };
let watching = null;
let looking = null;
let parts = null;

async function showJob() {
  watching?.abort();
  $("title").dataset.t = "jobs.one";
  $("title").textContent = text("jobs.one");
  if (!who()) return showGate();
  try {
    await look();
  } catch (error) {
    if (error.status !== 404) return showGate(error);
    return place.replaceChildren(h("div", { class: "card stack" },
      h("p", { t: "jobs.gone" }), h("p", null, h("a", { href: "/jobs", t: "jobs.all" }))));
  }
  frame();
  paint();
  if (!OVER.includes(job.status.status)) watch();
}

/** Reads how the task stands, and its plan where that is not known yet. */
async function look() {
  const path = `/inference/${encodeURIComponent(id)}`;
  const status = await call(path);
  const isNew = !job.status;
  job.status = status;
  if (status.partial !== undefined && status.partial.length > job.text.length) job.text = status.partial;
  if (status.mode === undefined) {
    const state = { submitted: "waiting", planned: "waiting", expired: "failed", cancelled: "dropped" }[status.status] ?? status.status;
    status.steps = [{
      unit: SINGLE, state, model: status.model, placed: status.node ? [{ node: status.node }] : [],
      assignments: status.node ? 1 : 0, usage: status.result?.usage ?? {}, text: status.result?.text,
      took_ms: status.finished ? (status.finished - status.created) * 1000 : undefined,
    }];
    job.steps = [{ name: SINGLE, work: "ask", text: status.model }];
  }
  if (isNew || OVER.includes(status.status) || job.why.size < status.steps.length) await explain(path);
}

async function explain(path) {
  const explanation = await call(`${path}/explain`).catch(() => null);
  if (!explanation) return;
  if (explanation.plan?.steps) job.steps = explanation.plan.steps;
  job.explanation = explanation;
  if (explanation.reasons.length > 0) job.why.set(SINGLE, explanation);
  for (const step of explanation.steps ?? []) job.why.set(step.unit, step);
}

/** Follows what happens to the task until it is over. */
async function watch() {
  const mine = (watching = new AbortController());
  for (let pause = 500; !mine.signal.aborted && !OVER.includes(job.status.status); pause = Math.min(pause * 2, 15_000)) {
    try {
      const answer = await open(`/inference/${encodeURIComponent(id)}/events`, { signal: mine.signal });
      say("live");
      // The events come from the beginning, and with them the text.
      let told = "";
      for await (const data of events(answer)) {
        const event = JSON.parse(data);
        if (event.event === "text") {
          told += event.text;
          if (told.length > job.text.length) job.text = told;
        }
        note(event);
        paintSoon();
        if (event.event !== "text") lookSoon();
        pause = 500;
      }
      await look();
      paint();
    } catch (error) {
      if (mine.signal.aborted) return;
      if ([401, 403, 404].includes(error.status)) return showGate(error);
    }
    if (OVER.includes(job.status.status)) break;
    say("away");
    await new Promise((done) => setTimeout(done, pause));
  }
  say(null);
}

/** Takes in what has just happened to a unit; the next look brings the rest. */
function note(event) {
  const single = job.status.mode === undefined;
  const name = single ? SINGLE : event.unit;
  if (!name) return;
  let unit = job.status.steps.find((unit) => unit.unit === name);
  if (!unit) job.status.steps.push((unit = { unit: name, state: "waiting", placed: [], assignments: 0, usage: {} }));
  const isOpen = ["waiting", "running"].includes(unit.state);
  if (event.event === "started" && isOpen) Object.assign(unit, { state: "running", model: event.model });
  if (event.event === "started" && event.node && !unit.placed.some(({ node }) => node === event.node)) unit.placed.push({ node: event.node });
  if (event.event === "waiting") unit.state = "review";
  if (event.event === "over") unit.state = event.state;
}

function lookSoon() {
  looking ??= setTimeout(async () => {
    try {
      await look();
      paint();
    } catch {
      // The stream tells when something is wrong.
    }
    looking = null;
  }, LOOK_AGAIN);
}

// ------------------------------------------------------------------------------------ what is seen

let painting = null;
const paintSoon = () => {
  painting ??= setTimeout(() => {
    painting = null;
    paint();
  }, 120);
};

function say(kind) {
  const state = $("state");
  state.className = `state ${kind ?? ""}`;
  state.replaceChildren(...(kind ? [h("span", { class: "dot", "aria-hidden": "true" }), h("span", { t: `jobs.${kind}` })] : []));
}

/** Makes the places that the parts of the page are painted into. */
function frame() {
  const cancel = button("jobs.cancel", "danger", () => certain({
    title: "jobs.cancel.sure", text: "jobs.cancel.text", action: "jobs.cancel",
    act: async () => {
      await call(`/inference/${encodeURIComponent(id)}`, { method: "DELETE" });
      await look();
      paint();
    },
  }), "close");
  parts = {
    head: h("div", { class: "row job-head" }),
    cancel,
    tiles: h("dl", { class: "tiles" }),
    review: h("div", { class: "stack" }),
    graph: h("div", { class: "scroll graph", tabindex: "0", role: "region", label: "jobs.plan" }),
    answer: h("div", { class: "body", raw: true }),
    answerNote: h("p", { class: "fine" }),
    steps: h("ol", { class: "units" }),
    more: h("p"),
  };
  const exported = button("jobs.export", "plain", () =>
    save(`iris-task-${job.status.id}.json`, JSON.stringify({ exported: new Date().toISOString(), task: job.status, explanation: job.explanation }, null, 2), "application/json"), "save");
  place.replaceChildren(
    h("div", { class: "card-head" }, parts.head, h("div", { class: "row" }, cancel, exported)),
    parts.tiles,
    card("jobs.plan", parts.graph), parts.review,
    h("section", { class: "card theirs" }, h("h2", { t: "jobs.answer" }), parts.answerNote, parts.answer),
    h("section", { class: "card" }, h("h2", { t: "jobs.each" }), parts.steps, parts.more));
  new ResizeObserver(() => paintGraph()).observe(parts.graph);
}

function paint() {
  const { status } = job;
  parts.cancel.hidden = OVER.includes(status.status);
  parts.head.replaceChildren(...[
    h("a", { href: "/jobs", t: "jobs.all" }),
    h("span", { class: "id", raw: true }, status.id),
    badge(status.status),
    status.reviews?.length > 0 && badge("review", "jobs.waits"),
    status.place_in_line && h("span", { class: "badge warn", t: "jobs.place", values: { n: number(status.place_in_line) } }),
    h("span", { class: "badge open" }, icon("open"), h("span", { t: "privacy.open" })),
  ].filter(Boolean));
  paintTiles();
  paintGraph();
  paintAnswer();
  paintReviews();
  paintSteps();
  if (OVER.includes(status.status)) say(null);
}

function paintTiles() {
  const { status } = job;
  const tile = (key, value, fine) =>
    h("div", { class: "tile" }, h("dt", { t: key }), h("dd", { raw: true }, value), fine && h("dd", { class: "fine" }, fine));
  const sum = (name) => status.steps.reduce((sum, { usage }) => sum + (usage?.[name] ?? 0), 0);
  const [read, written] = ["prompt_tokens", "completion_tokens"].map(sum);
  const over = status.steps.filter(({ state }) => !["waiting", "running", "review"].includes(state)).length;
  const nodes = new Set(status.steps.flatMap(({ placed = [] }) => placed.map(({ node }) => node).filter(Boolean)));
  const took = ((status.finished ?? Date.now() / 1000) - status.created) * 1000;
  parts.tiles.replaceChildren(
    tile("jobs.mode", text(`mode.${status.mode ?? "single"}`), h("span", { raw: true }, status.model)),
    tile("jobs.steps", `${number(over)} / ${number(allUnits().length)}`),
    tile("jobs.nodes", number(nodes.size)),
    tile("jobs.tokens", number(read + written), h("span", { t: "jobs.tokens.of", values: { read: number(read), written: number(written) } })),
    tile(status.finished ? "jobs.took" : "jobs.running", duration(Math.max(0, took)), when(status.created)));
}

const stepOf = ({ unit }) => unit.split(".")[0];
const unitsOf = (step) => job.status.steps.filter((unit) => stepOf(unit) === step);

/** Returns all units in the order of the plan, with those of steps whose turn has not come. */
function allUnits() {
  const order = new Map(job.steps.map(({ name }, n) => [name, n]));
  const coming = job.steps.filter(({ name }) => unitsOf(name).length === 0);
  const all = [...job.status.steps, ...coming.map(({ name }) => ({ unit: name, state: OVER.includes(job.status.status) ? "dropped" : "waiting" }))];
  const place = (unit) => order.get(stepOf(unit)) ?? order.size;
  return all.sort((a, b) => place(a) - place(b));
}

/** Says how a step stands by how its units do. */
function standing(step) {
  const units = unitsOf(step);
  const count = (...states) => units.filter(({ state }) => states.includes(state)).length;
  const done = count("finished", "skipped", "failed", "dropped", "undone");
  const state = ["review", "running", "failed", "undone"].find((state) => count(state) > 0)
    ?? (units.length === 0 || done < units.length ? "waiting" : count("finished") > 0 ? "finished" : "skipped");
  return { state, done: units.length > 0 ? done / units.length : 0, note: units.length > 1 ? `${done}/${units.length}` : "" };
}

function paintGraph() {
  if (!job.status || parts.graph.clientWidth === 0) return;
  const known = job.steps.map(({ name }) => name);
  // Whatever is not in the plan's outline, or where there is none, stands by itself.
  const others = [...new Set(job.status.steps.map(stepOf))].filter((name) => !known.includes(name));
  draw(parts.graph, [...job.steps, ...others.map((name) => ({ name, work: "ask", text: "" }))], standing, (step) => {
    const first = parts.steps.querySelector(`[data-step="${CSS.escape(step)}"]`);
    first?.scrollIntoView({ block: "center" });
    first?.querySelector("summary")?.focus({ preventScroll: true });
  });
}

function paintAnswer() {
  const { status } = job;
  const isOver = OVER.includes(status.status);
  const said = status.result?.text ?? job.text;
  const shown = `${isOver} ${said}`;
  if (parts.shown !== shown) {
    show(parts.answer, said, isOver);
    parts.shown = shown;
  }
  const notes = [];
  if (status.error && said) notes.push(h("span", { class: "fact warn", t: "jobs.partial", values: { message: status.error.message } }));
  else if (status.error) notes.push(fault(status.error));
  else if (!said) notes.push(h("span", { t: isOver ? "jobs.answer.none" : "jobs.answer.soon" }));
  parts.answerNote.replaceChildren(...notes);
}

/** Shows what waits for a person; what somebody is writing there stays. */
function paintReviews() {
  const reviews = job.status.reviews ?? [];
  for (const shown of [...parts.review.children]) {
    if (!reviews.some(({ step }) => step === shown.dataset.step)) shown.remove();
  }
  for (const review of reviews) {
    if ([...parts.review.children].some((shown) => shown.dataset.step === review.step)) continue;
    parts.review.append(reviewCard(review));
  }
}

function reviewCard({ step, choices }) {
  const decide = async (decision) => {
    await call(`/inference/${encodeURIComponent(id)}/review`, { body: { step, ...decision } });
    notice("jobs.review.done");
    await look();
    paint();
  };
  const options = choices.map((choice) => {
    const unit = job.status.steps.find(({ unit }) => unit === choice);
    const output = h("div", { class: "body", raw: true });
    show(output, unit?.text ?? "", true);
    const take = form("jobs.review.take", [], () => decide({ choose: choice }));
    return h("li", { class: "choice theirs" },
      h("p", { class: "row" }, h("span", { class: "unit", raw: true }, choice),
        unit?.model && h("span", { class: "fact", raw: true }, unit.model),
        unit?.placed?.at(-1)?.node && node(unit.placed.at(-1).node)),
      output, take);
  });
  const own = h("textarea", { rows: "3" });
  const write = form("jobs.review.send", [h("label", { class: "field" }, h("span", { t: "jobs.review.own" }), own)], () => decide({ text: own.value }));
  const made = h("section", { class: "card review" }, h("h2", { t: "jobs.review" }),
    h("p", { class: "fine", t: "jobs.review.text", values: { step } }), h("ol", { class: "choices" }, options), write);
  made.dataset.step = step;
  return made;
}

/** Brings the list of units up to date; what is open there stays open. */
function paintSteps() {
  const units = allUnits();
  const shown = units.slice(0, job.rows);
  shown.forEach((unit, n) => {
    const said = JSON.stringify([unit, job.why.has(unit.unit)]);
    const before = parts.steps.children[n];
    if (before?.dataset.said === said) return;
    const made = unitElement(unit, before?.querySelector("details")?.open);
    made.dataset.said = said;
    const isInside = before?.contains(document.activeElement);
    if (before) before.replaceWith(made);
    else parts.steps.append(made);
    if (isInside) made.querySelector("summary")?.focus();
  });
  const left = units.length - shown.length;
  parts.more.replaceChildren(...(left > 0 ? [moreButton(left)] : []));
}

function moreButton(left) {
  const more = h("button", { type: "button", class: "plain", t: "jobs.more", values: { n: number(left) } });
  more.addEventListener("click", () => {
    job.rows += 4 * ROWS;
    paintSteps();
  });
  return more;
}

function unitElement(unit, isOpen) {
  const { placed = [], usage = {}, dissent = [], source, error } = unit;
  const tokens = (usage.prompt_tokens ?? 0) + (usage.completion_tokens ?? 0);
  const fact = (key, values) => h("span", { class: "fact", t: key, values });
  const more = h("div", { class: "stack" });
  const details = h("details", { class: "theirs", open: Boolean(isOpen) },
    h("summary", { class: `step ${unit.state}` },
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span", { class: "unit", raw: true }, unit.unit), badge(unit.state, `step.${unit.state}`),
      unit.model && h("span", { class: "fact", raw: true }, unit.model),
      placed.map(({ node: id }) => id && node(id)),
      unit.took_ms !== undefined && h("span", { class: "fact", raw: true }, duration(unit.took_ms)),
      tokens > 0 && fact("jobs.used", { n: number(tokens) }),
      unit.assignments > 1 && fact("jobs.tries", { n: number(unit.assignments) }),
      dissent.length > 0 && fact("jobs.dissent", { n: number(dissent.length) }),
      source && fact("jobs.source", { from: number(source.line), to: number(source.last_line) })),
    more);
  const fill = () => {
    if (more.childElementCount > 0 || !details.open) return;
    const output = h("div", { class: "body", raw: true });
    if (unit.text) show(output, unit.text, true);
    more.append(unit.text ? output : h("p", { class: "fine", t: "jobs.output.none" }));
    if (error) more.append(cause(error));
    const why = job.why.get(unit.unit);
    if (why) more.append(reasons(why));
  };
  details.addEventListener("toggle", fill);
  fill();
  const row = h("li", null, details);
  row.dataset.step = stepOf(unit);
  return row;
}

/** Says why a unit has no output. */
function cause(error) {
  const { kind, error: inner, ...values } = error;
  if (has(`error.${inner?.code}`)) return h("p", { class: "fine", t: `error.${inner.code}` });
  return h("p", { class: "fine", t: has(`unit.${kind}`) ? `unit.${kind}` : "unit.other", values });
}

function reasons({ reasons, skipped }) {
  const sentence = (reason) => h("span", { t: has(`reason.${reason}`) ? `reason.${reason}` : "reason.other" });
  return h("div", { class: "why" }, h("h3", { t: "jobs.why" }), h("ul", null,
    reasons.map(({ node, reason }) => h("li", { class: "fine" }, h("span", { class: "id", raw: true }, node.slice(0, 8)), " ", sentence(reason))),
    skipped.map(({ reason, count }) => h("li", { class: "fine" }, h("span", { raw: true }, `${number(count)} ×`), " ", sentence(reason)))));
}

const showAll = () => (id ? showJob() : showList());
document.addEventListener("session", showAll);
document.addEventListener("language", () => (id ? parts && who() && (parts.steps.replaceChildren(), paint()) : showList()));
document.addEventListener("visibilitychange", () => {
  if (!id && !document.hidden && again === null) showList();
});
setInterval(() => {
  if (id && parts?.tiles.isConnected && !OVER.includes(job.status.status) && !document.hidden) paintTiles();
}, 1000);
showAll();
