//! The SDK against a scripted coordinator that reads what is asked.

#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use iris_client::openai::{ChatRequest, Message};
use iris_client::rest::{InferenceRequest, KeyRequest, KeyScope, KeyTerms, TaskState};
use iris_client::{Client, ClientBuilder, ClientError, Cut, Partial, Policy};
use support::*;

fn client(coordinator: &Scripted) -> Client {
    Client::builder(&coordinator.url)
        .with_api_key("iris_k")
        .with_policy(Policy::Open)
        .build()
        .expect("the url is valid")
}

fn open(coordinator: &Scripted) -> ClientBuilder {
    Client::builder(&coordinator.url).with_policy(Policy::Open)
}

fn request() -> ChatRequest {
    ChatRequest::new("m", vec![Message::user("hi")])
}

/// Streams one answer; returns the text of all chunks, or how it broke off.
async fn stream(client: &Client) -> Result<String, ClientError> {
    let stream = client.chat_stream(request()).await?;
    Ok(stream.collect_text().await?.0)
}

async fn cut(client: &Client) -> Partial {
    match stream(client).await {
        Err(ClientError::Truncated(partial)) => *partial,
        other => panic!("not cut: {other:?}"),
    }
}

#[tokio::test]
async fn a_question_is_answered() {
    let coordinator = Scripted::always(|| json(200, &[], &answer("hello"))).await;
    let ask = client(&coordinator).ask("m", "hi").with_system("be brief").with_max_tokens(5);
    assert_eq!(ask.await.unwrap(), "hello");

    let seen = &coordinator.seen()[0];
    assert_eq!(seen.call, "POST /v1/chat/completions");
    assert_eq!(seen.header("authorization"), Some("Bearer iris_k"));
    assert_eq!(seen.body["messages"][0]["content"], "be brief");
    assert_eq!(seen.body["messages"][1]["content"], "hi");
    assert_eq!(seen.body["max_tokens"], 5);
    assert!(seen.body.get("stream").is_none());
}

#[tokio::test]
async fn a_stream_yields_every_chunk_and_where_it_comes_from() {
    let usage = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\r\n\r\n";
    let coordinator = Scripted::always(move || {
        let all = [": keep-alive\n\n", &chunk("a"), &chunk("\u{e9}"), &finish("stop"), usage, DONE];
        // One byte at a time, so every character and line is cut somewhere.
        let text = all.concat();
        event_stream(futures::stream::iter(text.into_bytes()).map(|byte| vec![byte]))
    })
    .await;
    let mut stream = client(&coordinator).chat_stream(request()).await.unwrap();
    assert_eq!(stream.head().request_id.as_deref(), Some("req-1"));
    assert!(stream.head().node.is_some());

    let (mut text, mut reasons, mut tokens) = (String::new(), Vec::new(), 0);
    while let Some(chunk) = stream.try_next().await.unwrap() {
        text.push_str(chunk.text());
        reasons.extend(chunk.finish_reason().map(str::to_owned));
        tokens += chunk.usage.map_or(0, |usage| usage.completion_tokens);
    }
    assert_eq!((text.as_str(), tokens), ("a\u{e9}", 2));
    assert_eq!(reasons, ["stop"]);
    let body = &coordinator.seen()[0].body;
    assert_eq!(
        (&body["stream"], &body["stream_options"]["include_usage"]),
        (&true.into(), &true.into())
    );
}

#[tokio::test]
async fn a_stream_without_its_end_mark_is_truncated_and_keeps_its_text() {
    let coordinator = Scripted::start(|n, _| match n {
        0 => events(vec![chunk("half "), chunk("an")]),
        // Even a reason to finish is no end mark.
        _ => events(vec![chunk("half an"), finish("stop")]),
    })
    .await;
    let client = client(&coordinator);
    for _ in 0..2 {
        let partial = cut(&client).await;
        assert_eq!((partial.text.as_str(), &partial.cause), ("half an", &Cut::Ended));
        assert_eq!(partial.head.request_id.as_deref(), Some("req-1"));
    }
    assert_eq!(coordinator.seen().len(), 2, "streams are not repeated");
}

