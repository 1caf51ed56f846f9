//! `iris-node models`: model files that are downloaded and kept, and what the settings say of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use iris_core::memory::ByteSize;
use iris_node::cache::{
    CacheError, CachedModel, Digest, Event, HeldModel, ModelCache, Pull, PullError, Pulled, Source,
    Verdict,
};
use iris_protocol::rest::{FileName, ModelFile, ModelFileList, Secret};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::doctor::machine::gigabytes;
use crate::failure::{Exit, Failure};
use crate::moment;
use crate::network::Asking;
use crate::progress::Progress;
use crate::settings::{Settings, SettingsError};
use crate::spending::Downloads;

/// How much is kept, unless set.
const DEFAULT_GB: u32 = 50;

/// Where model files are kept, and where some come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheSetting {
    path: Option<PathBuf>,
    gb: Option<u32>,
    #[serde(default)]
    sources: BTreeMap<String, SourceSetting>,
}

/// A file that the settings have a name for.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceSetting {
    url: String,
    digest: Option<String>,
}

impl SourceSetting {
    /// Returns the address without what may be secret in it.
    fn bare(&self) -> &str {
        self.url.split(['?', '#']).next().unwrap_or_default()
    }

    fn source(&self, name: &str) -> Result<Source, SettingsError> {
        let wrong = |what: &str, error: &dyn fmt::Display| {
            SettingsError::new(format!("cache.sources.{name}.{what}: {error}"))
        };
        let source = Source::new(&self.url).map_err(|error| wrong("url", &error))?;
        let digest = self.digest.as_deref().map(str::parse).transpose();
        let digest: Option<Digest> = digest.map_err(|error| wrong("digest", &error))?;
        Ok(digest.into_iter().fold(source, Source::with_digest))
    }
}

impl fmt::Debug for SourceSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, digest } = self;
        let mut all = f.debug_struct("SourceSetting");
        all.field("url", &self.bare()).field("digest", digest).finish_non_exhaustive()
    }
}

impl CacheSetting {
    /// Sees that the sources can be used, as far as settings alone can tell.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        for (name, source) in &self.sources {
            source.source(name)?;
        }
        Ok(())
    }

    /// Returns the cache of a node with this identity.
    pub(crate) fn cache(&self, key: &Path) -> ModelCache {
        let folder = self.path.clone().unwrap_or_else(|| key.with_file_name("models"));
        let limit = ByteSize::gib(self.gb.unwrap_or(DEFAULT_GB).into());
        ModelCache::new(folder, limit)
    }

    /// Writes the settings as a table of TOML; nothing where nothing is set. What may be secret in
    /// an address is left out unless `with_secrets`.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, with_secrets: bool) -> fmt::Result {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        if self.path.is_some() || self.gb.is_some() {
            writeln!(f, "\n[cache]")?;
            if let Some(path) = &self.path {
                writeln!(f, "path = {}", quoted(&path.to_string_lossy()))?;
            }
            if let Some(gb) = self.gb {
                writeln!(f, "gb = {gb}")?;
            }
        }
        for (name, source) in &self.sources {
            let url = if with_secrets { &source.url } else { source.bare() };
            writeln!(f, "\n[cache.sources.{}]", quoted(name))?;
            writeln!(f, "url = {}", quoted(url))?;
            if url != source.url {
                writeln!(f, "# its query is set, and not shown")?;
            }
            if let Some(digest) = &source.digest {
                writeln!(f, "digest = {}", quoted(digest))?;
            }
        }
        Ok(())
    }
}

/// What `--engine` or `--server` names.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    /// Keeps the file in the cache, if it is there.
    pub(crate) held: Option<HeldModel>,
}

/// Finds what a setting names: a file, else a model of the cache.
pub(crate) fn find(settings: &Settings, model: &str) -> Result<Named, Failure> {
    let path = PathBuf::from(model);
    if path.exists() {
        return Ok(Named { path, held: None });
    }
    let cache = settings.cache();
    let Some(name) = cache.find(model) else {
        return Err(Failure::files(format!(
            "{model} is no file, and no model of that name is in {}; `iris-node models list` shows \
             what there is, `iris-node models pull` gets more",
            cache.folder().display()
        )));
    };
    let held = cache.hold(&name).map_err(Failure::files)?;
    Ok(Named { path: held.path().to_owned(), held: Some(held) })
}

