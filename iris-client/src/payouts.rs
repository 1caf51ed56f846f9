use futures::stream::BoxStream;
use iris_core::Epoch;
use iris_protocol::rest::{MonthList, MonthSummary, Payout, PayoutPage, Statement};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::pages::{Page, entries};

/// What one's account was paid for the work of its nodes, from [`Client::payouts`].
#[derive(Clone, Copy, Debug)]
pub struct Payouts<'a> {
    client: &'a Client,
}

impl<'a> Payouts<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Lists the account's shares of closed months, the latest first, as a stream that asks for
    /// the next part when it is needed.
    pub fn list(&self) -> BoxStream<'static, Result<Payout, ClientError>> {
        entries::<PayoutPage>(self.client, "payouts")
    }

    /// Returns the account's statement of a closed month: its share, and why it is that much.
    pub async fn statement(&self, month: Epoch) -> Result<Statement, ClientError> {
        Ok(self.client.call(Call::get(format!("months/{month}"))).await?.0)
    }

    /// Lists the closed months, the latest first.
    pub async fn months(&self) -> Result<Vec<MonthSummary>, ClientError> {
        Ok(self.client.call::<MonthList>(Call::get("months")).await?.0.months)
    }
}

impl Page for PayoutPage {
    type Entry = Payout;

    fn split(self) -> (Vec<Payout>, Option<String>) {
        (self.payouts, self.next.map(|next| next.to_string()))
    }
}
