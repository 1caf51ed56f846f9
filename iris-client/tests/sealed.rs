//! Sealed requests against a scripted coordinator. Each attack of the list of those that the
//! client has to stand is a test with its number.

#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use futures::{StreamExt, TryStreamExt};
use iris_client::openai::{ChatRequest, Message};
use iris_client::trust::TrustError;
use iris_client::{
    AnswerError, Client, ClientBuilder, ClientError, Cut, NoReceipt, Partial, Policy, Privacy,
    Shape,
};
use iris_core::NodeId;
use iris_core::backend::{BackendError, Usage};
use iris_core::model::{ModelOffer, TokenRate};
use iris_crypto::certificate::{CertificateError, Role, SignedCertificate};
use iris_crypto::log::Entry;
use iris_crypto::seal::{MEDIA_TYPE, SealedRequest, coarse};
use iris_crypto::{Identity, SealingKey, SealingPublicKey};
use support::sealed::*;
use support::*;

const SECRET: &str = "the secret plan";

fn builder(network: &Network) -> ClientBuilder {
    Client::builder(&network.url).with_api_key("iris_k")
}

fn client(network: &Network) -> Client {
    builder(network).build().expect("the url is valid")
}

fn request() -> ChatRequest {
    ChatRequest::new(MODEL, vec![Message::user(SECRET)])
}

async fn stream(client: &Client) -> Result<String, ClientError> {
    Ok(client.chat_stream(request()).await?.collect_text().await?.0)
}

/// Asks, and returns how it failed; whole and streamed must fail alike.
async fn failure(client: &Client) -> ClientError {
    let whole = client.chat(request()).await.expect_err("it must fail");
    let streamed = stream(client).await.expect_err("it must fail");
    assert_eq!(
        std::mem::discriminant(&whole),
        std::mem::discriminant(&streamed),
        "{whole:?} {streamed:?}"
    );
    whole
}

fn certificate_error(error: ClientError) -> CertificateError {
    match error {
        ClientError::Trust(TrustError::Certificate { cause, .. }) => *cause,
        other => panic!("not about a certificate: {other:?}"),
    }
}

fn partial(error: ClientError) -> Partial {
    match error {
        ClientError::Truncated(partial) => *partial,
        other => panic!("not cut: {other:?}"),
    }
}

#[tokio::test]
async fn a_question_is_sealed_by_default_and_the_label_is_the_clients_own() {
    let network = Network::start(3).await;
    let answer = client(&network).chat(request()).await.unwrap();
    assert_eq!((answer.text(), answer.privacy), ("hello there", Privacy::Sealed));
    assert_eq!(answer.completion.object, "chat.completion");
    assert_eq!(answer.completion.usage.as_ref().unwrap().total_tokens, 11);
    let node = answer.head.node.unwrap();
    assert!(network.with(|state| state.nodes.iter().any(|it| it.id() == node)));
    assert_eq!(answer.head.request_id.as_deref(), Some("req-1"));
    let receipt = answer.receipt.wait().await.unwrap();
    assert_eq!(receipt.receipt().usage, coarse(USAGE));
    network.with(|state| {
        assert_eq!(state.calls, ["GET /roster", "POST /sealed"]);
        assert!(state.keys.iter().all(|key| key.as_deref() == Some("Bearer iris_k")));
        let sent = &state.asked[0];
        assert_eq!(answer.head.task.unwrap().as_bytes(), &sent.header().task);
        assert_eq!(receipt.receipt().task, sent.header().task);
        assert_eq!(sent.header().terms.shape, Shape::Paced);
        let wire = sent.wire();
        assert!(!wire.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
        let (_, prompt, _) = state.open(sent);
        assert!(String::from_utf8_lossy(&prompt.body).contains(SECRET));
    });
}

#[tokio::test]
async fn a_stream_yields_texts_tool_calls_end_and_usage() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let (node, prompt, sealer) = state.open(&request);
        assert!(prompt.stream);
        let long = "x".repeat(2000);
        let tool = serde_json::json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [
            { "index": 0, "id": "c", "function": { "name": "f", "arguments": long } }] },
            "finish_reason": null }] });
        let pieces = [
            Piece::Text("Hel".to_owned()),
            Piece::Json(tool.to_string()),
            Piece::Text("lo".to_owned()),
        ];
        sealed(&state.write(node, sealer, &pieces, "tool_calls", USAGE))
    });
    let mut stream = client(&network).chat_stream(request()).await.unwrap();
    assert_eq!(stream.privacy(), Privacy::Sealed);
    let (mut text, mut calls, mut reasons, mut usage) = (String::new(), 0, Vec::new(), None);
    while let Some(chunk) = stream.try_next().await.unwrap() {
        assert_eq!((chunk.object.as_str(), chunk.model.as_str()), ("chat.completion.chunk", MODEL));
        text.push_str(chunk.text());
        calls += chunk.choices.iter().map(|choice| choice.delta.tool_calls.len()).sum::<usize>();
        reasons.extend(chunk.finish_reason().map(str::to_owned));
        usage = chunk.usage.or(usage);
    }
    assert_eq!((text.as_str(), calls, reasons), ("Hello", 1, vec!["tool_calls".to_owned()]));
    assert_eq!(usage.unwrap().completion_tokens, 2);
    assert!(stream.receipt().wait().await.is_ok());
}

