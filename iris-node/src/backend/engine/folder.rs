//! The model files of a folder, each read as far as its header, and only when it is another one than
//! before.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use iris_core::ModelName;

use super::header::Header;
use super::stem;

/// The model files of a folder, as last seen.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, ModelFile>,
}

/// A file that may hold a model.
#[derive(Clone, Debug)]
pub(super) struct ModelFile {
    pub(super) stamp: Stamp,
    /// The model in it, or why it cannot be run.
    pub(super) model: Result<(ModelName, Arc<Header>), String>,
}

/// What tells a file from another one that has taken its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    changed: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        path.metadata().map(|file| Self::new(&file))
    }

    fn new(file: &Metadata) -> Self {
        Self { size: file.len(), changed: file.modified().ok() }
    }
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new() }
    }

    /// Looks at the folder again and returns its model files, by name; none where it is not there.
    /// What has become unusable is told once.
    pub(super) fn look(&mut self) -> io::Result<&BTreeMap<PathBuf, ModelFile>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries?.collect::<io::Result<_>>()?,
        };
        let mut before = std::mem::take(&mut self.files);
        for entry in entries {
            let path = entry.path();
            let is_model =
                path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
            // Owners may put links to files elsewhere; what goes meanwhile is not there.
            let Ok(metadata) = path.metadata() else { continue };
            if !is_model || !metadata.is_file() {
                continue;
            }
            let (stamp, known) = (Stamp::new(&metadata), before.remove(&path));
            let file = match known {
                Some(known) if known.stamp == stamp => known,
                known => {
                    let file = ModelFile { stamp, model: read(&path) };
                    let told = known.and_then(|known| known.model.err());
                    file.tell(&path, told.as_deref());
                    file
                }
            };
            self.files.insert(path, file);
        }
        Ok(&self.files)
    }

    /// Returns the file of a model, as last seen.
    pub(super) fn find(&self, model: &ModelName) -> Option<(&Path, Stamp)> {
        let is_meant = |file: &ModelFile| file.model.as_ref().is_ok_and(|(name, _)| name == model);
        let (path, file) = self.files.iter().find(|(_, file)| is_meant(file))?;
        Some((path, file.stamp))
    }

    /// Takes in that a file cannot be run after all, for as long as it stays the same.
    pub(super) fn fault(&mut self, path: &Path, stamp: Stamp, why: String) {
        if let Some(file) = self.files.get_mut(path).filter(|file| file.stamp == stamp) {
            file.model = Err(why);
            file.tell(path, None);
        }
    }
}

impl ModelFile {
    fn tell(&self, path: &Path, told: Option<&str>) {
        if let Err(why) = &self.model
            && told != Some(why)
        {
            tracing::warn!(file = %path.display(), why, "this model file is not offered");
        }
    }
}

fn read(path: &Path) -> Result<(ModelName, Arc<Header>), String> {
    let name = stem(path).parse().map_err(|error| format!("its name is no model's: {error}"))?;
    let header = Header::open(path).map_err(|error| error.to_string())?;
    Ok((name, Arc::new(header)))
}