#[tokio::test]
async fn an_error_event_is_typed_and_ends_the_stream() {
    let coordinator = Scripted::always(|| {
        let error = "data: {\"error\":{\"message\":\"node lost\",\"code\":\"node_lost\"}}\n\n";
        events(vec![chunk("half"), error.to_owned(), chunk("no more"), DONE.to_owned()])
    })
    .await;
    let partial = cut(&client(&coordinator)).await;
    assert_eq!(partial.text, "half");
    let Cut::Reported(detail) = partial.cause else { panic!("{:?}", partial.cause) };
    assert_eq!((detail.message.as_str(), detail.code.as_deref()), ("node lost", Some("node_lost")));
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_from_one_that_ends() {
    let (break_it, broken) = tokio::sync::oneshot::channel::<()>();
    let broken = std::sync::Mutex::new(Some(broken));
    let coordinator = Scripted::always(move || {
        let broken = broken.lock().expect("nobody panics here").take();
        let end = futures::stream::once(async move {
            broken.expect("there is one request").await.expect("the test says when");
            Err(std::io::Error::other("gone"))
        });
        let pieces = futures::stream::iter([Ok(chunk("half"))]).chain(end);
        let mut answer = events(Vec::new());
        *answer.body_mut() = axum::body::Body::from_stream(pieces);
        answer
    })
    .await;
    let mut stream = client(&coordinator).chat_stream(request()).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap().unwrap().text(), "half");
    break_it.send(()).unwrap();
    let Err(ClientError::Truncated(partial)) = stream.try_next().await else { panic!("not cut") };
    assert_eq!(partial.text, "half");
    assert!(matches!(partial.cause, Cut::Connection(_)), "{:?}", partial.cause);
}

#[tokio::test]
async fn silence_ends_a_stream_after_the_idle_timeout() {
    let coordinator = Scripted::always(|| events_then_silence(vec![chunk("half")])).await;
    let idle = Duration::from_millis(100);
    let client = open(&coordinator).with_idle_timeout(idle).build().unwrap();
    let partial = cut(&client).await;
    assert_eq!((partial.text.as_str(), partial.cause), ("half", Cut::Silent(idle)));
}

#[tokio::test]
async fn a_garbled_event_and_an_endless_one_are_cuts() {
    let coordinator = Scripted::start(|n, _| match n {
        0 => events(vec![chunk("a"), "data: {\"choices\": secret\n\n".to_owned()]),
        _ => event_stream(futures::stream::repeat("data: x".repeat(10_000))),
    })
    .await;
    let client = client(&coordinator);
    let garbled = cut(&client).await;
    assert!(matches!(garbled.cause, Cut::Malformed(_)) && garbled.text == "a");
    assert!(!format!("{garbled:?} {}", garbled.cause).contains("secret"));
    assert_eq!(cut(&client).await.cause, Cut::TooLarge);
}

#[tokio::test]
async fn a_whole_answer_in_place_of_a_stream_is_an_error() {
    let coordinator = Scripted::always(|| json(200, &[], &answer("hello"))).await;
    let error = stream(&client(&coordinator)).await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
}

