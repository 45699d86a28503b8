//! The three clocks: read here and passed on as values.

use crate::units::{LocalTime, Moment, float};
use rustix::time::{ClockId, clock_gettime};

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    float(time.tv_sec.unsigned_abs()) + float(time.tv_nsec.unsigned_abs()) / 1e9
}

pub fn now() -> Moment {
    Moment {
        awake: seconds(ClockId::Monotonic),
        boot: seconds(ClockId::Boottime),
        epoch: seconds(ClockId::Realtime),
    }
}

/// Local time of the machine, for the owner's hours.
pub fn local() -> LocalTime {
    local_of(&jiff::Zoned::now())
}

fn local_of(now: &jiff::Zoned) -> LocalTime {
    let minute = i16::from(now.hour()) * 60 + i16::from(now.minute());
    LocalTime {
        weekday: now.weekday().to_monday_zero_offset().unsigned_abs(),
        minute: minute.unsigned_abs(),
    }
}

/// CPU seconds of this process so far.
pub fn process_cpu() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner's hours are those of the clock on their wall, also in the nights in which it is set.
    #[test]
    fn hours_over_a_change_of_the_clock() {
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for (utc, minute) in [
            // In spring two o'clock never comes, in autumn it comes twice.
            ("2026-03-29T00:59:00Z", 119),
            ("2026-03-29T01:00:00Z", 180),
            ("2026-10-25T00:30:00Z", 150),
            ("2026-10-25T01:30:00Z", 150),
        ] {
            let at: jiff::Timestamp = utc.parse().unwrap();
            let weekday = 6;
            let local = local_of(&at.to_zoned(zone.clone()));
            assert_eq!(local, LocalTime { weekday, minute }, "{utc}");
        }
    }
}
