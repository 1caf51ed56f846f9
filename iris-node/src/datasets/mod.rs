//! Data sets that lie on this machine and that prompts may be about.
//!
//! A chat asks for one by the member `iris_dataset`, which the node takes out before a backend sees
//! the request, and puts the data before the prompt. The data stay on the node; what leaves it is
//! the model's answer, and a model that is asked to repeat what it was given does so. Whoever may
//! use a data set may therefore read it, as far as the model obeys.
//!
//! The node does not learn who asks, so it cannot let in some accounts and not others: a data set
//! is for anyone, or for those who know its key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use iris_protocol::limits::{MAX_DATASET_LEN, MAX_DATASETS};
use iris_protocol::rest::Secret;
use iris_protocol::text::Label;
use subtle::ConstantTimeEq;

mod file;
mod informed;
mod request;

pub(crate) use informed::Informed;

use file::{DataFile, Loaded};

/// Shortest key of a data set, in bytes.
pub const MIN_KEY: usize = 16;

/// The data sets of a node, by name.
#[derive(Debug, Default)]
pub struct Datasets {
    by_name: BTreeMap<String, Dataset>,
}

/// Who may use a data set.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever can ask the node anything.
    Anyone,
    /// Whoever knows this key, of 16 bytes at least.
    Key(Secret),
}

/// Why a data set cannot be offered. Says nothing of what is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The name is none.
    #[error(
        "a data set's name has 1 to {MAX_DATASET_LEN} letters, digits, dots, dashes and underscores"
    )]
    Name,
    /// The key is short.
    #[error("a data set's key has at least {MIN_KEY} characters")]
    ShortKey,
    /// The name is taken.
    #[error("there is a data set of this name already")]
    Twice,
    /// There are too many.
    #[error("a node has at most {MAX_DATASETS} data sets")]
    TooMany,
    /// The file's name has another ending.
    #[error("{}: a data set is a file whose name ends in .json or .csv", .0.display())]
    Form(PathBuf),
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

#[derive(Debug)]
struct Dataset {
    file: Arc<DataFile>,
    access: Access,
}

impl Datasets {
    /// Makes an empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a data set: a JSON or CSV file of at most 16 MiB, which is read anew when it changes.
    ///
    /// Everybody in the network can see the name. The file is read once here, to see that it can
    /// be.
    pub fn add(
        &mut self,
        name: &str,
        path: impl Into<PathBuf>,
        access: Access,
    ) -> Result<(), DatasetError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=MAX_DATASET_LEN).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(DatasetError::Name);
        }
        if matches!(&access, Access::Key(key) if key.expose().len() < MIN_KEY) {
            return Err(DatasetError::ShortKey);
        }
        if self.by_name.contains_key(name) {
            return Err(DatasetError::Twice);
        }
        if self.by_name.len() == MAX_DATASETS {
            return Err(DatasetError::TooMany);
        }
        let file = DataFile::new(path.into())?;
        file.read()?;
        self.by_name.insert(name.to_owned(), Dataset { file: Arc::new(file), access });
        Ok(())
    }

    /// Returns the names, as they are announced.
    pub(crate) fn names(&self) -> Vec<Label<MAX_DATASET_LEN>> {
        self.by_name.keys().filter_map(|name| name.parse().ok()).collect()
    }

    fn get(&self, name: &str) -> Option<&Dataset> {
        self.by_name.get(name)
    }
}

impl Dataset {
    /// Returns whether somebody who shows `key` may use it, in a time that does not depend on how
    /// much of it is right.
    fn admits(&self, key: Option<&str>) -> bool {
        match &self.access {
            Access::Anyone => true,
            Access::Key(known) => {
                let shown = key.unwrap_or_default();
                known.expose().as_bytes().ct_eq(shown.as_bytes()).into()
            }
        }
    }
}
