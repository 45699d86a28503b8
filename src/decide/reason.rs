//! Why this and not something else: one code with the value and the threshold that explain the decision in force, and
//! one sentence. All the sentences of decisions stand here, so that they can be read and reworded together.

use super::observation::{Capacity, EndKind, Ended, EngineState, Observation, Protection};
use crate::config::PilotClass;
use crate::units::{Bytes, clean_line, count_pilots, float, format_rough, whole};
use serde::{Deserialize, Serialize};
use std::time::Duration;

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

    /// Where there is nothing to measure.
    fn plain(code: Code, text: impl Into<String>) -> Reason {
        Reason::new(code, 0.0, 0.0, text)
    }
}

/// Without a list.
pub(super) fn of_engine(engine: &EngineState) -> Reason {
    let (code, text) = match engine {
        EngineState::Down(why) => (Code::EngineDown, format!("the container engine: {why}")),
        EngineState::Unsupported(why) => (Code::EngineUnsupported, why.clone()),
        EngineState::Unknown | EngineState::Up => {
            let text = "asking the container engine what it is running";
            (Code::Starting, text.to_owned())
        }
    };
    Reason::plain(code, text)
}

pub(super) fn force_stop() -> Reason {
    Reason::plain(Code::ForceStop, "force-stop: removing every pilot")
}

/// `left`: seconds until what still runs is stopped; `None`: it may finish.
pub(super) fn drain(left: Option<f64>, running: usize) -> Reason {
    let pilots = count_pilots(running);
    let text = match left {
        Some(left) if left > 0.0 => {
            let left = rough(left);
            format!("{left} more for {pilots} to finish, then they are stopped")
        }
        Some(_) => format!("the time is over, stopping {pilots}"),
        None => format!("nothing is started, {pilots} may finish"),
    };
    Reason::new(Code::Drain, float(running as u64), 0.0, text)
}

pub(super) fn snooze(left: f64) -> Reason {
    let text = format!("pilots are paused for {} more", rough(left));
    Reason::new(Code::Snooze, left, 0.0, text)
}

pub(super) fn hold(file: &str) -> Reason {
    Reason::plain(Code::Hold, format!("held back by {file}"))
}

pub(super) fn program(name: &str) -> Reason {
    let text = format!("'{name}' is running and is to have the machine alone");
    Reason::plain(Code::Program, text)
}

/// Percent.
pub(super) fn battery(charge: Option<f64>, limit: f64) -> Reason {
    let charged = charge.map_or(String::new(), |charge| {
        format!(", at {charge:.0} % (min-battery {limit:.0} %)")
    });
    let text = format!("the machine runs on its battery{charged}");
    Reason::new(Code::Battery, charge.unwrap_or(0.0), limit, text)
}

/// Seconds for which the use of pilots could not be read, and for which that is borne.
pub(super) fn unread(seconds: f64, limit: f64) -> Reason {
    let text = format!(
        "how much CPU the pilots use can't be read (for {seconds:.0} s), so they are paused"
    );
    Reason::new(Code::Busy, seconds, limit, text)
}

/// What `void` rules say.
pub(super) fn no_sensor(limit: u32) -> String {
    format!(
        "max-temperature = {limit}: no sensor of the processor can be read, so heat does not hold pilots back"
    )
}

pub(super) fn no_charge(limit: u32) -> String {
    format!("min-battery = {limit}: the charge can't be read, so pilots are paused on battery")
}

pub(super) fn no_disk(reserve: Bytes) -> String {
    format!("reserve-disk = {reserve}: the engine's disk can't be seen, so nothing is started")
}

/// °C, and the pilots that may run.
pub(super) fn temperature(value: f64, limit: f64, keep: usize) -> Reason {
    let pilots = count_pilots(keep);
    let text =
        format!("the processor is at {value:.0} °C, the limit is {limit:.0} °C; {pilots} may run");
    Reason::new(Code::Temperature, value, limit, text)
}

/// `hours`: the `[[when]]` that says so.
pub(super) fn max_pilots(running: usize, most: u32, hours: Option<String>) -> Reason {
    let pilots = count_pilots(running);
    let (code, by) = match hours {
        Some(hours) => (Code::Hours, format!("at these hours ({hours})")),
        None => (Code::MaxPilots, "(max-pilots)".to_owned()),
    };
    let text = format!("{pilots} of {most} that are allowed {by}");
    Reason::new(code, float(running as u64), most.into(), text)
}

