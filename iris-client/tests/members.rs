//! The commands about members and the network: what people read in 80 columns, and programs as JSON.
#![cfg(feature = "cli")]
#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json as value};
use support::command::*;
use support::*;

/// The time so many seconds ago.
fn ago(secs: u64) -> u64 {
    let now = SystemTime::now() - Duration::from_secs(secs);
    now.duration_since(SystemTime::UNIX_EPOCH).expect("the clock is right").as_secs()
}

/// The time in so many seconds.
fn within(secs: u64) -> u64 {
    ago(0) + secs
}

/// A coordinator that answers `call` with `body`, and everything else with 404.
async fn with(call: &'static str, body: Value) -> Scripted {
    let body = body.to_string();
    Scripted::start(move |_, seen| {
        if seen.call == call { json(200, &[], &body) } else { refusal(404, "not_found") }
    })
    .await
}

/// Compares what a command prints for people, line by line.
async fn prints(url: &str, args: &[&str], expected: &str) {
    let ran = run(url, args).await;
    assert_eq!((ran.code, ran.out.trim_end()), (Some(0), expected.trim()), "{args:?} {}", ran.err);
    let is_wide = args.contains(&"--wide");
    assert!(is_wide || ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);
}

/// Compares what a command prints for programs.
async fn prints_json(url: &str, args: &[&str], expected: &Value) {
    let args = [args, &["--json"]].concat();
    assert_eq!(&run(url, &args).await.json(), expected, "{args:?}");
}

fn session() -> String {
    value!({ "account": TASK, "access_token": "access", "token_type": "bearer",
        "expires_in": 900, "refresh_token": "refresh" })
    .to_string()
}

