use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iris_core::{AccountId, NodeId};
use iris_protocol::openai::Turns;

use super::Dispatch;

/// How many conversations are remembered, the latest ones.
const REMEMBERED: usize = 65_536;
/// How long a conversation is remembered: model servers keep what they have read no longer.
const KEPT: Duration = Duration::from_mins(10);
/// Bytes of a conversation beyond which it is not looked at; hashing them would hold others up.
const MAX_HASHED: usize = 1 << 20;

/// Names a conversation without telling anything of it: keyed hashes that only this process can
/// compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// What it was before the last answer and question; `None` where it has just begun.
    before: Option<u64>,
    /// What it is now.
    now: u64,
}

/// Which node answered in which conversation last.
///
/// A model server keeps what it has read of a conversation for a while, so the next question of
/// it is answered sooner where the last one was. Nothing of this is written down.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    key: RandomState,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    nodes: HashMap<u64, (NodeId, Instant)>,
    /// What was remembered when, in order.
    order: VecDeque<(u64, Instant)>,
}

impl Affinity {
    /// Names the conversation that `account` has in `body`, whose messages stand at `turns`.
    pub(super) fn conversation(
        &self,
        account: AccountId,
        body: &[u8],
        turns: &Turns,
    ) -> Option<Conversation> {
        let said = body.get(turns.start..turns.end).filter(|said| said.len() <= MAX_HASHED)?;
        let mut hasher = self.key.build_hasher();
        account.hash(&mut hasher);
        let known = turns.before.map_or(0, |before| before - turns.start);
        hasher.write(said.get(..known)?);
        let before = turns.before.map(|_| hasher.clone().finish());
        hasher.write(said.get(known..)?);
        Some(Conversation { before, now: hasher.finish() })
    }

    /// Returns the node that has read the beginning of a conversation.
    pub(super) fn node(&self, conversation: Conversation, now: Instant) -> Option<NodeId> {
        let memory = self.memory();
        let (node, since) = memory.nodes.get(&conversation.before?)?;
        (now.saturating_duration_since(*since) < KEPT).then_some(*node)
    }

    /// Remembers which node has read all of a conversation.
    pub(super) fn remember(&self, conversation: Conversation, node: NodeId, now: Instant) {
        let mut memory = self.memory();
        memory.nodes.insert(conversation.now, (node, now));
        memory.order.push_back((conversation.now, now));
        memory.forget(now);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Forgets what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some(&(key, since)) = self.order.front() {
            if self.order.len() <= REMEMBERED && now.saturating_duration_since(since) < KEPT {
                return;
            }
            self.order.pop_front();
            // Where the conversation was remembered again since, that stays.
            if self.nodes.get(&key).is_some_and(|(_, known)| *known == since) {
                self.nodes.remove(&key);
            }
        }
    }
}

impl Dispatch {
    /// Names the conversation that `account` goes on with in a chat that was read.
    pub(crate) fn conversation(
        &self,
        account: AccountId,
        body: &[u8],
        turns: Option<&Turns>,
    ) -> Option<Conversation> {
        self.affinity.conversation(account, body, turns?)
    }
}

#[cfg(test)]
mod tests {
    use iris_core::backend::Operation;
    use iris_protocol::openai::Asked;

    use super::*;

    const ME: AccountId = AccountId::from_bytes([1; 16]);

    fn node(letter: &str) -> NodeId {
        letter.repeat(26).parse().unwrap()
    }

    fn conversation(affinity: &Affinity, account: AccountId, said: &[&str]) -> Conversation {
        let messages: Vec<_> =
            said.iter().map(|text| serde_json::json!({"role": "user", "content": text})).collect();
        let body = serde_json::json!({"model": "m", "messages": messages}).to_string();
        let asked = Asked::read(Operation::Chat, body.as_bytes()).unwrap();
        affinity.conversation(account, body.as_bytes(), &asked.turns.unwrap()).unwrap()
    }

    #[test]
    fn next_question_of_a_conversation_finds_the_node_of_the_last() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let first = conversation(&affinity, ME, &["be brief", "hello"]);
        assert_eq!(affinity.node(first, now), None);
        affinity.remember(first, node("a"), now);
        let said = ["be brief", "hello", "hi", "and now?"];
        let next = conversation(&affinity, ME, &said);
        assert_eq!(affinity.node(next, now), Some(node("a")));
        affinity.remember(next, node("b"), now);
        let third = conversation(&affinity, ME, &[&said[..], &["this", "bye"]].concat());
        assert_eq!(affinity.node(third, now), Some(node("b")));
        assert_eq!(affinity.node(third, now + KEPT), None, "it is forgotten");
    }

    #[test]
    fn others_and_other_conversations_find_nothing() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        affinity.remember(conversation(&affinity, ME, &["hello"]), node("a"), now);
        let next = |account, first| conversation(&affinity, account, &[first, "hi", "and now?"]);
        assert_eq!(affinity.node(next(ME, "hello"), now), Some(node("a")));
        assert_eq!(affinity.node(next(ME, "hullo"), now), None);
        assert_eq!(affinity.node(next(AccountId::from_bytes([2; 16]), "hello"), now), None);
    }

    #[test]
    fn two_processes_name_a_conversation_differently() {
        let name = || conversation(&Affinity::default(), ME, &["hello"]);
        assert_ne!(name(), name());
    }

    #[test]
    fn memory_is_bounded() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let number = |now| Conversation { before: None, now };
        for key in 0..2 * REMEMBERED as u64 {
            affinity.remember(number(key % 100_000), node("a"), now + Duration::from_nanos(key));
        }
        let sizes = |affinity: &Affinity| {
            let memory = affinity.memory();
            (memory.nodes.len(), memory.order.len())
        };
        assert!(sizes(&affinity).0 <= REMEMBERED);
        assert_eq!(sizes(&affinity).1, REMEMBERED);
        affinity.remember(number(1), node("a"), now + 2 * KEPT);
        assert_eq!(sizes(&affinity), (1, 1));
    }
}
