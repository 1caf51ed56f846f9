//! Sessions: kept, shown, renewed by one and used by many.
#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use iris_client::rest::{KeyRequest, KeyScope, KeyTerms, LoginRequest, PasswordRequest};
use iris_client::{Client, ClientError};
use support::*;

/// A coordinator with sessions that last for `lasting` seconds, and whose refresh tokens are good
/// once, as they are anywhere.
struct Desk {
    coordinator: Scripted,
    good: Arc<Mutex<Good>>,
}

#[derive(Default)]
struct Good {
    access: String,
    refresh: String,
}

impl Desk {
    async fn open(lasting: u64) -> Self {
        let good: Arc<Mutex<Good>> = Arc::default();
        let (held, number) = (Arc::clone(&good), AtomicU64::new(0));
        let coordinator = Scripted::start(move |_, seen| {
            let mut good = held.lock().expect("nobody panics here");
            let is_new = match seen.call.as_str() {
                "POST /auth/login" if seen.body["password"] == "wrong password" => {
                    return refusal(401, "invalid_credentials");
                }
                "POST /auth/login" | "POST /auth/register" => true,
                "POST /auth/refresh" => seen.body["refresh_token"] == good.refresh,
                _ if seen.header("authorization") == Some(&format!("Bearer {}", good.access)) => {
                    return match seen.call.as_str() {
                        "GET /v1/models" => json(200, &[], &models(&["m"])),
                        "POST /auth/password" => refusal(401, "invalid_credentials"),
                        _ => json(204, &[], ""),
                    };
                }
                _ => return refusal(401, "invalid_api_key"),
            };
            if !is_new {
                *good = Good::default();
                return refusal(401, "invalid_refresh_token");
            }
            let number = number.fetch_add(1, Ordering::Relaxed);
            *good =
                Good { access: format!("access-{number}"), refresh: format!("refresh-{number}") };
            json(200, &[], &session(number, lasting))
        })
        .await;
        Self { coordinator, good }
    }

    fn client(&self) -> Client {
        Client::builder(&self.coordinator.url).build().expect("the url is valid")
    }

    fn client_of(&self, file: &Path) -> Client {
        let builder = Client::builder(&self.coordinator.url).with_session_file(file);
        builder.build().expect("the url is valid")
    }

    fn count(&self, call: &str) -> usize {
        self.coordinator.seen().iter().filter(|seen| seen.call == call).count()
    }

    /// Makes the coordinator forget the access token, and the refresh token if `all`.
    fn revoke(&self, all: bool) {
        let mut good = self.good.lock().expect("nobody panics here");
        "gone".clone_into(&mut good.access);
        if all {
            "gone".clone_into(&mut good.refresh);
        }
    }
}

fn session(number: u64, lasting: u64) -> String {
    serde_json::json!({ "account": TASK, "access_token": format!("access-{number}"),
        "token_type": "bearer", "expires_in": lasting,
        "refresh_token": format!("refresh-{number}") })
    .to_string()
}

fn ann(password: &str) -> LoginRequest {
    LoginRequest {
        email: Some("ann@example.org".to_owned()),
        password: Some(password.into()),
        account_key: None,
    }
}

#[tokio::test]
async fn a_session_stands_for_a_key_until_it_is_ended() {
    let desk = Desk::open(900).await;
    let client = desk.client();
    assert!(matches!(client.models().await, Err(ClientError::Unauthorized(_))));
    let account = client.session().login(&ann("a good password")).await.unwrap();
    assert_eq!(account.to_string(), TASK);
    assert_eq!(client.session().account().unwrap(), Some(account));
    assert_eq!(client.models().await.unwrap().len(), 1);
    let seen = desk.coordinator.seen();
    assert_eq!(seen[1].body["password"], "a good password");
    assert_eq!(seen[1].header("authorization"), None, "a password travels alone");
    assert_eq!(seen[2].header("authorization"), Some("Bearer access-0"));
    assert!(!format!("{client:?}").contains("access-0"));

    assert!(client.session().logout().await.unwrap());
    assert_eq!(desk.count("POST /auth/logout"), 1);
    assert!(!client.session().logout().await.unwrap(), "there is nothing to end");
    assert!(matches!(client.models().await, Err(ClientError::Unauthorized(_))));
}

