//! What a connection carries: control messages as text, everything else in binary.
//!
//! A binary frame starts with 16 bytes, big-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 `BODY`, 2 `STREAM`, 3 `ACK` |
//! | 1 | 1 | flags, by kind; undefined bits are zero |
//! | 2 | 2 | zero |
//! | 4 | 4 | sequence number, from 0; zero in `ACK` |
//! | 8 | 8 | assignment; zero in `ACK` |
//!
//! `BODY` (coordinator to node) is a part of a prompt; flag 1 marks the last part. `STREAM`
//! (node to coordinator) is a part of an answer: the flags' low two bits say what it is (1 text,
//! 2 JSON delta, 3 whole answer), bit 2 that the same piece goes on in the next frame. Bit 3
//! stands alone: whole records of an answer that is sealed for the caller. The payloads of both
//! kinds are sealed for the hop, with the 16 bytes of the header as associated data. `ACK`
//! (coordinator to node) lists up to 1024 pairs of assignment (8 bytes) and the next sequence
//! number that is not acknowledged (4 bytes).

use std::fmt;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use iris_core::AssignmentId;

use crate::limits::{MAX_ACKS, MAX_CONTENT, MAX_FRAME};

/// Length of a binary frame's header.
pub const HEADER_LEN: usize = 16;

const ACK_LEN: usize = 12;

/// One unit of a transport.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// A control message: JSON.
    Text(Utf8),
    /// A header and its payload.
    Binary(Bytes),
}

impl Frame {
    /// Returns the frame's length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.as_bytes().len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Returns whether the frame has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Text(_)) { "Text" } else { "Binary" };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

/// Bytes that are UTF-8. Cloning shares them.
#[derive(Clone, PartialEq, Eq)]
pub struct Utf8(Bytes);

impl Utf8 {
    /// Takes bytes over that are known to be UTF-8.
    #[cfg(feature = "websocket")]
    pub(crate) fn checked(bytes: Bytes) -> Self {
        debug_assert!(std::str::from_utf8(&bytes).is_ok(), "a text frame is UTF-8");
        Self(bytes)
    }

    /// Returns the text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text's bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<String> for Utf8 {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl TryFrom<Bytes> for Utf8 {
    type Error = std::str::Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self(bytes))
    }
}

/// What a part of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Text that the first choice continues with.
    Text,
    /// Another step of a streamed answer: a JSON object.
    Json,
    /// A whole answer that was not streamed: a JSON object.
    Whole,
    /// One or more whole records that only the caller can open; never cut over two frames.
    Sealed,
}

impl Content {
    const fn bits(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Json => 2,
            Self::Whole => 3,
            Self::Sealed => 8,
        }
    }
}

/// The first 16 bytes of a `BODY` or `STREAM` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Which assignment the frame belongs to.
    pub assignment: AssignmentId,
    /// The frame's place among the assignment's frames of this kind, from 0.
    pub seq: u32,
    /// What the frame carries.
    pub part: Part,
}

/// What a `BODY` or `STREAM` frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// A part of a prompt.
    Body {
        /// Whether it is the last one.
        last: bool,
    },
    /// A part of an answer.
    Stream {
        /// What the piece is.
        content: Content,
        /// Whether the piece goes on in the next frame; never for [`Content::Sealed`].
        more: bool,
    },
}

impl Header {
    /// Makes the header of a part of a prompt.
    pub const fn body(assignment: AssignmentId, seq: u32, last: bool) -> Self {
        Self { assignment, seq, part: Part::Body { last } }
    }

    /// Makes the header of a part of an answer.
    pub const fn stream(assignment: AssignmentId, seq: u32, content: Content, more: bool) -> Self {
        Self { assignment, seq, part: Part::Stream { content, more } }
    }

    /// Returns the header's bytes: the start of the frame, and the associated data under which
    /// its payload is sealed.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let (kind, flags) = match self.part {
            Part::Body { last } => (1, u8::from(last)),
            Part::Stream { content, more } => (2, content.bits() | u8::from(more) << 2),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = kind;
        bytes[1] = flags;
        bytes[4..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..].copy_from_slice(&self.assignment.0.to_be_bytes());
        bytes
    }
}

/// Returns the ranges into which content of `length` bytes is cut, one for each frame.
///
/// Each is as long as a sealed frame allows, the last excepted; empty content is one empty range.
pub fn parts(length: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let count = length.div_ceil(MAX_CONTENT).max(1);
    (0..count).map(move |n| n * MAX_CONTENT..length.min((n + 1) * MAX_CONTENT))
}

