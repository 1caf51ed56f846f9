/// A way in which a node misbehaves over one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Turns the task down.
    Refuses,
    /// Neither takes the task on nor turns it down.
    Ignores,
    /// Takes the task on, begins to answer and falls silent.
    Stalls,
    /// Sends every part of the answer twice.
    Repeats,
    /// Answers twice: ends the task, and ends it again.
    EndsTwice,
    /// Lies about how many parts the answer has.
    Miscounts,
    /// Sends parts that do not open under the keys of the hop.
    Garbles,
    /// Sends a whole answer where parts were asked for, and parts where a whole one was.
    Confuses,
    /// Answers a task that it was never given.
    Invents,
    /// Sends more messages than anybody may.
    Floods,
    /// Breaks the connection in the midst of the answer and resumes it.
    Vanishes,
    /// Breaks the connection in the midst of the answer and comes back without memory.
    Forgets,
    /// Holds the connection open and is silent, longer than a node may.
    Freezes,
    /// Sends what is no answer at all: JSON that is none.
    Babbles,
}

impl Mischief {
    /// All ways.
    pub const ALL: [Self; 14] = [
        Self::Refuses,
        Self::Ignores,
        Self::Stalls,
        Self::Repeats,
        Self::EndsTwice,
        Self::Miscounts,
        Self::Garbles,
        Self::Confuses,
        Self::Invents,
        Self::Floods,
        Self::Vanishes,
        Self::Forgets,
        Self::Freezes,
        Self::Babbles,
    ];
}
