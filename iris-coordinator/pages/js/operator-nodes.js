// The nodes, what is held against them, and what their owners say.

import { call } from "./api.js";
import { h, icon } from "./dom.js";
import { date, has, number } from "./i18n.js";
import { button, card, certain, facts, table, when } from "./parts.js";
import { fault } from "./shell.js";

/** Nodes that are read, and that are shown at a time. */
const [MOST, ROWS] = [2000, 50];

async function allNodes() {
  const found = [];
  let after = "";
  while (found.length < MOST) {
    const { nodes, next } = await call(`/nodes?limit=500${after}`);
    found.push(...nodes);
    if (!next) break;
    after = `&after=${next}`;
  }
  return found;
}

export async function nodes(again) {
  const [connected, { holds }, { signs }, { trusted_owners: trusted }] = await Promise.all([
    allNodes(), call("/holds"), call("/signs"), call("/policies")]);
  const held = new Map(holds.map((hold) => [hold.node, hold]));
  const ids = new Set(connected.map(({ id }) => id));
  // Those that are held come first: they wait for somebody.
  const all = [...connected, ...holds.filter(({ node }) => !ids.has(node)).map(({ node }) => ({ id: node, models: [] }))]
    .sort((a, b) => Number(held.has(b.id)) - Number(held.has(a.id)) || (b.points ?? 0) - (a.points ?? 0));
  const head = ["node.name", "nodes.state", "node.models", "node.slots", "node.standing", ["node.points", "number"], "nodes.change"];
  const list = table("nodes.title", head, [], "nodes");
  const more = h("p");
  const search = h("input", { type: "search", hint: "nodes.search" });
  let rows = ROWS;
  const draw = () => {
    const wanted = search.value.trim().toLowerCase();
    const fits = (node) => wanted === "" || [node.name ?? "", node.id, node.tier ?? "", ...node.models.map(({ name }) => name)]
      .some((said) => said.toLowerCase().includes(wanted));
    const found = all.filter(fits);
    list.querySelector("tbody").replaceChildren(...found.slice(0, rows).map((node) => nodeRow(node, held.get(node.id), again)));
    const wider = button("operator.more", "plain", () => {
      rows += 4 * ROWS;
      draw();
    });
    more.replaceChildren(...(found.length > rows ? [wider] : []));
  };
  search.addEventListener("input", draw);
  draw();
  const label = h("label", { class: "search" }, h("span", { class: "unseen", t: "nodes.search" }), icon("search"), search);
  return [
    h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", { t: "nodes.title" }), label),
      all.length > 0 ? [list, more] : h("p", { class: "fine", t: "nodes.none.here" })),
    signsCard(signs, trusted.length > 0),
  ];
}

function nodeRow(node, hold, again) {
  const name = node.name || node.id.slice(0, 12);
  const models = node.models.slice(0, 2).map((model) => model.name).join(", ") || "–";
  const kind = { drain: "warn", block: "bad" }[hold?.hold] ?? (node.slots === undefined ? "" : "good");
  const state = hold ? `nodes.${hold.hold}` : node.slots === undefined ? "nodes.gone" : "nodes.ready";
  return h("tr", null,
    h("td", { raw: true }, name, h("span", { class: "id" }, node.id)),
    h("td", null, h("span", { class: `badge ${kind}`, t: state }), hold?.reason && h("span", { class: "fine reason", raw: true }, hold.reason)),
    h("td", { raw: true }, models, node.models.length > 2 && ` +${node.models.length - 2}`),
    h("td", { raw: true }, node.slots === undefined ? "–" : `${node.running}/${node.slots}`),
    h("td", { raw: true }, node.standing === undefined ? "–" : `${number(node.standing / 10)} %`),
    h("td", { class: "number", raw: true }, node.points === undefined ? "–" : number(node.points)),
    h("td", null, h("div", { class: "row acts" }, acts(node.id, name, hold, again),
      button("nodes.do.why", "quiet", (made) => why(node.id, made.closest("tr"))))));
}

function acts(id, name, hold, again) {
  const values = { name };
  const holding = (kind) => button(`nodes.do.${kind}`, "quiet", async () => {
    const isDone = await certain({
      title: `nodes.${kind}.title`, text: `nodes.${kind}.text`, values, action: `nodes.do.${kind}`,
      fields: [{ key: "nodes.reason", maxlength: "256" }],
      act: (reason) => call(`/nodes/${id}/hold`, { method: "PUT", body: { hold: kind, reason: reason || undefined } }),
    });
    if (isDone) again();
  });
  const release = button("nodes.do.release", "quiet", async () => {
    const act = () => call(`/nodes/${id}/hold`, { method: "DELETE" });
    if (await certain({ title: "nodes.release.title", text: "nodes.release.text", values, action: "nodes.do.release", act })) again();
  });
  return [hold?.hold !== "drain" && holding("drain"), hold?.hold !== "block" && holding("block"), hold && release].filter(Boolean);
}

