//! The real binary against an engine that does everything wrong. What must hold whatever an engine does: a doubtful
//! answer changes nothing, nothing foreign is touched, no slot is filled twice, nothing spins, and the daemon lives.

use crate::common::*;

const CHANGES: [&str; 6] = ["create", "start", "kill", "pause", "unpause", "remove"];

/// With an engine for which nobody waits long.
fn of(most: u32) -> String {
    made_up(most, "", "").replace("timeout = \"20s\"", "timeout = \"1s\"")
}

fn slow(interval: &str) -> String {
    let slow = made_up(2, "", "").replace("timeout = \"20s\"", "timeout = \"600s\"");
    slow.replace("interval = \"1s\"", &format!("interval = \"{interval}\""))
}

fn changes(calls: &[Call]) -> Vec<(&'static str, String)> {
    let changing = calls.iter().filter(|call| CHANGES.contains(&call.what));
    let change = |call: &Call| (call.what, call.object.clone());
    changing.map(change).collect()
}

fn times(calls: &[Call], what: &str) -> usize {
    calls.iter().filter(|call| call.what == what).count()
}

/// Nothing spins: so many calls at most, and so many of this kind.
#[track_caller]
fn bounded(calls: &[Call], all: usize, what: &str, most: usize) {
    let is_bounded = calls.len() <= all && times(calls, what) <= most;
    assert!(is_bounded, "{} calls: {calls:?}", calls.len());
}

/// So many pilots run when this begins to go wrong: a call, and its fault.
fn running_with(pilots: usize, what: &'static str, fault: &'static str) -> Machine {
    let machine = Machine::running(&of(pilots as u32), pilots);
    machine.engine.fault(what, fault);
    machine
}

/// It goes wrong from the start.
fn started_with(most: u32, what: &'static str, fault: &'static str) -> Machine {
    let mut machine = Machine::new();
    machine.engine.fault(what, fault);
    machine.start(&of(most));
    machine
}

/// A table of calls and their faults.
fn each(faults: &'static str, test: impl Fn(&'static str, &'static str) + Sync) {
    let cases = faults.split('|').map(|case| case.split_once(' ').unwrap());
    at_once(cases, |(what, fault)| test(what, fault));
}

#[test]
fn a_list_that_fails_changes_nothing() {
    const FAULTS: &str = "garbage|truncated|stall|lost-reply|huge|drip|500 server error|404 page not found|204|\
        400 client version 1.41 is too new. Maximum supported API version is 1.40|body {oops|body null|body {}|body |\
        body [{\"Names\":[\"/plancton-p-000000\"],\"State\":\"running\"}]|body [{\"Id\":\"../../etc\",\"State\":\"running\"}]";
    at_once(FAULTS.split('|'), |fault| {
        let mut machine = running_with(3, "list", fault);
        // There would be much to do: one to remove and replace, one too old to have been forgotten by us.
        machine.end_one(0);
        let old = [(LABEL, "t1")];
        machine.engine.add("plancton-p-old", "created", 600.0, &old);
        machine.wait_reason("engine-down");
        let before = machine.engine.count_calls("list");
        let calls = machine.engine.calls_during(3.0);
        assert_eq!(changes(&calls), []);
        bounded(&calls, 40, "", 0);
        machine.until(|| machine.engine.count_calls("list") > before);
        assert_eq!(machine.status()["state"], "waiting");
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| machine.pilots().len() == 3 && machine.engine.number() == 3);
        machine.wait_for("/counts/done", 1);
    });
}

