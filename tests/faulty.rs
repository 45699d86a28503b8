//! The real binary against an engine that does everything wrong. What must hold whatever an engine does: a doubtful
//! answer changes nothing, nothing foreign is touched, no slot is filled twice, nothing spins, and the daemon lives.
// threads: 16
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;
use std::time::{Duration, Instant};

const CHANGES: [&str; 6] = ["create", "start", "kill", "pause", "unpause", "remove"];

/// One class of one-core pilots, looked at each second; `share` are lines of [share].
fn config(share: &str) -> String {
    configured("1s", "1s", share)
}

fn configured(interval: &str, timeout: &str, share: &str) -> String {
    format!(
        "[loop]\ninterval = \"{interval}\"\nlaunches-per-tick = 4\n[engine]\ntimeout = \"{timeout}\"\n\
         [share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\n{share}\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\nstop-grace = \"1s\"\n"
    )
}

fn of(most: u32) -> String {
    config(&format!("max-pilots = {most}"))
}

fn changes(calls: &[Call]) -> Vec<(&'static str, String)> {
    let changing = calls.iter().filter(|call| CHANGES.contains(&call.what));
    changing
        .map(|call| (call.what, call.object.clone()))
        .collect()
}

fn times(calls: &[Call], what: &str) -> usize {
    calls.iter().filter(|call| call.what == what).count()
}

#[test]
fn a_list_that_fails_changes_nothing() {
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
        Fault::Body("{oops"),
        Fault::Body("null"),
        Fault::Body("{}"),
        Fault::Body(""),
        Fault::Body(r#"[{"Names":["/plancton-p-000000"],"State":"running"}]"#),
        Fault::Body(r#"[{"Id":"../../etc","State":"running"}]"#),
    ];
    at_once(faults, |fault| {
        let mut machine = Machine::running(&of(3), 3);
        // There would be much to do: one to remove and replace, one too old to have been forgotten by us.
        machine.engine.fault("list", fault);
        machine.end_one(0);
        machine
            .engine
            .add(Some("plancton-p-old"), "created", 600.0, &[(LABEL, "t1")]);
        machine.wait_reason("engine-down");
        let calls = machine.engine.calls_during(3.0);
        assert_eq!(changes(&calls), []);
        assert!(
            (1..=40).contains(&calls.len()),
            "{} calls in 3 s",
            calls.len()
        );
        assert_eq!(machine.status()["state"], "waiting");
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| machine.pilots().len() == 3 && machine.engine.number() == 3);
        machine.wait_status(|status| status["counts"]["done"] == 1);
    });
}

#[test]
fn nothing_without_our_exact_label_is_touched() {
    let mut machine = Machine::new();
    machine.engine.world().ignores_filter = true;
    let cpus = ("io.plancton.cpus", "0.01");
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
            &[(LABEL, ""), cpus],
            &[(LABEL, "T1"), cpus],
            &[(LABEL, "t1 "), cpus, ("io.plancton.deadline", "1")],
            &[(LABEL, "t11"), cpus],
            &[("IO.PLANCTON.INSTANCE", "t1")],
        ] {
            let name = format!("plancton-p-{:06x}", foreign.len());
            foreign.push(machine.engine.add(Some(&name), state, 1000.0, labels));
        }
    }
    machine.start(&of(3));
    machine.wait_status(|status| {
        status["pilots"]
            .as_array()
            .is_some_and(|pilots| pilots.len() == 3)
    });
    machine.wait_status(|status| status["others"]["pilots"] == 20);
    machine.say(&["snooze", "1h"]).must(0, &[]);
    machine.until(|| machine.engine.count_calls("pause") == 3);
    machine.say(&["force-stop"]).must(0, &[]);
    machine.wait_end();
    let world = machine.engine.world();
    assert_eq!(world.containers.len(), foreign.len());
    assert!(
        !world
            .calls
            .iter()
            .any(|call| foreign.contains(&call.object) && call.what != "inspect")
    );
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
        let labels = [(LABEL, "other"), ("io.plancton.cpus", cpus)];
        machine.engine.add(None, state, 5.0, &labels);
    }
    machine.start(&config(""));
    // 16 less 6, 2.5, 2, and one core for what cannot be read; a paused one holds its promise but uses no CPU.
    machine.wait_reason("full");
    machine.wait_for_pilots(5);
    assert_eq!(changes(&machine.engine.calls_during(2.0)), []);
    assert_eq!(machine.status()["others"]["cpus"], 11.5);
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
    machine.start(&of(3));
    machine.until(|| !gone.iter().any(|id| machine.engine.has(id)));
    assert_eq!(changes(&machine.engine.calls_during(3.0)), []);
    let calls = machine.engine.world().calls.clone();
    assert!(
        !calls
            .iter()
            .any(|call| left.contains(&call.object) && call.what != "inspect")
    );
    // Configured, unnamed and unknown hold the three slots.
    assert_eq!(times(&calls, "create"), 0);
    let removals = |id: &String| {
        calls
            .iter()
            .filter(|c| c.what == "remove" && c.object == *id)
            .count()
    };
    assert!(gone.iter().all(|id| removals(id) == 1));
    let pilots = machine.status()["pilots"].clone();
    let is_unnamed = |pilot: &Value| pilot["id"] == *left[2] && pilot["name"] == left[2][..12];
    assert!(
        pilots.as_array().unwrap().iter().any(is_unnamed),
        "{pilots}"
    );
}

