//! The command line and its help, written for someone who has never seen Iris.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use iris_core::queue::Priority;
use iris_core::{NodeId, TaskId};
use iris_crypto::seal::Shape;

use super::account::AccountCommand;
use super::audit::AuditFile;
use super::dividing::{Dividing, Spreading};
use super::invite::InviteCommand;
use super::keys::KeysCommand;
use super::network::{Listing, Nodes};
use super::payouts::PayoutsArgs;
use super::run::Run;
use super::session::{Login, Register};
use super::verdicts::Verdicts;
use crate::settings::Flags;

const AFTER: &str = "\
First steps:
  iris register                        open an account: you are asked for what is needed
  iris login                           or log in to the one you have
  iris ask \"Why is the sky blue?\"      ask

Without an e-mail address: `iris account new` prints 16 digits that are an account (keep them), and
`iris login --digits` takes them. A closed network wants an invitation: `--invitation` asks for it.

For programs and nodes:
  iris keys new                        a key for a program that asks, in IRIS_API_KEY
  iris keys new --scope node           a key for iris-node, in IRIS_NODE_KEY

Divided work:
  iris ask --mode consensus --agree number \"How many days has a leap year?\"
  iris ask --file book.txt \"Who is the murderer?\"
  iris run plan.toml \"...\"              carry out a plan of your own

Who can read what you ask: only the node that answers, which does not learn who you are. The
question is sealed on this machine to a key of that node; the network's coordinator passes it on
and cannot open it. `iris ask --own` asks nothing but nodes of your own (see `iris trust`), and
`iris ask --open` lets the coordinator read it. Nothing is ever sent in a weaker way than you ask
for. `iris proxy` seals for any program that speaks the OpenAI API.

Settings: a flag wins over the environment, the environment over the file given with --config.
  IRIS_URL, COORDINATOR_URL   the network's address; several, separated by commas, are tried in turn
  IRIS_API_KEY                an API key, used rather than the session (in a file: api_key)
  IRIS_MODEL                  the model to ask (in a file: model)
  IRIS_ACCOUNT_KEY            your account's 16 digits, used rather than the session by `login`,
                              `account`, `keys` and `invite`
  IRIS_PASSWORD, IRIS_NEW_PASSWORD, IRIS_INVITATION
                              what you would be asked for, for scripts
  IRIS_CA_FILE, IRIS_ALLOW_PLAIN_HTTP, IRIS_TIMEOUT_SECS, IRIS_TRUST_FILE, IRIS_COORDINATOR
                              as the flags of these names (in a file: ca_file and so on)

Exit codes:
    0  done
    1  the answer could not be written
    2  wrong usage or settings
    3  nobody is logged in, a key or password is wrong or may not do this, or a fee is due
    4  the network does not have this model
    5  nobody can answer now: no node, a full queue or a used-up quota; try again later
    6  the request was refused
    7  the answer broke off, a budget was used up (what is there is printed), or the work failed
    8  the network cannot be reached, or did not answer in time
    9  privacy cannot be vouched for: nothing was asked, or the answer is not to be believed
   10  a month's books do not hold
  130  interrupted by Ctrl-C";

const SETTINGS: &str = "Settings";

