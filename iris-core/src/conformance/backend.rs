//! What every [`Backend`] must do.
//!
//! Each function takes a request that the backend can answer, for a model that it lists. Nothing
//! here limits time: run the functions under the time limit of your own tests.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use serde_json::{Map, Value};

use crate::backend::{Backend, BackendError, Begun, Chunk, GenerateRequest, Operation};
use crate::model::{Abilities, ModelName};

type Answer = BoxStream<'static, Result<Chunk, BackendError>>;

/// Runs every check of this module, one after the other.
///
/// # Panics
///
/// When the backend breaks its contract; the message names the clause.
pub async fn run_all(backend: &dyn Backend, request: GenerateRequest) {
    let request = &request;
    lists_its_model(backend, request).await;
    streamed_answer_is_well_formed(backend, request).await;
    whole_answer_is_well_formed(backend, request).await;
    unknown_model_is_not_found(backend, request).await;
    malformed_body_is_the_callers_fault(backend, request).await;
    dropped_answers_leave_it_usable(backend, request).await;
    answers_two_at_a_time(backend, request).await;
    begun_answer_goes_on(backend, request).await;
}

/// Checks that the request's model is listed, exactly once.
pub async fn lists_its_model(backend: &dyn Backend, request: &GenerateRequest) {
    let offers = backend.models().await.expect("models() must succeed");
    let count = offers.iter().filter(|offer| offer.name == request.model).count();
    assert_eq!(count, 1, "models() must list {} once: {offers:?}", request.model);
    assert!(offers.iter().all(|o| o.context_length > 0), "a context holds at least one token");
}

/// Checks a streamed answer: texts and JSON steps in compact form, one end, nothing after it.
pub async fn streamed_answer_is_well_formed(backend: &dyn Backend, request: &GenerateRequest) {
    let mut answer = backend.generate(with_stream(request, true));
    finish_stream(&mut answer).await;
}

/// Checks an answer that is not streamed: one whole answer, one end.
pub async fn whole_answer_is_well_formed(backend: &dyn Backend, request: &GenerateRequest) {
    let mut answer = backend.generate(with_stream(request, false));
    let Some(Ok(Chunk::Whole(whole))) = answer.next().await else {
        panic!("an answer that is not streamed starts with Whole");
    };
    let whole = check_json(&whole);
    let list = if request.operation == Operation::Embedding { "data" } else { "choices" };
    let choice = whole.get(list).and_then(|choices| choices.get(0));
    let choice = choice.expect("a whole answer has a first choice");
    let content = match request.operation {
        Operation::Chat => choice.get("message"),
        Operation::Completion => choice.get("text"),
        Operation::Embedding => choice.get("embedding"),
    };
    assert!(content.is_some(), "the first choice holds the answer of its operation");

    let Some(Ok(Chunk::Finished(finish))) = answer.next().await else {
        panic!("Finished follows Whole");
    };
    assert!(!finish.reason.is_empty(), "an answer ends for a reason");
    stays_ended(&mut answer).await;
}

/// Checks that a model which is not offered is [`BackendError::ModelNotFound`].
pub async fn unknown_model_is_not_found(backend: &dyn Backend, request: &GenerateRequest) {
    let model: ModelName = "iris-conformance/no-such-model".parse().expect("the name is valid");
    let mut body: Map<String, Value> =
        serde_json::from_slice(&request.body).expect("the given request has a JSON object");
    body.insert("model".to_owned(), model.as_str().into());
    let body = Bytes::from(Value::Object(body).to_string());
    for stream in [true, false] {
        let request =
            GenerateRequest { model: model.clone(), body: body.clone(), ..request.clone() };
        let mut answer = backend.generate(with_stream(&request, stream));
        let first = answer.next().await;
        assert_eq!(first, Some(Err(BackendError::ModelNotFound)), "stream: {stream}");
        stays_ended(&mut answer).await;
    }
}

/// Checks that a body which is not a JSON object is refused with status 400.
pub async fn malformed_body_is_the_callers_fault(backend: &dyn Backend, request: &GenerateRequest) {
    for body in [&b""[..], b"{", b"[]", b"null", b"{\"model\":}", b"{} {}", b"{\"a\":\"\xff\"}"] {
        let request = GenerateRequest { body: Bytes::from_static(body), ..request.clone() };
        let mut answer = backend.generate(request);
        let first = answer.next().await;
        let refused = matches!(first, Some(Err(BackendError::Rejected { status: 400, .. })));
        assert!(refused, "{} gave {first:?}", body.escape_ascii());
        stays_ended(&mut answer).await;
    }
}

/// Checks that answers dropped unread or half-read do not harm the next one.
pub async fn dropped_answers_leave_it_usable(backend: &dyn Backend, request: &GenerateRequest) {
    drop(backend.generate(with_stream(request, true)));
    for stream in [true, false] {
        let mut answer = backend.generate(with_stream(request, stream));
        assert!(matches!(answer.next().await, Some(Ok(_))), "an answer has a first chunk");
    }
    streamed_answer_is_well_formed(backend, request).await;
}

/// Checks that a second answer comes while the first is not read to its end.
pub async fn answers_two_at_a_time(backend: &dyn Backend, request: &GenerateRequest) {
    let mut first = backend.generate(with_stream(request, true));
    let mut second = backend.generate(with_stream(request, true));
    for answer in [&mut first, &mut second] {
        assert!(matches!(answer.next().await, Some(Ok(_))), "an answer has a first chunk");
    }
    finish_stream(&mut second).await;
    finish_stream(&mut first).await;
}

