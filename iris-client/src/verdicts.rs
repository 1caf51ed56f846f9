use futures::stream::BoxStream;
use iris_core::id::VerdictId;
use iris_protocol::rest::{AppealRequest, VerdictPage, VerdictSummary};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::pages::{Page, entries};

/// What was found against the account's nodes, from [`Client::verdicts`].
#[derive(Clone, Copy, Debug)]
pub struct Verdicts<'a> {
    client: &'a Client,
}

impl<'a> Verdicts<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Lists the verdicts on the account's nodes as a stream that asks for the next part when it is
    /// needed.
    pub fn list(&self) -> BoxStream<'static, Result<VerdictSummary, ClientError>> {
        entries::<VerdictPage>(self.client, "verdicts")
    }

    /// Returns one verdict, with the prompts that it follows from.
    pub async fn get(&self, id: VerdictId) -> Result<VerdictSummary, ClientError> {
        Ok(self.client.call(Call::get(format!("verdicts/{id}"))).await?.0)
    }

    /// Objects to a verdict, once and within seven days; `reason` has 1 to 4096 bytes.
    pub async fn appeal(&self, id: VerdictId, reason: &str) -> Result<VerdictSummary, ClientError> {
        let request = AppealRequest { text: reason.to_owned() };
        Ok(self.client.call(Call::post(format!("verdicts/{id}/appeal"), &request)).await?.0)
    }
}

impl Page for VerdictPage {
    type Entry = VerdictSummary;

    fn split(self) -> (Vec<VerdictSummary>, Option<String>) {
        (self.verdicts, self.next.map(|next| next.to_string()))
    }
}
