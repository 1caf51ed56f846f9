//! The pages for people: how they are served, and what they may do.
#![cfg(feature = "pages")]

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

async fn with_pages() -> Net {
    Net::with_api(ApiSettings::default().with_pages(true)).await
}

async fn fetch(net: &Net, path: &str, headers: &[(&str, &str)]) -> Reply {
    send(net.address, request("GET", path, headers, "")).await
}

/// Returns what a page loads, by the addresses in its markup.
fn loaded(page: &str) -> BTreeSet<String> {
    let quoted = page.split('"').filter(|text| text.starts_with("/pages/"));
    quoted.map(|text| text.split('#').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn page_needs_no_key_and_nothing_from_elsewhere() {
    let net = with_pages().await;
    for path in ["/chat", "/dashboard", "/account", "/docs", "/jobs", "/jobs/0123", "/operator"] {
        let page = fetch(&net, path, &[]).await;
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("cache-control"), Some("no-cache"));
        let text = page.text();
        assert!(!text.contains("{{"), "{text}");
        for forbidden in ["http://", "https://", "//", " style=", "<style", "onclick", "onload"] {
            assert!(!text.contains(forbidden), "{path}: {forbidden}");
        }
        let scripts = text.matches("<script").count();
        assert_eq!(
            scripts,
            text.matches("<script src=").count()
                + text.matches("<script type=\"module\" src=").count()
        );
        let files = loaded(text);
        assert!(files.len() > 3, "{files:?}");
        for file in files {
            assert_eq!(fetch(&net, &file, &[]).await.status, 200, "{file}");
        }
    }
}

#[tokio::test]
async fn every_page_and_file_has_the_policy() {
    let net = with_pages().await;
    let page = fetch(&net, "/chat", &[]).await;
    let script = loaded(page.text()).into_iter().find(|file| file.ends_with("chat.js")).unwrap();
    for path in [
        "/chat",
        "/dashboard",
        "/account",
        "/docs",
        "/worker.js",
        "/app.webmanifest",
        &script,
        "/pages/0000000000000000/js/chat.js",
    ] {
        let reply = fetch(&net, path, &[]).await;
        let policy = reply.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "worker-src 'self'",
            "manifest-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|told| told == rule), "{path}: {rule}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"), "{path}");
    }
}

#[tokio::test]
async fn files_are_kept_for_good_under_their_version_and_pages_are_asked_for_again() {
    let net = with_pages().await;
    let page = fetch(&net, "/chat", &[]).await;
    let tag = page.header("etag").unwrap().to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = fetch(&net, "/chat", &[("if-none-match", &known)]).await;
        assert_eq!((again.status, again.text()), (304, ""), "{known}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
    }
    let other = fetch(&net, "/chat", &[("if-none-match", "\"other\"")]).await;
    assert_eq!(other.status, 200);
    for file in loaded(page.text()) {
        let reply = fetch(&net, &file, &[]).await;
        let keep = reply.header("cache-control").unwrap();
        assert_eq!(keep, "public, max-age=31536000, immutable", "{file}");
        let tag = reply.header("etag").unwrap().to_owned();
        assert_eq!(fetch(&net, &file, &[("if-none-match", &tag)]).await.status, 304, "{file}");
    }
}

#[tokio::test]
async fn file_that_is_none_is_not_found_and_not_kept() {
    let net = with_pages().await;
    let page = fetch(&net, "/chat", &[]).await.text().to_owned();
    let script = loaded(&page).into_iter().find(|file| file.ends_with("chat.js")).unwrap();
    let version = script.split('/').nth(2).unwrap();
    for path in [
        format!("/pages/{version}/js/none.js"),
        format!("/pages/{version}/../../Cargo.toml"),
        format!("/pages/{version}/..%2f..%2fCargo.toml"),
        format!("/pages/{version}/frame.html"),
        "/pages/ffffffffffffffff/js/chat.js".to_owned(),
    ] {
        let reply = fetch(&net, &path, &[]).await;
        assert_eq!(reply.status, 404, "{path}");
        let keep = reply.header("cache-control");
        assert!(keep.is_none_or(|keep| keep == "no-store"), "{path}: {keep:?}");
    }
}

#[tokio::test]
async fn coordinator_without_pages_serves_none() {
    let net = Net::start().await;
    for path in [
        "/",
        "/chat",
        "/dashboard",
        "/account",
        "/docs",
        "/worker.js",
        "/app.webmanifest",
        "/pages/strangers.json",
        "/favicon.ico",
    ] {
        assert_eq!(fetch(&net, path, &[]).await.status, 404, "{path}");
    }
    assert_eq!(fetch(&net, "/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn strangers_learn_what_they_may() {
    let api = ApiSettings::default().with_pages(true).with_public_chat(true);
    let told = fetch(&Net::with_api(api).await, "/pages/strangers.json", &[]).await.json();
    let expected = serde_json::json!({ "open_registration": false, "public_chat": true });
    assert_eq!(told, expected);
}

/// Every file that a page could ask for is embedded, or is none of the pages'.
#[tokio::test]
async fn every_file_of_the_folder_is_served() {
    let net = with_pages().await;
    let page = fetch(&net, "/chat", &[]).await.text().to_owned();
    let script = loaded(&page).into_iter().find(|file| file.ends_with("chat.js")).unwrap();
    let version = script.split('/').nth(2).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pages");
    let mut folders = vec![root.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != "test" {
                    folders.push(path);
                }
                continue;
            }
            let kind = path.extension().and_then(|kind| kind.to_str());
            if !matches!(kind, Some("js" | "mjs" | "css" | "svg" | "png"))
                || name == "app/worker.js"
            {
                continue;
            }
            let reply = fetch(&net, &format!("/pages/{version}/{name}"), &[]).await;
            assert_eq!(reply.status, 200, "{name}");
            assert_eq!(reply.body, std::fs::read(&path).unwrap(), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
}

#[tokio::test]
async fn app_is_named_by_its_manifest_and_keeps_nothing_but_pages_of_this_version() {
    let net = with_pages().await;
    let page = fetch(&net, "/chat", &[]).await.text().to_owned();
    assert!(page.contains("rel=\"manifest\" href=\"/app.webmanifest\""));
    let manifest = fetch(&net, "/app.webmanifest", &[]).await;
    assert_eq!(manifest.header("content-type"), Some("application/manifest+json"));
    assert_eq!(manifest.header("cache-control"), Some("no-cache"));
    let manifest = manifest.json();
    assert_eq!((&manifest["start_url"], &manifest["scope"]), (&"/chat".into(), &"/".into()));
    let icons = manifest["icons"].as_array().unwrap();
    assert!(icons.iter().any(|icon| icon["sizes"] == "512x512" && icon["purpose"] == "maskable"));
    for icon in icons {
        let file = fetch(&net, icon["src"].as_str().unwrap(), &[]).await;
        assert_eq!((file.status, file.header("content-type")), (200, icon["type"].as_str()));
    }

    let worker = fetch(&net, "/worker.js", &[]).await;
    assert_eq!(worker.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(worker.header("cache-control"), Some("no-cache"));
    let text = worker.text();
    assert!(!text.contains("{{"), "{text}");
    let list = |name: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("const {name} = ")));
        serde_json::from_str(line.unwrap().trim_end_matches(';')).unwrap()
    };
    let pages = ["/account", "/chat", "/dashboard", "/docs", "/jobs", "/operator"];
    assert_eq!(list("PAGES"), pages);
    let version = loaded(&page).first().unwrap().split('/').nth(2).unwrap().to_owned();
    assert!(text.contains(&format!("const VERSION = \"{version}\";")));
    for file in list("FILES") {
        let reply = fetch(&net, &format!("/pages/{version}/{file}"), &[]).await;
        assert_eq!(reply.status, 200, "{file}");
    }
}

#[tokio::test]
async fn sealing_in_browsers_is_the_same_module_that_is_tested_by_itself() {
    let net = with_pages().await;
    let page = fetch(&net, "/chat", &[]).await.text().to_owned();
    let version = loaded(&page).first().unwrap().split('/').nth(2).unwrap().to_owned();
    let served = fetch(&net, &format!("/pages/{version}/vendor/iris-seal.mjs"), &[]).await;
    assert_eq!(served.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert!(served.text().contains("export async function* chat"));
}

/// Reads the texts of a dictionary.
fn texts(language: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pages/i18n/{language}.js"));
    let lines = std::fs::read_to_string(path).unwrap();
    let entries =
        lines.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\": "));
    let text = |text: &str| serde_json::from_str(text.trim_end_matches(',')).unwrap();
    entries.map(|(key, said)| (key.to_owned(), text(said))).collect()
}

#[test]
fn both_languages_say_the_same_things() {
    let (english, spanish) = (texts("en"), texts("es"));
    assert!(english.len() > 300);
    let keys =
        |texts: &[(String, String)]| texts.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&english), keys(&spanish));
    let unique: BTreeSet<_> = keys(&english).into_iter().collect();
    assert_eq!(unique.len(), english.len(), "a key stands twice");
    let places = |text: &str| {
        let names = text.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    for ((key, english), (_, spanish)) in english.iter().zip(&spanish) {
        assert_eq!(places(english), places(spanish), "{key}");
        assert!(!english.is_empty() && !spanish.is_empty(), "{key}");
    }
}
