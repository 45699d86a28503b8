//! Commands that look, and ways to run the loop for a look.

use crate::common::*;

#[test]
fn status_shows_what_runs() {
    let instance = Instance::running(&config("1s", 1, &sleeper()));
    let id = instance.wait_one();
    instance.wait_for("/pilots/0/state", "running");
    instance.wait_status(|status| status["cpus"]["idle"].is_number());
    instance.wait_reason("max-pilots");
    let status = instance.done("status --json").json();
    let one = &status["pilots"][0];
    for (place, value) in [
        ("/state", json!("active")),
        ("/reason/value", json!(1.0)),
        ("/reason/threshold", json!(1.0)),
        ("/pid", json!(instance.pid())),
        ("/pilots/0/id", json!(id)),
        ("/pilots/0/class", json!("sleeper")),
        ("/pilots/0/cpus", json!(0.1)),
    ] {
        assert_eq!(status.pointer(place), Some(&value), "{place}");
    }
    // Podman puts a registry before a short name.
    assert!(one["image"].as_str().unwrap().ends_with(&image()));
    assert!(one["deadline"].as_f64().unwrap() > one["started"].as_f64().unwrap());
    let shown = [one["name"].as_str().unwrap(), "max-pilots"];
    let plain = instance.say("status").must(0, &shown).out;
    assert!(!plain.contains('\x1b'), "no colour where no terminal is");
    instance.say("why").must(0, &["max-pilots"]);
    instance.done("health");
    assert!(instance.say("check").out.contains("sleeper"));
}

#[test]
fn once_turns_once_and_leaves_its_pilots() {
    let instance = Instance::new(&config("1s", 1, &sleeper()));
    // A moment in which the machine is busy is none to launch in.
    until(|| {
        instance.done("run --once");
        !instance.containers().is_empty()
    });
    let pilots = instance.wait_running(1);
    instance.say("status").must(3, &[]);
    instance.done("run --once");
    assert_eq!(instance.wait_running(1), pilots);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut instance = Instance::new(&config("1s", 3, &sleeper()));
    let dry = || instance.done("run --once --dry-run").err;
    until(|| dry().contains("would launch plancton-sleeper-"));
    assert_eq!(instance.containers(), []);
    // A pilot that has ended would be removed, and one whose time is over would be asked to end.
    let [a, b] = ["a", "b"].map(|name| format!("{}-{name}", instance.name));
    let _ended = Stranger::new(&a, &json!({LABEL: instance.name}), &["true"]);
    let (class, deadline) = ("io.plancton.class", "io.plancton.deadline");
    let labels = json!({LABEL: instance.name, class: "sleeper", deadline: "1000"});
    let over = Stranger::new(&b, &labels, &["sleep", "600"]);
    instance.wait_containers(|list| list.iter().any(|one| one.state == "exited"));
    let (before, said) = (instance.containers(), dry());
    assert!(said.contains(&format!("would remove {a}")), "{said}");
    assert!(said.contains(&format!("would ask {b} ")), "{said}");
    assert_eq!(instance.containers(), before);
    drop((_ended, over));
    // Tick after tick, since nothing of it comes true.
    instance.run("--dry-run");
    let would = "would launch plancton-sleeper-";
    instance.until(|| instance.log().matches(would).count() >= 4);
    assert_eq!(instance.end(), 0);
    assert_eq!(instance.containers(), []);
}

#[test]
fn what_was_recorded_can_be_replayed() {
    let mut instance = Instance::new(&config("1s", 2, &sleeper()));
    let recording = instance.path("recording.jsonl").display().to_string();
    instance.run(&format!("--record {recording}"));
    instance.wait_running(2);
    instance.wait_reason("max-pilots");
    assert_eq!(instance.end(), 0);
    let replay = format!("replay {recording}");
    let replayed = instance.say(&replay).must(0, &["max-pilots"]).out;
    let launches = replayed.matches("launch plancton-sleeper-").count();
    assert!(launches >= 2, "{replayed}");
    // The same observations under another policy.
    instance.configure(&config("1s", 0, "").replace("max-pilots = 0", ""));
    let replayed = instance.say(&replay).must(0, &["[[pilot]]"]).out;
    assert!(!replayed.contains("launch plancton-"), "{replayed}");
}
