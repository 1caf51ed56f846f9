use serde_json::{Map, Value, json};

use super::mode::{Capacity, Chat};
use super::parts::{Parts, parts};
use super::question::Question;
use super::{Ask, Item, Items, Join, Mode, OnFailure, Plan, PlanError, Step, Template, Then, Work};
use crate::model::Abilities;

/// Most parts that a model may divide a question into.
const MOST: u32 = 16;
/// The longest list of parts, in tokens.
const LIST_TOKENS: u32 = 1024;
/// The longest heading, in characters.
const HEADING: usize = 80;

/// Divides a question into independent parts, answers them side by side and puts the answers
/// together in order; with `smooth`, a last step makes one text of them.
///
/// Where a rule finds no parts, a model is asked for a list of them. If that is none, the question
/// is answered in one piece.
pub fn subtasks(chat: Chat, smooth: bool, capacity: Capacity) -> Result<Plan, PlanError> {
    chat.refuse(
        &["tools", "functions", "response_format"],
        "answers of parts are put together as text",
    )?;
    let mut steps = match parts(&chat.prompt) {
        Some(parts) => by_rule(&chat, &parts),
        None => by_list(&chat, capacity),
    };
    if smooth {
        steps.push(Step::new("answer", Work::Ask(Box::new(chat.ask(smoothing())))));
    }
    Ok(Plan::of_steps(Mode::Subtasks, chat.prompt, steps))
}

fn by_rule(chat: &Chat, parts: &Parts<'_>) -> Vec<Step> {
    let prompt = Template::around_item(parts.before, parts.after);
    let item = |text: &&str| Item { text: (*text).to_owned(), source: None };
    let items = Items::Given(parts.items.iter().map(item).collect());
    let headings = parts.items.iter().map(|item| heading(item)).collect();
    vec![each(items, chat.ask(prompt)), merged(headings)]
}

fn by_list(chat: &Chat, capacity: Capacity) -> Vec<Step> {
    let question = Question::of(&chat.prompt);
    let (task, about) = match question.text {
        Some(_) => (question.asked, ", which is about a text that everybody has"),
        None => (chat.prompt.as_str(), ""),
    };
    let typed = capacity.abilities.contains(Abilities::JSON_SCHEMA);
    let mut params = Map::new();
    let mut abilities = Abilities::NONE;
    if typed {
        params.insert("response_format".to_owned(), format());
        abilities = Abilities::JSON_SCHEMA;
    }
    let list = Ask {
        prompt: Some(Template::literal(format!(
            "Divide this task{about} into independent parts. Different people will do them at the \
             same time, without seeing each other's work, so each part is a complete instruction. \
             There are at most {MOST}; if the task cannot be divided, there is one, which is the \
             task itself. Answer with JSON only: {{\"parts\": [\"...\"]}}\n\nTask: {task}"
        ))),
        max_tokens: Some((capacity.context_tokens / 4).clamp(1, LIST_TOKENS)),
        params,
        abilities,
        ..chat.ask(Template::input())
    };
    let mut listing = Step::new("list", Work::Ask(Box::new(list)));
    // Without a list the question is answered in one piece.
    listing.on_failure = OnFailure { then: Then::Skip, ..OnFailure::default() };
    let items =
        Items::From { step: listing.name.clone(), most: MOST, otherwise: Some(task.to_owned()) };
    let (before, after) = question.around();
    let prompt = match question.text {
        Some(_) => Template::around_item(before, after),
        None => Template::item(),
    };
    vec![listing, each(items, chat.ask(prompt)), merged(Vec::new())]
}

fn each(items: Items, ask: Ask) -> Step {
    Step::new("subtask", Work::Each { items, ask: Box::new(ask) })
}

fn merged(headings: Vec<String>) -> Step {
    let of = vec!["subtask".parse().expect("it is a name")];
    let by = Join::Concat { separator: "\n\n".to_owned(), headings };
    Step::new("merged", Work::Join { of, by })
}

fn smoothing() -> Template {
    "This request was answered in parts:\n\n{{ input }}\n\nThe answers, in order:\n\n{{ merged }}\n\n\
     Make one text of them. Keep their order and all that they say, and add nothing."
        .parse()
        .expect("it is a template")
}

