//! A golden text, and what the page promises without a browser.

use super::*;
use crate::decide::{Code, EndKind};
use crate::history::{Class, Seconds};
use crate::units::Moment;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// 2026-05-04 14:00:00 UTC, a Monday.
const NOW: f64 = 1_777_903_200.0;
const HOUR: u64 = 493_862;

fn page(width: usize) -> Page {
    Page {
        width,
        height: None,
        is_coloured: false,
        zone: TimeZone::UTC,
        now: Moment {
            epoch: NOW,
            ..Moment::default()
        },
        lines: Vec::new(),
    }
}

fn hour(given: f64, done: u64) -> Sums {
    let class = Class {
        core_seconds: Seconds(given * 1.25),
        ended: BTreeMap::from([(EndKind::Done, done), (EndKind::Owner, 1)]),
    };
    Sums {
        observed_seconds: Seconds(3600.0),
        given_cpu_seconds: Seconds(given),
        owner_cpu_seconds: Seconds(1800.0),
        classes: BTreeMap::from([("sim".to_owned(), class)]),
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

#[test]
fn golden() {
    let text = |width| render(&last_days(&hours(), 4, &page(width)), page(width));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/history-80.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, text(80)).unwrap();
    }
    assert_eq!(text(80), std::fs::read_to_string(file).unwrap());
    for width in [60, 120] {
        let widest = text(width).lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{}", text(width));
    }
}

#[test]
fn days_back() {
    for (asked, expected, known) in [
        (0, 1, 1),
        (1, 1, 1),
        (3, 3, 1),
        (4, 4, 2),
        (u64::MAX, 396, 2),
    ] {
        let days = last_days(&hours(), asked, &page(80));
        let found = days.iter().filter(|(_, sums)| *sums != Sums::default());
        assert_eq!((days.len(), found.count()), (expected, known), "{asked}");
    }
    // At the other end of the world it is tomorrow already.
    let mut east = page(80);
    east.zone = TimeZone::posix("EST-14").unwrap();
    let days = last_days(&hours(), 1, &east);
    assert_eq!(days[0].0.to_string(), "2026-05-05");
    assert_eq!(days[0].1.given_cpu_seconds, Seconds(800_400.0));
}

#[test]
fn the_page_is_one_file_and_escapes() {
    let mut hours = hours();
    let nasty = "</script><b onload=\"x\">&DATA";
    hours
        .entry(HOUR)
        .or_default()
        .classes
        .insert(nasty.to_owned(), Class::default());
    let written = html(&hours, "<script>host\u{202e}", &page(80));
    assert_eq!(written.matches("<script").count(), 2, "its own");
    assert!(!written.contains("<b onload") && !written.contains('\u{202e}'));
    for outside in ["http:", "https:", "src=", "url(", "@import", "innerHTML"] {
        assert!(!written.contains(outside), "{outside}");
    }
    let data = written
        .split("id=\"data\">")
        .nth(1)
        .and_then(|rest| rest.split("</script>").next());
    let data: Value = serde_json::from_str(data.unwrap()).unwrap();
    assert!(data["history"]["total"]["classes"][nasty].is_object());
    assert_eq!(data["hours"].as_array().map(Vec::len), Some(3));
    assert_eq!(data["hours"][0]["time"], "2026-05-01T14:00");
    // A clock that is behind what it has written, and one that was never set.
    for now in [0.0, NOW - 1e6, NOW + 1e9, f64::NAN, 1e300] {
        let mut page = page(80);
        page.now.epoch = now;
        assert!(html(&hours, "h", &page).ends_with("</html>\n"), "{now}");
    }
}
