use iris_core::TaskId;

/// Where the ids of tasks and the scheduler's seeds come from.
#[derive(Debug, Default)]
pub(crate) enum Entropy {
    /// From the operating system; nobody can foresee them.
    #[default]
    System,
    /// From a seed, so that a simulated run repeats.
    #[cfg(feature = "simulation")]
    Seeded(std::sync::Mutex<crate::simulation::Dice>),
}

impl Entropy {
    pub(crate) fn task_id(&self) -> TaskId {
        TaskId::from_bytes(self.bytes())
    }

    pub(crate) fn seed(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        match self {
            Self::System => iris_crypto::random_bytes(),
            #[cfg(feature = "simulation")]
            Self::Seeded(dice) => {
                dice.lock().unwrap_or_else(std::sync::PoisonError::into_inner).bytes()
            }
        }
    }
}