#[tokio::test]
async fn whoever_registers_is_logged_in_until_logging_out() {
    let coordinator = Scripted::start(|_, seen| match seen.call.as_str() {
        "POST /auth/register" | "POST /auth/login" => json(200, &[], &session()),
        "POST /auth/logout" => json(204, &[], ""),
        _ => refusal(404, "not_found"),
    })
    .await;
    let (url, folder) = (coordinator.url.as_str(), tempfile::tempdir().unwrap());
    let home = folder.path();
    let register = ["register", "--email", "ann@example.org", "--invitation"];
    let input = "a good password\niris_invite_a\n";
    let ran = answer_at_home(url, home, &register, input).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    let welcome = format!(
        "iris: welcome: you have the account {TASK} at {url}/\n\
         iris: next: iris ask \"Why is the sky blue?\"\n"
    );
    assert_eq!(ran.err, welcome);
    let sent = value!({ "email": "ann@example.org", "password": "a good password",
        "invitation": "iris_invite_a" });
    assert_eq!(coordinator.seen()[0].body, sent);

    let out = run_at_home(url, home, &["logout"]).await;
    assert_eq!((out.code, out.err.as_str()), (Some(0), "iris: logged out\n"));
    let out = run_at_home(url, home, &["logout"]).await;
    assert_eq!((out.code, out.err.as_str()), (Some(0), "iris: nobody was logged in\n"));

    let login = ["login", "--email", "ann@example.org", "--json"];
    let ran = answer_at_home(url, home, &login, "a good password\n").await;
    let printed = ran.json();
    assert_eq!(printed["account"], TASK);
    let file = printed["session_file"].as_str().expect("a session is kept in a file");
    assert!(std::path::Path::new(file).starts_with(home) && std::fs::exists(file).unwrap());
    let out = run_at_home(url, home, &["logout", "--json"]).await;
    assert_eq!(out.json(), value!({ "was_logged_in": true }));
    assert!(!std::fs::exists(file).unwrap());
    let calls: Vec<_> = coordinator.seen().into_iter().map(|seen| seen.call).collect();
    let expected =
        ["POST /auth/register", "POST /auth/logout", "POST /auth/login", "POST /auth/logout"];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn digits_log_in_as_they_are_written_down() {
    let coordinator = Scripted::always(|| json(200, &[], &session())).await;
    let home = tempfile::tempdir().unwrap();
    let login = ["login", "--digits"];
    let ran = answer_at_home(&coordinator.url, home.path(), &login, "1234 5678-9012 3456\n").await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(coordinator.seen()[0].body, value!({ "account_key": "1234567890123456" }));
}

#[tokio::test]
async fn what_is_missing_is_named_and_nothing_is_sent() {
    let coordinator = Scripted::always(|| json(200, &[], &session())).await;
    for (args, input, told) in [
        (&["login"][..], "", "--email"),
        (
            &["login", "--digits"],
            "",
            "the account's 16 digits: write a line there, or set IRIS_ACCOUNT_KEY",
        ),
        (
            &["login", "--email", "a@b.org"],
            "",
            "the password: write a line there, or set IRIS_PASSWORD",
        ),
        (
            &["login", "--email", "a@b.org"],
            "\n",
            "the password: write a line there, or set IRIS_PASSWORD",
        ),
        (&["register"], "a@b.org\n", "--email"),
        (&["register", "--email", "a"], "", "ann@example.org"),
        (&["register", "--email", "a@b.org"], "2short\n", "8 characters"),
        (
            &["register", "--email", "a@b.org", "--invitation"],
            "a good password\n",
            "IRIS_INVITATION",
        ),
        (&["account", "new", "--invitation"], "", "IRIS_INVITATION"),
        (&["account", "password"], "", "IRIS_PASSWORD"),
        (&["account", "password"], "a good password\n", "IRIS_NEW_PASSWORD"),
        (&["keys", "new"], "", "IRIS_ACCOUNT_KEY"),
        (
            &["keys", "new", "--scope", "admin"],
            "1234567890123456\n",
            "[possible values: inference, node]",
        ),
        (
            &["keys", "new", "--scope", "read"],
            "1234567890123456\n",
            "[possible values: inference, node]",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let ran = answer_at_home(&coordinator.url, home.path(), args, input).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?} {}", ran.err);
        assert!(ran.err.contains(told), "{args:?} {}", ran.err);
    }
    assert!(coordinator.seen().is_empty());
}

const LOGIN: &[&str] = &["login", "--email", "a@b.org"];
const REGISTER: &[&str] = &["register", "--email", "a@b.org"];

#[tokio::test]
async fn refusals_say_what_to_do_and_say_it_once() {
    let told = |status, code: &'static str, message: &'static str, args: &'static [&str]| async move {
        let body =
            value!({ "error": { "message": message, "type": "t", "param": null, "code": code } });
        let body = body.to_string();
        let coordinator =
            Scripted::always(move || json(status, &[("retry-after", "59")], &body)).await;
        let home = tempfile::tempdir().unwrap();
        let ran = answer_at_home(&coordinator.url, home.path(), args, "a good password\n").await;
        (ran.code, ran.err)
    };
    let busy = "too many attempts; try again in 59 s";
    let said = "iris: too many requests: too many attempts; try again in 59 s (request req-1)\n";
    assert_eq!(told(429, "rate", busy, LOGIN).await, (Some(5), said.to_owned()));
    assert_eq!(told(429, "rate", "too many attempts.", LOGIN).await, (Some(5), said.to_owned()));
    let (code, said) = told(403, "invitation_required", "by invitation only", REGISTER).await;
    assert!(code == Some(3) && said.contains("`--invitation` then asks you for it"), "{said}");
    let (code, said) = told(401, "invalid_login", "the password is wrong", LOGIN).await;
    assert!(code == Some(3) && said.contains("the password is wrong"), "{said}");
    let (code, said) = told(401, "invalid_api_key", "Send it as 'Authorization'", &["stats"]).await;
    assert!(code == Some(3) && said.contains("log in with `iris login`"), "{said}");
    assert!(!said.contains("Authorization"), "{said}");
}

