//! What is remembered of each class: its image, whether it works, its failures and ends without work, its part of what was
//! given; and when it is tried again.

use super::ends::{self, EndKind};
use super::memory::Memory;
use super::{Ended, Observation, Pilot, PilotState};
use crate::config::{Config, PilotClass};
use crate::units::{Moment, PilotId};
use std::collections::BTreeSet;

/// First wait after a failed launch, in seconds; doubled with each further one, up to [`BACK_OFF_MOST`].
const BACK_OFF_FIRST: f64 = 5.0;
const BACK_OFF_MOST: f64 = 900.0;
/// A pilot that runs this long, in seconds, has shown that its class is well again.
const LIVES: f64 = 30.0;
/// A class of which nothing is known needs less: a pilot that still runs after this, in seconds.
const RUNS: f64 = 2.0;
/// First wait after a failed refresh of an image, in seconds; doubled up to the time between two refreshes.
const REFRESH_AGAIN: f64 = 60.0;
/// Over how many seconds the classes' parts are evened out.
const FAIR_OVER: f64 = 600.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Image {
    /// The first launch tells.
    #[default]
    Unknown,
    Ready,
    Missing,
    Fetching,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ClassMemory {
    pub image: Image,
    /// Failures in a row.
    pub failures: u32,
    /// Ends without work in a row.
    pub no_work: u32,
    /// A pilot of it was seen to run or ended well, since the daemon knows it as it is configured.
    pub proved: bool,
    /// Boot-clock second from which on its first pilot, if it still runs, has shown that.
    pub proves_at: f64,
    /// Epoch second of the last end that counts against the class, or of its change: what was created later is a probe.
    pub probes_since: f64,
    /// The last launch failed: only one that succeeds ends that, later than its back-off.
    pub launch_failed: bool,
    /// Boot-clock second before which nothing is launched.
    pub retry_at: f64,
    /// Not a failure that wants longer and longer waits, but a state to look at again.
    pub held_by: Option<super::Code>,
    /// The last failure, for people.
    pub why: String,
    /// Core-seconds given so far.
    pub served: f64,
    /// Boot-clock second of the image's next refresh; `None`: not known yet.
    pub refresh_at: Option<f64>,
    pub refreshing: bool,
    pub refresh_failures: u32,
    /// Pilots that were gone at once, and of which it is not known yet how they ended.
    pub ended_early: BTreeSet<PilotId>,
}

impl ClassMemory {
    /// It is new, failed or had no work, and has not shown that it is well.
    pub fn is_proving(&self) -> bool {
        !self.proved || self.went_wrong()
    }

    pub fn went_wrong(&self) -> bool {
        self.failures > 0 || self.no_work > 0
    }

    /// Its fate tells how the class is now; of a new class only what runs tells anything.
    pub fn is_probe(&self, pilot: &Pilot) -> bool {
        match self.probes_since > 0.0 {
            true => pilot.created >= self.probes_since,
            false => !self.proved && pilot.state == PilotState::Running,
        }
    }

    /// It has run for long enough.
    pub fn is_proof(&self, pilot: &Pilot, now: Moment) -> bool {
        let lived = if self.went_wrong() {
            now.epoch - pilot.created >= LIVES
        } else {
            now.boot >= self.proves_at
        };
        pilot.state == PilotState::Running && lived && self.is_probe(pilot)
    }

    /// A pilot of it has started.
    pub fn begins_proof(&mut self, at: f64) {
        if self.is_proving() {
            self.proves_at = at + RUNS;
        }
    }

    pub(super) fn is_well(&mut self) {
        self.proved = true;
        if !self.launch_failed {
            (self.failures, self.no_work, self.retry_at) = (0, 0, 0.0);
        }
    }
}

fn doubled(first: f64, times: u32) -> f64 {
    first * 2f64.powi(i32::try_from(times.min(16)).unwrap_or(16))
}

impl Memory {
    /// What was given long ago does not count any more, and a class that is new or was away does not get everything first.
    pub(super) fn age_served(&mut self, config: &Config, elapsed: f64) {
        let kept = (-elapsed / FAIR_OVER).exp();
        self.classes
            .values_mut()
            .for_each(|class| class.served *= kept);
        let share = |class: &crate::config::PilotClass| {
            Some(self.classes.get(&class.name)?.served / f64::from(class.weight))
                .filter(|served| *served > 0.0)
        };
        let least = config
            .pilots
            .iter()
            .filter_map(share)
            .fold(f64::INFINITY, f64::min);
        for class in config.pilots.iter().filter(|_| least.is_finite()) {
            let served = least * f64::from(class.weight);
            self.classes
                .entry(class.name.clone())
                .or_insert_with(|| ClassMemory {
                    served,
                    ..ClassMemory::default()
                });
        }
    }

    /// What is configured otherwise now is new, whatever was learned of it before.
    pub fn forget_changed(&mut self, before: &Config, after: &Config, epoch: f64) {
        let is_new = |class: &&PilotClass| {
            !before
                .pilots
                .iter()
                .any(|known| class.is_configured_as(known))
        };
        for class in after.pilots.iter().filter(is_new) {
            let Some(memory) = self.classes.get_mut(&class.name) else {
                continue;
            };
            (
                memory.failures,
                memory.no_work,
                memory.launch_failed,
                memory.retry_at,
            ) = (0, 0, false, 0.0);
            // The engine dates containers in whole seconds.
            (memory.proved, memory.proves_at, memory.probes_since) = (false, 0.0, epoch.floor());
        }
    }

    pub(super) fn launch_failed(&mut self, class: &str, why: &str, now: f64) {
        self.back_off(class, why, now);
        self.classes
            .entry(class.to_owned())
            .or_default()
            .launch_failed = true;
        self.count("launch-failed");
    }

    pub(super) fn refresh_all(&mut self, now: f64) {
        self.classes
            .values_mut()
            .for_each(|class| class.refresh_at = Some(now));
    }

    /// A refresh that fails leaves the local image in use.
    pub(super) fn fetched(
        &mut self,
        config: &Config,
        class: &str,
        result: &Result<(), String>,
        now: f64,
    ) {
        let configured = config
            .pilots
            .iter()
            .find(|configured| configured.name == *class);
        let interval = configured.map_or(f64::INFINITY, crate::config::PilotClass::refresh_seconds);
        let jitter = self.jitter();
        let memory = self.classes.entry(class.to_owned()).or_default();
        let was_refreshing = std::mem::take(&mut memory.refreshing);
        match result {
            Ok(()) => {
                (memory.image, memory.refresh_failures) = (Image::Ready, 0);
                memory.refresh_at = Some(now + interval * jitter);
            }
            Err(_) if was_refreshing => {
                let wait = doubled(REFRESH_AGAIN, memory.refresh_failures);
                memory.refresh_failures = memory.refresh_failures.saturating_add(1);
                memory.refresh_at = Some(now + wait.min(interval) * jitter);
            }
            Err(why) => {
                memory.image = Image::Missing;
                self.back_off(class, why, now);
            }
        }
    }

    pub(super) fn learn_end(
        &mut self,
        class: &str,
        kind: EndKind,
        ended: &Ended,
        pause: f64,
        seen: &Observation,
    ) {
        let (now, lived) = (seen.at.boot, ended.lived.unwrap_or(0.0));
        match kind {
            EndKind::Failed | EndKind::OutOfMemory | EndKind::NeverRan => {
                let why = format!(
                    "a pilot ended after {lived:.0} s: {}",
                    ends::describe(kind, ended)
                );
                self.back_off(class, &why, now);
                self.classes
                    .entry(class.to_owned())
                    .or_default()
                    .probes_since = seen.at.epoch;
            }
            EndKind::NoWork => {
                let jitter = self.jitter();
                let memory = self.classes.entry(class.to_owned()).or_default();
                memory.probes_since = seen.at.epoch;
                if memory.retry_at <= now {
                    let wait = doubled(BACK_OFF_FIRST, memory.no_work).min(pause);
                    (memory.no_work, memory.retry_at) =
                        (memory.no_work.saturating_add(1), now + wait * jitter);
                    memory.held_by = Some(super::Code::NoWork);
                    memory.why = format!(
                        "there was no work (exit code {} after {lived:.0} s)",
                        ended.exit_code
                    );
                }
            }
            // That a pilot of before ended well says nothing about launches that fail now.
            EndKind::Done => self.classes.entry(class.to_owned()).or_default().is_well(),
            EndKind::Ttl | EndKind::Owner | EndKind::Drained | EndKind::Killed => {}
        }
    }

    /// Exponential, with up to a quarter of jitter either way. One failure counts once: those of launches that were
    /// under way together do not multiply.
    pub(super) fn back_off(&mut self, class: &str, why: &str, now: f64) {
        let jitter = self.jitter();
        let memory = self.classes.entry(class.to_owned()).or_default();
        why.clone_into(&mut memory.why);
        memory.held_by = None;
        if memory.retry_at > now {
            return;
        }
        memory.retry_at =
            now + doubled(BACK_OFF_FIRST, memory.failures).min(BACK_OFF_MOST) * jitter;
        memory.failures = memory.failures.saturating_add(1);
    }

    /// A factor around 1, up to a quarter either way.
    pub(super) fn jitter(&mut self) -> f64 {
        0.75 + 0.5 * (crate::units::float(self.draw() % 1_000) / 1_000.0)
    }
}
