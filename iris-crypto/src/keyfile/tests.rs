use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn file(folder: &TempDir) -> SecretFile {
    SecretFile::new(folder.path().join("keys/node.key"), Purpose::Identity)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn secret_is_made_once_and_read_from_then_on() {
    let folder = TempDir::new().unwrap();
    let made = file(&folder).load_or_create().unwrap();
    assert_eq!(file(&folder).load_or_create().unwrap().reveal(), made.reveal());
    let path = file(&folder).path().to_owned();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(names(path.parent().unwrap()), ["node.key"]);
    let text = fs::read_to_string(&path).unwrap();
    let hex = data_encoding::HEXLOWER.encode(made.reveal());
    assert_eq!(text, format!("iris-secret v1 identity\n{hex}\n"));
}

#[test]
fn identity_stays_the_same_over_restarts() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("identity");
    let first = Identity::load_or_create(&path).unwrap().public();
    assert_eq!(Identity::load_or_create(&path).unwrap().public(), first);
    assert_eq!(Identity::load(&path).unwrap().public(), first);
}

#[test]
fn existing_file_is_never_replaced() {
    let folder = TempDir::new().unwrap();
    file(&folder).create().unwrap();
    let before = fs::read(file(&folder).path()).unwrap();
    assert!(matches!(file(&folder).create(), Err(KeyFileError::Exists(_))));
    assert_eq!(fs::read(file(&folder).path()).unwrap(), before);
    assert_eq!(names(file(&folder).path().parent().unwrap()), ["node.key"]);
}

#[test]
fn racing_processes_get_one_secret() {
    let folder = TempDir::new().unwrap();
    let secrets: Vec<[u8; 32]> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| *file(&folder).load_or_create().unwrap().reveal()))
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert!(secrets.iter().all(|secret| secret == &secrets[0]));
}

#[test]
fn file_that_others_may_read_is_refused() {
    let folder = TempDir::new().unwrap();
    file(&folder).create().unwrap();
    for exposed in [0o644, 0o640, 0o604, 0o660] {
        set_mode(file(&folder).path(), exposed);
        assert!(matches!(file(&folder).load_or_create(), Err(KeyFileError::Exposed(_))));
    }
    set_mode(file(&folder).path(), 0o400);
    assert!(file(&folder).load().is_ok());
}

#[test]
fn folder_that_everybody_may_write_to_is_refused() {
    let folder = TempDir::new().unwrap();
    file(&folder).create().unwrap();
    let keys = file(&folder).path().parent().unwrap().to_owned();
    set_mode(&keys, 0o777);
    assert!(matches!(file(&folder).load(), Err(KeyFileError::OpenFolder(_))));
    let other = SecretFile::new(keys.join("other"), Purpose::Pepper);
    assert!(matches!(other.create(), Err(KeyFileError::OpenFolder(_))));
    set_mode(&keys, 0o1777);
    assert!(file(&folder).load().is_ok());
}

#[test]
fn symbolic_links_and_folders_are_refused() {
    let folder = TempDir::new().unwrap();
    let target = SecretFile::new(folder.path().join("target"), Purpose::Identity);
    target.create().unwrap();
    let refused = |path: &Path| {
        let file = SecretFile::new(path, Purpose::Identity);
        assert!(matches!(file.load_or_create(), Err(KeyFileError::NotAFile(_))), "{path:?}");
    };
    let link = folder.path().join("link");
    symlink(target.path(), &link).unwrap();
    refused(&link);
    let dangling = folder.path().join("dangling");
    symlink(folder.path().join("nowhere"), &dangling).unwrap();
    refused(&dangling);
    assert!(!folder.path().join("nowhere").exists());
    refused(folder.path());
}

#[test]
fn dangling_link_is_not_written_through() {
    let folder = TempDir::new().unwrap();
    let dangling = folder.path().join("dangling");
    symlink(folder.path().join("nowhere"), &dangling).unwrap();
    let created = SecretFile::new(&dangling, Purpose::Identity).create();
    assert!(matches!(created, Err(KeyFileError::Exists(_))));
    assert!(!folder.path().join("nowhere").exists());
}

#[test]
fn secret_of_another_kind_or_shape_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = SecretFile::new(folder.path().join("file"), Purpose::Pepper);
    SecretFile::new(file.path(), Purpose::Identity).create().unwrap();
    assert!(matches!(
        file.load_or_create(),
        Err(KeyFileError::Malformed { expected: Purpose::Pepper, .. })
    ));
    let hex = "ab".repeat(32);
    let malformed = [
        String::new(),
        "iris-secret v1 pepper\n".to_owned(),
        format!("iris-secret v2 pepper\n{hex}\n"),
        format!("iris-secret v1 pepper\n{}\n", &hex[1..]),
        format!("iris-secret v1 pepper\n{hex}\n{hex}\n"),
        format!("iris-secret v1 pepper\n{}\n", hex.to_uppercase()),
        format!("iris-secret v1 pepper\n{hex}{}", "\n".repeat(1024)),
    ];
    for text in malformed {
        fs::write(file.path(), &text).unwrap();
        assert!(matches!(file.load(), Err(KeyFileError::Malformed { .. })), "{text:?}");
    }
    fs::write(file.path(), [0xff; 40]).unwrap();
    assert!(matches!(file.load(), Err(KeyFileError::Malformed { .. })));
    fs::write(file.path(), format!("iris-secret v1 pepper\r\n{hex}")).unwrap();
    assert_eq!(file.load().unwrap().reveal(), &[0xab; 32]);
}

#[test]
fn missing_file_is_named_and_not_made() {
    let folder = TempDir::new().unwrap();
    let error = file(&folder).load().unwrap_err();
    assert!(matches!(error, KeyFileError::Missing(_)));
    assert!(error.to_string().contains("node.key"));
    assert!(names(folder.path()).is_empty());
}
