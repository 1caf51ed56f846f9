//! The model files that the engine runs when somebody asks for them.

use std::sync::Arc;

use iris_core::memory::ByteSize;
use iris_core::residency::Capacity;
use iris_node::backend::engine::{EngineLoader, FoundModel};
use tokio::task::spawn_blocking;

use super::{Check, Report};
use crate::failure::{Exit, Failure};
use crate::models;
use crate::settings::Settings;

const LINK: &str = "model files";
/// Files that are named one by one.
const NAMED: usize = 5;

/// Looks at the files, and returns what there is for them, if one of them can be run.
pub(super) async fn check(
    loader: &Arc<EngineLoader>,
    settings: &Settings,
    report: &mut Report,
) -> Option<Capacity> {
    let (loader, settings) = (Arc::clone(loader), settings.clone());
    let look = move || {
        let capacity = models::capacity(&settings)?;
        Ok((loader.files().map_err(Failure::files)?, capacity))
    };
    match spawn_blocking(look).await.unwrap_or_else(|panic| Err(Failure::files(panic))) {
        Ok((files, capacity)) => {
            let check = judge(&files, capacity.memory);
            let is_of_use = check.exit.is_none();
            report.add(check);
            is_of_use.then_some(capacity)
        }
        Err(failure) => {
            let advice = "name a folder that can be read with --engine, or a limit with --load-gb";
            report.add(Check::fail(LINK, failure.exit, failure.to_string(), advice));
            None
        }
    }
}

/// Says which of the files can be run within so much memory, and what is wrong with the others.
fn judge(files: &[FoundModel], room: ByteSize) -> Check {
    let fault = |file: &FoundModel| {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &file.model {
            Ok(model) if model.claim.memory <= room => None,
            Ok(model) => Some(format!("{name} takes {}", model.claim.memory)),
            Err(why) => Some(format!("{name}: {why}")),
        }
    };
    let faults: Vec<_> = files.iter().filter_map(fault).collect();
    let usable = files.len() - faults.len();
    let mut found = format!("{usable} of {} can be run, in {room} together", files.len());
    for fault in faults.iter().take(NAMED) {
        found = format!("{found}; {fault}");
    }
    if faults.len() > NAMED {
        found = format!("{found}; and {} more", faults.len() - NAMED);
    }
    if usable == 0 {
        let advice = "get one with `iris-node models pull`; the engine runs GGUF files of Llama, \
                      Mistral and Qwen 2 and 3, and --load-gb says what they may take";
        return Check::fail(LINK, Exit::Files, found, advice);
    }
    if faults.is_empty() {
        return Check::ok(LINK, found);
    }
    let advice = "remove what is of no use; what takes too much needs a higher --load-gb, or fewer \
                  --slots";
    Check::warn(LINK, found, advice)
}

#[cfg(test)]
mod tests {
    use iris_core::model::ModelOffer;
    use iris_core::residency::Claim;
    use iris_node::backend::on_demand::Loadable;

    use super::super::State;
    use super::*;

    fn file(name: &str, model: Result<u64, &str>) -> FoundModel {
        let loadable = |gib| Loadable {
            offer: ModelOffer::new(name.parse().unwrap(), 4096),
            claim: Claim { memory: ByteSize::gib(gib), slots: 1 },
            is_loaded: false,
        };
        let model = model.map(loadable).map_err(str::to_owned);
        FoundModel { path: format!("/models/{name}.gguf").into(), model }
    }

    #[test]
    fn files_that_are_of_no_use_are_named_with_what_is_wrong() {
        let good = file("good", Ok(2));
        let room = ByteSize::gib(4);
        let well = judge(std::slice::from_ref(&good), room);
        assert_eq!((well.state, well.advice), (State::Ok, None));
        let others = [file("large", Ok(5)), file("bad", Err("it is damaged"))];
        let mixed = judge(&[&others[..], &[good]].concat(), room);
        assert_eq!(mixed.state, State::Warn);
        for part in ["1 of 3", "large.gguf takes 5.00 GiB", "bad.gguf: it is damaged"] {
            assert!(mixed.found.contains(part), "{}", mixed.found);
        }
        for files in [&others[..], &[]] {
            assert_eq!(judge(files, room).state, State::Fail);
        }
        let many: Vec<_> = (0..9).map(|_| file("bad", Err("it is damaged"))).collect();
        assert!(judge(&many, room).found.ends_with("and 4 more"));
    }
}
