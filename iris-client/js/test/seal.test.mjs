// The tests of every engine, in Node.

import { readFileSync } from "node:fs";
import { test } from "node:test";

import { casesOf } from "./cases.mjs";

const VECTORS = new URL("../../../iris-crypto/tests/vectors/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, VECTORS), "utf8"));

for (const { name, run } of casesOf({ seal: read("seal") })) test(name, run);
