use std::time::Duration;

use iris_core::TaskId;
use iris_core::plan::UnitState;
use iris_core::task::TaskState;
use iris_protocol::rest::{InferenceRequest, InferenceStatus};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::TIME_LIMIT;
use super::draw::{Act, Divided, What};
use super::log::{ChatSeen, DurableSeen, Log};
use crate::simulation::caller::{CallError, Caller, Chat};
use crate::simulation::counting::Counting;
use crate::simulation::dice::Dice;

/// How much longer than a chat may take a caller waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a caller repeats a submission that got no answer.
const TRIES: u32 = 10;
/// How often a caller asks how its task stands.
const LOOKS: u32 = 120;

/// A caller that does what was drawn.
pub(super) struct Actor {
    pub(super) caller: Caller,
    pub(super) dice: Dice,
    pub(super) log: Log,
}

/// What a caller knows of its durable task.
struct Followed {
    answer: String,
    task: TaskId,
    end: Option<TaskState>,
    /// The tasks that the steps of its answer ended as.
    steps: Vec<TaskId>,
}

impl Actor {
    pub(super) async fn act(mut self, acts: Vec<Act>) {
        for (number, act) in acts.into_iter().enumerate() {
            sleep(act.pause).await;
            let name = format!("{}-{number}", self.caller.name());
            match act.what {
                What::Chat { stream, sealed, pace, leave_after } => {
                    let chat = Chat::new(model(&act), Counting::question(&name, act.words))
                        .with_stream(stream)
                        .with_seal(sealed)
                        .with_pace(pace)
                        .with_patience(TIME_LIMIT + PATIENCE + pace * (act.words + 8));
                    let chat = match leave_after {
                        Some(reads) => chat.with_leave_after(reads),
                        None => chat,
                    };
                    self.chat(chat, Counting::answer(&name, act.words), leave_after.is_some())
                        .await;
                }
                What::Durable { .. } => self.durable(&name, &act).await,
            }
        }
    }

    async fn chat(&self, chat: Chat, expected: String, leaves: bool) {
        let from = self.caller.trace.now();
        let reply = self.caller.chat(chat).await;
        let (caller, to) = (self.caller.name().to_owned(), self.caller.trace.now());
        let seen = ChatSeen { caller, from, to, reply, expected, leaves };
        self.log.seen().chats.push(seen);
    }

    async fn durable(&mut self, name: &str, act: &Act) {
        let What::Durable { keyed, deadline, cancel_after, follow, divided } = act.what else {
            return;
        };
        let (request, answer) = submission(name, act, deadline, divided);
        let Some(task) = self.submit(&request, keyed.then_some(name)).await else { return };
        let mut followed = Followed { answer, task, end: None, steps: Vec::new() };
        if let Some(after) = cancel_after {
            sleep(after).await;
            if let Ok(status) = self.caller.cancel(task).await {
                self.check(&mut followed, &status);
            }
        }
        let looks = if follow { LOOKS } else { 1 };
        for _ in 0..looks {
            let pause = Duration::from_millis(200)..=Duration::from_secs(3);
            sleep(self.dice.time(&pause)).await;
            match self.caller.status(task).await {
                Ok(status) => self.check(&mut followed, &status),
                Err(CallError::Refused(404)) => self.broken("an accepted task is unknown"),
                Err(_) => {}
            }
            if followed.end.is_some() && self.dice.once_in(2) {
                break;
            }
        }
        let (caller, end) = (self.caller.name().to_owned(), followed.end);
        let steps = followed.steps;
        self.log.seen().durable.push(DurableSeen { caller, task, end, steps });
    }

    /// Submits a task, again and again where that is safe.
    async fn submit(&mut self, request: &Value, key: Option<&str>) -> Option<TaskId> {
        let mut accepted = None;
        for _ in 0..TRIES {
            match self.caller.submit_body(request, key).await {
                Ok(status) => {
                    if accepted.is_some_and(|task| task != status.id) {
                        self.broken("one idempotency key stands for two tasks");
                    }
                    accepted = Some(status.id);
                    // Now and then a caller asks for what it has got already.
                    if key.is_none() || !self.dice.once_in(3) {
                        break;
                    }
                }
                Err(CallError::NoAnswer) if key.is_none() => break,
                Err(CallError::Refused(429 | 503) | CallError::NoAnswer) => {}
                Err(error) => self.broken(&format!("a submission fails: {error}")),
            }
            sleep(Duration::from_secs(1)).await;
        }
        accepted
    }

    /// Checks what the coordinator says of a task against what it said before.
    fn check(&self, followed: &mut Followed, status: &InferenceStatus) {
        if status.id != followed.task {
            self.broken("the status is of another task");
        }
        if let Some(end) = followed.end
            && end != status.status
        {
            self.broken(&format!("a task that was {end:?} is {:?}", status.status));
        }
        if status.status.is_terminal() && followed.end.is_none() {
            followed.end = Some(status.status);
            self.caller.trace.note(self.caller.name(), format_args!("task {:?}", status.status));
        }
        if status.status == TaskState::Finished {
            let done = status.steps.iter().filter(|unit| unit.state == UnitState::Finished);
            let last = done.filter_map(|unit| unit.placed.last()?.task);
            followed.steps = last.collect();
        }
        // What a budget or the time has left of a divided task is no answer.
        let whole = status.result.as_ref().filter(|result| result.finish_reason != "partial");
        let text = whole.map(|result| result.text.as_str());
        match (status.status, text) {
            (TaskState::Finished, Some(text)) => {
                if text != followed.answer {
                    self.broken("a durable task has another's answer, or a part of one");
                }
            }
            (TaskState::Finished, None) => self.broken("a finished task has no result"),
            (_, Some(_)) => self.broken("a task that is not finished has a result"),
            (_, None) => {}
        }
    }

    fn broken(&self, what: &str) {
        self.caller.trace.broken(self.caller.name(), what);
    }
}

/// Returns what is submitted, and the answer to it.
fn submission(
    name: &str,
    act: &Act,
    deadline: Duration,
    divided: Option<Divided>,
) -> (Value, String) {
    let (question, answer) =
        (Counting::question(name, act.words), Counting::answer(name, act.words));
    match divided {
        None => {
            let mut request = InferenceRequest::new(model(act), question.as_str());
            request.deadline = Some(deadline);
            (json!(request), answer)
        }
        Some(Divided::Consensus) => {
            let millis = u64::try_from(deadline.as_millis()).expect("it is short");
            let request = json!({
                "model": act.model, "prompt": question, "deadline_ms": millis,
                "mode": "consensus", "replicas": 2, "quorum": 2,
            });
            (request, answer)
        }
        Some(Divided::Chained) => {
            let (second, words) = (format!("{name}-then"), act.words.max(1));
            let plan = json!({
                "model": act.model,
                "budget": { "seconds": deadline.as_secs() },
                "steps": [
                    { "name": "first", "prompt": Counting::question(name, words), "retries": 1 },
                    {
                        "name": "second",
                        "prompt": Counting::question(&second, words),
                        "when": { "step": "first", "contains": "never said", "not": true },
                    },
                    { "name": "both", "join": {
                        "of": ["first", "second"], "how": "concat", "separator": "|",
                    }},
                ],
            });
            let answers = [Counting::answer(name, words), Counting::answer(&second, words)];
            (json!({ "plan": plan }), answers.join("|"))
        }
    }
}

fn model(act: &Act) -> iris_core::ModelName {
    act.model.parse().expect("it is a model's name")
}
