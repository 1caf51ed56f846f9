//! Whom owners let their nodes answer, one by one: blocked callers, and those whom nodes answer that
//! answer the invited alone.
//!
//! An owner names callers by the tags that its nodes are told, or by accounts that people have told
//! it. What is kept are accounts, so that what an owner said outlives the month of a tag.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use futures::TryStreamExt;
use iris_core::id::CallerTag;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, Epoch, Timestamp};
use iris_crypto::{CallerTags, Secret};
use iris_protocol::rest::{CallerName, CallerRule, CallerSummary};
use serde::{Deserialize, Serialize};

use crate::accounts::{NETWORK, NOBODY, account_key};
use crate::clock::Clock;
use crate::dispatch::Dispatch;

/// The record type of what an owner said of a caller, under both accounts.
const RULE: &str = "admittance";
/// Most callers that one owner says something of.
pub(crate) const MAX_RULES: usize = 1000;
/// How many of the latest callers are known.
const RECENT: usize = 64;
/// People who are nobody, for each owner, as whom the network asks.
const PERSONAS: u64 = 8;

/// What an owner said of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    says: CallerRule,
    since: Timestamp,
    /// Whether there is such an account: a tag may be of nobody's.
    is_somebody: bool,
}

/// Why nothing was said of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmittanceError {
    /// An owner's own requests are always answered.
    #[error("this is your own account, which your nodes always answer")]
    Own,
    /// Neither people without an account nor the network itself are a caller.
    #[error("this is nobody's account; name a caller by its account or by its tag")]
    NoCaller,
    /// The owner has named as many callers as may be.
    #[error("you have named {MAX_RULES} callers, which is the most; lift one first")]
    Full,
    /// The books cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whom the owners of nodes let in.
#[derive(Debug)]
pub struct Admittance {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tags: CallerTags,
    secret: Secret,
    held: Mutex<Held>,
    /// What is held follows what is written, one change after the other.
    changing: tokio::sync::Mutex<()>,
    /// Whose tasks stand in line.
    dispatch: OnceLock<Weak<Dispatch>>,
}

#[derive(Debug, Default)]
struct Held {
    by_owner: BTreeMap<AccountId, BTreeMap<AccountId, Rule>>,
    /// Who has said something of a caller.
    owners: HashMap<AccountId, BTreeSet<AccountId>>,
    /// The latest callers, each once.
    recent: VecDeque<AccountId>,
    /// How often the network has asked for itself.
    asked: u64,
}

impl Held {
    fn set(&mut self, owner: AccountId, caller: AccountId, rule: Option<Rule>) {
        let rules = self.by_owner.entry(owner).or_default();
        let owners = self.owners.entry(caller).or_default();
        if let Some(rule) = rule {
            rules.insert(caller, rule);
            owners.insert(owner);
        } else {
            rules.remove(&caller);
            owners.remove(&owner);
        }
        if rules.is_empty() {
            self.by_owner.remove(&owner);
        }
        if self.owners.get(&caller).is_some_and(BTreeSet::is_empty) {
            self.owners.remove(&caller);
        }
    }

    fn rule(&self, owner: &AccountId, caller: &AccountId) -> Option<CallerRule> {
        self.by_owner.get(owner)?.get(caller).map(|rule| rule.says)
    }
}

impl Admittance {
    /// Reads what was written down.
    pub(crate) async fn load(
        store: &Arc<dyn Store>,
        clock: &Arc<dyn Clock>,
        secret: &Secret,
    ) -> Result<Self, StoreError> {
        let mut held = Held::default();
        let mut records = store.scan(Key::all(RULE));
        while let Some(record) = records.try_next().await? {
            let rule: Rule = record.value.decode()?;
            let accounts = record.key.id().split_once('/');
            let accounts = accounts.map(|(owner, caller)| (owner.parse(), caller.parse()));
            if let Some((Ok(owner), Ok(caller))) = accounts
                && is_caller(caller)
            {
                held.set(owner, caller, Some(rule));
            }
        }
        Ok(Self {
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            tags: CallerTags::new(secret),
            secret: secret.clone(),
            held: Mutex::new(held),
            changing: tokio::sync::Mutex::default(),
            dispatch: OnceLock::new(),
        })
    }

