//! What is measured within this process.

use iris_benches::{choice, rows};
use tempfile::tempdir;

use crate::Failure;
use crate::figures::median;

/// Samples whose median is taken.
const SAMPLES: usize = 5;
/// Choices of one sample.
const CHOICES: u32 = 20_000;

/// How long it takes to choose one of so many nodes, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices {
    pub(crate) nodes: u32,
    pub(crate) micros: f64,
}

/// Returns how many rows a second a journal makes durable.
pub(crate) async fn rows_per_second() -> Result<f64, Failure> {
    eprintln!("durable rows ...");
    let folder = tempdir()?;
    let mut rows = rows::Rows::open(folder.path()).await?;
    let mut rates = Vec::new();
    for _ in 0..SAMPLES {
        rates.push(f64::from(rows::SAMPLE) / rows.write().await.as_secs_f64());
    }
    rows.close().await;
    Ok(median(rates))
}

/// Measures choosing a node among few and among many.
pub(crate) fn choices() -> Vec<Choices> {
    eprintln!("choosing ...");
    let measure = |nodes| {
        let registry = choice::registry(nodes);
        let samples = (0..SAMPLES).map(|_| choice::measure(&registry, CHOICES).as_secs_f64() * 1e6);
        Choices { nodes, micros: median(samples.collect()) }
    };
    choice::SIZES.map(measure).into()
}
