// The pages in Chromium, against real processes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { PHONE, WIDE, ask, axe, chatting, facts, member, operator, shot, submit, visitor } from "./browser.mjs";

test("a question gets a streamed answer of the bundled model, and the talk is there after a reload", async () => {
  const { page, complaints, context } = await chatting(facts.engine);
  assert.equal(await ask(page, "What is the capital of France?"), "The capital of France is Paris.");
  await page.waitForSelector(".theirs .badge.open");
  await page.reload();
  await page.click(".talk-name");
  assert.match(await page.locator(".theirs .body").innerText(), /Paris/);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a sealed question is sealed in the browser, and the coordinator's label says so", async () => {
  const { page, complaints, context } = await chatting(facts.engine);
  const sent = [];
  page.on("request", (request) => {
    if (request.method() === "POST") sent.push([new URL(request.url()).pathname, request.postDataBuffer()?.toString("latin1") ?? ""]);
  });
  await page.selectOption("#mode", "sealed");
  assert.equal(await ask(page, "What is the capital of Spain?"), "The capital of Spain is Madrid.");
  await page.waitForSelector(".theirs .badge.sealed");
  assert.deepEqual([...new Set(sent.map(([path]) => path))], ["/sealed"]);
  assert.ok(sent.every(([, body]) => !body.includes("Spain")));
  assert.deepEqual(complaints, []);
  await context.close();
});

test("an answer that goes on for long is stopped, and can be asked again and edited", async () => {
  const { page, complaints, context } = await chatting(facts.scripted);
  await page.fill("#question", "marker hold");
  await page.press("#question", "Enter");
  await page.waitForFunction(() => document.querySelector(".theirs .body")?.textContent.includes("word word"));
  await page.click("#stop");
  await page.waitForFunction(() => document.querySelector("#stop").hidden);
  await page.waitForSelector(".theirs .fact[data-t='chat.stopped']");
  await page.hover(".mine");
  await page.click(".mine button[data-t-label='chat.edit']");
  assert.equal(await page.inputValue("#question"), "marker hold");
  assert.equal(await page.locator(".message").count(), 0);
  assert.equal(await ask(page, "one hello"), "Hello from the scripted server.");
  await page.click(".theirs button[data-t-label='chat.retry']");
  await page.waitForFunction(() => document.querySelector(".theirs .fact[data-t='chat.tokens']") && document.querySelector("#stop").hidden);
  assert.equal(await page.locator(".theirs").count(), 1);
  assert.deepEqual(complaints, []);
  await context.close();
});

const ATTACKS = [
  "<script>hacked()</script>",
  "<img src=x onerror=hacked()>",
  "<svg/onload=hacked()>",
  "<svg><script>hacked()</script></svg>",
  "[click](javascript:hacked())",
  "[click](data:text/html,<script>hacked()</script>)",
  "![x](x\" onerror=\"hacked())",
  "<a href=\"java&#10;script:hacked()\">x</a>",
  "<iframe srcdoc=\"<script>parent.hacked()</script>\"></iframe>",
  "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=x onerror=hacked()&gt;\">",
  "<form action=/auth/logout><input name=id autofocus onfocus=hacked()><button>go</button></form>",
  "<style>*{display:none}</style><p style=\"position:fixed;inset:0\" id=composer class=composer>over</p>",
  "```html\n<img src=x onerror=hacked()>\n```",
  "```\"onmouseover=\"hacked()\nx\n```",
  "<details open ontoggle=hacked()>x</details>",
  "<b onmouseover=hacked()>x</b><object data=x></object><embed src=x><base href=//example.invalid>",
];

