//! What is being done about each pilot, and what its end means: it is stopped, paused, woken and removed here, whoever
//! decides so, and asked once, not at every tick.

use super::observation::{Ended, Pilot, PilotState};
use super::tick::{Action, Tick};
use crate::config::PilotClass;
use crate::units::PilotId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Why we asked a pilot to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Ttl,
    /// The owner needs the CPU, the memory or the disk, or set a rule.
    Owner,
    Drain,
    /// A limit that was asked for does not hold.
    Unlimited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    Done,
    /// By its exit code, or done at once.
    NoWork,
    Failed,
    OutOfMemory,
    Ttl,
    Owner,
    Drained,
    /// By somebody else: a signal that we did not send.
    Killed,
    /// Removed before it was started.
    NeverRan,
}

impl EndKind {
    pub const ALL: [EndKind; 9] = [
        EndKind::Done,
        EndKind::NoWork,
        EndKind::Failed,
        EndKind::OutOfMemory,
        EndKind::Ttl,
        EndKind::Owner,
        EndKind::Drained,
        EndKind::Killed,
        EndKind::NeverRan,
    ];

    /// It did what it was to do, or was told to end.
    pub fn is_well(self) -> bool {
        !matches!(
            self,
            EndKind::Failed | EndKind::OutOfMemory | EndKind::NeverRan
        )
    }

    pub fn name(self) -> &'static str {
        match self {
            EndKind::Done => "done",
            EndKind::NoWork => "no-work",
            EndKind::Failed => "failed",
            EndKind::OutOfMemory => "out-of-memory",
            EndKind::Ttl => "ttl",
            EndKind::Owner => "owner",
            EndKind::Drained => "drained",
            EndKind::Killed => "killed",
            EndKind::NeverRan => "never-ran",
        }
    }
}

/// Exit codes of a process that died from SIGINT, SIGKILL or SIGTERM, as shells and engines write them.
const SIGNALLED: [i64; 3] = [130, 137, 143];

/// Our own doing goes before what the exit code says: a pilot that was told to end may exit as it likes.
/// `class`: as it is configured now; `None`: it is gone.
pub(super) fn classify(cause: Option<Cause>, ended: &Ended, class: Option<&PilotClass>) -> EndKind {
    match cause {
        Some(Cause::Ttl) => return EndKind::Ttl,
        Some(Cause::Owner) => return EndKind::Owner,
        Some(Cause::Drain) => return EndKind::Drained,
        Some(Cause::Unlimited) => return EndKind::Failed,
        None => {}
    }
    let says_no_work = |class: &PilotClass| {
        let by_code = class
            .no_work_exit
            .iter()
            .any(|code| i64::from(*code) == ended.exit_code);
        by_code || ended.exit_code == 0 && ended.lived < Some(class.min_runtime.as_secs_f64())
    };
    match ended.exit_code {
        _ if ended.out_of_memory => EndKind::OutOfMemory,
        _ if ended.lived.is_none() => EndKind::NeverRan,
        _ if class.is_some_and(says_no_work) => EndKind::NoWork,
        0 => EndKind::Done,
        code if SIGNALLED.contains(&code) => EndKind::Killed,
        _ => EndKind::Failed,
    }
}

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

/// A removal that has not come back after this long, in seconds, is asked for again.
const REMOVED_WITHIN: f64 = 300.0;
/// A pilot that is gone after less than this, in seconds, may not have worked at all.
const EARLY: f64 = 5.0;
/// A pilot that gets less than this share of its CPUs is starved.
const STARVED: f64 = 0.05;

/// What is being done about one pilot.
#[derive(Clone, Debug, Default)]
struct Handled {
    /// Boot-clock second before which it is not touched again.
    busy_until: f64,
    /// The state in which it was paused or woken: another one frees it at once.
    asked_in: Option<PilotState>,
    stop: Option<Stop>,
    /// Its class, while it is being removed after an end so early that the end has to be known before it is replaced.
    early: Option<String>,
    /// Boot-clock second since which it has stood still.
    starved_since: Option<f64>,
}

