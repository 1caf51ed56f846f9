//! What every [`Store`] must do.
//!
//! Each check works on record types of its own, whose names begin with `conformance-`, so all of
//! them may run on one store; none may run twice on the same records. Clean-up is the caller's.
//! A check panics when the store breaks its contract, with the clause that was broken.

use std::fmt;
use std::ops::Range;

use futures::future::join_all;
use futures::stream::TryStreamExt;
use serde_json::{Value, json};

use crate::store::{Batch, Document, Expect, Key, Record, Store, StoreError, Version, Write};

mod model;

pub use model::agrees_with_a_model;

/// Runs every check that needs nothing but a store.
pub async fn run_all(store: &dyn Store) {
    absent_records_are_absent(store).await;
    writes_are_read_back(store).await;
    versions_count_writes(store).await;
    versions_restart_after_deletion(store).await;
    expectations_are_checked(store).await;
    deletions_have_expectations_too(store).await;
    failed_batches_change_nothing(store).await;
    batches_apply_in_order(store).await;
    empty_batches_succeed(store).await;
    scans_follow_the_order_of_bytes(store).await;
    scans_respect_their_ends(store).await;
    scans_stay_within_their_record_type(store).await;
    long_scans_are_complete(store).await;
    values_come_back_unchanged(store).await;
    big_values_come_back_unchanged(store).await;
    keys_that_look_like_queries_are_only_keys(store).await;
    one_of_many_creators_wins(store).await;
    no_update_is_lost(store).await;
    for seed in 0..16 {
        agrees_with_a_model(store, seed).await;
    }
}

/// What was never written is not there, and deleting it is no error.
pub async fn absent_records_are_absent(store: &dyn Store) {
    let kind = "conformance-absent";
    assert_eq!(store.get(key(kind, "nothing")).await, Ok(None), "an unwritten key has no record");
    commit(store, Batch::new().delete(key(kind, "nothing"))).await;
    assert_eq!(scan(store, Key::all(kind)).await, [], "an unwritten record type is empty");
}

/// A commit is visible to every read that starts after it resolved.
pub async fn writes_are_read_back(store: &dyn Store) {
    for number in 0..50 {
        let key = key("conformance-read-back", number);
        commit(store, Batch::new().put(key.clone(), document(number))).await;
        assert_eq!(read(store, &key).await, Some((1, json!(number))), "get sees the commit");
        let seen = scan(store, key.clone()..self::key("conformance-read-back", "z")).await;
        assert!(seen.iter().any(|record| record.key == key), "scan sees the commit");
    }
}

/// Each write to a key adds one to its version.
pub async fn versions_count_writes(store: &dyn Store) {
    let key = key("conformance-versions", "a");
    for version in 1..=5 {
        commit(store, Batch::new().put(key.clone(), document(version))).await;
        assert_eq!(read(store, &key).await, Some((version, json!(version))), "versions count");
    }
    let twice = Batch::new().put(key.clone(), document(6)).put(key.clone(), document(7));
    commit(store, twice).await;
    assert_eq!(read(store, &key).await, Some((7, json!(7))), "each write of a batch counts");
}

/// A record that is created again begins at version 1.
pub async fn versions_restart_after_deletion(store: &dyn Store) {
    let key = key("conformance-restart", "a");
    let batch = Batch::new().put(key.clone(), document(1)).put(key.clone(), document(2));
    commit(store, batch.delete(key.clone())).await;
    assert_eq!(read(store, &key).await, None, "a deleted record is absent");
    commit(store, Batch::new().create(key.clone(), document(3))).await;
    assert_eq!(read(store, &key).await, Some((1, json!(3))), "versions restart");
    commit(store, Batch::new().delete(key.clone()).create(key.clone(), document(4))).await;
    assert_eq!(read(store, &key).await, Some((1, json!(4))), "versions restart within a batch");
}

