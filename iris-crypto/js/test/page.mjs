// The tests, in a page: `browser.test.mjs` asks for their names and runs them one by one.

import { casesOf } from "./cases.mjs";
import { casesOfNetwork } from "./network.mjs";

const read = async (name) =>
  (await fetch(`../../../iris-crypto/tests/vectors/${name}.json`)).json();

globalThis.tests = async (facts) => {
  const vectors = { seal: await read("seal"), log: await read("log") };
  const all = [...casesOf(vectors), ...casesOfNetwork(facts)];
  globalThis.runTest = async (place) => {
    try {
      await all[place].run();
      return undefined;
    } catch (error) {
      return String(error?.stack ?? error);
    }
  };
  return all.map(({ name }) => name);
};
globalThis.isReady = true;
