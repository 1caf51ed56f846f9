//! Downloads: from the first byte, or from where one ended.

use std::time::Duration;

use bytes::Bytes;
use iris_protocol::rest::FileName;
use reqwest::{Client, Response};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::fetch::{self, Answer, Facts, Failed, ask, cause};
use super::part::Part;
use super::room::Wanted;
use super::{CacheError, ModelCache, PullError, Record, Source};

/// How long a source may be silent, unless set.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before the first further attempt, unless set; twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
/// How many attempts in a row may bring nothing.
const ATTEMPTS: u32 = 6;
/// Parts of an answer that wait for the disk.
const AHEAD: usize = 16;

/// What happens while a model is downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Others had to go for it.
    Removed(FileName),
    /// The source gives it.
    Begun {
        /// From which on.
        from: u64,
        /// How many there are.
        total: u64,
    },
    /// More has come.
    Come {
        /// What there is.
        len: u64,
        /// How many bytes it has.
        total: u64,
        /// What was received since the beginning, thrown away or not.
        received: u64,
    },
    /// It broke off, and goes on in a while.
    Waiting {
        /// What is wrong.
        why: String,
        /// How long that is.
        pause: Duration,
    },
    /// What there was of it was thrown away, for this reason.
    Restarted(&'static str),
}

/// What came of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It is there now.
    New(Record),
    /// It was there already.
    Known(Record),
}

/// A download into a cache.
#[derive(Debug)]
pub struct Pull {
    cache: ModelCache,
    name: FileName,
    source: Source,
    roots: Option<Vec<u8>>,
    left: u64,
    patience: Duration,
    pause: Duration,
}

impl Pull {
    /// Prepares to download what `source` has as `name`.
    pub fn new(cache: ModelCache, name: FileName, source: Source) -> Self {
        Self { cache, name, source, roots: None, left: u64::MAX, patience: PATIENCE, pause: PAUSE }
    }

    /// Trusts the authorities of these certificates (PEM) alone. Default: those of the system.
    pub fn with_roots(self, pem: Vec<u8>) -> Self {
        Self { roots: Some(pem), ..self }
    }

    /// Receives at most so many bytes. Default: any number.
    pub const fn with_allowance(mut self, bytes: u64) -> Self {
        self.left = bytes;
        self
    }

    /// Sets how long the source may be silent before it is asked again. Default: 30 s.
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets how long to wait after a first failure; each further one takes twice as long, and the
    /// sixth in a row that brought nothing is the last. Default: 1 s.
    pub const fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Downloads the model, and tells `on` how that goes. What has come when this is dropped is
    /// gone on with by the next download of the same name and source.
    pub async fn run(self, on: impl FnMut(Event) + Send) -> Result<Pulled, PullError> {
        if self.cache.path(&self.name).symlink_metadata().is_ok() {
            return self.known().await;
        }
        let client = fetch::client(self.roots.as_deref())?;
        let (cache, name) = (self.cache.clone(), self.name.clone());
        let part = blocking(move || Part::open(&cache, &name)).await?;
        let Self { cache, name, source, left, patience, pause, .. } = self;
        let shown = source.shown();
        let (received, is_rest) = (0, false);
        let run = Run { cache, name, source, shown, client, left, received, patience, is_rest, on };
        // What it holds while it waits is more than a future should be.
        Box::pin(run.finish(part, pause)).await.map(Pulled::New)
    }

    /// Returns what is there, if that is what is wanted.
    async fn known(self) -> Result<Pulled, PullError> {
        let Self { cache, name, source, .. } = self;
        blocking(move || {
            let path = cache.path(&name);
            let file = path.metadata().ok();
            let record = file.and_then(|file| cache.record(&name, &file));
            let record = record.ok_or(CacheError::Owned(path))?;
            let found = match source.digest {
                Some(expected) if !expected.is_like(&record.digest) => {
                    cache.digest_like(&name, &expected)?
                }
                _ => record.digest,
            };
            let is_wanted = match source.digest {
                Some(expected) => expected == found,
                None => record.source == source.shown(),
            };
            if is_wanted {
                Ok(Pulled::Known(record))
            } else {
                Err(PullError::Exists { name, found })
            }
        })
        .await
    }
}