/// Checks that an answer which was cut after any of its chunks goes on from there, if the model
/// is offered with [`Abilities::CONTINUE`].
///
/// What is said then is compared only where the request gets the same answer twice; its form is
/// always checked. Answers of which not every chunk is text cannot be cut, and pass.
pub async fn begun_answer_goes_on(backend: &dyn Backend, request: &GenerateRequest) {
    let offers = backend.models().await.expect("models() must succeed");
    let offer = offers.iter().find(|offer| offer.name == request.model);
    if !offer.is_some_and(|offer| offer.abilities.contains(Abilities::CONTINUE)) {
        return;
    }
    let request = with_stream(request, true);
    let first = finish_stream(&mut backend.generate(request.clone())).await;
    let second = finish_stream(&mut backend.generate(request.clone())).await;
    for cut in 1..=first.len() {
        let Some(begun) = first[..cut].iter().cloned().collect::<Option<Vec<_>>>() else {
            return;
        };
        let tokens = u32::try_from(begun.len()).expect("an answer is not that long");
        let text = begun.concat();
        let begun = Begun { text: text.clone(), tokens };
        let request = GenerateRequest { begun: Some(begun), ..request.clone() };
        let rest = finish_stream(&mut backend.generate(request)).await;
        if first == second {
            let whole: String = first.iter().flatten().cloned().collect();
            let rest: String = rest.into_iter().flatten().collect();
            assert_eq!(text + &rest, whole, "an answer cut after {cut} chunks goes on from there");
        }
    }
}

fn with_stream(request: &GenerateRequest, stream: bool) -> GenerateRequest {
    GenerateRequest { stream, ..request.clone() }
}

/// Reads a streamed answer to its end and returns its texts; `None` stands for a JSON step.
async fn finish_stream(answer: &mut Answer) -> Vec<Option<String>> {
    let mut texts = Vec::new();
    loop {
        match answer.next().await {
            Some(Ok(Chunk::Text(text))) => {
                assert!(!text.is_empty(), "a text is never empty");
                texts.push(Some(text));
            }
            Some(Ok(Chunk::Json(json))) => {
                let step = check_json(&json);
                assert!(!step.contains_key("usage"), "usage belongs into Finished");
                texts.push(None);
            }
            Some(Ok(Chunk::Whole(_))) => panic!("a streamed answer has no Whole"),
            Some(Ok(Chunk::Finished(finish))) => {
                assert!(!finish.reason.is_empty(), "an answer ends for a reason");
                stays_ended(answer).await;
                return texts;
            }
            Some(Err(error)) => panic!("the request can be answered, but: {error:?}"),
            None => panic!("an answer never ends without Finished or an error"),
        }
    }
}

async fn stays_ended(answer: &mut Answer) {
    for _ in 0..2 {
        let after = answer.next().await;
        assert!(after.is_none(), "nothing follows the end, but: {after:?}");
    }
}

fn check_json(json: &[u8]) -> Map<String, Value> {
    assert!(!json.iter().any(|byte| matches!(byte, b'\n' | b'\r')), "JSON fits on one line");
    let object: Map<String, Value> =
        serde_json::from_slice(json).expect("JSON chunks are single objects");
    for member in ["id", "object", "created", "model"] {
        assert!(!object.contains_key(member), "{member} is written by whoever faces the caller");
    }
    object
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::executor::block_on;
    use serde_json::json;

    use super::*;
    use crate::backend::{Script, ScriptedBackend, Step};
    use crate::model::ModelOffer;

    fn check(script: Script) {
        let offer = ModelOffer::new("m".parse().expect("valid"), 10);
        check_with(&ScriptedBackend::new([offer], move |_| script.clone()));
    }

    fn check_with(backend: &ScriptedBackend) {
        let model: ModelName = "m".parse().expect("valid");
        let body = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
        let time_left = Duration::from_secs(1);
        let operation = Operation::Chat;
        block_on(run_all(
            backend,
            GenerateRequest {
                operation,
                model,
                body,
                stream: true,
                time_left,
                begun: None,
                isolated: false,
            },
        ));
    }

    #[test]
    fn answer_without_faults_passes() {
        check(Script::new().text("a").json(&json!({"choices": []})).text("b"));
    }

    #[test]
    #[should_panic(expected = "an answer cut after 1 chunks goes on from there")]
    fn answer_that_begins_anew_is_found() {
        let mut offer = ModelOffer::new("m".parse().expect("valid"), 10);
        offer.abilities = Abilities::CONTINUE;
        check_with(&ScriptedBackend::new([offer], |request| {
            let begun = request.begun.as_ref().map_or("", |begun| &begun.text);
            Script::saying([begun, "a", "b"])
        }));
    }

    #[test]
    #[should_panic(expected = "a text is never empty")]
    fn empty_text_is_found() {
        check(Script::new().step(Step::Chunk(Chunk::Text(String::new()))));
    }

    #[test]
    #[should_panic(expected = "model is written by whoever faces the caller")]
    fn envelope_in_a_step_is_found() {
        check(Script::new().json(&json!({"choices": [], "model": "m"})));
    }

    #[test]
    #[should_panic(expected = "usage belongs into Finished")]
    fn usage_in_a_step_is_found() {
        check(Script::new().json(&json!({"choices": [], "usage": null})));
    }

    #[test]
    #[should_panic(expected = "JSON fits on one line")]
    fn line_break_in_a_step_is_found() {
        let step = Bytes::from_static(b"{\n\"choices\":[]}");
        check(Script::new().step(Step::Chunk(Chunk::Json(step))));
    }

    #[test]
    #[should_panic(expected = "the request can be answered, but: Failed")]
    fn failing_answer_is_found() {
        check(Script::new().text("a").fail(BackendError::Failed));
    }
}