    /// Has the tasks that stand in line heed what owners say from now on.
    pub(crate) fn heed(&self, dispatch: &Arc<Dispatch>) {
        // There is one that holds this.
        let _ = self.dispatch.set(Arc::downgrade(dispatch));
    }

    /// Holds what was written down of a caller.
    fn change(&self, owner: AccountId, caller: AccountId, rule: Option<Rule>) {
        let mut held = self.held();
        let before = held.rule(&owner, &caller);
        held.set(owner, caller, rule);
        drop(held);
        if before == rule.map(|rule| rule.says) {
            return;
        }
        if let Some(dispatch) = self.dispatch.get().and_then(Weak::upgrade) {
            dispatch.ask_again(&caller);
        }
    }

    /// Returns what the nodes of `owner` are told of who asks; `None` for people without an account.
    ///
    /// The network's own questions look like those of somebody who asked of late: they are to be
    /// told apart by nobody.
    pub(crate) fn tag(&self, owner: &AccountId, account: AccountId) -> Option<CallerTag> {
        let account = match account {
            NOBODY => return None,
            NETWORK => self.made_up(&mut self.held(), owner),
            account => account,
        };
        Some(self.tags.tag(owner, &account, self.month()))
    }

    /// Takes in that somebody asks.
    pub(crate) fn see(&self, account: AccountId) {
        if account == NOBODY {
            return;
        }
        let mut held = self.held();
        held.recent.retain(|known| *known != account);
        held.recent.truncate(RECENT - 1);
        held.recent.push_front(account);
    }

    /// Returns one of those whom `owner` has invited, by a number that is drawn: one whom there is,
    /// since of all others the owner knows that they ask nothing.
    pub(crate) fn invited_one(&self, owner: &AccountId, drawn: u64) -> Option<AccountId> {
        let held = self.held();
        let rules = held.by_owner.get(owner)?.iter();
        let invited =
            rules.filter(|(_, rule)| rule.says == CallerRule::Invited && rule.is_somebody);
        let invited: Vec<_> = invited.map(|(caller, _)| *caller).collect();
        let turn = drawn.checked_rem(u64::try_from(invited.len()).unwrap_or(u64::MAX))?;
        invited.get(usize::try_from(turn).ok()?).copied()
    }

    /// Returns what an owner has said of a caller.
    pub(crate) fn rule(&self, owner: &AccountId, caller: &AccountId) -> Option<CallerRule> {
        self.held().rule(owner, caller)
    }

    /// Returns as whom the network asks a node of `owner`.
    fn made_up(&self, held: &mut Held, owner: &AccountId) -> AccountId {
        held.asked += 1;
        let mut fit: Vec<AccountId> = held.recent.iter().copied().collect();
        fit.retain(|account| {
            account != owner && held.rule(owner, account) != Some(CallerRule::Blocked)
        });
        let turn = usize::try_from(held.asked / 2).unwrap_or_default();
        let known = turn.checked_rem(fit.len()).map(|turn| fit[turn]);
        if let Some(account) = known.filter(|_| held.asked.is_multiple_of(2)) {
            return account;
        }
        // Who asked of late knows that it did not ask this, so half of the questions are those of
        // people who are nobody, a few for each owner, who come again and again.
        let mut number = (held.asked / 2) % PERSONAS;
        loop {
            let who = self.persona(owner, number);
            if held.rule(owner, &who) != Some(CallerRule::Blocked) {
                return who;
            }
            number = PERSONAS.max(number + 1);
        }
    }

    fn persona(&self, owner: &AccountId, number: u64) -> AccountId {
        let context = [owner.as_bytes().as_slice(), &number.to_be_bytes()].concat();
        let secret = self.secret.derive("iris/made-up-caller/v1", &context);
        let (id, _) = secret.reveal().split_first_chunk().expect("16 of 32 bytes");
        AccountId::from_bytes(*id)
    }

