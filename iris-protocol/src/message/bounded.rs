//! Bounds that the types of messages do not carry themselves, applied while a list is read, so
//! that a long one costs no memory.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use iris_core::backend::BackendError;
use iris_core::model::{ModelOffer, is_invisible};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::limits::{
    MAX_CAPABILITIES, MAX_DATASET_LEN, MAX_DATASETS, MAX_ERROR_LEN, MAX_HELD, MAX_MODELS,
    MAX_QUANTIZATION_LEN, MAX_REASON_LEN, MAX_SLOTS,
};
use crate::text::Label;
use crate::version::Capability;

pub(super) fn capabilities<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Capability>, D::Error> {
    list(d, MAX_CAPABILITIES)
}

pub(super) fn assignments<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list(deserializer, MAX_HELD)
}

pub(crate) fn slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let slots = u32::deserialize(deserializer)?;
    if slots > MAX_SLOTS {
        return Err(D::Error::custom(format_args!("a node has at most {MAX_SLOTS} slots")));
    }
    Ok(slots)
}

pub(super) fn some_slots<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    struct Slots(u32);
    impl<'de> Deserialize<'de> for Slots {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            slots(deserializer).map(Self)
        }
    }
    Ok(Option::<Slots>::deserialize(d)?.map(|slots| slots.0))
}

pub(crate) fn models<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<ModelOffer>, D::Error> {
    let models: Vec<ModelOffer> = list(d, MAX_MODELS)?;
    let mut names = BTreeSet::new();
    for model in &models {
        if !names.insert(&model.name) {
            return Err(D::Error::custom("a model is offered twice"));
        }
        if model.quantization.as_ref().is_some_and(|q| !is_clean(q, MAX_QUANTIZATION_LEN)) {
            return Err(D::Error::custom("a quantization is too long or unclean"));
        }
    }
    Ok(models)
}

pub(crate) fn datasets<'de, D>(deserializer: D) -> Result<Vec<Label<MAX_DATASET_LEN>>, D::Error>
where
    D: Deserializer<'de>,
{
    let names: Vec<Label<MAX_DATASET_LEN>> = list(deserializer, MAX_DATASETS)?;
    let distinct: BTreeSet<&str> = names.iter().map(Label::as_str).collect();
    if distinct.len() < names.len() {
        return Err(D::Error::custom("a data set is named twice"));
    }
    Ok(names)
}

pub(super) fn some_models<'de, D>(deserializer: D) -> Result<Option<Vec<ModelOffer>>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Models(Vec<ModelOffer>);
    impl<'de> Deserialize<'de> for Models {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            models(deserializer).map(Self)
        }
    }
    Ok(Option::<Models>::deserialize(deserializer)?.map(|models| models.0))
}

pub(super) fn error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BackendError, D::Error> {
    let error = BackendError::deserialize(deserializer)?;
    if let BackendError::Rejected { status, code, param, message } = &error {
        if !(400..500).contains(status) {
            return Err(D::Error::custom("a request is rejected with a status of 400 to 499"));
        }
        let short =
            |text: &Option<String>| text.as_ref().is_none_or(|text| is_clean(text, MAX_REASON_LEN));
        if !short(code) || !short(param) || !is_clean(message, MAX_ERROR_LEN) {
            return Err(D::Error::custom("an error's text is too long or unclean"));
        }
    }
    Ok(error)
}

/// Returns the error with its texts made fit for the wire.
pub(super) fn clean_error(error: BackendError) -> BackendError {
    let clean = |text: String, max: usize| -> String {
        let mut text: String =
            text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
        text.retain(|c| !is_invisible(c));
        text.truncate(text.floor_char_boundary(max));
        text
    };
    match error {
        BackendError::Rejected { status, code, param, message } => BackendError::Rejected {
            status: status.clamp(400, 499),
            code: code.map(|text| clean(text, MAX_REASON_LEN)),
            param: param.map(|text| clean(text, MAX_REASON_LEN)),
            message: clean(message, MAX_ERROR_LEN),
        },
        other => other,
    }
}

fn is_clean(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(is_invisible)
}

pub(crate) fn list<'de, D, T>(deserializer: D, max: usize) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T>(usize, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {} entries", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = seq.next_element()? {
                if list.len() == self.0 {
                    return Err(A::Error::invalid_length(self.0 + 1, &self));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List(max, PhantomData))
}
