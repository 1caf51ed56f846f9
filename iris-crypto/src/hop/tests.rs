use proptest::prelude::*;

use super::*;

const INFO: &[u8] = b"session";

fn roots() -> (HopRoot, HopRoot) {
    let key = SealingKey::generate();
    let (encapsulated, coordinator) = HopRoot::initiate(&key.public(), INFO).unwrap();
    (coordinator, HopRoot::accept(&key, &encapsulated, INFO).unwrap())
}

fn channels(assignment: u64) -> (Channel, Channel) {
    let (mut coordinator, mut node) = roots();
    (coordinator.channel(assignment).unwrap(), node.channel(assignment).unwrap())
}

#[test]
fn chunks_travel_both_ways() {
    let (mut coordinator, mut node) = channels(3);
    for number in 0..300 {
        let text = vec![7; number];
        let sealed = node.sealer.seal(b"out", &text).unwrap();
        let number = number as u64;
        assert_eq!(coordinator.opener.open(number, b"out", &sealed).unwrap(), text);
        let sealed = coordinator.sealer.seal(b"in", &text).unwrap();
        assert_eq!(node.opener.open(number, b"in", &sealed).unwrap(), text);
    }
    assert_eq!(node.sealer.next_number(), 300);
    assert_eq!(coordinator.opener.next_number(), 300);
}

#[test]
fn the_three_ways_to_seal_give_the_same_bytes() {
    let sealed = |way: fn(&mut ChunkSealer) -> Vec<u8>| {
        let mut root = HopRoot::new(Side::Node, &[9; 32]);
        way(&mut root.channel(1).unwrap().sealer)
    };
    let whole = sealed(|sealer| sealer.seal(b"aad", b"text").unwrap());
    let appended = sealed(|sealer| {
        let mut out = b"header".to_vec();
        assert_eq!(sealer.seal_into(b"aad", b"text", &mut out), Ok(0));
        out.split_off(6)
    });
    let in_place = sealed(|sealer| {
        let mut text = b"text".to_vec();
        let (number, tag) = sealer.seal_in_place(b"aad", &mut text).unwrap();
        assert_eq!(number, 0);
        [&text[..], &tag].concat()
    });
    assert_eq!(whole, appended);
    assert_eq!(whole, in_place);
}

#[test]
fn chunk_vector_stays_as_it_is() {
    let vector: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/hop-chunks.json")).unwrap();
    let hex = |value: &serde_json::Value| {
        data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
    };
    let secret = hex(&vector["root"]).try_into().unwrap();
    let root = |side| HopRoot::new(side, &secret);
    let (mut coordinator, mut node) = (root(Side::Coordinator), root(Side::Node));
    for assignment in vector["assignments"].as_array().unwrap() {
        let number = assignment["assignment"].as_u64().unwrap();
        let mut coordinator = coordinator.channel(number).unwrap();
        let mut node = node.channel(number).unwrap();
        for chunk in assignment["chunks"].as_array().unwrap() {
            let (aad, text) = (hex(&chunk["aad"]), hex(&chunk["text"]));
            let to_node = coordinator.sealer.seal(&aad, &text).unwrap();
            assert_eq!(to_node, hex(&chunk["to_node"]));
            let to_coordinator = node.sealer.seal(&aad, &text).unwrap();
            assert_eq!(to_coordinator, hex(&chunk["to_coordinator"]));
        }
    }
}

#[test]
fn chunk_opens_for_its_own_place_only() {
    let (mut coordinator, mut node) = roots();
    let mut first = coordinator.channel(1).unwrap();
    let sealed = first.sealer.seal(b"aad", b"text").unwrap();
    let rejected = |opener: &mut ChunkOpener, aad: &[u8]| {
        assert_eq!(opener.open(0, aad, &sealed), Err(HopError::Rejected));
    };
    rejected(&mut first.opener, b"aad");
    rejected(&mut node.channel(2).unwrap().opener, b"aad");
    rejected(&mut roots().1.channel(1).unwrap().opener, b"aad");
    let mut opener = node.channel(1).unwrap().opener;
    assert_eq!(
        opener.open(1, b"aad", &sealed),
        Err(HopError::OutOfOrder { expected: 0, found: 1 })
    );
    assert_eq!(opener.open(0, b"aad", &sealed).unwrap(), b"text");
    assert_eq!(
        opener.open(0, b"aad", &sealed),
        Err(HopError::OutOfOrder { expected: 1, found: 0 })
    );
    rejected_for_good(&mut opener);
}

