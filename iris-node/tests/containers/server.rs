//! The program in the image that the tests make: a server that tells what it may do there.
//! Compiled by itself, without libraries of the system.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[0].ends_with("nvidia-smi") {
        return look_for_cards();
    }
    println!("called with {}", arguments[1..].join(" "));
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map(|at| arguments[at + 1].clone())
    };
    let Some(socket) = after("--host") else {
        eprintln!("no such model");
        std::process::exit(7);
    };
    let model = after("--model").unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    for stream in listener.incoming() {
        answer(stream.unwrap(), &model);
    }
}

/// What the real one prints where there is a card, which here is a file beside the model.
fn look_for_cards() {
    if fs::exists("/models/card").unwrap() {
        println!("GPU 0: Imaginary (UUID: GPU-1)");
    } else {
        println!("No devices were found");
        std::process::exit(6);
    }
}

fn answer(mut stream: UnixStream, model: &str) {
    let mut head = [0; 1024];
    let read = stream.read(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let body = match head.split(' ').nth(1) {
        Some("/eat") => {
            let mut eaten = Vec::new();
            loop {
                // Where nothing holds it, the machine is not to go down with the test.
                assert!(eaten.len() < 512, "there is no limit");
                eaten.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&eaten);
            }
        }
        Some("/facts") => facts(model),
        _ => String::new(),
    };
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
}

fn facts(model: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let status = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    let interfaces = fs::read_to_string("/proc/net/dev").unwrap();
    let interfaces: Vec<_> = interfaces
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    let facts = [
        ("user", status("Uid:")),
        ("capabilities", status("CapEff:")),
        ("gains", (status("NoNewPrivs:") == "0").to_string()),
        ("writes root", fs::write("/new", "x").is_ok().to_string()),
        ("writes /tmp", fs::write("/tmp/new", "x").is_ok().to_string()),
        ("writes models", fs::write("/models/new", "x").is_ok().to_string()),
        ("model", fs::read_to_string(model).unwrap_or_default()),
        ("interfaces", interfaces.join(" ")),
        ("gets out", TcpStream::connect("192.0.2.1:80").is_ok().to_string()),
    ];
    facts.iter().map(|(name, fact)| format!("{name}: {fact}\n")).collect()
}