#[test]
fn nothing_without_our_exact_label_is_touched() {
    let mut machine = Machine::new();
    machine.engine.world().ignores_filter = true;
    let (cpus, class) = (("io.plancton.cpus", "0.01"), ("io.plancton.class", "p"));
    let over = ("io.plancton.deadline", "1");
    let overdue = ("io.plancton.expires", "x:0");
    let foreign_labels = [
        &[][..],
        &[class, overdue, over],
        &[(LABEL, ""), cpus],
        &[(LABEL, "T1"), cpus],
        &[(LABEL, "t1 "), cpus, over],
        &[(LABEL, "t11"), cpus],
        &[("IO.PLANCTON.INSTANCE", "t1")],
    ];
    let mut foreign = Vec::new();
    for state in "exited created dead running paused restarting configured".split(' ') {
        for labels in foreign_labels {
            let name = format!("plancton-p-{:06x}", foreign.len());
            foreign.push(machine.engine.add(&name, state, 1000.0, labels));
        }
    }
    machine.start(&of(3));
    machine.wait_listed(3);
    machine.wait_for("/others/pilots", 20);
    machine.done("snooze 1h");
    machine.until(|| machine.engine.count_calls("pause") == 3);
    machine.done("force-stop");
    machine.wait_end();
    let world = machine.engine.world();
    assert_eq!(world.containers.len(), foreign.len());
    let mut touched = world.calls.iter().filter(|call| call.what != "inspect");
    assert!(!touched.any(|call| foreign.contains(&call.object)));
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
        machine.engine.add("", state, 5.0, &labels);
    }
    machine.start(&made_up(0, "", ""));
    // 16 less 6, 2.5, 2, and one core for what cannot be read; a paused one holds its promise but uses no CPU.
    machine.wait_reason("full");
    machine.wait_for_pilots(5);
    assert_eq!(changes(&machine.engine.calls_during(2.0)), []);
    assert_eq!(machine.status()["others"]["cpus"], 11.5);
}

#[test]
fn own_containers_in_odd_states() {
    let mut machine = Machine::new();
    let add = |name, state, age| machine.engine.add_own(name, state, age, "p");
    let gone = [
        add("plancton-p-00000a", "created", 200.0),
        add("plancton-p-00000b", "dead", 5.0),
        add("plancton-p-00000c", "exited", 5.0),
        add("", "exited", 5.0),
        add("plancton-p-00000d", "created", 20.0),
    ];
    let left = [
        add("plancton-p-00000e", "removing", 500.0),
        add("plancton-p-00000f", "configured", 500.0),
        add("", "running", 30.0),
        add("plancton-p-000010", "", 500.0),
    ];
    machine.start(&made_up(3, "", ""));
    machine.until(|| !gone.iter().any(|id| machine.engine.has(id)));
    assert_eq!(changes(&machine.engine.calls_during(3.0)), []);
    let changed = changes(&machine.engine.world().calls);
    assert!(!changed.iter().any(|(_, id)| left.contains(id)));
    // Configured, unnamed and unknown hold the three slots; all that is done is one removal each.
    let removed: BTreeSet<_> = gone.map(|id| ("remove", id)).into();
    assert_eq!((changed.len(), changed.into_iter().collect()), (5, removed));
    let pilots = machine.status()["pilots"].clone();
    let is_unnamed = |pilot: &Value| pilot["id"] == *left[2] && pilot["name"] == left[2][..12];
    assert!(members(&pilots).iter().any(is_unnamed), "{pilots}");
}

