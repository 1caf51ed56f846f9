//! Numbers of parameters and lengths of contexts among the words of a name.

/// How many parameters a model has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// All of them.
    pub(super) total: Option<u64>,
    /// Those that work on each token.
    pub(super) active: Option<u64>,
}

/// A word that tells a size.
enum Size {
    /// `7b`, `270m`, `1.5t`.
    Plain(u64),
    /// `a3b`: so many work on each token. `e4b` says it of a model that keeps the others elsewhere.
    Active(u64),
    /// `8x7b`: experts, each the size of a model.
    Experts { count: u64, each: u64 },
    /// `1t`, which may also be how many tokens a model was trained on.
    Trillions(u64),
    /// `16e`: experts, beside the size of the part that works.
    Count,
}

impl Sizes {
    pub(super) fn of(words: &[String]) -> Option<Self> {
        let told: Vec<(usize, Size)> =
            words.iter().enumerate().filter_map(|(at, word)| Some((at, Size::of(word)?))).collect();
        let mut plain = told.iter().filter_map(|(at, size)| match size {
            Size::Plain(size) => Some((*at, *size)),
            _ => None,
        });
        let find = |pick: fn(&Size) -> Option<u64>| told.iter().find_map(|(_, size)| pick(size));
        let active = find(|size| if let Size::Active(size) = size { Some(*size) } else { None });
        let sizes = match (plain.next(), plain.next()) {
            // Small and large side by side are what works and the whole.
            (Some((at, small)), Some((next, large))) if next == at + 1 && small < large => {
                Self { total: Some(large), active: Some(small) }
            }
            (Some((_, size)), _) if told.iter().any(|(_, size)| matches!(size, Size::Count)) => {
                Self { total: None, active: Some(size) }
            }
            (Some((_, size)), _) => Self { total: Some(size), active },
            (None, _) => Self { total: find(Size::of_experts).or(find(Size::trillions)), active },
        };
        (sizes != Self::default()).then_some(sizes)
    }
}

impl Size {
    fn of(word: &str) -> Option<Self> {
        if let Some((count, each)) = word.split_once('x') {
            let count = count.parse().ok().filter(|count| (2..=1024).contains(count))?;
            return plain(each).map(|each| Self::Experts { count, each });
        }
        if let Some(active) = word.strip_prefix(['a', 'e']) {
            return plain(active).map(Self::Active);
        }
        if let Some(count) = word.strip_suffix('e') {
            return is_number(count).then_some(Self::Count);
        }
        if let Some(trillions) = word.strip_suffix('t') {
            return scaled(trillions, 12).map(Self::Trillions);
        }
        plain(word).map(Self::Plain)
    }

    /// Returns about how many parameters all experts have together.
    ///
    /// They share all but the feed-forward layers, which are seven ninths of Mistral 7B. So Mixtral
    /// 8x7B comes to 45.1 billion where 46.7 are published, and 8x22B to 141.8 where 141 are.
    fn of_experts(&self) -> Option<u64> {
        let Self::Experts { count, each } = self else { return None };
        (each / 9 * 7).checked_mul(count - 1)?.checked_add(*each)
    }

    fn trillions(&self) -> Option<u64> {
        if let Self::Trillions(size) = self { Some(*size) } else { None }
    }
}

/// Finds the length of a context, in tokens: `128k`, `1m`.
///
/// Only lengths that models have count: others name tokens of training, or of thoughts.
pub(super) fn context_length(words: &[String]) -> Option<u32> {
    words.iter().find_map(|word| {
        let (number, is_millions) = match (word.strip_suffix('k'), word.strip_suffix('m')) {
            (Some(number), _) => (number, false),
            (_, Some(number)) => (number, true),
            _ => return None,
        };
        let number: u32 = number.parse().ok()?;
        match number {
            1..=MOST_MILLIONS if is_millions => Some(number * 1_000_000),
            65 | 131 | 262 | 524 | 1048 if !is_millions => {
                Some((number * 1000).next_power_of_two())
            }
            100 | 200 if !is_millions => Some(number * 1000),
            2..=2048 if !is_millions && number.is_power_of_two() => Some(number * 1024),
            _ => None,
        }
    })
}

/// Whole millions up to here are a context's; no model has so few parameters.
const MOST_MILLIONS: u32 = 10;

/// Reads `7b`, `1.5b`, `270m` or `134.52m`.
fn plain(word: &str) -> Option<u64> {
    if let Some(number) = word.strip_suffix('b') {
        return scaled(number, 9);
    }
    let number = word.strip_suffix('m')?;
    let is_context = number.parse().is_ok_and(|number: u32| number <= MOST_MILLIONS);
    if is_context { None } else { scaled(number, 6) }
}

/// Reads a number with up to four digits and a fraction as a multiple of a power of ten.
fn scaled(number: &str, power: usize) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let has_fraction = !number.contains('.') || is_number(fraction) && fraction.len() <= power;
    if !is_number(whole) || whole.len() > 4 || !has_fraction {
        return None;
    }
    format!("{whole}{fraction:0<power$}").parse().ok().filter(|number| *number > 0)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
