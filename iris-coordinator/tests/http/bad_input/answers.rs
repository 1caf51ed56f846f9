//! What a node's model writes stays inside of its event.

use super::*;

const ENDS: [&str; 8] = [
    "\n\ndata: [DONE]\n\n",
    "\r\rdata: {}\r\r",
    "data: [DONE]",
    "\u{2028}data: [DONE]\u{2029}",
    "\u{85}event: error\u{85}",
    "\0\u{1b}[2J\u{7f}",
    "\"}]}\\",
    "\u{feff}\u{202e}",
];

/// Reads a stream by the letter of the standard: a line ends with LF, CRLF or CR.
fn lines(reply: &Reply) -> Vec<&str> {
    reply.text().split(['\n', '\r']).filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn text_of_any_kind_is_the_text_of_one_event() {
    let net = Net::start().await;
    let steps = ENDS.iter().map(|text| Step::text(text)).chain([Step::Finish("stop")]);
    net.node(steps.collect()).await;
    let reply = net.chat(r#","stream":true"#).await;
    let texts: Vec<_> = reply.events();
    let texts: Vec<_> =
        texts.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(texts.concat(), ENDS.concat());
    let lines = lines(&reply);
    assert!(lines.iter().all(|line| line.starts_with("data: ")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| **line == "data: [DONE]").count(), 1);
}

#[tokio::test]
async fn deltas_that_are_none_end_the_stream_with_an_error() {
    for json in [
        r#"{"choices":[{}],"choices":[{}]}"#,
        r#"{"choices":[{}],"\u0063hoices":[{}]}"#,
        r#"{"choices":[{}],"id":"chatcmpl-0"}"#,
        r#"{"choices":[{}],"error":null}"#,
        "{\"choices\":[{\"delta\":\n{}}]}",
        "{\"choices\":[{\"delta\":{\"content\":\"a\rb\"}}]}",
        r#"{"choices":[{"delta":{"content":"\ud8"}}]}"#,
        r#"{"choices":[{}]} {"choices":[{}]}"#,
        "\u{feff}{\"choices\":[{}]}",
        "[DONE]",
        "",
    ] {
        let net = Net::start().await;
        net.node(vec![Step::text("a"), Step::json(json), Step::Finish("stop")]).await;
        let reply = net.chat(r#","stream":true"#).await;
        let events = reply.events();
        assert!(events.last().unwrap()["error"].is_object(), "{json}: {}", reply.text());
        assert!(!reply.text().contains("[DONE]"), "{json}");
    }
}

#[tokio::test]
async fn answers_nested_without_end_are_refused() {
    let net = Net::start().await;
    let deep = format!(r#"{{"choices":[{{"x":{}{}}}]}}"#, "[".repeat(5000), "]".repeat(5000));
    let deep: &'static str = deep.leak();
    net.node(vec![Step::whole(deep), Step::Finish("stop")]).await;
    let reply = net.chat("").await;
    assert_eq!((reply.status, reply.error_code()), (502, json!("nodes_failed")));
}
