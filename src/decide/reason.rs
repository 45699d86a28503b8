//! Why this and not something else: one code with the value and the threshold that explain the decision in force.

use super::launch::Blocked;
use super::rules::Rules;
use super::{Capacity, EngineState, Memory, PilotState, Tick};
use serde::{Deserialize, Serialize};

/// What the daemon is doing, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Active,
    Draining,
    Snoozed,
    /// Pilots are paused for the owner.
    Paused,
    /// Nothing runs, and the reason says what it waits for.
    #[default]
    Waiting,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Draining => "draining",
            State::Snoozed => "snoozed",
            State::Paused => "paused",
            State::Waiting => "waiting",
        }
    }
}

/// The words scripts may match on. Adding one is a change of the interface: README lists them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    #[default]
    Starting,
    NoPilot,
    EngineDown,
    EngineUnsupported,
    ForceStop,
    Drain,
    Snooze,
    Hold,
    Program,
    Battery,
    Temperature,
    MaxPilots,
    Hours,
    Disk,
    Memory,
    MemoryPressure,
    Busy,
    Calming,
    BackOff,
    NoWork,
    Image,
    MountMissing,
    Probing,
    Full,
    NothingFits,
    ClassMax,
    /// A word of another version.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    pub code: Code,
    pub value: f64,
    pub threshold: f64,
    /// Epoch seconds.
    pub since: f64,
    /// One sentence with the numbers.
    pub text: String,
}

impl Reason {
    pub fn new(code: Code, value: f64, threshold: f64, text: impl Into<String>) -> Reason {
        Reason {
            code,
            value,
            threshold,
            since: 0.0,
            text: text.into(),
        }
    }
}

pub(super) fn of_engine(engine: &EngineState) -> Reason {
    match engine {
        EngineState::Down(why) => Reason::new(
            Code::EngineDown,
            0.0,
            0.0,
            format!("the container engine: {why}"),
        ),
        EngineState::Unsupported(why) => {
            Reason::new(Code::EngineUnsupported, 0.0, 0.0, why.clone())
        }
        EngineState::Unknown | EngineState::Up => Reason::new(
            Code::Starting,
            0.0,
            0.0,
            "asking the container engine what it is running",
        ),
    }
}

/// The rule that binds first, else what stopped launching, else that everything that fits is running.
pub(super) fn explain(
    tick: &Tick,
    memory: &Memory,
    rules: &Rules,
    capacity: &Capacity,
    blocked: Option<Blocked>,
) -> (State, Reason) {
    let holding = tick.own().count() + memory.unlisted(tick).count();
    let paused = tick
        .own()
        .filter(|pilot| pilot.state == PilotState::Paused)
        .count();
    let state = match () {
        () if rules.snoozed => State::Snoozed,
        () if rules.draining => State::Draining,
        () if paused > 0 && paused == tick.own().count() => State::Paused,
        () if holding == 0 => State::Waiting,
        () => State::Active,
    };
    if let Some(rule) = rules.first() {
        return (state, rule.clone());
    }
    if let Some(reason) = memory.owner_load.reason(tick, capacity, paused) {
        return (state, reason);
    }
    let reason = match blocked {
        Some(blocked) => blocked.reason(tick, memory, capacity, holding),
        None => Reason::new(Code::Starting, 0.0, 0.0, "starting pilots"),
    };
    (state, reason)
}
