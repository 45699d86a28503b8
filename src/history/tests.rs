//! What a tick adds, what of a file can be read, and what is kept of it.

use super::*;
use crate::decide::{Finished, Reason};
use crate::host::tests::Tree;
use serde_json::{Value, json};

/// 2026-11-22 09:00:00 UTC.
const NINE: f64 = 1_795_338_000.0;
const HOUR: u64 = 498_705;

/// At so many seconds after nine: pilots used 1.5 cores since the beginning, the owner half a core in the last window.
fn seen(second: f64) -> Observation {
    let pilot = |class: &str, state: &str, own: bool| -> Value {
        let (id, expiry) = ("a1".repeat(32), json!({"epoch": NINE}));
        json!({"id": id, "name": "n", "class": class, "own": own, "state": state, "created": NINE,
            "expiry": expiry, "cpus": 2.0, "memory": 0, "grace": 1.0, "used": null, "unlimited": null})
    };
    let seen = json!({
        "at": {"awake": 100.0 + second, "boot": 500.0 + second, "epoch": NINE + second},
        "cpu": {"busy": 0, "pilots": 0, "foreign": 0.5, "foreign_smooth": 0, "window": 10, "at": 500.0 + second},
        "given_seconds": 1.5 * second,
        "pilots": [pilot("a", "running", true), pilot("a", "running", true), pilot("a", "paused", true),
            pilot("b", "running", false)],
    });
    serde_json::from_value(seen).unwrap()
}

fn decided(code: Code, ends: &[(&str, EndKind)]) -> Decision {
    let finished = |(class, kind): &(&str, EndKind)| Finished {
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
        reason: Reason::of(code, 0.0, 0.0, ""),
        ended: ends.iter().map(finished).collect(),
        actions: Vec::new(),
        capacity: Default::default(),
        void: Vec::new(),
        wake_in: None,
        contended: false,
        finished: false,
    }
}

/// As a line of the file has them.
fn sums_of(values: Value) -> Sums {
    serde_json::from_value(values).unwrap()
}

fn total_of(history: &History) -> Sums {
    total(history.unwritten.values())
}

#[test]
fn what_a_tick_adds() {
    let mut history = History::default();
    // Between regular ticks the window is the same: it counts once.
    let mut between = seen(14.0);
    between.cpu = seen(10.0).cpu;
    let mut blind = seen(30.0);
    (blind.pilots, blind.cpu) = (None, None);
    let (done, failed) = (EndKind::Done, EndKind::Failed);
    for (seen, code, ends) in [
        (seen(10.0), Code::Busy, &[("a", done), ("b", done)][..]),
        (between, Code::Full, &[]),
        (seen(20.0), Code::Battery, &[("a", failed), ("a", done)]),
        (blind, Code::EngineDown, &[]),
    ] {
        history.tick(&seen, &decided(code, ends));
    }
    let classes = json!({"a": [40, {"done": 2, "failed": 1}], "b": [0, {"done": 1}]});
    let expected = json!([20, 45, 10, classes, {"busy": 4, "battery": 10}]);
    let sums = total_of(&history);
    assert_eq!(sums, sums_of(expected));
    assert_eq!(sums.ended(), BTreeMap::from([(done, 3), (failed, 1)]));
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
    let mut history = History::default();
    for awake in [0.0, 10.0, 5.0, 1e7, 1e7 + 10.0] {
        let mut seen = Observation::default();
        (seen.at.awake, seen.at.epoch) = (awake, NINE);
        history.tick(&seen, &decided(Code::Hold, &[]));
    }
    let expected = Seconds(10.0 + LONGEST_TICK + 10.0);
    let sums = total_of(&history);
    assert_eq!(sums.observed_seconds, expected);
    assert_eq!(sums.held_back_seconds[&Code::Hold], expected);
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

fn read_text(scratch: &Tree, text: impl AsRef<[u8]>) -> (Hours, usize) {
    scratch.put("history", text);
    read(scratch.root()).unwrap()
}

#[test]
fn lines_are_read_back() {
    let scratch = Tree::new(&[]);
    let (hours, bad) = read_text(&scratch, LINES);
    assert_eq!(bad, 0);
    assert_eq!(hours.iter().map(encode).collect::<String>(), LINES);
    // As a list of values, and an hour that comes twice: what was written is added up.
    let short = "[498705,[3600,9,0,{\"a\":[60,{\"done\":1}]},{\"busy\":5}]]\n";
    let twice = sums_of(json!([7200, 18, 0, {"a": [120, {"done": 2}]}, {"busy": 10}]));
    assert_eq!(
        read_text(&scratch, short.repeat(2)),
        (Hours::from([(HOUR, twice)]), 0)
    );
    for nonsense in [
        "[1e99,[]]",
        "[-1,[]]",
        "[18446744073709551615,[]]",
        "[1,[0,0,0,{},{}]]",
        "[498705,[0,0,0,{},{\"busy\":-1}]]",
        "{}",
        "\0\0\0",
    ] {
        assert_eq!(
            read_text(&scratch, nonsense),
            (Hours::new(), 1),
            "{nonsense}"
        );
    }
}

/// Whatever a crash or a bad disk leaves of a file: whole lines are kept, the rest is counted and dropped.
#[test]
fn every_prefix_and_every_wrong_byte() {
    let scratch = Tree::new(&[]);
    let first = LINES.find('\n').unwrap();
    for end in 0..LINES.len() {
        let (hours, bad) = read_text(&scratch, &LINES.as_bytes()[..end]);
        let whole = usize::from(end >= first) + usize::from(end + 1 >= LINES.len());
        let open = ![0, first, first + 1, LINES.len() - 1].contains(&end);
        assert_eq!((hours.len(), bad), (whole, usize::from(open)), "{end}");
        for wrong in [0, b'\n', b'9', b'[', 0xff] {
            let mut damaged = LINES.as_bytes().to_vec();
            damaged[end] = wrong;
            let (hours, bad) = read_text(&scratch, damaged);
            // Without the end between them, two lines are none.
            let least = usize::from(end != first);
            assert!(
                (least..=2).contains(&hours.len()) && hours.len() + bad <= 3,
                "{end}"
            );
        }
    }
}

/// A day has the hours that its clock shows: 23 in spring, 25 in autumn, and half hours where the zone has them.
#[test]
fn days_by_the_clock_on_the_wall() {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let first = u64::try_from(start.as_second()).unwrap() / 3600;
    let one = sums_of(json!([1, 0, 0, {}, {}]));
    let hours: Hours = (first..first + 365 * 24)
        .map(|hour| (hour, one.clone()))
        .collect();
    for (zone, date, expected) in [
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-28", 24.0),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29", 23.0),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25", 25.0),
        ("IST-5:30", "2026-05-05", 24.0),
        ("IST-5:30", "2026-01-01", 19.0),
    ] {
        let days = by_day(&hours, &TimeZone::posix(zone).unwrap());
        let day = &days[&date.parse::<Date>().unwrap()];
        assert_eq!(day.observed_seconds, Seconds(expected), "{date}");
        assert_eq!(total(days.values()).observed_seconds, Seconds(365.0 * 24.0));
    }
}

