//! Replayed ticks of the owner's load: what rides along, what is given back, and when it is taken again.

use super::*;

pub(super) fn policy(when_busy: &str) -> String {
    format!("[owner]\nwhen-busy = \"{when_busy}\"\nbusy-for = \"10s\"\n{ONE_CORE}")
}

/// The owner wants `load` more from `from` to `to`.
fn load_between(load: f64, from: f64, to: f64) -> impl Fn(f64) -> f64 {
    move |t| if (from..to).contains(&t) { load } else { NOISE }
}

fn each_policy() -> impl Iterator<Item = (&'static str, f64)> {
    let with_cores = |policy| [1.0, 2.0, 8.0, 96.0].map(|cores| (policy, cores));
    ["auto", "yield", "pause", "stop"]
        .into_iter()
        .flat_map(with_cores)
}

#[test]
fn one_core_pilots_fill_a_machine_and_stay_for_an_hour() {
    for cores in [1_u32, 2, 8, 96] {
        let number = f64::from(cores);
        // Background noise, and every 97 s a burst of three seconds on all cores.
        let owner = move |t| if t % 97.0 < 3.0 { number } else { NOISE };
        let mut world = World::new(number, ONE_CORE, owner).fill();
        assert_eq!(world.running(), cores as usize, "{:?}", world.reason);
        world.run_for(3_600.0);
        assert_eq!(world.since(0.0), [], "{cores} cores stay unchanged");
        assert_eq!(world.reason.code, Code::Full);
    }
}

#[test]
fn without_protection_a_core_is_kept_and_nothing_fits_on_one() {
    for (cores, pilots) in [(1.0, 0), (2.0, 0), (8.0, 6), (96.0, 94)] {
        let mut world = World::new(cores, ONE_CORE, |_| NOISE);
        world.protection = Protection::None("a plain user".to_owned());
        let world = world.fill();
        assert_eq!(world.running(), pilots, "{cores}: {:?}", world.reason);
        if pilots == 0 {
            assert_eq!(world.reason.code, Code::NothingFits);
            assert!(world.reason.text.contains("a plain user"));
        }
    }
}

#[test]
fn a_burst_over_a_ticks_border_causes_nothing() {
    for (when_busy, cores) in each_policy() {
        for offset in 0..10 {
            // Six seconds that begin anywhere between two ticks, so that some lie across one.
            let from = 1_000.0 + f64::from(offset);
            let owner = load_between(cores, from, from + 6.0);
            let mut world = World::new(cores, &policy(when_busy), owner).fill();
            world.run_until(1_300.0);
            let case = format!("{when_busy} on {cores} cores, burst at {from}");
            assert_eq!(world.since(0.0), [], "{case}");
        }
    }
}

#[test]
fn a_steady_load_is_met_within_20_seconds_and_released_after_calm() {
    for (when_busy, cores) in each_policy().filter(|(policy, _)| ["pause", "stop"].contains(policy))
    {
        for offset in 0..10 {
            let from = 1_000.0 + f64::from(offset) + 0.1;
            let owner = load_between(cores, from, 1_400.0);
            let mut world = World::new(cores, &policy(when_busy), owner).fill();
            world.run_until(1_900.0);
            let case = format!("{when_busy}, {cores} cores, {from}: {:?}", world.log);
            let first = world.log[0].0 - from;
            assert!((9.0..=20.0).contains(&first), "{case}");
            let is_up = |(_, kind): &&(f64, &str)| ["unpause", "launch"].contains(kind);
            let back = world.log.iter().find(is_up).unwrap().0;
            assert!((1_460.0..=1_490.0).contains(&back), "{case}");
            assert_eq!(world.running().to_string(), cores.to_string(), "{case}");
        }
    }
}

#[test]
fn yielding_pilots_are_left_to_the_kernel_and_not_replaced() {
    for cores in [2.0, 8.0, 96.0] {
        let owner = load_between(cores, 1_000.0, f64::INFINITY);
        let mut world = World::new(cores, &policy("auto"), owner).fill();
        world.run_until(1_100.0);
        assert_eq!(world.since(0.0), []);
        assert_eq!(world.reason.code, Code::Busy);
        world.pilots.pop();
        world.run_until(1_200.0);
        assert_eq!(world.since(0.0), [], "nothing beside a busy owner");
    }
}

#[test]
fn a_starved_pilot_is_stopped_after_the_limit_and_a_waiting_one_is_not() {
    for (load, stops) in [(2.0, 2), (NOISE, 0)] {
        let owner = load_between(load, 1_000.0, f64::INFINITY);
        let mut world = World::new(2.0, &policy("auto"), owner).fill();
        world.twist = Box::new(|seen| {
            let idle = seen.at.boot > 1_000.0;
            let pilots = seen.pilots.iter_mut().flatten();
            pilots.for_each(|pilot| pilot.used = Some(if idle { 0.001 } else { 1.0 }));
        });
        world.run_until(2_000.0);
        let log = world.since(0.0);
        let is_meant =
            |(at, kind): &(f64, &str)| (1_600.0..1_640.0).contains(at) && *kind == "stop";
        assert!(log.len() == stops && log.iter().all(is_meant), "{log:?}");
        let counted = world
            .policy
            .counts
            .get(&("a".to_owned(), "owner".to_owned()))
            .copied();
        assert_eq!(counted.unwrap_or(0), stops as u64);
    }
}

#[test]
fn noise_changes_direction_once_per_calm_at_most() {
    for (when_busy, cores) in each_policy() {
        // Loads of 3 to 25 s at odd times, up to all cores.
        let owner = move |t: f64| {
            let wave = (t / 17.0).sin() + (t / 5.3).sin() + (t / 41.0).cos() - 0.8;
            match wave > 0.0 {
                true => cores * wave.min(1.0),
                false => NOISE,
            }
        };
        let mut world = World::new(cores, &policy(when_busy), owner).fill();
        world.run_until(4_000.0);
        // What was paused for too long is stopped: it was down before.
        let counts = |(_, kind): &&(f64, &str)| when_busy != "pause" || *kind != "stop";
        let is_up = |kind| ["launch", "unpause"].contains(&kind);
        let log: Vec<_> = world.log.iter().filter(counts).collect();
        let turns = log
            .windows(2)
            .filter(|pair| is_up(pair[1].1) && !is_up(pair[0].1));
        let turns: Vec<f64> = turns.map(|pair| pair[1].0).collect();
        let is_long = |pair: &[f64]| pair[1] - pair[0] >= 60.0;
        assert!(
            turns.windows(2).all(is_long),
            "{when_busy} on {cores}: {turns:?}"
        );
    }
}
