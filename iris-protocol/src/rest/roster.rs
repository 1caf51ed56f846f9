use iris_core::model::ModelOffer;
use iris_core::standing::Standing;
use iris_core::terms::Callers;
use iris_core::{ModelName, NodeId};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{
    MAX_AWAY, MAX_CERTIFICATE, MAX_CHECKPOINT, MAX_DATASET_LEN, MAX_LOG_ENTRIES, MAX_LOG_ENTRY,
    MAX_NAME_LEN, MAX_PROOF, MAX_ROSTER_NODES,
};
use crate::message::bounded;
use crate::text::{Blob, Bytes32, Label};

/// A roster with the proof that it is in the coordinator's public log. Everybody gets the same
/// bytes.
///
/// The log holds the SHA-256 of the text, so the text is kept as it came and read on its own:
/// `serde_json::from_str::<Roster>(&signed.roster)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoster {
    /// The JSON text of a [`Roster`].
    pub roster: String,
    /// The place of the roster's entry in the log.
    pub index: u64,
    /// The hashes that lead from the entry to the checkpoint's root.
    #[serde(deserialize_with = "proof")]
    pub hashes: Vec<Bytes32>,
    /// The log's signed checkpoint, which covers the entry.
    #[serde(deserialize_with = "checkpoint")]
    pub checkpoint: String,
}

/// The nodes that requests can be sealed to, as everybody is told at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// The coordinator's identity: 64 hexadecimal digits.
    pub coordinator: Label<64>,
    /// Which roster of this coordinator it is, counted from 1 without gaps.
    pub number: u64,
    /// When it was made.
    pub issued: u64,
    /// The nodes, ordered by id.
    #[serde(deserialize_with = "nodes")]
    pub nodes: Vec<RosterNode>,
    /// Models that nobody offers now and somebody offered within the last 30 days, ordered by
    /// name; some of them, if there are many.
    #[serde(deserialize_with = "away")]
    pub away: Vec<ModelName>,
}

/// A node that requests can be sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterNode {
    /// Names the node.
    pub id: NodeId,
    /// Its owner's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label<MAX_NAME_LEN>>,
    /// The certificate of the key to seal to, which lasts for 15 more minutes at least.
    pub certificate: Blob<MAX_CERTIFICATE>,
    /// The models that it offers.
    #[serde(deserialize_with = "bounded::models")]
    pub models: Vec<ModelOffer>,
    /// The data sets that lie on it, by name.
    #[serde(
        default,
        deserialize_with = "bounded::datasets",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub datasets: Vec<Label<MAX_DATASET_LEN>>,
    /// What it can do: `BASIC`, `MID` or `PRO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Label<16>>,
    /// What it says of all its memory, in GB, where it does: whoever reads the roster finds the
    /// tier of each of its models by the same rules as the coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<u32>,
    /// Whose requests it answers.
    #[serde(default, skip_serializing_if = "Callers::are_all")]
    pub callers: Callers,
    /// Requests it can work on at a time.
    #[serde(deserialize_with = "bounded::slots")]
    pub slots: u32,
    /// How many more it could take when the roster was made, roughly: exact numbers would tell
    /// how busy others keep the node from one roster to the next.
    pub free: FreeSlots,
    /// What it has done, in points of reputation.
    pub points: i64,
    /// How sure the network is of it.
    #[serde(default)]
    pub standing: Standing,
    /// When it connected.
    pub since: u64,
    /// Tells nodes of one owner from those of others, and changes with each calendar month:
    /// 32 hexadecimal digits.
    pub owner: Label<32>,
}

/// How many requests a node could take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeSlots {
    /// None.
    None,
    /// Up to half of its slots.
    Some,
    /// More than half of its slots.
    Many,
}

impl FreeSlots {
    /// Says how much of `slots` is free while `used` are not.
    pub const fn of(slots: u32, used: u32) -> Self {
        match slots.saturating_sub(used) {
            0 => Self::None,
            free if free > slots / 2 => Self::Many,
            _ => Self::Some,
        }
    }
}

/// The proof that an entry is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionProof {
    /// The hashes that lead from the entry to the root.
    #[serde(deserialize_with = "proof")]
    pub hashes: Vec<Bytes32>,
}

/// The proof that a log extends an earlier state of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// The hashes from which both roots follow.
    #[serde(deserialize_with = "proof")]
    pub hashes: Vec<Bytes32>,
}

