/// Returns how many values, names included, `json` holds at most; it need not be valid.
///
/// A value of two bytes takes dozens once it is read into a [`serde_json::Value`], so whoever
/// reads what a peer wrote bounds their number and not only the text's length.
pub fn count_values(json: &[u8]) -> usize {
    let mut count = 1;
    let mut rest = json.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b',' | b':' | b'[' | b'{' => count += 1,
            b'"' => {
                // To the string's end, which an escaped quote is not.
                while let Some(byte) = rest.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(rest.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn exact(value: &Value) -> usize {
        1 + match value {
            Value::Array(items) => items.iter().map(exact).sum(),
            Value::Object(members) => members.values().map(|member| 1 + exact(member)).sum(),
            _ => 0,
        }
    }

    #[test]
    fn values_in_strings_are_no_values() {
        assert_eq!(count_values(br#"["a,b\"[[[",{}]"#), 4);
        assert_eq!(count_values(b"0"), 1);
        assert_eq!(count_values(b"\"\\"), 1);
    }

    proptest! {
        #[test]
        fn no_value_goes_uncounted(
            texts in prop::collection::vec("[a\",\\\\\\[{:]{0,6}", 0..4),
            numbers in prop::collection::vec(any::<i32>(), 0..4),
        ) {
            let value = serde_json::json!({"a": texts, "b": {"c": numbers, "d": [[], {}, null]}});
            prop_assert!(count_values(value.to_string().as_bytes()) >= exact(&value));
            prop_assert!(count_values(value.to_string().as_bytes()) <= 2 * exact(&value));
        }
    }
}
