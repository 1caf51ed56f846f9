//! How node and coordinator prove to each other who they are.
//!
//! The coordinator sends a challenge; the node signs it together with whom it means to talk to and
//! the certificate of its sealing key ([`sign_hello`]). The coordinator answers with an
//! encapsulated key and its own signature over the node's nonce ([`sign_welcome`]), which a node
//! that pins its coordinator checks. Neither signature can be used towards anybody else, later, or
//! for another certificate or key.
//!
//! | signed by | bytes |
//! |---|---|
//! | node | `"iris/hello/v1\0"`, lp(challenge), lp(origin), SHA-256 of the certificate |
//! | coordinator | `"iris/welcome/v1\0"`, its public key, node nonce, enc, lp(session) |

use crate::certificate::{CertificateHash, Origin};
use crate::fields::push_lp;
use crate::identity::{Identity, IdentityError, PublicIdentity, Signature};

/// What a node signs when it registers.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// The coordinator's fresh random bytes.
    pub challenge: &'a [u8; 32],
    /// The coordinator that the node means to talk to, as in the node's certificate.
    pub origin: &'a Origin,
    /// The certificate of the node's sealing key.
    pub certificate: &'a CertificateHash,
}

/// What a coordinator signs when it lets a node in.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    /// The node's fresh random bytes.
    pub node_nonce: &'a [u8; 32],
    /// The key encapsulated to the node: see [`HopRoot::initiate`](crate::HopRoot::initiate).
    pub encapsulated: &'a [u8; 32],
    /// The name of the session, at most [`Welcome::MAX_SESSION_LEN`] bytes.
    pub session: &'a [u8],
}

impl Welcome<'_> {
    /// The longest name of a session, in bytes.
    pub const MAX_SESSION_LEN: usize = 255;
}

/// Signs a node's registration.
pub fn sign_hello(node: &Identity, hello: &Hello<'_>) -> Signature {
    node.sign(&hello_transcript(hello))
}

/// Checks that `node` signed this registration.
pub fn verify_hello(
    node: &PublicIdentity,
    hello: &Hello<'_>,
    signature: &Signature,
) -> Result<(), IdentityError> {
    node.verify_strict(&hello_transcript(hello), signature)
}

/// Signs the coordinator's answer to a registration.
///
/// # Panics
///
/// When the session's name is longer than [`Welcome::MAX_SESSION_LEN`].
pub fn sign_welcome(coordinator: &Identity, welcome: &Welcome<'_>) -> Signature {
    assert!(welcome.session.len() <= Welcome::MAX_SESSION_LEN, "a session's name is short");
    coordinator.sign(&welcome_transcript(&coordinator.public(), welcome))
}

/// Checks that `coordinator`, which the node pinned, signed this answer.
pub fn verify_welcome(
    coordinator: &PublicIdentity,
    welcome: &Welcome<'_>,
    signature: &Signature,
) -> Result<(), IdentityError> {
    if welcome.session.len() > Welcome::MAX_SESSION_LEN {
        return Err(IdentityError::BadSignature);
    }
    coordinator.verify_strict(&welcome_transcript(coordinator, welcome), signature)
}

fn hello_transcript(hello: &Hello<'_>) -> Vec<u8> {
    let mut text = b"iris/hello/v1\0".to_vec();
    push_lp(&mut text, hello.challenge);
    push_lp(&mut text, hello.origin.as_str().as_bytes());
    text.extend_from_slice(hello.certificate.as_bytes());
    text
}

fn welcome_transcript(coordinator: &PublicIdentity, welcome: &Welcome<'_>) -> Vec<u8> {
    let mut text = b"iris/welcome/v1\0".to_vec();
    text.extend_from_slice(coordinator.as_bytes());
    text.extend_from_slice(welcome.node_nonce);
    text.extend_from_slice(welcome.encapsulated);
    push_lp(&mut text, welcome.session);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn identity(seed: u8) -> Identity {
        Identity::from_seed(&Secret::from_bytes([seed; 32]))
    }

    #[test]
    fn hello_holds_for_what_was_signed_only() {
        let node = identity(1);
        let origin: Origin = "https://a.example".parse().unwrap();
        let other: Origin = "https://b.example".parse().unwrap();
        let certificate = CertificateHash::from_bytes([4; 32]);
        let hello = Hello { challenge: &[3; 32], origin: &origin, certificate: &certificate };
        let signature = sign_hello(&node, &hello);
        let check = |hello| verify_hello(&node.public(), &hello, &signature);
        assert_eq!(check(hello), Ok(()));
        assert!(check(Hello { challenge: &[2; 32], ..hello }).is_err());
        assert!(check(Hello { origin: &other, ..hello }).is_err());
        assert!(
            check(Hello { certificate: &CertificateHash::from_bytes([5; 32]), ..hello }).is_err()
        );
        assert!(verify_hello(&identity(2).public(), &hello, &signature).is_err());
    }

    #[test]
    fn hello_is_the_documented_bytes() {
        let origin: Origin = "o".parse().unwrap();
        let certificate = CertificateHash::from_bytes([4; 32]);
        let hello = Hello { challenge: &[3; 32], origin: &origin, certificate: &certificate };
        let text = [&b"iris/hello/v1\0\0\x20"[..], &[3; 32], b"\0\x01o", &[4; 32]].concat();
        let signature = sign_hello(&identity(1), &hello);
        assert_eq!(identity(1).public().verify_strict(&text, &signature), Ok(()));
    }

    #[test]
    fn welcome_holds_for_what_was_signed_only() {
        let coordinator = identity(1);
        let welcome = Welcome { node_nonce: &[2; 32], encapsulated: &[3; 32], session: b"s" };
        let signature = sign_welcome(&coordinator, &welcome);
        let check = |welcome| verify_welcome(&coordinator.public(), &welcome, &signature);
        assert_eq!(check(welcome), Ok(()));
        assert!(check(Welcome { node_nonce: &[9; 32], ..welcome }).is_err());
        assert!(check(Welcome { encapsulated: &[9; 32], ..welcome }).is_err());
        assert!(check(Welcome { session: b"t", ..welcome }).is_err());
        assert!(check(Welcome { session: &vec![0; 70_000], ..welcome }).is_err());
        assert!(verify_welcome(&identity(2).public(), &welcome, &signature).is_err());
    }
}