    /// Returns the owners who have blocked a caller, and those who have invited it.
    pub(crate) fn owners(&self, caller: &AccountId) -> (Vec<AccountId>, Vec<AccountId>) {
        let held = self.held();
        let owners = held.owners.get(caller).into_iter().flatten().copied();
        owners.partition(|owner| held.rule(owner, caller) == Some(CallerRule::Blocked))
    }

    /// Returns of which account a node of `owner` speaks.
    pub(crate) fn account(&self, owner: &AccountId, name: &CallerName) -> AccountId {
        match name {
            CallerName::Account(account) => *account,
            CallerName::Tag(tag) => self.tags.caller(owner, tag, self.month()),
        }
    }

    /// Takes in what `owner` says of a caller from now on.
    pub async fn set(
        &self,
        owner: AccountId,
        name: &CallerName,
        rule: CallerRule,
    ) -> Result<CallerSummary, AdmittanceError> {
        let caller = self.account(&owner, name);
        if caller == owner {
            return Err(AdmittanceError::Own);
        }
        if !is_caller(caller) {
            return Err(AdmittanceError::NoCaller);
        }
        let is_somebody = self.store.get(account_key(&caller)).await?.is_some();
        let _turn = self.changing.lock().await;
        let known = self
            .held()
            .by_owner
            .get(&owner)
            .map_or((0, false), |rules| (rules.len(), rules.contains_key(&caller)));
        if !known.1 && known.0 >= MAX_RULES {
            return Err(AdmittanceError::Full);
        }
        let rule = Rule { says: rule, since: self.clock.calendar(), is_somebody };
        let batch = Batch::new().put(key(&owner, &caller), Document::encode(&rule));
        self.store.commit(batch).await?;
        self.change(owner, caller, Some(rule));
        Ok(self.summary(&owner, &caller, rule))
    }

    /// Forgets what `owner` said of a caller; returns whether there was anything.
    pub async fn lift(&self, owner: AccountId, name: &CallerName) -> Result<bool, AdmittanceError> {
        let caller = self.account(&owner, name);
        let _turn = self.changing.lock().await;
        let was_there = self.held().rule(&owner, &caller).is_some();
        if was_there {
            self.store.commit(Batch::new().delete(key(&owner, &caller))).await?;
            self.change(owner, caller, None);
        }
        Ok(was_there)
    }

    /// Returns what `owner` has said of callers, by the tags of this month.
    pub fn of(&self, owner: &AccountId) -> Vec<CallerSummary> {
        let rules = self.held().by_owner.get(owner).cloned().unwrap_or_default();
        rules.iter().map(|(caller, rule)| self.summary(owner, caller, *rule)).collect()
    }

    fn summary(&self, owner: &AccountId, caller: &AccountId, rule: Rule) -> CallerSummary {
        CallerSummary {
            caller: self.tags.tag(owner, caller, self.month()),
            rule: rule.says,
            since: rule.since.as_secs(),
        }
    }

    fn month(&self) -> Epoch {
        Epoch::of(self.clock.calendar())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether an account may be some caller's.
fn is_caller(account: AccountId) -> bool {
    account != NETWORK && account != NOBODY
}

fn key(owner: &AccountId, caller: &AccountId) -> Key {
    Key::new(RULE, format_args!("{owner}/{caller}")).expect("accounts are key segments")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use iris_core::store::MemoryStore;

    use super::*;
    use crate::clock::SystemClock;

    const OWNER: AccountId = AccountId::from_bytes([1; 16]);
    const OTHER: AccountId = AccountId::from_bytes([2; 16]);
    const CALLER: AccountId = AccountId::from_bytes([3; 16]);

    async fn admittance(store: &Arc<dyn Store>) -> Admittance {
        let secret = Secret::from_bytes([7; 32]);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Admittance::load(store, &clock, &secret).await.unwrap()
    }

    fn store() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new())
    }

