use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::de::IgnoredAny;

use super::DatasetError;

/// Longest file of a data set, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// A file that holds a data set, and what was last read of it.
pub(super) struct DataFile {
    path: PathBuf,
    form: Form,
    last: Mutex<Option<(Stamp, Loaded)>>,
}

/// How a file says what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Csv,
}

/// What tells a file from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

/// What a file holds.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) form: Form,
    pub(super) text: Arc<str>,
}

impl DataFile {
    pub(super) fn new(path: PathBuf) -> Result<Self, DatasetError> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let form = match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("json") => Form::Json,
            Some("csv") => Form::Csv,
            _ => return Err(DatasetError::Form(path)),
        };
        Ok(Self { path, form, last: Mutex::new(None) })
    }

    /// Returns what the file holds, read anew if it has changed.
    pub(super) fn read(&self) -> Result<Loaded, DatasetError> {
        let failed = |error: std::io::Error| self.fault(error.to_string());
        let mut file = File::open(&self.path).map_err(failed)?;
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, loaded)) = last.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(loaded.clone());
        }
        let mut bytes = Vec::new();
        file.by_ref().take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(self.fault("a data set has at most 16 MiB".to_owned()));
        }
        let text =
            String::from_utf8(bytes).map_err(|_| self.fault("it is not UTF-8".to_owned()))?;
        if self.form == Form::Json
            && let Err(error) = serde_json::from_str::<IgnoredAny>(&text)
        {
            // The parser's own words may quote the data.
            let place = format!("line {}, column {}", error.line(), error.column());
            return Err(self.fault(format!("it is not JSON: {place}")));
        }
        let loaded = Loaded { form: self.form, text: text.into() };
        *last = Some((stamp, loaded.clone()));
        Ok(loaded)
    }

    fn fault(&self, reason: String) -> DatasetError {
        DatasetError::File { path: self.path.clone(), reason }
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self { length: file.len(), modified: file.modified().ok() }
    }
}

impl Form {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Csv => "CSV",
        }
    }
}

impl fmt::Debug for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Data never reach logs.
        f.debug_struct("DataFile").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, DataFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, DataFile::new(path).unwrap())
    }

    fn fault(name: &str, bytes: &[u8]) -> String {
        file(name, bytes).1.read().err().unwrap().to_string()
    }

    #[test]
    fn file_is_read_anew_when_it_has_changed_and_only_then() {
        let (_folder, file) = file("a.csv", b"a,b");
        let first = file.read().unwrap().text;
        assert!(Arc::ptr_eq(&first, &file.read().unwrap().text));
        std::fs::write(&file.path, "a,c").unwrap();
        let later = SystemTime::now() + Duration::from_secs(10);
        File::options().append(true).open(&file.path).unwrap().set_modified(later).unwrap();
        assert_eq!(&*file.read().unwrap().text, "a,c");
        std::fs::write(&file.path, "a,c,d").unwrap();
        assert_eq!(&*file.read().unwrap().text, "a,c,d");
        std::fs::remove_file(&file.path).unwrap();
        assert!(file.read().is_err());
    }

    #[test]
    fn files_that_are_no_data_set_are_named_and_not_quoted() {
        assert!(fault("a.json", b"{\"patient\": hunter2}").ends_with("line 1, column 13"));
        assert!(fault("a.csv", b"\xff").contains("UTF-8"));
        let long = vec![b'x'; usize::try_from(MAX_FILE).unwrap() + 1];
        assert!(fault("a.csv", &long).contains("16 MiB"));
        assert!(DataFile::new("a.txt".into()).is_err());
        assert!(DataFile::new("csv".into()).is_err());
        assert_eq!(file("a.CSV", b"").1.read().unwrap().form, Form::Csv);
    }
}
