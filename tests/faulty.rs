//! The real binary against an engine that does everything wrong. What must hold whatever an engine does: a doubtful
//! answer changes nothing, nothing foreign is touched, no slot is filled twice, nothing spins, and the daemon lives.
// threads: 16
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

use fake_engine::{Call, FakeEngine, Fault, epoch};
use machine::{Machine, PATIENCE, at_once, becomes};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const LABEL: &str = "io.plancton.instance";
const CHANGES: [&str; 6] = ["create", "start", "kill", "pause", "unpause", "remove"];

/// One class of one-core pilots, looked at each second; `share` are lines of [share].
fn config(share: &str) -> String {
    configured("1s", "1s", share, "")
}

fn configured(interval: &str, timeout: &str, share: &str, pilot: &str) -> String {
    format!(
        "[loop]\ninterval = \"{interval}\"\nlaunches-per-tick = 4\n[engine]\ntimeout = \"{timeout}\"\n\
         [share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\n{share}\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\nstop-grace = \"1s\"\n{pilot}\n"
    )
}

fn changes(calls: &[Call]) -> Vec<(&'static str, String)> {
    let changing = calls.iter().filter(|call| CHANGES.contains(&call.what));
    changing
        .map(|call| (call.what, call.object.clone()))
        .collect()
}

/// The calls that come while this time passes.
fn calls_during(engine: &FakeEngine, time: Duration) -> Vec<Call> {
    let before = engine.world().calls.len();
    let start = Instant::now();
    becomes(time, || start.elapsed() >= time);
    engine.world().calls[before..].to_vec()
}

fn times(calls: &[Call], what: &str) -> usize {
    calls.iter().filter(|call| call.what == what).count()
}

