//! What is remembered from tick to tick, and what the calls in flight that came back teach: about pilots, launches and
//! classes. All of it can be lost at any moment (a crash, a restart): pilots and their ends are read back from the engine;
//! only back-offs and timers start anew.

use super::*;
use crate::units::{PilotId, word};
use smart_default::SmartDefault;
use std::collections::{HashMap, VecDeque};
use std::mem::take;

/// First wait after a failure, in seconds; doubled with each further one, up to [`BACK_OFF_MOST`].
const BACK_OFF_FIRST: f64 = 5.0;
const BACK_OFF_MOST: f64 = 900.0;
/// A missing mount source is looked for again after this long, in seconds.
const MOUNT_AGAIN: f64 = 30.0;
/// A pilot that runs this long, in seconds, has shown that its class is well again.
pub(super) const LIVES: f64 = 30.0;
/// A class of which nothing is known needs less: a pilot that still runs after this, in seconds.
const RUNS: f64 = 2.0;
/// First wait after a failed refresh of an image, in seconds; doubled up to the time between two refreshes.
const REFRESH_AGAIN: f64 = 60.0;
/// How long a container whose launch had no answer may wait for its start, in seconds.
const CREATED_GRACE: f64 = 120.0;
/// A launch that has not come back after this long, in seconds, counts as lost.
const ANSWERED_WITHIN: f64 = 600.0;
/// How many ended pilots are remembered.
const REMEMBERED: usize = 20;
/// Exit codes of a process that died from SIGINT, SIGKILL or SIGTERM, as shells and engines write them.
const SIGNALLED: [i64; 3] = [130, 137, 143];
/// Exit code that engines give to what they find dead when they start.
const ENGINE_DIED: i64 = 255;

/// How often, by class and what: `launches`, `launch-failed`, or a kind of end.
pub type Counts = BTreeMap<(String, String), u64>;

#[derive(Clone, Debug, Default)]
pub struct PolicyState {
    /// The state of a splitmix64 generator, whose seed differs between daemons: a fleet is not to retry in step.
    random: u64,
    pub(super) classes: BTreeMap<String, Class>,
    pub(super) launching: Vec<Launching>,
    pub(super) handled: BTreeMap<PilotId, Handled>,
    /// Boot-clock second since which a pilot has stood still.
    pub(super) starved: BTreeMap<PilotId, f64>,
    /// The code that was told last, and the epoch second since which.
    pub(super) reason: Option<(Code, f64)>,
    pub(super) last_tick: Option<f64>,
    /// Boot-clock second since which the use of running pilots can't be read.
    pub(super) unread_since: Option<f64>,
    /// Heat takes one pilot at a time: those that may run (`None`: as many as fit), and the boot-clock second of the last
    /// step.
    pub(super) cool: Option<usize>,
    pub(super) cooled_at: Option<f64>,
    /// The owner needs more than rides along.
    pub(super) need: Option<Need>,
    /// End of the last window that was looked at for it.
    pub(super) looked_at: f64,
    /// Boot-clock second since which nothing has held pilots back, infinite while something does. `None`: nothing ever
    /// did, so that a daemon that starts on an idle machine need not wait.
    pub(super) calm_since: Option<f64>,
    /// Last second at which a pilot was given back without knowing the need.
    pub(super) last_blind: Option<f64>,
    /// Something was given back to the owner's need and not taken again yet.
    pub(super) recovering: bool,
    /// Some rule or need holds pilots back.
    pub(super) holding: bool,
    /// Since the daemon started.
    pub counts: Counts,
    /// The last pilots that ended, the latest first.
    pub gone: VecDeque<Finished>,
}