#[derive(Clone, Debug)]
struct Stop {
    cause: Cause,
    /// Boot-clock second of the next SIGKILL.
    kill_at: f64,
    killed: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pilots {
    handled: BTreeMap<PilotId, Handled>,
    /// What this tick asks for.
    pub actions: Vec<Action>,
}

impl Pilots {
    fn of(&mut self, pilot: &Pilot) -> &mut Handled {
        self.handled.entry(pilot.id.clone()).or_default()
    }

    /// Nothing is under way with it.
    fn is_free(&self, pilot: &Pilot, now: f64) -> bool {
        let handled = self.handled.get(&pilot.id);
        handled.is_none_or(|handled| handled.busy_until <= now)
    }

    pub fn is_stopping(&self, pilot: &Pilot) -> bool {
        let handled = self.handled.get(&pilot.id);
        handled.is_some_and(|handled| handled.stop.is_some())
    }

    /// A pilot of the class is gone so early that how it ended is to be known first.
    pub fn is_early(&self, class: &str) -> bool {
        self.handled
            .values()
            .any(|handled| handled.early.as_deref() == Some(class))
    }

    /// Seconds until the next SIGKILL.
    pub fn next_kill(&self, now: f64) -> Option<f64> {
        let stops = self
            .handled
            .values()
            .filter_map(|handled| handled.stop.as_ref());
        stops.map(|stop| stop.kill_at - now).reduce(f64::min)
    }

    /// It is gone, for the `cause` that we had. The list may still show it before `next_look`.
    pub fn removed(&mut self, id: &PilotId, next_look: f64) -> Option<Cause> {
        let handled = Handled {
            busy_until: next_look,
            ..Handled::default()
        };
        let before = self.handled.insert(id.clone(), handled)?;
        before.stop.map(|stop| stop.cause)
    }

    /// A call failed: it is decided about again at `next_look`, and must not spin.
    pub fn failed(&mut self, id: &PilotId, next_look: f64) {
        let handled = self.handled.entry(id.clone()).or_default();
        (handled.busy_until, handled.early) = (next_look, None);
    }

    /// Drops what is done, or shown by the list to be gone.
    pub fn forget_gone(&mut self, tick: &Tick) {
        let states: HashMap<&PilotId, PilotState> = tick
            .pilots
            .iter()
            .map(|pilot| (&pilot.id, pilot.state))
            .collect();
        self.handled.retain(|id, handled| {
            let state = states.get(id).copied();
            if handled.asked_in.is_some() && handled.asked_in != state {
                (handled.asked_in, handled.busy_until) = (None, 0.0);
            }
            state.is_some() || handled.busy_until > tick.now
        });
    }

    /// SIGTERM now and SIGKILL when the pilot's grace is over. The engine's blocking stop is not used.
    pub fn stop(&mut self, tick: &Tick, pilot: &Pilot, cause: Cause) {
        let handled = self.of(pilot);
        if handled.stop.is_some() {
            return;
        }
        handled.stop = Some(Stop {
            cause,
            killed: false,
            kill_at: tick.now + pilot.grace,
        });
        let id = pilot.id.clone();
        let paused = pilot.state == PilotState::Paused;
        self.actions.push(match pilot.state {
            PilotState::Created => removal(pilot),
            _ => Action::Terminate { id, paused },
        });
    }

    /// SIGKILL without grace, by [`Pilots::finish_stopping`].
    pub fn kill(&mut self, tick: &Tick, pilot: &Pilot, cause: Cause) {
        let kill_at = tick.now;
        let stop = self.of(pilot).stop.get_or_insert(Stop {
            cause,
            killed: false,
            kill_at,
        });
        if !stop.killed {
            stop.kill_at = kill_at;
        }
    }

