//! Replayed ticks: a made-up machine that obeys the decision at once, so that an hour takes milliseconds.

mod classes;
mod load;
mod rules;
mod sentences;

use super::*;
use crate::config;
use crate::host::cpu::smoothed;
use crate::units::{Moment, PilotId};

const GIB: u64 = 1 << 30;
/// What an owner uses who does nothing.
const NOISE: f64 = 0.2;
const ONE_CORE: &str =
    "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\ncpus = 1.0\nmemory = \"64MiB\"\n";

/// A machine, its owner and an engine that never fails.
struct World {
    config: Config,
    policy: PolicyState,
    cores: f64,
    protection: Protection,
    /// What the owner wants, in cores, at a second.
    owner: Box<dyn Fn(f64) -> f64>,
    now: f64,
    sampled: f64,
    cpu: Option<CpuUse>,
    smooth: Option<f64>,
    pilots: Vec<Pilot>,
    news: Vec<News>,
    control: Control,
    /// Changes to the observation of a tick.
    twist: Box<dyn Fn(&mut Observation)>,
    /// Second, and kind of action.
    log: Vec<(f64, &'static str)>,
    reason: Reason,
    state: State,
    next: u64,
}

fn removed(pilot: &Pilot, exit_code: i64, lived: f64) -> News {
    let ended = Ended {
        exit_code,
        lived: Some(lived),
        ..Ended::default()
    };
    News::Removed(pilot.clone(), Some(ended))
}

fn launched(class: &str, name: &str, at: f64, result: LaunchResult) -> News {
    News::Launched(class.to_owned(), name.to_owned(), at, result)
}

fn config(text: &str) -> Config {
    config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems:?}"))
}

impl World {
    fn new(cores: f64, text: &str, owner: impl Fn(f64) -> f64 + 'static) -> World {
        World {
            config: config(text),
            policy: PolicyState::new(7),
            cores,
            protection: Protection::Verified,
            owner: Box::new(owner),
            now: 100.0,
            sampled: 0.0,
            cpu: None,
            smooth: None,
            pilots: Vec::new(),
            news: Vec::new(),
            control: Control::default(),
            twist: Box::new(|_| {}),
            log: Vec::new(),
            reason: Reason::default(),
            state: State::Waiting,
            next: 0,
        }
    }

    /// With an owner who does nothing; runs full.
    fn filled(cores: f64, text: &str) -> World {
        World::new(cores, text, |_| NOISE).fill()
    }

    fn fill(mut self) -> World {
        self.run_until(300.0);
        self.log.clear();
        self
    }

    fn epoch(&self) -> f64 {
        self.now + 1e9
    }

    fn running(&self) -> usize {
        let pilots = self.pilots.iter();
        pilots
            .filter(|pilot| pilot.state == PilotState::Running)
            .count()
    }

    fn of_class(&self, class: &str) -> usize {
        let pilots = self.pilots.iter();
        pilots.filter(|pilot| pilot.class == class).count()
    }

    /// What /proc/stat would say about the time since the last look. Without protection a contended owner gets a share only.
    fn sample(&mut self) {
        let window = self.now - self.sampled;
        if self.sampled > 0.0 && window < 0.9 {
            return;
        }
        let at = |step: u32| self.sampled + window * (f64::from(step) + 0.5) / 200.0;
        let wanted: f64 = (0..200)
            .map(|step| (self.owner)(at(step)).min(self.cores))
            .sum();
        let wanted = wanted / 200.0;
        let running = self.pilots.iter();
        let running = running.filter(|pilot| pilot.state == PilotState::Running);
        let pilots: f64 = running.map(|pilot| pilot.cpus).sum();
        let is_contended = wanted + pilots > self.cores;
        let foreign = match self.protection == Protection::Verified || !is_contended {
            true => wanted,
            false => self.cores * wanted / (wanted + pilots),
        };
        let pilots = pilots.min(self.cores - foreign);
        if self.sampled > 0.0 {
            self.smooth = smoothed(self.smooth, foreign, window);
            self.cpu = Some(CpuUse {
                busy: foreign + pilots,
                pilots,
                foreign,
                foreign_smooth: self.smooth.unwrap_or(foreign),
                window,
                at: self.now,
            });
        }
        self.sampled = self.now;
    }