#[test]
fn a_failed_launch_backs_off() {
    const FAULTS: &str = "create 500 no space left on device|create 400 Minimum memory limit allowed is 6MB|create huge|\
        create 409 the name is already in use|create 404 page not found|create garbage|create body {}|create stall|\
        start 500 OCI runtime create failed|start 409 it is being removed|start 404 No such container: x|\
        start 400 exec: \"nope\": executable file not found|\
        create warning Your kernel does not support CPU CFS scheduler. Limitation discarded.";
    each(FAULTS, |what, fault| {
        let mut machine = started_with(8, what, fault);
        machine.until(|| machine.engine.count_calls(what) > 0);
        bounded(&machine.engine.calls_during(3.5), 1000, "create", 1);
        machine.wait_reason("back-off");
        if let Some(text) = fault.strip_prefix("400 ") {
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
    let missing = "404 No such image: fake:1";
    machine.engine.fault("create", missing);
    machine.engine.fault("image", missing);
    let steps = r#"steps {"status":"Pulling from fake","id":"1"}
{"status":"Downloading","progressDetail":{"current":1000,"total":3000},"id":"a"}
{"status":"Downloading","progressDetail":{"current":2000,"total":6000},"id":"b"}
{"status":"Downloading","progressDetail":{"current":3000,"total":3000},"id":"a"}
{"status":"Extracting","progressDetail":{"current":1,"total":3000},"id":"a"}
{"status":"Downloading","progressDetail":{"current":4000,"total":6000},"id":"b"}"#;
    machine.engine.fault("pull", steps);
    // A pull may stand still for four times that second.
    machine.start(&of(2));
    for (bytes, total) in [(1000, 3000), (7000, 9000)] {
        let pull = machine.wait_for("/pull/bytes", bytes)["pull"].clone();
        assert!(
            pull["total"] == total && pull["image"] == "fake:1",
            "{pull}"
        );
    }
    let stands_still = Instant::now();
    let status = machine.wait_reason("back-off");
    assert!(stands_still.elapsed() >= seconds(2.0) && status["pull"].is_null());
    machine.assert_well();
    machine.assert_no_gap();
    let pulls = machine.engine.count_calls("pull");
    machine.engine.mend();
    machine.until(|| !machine.pilots().is_empty());
    assert!(machine.engine.count_calls("pull") > pulls);
}

/// A class that has proved itself starts several at a time; when they fail, no more follow.
#[test]
fn failures_of_one_tick_count_once() {
    let machine = running_with(8, "create", "500 no");
    machine.engine.ends(&machine.pilots(), 0);
    machine.until(|| machine.engine.number() == 0);
    machine.wait_reason("back-off");
    // At most launches-per-tick fail together, some of them a moment later, and then one try at a time.
    machine.until(|| times(&machine.engine.calls_during(2.0), "create") <= 1);
    assert!(machine.engine.count_calls("create") <= 8 + 4 + 2);
}

#[test]
fn lost_replies_never_fill_a_slot_twice() {
    const FAULTS: &str = "create lost-reply|create truncated|create stall-after|create late|start lost-reply|\
        start truncated|start stall-after|start late|any lost-reply";
    each(FAULTS, |what, fault| {
        let mut machine = running_with(2, what, fault);
        machine.end_one(0);
        bounded(&machine.engine.calls_during(9.0), 1000, "create", 3);
        machine.assert_well();
        machine.engine.mend();
        // Without a start there is nothing to wait for.
        if what == "create" {
            machine.until(|| machine.engine.in_state("created").is_empty());
        }
        // What may have been started keeps its slot until it counts as forgotten.
        let holding = || machine.engine.in_state("created").len() + machine.pilots().len();
        machine.until(|| holding() == 2);
        machine.engine.calls_during(2.0);
        assert!(holding() <= 2);
        machine.until(|| holding() == 2);
        // The dead one and its replacement are there together for a moment.
        assert!(machine.engine.world().most <= 3);
    });
}

/// With `missing-limits = "refuse"` nothing is kept, with "warn" all; without swap accounting all is kept as well.
fn limits(fault: &'static str, missing: &str, refusal: &str) {
    let mut machine = Machine::new();
    match fault {
        "" => machine.engine.world().loses_limits = true,
        fault => machine.engine.fault("create", fault),
    }
    machine.start(&made_up(2, &format!("missing-limits = \"{missing}\""), ""));
    if refusal.is_empty() {
        machine.wait_for_pilots(2);
        let calls = machine.engine.calls_during(2.0);
        assert_eq!(changes(&calls), []);
        assert_eq!(machine.engine.count_calls("remove"), 0);
    } else {
        machine.wait_text(refusal);
        machine.until(|| machine.engine.number() == 0);
        // Those of which the engine says nothing are found at the groups of running pilots.
        let [started, killed] = ["start", "kill"].map(|what| machine.engine.count_calls(what) > 0);
        assert_eq!([started, killed], [fault.is_empty(); 2]);
    }
}

#[test]
fn limits_that_are_left_out_or_do_not_hold() {
    let dropped =
        "warning Your kernel does not support memory limit capabilities. Limitation discarded.";
    let swap = "warning Your kernel does not support swap limit capabilities. Memory limited without swap.";
    let cases = [
        (dropped, "refuse", "missing-limits"),
        (dropped, "warn", ""),
        (swap, "refuse", ""),
        ("", "refuse", "CPU limit"),
        ("", "warn", ""),
    ];
    at_once(cases, |(fault, missing, refusal)| {
        limits(fault, missing, refusal)
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
    for _ in 0..2 {
        machine.wait_listed(3);
        let seen = |machine: &Machine| (machine.pilots(), machine.engine.count_calls("create"));
        let before = seen(&machine);
        machine.engine.down();
        machine.wait_reason("engine-down");
        machine.assert_well();
        let listed = members(&machine.status()["pilots"]).len();
        assert_eq!(listed, 3, "none counts as gone");
        machine.engine.up();
        machine.until(|| machine.reason() != "engine-down");
        stays(seconds(1.5), || machine.pilots());
        assert_eq!(seen(&machine), before);
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
    let once = format!("--run-dir {other} --instance t2 run --once");
    machine.say(&once).must(69, &[]);
    machine.engine.world().api = "1.99";
    machine.wait_for_pilots(1);
}

/// Whatever is asked first: ping, info and the events come before the first list.
#[test]
fn an_engine_that_stumbles_at_the_greeting() {
    const FAULTS: &str = "ping garbage|ping 500 starting|ping 404 not found|ping stall|info body {oops|info body null|\
        info huge|info stall|info truncated|any stall|any lost-reply";
    each(FAULTS, |what, fault| {
        let mut machine = started_with(2, what, fault);
        machine.wait_reason("engine-down");
        let calls = machine.engine.calls_during(2.0);
        bounded(&calls, 12, "", 0);
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
        let mut machine = Machine::running(&slow("60s"), 2);
        machine.engine.fault(what, "stall");
        machine.end_one(0);
        machine.until(|| machine.engine.world().calls.last().unwrap().what == "list");
        for (command, field) in [("drain", "drain"), ("snooze 1h", "snooze")] {
            machine.done(command);
            machine.wait_status(|status| status[field].is_object());
        }
        machine.done("resume");
        machine.wait_status(|status| status["drain"].is_null() && status["snooze"].is_null());
        machine.done("health");
        assert_eq!(machine.end(), 0);
        assert!(machine.status().is_null(), "an end is told");
    });
}

#[test]
fn status_is_written_while_the_engine_hangs() {
    let mut machine = Machine::running(&slow("1s"), 2);
    machine.engine.fault("any", "stall");
    machine.wait_reason("engine-down");
    // An engine that has not answered is not asked again.
    bounded(&machine.engine.calls_during(3.0), 1, "", 0);
    machine.assert_well();
    machine.engine.mend();
    machine.until(|| machine.reason() != "engine-down");
    assert_eq!(machine.pilots().len(), 2);
}

#[test]
fn one_call_a_tick_in_the_steady_state_and_none_without_a_class() {
    let machine = Machine::running(&made_up(10, "", ""), 10);
    machine.wait_listed(10);
    machine.engine.calls_during(0.5);
    let calls = machine.engine.calls_during(10.0);
    let is_steady = times(&calls, "list") == calls.len() && (1..=11).contains(&calls.len());
    assert!(is_steady, "{calls:?}");
    machine.reload("[loop]\ninterval = \"1s\"\n[share]\nreserve-disk = \"1MiB\"\n");
    machine.wait_reason("no-pilot");
    machine.engine.ends(&machine.pilots(), 0);
    machine.until(|| machine.engine.number() == 0);
    machine.until(|| machine.engine.calls_during(4.0).is_empty());
    machine.done("health");
}

/// TERM is for the handler, which a frozen process has not; what does not end then is killed.
#[test]
fn a_paused_pilot_is_told_woken_and_killed() {
    let config = made_up(1, "", "").replace("stop-grace = \"1s\"", "stop-grace = \"10s\"");
    let machine = Machine::running(&config, 1);
    machine.engine.world().ignores_term = true;
    let id = machine.pilots()[0].clone();
    machine.done("snooze 1h");
    machine.until(|| machine.engine.in_state("paused").len() == 1);
    machine.done("drain --by 1s");
    machine.until(|| !machine.engine.has(&id));
    let calls = machine.engine.world().calls.clone();
    let is_change = |call: &&Call| call.object == id && CHANGES.contains(&call.what);
    let path = |call: &Call| call.path.replace(&id, "").replace("/containers/", "");
    let said: Vec<String> = calls.iter().filter(is_change).map(path).collect();
    let told = "/start /pause /kill?signal=TERM /unpause /kill?signal=KILL";
    assert_eq!(said[..5].join(" "), told);
    assert!(said.last().unwrap().starts_with("?v=1"), "with its volumes");
    assert_eq!(times(&calls, "create"), 1);
}

#[test]
fn pauses_that_fail_are_asked_again_and_do_not_spin() {
    let faults = "500 freezer is busy|409 Container x is not running|stall|lost-reply|pretend 204";
    at_once(faults.split('|'), |fault| {
        let mut machine = running_with(1, "pause", fault);
        machine.done("snooze 1h");
        machine.until(|| machine.engine.count_calls("pause") > 0);
        bounded(&machine.engine.calls_during(4.0), 30, "pause", 8);
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| machine.engine.in_state("paused").len() == 1);
    });
}

#[test]
fn removals_that_fail_are_tried_again_and_do_not_spin() {
    const FAULTS: &str = "409 cannot remove: device is busy|500 driver failed to remove root filesystem: device busy|\
        409 removal of container x is already in progress|pretend 204|stall|garbage|404 page not found";
    at_once(FAULTS.split('|'), |fault| {
        let mut machine = running_with(2, "remove", fault);
        let first = machine.end_one(0);
        machine.until(|| machine.engine.count_calls("remove") > 0);
        bounded(&machine.engine.calls_during(4.0), 30, "remove", 5);
        // Its slot is filled all the same.
        machine.wait_for_pilots(2);
        machine.assert_well();
        machine.engine.mend();
        machine.until(|| !machine.engine.has(&first));
        let done = machine.wait_count("done", 1)["counts"]["done"].clone();
        assert!(done == 1 || fault == "pretend 204", "one end is one end");
    });
}

#[test]
fn inspects_that_fail_lose_no_pilot() {
    let faults = "500 no|404 page not found|stall|garbage|body {}|body null";
    at_once(faults.split('|'), |fault| {
        let machine = running_with(2, "inspect", fault);
        let (first, before) = (machine.end_one(0), machine.engine.count_calls("inspect"));
        machine.until(|| machine.engine.count_calls("inspect") > before);
        let calls = machine.engine.calls_during(3.0);
        bounded(&calls, 1000, "inspect", 8);
        assert_eq!(times(&calls, "remove"), 0, "how it ended is not known yet");
        machine.engine.mend();
        machine.until(|| !machine.engine.has(&first));
        machine.wait_for("/counts/done", 1);
    });
}

/// A hint only: without it an end is found at the next tick.
#[test]
fn event_streams_that_hang_or_end() {
    const FAULTS: &str = "stall|lost-reply|garbage|500 no events today|404 page not found|body |body {oops|body [1]|huge";
    at_once(FAULTS.split('|'), |fault| {
        let mut machine = started_with(3, "events", fault);
        machine.wait_for_pilots(3);
        let calls = machine.engine.calls_during(4.0);
        bounded(&calls, 40, "events", 6);
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
        ("list", "lost-reply"),
        ("remove", "garbage"),
        ("inspect", "truncated"),
        ("events", "500 no"),
        ("any", "stall-after"),
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
