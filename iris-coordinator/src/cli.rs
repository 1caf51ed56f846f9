//! The command line and its help.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use config::Value;
use iris_core::id::{ReportId, VerdictId};
use iris_core::ledger::Money;
use iris_core::{AccountId, Epoch};
use iris_protocol::rest::{KeyId, KeyScope};

use crate::settings::{Flags, list};

const AFTER: &str = "\
First steps:
  iris-coordinator account new                 open an account; it prints 16 digits: keep them
  iris-coordinator key new --account-key-stdin exchange the digits for an API key
  iris-coordinator                             serve on http://127.0.0.1:8080

Settings: a flag wins over the environment, the environment over the file given with --config.
In a file (TOML, YAML or JSON) settings have the names that --print-config shows.
  DATABASE_URL                  the books [default: sqlite:///data/iris.db]; three slashes begin
                                a relative path, four an absolute one
  COORDINATOR_PRIVATE_KEY_PATH  the coordinator's identity [default: data/coordinator.key]
  COORDINATOR_SECRET_PATH       what protects the books: back it up apart from them
                                [default: beside the identity, with the ending .secret]
  LISTEN, IRIS_TLS_CERT, IRIS_TLS_KEY, IRIS_TRUSTED_PROXIES, IRIS_CORS_ORIGINS,
  IRIS_OPEN_REGISTRATION, IRIS_MEMBER_INVITATIONS, IRIS_MEMBERSHIP_FEE, IRIS_TRIAL_DAYS,
  IRIS_GRACE_DAYS, IRIS_OPERATOR_PERCENT, IRIS_PAY_BY, IRIS_RATE_PER_MINUTE, IRIS_PUBLIC_CHAT, IRIS_UNLIMITED_ACCOUNTS,
  IRIS_QUEUE_CAPACITY, IRIS_MAX_WAIT_SECS, IRIS_TRUSTED_OWNERS, IRIS_OWNER_SHARE_PERCENT,
  IRIS_COMPARE_ANSWERS, IRIS_CHECK_PHRASES,
  IRIS_HEDGE_AFTER_MS, IRIS_CLASSIFIER, IRIS_OPENROUTER_URL, IRIS_OPENROUTER_MODEL,
  IRIS_RETENTION_SECS, IRIS_LOG_FORMAT, RUST_LOG
                                as the flags; lists have commas
  JWT_SECRET                    what access tokens are signed with, at least 32 bytes
                                [default: derived from COORDINATOR_SECRET_PATH]
  JWT_SECRET_PREVIOUS           what they were signed with before: accepted still
  OPENROUTER_API_KEY            the key for openrouter in --classifier; by itself it has no effect

Signals: SIGINT and SIGTERM let running requests finish within 30 s, write everything down and
end; a second one ends at once. SIGHUP reads the TLS files again.

Exit codes:
  0  done, or stopped by a signal after everything was written down
  1  failed at work
  2  wrong usage or settings
  3  the key files or the database cannot be used
  4  the address or the TLS files cannot be used
  5  the account does not exist, or may not have this key
  6  the month, the share or the payment is not such that this can be done
  7  there is no such verdict, or nothing to decide about it";

/// The coordinator of an Iris network: matches requests with nodes and keeps the books.
#[derive(Debug, Parser)]
#[command(name = "iris-coordinator", version, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    settings: SettingFlags,
    /// Read settings from this file (TOML, YAML or JSON, by its extension)
    #[arg(long, global = true, value_name = "FILE", env = "IRIS_CONFIG", help_heading = SETTINGS)]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings in force as TOML, without secrets, and exit
    #[arg(long, global = true, help_heading = SETTINGS)]
    pub(crate) print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    pub(crate) fn chosen(&self) -> &Command {
        self.command.as_ref().unwrap_or(&Command::Serve)
    }

    pub(crate) fn flags(&self) -> Flags {
        self.settings.values()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the network (what is done without a command)
    Serve,
    /// Check settings, keys, database, address and TLS files, and say what is wrong
    ///
    /// Changes nothing but an old database, which is brought up to date.
    Check,
    /// Open accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Make API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Invite people to open accounts
    #[command(subcommand)]
    Invite(InviteCommand),
    /// Close months and give their books away
    ///
    /// Works whether or not the coordinator is running, which closes months by itself when they
    /// have been over for eight days. Give the settings that it runs with.
    #[command(subcommand)]
    Month(MonthCommand),
    /// See what owners of nodes are owed, and write down what they were paid
    #[command(subcommand)]
    Payout(PayoutCommand),
    /// See what the books hold, and put money into the running month's pool
    #[command(subcommand)]
    Pool(PoolCommand),
    /// See which nodes were found lying, and decide what their owners say against it
    ///
    /// Works whether or not the coordinator is running, which carries decisions out within a minute.
    #[command(subcommand)]
    Verdict(VerdictCommand),
    /// See what owners report about what strangers asked of their nodes, and close it
    ///
    /// Works whether or not the coordinator is running.
    #[command(subcommand)]
    Report(ReportCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Open an account and print its 16 digits
    ///
    /// The digits are the account: whoever knows them owns it, and nobody can recover them. Works
    /// whether or not the coordinator is running.
    New,
    /// Write down that an account's fee was paid
    ///
    /// The same reference counts once. A running coordinator knows it within a minute. Give the
    /// settings that it serves with: the fee and the operator's part are taken from them.
    Pay(Payment),
    /// Open an account for each login of an older system
    ///
    /// Reads lines like `{"email":"ada@example.org","password_hash":"$2b$10$..."}`, with hashes by
    /// bcrypt or Argon2, which are replaced when people log in. Addresses that are known already
    /// are left as they are, so the same file can be read twice. From then on every login takes
    /// the time of one hash of each kind that was imported, so that it does not tell them apart.
    Import {
        /// The file of JSON lines
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Payment {
    /// The account's id, as `account new` printed it
    #[arg(value_name = "ACCOUNT")]
    pub(crate) account: AccountId,
    /// How many months were paid
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=120))]
    pub(crate) months: u32,
    /// What names the payment elsewhere, such as an invoice's number
    #[arg(long, value_name = "TEXT")]
    pub(crate) reference: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InviteCommand {
    /// Make an invitation and print it, this once
    New(NewInvitation),
    /// List the invitations that were made here and are still good
    List,
    /// Take an invitation back
    Revoke {
        /// The invitation's id, as `invite list` prints it
        id: KeyId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewInvitation {
    /// How many accounts it opens
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) uses: u32,
    /// For how many days it is good
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub(crate) days: u32,
    /// Whom it is for, in your own words
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MonthCommand {
    /// List the closed months, the latest first
    List,
    /// Share the pool of a month that has been over for eight days
    ///
    /// Of a month that is closed already, says how. A month is closed once and for ever, so the first
    /// one must be closed by the rules that the coordinator runs with.
    Close {
        /// The month, such as 2026-11
        #[arg(value_name = "MONTH")]
        month: Epoch,
        /// Close it although the coordinator was off or its clock was set in the last two days
        #[arg(long)]
        clock_is_right: bool,
    },
    /// Print the books of a closed month, with which anybody can check it by `iris audit`
    Export {
        /// The month, such as 2026-11
        #[arg(value_name = "MONTH")]
        month: Epoch,
        /// What is printed: all that counted, under pseudonyms (jsonl), or the shares with the
        /// accounts they belong to (csv)
        #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ExportFormat {
    Jsonl,
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PayoutCommand {
    /// List the shares of a closed month, and what has become of each
    List {
        /// The month, such as 2026-11
        #[arg(value_name = "MONTH")]
        month: Epoch,
    },
    /// Write down that a share was paid
    ///
    /// It must be owed: shares are held until 30 days after their month. The same reference counts
    /// once.
    Paid {
        /// The month, such as 2026-11
        #[arg(value_name = "MONTH")]
        month: Epoch,
        /// The account's id, as `payout list` prints it
        #[arg(value_name = "ACCOUNT")]
        account: AccountId,
        /// What names the payment elsewhere, such as a transfer's number
        #[arg(long, value_name = "TEXT")]
        reference: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VerdictCommand {
    /// List the verdicts, and what has become of each
    List,
    /// Print what was found, and what was said of it
    Show {
        /// The verdict's id, as `verdict list` prints it
        #[arg(value_name = "VERDICT")]
        id: VerdictId,
    },
    /// Let a verdict stand that its owner objects to: its points and shares are lost
    Uphold(Decision),
    /// Make a verdict void that its owner objects to: nothing of it remains
    Overturn(Decision),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// List the reports that are open, with the account that each is about
    List {
        /// Those that are closed instead
        #[arg(long)]
        closed: bool,
    },
    /// Print a report, with what its owner shows of the request
    Show {
        /// The report's id, as `report list` prints it
        #[arg(value_name = "REPORT")]
        id: ReportId,
    },
    /// Close a report; what its owner has shown is deleted
    Close {
        /// The report's id, as `report list` prints it
        #[arg(value_name = "REPORT")]
        id: ReportId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Decision {
    /// The verdict's id, as `verdict list` prints it
    #[arg(value_name = "VERDICT")]
    pub(crate) id: VerdictId,
    /// Why, for the owner to read
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Put money into the pool of the running month
    ///
    /// The same reference counts once.
    Add {
        /// How much, in whole units of the network's money with up to six decimals, such as 12.50
        #[arg(value_name = "AMOUNT")]
        amount: Money,
        /// What names the payment elsewhere, such as a transfer's number
        #[arg(long, value_name = "TEXT")]
        reference: String,
    },
    /// Print what each book holds: pools of months, shares held and owed, the operator's part
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make an API key of an account and print it, this once
    ///
    /// Works whether or not the coordinator is running; a running one knows the key at once.
    New(NewKey),
}

#[derive(Debug, Args)]
pub(crate) struct NewKey {
    #[command(flatten)]
    pub(crate) owner: Owner,
    /// What the key may do: ask models, connect nodes, look at the network, or run it
    #[arg(long, default_value = "inference", value_parser = scope())]
    pub(crate) scope: KeyScope,
    /// Your own name for the key
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Owner {
    /// Read the account's 16 digits from standard input
    #[arg(long)]
    account_key_stdin: bool,
    /// The account's id, as `account new` printed it
    #[arg(long, value_name = "ID")]
    pub(crate) account: Option<AccountId>,
}

const SETTINGS: &str = "Settings";

#[allow(clippy::doc_markdown, reason = "these texts are printed as they are")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Args)]
#[command(next_help_heading = SETTINGS)]
struct SettingFlags {
    /// Where the books are kept [default: sqlite:///data/iris.db]
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// The file of the coordinator's identity [default: data/coordinator.key]
    #[arg(long, global = true, value_name = "FILE")]
    private_key: Option<String>,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The certificate chain for TLS, as PEM
    #[arg(long, global = true, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The private key for TLS, as PEM
    #[arg(long, global = true, value_name = "FILE")]
    tls_key: Option<String>,
    /// A proxy in front of this server that ends TLS and is believed about addresses of callers,
    /// such as 10.0.0.2 or 10.0.0.0/8; several with commas
    #[arg(long = "trusted-proxy", global = true, value_name = "NETWORK")]
    trusted_proxies: Option<String>,
    /// Let web pages of this origin call the API, such as https://chat.example.org; several with
    /// commas [default: none]
    #[arg(long = "cors-origin", global = true, value_name = "ORIGIN")]
    cors_origins: Option<String>,
    /// Let anybody open an account over HTTP [default: you open them]
    #[arg(long, global = true)]
    open_registration: bool,
    /// How many requests to models an account may make in a minute, 0 for any number; keys can be
    /// held to less [default: 600]
    #[arg(long, global = true, value_name = "REQUESTS")]
    rate_per_minute: Option<String>,
    /// Let people without a key send one message a day to POST /api/chat/stream [default: members
    /// alone]
    #[arg(long, global = true)]
    public_chat: bool,
    /// Serve the API alone, without the pages for people [default: both]
    #[arg(long, global = true)]
    no_pages: bool,
    /// Give nodes the model files in this folder, to download [default: none]
    #[arg(long, global = true, value_name = "FOLDER")]
    model_files: Option<String>,
    /// An account or key, by its id, that may send any number of messages there, where others send
    /// three a day; several with commas
    #[arg(long = "unlimited-account", global = true, value_name = "ID")]
    unlimited_accounts: Option<String>,
    /// How many tasks may wait for a node [default: 1024]
    #[arg(long, global = true, value_name = "TASKS")]
    queue_capacity: Option<String>,
    /// How long somebody who waits for an answer waits for a node [default: 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    max_wait: Option<String>,
    /// How many times as long as a task usually takes somebody may expect to wait for a node; who
    /// would wait longer is told at once when to come back [default: 2]
    #[arg(long, global = true, value_name = "TIMES")]
    patience: Option<String>,
    /// An account, by its id, whose nodes count as trusted for requests that ask for it, and, where
    /// they score texts, say whether others run the models that they offer; several with commas
    /// [default: none]
    #[arg(long = "trusted-owner", global = true, value_name = "ID")]
    trusted_owners: Option<String>,
    /// Give some of the chats that ask for the likeliest words, that you can read, and that name no
    /// nodes, to a node of a second owner too, and to a trusted owner's where the two differ, to find
    /// out who lies [default: no]
    #[arg(long, global = true)]
    compare_answers: bool,
    /// Make the prompts by which nodes are checked from this file: JSON with \"templates\", whose gaps
    /// are {name} or {10-99}, and the lists of \"words\" for the names [default: phrases that everybody
    /// can read, so nodes can know them]
    #[arg(long, global = true, value_name = "FILE")]
    check_phrases: Option<String>,
    /// The most that one owner's nodes may have of a model's work while others could do it, in
    /// percent; twice an equal part where that is more [default: 20]
    #[arg(long, global = true, value_name = "PERCENT")]
    owner_share: Option<String>,
    /// Ask a second node when the first has not begun its answer after so long, and 2 ms later for
    /// each token of the prompt, if one is free; the answer comes from whichever begins sooner, and
    /// costs two nodes their time [default: never]
    #[arg(long, global = true, value_name = "MILLISECONDS")]
    hedge_after: Option<String>,
    /// Who says how hard a question is that names no model, one after the other, with commas: rules
    /// in this program, node (a free node, whose owner reads the question), openrouter (a service
    /// outside, which reads it; needs OPENROUTER_API_KEY and a program that was built with it);
    /// neither is asked about sealed questions or those for chosen nodes alone [default: rules]
    #[arg(long = "classifier", global = true, value_name = "NAMES")]
    classifiers: Option<String>,
    /// Where openrouter is, or a service that speaks as it does [default:
    /// https://openrouter.ai/api/v1]
    #[arg(long, global = true, value_name = "URL")]
    openrouter_url: Option<String>,
    /// The model that is asked there [default: meta-llama/llama-3.1-8b-instruct]
    #[arg(long, global = true, value_name = "NAME")]
    openrouter_model: Option<String>,
    /// How long results of durable tasks are kept [default: 86400]
    #[arg(long, global = true, value_name = "SECONDS")]
    retention: Option<String>,
    /// How many open invitations each member may have, beside those of operators [default: 0]
    #[arg(long, global = true, value_name = "N")]
    member_invitations: Option<String>,
    /// The monthly fee in millionths of your unit of money; who has not paid is answered by own
    /// nodes only; 0 takes none [default: 0]
    #[arg(long, global = true, value_name = "AMOUNT")]
    membership_fee: Option<String>,
    /// How long a new account may try the network without paying [default: 0]
    #[arg(long, global = true, value_name = "DAYS")]
    trial_days: Option<String>,
    /// How long all works after a paid time has ended [default: 7]
    #[arg(long, global = true, value_name = "DAYS")]
    grace_days: Option<String>,
    /// Hundredths of each fee that the operator keeps; owners of nodes share the rest [default: 0]
    #[arg(long, global = true, value_name = "PERCENT")]
    operator_percent: Option<String>,
    /// How a month's pool is shared: by evidence (verified work, for owners) or seed (points, for
    /// nodes, as the earlier systems did; for networks of friends) [default: evidence]
    #[arg(long, global = true, value_name = "RULES")]
    pay_by: Option<String>,
    /// How log lines are written to standard error: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or as RUST_LOG [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl SettingFlags {
    fn values(&self) -> Flags {
        let text = |flag: &Option<String>| flag.clone().map(Value::from);
        let texts = |flag: &Option<String>| flag.as_deref().map(list);
        vec![
            ("database_url", text(&self.database_url)),
            ("private_key_path", text(&self.private_key)),
            ("listen", text(&self.listen)),
            ("tls_cert", text(&self.tls_cert)),
            ("tls_key", text(&self.tls_key)),
            ("trusted_proxies", texts(&self.trusted_proxies)),
            ("cors_origins", texts(&self.cors_origins)),
            ("open_registration", self.open_registration.then(|| true.into())),
            ("rate_per_minute", text(&self.rate_per_minute)),
            ("public_chat", self.public_chat.then(|| true.into())),
            ("no_pages", self.no_pages.then(|| true.into())),
            ("model_files", text(&self.model_files)),
            ("unlimited_accounts", texts(&self.unlimited_accounts)),
            ("queue_capacity", text(&self.queue_capacity)),
            ("max_wait_secs", text(&self.max_wait)),
            ("patience", text(&self.patience)),
            ("trusted_owners", texts(&self.trusted_owners)),
            ("compare_answers", self.compare_answers.then(|| true.into())),
            ("check_phrases", text(&self.check_phrases)),
            ("owner_share_percent", text(&self.owner_share)),
            ("hedge_after_ms", text(&self.hedge_after)),
            ("classifiers", texts(&self.classifiers)),
            ("openrouter_url", text(&self.openrouter_url)),
            ("openrouter_model", text(&self.openrouter_model)),
            ("retention_secs", text(&self.retention)),
            ("member_invitations", text(&self.member_invitations)),
            ("membership_fee", text(&self.membership_fee)),
            ("trial_days", text(&self.trial_days)),
            ("grace_days", text(&self.grace_days)),
            ("operator_percent", text(&self.operator_percent)),
            ("pay_by", text(&self.pay_by)),
            ("log_format", text(&self.log_format)),
            ("log_level", text(&self.log_level)),
        ]
    }
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
    fn flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["iris-coordinator", "check", "--listen", "x"]).unwrap();
        assert!(matches!(cli.chosen(), Command::Check));
        let set: Vec<_> = cli.flags().into_iter().filter(|(_, value)| value.is_some()).collect();
        assert_eq!(set, [("listen", Some("x".into()))]);
    }

    #[test]
    fn key_needs_exactly_one_way_to_name_its_account() {
        let id = "00112233445566778899aabbccddeeff";
        let parse = |more: &[&str]| {
            let line = ["iris-coordinator", "key", "new"].iter().chain(more);
            Cli::try_parse_from(line).is_ok()
        };
        assert!(parse(&["--account", id]));
        assert!(parse(&["--account-key-stdin", "--scope", "read"]));
        assert!(!parse(&[]));
        assert!(!parse(&["--account", id, "--account-key-stdin"]));
        assert!(!parse(&["--account", "1234567890123456"]));
    }
}
