//! What a frame holds: pieces of an answer, and zeros.

use super::Shape;
use super::record::MAX_RECORD;
use crate::numbered_aead::TAG_LEN;

/// The bytes of a frame's text in shapes that hide lengths.
pub const SHAPED_FRAME: usize = 256;

/// The most bytes of a frame's text.
const MAX_TEXT: usize = MAX_RECORD - 1 - TAG_LEN;

/// Bytes of a piece before its data.
const HEAD: usize = 3;

/// Marks a piece that goes on in the next one.
const MORE: u8 = 0x80;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Whole,
    Fault,
    End,
    Json,
    Receipt,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Whole => 2,
            Self::Fault => 3,
            Self::End => 4,
            Self::Json => 5,
            Self::Receipt => 6,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Text),
            2 => Some(Self::Whole),
            3 => Some(Self::Fault),
            4 => Some(Self::End),
            5 => Some(Self::Json),
            6 => Some(Self::Receipt),
            _ => None,
        }
    }

    /// Returns whether its data is part of what the caller asked for.
    pub(super) const fn is_content(self) -> bool {
        matches!(self, Self::Text | Self::Whole | Self::Json)
    }
}

/// The pieces of one frame that is not sealed yet. Without any it is a dummy.
#[derive(Clone)]
pub struct Pieces {
    pub(super) text: Vec<u8>,
    pub(super) shape: Shape,
}

impl Pieces {
    /// Makes a frame without pieces.
    pub const fn new(shape: Shape) -> Self {
        Self { text: Vec::new(), shape }
    }

    /// Returns how many bytes of data the next piece can have.
    pub fn room(&self) -> usize {
        let most = if self.shape == Shape::Off { MAX_TEXT } else { SHAPED_FRAME };
        most.saturating_sub(self.text.len() + HEAD).min(u16::MAX.into())
    }

    /// Returns whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Forgets what is in it, to be used for the next frame.
    pub fn clear(&mut self) {
        self.text.clear();
    }

    /// Adds as much of `text` as fits, in whole characters, and returns how many bytes that was.
    pub fn push_text(&mut self, text: &str) -> usize {
        let mut taken = self.room().min(text.len());
        while !text.is_char_boundary(taken) {
            taken -= 1;
        }
        if taken > 0 {
            self.push(Kind::Text, false, &text.as_bytes()[..taken]);
        }
        taken
    }

    /// Adds as much as fits of a JSON object, a step of a streamed answer, and returns how many
    /// bytes that was; the next piece has to go on with the rest.
    pub fn push_json(&mut self, json: &[u8]) -> usize {
        self.push_part(Kind::Json, json)
    }

    /// Adds as much as fits of a whole answer; as for [`push_json`](Self::push_json).
    pub fn push_whole(&mut self, json: &[u8]) -> usize {
        self.push_part(Kind::Whole, json)
    }

    pub(super) fn push_part(&mut self, kind: Kind, data: &[u8]) -> usize {
        let taken = self.room().min(data.len());
        if taken > 0 {
            self.push(kind, taken < data.len(), &data[..taken]);
        }
        taken
    }

    pub(super) fn push(&mut self, kind: Kind, more: bool, data: &[u8]) {
        let length = u16::try_from(data.len()).expect("a piece is as long as there is room");
        self.text.push(kind.number() | if more { MORE } else { 0 });
        self.text.extend_from_slice(&length.to_be_bytes());
        self.text.extend_from_slice(data);
    }

    /// Returns the length of the frame's text.
    pub(super) fn frame_len(&self) -> usize {
        if self.shape == Shape::Off { self.text.len() } else { SHAPED_FRAME }
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Answers never reach logs.
        write!(f, "Pieces({} bytes, {:?})", self.text.len(), self.shape)
    }
}

/// A piece as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) kind: Kind,
    pub(super) more: bool,
    pub(super) data: &'a [u8],
}

/// Reads the pieces of a frame; an item is an error where the frame is not one.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins to read a frame's text; `None` where it has not the length that its shape demands.
    pub(super) fn new(text: &'a [u8], shape: Shape) -> Option<Self> {
        let fits = match shape {
            Shape::Off => text.len() <= MAX_TEXT,
            Shape::Batched | Shape::Paced => text.len() == SHAPED_FRAME,
        };
        // Without padding there is no other way to say nothing than to be empty.
        let padded = shape != Shape::Off || text.first() != Some(&0);
        (fits && padded).then_some(Self { rest: text })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Piece<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        let (&kind, after) = rest.split_first()?;
        if kind == 0 {
            let clean = rest.iter().all(|byte| *byte == 0);
            return if clean { None } else { Some(Err("something follows the pieces")) };
        }
        let Some(known) = Kind::from_number(kind & !MORE) else {
            return Some(Err("a piece has an unknown kind"));
        };
        let Some((length, after)) = after.split_first_chunk() else {
            return Some(Err("a piece is cut off"));
        };
        let Some((data, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        else {
            return Some(Err("a piece is cut off"));
        };
        if data.is_empty() {
            return Some(Err("a piece is empty"));
        }
        self.rest = after;
        Some(Ok(Piece { kind: known, more: kind & MORE != 0, data }))
    }
}
