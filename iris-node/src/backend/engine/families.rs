//! Each family of models, beside what llama.cpp made of the same file.
//!
//! The files hold random weights; `tests/families/make.py` made them, and asked llama.cpp. Scores
//! are compared along llama.cpp's own answers, so that one near tie costs one token and not all
//! that follow.

use std::time::UNIX_EPOCH;

use candle_core::Device;
use iris_core::backend::Operation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::likelihood::Likelihoods;
use super::model::Model;
use super::network::{Network, Part, Wanted};
use super::request::{Prompt, Request};
use super::tensors::Tensors;

/// How far a log probability may lie from llama.cpp's, for weights of 16 bits.
const TOLERANCE: f32 = 0.03;
/// The same for quantised weights: both engines round what they multiply with to 8 bits, each in a
/// way of its own.
const QUANTISED_TOLERANCE: f32 = 0.4;
/// How far they may lie on average.
const USUAL: f32 = 0.02;

/// What llama.cpp made of one file.
#[derive(Deserialize)]
struct Answers {
    prompts: Vec<Answer>,
    conversations: Vec<Conversation>,
}

#[derive(Deserialize)]
struct Answer {
    text: String,
    ids: Vec<u32>,
    greedy: Vec<u32>,
    /// The likeliest tokens of each step with their log probabilities; none for a few steps.
    best: Vec<Vec<(u32, f32)>>,
}

#[derive(Deserialize)]
struct Conversation {
    messages: Value,
    ids: Vec<u32>,
}

/// How near two engines are.
#[derive(Debug, Default)]
struct Nearness {
    tokens: usize,
    same: usize,
    compared: f32,
    farthest: f32,
    /// The sum of all distances.
    distance: f32,
}

impl Nearness {
    fn compare<N: Network>(&mut self, model: &Model<N>, answer: &Answer) {
        let written = &answer.greedy[..answer.greedy.len() - 1];
        let all = answer.ids.len() + written.len();
        let cache = &mut model.network.begin(all, all).unwrap();
        let mut scores = Vec::new();
        // As answers are made: the prompt in steps, then token by token.
        for tokens in answer.ids.chunks(model.network.step()).chain(written.chunks(1)) {
            let part = Part { tokens, cache: &mut *cache, wanted: Wanted::Each };
            scores.extend(model.network.forward(&mut [part]).unwrap().into_iter().flatten());
        }
        let steps = scores[answer.ids.len() - 1..].iter().zip(&answer.greedy).zip(&answer.best);
        for ((scores, token), best) in steps {
            let likelihoods = Likelihoods::of(scores.clone());
            self.tokens += 1;
            self.same += usize::from(likelihoods.best(1)[0].token == *token);
            for (token, logprob) in best {
                let distance = (likelihoods.of_token(*token).logprob - logprob).abs();
                self.farthest = self.farthest.max(distance);
                (self.compared, self.distance) = (self.compared + 1.0, self.distance + distance);
            }
        }
    }
}

fn check<N: Network>(model: &Model<N>, answers: &str) {
    let answers: Answers = serde_json::from_str(answers).unwrap();
    let mut nearness = Nearness::default();
    for answer in &answers.prompts {
        assert_eq!(model.tokenizer.encode(&answer.text).unwrap(), answer.ids, "{:?}", answer.text);
        nearness.compare(model, answer);
    }
    for Conversation { messages, ids } in &answers.conversations {
        let body = json!({"messages": messages}).to_string();
        let request = Request::read(Operation::Chat, body.as_bytes()).unwrap();
        let Prompt::Chat(conversation) = request.prompt else { panic!("a chat") };
        let prompt = model.template.render(conversation, UNIX_EPOCH).unwrap();
        assert_eq!(model.tokenizer.encode(&prompt).unwrap(), *ids, "{prompt:?}");
    }
    println!("{nearness:?}");
    assert!(nearness.tokens >= 200, "the fixture is too small: {nearness:?}");
    let quantised = model.quantization.as_deref() != Some("F16");
    let tolerance = if quantised { QUANTISED_TOLERANCE } else { TOLERANCE };
    assert!(nearness.farthest <= tolerance, "{nearness:?}");
    assert!(nearness.distance / nearness.compared <= USUAL, "{nearness:?}");
    assert!(nearness.same * 100 >= nearness.tokens * 99, "{nearness:?}");
}

macro_rules! answers {
    ($name:literal) => {
        include_str!(concat!("../../../tests/families/", $name, ".json"))
    };
}

/// Makes a test of a file and its answers.
macro_rules! family {
    ($test:ident, $name:literal) => {
        #[test]
        fn $test() {
            let file = include_bytes!(concat!("../../../tests/families/", $name, ".gguf"));
            check(&Model::from_bytes(file).unwrap(), answers!($name));
            check_tensors(file, answers!($name));
            #[cfg(feature = "llama-cpp")]
            check_llama(concat!($name, ".gguf"), answers!($name));
        }
    };
}

/// The layers for graphics cards, on the processor.
fn check_tensors(file: &[u8], answers: &str) {
    check(&Model::<Tensors>::from_bytes_to(file, &Device::Cpu).unwrap(), answers);
}

/// llama.cpp inside this process, with 32-bit caches and without flash attention, as the server was
/// that was asked. With half-precision caches, as is usual, that server's scores of the quantised
/// files are up to 0.47 from its own, 0.07 on average.
#[cfg(feature = "llama-cpp")]
fn check_llama(file: &str, answers: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/families");
    let settings = super::EngineSettings::file(format!("{folder}/{file}"));
    let super::Source::File(path) = &settings.source else { panic!("a file") };
    check(&*super::llama::open_exact(path, &settings).unwrap(), answers);
}

family!(llama_3_is_read_as_llama_cpp_reads_it, "llama3");
family!(llama_3_in_blocks_of_256_is_read_as_llama_cpp_reads_it, "llama3-k");
family!(qwen_2_is_read_as_llama_cpp_reads_it, "qwen2");
family!(qwen_3_is_read_as_llama_cpp_reads_it, "qwen3");
family!(mistral_is_read_as_llama_cpp_reads_it, "mistral");