#[test]
fn a_list_that_fails_changes_nothing() {
    let text = |text| Fault::Body(text);
    let faults = [
        Fault::Garbage,
        Fault::Truncated,
        Fault::Stall,
        Fault::LostReply,
        Fault::Huge,
        Fault::Drip,
        Fault::Status(500, "server error"),
        Fault::Status(404, "page not found"),
        Fault::Status(
            400,
            "client version 1.41 is too new. Maximum supported API version is 1.40",
        ),
        Fault::Status(204, ""),
        text("{oops"),
        text("null"),
        text("{}"),
        text(""),
        text(r#"[{"Names":["/plancton-p-000000"],"State":"running"}]"#),
        text(r#"[{"Id":"../../etc","State":"running"}]"#),
    ];
    at_once(faults, |fault| {
        let mut machine = Machine::new();
        machine.start(&config("max-pilots = 3"));
        machine.wait_for_pilots(3);
        // There would be much to do: one to remove and replace, one too old to have been forgotten by us.
        machine.engine.fault("list", fault.clone());
        let running = machine.engine.in_state("running");
        machine.engine.end(&running[0], 0);
        machine
            .engine
            .add(Some("plancton-p-old"), "created", 600.0, &[(LABEL, "t1")]);
        machine.wait_for("the engine counts as down", || {
            machine.reason() == "engine-down"
        });
        let calls = calls_during(&machine.engine, Duration::from_secs(3));
        assert_eq!(changes(&calls), [], "{fault:?}");
        assert!(
            !calls.is_empty() && calls.len() <= 40,
            "{fault:?}: {} calls in 3 s",
            calls.len()
        );
        assert_eq!(machine.status()["state"], "waiting", "{fault:?}");
        machine.assert_well();
        machine.engine.mend();
        machine.wait_for("all is done then", || {
            machine.engine.in_state("running").len() == 3
                && machine.engine.world().containers.len() == 3
        });
        machine.wait_for("the end is counted", || {
            machine.status()["counts"]["done"] == 1
        });
    });
}

#[test]
fn nothing_without_our_exact_label_is_touched() {
    let mut machine = Machine::new();
    machine.engine.world().ignores_filter = true;
    let mut foreign = Vec::new();
    for state in [
        "exited",
        "created",
        "dead",
        "running",
        "paused",
        "restarting",
        "configured",
    ] {
        for labels in [
            &[][..],
            &[
                ("io.plancton.class", "p"),
                ("io.plancton.expires", "x:0"),
                ("io.plancton.deadline", "1"),
            ],
            &[(LABEL, ""), ("io.plancton.cpus", "0.01")],
            &[(LABEL, "T1"), ("io.plancton.cpus", "0.01")],
            &[
                (LABEL, "t1 "),
                ("io.plancton.cpus", "0.01"),
                ("io.plancton.deadline", "1"),
            ],
            &[(LABEL, "t11"), ("io.plancton.cpus", "0.01")],
            &[("IO.PLANCTON.INSTANCE", "t1")],
        ] {
            let name = format!("plancton-p-{:06x}", foreign.len());
            foreign.push(machine.engine.add(Some(&name), state, 1000.0, labels));
        }
    }
    machine.start(&config("max-pilots = 3"));
    machine.wait_for("3 of our own run", || {
        machine
            .engine
            .world()
            .containers
            .iter()
            .filter(|c| c.labels.get(LABEL).is_some_and(|l| l == "t1"))
            .count()
            == 3
    });
    machine.wait_for("the others are counted", || {
        machine.status()["others"]["pilots"] == 20
    });
    assert!(machine.tell(&["snooze", "1h"]).status.success());
    machine.wait_for("3 are paused", || machine.engine.count_calls("pause") == 3);
    assert!(machine.tell(&["force-stop"]).status.success());
    machine.wait_for_end(PATIENCE);
    let world = machine.engine.world();
    assert_eq!(world.containers.len(), foreign.len(), "only ours are gone");
    let touched: Vec<&Call> = world
        .calls
        .iter()
        .filter(|call| foreign.contains(&call.object) && call.what != "inspect")
        .collect();
    assert!(touched.is_empty(), "{touched:?}");
}

#[test]
fn others_count_as_taken() {
    let mut machine = Machine::new();
    for (state, cpus) in [
        ("running", "6"),
        ("created", "2.5"),
        ("configured", "2"),
        ("paused", "garbage"),
    ] {
        machine.engine.add(
            None,
            state,
            5.0,
            &[(LABEL, "other"), ("io.plancton.cpus", cpus)],
        );
    }
    machine.start(&config(""));
    // 16 less 6, 2.5, 2, and one core for what cannot be read; a paused one holds its promise but uses no CPU.
    machine.wait_for("what is left is filled", || machine.reason() == "full");
    machine.wait_for("four run beside the other", || {
        machine.engine.in_state("running").len() == 5
    });
    let calls = calls_during(&machine.engine, Duration::from_secs(2));
    assert_eq!(changes(&calls), []);
    assert!(
        machine.status()["others"]["cpus"] == 11.5,
        "{}",
        machine.status()
    );
}

#[test]
fn own_containers_in_odd_states() {
    let mut machine = Machine::new();
    let own = [
        (LABEL, "t1"),
        ("io.plancton.class", "p"),
        ("io.plancton.cpus", "1"),
    ];
    let add = |name, state, age| machine.engine.add(name, state, age, &own);
    let gone = [
        add(Some("plancton-p-00000a"), "created", 200.0),
        add(Some("plancton-p-00000b"), "dead", 5.0),
        add(Some("plancton-p-00000c"), "exited", 5.0),
        add(None, "exited", 5.0),
        add(Some("plancton-p-00000d"), "created", 20.0),
    ];
    let left = [
        add(Some("plancton-p-00000e"), "removing", 500.0),
        add(Some("plancton-p-00000f"), "configured", 500.0),
        add(None, "running", 30.0),
        add(Some("plancton-p-000010"), "", 500.0),
    ];
    machine.start(&config("max-pilots = 3"));
    machine.wait_for("what is over is removed", || {
        gone.iter()
            .all(|id| machine.engine.world().find(id).is_none())
    });
    let calls = calls_during(&machine.engine, Duration::from_secs(3));
    assert_eq!(changes(&calls), []);
    let world = machine.engine.world();
    let touched: Vec<&Call> = world
        .calls
        .iter()
        .filter(|call| left.contains(&call.object) && call.what != "inspect")
        .collect();
    assert!(touched.is_empty(), "{touched:?}");
    assert_eq!(
        times(&world.calls, "create"),
        0,
        "configured, unnamed and unknown hold the three slots"
    );
    assert!(gone.iter().all(|id| {
        world
            .calls
            .iter()
            .filter(|c| c.what == "remove" && c.object == *id)
            .count()
            == 1
    }));
    drop(world);
    let pilots = machine.status()["pilots"].clone();
    let unnamed = &left[2];
    assert!(
        pilots
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["id"] == **unnamed && p["name"] == unnamed[..12]),
        "{pilots}"
    );
}

#[test]
fn a_failed_launch_backs_off() {
    let cases = [
        ("create", Fault::Status(500, "no space left on device")),
        ("create", Fault::Status(400, "invalid reference")),
        ("create", Fault::Status(409, "the name is already in use")),
        ("create", Fault::Status(404, "page not found")),
        ("create", Fault::Garbage),
        ("create", Fault::Body("{}")),
        ("create", Fault::Stall),
        ("create", Fault::Huge),
        ("start", Fault::Status(500, "OCI runtime create failed")),
        ("start", Fault::Status(409, "it is being removed")),
        ("start", Fault::Status(404, "No such container: x")),
        ("start", Fault::Status(400, "bad")),
        (
            "create",
            Fault::Warning("Your kernel does not support CPU CFS scheduler. Limitation discarded."),
        ),
    ];
    at_once(cases, |(what, fault)| {
        let mut machine = Machine::new();
        machine.engine.fault(what, fault.clone());
        machine.start(&config("max-pilots = 8"));
        machine.wait_for("a first try", || machine.engine.count_calls(what) > 0);
        let calls = calls_during(&machine.engine, Duration::from_millis(3500));
        assert!(
            times(&calls, "create") <= 1,
            "{what} {fault:?}: {:?}",
            changes(&calls)
        );
        machine.wait_for("it says so", || machine.reason() == "back-off");
        if what == "start" {
            // Never more than the one that a second try has under way.
            machine.wait_for("nothing is left of it", || {
                machine.engine.world().containers.len() <= 1
            });
        }
        machine.assert_well();
        machine.engine.mend();
        let is_full = || machine.engine.world().containers.len() == 8;
        machine.wait_within(
            Duration::from_secs(30),
            "all slots are filled then",
            is_full,
        );
        assert!(machine.engine.world().most <= 8, "{what} {fault:?}");
    });
}

#[test]
fn a_pull_is_told_as_it_goes_on_and_given_up_when_it_stands_still() {
    let mut machine = Machine::new();
    for what in ["create", "image"] {
        machine
            .engine
            .fault(what, Fault::Status(404, "No such image: fake:1"));
    }
    let steps = &[
        r#"{"status":"Pulling from fake","id":"1"}"#,
        r#"{"status":"Downloading","progressDetail":{"current":1000,"total":3000},"id":"a"}"#,
        r#"{"status":"Downloading","progressDetail":{"current":2000,"total":6000},"id":"b"}"#,
        r#"{"status":"Downloading","progressDetail":{"current":3000,"total":3000},"id":"a"}"#,
        r#"{"status":"Extracting","progressDetail":{"current":1,"total":3000},"id":"a"}"#,
        r#"{"status":"Downloading","progressDetail":{"current":4000,"total":6000},"id":"b"}"#,
    ];
    machine.engine.fault("pull", Fault::Steps(steps));
    // A pull may stand still for four times that second.
    machine.start(&config("max-pilots = 2"));
    let pull = || {
        (
            machine.status()["pull"]["bytes"].as_u64(),
            machine.status()["pull"]["total"].as_u64(),
        )
    };
    machine.wait_for("the first layer", || pull() == (Some(1000), Some(3000)));
    assert_eq!(machine.status()["pull"]["image"], "fake:1");
    let told = String::from_utf8(machine.tell(&["status"]).stdout).unwrap();
    assert!(
        told.lines()
            .any(|line| line.contains("Pulling") && line.contains("fake:1: ")),
        "{told}"
    );
    machine.wait_for("both layers, after five seconds", || {
        pull() == (Some(7000), Some(9000))
    });
    let stands_still = Instant::now();
    machine.wait_for("it is given up", || machine.reason() == "back-off");
    let took = stands_still.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(12)).contains(&took),
        "{took:?}"
    );
    let status = machine.status();
    let text = status["reason"]["text"].as_str().unwrap();
    assert!(
        text.contains("pull fake:1: no answer within 4s") && status["pull"].is_null(),
        "{status}"
    );
    machine.assert_well();
    let gap = machine.status()["loop"]["longest_gap_ms"].as_f64().unwrap();
    assert!(gap < 1_000.0, "the loop waited for {gap} ms");
    let pulls = machine.engine.count_calls("pull");
    machine.engine.mend();
    machine.wait_for("a probe", || !machine.engine.in_state("running").is_empty());
    assert!(machine.engine.count_calls("pull") > pulls);
}