#[tokio::test]
async fn an_account_is_shown_line_by_line() {
    for (membership, said) in [
        (value!({ "state": "free" }), "free: the network takes no fee"),
        (value!({ "state": "trial", "until": within(7 * 86_400) }), "on trial; ends in 7 days"),
        (value!({ "state": "lapsed" }), "the fee was not paid: only your own nodes answer"),
    ] {
        let me = value!({ "account": TASK, "email": "ann@example.org", "created": ago(200),
            "membership": membership, "keys": 1 });
        let coordinator = with("GET /auth/me", me.clone()).await;
        let shown = format!(
            "account     {TASK}\n\
             e-mail      ann@example.org\n\
             opened      3 min ago\n\
             membership  {said}\n\
             keys        1 API key"
        );
        prints(&coordinator.url, &["account", "show"], &shown).await;
        prints_json(&coordinator.url, &["account", "show"], &me).await;
    }
}

#[tokio::test]
async fn a_password_is_changed_and_the_session_with_it() {
    let coordinator = Scripted::always(|| json(200, &[], &session())).await;
    let folder = tempfile::tempdir().unwrap();
    let (url, home) = (coordinator.url.as_str(), folder.path());
    let login = ["login", "--email", "ann@example.org"];
    assert_eq!(answer_at_home(url, home, &login, "a good password\n").await.code, Some(0));
    let change = ["account", "password"];
    let ran = answer_at_home(url, home, &change, "a good password\na better password\n").await;
    let said = "iris: the password is changed, and all other sessions have ended\n";
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), said));
    let seen = &coordinator.seen()[1];
    assert_eq!(seen.call, "POST /auth/password");
    assert_eq!(seen.body, value!({ "current": "a good password", "new": "a better password" }));
}

fn keys() -> Value {
    value!({ "keys": [
        { "id": "dff1416a46069f4ce32caaaa", "scope": "inference", "label": "laptop",
            "ending": "rfgq", "created": ago(90_000), "last_used": ago(200),
            "used": { "requests_today": 0, "requests_this_month": 0, "tokens_today": 0,
                "tokens_this_month": 0 } },
        { "id": "639865ea5501025c421f4f76", "scope": "inference",
            "label": "the machine in the kitchen", "ending": "cd3q", "created": ago(0),
            "models": ["iris-tiny"], "quota": { "requests_per_day": 1000 },
            "requests_per_minute": 10, "expires": within(30 * 86_400),
            "used": { "requests_today": 12, "requests_this_month": 40, "tokens_today": 0,
                "tokens_this_month": 0 } },
        { "id": "639865ff0d05f0ce94540000", "scope": "node", "label": "laptop",
            "ending": "s2ta", "created": ago(0),
            "used": { "requests_today": 0, "requests_this_month": 0, "tokens_today": 0,
                "tokens_this_month": 0 } },
    ]})
}

#[tokio::test]
async fn keys_are_listed_in_80_columns_or_whole() {
    let keys = keys();
    let coordinator = with("GET /accounts/keys", keys.clone()).await;
    prints(
        &coordinator.url,
        &["keys", "list"],
        "
KEY       LABEL          SCOPE      ENDING  LAST USED  EXPIRES     LIMITS
dff1416a  laptop         inference  …rfgq   3 min ago  -
639865ea  the machine …  inference  …cd3q   never      in 30 days  iris-tiny, 1…
639865ff  laptop         node       …s2ta   never      -",
    )
    .await;
    prints(&coordinator.url, &["keys", "list", "--wide"], "
KEY                       LABEL                       SCOPE      ENDING  LAST USED  MADE       EXPIRES     LIMITS
dff1416a46069f4ce32caaaa  laptop                      inference  …rfgq   3 min ago  1 day ago  -
639865ea5501025c421f4f76  the machine in the kitchen  inference  …cd3q   never      just now   in 30 days  iris-tiny, 10/min, 12 of 1000 requests/day
639865ff0d05f0ce94540000  laptop                      node       …s2ta   never      just now   -").await;
    prints_json(&coordinator.url, &["keys", "list"], &keys).await;
}

#[tokio::test]
async fn no_keys_is_a_remark_and_an_empty_list() {
    let none = value!({ "keys": [] });
    let coordinator = with("GET /accounts/keys", none.clone()).await;
    let ran = run(&coordinator.url, &["keys", "list"]).await;
    let said = "iris: there is no key; `iris keys new` makes one\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", said));
    prints_json(&coordinator.url, &["keys", "list"], &none).await;
}

