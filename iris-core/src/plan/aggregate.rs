//! Arithmetic over outputs, which are JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Aggregate;

/// Most numbers of one vector, and most bins of one histogram.
const MOST: usize = 1 << 20;

/// Puts outputs together by arithmetic. `weights` belong to the outputs in order; missing ones
/// are 1.
///
/// Says in a sentence which output cannot be used, and what it would have to be.
pub fn aggregate(method: Aggregate, outputs: &[&str], weights: &[f64]) -> Result<String, String> {
    if outputs.is_empty() {
        return Err("there is no output to aggregate".to_owned());
    }
    if let Some(wrong) = weights.iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
        return Err(format!("a weight is a number that is not negative, and not {wrong}"));
    }
    let weight = |place: usize| weights.get(place).copied().unwrap_or(1.0);
    match method {
        Aggregate::Histogram => histogram(outputs),
        Aggregate::Mean => mean(&parts(outputs, |_| 1.0)?),
        Aggregate::WeightedMean => mean(&parts(outputs, weight)?),
        Aggregate::FederatedAverage => mean(&federated(outputs, weights)?),
    }
}

/// A number or a vector, with its weight.
struct Part {
    numbers: Vec<f64>,
    scalar: bool,
    weight: f64,
}

fn parts(outputs: &[&str], weight: impl Fn(usize) -> f64) -> Result<Vec<Part>, String> {
    let read = |(place, output): (usize, &&str)| {
        let value = json(place, output)?;
        Ok(Part { weight: weight(place), ..part(place, &value)? })
    };
    outputs.iter().enumerate().map(read).collect()
}

/// Reads vectors with how many samples each of them comes from.
fn federated(outputs: &[&str], weights: &[f64]) -> Result<Vec<Part>, String> {
    let read = |(place, output): (usize, &&str)| {
        let value = json(place, output)?;
        let (vector, count) = match &value {
            Value::Object(members) => {
                let vector = members.get("vector").ok_or_else(|| lacks(place, "vector"))?;
                (vector, members.get("count").and_then(Value::as_f64))
            }
            other => (other, None),
        };
        let weight = weights.get(place).copied().or(count).ok_or_else(|| lacks(place, "count"))?;
        if !weight.is_finite() || weight < 0.0 {
            return Err(format!("the count of output {} is negative", place + 1));
        }
        Ok(Part { weight, ..part(place, vector)? })
    };
    outputs.iter().enumerate().map(read).collect()
}

fn lacks(place: usize, what: &str) -> String {
    let place = place + 1;
    format!("output {place} has no `{what}`; it has to be {{\"vector\": [..], \"count\": n}}")
}

fn json(place: usize, output: &str) -> Result<Value, String> {
    let inside = super::vote::unfenced(output);
    serde_json::from_str(inside).map_err(|_| format!("output {} is not JSON", place + 1))
}

fn part(place: usize, value: &Value) -> Result<Part, String> {
    let wrong = || format!("output {} is neither a number nor an array of numbers", place + 1);
    let (numbers, scalar) = match value {
        Value::Number(number) => (vec![number.as_f64().ok_or_else(wrong)?], true),
        Value::Array(values) if values.len() <= MOST => {
            let numbers = values.iter().map(|value| value.as_f64().ok_or_else(wrong));
            (numbers.collect::<Result<Vec<_>, _>>()?, false)
        }
        _ => return Err(wrong()),
    };
    Ok(Part { numbers, scalar, weight: 1.0 })
}

fn mean(parts: &[Part]) -> Result<String, String> {
    let (length, scalar) = (parts[0].numbers.len(), parts[0].scalar);
    for (place, part) in parts.iter().enumerate() {
        if part.numbers.len() != length || part.scalar != scalar {
            let (place, other) = (place + 1, part.numbers.len());
            return Err(format!(
                "output {place} has {other} numbers and the first has {length}; all need the same \
                 shape"
            ));
        }
    }
    let all: f64 = parts.iter().map(|part| part.weight).sum();
    if all <= 0.0 || !all.is_finite() {
        return Err("the weights have to sum to more than 0".to_owned());
    }
    let at = |place: usize| {
        parts.iter().map(|part| part.numbers[place] * (part.weight / all)).sum::<f64>()
    };
    let numbers: Vec<f64> = (0..length).map(at).collect();
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err("the numbers are too large to be added".to_owned());
    }
    Ok(if scalar { Value::from(numbers[0]) } else { Value::from(numbers) }.to_string())
}

