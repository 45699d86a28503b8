//! Which pilots are started: classes in tick by the core-seconds they had, while the capacity, their limits, their image
//! and their back-off allow.

use super::classes::{ClassMemory, Image};
use super::memory::Launching;
use super::reason::{Code, Reason};
use super::rules::Rules;
use super::{Action, Capacity, Memory, Pilot, PilotState, Protection, Tick};
use crate::config::{Auto, PilotClass};
use crate::units::{Bytes, count_pilots, float};

/// What kept the next pilot from being started.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Blocked {
    NoClass,
    NoRate,
    InFlight,
    /// Paused pilots go first.
    Paused,
    /// The owner needed the capacity, or a rule held, less than `calm-for` ago.
    Calming,
    Probing,
    MaxPilots(u32),
    Cap(String),
    Cpu(String),
    Memory(String),
    PilotClass(Reason),
}

/// Adds launches to the tick until something blocks; returns what did.
pub(super) fn fill(
    tick: &mut Tick,
    memory: &mut Memory,
    rules: &Rules,
    capacity: &Capacity,
) -> Option<Blocked> {
    if tick.config.pilots.is_empty() {
        return Some(Blocked::NoClass);
    }
    if !rules.launches {
        return None;
    }
    refresh(tick, memory);
    let mut capacity = capacity.clone();
    loop {
        match next(tick, memory, &capacity) {
            Ok(class) => {
                capacity.take(class.cpus, class.memory.0);
                launch(tick, memory, &class);
            }
            Err(blocked) => return Some(blocked),
        }
    }
}

/// The class that is most behind and may start now, or what stands in the way of the first one.
fn next(tick: &mut Tick, memory: &mut Memory, capacity: &Capacity) -> Result<PilotClass, Blocked> {
    machine_is_open(tick, memory)?;
    let mut classes: Vec<&PilotClass> = tick.config.pilots.iter().collect();
    let behind = |class: &PilotClass| {
        let served = memory
            .classes
            .get(&class.name)
            .map_or(0.0, |memory| memory.served);
        let promised: f64 = tick
            .own()
            .filter(|p| p.class == class.name)
            .map(|p| p.cpus)
            .sum::<f64>()
            + memory
                .unlisted(tick)
                .filter(|l| l.class == class.name)
                .map(|l| l.cpus)
                .sum::<f64>();
        (served + promised) / f64::from(class.weight)
    };
    classes.sort_by(|a, b| behind(a).total_cmp(&behind(b)));
    let mut first = None;
    for class in classes {
        match class_is_open(tick, memory, capacity, class) {
            Ok(()) => return Ok(class.clone()),
            Err(Blocked::PilotClass(reason))
                if reason.code == Code::Image && wants_fetch(memory, class, tick.now) =>
            {
                let name = class.name.clone();
                memory.classes.entry(name.clone()).or_default().image = Image::Fetching;
                tick.actions.push(Action::Fetch { class: name });
                first.get_or_insert(Blocked::PilotClass(reason));
            }
            Err(blocked) => {
                first.get_or_insert(blocked);
            }
        }
    }
    Err(first.unwrap_or(Blocked::NoClass))
}

/// Looks for newer images, one at a time, and only while nothing holds pilots back.
fn refresh(tick: &mut Tick, memory: &mut Memory) {
    if memory.owner_load.in_doubt() || !memory.owner_load.is_calm(tick) {
        return;
    }
    for class in tick
        .config
        .pilots
        .iter()
        .filter(|class| class.is_refreshable())
    {
        let first = tick.now + class.refresh_seconds() * memory.jitter();
        let busy = memory
            .classes
            .values()
            .any(|class| class.refreshing || class.image == Image::Fetching);
        let remembered = memory.classes.entry(class.name.clone()).or_default();
        if matches!(remembered.image, Image::Missing | Image::Fetching) {
            continue;
        }
        let due = *remembered.refresh_at.get_or_insert(first);
        if tick.now >= due && !busy {
            remembered.refreshing = true;
            tick.actions.push(Action::Fetch {
                class: class.name.clone(),
            });
        }
    }
}

