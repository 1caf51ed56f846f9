//! One loaded model: its network, its tokenizer and its template.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};

use candle_core::Device;
use iris_core::backend::BackendError;
use serde_json::Value;

use super::config::Config;
use super::constraint::{Constraint, Grammars};
use super::decoder::Decoder;
use super::error::EngineError;
use super::request::refused;
use super::template::Template;
use super::tokenizer::Tokenizer;
use super::vocabulary::FileVocabulary;
use super::weights::{FromWeights, Weights};

/// The file of the model inside this crate.
pub(super) static BUNDLED: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/model/iris-tiny-f16.gguf"));

pub(super) struct Model<N = Decoder> {
    pub(super) network: N,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Template,
    pub(super) parameters: u64,
    pub(super) quantization: Option<String>,
    /// Made for the first answer that keeps to a schema.
    grammars: OnceLock<Option<Grammars>>,
}

impl Model<Decoder> {
    /// Returns the model inside this crate, read once for the whole process.
    pub(super) fn bundled() -> Arc<Self> {
        static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
            let model = Model::from_bytes(BUNDLED);
            Arc::new(model.expect("the bundled file is a sound model, as the tests prove"))
        });
        Arc::clone(&MODEL)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EngineError> {
        Self::from_bytes_to(bytes, &Device::Cpu)
    }
}

impl<N: FromWeights> Model<N> {
    /// Reads the contents of a file, with the weights on a device.
    pub(super) fn from_bytes_to(bytes: &[u8], device: &Device) -> Result<Self, EngineError> {
        let tokenizer = || shimmytok::Tokenizer::from_bytes(bytes);
        read(|| Self::assemble(Cursor::new(bytes), device, tokenizer))
    }

    /// Reads a file, with the weights on a device.
    pub(super) fn open(path: &Path, device: &Device) -> Result<Self, EngineError> {
        let file = BufReader::new(File::open(path)?);
        read(|| Self::assemble(file, device, || shimmytok::Tokenizer::from_gguf_file(path)))
    }

    fn assemble<R: Read + Seek>(
        reader: R,
        device: &Device,
        tokenizer: impl FnOnce() -> Result<shimmytok::Tokenizer, shimmytok::Error>,
    ) -> Result<Self, EngineError> {
        // This reader bounds lengths and nesting; the tokenizer's does not and comes after it.
        let mut weights = Weights::new(reader)?;
        let config = Config::read(weights.metadata())?;
        let vocabulary = FileVocabulary::new(tokenizer()?)?;
        let (conventions, template) =
            (vocabulary.conventions(), vocabulary.chat_template().map(ToOwned::to_owned));
        let tokenizer = Tokenizer::new(vocabulary, conventions);
        let network = N::read(config, &mut weights, device)?;
        if network.sizes().vocabulary < tokenizer.size() {
            return Err(EngineError::malformed("it has fewer embeddings than tokens"));
        }
        let template = Template::new(template.as_deref(), tokenizer.borders())?;
        let (parameters, quantization) = weights.summary();
        Ok(Self::new(network, tokenizer, template, parameters, quantization))
    }
}

impl<N> Model<N> {
    pub(super) fn new(
        network: N,
        tokenizer: Tokenizer,
        template: Template,
        parameters: u64,
        quantization: Option<String>,
    ) -> Self {
        let grammars = OnceLock::new();
        Self { network, tokenizer, template, parameters, quantization, grammars }
    }

    /// Starts an answer that keeps to `schema`.
    pub(super) fn constrain(&self, schema: Value) -> Result<Constraint, BackendError> {
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer));
        let none = || refused(Some("response_format"), "this model has no token to end JSON with");
        grammars.as_ref().ok_or_else(none)?.constrain(schema)
    }
}

/// Runs the readers of the file's format, which panic over some contradictory headers.
pub(super) fn read<T>(reader: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(reader))
        .unwrap_or_else(|_| Err(EngineError::malformed("its header contradicts itself")))
}