#[tokio::test]
async fn every_refusal_has_its_type_and_is_sent_once() {
    type Check = fn(&ClientError) -> bool;
    let cases: [(u16, &str, Check); 12] = [
        (400, "context_length_exceeded", |e| matches!(e, ClientError::BadRequest(_))),
        (401, "invalid_api_key", |e| matches!(e, ClientError::Unauthorized(_))),
        (403, "forbidden", |e| matches!(e, ClientError::Forbidden(_))),
        (404, "model_not_found", |e| matches!(e, ClientError::ModelNotFound(_))),
        (404, "not_found", |e| matches!(e, ClientError::NotFound(_))),
        (405, "method_not_allowed", |e| matches!(e, ClientError::BadRequest(_))),
        (413, "too_large", |e| matches!(e, ClientError::TooLarge(_))),
        (422, "unprocessable", |e| matches!(e, ClientError::BadRequest(_))),
        (429, "rate_limit_exceeded", |e| matches!(e, ClientError::RateLimited(_))),
        (500, "server_error", |e| matches!(e, ClientError::Server(_))),
        (503, "no_node", |e| matches!(e, ClientError::NoNode(_))),
        (504, "deadline", |e| matches!(e, ClientError::Server(_))),
    ];
    for (status, code, is_right) in cases {
        let coordinator = Scripted::always(move || refusal(status, code)).await;
        let client = client(&coordinator);
        for error in [
            client.chat(request()).await.unwrap_err(),
            client.chat_stream(request()).await.unwrap_err(),
        ] {
            assert!(is_right(&error), "{status} {code}: {error:?}");
            assert_eq!(error.request_id(), Some("req-1"));
            assert_eq!(error.refusal().unwrap().code(), Some(code));
        }
        assert_eq!(coordinator.seen().len(), 2, "{status} {code}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::builder(url).build().unwrap().chat(request()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn lists_are_asked_for_again_up_to_twice() {
    let coordinator = Scripted::start(|n, _| match n {
        0 | 1 => json(503, &[("retry-after-ms", "1")], "{}"),
        _ => json(200, &[], &models(&["a/b:c", "d"])),
    })
    .await;
    let models = client(&coordinator).models().await.unwrap();
    assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["a/b:c", "d"]);

    let coordinator = Scripted::always(|| json(429, &[("retry-after", "0")], "{}")).await;
    let error = client(&coordinator).models().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::ZERO));
    assert_eq!(coordinator.seen().len(), 3);
}

#[tokio::test]
async fn a_wait_beyond_the_timeout_is_the_callers_to_decide() {
    let coordinator = Scripted::always(|| json(503, &[("retry-after", "3600")], "{}")).await;
    let error = client(&coordinator).models().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_hours(1)));
    assert_eq!(coordinator.seen().len(), 1);
}

#[tokio::test]
async fn what_would_be_refused_again_is_not_sent_again() {
    let coordinator = Scripted::always(|| refusal(401, "invalid_api_key")).await;
    assert!(client(&coordinator).models().await.is_err());
    assert_eq!(coordinator.seen().len(), 1);
}

