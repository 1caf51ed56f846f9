//! Model files that the engine did not come with: other architectures, and damaged ones.

#![cfg(feature = "engine")]
// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use futures::StreamExt;
use iris_core::backend::{Backend, Chunk, Finish, GenerateRequest, Operation};
use iris_node::backend::engine::{Engine, EngineError, EngineSettings};
use proptest::prelude::*;

const BUNDLED: &[u8] = include_bytes!("../model/iris-tiny-f16.gguf");

const WIDTH: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// Not the width divided by the heads, as `attention.key_length` allows.
const HEAD_DIM: usize = 16;
const FEED_FORWARD: usize = 64;
const LAYERS: usize = 2;

fn load(bytes: impl Into<Bytes>) -> Result<Engine, EngineError> {
    Engine::load(EngineSettings::bytes(bytes).with_name("test".parse().unwrap()))
}

/// A model of random weights, to be written as one architecture or another.
struct Draft {
    architecture: &'static str,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Tensor)>,
    storage: GgmlDType,
}

impl Draft {
    /// Draws the weights of a `llama` file with biases from a seed.
    fn random(seed: u64) -> Self {
        let mut state = seed;
        let mut draw = |shape: &[usize], spread: f32| {
            let values = (0..shape.iter().product()).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                #[allow(clippy::cast_precision_loss)]
                let unit = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
                unit * spread
            });
            Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
        };
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let ones = |len: usize| Tensor::ones(len, candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), draw(&[vocabulary().len(), WIDTH], 1.0)),
            ("output_norm.weight".to_owned(), ones(WIDTH)),
        ];
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("attn_q.weight", &[q, WIDTH][..]),
                ("attn_q.bias", &[q]),
                ("attn_k.weight", &[kv, WIDTH]),
                ("attn_k.bias", &[kv]),
                ("attn_v.weight", &[kv, WIDTH]),
                ("attn_v.bias", &[kv]),
                ("attn_output.weight", &[WIDTH, q]),
                ("ffn_gate.weight", &[FEED_FORWARD, WIDTH]),
                ("ffn_up.weight", &[FEED_FORWARD, WIDTH]),
                ("ffn_down.weight", &[WIDTH, FEED_FORWARD]),
            ] {
                tensors.push((format!("blk.{layer}.{name}"), draw(shape, 0.5)));
            }
            for name in ["attn_norm.weight", "ffn_norm.weight"] {
                tensors.push((format!("blk.{layer}.{name}"), ones(WIDTH)));
            }
        }
        Self { architecture: "llama", metadata: metadata(), tensors, storage: GgmlDType::F32 }
    }

    /// Turns the same model into the layout of `architecture`, where pairs lie half a head apart.
    fn with_halves(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        for (name, tensor) in &mut self.tensors {
            if name.contains("attn_q.") || name.contains("attn_k.") {
                let rows = u32::try_from(tensor.dims()[0]).unwrap();
                let head_dim = u32::try_from(HEAD_DIM).unwrap();
                let from = |row: u32| {
                    let (head, at) = (row / head_dim, row % head_dim);
                    let (half, pair) = (at / (head_dim / 2), at % (head_dim / 2));
                    head * head_dim + 2 * pair + half
                };
                let order: Vec<u32> = (0..rows).map(from).collect();
                let order = Tensor::new(order, &Device::Cpu).unwrap();
                *tensor = tensor.index_select(&order, 0).unwrap();
            }
        }
        self
    }

    fn with_head_norms(mut self) -> Self {
        for layer in 0..LAYERS {
            for (name, value) in [("attn_q_norm", 0.5f32), ("attn_k_norm", 2.0)] {
                let norm = Tensor::full(value, HEAD_DIM, &Device::Cpu).unwrap();
                self.tensors.push((format!("blk.{layer}.{name}.weight"), norm));
            }
        }
        self
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.metadata.retain(|(known, _)| known != name);
        self.tensors.retain(|(known, _)| known != name);
        self
    }

    fn write(&self) -> Vec<u8> {
        let architecture = Value::String(self.architecture.to_owned());
        let key = |key: &str| key.replace("ARCH", self.architecture);
        let keys: Vec<_> = self.metadata.iter().map(|(name, value)| (key(name), value)).collect();
        let mut metadata = vec![("general.architecture", &architecture)];
        metadata.extend(keys.iter().map(|(key, value)| (key.as_str(), *value)));
        let quantize = |(name, tensor): &(String, Tensor)| {
            let storage = if tensor.rank() == 1 { GgmlDType::F32 } else { self.storage };
            (name.clone(), QTensor::quantize(tensor, storage).unwrap())
        };
        let tensors: Vec<_> = self.tensors.iter().map(quantize).collect();
        let tensors: Vec<_> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut file = Cursor::new(Vec::new());
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        file.into_inner()
    }
}

