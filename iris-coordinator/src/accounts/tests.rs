use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use futures::TryStreamExt;
use iris_core::Timestamp;
use iris_core::store::MemoryStore;
use iris_protocol::rest::{
    FeeRequest, InvitationRequest, KeyScope, KeyTerms, MembershipState, Session,
};

use super::*;

const EMAIL: &str = "ada@example.org";
const PASSWORD: &str = "correct horse";
/// Of a password that nobody tries.
const BCRYPT: &str = "$2b$08$abcdefghijklmnopqrstuugglmLNoUUTchQNHFkRvCk8BmwkKbU4m";

/// A clock that goes on when it is told to.
#[derive(Debug)]
struct HandClock {
    start: Instant,
    passed: Mutex<Duration>,
}

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), passed: Mutex::default() })
    }

    fn advance(&self, by: Duration) {
        *self.passed.lock().unwrap() += by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Instant {
        self.start + *self.passed.lock().unwrap()
    }

    fn calendar(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).saturating_add(*self.passed.lock().unwrap())
    }
}

async fn accounts_at(
    store: &MemoryStore,
    clock: &Arc<HandClock>,
    policy: AccountPolicy,
) -> Accounts {
    let (store, secret) = (Arc::new(store.clone()), Secret::from_bytes([7; 32]));
    let accounts = Accounts::load_with(store, secret, policy).await.unwrap();
    accounts.with_clock(clock.clone())
}

async fn register(accounts: &Accounts, email: &str) -> Session {
    let registration =
        Registration { email, password: PASSWORD, invitation: None, account_key: None };
    accounts.register(registration, true, None).await.unwrap()
}

fn day() -> Duration {
    Duration::from_hours(24)
}

async fn accounts(store: &MemoryStore) -> Accounts {
    Accounts::load(Arc::new(store.clone()), Secret::from_bytes([7; 32])).await.unwrap()
}

#[tokio::test]
async fn account_key_mints_keys_that_survive_a_restart() {
    let store = MemoryStore::new();
    let first = accounts(&store).await;
    let created = first.create_account().await.unwrap();
    let typed = created.account_key.expose().replace(' ', "-");
    let key = first.create_key(&typed, KeyScope::Node.into(), None).await.unwrap();
    let terms = Arc::default();
    let (id, account) = (key.id, created.account);
    let expected = ApiKey { id, meter: id, account, scope: KeyScope::Node, terms };
    for accounts in [first, accounts(&store).await] {
        assert_eq!(accounts.authenticate(key.key.expose()).as_ref(), Some(&expected));
        assert_eq!(accounts.authenticate(&key.key.expose().to_uppercase()), None);
        assert_eq!(accounts.authenticate(""), None);
    }
}

#[tokio::test]
async fn revoked_key_lets_nobody_in_and_only_its_owner_revokes_it() {
    let store = MemoryStore::new();
    let accounts = accounts(&store).await;
    let owner = accounts.create_account().await.unwrap().account;
    let other = accounts.create_account().await.unwrap().account;
    let key = accounts.create_key_for(owner, KeyScope::Inference).await.unwrap();
    assert_eq!(accounts.revoke(&other, &key.id).await, Ok(false));
    assert!(accounts.authenticate(key.key.expose()).is_some());
    assert_eq!(accounts.revoke(&owner, &key.id).await, Ok(true));
    assert!(accounts.authenticate(key.key.expose()).is_none());
    let again = super::tests::accounts(&store).await;
    assert!(again.authenticate(key.key.expose()).is_none());
}

#[tokio::test]
async fn keys_of_another_process_are_found_and_revoked() {
    let store = MemoryStore::new();
    let (serving, beside) = (accounts(&store).await, accounts(&store).await);
    let account = beside.create_account().await.unwrap().account;
    let mut keys = Vec::new();
    for _ in 0..2 {
        keys.push(beside.create_key_for(account, KeyScope::Read).await.unwrap());
    }
    let (id, terms) = (keys[0].id, Arc::default());
    let expected = ApiKey { id, meter: id, account, scope: KeyScope::Read, terms };
    assert_eq!(serving.find(keys[0].key.expose()).await, Ok(Some(expected.clone())));
    assert_eq!(serving.authenticate(keys[0].key.expose()), Some(expected));
    for key in &keys {
        assert_eq!(serving.revoke(&account, &key.id).await, Ok(true));
        assert_eq!(serving.find(key.key.expose()).await, Ok(None));
    }
    assert_eq!(serving.find("iris_unknown").await, Ok(None));
}

