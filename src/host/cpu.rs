//! How busy the machine is: /proc/stat to counters, two samples to a rate, rates to a smoothed load.
//! The difference of kernel counters is clamped at 0, because iowait and hotplugged CPUs may count backwards.

use super::files::{self, ReadError};
use procfs::FromBufReadSI;
use std::path::Path;

/// One line a CPU and one number an interrupt: some 20 KiB at 96 CPUs.
const STAT_LIMIT: usize = 1 << 20;
/// A load that rises is believed to 86 % after 10 s, one that falls to 28 %: the owner gets room at once, and a
/// short lull is not taken for the end of their work.
const RISE_SECONDS: f64 = 5.0;
const FALL_SECONDS: f64 = 30.0;

/// CPU time of all CPUs since boot, as read at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuSample {
    /// In ticks; user (guests are in it already), nice, system and interrupts. Stolen time is nobody's here: it
    /// would count the pilots' own wish to run as foreign load.
    pub busy_ticks: u64,
    pub ticks_per_second: u64,
    pub cpus_online: usize,
    /// The caller's boot clock, sleep included.
    pub boot_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuRates {
    /// Mean number of busy CPUs between the samples, pilots included.
    pub total_busy_cores: f64,
    pub elapsed_seconds: f64,
}

pub fn read_sample(root: &Path, boot_seconds: f64) -> Result<CpuSample, ReadError> {
    let path = root.join("proc/stat");
    let text = files::read_text_up_to(&path, STAT_LIMIT)?;
    parse_stat(&text, boot_seconds).ok_or_else(|| ReadError::malformed(&path, "cpu counters"))
}

fn parse_stat(text: &str, boot_seconds: f64) -> Option<CpuSample> {
    let system = procfs::current_system_info();
    let stats = procfs::KernelStats::from_buf_read(text.as_bytes(), system).ok()?;
    let total = &stats.total;
    let busy = [
        total.user,
        total.nice,
        total.system,
        total.irq.unwrap_or(0),
        total.softirq.unwrap_or(0),
    ];
    Some(CpuSample {
        busy_ticks: busy.into_iter().fold(0, u64::saturating_add),
        ticks_per_second: procfs::ticks_per_second(),
        cpus_online: stats.cpu_time.len(),
        boot_seconds,
    })
}

/// `None` where no time has passed. Never more than the CPUs there were.
pub fn rates(before: &CpuSample, after: &CpuSample) -> Option<CpuRates> {
    let elapsed_seconds = after.boot_seconds - before.boot_seconds;
    if !elapsed_seconds.is_finite() || elapsed_seconds <= 0.0 || after.ticks_per_second == 0 {
        return None;
    }
    let ticks = after.busy_ticks.saturating_sub(before.busy_ticks);
    let seconds = crate::units::float(ticks) / crate::units::float(after.ticks_per_second);
    let cpus = u32::try_from(before.cpus_online.max(after.cpus_online)).ok()?;
    Some(CpuRates {
        total_busy_cores: (seconds / elapsed_seconds).min(f64::from(cpus)),
        elapsed_seconds,
    })
}

/// A load with fast rise and slow fall, at any interval: both are time constants, not shares a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Smoothed(Option<f64>);

impl Smoothed {
    /// `None` before the first update.
    pub fn value(self) -> Option<f64> {
        self.0
    }

    /// The first value is taken as it is; what is not a number, or took no time, changes nothing.
    pub fn update(&mut self, value: f64, elapsed_seconds: f64) {
        if !value.is_finite() {
            return;
        }
        let Some(current) = self.0 else {
            self.0 = Some(value);
            return;
        };
        if elapsed_seconds > 0.0 {
            let constant = if value > current {
                RISE_SECONDS
            } else {
                FALL_SECONDS
            };
            let weight = 1.0 - (-elapsed_seconds / constant).exp();
            self.0 = Some(current + weight * (value - current));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    const STAT: &str = "cpu  100 20 30 1000 50 3 2 500 80 10\ncpu0 50 10 15 500 25 1 1 250 40 5\n\
        cpu2 50 10 15 500 25 2 1 250 40 5\nintr 5 1 0\nctxt 9\nbtime 1700000000\nprocesses 7\nprocs_running 1\n";

    #[test]
    fn counts_busy_and_idle() {
        let tree = Tree::new(&[("proc/stat", STAT)]);
        let sample = read_sample(tree.root(), 5.0).unwrap();
        assert_eq!(sample.busy_ticks, 155);
        assert_eq!((sample.cpus_online, sample.boot_seconds), (2, 5.0));
        assert!(sample.ticks_per_second > 0);
    }

    #[test]
    fn garbage_and_every_prefix_are_survived() {
        let tree = Tree::new(&[]);
        assert!(read_sample(tree.root(), 0.0).unwrap_err().is_missing());
        for content in GARBAGE {
            tree.put("proc/stat", content);
            assert!(read_sample(tree.root(), 0.0).is_err());
        }
        let whole = parse_stat(STAT, 0.0);
        let parsed: Vec<_> = (0..STAT.len())
            .filter_map(|end| parse_stat(&STAT[..end], 0.0))
            .collect();
        assert!(parsed.len() < 30 && parsed.last() == whole.as_ref());
    }

    #[test]
    fn rates_are_clamped() {
        let at = |busy_ticks, cpus_online, boot_seconds| CpuSample {
            busy_ticks,
            ticks_per_second: 100,
            cpus_online,
            boot_seconds,
        };
        let before = at(1_000, 2, 50.0);
        for (after, expected) in [
            (at(2_000, 2, 60.0), Some(1.0)),
            (at(2_000, 1, 60.0), Some(1.0)), // a CPU was unplugged
            (at(9_000, 8, 60.0), Some(8.0)), // CPUs were plugged in
            (at(9_000, 2, 60.0), Some(2.0)), // more than there were CPUs
            (at(500, 2, 60.0), Some(0.0)),   // backwards
            (at(2_000, 2, 50.0), None),
            (at(2_000, 2, 40.0), None),
            (at(2_000, 2, f64::NAN), None),
        ] {
            let cores = rates(&before, &after).map(|r| r.total_busy_cores);
            assert_eq!(cores, expected, "{after:?}");
        }
        let elapsed = rates(&before, &at(1_000, 2, 60.0)).map(|r| r.elapsed_seconds);
        assert_eq!(elapsed, Some(10.0));
    }

    #[test]
    fn load_rises_fast_and_falls_slowly_at_any_interval() {
        let after = |start: f64, value: f64, interval: f64, times: u32| {
            let mut load = Smoothed::default();
            load.update(start, interval);
            (0..times).for_each(|_| load.update(value, interval));
            load.value().unwrap()
        };
        for (interval, times) in [(10.0, 1), (5.0, 2), (1.0, 10)] {
            assert!((after(0.0, 1.0, interval, times) - 0.8647).abs() < 1e-3);
            assert!((after(1.0, 0.0, interval, times) - 0.7165).abs() < 1e-3);
        }
        let mut load = Smoothed::default();
        assert_eq!(load.value(), None);
        load.update(f64::NAN, 10.0);
        assert_eq!(load.value(), None);
        load.update(2.0, 10.0);
        for (value, elapsed) in [(f64::INFINITY, 10.0), (9.0, 0.0), (9.0, -5.0)] {
            load.update(value, elapsed);
            assert_eq!(load.value(), Some(2.0));
        }
    }
}
