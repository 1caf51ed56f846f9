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
