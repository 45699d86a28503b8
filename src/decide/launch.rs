//! Which pilots are started: classes in turn by the core-seconds they had, while capacity, limits, images and waits allow.
//! What stands in the way of the next one is the reason.

use super::*;
use state::{Class, Launching, Stage};

/// Over how many seconds the classes' parts are evened out.
const FAIR_OVER: f64 = 600.0;
/// An image that has not come after this long, in seconds, is asked for again.
const FETCHED_WITHIN: f64 = 6.0 * 3600.0;

impl Tick<'_> {
    /// Adds the core-seconds given since the last tick, and believes classes whose pilots live.
    pub(super) fn serve(&mut self, elapsed: f64) {
        let kept = (-elapsed / FAIR_OVER).exp();
        for class in self.state.classes.values_mut() {
            class.served *= kept;
        }
        for pilot in &self.own {
            // One that is being started may be the one that the list shows.
            let is_launching = self.is_launching(&pilot.class);
            let (class, at) = (self.state.class(&pilot.class), self.seen.at);
            class.served += pilot.cpus * elapsed;
            let has_lived = match &class.stage {
                Stage::Waiting(wait) => at.epoch - pilot.created >= wait.lives,
                _ => at.boot >= class.proves_at,
            };
            if has_lived && !is_launching && class.is_probe(pilot) {
                class.stage = Stage::Good;
            }
        }
    }

    /// A launch of the class is in flight.
    fn is_launching(&self, class: &str) -> bool {
        self.in_flight().any(|launch| launch.class.name == class)
    }

    fn in_flight(&self) -> impl Iterator<Item = &Launching> {
        let launching = self.state.launching.iter();
        launching.filter(|launch| launch.answered.is_none())
    }

    /// Adds launches until something stands in the way; returns what does.
    pub(super) fn launch(&mut self) -> Reason {
        if self.config.pilots.is_empty() {
            return Reason::of(Code::NoPilot, 0.0, 0.0, reason::NO_PILOT);
        }
        if self.state.need.is_none() && self.until_calm() <= 0.0 {
            self.refresh();
        }
        loop {
            let class = match self.next_class() {
                Ok(class) => Arc::new(class.clone()),
                Err(reason) => return reason,
            };
            self.take(Some(&class.name), class.cpus, class.memory.0);
            let number = self.state.draw() & 0xff_ffff;
            let name = format!("plancton-{}-{number:06x}", class.name);
            self.state.launching.push(Launching {
                name: name.clone(),
                class: Arc::clone(&class),
                asked: self.now,
                answered: None,
            });
            self.out.actions.push(Action::Launch(class, name));
        }
    }

    /// Looks for newer images, one at a time, and only while nothing holds pilots back.
    fn refresh(&mut self) {
        let classes = self.config.pilots.iter();
        // An image that can't become another one under the same name.
        let is_fixed = |one: &PilotClass| one.image.is_builtin() || one.image.tag.contains(':');
        for class in classes.filter(|class| !is_fixed(class)) {
            let first = self.now + class.refresh_seconds() * self.state.jitter();
            let mut known = self.state.classes.values();
            let is_busy = known.any(|class| class.fetching > self.now);
            let known = self.state.class(&class.name);
            let due = *known.refresh_at.get_or_insert(first);
            if self.now >= due && !is_busy && known.image != Some(false) {
                self.fetch(class);
            }
        }
    }

    fn fetch(&mut self, class: &PilotClass) {
        self.state.class(&class.name).fetching = self.now + FETCHED_WITHIN;
        self.out
            .actions
            .push(Action::Fetch(Arc::new(class.clone())));
    }

    /// The class that is most behind and may start now, or what stands in the way of the first one.
    fn next_class(&mut self) -> Result<&PilotClass, Reason> {
        self.machine_is_open()?;
        let (config, mut first) = (self.config, None);
        let behind = |class: &PilotClass| {
            let known = self.state.classes.get(&class.name);
            let served = known.map_or(0.0, |known| known.served);
            (served + self.slots_of(class).1) / f64::from(class.weight)
        };
        let mut classes: Vec<&PilotClass> = config.pilots.iter().collect();
        classes.sort_by(|a, b| behind(a).total_cmp(&behind(b)));
        for class in classes {
            let known = self.state.class(&class.name).clone();
            let Err(reason) = self.class_is_open(class, &known) else {
                return Ok(class);
            };
            if reason.code == Code::Image && known.fetching <= self.now {
                self.fetch(class);
            }
            first.get_or_insert(reason);
        }
        Err(first.unwrap_or_default())
    }

    /// Those that the class takes: their number and cores.
    fn slots_of(&self, class: &PilotClass) -> (usize, f64) {
        self.slots.get(&class.name).copied().unwrap_or_default()
    }

    fn machine_is_open(&self) -> Result<(), Reason> {
        let (seen, room, calming) = (self.seen, &self.out.capacity, self.until_calm());
        // More starts at once than processors only slow each other down, and pilots that start together end together.
        let starts = f64::from(self.config.loop_.launches_per_tick).min(seen.threads.max(1.0));
        let (holding, in_flight) = (self.holding(), float(self.in_flight().count() as u64));
        let has_paused = !self.own_in(PilotState::Paused).is_empty();
        let is_first = self.own.is_empty() && self.state.launching.is_empty();
        let gives_way = room.need_unknown && !self.own.is_empty();
        let (least, most) = (self.least_free(), self.share.max_pilots.or(u32::MAX));
        let is_tight = room.free.is_some_and(|free| free < least - 1e-6);
        Err(match self.state.calm_since {
            _ if seen.cpu.is_none() || seen.memory.is_none() => {
                Reason::of(Code::Starting, 0.0, 0.0, reason::FIRST_LOOK)
            }
            // A need is there, be it ever so new: nothing is launched into it.
            _ if gives_way || self.state.need.is_some() => self.busy(),
            // The wait does not get shorter.
            Some(f64::INFINITY) => self.tight(least),
            _ if calming > 0.0 => self.calming(calming),
            _ if has_paused && is_tight => self.tight(least),
            // Paused ones go first.
            _ if has_paused || in_flight >= starts => self.starting(),
            _ if seen.protection == Protection::Prepared && !is_first => {
                Reason::of(Code::Probing, 0.0, 0.0, reason::PROBING)
            }
            _ if holding >= most as usize => {
                let (holding, most) = (float(holding as u64), f64::from(most));
                Reason::of(Code::MaxPilots, holding, most, reason::MAX_PILOTS)
            }
            _ => return Ok(()),
        })
    }

    fn class_is_open(&mut self, class: &PilotClass, known: &Class) -> Result<(), Reason> {
        let (name, number, now) = (&class.name, self.slots_of(class).0, self.now);
        let is_probe = |pilot: &&Pilot| pilot.class == *name && known.is_probe(pilot);
        let is_probed = known.proves_at > now || self.own.iter().any(is_probe);
        let is_alone = known.image.is_none() || known.stage != Stage::Good;
        // Replacements go first, except where they may end as soon as this one: then it is read how it ended.
        let mut handled = self.state.handled.values();
        let is_early = handled.any(|handled| handled.early.as_ref() == Some(name));
        Err(match &known.stage {
            _ if class.max > 0 && number as u64 >= u64::from(class.max) => {
                Reason::of(Code::ClassMax, float(number as u64), class.max.into(), name)
            }
            Stage::Waiting(wait) if wait.until > now => {
                self.wake_at(wait.until);
                reason::waiting(name, wait, Some(wait.until - now))
            }
            _ if is_early => self.starting(),
            // One probe at a time until a class has proved itself (again).
            Stage::Waiting(wait) if is_probed => {
                self.wake_at(now + wait.lives);
                reason::waiting(name, wait, None)
            }
            Stage::New if is_probed => {
                self.wake_at(known.proves_at);
                reason::probing(name)
            }
            _ if is_alone && self.is_launching(name) => self.starting(),
            _ if known.image == Some(false) => Reason::of(Code::Image, 0.0, 0.0, &class.image),
            _ => return self.fits(class),
        })
    }

    /// Rounding of sums like 10 × 0.1 must not cost a slot.
    fn fits(&self, class: &PilotClass) -> Result<(), Reason> {
        let room = &self.out.capacity;
        let (left, least) = (room.cap - room.given, class.cpus + room.launch_floor);
        let (free, memory) = (room.free.unwrap_or(0.0), room.free_memory.unwrap_or(0.0));
        match () {
            () if left < class.cpus - 1e-6 => Err(self.full_of_share(class.cpus, left)),
            () if free < least - 1e-6 => Err(self.full_of_cores(class.cpus, free, least)),
            () if memory < float(class.memory.0) => Err(self.full_of_memory(memory, class)),
            () => Ok(()),
        }
    }
}
