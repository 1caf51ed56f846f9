// An account: joining and signing in, then its keys, use, nodes and money, and what this browser has.

import { call, register, signIn, signInWithKey, signOut, strangers, who } from "./api.js";
import { device } from "./device.js";
import { $, h, icon } from "./dom.js";
import { date, duration, moment, number, text } from "./i18n.js";
import { ownNodes } from "./nodes.js";
import { receiptPart } from "./receipt.js";
import { button, card, facts, field, form } from "./parts.js";
import { copy, fault, notice } from "./shell.js";

const place = $("account");
/** Millionths in a unit of the network's money. */
const UNIT = 1_000_000;

// ---------------------------------------------------------------------------------------- outside

async function showOutside() {
  const { open_registration: isOpen } = await strangers;
  const digits = field("account.digits", { name: "digits", inputmode: "numeric", autocomplete: "off", placeholder: "0000 0000 0000 0000" });
  const byDigits = form("account.signin", [digits.label], () =>
    signIn({ account_key: digits.input.value.trim() }));
  const email = field("account.email", { type: "email", name: "email", autocomplete: "username" });
  const password = field("account.password", { type: "password", name: "password", autocomplete: "current-password" });
  const byPassword = form("account.signin", [email.label, password.label], () =>
    signIn({ email: email.input.value.trim(), password: password.input.value }));
  const key = field("account.key", { type: "password", name: "key", autocomplete: "off", placeholder: "iris_…" }, "account.key.fine");
  const byKey = form("account.key.use", [key.label], () => signInWithKey(key.input.value.trim()));
  place.replaceChildren(h("div", { class: "ways" },
    card("account.join", h("p", { class: "fine", t: isOpen ? "account.join.open" : "account.join.closed" }), joining(isOpen)),
    card("account.by.digits", byDigits),
    card("account.by.password", byPassword),
    card("account.by.key", byKey)),
  h("p", { class: "fine" }, h("span", { t: "account.session" }), " ", h("a", { href: "/docs", t: "docs.link" })), ...device());
}

function joining(isOpen) {
  const invitation = field("account.invitation", { name: "invitation", autocomplete: "off" }, isOpen ? "account.invitation.optional" : undefined);
  const email = field("account.email", { type: "email", name: "new-email", autocomplete: "username" }, "account.email.optional");
  const password = field("account.password", { type: "password", name: "new-password", autocomplete: "new-password", minlength: "8" }, "account.password.fine");
  return form("account.create", [invitation.label, email.label, password.label], async () => {
    const code = invitation.input.value.trim();
    const asked = code ? { invitation: code } : {};
    if (email.input.value.trim()) {
      await register({ ...asked, email: email.input.value.trim(), password: password.input.value });
      return;
    }
    const created = await call("/accounts/generate", { body: asked, anonymous: true });
    showDigits(created);
  });
}

/** Shows the digits of a new account: the only time that they can be seen. */
function showDigits({ account_key: digits, account }) {
  const kept = h("input", { type: "checkbox", id: "kept" });
  const go = button("account.digits.go", "primary", async () => {
    go.disabled = true;
    try {
      await signIn({ account_key: digits });
    } catch (error) {
      place.append(fault(error));
    }
  });
  go.disabled = true;
  kept.addEventListener("change", () => (go.disabled = !kept.checked));
  const copied = button("account.copy", "plain", (made) => copy(made, digits), "copy");
  place.replaceChildren(h("section", { class: "card stack" },
    h("h2", { t: "account.digits.new", tabindex: "-1" }),
    h("p", { t: "account.digits.warning" }),
    h("p", { class: "digits", raw: true }, digits),
    h("p", { class: "fine" }, h("span", { t: "account.id" }), " ", h("span", { class: "id", raw: true }, account)),
    h("div", { class: "row no-print" }, copied, button("account.print", "plain", () => print(), "print")),
    h("p", { class: "row no-print" }, kept, h("label", { for: "kept", t: "account.digits.kept" })),
    h("div", { class: "row no-print" }, go)));
  place.querySelector("h2").focus();
}

// ----------------------------------------------------------------------------------------- inside

const TABS = [
  ["overview", "person", overview],
  ["keys", "key", keys],
  ["use", "pulse", use],
  ["nodes", "node", ownNodes],
  ["money", "coin", money],
  ["app", "bell", device],
];