/// What is known of a class.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub stage: Stage,
    /// Boot-clock second at which the first pilot of a new class, if it still runs, has shown that it is good.
    pub proves_at: f64,
    /// Epoch second: pilots created before say nothing about the class as it is now.
    pub since: f64,
    /// Its image is there; `None`: the first launch tells.
    pub image: Option<bool>,
    /// Boot-clock second until which its image is being brought, or brought again; 0: it is not.
    pub fetching: f64,
    /// Boot-clock second of the image's next refresh; `None`: not known yet.
    pub refresh_at: Option<f64>,
    /// Seconds that were waited after its last refresh, which failed; 0: it did not.
    pub refresh_wait: f64,
    /// Core-seconds given so far; what was given long ago counts less.
    pub served: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Stage {
    /// Nothing is known of it: one pilot shows that it runs before more are started.
    #[default]
    New,
    Good,
    /// It failed or had no work: after a while one tries.
    Waiting(Wait),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wait {
    /// Boot-clock second.
    pub until: f64,
    /// How often it failed in a row.
    pub times: u32,
    pub code: Code,
    /// What happened, for people.
    pub why: String,
    /// Seconds for which a pilot has to live to show that it goes better.
    pub lives: f64,
}

/// A launch that was asked for and that no list has shown running yet.
#[derive(Clone, Debug)]
pub(super) struct Launching {
    pub name: String,
    pub class: Arc<PilotClass>,
    pub asked: f64,
    /// Boot-clock second of its answer; `None` while it is in flight.
    pub answered: Option<f64>,
}

/// What is being done about one pilot.
#[derive(Clone, Debug, SmartDefault)]
pub(super) struct Handled {
    /// Boot-clock second before which it is not touched again.
    pub busy_until: f64,
    /// The state in which it was paused or woken: another one frees it at once.
    pub asked_in: Option<PilotState>,
    /// It was asked to end, or will be: what its end will count as.
    pub cause: Option<EndKind>,
    /// Boot-clock second of the next SIGKILL.
    #[default(f64::INFINITY)]
    pub kill_at: f64,
    pub killed: bool,
    /// Its class, while it is being removed after an end so early that the end has to be known before it is replaced.
    pub early: Option<String>,
}

/// A need of the owner's that lasts.
#[derive(Clone, Debug)]
pub(super) struct Need {
    /// Boot-clock second.
    pub since: f64,
    pub looks: u32,
    /// The window in which it first showed, to be weighed by the next look: its length and the cores.
    pub first_look: (f64, f64),
}

impl Class {
    /// The pilot's fate tells how the class is now.
    pub fn is_probe(&self, pilot: &Pilot) -> bool {
        pilot.created >= self.since && pilot.state == PilotState::Running
    }
}

impl PolicyState {
    pub fn new(seed: u64) -> PolicyState {
        PolicyState {
            random: seed,
            ..PolicyState::default()
        }
    }

    /// For a replay, whose own launches nobody answers (what came of the recorded ones is in the list), and a dry run.
    pub fn forget_launches(&mut self) {
        self.launching.clear();
    }

    /// What is configured otherwise now is new, whatever was learned of it before.
    pub fn forget_changed(&mut self, before: &Config, after: &Config, epoch: f64) {
        let is_new = |class: &&PilotClass| !before.pilots.contains(class);
        for class in after.pilots.iter().filter(is_new) {
            if let Some(known) = self.classes.get_mut(&class.name) {
                let served = take(known).served;
                // The engine dates containers in whole seconds.
                (known.served, known.since) = (served, epoch.floor());
            }
        }
    }

    /// The next random number, good enough for jitter and names.
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A factor around 1, up to a quarter either way.
    pub(super) fn jitter(&mut self) -> f64 {
        0.75 + 0.5 * (float(self.draw() % 1_000) / 1_000.0)
    }

    pub(super) fn class(&mut self, name: &str) -> &mut Class {
        self.classes.entry(name.to_owned()).or_default()
    }

    fn count(&mut self, class: &str, what: &str) {
        let what = (class.to_owned(), what.to_owned());
        *self.counts.entry(what).or_default() += 1;
    }
}

impl Tick<'_> {
    /// Waits longer with each failure, up to `most` seconds; for a mount always as long. One failure counts once: those of
    /// pilots that were under way together do not multiply. `lives`: seconds for which a pilot has to live to show that it
    /// goes better.
    fn back_off(&mut self, class: &str, code: Code, most: f64, lives: f64, why: String) {
        let (at, jitter) = (self.seen.at, self.state.jitter());
        let class = self.state.class(class);
        // The engine dates containers in whole seconds.
        class.since = at.epoch.floor();
        let times = match &mut class.stage {
            Stage::Waiting(wait) if wait.until > at.boot => {
                wait.lives = wait.lives.max(lives);
                return;
            }
            Stage::Waiting(wait) => wait.times,
            _ => 0,
        };
        let doubled = BACK_OFF_FIRST * 2f64.powi(times.min(16).cast_signed());
        let (seconds, times) = match code {
            Code::MountMissing => (most, 0),
            _ => (doubled.min(most) * jitter, times.saturating_add(1)),
        };
        class.stage = Stage::Waiting(Wait {
            until: at.boot + seconds,
            times,
            code,
            why,
            lives,
        });
    }

    pub(super) fn failed(&mut self, class: &str, why: String, lives: f64) {
        self.back_off(class, Code::BackOff, BACK_OFF_MOST, lives, why);
    }

    /// Takes in what a call in flight brought back.
    pub(super) fn learn(&mut self, news: &News) {
        // Where a call failed, or the list shows it undone, the next regular tick decides again: it must not spin.
        let busy_until = self.now + self.config.interval();
        match news {
            News::Launched(class, name, at, result) => {
                let may_exist = matches!(result, LaunchResult::Started(_) | LaunchResult::Lost(_));
                let launching = &mut self.state.launching;
                launching.retain(|launch| may_exist || launch.name != *name);
                for launch in launching.iter_mut().filter(|launch| launch.name == *name) {
                    launch.answered = Some(*at);
                }
                self.launched(class, *at, result);
            }
            News::Fetched(class, result) => self.fetched(class, result),
            News::Removed(pilot, ended) => {
                let handled = self.state.handled.entry(pilot.id.clone()).or_default();
                let cause = take(handled).cause;
                handled.busy_until = busy_until;
                let is_known = self.state.gone.iter().any(|gone| gone.name == pilot.name);
                if let Some(ended) = ended.as_ref().filter(|_| !is_known) {
                    self.ended(pilot, ended, cause);
                }
            }
            // The list shows whether it did; until then the pilot stays busy.
            News::Changed(_) => {}
            News::Failed(id, _) => {
                let handled = self.state.handled.entry(id.clone()).or_default();
                (handled.busy_until, handled.early) = (busy_until, None);
            }
        }
    }

    /// `at`: boot-clock second of the answer.
    fn launched(&mut self, class: &str, at: f64, result: &LaunchResult) {
        let known = self.state.class(class);
        let why = match result {
            LaunchResult::Started(_) => {
                (known.image, known.proves_at) = (Some(true), at + RUNS);
                return self.state.count(class, "launches");
            }
            LaunchResult::MountMissing(source) => {
                let why = reason::mount_missing(source);
                return self.back_off(class, Code::MountMissing, MOUNT_AGAIN, RUNS, why);
            }
            LaunchResult::NoImage => match known.image.replace(false) {
                // Brought again it may be gone again: without a wait that would never end.
                Some(true) => reason::IMAGE_GONE,
                _ => return,
            },
            LaunchResult::Failed(why) | LaunchResult::Lost(why) => why,
        };
        self.failed(class, why.to_owned(), RUNS);
        self.state.count(class, "launch-failed");
    }

    /// A refresh that fails leaves the local image in use.
    fn fetched(&mut self, name: &str, result: &Result<(), String>) {
        let interval = find(self.config, name).map_or(f64::INFINITY, PilotClass::refresh_seconds);
        let jitter = self.state.jitter();
        let class = self.state.class(name);
        class.fetching = 0.0;
        match result {
            Err(why) if class.image == Some(false) => self.failed(name, why.clone(), RUNS),
            Err(_) => {
                let wait = (2.0 * class.refresh_wait).max(REFRESH_AGAIN).min(interval);
                (class.refresh_wait, class.refresh_at) = (wait, Some(self.now + wait * jitter));
            }
            Ok(()) => {
                (class.image, class.refresh_wait) = (Some(true), 0.0);
                class.refresh_at = Some(self.now + interval * jitter);
            }
        }
    }

    /// `cause`: why we asked it to end, if we did.
    fn ended(&mut self, pilot: &Pilot, ended: &Ended, cause: Option<EndKind>) {
        let (at, lived) = (self.seen.at.epoch, ended.lived.unwrap_or(0.0));
        let (name, class) = (&pilot.class, find(self.config, &pilot.class));
        // What its engine or the boot takes with it says nothing about the class.
        let is_lost = ended.exit_code == ENGINE_DIED && at - lived < self.seen.engine_since
            || matches!(pilot.expiry, Expiry::Epoch(_));
        let cause = cause.or(is_lost.then_some(EndKind::Killed));
        let kind = cause.unwrap_or_else(|| classify(ended, class));
        let finished = Finished {
            name: pilot.name.clone(),
            class: name.clone(),
            kind,
            at,
            lived,
            exit_code: ended.exit_code,
            log_tail: ended.log_tail.clone(),
        };
        self.state.count(name, &word(kind));
        self.state.gone.truncate(REMEMBERED - 1);
        self.state.gone.push_front(finished.clone());
        self.out.ended.push(finished);
        match kind {
            // That of one from before says nothing about what fails now.
            EndKind::Done if at - lived < self.state.class(name).since => {}
            EndKind::Done => self.state.class(name).stage = Stage::Good,
            EndKind::NoWork => {
                let pause = class.map_or(0.0, |class| class.no_work_pause.as_secs_f64());
                self.back_off(name, Code::NoWork, pause, LIVES, reason::no_work(ended));
            }
            // Of a limit that does not hold the class has learned already.
            _ if kind.is_well() || cause.is_some() => {}
            _ => self.failed(name, reason::pilot_failed(kind, ended), LIVES),
        }
    }

    /// Compares launches and pilots with the list: what it shows running is no launch any more, nor is what it should show
    /// and does not. What still waits for its start there keeps its slot for a while.
    pub(super) fn match_list(&mut self) {
        let (now, pilots, listed_at) = (self.now, self.pilots, self.seen.listed_at);
        self.state.launching.retain_mut(|launch| {
            if now - launch.asked > ANSWERED_WITHIN {
                launch.answered.get_or_insert(now);
            }
            let mut listed = pilots.iter().filter(|pilot| pilot.name == launch.name);
            let is_created = listed.any(|pilot| pilot.state == PilotState::Created);
            let is_open = |at: f64| at >= listed_at || is_created && now - at < CREATED_GRACE;
            launch.answered.is_none_or(is_open)
        });
        let states = pilots.iter().map(|pilot| (&pilot.id, pilot.state));
        let states: HashMap<&PilotId, PilotState> = states.collect();
        self.state.handled.retain(|id, handled| {
            let state = states.get(id).copied();
            if handled.asked_in.is_some() && handled.asked_in != state {
                (handled.asked_in, handled.busy_until) = (None, 0.0);
            }
            state.is_some() || handled.busy_until > now
        });
    }
}

/// By what the engine says, of a pilot that nobody asked to end. `class`: as it is configured now, if it still is.
fn classify(ended: &Ended, class: Option<&PilotClass>) -> EndKind {
    let code = ended.exit_code;
    let says_no_work = |class: &PilotClass| {
        let mut codes = class.no_work_exit.iter().map(|code| i64::from(*code));
        let is_soon = code == 0 && ended.lived < Some(class.min_runtime.as_secs_f64());
        is_soon || codes.any(|known| known == code)
    };
    match code {
        _ if ended.out_of_memory => EndKind::OutOfMemory,
        _ if ended.lived.is_none() => EndKind::NeverRan,
        _ if class.is_some_and(says_no_work) => EndKind::NoWork,
        0 => EndKind::Done,
        _ if SIGNALLED.contains(&code) => EndKind::Killed,
        _ => EndKind::Failed,
    }
}
