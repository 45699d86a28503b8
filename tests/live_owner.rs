//! The owner's side on a real engine: giving back, rules, protection, limits. One at a time, because they measure load.
// threads: 1
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::cast_precision_loss)]

mod common;

use common::{Instance, config, inspect, pilot, poll, read, seconds, stays};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Processes of the owner, ended when dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn on_every_core(script: &str) -> Hogs {
        let cores = std::thread::available_parallelism().unwrap().get();
        let hog = || {
            Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        Hogs((0..cores).map(|_| hog()).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

fn states(instance: &Instance) -> Vec<String> {
    let status = instance.status().unwrap_or_default();
    let pilots = status["pilots"].as_array().cloned().unwrap_or_default();
    pilots
        .iter()
        .map(|pilot| pilot["state"].as_str().unwrap_or("").to_owned())
        .collect()
}

fn all(instance: &Instance, state: &str) -> bool {
    let states = states(instance);
    !states.is_empty() && states.iter().all(|found| found == state)
}

/// With these [owner] keys in place of those that are there.
fn with_owner(text: &str, keys: &str) -> String {
    let named: Vec<&str> = keys
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let others = text.lines().filter(|line| {
        !named
            .iter()
            .any(|key| line.starts_with(&format!("{key} =")))
    });
    others
        .map(|line| {
            if line == "[owner]" {
                format!("[owner]\n{keys}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect()
}

#[test]
fn a_busy_owner_pauses_pilots_and_calm_wakes_them() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy = pilot(
        "busy",
        &["sh", "-c", "while :; do :; done"],
        "stop-grace = \"1s\"",
    )
    .replace("cpus = 0.1", "cpus = 0.7");
    let most = u32::try_from(cores).unwrap();
    let text = with_owner(
        &config("1s", most, &busy),
        "when-busy = \"pause\"\nbusy-for = \"2s\"\ncalm-for = \"3s\"",
    );
    let instance = Instance::running(&text);
    instance.wait_running(cores);
    // Not quite every moment: an old freezer cannot freeze what gets no CPU at all, and such a pilot is in nobody's way.
    let hogs = Hogs::on_every_core(
        "while :; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.004; done",
    );
    // As many as the need asks for: a core of it rides along.
    let paused = poll(seconds(60.0), || {
        states(&instance)
            .contains(&"paused".to_owned())
            .then_some(())
    });
    assert!(paused.is_some(), "{:?}", instance.status());
    let code = instance.status().unwrap()["reason"]["code"].clone();
    assert!(code == "busy" || code == "calming", "{code}");
    drop(hogs);
    let woken = poll(seconds(60.0), || all(&instance, "running").then_some(()));
    assert!(woken.is_some(), "{:?}", instance.status());
}

#[test]
fn with_protection_pilots_yield_inside_the_kernel() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy = pilot(
        "busy",
        &["sh", "-c", "while :; do :; done"],
        "stop-grace = \"1s\"",
    )
    .replace("cpus = 0.1", "cpus = 0.7");
    let most = u32::try_from(cores).unwrap();
    let text = with_owner(
        &config("1s", most, &busy),
        "when-busy = \"auto\"\nbusy-for = \"2s\"\ncalm-for = \"3s\"",
    );
    let instance = Instance::running(&text);
    instance.wait_running(cores);
    instance.wait_status("protection is verified", seconds(20.0), |status| {
        status["protection"]["level"] == "verified"
    });
    let _hogs = Hogs::on_every_core("while :; do :; done");
    let busy = instance.wait_status("the owner is busy", seconds(40.0), |status| {
        status["reason"]["code"] == "busy"
    });
    assert!(
        busy["cpus"]["foreign"].as_f64().unwrap() > 0.8 * cores as f64,
        "{busy}"
    );
    assert!(
        busy["cpus"]["pilots"].as_f64().unwrap() < 0.3 * cores as f64,
        "the kernel takes it from the pilots: {busy}"
    );
    stays(seconds(3.0), || states(&instance));
}

#[test]
fn hold_files_and_programs_hold_pilots_back() {
    let text = with_owner(
        &config("1s", 2, &common::sleeper()),
        "when-busy = \"yield\"\ncalm-for = \"1s\"\nstarve-limit = \"4s\"\npause-while-running = [\"plancton-game\"]",
    );
    let instance = Instance::running(&text);
    instance.wait_running(2);
    let inhibit = instance.run_dir().join("inhibit.d");
    fs::create_dir(&inhibit).unwrap();
    // A fifo in place of a file is no reason, and nothing that a reader would hang on.
    let fifo = Command::new("mkfifo")
        .arg(inhibit.join("a.hold"))
        .status()
        .unwrap();
    assert!(fifo.success());
    fs::write(
        inhibit.join("price.hold"),
        "electricity is expensive until 20:00\nmore",
    )
    .unwrap();
    let held = instance.wait_reason("hold");
    assert!(
        held["reason"]["text"]
            .as_str()
            .unwrap()
            .contains("price.hold: electricity is expensive until 20:00"),
        "{held}"
    );
    poll(seconds(5.0), || all(&instance, "paused").then_some(())).expect("they are paused");
    fs::remove_file(inhibit.join("price.hold")).unwrap();
    poll(seconds(10.0), || all(&instance, "running").then_some(())).expect("they go on");
    instance.say(&["health"]).must(0, &[]);

    let game = instance.base.join("plancton-game");
    fs::copy("/bin/sleep", &game).unwrap();
    let game = Hogs(vec![Command::new(game).arg("600").spawn().unwrap()]);
    instance.wait_reason("program");
    poll(seconds(5.0), || all(&instance, "paused").then_some(())).expect("they are paused");
    // Paused for the starve-limit they hold memory for nothing.
    instance.wait_containers("they are stopped", seconds(20.0), |containers| {
        !containers.iter().any(|c| c.holds_room())
    });
    instance.wait_status("both are counted", seconds(20.0), |status| {
        status["counts"]["owner"] == 2
    });
    drop(game);
    instance.wait_running(2);
}

#[test]
fn pilots_are_bounded_together_and_each() {
    let text = config(
        "1s",
        1,
        &pilot(
            "bounded",
            &["sleep", "600"],
            "stop-grace = \"1s\"\npids = 33",
        ),
    );
    let text = text.replace("reserve-memory = \"64MiB\"", "reserve-memory = \"1GiB\"");
    let instance = Instance::running(&text);
    let ids = instance.wait_running(1);
    let id = ids.first().unwrap();
    let status = instance.wait_status("limits are read back", seconds(20.0), |status| {
        status["protection"]["text"]
            .as_str()
            .is_some_and(|text| text.contains("limits read back"))
    });
    let told = status["protection"]["text"].as_str().unwrap();
    assert!(
        told.contains("0.1 cores, 16MiB of memory, 33 processes"),
        "{told}"
    );
    let parent = inspect(id).unwrap()["HostConfig"]["CgroupParent"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(parent, "/plancton");
    let total = read("/proc/meminfo")
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024;
    let limit = [
        "memory/plancton/memory.limit_in_bytes",
        "plancton/memory.max",
    ]
    .map(|file| Path::new("/sys/fs/cgroup").join(file))
    .into_iter()
    .find(|file| file.exists())
    .map(|file| read(file).trim().parse::<u64>().unwrap())
    .unwrap();
    assert!(
        limit.abs_diff(total - (1 << 30)) < 1 << 20,
        "{limit} of {total}"
    );
}

#[test]
fn a_pilot_out_of_memory_is_told_from_a_failed_one() {
    let eater = pilot(
        "eater",
        &["sh", "-c", "tail /dev/zero"],
        "stop-grace = \"1s\"\nmax = 1",
    );
    let failing = pilot(
        "failing",
        &["sh", "-c", "sleep 1; exit 7"],
        "stop-grace = \"1s\"\nmax = 1",
    );
    let instance = Instance::running(&config("1s", 2, &format!("{eater}{failing}")));
    let status = instance.wait_status("both have ended", seconds(40.0), |status| {
        status["counts"]["out-of-memory"].as_u64() > Some(0)
            && status["counts"]["failed"].as_u64() > Some(0)
    });
    let gone = status["gone"].as_array().unwrap();
    let kind = |class: &str| {
        gone.iter()
            .find(|gone| gone["class"] == class)
            .map(|gone| gone["kind"].clone())
    };
    assert_eq!(kind("eater"), Some("out-of-memory".into()), "{gone:?}");
    assert_eq!(kind("failing"), Some("failed".into()), "{gone:?}");
}

#[test]
fn a_disk_below_its_reserve_stops_the_youngest_and_starts_nothing() {
    let mut text = config("1s", 3, &common::sleeper());
    let mut instance = Instance::running(&text);
    instance.wait_running(3);
    text = text.replace("reserve-disk = \"64MiB\"", "reserve-disk = \"900TiB\"");
    instance.configure(&text);
    instance.signal(rustix::process::Signal::HUP);
    instance.wait_reason("disk");
    instance.wait_containers("all have gone", seconds(20.0), |containers| {
        containers.is_empty()
    });
    stays(seconds(3.0), || instance.containers().len());
    assert_eq!(instance.end(), 0);
}
