//! What owners report to the operator about what strangers asked of their nodes.
//!
//! A report says who is meant and why. It holds nothing of a request but what its owner adds, which
//! is sealed in the books and deleted when the report is closed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use iris_core::id::{CallerTag, ReportId};
use iris_core::model::is_invisible;
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError};
use iris_core::{AccountId, TaskId, Timestamp};
use iris_crypto::{RecordKey, Secret, random_bytes};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// The record type of reports that are open.
const OPEN: &str = "report";
/// The record type of reports that are closed.
const CLOSED: &str = "report_closed";
/// Longest reason, in bytes.
const MAX_REASON: usize = 1000;
/// Longest content that an owner adds, in bytes.
const MAX_CONTENT: usize = 16 << 10;
/// Most reports that are open at a time.
const MAX_OPEN: usize = 10_000;
/// Most of them by one owner.
const MAX_OPEN_OF_OWNER: usize = 50;
/// How long an owner waits between two reports.
const PACE: Duration = Duration::from_secs(10);

/// How long at least after a count the next one.
const RECOUNTED: Duration = Duration::from_mins(1);

/// What is reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewReport {
    /// The caller, as the owner's nodes know it.
    pub tag: Option<CallerTag>,
    /// Whose account that is.
    pub account: Option<AccountId>,
    /// The task, as the owner says.
    pub task: Option<TaskId>,
    /// What is wrong.
    pub reason: String,
    /// What of the request the owner shows the operator.
    pub content: Option<String>,
}

/// A report as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Names it.
    pub id: ReportId,
    /// When it was made.
    pub at: Timestamp,
    /// Whose nodes were asked.
    pub owner: AccountId,
    /// Who asked; `None` for people without an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// What the owner knows the caller by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<CallerTag>,
    /// The task, as the owner says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What is wrong.
    pub reason: String,
    /// What the owner shows, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    /// When it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Timestamp>,
}

/// Whose report it is, which is all that is read of it to count it.
#[derive(Deserialize)]
struct Owned {
    owner: AccountId,
}

/// Why nothing was done about a report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It names neither a caller nor a task.
    #[error("a report names a caller by its tag, or a task")]
    Nobody,
    /// The reason is missing or too long.
    #[error("a reason has 1 to {MAX_REASON} bytes, and no invisible characters but line breaks")]
    Reason,
    /// The content is too long.
    #[error("of the content at most {MAX_CONTENT} bytes can be shown to the operator")]
    Content,
    /// The owner has just made another.
    #[error("you have just made a report; make the next one in {} seconds", PACE.as_secs())]
    TooSoon,
    /// Too many are open.
    #[error("too many reports are open; the operator has to close some first")]
    Full,
    /// There is no such report that is open.
    #[error("there is no such report, or it is closed")]
    NotFound,
    /// The books cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The reports of a network.
#[derive(Debug)]
pub struct Reports {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    key: RecordKey,
    /// When owners made their latest ones.
    made: Mutex<HashMap<AccountId, Instant>>,
    /// How many are open, as far as is known here; counted when the first is made. What changes
    /// them has its turn by this lock.
    open: tokio::sync::Mutex<Option<Open>>,
}

/// How many reports are open.
#[derive(Debug)]
struct Open {
    all: usize,
    by_owner: HashMap<AccountId, usize>,
    counted: Instant,
}

impl Open {
    fn is_full(&self, owner: &AccountId) -> bool {
        let own = self.by_owner.get(owner).copied().unwrap_or_default();
        self.all >= MAX_OPEN || own >= MAX_OPEN_OF_OWNER
    }

    fn add(&mut self, owner: AccountId) {
        self.all += 1;
        *self.by_owner.entry(owner).or_default() += 1;
    }

    fn remove(&mut self, owner: &AccountId) {
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.by_owner.get_mut(owner) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.by_owner.remove(owner);
            }
        }
    }
}

