//! Families among the words of a name.

/// The families that are known: those that models are made anew in, not those that tune them.
const KNOWN: [&str; 51] = [
    "aya",
    "baichuan",
    "bloom",
    "chatglm",
    "codegemma",
    "codellama",
    "codestral",
    "command",
    "dbrx",
    "deepseek",
    "devstral",
    "ernie",
    "exaone",
    "falcon",
    "gemma",
    "glm",
    "granite",
    "grok",
    "hunyuan",
    "internlm",
    "internvl",
    "jamba",
    "kimi",
    "lfm",
    "llama",
    "magistral",
    "mathstral",
    "medgemma",
    "minicpm",
    "minimax",
    "ministral",
    "mistral",
    "mixtral",
    "mpt",
    "nemotron",
    "olmo",
    "olmoe",
    "opt",
    "paligemma",
    "phi",
    "pixtral",
    "pythia",
    "qwen",
    "qwq",
    "seed",
    "smollm",
    "solar",
    "stablelm",
    "starcoder",
    "tinyllama",
    "yi",
];

/// Returns the first family that is named with its version, or else the first that is named.
pub(super) fn of(words: &[String]) -> Option<String> {
    let mut named = (0..words.len()).filter_map(|at| named_at(&words[at..])).peekable();
    let first = named.peek().map(|(name, _)| (*name).to_owned());
    named.find_map(|(name, version)| Some(format!("{name}-{}", version?))).or(first)
}

/// Returns the family that `words` begin with, and its version.
fn named_at(words: &[String]) -> Option<(&'static str, Option<&str>)> {
    let (word, next) = (words.first()?, words.get(1).map(String::as_str));
    if word == "gpt" && next == Some("oss") {
        return Some(("gpt", next));
    }
    let name = KNOWN.iter().find(|known| {
        word.strip_prefix(**known).is_some_and(|rest| rest.is_empty() || is_version(rest))
    })?;
    let within = &word[name.len()..];
    let version = if within.is_empty() { next } else { Some(within) };
    Some((name, version.filter(|version| is_version(version))))
}

/// Returns whether a word is a version, such as `3`, `2.5`, `v3`, `r1` or `3n`, and no size or year.
fn is_version(word: &str) -> bool {
    let number = word.strip_prefix(['v', 'r', 'k', 'm']).unwrap_or(word);
    let number = number.strip_suffix(['n', 'v']).unwrap_or(number);
    let mut digits = number.split('.');
    let is_short =
        |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    digits.next().is_some_and(is_short)
        && digits.next().is_none_or(is_short)
        && digits.next().is_none()
}
