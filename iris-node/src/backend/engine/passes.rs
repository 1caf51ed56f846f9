//! Passes over a large model, shared by the generations that run side by side.
//!
//! A pass over a model that does not fit the processor's caches spends its time on reading
//! weights, and reads them once however many conversations take part. So generations hand in what
//! they want read, and whichever comes first while no pass runs leads the next one for all: it
//! takes every token that continues an answer, and one step of the longest waiting prompt, so that
//! answers go on while prompts are read and no prompt waits for more than one step of each other.
//!
//! Small models run on the threads of their generations instead, which is faster.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iris_core::backend::BackendError;

use super::model::Model;
use super::network::{Network, Part, Scores, Wanted};

/// Longest time that a pass waits for generations which are about to take part.
const LONGEST_WAIT: Duration = Duration::from_millis(1);
/// The part of a pass's own time that it waits at most.
const WAITED_PART: u32 = 16;

/// The passes over one model.
pub(super) struct Passes<N: Network> {
    model: Arc<Model<N>>,
    line: Mutex<Line<N::Cache>>,
    changed: Condvar,
}

/// What is to be read, and what has been.
struct Line<C> {
    waiting: Vec<Job<C>>,
    done: HashMap<u64, Result<Outcome<C>, BackendError>>,
    running: bool,
    /// Generations that take part in passes now.
    generations: usize,
    next: u64,
    last: Duration,
    /// Conversations in the fullest pass so far.
    fullest: usize,
}

struct Job<C> {
    number: u64,
    tokens: Vec<u32>,
    cache: C,
    wanted: Wanted,
}

/// What came of each job, by its number.
type Outcomes<C> = Vec<(u64, Result<Outcome<C>, BackendError>)>;

struct Outcome<C> {
    cache: C,
    scores: Scores,
}

impl<N: Network> Passes<N> {
    pub(super) fn new(model: Arc<Model<N>>) -> Self {
        Self { model, line: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn model(&self) -> &Model<N> {
        &self.model
    }

    /// Counts a generation among those that passes wait for, as long as the result lives.
    pub(super) fn join(&self) -> Member<'_, N> {
        self.line().generations += 1;
        Member { passes: self }
    }

    fn line(&self) -> MutexGuard<'_, Line<N::Cache>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes part in a pass with others; the cache is lost where it fails.
    fn share(
        &self,
        tokens: &[u32],
        cache: N::Cache,
        wanted: Wanted,
    ) -> Result<Outcome<N::Cache>, BackendError> {
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        line.waiting.push(Job { number, tokens: tokens.to_vec(), cache, wanted });
        self.changed.notify_all();
        loop {
            if let Some(outcome) = line.done.remove(&number) {
                return outcome;
            }
            line = if line.running {
                self.changed.wait(line).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(line)
            };
        }
    }

    /// Runs the next pass for all that wait.
    fn lead<'a>(
        &'a self,
        mut line: MutexGuard<'a, Line<N::Cache>>,
    ) -> MutexGuard<'a, Line<N::Cache>> {
        line.running = true;
        let wait = (line.last / WAITED_PART).min(LONGEST_WAIT);
        let absent = |line: &mut Line<_>| line.waiting.len() < line.generations;
        let waited = self.changed.wait_timeout_while(line, wait, absent);
        line = waited.unwrap_or_else(PoisonError::into_inner).0;
        let jobs = line.take();
        line.fullest = line.fullest.max(jobs.len());
        drop(line);

        let started = Instant::now();
        // From inside of the pool, sharing a product out costs no waking.
        let outcomes = rayon::scope(|_| run(&self.model.network, jobs));
        line = self.line();
        line.last = started.elapsed();
        line.done.extend(outcomes);
        line.running = false;
        self.changed.notify_all();
        line
    }
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            done: HashMap::new(),
            running: false,
            generations: 0,
            next: 0,
            last: Duration::ZERO,
            fullest: 0,
        }
    }
}

impl<C> Line<C> {
    /// Takes what the next pass reads: all answers' next tokens and one step of a prompt.
    fn take(&mut self) -> Vec<Job<C>> {
        let mut prompts = 0;
        let takes_part = |job: &mut Job<C>| {
            prompts += usize::from(job.tokens.len() > 1);
            job.tokens.len() == 1 || prompts == 1
        };
        self.waiting.extract_if(.., takes_part).collect()
    }
}

