//! The command line and its help, written for someone who has never seen Iris.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use iris_core::TaskId;
use iris_protocol::rest::KeyScope;

use crate::settings::Flags;

const AFTER: &str = "\
First steps:
  iris account new                     open an account; it prints 16 digits: keep them
  iris key new                         exchange the digits for an API key
  export IRIS_API_KEY=iris_...         let this command use the key
  iris ask \"Why is the sky blue?\"      ask

Settings: a flag wins over the environment, the environment over the file given with --config.
  IRIS_URL, COORDINATOR_URL   the network's address; several, separated by commas, are tried in turn
  IRIS_API_KEY                your API key (in a file: api_key)
  IRIS_MODEL                  the model to ask (in a file: model)
  IRIS_ACCOUNT_KEY            your account's 16 digits, for `iris key new`
  IRIS_CA_FILE, IRIS_ALLOW_PLAIN_HTTP, IRIS_TIMEOUT_SECS
                              as the flags of these names (in a file: ca_file and so on)

Exit codes:
    0  done
    1  the answer could not be written
    2  wrong usage or settings
    3  the key is missing, unknown or may not do this
    4  the network does not have this model
    5  nobody can answer now: no node, a full queue or a used-up quota; try again later
    6  the request was refused
    7  the answer broke off, or the work failed
    8  the network cannot be reached, or did not answer in time
  130  interrupted by Ctrl-C";

const SETTINGS: &str = "Settings";

const URL_HELP: &str = "Address of the network's coordinator [default: http://127.0.0.1:8080]";

/// Ask an Iris network: AI models that run on machines of its members.
///
/// A coordinator takes your question and hands it to a node, a member's machine with a suitable
/// model; the answer comes back as it is written.
#[derive(Debug, Parser)]
#[command(name = "iris", version, after_help = AFTER, arg_required_else_help = true)]
pub(super) struct Cli {
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "URL", help = URL_HELP)]
    url: Option<String>,
    /// Read settings from this file (TOML, YAML or JSON, by its extension)
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE", env = "IRIS_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Print the settings in force, without secrets, and exit
    #[arg(long, global = true, help_heading = SETTINGS)]
    pub(super) print_config: bool,
    /// Trust only the certificate authorities in this PEM file
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE")]
    ca_file: Option<String>,
    /// Let keys travel unencrypted to another machine (never over the internet)
    #[arg(long, global = true, help_heading = SETTINGS)]
    allow_plain_http: bool,
    /// Give up after this many seconds without an answer [default: 600]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

impl Cli {
    pub(super) fn flags(&self) -> Flags {
        let model = match &self.command {
            Some(Command::Ask(ask)) => ask.question.model.clone(),
            Some(Command::Task(TaskCommand::Submit(submit))) => submit.question.model.clone(),
            _ => None,
        };
        Flags {
            url: self.url.clone(),
            model,
            ca_file: self.ca_file.clone(),
            allow_plain_http: self.allow_plain_http.then_some(true),
            timeout_secs: self.timeout,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask a question and print the answer as it is written
    Ask(Ask),
    /// List the models that can be asked
    Models(Json),
    /// Open an account
    #[command(subcommand)]
    Account(AccountCommand),
    /// Make API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Hand in questions that are answered even if you disconnect
    #[command(subcommand)]
    Task(TaskCommand),
    /// Check whether the network is at work
    Health(Json),
}

#[derive(Clone, Debug, Args)]
pub(super) struct Json {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The question; `-` reads it from standard input
    #[arg(required = true, value_name = "QUESTION")]
    pub(super) words: Vec<String>,
    /// The model to ask; may be left out where the network offers only one
    #[arg(long, short, value_name = "NAME")]
    model: Option<String>,
    /// Longest answer, in tokens (a token is about three quarters of a word)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_tokens: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Ask {
    #[command(flatten)]
    pub(super) question: Question,
    /// Instructions for the model, such as "answer in French"
    #[arg(long, short, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// How freely words are chosen, from 0 (always the likeliest) to 2
    #[arg(long, short, value_name = "T", value_parser = temperature)]
    pub(super) temperature: Option<f64>,
    /// Print the whole answer as JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
    /// Print the answer when it is complete, not as it is written
    #[arg(long)]
    pub(super) no_stream: bool,
    /// Tell afterwards which node answered, and how fast
    #[arg(long, short)]
    pub(super) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Open an account and print its 16 digits
    ///
    /// The digits are the account: whoever knows them owns it, and nobody can recover them.
    New(Json),
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Exchange your account's 16 digits for an API key and print it
    ///
    /// The digits are read from `IRIS_ACCOUNT_KEY`, else from standard input; never from an
    /// argument, which other users of this machine could see.
    New(NewKey),
}

#[derive(Debug, Args)]
pub(super) struct NewKey {
    /// What the key may do: ask models, connect nodes, look at the network, or run it
    #[arg(long, default_value = "inference", value_parser = scope())]
    pub(super) scope: KeyScope,
    /// Your own name for the key
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,
    #[command(flatten)]
    pub(super) output: Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// Hand in a question and print the task's id
    Submit(Submit),
    /// Print where a task stands
    Status(OneTask),
    /// Wait until a task has ended and print its answer
    Wait(OneTask),
    /// Withdraw a task
    Cancel(OneTask),
    /// Tell why a task went to its node and not to another
    Explain(OneTask),
}

#[derive(Debug, Args)]
pub(super) struct Submit {
    #[command(flatten)]
    pub(super) question: Question,
    /// Give the task up when it has no answer after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) deadline: Option<u64>,
    /// Submitting again with the same text is the same task
    #[arg(long, value_name = "TEXT")]
    pub(super) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(super) output: Json,
}

#[derive(Debug, Args)]
pub(super) struct OneTask {
    /// The id that `iris task submit` printed
    pub(super) id: TaskId,
    #[command(flatten)]
    pub(super) output: Json,
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=2.0).contains(&value) { Ok(value) } else { Err("not between 0 and 2".to_owned()) }
}

fn scope() -> impl TypedValueParser<Value = KeyScope> {
    PossibleValuesParser::new(KeyScope::ALL.map(KeyScope::as_str)).try_map(|name| {
        let scope = KeyScope::ALL.into_iter().find(|scope| scope.as_str() == name);
        scope.ok_or("no such scope")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_flag_takes_a_secret() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        assert!(!help.contains("--api-key") && !help.contains("--account-key"));
        let refused = Cli::try_parse_from(["iris", "key", "new", "1234567890123456"]);
        assert!(refused.is_err());
    }
}
