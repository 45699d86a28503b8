//! What only an instance that is alone on the machine can show: the parent group of all pilots, and a loop that nothing
//! wakes. Other users of the engine are waited for, or named where they keep something from being seen.
// threads: 1
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;
use std::fs;
use std::path::PathBuf;

/// The first of these files of the parent group that there is, with either version and driver.
fn group_file(names: &[&str]) -> Option<PathBuf> {
    let hierarchies = ["", "cpu", "cpu,cpuacct", "memory", "pids"]
        .map(|dir| PathBuf::from("/sys/fs/cgroup").join(dir));
    let groups = hierarchies
        .iter()
        .flat_map(|dir| ["plancton", "plancton.slice"].map(|group| dir.join(group)));
    let mut files = groups.flat_map(|group| names.iter().map(move |name| group.join(name)));
    files.find(|file| file.exists())
}

/// The first file of a pilot's own group that is there: version 1, then version 2.
fn pilot_file(id: &str, names: [&str; 2]) -> String {
    let places = names
        .map(|name| [format!("{id}/{name}"), format!("docker-{id}.scope/{name}")])
        .concat();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    read(group_file(&places).unwrap())
}

fn protection(instance: &Instance, level: &str) {
    instance.wait_status(|status| status["protection"]["level"] == level);
}

#[test]
fn pilots_run_in_an_idle_group_that_is_kept_and_removed() {
    let mut instance = Instance::running(&config("1s", 2, &sleeper()));
    let pilots = instance.wait_running(2);
    if !is_root() {
        return skip("only root makes the idle group");
    }
    protection(&instance, "verified");
    let idle = group_file(&["cpu.idle"]).expect("a kernel with idle groups");
    assert_eq!(read(&idle), "1");
    let total = read("/proc/meminfo")
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024;
    let memory = ["memory.limit_in_bytes", "memory.max"];
    let most: u64 = read(group_file(&memory).unwrap()).parse().unwrap();
    assert!(most <= total - (64 << 20), "{most} of {total}");
    for id in &pilots {
        assert_eq!(pilot_file(id, memory), (16 << 20).to_string());
        assert_eq!(pilot_file(id, ["pids.max", "pids.max"]), "512");
        let quota = pilot_file(id, ["cpu.cfs_quota_us", "cpu.max"]);
        assert!(
            ["10000", "10000 100000"].contains(&quota.as_str()),
            "{quota}"
        );
    }
    // Somebody resets it, as systemd does with slices that it stops.
    fs::write(&idle, "0").unwrap();
    until(|| read(&idle) == "1");
    protection(&instance, "verified");
    assert_eq!(instance.running_ids(), pilots);
    // Pilots outlive the daemon, and so does their group.
    assert_eq!(instance.end(), 0);
    assert!(idle.exists());
    instance.run(&[]);
    protection(&instance, "verified");
    instance.say(&["force-stop"]).must(0, &[]);
    assert_eq!(instance.wait_end(), 0);
    let others = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|process| read(process.path().join("comm")) == "plancton")
            .count()
    };
    assert!(
        becomes(seconds(5.0), || !idle.exists()) || others() > 0,
        "nobody is left in {idle:?}"
    );
}

/// Context switches of all threads of a process.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let texts: String = tasks
        .map(|task| read(task.path().join("status")) + "\n")
        .collect();
    let lines = texts.lines().filter(|line| line.contains("ctxt_switches"));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[test]
fn without_a_pilot_there_are_no_ticks() {
    let instance = Instance::running(&config("1s", 4, ""));
    let status = instance.wait_reason("no-pilot");
    assert!(
        status["state"] == "waiting" && status["due"].is_null(),
        "no turn is due: {}",
        status["due"]
    );
    instance.say(&["health"]).must(0, &[]);
    // A pilot of another instance that ends is a reason to look; three quiet seconds in a minute are not too much to ask.
    until(|| {
        let before = switches(instance.pid());
        std::thread::sleep(seconds(3.0));
        switches(instance.pid()) == before
    });
    instance.reload(&config("1s", 1, &sleeper()));
    instance.wait_running(1);
    instance.reload(&config("1s", 1, ""));
    // What runs is still looked after.
    instance.wait_status(|status| {
        status["reason"]["code"] == "no-pilot" && status["pilots"][0].is_object()
    });
    instance
        .say(&["kill", &instance.containers()[0].name])
        .must(0, &[]);
    instance.wait_none();
    instance.wait_status(|status| status["due"].is_null());
}
