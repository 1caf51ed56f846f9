//! What is read in the names of models: a table of real ones, and any text.

use iris_core::model::{NameFacts, Traits};
use iris_core::quantization::Quantization;
use iris_core::routing::Family;
use proptest::prelude::*;

mod sound;

use sound::is_sound;

const MODELS: &str = include_str!("models.txt");

fn rows() -> impl Iterator<Item = [&'static str; 7]> {
    let lines = MODELS.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let columns: Vec<_> = line.split(' ').collect();
        columns.try_into().unwrap_or_else(|_| panic!("not seven columns: {line}"))
    })
}

/// Returns whether a size is the one that the table tells, in three digits.
fn is_size(found: Option<u64>, told: &str) -> bool {
    let Some(found) = found else { return told == "-" };
    let Some((number, unit)) = told.split_at_checked(told.len() - 1) else { return false };
    let Ok(number) = number.parse::<f64>() else { return false };
    let unit = match unit {
        "T" => 1e12,
        "B" => 1e9,
        _ => 1e6,
    };
    #[expect(clippy::cast_precision_loss, reason = "it is compared in three digits")]
    let off = (found as f64 / (number * unit) - 1.0).abs();
    off < 0.005
}

fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[test]
fn real_names_are_read_as_people_read_them() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for [name, total, active, row @ ..] in rows() {
        let facts = NameFacts::of(name);
        let traits: Vec<_> = facts.traits.names().collect();
        let sizes = is_size(facts.parameters, total) && is_size(facts.active_parameters, active);
        let found = [
            known(facts.quantization),
            known(facts.context_length.map(|tokens| tokens.to_string())),
            known(facts.family),
            if traits.is_empty() { "-".to_owned() } else { traits.join(",") },
        ];
        if !sizes || found != row {
            let sizes = (facts.parameters, facts.active_parameters);
            wrong.push(format!("{name} {total} {active} {row:?}: found {sizes:?} {found:?}"));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 150, "{count} names");
}

#[test]
fn a_family_that_is_read_in_a_name_finds_it() {
    for [name, .., family, _] in rows() {
        let Ok(model) = name.parse() else { panic!("{name}") };
        if family != "-" {
            assert!(Family::new(family).expect("a family").has(&model), "{family} in {name}");
        }
    }
}

#[test]
fn every_way_to_store_weights_is_found_in_a_name_and_known_by_what_is_told() {
    for known in Quantization::KNOWN {
        let Some(told) = NameFacts::of(&format!("Model-7B-{}.gguf", known.name)).quantization
        else {
            // These begin many names, and are none.
            assert!(["Q1", "TQ", "IQ1", "IQ2", "IQ3"].contains(&known.name), "{}", known.name);
            continue;
        };
        let read = Quantization::of(&told).expect("it is known");
        assert_eq!(read.hundredths_of_bits, known.hundredths_of_bits, "{told}");
    }
}

#[test]
fn sizes_of_mixtures_are_near_what_their_maker_published() {
    for (name, published) in [("Mixtral-8x7B-v0.1", 46_700), ("Mixtral-8x22B-v0.1", 141_000)] {
        let millions = NameFacts::of(name).parameters.expect("it is told") / 1_000_000;
        assert!(millions.abs_diff(published) * 25 < published, "{name}: {millions}");
    }
}

#[test]
fn sizes_as_servers_write_them_are_read() {
    for (text, expected) in [
        ("7.6B", Some(7_600_000_000)),
        ("134.52M", Some(134_520_000)),
        ("26B-A4B", Some(26_000_000_000)),
        ("0.8M", Some(800_000)),
        ("B", None),
        ("1.2.3B", None),
        ("0B", None),
        ("99999999999999B", None),
        ("1.0000000001B", None),
        ("9999x9999B", None),
        ("big", None),
    ] {
        assert_eq!(NameFacts::of(text).parameters, expected, "{text}");
    }
}

#[test]
fn models_that_answer_nothing_are_told_apart() {
    for [name, .., traits] in rows() {
        let mute = ["embedding", "reranking", "speech"].contains(&traits);
        assert_eq!(NameFacts::of(name).traits.answers(), !mute, "{name}");
    }
    assert!(Traits::VISION.union(Traits::CODE).answers());
}

proptest! {
    #[test]
    fn any_text_is_read(name in "\\PC{0,600}") {
        is_sound(&name);
    }

    #[test]
    fn texts_like_names_are_read(
        words in prop::collection::vec("[0-9]{0,12}[.]?[0-9]{0,12}[abekmtxvqiEBKMT]{0,2}|q[0-9]_K|int[48]|AWQ|llama|gpt|oss", 0..12),
        between in "[-_:@/. ]",
    ) {
        is_sound(&words.join(&between));
    }
}
