use std::time::Duration;

/// How long a task waits for its nodes, and how often it tries another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long a node may take to accept or refuse a short prompt. Default: 5 s.
    pub accept_within: Duration,
    /// How much longer it may take for each token of the prompt. Default: 32 µs, in which a link
    /// of 1 Mbit/s carries a token's four bytes.
    pub accept_per_token: Duration,
    /// How long a node may go without a chunk or a progress mark. Default: 15 s, which is three
    /// of the marks that nodes send every five seconds.
    pub progress_within: Duration,
    /// How long any prompt may take until the first chunk of a streamed answer. Default: 60 s.
    pub first_chunk_base: Duration,
    /// How much longer each token of the prompt may take. Default: 20 ms, the speed of a large
    /// model on a processor without a GPU.
    pub first_chunk_per_token: Duration,
    /// How many nodes are asked in all, those that refuse included. Default: 8.
    pub max_offers: u32,
    /// How many nodes may fail after they accepted. Default: 2, the first and one alternate.
    pub max_accepted: u32,
    /// When a second node is asked beside one that is slow to begin. Default: never.
    pub hedge: Option<Hedge>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            accept_within: Duration::from_secs(5),
            accept_per_token: Duration::from_micros(32),
            progress_within: Duration::from_secs(15),
            first_chunk_base: Duration::from_mins(1),
            first_chunk_per_token: Duration::from_millis(20),
            max_offers: 8,
            max_accepted: 2,
            hedge: None,
        }
    }
}

/// When a second node is asked beside the first, so that whichever begins sooner gives the answer.
///
/// A node that is slow now and then makes few requests slow, and those very much (Dean and Barroso,
/// "The Tail at Scale", 2013). A second node costs its time twice, so it is asked only where one is
/// free that nobody waits for, once for each task, and as long as the caller has nothing of the
/// answer. The task is settled once; the slower node neither earns nor loses anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// How long the first node may take to begin its answer to a short prompt.
    pub after: Duration,
    /// How much longer it may take for each token of the prompt.
    pub after_per_token: Duration,
}

impl Hedge {
    /// Asks a second node `after` so long, and 2 ms later for each token of the prompt: a tenth of
    /// what a large model takes to read one on a processor without a GPU.
    pub const fn after(after: Duration) -> Self {
        Self { after, after_per_token: Duration::from_millis(2) }
    }
}
