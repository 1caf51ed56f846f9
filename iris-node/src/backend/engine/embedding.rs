//! Texts turned into vectors.
//!
//! A vector is what the model's last layer makes of a text's tokens, after the last norm: the mean
//! over all of them, or that of the last one where the file says so (`pooling_type`), at length 1.

use data_encoding::BASE64;
use iris_core::backend::{BackendError, Chunk, Finish, GenerateRequest, Usage};
use iris_protocol::openai::count_values;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::generation::{Abort, Shared, tokens};
use super::matrix::dot;
use super::network::{Network, Wanted};
use super::outgoing::Outgoing;
use super::request::{MAX_VALUES, Prompt, refused};

/// Most texts of a request, as with OpenAI.
const MAX_TEXTS: usize = 2048;
/// Most numbers of an answer: as text each takes up to 22 bytes, and a message holds 32 MiB.
const MAX_NUMBERS: usize = 1 << 20;

/// Which of a text's tokens its vector is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean,
    Last,
}

impl Pooling {
    /// Returns what the number in a file means; `None` where this engine cannot do it. A file that
    /// says nothing, as those of chat models, gets the mean.
    pub(super) fn of(number: Option<usize>) -> Option<Self> {
        match number {
            None | Some(0 | 1) => Some(Self::Mean),
            Some(3) => Some(Self::Last),
            Some(_) => None,
        }
    }
}

/// What a request asks for.
struct Asked {
    texts: Vec<Prompt>,
    dimensions: Option<u64>,
    base64: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

impl Asked {
    fn read(body: &[u8]) -> Result<Self, BackendError> {
        if count_values(body) > MAX_VALUES {
            return Err(refused(None, "the body holds too many values"));
        }
        // The parser's own words may quote the texts.
        let mut body: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| refused(None, "the body is not a JSON object"))?;
        let input = body.remove("input").unwrap_or_default();
        let texts: Vec<Prompt> = match serde_json::from_value(input) {
            Ok(Input::Text(text)) => vec![Prompt::Text(text)],
            Ok(Input::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
            Ok(Input::Tokens(tokens)) => vec![Prompt::Tokens(tokens)],
            Ok(Input::Lists(lists)) => lists.into_iter().map(Prompt::Tokens).collect(),
            Err(_) => {
                let message = "input must be a text, an array of texts, or tokens in place of them";
                return Err(refused(Some("input"), message));
            }
        };
        if !(1..=MAX_TEXTS).contains(&texts.len()) {
            let message = format!("input must hold 1 to {MAX_TEXTS} texts");
            return Err(refused(Some("input"), message));
        }
        let dimensions =
            match body.get("dimensions") {
                None | Some(Value::Null) => None,
                Some(number) => Some(number.as_u64().ok_or_else(|| {
                    refused(Some("dimensions"), "dimensions must be a whole number")
                })?),
            };
        let base64 = match body.get("encoding_format") {
            None | Some(Value::Null) => false,
            Some(Value::String(name)) if name == "float" => false,
            Some(Value::String(name)) if name == "base64" => true,
            Some(_) => {
                let message = "encoding_format must be float or base64";
                return Err(refused(Some("encoding_format"), message));
            }
        };
        Ok(Self { texts, dimensions, base64 })
    }
}

/// Makes the vectors that are asked for and hands them out.
pub(super) fn answer<N: Network>(
    shared: &Shared<N>,
    request: &GenerateRequest,
    outgoing: &Outgoing,
) -> Result<(), Abort> {
    if request.stream {
        return Err(refused(Some("stream"), "embeddings are not streamed").into());
    }
    let Asked { texts, dimensions, base64 } = Asked::read(&request.body)?;
    let model = shared.passes.model();
    let width = model.network.sizes().width;
    if dimensions.is_some_and(|asked| asked != width as u64) {
        let message = format!("this model's vectors have {width} dimensions, no more and no less");
        return Err(refused(Some("dimensions"), message).into());
    }
    if texts.len() * width > MAX_NUMBERS {
        let message = format!("at most {} texts at a time", MAX_NUMBERS / width);
        return Err(refused(Some("input"), message).into());
    }
    let texts = texts.into_iter().map(|text| tokens(model, shared.context, text, "input"));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let mut data = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let vector = vector(shared, text, outgoing)?;
        let embedding = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            BASE64.encode(&bytes).into()
        } else {
            json!(vector)
        };
        data.push(json!({"object": "embedding", "index": index, "embedding": embedding}));
    }
    let read = u32::try_from(texts.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX);
    let whole = json!({"data": data, "usage": {"prompt_tokens": read, "total_tokens": read}});
    outgoing.send(Ok(Chunk::Whole(whole.to_string().into())))?;
    let usage = Usage { prompt_tokens: read, completion_tokens: 0 };
    Ok(outgoing.send(Ok(Chunk::Finished(Finish { reason: "stop".to_owned(), usage })))?)
}

/// Returns the vector of one text.
fn vector<N: Network>(
    shared: &Shared<N>,
    text: &[u32],
    outgoing: &Outgoing,
) -> Result<Vec<f32>, Abort> {
    let network = &shared.passes.model().network;
    let sizes = network.sizes();
    let none = || refused(None, "this engine makes no vectors with this model");
    let pooling = sizes.pooling.ok_or_else(none)?;
    let member = shared.passes.join();
    let mut cache = network.begin(text.len(), shared.context)?;
    let mut vector = vec![0.0; sizes.width];
    for step in text.chunks(network.step()) {
        outgoing.check()?;
        let states;
        (cache, states) = member.read(step, cache, Wanted::States)?;
        for state in states {
            if pooling == Pooling::Last {
                vector = state;
            } else {
                // A sum points where the mean does.
                for (sum, number) in vector.iter_mut().zip(state) {
                    *sum += number;
                }
            }
        }
    }
    let length = dot(&vector, &vector).sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(BackendError::Failed.into());
    }
    for number in &mut vector {
        *number /= length;
    }
    Ok(vector)
}