fn histogram(outputs: &[&str]) -> Result<String, String> {
    let mut bins: BTreeMap<String, f64> = BTreeMap::new();
    for (place, output) in outputs.iter().enumerate() {
        let wrong = || format!("output {} is not an object of bins with counts", place + 1);
        let Value::Object(members) = json(place, output)? else { return Err(wrong()) };
        for (bin, count) in members {
            let count = count.as_f64().filter(|count| *count >= 0.0).ok_or_else(wrong)?;
            *bins.entry(bin).or_default() += count;
        }
        if bins.len() > MOST {
            return Err("there are too many bins".to_owned());
        }
    }
    if bins.values().any(|count| !count.is_finite()) {
        return Err("the counts are too large to be added".to_owned());
    }
    let bins = bins.into_iter().map(|(bin, count)| (bin, number(count)));
    Ok(Value::Object(bins.collect()).to_string())
}

/// Writes whole numbers as such.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is whole, and small"
)]
fn number(count: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if count.fract() == 0.0 && count < EXACT { (count as u64).into() } else { count.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(method: Aggregate, outputs: &[&str], weights: &[f64]) -> Value {
        serde_json::from_str(&aggregate(method, outputs, weights).unwrap()).unwrap()
    }

    #[test]
    fn means_are_those_of_numbers_and_of_vectors() {
        assert_eq!(ok(Aggregate::Mean, &["1", "2", "6"], &[]), 3.0);
        assert_eq!(ok(Aggregate::WeightedMean, &["1", "5"], &[3.0, 1.0]), 2.0);
        let vectors = ["[1, 2]", "```json\n[3, 6]\n```"];
        assert_eq!(ok(Aggregate::Mean, &vectors, &[]), serde_json::json!([2.0, 4.0]));
    }

    #[test]
    fn federated_average_weighs_by_samples() {
        let sites = [r#"{"vector":[0,10],"count":30}"#, r#"{"vector":[4,2],"count":10}"#];
        assert_eq!(ok(Aggregate::FederatedAverage, &sites, &[]), serde_json::json!([1.0, 8.0]));
        assert_eq!(
            ok(Aggregate::FederatedAverage, &["[0]", "[4]"], &[1.0, 1.0]),
            serde_json::json!([2.0])
        );
        let error = aggregate(Aggregate::FederatedAverage, &["[0]", "[4]"], &[]).unwrap_err();
        assert!(error.contains("`count`"), "{error}");
    }

    #[test]
    fn histograms_are_added_bin_by_bin() {
        let sites = [r#"{"0-9":2,"10-19":1}"#, r#"{"10-19":4,"20-29":1}"#];
        let expected = serde_json::json!({"0-9":2,"10-19":5,"20-29":1});
        assert_eq!(ok(Aggregate::Histogram, &sites, &[]), expected);
    }

    #[test]
    fn what_cannot_be_added_is_said_by_number() {
        let refused = [
            (vec!["[1]", "[1,2]"], "output 2 has 2 numbers and the first has 1"),
            (vec!["1", "[1]"], "same shape"),
            (vec!["1", "one"], "output 2 is not JSON"),
            (vec!["1", "\"1\""], "output 2 is neither"),
            (vec!["1e308", "1e999"], "output 2 is not JSON"),
        ];
        for (outputs, expected) in refused {
            let error = aggregate(Aggregate::Mean, &outputs, &[]).unwrap_err();
            assert!(error.contains(expected), "{outputs:?}: {error}");
        }
        assert!(aggregate(Aggregate::Mean, &[], &[]).is_err());
        assert!(aggregate(Aggregate::WeightedMean, &["1"], &[-1.0]).is_err());
        assert!(aggregate(Aggregate::WeightedMean, &["1"], &[0.0]).is_err());
        assert!(aggregate(Aggregate::Histogram, &[r#"{"a":-1}"#], &[]).is_err());
    }
}
