//! Model servers on this machine: which of them answer, what they are and what they have.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use futures::future::join_all;
use iris_protocol::rest::Secret;
use serde::Serialize;
use serde_json::Value;

use crate::http::{Answer, Http, cause};

/// Models of one server that are listed.
const MAX_MODELS: usize = 200;

/// What kind of server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Kind {
    #[serde(rename = "LM Studio")]
    LmStudio,
    Ollama,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    #[serde(rename = "vLLM")]
    Vllm,
    /// It has a list of models as the OpenAI API has it.
    #[serde(rename = "OpenAI-compatible")]
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LmStudio => "LM Studio",
            Self::Ollama => "Ollama",
            Self::LlamaCpp => "llama.cpp",
            Self::Vllm => "vLLM",
            Self::Other => "OpenAI-compatible",
        })
    }
}

impl Kind {
    /// Says how to keep a server to its own machine.
    pub(crate) const fn closing(self) -> &'static str {
        match self {
            Self::LmStudio => "turn off \"Serve on Local Network\" in LM Studio's developer page",
            Self::Ollama => "start Ollama with OLLAMA_HOST=127.0.0.1",
            Self::LlamaCpp => "start llama-server with --host 127.0.0.1, or with --api-key",
            Self::Vllm => "start vLLM with --host 127.0.0.1, or with --api-key",
            Self::Other => "let it listen on 127.0.0.1 alone, or want a key",
        }
    }
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nobody answers there, for this reason.
    Nobody(String),
    /// A coordinator of Iris, whose models are other people's.
    Coordinator,
    /// A server that tells nothing without a key, or with this one.
    Locked,
    /// Something that is no model server.
    Stranger,
    Server(Found),
}

/// A model server that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) url: String,
    pub(crate) kind: Kind,
    pub(crate) version: Option<String>,
    pub(crate) models: Vec<Model>,
}

/// A model that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) is_loaded: bool,
}

impl Found {
    /// Returns the models that can be offered at once.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &str> {
        self.models.iter().filter(|model| model.is_loaded).map(|model| model.name.as_str())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(version) = &self.version {
            write!(f, " {version}")?;
        }
        write!(f, " at {}", self.url)
    }
}

/// Looks at `ports` of this machine, all at once, and tells of what answers.
pub(crate) async fn look_around(
    http: &Http,
    ports: &[u16],
    key: Option<&Secret>,
) -> Vec<(String, Look)> {
    let looks = ports.iter().map(|port| async move {
        let url = format!("http://127.0.0.1:{port}");
        let look = look_at(http, &url, key).await;
        (url, look)
    });
    let looks = join_all(looks).await;
    looks.into_iter().filter(|(_, look)| !matches!(look, Look::Nobody(_))).collect()
}

/// Looks who is at `url`.
pub(crate) async fn look_at(http: &Http, url: &str, key: Option<&Secret>) -> Look {
    let url = root(url);
    let server = Server { http, url: &url, key };
    // A port of model servers may be the coordinator's, too.
    let first = match server.ask("healthz").await {
        Ok(first) => first,
        Err(error) => return Look::Nobody(cause(&error)),
    };
    if is_coordinator(&first) {
        return Look::Coordinator;
    }
    let found = match server.lm_studio().await {
        Some(found) => Some(found),
        None => match server.ollama().await {
            Some(found) => Some(found),
            None => match server.llama_cpp().await {
                Some(found) => Some(found),
                None => server.plain().await,
            },
        },
    };
    if let Some((kind, version, mut models)) = found {
        models.truncate(MAX_MODELS);
        return Look::Server(Found { url: url.clone(), kind, version, models });
    }
    match server.ask("v1/models").await {
        Ok(answer) if answer.wants_key() => Look::Locked,
        _ => Look::Stranger,
    }
}

/// Returns the address without the version that may end it.
fn root(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url).trim_end_matches('/').to_owned()
}

type Known = (Kind, Option<String>, Vec<Model>);

struct Server<'a> {
    http: &'a Http,
    url: &'a str,
    key: Option<&'a Secret>,
}

impl Server<'_> {
    async fn ask(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.http.get(&format!("{}/{path}", self.url), self.key).await
    }

    /// Reads an answer; `None` when there is none, or it is no JSON.
    async fn json(&self, path: &str) -> Option<Value> {
        self.ask(path).await.ok()?.json()
    }

    async fn lm_studio(&self) -> Option<Known> {
        let list = match self.json("api/v1/models").await.and_then(|list| lm_studio(&list)) {
            Some(models) => Some(models),
            // Before 0.4.
            None => self.json("api/v0/models").await.and_then(|list| lm_studio_old(&list)),
        };
        Some((Kind::LmStudio, None, list?))
    }

    async fn ollama(&self) -> Option<Known> {
        let running = names(&self.json("api/ps").await?, "models", "model")?;
        let version = self.json("api/version").await.and_then(|told| text(&told, "version"));
        let all = self.json("api/tags").await.and_then(|list| names(&list, "models", "model"));
        let running: BTreeSet<_> = running.into_iter().collect();
        let all: BTreeSet<_> = all.unwrap_or_default().into_iter().chain(running.clone()).collect();
        let model = |name: String| Model { is_loaded: running.contains(&name), name };
        Some((Kind::Ollama, version, all.into_iter().map(model).collect()))
    }

    async fn llama_cpp(&self) -> Option<Known> {
        let props = self.json("props").await?;
        props.get("default_generation_settings")?;
        Some((Kind::LlamaCpp, text(&props, "build_info"), self.listed().await?.1))
    }

    async fn plain(&self) -> Option<Known> {
        let (owner, models) = self.listed().await?;
        let version = self.json("version").await.and_then(|told| text(&told, "version"));
        let kind = if owner.as_deref() == Some("vllm") { Kind::Vllm } else { Kind::Other };
        Some((kind, version, models))
    }

    /// Returns the models of the OpenAI API's list, and who owns the first.
    async fn listed(&self) -> Option<(Option<String>, Vec<Model>)> {
        let list = self.json("v1/models").await?;
        let owner = list.get("data")?.get(0).and_then(|model| text(model, "owned_by"));
        let loaded = |name| Model { name, is_loaded: true };
        Some((owner, names(&list, "data", "id")?.into_iter().map(loaded).collect()))
    }
}

