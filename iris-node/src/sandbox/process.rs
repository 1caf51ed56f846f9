use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::output::Output;
use super::{Ended, Running, Sandbox, SandboxError, ServerSpec};

/// How long the last words of a server may take that somebody else still holds the pipe of.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs servers as children of this process.
///
/// A server and all that it starts are one group, which is ended as a whole. It sees the environment
/// of the node without what is meant for Iris, such as an account's key. It outlives a node that is
/// killed, unless the sandbox has a [launcher](Self::with_launcher).
#[derive(Clone, Debug, Default)]
pub struct Process {
    #[cfg(target_os = "linux")]
    launcher: Vec<OsString>,
}

impl Process {
    /// Returns the sandbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts servers through `line`, a program and its first arguments, which calls [`launch`] with
    /// the arguments that follow: then the system ends a server when the thread that started it
    /// ends, so it does not outlive a node that is killed. Start servers from a thread that lives as
    /// long as they may.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn with_launcher(mut self, line: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.launcher = line.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the command for `program`.
    fn command(&self, program: &Path) -> Command {
        #[cfg(target_os = "linux")]
        if let [launcher, arguments @ ..] = self.launcher.as_slice() {
            let mut command = Command::new(launcher);
            command.args(arguments).arg(std::process::id().to_string()).arg(program);
            return command;
        }
        Command::new(program)
    }
}

/// Becomes a server that the system ends with the process that started this one: what a
/// [launcher](Process::with_launcher) does with its arguments, which are that process's id, the
/// program and the program's arguments.
///
/// Returns only where that fails, with what the system says.
#[cfg(target_os = "linux")]
pub fn launch(arguments: &[OsString]) -> std::io::Error {
    use std::io::{Error, ErrorKind};
    use std::os::unix::process::CommandExt;

    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    let [parent, program, arguments @ ..] = arguments else {
        return Error::new(ErrorKind::InvalidInput, "it needs a process id and a program");
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // One that has ended before cannot be waited for any more.
    let is_there = |pid: rustix::process::Pid| pid.as_raw_pid().to_string().as_str() == *parent;
    if !getppid().is_some_and(is_there) {
        return Error::new(ErrorKind::NotFound, "the process that wanted it has ended");
    }
    std::process::Command::new(program).args(arguments).exec()
}

impl Sandbox for Process {
    fn start<'a>(
        &'a self,
        spec: &'a ServerSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, SandboxError>> {
        async { Ok(Box::new(RunningProcess::start(self, spec)?) as Box<dyn Running>) }.boxed()
    }
}

#[derive(Debug)]
struct RunningProcess {
    child: Child,
    output: Output,
    readers: JoinSet<()>,
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
}

impl RunningProcess {
    fn start(sandbox: &Process, spec: &ServerSpec) -> Result<Self, SandboxError> {
        let program = find_program(&spec.program)
            .ok_or_else(|| SandboxError::NotInstalled(spec.program.clone()))?;
        let mut command = sandbox.command(&program);
        command
            .args(&spec.arguments)
            .env_clear()
            .envs(environment(env::vars_os()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| SandboxError::Start {
            program: program.display().to_string(),
            error,
        })?;
        let output = Output::default();
        let mut readers = JoinSet::new();
        readers.spawn(output.clone().read(child.stdout.take().expect("it is piped")));
        readers.spawn(output.clone().read(child.stderr.take().expect("it is piped")));
        let running = Self {
            #[cfg(unix)]
            group: child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())),
            child,
            output,
            readers,
        };
        running.limit(spec);
        Ok(running)
    }

    /// Sets what the system lets us set; a server without its limits is still better than none.
    fn limit(&self, spec: &ServerSpec) {
        #[cfg(unix)]
        if let (Some(pid), Some(niceness)) = (self.group, spec.limits.niceness) {
            let niceness = i32::from(niceness.min(19));
            if let Err(error) = rustix::process::setpriority_process(Some(pid), niceness) {
                tracing::warn!(%error, "the model server keeps its usual priority");
            }
        }
        #[cfg(target_os = "linux")]
        if let (Some(pid), Some(bytes)) = (self.group, spec.limits.memory) {
            use rustix::process::{Resource, Rlimit, prlimit};

            let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            if let Err(error) = prlimit(Some(pid), Resource::Data, limit) {
                tracing::warn!(%error, "the model server's memory is not limited");
            }
        }
        #[cfg(not(target_os = "linux"))]
        if spec.limits.memory.is_some() {
            tracing::warn!("this system does not let the model server's memory be limited");
        }
    }

    async fn reap(&mut self) -> Ended {
        let status = self.child.wait().await;
        // What the server started and left behind has no one to answer to.
        self.signal(Signal::Kill);
        // From now on the number may be another group's.
        #[cfg(unix)]
        {
            self.group = None;
        }
        // What it printed last may still be on its way.
        let read = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, read).await;
        let code = status.ok().and_then(|status| status.code());
        Ended { code, out_of_memory: false, last_lines: self.output.last_lines() }
    }

    #[cfg(unix)]
    fn signal(&mut self, signal: Signal) {
        use rustix::process::{Signal as Unix, kill_process_group};

        let signal = match signal {
            Signal::Terminate => Unix::TERM,
            Signal::Kill => Unix::KILL,
        };
        if let Some(group) = self.group {
            // An error says that nothing of it is left.
            let _ = kill_process_group(group, signal);
        }
    }

    #[cfg(not(unix))]
    fn signal(&mut self, _: Signal) {
        // An error says that it has ended.
        let _ = self.child.start_kill();
    }
}

#[derive(Clone, Copy)]
enum Signal {
    Terminate,
    Kill,
}

impl Running for RunningProcess {
    fn ended(&mut self) -> BoxFuture<'_, Ended> {
        self.reap().boxed()
    }

    fn stop(mut self: Box<Self>, grace: Duration) -> BoxFuture<'static, Ended> {
        async move {
            self.signal(Signal::Terminate);
            if let Ok(ended) = tokio::time::timeout(grace, self.reap()).await {
                return ended;
            }
            self.signal(Signal::Kill);
            self.reap().await
        }
        .boxed()
    }
}

impl Drop for RunningProcess {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}

/// Returns where the program is that would be run by this name; `None` where there is none.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| path.is_file();
    if Path::new(program).components().count() > 1 {
        return Some(PathBuf::from(program)).filter(is_file);
    }
    let name = format!("{program}{}", env::consts::EXE_SUFFIX);
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(&name)).find(is_file)
}

/// Leaves out what is meant for Iris: keys among it are none of a model server's business.
fn environment(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    const OURS: [&str; 3] = ["IRIS_", "COORDINATOR_", "JWT_SECRET"];
    all.filter(|(name, _)| {
        let name = name.to_string_lossy();
        !OURS.iter().any(|ours| name.starts_with(ours))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_sees_nothing_that_is_meant_for_iris() {
        let names = ["PATH", "IRIS_ACCOUNT_KEY", "JWT_SECRET", "COORDINATOR_URL", "MY_IRIS_X"];
        let all = names.map(|name| (OsString::from(name), OsString::from("x")));
        let seen: Vec<_> = environment(all.into_iter()).map(|(name, _)| name).collect();
        assert_eq!(seen, ["PATH", "MY_IRIS_X"]);
    }
}
