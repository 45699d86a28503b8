//! The machine's own record, from outside: what a daemon writes of what happens to its pilots, what a crash costs, and what
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
use machine::{Machine, PATIENCE, becomes};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Output;
use std::time::{Duration, Instant};

const CONFIG: &str = "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n\
                      [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n";

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
fn a_crash_costs_less_than_a_minute() {
    let mut machine = Machine::new();
    machine.start(CONFIG);
    let started = Instant::now();
    machine.wait_for_pilots(3);
    end_pilots(&machine, "done", 0, 2);
    end_pilots(&machine, "failed", 1, 1);
    let file = machine.scratch.0.join("state/history.hour");
    // Each write is a new file: so many of them there were until a little after the first minute.
    let mut writes = BTreeSet::new();
    let enough = Duration::from_secs(62);
    machine.wait_within(
        enough + PATIENCE,
        "the first minute is written down",
        || {
            writes.extend(fs::metadata(&file).map(|found| found.ino()));
            started.elapsed() >= enough && !writes.is_empty()
        },
    );
    assert_eq!(writes.len(), 1, "one write in {:?}", started.elapsed());
    assert!(fs::metadata(&file).unwrap().len() < 500, "a small one");
    machine.signal(Signal::KILL);
    let age = started.elapsed();
    machine.wait_for_end(PATIENCE);
    let before = total(&machine);
    assert_eq!(
        before["classes"]["p"]["ended"],
        serde_json::json!({"done": 2, "failed": 1})
    );
    let observed = before["observed_seconds"].as_f64().unwrap();
    assert!(
        age.as_secs_f64() - observed < 61.0 && observed <= age.as_secs_f64() + 1.0,
        "{observed} of {age:?}"
    );
    let core_seconds = before["classes"]["p"]["core_seconds"].as_f64().unwrap();
    assert!(
        core_seconds > observed && core_seconds <= 3.0 * observed + 1.0,
        "{core_seconds} in {observed} s"
    );
    // A failure holds its class back.
    assert!(
        before["held_back_seconds"]["back-off"].as_f64().unwrap() >= 1.0,
        "{before}"
    );

    machine.start(CONFIG);
    machine.wait_for_pilots(3);
    end_pilots(&machine, "done", 0, 1);
    machine.signal(Signal::TERM);
    assert!(machine.wait_for_end(PATIENCE).0.success());
    let after = total(&machine);
    assert_eq!(
        after["classes"]["p"]["ended"],
        serde_json::json!({"done": 3, "failed": 1}),
        "an orderly end loses none"
    );
    assert!(after["observed_seconds"].as_f64() >= Some(observed));
    shows_it(&machine);
    assert!(machine.tell(&["purge"]).status.success());
    assert!(!machine.scratch.0.join("state").exists());
}

fn shows_it(machine: &Machine) {
    let text = out(&machine.tell(&["history"]));
    for words in [
        "What this machine gave in the last 14 days",
        "done    ███",
        "  3\n",
        "4 pilots",
        "back-off",
        "Core time by class",
    ] {
        assert!(text.contains(words), "{words} in:\n{text}");
    }
    assert!(
        !text.contains('\x1b') && text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let file = machine.scratch.0.join("page.html");
    let said = machine.tell(&["report", file.to_str().unwrap()]);
    assert!(
        said.status.success() && out(&said).contains("page.html is written"),
        "{said:?}"
    );
    assert!(
        fs::read_to_string(file)
            .unwrap()
            .contains("<span>back-off</span>")
    );
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
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.stdout.is_empty()
                && error.contains("nothing is recorded yet")
                && error.contains("plancton start")
        );
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
fn a_year_is_a_page_below_a_megabyte() {
    let machine = Machine::without_engine();
    for classes in [1, 20] {
        year(&machine, classes);
        let said = machine.tell(&["report", "-"]);
        assert!(
            said.status.success() && said.stdout.len() < 1_000_000,
            "{} bytes",
            said.stdout.len()
        );
        let page = out(&said);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(page.contains("class-0") && page.contains("Day by day"));
        let days = out(&machine.tell(&["history", "--days", "365"]));
        assert!(
            days.matches(" h\n").count() >= if classes == 1 { 365 } else { 54 },
            "{days}"
        );
    }
    let said = machine.tell(&["report", "/dev/null/x.html"]);
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.code() == Some(1)
            && error.contains("/dev/null/x.html: ")
            && error.contains("name another file")
    );
}

#[test]
fn damage_is_told_once_and_ends_nothing() {
    let mut machine = Machine::new();
    year(&machine, 1);
    let file = machine.scratch.0.join("state/history");
    let mut bytes = fs::read(&file).unwrap();
    let length = bytes.len();
    bytes[length / 2..length / 2 + 300].fill(0);
    bytes.truncate(length - 10);
    fs::write(&file, bytes).unwrap();
    machine.scratch.file("state/history.hour", "[498705,[3600,");
    let said = machine.tell(&["history", "--days", "400"]);
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success() && error.contains("damaged lines of the record were left out"),
        "{said:?}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    machine.start(CONFIG);
    machine.wait_for_pilots(3);
    machine.assert_well();
    machine.signal(Signal::TERM);
    assert!(machine.wait_for_end(PATIENCE).0.success());
    assert_eq!(
        machine.log().matches("history.hour: it is damaged").count(),
        1,
        "{}",
        machine.log()
    );
    assert!(becomes(PATIENCE, || fs::read_to_string(
        machine.scratch.0.join("state/history.hour")
    )
    .unwrap()
    .ends_with("]]\n")));
}