/// What can be done with the models that are kept.
#[allow(clippy::doc_markdown, reason = "these texts are printed as they are")]
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ModelsOrder {
    /// List the models that are kept, or with --network those that the coordinator gives
    #[command(visible_alias = "ls")]
    List {
        /// List what the coordinator's model folder has
        #[arg(long)]
        network: bool,
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Download models: addresses (https://...), names from [cache.sources] of the settings, or names
    /// from the coordinator's model folder
    ///
    /// What breaks off goes on where it was, now or the next time. A file is known by the digest that
    /// is given or that the source states, else by what came the first time. Where there is no room,
    /// those go first that were not used for the longest time, and never what is in use.
    Pull(PullArgs),
    /// Remove models that nobody uses
    #[command(visible_alias = "rm")]
    Remove {
        /// Their names
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
    },
    /// Read models again and see whether they are what was downloaded [default: all]
    Verify {
        /// Their names
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
    },
}

/// What to download.
#[derive(Clone, Debug, Args)]
pub(crate) struct PullArgs {
    /// Where it comes from
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Take nothing but what has this digest: blake3: or sha256: and 64 hexadecimal digits
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// What to call the file [default: as the address ends]
    #[arg(long = "as", value_name = "FILE")]
    file: Option<String>,
}

/// Carries an order out.
pub(crate) async fn run(order: ModelsOrder, settings: &Settings) -> Result<(), Failure> {
    let cache = settings.cache();
    match order {
        ModelsOrder::List { network: true, json } => list_network(settings, json).await,
        ModelsOrder::List { network: false, json } => blocking(move || list(&cache, json)).await,
        ModelsOrder::Pull(args) => {
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => Err(Failure::new(
                    Exit::Interrupted,
                    "interrupted; what has come is kept, and the same command goes on with it",
                )),
                done = pull(&args, settings) => done,
            }
        }
        ModelsOrder::Remove { models } => blocking(move || remove(&cache, &models)).await,
        ModelsOrder::Verify { models } => blocking(move || verify(&cache, &models)).await,
    }
}

/// Does what waits for locks and disks, where that keeps nobody else waiting.
async fn blocking(
    work: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::new(Exit::Work, error)))
}

fn list(cache: &ModelCache, json: bool) -> Result<(), Failure> {
    let (models, size) = cache.contents().map_err(Failure::files)?;
    if json {
        let models: Vec<_> = models.iter().map(told).collect();
        let all = serde_json::json!({
            "folder": cache.folder(),
            "bytes": size.get(),
            "limit": cache.limit().get(),
            "models": models,
        });
        println!("{all:#}");
        return Ok(());
    }
    let width = models.iter().map(|model| model.name.as_str().len()).max().unwrap_or(0);
    for model in &models {
        println!("{}", line(model, width));
    }
    let (count, folder) = (models.len(), cache.folder().display());
    let (size, limit) = (gigabytes(size.get()), gigabytes(cache.limit().get()));
    println!("{count} models, {size} of {limit} in {folder}");
    Ok(())
}

fn line(model: &CachedModel, width: usize) -> String {
    let CachedModel { name, size, record, used, in_use } = model;
    let used = if *in_use { "in use".to_owned() } else { moment::minute(moment::of(*used)) };
    let from = record.as_ref().map_or("put there by you", |record| &record.source);
    format!("{:<width$}  {:>9}  {used:<16}  {from}", name.as_str(), gigabytes(*size))
}

fn told(model: &CachedModel) -> serde_json::Value {
    let CachedModel { name, size, record, used, in_use } = model;
    serde_json::json!({
        "name": name,
        "bytes": size,
        "digest": record.as_ref().map(|record| record.digest),
        "source": record.as_ref().map(|record| &record.source),
        "used": moment::of(*used).as_secs(),
        "in_use": in_use,
    })
}

