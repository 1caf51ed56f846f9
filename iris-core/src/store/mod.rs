//! Keeping records: the trait, its inputs and outputs.
//!
//! A record is a JSON document under an ordered key. Its first key segment is the record type;
//! a new subject adds a record type, never a method.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod memory;

pub use memory::MemoryStore;

/// Keeps records durably.
///
/// Called from many tasks at once. A commit that was dropped while it waited may or may not have
/// happened, as a whole; everything else may be dropped freely. Prove an implementation with
/// the conformance suite (feature `conformance`).
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Applies every write of `batch`, or none, and resolves once they are durable.
    ///
    /// A batch that names a key twice is applied in order.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Returns the record under `key`, if there is one.
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// Yields the records with `range.start <= key < range.end`, in the order of their keys.
    ///
    /// Records committed while the stream is read may or may not appear.
    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>>;
}

/// The key of a record: segments of `a-z A-Z 0-9 _ - .` joined by `/`, at least two, at most 200
/// bytes. The first segment is the record type. Keys are ordered by their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// Says why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is two or more segments of letters, digits, '_', '-' and '.', joined by '/'")]
pub struct KeyError;

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 200;

    /// Makes the key of the record `id` of type `record_type`.
    pub fn new(record_type: &str, id: impl fmt::Display) -> Result<Self, KeyError> {
        format!("{record_type}/{id}").parse()
    }

    /// Returns the range of all records of `record_type`.
    pub fn all(record_type: &str) -> Range<Self> {
        // '0' is the character after '/'.
        Self(format!("{record_type}/"))..Self(format!("{record_type}0"))
    }

    /// Returns the first segment.
    pub fn record_type(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// Returns what follows the first segment.
    pub fn id(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, id)| id)
    }

    /// Returns the whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let segment = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let valid =
            text.len() <= Self::MAX_LEN && text.contains('/') && text.split('/').all(segment);
        if valid { Ok(Self(text.to_owned())) } else { Err(KeyError) }
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The value of a record: one JSON document, kept as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(String);

impl Document {
    /// Encodes `value`.
    ///
    /// # Panics
    ///
    /// When `value` has no JSON form, such as a map with keys that are not strings.
    pub fn encode<T: Serialize>(value: &T) -> Self {
        Self(serde_json::to_string(value).expect("records have a JSON form"))
    }

    /// Takes over a text that a store kept; it is not checked before [`decode`](Self::decode).
    pub const fn from_text(text: String) -> Self {
        Self(text)
    }

    /// Decodes the document.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_str(&self.0).map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    /// Returns the JSON text.
    pub fn as_text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Records may hold hashes of credentials and sealed prompts.
        write!(f, "Document({} bytes)", self.0.len())
    }
}

/// Counts the writes to one key: 1 after the first, one more after each further one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// A document with its place and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is kept.
    pub key: Key,
    /// How often it was written since it was last absent.
    pub version: Version,
    /// What it says.
    pub value: Document,
}

/// What a write demands of the record that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// That there is none.
    Absent,
    /// That it was last written as this version.
    At(Version),
}

/// One change to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The record.
    pub key: Key,
    /// What must be there before.
    pub expect: Expect,
    /// What is there afterwards; `None` deletes.
    pub value: Option<Document>,
}

/// Changes that become durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes, in order.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Makes an empty batch.
    pub const fn new() -> Self {
        Self { writes: Vec::new() }
    }

    /// Adds the writing of `value` under `key`, whatever is there.
    pub fn put(mut self, key: Key, value: Document) -> Self {
        self.writes.push(Write { key, expect: Expect::Any, value: Some(value) });
        self
    }

    /// Adds the writing of `value` under `key`, which must be absent.
    pub fn create(mut self, key: Key, value: Document) -> Self {
        self.writes.push(Write { key, expect: Expect::Absent, value: Some(value) });
        self
    }

    /// Adds the writing of `value` under `key`, which must still be at `version`.
    pub fn replace(mut self, key: Key, version: Version, value: Document) -> Self {
        self.writes.push(Write { key, expect: Expect::At(version), value: Some(value) });
        self
    }

    /// Adds the deletion of `key`, if it is there.
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.push(Write { key, expect: Expect::Any, value: None });
        self
    }
}

/// Why a store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A record was not as a write expected; nothing of the batch was applied. Read it again.
    #[error("the record {0} is not at the expected version")]
    Conflict(Key),
    /// The disk is full, the file is locked or the server is away; worth trying again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A record cannot be read; it needs an operator.
    #[error("a record cannot be read: {0}")]
    Corrupt(String),
}
