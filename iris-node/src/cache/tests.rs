use std::time::Duration;

use super::*;

struct Folder {
    folder: tempfile::TempDir,
    cache: ModelCache,
}

impl Folder {
    fn new(limit: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path().join("models"), ByteSize::new(limit));
        Self { folder, cache }
    }

    /// Puts a model there that was downloaded, and used last at `second`.
    fn put(&self, text: &str, bytes: &[u8], second: u64) -> FileName {
        let name = self.own(text, bytes);
        let digest = Digest::Blake3(*blake3::hash(bytes).as_bytes());
        let source = format!("https://models.example/{name}");
        let changed = fs::metadata(self.cache.path(&name)).unwrap().modified().unwrap();
        let record = Record { source, size: bytes.len() as u64, changed, digest };
        let path = self.cache.beside(&name, RECORD);
        write_json(&path, &record).unwrap();
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        OpenOptions::new().write(true).open(path).unwrap().set_modified(used).unwrap();
        name
    }

    /// Puts a file of the owner there.
    fn own(&self, name: &str, bytes: &[u8]) -> FileName {
        fs::create_dir_all(self.cache.folder()).unwrap();
        let name: FileName = name.parse().unwrap();
        fs::write(self.cache.path(&name), bytes).unwrap();
        name
    }

    fn names(&self) -> Vec<String> {
        self.cache.models().unwrap().into_iter().map(|model| model.name.to_string()).collect()
    }

    fn size(&self) -> ByteSize {
        self.cache.contents().unwrap().1
    }

    fn make_room(&self, size: u64) -> Result<Vec<FileName>, PullError> {
        let wanted = Wanted { size, missing: size };
        self.cache.make_room(&"new.gguf".parse().unwrap(), wanted, || Ok(()))
    }
}

#[test]
fn a_folder_that_is_not_there_is_empty_and_is_not_made() {
    let folder = Folder::new(10);
    assert_eq!(folder.names(), Vec::<String>::new());
    assert_eq!(folder.size(), ByteSize::ZERO);
    assert_eq!(folder.cache.find("x"), None);
    assert_eq!(fs::read_dir(folder.folder.path()).unwrap().count(), 0);
}

#[test]
fn models_are_found_by_their_names_with_and_without_their_ending() {
    let folder = Folder::new(100);
    let name = folder.put("x.gguf", b"GGUF", 1);
    folder.own("y.onnx", b"y");
    for (asked, found) in [("x", Some(&name)), ("x.gguf", Some(&name)), ("y", None), ("../x", None)]
    {
        assert_eq!(folder.cache.find(asked).as_ref(), found, "{asked}");
    }
    assert_eq!(folder.cache.find("y.onnx").unwrap().as_str(), "y.onnx");
    assert_eq!(folder.names(), ["x.gguf", "y.onnx"], "records and locks are no models");
}

#[test]
fn the_longest_unused_goes_and_never_what_is_in_use_or_the_owners() {
    let folder = Folder::new(100);
    let oldest = folder.put("oldest.gguf", &[1; 30], 1);
    folder.put("older.gguf", &[2; 30], 2);
    folder.put("young.gguf", &[3; 30], 3);
    folder.own("own.gguf", &[4; 10]);
    let held = folder.cache.hold(&oldest).unwrap();
    assert!(folder.cache.models().unwrap().iter().any(|m| m.in_use && m.name == oldest));
    let gone = folder.make_room(20).unwrap();
    assert_eq!(gone.iter().map(FileName::as_str).collect::<Vec<_>>(), ["older.gguf"]);
    assert!(matches!(
        folder.make_room(61),
        Err(PullError::NoRoom { over, .. }) if over == ByteSize::new(1)
    ));
    assert_eq!(folder.names(), ["oldest.gguf", "own.gguf", "young.gguf"], "no room, nothing went");
    assert!(matches!(folder.cache.remove(&oldest), Err(CacheError::InUse(_))));
    drop(held);
    // What was held was used last.
    let gone = folder.make_room(60).unwrap();
    assert_eq!(gone.iter().map(FileName::as_str).collect::<Vec<_>>(), ["young.gguf"]);
    folder.cache.remove(&oldest).unwrap();
    assert!(matches!(folder.cache.remove(&oldest), Err(CacheError::Missing(_))));
    assert_eq!(folder.names(), ["own.gguf"]);
}

#[test]
fn a_download_that_goes_on_has_its_room_and_a_forgotten_one_makes_room() {
    let folder = Folder::new(100);
    let name: FileName = "big.gguf".parse().unwrap();
    let mut part = part::Part::open(&folder.cache, &name).unwrap();
    part.resume("https://a/big.gguf").unwrap();
    part.record.total = Some(80);
    part.append(&[1; 5]).unwrap();
    part.note().unwrap();
    assert!(matches!(part::Part::open(&folder.cache, &name), Err(PullError::Busy(_))));
    assert!(matches!(folder.make_room(30), Err(PullError::NoRoom { .. })));
    assert!(matches!(folder.cache.remove(&name), Err(CacheError::InUse(_))));
    drop(part);
    assert_eq!(folder.size(), ByteSize::new(5));
    assert_eq!(folder.make_room(96).unwrap(), [name]);
    assert_eq!(folder.size(), ByteSize::ZERO);
}