/// `Any` takes what is there, `Absent` nothing, `At` that version alone.
pub async fn expectations_are_checked(store: &dyn Store) {
    let key = key("conformance-expect", "a");
    let create = Batch::new().create(key.clone(), document(1));
    let replace = |version| Batch::new().replace(key.clone(), Version(version), document(2));
    refuse(store, replace(1), &key, "At refuses an absent record").await;
    refuse(store, replace(0), &key, "no version means absence").await;
    commit(store, create.clone()).await;
    refuse(store, create, &key, "Absent refuses a record").await;
    refuse(store, replace(2), &key, "At refuses an older record").await;
    commit(store, replace(1)).await;
    refuse(store, replace(1), &key, "At refuses a newer record").await;
    commit(store, Batch::new().put(key.clone(), document(3))).await;
    assert_eq!(read(store, &key).await, Some((3, json!(3))), "refused writes do not count");
}

/// A deletion demands what it says, like any write.
pub async fn deletions_have_expectations_too(store: &dyn Store) {
    let key = key("conformance-delete", "a");
    let delete = |expect| Batch { writes: vec![Write { key: key.clone(), expect, value: None }] };
    refuse(store, delete(Expect::At(Version(1))), &key, "At refuses an absent record").await;
    commit(store, delete(Expect::Absent)).await;
    commit(store, Batch::new().put(key.clone(), document(1))).await;
    refuse(store, delete(Expect::Absent), &key, "Absent refuses a record").await;
    refuse(store, delete(Expect::At(Version(2))), &key, "At refuses another version").await;
    commit(store, delete(Expect::At(Version(1)))).await;
    assert_eq!(read(store, &key).await, None, "a deletion whose expectation holds deletes");
}

/// A batch that is refused leaves every record as it was, wherever the refused write stands.
pub async fn failed_batches_change_nothing(store: &dyn Store) {
    let key = |id| key("conformance-atomic", id);
    commit(store, Batch::new().put(key("kept"), document(1)).put(key("gone"), document(1))).await;
    let before = scan(store, Key::all("conformance-atomic")).await;
    let good = || {
        let batch = Batch::new().put(key("kept"), document(2)).delete(key("gone"));
        batch.create(key("new"), document(2))
    };
    let last = good().create(key("kept"), document(3));
    refuse(store, last, &key("kept"), "the refused write stands last").await;
    let mut first = Batch::new().create(key("kept"), document(3));
    first.writes.extend(good().writes);
    refuse(store, first, &key("kept"), "the refused write stands first").await;
    let again = good().create(key("new"), document(3));
    refuse(store, again, &key("new"), "a batch conflicts with itself").await;
    let after = scan(store, Key::all("conformance-atomic")).await;
    assert_eq!(after, before, "a refused batch changes nothing");
}

/// Later writes of a batch see the earlier ones.
pub async fn batches_apply_in_order(store: &dyn Store) {
    let key = key("conformance-order", "a");
    let batch = Batch::new()
        .create(key.clone(), document("first"))
        .replace(key.clone(), Version(1), document("second"))
        .delete(key.clone())
        .create(key.clone(), document("third"))
        .replace(key.clone(), Version(1), document("last"));
    commit(store, batch).await;
    assert_eq!(read(store, &key).await, Some((2, json!("last"))), "a batch applies in order");
}

/// A batch without writes is no error.
pub async fn empty_batches_succeed(store: &dyn Store) {
    commit(store, Batch::new()).await;
}

/// Keys are ordered by bytes: no locale, no numbers, no folding of case.
pub async fn scans_follow_the_order_of_bytes(store: &dyn Store) {
    let kind = "conformance-bytes";
    let ordered =
        ["-", ".", "0", "1", "10", "2", "A", "Z", "_", "a", "a-", "a.b", "a/b", "a0", "b"];
    let shuffled = ordered.iter().rev().step_by(2).chain(ordered.iter().rev().skip(1).step_by(2));
    for id in shuffled {
        commit(store, Batch::new().create(key(kind, id), document(id))).await;
    }
    let seen = scan(store, Key::all(kind)).await;
    assert_eq!(ids(&seen), ordered, "scans follow the order of the keys' bytes");
}

/// A range includes its start and excludes its end; an empty or inverted one yields nothing.
pub async fn scans_respect_their_ends(store: &dyn Store) {
    let key = |id| key("conformance-ends", id);
    for id in ["a", "b", "c", "d"] {
        commit(store, Batch::new().put(key(id), document(id))).await;
    }
    for (start, end, expected) in [
        ("a", "d", vec!["a", "b", "c"]),
        ("a.", "c.", vec!["b", "c"]),
        ("0", "z", vec!["a", "b", "c", "d"]),
        ("e", "z", vec![]),
        ("b", "b", vec![]),
        ("d", "a", vec![]),
    ] {
        let seen = scan(store, key(start)..key(end)).await;
        assert_eq!(ids(&seen), expected, "the range from {start} to before {end}");
    }
}

