/// Keeps records in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore;
