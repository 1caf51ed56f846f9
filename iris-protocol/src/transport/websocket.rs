//! Frames over a WebSocket, on any byte stream.
//!
//! Text frames are text messages, binary frames are binary messages; nothing is compressed,
//! because the length of compressed output tells about its content. Pings are answered while
//! the stream is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, handshake};

pub use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::TransportError;
use crate::frame::{Frame, Utf8};
use crate::limits::MAX_FRAME;

/// Bytes read at once. Ten thousand idle connections cost 65 MB with this, and 1.3 GB with the
/// library's default.
const READ_BUFFER: usize = 4 << 10;

/// Bytes that may wait to be written before a sender has to.
const WRITE_BUFFER: usize = 32 << 10;

/// One end of a WebSocket connection.
#[derive(Debug)]
pub struct WebSocket<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Opens a connection over `stream`, which leads to the server that `request` names.
    ///
    /// The caller has set `TCP_NODELAY`, secured the stream where needed, and bounds the time.
    pub async fn client(
        stream: S,
        request: impl IntoClientRequest + Unpin,
    ) -> Result<Self, TransportError> {
        let opened =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config())).await;
        opened.map(|(socket, _)| Self(socket)).map_err(error)
    }

    /// Takes over a stream whose HTTP connection has just been upgraded by the server's answer
    /// 101, with [`accept_key`] as `Sec-WebSocket-Accept`.
    pub async fn server_from_upgraded(stream: S) -> Self {
        Self(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
    }

    /// Asks the other side for a sign of life, which comes while the stream is read.
    pub async fn ping(&mut self) -> Result<(), TransportError> {
        self.0.send(Message::Ping(Bytes::new())).await.map_err(error)
    }
}

/// Returns the `Sec-WebSocket-Accept` that answers a client's `Sec-WebSocket-Key`.
pub fn accept_key(client_key: &[u8]) -> String {
    handshake::derive_accept_key(client_key)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for WebSocket<S> {
    type Item = Result<Frame, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.0).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(cause)) => return Poll::Ready(Some(Err(error(cause)))),
                Some(Ok(Message::Text(text))) => Frame::Text(Utf8::checked(Bytes::from(text))),
                Some(Ok(Message::Binary(bytes))) => Frame::Binary(bytes),
                // The library answers pings and closing by itself on the next read.
                Some(Ok(_)) => continue,
            };
            return Poll::Ready(Some(Ok(frame)));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Frame> for WebSocket<S> {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_ready(cx).map_err(error)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), Self::Error> {
        if frame.len() > MAX_FRAME {
            return Err(TransportError::TooLong);
        }
        let message = match frame {
            Frame::Binary(bytes) => Message::Binary(bytes),
            Frame::Text(text) => Message::Text(
                Utf8Bytes::try_from(text.into_bytes()).expect("a text frame is UTF-8"),
            ),
        };
        Pin::new(&mut self.0).start_send(message).map_err(error)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(error)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_close(cx).map_err(error)
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
}

