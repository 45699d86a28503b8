//! What is known of each class, whether it works and when it is tried again; and which class starts the next pilot: in
//! turn by the core-seconds they had, while capacity, limits, images and waits allow.

use super::observation::{Ended, LaunchResult, News, Observation, Pilot, PilotState, Protection};
use super::owner_load::OwnerLoad;
use super::pilots::{EndKind, Finished, Pilots};
use super::reason::{self, Code, Reason};
use super::tick::{Action, Capacity, Slots, Tick};
use crate::config::{Auto, Config, PilotClass};
use crate::units::{Moment, float};
use std::collections::BTreeMap;
use std::sync::Arc;

/// First wait after a failure, in seconds; doubled with each further one, up to [`BACK_OFF_MOST`].
const BACK_OFF_FIRST: f64 = 5.0;
const BACK_OFF_MOST: f64 = 900.0;
/// A missing mount source is looked for again after this long, in seconds.
const MOUNT_AGAIN: f64 = 30.0;
/// A pilot that runs this long, in seconds, has shown that its class is well again.
const LIVES: f64 = 30.0;
/// A class of which nothing is known needs less: a pilot that still runs after this, in seconds.
const RUNS: f64 = 2.0;
/// First wait after a failed refresh of an image, in seconds; doubled up to the time between two refreshes.
const REFRESH_AGAIN: f64 = 60.0;
/// Over how many seconds the classes' parts are evened out.
const FAIR_OVER: f64 = 600.0;
/// How long a container whose launch had no answer may wait for its start, in seconds.
const CREATED_GRACE: f64 = 120.0;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// Nothing is known of it. One pilot shows that it runs, when it still does at this boot-clock second.
    New {
        proves_at: f64,
    },
    Good,
    /// It failed or had no work.
    Waiting(Wait),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wait {
    /// Boot-clock second; from then on one pilot tries.
    until: f64,
    /// In a row.
    pub times: u32,
    failure: Failure,
}

#[derive(Clone, Debug, PartialEq)]
struct Failure {
    code: Code,
    /// What happened, for people.
    why: String,
    ends: EndsBy,
}

impl Failure {
    fn of_launch(code: Code, why: String) -> Failure {
        Failure {
            code,
            why,
            ends: EndsBy::Launch,
        }
    }
}

/// What shows that a class is well again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum EndsBy {
    /// A launch that succeeds; what was launched before says nothing.
    Launch,
    /// A pilot that lives, or ends well.
    Pilot,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Image {
    /// The first launch tells.
    #[default]
    Unknown,
    Ready,
    Missing,
}

#[derive(Clone, Debug)]
pub(super) struct Class {
    pub stage: Stage,
    /// Epoch second: pilots created before say nothing about the class as it is now.
    since: f64,
    image: Image,
    /// It is being brought, or brought again.
    pub is_fetching: bool,
    /// Boot-clock second of the image's next refresh; `None`: not known yet.
    pub refresh_at: Option<f64>,
    refresh_failures: u32,
    /// Core-seconds given so far.
    served: f64,
}

impl Default for Class {
    fn default() -> Self {
        Class {
            stage: Stage::New { proves_at: 0.0 },
            since: 0.0,
            image: Image::Unknown,
            is_fetching: false,
            refresh_at: None,
            refresh_failures: 0,
            served: 0.0,
        }
    }
}

impl Class {
    /// Its fate tells how the class is now.
    fn is_probe(&self, pilot: &Pilot) -> bool {
        let tells = match &self.stage {
            Stage::New { .. } => true,
            Stage::Good => false,
            Stage::Waiting(wait) => wait.failure.ends == EndsBy::Pilot,
        };
        tells && pilot.state == PilotState::Running && pilot.created >= self.since
    }

    /// It has run for long enough to show that the class is well.
    fn is_proof(&self, pilot: &Pilot, now: Moment) -> bool {
        let has_lived = match self.stage {
            Stage::New { proves_at } => now.boot >= proves_at,
            _ => now.epoch - pilot.created >= LIVES,
        };
        has_lived && self.is_probe(pilot)
    }

