//! Golden texts: look at them, they are what people see.

use super::*;
use crate::decide::Code;
use crate::report::*;
use std::collections::BTreeMap;

/// 2026-05-04 14:00:00 UTC, a Monday.
const NOW: f64 = 1_777_903_200.0;
const GIB: u64 = 1 << 30;

fn screen(width: u16) -> Screen {
    Screen {
        width,
        height: None,
        colour: Colour::Off,
        zone: TimeZone::UTC,
    }
}

fn pilot(number: u32, class: &str, image: &str) -> Pilot {
    let started = NOW - 100.0 * f64::from(number);
    Pilot {
        id: format!("{number:064x}"),
        name: format!("plancton-{class}-{:06x}", 0x3f_9a1c + number * 4099),
        class: class.to_owned(),
        state: "running".to_owned(),
        started: Some(started),
        deadline: Some(started + 43_200.0),
        image: image.to_owned(),
        cpus: 1.0,
        memory: 2 * GIB,
    }
}

fn busy() -> Status {
    let image = "registry.example.org/science/worker:2026.1";
    Status {
        schema: SCHEMA,
        version: "0.1.0".to_owned(),
        instance: "system".to_owned(),
        pid: 812,
        since: NOW - 11_520.0,
        tick: NOW - 4.0,
        due: Some(NOW + 6.0),
        state: State::Active,
        reason: Reason {
            code: Code::Full,
            value: 0.4,
            threshold: 1.0,
            since: NOW - 600.0,
            text: "5 pilots run; another needs 1 core and 0.4 are free".to_owned(),
        },
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
        disk: Some(Disk {
            free: 100 * GIB,
            reserve: 10 * GIB,
        }),
        pilots: (1..=5).map(|number| pilot(number, "sim", image)).collect(),
        engine: Engine {
            name: "Docker".to_owned(),
            version: "20.10.24".to_owned(),
            api: "1.41".to_owned(),
            socket: "unix:///var/run/docker.sock".to_owned(),
        },
        counts: BTreeMap::from(
            [("launches", 132), ("done", 124), ("failed", 3)].map(|(kind, n)| (kind.to_owned(), n)),
        ),
        ..Status::default()
    }
}

fn draining() -> Status {
    let mut status = busy();
    status.pilots = (1..=60)
        .map(|number| pilot(number, "sim", "busybox"))
        .collect();
    status.others = Others {
        pilots: 2,
        cpus: 1.5,
    };
    status.drain = Some(Drain {
        stop: true,
        by: Some(NOW + 7200.0),
        since: NOW - 90_000.0,
    });
    status.state = State::Draining;
    status.reason.text = "60 pilots are still to finish".to_owned();
    status.problems = vec![
        "class 'sim': the engine does not find image 'x'; trying again in 5m".to_owned(),
        "a second\none".to_owned(),
    ];
    status
}

/// The engine is down and the daemon silent.
fn silent() -> Status {
    let mut status = Status {
        version: "0.1.0".to_owned(),
        instance: "user-1000".to_owned(),
        pid: 9,
        since: NOW - 700.0,
        tick: NOW - 500.0,
        due: Some(NOW - 400.0),
        ..Status::default()
    };
    status.engine.socket = "unix:///var/run/docker.sock".to_owned();
    status.cpus.total = 1.0;
    status.cpus.foreign = Some(0.02);
    status.memory.total = 2 * GIB;
    status.memory.foreign = Some(300 << 20);
    status.memory.reserve = 2 * GIB;
    status.reason.text =
        "the engine does not answer: connection refused; trying again every 10 s".to_owned();
    status
}

fn snoozed() -> Status {
    let mut status = busy();
    status.snooze = Some(Snooze {
        until: NOW + 5400.0,
    });
    status.state = State::Snoozed;
    status.reason.text = "snoozed: 2 pilots are paused".to_owned();
    status.pilots.truncate(2);
    for pilot in &mut status.pilots {
        pilot.state = "paused".to_owned();
    }
    status.pilots[0].started = None;
    status.pilots[0].deadline = None;
    status.pilots[1].deadline = Some(NOW - 1.0);
    status.cpus.pilots = Some(0.0);
    status.cpus.given = 2.0;
    status.cpus.foreign = None;
    status
}

