//! The one encoding of everything that is signed: fixed fields, and `lp` fields of a big-endian
//! `u16` length and as many bytes.

/// Reads fields off the front of a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn take_u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn take_u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(crate) fn take_lp(&mut self) -> Option<&'a [u8]> {
        let mut after = *self;
        let length = usize::from(after.take_u16()?);
        let (field, rest) = after.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

/// Appends an `lp` field. Every type that ends up here is bounded far below the limit.
pub(crate) fn push_lp(out: &mut Vec<u8>, field: &[u8]) {
    let length = u16::try_from(field.len()).expect("fields are bounded where they are made");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_longer_than_the_text_is_refused_and_nothing_is_taken() {
        let mut fields = Fields(&[0, 3, 1, 2]);
        assert_eq!(fields.take_lp(), None);
        assert_eq!(fields.0.len(), 4);
        assert_eq!(fields.take::<5>(), None);
        assert_eq!(Fields(&[0]).take_lp(), None);
    }

    #[test]
    fn field_survives_its_encoding() {
        let mut text = Vec::new();
        push_lp(&mut text, b"abc");
        let mut fields = Fields(&text);
        assert_eq!(fields.take_lp(), Some(&b"abc"[..]));
        assert!(fields.0.is_empty());
    }
}