    /// Waits longer with each failure, up to `most` seconds. One failure counts once: those of pilots that were under way
    /// together do not multiply.
    fn back_off(&mut self, now: f64, failure: Failure, most: f64, jitter: f64) {
        let mut times = 0;
        if let Stage::Waiting(wait) = &mut self.stage {
            if wait.until > now {
                if failure.ends == EndsBy::Launch {
                    wait.failure.ends = EndsBy::Launch;
                }
                return;
            }
            times = wait.times;
        }
        self.stage = Stage::Waiting(Wait {
            until: now + doubled(BACK_OFF_FIRST, times).min(most) * jitter,
            times: times.saturating_add(1),
            failure,
        });
    }

    /// A launch has succeeded: from now on its pilot shows the rest.
    fn launched(&mut self, now: f64, at: f64) {
        self.image = Image::Ready;
        let begins = match &self.stage {
            Stage::New { .. } => true,
            Stage::Good => false,
            // What was launched before its last failure does not end the wait for the next launch.
            Stage::Waiting(wait) => wait.failure.ends == EndsBy::Launch && wait.until <= now,
        };
        if begins {
            let proves_at = at + RUNS;
            self.stage = Stage::New { proves_at };
        }
    }

    /// A pilot of it has lived or ended well. That of one from before says nothing about launches that fail now.
    fn is_well(&mut self) {
        let is_open = match &self.stage {
            Stage::Waiting(wait) => wait.failure.ends == EndsBy::Pilot,
            _ => true,
        };
        if is_open {
            self.stage = Stage::Good;
        }
    }
}

fn doubled(first: f64, times: u32) -> f64 {
    first * 2f64.powi(i32::try_from(times.min(16)).unwrap_or(16))
}

/// A launch that was asked for and that no list has shown running yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launching {
    pub name: String,
    class: String,
    cpus: f64,
    memory: u64,
    /// Boot-clock second of its answer; `None` while it is in flight.
    answered: Option<f64>,
    /// As the last list shows it.
    listed: Option<PilotState>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    by_name: BTreeMap<String, Class>,
    launching: Vec<Launching>,
    /// Differs between daemons, so that a fleet does not retry in step.
    pub seed: u64,
    drawn: u64,
}

impl Classes {
    /// The next number of a splitmix64 sequence: enough for jitter and names.
    fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        let mut z = self
            .drawn
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(self.seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A factor around 1, up to a quarter either way.
    fn jitter(&mut self) -> f64 {
        0.75 + 0.5 * (float(self.draw() % 1_000) / 1_000.0)
    }

    pub fn class(&mut self, name: &str) -> &mut Class {
        self.by_name.entry(name.to_owned()).or_default()
    }

    /// Boot-clock seconds at which a wait or a proof is over.
    pub fn due(&self) -> impl Iterator<Item = f64> {
        self.by_name
            .values()
            .filter_map(|class| match &class.stage {
                Stage::New { proves_at } => Some(*proves_at),
                Stage::Good => None,
                Stage::Waiting(wait) => Some(wait.until),
            })
    }

    pub fn is_starting(&self, name: &str) -> bool {
        self.launching.iter().any(|launch| launch.name == name)
    }

    /// No launch is under way, and none may have made a pilot that no list shows yet.
    pub fn is_quiet(&self) -> bool {
        self.launching.is_empty()
    }

    pub fn forget_launches(&mut self) {
        self.launching.clear();
    }

    fn in_flight(&self) -> impl Iterator<Item = &Launching> {
        self.launching
            .iter()
            .filter(|launch| launch.answered.is_none())
    }

    /// Launches under way that the list does not show yet.
    pub fn unlisted(&self) -> impl Iterator<Item = &Launching> {
        self.launching
            .iter()
            .filter(|launch| launch.listed.is_none())
    }

    /// What is configured otherwise now is new, whatever was learned of it before.
    pub fn forget_changed(&mut self, before: &Config, after: &Config, epoch: f64) {
        for class in &after.pilots {
            let is_known = before.pilots.iter().any(|known| class == known);
            if let Some(known) = self.by_name.get_mut(&class.name).filter(|_| !is_known) {
                *known = Class {
                    // The engine dates containers in whole seconds.
                    since: epoch.floor(),
                    served: known.served,
                    ..Class::default()
                };
            }
        }
    }

    fn fail(&mut self, class: &str, now: f64, failure: Failure, most: f64) {
        let jitter = self.jitter();
        self.class(class).back_off(now, failure, most, jitter);
    }

    /// Pilots of it fail.
    pub fn failed(&mut self, class: &str, why: String, now: f64) {
        let failure = Failure {
            code: Code::BackOff,
            why,
            ends: EndsBy::Pilot,
        };
        self.fail(class, now, failure, BACK_OFF_MOST);
    }

    /// What came of a launch; returns what it counts as.
    pub fn launched(&mut self, config: &Config, now: f64, news: &News) -> Option<&'static str> {
        let News::Launched {
            class,
            name,
            at,
            result,
        } = news
        else {
            return None;
        };
        let may_exist = matches!(result, LaunchResult::Started(_) | LaunchResult::Lost(_));
        for launch in self
            .launching
            .iter_mut()
            .filter(|launch| launch.name == *name)
        {
            launch.answered = Some(*at);
        }
        self.launching
            .retain(|launch| may_exist || launch.name != *name);
        let why = match result {
            LaunchResult::Started(_) => {
                self.class(class).launched(now, *at);
                return Some("launches");
            }
            LaunchResult::NoImage => {
                let known = self.class(class);
                let was_ready = std::mem::replace(&mut known.image, Image::Missing) == Image::Ready;
                // Brought again it may be gone again: without a wait that would never end.
                let configured = config.pilots.iter().find(|known| known.name == *class);
                configured.filter(|_| was_ready).map(reason::image_gone)?
            }
            LaunchResult::MountMissing(source) => {
                let why = reason::mount_missing(source);
                self.fail(
                    class,
                    now,
                    Failure::of_launch(Code::MountMissing, why),
                    MOUNT_AGAIN,
                );
                return None;
            }
            LaunchResult::Failed(why) | LaunchResult::Lost(why) => why.clone(),
        };
        self.fail(
            class,
            now,
            Failure::of_launch(Code::BackOff, why),
            BACK_OFF_MOST,
        );
        Some("launch-failed")
    }