#[tokio::test]
async fn unknown_and_malformed_account_keys_look_the_same() {
    let accounts = accounts(&MemoryStore::new()).await;
    for typed in ["0000 0000 0000 0000", "1", "", "not a number"] {
        let refused = accounts.create_key(typed, KeyScope::Node.into(), None).await;
        assert_eq!(refused.unwrap_err(), AccountError::Unknown, "{typed}");
    }
}

#[tokio::test]
async fn sixth_wrong_key_of_a_minute_is_refused_before_hashing() {
    let accounts = accounts(&MemoryStore::new()).await;
    let caller = Some(IpAddr::from([192, 0, 2, 1]));
    for _ in 0..5 {
        let refused = accounts.create_key("1", KeyScope::Node.into(), caller).await;
        assert_eq!(refused.unwrap_err(), AccountError::Unknown);
    }
    let refused = accounts.create_key("1", KeyScope::Node.into(), caller).await.unwrap_err();
    assert!(matches!(refused, AccountError::TooManyAttempts { .. }), "{refused:?}");
    let other = Some(IpAddr::from([192, 0, 2, 2]));
    let refused = accounts.create_key("1", KeyScope::Node.into(), other).await;
    assert_eq!(refused.unwrap_err(), AccountError::Unknown);
}

#[tokio::test]
async fn store_holds_neither_number_nor_key() {
    let store = MemoryStore::new();
    let accounts = accounts(&store).await;
    let created = accounts.create_account().await.unwrap();
    let digits: String = created.account_key.expose().replace(' ', "");
    let key = accounts.create_key_for(created.account, KeyScope::Read).await.unwrap();
    let everything = "a/0".parse().unwrap().."z/0".parse().unwrap();
    let records: Vec<_> = store.scan(everything).try_collect().await.unwrap();
    assert_eq!(records.len(), 3);
    for record in records {
        let text = format!("{} {}", record.key, record.value.as_text());
        assert!(!text.contains(&digits) && !text.contains(key.key.expose()), "{text}");
    }
}

#[tokio::test]
async fn attack_19_many_addresses_share_one_budget_and_are_refused_before_hashing() {
    let clock = HandClock::new();
    let mut accounts = accounts_at(&MemoryStore::new(), &clock, AccountPolicy::default()).await;
    let from = |n: u8| Some(IpAddr::from([192, 0, n, 1]));
    for n in 0..50 {
        let refused = match n % 2 {
            0 => accounts.find_account("1", from(n)).await.map(drop),
            _ => accounts.log_in(&format!("{n}@a"), &"x".repeat(2000), from(n)).await.map(drop),
        };
        assert!(matches!(refused, Err(AccountError::Unknown | AccountError::WrongLogin)), "{n}");
    }
    // Whatever would be hashed now is refused differently.
    accounts.hashing = Hashing::full();
    for n in 50..200 {
        for refused in [
            accounts.find_account("0000 0000 0000 0000", from(n)).await.map(drop),
            accounts.log_in(EMAIL, PASSWORD, from(n)).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, AccountError::TooManyAttempts { .. }), "{error:?}");
        }
    }
    clock.advance(Duration::from_secs(1));
    let refused = accounts.log_in(EMAIL, PASSWORD, from(200)).await.map(drop);
    assert_eq!(refused, Err(AccountError::Overloaded), "the budget is there again");
}

#[tokio::test]
async fn name_that_is_guessed_from_everywhere_is_left_alone_for_a_while() {
    let clock = HandClock::new();
    let accounts = accounts_at(&MemoryStore::new(), &clock, AccountPolicy::default()).await;
    register(&accounts, EMAIL).await;
    let from = |n: u8| Some(IpAddr::from([192, 0, n, 1]));
    for n in 0..10 {
        clock.advance(Duration::from_secs(1));
        let refused = accounts.log_in(EMAIL, "wrong wrong", from(n)).await.map(drop);
        assert_eq!(refused, Err(AccountError::WrongLogin));
    }
    clock.advance(Duration::from_mins(10));
    let refused = accounts.log_in(EMAIL, PASSWORD, from(99)).await.map(drop).unwrap_err();
    assert!(matches!(refused, AccountError::TooManyAttempts { .. }), "{refused:?}");
    clock.advance(Duration::from_mins(5));
    assert!(accounts.log_in(EMAIL, PASSWORD, from(99)).await.is_ok());
}

