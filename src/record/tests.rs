//! What a tick adds, what of a text can be read, and what is kept of it.

use super::keep::{Recorder, read};
use super::*;
use crate::decide::{Capacity, CpuUse, Expiry, Finished, Pilot, Reason};
use crate::units::{Moment, PilotId};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// 2026-11-22 09:00:00 UTC.
const NINE: f64 = 1_795_338_000.0;
const HOUR: u64 = 498_705;

fn pilot(class: &str, state: PilotState, own: bool) -> Pilot {
    Pilot {
        id: PilotId::new(&"a1".repeat(32)).unwrap(),
        name: "n".to_owned(),
        class: class.to_owned(),
        own,
        state,
        created: NINE,
        expiry: Expiry::Epoch(NINE),
        cpus: 2.0,
        memory: 0,
        grace: 1.0,
        used: None,
        unlimited: None,
    }
}

/// At so many seconds after nine: pilots used 1.5 cores since the beginning, the owner half a core in the last window.
fn seen(second: f64) -> Observation {
    let at = Moment {
        awake: 100.0 + second,
        boot: 500.0 + second,
        epoch: NINE + second,
    };
    let cpu = CpuUse {
        foreign: 0.5,
        window: 10.0,
        at: at.boot,
        ..CpuUse::default()
    };
    let pilots = vec![
        pilot("a", PilotState::Running, true),
        pilot("a", PilotState::Running, true),
        pilot("a", PilotState::Paused, true),
        pilot("b", PilotState::Running, false),
    ];
    Observation {
        at,
        cpu: Some(cpu),
        given_seconds: 1.5 * second,
        pilots: Some(pilots),
        ..Observation::default()
    }
}

fn decided(code: Code, ends: &[(&str, EndKind)]) -> Decision {
    let gone = |(class, kind): &(&str, EndKind)| Finished {
        name: "n".to_owned(),
        class: (*class).to_owned(),
        kind: *kind,
        at: NINE,
        lived: 1.0,
        exit_code: 0,
        log_tail: String::new(),
    };
    Decision {
        actions: Vec::new(),
        state: State::Active,
        reason: Reason::new(code, 0.0, 0.0, ""),
        capacity: Capacity::default(),
        ended: ends.iter().map(gone).collect(),
        wake_in: None,
        contended: false,
        finished: false,
    }
}

#[test]
fn what_a_tick_adds() {
    let (mut meter, mut sums) = (Meter::default(), Sums::default());
    meter.add(
        &seen(10.0),
        &decided(Code::Busy, &[("a", EndKind::Done), ("b", EndKind::Done)]),
        &mut sums,
    );
    // Between regular ticks the window is the same: it counts once.
    let mut between = seen(14.0);
    between.cpu = seen(10.0).cpu;
    meter.add(&between, &decided(Code::Full, &[]), &mut sums);
    meter.add(
        &seen(20.0),
        &decided(
            Code::Battery,
            &[("a", EndKind::Failed), ("a", EndKind::Done)],
        ),
        &mut sums,
    );
    let mut blind = seen(30.0);
    (blind.pilots, blind.cpu) = (None, None);
    meter.add(&blind, &decided(Code::EngineDown, &[]), &mut sums);
    let expected = Sums {
        observed_seconds: Seconds(20.0),
        given_cpu_seconds: Seconds(45.0),
        owner_cpu_seconds: Seconds(10.0),
        classes: BTreeMap::from([
            class("a", 40.0, &[(EndKind::Done, 2), (EndKind::Failed, 1)]),
            class("b", 0.0, &[(EndKind::Done, 1)]),
        ]),
        held_back_seconds: BTreeMap::from([
            (Code::Busy, Seconds(4.0)),
            (Code::Battery, Seconds(10.0)),
        ]),
    };
    assert_eq!(sums, expected);
    assert_eq!(
        sums.ended(),
        BTreeMap::from([(EndKind::Done, 3), (EndKind::Failed, 1)])
    );
    assert!((sums.held_back() - 14.0).abs() < 1e-9);
}

fn class(name: &str, seconds: f64, ended: &[(EndKind, u64)]) -> (String, Class) {
    (
        name.to_owned(),
        Class {
            core_seconds: Seconds(seconds),
            ended: ended.iter().copied().collect(),
        },
    )
}

