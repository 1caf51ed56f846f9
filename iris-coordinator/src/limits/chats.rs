//! How many messages of a day people have sent who are not counted otherwise.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iris_core::AccountId;
use sha2::{Digest, Sha256};

use super::Left;
use crate::accounts::network;
use crate::clock::Clock;

/// How many people are remembered in a day; no more can send a message then.
const PEOPLE: usize = 1 << 18;

/// The messages of today, in memory alone.
///
/// People are remembered by a keyed hash of what they are known by. The key is drawn anew each day
/// and never written, so not even this process can tell yesterday's addresses.
#[derive(Debug)]
pub(crate) struct Chats {
    clock: Arc<dyn Clock>,
    today: Mutex<Today>,
}

#[derive(Debug)]
struct Today {
    day: u64,
    secret: [u8; 32],
    sent: HashMap<Pseudonym, u32>,
}

type Pseudonym = [u8; 16];

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Person {
    /// An account.
    Account(AccountId),
    /// Somebody at this address; all whose address nobody knows are one.
    Address(Option<IpAddr>),
}

/// A message that counts once it is kept; dropped before, it does not.
#[derive(Debug)]
pub(crate) struct Turn {
    /// `None` for messages that nobody counts.
    counted: Option<Counted>,
}

#[derive(Debug)]
struct Counted {
    chats: Arc<Chats>,
    day: u64,
    person: Pseudonym,
}

impl Chats {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let today = Mutex::new(Today::new(clock.calendar().day()));
        Arc::new(Self { clock, today })
    }

    /// Takes one of the `limit` messages that `person` has today, where one is left.
    pub(crate) fn begin(
        self: &Arc<Self>,
        person: Person,
        limit: u32,
    ) -> Result<(Turn, Left), Left> {
        let now = self.clock.calendar();
        let mut today = self.today();
        if now.day() > today.day {
            *today = Today::new(now.day());
        }
        let person = today.pseudonym(person);
        let is_full = today.sent.len() >= PEOPLE;
        let sent = today.sent.get(&person).copied();
        let remaining = limit.saturating_sub(sent.unwrap_or(0));
        let reset = now.rest_of_day();
        let left =
            |remaining: u32| Left { limit: limit.into(), remaining: remaining.into(), reset };
        if remaining == 0 || (is_full && sent.is_none()) {
            return Err(left(0));
        }
        today.sent.insert(person, sent.unwrap_or(0) + 1);
        let counted = Counted { chats: Arc::clone(self), day: today.day, person };
        Ok((Turn { counted: Some(counted) }, left(remaining - 1)))
    }

    fn today(&self) -> MutexGuard<'_, Today> {
        self.today.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Today {
    fn new(day: u64) -> Self {
        Self { day, secret: iris_crypto::random_bytes(), sent: HashMap::new() }
    }

    /// What is hashed is as long as its kind says, and half of the hash is kept, so a hash that
    /// begins with the key is as good as an HMAC.
    fn pseudonym(&self, person: Person) -> Pseudonym {
        let keyed = |kind: u8| Sha256::new().chain_update(self.secret).chain_update([kind]);
        let hash = match person {
            Person::Account(account) => keyed(0).chain_update(account.to_string()),
            Person::Address(None) => keyed(1),
            Person::Address(Some(address)) => match network(address) {
                IpAddr::V4(address) => keyed(2).chain_update(address.octets()),
                IpAddr::V6(network) => keyed(3).chain_update(network.octets()),
            },
        };
        let hash: [u8; 32] = hash.finalize().into();
        hash.first_chunk().copied().unwrap_or_default()
    }
}

impl Turn {
    /// Makes a turn of somebody who may send any number.
    pub(crate) const fn uncounted() -> Self {
        Self { counted: None }
    }

    /// Lets the message count.
    pub(crate) fn keep(&mut self) {
        self.counted = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(Counted { chats, day, person }) = &self.counted else { return };
        let mut today = chats.today();
        if today.day == *day
            && let Some(sent) = today.sent.get_mut(person)
        {
            *sent -= 1;
            if *sent == 0 {
                today.sent.remove(person);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use iris_core::Timestamp;

    use super::*;

    #[derive(Debug, Default)]
    struct Days(AtomicU64);

    impl Clock for Days {
        fn now(&self) -> Instant {
            Instant::now()
        }

        fn calendar(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed) * 86_400_000)
        }
    }

    fn at(text: &str) -> Person {
        Person::Address(Some(text.parse().unwrap()))
    }

    #[test]
    fn turn_counts_once_it_is_kept() {
        let chats = Chats::new(Arc::new(Days::default()));
        let (turn, left) = chats.begin(at("192.0.2.1"), 1).unwrap();
        assert_eq!((left.limit, left.remaining, left.reset.as_secs()), (1, 0, 86_400));
        assert!(chats.begin(at("192.0.2.1"), 1).is_err(), "it is taken while it is under way");
        drop(turn);
        assert!(chats.today().sent.is_empty());
        chats.begin(at("192.0.2.1"), 1).unwrap().0.keep();
        assert!(chats.begin(at("192.0.2.1"), 1).is_err());
        assert!(chats.begin(at("::ffff:192.0.2.1"), 1).is_err());
        assert!(chats.begin(at("192.0.2.2"), 1).is_ok());
    }

    #[test]
    fn household_is_one_person_and_strangers_without_address_are_too() {
        let chats = Chats::new(Arc::new(Days::default()));
        chats.begin(at("2001:db8::1"), 1).unwrap().0.keep();
        assert!(chats.begin(at("2001:db8::ffff:2"), 1).is_err());
        assert!(chats.begin(at("2001:db8:0:1::1"), 1).is_ok());
        chats.begin(Person::Address(None), 1).unwrap().0.keep();
        assert!(chats.begin(Person::Address(None), 1).is_err());
        // An account of zeros is nobody's address.
        assert!(chats.begin(Person::Account(AccountId::from_bytes([0; 16])), 1).is_ok());
    }

    #[test]
    fn new_day_forgets_all_and_hashes_differently() {
        let days = Arc::new(Days::default());
        let chats = Chats::new(Arc::clone(&days) as Arc<dyn Clock>);
        let (late, _) = chats.begin(at("192.0.2.1"), 1).unwrap();
        let before = chats.today().pseudonym(at("192.0.2.1"));
        days.0.store(1, Ordering::Relaxed);
        chats.begin(at("192.0.2.1"), 1).unwrap().0.keep();
        drop(late);
        assert!(chats.begin(at("192.0.2.1"), 1).is_err(), "yesterday's gives nothing back today");
        assert_ne!(chats.today().pseudonym(at("192.0.2.1")), before);
    }

    #[test]
    fn people_are_bounded() {
        let chats = Chats::new(Arc::new(Days::default()));
        for n in 0..u32::try_from(PEOPLE).unwrap() {
            let person = Person::Address(Some(n.to_be_bytes().into()));
            chats.begin(person, 2).unwrap().0.keep();
        }
        assert!(chats.begin(at("250.0.0.1"), 1).is_err());
        assert!(chats.begin(at("0.0.0.1"), 2).is_ok(), "who is known has a second message");
    }
}