    fn observation(&mut self) -> Observation {
        self.sample();
        let given: u64 = self.pilots.iter().map(|pilot| pilot.memory).sum();
        let mut seen = Observation {
            at: Moment {
                awake: self.now,
                boot: self.now,
                epoch: self.epoch(),
            },
            cores: self.cores,
            threads: self.cores,
            cpu: self.cpu,
            memory: Some(MemoryUse {
                total: 512 * GIB,
                available: 512 * GIB - given,
                foreign: GIB,
                pilots: Some(given),
            }),
            disk_free: Some(100 * GIB),
            engine: EngineState::Up,
            protection: self.protection.clone(),
            pilots: Some(self.pilots.clone()),
            listed_at: self.now,
            news: std::mem::take(&mut self.news),
            control: self.control.clone(),
            ..Observation::default()
        };
        (self.twist)(&mut seen);
        seen
    }

    /// One tick, of which nothing is done.
    fn actions(&mut self, seen: &Observation) -> Vec<Action> {
        decide(&self.config, &mut self.policy, seen).actions
    }

    /// Likewise; the names that it would start.
    fn launches(&mut self, seen: &Observation) -> Vec<String> {
        let launch = |action| match action {
            Action::Launch(_, name) => Some(name),
            _ => None,
        };
        self.actions(seen).into_iter().filter_map(launch).collect()
    }

    /// One tick; what it decided is done at once.
    fn tick(&mut self) -> Decision {
        let seen = self.observation();
        let decision = decide(&self.config, &mut self.policy, &seen);
        (self.reason, self.state) = (decision.reason.clone(), decision.state);
        for action in &decision.actions {
            self.obey(action);
        }
        decision
    }

    fn run_until(&mut self, end: f64) {
        while self.now < end {
            let decision = self.tick();
            self.now += match decision.actions.is_empty() {
                true => decision.wake_in.unwrap_or(10.0),
                false => 0.3,
            };
        }
    }

    fn run_for(&mut self, seconds: f64) {
        self.run_until(self.now + seconds);
    }

    fn obey(&mut self, action: &Action) {
        let (kind, pilot, state) = match action {
            Action::Launch(class, name) => return self.launch(class, name),
            Action::Remove(pilot) => {
                let ours = self.pilots.iter().position(|other| other.id == pilot.id);
                let pilot = self.pilots.remove(ours.unwrap());
                return self.news.push(removed(&pilot, 143, 60.0));
            }
            Action::Fetch(_) | Action::MendGroup => return,
            Action::Pause(pilot) => ("pause", pilot, PilotState::Paused),
            Action::Unpause(pilot) => ("unpause", pilot, PilotState::Running),
            Action::Terminate(pilot) => ("stop", pilot, PilotState::Exited),
            Action::Kill(pilot) => ("kill", pilot, PilotState::Exited),
        };
        let mut pilots = self.pilots.iter_mut();
        pilots.find(|other| other.id == pilot.id).unwrap().state = state;
        self.log.push((self.now, kind));
    }

    fn launch(&mut self, class: &PilotClass, name: &str) {
        self.next += 1;
        let pilot = pilot(self.next, class, name, self.now);
        let result = LaunchResult::Started(pilot.id.clone());
        self.news
            .push(launched(&class.name, name, self.now, result));
        self.pilots.push(pilot);
        self.log.push((self.now, "launch"));
    }

    fn since(&self, start: f64) -> Vec<(f64, &'static str)> {
        let log = self.log.iter().copied();
        log.filter(|(at, _)| *at >= start).collect()
    }
}

fn pilot(number: u64, class: &PilotClass, name: &str, now: f64) -> Pilot {
    Pilot {
        id: PilotId::new(&format!("{number:064x}")).unwrap(),
        name: name.to_owned(),
        class: class.name.clone(),
        own: true,
        state: PilotState::Running,
        created: now + 1e9,
        expiry: Expiry::Awake(now + class.ttl.as_secs_f64()),
        cpus: class.cpus,
        memory: class.memory.0,
        grace: class.stop_grace.as_secs_f64(),
        used: None,
        unlimited: None,
        image: String::new(),
    }
}

