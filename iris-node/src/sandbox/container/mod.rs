//! Servers in containers of Docker or podman.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, ImageInspect, Mount,
    MountType,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use bollard::{ClientVersion, Docker};
use futures::future::{BoxFuture, FutureExt};

mod folder;
mod image;
mod running;

pub use image::{PinError, PinnedImage};

use super::{Running, Sandbox, SandboxError, ServerSpec};
use folder::Folder;
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
/// A server sees its image, read-only, the folder of its models, read-only, and a `/tmp` of 1 GiB. It
/// has no network at all, not even to this machine: it listens at [`Container::SOCKET`], a file in a
/// folder that it shares with this process, which forwards the port of its [`ServerSpec`] on
/// loopback there. A port that an engine publishes would need a network, by which the server gets
/// out as well. The server has no capabilities and gains none, and runs as the user of this process,
/// or as 65534 where that is root; where the engine itself runs without root, as root of its own
/// user namespace, which is that user outside. Whoever it is must be able to read the models.
///
/// The image must be there already, and is named by its digest. What a server prints is kept by this
/// process alone, as much as of a [`Process`](super::Process). A container outlives a process that
/// is killed; whatever starts servers by the same name next removes it. What else is true:
///
/// - [`Limits::memory`](super::Limits::memory) holds for all that a server takes, together with its
///   `/tmp` and the pages of its model in memory, which the system takes back where others need it.
/// - The first process of a container ends by SIGTERM only where it heeds that; others take as long to
///   stop as they are given.
/// - Where `SELinux` is in force, the container runs without its label, or it could neither read the
///   models nor be reached.
#[derive(Debug)]
pub struct Container {
    socket: PathBuf,
    docker: Result<Docker, String>,
    image: PinnedImage,
    owner: String,
    /// Tells the containers of this sandbox from those that an earlier process has left.
    sandbox: String,
    folder: PathBuf,
    models: Option<PathBuf>,
    gpus: Option<String>,
}

impl Container {
    /// Where a server must listen.
    pub const SOCKET: &str = "/run/iris/server.sock";
    /// Where the folder of models is.
    pub const MODELS: &str = "/models";

    /// Prepares to run `image` through the engine at `socket`.
    ///
    /// `owner` names whoever starts servers, one process at a time: what it has left behind is
    /// removed. In `folder`, which may be made, lie the sockets of running servers; the engine must
    /// see it by the same path, and a path of more than about 60 bytes is too long.
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
            models: None,
            gpus: None,
        }
    }

    /// Lets servers read what is in `folder`, at [`Container::MODELS`].
    #[must_use]
    pub fn with_models(mut self, folder: impl Into<PathBuf>) -> Self {
        self.models = Some(folder.into());
        self
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
        self.remove_left_behind(docker).await?;
        let image = self.image(docker).await?;
        let folder = Folder::make(&self.folder, &self.sandbox);
        let folder =
            folder.map_err(|error| SandboxError::Folder { folder: self.folder.clone(), error })?;
        let user = user(docker).await?;
        let body = self.body(spec, &image, &folder, user);
        let mut running =
            RunningContainer::create(docker, &self.socket, body, folder, spec.port).await?;
        running.start().await?;
        if self.gpus.is_some() {
            running.has_gpus().await?;
        }
        Ok(running)
    }

    /// Removes what an earlier process of this owner has left.
    async fn remove_left_behind(&self, docker: &Docker) -> Result<(), SandboxError> {
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
        Folder::remove_others(&self.folder, &self.sandbox);
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
        folder: &Folder,
        user: String,
    ) -> ContainerCreateBody {
        let shared = mount(&folder.shared(), SHARED_FOLDER, false);
        let models = self.models.as_deref().map(|models| mount(models, Self::MODELS, true));
        let memory = spec.limits.memory.and_then(|bytes| i64::try_from(bytes).ok());
        let host = HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(["no-new-privileges", "label=disable"].map(str::to_owned).to_vec()),
            mounts: Some([Some(shared), models].into_iter().flatten().collect()),
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

/// Returns as whom a server is to run, so that this process may open its socket.
async fn user(docker: &Docker) -> Result<String, SandboxError> {
    let options = docker.info().await.map_err(refused)?.security_options.unwrap_or_default();
    // Its root is this user, and nobody else.
    if options.iter().any(|option| option.contains("name=rootless")) {
        return Ok("0:0".to_owned());
    }
    let user = rustix::process::geteuid();
    Ok(if user.is_root() {
        "65534:65534".to_owned()
    } else {
        format!("{}:{}", user.as_raw(), rustix::process::getegid().as_raw())
    })
}

/// Shows a folder of this machine in a container. One that is not there is an error.
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
