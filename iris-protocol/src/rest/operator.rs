//! What operators see and decide.

use iris_core::ledger::Money;
use iris_core::{AccountId, Epoch, NodeId};
use serde::{Deserialize, Serialize};

use super::Membership;

/// A part of the accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPage {
    /// Accounts, in the order of their ids.
    pub accounts: Vec<MemberSummary>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AccountId>,
}

/// What an operator sees of an account: nothing that its owner is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSummary {
    /// The account.
    pub account: AccountId,
    /// When it was opened.
    pub created: u64,
    /// Who invited it, where an account did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invited_by: Option<AccountId>,
    /// How it stands with the fee.
    pub membership: Membership,
    /// How many API keys it has.
    pub keys: u64,
}

/// What an operator does about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// It finishes what it has and gets nothing new.
    Drain,
    /// It is sent away and not let in.
    Block,
}

/// Holds a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequest {
    /// In which way.
    pub hold: HoldKind,
    /// Why, for the node's owner to read; at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The nodes that are held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldList {
    /// The nodes, in the order of their ids.
    pub holds: Vec<NodeHold>,
}

/// A node that an operator holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHold {
    /// The node.
    pub node: NodeId,
    /// In which way.
    pub hold: HoldKind,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub since: u64,
}

/// The rules that a coordinator runs by now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Whether anybody may open an account.
    pub open_registration: bool,
    /// Whether a message a day is answered without one.
    pub public_chat: bool,
    /// How many open invitations a member may have.
    pub member_invitations: u32,
    /// The monthly fee, in millionths of the network's unit; 0 for none.
    pub membership_fee: u64,
    /// For how many days a new account may try the network.
    pub trial_days: u64,
    /// For how many days all works after a paid time has ended.
    pub grace_days: u64,
    /// Hundredths of each fee that the operator keeps.
    pub operator_percent: u8,
    /// The rules by which pools are shared.
    pub pay_by: String,
    /// How many days after its end a month is closed.
    pub close_after_days: u64,
    /// For how many days after its month a share can be forfeited.
    pub hold_days: u64,
    /// The accounts whose nodes count as trusted.
    pub trusted_owners: Vec<AccountId>,
    /// Whether some open chats go to a second owner's node, too.
    pub compare_answers: bool,
    /// The most that one owner may have of a model's work while others could do it, in hundredths.
    pub owner_share_percent: u8,
    /// Requests of one account in a minute; 0 for any number.
    pub rate_per_minute: u32,
    /// Tasks that may wait for a node.
    pub queue_capacity: u64,
    /// How many seconds an interactive task waits at most.
    pub max_wait_secs: u64,
    /// How many times a usual task's time a wait may be.
    pub patience: u32,
    /// After how many milliseconds a second node is asked; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge_after_ms: Option<u64>,
    /// For how many seconds results of durable tasks are kept.
    pub retention_secs: u64,
}

/// How the first month that is not closed would be shared if it were closed now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthPreview {
    /// The month.
    pub epoch: Epoch,
    /// The rules it would be shared by.
    pub policy: String,
    /// What there is to share.
    pub pool: Money,
    /// What would go to the next month, because nobody has any weight.
    pub carried: Money,
    /// From when on it can be closed.
    pub due: u64,
    /// Whether it can be closed now.
    pub is_due: bool,
    /// What each owner would get, in the order of their ids.
    pub shares: Vec<PreviewShare>,
}

/// A share that an owner would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewShare {
    /// The owner.
    pub account: AccountId,
    /// How much it would be, in millionths of the network's unit.
    pub amount: Money,
    /// By which weight.
    pub weight: u64,
}
