//! Reads tensors out of a GGUF file, after checking that each has the shape it must have.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::config::Config;
use super::error::EngineError;
use super::matrix::Matrix;
use super::network::Network;

/// A network whose weights come out of a GGUF file.
pub(super) trait FromWeights: Network + Sized {
    /// Reads all weights; `device` is where a network keeps them that can choose.
    fn read<R: Read + Seek>(
        config: Config,
        weights: &mut Weights<R>,
        device: &Device,
    ) -> Result<Self, EngineError>;
}

/// A parsed header over the file's bytes.
pub(super) struct Weights<R> {
    content: Content,
    reader: R,
}

impl<R: Read + Seek> Weights<R> {
    pub(super) fn new(mut reader: R) -> Result<Self, EngineError> {
        let content = Content::read(&mut reader)?;
        Ok(Self { content, reader })
    }

    pub(super) fn metadata(&self) -> &HashMap<String, Value> {
        &self.content.metadata
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// Returns where the tensors begin in the file.
    pub(super) fn beginning(&self) -> u64 {
        self.content.tensor_data_offset
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.content.tensor_infos.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Returns the weights' number and their commonest storage type, such as `Q4_K`.
    pub(super) fn summary(&self) -> (u64, Option<String>) {
        let mut by_type: HashMap<GgmlDType, u64> = HashMap::new();
        for info in self.content.tensor_infos.values() {
            let sizes = info.shape.dims().iter().map(|size| *size as u64);
            let count = sizes.fold(1, u64::saturating_mul);
            let total = by_type.entry(info.ggml_dtype).or_default();
            *total = total.saturating_add(count);
        }
        let all = by_type.values().fold(0, |sum: u64, n| sum.saturating_add(*n));
        let commonest = by_type.into_iter().max_by_key(|(_, count)| *count);
        (all, commonest.map(|(kind, _)| type_name(kind).to_owned()))
    }

    /// Reads the number of rows of a matrix whose rows have `columns` values.
    pub(super) fn rows(&self, name: &str, columns: usize) -> Result<usize, EngineError> {
        let info = self.content.tensor_infos.get(name);
        match info.map(|info| info.shape.dims()) {
            Some(&[rows, found]) if found == columns && (1..=1 << 20).contains(&rows) => Ok(rows),
            _ => Err(EngineError::Malformed(format!("{name} is missing or has another shape"))),
        }
    }

    /// Reads a matrix that must have exactly this shape to a device; it stays as it is stored.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        device: &Device,
    ) -> Result<Arc<QTensor>, EngineError> {
        self.read(name, &[rows, columns], device).map(Arc::new)
    }

    /// Reads a matrix to multiply with.
    pub(super) fn linear(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, EngineError> {
        Ok(Matrix::new(self.matrix(name, rows, columns, &Device::Cpu)?)?)
    }

    /// Reads a vector as 32-bit floats.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        Ok(self.read(name, &[len], &Device::Cpu)?.dequantize(&Device::Cpu)?.to_vec1()?)
    }

    /// Reads a vector that not every model has.
    pub(super) fn optional_vector(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    fn read(
        &mut self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<QTensor, EngineError> {
        let info = self.content.tensor_infos.get(name);
        let info =
            info.ok_or_else(|| EngineError::Malformed(format!("the tensor {name} is missing")))?;
        if info.shape.dims() != shape {
            return Err(EngineError::Malformed(format!("{name} has another shape than {shape:?}")));
        }
        let block = info.ggml_dtype.block_size();
        if !shape[shape.len() - 1].is_multiple_of(block) {
            return Err(EngineError::Malformed(format!("{name} does not fit blocks of {block}")));
        }
        Ok(self.content.tensor(&mut self.reader, name, device)?)
    }
}

fn type_name(kind: GgmlDType) -> &'static str {
    match kind {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}
