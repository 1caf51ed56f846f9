//! `vectors/log.json`: a small log with its checkpoints and proofs.
//!
//! `IRIS_WRITE_VECTORS=1` writes the file; otherwise it has to be what is made, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use iris_crypto::certificate::CertificateHash;
use iris_crypto::log::{
    Checkpoint, Entry, Frontier, ProofPlan, SignedCheckpoint, Tile, TileId, TreeHash,
    verify_consistency, verify_inclusion,
};
use iris_crypto::{Identity, Secret};
use serde::Serialize;

#[derive(Serialize)]
struct File {
    about: &'static str,
    coordinator_seed: String,
    coordinator: String,
    /// In hexadecimal.
    entries: Vec<String>,
    /// Of each size from 1 on.
    checkpoints: Vec<String>,
    inclusions: Vec<Inclusion>,
    consistencies: Vec<Consistency>,
}

#[derive(Serialize)]
struct Inclusion {
    index: u64,
    size: u64,
    hashes: Vec<TreeHash>,
}

#[derive(Serialize)]
struct Consistency {
    from: u64,
    to: u64,
    hashes: Vec<TreeHash>,
}

#[test]
fn vectors_are_what_is_made() {
    let seed = [3; 32];
    let coordinator = Identity::from_seed(&Secret::from_bytes(seed));
    let entries: Vec<Entry> = [Entry::Coordinator(coordinator.public())]
        .into_iter()
        .chain((1..7).map(|n| Entry::Certificate(CertificateHash::from_bytes([n; 32]))))
        .chain((7..11).map(|n| Entry::Roster([n; 32])))
        .collect();
    let mut log = Frontier::new();
    let mut tiles: BTreeMap<TileId, Tile> = BTreeMap::new();
    let mut checkpoints = Vec::new();
    for entry in &entries {
        tiles.extend(log.append_all(&[entry.leaf_hash()]).unwrap());
        checkpoints.push(SignedCheckpoint::sign(&coordinator, log.size(), log.root()));
    }
    let size = log.size();
    let proof = |plan: ProofPlan| plan.compute(|tile| tiles.get(&tile)).unwrap();
    let state = |size: u64| -> Checkpoint {
        checkpoints[usize::try_from(size - 1).unwrap()].verify(&coordinator.public()).unwrap()
    };
    let (mut inclusions, mut consistencies) = (Vec::new(), Vec::new());
    for to in [1, 2, 7, 8, size] {
        for (index, entry) in (0..to).zip(&entries) {
            let hashes = proof(ProofPlan::inclusion(index, to).unwrap());
            let root = state(to).root;
            verify_inclusion(&entry.leaf_hash(), index, to, &hashes, &root).unwrap();
            inclusions.push(Inclusion { index, size: to, hashes });
        }
        for from in 1..=to {
            let hashes = proof(ProofPlan::consistency(from, to).unwrap());
            verify_consistency(&state(from), &state(to), &hashes).unwrap();
            consistencies.push(Consistency { from, to, hashes });
        }
    }
    let file = File {
        about: "A public log; see iris_crypto::log. Entries are in hexadecimal, hashes in unpadded \
                base64url.",
        coordinator_seed: HEXLOWER.encode(&seed),
        coordinator: coordinator.public().to_string(),
        entries: entries.iter().map(|entry| HEXLOWER.encode(&entry.encode())).collect(),
        checkpoints: checkpoints.iter().map(|signed| signed.text().to_owned()).collect(),
        inclusions,
        consistencies,
    };
    let text = serde_json::to_string_pretty(&file).unwrap() + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/log.json");
    if std::env::var_os("IRIS_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == text, "the vectors are others");
}