async function showInside() {
  const isKey = who().kind === "key";
  const body = h("div", { class: "stack", role: "tabpanel", id: "tab", tabindex: "0" });
  const tabs = TABS.filter(([name]) => !isKey || !["keys", "money"].includes(name)).map(([name, picture, open]) => {
    const tab = button(`tab.${name}`, "", () => choose(name), picture);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "tab");
    return { name, tab, open };
  });
  const choose = async (name) => {
    const chosen = tabs.find((one) => one.name === name) ?? tabs[0];
    for (const { tab, name } of tabs) {
      tab.setAttribute("aria-selected", String(name === chosen.name));
      tab.tabIndex = name === chosen.name ? 0 : -1;
    }
    row.scrollTo({ left: chosen.tab.offsetLeft - (row.clientWidth - chosen.tab.offsetWidth) / 2 });
    body.setAttribute("aria-label", text(`tab.${chosen.name}`));
    history.replaceState(null, "", `#${chosen.name}`);
    body.replaceChildren(h("p", { class: "fine", t: "account.loading" }));
    try {
      body.replaceChildren(...(await chosen.open()));
    } catch (error) {
      body.replaceChildren(fault(error));
    }
  };
  const row = h("div", { class: "tabs no-print", role: "tablist", label: "account.title" }, tabs.map(({ tab }) => tab));
  row.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const here = tabs.findIndex(({ tab }) => tab.tabIndex === 0);
    const next = tabs[(here + step + tabs.length) % tabs.length];
    next.tab.focus();
    choose(next.name);
  });
  place.replaceChildren(row, body);
  await choose(location.hash.slice(1));
}

async function overview() {
  const me = await call("/auth/me");
  const { state, until } = me.membership;
  const kind = { lapsed: "bad", grace: "warn" }[state] ?? "good";
  const leave = button("account.signout", "plain", () => signOut(), "leave");
  const parts = [card("account.overview", facts([
    ["account.id", h("span", { class: "id", raw: true }, me.account)],
    ["account.email", me.email],
    ["account.since", date(me.created)],
    ["account.membership", h("span", null, h("span", { class: `badge ${kind}`, t: `membership.${state}` }),
      until && h("span", null, " ", h("span", { t: "membership.until", values: { date: date(until) } })))],
    ["account.keys.count", number(me.keys)],
  ]), h("div", { class: "row" }, leave))];
  if (who().kind === "session" && me.email) parts.push(passwordCard());
  parts.push(h("p", null, h("a", { href: "/docs", t: "docs.link" })));
  if (who().kind === "session") parts.push(h("p", { class: "fine", t: "account.session" }));
  return parts;
}

function passwordCard() {
  const current = field("account.password.current", { type: "password", autocomplete: "current-password" });
  const next = field("account.password.new", { type: "password", autocomplete: "new-password" }, "account.password.fine");
  return card("account.password.change", form("account.password.change", [current.label, next.label], async () => {
    await call("/auth/password", { body: { current: current.input.value, new: next.input.value } });
    notice("account.password.changed");
    // Every session ended with the old password.
    await signOut();
  }));
}

async function keys() {
  const { keys } = await call("/accounts/keys");
  const shown = h("div", { "aria-live": "polite" });
  const showSecret = (key) => {
    const copied = button("account.copy", "plain", (made) => copy(made, key), "copy");
    shown.replaceChildren(h("section", { class: "card stack" },
      h("p", { t: "keys.once" }), h("p", { class: "secret", raw: true }, key), h("div", { class: "row" }, copied)));
    shown.scrollIntoView({ block: "nearest" });
  };
  const reload = async () => $("key-rows").replaceChildren(...(await call("/accounts/keys")).keys.map((key) => keyRow(key, showSecret, reload)));
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", label: "tab.keys" },
    h("table", null,
      h("thead", null, h("tr", null, ["keys.label", "keys.scope", "keys.ending", "keys.used", "keys.limits", "keys.expires", "keys.actions"].map((key) => h("th", { scope: "col", t: key })))),
      h("tbody", { id: "key-rows" }, keys.map((key) => keyRow(key, showSecret, reload)))));
  const label = field("keys.label", { maxlength: "64" });
  const scope = h("select", null, ["inference", "node", "read"].map((scope) => h("option", { value: scope, t: `scope.${scope}` })));
  const perDay = field("keys.requests", { inputmode: "numeric" }, "keys.optional");
  const tokens = field("keys.tokens", { inputmode: "numeric" }, "keys.optional");
  const days = field("keys.days", { inputmode: "numeric" }, "keys.optional");
  const count = ({ input }) => (/^\d+$/.test(input.value.trim()) ? Number(input.value.trim()) : undefined);
  const make = form("keys.create", [
    h("div", { class: "row" }, label.label, h("label", { class: "field" }, h("span", { t: "keys.scope" }), scope)),
    h("div", { class: "row" }, perDay.label, tokens.label, days.label),
  ], async () => {
    const lasts = count(days);
    const asked = {
      scope: scope.value,
      label: label.input.value.trim() || undefined,
      requests_per_day: count(perDay),
      tokens_per_month: count(tokens),
      expires: lasts ? Math.floor(Date.now() / 1000) + lasts * 86_400 : undefined,
    };
    const created = await call("/accounts/keys", { body: asked });
    showSecret(created.key);
    await reload();
  });
  return [shown, card("tab.keys", keys.length > 0 ? table : [h("p", { class: "fine", t: "keys.none" }), table]), card("keys.new", make)];
}

