use std::collections::BTreeMap;

use iris_core::{AccountId, ModelName};

/// How many models are counted that nobody offers.
const COUNTED: usize = 256;
/// With how many requests all counts are halved, so that old ones fade.
const WINDOW: u64 = 10_000;

/// The models that were asked for while nobody offered them.
///
/// A name is a caller's text, so others are told of it only when two accounts have asked for it.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    models: BTreeMap<ModelName, Demanded>,
    requests: u64,
}

#[derive(Debug)]
struct Demanded {
    requests: u64,
    first: AccountId,
    /// Whether another account asked for it, too.
    shared: bool,
}

impl Wanted {
    pub(super) fn count(&mut self, model: &ModelName, account: AccountId) {
        if let Some(demanded) = self.models.get_mut(model) {
            demanded.requests += 1;
            demanded.shared |= demanded.first != account;
        } else {
            if self.models.len() == COUNTED {
                self.forget_least();
            }
            let demanded = Demanded { requests: 1, first: account, shared: false };
            self.models.insert(model.clone(), demanded);
        }
        self.requests += 1;
        if self.requests >= WINDOW {
            self.requests /= 2;
            self.models.retain(|_, demanded| {
                demanded.requests /= 2;
                demanded.requests > 0
            });
        }
    }

    /// Returns the models that were asked for most, with how often.
    pub(super) fn most(&self, most: usize) -> Vec<(ModelName, u64)> {
        let told = self.models.iter().filter(|(_, demanded)| demanded.shared);
        let mut told: Vec<_> = told.map(|(name, demanded)| (demanded.requests, name)).collect();
        told.sort_by_key(|(requests, _)| std::cmp::Reverse(*requests));
        told.into_iter().take(most).map(|(requests, name)| (name.clone(), requests)).collect()
    }

    fn forget_least(&mut self) {
        let least = self.models.iter().min_by_key(|(_, demanded)| demanded.requests);
        if let Some(name) = least.map(|(name, _)| name.clone()) {
            self.models.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    #[test]
    fn models_that_two_accounts_want_are_told_the_most_wanted_first() {
        let mut wanted = Wanted::default();
        let [a, b, secret] = ["a", "b", "secret"].map(|name| name.parse().unwrap());
        for account in [1, 2] {
            wanted.count(&a, me(account));
            wanted.count(&b, me(account));
        }
        wanted.count(&b, me(1));
        for _ in 0..10 {
            wanted.count(&secret, me(1));
        }
        assert_eq!(wanted.most(9), [(b.clone(), 3), (a, 2)]);
        assert_eq!(wanted.most(1), [(b, 3)]);
    }

    #[test]
    fn names_that_callers_make_up_are_bounded_and_fade() {
        let mut wanted = Wanted::default();
        let kept: ModelName = "kept".parse().unwrap();
        for (number, account) in (0..20_000).zip((0..=u8::MAX).cycle()) {
            wanted.count(&kept, me(account));
            wanted.count(&format!("m{number}").parse().unwrap(), me(1));
            assert!(wanted.models.len() <= COUNTED && wanted.requests < WINDOW);
        }
        let [(name, requests)] = &wanted.most(9)[..] else { panic!() };
        assert_eq!(name, &kept);
        assert!((2000..6000).contains(requests), "{requests}");
    }
}