async fn list_network(settings: &Settings, json: bool) -> Result<(), Failure> {
    let (_, _, list) = network(settings).await?;
    if json {
        let list = serde_json::to_string_pretty(&list).unwrap_or_default();
        println!("{list}");
        return Ok(());
    }
    let width = list.files.iter().map(|file| file.name.as_str().len()).max().unwrap_or(0);
    for ModelFile { name, size, .. } in &list.files {
        println!("{:<width$}  {:>9}", name.as_str(), gigabytes(*size));
    }
    println!("{} models in the coordinator's folder", list.files.len());
    Ok(())
}

/// Returns what the first coordinator that has a model folder gives, where that is, and the key that
/// it wants.
async fn network(settings: &Settings) -> Result<(String, Secret, ModelFileList), Failure> {
    let asking = Asking::new(settings)?;
    let mut trouble = None;
    for url in settings.coordinators().map_err(Failure::settings)? {
        match asking.model_files(&url).await {
            Ok((base, key, list)) => return Ok((base, key, list)),
            Err(why) => trouble = trouble.or(Some(why)),
        }
    }
    let trouble = trouble.unwrap_or_else(|| "nobody was asked".to_owned());
    Err(Failure::new(Exit::Coordinator, format!("the coordinator gives no models: {trouble}")))
}

async fn pull(args: &PullArgs, settings: &Settings) -> Result<(), Failure> {
    if args.models.len() > 1 && (args.digest.is_some() || args.file.is_some()) {
        return Err(Failure::settings("--digest and --as are for one model at a time"));
    }
    let digest = args.digest.as_deref().map(str::parse::<Digest>).transpose();
    let digest = digest.map_err(Failure::settings)?;
    let file = args.file.as_deref().map(str::parse::<FileName>).transpose();
    let file = file.map_err(Failure::settings)?;
    for model in &args.models {
        let (source, roots) = source(model, settings).await?;
        let source = digest.into_iter().fold(source, Source::with_digest);
        let name =
            file.clone().map_or_else(|| source.file_name(), Ok).map_err(|error| failed(&error))?;
        if source.is_open_to_change() {
            eprintln!(
                "iris-node: {} comes without TLS, and without --digest whoever is on the way can \
                 change it",
                source.shown()
            );
        }
        pull_one(settings, name, source, roots).await?;
    }
    Ok(())
}

/// Returns where a model comes from, and whom to trust for that, if not whom the system trusts.
async fn source(model: &str, settings: &Settings) -> Result<(Source, Option<Vec<u8>>), Failure> {
    if model.contains("://") {
        return Ok((Source::new(model).map_err(|error| failed(&error))?, None));
    }
    if let Some(source) = settings.cache.sources.get(model) {
        return Ok((source.source(model).map_err(Failure::settings)?, None));
    }
    let (base, key, list) = network(settings).await?;
    let is_meant = |file: &&ModelFile| file.name.as_str() == model || file.name.model() == model;
    let Some(file) = list.files.iter().find(is_meant) else {
        return Err(Failure::files(format!(
            "{model} is no address, and neither [cache.sources] nor the coordinator has a model of \
             that name; `iris-node models list --network` shows what the coordinator has"
        )));
    };
    let digest = file.blake3.parse::<Digest>();
    let digest = digest.map_err(|error| {
        Failure::new(Exit::Coordinator, format!("the coordinator's list of models: {error}"))
    })?;
    let source = Source::new(&format!("{base}/model-files/{}", file.name))
        .map_err(|error| failed(&error))?;
    let source = source.with_key(key).with_digest(digest).with_size(file.size);
    let unreadable = |file: &Path, error| Failure::files(format!("{}: {error}", file.display()));
    let roots = settings.ca_file.as_deref();
    let roots = roots.map(|file| std::fs::read(file).map_err(|error| unreadable(file, error)));
    Ok((source, roots.transpose()?))
}

