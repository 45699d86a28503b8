//! Daemons come and go while pilots run; others use the same engine.

use crate::common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn stop_leaves_the_pilots_and_start_takes_them_over() {
    let instance = Instance::new(&config("1s", 2, &sleeper()));
    instance.done("stop");
    instance.say("start").must(0, &["plancton status"]);
    let pilots = instance.wait_running(2);
    instance.say("start").must(0, &["already"]);
    instance.wait_listed(2);
    let how = ["2 pilots", "plancton force-stop"];
    instance.say("stop").must(0, &how);
    instance.say("status").must(3, &[]);
    assert_eq!(instance.running_ids(), pilots);
    instance.done("start");
    instance.wait_status(|status| status["loop"]["turns"].as_u64() > Some(4));
    instance.wait_listed(2);
    assert_eq!(instance.running_ids(), pilots);
    instance.done("force-stop");
    assert_eq!(instance.containers(), []);
}

#[test]
fn a_crash_at_any_moment_doubles_and_loses_nothing() {
    const MOST: usize = 6; // as configured
    // So small that all fit even while others use every core.
    let small = sleeper().replace("cpus = 0.1", "cpus = 0.05");
    let text = config("1s", 6, &small).replace("[share]", "launches-per-tick = 2\n[share]");
    let mut instance = Instance::new(&text);
    let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let name = instance.name.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let list = containers(&name).into_iter();
                let states = ["created", "running", "paused"];
                let holds_room = |one: &Container| states.contains(&one.state.as_str());
                most.fetch_max(list.filter(holds_room).count(), Ordering::Relaxed);
                std::thread::sleep(seconds(0.03));
            }
        });
        // The watch must end whatever happens here.
        let crashes = || crash_often(&mut instance, MOST);
        let crashes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(crashes));
        over.store(true, Ordering::Relaxed);
        crashes.unwrap();
    });
    // The most containers at a time that held room.
    assert_eq!(most.into_inner(), MOST);
}

fn crash_often(instance: &mut Instance, most: usize) {
    for round in 0..6 {
        let before = instance.running_ids();
        instance.run("");
        // The first launches come about a second after the start; the rest of the moment is drawn.
        let moment = 0.9 + 0.25 * f64::from(round) + epoch().fract() / 4.0;
        std::thread::sleep(seconds(moment));
        instance.crash();
        let are_kept = instance.running_ids().is_superset(&before);
        assert!(are_kept, "round {round}: lost some of {before:?}");
        // Room for launches in each round: as if some had ended. A start that was in flight may still come up.
        until(|| {
            let running = instance.running_ids();
            let too_many = (running.len() + 3).saturating_sub(most);
            running.iter().take(too_many).for_each(|id| kill(id));
            too_many == 0
        });
    }
    let before = instance.running_ids();
    instance.run("");
    instance.wait_running(most);
    let are_kept = instance.running_ids().is_superset(&before);
    assert!(are_kept, "lost some of {before:?}");
    stays(seconds(2.0), || instance.running_ids());
}

#[test]
fn two_instances_leave_each_other_alone_and_count_each_other() {
    let one = Instance::running(&config("1s", 2, &sleeper()));
    let mut two = Instance::running(&config("1s", 2, &sleeper()));
    let (ones, twos) = (one.wait_running(2), two.wait_running(2));
    // Theirs are taken room, and only our own are listed.
    one.wait_status(|status| {
        let (others, cpus) = (&status["others"], &status["cpus"]);
        let is_counted =
            others["pilots"].as_u64() >= Some(2) && others["cpus"].as_f64() >= Some(0.2);
        is_counted && cpus["given"].as_f64() >= Some(0.39)
    });
    one.wait_listed(2);
    one.done("force-stop");
    assert_eq!(one.containers(), []);
    assert_eq!(two.running_ids(), twos);
    assert!(ones.is_disjoint(&twos));
    two.crash();
    one.say("reap").must(0, &["0 pilots"]);
    one.done("purge");
    assert_eq!(two.running_ids(), twos);
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let mut instance = Instance::new(&config("1s", 1, &sleeper()));
    let theirs = json!({LABEL: format!("{}x", instance.name)});
    let stranger = |what: &str, labels: &Value, command: &[&str]| {
        let name = format!("plancton-sleeper-{what}{}", std::process::id());
        Stranger::new(&name, labels, command)
    };
    let near = json!({"io.plancton": instance.name, "io.plancton.instance.x": instance.name});
    let mut over = theirs.clone();
    over["io.plancton.deadline"] = "1000".into();
    let sleep = ["sleep", "600"];
    let strangers = [
        (stranger("plain", &json!({}), &sleep), "running"),
        (stranger("near", &near, &sleep), "running"),
        (stranger("other", &over, &sleep), "running"),
        (stranger("ended", &theirs, &["true"]), "exited"),
        (stranger("paused", &theirs, &sleep), "paused"),
    ];
    strangers[4].0.post("pause");
    instance.run("");
    instance.wait_running(1);
    instance.done("snooze 1s");
    instance.done("drain --by 1s --stop");
    assert_eq!(instance.wait_end(), 0);
    for command in ["reap", "force-stop", "purge"] {
        instance.done(command);
        for (stranger, state) in &strangers {
            let seen = inspect(&stranger.0).unwrap();
            assert_eq!(seen["State"]["Status"], *state, "after {command}");
        }
    }
    assert_eq!(instance.containers(), []);
}

/// An engine that is not there is a state, and it ends when the engine comes.
#[test]
fn an_engine_that_comes_later() {
    let mut instance = Instance::new(&config("1s", 1, &sleeper()));
    let later = instance.path("engine.sock");
    let real = std::mem::replace(&mut instance.socket, later);
    instance.run("");
    instance.wait_reason("engine-down");
    instance.done("health");
    std::os::unix::fs::symlink(real, &instance.socket).unwrap();
    instance.wait_running(1);
    instance.wait_well();
}
