use futures::stream::BoxStream;
use iris_core::NodeId;
use iris_protocol::rest::{
    HistoryEntry, HistoryPage, NetworkStats, NodeList, NodeSummary, NodeWhy, ReputationEntry,
    ReputationPage,
};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::pages::{Page, entries};

/// What can be known of the network, from [`Client::network`].
///
/// Lists come as streams, which ask for the next part when it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    client: &'a Client,
}

impl<'a> Network<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Returns the network at a glance.
    pub async fn stats(&self) -> Result<NetworkStats, ClientError> {
        Ok(self.client.call(Call::get("stats")).await?.0)
    }

    /// Lists the connected nodes, ordered by id.
    pub fn nodes(&self) -> BoxStream<'static, Result<NodeSummary, ClientError>> {
        entries::<NodeList>(self.client, "nodes")
    }

    /// Returns why a node has the work that it has, and what would bring it more.
    pub async fn why(&self, node: NodeId) -> Result<NodeWhy, ClientError> {
        Ok(self.client.call(Call::get(format!("nodes/{node}/why"))).await?.0)
    }

    /// Lists the nodes, those with the most points first.
    pub fn reputation(&self) -> BoxStream<'static, Result<ReputationEntry, ClientError>> {
        entries::<ReputationPage>(self.client, "reputation")
    }

    /// Lists the tasks of one's account that are over, the latest first.
    pub fn history(&self) -> BoxStream<'static, Result<HistoryEntry, ClientError>> {
        entries::<HistoryPage>(self.client, "history")
    }
}

impl Page for NodeList {
    type Entry = NodeSummary;

    fn split(self) -> (Vec<NodeSummary>, Option<String>) {
        (self.nodes, self.next.map(|next| next.to_string()))
    }
}

impl Page for ReputationPage {
    type Entry = ReputationEntry;

    fn split(self) -> (Vec<ReputationEntry>, Option<String>) {
        (self.nodes, self.next)
    }
}

impl Page for HistoryPage {
    type Entry = HistoryEntry;

    fn split(self) -> (Vec<HistoryEntry>, Option<String>) {
        (self.tasks, self.next)
    }
}