#[test]
fn what_counts_as_held_back() {
    let state = |state| {
        move |code| {
            held_back(&Decision {
                state,
                ..decided(code, &[])
            })
        }
    };
    for code in [Code::Starting, Code::Probing, Code::Full, Code::ClassMax] {
        assert_eq!(state(State::Active)(code), None, "{code:?}");
    }
    for code in [
        Code::Busy,
        Code::NothingFits,
        Code::EngineDown,
        Code::Drain,
        Code::NoPilot,
        Code::BackOff,
    ] {
        assert_eq!(state(State::Waiting)(code), Some(code));
    }
    assert_eq!(
        state(State::Active)(Code::MaxPilots),
        None,
        "as many as were wanted"
    );
    assert_eq!(
        state(State::Waiting)(Code::MaxPilots),
        Some(Code::MaxPilots)
    );
}

/// Sleep, jumps of the clock and a loop that does not turn add nothing that was not watched.
#[test]
fn clocks_that_jump() {
    let (mut meter, mut sums) = (Meter::default(), Sums::default());
    let steps = [
        (0.0, 0.0),
        (10.0, 86_400.0),
        (5.0, 86_410.0),
        (1e7, 86_420.0),
        (1e7 + 10.0, 0.0),
    ];
    for (awake, boot) in steps {
        let at = Moment {
            awake,
            boot,
            epoch: NINE,
        };
        meter.add(
            &Observation {
                at,
                ..Observation::default()
            },
            &decided(Code::Hold, &[]),
            &mut sums,
        );
    }
    let expected = 10.0 + LONGEST_TICK + 10.0;
    assert_eq!(sums.observed_seconds, Seconds(expected));
    assert_eq!(
        sums.held_back_seconds,
        BTreeMap::from([(Code::Hold, Seconds(expected))])
    );
    assert_eq!(hour_of(NINE), Some(HOUR));
    for unset in [0.0, -5.0, 86_400.0, f64::NAN, 1.7e9] {
        assert_eq!(hour_of(unset), None, "{unset}");
    }
}

fn lines() -> String {
    let mut sums = Sums {
        observed_seconds: Seconds(3599.6),
        ..Sums::default()
    };
    sums.class("a \"b\", é").core_seconds = Seconds(7200.2);
    sums.class("a \"b\", é")
        .ended
        .insert(EndKind::OutOfMemory, 3);
    let first = encode(HOUR, &sums);
    sums.held_back_seconds
        .insert(Code::MemoryPressure, Seconds(60.0));
    first + &encode(HOUR + 1, &sums)
}

#[test]
fn lines_are_read_back() {
    assert_eq!(
        lines(),
        "[498705,[3600,0,0,{\"a \\\"b\\\", é\":[7200,{\"out-of-memory\":3}]},{}]]\n\
         [498706,[3600,0,0,{\"a \\\"b\\\", é\":[7200,{\"out-of-memory\":3}]},{\"memory-pressure\":60}]]\n"
    );
    let (hours, bad) = parse(lines().as_bytes());
    assert_eq!((hours.len(), bad), (2, 0));
    let again: String = hours
        .iter()
        .map(|(hour, sums)| encode(*hour, sums))
        .collect();
    assert_eq!(again, lines());
}

/// Whatever a crash or a bad disk leaves of a file: whole lines are kept, the rest is counted and dropped.
#[test]
fn every_prefix_and_every_wrong_byte() {
    let text = lines();
    let first = text.find('\n').unwrap();
    for end in 0..=text.len() {
        let (hours, bad) = parse(&text.as_bytes()[..end]);
        let whole = usize::from(end >= first) + usize::from(end + 1 >= text.len());
        let open = ![0, first, first + 1, text.len() - 1, text.len()].contains(&end);
        assert_eq!((hours.len(), bad), (whole, usize::from(open)), "{end}");
        for wrong in [0, b'\n', b'9', b'[', 0xff] {
            let mut damaged = text.clone().into_bytes();
            if end < damaged.len() {
                damaged[end] = wrong;
            }
            let (hours, bad) = parse(&damaged);
            // Without the end between them, two lines are none.
            let least = usize::from(end != first);
            assert!(
                (least..=2).contains(&hours.len()) && hours.len() + bad <= 3,
                "{end} {wrong}"
            );
        }
    }
    for nonsense in [
        "[1e99,[]]",
        "[-1,[]]",
        "[18446744073709551615,[]]",
        "[1,[]]",
        "[498705,[0,0,0,{},{\"busy\":-1}]]",
        "{}",
        "null",
        "\0\0\0",
    ] {
        assert_eq!(parse(nonsense.as_bytes()), (Vec::new(), 1), "{nonsense}");
    }
}

