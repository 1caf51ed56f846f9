use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use proptest::prelude::*;

use super::*;
use crate::certificate::CertificateHash;
use crate::identity::Identity;
use crate::secret::Secret;

/// The leaves of the reference tree that implementations of certificate transparency share.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
/// Their roots, from one leaf to eight.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn hex(text: &str) -> TreeHash {
    TreeHash(HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap())
}

fn leaf(number: u64) -> TreeHash {
    leaf_hash(&number.to_be_bytes())
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&Secret::from_bytes([seed; 32]))
}

/// RFC 6962, 2.1, as it stands there.
fn naive_root(leaves: &[TreeHash]) -> TreeHash {
    match leaves {
        [] => TreeHash(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(half(leaves.len()));
            parent(&naive_root(left), &naive_root(right))
        }
    }
}

/// RFC 6962, 2.1.1.
fn naive_inclusion(index: usize, leaves: &[TreeHash]) -> Vec<TreeHash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (naive_inclusion(index, left), right)
    } else {
        (naive_inclusion(index - left.len(), right), left)
    };
    path.push(naive_root(sibling));
    path
}

/// RFC 6962, 2.1.2.
fn naive_consistency(old: usize, leaves: &[TreeHash], whole: bool) -> Vec<TreeHash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut path, sibling) = if old <= left.len() {
        (naive_consistency(old, left, whole), right)
    } else {
        (naive_consistency(old - left.len(), right, false), left)
    };
    path.push(naive_root(sibling));
    path
}

fn half(length: usize) -> usize {
    length.next_power_of_two() / 2
}

/// A log with its tiles in memory.
#[derive(Default)]
struct Kept {
    frontier: Frontier,
    tiles: BTreeMap<TileId, Tile>,
    leaves: Vec<TreeHash>,
}

impl Kept {
    fn of(size: u64) -> Self {
        let mut kept = Self::default();
        kept.append(size);
        kept
    }

    /// Appends entries at once.
    fn append(&mut self, count: u64) {
        let size = self.frontier.size();
        let leaves: Vec<_> = (size..size + count).map(leaf).collect();
        for (id, tile) in self.frontier.append_all(&leaves).unwrap() {
            // Only the tile at the edge is ever written again, and only longer.
            if let Some(before) = self.tiles.insert(id, tile) {
                assert!(self.tiles[&id].hashes().starts_with(before.hashes()));
                assert_ne!(self.tiles[&id].hashes().len(), before.hashes().len());
            }
        }
        self.leaves.extend(leaves);
    }

    fn compute(&self, plan: &ProofPlan) -> Vec<TreeHash> {
        let needed = plan.tiles();
        plan.compute(|id| {
            assert!(needed.contains(&id), "{id} was not asked for");
            self.tiles.get(&id)
        })
        .unwrap()
    }

    fn checkpoint(&self, size: u64) -> Checkpoint {
        let root = self.compute(&ProofPlan::root(size).unwrap());
        Checkpoint { size, root: root.first().copied().unwrap_or(TreeHash::EMPTY) }
    }
}

#[test]
fn reference_tree_has_its_roots() {
    let mut frontier = Frontier::new();
    assert_eq!(frontier.root(), TreeHash::EMPTY);
    assert_eq!(TreeHash::EMPTY, naive_root(&[]));
    for (entry, root) in LEAVES.iter().zip(ROOTS) {
        let entry = HEXLOWER.decode(entry.as_bytes()).unwrap();
        frontier.append(leaf_hash(&entry)).unwrap();
        assert_eq!(frontier.root(), hex(root), "of {} entries", frontier.size());
    }
}