#[tokio::test]
async fn the_receipt_comes_after_the_stream_was_dropped() {
    let network = Network::start(1).await;
    let (send, late) = tokio::sync::oneshot::channel::<()>();
    let late = std::sync::Mutex::new(Some(late));
    network.on_sealed(move |state, request| {
        let records = state.records(&request, "hi");
        let late = late.lock().unwrap().take().unwrap();
        // All but the last frame and the receipt; these when the test says so.
        let cut = records.len() - 2;
        let (now, then) = (records[..cut].concat(), records[cut..].concat());
        let then = futures::stream::once(async move {
            late.await.expect("the test says when");
            Ok::<_, std::io::Error>(then)
        });
        let mut answer = sealed(&[]);
        *answer.body_mut() = Body::from_stream(futures::stream::iter([Ok(now)]).chain(then));
        answer
    });
    let mut stream = client(&network).chat_stream(request()).await.unwrap();
    while stream.try_next().await.unwrap().is_some() {}
    let receipt = stream.receipt().clone();
    drop(stream);
    send.send(()).unwrap();
    assert!(receipt.wait().await.is_ok());
}

#[tokio::test]
async fn attack_01_any_flipped_bit_of_an_answer_is_refused() {
    let network = Network::start(1).await;
    let client = client(&network);
    // Opening, content, end; in each the first byte of the payload, one in the middle, the last.
    for record in 0..3 {
        for place in [5, 37, usize::MAX] {
            network.on_sealed(move |state, request| {
                let mut records = state.records(&request, "hello");
                let place = place.min(records[record].len() - 1);
                records[record][place] ^= 1;
                sealed(&records)
            });
            let cut = partial(failure(&client).await);
            assert!(matches!(cut.cause, Cut::Broken(_)), "{record} {place}: {:?}", cut.cause);
            assert_eq!(cut.text, if record == 2 { cut.text.clone() } else { String::new() });
        }
    }
}

#[tokio::test]
async fn attack_05_relabelled_moved_repeated_and_missing_frames_are_refused() {
    type Change = fn(&mut Vec<Vec<u8>>);
    let changes: [(&str, Change); 6] = [
        ("the last frame in place of the end", |records| drop(records.remove(3))),
        ("frames in another order", |records| records.swap(1, 2)),
        ("a frame twice", |records| records.insert(2, records[1].clone())),
        ("a frame left out", |records| drop(records.remove(1))),
        ("a frame before the opening", |records| records.swap(0, 1)),
        ("an opening twice", |records| records.insert(1, records[0].clone())),
    ];
    for (what, change) in changes {
        let network = Network::start(1).await;
        network.on_sealed(move |state, request| {
            let mut records = state.records(&request, "one two");
            change(&mut records);
            sealed(&records)
        });
        let cut = partial(stream(&client(&network)).await.unwrap_err());
        assert!(matches!(cut.cause, Cut::Broken(_)), "{what}: {:?}", cut.cause);
        assert!("one two".starts_with(&cut.text), "{what}: {}", cut.text);
        assert_eq!(network.asked(), 1, "{what}: what was tampered with is not asked again");
    }
}

#[tokio::test]
async fn attack_05_frames_of_another_answer_do_not_fit() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let other = state.records(&state.asked[0].clone(), "other answer");
        let mut records = state.records(&request, "one two");
        if state.asked.len() > 1 {
            records[1].clone_from(&other[1]);
        }
        sealed(&records)
    });
    let client = client(&network);
    assert!(stream(&client).await.is_ok());
    let cut = partial(stream(&client).await.unwrap_err());
    assert_eq!((cut.text.as_str(), cut.cause), ("", Cut::Broken(AnswerError::Rejected)));
}

