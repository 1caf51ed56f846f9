//! The coordinator's own API, beside the OpenAI-compatible one.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /sealed` | a sealed request | the records of its answer, or an error; see [`SealedRefusal`] |
//! | `POST /inference` | [`InferenceRequest`] | [`InferenceStatus`] |
//! | `GET /inference` | | [`TaskList`] |
//! | `GET /inference/{id}` | | [`InferenceStatus`] |
//! | `DELETE /inference/{id}` | | [`InferenceStatus`], cancelled unless it had ended |
//! | `GET /inference/{id}/explain` | | [`Explanation`] |
//! | `GET /inference/{id}/events` | | server-sent events, each a [`Progress`](iris_core::plan::Progress) |
//! | `POST /inference/{id}/review` | [`Decision`](iris_core::plan::Decision) | [`InferenceStatus`] |
//! | `POST /accounts/generate` | [`AccountRequest`], or nothing | [`AccountCreated`] |
//! | `POST /accounts/verify` | [`VerifyRequest`] | [`Me`] |
//! | `POST /accounts/keys` | [`KeyRequest`] | [`KeyCreated`] |
//! | `GET /accounts/keys` | | [`KeyList`] |
//! | `POST /accounts/keys/{id}/rotate` | [`RotateRequest`], or nothing | [`KeyCreated`] |
//! | `DELETE /accounts/keys/{id}` | | nothing |
//! | `GET /accounts?limit=&after=` | | [`MemberPage`] |
//! | `POST /accounts/{account}/fees` | [`FeeRequest`] | [`Membership`] |
//! | `POST /auth/register` | [`RegisterRequest`] | [`Session`] |
//! | `POST /auth/login` | [`LoginRequest`] | [`Session`] |
//! | `POST /auth/refresh` | [`RefreshRequest`] | [`Session`] |
//! | `POST /auth/logout` | | nothing |
//! | `POST /auth/password` | [`PasswordRequest`] | [`Session`] |
//! | `GET /auth/me` | | [`Me`] |
//! | `POST /invitations` | [`InvitationRequest`], or nothing | [`InvitationCreated`] |
//! | `GET /invitations` | | [`InvitationList`] |
//! | `DELETE /invitations/{id}` | | nothing |
//! | `GET /stats` | | [`NetworkStats`] |
//! | `GET /reputation?limit=&after=` | | [`ReputationPage`] |
//! | `GET /history?limit=&after=` | | [`HistoryPage`] |
//! | `GET /receipts?limit=&after=` | | [`ReceiptPage`] |
//! | `GET /nodes?limit=&after=` | | [`NodeList`] |
//! | `GET /nodes/{id}/why` | | [`NodeWhy`] |
//! | `PUT /nodes/{id}/hold` | [`HoldRequest`] | [`NodeHold`] |
//! | `DELETE /nodes/{id}/hold` | | nothing |
//! | `GET /holds` | | [`HoldList`] |
//! | `GET /account/nodes?limit=&after=` | | [`OwnNodeList`] |
//! | `GET /payouts?limit=&after=` | | [`PayoutPage`] |
//! | `GET /months` | | [`MonthList`] |
//! | `GET /months/next` | | [`MonthPreview`] |
//! | `GET /months/{month}` | | [`Statement`] |
//! | `POST /months/{month}/close` | | [`MonthSummary`] |
//! | `GET /months/{month}/books` | | JSON lines; see [`audit`](iris_core::reward::audit) |
//! | `GET /months/{month}/payouts` | | [`PayoutPage`], of all owners |
//! | `POST /months/{month}/payouts/{account}` | [`PaidRequest`] | [`Payout`] |
//! | `GET /policies` | | [`Policies`] |
//! | `POST /pool` | [`TopUpRequest`] | [`BalanceList`] |
//! | `GET /balances` | | [`BalanceList`] |
//! | `GET /verdicts?limit=&after=` | | [`VerdictPage`] |
//! | `GET /verdicts/{id}` | | [`VerdictSummary`] |
//! | `GET /signs` | | [`SignList`] |
//! | `POST /verdicts/{id}/appeal` | [`AppealRequest`] | [`VerdictSummary`] |
//! | `POST /verdicts/{id}/decision` | [`DecisionRequest`] | [`VerdictSummary`] |
//! | `GET /roster` | | [`SignedRoster`] |
//! | `GET /log/checkpoint` | | the log's signed checkpoint, as text |
//! | `GET /log/inclusion?index=&size=` | | [`InclusionProof`] |
//! | `GET /log/consistency?from=&to=` | | [`ConsistencyProof`] |
//! | `GET /log/entries?start=&count=` | | [`LogEntries`] |
//! | `GET /callers` | | [`CallerList`] |
//! | `POST /callers` | [`CallerRequest`] | [`CallerSummary`] |
//! | `DELETE /callers/{id}` | | nothing; the id is a tag or an account's |
//! | `POST /reports` | [`ReportRequest`] | [`ReportCreated`] |
//! | `GET /reports?limit=&after=` | | [`ReportPage`] |
//! | `POST /reports/{id}/close` | | [`ReportSummary`] |
//! | `GET /model-files` | | [`ModelFileList`] |
//! | `GET /model-files/{name}` | | the file, or the `Range` of it that is asked for |
//! | `GET /healthz` | | [`Health`] |
//!
//! Errors are those of [`openai::ErrorBody`](crate::openai::ErrorBody). Times are whole seconds
//! since the Unix epoch.

