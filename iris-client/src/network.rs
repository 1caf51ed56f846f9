use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use iris_core::NodeId;
use iris_protocol::rest::{
    HistoryEntry, HistoryPage, NetworkStats, NodeList, NodeSummary, NodeWhy, ReputationEntry,
    ReputationPage,
};
use serde::de::DeserializeOwned;

use crate::client::{Call, Client};
use crate::error::ClientError;

/// How many entries are asked for at a time.
const PAGE: &str = "200";

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
        self.entries::<NodeList>("nodes")
    }

    /// Returns why a node has the work that it has, and what would bring it more.
    pub async fn why(&self, node: NodeId) -> Result<NodeWhy, ClientError> {
        Ok(self.client.call(Call::get(format!("nodes/{node}/why"))).await?.0)
    }

    /// Lists the nodes, those with the most points first.
    pub fn reputation(&self) -> BoxStream<'static, Result<ReputationEntry, ClientError>> {
        self.entries::<ReputationPage>("reputation")
    }

    /// Lists the tasks of one's account that are over, the latest first.
    pub fn history(&self) -> BoxStream<'static, Result<HistoryEntry, ClientError>> {
        self.entries::<HistoryPage>("history")
    }

    fn entries<P: Page>(
        self,
        path: &'static str,
    ) -> BoxStream<'static, Result<P::Entry, ClientError>> {
        let client = self.client.clone();
        let parts = stream::try_unfold(Place::Start, move |place| {
            let client = client.clone();
            async move {
                let call = Call::get(path).with_query("limit", PAGE);
                let (call, before) = match place {
                    Place::Start => (call, None),
                    Place::After(cursor) => (call.with_query("after", &cursor), Some(cursor)),
                    Place::End => return Ok(None),
                };
                let (entries, next) = client.call::<P>(call).await?.0.split();
                let place = match next {
                    // Whoever asks for the same again would never come to an end.
                    Some(next) if Some(&next) == before.as_ref() => {
                        let reason = "a list leads back to where it was".to_owned();
                        return Err(ClientError::Malformed { reason, request_id: None });
                    }
                    Some(next) => Place::After(next),
                    None => Place::End,
                };
                Ok(Some((stream::iter(entries.into_iter().map(Ok)), place)))
            }
        });
        parts.try_flatten().boxed()
    }
}

enum Place {
    Start,
    After(String),
    End,
}

/// A part of a list.
trait Page: DeserializeOwned + Send + 'static {
    type Entry: Send + 'static;

    /// Returns the entries, and what to ask for to read on.
    fn split(self) -> (Vec<Self::Entry>, Option<String>);
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