impl Reports {
    /// Reads and writes the reports in `store`; what owners show is sealed with `secret`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, secret: &Secret) -> Self {
        let key = RecordKey::new(secret);
        Self { store, clock, key, made: Mutex::default(), open: tokio::sync::Mutex::default() }
    }

    /// Takes a report of `owner` in.
    pub async fn make(&self, owner: AccountId, new: NewReport) -> Result<Report, ReportError> {
        let NewReport { tag, account, task, reason, content } = new;
        if account.is_none() && task.is_none() {
            return Err(ReportError::Nobody);
        }
        if reason.trim().is_empty()
            || reason.len() > MAX_REASON
            || reason.chars().any(|c| c != '\n' && is_invisible(c))
        {
            return Err(ReportError::Reason);
        }
        if content.as_ref().is_some_and(|content| content.len() > MAX_CONTENT) {
            return Err(ReportError::Content);
        }
        self.pace(owner)?;
        let mut turn = self.open.lock().await;
        let open = self.room(&mut turn, &owner).await?;
        let at = self.clock.calendar();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&at.as_millis().to_be_bytes());
        id[8..].copy_from_slice(&random_bytes::<8>());
        let id = ReportId::from_bytes(id);
        let place = key(OPEN, id);
        let sealed = content.map(|content| {
            let sealed = self.key.seal(place.as_str(), content.as_bytes());
            data_encoding::BASE64_NOPAD.encode(&sealed)
        });
        let report = Report { id, at, owner, account, tag, task, reason, sealed, closed: None };
        // Before, since whoever asked may be gone meanwhile, and the report be written all the same.
        open.add(owner);
        self.store.commit(Batch::new().create(place, Document::encode(&report))).await?;
        Ok(report)
    }

    /// Returns how many are open, where one more of `owner` may be.
    ///
    /// The operator may close them past this, by `iris-coordinator report close`; so before
    /// anybody is refused they are counted anew, now and then.
    async fn room<'a>(
        &self,
        known: &'a mut Option<Open>,
        owner: &AccountId,
    ) -> Result<&'a mut Open, ReportError> {
        let now = self.clock.now();
        let is_due = match &*known {
            None => true,
            Some(open) => {
                open.is_full(owner) && now.saturating_duration_since(open.counted) >= RECOUNTED
            }
        };
        if is_due {
            *known = Some(self.count(now).await?);
        }
        known.as_mut().filter(|open| !open.is_full(owner)).ok_or(ReportError::Full)
    }

    async fn count(&self, counted: Instant) -> Result<Open, StoreError> {
        let mut open = Open { all: 0, by_owner: HashMap::new(), counted };
        let mut records = self.store.scan(Key::all(OPEN));
        while let Some(record) = records.try_next().await? {
            open.add(record.value.decode::<Owned>()?.owner);
        }
        Ok(open)
    }

    /// Returns reports that are open, or closed, at most `limit` after one of them, the oldest first.
    pub async fn page(
        &self,
        closed: bool,
        after: Option<ReportId>,
        limit: usize,
    ) -> Result<Vec<Report>, ReportError> {
        let record_type = if closed { CLOSED } else { OPEN };
        let mut range = Key::all(record_type);
        if let Some(after) = after {
            // The first key after this one: '-' is the least character of a key.
            range.start =
                Key::new(record_type, format_args!("{after}-")).expect("ids are segments");
        }
        Ok(self.scan(range, limit).await?)
    }

    /// Returns one report, open or closed.
    pub async fn report(&self, id: ReportId) -> Result<Report, ReportError> {
        for record_type in [OPEN, CLOSED] {
            if let Some(record) = self.store.get(key(record_type, id)).await? {
                return Ok(record.value.decode()?);
            }
        }
        Err(ReportError::NotFound)
    }

    /// Returns what the owner shows of the request, if anything.
    pub fn content(&self, report: &Report) -> Option<String> {
        let sealed = report.sealed.as_ref()?;
        let sealed = data_encoding::BASE64_NOPAD.decode(sealed.as_bytes()).ok()?;
        let opened = self.key.open(key(OPEN, report.id).as_str(), &sealed).ok()?;
        String::from_utf8(opened).ok()
    }

    /// Closes a report; what its owner has shown is gone.
    pub async fn close(&self, id: ReportId) -> Result<Report, ReportError> {
        let mut turn = self.open.lock().await;
        let record: Record = self.store.get(key(OPEN, id)).await?.ok_or(ReportError::NotFound)?;
        let report: Report = record.value.decode()?;
        let closed = Some(self.clock.calendar());
        let report = Report { sealed: None, closed, ..report };
        let batch =
            Batch::new().delete(key(OPEN, id)).put(key(CLOSED, id), Document::encode(&report));
        self.store.commit(batch).await?;
        if let Some(open) = &mut *turn {
            open.remove(&report.owner);
        }
        Ok(report)
    }

    fn pace(&self, owner: AccountId) -> Result<(), ReportError> {
        let now = self.clock.now();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, at| now.saturating_duration_since(*at) < PACE);
        if made.contains_key(&owner) {
            return Err(ReportError::TooSoon);
        }
        made.insert(owner, now);
        Ok(())
    }

    async fn scan(&self, range: Range<Key>, limit: usize) -> Result<Vec<Report>, StoreError> {
        let mut records = self.store.scan(range);
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(record) = records.try_next().await?
        {
            found.push(record.value.decode()?);
        }
        Ok(found)
    }
}