/// A binary frame, taken apart without copying its payload.
#[derive(Clone, PartialEq, Eq)]
pub enum BinaryFrame {
    /// A part of a prompt or an answer.
    Data(DataFrame),
    /// Which parts of answers arrived.
    Ack(Acks),
}

/// A `BODY` or `STREAM` frame.
#[derive(Clone, PartialEq, Eq)]
pub struct DataFrame {
    /// What the payload is, and its associated data.
    pub header: Header,
    /// The sealed content.
    pub payload: Bytes,
}

impl DataFrame {
    /// Returns the length of the frame with its header, which is what windows count.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Returns the frame as it is sent.
    ///
    /// Copies the payload; a sender on the hot path writes [`Header::encode`] into a buffer and
    /// seals the content right behind it instead.
    pub fn encode(&self) -> Frame {
        let mut bytes = BytesMut::with_capacity(self.wire_len());
        bytes.put_slice(&self.header.encode());
        bytes.put_slice(&self.payload);
        Frame::Binary(bytes.freeze())
    }
}

impl fmt::Debug for DataFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads never reach logs, not even sealed ones.
        write!(f, "DataFrame({:?}, {} bytes)", self.header, self.payload.len())
    }
}

impl fmt::Debug for BinaryFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => data.fmt(f),
            Self::Ack(acks) => acks.fmt(f),
        }
    }
}

impl BinaryFrame {
    /// Takes a binary frame apart.
    pub fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLong);
        }
        if bytes.len() < HEADER_LEN {
            return Err(FrameError::Truncated);
        }
        let (kind, flags, reserved) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u16());
        let (seq, assignment) = (bytes.get_u32(), AssignmentId(bytes.get_u64()));
        if reserved != 0 {
            return Err(FrameError::Reserved);
        }
        let part = match (kind, flags) {
            (1, 0 | 1) => Part::Body { last: flags == 1 },
            (2, 8) => Part::Stream { content: Content::Sealed, more: false },
            (2, 1..=3 | 5..=7) => {
                let content = match flags & 3 {
                    1 => Content::Text,
                    2 => Content::Json,
                    _ => Content::Whole,
                };
                Part::Stream { content, more: flags & 4 != 0 }
            }
            (3, 0) if seq == 0 && assignment.0 == 0 => return Acks::new(bytes).map(Self::Ack),
            (1..=3, _) => return Err(FrameError::Reserved),
            _ => return Err(FrameError::UnknownKind(kind)),
        };
        Ok(Self::Data(DataFrame { header: Header { assignment, seq, part }, payload: bytes }))
    }
}

/// The entries of an acknowledgement frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Acks(Bytes);

impl Acks {
    fn new(entries: Bytes) -> Result<Self, FrameError> {
        let fits = (1..=MAX_ACKS).contains(&(entries.len() / ACK_LEN));
        if fits && entries.len().is_multiple_of(ACK_LEN) {
            Ok(Self(entries))
        } else {
            Err(FrameError::BadAcks)
        }
    }

    /// Returns the frame that acknowledges, for each assignment, everything before a sequence
    /// number; `None` without entries.
    ///
    /// Takes at most 1024 entries and leaves the rest in the iterator.
    pub fn encode(entries: &mut impl Iterator<Item = (AssignmentId, u32)>) -> Option<Frame> {
        let mut bytes = BytesMut::new();
        for (assignment, next) in entries.take(MAX_ACKS) {
            if bytes.is_empty() {
                bytes.put_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            }
            bytes.put_u64(assignment.0);
            bytes.put_u32(next);
        }
        (!bytes.is_empty()).then(|| Frame::Binary(bytes.freeze()))
    }

