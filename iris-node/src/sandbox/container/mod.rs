//! Servers in containers of Docker or podman.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, ImageInspect, Mount,
    MountType, SystemInfo,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use bollard::{ClientVersion, Docker};
use futures::future::{BoxFuture, FutureExt};

mod folder;
mod image;
mod model;
mod running;

pub use image::{PinError, PinnedImage};

use super::{Limits, Running, Sandbox, SandboxError, ServerSpec};
use folder::{Folder, Parent};
use running::RunningContainer;

/// How long one question to the engine may take, in seconds.
const PATIENCE: u64 = 60;
/// Most processes and threads of a server.
const MAX_PROCESSES: i64 = 4096;
/// Bytes that a server may write to `/tmp`, which count as its memory.
const SCRATCH: &str = "rw,nosuid,nodev,size=1g,mode=1777";
/// Where the folder of the socket is.
const SHARED_FOLDER: &str = "/run/iris";
/// Bytes that a server's processes may share.
const SHARED_MEMORY: i64 = 1 << 30;
const NANOS_PER_CPU: i64 = 1_000_000_000;

/// By what containers are known: whose they are, and which of its sandboxes started them.
const OWNER: &str = "iris.owner";
const SANDBOX: &str = "iris.sandbox";

/// Runs servers in containers, through the API of Docker or podman at a socket of this machine.
///
/// A server sees its image and its model, read-only. It may write to a `/tmp` of 1 GiB, to `/dev/shm`
/// of 1 GiB, and to `/run/iris`, a folder of this machine's disk whose size nothing limits. It has no network at all, not even to this machine: it listens at [`Container::SOCKET`], a file in a
/// folder that it shares with this process, which forwards the port of its [`ServerSpec`] on
/// loopback there, and to nothing else that the server may put in its place. A port that an engine publishes would need a network, by which the server gets
/// out as well. The server has no capabilities and gains none, and runs as the user of this process,
/// or as 65534 where that is root; where the engine itself runs without root, as root of its own
/// user namespace, which is that user outside. Whoever it is must be able to read the model.
///
/// The image must be there already, and is named by its digest. What a server prints is kept by this
/// process alone, as much as of a [`Process`](super::Process). A container outlives a process that
/// is killed; the next sandbox of the same owner removes it. What else is true:
///
/// - [`Limits::memory`] holds for all that a server takes, together with its
///   `/tmp` and the pages of its model in memory, which the system takes back where others need it.
/// - The first process of a container ends by SIGTERM only where it heeds that; others take as long to
///   stop as they are given.
/// - Where `SELinux` is in force, the container runs without its label, or it could neither read the
///   model nor be reached.
#[derive(Debug)]
pub struct Container {
    socket: PathBuf,
    docker: Result<Docker, String>,
    image: PinnedImage,
    owner: String,
    /// Tells the containers of this sandbox from those that an earlier process has left.
    sandbox: String,
    folder: PathBuf,
    /// The same, once it is this sandbox's.
    taken: Mutex<Option<Parent>>,
    model: Option<PathBuf>,
    gpus: Option<String>,
}

impl Container {
    /// Where a server must listen.
    pub const SOCKET: &str = "/run/iris/server.sock";

    /// Prepares to run `image` through the engine at `socket`.
    ///
    /// `owner` names whoever starts servers, and `folder`, which may be made, is its alone: there lie
    /// the sockets of running servers, and a lock. One sandbox at a time has it, from its first start
    /// until it and its servers are dropped; what earlier ones of the owner have left behind is then
    /// removed. The engine must see the folder by the same path, which elsewhere than on Linux may
    /// have about 60 bytes.
    pub fn new(
        socket: impl Into<PathBuf>,
        image: PinnedImage,
        owner: impl Into<String>,
        folder: impl Into<PathBuf>,
    ) -> Self {
        let socket = socket.into();
        let docker = Docker::connect_with_unix(
            &socket.to_string_lossy(),
            PATIENCE,
            // Any engine of the last years knows it.
            &ClientVersion { major_version: 1, minor_version: 41 },
        );
        Self {
            socket,
            docker: docker.map_err(|error| error.to_string()),
            image,
            owner: owner.into(),
            sandbox: random(),
            folder: folder.into(),
            taken: Mutex::default(),
            model: None,
            gpus: None,
        }
    }

