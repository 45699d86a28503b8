//! What is remembered from tick to tick. All of it can be lost at any moment (a crash, a restart): pilots and their
//! ends are read back from the engine; only back-offs and timers start anew.

use super::classes::{ClassMemory, Image};
use super::ends::{self, Cause, EndKind};
use super::owner_load::OwnerLoad;
use super::rules::{Rules, ThermalLimit};
use super::{Ended, LaunchResult, News, Observation, PilotState, Reason, Tick};
use crate::config::Config;
use crate::units::PilotId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// A missing mount source is looked for again after this long, in seconds.
const HELD: f64 = 30.0;
/// So long a first rate is waited for with a tick a second.
const FIRST_RATE: f64 = 30.0;

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
    pub(super) owner_load: OwnerLoad,
    pub(super) thermal: ThermalLimit,
    reason: Option<Reason>,
    last_tick: f64,
    /// Launches, and ends by kind, since the daemon started.
    pub counts: BTreeMap<String, u64>,
    /// The last pilots that ended, the latest first.
    pub gone: VecDeque<Finished>,
    /// Those that ended since the last tick.
    pub(super) ended: Vec<Finished>,
}

/// How many ended pilots are remembered.
const REMEMBERED: usize = 20;

/// A pilot that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub name: String,
    pub class: String,
    pub kind: EndKind,
    /// Epoch seconds.
    pub at: f64,
    /// Seconds.
    pub lived: f64,
    pub exit_code: i64,
    /// The end of its log, where it is of use.
    pub log_tail: String,
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

impl Memory {
    pub fn new(seed: u64) -> Memory {
        Memory {
            seed,
            ..Memory::default()
        }
    }

