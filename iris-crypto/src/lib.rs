//! Identities, certificates and the sealing of what an Iris network sends and keeps.
//!
//! Everything is synchronous and without settings: one suite, one encoding of each thing, one way
//! to use it. Nothing is invented here but the order of the bytes. The primitives are those of
//! `ed25519-dalek`, `x25519-dalek`, `hkdf`, `hmac`, `sha2`, `aes-gcm` and `argon2`; the composition is
//! HPKE (RFC 9180), checked against its vectors and against another implementation.
//!
//! | module | what it is for |
//! |---|---|
//! | [`identity`] | the Ed25519 key that a node or coordinator is known by |
//! | [`hello`] | the two signatures with which node and coordinator meet |
//! | [`keyfile`] | where a process keeps its long-lived secrets |
//! | [`sealing_key`] | the X25519 key that a process is sealed to, in memory only |
//! | [`certificate`] | how an identity vouches for its sealing key |
//! | [`hpke`] | sealing to a public key |
//! | [`hop`] | the keys and chunks of a session between coordinator and node |
//! | [`promises`] | what the sealed path stands, test by test |
//! | [`seal`] | requests that only the chosen node can open, and their answers |
//! | [`record`] | sealing what lies on disk |
//! | [`log`] | the public log of what a coordinator tells everybody |
//! | [`account_key`], [`password`] | what people prove themselves by |
//! | [`token`], [`jwt`], [`refresh`] | what programs and sessions are let in by |
//! | [`caller_tag`] | what owners of nodes know callers by |
//!
//! # What it promises
//!
//! - **A node id cannot be taken over.** It is the hash of the key that signs for it.
//! - **A sealing key is its owner's.** A [`VerifiedCertificate`] exists only after the signature,
//!   role, suite, lifetime, serial, origin and the key itself were checked.
//! - **What was altered does not open.** Every bit of a certificate, chunk and record is covered by
//!   a signature or an authentication tag; so are the position of a chunk in its stream, its
//!   direction and assignment, and the place of a record in its store.
//! - **No nonce is used twice.** Sealers count by themselves and stop at their limit; a session's
//!   root gives out the keys of one assignment once.
//! - **Stolen files do not open old traffic.** Identity files hold signing keys only. Sealing keys
//!   are never written; they die with the process or with their owner's wish.
//! - **A log only grows.** A checkpoint that extends another comes with a proof of it, and two that
//!   do not fit together are evidence that their signer cannot deny.
//! - **Secrets do not print.** Their `Debug` is redacted; showing one takes a call named `reveal`.
//!
//! # What it does not promise
//!
//! - A stolen sealing key opens what was sealed to it in its lifetime, at most a day.
//! - Secrets are erased from memory when dropped, but copies that the compiler, a library or the
//!   operating system made may remain until overwritten.
//! - Nothing here resists a quantum computer. Suite numbers in certificates leave room for that.
//! - Lengths are visible, but for those of sealed requests and their answers: see [`seal`].
//! - Sealing for the hop protects from the network, not from the coordinator, which holds the keys.
//!
//! # Randomness
//!
//! Whatever is called `generate`, and every sealing to a public key or of a record, draws from the
//! operating system and panics where it has no random numbers to give, since no secret can be made
//! there. Supported systems do not fail this way after start-up.
#![forbid(unsafe_code)]

pub mod account_key;
pub mod caller_tag;
pub mod certificate;
pub mod hello;
pub mod hop;
pub mod hpke;
pub mod identity;
pub mod jwt;
pub mod keyfile;
#[doc = include_str!("../PROMISES.md")]
pub mod promises {}
pub mod log;
pub mod password;
pub mod record;
pub mod refresh;
pub mod seal;
pub mod sealing_key;
pub mod token;

mod fields;
mod numbered_aead;
mod random;
mod secret;

pub use account_key::AccountKey;
pub use caller_tag::CallerTags;
pub use certificate::{SignedCertificate, VerifiedCertificate};
pub use hop::HopRoot;
pub use identity::{Identity, PublicIdentity, Signature};
pub use random::random_bytes;
pub use record::RecordKey;
pub use sealing_key::{SealingKey, SealingPublicKey};
pub use secret::Secret;
pub use token::ApiToken;
