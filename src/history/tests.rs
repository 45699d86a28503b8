//! What a tick adds, what of a file can be read, and what is kept of it.

use super::*;
use crate::decide::{CpuUse, Expiry, Finished, Pilot, Reason};
use crate::units::{Moment, PilotId};
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
        state: State::Active,
        reason: Reason::new(code, 0.0, 0.0, ""),
        ended: ends.iter().map(gone).collect(),
        ..Decision::default()
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
    use Code::*;
    let in_state = |state, code| {
        let mut decision = decided(code, &[]);
        decision.state = state;
        held_back(&decision)
    };
    for code in [Starting, Probing, Full, ClassMax, MaxPilots] {
        assert_eq!(in_state(State::Active, code), None, "{code:?}");
    }
    for code in [MaxPilots, Busy, NothingFits, EngineDown, NoPilot] {
        assert_eq!(in_state(State::Waiting, code), Some(code));
    }
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
    // A clock that was not set yet belongs to no hour.
    let mut history = History::default();
    for epoch in [0.0, -5.0, 86_400.0, f64::NAN, 1.7e9, 1e300] {
        let mut unset = seen(10.0);
        unset.at.epoch = epoch;
        history.tick(&unset, &decided(Code::Full, &[]));
        assert!(history.unwritten.is_empty(), "{epoch}");
    }
}

