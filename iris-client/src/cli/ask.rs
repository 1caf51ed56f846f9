//! `iris ask`.

use std::time::Instant;

use futures::TryStreamExt;

use super::args::Ask;
use super::failure::Failure;
use super::terminal::{Output, remark};
use super::{choose_model, question};
use crate::chat;
use crate::client::Client;
use crate::settings::Settings;

pub(super) struct Job {
    prompt: String,
    system: Option<String>,
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    json: bool,
    stream: bool,
    verbose: bool,
}

impl Job {
    pub(super) fn prepare(args: &Ask) -> Result<Self, Failure> {
        Ok(Self {
            prompt: question(&args.question.words)?,
            system: args.system.clone(),
            max_tokens: args.question.max_tokens,
            temperature: args.temperature,
            json: args.json,
            stream: !args.no_stream,
            verbose: args.verbose,
        })
    }

    pub(super) async fn run(
        self,
        client: &Client,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let model = choose_model(client, settings).await?;
        let (json, stream, verbose) = (self.json, self.stream, self.verbose);
        let ask = self.into_ask(client, model);
        if stream && !json {
            return print_stream(ask, verbose, output).await;
        }
        let answer = ask.send().await?;
        if json {
            return Ok(output.json(&answer)?);
        }
        output.line(answer.text())?;
        let reason = answer.choices.first().and_then(|choice| choice.finish_reason.as_deref());
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
        remark(&format!("answered by {node}: {tokens} tokens in {seconds:.1} s"));
    }
    note_end(reason.as_deref());
    Ok(())
}

/// Tells why an answer is shorter than the reader might think.
fn note_end(reason: Option<&str>) {
    match reason {
        Some("length") => remark("the answer reached its limit; --max-tokens sets another"),
        Some("content_filter") => remark("the model's server held back the rest of the answer"),
        _ => {}
    }
}
