//! NVIDIA's cards, by the tool of their driver.

use super::card::{Card, CardReading, Vendor};
use super::tool::Tools;

/// What is asked, in the order of the answer. `nvidia-smi --help-query-gpu` describes each.
const QUERY: [&str; 2] = [
    "--query-gpu=name,driver_version,memory.total,memory.free,utilization.gpu,temperature.gpu,\
     power.draw",
    "--format=csv,noheader,nounits",
];
const FIELDS: usize = 7;
const MIB: u64 = 1 << 20;

/// Returns the cards and how they are doing.
pub(super) fn cards(tools: &Tools) -> Vec<Card> {
    let answer = tools.run("nvidia-smi", &QUERY).unwrap_or_default();
    answer.lines().filter_map(card).collect()
}

fn card(line: &str) -> Option<Card> {
    let fields: Vec<_> = line.split(',').map(str::trim).collect();
    let [name, driver, memory, free, load, celsius, watts] =
        <[&str; FIELDS]>::try_from(fields).ok()?;
    // What a card does not tell reads `[N/A]`, `[Not Supported]` or `[Unknown Error]`.
    let told = |text: &str| (!text.is_empty() && !text.starts_with('[')).then(|| text.to_owned());
    let mib = |text: &str| text.parse::<u64>().ok()?.checked_mul(MIB);
    Some(Card {
        name: Some(told(name)?),
        driver: told(driver),
        memory: mib(memory),
        // So say boards whose processor and card share their memory.
        is_unified: matches!(memory, "[N/A]" | "[Not Supported]"),
        reading: CardReading {
            load: load.parse().ok().filter(|load| *load <= 100),
            free: mib(free),
            celsius: celsius.parse().ok(),
            watts: whole(watts),
        },
        ..Card::new(Vendor::Nvidia)
    })
}

/// Reads a number such as `61.72` without its fraction.
pub(super) fn whole(text: &str) -> Option<u32> {
    text.trim().split('.').next()?.parse().ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::probe::card::tests::{printing, tools};

    #[test]
    fn cards_tell_what_they_are_and_how_they_do() {
        let answer = include_str!("recorded/nvidia-smi.csv");
        let (_folder, tools) = printing(&[("nvidia-smi", answer)]);
        let cards = cards(&tools);
        let [pc, server, board] = cards.as_slice() else { panic!("{cards:?}") };
        assert_eq!(pc.name.as_deref(), Some("NVIDIA GeForce RTX 4090"));
        assert_eq!(pc.driver.as_deref(), Some("550.54.14"));
        assert_eq!((pc.memory, pc.is_unified), (Some(24_564 * MIB), false));
        let CardReading { load, free, celsius, watts } = pc.reading;
        assert_eq!(
            (load, free, celsius, watts),
            (Some(37), Some(22_118 * MIB), Some(54), Some(112))
        );
        // One that is divided does not tell its load.
        assert_eq!((server.memory, server.reading.load), (Some(81_559 * MIB), None));
        assert_eq!((board.memory, board.is_unified, board.reading.free), (None, true, None));
    }

    #[test]
    fn what_is_not_an_answer_is_no_card() {
        let (_folder, failing) =
            tools(&[("nvidia-smi", "echo NVIDIA-SMI has failed because; exit 9")]);
        assert_eq!(cards(&failing), []);
        for answer in ["", "No devices were found", "a,b,c", "[N/A],1,2,3,4,5,6", ",,,,,,"] {
            let (_folder, tools) = printing(&[("nvidia-smi", answer)]);
            assert_eq!(cards(&tools), [], "{answer}");
        }
        let (_folder, tools) =
            printing(&[("nvidia-smi", "X, 1, 99999999999999999, -1, 101, x, 1e9")]);
        let cards = cards(&tools);
        assert_eq!(cards[0].memory, None);
        assert_eq!(cards[0].reading, CardReading::default());
    }
}
