//! Running the model files of a folder when somebody asks for them.

use std::collections::{BTreeMap, BTreeSet};
#[cfg(not(feature = "cache"))]
use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError};
use iris_core::residency::Claim;
#[cfg(feature = "cache")]
use iris_protocol::rest::FileName;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::error::EngineError;
use super::folder::{Folder, Stamp};
use super::workers::Ended;
use super::{Device, Engine, EngineSettings, Runner, Source, offer};
use crate::backend::on_demand::{Loadable, Loader};
#[cfg(feature = "cache")]
use crate::cache::{HeldModel, ModelCache};

/// Tokens of prompt and answer together, unless set.
const CONTEXT: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");
/// How long an engine may take to end that nobody uses: the rest of one step.
const END: Duration = Duration::from_secs(30);

/// A [`Loader`] of the GGUF files in a folder, each with an [`Engine`] of its own, a
/// [built-in](Runner::BuiltIn) one.
///
/// The folder is looked at again whenever the models are listed; of a file only the header is read for
/// that, and only once. Files that the engine cannot run are left out, and told of once in the log.
#[derive(Debug)]
pub struct EngineLoader {
    path: PathBuf,
    folder: Arc<Mutex<Folder>>,
    place: Place,
    /// For each model, but for its file.
    settings: EngineSettings,
    loaded: Arc<Mutex<BTreeMap<ModelName, Loaded>>>,
}

/// A model file that an [`EngineLoader`] has found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundModel {
    /// Where it is.
    pub path: PathBuf,
    /// The model in it, or why the engine cannot run it.
    pub model: Result<Loadable, String>,
}

/// Whose the files are.
#[derive(Clone, Debug)]
enum Place {
    /// Their owner's, who looks after them.
    Folder,
    /// The cache's, which removes what nobody uses.
    #[cfg(feature = "cache")]
    Cache(ModelCache),
}

#[cfg(feature = "cache")]
type Held = Option<HeldModel>;
#[cfg(not(feature = "cache"))]
type Held = Option<Infallible>;

/// A model that is loaded.
#[derive(Debug)]
struct Loaded {
    /// The file that it was loaded from.
    stamp: Stamp,
    ended: Ended,
    _held: Held,
}

impl EngineLoader {
    /// Offers the files of a folder, which stay its owner's business.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), Place::Folder)
    }

    /// Offers the files of a cache, which keeps those that are loaded.
    #[cfg(feature = "cache")]
    pub fn cache(cache: ModelCache) -> Self {
        Self::new(cache.folder().to_owned(), Place::Cache(cache))
    }

    fn new(path: PathBuf, place: Place) -> Self {
        // What llama.cpp would take of memory is not known from a header.
        let settings = EngineSettings::file(&path).with_context_limit(CONTEXT);
        let settings = settings.with_runner(Runner::BuiltIn);
        let folder = Arc::new(Mutex::new(Folder::new(path.clone())));
        Self { path, folder, place, settings, loaded: Arc::default() }
    }

    /// Sets how many requests each model works on at a time. Default: 2.
    pub fn with_slots(mut self, slots: NonZeroUsize) -> Self {
        self.settings = self.settings.with_slots(slots);
        self
    }

    /// Limits the tokens of prompt and answer together. Default: 4096, or what the model was trained
    /// on, if that is less. Memory is set aside for as many.
    pub fn with_context_limit(mut self, tokens: NonZeroUsize) -> Self {
        self.settings = self.settings.with_context_limit(tokens);
        self
    }

    /// Sets what is computed on. Default: [`Device::Auto`].
    pub fn with_device(mut self, device: Device) -> Self {
        self.settings = self.settings.with_device(device);
        self
    }

    /// Returns where the files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many requests each model works on at a time.
    pub fn slots(&self) -> NonZeroUsize {
        self.settings.slots()
    }

    /// Looks at the files, by their names; none where the folder is not there. Reads the headers of
    /// those that are new, so not for async contexts.
    pub fn files(&self) -> io::Result<Vec<FoundModel>> {
        self.looking()()
    }

    /// Returns what looks at the files, on any thread.
    fn looking(&self) -> impl FnOnce() -> io::Result<Vec<FoundModel>> + Send + use<> {
        let (folder, loaded) = (Arc::clone(&self.folder), Arc::clone(&self.loaded));
        let settings = self.settings.clone();
        move || {
            let mut folder = locked(&folder);
            let files = folder.look()?.iter();
            let loaded = locked(&loaded);
            let mut names = BTreeSet::new();
            let found = files.map(|(path, file)| {
                let model = file.model.as_ref().map_err(Clone::clone);
                let model = model.and_then(|(name, header)| {
                    let is_first = names.insert(name);
                    let taken = || "another file has the same name".to_owned();
                    if is_first { Ok((name, header)) } else { Err(taken()) }
                });
                let model = model.map(|(name, header)| {
                    let context = settings.context(&header.sizes);
                    let mut offer = offer(name.clone(), &header.sizes, context);
                    offer.parameters = Some(header.parameters);
                    offer.quantization.clone_from(&header.quantization);
                    let slots = settings.slots.get();
                    let claim = Claim {
                        memory: header.memory(context, slots),
                        slots: u32::try_from(slots).unwrap_or(u32::MAX),
                    };
                    // Where a file has another one's name, what was loaded of that one is outdated.
                    let is_loaded = loaded.get(name).is_some_and(|it| it.stamp == file.stamp);
                    Loadable { offer, claim, is_loaded }
                });
                FoundModel { path: path.clone(), model }
            });
            Ok(found.collect())
        }
    }
}

