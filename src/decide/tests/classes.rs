//! Replayed ticks of classes: what is broken, new, without work or without its image.

use super::*;
use crate::decide::state::Stage;

fn failures(world: &mut World) -> u32 {
    match &world.policy.class("a").stage {
        Stage::Waiting(wait) => wait.times,
        _ => 0,
    }
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
    let end = world.now + seconds;
    world.log.clear();
    let mut launches = Vec::new();
    while world.now < end {
        let decision = world.tick();
        let of_a =
            |action: &&Action| matches!(action, Action::Launch { class, .. } if class.name == "a");
        launches.extend(decision.actions.iter().filter(of_a).map(|_| world.now));
        let now = world.now + 1e9;
        let has_ended = |pilot: &mut Pilot| pilot.class == "a" && now - pilot.created >= lives;
        let ended = world.pilots.extract_if(.., has_ended);
        world
            .news
            .extend(ended.map(|pilot| removed(&pilot, code, lives)));
        let look = if launches.len() < 5 { 0.5 } else { 2.0 };
        world.now += if world.news.is_empty() {
            decision.wake_in.unwrap().min(look)
        } else {
            0.3
        };
    }
    launches
}

const TWO_CLASSES: &str = "[[pilot]]\nname = \"a\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nno-work-pause = \"2m\"\n\
    [[pilot]]\nname = \"b\"\nimage = \"builtin\"\nmemory = \"64MiB\"\nmax = 6\n";

#[test]
fn a_broken_class_is_tried_seldom_and_takes_nothing_from_the_other() {
    let ends = [(0.1, 1), (1.5, 1), (5.0, 1), (12.0, 1), (0.1, 75), (0.1, 0)];
    for (cores, most, (lives, code)) in [(1.0, 0), (2.0, 1), (8.0, 6), (96.0, 90)]
        .into_iter()
        .flat_map(|(n, most)| ends.map(|end| (n, most, end)))
    {
        let both = TWO_CLASSES.replace("max = 6", &format!("max = {most}"));
        let text = if most > 0 {
            &both
        } else {
            both.split("[[pilot]]\nname = \"b\"").next().unwrap()
        };
        let mut world = World::new(cores, text, |_| NOISE);
        let launches = launches_of_class(&mut world, lives, code, 3_600.0);
        let case = format!("{code} after {lives} s on {cores} cores: {launches:?}");
        // What runs for two seconds is believed, and fills the capacity until its first end.
        let believed = if lives > 2.0 {
            launches[0] + lives
        } else {
            0.0
        };
        let tries: Vec<f64> = launches
            .iter()
            .copied()
            .filter(|at| *at > believed)
            .collect();
        for minute in &tries {
            let in_minute = tries
                .iter()
                .filter(|at| (*minute..*minute + 60.0).contains(*at))
                .count();
            assert!(in_minute <= 5, "{case}");
        }
        assert_eq!(world.of_class("b"), most, "of b beside {case}");
        match code {
            // Work may come at any time: it is asked at least each two minutes and a half.
            0 | 75 => {
                assert!(
                    launches.windows(2).all(|pair| pair[1] - pair[0] < 160.0)
                        && launches.len() > 20,
                    "{case}"
                )
            }
            _ => assert!(tries.len() < 20, "{case}"),
        }
        let expected = if code == 1 {
            EndKind::Failed
        } else {
            EndKind::NoWork
        };
        assert!(
            world.policy.gone.iter().all(|gone| gone.kind == expected),
            "{case}"
        );
    }
}

#[test]
fn one_pilot_that_lives_ends_the_back_off() {
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    launches_of_class(&mut world, 0.1, 1, 120.0);
    assert!(failures(&mut world) > 2);
    // Mended: there is one probe first, and what else fits once it has run for half a minute.
    let probes = launches_of_class(&mut world, 1e9, 0, 150.0);
    assert!(
        probes.len() == 2 && probes[1] - probes[0] >= 30.0,
        "{probes:?}"
    );
    assert_eq!(failures(&mut world), 0);
    // Or it was configured otherwise: that is not made to wait for what was learned before.
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    launches_of_class(&mut world, 0.1, 1, 120.0);
    let changed = config(&TWO_CLASSES.replacen("memory", "command = [\"x\"]\nmemory", 1));
    world
        .policy
        .forget_changed(&world.config, &changed, world.now + 1e9);
    (world.config, world.news) = (changed, Vec::new());
    let start = world.now;
    let tries = launches_of_class(&mut world, 1e9, 0, 10.0);
    assert!(
        tries.len() == 2 && tries[0] <= start && tries[1] <= start + 3.0,
        "{tries:?} from {start} on"
    );
}

