//! Where the coordinator keeps its records: implementations of [`Store`](iris_core::store::Store).

#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod views;

#[cfg(feature = "sqlite")]
pub use sqlite::{DatabaseUrlError, OpenError, RecordView, SqliteStore};
#[cfg(feature = "sqlite")]
pub use views::VIEWS;
