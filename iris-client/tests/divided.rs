//! Divided work from the command line, as its users ask for it.
#![cfg(feature = "cli")]
#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use support::sealed::*;
use support::*;
use tokio::process::Command;

const NOWHERE: &str = "http://127.0.0.1:1";

const PLAN: &str = r#"
[[steps]]
name = "first"
prompt = "What is {{ input }}?"

[[steps]]
name = "second"
prompt = "Shorter: {{ first }}"
"#;

/// A home folder with a plan in it.
struct Home(tempfile::TempDir);

impl Home {
    fn with(plan: &str) -> Self {
        let home = Self(tempfile::tempdir().expect("there is room"));
        std::fs::write(home.plan(), plan).expect("there is room");
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn plan(&self) -> PathBuf {
        self.path().join("plan.toml")
    }

    async fn iris(&self, url: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_iris"))
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("IRIS_URL", url)
            .env("HOME", self.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the command was built")
    }
}

fn out(ran: &Output) -> &str {
    std::str::from_utf8(&ran.stdout).expect("the command writes UTF-8")
}

fn err(ran: &Output) -> &str {
    std::str::from_utf8(&ran.stderr).expect("the command writes UTF-8")
}

/// A network whose nodes repeat what they are asked.
async fn echoing(nodes: usize) -> Network {
    let network = Network::start(nodes).await;
    network.on_sealed(|state, request| {
        let (_, prompt, _) = state.open(&request);
        let body: serde_json::Value = serde_json::from_slice(&prompt.body).expect("it is JSON");
        let asked = body["messages"][0]["content"].as_str().expect("it is a text").to_owned();
        sealed(&state.records(&request, &format!("<{asked}>")))
    });
    network
}

#[tokio::test]
async fn a_plan_is_carried_out_and_its_steps_are_told() {
    let (network, home) = (echoing(2).await, Home::with(PLAN));
    let ran = home.iris(&network.url, &["run", "plan.toml", "a", "cat", "-m", "m"]).await;
    assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
    assert_eq!(out(&ran), "<Shorter: <What is a cat?>>\n");
    let told: Vec<_> = err(&ran).lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(told, ["first", "second"]);
    let json = home.iris(&network.url, &["run", "plan.toml", "x", "-m", "m", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(out(&json)).unwrap();
    assert_eq!(json["end"], "finished");
    assert_eq!(json["privacy"], "sealed");
    assert_eq!(json["steps"][1]["text"], "<Shorter: <What is x?>>");
    network.with(|state| assert!(state.calls.iter().all(|c| !c.contains("/inference"))));
}

#[tokio::test]
async fn a_plan_is_checked_and_drawn_without_asking_anybody() {
    let home = Home::with(PLAN);
    let ran = home.iris(NOWHERE, &["run", "plan.toml", "--check"]).await;
    assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
    assert!(out(&ran).contains("first") && out(&ran).contains("second"));
    let ran = home.iris(NOWHERE, &["run", "plan.toml", "--picture", "mermaid"]).await;
    assert!(out(&ran).starts_with("flowchart"), "{}", out(&ran));
}

#[tokio::test]
async fn mistakes_are_named_by_member_and_line() {
    for (plan, said) in [
        (PLAN.replace("{{ first }}", "{{ frist }}"), "line 8: steps[1].prompt"),
        (PLAN.replace("\"second\"", "\"a b\""), "line 7: steps[1].name"),
        (PLAN.replace("[[steps]]", "[[steps"), "line 2: "),
        (format!("surprise = 1\n{PLAN}"), "line 1: surprise"),
    ] {
        let home = Home::with(&plan);
        let ran = home.iris(NOWHERE, &["run", "plan.toml", "x", "-m", "m"]).await;
        assert_eq!((ran.status.code(), out(&ran)), (Some(2), ""), "{}", err(&ran));
        assert!(err(&ran).contains(said), "{said}: {}", err(&ran));
    }
    let home = Home::with(PLAN);
    let ran = home.iris(NOWHERE, &["run", "plan.toml", "-m", "m"]).await;
    assert_eq!(ran.status.code(), Some(2));
    assert!(err(&ran).contains("{{ input }}"), "{}", err(&ran));
}

#[tokio::test]
async fn what_a_budget_leaves_is_printed_and_is_no_success() {
    let (network, home) = (echoing(1).await, Home::with(PLAN));
    let args = ["run", "plan.toml", "x", "-m", "m", "--budget-assignments", "1"];
    let ran = home.iris(&network.url, &args).await;
    assert_eq!((ran.status.code(), out(&ran)), (Some(7), "<What is x?>\n"), "{}", err(&ran));
    assert!(err(&ran).contains("budget of assignments"), "{}", err(&ran));
}

#[tokio::test]
async fn consensus_asks_different_owners_and_says_when_they_do_not_agree() {
    let (network, home) = (Network::start(3).await, Home::with(""));
    let ask = ["ask", "--mode", "consensus", "--agree", "number", "-m", "m", "How many?"];
    network.on_sealed(|state, request| sealed(&state.records(&request, "It is 42 .")));
    let ran = home.iris(&network.url, &ask).await;
    assert_eq!((ran.status.code(), out(&ran)), (Some(0), "It is 42 .\n"), "{}", err(&ran));
    assert!(err(&ran).contains("answers agree"), "{}", err(&ran));
    let nodes = network.with(|state| {
        state
            .asked
            .iter()
            .map(|asked| state.addressee(asked))
            .collect::<std::collections::BTreeSet<_>>()
    });
    assert!(nodes.len() >= 2, "{nodes:?}");
    // Each node says another number.
    network.on_sealed(|state, request| {
        let number = state.addressee(&request).to_string();
        sealed(&state.records(&request, &number))
    });
    let ran = home.iris(&network.url, &ask).await;
    assert_eq!((ran.status.code(), out(&ran)), (Some(7), ""), "{}", err(&ran));
    assert!(err(&ran).contains("tied") || err(&ran).contains("agree"), "{}", err(&ran));
}

#[tokio::test]
async fn what_is_for_divided_work_is_refused_where_nothing_is_divided() {
    let home = Home::with("");
    for args in [
        &["--spread"][..],
        &["--budget-tokens", "5"],
        &["--replicas", "3"],
        &["--smooth"],
        &["--mode", "sideways"],
        &["--mode", "consensus", "--agree", "choice=yes"],
        &["--mode", "consensus", "--replicas", "17"],
        &["--file", "nothere.txt"],
    ] {
        let args = [&["ask", "-m", "m", "x"], args].concat();
        assert_eq!(home.iris(NOWHERE, &args).await.status.code(), Some(2), "{args:?}");
    }
    let open = ["ask", "--open", "--mode", "consensus", "-m", "m", "x"];
    let nodes = r#"{"nodes":[{"id":"abcdefghijklmnopqrstuvwx27","tier":"BASIC","points":1,
        "models":[{"name":"m","context_length":4096}],"slots":1,"running":0,"connected":1,
        "version":"1"}]}"#;
    let coordinator = Scripted::always(move || json(200, &[], nodes)).await;
    let ran = home.iris(&coordinator.url, &open).await;
    assert_eq!(ran.status.code(), Some(2), "{}", err(&ran));
    assert!(err(&ran).contains("submit"), "{}", err(&ran));
}

#[tokio::test]
async fn too_few_owners_are_told_with_what_would_help() {
    let (network, home) = (echoing(5).await, Home::with(""));
    let ask = ["ask", "--mode", "consensus", "--replicas", "5", "--agree", "json", "-m", "m", "x"];
    network.on_sealed(|state, request| {
        // Two answers too few for three to be of one mind.
        let number = state.addressee(&request).to_string();
        sealed(&state.records(&request, &number))
    });
    let ran = home.iris(&network.url, &ask).await;
    assert_eq!((ran.status.code(), out(&ran)), (Some(7), ""), "{}", err(&ran));
    assert!(err(&ran).contains("different owners"), "{}", err(&ran));
}

#[tokio::test]
async fn a_plan_is_handed_in_followed_and_decided() {
    let told = [
        r#"{"event":"added","unit":"a"}"#,
        r#"{"event":"from_the_future","x":1}"#,
        r#"{"event":"text","text":"hel"}"#,
        r#"{"event":"text","text":"lo"}"#,
        r#"{"event":"ended","end":"finished","output":{"text":"hello","finish_reason":"stop"}}"#,
    ];
    let stream = told.map(|event| format!("data: {event}\n\n")).concat();
    let units = r#"[{"unit":"a","state":"finished","assignments":1,"took_ms":1500,
        "usage":{"prompt_tokens":3,"completion_tokens":4}},
        {"unit":"pick","state":"review","assignments":0,
        "usage":{"prompt_tokens":0,"completion_tokens":0}}]"#;
    let units: serde_json::Value = serde_json::from_str(units).unwrap();
    let status = serde_json::json!({ "id": TASK, "status": "running", "created": 1, "model": "m",
        "mode": "chained", "steps": units, "reviews": [{ "step": "pick", "choices": ["a", "b"] }] });
    let coordinator = Scripted::start(move |_, seen| match seen.call.as_str() {
        call if call.ends_with("/events") => events(vec![stream.clone()]),
        call if call.ends_with("/review") => json(200, &[], &task("finished", Some("a"))),
        "POST /inference" => json(202, &[], &task("submitted", None)),
        _ => json(200, &[], &status.to_string()),
    })
    .await;
    let home = Home::with(PLAN);
    let submit = ["task", "submit", "--plan", "plan.toml", "x", "-m", "m", "--priority", "low"];
    let ran = home.iris(&coordinator.url, &submit).await;
    assert_eq!((ran.status.code(), out(&ran).trim_end()), (Some(0), TASK), "{}", err(&ran));
    let body = &coordinator.seen()[0].body;
    assert_eq!((&body["priority"], &body["plan"]["input"]), (&"low".into(), &"x".into()));
    assert_eq!(
        (&body["plan"]["model"], &body["plan"]["steps"][1]["name"]),
        (&"m".into(), &"second".into())
    );

    let ran = home.iris(&coordinator.url, &["task", "follow", TASK]).await;
    assert_eq!((ran.status.code(), out(&ran)), (Some(0), "hello\n"), "{}", err(&ran));
    let ran = home.iris(&coordinator.url, &["task", "status", TASK]).await;
    assert!(
        out(&ran).contains("1 of 2 parts") && out(&ran).contains("--step pick --choose a or b")
    );
    assert!(out(&ran).lines().all(|line| line.chars().count() <= 80), "{}", out(&ran));
    let review = ["task", "review", TASK, "--step", "pick", "--choose", "a"];
    let ran = home.iris(&coordinator.url, &review).await;
    assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
    let seen = coordinator.seen();
    let decision = &seen.last().unwrap().body;
    assert_eq!(*decision, serde_json::json!({ "step": "pick", "choose": "a" }));
    for wrong in [&review[..5], &[&review[..], &["--text", "t"]].concat()] {
        assert_eq!(home.iris(&coordinator.url, wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_plan_that_is_handed_in_has_the_budget_of_the_flags() {
    let coordinator = Scripted::always(|| json(202, &[], &task("submitted", None))).await;
    let submit = ["task", "submit", "--plan", "plan.toml", "x", "-m", "m"];
    let all = ["--budget-tokens", "100", "--budget-seconds", "60", "--budget-assignments", "7"];
    let budget = "budget = { tokens = 5, assignments = 3 }\n";
    for (plan, flags, meant) in [
        ("", &all[..], r#"{"tokens":100,"seconds":60,"assignments":7}"#),
        (budget, &all[..4], r#"{"tokens":100,"seconds":60,"assignments":3}"#),
        (budget, &[], r#"{"tokens":5,"assignments":3}"#),
    ] {
        let home = Home::with(&format!("{plan}{PLAN}"));
        let ran = home.iris(&coordinator.url, &[&submit[..], flags].concat()).await;
        assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
        let seen = coordinator.seen();
        let meant: serde_json::Value = serde_json::from_str(meant).unwrap();
        assert_eq!(seen.last().unwrap().body["plan"]["budget"], meant, "{flags:?}");
    }
    let home = Home::with(&format!("budget = 5\n{PLAN}"));
    let ran = home.iris(NOWHERE, &[&submit[..], &all].concat()).await;
    assert_eq!(ran.status.code(), Some(2));
    assert!(err(&ran).contains("line 1: budget"), "{}", err(&ran));
}

#[tokio::test]
async fn a_followed_task_that_breaks_off_is_no_success() {
    let coordinator = Scripted::always(|| {
        events(vec!["data: {\"event\":\"text\",\"text\":\"half\"}\n\n".to_owned()])
    })
    .await;
    let ran = Home::with("").iris(&coordinator.url, &["task", "follow", TASK]).await;
    assert_eq!((ran.status.code(), out(&ran)), (Some(7), "half"), "{}", err(&ran));
}
