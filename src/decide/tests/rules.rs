//! Replayed ticks of the owner's rules and commands, and of what runs short.

use super::load::policy;
use super::*;

type Twist = fn(&mut Observation);

#[test]
fn each_rule_has_its_reason() {
    let pausing: [(Code, Twist); 5] = [
        (Code::Battery, |seen| {
            (seen.on_battery, seen.charge) = (true, Some(80))
        }),
        (Code::Program, |seen| seen.program = Some("game".to_owned())),
        (Code::Hold, |seen| {
            seen.hold = Some("price.hold: expensive".to_owned())
        }),
        (Code::Temperature, |seen| seen.temperature = Some(91.0)),
        (Code::Hours, |seen| {
            (seen.local.weekday, seen.local.minute) = (1, 600)
        }),
    ];
    let text = format!("[[when]]\nhours = \"Tue 09:00-11:00\"\nmax-pilots = 0\n{ONE_CORE}");
    for (code, twist) in pausing {
        let mut world = World::filled(2.0, &text);
        world.twist = Box::new(twist);
        world.run_until(320.0);
        let (told, first) = (world.reason.code, world.log.first());
        assert_eq!((told, first.unwrap().1), (code, "pause"));
        let start = world.now;
        world.twist = Box::new(|_| {});
        world.run_for(200.0);
        assert_eq!(world.running(), 2, "{code:?} is over");
        let back = world.since(start)[0].0 - start;
        let calm = if code == Code::Hold { 0.0 } else { 45.0 };
        assert!(back >= calm, "{code:?}: back after {back}");
    }
}

#[test]
fn heat_takes_one_pilot_a_calm_and_gives_one_back() {
    let mut world = World::filled(4.0, ONE_CORE);
    world.twist = Box::new(|seen| {
        let is_hot = seen.at.boot < 420.0;
        seen.temperature = Some(if is_hot { 90.0 } else { 75.0 });
    });
    world.run_until(415.0);
    assert_eq!(world.running(), 2, "two steps: {:?}", world.log);
    world.run_until(800.0);
    assert_eq!(world.running(), 4, "{:?}", world.log);
    let steps = world.since(420.0);
    let is_slow = |pair: &[(f64, &str)]| pair[1].0 - pair[0].0 >= 50.0;
    assert!(steps.windows(2).all(is_slow), "one a calm: {steps:?}");
}

#[test]
fn what_runs_short_stops_the_youngest_one_by_one() {
    let scarce: [(Code, Twist); 3] = [
        (Code::Disk, |seen| seen.disk_free = Some(9 * GIB)),
        (Code::Memory, |seen| {
            seen.memory.as_mut().unwrap().available = GIB / 2
        }),
        (Code::MemoryPressure, |seen| {
            seen.memory_pressure = Some(40.0)
        }),
    ];
    for (code, twist) in scarce {
        let mut world = World::filled(4.0, ONE_CORE);
        let youngest = world.pilots[3].clone();
        world.twist = Box::new(twist);
        assert_eq!(world.tick().actions, [Action::Terminate(youngest)]);
        assert_eq!(world.reason.code, code);
    }
}

#[test]
fn commands_take_effect_in_their_tick() {
    let mut world = World::filled(2.0, ONE_CORE);
    let epoch = world.epoch();
    let drain = Control {
        drain: Some(Drain {
            stop: true,
            by: Some(epoch + 30.0),
            since: epoch,
        }),
        ..Control::default()
    };
    let snooze = Control {
        snooze: Some(Snooze {
            until: epoch + 60.0,
        }),
        ..Control::default()
    };
    let force_stop = Control {
        force_stop: true,
        ..Control::default()
    };
    let no_command = Control::default();
    // Seconds later, what is asked for, what is done to each of two pilots, and the state.
    let steps = [
        (0.0, &snooze, "Pause", State::Snoozed),
        // The owner's word needs no calm.
        (1.0, &no_command, "Unpause", State::Paused),
        (10.0, &drain, "", State::Draining),
        // What still runs by then is stopped.
        (25.0, &drain, "Terminate", State::Draining),
        (1.0, &drain, "Remove", State::Draining),
    ];
    for (later, control, expected, state) in steps {
        (world.now, world.control) = (world.now + later, control.clone());
        let actions = world.tick().actions;
        let is_meant =
            |action: &Action| !expected.is_empty() && format!("{action:?}").starts_with(expected);
        assert!(actions.iter().all(is_meant), "{expected}: {actions:?}");
        let number = if expected.is_empty() { 0 } else { 2 };
        assert_eq!((actions.len(), world.state), (number, state));
    }
    for control in [drain, force_stop] {
        world.now += 1.0;
        world.control = control;
        assert!(world.tick().finished, "it ends with the last pilot");
    }
}

