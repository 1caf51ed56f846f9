use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{Device, Module, Tensor};

use super::*;

const FORMATS: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

fn random(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

fn list(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Multiplies as candle does, with weights as they are stored or as floats.
fn candle(matrix: &QMatMul, x: &Tensor) -> Vec<f32> {
    list(&matrix.forward(x).unwrap())
}

#[test]
fn products_of_quantised_weights_are_those_of_their_floats() {
    for kind in FORMATS {
        // Rows that eight do not divide, and enough of them for several threads.
        for rows in [5, 203] {
            let stored = QTensor::quantize(&random(rows, 512), kind).unwrap();
            let Some(ours) = quantised(&stored).unwrap() else { return };
            let exact = stored.dequantize(&Device::Cpu).unwrap();
            for tokens in [1, 3, 4, 9] {
                let x = random(tokens, 512);
                let exact = candle(&QMatMul::Tensor(exact.clone()), &x);
                let far = farthest(&ours.forward(&list(&x)), &exact);
                // Products are around 23; tokens rounded to 8 bits bring about 0.2 at 512 columns.
                assert!(far < 1.0, "{kind:?}, {rows} rows, {tokens} tokens: {far}");
            }
        }
    }
}

#[test]
fn products_with_numbers_that_need_no_rounding_are_exact() {
    for kind in FORMATS {
        let stored = QTensor::quantize(&random(19, 256), kind).unwrap();
        let Some(ours) = quantised(&stored).unwrap() else { return };
        let exact = stored.dequantize(&Device::Cpu).unwrap();
        // Each block has the number that all others are rounded by.
        let number = |n: u8| if n.is_multiple_of(32) { 127 } else { n.wrapping_mul(91) % 127 };
        let sign = |n: u8| if n.is_multiple_of(3) { -1.0 } else { 1.0 };
        let x: Vec<f32> = (0..=255).map(|n| sign(n) * f32::from(number(n))).collect();
        let rows = Tensor::from_slice(&x, (1, 256), &Device::Cpu).unwrap();
        let exact = candle(&QMatMul::Tensor(exact), &rows);
        let far = farthest(&ours.forward(&x), &exact);
        assert!(far < 0.02, "{kind:?}: {far}");
    }
}

#[test]
fn the_greatest_products_do_not_overflow() {
    for (kind, size) in [(GgmlDType::Q4_0, 32), (GgmlDType::Q5_0, 32), (GgmlDType::Q8_0, 32)] {
        // One number of each block asks for the greatest scale, all others for the other end.
        let weight = |at: usize| if at.is_multiple_of(size) { -1.0 } else { 1.0f32 };
        let weights: Vec<f32> = (0..8 * 256).map(weight).collect();
        let weights = Tensor::from_vec(weights, (8, 256), &Device::Cpu).unwrap();
        let stored = QTensor::quantize(&weights, kind).unwrap();
        let Some(ours) = quantised(&stored).unwrap() else { return };
        let exact = list(&stored.dequantize(&Device::Cpu).unwrap());
        for x in [127.0, -127.0] {
            let sum = x * exact[..256].iter().sum::<f32>();
            let found = ours.forward(&[x; 15 * 256]);
            assert!(farthest(&found, &[sum; 15 * 8]) < 1.0, "{kind:?}, {x}");
        }
    }
}

#[test]
fn whichever_instructions_there_are_the_bits_are_the_same() {
    let (Some(common), Some(vnni)) = (V3::try_new(), Vnni::try_new()) else { return };
    for kind in FORMATS {
        let stored = QTensor::quantize(&random(21, 256), kind).unwrap();
        let [a, b] = [blocks(common, &stored), blocks(vnni, &stored)].map(|m| m.unwrap().unwrap());
        let mut broken = list(&random(15, 256));
        for (at, x) in broken.iter_mut().enumerate().filter(|(at, _)| at.is_multiple_of(7)) {
            *x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX][at % 4];
        }
        // Numbers that are alike have the greatest sums; by the least, 127 is divided in vain.
        let alike = [1.0, -1.0, 1e-38].map(|x| vec![x; 15 * 256]);
        for x in [list(&random(15, 256)), broken].iter().chain(&alike) {
            let [a, b] = [a.forward(x), b.forward(x)];
            let same =
                |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(a.iter().zip(&b).all(same), "{kind:?}");
        }
    }
}

#[test]
fn a_token_alone_and_among_others_gives_the_same_bits() {
    let quantised = |(kind, columns)| {
        let stored = QTensor::quantize(&random(43, columns), kind).unwrap();
        Some((quantised(&stored).unwrap()?, 43, columns))
    };
    let kinds = [(GgmlDType::Q4K, 256), (GgmlDType::Q6K, 512), (GgmlDType::Q8_0, 96)];
    let mut matrices: Vec<_> = kinds.into_iter().filter_map(quantised).collect();
    matrices.extend(floats(&list(&random(81, 256)), 256).map(|matrix| (matrix, 81, 256)));
    for (matrix, rows, columns) in matrices {
        let x = list(&random(15, columns));
        let together = matrix.forward(&x);
        for (token, x) in x.chunks(columns).enumerate() {
            let alone: Vec<_> = matrix.forward(x).into_iter().map(f32::to_bits).collect();
            let among = &together[token * rows..(token + 1) * rows];
            assert!(among.iter().map(|value| value.to_bits()).eq(alone), "token {token}");
        }
    }
}

#[test]
fn products_of_floats_are_those_of_candle() {
    for (rows, columns) in [(5, 7), (64, 32), (150, 33)] {
        let weights = random(rows, columns);
        let Some(ours) = floats(&list(&weights), columns) else { return };
        let stored = Arc::new(QTensor::quantize(&weights, GgmlDType::F32).unwrap());
        for tokens in [1, 4, 6] {
            let x = random(tokens, columns);
            let theirs = candle(&QMatMul::from_arc(Arc::clone(&stored)).unwrap(), &x);
            assert!(farthest(&ours.forward(&list(&x)), &theirs) < 1e-4);
        }
    }
}

#[test]
fn a_sum_of_products_takes_all_of_both_rows() {
    for len in [0u8, 1, 31, 32, 33, 100] {
        let ones = vec![1.0; usize::from(len)];
        let count: Vec<f32> = (0..len).map(f32::from).collect();
        let Some(found) = dot(&ones, &count) else { return };
        let sum: u32 = (0..u32::from(len)).sum();
        assert!((f64::from(found) - f64::from(sum)).abs() < 1e-6, "{len}: {found}");
    }
}

#[test]
fn rows_together_give_what_each_gives_alone() {
    let x = list(&random(1, 43));
    let rows = list(&random(7, 50));
    let mut sums = [0.0; 7];
    if !dots(&x, &rows, 50, &mut sums) {
        return;
    }
    for (sum, row) in sums.iter().zip(rows.chunks(50)) {
        assert_eq!(dot(&x, &row[..43]).map(f32::to_bits), Some(sum.to_bits()));
    }
}

#[test]
fn weights_and_gates_are_near_what_the_library_makes_of_them() {
    let near =
        |ours: f32, exact: f64| (f64::from(ours) - exact).abs() <= 1e-6 * exact.abs() + 1e-30;
    let numbers: Vec<f32> = (-1005..1006_i16).map(|n| f32::from(n) / 11.0).collect();
    let mut gates = numbers.clone();
    if !gate(&mut gates, &vec![3.0; numbers.len()]) {
        return;
    }
    for (ours, x) in gates.iter().zip(&numbers) {
        let x = f64::from(*x);
        // Beyond this e^-x leaves the range of floats.
        let exact = 3.0 * x / (1.0 + (-x).min(88.0).exp());
        assert!(near(*ours, exact), "{x}: {ours}, {exact}");
    }
    let mut weights = numbers[..203].to_vec();
    softmax(&mut weights);
    let powers = numbers[..203].iter().map(|x| (f64::from(*x) - f64::from(numbers[202])).exp());
    let sum: f64 = powers.clone().sum();
    for (ours, power) in weights.iter().zip(powers) {
        assert!(near(*ours, power / sum), "{ours}, {}", power / sum);
    }
    let mut none = [1.0, f32::NAN, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    gate(&mut none, &[1.0; 9]);
    assert!(none[1].is_nan() && none[0] > 0.7);
}
