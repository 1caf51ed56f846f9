//! Settings that change while the node runs.

use std::path::PathBuf;
use std::time::SystemTime;

use iris_node::limits::Limits;

use crate::settings::{Flags, Settings};

/// Reads the file of settings again when it has changed.
pub(crate) struct Reload {
    flags: Flags,
    file: Option<PathBuf>,
    seen: Option<Mark>,
    settings: Settings,
}

/// By what a changed file is known.
type Mark = (SystemTime, u64);

impl Reload {
    /// Begins with the settings in force, which came from `file`.
    pub(crate) fn new(flags: Flags, file: Option<PathBuf>, settings: Settings) -> Self {
        let mut reload = Self { flags, file, seen: None, settings };
        reload.seen = reload.mark();
        reload
    }

    /// Returns the limits where the file has changed and can be used.
    pub(crate) fn look(&mut self) -> Option<Limits> {
        let mark = self.mark();
        // An editor that replaces a file leaves none for a moment.
        if mark.is_none() || mark == self.seen {
            return None;
        }
        self.seen = mark;
        let environment = |name: &str| std::env::var(name).ok();
        let read = Settings::load(self.flags.clone(), environment, self.file.as_deref());
        let read = read.and_then(|settings| Ok((settings.limits()?, settings)));
        match read {
            Ok((limits, settings)) => {
                tracing::info!("the settings were read again");
                if !self.settings.differ_in_limits_alone(&settings) {
                    tracing::warn!(
                        "limits hold from now on; what else has changed counts from the next start"
                    );
                }
                self.settings = settings;
                Some(limits)
            }
            Err(error) => {
                tracing::error!(%error, "the settings were changed and cannot be used; the old \
                                         ones hold");
                None
            }
        }
    }

    fn mark(&self) -> Option<Mark> {
        let metadata = std::fs::metadata(self.file.as_ref()?).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }
}