#[test]
fn every_proof_of_a_log_holds_and_is_rfc_6962s() {
    for size in (1..=66).chain(250..=262) {
        let kept = Kept::of(size);
        let root = naive_root(&kept.leaves);
        assert_eq!(kept.frontier.root(), root);
        let new = Checkpoint { size, root };
        // In larger logs some will do.
        for other in (0..size).step_by(if size > 66 { 9 } else { 1 }) {
            let place = usize::try_from(other).unwrap();
            let proof = kept.compute(&ProofPlan::inclusion(other, size).unwrap());
            assert_eq!(proof, naive_inclusion(place, &kept.leaves));
            let leaf = &kept.leaves[place];
            assert_eq!(verify_inclusion(leaf, other, size, &proof, &root), Ok(()));

            let old = kept.checkpoint(other);
            assert_eq!(old.root, naive_root(&kept.leaves[..place]));
            let proof = kept.compute(&ProofPlan::consistency(other, size).unwrap());
            if other > 0 {
                assert_eq!(proof, naive_consistency(place, &kept.leaves, true));
            }
            assert_eq!(verify_consistency(&old, &new, &proof), Ok(()));
        }
    }
}

#[test]
fn proof_of_something_else_is_refused() {
    let long = Kept::of(44);
    for size in 1..=22 {
        let kept = Kept::of(size);
        let new = kept.checkpoint(size);
        for index in 0..size {
            let proof = kept.compute(&ProofPlan::inclusion(index, size).unwrap());
            let check = |leaf, index, size, proof: &[_]| {
                verify_inclusion(&leaf, index, size, proof, &new.root).is_ok()
            };
            for other in (0..2 * size).filter(|other| *other != index) {
                assert!(!check(leaf(index), other, size, &proof), "{index} as {other} of {size}");
                assert!(!check(leaf(other), index, size, &proof));
            }
            for other in (0..=2 * size).filter(|other| *other != size) {
                // The shape of a proof is the same in logs of some other sizes, whose roots differ.
                let other = long.checkpoint(other);
                let checked =
                    verify_inclusion(&leaf(index), index, other.size, &proof, &other.root);
                assert!(checked.is_err(), "{index} of {size} in {}", other.size);
            }
            damaged(&proof, |proof| assert!(!check(leaf(index), index, size, proof)));
        }
        for old in 1..size {
            let old = kept.checkpoint(old);
            let proof = kept.compute(&ProofPlan::consistency(old.size, size).unwrap());
            let check = |old, new, proof: &[_]| verify_consistency(&old, &new, proof).is_ok();
            assert!(check(old, new, &proof));
            for size in (0..=2 * size).filter(|size| *size != old.size) {
                assert!(!check(Checkpoint { size, ..old }, new, &proof));
            }
            for other in [TreeHash::EMPTY, new.root, leaf(0)] {
                if other != old.root {
                    assert!(!check(Checkpoint { root: other, ..old }, new, &proof));
                    assert!(!check(old, Checkpoint { root: old.root, ..new }, &proof));
                }
            }
            damaged(&proof, |proof| assert!(!check(old, new, proof)));
        }
    }
}

/// Shows `refused` everything that is almost `proof`.
fn damaged(proof: &[TreeHash], refused: impl Fn(&[TreeHash])) {
    for place in 0..proof.len() {
        for bit in [0, 77, 255] {
            let mut altered = proof.to_vec();
            altered[place].0[bit / 8] ^= 1 << (bit % 8);
            refused(&altered);
        }
        let mut shorter = proof.to_vec();
        shorter.remove(place);
        refused(&shorter);
        let mut swapped = proof.to_vec();
        swapped.swap(0, place);
        if place > 0 {
            refused(&swapped);
        }
    }
    for more in [1, MAX_PROOF_LEN + 1] {
        let more = vec![leaf(0); more];
        refused(&[proof, &more].concat());
        refused(&[&more, proof].concat());
    }
}

#[test]
fn two_logs_are_told_apart_by_what_is_wrong() {
    let kept = Kept::of(9);
    let [old, new] = [5, 9].map(|size| kept.checkpoint(size));
    let proof = kept.compute(&ProofPlan::consistency(5, 9).unwrap());
    let forked = Checkpoint { root: leaf(7), ..new };
    assert_eq!(verify_consistency(&new, &forked, &[]), Err(LogError::Fork { size: 9 }));
    assert_eq!(verify_consistency(&old, &forked, &proof), Err(LogError::BadConsistency));
    assert_eq!(verify_consistency(&new, &old, &proof), Err(LogError::Shrunk { old: 9, new: 5 }));
    assert_eq!(verify_consistency(&new, &new, &[]), Ok(()));
    assert_eq!(verify_consistency(&new, &new, &proof), Err(LogError::BadConsistency));
    let empty = Checkpoint { size: 0, root: TreeHash::EMPTY };
    assert_eq!(verify_consistency(&empty, &new, &[]), Ok(()));
    assert_eq!(verify_consistency(&empty, &new, &proof), Err(LogError::BadConsistency));
    let odd = Checkpoint { root: leaf(1), ..empty };
    assert_eq!(verify_consistency(&odd, &new, &[]), Err(LogError::BadConsistency));
    assert_eq!(verify_consistency(&odd, &odd, &[]), Err(LogError::BadConsistency));
}

