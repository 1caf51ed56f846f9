//! Which answers are the same.

use serde_json::Value;
use strsim::sorensen_dice;

use super::Agreement;

/// How alike texts are that [`Agreement::Auto`] takes for the same.
const ALIKE: f64 = 0.9;
/// How many bytes of texts are compared; what follows is not looked at.
const COMPARED: usize = 4 << 10;

/// One answer that counts.
#[derive(Clone, Copy)]
pub struct Ballot<'a> {
    /// The answer.
    pub text: &'a str,
    /// What it weighs.
    pub weight: u64,
}

/// Answers that are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their places among the ballots, in order.
    pub members: Vec<usize>,
    /// What they weigh together.
    pub weight: u64,
    /// The place of the one that stands for all: the first, or of texts the one that is most like
    /// the others.
    pub representative: usize,
}

/// The answers in groups of the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The groups, the heaviest first, among equals the one that came first.
    pub groups: Vec<Group>,
    /// Whether texts were compared as such, since no normal form applies to all of them.
    pub free_text: bool,
    /// Places of the answers that are not of the form that was asked for.
    pub spoilt: Vec<usize>,
}

/// Puts the same answers together.
pub fn tally(agreement: &Agreement, ballots: &[Ballot<'_>]) -> Tally {
    let texts: Vec<_> = ballots.iter().map(|ballot| ballot.text).collect();
    match agreement {
        Agreement::Auto => automatic(&texts, ballots),
        Agreement::Number { tolerance } => numbers(&texts, *tolerance, ballots),
        Agreement::Json => {
            by_form(&texts, ballots, |text| serde_json::from_str(unfenced(text)).ok(), same_json)
        }
        Agreement::Choice { options } => {
            by_form(&texts, ballots, |text| choice(text, options), |a, b| a == b)
        }
        Agreement::Text { similarity } => by_likeness(&texts, *similarity, ballots),
    }
}

fn automatic(texts: &[&str], ballots: &[Ballot<'_>]) -> Tally {
    let is_number = |text: &&str| only_number(text).is_some();
    if texts.iter().all(is_number) {
        return numbers(texts, 0.0, ballots);
    }
    let structured = |text: &&str| {
        let value = serde_json::from_str::<Value>(unfenced(text));
        value.is_ok_and(|value| !value.is_string())
    };
    if texts.iter().all(structured) {
        return tally(&Agreement::Json, ballots);
    }
    by_likeness(texts, ALIKE, ballots)
}

fn numbers(texts: &[&str], tolerance: f64, ballots: &[Ballot<'_>]) -> Tally {
    let near = |a: &f64, b: &f64| (a - b).abs() <= tolerance * a.abs().max(b.abs());
    by_form(texts, ballots, |text| only_number(text).or_else(|| last_number(text)), near)
}

/// Groups answers by their normal forms.
fn by_form<T>(
    texts: &[&str],
    ballots: &[Ballot<'_>],
    form: impl Fn(&str) -> Option<T>,
    same: impl Fn(&T, &T) -> bool,
) -> Tally {
    let forms: Vec<_> = texts.iter().map(|text| form(text)).collect();
    let spoilt = (0..forms.len()).filter(|place| forms[*place].is_none()).collect();
    let mut groups: Vec<Group> = Vec::new();
    for (place, form) in forms.iter().enumerate() {
        let Some(form) = form else { continue };
        let alike = |group: &&mut Group| {
            forms[group.representative].as_ref().is_some_and(|other| same(other, form))
        };
        if let Some(new) = join(groups.iter_mut().find(alike), place, ballots[place].weight) {
            groups.push(new);
        }
    }
    Tally { groups: heaviest_first(groups), free_text: false, spoilt }
}

fn by_likeness(texts: &[&str], similarity: f64, ballots: &[Ballot<'_>]) -> Tally {
    let forms: Vec<_> = texts.iter().map(|text| plain(text)).collect();
    let like = |a: usize, b: usize| sorensen_dice(&forms[a], &forms[b]);
    let mut groups: Vec<Group> = Vec::new();
    for (place, ballot) in ballots.iter().enumerate() {
        let near = |group: &&mut Group| like(group.representative, place) >= similarity;
        if let Some(new) = join(groups.iter_mut().find(near), place, ballot.weight) {
            groups.push(new);
        }
    }
    for group in &mut groups {
        let total =
            |place: &usize| group.members.iter().map(|other| like(*place, *other)).sum::<f64>();
        let best = group.members.iter().rev().max_by(|a, b| total(a).total_cmp(&total(b)));
        group.representative = *best.expect("a group has members");
    }
    Tally { groups: heaviest_first(groups), free_text: true, spoilt: Vec::new() }
}

/// Adds an answer to its group, or returns a new one.
fn join(group: Option<&mut Group>, place: usize, weight: u64) -> Option<Group> {
    let Some(group) = group else {
        return Some(Group { members: vec![place], weight, representative: place });
    };
    group.members.push(place);
    group.weight = group.weight.saturating_add(weight);
    None
}

fn heaviest_first(mut groups: Vec<Group>) -> Vec<Group> {
    groups.sort_by_key(|group| std::cmp::Reverse(group.weight));
    groups
}

/// Returns the one of `options` that an answer names as a word; `None` if it names none, or two.
fn choice(text: &str, options: &[String]) -> Option<usize> {
    let words = format!(" {} ", plain(text));
    let named = |option: &String| words.contains(&format!(" {} ", plain(option)));
    let mut found = (0..options.len()).filter(|place| named(&options[*place]));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Returns a text in lower case with nothing but its words, a space between two.
fn plain(text: &str) -> String {
    let cut = text.floor_char_boundary(COMPARED);
    let letters = text[..cut].to_lowercase();
    let words = letters.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Returns what is inside a code fence, or the text.
pub(super) fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inside.map_or(text, |inside| inside.strip_prefix("json").unwrap_or(inside)).trim()
}

/// Returns whether two JSON values are the same but for the form of their numbers.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, a): (&String, &Value)| b.get(name).is_some_and(|b| same_json(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        _ => a == b,
    }
}

/// Returns the number that a text is.
fn only_number(text: &str) -> Option<f64> {
    let text = text.trim().trim_end_matches('.');
    number(text)
}

/// Returns the last number in a text; `None` where the last thing with a digit is no number, such
/// as a date.
pub(super) fn last_number(text: &str) -> Option<f64> {
    let part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+' | 'e' | 'E');
    let mut words = text.split(|c: char| !part(c)).rev();
    let word = words.find(|word| word.contains(|c: char| c.is_ascii_digit()))?;
    let word = word.trim_start_matches(['e', 'E', ',', '.']);
    number(word.trim_end_matches(['.', ',', '-', '+', 'e', 'E']))
}

/// Reads a number as people write it: with commas between thousands, or one before a fraction.
fn number(word: &str) -> Option<f64> {
    if !word.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let whole = word.split(['.', 'e', 'E']).next().unwrap_or_default();
    let mut groups = whole.split(',').skip(1);
    let plain = match word.matches(',').count() {
        0 => word.to_owned(),
        commas if commas == whole.matches(',').count() && groups.all(|group| group.len() == 3) => {
            word.replace(',', "")
        }
        1 if !word.contains('.') => word.replace(',', "."),
        _ => return None,
    };
    plain.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(agreement: &Agreement, texts: &[&str]) -> Vec<Vec<usize>> {
        let ballots: Vec<_> = texts.iter().map(|text| Ballot { text, weight: 1 }).collect();
        tally(agreement, &ballots).groups.into_iter().map(|group| group.members).collect()
    }

    #[test]
    fn numbers_agree_however_they_are_written() {
        let number = Agreement::Number { tolerance: 0.0 };
        let texts = ["It is 1,200.", "1200", "1.2e3", "the result: 12", "no idea"];
        assert_eq!(groups(&number, &texts), [vec![0, 1, 2], vec![3]]);
        let near = Agreement::Number { tolerance: 0.01 };
        assert_eq!(groups(&near, &["100", "100.5", "103"]), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn last_number_of_a_text_is_its_result() {
        for (text, expected) in [
            ("3 + 4 = 7", Some(7.0)),
            ("-5 degrees", Some(-5.0)),
            ("about 3.50, I think", Some(3.5)),
            ("1,000,000", Some(1e6)),
            ("see e.g. 12.", Some(12.0)),
            ("en 2020 era 1,5", Some(1.5)),
            ("42 as of 2024-11-26", None),
            ("1,23,4", None),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(last_number(text), expected, "{text}");
        }
    }

    #[test]
    fn json_agrees_whatever_the_order_and_form() {
        let texts =
            [r#"{"a":1,"b":[2]}"#, "```json\n{\"b\":[2.0],\"a\":1}\n```", r#"{"a":1}"#, "x"];
        assert_eq!(groups(&Agreement::Json, &texts), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn choice_is_the_one_option_that_is_named() {
        let options = vec!["yes".to_owned(), "no".to_owned()];
        let texts = ["Yes.", "YES, it is", "No", "yes and no", "nothing"];
        assert_eq!(groups(&Agreement::Choice { options }, &texts), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn automatic_form_is_the_one_that_all_have() {
        assert_eq!(groups(&Agreement::Auto, &["4", "4.0", "5"]), [vec![0, 1], vec![2]]);
        let texts = ["The capital is Paris.", "the capital is paris", "It is Lyon, surely."];
        let ballots: Vec<_> = texts.iter().map(|text| Ballot { text, weight: 1 }).collect();
        let tally = tally(&Agreement::Auto, &ballots);
        assert!(tally.free_text);
        assert_eq!(tally.groups[0].members, [0, 1]);
    }

    #[test]
    fn heavier_groups_come_first_and_spoilt_answers_are_named() {
        let weights = [("1", 10), ("2", 30), ("1", 15), ("what", 99)];
        let ballots = weights.map(|(text, weight)| Ballot { text, weight });
        let tally = tally(&Agreement::Number { tolerance: 0.0 }, &ballots);
        let weights: Vec<_> = tally.groups.iter().map(|group| group.weight).collect();
        assert_eq!((weights, tally.spoilt), (vec![30, 25], vec![3]));
    }
}
