//! Bounds for what is steady on any machine, however busy.

use super::{Report, mib};
use crate::Failure;
use crate::network::Way;
use crate::options::Part;
use crate::overload::Overload;

/// Something that must not be more than its bound.
struct Bound {
    name: &'static str,
    most: f64,
    found: f64,
}

/// Checks what was measured. CPU is compared with that of the mock in the same round, which is as
/// slow as the machine is; the bounds leave half again of what is usual.
pub(super) fn check(report: &Report) -> Result<(), Failure> {
    let beside_mock = |part| {
        let row = report.row(part)?;
        Some(row.cpu(Way::Iris) / row.cpu(Way::Direct))
    };
    let crowd = report.crowd;
    let overload = report.overload.as_ref();
    let found = [
        ("CPU of a request, times the mock's", 16.0, beside_mock(Part::Many)),
        ("CPU of a saturated chunk, times the mock's", 3.0, beside_mock(Part::Saturated)),
        ("CPU of a paced chunk, times the mock's", 5.0, beside_mock(Part::Paced)),
        ("idle coordinator, MiB", 15.0, report.coordinator.map(|c| mib(c.memory.idle))),
        ("idle node, KiB", 12.0, crowd.map(|crowd| crowd.kib_each())),
        // A request that waited for the disk would have a commit of its own.
        ("commits for each row", 0.2, report.coordinator.map(|c| 1.0 / c.rows_per_commit())),
        ("p99 at twice the capacity, times that at half", 5.0, overload.map(Overload::ratio)),
    ];
    let bounds = found
        .into_iter()
        .filter_map(|(name, most, found)| Some(Bound { name, most, found: found? }));
    let mut broken = Vec::new();
    for Bound { name, most, found } in bounds {
        println!("check: {name}: {found:.2}, at most {most:.2}");
        // What could not be computed is no number, and no proof either.
        if found.is_nan() || found > most {
            broken.push(format!("{name}: {found:.2} is more than {most:.2}"));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("; ").into()) }
}