#[tokio::test]
async fn a_key_is_named_by_its_label_or_the_beginning_of_its_id() {
    let keys = keys().to_string();
    let coordinator = Scripted::start(move |_, seen| match seen.call.split(' ').next() {
        Some("GET") => json(200, &[], &keys),
        Some("POST") => json(201, &[], &new_key("inference")),
        _ => json(204, &[], ""),
    })
    .await;
    let url = coordinator.url.as_str();
    let ran = run(url, &["keys", "rotate", "the machine in the kitchen", "--grace", "10min"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "iris_new\n"), "{}", ran.err);
    let rotated = &coordinator.seen()[1];
    assert_eq!(rotated.call, "POST /accounts/keys/639865ea5501025c421f4f76/rotate");
    assert_eq!(rotated.body, value!({ "grace_secs": 600 }));

    let ran = run(url, &["keys", "revoke", "dff1", "--json"]).await;
    assert_eq!(ran.json(), value!({ "revoked": "dff1416a46069f4ce32caaaa" }));
    assert_eq!(coordinator.seen()[3].call, "DELETE /accounts/keys/dff1416a46069f4ce32caaaa");

    for (name, said) in [
        ("laptop", "more than one key"),
        ("6398", "more than one key"),
        ("639", "you have no key 639"),
        ("desk", "you have no key desk"),
    ] {
        let ran = run(url, &["keys", "revoke", name]).await;
        assert!(ran.code == Some(2) && ran.err.contains(said), "{name} {}", ran.err);
    }
    let deleted = coordinator.seen().iter().filter(|seen| seen.call.starts_with("DELETE")).count();
    assert_eq!(deleted, 1);
}

#[tokio::test]
async fn a_key_has_the_limits_that_were_asked_for() {
    let coordinator = Scripted::always(|| json(201, &[], &new_key("inference"))).await;
    let args = [
        "keys",
        "new",
        "--label",
        "laptop",
        "--model",
        "a",
        "--model",
        "b",
        "--per-minute",
        "10",
        "--requests-per-day",
        "1",
        "--requests-per-month",
        "2",
        "--tokens-per-day",
        "3",
        "--tokens-per-month",
        "4",
        "--expires",
        "30d",
        "--json",
    ];
    let ran = run_with(&coordinator.url, &args, "1234 5678 9012 3456\n").await;
    assert_eq!(ran.json()["key"], "iris_new");
    let mut sent = coordinator.seen()[0].body.clone();
    let expires = sent["expires"].take().as_u64().expect("the key ends");
    assert!(expires.abs_diff(within(30 * 86_400)) < 600, "{expires}");
    let expected = value!({ "account_key": "1234567890123456", "scope": "inference",
        "label": "laptop", "models": ["a", "b"], "requests_per_minute": 10, "expires": null,
        "quota": { "requests_per_day": 1, "requests_per_month": 2, "tokens_per_day": 3,
            "tokens_per_month": 4 } });
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn invitations_are_made_listed_and_taken_back() {
    let one = value!({ "id": "f8aed39aef5f4103e083d638", "label": "for Bob", "created": ago(0),
        "expires": within(7 * 86_400), "uses_left": 2 });
    let list = value!({ "invitations": [one] });
    let (listed, mut made) = (list.to_string(), one);
    made["invitation"] = "iris_invite_a".into();
    let coordinator = Scripted::start(move |_, seen| match seen.call.split(' ').next() {
        Some("GET") => json(200, &[], &listed),
        Some("POST") => json(201, &[], &made.to_string()),
        _ => json(204, &[], ""),
    })
    .await;
    let url = coordinator.url.as_str();
    let args = ["invite", "new", "--label", "for Bob", "--uses", "2", "--valid", "3d"];
    let ran = run_with(url, &args, "").await;
    let said = "iris: it is shown once; whoever has it runs `iris register --invitation`\n";
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("iris_invite_a\n", said));
    let sent = value!({ "uses": 2, "valid_secs": 3 * 86_400, "label": "for Bob" });
    assert_eq!(coordinator.seen()[0].body, sent);
    prints(
        url,
        &["invite", "list"],
        "
INVITATION  LABEL    USES LEFT  EXPIRES    MADE
f8aed39a    for Bob          2  in 7 days  just now",
    )
    .await;
    prints_json(url, &["invite", "list"], &list).await;
    let ran = run(url, &["invite", "revoke", "for Bob"]).await;
    let said = "iris: the invitation f8aed39aef5f4103e083d638 opens no account any more\n";
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), said));
    let seen = coordinator.seen();
    assert_eq!(
        seen.last().expect("something was asked").call,
        "DELETE /invitations/f8aed39aef5f4103e083d638"
    );
    assert_eq!(run(url, &["invite", "revoke", "for Eve"]).await.code, Some(2));
}