#[test]
fn what_the_owner_puts_in_the_place_of_a_download_is_the_owners() {
    let folder = Folder::new(100);
    let name = folder.put("x.gguf", &[1; 60], 1);
    fs::remove_file(folder.cache.path(&name)).unwrap();
    folder.own("x.gguf", &[2; 60]);
    let path = folder.cache.path(&name);
    let later = SystemTime::now() + Duration::from_secs(9);
    OpenOptions::new().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!(folder.cache.models().unwrap()[0].record, None);
    // A part without a record is no download of this cache's.
    let part = folder.cache.beside(&"y.gguf".parse().unwrap(), PART);
    fs::write(&part, [3; 20]).unwrap();
    assert!(matches!(folder.make_room(30), Err(PullError::NoRoom { .. })));
    let opened = part::Part::open(&folder.cache, &"y.gguf".parse().unwrap());
    assert!(matches!(opened, Err(PullError::Cache(CacheError::Owned(found))) if found == part));
    assert_eq!((fs::read(path).unwrap(), fs::read(part).unwrap()), (vec![2; 60], vec![3; 20]));
}

#[test]
fn a_download_takes_nobodys_place_that_has_come_meanwhile() {
    let folder = Folder::new(100);
    let name: FileName = "x.gguf".parse().unwrap();
    let mut part = part::Part::open(&folder.cache, &name).unwrap();
    part.resume("https://a/x.gguf").unwrap();
    part.append(b"GGUF").unwrap();
    part.note().unwrap();
    folder.own("x.gguf", b"mine");
    assert!(matches!(part.finish(), Err(CacheError::Owned(_))));
    assert_eq!(fs::read(folder.cache.path(&name)).unwrap(), b"mine");
    assert_eq!(folder.cache.models().unwrap()[0].record, None);
    fs::remove_file(folder.cache.path(&name)).unwrap();
    let mut part = part::Part::open(&folder.cache, &name).unwrap();
    part.resume("https://a/x.gguf").unwrap();
    let record = part.finish().unwrap();
    assert_eq!(folder.cache.models().unwrap()[0].record, Some(record), "and it is kept");
}

#[cfg(unix)]
#[test]
fn what_cannot_be_looked_at_counts_as_in_use() {
    let folder = Folder::new(100);
    let name = folder.put("x.gguf", b"GGUF", 1);
    assert!(!is_locked(&folder.cache.path(&name)));
    assert!(!is_locked(&folder.cache.path(&"missing".parse().unwrap())));
    assert!(is_locked(&folder.cache.path(&name).join("within")), "that is no folder");
}

#[test]
fn a_file_that_has_changed_is_found_out() {
    let folder = Folder::new(100);
    let (name, own) = (folder.put("x.gguf", b"GGUF and more", 1), folder.own("own.gguf", b"GGUF"));
    let mut told = Vec::new();
    let verdict = folder.cache.verify(&name, |read| told.push(read)).unwrap();
    assert_eq!((verdict, told), (Verdict::Intact, vec![13]));
    let verify = |name| folder.cache.verify(name, |_| {}).unwrap();
    let digest = Digest::Blake3(*blake3::hash(b"GGUF").as_bytes());
    assert_eq!(verify(&own), Verdict::Unrecorded(digest));
    fs::write(folder.cache.path(&name), b"GGUF").unwrap();
    assert_eq!(verify(&name), Verdict::Changed(digest));
}

#[test]
fn a_part_goes_on_only_from_what_was_noted_of_it() {
    let folder = Folder::new(100);
    let name: FileName = "x.gguf".parse().unwrap();
    let path = folder.cache.beside(&name, PART);
    let open = |source: &str| {
        let mut part = part::Part::open(&folder.cache, &name).unwrap();
        let was_bad = part.resume(source).unwrap();
        (part, was_bad)
    };
    let (mut part, was_bad) = open("https://a/x");
    assert_eq!((part.len(), was_bad), (0, false));
    part.append(b"GGUF").unwrap();
    part.note().unwrap();
    part.append(b"lost").unwrap();
    drop(part);
    let (part, was_bad) = open("https://a/x");
    assert_eq!((part.len(), was_bad), (4, false), "what was not noted is loaded again");
    drop(part);
    fs::write(&path, b"GGUG").unwrap();
    let (mut part, was_bad) = open("https://a/x");
    assert_eq!((part.len(), was_bad), (0, true));
    part.append(b"GGUF").unwrap();
    part.note().unwrap();
    drop(part);
    let (part, _) = open("https://b/x");
    assert_eq!(
        (part.len(), fs::read(&path).unwrap().len()),
        (0, 0),
        "another source's is another's"
    );
}
