//! Replayed ticks: a made-up machine that obeys the decision at once, so that an hour takes milliseconds.

use super::ends::EndKind;
use super::*;
use crate::config;
use crate::units::Moment;

const GIB: u64 = 1 << 30;

/// A machine, its owner and an engine that never fails.
struct World {
    config: Config,
    memory: Memory,
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

fn config(text: &str) -> Config {
    config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems:?}"))
}

const ONE_CORE: &str = "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\ncpus = 1.0\nmemory = \"64MiB\"\n";

impl World {
    fn new(cores: f64, text: &str, owner: impl Fn(f64) -> f64 + 'static) -> World {
        World {
            config: config(text),
            memory: Memory::new(7),
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
        self.pilots.iter().filter(|pilot| pilot.state == PilotState::Running).count()
    }

    /// What /proc/stat would say about the time since the last look. Without protection a crowded owner gets a share only.
    fn sample(&mut self) {
        let window = self.now - self.sampled;
        if self.sampled > 0.0 && window < 0.9 {
            return;
        }
        let steps = 200;
        let wanted: f64 = (0..steps)
            .map(|step| {
                (self.owner)(self.sampled + window * (f64::from(step) + 0.5) / f64::from(steps)).min(self.cores)
            })
            .sum::<f64>()
            / f64::from(steps);
        let pilots: f64 = self.pilots.iter().filter(|p| p.state == PilotState::Running).map(|p| p.cpus).sum();
        let foreign = match self.protection {
            Protection::Verified => wanted,
            _ if wanted + pilots > self.cores => self.cores * wanted / (wanted + pilots),
            _ => wanted,
        };
        let pilots = pilots.min(self.cores - foreign);
        if self.sampled > 0.0 {
            self.smooth.update(foreign, window);
            let foreign_smooth = self.smooth.value().unwrap_or(foreign);
            self.cpu = Some(CpuUse { busy: foreign + pilots, pilots, foreign, foreign_smooth, window, at: self.now });
        }
        self.sampled = self.now;
    }

    fn observation(&mut self) -> Observation {
        self.sample();
        let given: u64 = self.pilots.iter().map(|pilot| pilot.memory).sum();
        let mut seen = Observation {
            at: Moment { awake: self.now, boot: self.now, epoch: self.now + 1e9 },
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

    /// One tick; what it decided is done at once.
    fn tick(&mut self) -> Decision {
        let seen = self.observation();
        let decision = decide(&self.config, &mut self.memory, &seen);
        (self.reason, self.state) = (decision.reason.clone(), decision.state);
        for action in &decision.actions {
            self.obey(action);
        }
        decision
    }

    fn run_until(&mut self, end: f64) {
        while self.now < end {
            let decision = self.tick();
            let step = if decision.actions.is_empty() { decision.wake_in.unwrap_or(10.0) } else { 0.3 };
            self.now += step;
        }
    }

    fn obey(&mut self, action: &Action) {
        let kind = match action {
            Action::Launch { class, name } => {
                self.next += 1;
                let class = self.config.pilots.iter().find(|c| c.name == *class).unwrap();
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
                self.news.push(News::Launched { class: class.name.clone(), name: name.clone(), at: self.now, result });
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
            Action::Bury { id, name, class } => {
                self.pilots.retain(|pilot| pilot.id != *id);
                let ended = Ended { exit_code: 143, lived: Some(60.0), ..Ended::default() };
                let (id, name, class) = (id.clone(), name.clone(), class.clone());
                self.news.push(News::Buried { id, name, class, ended: Some(ended) });
                return;
            }
            Action::Fetch { .. } | Action::Discard { .. } | Action::MendGroup => return,
        };
        self.log.push((self.now, kind, self.running()));
    }

    fn set(&mut self, id: &PilotId, state: PilotState, kind: &'static str) -> &'static str {
        self.pilots.iter_mut().find(|pilot| pilot.id == *id).unwrap().state = state;
        kind
    }

    fn since(&self, start: f64) -> Vec<(f64, &'static str)> {
        self.log.iter().filter(|(at, ..)| *at >= start).map(|(at, kind, _)| (*at, *kind)).collect()
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
        let mut world = World::new(cores, ONE_CORE, move |t| if t % 97.0 < 3.0 { cores } else { NOISE });
        filled(&mut world);
        assert_eq!(world.running().to_string(), cores.to_string(), "{cores} cores: {:?}", world.reason);
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
        assert_eq!(world.running(), pilots, "{cores} cores: {}", world.reason.text);
        if pilots == 0 {
            assert_eq!(world.reason.code, Code::NothingFits);
            assert!(world.reason.text.contains("0.2 are the owner's, 1.0 reserved"), "{}", world.reason.text);
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
            let mut world = World::new(cores, &policy(when_busy), load_between(cores, from, from + 6.0));
            filled(&mut world);
            world.run_until(1_300.0);
            assert_eq!(world.since(0.0), [], "{when_busy} on {cores} cores, burst at {from}");
        }
    }
}

#[test]
fn a_steady_load_is_met_within_20_seconds_and_released_after_calm() {
    for (when_busy, cores) in each_policy().filter(|(policy, _)| ["pause", "stop"].contains(policy)) {
        for offset in 0..10 {
            let from = 1_000.0 + f64::from(offset) + 0.1;
            let mut world = World::new(cores, &policy(when_busy), load_between(cores, from, 1_400.0));
            filled(&mut world);
            world.run_until(1_900.0);
            let case = format!("{when_busy} on {cores} cores, load at {from}: {:?}", world.since(0.0));
            let first = world.log.first().map_or(f64::INFINITY, |entry| entry.0);
            assert!((9.0..=20.0).contains(&(first - from)), "{case}");
            let back = world.log.iter().find(|(_, kind, _)| matches!(*kind, "unpause" | "launch")).map_or(0.0, |e| e.0);
            assert!((1_460.0..=1_490.0).contains(&back), "back at {back}: {case}");
            assert_eq!(world.running().to_string(), cores.to_string(), "{case}");
        }
    }
}

#[test]
fn yielding_pilots_are_left_to_the_kernel_and_not_replaced() {
    for cores in [2.0, 8.0, 96.0] {
        let mut world = World::new(cores, &policy("auto"), move |t| if t > 1_000.0 { cores } else { NOISE });
        filled(&mut world);
        world.run_until(1_100.0);
        assert_eq!(world.since(0.0), []);
        assert_eq!(world.reason.code, Code::Busy);
        world.pilots.pop();
        world.run_until(1_200.0);
        assert_eq!(world.since(0.0), [], "nothing is launched beside a busy owner");
    }
}

#[test]
fn a_starved_pilot_is_stopped_after_the_limit() {
    let mut world = World::new(2.0, &policy("auto"), |t| if t > 1_000.0 { 2.0 } else { NOISE });
    world.twist = Box::new(|seen| {
        let crowded = seen.at.boot > 1_000.0;
        seen.pilots.iter_mut().flatten().for_each(|pilot| pilot.used = Some(if crowded { 0.001 } else { 1.0 }));
    });
    filled(&mut world);
    world.run_until(2_000.0);
    let stops: Vec<_> = world.since(0.0);
    assert_eq!(stops.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), ["stop", "stop"]);
    assert!((1_600.0..1_640.0).contains(&stops[0].0), "{stops:?}");
    assert_eq!(world.memory.counts.get("owner"), Some(&2));
}

#[test]
fn a_waiting_pilot_is_not_starved() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.twist = Box::new(|seen| seen.pilots.iter_mut().flatten().for_each(|pilot| pilot.used = Some(0.0)));
    filled(&mut world);
    world.run_until(2_000.0);
    assert_eq!(world.since(0.0), [], "a pilot that waits for a job keeps its place");
}

#[test]
fn noise_changes_direction_once_per_calm_at_most() {
    for (when_busy, cores) in each_policy() {
        // Loads of 3 to 25 s at odd times, up to all cores.
        let owner = move |t: f64| {
            let wave = (t / 17.0).sin() + (t / 5.3).sin() + (t / 41.0).cos();
            if wave > 0.8 { cores * (wave - 0.8).min(1.0) } else { NOISE }
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
        assert!(gaps.iter().all(|gap| *gap >= 60.0), "{when_busy} on {cores} cores: {gaps:?}");
    }
}

fn each_policy() -> impl Iterator<Item = (&'static str, f64)> {
    ["auto", "yield", "pause", "stop"].into_iter().flat_map(|policy| [1.0, 2.0, 8.0, 96.0].map(|cores| (policy, cores)))
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
    assert_eq!((world.since(0.0), world.reason.code), (vec![], Code::EngineDown));
    assert_eq!(world.state, State::Waiting);
    world.twist = Box::new(|_| {});
    world.run_until(700.0);
    assert_eq!((world.since(0.0), world.running()), (vec![], 4), "no pilot was counted as gone meanwhile");
}

#[test]
fn a_failed_launch_ends_the_ticks_launching_and_backs_off() {
    let mut memory = Memory::new(3);
    let mut world = World::new(8.0, ONE_CORE, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let (mut seen, mut tries, mut waits) = (world.observation(), 0, Vec::new());
    let mut last = seen.at.boot;
    for _ in 0..2_000 {
        let decision = decide(&world.config, &mut memory, &seen);
        seen.news.clear();
        for action in &decision.actions {
            let Action::Launch { class, name } = action else { panic!("{action:?}") };
            tries += 1;
            waits.push((seen.at.boot - last).round());
            last = seen.at.boot;
            let result = LaunchResult::Failed("exec: not found".to_owned());
            seen.news.push(News::Launched { class: class.clone(), name: name.clone(), at: seen.at.boot, result });
        }
        let step = if seen.news.is_empty() { decision.wake_in.unwrap() } else { 0.2 };
        seen.at.boot += step;
        seen.listed_at = seen.at.boot;
    }
    assert!(tries >= 8, "it does not give up: {waits:?}");
    assert!(waits.windows(2).skip(1).take(5).all(|pair| pair[1] > pair[0] * 1.1), "each wait is longer: {waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 900.0 * 1.26), "up to a quarter of an hour: {waits:?}");
}

#[test]
fn what_is_gone_at_once_is_looked_at_before_it_is_replaced() {
    for (age, replaced) in [(1.0, 0), (60.0, 1)] {
        let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
        world.run_until(120.0);
        assert_eq!(world.running(), 2);
        let ended = world.pilots[0].clone();
        world.pilots[0].state = PilotState::Exited;
        world.pilots[0].created = world.now + 1e9 - age;
        let launches =
            |decision: Decision| decision.actions.iter().filter(|a| matches!(a, Action::Launch { .. })).count();
        let seen = world.observation();
        assert_eq!(launches(decide(&world.config, &mut world.memory, &seen)), replaced, "{age} s old");
        // Removed already, but how it ended has not landed yet.
        world.pilots.remove(0);
        let mut seen = world.observation();
        seen.at.boot += 0.1;
        assert_eq!(launches(decide(&world.config, &mut world.memory, &seen)), 0, "{age} s old");
        let last = Ended { lived: Some(2.0), ..Ended::default() };
        seen.news = vec![News::Buried { id: ended.id, name: ended.name, class: ended.class, ended: Some(last) }];
        assert_eq!(launches(decide(&world.config, &mut world.memory, &seen)), 1 - replaced, "{age} s old");
    }
}

/// Lets each pilot of class `a` end after it lived so long, with that code, while `seconds` pass; when it was launched.
fn launches_of_class(world: &mut World, lives: f64, code: i64, seconds: f64) -> Vec<f64> {
    let end = world.now + seconds;
    world.log.clear();
    let mut launches = Vec::new();
    while world.now < end {
        let decision = world.tick();
        let of_a = |action: &&Action| matches!(action, Action::Launch { class, .. } if class == "a");
        launches.extend(decision.actions.iter().filter(of_a).map(|_| world.now));
        let now = world.now + 1e9;
        let ended: Vec<Pilot> =
            world.pilots.iter().filter(|p| p.class == "a" && now - p.created >= lives).cloned().collect();
        world.pilots.retain(|pilot| !ended.iter().any(|gone| gone.id == pilot.id));
        for Pilot { id, name, class, .. } in ended {
            let ended = Some(Ended { exit_code: code, lived: Some(lives), ..Ended::default() });
            world.news.push(News::Buried { id, name, class, ended });
        }
        let look = if launches.len() < 5 { 0.5 } else { 2.0 };
        world.now += if world.news.is_empty() { decision.wake_in.unwrap().min(look) } else { 0.3 };
    }
    launches
}

const TWO_CLASSES: &str = "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nno-work-pause = \"2m\"\n\
    [[pilot]]\nname = \"b\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nmax = 6\n";

#[test]
fn a_broken_class_is_tried_seldom_and_takes_nothing_from_the_other() {
    let ends = [(0.1, 1), (1.5, 1), (5.0, 1), (12.0, 1), (0.1, 75), (0.1, 0)];
    for (cores, most, (lives, code)) in
        [(1.0, 0), (2.0, 1), (8.0, 6), (96.0, 90)].into_iter().flat_map(|(n, most)| ends.map(|end| (n, most, end)))
    {
        let both = TWO_CLASSES.replace("max = 6", &format!("max = {most}"));
        let text = if most > 0 { &both } else { both.split("[[pilot]]\nname = \"b\"").next().unwrap() };
        let mut world = World::new(cores, text, |_| NOISE);
        let launches = launches_of_class(&mut world, lives, code, 3_600.0);
        let case = format!("{code} after {lives} s on {cores} cores: {launches:?}");
        // What runs for two seconds is believed, and fills the room until its first end.
        let believed = if lives > 2.0 { launches[0] + lives } else { 0.0 };
        let tries: Vec<f64> = launches.iter().copied().filter(|at| *at > believed).collect();
        for minute in &tries {
            let in_minute = tries.iter().filter(|at| (*minute..*minute + 60.0).contains(*at)).count();
            assert!(in_minute <= 5, "{case}");
        }
        let others = world.pilots.iter().filter(|pilot| pilot.class == "b").count();
        assert_eq!(others, most, "of b beside {case}");
        match code {
            // Work may come at any time: it is asked at least each two minutes and a half.
            0 | 75 => {
                assert!(launches.windows(2).all(|pair| pair[1] - pair[0] < 160.0) && launches.len() > 20, "{case}")
            }
            _ => assert!(tries.len() < 20, "{case}"),
        }
        let expected = if code == 1 { EndKind::Failed } else { EndKind::NoWork };
        assert!(world.memory.gone.iter().all(|gone| gone.kind == expected), "{case}");
    }
}

#[test]
fn one_pilot_that_lives_ends_the_back_off() {
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    launches_of_class(&mut world, 0.1, 1, 120.0);
    assert!(world.memory.classes["a"].failures > 2);
    // Mended: there is one probe first, and what else fits once it has run for half a minute.
    let probes = launches_of_class(&mut world, 1e9, 0, 150.0);
    assert!(probes.len() == 2 && probes[1] - probes[0] >= 30.0, "{probes:?}");
    assert_eq!(world.memory.classes["a"].failures, 0);
    // Or it was configured otherwise: that is not made to wait for what was learned before.
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    launches_of_class(&mut world, 0.1, 1, 120.0);
    let changed = config(&TWO_CLASSES.replacen("memory", "command = [\"x\"]\nmemory", 1));
    world.memory.forget_changed(&world.config, &changed, world.now + 1e9);
    (world.config, world.news) = (changed, Vec::new());
    let start = world.now;
    let tries = launches_of_class(&mut world, 1e9, 0, 10.0);
    assert!(tries.len() == 2 && tries[0] <= start && tries[1] <= start + 3.0, "{tries:?} from {start} on");
}

#[test]
fn a_new_class_shows_with_one_pilot_that_it_runs() {
    let of_a = |world: &World| world.pilots.iter().filter(|pilot| pilot.class == "a").count();
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    world.run_until(102.0);
    assert_eq!(of_a(&world), 1, "{:?}", world.log);
    assert_eq!(world.reason.code, Code::Probing, "{}", world.reason.text);
    world.run_until(104.0);
    assert_eq!(world.running(), 8, "without waiting for the next regular tick: {:?}", world.log);
    // Of another daemon, or before a restart: what runs already is proof enough.
    (world.memory, world.news) = (Memory::new(8), Vec::new());
    world.pilots.truncate(2);
    world.run_until(world.now + 2.0);
    assert_eq!(world.running(), 8, "{:?}", world.log);
    // Changed, it is new; what runs has the old rules and proves nothing.
    let changed = config(&TWO_CLASSES.replacen("memory", "command = [\"x\"]\nmemory", 1));
    world.now += 5.0;
    world.memory.forget_changed(&world.config, &changed, world.now + 1e9);
    world.config = changed;
    let (mut kept, others): (Vec<Pilot>, Vec<Pilot>) = world.pilots.drain(..).partition(|pilot| pilot.class == "a");
    kept.truncate(1);
    world.pilots.extend(kept.into_iter().chain(others));
    world.tick();
    assert_eq!(of_a(&world), 2, "one more, although more fit: {:?}", world.log);
    world.run_until(world.now + 4.0);
    assert_eq!(world.running(), 8);
}

#[test]
fn images_are_refreshed_in_time_and_never_against_the_owner() {
    let text = ONE_CORE.replace("\"builtin\"", "\"x:1\"\nimage-refresh = \"10m\"");
    let mut world = World::new(2.0, &text, |_| NOISE);
    let fetches = |world: &mut World, end: f64, result: Result<(), String>| {
        let mut at = Vec::new();
        while world.now < end {
            let decision = world.tick();
            if decision.actions.contains(&Action::Fetch { class: "a".to_owned() }) {
                at.push(world.now);
                world.news.push(News::Fetched { class: "a".to_owned(), result: result.clone() });
            }
            world.now += decision.wake_in.unwrap();
        }
        at
    };
    let hour = fetches(&mut world, 3_700.0, Ok(()));
    assert!((4..=8).contains(&hour.len()), "each 10 min, more or less: {hour:?}");
    assert!(hour.windows(2).all(|pair| (450.0..=765.0).contains(&(pair[1] - pair[0]))), "{hour:?}");
    // What fails is tried again sooner, then more and more seldom; pilots go on with the local image.
    let failing = fetches(&mut world, 7_300.0, Err("no route".to_owned()));
    assert!(failing.len() >= 6 && failing[1] - failing[0] < 90.0, "{failing:?}");
    assert_eq!(world.running(), 2);
    world.control.snooze = Some(Snooze { until: 1e10 });
    assert_eq!(fetches(&mut world, 9_000.0, Ok(())), Vec::<f64>::new());
    world.control.snooze = None;
    world.run_until(9_100.0);
    fetches(&mut world, 9_300.0, Ok(()));
    world.control.pull = true;
    let start = world.now;
    world.tick();
    world.control.pull = false;
    world.memory.classes.get_mut("a").unwrap().refreshing = false;
    assert!(world.now - start < 1.0 && world.memory.classes["a"].refresh_at.unwrap() <= start, "asked for now");
}

#[test]
fn a_launch_is_counted_once_whatever_the_list_shows() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let seen = world.observation();
    let launched = |decision: &Decision| {
        decision
            .actions
            .iter()
            .filter_map(|a| if let Action::Launch { name, .. } = a { Some(name.clone()) } else { None })
            .collect::<Vec<_>>()
    };
    // The first one is alone, because nobody knows yet whether its image is there.
    let first = launched(&decide(&world.config, &mut world.memory, &seen));
    assert_eq!(first.len(), 1);
    let mut later = Observation { at: Moment { boot: seen.at.boot + 5.0, ..seen.at }, ..seen.clone() };
    later.listed_at = later.at.boot;
    assert_eq!(launched(&decide(&world.config, &mut world.memory, &later)), [""; 0], "it is in flight");
    // The reply is lost: it may exist, and holds its room until a list asked for later does not show it.
    let at = later.at.boot + 1.0;
    let result = LaunchResult::Lost("the answer is cut off".to_owned());
    later.news = vec![News::Launched { class: "a".to_owned(), name: first[0].clone(), at, result }];
    later.at.boot += 2.0;
    later.listed_at = at - 0.5;
    decide(&world.config, &mut world.memory, &later);
    assert_eq!(world.memory.launching.len(), 1, "the list is older than the answer");
    later.news.clear();
    later.listed_at = at + 0.5;
    decide(&world.config, &mut world.memory, &later);
    assert_eq!(world.memory.launching.len(), 0, "a later list does not show it: it never was");
}

#[test]
fn created_pilots_are_left_for_two_minutes_and_dead_ones_removed() {
    let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
    world.run_until(120.0);
    let epoch = world.now + 1e9;
    let names = ["young", "old", "dead", "odd", "removing"];
    for (name, (state, age)) in names.into_iter().zip([
        (PilotState::Created, 60.0),
        (PilotState::Created, 130.0),
        (PilotState::Dead, 5.0),
        (PilotState::Other, 9_000.0),
        (PilotState::Removing, 9_000.0),
    ]) {
        let mut pilot = world.pilots[0].clone();
        pilot.id = PilotId::new(&format!("{:064x}", 1_000 + crate::units::whole(age) + name.len() as u64)).unwrap();
        (pilot.name, pilot.state, pilot.created) = (name.to_owned(), state, epoch - age);
        world.pilots.push(pilot);
    }
    let mut foreign = world.pilots[5].clone();
    foreign.id = PilotId::new(&"f".repeat(64)).unwrap();
    foreign.own = false;
    world.pilots.push(foreign);
    let decision = world.tick();
    let touched: Vec<&PilotId> = decision
        .actions
        .iter()
        .filter_map(|action| if let Action::Discard { id } = action { Some(id) } else { None })
        .collect();
    let expected: Vec<&PilotId> =
        world.pilots.iter().filter(|p| p.own && ["old", "dead"].contains(&p.name.as_str())).map(|p| &p.id).collect();
    assert_eq!(touched, expected);
}

#[test]
fn ttl_counts_awake_time_and_ends_in_kill() {
    let mut world =
        World::new(1.0, "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nttl = \"5m\"\n", |_| 0.0);
    world.run_until(200.0);
    let mut seen = world.observation();
    // A night with the lid closed: 8 hours by the wall clock, none awake.
    seen.at.epoch += 28_800.0;
    seen.at.boot += 28_800.0;
    assert_eq!(decide(&world.config, &mut world.memory, &seen).actions, []);
    seen.at.awake += 300.0;
    seen.at.boot += 300.0;
    let id = world.pilots[0].id.clone();
    let decision = decide(&world.config, &mut world.memory, &seen);
    assert_eq!(decision.actions, [Action::Terminate { id: id.clone(), paused: false }]);
    assert!((9.9..=10.0).contains(&decision.wake_in.unwrap()), "the end of the grace wakes the loop");
    seen.at.boot += 10.0;
    assert_eq!(decide(&world.config, &mut world.memory, &seen).actions, [Action::Kill { id, paused: false }]);
}

#[test]
fn commands_take_effect_in_their_tick() {
    let kinds = |world: &mut World| {
        world
            .tick()
            .actions
            .iter()
            .map(|a| format!("{a:?}").split(' ').next().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    let epoch = world.now + 1e9;
    world.control.snooze = Some(Snooze { until: epoch + 60.0 });
    assert_eq!(kinds(&mut world), ["Pause", "Pause"]);
    assert_eq!((world.state, world.reason.code), (State::Snoozed, Code::Snooze));
    world.control.snooze = None;
    world.now += 1.0;
    assert_eq!(kinds(&mut world), ["Unpause", "Unpause"], "resume is the owner's word and needs no calm");
    world.control.drain = Some(Drain { stop: true, by: Some(epoch + 30.0), since: epoch });
    world.now += 10.0;
    assert_eq!(kinds(&mut world), [""; 0]);
    assert_eq!(world.state, State::Draining);
    world.now += 25.0;
    assert_eq!(kinds(&mut world), ["Terminate", "Terminate"], "by then what still runs is stopped");
    world.now += 1.0;
    assert_eq!(kinds(&mut world), ["Bury", "Bury"]);
    world.now += 1.0;
    assert!(world.tick().finished, "drain --stop ends with the last pilot");
    world.control = Control { force_stop: true, ..Control::default() };
    assert!(world.tick().finished);
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
    assert_eq!(world.pilots.iter().filter(|pilot| pilot.own).count(), 1, "{}", world.reason.text);
    world.control.force_stop = true;
    let touched = world.tick().actions;
    assert!(!touched.iter().any(|action| format!("{action:?}").contains(other.id.as_str())), "{touched:?}");
}

#[test]
fn each_rule_has_its_reason() {
    type Twist = fn(&mut Observation);
    let pausing: [(Code, Twist); 5] = [
        (Code::Battery, |seen| (seen.on_battery, seen.charge) = (true, Some(80))),
        (Code::Program, |seen| seen.program = Some("game".to_owned())),
        (Code::Hold, |seen| seen.hold = Some("price.hold: expensive".to_owned())),
        (Code::Temperature, |seen| seen.temperature = Some(91.0)),
        (Code::Hours, |seen| seen.local = LocalTime { weekday: 1, minute: 600 }),
    ];
    let text = format!("[[when]]\nhours = \"Tue 09:00-11:00\"\nmax-pilots = 0\n{ONE_CORE}");
    for (code, twist) in pausing {
        let mut world = World::new(2.0, &text, |_| NOISE);
        filled(&mut world);
        world.twist = Box::new(twist);
        world.run_until(320.0);
        let first = world.log.first().map(|entry| entry.1);
        assert_eq!((world.reason.code, first), (code, Some("pause")), "{}", world.reason.text);
        let start = world.now;
        world.twist = Box::new(|_| {});
        world.run_until(start + 200.0);
        assert_eq!(world.running(), 2, "{code:?} is over");
        let back = world.since(start).first().map_or(0.0, |entry| entry.0 - start);
        assert!(back >= if code == Code::Hold { 0.0 } else { 45.0 }, "{code:?}: back after {back}");
    }
}

#[test]
fn heat_takes_one_pilot_a_calm_and_gives_one_back() {
    let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    world.twist = Box::new(|seen| seen.temperature = Some(if seen.at.boot < 420.0 { 90.0 } else { 75.0 }));
    world.run_until(415.0);
    assert_eq!(world.running(), 2, "two steps of 60 s: {:?}", world.since(0.0));
    world.run_until(800.0);
    let steps: Vec<f64> = world.since(420.0).iter().map(|entry| entry.0).collect();
    assert_eq!(world.running(), 4, "{:?}", world.since(0.0));
    assert!(steps.windows(2).all(|pair| pair[1] - pair[0] >= 50.0), "one a calm: {steps:?}");
}

#[test]
fn a_force_stop_waits_for_no_grace() {
    let mut world = World::new(1.0, ONE_CORE, |_| NOISE);
    filled(&mut world);
    let id = world.pilots[0].id.clone();
    let mut seen = world.observation();
    seen.at.awake += 50_000.0;
    assert_eq!(decide(&world.config, &mut world.memory, &seen).actions.len(), 1, "its ttl is over");
    seen.control.force_stop = true;
    let actions = decide(&world.config, &mut world.memory, &seen).actions;
    assert_eq!(actions, [Action::Kill { id, paused: false }]);
}

#[test]
fn what_runs_short_stops_the_youngest_one_by_one() {
    type Twist = fn(&mut Observation);
    let scarce: [(Code, Twist); 3] = [
        (Code::Disk, |seen| seen.disk_free = Some(9 * GIB)),
        (Code::Memory, |seen| seen.memory.as_mut().unwrap().available = GIB / 2),
        (Code::MemoryPressure, |seen| seen.memory_pressure = Some(40.0)),
    ];
    for (code, twist) in scarce {
        let mut world = World::new(4.0, ONE_CORE, |_| NOISE);
        filled(&mut world);
        let youngest = world.pilots.last().unwrap().id.clone();
        world.twist = Box::new(twist);
        assert_eq!(world.tick().actions, [Action::Terminate { id: youngest, paused: false }], "{code:?}");
        assert_eq!(world.reason.code, code);
    }
}

#[test]
fn a_rate_that_can_not_be_read_costs_no_tick_a_second() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.twist = Box::new(|seen| seen.cpu = None);
    assert_eq!(world.tick().wake_in, Some(1.0));
    world.run_until(world.now + 60.0);
    assert_eq!((world.tick().wake_in, world.reason.code), (Some(10.0), Code::Starting));
}
