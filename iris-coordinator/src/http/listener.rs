use std::future::Future;
use std::io;
use std::net::SocketAddr;

use iris_protocol::transport::tcp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Where connections come from: a TCP socket, or a simulated network.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection and returns it with its peer's address. Dropping the future
    /// loses no connection.
    ///
    /// After an error the server waits a moment and asks again.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;

    /// Returns the address that callers connect to.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let (stream, peer) = TcpListener::accept(self).await?;
            // A socket that cannot be set up has lost its peer already.
            if tcp::prepare(&stream, tcp::PATIENCE).is_ok() {
                return Ok((stream, peer));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