    /// A refresh that fails leaves the local image in use.
    pub fn fetched(&mut self, config: &Config, now: f64, name: &str, result: &Result<(), String>) {
        let configured = config.pilots.iter().find(|class| class.name == name);
        let interval = configured.map_or(f64::INFINITY, PilotClass::refresh_seconds);
        let jitter = self.jitter();
        let class = self.class(name);
        class.is_fetching = false;
        match result {
            Ok(()) => {
                (class.image, class.refresh_failures) = (Image::Ready, 0);
                class.refresh_at = Some(now + interval * jitter);
            }
            Err(why) if class.image == Image::Missing => {
                let failure = Failure::of_launch(Code::BackOff, why.clone());
                class.back_off(now, failure, BACK_OFF_MOST, jitter);
            }
            Err(_) => {
                let wait = doubled(REFRESH_AGAIN, class.refresh_failures).min(interval);
                class.refresh_failures = class.refresh_failures.saturating_add(1);
                class.refresh_at = Some(now + wait * jitter);
            }
        }
    }

    pub fn refresh_all(&mut self, now: f64) {
        for class in self.by_name.values_mut() {
            class.refresh_at = Some(now);
        }
    }

    /// What a pilot's end says about its class; `configured`: as it is now, if it still is.
    pub fn ended(
        &mut self,
        end: &Finished,
        ended: &Ended,
        configured: Option<&PilotClass>,
        at: Moment,
    ) {
        match end.kind {
            EndKind::Failed | EndKind::OutOfMemory | EndKind::NeverRan => {
                self.failed(&end.class, reason::pilot_failed(end.kind, ended), at.boot);
            }
            EndKind::NoWork => {
                let failure = Failure {
                    code: Code::NoWork,
                    why: reason::no_work(end.exit_code, end.lived),
                    ends: EndsBy::Pilot,
                };
                let pause = configured.map_or(0.0, |class| class.no_work_pause.as_secs_f64());
                self.fail(&end.class, at.boot, failure, pause);
            }
            EndKind::Done => return self.class(&end.class).is_well(),
            EndKind::Ttl | EndKind::Owner | EndKind::Drained | EndKind::Killed => return,
        }
        self.class(&end.class).since = at.epoch;
    }

    /// Compares the launches with the list: what it shows running is no launch any more, nor is what it should show and
    /// does not. What still waits for its start there keeps its place for a while.
    pub fn match_list(&mut self, pilots: &[Pilot], seen: &Observation) {
        self.launching.retain_mut(|launch| {
            let listed = pilots.iter().find(|pilot| pilot.name == launch.name);
            launch.listed = listed.map(|pilot| pilot.state);
            let Some(at) = launch.answered else {
                return true;
            };
            let waits =
                launch.listed == Some(PilotState::Created) && seen.at.boot - at < CREATED_GRACE;
            waits || at >= seen.listed_at
        });
    }

