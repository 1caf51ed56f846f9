//! Values that travel as text: bounded names, and bytes in base64url.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use iris_core::model::is_invisible;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A short text of at most `MAX` bytes that is safe to print.
///
/// Not empty, without control characters, invisible formatting or surrounding space.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label<const MAX: usize>(Box<str>);

/// Says why a text cannot be a [`Label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing is left of it.
    #[error("a label must not be empty")]
    Empty,
    /// It is longer than its kind allows.
    #[error("a label has at most {0} bytes here")]
    TooLong(usize),
    /// It could forge a line of a log or hide text on a page.
    #[error("a label has no control or invisible characters and no surrounding space")]
    Unclean,
}

impl<const MAX: usize> Label<MAX> {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a label of a text that is known to be one.
    pub(crate) fn known(text: &'static str) -> Self {
        debug_assert!(text.parse::<Self>().is_ok(), "{text:?} is no label");
        Self(text.into())
    }

    /// Makes a label of what is fit to print in `text`, cut to length; `None` when nothing is.
    pub fn lossy(text: &str) -> Option<Self> {
        let clean: String = text.chars().filter(|c| !is_invisible(*c)).collect();
        let clean = clean.trim();
        let cut = clean[..clean.floor_char_boundary(MAX)].trim_end();
        (!cut.is_empty()).then(|| Self(cut.into()))
    }
}

impl<const MAX: usize> FromStr for Label<MAX> {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if text.len() > MAX {
            return Err(LabelError::TooLong(MAX));
        }
        if text.trim() != text || text.chars().any(is_invisible) {
            return Err(LabelError::Unclean);
        }
        Ok(Self(text.into()))
    }
}

impl<const MAX: usize> fmt::Display for Label<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Label<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<const MAX: usize> Serialize for Label<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Label<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A fixed number of opaque bytes: a key, a nonce, a signature. Base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FixedBytes<const N: usize>(pub [u8; N]);

/// Sixteen opaque bytes.
pub type Bytes16 = FixedBytes<16>;
/// A public key, an encapsulated key or a nonce.
pub type Bytes32 = FixedBytes<32>;
/// A signature.
pub type Bytes64 = FixedBytes<64>;

impl<const N: usize> From<[u8; N]> for FixedBytes<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> AsRef<[u8]> for FixedBytes<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for FixedBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl<const N: usize> Serialize for FixedBytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64URL_NOPAD.encode_display(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for FixedBytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = decode_base64(deserializer, N)?;
        let length = bytes.len();
        let bytes = bytes.try_into().map_err(|_| {
            de::Error::custom(format_args!("expected {N} bytes of base64url, not {length}"))
        })?;
        Ok(Self(bytes))
    }
}

/// At most `MAX` opaque bytes. Base64url without padding.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Blob<const MAX: usize>(Box<[u8]>);

/// Says that bytes do not fit into their [`Blob`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at most {0} bytes fit here")]
pub struct BlobError(usize);

impl<const MAX: usize> Blob<MAX> {
    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<Vec<u8>> for Blob<MAX> {
    type Error = BlobError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, BlobError> {
        if bytes.len() > MAX { Err(BlobError(MAX)) } else { Ok(Self(bytes.into())) }
    }
}

impl<const MAX: usize> fmt::Debug for Blob<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl<const MAX: usize> Serialize for Blob<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64URL_NOPAD.encode_display(&self.0))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Blob<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode_base64(deserializer, MAX)?.try_into().map_err(de::Error::custom)
    }
}

fn decode_base64<'de, D: Deserializer<'de>>(
    deserializer: D,
    max: usize,
) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    if text.len() > max.div_ceil(3) * 4 {
        return Err(de::Error::custom(BlobError(max)));
    }
    // Trailing bits must be zero, so every value has one text.
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| de::Error::custom("expected base64url without padding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_refuses_what_cannot_be_printed_safely() {
        assert_eq!("".parse::<Label<4>>(), Err(LabelError::Empty));
        assert_eq!("abcde".parse::<Label<4>>(), Err(LabelError::TooLong(4)));
        for bad in [" a", "a\n", "\u{202e}"] {
            assert_eq!(bad.parse::<Label<4>>(), Err(LabelError::Unclean), "{bad:?}");
        }
    }

    #[test]
    fn a_lossy_label_is_always_valid_and_never_splits_a_character() {
        let label = Label::<4>::lossy(" a\u{202e}b\nü€ ").unwrap();
        assert_eq!(label.as_str(), "abü");
        assert_eq!(label.as_str().parse(), Ok(label));
        assert_eq!(Label::<4>::lossy("\n \t"), None);
    }

    #[test]
    fn bytes_have_one_text_and_a_bound() {
        let read = |text: &str| serde_json::from_str::<FixedBytes<1>>(text);
        assert_eq!(read(r#""_w""#).unwrap(), FixedBytes([255]));
        for bad in [r#""_x""#, r#""_w==""#, r#""""#, r#""____""#, "7"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Blob<2>>(r#""____""#).is_err());
    }
}
