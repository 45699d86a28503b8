//! The policy, pure: from what is configured, remembered and observed to what is done, and why.
//! No I/O, no clock, no log: time and random seed come in as values, so that any tick can be replayed.

mod capacity;
mod classes;
mod ends;
mod launch;
mod memory;
mod observation;
mod owner_load;
mod reason;
mod rules;
mod upkeep;

pub use capacity::Capacity;
pub use ends::EndKind;
pub use memory::{Finished, Memory};
pub use observation::{
    Control, CpuUse, Drain, Ended, EngineState, Expiry, LaunchResult, MemoryUse, News, Observation,
    Pilot, PilotState, Protection, Snooze,
};
pub use reason::{Code, Reason, State};

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
    /// Read how an ended pilot ended, then remove it. Without a name it never ran.
    Remove {
        id: PilotId,
        name: String,
        class: String,
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
    pub capacity: Capacity,
    /// Pilots whose end was learned of since the last tick.
    pub ended: Vec<Finished>,
    /// Seconds until the next tick; `None`: only an event, a command or a reload can change anything.
    pub wake_in: Option<f64>,
    /// The owner is short of CPU: the next observation is to say what each pilot gets.
    pub contended: bool,
    /// The daemon may end: a force-stop or a `drain --stop` is carried out.
    pub finished: bool,
}

/// How long a `created` container may wait for its start before it counts as forgotten, in seconds.
pub const CREATED_GRACE: f64 = 120.0;

/// What the rooms of this folder share while one tick is decided.
struct Tick<'a> {
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

impl Tick<'_> {
    /// Own pilots that hold a slot: running, paused or about to start.
    fn own(&self) -> impl Iterator<Item = &Pilot> {
        self.pilots
            .iter()
            .filter(|pilot| pilot.own && pilot.state.holds_room())
    }
}

/// One tick. `memory` is the only state; it can be lost at any time and is rebuilt from what is observed.
pub fn decide(config: &Config, memory: &mut Memory, seen: &Observation) -> Decision {
    let local = seen.local;
    let (share, owner, when) = config.effective(local.weekday, local.minute);
    memory.absorb(config, seen);
    if seen.control.pull {
        memory.refresh_all(seen.at.boot);
    }
    let Some(pilots) = seen.pilots.as_deref() else {
        return blind(config, memory, seen);
    };
    let mut tick = Tick {
        config,
        share,
        owner,
        when,
        seen,
        pilots,
        now: seen.at.boot,
        actions: Vec::new(),
    };
    memory.forget_gone(&tick);
    let capacity = Capacity::of(&tick, memory);
    let rules = Rules::of(&tick, memory, &capacity);
    if seen.protection == Protection::Lost {
        tick.actions.push(Action::MendGroup);
    }
    upkeep::end_expired(&mut tick, memory);
    upkeep::clear_ended(&mut tick, memory);
    owner_load::give_back(&mut tick, memory, &rules, &capacity);
    let blocked = launch::fill(&mut tick, memory, &rules, &capacity);
    upkeep::finish_stopping(&mut tick, memory);
    let (state, reason) = reason::explain(&tick, memory, &rules, &capacity, blocked);
    let wake_in = memory.wake_in(&tick, &rules);
    let finished = rules.ends_when_empty
        && !pilots.iter().any(|pilot| pilot.own)
        && memory.launching.is_empty();
    let contended = memory.owner_load.is_contended();
    let (actions, reason, ended) = (
        tick.actions,
        memory.dated(reason, seen),
        std::mem::take(&mut memory.ended),
    );
    Decision {
        actions,
        state,
        reason,
        capacity,
        ended,
        wake_in,
        contended,
        finished,
    }
}

/// The list could not be read: that is not "no pilots", so nothing is touched.
fn blind(config: &Config, memory: &mut Memory, seen: &Observation) -> Decision {
    let reason = memory.dated(reason::of_engine(&seen.engine), seen);
    let wake_in = Some(config.loop_.interval.as_secs_f64());
    let (actions, capacity, ended) = (
        Vec::new(),
        Capacity::default(),
        std::mem::take(&mut memory.ended),
    );
    Decision {
        actions,
        state: State::Waiting,
        reason,
        capacity,
        ended,
        wake_in,
        contended: false,
        finished: false,
    }
}

#[cfg(test)]
mod tests;