#[test]
fn sizes_beyond_the_bound_are_refused() {
    let huge = Checkpoint { size: MAX_SIZE + 1, root: leaf(0) };
    let too_large = Err(LogError::TooLarge(MAX_SIZE + 1));
    assert_eq!(verify_consistency(&huge, &huge, &[]), too_large);
    assert_eq!(verify_inclusion(&leaf(0), 0, MAX_SIZE + 1, &[], &leaf(0)), too_large);
    assert!(ProofPlan::inclusion(0, MAX_SIZE + 1).is_err());
    assert!(ProofPlan::inclusion(7, 7).is_err());
    assert!(ProofPlan::consistency(8, 7).is_err());
    assert!(Frontier::restore(MAX_SIZE + 1, |_| panic!("asked for")).is_err());

    let full = Tile::new(vec![leaf(0); 255]);
    let mut last = Frontier::restore(MAX_SIZE - 1, |_| Some(full.clone())).unwrap();
    assert!(last.append_all(&[leaf(1); 2]).is_err());
    assert_eq!(last.size(), MAX_SIZE - 1);
    last.append(leaf(1)).unwrap();
    assert_eq!(last.append(leaf(1)), Err(LogError::TooLarge(MAX_SIZE + 1)));
    for plan in [
        ProofPlan::inclusion(MAX_SIZE / 3, MAX_SIZE),
        ProofPlan::consistency(MAX_SIZE / 3, MAX_SIZE),
    ] {
        let tiles = plan.unwrap().tiles();
        assert!(tiles.len() <= 14 && tiles.iter().all(|id| id.level <= 6), "{tiles:?}");
    }
}

#[test]
fn large_log_is_appended_to_and_proven_by_a_handful_of_tiles() {
    let mut kept = Kept::of(0);
    for step in [1, 254, 1, 1, 65_278, 1, 1, 4_463, 30_000, 0] {
        kept.append(step);
        let size = kept.frontier.size();
        assert_eq!(kept.checkpoint(size).root, kept.frontier.root());
        let restored = Frontier::restore(size, |id| kept.tiles.get(&id).cloned()).unwrap();
        assert_eq!(restored, kept.frontier);
    }
    let size = kept.frontier.size();
    assert_eq!(size, 100_000);
    assert_eq!(naive_root(&kept.leaves), kept.frontier.root());
    let new = kept.checkpoint(size);
    for other in [0, 1, 255, 256, 65_535, 65_536, 70_123, 99_999] {
        let plan = ProofPlan::inclusion(other, size).unwrap();
        assert!(plan.tiles().len() <= 6);
        verify_inclusion(&leaf(other), other, size, &kept.compute(&plan), &new.root).unwrap();
        let plan = ProofPlan::consistency(other, size).unwrap();
        assert!(plan.tiles().len() <= 6);
        verify_consistency(&kept.checkpoint(other), &new, &kept.compute(&plan)).unwrap();
    }
    // A log of any earlier size is taken up again with tiles that have grown since.
    let restored = Frontier::restore(70_123, |id| kept.tiles.get(&id).cloned()).unwrap();
    assert_eq!(restored.root(), kept.checkpoint(70_123).root);
}

#[test]
fn missing_and_short_tiles_are_errors() {
    let kept = Kept::of(300);
    assert!(Frontier::restore(300, |_| None).is_err());
    assert!(Frontier::restore(300, |_| Some(Tile::new(vec![leaf(0)]))).is_err());
    let plan = ProofPlan::inclusion(290, 300).unwrap();
    assert_eq!(plan.compute(|_| None), Err(TileError));
    let short = Tile::new(vec![leaf(0)]);
    assert_eq!(plan.compute(|_| Some(&short)), Err(TileError));
    assert!(plan.compute(|id| kept.tiles.get(&id)).is_ok());
}

