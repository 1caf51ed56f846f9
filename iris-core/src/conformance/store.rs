//! What every [`Store`](crate::store::Store) must do.
