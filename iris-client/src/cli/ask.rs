//! `iris ask`.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use iris_core::plan::{Chat, Division};
use serde_json::json;
use tokio::time::timeout;

use super::args::{Ask, Sealing};
use super::dividing::{Telling, carry_out};
use super::failure::Failure;
use super::terminal::{Output, remark};
use super::{question, wanted_model};
use crate::chat;
use crate::client::Client;
use crate::policy::{Policy, Privacy};
use crate::sealed::{NoReceipt, PendingReceipt};
use crate::settings::Settings;

pub(super) struct Job {
    prompt: String,
    system: Option<String>,
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    sealing: Sealing,
    policy: Option<Policy>,
    telling: Telling,
    division: Option<Box<Division>>,
    spread: bool,
}

impl Job {
    pub(super) fn prepare(args: &Ask) -> Result<Self, Failure> {
        let division = args.dividing.division()?.map(Box::new);
        if args.spreading.spread && division.is_none() {
            return Err(Failure::usage("--spread is for divided work; choose a --mode"));
        }
        Ok(Self {
            prompt: question(&args.question.words)?,
            system: args.system.clone(),
            max_tokens: args.question.max_tokens,
            temperature: args.temperature,
            sealing: args.privacy.sealing.clone(),
            policy: args.privacy.open.then_some(Policy::Open),
            telling: Telling { json: args.json, stream: !args.no_stream, verbose: args.verbose },
            division,
            spread: args.spreading.spread,
        })
    }

    pub(super) const fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    pub(super) async fn run(
        self,
        client: &Client,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let model = wanted_model(settings);
        let Telling { json, stream, verbose } = self.telling;
        let client = client.with_policy(self.policy.unwrap_or(client.policy()));
        if let Some(division) = &self.division {
            let model = client.model_for(model, &self.prompt).await?;
            let mut chat = Chat::new(model, self.prompt);
            chat.system = self.system;
            chat.max_tokens = self.max_tokens;
            chat.params.extend(self.temperature.map(|t| ("temperature".to_owned(), t.into())));
            let plan = client.divide(chat, division).await?;
            let plan = client.plan(plan).with_spread(self.spread).stream()?;
            return carry_out(plan, self.telling, output).await;
        }
        let ask = self.into_ask(&client, model.to_owned());
        if stream && !json {
            return print_stream(ask, verbose, output).await;
        }
        let begun = Instant::now();
        let mut answer = ask.send().await?;
        if json {
            let member = json!({
                "privacy": answer.privacy,
                "node": answer.head.node,
                "task": answer.head.task,
                "receipt": receipt(&answer.receipt).await,
            });
            answer.completion.extra.insert("iris".to_owned(), member);
            return Ok(output.json(&answer.completion)?);
        }
        output.line(answer.text())?;
        leave(answer.privacy, &answer.receipt, begun.elapsed()).await;
        let reason =
            answer.completion.choices.first().and_then(|choice| choice.finish_reason.as_deref());
        note_end(reason);
        Ok(())
    }

    fn into_ask(self, client: &Client, model: String) -> chat::Ask {
        let mut ask = client.ask(model, self.prompt);
        if let Some(system) = self.system {
            ask = ask.with_system(system);
        }
        if let Some(tokens) = self.max_tokens {
            ask = ask.with_max_tokens(tokens);
        }
        if let Some(temperature) = self.temperature {
            ask = ask.with_temperature(temperature);
        }
        ask
    }
}

async fn print_stream(ask: chat::Ask, verbose: bool, output: &mut Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut stream = ask.stream().await?;
    let (mut reason, mut usage) = (None, None);
    loop {
        let chunk = match stream.try_next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                output.end_line()?;
                return Err(error.into());
            }
        };
        output.write(chunk.text())?;
        reason = chunk.finish_reason().map(str::to_owned).or(reason);
        usage = chunk.usage.or(usage);
    }
    output.end_line()?;
    if verbose {
        let node = stream.head().node.map_or("an unnamed node".to_owned(), |id| id.to_string());
        let tokens = usage.map_or(0, |usage| usage.completion_tokens);
        let seconds = begun.elapsed().as_secs_f64();
        let who = match stream.privacy() {
            Privacy::Own => "your own node, and nobody else could read it",
            Privacy::Sealed => "only that node could read it",
            Privacy::Open => "the coordinator could read it too",
        };
        remark(&format!("answered by {node}: {tokens} tokens in {seconds:.1} s; {who}"));
    }
    note_end(reason.as_deref());
    leave(stream.privacy(), stream.receipt(), begun.elapsed()).await;
    Ok(())
}

/// How long the command stays for a receipt at least when it has nothing else to do.
const STAY: Duration = Duration::from_secs(10);

/// Returns how long the command stays for the receipt of an answer that took so long.
pub(super) fn stay(took: Duration) -> Duration {
    STAY.max(took / 3)
}

/// Waits for what follows an answer that took so long, and tells if the receipt is not one for it.
///
/// Who leaves at the answer's end tells everybody on the way when that was, and takes the receipt
/// from the coordinator too. The receipt comes a quarter later at most.
async fn leave(privacy: Privacy, receipt: &PendingReceipt, took: Duration) {
    if privacy == Privacy::Open {
        return;
    }
    if let Ok(Err(error @ NoReceipt::Disputed(_))) = timeout(stay(took), receipt.wait()).await {
        remark(&error.to_string());
    }
}

/// Returns what became of a receipt, in a word.
async fn receipt(receipt: &PendingReceipt) -> Option<&'static str> {
    match receipt.wait().await {
        Ok(_) => Some("held"),
        Err(NoReceipt::Open) => None,
        Err(NoReceipt::Disputed(_)) => Some("disputed"),
        Err(NoReceipt::Missing) => Some("missing"),
    }
}

/// Tells why an answer is shorter than the reader might think.
fn note_end(reason: Option<&str>) {
    match reason {
        Some("length") => remark("the answer reached its limit; --max-tokens sets another"),
        Some("content_filter") => remark("the model's server held back the rest of the answer"),
        _ => {}
    }
}