/// Ticks from one second to another, every ten, each with a pilot that ended; how many writes there were.
fn run(history: &mut History, scratch: &Tree, from: u32, to: u32) -> usize {
    let mut writes = 0;
    for second in (from..=to).step_by(10).map(f64::from) {
        let seen = seen(second);
        history.tick(&seen, &decided(Code::Busy, &[("a", EndKind::Done)]));
        if let Some(hours) = history.take_due(seen.at.boot) {
            append(scratch.root(), &hours).unwrap();
            writes += 1;
        }
    }
    writes
}

fn seconds_and_ends(scratch: &Tree) -> (f64, u64) {
    let sums = total(read(scratch.root()).unwrap().0.values());
    (sums.observed_seconds.0, sums.ended().values().sum())
}

#[test]
fn a_crash_costs_ten_minutes_at_most() {
    let scratch = Tree::new(&[]);
    let mut history = History::default();
    for (from, to, writes, written) in [
        (0, 50, 0, (0.0, 0)),
        (60, 650, 1, (60.0, 7)),
        (660, 1250, 1, (660.0, 67)),
    ] {
        assert_eq!(run(&mut history, &scratch, from, to), writes, "{from}");
        assert_eq!(seconds_and_ends(&scratch), written);
    }
    let mut history = History::default();
    assert_eq!(run(&mut history, &scratch, 1300, 1320), 0);
    append(scratch.root(), &history.unwritten).unwrap();
    assert_eq!(seconds_and_ends(&scratch), (680.0, 70));
}

/// A clock that is set back shows hours twice: they are one, and nothing is counted twice.
#[test]
fn hours_roll_over() {
    let scratch = Tree::new(&[]);
    for expected in [(10_800.0, 1081), (21_600.0, 2162)] {
        let mut history = History::default();
        run(&mut history, &scratch, 0, 3 * 3600);
        append(scratch.root(), &history.unwritten).unwrap();
        let (hours, bad) = read(scratch.root()).unwrap();
        assert!(bad == 0 && hours.into_keys().eq(HOUR..HOUR + 4));
        assert_eq!(seconds_and_ends(&scratch), expected);
    }
}

#[test]
fn what_cannot_be_written_is_whole_afterwards() {
    let scratch = Tree::new(&[]);
    let path = scratch.path("history");
    std::fs::create_dir(&path).unwrap();
    let mut history = History::default();
    run(&mut history, &scratch, 0, 50);
    assert!(append(scratch.root(), &history.unwritten).is_err());
    std::fs::remove_dir(&path).unwrap();
    // A line that was cut off is ended, so that the next one is whole.
    std::fs::write(&path, "[498701,[36").unwrap();
    append(scratch.root(), &history.unwritten).unwrap();
    let (hours, bad) = read(scratch.root()).unwrap();
    assert_eq!((hours.len(), bad), (1, 1));
}

#[test]
fn a_file_that_is_too_long_loses_its_oldest_hours() {
    let scratch = Tree::new(&[]);
    let path = scratch.path("history");
    let usual = json!([3600, 28800, 3600, {"science": [28800, {"done": 20}]}, {"busy": 600}]);
    let usual = sums_of(usual);
    let line = |hour: u64| encode((&hour, &usual));
    let text: String = (HOUR - 99..=HOUR).map(line).collect();
    for (most, kept) in [(text.len(), 100), (text.len() - 1, 49), (0, 0)] {
        std::fs::write(&path, &text).unwrap();
        shorten(scratch.root(), most).unwrap();
        let (hours, bad) = read(scratch.root()).unwrap();
        assert!(bad == 0 && hours.into_keys().eq(HOUR + 1 - kept..=HOUR));
    }
    // A year and a month of a usual machine fits.
    assert!(line(HOUR).len() * 396 * 24 < MOST_BYTES / 2);
}
