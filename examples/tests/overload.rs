//! More tasks than nodes can take, in virtual time: who waits, who is sent away, who comes back.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use iris_coordinator::{TaskHandle, TaskRequest};
use iris_core::AccountId;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::queue::Priority;
use iris_core::task::{Outcome, TaskError};
use iris_crypto::Identity;
use net::{Net, answer, read};
use tokio::time::{Instant, sleep};

/// A backend that echoes after a set time.
#[derive(Clone, Debug)]
struct Slow {
    echo: ScriptedBackend,
    takes: Duration,
}

impl Slow {
    fn new(model: &str, takes: Duration) -> Self {
        Self { echo: ScriptedBackend::echo(model.parse().unwrap()), takes }
    }
}

impl Backend for Slow {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        self.echo.models()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let (echo, takes) = (self.echo.clone(), self.takes);
        stream::once(sleep(takes)).flat_map(move |()| echo.generate(request.clone())).boxed()
    }
}

fn ask(net: &Net, model: &str, account: u8) -> TaskHandle {
    let account = AccountId::from_bytes([account; 16]);
    net.coordinator.submit(TaskRequest { account, ..net.request(model, "hi", true) })
}

/// Returns after how many seconds a task may come back that was sent away, and how soon it was.
async fn sent_away(mut task: TaskHandle) -> (u64, Duration) {
    let asked = Instant::now();
    match read(&mut task).await.1 {
        Outcome::Failed(TaskError::Busy { retry_after_secs }) => {
            (retry_after_secs.into(), asked.elapsed())
        }
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn line_is_short_and_whoever_is_sent_away_has_a_place_when_it_returns() {
    let net = Net::new().await;
    net.join(Slow::new("m", Duration::from_secs(3))).await;
    answer(ask(&net, "m", 1)).await;
    // One task is worked on, and two may wait, for about a second and a half and for four and a
    // half; a third would wait for seven and a half, which is too long.
    let mut waiting: Vec<_> = (0..3).map(|_| tokio::spawn(answer(ask(&net, "m", 1)))).collect();
    sleep(Duration::from_millis(100)).await;
    let (told, after) = sent_away(ask(&net, "m", 2)).await;
    assert!(after < Duration::from_millis(10), "it is told at once, not after {after:?}");
    assert!((2..10).contains(&told), "{told}");
    // Meanwhile newcomers keep the line as full as they may.
    let returns = Instant::now() + Duration::from_secs(told);
    let newcomer = || {
        let mut task = ask(&net, "m", 3);
        tokio::spawn(async move { read(&mut task).await.0 })
    };
    while Instant::now() < returns {
        waiting.push(newcomer());
        sleep(Duration::from_millis(250)).await;
    }
    // A place may just have become free.
    waiting.push(newcomer());
    tokio::task::yield_now().await;
    sent_away(ask(&net, "m", 4)).await;
    assert_eq!(answer(ask(&net, "m", 2)).await, "hi");
    for task in waiting {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_that_nobody_waits_for_stand_in_line_however_long_it_is() {
    let net = Net::new().await;
    net.join(Slow::new("m", Duration::from_secs(3))).await;
    answer(ask(&net, "m", 1)).await;
    let batch = || TaskRequest {
        priority: Priority::Batch,
        time_limit: Duration::from_hours(1),
        ..net.request("m", "hi", true)
    };
    let tasks: Vec<_> =
        (0..40).map(|_| tokio::spawn(answer(net.coordinator.submit(batch())))).collect();
    sleep(Duration::from_millis(100)).await;
    // They are passed by those who wait in front of a screen.
    assert_eq!(answer(ask(&net, "m", 1)).await, "hi");
    assert!(net.coordinator.stats().queued > 30);
    for task in tasks {
        assert_eq!(task.await.unwrap(), "hi");
    }
}

#[tokio::test(start_paused = true)]
async fn long_tasks_of_one_model_send_nobody_away_from_another() {
    let net = Net::new().await;
    net.join_as(Identity::generate(), Slow::new("slow", Duration::from_secs(20)), |agent| {
        agent.with_slots(4)
    })
    .await;
    net.join(Slow::new("quick", Duration::from_millis(100))).await;
    let slow =
        TaskRequest { time_limit: Duration::from_hours(1), ..net.request("slow", "hi", true) };
    answer(net.coordinator.submit(slow)).await;
    answer(ask(&net, "quick", 1)).await;
    let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(answer(ask(&net, "quick", 1)))).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), "hi");
    }
}
