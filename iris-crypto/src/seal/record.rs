//! The records that an answer travels in.

/// The most bytes of a record after its length.
pub const MAX_RECORD: usize = 66_000;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A sign of life of the relay.
    KeepAlive,
    /// The node's random bytes and its commitment to the answer's key.
    Opening,
    /// A part of the answer.
    Frame,
    /// What the node signed.
    Receipt,
    /// The relay's advice on what went wrong.
    Failure,
    /// A kind that this version does not know; to be skipped.
    Other(u8),
}

impl RecordKind {
    const fn number(self) -> u8 {
        match self {
            Self::KeepAlive => 0,
            Self::Opening => 1,
            Self::Frame => 2,
            Self::Receipt => 3,
            Self::Failure => 4,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::KeepAlive,
            1 => Self::Opening,
            2 => Self::Frame,
            3 => Self::Receipt,
            4 => Self::Failure,
            other => Self::Other(other),
        }
    }
}

/// One record of an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({:?}, {} bytes)", self.kind, self.payload.len())
    }
}

/// Appends a record.
///
/// # Panics
///
/// When the payload is longer than a record can carry.
pub fn write_record(kind: RecordKind, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(5 + payload.len());
    out.extend_from_slice(&length(1 + payload.len()));
    out.push(kind.number());
    out.extend_from_slice(payload);
}

/// Returns the length field of a record with `length` bytes behind it.
pub(super) fn length(length: usize) -> [u8; 4] {
    assert!(length <= MAX_RECORD, "records are bounded where they are made");
    u32::try_from(length).expect("a record is short").to_be_bytes()
}

/// The peer announced a record that is longer than allowed, or has no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of the answer has no length that is allowed")]
pub struct RecordTooLong;

/// Takes bytes in as they arrive, and gives records out.
///
/// Holds at most one record that is not complete, beside what was pushed at once.
#[derive(Debug, Default)]
pub struct RecordReader {
    bytes: Vec<u8>,
    /// How many of them were given out.
    read: usize,
}

impl RecordReader {
    /// Makes a reader that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next record that is complete.
    pub fn pop(&mut self) -> Result<Option<Record>, RecordTooLong> {
        let Some((length, rest)) = self.bytes[self.read..].split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if !(1..=MAX_RECORD).contains(&length) {
            return Err(RecordTooLong);
        }
        let Some(record) = rest.get(..length) else {
            return Ok(None);
        };
        let record =
            Record { kind: RecordKind::from_number(record[0]), payload: record[1..].to_vec() };
        self.read += 4 + length;
        Ok(Some(record))
    }

    /// Returns whether nothing of a further record has arrived.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == self.read
    }
}