#[test]
fn a_failed_launch_backs_off() {
    let discarded = "Your kernel does not support CPU CFS scheduler. Limitation discarded.";
    let cases = [
        ("create", Fault::Status(500, "no space left on device")),
        (
            "create",
            Fault::Status(400, "Minimum memory limit allowed is 6MB"),
        ),
        ("create", Fault::Status(409, "the name is already in use")),
        ("create", Fault::Status(404, "page not found")),
        ("create", Fault::Garbage),
        ("create", Fault::Body("{}")),
        ("create", Fault::Stall),
        ("create", Fault::Huge),
        ("start", Fault::Status(500, "OCI runtime create failed")),
        ("start", Fault::Status(409, "it is being removed")),
        ("start", Fault::Status(404, "No such container: x")),
        (
            "start",
            Fault::Status(400, "exec: \"nope\": executable file not found"),
        ),
        ("create", Fault::Warning(discarded)),
    ];
    at_once(cases, |(what, fault)| {
        let mut machine = Machine::new();
        machine.engine.fault(what, fault.clone());
        machine.start(&of(8));
        machine.until(|| machine.engine.count_calls(what) > 0);
        let calls = machine.engine.calls_during(3.5);
        assert!(times(&calls, "create") <= 1, "{:?}", changes(&calls));
        machine.wait_reason("back-off");
        if let Fault::Status(400, text) = fault {
            machine.wait_text(&text.replace('"', "\\\""));
        }
        if what == "start" {
            // Never more than the one that a second try has under way.
            machine.until(|| machine.engine.number() <= 1);
        }
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| machine.engine.number() == 8);
        assert!(machine.engine.world().most <= 8);
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
    machine.start(&of(2));
    let is_at = |status: &Value, bytes: u64, total: u64| {
        (&status["pull"]["bytes"], &status["pull"]["total"]) == (&bytes.into(), &total.into())
    };
    let status = machine.wait_status(|status| is_at(status, 1000, 3000));
    assert_eq!(status["pull"]["image"], "fake:1");
    machine.wait_status(|status| is_at(status, 7000, 9000));
    let stands_still = Instant::now();
    let status = machine.wait_reason("back-off");
    assert!(stands_still.elapsed() >= seconds(2.0) && status["pull"].is_null());
    machine.assert_well();
    let gap = machine.status()["loop"]["longest_gap_ms"].as_f64().unwrap();
    assert!(gap < 1_000.0, "the loop waited for {gap} ms");
    let pulls = machine.engine.count_calls("pull");
    machine.engine.mend();
    machine.until(|| !machine.pilots().is_empty());
    assert!(machine.engine.count_calls("pull") > pulls);
}

/// A class that has proved itself starts several at a time; when they fail, no more follow.
#[test]
fn failures_of_one_tick_count_once() {
    let machine = Machine::running(&of(8), 8);
    machine.engine.fault("create", Fault::Status(500, "no"));
    machine.engine.ends(&machine.pilots(), 0);
    machine.until(|| machine.engine.number() == 0);
    machine.wait_reason("back-off");
    let calls = machine.engine.calls_during(2.0);
    assert!(times(&calls, "create") <= 1, "{:?}", changes(&calls));
    // At most launches-per-tick fail together.
    assert!(machine.engine.count_calls("create") <= 8 + 4 + 1);
}

#[test]
fn lost_replies_never_fill_a_slot_twice() {
    let late = || Fault::Late(Duration::from_secs(3));
    let cases = [
        ("create", Fault::LostReply),
        ("create", Fault::Truncated),
        ("create", Fault::StallAfter),
        ("create", late()),
        ("start", Fault::LostReply),
        ("start", Fault::Truncated),
        ("start", Fault::StallAfter),
        ("start", late()),
        ("any", Fault::LostReply),
    ];
    at_once(cases, |(what, fault)| {
        let mut machine = Machine::running(&of(2), 2);
        machine.engine.fault(what, fault);
        machine.end_one(0);
        let calls = machine.engine.calls_during(9.0);
        assert!(times(&calls, "create") <= 3, "{:?}", changes(&calls));
        machine.assert_well();
        machine.engine.mend();
        // What was created and never started keeps its slot until it counts as forgotten.
        let holding = || machine.engine.in_state("created").len() + machine.pilots().len();
        machine.until(|| holding() == 2);
        machine.engine.calls_during(2.0);
        assert!(holding() <= 2);
        machine.until(|| holding() == 2);
        // The dead one and its replacement are there together for a moment.
        assert!(machine.engine.world().most <= 3);
    });
}

#[test]
fn limits_that_are_left_out() {
    let dropped = "Your kernel does not support memory limit capabilities. Limitation discarded.";
    let swap = "Your kernel does not support swap limit capabilities. Memory limited without swap.";
    let cases = [
        (dropped, "refuse", false),
        (dropped, "warn", true),
        (swap, "refuse", true),
    ];
    at_once(cases, |(warning, missing, is_kept)| {
        let mut machine = Machine::new();
        machine.engine.fault("create", Fault::Warning(warning));
        machine.start(&config(&format!(
            "max-pilots = 2\nmissing-limits = \"{missing}\""
        )));
        if is_kept {
            machine.wait_for_pilots(2);
            assert_eq!(machine.engine.count_calls("remove"), 0);
        } else {
            machine.wait_reason("back-off");
            assert_eq!(
                (machine.engine.number(), machine.engine.count_calls("start")),
                (0, 0)
            );
            machine.wait_text("missing-limits");
        }
    });
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
            assert_eq!(changes(&machine.engine.calls_during(2.0)), []);
        } else {
            machine.until(|| machine.engine.count_calls("kill") > 0);
            machine.until(|| machine.engine.number() == 0);
            machine.wait_text("CPU limit");
        }
    });
}

