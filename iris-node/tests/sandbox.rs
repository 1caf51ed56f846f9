//! Servers as processes: this test program serves as one.
#![cfg(all(unix, feature = "sandbox"))]
// What fails here is a test.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use iris_node::sandbox::{
    Health, Limits, Process, Running, Sandbox, SandboxError, ServerSpec, State, Supervisor,
    free_port,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Longest wait for what should happen at once, on a very busy machine.
const SOON: Duration = Duration::from_mins(1);

/// What this program does as a server, by the name of its ignored test.
fn spec(server: &str) -> ServerSpec {
    let port = free_port().unwrap();
    let program = std::env::current_exe().unwrap().display().to_string();
    ServerSpec {
        program: "sh".to_owned(),
        // The program's own arguments are the test runner's, so the port comes by the environment.
        arguments: vec![
            "-c".to_owned(),
            format!("PORT={port} exec {program} --ignored --exact --nocapture {server}"),
        ],
        port,
        health: Health::at("/health"),
        limits: Limits::default(),
    }
}

fn port() -> u16 {
    std::env::var("PORT").expect("run as a server").parse().unwrap()
}

#[test]
#[ignore = "is a server"]
fn serves() {
    let listener = TcpListener::bind(("127.0.0.1", port())).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }
}

#[test]
#[ignore = "is a server"]
fn fails_at_once() {
    eprintln!("no such model");
    std::process::exit(7);
}

async fn reaches(
    state: &mut tokio::sync::watch::Receiver<State>,
    is_it: fn(&State) -> bool,
) -> State {
    timeout(SOON, state.wait_for(is_it)).await.expect("it comes in time").unwrap().clone()
}

fn is_waiting(state: &State) -> bool {
    matches!(state, State::Waiting { .. })
}

async fn is_gone(port: u16) {
    timeout(SOON, async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("nobody listens there any more");
}

#[tokio::test]
async fn a_server_runs_until_it_is_stopped() {
    let spec = spec("serves");
    let port = spec.port;
    let supervisor = Supervisor::new(Arc::new(Process::new()), spec);
    let mut state = supervisor.state();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(supervisor.run(async { stopped.await.unwrap() }));
    reaches(&mut state, |state| *state == State::Ready).await;
    stop.send(()).unwrap();
    timeout(SOON, run).await.unwrap().unwrap();
    assert_eq!(*state.borrow(), State::Stopped);
    is_gone(port).await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_started_again() {
    let spec = spec("serves");
    let port = spec.port;
    let supervisor = Supervisor::new(Arc::new(Process::new()), spec);
    let mut state = supervisor.state();
    let run = tokio::spawn(supervisor.run(std::future::pending()));
    reaches(&mut state, |state| *state == State::Ready).await;
    kill_whoever_listens_at(port);
    let waiting = reaches(&mut state, is_waiting).await;
    assert!(matches!(
        &waiting,
        State::Waiting { why, printed, .. } if why == "it was ended by a signal" && printed.is_empty()
    ));
    reaches(&mut state, |state| *state == State::Ready).await;
    run.abort();
    is_gone(port).await;
}

/// Ends the process by the port that is in its environment.
fn kill_whoever_listens_at(port: u16) {
    let line = format!("PORT={port}\0");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.windows(line.len()).any(|window| window == line.as_bytes()) {
            let id = process.file_name().into_string().unwrap().parse().unwrap();
            let id = rustix::process::Pid::from_raw(id).unwrap();
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let supervisor = Supervisor::new(Arc::new(Process::new()), spec("fails_at_once"));
    let mut state = supervisor.state();
    let run = tokio::spawn(supervisor.run(std::future::pending()));
    let State::Waiting { why, printed, .. } = reaches(&mut state, is_waiting).await else {
        unreachable!()
    };
    assert_eq!(why, "it ended with exit code 7, having printed: no such model");
    assert_eq!(printed.last().map(String::as_str), Some("no such model"));
    run.abort();
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let mut spec = spec("serves");
    spec.arguments = vec!["-c".to_owned(), "exec cat /dev/zero > /dev/null".to_owned()];
    spec.health.start_limit = Duration::from_millis(300);
    let supervisor = Supervisor::new(Arc::new(Process::new()), spec);
    let mut state = supervisor.state();
    let run = tokio::spawn(supervisor.run(std::future::pending()));
    let State::Waiting { why, .. } = reaches(&mut state, is_waiting).await else { unreachable!() };
    assert_eq!(why, "it did not answer within 0 s");
    run.abort();
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let spec = ServerSpec { program: "no-such-server".to_owned(), ..spec("serves") };
    let error = Process::new().start(&spec).await.unwrap_err();
    assert!(matches!(&error, SandboxError::NotInstalled(name) if name == "no-such-server"));
}

/// What `script` prints when it is run as a server.
async fn printed(script: &str, limits: Limits) -> Vec<String> {
    let arguments = vec!["-c".to_owned(), script.to_owned()];
    let spec = ServerSpec { arguments, limits, ..spec("serves") };
    let mut running = Process::new().start(&spec).await.unwrap();
    timeout(SOON, running.ended()).await.unwrap().last_lines
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_server_is_held_to_its_limits() {
    let limits = Limits { memory: Some(64 << 20), niceness: Some(5), ..Limits::default() };
    // The limits are set when the program already runs.
    let script = "while [ $(nice) != 5 ] || [ $(ulimit -d) != 65536 ]; do :; done; echo limited";
    assert_eq!(printed(script, limits).await, ["limited"]);
}

#[tokio::test]
async fn what_a_server_started_ends_with_it() {
    let port = free_port().unwrap();
    let program = std::env::current_exe().unwrap().display().to_string();
    let line = format!("PORT={port} {program} --ignored --exact serves & wait");
    let spec = ServerSpec { arguments: vec!["-c".to_owned(), line], port, ..spec("serves") };
    let supervisor = Supervisor::new(Arc::new(Process::new()), spec);
    let mut state = supervisor.state();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(supervisor.run(async { stopped.await.unwrap() }));
    reaches(&mut state, |state| *state == State::Ready).await;
    stop.send(()).unwrap();
    timeout(SOON, run).await.unwrap().unwrap();
    is_gone(port).await;
}

/// Never has a server started.
#[derive(Debug)]
struct Slow;

impl Sandbox for Slow {
    fn start<'a>(
        &'a self,
        _: &'a ServerSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, SandboxError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_server_that_is_being_started_holds_no_node_up() {
    let supervisor = Supervisor::new(Arc::new(Slow), spec("serves"));
    let state = supervisor.state();
    timeout(SOON, supervisor.run(std::future::ready(()))).await.expect("it stops in time");
    assert_eq!(*state.borrow(), State::Stopped);
}
