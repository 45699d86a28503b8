//! Replayed ticks of classes: what is broken, new, without work or without its image.

use super::state::Stage;
use super::*;

pub(super) fn failures(world: &mut World) -> u32 {
    match &world.policy.class("a").stage {
        Stage::Waiting(wait) => wait.times,
        _ => 0,
    }
}

#[test]
fn a_failed_launch_ends_the_ticks_launching_and_backs_off() {
    let mut world = World::new(8.0, ONE_CORE, |_| NOISE);
    world.tick();
    world.news.clear();
    (world.policy, world.now) = (PolicyState::new(3), 101.0);
    world.pilots.clear();
    let (mut seen, mut tries) = (world.observation(), Vec::new());
    for _ in 0..2_000 {
        let decision = decide(&world.config, &mut world.policy, &seen);
        seen.news.clear();
        for action in &decision.actions {
            let Action::Launch(_, name) = action else {
                panic!("{action:?}")
            };
            tries.push(seen.at.boot);
            let result = LaunchResult::Failed("exec: not found".to_owned());
            seen.news.push(launched("a", name, seen.at.boot, result));
        }
        let is_quiet = seen.news.is_empty();
        seen.at.boot += if is_quiet {
            decision.wake_in.unwrap()
        } else {
            0.2
        };
        seen.listed_at = seen.at.boot;
    }
    let waits: Vec<f64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() >= 7, "it does not give up: {waits:?}");
    let grows = |pair: &[f64]| pair[1] > pair[0] * 1.1;
    assert!(waits[..6].windows(2).all(grows), "{waits:?}");
    // Up to a quarter of an hour, more or less.
    assert!(waits.iter().all(|wait| *wait <= 900.0 * 1.26), "{waits:?}");
}

#[test]
fn what_is_gone_at_once_is_looked_at_before_it_is_replaced() {
    for (age, replaced) in [(1.0, 0), (60.0, 1)] {
        let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
        world.run_until(120.0);
        assert_eq!(world.running(), 2);
        let (ended, epoch) = (world.pilots[0].clone(), world.epoch());
        world.pilots[0].state = PilotState::Exited;
        world.pilots[0].created = epoch - age;
        let mut seen = world.observation();
        assert_eq!(world.launches(&seen).len(), replaced, "{age} s old");
        // Removed already, but how it ended has not come in yet.
        world.pilots.remove(0);
        (seen.at.boot, seen.pilots) = (seen.at.boot + 0.1, Some(world.pilots.clone()));
        assert_eq!(world.launches(&seen), [""; 0], "{age} s old");
        seen.news = vec![removed(&ended, 0, 2.0)];
        assert_eq!(world.launches(&seen).len(), 1 - replaced, "{age} s old");
    }
}

/// Lets each pilot of class `a` end after it lived so long, with that code, while `seconds` pass; when it was launched.
fn launches_of_class(world: &mut World, lives: f64, code: i64, seconds: f64) -> Vec<f64> {
    let (end, mut launches) = (world.now + seconds, Vec::new());
    while world.now < end {
        let decision = world.tick();
        let of_a =
            |action: &&Action| matches!(action, Action::Launch(class, _) if class.name == "a");
        launches.extend(decision.actions.iter().filter(of_a).map(|_| world.now));
        let now = world.epoch();
        let has_ended = |pilot: &mut Pilot| pilot.class == "a" && now - pilot.created >= lives;
        let ended = world.pilots.extract_if(.., has_ended);
        let ended = ended.map(|pilot| removed(&pilot, code, lives));
        world.news.extend(ended);
        let look = if launches.len() < 5 { 0.5 } else { 2.0 };
        world.now += match world.news.is_empty() {
            true => decision.wake_in.unwrap().min(look),
            false => 0.3,
        };
    }
    launches
}

const TWO_CLASSES: &str = "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nno-work-pause = \"2m\"\n\
    [[pilot]]\nname = \"b\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nmax = 6\n";

impl World {
    /// Class `a` is configured otherwise.
    fn change_class(&mut self) {
        let changed = config(&TWO_CLASSES.replacen("memory", "command = [\"x\"]\nmemory", 1));
        let epoch = self.epoch();
        self.policy.forget_changed(&self.config, &changed, epoch);
        self.config = changed;
    }
}