    /// The next number of a splitmix64 sequence: enough for jitter and names.
    pub(super) fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        let mut z = self
            .seed
            .wrapping_add(self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// For a replay, whose own launches nobody answers (what came of the recorded ones is in the list), and a dry run.
    pub fn forget_launches(&mut self) {
        self.launching.clear();
    }

    fn forget_ended_early(&mut self, id: &PilotId) {
        for class in self.classes.values_mut() {
            class.ended_early.remove(id);
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
        let elapsed = if self.last_tick > 0.0 {
            (seen.at.boot - self.last_tick).max(0.0)
        } else {
            0.0
        };
        self.last_tick = seen.at.boot;
        self.age_served(config, elapsed);
        for pilot in seen
            .pilots
            .iter()
            .flatten()
            .filter(|pilot| pilot.own && pilot.state.holds_room())
        {
            let class = self.classes.entry(pilot.class.clone()).or_default();
            class.served += pilot.cpus * elapsed;
            // One that is being started may be the one that the list shows.
            let is_starting = || {
                self.launching
                    .iter()
                    .any(|l| l.class == pilot.class && l.answered.is_none())
            };
            if class.is_proving() && class.is_proof(pilot, seen.at) && !is_starting() {
                class.is_well();
            }
        }
    }

    fn learn(&mut self, config: &Config, seen: &Observation, news: &News) {
        let now = seen.at.boot;
        // Where a call failed, or the list shows it undone, the next regular tick decides again: it must not spin.
        let next_look = now + config.loop_.interval.as_secs_f64();
        match news {
            News::Launched {
                class,
                name,
                at,
                result,
            } => self.launched(config, now, (class, name, *at), result),
            News::Fetched { class, result } => self.fetched(config, class, result, now),
            News::Removed {
                id,
                name,
                class,
                ended,
            } => {
                self.forget_ended_early(id);
                let cause = self.stopping.remove(id).map(|stopping| stopping.cause);
                self.busy.insert(id.clone(), next_look);
                let is_known = self.gone.iter().any(|gone| gone.name == *name);
                if let Some(ended) = ended.as_ref().filter(|_| !is_known) {
                    let configured = config
                        .pilots
                        .iter()
                        .find(|configured| configured.name == *class);
                    let kind = ends::classify(cause, ended, configured);
                    self.remember(seen.at.epoch, name, class, kind, ended);
                    self.count(kind.name());
                    // Of a limit that does not hold the class has learned already.
                    if cause != Some(Cause::Unlimited) {
                        let pause =
                            configured.map_or(0.0, |class| class.no_work_pause.as_secs_f64());
                        self.learn_end(class, kind, ended, pause, seen);
                    }
                }
            }
            // The list shows whether it did; until then the pilot stays busy.
            News::Changed(_) => {}
            News::Failed { id, .. } => {
                self.forget_ended_early(id);
                self.busy.insert(id.clone(), next_look);
            }
        }
    }

    fn launched(
        &mut self,
        config: &Config,
        now: f64,
        (class, name, at): (&str, &str, f64),
        result: &LaunchResult,
    ) {
        let known = self.launching.iter_mut().find(|launch| launch.name == name);
        match result {
            LaunchResult::Started(_) => {
                if let Some(launch) = known {
                    launch.answered = Some(at);
                }
                let memory = self.classes.entry(class.to_owned()).or_default();
                memory.image = Image::Ready;
                memory.begins_proof(at);
                if memory.launch_failed && memory.retry_at <= now {
                    (memory.launch_failed, memory.failures) = (false, 0);
                }
                self.count("launches");
            }
            LaunchResult::NoImage => {
                self.launching.retain(|launch| launch.name != name);
                let memory = self.classes.entry(class.to_owned()).or_default();
                if memory.image != Image::Fetching {
                    let was_there =
                        std::mem::replace(&mut memory.image, Image::Missing) == Image::Ready;
                    // Brought again it may be gone again: without a wait that would never end.
                    if was_there {
                        let image = config
                            .pilots
                            .iter()
                            .find(|configured| configured.name == *class);
                        let image = image.map_or(String::new(), |class| class.image.to_string());
                        self.launch_failed(
                            class,
                            &format!("{image} was here, and the engine does not find it"),
                            now,
                        );
                    }
                }
            }
            LaunchResult::MountMissing(source) => {
                self.launching.retain(|launch| launch.name != name);
                let memory = self.classes.entry(class.to_owned()).or_default();
                memory.held_by = Some(super::Code::MountMissing);
                memory.why = format!(
                    "{source} is not on this machine; create or mount it, or change `mounts`"
                );
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
                self.classes
                    .entry(class.to_owned())
                    .or_default()
                    .begins_proof(at);
                self.launch_failed(class, why, now);
            }
        }
    }

    fn remember(&mut self, at: f64, name: &str, class: &str, kind: EndKind, ended: &Ended) {
        let gone = Finished {
            name: name.to_owned(),
            class: class.to_owned(),
            kind,
            at,
            lived: ended.lived.unwrap_or(0.0),
            exit_code: ended.exit_code,
            log_tail: ended.log_tail.clone(),
        };
        self.ended.push(gone.clone());
        self.gone.truncate(REMEMBERED - 1);
        self.gone.push_front(gone);
    }

    /// Drops what the list shows, or shows to be gone.
    pub(super) fn forget_gone(&mut self, tick: &Tick) {
        let listed_at = tick.seen.listed_at;
        self.launching.retain(|launch| {
            let listed = tick.pilots.iter().any(|pilot| pilot.name == launch.name);
            // A container that is still being started stays ours to wait for.
            launch.answered.is_none_or(|at| !listed && at >= listed_at)
        });
        self.asked.retain(|id, before| {
            let is_same = tick
                .pilots
                .iter()
                .any(|pilot| pilot.id == *id && pilot.state == *before);
            if !is_same {
                self.busy.remove(id);
            }
            is_same
        });
        let listed = |id: &PilotId| tick.pilots.iter().any(|pilot| pilot.id == *id);
        self.stopping
            .retain(|id, _| listed(id) || self.busy.contains_key(id));
        self.busy
            .retain(|id, until| listed(id) || until.is_infinite());
    }

    /// Launches under way that the list does not show yet.
    pub(super) fn unlisted<'a>(&'a self, tick: &'a Tick) -> impl Iterator<Item = &'a Launching> {
        self.launching
            .iter()
            .filter(|launch| !tick.pilots.iter().any(|pilot| pilot.name == launch.name))
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

    /// The next regular tick, or sooner for the end of a grace, a ttl, a back-off, a probe or a doubt.
    pub(super) fn wake_in(&self, tick: &Tick, rules: &Rules) -> Option<f64> {
        let now = tick.now;
        let nothing_to_do =
            tick.config.pilots.is_empty() && !tick.pilots.iter().any(|pilot| pilot.own);
        if nothing_to_do && self.launching.is_empty() {
            return None;
        }
        let interval = tick.config.loop_.interval.as_secs_f64();
        let kills = self
            .stopping
            .values()
            .map(|stopping| stopping.kill_at - now);
        let ttls = tick
            .own()
            .filter(|pilot| !self.stopping.contains_key(&pilot.id));
        let ttls = ttls.map(|pilot| pilot.expiry.left(tick.seen.at));
        let tries = self
            .classes
            .values()
            .flat_map(|class| [class.retry_at, class.proves_at]);
        let tries = tries.map(|at| at - now).filter(|wait| *wait > 0.0);
        // What can't be read at all is not waited for for ever.
        let is_new = self
            .reason
            .as_ref()
            .is_none_or(|reason| tick.seen.at.epoch - reason.since < FIRST_RATE);
        let first_rate = (tick.seen.cpu.is_none() && is_new).then_some(1.0);
        let soonest = kills.chain(ttls).chain(tries).chain(first_rate);
        let soonest = soonest
            .chain(self.owner_load.look_again)
            .chain(rules.ends_in)
            .fold(interval, f64::min);
        Some(soonest.max(0.05))
    }
}
