//! The command line and its help, written for someone who has never seen Iris.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use config::Value;

use crate::doctor::DoctorArgs;
use crate::settings::{Flags, list};
use crate::setup::SetupArgs;

const AFTER: &str = "\
First steps:
  iris-node setup                                 finds your model server, asks for your account's
                                                  key, writes the settings file
  iris-node                                       offers your models; --help tells what it can do
  iris-node doctor                                tells what is wrong, and what to do
  iris-node status                                shows what the running node does

Without a settings file:
  export IRIS_ACCOUNT_KEY=\"1234 5678 9012 3456\"   your account (`iris account new` opens one)
  export COORDINATOR_URL=https://iris.example     the network to join
  iris-node                                       offer what LM Studio has loaded
  iris-node --model-server http://localhost:11434 the same for Ollama
  iris-node --server model.gguf                   start llama-server with a model of yours
  iris-node --engine bundled                      no model server: run the small built-in model
  iris-node models pull https://models.example/x.gguf
  iris-node --engine x                            download a model, and run it

Settings: a flag wins over the environment, the environment over the file given with --config, or
~/.config/iris/node.toml, where setup writes it.
In a file (TOML, YAML or JSON) settings have the names that --print-config shows.
  IRIS_ACCOUNT_KEY       your account's 16 digits; exchanged once for a key of this node, which is
                         kept beside the identity
  IRIS_NODE_KEY          such a key (`iris keys new --scope node`), in place of the digits
  IRIS_MODEL_SERVER_KEY  the key of the model server, if it wants one
  COORDINATOR_URL, IRIS_COORDINATOR_IDENTITY, IRIS_CA_FILE, NODE_ID (a display name),
  NODE_KEY_PATH, LMSTUDIO_URL, IRIS_ALLOW_REMOTE_BACKEND, IRIS_ENGINE, IRIS_ENGINE_DEVICE,
  IRIS_ENGINE_RUNNER, IRIS_SERVER, IRIS_SERVER_PRESET, IRIS_SERVER_PROGRAM, IRIS_SERVER_IMAGE,
  IRIS_LOAD, IRIS_LOAD_GB, IRIS_CACHE_PATH, IRIS_CACHE_GB, IRIS_SLOTS, NODE_VRAM_GB,
  IRIS_HOURS, IRIS_WORK_HOURS, IRIS_MODELS, IRIS_CALLERS, IRIS_BUSY_PERCENT, IRIS_MAX_CELSIUS,
  IRIS_MAX_WATTS, IRIS_FREE_MEMORY_GB, IRIS_GB_PER_DAY, IRIS_GB_PER_MONTH, IRIS_MEASURE,
  IRIS_HISTORY_DAYS, IRIS_HISTORY_MB, IRIS_DRAIN_SECS, IRIS_LOG_FORMAT, RUST_LOG
                         as the flags; lists have commas
A running node takes in changes of the file that are about slots and what comes from IRIS_HOURS to
IRIS_GB_PER_MONTH.

A model server of the node's own: --server starts one on a free port of 127.0.0.1, starts it again
when it fails, and ends it with the node. A file of settings can say more:
  [server]
  model = '/srv/model.gguf'  preset and program as the flags say
  arguments = ['-ngl', '99'] what else the server is called with
  context = 8192             tokens for each of --slots answers
  port = 8081                [default: one that is free]
  memory_gb = 16             what it may take beside the model's file (Linux)
  niceness = 10              how far it steps back behind other programs, 1 to 19
  image = 'name@sha256:...'  run it in a container of this image, by Docker or podman: no network, a
                             read-only image, the model alone, read-only (feature `containers`)
  cpus = 4                   how many processors' time it may take there
  gpus = 'all'               NVIDIA's cards there: all, or as CDI names them, nvidia.com/gpu=0

Downloaded models: a file of settings can give names to addresses, for `iris-node models pull NAME`.
  [cache.sources.small]
  url = 'https://models.example/small.gguf'
  digest = 'sha256:...'      or blake3:...; needed where the source sends on to another host and does
                             not state it

