//! Golden texts, and the page's promises that need no browser.

use super::super::{Colour, Screen, page};
use super::*;
use crate::decide::{Code, EndKind};
use crate::record::Class;
use crate::record::Seconds;
use std::collections::BTreeMap;

/// 2026-05-04 14:00:00 UTC, a Monday.
const NOW: f64 = 1_777_903_200.0;
const HOUR: u64 = 493_862;

fn screen(width: u16, colour: Colour) -> Screen {
    Screen {
        width,
        height: None,
        colour,
        zone: TimeZone::UTC,
    }
}

fn hour(given: f64, done: u64) -> Sums {
    let ended = BTreeMap::from([(EndKind::Done, done), (EndKind::Owner, 1)]);
    Sums {
        observed_seconds: Seconds(3600.0),
        given_cpu_seconds: Seconds(given),
        owner_cpu_seconds: Seconds(1800.0),
        classes: BTreeMap::from([(
            "sim".to_owned(),
            Class {
                core_seconds: Seconds(given * 1.25),
                ended,
            },
        )]),
        held_back_seconds: BTreeMap::from([
            (Code::Busy, Seconds(600.0)),
            (Code::MemoryPressure, Seconds(5.0)),
        ]),
    }
}

fn hours() -> Hours {
    Hours::from([
        (HOUR - 72, hour(14_400.0, 4)),
        (HOUR - 2, hour(400.0, 1)),
        (HOUR, hour(800_000.0, 2_000)),
    ])
}

fn text(width: u16) -> String {
    render(
        &last_days(&hours(), 4, NOW, &TimeZone::UTC),
        &screen(width, Colour::Off),
    )
}

#[test]
fn golden() {
    let expected = "\
What this machine gave in the last 4 days
226 h of CPU given in 2,008 pilots, 1.5 h used by the owner; watched for
  3h00m, held back for 30m15s

CPU time given by day
Fri  1 May  ▉                                                     4 h
Sat  2 May                                                          -
Sun  3 May                                                          -
Mon  4 May  ██████████████████████████████████████████████████  222 h

Pilots by end
done   ██████████████████████████████████████████████████  2,005
owner  ▏                                                       3

Core time by class
sim  ██████████████████████████████████████████████████  283 h, 2,008 pilots

Held back by
busy             ██████████████████████████████████████████████████  30m00s
memory-pressure  ▍                                                      15s
";
    assert_eq!(text(80), expected, "{}", text(80));
    for width in [20, 40, 60, 200] {
        let widest = text(width)
            .lines()
            .map(|line| line.chars().count())
            .max()
            .unwrap();
        assert!(
            widest <= usize::from(width.max(40)),
            "{width}: {widest}\n{}",
            text(width)
        );
    }
    let coloured = render(
        &last_days(&hours(), 4, NOW, &TimeZone::UTC),
        &screen(80, Colour::On),
    );
    assert!(coloured.contains("\x1b[32m█"));
}

#[test]
fn days_back() {
    let days = |count| last_days(&hours(), count, NOW, &TimeZone::UTC);
    let known = |days: &Days| days.iter().filter(|(_, sums)| sums.is_some()).count();
    for (asked, expected, with_record) in [
        (0, 1, 1),
        (1, 1, 1),
        (3, 3, 1),
        (4, 4, 2),
        (u64::MAX, 400, 2),
    ] {
        assert_eq!(
            (days(asked).len(), known(&days(asked))),
            (expected, with_record),
            "{asked}"
        );
    }
    // At the other end of the world it is tomorrow already.
    let east = TimeZone::posix("EST-14").unwrap();
    let days = last_days(&hours(), 1, NOW, &east);
    assert_eq!(days[0].0.to_string(), "2026-05-05");
    assert_eq!(
        days[0].1.as_ref().map(|sums| sums.given_cpu_seconds),
        Some(Seconds(800_400.0))
    );
}

#[test]
fn for_scripts() {
    let days = last_days(&hours(), 4, NOW, &TimeZone::UTC);
    let json = json(&days);
    assert_eq!(json["days"][0]["date"], "2026-05-01");
    assert_eq!(
        json["days"][1]["sums"]["classes"]["sim"]["ended"]["done"],
        2_001
    );
    assert_eq!(json["total"]["held_back_seconds"]["memory-pressure"], 15);
}

#[test]
fn figures() {
    for (count, expected) in [
        (0, "0"),
        (999, "999"),
        (1_000, "1,000"),
        (12_345_678, "12,345,678"),
    ] {
        assert_eq!(grouped(count), expected);
    }
    for (seconds, expected) in [
        (0.0, "0s"),
        (59.0, "59s"),
        (3_600.0, "1 h"),
        (5_400.0, "1.5 h"),
        (4.5e6, "1,250 h"),
    ] {
        assert_eq!(cpu_time(seconds), expected);
    }
    for (part, expected) in [
        (0.0, ""),
        (1e-9, "▏"),
        (0.5, "██"),
        (0.6, "██▍"),
        (1.0, "████"),
        (7.0, "████"),
        (-1.0, ""),
    ] {
        assert_eq!(bar(part, 4), expected, "{part}");
    }
}

#[test]
fn the_page_is_one_file_and_escapes() {
    let mut hours = hours();
    let nasty = "<b onload=\"x\">&{tiles}";
    let class = Class {
        core_seconds: Seconds(60.0),
        ended: BTreeMap::new(),
    };
    hours
        .entry(HOUR)
        .or_default()
        .classes
        .insert(nasty.to_owned(), class);
    let page = page::render(&hours, "<script>host\u{202e}", NOW, &TimeZone::UTC);
    assert!(
        page.contains("&lt;b onload=&quot;x&quot;&gt;&amp;{tiles}") && !page.contains("<b onload")
    );
    assert!(page.contains("What &lt;script&gt;host gave") && !page.contains("\u{202e}"));
    for outside in [
        "<script", "http:", "https:", "//", "src=", "url(", "@import", "NaN", "inf",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    // A clock that is behind the record, and one that was never set.
    for now in [0.0, NOW - 1e6, NOW + 1e9, f64::NAN, 1e300] {
        let page = page::render(&hours, "h", now, &TimeZone::UTC);
        assert!(
            page.ends_with("</html>\n") && page.len() < 1_000_000,
            "{now}: {}",
            page.len()
        );
    }
}

#[test]
fn a_year_is_a_small_page() {
    let mut one = hour(20_000.0, 20);
    for name in ["a", "b", "c", "d"] {
        one.classes
            .insert(name.to_owned(), one.classes["sim"].clone());
    }
    for (index, code) in [
        Code::Drain,
        Code::Battery,
        Code::Hours,
        Code::Disk,
        Code::Hold,
    ]
    .into_iter()
    .enumerate()
    {
        one.held_back_seconds
            .insert(code, Seconds(float(index as u64) * 700.0));
    }
    let hours: Hours = (HOUR - 9504..=HOUR)
        .filter(|hour| hour % 3 > 0)
        .map(|hour| (hour, one.clone()))
        .collect();
    let page = page::render(
        &hours,
        "host",
        NOW,
        &TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(),
    );
    assert!(page.len() < 1_000_000, "{}", page.len());
    assert!(page.contains("Day by day") && page.contains("Hour by hour"));
}
