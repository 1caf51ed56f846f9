// Running the network: its health, its members, its nodes, its money and its rules.

import "../i18n/operator.js";

import { call, open, signInWithKey, who } from "./api.js";
import { $, h, icon } from "./dom.js";
import { duration, moment, number, text } from "./i18n.js";
import { amount, money } from "./operator-money.js";
import { nodes, verdicts } from "./operator-nodes.js";
import { members } from "./operator-people.js";
import { button, card, facts, field, form, save } from "./parts.js";
import { fault, showOperator } from "./shell.js";

const place = $("operator");
/** Milliseconds between two looks at the health. */
const LOOK_AGAIN = 15_000;

// ---------------------------------------------------------------------------------------- the door

function remember(isLetIn) {
  showOperator(isLetIn);
  try {
    sessionStorage.setItem("iris-operates", isLetIn ? "yes" : "no");
  } catch {
    // The way here is not shown elsewhere then.
  }
}

function showGate(error) {
  const key = field("account.key", { type: "password", name: "operator-key", autocomplete: "off", placeholder: "iris_…" });
  const enter = form("account.key.use", [key.label], () => signInWithKey(key.input.value.trim()));
  place.replaceChildren(h("section", { class: "card stack gate" },
    h("h2", { t: "operator.gate" }),
    h("p", { t: "operator.gate.text" }),
    h("pre", { class: "secret", raw: true, tabindex: "0" }, "iris-coordinator key new --account ACCOUNT --scope admin"),
    error && fault(error), enter,
    h("p", { class: "fine", t: "operator.gate.session" })));
}

async function showAll() {
  if (who()?.kind !== "key") {
    remember(false);
    return showGate();
  }
  try {
    await call("/policies");
  } catch (error) {
    remember(false);
    return showGate(error);
  }
  remember(true);
  await showTabs();
}

// ---------------------------------------------------------------------------------------- the tabs

const TABS = [
  ["overview", "gauge", overview],
  ["members", "person", members],
  ["nodes", "node", nodes],
  ["verdicts", "warn", verdicts],
  ["money", "coin", money],
  ["rules", "list", rules],
];
let chosen = null;

async function showTabs() {
  const body = h("div", { class: "stack", role: "tabpanel", id: "tab", tabindex: "0" });
  const choose = async (name) => {
    const [found, , make] = TABS.find(([one]) => one === name) ?? TABS[0];
    chosen = found;
    for (const tab of row.children) {
      tab.setAttribute("aria-selected", String(tab.dataset.name === found));
      tab.tabIndex = tab.dataset.name === found ? 0 : -1;
      if (tab.dataset.name === found) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    body.setAttribute("aria-label", text(`optab.${found}`));
    history.replaceState(null, "", `#${found}`);
    if (body.dataset.shown !== found) body.replaceChildren(h("p", { class: "fine", t: "operator.loading" }));
    body.dataset.shown = found;
    const again = async () => {
      await choose(found);
      // What had the focus may be gone.
      if (document.activeElement === document.body) body.focus({ preventScroll: true });
    };
    try {
      const made = await make(again);
      if (chosen === found) body.replaceChildren(...made.filter(Boolean));
    } catch (error) {
      if (chosen === found) body.replaceChildren(fault(error));
    }
  };
  const row = h("div", { class: "tabs", role: "tablist", label: "operator.title" }, TABS.map(([name, picture]) => {
    const tab = button(`optab.${name}`, "", () => choose(name), picture);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "tab");
    tab.dataset.name = name;
    return tab;
  }));
  row.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const here = TABS.findIndex(([name]) => name === chosen);
    const [next] = TABS[(here + step + TABS.length) % TABS.length];
    row.querySelector(`[data-name="${next}"]`).focus();
    choose(next);
  });
  place.replaceChildren(row, body);
  await choose(location.hash.slice(1));
}

setInterval(() => {
  const isIdle = !document.hidden && !document.querySelector("dialog[open], #tab :focus");
  if (chosen === "overview" && isIdle && $("tab")) refreshOverview?.();
}, LOOK_AGAIN);

// ------------------------------------------------------------------------------------ the overview

let refreshOverview = null;