/// Writes a part as the heading of its answer.
fn heading(item: &str) -> String {
    let line = item.lines().next().unwrap_or_default().trim_end_matches([':', '.', ',']);
    let mut letters = line.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let heading: String = first.chain(letters).take(HEADING).collect();
    format!("## {heading}")
}

fn format() -> Value {
    json!({ "type": "json_schema", "json_schema": { "name": "parts", "strict": true, "schema": {
        "type": "object",
        "properties": { "parts": {
            "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MOST,
        } },
        "required": ["parts"],
        "additionalProperties": false,
    } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { context_tokens: 2048, abilities: Abilities::NONE };

    fn plan(prompt: &str, smooth: bool, capacity: Capacity) -> Plan {
        let plan = subtasks(Chat::new("m".parse().unwrap(), prompt), smooth, capacity).unwrap();
        plan.check().unwrap();
        plan
    }

    fn each(plan: &Plan) -> (&Items, &Ask) {
        let step = plan.steps.iter().find(|step| step.name.as_str() == "subtask").unwrap();
        let Work::Each { items, ask } = &step.work else { panic!("it asks for each part") };
        (items, ask)
    }

    #[test]
    fn parts_found_by_rule_run_side_by_side_under_their_headings() {
        let plan = plan("Extract: themes, {{ input }} and conclusions. {{ x }}", false, CAPACITY);
        assert_eq!(plan.answer.as_str(), "merged");
        let prompt = "Extract: {{ item }}. {{ \"{{\" }} x }}";
        let plan = super::tests::plan("Extract: themes, people and ends. {{ x }}", false, CAPACITY);
        let (items, ask) = each(&plan);
        let Items::Given(items) = items else { panic!("they are known") };
        assert_eq!(items.len(), 3);
        assert_eq!(ask.prompt.as_ref().unwrap().to_string(), prompt);
        let Work::Join { by: Join::Concat { headings, .. }, .. } = &plan.steps[1].work else {
            panic!("they are joined")
        };
        assert_eq!(headings[..], ["## Themes", "## People", "## Ends"]);
    }

    #[test]
    fn model_is_asked_for_parts_where_the_rule_finds_none() {
        let prompt = "Plan a wedding.";
        let plan = plan(prompt, true, CAPACITY);
        let names: Vec<_> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["list", "subtask", "merged", "answer"]);
        assert_eq!(plan.steps[0].on_failure.then, Then::Skip);
        let (items, ask) = each(&plan);
        let Items::From { otherwise, most, .. } = items else { panic!("they are asked for") };
        assert_eq!((otherwise.as_deref(), *most), (Some(prompt), 16));
        assert_eq!(ask.prompt, Some(Template::item()));
    }

    #[test]
    fn text_of_a_question_is_not_listed_but_given_to_every_part() {
        let text = "Anna had a dog. ".repeat(100);
        let plan = plan(&format!("Review this.\n\n{text}"), false, CAPACITY);
        let (items, ask) = each(&plan);
        let Items::From { otherwise, .. } = items else { panic!("they are asked for") };
        assert_eq!(otherwise.as_deref(), Some("Review this."));
        assert!(ask.prompt.as_ref().unwrap().to_string().starts_with("{{ item }}\n\nAnna"));
    }

    #[test]
    fn list_is_typed_where_every_server_can_do_that() {
        let typed = Capacity { abilities: Abilities::JSON_SCHEMA, ..CAPACITY };
        for (capacity, expected) in [(CAPACITY, false), (typed, true)] {
            let plan = plan("Plan a wedding.", false, capacity);
            let Work::Ask(list) = &plan.steps[0].work else { panic!("it asks") };
            assert_eq!(list.params.contains_key("response_format"), expected);
        }
    }

    #[test]
    fn what_cannot_be_put_together_is_refused() {
        let mut chat = Chat::new("m".parse().unwrap(), "x");
        chat.params.insert("tools".to_owned(), json!([]));
        assert_eq!(subtasks(chat, false, CAPACITY).unwrap_err().at, "tools");
    }
}
