//! What is remembered from tick to tick. All of it can be lost at any moment (a crash, a restart): pilots and their
//! ends are read back from the engine; only back-offs and timers start anew.

use super::ends::{self, Cause, EndKind};
use super::ladder::Ladder;
use super::rules::{Heat, Rules};
use super::{Ended, LaunchResult, News, Observation, Pilot, PilotState, Reason, Turn};
use crate::config::Config;
use crate::units::PilotId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// First wait after a failed launch, in seconds; doubled with each further one, up to [`BACK_OFF_MOST`].
const BACK_OFF_FIRST: f64 = 5.0;
const BACK_OFF_MOST: f64 = 900.0;
/// A pilot that runs this long, in seconds, has shown that its class is well again.
const LIVES: f64 = 30.0;
/// First wait after a failed refresh of an image, in seconds; doubled up to the time between two refreshes.
const REFRESH_AGAIN: f64 = 60.0;
/// Over how many seconds the classes' parts are evened out.
const FAIR_OVER: f64 = 600.0;
/// A missing mount source is looked for again after this long, in seconds.
const HELD: f64 = 30.0;

#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Differs between daemons, so that a fleet does not retry in step.
    pub seed: u64,
    drawn: u64,
    pub(super) launching: Vec<Launching>,
    pub(super) classes: BTreeMap<String, ClassMemory>,
    pub(super) stopping: BTreeMap<PilotId, Stopping>,
    /// Pilots somebody's hand is on already, and the boot-clock second before which they are not touched again.
    pub(super) busy: BTreeMap<PilotId, f64>,
    /// Pilots that a pause or its end was asked for, and the state they were in: another one frees them at once.
    pub(super) asked: BTreeMap<PilotId, PilotState>,
    pub(super) ladder: Ladder,
    pub(super) heat: Heat,
    reason: Option<Reason>,
    last_tick: f64,
    /// Launches, and ends by kind, since the daemon started.
    pub counts: BTreeMap<String, u64>,
    /// The last pilots that ended, the latest first.
    pub gone: VecDeque<Gone>,
    /// Those that ended since the last tick.
    pub(super) ended: Vec<Gone>,
}

/// How many ended pilots are remembered.
const REMEMBERED: usize = 20;

/// A pilot that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gone {
    pub name: String,
    pub class: String,
    pub kind: EndKind,
    /// Epoch seconds.
    pub at: f64,
    /// Seconds.
    pub lived: f64,
    pub exit_code: i64,
    /// The end of its log, where it is of use.
    pub last_words: String,
}

/// A launch that was asked for and that no list has shown yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launching {
    pub name: String,
    pub class: String,
    pub cpus: f64,
    pub memory: u64,
    /// Boot-clock second of its answer; `None` while it is in flight.
    pub answered: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stopping {
    pub cause: Cause,
    /// SIGKILL was sent already.
    pub killed: bool,
    /// Boot-clock second of SIGKILL; infinite once it was sent.
    pub kill_at: f64,
}

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
    /// Epoch second of the last end that counts against the class: what was created later is a probe.
    pub ended_badly: f64,
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
    refresh_failures: u32,
    /// Pilots that were gone at once, and of which it is not known yet how they ended.
    pub fizzled: BTreeSet<PilotId>,
}

impl ClassMemory {
    /// It failed, or had no work, and has not shown that this is over.
    pub fn is_proving(&self) -> bool {
        self.failures > 0 || self.no_work > 0
    }

    /// Created since: its fate tells how the class is now.
    pub fn is_probe(&self, pilot: &Pilot) -> bool {
        self.ended_badly > 0.0 && pilot.created > self.ended_badly
    }

    fn is_well(&mut self) {
        if !self.launch_failed {
            (self.failures, self.no_work, self.retry_at) = (0, 0, 0.0);
        }
    }
}

fn doubled(first: f64, times: u32) -> f64 {
    first * 2f64.powi(i32::try_from(times.min(16)).unwrap_or(16))
}

impl Memory {
    pub fn new(seed: u64) -> Memory {
        Memory { seed, ..Memory::default() }
    }

