//! The policy, pure: from what is configured, remembered and observed to what is done, and why.
//! No I/O, no clock, no log: time and random seed come in as values, so that any tick can be replayed.

mod launch;
mod observation;
mod owner_load;
mod reason;
mod rules;
mod state;
mod tick;

pub use observation::{
    Control, CpuUse, Drain, EndKind, Ended, EngineState, Expiry, Finished, LaunchResult, MemoryUse,
    News, Observation, Pilot, PilotState, Protection, Snooze,
};
pub use reason::{Code, Reason, State};
pub use state::PolicyState;
pub use tick::{Action, Decision};

use crate::config::{Config, MissingLimits};
use state::LIVES;
use std::mem::take;
use tick::{Tick, removal};

/// So long a first rate is waited for with a tick a second.
const FIRST_RATE: f64 = 30.0;
/// A pilot that is gone after less than this, in seconds, may not have worked at all.
const EARLY: f64 = 5.0;
/// A removal that has not come back after this long, in seconds, is asked for again.
const REMOVED_WITHIN: f64 = 300.0;

/// One tick. `state` is all that is remembered; it can be lost at any time and is rebuilt from what is observed.
pub fn decide(config: &Config, state: &mut PolicyState, seen: &Observation) -> Decision {
    for news in &seen.news {
        state.learn(config, seen, news);
    }
    let now = seen.at.boot;
    let elapsed = state.last_tick.map_or(0.0, |last| (now - last).max(0.0));
    state.last_tick = Some(now);
    let mut decision = match &seen.pilots {
        Some(pilots) => {
            state.match_list(pilots, seen);
            Tick::new(config, state, seen, pilots).decide(elapsed)
        }
        // The list could not be read: that is not "no pilots", so nothing is touched.
        None => Decision {
            reason: reason::of_engine(&seen.engine),
            wake_in: Some(config.loop_.interval.as_secs_f64()),
            ..Decision::default()
        },
    };
    decision.ended = take(&mut state.ended);
    let last = state.reason.take();
    let same = last.filter(|last| last.code == decision.reason.code);
    decision.reason.since = same.map_or(seen.at.epoch, |last| last.since);
    state.reason = Some(decision.reason.clone());
    decision
}

impl Tick<'_> {
    fn decide(mut self, elapsed: f64) -> Decision {
        self.serve(elapsed);
        self.find_rules();
        self.keep_up();
        self.give_back();
        self.out.reason = self.launch_and_explain();
        self.finish_stopping();
        self.out.state = self.name();
        self.out.contended = self.is_contended();
        let control = &self.seen.control;
        let ends_when_empty = control.force_stop || control.drain.is_some_and(|drain| drain.stop);
        let mut pilots = self.pilots.iter();
        let is_empty = !pilots.any(|pilot| pilot.own) && self.state.launching.is_empty();
        self.out.finished = ends_when_empty && is_empty;
        let is_idle = is_empty && self.config.pilots.is_empty();
        let wake_in = self.out.wake_in.filter(|_| !is_idle);
        self.out.wake_in = wake_in.map(|seconds| seconds.max(0.05));
        self.out
    }

    /// What is due whatever the owner does: the group's priority, time limits, limits that do not hold, removals.
    fn keep_up(&mut self) {
        if self.seen.protection == Protection::Lost {
            self.out.actions.push(Action::MendGroup);
        }
        let refuses = self.share.missing_limits == MissingLimits::Refuse;
        for pilot in self.own.clone() {
            if !matches!(pilot.state, PilotState::Running | PilotState::Paused) {
                continue;
            }
            let left = pilot.expiry.left(self.seen.at);
            let unlimited = pilot.unlimited.as_ref().filter(|_| refuses);
            if left <= 0.0 {
                self.stop(pilot, EndKind::Ttl, pilot.grace);
            } else if let Some(what) = unlimited {
                let at = self.seen.at;
                self.state.failed(&pilot.class, at, what.clone(), LIVES);
                self.stop(pilot, EndKind::Failed, pilot.grace);
            }
            self.wake_at(self.now + left);
        }
        for pilot in self.pilots.iter().filter(|pilot| pilot.own) {
            let is_over = match pilot.state {
                PilotState::Exited | PilotState::Dead => true,
                PilotState::Created => !self.state.is_starting(pilot),
                _ => false,
            };
            if is_over && self.is_free(pilot) {
                let is_early = self.seen.at.epoch - pilot.created < EARLY;
                let is_early = is_early && pilot.state == PilotState::Exited;
                let busy_until = self.now + REMOVED_WITHIN;
                let handled = self.handled(pilot);
                handled.busy_until = busy_until;
                handled.early = is_early.then(|| pilot.class.clone());
                if matches!(pilot.expiry, Expiry::Epoch(_)) {
                    // Of another boot: it went with that.
                    handled.cause.get_or_insert(EndKind::Killed);
                }
                self.out.actions.push(removal(pilot));
            }
        }
    }

    /// Sends the SIGKILLs that are due. Repeated each interval while the pilot is still there.
    fn finish_stopping(&mut self) {
        for pilot in self.own.clone() {
            let next = self.now + self.interval();
            let handled = self.state.handled.get_mut(&pilot.id);
            let Some(handled) = handled.filter(|handled| handled.kill_at.is_some()) else {
                continue;
            };
            match handled.kill_at {
                Some(kill_at) if kill_at > self.now => self.wake_at(kill_at),
                _ => {
                    (handled.killed, handled.kill_at) = (true, Some(next));
                    self.end(pilot, |id, paused| Action::Kill { id, paused });
                }
            }
        }
    }

    /// The rule that binds first, else what stopped launching, or that everything that fits is running.
    fn launch_and_explain(&mut self) -> Reason {
        if self.seen.control.pull {
            for class in self.state.classes.values_mut() {
                class.refresh_at = Some(self.now);
            }
        }
        let is_new = |last: &Reason| self.seen.at.epoch - last.since < FIRST_RATE;
        if self.seen.cpu.is_none() && self.state.reason.as_ref().is_none_or(is_new) {
            self.wake_at(self.now + 1.0);
        }
        if let Some(rule) = self.rules.first() {
            return rule.reason.clone();
        }
        self.launch()
    }

    fn name(&self) -> State {
        let paused = self.count(PilotState::Paused);
        match () {
            () if self.has_rule(Code::Snooze) => State::Snoozed,
            () if self.has_rule(Code::Drain) => State::Draining,
            () if self.own.len() == paused && paused > 0 => State::Paused,
            () if self.holding() == 0 => State::Waiting,
            () => State::Active,
        }
    }
}

#[cfg(test)]
mod tests;
