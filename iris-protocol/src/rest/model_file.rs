//! Model files that a coordinator gives to the nodes of its network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// The files that can be had, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFileList {
    /// The files.
    pub files: Vec<ModelFile>,
}

/// A model's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Its name, which `GET /model-files/{name}` takes.
    pub name: FileName,
    /// How many bytes it has.
    pub size: u64,
    /// BLAKE3 of them, in 64 hexadecimal digits.
    pub blake3: String,
}

/// The name of a file within one folder, on any system: letters, digits and `._+-` of ASCII, the
/// first a letter or a digit, the last no point; at most 200.
///
/// It is never a path, nor what Windows calls a device (`nul`, `com1.gguf`), and does not end as what
/// lies beside model files does: `.json`, `.part`. Case makes no difference to these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FileName(String);

/// Says why a text cannot name a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a model file's name has 1 to 200 letters, digits and ._+- of ASCII, begins with a letter or a \
     digit, ends neither with a point nor with .json or .part, and is no name of a device"
)]
pub struct FileNameError;

impl FileName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 200;

    /// Returns the name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns by which name the model in it is called: without the `.gguf` that may end it.
    pub fn model(&self) -> &str {
        let stem = self.0.strip_suffix(".gguf").unwrap_or(&self.0);
        if stem.is_empty() { &self.0 } else { stem }
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(text: &str) -> Result<Self, FileNameError> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
            && !text.ends_with('.')
            && !is_beside(text)
            && !is_device(text);
        if fits { Ok(Self(text.to_owned())) } else { Err(FileNameError) }
    }
}

/// Returns whether a file of this name may be what lies beside a model's.
fn is_beside(name: &str) -> bool {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    ["json", "part"].iter().any(|one| ending.eq_ignore_ascii_case(one))
}

/// Returns whether Windows has a device of this name, whatever its ending.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let port = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    matches!(&*stem, "con" | "prn" | "aux" | "nul")
        || port.is_some_and(|port| port.len() == 1 && port.bytes().all(|c| c.is_ascii_digit()))
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_never_paths() {
        for name in
            ["a", "x.gguf", "Qwen3-0.6B-Q4_K_M.gguf", "7b+lora.gguf", "console.gguf", "com10"]
        {
            assert_eq!(name.parse::<FileName>().unwrap().as_str(), name);
        }
        let long = "a".repeat(201);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            ".hidden",
            "-rf",
            "a b",
            "a\0",
            "ä",
            "C:x",
            "x.json",
            "x.gguf.part",
            "x.JSON",
            "x.gguf.Part",
            "nul",
            "CON.gguf",
            "Com1.q4.gguf",
            "lpt9",
            "x.",
            "%2e%2e",
            &long,
        ] {
            assert_eq!(name.parse::<FileName>(), Err(FileNameError), "{name}");
        }
    }

    #[test]
    fn models_are_called_without_their_ending() {
        let model = |name: &str| name.parse::<FileName>().unwrap().model().to_owned();
        assert_eq!((model("x.gguf"), model("x.onnx")), ("x".to_owned(), "x.onnx".to_owned()));
    }
}