#[tokio::test]
async fn attack_06_an_answer_in_the_clear_is_refused_and_nothing_of_it_is_shown() {
    let network = Network::start(1).await;
    let client = client(&network);
    let sse = || events(vec![chunk("leaked"), finish("stop"), DONE.to_owned()]);
    let answers: [fn() -> Response<Body>; 2] =
        [|| json(200, &[], &answer("leaked")), || json(200, &[], "")];
    for clear in answers {
        network.on_sealed(move |_, _| clear());
        let error = failure(&client).await;
        assert!(matches!(error, ClientError::Downgrade { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("leaked"));
    }
    network.on_sealed(move |_, _| sse());
    assert!(matches!(failure(&client).await, ClientError::Downgrade { .. }));
    // The right name alone makes no sealed answer of it.
    network.on_sealed(|_, _| {
        let mut answer = json(200, &[], &answer("leaked"));
        answer.headers_mut().insert("content-type", MEDIA_TYPE.parse().unwrap());
        answer
    });
    let error = client.chat(request()).await.unwrap_err();
    assert!(!format!("{error:?}").contains("leaked"), "{error:?}");
    // Nor does an opening by somebody who has not the node's key.
    network.on_sealed(|_, _| {
        let mut records = vec![0, 0, 0, 65, 1];
        records.extend([7; 64]);
        sealed(&[records])
    });
    let cut = partial(failure(&client).await);
    assert_eq!(cut.cause, Cut::Broken(AnswerError::WrongNode));
}

#[tokio::test]
async fn attack_07_the_coordinators_own_key_is_no_nodes() {
    let network = Network::start(1).await;
    network.with(|state| {
        // The coordinator lists itself as a node, with a certificate of its own role.
        let seed = iris_crypto::Secret::generate();
        let (coordinator, again) = (Identity::from_seed(&seed), Identity::from_seed(&seed));
        state.coordinator = coordinator;
        state.fork(0);
        let mut node = Node::new(&state.coordinator);
        node.identity = again;
        node.certify(|claims| claims.role = Role::Coordinator);
        state.nodes = vec![node];
    });
    let error = certificate_error(failure(&client(&network)).await);
    assert!(matches!(error, CertificateError::WrongRole { .. }), "{error:?}");
    assert_eq!(network.asked(), 0);
}

#[tokio::test]
async fn attack_08_certificates_out_of_their_time_are_refused() {
    type Check = fn(&CertificateError) -> bool;
    let hour = |hours: i64| {
        move |time: iris_core::Timestamp| {
            let millis = time.as_millis().saturating_add_signed(hours * 3_600_000);
            iris_core::Timestamp::from_millis(millis)
        }
    };
    let cases: [(i64, i64, Check); 3] = [
        (-8, -7, |error| matches!(error, CertificateError::Expired { .. })),
        (0, 42, |error| matches!(error, CertificateError::BadLifetime)),
        (2, 2, |error| matches!(error, CertificateError::NotYetValid { .. })),
    ];
    for (begin, end, is_right) in cases {
        let network = Network::start(1).await;
        network.with(|state| {
            state.nodes[0].certify(|claims| {
                claims.not_before = hour(begin)(claims.not_before);
                claims.not_after = hour(end)(claims.not_after);
            });
        });
        let error = certificate_error(failure(&client(&network)).await);
        assert!(is_right(&error), "{begin} {end}: {error:?}");
        assert_eq!(network.asked(), 0);
    }
}

#[tokio::test]
async fn attack_08_a_node_does_not_come_back_with_an_older_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trust.json");
    let network = Network::start(1).await;
    let client = || builder(&network).with_trust_file(&file).build().unwrap();
    client().chat(request()).await.unwrap();
    network.with(|state| state.nodes[0].certify(|claims| claims.serial = 9));
    // Another process, which has the file alone.
    let error = certificate_error(failure(&client()).await);
    assert_eq!(error, CertificateError::OldSerial { serial: 9, minimum: 10 });
    network.with(|state| state.nodes[0].certify(|claims| claims.serial = 11));
    client().chat(request()).await.unwrap();
}

#[tokio::test]
async fn attack_09_low_order_keys_are_refused() {
    let mut one = [0; 32];
    one[0] = 1;
    for key in [[0; 32], one] {
        let network = Network::start(1).await;
        network.with(|state| {
            let key = SealingPublicKey::from_bytes(key);
            state.nodes[0].certify(|claims| claims.sealing_key = key);
        });
        let error = certificate_error(failure(&client(&network)).await);
        assert_eq!(error, CertificateError::WeakSealingKey);
        assert_eq!(network.asked(), 0);
    }
}

#[tokio::test]
async fn attack_10_two_logs_are_evidence_and_a_hard_failure() {
    for longer in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trust.json");
        let network = Network::start(1).await;
        let client = || builder(&network).with_trust_file(&file).build().unwrap();
        client().chat(request()).await.unwrap();
        let known = client().trust().unwrap().checkpoint().unwrap().to_owned();
        network.with(|state| state.fork(if longer { 9 } else { 0 }));
        for _ in 0..2 {
            let error = client().chat(request()).await.unwrap_err();
            let ClientError::Trust(TrustError::Fork(fork)) = error else { panic!("{error:?}") };
            assert_eq!(fork.known, known);
            assert_ne!(fork.shown, known);
            let evidence = std::fs::read_to_string(fork.saved.unwrap()).unwrap();
            let evidence: serde_json::Value = serde_json::from_str(&evidence).unwrap();
            assert_eq!(evidence["checkpoints"], serde_json::json!([known, fork.shown]));
        }
        assert_eq!(network.asked(), 1);
        assert_eq!(client().trust().unwrap().checkpoint(), Some(known.as_str()));
    }
}