/// A class that has proved itself starts several at a time; when they fail, no more follow.
#[test]
fn failures_of_one_tick_count_once() {
    let mut machine = Machine::new();
    machine.start(&config("max-pilots = 8"));
    machine.wait_for_pilots(8);
    machine.engine.fault("create", Fault::Status(500, "no"));
    for id in machine.engine.in_state("running") {
        machine.engine.end(&id, 0);
    }
    machine.wait_for("they are removed", || {
        machine.engine.world().containers.is_empty()
    });
    machine.wait_for("it says so", || machine.reason() == "back-off");
    let calls = calls_during(&machine.engine, Duration::from_secs(2));
    assert!(times(&calls, "create") <= 1, "{:?}", changes(&calls));
    let made = machine.engine.count_calls("create");
    assert!(
        made <= 8 + 4 + 1,
        "{made} creates: at most launches-per-tick fail together"
    );
}

#[test]
fn lost_replies_never_fill_a_slot_twice() {
    let cases = [
        ("create", Fault::LostReply),
        ("create", Fault::Truncated),
        ("create", Fault::StallAfter),
        ("create", Fault::Late(Duration::from_secs(3))),
        ("start", Fault::LostReply),
        ("start", Fault::Truncated),
        ("start", Fault::StallAfter),
        ("start", Fault::Late(Duration::from_secs(3))),
        ("any", Fault::LostReply),
    ];
    at_once(cases, |(what, fault)| {
        let mut machine = Machine::new();
        machine.start(&config("max-pilots = 2"));
        machine.wait_for_pilots(2);
        machine.engine.fault(what, fault.clone());
        let first = machine.engine.in_state("running")[0].clone();
        machine.engine.end(&first, 0);
        let calls = calls_during(&machine.engine, Duration::from_secs(9));
        assert!(
            times(&calls, "create") <= 3,
            "{what} {fault:?}: {:?}",
            changes(&calls)
        );
        machine.assert_well();
        machine.engine.mend();
        // What was created and never started keeps its slot until it counts as forgotten.
        let holding = || {
            let world = machine.engine.world();
            world
                .containers
                .iter()
                .filter(|c| ["created", "running"].contains(&c.state.as_str()))
                .count()
        };
        machine.wait_for("both slots are taken", || holding() == 2);
        calls_during(&machine.engine, Duration::from_secs(2));
        assert!(holding() <= 2, "{what} {fault:?}");
        machine.wait_for("both slots are taken still, or again", || holding() == 2);
        // The dead one and its replacement are there together for a moment.
        assert!(machine.engine.world().most <= 3, "{what} {fault:?}");
    });
}

