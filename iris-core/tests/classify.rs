//! How well the rules tell how hard questions are.
//!
//! Two parts of the same size: the rules were written by the one, and the other was written down
//! before them and is only counted. `cargo test -p iris-core --test classify -- --nocapture` prints
//! the tables.

use std::fmt;

use iris_core::classify::{LAST_RESORT, Question, Rules};
use iris_core::demand::Difficulty;

const TUNING: &str = include_str!("labelled/tuning.txt");
const HELD_OUT: &str = include_str!("labelled/held_out.txt");

const CLASSES: [Difficulty; 3] = [Difficulty::Simple, Difficulty::Complex, Difficulty::Advanced];

struct Prompt {
    language: &'static str,
    class: Difficulty,
    text: String,
}

fn prompts(set: &'static str) -> Vec<Prompt> {
    let lines = set.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &'static str| {
        let [language, class, text] = *line.splitn(3, ' ').collect::<Vec<_>>() else {
            panic!("not a prompt: {line}")
        };
        let class = serde_json::from_value(class.into()).expect("a class");
        Prompt { language, class, text: text.replace("\\n", "\n") }
    };
    lines.map(read).collect()
}

/// How often prompts of one class, the rows, were taken for another, the columns; the last column
/// counts those without an opinion.
#[derive(Default)]
struct Confusion([[usize; 4]; 3]);

impl Confusion {
    fn of<'a>(prompts: impl Iterator<Item = &'a Prompt>) -> Self {
        let mut table = Self::default();
        for prompt in prompts {
            let judged = Rules::judge(&Question::new(&prompt.text));
            table.0[prompt.class as usize][judged.map_or(3, |class| class as usize)] += 1;
        }
        table
    }

    fn all(&self) -> usize {
        self.0.iter().flatten().sum()
    }

    /// Counts those whose class was told rightly; without an opinion the last resort counts.
    fn right(&self) -> usize {
        let told: usize = CLASSES.iter().map(|c| self.0[*c as usize][*c as usize]).sum();
        told + self.0[LAST_RESORT as usize][3]
    }

    fn abstained(&self) -> usize {
        self.0.iter().map(|row| row[3]).sum()
    }
}

impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| is \\ taken for | SIMPLE | COMPLEX | ADVANCED | no opinion |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (class, row) in CLASSES.iter().zip(self.0) {
            let [simple, complex, advanced, none] = row;
            let class = format!("{class:?}").to_uppercase();
            writeln!(f, "| {class} | {simple} | {complex} | {advanced} | {none} |")?;
        }
        write!(
            f,
            "right: {} of {}, without an opinion: {}",
            self.right(),
            self.all(),
            self.abstained()
        )
    }
}

#[test]
fn the_labelled_set_is_large_balanced_and_half_spanish_and_its_parts_share_nothing() {
    let (tuning, held_out) = (prompts(TUNING), prompts(HELD_OUT));
    for part in [&tuning, &held_out] {
        assert!(part.len() >= 150);
        for language in ["en", "es"] {
            for class in CLASSES {
                let count = part.iter().filter(|p| p.language == language && p.class == class);
                assert_eq!(count.count() * 6, part.len(), "{language} {class:?}");
            }
        }
    }
    let mut texts: Vec<_> = tuning.iter().chain(&held_out).map(|p| &p.text).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), tuning.len() + held_out.len());
}

#[test]
fn accuracy_is_what_the_documentation_says() {
    for (name, set, known) in [("tuning", TUNING, 156), ("held out", HELD_OUT, 151)] {
        let prompts = prompts(set);
        let of = |language| Confusion::of(prompts.iter().filter(move |p| p.language == language));
        for language in ["en", "es"] {
            let table = of(language);
            println!("{name}, {language}: right {} of {}", table.right(), table.all());
        }
        let table = Confusion::of(prompts.iter());
        println!("{name}:\n{table}\n");
        assert_eq!(table.right(), known, "the numbers at `Rules` have changed");
    }
}
