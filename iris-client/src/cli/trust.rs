//! `iris trust`.

use iris_core::NodeId;
use iris_crypto::log::SignedCheckpoint;
use serde_json::json;

use super::args::{Json, TrustCommand};
use super::failure::Failure;
use super::terminal::{Output, remark};
use crate::client::Client;
use crate::trust::Trust;

pub(super) enum Job {
    Show(Json),
    Pin(NodeId),
    Unpin(NodeId),
    Reset,
}

impl Job {
    pub(super) fn prepare(args: &TrustCommand) -> Self {
        match args {
            TrustCommand::Show(format) => Self::Show(format.clone()),
            TrustCommand::Pin(node) => Self::Pin(node.id),
            TrustCommand::Unpin(node) => Self::Unpin(node.id),
            TrustCommand::Reset => Self::Reset,
        }
    }

    pub(super) fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        if client.trust_file().is_none() {
            return Err(Failure::usage(
                "there is no home folder to keep a trust file in; name one with --trust-file",
            ));
        }
        match self {
            Self::Show(format) => show(client, &client.trust()?, &format, output),
            Self::Pin(node) => {
                let new = client.pin(node)?;
                remark(if new { "this node is your own now" } else { "it was your own already" });
                Ok(())
            }
            Self::Unpin(node) => {
                let was = client.unpin(&node)?;
                let said =
                    if was { "this node is not your own any more" } else { "it was not yours" };
                remark(said);
                Ok(())
            }
            Self::Reset => {
                client.forget()?;
                remark("forgotten; the coordinator that answers next will be trusted");
                Ok(())
            }
        }
    }
}

fn show(client: &Client, trust: &Trust, format: &Json, output: &mut Output) -> Result<(), Failure> {
    let file = client.trust_file().map(|file| file.display().to_string());
    if format.json {
        let guards: serde_json::Map<_, _> =
            trust.guard_sets().map(|(model, set)| (model.to_string(), json!(set))).collect();
        return Ok(output.json(&json!({
            "coordinator": trust.coordinator(),
            "checkpoint": trust.checkpoint(),
            "own": trust.own().collect::<Vec<_>>(),
            "guards": guards,
            "file": file,
        }))?);
    }
    match trust.coordinator() {
        Some(identity) => output.line(&format!("coordinator  {identity}"))?,
        None => output.line("coordinator  none yet: the first that answers will be trusted")?,
    }
    let checkpoint = trust.checkpoint().and_then(|text| SignedCheckpoint::decode(text).ok());
    if let Some((signed, identity)) = checkpoint.zip(trust.coordinator())
        && let Ok(checkpoint) = signed.verify(identity)
    {
        output.line(&format!("log          {} entries", checkpoint.size))?;
    }
    for node in trust.own() {
        output.line(&format!("own node     {node}"))?;
    }
    for (model, guards) in trust.guard_sets() {
        for guard in guards {
            output.line(&format!("guard        {guard}  for {model}"))?;
        }
    }
    output.line(&format!("file         {}", file.unwrap_or_default()))?;
    Ok(())
}
