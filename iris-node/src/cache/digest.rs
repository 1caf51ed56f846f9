//! What a file is known by.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

/// The hash of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// BLAKE3, which this cache keeps of every file.
    Blake3([u8; 32]),
    /// SHA-256, by which much of the web knows its files.
    Sha256([u8; 32]),
}

/// Says why a text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is blake3: or sha256: and 64 hexadecimal digits")]
pub struct DigestError;

impl Digest {
    /// Returns whether the other one is of the same kind, so that they can be compared.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Reads the value of `Repr-Digest` (RFC 9530), where also BLAKE3 is read.
    pub(super) fn of_repr_digest(value: &str) -> Option<Self> {
        let find = |name: &str| {
            let one = value.split(',').find_map(|member| {
                member.trim().strip_prefix(name)?.strip_prefix("=:")?.strip_suffix(':')
            })?;
            BASE64.decode(one.as_bytes()).ok()?.try_into().ok()
        };
        find("blake3").map(Self::Blake3).or_else(|| find("sha-256").map(Self::Sha256))
    }

    /// Reads a SHA-256 in hexadecimal digits and quotes.
    pub(super) fn of_quoted_sha256(value: &str) -> Option<Self> {
        let digits = value.strip_prefix('"')?.strip_suffix('"')?;
        bytes(digits).map(Self::Sha256)
    }
}

fn bytes(digits: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Reads what is printed; digits alone are BLAKE3.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let text = text.trim();
        let (kind, digits) = text.split_once(':').unwrap_or(("blake3", text));
        let bytes = bytes(digits).ok_or(DigestError)?;
        match kind {
            "blake3" => Ok(Self::Blake3(bytes)),
            "sha256" => Ok(Self::Sha256(bytes)),
            _ => Err(DigestError),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Self::Blake3(bytes) => ("blake3", bytes),
            Self::Sha256(bytes) => ("sha256", bytes),
        };
        write!(f, "{kind}:{}", HEXLOWER.encode(bytes))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Hashes what passes, in both ways: it is seldom known at the beginning which one is asked for.
#[derive(Clone, Default)]
pub(super) struct Hashing {
    blake3: blake3::Hasher,
    sha256: sha2::Sha256,
}

impl Hashing {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
    }

    /// Hashes the next `length` bytes of `from`; an error where there are fewer.
    pub(super) fn read(&mut self, from: &mut impl Read, length: u64) -> io::Result<()> {
        let (mut left, mut buffer) = (length, vec![0; 1 << 20]);
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            from.read_exact(&mut buffer[..room])?;
            self.update(&buffer[..room]);
            left -= room as u64;
        }
        Ok(())
    }

    /// Returns the BLAKE3 of what has passed so far.
    pub(super) fn blake3(&self) -> Digest {
        Digest::Blake3(*self.blake3.finalize().as_bytes())
    }

    /// Returns the digest of what has passed so far that can be compared with `other`.
    pub(super) fn like(&self, other: &Digest) -> Digest {
        match other {
            Digest::Blake3(_) => self.blake3(),
            Digest::Sha256(_) => Digest::Sha256(self.sha256.clone().finalize().into()),
        }
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashing").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The empty input's, from the specifications.
    const BLAKE3: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_are_read_as_they_are_printed() {
        let nothing = Hashing::default();
        let blake3: Digest = format!("blake3:{BLAKE3}").parse().unwrap();
        let sha256: Digest = format!("sha256:{}", SHA256.to_uppercase()).parse().unwrap();
        assert_eq!((nothing.blake3(), nothing.like(&sha256)), (blake3, sha256));
        assert_eq!(BLAKE3.parse(), Ok(blake3));
        assert_eq!(sha256.to_string(), format!("sha256:{SHA256}"));
        for text in ["", "blake3:", "md5:00", &BLAKE3[1..], "sha256:é"] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text}");
        }
    }

    #[test]
    fn digests_are_found_in_headers() {
        let sha256: Digest = format!("sha256:{SHA256}").parse().unwrap();
        let header = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        assert_eq!(Digest::of_repr_digest(header), Some(sha256));
        assert_eq!(Digest::of_repr_digest(&format!("md5=:AA==:, {header}")), Some(sha256));
        assert_eq!(Digest::of_repr_digest("sha-256=:AA==:"), None);
        assert_eq!(Digest::of_quoted_sha256(&format!("\"{SHA256}\"")), Some(sha256));
        assert_eq!(Digest::of_quoted_sha256("\"etag\""), None);
    }
}
