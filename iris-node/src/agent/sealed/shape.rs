//! When which bytes of a sealed answer leave: by the clock where times and sizes are to say
//! little.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes};
use iris_core::backend::{BackendError, Finish, Usage};
use iris_crypto::Identity;
use iris_crypto::seal::{AnswerSealer, Outcome, Pieces, SealError, Shape, SignedReceipt};
use iris_protocol::frame::Content;
use tokio::time::Instant;

/// How often output leaves in [`Shape::Batched`].
const BATCH: Duration = Duration::from_millis(250);
/// How often a frame leaves in [`Shape::Paced`].
const TICK: Duration = Duration::from_millis(200);
/// The ticks of the shortest class of durations: a second.
const SHORTEST: u64 = 5;
/// How long before its deadline an answer is complete at the latest, if it is made by then.
const SPARE: Duration = Duration::from_secs(1);
/// How much output may wait for its tick before the backend is asked for no more.
const MOST_WAITING: usize = 1 << 20;

/// The output of one answer on its way into frames.
///
/// Order of calls: [`push`](Self::push) what the backend says, and [`end`](Self::end) once; call
/// [`advance`](Self::advance) when [`due`](Self::due) says so, until it returns the receipt.
/// Records are appended to a buffer of the caller's.
pub(super) struct Shaper {
    sealer: AnswerSealer,
    begun: Instant,
    /// When nobody waits for the answer any more.
    deadline: Instant,
    /// How many ticks are over.
    ticks: u64,
    waiting: VecDeque<(Content, Bytes)>,
    bytes: usize,
    end: Option<Result<Finish, BackendError>>,
    /// Whether the end's own frames are out.
    ended: bool,
}

impl Shaper {
    /// Begins an answer that was accepted at `now`; appends its first record.
    pub(super) fn new(
        sealer: AnswerSealer,
        now: Instant,
        deadline: Instant,
        out: &mut Vec<u8>,
    ) -> Box<Self> {
        sealer.opening(out);
        Box::new(Self {
            sealer,
            begun: now,
            deadline,
            ticks: 0,
            waiting: VecDeque::new(),
            bytes: 0,
            end: None,
            ended: false,
        })
    }

    /// Takes in a piece of the answer; text is UTF-8.
    pub(super) fn push(&mut self, content: Content, data: Bytes) {
        if !data.is_empty() {
            self.bytes += data.len();
            self.waiting.push_back((content, data));
        }
    }

    /// Takes in how the answer ended.
    pub(super) fn end(&mut self, end: Result<Finish, BackendError>) {
        self.end.get_or_insert(end);
    }