#[test]
fn a_list_that_failed_changes_nothing() {
    let mut world = World::filled(4.0, ONE_CORE);
    world.twist = Box::new(|seen| {
        seen.pilots = None;
        seen.engine = EngineState::Down("connection refused".to_owned());
    });
    world.run_until(600.0);
    assert_eq!(world.since(0.0), []);
    let told = (world.reason.code, world.state);
    assert_eq!(told, (Code::EngineDown, State::Waiting));
    world.twist = Box::new(|_| {});
    world.run_until(700.0);
    // No pilot was counted as gone meanwhile.
    assert_eq!((world.since(0.0), world.running()), (vec![], 4));
}

#[test]
fn what_was_created_and_is_not_being_started_is_removed_at_once_and_holds_its_slot_until_then() {
    let left_over = [
        ("created", PilotState::Created, true),
        ("dead", PilotState::Dead, true),
        ("odd", PilotState::Other, false),
        ("removing", PilotState::Removing, false),
    ];
    for (name, state, is_removed) in left_over {
        let mut world = World::filled(4.0, ONE_CORE);
        let mut pilot = world.pilots.pop().unwrap();
        (pilot.name, pilot.state) = (name.to_owned(), state);
        let mut foreign = pilot.clone();
        (foreign.id, foreign.own) = (PilotId::new(&"f".repeat(64)).unwrap(), false);
        world.pilots.push(pilot.clone());
        let actions = world.tick().actions;
        let is_launch = |action: &Action| matches!(action, Action::Launch(..));
        let is_replaced = actions.iter().any(is_launch);
        let is_asked = actions.contains(&Action::Remove(pilot));
        let expected = (is_removed, !state.holds_room());
        assert_eq!((is_asked, is_replaced), expected, "{name}");
        world.run_for(10.0);
        assert_eq!(world.running() == 4, state != PilotState::Other, "{name}");
        world.pilots.push(foreign);
        let touched = format!("{:?}", world.tick().actions);
        assert!(!touched.contains("ffffff"), "{name}: {touched}");
    }
}

/// The engine may still carry out the start that a killed daemon asked for: then it is a pilot like any other.
#[test]
fn a_container_of_a_killed_daemon_that_starts_after_all_is_not_one_too_many() {
    let number = format!("[share]\nmax-pilots = 3\n{ONE_CORE}");
    let class = ONE_CORE.replace("cpus", "max = 3\ncpus");
    // Cores, what is configured, pilots; with protection that is only prepared, it keeps no first pilot from showing it.
    let cases = [
        (3.0, ONE_CORE, 3, Protection::Verified),
        (9.0, &number, 3, Protection::Verified),
        (9.0, &class, 3, Protection::Verified),
        (3.0, ONE_CORE, 1, Protection::Prepared),
    ];
    for (cores, text, pilots, protection) in cases {
        let mut world = World::filled(cores, text);
        world.pilots.truncate(pilots);
        (world.policy, world.news) = (PolicyState::new(9), Vec::new());
        let first = usize::from(protection == Protection::Prepared);
        world.protection = protection;
        world.pilots[0].state = PilotState::Created;
        let removal = Action::Remove(world.pilots[0].clone());
        // Its removal is asked for once, and is not answered.
        for (second, expected) in [(0, 1 + first), (1, 0), (60, 0)] {
            world.now += f64::from(second);
            let seen = world.observation();
            let actions = world.actions(&seen);
            assert_eq!(actions.len(), expected, "{text}: {actions:?}");
            assert_eq!(actions.contains(&removal), second == 0, "{actions:?}");
        }
        world.pilots[0].state = PilotState::Running;
        let seen = world.observation();
        assert_eq!(world.actions(&seen), [], "{text}");
    }
}

