//! Slow hashes, a few at a time and off the threads that serve.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::AccountError;

/// Hashes that are computed at a time; each takes 19 MiB.
const RUNNING: usize = 4;
/// Hashes that wait for their turn; more are refused.
const WAITING: usize = 32;

#[derive(Debug)]
pub(super) struct Hashing {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Hashing {
    fn default() -> Self {
        let (running, waiting) = (Semaphore::new(RUNNING), Semaphore::new(WAITING));
        Self { running: Arc::new(running), waiting: Arc::new(waiting) }
    }
}

impl Hashing {
    /// Computes `hash` in its turn.
    pub(super) async fn run<T: Send + 'static, E: Send + 'static>(
        &self,
        hash: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, AccountError> {
        let full = |_| AccountError::Overloaded;
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(full)?;
        let overloaded = |_| AccountError::Overloaded;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(overloaded)?;
        // Hashing goes on when its caller leaves, and so does its place among the few.
        let held = move || {
            let _held = (place, turn);
            hash()
        };
        match tokio::task::spawn_blocking(held).await {
            Ok(Ok(hash)) => Ok(hash),
            _ => Err(AccountError::Overloaded),
        }
    }
}
