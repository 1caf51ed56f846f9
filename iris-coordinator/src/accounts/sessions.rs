//! Sessions: an access token for a quarter of an hour, and a refresh token to go on with, once.
//!
//! Access tokens are checked without the store. So a session that ends is put on a list, by its
//! id, until the last of its access tokens has ended by itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::PoisonError;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError};
use iris_core::{AccountId, Timestamp};
use iris_crypto::jwt::{Claims, LIFETIME};
use iris_crypto::refresh::{Refresh, SessionId};
use iris_protocol::rest::Session;
use tokio::sync::MutexGuard;

use super::record::{EndedRecord, SessionRecord, path};
use super::{AccountError, Accounts};

/// Most sessions of one account; one more ends the oldest.
const MAX_SESSIONS: usize = 32;
/// How long a session may go without being renewed.
const IDLE: Duration = Duration::from_hours(30 * 24);
/// How long a session may go on at all.
const LONGEST: Duration = Duration::from_hours(90 * 24);
/// Records that are deleted together.
const PER_BATCH: usize = 512;

/// The sessions that ended, and until when their access tokens would be good.
pub(super) type Ended = HashMap<SessionId, Timestamp>;

/// Reads the sessions that ended.
pub(super) async fn read_ended(store: &dyn Store) -> Result<Ended, StoreError> {
    let corrupt = |_| StoreError::Corrupt("a session is not under its id".to_owned());
    let (mut ended, mut records) = (Ended::new(), store.scan(Key::all(EndedRecord::TYPE)));
    while let Some(record) = records.try_next().await? {
        let session = record.key.id().parse().map_err(corrupt)?;
        ended.insert(session, record.value.decode::<EndedRecord>()?.until);
    }
    Ok(ended)
}

impl Accounts {
    /// Checks an access token: no waiting, and no store.
    pub fn session(&self, token: &str) -> Option<Claims> {
        let claims = self.jwt.verify(token, self.clock.calendar().as_secs()).ok()?;
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        (!ended.contains_key(&claims.session)).then_some(claims)
    }

    /// Goes on with a session. A token that was used before ends it, since somebody else has it.
    pub async fn refresh(&self, token: &str) -> Result<Session, AccountError> {
        let refresh = self.refresh.verify(token).map_err(|_| AccountError::WrongRefresh)?;
        let Refresh { account, session, number } = refresh;
        let _turn = self.sessions.lock().await;
        let place = place(&account, &session);
        let Some(found) = self.store.get(place.clone()).await? else {
            return Err(AccountError::WrongRefresh);
        };
        let mut record: SessionRecord = found.value.decode()?;
        let now = self.clock.calendar();
        let next = record.number.checked_add(1).filter(|_| !is_over(&record, now));
        let Some(next) = next.filter(|_| record.number == number) else {
            tracing::warn!(%account, "a session ended: its refresh token was used before, or is old");
            self.end(&account, &[session], Batch::new()).await?;
            return Err(AccountError::WrongRefresh);
        };
        (record.number, record.renewed) = (next, now);
        let batch = Batch::new().replace(place, found.version, Document::encode(&record));
        self.store.commit(batch).await?;
        Ok(self.session_of(&Refresh { number: next, ..refresh }))
    }

    /// Ends a session. Its tokens let nobody in any more as soon as this resolves.
    pub async fn log_out(&self, claims: &Claims) -> Result<(), StoreError> {
        let _turn = self.sessions.lock().await;
        self.end(&claims.account, &[claims.session], Batch::new()).await
    }

    pub(super) async fn begin_session(&self, account: AccountId) -> Result<Session, AccountError> {
        let turn = self.sessions.lock().await;
        self.begin_session_in(turn, account).await
    }

    /// Begins a session while nobody else begins or ends one.
    pub(super) async fn begin_session_in(
        &self,
        _turn: MutexGuard<'_, ()>,
        account: AccountId,
    ) -> Result<Session, AccountError> {
        self.learn_standing(&account).await?;
        let mut known: Vec<(SessionId, Timestamp)> = self.sessions_of(&account).await?;
        known.sort_by_key(|(_, created)| *created);
        let many = (known.len() + 1).saturating_sub(MAX_SESSIONS);
        let oldest: Vec<SessionId> = known.iter().take(many).map(|(id, _)| *id).collect();
        let session = SessionId::generate();
        let now = self.clock.calendar();
        let record = SessionRecord { number: 0, created: now, renewed: now };
        let batch = Batch::new().create(place(&account, &session), Document::encode(&record));
        self.end(&account, &oldest, batch).await?;
        Ok(self.session_of(&Refresh { account, session, number: 0 }))
    }