Data sets: a file of settings can name JSON and CSV files that prompts may be about. The data stay
here and are put before the prompt; the answer is what leaves the machine.
  [datasets.ward-a]
  path = '/srv/ward-a.csv'   at most 16 MiB, and no more than the model's context holds
  who = 'key'                or 'anyone' in the network; nobody by default
  key = '...'                16 characters at least, which those who ask send along

Signals: SIGINT and SIGTERM let running answers finish and take no more; a second one ends at once.

Exit codes:
  0  stopped by a signal
  1  failed at work
  2  wrong usage or settings
  3  the account or node key is missing or not accepted
  4  the coordinator turned the node away, or speaks another version
  5  the identity, a file or the model cannot be used
doctor ends with the code of the first failure: 1 for the model server and the clock, 2 to 5 as above;
0 when nothing failed, warnings or not. 130: a question was interrupted";

/// Where flags stand in the help that settings have, too.
const SETTINGS: &str = "Settings";

const COORDINATOR_HELP: &str = "The network's coordinator; several, with commas, are tried in turn \
                                [default: http://127.0.0.1:8080]";

const MODEL_SERVER_HELP: &str = "The OpenAI-compatible model server to offer \
                                 [default: http://localhost:1234/v1, unless --engine is given]";

/// Offer the models on this machine to an Iris network.
///
/// The node makes one outgoing connection, so it works behind any router. It keeps its identity in
/// a file, and reconnects by itself.
#[derive(Debug, Parser)]
#[command(name = "iris-node", version, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    settings: SettingFlags,
    /// Read settings from this file (TOML, YAML or JSON, by its extension)
    /// [default: ~/.config/iris/node.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "IRIS_CONFIG", global = true, help_heading = SETTINGS)]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings in force as TOML, without secrets, and exit
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// What to do instead of running the node.
#[allow(clippy::doc_markdown, reason = "these texts are printed as they are")]
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Find model servers, ask for the account's key, write the settings file, install a service
    ///
    /// The key is asked for without showing it, or read from IRIS_ACCOUNT_KEY, IRIS_NODE_KEY or a
    /// line of standard input. Settings from before are kept, and a copy of their file.
    Setup(SetupArgs),
    /// Look at each link between models and network, and say what to do about those that fail
    Doctor(DoctorArgs),
    #[command(flatten)]
    Callers(crate::callers::CallerOrder),
    /// Download models, list, verify and remove them
    ///
    /// They are kept in a folder with a size limit (--cache-gb), and named to --engine and --server
    /// as `models list` shows them.
    Models {
        #[command(subcommand)]
        order: crate::cached::ModelsOrder,
    },
    /// Estimate what this machine may earn in the network, and say what that rests on
    Estimate,
    /// Show how the running node is, and what keeps it from work
    ///
    /// In a terminal this is a view that changes with the node until q is pressed; elsewhere, and
    /// with --once or --json, it is how the node is now. Standing and earnings come from the
    /// coordinator, by the node's own key. NO_COLOR is heeded.
    #[cfg(unix)]
    Status(crate::status::StatusArgs),
    /// Print the tasks that this node has worked on, and whether its receipts hold
    ///
    /// They lie in a SQLite file beside the identity (`node.history.db`), without what was asked or
    /// answered. A sealed task has the node's signed receipt, and its tokens are rounded up to 64.
    #[cfg(feature = "history")]
    History(crate::past::HistoryArgs),
    #[cfg(unix)]
    #[command(flatten)]
    Order(crate::control::Order),
    /// Become a model server that ends with the node that starts it
    #[cfg(target_os = "linux")]
    #[command(name = LAUNCH, hide = true)]
    Launch {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        line: Vec<std::ffi::OsString>,
    },
}

/// How the node calls itself to become a model server.
#[cfg(target_os = "linux")]
pub(crate) const LAUNCH: &str = "launch-server";

impl Cli {
    pub(crate) fn flags(&self) -> Flags {
        self.settings.values()
    }
}