#[test]
fn an_engine_that_comes_and_goes() {
    let mut machine = Machine::without_engine();
    machine.start(&of(3));
    machine.wait_reason("engine-down");
    machine.wait_text("engine.sock");
    machine.assert_well();
    machine.engine.up();
    machine.wait_for_pilots(3);
    let is_told = |status: &Value| {
        status["pilots"]
            .as_array()
            .is_some_and(|pilots| pilots.len() == 3)
    };
    for _ in 0..2 {
        machine.wait_status(is_told);
        let (before, created) = (machine.pilots(), machine.engine.count_calls("create"));
        machine.engine.down();
        machine.wait_reason("engine-down");
        machine.assert_well();
        assert!(is_told(&machine.status()), "none counts as gone");
        machine.engine.up();
        machine.until(|| machine.reason() != "engine-down");
        stays(seconds(1.5), || machine.pilots());
        assert_eq!(
            (machine.pilots(), machine.engine.count_calls("create")),
            (before, created)
        );
    }
    // What ended while the engine was away.
    machine.engine.down();
    machine.wait_reason("engine-down");
    let ended = machine.end_one(0);
    machine.engine.up();
    machine.until(|| machine.pilots().len() == 3 && !machine.engine.has(&ended));
}

#[test]
fn an_engine_that_is_too_old() {
    let mut machine = Machine::new();
    machine.engine.world().api = "1.24";
    machine.start(&of(1));
    machine.wait_reason("engine-down");
    machine.wait_text("1.24");
    machine.assert_well();
    let other = machine.path("run2").display().to_string();
    let once = ["--run-dir", &other, "--instance", "t2", "run", "--once"];
    machine.say(&once).must(69, &[]);
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
        machine.engine.fault(what, fault);
        machine.start(&of(2));
        machine.wait_reason("engine-down");
        let calls = machine.engine.calls_during(2.0);
        assert!(calls.len() <= 12, "{} calls in 2 s", calls.len());
        assert_eq!(changes(&calls), []);
        machine.assert_well();
        machine.engine.mend();
        machine.wait_for_pilots(2);
    });
}