async function overview(again) {
  refreshOverview = again;
  const none = () => null;
  const [ready, stats, { holds }, { verdicts }, { signs }, { balances }, preview] = await Promise.all([
    // A coordinator that is not ready says so by a refusal that has the same members.
    fetch("/readyz").then((answer) => answer.json()),
    call("/stats"), call("/holds"), call("/verdicts?limit=500"), call("/signs"), call("/balances"),
    call("/months/next").catch(none),
  ]);
  const isReady = ready.status === "ok";
  const owed = Object.entries(balances).reduce((sum, [book, held]) => (book.startsWith("owed:") ? sum + held : sum), 0);
  const appeals = verdicts.filter(({ state }) => state === "appealed").length;
  const alerts = [
    !isReady && ["bad", "alert.books"],
    stats.nodes === 0 && ["bad", "alert.nobody"],
    stats.nodes > 0 && stats.waiting > 0 && stats.running >= stats.slots && ["", "alert.full", { n: number(stats.waiting) }],
    appeals > 0 && ["", "alerts.appeals", { n: number(appeals) }],
    preview?.is_due && ["", "alerts.due", { month: preview.epoch }],
    owed > 0 && ["", "alerts.owed", { amount: amount(owed) }],
    holds.length > 0 && ["", "alerts.held", { n: number(holds.length) }],
    signs.length > 0 && ["", "alerts.signs", { n: number(signs.length) }],
  ].filter(Boolean);
  const tile = (key, value, fine) =>
    h("div", { class: "tile" }, h("dt", { t: key }), h("dd", { raw: true }, value), fine && h("dd", { class: "fine" }, fine));
  const metrics = button("health.metrics", "plain", async () => {
    const figures = await open("/metrics");
    save("iris-metrics.txt", await figures.text(), "text/plain");
  }, "save");
  return [
    card("alerts.title", alerts.length === 0 ? h("p", { class: "fine", t: "alerts.none" })
      : h("ul", { class: "alerts" }, alerts.map(([kind, key, values]) => h("li", { class: kind }, icon("warn"), h("span", { t: key, values }))))),
    h("dl", { class: "tiles" },
      tile("tile.nodes", number(stats.nodes), h("span", { t: "tile.models", values: { n: number(stats.models) } })),
      tile("tile.slots", `${number(stats.running)} / ${number(stats.slots)}`),
      tile("tile.waiting", number(stats.waiting)),
      tile("health.tasks", number(stats.finished), h("span", { t: "health.finished", values: { n: number(stats.finished), failed: number(stats.failed) } }))),
    card("health.title", facts([
      ["health.state", h("span", { class: `badge ${isReady ? "good" : "bad"}`, t: isReady ? "health.ready" : "health.unready" })],
      ["health.version", ready.version],
      ["health.since", moment(stats.since)],
    ]), h("div", { class: "row" }, metrics, button("operator.reload", "plain", again, "retry"))),
  ];
}

// ---------------------------------------------------------------------------------------- the rules

async function rules() {
  const rules = await call("/policies");
  const days = (n) => text("rules.days", { n: number(n) });
  const yes = (is) => text(is ? "rules.yes" : "rules.no");
  const percent = (n) => `${number(n)} %`;
  const seconds = (n) => duration(n * 1000);
  const owners = (list) => (list.length > 0 ? h("ul", null, list.map((owner) => h("li", { class: "id", raw: true }, owner))) : "–");
  const group = (title, entries) => card(`rules.${title}`, facts(entries.map(([name, write]) => [`rules.${name}`, write(rules[name])])));
  return [
    h("p", { class: "fine", t: "rules.explained" }),
    h("div", { class: "halves" },
      group("members", [
        ["open_registration", yes], ["public_chat", yes], ["member_invitations", number], ["membership_fee", amount],
        ["trial_days", days], ["grace_days", days], ["operator_percent", percent],
      ]),
      group("pay", [["pay_by", String], ["close_after_days", days], ["hold_days", days]]),
      group("work", [
        ["rate_per_minute", (n) => (n === 0 ? text("rules.any") : number(n))], ["queue_capacity", number], ["max_wait_secs", seconds],
        ["patience", number], ["hedge_after_ms", (n) => (n === undefined ? text("rules.never") : duration(n))], ["retention_secs", seconds],
      ]),
      group("trust", [["trusted_owners", owners], ["compare_answers", yes], ["owner_share_percent", percent]])),
  ];
}

document.addEventListener("session", showAll);
document.addEventListener("language", () => {
  if (who()?.kind === "key") showAll();
});
showAll();
