use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;

use super::spec::{Health, Limits, ServerSpec};

/// A server that is known by name, and how it is called.
///
/// The options are those of llama.cpp 0.5.0-dev (tried), onnx-genai-server 0.1.0-dev (its help),
/// mlx-lm 0.29 and later (its source) and vLLM (its documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `llama-server` of llama.cpp, for GGUF files.
    LlamaServer,
    /// `mlx_lm.server`, for Apple's processors.
    Mlx,
    /// `vllm serve`, for graphics cards of servers.
    Vllm,
    /// `onnx-genai serve`, for folders with an ONNX model.
    Onnx,
}

/// How much a server is to do; what is left out is the server's own choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizing {
    /// How many answers it works on at a time.
    pub slots: Option<NonZeroU32>,
    /// Tokens of context for each of them.
    pub context: Option<NonZeroU32>,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::LlamaServer, Self::Mlx, Self::Vllm, Self::Onnx];

    /// Returns the preset's name in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlamaServer => "llama-server",
            Self::Mlx => "mlx",
            Self::Vllm => "vllm",
            Self::Onnx => "onnx",
        }
    }

    /// Returns how the server is started with `model`, a path or the name that the server knows it
    /// by.
    ///
    /// # Errors
    ///
    /// A model that the server would take for an option, and a size that it cannot be told.
    pub fn server(self, model: &str, port: u16, sizing: Sizing) -> Result<ServerSpec, PresetError> {
        self.spec(model, port, Place::Port(port), sizing)
    }

    /// Returns how the server is started with `model`, a path in its container, so that it listens at
    /// `socket` there, while `port` of this machine leads to it.
    ///
    /// # Errors
    ///
    /// Those of [`server`](Self::server), and a server that cannot listen at a socket's file.
    pub fn contained(
        self,
        model: &str,
        port: u16,
        socket: &str,
        sizing: Sizing,
    ) -> Result<ServerSpec, PresetError> {
        let spec = self.spec(model, port, Place::Socket(socket), sizing)?;
        // An image of llama.cpp starts it by itself, from wherever it lies.
        let is_its_own = self == Self::LlamaServer;
        let program = if is_its_own { String::new() } else { spec.program };
        Ok(ServerSpec { program, ..spec })
    }

    fn spec(
        self,
        model: &str,
        port: u16,
        place: Place<'_>,
        sizing: Sizing,
    ) -> Result<ServerSpec, PresetError> {
        if model.is_empty() || model.starts_with('-') {
            return Err(PresetError::Model(model.to_owned()));
        }
        let (program, health) = match self {
            Self::LlamaServer => ("llama-server", Health::at("/health").while_busy()),
            Self::Mlx => ("mlx_lm.server", Health::at("/health")),
            Self::Vllm => ("vllm", Health::at("/health").while_busy()),
            Self::Onnx => ("onnx-genai", Health::at("/v1/models")),
        };
        Ok(ServerSpec {
            program: program.to_owned(),
            arguments: self.arguments(model, place, sizing)?,
            port,
            health,
            limits: Limits::default(),
        })
    }

    fn arguments(
        self,
        model: &str,
        place: Place<'_>,
        Sizing { slots, context }: Sizing,
    ) -> Result<Vec<String>, PresetError> {
        let mut line = Line::default();
        match self {
            Self::LlamaServer => {
                line.push(["--model", model]);
                line.listen(place, "--host");
                line.name("--alias", model);
                line.number("--parallel", slots);
                // The server divides this among its slots.
                let total = context.map(|context| context.saturating_mul(slots.unwrap_or(ONE)));
                line.number("--ctx-size", total);
            }
            Self::Mlx => {
                self.refuse("context", context)?;
                let port = self.needs_port(place)?;
                line.push(["--model", model]);
                line.listen(Place::Port(port), "--host");
                line.number("--decode-concurrency", slots);
            }
            Self::Vllm => {
                line.push(["serve", model]);
                line.listen(place, "--uds");
                line.name("--served-model-name", model);
                line.number("--max-num-seqs", slots);
                line.number("--max-model-len", context);
            }
            Self::Onnx => {
                self.refuse("context", context)?;
                let port = self.needs_port(place)?;
                line.push(["serve", model, "--addr", &format!("127.0.0.1:{port}")]);
                line.number("--max-batch", slots);
            }
        }
        Ok(line.0)
    }

    fn needs_port(self, place: Place<'_>) -> Result<u16, PresetError> {
        match place {
            Place::Port(port) => Ok(port),
            Place::Socket(_) => Err(PresetError::Contained(self.as_str())),
        }
    }

    fn refuse(self, what: &'static str, size: Option<NonZeroU32>) -> Result<(), PresetError> {
        match size {
            Some(_) => Err(PresetError::Size { preset: self.as_str(), what }),
            None => Ok(()),
        }
    }
}

