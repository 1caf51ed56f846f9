//! What a model server tells about itself.
//!
//! Each kind of server has a native list that knows more than `/v1/models`. The kind is found
//! out once, by asking for each list in turn, and again whenever its list is no longer there.

use std::sync::PoisonError;
use std::time::Duration;

use iris_core::backend::BackendError;
use iris_core::model::{Abilities, ModelOffer};
use iris_protocol::openai::count_values;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::http::{Answer, read_body};
use super::server::{Server, read_refusal};

pub(super) mod replies;

use replies::{LlamaCppProps, LmStudio, LmStudioOld, ModelList, OllamaModel, OllamaRunning};

/// How long listing the models may take, all attempts together.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// Bytes that a list may have.
const MAX_LIST: usize = 8 << 20;

/// Values that a list may have; hosted services describe a model in up to a hundred.
const MAX_VALUES: usize = 1 << 17;

/// Models that one server may offer.
const MAX_MODELS: usize = 1000;

/// What was learnt when the models were last listed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    kind: Option<Kind>,
    pub(super) slots: Option<u32>,
    says_continue: bool,
}

impl Seen {
    /// Returns whether the list may hold models that are not loaded.
    pub(super) fn may_load(self) -> bool {
        self.kind == Some(Kind::Plain)
    }

    /// Returns whether a request has to say that its last message goes on, if that is known.
    pub(super) fn says_continue(self) -> Option<bool> {
        self.kind.map(|_| self.says_continue)
    }
}

/// A kind of server, known by the list that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LmStudio,
    LmStudioOld,
    Ollama,
    LlamaCpp,
    Plain,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::LmStudio, Self::LmStudioOld, Self::Ollama, Self::LlamaCpp, Self::Plain];
}

/// What a server offers, and how many requests it works on at a time.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    offers: Vec<ModelOffer>,
    slots: Option<u32>,
    /// Whether a request has to say that its last message goes on.
    says_continue: bool,
}

/// Lists the models that are loaded.
pub(super) async fn models(server: &Server) -> Result<Vec<ModelOffer>, BackendError> {
    let known = server.seen.lock().unwrap_or_else(PoisonError::into_inner).kind;
    let facts = timeout(PROBE_TIME, recognise(server, known)).await;
    let facts = facts.unwrap_or(Err(BackendError::Timeout));
    *server.seen.lock().unwrap_or_else(PoisonError::into_inner) = match &facts {
        Ok((kind, Facts { slots, says_continue, .. })) => {
            Seen { kind: Some(*kind), slots: *slots, says_continue: *says_continue }
        }
        Err(_) => Seen::default(),
    };
    let (_, Facts { mut offers, .. }) = facts.map_err(|error| server.redacted(error))?;
    offers.truncate(MAX_MODELS);
    for offer in &mut offers {
        offer.abilities = offer.abilities.union(server.abilities);
        if offer.context_length == 0 {
            offer.context_length = server.context_length.max(1);
        }
    }
    Ok(offers)
}

async fn recognise(server: &Server, known: Option<Kind>) -> Result<(Kind, Facts), BackendError> {
    let others = Kind::ALL.into_iter().filter(|kind| Some(*kind) != known);
    for kind in known.into_iter().chain(others) {
        let facts = match kind {
            Kind::LmStudio => native::<LmStudio>(server, "api/v1/models").await?.map(Facts::from),
            Kind::LmStudioOld => {
                native::<LmStudioOld>(server, "api/v0/models").await?.map(Facts::from)
            }
            Kind::Ollama => ollama(server).await?,
            Kind::LlamaCpp => llama_cpp(server).await?,
            Kind::Plain => Some(Facts::from(model_list(server).await?)),
        };
        if let Some(facts) = facts {
            return Ok((kind, facts));
        }
    }
    Err(BackendError::Malformed)
}

async fn ollama(server: &Server) -> Result<Option<Facts>, BackendError> {
    let Some(running) = native::<OllamaRunning>(server, "api/ps").await? else {
        return Ok(None);
    };
    let mut offers = Vec::new();
    for running in running.models.into_iter().take(MAX_MODELS) {
        let asked = serde_json::json!({ "model": running.model }).to_string();
        let response = server.post_json("api/show", asked).await?;
        let model = read::<OllamaModel>(response).await?.unwrap_or_default();
        offers.extend(running.offer(&model));
    }
    Ok(Some(Facts { offers, ..Facts::default() }))
}

async fn llama_cpp(server: &Server) -> Result<Option<Facts>, BackendError> {
    let Some(props) = native::<LlamaCppProps>(server, "props").await? else {
        return Ok(None);
    };
    Ok(Some(props.facts(model_list(server).await?)))
}

async fn model_list(server: &Server) -> Result<ModelList, BackendError> {
    let response = server.get("v1/models").await?;
    if response.status().as_u16() != 200 {
        return Err(match read_refusal(response).await {
            // Whatever the server has against the question, nothing can be asked of it.
            BackendError::Rejected { .. } | BackendError::ModelNotFound => {
                BackendError::Unavailable
            }
            error => error,
        });
    }
    let body = read_list(response).await?;
    serde_json::from_slice(&body).map_err(|_| BackendError::Malformed)
}

/// Reads a list that only one kind of server has; `None` from the others.
pub(super) async fn native<T: DeserializeOwned>(
    server: &Server,
    path: &str,
) -> Result<Option<T>, BackendError> {
    read(server.get(path).await?).await
}

pub(super) async fn read<T: DeserializeOwned>(response: Answer) -> Result<Option<T>, BackendError> {
    if response.status().as_u16() != 200 {
        return Ok(None);
    }
    let body = read_list(response).await?;
    Ok(serde_json::from_slice(&body).ok())
}

/// Reads a list that does not grow beyond its bytes when it is read.
async fn read_list(response: Answer) -> Result<Vec<u8>, BackendError> {
    let body = read_body(response, MAX_LIST).await?;
    if count_values(&body) > MAX_VALUES { Err(BackendError::Malformed) } else { Ok(body) }
}

/// Returns what is offered in `json`, read as the list of each kind of server.
#[cfg(any(test, fuzzing))]
pub(super) fn offers_in(json: &[u8]) -> Vec<ModelOffer> {
    fn facts<T: DeserializeOwned + Into<Facts>>(json: &[u8]) -> Vec<ModelOffer> {
        serde_json::from_slice::<T>(json).map(|list| list.into().offers).unwrap_or_default()
    }
    let mut offers = facts::<LmStudio>(json);
    offers.extend(facts::<LmStudioOld>(json));
    offers.extend(facts::<ModelList>(json));
    if let (Ok(props), Ok(list)) = (serde_json::from_slice(json), serde_json::from_slice(json)) {
        offers.extend(LlamaCppProps::facts(props, list).offers);
    }
    if let Ok(running) = serde_json::from_slice::<OllamaRunning>(json) {
        let model = serde_json::from_slice(json).unwrap_or_default();
        offers.extend(running.models.into_iter().filter_map(|running| running.offer(&model)));
    }
    offers
}

/// Names the abilities that `yes` grants.
fn granted(yes: bool, ability: Abilities) -> Abilities {
    if yes { ability } else { Abilities::NONE }
}