/// Compares the shortest of many times, since others are at work on the machine: they can make a
/// try longer, never shorter. So more tries bring equals together, and nothing else.
#[tokio::test]
async fn attack_20_known_and_unknown_take_equally_long() {
    const FEWEST: usize = 15;
    const MOST: usize = 60;
    let clock = HandClock::new();
    let accounts = accounts_at(&MemoryStore::new(), &clock, AccountPolicy::default()).await;
    register(&accounts, EMAIL).await;
    accounts.import("old@example.org", &BCRYPT.parse().unwrap()).await.unwrap();
    let digits = accounts.create_account().await.unwrap().account_key;
    let wrong = |email| accounts.log_in(email, "incorrect horse", None);
    let mut shortest = [Duration::MAX; 5];
    for tries in 1..=MOST {
        for (which, shortest) in shortest.iter_mut().enumerate() {
            clock.advance(Duration::from_mins(16));
            let begun = Instant::now();
            let found = match which {
                0 => wrong(EMAIL).await.is_ok(),
                1 => wrong("eve@example.org").await.is_ok(),
                2 => wrong("old@example.org").await.is_ok(),
                3 => accounts.find_account(digits.expose(), None).await.is_ok(),
                _ => accounts.find_account("0000 0000 0000 0000", None).await.is_ok(),
            };
            assert_eq!(found, which == 3);
            *shortest = begun.elapsed().min(*shortest);
        }
        let equal = |times: &[Duration]| {
            let [most, least] = [times.iter().max(), times.iter().min()].map(Option::unwrap);
            most.as_secs_f64() / least.as_secs_f64() < 1.25
        };
        if tries >= FEWEST && equal(&shortest[..3]) && equal(&shortest[3..]) {
            println!("login known, unknown, imported; digits known, unknown: {shortest:?}");
            return;
        }
    }
    panic!("login known, unknown, imported; digits known, unknown: {shortest:?}");
}

#[tokio::test]
async fn kinds_of_hashes_that_another_process_imports_are_learnt_and_few() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let serving = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let beside = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let cost = |cost: u32| BCRYPT.replace("$08$", &format!("${cost:02}$")).parse().unwrap();
    for n in 4..11 {
        beside.import(&format!("{n}@example.org"), &cost(n)).await.unwrap();
    }
    let refused = beside.import("11@example.org", &cost(11)).await;
    assert!(matches!(refused, Err(AccountError::TooManyKinds(_))), "{refused:?}");
    assert_eq!(beside.import("10@example.com", &cost(10)).await.map(drop), Ok(()));
    assert!(!serving.kinds().contains(&cost(9).kind()));
    serving.keep_house().await;
    let restarted = accounts_at(&store, &clock, AccountPolicy::default()).await;
    for accounts in [&serving, &beside, &restarted] {
        assert!((4..11).all(|n| accounts.kinds().contains(&cost(n).kind())));
        assert!(!accounts.kinds().contains(&cost(11).kind()));
    }
}

#[tokio::test]
async fn attack_21_stolen_store_holds_no_secret_of_anybody() {
    let store = MemoryStore::new();
    let clock = HandClock::new();
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let created = accounts.create_account().await.unwrap();
    let key = accounts.create_key_for(created.account, KeyScope::Inference).await.unwrap();
    let invitation = accounts.invite(Giver::Operator, InvitationRequest::default()).await.unwrap();
    let session = register(&accounts, EMAIL).await;
    let refreshed = accounts.refresh(session.refresh_token.expose()).await.unwrap();
    let old = "$2b$04$abcdefghijklmnopqrstuugglmLNoUUTchQNHFkRvCk8BmwkKbU4m";
    accounts.import("old@example.org", &old.parse().unwrap()).await.unwrap();
    let claims = accounts.session(session.access_token.expose()).unwrap();
    accounts.log_out(&claims).await.unwrap();
    accounts.keep_house().await;

    let digits = created.account_key.expose().replace(' ', "");
    let secrets = [
        digits.as_str(),
        created.account_key.expose(),
        key.key.expose(),
        invitation.invitation.expose(),
        session.access_token.expose(),
        session.refresh_token.expose(),
        refreshed.access_token.expose(),
        refreshed.refresh_token.expose(),
        EMAIL,
        PASSWORD,
        "old@example.org",
        old,
    ];
    let everything = "a/0".parse().unwrap().."z/0".parse().unwrap();
    let records: Vec<_> = store.scan(everything).try_collect().await.unwrap();
    assert!(records.len() >= 10, "{}", records.len());
    for record in &records {
        let text = format!("{} {}", record.key, record.value.as_text());
        for secret in secrets {
            let bytes = secret.as_bytes();
            for form in [
                secret.to_owned(),
                HEXLOWER.encode(bytes),
                BASE64.encode(bytes),
                BASE64URL_NOPAD.encode(bytes),
            ] {
                assert!(!text.contains(&form), "{secret} in {text}");
            }
        }
    }
    // Nor does what is there let anybody in who has only that.
    let thief = Accounts::load(Arc::new(store.clone()), Secret::from_bytes([8; 32])).await.unwrap();
    let thief = thief.with_clock(clock);
    assert!(thief.session(refreshed.access_token.expose()).is_none());
    let refused = thief.refresh(refreshed.refresh_token.expose()).await.map(drop);
    assert_eq!(refused, Err(AccountError::WrongRefresh));
    for record in &records {
        let id = record.key.id();
        for token in [id.to_owned(), format!("iris_{id}"), format!("iris_refresh_{id}")] {
            assert_eq!(accounts.find(&token).await, Ok(None));
            assert!(accounts.session(&token).is_none());
            assert!(accounts.refresh(&token).await.is_err());
        }
    }
}