/// With an interval and a timeout that are longer than anybody waits.
#[test]
fn commands_are_seen_while_the_engine_hangs() {
    at_once(["any", "list"], |what| {
        let mut machine = Machine::running(&configured("60s", "600s", "max-pilots = 2"), 2);
        machine.engine.fault(what, Fault::Stall);
        machine.end_one(0);
        machine.until(|| machine.engine.world().calls.last().unwrap().what == "list");
        for (command, field) in [(&["drain"][..], "drain"), (&["snooze", "1h"], "snooze")] {
            machine.say(command).must(0, &[]);
            machine.wait_status(|status| status[field].is_object());
        }
        machine.say(&["resume"]).must(0, &[]);
        machine.wait_status(|status| status["drain"].is_null() && status["snooze"].is_null());
        machine.say(&["health"]).must(0, &[]);
        assert_eq!(machine.end(), 0);
        assert!(machine.status().is_null(), "an end is told");
    });
}

#[test]
fn status_is_written_while_the_engine_hangs() {
    let mut machine = Machine::running(&configured("1s", "600s", "max-pilots = 2"), 2);
    machine.engine.fault("any", Fault::Stall);
    machine.wait_reason("engine-down");
    // An engine that has not answered is not asked again.
    let calls = machine.engine.calls_during(3.0);
    assert!(calls.len() <= 1, "{calls:?}");
    machine.assert_well();
    machine.engine.mend();
    machine.until(|| machine.reason() != "engine-down");
    assert_eq!(machine.pilots().len(), 2);
}

#[test]
fn one_call_a_tick_in_the_steady_state_and_none_without_a_class() {
    let machine = Machine::running(&of(10), 10);
    machine.wait_status(|status| {
        status["pilots"]
            .as_array()
            .is_some_and(|pilots| pilots.len() == 10)
    });
    machine.engine.calls_during(0.5);
    let calls = machine.engine.calls_during(10.0);
    assert!(
        calls.iter().all(|call| call.what == "list") && (1..=11).contains(&calls.len()),
        "{calls:?}"
    );
    machine.reload("[loop]\ninterval = \"1s\"\n");
    machine.engine.ends(&machine.pilots(), 0);
    machine.until(|| machine.engine.number() == 0 && machine.reason() == "no-pilot");
    machine.until(|| machine.engine.calls_during(4.0).is_empty());
    machine.say(&["health"]).must(0, &[]);
}

/// TERM is for the handler, which a frozen process has not; what does not end then is killed.
#[test]
fn a_paused_pilot_is_told_woken_and_killed() {
    let machine = Machine::running(&of(1), 1);
    machine.engine.world().obeys_term = false;
    let id = machine.pilots()[0].clone();
    machine.say(&["snooze", "1h"]).must(0, &[]);
    machine.until(|| machine.engine.in_state("paused").len() == 1);
    machine.say(&["drain", "--by", "1s"]).must(0, &[]);
    machine.until(|| !machine.engine.has(&id));
    let calls = machine.engine.world().calls.clone();
    let of_it = calls
        .iter()
        .filter(|call| call.object == id && CHANGES.contains(&call.what));
    let said = of_it.map(|call| {
        call.path
            .trim_start_matches("/containers/")
            .replace(&id, "")
    });
    let said: Vec<String> = said.collect();
    let expected = [
        "/start",
        "/pause",
        "/kill?signal=TERM",
        "/unpause",
        "/kill?signal=KILL",
    ];
    assert_eq!(said[..5], expected, "{said:?}");
    assert!(
        said.last().unwrap().starts_with("?v=1"),
        "with its volumes: {said:?}"
    );
    assert_eq!(times(&calls, "create"), 1);
}

