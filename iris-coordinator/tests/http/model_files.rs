use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::SOON;
use super::*;

struct Given {
    net: Net,
    folder: tempfile::TempDir,
    node: String,
}

impl Given {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let net = Net::with_api(ApiSettings::default().with_model_files(folder.path())).await;
        let node = key(&net.coordinator, net.account, KeyScope::Node).await;
        Self { net, folder, node }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    async fn get(&self, path: &str, more: &[(&str, &str)]) -> Reply {
        let bearer = format!("Bearer {}", self.node);
        let headers = [&[("authorization", bearer.as_str())], more].concat();
        send(self.net.address, request("GET", path, &headers, "")).await
    }
}

#[tokio::test]
async fn without_a_folder_nothing_is_given() {
    let net = Net::start().await;
    let node = format!("Bearer {}", key(&net.coordinator, net.account, KeyScope::Node).await);
    for path in ["/model-files", "/model-files/x.gguf"] {
        let asked = request("GET", path, &[("authorization", &node)], "");
        assert_eq!(send(net.address, asked).await.status, 404);
    }
}

#[tokio::test]
async fn nodes_are_given_whole_files_and_parts_and_nobody_else_is() {
    let given = Given::start().await;
    given.put("x.gguf", b"GGUF0123456789");
    let digest = blake3::hash(b"GGUF0123456789").to_hex().to_string();
    let list = given.get("/model-files", &[]).await.json();
    let file = serde_json::json!({"name": "x.gguf", "size": 14, "blake3": digest});
    assert_eq!(list, serde_json::json!({ "files": [file] }));
    let whole = given.get("/model-files/x.gguf", &[]).await;
    assert_eq!((whole.status, whole.text()), (200, "GGUF0123456789"));
    let tag = format!("\"{digest}\"");
    assert_eq!(whole.header("etag"), Some(&*tag));
    assert!(whole.header("repr-digest").unwrap().starts_with("blake3=:"));
    let range = ("range", "bytes=4-");
    for more in [&[range][..], &[range, ("if-range", &tag)]] {
        let part = given.get("/model-files/x.gguf", more).await;
        assert_eq!((part.status, part.text()), (206, "0123456789"));
        assert_eq!(part.header("content-range"), Some("bytes 4-13/14"));
        assert_eq!(part.header("content-length"), Some("10"));
    }
    let other = given.get("/model-files/x.gguf", &[range, ("if-range", "\"other\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, 14));
    let beyond = given.get("/model-files/x.gguf", &[("range", "bytes=14-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */14")));

    let read = format!("Bearer {}", given.net.operator);
    let user = format!("Bearer {}", given.net.user);
    for path in ["/model-files", "/model-files/x.gguf"] {
        for (bearer, status) in [("Bearer iris_no", 401), (&*user, 403), (&*read, 403)] {
            let asked = request("GET", path, &[("authorization", bearer)], "");
            assert_eq!(send(given.net.address, asked).await.status, status);
        }
        assert_eq!(send(given.net.address, request("GET", path, &[], "")).await.status, 401);
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder() {
    let given = Given::start().await;
    let outside = given.folder.path().with_extension("secret");
    std::fs::write(&outside, "hunter2").unwrap();
    std::fs::create_dir(given.folder.path().join("within.gguf")).unwrap();
    given.put(".hidden", b"hunter2");
    given.put("x.gguf", b"GGUF");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&outside, given.folder.path().join("link.gguf")).unwrap();
    let list = given.get("/model-files", &[]).await.json();
    assert_eq!(list["files"].as_array().unwrap().len(), 1, "{list}");
    let name = outside.file_name().and_then(|name| name.to_str()).unwrap();
    let absolute = outside.to_str().unwrap().replace('/', "%2f");
    for path in [
        format!("../{name}"),
        format!("..%2f{name}"),
        format!("..%5c{name}"),
        format!("x.gguf%2f..%2f..%2f{name}"),
        format!("%2e%2e/{name}"),
        absolute,
        "link.gguf".to_owned(),
        "within.gguf".to_owned(),
        ".hidden".to_owned(),
        "%2ehidden".to_owned(),
        "..".to_owned(),
        ".".to_owned(),
        "x.gguf%00".to_owned(),
    ] {
        let reply = given.get(&format!("/model-files/{path}"), &[]).await;
        assert!(matches!(reply.status, 400 | 404), "{path}: {}", reply.status);
        assert!(!reply.text().contains("hunter2"), "{path}");
    }
    assert_eq!(given.get("/model-files/x.gguf", &[]).await.status, 200);
    std::fs::remove_file(outside).unwrap();
}

#[tokio::test]
async fn a_file_that_changes_is_another_one() {
    let given = Given::start().await;
    given.put("x.gguf", b"GGUF");
    let old = given.get("/model-files/x.gguf", &[]).await;
    given.put("x.gguf", b"GGUF, and more");
    let changed = given.get("/model-files/x.gguf", &[]).await;
    assert_eq!((changed.status, changed.header("retry-after").is_some()), (503, true));
    let rest = [("range", "bytes=4-"), ("if-range", old.header("etag").unwrap())];
    let new = given.get("/model-files/x.gguf", &rest).await;
    assert_eq!((new.status, new.text()), (200, "GGUF, and more"));
    std::fs::remove_file(given.folder.path().join("x.gguf")).unwrap();
    assert_eq!(given.get("/model-files", &[]).await.json(), serde_json::json!({"files": []}));
    assert_eq!(given.get("/model-files/x.gguf", &[]).await.status, 404);
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_downloads() {
    const SIZE: usize = 64 << 20;
    let mut given = Given::start().await;
    let file = std::fs::File::create(given.folder.path().join("x.gguf")).unwrap();
    file.set_len(SIZE as u64).unwrap();
    while given.get("/model-files/x.gguf", &[("range", "bytes=0-0")]).await.status == 503 {}
    let mut stream = TcpStream::connect(given.net.address).await.unwrap();
    let bearer = format!("Bearer {}", given.node);
    let asked = request("GET", "/model-files/x.gguf", &[("authorization", &bearer)], "");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    given.net.stop.take().unwrap().send(()).unwrap();
    let refused = async { while TcpStream::connect(given.net.address).await.is_ok() {} };
    timeout(SOON, refused).await.unwrap();
    let _ = timeout(SOON, stream.read_to_end(&mut seen)).await.unwrap();
    assert!(seen.len() < SIZE, "it was given to its end");
    timeout(SOON, given.net.server).await.unwrap().unwrap();
}