#[test]
fn a_broken_class_is_tried_seldom_and_takes_nothing_from_the_other() {
    let ends = [(0.1, 1), (1.5, 1), (5.0, 1), (12.0, 1), (0.1, 75), (0.1, 0)];
    let machines = [(1.0, 0), (2.0, 1), (8.0, 6), (96.0, 90)].into_iter();
    for ((cores, most), (lives, code)) in machines.flat_map(|m| ends.map(|end| (m, end))) {
        let both = TWO_CLASSES.replace("max = 6", &format!("max = {most}"));
        let alone = both.split("[[pilot]]\nname = \"b\"").next().unwrap();
        let text = if most > 0 { &both } else { alone };
        let mut world = World::new(cores, text, |_| NOISE);
        let launches = launches_of_class(&mut world, lives, code, 3_600.0);
        let case = format!("{code} after {lives} s on {cores} cores: {launches:?}");
        // What runs for two seconds is believed, and fills the capacity until its first end.
        let believed = if lives > 2.0 {
            launches[0] + lives
        } else {
            0.0
        };
        let tries = launches.iter().copied().filter(|at| *at > believed);
        let tries: Vec<f64> = tries.collect();
        let in_minute = |from: &f64| {
            let minute = *from..*from + 60.0;
            tries.iter().filter(|at| minute.contains(at)).count()
        };
        assert!(tries.iter().all(|from| in_minute(from) <= 5), "{case}");
        assert_eq!(world.of_class("b"), most, "of b beside {case}");
        let is_short = |pair: &[f64]| pair[1] - pair[0] < 160.0;
        let is_right = match code {
            // Work may come at any time: it is asked at least each two minutes and a half.
            0 | 75 => launches.windows(2).all(is_short) && launches.len() > 20,
            _ => tries.len() < 20,
        };
        assert!(is_right, "{case}");
        let kinds = [EndKind::NoWork, EndKind::Failed];
        let kind = kinds[usize::from(code == 1)];
        let mut gone = world.policy.gone.iter();
        assert!(gone.all(|gone| gone.kind == kind), "{case}");
    }
}

#[test]
fn one_pilot_that_lives_ends_the_back_off() {
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    launches_of_class(&mut world, 0.1, 1, 120.0);
    assert!(failures(&mut world) > 2);
    // Mended: there is one probe first, and what else fits once it has run for half a minute.
    let probes = launches_of_class(&mut world, 1e9, 0, 150.0);
    let is_slow = probes.len() == 2 && probes[1] - probes[0] >= 30.0;
    assert!(is_slow, "{probes:?}");
    assert_eq!(failures(&mut world), 0);
    // Or it was configured otherwise: that is not made to wait for what was learned before.
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    launches_of_class(&mut world, 0.1, 1, 120.0);
    world.change_class();
    world.news.clear();
    let start = world.now;
    let tries = launches_of_class(&mut world, 1e9, 0, 10.0);
    let is_quick = tries.len() == 2 && tries[0] <= start && tries[1] <= start + 3.0;
    assert!(is_quick, "{tries:?} from {start} on");
}

#[test]
fn a_new_class_shows_with_one_pilot_that_it_runs() {
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    world.run_until(102.0);
    assert_eq!(world.of_class("a"), 1, "{:?}", world.log);
    assert_eq!(world.reason.code, Code::Probing);
    world.run_until(104.0);
    assert_eq!(world.running(), 8, "not at the next regular tick");
    // Of another daemon, or before a restart: what runs already is proof enough.
    (world.policy, world.news) = (PolicyState::new(8), Vec::new());
    world.pilots.truncate(2);
    world.run_for(2.0);
    assert_eq!(world.running(), 8, "{:?}", world.log);
    // Changed, it is new; what runs has the old rules and proves nothing.
    world.now += 5.0;
    world.change_class();
    let mut kept = 0;
    world.pilots.retain(|pilot| {
        kept += usize::from(pilot.class == "a");
        pilot.class != "a" || kept == 1
    });
    world.tick();
    assert_eq!(world.of_class("a"), 2, "one more, although more fit");
    world.run_for(4.0);
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
            let mut actions = decision.actions.iter();
            if actions.any(|action| matches!(action, Action::Fetch(_))) {
                at.push(world.now);
                let news = News::Fetched("a".to_owned(), result.clone());
                world.news.push(news);
            }
            world.now += decision.wake_in.unwrap();
        }
        at
    };
    // Each 10 min, more or less.
    let hour = fetches(&mut world, 3_700.0, Ok(()));
    let is_regular = |pair: &[f64]| (450.0..=765.0).contains(&(pair[1] - pair[0]));
    assert!((4..=8).contains(&hour.len()), "{hour:?}");
    assert!(hour.windows(2).all(is_regular), "{hour:?}");
    // What fails is tried again sooner, then more and more seldom; pilots go on with the local image.
    let failing = fetches(&mut world, 7_300.0, Err("no route".to_owned()));
    let is_soon = failing.len() >= 6 && failing[1] - failing[0] < 90.0;
    assert!(is_soon, "{failing:?}");
    assert_eq!(world.running(), 2);
    world.control.snooze = Some(Snooze { until: 1e10 });
    assert_eq!(fetches(&mut world, 9_000.0, Ok(())), [0.0; 0]);
    world.control.snooze = None;
    world.run_until(9_100.0);
    fetches(&mut world, 9_300.0, Ok(()));
    world.control.pull = true;
    world.tick();
    // Asked for now.
    assert!(world.policy.class("a").refresh_at.unwrap() <= world.now);
}

