//! Bytes where a WebSocket should be end in an error, after frames within the bounds.

#![no_main]

use std::cell::LazyCell;

use futures::StreamExt;
use iris_protocol::limits::MAX_FRAME;
use iris_protocol::transport::websocket::WebSocket;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        LazyCell::new(|| Builder::new_current_thread().build().expect("a runtime"));
}

fuzz_target!(|bytes: &[u8]| {
    RUNTIME.with(|runtime| runtime.block_on(read(bytes)));
});

async fn read(bytes: &[u8]) {
    let (mut peer, near) = tokio::io::duplex(bytes.len() + (64 << 10));
    peer.write_all(bytes).await.expect("the pipe holds everything");
    peer.shutdown().await.expect("the pipe is open");
    let mut socket = WebSocket::server_from_upgraded(near).await;
    while let Some(Ok(frame)) = socket.next().await {
        assert!(frame.len() <= MAX_FRAME);
    }
}
