// The nodes of an account, as their owner sees them: what each is at, why it is idle, what it earned.

import { call, who } from "./api.js";
import { h } from "./dom.js";
import { date, has, moment, number } from "./i18n.js";
import { isSlight, stateOf } from "./nodestate.js";

/** Millionths in a unit of the network's money. */
const UNIT = 1_000_000;

/** Reads all pages of a list. */
async function all(path, list) {
  const found = [];
  for (let after = ""; ;) {
    const page = await call(`${path}?limit=500${after}`);
    found.push(...page[list]);
    if (!page.next) return found;
    after = `&after=${encodeURIComponent(page.next)}`;
  }
}

export async function ownNodes() {
  const [nodes, payouts] = await Promise.all([all("/account/nodes", "nodes"), earnings()]);
  if (nodes.length === 0) return [none()];
  const order = (own) => (own.node ? 0 : 1);
  nodes.sort((a, b) => order(a) - order(b) || b.points - a.points || (a.why.id < b.why.id ? -1 : 1));
  return [totals(nodes, payouts), h("ul", { class: "own" }, nodes.map(nodeCard))];
}

/** The books are for whoever signs in; an API key sees nodes alone. */
async function earnings() {
  if (who()?.kind !== "session") return null;
  return all("/payouts", "payouts").catch(() => null);
}

function none() {
  return h("section", { class: "card stack" }, h("h2", { t: "nodes.none" }), h("p", { t: "nodes.none.how" }),
    h("p", { class: "secret", raw: true }, `iris-node setup`));
}

function totals(nodes, payouts) {
  const tile = (key, value) => h("div", { class: "tile" }, h("dt", { t: key }), h("dd", { raw: true }, value));
  const sum = (some) => number(some.reduce((total, { amount }) => total + Number(amount), 0) / UNIT, 6);
  const isOut = ({ state }) => state === "paid" || state === "forfeited";
  return h("dl", { class: "tiles" },
    tile("nodes.online", `${number(nodes.filter(({ node }) => node).length)} / ${number(nodes.length)}`),
    tile("node.points", number(nodes.reduce((total, { points }) => total + points, 0))),
    payouts && tile("money.coming", sum(payouts.filter((one) => !isOut(one)))),
    payouts && tile("money.paid", sum(payouts.filter(({ state }) => state === "paid"))));
}

function nodeCard(own) {
  const { node, why, points, standing, first_seen: firstSeen } = own;
  const state = stateOf(own);
  const kind = state === "ready" ? "good" : ["held", "blocked", "not_connected", "away", "no_models"].includes(state) ? "bad" : "warn";
  const [slight, heavy] = [why.hindrances.filter(({ code }) => isSlight(code)), why.hindrances.filter(({ code }) => !isSlight(code))];
  const { kept = 0, broken = 0, hours } = why.promise ?? {};
  const facts = [
    ["node.tier", node && h("span", { class: `badge tier-${node.tier}`, raw: true }, node.tier)],
    ["node.models", node?.models.map(({ name }) => name).join(", ")],
    ["node.slots", node && `${number(node.running)} / ${number(node.slots)}`],
    ["node.standing", `${number(standing / 10)} %`],
    ["node.points", number(points)],
    ["nodes.hours", hours],
    ["nodes.kept", kept + broken > 0 && `${number((100 * kept) / (kept + broken), 1)} % (${number(kept)} / ${number(kept + broken)})`],
    ["nodes.since", node && moment(node.connected)],
    ["nodes.first", date(firstSeen)],
  ].filter(([, value]) => value);
  return h("li", { class: "card" },
    h("div", { class: "card-head" }, h("h2", { raw: true }, why.name ?? why.id.slice(0, 12)),
      h("span", { class: `badge ${kind}`, t: `node.is.${state}` })),
    h("p", { class: "id fine", raw: true }, why.id),
    heavy.map(hindrance),
    h("dl", { class: "facts" }, facts.flatMap(([key, value]) =>
      [h("dt", { t: key }), h("dd", typeof value === "string" ? { raw: true } : null, value)])),
    slight.length > 0 && h("details", null, h("summary", { t: "nodes.slight", values: { n: number(slight.length) } }), slight.map(hindrance)),
    (why.recent.length > 0 || why.wanted?.length > 0) && h("details", null, h("summary", { t: "nodes.recent" }),
      why.recent.map(({ reason, count }) => h("p", { class: "fine" }, h("span", { raw: true }, `${number(count)} ×`), " ",
        h("span", { t: has(`reason.${reason}`) ? `reason.${reason}` : "reason.other" }))),
      why.wanted?.length > 0 && h("p", { class: "fine" }, h("span", { t: "nodes.wanted" }), " ",
        h("span", { raw: true }, why.wanted.map(({ model, requests }) => `${model} (${number(requests)})`).join(", ")))));
}

/** Says what keeps a node from work; by the coordinator's words where the pages have none. */
function hindrance({ code, text: said, remedy }) {
  const line = (kind, key, found) => (has(key) ? h("p", { class: kind, t: key }) : h("p", { class: kind, raw: true }, found));
  return h("div", { class: "hindrance" }, line("", `why.${code}`, said), line("fine", `why.${code}.remedy`, remedy));
}
