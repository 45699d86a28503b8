//! Replayed ticks: a made-up machine that obeys the decision at once, so that an hour takes milliseconds.

mod classes;
mod rules;

use super::*;
use crate::config;
use crate::units::{Moment, PilotId};

const GIB: u64 = 1 << 30;

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
    smooth: crate::host::cpu::Smoothed,
    pilots: Vec<Pilot>,
    news: Vec<News>,
    control: Control,
    /// Changes to the observation of a tick.
    twist: Box<dyn Fn(&mut Observation)>,
    /// Second, kind of action and how many pilots were running after it.
    log: Vec<(f64, &'static str, usize)>,
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
    News::Removed {
        id: pilot.id.clone(),
        name: pilot.name.clone(),
        class: pilot.class.clone(),
        ended: Some(ended),
    }
}

fn config(text: &str) -> Config {
    config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems:?}"))
}

const ONE_CORE: &str =
    "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\ncpus = 1.0\nmemory = \"64MiB\"\n";

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
            smooth: crate::host::cpu::Smoothed::default(),
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

    fn running(&self) -> usize {
        self.pilots
            .iter()
            .filter(|pilot| pilot.state == PilotState::Running)
            .count()
    }

    /// What /proc/stat would say about the time since the last look. Without protection a contended owner gets a share only.
    fn sample(&mut self) {
        let window = self.now - self.sampled;
        if self.sampled > 0.0 && window < 0.9 {
            return;
        }
        let steps = 200;
        let wanted: f64 = (0..steps)
            .map(|step| {
                (self.owner)(self.sampled + window * (f64::from(step) + 0.5) / f64::from(steps))
                    .min(self.cores)
            })
            .sum::<f64>()
            / f64::from(steps);
        let pilots: f64 = self
            .pilots
            .iter()
            .filter(|p| p.state == PilotState::Running)
            .map(|p| p.cpus)
            .sum();
        let foreign = match self.protection {
            Protection::Verified => wanted,
            _ if wanted + pilots > self.cores => self.cores * wanted / (wanted + pilots),
            _ => wanted,
        };
        let pilots = pilots.min(self.cores - foreign);
        if self.sampled > 0.0 {
            self.smooth.update(foreign, window);
            let foreign_smooth = self.smooth.value().unwrap_or(foreign);
            self.cpu = Some(CpuUse {
                busy: foreign + pilots,
                pilots,
                foreign,
                foreign_smooth,
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
                epoch: self.now + 1e9,
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

    /// One tick, of which nothing is done; the names that it would start.
    fn launches(&mut self, seen: &Observation) -> Vec<String> {
        let actions = decide(&self.config, &mut self.policy, seen).actions;
        let names = actions.into_iter().filter_map(|action| match action {
            Action::Launch { name, .. } => Some(name),
            _ => None,
        });
        names.collect()
    }

    fn of_class(&self, class: &str) -> usize {
        let pilots = self.pilots.iter();
        pilots.filter(|pilot| pilot.class == class).count()
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
            let step = if decision.actions.is_empty() {
                decision.wake_in.unwrap_or(10.0)
            } else {
                0.3
            };
            self.now += step;
        }
    }

    fn obey(&mut self, action: &Action) {
        let kind = match action {
            Action::Launch { class, name } => {
                self.next += 1;
                let id = PilotId::new(&format!("{:064x}", self.next)).unwrap();
                self.pilots.push(Pilot {
                    id: id.clone(),
                    name: name.clone(),
                    class: class.name.clone(),
                    own: true,
                    state: PilotState::Running,
                    created: self.now + 1e9,
                    expiry: Expiry::Awake(self.now + class.ttl.as_secs_f64()),
                    cpus: class.cpus,
                    memory: class.memory.0,
                    grace: class.stop_grace.as_secs_f64(),
                    used: None,
                    unlimited: None,
                });
                let result = LaunchResult::Started(id);
                self.news.push(News::Launched {
                    class: class.name.clone(),
                    name: name.clone(),
                    at: self.now,
                    result,
                });
                "launch"
            }
            Action::Pause { id } => {
                self.news.push(News::Changed(id.clone()));
                self.set(id, PilotState::Paused, "pause")
            }
            Action::Unpause { id } => {
                self.news.push(News::Changed(id.clone()));
                self.set(id, PilotState::Running, "unpause")
            }
            Action::Terminate { id, .. } => self.set(id, PilotState::Exited, "stop"),
            Action::Kill { id, .. } => self.set(id, PilotState::Exited, "kill"),
            Action::Remove { id, .. } => {
                let index = self.pilots.iter().position(|pilot| pilot.id == *id);
                let pilot = self.pilots.remove(index.unwrap());
                self.news.push(removed(&pilot, 143, 60.0));
                return;
            }
            Action::Fetch { .. } | Action::MendGroup => return,
        };
        self.log.push((self.now, kind, self.running()));
    }

    fn set(&mut self, id: &PilotId, state: PilotState, kind: &'static str) -> &'static str {
        self.pilots
            .iter_mut()
            .find(|pilot| pilot.id == *id)
            .unwrap()
            .state = state;
        kind
    }

    fn since(&self, start: f64) -> Vec<(f64, &'static str)> {
        self.log
            .iter()
            .filter(|(at, ..)| *at >= start)
            .map(|(at, kind, _)| (*at, *kind))
            .collect()
    }
}

/// Runs full, and returns the second from which on it is.
fn filled(world: &mut World) -> f64 {
    world.run_until(300.0);
    world.log.clear();
    world.now
}

const NOISE: f64 = 0.2;

#[test]
fn one_core_pilots_fill_a_machine_and_stay_for_an_hour() {
    for cores in [1.0, 2.0, 8.0, 96.0] {
        // Background noise, and every 97 s a burst of three seconds on all cores.
        let mut world = World::new(
            cores,
            ONE_CORE,
            move |t| if t % 97.0 < 3.0 { cores } else { NOISE },
        );
        filled(&mut world);
        assert_eq!(
            world.running().to_string(),
            cores.to_string(),
            "{cores} cores: {:?}",
            world.reason
        );
        world.run_until(300.0 + 3_600.0);
        assert_eq!(world.since(0.0), [], "{cores} cores stay unchanged");
        assert_eq!(world.reason.code, Code::Full);
    }
}

#[test]
fn without_protection_a_core_is_kept_and_nothing_fits_on_one() {
    for (cores, pilots) in [(1.0, 0), (2.0, 0), (8.0, 6), (96.0, 94)] {
        let mut world = World::new(cores, ONE_CORE, |_| NOISE);
        world.protection = Protection::None("a plain user".to_owned());
        filled(&mut world);
        assert_eq!(
            world.running(),
            pilots,
            "{cores} cores: {}",
            world.reason.text
        );
        if pilots == 0 {
            assert_eq!(world.reason.code, Code::NothingFits);
            assert!(
                world.reason.text.contains("a plain user"),
                "{:?}",
                world.reason
            );
        }
    }
}

fn policy(when_busy: &str) -> String {
    format!("[owner]\nwhen-busy = \"{when_busy}\"\nbusy-for = \"10s\"\n{ONE_CORE}")
}

/// The owner wants `load` more from `from` to `to`.
fn load_between(load: f64, from: f64, to: f64) -> impl Fn(f64) -> f64 {
    move |t| if (from..to).contains(&t) { load } else { NOISE }
}

#[test]
fn a_burst_over_a_ticks_border_causes_nothing() {
    for (when_busy, cores) in each_policy() {
        for offset in 0..10 {
            // Six seconds that begin anywhere between two ticks, so that some lie across one.
            let from = 1_000.0 + f64::from(offset);
            let mut world = World::new(
                cores,
                &policy(when_busy),
                load_between(cores, from, from + 6.0),
            );
            filled(&mut world);
            world.run_until(1_300.0);
            assert_eq!(
                world.since(0.0),
                [],
                "{when_busy} on {cores} cores, burst at {from}"
            );
        }
    }
}

#[test]
fn a_steady_load_is_met_within_20_seconds_and_released_after_calm() {
    for (when_busy, cores) in each_policy().filter(|(policy, _)| ["pause", "stop"].contains(policy))
    {
        for offset in 0..10 {
            let from = 1_000.0 + f64::from(offset) + 0.1;
            let mut world = World::new(
                cores,
                &policy(when_busy),
                load_between(cores, from, 1_400.0),
            );
            filled(&mut world);
            world.run_until(1_900.0);
            let case = format!(
                "{when_busy} on {cores} cores, load at {from}: {:?}",
                world.since(0.0)
            );
            let first = world.log.first().map_or(f64::INFINITY, |entry| entry.0);
            assert!((9.0..=20.0).contains(&(first - from)), "{case}");
            let back = world
                .log
                .iter()
                .find(|(_, kind, _)| matches!(*kind, "unpause" | "launch"))
                .map_or(0.0, |e| e.0);
            assert!(
                (1_460.0..=1_490.0).contains(&back),
                "back at {back}: {case}"
            );
            assert_eq!(world.running().to_string(), cores.to_string(), "{case}");
        }
    }
}

#[test]
fn yielding_pilots_are_left_to_the_kernel_and_not_replaced() {
    for cores in [2.0, 8.0, 96.0] {
        let mut world = World::new(cores, &policy("auto"), move |t| {
            if t > 1_000.0 { cores } else { NOISE }
        });
        filled(&mut world);
        world.run_until(1_100.0);
        assert_eq!(world.since(0.0), []);
        assert_eq!(world.reason.code, Code::Busy);
        world.pilots.pop();
        world.run_until(1_200.0);
        assert_eq!(
            world.since(0.0),
            [],
            "nothing is launched beside a busy owner"
        );
    }
}

#[test]
fn a_starved_pilot_is_stopped_after_the_limit_and_a_waiting_one_is_not() {
    for (load, stops) in [(2.0, 2), (NOISE, 0)] {
        let owner = move |t| if t > 1_000.0 { load } else { NOISE };
        let mut world = World::new(2.0, &policy("auto"), owner);
        filled(&mut world);
        world.twist = Box::new(|seen| {
            let idle = seen.at.boot > 1_000.0;
            let pilots = seen.pilots.iter_mut().flatten();
            pilots.for_each(|pilot| pilot.used = Some(if idle { 0.001 } else { 1.0 }));
        });
        world.run_until(2_000.0);
        let log = world.since(0.0);
        assert!(
            log.len() == stops && log.iter().all(|entry| entry.1 == "stop"),
            "{log:?}"
        );
        assert!(
            log.iter()
                .all(|entry| (1_600.0..1_640.0).contains(&entry.0)),
            "{log:?}"
        );
        let counted = world.policy.counts.get("owner").copied();
        assert_eq!(counted.unwrap_or(0), stops as u64);
    }
}

#[test]
fn noise_changes_direction_once_per_calm_at_most() {
    for (when_busy, cores) in each_policy() {
        // Loads of 3 to 25 s at odd times, up to all cores.
        let owner = move |t: f64| {
            let wave = (t / 17.0).sin() + (t / 5.3).sin() + (t / 41.0).cos();
            if wave > 0.8 {
                cores * (wave - 0.8).min(1.0)
            } else {
                NOISE
            }
        };
        let mut world = World::new(cores, &policy(when_busy), owner);
        filled(&mut world);
        world.run_until(4_000.0);
        let mut turns: Vec<f64> = Vec::new();
        let mut last = "";
        for (at, kind) in world.since(0.0) {
            let direction = match kind {
                // What was paused for too long is stopped: it was down before.
                "stop" if when_busy == "pause" => continue,
                "pause" | "stop" | "kill" => "down",
                _ => "up",
            };
            if direction == "up" && last == "down" {
                turns.push(at);
            }
            last = direction;
        }
        let gaps: Vec<f64> = turns.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.iter().all(|gap| *gap >= 60.0),
            "{when_busy} on {cores} cores: {gaps:?}"
        );
    }
}

fn each_policy() -> impl Iterator<Item = (&'static str, f64)> {
    ["auto", "yield", "pause", "stop"]
        .into_iter()
        .flat_map(|policy| [1.0, 2.0, 8.0, 96.0].map(|cores| (policy, cores)))
}

#[test]
fn a_list_that_failed_changes_nothing() {
    let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    world.twist = Box::new(|seen| {
        seen.pilots = None;
        seen.engine = EngineState::Down("connection refused".to_owned());
    });
    world.run_until(600.0);
    assert_eq!(
        (world.since(0.0), world.reason.code),
        (vec![], Code::EngineDown)
    );
    assert_eq!(world.state, State::Waiting);
    world.twist = Box::new(|_| {});
    world.run_until(700.0);
    assert_eq!(
        (world.since(0.0), world.running()),
        (vec![], 4),
        "no pilot was counted as gone meanwhile"
    );
}

#[test]
fn a_failed_launch_ends_the_ticks_launching_and_backs_off() {
    let mut policy = PolicyState::new(3);
    let mut world = World::new(8.0, ONE_CORE, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let (mut seen, mut tries, mut waits) = (world.observation(), 0, Vec::new());
    let mut last = seen.at.boot;
    for _ in 0..2_000 {
        let decision = decide(&world.config, &mut policy, &seen);
        seen.news.clear();
        for action in &decision.actions {
            let Action::Launch { class, name } = action else {
                panic!("{action:?}")
            };
            tries += 1;
            waits.push((seen.at.boot - last).round());
            last = seen.at.boot;
            let result = LaunchResult::Failed("exec: not found".to_owned());
            seen.news.push(News::Launched {
                class: class.name.clone(),
                name: name.clone(),
                at: seen.at.boot,
                result,
            });
        }
        let step = if seen.news.is_empty() {
            decision.wake_in.unwrap()
        } else {
            0.2
        };
        seen.at.boot += step;
        seen.listed_at = seen.at.boot;
    }
    assert!(tries >= 8, "it does not give up: {waits:?}");
    assert!(
        waits
            .windows(2)
            .skip(1)
            .take(5)
            .all(|pair| pair[1] > pair[0] * 1.1),
        "each wait is longer: {waits:?}"
    );
    assert!(
        waits.iter().all(|wait| *wait <= 900.0 * 1.26),
        "up to a quarter of an hour: {waits:?}"
    );
}

#[test]
fn what_was_created_and_is_not_being_started_is_removed_at_once_and_holds_no_slot() {
    let left_over = [
        ("created", PilotState::Created, true),
        ("dead", PilotState::Dead, true),
        ("odd", PilotState::Other, false),
        ("removing", PilotState::Removing, false),
    ];
    for (name, state, is_removed) in left_over {
        let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
        filled(&mut world);
        let mut pilot = world.pilots.pop().unwrap();
        (pilot.name, pilot.state) = (name.to_owned(), state);
        let mut foreign = pilot.clone();
        (foreign.id, foreign.own) = (PilotId::new(&"f".repeat(64)).unwrap(), false);
        let removal = Action::Remove {
            id: pilot.id.clone(),
            name: pilot.name.clone(),
            class: pilot.class.clone(),
        };
        world.pilots.push(pilot);
        assert_eq!(
            world.tick().actions.contains(&removal),
            is_removed,
            "{name}"
        );
        world.run_until(world.now + 10.0);
        let is_full = world.running() == 4;
        assert_eq!(is_full, state != PilotState::Other, "{name}");
        world.pilots.push(foreign);
        let touched = format!("{:?}", world.tick().actions);
        assert!(!touched.contains("ffffff"), "{name}: {touched}");
    }
}

#[test]
fn ttl_counts_awake_time_and_ends_in_kill() {
    let mut world = World::new(
        1.0,
        "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nttl = \"5m\"\n",
        |_| 0.0,
    );
    world.run_until(200.0);
    let mut seen = world.observation();
    // A night with the lid closed: 8 hours by the wall clock, none awake.
    seen.at.epoch += 28_800.0;
    seen.at.boot += 28_800.0;
    assert_eq!(decide(&world.config, &mut world.policy, &seen).actions, []);
    seen.at.awake += 300.0;
    seen.at.boot += 300.0;
    let id = world.pilots[0].id.clone();
    let decision = decide(&world.config, &mut world.policy, &seen);
    assert_eq!(
        decision.actions,
        [Action::Terminate {
            id: id.clone(),
            paused: false
        }]
    );
    assert!(
        (9.9..=10.0).contains(&decision.wake_in.unwrap()),
        "the end of the grace wakes the loop"
    );
    seen.at.boot += 10.0;
    assert_eq!(
        decide(&world.config, &mut world.policy, &seen).actions,
        [Action::Kill { id, paused: false }]
    );
}

#[test]
fn two_instances_count_each_other() {
    let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
    world.run_until(120.0);
    let mut other = world.pilots.pop().unwrap();
    world.pilots.clear();
    other.own = false;
    other.cpus = 3.0;
    world.pilots.push(other.clone());
    world.run_until(300.0);
    assert_eq!(
        world.pilots.iter().filter(|pilot| pilot.own).count(),
        1,
        "{}",
        world.reason.text
    );
    world.control.force_stop = true;
    let touched = world.tick().actions;
    assert!(
        !touched
            .iter()
            .any(|action| format!("{action:?}").contains(other.id.as_str())),
        "{touched:?}"
    );
}

#[test]
fn a_force_stop_waits_for_no_grace() {
    let mut world = World::new(1.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    let id = world.pilots[0].id.clone();
    let mut seen = world.observation();
    seen.at.awake += 50_000.0;
    assert_eq!(
        decide(&world.config, &mut world.policy, &seen)
            .actions
            .len(),
        1,
        "its ttl is over"
    );
    seen.control.force_stop = true;
    let actions = decide(&world.config, &mut world.policy, &seen).actions;
    assert_eq!(actions, [Action::Kill { id, paused: false }]);
}

#[test]
fn a_rate_that_can_not_be_read_costs_no_tick_a_second() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.twist = Box::new(|seen| seen.cpu = None);
    assert_eq!(world.tick().wake_in, Some(1.0));
    world.run_until(world.now + 60.0);
    assert_eq!(
        (world.tick().wake_in, world.reason.code),
        (Some(10.0), Code::Starting)
    );
}