/// `None`: it can't be seen.
pub(super) fn disk(free: Option<u64>, reserve: Bytes) -> Reason {
    let text = free.map_or(no_disk(reserve), |free| {
        let free = Bytes(free);
        format!("{free} are free on the engine's disk, {reserve} are reserved")
    });
    Reason::new(Code::Disk, float(free.unwrap_or(0)), float(reserve.0), text)
}

pub(super) fn memory(available: u64, reserve: Bytes) -> Reason {
    let text = format!(
        "{} of memory are available, half of the reserve of {reserve} is the least",
        Bytes(available)
    );
    Reason::new(Code::Memory, float(available), float(reserve.0 / 2), text)
}

/// Percent of time.
pub(super) fn memory_pressure(pressure: f64, limit: f64) -> Reason {
    let text = format!("memory is short: somebody waited for it {pressure:.0} % of the time");
    Reason::new(Code::MemoryPressure, pressure, limit, text)
}

fn owner_use(seen: &Observation, room: &Capacity) -> String {
    let foreign = seen.cpu.map_or(0.0, |cpu| cpu.foreign);
    let (cores, given) = (seen.cores, room.given);
    format!("the owner uses {foreign:.1} of {cores:.0} cores, pilots were promised {given:.1}")
}

pub(super) fn busy(seen: &Observation, room: &Capacity) -> Reason {
    let what = match room.need_unknown {
        true => "all cores are busy and pilots are not protected, so they give way one by one",
        false => "nothing is started",
    };
    let text = format!("{}; {what}", owner_use(seen, room));
    let free = room.free_now.unwrap_or(0.0);
    Reason::new(Code::Busy, free, room.give_floor, text)
}

/// Pilots stay paused for `left` seconds more.
pub(super) fn calming(seen: &Observation, room: &Capacity, left: f64) -> Reason {
    let numbers = owner_use(seen, room);
    let text = format!("{numbers}; paused pilots go on after {left:.0} s more of calm");
    Reason::new(Code::Calming, left, 0.0, text)
}

/// What pilots need to go on is not free: `least` cores.
pub(super) fn tight(seen: &Observation, room: &Capacity, least: f64) -> Reason {
    let (numbers, free) = (owner_use(seen, room), room.free_now.unwrap_or(0.0));
    let text = format!("{numbers}; pilots go on once {least:.1} cores are free, now {free:.1} are");
    Reason::new(Code::Busy, free, least, text)
}

/// Nothing is started for `left` seconds more.
pub(super) fn calming_to_launch(holding: usize, left: f64) -> Reason {
    let pilots = count_pilots(holding);
    let text = format!("{pilots}; pilots are started after {left:.0} s more of calm");
    Reason::new(Code::Calming, left, 0.0, text)
}

pub(super) fn no_pilot() -> Reason {
    let text = "no [[pilot]] is configured; `plancton config --default` shows how to add one, \
                `plancton check` names the file";
    Reason::plain(Code::NoPilot, text)
}

/// What is used is not known.
pub(super) fn no_rate(running: usize) -> Reason {
    let text = match running {
        0 => "taking a first look at what the owner uses",
        _ => "taking a first look at what the owner and the pilots use",
    };
    Reason::plain(Code::Starting, text)
}

/// `holding`: with those that are being started.
pub(super) fn starting(holding: usize, under_way: usize) -> Reason {
    let pilots = count_pilots(holding);
    let text = format!("{pilots}, {under_way} of them being started");
    Reason::new(Code::Starting, float(under_way as u64), 0.0, text)
}

pub(super) fn probing_protection() -> Reason {
    let text = "reading back from the first pilot that protection and limits hold";
    Reason::plain(Code::Probing, text)
}

pub(super) fn probing(class: &str) -> Reason {
    let text = format!("one pilot of '{class}' shows whether it runs before more are started");
    Reason::new(Code::Probing, 1.0, 1.0, text)
}