    /// The next number of a splitmix64 sequence: enough for jitter and names.
    pub(super) fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        let mut z = self.seed.wrapping_add(self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// For a replay, whose own launches nobody answers: what came of the recorded ones is in the list.
    pub fn forget_launches(&mut self) {
        self.launching.clear();
    }

    fn forget_fizzled(&mut self, id: &PilotId) {
        for class in self.classes.values_mut() {
            class.fizzled.remove(id);
        }
    }

    pub(super) fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Takes in what the calls in flight brought back, and the core-seconds given since the last tick.
    pub(super) fn absorb(&mut self, config: &Config, seen: &Observation) {
        for news in &seen.news {
            self.learn(config, seen, news);
        }
        let elapsed = if self.last_tick > 0.0 { (seen.at.boot - self.last_tick).max(0.0) } else { 0.0 };
        self.last_tick = seen.at.boot;
        self.age_served(config, elapsed);
        for pilot in seen.pilots.iter().flatten().filter(|pilot| pilot.own && pilot.state.holds_room()) {
            let class = self.classes.entry(pilot.class.clone()).or_default();
            class.served += pilot.cpus * elapsed;
            let lives = pilot.state == PilotState::Running && seen.at.epoch - pilot.created >= LIVES;
            if lives && class.is_proving() && class.is_probe(pilot) {
                class.is_well();
            }
        }
    }

    /// What was given long ago does not count any more, and a class that is new or was away does not get everything first.
    fn age_served(&mut self, config: &Config, elapsed: f64) {
        let kept = (-elapsed / FAIR_OVER).exp();
        self.classes.values_mut().for_each(|class| class.served *= kept);
        let share = |class: &crate::config::Pilot| {
            Some(self.classes.get(&class.name)?.served / f64::from(class.weight)).filter(|served| *served > 0.0)
        };
        let least = config.pilots.iter().filter_map(share).fold(f64::INFINITY, f64::min);
        for class in config.pilots.iter().filter(|_| least.is_finite()) {
            let served = least * f64::from(class.weight);
            self.classes.entry(class.name.clone()).or_insert_with(|| ClassMemory { served, ..ClassMemory::default() });
        }
    }

    fn learn(&mut self, config: &Config, seen: &Observation, news: &News) {
        let now = seen.at.boot;
        // Where a call failed, or the list shows it undone, the next regular tick decides again: it must not spin.
        let next_look = now + config.loop_.interval.as_secs_f64();
        match news {
            News::Launched { class, name, at, result } => self.launched(now, class, name, *at, result),
            News::Fetched { class, result } => self.fetched(config, class, result, now),
            News::Buried { id, name, class, ended } => {
                self.forget_fizzled(id);
                let cause = self.stopping.remove(id).map(|stopping| stopping.cause);
                self.busy.insert(id.clone(), next_look);
                let is_known = self.gone.iter().any(|gone| gone.name == *name);
                if let Some(ended) = ended.as_ref().filter(|_| !is_known) {
                    let configured = config.pilots.iter().find(|configured| configured.name == *class);
                    let kind = ends::classify(cause, ended, configured);
                    self.remember(seen.at.epoch, name, class, kind, ended);
                    self.count(kind.name());
                    // Of a limit that does not hold the class has learned already.
                    if cause != Some(Cause::Unlimited) {
                        let pause = configured.map_or(0.0, |class| class.no_work_pause.as_secs_f64());
                        self.learn_end(class, kind, ended, pause, seen);
                    }
                }
            }
            // The list shows whether it did; until then the pilot stays busy.
            News::Changed(_) => {}
            News::Failed { id, .. } => {
                self.forget_fizzled(id);
                self.busy.insert(id.clone(), next_look);
            }
        }
    }

    fn launched(&mut self, now: f64, class: &str, name: &str, at: f64, result: &LaunchResult) {
        let known = self.launching.iter_mut().find(|launch| launch.name == name);
        match result {
            LaunchResult::Started(_) => {
                if let Some(launch) = known {
                    launch.answered = Some(at);
                }
                let memory = self.classes.entry(class.to_owned()).or_default();
                memory.image = Image::Ready;
                if memory.launch_failed && memory.retry_at <= now {
                    (memory.launch_failed, memory.failures) = (false, 0);
                }
                self.count("launches");
            }
            LaunchResult::NoImage => {
                self.launching.retain(|launch| launch.name != name);
                let memory = self.classes.entry(class.to_owned()).or_default();
                if memory.image != Image::Fetching {
                    memory.image = Image::Missing;
                }
            }
            LaunchResult::MountMissing(source) => {
                self.launching.retain(|launch| launch.name != name);
                let memory = self.classes.entry(class.to_owned()).or_default();
                memory.held_by = Some(super::Code::MountMissing);
                memory.why = format!("{source} is not on this machine; create or mount it, or change `mounts`");
                memory.retry_at = now + HELD;
            }
            LaunchResult::Failed(why) => {
                self.launching.retain(|launch| launch.name != name);
                self.launch_failed(class, why, now);
            }
            LaunchResult::Lost(why) => {
                if let Some(launch) = known {
                    launch.answered = Some(at);
                }
                self.launch_failed(class, why, now);
            }
        }
    }

    fn launch_failed(&mut self, class: &str, why: &str, now: f64) {
        self.back_off(class, why, now);
        self.classes.entry(class.to_owned()).or_default().launch_failed = true;
        self.count("launch-failed");
    }

    fn remember(&mut self, at: f64, name: &str, class: &str, kind: EndKind, ended: &Ended) {
        let gone = Gone {
            name: name.to_owned(),
            class: class.to_owned(),
            kind,
            at,
            lived: ended.lived.unwrap_or(0.0),
            exit_code: ended.exit_code,
            last_words: ended.last_words.clone(),
        };
        self.ended.push(gone.clone());
        self.gone.truncate(REMEMBERED - 1);
        self.gone.push_front(gone);
    }

    pub(super) fn refresh_all(&mut self, now: f64) {
        self.classes.values_mut().for_each(|class| class.refresh_at = Some(now));
    }

    /// A refresh that fails leaves the local image in use.
    fn fetched(&mut self, config: &Config, class: &str, result: &Result<(), String>, now: f64) {
        let configured = config.pilots.iter().find(|configured| configured.name == *class);
        let interval = configured.map_or(f64::INFINITY, crate::config::Pilot::refresh_seconds);
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

    fn learn_end(&mut self, class: &str, kind: EndKind, ended: &Ended, pause: f64, seen: &Observation) {
        let (now, lived) = (seen.at.boot, ended.lived.unwrap_or(0.0));
        match kind {
            EndKind::Failed | EndKind::OutOfMemory | EndKind::NeverRan => {
                let why = format!("a pilot ended after {lived:.0} s: {}", ends::describe(kind, ended));
                self.back_off(class, &why, now);
                self.classes.entry(class.to_owned()).or_default().ended_badly = seen.at.epoch;
            }
            EndKind::NoWork => {
                let jitter = self.jitter();
                let memory = self.classes.entry(class.to_owned()).or_default();
                memory.ended_badly = seen.at.epoch;
                if memory.retry_at <= now {
                    let wait = doubled(BACK_OFF_FIRST, memory.no_work).min(pause);
                    (memory.no_work, memory.retry_at) = (memory.no_work.saturating_add(1), now + wait * jitter);
                    memory.held_by = Some(super::Code::NoWork);
                    memory.why = format!("there was no work (exit code {} after {lived:.0} s)", ended.exit_code);
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
        memory.retry_at = now + doubled(BACK_OFF_FIRST, memory.failures).min(BACK_OFF_MOST) * jitter;
        memory.failures = memory.failures.saturating_add(1);
    }

    /// A factor around 1, up to a quarter either way.
    pub(super) fn jitter(&mut self) -> f64 {
        0.75 + 0.5 * (crate::units::float(self.draw() % 1_000) / 1_000.0)
    }

    /// Drops what the list shows, or shows to be gone.
    pub(super) fn forget_gone(&mut self, turn: &Turn) {
        let listed_at = turn.seen.listed_at;
        self.launching.retain(|launch| {
            let listed = turn.pilots.iter().any(|pilot| pilot.name == launch.name);
            // A container that is still being started stays ours to wait for.
            launch.answered.is_none_or(|at| !listed && at >= listed_at)
        });
        self.asked.retain(|id, before| {
            let is_same = turn.pilots.iter().any(|pilot| pilot.id == *id && pilot.state == *before);
            if !is_same {
                self.busy.remove(id);
            }
            is_same
        });
        let listed = |id: &PilotId| turn.pilots.iter().any(|pilot| pilot.id == *id);
        self.stopping.retain(|id, _| listed(id) || self.busy.contains_key(id));
        self.busy.retain(|id, until| listed(id) || until.is_infinite());
    }

    /// Launches under way that the list does not show yet.
    pub(super) fn unlisted<'a>(&'a self, turn: &'a Turn) -> impl Iterator<Item = &'a Launching> {
        self.launching.iter().filter(|launch| !turn.pilots.iter().any(|pilot| pilot.name == launch.name))
    }

    /// Nobody's hand is on it now.
    pub(super) fn is_free(&self, id: &PilotId, now: f64) -> bool {
        self.busy.get(id).is_none_or(|until| *until <= now)
    }

    /// The reason with the second since which its code holds.
    pub(super) fn dated(&mut self, mut reason: Reason, seen: &Observation) -> Reason {
        reason.since = match &self.reason {
            Some(last) if last.code == reason.code => last.since,
            _ => seen.at.epoch,
        };
        self.reason = Some(reason.clone());
        reason
    }

    /// The next regular tick, or sooner for the end of a grace, a ttl, a back-off or a doubt.
    pub(super) fn wake_in(&self, turn: &Turn, rules: &Rules) -> Option<f64> {
        let now = turn.now;
        let nothing_to_do = turn.config.pilots.is_empty() && !turn.pilots.iter().any(|pilot| pilot.own);
        if nothing_to_do && self.launching.is_empty() {
            return None;
        }
        let interval = turn.config.loop_.interval.as_secs_f64();
        let kills = self.stopping.values().map(|stopping| stopping.kill_at - now);
        let ttls = turn.own().filter(|pilot| !self.stopping.contains_key(&pilot.id));
        let ttls = ttls.map(|pilot| pilot.expiry.left(turn.seen.at));
        let retries = self.classes.values().map(|class| class.retry_at - now).filter(|wait| *wait > 0.0);
        let first_rate = turn.seen.cpu.is_none().then_some(1.0);
        let soonest = kills.chain(ttls).chain(retries).chain(first_rate);
        let soonest = soonest.chain(self.ladder.look_again).chain(rules.ends_in).fold(interval, f64::min);
        Some(soonest.max(0.05))
    }
}