fn run<N: Network>(network: &N, mut jobs: Vec<Job<N::Cache>>) -> Outcomes<N::Cache> {
    let pass = || {
        let parts = jobs.iter_mut().map(|Job { tokens, cache, wanted, .. }| Part {
            tokens: &*tokens,
            cache,
            wanted: *wanted,
        });
        network.forward(&mut parts.collect::<Vec<_>>())
    };
    // Whoever waits for a pass must hear of its end, even of one that a broken model causes.
    let scores = match catch_unwind(AssertUnwindSafe(pass)) {
        Ok(Ok(scores)) => scores,
        failed => {
            let error = failed
                .map_or(BackendError::Failed, |found| found.err().unwrap_or(BackendError::Failed));
            return jobs.into_iter().map(|job| (job.number, Err(error.clone()))).collect();
        }
    };
    let outcomes = jobs.into_iter().zip(scores);
    outcomes.map(|(job, scores)| (job.number, Ok(Outcome { cache: job.cache, scores }))).collect()
}

/// One generation among those that passes wait for.
pub(super) struct Member<'a, N: Network> {
    passes: &'a Passes<N>,
}

impl<N: Network> Member<'_, N> {
    /// Reads the next tokens of a conversation, which is lost where that fails.
    pub(super) fn read(
        &self,
        tokens: &[u32],
        cache: N::Cache,
        wanted: Wanted,
    ) -> Result<(N::Cache, Scores), BackendError> {
        let network = &self.passes.model.network;
        let outcome = if network.is_small() {
            let job = Job { number: 0, tokens: tokens.to_vec(), cache, wanted };
            run(network, vec![job]).pop().map_or(Err(BackendError::Failed), |(_, outcome)| outcome)
        } else {
            self.passes.share(tokens, cache, wanted)
        };
        outcome.map(|Outcome { cache, scores }| (cache, scores))
    }
}

impl<N: Network> Drop for Member<'_, N> {
    fn drop(&mut self) {
        self.passes.line().generations -= 1;
        self.passes.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::super::decoder::Decoder;
    use super::*;

    /// A model whose weights stay quantised, so that its passes are shared.
    fn quantised() -> Arc<Model> {
        let file = include_bytes!("../../../tests/families/qwen2.gguf");
        let model = Arc::new(Model::from_bytes(file).unwrap());
        assert!(!model.network.is_small());
        model
    }

    /// Writes the likeliest tokens after a prompt that is read in steps of 7.
    fn greedy(passes: &Passes<Decoder>, prompt: &[u32]) -> Vec<u32> {
        let member = passes.join();
        let mut cache = passes.model.network.begin(prompt.len(), 256).unwrap();
        let mut scores = Vec::new();
        for step in prompt.chunks(7) {
            (cache, scores) = member.read(step, cache, Wanted::Last).unwrap();
        }
        let mut written = Vec::new();
        for _ in 0..24 {
            let best = (0..).zip(&scores[0]).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            written.push(best);
            (cache, scores) = member.read(&[best], cache, Wanted::Last).unwrap();
        }
        written
    }

    #[test]
    fn conversations_in_one_pass_are_those_that_run_alone() {
        let passes = Passes::new(quantised());
        let prompts: Vec<Vec<u32>> = (1..5).map(|n| (n * 10..n * 20).collect()).collect();
        let alone: Vec<_> = prompts.iter().map(|prompt| greedy(&passes, prompt)).collect();
        assert_eq!(passes.line().fullest, 1);
        let (begin, passes) = (Barrier::new(prompts.len()), &passes);
        let together: Vec<_> = thread::scope(|scope| {
            let write = |prompt| {
                begin.wait();
                greedy(passes, prompt)
            };
            let threads: Vec<_> =
                prompts.iter().map(|prompt| scope.spawn(move || write(prompt))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(together, alone);
        let line = passes.line();
        assert!(line.fullest > 1, "no pass was shared");
        assert_eq!((line.generations, line.waiting.len(), line.done.len()), (0, 0, 0));
    }

    #[test]
    fn a_pass_takes_all_answers_and_one_prompt_in_turn() {
        let model = quantised();
        let job = |number, tokens| Job {
            number,
            tokens: vec![1; tokens],
            cache: model.network.begin(tokens, 256).unwrap(),
            wanted: Wanted::Last,
        };
        let waiting = vec![job(0, 32), job(1, 1), job(2, 32), job(3, 1), job(4, 5)];
        let mut line = Line { waiting, ..Line::default() };
        let mut numbers = || line.take().iter().map(|job| job.number).collect::<Vec<_>>();
        assert_eq!([numbers(), numbers(), numbers()], [vec![0, 1, 3], vec![2], vec![4]]);
    }

    #[test]
    fn a_failed_pass_ends_for_everybody_in_it_and_for_nobody_else() {
        let passes = Passes::new(quantised());
        let member = passes.join();
        let network = &passes.model.network;
        let beyond = u32::try_from(network.sizes().vocabulary).unwrap();
        let failed = member.read(&[beyond], network.begin(1, 256).unwrap(), Wanted::Last);
        assert_eq!(failed.err(), Some(BackendError::Failed));
        let (_, scores) = member.read(&[1], network.begin(1, 256).unwrap(), Wanted::Each).unwrap();
        assert_eq!(scores.len(), 1);
    }
}