#[test]
fn goldens() {
    let low = |width, height| Screen {
        height: Some(height),
        ..screen(width)
    };
    for (name, status, screen, golden) in [
        (
            "busy-80",
            busy(),
            screen(80),
            include_str!("golden/busy-80.txt"),
        ),
        (
            "busy-110",
            busy(),
            screen(110),
            include_str!("golden/busy-110.txt"),
        ),
        (
            "busy-40",
            busy(),
            screen(40),
            include_str!("golden/busy-40.txt"),
        ),
        (
            "draining-60",
            draining(),
            low(60, 34),
            include_str!("golden/draining-60.txt"),
        ),
        (
            "silent-80",
            silent(),
            screen(80),
            include_str!("golden/silent-80.txt"),
        ),
        (
            "snoozed-80",
            snoozed(),
            screen(80),
            include_str!("golden/snoozed-80.txt"),
        ),
    ] {
        let text = render(&status, NOW, &screen);
        assert!(text == golden, "{name} is now:\n{text}\nand was:\n{golden}");
    }
}

fn without_colour(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
}

/// Colour adds nothing but colour, no line is too long, and the screen is not overrun.
#[test]
fn every_size() {
    for status in [busy(), draining(), silent(), snoozed(), Status::default()] {
        for width in [1, 40, 41, 53, 60, 72, 80, 97, 120, 200] {
            for height in [None, Some(40), Some(50)] {
                let mut screen = screen(width);
                screen.height = height;
                let plain = render(&status, NOW, &screen);
                for line in plain.lines() {
                    assert!(
                        line.chars().count() <= usize::from(width.max(40)),
                        "{width}: {line}"
                    );
                }
                let lines = plain.lines().count();
                assert!(
                    height.is_none_or(|height| lines <= usize::from(height)),
                    "{width}x{height:?}: {lines}"
                );
                screen.colour = Colour::On;
                let coloured = render(&status, NOW, &screen);
                assert!(coloured.contains("\x1b["));
                let trimmed = |text: &str| {
                    text.lines()
                        .map(|line| line.trim_end().to_owned())
                        .collect::<Vec<_>>()
                };
                assert_eq!(trimmed(&without_colour(&coloured)), trimmed(&plain));
            }
        }
    }
}

#[test]
fn rows_fit_exactly() {
    let mut status = busy();
    status.pilots = (1..=10)
        .map(|number| pilot(number, "sim", "busybox"))
        .collect();
    let lines = |height| {
        let text = render(
            &status,
            NOW,
            &Screen {
                height,
                ..screen(80)
            },
        );
        (text.lines().count(), text.contains("more"))
    };
    let (all, _) = lines(None);
    let height = |lines: usize| Some(u16::try_from(lines).unwrap());
    assert_eq!(lines(height(all)), (all, false));
    assert_eq!(lines(height(all - 1)), (all - 1, true));
    assert_eq!(lines(height(all - 2)), (all - 2, true));
    assert_eq!(
        lines(Some(1)),
        (all - 6, true),
        "three pilots are always shown"
    );
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
    ] {
        *text = evil.to_owned();
    }
    for text in [
        &mut status.engine.name,
        &mut status.engine.version,
        &mut status.engine.api,
        &mut status.engine.socket,
    ] {
        *text = evil.to_owned();
    }
    status.problems = vec![evil.to_owned()];
    status.counts.insert(evil.to_owned(), 1);
    status.pilots = vec![Pilot {
        name: evil.to_owned(),
        class: evil.to_owned(),
        state: evil.to_owned(),
        image: evil.to_owned(),
        ..Pilot::default()
    }];
    let text = render(&status, NOW, &screen(120));
    assert!(text.contains("a[2Jb c5m"), "{text}");
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    assert!(!text.contains(['\u{202e}', '\u{200b}']), "{text:?}");
}

#[test]
fn impossible_numbers_are_drawn() {
    let mut status = busy();
    status.cpus.foreign = Some(f64::NAN);
    status.cpus.pilots = Some(1e300);
    status.cpus.given = -1.0;
    status.memory.foreign = Some(u64::MAX);
    status.since = 1e300;
    status.tick = f64::NAN;
    status.drain = Some(Drain {
        by: Some(1e300),
        ..Drain::default()
    });
    let text = render(&status, NOW, &screen(80));
    assert!(text.contains("an unknown time"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() < 400),
        "{text}"
    );
}

#[test]
fn why() {
    let text = render_why(&snoozed(), NOW, &screen(80));
    let expected = "Snoozing until 15:30 (1h30m left). To go on: plancton resume\n‖ snoozed  snoozed: 2 pilots are paused\n";
    assert_eq!(text, expected);
}

#[test]
fn clocks() {
    let screen = screen(80);
    let pen = Pen::new(&screen, NOW);
    for (epoch, text) in [
        (NOW, "14:00"),
        (NOW - 86_400.0, "Sun 14:00"),
        (NOW + 5.0 * 86_400.0, "Sat 14:00"),
        (NOW + 7.0 * 86_400.0, "11 May 2026 14:00"),
        (0.0, "1 Jan 1970 00:00"),
        (1e18, "an unknown time"),
    ] {
        assert_eq!(pen.clock(epoch), text);
    }
}
