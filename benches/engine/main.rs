//! How fast a model file is read and written: by the built-in engine, and by any server beside it.
//!
//! Both are asked through the same trait for the same tokens, and timed from outside. A prompt's
//! rate is that of one answer of one token; an answer's, that of what a longer answer takes more.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::StreamExt;
use futures::future::join_all;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest, Operation};
use iris_core::model::ModelName;
use iris_node::backend::engine::{Engine, EngineSettings};
use iris_node::backend::openai::OpenAiBackend;
use serde_json::json;

/// Measure how fast a model file is read and written, and print a table.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// A GGUF file; without it, the model inside the engine
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Measure the server at this address, too, such as <http://127.0.0.1:8080/v1>
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..))]
    prompt: u32,
    /// Tokens of the answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    answer: u32,
    /// Answers at the same time, in the last column
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    together: u32,
    /// How often all is measured; the best counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Tokens in a second.
#[derive(Clone, Copy, Default)]
struct Rates {
    prompt: f64,
    answer: f64,
    together: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let settings = match &options.model {
        Some(file) => EngineSettings::file(file),
        None => EngineSettings::bundled(),
    };
    let slots = usize::try_from(options.together)?.try_into()?;
    let engine = Engine::load(settings.with_slots(slots))?;
    let mut measured: Vec<(&str, Arc<dyn Backend>, Rates)> =
        vec![("engine", Arc::new(engine), Rates::default())];
    if let Some(url) = &options.server {
        let server = OpenAiBackend::builder(url).build()?;
        measured.push(("server", Arc::new(server), Rates::default()));
    }
    for round in 0..options.rounds {
        for (_, backend, best) in &mut measured {
            let found = rates(backend.as_ref(), options, round).await?;
            best.prompt = best.prompt.max(found.prompt);
            best.answer = best.answer.max(found.answer);
            best.together = best.together.max(found.together);
        }
    }
    println!("| tokens/s | prompt of {} | answer | {} answers |", options.prompt, options.together);
    println!("|---|---|---|---|");
    for (name, _, rates) in &measured {
        println!("| {name} | {:.1} | {:.1} | {:.1} |", rates.prompt, rates.answer, rates.together);
    }
    Ok(())
}

async fn rates(
    backend: &dyn Backend,
    options: &Options,
    round: u32,
) -> Result<Rates, Box<dyn std::error::Error>> {
    let models = backend.models().await?;
    let model = &models.first().ok_or("the server offers no model")?.name;
    // Each prompt begins with other tokens, so that no cache knows it.
    let prompt =
        |tokens: u32, salt: u32| (0..tokens).map(move |n| 10 + (n * 7 + salt * 13 + round) % 200);
    let (long, _) = timed(backend, model, prompt(options.prompt, 1).collect(), 1).await?;
    let (short, _) = timed(backend, model, prompt(8, 2).collect(), 1).await?;
    let (whole, written) = timed(backend, model, prompt(8, 3).collect(), options.answer).await?;
    let started = Instant::now();
    let all = (0..options.together)
        .map(|salt| timed(backend, model, prompt(8, 4 + salt).collect(), options.answer));
    let all = join_all(all).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (elapsed, all) = (started.elapsed(), all.iter().map(|(_, tokens)| tokens).sum::<u32>());
    let rate = |tokens: u32, time: Duration| f64::from(tokens) / time.as_secs_f64();
    Ok(Rates {
        prompt: rate(options.prompt, long),
        answer: rate(written.saturating_sub(1), whole.saturating_sub(short)),
        together: rate(all, elapsed),
    })
}

/// Asks for one answer; returns the time that it took and how many tokens it has.
async fn timed(
    backend: &dyn Backend,
    model: &ModelName,
    prompt: Vec<u32>,
    tokens: u32,
) -> Result<(Duration, u32), BackendError> {
    let body = json!({
        "model": model.as_str(), "prompt": prompt, "max_tokens": tokens, "temperature": 0,
    });
    let started = Instant::now();
    let mut answer = backend.generate(GenerateRequest {
        operation: Operation::Completion,
        model: model.clone(),
        body: body.to_string().into(),
        stream: true,
        time_left: Duration::from_mins(10),
        begun: None,
        isolated: false,
    });
    while let Some(chunk) = answer.next().await {
        if let Chunk::Finished(finish) = chunk? {
            return Ok((started.elapsed(), finish.usage.completion_tokens));
        }
    }
    Err(BackendError::Failed)
}