/// A download that goes on.
struct Run<F> {
    cache: ModelCache,
    name: FileName,
    source: Source,
    shown: String,
    client: Client,
    /// How many bytes may still be received.
    left: u64,
    received: u64,
    patience: Duration,
    /// Whether what there is came with more than one answer.
    is_rest: bool,
    on: F,
}

/// How an attempt ended.
enum End {
    /// All is there.
    Complete(Facts),
    /// It broke off.
    Broken(String),
    /// What there is belongs to nothing that the source has.
    Unlike,
}

impl<F: FnMut(Event) + Send> Run<F> {
    async fn finish(mut self, part: Part, mut pause: Duration) -> Result<Record, PullError> {
        let shown = self.shown.clone();
        let (mut part, was_bad) = blocking(move || {
            let mut part = part;
            let was_bad = part.resume(&shown)?;
            Ok((part, was_bad))
        })
        .await?;
        if was_bad {
            (self.on)(Event::Restarted("what there was of it is not what had come"));
        }
        let (mut failures, mut again) = (0, false);
        loop {
            let before = self.received;
            let (back, end) = self.attempt(part).await?;
            part = back;
            match end {
                End::Complete(facts) => match self.check(part, &facts).await? {
                    Ok(record) => return Ok(record),
                    // A part that went bad on the disk, or was joined to another file's rest, is
                    // no fault of the source's. What came in one go is.
                    Err((back, error)) if self.is_rest && !again => {
                        drop(error);
                        (part, again, self.is_rest) = (back, true, false);
                        (self.on)(Event::Restarted("it was not what it had to be"));
                    }
                    Err((_, error)) => return Err(error),
                },
                End::Unlike => {
                    part = cleared(part).await?;
                    (self.on)(Event::Restarted("the source has another file now"));
                    failures += 1;
                    if failures >= ATTEMPTS {
                        return Err(PullError::Broken("the source keeps changing".to_owned()));
                    }
                }
                End::Broken(why) => {
                    if self.received > before {
                        failures = 0;
                    }
                    failures += 1;
                    if failures >= ATTEMPTS {
                        return Err(PullError::Broken(why));
                    }
                    (self.on)(Event::Waiting { why, pause });
                    sleep(pause).await;
                    pause = (pause * 2).min(PATIENCE);
                }
            }
        }
    }

    /// Asks the source once, and writes what comes.
    async fn attempt(&mut self, part: Part) -> Result<(Part, End), PullError> {
        if self.left == 0 {
            return Err(PullError::Allowance);
        }
        let validator = part.record.validator.clone();
        let can_go_on = validator.is_some() || self.source.digest.is_some();
        let part = if part.len() > 0 && !can_go_on {
            (self.on)(Event::Restarted("the source does not say whether it is the same file"));
            cleared(part).await?
        } else {
            part
        };
        let from = part.len();
        let asked =
            ask(&self.client, &self.source, from, validator.as_deref(), self.patience).await;
        let (part, answer, facts) = match asked {
            Ok(Answer::Unlike) => return Ok((part, End::Unlike)),
            Ok(Answer::Complete(facts)) => {
                self.is_rest = true;
                return Ok((part, End::Complete(facts)));
            }
            Ok(Answer::Whole(answer, facts)) => {
                if from > 0 {
                    (self.on)(Event::Restarted(
                        "the source gives no parts, or has another file now",
                    ));
                }
                self.is_rest = false;
                (if from > 0 { cleared(part).await? } else { part }, answer, facts)
            }
            Ok(Answer::Rest(answer, facts)) => {
                let differ = part.record.total.zip(facts.total).is_some_and(|(a, b)| a != b)
                    || validator
                        .as_ref()
                        .zip(facts.validator.as_ref())
                        .is_some_and(|(a, b)| a != b);
                if differ {
                    return Ok((part, End::Unlike));
                }
                self.is_rest = true;
                (part, answer, facts)
            }
            Err(Failed::Soon(why)) => return Ok((part, End::Broken(why))),
            Err(Failed::For(error)) => return Err(error),
        };
        let known = facts.total.or(part.record.total).or(self.source.size);
        let total = known.ok_or(PullError::NoLength)?;
        if let Some(said) = self.source.size.filter(|size| *size != total) {
            return Err(PullError::Length { said });
        }
        let part = self.reserve(part, total, facts.validator.clone()).await?;
        (self.on)(Event::Begun { from: part.len(), total });
        let (part, came) = self.receive(part, answer, total).await?;
        let end = match came {
            Ok(()) if part.len() < total => End::Broken("the source broke off".to_owned()),
            Ok(()) => End::Complete(facts),
            Err(why) => End::Broken(why),
        };
        Ok((part, end))
    }

