// The network, as it changes.

import { call, open, who } from "./api.js";
import { draw } from "./charts.js";
import { $, h, icon } from "./dom.js";
import { events } from "./events.js";
import { Flow } from "./flow.js";
import { clock, compact, duration, has, number, text } from "./i18n.js";
import { fault } from "./shell.js";

/** Nodes that the table shows at a time. */
const ROWS = 50;
/** Tasks that the list of recent ones holds. */
const RECENT = 12;
/** Seconds over which speeds are averaged. */
const WINDOW = 30;

const state = {
  nodes: new Map(),
  stats: null,
  ready: true,
  minutes: [],
  samples: [],
  tasks: new Map(),
  seesTimes: false,
  memory: new Map(),
  rows: ROWS,
};
const flow = new Flow($("flow"));
globalThis.irisFlow = flow;

// -------------------------------------------------------------------------------------- the stream

let connection = null;

async function watch() {
  connection?.abort();
  const mine = (connection = new AbortController());
  for (let pause = 500; !mine.signal.aborted; pause = Math.min(pause * 2, 15_000)) {
    try {
      const answer = await open("/live", { signal: mine.signal });
      for await (const data of events(answer)) {
        take(JSON.parse(data));
        pause = 500;
      }
    } catch (error) {
      if (mine.signal.aborted) return;
      if ([401, 403, 404].includes(error.status)) {
        showGate(error);
        return;
      }
    }
    showState("away");
    await new Promise((done) => setTimeout(done, pause));
  }
}

function take(said) {
  if (said.type === "hello") {
    state.nodes = new Map(said.nodes.map((node) => [node.id, node]));
    state.minutes = said.minutes;
    state.seesTimes = said.sees_times;
    state.samples = [];
    flow.set(said.nodes);
    showState("live");
    show("nodes", "charts");
  }
  if (said.type === "network") {
    for (const node of said.nodes ?? []) state.nodes.set(node.id, node);
    for (const id of said.gone ?? []) state.nodes.delete(id);
    for (const [id, running, points, standing] of said.pulses ?? []) {
      const node = state.nodes.get(id);
      if (!node) continue;
      // Whose task it is nobody else learns; that there is one, everybody.
      for (let more = node.running; more < running; more += 1) flow.go(id, false);
      Object.assign(node, { running, points, standing });
    }
    if (said.nodes?.length || said.gone?.length) flow.set([...state.nodes.values()]);
    else if (said.pulses?.length) flow.touch();
    show("nodes");
    if (said.minute) addMinute(said.minute);
  }
  if (said.type === "times") {
    Object.assign(state.minutes.find((minute) => minute.at === said.minute.at) ?? {}, said.minute);
    show("charts");
  }
  if (said.type === "tasks") {
    for (const event of said.events) noteTask(event);
    show("recent");
  }
  if (said.stats) {
    Object.assign(state, { stats: said.stats, ready: said.ready });
    const sample = { at: Date.now() / 1000, finished: said.stats.finished, tokens: said.stats.tokens };
    state.samples.push(sample);
    if (state.samples.length > 400) state.samples.shift();
    show("tiles");
  }
}

function addMinute(minute) {
  state.minutes.push(minute);
  if (state.minutes.length > 180) state.minutes.shift();
  show("charts");
}

function noteTask(event) {
  const before = state.tasks.get(event.task) ?? {};
  if (event.event === "assigned") {
    flow.go(event.node, true);
    state.tasks.set(event.task, { ...before, ...event, state: "running", at: Date.now() / 1000 });
  } else {
    if (event.node) flow.end(event.node, event.state === "finished");
    state.tasks.set(event.task, { ...before, ...event, at: event.submitted });
  }
  while (state.tasks.size > 200) state.tasks.delete(state.tasks.keys().next().value);
}

// --------------------------------------------------------------------------------------- what is seen

const due = new Set();
let painting = null;

/** Has parts of the page drawn, together and at most a few times a second. */
function show(...parts) {
  for (const part of parts) due.add(part);
  painting ??= setTimeout(() => {
    painting = null;
    const now = [...due];
    due.clear();
    for (const part of now) PARTS[part]();
  }, 150);
}