const TRUST_HELP: &str = "Remember in this file which network is trusted, its nodes and your own \
    [default: one for each coordinator, in $XDG_STATE_HOME/iris or ~/.local/state/iris]";

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
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE", help = TRUST_HELP)]
    trust_file: Option<String>,
    /// Talk to the coordinator of this identity only (64 hexadecimal digits) [default: trust the
    /// one that answers first, and from then on no other]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "IDENTITY")]
    coordinator: Option<String>,
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
            Some(Command::Run(run)) => run.model.clone(),
            Some(Command::Task(TaskCommand::Submit(submit))) => submit.model.clone(),
            _ => None,
        };
        Flags {
            url: self.url.clone(),
            model,
            ca_file: self.ca_file.clone(),
            allow_plain_http: self.allow_plain_http.then_some(true),
            timeout_secs: self.timeout,
            trust_file: self.trust_file.clone(),
            coordinator: self.coordinator.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask a question and print the answer as it is written
    Ask(Box<Ask>),
    /// Carry out a plan of your own: steps that use what earlier ones answered
    ///
    /// PLAN is a file like this one, in TOML; YAML and JSON will do, too:
    ///
    ///   [[steps]]
    ///   name = "summary"
    ///   prompt = "Summarise: {{ input }}"
    ///
    ///   [[steps]]
    ///   name = "title"
    ///   prompt = "Write a title for: {{ summary }}"
    ///
    /// The last step gives the answer. Each step is sealed on its own, and this command puts the
    /// parts together, so the coordinator learns neither questions nor answers.
    #[command(verbatim_doc_comment)]
    Run(Box<Run>),
    /// List the models that can be asked
    Models(Json),
    /// Hand in questions that are answered even if you disconnect
    #[command(subcommand)]
    Task(TaskCommand),
    /// Offer an OpenAI address on this machine that seals what programs ask
    ///
    /// Point any program that speaks the OpenAI API at the address that is printed. What it asks
    /// is sealed on this machine, so that only the node that answers can read it. Only programs on
    /// this machine can connect.
    #[cfg(feature = "proxy")]
    Proxy(Proxy),
    /// Open an account with an e-mail address and a password, and log in
    ///
    /// The password is read from `IRIS_PASSWORD`, else you are asked for it, else it is a line of
    /// standard input; never an argument, which other users of this machine could see.
    Register(Register),
    /// Log in, so that `iris` on this machine needs no key
    ///
    /// The session is kept in a file that only you can read, and renewed by itself. The password
    /// is read from `IRIS_PASSWORD`, and an account's digits from `IRIS_ACCOUNT_KEY`; else you are
    /// asked for them, else they are a line of standard input.
    Login(Login),
    /// End the session
    Logout(Json),
    /// Open an account without a name, look at your own, or change its password
    #[command(subcommand)]
    Account(AccountCommand),
    /// Make, list, replace and end API keys, for programs and nodes
    #[command(subcommand, alias = "key")]
    Keys(KeysCommand),
    /// Invite others into the network
    #[command(subcommand)]
    Invite(InviteCommand),
    /// Print how large the network is, and what it does
    Stats(Json),
    /// List the nodes that are connected, or tell why one has the work that it has
    Nodes(Nodes),
    /// List the nodes by what they have done
    Reputation(Listing),
    /// List your tasks that are over
    History(Listing),
    /// List what your nodes earned, or tell how the share of one month was computed
    Payouts(PayoutsArgs),
    /// List what was found against your nodes, tell of one verdict, or object to it
    Verdicts(Verdicts),
    /// Compute a month's payments anew from its books, and say whether they are right
    ///
    /// The books are a file of JSON lines that the network's operator exports when a month is
    /// closed: what was done and paid, under pseudonyms. Nobody is asked, and the network is not
    /// needed.
    Audit(AuditFile),
    /// Look at what is trusted, and name nodes of your own
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Check the network's public log, which keeps its coordinator honest
    ///
    /// The coordinator writes every list of nodes that it publishes into a log that can only grow.
    /// Before each question `iris` checks that the log still begins with all that it held before,
    /// so a coordinator that shows you other nodes than everybody else is found out.
    #[command(subcommand)]
    Log(LogCommand),
    /// Check whether the network is at work
    Health(Json),
    /// Print a script that completes this command in your shell
    ///
    /// In bash: `source <(iris completions bash)`, for good in ~/.bashrc.
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}