const LINES: &str = "\
[498705,{\"observed_seconds\":3600,\"given_cpu_seconds\":9,\"owner_cpu_seconds\":0,\"classes\":\
{\"a \\\"b\\\", é\":{\"core_seconds\":7200,\"ended\":{\"out-of-memory\":3}}},\"held_back_seconds\":{}}]
[498706,{\"observed_seconds\":1,\"given_cpu_seconds\":0,\"owner_cpu_seconds\":0,\"classes\":{},\
\"held_back_seconds\":{\"memory-pressure\":60}}]
";

fn read_text(scratch: &Scratch, text: &[u8]) -> (Hours, usize) {
    std::fs::write(scratch.0.join("history"), text).unwrap();
    read(&scratch.0).unwrap()
}

#[test]
fn lines_are_read_back() {
    let scratch = Scratch::new();
    let (hours, bad) = read_text(&scratch, LINES.as_bytes());
    assert_eq!(bad, 0);
    assert_eq!(hours.iter().map(encode).collect::<String>(), LINES);
    // As a list of values, and an hour that comes twice: what was written is added up.
    let short = "[498705,[3600,9,0,{\"a\":[60,{\"done\":1}]},{\"busy\":5}]]\n";
    let (hours, bad) = read_text(&scratch, short.repeat(2).as_bytes());
    assert_eq!((hours.len(), bad), (1, 0));
    assert_eq!(hours[&HOUR].observed_seconds, Seconds(7200.0));
    assert_eq!(
        hours[&HOUR].classes,
        BTreeMap::from([class("a", 120.0, &[(EndKind::Done, 2)])])
    );
    for nonsense in [
        "[1e99,[]]",
        "[-1,[]]",
        "[18446744073709551615,[]]",
        "[1,[0,0,0,{},{}]]",
        "[498705,[0,0,0,{},{\"busy\":-1}]]",
        "{}",
        "null",
        "\0\0\0",
    ] {
        assert_eq!(
            read_text(&scratch, nonsense.as_bytes()),
            (Hours::new(), 1),
            "{nonsense}"
        );
    }
}

/// Whatever a crash or a bad disk leaves of a file: whole lines are kept, the rest is counted and dropped.
#[test]
fn every_prefix_and_every_wrong_byte() {
    let scratch = Scratch::new();
    let first = LINES.find('\n').unwrap();
    for end in 0..=LINES.len() {
        let (hours, bad) = read_text(&scratch, &LINES.as_bytes()[..end]);
        let whole = usize::from(end >= first) + usize::from(end + 1 >= LINES.len());
        let open = ![0, first, first + 1, LINES.len() - 1, LINES.len()].contains(&end);
        assert_eq!((hours.len(), bad), (whole, usize::from(open)), "{end}");
        for wrong in [0, b'\n', b'9', b'[', 0xff] {
            let mut damaged = LINES.as_bytes().to_vec();
            if let Some(byte) = damaged.get_mut(end) {
                *byte = wrong;
            }
            let (hours, bad) = read_text(&scratch, &damaged);
            // Without the end between them, two lines are none.
            let least = usize::from(end != first);
            assert!(
                (least..=2).contains(&hours.len()) && hours.len() + bad <= 3,
                "{end} {wrong}"
            );
        }
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
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ticks from one second to another, every ten, each with a pilot that ended; how many writes there were.
fn run(history: &mut History, scratch: &Scratch, from: u32, to: u32) -> usize {
    let mut writes = 0;
    for second in (from..=to).step_by(10).map(f64::from) {
        let seen = seen(second);
        history.tick(&seen, &decided(Code::Busy, &[("a", EndKind::Done)]));
        if let Some(hours) = history.take_due(seen.at.boot) {
            append(&scratch.0, &hours).unwrap();
            writes += 1;
        }
    }
    writes
}

fn sums(scratch: &Scratch) -> Sums {
    total(read(&scratch.0).unwrap().0.values())
}

#[test]
fn a_crash_costs_ten_minutes_at_most() {
    let scratch = Scratch::new();
    let mut history = History::default();
    for (from, to, writes, seconds) in [(0, 50, 0, 0.0), (60, 650, 1, 60.0), (660, 1250, 1, 660.0)]
    {
        assert_eq!(run(&mut history, &scratch, from, to), writes, "{from}");
        assert_eq!(sums(&scratch).observed_seconds, Seconds(seconds));
    }
    let mut history = History::default();
    assert_eq!(run(&mut history, &scratch, 1300, 1320), 0);
    append(&scratch.0, &history.unwritten).unwrap();
    let sums = sums(&scratch);
    assert_eq!(sums.observed_seconds, Seconds(680.0));
    assert_eq!(sums.ended()[&EndKind::Done], 67 + 3);
}

/// A clock that is set back shows hours twice: they are one, and nothing is counted twice.
#[test]
fn hours_roll_over() {
    let scratch = Scratch::new();
    for (ends, seconds) in [(1081, 10_800.0), (2162, 21_600.0)] {
        let mut history = History::default();
        run(&mut history, &scratch, 0, 3 * 3600);
        append(&scratch.0, &history.unwritten).unwrap();
        let (hours, bad) = read(&scratch.0).unwrap();
        assert!(bad == 0 && hours.into_keys().eq(HOUR..HOUR + 4));
        let sums = sums(&scratch);
        assert_eq!(sums.ended()[&EndKind::Done], ends);
        assert_eq!(sums.observed_seconds, Seconds(seconds));
    }
}

#[test]
fn what_cannot_be_written_is_whole_afterwards() {
    let scratch = Scratch::new();
    let path = scratch.0.join("history");
    std::fs::create_dir(&path).unwrap();
    let mut history = History::default();
    run(&mut history, &scratch, 0, 50);
    assert!(append(&scratch.0, &history.unwritten).is_err());
    std::fs::remove_dir(&path).unwrap();
    // A line that was cut off is ended, so that the next one is whole.
    std::fs::write(&path, "[498701,[36").unwrap();
    append(&scratch.0, &history.unwritten).unwrap();
    let (hours, bad) = read(&scratch.0).unwrap();
    assert_eq!((hours.len(), bad), (1, 1));
}

#[test]
fn a_file_that_is_too_long_loses_its_oldest_hours() {
    let scratch = Scratch::new();
    let path = scratch.0.join("history");
    let one = "[498705,[3600,28800,3600,{\"science\":[28800,{\"done\":20}]},{\"busy\":600}]]";
    let (hours, _) = read_text(&scratch, one.as_bytes());
    let line = |hour: u64| encode((&hour, &hours[&HOUR]));
    let text: String = (HOUR - 99..=HOUR).map(line).collect();
    for (most, kept) in [(text.len(), 100), (text.len() - 1, 49), (0, 0)] {
        std::fs::write(&path, &text).unwrap();
        shorten(&scratch.0, most).unwrap();
        let (hours, bad) = read(&scratch.0).unwrap();
        assert!(
            bad == 0 && hours.into_keys().eq(HOUR + 1 - kept..=HOUR),
            "{most}"
        );
    }
    // A year and a month of a usual machine fits.
    assert!(line(HOUR).len() * MOST_HOURS < MOST_BYTES / 2);
    std::fs::write(&path, line(HOUR).repeat(25_000)).unwrap();
    shorten(&scratch.0, MOST_BYTES).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1, "added up");
}
