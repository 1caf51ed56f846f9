// A real network, asked by Node.

import { readFileSync } from "node:fs";
import { test } from "node:test";

import { casesOfNetwork } from "./network.mjs";

const path = process.env.IRIS_SEAL_FACTS;
const facts = path ? JSON.parse(readFileSync(path, "utf8")) : {};
const skip = path ? false : "needs a network: .ci/clients/seal.py starts one";
if (skip) console.log(`!!! SKIPPED: the network, asked by Node. It ${skip}.`);

for (const { name, run } of casesOfNetwork(facts)) test(name, { skip, timeout: 60_000 }, run);
