//! The three clocks, and this boot's id: read here and passed on as values.

use crate::decide::LocalTime;
use crate::units::Moment;
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    #[expect(clippy::cast_precision_loss, reason = "2^53 seconds are far away")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

pub fn now() -> Moment {
    Moment { awake: seconds(ClockId::Monotonic), boot: seconds(ClockId::Boottime), epoch: seconds(ClockId::Realtime) }
}

/// Local time of the machine, for the owner's hours.
pub fn local() -> LocalTime {
    let now = jiff::Zoned::now();
    let minute = i16::from(now.hour()) * 60 + i16::from(now.minute());
    LocalTime {
        weekday: u8::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0),
        minute: u16::try_from(minute).unwrap_or(0),
    }
}

/// Tells one boot from the next, so that a ttl in awake seconds is never read on another boot's clock. Empty when
/// /proc cannot be read: then only the wall clock counts.
pub fn boot_id(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    text.trim().to_owned()
}

/// CPU seconds of this process so far.
pub fn process_cpu() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}