    /// Ends all sessions of `account` together with what `batch` holds.
    pub(super) async fn end_all_sessions(
        &self,
        account: &AccountId,
        batch: Batch,
    ) -> Result<(), AccountError> {
        let _turn = self.sessions.lock().await;
        let known = self.sessions_of(account).await?;
        let all: Vec<SessionId> = known.into_iter().map(|(id, _)| id).collect();
        Ok(self.end(account, &all, batch).await?)
    }

    /// Forgets sessions that are over, and those that ended so long ago that no token is left.
    pub(super) async fn keep_sessions(&self) -> Result<(), StoreError> {
        let now = self.clock.calendar();
        {
            let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
            ended.retain(|_, until| *until > now);
        }
        self.prune(EndedRecord::TYPE, |record: EndedRecord| record.until <= now).await?;
        self.prune(SessionRecord::TYPE, |record| is_over(&record, now)).await
    }

    /// Deletes the records of a type that `is_over` says are.
    pub(super) async fn prune<T: serde::de::DeserializeOwned>(
        &self,
        record_type: &str,
        is_over: impl Fn(T) -> bool,
    ) -> Result<(), StoreError> {
        let mut records = self.store.scan(Key::all(record_type));
        let mut batch = Batch::new();
        while let Some(Record { key, version, value }) = records.try_next().await? {
            if is_over(value.decode()?) {
                batch.writes.push(super::record::delete_at(key, version));
            }
            if batch.writes.len() >= PER_BATCH {
                self.commit_unless_changed(std::mem::take(&mut batch)).await?;
            }
        }
        self.commit_unless_changed(batch).await
    }

    /// Commits deletions; if one was changed meanwhile, the next time is soon enough.
    async fn commit_unless_changed(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.writes.is_empty() {
            return Ok(());
        }
        match self.store.commit(batch).await {
            Err(StoreError::Conflict(_)) => Ok(()),
            committed => committed,
        }
    }

    /// Ends sessions of `account` and commits what `batch` holds with it.
    async fn end(
        &self,
        account: &AccountId,
        sessions: &[SessionId],
        mut batch: Batch,
    ) -> Result<(), StoreError> {
        let now = self.clock.calendar();
        // A token may have been made a moment after this, were the clock set back.
        let until = now.saturating_add(Duration::from_secs(2 * LIFETIME));
        for session in sessions {
            let record = Document::encode(&EndedRecord { until });
            batch =
                batch.delete(place(account, session)).put(path(EndedRecord::TYPE, session), record);
        }
        self.store.commit(batch).await?;
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        ended.extend(sessions.iter().map(|session| (*session, until)));
        Ok(())
    }

    async fn sessions_of(
        &self,
        account: &AccountId,
    ) -> Result<Vec<(SessionId, Timestamp)>, StoreError> {
        let corrupt = |_| StoreError::Corrupt("a session is not under its id".to_owned());
        let records = self.store.scan(range(account)).map(|record| {
            let record = record?;
            let id = record.key.id().rsplit('/').next().unwrap_or_default();
            let created = record.value.decode::<SessionRecord>()?.created;
            Ok((id.parse().map_err(corrupt)?, created))
        });
        records.try_collect().await
    }

    fn session_of(&self, refresh: &Refresh) -> Session {
        let now = self.clock.calendar().as_secs();
        let access = self.jwt.issue(refresh.account, refresh.session, now);
        Session {
            account: refresh.account,
            access_token: access.as_str().into(),
            token_type: "bearer".to_owned(),
            expires_in: LIFETIME,
            refresh_token: self.refresh.issue(refresh).as_str().into(),
        }
    }
}

fn is_over(record: &SessionRecord, now: Timestamp) -> bool {
    now >= record.renewed.saturating_add(IDLE) || now >= record.created.saturating_add(LONGEST)
}

fn place(account: &AccountId, session: &SessionId) -> Key {
    path(SessionRecord::TYPE, format_args!("{account}/{session}"))
}

/// Where the sessions of an account are; their ids are hexadecimal.
fn range(account: &AccountId) -> Range<Key> {
    let bound = |id| path(SessionRecord::TYPE, format_args!("{account}/{id}"));
    bound("0")..bound("g")
}
