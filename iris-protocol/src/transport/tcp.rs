//! How both sides keep a TCP connection, and how they find out that its peer is gone.
//!
//! A peer whose machine loses power or network says nothing, and a peer that is alive may read
//! nothing. [`prepare`] lets the system find the first, [`Patient`] finds the second.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a peer may leave everything unanswered that is sent to it, unless set: 60 s.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Unanswered questions after which a silent peer counts as gone.
const PROBES: u32 = 3;

/// Sets a socket up: small writes go out at once, and a peer that acknowledges nothing for about
/// `patience` ends the connection, whether something is under way to it or not.
///
/// The second half is a matter of the system; where it has no such thing, nothing is set.
pub fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    // Small writes that wait for acknowledgements stall streams by 40 ms.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let step = (patience / (PROBES + 1)).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(step);
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
    let keepalive = keepalive.with_interval(step);
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    let keepalive = keepalive.with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(patience))?;
    Ok(())
}

/// A byte stream that fails when its peer takes nothing for too long.
///
/// Whoever writes to it is held up by a peer that does not read, and with it all that the writer
/// holds. After `patience` without a byte taken, writing fails with [`io::ErrorKind::TimedOut`].
/// A stream that nobody writes to waits for as long as it likes.
pub struct Patient<S> {
    io: S,
    patience: Duration,
    /// Runs since the peer took the last byte, while there is more for it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Makes `io` fail after `patience`.
    pub const fn new(io: S, patience: Duration) -> Self {
        Self { io, patience, stalled: None }
    }

    /// Passes on what came of writing, or gives up.
    fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.judge(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge(outcome, cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for Patient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patient")
            .field("io", &self.io)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (Patient<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(64);
        (Patient::new(here, PATIENCE), there)
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_reads_nothing_is_left_after_a_minute() {
        let (mut here, _there) = pair();
        let begun = Instant::now();
        let error = here.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_reads_slowly_keeps_its_connection() {
        let (mut here, mut there) = pair();
        let begun = Instant::now();
        let reading = tokio::spawn(async move {
            let mut read = 0;
            while read < 200 {
                tokio::time::sleep(Duration::from_secs(59)).await;
                read += there.read(&mut [0; 10]).await.unwrap();
            }
            there
        });
        here.write_all(&[0; 200]).await.unwrap();
        assert!(begun.elapsed() > 10 * PATIENCE);
        reading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_no_fault_while_there_is_nothing_to_take() {
        let (mut here, mut there) = pair();
        here.write_all(&[0; 64]).await.unwrap();
        let read = tokio::time::timeout(10 * PATIENCE, here.read(&mut [0])).await;
        assert!(read.is_err(), "it goes on waiting");
        there.read_exact(&mut [0; 64]).await.unwrap();
        here.write_all(&[0; 64]).await.unwrap();
    }

    #[tokio::test]
    async fn sockets_are_set_up_with_what_the_system_has() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, PATIENCE).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PATIENCE));
    }
}
