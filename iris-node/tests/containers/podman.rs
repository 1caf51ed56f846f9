//! A service of podman that the test starts itself, with an image that it makes itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_node::sandbox::{
    Container, Ended, PinnedImage, Running, Sandbox, SandboxError, ServerSpec, State, Supervisor,
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{SOON, answer, is_empty, spec};

/// What is printed by macros is kept back by the harness.
fn skip(lacks: &str) {
    let said = format!("\n!!! SKIPPED: servers in podman's containers. {lacks}\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

struct Engine {
    folder: TempDir,
    service: Option<Child>,
    image: PinnedImage,
}

impl Engine {
    /// Starts the service; says why it cannot.
    fn begin() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = |name: &str| folder.path().join(name);
        // Machines that are themselves containers let nobody raise these.
        let containers = "[containers]\ndefault_ulimits = ['nofile=1024:1024', \
            'nproc=1024:1024']\n[engine]\nruntime = 'runc'\ncgroup_manager = 'cgroupfs'\n\
            events_logger = 'none'\n";
        std::fs::write(path("containers.conf"), containers).unwrap();
        let storage = format!(
            "[storage]\ndriver = 'vfs'\ngraphroot = '{}'\nrunroot = '{}'\n",
            path("store").display(),
            path("state").display()
        );
        std::fs::write(path("storage.conf"), storage).unwrap();
        for name in ["m.gguf", "card"] {
            std::fs::write(path(name), "weights").unwrap();
        }
        let image = "sha256:".to_owned() + &"0".repeat(64);
        let mut engine = Self { folder, service: None, image: image.parse().unwrap() };
        engine.make_server();
        engine.make_image()?;
        // What a sandbox asks of the engine.
        let asked = "run --rm --network none --memory 64m --memory-swap 64m --cpus 1 --pids-limit 4096 \
            --read-only --cap-drop all localhost/iris-test:1 nothing";
        engine.run(&asked.split(' ').collect::<Vec<_>>(), 7)?;
        let url = format!("unix://{}", engine.socket().display());
        let service = engine.podman(&["system", "service", "--time=0", &url]).spawn();
        engine.service = Some(service.map_err(|error| error.to_string())?);
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(engine.socket()).is_err() {
            if begun.elapsed() > SOON {
                return Err("its service does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(engine)
    }

    /// Compiles the server of the image.
    fn make_server(&self) {
        let root = self.path("root");
        std::fs::create_dir(&root).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/server.rs");
        let mut rustc = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()));
        rustc.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]);
        rustc.arg(root.join("server")).arg(source);
        succeed(&mut rustc).expect("the server is compiled");
        std::fs::copy(root.join("server"), root.join("nvidia-smi")).unwrap();
    }

    /// Makes an image with the server alone.
    fn make_image(&mut self) -> Result<(), String> {
        let root = self.path("root");
        let tar = self.path("root.tar");
        succeed(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."))?;
        let tar = tar.display().to_string();
        let entry = "ENTRYPOINT [\"/server\"]";
        let path = "ENV PATH=/";
        self.run(&["import", "-c", entry, "-c", path, &tar, "localhost/iris-test:1"], 0)?;
        let format = "{{index .RepoDigests 0}}";
        let name =
            self.run(&["image", "inspect", "--format", format, "localhost/iris-test:1"], 0)?;
        self.image = name.trim().parse().map_err(|error| format!("{name}: {error}"))?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("podman.sock")
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        self.command("podman", arguments)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"));
        // Where memory ran out, what watches a container leaves a file in the folder that it was begun in.
        command.current_dir(self.folder.path());
        command
    }

    /// Runs podman's command to its end, which is to have this exit code.
    fn run(&self, arguments: &[&str], code: i32) -> Result<String, String> {
        // Where podman cannot work, it may hang instead of saying so.
        let limited = [&["--kill-after=5", "60", "podman"], arguments].concat();
        let ended = self.command("timeout", &limited).stderr(Stdio::piped()).output();
        let Output { status, stdout, stderr } = ended.map_err(|error| error.to_string())?;
        if status.code() == Some(127) {
            return Err("podman is not installed".to_owned());
        }
        if status.code() == Some(code) {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        Err(format!("podman {}: {status}: {}", arguments[0], String::from_utf8_lossy(&stderr)))
    }

    /// Returns the ids of all containers, in order.
    fn containers(&self) -> Vec<String> {
        let all = self.run(&["ps", "--all", "--quiet", "--no-trunc"], 0).unwrap();
        let mut all: Vec<_> = all.lines().map(str::to_owned).collect();
        all.sort();
        all
    }

    /// Waits until so many containers are left.
    async fn left(&self, count: usize) {
        let left = async {
            while self.containers().len() != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, left).await.expect("the others are removed in time");
    }

    fn sandbox(&self, owner: &str) -> Container {
        Container::new(self.socket(), self.image.clone(), owner, self.sockets(owner))
            .with_model(self.path("m.gguf"))
    }

    fn sockets(&self, owner: &str) -> PathBuf {
        self.path("run").join(owner)
    }

    async fn start(&self, sandbox: &Container, spec: &ServerSpec) -> Box<dyn Running> {
        let running = timeout(SOON, sandbox.start(spec)).await.unwrap().unwrap();
        answer(spec.port, "/health").await;
        running
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--all", "--force"], 0);
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

async fn end(running: &mut Box<dyn Running>) -> Ended {
    timeout(SOON, running.ended()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_run_in_podmans_containers() {
    let engine = match tokio::task::spawn_blocking(Engine::begin).await.unwrap() {
        Ok(engine) => engine,
        Err(lacks) => return skip(&lacks),
    };
    a_server_can_do_what_it_must_and_no_more(&engine).await;
    ends_are_told(&engine).await;
    nothing_is_left(&engine).await;
    a_server_that_is_killed_is_started_again(&engine).await;
    cards_are_looked_for(&engine).await;
    for owner in ["facts", "ends", "mine", "other", "watched", "cards"] {
        assert!(is_empty(&engine.sockets(owner)), "no folder of a socket is left");
    }
}

async fn a_server_can_do_what_it_must_and_no_more(engine: &Engine) {
    let (sandbox, spec) = (engine.sandbox("facts"), spec());
    let running = engine.start(&sandbox, &spec).await;
    let facts = answer(spec.port, "/facts").await;
    let root = rustix::process::geteuid().is_root();
    let user = if root { "65534".to_owned() } else { "0".to_owned() };
    for fact in [
        format!("user: {user}"),
        "capabilities: 0000000000000000".to_owned(),
        "gains: false".to_owned(),
        "writes root: false".to_owned(),
        "writes /tmp: true".to_owned(),
        "writes models: false".to_owned(),
        "model: weights".to_owned(),
        "interfaces: lo".to_owned(),
        "gets out: false".to_owned(),
    ] {
        assert!(facts.lines().any(|line| line == fact), "{fact} is missing in:\n{facts}");
    }
    let id = engine.containers().remove(0);
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    let limits = engine.run(&["inspect", "--format", format, &id], 0).unwrap();
    assert_eq!(limits.trim(), "67108864 1000000000 4096");
    let ended = timeout(SOON, running.stop(Duration::from_millis(100))).await.unwrap();
    assert!(ended.last_lines[0].contains("called with --model /models/m.gguf"), "{ended:?}");
    engine.left(0).await;
}

async fn ends_are_told(engine: &Engine) {
    let sandbox = engine.sandbox("ends");
    let nothing = ServerSpec { arguments: Vec::new(), ..spec() };
    let mut running = sandbox.start(&nothing).await.unwrap();
    let ended = end(&mut running).await;
    assert_eq!((ended.code, ended.out_of_memory), (Some(7), false), "{ended:?}");
    assert_eq!(ended.last_lines.last().map(String::as_str), Some("no such model"));
    let spec = spec();
    let mut running = engine.start(&sandbox, &spec).await;
    let (ended, _) = tokio::join!(end(&mut running), crate::ask(spec.port, "/eat"));
    // Not every version of podman tells what it was killed for.
    assert_eq!(ended.code, Some(137), "{ended:?}");
    engine.left(0).await;
    let image: PinnedImage = format!("sha256:{}", "1".repeat(64)).parse().unwrap();
    let missing = Container::new(engine.socket(), image, "else", engine.sockets("else"));
    let error = missing.start(&spec).await.unwrap_err();
    assert!(matches!(error, SandboxError::NoImage(_)), "{error:?}");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = ServerSpec { port: listener.local_addr().unwrap().port(), ..spec };
    let error = sandbox.start(&taken).await.unwrap_err();
    assert!(matches!(error, SandboxError::Port { .. }), "{error:?}");
    engine.left(0).await;
}

async fn nothing_is_left(engine: &Engine) {
    let (sandbox, spec) = (engine.sandbox("mine"), spec());
    drop(engine.start(&sandbox, &spec).await);
    engine.left(0).await;
    // What a process leaves that is killed.
    let left = "run --detach --network none --label iris.owner=mine --label iris.sandbox=0 \
        localhost/iris-test:1 --host /left.sock --model m";
    let left = engine.run(&left.split(' ').collect::<Vec<_>>(), 0).unwrap();
    let other = engine.start(&engine.sandbox("other"), &crate::spec()).await;
    assert_eq!(engine.containers().len(), 2);
    let running = engine.start(&sandbox, &spec).await;
    let after = engine.containers();
    assert!(after.len() == 2 && !after.contains(&left.trim().to_owned()), "{left} in {after:?}");
    let error = engine.sandbox("mine").start(&crate::spec()).await.unwrap_err();
    assert!(matches!(error, SandboxError::Taken(_)), "{error:?}");
    assert_eq!(engine.containers(), after, "what runs is left alone");
    let second = engine.start(&sandbox, &crate::spec()).await;
    assert_eq!(engine.containers().len(), 3, "one sandbox may run several");
    drop((running, second, other));
    engine.left(0).await;
}

async fn a_server_that_is_killed_is_started_again(engine: &Engine) {
    let supervisor = Supervisor::new(Arc::new(engine.sandbox("watched")), spec());
    let mut state = supervisor.state();
    let run = tokio::spawn(supervisor.run(std::future::pending()));
    let is_ready = |state: &State| *state == State::Ready;
    let _ = timeout(SOON, state.wait_for(is_ready)).await.unwrap().unwrap();
    let first = engine.containers();
    engine.run(&["kill", &first[0]], 0).unwrap();
    let is_another = async {
        loop {
            let now = engine.containers();
            if now.len() == 1 && now != first && is_ready(&state.borrow()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, is_another).await.expect("another one is started in time");
    run.abort();
    let _ = run.await;
    engine.left(0).await;
}

async fn cards_are_looked_for(engine: &Engine) {
    let sandbox = || engine.sandbox("cards").with_gpus("all");
    // It takes the wish without a word, and has no card to give.
    let error = sandbox().start(&spec()).await.unwrap_err();
    assert!(matches!(error, SandboxError::NoGpu(_)), "{error:?}");
    engine.left(0).await;
    let with_card = sandbox().with_model(engine.path("card"));
    drop(with_card.start(&spec()).await.unwrap());
    engine.left(0).await;
}