#[test]
fn pauses_that_fail_are_asked_again_and_do_not_spin() {
    let cases = [
        Fault::Status(500, "freezer is busy"),
        Fault::Status(409, "Container x is not running"),
        Fault::Stall,
        Fault::LostReply,
        Fault::Pretend(204),
    ];
    at_once(cases, |fault| {
        let mut machine = Machine::running(&of(1), 1);
        machine.engine.fault("pause", fault);
        machine.say(&["snooze", "1h"]).must(0, &[]);
        machine.until(|| machine.engine.count_calls("pause") > 0);
        let calls = machine.engine.calls_during(4.0);
        assert!(
            times(&calls, "pause") <= 8 && calls.len() <= 30,
            "{calls:?}"
        );
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| machine.engine.in_state("paused").len() == 1);
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
        let mut machine = Machine::running(&of(2), 2);
        machine.engine.fault("remove", fault.clone());
        let first = machine.end_one(0);
        machine.until(|| machine.engine.count_calls("remove") > 0);
        let calls = machine.engine.calls_during(4.0);
        assert!(
            times(&calls, "remove") <= 5 && calls.len() <= 30,
            "{calls:?}"
        );
        // Its slot is filled all the same.
        machine.wait_for_pilots(2);
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| !machine.engine.has(&first));
        let status = machine.wait_count("done", 1);
        assert!(
            status["counts"]["done"] == 1 || matches!(fault, Fault::Pretend(_)),
            "one end is one end"
        );
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
        let machine = Machine::running(&of(2), 2);
        machine.engine.fault("inspect", fault);
        let (first, before) = (machine.end_one(0), machine.engine.count_calls("inspect"));
        machine.until(|| machine.engine.count_calls("inspect") > before);
        let calls = machine.engine.calls_during(3.0);
        // How it ended is not known yet.
        assert!(
            times(&calls, "inspect") <= 8 && times(&calls, "remove") == 0,
            "{calls:?}"
        );
        machine.engine.mend();
        machine.until(|| !machine.engine.has(&first));
        machine.wait_status(|status| status["counts"]["done"] == 1);
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
        machine.engine.fault("events", fault);
        machine.start(&of(3));
        machine.wait_for_pilots(3);
        let calls = machine.engine.calls_during(4.0);
        assert!(
            times(&calls, "events") <= 6 && calls.len() <= 40,
            "{calls:?}"
        );
        assert_eq!(changes(&calls), []);
        let ended = machine.end_one(0);
        machine.until(|| machine.pilots().len() == 3 && !machine.engine.has(&ended));
        machine.assert_well();
    });
}

/// Many faults one after the other, and at the end all is as it should be, by the same daemon.
#[test]
fn after_a_bad_quarter_of_an_hour() {
    let mut machine = Machine::running(&of(4), 4);
    let pid = machine.status()["pid"].clone();
    for (what, fault) in [
        ("list", Fault::LostReply),
        ("remove", Fault::Garbage),
        ("inspect", Fault::Truncated),
        ("events", Fault::Status(500, "no")),
        ("any", Fault::StallAfter),
    ] {
        machine.engine.fault(what, fault);
        if !machine.pilots().is_empty() {
            machine.end_one(0);
        }
        machine.engine.calls_during(1.5);
        machine.engine.mend();
        if what == "inspect" {
            machine.engine.down();
            machine.wait_reason("engine-down");
            machine.engine.up();
        }
    }
    machine.until(|| machine.pilots().len() == 4 && machine.engine.number() == 4);
    machine.assert_well();
    assert_eq!(machine.status()["pid"], pid);
}
