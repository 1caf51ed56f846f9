use std::collections::BTreeSet;

use iris_crypto::Identity;
use iris_crypto::log::Frontier;
use proptest::prelude::*;

use super::*;

const DAY: u64 = 24 * 60 * 60;

fn node(number: u8) -> NodeId {
    let letter = |n: u8| char::from(b'a' + n % 26);
    let text: String = [letter(number), letter(number / 26)].into_iter().cycle().take(26).collect();
    text.parse().unwrap()
}

fn candidates(numbers: impl IntoIterator<Item = u8>) -> Vec<GuardCandidate> {
    let candidate = |number: u8| GuardCandidate {
        node: node(number),
        owner: format!("owner {}", number / 2),
        slots: u32::from(number % 5),
    };
    numbers.into_iter().map(candidate).collect()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// Draws numbers that differ.
fn random(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed
    }
}

fn model() -> ModelName {
    "m".parse().unwrap()
}

proptest! {
    #[test]
    fn guards_are_three_able_nodes_that_stay_while_one_of_them_is_able(
        seed: u64,
        listings in prop::collection::vec(prop::collection::btree_set(0_u8..40, 0..12), 1..20),
    ) {
        let (mut trust, mut random) = (Trust::new(), random(seed));
        let mut ever: BTreeSet<NodeId> = BTreeSet::new();
        let mut last: Vec<NodeId> = Vec::new();
        for (hour, listing) in listings.iter().enumerate() {
            let able = candidates(listing.iter().copied());
            let now = at(1_000_000 + hour as u64 * 3600);
            let guards = trust.guards(&model(), &able, now, &mut random);
            prop_assert!(guards.len() <= 3);
            prop_assert!(guards.iter().all(|guard| able.iter().any(|it| it.node == *guard)));
            prop_assert_eq!(guards.iter().collect::<BTreeSet<_>>().len(), guards.len());
            prop_assert!(!guards.is_empty() || able.is_empty() || ever.len() >= 9);
            let known = |guard: &&NodeId| able.iter().any(|it| it.node == **guard);
            let stay = last.iter().filter(known).count();
            if ever.len() >= 3 && stay > 0 {
                prop_assert!(guards.iter().all(|guard| ever.contains(guard)), "none was due");
            }
            ever.extend(&guards);
            last = guards;
        }
        prop_assert!(ever.len() <= 9, "a coordinator could walk through {} nodes", ever.len());
    }

    #[test]
    fn guards_are_those_of_their_owner_only_where_there_are_no_others(seed: u64) {
        let able = candidates(0..20);
        let guards = Trust::new().guards(&model(), &able, at(5), random(seed));
        let owner = |id: &NodeId| &able.iter().find(|it| it.node == *id).unwrap().owner;
        prop_assert_eq!(guards.iter().map(owner).collect::<BTreeSet<_>>().len(), 3);
    }
}

#[test]
fn guards_are_drawn_anew_after_a_month_or_a_week_of_absence() {
    let mut trust = Trust::new();
    let first = trust.guards(&model(), &candidates(0..20), at(DAY), random(1));
    let months: BTreeSet<_> = (0..20)
        .flat_map(|seed| {
            let mut trust = trust.clone();
            trust.guards(&model(), &candidates(0..20), at(32 * DAY), random(seed))
        })
        .collect();
    assert!(months.len() > 10, "{months:?}");
    // While one is there the others keep their places, for a week.
    let one: Vec<_> = candidates(0..20).into_iter().filter(|it| it.node == first[0]).collect();
    let others = candidates(20..30);
    let all = [one, others].concat();
    assert_eq!(trust.guards(&model(), &all, at(6 * DAY), random(2)), first[..1]);
    let later = trust.guards(&model(), &all, at(9 * DAY), random(2));
    assert_eq!((later.len(), later[0]), (3, first[0]));
}

#[test]
fn guards_of_one_model_are_not_those_of_another() {
    let mut trust = Trust::new();
    trust.guards(&model(), &candidates(0..20), at(5), random(1));
    let other = trust.guards(&"n".parse().unwrap(), &candidates(20..22), at(5), random(1));
    assert_eq!(other.len(), 2);
    assert_eq!(trust.guard_sets().count(), 2);
}

