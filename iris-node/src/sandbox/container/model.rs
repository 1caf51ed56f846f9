use std::io;
use std::path::{Path, PathBuf};

use bollard::models::Mount;

use super::mount;

/// Where models are.
const MODELS: &str = "/models";

/// Returns where a server sees `model`.
pub(super) fn seen(model: &Path) -> String {
    let name = model.file_name().map_or("model".into(), |name| name.to_string_lossy());
    format!("{MODELS}/{name}")
}

/// Shows `model` and nothing beside it, unless `private` lies within.
pub(super) fn mounts(model: &Path, private: &Path) -> io::Result<Vec<Mount>> {
    let shown = |model: &PathBuf| {
        let source = model.canonicalize()?;
        if private.starts_with(&source) {
            return Err(io::Error::other("files of the node itself lie in it"));
        }
        Ok(mount(&source, &seen(model), true))
    };
    parts(model).iter().map(shown).collect()
}

/// Returns the files of which `model` is the first, or one, and itself where there are no others.
fn parts(model: &Path) -> Vec<PathBuf> {
    let numbered = || {
        let (stem, end) = (model.file_stem()?.to_str()?, model.extension()?.to_str()?);
        let (start, count) = stem.rsplit_once("-of-")?;
        let (name, number) = start.rsplit_once('-')?;
        let is_number =
            |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(number) || !is_number(count) {
            return None;
        }
        let parts = (1..=count.parse::<u32>().ok()?)
            .map(|part| model.with_file_name(format!("{name}-{part:05}-of-{count}.{end}")))
            .filter(|part| part.is_file());
        Some(parts.collect::<Vec<_>>()).filter(|parts| !parts.is_empty())
    };
    numbered().unwrap_or_else(|| vec![model.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(model: &Path, private: &Path) -> io::Result<Vec<(String, String)>> {
        let both = |mount: Mount| (mount.source.unwrap(), mount.target.unwrap());
        mounts(model, private).map(|mounts| mounts.into_iter().map(both).collect())
    }

    #[test]
    fn a_model_is_shown_without_what_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let private = root.join("own/node.run");
        for made in ["own/node.run", "blobs", "models"] {
            std::fs::create_dir_all(root.join(made)).unwrap();
        }
        let names = ["models/b-00001-of-00002.gguf", "models/b-00002-of-00002.gguf", "blobs/1"];
        for name in names {
            std::fs::write(root.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(root.join("blobs/1"), root.join("models/m.gguf")).unwrap();
        let path = |name: &str| root.join(name).to_string_lossy().into_owned();
        let linked = shown(&root.join("models/m.gguf"), &private).unwrap();
        assert_eq!(linked, [(path("blobs/1"), "/models/m.gguf".to_owned())]);
        let parts = shown(&root.join(names[0]), &private).unwrap();
        let expected = |part: u8| {
            let name = format!("models/b-0000{part}-of-00002.gguf");
            (path(&name), format!("/{name}"))
        };
        assert_eq!(parts, [expected(1), expected(2)]);
        let whole = shown(&root.join("models"), &private).unwrap();
        assert_eq!(whole, [(path("models"), "/models/models".to_owned())]);
        for refused in ["", "own", "own/node.run", "own/../own"] {
            assert!(shown(&root.join(refused), &private).is_err(), "{refused}");
        }
        assert!(shown(&root.join("none.gguf"), &private).is_err());
    }
}