#[tokio::test]
async fn attack_10_a_roster_that_is_not_in_the_log_is_not_believed() {
    let network = Network::start(1).await;
    network.with(|state| {
        state.on_roster = Some(std::sync::Arc::new(|signed| {
            signed.roster = signed.roster.replace("\"slots\":4", "\"slots\":5");
        }));
    });
    let error = failure(&client(&network)).await;
    assert!(matches!(error, ClientError::Trust(TrustError::Log(_))), "{error:?}");
    // Nor is one whose checkpoint another has signed.
    network.with(|state| {
        state.on_roster = Some(std::sync::Arc::new(|signed| {
            let other = Identity::generate();
            let mut log = Log::default();
            log.append(&Entry::Coordinator(other.public()));
            signed.checkpoint = log.checkpoint(&other);
        }));
    });
    let error = failure(&client(&network)).await;
    assert!(matches!(error, ClientError::Trust(TrustError::Roster(_))), "{error:?}");
}

#[tokio::test]
async fn attack_11_a_server_without_sealing_gets_nothing() {
    for status in [404, 405, 501] {
        let network = Network::start(1).await;
        network.on_sealed(move |_, _| refusal(status, "sealed_unsupported"));
        let error = failure(&client(&network)).await;
        assert!(matches!(error, ClientError::Downgrade { .. }), "{status}: {error:?}");
        let calls = network.with(|state| state.calls.clone());
        assert!(!calls.iter().any(|call| call.contains("/v1/")), "{calls:?}");
    }
    // A coordinator of before there were rosters.
    let coordinator = Scripted::always(|| refusal(404, "not_found")).await;
    let client = Client::builder(&coordinator.url).build().unwrap();
    let error = failure(&client).await;
    assert!(matches!(error, ClientError::Downgrade { .. }), "{error:?}");
    assert!(coordinator.seen().iter().all(|seen| seen.call == "GET /roster"));
}

#[tokio::test]
async fn attack_14_a_receipt_for_another_answer_is_disputed_and_the_answer_stays() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let mut records = state.records(&request, "hello");
        let first = state.asked[0].clone();
        let other = state.records(&first, "other");
        *records.last_mut().unwrap() = other.last().unwrap().clone();
        sealed(&records)
    });
    let client = client(&network);
    let answer = client.chat(request()).await.unwrap();
    assert_eq!(answer.text(), "hello");
    assert!(matches!(answer.receipt.wait().await, Err(NoReceipt::Disputed(_))));
    // And one that does not come is missing.
    network.on_sealed(|state, request| {
        let mut records = state.records(&request, "hello");
        records.pop();
        sealed(&records)
    });
    let answer = client.chat(request()).await.unwrap();
    assert_eq!(answer.receipt.wait().await.map(drop), Err(NoReceipt::Missing));
}

#[tokio::test]
async fn attack_15_tokens_in_the_clear_that_are_not_the_sealed_ones_are_disputed() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let (node, _, sealer) = state.open(&request);
        let billed = Usage { prompt_tokens: 900, completion_tokens: 2 };
        let pieces = [Piece::Whole(whole("hello"))];
        sealed(&state.write(node, sealer, &pieces, "stop", billed))
    });
    let answer = client(&network).chat(request()).await.unwrap();
    assert_eq!(answer.text(), "hello");
    assert!(matches!(answer.receipt.wait().await, Err(NoReceipt::Disputed(_))));
}

