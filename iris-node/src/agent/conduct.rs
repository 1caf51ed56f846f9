use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use iris_core::ModelName;
use iris_core::id::CallerTag;
use iris_core::terms::Terms;

/// What a node's owner lets it do now. It may change while the node is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    /// How many tasks it works on at once, at most 1024. Default: as many as the agent was built
    /// with.
    pub slots: Option<u32>,
    /// Which of its models it offers. Default: all.
    pub models: ModelFilter,
    /// What the coordinator is told. While they say why the node rests, it takes nothing on.
    pub terms: Terms,
    /// Callers whose tasks it refuses. The coordinator, who is told elsewhere, gives it none of
    /// them; this is for one that does. Default: nobody's.
    pub blocked: Arc<BTreeSet<CallerTag>>,
}

impl Conduct {
    /// Returns how many tasks to work on now, of an agent that was built with `slots`.
    pub(super) fn slots(&self, slots: u32) -> u32 {
        if self.terms.rest.is_some() { 0 } else { self.slots.unwrap_or(slots) }
    }
}

/// Chooses models by patterns of their names.
///
/// A `*` stands for any letters, and capitals count like small ones. A pattern behind `!` takes
/// models out. Where no pattern lets any in, all are in that none takes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFilter {
    allowed: Vec<String>,
    denied: Vec<String>,
}

impl ModelFilter {
    /// Makes a filter of patterns.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Self {
        let mut filter = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim().to_lowercase();
            match pattern.strip_prefix('!') {
                Some(denied) => filter.denied.push(denied.trim().to_owned()),
                None => filter.allowed.push(pattern),
            }
        }
        filter
    }

    /// Returns whether a model may be offered.
    pub fn allows(&self, model: &ModelName) -> bool {
        let name = model.as_str().to_lowercase();
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| fits(pattern, &name));
        (self.allowed.is_empty() || fits(&self.allowed)) && !fits(&self.denied)
    }
}

impl fmt::Display for ModelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let denied = self.denied.iter().map(|pattern| format!("!{pattern}"));
        let patterns: Vec<_> = self.allowed.iter().cloned().chain(denied).collect();
        f.write_str(&patterns.join(", "))
    }
}

/// Returns whether a name is as a pattern says.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    // The first place that fits leaves most for the others.
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use iris_core::terms::Rest;

    use super::*;

    fn allows(patterns: &[&str], model: &str) -> bool {
        ModelFilter::new(patterns).allows(&model.parse().unwrap())
    }

    #[test]
    fn models_are_chosen_by_patterns() {
        for (patterns, model, expected) in [
            (&[][..], "m", true),
            (&["m"], "m", true),
            (&["m"], "mm", false),
            (&["Qwen*", "llama-3*"], "qwen2.5-7b", true),
            (&["Qwen*", "llama-3*"], "meta/llama-3", false),
            (&["*/llama-3*"], "meta/llama-3-8b", true),
            (&["*7b*q4*"], "qwen-7b-instruct-q4", true),
            (&["*7b*q4*"], "qwen-q4-7b", false),
            (&["a*a"], "a", false),
            (&["*"], "m", true),
            (&["!*70b*"], "llama-70b", false),
            (&["!*70b*"], "llama-8b", true),
            (&["llama*", "! *70b*"], "llama-70b", false),
            (&["llama*", "!*70b*"], "qwen", false),
        ] {
            assert_eq!(allows(patterns, model), expected, "{patterns:?} {model}");
        }
    }

    #[test]
    fn a_node_that_rests_has_no_slot() {
        let mut conduct = Conduct::default();
        assert_eq!(conduct.slots(2), 2);
        conduct.slots = Some(3);
        assert_eq!(conduct.slots(2), 3);
        conduct.terms.rest = Some(Rest::Paused);
        assert_eq!(conduct.slots(2), 0);
    }
}
