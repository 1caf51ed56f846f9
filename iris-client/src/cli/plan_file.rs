//! Plans in files: TOML, YAML or JSON.

use std::path::Path;

use config::{Config, File, FileFormat};
use iris_core::ModelName;
use iris_core::plan::{Budget, Plan, PlanError, Step, Work};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::dividing::Limits;
use super::failure::Failure;
use super::read_file;

/// A plan's file, with what its errors are told by.
pub(super) struct PlanFile {
    name: String,
    text: String,
    format: Format,
    value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Toml,
    Yaml,
    Json,
}

impl PlanFile {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let refuse = |what: String| Failure::usage(format!("{name}: {what}"));
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Format::Toml,
            Some("yaml" | "yml") => Format::Yaml,
            Some("json") => Format::Json,
            _ => return Err(refuse("a plan's file ends in .toml, .yaml or .json".to_owned())),
        };
        let text = read_file(path)?;
        let value = parse(&text, format).map_err(refuse)?;
        Ok(Self { name, text, format, value })
    }

    /// Sets a member of the plan, as it is on the wire.
    pub(super) fn set(&mut self, name: &str, value: Value) {
        if let Some(members) = self.value.as_object_mut() {
            members.insert(name.to_owned(), value);
        }
    }

    /// Sets what the whole plan may use, where that is limited.
    pub(super) fn limit(&mut self, limits: &Limits) {
        let mut given = Budget::default();
        limits.apply(&mut given);
        let Ok(Value::Object(given)) = serde_json::to_value(given) else { return };
        if given.is_empty() {
            return;
        }
        match self.value.get_mut("budget") {
            Some(Value::Object(budget)) => budget.extend(given),
            None | Some(Value::Null) => self.set("budget", given.into()),
            // It is refused when the plan is made.
            Some(_) => {}
        }
    }

    /// Returns the plan as it is on the wire.
    pub(super) const fn members(&self) -> &Value {
        &self.value
    }

    /// Returns whether a model is named neither for the plan nor for one of its steps that asks.
    pub(super) fn lacks_model(&self) -> bool {
        let asks = |step: &Value| step.get("prompt").is_some() && step.get("model").is_none();
        let steps = self.value.get("steps").and_then(Value::as_array);
        self.value.get("model").is_none() && steps.is_some_and(|steps| steps.iter().any(asks))
    }

    /// Makes a plan of it, whose steps ask `model` where they name none.
    pub(super) fn plan(&self, model: Option<&ModelName>) -> Result<Plan, Failure> {
        let plan = Plan::read(&self.value, model);
        let plan = plan.and_then(|plan| plan.check().map(|()| plan));
        plan.map_err(|error| self.refuse(&error))
    }

    /// Refuses a plan that is about an input, and has none.
    pub(super) fn needs_input(&self, plan: &Plan) -> Result<(), Failure> {
        let uses_input = |step: &Step| match &step.work {
            Work::Ask(ask) | Work::Each { ask, .. } | Work::Fold { ask, .. } => {
                ask.names().any(|name| name == "input")
            }
            Work::Join { .. } | Work::Review { .. } => false,
        };
        if plan.input.is_empty() && plan.steps.iter().any(uses_input) {
            let help = "the plan has an {{ input }}: give it after the file, or `-` to read it";
            return Err(Failure::usage(format!("{}: {help}", self.name)));
        }
        Ok(())
    }

    /// Says what is wrong with which member, and in which line where that is known.
    pub(super) fn refuse(&self, PlanError { at, what }: &PlanError) -> Failure {
        let line = match self.format {
            Format::Toml => line_of(&self.text, at),
            Format::Yaml | Format::Json => None,
        };
        let line = line.map(|line| format!(" line {line}:")).unwrap_or_default();
        Failure::usage(format!("{}:{line} {at}: {what}", self.name))
    }
}

fn parse(text: &str, format: Format) -> Result<Value, String> {
    match format {
        Format::Toml => toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line_at(text, span.start));
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{line}{}", error.message())
        }),
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string()),
        Format::Yaml => Config::builder()
            .add_source(File::from_str(text, FileFormat::Yaml))
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| error.to_string()),
    }
}

/// Returns the line of a member such as `steps[2].prompt`, or of the part of that path that is
/// there.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let segments = path.split(['.', '[']).map(|segment| segment.trim_end_matches(']'));
    let mut found: Option<&Spanned<DeValue<'_>>> = None;
    let mut line = None;
    for segment in segments {
        let next = match found.map(Spanned::get_ref) {
            None => member(table.get_ref(), segment),
            Some(DeValue::Table(table)) => member(table, segment),
            Some(DeValue::Array(array)) => segment
                .parse::<usize>()
                .ok()
                .and_then(|place| array.get(place))
                .map(|v| (v, v.span())),
            Some(_) => None,
        };
        let Some((value, span)) = next else { break };
        found = Some(value);
        line = Some(line_at(text, span.start));
    }
    line
}

/// Returns a member of a table, and where its key is.
fn member<'a, 'i>(
    table: &'a DeTable<'i>,
    name: &str,
) -> Option<(&'a Spanned<DeValue<'i>>, std::ops::Range<usize>)> {
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    Some((value, key.span()))
}

fn line_at(text: &str, place: usize) -> usize {
    let before = text.get(..place).unwrap_or(text);
    before.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "model = \"m\"\n\n[[steps]]\nname = \"a\"\nprompt = \"x\"\n\n[[steps]]\n\
                        name = \"b\"\nagree = { by = \"number\", tolerance = -1 }\n";

    #[test]
    fn members_are_found_in_their_lines() {
        for (path, line) in [
            ("model", 1),
            ("steps[0].prompt", 5),
            ("steps[1].name", 8),
            ("steps[1].agree.tolerance", 9),
            ("steps[1].missing", 7),
        ] {
            assert_eq!(line_of(PLAN, path), Some(line), "{path}");
        }
        assert_eq!(line_of(PLAN, "answer"), None);
    }

    #[test]
    fn all_formats_say_the_same_and_keep_the_case_of_names() {
        let toml = "[[steps]]\nname = 'A'\nparams = { topK = 3, t = 0.5 }";
        let yaml = "steps:\n  - name: A\n    params:\n      topK: 3\n      t: 0.5\n";
        let json = r#"{"steps":[{"name":"A","params":{"topK":3,"t":0.5}}]}"#;
        let read = parse(json, Format::Json).unwrap();
        assert_eq!(parse(toml, Format::Toml).unwrap(), read);
        assert_eq!(parse(yaml, Format::Yaml).unwrap(), read);
    }

    #[test]
    fn what_is_no_toml_is_told_by_its_line() {
        let error = parse("model = 'm'\nsteps = oops", Format::Toml).unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
    }
}