#[tokio::test]
async fn attack_16_a_clock_that_is_an_hour_off_is_a_clear_error() {
    for (behind, ahead) in [(3600, true), (-3600, false)] {
        let network = Network::start(1).await;
        network.with(|state| state.behind = behind);
        let error = failure(&client(&network)).await;
        let ClientError::Trust(TrustError::ClockSkew { skew, ahead: found }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(found, ahead);
        assert!(skew.abs_diff(Duration::from_hours(1)) < Duration::from_mins(1), "{skew:?}");
        assert_eq!(network.asked(), 0);
    }
    // An old roster of a coordinator whose clock is right is told apart.
    let network = Network::start(1).await;
    network.with(|state| state.age = 3600);
    let error = failure(&client(&network)).await;
    assert!(matches!(error, ClientError::Trust(TrustError::Stale { .. })), "{error:?}");
}

#[tokio::test]
async fn attack_17_a_key_that_was_replaced_is_sealed_to_anew_after_verifying_it() {
    let stale = |certificate: &SignedCertificate| {
        let body = serde_json::json!({ "certificate": certificate, "error":
            { "message": "m", "type": "t", "param": null, "code": "stale_key" } });
        json(409, &[], &body.to_string())
    };
    let network = Network::start(1).await;
    network.on_sealed(move |state, request| {
        if state.asked.len() > 1 {
            return sealed(&state.records(&request, "hello"));
        }
        let key = SealingKey::generate();
        let public = key.public();
        state.nodes[0].key = key;
        state.nodes[0].certify(|claims| (claims.sealing_key, claims.serial) = (public, 11));
        stale(&state.nodes[0].certificate)
    });
    let client = client(&network);
    let answer = client.chat(request()).await.unwrap();
    assert_eq!(answer.text(), "hello");
    network.with(|state| {
        let tasks: BTreeSet<_> = state.asked.iter().map(|asked| asked.header().task).collect();
        assert_eq!(tasks.len(), 2, "each sealing is a task of its own");
    });
    // The roster that is at hand still has the old key.
    assert_eq!(client.chat(request()).await.unwrap().text(), "hello");

    // The key of another node is none for this one.
    let network = Network::start(1).await;
    network.on_sealed(move |state, _| stale(&Node::new(&state.coordinator).certificate));
    let error = failure(&self::client(&network)).await;
    assert!(matches!(error, ClientError::Trust(TrustError::WrongNode { .. })), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_truncated_and_keeps_its_text() {
    let network = Network::start(2).await;
    network.on_sealed(|state, request| {
        let mut records = state.records(&request, "half an answer");
        records.truncate(3);
        sealed(&records)
    });
    let client = client(&network);
    let cut = partial(stream(&client).await.unwrap_err());
    assert_eq!((cut.text.as_str(), cut.cause), ("half an ", Cut::Ended));
    assert_eq!(network.asked(), 1, "who has a part is not asked again");
    // What the coordinator says about it is only told, and never taken for the answer's end.
    network.on_sealed(|state, request| {
        let mut records = state.records(&request, "half an answer");
        records.truncate(3);
        let mut failure = Vec::new();
        let advice = br#"{"error":{"message":"node lost","type":"t","code":"interrupted"}}"#;
        iris_crypto::seal::write_record(
            iris_crypto::seal::RecordKind::Failure,
            advice,
            &mut failure,
        );
        records.push(failure);
        sealed(&records)
    });
    let cut = partial(stream(&client).await.unwrap_err());
    let Cut::Reported(detail) = cut.cause else { panic!("{:?}", cut.cause) };
    assert_eq!((cut.text.as_str(), detail.message.as_str()), ("half an ", "node lost"));
}

#[tokio::test]
async fn an_error_of_the_model_server_comes_sealed_and_is_the_callers() {
    let network = Network::start(2).await;
    let rejected = BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: None,
        message: "too long".to_owned(),
    };
    network.on_sealed(move |state, request| sealed(&state.fail(&request, &[], &rejected)));
    let error = failure(&client(&network)).await;
    assert!(matches!(error, ClientError::BadRequest(_)), "{error:?}");
    assert_eq!(error.refusal().unwrap().code(), Some("context_length_exceeded"));
    assert_eq!(error.request_id(), Some("req-1"));
    assert_eq!(network.asked(), 2, "once for the whole and once for the stream");
}

#[tokio::test]
async fn busy_offline_and_lost_nodes_are_passed_over() {
    type Failing = fn(&mut State, &SealedRequest) -> Response<Body>;
    let failing: [(&str, Failing); 5] = [
        ("busy", |_, _| busy()),
        ("offline", |_, _| refusal(503, "node_offline")),
        ("rejecting", |_, _| refusal(400, "seal_rejected")),
        ("lost", |state, request| {
            let mut records = state.records(request, "never");
            records.truncate(1);
            sealed(&records)
        }),
        ("failing", |state, request| sealed(&state.fail(request, &[], &BackendError::Failed))),
    ];
    for (what, fail) in failing {
        let network = Network::start(3).await;
        network.on_sealed(move |state, request| {
            if state.asked.len() > 1 {
                return sealed(&state.records(&request, "hello"));
            }
            fail(state, &request)
        });
        let answer = client(&network).chat(request()).await;
        assert_eq!(answer.unwrap().text(), "hello", "{what}");
        network.with(|state| {
            let nodes: BTreeSet<_> =
                state.asked.iter().map(|asked| asked.header().certificate).collect();
            assert_eq!((state.asked.len(), nodes.len()), (2, 2), "{what}: another node");
        });
    }
}

#[tokio::test]
async fn a_request_that_two_nodes_lost_is_given_up() {
    let network = Network::start(3).await;
    network.on_sealed(|state, request| sealed(&state.fail(&request, &[], &BackendError::Failed)));
    let error = client(&network).chat(request()).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code(), Some("nodes_failed"));
    assert_eq!(network.asked(), 2);
}

#[tokio::test]
async fn busy_guards_are_waited_for_and_nobody_else_is_asked() {
    let network = Network::start(8).await;
    network.with(|state| state.nodes.iter_mut().for_each(|node| node.free = free_none()));
    network.on_sealed(|state, request| {
        if state.asked.len() > 4 { sealed(&state.records(&request, "hello")) } else { busy() }
    });
    let answer = client(&network).chat(request()).await.unwrap();
    assert_eq!(answer.text(), "hello");
    network.with(|state| {
        let nodes: BTreeSet<_> =
            state.asked.iter().map(|asked| asked.header().certificate).collect();
        assert_eq!(nodes.len(), 3, "the guards");
    });
}

fn free_none() -> iris_client::rest::FreeSlots {
    iris_client::rest::FreeSlots::None
}

#[tokio::test]
async fn a_coordinator_that_steers_is_noticed() {
    let network = Network::start(8).await;
    network.on_sealed(|_, _| busy());
    let error = client(&network).chat(request()).await.unwrap_err();
    assert_eq!(error, ClientError::SteeringSuspected { refusals: 6 });
    assert!(error.is_about_privacy());
    network.with(|state| {
        let nodes: BTreeSet<_> =
            state.asked.iter().map(|asked| asked.header().certificate).collect();
        assert_eq!(nodes.len(), 3, "no node but the guards was asked");
    });
}

#[tokio::test]
async fn guards_stay_the_same_over_questions_and_processes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state/iris/trust.json");
    let network = Network::start(12).await;
    let mut nodes = BTreeSet::new();
    for _ in 0..4 {
        let client = builder(&network).with_trust_file(&file).build().unwrap();
        for _ in 0..5 {
            nodes.insert(client.chat(request()).await.unwrap().head.node.unwrap());
        }
    }
    assert!(nodes.len() <= 3, "{nodes:?}");
    let client = builder(&network).with_trust_file(&file).build().unwrap();
    let trust = client.trust().unwrap();
    let (_, guards) = trust.guard_sets().next().unwrap();
    assert_eq!(guards.len(), 3);
    assert!(nodes.iter().all(|node| guards.contains(node)));
}