fn vocabulary() -> Vec<String> {
    let bytes = shimmytok::byte_encoder::bytes_to_unicode();
    let bytes = (0..=255).map(|byte| bytes[&byte].to_string());
    bytes.chain(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]).collect()
}

fn metadata() -> Vec<(String, Value)> {
    let int = |number: usize| Value::U32(u32::try_from(number).unwrap());
    let vocabulary = vocabulary();
    let tokens = vocabulary.iter().cloned().map(Value::String).collect();
    let types = vocabulary.iter().map(|token| Value::I32(if token.len() > 4 { 3 } else { 1 }));
    let entries = [
        ("ARCH.context_length", int(400)),
        ("ARCH.embedding_length", int(WIDTH)),
        ("ARCH.block_count", int(LAYERS)),
        ("ARCH.feed_forward_length", int(FEED_FORWARD)),
        ("ARCH.attention.head_count", int(HEADS)),
        ("ARCH.attention.head_count_kv", int(KV_HEADS)),
        ("ARCH.attention.key_length", int(HEAD_DIM)),
        ("ARCH.attention.value_length", int(HEAD_DIM)),
        ("ARCH.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("ARCH.rope.freq_base", Value::F32(1_000_000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("qwen2".into())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types.collect())),
        ("tokenizer.ggml.bos_token_id", int(256)),
        ("tokenizer.ggml.eos_token_id", int(257)),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Streams a text completion and returns its text and its end.
async fn finish(engine: &Engine, body: &serde_json::Value) -> (String, Finish) {
    let request = GenerateRequest {
        operation: Operation::Completion,
        model: "test".parse().unwrap(),
        body: body.to_string().into(),
        stream: true,
        time_left: Duration::from_mins(1),
        begun: None,
        isolated: false,
    };
    let mut text = String::new();
    let mut answer = engine.generate(request);
    while let Some(chunk) = answer.next().await {
        match chunk.unwrap() {
            Chunk::Text(part) => text += &part,
            Chunk::Finished(finish) => return (text, finish),
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended without an end");
}

/// Writes up to 300 tokens, drawn warm, so that small differences show.
async fn write(engine: &Engine, seed: u64) -> (String, u32) {
    let body = serde_json::json!({
        "prompt": "<|im_start|>A prompt of some length, to be read in more than one step.",
        "max_tokens": 300, "temperature": 0.7, "seed": seed,
    });
    let (text, finish) = finish(engine, &body).await;
    (text, finish.usage.completion_tokens)
}

#[tokio::test]
async fn both_layouts_of_one_model_write_the_same() {
    let llama = load(Draft::random(1).write()).unwrap();
    let qwen = load(Draft::random(1).with_halves("qwen2").write()).unwrap();
    let mut longest = 0;
    for seed in 0..4 {
        let (text, tokens) = write(&llama, seed).await;
        assert_eq!(write(&qwen, seed).await.0, text);
        longest = longest.max(tokens);
    }
    // Longer than a cache's first room, so that its growth is part of the comparison.
    assert!(longest > 150, "no answer was long enough: {longest}");
}

#[tokio::test]
async fn biases_and_head_norms_take_part() {
    let (plain, _) = write(&load(Draft::random(1).with_halves("qwen2").write()).unwrap(), 1).await;
    let normed = Draft::random(1).with_halves("qwen3").with_head_norms();
    assert_ne!(write(&load(normed.write()).unwrap(), 1).await.0, plain);
    let unbiased = Draft::random(1).with_halves("qwen2").without("blk.1.attn_k.bias");
    let unbiased = unbiased.without("blk.0.attn_q.bias").without("blk.1.attn_v.bias");
    assert_ne!(write(&load(unbiased.write()).unwrap(), 1).await.0, plain);
}

#[tokio::test]
async fn rope_factors_of_the_file_take_part() {
    let (plain, _) = write(&load(Draft::random(1).write()).unwrap(), 1).await;
    let with = |factor: f32| {
        let mut draft = Draft::random(1);
        let factors = Tensor::full(factor, HEAD_DIM / 2, &Device::Cpu).unwrap();
        draft.tensors.push(("rope_freqs.weight".into(), factors));
        load(draft.write())
    };
    assert_eq!(write(&with(1.0).unwrap(), 1).await.0, plain);
    assert_ne!(write(&with(8.0).unwrap(), 1).await.0, plain);
    assert!(matches!(with(0.0), Err(EngineError::Malformed(_))));
}

#[tokio::test]
async fn quantised_weights_stay_quantised() {
    let mut draft = Draft::random(1).with_halves("qwen2");
    draft.storage = GgmlDType::Q8_0;
    let engine = load(draft.write()).unwrap();
    let offer = &engine.models().await.unwrap()[0];
    assert_eq!(offer.quantization.as_deref(), Some("Q8_0"));
    assert_eq!(write(&engine, 1).await, write(&engine, 1).await);
}

#[tokio::test]
async fn the_first_token_is_added_once_where_the_file_asks_for_it() {
    let read = async |engine: &Engine, prompt: &str| {
        let body = serde_json::json!({"prompt": prompt, "max_tokens": 1});
        finish(engine, &body).await.1.usage.prompt_tokens
    };
    let plain = load(Draft::random(1).write()).unwrap();
    let adds = Draft::random(1).set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    let adds = load(adds.write()).unwrap();
    assert_eq!((read(&plain, "ab").await, read(&adds, "ab").await), (2, 3));
    let opened = "<|im_start|>ab";
    assert_eq!((read(&plain, opened).await, read(&adds, opened).await), (3, 3));
}

#[test]
fn contradictions_are_errors() {
    let malformed = |draft: Draft| matches!(load(draft.write()), Err(EngineError::Malformed(_)));
    let draft = || Draft::random(1);
    assert!(!malformed(draft()));
    for (key, value) in [
        ("general.alignment", Value::U32(0)),
        ("ARCH.attention.head_count", Value::U32(0)),
        ("ARCH.attention.head_count", Value::U32(3)),
        ("ARCH.attention.head_count_kv", Value::U32(0)),
        ("ARCH.embedding_length", Value::U64(u64::MAX)),
        ("ARCH.embedding_length", Value::U32(64)),
        ("ARCH.block_count", Value::U32(3)),
        ("ARCH.feed_forward_length", Value::String("64".into())),
        ("ARCH.rope.dimension_count", Value::U32(7)),
        ("ARCH.rope.freq_base", Value::F32(f32::NAN)),
        ("tokenizer.ggml.eos_token_id", Value::U32(9999)),
    ] {
        let name = format!("{key} = {value:?}");
        assert!(malformed(draft().set(key, value)), "{name}");
    }
    for missing in ["output_norm.weight", "blk.1.ffn_up.weight", "tokenizer.ggml.tokens"] {
        assert!(malformed(draft().without(missing)), "{missing}");
    }
    let half = draft().write().len() / 2;
    assert!(matches!(load(draft().write()[..half].to_vec()), Err(EngineError::Malformed(_))));
}

#[test]
fn what_the_engine_cannot_run_is_unsupported() {
    for (key, value) in [
        ("ARCH.expert_count", Value::U32(8)),
        ("ARCH.attention.value_length", Value::U32(8)),
        ("ARCH.rope.scaling.type", Value::String("yarn".into())),
        ("tokenizer.ggml.model", Value::String("none".into())),
        ("tokenizer.chat_template", Value::String("{% for".into())),
    ] {
        let result = load(Draft::random(1).set(key, value).write());
        assert!(matches!(result, Err(EngineError::Unsupported(_))), "{key}: {result:?}");
    }
    let mut other = Draft::random(1);
    other.architecture = "mamba";
    assert!(matches!(load(other.write()), Err(EngineError::Unsupported(_))));
    let nameless = Engine::load(EngineSettings::bytes(Draft::random(1).write()));
    assert!(matches!(nameless, Err(EngineError::NoName)));
    let absent = Engine::load(EngineSettings::file("/no/such/model.gguf"));
    assert!(matches!(absent, Err(EngineError::Io(_))));
}

#[tokio::test]
async fn a_file_runs_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Some-Model-F16.gguf");
    std::fs::write(&path, BUNDLED).unwrap();
    let engine = Engine::load(EngineSettings::file(path)).unwrap();
    let offers = engine.models().await.unwrap();
    assert_eq!(offers[0].name.as_str(), "Some-Model-F16");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_files_never_panic(
        // The header with the vocabulary ends near here.
        flips in proptest::collection::vec((0usize..24_000, any::<u8>()), 1..4),
        near_start in any::<bool>(),
        len in proptest::option::of(0..BUNDLED.len()),
    ) {
        let mut bytes = BUNDLED.to_vec();
        for (at, value) in flips {
            bytes[if near_start { at % 1200 } else { at }] = value;
        }
        bytes.truncate(len.unwrap_or(BUNDLED.len()));
        let _ = load(bytes);
    }
}
