//! Products of matrices, each by the way that suits its size.
//!
//! The operators of candle spread every product over all cores and ask the operating system for
//! their number each time. That serves large models; for small ones the asking and waking costs
//! more than the product, and generations side by side fight over the cores. So products that
//! take microseconds run on the thread that needs them.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, GgmlType, QMatMul, QTensor};
use candle_core::{D, Device, Module, Result, Tensor};

/// Unquantised matrices up to this many values are small: 16 MiB as floats.
const SMALL_MATRIX: usize = 1 << 22;
/// Products of up to this many multiplications are small; more would wake other threads.
const SMALL_PRODUCT: usize = (1 << 16) - 1;

/// A matrix of weights that rows are multiplied with.
pub(super) enum Matrix {
    /// Small and unquantised: row after row, as 32-bit floats.
    Small { values: Vec<f32>, columns: usize },
    /// As the file stores it, where that is quantised.
    Stored(QMatMul),
}

impl Matrix {
    pub(super) fn new(stored: Arc<QTensor>) -> Result<Self> {
        let (rows, columns) = stored.shape().dims2()?;
        let quantised =
            !matches!(stored.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        if quantised || rows * columns > SMALL_MATRIX {
            return QMatMul::from_arc(stored).map(Self::Stored);
        }
        let values = stored.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        Ok(Self::Small { values, columns })
    }

    /// Returns, for each row of `x`, its products with all rows of this matrix.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Stored(matrix) => matrix.forward(x),
            Self::Small { values, columns } => {
                let tokens = x.dim(0)?;
                let x = x.flatten_all()?.to_vec1::<f32>()?;
                let mut products = Vec::with_capacity(tokens * (values.len() / columns));
                for x in x.chunks_exact(*columns) {
                    products.extend(values.chunks_exact(*columns).map(|row| dot(row, x)));
                }
                Tensor::from_vec(products, (tokens, values.len() / columns), &Device::Cpu)
            }
        }
    }
}

/// Returns `a` times the transpose of `b`, for `(batch, rows, inner)` each.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (batch, rows, inner) = a.dims3()?;
    if batch * rows * inner * b.dim(1)? > SMALL_PRODUCT {
        return a.matmul(&b.t()?);
    }
    a.unsqueeze(2)?.broadcast_mul(&b.unsqueeze(1)?)?.sum(D::Minus1)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "rows are cut to the same length");
    f32::vec_dot(a.len(), a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn both_ways_give_the_same_products() {
        let (a, b) = (random(&[2, 3, 16]), random(&[2, 5, 16]));
        let theirs = a.matmul(&b.t().unwrap()).unwrap();
        assert!(distance(&product(&a, &b).unwrap(), &theirs) < 1e-5);

        let (weights, x) = (random(&[24, 32]), random(&[3, 32]));
        let stored = Arc::new(QTensor::quantize(&weights, GgmlDType::F32).unwrap());
        let small = Matrix::new(Arc::clone(&stored)).unwrap();
        assert!(matches!(small, Matrix::Small { .. }));
        let stored = Matrix::Stored(QMatMul::from_arc(stored).unwrap());
        let (ours, theirs) = (small.forward(&x).unwrap(), stored.forward(&x).unwrap());
        assert!(distance(&ours, &theirs) < 1e-5);
    }
}
