//! The ways to lay a model out that are worth a look, the simplest first.

use super::layout::shape;
use super::{Machine, Model, Reason, Shape};

/// GPUs that may divide each layer.
const WIDTHS: [u32; 3] = [2, 4, 8];
/// The most machines, and GPUs of one, that are looked at.
const MOST_MACHINES: usize = 64;
const MOST_GPUS: usize = 16;

/// A way to lay a model out.
pub(super) struct Candidate {
    pub(super) shape: Shape,
    /// The machine of each group with its GPUs, or why there are none.
    pub(super) groups: Result<Vec<Group>, Reason>,
}

/// A machine, and those of its GPUs that divide each layer.
type Group = (usize, Vec<usize>);

impl Candidate {
    fn new(groups: Vec<Group>) -> Self {
        let shape = shape(groups.iter().map(|(machine, gpus)| (*machine, gpus.len())));
        Self { shape, groups: Ok(groups) }
    }

    fn impossible(tensor: u32, reason: Reason) -> Self {
        Self { shape: Shape { tensor, pipeline: 1, machines: 1 }, groups: Err(reason) }
    }
}

pub(super) fn all(model: &Model, machines: &[Machine]) -> impl Iterator<Item = Candidate> {
    let machines = &machines[..machines.len().min(MOST_MACHINES)];
    let (fast, slow): (Vec<_>, Vec<_>) =
        (0..machines.len()).partition(|machine| machines[*machine].has_fast_links);
    let mut all = single(machines);
    all.extend(divided(model, machines, &fast));
    all.extend(dealt(machines, &slow));
    all.extend(dealt(machines, &fast));
    all.extend(divided(model, machines, &slow));
    all.extend(across(model, machines));
    all.into_iter()
}

/// Each GPU by itself, the smallest first, so that large ones are left to large models.
fn single(machines: &[Machine]) -> Vec<Candidate> {
    let each = machines
        .iter()
        .enumerate()
        .flat_map(|(at, machine)| by_memory(machine).into_iter().map(move |gpu| (at, gpu)));
    let mut each: Vec<_> = each.collect();
    each.sort_by_key(|(machine, gpu)| machines[*machine].gpus[*gpu].memory);
    each.into_iter().map(|(machine, gpu)| Candidate::new(vec![(machine, vec![gpu])])).collect()
}

/// GPUs of one machine that divide each layer.
fn divided(model: &Model, machines: &[Machine], of: &[usize]) -> Vec<Candidate> {
    let mut all = Vec::new();
    for width in WIDTHS {
        for &at in of.iter().filter(|at| machines[**at].gpus.len() >= width as usize) {
            all.push(match groups(&machines[at], width).into_iter().next() {
                _ if !model.divides(width) => {
                    Candidate::impossible(width, Reason::HeadsNotDivisible)
                }
                Some(gpus) => Candidate::new(vec![(at, gpus)]),
                None => Candidate::impossible(width, Reason::GpusDiffer),
            });
        }
    }
    all
}

/// GPUs of one machine that take layers each, as few as possible, the largest first.
fn dealt(machines: &[Machine], of: &[usize]) -> Vec<Candidate> {
    let mut all = Vec::new();
    for count in 2..=MOST_GPUS {
        for &at in of {
            let gpus = by_memory(&machines[at]);
            if gpus.len() >= count {
                let groups = gpus.into_iter().take(count).map(|gpu| (at, vec![gpu]));
                all.push(Candidate::new(groups.collect()));
            }
        }
    }
    all
}

/// Machines that take layers each, as few as possible, the largest first. As many of their GPUs as
/// can divide each layer.
fn across(model: &Model, machines: &[Machine]) -> Vec<Candidate> {
    let memory = |at: &usize| {
        let gpus = machines[*at].gpus.iter().take(MOST_GPUS);
        gpus.map(|gpu| u128::from(gpu.memory.get())).sum::<u128>()
    };
    let mut order: Vec<usize> = (0..machines.len()).filter(|at| memory(at) > 0).collect();
    order.sort_by_key(|at| std::cmp::Reverse(memory(at)));
    let mut all = Vec::new();
    for count in 2..=order.len() {
        let chosen = &order[..count];
        let is_fast =
            chosen.iter().all(|at| machines[*at].has_fast_links || machines[*at].gpus.len() == 1);
        let wide = WIDTHS.into_iter().rev().filter(|width| model.divides(*width));
        let mut widths: Vec<u32> = wide.chain([1]).collect();
        if !is_fast {
            widths.reverse();
        }
        for width in widths {
            let each: Vec<Vec<Group>> = chosen
                .iter()
                .map(|at| {
                    groups(&machines[*at], width).into_iter().map(|gpus| (*at, gpus)).collect()
                })
                .collect();
            if each.iter().all(|groups| !groups.is_empty()) {
                all.push(Candidate::new(each.concat()));
            }
        }
    }
    all
}

/// Returns the GPUs of a machine, the largest first.
fn by_memory(machine: &Machine) -> Vec<usize> {
    let mut gpus: Vec<usize> = (0..machine.gpus.len().min(MOST_GPUS)).collect();
    gpus.sort_by_key(|gpu| std::cmp::Reverse(machine.gpus[*gpu].memory));
    gpus
}

/// Returns groups of `width` GPUs that are alike, the largest first.
fn groups(machine: &Machine, width: u32) -> Vec<Vec<usize>> {
    let mut groups = Vec::new();
    let mut rest = by_memory(machine);
    while let Some(first) = rest.first() {
        let like = &machine.gpus[*first];
        let (alike, others) =
            rest.iter().partition::<Vec<usize>, _>(|gpu| machine.gpus[**gpu] == *like);
        groups.extend(alike.chunks_exact(width as usize).map(<[usize]>::to_vec));
        rest = others;
    }
    groups
}