test("what a model or a prompt writes does nothing, whatever it is", async () => {
  const { page, complaints, context } = await chatting(facts.scripted);
  for (const attack of ATTACKS) {
    await ask(page, `echo ${attack}`);
    for (const link of await page.locator(".theirs a").all()) await link.click({ force: true, noWaitAfter: true, timeout: 1000 }).catch(() => {});
  }
  await ask(page, `echo ${ATTACKS.join("\n\n")}`);
  await page.waitForTimeout(300);
  const found = await page.evaluate(() => ({
    elements: [...document.querySelectorAll(".message :is(script, iframe, img, form, input, style, object, embed, base, math)")].map((e) => e.outerHTML),
    handlers: [...document.querySelectorAll(".message *")].flatMap((e) => e.getAttributeNames()).filter((name) => name.startsWith("on") || name === "style" || name === "id"),
    links: [...document.querySelectorAll(".message .body a")].map((a) => a.protocol).filter((p) => !["http:", "https:", "mailto:"].includes(p) && p !== ":"),
    composers: document.querySelectorAll(".composer").length,
  }));
  assert.deepEqual(found, { elements: [], handlers: [], links: [], composers: 1 });
  assert.equal(await page.locator("#composer").isVisible(), true);
  await page.goto(`${facts.url}/dashboard`);
  await page.waitForFunction((name) => document.querySelector("#nodes")?.textContent.includes(name), facts.attack);
  assert.equal(await page.locator("#nodes img, #leaders img, #recent img").count(), 0);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a stranger has a message a day, is told so before, and sees no network", async () => {
  const { page, complaints, context } = await visitor();
  await page.goto(`${facts.url}/chat`);
  await page.waitForSelector("#limit span");
  assert.match(await page.innerText("#limit"), /1 of 1/);
  const answer = await ask(page, "What is the capital of France?");
  assert.ok(answer.length > 0);
  assert.match(await page.innerText("#limit"), /0 of 1/);
  await page.fill("#question", "again");
  await page.press("#question", "Enter");
  await page.waitForSelector(".theirs .fault");
  await page.goto(`${facts.url}/dashboard`);
  await page.waitForSelector("#gate a[href='/account']");
  assert.equal(await page.locator("#board").isVisible(), false);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a long document is read in pieces, and each step tells its node", async () => {
  const { page, complaints, context } = await chatting(facts.scripted);
  const text = Array.from({ length: 1500 }, (_, n) => `Chapter ${n}. The gardener crossed the yard and said nothing at all.`).join("\n\n");
  await page.setInputFiles("#file", { name: "book.txt", mimeType: "text/plain", buffer: Buffer.from(text) });
  await page.waitForSelector("#document:not([hidden])");
  assert.equal(await page.inputValue("#mode"), "context");
  await ask(page, "Who crossed the yard?");
  await page.waitForSelector(".theirs .work summary");
  assert.ok(await page.locator(".theirs .step.finished").count() > 2);
  assert.ok(await page.locator(".theirs .step .worker").count() > 2);
  await page.setInputFiles("#file", { name: "picture.png", mimeType: "image/png", buffer: Buffer.from([0x89, 0x50, 0xff, 0]) });
  await page.waitForSelector(".toast");
  assert.equal(await page.locator("#document").isVisible(), false);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("the network is seen as it changes, with one's own tasks and why they went where", async () => {
  const { page, complaints, context } = await member();
  await page.goto(`${facts.url}/dashboard`);
  await page.waitForFunction(() => document.querySelectorAll("#nodes tr").length === 2);
  const tasks = await page.locator("#recent li .badge").count();
  const other = await context.newPage();
  await other.goto(`${facts.url}/stats`);
  const body = { model: facts.engine, messages: [{ role: "user", content: "Who are you?" }] };
  const answer = await fetch(`${facts.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${facts.key}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200);
  await page.bringToFront();
  await page.waitForFunction(() => document.querySelector("#recent [data-t='reason.chosen']"), undefined, { timeout: 10_000 });
  assert.ok((await page.locator("#recent li .badge").count()) >= tasks);
  assert.equal(await page.locator("#recent").innerText().then((text) => text.includes("Who are you?")), false);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("an account is opened, its digits are shown once, and its keys are made and revoked", async () => {
  const { page, complaints, context } = await visitor();
  await page.goto(`${facts.url}/account`);
  await page.click("[data-t='account.create']");
  const digits = await page.waitForSelector(".digits").then((element) => element.innerText());
  assert.match(digits, /^\d{4} \d{4} \d{4} \d{4}$/);
  const go = page.locator("button", { has: page.locator("[data-t='account.digits.go']") });
  assert.equal(await go.isDisabled(), true);
  await page.check("#kept");
  await go.click();
  await page.waitForSelector("[role=tablist]");
  assert.equal((await page.content()).includes(digits), false);
  assert.equal(await page.evaluate((digits) => JSON.stringify({ ...localStorage, ...sessionStorage }).includes(digits), digits), false);
  await page.click("[role=tab]:nth-child(2)");
  await page.waitForSelector("form");
  await page.locator("form input").first().fill("laptop");
  await page.click("[data-t='keys.create']");
  const key = await page.waitForSelector(".secret").then((element) => element.innerText());
  assert.match(key, /^iris_/);
  await page.waitForSelector("#key-rows tr");
  const revoke = page.locator("#key-rows button").nth(1);
  await revoke.click();
  await revoke.click();
  await page.waitForFunction(() => document.querySelectorAll("#key-rows tr").length === 0);
  const gone = await fetch(`${facts.url}/stats`, { headers: { authorization: `Bearer ${key}` } });
  assert.equal(gone.status, 401);
  for (const tab of [3, 4, 5, 6]) {
    await page.click(`[role=tab]:nth-child(${tab})`);
    await page.waitForFunction(() => document.querySelector("#tab .card") && !document.querySelector("#tab .fault"));
  }
  await page.click("[role=tab]:nth-child(1)");
  await page.click("[data-t='account.signout']");
  await page.waitForSelector("input[name=digits]");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(complaints, []);
  await context.close();
});

/** A plan that runs side by side, puts together, and lets a person choose. */
const plan = (first) => ({
  plan: {
    model: facts.scripted,
    steps: [
      { name: "first", prompt: first },
      { name: "second", prompt: "echo **two** of them", model: facts.scripted },
      { name: "five", each: ["a", "b", "c", "d", "e"], prompt: "echo part {{ item }}" },
      { name: "both", join: { of: ["first", "second"], how: "concat", separator: "\n" } },
      { name: "expert", review: ["first", "second"] },
      { name: "end", prompt: "echo chosen: {{ expert }}, of {{ both }} and {{ five }}" },
    ],
  },
});

test("a plan fills up as it is carried out, and waits for a person who decides", async () => {
  const id = await submit(plan("echo # one\n\n- of them"));
  const { page, complaints, context } = await member();
  await page.goto(`${facts.url}/jobs`);
  await page.click(`a[href="/jobs/${id}"]`);
  await page.waitForSelector(".review .choice");
  assert.equal(await page.locator(".plan .box").count(), 6);
  assert.equal(await page.locator(".plan .box.review").count(), 1);
  // Each line leads from a step to one that uses it.
  assert.equal(await page.locator(".plan .way").count(), 7);
  assert.equal(await page.locator(".units > li").count(), 10);
  await page.locator(".units summary", { hasText: "first" }).first().click();
  await page.waitForSelector(".units details[open] .body li");
  await page.waitForSelector(".units details[open] .why");
  assert.equal(await page.locator(".review .choice .body strong").innerText(), "two");
  await shot(page, "job-review");
  await page.locator(".choice", { hasText: "two" }).locator("[type=submit]").click();
  await page.waitForSelector(".job-head .badge.good");
  await page.waitForFunction(() => document.querySelectorAll(".plan .box.finished").length === 6);
  assert.match(await page.locator(".card.theirs .body").first().innerText(), /chosen: two of them/);
  assert.equal(await page.locator(".review.card").count(), 0);
  const [saved] = await Promise.all([page.waitForEvent("download"), page.click("[data-t='jobs.export']")]);
  const exported = JSON.parse(readFileSync(await saved.path(), "utf8"));
  assert.equal(exported.task.status, "finished");
  assert.equal(exported.task.steps.find(({ unit }) => unit === "second").text, "**two** of them");
  assert.equal(exported.explanation.plan.steps.length, 6);
  assert.equal(JSON.stringify(exported).includes(facts.key), false);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a task that is not divided is one box, and is cancelled by whoever says so twice", async () => {
  const id = await submit({ model: facts.scripted, prompt: "marker hold" });
  const { page, complaints, context } = await member();
  await page.goto(`${facts.url}/jobs/${id}`);
  await page.waitForSelector(".plan .box.running");
  assert.equal(await page.locator(".plan .box").count(), 1);
  await page.waitForSelector(".state.live");
  await page.click("[data-t='jobs.cancel']");
  await page.waitForSelector("dialog[open]");
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => !document.querySelector("dialog"));
  assert.equal(await page.locator(".plan .box.running").count(), 1);
  await page.click("[data-t='jobs.cancel']");
  await page.click("dialog[open] [type=submit]");
  await page.waitForSelector(".job-head [data-t='task.cancelled']");
  // The task's events may tell before the dialog, which has such a button, has its own answer.
  await page.waitForFunction(() => !document.querySelector("dialog"));
  assert.equal(await page.locator("[data-t='jobs.cancel']").isVisible(), false);
  await page.goto(`${facts.url}/jobs/${"0".repeat(32)}`);
  await page.waitForSelector("[data-t='jobs.gone']");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a divided answer in the chat leads to its steps, in a tab that is signed in", async () => {
  const { page, complaints, context } = await chatting(facts.scripted);
  await page.selectOption("#mode", "subtasks");
  await ask(page, "extract: themes, characters and conclusions");
  const [tab] = await Promise.all([context.waitForEvent("page"), page.locator(".foot a[data-t='chat.job']").click()]);
  await tab.waitForSelector(".plan .box.finished");
  assert.match(new URL(tab.url()).pathname, /^\/jobs\/[0-9a-f]{32}$/);
  assert.ok(await tab.locator(".units > li").count() > 2);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("what a task's prompts, answers, steps and nodes say does nothing, whatever it is", async () => {
  const attack = ATTACKS.join("\n\n");
  const id = await submit(plan(`echo ${attack}`));
  const { page, complaints, context } = await member();
  await page.goto(`${facts.url}/jobs/${id}`);
  await page.waitForSelector(".review .choice");
  for (const summary of await page.locator(".units summary").all()) await summary.click();
  for (const link of await page.locator(".theirs .body a").all()) await link.click({ force: true, noWaitAfter: true, timeout: 300 }).catch(() => {});
  await page.locator(".choice").first().locator("[type=submit]").click();
  await page.waitForSelector(".job-head .badge.good");
  await page.waitForTimeout(200);
  const found = await page.evaluate(() => ({
    elements: [...document.querySelectorAll("#jobs :is(script, iframe, img, input, style, object, embed, base, math)")].map((e) => e.outerHTML),
    handlers: [...document.querySelectorAll("#jobs .body *")].flatMap((e) => e.getAttributeNames()).filter((name) => name.startsWith("on") || name === "style" || name === "id"),
    links: [...document.querySelectorAll("#jobs .body a")].map((a) => a.protocol).filter((p) => !["http:", "https:", "mailto:"].includes(p) && p !== ":"),
  }));
  assert.deepEqual(found, { elements: [], handlers: [], links: [] });
  assert.deepEqual(complaints, []);
  await context.close();
});

test("the operator holds a node, invites, puts money in, and is asked before", async () => {
  const { page, complaints, context } = await operator();
  const sent = [];
  page.on("request", (request) => sent.push(request.url()));
  await page.click("[role=tab][data-name=nodes]");
  const row = page.locator("#tab tbody tr", { hasText: facts.attack });
  await row.waitFor();
  assert.equal(await page.locator("#tab img").count(), 0);
  await row.locator("[data-t='nodes.do.drain']").click();
  await page.waitForSelector("dialog[open]");
  assert.ok((await page.locator("dialog").innerText()).includes(facts.attack));
  assert.equal(await page.locator("dialog img").count(), 0);
  await page.click("dialog [data-t='parts.leave']");
  assert.equal(await page.locator("[data-t='nodes.drain']").count(), 0);
  await row.locator("[data-t='nodes.do.drain']").click();
  await page.fill("dialog input", "a new card <img src=x onerror=hacked()>");
  await page.click("dialog [type=submit]");
  await page.waitForSelector("[data-t='nodes.drain']");
  await page.locator("#tab tbody tr").first().locator("[data-t='nodes.do.why']").click();
  await page.waitForFunction(() => document.querySelector(".hindrance")?.textContent.includes("gives it nothing new"));
  await page.click("[role=tab][data-name=overview]");
  await page.waitForSelector("[data-t='alerts.held']");
  await page.click("[role=tab][data-name=nodes]");
  await page.click("[data-t='nodes.do.release']");
  await page.click("dialog [type=submit]");
  await page.waitForFunction(() => !document.querySelector("[data-t='nodes.drain']") && document.querySelector("[data-t='nodes.ready']"));

  await page.click("[role=tab][data-name=members]");
  await page.waitForSelector("#tab tbody tr");
  await page.click("[data-t='invite.make']");
  const invitation = await page.waitForSelector(".secret").then((element) => element.innerText());
  assert.ok(invitation.length > 20);
  await page.click("[data-t='operator.reload']");
  await page.click("[data-t='invite.revoke']");
  await page.click("dialog [type=submit]");
  await page.waitForSelector("[data-t='invite.none']");

  await page.click("[role=tab][data-name=money]");
  await page.waitForSelector("[data-t='topup.go']");
  const [sum, reference] = [page.locator("form input").nth(0), page.locator("form input").nth(1)];
  await sum.fill("0");
  await reference.fill("gift 1");
  await page.click("[data-t='topup.go']");
  await page.waitForSelector("[data-t='topup.wrong']:not([hidden])");
  await sum.fill("2.5");
  await page.locator("form [type=submit]").first().click();
  await page.click("dialog [type=submit]");
  await page.waitForSelector("[data-t='book.pool']");
  await page.waitForSelector("[data-t='end.preview']");
  assert.equal(await page.locator("button", { has: page.locator("[data-t='end.close']") }).isDisabled(), true);
  const [figures] = await Promise.all([
    page.waitForEvent("download"),
    page.click("[role=tab][data-name=overview]").then(() => page.click("[data-t='health.metrics']")),
  ]);
  assert.match(readFileSync(await figures.path(), "utf8"), /# EOF/);
  assert.ok(sent.every((url) => !url.includes(facts.operator) && !url.includes("iris_")), "no key is in an address");
  await page.goto(`${facts.url}/chat`);
  assert.equal(await page.locator("#operator-place").isVisible(), true);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("an appeal is decided in the books themselves", async () => {
  const { page, complaints, context } = await operator();
  await page.waitForSelector("[data-t='alerts.appeals']");
  await page.click("[role=tab][data-name=verdicts]");
  await page.click("[data-t='verdicts.prompts']");
  await page.waitForFunction(() => document.querySelector(".prompt")?.textContent.includes("primary colours"));
  await page.click("[data-t='verdicts.overturn']");
  await page.fill("dialog input", "So it had.");
  await page.click("dialog [type=submit]");
  await page.waitForFunction(() => !document.querySelector("dialog"));
  const asked = await fetch(`${facts.url}/verdicts/${facts.verdict}`, { headers: { authorization: `Bearer ${facts.operator}` } });
  const { state, reason } = await asked.json();
  assert.deepEqual({ state, reason }, { state: "overturned", reason: "So it had." });
  assert.deepEqual(complaints, []);
  await context.close();
});

test("what is said of appeals, months and payments does nothing, whatever it is", async () => {
  const { page, complaints, context } = await operator();
  const attack = "<img src=x onerror=hacked()>";
  const [account, verdict] = ["b".repeat(32), "7".repeat(32)];
  const found = {
    id: verdict, node: "a".repeat(26), account, model: `m${attack}`, text: `found ${attack}`, at: 1_700_000_000,
    appeal_until: 1_700_600_000, state: "appealed", objection: `no ${attack}`, seeds: [],
  };
  const month = { epoch: "2026-09", policy: "seed", pool: 7_500_000, carried: 0, owners: 1, closed: 1_700_000_000, release: 1_700_000_000 };
  const payout = { epoch: "2026-09", account, amount: 7_500_000, state: "owed", since: 1, release: 1 };
  const preview = { epoch: "2026-10", policy: "seed", pool: 3_000_001, carried: 0, due: 1, is_due: true, shares: [{ account, amount: 3_000_001, weight: 4 }] };
  const sent = [];
  const answers = {
    "/verdicts": { verdicts: [found] }, [`/verdicts/${verdict}`]: { ...found, prompts: [`${attack} what?`] },
    "/months": { months: [month] }, "/months/2026-09/payouts": { payouts: [payout] }, "/months/next": preview,
    "/months/2026-09/books": { line: 1 },
  };
  await page.route((url) => url.pathname in answers || /decision$|close$|payouts\/b/.test(url.pathname), async (route) => {
    const { pathname } = new URL(route.request().url());
    if (route.request().method() === "POST") sent.push([pathname, route.request().postDataJSON()]);
    await route.fulfill({ json: answers[pathname] ?? found });
  });
  await page.click("[role=tab][data-name=overview]");
  await page.waitForSelector("[data-t='alerts.appeals']");
  await page.waitForSelector("[data-t='alerts.due']");
  await page.click("[role=tab][data-name=verdicts]");
  await page.click("[data-t='verdicts.prompts']");
  await page.waitForSelector(".prompt");
  await shot(page, "operator-appeal");
  await page.click("[data-t='verdicts.overturn']");
  await shot(page, "operator-asks");
  await page.fill("dialog input", "So it had.");
  await page.click("dialog [type=submit]");
  await page.waitForFunction(() => !document.querySelector("dialog"));
  await page.click("[role=tab][data-name=money]");
  await page.click("[data-t='months.shares']");
  await page.click("[data-t='paid.mark']");
  await page.fill("dialog input", "transfer 7");
  await page.click("dialog [type=submit]");
  await page.waitForFunction(() => !document.querySelector("dialog"));
  const [books] = await Promise.all([page.waitForEvent("download"), page.click("[data-t='months.books']")]);
  assert.equal(books.suggestedFilename(), "iris-2026-09.jsonl");
  await page.click("[data-t='end.close']");
  await shot(page, "operator-close");
  await page.click("dialog [type=submit]");
  await page.waitForFunction(() => !document.querySelector("dialog"));
  assert.deepEqual(sent, [
    [`/verdicts/${verdict}/decision`, { ruling: "overturn", reason: "So it had." }],
    [`/months/2026-09/payouts/${account}`, { reference: "transfer 7" }],
    ["/months/2026-10/close", null],
  ]);
  assert.equal(await page.locator("#operator img, dialog img").count(), 0);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("the operator's page lets nobody in who does not run the network", async () => {
  const { page, complaints, context } = await member();
  await page.goto(`${facts.url}/operator`);
  await page.waitForSelector("input[name=operator-key]");
  assert.equal(await page.locator("[role=tablist]").count(), 0);
  await page.fill("input[name=operator-key]", facts.key);
  await page.press("input[name=operator-key]", "Enter");
  await page.waitForSelector(".gate .fault");
  assert.equal(await page.locator("[role=tablist]").count(), 0);
  await page.goto(`${facts.url}/chat`);
  assert.equal(await page.locator("#operator-place").isVisible(), false);
  assert.deepEqual(complaints, []);
  await context.close();
});

/** Returns texts that are seen and are neither translated nor marked as what nobody translates. */
const untranslated = (page) =>
  page.evaluate(() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const parent = node.parentElement;
      if (!/\p{L}/u.test(node.data) || parent.closest("script, noscript, [data-t], [translate=no]")) continue;
      found.push(node.data.trim());
    }
    return found;
  });

const PLACES = ["/chat", "/dashboard", "/account#overview", "/account#keys", "/account#use", "/account#nodes", "/account#money", "/account#app", "/docs#createChatCompletion", "/jobs", "/jobs/"];
const OPERATED = ["overview", "members", "nodes", "verdicts", "money", "rules"].map((tab) => `/operator#${tab}`);
let waiting = null;
/** Returns a task that waits for a person. */
const waitingJob = () => (waiting ??= submit(plan("echo one")));

async function settled(page, place) {
  await page.goto(`${facts.url}${place}${place === "/jobs/" ? await waitingJob() : ""}`);
  if (place.includes("#")) await page.reload();
  const ready = {
    "/chat": "#model option", "/dashboard": "#nodes tr", "/account": "#tab .card", "/docs": ".operation",
    "/jobs": "#jobs tbody tr", "/jobs/": ".review .choice", "/operator": "#tab :is(.card, .halves)",
  }[place.split("#")[0]];
  await page.waitForSelector(ready, { state: "attached" });
}

for (const [language, locale] of [["en", "en-US"], ["es", "es-ES"]]) {
  const narrow = { locale, viewport: { width: 360, height: 740 } };
  for (const [who, enter, places] of [["member", member, PLACES], ["operator", operator, OPERATED]]) test(`every text is in the dictionary, and nothing is wider than a phone of 360 px: ${who}, ${language}`, async () => {
    const { page, complaints, context } = await enter(narrow);
    for (const place of places) {
      await settled(page, place);
      assert.equal(await page.getAttribute("html", "lang"), language);
      assert.deepEqual(await untranslated(page), [], place);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${place} is ${over} px too wide`);
      const missing = await page.evaluate(() => [...document.querySelectorAll("[data-t]")].filter((e) => e.textContent === e.dataset.t && e.dataset.t.includes(".")).map((e) => e.dataset.t));
      assert.deepEqual(missing, [], place);
    }
    const before = await page.innerText(".places");
    await page.click("#language");
    await page.waitForFunction((before) => document.querySelector(".places").innerText !== before, before);
    assert.deepEqual(complaints, []);
    await context.close();
  });
}

for (const colorScheme of ["light", "dark"]) for (const isOperator of [false, true]) {
  test(`axe finds no serious fault, and screenshots are kept: ${isOperator ? "operator" : "member"}, ${colorScheme}`, async () => {
    const { page, complaints, context } = isOperator ? await operator({ colorScheme }) : await chatting(facts.engine, { colorScheme });
    if (!isOperator) await ask(page, "What is the capital of Italy?");
    for (const place of isOperator ? OPERATED : ["talk", ...PLACES]) {
      if (place !== "talk") await settled(page, place);
      await page.waitForTimeout(200);
      // In a world of its own, which the page's policy does not bind.
      const session = await context.newCDPSession(page);
      const { frameTree } = await session.send("Page.getFrameTree");
      const world = { frameId: frameTree.frame.id, worldName: "axe" };
      const { executionContextId: contextId } = await session.send("Page.createIsolatedWorld", world);
      await session.send("Runtime.evaluate", { expression: axe, contextId });
      const run = "axe.run({ resultTypes: ['violations'] }).then((r) => r.violations.filter((v) => ['serious', 'critical'].includes(v.impact)).map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`))";
      const { result } = await session.send("Runtime.evaluate", { expression: run, contextId, awaitPromise: true, returnByValue: true });
      assert.deepEqual(result.value, [], place);
      const name = place === "/jobs/" ? "job" : place.replaceAll(/[/#]/g, "-").replace(/^-/, "");
      await shot(page, `${name}-${colorScheme}`);
      await page.setViewportSize(PHONE);
      await page.waitForTimeout(100);
      await shot(page, `${name}-${colorScheme}-phone`);
      await page.setViewportSize(WIDE);
    }
    assert.deepEqual(complaints, []);
    await context.close();
  });
}

test("a question is asked, stopped and sent by keys alone", async () => {
  const { page, complaints, context } = await chatting(facts.scripted);
  await page.locator("body").press("Tab");
  const reached = new Set();
  for (let step = 0; step < 40; step += 1) {
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute("href")));
    if (await page.evaluate(() => document.activeElement === document.body)) break;
    const seen = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      const box = document.activeElement.closest(".composer") ?? document.activeElement;
      return style.outlineStyle !== "none" || getComputedStyle(box).boxShadow !== "none";
    });
    assert.ok(seen, `the focus cannot be seen: ${[...reached].at(-1)}`);
    await page.keyboard.press("Tab");
  }
  for (const wanted of ["#main", "/chat", "/dashboard", "/account", "/jobs", "language", "theme", "new", "question", "model", "mode", "attach"]) {
    assert.ok(reached.has(wanted), `${wanted} is not reached by Tab: ${[...reached].join(" ")}`);
  }
  await page.focus("#question");
  await page.keyboard.type("marker hold");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector(".theirs .body")?.textContent.includes("word"));
  await page.keyboard.press("Escape");
  await page.waitForSelector(".theirs .fact[data-t='chat.stopped']");
  assert.equal(await page.evaluate(() => document.activeElement.id), "question");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a page is small, paints without shifting, and needs little script", async () => {
  for (const place of ["/chat", "/dashboard", "/account", "/docs", "/jobs", "/jobs/", "/operator"]) {
    // What is kept for later comes beside the page, and is none of it.
    const quiet = { serviceWorkers: "block" };
    const { page, context } = await (place === "/operator" ? operator(quiet) : member(quiet));
    let bytes = 0;
    const seen = new Set();
    page.on("response", async (answer) => {
      // Files are kept by browsers: what is used twice comes once.
      if (seen.has(answer.url())) return;
      seen.add(answer.url());
      if (new URL(answer.url()).pathname.startsWith("/pages/") || answer.request().isNavigationRequest()) bytes += Number(answer.headers()["content-length"] ?? 0);
    });
    const session = await context.newCDPSession(page);
    await session.send("Network.setCacheDisabled", { cacheDisabled: true });
    await session.send("Performance.enable");
    await page.addInitScript(() => {
      globalThis.shifts = 0;
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) globalThis.shifts += entry.value;
      }).observe({ type: "layout-shift", buffered: true });
    });
    await settled(page, place);
    await page.waitForTimeout(300);
    const shifts = await page.evaluate(() => globalThis.shifts);
    const { metrics } = await session.send("Performance.getMetrics");
    const script = metrics.find((metric) => metric.name === "ScriptDuration").value * 1000;
    console.log(`${place}: ${bytes} bytes, ${shifts.toFixed(3)} shift, ${script.toFixed(0)} ms of script`);
    assert.ok(bytes > 10_000 && bytes < 200_000, `${place}: ${bytes} bytes`);
    assert.ok(shifts < 0.1, `${place} shifts by ${shifts}`);
    await context.close();
  }
});

