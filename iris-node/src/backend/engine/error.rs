use std::io;

/// Why a model cannot be run. Always the model file's or the operator's fault, never a caller's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The file cannot be opened or read.
    #[error("the model file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The file is not GGUF, is cut off, or contradicts itself.
    #[error("the model file is damaged: {0}")]
    Malformed(String),
    /// The file is sound, but needs something that this engine does not do.
    #[error("the model needs {0}, which this engine does not support")]
    Unsupported(String),
    /// The graphics card that the settings name is not there, or does not work.
    #[error("the graphics card cannot be used: {0}")]
    NoDevice(String),
    /// The settings ask for what this program was built without: a feature of this crate.
    #[error("this program was built without the feature {0:?}")]
    NotBuilt(&'static str),
    /// llama.cpp was to run the model, and cannot.
    #[error("llama.cpp cannot run the model: {0}")]
    LlamaCpp(String),
    /// The settings and the file's name give the model no usable name.
    #[error("the model has no usable name; set one")]
    NoName,
    /// The operating system gave no thread to generate on.
    #[error("no thread could be started: {0}")]
    Threads(io::Error),
}

impl EngineError {
    /// Makes the error for a file that contradicts itself.
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        // The reader wraps what the operating system said; a short file shows as its end.
        Self::Malformed(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

impl From<shimmytok::Error> for EngineError {
    fn from(error: shimmytok::Error) -> Self {
        match error {
            shimmytok::Error::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Self::Io(error)
            }
            shimmytok::Error::UnsupportedModel(name) => {
                Self::Unsupported(format!("the tokenizer {name:?}"))
            }
            error => Self::Malformed(error.to_string()),
        }
    }
}
