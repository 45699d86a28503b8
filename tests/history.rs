//! What a machine gave, from outside: what a daemon writes of what happens to its pilots, what a crash costs, and what
//! `history` and `report` say of it.
// threads: 8
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, dead_code)]

#[path = "common/fake_engine.rs"]
mod fake_engine;
#[path = "common/machine.rs"]
mod machine;

use fake_engine::epoch;
use machine::{Machine, PATIENCE};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::process::Output;
use std::time::Duration;

const CONFIG: &str = "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n\
                      [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n";

/// A minute, on a machine on which everybody builds.
const FIRST_WRITE: Duration = Duration::from_secs(80);

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn total(machine: &Machine) -> Value {
    let said = machine.tell(&["history", "--json"]);
    assert!(said.status.success(), "{said:?}");
    let history: Value = serde_json::from_str(&out(&said)).unwrap();
    assert!(
        (1..=2).contains(&history["days"].as_array().unwrap().len()),
        "today, and a midnight at most"
    );
    history["total"].clone()
}

/// So many have ended so since the daemon started, and others have taken their place.
fn end_pilots(machine: &Machine, kind: &str, exit_code: i64, count: usize) {
    for id in machine.engine.in_state("running").into_iter().take(count) {
        machine.engine.end(&id, exit_code);
    }
    machine.wait_for("the ends are counted", || {
        machine.status()["counts"][kind] == count
    });
}

#[test]
fn a_crash_costs_little_and_an_orderly_end_nothing() {
    let mut machine = Machine::new();
    machine.start(CONFIG);
    machine.wait_for_pilots(3);
    end_pilots(&machine, "done", 0, 2);
    end_pilots(&machine, "failed", 1, 1);
    let file = machine.scratch.0.join("state/history");
    machine.wait_within(FIRST_WRITE, "the first minute is written down", || {
        file.exists()
    });
    machine.signal(Signal::KILL);
    machine.wait_for_end(PATIENCE);
    let before = total(&machine);
    assert_eq!(
        before["classes"]["p"]["ended"],
        serde_json::json!({"done": 2, "failed": 1})
    );
    let observed = before["observed_seconds"].as_f64().unwrap();
    assert!((55.0..90.0).contains(&observed), "{observed}");
    let core_seconds = before["classes"]["p"]["core_seconds"].as_f64().unwrap();
    assert!(
        core_seconds > observed && core_seconds <= 3.0 * observed + 1.0,
        "{core_seconds} in {observed} s"
    );
    // A failure holds its class back.
    let held_back = before["held_back_seconds"]["back-off"].as_f64();
    assert!(held_back >= Some(1.0), "{before}");

    machine.start(CONFIG);
    machine.wait_for_pilots(3);
    end_pilots(&machine, "done", 0, 1);
    machine.signal(Signal::TERM);
    assert!(machine.wait_for_end(PATIENCE).0.success());
    let after = total(&machine);
    assert_eq!(
        after["classes"]["p"]["ended"],
        serde_json::json!({"done": 3, "failed": 1})
    );
    assert!(after["observed_seconds"].as_f64() >= Some(observed));
    let text = out(&machine.tell(&["history"]));
    assert!(
        text.contains("back-off") && !text.contains('\x1b'),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(machine.tell(&["purge"]).status.success());
    assert!(!machine.scratch.0.join("state").exists());
}

#[test]
fn a_dry_run_writes_nothing() {
    let machine = Machine::new();
    machine.scratch.file("config.toml", CONFIG);
    assert!(
        machine
            .tell(&["run", "--once", "--dry-run"])
            .status
            .success()
    );
    for command in [&["history"][..], &["history", "--json"], &["report", "-"]] {
        let said = machine.tell(command);
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(said.stdout.is_empty() && !said.stderr.is_empty());
    }
}

/// A year of hours as the daemon writes them, up to now, or as many as it keeps of so many classes.
fn year(machine: &Machine, classes: usize) {
    let now = (epoch() / 3600.0) as u64;
    let classes: Vec<String> = (0..classes)
        .map(|n| format!("\"class-{n}\":[9000,{{\"done\":9,\"ttl\":1}}]"))
        .collect();
    let line = |hour| {
        format!(
            "[{hour},[3600,25000,{},{{{}}},{{\"busy\":300}}]]\n",
            hour % 7 * 500,
            classes.join(",")
        )
    };
    let hours = if classes.len() == 1 {
        366 * 24
    } else {
        54 * 24
    };
    let text: String = (now - hours..now).map(line).collect();
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    machine.scratch.file("state/history", text);
}

#[test]
fn a_year_is_one_small_page() {
    let machine = Machine::without_engine();
    for classes in [1, 20] {
        year(&machine, classes);
        let file = machine.scratch.0.join("page.html");
        let said = machine.tell(&["report", file.to_str().unwrap()]);
        assert!(said.status.success(), "{said:?}");
        let page = fs::read_to_string(file).unwrap();
        assert!(page.len() < 1_000_000, "{} bytes", page.len());
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        let days = out(&machine.tell(&["history", "--days", "365"]));
        let least = if classes == 1 { 365 } else { 54 };
        assert!(days.matches(" h\n").count() >= least, "{days}");
    }
    let said = machine.tell(&["report", "/dev/null/x.html"]);
    assert_eq!(said.status.code(), Some(1));
}

#[test]
fn damage_is_counted_and_ends_nothing() {
    let mut machine = Machine::new();
    year(&machine, 1);
    let file = machine.scratch.0.join("state/history");
    let mut bytes = fs::read(&file).unwrap();
    let length = bytes.len();
    bytes[length / 2..length / 2 + 300].fill(0);
    bytes.truncate(length - 10);
    fs::write(&file, bytes).unwrap();
    let said = machine.tell(&["history", "--days", "400"]);
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success() && error.contains("damaged"),
        "{said:?}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    machine.start(CONFIG);
    machine.wait_for_pilots(3);
    machine.signal(Signal::TERM);
    assert!(machine.wait_for_end(PATIENCE).0.success());
    let text = fs::read_to_string(file).unwrap_or_default();
    let last = text.lines().last().unwrap();
    let read: Value = serde_json::from_str(last).unwrap();
    assert!(
        read[1]["observed_seconds"].is_u64(),
        "a line of its own: {last}"
    );
}
