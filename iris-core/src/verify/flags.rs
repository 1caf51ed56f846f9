//! What a person should look at: signs, no proofs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::id::{AccountId, NodeId};
use crate::time::Timestamp;

/// Bytes that the fastest memory known to stand in anybody's home or rack moves in a second, times
/// what guessing tokens ahead gains at best.
const FASTEST_MEMORY: u64 = 8_000_000_000_000 * 4;
/// Bytes of an answer below which being equal says nothing.
const LEAST_BYTES: usize = 200;
/// Answers that are kept in mind.
const ANSWERS: usize = 10_000;
/// New nodes of one owner within [`MONTH`] that are worth a look.
const NEWCOMERS: usize = 5;
const MONTH: Duration = Duration::from_hours(30 * 24);
/// Owners whose new nodes are kept in mind.
const OWNERS: usize = 10_000;

/// Something odd about a node; never the reason for a penalty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Flag {
    /// It writes faster than memory can be read: each token takes all active weights once.
    TooFast {
        /// Tokens in a second.
        tokens_per_second: u64,
    },
    /// It gave word for word the answer that a node of this owner, or of its own, gave to another
    /// question: canned text.
    SameAnswer {
        /// Whose node gave it first.
        owner: AccountId,
    },
    /// It leaves tests unanswered, many in a row: it may have a bad line, or not want to be tested.
    Unanswered,
    /// Its owner has registered many nodes that are new.
    ManyNewNodes {
        /// How many within thirty days.
        count: usize,
    },
}

/// An answer that was seen in the clear.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Whose node gave it.
    pub owner: AccountId,
    /// What was asked.
    pub prompt: &'a str,
    /// The answer.
    pub text: &'a str,
}

/// Looks for odd things in what passes by; keeps hashes, and a bounded number of them.
#[derive(Debug, Default)]
pub struct Flags {
    /// For each answer its prompt and who gave it first.
    answers: BTreeMap<[u8; 16], ([u8; 16], AccountId)>,
    order: VecDeque<[u8; 16]>,
    newcomers: BTreeMap<AccountId, BTreeSet<(Timestamp, NodeId)>>,
}

impl Flags {
    /// Tokens below which a speed says nothing.
    pub const LEAST_TOKENS: u32 = 64;

    /// Looks at the speed of one answer of a model whose active weights take `bytes`.
    pub fn speed(tokens: u32, within: Duration, bytes: u64) -> Option<Flag> {
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
        let tokens_per_second = u64::from(tokens) * 1000 / millis;
        let most = FASTEST_MEMORY / bytes.max(1);
        let is_odd = tokens >= Self::LEAST_TOKENS && tokens_per_second > most;
        is_odd.then_some(Flag::TooFast { tokens_per_second })
    }

    /// Looks at an answer; short ones are passed over, and so is the same question asked again.
    pub fn handle_answer(&mut self, answer: Answer<'_>) -> Option<Flag> {
        if answer.text.len() < LEAST_BYTES {
            return None;
        }
        let (prompt, text) = (digest(answer.prompt), digest(answer.text));
        if let Some((asked, owner)) = self.answers.get(&text) {
            return (*asked != prompt).then_some(Flag::SameAnswer { owner: *owner });
        }
        self.answers.insert(text, (prompt, answer.owner));
        self.order.push_back(text);
        if self.order.len() > ANSWERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
        None
    }

    /// Looks at a node that registers for the first time.
    pub fn handle_new_node(
        &mut self,
        node: NodeId,
        owner: AccountId,
        now: Timestamp,
    ) -> Option<Flag> {
        self.newcomers.retain(|_, nodes| {
            nodes.retain(|(at, _)| now.saturating_since(*at) < MONTH);
            !nodes.is_empty()
        });
        if self.newcomers.len() >= OWNERS && !self.newcomers.contains_key(&owner) {
            return None;
        }
        let nodes = self.newcomers.entry(owner).or_default();
        nodes.insert((now, node));
        let count = nodes.len();
        if count > 2 * NEWCOMERS {
            nodes.pop_first();
        }
        (count >= NEWCOMERS).then_some(Flag::ManyNewNodes { count })
    }
}

fn digest(text: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(text).into();
    hash[..16].try_into().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: AccountId = AccountId::from_bytes([1; 16]);
    const OTHER: AccountId = AccountId::from_bytes([2; 16]);

    #[test]
    fn seventy_billion_weights_cannot_be_read_a_thousand_times_a_second() {
        let (large, small) = (140_000_000_000, 4_500_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(Flags::speed(200, second, large), None);
        let flag = Flags::speed(1000, second, large);
        assert_eq!(flag, Some(Flag::TooFast { tokens_per_second: 1000 }));
        assert_eq!(Flags::speed(1000, second, small), None);
        assert_eq!(Flags::speed(3, Duration::ZERO, large), None, "a few tokens arrive at once");
        assert_eq!(Flags::speed(u32::MAX, Duration::ZERO, 0), None);
    }

    #[test]
    fn same_answer_to_another_question_is_odd() {
        let mut flags = Flags::default();
        let (long, short) = ("once upon a time ".repeat(20), "yes");
        let mut ask = |owner, prompt, text| flags.handle_answer(Answer { owner, prompt, text });
        assert_eq!(ask(OWNER, "a", &long), None);
        assert_eq!(ask(OTHER, "a", &long), None);
        assert_eq!(ask(OTHER, "b", &long), Some(Flag::SameAnswer { owner: OWNER }));
        assert_eq!(ask(OWNER, "c", &long), Some(Flag::SameAnswer { owner: OWNER }));
        assert_eq!((ask(OWNER, "d", short), ask(OWNER, "e", short)), (None, None));
    }

    #[test]
    fn answers_that_are_kept_are_bounded() {
        let mut flags = Flags::default();
        for number in 0..ANSWERS + 100 {
            let text = format!("{number:0300}");
            flags.handle_answer(Answer { owner: OWNER, prompt: "a", text: &text });
        }
        assert_eq!((flags.answers.len(), flags.order.len()), (ANSWERS, ANSWERS));
    }

    #[test]
    fn owner_of_many_new_nodes_is_odd_for_a_month() {
        let mut flags = Flags::default();
        let node = |letter: char| letter.to_string().repeat(26).parse().unwrap();
        let day = |day: u32| Timestamp::from_millis(0).saturating_add(MONTH / 30 * day);
        for (number, letter) in ('a'..='d').enumerate() {
            let now = day(u32::try_from(number).unwrap());
            assert_eq!(flags.handle_new_node(node(letter), OWNER, now), None);
        }
        assert_eq!(flags.handle_new_node(node('x'), OTHER, day(5)), None);
        let flag = flags.handle_new_node(node('e'), OWNER, day(5));
        assert_eq!(flag, Some(Flag::ManyNewNodes { count: 5 }));
        assert_eq!(flags.handle_new_node(node('f'), OWNER, day(40)), None);
    }
}