#[tokio::test]
async fn the_network_is_told_in_five_lines() {
    let stats = value!({ "nodes": 12, "slots": 24, "running": 3, "waiting": 0, "models": 2,
        "finished": 12_345, "failed": 1, "tokens": 4_321_000, "since": ago(200) });
    let coordinator = with("GET /stats", stats.clone()).await;
    prints(
        &coordinator.url,
        &["stats"],
        "
nodes     12
models    2
work      3 of 24 requests at a time, 0 waiting
answered  12.3 k requests in 3 min, 1 failed
written   4.3 M tokens",
    )
    .await;
    prints_json(&coordinator.url, &["stats"], &stats).await;
}

fn node(id: &str, name: Option<&str>, models: &[&str]) -> Value {
    let models: Vec<_> = models
        .iter()
        .map(|name| value!({ "name": name, "context_length": 4096, "abilities": ["embeddings"] }))
        .collect();
    let mut node = value!({ "id": id, "tier": "MID", "points": -5, "standing": 500,
        "models": models, "slots": 2, "running": 1, "connected": ago(200),
        "version": "iris-node/0.1.0" });
    if let Some(name) = name {
        node["name"] = name.into();
    }
    node
}

const ATTIC: &str = "irweg74y4xlf5c7v4wmkduuw7h";
const OTHER: &str = "irweg74yzxlf5c7v4wmkduuw7h";