#[test]
fn an_earlier_checkpoint_is_believed_with_a_proof_and_does_not_replace_the_later_one() {
    let coordinator = Identity::generate();
    let leaves: Vec<_> = (0..5_u8).map(|n| Entry::Roster([n; 32]).leaf_hash()).collect();
    let text = |size: usize| {
        let mut log = Frontier::new();
        log.append_all(&leaves[..size]).unwrap();
        let signed = SignedCheckpoint::sign(&coordinator, log.size(), log.root());
        signed.text().to_owned()
    };
    let mut trust = Trust::new();
    assert_eq!(trust.handle_checkpoint(&text(5), None), Ok(None));
    let needed = trust.handle_checkpoint(&text(4), None).unwrap();
    assert_eq!(needed, Some(Verdict::ProofNeeded { from: 4, to: 5 }));
    // The log of four is the left half of the log of five.
    let growth = Growth { from: 4, to: 5, hashes: vec![leaves[4]] };
    assert_eq!(trust.handle_checkpoint(&text(4), Some(&growth)), Ok(None));
    assert_eq!(trust.checkpoint(), Some(text(5).as_str()));
    let lie = Growth { from: 4, to: 5, hashes: vec![leaves[3]] };
    let error = trust.handle_checkpoint(&text(4), Some(&lie)).unwrap_err();
    assert!(matches!(error, TrustError::Fork(_)), "{error:?}");
}

#[test]
fn only_one_coordinator_is_trusted() {
    let (one, other) = (Identity::generate(), Identity::generate());
    let text = |identity: &Identity| {
        let mut log = Frontier::new();
        log.append(Entry::Coordinator(identity.public()).leaf_hash()).unwrap();
        SignedCheckpoint::sign(identity, 1, log.root()).text().to_owned()
    };
    let mut trust = Trust::new();
    trust.expect_coordinator(one.public()).unwrap();
    let error = trust.handle_checkpoint(&text(&other), None).unwrap_err();
    let (pinned, found) = (one.public(), other.public());
    assert_eq!(error, TrustError::WrongCoordinator { pinned, found });
    assert_eq!(trust.handle_checkpoint(&text(&one), None), Ok(None));
    assert!(trust.expect_coordinator(other.public()).is_err());
}

#[cfg(unix)]
mod files {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn store(path: &Path) -> TrustStore {
        TrustStore::new(Some(path.to_owned()), None, Vec::new())
    }

    fn own(path: &Path) -> Result<Vec<NodeId>, TrustError> {
        store(path).own()
    }

    fn pin(path: &Path, number: u8) {
        store(path).with(|trust| Ok(trust.pin(node(number)))).unwrap();
    }

    #[test]
    fn what_is_trusted_is_kept_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/iris/a.json");
        assert_eq!(own(&path).unwrap(), []);
        assert!(!path.exists(), "nothing is written where nothing is known");
        pin(&path, 1);
        assert_eq!(own(&path).unwrap(), [node(1)]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 2, "the file and its lock: {left:?}");
    }

    #[test]
    fn two_that_share_a_file_lose_nothing_of_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let stores = [store(&path), store(&path)];
        for number in 0..10 {
            let store = &stores[usize::from(number % 2)];
            store.with(|trust| Ok(trust.pin(node(number)))).unwrap();
        }
        assert_eq!(own(&path).unwrap().len(), 10);
        assert_eq!(stores[0].own().unwrap().len(), 10);
    }

    #[test]
    fn a_file_that_others_could_have_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        pin(&path, 1);
        for mode in [0o644, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = own(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = folder.path().join("link.json");
        symlink(&path, &link).unwrap();
        assert!(own(&link).is_err());
        assert!(own(&path).is_ok());
    }

    #[test]
    fn a_file_that_was_tampered_with_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        pin(&path, 1);
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            "{}".to_owned(),
            good.replace("iris-trust/v1", "iris-trust/v2"),
            good.replace("\"own\"", "\"more\": 1, \"own\""),
            good[..good.len() / 2].to_owned(),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = store(&path).with(|trust| Ok(trust.pin(node(2)))).unwrap_err();
            assert!(matches!(error, TrustError::File { .. }), "{error:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        store(&path).reset().unwrap();
        assert_eq!(own(&path).unwrap(), []);
    }

    #[test]
    fn a_failed_change_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let store = store(&path);
        let failed = store.with(|trust| {
            trust.pin(node(1));
            Err::<(), _>(TrustError::Roster("no"))
        });
        assert!(failed.is_err());
        assert_eq!(store.own().unwrap(), []);
        assert!(!path.exists());
    }

    #[test]
    fn a_reset_keeps_ones_own_nodes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let store = store(&path);
        let identity = Identity::generate().public();
        store
            .with(|trust| {
                trust.pin(node(1));
                trust.expect_coordinator(identity)
            })
            .unwrap();
        store.reset().unwrap();
        assert_eq!(own(&path).unwrap(), [node(1)]);
        assert_eq!(store.with(|trust| Ok(trust.coordinator().copied())).unwrap(), None);
    }
}
