//! The rules of the house that a compiler does not hold: pure rooms stay pure, only commands print, nothing unwraps,
//! what is shipped as configuration is valid, and the tree of dependencies stays short.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PURE: [&str; 10] = [
    "decide",
    "config",
    "report.rs",
    "engine/http.rs",
    "act/spec.rs",
    "cli.rs",
    "cli",
    "metrics/points.rs",
    "metrics/queue.rs",
    "units.rs",
];

/// What a pure room must not name.
const IMPURE: [&str; 14] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::std",
    "rustix::",
    "log::",
    "SystemTime",
    "Instant::now",
    "crate::clock",
    "clock::now",
    "Timestamp::now",
    "Zoned::now",
];

/// Capacity and word, each with what it is for.
const ALLOWED: [(&str, &str, &str); 1] = [(
    "report.rs",
    "std::process::id",
    "the daemon's own pid, which is no reading of anything",
)];

/// A room's own tests: `tests.rs`, and what is in a folder beside it.
fn is_tests(path: &Path) -> bool {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.ends_with("tests.rs") || inside.iter().any(|part| part == "tests")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap_or_else(|error| panic!("{}: {error}", below.display()))
    {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path, ending)),
            false if path.to_string_lossy().ends_with(ending) => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

struct Capacity {
    /// Below src.
    name: String,
    /// Number and text of the lines outside of tests and comments.
    lines: Vec<(usize, String)>,
}

/// Test modules are at the end of a file, or are files of their own.
fn rooms() -> Vec<Capacity> {
    let source = root().join("src");
    let all = files(&source, ".rs")
        .into_iter()
        .filter(|path| !is_tests(path));
    all.map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        Capacity {
            name: path.strip_prefix(&source).unwrap().display().to_string(),
            lines: without_tests(&text),
        }
    })
    .collect()
}

fn without_tests(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut is_test = false;
    for (number, line) in text.lines().enumerate() {
        if line == "#[cfg(test)]" {
            is_test = true;
        } else if is_test && (line == "}" || line.ends_with(';') && line.starts_with("mod ")) {
            is_test = false;
        } else if !is_test && !line.trim_start().starts_with("//") {
            lines.push((
                number + 1,
                line.split(" // ").next().unwrap_or_default().to_owned(),
            ));
        }
    }
    lines
}

/// Every line of these rooms that has one of these words in it.
fn naming(rooms: &[Capacity], words: &[&str], concerns: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for room in rooms.iter().filter(|room| concerns(&room.name)) {
        for (number, line) in &room.lines {
            for word in words.iter().filter(|word| names(line, word)) {
                found.push(format!(
                    "src/{}:{number}: '{word}' in: {}",
                    room.name,
                    line.trim()
                ));
            }
        }
    }
    found
}

/// `log::` in `catalog::` is another word.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part))
}

fn is_pure(name: &str) -> bool {
    PURE.iter()
        .any(|room| name == *room || name.starts_with(&format!("{room}/")))
}

#[test]
fn the_scan_sees_what_it_should() {
    let text = "use a;\n// log::x\n#[cfg(test)]\nmod tests {\n    log::warn!();\n}\nlog::info!();\nlet x = 1; // log::y\n";
    let room = Capacity {
        name: "decide/x.rs".to_owned(),
        lines: without_tests(text),
    };
    let found = naming(&[room], &IMPURE, is_pure);
    assert_eq!(found, ["src/decide/x.rs:7: 'log::' in: log::info!();"]);
    assert!(
        !names("catalog::x", "log::")
            && names("(log::x", "log::")
            && !names("env!(\"A\")", "std::env")
    );
}

#[test]
fn pure_rooms_are_pure() {
    let rooms = rooms();
    for room in PURE {
        assert!(
            root().join("src").join(room).exists(),
            "src/{room} is gone: change the list"
        );
    }
    assert!(rooms.iter().filter(|room| is_pure(&room.name)).count() > 20);
    let mut found = naming(&rooms, &IMPURE, is_pure);
    found.retain(|line| {
        !ALLOWED
            .iter()
            .any(|(room, word, _)| line.starts_with(&format!("src/{room}:")) && line.contains(word))
    });
    // Imports in braces: `use std::{fs, …}`.
    found.extend(
        naming(&rooms, &["use std::{", "use crate::{"], is_pure)
            .into_iter()
            .filter(|line| {
                ["fs", "net", "env", "process", "thread", "clock"]
                    .iter()
                    .any(|part| {
                        let inside = line.split('{').nth(1).unwrap_or_default();
                        inside.split([',', '}', ' ', ':']).any(|name| name == *part)
                    })
            }),
    );
    assert!(
        found.is_empty(),
        "a pure room does no I/O, reads no clock and writes no log:\n{}",
        found.join("\n")
    );
}

#[test]
fn decide_knows_neither_the_engine_nor_toml() {
    let found = naming(
        &rooms(),
        &["crate::engine", "toml::", "serde_json"],
        |name| name.starts_with("decide"),
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_commands_print() {
    let words = [
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
        "stdout()",
        "stderr()",
        "dbg!",
    ];
    let found = naming(&rooms(), &words, |name| {
        name != "main.rs" && !name.starts_with("commands")
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_unwraps() {
    let found = naming(
        &rooms(),
        &["unsafe", "todo!", "unimplemented!", "panic!"],
        |_| true,
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
    let unwraps: Vec<String> = rooms()
        .iter()
        .flat_map(|room| {
            let of_room = room
                .lines
                .iter()
                .filter(|(_, line)| line.contains(".unwrap()") || line.contains(".expect("));
            of_room
                .map(|(number, line)| format!("src/{}:{number}: {}", room.name, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(unwraps.is_empty(), "{}", unwraps.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    for path in files(&root().join("src"), ".rs")
        .into_iter()
        .filter(|path| !is_tests(path))
    {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} has no header", path.display());
    }
}

/// The only place that changes the engine or the cgroups; commands that work without a loop say so in their own file.
#[test]
fn only_act_changes_the_engine() {
    let words = [
        "engine.create(",
        "engine.start(",
        "engine.pause(",
        "engine.unpause(",
        "engine.update(",
        "engine.pull(",
    ];
    let found = naming(&rooms(), &words, |name| {
        !name.starts_with("act") && !name.starts_with("engine") && name != "commands/pilots.rs"
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn shipped_configurations_are_valid() {
    let examples = ["conf", "packaging"].map(|folder| root().join(folder));
    let found: Vec<PathBuf> = examples
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|path| files(path, ".toml"))
        .collect();
    assert!(
        found
            .iter()
            .any(|path| path.ends_with("conf/plancton.toml")),
        "{found:?}"
    );
    for file in found {
        let mut check = Command::new(env!("CARGO_BIN_EXE_plancton"));
        let output = check
            .arg("--config")
            .arg(&file)
            .args(["check", "--offline"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("ok   configuration"),
            "{}: {said}",
            file.display()
        );
    }
}

#[test]
fn few_crates() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree = Command::new(cargo);
    tree.current_dir(root()).args([
        "tree",
        "--offline",
        "--locked",
        "--prefix",
        "none",
        "-e",
        "normal,build",
    ]);
    let output = tree.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text
        .lines()
        .filter_map(|line| Some(line.split(" (").next()?.trim()))
        .filter(|line| !line.is_empty());
    let crates: BTreeSet<&str> = names.collect();
    assert!(
        (5..=60).contains(&crates.len()),
        "{} crates: {crates:?}",
        crates.len()
    );
}