function keyRow(key, showSecret, reload) {
  const used = key.used ?? {};
  const limits = [
    key.requests_per_day && text("keys.limit.day", { used: number(used.requests_today ?? 0), limit: number(key.requests_per_day) }),
    key.tokens_per_month && text("keys.limit.month", { used: number(used.tokens_this_month ?? 0), limit: number(key.tokens_per_month) }),
  ].filter(Boolean);
  const act = (request) => async () => {
    try {
      const answer = await request();
      if (answer?.key) showSecret(answer.key);
      await reload();
    } catch (error) {
      notice("error.other");
      throw error;
    }
  };
  const rotate = button("keys.rotate", "quiet", act(() => call(`/accounts/keys/${key.id}/rotate`, { body: { grace_secs: 86_400 } })), "retry");
  const revoke = button("keys.revoke", "quiet", (made) => {
    if (made.dataset.sure) return act(() => call(`/accounts/keys/${key.id}`, { method: "DELETE" }))();
    made.dataset.sure = "yes";
    made.className = "danger";
    const words = made.querySelector("span");
    words.dataset.t = "keys.revoke.sure";
    words.textContent = text("keys.revoke.sure");
  }, "trash");
  return h("tr", null,
    h("td", { raw: true }, key.label ?? "–"),
    h("td", { t: `scope.${key.scope}` }),
    h("td", { class: "id", raw: true }, `…${key.ending}`),
    key.last_used ? h("td", { raw: true }, date(key.last_used)) : h("td", { t: "keys.never" }),
    h("td", { raw: true }, limits.join(", ") || "–"),
    h("td", { raw: true }, key.expires ? date(key.expires) : "–"),
    h("td", null, h("div", { class: "row" }, rotate, revoke)));
}

async function use() {
  const [page, { receipts }] = await Promise.all([call("/history?limit=500"), call("/receipts?limit=500")]);
  const receiptOf = new Map(receipts.map((receipt) => [receipt.task, receipt]));
  const days = new Map();
  for (const task of page.tasks) {
    const day = new Date(task.submitted * 1000).toISOString().slice(0, 10);
    const sum = days.get(day) ?? { tasks: 0, tokens: 0 };
    sum.tasks += 1;
    sum.tokens += task.prompt_tokens + task.completion_tokens;
    days.set(day, sum);
  }
  const most = Math.max(1, ...[...days.values()].map((day) => day.tokens));
  const bars = [...days].slice(0, 31).map(([day, { tasks, tokens }]) => {
    const bar = h("span", { class: "meter wide", "aria-hidden": "true" }, h("i"));
    bar.firstChild.style.transform = `scaleX(${tokens / most})`;
    return h("div", { class: "bar-line" },
      h("span", { class: "row" }, h("span", { raw: true }, date(Date.parse(day) / 1000)), h("span", { class: "grow" }),
        h("span", { class: "fine", t: "use.day", values: { tasks: number(tasks), tokens: number(tokens) } })), bar);
  });
  const rows = page.tasks.slice(0, 50).map((task) => {
    const why = button("use.why", "quiet", (made) => explain(task.task, made.closest("tr")));
    const receipt = receiptOf.get(task.task);
    const proof = button("receipt.show", "quiet", (made) => below(made.closest("tr"), "receipt", () => receiptPart(receipt)), "file");
    return h("tr", null,
      h("td", { raw: true }, moment(task.submitted)), h("td", { raw: true }, task.model),
      h("td", null, h("span", { class: `badge ${task.state === "finished" ? "good" : "bad"}`, t: `task.${task.state}` }),
        task.sealed && h("span", null, " ", h("span", { class: "badge sealed" }, icon("lock"), h("span", { t: "privacy.sealed" })))),
      h("td", { class: "number", raw: true }, duration(task.took_ms)),
      h("td", { class: "number", raw: true }, number(task.prompt_tokens + task.completion_tokens)),
      h("td", { class: "id", raw: true }, task.node?.slice(0, 8) ?? "–"),
      h("td", null, task.sealed ? receipt && proof : why));
  });
  const head = ["use.when", "chat.model", "use.state", "use.took", "use.tokens", "use.node", "use.why"];
  return [
    card("use.days", h("p", { class: "fine", t: page.next ? "use.latest" : "use.all" }), ...(bars.length > 0 ? bars : [h("p", { t: "use.none" })])),
    card("use.tasks", h("div", { class: "scroll", tabindex: "0", role: "region", label: "use.tasks" },
      h("table", null, h("thead", null, h("tr", null, head.map((key) => h("th", { scope: "col", t: key })))), h("tbody", null, rows)))),
  ];
}

