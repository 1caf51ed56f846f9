//! What carries frames from one end to the other.
//!
//! A transport is a `Stream` of frames and a `Sink` for them at once: it keeps their order and
//! loses none while it lasts. It ends with `None` when the other side has closed it, and with an
//! error when it broke.

use std::io;

use futures::{Sink, Stream};

use crate::frame::Frame;

pub mod memory;
#[cfg(feature = "websocket")]
pub mod tcp;
#[cfg(feature = "websocket")]
pub mod websocket;

/// Anything that carries frames both ways.
pub trait Transport:
    Stream<Item = Result<Frame, TransportError>> + Sink<Frame, Error = TransportError> + Send
{
}

impl<T> Transport for T where
    T: Stream<Item = Result<Frame, TransportError>> + Sink<Frame, Error = TransportError> + Send
{
}

/// Says why a transport broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The other side is gone.
    #[error("the transport is closed")]
    Closed,
    /// The connection below it failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// A frame exceeds [`MAX_FRAME`](crate::limits::MAX_FRAME).
    #[error("a frame exceeds 1 MiB")]
    TooLong,
    /// The other side does not speak the transport's protocol.
    #[error("the other side breaks the transport's rules")]
    Malformed,
    /// The other side answered the opening request with another HTTP status.
    #[error("the other side answered with HTTP status {0}")]
    Refused(u16),
}
