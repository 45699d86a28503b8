//! The rules of the house that neither the compiler nor clippy holds: what is shipped as configuration is valid, and the
//! tree of dependencies stays short.
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(below)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let found = entries.map(|path| match path.is_dir() {
        true => files(&path, ending),
        false => vec![path],
    });
    let ends = |path: &PathBuf| path.to_string_lossy().ends_with(ending);
    found.flatten().filter(ends).collect()
}

#[test]
fn shipped_configurations_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["conf", "packaging"]
        .map(|folder| files(&root.join(folder), ".toml"))
        .concat();
    assert!(found.contains(&root.join("conf/plancton.toml")));
    for file in found {
        let mut command = Command::new(PLANCTON);
        say(command
            .arg("--config")
            .arg(&file)
            .args(["check", "--offline"]))
        .must(0, &["ok   configuration"]);
    }
}

#[test]
fn few_crates() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree = Command::new(cargo);
    tree.current_dir(env!("CARGO_MANIFEST_DIR"));
    tree.args([
        "tree",
        "--offline",
        "--locked",
        "--prefix",
        "none",
        "-e",
        "normal,build",
    ]);
    let text = say(&mut tree).must(0, &[]).out;
    let names = text.lines().filter_map(|line| line.split(" (").next());
    let crates: BTreeSet<&str> = names
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    assert!((5..=60).contains(&crates.len()), "{crates:?}");
}
