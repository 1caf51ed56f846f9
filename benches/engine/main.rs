//! How fast a model file is read and written: by the built-in engine, by llama.cpp in this process
//! (feature `llama-cpp`), and by any server beside it.
//!
//! All are asked through the same trait for the same tokens, in turns, and timed from outside. A
//! prompt's rate is that of one answer of one token; an answer's, that of what a longer answer takes
//! more. Beside the clock's time stands that of the processor, which is what carries over to a quiet
//! machine where this one is busy.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::StreamExt;
use futures::future::join_all;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest, Operation};
use iris_core::model::ModelName;
use iris_node::backend::engine::{Device, Engine, EngineSettings, Runner};
use iris_node::backend::openai::OpenAiBackend;
use serde_json::{Value, json};

/// What the model inside the engine answers at length.
const QUESTION: &str = "What is a node?";

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
    /// The process of that server, to count its processor time
    #[arg(long, value_name = "PID", requires = "server")]
    server_process: Option<u32>,
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

/// What is measured, and the process that does the work.
struct Measured {
    name: &'static str,
    backend: Arc<dyn Backend>,
    process: Option<u32>,
    best: Rates,
}

/// How fast a prompt is read, an answer written, and several at a time.
#[derive(Clone, Copy, Default)]
struct Rates([Rate; 3]);

/// Tokens in a second, and in a second of processor time.
#[derive(Clone, Copy, Default)]
struct Rate {
    clock: f64,
    processor: f64,
}

/// The time that something took, by the clock and of the processor.
#[derive(Clone, Copy)]
struct Took {
    clock: Duration,
    processor: Duration,
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
    let settings = settings.with_slots(slots).with_device(Device::Cpu);
    let own = Some(std::process::id());
    let new = |name, backend, process| Measured { name, backend, process, best: Rates::default() };
    let engine = Engine::load(settings.clone().with_runner(Runner::BuiltIn))?;
    let mut all = vec![new("engine", Arc::new(engine), own)];
    if cfg!(feature = "llama-cpp") && options.model.is_some() {
        // As much room for each answer as `beside.py` gives the server.
        let context = NonZeroUsize::new(512).ok_or("512 is not zero")?;
        let settings = settings.with_runner(Runner::LlamaCpp).with_context_limit(context);
        all.push(new("llama.cpp in this process", Arc::new(Engine::load(settings)?), own));
    }
    if let Some(url) = &options.server {
        let server = OpenAiBackend::builder(url).build()?;
        all.push(new("server", Arc::new(server), options.server_process));
    }
    for round in 0..options.rounds {
        for measured in &mut all {
            let found = rates(measured, options, round).await?;
            measured.best.improve(&found);
        }
    }
    println!("| tokens/s | prompt of {} | answer | {} answers |", options.prompt, options.together);
    println!("|---|---|---|---|");
    for Measured { name, best, .. } in &all {
        let [prompt, answer, together] = best.0.map(|rate| rate.clock);
        println!("| {name} | {prompt:.1} | {answer:.1} | {together:.1} |");
        let [prompt, answer, together] = best.0.map(|rate| rate.processor);
        println!("| {name}, of the processor | {prompt:.1} | {answer:.1} | {together:.1} |");
    }
    Ok(())
}

impl Rates {
    fn improve(&mut self, found: &Self) {
        for (best, found) in self.0.iter_mut().zip(&found.0) {
            best.clock = best.clock.max(found.clock);
            best.processor = best.processor.max(found.processor);
        }
    }
}

impl Took {
    fn rate(self, tokens: u32) -> Rate {
        let [clock, processor] =
            [self.clock, self.processor].map(|time| f64::from(tokens) / time.as_secs_f64());
        Rate { clock, processor }
    }

    /// Returns what this took more.
    fn beyond(self, other: Self) -> Self {
        Self {
            clock: self.clock.saturating_sub(other.clock),
            processor: self.processor.saturating_sub(other.processor),
        }
    }
}

/// Returns the processor time of all threads of a process so far; none where it cannot be told.
fn processor_time(process: Option<u32>) -> Duration {
    let tasks = process.and_then(|id| std::fs::read_dir(format!("/proc/{id}/task")).ok());
    let time = |task: std::io::Result<std::fs::DirEntry>| {
        let told = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.into_iter().flatten().filter_map(time).sum()
}

async fn rates(
    measured: &Measured,
    options: &Options,
    round: u32,
) -> Result<Rates, Box<dyn std::error::Error>> {
    let backend = measured.backend.as_ref();
    let models = backend.models().await?;
    let model = &models.first().ok_or("the server offers no model")?.name;
    // Each prompt begins with other tokens, so that no cache knows it.
    let prompt: Vec<_> = (0..options.prompt).map(|n| 10 + (n * 7 + round * 13) % 200).collect();
    let question = [json!({"role": "user", "content": QUESTION})];
    let ask = |operation, asked: Value, tokens, times| async move {
        let (started, before) = (Instant::now(), processor_time(measured.process));
        let all = (0..times).map(|_| written(backend, model, operation, asked.clone(), tokens));
        let all = join_all(all).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let clock = started.elapsed();
        let processor = processor_time(measured.process).saturating_sub(before);
        Ok::<_, BackendError>((Took { clock, processor }, all.iter().sum::<u32>()))
    };
    let (long, _) = ask(Operation::Completion, json!({"prompt": prompt}), 1, 1).await?;
    let chat = || json!({"messages": question});
    let (short, _) = ask(Operation::Chat, chat(), 1, 1).await?;
    let (whole, tokens) = ask(Operation::Chat, chat(), options.answer, 1).await?;
    let (together, count) = ask(Operation::Chat, chat(), options.answer, options.together).await?;
    Ok(Rates([
        long.rate(options.prompt),
        whole.beyond(short).rate(tokens.saturating_sub(1)),
        together.rate(count),
    ]))
}

/// Asks for one answer and returns how many tokens it has.
async fn written(
    backend: &dyn Backend,
    model: &ModelName,
    operation: Operation,
    mut body: Value,
    tokens: u32,
) -> Result<u32, BackendError> {
    body["model"] = json!(model.as_str());
    body["max_tokens"] = json!(tokens);
    body["temperature"] = json!(0);
    let mut answer = backend.generate(GenerateRequest {
        operation,
        model: model.clone(),
        body: body.to_string().into(),
        stream: true,
        time_left: Duration::from_mins(10),
        begun: None,
        isolated: false,
    });
    while let Some(chunk) = answer.next().await {
        if let Chunk::Finished(finish) = chunk? {
            return Ok(finish.usage.completion_tokens);
        }
    }
    Err(BackendError::Failed)
}
