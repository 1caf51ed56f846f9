use super::mode::{Chat, Division};
use super::{Agreement, Ask, Mode, Plan, PlanError, Replicas, Step, Template, Work};

/// How many replicas there are where nothing else is asked for: the fewest that can outvote one.
const REPLICAS: u32 = 3;

/// Asks the same of nodes of different owners. Answers that have a form of their own (numbers,
/// JSON, one of several options) are put to the vote; texts that differ are merged by one more
/// step, since no vote makes a text right.
pub fn consensus(chat: Chat, division: &Division) -> Result<Plan, PlanError> {
    chat.refuse(&["tools", "functions"], "calls of tools are never put to the vote")?;
    let count = division.replicas.unwrap_or(REPLICAS);
    let wants_json = chat
        .params
        .get("response_format")
        .is_some_and(|format| format["type"].as_str().is_some_and(|kind| kind.starts_with("json")));
    let usual = if wants_json { Agreement::Json } else { Agreement::Auto };
    let synthesis: Template =
        "Several people have answered this question:\n\n{{ input }}\n\nTheir \
         answers:\n\n{{ item }}\n\nWrite one answer. Keep what they agree on; where they differ, \
         take what is best founded and say that they differ."
            .parse()
            .expect("it is a template");
    let synthesis = chat.ask(synthesis);
    let (ask, input) = chat.into_ask();
    let replicas = Replicas {
        count,
        quorum: division.quorum.unwrap_or(count / 2 + 1),
        agreement: division.agree.clone().unwrap_or(usual),
        weighted: division.weighted.unwrap_or(true),
        synthesis: Some(Box::new(synthesis)),
    };
    let ask = Ask { replicas: Some(replicas), ..ask };
    Ok(Plan::of_steps(Mode::Consensus, input, vec![Step::new("answer", Work::Ask(Box::new(ask)))]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replicas(params: &[(&str, serde_json::Value)]) -> Result<Replicas, PlanError> {
        let mut chat = Chat::new("m".parse().unwrap(), "What is 3 + 4?");
        chat.params.extend(params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let plan = consensus(chat, &Division::default())?;
        plan.check()?;
        let Work::Ask(ask) = &plan.steps[0].work else { panic!("it is asked") };
        Ok(ask.replicas.clone().unwrap())
    }

    #[test]
    fn three_are_asked_and_two_have_to_answer() {
        let replicas = replicas(&[]).unwrap();
        assert_eq!((replicas.count, replicas.quorum), (3, 2));
        assert_eq!(replicas.agreement, Agreement::Auto);
        assert!(replicas.weighted && replicas.synthesis.is_some());
    }

    #[test]
    fn answers_in_json_agree_as_json() {
        let format = ("response_format", json!({ "type": "json_schema" }));
        assert_eq!(replicas(&[format]).unwrap().agreement, Agreement::Json);
        let plain = ("response_format", json!({ "type": "text" }));
        assert_eq!(replicas(&[plain]).unwrap().agreement, Agreement::Auto);
    }

    #[test]
    fn tools_are_refused() {
        assert_eq!(replicas(&[("tools", json!([]))]).unwrap_err().at, "tools");
    }
}
