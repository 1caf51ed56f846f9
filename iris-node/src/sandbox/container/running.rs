use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ContainerState};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, KillContainerOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, TryStreamExt};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::folder::{Folder, Socket};
use super::{is_missing, refused};
use crate::sandbox::output::Output;
use crate::sandbox::{Ended, Running, SandboxError};

/// How long the last words of a server may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How soon the engine is asked again that told nothing.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// How long the engine may take to remove a server that was dropped.
const DROP_LIMIT: Duration = Duration::from_secs(5);
/// How long the engine may take to tell of a server that was killed, and to remove it.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long no connection is taken after one could not be.
const REST: Duration = Duration::from_millis(100);
/// Most connections to a server at a time; more wait.
const MAX_CONNECTIONS: usize = 1024;
/// How long a look for graphics cards may take.
const GPU_LIMIT: Duration = Duration::from_secs(30);
/// What looks for them, and what its lines begin with.
const GPU_TOOL: [&str; 2] = ["nvidia-smi", "-L"];
const GPU_LINE: &str = "GPU ";

/// A server in its container.
#[derive(Debug)]
pub(super) struct RunningContainer {
    docker: Docker,
    engine: PathBuf,
    id: String,
    output: Output,
    readers: JoinSet<()>,
    is_removed: bool,
    _forwarding: AbortOnDropHandle<()>,
    _folder: Folder,
}

impl RunningContainer {
    /// Forwards `port` to where the server will listen. Its container has a name from now on, so that
    /// it is removed even where its making is cut off.
    pub(super) async fn prepare(
        docker: &Docker,
        engine: &Path,
        folder: Folder,
        port: u16,
    ) -> Result<Self, SandboxError> {
        let taken = |error| SandboxError::Port { port, error };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(taken)?;
        let forwarding = tokio::spawn(forward(listener, folder.socket().map_err(taken)?));
        Ok(Self {
            docker: docker.clone(),
            engine: engine.to_owned(),
            id: format!("iris-{}", folder.name()),
            output: Output::default(),
            readers: JoinSet::new(),
            is_removed: false,
            _forwarding: AbortOnDropHandle::new(forwarding),
            _folder: folder,
        })
    }

    pub(super) async fn create(&mut self, body: ContainerCreateBody) -> Result<(), SandboxError> {
        let options = CreateContainerOptionsBuilder::new().name(&self.id).build();
        let created = self.docker.create_container(Some(options), body).await.map_err(refused)?;
        for warning in created.warnings {
            tracing::warn!(warning, "the engine does not do all that a sandbox should");
        }
        self.id = created.id;
        Ok(())
    }

    pub(super) async fn start(&mut self) -> Result<(), SandboxError> {
        // Nothing that it prints is missed.
        let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true);
        let attached = self.docker.attach_container(&self.id, Some(options.build())).await;
        let AttachContainerResults { output, .. } = attached.map_err(refused)?;
        let printed = output.map_ok(LogOutput::into_bytes).map_err(io::Error::other);
        self.readers.spawn(self.output.clone().read(StreamReader::new(printed)));
        self.docker.start_container(&self.id, None).await.map_err(refused)
    }

    /// Sees that the server has a graphics card, whatever the engine says.
    pub(super) async fn has_gpus(&self) -> Result<(), SandboxError> {
        let look = tokio::time::timeout(GPU_LIMIT, self.gpus()).await;
        match look {
            Ok(Ok(count)) if count > 0 => {
                tracing::info!(count, "graphics cards in the container");
                Ok(())
            }
            Ok(Ok(_)) => Err(SandboxError::NoGpu("it is not there, or finds none".to_owned())),
            // A server that has ended is asked for its reason, which is of more use.
            Ok(Err(_)) if !self.runs().await => Ok(()),
            Ok(Err(error)) => Err(SandboxError::NoGpu(error.to_string())),
            Err(_) => Err(SandboxError::NoGpu("it takes too long".to_owned())),
        }
    }

    /// Returns how many graphics cards the server has.
    async fn gpus(&self) -> Result<usize, Error> {
        let command = CreateExecOptions {
            cmd: Some(GPU_TOOL.to_vec()),
            attach_stdout: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(&self.id, command).await?;
        let StartExecResults::Attached { output, .. } =
            self.docker.start_exec(&exec.id, None).await?
        else {
            return Ok(0);
        };
        // Tools without end are cut off.
        let pieces: Vec<_> = output.take(256).try_collect().await?;
        let printed: String = pieces.iter().map(ToString::to_string).collect();
        Ok(printed.lines().filter(|line| line.starts_with(GPU_LINE)).count())
    }

    /// Returns whether it runs, or the engine does not tell.
    async fn runs(&self) -> bool {
        let found = self.docker.inspect_container(&self.id, None).await;
        found.map_or(true, |found| found.state.unwrap_or_default().running != Some(false))
    }

    async fn signal(&self, signal: &str) {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        // An error says that it has ended.
        let _ = self.docker.kill_container(&self.id, Some(options)).await;
    }

    /// Waits until it runs no more.
    async fn end(&self) -> ContainerState {
        loop {
            // Its code is asked for below: here one that is not 0 counts as an error, as does an
            // answer that takes its time.
            let _ = self.docker.wait_container(&self.id, None).next().await;
            match self.docker.inspect_container(&self.id, None).await {
                Ok(found) => {
                    let state = found.state.unwrap_or_default();
                    if state.running != Some(true) {
                        return state;
                    }
                }
                Err(error) if is_missing(&error) => return ContainerState::default(),
                // An engine that is started again may leave its containers running.
                Err(error) => tracing::debug!(%error, "the engine does not tell of a server"),
            }
            tokio::time::sleep(ASKED_AGAIN).await;
        }
    }

    /// Removes it, whatever it does.
    pub(super) async fn remove(&mut self) {
        self.is_removed = remove(&self.docker, &self.id).await.is_ok();
    }

    async fn reap(&mut self) -> Ended {
        let state = self.end().await;
        let read = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, read).await;
        self.remove().await;
        Ended {
            code: state.exit_code.and_then(|code| i32::try_from(code).ok()),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            last_lines: self.output.last_lines(),
        }
    }
}

