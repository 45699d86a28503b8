//! Daemons come and go while pilots run; others use the same engine.

use crate::common::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

#[test]
fn stop_leaves_the_pilots_and_start_takes_them_over() {
    let instance = Instance::new(&config("1s", 2, &sleeper()));
    instance.say(&["stop"]).must(0, &["is not running"]);
    instance
        .say(&["start"])
        .must(0, &["plancton runs", "plancton status"]);
    let pilots = instance.wait_running(2);
    instance.say(&["start"]).must(0, &["already running"]);
    instance.wait_status("both in status", PATIENCE, |status| {
        status["pilots"].as_array().unwrap().len() == 2
    });
    instance
        .say(&["stop"])
        .must(0, &["2 pilots go on", "plancton force-stop"]);
    instance.say(&["status"]).must(3, &["is not running"]);
    assert_eq!(instance.running_ids(), pilots);

    instance.say(&["start"]).must(0, &[]);
    let status = instance.wait_status("two pilots", PATIENCE, |status| {
        status["pilots"].as_array().unwrap().len() == 2
    });
    let ids: BTreeSet<String> = status["pilots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, pilots);
    instance.wait_status("a few ticks", PATIENCE, |status| {
        status["loop"]["turns"].as_u64() > Some(4)
    });
    assert_eq!(instance.running_ids(), pilots);
    instance
        .say(&["force-stop"])
        .must(0, &["removed its pilots"]);
    assert_eq!(instance.containers(), []);
}

#[test]
fn a_crash_at_any_moment_doubles_and_loses_nothing() {
    const MOST: usize = 6; // as configured
    // So small that all fit even while others use every core.
    let small = sleeper().replace("cpus = 0.1", "cpus = 0.05");
    let mut instance = Instance::new(
        &config("1s", 6, &small).replace("[share]", "launches-per-tick = 2\n[share]"),
    );
    let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let name = instance.name.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let number = containers(&name)
                    .iter()
                    .filter(|one| one.holds_room())
                    .count();
                most.fetch_max(number, Ordering::Relaxed);
                std::thread::sleep(seconds(0.03));
            }
        });
        // The watch must end whatever happens here.
        let crashes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            crash_often(&mut instance, MOST)
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = crashes {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(
        most.into_inner(),
        MOST,
        "the most containers at a time that held room"
    );
}

fn crash_often(instance: &mut Instance, most: usize) {
    let nanoseconds = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    for round in 0..6 {
        let before = instance.running_ids();
        instance.run(&[]);
        // The first launches come about a second after the start.
        let moment = 0.9
            + 0.25 * f64::from(round)
            + f64::from(nanoseconds % 1_000 * (round + 1) % 1_000) / 4_000.0;
        std::thread::sleep(seconds(moment));
        instance.crash();
        let after = instance.running_ids();
        assert!(
            after.is_superset(&before),
            "round {round}: lost some of {before:?}"
        );
        // Capacity for launches in each round: as if some had ended.
        // A start that was in flight may still come up, so they are counted again each time.
        if after.len() + 2 > most {
            let few = poll(PATIENCE, || {
                let running = instance.running_ids();
                running
                    .iter()
                    .take((running.len() + 3).saturating_sub(most))
                    .for_each(|id| kill(id));
                (running.len() + 3 <= most).then_some(())
            });
            few.expect("some are killed");
        }
    }
    let before = instance.running_ids();
    instance.run(&[]);
    instance.wait_containers("all slots held, and nothing else there", PATIENCE, |list| {
        list.len() == most && list.iter().all(Container::holds_room)
    });
    assert!(
        instance.running_ids().is_superset(&before),
        "lost some of {before:?}"
    );
    stays(seconds(2.0), || {
        instance
            .containers()
            .into_iter()
            .map(|one| one.id)
            .collect::<BTreeSet<_>>()
    });
}

#[test]
fn two_instances_leave_each_other_alone_and_count_each_other() {
    let one = Instance::running(&config("1s", 2, &sleeper()));
    let mut two = Instance::running(&config("1s", 2, &sleeper()));
    let (ones, twos) = (one.wait_running(2), two.wait_running(2));
    let status = one.wait_status("two others", PATIENCE, |status| {
        status["others"]["pilots"].as_u64() >= Some(2)
    });
    assert!(
        status["others"]["cpus"].as_f64() >= Some(0.2),
        "{:#}",
        status["others"]
    );
    assert!(
        status["cpus"]["given"].as_f64() >= Some(0.39),
        "theirs are taken room: {:#}",
        status["cpus"]
    );
    assert_eq!(
        status["pilots"].as_array().unwrap().len(),
        2,
        "only our own are listed"
    );
    one.say(&["force-stop"]).must(0, &[]);
    assert_eq!(
        (one.containers().len(), two.running_ids()),
        (0, twos.clone())
    );
    assert!(ones.is_disjoint(&twos));
    two.crash();
    one.say(&["reap"]).must(0, &["0 pilots"]);
    one.say(&["purge"]).must(0, &[]);
    assert_eq!(two.running_ids(), twos);
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let mut instance = Instance::new(&config("1s", 1, &sleeper()));
    let name = |what: &str| format!("plancton-sleeper-{what}{}", std::process::id());
    let sleep = ["sleep", "600"];
    let theirs = format!("{}x", instance.name);
    let strangers = [
        Stranger::new(&name("plain"), &json!({}), &sleep),
        Stranger::new(
            &name("near"),
            &json!({"io.plancton": instance.name, "io.plancton.instance.x": instance.name}),
            &sleep,
        ),
        // Long over, and of another instance whose name only begins like ours.
        Stranger::new(
            &name("other"),
            &json!({LABEL: theirs, "io.plancton.deadline": "1000"}),
            &sleep,
        ),
    ];
    let ended = Stranger::new(&name("ended"), &json!({LABEL: theirs}), &["true"]);
    let paused = Stranger::new(&name("paused"), &json!({LABEL: theirs}), &sleep);
    paused.act("POST", "/pause");
    instance.run(&[]);
    instance.wait_running(1);
    instance.say(&["snooze", "1s"]).must(0, &[]);
    instance
        .say(&["drain", "--by", "1s", "--stop"])
        .must(0, &[]);
    assert_eq!(instance.wait_end(), 0);
    for command in ["reap", "force-stop", "purge"] {
        instance.say(&[command]).must(0, &[]);
        for stranger in &strangers {
            assert!(
                is_running(&stranger.0),
                "after {command}: {:#?}",
                inspect(&stranger.0)
            );
        }
        assert_eq!(
            inspect(&ended.0).unwrap()["State"]["Status"],
            "exited",
            "after {command}"
        );
        assert_eq!(
            inspect(&paused.0).unwrap()["State"]["Status"],
            "paused",
            "after {command}"
        );
    }
    assert_eq!(instance.containers(), []);
}

#[test]
fn a_second_daemon_is_refused() {
    let instance = Instance::running(&config("1s", 1, &sleeper()));
    instance.wait_running(1);
    let start = Instant::now();
    let pid = format!("(pid {})", instance.pid());
    instance.say(&["run"]).must(
        1,
        &[&instance.run_dir().display().to_string(), &pid, "--run-dir"],
    );
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(instance.say(&["health"]).code, 0, "the first one goes on");
}
