//! Every sentence that a decision can say, with one example: read them together, they are one voice.

use super::state::Wait;
use super::*;
use crate::config::OnBattery;
use crate::units::{Bytes, word};

const TWO: Bytes = Bytes(2 * GIB);

/// What is said in a tick of this world, in which `pilots` run or are paused. `say` may change what was measured.
fn in_tick(world: &mut World, say: impl Fn(&mut Tick) -> Reason) -> Reason {
    let (seen, config) = (world.observation(), world.config.clone());
    let (share, owner, hours) = config.effective(0, 0);
    let mut tick = Tick {
        config: &config,
        state: &mut world.policy,
        seen: &seen,
        now: seen.at.boot,
        share,
        owner,
        hours,
        pilots: seen.pilots.as_deref().unwrap(),
        own: Vec::new(),
        slots: BTreeMap::new(),
        rules: Vec::new(),
        out: Decision::default(),
    };
    tick.take_stock();
    tick.measure_capacity();
    say(&mut tick)
}

/// With so many one-core pilots, an owner who uses 0.2 cores, and protection or not.
fn world(cores: f64, pilots: usize, is_protected: bool) -> World {
    let mut world = World::new(cores, &ONE_CORE.replace("\"a\"", "\"science\""), |_| NOISE);
    world.run_until(200.0);
    let class = world.config.pilots[0].clone();
    let pilots = 0..pilots as u64;
    world.pilots = pilots
        .map(|number| pilot(number, &class, &format!("p{number}"), world.now))
        .collect();
    world.policy = PolicyState::new(7);
    if !is_protected {
        world.protection = Protection::None("the engine does not use cgroup v2".to_owned());
    }
    world
}

fn of_commands_and_rules() -> Vec<Reason> {
    let hours = "during these hours (Mon-Fri 09:00-17:00)";
    let on = Owner {
        on_battery: OnBattery::Run,
        ..Owner::default()
    };
    vec![
        reason::of_engine(&EngineState::Unknown),
        reason::of_engine(&EngineState::Down(
            "/var/run/docker.sock: connection refused".to_owned(),
        )),
        reason::of_engine(&EngineState::Unsupported(
            "Docker 1.12 is too old: it speaks API 1.24, and 1.41 is needed".to_owned(),
        )),
        Reason::of(Code::NoPilot, 0.0, 0.0, reason::NO_PILOT),
        Reason::of(Code::ForceStop, 0.0, 0.0, ""),
        reason::drain(None, 0),
        reason::drain(None, 1),
        reason::drain(Some(7_200.0), 2),
        reason::drain(Some(0.0), 2),
        Reason::of(Code::Snooze, 7_140.0, 0.0, ""),
        Reason::of(Code::Hold, 0.0, 0.0, "price.hold: electricity is expensive"),
        Reason::of(Code::Program, 0.0, 0.0, "zoom"),
        reason::unread(12.0, 10.0),
        reason::battery(None, &Owner::default()),
        reason::battery(Some(80.0), &Owner::default()),
        reason::battery(Some(25.0), &on),
        reason::battery(None, &on),
        reason::temperature(Some(91.0), 85.0, 3),
        reason::temperature(None, 80.0, 0),
        Reason::of(Code::MaxPilots, 1.0, 1.0, reason::MAX_PILOTS),
        Reason::of(Code::MaxPilots, 1.0, 0.0, reason::MAX_PILOTS),
        Reason::of(Code::Hours, 2.0, 0.0, hours),
        reason::disk(None, Bytes(10 * GIB)),
        reason::disk(Some(9 * GIB), Bytes(10 * GIB)),
        reason::memory(GIB / 2, TWO),
        Reason::of(Code::MemoryPressure, 40.0, 20.0, ""),
    ]
}

/// Why a class waits.
fn whys() -> Vec<(Code, String)> {
    let ended = |exit_code, error: &str, log_tail: &str| Ended {
        exit_code,
        lived: Some(3.0),
        error: error.to_owned(),
        log_tail: log_tail.to_owned(),
        ..Ended::default()
    };
    let mount = reason::mount_missing("/cvmfs/science.example.org");
    let no_image = "the engine does not find the image 'registry.example.org/science:1'";
    let not_found = ended(127, "", "starting\nsh: 1: worker: not found\n");
    let mut whys = vec![
        (Code::MountMissing, mount),
        (Code::BackOff, reason::IMAGE_GONE.to_owned()),
        (Code::BackOff, no_image.to_owned()),
    ];
    let failed = [
        (EndKind::NeverRan, ended(0, "", "")),
        (EndKind::NeverRan, ended(0, "exec format error", "")),
        (EndKind::OutOfMemory, ended(137, "", "")),
        (EndKind::Failed, ended(128, "no such device", "")),
        (EndKind::Failed, not_found),
        (EndKind::Failed, ended(1, "", "")),
    ];
    let failed = failed.map(|(kind, ended)| (Code::BackOff, reason::pilot_failed(kind, &ended)));
    whys.extend(failed);
    whys.push((Code::NoWork, reason::no_work(&ended(75, "", ""))));
    whys
}

