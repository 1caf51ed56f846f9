// What the books hold, the next month end, and the months that are closed.

import { call, open } from "./api.js";
import { h } from "./dom.js";
import { date, number } from "./i18n.js";
import { button, card, certain, facts, field, form, save, table, when } from "./parts.js";
import { fault, notice } from "./shell.js";

/** Millionths in a unit of the network's money. */
const UNIT = 1_000_000;

export const amount = (micros) => number(micros / UNIT, 6);

/** Reads an amount as people write it, in millionths; `null` where it is none. */
function micros(written) {
  const read = /^(\d{1,9})(?:[.,](\d{1,6}))?$/.exec(written.trim());
  if (!read) return null;
  const sum = Number(read[1]) * UNIT + Number((read[2] ?? "").padEnd(6, "0"));
  return sum > 0 ? sum : null;
}

export async function money(again) {
  const [{ balances }, { months }, preview] = await Promise.all([
    call("/balances"), call("/months"),
    call("/months/next").catch((error) => (error.status === 404 ? null : { error })),
  ]);
  return [previewCard(preview, again), monthsCard(months, again), balancesCard(balances), topUpCard(again)];
}

function previewCard(preview, again) {
  if (!preview) return card("end.title", h("p", { class: "fine", t: "end.none" }));
  if (preview.error) return card("end.title", fault(preview.error));
  const { epoch: month, policy, pool, carried, due, is_due: isDue, shares } = preview;
  const all = shares.reduce((sum, { weight }) => sum + weight, 0);
  const rows = shares.map(({ account, amount: share, weight }) => h("tr", null,
    h("td", { class: "id", raw: true }, account),
    h("td", { class: "number", raw: true }, `${number((weight / Math.max(1, all)) * 100, 1)} %`),
    h("td", { class: "number", raw: true }, amount(share))));
  const close = button("end.close", "danger", async () => {
    const act = () => call(`/months/${month}/close`, { method: "POST" });
    const isDone = await certain({ title: "end.close.title", text: "end.close.text", values: { month }, action: "end.close.go", act });
    if (isDone) again();
  });
  close.querySelector("span").dataset.tValues = JSON.stringify({ month });
  close.disabled = !isDue;
  return card("end.title", h("p", { t: "end.preview", values: { month } }),
    facts([
      ["end.pool", amount(pool)],
      ["end.carried", carried > 0 ? amount(carried) : undefined],
      ["end.policy", policy],
      ["end.due", when(due)],
    ]),
    rows.length > 0 ? table("end.title", ["end.owner", ["end.weight", "number"], ["end.share", "number"]], rows) : h("p", { class: "fine", t: "end.nobody" }),
    h("div", { class: "row" }, close));
}

function monthsCard(months, again) {
  if (months.length === 0) return card("months.title", h("p", { class: "fine", t: "months.none" }));
  const rows = months.map((month) => {
    const books = button("months.books", "quiet", async (made) => {
      made.disabled = true;
      try {
        const answer = await open(`/months/${month.epoch}/books`);
        save(`iris-${month.epoch}.jsonl`, await answer.blob(), "application/jsonl");
        notice("months.saved");
      } catch (error) {
        made.closest("section").append(fault(error));
      } finally {
        made.disabled = false;
      }
    }, "save");
    const shares = button("months.shares", "quiet", (made) => showShares(month.epoch, made.closest("tr"), again));
    return h("tr", null,
      h("td", { raw: true }, month.epoch),
      h("td", { class: "number", raw: true }, amount(month.pool)),
      h("td", { class: "number", raw: true }, amount(month.carried)),
      h("td", { class: "number", raw: true }, number(month.owners)),
      h("td", { raw: true }, date(month.closed)),
      h("td", { raw: true }, date(month.release)),
      h("td", null, h("div", { class: "row acts" }, shares, books)));
  });
  const head = ["months.month", ["end.pool", "number"], ["end.carried", "number"], ["months.owners", "number"], "months.closed", "months.release", "members.change"];
  return card("months.title", table("months.title", head, rows));
}

async function showShares(month, row, again) {
  if (row.nextElementSibling?.dataset.month === month) return row.nextElementSibling.remove();
  let said;
  try {
    const { payouts } = await call(`/months/${month}/payouts`);
    const rows = payouts.map((payout) => h("tr", null,
      h("td", { class: "id", raw: true }, payout.account),
      h("td", { class: "number", raw: true }, amount(payout.amount)),
      h("td", null, h("span", { class: "badge", t: `payout.${payout.state}` })),
      h("td", { raw: true }, payout.reference ?? "–"),
      h("td", null, payout.state === "owed" && paidButton(month, payout, again))));
    said = rows.length > 0
      ? table("months.shares", ["end.owner", ["end.share", "number"], "money.state", "money.reference", "members.change"], rows)
      : h("p", { class: "fine", t: "months.nobody" });
  } catch (error) {
    said = fault(error);
  }
  const more = h("tr", null, h("td", { colspan: "7" }, said));
  more.dataset.month = month;
  row.after(more);
}

const paidButton = (month, payout, again) =>
  button("paid.mark", "quiet", async () => {
    const isDone = await certain({
      title: "paid.title", text: "paid.text", values: { amount: amount(payout.amount), account: payout.account }, action: "paid.mark",
      fields: [{ key: "members.reference", maxlength: "128" }],
      act: (reference) => call(`/months/${month}/payouts/${payout.account}`, { body: { reference } }),
    });
    if (isDone) again();
  }, "check");

function balancesCard(balances) {
  const rows = Object.entries(balances).map(([book, held]) => {
    const [name, of] = book.split(":");
    return h("tr", null, h("td", { t: `book.${name}`, values: { of: of ?? "" } }), h("td", { class: "number", raw: true }, amount(held)));
  });
  return card("books.title", rows.length > 0 ? table("books.title", ["books.book", ["books.amount", "number"]], rows) : h("p", { class: "fine", t: "books.none" }));
}

function topUpCard(again) {
  const sum = field("topup.amount", { inputmode: "decimal" });
  const reference = field("members.reference", { maxlength: "128" });
  const wrong = h("p", { class: "fine", t: "topup.wrong", hidden: true });
  const put = form("topup.go", [h("div", { class: "row" }, sum.label, reference.label), wrong], async () => {
    const read = micros(sum.input.value);
    wrong.hidden = read !== null;
    if (read === null) return;
    const named = reference.input.value.trim();
    const act = () => call("/pool", { body: { amount: read, reference: named } });
    const values = { amount: amount(read), reference: named };
    if (await certain({ title: "topup.sure", text: "topup.sure.text", values, action: "topup.go", act })) again();
  });
  return card("topup.title", put);
}