#[test]
fn limits_that_are_left_out() {
    let dropped = Fault::Warning(
        "Your kernel does not support memory limit capabilities. Limitation discarded.",
    );
    let swap = Fault::Warning(
        "Your kernel does not support swap limit capabilities. Memory limited without swap.",
    );
    at_once(
        [
            (dropped.clone(), "refuse", false),
            (dropped, "warn", true),
            (swap, "refuse", true),
        ],
        |case| {
            let (warning, missing, is_kept) = case;
            let mut machine = Machine::new();
            machine.engine.fault("create", warning.clone());
            machine.start(&config(&format!(
                "max-pilots = 2\nmissing-limits = \"{missing}\""
            )));
            if is_kept {
                machine.wait_for_pilots(2);
                assert_eq!(machine.engine.count_calls("remove"), 0, "{warning:?}");
                return;
            }
            machine.wait_for("it is refused", || machine.reason() == "back-off");
            assert_eq!(machine.engine.world().containers.len(), 0, "{warning:?}");
            assert_eq!(machine.engine.count_calls("start"), 0, "{warning:?}");
            let reason = machine.status()["reason"]["text"].to_string();
            assert!(
                reason.contains("missing-limits") && reason.contains("memory limit"),
                "{reason}"
            );
        },
    );
}

