use iris_protocol::rest::{
    InvitationCreated, InvitationList, InvitationRequest, InvitationSummary, KeyId,
};

use crate::client::{Call, Client};
use crate::error::ClientError;

/// Operations on the invitations that one gave, from [`Client::invitations`].
#[derive(Clone, Copy, Debug)]
pub struct Invitations<'a> {
    client: &'a Client,
}

impl<'a> Invitations<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Makes an invitation, which is shown this once.
    pub async fn create(
        &self,
        request: &InvitationRequest,
    ) -> Result<InvitationCreated, ClientError> {
        Ok(self.client.call(Call::post("invitations", request)).await?.0)
    }

    /// Lists the invitations that are still good, the oldest first.
    pub async fn list(&self) -> Result<Vec<InvitationSummary>, ClientError> {
        Ok(self.client.call::<InvitationList>(Call::get("invitations")).await?.0.invitations)
    }

    /// Takes an invitation back. Accounts that it opened stay.
    pub async fn revoke(&self, invitation: KeyId) -> Result<(), ClientError> {
        self.client.bytes(Call::delete(format!("invitations/{invitation}"))).await.map(drop)
    }
}
