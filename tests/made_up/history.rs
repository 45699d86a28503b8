//! What a machine gave, from outside: what a daemon writes of what happens to its pilots, what a crash costs, and what
//! `history` and `report` say of it.

use crate::common::*;

fn total(machine: &Machine) -> Value {
    let history = machine.done("history --json").json();
    // Today, and a midnight at most.
    assert!((1..=2).contains(&members(&history["days"]).len()));
    history["total"].clone()
}

/// So many have ended so since the daemon started, and others have taken their place.
fn end_pilots(machine: &Machine, kind: &str, exit_code: i64, count: usize) {
    machine.engine.ends(&machine.pilots()[..count], exit_code);
    machine.wait_count(kind, count as u64);
}

#[test]
fn a_crash_costs_little_and_an_orderly_end_nothing() {
    let mut machine = Machine::running(&made_up(3, "", ""), 3);
    let started = epoch();
    end_pilots(&machine, "done", 0, 2);
    end_pilots(&machine, "failed", 1, 1);
    // The first minute is written down.
    let file = machine.path("state/history");
    machine.until(|| file.exists());
    machine.crash();
    let before = total(&machine);
    let ended = json!({"done": 2, "failed": 1});
    assert_eq!(before["classes"]["p"]["ended"], ended);
    let observed = before["observed_seconds"].as_f64().unwrap();
    let is_near = observed > 55.0 && observed < epoch() - started + 10.0;
    assert!(is_near, "{observed}");
    let given = before["classes"]["p"]["core_seconds"].as_f64().unwrap();
    let is_near = given > observed && given <= 3.0 * observed + 1.0;
    assert!(is_near, "{given} in {observed} s");
    // A failure holds its class back.
    let held_back = before["held_back_seconds"]["back-off"].as_f64();
    assert!(held_back >= Some(1.0), "{before}");

    machine.run("");
    machine.wait_for_pilots(3);
    end_pilots(&machine, "done", 0, 1);
    assert_eq!(machine.end(), 0);
    let after = total(&machine);
    let ended = json!({"done": 3, "failed": 1});
    assert_eq!(after["classes"]["p"]["ended"], ended);
    assert!(after["observed_seconds"].as_f64() >= Some(observed));
    let text = machine.say("history").must(0, &["back-off"]).out;
    let is_narrow = text.lines().all(|line| line.chars().count() <= 80);
    assert!(is_narrow && !text.contains('\x1b'), "{text}");
    machine.done("purge");
    assert!(!machine.path("state").exists());
}

#[test]
fn a_dry_run_writes_nothing() {
    let machine = Machine::new();
    machine.configure(&made_up(3, "", ""));
    machine.done("run --once --dry-run");
    for command in ["history", "history --json", "report -"] {
        let said = machine.say(command).must(1, &[]);
        assert!(said.out.is_empty() && !said.err.is_empty());
    }
}

/// A year of hours as the daemon writes them, up to now, or as many as it keeps of so many classes.
fn year(machine: &Machine, classes: usize) {
    let now = (epoch() / 3600.0) as u64;
    let days = if classes == 1 { 366 } else { 54 };
    let class = |number| format!("\"class-{number}\":[9000,{{\"done\":9,\"ttl\":1}}]");
    let classes = (0..classes).map(class).collect::<Vec<_>>().join(",");
    let line = |hour| {
        let owner = hour % 7 * 500;
        format!("[{hour},[3600,25000,{owner},{{{classes}}},{{\"busy\":300}}]]\n")
    };
    let lines = (now - days * 24..now).map(line);
    machine.file("state/history", lines.collect::<String>());
}

#[test]
fn a_year_is_one_small_page() {
    let machine = Machine::without_engine();
    for (classes, days) in [(1, 365), (20, 54)] {
        year(&machine, classes);
        let file = machine.path("page.html");
        machine.done(&format!("report {}", file.display()));
        let page = fs::read_to_string(file).unwrap();
        assert!(page.len() < 1_000_000, "{} bytes", page.len());
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        let shown = machine.done("history --days 365").out;
        assert!(shown.matches(" busy\n").count() >= days, "{shown}");
    }
    let nowhere = "/dev/null/x.html";
    let report = format!("report {nowhere}");
    machine.say(&report).must(1, &[nowhere]);
}

#[test]
fn damage_is_counted_and_ends_nothing() {
    let mut machine = Machine::new();
    year(&machine, 1);
    let file = machine.path("state/history");
    let mut bytes = fs::read(&file).unwrap();
    let length = bytes.len();
    bytes[length / 2..length / 2 + 300].fill(0);
    bytes.truncate(length - 10);
    fs::write(&file, bytes).unwrap();
    let said = machine.say("history --days 400").must(0, &["damaged"]);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    machine.start(&made_up(3, "", ""));
    machine.wait_for_pilots(3);
    assert_eq!(machine.end(), 0);
    let text = read(file);
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let is_a_line = last[1]["observed_seconds"].is_u64();
    assert!(is_a_line, "a line of its own: {last}");
}