/// The engine says nothing, but the groups of running pilots have no limit.
#[test]
fn limits_that_do_not_hold() {
    at_once([("refuse", false), ("warn", true)], |(missing, is_kept)| {
        let mut machine = Machine::new();
        machine.engine.world().holds_limits = false;
        machine.start(&config(&format!(
            "max-pilots = 2\nmissing-limits = \"{missing}\""
        )));
        if is_kept {
            machine.wait_for_pilots(2);
            let calls = calls_during(&machine.engine, Duration::from_secs(2));
            assert_eq!(changes(&calls), []);
            return;
        }
        machine.wait_for("it is ended", || machine.engine.count_calls("kill") > 0);
        machine.wait_for("it is removed", || {
            machine.engine.world().containers.is_empty()
        });
        machine.wait_for("it says why", || {
            machine.status()["reason"]["text"]
                .to_string()
                .contains("CPU limit")
        });
    });
}

#[test]
fn an_engine_that_comes_and_goes() {
    let mut machine = Machine::without_engine();
    machine.start(&config("max-pilots = 3"));
    machine.wait_for("it waits for the engine", || {
        machine.reason() == "engine-down"
    });
    let reason = machine.status()["reason"]["text"].to_string();
    assert!(
        reason.contains("engine.sock") && reason.contains("install or start"),
        "{reason}"
    );
    machine.assert_well();
    machine.engine.up();
    machine.wait_for_pilots(3);
    for _ in 0..2 {
        machine.wait_for("all three are told", || {
            machine.status()["pilots"]
                .as_array()
                .is_some_and(|p| p.len() == 3)
        });
        let (before, created) = (
            machine.engine.in_state("running"),
            machine.engine.count_calls("create"),
        );
        machine.engine.down();
        machine.wait_for("the engine counts as down", || {
            machine.reason() == "engine-down"
        });
        machine.assert_well();
        let status = machine.status();
        assert_eq!(
            status["pilots"].as_array().unwrap().len(),
            3,
            "none counts as gone: {status}"
        );
        machine.engine.up();
        let start = Instant::now();
        machine.wait_for("it recovers", || machine.reason() != "engine-down");
        // The interval and what this machine adds.
        assert!(
            start.elapsed() < Duration::from_secs(4),
            "{:?}",
            start.elapsed()
        );
        calls_during(&machine.engine, Duration::from_millis(1500));
        assert_eq!(machine.engine.in_state("running"), before);
        assert_eq!(
            machine.engine.count_calls("create"),
            created,
            "none is made again"
        );
    }
    machine.engine.down();
    machine.wait_for("the engine counts as down", || {
        machine.reason() == "engine-down"
    });
    // What ended while the engine was away.
    let ended = machine.engine.in_state("running")[0].clone();
    machine.engine.end(&ended, 0);
    machine.engine.up();
    machine.wait_for("it is replaced", || {
        machine.engine.in_state("running").len() == 3
            && machine.engine.world().find(&ended).is_none()
    });
}

#[test]
fn an_engine_that_is_too_old() {
    let mut machine = Machine::new();
    machine.engine.world().api = "1.24";
    machine.start(&config("max-pilots = 1"));
    machine.wait_for("it waits", || machine.reason() == "engine-down");
    let reason = machine.status()["reason"]["text"].to_string();
    assert!(
        reason.contains("too old") && reason.contains("1.24") && reason.contains("update"),
        "{reason}"
    );
    machine.assert_well();
    let once = machine.tell(&[
        "--run-dir",
        machine.scratch.0.join("run2").to_str().unwrap(),
        "--instance",
        "t2",
        "run",
        "--once",
    ]);
    assert_eq!(once.status.code(), Some(69), "{once:?}");
    machine.engine.world().api = "1.99";
    machine.wait_for_pilots(1);
}

