// The tests of every engine, in Node.

import { readFileSync } from "node:fs";
import { test } from "node:test";

import { casesOf } from "./cases.mjs";

const VECTORS = new URL("../../../iris-crypto/tests/vectors/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, VECTORS), "utf8"));

const vectors = { seal: read("seal"), log: read("log") };

for (const { name, run } of casesOf(vectors)) test(name, run);
