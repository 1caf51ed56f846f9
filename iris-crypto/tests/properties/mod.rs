//! What holds for anything that a peer sends; shared by the tests and the fuzz targets.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::LazyLock;

use iris_core::Timestamp;
use iris_crypto::account_key::AccountIndex;
use iris_crypto::certificate::{CertificateHash, Expectation, Origin, Role};
use iris_crypto::hello::{Hello, Welcome, verify_hello, verify_welcome};
use iris_crypto::log::{
    Checkpoint, Entry, Frontier, LogError, MAX_PROOF_LEN, ProofPlan, SignedCheckpoint, Tile,
    TileId, TreeHash, leaf_hash, verify_consistency, verify_inclusion,
};
use iris_crypto::password::{HashKind, PasswordHash};
use iris_crypto::refresh::SessionId;
use iris_crypto::token::{Invitation, TokenHash};
use iris_crypto::{
    AccountKey, ApiToken, HopRoot, Identity, PublicIdentity, RecordKey, SealingKey,
    SealingPublicKey, Secret, Signature, SignedCertificate, hpke,
};

/// Keys, tokens and hashes: each text is refused, or is the only one of its value.
pub(crate) fn text(text: &str) {
    exact::<PublicIdentity>(text);
    exact::<Signature>(text);
    exact::<TokenHash>(text);
    exact::<AccountIndex>(text);
    exact::<Origin>(text);
    exact::<SignedCertificate>(text);
    exact::<TreeHash>(text);
    exact::<SessionId>(text);
    exact::<HashKind>(text);
    if let Ok(hash) = text.parse::<PasswordHash>() {
        assert_eq!(hash.as_str(), text);
        exact::<HashKind>(&hash.kind().to_string());
    }
    if let Ok(invitation) = text.parse::<Invitation>() {
        assert_eq!(*invitation.reveal(), text);
        assert!(text.parse::<ApiToken>().is_err());
    }
    if let Ok(token) = text.parse::<ApiToken>() {
        assert_eq!(*token.reveal(), text);
    }
    if let Ok(key) = text.parse::<AccountKey>() {
        // Separators are the typist's business.
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(format!("{:#}", key.reveal()), digits);
    }
}

/// A certificate is refused, or has one encoding; without its signer's key it never verifies.
pub(crate) fn certificate(bytes: &[u8]) {
    let Ok(certificate) = SignedCertificate::decode(bytes) else { return };
    assert_eq!(certificate.encoded(), bytes);
    let claims = certificate.unverified_claims().clone();
    let expected = Expectation {
        role: claims.role,
        now: claims.not_before,
        min_serial: 0,
        origin: &claims.origin,
    };
    if claims.identity == PARTIES.node.public() {
        // Nothing is signed here but what this module signs itself.
        let verified = certificate.verify(&expected).is_ok();
        assert_eq!(verified, bytes == PARTIES.certificate.encoded());
    } else {
        let _ = certificate.verify(&expected);
    }
}

/// Nothing opens, and no signature holds, but what was sealed and signed.
pub(crate) fn sealed(bytes: &[u8]) {
    let parties = &*PARTIES;
    let key = RecordKey::new(&Secret::from_bytes([5; 32]));
    assert!(key.open("task/1", bytes).is_err());

    let (number, sealed) = bytes.split_at(bytes.len().min(1));
    let number = u64::from(number.first().copied().unwrap_or(0) % 4);
    let (_, mut root) = HopRoot::initiate(&parties.sealing.public(), b"session").expect("a key");
    let mut channel = root.channel(number).expect("a new assignment");
    assert!(channel.opener.open(number, b"header", sealed).is_err());
    let (own, rest) = bytes.split_at(bytes.len().min(32));
    if let Ok(own) = <[u8; 32]>::try_from(own) {
        let _ = HopRoot::initiate(&SealingPublicKey::from_bytes(own), b"session");
        if let Ok(mut root) = HopRoot::accept(&parties.sealing, &own, b"session") {
            let mut channel = root.channel(number).expect("a new assignment");
            assert!(channel.opener.open(0, b"header", rest).is_err());
            // What did not open once ends the channel.
            assert!(channel.opener.open(0, b"header", rest).is_err());
        }
        if let Ok(mut context) = hpke::setup_receiver(&parties.sealing, &own, b"info") {
            assert!(context.open(b"aad", rest).is_err());
        }
        if let Ok(identity) = PublicIdentity::from_bytes(own) {
            assert_eq!(identity.as_bytes(), &own);
        }
    }
    signature(bytes);
}

fn signature(bytes: &[u8]) {
    let parties = &*PARTIES;
    let Some((signature, session)) = bytes.split_first_chunk::<64>() else { return };
    let signature = Signature::from_bytes(*signature);
    let hash = CertificateHash::from_bytes([4; 32]);
    let hello = Hello { challenge: &[3; 32], origin: &parties.origin, certificate: &hash };
    assert!(verify_hello(&parties.node.public(), &hello, &signature).is_err());
    let welcome = Welcome { node_nonce: &[2; 32], encapsulated: &[3; 32], session };
    assert!(verify_welcome(&parties.node.public(), &welcome, &signature).is_err());
}

/// Checkpoints, entries, tiles and proofs: each is refused, or is what the log says.
///
/// The first byte says what the others are.
pub(crate) fn log(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => checkpoint(bytes),
        1 => {
            if let Ok(entry) = Entry::decode(bytes) {
                assert_eq!(entry.encode(), bytes);
                assert_eq!(entry.leaf_hash(), leaf_hash(bytes));
            }
            if let Ok(tile) = Tile::decode(bytes) {
                assert_eq!(tile.encode(), bytes);
            }
        }
        2 => inclusion(bytes),
        _ => consistency(bytes),
    }
}

