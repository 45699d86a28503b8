//! A golden text, and what the page promises without a browser.

use super::*;
use crate::decide::Code;
use crate::history::{Class, Seconds};
use std::collections::BTreeMap;

/// A Monday.
const NOW: &str = "2026-05-04T14:00:00+00:00[+00:00]";
const HOUR: u64 = 493_862;

fn at(time: &str) -> Zoned {
    time.parse().unwrap()
}

fn hour(given: f64, done: u64) -> Sums {
    let class = Class {
        core_seconds: Seconds(given * 1.25),
        ended: BTreeMap::from([
            (EndKind::Done, done),
            (EndKind::Owner, 1),
            (EndKind::Failed, 2),
            (EndKind::OutOfMemory, 1),
        ]),
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
    let text = table(&last_days(&hours(), 4, &at(NOW)));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/history-80.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(file).unwrap());
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
        let days = last_days(&hours(), asked, &at(NOW));
        let found = days.iter().filter(|(_, sums)| *sums != Sums::default());
        assert_eq!((days.len(), found.count()), (expected, known), "{asked}");
    }
    // At the other end of the world it is tomorrow already.
    let days = last_days(&hours(), 1, &at("2026-05-05T04:00:00+14:00[+14:00]"));
    assert_eq!(days[0].0.to_string(), "2026-05-05");
    assert_eq!(days[0].1.given_cpu_seconds, Seconds(800_400.0));
}

#[test]
fn the_page_is_one_file_and_escapes() {
    let mut hours = hours();
    let nasty = "</script><b onload=\"x\">&DATA";
    let classes = &mut hours.entry(HOUR).or_default().classes;
    classes.insert(nasty.to_owned(), Class::default());
    let written = html(&hours, "<script>host\u{202e}", &at(NOW));
    assert_eq!(written.matches("<script").count(), 2, "its own");
    assert!(!written.contains("<b onload") && !written.contains('\u{202e}'));
    for outside in ["http:", "https:", "src=", "url(", "@import", "innerHTML"] {
        assert!(!written.contains(outside), "{outside}");
    }
    let data = written.split("id=\"data\">").nth(1).unwrap();
    let data = data.split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert!(data["history"]["total"]["classes"][nasty].is_object());
    assert_eq!(data["hours"].as_array().map(Vec::len), Some(3));
    assert_eq!(data["hours"][0]["time"], "2026-05-01T14:00");
    // A clock that is behind what it has written, and one that was never set.
    for now in ["1970-01-01", "1969-12-31", "2026-04-20", "9990-01-01"] {
        let now = at(&format!("{now}T00:00:00+00:00[+00:00]"));
        assert!(html(&hours, "h", &now).ends_with("</html>\n"), "{now}");
    }
}