impl Running for RunningContainer {
    fn ended(&mut self) -> BoxFuture<'_, Ended> {
        self.reap().boxed()
    }

    fn stop(mut self: Box<Self>, grace: Duration) -> BoxFuture<'static, Ended> {
        async move {
            for (signal, limit) in [("TERM", grace), ("KILL", KILL_LIMIT)] {
                let end = async {
                    self.signal(signal).await;
                    self.reap().await
                };
                if let Ok(ended) = tokio::time::timeout(limit, end).await {
                    return ended;
                }
            }
            // The engine does not answer. It is asked once more as this is dropped.
            let last_lines = self.output.last_lines();
            Ended { code: None, out_of_memory: false, last_lines }
        }
        .boxed()
    }
}

impl Drop for RunningContainer {
    fn drop(&mut self) {
        if !self.is_removed
            && let Err(error) = remove_now(&self.engine, &self.id)
        {
            tracing::warn!(%error, container = self.id, "a server may be left behind");
        }
    }
}

/// Ends and removes a container; one that is gone already is no error.
pub(super) async fn remove(docker: &Docker, id: &str) -> Result<(), SandboxError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(id, Some(options)).await {
        Err(error) if !is_missing(&error) => Err(refused(error)),
        _ => Ok(()),
    }
}

/// Does the same while nothing else runs: this may be the last that the process does, when its
/// runtime carries nothing out any more.
fn remove_now(engine: &Path, id: &str) -> io::Result<()> {
    let mut stream = BlockingStream::connect(engine)?;
    stream.set_read_timeout(Some(DROP_LIMIT))?;
    stream.set_write_timeout(Some(DROP_LIMIT))?;
    let asked = format!(
        "DELETE /v1.41/containers/{id}?force=true&v=true HTTP/1.1\r\nHost: localhost\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(asked.as_bytes())?;
    // Whoever leaves before the answer may have asked for nothing.
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let is_gone = head.ends_with(b" 204") || head.ends_with(b" 200") || head.ends_with(b" 404");
    is_gone.then_some(()).ok_or_else(|| io::Error::other("the engine refuses"))
}

/// Passes what comes at `listener` on to `socket` for as long as it is not dropped.
async fn forward(listener: TcpListener, socket: Socket) {
    let socket = Arc::new(socket);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((outside, _)) => {
                    connections.spawn(pass_on(outside, Arc::clone(&socket)));
                }
                // This process may have no file left for it, and has one when another has ended.
                Err(error) => {
                    tracing::debug!(%error, "a connection to a server cannot be taken");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn pass_on(mut outside: TcpStream, socket: Arc<Socket>) -> io::Result<()> {
    outside.set_nodelay(true)?;
    // A server that is not there yet is one that hangs up.
    let mut inside = socket.connect().await?;
    copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}
