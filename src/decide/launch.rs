//! Which pilots are started: classes in turn by the core-seconds they had, while the room, their limits, their image
//! and their back-off allow.

use super::classes::{ClassMemory, Image};
use super::memory::Launching;
use super::reason::{Code, Reason};
use super::rules::Rules;
use super::{Action, Memory, Pilot, PilotState, Protection, Room, Turn};
use crate::config::{Auto, Pilot as Class};
use crate::units::{Bytes, count_pilots, float};

/// What kept the next pilot from being started.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Blocked {
    NoClass,
    NoRate,
    InFlight,
    /// Paused pilots go first.
    Paused,
    /// The owner needed the room, or a rule held, less than `calm-for` ago.
    Calming,
    Probing,
    MaxPilots(u32),
    Cap(String),
    Cpu(String),
    Memory(String),
    Class(Reason),
}

/// Adds launches to the turn until something blocks; returns what did.
pub(super) fn fill(turn: &mut Turn, memory: &mut Memory, rules: &Rules, room: &Room) -> Option<Blocked> {
    if turn.config.pilots.is_empty() {
        return Some(Blocked::NoClass);
    }
    if !rules.launches {
        return None;
    }
    refresh(turn, memory);
    let mut room = room.clone();
    loop {
        match next(turn, memory, &room) {
            Ok(class) => {
                room.take(class.cpus, class.memory.0);
                launch(turn, memory, &class);
            }
            Err(blocked) => return Some(blocked),
        }
    }
}

/// The class that is most behind and may start now, or what stands in the way of the first one.
fn next(turn: &mut Turn, memory: &mut Memory, room: &Room) -> Result<Class, Blocked> {
    machine_is_open(turn, memory)?;
    let mut classes: Vec<&Class> = turn.config.pilots.iter().collect();
    let behind = |class: &Class| {
        let served = memory.classes.get(&class.name).map_or(0.0, |memory| memory.served);
        let promised: f64 = turn.own().filter(|p| p.class == class.name).map(|p| p.cpus).sum::<f64>()
            + memory.unlisted(turn).filter(|l| l.class == class.name).map(|l| l.cpus).sum::<f64>();
        (served + promised) / f64::from(class.weight)
    };
    classes.sort_by(|a, b| behind(a).total_cmp(&behind(b)));
    let mut first = None;
    for class in classes {
        match class_is_open(turn, memory, room, class) {
            Ok(()) => return Ok(class.clone()),
            Err(Blocked::Class(reason)) if reason.code == Code::Image && wants_fetch(memory, class, turn.now) => {
                let name = class.name.clone();
                memory.classes.entry(name.clone()).or_default().image = Image::Fetching;
                turn.actions.push(Action::Fetch { class: name });
                first.get_or_insert(Blocked::Class(reason));
            }
            Err(blocked) => {
                first.get_or_insert(blocked);
            }
        }
    }
    Err(first.unwrap_or(Blocked::NoClass))
}

/// Looks for newer images, one at a time, and only while nothing holds pilots back.
fn refresh(turn: &mut Turn, memory: &mut Memory) {
    if memory.ladder.in_doubt() || !memory.ladder.is_calm(turn) {
        return;
    }
    for class in turn.config.pilots.iter().filter(|class| class.is_refreshable()) {
        let first = turn.now + class.refresh_seconds() * memory.jitter();
        let busy = memory.classes.values().any(|class| class.refreshing || class.image == Image::Fetching);
        let remembered = memory.classes.entry(class.name.clone()).or_default();
        if matches!(remembered.image, Image::Missing | Image::Fetching) {
            continue;
        }
        let due = *remembered.refresh_at.get_or_insert(first);
        if turn.now >= due && !busy {
            remembered.refreshing = true;
            turn.actions.push(Action::Fetch { class: class.name.clone() });
        }
    }
}

fn wants_fetch(memory: &Memory, class: &Class, now: f64) -> bool {
    memory.classes.get(&class.name).is_some_and(|memory| memory.image == Image::Missing && memory.retry_at <= now)
}