/// One pilot is tried after a wait for `code`.
pub(super) fn probing_again(class: &str, code: Code, why: &str) -> Reason {
    let text = format!("one pilot of '{class}' shows whether it goes better now: {why}");
    Reason::new(code, 1.0, 1.0, text)
}

pub(super) fn back_off(class: &str, code: Code, left: f64, why: &str) -> Reason {
    let text = format!("'{class}' is tried again in {left:.0} s: {why}");
    Reason::new(code, left, 0.0, text)
}

pub(super) fn class_max(class: &PilotClass, running: usize) -> Reason {
    let text = format!("'{}' has its {} (max)", class.name, count_pilots(running));
    Reason::new(
        Code::ClassMax,
        float(running as u64),
        class.max.into(),
        text,
    )
}

pub(super) fn image(class: &PilotClass) -> Reason {
    let text = format!("'{}' waits for its image {}", class.name, class.image);
    Reason::plain(Code::Image, text)
}

/// Nothing running is a problem to explain; a full machine is not.
fn full_code(holding: usize) -> Code {
    match holding {
        0 => Code::NothingFits,
        _ => Code::Full,
    }
}

/// The next pilot takes `next` cores; `free` of them and the least that is enough.
pub(super) fn full(
    seen: &Observation,
    room: &Capacity,
    holding: usize,
    next: f64,
    (free, least): (f64, f64),
) -> Reason {
    let foreign = seen
        .cpu
        .map_or(0.0, |cpu| cpu.foreign.max(cpu.foreign_smooth));
    let text = format!(
        "{}; of {:.0} cores {foreign:.1} are the owner's, {:.1} reserved and {:.1} promised to pilots, \
         the next one takes {next:.1}",
        count_pilots(holding),
        seen.cores,
        room.reserve,
        room.given,
    );
    // That is what keeps a small machine from running anything.
    let text = match &seen.protection {
        Protection::None(why) if holding == 0 && room.reserve > 0.0 => {
            format!("{text}; cores are reserved because pilots are not protected: {why}")
        }
        _ => text,
    };
    Reason::new(full_code(holding), free, least, text)
}

pub(super) fn full_of_memory(
    free: f64,
    reserve: Bytes,
    holding: usize,
    class: &PilotClass,
) -> Reason {
    let (name, wanted) = (&class.name, class.memory);
    let (pilots, left) = (count_pilots(holding), Bytes(whole(free)));
    let text = format!(
        "{pilots}; {left} of memory may still be given (with {reserve} reserved), the next '{name}' takes {wanted}"
    );
    Reason::new(full_code(holding), free, float(wanted.0), text)
}

/// What became of a class: the `why` of a wait for it.
pub(super) fn image_gone(class: &PilotClass) -> String {
    format!("{} was here, and the engine does not find it", class.image)
}

pub(super) fn mount_missing(source: &str) -> String {
    format!("{source} is not on this machine; create or mount it, or change `mounts`")
}

pub(super) fn pilot_failed(kind: EndKind, ended: &Ended) -> String {
    let (code, error) = (ended.exit_code, &ended.error);
    let how = match kind {
        EndKind::OutOfMemory => "it reached its memory limit".to_owned(),
        EndKind::NeverRan if error.is_empty() => "it was never started".to_owned(),
        EndKind::NeverRan => error.clone(),
        _ if !error.is_empty() => format!("exit code {code} ({error})"),
        // The container's init or shell says which command that is.
        _ if [126, 127].contains(&code) => {
            let mut lines = ended.log_tail.lines().rev();
            let words = lines.find(|line| !line.trim().is_empty()).unwrap_or("");
            let words = clean_line(words, 200);
            format!("exit code {code}, its command can't be executed: {words}")
        }
        _ => format!("exit code {code}"),
    };
    let lived = ended.lived.unwrap_or(0.0);
    format!("a pilot ended after {lived:.0} s: {how}")
}

pub(super) fn no_work(ended: &Ended) -> String {
    let (code, lived) = (ended.exit_code, ended.lived.unwrap_or(0.0));
    format!("there was no work (exit code {code} after {lived:.0} s)")
}

fn rough(seconds: f64) -> String {
    format_rough(Duration::from_secs_f64(seconds.clamp(0.0, 1e9).ceil()))
}
