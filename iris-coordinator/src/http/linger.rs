//! Closes connections so that a refusal arrives.
//!
//! A system that closes a socket with unread bytes resets the connection, and the reset takes
//! away what the peer has not read yet. A caller that is refused in the midst of its upload would
//! find a broken connection in place of the reason.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a refused caller may go on sending.
const LIMIT: Duration = Duration::from_secs(2);

/// Whether a connection holds a body that nobody read to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Returns `body`, watched until its end.
    pub(super) fn watch(&self, body: Incoming) -> Watched {
        self.note(&body);
        Watched { body, unread: self.clone() }
    }

    fn note(&self, body: &Incoming) {
        self.0.store(!body.is_end_stream(), Ordering::Relaxed);
    }

    fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body.
#[derive(Debug)]
pub(super) struct Watched {
    body: Incoming,
    unread: Unread,
}

impl Body for Watched {
    type Data = <Incoming as Body>::Data;
    type Error = <Incoming as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.unread.note(&self.body);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that reads on for a while, once it is shut down, if a body was left unread.
#[derive(Debug)]
pub(super) struct Lingering<S> {
    io: S,
    unread: Unread,
    /// Set once the sending side is shut down.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(super) const fn new(io: S, unread: Unread) -> Self {
        Self { io, unread, until: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.until.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.unread.is_so() {
                return Poll::Ready(Ok(()));
            }
        }
        let until = this.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(LIMIT)));
        let mut thrown_away = [0; 16 << 10];
        while until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    fn pair(unread: bool) -> (Lingering<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (here, there) = tokio::io::duplex(64);
        (Lingering::new(here, Unread(Arc::new(unread.into()))), there)
    }

    #[tokio::test(start_paused = true)]
    async fn upload_is_let_out_before_the_connection_closes() {
        let (mut here, mut there) = pair(true);
        let closing = tokio::spawn(async move {
            here.write_all(b"refused").await.unwrap();
            here.shutdown().await.unwrap();
        });
        there.write_all(&vec![0; 100_000]).await.unwrap();
        let mut reply = [0; 7];
        there.read_exact(&mut reply).await.unwrap();
        drop(there);
        closing.await.unwrap();
        assert_eq!(&reply, b"refused");
    }

    #[tokio::test(start_paused = true)]
    async fn caller_that_never_ends_is_left_after_two_seconds() {
        let (mut here, mut there) = pair(true);
        let begun = Instant::now();
        let endless = tokio::spawn(async move {
            while there.write_all(&[0; 64]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        here.shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 2);
        drop(here);
        endless.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_an_unread_body_closes_at_once() {
        let (mut here, _there) = pair(false);
        let begun = Instant::now();
        here.shutdown().await.unwrap();
        assert!(begun.elapsed().is_zero());
    }
}
