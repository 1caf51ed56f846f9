//! Being told to stop.

use std::future::Future;
use std::io;

use tokio::sync::mpsc;

use crate::failure::Exit;

/// Returns what resolves at the first signal to stop, or when it was `told` to otherwise; a further
/// signal ends the process, once `end` has resolved.
pub(crate) fn stop<T>(
    told: impl Future<Output = ()>,
    end: impl Future<Output = T> + Send + 'static,
) -> io::Result<impl Future<Output = ()>> {
    let mut signals = listen()?;
    Ok(async move {
        tokio::select! {
            _ = signals.recv() => {}
            () = told => {}
        }
        tokio::spawn(async move {
            signals.recv().await;
            end.await;
            std::process::exit(Exit::Work as i32);
        });
    })
}

/// Returns what resolves at the first signal to stop.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut signals = listen()?;
    Ok(async move {
        // It listens for as long as the process lives.
        signals.recv().await;
    })
}

#[cfg(unix)]
fn listen() -> io::Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (told, signals) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if told.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}

#[cfg(not(unix))]
fn listen() -> io::Result<mpsc::Receiver<()>> {
    let (told, signals) = mpsc::channel(1);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && told.send(()).await.is_ok() {}
    });
    Ok(signals)
}
