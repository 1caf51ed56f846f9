// The members, and who may become one.

import { call } from "./api.js";
import { h } from "./dom.js";
import { date, number } from "./i18n.js";
import { button, card, certain, field, form, table, when } from "./parts.js";
import { copy, notice } from "./shell.js";

/** Accounts of a page. */
const PAGE = 50;

export async function members(again) {
  const [page, { membership_fee: fee }, invitations] = await Promise.all([
    call(`/accounts?limit=${PAGE}`), call("/policies"), invitationCards(again)]);
  const body = accountTable(fee > 0);
  const more = h("p", null);
  const take = ({ accounts, next }) => {
    body.querySelector("tbody").append(...accounts.map((account) => accountRow(account, fee > 0, again)));
    const load = button("operator.more", "plain", async () => take(await call(`/accounts?limit=${PAGE}&after=${next}`)));
    more.replaceChildren(...(next ? [load] : []));
  };
  take(page);
  return [card("members.title", h("p", { class: "fine", t: "members.explained" }), body, more), ...invitations];
}

const accountTable = (takesFees) =>
  table("members.title", ["members.account", "members.since", "members.membership", ["members.keys", "number"], "members.invited", ...(takesFees ? ["members.change"] : [])], []);

function accountRow({ account, created, membership, keys, invited_by: by }, takesFees, again) {
  const kind = { lapsed: "bad", grace: "warn" }[membership.state] ?? "good";
  const pay = button("members.pay", "quiet", async () => {
    const isDone = await certain({
      title: "members.pay.title", text: "members.pay.text", values: { account: account.slice(0, 12) }, action: "members.pay",
      fields: [{ key: "members.months", inputmode: "numeric", value: "1" }, { key: "members.reference", maxlength: "128" }],
      act: (months, reference) => call(`/accounts/${account}/fees`, { body: { months: Number(months) || 0, reference } }),
    });
    if (isDone) again();
  }, "coin");
  return h("tr", null,
    h("td", { class: "id", raw: true }, account),
    h("td", { raw: true }, date(created)),
    h("td", null, h("span", { class: `badge ${kind}`, t: `membership.${membership.state}` }),
      membership.until && h("span", { class: "fine" }, " ", h("span", { t: "membership.until", values: { date: date(membership.until) } }))),
    h("td", { class: "number", raw: true }, number(keys)),
    by ? h("td", { class: "id", raw: true, title: by }, by.slice(0, 12)) : h("td", { class: "fine", t: "members.operator" }),
    takesFees && h("td", null, pay));
}

async function invitationCards(again) {
  const { invitations } = await call("/invitations").catch((error) => {
    // A key that reads the figures sees no invitations.
    if (error.status === 403) return { invitations: null };
    throw error;
  });
  if (!invitations) return [h("p", { class: "fine", t: "operator.read" })];
  const rows = invitations.map((invitation) => {
    const revoke = button("invite.revoke", "quiet", async () => {
      const act = () => call(`/invitations/${invitation.id}`, { method: "DELETE" });
      if (await certain({ title: "invite.revoke.title", text: "invite.revoke.text", action: "invite.revoke", act })) again();
    }, "trash");
    return h("tr", null,
      h("td", { class: "id", raw: true }, invitation.id.slice(0, 8)),
      h("td", { raw: true }, invitation.label ?? "–"),
      h("td", { t: "invite.uses.n", values: { n: number(invitation.uses_left) } }),
      h("td", null, when(invitation.expires)),
      h("td", null, revoke));
  });
  const shown = h("div", { "aria-live": "polite" });
  const uses = field("invite.count", { inputmode: "numeric", value: "1" });
  const days = field("invite.days", { inputmode: "numeric", value: "7" });
  const label = field("invite.label", { maxlength: "64" });
  const make = form("invite.make", [h("div", { class: "row" }, uses.label, days.label, label.label)], async () => {
    const body = {
      uses: Number(uses.input.value) || 0,
      valid_secs: Math.round((Number(days.input.value) || 0) * 86_400),
      label: label.input.value.trim() || undefined,
    };
    const { invitation } = await call("/invitations", { body });
    const copied = button("account.copy", "plain", (made) => copy(made, invitation), "copy");
    const seen = button("operator.reload", "plain", again, "retry");
    shown.replaceChildren(h("div", { class: "stack" },
      h("p", { t: "invite.once" }), h("p", { class: "secret", raw: true }, invitation), h("div", { class: "row" }, copied, seen)));
    notice("operator.done");
  });
  const head = ["invite.id", "invite.label", "invite.uses", "invite.until", "members.change"];
  return [
    card("invite.title", h("p", { class: "fine", t: "invite.explained" }),
      rows.length > 0 ? table("invite.title", head, rows) : h("p", { class: "fine", t: "invite.none" })),
    card("invite.new", make, shown),
  ];
}
