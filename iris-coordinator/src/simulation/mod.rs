//! A whole network in one thread, in virtual time, from a seed.
//!
//! For our own tests, and for whoever wants to try a [`Scheduler`], a [`Store`] or a [`Backend`] of
//! their own in bad weather. An hour of a network takes a minute; the same seed lives the same run.
//!
//! What is real: the coordinator with all its parts, its HTTP server, the protocol between it and
//! its nodes with WebSocket, sealing and resumption, the HTTP and the server-sent events of
//! callers. What is simulated: the network ([turmoil]), the [`Disk`], the time, and the nodes and
//! callers themselves, which do what they are told: [`NodePlan`] says how a node serves a backend
//! and in which ways it misbehaves, [`Caller`] asks and reads.
//!
//! ```
//! use std::time::Duration;
//!
//! use iris_coordinator::simulation::{COORDINATOR, Chat, Counting, NodePlan, Simulation};
//! use iris_core::scheduler::Balanced;
//!
//! let mut net = Simulation::builder(7)
//!     // A scheduler, a ledger, limits of one's own.
//!     .with_coordinator(|coordinator| coordinator.with_scheduler(std::sync::Arc::new(Balanced)))
//!     .build();
//! let model: iris_core::ModelName = "m".parse()?;
//! net.node("node", NodePlan::new(Counting::new(model.clone(), 1)).with_slots(2));
//! net.run_for(Duration::from_secs(1));
//! net.caller("alice", |alice| async move {
//!     let chat = Chat::new(model, Counting::question("word", 3));
//!     assert_eq!(alice.chat(chat).await.text, "word.1 word.2 word.3 ");
//! });
//! assert!(net.run_callers(Duration::from_secs(10)));
//!
//! net.crash(COORDINATOR);
//! net.restart(COORDINATOR);
//! net.run_for(Duration::from_secs(40));
//! net.check_rest();
//! assert!(net.trace().failures().is_empty(), "{:#?}", net.trace().lines());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Simulation`] has the knobs: delay, loss, partition, crash, restart, clock skew;
//! [`Disk`] those of a slow, a full and a mute disk; [`Chat`] the slow reader and the one who
//! leaves. [`Scenario`] turns all of them at random and checks what must hold whatever happens:
//!
//! ```
//! use iris_coordinator::simulation::Scenario;
//!
//! let outcome = Scenario::from_seed(1).run();
//! assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
//! ```
//!
//! # What makes a run repeat
//!
//! Every chance is drawn from the seed, and every host runs in one thread. What a run must not
//! depend on: the order of a `HashMap`, a `select!` without `biased`, the machine's clock, threads
//! of one's own. Keys of sessions and credentials stay random, since nothing follows from them.
//!
//! # What it cannot show
//!
//! A connection that loses a message never recovers, since the network does not send again; it is
//! a connection that went silent. Messages travel for ten milliseconds at least, and the disk keeps
//! single batches whole. Neither CPU nor memory are simulated.
//!
//! [`Scheduler`]: iris_core::scheduler::Scheduler
//! [`Store`]: iris_core::store::Store
//! [`Backend`]: iris_core::backend::Backend

mod caller;
mod clock;
mod counting;
mod dice;
mod disk;
mod host;
mod node;
mod panics;
mod scenario;
mod trace;
mod world;

pub use caller::{CallError, Caller, Chat, Reply, ReplyEnd};
pub use clock::calendar;
pub use counting::Counting;
pub use dice::Dice;
pub use disk::Disk;
pub use node::{Mischief, NodePlan, ScriptedNode};
pub use scenario::{Counts, Outcome, Scenario};
pub use trace::Trace;
pub use turmoil;
pub use world::{Builder, Simulation};

/// The name of the coordinator's host.
pub const COORDINATOR: &str = "coordinator";
/// The port that the coordinator listens on.
pub const PORT: u16 = 80;