fn checkpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(decoded) = SignedCheckpoint::decode(text) else { return };
    assert_eq!(decoded.text(), text);
    let coordinator = PARTIES.node.public();
    let Ok(checkpoint) = decoded.verify(&coordinator) else { return };
    // Only one was signed; signatures of witnesses may follow in any number.
    let sound = sound_checkpoint();
    assert!(text.starts_with(sound.text()));
    assert_eq!(sound.verify(&coordinator), Ok(checkpoint));
}

/// Returns the checkpoint of a log of a hundred entries, the same in every run.
pub(crate) fn sound_checkpoint() -> SignedCheckpoint {
    let log = &*LOG;
    SignedCheckpoint::sign(&PARTIES.node, log.size(), log.root(log.size()))
}

/// Returns the bytes of a proof that holds: of the entry at `index` in the log's first `size`.
pub(crate) fn sound_inclusion(index: u8, size: u8) -> Vec<u8> {
    let plan = ProofPlan::inclusion(index.into(), size.into()).expect("an entry of the log");
    let proof = LOG.compute(&plan);
    [2, index, size].into_iter().chain(proof.iter().flat_map(|hash| *hash.as_bytes())).collect()
}

/// Returns the bytes of a proof that holds: that the log's first `new` entries extend `old`.
pub(crate) fn sound_consistency(old: u8, new: u8) -> Vec<u8> {
    let plan = ProofPlan::consistency(old.into(), new.into()).expect("sizes in order");
    let proof = LOG.compute(&plan);
    [3, old, new].into_iter().chain(proof.iter().flat_map(|hash| *hash.as_bytes())).collect()
}

/// An index, a size and a proof: it holds if it is the one that the log computes.
fn inclusion(bytes: &[u8]) {
    let Some((&[index, size], proof)) = bytes.split_first_chunk() else { return };
    let (proof, log) = (hashes(proof), &*LOG);
    let (index, size) = (u64::from(index), u64::from(size).min(log.size()));
    let leaf = leaf_hash(&index.to_be_bytes());
    let verdict = verify_inclusion(&leaf, index, size, &proof, &log.root(size));
    match ProofPlan::inclusion(index, size) {
        Ok(plan) => assert_eq!(verdict.is_ok(), log.compute(&plan) == proof),
        Err(error) => assert_eq!(verdict, Err(error)),
    }
    // Under roots and sizes that are not the log's, nothing holds and nothing panics.
    let other = verify_inclusion(&leaf, index, size << 40, &proof, &log.root(size));
    assert!(other.is_err() || size == 0);
}

/// Two sizes and a proof: it holds if it is the one that the log computes.
fn consistency(bytes: &[u8]) {
    let Some((&[old, new], proof)) = bytes.split_first_chunk() else { return };
    let (proof, log) = (hashes(proof), &*LOG);
    let checkpoint = |size: u8| {
        let size = u64::from(size).min(log.size());
        Checkpoint { size, root: log.root(size) }
    };
    let (old, new) = (checkpoint(old), checkpoint(new));
    let verdict = verify_consistency(&old, &new, &proof);
    match ProofPlan::consistency(old.size, new.size) {
        Ok(plan) => assert_eq!(verdict.is_ok(), log.compute(&plan) == proof),
        Err(error) => assert_eq!(verdict, Err(error)),
    }
    let fork = Checkpoint { size: new.size, root: leaf_hash(b"another list") };
    let verdict = verify_consistency(&new, &fork, &proof);
    assert_eq!(verdict, Err(LogError::Fork { size: new.size }));
    let huge = Checkpoint { size: new.size << 40, root: new.root };
    assert!(old.size == 0 || verify_consistency(&old, &huge, &proof).is_err());
}

fn hashes(bytes: &[u8]) -> Vec<TreeHash> {
    let (hashes, _) = bytes.as_chunks();
    hashes.iter().take(MAX_PROOF_LEN + 1).copied().map(TreeHash::from_bytes).collect()
}

/// A log of the numbers from 0 on.
struct Log {
    frontier: Frontier,
    tiles: BTreeMap<TileId, Tile>,
}

impl Log {
    const fn size(&self) -> u64 {
        self.frontier.size()
    }

    fn root(&self, size: u64) -> TreeHash {
        let plan = ProofPlan::root(size).expect("a size of the log");
        self.compute(&plan).first().copied().unwrap_or(TreeHash::EMPTY)
    }

    fn compute(&self, plan: &ProofPlan) -> Vec<TreeHash> {
        plan.compute(|id| self.tiles.get(&id)).expect("every tile is kept")
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let mut frontier = Frontier::new();
    let leaves: Vec<_> = (0..100_u64).map(|number| leaf_hash(&number.to_be_bytes())).collect();
    let tiles = frontier.append_all(&leaves).expect("far from the bound").into_iter().collect();
    Log { frontier, tiles }
});

struct Parties {
    node: Identity,
    sealing: SealingKey,
    origin: Origin,
    certificate: SignedCertificate,
}

static PARTIES: LazyLock<Parties> = LazyLock::new(|| {
    let node = Identity::from_seed(&Secret::from_bytes([1; 32]));
    let sealing = SealingKey::generate();
    let origin: Origin = "https://iris.example".parse().expect("an origin");
    let now = Timestamp::from_millis(1_700_000_000_000);
    let key = SealingPublicKey::from_bytes([7; 32]);
    let certificate = SignedCertificate::issue(&node, Role::Node, key, &origin, now, 1);
    Parties { node, sealing, origin, certificate }
});

/// Returns the bytes of a certificate that verifies, the same in every run.
pub(crate) fn sound_certificate() -> &'static [u8] {
    PARTIES.certificate.encoded()
}

fn exact<T: FromStr<Err: Debug> + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}