#[test]
fn tile_survives_its_bytes() {
    for length in [1, 2, 255, 256] {
        let tile = Tile::new((0..length).map(leaf).collect());
        assert_eq!(Tile::decode(&tile.encode()), Ok(tile));
    }
    for length in [0, 31, 33, 257 * 32] {
        assert_eq!(Tile::decode(&vec![0; length]), Err(TileError));
    }
}

#[test]
fn entries_are_the_documented_bytes_and_survive_them() {
    let hash = CertificateHash::from_bytes([4; 32]);
    for (entry, name) in [
        (Entry::Coordinator(identity(1).public()), "iris/log/coordinator/v1\0"),
        (Entry::Certificate(hash), "iris/log/certificate/v1\0"),
        (Entry::Roster([4; 32]), "iris/log/roster/v1\0"),
    ] {
        let bytes = entry.encode();
        assert!(bytes.starts_with(name.as_bytes()) && bytes.len() == name.len() + 32);
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        assert_eq!(entry.leaf_hash(), leaf_hash(&bytes));
        for length in name.len()..bytes.len() {
            assert!(matches!(Entry::decode(&bytes[..length]), Err(LogError::Malformed(_))));
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(Entry::decode(&longer), Err(LogError::Malformed(_))));
    }
    assert_eq!(Entry::decode(b"iris/log/release/v1\0..."), Err(LogError::UnknownEntry));
    assert!(matches!(Entry::decode(b"iris/req/v1\0"), Err(LogError::Malformed(_))));
    assert!(matches!(
        Entry::decode(&[b"iris/log/", &[0; MAX_ENTRY_LEN][..]].concat()),
        Err(LogError::Malformed(_))
    ));
    let key = [&b"iris/log/coordinator/v1\0"[..], &[0; 32]].concat();
    assert!(matches!(Entry::decode(&key), Err(LogError::Malformed(_))));
}

