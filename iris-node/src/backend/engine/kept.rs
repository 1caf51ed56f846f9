//! What was read of conversations that may go on.
//!
//! Nothing of one caller's prompt may show in the times of another's, and an engine does not know
//! who calls. So a conversation is kept only for whoever brings its `cache_salt`, as with vLLM: a
//! random text of the caller's own that nobody can guess. Requests without one leave nothing
//! behind and find nothing, and so do isolated ones, such as those that are sealed to the node.

use std::sync::{Mutex, PoisonError};

use subtle::ConstantTimeEq;

use super::network::Memory;

/// The conversations that an engine keeps; the oldest one goes first.
pub(super) struct Kept<C> {
    conversations: Mutex<Vec<Conversation<C>>>,
    most: usize,
}

struct Conversation<C> {
    salt: String,
    tokens: Vec<u32>,
    cache: C,
}

impl<C: Memory> Kept<C> {
    /// Keeps up to `most` conversations.
    pub(super) fn new(most: usize) -> Self {
        Self { conversations: Mutex::default(), most }
    }

    /// Takes out what was read of the conversation with the longest common beginning.
    ///
    /// At least the prompt's last token is left to be read, since its scores are not kept.
    pub(super) fn take(&self, salt: &str, prompt: &[u32]) -> Option<C> {
        let mut kept = self.conversations.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |conversation: &&Conversation<C>| bool::from(same(&conversation.salt, salt));
        let common = |conversation: &Conversation<C>| {
            let both = conversation.tokens.iter().zip(&prompt[..prompt.len() - 1]);
            both.take_while(|(one, other)| one == other).count()
        };
        let known = kept.iter().enumerate().filter(|(_, it)| own(it));
        let (common, at) = known.map(|(at, it)| (common(it), at)).max()?;
        if common == 0 {
            return None;
        }
        let mut cache = kept.remove(at).cache;
        cache.truncate(common);
        Some(cache)
    }

    /// Keeps a conversation, of which `cache` holds the first `tokens`.
    pub(super) fn put(&self, salt: &str, mut tokens: Vec<u32>, cache: C) {
        tokens.truncate(cache.len());
        let mut kept = self.conversations.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.most {
            kept.remove(0);
        }
        kept.push(Conversation { salt: salt.to_owned(), tokens, cache });
    }
}

fn same(one: &str, other: &str) -> subtle::Choice {
    one.as_bytes().ct_eq(other.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::cache::Cache;
    use super::super::model::Model;
    use super::super::network::{Network, Part, Wanted};
    use super::*;

    fn read(tokens: &[u32]) -> Cache {
        let network = &Model::bundled().network;
        let mut cache = network.begin(tokens.len(), 512).unwrap();
        let part = Part { tokens, cache: &mut cache, wanted: Wanted::Nothing };
        network.forward(&mut [part]).unwrap();
        cache
    }

    fn taken(kept: &Kept<Cache>, salt: &str, prompt: &[u32]) -> Option<usize> {
        kept.take(salt, prompt).map(|cache| cache.len())
    }

    #[test]
    fn only_its_salt_finds_a_conversation() {
        let kept = Kept::new(4);
        kept.put("one", vec![5, 6, 7, 8], read(&[5, 6, 7]));
        assert_eq!(taken(&kept, "two", &[5, 6, 7, 8]), None);
        assert_eq!(taken(&kept, "one", &[9, 6, 7, 8]), None);
        assert_eq!(taken(&kept, "one", &[5, 6, 9, 8]), Some(2));
        assert_eq!(taken(&kept, "one", &[5, 6, 7, 8]), None, "it was taken out");
    }

    #[test]
    fn the_longest_common_beginning_is_found_and_its_last_token_read_again() {
        let kept = Kept::new(4);
        kept.put("one", vec![5, 6], read(&[5, 6]));
        kept.put("one", vec![5, 6, 7, 8], read(&[5, 6, 7, 8]));
        kept.put("one", vec![5], read(&[5]));
        assert_eq!(taken(&kept, "one", &[5, 6, 7, 8]), Some(3));
        assert_eq!(taken(&kept, "one", &[5]), None);
    }

    #[test]
    fn the_oldest_conversation_makes_room() {
        let kept = Kept::new(2);
        for salt in ["one", "two", "three"] {
            kept.put(salt, vec![5, 6], read(&[5, 6]));
        }
        assert_eq!(taken(&kept, "one", &[5, 6]), None);
        assert_eq!(taken(&kept, "two", &[5, 6]), Some(1));
        assert_eq!(taken(&kept, "three", &[5, 6]), Some(1));
    }
}