fn wants_fetch(memory: &Memory, class: &PilotClass, now: f64) -> bool {
    memory
        .classes
        .get(&class.name)
        .is_some_and(|memory| memory.image == Image::Missing && memory.retry_at <= now)
}

fn machine_is_open(tick: &Tick, memory: &Memory) -> Result<(), Blocked> {
    if tick.seen.cpu.is_none() || tick.seen.memory.is_none() {
        return Err(Blocked::NoRate);
    }
    if tick.own().any(|pilot| pilot.state == PilotState::Paused) {
        return Err(Blocked::Paused);
    }
    if !memory.owner_load.is_calm(tick) {
        return Err(Blocked::Calming);
    }
    if memory.owner_load.in_doubt() {
        return Err(Blocked::Cpu(String::new()));
    }
    let in_flight = memory
        .launching
        .iter()
        .filter(|launch| launch.answered.is_none())
        .count();
    // More starts at once than processors only slow each other down, and pilots that start together end together.
    let most = float(tick.config.loop_.launches_per_tick.into()).min(tick.seen.threads.max(1.0));
    if float(in_flight as u64) >= most {
        return Err(Blocked::InFlight);
    }
    let holding = tick.own().count() + memory.unlisted(tick).count();
    if tick.seen.protection == Protection::Prepared && holding > 0 {
        return Err(Blocked::Probing);
    }
    match tick.share.max_pilots {
        Auto::Fixed(most) if holding as u64 >= u64::from(most) => Err(Blocked::MaxPilots(most)),
        _ => Ok(()),
    }
}

fn class_is_open(
    tick: &Tick,
    memory: &Memory,
    capacity: &Capacity,
    class: &PilotClass,
) -> Result<(), Blocked> {
    let refuse = |code, value, threshold, text: String| {
        Err(Blocked::PilotClass(Reason::new(
            code, value, threshold, text,
        )))
    };
    let name = &class.name;
    let of_class = tick.own().filter(|p| p.class == *name).count()
        + memory
            .unlisted(tick)
            .filter(|launch| launch.class == *name)
            .count();
    if class.max > 0 && of_class as u64 >= u64::from(class.max) {
        let text = format!("'{name}' has its {} (max)", count_pilots(of_class));
        return refuse(
            Code::ClassMax,
            float(of_class as u64),
            f64::from(class.max),
            text,
        );
    }
    let unknown = ClassMemory::default();
    let remembered = memory.classes.get(name).unwrap_or(&unknown);
    if remembered.retry_at > tick.now {
        let left = remembered.retry_at - tick.now;
        let text = format!("'{name}' is tried again in {left:.0} s: {}", remembered.why);
        return refuse(remembered.held_by.unwrap_or(Code::BackOff), left, 0.0, text);
    }
    // Replacements go first, except where they may end as soon as this one: then it is read how it ended.
    if !remembered.ended_early.is_empty() {
        return Err(Blocked::InFlight);
    }
    // One probe at a time until a class has proved itself (again).
    let is_probe = |pilot: &Pilot| pilot.class == *name && remembered.is_probe(pilot);
    if remembered.is_proving() && (remembered.proves_at > tick.now || tick.own().any(is_probe)) {
        let (code, text) = match remembered.went_wrong() {
            true => (
                remembered.held_by.unwrap_or(Code::BackOff),
                format!(
                    "one pilot of '{name}' shows whether it goes better now: {}",
                    remembered.why
                ),
            ),
            false => (
                Code::Probing,
                format!("one pilot of '{name}' shows whether it runs before more are started"),
            ),
        };
        return refuse(code, 1.0, 1.0, text);
    }
    let proving = remembered.image == Image::Unknown || remembered.is_proving();
    if proving
        && memory
            .launching
            .iter()
            .any(|launch| launch.class == *name && launch.answered.is_none())
    {
        return Err(Blocked::InFlight);
    }
    match remembered.image {
        Image::Missing | Image::Fetching => {
            return refuse(
                Code::Image,
                0.0,
                0.0,
                format!("'{name}' waits for its image {}", class.image),
            );
        }
        Image::Unknown | Image::Ready => {}
    }
    match () {
        () if !capacity.fits_cap(class.cpus) => Err(Blocked::Cap(name.clone())),
        () if !capacity.fits_cpu(class.cpus) => Err(Blocked::Cpu(name.clone())),
        () if !capacity.fits_memory(class.memory.0) => Err(Blocked::Memory(name.clone())),
        () => Ok(()),
    }
}