/// How private a question is.
#[derive(Clone, Debug, Args)]
pub(super) struct Sealing {
    /// Ask only nodes of your own, so that nobody else can read it
    #[arg(long)]
    pub(super) own: bool,
    /// How much the sizes and times of the sealed answer tell whoever watches the line: `off`
    /// sends each piece at once, `batched` four times a second, `paced` by the clock and filled up
    /// [default: paced; off for nodes of your own]
    #[arg(long, value_name = "SHAPE", value_parser = shape())]
    pub(super) shape: Option<Shape>,
}

/// A local endpoint.
#[cfg(feature = "proxy")]
#[derive(Debug, Args)]
pub(super) struct Proxy {
    /// Where to listen; an address of this machine alone
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8088")]
    pub(super) listen: std::net::SocketAddr,
    #[command(flatten)]
    pub(super) sealing: Sealing,
    #[command(flatten)]
    pub(super) spreading: Spreading,
}

#[derive(Debug, Subcommand)]
pub(super) enum TrustCommand {
    /// Print which coordinator is trusted, your own nodes and your guards
    ///
    /// Guards are the three nodes that your questions to a model go to for a month. Whoever asked
    /// other nodes each time would sooner or later ask one that is run by somebody curious.
    Show(Json),
    /// Name a node as your own
    ///
    /// `iris-node` prints the id when it starts. Take it from there, not from the network.
    Pin(OneNode),
    /// Name a node as your own no more
    Unpin(OneNode),
    /// Forget the coordinator, its log, its nodes and your guards; your own nodes are kept
    ///
    /// For when a network was set up anew. If you do not know why it is not trusted any more, ask
    /// whoever runs it before you do this.
    Reset,
}

#[derive(Debug, Args)]
pub(super) struct OneNode {
    /// The node's id: 26 letters and digits
    pub(super) id: NodeId,
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Print the log's present state, after checking that it only grew
    Show(Json),
    /// Check that what somebody else was shown is of the same log
    ///
    /// FILE holds a checkpoint as `iris log show` prints it, or evidence that `iris` saved; `-`
    /// reads standard input. Two people whose checkpoints do not go together hold the proof that
    /// the coordinator shows them different networks.
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Read the whole log, check every entry against its root, and go on watching
    Monitor {
        /// Stop after the first reading
        #[arg(long)]
        once: bool,
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 60,
            value_parser = clap::value_parser!(u64).range(1..))]
        interval: u64,
    },
}

#[derive(Clone, Debug, Args)]
pub(super) struct Json {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// How a table is printed.
#[derive(Clone, Debug, Args)]
pub(super) struct Rows {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
    /// Print every column and whole names, however wide that is
    #[arg(long, conflicts_with = "json")]
    pub(super) wide: bool,
}

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The question; `-` reads it from standard input
    #[arg(required = true, value_name = "QUESTION")]
    pub(super) words: Vec<String>,
    /// The model to ask; by default one is chosen by how hard the question is
    #[arg(long, short, value_name = "NAME")]
    model: Option<String>,
    /// Longest answer, in tokens (a token is about three quarters of a word)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_tokens: Option<u32>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Privacy {
    #[command(flatten)]
    pub(super) sealing: Sealing,
    /// Let the coordinator read the question and the answer, and choose the node
    #[arg(long, conflicts_with_all = ["own", "shape"])]
    pub(super) open: bool,
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
    #[command(flatten)]
    pub(super) privacy: Privacy,
    /// Print the whole answer as JSON, for programs, with who could read it
    #[arg(long)]
    pub(super) json: bool,
    /// Print the answer when it is complete, not as it is written
    #[arg(long)]
    pub(super) no_stream: bool,
    /// Tell afterwards which node answered, and how fast; of divided work, more of what happens
    #[arg(long, short)]
    pub(super) verbose: bool,
    #[command(flatten)]
    pub(super) dividing: Dividing,
    #[command(flatten)]
    pub(super) spreading: Spreading,
}

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// Hand in a question or a plan and print the task's id
    ///
    /// The coordinator carries it out, and reads it, even while you are away.
    Submit(Box<Submit>),
    /// Print where a task stands, and its steps
    Status(OneTask),
    /// Tell what happens to a task, as it happens, and print its answer as it is written
    Follow(Follow),
    /// Wait until a task has ended and print its answer
    Wait(OneTask),
    /// Decide a step that waits for a person
    Review(Review),
    /// Withdraw a task
    Cancel(OneTask),
    /// Tell why a task, or each of its steps, went to its node and not to another
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The question, or the input of the plan; `-` reads it from standard input
    #[arg(value_name = "QUESTION", required_unless_present = "plan")]
    pub(super) words: Vec<String>,
    /// The model to ask; by default one is chosen by how hard the question is
    #[arg(long, short, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Longest answer, in tokens (a token is about three quarters of a word)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_tokens: Option<u32>,
    /// Hand in this plan of your own, as `iris run` takes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mode", "file", "max_tokens", "deadline"])]
    pub(super) plan: Option<PathBuf>,
    /// How soon it is served when the nodes are busy
    #[arg(long, value_name = "PRIORITY", default_value = "normal", value_parser = priority())]
    pub(super) priority: Priority,
    /// Give the task up when it has no answer after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) deadline: Option<u64>,
    /// Submitting again with the same text is the same task
    #[arg(long, value_name = "TEXT")]
    pub(super) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(super) output: Json,
    #[command(flatten)]
    pub(super) dividing: Dividing,
}