/// Entries of the log, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntries {
    /// The place of the first one.
    pub start: u64,
    /// Their bytes.
    #[serde(deserialize_with = "entries")]
    pub entries: Vec<Blob<MAX_LOG_ENTRY>>,
}

fn proof<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes32>, D::Error> {
    bounded::list(deserializer, MAX_PROOF)
}

fn entries<'de, D>(deserializer: D) -> Result<Vec<Blob<MAX_LOG_ENTRY>>, D::Error>
where
    D: Deserializer<'de>,
{
    bounded::list(deserializer, MAX_LOG_ENTRIES)
}

fn checkpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > MAX_CHECKPOINT {
        return Err(D::Error::custom("a checkpoint is short"));
    }
    Ok(text)
}

fn nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RosterNode>, D::Error> {
    ordered(deserializer, MAX_ROSTER_NODES, |node: &RosterNode| node.id)
}

fn away<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelName>, D::Error> {
    ordered(deserializer, MAX_AWAY, ModelName::clone)
}

/// Reads a list whose entries have ascending keys, so that none comes twice.
fn ordered<'de, D, T, K>(
    deserializer: D,
    max: usize,
    key: impl Fn(&T) -> K,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    K: Ord,
{
    let list = bounded::list(deserializer, max)?;
    if list.is_sorted_by(|a, b| key(a) < key(b)) {
        Ok(list)
    } else {
        Err(D::Error::custom("the list is not in order"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(nodes: &str, away: &str) -> Result<Roster, serde_json::Error> {
        serde_json::from_str(&format!(
            r#"{{"coordinator":"{}","number":1,"issued":2,"nodes":[{nodes}],"away":[{away}]}}"#,
            "0".repeat(64)
        ))
    }

    fn node(id: char) -> String {
        format!(
            r#"{{"id":"{}","certificate":"AA","models":[],"slots":1,"free":"some","points":-1,"since":0,"owner":"{}"}}"#,
            String::from(id).repeat(26),
            "0".repeat(32)
        )
    }

    #[test]
    fn roster_names_each_node_and_model_once_and_in_order() {
        let [a, b] = ['a', 'b'].map(node);
        let read = roster(&format!("{a},{b}"), r#""m","n""#).unwrap();
        assert_eq!((read.nodes.len(), read.away.len()), (2, 2));
        for (nodes, away) in [
            (format!("{b},{a}"), ""),
            (format!("{a},{a}"), ""),
            (String::new(), r#""n","m""#),
            (String::new(), r#""n","n""#),
        ] {
            assert!(roster(&nodes, away).is_err(), "{nodes} {away}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let names: Vec<_> = (0..=MAX_AWAY).map(|number| format!("\"m{number:04}\"")).collect();
        assert!(roster("", &names[1..].join(",")).is_ok());
        assert!(roster("", &names.join(",")).is_err());
        let hash = format!("\"{}\"", "A".repeat(43));
        let proof = |hashes: usize| {
            let list = vec![hash.as_str(); hashes].join(",");
            serde_json::from_str::<InclusionProof>(&format!(r#"{{"hashes":[{list}]}}"#))
        };
        assert!(proof(MAX_PROOF).is_ok());
        assert!(proof(MAX_PROOF + 1).is_err());
        let entries = |count: usize| {
            let list = vec!["\"AA\""; count].join(",");
            serde_json::from_str::<LogEntries>(&format!(r#"{{"start":0,"entries":[{list}]}}"#))
        };
        assert!(entries(MAX_LOG_ENTRIES).is_ok());
        assert!(entries(MAX_LOG_ENTRIES + 1).is_err());
        let signed = |length: usize| {
            let json = serde_json::json!({
                "roster": "", "index": 0, "hashes": [], "checkpoint": "x".repeat(length),
            });
            serde_json::from_value::<SignedRoster>(json)
        };
        assert!(signed(MAX_CHECKPOINT).is_ok());
        assert!(signed(MAX_CHECKPOINT + 1).is_err());
    }

    #[test]
    fn free_slots_are_told_roughly() {
        use FreeSlots::{Many, None, Some};
        let told: Vec<_> = (0..=5).map(|used| FreeSlots::of(4, used)).collect();
        assert_eq!(told, [Many, Many, Some, Some, None, None]);
        assert_eq!(FreeSlots::of(1, 0), Many);
        assert_eq!(FreeSlots::of(0, 0), None);
        assert_eq!(serde_json::to_string(&Some).unwrap(), "\"some\"");
    }
}
