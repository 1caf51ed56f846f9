//! What every [`Backend`](crate::backend::Backend) must do.
