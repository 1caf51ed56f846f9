//! Sealing and opening the chunks of one direction of an assignment.

use super::HopError;
use crate::numbered_aead::NumberedAead;

/// The bytes that sealing adds to a chunk.
pub const TAG_LEN: usize = crate::numbered_aead::TAG_LEN;

/// The most chunks of one direction.
pub const MAX_CHUNKS: u64 = 1 << 32;

/// Seals the chunks that one side sends.
///
/// Numbers them itself, from 0, so no number is ever sealed twice. `aad` is authenticated with the
/// chunk but not contained in it: give the frame's header.
#[derive(Debug)]
pub struct ChunkSealer {
    aead: NumberedAead,
    next: u64,
}

impl ChunkSealer {
    pub(super) const fn new(aead: NumberedAead) -> Self {
        Self { aead, next: 0 }
    }

    /// Returns the number that the next chunk gets.
    pub const fn next_number(&self) -> u64 {
        self.next
    }

    /// Seals `text` into a new buffer.
    pub fn seal(&mut self, aad: &[u8], text: &[u8]) -> Result<Vec<u8>, HopError> {
        let mut sealed = Vec::new();
        self.seal_into(aad, text, &mut sealed)?;
        Ok(sealed)
    }

    /// Appends `text`, sealed, to `out` and returns the chunk's number.
    pub fn seal_into(
        &mut self,
        aad: &[u8],
        text: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u64, HopError> {
        let number = self.take_number()?;
        self.aead.seal_into(number, aad, text, out);
        Ok(number)
    }

    /// Encrypts `text` where it is and returns the chunk's number and the tag to put behind it.
    ///
    /// For frames that are built in a buffer of another kind.
    pub fn seal_in_place(
        &mut self,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<(u64, [u8; TAG_LEN]), HopError> {
        let number = self.take_number()?;
        Ok((number, self.aead.seal(number, aad, text)))
    }

    fn take_number(&mut self) -> Result<u64, HopError> {
        let number = self.next;
        if number >= MAX_CHUNKS {
            return Err(HopError::Exhausted);
        }
        self.next += 1;
        Ok(number)
    }
}

/// Opens the chunks that the other side sends.
///
/// Each number opens once, in order. A chunk that does not open ends the channel for good: from
/// then on every call is refused.
#[derive(Debug)]
pub struct ChunkOpener {
    /// `None` once something did not open.
    aead: Option<NumberedAead>,
    next: u64,
}

impl ChunkOpener {
    pub(super) const fn new(aead: NumberedAead) -> Self {
        Self { aead: Some(aead), next: 0 }
    }

    /// Returns the number of the next chunk; lower ones were opened before.
    pub const fn next_number(&self) -> u64 {
        self.next
    }

    /// Opens chunk `number` into a new buffer.
    pub fn open(&mut self, number: u64, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, HopError> {
        let mut text = sealed.to_vec();
        let length = self.open_in_place(number, aad, &mut text)?.len();
        text.truncate(length);
        Ok(text)
    }

    /// Decrypts chunk `number` where it is and returns its text, the front of `sealed`.
    ///
    /// A wrong number changes nothing, and the chunk that is next can still be opened.
    pub fn open_in_place<'a>(
        &mut self,
        number: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], HopError> {
        let cipher = self.aead.as_ref().ok_or(HopError::Rejected)?;
        if number != self.next {
            return Err(HopError::OutOfOrder { expected: self.next, found: number });
        }
        if number >= MAX_CHUNKS {
            return Err(HopError::Exhausted);
        }
        let Ok(length) = cipher.open(number, aad, sealed) else {
            self.aead = None;
            return Err(HopError::Rejected);
        };
        self.next += 1;
        Ok(&mut sealed[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_stops_at_its_limit() {
        let cipher = || NumberedAead::new(&[1; 32], [2; 12]);
        let mut sealer = ChunkSealer { aead: cipher(), next: MAX_CHUNKS - 1 };
        let mut opener = ChunkOpener { aead: Some(cipher()), next: MAX_CHUNKS - 1 };
        let last = sealer.seal(b"", b"last").unwrap();
        assert_eq!(opener.open(MAX_CHUNKS - 1, b"", &last).unwrap(), b"last");
        assert_eq!(sealer.seal(b"", b"one more"), Err(HopError::Exhausted));
        assert_eq!(sealer.next_number(), MAX_CHUNKS);
        assert_eq!(opener.open(MAX_CHUNKS, b"", &last), Err(HopError::Exhausted));
    }
}