/// A day has the hours that its clock shows: 23 in spring, 25 in autumn, and half hours where the zone has them.
#[test]
fn days_by_the_clock_on_the_wall() {
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let delhi = TimeZone::posix("IST-5:30").unwrap();
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let first = u64::try_from(start.as_second()).unwrap() / 3600;
    let one = Sums {
        observed_seconds: Seconds(1.0),
        ..Sums::default()
    };
    let hours: Hours = (first..first + 365 * 24)
        .map(|hour| (hour, one.clone()))
        .collect();
    for (zone, date, expected) in [
        (&berlin, "2026-03-28", 24.0),
        (&berlin, "2026-03-29", 23.0),
        (&berlin, "2026-10-25", 25.0),
        (&berlin, "2026-01-01", 23.0),
        (&delhi, "2026-05-05", 24.0),
        (&delhi, "2026-01-01", 19.0),
        (&TimeZone::UTC, "2026-12-31", 24.0),
    ] {
        let days = by_day(&hours, zone);
        assert_eq!(
            days[&date.parse::<Date>().unwrap()].observed_seconds,
            Seconds(expected),
            "{date}"
        );
        assert_eq!(total(days.values()).observed_seconds, Seconds(365.0 * 24.0));
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("plancton-record-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ticks from one second to another, every ten; how many writes there were.
fn run(recorder: &mut Recorder, from: u32, to: u32) -> usize {
    let ticks = (from..=to).step_by(10);
    let mut write = |second| {
        recorder.tick(
            &seen(f64::from(second)),
            &decided(Code::Busy, &[("a", EndKind::Done)]),
        )
    };
    ticks
        .filter_map(|second| write(second).map(|write| write().unwrap()))
        .count()
}

fn summed(state: &Path) -> (Hours, usize) {
    read(state).unwrap()
}

#[test]
fn written_once_a_minute_and_at_the_end() {
    let scratch = Scratch::new();
    let mut recorder = Recorder::open(&scratch.0);
    assert_eq!(run(&mut recorder, 0, 50), 0);
    assert_eq!(summed(&scratch.0), (Hours::new(), 0), "nothing yet");
    assert_eq!(run(&mut recorder, 60, 600), 10);
    assert_eq!(summed(&scratch.0).0[&HOUR].observed_seconds, Seconds(600.0));
    assert_eq!(scratch.text("history"), "", "no hour is over");
    run(&mut recorder, 610, 650);
    // A crash: what came after the last write is lost, less than a minute of it.
    drop(recorder);
    let mut recorder = Recorder::open(&scratch.0);
    assert_eq!(run(&mut recorder, 700, 720), 0);
    recorder.finish().unwrap();
    let hour = &summed(&scratch.0).0[&HOUR];
    assert_eq!(
        (hour.observed_seconds, hour.ended()[&EndKind::Done]),
        (Seconds(620.0), 61 + 3)
    );
}

#[test]
fn hours_roll_over() {
    let scratch = Scratch::new();
    let mut recorder = Recorder::open(&scratch.0);
    run(&mut recorder, 0, 3 * 3600);
    recorder.finish().unwrap();
    assert_eq!(scratch.text("history").lines().count(), 3);
    assert_eq!(scratch.text("history.hour").lines().count(), 1);
    let (hours, bad) = summed(&scratch.0);
    assert_eq!(
        (hours.keys().copied().collect::<Vec<_>>(), bad),
        ((HOUR..HOUR + 4).collect(), 0)
    );
    assert_eq!(hours[&(HOUR + 1)].observed_seconds, Seconds(3600.0));
    assert_eq!(
        total(hours.values()).observed_seconds,
        Seconds(3.0 * 3600.0)
    );
    assert_eq!(total(hours.values()).ended()[&EndKind::Done], 1081);
    // The clock is set back: the hours it shows twice are one, and nothing is counted twice.
    let mut recorder = Recorder::open(&scratch.0);
    run(&mut recorder, 0, 7200);
    recorder.finish().unwrap();
    let (hours, _) = summed(&scratch.0);
    assert_eq!(hours.len(), 4);
    assert_eq!(
        total(hours.values()).observed_seconds,
        Seconds(5.0 * 3600.0)
    );
}

/// Between the line of an hour that is over and the file of the next one.
#[test]
fn a_crash_while_the_hour_rolls_over() {
    let scratch = Scratch::new();
    let mut recorder = Recorder::open(&scratch.0);
    run(&mut recorder, 0, 3590);
    recorder.finish().unwrap();
    let (before, running) = (summed(&scratch.0), scratch.text("history.hour"));
    scratch.put("history", &running);
    assert_eq!(summed(&scratch.0), before);
    let mut recorder = Recorder::open(&scratch.0);
    run(&mut recorder, 3600, 3670);
    recorder.finish().unwrap();
    let (hours, _) = summed(&scratch.0);
    assert_eq!(hours[&HOUR], before.0[&HOUR]);
    assert_eq!(hours[&(HOUR + 1)].observed_seconds, Seconds(70.0));
    // A line that was cut off is ended, so that the next one is whole.
    scratch.put("history", "[498700,[3600,0,0,{},{}]]\n[498701,[36");
    run(&mut recorder, 7200, 7270);
    recorder.finish().unwrap();
    let (hours, bad) = summed(&scratch.0);
    assert_eq!(
        (hours.keys().copied().collect::<Vec<_>>(), bad),
        (vec![498_700, HOUR + 1, HOUR + 2], 1)
    );
}

#[test]
fn damaged_files_are_no_end() {
    for (name, text) in [
        ("history.hour", "garbage"),
        ("history.hour", "[498705,[3"),
        ("history", "\0\0\0"),
        ("history", ""),
    ] {
        let scratch = Scratch::new();
        scratch.put(name, text);
        let mut recorder = Recorder::open(&scratch.0);
        run(&mut recorder, 0, 4000);
        recorder.finish().unwrap();
        assert_eq!(
            total(summed(&scratch.0).0.values()).observed_seconds,
            Seconds(4000.0),
            "{name}: {text}"
        );
    }
    // What cannot be written is kept until it can.
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.0.join("history")).unwrap();
    let mut recorder = Recorder::open(&scratch.0);
    let mut write = |second| recorder.tick(&seen(second), &decided(Code::Full, &[]));
    assert!(write(3590.0).is_none() && write(3600.0).is_none());
    let error = write(3650.0).map(|write| write()).unwrap().unwrap_err();
    assert!(error.contains("history: cannot"), "{error}");
    std::fs::remove_dir(scratch.0.join("history")).unwrap();
    recorder.finish().unwrap();
    assert_eq!(summed(&scratch.0).0.len(), 2);
}

#[test]
fn bounds() {
    use super::keep::newest;
    let text = "[1]\n".repeat(100);
    assert_eq!(newest(text.as_bytes(), 100, 400), None);
    assert_eq!(
        newest(text.as_bytes(), 99, 400).map(<[u8]>::len),
        Some(95 * 4)
    );
    assert_eq!(
        newest(text.as_bytes(), 100, 399).map(<[u8]>::len),
        Some(95 * 4)
    );
    assert_eq!(
        newest(text.as_bytes(), 100, 40).map(<[u8]>::len),
        Some(9 * 4)
    );
    assert_eq!(
        newest(&[b'x'; 50], 10, 40),
        Some(&b""[..]),
        "one line that is too long"
    );
    // A year and a month of a usual machine is below a megabyte, and more is not kept.
    let scratch = Scratch::new();
    let sums = parse(b"[498705,[3600,28800,3600,{\"science\":[28800,{\"done\":20,\"failed\":1}]},{\"busy\":600}]]")
        .0
        .remove(0)
        .1;
    let year: String = (HOUR - 9600..HOUR)
        .map(|hour| encode(hour, &sums))
        .collect();
    assert!(year.len() < 1_000_000, "{}", year.len());
    scratch.put("history", &year);
    let mut recorder = Recorder::open(&scratch.0);
    run(&mut recorder, 0, 3660);
    let (hours, _) = summed(&scratch.0);
    assert!((9000..=9504).contains(&hours.len()), "{}", hours.len());
    assert_eq!(hours.keys().next_back(), Some(&(HOUR + 1)), "the oldest go");
    assert!(scratch.text("history").len() < 1_000_000);
}

#[test]
fn names_are_short() {
    let mut sums = Sums::default();
    sums.class(&"é".repeat(500)).core_seconds.0 += 1.0;
    sums.class(&"é".repeat(400)).core_seconds.0 += 1.0;
    assert_eq!(
        sums.classes,
        BTreeMap::from([class(&"é".repeat(60), 2.0, &[])])
    );
}
