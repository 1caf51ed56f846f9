/// One scripted answer.
#[derive(Clone, Debug)]
pub struct Script;
/// A backend that answers as it was told.
#[derive(Clone, Debug)]
pub struct ScriptedBackend;