    /// Iterates over assignments and their next unacknowledged sequence numbers.
    pub fn iter(&self) -> impl Iterator<Item = (AssignmentId, u32)> + '_ {
        self.0
            .chunks_exact(ACK_LEN)
            .map(|mut entry| (AssignmentId(entry.get_u64()), entry.get_u32()))
    }
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Says why a binary frame cannot be read. Always the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame exceeds 1 MiB")]
    TooLong,
    /// Shorter than its header.
    #[error("a frame is shorter than its header")]
    Truncated,
    /// A kind this version does not know.
    #[error("a frame has the unknown kind {0}")]
    UnknownKind(u8),
    /// A bit or field that must be zero is not.
    #[error("a frame sets bits that have no meaning")]
    Reserved,
    /// An acknowledgement with a cut entry, no entry or more than 1024.
    #[error("an acknowledgement does not hold 1 to 1024 whole entries")]
    BadAcks,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let content = prop_oneof![Just(Content::Text), Just(Content::Json), Just(Content::Whole)];
        let part = prop_oneof![
            any::<bool>().prop_map(|last| Part::Body { last }),
            (content, any::<bool>()).prop_map(|(content, more)| Part::Stream { content, more }),
            Just(Part::Stream { content: Content::Sealed, more: false }),
        ];
        (any::<u64>(), any::<u32>(), part).prop_map(|(assignment, seq, part)| Header {
            assignment: AssignmentId(assignment),
            seq,
            part,
        })
    }

    proptest! {
        #[test]
        fn data_frames_survive_the_wire(
            header in header(),
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let data = DataFrame { header, payload: payload.into() };
            let Frame::Binary(bytes) = data.encode() else { panic!("data frames are binary") };
            prop_assert_eq!(&bytes[..HEADER_LEN], &header.encode());
            prop_assert_eq!(bytes.len(), data.wire_len());
            prop_assert_eq!(BinaryFrame::decode(bytes), Ok(BinaryFrame::Data(data)));
        }

        #[test]
        fn every_readable_frame_has_one_encoding(
            bytes in prop::collection::vec(prop_oneof![0u8..9, any::<u8>()], 0..64),
        ) {
            let bytes = Bytes::from(bytes);
            let again = match BinaryFrame::decode(bytes.clone()) {
                Ok(BinaryFrame::Data(data)) => data.encode(),
                Ok(BinaryFrame::Ack(acks)) => Acks::encode(&mut acks.iter()).unwrap(),
                Err(_) => return Ok(()),
            };
            prop_assert_eq!(again, Frame::Binary(bytes));
        }

        #[test]
        fn acknowledgements_survive_the_wire(
            entries in prop::collection::vec((any::<u64>(), any::<u32>()), 0..1500),
        ) {
            let mut left = entries.iter().map(|(id, next)| (AssignmentId(*id), *next));
            let mut read = Vec::new();
            while let Some(Frame::Binary(bytes)) = Acks::encode(&mut left) {
                let Ok(BinaryFrame::Ack(acks)) = BinaryFrame::decode(bytes) else {
                    panic!("an encoded acknowledgement is readable")
                };
                read.extend(acks.iter().map(|(id, next)| (id.0, next)));
            }
            prop_assert_eq!(read, entries);
        }
    }

    #[test]
    fn parts_cover_content_of_any_length_without_overlap() {
        for length in [0, 1, MAX_CONTENT, MAX_CONTENT + 1, 3 * MAX_CONTENT] {
            let parts: Vec<_> = parts(length).collect();
            assert_eq!(parts.len(), length.div_ceil(MAX_CONTENT).max(1));
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, length));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(parts.iter().all(|part| part.len() <= MAX_CONTENT));
        }
    }

    #[test]
    fn meaningless_bits_are_refused() {
        let good = Header::stream(AssignmentId(7), 1, Content::Text, false).encode();
        for (at, value) in [(1, 0), (1, 4), (1, 8 | 1), (1, 8 | 4), (1, 16), (2, 1), (3, 1)] {
            let mut bad = good;
            bad[at] = value;
            let read = BinaryFrame::decode(Bytes::copy_from_slice(&bad));
            assert_eq!(read, Err(FrameError::Reserved), "byte {at} = {value}");
        }
        let mut unknown = good;
        unknown[0] = 4;
        let read = BinaryFrame::decode(Bytes::copy_from_slice(&unknown));
        assert_eq!(read, Err(FrameError::UnknownKind(4)));
    }

    #[test]
    fn a_frame_may_be_exactly_as_long_as_allowed() {
        let frame = |length| {
            let mut bytes = Header::body(AssignmentId(1), 0, true).encode().to_vec();
            bytes.resize(length, 0);
            BinaryFrame::decode(bytes.into())
        };
        assert!(frame(MAX_FRAME).is_ok());
        assert_eq!(frame(MAX_FRAME + 1), Err(FrameError::TooLong));
        assert_eq!(BinaryFrame::decode(Bytes::from_static(&[1; 15])), Err(FrameError::Truncated));
    }
}