#[tokio::test]
async fn nodes_are_listed_in_80_columns_or_whole() {
    let long = ["llama-3.1-8b-instruct", "qwen2.5-7b-instruct"];
    let all = value!({ "nodes": [node(ATTIC, Some("attic"), &["m"]), node(OTHER, None, &long)] });
    let coordinator = with("GET /nodes", all.clone()).await;
    let table = "
NODE       NAME   TIER  POINTS  BUSY  MODELS                           CONNECTED
irweg74y4  attic  MID       -5   1/2  m                                3 min ago
irweg74yz         MID       -5   1/2  llama-3.1-8b-instruct qwen2.5-…  3 min ago";
    for args in [&["nodes"][..], &["nodes", "list"]] {
        prints(&coordinator.url, args, table).await;
        prints_json(&coordinator.url, args, &all).await;
    }
    prints(&coordinator.url, &["nodes", "--wide"], "
NODE                        NAME   TIER  POINTS  BUSY  MODELS                                     CONNECTED  VERSION
irweg74y4xlf5c7v4wmkduuw7h  attic  MID       -5   1/2  m                                          3 min ago  iris-node/0.1.0
irweg74yzxlf5c7v4wmkduuw7h         MID       -5   1/2  llama-3.1-8b-instruct qwen2.5-7b-instruct  3 min ago  iris-node/0.1.0").await;
}

#[tokio::test]
async fn a_long_list_is_cut_unless_all_of_it_is_wanted() {
    let coordinator = Scripted::start(|_, seen| {
        let (number, next) = if seen.query.contains("after=") { (2..4, None) } else { (0..2, Some("b")) };
        let nodes: Vec<_> = number
            .map(|rank| value!({ "rank": rank + 1, "id": ATTIC, "points": 9 - rank, "connected": false }))
            .collect();
        let mut page = value!({ "nodes": nodes });
        if let Some(next) = next {
            page["next"] = next.into();
        }
        json(200, &[], &page.to_string())
    })
    .await;
    let ran = run(&coordinator.url, &["reputation", "--limit", "3"]).await;
    let table = "\
RANK  POINTS  NODE      NAME  CONNECTED
   1       9  irweg74y        no
   2       8  irweg74y        no
   3       7  irweg74y        no
";
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), table));
    assert_eq!(ran.err, "iris: there are more than these 3; --all shows them\n");
    let ran = run(&coordinator.url, &["reputation", "--limit", "4"]).await;
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (5, ""));
    let ran = run(&coordinator.url, &["reputation", "--all"]).await;
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (5, ""));
    let all = run(&coordinator.url, &["reputation", "--all", "--json"]).await.json();
    assert_eq!((all["nodes"].as_array().map(Vec::len), &all["next"]), (Some(4), &Value::Null));
    let some = run(&coordinator.url, &["reputation", "--limit", "3", "--json"]).await.json();
    assert_eq!(some["nodes"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_node_is_explained_by_its_name_or_the_beginning_of_its_id() {
    let why = value!({ "id": ATTIC, "name": "attic", "slots": 2, "running": 1,
        "hindrances": [{ "code": "unproven",
            "text": "Little is known of it yet, so it gets less work than those that are known to be good.",
            "remedy": "Leave it connected." }],
        "recent": [{ "reason": "chosen", "text": "It was the best of those compared.", "count": 12 }],
        "wanted": [{ "model": "big", "requests": 3 }] });
    let all = value!({ "nodes": [node(ATTIC, Some("attic"), &[]), node(OTHER, Some("two"), &[])] });
    let (told, listed) = (why.to_string(), all.to_string());
    let coordinator = Scripted::start(move |_, seen| match seen.call.as_str() {
        "GET /nodes" => json(200, &[], &listed),
        call if call == format!("GET /nodes/{ATTIC}/why") => json(200, &[], &told),
        _ => refusal(404, "not_found"),
    })
    .await;
    let url = coordinator.url.as_str();
    let shown = "
attic, irweg74y4xlf5c7v4wmkduuw7h: works on 1 of 2 requests

What keeps it from work:
  Little is known of it yet, so it gets less work than those that are known to
  be good.
    Leave it connected.

How the latest choices came out:
    12  It was the best of those compared.

Models that were asked for of late, and that it does not offer:
     3  big";
    for name in ["attic", "irweg74y4", ATTIC] {
        prints(url, &["nodes", "why", name], shown).await;
        prints_json(url, &["nodes", "why", name], &why).await;
    }
    for (name, said) in
        [("irweg74y", "more than one node"), ("irw", "no node irw"), ("cellar", "no node cellar")]
    {
        let ran = run(url, &["nodes", "why", name]).await;
        assert!(ran.code == Some(2) && ran.err.contains(said), "{name} {}", ran.err);
    }
}

#[tokio::test]
async fn what_was_asked_is_listed_without_its_content() {
    let tasks = value!({ "tasks": [
        { "task": TASK, "submitted": ago(200), "model": "iris-tiny", "state": "finished",
            "took_ms": 1234, "prompt_tokens": 100, "completion_tokens": 28, "node": ATTIC,
            "sealed": true },
        { "task": "1123456789abcdef0123456789abcdef", "submitted": ago(90_000),
            "model": "a/model-of-a-name-that-is-rather-long", "state": "cancelled",
            "took_ms": 0, "prompt_tokens": 0, "completion_tokens": 0, "difficulty": "SIMPLE" },
    ]});
    let coordinator = with("GET /history", tasks.clone()).await;
    prints(
        &coordinator.url,
        &["history"],
        "
WHEN       MODEL           END         TOOK  TOKENS  NODE      TASK      PRIVACY
3 min ago  iris-tiny       finished   1.2 s     128  irweg74y  01234567  sealed
1 day ago  a/model-of-a-…  cancelled  0.0 s       0            11234567  open",
    )
    .await;
    prints(&coordinator.url, &["history", "--wide"], "
WHEN       MODEL                                  END         TOOK  TOKENS  NODE                        TASK                              PRIVACY  DIFFICULTY
3 min ago  iris-tiny                              finished   1.2 s     128  irweg74y4xlf5c7v4wmkduuw7h  0123456789abcdef0123456789abcdef  sealed
1 day ago  a/model-of-a-name-that-is-rather-long  cancelled  0.0 s       0                              1123456789abcdef0123456789abcdef  open     simple").await;
    prints_json(&coordinator.url, &["history"], &tasks).await;
    let none = value!({ "tasks": [] });
    let coordinator = with("GET /history", none.clone()).await;
    let ran = run(&coordinator.url, &["history"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), "iris: no task of yours is over yet\n"));
    prints_json(&coordinator.url, &["history"], &none).await;
}

/// What an account was paid of a month.
fn payout(month: &str, amount: i64, state: &str, since: u64, release: u64) -> Value {
    value!({ "epoch": month, "account": TASK, "amount": amount, "state": state, "since": since,
        "release": release })
}

#[tokio::test]
async fn payouts_are_listed_with_what_became_of_them() {
    let mut paid = payout("2026-08", 1_234_567_890, "paid", ago(90_000), ago(200_000));
    paid["reference"] = "transfer 4711 of the bank of a country with a long name".into();
    let payouts = value!({ "payouts": [
        payout("2026-11", 12_500_000, "held", ago(200), within(22 * 86_400)),
        payout("2026-10", 1, "held", ago(2_000_000), ago(60)),
        payout("2026-09", 98_765_432, "owed", ago(2 * 86_400), ago(2 * 86_400)),
        paid,
        payout("2026-07", 3_000_000, "forfeited", ago(40 * 86_400), ago(0)),
    ]});
    let coordinator = with("GET /payouts", payouts.clone()).await;
    prints(
        &coordinator.url,
        &["payouts"],
        "
MONTH         AMOUNT  STATE      RELEASE/PAID  REFERENCE
2026-11    12.500000  held       in 22 days
2026-10     0.000001  held       due
2026-09    98.765432  owed       2 days ago
2026-08  1234.567890  paid       1 day ago     transfer 4711 of the bank of a c…
2026-07     3.000000  forfeited  40 days ago",
    )
    .await;
    prints_json(&coordinator.url, &["payouts"], &payouts).await;
    let ran = run(&coordinator.url, &["payouts", "--limit", "1"]).await;
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 2), "{}", ran.err);
    assert_eq!(ran.err, "iris: there are more than these 1; --all shows them\n");
    let none = value!({ "payouts": [] });
    let coordinator = with("GET /payouts", none.clone()).await;
    let ran = run(&coordinator.url, &["payouts"]).await;
    assert_eq!(ran.err, "iris: you have no share of a closed month\n");
    prints_json(&coordinator.url, &["payouts"], &none).await;
}