#[test]
fn a_rule_whose_input_is_missing_is_named_and_errs_towards_the_owner() {
    let limit = "[owner]\nmax-temperature = 80\n";
    let run = "[owner]\non-battery = \"run\"\n";
    let any_charge = "[owner]\non-battery = \"run\"\nmin-battery = 0\n";
    let no_reserve = "[share]\nreserve-disk = \"0\"\n";
    let on_battery: Twist = |seen| (seen.on_battery, seen.has_battery) = (true, true);
    let no_disk: Twist = |seen| seen.disk_free = None;
    let warm: Twist = |seen| seen.temperature = Some(50.0);
    // What is configured, what is seen, what is named, the reason, and the pilots that run after a while.
    let games = "[owner]\npause-while-running = [\"game\"]\n";
    let hidden: Twist = |seen| seen.hides_programs = true;
    let cases: [(&str, Twist, &str, Code, usize); 9] = [
        (games, |_| {}, "", Code::Full, 2),
        (games, hidden, "pause-while-running", Code::Full, 2),
        (limit, |_| {}, "max-temperature", Code::Temperature, 0),
        ("", |_| {}, "", Code::Full, 2),
        (limit, warm, "", Code::Full, 2),
        (run, on_battery, "min-battery", Code::Battery, 0),
        (any_charge, on_battery, "", Code::Full, 2),
        ("", no_disk, "reserve-disk", Code::Disk, 2),
        (no_reserve, no_disk, "", Code::Full, 2),
    ];
    for (text, twist, named, code, running) in cases {
        let mut world = World::filled(2.0, &format!("{text}{ONE_CORE}"));
        world.twist = Box::new(twist);
        world.run_for(120.0);
        let void = world.tick().void.join(" ");
        let is_named = void.contains(named) && named.is_empty() == void.is_empty();
        assert!(is_named, "{text}: {void}");
        let found = (world.reason.code, world.running());
        assert_eq!(found, (code, running), "{text}");
    }
}

#[test]
fn pilots_whose_use_can_not_be_read_are_paused_after_busy_for() {
    let mut world = World::filled(2.0, ONE_CORE);
    let start = world.now;
    world.twist = Box::new(|seen| seen.cpu = None);
    world.run_until(start + 8.0);
    assert_eq!(world.since(0.0), [], "not for a moment");
    world.run_until(start + 15.0);
    assert_eq!((world.running(), world.reason.code), (0, Code::Busy));
    world.twist = Box::new(|_| {});
    world.run_for(200.0);
    assert_eq!(world.running(), 2);
}

#[test]
fn what_keeps_a_wait_from_getting_shorter_is_the_reason() {
    // Pilots are stopped for an owner who then uses all cores without end.
    let owner = |t| if t > 400.0 { 2.0 } else { NOISE };
    let mut world = World::new(2.0, &policy("stop"), owner).fill();
    world.run_until(1_000.0);
    let reason = &world.reason;
    assert_eq!((world.running(), reason.code), (1, Code::Busy));
    let off = (reason.value + 1.0).abs() + (reason.threshold - 0.5).abs();
    assert!(off < 0.1, "{reason:?}");
    // Pilots that were snoozed do not fit beside the owner any more.
    let owner = |t| if t > 320.0 { 1.8 } else { NOISE };
    let mut world = World::new(2.0, ONE_CORE, owner).fill();
    world.control.snooze = Some(Snooze { until: 1e9 + 400.0 });
    world.run_until(600.0);
    assert_eq!((world.running(), world.reason.code), (0, Code::Busy));
}

#[test]
fn a_group_that_is_lost_or_gone_is_made_again_at_each_tick() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.protection = Protection::Lost;
    for _ in 0..2 {
        assert!(world.tick().actions.contains(&Action::MendGroup));
    }
}