    #[tokio::test]
    async fn what_an_owner_says_of_a_tag_holds_for_its_account_and_is_written_down() {
        let store = store();
        let admittance = admittance(&store).await;
        let tag = admittance.tag(&OWNER, CALLER).unwrap();
        assert_ne!(Some(tag), admittance.tag(&OTHER, CALLER), "owners cannot compare");
        let said = admittance.set(OWNER, &CallerName::Tag(tag), CallerRule::Blocked).await.unwrap();
        assert_eq!((said.caller, said.rule), (tag, CallerRule::Blocked));
        admittance.set(OTHER, &CallerName::Account(CALLER), CallerRule::Invited).await.unwrap();
        let again = super::tests::admittance(&store).await;
        for admittance in [&admittance, &again] {
            assert_eq!(admittance.owners(&CALLER), (vec![OWNER], vec![OTHER]));
            assert_eq!(admittance.of(&OWNER).len(), 1);
        }
        assert!(again.lift(OWNER, &CallerName::Tag(tag)).await.unwrap());
        assert!(!again.lift(OWNER, &CallerName::Tag(tag)).await.unwrap());
        assert_eq!(again.owners(&CALLER), (vec![], vec![OTHER]));
        assert_eq!(super::tests::admittance(&store).await.owners(&CALLER).0, []);
    }

    #[tokio::test]
    async fn lists_are_bounded_and_never_name_their_owner() {
        let admittance = admittance(&store()).await;
        let own = admittance.set(OWNER, &CallerName::Account(OWNER), CallerRule::Blocked).await;
        assert_eq!(own, Err(AdmittanceError::Own));
        for nobodys in [NETWORK, NOBODY] {
            let name = CallerName::Account(nobodys);
            let said = admittance.set(OWNER, &name, CallerRule::Blocked).await;
            assert_eq!(said, Err(AdmittanceError::NoCaller), "or tests could be switched off");
        }
        let name = |number: usize| {
            let mut id = [9; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            CallerName::Account(AccountId::from_bytes(id))
        };
        for number in 0..MAX_RULES {
            admittance.set(OWNER, &name(number), CallerRule::Blocked).await.unwrap();
        }
        let more = admittance.set(OWNER, &name(MAX_RULES), CallerRule::Blocked).await;
        assert_eq!(more, Err(AdmittanceError::Full));
        // What was said of a caller can be changed all the same.
        admittance.set(OWNER, &name(0), CallerRule::Invited).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_is_asked_in_the_name_of_the_invited_whom_there_are_not() {
        let store = store();
        let account = Batch::new().put(account_key(&CALLER), Document::encode(&()));
        store.commit(account).await.unwrap();
        let admittance = admittance(&store).await;
        for name in [OTHER, CALLER].map(CallerName::Account) {
            admittance.set(OWNER, &name, CallerRule::Invited).await.unwrap();
        }
        let drawn = (0..8).map(|drawn| admittance.invited_one(&OWNER, drawn));
        assert!(drawn.into_iter().all(|one| one == Some(CALLER)));
        let name = CallerName::Account(CALLER);
        admittance.set(OWNER, &name, CallerRule::Blocked).await.unwrap();
        assert_eq!(admittance.invited_one(&OWNER, 0), None);
    }

    #[tokio::test]
    async fn what_the_network_asks_looks_like_somebody_elses() {
        let admittance = admittance(&store()).await;
        assert_eq!(admittance.tag(&OWNER, NOBODY), None);
        let made_up = admittance.tag(&OWNER, NETWORK);
        assert!(made_up.is_some(), "nothing would tell it apart from a caller's");
        let known: Vec<_> = [CALLER, OTHER].map(|caller| admittance.tag(&OWNER, caller)).into();
        for caller in [CALLER, OTHER, NOBODY] {
            admittance.see(caller);
        }
        let asked = || admittance.tag(&OWNER, NETWORK);
        let many: Vec<_> = (0..64).map(|_| asked()).collect();
        assert_eq!(many.iter().filter(|tag| known.contains(tag)).count(), 32);
        let different: HashSet<_> = many.iter().copied().collect();
        assert_eq!(different.len(), 2 + 8, "those who are nobody come again");
        let blocked = [CallerName::Account(CALLER), CallerName::Tag(made_up.unwrap())];
        for name in &blocked {
            admittance.set(OWNER, name, CallerRule::Blocked).await.unwrap();
        }
        for _ in 0..64 {
            let tag = asked();
            assert!(tag != known[0] && tag != made_up, "they are blocked");
        }
    }
}