fn launch(tick: &mut Tick, memory: &mut Memory, class: &PilotClass) {
    let name = format!("plancton-{}-{:06x}", class.name, memory.draw() & 0xff_ffff);
    memory.launching.push(Launching {
        name: name.clone(),
        class: class.name.clone(),
        cpus: class.cpus,
        memory: class.memory.0,
        answered: None,
    });
    tick.actions.push(Action::Launch {
        class: class.name.clone(),
        name,
    });
}

impl Blocked {
    /// `holding`: own pilots and launches under way. Nothing running is a problem to explain; a full machine is not.
    pub(super) fn reason(
        self,
        tick: &Tick,
        memory: &Memory,
        capacity: &Capacity,
        holding: usize,
    ) -> Reason {
        let pilots = count_pilots(holding);
        let class = |name: &str| tick.config.pilots.iter().find(|class| class.name == name);
        match self {
            Blocked::PilotClass(reason) => reason,
            Blocked::NoClass => Reason::new(
                Code::NoPilot,
                0.0,
                0.0,
                "no [[pilot]] is configured; `plancton config --default` shows how to add one, `plancton check` names the file",
            ),
            Blocked::NoRate if tick.own().any(|pilot| pilot.state == PilotState::Running) => {
                Reason::new(
                    Code::Starting,
                    0.0,
                    0.0,
                    "what the owner and the pilots use can't be read; nothing is started",
                )
            }
            Blocked::NoRate => Reason::new(
                Code::Starting,
                0.0,
                0.0,
                "taking a first look at what the owner uses",
            ),
            Blocked::Calming => {
                let left = memory.owner_load.until_calm(tick);
                let text = format!("{pilots}; pilots are started after {left:.0} s more of calm");
                Reason::new(Code::Calming, left, 0.0, text)
            }
            Blocked::InFlight | Blocked::Paused => {
                let under_way = memory.unlisted(tick).count();
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
                Reason::new(
                    Code::MaxPilots,
                    float(holding as u64),
                    f64::from(most),
                    text,
                )
            }
            Blocked::Cap(name) => cpu_reason(
                tick,
                capacity,
                class(&name),
                holding,
                capacity.cap - capacity.given,
                0.0,
            ),
            Blocked::Cpu(name) => cpu_reason(
                tick,
                capacity,
                class(&name),
                holding,
                capacity.free.unwrap_or(0.0),
                capacity.launch_floor,
            ),
            Blocked::Memory(name) => {
                let wanted = class(&name).map_or(0, |class| class.memory.0);
                let free = capacity.free_memory.unwrap_or(0.0);
                let left = Bytes(crate::units::whole(free));
                let reserve = tick.share.reserve_memory;
                let text = format!(
                    "{pilots}; {left} of memory may still be given (with {reserve} reserved), the next '{name}' takes {}",
                    Bytes(wanted)
                );
                Reason::new(
                    if holding == 0 {
                        Code::NothingFits
                    } else {
                        Code::Full
                    },
                    free,
                    float(wanted),
                    text,
                )
            }
        }
    }
}

fn cpu_reason(
    tick: &Tick,
    capacity: &Capacity,
    class: Option<&PilotClass>,
    holding: usize,
    free: f64,
    floor: f64,
) -> Reason {
    let foreign = tick
        .seen
        .cpu
        .map_or(0.0, |cpu| cpu.foreign.max(cpu.foreign_smooth));
    let text = format!(
        "{}; of {:.0} cores {foreign:.1} are the owner's, {:.1} reserved and {:.1} promised to pilots, the next one takes {:.1}",
        count_pilots(holding),
        capacity.cores,
        capacity.reserve,
        capacity.given,
        class.map_or(0.0, |class| class.cpus),
    );
    let code = if holding == 0 {
        Code::NothingFits
    } else {
        Code::Full
    };
    Reason::new(
        code,
        free,
        class.map_or(0.0, |class| class.cpus) + floor,
        text,
    )
}
