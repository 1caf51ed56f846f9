//! Frames within one process, through two bounded channels.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::{Sink, Stream};

use super::TransportError;
use crate::frame::Frame;
use crate::limits::MAX_FRAME;

/// One end of an in-memory connection; dropping it closes both directions.
#[derive(Debug)]
pub struct Memory {
    sender: Sender<Frame>,
    receiver: Receiver<Frame>,
}

/// Makes both ends of a connection that holds `capacity` frames each way, and one more.
pub fn pair(capacity: usize) -> (Memory, Memory) {
    let (left, from_left) = channel(capacity);
    let (right, from_right) = channel(capacity);
    let near = Memory { sender: left, receiver: from_right };
    let far = Memory { sender: right, receiver: from_left };
    (near, far)
}

impl Stream for Memory {
    type Item = Result<Frame, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(cx).map(|frame| frame.map(Ok))
    }
}

impl Sink<Frame> for Memory {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let ready = ready!(Pin::new(&mut self.sender).poll_ready(cx));
        Poll::Ready(ready.map_err(|_| TransportError::Closed))
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), Self::Error> {
        if frame.len() > MAX_FRAME {
            return Err(TransportError::TooLong);
        }
        Pin::new(&mut self.sender).start_send(frame).map_err(|_| TransportError::Closed)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.close_channel();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::{FutureExt, SinkExt, StreamExt};

    use super::*;

    fn frame(length: usize) -> Frame {
        Frame::Binary(vec![0; length].into())
    }

    #[test]
    fn frames_arrive_in_order_until_the_other_side_leaves() {
        let (mut near, mut far) = pair(2);
        block_on(near.send(frame(1))).unwrap();
        block_on(near.send(frame(2))).unwrap();
        drop(near);
        assert_eq!(block_on(far.next()), Some(Ok(frame(1))));
        assert_eq!(block_on(far.next()), Some(Ok(frame(2))));
        assert_eq!(block_on(far.next()), None);
        assert_eq!(block_on(far.send(frame(1))), Err(TransportError::Closed));
    }

    #[test]
    fn a_full_connection_waits_for_its_reader() {
        let (mut near, mut far) = pair(1);
        let sent = (0..10).take_while(|_| near.send(frame(1)).now_or_never().is_some()).count();
        assert_eq!(sent, 2);
        block_on(far.next()).unwrap().unwrap();
        assert!(near.flush().now_or_never().is_some());
    }

    #[test]
    fn overlong_frames_are_refused() {
        let (mut near, _far) = pair(1);
        assert_eq!(block_on(near.send(frame(MAX_FRAME + 1))), Err(TransportError::TooLong));
    }
}