fn key(record_type: &str, id: ReportId) -> Key {
    Key::new(record_type, id).expect("an id is a key segment")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::BoxFuture;
    use futures::stream::BoxStream;
    use iris_core::store::MemoryStore;

    use super::*;
    use crate::clock::SystemClock;

    const OWNER: AccountId = AccountId::from_bytes([1; 16]);
    const CALLER: AccountId = AccountId::from_bytes([2; 16]);

    /// Counts how often its records are read one after the other.
    #[derive(Debug, Default)]
    struct Counting {
        store: MemoryStore,
        scans: AtomicUsize,
    }

    impl Store for Counting {
        fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
            self.store.commit(batch)
        }

        fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
            self.store.get(key)
        }

        fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
            self.scans.fetch_add(1, Ordering::Relaxed);
            self.store.scan(range)
        }
    }

    fn reports(store: &Arc<Counting>) -> Reports {
        let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
        Reports::new(store, Arc::new(SystemClock), &Secret::from_bytes([7; 32]))
    }

    async fn make(reports: &Reports, owner: AccountId) -> Result<Report, ReportError> {
        tokio::time::advance(PACE).await;
        let reason = "because".to_owned();
        reports
            .make(owner, NewReport { account: Some(CALLER), reason, ..NewReport::default() })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn open_reports_are_counted_once_and_again_before_anybody_is_refused() {
        let store = Arc::new(Counting::default());
        let here = reports(&store);
        let mut made = Vec::new();
        for _ in 0..MAX_OPEN_OF_OWNER {
            made.push(make(&here, OWNER).await.unwrap().id);
        }
        assert_eq!(store.scans.load(Ordering::Relaxed), 1);
        // A minute has passed since.
        assert_eq!(make(&here, OWNER).await, Err(ReportError::Full));
        assert_eq!(make(&here, OWNER).await, Err(ReportError::Full));
        assert_eq!(store.scans.load(Ordering::Relaxed), 2);
        make(&here, CALLER).await.unwrap();

        here.close(made[0]).await.unwrap();
        make(&here, OWNER).await.unwrap();
        assert_eq!(store.scans.load(Ordering::Relaxed), 2, "what is closed here is known");

        // The operator's command is another process, which works on the same books.
        reports(&store).close(made[1]).await.unwrap();
        tokio::time::advance(RECOUNTED).await;
        make(&here, OWNER).await.unwrap();
        let open = here.page(false, None, usize::MAX).await.unwrap();
        assert_eq!(open.len(), MAX_OPEN_OF_OWNER + 1);
    }
}