/// Where a server is to listen.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// A port of 127.0.0.1.
    Port(u16),
    /// A socket's file.
    Socket(&'a str),
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn push<const N: usize>(&mut self, arguments: [&str; N]) {
        self.0.extend(arguments.map(str::to_owned));
    }

    /// Says where to listen: at a port, or at a file, which is told by `option`.
    fn listen(&mut self, place: Place<'_>, option: &str) {
        match place {
            Place::Port(port) => {
                self.push(["--host", "127.0.0.1", "--port", &port.to_string()]);
            }
            Place::Socket(file) => self.push([option, file]),
        }
    }

    /// Calls a model that lies in a file by the file's name: others see it, and the folders are
    /// none of their business.
    fn name(&mut self, option: &str, model: &str) {
        let path = Path::new(model);
        let is_file = path.is_absolute() || path.extension().is_some_and(|end| end == "gguf");
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.strip_suffix(".gguf").unwrap_or(name);
        if is_file && !name.is_empty() && !name.starts_with('-') {
            self.0.extend([option.to_owned(), name.to_owned()]);
        }
    }

    fn number(&mut self, option: &str, number: Option<NonZeroU32>) {
        if let Some(number) = number {
            self.0.extend([option.to_owned(), number.to_string()]);
        }
    }
}

impl FromStr for Preset {
    type Err = PresetError;

    fn from_str(name: &str) -> Result<Self, PresetError> {
        let found = Self::ALL.into_iter().find(|preset| preset.as_str() == name);
        found.ok_or_else(|| PresetError::Unknown(name.to_owned()))
    }
}

/// Why a preset cannot be used so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresetError {
    /// No preset has this name.
    #[error("{0} is no server that is known by name; llama-server, mlx, vllm and onnx are")]
    Unknown(String),
    /// The model would not be taken for one.
    #[error(
        "the model is named \"{0}\"; it must be the path of one, or a name, and not begin with -"
    )]
    Model(String),
    /// The server listens at ports alone, which a container has none of.
    #[error(
        "{0} cannot run in a container: it cannot listen at a socket's file, as llama-server and vllm can"
    )]
    Contained(&'static str),
    /// The server has no such option.
    #[error("{preset} has no option for the {what}; leave it out")]
    Size {
        /// The preset.
        preset: &'static str,
        /// What it cannot be told.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(preset: Preset, slots: u32, context: u32) -> String {
        let sizing = Sizing { slots: NonZeroU32::new(slots), context: NonZeroU32::new(context) };
        let spec = preset.server("m", 4000, sizing).unwrap();
        format!("{} {}", spec.program, spec.arguments.join(" "))
    }

    #[test]
    fn servers_are_called_on_loopback_with_their_sizes() {
        assert_eq!(
            line(Preset::LlamaServer, 4, 8192),
            "llama-server --model m --host 127.0.0.1 --port 4000 --parallel 4 --ctx-size 32768"
        );
        assert_eq!(
            line(Preset::LlamaServer, 0, 0),
            "llama-server --model m --host 127.0.0.1 --port 4000"
        );
        assert_eq!(
            line(Preset::Mlx, 2, 0),
            "mlx_lm.server --model m --host 127.0.0.1 --port 4000 --decode-concurrency 2"
        );
        assert_eq!(
            line(Preset::Vllm, 16, 4096),
            "vllm serve m --host 127.0.0.1 --port 4000 --max-num-seqs 16 --max-model-len 4096"
        );
        assert_eq!(
            line(Preset::Onnx, 3, 0),
            "onnx-genai serve m --addr 127.0.0.1:4000 --max-batch 3"
        );
    }

    #[test]
    fn servers_in_containers_are_called_at_a_file() {
        let contained = |preset: Preset| {
            let spec = preset.contained("/models/m.gguf", 4000, "/s.sock", Sizing::default());
            spec.map(|spec| (spec.port, format!("{} {}", spec.program, spec.arguments.join(" "))))
        };
        let llama = " --model /models/m.gguf --host /s.sock --alias m".to_owned();
        assert_eq!(contained(Preset::LlamaServer), Ok((4000, llama)));
        let vllm = "vllm serve /models/m.gguf --uds /s.sock --served-model-name m".to_owned();
        assert_eq!(contained(Preset::Vllm), Ok((4000, vllm)));
        for preset in [Preset::Mlx, Preset::Onnx] {
            assert_eq!(contained(preset), Err(PresetError::Contained(preset.as_str())));
        }
    }

    #[test]
    fn a_file_is_offered_by_its_name_and_not_by_its_folders() {
        let line = |preset: Preset, model: &str| {
            preset.server(model, 1, Sizing::default()).unwrap().arguments.join(" ")
        };
        let file = "/home/ada/secret/qwen-7b.Q4_K_M.gguf";
        assert!(line(Preset::LlamaServer, file).ends_with("--alias qwen-7b.Q4_K_M"));
        assert!(line(Preset::LlamaServer, "qwen-7b.gguf").ends_with("--alias qwen-7b"));
        assert!(line(Preset::Vllm, "/srv/qwen").ends_with("--served-model-name qwen"));
        assert!(!line(Preset::Vllm, "org/qwen").contains("--served-model-name"));
    }

    #[test]
    fn what_a_server_cannot_be_told_is_refused() {
        let context = Sizing { context: NonZeroU32::new(1), slots: None };
        for preset in [Preset::Mlx, Preset::Onnx] {
            let error = preset.server("m", 1, context).unwrap_err();
            assert_eq!(error, PresetError::Size { preset: preset.as_str(), what: "context" });
        }
    }

    #[test]
    fn a_model_is_never_an_option() {
        for preset in Preset::ALL {
            for model in ["", "-h", "--host=0.0.0.0"] {
                let error = preset.server(model, 1, Sizing::default()).unwrap_err();
                assert_eq!(error, PresetError::Model(model.to_owned()));
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for preset in Preset::ALL {
            assert_eq!(preset.as_str().parse(), Ok(preset));
        }
        assert!("ollama".parse::<Preset>().is_err());
    }
}
