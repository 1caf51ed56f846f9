use super::mode::{Chat, Compare, Division};
use super::{Agreement, Ask, Join, Mode, Plan, PlanError, Step, StepName, Template, Work};

/// Asks several models the same, side by side, and makes one answer of theirs.
pub fn comparative(chat: &Chat, division: &Division) -> Result<Plan, PlanError> {
    let models = &division.models;
    if !(2..=16).contains(&models.len()) {
        let what = "2 to 16 models can be compared".to_owned();
        return Err(PlanError { at: "models".to_owned(), what });
    }
    let mut steps: Vec<Step> = Vec::new();
    for (place, model) in models.iter().enumerate() {
        let ask = Ask { model: model.clone(), ..chat.ask(Template::input()) };
        steps.push(Step::new(&format!("model-{}", place + 1), Work::Ask(Box::new(ask))));
    }
    let of: Vec<StepName> = steps.iter().map(|step| step.name.clone()).collect();
    let agreement = division.agree.clone().unwrap_or(Agreement::Auto);
    let work = match division.method.unwrap_or_default() {
        Compare::Majority => Work::Join { of, by: Join::Vote { agreement, weights: Vec::new() } },
        Compare::Weighted => {
            let weights = division.weights.clone();
            Work::Join { of, by: Join::Vote { agreement, weights } }
        }
        Compare::All => Work::Join { of, by: Join::All },
        Compare::Expert => Work::Review { of },
        Compare::Judge => {
            let model = division.judge.clone().unwrap_or_else(|| models[0].clone());
            Work::Ask(Box::new(Ask { model, ..chat.ask(judged(&of)) }))
        }
    };
    steps.push(Step::new("answer", work));
    Ok(Plan::of_steps(Mode::Comparative, chat.prompt.clone(), steps))
}

/// Returns the prompt of the judge, who is not told which model wrote what.
fn judged(of: &[StepName]) -> Template {
    let answers =
        of.iter().enumerate().map(|(place, name)| format!("[{}] {{{{ {name} }}}}", place + 1));
    let answers = answers.collect::<Vec<_>>().join("\n\n");
    format!(
        "Here are a question and several answers to it.\n\nQuestion: {{{{ input }}}}\n\n{answers}\n\n\
         Which answer is the best one? Repeat it, and mend what is wrong in it."
    )
    .parse()
    .expect("it is a template")
}