#[tokio::test]
async fn a_key_is_shown_rather_than_the_session_and_neither_with_digits() {
    let desk = Desk::open(900).await;
    let client = desk.client();
    client.session().login(&ann("a good password")).await.unwrap();
    let keyed = client.with_api_key(&"iris_k".into()).unwrap();
    assert!(keyed.models().await.is_err());
    assert_eq!(desk.coordinator.seen()[1].header("authorization"), Some("Bearer iris_k"));
    assert!(keyed.without_api_key().models().await.is_ok());
    let mut request = KeyRequest {
        account_key: Some("1234567890123456".into()),
        scope: KeyScope::Node,
        label: None,
        terms: KeyTerms::default(),
    };
    assert!(keyed.keys().create(&request).await.is_err());
    assert_eq!(desk.coordinator.seen()[3].header("authorization"), None);
    request.account_key = None;
    assert!(client.keys().create(&request).await.is_err(), "the answer is no key");
    assert_eq!(desk.coordinator.seen()[4].header("authorization"), Some("Bearer access-0"));
}

#[tokio::test]
async fn a_session_that_is_about_to_end_is_renewed_first() {
    let desk = Desk::open(5).await;
    let client = desk.client();
    client.session().login(&ann("a good password")).await.unwrap();
    for _ in 0..3 {
        assert!(client.models().await.is_ok());
    }
    let calls: Vec<_> = desk.coordinator.seen().into_iter().map(|seen| seen.call).collect();
    let renewed = ["POST /auth/refresh", "GET /v1/models"];
    assert_eq!(calls[1..], [renewed; 3].concat());
    assert_eq!(desk.coordinator.seen()[5].body["refresh_token"], "refresh-2");
}

#[tokio::test]
async fn a_session_that_is_refused_is_renewed_once() {
    let desk = Desk::open(900).await;
    let client = desk.client();
    client.session().login(&ann("a good password")).await.unwrap();
    desk.revoke(false);
    assert!(client.models().await.is_ok());
    assert_eq!((desk.count("POST /auth/refresh"), desk.count("GET /v1/models")), (1, 2));

    // One who refuses whatever is shown is not asked for ever.
    let stubborn = Scripted::start(|n, seen| match seen.call.as_str() {
        "POST /auth/login" | "POST /auth/refresh" => {
            json(200, &[], &session(u64::try_from(n).unwrap(), 900))
        }
        _ => refusal(401, "invalid_api_key"),
    })
    .await;
    let client = Client::builder(&stubborn.url).build().unwrap();
    client.session().login(&ann("a good password")).await.unwrap();
    assert!(matches!(client.models().await, Err(ClientError::Unauthorized(_))));
    assert_eq!(stubborn.seen().len(), 4);
}

#[tokio::test]
async fn a_session_that_cannot_be_renewed_has_ended() {
    let desk = Desk::open(900).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.session");
    let client = desk.client_of(&file);
    client.session().login(&ann("a good password")).await.unwrap();
    desk.revoke(true);
    assert_eq!(client.models().await.map(drop), Err(ClientError::SessionEnded));
    assert!(!file.exists());
    assert_eq!(client.session().account().unwrap(), None);

    // What some server on the way refuses says nothing of the session.
    let astray = Scripted::start(|_, seen| match seen.call.as_str() {
        "POST /auth/login" => json(200, &[], &session(0, 0)),
        _ => json(401, &[], "<html>"),
    })
    .await;
    let client = Client::builder(&astray.url).with_session_file(&file).build().unwrap();
    client.session().login(&ann("a good password")).await.unwrap();
    assert!(matches!(client.models().await, Err(ClientError::Unauthorized(_))));
    assert!(file.exists());
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_changes_nothing() {
    let desk = Desk::open(900).await;
    let client = desk.client();
    client.session().login(&ann("a good password")).await.unwrap();
    let wrong = client.session().login(&ann("wrong password")).await;
    assert!(matches!(wrong, Err(ClientError::Unauthorized(_))));
    let request = PasswordRequest { current: "wrong".into(), new: "another password".into() };
    let wrong = client.session().change_password(&request).await;
    assert!(matches!(wrong, Err(ClientError::Unauthorized(_))));
    assert_eq!(desk.count("POST /auth/password"), 1);
    assert_eq!(desk.count("POST /auth/refresh"), 0);
    assert!(client.models().await.is_ok());
}

#[cfg(unix)]
#[tokio::test]
async fn a_session_file_is_private_and_of_one_coordinator() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let desk = Desk::open(900).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/a.session");
    desk.client_of(&file).session().login(&ann("a good password")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("refresh-0") && !text.contains("good password"), "{text}");
    // Another process uses it.
    assert!(desk.client_of(&file).models().await.is_ok());
    // Another coordinator's does not get it.
    let other = Desk::open(900).await;
    assert!(matches!(other.client_of(&file).models().await, Err(ClientError::Unauthorized(_))));
    assert_eq!(other.coordinator.seen()[0].header("authorization"), None);
    // What others could read, or may have changed, is not used.
    let failed = |client: Client| async move {
        let error = client.models().await.unwrap_err();
        assert!(matches!(error, ClientError::SessionFile { .. }), "{error:?}");
        assert!(!error.to_string().contains("refresh-0"), "{error}");
    };
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    failed(desk.client_of(&file)).await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let link = folder.path().join("link.session");
    symlink(&file, &link).unwrap();
    failed(desk.client_of(&link)).await;
    for bad in [String::new(), "{}".to_owned(), text.replace("/v1", "/v2")] {
        std::fs::write(&file, bad).unwrap();
        failed(desk.client_of(&file)).await;
    }
    // Whoever logs in again starts anew.
    desk.client_of(&file).session().login(&ann("a good password")).await.unwrap();
    assert!(desk.client_of(&file).models().await.is_ok());
}