    /// Adds the core-seconds given since the last tick. What was given long ago does not count any more, and a class that
    /// is new or was away does not get everything first.
    pub fn serve(&mut self, tick: &Tick, elapsed: f64) {
        let kept = (-elapsed / FAIR_OVER).exp();
        for class in self.by_name.values_mut() {
            class.served *= kept;
        }
        let configured = &tick.config.pilots;
        let part = |class: &PilotClass| {
            let served = self.by_name.get(&class.name)?.served;
            Some(served / f64::from(class.weight)).filter(|part| *part > 0.0)
        };
        let least = configured.iter().filter_map(part).reduce(f64::min);
        for (class, least) in configured.iter().zip(std::iter::repeat(least)) {
            if let (Some(least), false) = (least, self.by_name.contains_key(&class.name)) {
                self.class(&class.name).served = least * f64::from(class.weight);
            }
        }
        for (name, slots) in &tick.by_class {
            self.class(name).served += slots.cpus * elapsed;
        }
        for pilot in &tick.own {
            // One that is being started may be the one that the list shows.
            let is_starting = self.in_flight().any(|launch| launch.class == pilot.class);
            let class = self.by_name.get_mut(&pilot.class).filter(|_| !is_starting);
            if let Some(class) = class.filter(|class| class.is_proof(pilot, tick.seen.at)) {
                class.is_well();
            }
        }
    }

    /// Own pilots, with launches that the list does not show yet.
    pub fn holding(&self, tick: &Tick) -> usize {
        tick.own.len() + self.unlisted().count()
    }

    /// Cores and bytes of launches that the list does not show yet.
    pub fn promised(&self) -> (f64, u64) {
        self.unlisted().fold((0.0, 0), |(cpus, memory), launch| {
            (cpus + launch.cpus, memory + launch.memory)
        })
    }

    /// Adds launches until something stands in the way; returns what does.
    pub fn fill(
        &mut self,
        tick: &Tick,
        owner_load: &OwnerLoad,
        capacity: &Capacity,
        pilots: &mut Pilots,
    ) -> Reason {
        if !owner_load.in_doubt() && owner_load.is_calm(tick) {
            self.refresh(tick, pilots);
        }
        let mut capacity = capacity.clone();
        loop {
            let opened = self.machine_is_open(tick, owner_load, &capacity);
            match opened.and_then(|()| self.next(tick, &capacity, pilots)) {
                Ok(class) => {
                    capacity.take(class.cpus, class.memory.0);
                    let name = format!("plancton-{}-{:06x}", class.name, self.draw() & 0xff_ffff);
                    self.launching.push(Launching {
                        name: name.clone(),
                        class: class.name.clone(),
                        cpus: class.cpus,
                        memory: class.memory.0,
                        answered: None,
                        listed: None,
                    });
                    pilots.actions.push(Action::Launch { class, name });
                }
                Err(reason) => return reason,
            }
        }
    }

    /// Looks for newer images, one at a time, and only while nothing holds pilots back.
    fn refresh(&mut self, tick: &Tick, pilots: &mut Pilots) {
        for class in tick
            .config
            .pilots
            .iter()
            .filter(|class| class.is_refreshable())
        {
            let first = tick.now + class.refresh_seconds() * self.jitter();
            let is_busy = self.by_name.values().any(|class| class.is_fetching);
            let known = self.class(&class.name);
            if known.image == Image::Missing {
                continue;
            }
            let due = *known.refresh_at.get_or_insert(first);
            if tick.now >= due && !is_busy {
                known.is_fetching = true;
                let class = Arc::new(class.clone());
                pilots.actions.push(Action::Fetch { class });
            }
        }
    }