#[test]
fn a_new_class_shows_with_one_pilot_that_it_runs() {
    let mut world = World::new(8.0, TWO_CLASSES, |_| NOISE);
    world.run_until(102.0);
    assert_eq!(world.of_class("a"), 1, "{:?}", world.log);
    assert_eq!(world.reason.code, Code::Probing, "{}", world.reason.text);
    world.run_until(104.0);
    assert_eq!(
        world.running(),
        8,
        "without waiting for the next regular tick: {:?}",
        world.log
    );
    // Of another daemon, or before a restart: what runs already is proof enough.
    (world.policy, world.news) = (PolicyState::new(8), Vec::new());
    world.pilots.truncate(2);
    world.run_until(world.now + 2.0);
    assert_eq!(world.running(), 8, "{:?}", world.log);
    // Changed, it is new; what runs has the old rules and proves nothing.
    let changed = config(&TWO_CLASSES.replacen("memory", "command = [\"x\"]\nmemory", 1));
    world.now += 5.0;
    world
        .policy
        .forget_changed(&world.config, &changed, world.now + 1e9);
    world.config = changed;
    let (mut kept, others): (Vec<Pilot>, Vec<Pilot>) =
        world.pilots.drain(..).partition(|pilot| pilot.class == "a");
    kept.truncate(1);
    world.pilots.extend(kept.into_iter().chain(others));
    world.tick();
    assert_eq!(
        world.of_class("a"),
        2,
        "one more, although more fit: {:?}",
        world.log
    );
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
            if decision
                .actions
                .iter()
                .any(|action| matches!(action, Action::Fetch { .. }))
            {
                at.push(world.now);
                world.news.push(News::Fetched {
                    class: "a".to_owned(),
                    result: result.clone(),
                });
            }
            world.now += decision.wake_in.unwrap();
        }
        at
    };
    let hour = fetches(&mut world, 3_700.0, Ok(()));
    assert!(
        (4..=8).contains(&hour.len()),
        "each 10 min, more or less: {hour:?}"
    );
    assert!(
        hour.windows(2)
            .all(|pair| (450.0..=765.0).contains(&(pair[1] - pair[0]))),
        "{hour:?}"
    );
    // What fails is tried again sooner, then more and more seldom; pilots go on with the local image.
    let failing = fetches(&mut world, 7_300.0, Err("no route".to_owned()));
    assert!(
        failing.len() >= 6 && failing[1] - failing[0] < 90.0,
        "{failing:?}"
    );
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
    world.policy.class("a").fetching = None;
    assert!(
        world.now - start < 1.0 && world.policy.class("a").refresh_at.unwrap() <= start,
        "asked for now"
    );
}

#[test]
fn a_launch_is_counted_once_whatever_the_list_shows() {
    let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let seen = world.observation();
    // The first one is alone, because nobody knows yet whether its image is there.
    let first = world.launches(&seen);
    assert_eq!(first.len(), 1);
    let mut later = Observation {
        at: Moment {
            boot: seen.at.boot + 5.0,
            ..seen.at
        },
        ..seen.clone()
    };
    later.listed_at = later.at.boot;
    assert_eq!(world.launches(&later), [""; 0], "it is in flight");
    // The reply is lost: it may exist, and holds its capacity until a list asked for later does not show it.
    let at = later.at.boot + 1.0;
    let result = LaunchResult::Lost("the answer is cut off".to_owned());
    later.news = vec![News::Launched {
        class: "a".to_owned(),
        name: first[0].clone(),
        at,
        result,
    }];
    later.at.boot += 2.0;
    later.listed_at = at - 0.5;
    decide(&world.config, &mut world.policy, &later);
    assert_eq!(
        world.policy.unlisted().count(),
        1,
        "the list is older than the answer"
    );
    later.news.clear();
    later.listed_at = at + 0.5;
    decide(&world.config, &mut world.policy, &later);
    assert_eq!(
        world.policy.unlisted().count(),
        0,
        "a later list does not show it: it never was"
    );
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
        let mut world = World::new(2.0, ONE_CORE, |_| NOISE);
        filled(&mut world);
        let lived = 50.0;
        let since = world.now + 1e9 - lived + greeted;
        world.twist = Box::new(move |seen| seen.engine_since = since);
        world.pilots[0].state = PilotState::Exited;
        if !is_of_this_boot {
            world.pilots[0].expiry = Expiry::Epoch(1e10);
        }
        let ended = world.pilots[0].clone();
        let seen = world.observation();
        decide(&world.config, &mut world.policy, &seen);
        world.pilots.remove(0);
        world.news = vec![removed(&ended, exit_code, lived)];
        let decision = world.tick();
        let case = format!("{exit_code} {is_of_this_boot} {greeted}");
        assert_eq!(decision.ended[0].kind, expected, "{case}");
        assert_eq!(
            failures(&mut world) > 0,
            expected == EndKind::Failed,
            "{case}"
        );
    }
}

#[test]
fn a_launch_or_a_fetch_that_never_comes_back_is_given_up() {
    let text = ONE_CORE.replace("\"builtin\"", "\"x:1\"");
    let mut world = World::new(2.0, &text, |_| NOISE);
    world.tick();
    world.now += 1.0;
    let mut seen = world.observation();
    let count = |world: &mut World, seen: &Observation, launches: bool| {
        let actions = decide(&world.config, &mut world.policy, seen).actions;
        let is_meant = |action: &&Action| matches!(action, Action::Launch { .. }) == launches;
        actions.iter().filter(is_meant).count()
    };
    assert_eq!(count(&mut world, &seen, true), 1);
    for (later, launched) in [(599.0, 0), (2.0, 1)] {
        (seen.at.boot, seen.listed_at) = (seen.at.boot + later, seen.at.boot + later);
        assert_eq!(count(&mut world, &seen, true), launched, "{later} s later");
    }
    let name = world.policy.launching.last().unwrap().name.clone();
    seen.news = vec![News::Launched {
        class: "a".to_owned(),
        name,
        at: seen.at.boot,
        result: LaunchResult::NoImage,
    }];
    assert_eq!(count(&mut world, &seen, false), 1, "it is fetched");
    seen.news.clear();
    for (later, fetched) in [(3_600.0, 0), (20_000.0, 1)] {
        seen.at.boot += later;
        assert_eq!(count(&mut world, &seen, false), fetched, "{later} s later");
    }
}
