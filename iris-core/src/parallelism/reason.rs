//! Why a model runs as it is planned to, and why not otherwise.

use std::fmt;

/// What was found about one way to run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// One GPU is enough.
    OneGpu,
    /// Several GPUs of a machine divide each layer.
    LayersDivided,
    /// The GPUs of a machine take layers each.
    LayersDealt,
    /// Machines take layers each.
    MachinesDealt,
    /// Machines take layers each, and divide them among their GPUs.
    Hybrid,
    /// The weights are larger than the memory.
    WeightsTooLarge,
    /// The weights leave too little for one request.
    CacheTooSmall,
    /// It works on fewer requests at a time than are wanted.
    TooFewRequests,
    /// The model's heads cannot be divided so.
    HeadsNotDivisible,
    /// The GPUs are not alike.
    GpusDiffer,
    /// There are more parts than layers.
    TooFewLayers,
    /// No GPU is there.
    NoGpu,
    /// Nothing that is there holds the model.
    NothingHolds,
}

impl Reason {
    /// Returns the reason's name, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneGpu => "one_gpu",
            Self::LayersDivided => "layers_divided",
            Self::LayersDealt => "layers_dealt",
            Self::MachinesDealt => "machines_dealt",
            Self::Hybrid => "hybrid",
            Self::WeightsTooLarge => "weights_too_large",
            Self::CacheTooSmall => "cache_too_small",
            Self::TooFewRequests => "too_few_requests",
            Self::HeadsNotDivisible => "heads_not_divisible",
            Self::GpusDiffer => "gpus_differ",
            Self::TooFewLayers => "too_few_layers",
            Self::NoGpu => "no_gpu",
            Self::NothingHolds => "nothing_holds",
        }
    }

    /// Returns the reason as one sentence.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::OneGpu => "One GPU holds the weights and the context of all requests.",
            Self::LayersDivided => {
                "No one GPU is enough; several alike in one machine divide each layer."
            }
            Self::LayersDealt => {
                "Several GPUs of one machine are needed, and each takes some of the layers, as they \
                 cannot divide them or are not linked fast."
            }
            Self::MachinesDealt => "No machine is enough; each takes some of the layers.",
            Self::Hybrid => {
                "No machine is enough; each takes some of the layers, and its GPUs divide them."
            }
            Self::WeightsTooLarge => "The weights are larger than the memory there is for them.",
            Self::CacheTooSmall => "The weights leave too little memory for one request.",
            Self::TooFewRequests => {
                "It holds the model, and works on fewer requests at a time than are wanted."
            }
            Self::HeadsNotDivisible => {
                "The model's attention heads cannot be divided among so many GPUs."
            }
            Self::GpusDiffer => "The machine has not so many GPUs that are alike.",
            Self::TooFewLayers => "The model has fewer layers than there would be parts.",
            Self::NoGpu => "No GPU is there.",
            Self::NothingHolds => "All that is there does not hold the model and one request.",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}