    fn machine_is_open(
        &self,
        tick: &Tick,
        owner_load: &OwnerLoad,
        capacity: &Capacity,
    ) -> Result<(), Reason> {
        let holding = self.holding(tick);
        if tick.seen.cpu.is_none() || tick.seen.memory.is_none() {
            return Err(reason::no_rate(tick.count(PilotState::Running)));
        }
        // Paused pilots go first.
        if tick.count(PilotState::Paused) > 0 {
            return Err(reason::starting(holding, self.unlisted().count()));
        }
        if !owner_load.is_calm(tick) {
            let left = owner_load.until_calm(tick);
            return Err(reason::calming_before_launch(holding, left));
        }
        if owner_load.in_doubt() {
            return Err(reason::busy(tick, capacity));
        }
        // More starts at once than processors only slow each other down, and pilots that start together end together.
        let most = f64::from(tick.config.loop_.launches_per_tick).min(tick.seen.threads.max(1.0));
        if float(self.in_flight().count() as u64) >= most {
            return Err(reason::starting(holding, self.unlisted().count()));
        }
        if tick.seen.protection == Protection::Prepared && holding > 0 {
            return Err(reason::probing_protection());
        }
        match tick.share.max_pilots {
            Auto::Fixed(most) if holding as u64 >= u64::from(most) => {
                Err(reason::max_pilots(holding, most, None))
            }
            _ => Ok(()),
        }
    }

    /// The class that is most behind and may start now, or what stands in the way of the first one.
    fn next(
        &mut self,
        tick: &Tick,
        capacity: &Capacity,
        pilots: &mut Pilots,
    ) -> Result<Arc<PilotClass>, Reason> {
        let behind = |class: &PilotClass| {
            let served = self
                .by_name
                .get(&class.name)
                .map_or(0.0, |class| class.served);
            (served + self.slots(tick, &class.name).cpus) / f64::from(class.weight)
        };
        let mut classes: Vec<&PilotClass> = tick.config.pilots.iter().collect();
        classes.sort_by(|a, b| behind(a).total_cmp(&behind(b)));
        let mut first = None;
        for class in classes {
            let Err(reason) = self.class_is_open(tick, capacity, class, pilots) else {
                return Ok(Arc::new(class.clone()));
            };
            let known = self.class(&class.name);
            if reason.code == Code::Image && !known.is_fetching {
                known.is_fetching = true;
                let class = Arc::new(class.clone());
                pilots.actions.push(Action::Fetch { class });
            }
            first.get_or_insert(reason);
        }
        Err(first.unwrap_or_else(reason::no_pilot))
    }

    /// Of one class, with launches that the list does not show yet.
    fn slots(&self, tick: &Tick, class: &str) -> Slots {
        let mut slots = tick.by_class.get(class).copied().unwrap_or_default();
        for launch in self.unlisted().filter(|launch| launch.class == class) {
            slots.count += 1;
            slots.cpus += launch.cpus;
        }
        slots
    }

    fn class_is_open(
        &self,
        tick: &Tick,
        capacity: &Capacity,
        class: &PilotClass,
        pilots: &Pilots,
    ) -> Result<(), Reason> {
        let (name, holding) = (&class.name, self.holding(tick));
        let starting = || Err(reason::starting(holding, self.unlisted().count()));
        let count = self.slots(tick, name).count;
        if class.max > 0 && count as u64 >= u64::from(class.max) {
            return Err(reason::class_max(class, count));
        }
        let unknown = Class::default();
        let known = self.by_name.get(name).unwrap_or(&unknown);
        // Replacements go first, except where they may end as soon as this one: then it is read how it ended.
        let is_probed = || {
            let mut own = tick.own.iter();
            own.any(|pilot| pilot.class == *name && known.is_probe(pilot))
        };
        match &known.stage {
            Stage::Waiting(wait) if wait.until > tick.now => {
                let Failure { code, why, .. } = &wait.failure;
                return Err(reason::back_off(name, *code, wait.until - tick.now, why));
            }
            _ if pilots.is_early(name) => return starting(),
            // One probe at a time until a class has proved itself (again).
            Stage::Waiting(wait) if is_probed() => {
                let Failure { code, why, .. } = &wait.failure;
                return Err(reason::probing_again(name, *code, why));
            }
            Stage::New { proves_at } if *proves_at > tick.now || is_probed() => {
                return Err(reason::probing(name));
            }
            _ => {}
        }
        let is_alone = known.image == Image::Unknown || known.stage != Stage::Good;
        if is_alone && self.in_flight().any(|launch| launch.class == *name) {
            return starting();
        }
        match () {
            () if known.image == Image::Missing => Err(reason::image(class)),
            () if !capacity.fits_cap(class.cpus) || !capacity.fits_cpu(class.cpus) => {
                Err(reason::full(tick, capacity, holding, class.cpus))
            }
            () if !capacity.fits_memory(class.memory.0) => {
                Err(reason::full_of_memory(tick, capacity, holding, class))
            }
            () => Ok(()),
        }
    }
}
