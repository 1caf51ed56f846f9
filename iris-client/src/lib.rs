//! A client of an Iris network.
//!
//! An Iris network answers prompts with models that run on machines of its members. This crate
//! asks it from Rust; the `iris` command (feature `cli`, on by default) asks it from a terminal.
//! Any other OpenAI-compatible program can do so too, at the coordinator's `/v1`.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let client = iris_client::Client::builder("https://iris.example")
//!     .with_api_key("iris_...")
//!     .build()?;
//! println!("{}", client.ask("some-model", "Why is the sky blue?").await?);
//! # Ok(())
//! # }
//! ```
//!
//! Streaming, and why an answer can be half there, is told by [`ChatStream`]; tasks that survive a
//! crash of the coordinator by [`Tasks`]; what can go wrong by [`ClientError`].
//!
//! # Who can read what is asked
//!
//! Chats are sealed to the node that answers, unless another [`Policy`] is asked for by name: the
//! coordinator passes on bytes that it cannot open, and the node does not learn who asks. Every
//! answer carries a [`Privacy`] label, computed here from what was verified and never from what a
//! server says. Nothing falls back: a coordinator that does not seal, or whose word does not hold,
//! is an error ([`ClientError::is_about_privacy`]), and nothing was sent in the clear.
//!
//! Before a request is sealed, the client has checked that
//!
//! - the coordinator is the one that was met first, or that was demanded
//!   ([`ClientBuilder::with_coordinator`]), and that its public log only grew since then;
//! - its roster of nodes is fresh and in that log, as everybody is shown it;
//! - the node's own certificate holds for its id and is not older than the last that was seen.
//!
//! The client chooses the node, so that nobody can lead it to one of theirs: one of its owner's
//! [own nodes](ClientBuilder::with_own_node) where there is one, else one of three guards that stay
//! the same for a month. What it has to remember for all this lies in a
//! [trust file](ClientBuilder::with_trust_file), or in memory; see [`trust`].
//!
//! A busy node is waited for up to ten seconds, and one that is lost before it said anything is
//! replaced by another guard, once; each sealing is a task of its own. An answer is whole when its
//! sealed end has come, and anything else is [`ClientError::Truncated`]. A little later comes the
//! node's signed [receipt](PendingReceipt).
//!
//! # Whether a node runs what it says
//!
//! Whoever has a node of one's own can have others' answers [checked](Recheck) on it: token by
//! token, by a model that is one's own.
//!
//! # Dividing work
//!
//! A [plan] divides work over several requests: independent parts side by side, the same question
//! to nodes of different owners, a document that is longer than any model reads at once, or a
//! pipeline of one's own. [`Client::plan`] carries one out **here**: each step is a request of its
//! own under the client's [`Policy`], so the coordinator sees separate sealed requests. It can read
//! none of them; from their times it may guess which belong together. Every step goes to one's own
//! nodes and guards alone, or for a data set to the nodes that it names, unless
//! [`PlanCall::with_spread`] says otherwise, and answers that are to be compared go to nodes of
//! different owners.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! # let client = iris_client::Client::builder("https://iris.example").build()?;
//! use iris_core::plan::{Chat, Division, ModeChoice};
//!
//! let question = Chat::new("some-model".parse()?, "What is 12 plus 10?");
//! let division = Division { mode: ModeChoice::Consensus, ..Division::default() };
//! let plan = client.divide(question, &division).await?;
//! let answer = client.plan(plan).run().await?;
//! println!("{}", answer.text);
//! for unit in &answer.units {
//!     println!("{}: {} tokens", unit.unit, unit.usage.total());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`PlanCall::stream`] tells of the progress; what a budget cut short, and every other end but the
//! answer, is [`ClientError::Plan`] with what is there. In the [open](Policy::Open) the coordinator
//! can carry a plan out by itself, as a [task](Tasks) that survives this program.
//!
//! # Retries
//!
//! Requests that may be repeated safely (lists, states and submissions of tasks, which carry an
//! idempotency key) are sent up to three times when the coordinator cannot be reached or answers
//! 408, 429 or 5xx without advising against it. Between them the client waits as long as the coordinator's `Retry-After` says,
//! else a fraction of a second, and never beyond its timeout. Open chats, streams and new accounts
//! and keys are sent once: the coordinator itself tries other nodes before it refuses.
#![forbid(unsafe_code)]

mod accounts;
mod answer;
mod builder;
mod chat;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
mod error;
mod following;
mod head;
mod invitations;
mod keys;
mod log;
mod network;
mod pages;
mod payouts;
pub mod plan;
mod policy;
mod private_file;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
#[cfg(feature = "proxy")]
pub mod proxy;
mod recheck;
mod retry;
mod sealed;
mod session;
#[cfg(feature = "cli")]
mod settings;
mod sse;
mod stream;
mod tasks;
pub mod trust;
mod verdicts;

pub use accounts::Accounts;
pub use answer::Answer;
pub use builder::{BuildError, ClientBuilder};
pub use chat::Ask;
pub use client::Client;
pub use error::{ClientError, Cut, Partial, Refusal};
pub use following::TaskEvents;
pub use head::Head;
pub use invitations::Invitations;
pub use keys::Keys;
pub use log::Log;
pub use network::Network;
pub use payouts::Payouts;
pub use plan::{PlanAnswer, PlanCall, PlanFailure, PlanStream};
pub use policy::{Policy, Privacy};
pub use recheck::{Recheck, RecheckError, Rechecked};
pub use sealed::{NoReceipt, PendingReceipt};
pub use session::Sessions;
pub use sse::{EventTooLong, SseParser};
pub use stream::ChatStream;
pub use tasks::Tasks;
pub use verdicts::Verdicts;

pub use iris_crypto::seal::{AnswerError, Shape, SignedReceipt};
pub use iris_protocol::{openai, rest};