#[derive(Debug, Args)]
pub(super) struct OneTask {
    /// The id that `iris task submit` printed
    pub(super) id: TaskId,
    #[command(flatten)]
    pub(super) output: Json,
}

#[derive(Debug, Args)]
pub(super) struct Follow {
    /// The id that `iris task submit` printed
    pub(super) id: TaskId,
    /// Print each event as a line of JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
    /// Tell more of what happens
    #[arg(long, short)]
    pub(super) verbose: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("decision").required(true)))]
pub(super) struct Review {
    /// The id that `iris task submit` printed
    pub(super) id: TaskId,
    /// The step that waits; `iris task status` names it
    #[arg(long, value_name = "STEP")]
    pub(super) step: String,
    /// Take what this part of the task answered
    #[arg(long, value_name = "PART", group = "decision")]
    pub(super) choose: Option<String>,
    /// Take this text instead; `-` reads it from standard input
    #[arg(long, value_name = "TEXT", group = "decision")]
    pub(super) text: Option<String>,
    #[command(flatten)]
    pub(super) output: Json,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The id that `iris task submit` printed
    pub(super) id: TaskId,
    /// Print the plan of a divided task as a picture for Mermaid
    #[arg(long, conflicts_with = "json")]
    pub(super) mermaid: bool,
    #[command(flatten)]
    pub(super) output: Json,
}

fn priority() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(["high", "normal", "low"]).map(|name| match name.as_str() {
        "high" => Priority::High,
        "low" => Priority::Low,
        _ => Priority::Batch,
    })
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=2.0).contains(&value) { Ok(value) } else { Err("not between 0 and 2".to_owned()) }
}

fn shape() -> impl TypedValueParser<Value = Shape> {
    PossibleValuesParser::new(["off", "batched", "paced"]).map(|name| match name.as_str() {
        "off" => Shape::Off,
        "batched" => Shape::Batched,
        _ => Shape::Paced,
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
        assert!(!help.contains("--password"));
        for args in [
            &["keys", "new", "1234567890123456"][..],
            &["account", "new", "iris_invite_x"],
            &["login", "--email", "a@b", "hunter22"],
            &["login", "--digits", "1234567890123456"],
            &["register", "--invitation", "iris_invite_x"],
            &["account", "password", "hunter22"],
        ] {
            let line = ["iris"].iter().chain(args);
            assert!(Cli::try_parse_from(line).is_err(), "{args:?}");
        }
    }

    #[test]
    fn keys_have_kept_their_old_name() {
        assert!(Cli::try_parse_from(["iris", "key", "new", "--scope", "node"]).is_ok());
    }
}