fn machine_is_open(turn: &Turn, memory: &Memory) -> Result<(), Blocked> {
    if turn.seen.cpu.is_none() || turn.seen.memory.is_none() {
        return Err(Blocked::NoRate);
    }
    if turn.own().any(|pilot| pilot.state == PilotState::Paused) {
        return Err(Blocked::Paused);
    }
    if !memory.ladder.is_calm(turn) {
        return Err(Blocked::Calming);
    }
    if memory.ladder.in_doubt() {
        return Err(Blocked::Cpu(String::new()));
    }
    let in_flight = memory.launching.iter().filter(|launch| launch.answered.is_none()).count();
    // More starts at once than processors only slow each other down, and pilots that start together end together.
    let most = float(turn.config.loop_.launches_per_tick.into()).min(turn.seen.threads.max(1.0));
    if float(in_flight as u64) >= most {
        return Err(Blocked::InFlight);
    }
    let holding = turn.own().count() + memory.unlisted(turn).count();
    if turn.seen.protection == Protection::Prepared && holding > 0 {
        return Err(Blocked::Probing);
    }
    match turn.share.max_pilots {
        Auto::Fixed(most) if holding as u64 >= u64::from(most) => Err(Blocked::MaxPilots(most)),
        _ => Ok(()),
    }
}

fn class_is_open(turn: &Turn, memory: &Memory, room: &Room, class: &Class) -> Result<(), Blocked> {
    let refuse = |code, value, threshold, text: String| Err(Blocked::Class(Reason::new(code, value, threshold, text)));
    let name = &class.name;
    let of_class = turn.own().filter(|p| p.class == *name).count()
        + memory.unlisted(turn).filter(|launch| launch.class == *name).count();
    if class.max > 0 && of_class as u64 >= u64::from(class.max) {
        let text = format!("'{name}' has its {} (max)", count_pilots(of_class));
        return refuse(Code::ClassMax, float(of_class as u64), f64::from(class.max), text);
    }
    let unknown = ClassMemory::default();
    let remembered = memory.classes.get(name).unwrap_or(&unknown);
    if remembered.retry_at > turn.now {
        let left = remembered.retry_at - turn.now;
        let text = format!("'{name}' is tried again in {left:.0} s: {}", remembered.why);
        return refuse(remembered.held_by.unwrap_or(Code::BackOff), left, 0.0, text);
    }
    // Replacements go first, except where they may end as soon as this one: then it is read how it ended.
    if !remembered.fizzled.is_empty() {
        return Err(Blocked::InFlight);
    }
    // One probe at a time until a class has proved itself (again).
    let is_probe = |pilot: &Pilot| pilot.class == *name && remembered.is_probe(pilot);
    if remembered.is_proving() && (remembered.proves_at > turn.now || turn.own().any(is_probe)) {
        let (code, text) = match remembered.went_wrong() {
            true => (
                remembered.held_by.unwrap_or(Code::BackOff),
                format!("one pilot of '{name}' shows whether it goes better now: {}", remembered.why),
            ),
            false => (Code::Probing, format!("one pilot of '{name}' shows whether it runs before more are started")),
        };
        return refuse(code, 1.0, 1.0, text);
    }
    let proving = remembered.image == Image::Unknown || remembered.is_proving();
    if proving && memory.launching.iter().any(|launch| launch.class == *name && launch.answered.is_none()) {
        return Err(Blocked::InFlight);
    }
    match remembered.image {
        Image::Missing | Image::Fetching => {
            return refuse(Code::Image, 0.0, 0.0, format!("'{name}' waits for its image {}", class.image));
        }
        Image::Unknown | Image::Ready => {}
    }
    match () {
        () if !room.fits_cap(class.cpus) => Err(Blocked::Cap(name.clone())),
        () if !room.fits_cpu(class.cpus) => Err(Blocked::Cpu(name.clone())),
        () if !room.fits_memory(class.memory.0) => Err(Blocked::Memory(name.clone())),
        () => Ok(()),
    }
}

