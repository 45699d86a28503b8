//! How pilots end, and what comes after them.

use crate::common::*;
use serde_json::Value;
use std::time::{Instant, SystemTime};

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

#[test]
fn a_slot_is_filled_again_at_once() {
    let instance = Instance::running(&config("40s", 3, &sleeper()));
    instance.wait_running(3);
    let mut took = Vec::new();
    for _ in 0..5 {
        let pilots = instance.running_ids();
        let start = Instant::now();
        kill(pilots.first().unwrap());
        let filled = poll(seconds(30.0), || {
            let running = instance.running_ids();
            (running.len() == 3 && running != pilots).then(|| start.elapsed().as_secs_f64())
        });
        took.push(filled.expect("before the next tick the slot is full again"));
        instance.wait_running(3);
    }
    let best = took.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(
        best < 1.0,
        "from the end of a pilot to its running replacement: {took:?}"
    );
    instance.wait_status("five ended", PATIENCE, |status| {
        status["counts"]["killed"] == 5
    });
    instance.wait_status("eight were started", PATIENCE, |status| {
        status["counts"]["launches"] == 8
    });
}

/// The daemon's own note on each pilot of a kind.
fn gone_of<'a>(status: &'a Value, kind: &'a str) -> Vec<&'a Value> {
    status["gone"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|gone| gone["kind"] == kind)
        .collect()
}

/// Waits until a pilot does not run any more: epoch seconds.
fn wait_gone(id: &str) -> f64 {
    poll(PATIENCE, || (!is_running(id)).then(now)).expect("the pilot ends")
}

/// Of the only pilot, once it has its trap: its id and when its time is up.
fn deadline_of(instance: &Instance) -> (String, f64) {
    let id = instance.wait_running(1).first().unwrap().clone();
    assert!(
        poll(PATIENCE, || logs(&id).contains("ready").then_some(())).is_some(),
        "a shell that is ready"
    );
    let label = inspect(&id).unwrap()["Config"]["Labels"]["io.plancton.deadline"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    (id, label)
}

/// Labels are whole seconds, so that each end may come up to one earlier.
const ROUNDING: f64 = 1.1;

#[test]
fn a_ttl_asks_first() {
    let polite = pilot(
        "polite",
        &[
            "sh",
            "-c",
            "trap 'exit 7' TERM; echo ready; sleep 600 & wait",
        ],
        "ttl = \"10s\"\nstop-grace = \"5s\"",
    );
    let instance = Instance::running(&config("40s", 1, &polite));
    let (id, deadline) = deadline_of(&instance);
    let gone = wait_gone(&id);
    assert!(
        gone >= deadline - ROUNDING,
        "{} s too early",
        deadline - gone
    );
    let status = instance.wait_status("its end", PATIENCE, |status| {
        !gone_of(status, "ttl").is_empty()
    });
    assert_eq!(
        gone_of(&status, "ttl")[0]["exit_code"],
        7,
        "its own handler had the last word"
    );
    assert_eq!(
        status["counts"]["failed"],
        Value::Null,
        "an end by ttl is no failure"
    );
}

#[test]
fn a_ttl_holds_against_a_pilot_that_ignores_it() {
    let instance = Instance::running(&config(
        "40s",
        1,
        &stubborn("ttl = \"8s\"\nstop-grace = \"2s\""),
    ));
    let (id, deadline) = deadline_of(&instance);
    let gone = wait_gone(&id);
    assert!(
        gone >= deadline + 2.0 - ROUNDING,
        "it had its grace, but for {} s",
        deadline + 2.0 - gone
    );
    assert!(
        gone < deadline + 30.0,
        "not at a tick, but when the grace was over: {} s",
        gone - deadline
    );
    let status = instance.wait_status("its end", PATIENCE, |status| {
        !gone_of(status, "ttl").is_empty()
    });
    assert_eq!(gone_of(&status, "ttl")[0]["exit_code"], 137);
}

#[test]
fn a_ttl_holds_for_paused_pilots_too() {
    let instance = Instance::running(&config(
        "40s",
        1,
        &stubborn("ttl = \"20s\"\nstop-grace = \"2s\""),
    ));
    let (id, deadline) = deadline_of(&instance);
    instance.say(&["snooze", "1h"]).must(0, &[]);
    instance.wait_containers("paused", PATIENCE, |list| {
        list.iter().all(|one| one.state == "paused")
    });
    assert!(now() < deadline, "paused before its time was up");
    let gone = wait_gone(&id);
    assert!(
        gone >= deadline + 2.0 - ROUNDING,
        "{} s too early",
        deadline + 2.0 - gone
    );
    instance.wait_containers("nothing more", PATIENCE, <[_]>::is_empty);
    let status = instance.wait_status("its end", PATIENCE, |status| {
        !gone_of(status, "ttl").is_empty()
    });
    assert_eq!(status["state"], "snoozed");
    stays(seconds(1.0), || instance.containers());
}

#[test]
fn reap_ends_what_outlived_its_daemon() {
    let mut instance = Instance::running(&config(
        "1s",
        1,
        &stubborn("ttl = \"15s\"\nstop-grace = \"1s\""),
    ));
    let (id, deadline) = deadline_of(&instance);
    instance.crash();
    if now() < deadline - 2.0 {
        instance.say(&["reap"]).must(0, &["0 pilots"]);
        assert!(is_running(&id));
    }
    poll(PATIENCE, || (now() > deadline + ROUNDING).then_some(()));
    assert!(is_running(&id), "nobody was there to end it");
    instance.say(&["reap"]).must(0, &["1 pilot"]);
    assert_eq!(instance.containers(), []);
}

#[test]
fn reap_does_not_need_the_lock() {
    let instance = Instance::running(&config("40s", 1, &sleeper()));
    let pilots = instance.wait_running(1);
    instance.say(&["reap"]).must(0, &["0 pilots"]);
    assert_eq!(instance.running_ids(), pilots);
}

#[test]
fn a_pilot_that_fails_waits_longer_and_longer() {
    let broken = pilot(
        "broken",
        &["sh", "-c", "echo the disk is made of cheese; exit 3"],
        "",
    );
    let instance = Instance::running(&config("1s", 2, &broken));
    let status = instance.wait_reason("back-off");
    assert!(
        status["reason"]["text"]
            .as_str()
            .unwrap()
            .contains("exit code 3"),
        "{:#}",
        status["reason"]
    );
    assert_eq!(
        gone_of(&status, "failed")[0]["log_tail"],
        "",
        "for everybody"
    );
    let said = instance.say(&["status", "--json"]).out;
    let status: Value = serde_json::from_str(&said).unwrap();
    let failed = gone_of(&status, "failed");
    assert!(
        failed[0]["log_tail"]
            .as_str()
            .unwrap()
            .contains("made of cheese"),
        "{failed:?}"
    );
    instance.wait_status("a second try", PATIENCE, |status| {
        status["counts"]["failed"].as_u64() >= Some(2)
    });
    // It wraps its lines.
    let why = || {
        instance
            .say(&["why"])
            .must(0, &[])
            .out
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let said = poll(PATIENCE, || {
        Some(why()).filter(|text| text.contains("'broken' is tried again in"))
    })
    .expect("between tries");
    assert!(said.contains("exit code 3"), "{said}");
    instance.wait_containers("nothing left", PATIENCE, <[_]>::is_empty);
}