    /// Lets servers read `model`, where [`Container::seen`] says: a file, together with the others of
    /// its kind where its name ends in `-00001-of-00005` or the like, or all that is in a folder.
    ///
    /// A file may be a link; those within a folder lead nowhere. A folder with that of the sockets in
    /// it is refused: whose files lie beside that is no business of the server.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<PathBuf>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Returns where a server sees `model`.
    pub fn seen(model: &Path) -> String {
        model::seen(model)
    }

    /// Lets servers use NVIDIA's graphics cards: `all` by Docker's own way, or one that CDI names,
    /// such as `nvidia.com/gpu=0`.
    ///
    /// Some engines ignore the wish without a word; so `nvidia-smi -L` is run in the container, and
    /// a server that does not see any card is not left running.
    #[must_use]
    pub fn with_gpus(mut self, gpus: impl Into<String>) -> Self {
        self.gpus = Some(gpus.into());
        self
    }

    /// Returns the socket of an engine on this machine: by `DOCKER_HOST` or `CONTAINER_HOST` where one
    /// of them is set, else the first that is there of Docker's and podman's, the user's own before
    /// the system's.
    pub fn find_engine(environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let named = ["DOCKER_HOST", "CONTAINER_HOST"].into_iter().find_map(&environment);
        if let Some(named) = named {
            return named.strip_prefix("unix://").map(PathBuf::from);
        }
        let own = environment("XDG_RUNTIME_DIR").map(PathBuf::from);
        let own = own
            .into_iter()
            .flat_map(|folder| ["docker.sock", "podman/podman.sock"].map(|name| folder.join(name)));
        let system = ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from);
        own.chain(system).find(|socket| socket.exists())
    }

    async fn run(&self, spec: &ServerSpec) -> Result<RunningContainer, SandboxError> {
        let docker = self.docker.as_ref().map_err(|error| SandboxError::Engine(error.clone()))?;
        let parent = self.take()?;
        self.remove_left_behind(docker, &parent).await?;
        let image = self.image(docker).await?;
        let mut mounts = self.model.as_deref().map_or(Ok(Vec::new()), |model| {
            model::mounts(model, parent.path())
                .map_err(|error| SandboxError::Model { model: model.to_owned(), error })
        })?;
        let folder =
            Folder::make(&parent, &self.sandbox).map_err(|error| self.without_folder(error))?;
        mounts.push(mount(&folder.shared(), SHARED_FOLDER, false));
        let engine = docker.info().await.map_err(refused)?;
        can_limit(&engine, &spec.limits)?;
        let user = user(&engine);
        let body = self.body(spec, &image, mounts, user);
        let mut running =
            RunningContainer::prepare(docker, &self.socket, folder, spec.port).await?;
        match self.begin(&mut running, body).await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.remove().await;
                Err(error)
            }
        }
    }

    async fn begin(
        &self,
        running: &mut RunningContainer,
        body: ContainerCreateBody,
    ) -> Result<(), SandboxError> {
        running.create(body).await?;
        running.start().await?;
        if self.gpus.is_some() {
            running.has_gpus().await?;
        }
        Ok(())
    }

    /// Takes the folder of sockets, if this sandbox does not have it yet.
    fn take(&self) -> Result<Parent, SandboxError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parent) = &*taken {
            return Ok(parent.clone());
        }
        let parent = Parent::take(&self.folder).map_err(|error| self.without_folder(error))?;
        let parent = parent.ok_or_else(|| SandboxError::Taken(self.folder.clone()))?;
        Ok(taken.insert(parent).clone())
    }

    fn without_folder(&self, error: io::Error) -> SandboxError {
        SandboxError::Folder { folder: self.folder.clone(), error }
    }

    /// Removes what earlier sandboxes of this owner have left, of which none runs: `parent` is taken.
    async fn remove_left_behind(
        &self,
        docker: &Docker,
        parent: &Parent,
    ) -> Result<(), SandboxError> {
        let label = format!("{OWNER}={}", self.owner);
        let filters = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for found in docker.list_containers(Some(options)).await.map_err(refused)? {
            let labels = found.labels.unwrap_or_default();
            if let Some(id) = found.id.filter(|_| labels.get(SANDBOX) != Some(&self.sandbox)) {
                tracing::warn!(container = id, "removing a server that was left behind");
                running::remove(docker, &id).await?;
            }
        }
        parent.remove_others(&self.sandbox);
        Ok(())
    }

    async fn image(&self, docker: &Docker) -> Result<String, SandboxError> {
        match docker.inspect_image(self.image.as_str()).await {
            // What is run is what was looked at.
            Ok(ImageInspect { id: Some(id), .. }) => Ok(id),
            Ok(_) => Err(SandboxError::Engine("it tells no id of the image".to_owned())),
            Err(error) if is_missing(&error) => {
                Err(SandboxError::NoImage(self.image.as_str().to_owned()))
            }
            Err(error) => Err(refused(error)),
        }
    }

    fn body(
        &self,
        spec: &ServerSpec,
        image: &str,
        mounts: Vec<Mount>,
        user: String,
    ) -> ContainerCreateBody {
        let memory = spec.limits.memory.and_then(|bytes| i64::try_from(bytes).ok());
        let host = HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(["no-new-privileges", "label=disable"].map(str::to_owned).to_vec()),
            mounts: Some(mounts),
            tmpfs: Some(HashMap::from([("/tmp".to_owned(), SCRATCH.to_owned())])),
            shm_size: Some(SHARED_MEMORY),
            memory,
            // The same as the memory: none on disk.
            memory_swap: memory,
            nano_cpus: spec.limits.cpus.map(|cpus| i64::from(cpus) * NANOS_PER_CPU),
            pids_limit: Some(MAX_PROCESSES),
            device_requests: self.gpus.as_deref().map(|gpus| vec![device_request(gpus)]),
            // This process reads it, and keeps the end.
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".to_owned()),
                ..HostConfigLogConfig::default()
            }),
            ..HostConfig::default()
        };
        let labels = [(OWNER, &self.owner), (SANDBOX, &self.sandbox)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.clone()));
        let environment = ["HOME=/tmp", "HF_HUB_OFFLINE=1"].map(str::to_owned);
        ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(&spec.program)
                .filter(|program| !program.is_empty())
                .map(|program| vec![program.clone()]),
            cmd: Some(spec.arguments.clone()),
            env: Some(environment.to_vec()),
            user: Some(user),
            labels: Some(HashMap::from(labels)),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }
}

