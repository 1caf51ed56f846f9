//! What owners say of those who ask their nodes.

use std::fmt;
use std::str::FromStr;

use iris_core::id::{CallerTag, ReportId};
use iris_core::{AccountId, TaskId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A caller, by the tag that an owner's nodes were told or by its account's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerName {
    /// What the owner's nodes were told.
    Tag(CallerTag),
    /// The account's id, as its owner was told it.
    Account(AccountId),
}

/// Says that a text names no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a caller is named by its tag, 34 characters that begin with c, or its account's id")]
pub struct CallerNameError;

impl FromStr for CallerName {
    type Err = CallerNameError;

    fn from_str(text: &str) -> Result<Self, CallerNameError> {
        let tag = text.parse().map(Self::Tag).ok();
        tag.or_else(|| text.parse().map(Self::Account).ok()).ok_or(CallerNameError)
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Account(account) => account.fmt(f),
        }
    }
}

impl Serialize for CallerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CallerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What an owner says of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerRule {
    /// None of the owner's nodes answers it.
    Blocked,
    /// Nodes answer it that answer the invited alone.
    Invited,
}

impl CallerRule {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Invited => "invited",
        }
    }
}

/// Says something of a caller from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerRequest {
    /// Who is meant.
    pub caller: CallerName,
    /// What is said of it.
    pub rule: CallerRule,
}

/// What an owner has said of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerSummary {
    /// The tag that the owner's nodes are told this month.
    pub caller: CallerTag,
    /// What was said.
    pub rule: CallerRule,
    /// Since when it holds.
    pub since: u64,
}

/// What an owner has said of callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerList {
    /// One for each caller that was named.
    pub callers: Vec<CallerSummary>,
}

/// Tells the operator what a stranger asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// The caller; people without an account have no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerName>,
    /// The task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What is wrong: 1 to 1000 bytes.
    pub reason: String,
    /// What of the request the operator is to see: at most 16 KiB. Nothing unless it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A report that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCreated {
    /// Names it.
    pub id: ReportId,
}

/// A report, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSummary {
    /// Names it.
    pub id: ReportId,
    /// When it was made.
    pub at: u64,
    /// Whose nodes were asked.
    pub owner: AccountId,
    /// Whose account the owner means, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// The task, as the owner says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What is wrong.
    pub reason: String,
    /// What of the request the owner shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// When it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<u64>,
}

/// Reports that are open, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportPage {
    /// Reports.
    pub reports: Vec<ReportSummary>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ReportId>,
}