/** A network of so many nodes, as the stream tells it, and how it changes `times` times. */
function crowd(count, times) {
  const nodes = Array.from({ length: count }, (_, n) => ({
    id: n.toString(32).padStart(26, "a").replaceAll(/[0189]/g, "z"),
    name: `node-${n}`,
    tier: ["BASIC", "MID", "PRO"][n % 3],
    points: n,
    standing: 900,
    models: [{ name: `model-${n % 7}`, context_length: 8192, abilities: [] }],
    slots: 4,
    running: 0,
    connected: 1,
    version: "0.1.0",
  }));
  const stats = { nodes: count, slots: 4 * count, running: 0, waiting: 0, models: 7, finished: 0, failed: 0, tokens: 0, since: 1 };
  const said = [{ type: "hello", at: 1, sees_times: true, ready: true, stats, minutes: [], nodes }];
  for (let time = 1; time <= times; time += 1) {
    const pulses = nodes.filter((_, n) => n % 2 === time % 2).map(({ id, points }) => [id, 1 + (time % 3), points, 900]);
    said.push({ type: "network", at: 1 + time, ready: true, stats: { ...stats, finished: time * 50 }, pulses });
  }
  return said.map((event) => `data: ${JSON.stringify(event)}\n\n`);
}

test("a network of 1,000 nodes is drawn smoothly", async () => {
  const { page, complaints, context } = await member();
  const [hello, ...changes] = crowd(1000, 12);
  await page.addInitScript(([hello, changes]) => {
    const real = globalThis.fetch;
    globalThis.fetch = (address, ...more) => {
      if (address !== "/live") return real(address, ...more);
      const encoder = new TextEncoder();
      const body = new ReadableStream({
        start(controller) {
          controller.enqueue(encoder.encode(hello));
          changes.forEach((change, n) => setTimeout(() => controller.enqueue(encoder.encode(change)), 300 + n * 250));
        },
      });
      return Promise.resolve(new Response(body, { headers: { "content-type": "text/event-stream" } }));
    };
  }, [hello, changes]);
  await page.goto(`${facts.url}/dashboard`);
  await page.waitForFunction(() => document.querySelector("#tiles")?.textContent.includes("1,000"));
  await page.locator("#flow").scrollIntoViewIfNeeded();
  await page.waitForFunction(() => globalThis.irisFlow.costs.length > 60);
  const costs = await page.evaluate(() => globalThis.irisFlow.costs.toSorted((a, b) => a - b));
  const at = (part) => costs[Math.floor((costs.length - 1) * part)];
  console.log(`${costs.length} frames: half within ${at(0.5).toFixed(1)} ms, 95 % within ${at(0.95).toFixed(1)} ms`);
  assert.ok(at(0.5) < 16, `half of the frames take longer than ${at(0.5)} ms to draw`);
  assert.equal(await page.locator("#nodes tr").count(), 50);
  await page.fill("#search", "node-999");
  await page.waitForFunction(() => document.querySelectorAll("#nodes tr").length === 1);
  assert.deepEqual(complaints, []);
  await context.close();
});
