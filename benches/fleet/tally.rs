//! What is counted.

/// One run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Seconds that are counted.
    pub(crate) seconds: f64,
    /// From a task's submission to its end, in seconds.
    pub(crate) latencies: Vec<f64>,
    /// Tasks without an answer.
    pub(crate) failed: usize,
    /// Tokens of answers.
    pub(crate) tokens: f64,
    /// The same, of the owner of many nodes.
    pub(crate) one_owner: f64,
    /// The same, of tasks since the new nodes joined, and those written by the new nodes.
    pub(crate) since_join: f64,
    pub(crate) by_new: f64,
    /// Seconds from the new nodes' joining to the first task of one.
    pub(crate) first_work: Option<f64>,
    /// Slot-seconds in use, and of all slots.
    pub(crate) busy: f64,
    pub(crate) slots: f64,
}

/// The average of several runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    runs: Vec<Figures>,
}

/// What a run comes to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Seconds.
    pub(crate) median: f64,
    pub(crate) slow: f64,
    /// Percent of tasks.
    pub(crate) failed: f64,
    /// Percent of slot time.
    pub(crate) busy: f64,
    /// Tokens per second.
    pub(crate) throughput: f64,
    /// Percent of tokens.
    pub(crate) newcomers: f64,
    pub(crate) one_owner: f64,
    /// Seconds.
    pub(crate) first_work: f64,
}

impl Figures {
    const FIELDS: [fn(&mut Self) -> &mut f64; 8] = [
        |f| &mut f.median,
        |f| &mut f.slow,
        |f| &mut f.failed,
        |f| &mut f.busy,
        |f| &mut f.throughput,
        |f| &mut f.newcomers,
        |f| &mut f.one_owner,
        |f| &mut f.first_work,
    ];
}

impl Tally {
    #[expect(clippy::cast_precision_loss, reason = "tasks are counted in thousands")]
    pub(crate) fn add(&mut self, run: &Run) {
        let mut latencies = run.latencies.clone();
        latencies.sort_by(f64::total_cmp);
        let all = latencies.len() + run.failed;
        self.runs.push(Figures {
            median: percentile(&latencies, 50),
            slow: percentile(&latencies, 95),
            failed: 100.0 * run.failed as f64 / all.max(1) as f64,
            busy: 100.0 * run.busy / run.slots,
            throughput: run.tokens / run.seconds,
            newcomers: 100.0 * run.by_new / run.since_join,
            one_owner: 100.0 * run.one_owner / run.tokens,
            first_work: run.first_work.unwrap_or(f64::INFINITY),
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "there are few seeds")]
    pub(crate) fn figures(&self) -> Figures {
        let mut mean = Figures::default();
        for field in Figures::FIELDS {
            let sum: f64 = self.runs.iter().map(|run| *field(&mut run.clone())).sum();
            *field(&mut mean) = sum / self.runs.len() as f64;
        }
        mean
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let position = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(position).copied().unwrap_or(f64::NAN)
}