fn error(cause: Error) -> TransportError {
    match cause {
        Error::ConnectionClosed | Error::AlreadyClosed => TransportError::Closed,
        Error::Io(cause) => TransportError::Io(cause.kind()),
        Error::Capacity(_) => TransportError::TooLong,
        Error::Http(response) => TransportError::Refused(response.status().as_u16()),
        _ => TransportError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const KIB: usize = 1 << 10;

    async fn pair() -> (WebSocket<DuplexStream>, WebSocket<DuplexStream>) {
        let (near, far) = duplex(4 * KIB);
        let accept = tokio_tungstenite::accept_async_with_config(far, Some(config()));
        let (client, server) =
            tokio::join!(WebSocket::client(near, "ws://localhost/nodes/connect"), accept);
        (client.unwrap(), WebSocket(server.unwrap()))
    }

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Text(Utf8::from("{\"ü\":1}".to_owned())),
            Frame::Binary(Bytes::new()),
            Frame::Binary(vec![7; 100 * KIB].into()),
            Frame::Binary(vec![8; MAX_FRAME].into()),
        ]
    }

    #[tokio::test]
    async fn frames_survive_both_ways() {
        let (client, server) = pair().await;
        let (other_client, other_server) = pair().await;
        for (mut from, mut to) in [(client, server), (other_server, other_client)] {
            let sent = async {
                for frame in frames() {
                    from.send(frame).await.unwrap();
                }
            };
            let received = async { (&mut to).take(frames().len()).collect::<Vec<_>>().await };
            let ((), received) = tokio::join!(sent, received);
            assert_eq!(received.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), frames());
        }
    }

    #[tokio::test]
    async fn closing_ends_both_sides_in_order() {
        let (mut client, mut server) = pair().await;
        client.send(frames().remove(0)).await.unwrap();
        let (closed, received) = tokio::join!(
            async {
                client.close().await.unwrap();
                client.next().await
            },
            async {
                let received = (server.next().await, server.next().await);
                // The server is the one to end the connection below.
                drop(server);
                received
            }
        );
        assert_eq!(received, (Some(Ok(frames().remove(0))), None));
        assert_eq!(closed, None);
    }

    #[tokio::test]
    async fn a_lost_connection_is_an_error_and_not_an_end() {
        let (mut client, server) = pair().await;
        drop(server);
        assert!(matches!(client.next().await, Some(Err(_))));
    }

    #[tokio::test]
    async fn an_overlong_frame_is_refused_on_both_sides() {
        let (mut client, _server) = pair().await;
        let long = Frame::Binary(vec![0; MAX_FRAME + 1].into());
        assert_eq!(client.send(long).await, Err(TransportError::TooLong));

        let (mut raw, far) = duplex(KIB);
        let mut server = WebSocket::server_from_upgraded(far).await;
        // A masked binary message that announces one byte too many.
        let mut header = vec![0x82, 0xff];
        header.extend((MAX_FRAME as u64 + 1).to_be_bytes());
        header.extend([0; 4]);
        raw.write_all(&header).await.unwrap();
        assert_eq!(server.next().await, Some(Err(TransportError::TooLong)));
    }

    #[tokio::test]
    async fn pings_are_answered_while_nothing_else_is_sent() {
        let (mut raw, far) = duplex(KIB);
        let mut server = WebSocket::server_from_upgraded(far).await;
        raw.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
        let mut pong = [0; 3];
        tokio::select! {
            frame = server.next() => panic!("a ping is no frame: {frame:?}"),
            read = raw.read_exact(&mut pong) => read.map(|_| ()).unwrap(),
        }
        assert_eq!(pong, [0x8a, 1, b'x']);
    }

    #[tokio::test]
    async fn a_server_that_refuses_tells_its_status() {
        let (near, mut far) = duplex(KIB);
        let answer = async {
            let mut request = [0; KIB];
            let _ = far.read(&mut request).await.unwrap();
            far.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (opened, ()) = tokio::join!(WebSocket::client(near, "ws://localhost/"), answer);
        assert_eq!(opened.map(|_| ()), Err(TransportError::Refused(401)));
    }

    #[test]
    fn the_accept_key_is_the_standards_example() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    /// Pieces of frames, masked with zeros, and what is none.
    fn almost_frames() -> impl Strategy<Value = Vec<u8>> {
        let opcode =
            prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0xc1]);
        let frame =
            (opcode, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(first, text)| {
                let length = 0x80 | u8::try_from(text.len()).unwrap();
                [&[first, length, 0, 0, 0, 0][..], &text].concat()
            });
        let junk = prop::collection::vec(any::<u8>(), 0..30);
        prop::collection::vec(prop_oneof![4 => frame, 1 => junk], 0..6)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_error_after_frames_within_the_bounds(bytes in almost_frames()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut raw, far) = duplex(bytes.len() + 64 * KIB);
                raw.write_all(&bytes).await.unwrap();
                raw.shutdown().await.unwrap();
                let mut server = WebSocket::server_from_upgraded(far).await;
                while let Some(Ok(frame)) = server.next().await {
                    assert!(frame.len() <= MAX_FRAME);
                }
            });
        }
    }
}
