//! Names of the things an Iris network keeps apart.
//!
//! Every id has one textual form, which is also its form on the wire and in the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Says why a text is not the id it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {length} characters of {alphabet}")]
pub struct IdError {
    kind: &'static str,
    length: usize,
    alphabet: &'static str,
}

/// Identifies a node: the hash of its Ed25519 public key, so nobody can put another key behind it.
///
/// The text is 26 characters of lower-case RFC 4648 base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 26]);

impl NodeId {
    const ERROR: IdError = IdError { kind: "a node id", length: 26, alphabet: "a-z and 2-7" };

    /// Returns the id's text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a node id is ASCII by construction")
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes: [u8; 26] = text.as_bytes().try_into().map_err(|_| Self::ERROR)?;
        let valid = bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if valid { Ok(Self(bytes)) } else { Err(Self::ERROR) }
    }
}

/// Identifies a task; drawn at random by whoever submits it.
///
/// The text is 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId([u8; 16]);

impl TaskId {
    const ERROR: IdError = IdError { kind: "a task id", length: 32, alphabet: "0-9 and a-f" };

    /// Makes an id of 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes the id was made of.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for TaskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self).ok_or(Self::ERROR)
    }
}

/// Identifies an account; random, and says nothing about its owner.
///
/// The text is 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId([u8; 16]);

impl AccountId {
    const ERROR: IdError = IdError { kind: "an account id", length: 32, alphabet: "0-9 and a-f" };

    /// Makes an id of 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes the id was made of.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for AccountId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self).ok_or(Self::ERROR)
    }
}

/// Identifies a verdict on a node; follows from what it was passed on.
///
/// The text is 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictId([u8; 16]);

impl VerdictId {
    const ERROR: IdError = IdError { kind: "a verdict id", length: 32, alphabet: "0-9 and a-f" };

    /// Makes an id of 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl FromStr for VerdictId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self).ok_or(Self::ERROR)
    }
}

impl fmt::Display for VerdictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// Names a report of an owner to the operator; those made later sort behind those made earlier.
///
/// The text is 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId([u8; 16]);

impl ReportId {
    const ERROR: IdError = IdError { kind: "a report id", length: 32, alphabet: "0-9 and a-f" };

    /// Makes an id of 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl FromStr for ReportId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self).ok_or(Self::ERROR)
    }
}

impl fmt::Display for ReportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// Identifies what a node signed of a task: the SHA-256 of that.
///
/// The text is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptId([u8; 32]);

impl ReceiptId {
    const ERROR: IdError = IdError { kind: "a receipt id", length: 64, alphabet: "0-9 and a-f" };

    /// Makes an id of a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for ReceiptId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self).ok_or(Self::ERROR)
    }
}

impl fmt::Display for ReceiptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What the nodes of one owner know a caller by, for a month.
///
/// Who has it can tell that two tasks of the month are the same caller's, and nothing else: other
/// owners are told other tags, and the next month has new ones. Only the coordinator can turn it
/// into an account; an owner who knows an account's id can ask for its own tag of it.
///
/// The text is a `c`, the last hexadecimal digit of the month's number, and 32 such digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerTag {
    month: u8,
    code: [u8; 16],
}

impl CallerTag {
    const ERROR: IdError =
        IdError { kind: "a caller's tag", length: 34, alphabet: "c, 0-9 and a-f" };
    /// How many months have tags that differ by what says the month.
    pub const MONTHS: u32 = 16;

    /// Makes the tag of a month, of which the number counts [`MONTHS`](Self::MONTHS) alone.
    pub const fn new(month: u32, code: [u8; 16]) -> Self {
        let [.., month] = (month % Self::MONTHS).to_be_bytes();
        Self { month, code }
    }

    /// Returns the number of its month, below [`MONTHS`](Self::MONTHS).
    pub const fn month(&self) -> u32 {
        self.month as u32
    }

    /// Returns what stands for the account.
    pub const fn code(&self) -> &[u8; 16] {
        &self.code
    }
}

impl FromStr for CallerTag {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix('c').filter(|digits| digits.is_ascii());
        let (month, code) =
            digits.and_then(|digits| digits.split_at_checked(1)).ok_or(Self::ERROR)?;
        let month = match month.as_bytes() {
            [digit @ b'0'..=b'9'] => digit - b'0',
            [digit @ b'a'..=b'f'] => digit - b'a' + 10,
            _ => return Err(Self::ERROR),
        };
        let code = parse_hex(code).ok_or(Self::ERROR)?;
        Ok(Self { month, code })
    }
}

impl fmt::Display for CallerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:x}", self.month)?;
        write_hex(&self.code, f)
    }
}

/// Identifies one attempt of one node at one step, within the node's session.
///
/// Numbers are never reused while a session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssignmentId(pub u64);

impl fmt::Display for AssignmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

fn write_hex(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    f.pad(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

macro_rules! text_form {
    ($($id:ident),*) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($id))
            }
        }

        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $id;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($id::ERROR.kind)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$id, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )*};
}

text_form!(NodeId, TaskId, AccountId, VerdictId, ReportId, ReceiptId, CallerTag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text() {
        let task = TaskId::from_bytes(*b"0123456789abcdef");
        assert_eq!(task.to_string().parse(), Ok(task));
        let receipt = ReceiptId::from_bytes([0xa5; 32]);
        assert_eq!(receipt.to_string(), "a5".repeat(32));
        assert_eq!(receipt.to_string().parse(), Ok(receipt));
        for wrong in ["a5".repeat(31), "a5".repeat(33), "a".repeat(65), "A5".repeat(32)] {
            assert!(wrong.parse::<ReceiptId>().is_err() && wrong.parse::<TaskId>().is_err());
        }
        let node: NodeId = "abcdefghijklmnopqrstuvwx27".parse().unwrap();
        let json = serde_json::to_string(&node).unwrap();
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), node);
    }

    #[test]
    fn tags_of_callers_survive_their_text_and_nothing_else_is_one() {
        let tag = CallerTag::new(2 * 16 + 11, *b"0123456789abcdef");
        let text = tag.to_string();
        assert_eq!(text, "cb30313233343536373839616263646566");
        assert_eq!(text.parse(), Ok(tag));
        for wrong in ["", "c", "cb", &text[1..], "cg30313233343536373839616263646566", "cé"] {
            assert!(wrong.parse::<CallerTag>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_refuse_what_another_text_would_also_mean() {
        assert!("0123456789ABCDEF0123456789ABCDEF".parse::<TaskId>().is_err());
        assert!("abcdefghijklmnopqrstuvwx2".parse::<NodeId>().is_err());
        assert!("abcdefghijklmnopqrstuvwx2\n".parse::<NodeId>().is_err());
    }
}