impl Sandbox for Container {
    fn start<'a>(
        &'a self,
        spec: &'a ServerSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, SandboxError>> {
        async { Ok(Box::new(self.run(spec).await?) as Box<dyn Running>) }.boxed()
    }
}

/// Returns eight digits that nobody else has.
fn random() -> String {
    format!("{:08x}", u32::from_be_bytes(iris_crypto::random_bytes()))
}

/// Sees that the engine does not drop a limit with a mere warning.
fn can_limit(engine: &SystemInfo, limits: &Limits) -> Result<(), SandboxError> {
    let wanted = [
        ("memory", limits.memory.is_some(), engine.memory_limit),
        ("processors", limits.cpus.is_some(), engine.cpu_cfs_quota),
        ("processes", true, engine.pids_limit),
    ];
    match wanted.into_iter().find(|(_, is_wanted, can)| *is_wanted && *can != Some(true)) {
        Some((what, ..)) => Err(SandboxError::NoLimit(what)),
        None => Ok(()),
    }
}

/// Returns as whom a server is to run, so that this process may open its socket.
fn user(engine: &SystemInfo) -> String {
    let mut options = engine.security_options.iter().flatten();
    // Its root is this user, and nobody else.
    if options.any(|option| option.contains("name=rootless")) {
        return "0:0".to_owned();
    }
    let user = rustix::process::geteuid();
    if user.is_root() {
        "65534:65534".to_owned()
    } else {
        format!("{}:{}", user.as_raw(), rustix::process::getegid().as_raw())
    }
}

/// Shows a file or folder of this machine in a container. One that is not there is an error.
fn mount(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn device_request(gpus: &str) -> DeviceRequest {
    if gpus.contains('=') {
        return DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(vec![gpus.to_owned()]),
            ..DeviceRequest::default()
        };
    }
    DeviceRequest {
        driver: Some("nvidia".to_owned()),
        count: Some(-1),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }
}

fn refused(error: bollard::errors::Error) -> SandboxError {
    SandboxError::Engine(match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message,
        error => error.to_string(),
    })
}

fn is_missing(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error::DockerResponseServerError;

    matches!(error, DockerResponseServerError { status_code: 404, .. })
}