#[tokio::test]
async fn ended_session_stays_ended_after_a_restart() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let first = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let session = register(&first, EMAIL).await;
    let other = first.log_in(EMAIL, PASSWORD, None).await.unwrap();
    let claims = first.session(session.access_token.expose()).unwrap();
    first.log_out(&claims).await.unwrap();
    let second = accounts_at(&store, &clock, AccountPolicy::default()).await;
    assert!(second.session(session.access_token.expose()).is_none());
    assert!(second.session(other.access_token.expose()).is_some());
    clock.advance(Duration::from_mins(15));
    assert!(second.session(other.access_token.expose()).is_none());
    assert!(second.refresh(other.refresh_token.expose()).await.is_ok());
}

#[tokio::test]
async fn sessions_end_when_idle_or_old_and_their_records_go() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let idle = register(&accounts, EMAIL).await;
    let mut busy = accounts.log_in(EMAIL, PASSWORD, None).await.unwrap();
    clock.advance(29 * day());
    busy = accounts.refresh(busy.refresh_token.expose()).await.unwrap();
    clock.advance(day());
    let refused = accounts.refresh(idle.refresh_token.expose()).await.map(drop);
    assert_eq!(refused, Err(AccountError::WrongRefresh));
    for days in [28, 29] {
        clock.advance(days * day());
        busy = accounts.refresh(busy.refresh_token.expose()).await.unwrap();
    }
    clock.advance(3 * day());
    let refused = accounts.refresh(busy.refresh_token.expose()).await.map(drop);
    assert_eq!(refused, Err(AccountError::WrongRefresh));
    register(&accounts, "eve@example.org").await;
    clock.advance(31 * day());
    accounts.keep_house().await;
    for kind in ["session", "ended"] {
        let left: Vec<_> = store.scan(Key::all(kind)).try_collect().await.unwrap();
        assert!(left.is_empty(), "{kind}: {left:?}");
    }
    assert!(accounts.ended.read().unwrap().is_empty());
}

#[tokio::test]
async fn one_session_too_many_ends_the_oldest() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let account = accounts.create_account().await.unwrap().account;
    let mut sessions = Vec::new();
    for _ in 0..33 {
        clock.advance(Duration::from_secs(1));
        sessions.push(accounts.begin_session(account).await.unwrap());
    }
    let good = |session: &Session| accounts.session(session.access_token.expose()).is_some();
    assert!(!good(&sessions[0]));
    assert!(sessions[1..].iter().all(good));
}

#[tokio::test]
async fn login_of_an_older_system_is_taken_over_and_hashed_anew() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let hash = "$2a$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu".parse().unwrap();
    let account = accounts.import("Old@Example.org", &hash).await.unwrap();
    assert_eq!(accounts.import("old@example.org", &hash).await, Err(AccountError::Taken));
    let login = || async {
        let records: Vec<_> = store.scan(Key::all("login")).try_collect().await.unwrap();
        records[0].version
    };
    assert_eq!(login().await.0, 1);
    assert!(accounts.log_in("old@example.org", "passwort", None).await.is_err());
    for version in [2, 2] {
        let session = accounts.log_in("old@example.org", "password", None).await.unwrap();
        assert_eq!((session.account, login().await.0), (account, version));
    }
}