async function why(id, row) {
  if (row.nextElementSibling?.dataset.why === id) return row.nextElementSibling.remove();
  let said;
  try {
    const { hindrances } = await call(`/nodes/${id}/why`);
    said = hindrances.length === 0 ? h("p", { t: "nodes.fine" }) : hindrances.map(({ text, remedy }) =>
      h("div", { class: "hindrance" }, h("p", { raw: true }, text), h("p", { class: "fine", raw: true }, remedy)));
  } catch (error) {
    said = fault(error);
  }
  const more = h("tr", null, h("td", { colspan: "7" }, said));
  more.dataset.why = id;
  row.after(more);
}

function signsCard(signs, isTested) {
  const rows = signs.toReversed().map(({ node, at, sign, ...values }) => h("li", null,
    when(at), h("span", { class: "id", raw: true }, node.slice(0, 12)),
    h("span", { t: has(`sign.${sign}`) ? `sign.${sign}` : "sign.other", values })));
  const none = h("p", { class: "fine", t: isTested ? "signs.none" : "signs.off" });
  return card("signs.title", h("p", { class: "fine", t: "signs.explained" }), rows.length > 0 ? h("ul", { class: "recent" }, rows) : none);
}

// ---------------------------------------------------------------------------------------- verdicts

export async function verdicts(again) {
  const found = [];
  let after = "";
  while (found.length < MOST) {
    const { verdicts, next } = await call(`/verdicts?limit=500${after}`);
    found.push(...verdicts);
    if (!next) break;
    after = `&after=${next}`;
  }
  // Those that wait for a decision come first, then the latest.
  found.sort((a, b) => Number(b.state === "appealed") - Number(a.state === "appealed") || b.at - a.at);
  const { trusted_owners: trusted } = await call("/policies");
  const none = card("verdicts.title", h("p", { class: "fine", t: trusted.length > 0 ? "verdicts.none" : "signs.off" }));
  return found.length > 0 ? found.slice(0, 4 * ROWS).map((verdict) => verdictCard(verdict, again)) : [none];
}

function verdictCard(verdict, again) {
  const kind = { appealed: "warn", final: "bad", overturned: "good" }[verdict.state] ?? "";
  const decide = (ruling) => {
    const made = button(`verdicts.${ruling}`, ruling === "uphold" ? "danger" : "plain", async () => {
      const isDone = await certain({
        title: `verdicts.${ruling}.title`, text: `verdicts.${ruling}.text`, action: `verdicts.${ruling}`,
        fields: [{ key: "verdicts.reason.give", maxlength: "4096" }],
        act: (reason) => call(`/verdicts/${verdict.id}/decision`, { body: { ruling, reason: reason || undefined } }),
      });
      if (isDone) again();
    });
    return made;
  };
  return h("section", { class: "card" },
    h("div", { class: "card-head" }, h("h2", { raw: true }, verdict.model),
      h("span", { class: `badge ${kind}`, t: `verdict.${verdict.state}`, values: { date: date(verdict.appeal_until) } })),
    h("p", { raw: true }, verdict.text),
    facts([
      ["verdicts.node", h("span", { class: "id", raw: true }, verdict.node)],
      ["verdicts.owner", h("span", { class: "id", raw: true }, verdict.account)],
      ["verdicts.at", when(verdict.at)],
      ["verdicts.objection", verdict.objection],
      ["verdicts.reason", verdict.reason],
    ]),
    prompts(verdict.id),
    verdict.state === "appealed" && h("div", { class: "row" }, decide("uphold"), decide("overturn")));
}

function prompts(id) {
  const list = h("div", { class: "stack" });
  const made = h("details", null, h("summary", { t: "verdicts.prompts" }), list);
  made.addEventListener("toggle", async () => {
    if (!made.open || list.childElementCount > 0) return;
    try {
      const { prompts = [] } = await call(`/verdicts/${id}`);
      list.replaceChildren(...(prompts.length > 0 ? prompts.map((prompt) => h("pre", { class: "prompt", raw: true, tabindex: "0" }, prompt))
        : [h("p", { class: "fine", t: "verdicts.prompts.none" })]));
    } catch (error) {
      list.replaceChildren(fault(error));
    }
  });
  return made;
}