fn rejected_for_good(opener: &mut ChunkOpener) {
    let next = opener.next_number();
    assert_eq!(opener.open(next, b"", &[0; 20]), Err(HopError::Rejected));
    assert_eq!(opener.open(next, b"", &[]), Err(HopError::Rejected));
    assert_eq!(opener.next_number(), next);
}

#[test]
fn relabelled_number_does_not_open() {
    let (mut coordinator, mut node) = channels(1);
    let _first = coordinator.sealer.seal(b"", b"first").unwrap();
    let second = coordinator.sealer.seal(b"", b"second").unwrap();
    assert_eq!(node.opener.open(0, b"", &second), Err(HopError::Rejected));
}

#[test]
fn altered_chunk_ends_the_channel() {
    let (mut coordinator, mut node) = channels(1);
    let sealed = coordinator.sealer.seal(b"", b"text").unwrap();
    let mut altered = sealed.clone();
    altered[0] ^= 1;
    assert_eq!(node.opener.open(0, b"", &altered), Err(HopError::Rejected));
    assert_eq!(node.opener.open(0, b"", &sealed), Err(HopError::Rejected));
}

#[test]
fn every_flipped_bit_is_refused() {
    let (mut coordinator, mut node) = roots();
    for (assignment, bit) in (0..(4 + TAG_LEN) * 8).enumerate() {
        let assignment = assignment as u64;
        let mut sealed =
            coordinator.channel(assignment).unwrap().sealer.seal(b"aad", b"text").unwrap();
        sealed[bit / 8] ^= 1 << (bit % 8);
        let mut opener = node.channel(assignment).unwrap().opener;
        assert_eq!(opener.open(0, b"aad", &sealed), Err(HopError::Rejected), "bit {bit}");
    }
}

#[test]
fn roots_of_another_session_do_not_agree() {
    let key = SealingKey::generate();
    let (encapsulated, mut coordinator) = HopRoot::initiate(&key.public(), b"one").unwrap();
    let mut node = HopRoot::accept(&key, &encapsulated, b"two").unwrap();
    let sealed = coordinator.channel(0).unwrap().sealer.seal(b"", b"text").unwrap();
    let opened = node.channel(0).unwrap().opener.open(0, b"", &sealed);
    assert_eq!(opened, Err(HopError::Rejected));
}

#[test]
fn keys_of_an_assignment_are_given_out_once() {
    let (mut root, _) = roots();
    assert!(root.channel(9).is_ok());
    assert_eq!(root.channel(9).err(), Some(HopError::AssignmentReused(9)));
    assert!(root.channel(8).is_ok());
    assert!(root.channel(9 + MAX_REORDERING).is_ok());
    assert_eq!(root.channel(7).err(), Some(HopError::AssignmentReused(7)));
}

#[test]
fn weak_keys_make_no_root() {
    let weak = HopRoot::initiate(&SealingPublicKey::from_bytes([0; 32]), INFO);
    assert_eq!(weak.err(), Some(HopError::WeakKey));
    let weak = HopRoot::accept(&SealingKey::generate(), &[0; 32], INFO);
    assert_eq!(weak.err(), Some(HopError::WeakKey));
}

#[test]
fn keys_do_not_print() {
    let root = HopRoot::new(Side::Node, &[0xab; 32]);
    assert_eq!(format!("{root:?}"), "HopRoot { side: Node, .. }");
    let (coordinator, _) = channels(1);
    assert!(format!("{coordinator:?}").contains("NumberedAead(..)"));
}

proptest! {
    #[test]
    fn altered_chunks_are_refused(
        text in proptest::collection::vec(any::<u8>(), 0..600),
        aad in proptest::collection::vec(any::<u8>(), 0..40),
        bit: prop::sample::Index,
    ) {
        let (mut coordinator, mut node) = channels(1);
        let mut sealed = coordinator.sealer.seal(&aad, &text).unwrap();
        let bit = bit.index(sealed.len() * 8);
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(node.opener.open(0, &aad, &sealed), Err(HopError::Rejected));
    }

    #[test]
    fn opening_anything_never_panics(
        number: u64,
        sealed in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (_, mut node) = channels(1);
        prop_assert!(node.opener.open(number, b"", &sealed).is_err());
        prop_assert!(node.opener.open(0, b"", &sealed).is_err());
    }
}