fn is_coordinator(answer: &Answer) -> bool {
    let told: Value = answer.json().unwrap_or_default();
    ["status", "version", "nodes", "models"].iter().all(|name| told.get(name).is_some())
}

/// Reads LM Studio's list, where the instances that are loaded stand with each model.
fn lm_studio(list: &Value) -> Option<Vec<Model>> {
    let model = |model: &Value| {
        let name = text(model, "key")?;
        let instances = model.get("loaded_instances")?.as_array()?;
        let loaded: Vec<_> = instances.iter().filter_map(|one| text(one, "id")).collect();
        let model = |is_loaded| move |name| Model { name, is_loaded };
        Some(if loaded.is_empty() {
            vec![model(false)(name)]
        } else {
            loaded.into_iter().map(model(true)).collect()
        })
    };
    let models = list.get("models")?.as_array()?;
    Some(models.iter().map(model).collect::<Option<Vec<_>>>()?.concat())
}

/// Reads the list that LM Studio had before.
fn lm_studio_old(list: &Value) -> Option<Vec<Model>> {
    let model = |model: &Value| {
        let is_loaded = text(model, "state")? == "loaded";
        Some(Model { name: text(model, "id")?, is_loaded })
    };
    list.get("data")?.as_array()?.iter().map(model).collect()
}

fn names(list: &Value, of: &str, name: &str) -> Option<Vec<String>> {
    list.get(of)?.as_array()?.iter().map(|model| text(model, name)).collect()
}

/// Reads a text that is fit to be shown.
fn text(object: &Value, name: &str) -> Option<String> {
    let text = object.get(name)?.as_str()?;
    let shown: String = text.chars().filter(|c| !iris_core::model::is_invisible(*c)).collect();
    (!shown.is_empty()).then(|| shown.chars().take(200).collect())
}

/// Returns an address under which others reach the server at `url`, which means itself for this
/// machine alone, when it answers there without a key.
pub(crate) async fn open_to_others(http: &Http, url: &str) -> Option<IpAddr> {
    let port = local_port(url)?;
    for address in other_addresses() {
        let url = format!("http://{}/v1/models", SocketAddr::new(address, port));
        // Ollama and LM Studio have this list, too.
        if let Ok(answer) = http.get(&url, None).await
            && answer.status == 200
        {
            return Some(address);
        }
    }
    None
}

/// Returns the port of a server that is reached within this machine; `None` for others.
pub(crate) fn local_port(url: &str) -> Option<u16> {
    let root = root(url);
    let (host, port) = root.strip_prefix("http://")?.rsplit_once(':')?;
    matches!(host, "localhost" | "127.0.0.1" | "[::1]").then_some(())?;
    port.parse().ok()
}

/// Returns addresses of this machine at which only those are heard who listen at all of them.
fn other_addresses() -> Vec<IpAddr> {
    // No packet is sent: it is looked up from where one would be.
    let outward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    let outward = outward.ok().map(|from| from.ip()).filter(|ip| !ip.is_loopback());
    // Linux has the whole network 127 on each machine.
    let second = cfg!(target_os = "linux").then(|| IpAddr::from([127, 0, 0, 2]));
    outward.into_iter().chain(second).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_their_version() {
        for url in ["http://a:1", "http://a:1/", " http://a:1/v1 ", "http://a:1/v1/"] {
            assert_eq!(root(url), "http://a:1");
        }
    }

    #[test]
    fn lists_tell_what_is_loaded() {
        let list = json!({"models": [
            {"type": "llm", "key": "a", "loaded_instances": []},
            {"type": "llm", "key": "b", "loaded_instances": [{"id": "b"}, {"id": "b:2"}]},
        ]});
        let told: Vec<_> =
            lm_studio(&list).unwrap().into_iter().map(|m| (m.name, m.is_loaded)).collect();
        let expected = [("a", false), ("b", true), ("b:2", true)];
        assert_eq!(told, expected.map(|(name, loaded)| (name.to_owned(), loaded)));
        // Ollama's list of what runs has the same shape, but for the names.
        assert_eq!(lm_studio(&json!({"models": [{"model": "a"}]})), None);
        let old =
            json!({"data": [{"id": "a", "state": "loaded"}, {"id": "b", "state": "not-loaded"}]});
        assert_eq!(lm_studio_old(&old).unwrap().iter().filter(|m| m.is_loaded).count(), 1);
        assert_eq!(lm_studio_old(&json!({"data": [{"id": "a"}]})), None);
    }

    #[test]
    fn what_servers_call_things_is_shown_clean() {
        let told = json!({"version": "1\u{1b}[2J\u{202e}2", "none": "\u{200b}"});
        assert_eq!(text(&told, "version").as_deref(), Some("1[2J2"));
        assert_eq!(text(&told, "none"), None);
    }
}
