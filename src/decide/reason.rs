//! Why this and not something else: one code with the value and the threshold that explain the decision in force, and
//! one sentence. All the sentences of decisions stand here, so that they can be read and reworded together.

use super::Tick;
use super::observation::{
    CpuUse, EndKind, Ended, EngineState, Observation, PilotState, Protection,
};
use super::state::Wait;
use crate::config::{OnBattery, Owner, PilotClass};
use crate::units::{Bytes, clean_line, count_pilots, float, format_rough, whole};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
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
    /// `what`: who or what it is about, where the numbers do not say it; of a code that has several sentences, the one.
    pub fn of(code: Code, value: f64, threshold: f64, what: impl Display) -> Reason {
        let pilots = count_pilots(usize::try_from(whole(value)).unwrap_or(0));
        let text = match code {
            Code::EngineDown => format!("the container engine: {what}"),
            Code::ForceStop => "force-stop: removing every pilot".to_owned(),
            Code::Snooze => format!("pilots are paused for {} more", rough(value)),
            Code::Hold => format!("held back by {what}"),
            Code::Program => format!("'{what}' is running and is to have the machine alone"),
            Code::Temperature => format!(
                "the processor is at {value:.0} °C, the limit is {threshold:.0} °C; {what} may run"
            ),
            Code::MaxPilots => format!("{pilots} of {threshold:.0} that are allowed (max-pilots)"),
            Code::Hours => {
                format!("{pilots} of {threshold:.0} that are allowed at these hours ({what})")
            }
            Code::MemoryPressure => {
                format!("memory is short: somebody waited for it {value:.0} % of the time")
            }
            Code::NoPilot => NO_PILOT.to_owned(),
            Code::Image => format!("waiting for the image {what}"),
            Code::ClassMax => format!("'{what}' has its {pilots} (max)"),
            _ => what.to_string(),
        };
        Reason {
            code,
            value,
            threshold,
            since: 0.0,
            text,
        }
    }
}

const NO_PILOT: &str = "no [[pilot]] is configured; `plancton config --default` shows how to add \
                        one, `plancton check` names the file";
pub(super) const FIRST_LOOK: &str = "taking a first look at what the owner and the pilots use";
pub(super) const PROBING: &str =
    "reading back from the first pilot that protection and limits hold";
/// Why a class waits.
pub(super) const IMAGE_GONE: &str = "its image was here, and the engine does not find it";

/// Without a list.
pub(super) fn of_engine(engine: &EngineState) -> Reason {
    let asking = "asking the container engine what it is running";
    match engine {
        EngineState::Down(why) => Reason::of(Code::EngineDown, 0.0, 0.0, why),
        EngineState::Unsupported(why) => Reason::of(Code::EngineUnsupported, 0.0, 0.0, why),
        EngineState::Unknown | EngineState::Up => Reason::of(Code::Starting, 0.0, 0.0, asking),
    }
}

/// `left`: seconds until what still runs is stopped; `None`: it may finish.
pub(super) fn drain(left: Option<f64>, running: usize) -> Reason {
    let (pilots, time) = (count_pilots(running), rough(left.unwrap_or(0.0)));
    let text = match left {
        Some(left) if left > 0.0 => {
            format!("{time} more for {pilots} to finish, then they are stopped")
        }
        Some(_) => format!("the time is over, stopping {pilots}"),
        None => format!("nothing is started, {pilots} may finish"),
    };
    Reason::of(Code::Drain, float(running as u64), 0.0, text)
}

/// Percent.
pub(super) fn battery(charge: Option<f64>, limit: f64) -> Reason {
    let mut text = "the machine runs on its battery".to_owned();
    if let Some(charge) = charge {
        text += &format!(", at {charge:.0} % (min-battery {limit:.0} %)");
    }
    Reason::of(Code::Battery, charge.unwrap_or(0.0), limit, text)
}

/// Seconds for which the use of pilots could not be read, and for which that is borne.
pub(super) fn unread(seconds: f64, limit: f64) -> Reason {
    let text = format!(
        "how much CPU the pilots use can't be read (for {seconds:.0} s), so they are paused"
    );
    Reason::of(Code::Busy, seconds, limit, text)
}

fn no_disk(reserve: Bytes) -> String {
    format!("reserve-disk = {reserve}: the engine's disk can't be seen, so nothing is started")
}

/// `None`: it can't be seen.
pub(super) fn disk(free: Option<u64>, reserve: Bytes) -> Reason {
    let text = free.map_or(no_disk(reserve), |free| {
        let free = Bytes(free);
        format!("{free} are free on the engine's disk, {reserve} are reserved")
    });
    Reason::of(Code::Disk, float(free.unwrap_or(0)), float(reserve.0), text)
}

pub(super) fn memory(available: u64, reserve: Bytes) -> Reason {
    let (bytes, least) = (Bytes(available), "half of the reserve of");
    let text = format!("{bytes} of memory are available, {least} {reserve} is the least");
    Reason::of(Code::Memory, float(available), float(reserve.0 / 2), text)
}

