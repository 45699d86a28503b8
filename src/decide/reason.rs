//! Why this and not something else: one code with the value and the threshold that explain the decision in force, and
//! one sentence. All the sentences of decisions stand here, so that they can be read and reworded together.

use super::{state::Wait, *};
use crate::{config::OnBattery, units::*};
use serde::{Deserialize, Serialize};
use std::fmt::Display;

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
        let pilots = count_pilots(usize::try_from(whole(threshold)).unwrap_or(0));
        let text = match code {
            Code::EngineDown => format!("the container engine is not available: {what}"),
            Code::ForceStop => "removing every pilot now (force-stop)".to_owned(),
            Code::Snooze => format!("paused at your request for another {}", rough(value)),
            Code::Hold => format!("on hold: {what}"),
            Code::Program => format!("'{what}' is running (pause-while-running)"),
            Code::MaxPilots | Code::Hours if threshold < 1.0 => format!("no pilots run {what}"),
            Code::MaxPilots | Code::Hours => format!("limited to {pilots} {what}"),
            Code::MemoryPressure => format!("programs wait for memory {value:.0} % of the time"),
            Code::Image => format!("downloading the image {what}"),
            Code::ClassMax => format!("limited to {pilots} of '{what}' (max)"),
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

pub(super) const NO_PILOT: &str = "no [[pilot]] is configured; `plancton config --default` shows how to add \
                        one, and `plancton check` names the file";
pub(super) const FIRST_LOOK: &str = "measuring how busy the machine is before starting pilots";
pub(super) const PROBING: &str = "checking that limits and protection work on the first pilot";
pub(super) const MAX_PILOTS: &str = "(max-pilots)";
/// Why a class waits.
pub(super) const IMAGE_GONE: &str = "its image has been removed from the engine";

/// Without a list.
pub(super) fn of_engine(engine: &EngineState) -> Reason {
    let asking = "asking the container engine which pilots are running";
    match engine {
        EngineState::Down(why) => Reason::of(Code::EngineDown, 0.0, 0.0, why),
        EngineState::Unsupported(why) => Reason::of(Code::EngineUnsupported, 0.0, 0.0, why),
        EngineState::Unknown | EngineState::Up => Reason::of(Code::Starting, 0.0, 0.0, asking),
    }
}

/// `left`: seconds until what still runs is stopped; `None`: it may finish.
pub(super) fn drain(left: Option<f64>, running: usize) -> Reason {
    let (pilots, time) = (count_pilots(running), rough(left.unwrap_or(0.0)));
    let none = "no new pilots are started";
    let text = match left {
        _ if running == 0 => none.to_owned(),
        None => format!("{none}; {pilots} may finish"),
        Some(left) if left > 0.0 => format!("{none}; {pilots} may run for another {time}"),
        Some(_) => format!("{none}; the time to finish is over, stopping {pilots}"),
    };
    Reason::of(Code::Drain, float(running as u64), 0.0, text)
}

/// Percent.
pub(super) fn battery(charge: Option<f64>, owner: &Owner) -> Reason {
    let (mut text, limit) = ("the machine runs on battery".to_owned(), owner.min_battery);
    if let Some(charge) = charge {
        text += &format!(" at {charge:.0} %");
    }
    if owner.on_battery == OnBattery::Run {
        text += &format!(" (min-battery {limit} %)");
    }
    Reason::of(Code::Battery, charge.unwrap_or(0.0), limit.into(), text)
}

/// Degrees Celsius; `None`: it can't be seen.
pub(super) fn temperature(now: Option<f64>, limit: f64, keep: usize) -> Reason {
    let pilots = count_pilots(keep);
    let text = match now {
        Some(now) => format!(
            "the processor is at {now:.0} °C and the limit is {limit:.0} °C: at most {pilots} may run"
        ),
        None => format!(
            "no pilots run: the processor has no sensor for max-temperature = {limit:.0}; load its driver, or set 0"
        ),
    };
    Reason::of(Code::Temperature, now.unwrap_or(0.0), limit, text)
}

/// The usual limit is nobody's wish on a machine without a sensor, such as a virtual one.
pub(super) fn needs_sensor(owner: &Owner) -> bool {
    ![0, Owner::default().max_temperature].contains(&owner.max_temperature)
}

pub(super) const UNREAD: &str = "pilots are paused: their CPU use could not be read";

/// Seconds for which the use of pilots could not be read, and for which that is borne.
pub(super) fn unread(seconds: f64, limit: f64) -> Reason {
    let text = format!("{UNREAD} for {seconds:.0} s");
    Reason::of(Code::Busy, seconds, limit, text)
}

/// `None`: it can't be seen.
pub(super) fn disk(free: Option<u64>, reserve: Bytes) -> Reason {
    let text = match free.map(Bytes) {
        Some(free) => format!("only {free} is left on the engine's disk (reserve-disk {reserve})"),
        None => format!(
            "no pilots are started: the free space on the engine's disk can't be read (reserve-disk {reserve})"
        ),
    };
    Reason::of(Code::Disk, float(free.unwrap_or(0)), float(reserve.0), text)
}

pub(super) fn memory(available: u64, reserve: Bytes) -> Reason {
    let bytes = Bytes(available);
    let text = format!("only {bytes} of memory is left (reserve-memory {reserve})");
    Reason::of(Code::Memory, float(available), float(reserve.0 / 2), text)
}

/// The owner's rules that can't be kept, because what they go by is not known.
pub(super) fn void(seen: &Observation, owner: &Owner, disk: Bytes) -> Vec<String> {
    let (limit, charge) = (owner.max_temperature.into(), owner.min_battery);
    let is_limited = needs_sensor(owner) && seen.temperature.is_none();
    let is_watched = owner.on_battery == OnBattery::Run && charge > 0 && seen.has_battery;
    let is_hidden = seen.hides_programs && !owner.pause_while_running.is_empty();
    let no_charge =
        "the battery's charge can't be read, so pilots are paused on battery; with 0 they are not";
    let no_program = "can't be seen here (hidepid), so pilots are not paused for them; run as root";
    let no_charge = format!("min-battery = {charge}: {no_charge}");
    let no_program = format!("pause-while-running: other users' programs {no_program}");
    let void = [
        is_limited.then(|| temperature(None, limit, 0).text),
        (is_watched && seen.charge.is_none()).then_some(no_charge),
        (disk.0 > 0 && seen.disk_free.is_none()).then(|| self::disk(None, disk).text),
        is_hidden.then_some(no_program),
    ];
    void.into_iter().flatten().collect()
}

pub(super) fn probing(class: &str) -> Reason {
    let text = format!("starting with one pilot of '{class}' to see whether it works");
    Reason::of(Code::Probing, 1.0, 1.0, text)
}

/// `left`: seconds until a pilot is tried; `None`: one is being tried.
pub(super) fn waiting(class: &str, wait: &Wait, left: Option<f64>) -> Reason {
    let (value, limit) = left.map_or((1.0, 1.0), |left| (left, 0.0));
    let how = match left {
        Some(left) => format!("trying '{class}' again in {}", rough(left)),
        None => format!("retrying '{class}' with one pilot"),
    };
    Reason::of(wait.code, value, limit, format!("{how}: {}", wait.why))
}

impl Tick<'_> {
    fn owner_use(&self) -> String {
        let foreign = self.seen.cpu.map_or(0.0, |cpu| cpu.foreign);
        format!("you are using {foreign:.1} of {:.0} cores", self.seen.cores)
    }

    pub(super) fn busy(&self) -> Reason {
        let (room, time) = (&self.out.capacity, rough(self.owner.calm_for.as_secs_f64()));
        let numbers = self.owner_use();
        let text = match room.need_unknown {
            true => "all cores are busy, so unprotected pilots give way one by one".to_owned(),
            false => format!("{numbers}; pilots start once you have been idle for {time}"),
        };
        let free = room.free_now.unwrap_or(0.0);
        Reason::of(Code::Busy, free, room.give_floor, text)
    }

    /// What pilots need to go on is not free: `least` cores.
    pub(super) fn tight(&self, least: f64) -> Reason {
        let (numbers, free) = (self.owner_use(), self.out.capacity.free_now.unwrap_or(0.0));
        let text = format!("{numbers}, which leaves too little for the next pilot");
        Reason::of(Code::Busy, free, least, text)
    }

    /// For `left` seconds more.
    pub(super) fn calming(&self, left: f64) -> Reason {
        let what = match self.own_in(PilotState::Paused).len() {
            0 => "starting pilots (calm-for)",
            _ => "resuming pilots (calm-for)",
        };
        let text = format!("waiting another {} before {what}", rough(left));
        Reason::of(Code::Calming, left, 0.0, text)
    }

    pub(super) fn starting(&self) -> Reason {
        let under_way = self.unlisted().len();
        let text = match (under_way, self.own_in(PilotState::Paused).len()) {
            (0, 0) => "waiting for the container engine".to_owned(),
            (0, _) => "resuming paused pilots".to_owned(),
            _ => format!("starting {}", count_pilots(under_way)),
        };
        Reason::of(Code::Starting, float(under_way as u64), 0.0, text)
    }

    /// `free`, and the `least` that is enough for the next pilot. Nothing running is a problem to explain; a full machine is
    /// not.
    fn full(&self, free: f64, least: f64, text: &str) -> Reason {
        let (code, what) = match self.holding() {
            0 => (Code::NothingFits, "no pilot fits".to_owned()),
            n => (Code::Full, format!("running as many pilots as fit ({n})")),
        };
        Reason::of(code, free, least, format!("{what}: {text}"))
    }

    /// The next pilot takes `next` cores.
    pub(super) fn full_of_share(&self, next: f64, left: f64) -> Reason {
        let room = &self.out.capacity;
        let [size, cap, given] = [next, room.cap, room.given].map(number);
        let text = format!("pilots have {given} of {cap} cores (cpus), the next one needs {size}");
        self.full(left, next, &text)
    }

    pub(super) fn full_of_cores(&self, next: f64, free: f64, least: f64) -> Reason {
        let (seen, room) = (self.seen, &self.out.capacity);
        let foreign = |cpu: CpuUse| cpu.foreign.max(cpu.foreign_smooth);
        let used = [next, seen.cores, seen.cpu.map_or(0.0, foreign), room.given];
        let [next, cores, foreign, given] = used.map(number);
        let mut text = format!(
            "the next one needs {next}; of {cores} cores you use {foreign}, pilots have {given}"
        );
        if room.reserve > 0.0 {
            text += &format!(", {} is kept free", number(room.reserve));
        }
        // That is what keeps a small machine from running anything.
        let is_kept = room.reserve > 0.0 && self.holding() == 0;
        if is_kept && let Protection::None(why) = &seen.protection {
            text += &format!(" because pilots can't be kept out of your way: {why}");
        }
        self.full(free, least, &text)
    }

    pub(super) fn full_of_memory(&self, free: f64, class: &PilotClass) -> Reason {
        let (left, reserve) = (Bytes(whole(free)), self.share.reserve_memory);
        let (name, wanted) = (&class.name, class.memory);
        let text = format!(
            "'{name}' needs {wanted} of memory; {left} is left beside the {reserve} kept free (reserve-memory)"
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
        EndKind::OutOfMemory => "at its memory limit".to_owned(),
        EndKind::NeverRan if error.is_empty() => return "a pilot was never started".to_owned(),
        EndKind::NeverRan => return format!("a pilot could not be started: {error}"),
        _ if !error.is_empty() => format!("with exit code {code} ({error})"),
        // The container's init or shell says which command that is.
        _ if [126, 127].contains(&code) => {
            let words = ended.log_tail.trim_end().lines().next_back();
            let words = clean_line(words.unwrap_or_default(), 200);
            format!("with exit code {code}, its command could not be run: {words}")
        }
        _ => format!("with exit code {code}"),
    };
    let lived = ended.lived.unwrap_or(0.0);
    format!("a pilot ended after {lived:.0} s {how}")
}

pub(super) fn no_work(ended: &Ended) -> String {
    let (code, lived) = (ended.exit_code, ended.lived.unwrap_or(0.0));
    format!("there was no work (exit code {code} after {lived:.0} s)")
}
