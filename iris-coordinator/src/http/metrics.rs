//! Figures for operators, in the form that Prometheus reads.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::Coordinator;

/// Upper ends of the classes of time, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// What the HTTP server counts by itself.
pub(super) struct Metrics {
    registry: Registry,
    /// By the first digit of the status, from 1.
    requests: [Counter; 5],
    seconds: Histogram,
    first_chunk: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(super) fn new(coordinator: Coordinator) -> Self {
        let mut registry = Registry::with_prefix("iris");
        let family: Family<Vec<(&str, &str)>, Counter> = Family::default();
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        // Looked up once, so that counting a request takes no lock.
        let requests = classes.map(|class| family.get_or_create(&vec![("status", class)]).clone());
        let seconds = Histogram::new(SECONDS);
        let first_chunk = Histogram::new(SECONDS);
        registry.register("http_requests", "Requests by class of status", family);
        let help = "Seconds until the head of an answer";
        registry.register("http_response_seconds", help, seconds.clone());
        let help = "Seconds until the first chunk of a streamed answer";
        registry.register("first_chunk_seconds", help, first_chunk.clone());
        registry.register_collector(Box::new(Counted(coordinator)));
        Self { registry, requests, seconds, first_chunk }
    }

    /// Counts a request whose answer has begun.
    pub(super) fn answered(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(counter) = class.checked_sub(1).and_then(|class| self.requests.get(class)) {
            counter.inc();
        }
        self.seconds.observe(took.as_secs_f64());
    }

    /// Records how long a caller waited for the first chunk.
    pub(super) fn first_chunk(&self, took: Duration) {
        self.first_chunk.observe(took.as_secs_f64());
    }

    /// Returns all figures.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Reads the coordinator's own figures when they are asked for.
#[derive(Debug)]
struct Counted(Coordinator);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.stats();
        let gauges = [
            ("nodes", "Nodes connected", stats.nodes as u64),
            ("slots", "Slots of all nodes", stats.slots),
            ("slots_in_use", "Slots in use", stats.slots_in_use),
            ("tasks_waiting", "Tasks that wait for a node", stats.queued as u64),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters = [
            ("sealed_tasks", "Tasks that only caller and node could read", stats.sealed),
            ("chunks", "Chunks passed on", stats.chunks),
            ("prompt_tokens", "Tokens of prompts", stats.prompt_tokens),
            ("completion_tokens", "Tokens of answers", stats.completion_tokens),
            ("journal_rows", "Rows made durable", stats.rows),
            ("journal_commits", "Commits, each of which waits for the disk", stats.commits),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let outcomes = [
            ("finished", stats.finished),
            ("failed", stats.failed),
            ("cancelled", stats.cancelled),
            ("expired", stats.expired),
        ];
        let help = "Tasks by how they ended";
        let mut tasks = encoder.encode_descriptor("tasks", help, None, MetricType::Counter)?;
        for (outcome, value) in outcomes {
            let counter = ConstCounter::new(value);
            counter.encode(tasks.encode_family(&[("outcome", outcome)])?)?;
        }
        Ok(())
    }
}