/// The owner's rules that can't be kept, because what they go by is not known.
pub(super) fn void(seen: &Observation, owner: &Owner, disk: Bytes) -> Vec<String> {
    let (heat, charge) = (owner.max_temperature, owner.min_battery);
    // The usual limit is nobody's wish on a machine without a sensor, such as a virtual one.
    let is_limited = heat > 0 && heat != Owner::default().max_temperature;
    let is_watched = owner.on_battery == OnBattery::Run && charge > 0 && seen.has_battery;
    let mut void = Vec::new();
    if is_limited && seen.temperature.is_none() {
        let what = "no sensor of the processor can be read, so heat does not hold pilots back";
        void.push(format!("max-temperature = {heat}: {what}"));
    }
    if is_watched && seen.charge.is_none() {
        let what = "the charge can't be read, so pilots are paused on battery";
        void.push(format!("min-battery = {charge}: {what}"));
    }
    if disk.0 > 0 && seen.disk_free.is_none() {
        void.push(no_disk(disk));
    }
    if seen.hides_programs && !owner.pause_while_running.is_empty() {
        let why = "other users' programs can't be seen here (hidepid), so they hold nothing back";
        void.push(format!("pause-while-running: {why}"));
    }
    void
}

pub(super) fn probing(class: &str) -> Reason {
    let text = format!("one pilot of '{class}' shows whether it runs before more are started");
    Reason::of(Code::Probing, 1.0, 1.0, text)
}

/// `left`: seconds until a pilot is tried; `None`: one is being tried.
pub(super) fn waiting(class: &str, wait: &Wait, left: Option<f64>) -> Reason {
    let (why, numbers) = (&wait.why, left.map_or((1.0, 1.0), |left| (left, 0.0)));
    let text = match left {
        Some(left) => format!("'{class}' is tried again in {left:.0} s: {why}"),
        None => format!("one pilot of '{class}' shows whether it goes better now: {why}"),
    };
    Reason::of(wait.code, numbers.0, numbers.1, text)
}

impl Tick<'_> {
    fn owner_use(&self) -> String {
        let foreign = self.seen.cpu.map_or(0.0, |cpu| cpu.foreign);
        let (cores, given) = (self.seen.cores, self.out.capacity.given);
        format!("the owner uses {foreign:.1} of {cores:.0} cores, pilots were promised {given:.1}")
    }

    pub(super) fn busy(&self) -> Reason {
        let (numbers, room) = (self.owner_use(), &self.out.capacity);
        let what = match room.need_unknown {
            true => "all cores are busy and pilots are not protected, so they give way one by one",
            false => "nothing is started",
        };
        let (text, free) = (format!("{numbers}; {what}"), room.free_now.unwrap_or(0.0));
        Reason::of(Code::Busy, free, room.give_floor, text)
    }

    /// What pilots need to go on is not free: `least` cores.
    pub(super) fn tight(&self, least: f64) -> Reason {
        let (numbers, free) = (self.owner_use(), self.out.capacity.free_now.unwrap_or(0.0));
        let text =
            format!("{numbers}; pilots go on once {least:.1} cores are free, now {free:.1} are");
        Reason::of(Code::Busy, free, least, text)
    }

    /// For `left` seconds more.
    pub(super) fn calming(&self, left: f64) -> Reason {
        let (numbers, what) = match self.own_in(PilotState::Paused).len() {
            0 => (count_pilots(self.holding()), "pilots are started"),
            _ => (self.owner_use(), "paused pilots go on"),
        };
        let text = format!("{numbers}; {what} after {left:.0} s more of calm");
        Reason::of(Code::Calming, left, 0.0, text)
    }

    pub(super) fn starting(&self) -> Reason {
        let (pilots, under_way) = (count_pilots(self.holding()), self.unlisted().len());
        let text = format!("{pilots}, {under_way} of them being started");
        Reason::of(Code::Starting, float(under_way as u64), 0.0, text)
    }

    /// `free`, and the `least` that is enough for the next pilot. Nothing running is a problem to explain; a full machine is
    /// not.
    fn full(&self, free: f64, least: f64, text: &str) -> Reason {
        let pilots = count_pilots(self.holding());
        let code = match self.holding() {
            0 => Code::NothingFits,
            _ => Code::Full,
        };
        Reason::of(code, free, least, format!("{pilots}; {text}"))
    }

    /// The next pilot takes `next` cores.
    pub(super) fn full_of_cores(&self, next: f64, free: f64, least: f64) -> Reason {
        let (seen, room) = (self.seen, &self.out.capacity);
        let (cores, reserve, given) = (seen.cores, room.reserve, room.given);
        let foreign = |cpu: CpuUse| cpu.foreign.max(cpu.foreign_smooth);
        let foreign = seen.cpu.map_or(0.0, foreign);
        let text = format!(
            "of {cores:.0} cores {foreign:.1} are the owner's, {reserve:.1} reserved and {given:.1} promised to pilots, \
             the next one takes {next:.1}"
        );
        match &seen.protection {
            // That is what keeps a small machine from running anything.
            Protection::None(why) if self.holding() == 0 && reserve > 0.0 => {
                let because = "cores are reserved because pilots are not protected";
                self.full(free, least, &format!("{text}; {because}: {why}"))
            }
            _ => self.full(free, least, &text),
        }
    }

    pub(super) fn full_of_memory(&self, free: f64, class: &PilotClass) -> Reason {
        let (left, reserve) = (Bytes(whole(free)), self.share.reserve_memory);
        let (name, wanted) = (&class.name, class.memory);
        let text = format!(
            "{left} of memory may still be given (with {reserve} reserved), the next '{name}' takes {wanted}"
        );
        self.full(free, float(wanted.0), &text)
    }
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
            let words = ended.log_tail.trim_end().lines().next_back();
            let words = clean_line(words.unwrap_or_default(), 200);
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
