//! Who takes part.
//!
//! Liars do twice the work of an ordinary node, since what they run is cheaper. How much a model
//! differs from another is from llama.cpp's published table for an 8B model: 4 bits differ in 8.1 %
//! of the tokens from 16 bits, 2 bits in 28.9 %; another model is taken to differ in 40 %, and text
//! that has nothing to do with the question in 95 %.

/// How a machine's owner behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Honest, with so much work a day.
    Slow,
    Ordinary,
    Fast,
    /// There all day, and never works.
    Idle,
    /// Runs four bits and says sixteen.
    FourBits,
    TwoBits,
    AnotherModel,
    Canned,
    /// Runs two bits in one task of ten.
    Partly,
    /// Runs two bits, and tells half of the canaries from other requests.
    Spotter,
    /// Honest for sixty days, then runs four bits.
    Turncoat,
    /// Honest, but most of its work is asked by its own owner and a friend's.
    Pair,
    /// Runs two bits, and comes back as somebody else after each verdict.
    Whitewasher,
    /// An ordinary honest machine as three nodes of three accounts.
    Splitter,
}

/// What is the same for all machines of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) name: &'static str,
    /// How many machines of a thousand nodes.
    pub(crate) machines: u32,
    pub(crate) identities: u32,
    /// Tasks of others in a day, for each identity.
    pub(crate) tasks: u32,
    /// Of a million tokens, how many differ from the model it says it runs; none for an honest
    /// one, which has a rate of its own.
    pub(crate) lie: Option<u32>,
    /// Of a million tasks, how many it lies in.
    pub(crate) lies: u32,
    /// The day on which it begins to lie.
    pub(crate) turns: u64,
    /// Of a million canaries, how many it takes for canaries.
    pub(crate) spots: u32,
}

const HONEST: Traits = Traits {
    name: "",
    machines: 0,
    identities: 1,
    tasks: 6,
    lie: None,
    lies: 0,
    turns: 0,
    spots: 0,
};

const fn liar(name: &'static str, machines: u32, lie: u32) -> Traits {
    Traits { name, machines, tasks: 12, lie: Some(lie), lies: 1_000_000, ..HONEST }
}

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
        Self::Slow,
        Self::Ordinary,
        Self::Fast,
        Self::Splitter,
        Self::Idle,
        Self::Pair,
        Self::FourBits,
        Self::TwoBits,
        Self::AnotherModel,
        Self::Canned,
        Self::Partly,
        Self::Spotter,
        Self::Turncoat,
        Self::Whitewasher,
    ];

    pub(crate) const fn traits(self) -> Traits {
        match self {
            Self::Slow => Traits { name: "slow", machines: 250, tasks: 2, ..HONEST },
            Self::Ordinary => Traits { name: "ordinary", machines: 250, ..HONEST },
            Self::Fast => Traits { name: "fast", machines: 140, tasks: 18, ..HONEST },
            Self::Splitter => {
                Traits { name: "split in three", machines: 10, identities: 3, tasks: 2, ..HONEST }
            }
            Self::Idle => Traits { name: "idle", machines: 100, tasks: 0, ..HONEST },
            Self::Pair => Traits { name: "pairs", machines: 30, ..HONEST },
            Self::FourBits => liar("four bits", 40, 81_000),
            Self::TwoBits => liar("two bits", 30, 289_000),
            Self::AnotherModel => liar("another model", 30, 400_000),
            Self::Canned => liar("canned text", 20, 950_000),
            Self::Partly => Traits { lies: 100_000, ..liar("in one of ten", 30, 289_000) },
            Self::Spotter => Traits { spots: 500_000, ..liar("spots half", 10, 289_000) },
            Self::Turncoat => Traits { turns: 60, ..liar("turns on day 60", 20, 81_000) },
            Self::Whitewasher => liar("whitewasher", 20, 289_000),
        }
    }

    pub(crate) const fn is_liar(self) -> bool {
        self.traits().lie.is_some()
    }
}
