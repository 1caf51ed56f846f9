//! The `iris` command, run as its users run it.
#![cfg(feature = "cli")]
#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use support::command::*;
use support::*;
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn an_answer_is_printed_and_any_model_may_give_it() {
    let coordinator = Scripted::always(|| {
        events(vec![chunk("Hello, "), chunk("you"), finish("length"), DONE.to_owned()])
    })
    .await;
    let ran =
        run(&coordinator.url, &["ask", "--open", "who", "is", "there?", "--temperature", "0.5"])
            .await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "Hello, you\n"), "{}", ran.err);
    assert!(ran.err.contains("--max-tokens"), "{}", ran.err);
    let asked = &coordinator.seen()[0];
    assert_eq!(asked.body["model"], "iris/any");
    assert_eq!(asked.body["messages"][0]["content"], "who is there?");
    assert_eq!(asked.body["temperature"], 0.5);
}

#[tokio::test]
async fn the_question_can_come_from_standard_input_and_the_answer_as_json() {
    let coordinator = Scripted::always(|| json(200, &[], &answer("hi"))).await;
    let ran =
        run_with(&coordinator.url, &["ask", "--open", "-", "-m", "m", "--json"], "long\nquestion")
            .await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let printed: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(printed["choices"][0]["message"]["content"], "hi");
    assert_eq!(coordinator.seen()[0].body["messages"][0]["content"], "long\nquestion");
}

#[tokio::test]
async fn exit_codes_tell_causes_apart() {
    for (status, code, exit) in [
        (401, "invalid_login", 3),
        (404, "model_not_found", 4),
        (429, "rate_limit_exceeded", 5),
        (503, "no_node", 5),
        (400, "invalid", 6),
        (413, "too_large", 6),
        (500, "server_error", 7),
    ] {
        let coordinator = Scripted::always(move || refusal(status, code)).await;
        for args in [
            &["ask", "--open", "hi", "-m", "m"][..],
            &["ask", "--open", "hi", "-m", "m", "--no-stream"],
        ] {
            let ran = run(&coordinator.url, args).await;
            assert_eq!((ran.code, ran.out.as_str()), (Some(exit), ""), "{status}: {}", ran.err);
            assert!(ran.err.contains(code) && ran.err.contains("req-1"), "{}", ran.err);
        }
    }
}

#[tokio::test]
async fn half_an_answer_is_printed_and_is_a_failure() {
    let coordinator = Scripted::always(|| events(vec![chunk("half an")])).await;
    let ran = run(&coordinator.url, &["ask", "--open", "hi", "-m", "m"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(7), "half an\n"), "{}", ran.err);
}

#[tokio::test]
async fn wrong_usage_and_unreachable_networks_have_their_codes() {
    let nowhere = "http://127.0.0.1:1";
    for args in [&["ask"][..], &["sing"], &["ask", ""], &["ask", "hi", "--temperature", "9"]] {
        assert_eq!(run(nowhere, args).await.code, Some(2), "{args:?}");
    }
    assert_eq!(run(nowhere, &["ask", "-"]).await.code, Some(2), "standard input is empty");
    assert_eq!(run(nowhere, &["ask", "hi", "-m", "m"]).await.code, Some(8));
}

#[tokio::test]
async fn of_several_coordinators_the_first_that_answers_is_used() {
    let coordinator = Scripted::always(|| json(200, &[], &models(&["a"]))).await;
    let urls = format!("http://127.0.0.1:1,{}", coordinator.url);
    let ran = run(&urls, &["models"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "a\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_key_is_not_sent_in_clear_to_another_machine() {
    let mut command = iris("http://192.0.2.1", &["models"]);
    let child = command.env("IRIS_API_KEY", "iris_hidden").spawn().unwrap();
    let ran = finish_with(child, "").await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("--allow-plain-http") && !ran.err.contains("hidden"), "{}", ran.err);
}

#[tokio::test]
async fn settings_are_printed_without_the_key() {
    let mut command = iris("http://from-environment", &["--print-config", "--timeout", "7"]);
    let ran = finish_with(command.env("IRIS_API_KEY", "iris_hidden").spawn().unwrap(), "").await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("from-environment") && ran.out.contains("timeout_secs = 7"));
    assert!(!ran.out.contains("hidden"));
}

