//! `iris keys`.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use iris_core::ModelName;
use iris_protocol::rest::{
    KeyCreated, KeyId, KeyList, KeyRequest, KeyScope, KeySummary, KeyTerms, Quota, RotateRequest,
};

use super::args::{Json, Rows};
use super::failure::Failure;
use super::figures::{ago, amount, parse_span, until};
use super::table::{Column, Table, distinct};
use super::terminal::{Output, remark};
use super::{now, prompt};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make an API key and print it
    ///
    /// The key belongs to the account that is logged in, or to that of the 16 digits in
    /// `IRIS_ACCOUNT_KEY`. Where there is neither, the digits are asked for, or read from standard
    /// input; never from an argument, which other users of this machine could see.
    New(Box<NewKey>),
    /// List your keys: what they may do, and when they were last used
    List(Rows),
    /// Replace a key by a new one that may do the same, and print it
    Rotate(Rotate),
    /// End a key at once
    Revoke(OneKey),
}

#[derive(Debug, Args)]
pub(super) struct NewKey {
    /// What the key may do: ask models, or connect nodes
    #[arg(long, default_value = "inference", value_parser = scope())]
    scope: KeyScope,
    /// Your own name for the key
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// A model that the key may ask; give it again for more [default: all]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<ModelName>,
    /// How long the key is good, such as 12h, 30d or 8w [default: without an end]
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    expires: Option<Duration>,
    /// Most requests in a minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_minute: Option<u32>,
    /// Most requests in a day
    #[arg(long, value_name = "N")]
    requests_per_day: Option<u64>,
    /// Most requests in a month
    #[arg(long, value_name = "N")]
    requests_per_month: Option<u64>,
    /// Most tokens of questions and answers in a day
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
    /// Most tokens of questions and answers in a month
    #[arg(long, value_name = "N")]
    tokens_per_month: Option<u64>,
    #[command(flatten)]
    output: Json,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    key: OneKey,
    /// How long the old key works beside the new one, such as 10min or 1d
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_span)]
    grace: Duration,
}

#[derive(Debug, Args)]
pub(super) struct OneKey {
    /// The key's id, as `iris keys list` shows it, or its label
    #[arg(value_name = "KEY")]
    name: String,
    #[command(flatten)]
    output: Json,
}

pub(super) enum Job {
    New { request: Box<KeyRequest>, format: Json },
    List(Rows),
    Rotate { name: String, grace: Duration, format: Json },
    Revoke { name: String, format: Json },
}

impl Job {
    /// Prepares a command of somebody who is logged in, or not.
    pub(super) fn prepare(args: &KeysCommand, is_logged_in: bool) -> Result<Self, Failure> {
        Ok(match args {
            KeysCommand::New(args) => Self::New {
                request: Box::new(args.request(is_logged_in)?),
                format: args.output.clone(),
            },
            KeysCommand::List(rows) => Self::List(rows.clone()),
            KeysCommand::Rotate(Rotate { key, grace }) => {
                Self::Rotate { name: key.name.clone(), grace: *grace, format: key.output.clone() }
            }
            KeysCommand::Revoke(key) => {
                Self::Revoke { name: key.name.clone(), format: key.output.clone() }
            }
        })
    }

    /// Returns whether the command's own body says whose key it is about.
    pub(super) const fn shows_digits(&self) -> bool {
        matches!(self, Self::New { request, .. } if request.account_key.is_some())
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::New { request, format } => {
                tell(&client.keys().create(&request).await?, &format, output)
            }
            Self::List(rows) => {
                let keys = client.keys().list().await?;
                if rows.json {
                    return Ok(output.json(&KeyList { keys })?);
                }
                if keys.is_empty() {
                    remark("there is no key; `iris keys new` makes one");
                    return Ok(());
                }
                Ok(table(&keys, now(), rows.wide).write(output, rows.wide)?)
            }
            Self::Rotate { name, grace, format } => {
                let key = find(client, &name).await?;
                let request = RotateRequest { grace_secs: grace.as_secs() };
                tell(&client.keys().rotate(key, &request).await?, &format, output)
            }
            Self::Revoke { name, format } => {
                let key = find(client, &name).await?;
                client.keys().revoke(key).await?;
                if format.json {
                    return Ok(output.json(&serde_json::json!({ "revoked": key }))?);
                }
                remark(&format!("the key {key} is good for nothing any more"));
                Ok(())
            }
        }
    }
}

