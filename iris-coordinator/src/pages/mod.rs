//! The pages: files of this crate's folder `pages`, served from the binary.
//!
//! A page is a frame around its own part. Whatever it loads lies under an address that names the
//! contents of all of them, so that browsers keep it for good and never mix two versions.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

/// What a page may load and do: what comes from here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
    manifest-src 'self'; worker-src 'self'; frame-ancestors 'none'";
/// Versioned addresses mean the same for ever.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// How much of a hash names a version.
const VERSION: usize = 16;

/// What stands in a page where its version and its own part go.
const VERSION_MARK: &str = "{{version}}";
const PART_MARK: &str = "{{page}}";

/// What stands in the service worker where its files and its pages go.
const FILES_MARK: &str = "[\"{{files}}\"]";
const PAGES_MARK: &str = "[\"{{pages}}\"]";

macro_rules! embedded {
    ($($name:literal)*) => {
        &[
            $(($name, include_bytes!(concat!("../../pages/", $name)))),*,
            ("vendor/iris-seal.mjs", iris_crypto::seal::BROWSER_CLIENT.as_bytes()),
        ]
    };
}

/// Everything that pages load, by its name.
const FILES: &[(&str, &[u8])] = embedded! {
    "app/icon-180.png"
    "app/icon-192.png"
    "app/icon-512.png"
    "app/maskable-512.png"
    "css/docs.css"
    "css/iris.css"
    "css/jobs.css"
    "css/operator.css"
    "favicon.svg"
    "i18n/en.js"
    "i18n/es.js"
    "i18n/jobs.js"
    "i18n/operator.js"
    "icons.svg"
    "js/account.js"
    "js/api.js"
    "js/app.js"
    "js/charts.js"
    "js/chat.js"
    "js/dashboard.js"
    "js/database.js"
    "js/device.js"
    "js/docs.js"
    "js/dom.js"
    "js/events.js"
    "js/flow.js"
    "js/graph.js"
    "js/highlight.js"
    "js/i18n.js"
    "js/jobs.js"
    "js/log.js"
    "js/markdown.js"
    "js/news.js"
    "js/nodes.js"
    "js/nodestate.js"
    "js/operator-money.js"
    "js/operator-nodes.js"
    "js/operator-people.js"
    "js/operator.js"
    "js/parts.js"
    "js/receipt.js"
    "js/shell.js"
    "js/stream.js"
    "js/talks.js"
    "js/theme.js"
    "vendor/highlight/bash.min.js"
    "vendor/highlight/core.min.js"
    "vendor/highlight/css.min.js"
    "vendor/highlight/javascript.min.js"
    "vendor/highlight/json.min.js"
    "vendor/highlight/python.min.js"
    "vendor/highlight/rust.min.js"
    "vendor/highlight/sql.min.js"
    "vendor/highlight/xml.min.js"
    "vendor/marked.esm.js"
    "vendor/purify.min.js"
};

const FRAME: &str = include_str!("../../pages/frame.html");
/// The pages, and the part of each that is its own.
const PAGES: [(&str, &str); 6] = [
    ("/account", include_str!("../../pages/account.html")),
    ("/chat", include_str!("../../pages/chat.html")),
    ("/dashboard", include_str!("../../pages/dashboard.html")),
    ("/docs", include_str!("../../pages/docs.html")),
    ("/jobs", include_str!("../../pages/jobs.html")),
    ("/operator", include_str!("../../pages/operator.html")),
];

/// What makes an app of the pages. They stand at addresses of their own, which stay the same, since
/// browsers look there for the next version.
const APP: [(&str, &str, &str); 2] = [
    ("/app.webmanifest", include_str!("../../pages/app/app.webmanifest"), MANIFEST),
    ("/worker.js", include_str!("../../pages/app/worker.js"), SCRIPT),
];
const MANIFEST: &str = "application/manifest+json";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static SITE: LazyLock<Site> = LazyLock::new(Site::new);