fn of_classes() -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (code, why) in whys() {
        let wait = Wait {
            until: 0.0,
            times: 1,
            code,
            why,
            lives: 30.0,
        };
        reasons.push(reason::waiting("science", &wait, Some(299.5)));
        if code == Code::NoWork {
            reasons.push(reason::waiting("science", &wait, None));
        }
    }
    let image = "registry.example.org/science:1";
    reasons.push(reason::probing("science"));
    reasons.push(Reason::of(Code::Probing, 0.0, 0.0, reason::PROBING));
    reasons.push(Reason::of(Code::Image, 0.0, 0.0, image));
    reasons.push(Reason::of(Code::ClassMax, 2.0, 2.0, "science"));
    reasons
}

fn of_load() -> Vec<Reason> {
    let first_look = Reason::of(Code::Starting, 0.0, 0.0, reason::FIRST_LOOK);
    let mut paused = world(2.0, 1, true);
    paused.pilots[0].state = PilotState::Paused;
    let mut launching = world(2.0, 0, true);
    launching.tick();
    launching.pilots.clear();
    let large = |tick: &mut Tick| {
        let class = PilotClass {
            memory: Bytes(9 * GIB),
            ..tick.config.pilots[0].clone()
        };
        tick.full_of_memory(float(GIB), &class)
    };
    let blind = |tick: &mut Tick| {
        tick.out.capacity.need_unknown = true;
        tick.busy()
    };
    vec![
        first_look,
        in_tick(&mut world(2.0, 1, true), |tick| tick.starting()),
        in_tick(&mut paused, |tick| tick.starting()),
        in_tick(&mut launching, |tick| tick.starting()),
        in_tick(&mut world(2.0, 1, false), |tick| tick.busy()),
        in_tick(&mut world(2.0, 1, false), blind),
        in_tick(&mut world(2.0, 1, true), |tick| tick.tight(0.5)),
        in_tick(&mut world(2.0, 1, true), |tick| tick.calming(60.0)),
        in_tick(&mut paused, |tick| tick.calming(59.2)),
        in_tick(&mut world(2.0, 2, true), |tick| {
            tick.full_of_share(1.0, 0.0)
        }),
        in_tick(&mut world(2.0, 0, true), |tick| {
            tick.full_of_share(4.0, 2.0)
        }),
        in_tick(&mut world(8.0, 7, true), |tick| {
            tick.full_of_cores(1.5, 0.8, 1.0)
        }),
        in_tick(&mut world(8.0, 6, false), |tick| {
            tick.full_of_cores(1.0, 0.8, 1.0)
        }),
        in_tick(&mut world(2.0, 0, false), |tick| {
            tick.full_of_cores(1.0, 0.8, 1.0)
        }),
        in_tick(&mut world(8.0, 6, true), large),
        in_tick(&mut world(8.0, 0, true), large),
    ]
}

/// Those about rules that can't be kept.
fn of_void_rules() -> Vec<String> {
    let seen = Observation {
        has_battery: true,
        hides_programs: true,
        ..Observation::default()
    };
    let owner = Owner {
        max_temperature: 80,
        on_battery: OnBattery::Run,
        pause_while_running: vec!["zoom".to_owned()],
        ..Owner::default()
    };
    reason::void(&seen, &owner, Bytes(10 * GIB))
}

#[test]
fn every_sentence() {
    let mut reasons = of_commands_and_rules();
    reasons.extend(of_classes());
    reasons.extend(of_load());
    let lines = reasons
        .iter()
        .map(|reason| format!("{}: {}\n", word(reason.code), reason.text));
    let void = of_void_rules()
        .into_iter()
        .map(|text| format!("void: {text}\n"));
    let found: String = lines.chain(void).collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentences.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(file).unwrap_or_default());
    // A code that is added needs its example.
    let source = include_str!("../reason.rs")
        .split_once("pub enum Code {")
        .unwrap()
        .1;
    let codes = source.split_once('}').unwrap().0.lines().map(str::trim);
    let codes = codes
        .filter_map(|line| line.strip_suffix(','))
        .filter(|code| *code != "Unknown");
    let said: Vec<String> = reasons
        .iter()
        .map(|reason| format!("{:?}", reason.code))
        .collect();
    let missing: Vec<&str> = codes
        .filter(|code| !said.iter().any(|said| said == code))
        .collect();
    assert_eq!(missing, [""; 0]);
}
