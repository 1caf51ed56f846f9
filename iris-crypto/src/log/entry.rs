use super::{LogError, MAX_ENTRY_LEN, TreeHash, leaf_hash};
use crate::certificate::CertificateHash;
use crate::identity::PublicIdentity;

/// What is written down in a log.
///
/// The bytes are the name of the kind and 32 bytes behind it; there is one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// `"iris/log/coordinator/v1\0"`: whose log this is. The first entry of every log, so that
    /// the log of one coordinator is never that of another.
    Coordinator(PublicIdentity),
    /// `"iris/log/certificate/v1\0"`: a certificate that the coordinator listed.
    Certificate(CertificateHash),
    /// `"iris/log/roster/v1\0"`: the SHA-256 of a roster's text.
    Roster([u8; 32]),
}

const COORDINATOR: &[u8] = b"iris/log/coordinator/v1\0";
const CERTIFICATE: &[u8] = b"iris/log/certificate/v1\0";
const ROSTER: &[u8] = b"iris/log/roster/v1\0";
/// What the names of all kinds begin with.
const NAMES: &[u8] = b"iris/log/";

impl Entry {
    /// Returns the bytes that the log keeps.
    pub fn encode(&self) -> Vec<u8> {
        let (name, content) = match self {
            Self::Coordinator(identity) => (COORDINATOR, identity.as_bytes()),
            Self::Certificate(hash) => (CERTIFICATE, hash.as_bytes()),
            Self::Roster(hash) => (ROSTER, hash),
        };
        [name, content].concat()
    }

    /// Reads the bytes of an entry.
    ///
    /// A log may hold kinds that are newer than this program: what begins like an entry and is
    /// none of these is [`LogError::UnknownEntry`].
    pub fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        const LENGTH: LogError = LogError::Malformed("an entry has 32 bytes behind its name");
        if bytes.len() > MAX_ENTRY_LEN {
            return Err(LogError::Malformed("an entry is short"));
        }
        let content = |name| bytes.strip_prefix(name);
        if let Some(identity) = content(COORDINATOR) {
            let identity = identity.try_into().map_err(|_| LENGTH)?;
            PublicIdentity::from_bytes(identity)
                .map(Self::Coordinator)
                .map_err(|_| LogError::Malformed("an entry names no Ed25519 key"))
        } else if let Some(hash) = content(CERTIFICATE) {
            let hash = hash.try_into().map_err(|_| LENGTH)?;
            Ok(Self::Certificate(CertificateHash::from_bytes(hash)))
        } else if let Some(hash) = content(ROSTER) {
            Ok(Self::Roster(hash.try_into().map_err(|_| LENGTH)?))
        } else if content(NAMES).is_some() {
            Err(LogError::UnknownEntry)
        } else {
            Err(LogError::Malformed("an entry begins with its kind"))
        }
    }

    /// Returns the entry's hash in the tree.
    pub fn leaf_hash(&self) -> TreeHash {
        leaf_hash(&self.encode())
    }
}