/// A verdict on a node of the caller's.
fn verdict(state: &str) -> Value {
    value!({ "id": TASK, "node": "a".repeat(26), "account": TASK, "model": "m", "at": ago(90_000),
        "appeal_until": within(6 * 86_400), "state": state, "seeds": [],
        "text": "30 of 90 tokens in the latest answers (1) were not what m would write" })
}

#[tokio::test]
async fn verdicts_are_listed_explained_and_objected_to() {
    let verdicts = value!({ "verdicts": [verdict("open"), verdict("appealed"), verdict("final")] });
    let coordinator = with("GET /verdicts", verdicts.clone()).await;
    prints(
        &coordinator.url,
        &["verdicts"],
        "
VERDICT   STATE            FOUND      NODE      MODEL
01234567  final in 6 days  1 day ago  aaaaaaaa  m
01234567  appealed         1 day ago  aaaaaaaa  m
01234567  final            1 day ago  aaaaaaaa  m",
    )
    .await;
    prints_json(&coordinator.url, &["verdicts", "list"], &verdicts).await;
    let none = with("GET /verdicts", value!({ "verdicts": [] })).await;
    let ran = run(&none.url, &["verdicts"]).await;
    assert_eq!(ran.err, "iris: no node of yours was found lying\n");

    let mut case = verdict("appealed");
    case["objection"] = "It was\u{1b}[31m the file.".into();
    case["prompts"] = value!(["Tell me a story.", "Y otra."]);
    let coordinator = with("GET /verdicts/0123456789abcdef0123456789abcdef", case.clone()).await;
    let ran = run(&coordinator.url, &["verdicts", "show", TASK]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for said in ["30 of 90 tokens", "Tell me a story.", "Y otra.", "It was [31m the file."] {
        assert!(ran.out.contains(said), "{}", ran.out);
    }
    prints_json(&coordinator.url, &["verdicts", "show", TASK], &case).await;

    let call = "POST /verdicts/0123456789abcdef0123456789abcdef/appeal";
    let coordinator = with(call, verdict("appealed")).await;
    let ran = run(&coordinator.url, &["verdicts", "appeal", TASK, "--reason", "The file."]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    assert!(ran.err.contains("your appeal is written down"), "{}", ran.err);
    let coordinator = with("GET /verdicts", verdicts).await;
    for wrong in [
        &["verdicts", "appeal", TASK][..],
        &["verdicts", "show", "ffff"],
        &["verdicts", "show", "0123"],
    ] {
        assert_eq!(run(&coordinator.url, wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_statement_says_what_a_share_was_computed_from() {
    let month = value!({ "epoch": "2026-11", "policy": "evidence", "pool": 1_200_000_000,
        "carried": 0, "owners": 14, "weight": 0, "closed": ago(3 * 86_400), "release": within(22 * 86_400) });
    let statement = value!({ "month": month, "pseudonym": TASK,
        "payout": payout("2026-11", 12_500_000, "held", ago(3 * 86_400), within(22 * 86_400)),
        "weight": 811_234,
        "parts": { "work": 1_250_250, "work_counted": 1_000_000, "quality_millionths": 764_321,
            "promises_thousandths": 1060, "luck": 7 } });
    let coordinator = with("GET /months/2026-11", statement.clone()).await;
    prints(
        &coordinator.url,
        &["payouts", "2026-11"],
        "
month      2026-11, closed 3 days ago
rules      evidence
pool       1200.000000, shared among 14 owners
share      12.500000, held, and released in 22 days
weight     811234
pseudonym  0123456789abcdef0123456789abcdef

The pool is shared in proportion to weights. Yours comes from:
      1250.250  tokens that your nodes wrote for others, once they were off
                probation; of tokens read, about four count as one
      1000.000  of that counts: each requester moves only so much of an owner's
                work
      0.764321  how sure it is that your nodes run what they offer: 1 would be
                certain, and each test passed brings it nearer
         1.060  for the hours that your nodes had promised: above 1 if they were
                there, below if not
             7  luck

The month's books, which `iris audit` checks, know you by the pseudonym.",
    )
    .await;
    prints_json(&coordinator.url, &["payouts", "2026-11"], &statement).await;

    let nothing = value!({ "month": month, "pseudonym": TASK, "weight": 0, "parts": {} });
    let coordinator = with("GET /months/2026-11", nothing).await;
    let ran = run(&coordinator.url, &["payouts", "2026-11"]).await;
    assert!(
        ran.out.contains("\nshare      none\n") && !ran.out.contains("comes from"),
        "{}",
        ran.out
    );
    // A month that is no month is not asked for; one that is not closed is refused.
    assert_eq!(run(&coordinator.url, &["payouts", "2026-13"]).await.code, Some(2));
    assert_eq!(run(&coordinator.url, &["payouts", "2026-11", "--all"]).await.code, Some(2));
    assert_eq!(run(&coordinator.url, &["payouts", "2026-12"]).await.code, Some(6));
}

#[tokio::test]
async fn shells_get_scripts_that_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run("http://127.0.0.1:1", &["completions", shell]).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{shell}");
        for word in ["register", "reputation", "tokens-per-month"] {
            assert!(ran.out.contains(word), "{shell} {word}");
        }
    }
    assert_eq!(run("http://127.0.0.1:1", &["completions", "sh"]).await.code, Some(2));
}

#[tokio::test]
async fn a_shell_that_has_read_enough_of_its_script_is_no_error() {
    let mut child = iris("http://127.0.0.1:1", &["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = finish_with(child, "").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}
