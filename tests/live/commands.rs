//! What the owner asks for, and how soon it is so. The interval is long, so that only the command itself can be what
//! woke the loop.

use crate::common::*;
use std::time::{Duration, Instant};

const INTERVAL: &str = "40s";
/// A command is carried out within this …
const AT_ONCE: Duration = Duration::from_secs(1);
/// … unless others take the machine's CPUs just then; but never as late as a tick.
const DISTURBED: Duration = Duration::from_secs(30);

/// Gives a command and waits until `is_so`: the seconds from its call on.
fn carried_out(instance: &Instance, command: &[&str], is_so: impl Fn() -> bool) -> f64 {
    let start = Instant::now();
    instance.say(command).must(0, &[]);
    let so = poll(DISTURBED, || is_so().then(|| start.elapsed().as_secs_f64()));
    so.unwrap_or_else(|| {
        panic!(
            "{command:?}: not within {DISTURBED:?}, but {:#?}",
            instance.containers()
        )
    })
}

fn state_is(instance: &Instance, state: &str) -> bool {
    instance
        .status()
        .is_some_and(|status| status["state"] == state)
}

fn all_are(instance: &Instance, state: &str) -> bool {
    let list = instance.containers();
    !list.is_empty() && list.iter().all(|one| one.state == state)
}

#[test]
fn drain_resume_and_snooze_take_effect_at_once() {
    let instance = Instance::running(&config(INTERVAL, 3, &sleeper()));
    let pilots = instance.wait_running(3);
    let mut best = [f64::INFINITY; 4];
    for _ in 0..5 {
        let took = [
            carried_out(&instance, &["drain"], || state_is(&instance, "draining")),
            carried_out(&instance, &["resume"], || state_is(&instance, "active")),
            carried_out(&instance, &["snooze", "1h"], || {
                all_are(&instance, "paused")
            }),
            carried_out(&instance, &["resume"], || all_are(&instance, "running")),
        ];
        println!("drain, resume, snooze, resume took {took:.3?} s");
        best = std::array::from_fn(|number| best[number].min(took[number]));
        if best.iter().all(|seconds| *seconds <= AT_ONCE.as_secs_f64()) {
            break;
        }
    }
    assert!(
        best.iter().all(|seconds| *seconds <= AT_ONCE.as_secs_f64()),
        "best of five, in seconds: {best:?}"
    );
    assert_eq!(instance.running_ids(), pilots, "the same pilots as before");
}

#[test]
fn a_snooze_ends_by_itself() {
    let instance = Instance::running(&config(INTERVAL, 1, &sleeper()));
    let pilots = instance.wait_running(1);
    instance
        .say(&["snooze", "3s"])
        .must(0, &["snoozing for 3s", "plancton resume"]);
    let start = Instant::now();
    instance.wait_containers("paused", DISTURBED, |list| {
        list.iter().all(|one| one.state == "paused")
    });
    instance.wait_status("snoozed", DISTURBED, |status| status["state"] == "snoozed");
    instance
        .say(&["status"])
        .must(0, &["noozed", "plancton resume"]);
    instance.wait_containers("awake", PATIENCE, |list| {
        list.iter().all(|one| one.state == "running")
    });
    assert!(start.elapsed() >= seconds(2.5), "{:?}", start.elapsed());
    assert_eq!(instance.running_ids(), pilots);
}

#[test]
fn a_drain_launches_nothing_and_survives_a_restart() {
    let mut instance = Instance::running(&config("1s", 2, &sleeper()));
    let pilots = instance.wait_running(2);
    instance.say(&["drain"]).must(0, &["plancton resume"]);
    instance.wait_status("draining", PATIENCE, |status| status["state"] == "draining");
    let (first, second) = (pilots.first().unwrap(), pilots.last().unwrap());
    instance
        .say(&["kill", &first[..12]])
        .must(0, &["was killed"]);
    instance.wait_containers("one less", PATIENCE, |list| list.len() == 1);

    assert_eq!(instance.end(), 0);
    instance
        .say(&["status"])
        .must(3, &["a drain is in force", "plancton resume"]);
    instance.run(&[]);
    let status = instance.wait_status("draining", PATIENCE, |status| {
        !status["cpus"]["foreign"].is_null()
    });
    assert_eq!(
        (&status["state"], &status["reason"]["code"]),
        (&"draining".into(), &"drain".into())
    );
    stays(seconds(2.0), || instance.containers());
    assert_eq!(instance.running_ids().iter().collect::<Vec<_>>(), [second]);
    let line = instance.say(&["status"]).must(0, &[]).out;
    assert!(
        line.lines().next().unwrap().contains("plancton resume"),
        "the first line says how to end it: {line}"
    );

    instance.say(&["resume"]).must(0, &[]);
    assert!(instance.wait_running(2).contains(second));
}

