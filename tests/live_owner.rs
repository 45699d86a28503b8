//! The owner's side on a real engine: giving back, rules, protection, limits. One at a time, because they measure load.
// threads: 1
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;
use std::fs;
use std::process::{Child, Command, Stdio};

/// Processes of the owner, ended when dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn on_every_core(script: &str) -> Hogs {
        let hog = || {
            Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        Hogs((0..cores()).map(|_| hog()).collect())
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

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// With these [owner] keys in place of those that are there.
fn with_owner(text: &str, keys: &str) -> String {
    let named: Vec<&str> = keys
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let is_other = |line: &&str| !named.contains(&line.split(' ').next().unwrap());
    let others = text
        .lines()
        .filter(is_other)
        .map(|line| format!("{line}\n"));
    others
        .collect::<String>()
        .replace("[owner]\n", &format!("[owner]\n{keys}\n"))
}

/// As many busy pilots as there are cores.
fn busy_machine(when_busy: &str) -> Instance {
    let busy = shell("busy", "while :; do :; done", "").replace("cpus = 0.1", "cpus = 0.7");
    let text = config("1s", cores() as u32, &busy);
    let keys = format!("when-busy = \"{when_busy}\"\nbusy-for = \"2s\"\ncalm-for = \"3s\"");
    let mut instance = Instance::running(&with_owner(&text, &keys));
    instance.wait_running(cores());
    see_load(&mut instance, true);
    instance
}

/// From its next daemon on; what this machine's other users do is no calm to wait for.
fn see_load(instance: &mut Instance, sees_load: bool) {
    assert_eq!(instance.end(), 0);
    instance.sees_load = sees_load;
    instance.run(&[]);
}

#[test]
fn a_busy_owner_pauses_pilots_and_calm_wakes_them() {
    let mut instance = busy_machine("pause");
    // Not quite every moment: an old freezer cannot freeze what gets no CPU at all, and such a pilot is in nobody's way.
    let hogs = Hogs::on_every_core(
        "while :; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.004; done",
    );
    // As many as the need asks for: a core of it rides along.
    let status = instance.wait_status(|status| status["pilots"].to_string().contains("\"paused\""));
    let code = &status["reason"]["code"];
    assert!(code == "busy" || code == "calming", "{code}");
    drop(hogs);
    see_load(&mut instance, false);
    instance.wait_containers(|list| list.len() == cores() && are(list, "running"));
}

#[test]
fn with_protection_pilots_yield_inside_the_kernel() {
    if !is_root() {
        return skip("only root makes the idle group");
    }
    let instance = busy_machine("auto");
    instance.wait_status(|status| status["protection"]["level"] == "verified");
    let _hogs = Hogs::on_every_core("while :; do :; done");
    let (most, least) = (0.3 * cores() as f64, 0.8 * cores() as f64);
    instance.wait_status(|status| {
        let cpus = &status["cpus"];
        status["reason"]["code"] == "busy"
            && cpus["foreign"].as_f64() > Some(least)
            && cpus["pilots"].as_f64() < Some(most)
    });
    instance.wait_containers(|list| are(list, "running"));
}

#[test]
fn hold_files_and_programs_hold_pilots_back() {
    let keys = "when-busy = \"yield\"\ncalm-for = \"1s\"\nstarve-limit = \"4s\"\npause-while-running = [\"plancton-game\"]";
    let instance = Instance::running(&with_owner(&config("1s", 2, &sleeper()), keys));
    instance.wait_running(2);
    let all_are =
        |state: &str| instance.wait_containers(|list| !list.is_empty() && are(list, state));
    // A fifo in place of a file is no reason, and nothing that a reader would hang on.
    let hold = instance.file(
        "run/inhibit.d/price.hold",
        "electricity is expensive until 20:00\nmore",
    );
    let fifo = instance.path("run/inhibit.d/a.hold");
    say(Command::new("mkfifo").arg(fifo)).must(0, &[]);
    instance.wait_reason("hold");
    instance.wait_text("electricity is expensive until 20:00");
    all_are("paused");
    fs::remove_file(hold).unwrap();
    all_are("running");
    instance.say(&["health"]).must(0, &[]);

    let game = instance.path("plancton-game");
    fs::copy("/bin/sleep", &game).unwrap();
    let game = Hogs(vec![Command::new(game).arg("600").spawn().unwrap()]);
    instance.wait_reason("program");
    // Paused for the starve-limit they hold memory for nothing.
    instance.wait_none();
    instance.wait_count("owner", 2);
    drop(game);
    instance.wait_running(2);
}

#[test]
fn pilots_are_bounded_together_and_each() {
    let text = config("1s", 1, &shell("bounded", "sleep 600", "pids = 33"));
    let text = text.replace("reserve-memory = \"64MiB\"", "reserve-memory = \"1GiB\"");
    let instance = Instance::running(&text);
    let id = instance.wait_one();
    let bounds = "0.1 cores, 16MiB of memory, 33 processes";
    instance.wait_status(|status| status["protection"]["text"].to_string().contains(bounds));
    let parent = inspect(&id).unwrap()["HostConfig"]["CgroupParent"].clone();
    let expected = if is_root() {
        ["/plancton", "plancton.slice"]
    } else {
        ["", ""]
    };
    assert!(expected.contains(&parent.as_str().unwrap()), "{parent}");
}

#[test]
fn a_disk_below_its_reserve_stops_the_youngest_and_starts_nothing() {
    let text = config("1s", 3, &sleeper());
    let mut instance = Instance::running(&text);
    instance.wait_running(3);
    instance.reload(&text.replace("reserve-disk = \"64MiB\"", "reserve-disk = \"900TiB\""));
    instance.wait_reason("disk");
    instance.wait_none();
    stays(seconds(3.0), || instance.containers().len());
    assert_eq!(instance.end(), 0);
}