#[tokio::test]
async fn of_many_who_need_a_new_session_one_renews_it() {
    let desk = Desk::open(900).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.session");
    desk.client_of(&file).session().login(&ann("a good password")).await.unwrap();
    desk.revoke(false);
    // Each has read the file, as processes of their own would.
    let clients: Vec<_> = (0..8).map(|_| desk.client_of(&file)).collect();
    let asked = clients.iter().chain(&clients).map(Client::models);
    for asked in futures::future::join_all(asked).await {
        assert!(asked.is_ok(), "{asked:?}");
    }
    assert_eq!(desk.count("POST /auth/refresh"), 1);
}

#[tokio::test]
async fn whoever_stops_waiting_does_not_lose_the_session() {
    // The answer comes when the caller has gone.
    let (arrived, came) = tokio::sync::oneshot::channel::<()>();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (arrived, released) = (Mutex::new(Some(arrived)), Mutex::new(released));
    let coordinator = Scripted::start(move |n, seen| match seen.call.as_str() {
        "POST /auth/login" => json(200, &[], &session(0, 0)),
        "POST /auth/refresh" => {
            if let Some(arrived) = arrived.lock().unwrap().take() {
                let _ = arrived.send(());
            }
            tokio::task::block_in_place(|| released.lock().unwrap().recv().unwrap());
            json(200, &[], &session(u64::try_from(n).unwrap(), 900))
        }
        _ => json(200, &[], &models(&["m"])),
    });
    // The coordinator blocks a thread, so it gets threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let coordinator = std::thread::spawn(move || (runtime.block_on(coordinator), runtime));
    let (coordinator, runtime) = coordinator.join().unwrap();
    let client = Client::builder(&coordinator.url).build().unwrap();
    client.session().login(&ann("a good password")).await.unwrap();
    {
        let asking = client.models();
        tokio::pin!(asking);
        tokio::select! {
            _ = &mut asking => panic!("nothing was answered yet"),
            came = came => came.unwrap(),
        }
    }
    release.send(()).unwrap();
    assert!(client.models().await.is_ok());
    let refreshed = coordinator.seen().iter().filter(|s| s.call == "POST /auth/refresh").count();
    assert_eq!(refreshed, 1, "the first exchange was kept");
    runtime.shutdown_background();
}

#[tokio::test]
async fn passwords_do_not_travel_in_clear() {
    let elsewhere = Client::builder("http://192.0.2.1").build().unwrap();
    let refused = elsewhere.session().login(&ann("a good password")).await;
    assert_eq!(refused, Err(ClientError::PlainHttp));
    let refused = elsewhere.accounts().verify("1234567890123456".into()).await;
    assert_eq!(refused.map(drop), Err(ClientError::PlainHttp));
}

#[tokio::test]
async fn a_list_is_read_part_by_part() {
    let entry =
        |rank: u64| serde_json::json!({ "rank": rank, "id": NODE, "points": 5, "connected": true });
    let coordinator = Scripted::start(move |n, _| {
        let page = match n {
            0 => serde_json::json!({ "nodes": [entry(1), entry(2)], "next": "a&b=c/ü" }),
            1 => serde_json::json!({ "nodes": [entry(3)], "next": "end" }),
            _ => serde_json::json!({ "nodes": [] }),
        };
        json(200, &[], &page.to_string())
    })
    .await;
    let client = Client::builder(&coordinator.url).build().unwrap();
    let all: Vec<_> = client.network().reputation().try_collect().await.unwrap();
    assert_eq!(all.iter().map(|entry| entry.rank).collect::<Vec<_>>(), [1, 2, 3]);
    let seen = coordinator.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].query, "limit=200");
    assert_eq!(seen[1].query, "limit=200&after=a%26b%3Dc%2F%C3%BC");

    let endless = Scripted::always(|| json(200, &[], r#"{"tasks":[],"next":"x"}"#)).await;
    let client = Client::builder(&endless.url).build().unwrap();
    let all: Result<Vec<_>, _> = client.network().history().try_collect().await;
    assert!(matches!(all, Err(ClientError::Malformed { .. })));
    assert_eq!(endless.seen().len(), 2);
}
