//! The coordinator: matches requests with nodes and keeps the books.
//!
//! [`Coordinator`] is the role without any network; it takes requests as values and node links as
//! frame transports. The `http` feature puts a server in front of it.
#![forbid(unsafe_code)]

mod accounts;
mod admittance;
pub mod classify;
mod clock;
mod coordinator;
mod deeds;
mod dispatch;
mod entropy;
mod history;
mod holds;
#[cfg(feature = "http")]
pub mod http;
mod inference;
pub mod journal;
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "requests are let in over HTTP alone"))]
mod limits;
mod link;
#[cfg_attr(
    not(feature = "http"),
    allow(dead_code, reason = "the network is watched over HTTP alone")
)]
mod live;
#[cfg(feature = "http")]
mod model_folder;
#[cfg(feature = "pages")]
mod pages;
pub mod payouts;
mod promises;
mod ranking;
mod reports;
mod settlement;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod store;
mod transparency;
mod turns;
mod verify;

pub use accounts::{
    AccountError, AccountPolicy, Accounts, ApiKey, Giver, MembershipPolicy, NewKey, Registration,
};
pub use admittance::{Admittance, AdmittanceError};
pub use clock::{Clock, SystemClock};
pub use coordinator::{Builder, Coordinator};
pub use dispatch::{
    Apart, Conversation, ModelSummary, Payer, Placement, Routing, SealedTask, Stats, TaskEvent,
    TaskHandle, TaskRequest,
};
pub use history::{Histories, HistoryCursor, HistoryCursorError};
pub use holds::HoldError;
pub use inference::{
    Chosen, Events, Evidence, Followed, Inference, InferenceError, Once, PlanHandle,
};
pub use limits::{Allowance, Bound, Exceeded, Left, Period};
pub use link::LinkError;
pub use ranking::{Rank, RankError};
pub use reports::{NewReport, Report, ReportError, Reports};
pub use settlement::Settlement;
pub use transparency::{StartError, Transparency, TransparencyError};
pub use verify::{CaseRecord, Cases, Sign, VerdictError};