#[tokio::test]
async fn last_use_is_known_to_the_minute_and_survives_a_restart() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let account = accounts.create_account().await.unwrap().account;
    let key = accounts.create_key_for(account, KeyScope::Node).await.unwrap();
    assert_eq!(accounts.keys(&account).await.unwrap()[0].last_used, None);
    clock.advance(Duration::from_secs(90));
    assert!(accounts.find(key.key.expose()).await.unwrap().is_some());
    accounts.keep_house().await;
    let again = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let used = again.keys(&account).await.unwrap()[0].last_used;
    assert_eq!(used, Some(1_800_000_060));
    let written = |store: MemoryStore| async move {
        let records: Vec<_> = store.scan(Key::all("keyuse")).try_collect().await.unwrap();
        records.iter().map(|record| record.version.0).collect::<Vec<_>>()
    };
    accounts.keep_house().await;
    assert_eq!(written(store.clone()).await, [1], "nothing new, nothing written");
    assert_eq!(accounts.revoke(&account, &key.id).await, Ok(true));
    accounts.keep_house().await;
    assert!(written(store.clone()).await.is_empty());
}

#[tokio::test]
async fn key_that_has_ended_lets_nobody_in_and_goes_in_time() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let account = accounts.create_account().await.unwrap().account;
    let expires = Some(clock.calendar().as_secs() + 60);
    let terms = KeyTerms { expires, ..KeyTerms::default() };
    let new = NewKey { terms, ..KeyScope::Inference.into() };
    let key = accounts.create_key_for(account, new).await.unwrap();
    assert!(accounts.find(key.key.expose()).await.unwrap().is_some());
    clock.advance(Duration::from_mins(1));
    for accounts in [&accounts, &accounts_at(&store, &clock, AccountPolicy::default()).await] {
        assert_eq!(accounts.find(key.key.expose()).await, Ok(None));
        assert_eq!(accounts.authenticate(key.key.expose()), None);
        let rotated = accounts.rotate_key(&account, &key.id, Duration::ZERO).await;
        assert_eq!(rotated.map(drop), Err(AccountError::NoKey));
    }
    assert_eq!(accounts.keys(&account).await.unwrap().len(), 1);
    clock.advance(7 * day());
    accounts.keep_house().await;
    assert_eq!(accounts.keys(&account).await.unwrap().len(), 0);
}

#[tokio::test]
async fn account_has_its_most_keys_and_ended_ones_make_room() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let account = accounts.create_account().await.unwrap().account;
    let expires = Some(clock.calendar().as_secs() + 60);
    let terms = KeyTerms { expires, ..KeyTerms::default() };
    let short = NewKey { terms, ..KeyScope::Inference.into() };
    accounts.create_key_for(account, short).await.unwrap();
    for _ in 1..64 {
        accounts.create_key_for(account, KeyScope::Inference).await.unwrap();
    }
    let one_more =
        || async { accounts.create_key_for(account, KeyScope::Inference).await.map(drop) };
    assert_eq!(one_more().await, Err(AccountError::TooManyKeys));
    clock.advance(Duration::from_mins(1));
    assert_eq!(one_more().await, Ok(()));
    assert_eq!(one_more().await, Err(AccountError::TooManyKeys));
}

#[tokio::test]
async fn replaced_key_works_for_its_grace_and_operators_keys_are_not_replaced() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let account = accounts.create_account().await.unwrap().account;
    let old = accounts.create_key_for(account, KeyScope::Node).await.unwrap();
    let grace = Duration::from_mins(1);
    let new = accounts.rotate_key(&account, &old.id, grace).await.unwrap();
    for (passed, old_works) in [(0, true), (59, true), (1, false)] {
        clock.advance(Duration::from_secs(passed));
        let again = accounts_at(&store, &clock, AccountPolicy::default()).await;
        for accounts in [&accounts, &again] {
            let found = accounts.find(old.key.expose()).await.unwrap();
            assert_eq!(found.is_some(), old_works, "{passed}");
            assert!(accounts.find(new.key.expose()).await.unwrap().is_some());
        }
    }
    let admin = accounts.create_key_for(account, KeyScope::Admin).await.unwrap();
    let refused = accounts.rotate_key(&account, &admin.id, grace).await.map(drop);
    assert_eq!(refused, Err(AccountError::KeyScope));
    let refused = accounts.rotate_key(&account, &new.id, 31 * day()).await.map(drop);
    assert_eq!(refused, Err(AccountError::Terms("grace_secs")));
}