#[test]
fn drain_stop_ends_the_daemon_with_the_last_pilot() {
    let mut instance = Instance::running(&config(INTERVAL, 2, &sleeper()));
    let pilots = instance.wait_running(2);
    instance
        .say(&["drain", "--stop"])
        .must(0, &["ends with the last"]);
    instance.wait_status("draining", DISTURBED, |status| {
        status["state"] == "draining"
    });
    assert!(instance.control("drain").exists());
    for (number, id) in pilots.iter().enumerate() {
        assert!(!instance.has_ended(), "with {number} of 2 pilots gone");
        kill(id);
        instance.wait_containers("one less", DISTURBED, |list| list.len() == 1 - number);
    }
    assert_eq!(instance.wait_end(), 0);
    assert!(
        !instance.control("drain").exists(),
        "it is carried out, and so consumed"
    );
    instance.run(&[]);
    instance.wait_running(2);
}

#[test]
fn drain_by_stops_what_still_runs_then() {
    let mut instance = Instance::running(&config(INTERVAL, 2, &sleeper()));
    instance.wait_running(2);
    let start = Instant::now();
    instance
        .say(&["drain", "--by", "2s"])
        .must(0, &["is stopped"]);
    instance.wait_containers("no pilot", PATIENCE, <[_]>::is_empty);
    assert!(
        start.elapsed() >= seconds(1.9),
        "stopped already after {:?}",
        start.elapsed()
    );
    let status = instance.wait_status("both counted", PATIENCE, |status| {
        status["counts"]["drained"] == 2
    });
    assert_eq!(status["state"], "draining");
    assert!(!instance.has_ended(), "without --stop the daemon stays");
    instance
        .say(&["drain", "--by", "yesterday"])
        .must(64, &["'yesterday' is not a time"]);
}

#[test]
fn force_stop_removes_every_pilot_and_ends_the_daemon() {
    // A TERM would not do.
    let mut instance = Instance::running(&config(INTERVAL, 3, &stubborn("stop-grace = \"5m\"")));
    instance.wait_running(3);
    carried_out(&instance, &["force-stop"], || {
        instance.running_ids().is_empty()
    });
    assert_eq!(instance.wait_end(), 0);
    assert_eq!(instance.containers(), []);
    assert!(
        !instance.control("force-stop").exists(),
        "it is carried out, and so consumed"
    );

    instance.run(&[]);
    instance.wait_running(3);
    instance.crash();
    instance.say(&["force-stop"]).must(0, &["3 pilots"]);
    assert_eq!(
        instance.containers(),
        [],
        "without a daemon the command does it"
    );
}

#[test]
fn kill_ends_one_pilot_of_ours() {
    let instance = Instance::running(&config(INTERVAL, 2, &sleeper()));
    let other = Instance::running(&config(INTERVAL, 1, &sleeper()));
    let pilots = instance.wait_running(2);
    let theirs = other.wait_running(1);
    let name = instance.containers()[0].name.clone();
    instance
        .say(&["kill", &name])
        .must(0, &[&name, "was killed"]);
    assert!(
        poll(DISTURBED, || (instance.running_ids() != pilots)
            .then_some(()))
        .is_some(),
        "{name} still runs"
    );
    for wrong in [
        "plancton-nobody-000000",
        &theirs.first().unwrap()[..12],
        "a",
    ] {
        instance
            .say(&["kill", wrong])
            .must(1, &[wrong, "is no pilot of", "plancton status"]);
    }
    assert_eq!(other.running_ids(), theirs);
    assert!(
        instance.wait_running(2).intersection(&pilots).count() == 1,
        "another one takes its place"
    );
}
