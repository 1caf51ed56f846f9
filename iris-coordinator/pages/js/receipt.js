// What a node signed for a sealed task: shown, checked, and taken away.

import { call } from "./api.js";
import { h } from "./dom.js";
import { moment } from "./i18n.js";
import { button, save } from "./parts.js";
import { fault } from "./shell.js";

export function receiptPart(receipt) {
  const said = h("div", { "aria-live": "polite" });
  const rows = [["use.node", receipt.node], ["receipt.at", moment(receipt.at)], ["receipt.task", receipt.client_task], ["receipt.request", receipt.request]];
  return h("div", { class: "stack" },
    h("p", { class: "fine", t: "receipt.explained" }),
    h("dl", { class: "facts" }, rows.flatMap(([key, value]) => [h("dt", { t: key }), h("dd", { class: "id", raw: true }, value)])),
    h("div", { class: "row" },
      button("receipt.check", "plain", async () => said.replaceChildren(await checked(receipt)), "check"),
      button("receipt.save", "plain", () => save(`receipt-${receipt.task}.json`, JSON.stringify(receipt, null, 2), "application/json"), "download")),
    said);
}

/** Checks a receipt in this browser, by the identity that its node has in the list of nodes. */
async function checked(receipt) {
  try {
    const [{ verifyReceipt }, { roster }] = await Promise.all([import("../vendor/iris-seal.mjs"), call("/roster")]);
    const node = JSON.parse(roster).nodes.find(({ id }) => id === receipt.node);
    if (!node) return h("p", { class: "fine", t: "receipt.away" });
    const { nodeId, receipt: signed } = await verifyReceipt(receipt.receipt, node.certificate);
    const isSame = nodeId === receipt.node && signed.request === hexadecimal(receipt.request) && signed.task === hexadecimal(receipt.client_task);
    return h("p", null, h("span", { class: `badge ${isSame ? "good" : "bad"}`, t: isSame ? "receipt.good" : "receipt.bad" }));
  } catch (error) {
    if (error.code === "ReceiptDisputed") return h("p", null, h("span", { class: "badge bad", t: "receipt.bad" }));
    return fault(error);
  }
}

const hexadecimal = (base64url) =>
  [...atob(base64url.replaceAll("-", "+").replaceAll("_", "/"))].map((letter) => letter.charCodeAt(0).toString(16).padStart(2, "0")).join("");