/// The range of a record type holds its records alone, also beside types of similar names.
pub async fn scans_stay_within_their_record_type(store: &dyn Store) {
    let kinds = ["conformance-kin", "conformance-kin-", "conformance-kin.a", "conformance-kin0"];
    for kind in kinds {
        commit(store, Batch::new().put(key(kind, "a"), document(kind))).await;
        commit(store, Batch::new().put(key(kind, "a/b"), document(kind))).await;
    }
    for kind in kinds {
        let seen = scan(store, Key::all(kind)).await;
        assert_eq!(ids(&seen), ["a", "a/b"], "the records of {kind}");
        assert!(seen.iter().all(|record| record.key.record_type() == kind), "only {kind}");
    }
}

/// A scan far longer than any page yields each record once, and may be dropped half-way.
pub async fn long_scans_are_complete(store: &dyn Store) {
    let kind = "conformance-long";
    let ids: Vec<String> = (0..1500).map(|number| format!("{number:04}")).collect();
    for part in ids.chunks(500) {
        let put = |batch: Batch, id: &String| batch.put(key(kind, id), document(id));
        commit(store, part.iter().fold(Batch::new(), put)).await;
    }
    let seen = scan(store, Key::all(kind)).await;
    assert_eq!(self::ids(&seen), ids, "a long scan is complete and in order");
    let mut abandoned = store.scan(Key::all(kind));
    let first = abandoned.try_next().await.expect("a scan of healthy records succeeds");
    assert_eq!(first.map(|record| record.key), Some(key(kind, "0000")), "a scan begins first");
    drop(abandoned);
    commit(store, Batch::new().put(key(kind, "0000"), document("after"))).await;
}

/// Values keep every character, down to spacing and escapes.
pub async fn values_come_back_unchanged(store: &dyn Store) {
    let texts = [
        r#"{"b":1,"a":2}"#,
        r#"{ "spaced" :  [ 1,2.50, 1e3 ] }"#,
        r#""line\nbreak \"quoted\" back\\slash \u0000 tab\t""#,
        "\"raw: grüße 世界 🦀 \u{202e} \u{7f}\"",
        r#"{"sql":"'); DROP TABLE records; --","like":"%_","param":"?1 :a @b $c"}"#,
        "123456789012345678901234567890.000000000000000001",
        "null",
        "{}",
    ];
    for (number, text) in texts.into_iter().enumerate() {
        let key = key("conformance-values", number);
        let value = Document::from_text(text.to_owned());
        commit(store, Batch::new().put(key.clone(), value.clone())).await;
        let kept = store.get(key).await.expect("a healthy record is read");
        assert_eq!(kept.expect("the record was committed").value.as_text(), text);
        let seen = scan(store, Key::all("conformance-values")).await;
        assert_eq!(seen.last().map(|record| record.value.as_text()), Some(text));
    }
}

/// A value of one mebibyte is as good as any.
pub async fn big_values_come_back_unchanged(store: &dyn Store) {
    let key = |id| key("conformance-big", id);
    let big = document("é\n".repeat(1 << 18));
    let batch = Batch::new().put(key(1), big.clone()).put(key(2), document(2));
    commit(store, batch.put(key(3), big.clone())).await;
    let seen = scan(store, Key::all("conformance-big")).await;
    let whole = seen.len() == 3 && seen[0].value == big && seen[2].value == big;
    assert!(whole, "big values come back whole");
}

/// The longest key, and keys made of a query language's words, are kept like others.
pub async fn keys_that_look_like_queries_are_only_keys(store: &dyn Store) {
    let kind = "conformance-words";
    let longest = "k".repeat(Key::MAX_LEN - kind.len() - 1);
    let words = ["--", "DROP/TABLE/records", "NULL", "_", &longest, "select"];
    for id in words {
        commit(store, Batch::new().create(key(kind, id), document(id))).await;
    }
    assert_eq!(ids(&scan(store, Key::all(kind)).await), words, "keys are only keys");
    commit(store, Batch::new().delete(key(kind, "_"))).await;
    assert_eq!(scan(store, Key::all(kind)).await.len(), words.len() - 1, "'_' is no wildcard");
}