mod account;
mod caller;
mod inference;
mod model_file;
mod money;
mod network;
mod node;
mod operator;
mod roster;
mod sealed;
mod secret;
mod session;
mod verdict;

pub use account::{
    AccountCreated, AccountRequest, KeyCreated, KeyId, KeyIdError, KeyList, KeyRequest, KeyScope,
    KeySummary, KeyTerms, Quota, QuotaUse, RotateRequest, VerifyRequest,
};
pub use caller::{
    CallerList, CallerName, CallerNameError, CallerRequest, CallerRule, CallerSummary,
    ReportCreated, ReportPage, ReportRequest, ReportSummary,
};
pub use inference::{
    InferenceError, InferenceRequest, InferenceResult, InferenceStatus, Input, InputError, Review,
    TaskList, TaskSummary,
};
pub use model_file::{FileName, FileNameError, ModelFile, ModelFileList};
pub use money::{
    BalanceList, MonthList, MonthSummary, PaidRequest, Payout, PayoutPage, RunningMonth, Statement,
    TopUpRequest,
};
pub use network::{
    Hindrance, HistoryEntry, HistoryPage, NetworkStats, NodePromise, NodeWhy, OwnNode, OwnNodeList,
    ReasonCount, ReputationEntry, ReputationPage, WantedModel,
};
pub use node::{
    Choice, Explanation, Health, NodeList, NodeReason, NodeSummary, Outline, SkipCount,
    StepExplanation,
};
pub use operator::{
    HoldKind, HoldList, HoldRequest, MemberPage, MemberSummary, MonthPreview, NodeHold, Policies,
    PreviewShare,
};
pub use roster::{
    ConsistencyProof, FreeSlots, InclusionProof, LogEntries, Roster, RosterNode, SignedRoster,
};
pub use sealed::{KeptReceipt, ReceiptPage, SealedRefusal};
pub use secret::Secret;
pub use session::{
    FeeRequest, InvitationCreated, InvitationList, InvitationRequest, InvitationSummary,
    LoginRequest, Me, Membership, MembershipState, PasswordRequest, RefreshRequest,
    RegisterRequest, Session,
};
pub use verdict::{
    AppealRequest, DecisionRequest, OddSign, SignList, SignSummary, VerdictPage, VerdictState,
    VerdictSummary,
};

pub use iris_core::task::TaskState;

/// Header that names a request; on every answer, errors too.
pub const REQUEST_ID: &str = "x-request-id";
/// Header that names the node that answered.
pub const NODE: &str = "x-iris-node";
/// Header that names the task that a request became.
pub const TASK: &str = "x-iris-task";
/// Header that says who could read the request: `open` where the coordinator could.
pub const PRIVACY: &str = "x-iris-privacy";
/// Header that says how hard a request that names no model was found: `SIMPLE`, `COMPLEX` or
/// `ADVANCED`.
pub const DIFFICULTY: &str = "x-iris-difficulty";
/// Header that says, with `true`, that a node of a lower tier than the difficulty asks for serves,
/// since no other is there.
pub const TIER_LOWERED: &str = "x-iris-tier-lowered";
/// Header by which a repeated `POST /inference` stays one task.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
