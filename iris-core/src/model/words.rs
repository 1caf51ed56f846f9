//! A model's name as model servers write it, cut into words.

/// Bytes of a name that are looked at: the last ones, for paths grow at the front.
const MOST: usize = 512;
/// The folders of a path that are looked at, from the last.
const MOST_PARTS: usize = 8;

/// The words of each part of a name between slashes, in small letters, the last part first.
pub(super) fn parts(name: &str) -> Vec<Vec<String>> {
    let start = name.ceil_char_boundary(name.len().saturating_sub(MOST));
    let parts = name[start..].rsplit(['/', '\\']).filter(|part| !part.is_empty());
    parts.take(MOST_PARTS).map(words).filter(|words| !words.is_empty()).collect()
}

/// Cuts at whatever is no letter or digit, but not at the point of a number.
fn words(part: &str) -> Vec<String> {
    let part = part.to_ascii_lowercase();
    let characters: Vec<char> = part.chars().collect();
    let mut words = vec![String::new()];
    for (at, &c) in characters.iter().enumerate() {
        let is_word = c.is_alphanumeric() || is_point(&characters, at);
        match words.last_mut() {
            Some(word) if is_word => word.push(if c == '_' { '.' } else { c }),
            Some(word) if !word.is_empty() => words.push(String::new()),
            _ => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns whether the character there stands within a number: `2.5`, or `1_6b` for 1.6 billion.
fn is_point(characters: &[char], at: usize) -> bool {
    let digit = |at: usize| characters.get(at).is_some_and(char::is_ascii_digit);
    let is_within = at > 0 && digit(at - 1) && digit(at + 1);
    match characters[at] {
        '.' => is_within,
        '_' => {
            let begins = at == 1 || characters.get(at.wrapping_sub(2)) == Some(&'-');
            let ends = characters.get(at + 2) == Some(&'b')
                && !characters.get(at + 3).is_some_and(|c| c.is_alphanumeric());
            is_within && begins && ends
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stay_in_numbers_and_nowhere_else() {
        for (name, expected) in [
            ("Qwen2.5-0.5B_Q4_K_M.gguf", "qwen2.5 0.5b q4 k m gguf"),
            ("phi-2.Q4_0.gguf", "phi 2 q4 0 gguf"),
            ("stablelm-2-1_6b-chat", "stablelm 2 1.6b chat"),
            ("internlm2_5-7b-chat", "internlm2 5 7b chat"),
            ("my_model_2_7b", "my model 2 7b"),
            ("llama3.1:8b@q8_0", "llama3.1 8b q8 0"),
            ("é-1.", "é 1"),
        ] {
            assert_eq!(words(name).join(" "), expected, "{name}");
        }
    }

    #[test]
    fn the_end_of_a_path_comes_first_and_long_ones_are_cut() {
        assert_eq!(parts("a\\b//c"), [["c"], ["b"], ["a"]]);
        assert_eq!(parts(&"é/".repeat(4000)).len(), MOST_PARTS);
        assert_eq!(parts(&"é".repeat(4000))[0].join("").len(), MOST);
        assert!(parts("///").is_empty() && parts("").is_empty());
    }
}
