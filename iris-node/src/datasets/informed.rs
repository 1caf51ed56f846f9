use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, stream};
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest, Operation};
use iris_core::model::ModelOffer;
use tracing::error;

use super::request::{inform, may_wish, members, rejected, take_wish};
use super::{Datasets, Loaded};

/// A backend whose prompts may be about data sets of the node.
///
/// Requests that ask for none pass as they are.
#[derive(Debug)]
pub(crate) struct Informed {
    inner: Arc<dyn Backend>,
    datasets: Arc<Datasets>,
    /// How much each model reads, as last listed.
    contexts: Arc<Mutex<BTreeMap<ModelName, u32>>>,
}

impl Informed {
    pub(crate) fn new(inner: Arc<dyn Backend>, datasets: Arc<Datasets>) -> Self {
        Self { inner, datasets, contexts: Arc::default() }
    }

    fn contexts(&self) -> MutexGuard<'_, BTreeMap<ModelName, u32>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Informed {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let listing = self.inner.models().inspect_ok(|offers| {
            let context = |offer: &ModelOffer| (offer.name.clone(), offer.context_length);
            *self.contexts() = offers.iter().map(context).collect();
        });
        listing.boxed()
    }

    fn may_load(&self) -> bool {
        self.inner.may_load()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        if !may_wish(&request.body) {
            return self.inner.generate(request);
        }
        let (inner, datasets) = (Arc::clone(&self.inner), Arc::clone(&self.datasets));
        let context = self.contexts().get(&request.model).copied();
        let answer = async move {
            match prepare(&datasets, request, context).await {
                Ok((request, informed)) => {
                    let answer = inner.generate(request);
                    let silent = move |item: Result<_, _>| {
                        item.map_err(|error| if informed { without_texts(error) } else { error })
                    };
                    answer.map(silent).boxed()
                }
                Err(refusal) => stream::once(async { Err(refusal) }).boxed(),
            }
        };
        answer.flatten_stream().boxed()
    }
}

/// Puts the data that a request asks for into it; returns whether it asked for any.
async fn prepare(
    datasets: &Datasets,
    request: GenerateRequest,
    context: Option<u32>,
) -> Result<(GenerateRequest, bool), BackendError> {
    let body = request.body.clone();
    let Some(mut members) = members(&body) else { return Ok((request, false)) };
    let Some(wish) = take_wish(&mut members)? else { return Ok((request, false)) };
    let Some(dataset) = datasets.get(&wish.name) else {
        let message = "This node has no data set of this name.".to_owned();
        return Err(rejected(404, "dataset_not_found", message));
    };
    if !dataset.admits(wish.key.as_deref()) {
        let message = "This data set is for those who know its key.".to_owned();
        return Err(rejected(403, "dataset_forbidden", message));
    }
    if request.operation != Operation::Chat || request.begun.is_some() {
        let message = "A data set goes with a chat that begins on its node.".to_owned();
        return Err(rejected(400, "invalid_dataset", message));
    }
    let file = Arc::clone(&dataset.file);
    let read = tokio::task::spawn_blocking(move || file.read()).await;
    let data: Loaded = match read {
        Ok(Ok(data)) => data,
        Ok(Err(fault)) => {
            error!(dataset = &*wish.name, %fault, "a data set cannot be read");
            return Err(BackendError::Failed);
        }
        Err(_panic) => return Err(BackendError::Failed),
    };
    let body = inform(members, &wish.name, &data, context)?;
    // Nothing of the data may stay in a cache that others' prompts meet.
    Ok((GenerateRequest { body, isolated: true, ..request }, true))
}

