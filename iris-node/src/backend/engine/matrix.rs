//! Products of matrices, each by the way that suits its size.
//!
//! The operators of candle spread every product over all cores. That serves large models; for
//! small ones the waking costs more than the product, and generations side by side fight over the
//! cores. So products that take microseconds run on the thread that needs them.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, GgmlType, QMatMul, QTensor};
use candle_core::{Device, Module, Result, Tensor};

#[cfg(target_arch = "x86_64")]
use super::wide;

/// Unquantised matrices up to this many values are small: 16 MiB as floats.
const SMALL_MATRIX: usize = 1 << 22;

/// A matrix that is laid out for the processor at hand.
pub(super) trait Product: Send + Sync {
    /// Returns, for each row of `x`, its products with all rows of this matrix.
    fn forward(&self, x: &[f32]) -> Vec<f32>;
}

/// A matrix of weights that rows are multiplied with.
pub(super) enum Matrix {
    /// Small and unquantised: row after row, as 32-bit floats.
    Small { values: Vec<f32>, columns: usize },
    /// Laid out anew; a small one is as above.
    Laid { matrix: Box<dyn Product>, small: bool },
    /// As the file stores it, where that is quantised.
    Stored { matrix: QMatMul, columns: usize },
}

impl Matrix {
    pub(super) fn new(stored: Arc<QTensor>) -> Result<Self> {
        let (rows, columns) = stored.shape().dims2()?;
        let quantised =
            !matches!(stored.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        if quantised && let Some(matrix) = wide::quantised(&stored)? {
            return Ok(Self::Laid { matrix, small: false });
        }
        if quantised || rows * columns > SMALL_MATRIX {
            return Ok(Self::Stored { matrix: QMatMul::from_arc(stored)?, columns });
        }
        let values = stored.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        if let Some(matrix) = wide::floats(&values, columns) {
            return Ok(Self::Laid { matrix, small: true });
        }
        Ok(Self::Small { values, columns })
    }

    /// Returns whether its products run on the thread that asks for them.
    pub(super) fn is_small(&self) -> bool {
        matches!(self, Self::Small { .. } | Self::Laid { small: true, .. })
    }

    /// Returns, for each row of `x`, its products with all rows of this matrix.
    pub(super) fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        match self {
            Self::Laid { matrix, .. } => Ok(matrix.forward(x)),
            Self::Stored { matrix, columns } => {
                let x = Tensor::from_slice(x, (x.len() / columns, *columns), &Device::Cpu)?;
                matrix.forward(&x)?.flatten_all()?.to_vec1()
            }
            Self::Small { values, columns } => {
                let mut products = Vec::with_capacity(x.len() / columns * (values.len() / columns));
                for x in x.chunks_exact(*columns) {
                    products.extend(values.chunks_exact(*columns).map(|row| dot(row, x)));
                }
                Ok(products)
            }
        }
    }
}

/// Returns the sum of the products of two rows.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "rows are cut to the same length");
    wide::dot(a, b).unwrap_or_else(|| f32::vec_dot(a.len(), a, b))
}

/// Writes the sums of the products of `x` with rows that begin `stride` apart, one for each of
/// `sums`.
pub(super) fn dots(x: &[f32], rows: &[f32], stride: usize, sums: &mut [f32]) {
    if !wide::dots(x, rows, stride, sums) {
        for (sum, row) in sums.iter_mut().zip(rows.chunks(stride)) {
            *sum = dot(x, &row[..x.len()]);
        }
    }
}

/// Sets each number to the weight that it stands for: its power of e, of that of all of them.
pub(super) fn softmax(scores: &mut [f32]) {
    if wide::softmax(scores) {
        return;
    }
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// Multiplies each number with its sigmoid and with its partner.
pub(super) fn gate(numbers: &mut [f32], partners: &[f32]) {
    if !wide::gate(numbers, partners) {
        for (number, partner) in numbers.iter_mut().zip(partners) {
            *number *= partner / (1.0 + (-*number).exp());
        }
    }
}

/// Other processors have no products of their own yet.
#[cfg(not(target_arch = "x86_64"))]
mod wide {
    use candle_core::Result;
    use candle_core::quantized::QTensor;

    use super::Product;

    #[allow(clippy::unnecessary_wraps, reason = "as where there are some")]
    pub(super) fn quantised(_: &QTensor) -> Result<Option<Box<dyn Product>>> {
        Ok(None)
    }

    pub(super) fn floats(_: &[f32], _: usize) -> Option<Box<dyn Product>> {
        None
    }

    pub(super) fn dot(_: &[f32], _: &[f32]) -> Option<f32> {
        None
    }

    pub(super) fn dots(_: &[f32], _: &[f32], _: usize, _: &mut [f32]) -> bool {
        false
    }

    pub(super) fn softmax(_: &mut [f32]) -> bool {
        false
    }

    pub(super) fn gate(_: &mut [f32], _: &[f32]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_the_same_products() {
        let weights = Tensor::randn(0f32, 1.0, (24, 32), &Device::Cpu).unwrap();
        let x = Tensor::randn(0f32, 1.0, 3 * 32, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        let stored = Arc::new(QTensor::quantize(&weights, GgmlDType::F32).unwrap());
        let values = weights.flatten_all().unwrap().to_vec1().unwrap();
        let small = Matrix::Small { values, columns: 32 };
        assert!(small.is_small() && Matrix::new(Arc::clone(&stored)).unwrap().is_small());
        let stored = Matrix::Stored { matrix: QMatMul::from_arc(stored).unwrap(), columns: 32 };
        let (ours, theirs) = (small.forward(&x).unwrap(), stored.forward(&x).unwrap());
        assert_eq!(ours.len(), 3 * 24);
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}
