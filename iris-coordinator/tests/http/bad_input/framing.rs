//! Requests whose end two readers could find in two places.

use super::*;

/// Sends bytes, then nothing, and returns everything that comes back until the connection closes.
async fn exchange(net: &Net, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

fn chunked(net: &Net, headers: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: iris\r\nauthorization: {}\r\n\
         {headers}\r\n\r\n{body}",
        net.bearer().0
    )
}

#[tokio::test]
async fn nothing_follows_a_request_whose_end_is_told_twice() {
    let net = Net::start().await;
    let smuggled = "0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: iris\r\n\r\n";
    for headers in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "transfer-encoding: chunked",
    ] {
        let answer = exchange(&net, chunked(&net, headers, smuggled)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(answers(&answer), 1, "{headers}: {answer}");
    }
}

#[tokio::test]
async fn requests_without_one_certain_end_are_refused() {
    let net = Net::start().await;
    for headers in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 6",
        "content-length: +5",
        "content-length: -1",
        "content-length: 0x5",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding : chunked",
        "transfer-encoding: chunked\r\n x-folded: 1",
        "x-nul: a\0b",
        "x-cr: a\rb",
    ] {
        let answer = exchange(&net, chunked(&net, headers, "")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{headers:?}: {answer}");
        assert_eq!(answers(&answer), 1, "{headers:?}");
    }
    let old = "POST /v1/completions HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(exchange(&net, old).await.contains(" 400 "));
    for nonsense in
        ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1 x\r\n\r\n"]
    {
        let answer = exchange(&net, nonsense).await;
        // To HTTP/2 there is nothing to say in HTTP/1.1.
        assert!(answer.split(' ').nth(1).is_none_or(|status| status >= "400"), "{answer:?}");
    }
}

#[tokio::test]
async fn chunks_of_absurd_sizes_are_refused() {
    let net = Net::with_api(ApiSettings::default().with_body_limit(1000)).await;
    let extension = format!("1;{}\r\nx\r\n", "e".repeat(20 << 10));
    for body in
        ["fffffffffffffffff\r\n", "-1\r\n", "0x10\r\n", "g\r\n", "1\r\nxx\r\n", extension.as_str()]
    {
        let request = chunked(&net, "transfer-encoding: chunked", body);
        let reply = send(net.address, request).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{body:.20}");
    }
    // A chunk that is announced to be endless counts by what comes of it.
    let endless = format!("fffffffffffffff\r\n{}", "x".repeat(2000));
    let reply = send(net.address, chunked(&net, "transfer-encoding: chunked", &endless)).await;
    assert_eq!((reply.status, reply.error_code()), (413, json!("request_too_large")));
    let trailers = format!("0\r\n{}\r\n", "x-trailer: y\r\n".repeat(5000));
    let reply = send(net.address, chunked(&net, "transfer-encoding: chunked", &trailers)).await;
    assert_eq!((reply.status, reply.error_code()), (400, json!(null)));
}