/** Shows a part below a row of the tasks, or takes it away again. */
async function below(row, kind, make) {
  if (row.nextElementSibling?.dataset.kind === kind) return row.nextElementSibling.remove();
  const more = h("tr", null, h("td", { colspan: "7" }, await make()));
  more.dataset.kind = kind;
  row.after(more);
}

const explain = (task, row) => below(row, "why", async () => {
  try {
    const { reasons, skipped } = await call(`/inference/${task}/explain`);
    return h("ul", { class: "stack" },
      reasons.map(({ node, reason }) => h("li", null, h("span", { class: "id", raw: true }, node.slice(0, 8)), " ", h("span", { t: `reason.${reason}` }))),
      skipped.map(({ reason, count }) => h("li", null, h("span", { raw: true }, `${number(count)} ×`), " ", h("span", { t: `reason.${reason}` }))));
  } catch (error) {
    return error.status === 404 ? h("p", { class: "fine", t: "use.forgotten" }) : fault(error);
  }
});

async function money() {
  const [{ payouts }, { months }] = await Promise.all([call("/payouts"), call("/months")]);
  const owed = payouts.filter((payout) => payout.state !== "paid" && payout.state !== "forfeited");
  const sum = (some) => some.reduce((all, { amount }) => all + Number(amount), 0);
  const amount = (micros) => number(Number(micros) / UNIT, 6);
  const rows = payouts.map((payout) => {
    const more = button("money.statement", "quiet", (made) => statement(payout.epoch, made.closest("tr")));
    return h("tr", null,
      h("td", { raw: true }, payout.epoch), h("td", { class: "number", raw: true }, amount(payout.amount)),
      h("td", null, h("span", { class: "badge", t: `payout.${payout.state}` })),
      h("td", { raw: true }, payout.state === "held" ? date(payout.release) : date(payout.since)),
      h("td", { raw: true }, payout.reference ?? "–"), h("td", null, more));
  });
  const head = ["money.month", "money.amount", "money.state", "money.date", "money.reference", "money.statement"];
  const tile = (key, value) => h("div", { class: "tile" }, h("dt", { t: key }), h("dd", { raw: true }, value));
  return [
    h("dl", { class: "tiles" },
      tile("money.coming", amount(sum(owed))),
      tile("money.paid", amount(sum(payouts.filter(({ state }) => state === "paid")))),
      tile("money.months", number(months.length))),
    card("money.shares", payouts.length === 0 ? h("p", { class: "fine", t: "money.none" })
      : h("div", { class: "scroll", tabindex: "0", role: "region", label: "money.shares" },
        h("table", null, h("thead", null, h("tr", null, head.map((key) => h("th", { scope: "col", t: key })))), h("tbody", null, rows)))),
    h("p", { class: "fine", t: "money.explained" }),
  ];
}

async function statement(month, row) {
  if (row.nextElementSibling?.dataset.month === month) return row.nextElementSibling.remove();
  let said;
  try {
    const { month: closed, pseudonym, weight, parts } = await call(`/months/${month}`);
    said = facts([
      ["money.pool", number(Number(closed.pool) / UNIT, 6)],
      ["money.policy", closed.policy],
      ["money.owners", number(closed.owners)],
      ["money.weight", number(weight)],
      ["money.pseudonym", pseudonym],
      ...Object.entries(parts).map(([part, value]) => ["money.part", `${part}: ${number(value)}`]),
    ]);
  } catch (error) {
    said = fault(error);
  }
  const more = h("tr", null, h("td", { colspan: "6" }, said));
  more.dataset.month = month;
  row.after(more);
}

const showAll = () => (who() ? showInside() : showOutside());
document.addEventListener("session", showAll);
document.addEventListener("language", () => {
  // What was made of numbers and dates is made anew; the digits are shown once and stay.
  if (who()) showInside();
});
showAll();