    /// Paused, or stopped where its class can't be paused.
    pub fn pause(&mut self, tick: &Tick, pilot: &Pilot, cause: Cause) {
        let class = tick
            .config
            .pilots
            .iter()
            .find(|class| class.name == pilot.class);
        let id = pilot.id.clone();
        match pilot.state {
            PilotState::Created => {}
            _ if class.is_none_or(|class| class.pausable) => {
                self.ask(tick, pilot, Action::Pause { id });
            }
            _ => self.stop(tick, pilot, cause),
        }
    }

    pub fn wake(&mut self, tick: &Tick, pilot: &Pilot) {
        let id = pilot.id.clone();
        self.ask(tick, pilot, Action::Unpause { id });
    }

    /// Asked for once; asked again only when the state did not follow by then.
    fn ask(&mut self, tick: &Tick, pilot: &Pilot, action: Action) {
        if !self.is_free(pilot, tick.now) {
            return;
        }
        let handled = self.of(pilot);
        handled.busy_until = tick.now + tick.interval() / 2.0;
        handled.asked_in = Some(pilot.state);
        self.actions.push(action);
    }

    /// A pilot that stands still for `starve-limit` holds its memory for nothing. One that merely waits for a job on a
    /// machine that has room is not starved: that is told apart only while it is `contended`.
    pub fn stop_starved(&mut self, tick: &Tick, contended: bool, snoozed: bool) {
        let limit = tick.owner.starve_limit.as_secs_f64();
        for pilot in &tick.own {
            let is_starved = match pilot.state {
                PilotState::Paused => true,
                PilotState::Running => {
                    contended && pilot.used.is_some_and(|used| used < STARVED * pilot.cpus)
                }
                _ => false,
            };
            if !is_starved {
                if let Some(handled) = self.handled.get_mut(&pilot.id) {
                    handled.starved_since = None;
                }
                continue;
            }
            let since = *self.of(pilot).starved_since.get_or_insert(tick.now);
            // A snooze is the owner's own word for "not now, but later".
            if tick.now - since >= limit && !snoozed && self.is_free(pilot, tick.now) {
                self.stop(tick, pilot, Cause::Owner);
            }
        }
    }

    /// Sends the SIGKILLs that are due. Repeated each interval while the pilot is still there.
    pub fn finish_stopping(&mut self, tick: &Tick) {
        for pilot in &tick.own {
            let handled = self.handled.get_mut(&pilot.id);
            let Some(stop) = handled.and_then(|handled| handled.stop.as_mut()) else {
                continue;
            };
            if stop.kill_at > tick.now {
                continue;
            }
            (stop.killed, stop.kill_at) = (true, tick.now + tick.interval());
            let id = pilot.id.clone();
            let paused = pilot.state == PilotState::Paused;
            self.actions.push(match pilot.state {
                PilotState::Created => removal(pilot),
                _ => Action::Kill { id, paused },
            });
        }
    }

    /// Own containers that hold no room any more, or never will.
    pub fn clear_ended(&mut self, tick: &Tick, is_starting: impl Fn(&str) -> bool) {
        for pilot in tick.pilots.iter().filter(|pilot| pilot.own) {
            let is_over = match pilot.state {
                PilotState::Exited | PilotState::Dead => true,
                PilotState::Created => !is_starting(&pilot.name),
                _ => false,
            };
            if !is_over || !self.is_free(pilot, tick.now) {
                continue;
            }
            let is_early = tick.seen.at.epoch - pilot.created < EARLY;
            let handled = self.of(pilot);
            handled.busy_until = tick.now + REMOVED_WITHIN;
            handled.early =
                (is_early && pilot.state == PilotState::Exited).then(|| pilot.class.clone());
            self.actions.push(removal(pilot));
        }
    }
}

fn removal(pilot: &Pilot) -> Action {
    Action::Remove {
        id: pilot.id.clone(),
        name: pilot.name.clone(),
        class: pilot.class.clone(),
    }
}