#[test]
fn checkpoint_is_a_signed_note() {
    let (log, root) = (identity(1), leaf(0));
    let signed = SignedCheckpoint::sign(&log, 17, root);
    let name = format!("iris-log/{}", log.public());
    let body = format!("{name}\n17\n{}\n", BASE64.encode(root.as_bytes()));
    let id = Sha256::digest([name.as_bytes(), b"\n\x01", log.public().as_bytes()].concat());
    let signature = [&id[..4], log.sign(body.as_bytes()).as_bytes()].concat();
    assert_eq!(signed.text(), format!("{body}\n\u{2014} {name} {}\n", BASE64.encode(&signature)));
    assert_eq!(SignedCheckpoint::decode(signed.text()), Ok(signed.clone()));
    assert_eq!(signed.unverified_coordinator(), &log.public());
    assert_eq!(signed.verify(&log.public()), Ok(Checkpoint { size: 17, root }));
    assert_eq!(signed.verify(&identity(2).public()), Err(LogError::WrongLog));
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_refused() {
    let log = identity(1);
    let signed = SignedCheckpoint::sign(&log, 1_000_000, leaf(3));
    for bit in 0..signed.text().len() * 8 {
        let mut bytes = signed.text().as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let accepted = SignedCheckpoint::decode(&text).and_then(|it| it.verify(&log.public()));
        assert!(accepted.is_err(), "bit {bit}");
    }
    for (length, _) in signed.text().char_indices() {
        let cut = SignedCheckpoint::decode(&signed.text()[..length]);
        assert!(matches!(cut, Err(LogError::Malformed(_))), "{length} bytes");
    }
}

#[test]
fn other_spellings_of_a_checkpoint_are_refused() {
    let signed = SignedCheckpoint::sign(&identity(1), 17, leaf(0));
    let text = signed.text();
    let last = text.lines().last().unwrap();
    let other = SignedCheckpoint::sign(&identity(2), 17, leaf(0));
    let other = other.text().lines().last().unwrap().to_owned();
    for wrong in [
        text.replace("\n17\n", "\n017\n"),
        text.replace("\n17\n", "\n+17\n"),
        text.replace("\n17\n", "\n-17\n"),
        text.replace("\n17\n", "\n\n"),
        text.replace("\n17\n", "\n9007199254740992\n"),
        text.replace("\n17\n", "\n99999999999999999999999\n"),
        text.replace("\n\n", "\nextension\n\n"),
        text.replace("\n\n", "\n\n\n"),
        text.replace('\n', "\r\n"),
        text.replace("iris-log/", "iris-log"),
        text.replace("iris-log/", "Iris-log/"),
        text.replace(&identity(1).public().to_string(), &"0".repeat(64)),
        text.replace('\u{2014}', "-"),
        text.replace(last, &other),
        text.replace(last, &format!("{other}\n{last}")),
        text.replace("=\n", "\n"),
        format!("{text}\n"),
        format!("{text}x"),
        format!("{text}\u{2014} witness AAAA\n"),
        format!("{text}\u{2014}  AAAAAAAAAAAA\n"),
        format!("{text}\u{2014} witness AAAAAAAAAAB=\n"),
        format!("{text}{}", "\u{2014} witness AAAAAAAA\n".repeat(16)),
        format!("{text}\u{2014} {} AAAAAAAA\n", "w".repeat(MAX_CHECKPOINT_LEN)),
    ] {
        let decoded = SignedCheckpoint::decode(&wrong);
        assert!(decoded.is_err(), "{wrong}");
    }
}

#[test]
fn signatures_of_witnesses_are_passed_on() {
    let log = identity(1);
    let signed = SignedCheckpoint::sign(&log, 17, leaf(0));
    let line = "\u{2014} witness.example/w1 AAAAAAAA\n";
    let text = format!("{}{}", signed.text(), line.repeat(15));
    let decoded = SignedCheckpoint::decode(&text).unwrap();
    assert_eq!(decoded.text(), text);
    assert_eq!(decoded.verify(&log.public()), signed.verify(&log.public()));
}

#[test]
fn hash_has_one_spelling() {
    let hash = leaf(1);
    assert_eq!(hash.to_string().parse(), Ok(hash));
    let json = serde_json::to_string(&hash).unwrap();
    assert_eq!(serde_json::from_str::<TreeHash>(&json).unwrap(), hash);
    assert!(format!("{hash}=").parse::<TreeHash>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn proofs_of_any_log_hold_for_what_they_prove_only(
        steps in prop::collection::vec(0_u64..400, 1..5),
        old in any::<prop::sample::Index>(),
        index in any::<prop::sample::Index>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let mut kept = Kept::of(1);
        let mut one_by_one = Frontier::new();
        for step in steps {
            kept.append(step);
        }
        for leaf in &kept.leaves {
            one_by_one.append(*leaf).unwrap();
        }
        prop_assert_eq!(&one_by_one, &kept.frontier);
        let size = kept.frontier.size();
        let new = kept.checkpoint(size);
        prop_assert_eq!(new.root, naive_root(&kept.leaves));

        let index = index.index(kept.leaves.len()) as u64;
        let proof = kept.compute(&ProofPlan::inclusion(index, size).unwrap());
        let check = |proof: &[_]| verify_inclusion(&leaf(index), index, size, proof, &new.root);
        prop_assert_eq!(check(&proof), Ok(()));
        if let Some(altered) = flipped(&proof, bit) {
            prop_assert_eq!(check(&altered), Err(LogError::BadInclusion));
        }

        let old = kept.checkpoint(1 + old.index(kept.leaves.len()) as u64);
        let proof = kept.compute(&ProofPlan::consistency(old.size, size).unwrap());
        prop_assert_eq!(verify_consistency(&old, &new, &proof), Ok(()));
        if let Some(altered) = flipped(&proof, bit) {
            prop_assert!(verify_consistency(&old, &new, &altered).is_err());
        }
    }
}

fn flipped(proof: &[TreeHash], bit: prop::sample::Index) -> Option<Vec<TreeHash>> {
    let mut proof = proof.to_vec();
    let bit = bit.index((proof.len() * 256).max(1));
    proof.get_mut(bit / 256)?.0[bit % 256 / 8] ^= 1 << (bit % 8);
    Some(proof)
}