#[tokio::test]
async fn a_data_set_makes_no_guards_of_the_nodes_that_claim_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trust.json");
    let network = Network::start(8).await;
    let client = || builder(&network).with_trust_file(&file).build().unwrap();
    let guards = || -> Vec<_> {
        client().trust().unwrap().guard_sets().flat_map(|(_, guards)| guards).collect()
    };
    let claim = |nodes: &[NodeId]| {
        network.with(|state| {
            state.asked.clear();
            for node in &mut state.nodes {
                let claims = nodes.contains(&node.id());
                node.datasets = if claims { vec!["ward".to_owned()] } else { Vec::new() };
            }
        });
    };
    let mut question = request();
    question.extra.insert("iris_dataset".to_owned(), serde_json::json!({ "name": "ward" }));
    // Nobody is a guard yet when the first such question comes.
    let nodes: Vec<_> = network.with(|state| state.nodes.iter().map(Node::id).collect());
    claim(&nodes[..1]);
    let first = client().chat(question.clone()).await.map(|answer| answer.head.node);
    let drawn = guards();
    assert_eq!(drawn.len(), 3, "they are drawn among all nodes");
    let is_guard = drawn.contains(&nodes[0]);
    assert_eq!(first, if is_guard { Ok(Some(nodes[0])) } else { Err(ClientError::BeyondGuards) });
    // Every stranger claims it, and no guard does.
    let strangers: Vec<_> = nodes.iter().copied().filter(|node| !drawn.contains(node)).collect();
    claim(&strangers);
    let refused = client().chat(question.clone()).await.map(|answer| answer.head.node);
    assert_eq!(refused, Err(ClientError::BeyondGuards));
    assert_eq!((network.asked(), guards()), (0, drawn.clone()));
    // Those that may be asked anyway are: a guard, and a node of one's own.
    claim(&[&strangers[..], &drawn[1..2]].concat());
    let asked = client().chat(question.clone()).await.map(|answer| answer.head.node);
    assert_eq!((asked, guards()), (Ok(Some(drawn[1])), drawn.clone()));
    claim(&strangers);
    client().pin(strangers[2]).unwrap();
    let asked = client().chat(question).await.map(|answer| answer.head.node);
    assert_eq!((asked, guards()), (Ok(Some(strangers[2])), drawn));
}