impl Loader for EngineLoader {
    fn models(&self) -> BoxFuture<'_, Result<Vec<Loadable>, BackendError>> {
        let looking = spawn_blocking(self.looking());
        Box::pin(async move {
            let found = looking.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            let found = found.map_err(|error| {
                warn!(%error, "the folder of models cannot be read");
                BackendError::Unavailable
            })?;
            Ok(found.into_iter().filter_map(|found| found.model.ok()).collect())
        })
    }

    fn load(
        &self,
        model: &ModelName,
    ) -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>> {
        let (folder, loaded) = (Arc::clone(&self.folder), Arc::clone(&self.loaded));
        let (place, settings, model) = (self.place.clone(), self.settings.clone(), model.clone());
        let load = move || {
            let found = locked(&folder).find(&model).map(|(path, stamp)| (path.to_owned(), stamp));
            let (path, stamp) = found.ok_or(BackendError::ModelNotFound)?;
            match load(&path, stamp, &place, settings.with_name(model.clone())) {
                Ok((engine, held)) => {
                    let ended = engine.workers.ended();
                    locked(&loaded).insert(model, Loaded { stamp, ended, _held: held });
                    Ok(Arc::new(engine) as Arc<dyn Backend>)
                }
                Err(error) => {
                    warn!(file = %path.display(), %error, "this model cannot be loaded");
                    if matches!(error, EngineError::Malformed(_) | EngineError::Unsupported(_)) {
                        locked(&folder).fault(&path, stamp, error.to_string());
                    }
                    Err(BackendError::Failed)
                }
            }
        };
        Box::pin(async { spawn_blocking(load).await.unwrap_or(Err(BackendError::Failed)) })
    }

    fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>> {
        let (loaded, model) = (Arc::clone(&self.loaded), model.clone());
        Box::pin(async move {
            let Some(ended) = locked(&loaded).get(&model).map(|it| it.ended.clone()) else {
                return Ok(());
            };
            timeout(END, ended.wait()).await.map_err(|_| BackendError::Timeout)?;
            locked(&loaded).remove(&model);
            Ok(())
        })
    }
}

/// Loads a file, if it is still the one that was listed.
fn load(
    path: &Path,
    stamp: Stamp,
    place: &Place,
    settings: EngineSettings,
) -> Result<(Engine, Held), EngineError> {
    let held = place.hold(path)?;
    if Stamp::of(path)? != stamp {
        // What it takes is not known yet.
        return Err(io::Error::other("it has changed since the folder was looked at").into());
    }
    let engine =
        Engine::load(EngineSettings { source: Source::File(path.to_owned()), ..settings })?;
    Ok((engine, held))
}

impl Place {
    /// Keeps a file from being removed, where somebody else than its owner could.
    #[cfg(feature = "cache")]
    fn hold(&self, path: &Path) -> io::Result<Held> {
        let Self::Cache(cache) = self else { return Ok(None) };
        // The cache knows no files of other names, and removes none.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(name) = name.parse::<FileName>() else { return Ok(None) };
        cache.hold(&name).map(Some).map_err(io::Error::other)
    }