#[test]
fn a_launch_is_counted_once_whatever_the_list_shows() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let mut seen = world.observation();
    // The first one is alone, because nobody knows yet whether its image is there.
    let first = world.launches(&seen);
    assert_eq!(first.len(), 1);
    seen.at.boot += 5.0;
    seen.listed_at = seen.at.boot;
    assert_eq!(world.launches(&seen), [""; 0], "it is in flight");
    // The reply is lost: it may exist, and holds its capacity until a list asked for later does not show it.
    let at = seen.at.boot + 1.0;
    let result = LaunchResult::Lost("the answer is cut off".to_owned());
    seen.news = vec![launched("a", &first[0], at, result)];
    seen.at.boot += 2.0;
    for (listed_at, left) in [(at - 0.5, 1), (at + 0.5, 0)] {
        seen.listed_at = listed_at;
        world.actions(&seen);
        seen.news.clear();
        assert_eq!(world.policy.launching.len(), left, "{listed_at} {at}");
    }
}

#[test]
fn what_died_with_its_engine_or_its_boot_says_nothing_about_its_class() {
    // Exit code, of this boot, seconds from its start until the engine was greeted; what it counts as.
    let cases = [
        (255, true, 60.0, EndKind::Killed),
        (255, true, -10.0, EndKind::Failed),
        (1, true, 60.0, EndKind::Failed),
        (137, true, -10.0, EndKind::Killed),
        (255, false, -10.0, EndKind::Killed),
        (1, false, -10.0, EndKind::Killed),
    ];
    for (exit_code, is_of_this_boot, greeted, expected) in cases {
        let mut world = World::filled(2.0, ONE_CORE);
        let lived = 50.0;
        let since = world.epoch() - lived + greeted;
        world.twist = Box::new(move |seen| seen.engine_since = since);
        world.pilots[0].state = PilotState::Exited;
        if !is_of_this_boot {
            world.pilots[0].expiry = Expiry::Epoch(1e10);
        }
        let seen = world.observation();
        world.actions(&seen);
        let ended = world.pilots.remove(0);
        world.news = vec![removed(&ended, exit_code, lived)];
        let kind = world.tick().ended[0].kind;
        let has_failed = failures(&mut world) > 0;
        let case = format!("{exit_code} {is_of_this_boot} {greeted}");
        assert_eq!(kind, expected, "{case}");
        assert_eq!(has_failed, expected == EndKind::Failed, "{case}");
    }
}

#[test]
fn a_launch_or_a_fetch_that_never_comes_back_is_given_up() {
    let text = ONE_CORE.replace("\"builtin\"", "\"x:1\"");
    let mut world = World::new(2.0, &text, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let mut seen = world.observation();
    // Seconds later, and how many launches there are then.
    for (later, expected) in [(0.0, 1), (599.0, 0), (2.0, 1)] {
        seen.at.boot += later;
        seen.listed_at = seen.at.boot;
        assert_eq!(world.launches(&seen).len(), expected, "{later} s later");
    }
    let name = world.policy.launching.last().unwrap().name.clone();
    seen.news = vec![launched("a", &name, seen.at.boot, LaunchResult::NoImage)];
    for (later, expected) in [(0.0, 1), (3_600.0, 0), (20_000.0, 1)] {
        seen.at.boot += later;
        let actions = world.actions(&seen);
        let is_fetch = |action: &&Action| matches!(action, Action::Fetch(_));
        let fetched = actions.iter().filter(is_fetch).count();
        assert_eq!(fetched, expected, "{later} s later");
        seen.news.clear();
    }
}
