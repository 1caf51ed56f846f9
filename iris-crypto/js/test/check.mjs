// What tests compare with, in engines that have no `node:assert`.

export function same(found, expected, what = "") {
  const [a, b] = [printed(found), printed(expected)];
  if (a !== b) throw new Error(`${what || "a value"}: found ${a}, expected ${b}`);
}

export function holds(isSo, what) {
  if (!isSo) throw new Error(what);
}

/** Expects an `IrisSealError` of one code, and returns it. */
export async function refused(code, call, what = "") {
  let error;
  try {
    await call();
  } catch (thrown) {
    error = thrown;
  }
  const found = error === undefined ? "nothing was refused" : error.name;
  holds(error?.name === "IrisSealError", `${what}: ${found}, expected ${code}\n${error?.stack}`);
  same(error.code, code, `${what}: ${error.message}`);
  return error;
}

export async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

function printed(value) {
  // Members have no order.
  return JSON.stringify(value, (_, member) => {
    if (member instanceof Uint8Array) return `bytes ${Array.from(member)}`;
    if (member === null || typeof member !== "object" || Array.isArray(member)) return member;
    return Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