fn launch(turn: &mut Turn, memory: &mut Memory, class: &Class) {
    let name = format!("plancton-{}-{:06x}", class.name, memory.draw() & 0xff_ffff);
    memory.launching.push(Launching {
        name: name.clone(),
        class: class.name.clone(),
        cpus: class.cpus,
        memory: class.memory.0,
        answered: None,
    });
    turn.actions.push(Action::Launch { class: class.name.clone(), name });
}

impl Blocked {
    /// `holding`: own pilots and launches under way. Nothing running is a problem to explain; a full machine is not.
    pub(super) fn reason(self, turn: &Turn, memory: &Memory, room: &Room, holding: usize) -> Reason {
        let pilots = count_pilots(holding);
        let class = |name: &str| turn.config.pilots.iter().find(|class| class.name == name);
        match self {
            Blocked::Class(reason) => reason,
            Blocked::NoClass => Reason::new(
                Code::NoPilot,
                0.0,
                0.0,
                "no [[pilot]] is configured; `plancton config --default` shows how to add one, `plancton check` names the file",
            ),
            Blocked::NoRate if turn.own().any(|pilot| pilot.state == PilotState::Running) => Reason::new(
                Code::Starting,
                0.0,
                0.0,
                "what the owner and the pilots use can't be read; nothing is started",
            ),
            Blocked::NoRate => Reason::new(Code::Starting, 0.0, 0.0, "taking a first look at what the owner uses"),
            Blocked::Calming => {
                let left = memory.ladder.until_calm(turn);
                let text = format!("{pilots}; pilots are started after {left:.0} s more of calm");
                Reason::new(Code::Calming, left, 0.0, text)
            }
            Blocked::InFlight | Blocked::Paused => {
                let under_way = memory.unlisted(turn).count();
                let text = format!("{pilots}, {under_way} of them being started");
                Reason::new(Code::Starting, float(under_way as u64), 0.0, text)
            }
            Blocked::Probing => Reason::new(
                Code::Probing,
                0.0,
                0.0,
                "reading back from the first pilot that protection and limits hold",
            ),
            Blocked::MaxPilots(most) => {
                let text = format!("{pilots} of {most} that are allowed (max-pilots)");
                Reason::new(Code::MaxPilots, float(holding as u64), f64::from(most), text)
            }
            Blocked::Cap(name) => cpu_reason(turn, room, class(&name), holding, room.cap - room.given, 0.0),
            Blocked::Cpu(name) => {
                cpu_reason(turn, room, class(&name), holding, room.free.unwrap_or(0.0), room.launch_floor)
            }
            Blocked::Memory(name) => {
                let wanted = class(&name).map_or(0, |class| class.memory.0);
                let free = room.free_memory.unwrap_or(0.0);
                let left = Bytes(crate::units::whole(free));
                let reserve = turn.share.reserve_memory;
                let text = format!(
                    "{pilots}; {left} of memory may still be given (with {reserve} reserved), the next '{name}' takes {}",
                    Bytes(wanted)
                );
                Reason::new(if holding == 0 { Code::NothingFits } else { Code::Full }, free, float(wanted), text)
            }
        }
    }
}

fn cpu_reason(turn: &Turn, room: &Room, class: Option<&Class>, holding: usize, free: f64, floor: f64) -> Reason {
    let foreign = turn.seen.cpu.map_or(0.0, |cpu| cpu.foreign.max(cpu.foreign_smooth));
    let text = format!(
        "{}; of {:.0} cores {foreign:.1} are the owner's, {:.1} reserved and {:.1} promised to pilots, the next one takes {:.1}",
        count_pilots(holding),
        room.cores,
        room.reserve,
        room.given,
        class.map_or(0.0, |class| class.cpus),
    );
    let code = if holding == 0 { Code::NothingFits } else { Code::Full };
    Reason::new(code, free, class.map_or(0.0, |class| class.cpus) + floor, text)
}
