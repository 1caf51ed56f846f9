//! What the coordinator says of the node and of what it earns.

use std::time::Duration;

use iris_core::NodeId;
use iris_core::ledger::Money;
use iris_node::agent::CoordinatorUrl;
use iris_protocol::rest::{ModelFileList, MonthList, NodeWhy, PayoutPage, Secret};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::credential::Credential;
use crate::failure::Failure;
use crate::http::{Http, cause};
use crate::settings::Settings;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many of the latest shares are looked at.
const SHARES: usize = 3;

/// What the coordinator said; whatever it did not say is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Network {
    pub(crate) why: Option<NodeWhy>,
    pub(crate) payouts: Option<PayoutPage>,
    pub(crate) months: Option<MonthList>,
    /// Why something is missing.
    pub(crate) trouble: Option<String>,
}

/// Asks a coordinator with the node's own key.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    http: Http,
    key: Option<Secret>,
}

impl Asking {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let key = match &settings.node_key {
            Some(key) => Some(key.clone()),
            None => Credential::kept(settings)?.map(|kept| kept.key),
        };
        Ok(Self { http: Http::new(settings, PATIENCE)?, key })
    }

    /// Asks the coordinator that a node is connected to, if it is, about it.
    pub(crate) async fn about(&self, url: Option<&str>, node: Option<NodeId>) -> Network {
        let url = url.and_then(|url| url.parse::<CoordinatorUrl>().ok());
        match (url, node) {
            (Some(url), Some(node)) => self.at(&url, Some(node)).await,
            _ => Network {
                trouble: Some("the node is not connected".to_owned()),
                ..Network::default()
            },
        }
    }

    /// Asks a coordinator for the files of its model folder; returns also its base and the key that
    /// it wants, or why there are none.
    pub(crate) async fn model_files(
        &self,
        url: &CoordinatorUrl,
    ) -> Result<(String, Secret, ModelFileList), String> {
        let no_key = || "this node has no key yet; `iris-node setup` gets one".to_owned();
        let (key, base, mut trouble) =
            (self.key.clone().ok_or_else(no_key)?, url.http_base(), None);
        let list = self.ask(&format!("{base}/model-files"), &key, &mut trouble).await;
        let list = list.ok_or_else(|| trouble.unwrap_or_default())?;
        Ok((base, key, list))
    }

    /// Asks a coordinator about what is shared in its network, and about a node.
    pub(crate) async fn at(&self, url: &CoordinatorUrl, node: Option<NodeId>) -> Network {
        let mut network = Network::default();
        let Some(key) = &self.key else {
            network.trouble = Some("this node has no key yet".to_owned());
            return network;
        };
        let base = url.http_base();
        if let Some(node) = node {
            network.why =
                self.ask(&format!("{base}/nodes/{node}/why"), key, &mut network.trouble).await;
        }
        let payouts = format!("{base}/payouts?limit={SHARES}");
        network.payouts = self.ask(&payouts, key, &mut network.trouble).await;
        network.months = self.ask(&format!("{base}/months"), key, &mut network.trouble).await;
        network
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        url: &str,
        key: &Secret,
        trouble: &mut Option<String>,
    ) -> Option<T> {
        let problem = match self.http.get(url, Some(key)).await {
            Ok(answer) if answer.is_success() => match answer.json() {
                Some(told) => return Some(told),
                None => "the coordinator's answer cannot be read".to_owned(),
            },
            // Coordinators of earlier versions let nodes' keys read nothing.
            Ok(answer) if answer.wants_key() => {
                format!(
                    "the coordinator lets this node's key read nothing (status {})",
                    answer.status
                )
            }
            Ok(answer) => format!("the coordinator answers with status {}", answer.status),
            Err(error) => format!("the coordinator does not answer: {}", cause(&error)),
        };
        trouble.get_or_insert(problem);
        None
    }
}

impl Network {
    /// Says how the node stands.
    pub(crate) fn standing(&self) -> Option<String> {
        let why = self.why.as_ref()?;
        let (standing, points) = (why.standing?, why.points?);
        let promise = why.promise.as_ref().map_or(String::new(), |promise| {
            format!("; promised hours: {} kept, {} broken", promise.kept, promise.broken)
        });
        Some(format!("of 1000 tasks {standing} are expected to end well; {points} points{promise}"))
    }

    /// Says what is earned: of the running month, which is shared once it is closed, nothing is
    /// known but what there is to share.
    pub(crate) fn earnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(running) = self.months.as_ref().and_then(|months| months.running.as_ref()) {
            lines.push(if running.pool == Money::ZERO {
                format!("{}: nothing is in the pool so far", running.epoch)
            } else {
                format!(
                    "{}: {} in the pool so far, shared among all owners after the month's end",
                    running.epoch, running.pool
                )
            });
        }
        if let Some(payouts) = &self.payouts {
            lines.extend(payouts.payouts.iter().map(|share| {
                format!("{}: your share is {} ({})", share.epoch, share.amount, share.state)
            }));
            if payouts.payouts.is_empty() {
                lines.push("no share of a closed month yet".to_owned());
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_coordinator_says_is_told_in_words() {
        let why = json!({"id": "5sd2lsz62mv4in63q3u4agspea", "slots": 1, "running": 0,
            "points": 12, "standing": 830, "hindrances": [], "recent": []});
        let running = json!({"epoch": "2026-11", "policy": "evidence", "pool": 250_000_000,
            "tested": true});
        let share = json!({"epoch": "2026-10", "account": "18517f34940d9186c7c50e5499441741",
            "amount": 1_500_000, "state": "held", "since": 0, "release": 9});
        let network = Network {
            why: serde_json::from_value(why).unwrap(),
            payouts: serde_json::from_value(json!({"payouts": [share]})).unwrap(),
            months: serde_json::from_value(json!({"months": [], "running": running})).unwrap(),
            trouble: None,
        };
        let standing = network.standing().unwrap();
        assert_eq!(standing, "of 1000 tasks 830 are expected to end well; 12 points");
        let earnings = network.earnings();
        assert!(earnings[0].starts_with("2026-11: 250.000000 in the pool so far"), "{earnings:?}");
        assert_eq!(earnings[1], "2026-10: your share is 1.500000 (held)");
        assert_eq!((Network::default().standing(), Network::default().earnings().len()), (None, 0));
    }
}
