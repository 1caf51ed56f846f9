use std::ops::RangeInclusive;
use std::time::Duration;

/// Draws from a seed: the same numbers for the same seed, on every machine.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Begins at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Draws any number.
    pub const fn draw(&mut self) -> u64 {
        // SplitMix64, by Steele, Lea and Flood.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number below `bound`; 0 where `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let drawn = self.draw();
        if bound == 0 { 0 } else { drawn % bound }
    }

    /// Returns true once in `times` draws, on average; never where `times` is 0.
    pub const fn once_in(&mut self, times: u64) -> bool {
        let drawn = self.draw();
        times != 0 && drawn.is_multiple_of(times)
    }

    /// Draws a time, in whole milliseconds.
    pub fn time(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (from, to) = (millis(range.start()), millis(range.end()));
        let width = to.saturating_sub(from).saturating_add(1);
        Duration::from_millis(from.saturating_add(self.below(width)))
    }

    /// Draws one of `items`.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let drawn = self.below(items.len() as u64);
        &items[usize::try_from(drawn).expect("an index fits")]
    }

    /// Draws bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.draw().to_le_bytes()[0])
    }

    /// Returns dice of their own for a part of the run, so that what one part draws does not
    /// change what another does.
    pub const fn fork(&mut self) -> Self {
        Self::new(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_draws_the_same_and_another_does_not() {
        let draws = |seed| Dice::new(seed).bytes::<32>();
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn draws_keep_to_their_bounds_and_reach_them() {
        let mut dice = Dice::new(1);
        let range = Duration::from_millis(3)..=Duration::from_millis(5);
        let times: Vec<_> = (0..100).map(|_| dice.time(&range).as_millis()).collect();
        assert!(times.iter().all(|time| (3..=5).contains(time)));
        assert!((3..=5).all(|time| times.contains(&time)));
        assert!(!dice.once_in(0));
        assert!((0..100).filter(|_| dice.once_in(4)).count() > 10);
        assert_eq!(dice.below(0), 0);
    }
}