impl NewKey {
    fn request(&self, is_logged_in: bool) -> Result<KeyRequest, Failure> {
        let account_key = match prompt::account_key_in_environment() {
            Some(digits) => Some(digits?),
            None if is_logged_in => None,
            None => Some(prompt::account_key()?),
        };
        let terms = KeyTerms {
            models: self.models.clone(),
            quota: Quota {
                requests_per_day: self.requests_per_day,
                requests_per_month: self.requests_per_month,
                tokens_per_day: self.tokens_per_day,
                tokens_per_month: self.tokens_per_month,
            },
            requests_per_minute: self.per_minute,
            expires: self.expires.map(|span| now().saturating_add(span.as_secs())),
        };
        Ok(KeyRequest { account_key, scope: self.scope, label: self.label.clone(), terms })
    }
}

fn tell(key: &KeyCreated, format: &Json, output: &mut Output) -> Result<(), Failure> {
    if format.json {
        return Ok(output.json(key)?);
    }
    output.line(key.key.expose())?;
    remark(match key.scope {
        KeyScope::Node => "this key is shown once; `iris-node` reads it from IRIS_NODE_KEY",
        _ => "this key is shown once; programs read it from IRIS_API_KEY",
    });
    Ok(())
}

/// Returns the key of this id, of an id that begins so, or of this label.
async fn find(client: &Client, name: &str) -> Result<KeyId, Failure> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let keys = client.keys().list().await?;
    let known = keys.iter().map(|key| (key.id, key.label.as_deref()));
    one_of(known, name, "key", "iris keys list")
}

/// Returns the one of `known` whose id begins with `name`, or whose label it is.
pub(super) fn one_of<'a>(
    known: impl Iterator<Item = (KeyId, Option<&'a str>)> + Clone,
    name: &str,
    what: &str,
    list: &str,
) -> Result<KeyId, Failure> {
    /// Less of an id could be a slip.
    const FEWEST: usize = 4;
    let by_id: Vec<_> = known
        .clone()
        .filter(|(id, _)| name.len() >= FEWEST && id.as_str().starts_with(name))
        .map(|(id, _)| id)
        .collect();
    let by_label: Vec<_> =
        known.filter(|(_, label)| *label == Some(name)).map(|(id, _)| id).collect();
    match (by_label.as_slice(), by_id.as_slice()) {
        ([id], []) | ([], [id]) => Ok(*id),
        ([], []) => Err(Failure::usage(format!("you have no {what} {name}; see `{list}`"))),
        _ => Err(Failure::usage(format!(
            "{name} may mean more than one {what}; give the whole id, from `{list} --wide`"
        ))),
    }
}

fn table(keys: &[KeySummary], now: u64, wide: bool) -> Table {
    let ids: Vec<_> = keys.iter().map(|key| key.id.to_string()).collect();
    let shown = if wide { usize::MAX } else { distinct(&ids) };
    let mut table = Table::new(&[
        Column::new("KEY", 0),
        Column::new("LABEL", 0).cut(),
        Column::new("SCOPE", 1),
        Column::new("ENDING", 4),
        Column::new("LAST USED", 2),
        Column::extra("MADE"),
        Column::new("EXPIRES", 3),
        Column::new("LIMITS", 5).cut(),
    ]);
    for (key, id) in keys.iter().zip(&ids) {
        table.row([
            id.chars().take(shown).collect(),
            key.label.clone().unwrap_or_default(),
            key.scope.as_str().to_owned(),
            format!("…{}", key.ending),
            key.last_used.map_or_else(|| "never".to_owned(), |then| ago(now, then)),
            ago(now, key.created),
            key.terms.expires.map_or_else(|| "-".to_owned(), |then| until(now, then)),
            limits(key),
        ]);
    }
    table
}

/// Says what a key is held to, with what was used of it.
fn limits(key: &KeySummary) -> String {
    let KeySummary { terms, used, .. } = key;
    let quota = |used: u64, most: Option<u64>, what: &str| {
        most.map(|most| format!("{} of {} {what}", amount(used), amount(most)))
    };
    let Quota { requests_per_day, requests_per_month, tokens_per_day, tokens_per_month } =
        terms.quota;
    let models: Vec<_> = terms.models.iter().map(ModelName::as_str).collect();
    let parts = [
        (!models.is_empty()).then(|| models.join(" ")),
        terms.requests_per_minute.map(|rate| format!("{rate}/min")),
        quota(used.requests_today, requests_per_day, "requests/day"),
        quota(used.requests_this_month, requests_per_month, "requests/month"),
        quota(used.tokens_today, tokens_per_day, "tokens/day"),
        quota(used.tokens_this_month, tokens_per_month, "tokens/month"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The scopes that accounts give to themselves; operators give all with `iris-coordinator`.
fn scope() -> impl TypedValueParser<Value = KeyScope> {
    const OWN: [KeyScope; 2] = [KeyScope::Inference, KeyScope::Node];
    PossibleValuesParser::new(OWN.map(KeyScope::as_str)).try_map(|name| {
        let scope = OWN.into_iter().find(|scope| scope.as_str() == name);
        scope.ok_or("no such scope")
    })
}
