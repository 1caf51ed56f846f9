//! Remembers which numbers were used, in constant space.

/// How far behind the highest number another may be and still be told apart.
pub(super) const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;

/// The numbers used among the last [`WINDOW`]; every lower number counts as used.
#[derive(Debug, Default)]
pub(super) struct Once {
    /// One above the highest number used; 0 while there is none.
    end: u64,
    /// Whether a number within the window was used, at the number modulo the window.
    used: [u64; WORDS],
}

impl Once {
    /// Marks `number` as used; false where it was, or may have been.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        // The highest number has no end above it.
        if number == u64::MAX || self.end.saturating_sub(number) > WINDOW {
            return false;
        }
        if number >= self.end {
            self.advance_to(number);
        }
        let (word, bit) = place(number);
        let fresh = self.used[word] & bit == 0;
        self.used[word] |= bit;
        fresh
    }

    fn advance_to(&mut self, number: u64) {
        if number - self.end >= WINDOW {
            self.used = [0; WORDS];
        } else {
            for skipped in self.end..=number {
                let (word, bit) = place(skipped);
                self.used[word] &= !bit;
            }
        }
        self.end = number + 1;
    }
}

fn place(number: u64) -> (usize, u64) {
    let slot = number % WINDOW;
    (usize::try_from(slot / 64).expect("a slot is below the window"), 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn number_is_used_once_at_any_distance() {
        let mut once = Once::default();
        for number in [0, 5, 3, 1_000_000, 999_999, u64::MAX - 1] {
            assert!(once.insert(number), "{number}");
            assert!(!once.insert(number), "{number}");
        }
        assert!(!once.insert(0));
        assert!(!once.insert(u64::MAX));
    }

    #[test]
    fn number_at_the_edge_of_the_window_is_still_told_apart() {
        let mut once = Once::default();
        assert!(once.insert(WINDOW));
        assert!(once.insert(1));
        assert!(!once.insert(0));
    }

    proptest! {
        #[test]
        fn window_agrees_with_a_set(steps in proptest::collection::vec(0_u64..3000, 1..400)) {
            let (mut once, mut set, mut end) = (Once::default(), BTreeSet::new(), 0);
            for number in steps {
                let expected = end <= number + WINDOW && set.insert(number);
                prop_assert_eq!(once.insert(number), expected);
                end = end.max(number + 1);
            }
        }
    }
}
