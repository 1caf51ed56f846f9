// The tests of every engine and a real network, in Chromium.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";

const path = process.env.IRIS_SEAL_FACTS;

if (path) {
  const facts = JSON.parse(readFileSync(path, "utf8"));
  const { chromium } = await import(facts.playwright);
  // Whoever is root cannot make the sandbox; what runs in it is this folder alone.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  const browser = await chromium.launch({ executablePath: facts.browser, args });
  after(() => browser.close());
  const page = await browser.newPage();
  const console = [];
  page.on("console", (message) => console.push(message.text()));
  page.on("pageerror", (error) => console.push(String(error)));
  await page.goto(facts.page);
  await page.waitForFunction(() => globalThis.isReady, undefined, { timeout: 30_000 });
  const names = await page.evaluate((facts) => globalThis.tests(facts), facts);
  for (const [place, name] of names.entries()) {
    test(`in Chromium ${browser.version()}: ${name}`, { timeout: 60_000 }, async () => {
      const problem = await page.evaluate((place) => globalThis.runTest(place), place);
      assert.equal(problem, undefined, `${problem}\n${console.join("\n")}`);
    });
  }
} else {
  console.log("!!! SKIPPED: the tests in Chromium. They need .ci/clients/seal.py.");
  test("in Chromium", { skip: "needs .ci/clients/seal.py" }, () => {});
}