#[tokio::test]
async fn advice_against_another_try_is_taken() {
    let coordinator = Scripted::always(|| json(504, &[("x-should-retry", "false")], "{}")).await;
    assert!(client(&coordinator).models().await.is_err());
    assert_eq!(coordinator.seen().len(), 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let coordinator = Scripted::always(|| json(307, &[("location", "/elsewhere")], "")).await;
    let error = client(&coordinator).models().await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
    assert_eq!(coordinator.seen().len(), 1);
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_at_the_timeout() {
    let coordinator = Scripted::always(|| events_then_silence(Vec::new())).await;
    let timeout = Duration::from_millis(100);
    let client = open(&coordinator).with_timeout(timeout).build().unwrap();
    assert_eq!(client.chat(request()).await.map(drop), Err(ClientError::Timeout(timeout)));
}

#[tokio::test]
async fn retries_of_one_submission_share_a_key_and_two_submissions_do_not() {
    let coordinator = Scripted::start(|n, _| match n {
        0 => json(500, &[("retry-after", "0")], "{}"),
        _ => json(202, &[], &task("submitted", None)),
    })
    .await;
    let client = client(&coordinator);
    let request = InferenceRequest::new("m".parse().unwrap(), "hi");
    let status = client.tasks().submit(&request).await.unwrap();
    assert_eq!((status.id.to_string().as_str(), status.status), (TASK, TaskState::Submitted));
    client.tasks().submit(&request).await.unwrap();
    client.tasks().submit_once(&request, "mine").await.unwrap();

    let seen = coordinator.seen();
    let key = |n: usize| seen[n].header("idempotency-key").unwrap();
    assert_eq!((seen[0].call.as_str(), key(0)), ("POST /inference", key(1)));
    assert_ne!(key(1), key(2));
    assert_eq!(key(3), "mine");
    assert_eq!(seen[3].body["prompt"], "hi");
}

#[tokio::test]
async fn waiting_outlasts_passing_failures_and_ends_with_the_task() {
    let coordinator = Scripted::start(|n, _| match n {
        0 => json(200, &[("retry-after-ms", "1")], &task("running", None)),
        1 => json(503, &[("retry-after-ms", "1")], "{}"),
        _ => json(200, &[], &task("finished", Some("hello"))),
    })
    .await;
    let client = client(&coordinator);
    let task = TASK.parse().unwrap();
    let status = client.tasks().wait(task, Duration::from_mins(1)).await.unwrap();
    assert_eq!(status.result.unwrap().text, "hello");
    assert_eq!(coordinator.seen().len(), 3);
    assert_eq!(coordinator.seen()[2].call, format!("GET /inference/{TASK}"));
}

#[tokio::test]
async fn waiting_ends_at_its_limit_and_at_a_refusal() {
    let coordinator = Scripted::always(|| json(200, &[], &task("running", None))).await;
    let (task, limit) = (TASK.parse().unwrap(), Duration::from_millis(10));
    let waited = client(&coordinator).tasks().wait(task, limit).await;
    assert_eq!(waited, Err(ClientError::Timeout(limit)));

    let coordinator = Scripted::always(|| refusal(404, "not_found")).await;
    let waited = client(&coordinator).tasks().wait(task, Duration::from_mins(1)).await;
    assert!(matches!(waited, Err(ClientError::NotFound(_))));
}

#[tokio::test]
async fn cancelling_deletes_the_task() {
    let coordinator = Scripted::always(|| json(200, &[], &task("cancelled", None))).await;
    let status = client(&coordinator).tasks().cancel(TASK.parse().unwrap()).await.unwrap();
    assert_eq!(status.status, TaskState::Cancelled);
    assert_eq!(coordinator.seen()[0].call, format!("DELETE /inference/{TASK}"));
}

#[tokio::test]
async fn account_keys_are_exchanged_once_and_never_in_clear() {
    let coordinator = Scripted::always(|| json(201, &[], &new_key("node"))).await;
    let request = KeyRequest {
        account_key: Some("1234567890123456".into()),
        scope: KeyScope::Node,
        label: None,
        terms: KeyTerms::default(),
    };
    let created = client(&coordinator).keys().create(&request).await.unwrap();
    assert_eq!(created.key.expose(), "iris_new");
    assert_eq!(coordinator.seen()[0].body["account_key"], "1234567890123456");

    let elsewhere = Client::builder("http://192.0.2.1").build().unwrap();
    let refused = elsewhere.keys().create(&request).await.map(drop);
    assert_eq!(refused, Err(ClientError::PlainHttp));
}

#[tokio::test]
async fn payouts_are_read_part_by_part_and_months_at_once() {
    let coordinator = Scripted::start(|_, seen| match seen.call.as_str() {
        "GET /payouts" => {
            let (month, next) = match seen.query.as_str() {
                "limit=200" => ("2026-11", Some("2026-11")),
                "limit=200&after=2026-11" => ("2026-10", None),
                _ => return refusal(400, "bad_query"),
            };
            let payout = serde_json::json!({ "epoch": month, "account": TASK, "amount": 5,
                "state": "owed", "since": 1, "release": 2 });
            json(200, &[], &serde_json::json!({ "payouts": [payout], "next": next }).to_string())
        }
        "GET /months" => {
            let month = serde_json::json!({ "epoch": "2026-11", "policy": "seed", "pool": 7,
                "carried": 7, "owners": 0, "closed": 1, "release": 2 });
            json(200, &[], &serde_json::json!({ "months": [month] }).to_string())
        }
        _ => refusal(404, "not_found"),
    })
    .await;
    let client = client(&coordinator);
    let payouts: Vec<_> = client.payouts().list().try_collect().await.unwrap();
    let months: Vec<_> = payouts.iter().map(|payout| payout.epoch.to_string()).collect();
    assert_eq!(months, ["2026-11", "2026-10"]);
    let months = client.payouts().months().await.unwrap();
    assert_eq!((months.len(), months[0].pool.as_micros()), (1, 7));
    let statement = client.payouts().statement("2026-10".parse().unwrap()).await;
    assert!(matches!(statement, Err(ClientError::NotFound(_))), "{statement:?}");
}