const PARTS = { tiles: showTiles, nodes: showNodes, charts: showCharts, recent: showRecent };

function showState(kind) {
  const state = $("state");
  state.className = `state ${kind}`;
  state.replaceChildren(h("span", { class: "dot", "aria-hidden": "true" }), h("span", { t: `board.${kind}` }));
  $("gate").hidden = true;
  $("board").hidden = false;
}

function showGate(error) {
  $("state").replaceChildren();
  $("board").hidden = true;
  const gate = $("gate");
  gate.hidden = false;
  const link = h("p", null, h("a", { href: "/account", t: "chat.signin" }));
  gate.replaceChildren(...(who() ? [fault(error)] : [h("p", { t: "board.members" })]), link);
}

/** Returns how much a count grew in a second of late. */
function rate(name) {
  const now = Date.now() / 1000;
  const recent = state.samples.filter((sample) => now - sample.at <= WINDOW);
  const [first, last] = [recent[0], recent.at(-1)];
  if (!first || !last) return 0;
  const since = Math.max(5, now - first.at);
  return (last[name] - first[name]) / since;
}

function showTiles() {
  const { stats } = state;
  const tile = (key, value, fine) =>
    h("div", { class: "tile" }, h("dt", { t: key }), h("dd", { raw: true }, value), fine && h("dd", { class: "fine" }, fine));
  const latest = times().at(-1)?.values ?? [];
  const load = stats.slots > 0 ? stats.running / stats.slots : 0;
  const meter = h("span", { class: "meter", "aria-hidden": "true" }, h("i"));
  meter.firstChild.style.transform = `scaleX(${load})`;
  $("tiles").replaceChildren(
    tile("tile.nodes", number(stats.nodes), h("span", { t: "tile.models", values: { n: number(stats.models) } })),
    tile("tile.slots", `${number(stats.running)} / ${number(stats.slots)}`, meter),
    tile("tile.waiting", number(stats.waiting)),
    tile("tile.tasks", number(rate("finished") * 60, 1), h("span", { t: "tile.all", values: { n: compact(stats.finished) } })),
    tile("tile.tokens", number(rate("tokens"), 1), h("span", { t: "tile.all", values: { n: compact(stats.tokens) } })),
    tile(state.seesTimes ? "tile.time" : "tile.time.own", latest[0] === undefined ? "–" : duration(latest[0]),
      latest[1] !== undefined && h("span", { t: "tile.p95", values: { time: duration(latest[1]) } })),
  );
  showAlerts();
}

function showAlerts() {
  const { stats } = state;
  const alerts = [];
  if (!state.ready) alerts.push(["bad", "alert.books"]);
  if (stats.nodes === 0) alerts.push(["bad", "alert.nobody"]);
  else if (stats.waiting > 0 && stats.running >= stats.slots) alerts.push(["", "alert.full", { n: number(stats.waiting) }]);
  const last = state.minutes.slice(-5);
  const [failed, finished] = ["failed", "finished"].map((name) => last.reduce((sum, m) => sum + m[name], 0));
  if (failed > 2 && failed > finished * 0.2) alerts.push(["bad", "alert.failing", { n: number(failed), all: number(failed + finished) }]);
  const weak = [...state.nodes.values()].filter((node) => node.standing < 500).length;
  if (weak > 0) alerts.push(["", "alert.weak", { n: number(weak) }]);
  const said = JSON.stringify(alerts);
  const list = $("alerts");
  if (list.dataset.said === said) return;
  list.dataset.said = said;
  list.replaceChildren(...alerts.map(([kind, key, values]) => h("li", { class: kind }, icon("warn"), h("span", { t: key, values }))));
}

/** Returns how long answers took: everybody's where the reader may see that, else the reader's own. */
function times() {
  if (state.seesTimes) return state.minutes.map(({ at, p50_ms, p95_ms }) => ({ at, values: [p50_ms, p95_ms] }));
  const done = [...state.tasks.values()].filter((task) => task.state === "finished" && task.took_ms !== undefined);
  const perMinute = Map.groupBy ? Map.groupBy(done, (task) => Math.floor(task.at / 60) * 60) : new Map();
  return [...perMinute].sort(([a], [b]) => a - b).map(([at, tasks]) => {
    const took = tasks.map((task) => task.took_ms).sort((a, b) => a - b);
    return { at, values: [took[Math.floor((took.length - 1) * 0.5)], took[Math.floor((took.length - 1) * 0.95)]] };
  });
}

