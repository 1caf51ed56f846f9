use serde::{Deserialize, Serialize};

use super::{Extra, null_as_default};

/// One model in `GET /v1/models`, and the answer of `GET /v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The name that requests use; may hold `/`, `:` and `@`.
    pub id: String,
    /// Always `model`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// When the network first saw the model, in seconds since the Unix epoch.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: u64,
    /// Who serves it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub owned_by: String,
    /// What else the server tells, such as the context length.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Model {
    /// Makes an entry.
    pub fn new(id: impl Into<String>, created: u64, owned_by: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            object: "model".to_owned(),
            created,
            owned_by: owned_by.into(),
            extra: Extra::new(),
        }
    }
}

/// The answer of `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// Always `list`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// The models.
    #[serde(default, deserialize_with = "null_as_default")]
    pub data: Vec<Model>,
}

impl ModelList {
    /// Makes a list.
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list".to_owned(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_clients_find_every_member_they_demand() {
        let list = ModelList::new(vec![Model::new("org/a:q4", 7, "iris")]);
        assert_eq!(
            serde_json::to_string(&list).unwrap(),
            r#"{"object":"list","data":[{"id":"org/a:q4","object":"model","created":7,"owned_by":"iris"}]}"#
        );
    }

    #[test]
    fn lists_without_dates_or_with_more_than_openai_says_are_read() {
        let json = r#"{"data":[{"id":"a","created":null,"max_model_len":512}]}"#;
        let list: ModelList = serde_json::from_str(json).unwrap();
        assert_eq!(list.data[0].extra["max_model_len"], 512);
    }
}