#[test]
fn a_limit_that_does_not_hold_counts_once_against_the_class() {
    let mut world = World::filled(1.0, ONE_CORE);
    world.pilots[0].unlimited = Some("no memory limit".to_owned());
    (world.pilots[0].grace, world.log) = (600.0, Vec::new());
    let mut seen = world.observation();
    let mut ended = 0;
    for _ in 0..60 {
        ended += world.actions(&seen).len();
        seen.at.boot += 10.0;
    }
    // SIGTERM, and SIGKILL after the grace would be the next.
    assert_eq!((ended, classes::failures(&mut world)), (1, 1));
}

#[test]
fn ttl_counts_awake_time_and_ends_in_kill() {
    let mut world = World::filled(1.0, &ONE_CORE.replace("cpus", "ttl = \"5m\"\ncpus"));
    world.run_until(310.0);
    let mut seen = world.observation();
    // A night with the lid closed: 8 hours by the wall clock, none awake.
    seen.at.epoch += 28_800.0;
    seen.at.boot += 28_800.0;
    assert_eq!(world.actions(&seen), []);
    seen.at.awake += 300.0;
    seen.at.boot += 300.0;
    let pilot = world.pilots[0].clone();
    let decision = decide(&world.config, &mut world.policy, &seen);
    assert_eq!(decision.actions, [Action::Terminate(pilot.clone())]);
    // The end of the grace wakes the loop.
    assert!((9.9..=10.0).contains(&decision.wake_in.unwrap()));
    seen.at.boot += 10.0;
    assert_eq!(world.actions(&seen), [Action::Kill(pilot.clone())]);
    // A force-stop waits for no grace, and a second SIGKILL for the next interval.
    seen.control.force_stop = true;
    seen.at.boot += 1.0;
    assert_eq!(world.actions(&seen), []);
    (world.policy, seen.control.force_stop) = (PolicyState::new(7), false);
    assert_eq!(world.actions(&seen).len(), 1, "its ttl is over");
    seen.control.force_stop = true;
    seen.at.boot += 1.0;
    assert_eq!(world.actions(&seen), [Action::Kill(pilot)]);
}

#[test]
fn two_instances_count_each_other() {
    let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
    world.run_until(120.0);
    let mut other = world.pilots.pop().unwrap();
    (other.own, other.cpus) = (false, 3.0);
    world.pilots = vec![other.clone()];
    world.run_until(300.0);
    let own = world.pilots.iter().filter(|pilot| pilot.own).count();
    assert_eq!(own, 1, "{}", world.reason.text);
    world.control.force_stop = true;
    let touched = format!("{:?}", world.tick().actions);
    assert!(!touched.contains(other.id.as_str()), "{touched}");
}

#[test]
fn a_rate_that_can_not_be_read_costs_no_tick_a_second() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.twist = Box::new(|seen| seen.cpu = None);
    assert_eq!(world.tick().wake_in, Some(1.0));
    world.run_for(60.0);
    assert_eq!(world.tick().wake_in, Some(10.0));
    assert_eq!(world.reason.code, Code::Starting);
}

#[test]
#[ignore = "a measurement: `tests/bench.sh decide` runs it"]
fn thousands_of_pilots() {
    for (pilots, classes) in [(1_000_u32, 1), (1_000, 20), (5_000, 1), (5_000, 20)] {
        let class = |number| ONE_CORE.replace("\"a\"", &format!("\"c{number}\""));
        let text: String = (0..classes).map(class).collect();
        let mut world = World::new(f64::from(pilots), &text, |_| NOISE);
        let config = world.config.pilots.clone();
        let numbered = (0..u64::from(pilots)).zip(config.iter().cycle());
        let pilot = |(number, class)| pilot(number, class, &format!("p{number}"), 100.0);
        world.pilots = numbered.map(pilot).collect();
        let mut times = Vec::new();
        for _ in 0..40 {
            world.now += 10.0;
            let seen = world.observation();
            let start = std::time::Instant::now();
            world.actions(&seen);
            times.push(start.elapsed());
        }
        times.sort();
        let median = times[20].as_secs_f64() * 1e3;
        println!("row|{pilots} pilots in {classes} classes|{median}");
    }
}
