//! How pilots end, and what comes after them.

use crate::common::*;

#[test]
fn a_slot_is_filled_again_at_once() {
    let instance = Instance::running(&config("40s", 3, &sleeper()));
    for _ in 0..3 {
        let pilots = instance.wait_running(3);
        kill(pilots.first().unwrap());
        instance.until(|| instance.running_ids().difference(&pilots).count() == 1);
    }
    instance.wait_running(3);
    instance.wait_for("/counts/killed", 3);
    instance.wait_for("/counts/launches", 6);
}

/// Of the only pilot, once it has its trap: its id and when its time is up.
fn deadline_of(instance: &Instance) -> (String, f64) {
    let id = instance.wait_one();
    logs_with(&id, "ready");
    let label = inspect(&id).unwrap()["Config"]["Labels"]["io.plancton.deadline"].clone();
    (id, label.as_str().unwrap().parse().unwrap())
}

/// Labels are whole seconds, so that each end may come up to one earlier.
const ROUNDING: f64 = 1.1;

/// Polite, stubborn, and stubborn while paused: all end by their ttl and their grace, not at a tick.
#[test]
fn a_ttl_holds() {
    let words = "trap 'exit 7' TERM; echo ready; sleep 600 & wait";
    let times = "ttl = \"25s\"\nstop-grace = \"5s\"";
    let polite = pilot("polite", &["sh", "-c", words], times);
    let deaf = stubborn("ttl = \"25s\"\nstop-grace = \"2s\"");
    let cases = [
        (polite, 7, 0.0, false),
        (deaf.clone(), 137, 2.0, false),
        (deaf, 137, 2.0, true),
    ];
    at_once(cases, |(class, exit_code, grace, is_paused)| {
        let instance = Instance::running(&config("40s", 1, &class));
        let (id, deadline) = deadline_of(&instance);
        if is_paused {
            instance.done("snooze 1h");
            instance.wait_containers(|list| are(list, "paused"));
        }
        until(|| !is_running(&id));
        let early = deadline + grace - epoch();
        assert!(early <= ROUNDING, "{early} s too early");
        let status = instance.wait_count("ttl", 1);
        let mut gone = members(&status["gone"]).iter();
        let gone = gone.find(|gone| gone["kind"] == "ttl").unwrap();
        assert!(is_paused || gone["exit_code"] == exit_code, "{gone}");
        // An end by ttl is no failure.
        assert_eq!(status["counts"]["failed"], Value::Null);
    });
}

#[test]
fn reap_ends_what_outlived_its_daemon_and_needs_no_lock() {
    let class = stubborn("ttl = \"15s\"\nstop-grace = \"1s\"");
    let mut instance = Instance::running(&config("1s", 1, &class));
    let (id, deadline) = deadline_of(&instance);
    if epoch() < deadline - 5.0 {
        instance.say("reap").must(0, &["0 pilots"]);
    }
    instance.crash();
    until(|| epoch() > deadline + ROUNDING);
    if is_running(&id) {
        instance.say("reap").must(0, &["1 pilot"]);
    }
    assert_eq!(instance.containers(), []);
}

#[test]
fn a_pilot_that_fails_waits_longer_and_longer() {
    let words = "echo the disk is made of cheese; exit 3";
    let instance = Instance::running(&config("1s", 2, &pilot("broken", &["sh", "-c", words], "")));
    instance.wait_reason("back-off");
    let status = instance.wait_text("exit code 3");
    // What it said last is not for everybody.
    let is_it = |gone: &Value| gone["kind"] == "failed" && gone["log_tail"] == "";
    assert!(members(&status["gone"]).iter().any(is_it), "{status}");
    instance.say("log").must(0, &["made of cheese"]);
    instance.wait_count("failed", 2);
    instance.wait_reason("back-off");
    instance.wait_none();
}
