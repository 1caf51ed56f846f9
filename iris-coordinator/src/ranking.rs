//! The nodes in the order of their points.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_core::NodeId;
use iris_protocol::rest::{ReputationEntry, ReputationPage};
use tokio::sync::Mutex;

use crate::dispatch::Dispatch;

/// How long a ranking is used before it is made anew, which takes time where nodes are many.
const FRESH: Duration = Duration::from_secs(10);

/// The ranking, made when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    latest: Mutex<Option<(Instant, Arc<[Rank]>)>>,
}

/// A place in the ranking: first by points, most first, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    points: i64,
    node: NodeId,
}

/// Says that a text is no [`Rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place in the ranking is the 'next' of an earlier page")]
pub struct RankError;

impl Rank {
    const fn order(&self) -> (std::cmp::Reverse<i64>, NodeId) {
        (std::cmp::Reverse(self.points), self.node)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.points, self.node.as_str())
    }
}

impl FromStr for Rank {
    type Err = RankError;

    fn from_str(text: &str) -> Result<Self, RankError> {
        let (points, node) = text.split_once('.').ok_or(RankError)?;
        let points = points.parse().map_err(|_| RankError)?;
        Ok(Self { points, node: node.parse().map_err(|_| RankError)? })
    }
}

impl Ranking {
    /// Returns at most `limit` nodes after a place.
    pub(crate) async fn page(
        &self,
        dispatch: &Arc<Dispatch>,
        after: Option<&Rank>,
        limit: usize,
    ) -> ReputationPage {
        let ranks = self.latest(dispatch).await;
        let start = after.map_or(0, |after| ranks.partition_point(|r| r.order() <= after.order()));
        let end = start.saturating_add(limit).min(ranks.len());
        let shown = &ranks[start..end];
        let next = shown.last().filter(|_| end < ranks.len()).map(Rank::to_string);
        let entry = |(place, rank): (usize, &Rank)| {
            let name = dispatch.name_of(&rank.node);
            ReputationEntry {
                rank: (start + place + 1) as u64,
                id: rank.node,
                connected: name.is_some(),
                name: name.filter(|name| !name.is_empty()),
                points: rank.points,
            }
        };
        ReputationPage { nodes: shown.iter().enumerate().map(entry).collect(), next }
    }

    async fn latest(&self, dispatch: &Arc<Dispatch>) -> Arc<[Rank]> {
        let now = dispatch.clock.now();
        let mut latest = self.latest.lock().await;
        match &*latest {
            Some((made, ranks)) if now.saturating_duration_since(*made) < FRESH => {
                return Arc::clone(ranks);
            }
            _ => {}
        }
        let known = Arc::clone(dispatch);
        let made = tokio::task::spawn_blocking(move || rank(&known)).await;
        let ranks = made.unwrap_or_default();
        *latest = Some((now, Arc::clone(&ranks)));
        ranks
    }
}

fn rank(dispatch: &Dispatch) -> Arc<[Rank]> {
    let points = dispatch.all_points().into_iter();
    let mut ranks: Vec<_> =
        points.map(|(node, points)| Rank { points: points.value(), node }).collect();
    ranks.sort_unstable_by_key(Rank::order);
    ranks.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_ordered_by_points_and_survive_their_text() {
        let node = |letter: &str| letter.repeat(26).parse().unwrap();
        let ranks = [(5, "b"), (5, "c"), (0, "a"), (-50, "a")]
            .map(|(points, letter)| Rank { points, node: node(letter) });
        assert!(ranks.is_sorted_by_key(Rank::order));
        for rank in ranks {
            assert_eq!(rank.to_string().parse(), Ok(rank));
        }
        for bad in ["", ".", "5", "5.x", "x.aaaaaaaaaaaaaaaaaaaaaaaaaa", "5.' OR 1=1", "5.\n"] {
            assert_eq!(bad.parse::<Rank>(), Err(RankError), "{bad}");
        }
    }
}
