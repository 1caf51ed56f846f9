//! The examples that need nothing but themselves run as printed.

use std::process::Command;

fn run(program: &str) -> String {
    let output = Command::new(program).output().expect("the example was built");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).expect("examples print text")
}

#[test]
fn network_without_sockets_answers() {
    assert_eq!(run(env!("CARGO_BIN_EXE_in_process")), "Who \nis \nit?\n");
}

#[test]
fn own_backend_answers() {
    let printed = run(env!("CARGO_BIN_EXE_custom_backend"));
    assert_eq!(printed, "The backend keeps its contract.\nHello, Iris!\n");
}

#[test]
fn own_scheduler_gives_all_work_to_one_node() {
    let printed = run(env!("CARGO_BIN_EXE_custom_scheduler"));
    assert_eq!(printed.lines().last(), Some("Answers by node: [0, 0, 3]"));
}

#[test]
fn own_store_keeps_the_books() {
    let printed = run(env!("CARGO_BIN_EXE_custom_store"));
    let expected =
        "The store keeps its contract.\nWill you remember me?\nSettlements in the log: 1\n";
    assert_eq!(printed, expected);
}

#[test]
fn subtasks_are_put_together_in_order() {
    let printed = run(env!("CARGO_BIN_EXE_subtasks"));
    let at = |part: &str| printed.find(part).unwrap_or_else(|| panic!("{part}: {printed}"));
    let parts = [
        at("Themes: friendship."),
        at("Characters: Anna, dog."),
        at("Conclusion: A good friend is worth more than gold."),
    ];
    assert!(parts.is_sorted(), "{printed}");
}

#[test]
fn consensus_names_who_dissents() {
    let printed = run(env!("CARGO_BIN_EXE_consensus"));
    assert!(printed.contains("against: liar\n"), "{printed}");
    assert_eq!(printed.lines().last(), Some("17 + 5 = 22"));
}

#[test]
fn long_document_is_read_to_its_end() {
    let printed = run(env!("CARGO_BIN_EXE_long_document"));
    for day in [1234, 7777, 14_000] {
        let line = format!("Day {day}: a storm from the west.");
        assert_eq!(printed.matches(&line).count(), 1, "{printed}");
    }
}

#[test]
fn hospitals_work_together_without_sharing_patients() {
    let printed = run(env!("CARGO_BIN_EXE_hospitals_collaborative"));
    assert_eq!(
        printed.lines().last(),
        Some("all six patients: [0.6666666666666667,0.2,0.5]"),
        "{printed}"
    );
}

#[test]
fn doctor_decides_over_opinions_and_their_vote() {
    let printed = run(env!("CARGO_BIN_EXE_hospitals_comparative"));
    assert!(printed.contains("general  Bronchitis, since the fever is low."), "{printed}");
    assert!(printed.lines().last().is_some_and(|last| last.contains("Pneumonia")), "{printed}");
}

#[test]
fn refused_treatment_is_taken_back() {
    let printed = run(env!("CARGO_BIN_EXE_hospitals_chained"));
    assert!(printed.contains("Result: approved: penicillin, for"), "{printed}");
    assert!(printed.contains("Result: approved: tea and rest, for"), "{printed}");
    assert!(printed.contains("treatment  Undone"), "{printed}");
}