#[tokio::test]
async fn an_account_becomes_a_key_without_passing_through_arguments() {
    let coordinator = Scripted::start(|_, seen| match seen.call.as_str() {
        "POST /accounts/generate" => {
            let account = format!(r#"{{"account":"{TASK}","account_key":"1234567890123456"}}"#);
            json(201, &[], &account)
        }
        _ => json(201, &[], &new_key("node")),
    })
    .await;
    let ran = run(&coordinator.url, &["account", "new"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "1234 5678 9012 3456\n"), "{}", ran.err);
    let args = ["keys", "new", "--scope", "node"];
    let ran = run_with(&coordinator.url, &args, "1234 5678-9012 3456\n").await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "iris_new\n"), "{}", ran.err);
    assert_eq!(coordinator.seen()[1].body["account_key"], "1234567890123456");
    assert_eq!(coordinator.seen()[1].body["scope"], "node");

    let ran = run_with(&coordinator.url, &args, "12345").await;
    assert_eq!((ran.code, coordinator.seen().len()), (Some(2), 2));
    assert!(!ran.err.contains("12345"), "{}", ran.err);
}

#[tokio::test]
async fn a_task_is_submitted_and_its_end_decides_the_exit_code() {
    let coordinator = Scripted::start(|_, seen| match seen.call.as_str() {
        "POST /inference" => json(202, &[], &task("submitted", None)),
        _ => json(200, &[], &task("finished", Some("hello"))),
    })
    .await;
    let ran = run(&coordinator.url, &["task", "submit", "hi", "-m", "m", "--deadline", "9"]).await;
    assert_eq!((ran.code, ran.out.trim_end()), (Some(0), TASK), "{}", ran.err);
    assert_eq!(coordinator.seen()[0].body["deadline_ms"], 9000);
    let ran = run(&coordinator.url, &["task", "wait", TASK]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "hello\n"), "{}", ran.err);

    let coordinator = Scripted::always(|| json(200, &[], &task("expired", None))).await;
    assert_eq!(run(&coordinator.url, &["task", "wait", TASK]).await.code, Some(7));
    let ran = run(&coordinator.url, &["task", "status", TASK]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "expired\n"));
}

