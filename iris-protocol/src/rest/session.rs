use iris_core::AccountId;
use serde::{Deserialize, Serialize};

use super::Secret;

/// Opens an account that is known by an e-mail address, or gives an account such a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The e-mail address. Upper and lower case are the same; nothing is sent to it.
    pub email: String,
    /// The password: 8 characters to 1,024 bytes.
    pub password: Secret,
    /// An invitation, where the network takes nobody without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<Secret>,
    /// The 16 digits of an account that exists and gets the name; needs no invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key: Option<Secret>,
}

/// Begins a session: with e-mail address and password, or with an account's digits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoginRequest {
    /// The e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The password that belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The account's 16 digits, in place of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key: Option<Secret>,
}

/// A session: what `POST /auth/register`, `/auth/login` and `/auth/refresh` answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Whose session it is.
    pub account: AccountId,
    /// A JWT, to be sent as `Authorization: Bearer`. It asks models and keeps the account.
    pub access_token: Secret,
    /// Always `bearer`.
    pub token_type: String,
    /// Seconds until the access token ends.
    pub expires_in: u64,
    /// Exchanged once for the next session; a second use ends all that came of it.
    pub refresh_token: Secret,
}

/// Goes on with a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefreshRequest {
    /// The refresh token of the last answer.
    pub refresh_token: Secret,
}

/// Changes a password; all sessions of the account end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PasswordRequest {
    /// The password so far.
    pub current: Secret,
    /// The new one: 8 characters to 1,024 bytes.
    pub new: Secret,
}

/// What an account's owner learns of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// Names the account; not secret.
    pub account: AccountId,
    /// Its e-mail address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// When it was opened.
    pub created: u64,
    /// How it stands with the fee.
    pub membership: Membership,
    /// How many API keys it has.
    pub keys: u64,
}

/// How an account stands with the monthly fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What holds now.
    pub state: MembershipState,
    /// Until when it holds, in seconds since the Unix epoch; absent where it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What an account may do that follows from the fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipState {
    /// The network takes no fee.
    Free,
    /// The trial that comes with a new account.
    Trial,
    /// The fee is paid.
    Paid,
    /// The fee is due; all works for a few more days.
    Grace,
    /// The fee was not paid: only the account's own nodes answer it.
    Lapsed,
}

/// Writes down that an account's fee was paid; for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeeRequest {
    /// How many months were paid, 1 to 120.
    pub months: u32,
    /// What names the payment elsewhere, such as an invoice's number. The same reference counts
    /// once.
    pub reference: String,
}

/// Makes an invitation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationRequest {
    /// How many accounts it opens. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// For how many seconds it is good. Default: seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_secs: Option<u64>,
    /// For whom it is, in one's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A new invitation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvitationCreated {
    /// The invitation, `iris_invite_...`. Shown this once; the coordinator keeps a hash.
    pub invitation: Secret,
    /// What can be told of it from now on.
    #[serde(flatten)]
    pub summary: InvitationSummary,
}

/// What can be told of an invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationSummary {
    /// Names the invitation, for lists and for taking it back; not secret.
    pub id: super::KeyId,
    /// For whom it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was made.
    pub created: u64,
    /// When it ends.
    pub expires: u64,
    /// How many accounts it may still open.
    pub uses_left: u32,
}

/// The invitations that an account gave and that are still good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationList {
    /// The invitations, the oldest first.
    pub invitations: Vec<InvitationSummary>,
}
