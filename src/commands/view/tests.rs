//! Golden texts: look at them, they are what people see.

use super::*;
use crate::decide::{Drain, PilotState};
use serde_json::{Value, json};
use std::path::Path;

/// 2026-05-04 14:00:00 UTC, a Monday.
const NOW: f64 = 1_777_903_200.0;
const GIB: u64 = 1 << 30;

fn page(width: usize, height: Option<usize>) -> Page {
    Page {
        width,
        height,
        is_coloured: false,
        zone: TimeZone::UTC,
        now: Moment {
            epoch: NOW,
            awake: 1000.0,
            ..Moment::default()
        },
        lines: Vec::new(),
    }
}

fn pilot(number: u32) -> Value {
    let started = NOW - 100.0 * f64::from(number);
    let name = format!("plancton-sim-{:06x}", 0x3f_9a1c + number * 4099);
    let image = "registry.example.org/science/worker:2026.1";
    json!({"id": "ab", "name": name, "class": "sim", "state": "running", "started": started,
        "deadline": started + 43_200.0, "image": image, "cpus": 1.0, "memory": 2 * GIB})
}

/// As a daemon writes it, with these differences.
fn busy(differences: Value) -> Status {
    let mut status = json!({
        "version": "0.1.0", "instance": "system", "pid": 812, "since": NOW - 11_520.0, "tick": NOW - 4.0, "due": NOW + 6.0,
        "state": "active", "reason": {"text": "running as many pilots as fit (5): the next one needs 1; of 8 cores you use 1.6, pilots \
            have 5, 1 is kept free"},
        "protection": {"level": "verified", "text": "pilots only get what nobody else wants"},
        "cpus": {"total": 8, "given": 5, "foreign": 1.6, "pilots": 4.8, "idle": 1.6, "reserve": 1},
        "memory": {"total": 32 * GIB, "available": 20 * GIB, "given": 10 * GIB, "pilots": 4 * GIB, "foreign": 8 * GIB,
            "reserve": 2 * GIB},
        "pilots": (1..=5).map(pilot).collect::<Vec<_>>(),
        "engine": {"name": "Docker", "version": "20.10.24", "api": "1.41", "socket": "/var/run/docker.sock"},
        "counts": {"done": 124, "launches": 132},
        "loop": {"turns": 9, "longest_gap_ms": 1, "calls": 9, "cpu_ms": 9, "awake": 996, "interval": 10},
    });
    for (key, value) in differences.as_object().unwrap() {
        status[key] = value.clone();
    }
    serde_json::from_value(status).unwrap()
}

fn draining() -> Status {
    busy(json!({
        "pilots": (1..=60).map(pilot).collect::<Vec<_>>(), "others": {"pilots": 2, "cpus": 1.5},
        "drain": {"stop": true, "by": NOW + 7200.0, "since": NOW - 90_000.0},
        "disk": {"free": GIB, "reserve": 10 * GIB}, "state": "draining",
        "problems": ["class 'sim': the engine does not find image 'x'; trying again in 5m"],
    }))
}

/// The engine is down and the daemon silent, snoozed before.
fn silent() -> Status {
    let mut status = busy(json!({
        "pilots": [pilot(1), pilot(2)], "tick": NOW - 500.0, "due": NOW - 400.0, "snooze": {"until": NOW + 5400.0},
        "state": "snoozed", "engine": {"name": "", "version": "", "api": "", "socket": ""}, "counts": {},
        "loop": {"turns": 9, "longest_gap_ms": 1, "calls": 9, "cpu_ms": 9, "awake": 500, "interval": 10},
    }));
    status.cpus.foreign = None;
    status.pilots[0].state = PilotState::Paused;
    (status.pilots[0].started, status.pilots[0].deadline) = (None, None);
    status.pilots[1].deadline = Some(NOW - 1.0);
    status
}

fn why_of(status: &Status) -> String {
    let mut page = page(80, None);
    page.headline(status);
    page.text()
}

#[test]
fn goldens() {
    for (name, status, page) in [
        ("busy-80", busy(json!({})), page(80, None)),
        ("busy-120", busy(json!({})), page(120, None)),
        ("draining-60", draining(), page(60, Some(34))),
        ("silent-80", silent(), page(80, None)),
    ] {
        let text = render(&status, page);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let file = file.join(format!("status-{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{name}");
    }
}

/// Colour adds nothing but colour, no line is too long, and the screen is not overrun.
#[test]
fn every_size() {
    for status in [busy(json!({})), draining(), silent(), Status::default()] {
        for width in [60, 72, 80, 97, 120] {
            for height in [None, Some(36), Some(50)] {
                let mut page = page(width, height);
                let plain = render(&status, page.clone());
                let widest = plain.lines().map(length).max();
                assert!(widest <= Some(width), "{width}:\n{plain}");
                let most = height.unwrap_or(usize::MAX);
                assert!(plain.lines().count() <= most, "{plain}");
                page.is_coloured = true;
                let coloured = render(&status, page);
                let mut parts = coloured.split("\x1b[");
                let first = parts.next().unwrap().to_owned();
                let bare = |part: &str| part.split_once('m').unwrap().1.to_owned();
                assert_eq!(parts.map(bare).fold(first, |all, part| all + &part), plain);
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
    let text = render(&status, page(120, None));
    assert!(text.contains("a[2Jb c5m"), "{text}");
    let is_foreign = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{200b}".contains(c));
    assert!(!text.contains(is_foreign), "{text:?}");
}

#[test]
fn impossible_numbers_are_drawn() {
    let mut status = busy(json!({}));
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
    let text = render(&status, page(80, None));
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

/// Why a class waits, in its pilot's own words: to who may read them.
#[test]
fn a_pilots_last_line_is_shown_while_its_class_waits() {
    let gone = |tail: &str| json!([{"name": "plancton-b-1", "class": "b", "kind": "failed", "at": NOW, "lived": 11.0, "exit_code": 1, "log_tail": tail}]);
    for (code, tail, expected) in [
        ("back-off", "asking\nAccount key refused\u{1b}[2J\n\n", true),
        ("no-work", "Account key refused\n", true),
        ("back-off", "", false),
        ("full", "Account key refused\n", false),
    ] {
        let status =
            busy(json!({"gone": gone(tail), "reason": {"code": code, "text": "it waits"}}));
        let shown = why_of(&status);
        assert_eq!(
            shown.contains("Account key refused"),
            expected,
            "{code} {shown}"
        );
        assert!(!shown.contains('\u{1b}'));
    }
}
