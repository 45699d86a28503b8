//! Replayed ticks of the owner's rules and commands, and of what runs short.

use super::*;
use crate::units::LocalTime;

#[test]
fn each_rule_has_its_reason() {
    type Twist = fn(&mut Observation);
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
            seen.local = LocalTime {
                weekday: 1,
                minute: 600,
            }
        }),
    ];
    let text = format!("[[when]]\nhours = \"Tue 09:00-11:00\"\nmax-pilots = 0\n{ONE_CORE}");
    for (code, twist) in pausing {
        let mut world = World::new(2.0, &text, |_| NOISE);
        filled(&mut world);
        world.twist = Box::new(twist);
        world.run_until(320.0);
        let first = world.log.first().map(|entry| entry.1);
        assert_eq!(
            (world.reason.code, first),
            (code, Some("pause")),
            "{}",
            world.reason.text
        );
        let start = world.now;
        world.twist = Box::new(|_| {});
        world.run_until(start + 200.0);
        assert_eq!(world.running(), 2, "{code:?} is over");
        let back = world
            .since(start)
            .first()
            .map_or(0.0, |entry| entry.0 - start);
        assert!(
            back >= if code == Code::Hold { 0.0 } else { 45.0 },
            "{code:?}: back after {back}"
        );
    }
}

#[test]
fn heat_takes_one_pilot_a_calm_and_gives_one_back() {
    let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    world.twist =
        Box::new(|seen| seen.temperature = Some(if seen.at.boot < 420.0 { 90.0 } else { 75.0 }));
    world.run_until(415.0);
    assert_eq!(
        world.running(),
        2,
        "two steps of 60 s: {:?}",
        world.since(0.0)
    );
    world.run_until(800.0);
    let steps: Vec<f64> = world.since(420.0).iter().map(|entry| entry.0).collect();
    assert_eq!(world.running(), 4, "{:?}", world.since(0.0));
    assert!(
        steps.windows(2).all(|pair| pair[1] - pair[0] >= 50.0),
        "one a calm: {steps:?}"
    );
}

#[test]
fn what_runs_short_stops_the_youngest_one_by_one() {
    type Twist = fn(&mut Observation);
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
        let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
        filled(&mut world);
        let youngest = world.pilots.last().unwrap().id.clone();
        world.twist = Box::new(twist);
        assert_eq!(
            world.tick().actions,
            [Action::Terminate {
                id: youngest,
                paused: false
            }],
            "{code:?}"
        );
        assert_eq!(world.reason.code, code);
    }
}

#[test]
fn commands_take_effect_in_their_tick() {
    let kinds = |world: &mut World| {
        world
            .tick()
            .actions
            .iter()
            .map(|a| format!("{a:?}").split(' ').next().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    let epoch = world.now + 1e9;
    world.control.snooze = Some(Snooze {
        until: epoch + 60.0,
    });
    assert_eq!(kinds(&mut world), ["Pause", "Pause"]);
    assert_eq!(
        (world.state, world.reason.code),
        (State::Snoozed, Code::Snooze)
    );
    world.control.snooze = None;
    world.now += 1.0;
    assert_eq!(
        kinds(&mut world),
        ["Unpause", "Unpause"],
        "resume is the owner's word and needs no calm"
    );
    world.control.drain = Some(Drain {
        stop: true,
        by: Some(epoch + 30.0),
        since: epoch,
    });
    world.now += 10.0;
    assert_eq!(kinds(&mut world), [""; 0]);
    assert_eq!(world.state, State::Draining);
    world.now += 25.0;
    assert_eq!(
        kinds(&mut world),
        ["Terminate", "Terminate"],
        "by then what still runs is stopped"
    );
    world.now += 1.0;
    assert_eq!(kinds(&mut world), ["Remove", "Remove"]);
    world.now += 1.0;
    assert!(
        world.tick().finished,
        "drain --stop ends with the last pilot"
    );
    world.control = Control {
        force_stop: true,
        ..Control::default()
    };
    assert!(world.tick().finished);
}

#[test]
fn a_rule_whose_input_is_missing_is_named_and_errs_towards_the_owner() {
    type Twist = fn(&mut Observation);
    let limit = "[owner]\nmax-temperature = 80\n";
    let run = "[owner]\non-battery = \"run\"\n";
    let on_battery: Twist = |seen| (seen.on_battery, seen.has_battery) = (true, true);
    let no_disk: Twist = |seen| seen.disk_free = None;
    // What is configured, what is seen, what is named, the reason, and the pilots that run after a while.
    let cases: [(&str, Twist, &str, Code, usize); 7] = [
        (limit, |_| {}, "max-temperature", Code::Full, 2),
        ("", |_| {}, "", Code::Full, 2),
        (
            limit,
            |seen| seen.temperature = Some(50.0),
            "",
            Code::Full,
            2,
        ),
        (run, on_battery, "min-battery", Code::Battery, 0),
        (
            "[owner]\non-battery = \"run\"\nmin-battery = 0\n",
            on_battery,
            "",
            Code::Full,
            2,
        ),
        ("", no_disk, "reserve-disk", Code::Disk, 2),
        (
            "[share]\nreserve-disk = \"0\"\n",
            no_disk,
            "",
            Code::Full,
            2,
        ),
    ];
    for (text, twist, named, code, running) in cases {
        let mut world = World::new(2.0, &format!("{text}{ONE_CORE}"), |_| NOISE);
        filled(&mut world);
        world.twist = Box::new(twist);
        world.run_until(world.now + 30.0);
        let void = world.tick().void.join(" ");
        assert!(
            void.contains(named) && named.is_empty() == void.is_empty(),
            "{text}: {void}"
        );
        assert_eq!(
            (world.reason.code, world.running()),
            (code, running),
            "{text}"
        );
    }
}

#[test]
fn pilots_whose_use_can_not_be_read_are_paused_after_busy_for() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    let start = world.now;
    world.twist = Box::new(|seen| seen.cpu = None);
    world.run_until(start + 8.0);
    assert_eq!(world.since(0.0), [], "not for a moment");
    world.run_until(start + 15.0);
    assert_eq!((world.running(), world.reason.code), (0, Code::Busy));
    world.twist = Box::new(|_| {});
    world.run_until(world.now + 200.0);
    assert_eq!(world.running(), 2);
}

#[test]
fn what_keeps_a_wait_from_getting_shorter_is_the_reason() {
    // Pilots are stopped for an owner who then uses all cores without end.
    let mut world = World::new(
        2.0,
        &policy("stop"),
        |t| if t > 400.0 { 2.0 } else { NOISE },
    );
    filled(&mut world);
    world.run_until(1_000.0);
    assert_eq!((world.running(), world.reason.code), (1, Code::Busy));
    let close = |a: f64, b: f64| (a - b).abs() < 0.1;
    let reason = &world.reason;
    assert!(
        close(reason.value, -1.0) && close(reason.threshold, 0.5),
        "{reason:?}"
    );
    // Pilots that were snoozed do not fit beside the owner any more.
    let mut world = World::new(2.0, ONE_CORE, |t| if t > 320.0 { 1.8 } else { NOISE });
    filled(&mut world);
    world.control.snooze = Some(Snooze { until: 1e9 + 400.0 });
    world.run_until(600.0);
    assert_eq!(
        (world.running(), world.reason.code),
        (0, Code::Busy),
        "{:?}",
        world.reason
    );
}

#[test]
fn a_group_that_is_lost_or_gone_is_made_again_at_each_tick() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.protection = Protection::Lost;
    for _ in 0..2 {
        assert!(world.tick().actions.contains(&Action::MendGroup));
    }
}