function showCharts() {
  const { minutes } = state;
  draw($("chart-tasks"), {
    points: minutes.map(({ at, finished, failed }) => ({ at, values: [finished, failed] })),
    names: ["chart.finished", "chart.failed"],
    write: compact,
    label: "board.tasks",
  });
  draw($("chart-speed"), {
    points: minutes.map(({ at, tokens }) => ({ at, values: [tokens / 60] })),
    names: ["chart.speed"],
    write: compact,
    label: "board.speed",
  });
  $("times-title").dataset.t = state.seesTimes ? "board.times" : "board.times.own";
  $("times-title").textContent = text($("times-title").dataset.t);
  draw($("chart-times"), { points: times(), names: ["chart.p50", "chart.p95"], write: duration, label: "board.times" });
}

function showRecent() {
  const tasks = [...state.tasks.values()].sort((a, b) => b.at - a.at).slice(0, RECENT);
  const rows = tasks.map((task) => {
    const kind = { finished: "good", running: "", failed: "bad", expired: "bad" }[task.state] ?? "";
    const why = task.reasons?.[0];
    const others = (task.reasons?.length ?? 1) - 1 + (task.skipped ?? []).reduce((sum, { count }) => sum + count, 0);
    return h("li", null,
      h("span", { class: `badge ${kind}`, t: `task.${task.state}` }),
      task.sealed && h("span", { class: "badge sealed" }, icon("lock"), h("span", { t: "privacy.sealed" })),
      h("span", { raw: true }, task.model),
      task.took_ms !== undefined && h("span", { class: "fine", raw: true }, duration(task.took_ms)),
      h("span", { class: "fine", raw: true }, clock(task.at)),
      task.node && h("p", { class: "fine" },
        h("span", { class: "id", raw: true }, name(task.node)), " ",
        why && h("span", { t: has(`reason.${why.reason}`) ? `reason.${why.reason}` : "reason.other" }), " ",
        why && others > 0 && h("span", { t: "board.others", values: { n: number(others) } }),
        task.sealed && h("span", { t: "reason.sealed" })));
  });
  $("recent").replaceChildren(...(rows.length > 0 ? rows : [h("li", { class: "fine" }, h("span", { t: "board.recent.none" }))]));
}

const name = (id) => state.nodes.get(id)?.name ?? id.slice(0, 8);

function showNodes() {
  const wanted = $("search").value.trim().toLowerCase();
  const matches = (node) =>
    wanted === "" || [node.name ?? "", node.id, node.tier, ...node.models.map((model) => model.name)]
      .some((said) => said.toLowerCase().includes(wanted));
  const found = [...state.nodes.values()].filter(matches);
  found.sort((a, b) => b.running - a.running || b.points - a.points || (a.id < b.id ? -1 : 1));
  $("nodes").replaceChildren(...found.slice(0, state.rows).map(row));
  const hidden = found.length - Math.min(found.length, state.rows);
  const more = h("button", { type: "button", class: "plain", t: "board.more", values: { n: number(hidden) } });
  more.addEventListener("click", () => {
    state.rows += 4 * ROWS;
    showNodes();
  });
  const left = (state.stats?.nodes ?? 0) - state.nodes.size;
  $("more").replaceChildren(
    ...(hidden > 0 ? [more, " "] : []),
    ...(left > 0 ? [h("span", { t: "board.unseen", values: { n: number(left) } })] : []),
    ...(found.length === 0 ? [h("span", { t: "board.nodes.none" })] : []));
}

