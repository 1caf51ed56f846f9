// What a node of one's own is at, in one word.

/** What leaves a node less work, and does not keep it from all. */
const SLIGHT = new Set(["own_only", "invited_only", "members_only", "probation", "tests_unanswered", "new", "low_standing", "unproven", "unmeasured", "size_unknown", "tier_basic", "owner_share"]);
/** What has a word of its own. */
const STATES = new Set(["held", "blocked", "not_connected", "away", "draining", "no_models", "paused", "off_hours", "busy", "hot", "power", "memory", "bandwidth"]);

/** Returns why a node takes no work now, or `ready`. */
export function stateOf({ why }) {
  const found = why.hindrances.map(({ code }) => code).find((code) => !SLIGHT.has(code) && code !== "no_free_slot");
  if (!found) return "ready";
  return STATES.has(found) ? found : "other";
}

export const isSlight = (code) => SLIGHT.has(code);
