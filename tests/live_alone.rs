//! What only an instance that is alone on the machine can show: the parent group of all pilots, and a loop that nothing
//! wakes. Other users of the engine are waited for, or named where they keep something from being seen.
// threads: 1
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;

/// The parent group in the hierarchy that has this file, with either version and driver.
fn group_file(name: &str) -> Option<PathBuf> {
    let hierarchies = ["", "cpu", "cpu,cpuacct", "memory", "pids"]
        .map(|dir| PathBuf::from("/sys/fs/cgroup").join(dir));
    let groups = hierarchies
        .iter()
        .flat_map(|dir| ["plancton", "plancton.slice"].map(|group| dir.join(group)));
    groups
        .map(|group| group.join(name))
        .find(|file| file.exists())
}

fn group_dirs() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    all.flat_map(|dir| ["plancton", "plancton.slice"].map(|group| dir.join(group)))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// The first file of a pilot's own group that is there: version 1, then version 2.
fn pilot_file(id: &str, names: [&str; 2]) -> String {
    let file = |name: &&str| {
        [format!("{id}/{name}"), format!("docker-{id}.scope/{name}")]
            .iter()
            .find_map(|path| group_file(path))
    };
    read(
        names
            .iter()
            .find_map(file)
            .unwrap_or_else(|| panic!("{names:?} of {id}")),
    )
}

fn protection(instance: &Instance, level: &str) {
    instance.wait_status(level, PATIENCE, |status| {
        status["protection"]["level"] == level
    });
}

#[test]
fn pilots_run_in_an_idle_group_that_is_kept_and_removed() {
    let mut instance = Instance::running(&config("1s", 2, &sleeper()));
    let pilots = instance.wait_running(2);
    if !is_root() {
        protection(&instance, "none");
        instance.wait_status("it says why", PATIENCE, |s| {
            s["protection"]["text"]
                .as_str()
                .unwrap()
                .contains("only root")
        });
        return;
    }
    protection(&instance, "verified");
    let idle = group_file("cpu.idle").expect("a kernel with idle groups");
    assert_eq!(read(&idle), "1");
    let total = read("/proc/meminfo")
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024;
    let names = ["memory.limit_in_bytes", "memory.max"];
    let most: u64 = read(names.iter().find_map(|name| group_file(name)).unwrap())
        .parse()
        .unwrap();
    assert!(most <= total - (64 << 20), "{most} of {total}");
    for id in &pilots {
        assert_eq!(
            pilot_file(id, ["memory.limit_in_bytes", "memory.max"]),
            (16 << 20).to_string()
        );
        assert_eq!(pilot_file(id, ["pids.max", "pids.max"]), "512");
        let quota = pilot_file(id, ["cpu.cfs_quota_us", "cpu.max"]);
        assert!(
            ["10000", "10000 100000"].contains(&quota.as_str()),
            "{quota}"
        );
    }
    // Somebody resets it, as systemd does with slices that it stops.
    fs::write(&idle, "0").unwrap();
    assert!(
        poll(PATIENCE, || (read(&idle) == "1").then_some(())).is_some(),
        "it is set again"
    );
    protection(&instance, "verified");
    assert_eq!(instance.running_ids(), pilots);

    assert_eq!(instance.end(), 0);
    assert!(
        !group_dirs().is_empty(),
        "pilots outlive the daemon, and so does their group"
    );
    instance.run(&[]);
    protection(&instance, "verified");
    instance.say(&["force-stop"]).must(0, &[]);
    assert_eq!(instance.wait_end(), 0);
    let others = || {
        fs::read_dir("/proc")
            .unwrap()
            .filter(|entry| read(entry.as_ref().unwrap().path().join("comm")) == "plancton")
            .count()
    };
    let left = poll(seconds(5.0), || group_dirs().is_empty().then_some(()));
    assert!(
        left.is_some() || others() > 0,
        "nobody is left in {:?}",
        group_dirs()
    );
}

/// Context switches of all threads of a process.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|entry| read(entry.unwrap().path().join("status")));
    let count = |text: String| {
        text.lines()
            .filter(|line| line.contains("ctxt_switches"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
    };
    tasks.map(count).sum()
}

#[test]
fn without_a_pilot_there_are_no_ticks() {
    let instance = Instance::running(&config("1s", 4, ""));
    let status = instance.wait_reason("no-pilot");
    assert_eq!(status["state"], "waiting");
    assert!(status["due"].is_null(), "no turn is due: {}", status["due"]);
    instance.say(&["why"]).must(
        0,
        &["no [[pilot]] is configured", "plancton config --default"],
    );
    instance.say(&["health"]).must(0, &[]);
    // A pilot of another instance that ends is a reason to look; three quiet seconds in a minute are not too much to ask.
    let quiet = poll(PATIENCE, || {
        let before = switches(instance.pid());
        std::thread::sleep(seconds(3.0));
        (switches(instance.pid()) == before).then_some(())
    });
    assert!(
        quiet.is_some(),
        "the daemon was never still for three intervals"
    );

    instance.configure(&config("1s", 1, &sleeper()));
    instance.signal(Signal::HUP);
    instance.wait_running(1);
    instance.configure(&config("1s", 1, ""));
    instance.signal(Signal::HUP);
    let status = instance.wait_reason("no-pilot");
    assert_eq!(
        status["pilots"].as_array().unwrap().len(),
        1,
        "what runs is still looked after"
    );
    instance
        .say(&["kill", &instance.containers()[0].name])
        .must(0, &[]);
    instance.wait_containers("it is removed", PATIENCE, <[_]>::is_empty);
    instance.wait_status("still again", PATIENCE, |status| status["due"].is_null());
}