#[tokio::test]
async fn a_task_is_explained_in_sentences() {
    let explanation = serde_json::json!({ "task": TASK, "node": NODE,
        "reasons": [{ "node": NODE, "reason": "chosen", "sentence": "It was the best." }],
        "skipped": [{ "reason": "no_free_slot", "count": 4 }] })
    .to_string();
    let coordinator = Scripted::always(move || json(200, &[], &explanation)).await;
    let ran = run(&coordinator.url, &["task", "explain", TASK]).await;
    let lines = format!("{NODE}: It was the best.\n4 more: no_free_slot\n");
    assert_eq!((ran.code, &ran.out), (Some(0), &lines), "{}", ran.err);
    assert_eq!(coordinator.seen()[0].call, format!("GET /inference/{TASK}/explain"));

    let reasons =
        r#""reasons":[{"node":"abcdefghijklmnopqrstuvwx27","reason":"chosen","sentence":"Good."}]"#;
    let choice = format!(r#""node":"abcdefghijklmnopqrstuvwx27",{reasons},"skipped":[]"#);
    let twice = format!(r#"{{"task":"{TASK}",{choice},"earlier":[{{{choice}}}]}}"#);
    let coordinator = Scripted::always(move || json(200, &[], &twice)).await;
    let ran = run(&coordinator.url, &["task", "explain", TASK]).await;
    let choice = "abcdefghijklmnopqrstuvwx27: Good.\n";
    let between = "That node did not stay with it. The next choice:\n";
    assert_eq!(ran.out, [choice, between, choice].concat(), "{}", ran.err);
}

#[tokio::test]
async fn health_is_a_line() {
    let health = r#"{"status":"ok","version":"0.1.0","nodes":3,"models":1}"#;
    let coordinator = Scripted::always(move || json(200, &[], health)).await;
    let ran = run(&coordinator.url, &["health"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "ok: 3 nodes, 1 model\n"), "{}", ran.err);
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_ends_with_130_and_cancels_the_request() {
    let (left, gone) = tokio::sync::oneshot::channel::<()>();
    let left = std::sync::Mutex::new(Some(left));
    let coordinator = Scripted::always(move || {
        // Dropped with the response, when the caller has gone.
        let guard = left.lock().expect("nobody panics here").take();
        let pieces = futures::stream::unfold((guard, false), |(guard, said)| async move {
            if said {
                std::future::pending::<()>().await;
            }
            Some((chunk("half"), (guard, true)))
        });
        event_stream(pieces)
    })
    .await;
    let mut child = iris(&coordinator.url, &["ask", "--open", "hi", "-m", "m"]).spawn().unwrap();
    let mut begun = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).await.unwrap();
    let id = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    assert_eq!(finish_with(child, "").await.code, Some(130));
    assert!(gone.await.is_err(), "the response is dropped");
}

#[cfg(unix)]
#[tokio::test]
async fn a_reader_that_has_seen_enough_is_not_an_error() {
    let coordinator = Scripted::always(|| event_stream(futures::stream::repeat(chunk("x")))).await;
    let mut child = iris(&coordinator.url, &["ask", "--open", "hi", "-m", "m"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = finish_with(child, "").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn questions_are_sealed_and_json_tells_who_could_read_them() {
    let network = sealed::Network::start(2).await;
    let home = tempfile::tempdir().unwrap();
    let ask = |args: &[&str]| {
        let args: Vec<_> =
            ["ask", "hi", "-m", "m"].iter().chain(args).map(|a| (*a).to_owned()).collect();
        let (url, home) = (network.url.clone(), home.path().to_owned());
        async move {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            run_at_home(&url, &home, &args).await
        }
    };
    for args in [&[][..], &["--no-stream"], &["--shape", "off"]] {
        let ran = ask(args).await;
        let said = (ran.code, ran.out.as_str(), ran.err.as_str());
        assert_eq!(said, (Some(0), "hello there\n", ""), "{args:?}");
    }
    let ran = ask(&["--json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(printed["choices"][0]["message"]["content"], "hello there");
    assert_eq!(
        (&printed["iris"]["privacy"], &printed["iris"]["receipt"]),
        (&"sealed".into(), &"held".into())
    );
    network.with(|state| assert!(!state.calls.iter().any(|call| call.contains("/v1/"))));
    // What was trusted is remembered in a file of this coordinator's.
    let files: Vec<_> = std::fs::read_dir(home.path().join(".local/state/iris")).unwrap().collect();
    assert!(!files.is_empty());
}

#[tokio::test]
async fn what_privacy_cannot_be_vouched_for_ends_with_9() {
    let home = tempfile::tempdir().unwrap();
    let network = sealed::Network::start(1).await;
    let ask = &["ask", "hi", "-m", "m"][..];
    assert_eq!(run_at_home(&network.url, home.path(), ask).await.code, Some(0));
    // No node of one's own, and none is asked in its place.
    let own = run_at_home(&network.url, home.path(), &[ask, &["--own"]].concat()).await;
    assert_eq!((own.code, own.out.as_str()), (Some(9), ""), "{}", own.err);
    assert!(own.err.contains("iris trust pin"), "{}", own.err);
    // Another log than before.
    network.with(|state| state.fork(7));
    let forked = run_at_home(&network.url, home.path(), ask).await;
    assert_eq!((forked.code, forked.out.as_str()), (Some(9), ""), "{}", forked.err);
    assert!(forked.err.contains(".fork-"), "{}", forked.err);
    // A server that does not seal.
    let coordinator = Scripted::always(|| refusal(404, "not_found")).await;
    let refused = run_at_home(&coordinator.url, home.path(), ask).await;
    assert_eq!((refused.code, refused.out.as_str()), (Some(9), ""), "{}", refused.err);
    assert!(coordinator.seen().iter().all(|seen| !seen.call.contains("/v1/")));
}

#[tokio::test]
async fn own_nodes_are_pinned_asked_and_unpinned() {
    let home = tempfile::tempdir().unwrap();
    let network = sealed::Network::start(3).await;
    let node = network.with(|state| state.nodes[1].id().to_string());
    let run = |args: &'static [&'static str], node: Option<String>| {
        let (url, home) = (network.url.clone(), home.path().to_owned());
        async move {
            let args: Vec<_> = args.iter().copied().chain(node.as_deref()).collect();
            run_at_home(&url, &home, &args).await
        }
    };
    assert_eq!(run(&["trust", "pin"], Some(node.clone())).await.code, Some(0));
    assert_eq!(run(&["trust", "pin", "nonsense"], None).await.code, Some(2));
    let asked = run(&["ask", "--own", "--json", "hi", "-m", "m"], None).await;
    let printed: serde_json::Value = serde_json::from_str(&asked.out).unwrap();
    assert_eq!(
        (&printed["iris"]["privacy"], &printed["iris"]["node"]),
        (&"own".into(), &node.clone().into())
    );
    let shown = run(&["trust", "show"], None).await;
    let coordinator = network.with(|state| state.coordinator.public().to_string());
    assert!(shown.out.contains(&node) && shown.out.contains(&coordinator), "{}", shown.out);
    let shown = run(&["trust", "show", "--json"], None).await;
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(
        (&shown["own"], &shown["coordinator"]),
        (&serde_json::json!([node]), &coordinator.into())
    );
    assert_eq!(run(&["trust", "reset"], None).await.code, Some(0));
    assert_eq!(run(&["trust", "unpin"], Some(node)).await.code, Some(0));
    let asked = run(&["ask", "--own", "hi", "-m", "m"], None).await;
    assert_eq!(asked.code, Some(9), "{}", asked.err);
}

#[tokio::test]
async fn the_log_is_shown_checked_and_read_whole() {
    let home = tempfile::tempdir().unwrap();
    let network = sealed::Network::start(2).await;
    let ask = ["ask", "hi", "-m", "m"];
    assert_eq!(run_at_home(&network.url, home.path(), &ask).await.code, Some(0));
    let shown = run_at_home(&network.url, home.path(), &["log", "show"]).await;
    assert!(shown.out.starts_with("iris-log/"), "{} {}", shown.out, shown.err);
    let file = home.path().join("seen.txt");
    std::fs::write(&file, &shown.out).unwrap();
    let check = ["log", "check", file.to_str().unwrap()];
    let checked = run_at_home(&network.url, home.path(), &check).await;
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let read = run_at_home(&network.url, home.path(), &["log", "monitor", "--once"]).await;
    assert!(read.out.contains("2 certificates, 1 rosters"), "{} {}", read.out, read.err);
    // Somebody else was shown another log, by the same coordinator.
    let other = network.with(|state| {
        let mut log = sealed::Log::default();
        for number in 0..3 {
            log.append(&iris_crypto::log::Entry::Roster([number; 32]));
        }
        log.checkpoint(&state.coordinator)
    });
    std::fs::write(&file, other).unwrap();
    let checked = run_at_home(&network.url, home.path(), &check).await;
    assert_eq!((checked.code, checked.out.as_str()), (Some(9), ""), "{}", checked.err);
}

#[cfg(all(feature = "proxy", unix))]
#[tokio::test]
async fn the_proxy_prints_its_address_answers_and_stops_when_told() {
    let network = sealed::Network::start(1).await;
    let mut child = iris(&network.url, &["proxy", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut address = String::new();
    let mut lines = tokio::io::BufReader::new(child.stdout.as_mut().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut address).await.unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let url = format!("{}/chat/completions", address.trim());
    let answer = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    assert_eq!(answer.headers()["x-iris-privacy"], "sealed");
    drop(answer);
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(finish_with(child, "").await.code, Some(0));
    let refused = run(&network.url, &["proxy", "--listen", "0.0.0.0:8088"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("loopback"), "{}", refused.err);
}