/// Whatever is asked first: ping, info and the events come before the first list.
#[test]
fn an_engine_that_stumbles_at_the_greeting() {
    let cases = [
        ("ping", Fault::Garbage),
        ("ping", Fault::Status(500, "starting")),
        ("ping", Fault::Status(404, "not found")),
        ("ping", Fault::Stall),
        ("info", Fault::Body("{oops")),
        ("info", Fault::Body("null")),
        ("info", Fault::Huge),
        ("info", Fault::Stall),
        ("info", Fault::Truncated),
        ("any", Fault::Stall),
        ("any", Fault::LostReply),
    ];
    at_once(cases, |(what, fault)| {
        let mut machine = Machine::new();
        machine.engine.fault(what, fault.clone());
        machine.start(&config("max-pilots = 2"));
        machine.wait_for("it waits for the engine", || {
            machine.reason() == "engine-down"
        });
        let calls = calls_during(&machine.engine, Duration::from_secs(2));
        assert!(
            calls.len() <= 12,
            "{what} {fault:?}: {} calls in 2 s",
            calls.len()
        );
        assert_eq!(changes(&calls), [], "{what} {fault:?}");
        machine.assert_well();
        machine.engine.mend();
        machine.wait_for_pilots(2);
    });
}

/// With an interval and a timeout that are longer than anybody waits.
#[test]
fn commands_are_seen_while_the_engine_hangs() {
    at_once(["any", "list"], |what| {
        let mut machine = Machine::new();
        machine.start(&configured("5s", "60s", "max-pilots = 2", ""));
        machine.wait_for_pilots(2);
        machine.engine.fault(what, Fault::Stall);
        let ended = machine.engine.in_state("running")[0].clone();
        machine.engine.end(&ended, 0);
        machine.wait_for("a call hangs", || {
            machine.engine.world().calls.last().unwrap().what == "list"
        });
        for (command, field) in [(&["drain"][..], "drain"), (&["snooze", "1h"], "snooze")] {
            assert!(machine.tell(command).status.success());
            let start = Instant::now();
            machine.wait_for("it is seen", || machine.status()[field].is_object());
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{what} {field}: {:?}",
                start.elapsed()
            );
        }
        assert!(machine.tell(&["resume"]).status.success());
        let start = Instant::now();
        machine.wait_for("it is seen", || {
            machine.status()["drain"].is_null() && machine.status()["snooze"].is_null()
        });
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{what} resume: {:?}",
            start.elapsed()
        );
        assert!(machine.tell(&["health"]).status.success());
        machine.signal(Signal::TERM);
        let (exit, took) = machine.wait_for_end(Duration::from_secs(10));
        assert!(
            exit.success() && took < Duration::from_secs(2),
            "{exit:?} after {took:?}"
        );
        assert!(
            !machine.run_dir().join("status.json").exists(),
            "an end is told"
        );
    });
}

#[test]
fn status_is_written_while_the_engine_hangs() {
    let mut machine = Machine::new();
    machine.start(&configured("1s", "60s", "max-pilots = 2", ""));
    machine.wait_for_pilots(2);
    machine.engine.fault("any", Fault::Stall);
    machine.wait_for("it says that there is no answer", || {
        machine.reason() == "engine-down"
    });
    let calls = calls_during(&machine.engine, Duration::from_secs(3));
    assert!(
        calls.len() <= 1,
        "an engine that has not answered is not asked again: {calls:?}"
    );
    machine.assert_well();
    let text = machine.status()["reason"]["text"].to_string();
    assert!(text.contains("no answer for"), "{text}");
    machine.engine.mend();
    machine.wait_for("it recovers", || machine.reason() != "engine-down");
    assert_eq!(machine.engine.in_state("running").len(), 2);
}

#[test]
fn one_call_a_tick_in_the_steady_state() {
    let mut machine = Machine::new();
    machine.start(&config("max-pilots = 10"));
    machine.wait_for_pilots(10);
    machine.wait_for("all of it is told", || {
        machine.status()["pilots"]
            .as_array()
            .is_some_and(|p| p.len() == 10)
    });
    calls_during(&machine.engine, Duration::from_millis(500));
    let calls = calls_during(&machine.engine, Duration::from_secs(10));
    assert!(calls.iter().all(|call| call.what == "list"), "{calls:?}");
    assert!(
        (5..=11).contains(&calls.len()),
        "{} calls in 10 ticks",
        calls.len()
    );
}

#[test]
fn no_pilot_class_means_no_ticks() {
    let mut machine = Machine::new();
    machine.start("[loop]\ninterval = \"1s\"\n");
    machine.wait_for("it says so", || machine.reason() == "no-pilot");
    // Asked for before the list, and not waited for.
    machine.wait_for("the events are asked for", || {
        machine.engine.count_calls("events") == 1
    });
    let calls = calls_during(&machine.engine, Duration::from_secs(4));
    assert!(calls.is_empty(), "{calls:?}");
    assert!(machine.tell(&["health"]).status.success());
}