/// Of many commits at once that create one record, one succeeds and the others conflict.
pub async fn one_of_many_creators_wins(store: &dyn Store) {
    let key = |id: &str| key("conformance-creators", id);
    let attempts = (0..32).map(|number| {
        let own = key(&format!("own-{number:02}"));
        let batch = Batch::new().put(own.clone(), document(number));
        let batch = batch.create(key("prize"), document(number));
        async move { (number, own, store.commit(batch).await) }
    });
    let mut winners = Vec::new();
    for (number, own, outcome) in join_all(attempts).await {
        let kept = read(store, &own).await;
        match outcome {
            Ok(()) => winners.push(number),
            Err(error) => {
                assert_eq!(error, StoreError::Conflict(key("prize")), "losers conflict");
                assert_eq!(kept, None, "a loser's other writes are not applied");
            }
        }
    }
    let [winner] = winners[..] else { panic!("one creator wins, not {winners:?}") };
    assert_eq!(read(store, &key("prize")).await, Some((1, json!(winner))), "the winner is kept");
}

/// Read, change and replace loses nothing when many do it at once and retry on conflict.
pub async fn no_update_is_lost(store: &dyn Store) {
    const WRITERS: u64 = 8;
    const ADDITIONS: u64 = 5;
    let key = key("conformance-counter", "a");
    commit(store, Batch::new().create(key.clone(), document(0))).await;
    let add_one = || async {
        loop {
            let (version, value) = read(store, &key).await.expect("the counter is there");
            let sum = value.as_u64().expect("the counter is a number") + 1;
            let batch = Batch::new().replace(key.clone(), Version(version), document(sum));
            match store.commit(batch).await {
                Ok(()) => break,
                Err(error) => assert_eq!(error, StoreError::Conflict(key.clone())),
            }
        }
    };
    join_all((0..WRITERS).map(|_| async {
        for _ in 0..ADDITIONS {
            add_one().await;
        }
    }))
    .await;
    let sum = WRITERS * ADDITIONS;
    assert_eq!(read(store, &key).await, Some((sum + 1, json!(sum))), "no update is lost");
}

/// Commits that resolved are there after the store was dropped and opened again.
///
/// `open` opens the same records each time; it is called only while no earlier store is left.
pub async fn survives_reopening<S: Store>(mut open: impl AsyncFnMut() -> S) {
    let key = |id| key("conformance-reopen", id);
    for round in 1..=3 {
        let store = open().await;
        let expected = (round > 1).then(|| (round - 1, json!(round - 1)));
        assert_eq!(read(&store, &key(0)).await, expected, "a reopened store knows its past");
        let batch = Batch::new().put(key(0), document(round)).create(key(round), document(round));
        commit(&store, batch).await;
        let refused = Batch::new().put(key(0), document("refused")).create(key(1), document(0));
        refuse(&store, refused, &key(1), "a reopened store knows its versions").await;
        assert_eq!(scan(&store, key(1)..key(9)).await.len() as u64, round, "nothing is lost");
        drop(store);
    }
}

fn key(kind: &str, id: impl fmt::Display) -> Key {
    Key::new(kind, id).expect("the suite's keys are valid")
}

fn document(value: impl serde::Serialize) -> Document {
    Document::encode(&value)
}

fn ids(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.id()).collect()
}

async fn commit(store: &dyn Store, batch: Batch) {
    store.commit(batch).await.expect("a batch whose expectations hold is committed");
}

async fn refuse(store: &dyn Store, batch: Batch, key: &Key, clause: &str) {
    let outcome = store.commit(batch).await;
    assert_eq!(outcome, Err(StoreError::Conflict(key.clone())), "{clause}");
}

async fn read(store: &dyn Store, key: &Key) -> Option<(u64, Value)> {
    let record = store.get(key.clone()).await.expect("a healthy record is read")?;
    assert_eq!(record.key, *key, "get returns the record that was asked for");
    Some((record.version.0, record.value.decode().expect("the value is JSON")))
}

async fn scan(store: &dyn Store, range: Range<Key>) -> Vec<Record> {
    store.scan(range).try_collect().await.expect("a scan of healthy records succeeds")
}