#[derive(Debug, Args)]
struct SettingFlags {
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "URL", help = COORDINATOR_HELP)]
    coordinator: Option<String>,
    /// Accept the coordinator with this identity only: 64 hexadecimal digits
    /// [default: whoever answers first]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "KEY")]
    coordinator_identity: Option<String>,
    /// Trust only the certificate authorities in this PEM file
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE")]
    ca_file: Option<String>,
    /// The file of the node's identity [default: ~/.local/share/iris/node.key]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE")]
    key: Option<String>,
    /// Your own name for the node; everybody can see it
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "TEXT")]
    name: Option<String>,
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "URL", help = MODEL_SERVER_HELP)]
    model_server: Option<String>,
    /// Let the model server be on another machine, which then reads every prompt
    #[arg(long, global = true, help_heading = SETTINGS)]
    allow_remote_backend: bool,
    /// Run a model in this process: a GGUF file, a model that was downloaded (`iris-node models`), or
    /// `bundled` for the small one inside. Or several: of a folder, or with `cached` of all that were
    /// downloaded, each is loaded when somebody asks for it, within --load-gb
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE")]
    engine: Option<String>,
    /// What the engine computes on: cpu, cuda:0 or metal, where this program was built with that
    /// feature [default: auto]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "NAME")]
    engine_device: Option<String>,
    /// What runs the engine's model: built-in, or llama-cpp where this program was built with that
    /// feature [default: built-in, and llama-cpp for models that it does not know]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "NAME")]
    engine_runner: Option<String>,
    /// Start llama-server, or what --server-preset says, with this model and look after it: a GGUF
    /// file, a model that was downloaded (`iris-node models`), or what the server knows the model by
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "MODEL")]
    server: Option<String>,
    /// Which server --server starts: llama-server, mlx (`mlx_lm.server`), vllm (vllm serve) or onnx
    /// (onnx-genai serve) [default: llama-server]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "NAME")]
    server_preset: Option<String>,
    /// Where its program is [default: looked for in PATH]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FILE")]
    server_program: Option<String>,
    /// Run it in a container of this image, which is named by its digest (name@sha256:...) and is on
    /// this machine, by Docker or podman; only llama-server and vllm can [default: as a process]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "IMAGE")]
    server_image: Option<String>,
    /// Load these models on the model server when somebody asks for them, and unload them when others
    /// need the memory: names with commas, as --models has them. LM Studio and Ollama can; what you
    /// have loaded yourself stays loaded [default: none]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "NAMES")]
    load: Option<String>,
    /// How much memory they may take together, and the files of --engine that are loaded when somebody
    /// asks [default: the largest graphics card's if models run there, else the machine's without
    /// what --free-memory-gb or 2 GB leave free; of both the smaller one, where there is both]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "GB")]
    load_gb: Option<String>,
    /// Where downloaded models are kept [default: models beside the identity]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FOLDER")]
    cache_path: Option<String>,
    /// How much of them is kept; what was not used for the longest time goes first [default: 50]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "GB")]
    cache_gb: Option<String>,
    /// How many answers to work on at a time [default: what the model server says, else 1; 2 for
    /// --engine]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "COUNT")]
    slots: Option<String>,
    /// Memory of the graphics card, 0 without one [default: what the card tells]; what does not
    /// fit into it and the machine's own counts as read from disk, and as BASIC
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "GB")]
    vram_gb: Option<String>,
    /// Hours in which you promise that the node is there, such as `mon-fri 18:00-23:00, sat-sun
    /// UTC+1`; kept hours count for you, broken ones against you [default: no promise]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "HOURS")]
    hours: Option<String>,
    /// Hours in which the node works at all, written as --hours [default: always]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "HOURS")]
    work_hours: Option<String>,
    /// Offer only models of these names: a list with commas, in which * stands for any letters
    /// and ! before a name leaves it out [default: all]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "NAMES")]
    models: Option<String>,
    /// Whose requests to answer: your `own`, also those of whom you have `invited` (`iris-node
    /// invite`), of all `members`, or of the `public` without an account; the coordinator sees to
    /// it [default: public]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "WHO")]
    callers: Option<String>,
    /// Rest while processors or graphics cards are so busy with something else, in percent
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "PERCENT")]
    busy_percent: Option<String>,
    /// Rest while a graphics card is so hot, as far as that can be read
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "DEGREES")]
    max_celsius: Option<String>,
    /// Rest while the graphics cards draw so much, as far as that can be read
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "WATTS")]
    max_watts: Option<String>,
    /// Rest while the machine has less memory free
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "GB")]
    free_memory_gb: Option<String>,
    /// Rest until the next day of UTC when so much was carried to and from the coordinator
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "GB")]
    gb_per_day: Option<String>,
    /// The same for months
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "GB")]
    gb_per_month: Option<String>,
    /// How many days the tasks that were worked on are remembered, without their content; 0 for
    /// none but the latest that `callers` lists [default: 90]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "DAYS")]
    history_days: Option<String>,
    /// How large the file of them may become [default: 64]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "MB")]
    history_mb: Option<String>,
    /// Do not measure models before connecting; work will tell how fast they are
    #[arg(long, global = true, help_heading = SETTINGS)]
    no_measure: bool,
    /// How long running answers may take after a signal [default: 60]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "SECONDS")]
    drain: Option<String>,
    /// How log lines are written to standard error: text or json [default: text]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or as `RUST_LOG` [default: info]
    #[arg(long, global = true, help_heading = SETTINGS, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl SettingFlags {
    fn values(&self) -> Flags {
        let text = |flag: &Option<String>| flag.clone().map(Value::from);
        vec![
            ("coordinator_url", self.coordinator.as_deref().map(list)),
            ("coordinator_identity", text(&self.coordinator_identity)),
            ("ca_file", text(&self.ca_file)),
            ("key_path", text(&self.key)),
            ("name", text(&self.name)),
            ("model_server_url", text(&self.model_server)),
            ("allow_remote_backend", self.allow_remote_backend.then(|| true.into())),
            ("engine", text(&self.engine)),
            ("engine_device", text(&self.engine_device)),
            ("engine_runner", text(&self.engine_runner)),
            ("server.model", text(&self.server)),
            ("server.preset", text(&self.server_preset)),
            ("server.program", text(&self.server_program)),
            ("server.image", text(&self.server_image)),
            ("load", self.load.as_deref().map(list)),
            ("load_gb", text(&self.load_gb)),
            ("cache.path", text(&self.cache_path)),
            ("cache.gb", text(&self.cache_gb)),
            ("slots", text(&self.slots)),
            ("vram_gb", text(&self.vram_gb)),
            ("hours", text(&self.hours)),
            ("work_hours", text(&self.work_hours)),
            ("models", self.models.as_deref().map(list)),
            ("callers", text(&self.callers)),
            ("busy_percent", text(&self.busy_percent)),
            ("max_celsius", text(&self.max_celsius)),
            ("max_watts", text(&self.max_watts)),
            ("free_memory_gb", text(&self.free_memory_gb)),
            ("gb_per_day", text(&self.gb_per_day)),
            ("gb_per_month", text(&self.gb_per_month)),
            ("history_days", text(&self.history_days)),
            ("history_mb", text(&self.history_mb)),
            ("measure", self.no_measure.then(|| false.into())),
            ("drain_secs", text(&self.drain)),
            ("log_format", text(&self.log_format)),
            ("log_level", text(&self.log_level)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::settings::Settings;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let line = "iris-node --coordinator http://localhost:1,http://localhost:2 \
                    --coordinator-identity x --ca-file x --key x --name x --model-server x \
                    --allow-remote-backend --engine x --engine-device cpu --engine-runner built-in \
                    --server x --server-preset vllm --server-image x --server-program x \
                    --load x --load-gb 1 --cache-path x --cache-gb 1 \
                    --slots 1 --vram-gb 1 --hours sat --work-hours sat-sun --models x --callers members --busy-percent 50 \
                    --max-celsius 80 --max-watts 200 --free-memory-gb 4 --gb-per-day 1 \
                    --gb-per-month 9 --history-days 1 --history-mb 1 --no-measure \
                    --drain 1 --log-format json --log-level warn";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert!(cli.flags().iter().all(|(_, value)| value.is_some()));
        let unfit = ["coordinator_identity", "server.image"];
        let flags = cli.flags().into_iter().filter(|(name, _)| !unfit.contains(name));
        let settings = Settings::load(flags.collect(), |_| None, None).unwrap();
        assert_eq!(settings.coordinators().unwrap().len(), 2);
        assert!(settings.allow_remote_backend && !settings.measure);
    }
}
