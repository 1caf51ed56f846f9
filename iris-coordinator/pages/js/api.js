// Asks the coordinator, as whoever is signed in.
//
// Where the tokens lie: in `sessionStorage`, which this tab alone reads and which is gone when it
// is closed. A cookie would be sent along by what other sites make a browser ask, and
// `localStorage` would leave a credential on a shared machine after everything is closed. From
// scripts both are kept by the page's policy: none runs here but the coordinator's own.

const PLACE = "iris-session";
/** Seconds before its end at which an access token is replaced. */
const EARLY = 30;

export class ApiError extends Error {
  constructor(status, { code, message, param } = {}, headers = new Headers()) {
    super(message ?? `HTTP ${status}`);
    Object.assign(this, { status, code, param, headers, retryAfter: headers.get("retry-after") });
  }
}

let held = read();
const others = "BroadcastChannel" in globalThis ? new BroadcastChannel(PLACE) : null;

// A refresh token is good once, and a copied tab has the same one: who uses it tells the others.
others?.addEventListener("message", ({ data }) => {
  if (held?.account && data?.account === held.account) keep(data);
});

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(PLACE));
  } catch {
    return null;
  }
}

function keep(next) {
  held = next;
  try {
    if (next) sessionStorage.setItem(PLACE, JSON.stringify(next));
    else sessionStorage.removeItem(PLACE);
  } catch {
    // Memory alone has it then.
  }
}

const tell = () => document.dispatchEvent(new Event("session"));

/** Who is signed in: `null`, or the kind (`session` or `key`) and for sessions the account. */
export const who = () => held && { kind: held.key ? "key" : "session", account: held.account };

function takeSession(session) {
  keep({
    account: session.account,
    access: session.access_token,
    refresh: session.refresh_token,
    ends: Date.now() / 1000 + session.expires_in,
  });
}

/** Signs in by `email` and `password`, or by the digits as `account_key`. */
export async function signIn(credentials) {
  takeSession(await call("/auth/login", { body: credentials, anonymous: true }));
  tell();
}

export async function register(credentials) {
  takeSession(await call("/auth/register", { body: credentials, anonymous: true }));
  tell();
}

/** Signs in with an API key, which has to be good for looking at the network. */
export async function signInWithKey(key) {
  const answer = await fetch("/stats", { headers: { authorization: `Bearer ${key}` } });
  if (!answer.ok) throw await refused(answer);
  keep({ key });
  tell();
}

export async function signOut() {
  if (held?.refresh) await call("/auth/logout", { method: "POST" }).catch(() => {});
  keep(null);
  tell();
}

/** Returns the token to show, or `undefined` for nobody's. */
export async function token() {
  if (!held) return undefined;
  if (held.key) return held.key;
  if (held.ends - EARLY > Date.now() / 1000) return held.access;
  const before = held.refresh;
  const renew = async () => {
    // Another tab's news may be on its way.
    await new Promise((done) => setTimeout(done, 40));
    if (held?.refresh !== before) return;
    const body = JSON.stringify({ refresh_token: before });
    const headers = { "content-type": "application/json" };
    const answer = await fetch("/auth/refresh", { method: "POST", headers, body });
    if (answer.ok) {
      takeSession(await answer.json());
      others?.postMessage(held);
    } else if (answer.status === 401) {
      keep(null);
      tell();
    } else {
      throw await refused(answer);
    }
  };
  if (navigator.locks) await navigator.locks.request(PLACE, renew);
  else await renew();
  return held?.access;
}

async function refused(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // What is no JSON comes from something in between.
  }
  return new ApiError(answer.status, error, answer.headers);
}

/** Asks, and returns the answer as it comes; throws an `ApiError` for a refusal. */
export async function open(path, { method, body, headers = {}, signal, anonymous } = {}) {
  const shown = anonymous ? undefined : await token();
  const request = { method: method ?? (body === undefined ? "GET" : "POST"), headers: { ...headers }, signal };
  if (shown) request.headers.authorization = `Bearer ${shown}`;
  if (body !== undefined) {
    request.headers["content-type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { code: "unreachable", message: String(error.message ?? error) });
  }
  if (answer.ok) return answer;
  const error = await refused(answer);
  const isGone = ["invalid_access_token", "invalid_api_key"].includes(error.code);
  if (answer.status === 401 && shown && isGone) {
    keep(null);
    tell();
  }
  throw error;
}

/** Asks, and returns the JSON of the answer. */
export async function call(path, options) {
  const answer = await open(path, options);
  return answer.status === 204 ? null : answer.json();
}

/** What the operator lets strangers do. */
export const strangers = fetch("/pages/strangers.json").then(
  (answer) => (answer.ok ? answer.json() : {}),
  () => ({}),
);