    #[cfg(not(feature = "cache"))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as with a cache")]
    fn hold(&self, _: &Path) -> io::Result<Held> {
        Ok(None)
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use futures::StreamExt;
    use iris_core::backend::{Chunk, GenerateRequest, Operation};
    #[cfg(feature = "cache")]
    use iris_core::memory::ByteSize;
    use iris_core::residency::Capacity;
    use serde_json::json;
    use tempfile::TempDir;

    use super::super::stem;
    use super::*;
    use crate::backend::on_demand::OnDemand;

    const TINY: &[u8] = super::super::model::BUNDLED;
    const LLAMA: &[u8] = include_bytes!("../../../tests/families/llama3.gguf");
    const QWEN: &[u8] = include_bytes!("../../../tests/families/qwen3.gguf");

    fn shelf(files: &[(&str, &[u8])]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    /// Has room for the larger one of the models, and for no two of them.
    async fn room_for_one(loader: EngineLoader) -> OnDemand {
        let models = loader.models().await.unwrap();
        let memory = models.iter().map(|model| model.claim.memory).max().unwrap();
        let capacity = Capacity { memory, waiting: 4, stay: Duration::ZERO };
        OnDemand::new(Arc::new(loader), capacity)
    }

    async fn names(backend: &dyn Backend) -> Vec<String> {
        let offers = backend.models().await.unwrap();
        offers.iter().map(|offer| offer.name.to_string()).collect()
    }

    fn request(model: &str) -> GenerateRequest {
        let body = json!({"model": model, "prompt": "One", "max_tokens": 3});
        GenerateRequest {
            operation: Operation::Completion,
            model: model.parse().unwrap(),
            body: Bytes::from(body.to_string()),
            stream: true,
            time_left: Duration::from_mins(5),
            begun: None,
            isolated: false,
        }
    }

    async fn ask(backend: &dyn Backend, model: &str) -> Result<(), BackendError> {
        let chunks: Vec<_> = backend.generate(request(model)).collect().await;
        match chunks.into_iter().next_back().unwrap()? {
            Chunk::Finished(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn loaded(backend: &OnDemand) -> Vec<String> {
        backend.resident().models.iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn of_two_files_with_one_name_the_first_has_it() {
        let folder = shelf(&[("a.GGUF", TINY), ("a.gguf", TINY)]);
        let files = EngineLoader::folder(folder.path()).files().unwrap();
        let told: Vec<_> = files.iter().map(|file| file.model.as_ref().err()).collect();
        assert_eq!(told, [None, Some(&"another file has the same name".to_owned())]);
    }

    /// Writes another word of the same length wherever a file has `word`.
    fn altered(file: &[u8], word: &str, other: &str) -> Vec<u8> {
        let mut file = file.to_vec();
        let at = |file: &[u8]| file.windows(word.len()).position(|part| part == word.as_bytes());
        while let Some(at) = at(&file) {
            file[at..at + word.len()].copy_from_slice(other.as_bytes());
        }
        file
    }

    #[tokio::test]
    async fn models_of_a_folder_take_turns_in_the_room_that_there_is_for_one() {
        let folder = shelf(&[("tiny.gguf", TINY), ("llama.GGUF", LLAMA), ("notes.txt", b"x")]);
        let backend = room_for_one(EngineLoader::folder(folder.path())).await;
        assert_eq!(names(&backend).await, ["llama", "tiny"]);
        assert_eq!(loaded(&backend), [""; 0], "to list them loads none");
        for model in ["tiny", "llama", "llama", "tiny"] {
            ask(&backend, model).await.unwrap();
            assert_eq!(loaded(&backend), [model]);
        }
    }

    #[tokio::test]
    async fn a_folder_is_offered_as_it_is_now() {
        let folder = shelf(&[("a.gguf", TINY)]);
        let file = |name: &str| folder.path().join(name);
        let backend = room_for_one(EngineLoader::folder(folder.path())).await;
        fs::write(file("b.gguf"), TINY).unwrap();
        assert_eq!(names(&backend).await, ["a", "b"]);
        ask(&backend, "a").await.unwrap();
        fs::remove_file(file("b.gguf")).unwrap();
        // Another one under the name of what is loaded is what callers get from now on.
        fs::write(file("a.gguf"), QWEN).unwrap();
        let offers = backend.models().await.unwrap();
        assert_eq!((offers.len(), loaded(&backend).len()), (1, 0));
        ask(&backend, "a").await.unwrap();
        assert_eq!(ask(&backend, "b").await, Err(BackendError::Failed));
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(names(&backend).await, [""; 0]);
    }

    #[tokio::test]
    async fn bad_files_are_named_with_what_is_wrong_and_disturb_no_other() {
        let unknown = altered(LLAMA, "llama", "gemma");
        let partial = altered(QWEN, "blk.0.attn_q.weight", "blk.0.attn_x.weight");
        let folder = shelf(&[
            ("empty.gguf", b""),
            ("good.gguf", TINY),
            ("partial.gguf", &partial),
            ("short.gguf", &LLAMA[..LLAMA.len() - 1]),
            ("text.gguf", b"GGUF, as the name says"),
            ("unknown.gguf", &unknown),
        ]);
        let loader = EngineLoader::folder(folder.path());
        let faults = |loader: &EngineLoader| {
            let files = loader.files().unwrap().into_iter();
            let faults = files.filter_map(|file| Some((file.path, file.model.err()?)));
            let name = |path: PathBuf| stem(&path).to_owned();
            faults.map(|(path, why)| (name(path), why)).collect::<Vec<_>>()
        };
        let found = faults(&loader);
        let told = |number: usize| (found[number].0.as_str(), found[number].1.as_str());
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(told(1), ("short", "the model file is damaged: it is cut off"));
        assert!(told(3).0 == "unknown" && told(3).1.contains("architecture \"gemma\""));
        let backend = room_for_one(loader).await;
        assert_eq!(names(&backend).await, ["good", "partial"]);
        // What only loading tells is told once; a file that is put right is offered again.
        assert_eq!(ask(&backend, "partial").await, Err(BackendError::Failed));
        assert_eq!(names(&backend).await, ["good"]);
        ask(&backend, "good").await.unwrap();
        fs::write(folder.path().join("short.gguf"), LLAMA).unwrap();
        assert_eq!(names(&backend).await, ["good", "short"]);
    }

    #[tokio::test]
    async fn a_model_is_unloaded_when_nothing_of_it_is_in_memory_any_more() {
        let folder = shelf(&[("tiny.gguf", TINY)]);
        let loader = EngineLoader::folder(folder.path());
        let tiny: ModelName = "tiny".parse().unwrap();
        loader.models().await.unwrap();
        let engine = loader.load(&tiny).await.unwrap();
        assert!(loader.models().await.unwrap()[0].is_loaded);
        tokio::time::pause();
        assert_eq!(loader.unload(&tiny).await, Err(BackendError::Timeout), "it is held here");
        tokio::time::resume();
        drop(engine);
        loader.unload(&tiny).await.unwrap();
        assert!(!loader.models().await.unwrap()[0].is_loaded);
    }

    #[cfg(feature = "cache")]
    #[tokio::test]
    async fn a_cached_file_cannot_be_removed_while_it_is_loaded() {
        let folder = shelf(&[("tiny.gguf", TINY)]);
        let cache = ModelCache::new(folder.path(), ByteSize::gib(1));
        let backend = room_for_one(EngineLoader::cache(cache.clone())).await;
        let file: FileName = "tiny.gguf".parse().unwrap();
        assert_eq!(names(&backend).await, ["tiny"]);
        ask(&backend, "tiny").await.unwrap();
        assert!(cache.models().unwrap()[0].in_use && cache.remove(&file).is_err());
        backend.close().await;
        cache.remove(&file).unwrap();
        assert_eq!(names(&backend).await, [""; 0]);
    }

    #[test]
    fn what_a_model_takes_grows_with_its_slots_and_its_context() {
        let folder = shelf(&[("tiny.gguf", TINY)]);
        let memory = |slots, context| {
            let number = |number| NonZeroUsize::new(number).unwrap();
            let loader = EngineLoader::folder(folder.path()).with_slots(number(slots));
            let files = loader.with_context_limit(number(context)).files().unwrap();
            files[0].model.as_ref().unwrap().claim.memory.get()
        };
        let (one, two) = (memory(1, 256), memory(2, 256));
        assert_eq!(memory(1, 512), two);
        assert_eq!(memory(4, 256) - two, 2 * (two - one));
    }
}