#[tokio::test]
async fn own_nodes_alone_are_asked_where_that_is_demanded() {
    let network = Network::start(5).await;
    let own: NodeId = network.with(|state| state.nodes[2].id());
    let nobody = builder(&network).with_policy(Policy::Own).build().unwrap();
    assert_eq!(failure(&nobody).await, ClientError::NoOwnNode);
    let client = builder(&network).with_policy(Policy::Own).with_own_node(own).build().unwrap();
    for _ in 0..3 {
        let answer = client.chat(request()).await.unwrap();
        assert_eq!((answer.privacy, answer.head.node), (Privacy::Own, Some(own)));
    }
    network.with(|state| {
        assert!(state.asked.iter().all(|asked| asked.header().terms.shape == Shape::Off));
        state.nodes.remove(2);
    });
    // Without it nobody else is asked in its place.
    let asked = network.asked();
    let client = builder(&network).with_policy(Policy::Own).with_own_node(own).build().unwrap();
    assert_eq!(failure(&client).await, ClientError::NoOwnNode);
    assert_eq!(network.asked(), asked);
}

#[tokio::test]
async fn another_coordinator_at_the_same_address_is_not_trusted() {
    let network = Network::start(1).await;
    let client = client(&network);
    client.chat(request()).await.unwrap();
    let expected = network.with(|state| state.coordinator.public());
    network.with(|state| {
        state.coordinator = Identity::generate();
        state.fork(0);
        state.nodes.clear();
        state.add_node();
    });
    for client in [
        builder(&network).with_coordinator(expected).build().unwrap(),
        // This one remembers; its roster is fetched anew for a model that it does not list.
        client,
    ] {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let unknown = ChatRequest::new("unknown", vec![Message::user("hi")]);
        let error = client.chat(unknown).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Trust(TrustError::WrongCoordinator { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn models_that_nobody_offers_are_refused_as_by_the_coordinator() {
    let network = Network::start(1).await;
    network.with(|state| state.away = vec!["gone".to_owned()]);
    let client = client(&network);
    let ask = |model: &str| client.chat(ChatRequest::new(model, vec![Message::user("hi")]));
    let error = ask("unknown").await.unwrap_err();
    assert!(matches!(error, ClientError::ModelNotFound(_)), "{error:?}");
    let error = ask("gone").await.unwrap_err();
    assert!(matches!(error, ClientError::NoNode(_)), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(10)));
    let mut long = request();
    long.max_tokens = Some(100_000);
    let error = client.chat(long).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code(), Some("context_length_exceeded"));
    assert_eq!(network.asked(), 0);
}

#[tokio::test]
async fn a_log_that_grew_is_followed_and_one_that_does_not_prove_it_is_a_fork() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trust.json");
    let network = Network::start(1).await;
    let client = || builder(&network).with_trust_file(&file).build().unwrap();
    for _ in 0..3 {
        client().chat(request()).await.unwrap();
    }
    network.with(|state| {
        state.on_other = Some(std::sync::Arc::new(|_, call| {
            (call == "GET /log/consistency").then(|| refusal(404, "not_found"))
        }));
    });
    let error = client().chat(request()).await.unwrap_err();
    assert!(matches!(error, ClientError::Trust(TrustError::Fork(_))), "{error:?}");
}

#[tokio::test]
async fn open_is_a_choice_by_name_and_labelled_so() {
    let coordinator =
        Scripted::always(|| json(200, &[("x-iris-privacy", "own")], &answer("hi"))).await;
    let client = Client::builder(&coordinator.url).build().unwrap();
    let answer = client.with_policy(Policy::Open).chat(request()).await.unwrap();
    assert_eq!((answer.text(), answer.privacy), ("hi", Privacy::Open));
    assert_eq!(answer.receipt.wait().await.map(drop), Err(NoReceipt::Open));
}

/// Makes the nodes of a network offer one model each, of so many billion parameters and so fast.
fn offer(network: &Network, models: &[(&str, u64, u64)]) {
    network.with(|state| {
        for (node, (name, billions, speed)) in state.nodes.iter_mut().zip(models) {
            node.offer = ModelOffer::new(name.parse().expect("a name"), 8192);
            node.offer.parameters = Some(billions * 1_000_000_000);
            node.offer.speed = Some(TokenRate::per_second(*speed));
        }
    });
}

async fn routed(client: &Client, model: &str, question: &str) -> Result<String, ClientError> {
    let asked = ChatRequest::new(model, vec![Message::user(question)]);
    Ok(client.chat(asked).await?.completion.model)
}

#[tokio::test]
async fn attack_46_a_question_without_a_model_is_classified_and_routed_here() {
    let network = Network::start(2).await;
    offer(&network, &[("small", 3, 90), ("org/Llama-3-70B", 70, 25)]);
    let client = client(&network);
    let easy = "What is the capital of Peru?";
    let hard = "Prove that the square root of 2 is irrational.";
    assert_eq!(routed(&client, "iris/any", easy).await.unwrap(), "small");
    assert_eq!(routed(&client, "iris/any", hard).await.unwrap(), "org/Llama-3-70B");
    assert_eq!(routed(&client, "iris/family:llama-3", easy).await.unwrap(), "org/Llama-3-70B");
    network.with(|state| {
        // Nobody was asked anything but the roster, and what was asked is sealed to one node.
        assert_eq!(state.calls, ["GET /roster", "POST /sealed", "POST /sealed", "POST /sealed"]);
        let models = state.asked.iter().map(|sent| sent.header().terms.model.as_str());
        assert_eq!(models.collect::<Vec<_>>(), ["small", "org/Llama-3-70B", "org/Llama-3-70B"]);
        for sent in &state.asked {
            let wire = String::from_utf8_lossy(sent.wire());
            assert!(!wire.contains("SIMPLE") && !wire.contains("ADVANCED"), "nor how hard it is");
            let (_, prompt, _) = state.open(sent);
            let body: serde_json::Value = serde_json::from_slice(&prompt.body).unwrap();
            assert_eq!(body["model"], sent.header().terms.model.as_str());
        }
    });
}

#[tokio::test]
async fn a_question_without_a_model_is_asked_at_own_nodes_where_these_are_good_enough() {
    let network = Network::start(2).await;
    offer(&network, &[("small", 3, 90), ("large", 70, 25)]);
    let own = network.with(|state| state.nodes[0].id());
    let hard = "Prove that the square root of 2 is irrational.";
    let client = builder(&network).with_own_node(own).build().unwrap();
    assert_eq!(routed(&client, "iris/any", "What is a noun?").await.unwrap(), "small");
    assert_eq!(routed(&client, "iris/any", hard).await.unwrap(), "large");
    let client = client.with_policy(Policy::Own);
    assert_eq!(routed(&client, "iris/any", hard).await.unwrap(), "small");
    let client = builder(&network).with_policy(Policy::Own).build().unwrap();
    assert_eq!(routed(&client, "iris/any", hard).await, Err(ClientError::NoOwnNode));
}

#[tokio::test]
async fn a_family_that_nobody_offers_is_not_found_and_one_that_is_away_is() {
    let network = Network::start(1).await;
    let client = client(&network);
    let refused =
        |error: ClientError| error.refusal().map(|it| (it.status, it.detail.code.clone()));
    let asked = routed(&client, "iris/family:mistral", "hi").await.unwrap_err();
    assert_eq!(refused(asked), Some((404, Some("model_not_found".to_owned()))));
    let asked = routed(&client, "iris/family:", "hi").await.unwrap_err();
    assert_eq!(refused(asked).unwrap().0, 400);
    let network = Network::start(1).await;
    network.with(|state| state.away.push("mistral-7b".to_owned()));
    let asked = routed(&self::client(&network), "iris/family:mistral", "hi").await.unwrap_err();
    assert_eq!(refused(asked).unwrap().0, 503);
    // Its node is there, and paused.
    let network = Network::start(1).await;
    network.with(|state| state.nodes[0].slots = 0);
    let asked = routed(&self::client(&network), "iris/any", "hi").await.unwrap_err();
    assert_eq!(refused(asked), Some((503, Some("no_node_online".to_owned()))));
}