/// Serves the pages; the rest is for others.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let paths = PAGES.iter().map(|(path, _)| *path).chain(APP.iter().map(|(path, ..)| *path));
    let pages = paths.fold(Router::new(), |router, path| {
        let page = move |headers: HeaderMap| async move { SITE.page(path, &headers) };
        router.route(path, get(page))
    });
    pages
        // Which job it is, the page reads from its own address.
        .route("/jobs/{id}", get(|headers: HeaderMap| async move { SITE.page("/jobs", &headers) }))
        .route("/", get(|| async { Redirect::to("/chat") }))
        .route("/favicon.ico", get(|| async { Redirect::to(&SITE.address("favicon.svg")) }))
        .route("/pages/{version}/{*file}", get(file))
}

/// `GET /pages/{version}/{file}`.
async fn file(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    // Another version's file may not fit what its page has loaded already.
    match SITE.files.get(name.as_str()).filter(|_| version == SITE.version) {
        Some(file) => file.answer(&headers, FOREVER),
        None => with_policy((StatusCode::NOT_FOUND, [(CACHE_CONTROL, "no-store")]).into_response()),
    }
}

/// The pages as they are served.
struct Site {
    version: String,
    files: HashMap<&'static str, File>,
    pages: HashMap<&'static str, File>,
}

struct File {
    contents: Bytes,
    kind: &'static str,
    tag: HeaderValue,
}

impl Site {
    fn new() -> Self {
        let mut all = Sha256::new();
        for (name, contents) in FILES {
            all.update(name.as_bytes());
            all.update(Sha256::digest(contents));
        }
        let texts = PAGES.iter().map(|(_, part)| part).chain(APP.iter().map(|(_, text, _)| text));
        for text in texts.chain([&FRAME]) {
            all.update(Sha256::digest(text));
        }
        let version = hexadecimal(&all.finalize());
        let files = FILES
            .iter()
            .map(|(name, contents)| (*name, File::new(Bytes::from_static(contents), kind(name))));
        let pages = PAGES.iter().map(|(path, part)| {
            let page = FRAME.replace(PART_MARK, part).replace(VERSION_MARK, &version);
            (*path, File::new(page.into(), "text/html; charset=utf-8"))
        });
        let app = APP.iter().map(|(path, text, kind)| {
            let text = text.replace(VERSION_MARK, &version);
            let text = text.replace(FILES_MARK, &list(FILES.iter().map(|(name, _)| *name)));
            let text = text.replace(PAGES_MARK, &list(PAGES.iter().map(|(path, _)| *path)));
            (*path, File::new(text.into(), kind))
        });
        Self { files: files.collect(), pages: pages.chain(app).collect(), version }
    }

    fn page(&self, path: &str, headers: &HeaderMap) -> Response {
        match self.pages.get(path) {
            Some(page) => page.answer(headers, "no-cache"),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }

    fn address(&self, name: &str) -> String {
        format!("/pages/{}/{name}", self.version)
    }
}

impl File {
    fn new(contents: Bytes, kind: &'static str) -> Self {
        let tag = format!("\"{}\"", hexadecimal(&Sha256::digest(&contents)));
        let tag = HeaderValue::try_from(tag).expect("quoted digits");
        Self { contents, kind, tag }
    }

    /// Answers with the file, or says that its reader has it already.
    fn answer(&self, asked: &HeaderMap, keep: &'static str) -> Response {
        let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut known = known.flat_map(|value| value.split(','));
        let tag = self.tag.to_str().unwrap_or_default();
        let is_known = known.any(|known| known.trim().trim_start_matches("W/") == tag);
        let mut response = Response::new(Body::empty());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = self.contents.clone().into();
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(ETAG, self.tag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
        with_policy(response)
    }
}

fn with_policy(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
    response
}

/// Writes names as a list in JSON.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<serde_json::Value>().to_string()
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js" | "mjs") => SCRIPT,
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().take(VERSION / 2).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
