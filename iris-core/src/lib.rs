//! The rules of an Iris network, without anything that touches the world.
//!
//! Nothing here knows a runtime, a socket, a file, a clock or a source of randomness: time and
//! seeds are arguments, so a test lives through a week in a millisecond and a failure replays.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub mod admission;
pub mod backend;
pub mod classify;
pub mod demand;
pub mod epoch;
pub mod explain;
pub mod hours;
pub mod id;
pub mod ledger;
pub mod memory;
pub mod model;
pub mod parallelism;
pub mod plan;
pub mod promise;
pub mod quantization;
pub mod queue;
pub mod registry;
pub mod reputation;
pub mod residency;
pub mod reward;
pub mod routing;
pub mod scheduler;
pub mod score;
pub mod standing;
pub mod store;
pub mod task;
pub mod terms;
pub mod tier;
pub mod time;
pub mod traffic;
pub mod verify;

pub use epoch::Epoch;
pub use hours::Hours;
pub use id::{AccountId, AssignmentId, NodeId, TaskId};
pub use model::ModelName;
pub use time::Timestamp;