    /// Returns whether the answer should not go on before some of it has left.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= MOST_WAITING
    }

    /// Returns when [`advance`](Self::advance) has something to do; `None` when it waits for what
    /// comes next.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = self.waiting.is_empty() && self.end.is_none();
        match self.sealer.shape() {
            Shape::Off => (!idle).then_some(self.begun),
            Shape::Batched => (!idle).then(|| self.tick(BATCH)),
            Shape::Paced => Some(self.tick(TICK)),
        }
    }

    fn tick(&self, every: Duration) -> Instant {
        let ticks = u32::try_from(self.ticks + 1).unwrap_or(u32::MAX);
        self.begun + every * ticks
    }

    /// Appends the records that are due by `now`; returns the receipt when they are the last.
    pub(super) fn advance(
        mut self: Box<Self>,
        now: Instant,
        identity: &Identity,
        out: &mut Vec<u8>,
    ) -> Result<Advanced, SealError> {
        match self.sealer.shape() {
            Shape::Off => {
                self.drain(out)?;
                self.close(identity, out)
            }
            Shape::Batched => {
                let tick = self.tick(BATCH);
                if now < tick {
                    return Ok(Advanced::On(self));
                }
                let over = (now - self.begun).as_millis() / BATCH.as_millis();
                self.ticks = u64::try_from(over).unwrap_or(u64::MAX);
                self.drain(out)?;
                self.close(identity, out)
            }
            Shape::Paced => {
                while self.tick(TICK) <= now {
                    self.ticks += 1;
                    let is_class = self.ticks == class(self.ticks, SHORTEST);
                    // An answer that is whole must not be late for the sake of its class.
                    let is_last = self.tick(TICK) + SPARE > self.deadline;
                    if self.ended && (is_class || is_last) {
                        return self.close(identity, out);
                    }
                    // Ticks that are overdue, since somebody took nothing, carry one frame each,
                    // whatever waits: how much that is must not show in how many there are.
                    let is_last_due = self.tick(TICK) > now;
                    self.pace(is_class, is_last_due, out)?;
                }
                Ok(Advanced::On(self))
            }
        }
    }

    /// Appends the frames of one tick: one, unless more is waiting at the last tick that is due.
    ///
    /// A whole answer comes at once, so its length and time would show; it leaves at the end of a
    /// class of durations.
    fn pace(
        &mut self,
        is_class: bool,
        is_last_due: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let is_whole = self.waiting.iter().any(|(content, _)| *content == Content::Whole);
        if is_whole && !is_class && self.tick(TICK) + SPARE <= self.deadline {
            return self.sealer.seal(&Pieces::new(Shape::Paced), out);
        }
        let mut frames = 0;
        while frames == 0 || (is_last_due && !self.waiting.is_empty()) {
            let mut pieces = Pieces::new(Shape::Paced);
            self.fill(&mut pieces);
            // The end takes the place of a dummy.
            if pieces.is_empty() && self.end.is_some() && !self.ended {
                return self.say_end(out);
            }
            self.sealer.seal(&pieces, out)?;
            frames += 1;
        }
        // How much was waiting is told in classes, too.
        for _ in frames..class(frames, 1) {
            self.sealer.seal(&Pieces::new(Shape::Paced), out)?;
        }
        Ok(())
    }

    /// Appends all that is waiting.
    fn drain(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        while !self.waiting.is_empty() {
            let mut pieces = Pieces::new(self.sealer.shape());
            self.fill(&mut pieces);
            self.sealer.seal(&pieces, out)?;
        }
        if self.end.is_some() && !self.ended {
            self.say_end(out)?;
        }
        Ok(())
    }

    fn say_end(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.ended = true;
        match &self.end {
            Some(Ok(finish)) => self.sealer.end(finish, out),
            Some(Err(error)) => self.sealer.fault(error, out),
            None => Ok(()),
        }
    }

    /// Moves what is waiting into a frame, as far as it fits.
    fn fill(&mut self, pieces: &mut Pieces) {
        while let Some((content, data)) = self.waiting.front_mut() {
            let taken = match content {
                Content::Text => {
                    // No more than may fit is looked at, however much waits.
                    let most = data.len().min(pieces.room());
                    let text = data[..most].utf8_chunks().next();
                    pieces.push_text(text.map_or("", |chunk| chunk.valid()))
                }
                Content::Json => pieces.push_json(data),
                Content::Whole | Content::Sealed => pieces.push_whole(data),
            };
            self.bytes -= taken;
            data.advance(taken);
            if !data.is_empty() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Appends the last frame, if the end is out.
    fn close(
        self: Box<Self>,
        identity: &Identity,
        out: &mut Vec<u8>,
    ) -> Result<Advanced, SealError> {
        if !self.ended {
            return Ok(Advanced::On(self));
        }
        let (outcome, usage) = match &self.end {
            Some(Ok(finish)) => (Outcome::Complete, finish.usage),
            _ => (Outcome::Failed, Usage::default()),
        };
        self.sealer.finish(identity, outcome, usage, out).map(Box::new).map(Advanced::Over)
    }
}

/// What is left to do.
pub(super) enum Advanced {
    /// More will come.
    On(Box<Shaper>),
    /// Everything is out; the receipt is to follow.
    Over(Box<SignedReceipt>),
}

/// Returns the least of the numbers from `first` on, each a quarter more than the one before, that
/// is at least `count`.
fn class(count: u64, first: u64) -> u64 {
    let mut class = first;
    while class < count {
        class = (class * 5 / 4).max(class + 1);
    }
    class
}

#[cfg(test)]
mod tests {
    use iris_core::Timestamp;
    use iris_core::backend::Operation;
    use iris_crypto::certificate::{Expectation, Origin, Role};
    use iris_crypto::seal::{Prompt, RecordReader, SealedRequest, Terms};
    use iris_crypto::{SealingKey, SignedCertificate};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn sealer(identity: &Identity) -> AnswerSealer {
        let (key, now) = (SealingKey::generate(), Timestamp::from_millis(1_800_000_000_000));
        let origin: Origin = "https://a.example".parse().unwrap();
        let certificate =
            SignedCertificate::issue(identity, Role::Node, key.public(), &origin, now, 1);
        let expected = Expectation { role: Role::Node, now, min_serial: 0, origin: &origin };
        let prompt = Prompt { operation: Operation::Chat, stream: true, body: "{}".into() };
        let terms = Terms::new("m".parse().unwrap(), now);
        let certificate = certificate.verify(&expected).unwrap();
        let (request, _) = SealedRequest::seal(&certificate, terms, &prompt).unwrap();
        request.open(&key).unwrap().1
    }

    fn frames(records: &[u8]) -> usize {
        let mut reader = RecordReader::new();
        reader.push(records);
        std::iter::from_fn(|| reader.pop().unwrap()).count() - 1
    }

    #[test]
    fn attack_13_whoever_holds_the_stream_up_learns_nothing_of_its_length() {
        let identity = Identity::generate();
        for (bytes, expected) in [(0, 50), (1, 50), (12_000, 50), (253 * 60, 60)] {
            let (begun, mut out) = (Instant::now(), Vec::new());
            let mut shaper = Shaper::new(sealer(&identity), begun, begun + HOUR, &mut out);
            shaper.push(Content::Text, "x".repeat(bytes).into());
            // Nobody took anything for ten seconds.
            let now = begun + Duration::from_secs(10);
            let advanced = shaper.advance(now, &identity, &mut out).unwrap();
            assert!(matches!(advanced, Advanced::On(_)));
            // What exceeds the overdue frames leaves in a class of bursts.
            let least = frames(&out);
            assert!((expected..=expected + 3).contains(&least), "{bytes} bytes: {least}");
        }
    }

    #[test]
    fn answer_that_is_whole_is_not_late_for_the_sake_of_its_class() {
        let identity = Identity::generate();
        let (begun, mut out) = (Instant::now(), Vec::new());
        let deadline = begun + Duration::from_secs(30);
        let mut shaper = Shaper::new(sealer(&identity), begun, deadline, &mut out);
        // The class that this ends in is over at 40.8 s.
        let ended = begun + Duration::from_millis(28_500);
        let Advanced::On(mut on) = shaper.advance(ended, &identity, &mut out).unwrap() else {
            panic!("nothing has ended")
        };
        on.end(Ok(Finish { reason: "stop".to_owned(), usage: Usage::default() }));
        shaper = on;
        let over = shaper.advance(deadline, &identity, &mut out).unwrap();
        assert!(matches!(over, Advanced::Over(_)));
    }

    #[test]
    fn classes_are_a_quarter_longer_each() {
        let classes: Vec<_> = (1..=60).map(|count| class(count, SHORTEST)).collect();
        let mut distinct = classes.clone();
        distinct.dedup();
        assert_eq!(distinct, [5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 63]);
        assert!(classes.iter().zip(1..).all(|(class, count)| *class >= count));
    }
}
