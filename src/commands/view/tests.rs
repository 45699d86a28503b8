//! Golden texts: look at them, they are what people see.

use super::*;
use crate::decide::{Code, Drain, PilotState, Reason, Snooze};
use crate::report::{Disk, Engine, Loop, Memory, Others, Pilot, Protection};
use std::collections::BTreeMap;
use std::path::Path;

/// 2026-05-04 14:00:00 UTC, a Monday.
const NOW: f64 = 1_777_903_200.0;
const GIB: u64 = 1 << 30;

fn screen(width: usize, height: Option<usize>) -> Screen {
    Screen {
        width,
        height,
        is_coloured: false,
        zone: TimeZone::UTC,
        now: Moment {
            epoch: NOW,
            awake: 1000.0,
            ..Moment::default()
        },
    }
}

fn pilot(number: u32) -> Pilot {
    let started = NOW - 100.0 * f64::from(number);
    Pilot {
        id: format!("{number:064x}"),
        name: format!("plancton-sim-{:06x}", 0x3f_9a1c + number * 4099),
        class: "sim".to_owned(),
        state: PilotState::Running,
        started: Some(started),
        deadline: Some(started + 43_200.0),
        image: "registry.example.org/science/worker:2026.1".to_owned(),
        cpus: 1.0,
        memory: 2 * GIB,
    }
}

fn busy() -> Status {
    let text = "5 pilots run; another needs 1 core and 0.4 are free";
    Status {
        version: "0.1.0".to_owned(),
        instance: "system".to_owned(),
        pid: 812,
        since: NOW - 11_520.0,
        tick: NOW - 4.0,
        due: Some(NOW + 6.0),
        turning: Loop {
            awake: 996.0,
            ..Loop::default()
        },
        state: State::Active,
        reason: Reason::new(Code::Full, 0.4, 1.0, text),
        protection: Protection {
            level: "verified".to_owned(),
            text: "pilots only get what nobody else wants".to_owned(),
        },
        cpus: Cpus {
            total: 8.0,
            given: 5.0,
            foreign: Some(1.6),
            pilots: Some(4.8),
            idle: Some(1.6),
            reserve: 1.0,
        },
        memory: Memory {
            total: 32 * GIB,
            available: 20 * GIB,
            given: 10 * GIB,
            pilots: Some(4 * GIB),
            foreign: Some(8 * GIB),
            reserve: 2 * GIB,
        },
        pilots: (1..=5).map(pilot).collect(),
        engine: Engine {
            name: "Docker".to_owned(),
            version: "20.10.24".to_owned(),
            api: "1.41".to_owned(),
            socket: "/var/run/docker.sock".to_owned(),
        },
        counts: BTreeMap::from([("done".to_owned(), 124), ("launches".to_owned(), 132)]),
        ..Status::default()
    }
}

fn draining() -> Status {
    Status {
        pilots: (1..=60).map(pilot).collect(),
        others: Others {
            pilots: 2,
            cpus: 1.5,
        },
        drain: Some(Drain {
            stop: true,
            by: Some(NOW + 7200.0),
            since: NOW - 90_000.0,
        }),
        disk: Some(Disk {
            free: GIB,
            reserve: 10 * GIB,
        }),
        state: State::Draining,
        problems: vec![
            "class 'sim': the engine does not find image 'x'; trying again in 5m".to_owned(),
        ],
        ..busy()
    }
}

/// The engine is down and the daemon silent, snoozed before.
fn silent() -> Status {
    let mut status = Status {
        pilots: vec![pilot(1), pilot(2)],
        due: Some(NOW - 400.0),
        tick: NOW - 500.0,
        turning: Loop {
            awake: 500.0,
            interval: 10.0,
            ..Loop::default()
        },
        snooze: Some(Snooze {
            until: NOW + 5400.0,
        }),
        state: State::Snoozed,
        engine: Engine::default(),
        counts: BTreeMap::new(),
        ..busy()
    };
    status.cpus.foreign = None;
    status.pilots[0].state = PilotState::Paused;
    (status.pilots[0].started, status.pilots[0].deadline) = (None, None);
    status.pilots[1].deadline = Some(NOW - 1.0);
    status
}

#[test]
fn goldens() {
    for (name, status, screen) in [
        ("busy-80", busy(), screen(80, None)),
        ("busy-120", busy(), screen(120, None)),
        ("draining-60", draining(), screen(60, Some(34))),
        ("silent-80", silent(), screen(80, None)),
    ] {
        let text = render(&status, &screen);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let file = file.join(format!("status-{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{name}");
        assert!(text.starts_with(&render_why(&status, &screen)));
    }
}

/// Colour adds nothing but colour, no line is too long, and the screen is not overrun.
#[test]
fn every_size() {
    for status in [busy(), draining(), silent(), Status::default()] {
        for width in [60, 72, 80, 97, 120] {
            for height in [None, Some(36), Some(50)] {
                let mut screen = screen(width, height);
                let plain = render(&status, &screen);
                let widest = plain.lines().map(length).max();
                assert!(widest <= Some(width), "{width}:\n{plain}");
                assert!(
                    height.is_none_or(|height| plain.lines().count() <= height),
                    "{plain}"
                );
                screen.is_coloured = true;
                let coloured = render(&status, &screen);
                let mut parts = coloured.split("\x1b[");
                let first = parts.next().unwrap().to_owned();
                let without =
                    parts.fold(first, |text, part| text + part.split_once('m').unwrap().1);
                assert_eq!(without, plain);
            }
        }
    }
}

#[test]
fn nothing_from_outside_steers_the_terminal() {
    let evil = "a\x1b[2J\u{202e}b\nc\u{9b}5m\u{200b}";
    let mut status = draining();
    for text in [
        &mut status.reason.text,
        &mut status.version,
        &mut status.instance,
        &mut status.protection.text,
        &mut status.engine.name,
        &mut status.engine.version,
        &mut status.engine.api,
        &mut status.engine.socket,
        &mut status.pilots[0].image,
        &mut status.problems[0],
    ] {
        *text = evil.to_owned();
    }
    status.pilots[1].name = evil.to_owned();
    status.counts.insert(evil.to_owned(), 1);
    let text = render(&status, &screen(120, None));
    assert!(text.contains("a[2Jb c5m"), "{text}");
    let is_foreign = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{200b}".contains(c));
    assert!(!text.contains(is_foreign), "{text:?}");
}

#[test]
fn impossible_numbers_are_drawn() {
    let mut status = busy();
    status.cpus.foreign = Some(f64::NAN);
    status.cpus.pilots = Some(1e300);
    status.cpus.given = -1.0;
    status.cpus.total = 0.0;
    status.memory.foreign = Some(u64::MAX);
    status.since = 1e300;
    status.tick = f64::NAN;
    status.drain = Some(Drain {
        by: Some(1e300),
        ..Drain::default()
    });
    let text = render(&status, &screen(80, None));
    assert!(text.lines().all(|line| length(line) < 400), "{text}");
    for (value, shown) in [
        (1.0, "1"),
        (0.49, "0.5"),
        (-0.0, "0"),
        (10.04, "10"),
        (f64::NAN, "?"),
    ] {
        assert_eq!(number(value), shown);
    }
}
