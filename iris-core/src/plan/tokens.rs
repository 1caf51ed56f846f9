/// Estimates how many tokens a text has, rather too many than too few.
///
/// Tokenizers with large vocabularies have about four bytes of English to a token, and those with
/// small ones, or of texts full of digits and names, about two. Where a tokenizer knows nothing of
/// a script, every byte is one. So each byte counts as half a token, and outside ASCII as one.
pub fn tokens(text: &str) -> u32 {
    let other = text.bytes().filter(|byte| !byte.is_ascii()).count();
    let halves = text.len() + other;
    u32::try_from(halves.div_ceil(2)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_counts_two_bytes_a_token_and_other_scripts_one() {
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("four"), 2);
        assert_eq!(tokens("año"), 3);
        assert_eq!(tokens("日本"), 6);
    }
}
