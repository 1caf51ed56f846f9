//! A whole network in one thread, in virtual time, from a seed.

mod caller;
mod clock;
mod counting;
mod dice;
mod disk;
mod host;
mod node;
mod trace;
mod world;

pub use caller::{CallError, Caller, Chat, Reply, ReplyEnd};
pub use counting::Counting;
pub use dice::Dice;
pub use disk::Disk;
pub use node::{Mischief, NodePlan, ScriptedNode};
pub use trace::Trace;
pub use world::{Builder, Simulation};

/// The name of the coordinator's host.
pub const COORDINATOR: &str = "coordinator";
/// The port that the coordinator listens on.
pub const PORT: u16 = 80;
