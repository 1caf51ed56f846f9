//! Plans that anybody may have written.

use proptest::prelude::*;
use serde_json::{Value, json};

mod properties;

/// Steps that are nearly right, so that some pass.
fn steps() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c", "input", ""]);
    let prompt = prop::sample::select(vec![
        "x",
        "{{ input }}",
        "{{ a }}",
        "{{ b.0.two }}",
        "{{ item }} {{ part }}/{{ parts }} {{ lines }}",
        "{{",
    ]);
    let more = prop::sample::select(vec![
        json!({}),
        json!({ "replicas": 3 }),
        json!({ "replicas": 2, "weighted": false, "agree": { "by": "json" }, "synthesis": "{{ item }}" }),
        json!({ "each": ["1", "2", "3"] }),
        json!({ "each": { "step": "a", "most": 3, "otherwise": "all" } }),
        json!({ "fold": "a", "fold_tokens": 1, "fold_levels": 2 }),
        json!({ "retries": 2, "fallback": ["n"], "on_failure": "skip" }),
        json!({ "undo": "undo {{ a }}" }),
        json!({ "when": { "step": "a", "above": 1, "not": true } }),
        json!({ "budget": { "tokens": 60, "seconds": 1, "assignments": 2 } }),
        json!({ "dataset": { "name": "ward", "key": "k" }, "nodes": [], "params": { "seed": 1 } }),
        json!({ "prompt": null, "join": { "of": ["a", "b"], "how": "vote", "agreement": { "by": "auto" } } }),
        json!({ "prompt": null, "join": { "of": ["a"], "how": "aggregate", "method": "mean" } }),
        json!({ "prompt": null, "join": { "of": ["a"], "how": "concat", "headings": ["h"] } }),
        json!({ "prompt": null, "review": ["a"] }),
        json!({ "promt": 1 }),
    ]);
    prop::collection::vec((name, prompt, more), 1..6).prop_map(|steps| {
        let step = |(name, prompt, more): (&str, &str, Value)| {
            let mut step = json!({ "name": name, "prompt": prompt });
            for (member, value) in more.as_object().expect("they are objects") {
                step[member] = value.clone();
            }
            step
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_plan_is_refused_or_ends_once(
        luck in any::<[u8; 8]>(), steps in steps(), most in 0_u32..4,
    ) {
        let plan = json!({ "steps": steps, "side_by_side": most, "budget": { "assignments": 40 } });
        properties::plan(&[&luck, plan.to_string().as_bytes()].concat());
    }

    #[test]
    fn any_question_is_divided_or_refused(
        division in prop::sample::select(vec![
            "{}",
            r#"{"mode":"auto"}"#,
            r#"{"mode":"subtasks","smooth":true}"#,
            r#"{"mode":"consensus","replicas":5,"agree":{"by":"number"}}"#,
            r#"{"mode":"context"}"#,
            r#"{"mode":"comparative","models":["a","b"],"method":"judge"}"#,
            r#"{"mode":"collaborative","datasets":[{"name":"d"}],"aggregate":"mean"}"#,
        ]),
        prompt in "\\PC{0,2000}|([a-z]{1,9}[ ,:;.?\n]){0,300}",
    ) {
        properties::division([division, "\n", &prompt].concat().as_bytes());
    }
}