    /// Makes room for all of it, and writes down what is known of it.
    async fn reserve(
        &mut self,
        part: Part,
        size: u64,
        validator: Option<String>,
    ) -> Result<Part, PullError> {
        let (cache, name) = (self.cache.clone(), self.name.clone());
        let (part, gone) = blocking(move || {
            let mut part = part;
            let wanted = Wanted { size, missing: size.saturating_sub(part.len()) };
            part.record.total = Some(size);
            part.record.validator = validator.or(part.record.validator.take());
            let gone = cache.make_room(&name, wanted, || part.write_record())?;
            Ok((part, gone))
        })
        .await?;
        for name in gone {
            (self.on)(Event::Removed(name));
        }
        Ok(part)
    }

    /// Writes an answer; tells why it ended, if that was too early.
    async fn receive(
        &mut self,
        part: Part,
        mut answer: Response,
        total: u64,
    ) -> Result<(Part, Result<(), String>), PullError> {
        let mut len = part.len();
        let (pieces, mut waiting) = mpsc::channel::<Bytes>(AHEAD);
        // Hashing and writing take longer than a runtime's thread may be kept.
        let writer = spawn_blocking(move || {
            let mut part = part;
            let mut written = Ok(());
            while let Some(piece) = waiting.blocking_recv() {
                written = part.append(&piece);
                if written.is_err() {
                    break;
                }
            }
            // What was written before a failure can be gone on with.
            let noted = if part.len() > 0 { part.note() } else { Ok(()) };
            (part, written.and(noted))
        });
        let ended = loop {
            let piece = match timeout(self.patience, answer.chunk()).await {
                Err(_) => break Ok(Err("the source is silent".to_owned())),
                Ok(Err(error)) => break Ok(Err(cause(error))),
                Ok(Ok(None)) => break Ok(Ok(())),
                Ok(Ok(Some(piece))) => piece,
            };
            let size = piece.len() as u64;
            len += size;
            self.received += size;
            if len > total {
                break Err(PullError::Length { said: total });
            }
            if pieces.send(piece).await.is_err() {
                break Ok(Err("the disk cannot be written".to_owned()));
            }
            (self.on)(Event::Come { len, total, received: self.received });
            self.left = self.left.saturating_sub(size);
            if self.left == 0 && len < total {
                break Err(PullError::Allowance);
            }
        };
        drop(pieces);
        let (part, written) = writer.await.map_err(|error| lost(&error))?;
        written.map_err(PullError::of_file)?;
        Ok((part, ended?))
    }

    /// Makes a complete download a model, if it is what it has to be; otherwise throws it away.
    async fn check(
        &self,
        part: Part,
        facts: &Facts,
    ) -> Result<Result<Record, (Part, PullError)>, PullError> {
        let expected = [self.source.digest, facts.digest];
        let size = self.source.size;
        blocking(move || {
            let mut part = part;
            let wrong = expected.into_iter().flatten().find_map(|expected| {
                let found = part.digest_like(&expected);
                (found != expected).then_some(PullError::Digest { expected, found })
            });
            let wrong = match wrong {
                Some(wrong) => Some(wrong),
                None => match size.filter(|size| *size != part.len()) {
                    Some(said) => Some(PullError::Length { said }),
                    None => (!part.is_what_its_name_says()?).then_some(PullError::NotGguf),
                },
            };
            match wrong {
                None => Ok(Ok(part.finish()?)),
                Some(wrong) => {
                    part.clear()?;
                    Ok(Err((part, wrong)))
                }
            }
        })
        .await
    }
}

async fn cleared(mut part: Part) -> Result<Part, PullError> {
    blocking(move || {
        part.clear()?;
        Ok(part)
    })
    .await
}

/// Does what waits for a disk, where that keeps nobody else waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    spawn_blocking(work).await.map_err(|error| lost(&error))?
}

fn lost(error: &tokio::task::JoinError) -> PullError {
    PullError::Broken(error.to_string())
}
