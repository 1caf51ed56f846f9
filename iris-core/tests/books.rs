//! Month's books that anybody may have written.

use proptest::prelude::*;

#[path = "properties/books.rs"]
mod properties;

/// A month that is right: the seed of the fuzz target, too.
const GOOD: &str = include_str!("../../fuzz/corpus/books/month");

#[test]
fn a_right_month_is_right_and_adds_up() {
    assert!(GOOD.lines().count() > 4);
    properties::file(GOOD.as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn numbers_and_lines_may_be_anything(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<i64>()), 1..4),
        (from, to) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let mut text = GOOD.to_owned();
        for (place, number) in places {
            let numbers = numbers(&text);
            let (start, end) = numbers[place.index(numbers.len())];
            text.replace_range(start..end, &number.to_string());
        }
        let mut lines: Vec<&str> = text.lines().collect();
        let (from, to) = (from.index(lines.len()), to.index(lines.len()));
        lines.swap(from, to);
        properties::file(text.as_bytes());
        properties::file(lines.join("\n").as_bytes());
    }

    #[test]
    fn bytes_may_be_anything(
        start in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut file = GOOD.as_bytes().to_vec();
        let start = start.index(file.len());
        let end = file.len().min(start + bytes.len());
        file.splice(start..end, bytes);
        properties::file(&file);
    }
}

/// Returns where the numbers of a text are.
fn numbers(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let is_digit = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_digit);
    let starts = (1..bytes.len())
        .filter(|place| is_digit(*place) && matches!(bytes[place - 1], b':' | b',' | b'['));
    let end =
        |start: usize| (start..=bytes.len()).find(|place| !is_digit(*place)).expect("its end");
    starts.map(|start| (start, end(start))).collect()
}