/// Returns a failure without what a model server says of it, since servers quote prompts.
fn without_texts(error: BackendError) -> BackendError {
    match error {
        BackendError::Rejected { status, .. } => rejected(
            status,
            "rejected_with_dataset",
            "The model server rejected the prompt together with the data set.".to_owned(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use iris_core::backend::{Script, ScriptedBackend};
    use iris_protocol::rest::Secret;
    use serde_json::{Value, json};

    use super::*;
    use crate::datasets::{Access, DatasetError};

    const KEY: &str = "0123456789abcdef";

    struct Node {
        folder: tempfile::TempDir,
        backend: Informed,
        /// What the inner backend was asked.
        seen: Arc<Mutex<Vec<GenerateRequest>>>,
    }

    impl Node {
        fn new(script: &Script) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut datasets = Datasets::new();
            for (name, text, access) in [
                ("open.csv", "day,beds\n1,hunter2", Access::Anyone),
                ("closed.json", "[\"hunter2\"]", Access::Key(Secret::new(KEY))),
            ] {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                datasets.add(name.split('.').next().unwrap(), path, access).unwrap();
            }
            let seen: Arc<Mutex<Vec<_>>> = Arc::default();
            let (asked, script) = (Arc::clone(&seen), script.clone());
            let offer = ModelOffer::new("m".parse().unwrap(), 200);
            let inner = ScriptedBackend::new([offer], move |request| {
                asked.lock().unwrap().push(request.clone());
                script.clone()
            });
            let backend = Informed::new(Arc::new(inner), Arc::new(datasets));
            Self { folder, backend, seen }
        }

        async fn ask(&self, wish: &Value) -> Result<Value, (u16, String)> {
            let messages = json!([{"role": "user", "content": "q"}]);
            let body = json!({"model": "m", "messages": messages, "iris_dataset": wish});
            match self.send(body.to_string().into()).await {
                Ok(body) => Ok(serde_json::from_slice(&body).unwrap()),
                Err(BackendError::Rejected { status, code, message, .. }) => {
                    assert!(!message.contains("hunter2"));
                    Err((status, code.unwrap()))
                }
                Err(other) => panic!("{other:?}"),
            }
        }

        /// Sends a body and returns what the inner backend saw.
        async fn send(&self, body: Bytes) -> Result<Bytes, BackendError> {
            let request = GenerateRequest {
                operation: Operation::Chat,
                model: "m".parse().unwrap(),
                body,
                stream: true,
                time_left: Duration::from_secs(1),
                begun: None,
                isolated: false,
            };
            let before = self.seen.lock().unwrap().len();
            let mut answer = self.backend.generate(request);
            while let Some(chunk) = answer.next().await {
                chunk?;
            }
            assert!(answer.next().await.is_none(), "it stays ended");
            let seen = self.seen.lock().unwrap();
            assert_eq!(seen.len(), before + 1);
            Ok(seen[before].body.clone())
        }
    }

    fn system(body: &Value) -> &str {
        body["messages"][0]["content"].as_str().unwrap()
    }

    #[tokio::test]
    async fn data_are_for_those_who_may_use_them() {
        let node = Node::new(&Script::new().text("ok"));
        let body = node.ask(&json!({"name": "open"})).await.unwrap();
        assert!(system(&body).contains("1,hunter2"));
        assert!(node.seen.lock().unwrap()[0].isolated);
        let body = node.ask(&json!({"name": "closed", "key": KEY})).await.unwrap();
        assert!(system(&body).contains("[\"hunter2\"]") && !body.to_string().contains(KEY));
        for key in [json!(null), json!(""), json!("0123456789abcdeF"), json!(&KEY[..15])] {
            let refused = node.ask(&json!({"name": "closed", "key": key})).await.unwrap_err();
            assert_eq!(refused, (403, "dataset_forbidden".to_owned()), "{key}");
        }
        let refused = node.ask(&json!({"name": "absent", "key": KEY})).await.unwrap_err();
        assert_eq!(refused, (404, "dataset_not_found".to_owned()));
        assert_eq!(node.seen.lock().unwrap().len(), 2, "no refusal reaches the model");
    }

    #[tokio::test]
    async fn requests_without_a_wish_pass_byte_for_byte() {
        let node = Node::new(&Script::new().text("ok"));
        for body in [
            "{ \"model\" : \"m\", \"messages\":[ ], \"x\":1.0e1 }",
            "{\"messages\":[{\"role\":\"user\",\"content\":\"iris_dataset\"}], \"z\": 1}",
            "{\"metadata\":{\"iris_dataset\": 1 }}",
        ] {
            assert_eq!(node.send(Bytes::from_static(body.as_bytes())).await.unwrap(), body);
        }
        assert!(!node.seen.lock().unwrap()[0].isolated);
    }

    #[tokio::test]
    async fn data_that_have_grown_are_refused_and_such_that_are_gone_are_the_nodes_fault() {
        let node = Node::new(&Script::new().text("ok"));
        node.backend.models().await.unwrap();
        assert!(node.ask(&json!({"name": "open"})).await.is_ok());
        let path = node.folder.path().join("open.csv");
        std::fs::write(&path, "x".repeat(1000)).unwrap();
        let refused = node.ask(&json!({"name": "open"})).await.unwrap_err();
        assert_eq!(refused, (413, "dataset_too_large".to_owned()));
        std::fs::remove_file(path).unwrap();
        let body = r#"{"model":"m","messages":[],"iris_dataset":{"name":"open"}}"#;
        assert_eq!(node.send(body.into()).await, Err(BackendError::Failed));
    }

    #[tokio::test]
    async fn what_a_model_server_says_of_the_data_is_not_passed_on() {
        let error = BackendError::Rejected {
            status: 422,
            code: Some("hunter2".to_owned()),
            param: None,
            message: "cannot read hunter2".to_owned(),
        };
        let node = Node::new(&Script::new().fail(error.clone()));
        let refused = node.ask(&json!({"name": "open"})).await.unwrap_err();
        assert_eq!(refused, (422, "rejected_with_dataset".to_owned()));
        assert_eq!(node.send("{}".into()).await, Err(error), "others are passed on");
    }

    #[test]
    fn data_sets_that_cannot_be_offered_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "a").unwrap();
        let mut datasets = Datasets::new();
        let mut add = |name: &str, access| datasets.add(name, &path, access);
        let key = |key: &str| Access::Key(Secret::new(key));
        for name in ["", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(matches!(add(name, Access::Anyone), Err(DatasetError::Name)), "{name}");
        }
        assert!(matches!(add("a", key("short")), Err(DatasetError::ShortKey)));
        assert!(add("a", key(KEY)).is_ok());
        assert!(matches!(add("a", Access::Anyone), Err(DatasetError::Twice)));
        for number in 1..32 {
            assert!(add(&format!("a{number}"), Access::Anyone).is_ok());
        }
        assert!(matches!(add("b", Access::Anyone), Err(DatasetError::TooMany)));
        let names = datasets.names();
        assert_eq!(names.len(), 32);
        assert!(!format!("{datasets:?}").contains(KEY));
    }
}