/// TERM is for the handler, which a frozen process has not; what does not end then is killed.
#[test]
fn a_paused_pilot_is_told_woken_and_killed() {
    let mut machine = Machine::new();
    machine.engine.world().obeys_term = false;
    machine.start(&config("max-pilots = 1"));
    machine.wait_for_pilots(1);
    let id = machine.engine.in_state("running")[0].clone();
    assert!(machine.tell(&["snooze", "1h"]).status.success());
    machine.wait_for("it is paused", || {
        machine.engine.in_state("paused").len() == 1
    });
    assert!(machine.tell(&["drain", "--by", "1s"]).status.success());
    machine.wait_for("it is gone", || machine.engine.world().find(&id).is_none());
    let world = machine.engine.world();
    let of_it = world
        .calls
        .iter()
        .filter(|call| call.object == id && CHANGES.contains(&call.what));
    let said: Vec<String> = of_it
        .map(|call| {
            call.path
                .trim_start_matches("/containers/")
                .replace(&id, "")
        })
        .collect();
    assert_eq!(
        said[..4],
        ["/start", "/pause", "/kill?signal=TERM", "/unpause"],
        "{said:?}"
    );
    assert_eq!(said[4], "/kill?signal=KILL", "{said:?}");
    assert!(
        said.last().unwrap().starts_with("?v=1"),
        "with its volumes: {said:?}"
    );
    assert_eq!(times(&world.calls, "create"), 1);
}

#[test]
fn signals_and_pauses_that_fail_are_asked_again_and_do_not_spin() {
    let cases = [
        ("pause", Fault::Status(500, "freezer is busy")),
        ("pause", Fault::Status(409, "Container x is not running")),
        ("pause", Fault::Stall),
        ("pause", Fault::LostReply),
        ("pause", Fault::Pretend(204)),
    ];
    at_once(cases, |(what, fault)| {
        let mut machine = Machine::new();
        machine.start(&config("max-pilots = 1"));
        machine.wait_for_pilots(1);
        machine.engine.fault(what, fault.clone());
        assert!(machine.tell(&["snooze", "1h"]).status.success());
        machine.wait_for("a first try", || machine.engine.count_calls(what) > 0);
        let calls = calls_during(&machine.engine, Duration::from_secs(4));
        assert!(
            times(&calls, what) <= 8,
            "{what} {fault:?}: {} times",
            times(&calls, what)
        );
        assert!(
            calls.len() <= 30,
            "{what} {fault:?}: {} calls in 4 s",
            calls.len()
        );
        machine.assert_well();
        machine.engine.mend();
        machine.wait_for("it is paused", || {
            machine.engine.in_state("paused").len() == 1
        });
    });
}

#[test]
fn removals_that_fail_are_tried_again_and_do_not_spin() {
    let cases = [
        Fault::Status(409, "cannot remove: device is busy"),
        Fault::Status(
            500,
            "driver failed to remove root filesystem: device or resource busy",
        ),
        Fault::Status(409, "removal of container x is already in progress"),
        Fault::Pretend(204),
        Fault::Stall,
        Fault::Garbage,
        Fault::Status(404, "page not found"),
    ];
    at_once(cases, |fault| {
        let mut machine = Machine::new();
        machine.start(&config("max-pilots = 2"));
        machine.wait_for_pilots(2);
        // Garbage and a lost reply are carried out: then there is nothing to try again.
        let first = machine.engine.in_state("running")[0].clone();
        machine.engine.fault("remove", fault.clone());
        machine.engine.end(&first, 0);
        machine.wait_for("a first try", || machine.engine.count_calls("remove") > 0);
        let calls = calls_during(&machine.engine, Duration::from_secs(4));
        assert!(
            times(&calls, "remove") <= 5,
            "{fault:?}: {} times",
            times(&calls, "remove")
        );
        assert!(calls.len() <= 30, "{fault:?}: {} calls in 4 s", calls.len());
        machine.wait_for("its slot is filled all the same", || {
            machine.engine.in_state("running").len() == 2
        });
        machine.assert_well();
        machine.engine.mend();
        machine.wait_for("it is removed", || {
            machine.engine.world().find(&first).is_none()
        });
        machine.wait_for("its end is told", || {
            machine.status()["counts"]["done"].as_u64().is_some()
        });
        if !matches!(fault, Fault::Pretend(_)) {
            assert_eq!(
                machine.status()["counts"]["done"],
                1,
                "{fault:?}: one end is one end"
            );
        }
    });
}