#[tokio::test]
async fn keys_that_replace_one_another_are_counted_as_the_first() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let account = accounts.create_account().await.unwrap().account;
    let first = accounts.create_key_for(account, KeyScope::Inference).await.unwrap();
    let second = accounts.rotate_key(&account, &first.id, day()).await.unwrap();
    let third = accounts.rotate_key(&account, &second.id, Duration::ZERO).await.unwrap();
    for accounts in [&accounts, &accounts_at(&store, &clock, AccountPolicy::default()).await] {
        let found = accounts.find(third.key.expose()).await.unwrap().unwrap();
        assert_eq!((found.id, found.meter), (third.id, first.id));
        let listed = accounts.keys(&account).await.unwrap();
        let counted: Vec<_> = listed.iter().map(|key| (key.id, key.counted_as)).collect();
        assert_eq!(counted.len(), 2);
        assert!(counted.contains(&(first.id, None)), "{counted:?}");
        assert!(counted.contains(&(third.id, Some(first.id))), "{counted:?}");
    }
}

#[tokio::test]
async fn fee_written_down_by_another_process_counts_with_the_next_housekeeping() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let policy = || AccountPolicy {
        membership: MembershipPolicy { fee: 1, trial: day(), grace: day(), operator_percent: 0 },
        ..AccountPolicy::default()
    };
    let serving = accounts_at(&store, &clock, policy()).await;
    let beside = accounts_at(&store, &clock, policy()).await;
    let account = beside.create_account().await.unwrap().account;
    let state = || serving.membership(&account).state;
    assert_eq!(state(), MembershipState::Lapsed, "it is not known here");
    serving.keep_house().await;
    assert_eq!(state(), MembershipState::Trial);
    clock.advance(day());
    assert_eq!(state(), MembershipState::Lapsed);
    let fee = FeeRequest { months: 1, reference: "1".to_owned() };
    let paid = beside.pay(&account, &fee).await.unwrap();
    assert_eq!(paid.state, MembershipState::Paid);
    assert_eq!(state(), MembershipState::Lapsed);
    serving.keep_house().await;
    assert_eq!(serving.membership(&account), paid);
    clock.advance(31 * day());
    assert_eq!(state(), MembershipState::Grace);
    clock.advance(day());
    assert_eq!(state(), MembershipState::Lapsed);
    let restarted = accounts_at(&store, &clock, policy()).await;
    assert_eq!(restarted.membership(&account).state, MembershipState::Lapsed);
}

#[tokio::test]
async fn jwt_secret_can_be_replaced_while_sessions_last() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let policy = |current: Option<&str>, previous: Option<&str>| AccountPolicy {
        jwt_secret: current.map(Into::into),
        jwt_secret_previous: previous.map(Into::into),
        ..AccountPolicy::default()
    };
    let (old, new) = ("old-secret-old-secret-old-secret", "new-secret-new-secret-new-secret");
    let before = accounts_at(&store, &clock, policy(Some(old), None)).await;
    let session = register(&before, EMAIL).await;
    let token = session.access_token.expose();
    let both = accounts_at(&store, &clock, policy(Some(new), Some(old))).await;
    assert!(both.session(token).is_some());
    let after = accounts_at(&store, &clock, policy(Some(new), None)).await;
    assert!(after.session(token).is_none());
    let elsewhere = Accounts::load_with(
        Arc::new(MemoryStore::new()),
        Secret::from_bytes([8; 32]),
        policy(Some(old), None),
    );
    let elsewhere = elsewhere.await.unwrap().with_clock(clock.clone());
    assert!(elsewhere.session(token).is_none(), "another coordinator with the same secret");
}

#[tokio::test]
async fn invitation_ends_and_is_forgotten() {
    let (store, clock) = (MemoryStore::new(), HandClock::new());
    let accounts = accounts_at(&store, &clock, AccountPolicy::default()).await;
    let request = InvitationRequest { valid_secs: Some(60), ..InvitationRequest::default() };
    let made = accounts.invite(Giver::Operator, request).await.unwrap();
    clock.advance(Duration::from_mins(1));
    let refused = accounts.join(made.invitation.expose(), None).await.map(drop);
    assert_eq!(refused, Err(AccountError::Invitation));
    assert!(accounts.invitations(Giver::Operator).await.unwrap().is_empty());
    accounts.keep_house().await;
    for kind in ["invitation", "invited"] {
        let left: Vec<_> = store.scan(Key::all(kind)).try_collect().await.unwrap();
        assert!(left.is_empty(), "{kind}: {left:?}");
    }
}
