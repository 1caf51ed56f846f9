use serde_json::Value;

use super::vote::unfenced;

/// The longest item of a list, in bytes.
const LONGEST: usize = 16 << 10;

/// Reads a model's list of texts: a JSON array of strings, or an object with one such array, which
/// may stand in a code fence. At most `most` items are taken; `None` where there is none.
pub fn list(text: &str, most: usize) -> Option<Vec<String>> {
    let values = match serde_json::from_str(unfenced(text)).ok()? {
        Value::Array(values) => values,
        Value::Object(members) => {
            let mut arrays = members.into_iter().filter_map(|(_, value)| match value {
                Value::Array(values) => Some(values),
                _ => None,
            });
            let only = arrays.next()?;
            arrays.next().is_none().then_some(only)?
        }
        _ => return None,
    };
    let mut items = Vec::new();
    for value in values {
        let Value::String(item) = value else { return None };
        let item = item.trim();
        if item.len() > LONGEST {
            return None;
        }
        if !item.is_empty() && items.len() < most {
            items.push(item.to_owned());
        }
    }
    (!items.is_empty()).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_plain_in_an_object_and_in_a_fence() {
        let expected = Some(vec!["a".to_owned(), "b".to_owned()]);
        for text in
            [r#"["a", " b ", ""]"#, r#"{"parts": ["a", "b"]}"#, "```json\n[\"a\",\"b\"]\n```"]
        {
            assert_eq!(list(text, 9), expected, "{text}");
        }
        assert_eq!(list(r#"["a", "b"]"#, 1), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn what_is_no_list_of_texts_is_none() {
        for text in ["", "a, b", "[]", "[1]", r#"{"a":["x"],"b":["y"]}"#, r#"[""]"#, "{}"] {
            assert_eq!(list(text, 9), None, "{text}");
        }
        let long = serde_json::json!(["x".repeat(LONGEST + 1)]).to_string();
        assert_eq!(list(&long, 9), None);
    }
}
