//! Commands that look, and ways to run the loop for a look.

use crate::common::*;

#[test]
fn status_shows_what_runs() {
    let instance = Instance::running(&config("1s", 1, &sleeper()));
    let id = instance.wait_one();
    instance.wait_status(|status| {
        status["pilots"][0]["state"] == "running" && status["cpus"]["idle"].is_number()
    });
    instance.wait_reason("max-pilots");
    let said = instance.say(&["status", "--json"]).must(0, &[]);
    let status: Value = serde_json::from_str(&said.out).unwrap();
    let reason = &status["reason"];
    assert_eq!(
        (&status["state"], &reason["value"], &reason["threshold"]),
        (&json!("active"), &json!(1.0), &json!(1.0))
    );
    assert_eq!(status["pid"], instance.pid());
    let one = &status["pilots"][0];
    let expected = [
        ("id", json!(id)),
        ("class", json!("sleeper")),
        ("image", json!(image())),
        ("cpus", json!(0.1)),
    ];
    for (key, value) in expected {
        assert_eq!(one[key], value, "{key}");
    }
    assert!(one["deadline"].as_f64().unwrap() > one["started"].as_f64().unwrap());
    let plain = instance
        .say(&["status"])
        .must(0, &[one["name"].as_str().unwrap(), "max-pilots"]);
    assert!(
        !plain.out.contains('\x1b'),
        "no colour where no terminal is"
    );
    instance.say(&["why"]).must(0, &["max-pilots"]);
    instance.say(&["health"]).must(0, &[]);
    assert!(instance.say(&["check"]).out.contains("sleeper"));
}

#[test]
fn once_turns_once_and_leaves_its_pilots() {
    let instance = Instance::new(&config("1s", 1, &sleeper()));
    // A moment in which the machine is busy is none to launch in.
    until(|| {
        instance.say(&["run", "--once"]).must(0, &[]);
        !instance.containers().is_empty()
    });
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
    until(|| dry().contains("would launch plancton-sleeper-"));
    assert_eq!(instance.containers(), []);
    // A pilot that has ended would be removed, and one whose time is over would be asked to end.
    let [a, b] = ["a", "b"].map(|name| format!("{}-{name}", instance.name));
    let _ended = Stranger::new(&a, &json!({LABEL: instance.name}), &["true"]);
    let labels = json!({LABEL: instance.name, "io.plancton.class": "sleeper", "io.plancton.deadline": "1000"});
    let over = Stranger::new(&b, &labels, &["sleep", "600"]);
    instance.wait_containers(|list| list.iter().any(|one| one.state == "exited"));
    let (before, said) = (instance.containers(), dry());
    for what in [
        format!("would remove {a}"),
        format!("would ask {}", &over.0[..12]),
    ] {
        assert!(said.contains(&what), "'{what}' in {said}");
    }
    assert_eq!(instance.containers(), before);
    drop((_ended, over));
    // Tick after tick, since nothing of it comes true.
    instance.run(&["--dry-run"]);
    instance.until(|| {
        instance
            .log()
            .matches("would launch plancton-sleeper-")
            .count()
            >= 4
    });
    assert_eq!(instance.end(), 0);
    assert_eq!(instance.containers(), []);
}

#[test]
fn what_was_recorded_can_be_replayed() {
    let mut instance = Instance::new(&config("1s", 2, &sleeper()));
    let recording = instance.path("recording.jsonl").display().to_string();
    instance.run(&["--record", &recording]);
    instance.wait_running(2);
    instance.wait_reason("max-pilots");
    assert_eq!(instance.end(), 0);
    let replayed = instance
        .say(&["replay", &recording])
        .must(0, &["max-pilots"])
        .out;
    assert!(
        replayed.matches("launch plancton-sleeper-").count() >= 2,
        "{replayed}"
    );
    // The same observations under another policy.
    instance.configure(&config("1s", 0, "").replace("max-pilots = 0", ""));
    let replayed = instance
        .say(&["replay", &recording])
        .must(0, &["[[pilot]]"])
        .out;
    assert!(!replayed.contains("launch plancton-"), "{replayed}");
}
