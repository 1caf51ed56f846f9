//! One loaded model: its network, its tokenizer and its template.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};

use iris_core::backend::BackendError;
use serde_json::Value;

use super::config::Config;
use super::constraint::{Constraint, Grammars};
use super::error::EngineError;
use super::network::Network;
use super::request::refused;
use super::template::Template;
use super::tokenizer::Tokenizer;
use super::weights::Weights;

static BUNDLED: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/model/iris-tiny-f16.gguf"));

pub(super) struct Model {
    pub(super) network: Network,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Template,
    pub(super) parameters: u64,
    pub(super) quantization: Option<String>,
    /// Made for the first answer that keeps to a schema.
    grammars: OnceLock<Option<Grammars>>,
}

impl Model {
    /// Returns the model inside this crate, read once for the whole process.
    pub(super) fn bundled() -> Arc<Self> {
        static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
            let model = Model::from_bytes(BUNDLED);
            Arc::new(model.expect("the bundled file is a sound model, as the tests prove"))
        });
        Arc::clone(&MODEL)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EngineError> {
        read(|| Self::assemble(Cursor::new(bytes), || shimmytok::Tokenizer::from_bytes(bytes)))
    }

    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        let file = BufReader::new(File::open(path)?);
        read(|| Self::assemble(file, || shimmytok::Tokenizer::from_gguf_file(path)))
    }

    /// Starts an answer that keeps to `schema`.
    pub(super) fn constrain(&self, schema: Value) -> Result<Constraint, BackendError> {
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer));
        let none = || refused(Some("response_format"), "this model has no token to end JSON with");
        grammars.as_ref().ok_or_else(none)?.constrain(schema)
    }

    fn assemble<R: Read + Seek>(
        reader: R,
        tokenizer: impl FnOnce() -> Result<shimmytok::Tokenizer, shimmytok::Error>,
    ) -> Result<Self, EngineError> {
        // This reader bounds lengths and nesting; the tokenizer's does not and comes after it.
        let mut weights = Weights::new(reader)?;
        let config = Config::read(weights.metadata())?;
        let tokenizer = Tokenizer::new(tokenizer()?)?;
        let network = Network::read(config, &mut weights)?;
        if network.vocabulary < tokenizer.size() {
            return Err(EngineError::malformed("it has fewer embeddings than tokens"));
        }
        let template = Template::new(tokenizer.chat_template(), tokenizer.borders())?;
        let (parameters, quantization) = weights.summary();
        let grammars = OnceLock::new();
        Ok(Self { network, tokenizer, template, parameters, quantization, grammars })
    }
}

/// Runs the readers of the file's format, which panic over some contradictory headers.
fn read<T>(reader: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(reader))
        .unwrap_or_else(|_| Err(EngineError::malformed("its header contradicts itself")))
}
