//! From the node to the model: the server or the engine, its models, a first token, the speed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest, Operation};
use iris_core::model::TokenRate;
use iris_node::backend::on_demand::OnDemand;
use iris_node::speed;
use tokio::time::timeout;

use super::{Check, Report, State, files};
use crate::failure::Exit;
use crate::http::Http;
use crate::models::{self, Models};
use crate::servers::{self, Look};
use crate::settings::Settings;

/// How long the first token may take; a server may load its model first.
const FIRST_TOKEN: Duration = Duration::from_mins(1);
/// How long the trial of a model may take.
const TRIAL: Duration = Duration::from_secs(15);

/// Returns how fast the first model of the last server writes, where that was measured.
pub(super) async fn check(
    settings: &Settings,
    http: &Http,
    report: &mut Report,
) -> Option<TokenRate> {
    let mut none_answers = true;
    for url in settings.model_servers() {
        let server = server(settings, http, url).await;
        let answers = server.state == State::Ok;
        report.add(server);
        if answers && servers::local_port(url).is_some() {
            report.add(exposure(http, url).await);
        }
        none_answers &= !answers;
    }
    if none_answers && settings.engine.is_none() {
        for link in ["models", "first token", "speed"] {
            report.add(Check::skip(link, "a model server"));
        }
        return None;
    }
    let models = match Models::set_up(settings) {
        Ok(models) => models,
        Err(failure) => {
            let advice = "see `iris-node --help` for --model-server and --engine";
            report.add(Check::fail("models", failure.exit, failure.to_string(), advice));
            return None;
        }
    };
    let loader = models.files().cloned();
    let mut rate = None;
    for backend in models.into_backends() {
        rate = rate.max(offered(&*backend, report).await);
    }
    if let Some(loader) = loader
        && let Some(capacity) = files::check(&loader, settings, report).await
    {
        let on_demand = OnDemand::new(loader, capacity);
        rate = rate.max(offered(&on_demand, report).await);
        on_demand.close().await;
    }
    rate
}

async fn server(settings: &Settings, http: &Http, url: &str) -> Check {
    const LINK: &str = "model server";
    let fail = |found: String, advice: &str| Check::fail(LINK, Exit::Work, found, advice);
    if let Err(failure) = models::server(settings, url) {
        let advice = "see `iris-node --help` for --model-server and --allow-remote-backend";
        return Check::fail(LINK, failure.exit, failure.to_string(), advice);
    }
    match servers::look_at(http, url, settings.model_server_key.as_ref()).await {
        Look::Server(found) => Check::ok(LINK, found.to_string()),
        Look::Nobody(cause) => fail(
            format!("nothing answers at {url}: {cause}"),
            "start it (LM Studio: `lms server start`; Ollama: `ollama serve`), or name another \
             with --model-server; `iris-node setup` looks for servers",
        ),
        Look::Coordinator => fail(
            format!("{url} is a coordinator of Iris"),
            "name the model server with --model-server; llama.cpp and Iris both like port 8080",
        ),
        Look::Locked => fail(
            format!("{url} does not answer without the right key"),
            "set IRIS_MODEL_SERVER_KEY to the server's key",
        ),
        Look::Stranger => fail(
            format!("{url} is something that has no list of models"),
            "name a server that speaks the OpenAI API with --model-server",
        ),
    }
}

async fn exposure(http: &Http, url: &str) -> Check {
    const LINK: &str = "its door";
    match servers::open_to_others(http, url).await {
        None => Check::ok(LINK, "nobody else gets to the model server without a key"),
        Some(address) => {
            let closing = match servers::look_at(http, url, None).await {
                Look::Server(found) => found.kind.closing(),
                _ => servers::Kind::Other.closing(),
            };
            Check::warn(
                LINK,
                format!(
                    "the model server listens at {address}, too, without a key: whoever reaches \
                     this machine uses it past Iris"
                ),
                closing,
            )
        }
    }
}

async fn offered(backend: &dyn Backend, report: &mut Report) -> Option<TokenRate> {
    let offers = match backend.models().await {
        Ok(offers) => offers,
        Err(error) => {
            report.add(Check::fail(
                "models",
                Exit::Work,
                error.to_string(),
                "see what the model server logs",
            ));
            report.add(Check::skip("first token", "models"));
            return None;
        }
    };
    if offers.is_empty() {
        report.add(Check::fail(
            "models",
            Exit::Work,
            "the model server has no model loaded",
            "load one there: a node offers what is loaded",
        ));
        report.add(Check::skip("first token", "a model"));
        return None;
    }
    let names: Vec<_> = offers.iter().take(5).map(|offer| offer.name.as_str()).collect();
    let more =
        if offers.len() > 5 { format!(" and {} more", offers.len() - 5) } else { String::new() };
    report.add(Check::ok("models", format!("{}{more}", names.join(", "))));
    let Some(first) = offers.iter().find(|offer| offer.answers()) else {
        let needs = "a model that answers: these turn texts into vectors alone";
        report.add(Check::skip("first token", needs));
        report.add(Check::skip("speed", needs));
        return None;
    };
    let token = first_token(backend, &first.name).await;
    let answers = token.state == State::Ok;
    report.add(token);
    if !answers {
        report.add(Check::skip("speed", "a first token"));
        return None;
    }
    let rate = speed::measure(backend, &first.name, TRIAL).await;
    report.add(speed(&first.name, rate));
    rate
}

async fn first_token(backend: &dyn Backend, model: &ModelName) -> Check {
    const LINK: &str = "first token";
    let asked = Instant::now();
    match timeout(FIRST_TOKEN, one_token(backend, model))
        .await
        .unwrap_or(Err(BackendError::Timeout))
    {
        Ok(()) => Check::ok(LINK, format!("{model} answered in {:.0?}", asked.elapsed())),
        Err(error) => Check::fail(
            LINK,
            Exit::Work,
            format!("{model}: {error}"),
            "ask the model server for a word by itself, and see what it logs",
        ),
    }
}

async fn one_token(backend: &dyn Backend, model: &ModelName) -> Result<(), BackendError> {
    let body = serde_json::json!({
        "model": model.as_str(),
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1,
        "stream": true,
    });
    let mut answer = backend.generate(GenerateRequest {
        operation: Operation::Chat,
        model: model.clone(),
        body: Bytes::from(body.to_string()),
        stream: true,
        time_left: FIRST_TOKEN,
        begun: None,
        isolated: false,
    });
    while let Some(chunk) = answer.next().await {
        if matches!(chunk?, Chunk::Finished(_)) {
            return Ok(());
        }
    }
    Err(BackendError::Malformed)
}

fn speed(model: &ModelName, rate: Option<TokenRate>) -> Check {
    const LINK: &str = "speed";
    match rate {
        Some(rate) if rate.as_millis() >= 5_000 => {
            Check::ok(LINK, format!("{model} writes {rate}"))
        }
        Some(rate) => Check::warn(
            LINK,
            format!("{model} writes {rate}, which few callers wait for"),
            "offer a smaller model, or one whose weights fit into the graphics card",
        ),
        None => Check::warn(
            LINK,
            format!("{model} wrote too little within {} s to be measured", TRIAL.as_secs()),
            "offer a smaller model; work will tell how fast this one is",
        ),
    }
}
