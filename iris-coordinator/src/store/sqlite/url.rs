//! Reading `DATABASE_URL`.

use std::path::PathBuf;

/// Why a `DATABASE_URL` does not name a SQLite file.
///
/// The URL itself is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseUrlError {
    /// The URL is for another database.
    #[error("the database URL must begin with sqlite:/// and not {0:?}")]
    Scheme(String),
    /// The URL names a host, which a file does not have.
    #[error(
        "the database URL names a host; write sqlite:///file for a relative path, \
         sqlite:////file for an absolute one"
    )]
    Host,
    /// The URL names no file, or the database in memory, which would forget everything.
    #[error("the database URL names no file")]
    NoFile,
    /// The URL ends in options.
    #[error("the database URL has options after '?', which are not supported")]
    Options,
}

pub(super) fn path_of(url: &str) -> Result<PathBuf, DatabaseUrlError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(DatabaseUrlError::Scheme(String::new()));
    };
    // SQLAlchemy's URLs may name a driver, as in `sqlite+aiosqlite`.
    if scheme.split('+').next() != Some("sqlite") {
        return Err(DatabaseUrlError::Scheme(scheme.to_owned()));
    }
    match rest.strip_prefix('/') {
        None if rest.is_empty() => Err(DatabaseUrlError::NoFile),
        None => Err(DatabaseUrlError::Host),
        Some("" | ":memory:") => Err(DatabaseUrlError::NoFile),
        Some(path) if path.contains('?') => Err(DatabaseUrlError::Options),
        Some(path) => Ok(path.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_slashes_are_relative_and_four_absolute() {
        assert_eq!(path_of("sqlite:///data/iris.db"), Ok("data/iris.db".into()));
        assert_eq!(path_of("sqlite:////data/iris.db"), Ok("/data/iris.db".into()));
        assert_eq!(path_of("sqlite+aiosqlite:///iris.db"), Ok("iris.db".into()));
    }

    #[test]
    fn urls_that_name_no_file_are_refused_without_repeating_them() {
        let postgres = path_of("postgresql://iris:hunter2@db/iris").unwrap_err();
        assert_eq!(postgres, DatabaseUrlError::Scheme("postgresql".to_owned()));
        assert!(!postgres.to_string().contains("hunter2"));
        assert_eq!(path_of("iris.db"), Err(DatabaseUrlError::Scheme(String::new())));
        assert_eq!(path_of("sqlite://data/iris.db"), Err(DatabaseUrlError::Host));
        for empty in ["sqlite://", "sqlite:///", "sqlite:///:memory:"] {
            assert_eq!(path_of(empty), Err(DatabaseUrlError::NoFile), "{empty}");
        }
        assert_eq!(path_of("sqlite:///iris.db?mode=ro"), Err(DatabaseUrlError::Options));
    }
}
