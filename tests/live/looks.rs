//! Commands that look, and ways to run the loop for a look.

use crate::common::*;
use serde_json::{Value, json};
use std::time::SystemTime;

#[test]
fn status_has_every_field_of_the_contract() {
    let instance = Instance::running(&config("1s", 1, &sleeper()));
    let pilots = instance.wait_running(1);
    instance.wait_status("measured", PATIENCE, |status| {
        status["pilots"][0]["state"] == "running"
            && status["cpus"]["idle"].is_number()
            && status["reason"]["code"] == "max-pilots"
    });
    let said = instance.say(&["status", "--json"]).must(0, &[]);
    let status: Value = serde_json::from_str(&said.out).unwrap();
    let path = |path: &str| path.split('.').fold(&status, |value, key| &value[key]);
    let numbers = "schema pid since tick due reason.value reason.threshold reason.since cpus.total cpus.given cpus.foreign \
        cpus.pilots cpus.idle cpus.reserve memory.total memory.available memory.given memory.reserve disk.free disk.reserve \
        others.pilots others.cpus given_seconds loop.turns loop.calls loop.cpu_ms loop.longest_gap_ms";
    for name in numbers.split_whitespace() {
        assert!(path(name).is_number(), "{name}: {}", path(name));
    }
    for name in [
        "version",
        "instance",
        "state",
        "reason.code",
        "reason.text",
        "engine.name",
        "engine.version",
        "engine.api",
        "protection.level",
        "protection.text",
    ] {
        assert!(
            path(name).as_str().is_some_and(|text| !text.is_empty()),
            "{name}: {}",
            path(name)
        );
    }
    assert_eq!(
        (status["state"].as_str(), status["reason"]["code"].as_str()),
        (Some("active"), Some("max-pilots"))
    );
    assert_eq!(
        (
            status["reason"]["value"].as_f64(),
            status["reason"]["threshold"].as_f64()
        ),
        (Some(1.0), Some(1.0))
    );
    assert_eq!(status["pid"], instance.pid());
    let one = &status["pilots"][0];
    assert_eq!(one["id"].as_str(), pilots.first().map(String::as_str));
    for (key, value) in [
        ("class", json!("sleeper")),
        ("state", json!("running")),
        ("image", json!(image())),
        ("cpus", json!(0.1)),
    ] {
        assert_eq!(one[key], value, "{key}");
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(
        (0.0..60.0).contains(&(now - one["started"].as_f64().unwrap())),
        "{one}"
    );
    assert!(
        (0.0..43_260.0).contains(&(one["deadline"].as_f64().unwrap() - now)),
        "{one}"
    );

    let name = one["name"].as_str().unwrap();
    let plain = instance
        .say(&["status"])
        .must(0, &[name, "sleeper", "max-pilots"]);
    assert!(
        !plain.out.contains('\x1b'),
        "no colour where no terminal is"
    );
    instance.say(&["why"]).must(0, &["(max-pilots)"]);
    instance.say(&["health"]).must(0, &[]);
    let check = instance.say(&["check"]);
    for words in [
        "pilot classes: 1",
        "API 1.",
        "CPU, memory and number of processes",
        "sleeper",
    ] {
        assert!(check.out.contains(words), "'{words}' in {}", check.out);
    }
}

#[test]
fn once_turns_once_and_leaves_its_pilots() {
    let instance = Instance::new(&config("1s", 1, &sleeper()));
    // A moment in which the machine is busy is none to launch in.
    let once = || instance.say(&["run", "--once"]).must(0, &[]).err;
    assert!(
        poll(PATIENCE, || once().contains(" started ").then_some(())).is_some(),
        "it launches one"
    );
    let pilots = instance.wait_running(1);
    instance.say(&["status"]).must(3, &[]);
    instance.say(&["run", "--once"]).must(0, &[]);
    assert_eq!(instance.wait_running(1), pilots);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut instance = Instance::new(&config("1s", 3, &sleeper()));
    let dry = || {
        instance
            .say(&["run", "--once", "--dry-run"])
            .must(0, &[])
            .err
    };
    let would = poll(PATIENCE, || {
        dry()
            .contains("dry run: would launch plancton-sleeper-")
            .then_some(())
    });
    assert!(would.is_some(), "it would launch one");
    assert_eq!(instance.containers(), []);
    // A pilot that has ended would be removed, and one whose time is over would be asked to end.
    let ended = Stranger::new(
        &format!("{}-a", instance.name),
        &json!({LABEL: instance.name}),
        &["true"],
    );
    let over = json!({LABEL: instance.name, "io.plancton.class": "sleeper", "io.plancton.deadline": "1000"});
    let over = Stranger::new(&format!("{}-b", instance.name), &over, &["sleep", "600"]);
    instance.wait_containers("one has ended", PATIENCE, |list| {
        list.iter().any(|one| one.state == "exited")
    });
    let before = instance.containers();
    let said = dry();
    for what in [
        format!("would remove {}-a", instance.name),
        format!("would ask {}", &over.0[..12]),
    ] {
        assert!(said.contains(&what), "'{what}' in {said}");
    }
    assert_eq!(instance.containers(), before);
    drop((ended, over));
    // Tick after tick, since nothing of it comes true.
    instance.run(&["--dry-run"]);
    let told = || {
        instance
            .log()
            .matches("dry run: would launch plancton-sleeper-")
            .count()
    };
    assert!(
        poll(PATIENCE, || (told() >= 4).then_some(())).is_some(),
        "{}",
        instance.log()
    );
    assert_eq!(instance.end(), 0);
    assert_eq!(instance.containers(), []);
}

#[test]
fn what_was_recorded_can_be_replayed() {
    let mut instance = Instance::new(&config("1s", 2, &sleeper()));
    let record = instance.base.join("record.jsonl");
    let record = record.to_str().unwrap();
    instance.run(&["--record", record]);
    instance.wait_running(2);
    instance.wait_reason("max-pilots");
    assert_eq!(instance.end(), 0);
    let replayed = instance
        .say(&["replay", record])
        .must(0, &["launch plancton-sleeper-", "max-pilots"])
        .out;
    assert!(
        replayed.lines().all(|line| line.contains(" s  ")),
        "{replayed}"
    );
    assert!(
        replayed.matches("launch plancton-").count() >= 2,
        "{replayed}"
    );
    // The same observations under another policy.
    instance.configure(&config("1s", 0, "").replace("max-pilots = 0", ""));
    instance
        .say(&["replay", record])
        .must(0, &["no [[pilot]] is configured"]);
    instance
        .say(&["replay", "/nonexistent"])
        .must(1, &["/nonexistent"]);
    std::fs::write(record, "garbage\n").unwrap();
    instance
        .say(&["replay", record])
        .must(1, &["record.jsonl:1"]);
}

#[test]
fn every_command_explains_itself() {
    let instance = Instance::new("");
    let overview = instance
        .say(&["--help"])
        .must(0, &["Exit codes", "plancton try"])
        .out;
    let commands = overview
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let commands: Vec<&str> = commands
        .filter(|word| {
            word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-')
        })
        .collect();
    for command in
        "try run start stop status why health drain resume snooze force-stop kill check config reap purge pilot"
            .split(' ')
    {
        assert!(commands.contains(&command), "{command} in {commands:?}");
        let said = instance.say(&[command, "--help"]).must(0, &[&format!("plancton {command}")]).out;
        assert!(said.lines().count() >= 5, "{said}");
    }
    instance
        .say(&["--version"])
        .must(0, &[env!("CARGO_PKG_VERSION")]);
    instance
        .say(&["config", "--default"])
        .must(0, &["[loop]", "[[pilot]]"]);
}
