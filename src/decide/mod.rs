//! The policy, pure: from what is configured, remembered and observed to what is done, and why.
//! No I/O, no clock, no log: time and random seed come in as values, so that any tick can be replayed.

mod ends;
mod ladder;
mod launch;
mod memory;
mod observation;
mod reason;
mod room;
mod rules;
mod upkeep;

pub use ends::EndKind;
pub use memory::{Gone, Memory};
pub use observation::{
    Control, CpuUse, Drain, Ended, EngineState, Expiry, LaunchResult, LocalTime, MemoryUse, News, Observation, Pilot,
    PilotState, Protection, Snooze,
};
pub use reason::{Code, Reason, State};
pub use room::Room;

use crate::config::{Config, Owner, Share};
use crate::units::PilotId;
use rules::Rules;

/// One change to the engine. `act` carries it out; nothing else does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create and start one pilot of a class under this name.
    Launch {
        class: String,
        name: String,
    },
    /// Import or pull the image of a class.
    Fetch {
        class: String,
    },
    /// SIGTERM; a paused pilot is woken, so that its handler runs.
    Terminate {
        id: PilotId,
        paused: bool,
    },
    /// SIGKILL; a paused pilot is woken too, because old runtimes keep the signal from a frozen one.
    Kill {
        id: PilotId,
        paused: bool,
    },
    Pause {
        id: PilotId,
    },
    Unpause {
        id: PilotId,
    },
    /// Read how an ended pilot ended, then remove it.
    Bury {
        id: PilotId,
        name: String,
        class: String,
    },
    /// Remove what never ran: a stale `created` or a dead container.
    Discard {
        id: PilotId,
    },
    /// The parent group has lost its priority, or is gone.
    MendGroup,
}

/// What one tick decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub state: State,
    pub reason: Reason,
    pub room: Room,
    /// Pilots whose end was learned of since the last tick.
    pub ended: Vec<Gone>,
    /// Seconds until the next tick; `None`: only an event, a command or a reload can change anything.
    pub wake_in: Option<f64>,
    /// The owner is short of CPU: the next observation is to say what each pilot gets.
    pub crowded: bool,
    /// The daemon may end: a force-stop or a `drain --stop` is carried out.
    pub finished: bool,
}

/// How long a `created` container may wait for its start before it counts as forgotten, in seconds.
pub const CREATED_GRACE: f64 = 120.0;

/// What the rooms of this folder share while one tick is decided.
struct Turn<'a> {
    config: &'a Config,
    share: Share,
    owner: Owner,
    /// The `[[when]]` in force.
    when: Option<usize>,
    seen: &'a Observation,
    pilots: &'a [Pilot],
    now: f64,
    actions: Vec<Action>,
}

impl Turn<'_> {
    /// Own pilots that hold a slot: running, paused or about to start.
    fn own(&self) -> impl Iterator<Item = &Pilot> {
        self.pilots.iter().filter(|pilot| pilot.own && pilot.state.holds_room())
    }
}

/// One tick. `memory` is the only state; it can be lost at any time and is rebuilt from what is observed.
pub fn decide(config: &Config, memory: &mut Memory, seen: &Observation) -> Decision {
    let local = seen.local;
    let (share, owner, when) = config.effective(local.weekday, local.minute);
    memory.absorb(config, seen);
    let Some(pilots) = seen.pilots.as_deref() else {
        return blind(config, memory, seen);
    };
    let mut turn = Turn { config, share, owner, when, seen, pilots, now: seen.at.boot, actions: Vec::new() };
    memory.forget_gone(&turn);
    let room = Room::of(&turn, memory);
    let rules = Rules::of(&turn, memory, &room);
    if seen.protection == Protection::Lost {
        turn.actions.push(Action::MendGroup);
    }
    upkeep::end_expired(&mut turn, memory);
    upkeep::clear_ended(&mut turn, memory);
    ladder::give_back(&mut turn, memory, &rules, &room);
    let blocked = launch::fill(&mut turn, memory, &rules, &room);
    upkeep::finish_stopping(&mut turn, memory);
    let (state, reason) = reason::explain(&turn, memory, &rules, &room, blocked);
    let wake_in = memory.wake_in(&turn, &rules);
    let finished = rules.ends_when_empty && !pilots.iter().any(|pilot| pilot.own) && memory.launching.is_empty();
    let crowded = memory.ladder.is_crowded();
    let (actions, reason, ended) = (turn.actions, memory.dated(reason, seen), std::mem::take(&mut memory.ended));
    Decision { actions, state, reason, room, ended, wake_in, crowded, finished }
}

/// The list could not be read: that is not "no pilots", so nothing is touched.
fn blind(config: &Config, memory: &mut Memory, seen: &Observation) -> Decision {
    let reason = memory.dated(reason::of_engine(&seen.engine), seen);
    let wake_in = Some(config.loop_.interval.as_secs_f64());
    let (actions, room, ended) = (Vec::new(), Room::default(), std::mem::take(&mut memory.ended));
    Decision { actions, state: State::Waiting, reason, room, ended, wake_in, crowded: false, finished: false }
}

#[cfg(test)]
mod tests;