async fn pull_one(
    settings: &Settings,
    name: FileName,
    source: Source,
    roots: Option<Vec<u8>>,
) -> Result<(), Failure> {
    let allowance = settings.limits().map_err(Failure::settings)?.allowance;
    let mut downloads = Downloads::of(&settings.key_path);
    let pull = Pull::new(settings.cache(), name.clone(), source)
        .with_allowance(downloads.left(moment::now(), &allowance));
    let pull = roots.into_iter().fold(pull, Pull::with_roots);
    let mut progress = Progress::new(&name, std::io::stderr().is_terminal());
    let is_all = Notify::new();
    let run = pull.run(|event| {
        if let Event::Come { len, total, received } = event {
            let now = moment::now();
            // Others carry something meanwhile: the node, and other downloads.
            let is_written = downloads.count(now, received);
            if is_written && len < total && downloads.left(now, &allowance) == 0 {
                is_all.notify_one();
            }
        }
        progress.tell(&event);
    });
    let pulled = tokio::select! {
        pulled = run => pulled,
        () = is_all.notified() => Err(PullError::Allowance),
    };
    progress.end();
    match pulled.map_err(|error| failed(&error))? {
        Pulled::New(record) => println!("{name}: {}, {}", gigabytes(record.size), record.digest),
        Pulled::Known(record) => {
            println!("{name} is there already: {}, {}", gigabytes(record.size), record.digest);
        }
    }
    println!("run it with --engine {0}, or with --server {0}", name.model());
    Ok(())
}

/// Says what can be done about a failure.
fn failed(error: &PullError) -> Failure {
    let advice = match error {
        PullError::Name => "; give it one with --as",
        PullError::Exists { .. } => {
            "; remove it first with `iris-node models remove`, or choose another name with --as"
        }
        PullError::Cache(CacheError::Owned(_)) => "; remove it first, or choose a name with --as",
        PullError::Redirect(_) => ": give it with --digest",
        PullError::NoRoom { .. } => {
            ": raise --cache-gb, stop what uses the others, or remove files of your own"
        }
        PullError::DiskFull { .. } => "; make room, and the same command goes on with it",
        PullError::Allowance => "; the same command goes on with it the next day, or month",
        PullError::Broken(_) => ", and the same command goes on with it",
        _ => "",
    };
    let exit = match error {
        PullError::Url | PullError::Name => Exit::Settings,
        PullError::Broken(_) | PullError::Status(_) | PullError::Allowance | PullError::Tls(_) => {
            Exit::Work
        }
        _ => Exit::Files,
    };
    Failure::new(exit, format!("{error}{advice}"))
}

fn remove(cache: &ModelCache, models: &[String]) -> Result<(), Failure> {
    for model in models {
        let name = named(cache, model)?;
        cache.remove(&name).map_err(Failure::files)?;
        println!("{name} is removed");
    }
    Ok(())
}

/// Returns the file that is meant, which may be one that is only half there.
fn named(cache: &ModelCache, model: &str) -> Result<FileName, Failure> {
    match cache.find(model) {
        Some(name) => Ok(name),
        None => model.parse().map_err(Failure::settings),
    }
}

fn verify(cache: &ModelCache, models: &[String]) -> Result<(), Failure> {
    let names = if models.is_empty() {
        let all = cache.models().map_err(Failure::files)?;
        all.into_iter().map(|model| model.name).collect()
    } else {
        models.iter().map(|model| named(cache, model)).collect::<Result<Vec<_>, _>>()?
    };
    let mut changed = 0;
    for name in names {
        let verdict: Result<Verdict, CacheError> = cache.verify(&name, |_| {});
        match verdict.map_err(Failure::files)? {
            Verdict::Intact => println!("ok       {name}"),
            Verdict::Unrecorded(digest) => println!("yours    {name}  {digest}"),
            Verdict::Changed(digest) => {
                changed += 1;
                println!("CHANGED  {name}  {digest}");
            }
        }
    }
    if changed > 0 {
        return Err(Failure::files(format!(
            "{changed} of them are not what was downloaded: `iris-node models remove` and pull them \
             again"
        )));
    }
    Ok(())
}

/// Returns how the cache is, in a few words, and how much is in it. Not for async contexts.
pub(crate) fn summary(cache: &ModelCache) -> Result<(String, ByteSize), CacheError> {
    let (models, size) = cache.contents()?;
    let in_use = models.iter().filter(|model| model.in_use).count();
    let told = format!(
        "{} models, {in_use} in use, {} of {} in {}",
        models.len(),
        gigabytes(size.get()),
        gigabytes(cache.limit().get()),
        cache.folder().display()
    );
    Ok((told, size))
}