#[test]
fn inspects_that_fail_lose_no_pilot() {
    let cases = [
        Fault::Status(500, "no"),
        Fault::Status(404, "page not found"),
        Fault::Stall,
        Fault::Garbage,
        Fault::Body("{}"),
        Fault::Body("null"),
    ];
    at_once(cases, |fault| {
        let mut machine = Machine::new();
        machine.start(&config("max-pilots = 2"));
        machine.wait_for_pilots(2);
        let first = machine.engine.in_state("running")[0].clone();
        machine.engine.fault("inspect", fault.clone());
        machine.engine.end(&first, 0);
        machine.wait_for("a first try", || machine.engine.count_calls("inspect") > 0);
        let calls = calls_during(&machine.engine, Duration::from_secs(3));
        assert!(
            times(&calls, "inspect") <= 5,
            "{fault:?}: {} times",
            times(&calls, "inspect")
        );
        assert_eq!(
            times(&calls, "remove"),
            0,
            "how it ended is not known yet: {fault:?}"
        );
        machine.engine.mend();
        machine.wait_for("it is removed", || {
            machine.engine.world().find(&first).is_none()
        });
        machine.wait_for("its end is counted", || {
            machine.status()["counts"]["done"] == 1
        });
    });
}

/// A hint only: without it an end is found at the next tick.
#[test]
fn event_streams_that_hang_or_end() {
    let cases = [
        Fault::Stall,
        Fault::LostReply,
        Fault::Garbage,
        Fault::Status(500, "no events today"),
        Fault::Status(404, "page not found"),
        Fault::Body(""),
        Fault::Body("{oops"),
        Fault::Body("[1]"),
        Fault::Huge,
    ];
    at_once(cases, |fault| {
        let mut machine = Machine::new();
        machine.engine.fault("events", fault.clone());
        machine.start(&config("max-pilots = 3"));
        machine.wait_for_pilots(3);
        let calls = calls_during(&machine.engine, Duration::from_secs(4));
        assert!(
            times(&calls, "events") <= 6,
            "{fault:?}: opened {} times",
            times(&calls, "events")
        );
        assert!(calls.len() <= 40, "{fault:?}: {} calls in 4 s", calls.len());
        assert_eq!(changes(&calls), [], "{fault:?}");
        let ended = machine.engine.in_state("running")[0].clone();
        machine.engine.end(&ended, 0);
        machine.wait_for("it is replaced", || {
            machine.engine.in_state("running").len() == 3
                && machine.engine.world().find(&ended).is_none()
        });
        machine.assert_well();
    });
}

/// Many faults one after the other, and at the end all is as it should be.
#[test]
fn after_a_bad_quarter_of_an_hour() {
    let mut machine = Machine::new();
    machine.start(&config("max-pilots = 4"));
    machine.wait_for_pilots(4);
    let faults = [
        Fault::LostReply,
        Fault::Garbage,
        Fault::Truncated,
        Fault::Status(500, "no"),
        Fault::StallAfter,
    ];
    for (round, what) in ["list", "remove", "inspect", "events", "any"]
        .into_iter()
        .enumerate()
    {
        machine.engine.fault(what, faults[round].clone());
        if let Some(id) = machine.engine.in_state("running").first() {
            machine.engine.end(id, i64::from(round % 2 == 0));
        }
        calls_during(&machine.engine, Duration::from_millis(1500));
        machine.engine.mend();
        if round == 2 {
            machine.engine.down();
            machine.wait_for("it notices", || machine.reason() == "engine-down");
            machine.engine.up();
        }
    }
    machine.wait_within(
        Duration::from_secs(60),
        "four run and nothing else is there",
        || {
            machine.engine.in_state("running").len() == 4
                && machine.engine.world().containers.len() == 4
        },
    );
    machine.assert_well();
    let age = epoch() - machine.status()["since"].as_f64().unwrap();
    assert!(age > 5.0, "the same daemon all the time");
}