function row(node) {
  const meter = h("span", { class: "meter", "aria-hidden": "true" }, h("i"));
  meter.firstChild.style.transform = `scaleX(${node.slots > 0 ? Math.min(1, node.running / node.slots) : 0})`;
  const speeds = node.models.map((model) => model.speed ?? 0).filter((speed) => speed > 0);
  const memory = state.memory.get(node.id);
  const models = node.models.slice(0, 3).map((model) => model.name).join(", ");
  return h("tr", null,
    h("td", { raw: true }, node.name ?? "–", h("span", { class: "id" }, node.id.slice(0, 12))),
    h("td", null, h("span", { class: `badge tier-${node.tier}`, raw: true }, node.tier)),
    h("td", { raw: true }, models || "–", node.models.length > 3 && ` +${node.models.length - 3}`),
    h("td", { class: "number", raw: true }, speeds.length > 0 ? number(Math.max(...speeds), 1) : "–"),
    h("td", { class: "number", raw: true }, memory ? number(memory) : "–"),
    h("td", { raw: true }, meter, `${node.running}/${node.slots}`),
    h("td", { raw: true }, `${number(node.standing / 10)} %`),
    h("td", { class: "number", raw: true }, number(node.points)));
}

async function showLeaders() {
  const page = await call("/reputation?limit=10").catch(() => null);
  if (!page) return;
  const rows = page.nodes.map((node) =>
    h("li", null,
      h("span", { class: "place", raw: true }, `${node.rank}.`),
      h("span", { raw: true }, node.name ?? "–"), h("span", { class: "id fine", raw: true }, node.id.slice(0, 12)),
      !node.connected && h("span", { class: "badge", t: "board.absent" }),
      h("span", { class: "points", raw: true }, number(node.points))));
  $("leaders").replaceChildren(...(rows.length > 0 ? rows : [h("li", { class: "fine" }, h("span", { t: "board.nodes.none" }))]));
}

async function loadHistory() {
  const page = await call("/history?limit=50").catch(() => null);
  for (const task of (page?.tasks ?? []).toReversed()) {
    if (!state.tasks.has(task.task)) state.tasks.set(task.task, { ...task, at: task.submitted });
  }
  show("recent", "charts");
}

/** The roster tells what the list of nodes does not: each machine's memory. */
async function loadMemory() {
  const signed = await call("/roster").catch(() => null);
  if (!signed) return;
  const { nodes } = JSON.parse(signed.roster);
  state.memory = new Map(nodes.map((node) => [node.id, node.memory_gb]));
  show("nodes");
}

function describe(node) {
  const place = $("flow-node");
  if (!node) return place.replaceChildren();
  place.replaceChildren(h("b", { raw: true }, node.name ?? node.id.slice(0, 12)), " ",
    h("span", { t: "flow.node", values: { tier: node.tier, running: node.running, slots: node.slots, standing: number(node.standing / 10) } }));
}

function begin() {
  state.tasks.clear();
  watch();
  showLeaders();
  loadMemory();
  loadHistory();
}

flow.onPoint = describe;
$("legend").replaceChildren(
  ...["BASIC", "MID", "PRO"].map((tier) => h("span", { class: `tier-${tier}` }, h("i"), h("span", { raw: true }, tier))),
  h("span", { t: "flow.legend" }));
$("search").addEventListener("input", () => show("nodes"));
$("pause").addEventListener("click", () => {
  const isPaused = $("pause").getAttribute("aria-pressed") !== "true";
  $("pause").setAttribute("aria-pressed", String(isPaused));
  const words = $("pause").querySelector("span");
  words.dataset.t = isPaused ? "board.resume" : "board.pause";
  words.textContent = text(words.dataset.t);
  $("pause").querySelector(".icon").replaceWith(icon(isPaused ? "play" : "pause"));
  flow.pause(isPaused);
});
document.addEventListener("session", begin);
document.addEventListener("language", () => {
  if (state.stats) show("tiles", "nodes", "charts", "recent");
});
new ResizeObserver(() => {
  if (state.stats) show("charts");
}).observe($("chart-tasks"));
setInterval(() => {
  if (state.stats && !document.hidden) show("tiles");
}, 2000);
setInterval(() => {
  if (document.hidden || $("board").hidden) return;
  showLeaders();
  loadMemory();
}, 60_000);
begin();
