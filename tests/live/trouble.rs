//! Bad input: what is said names the object and what to do, and nothing else is harmed.

use crate::common::*;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

fn text_of(status: &Value) -> &str {
    status["reason"]["text"].as_str().unwrap()
}

/// How often a launch was tried so far.
fn tries(status: &Value) -> u64 {
    ["launches", "launch-failed"]
        .iter()
        .filter_map(|what| status["counts"][what].as_u64())
        .sum()
}

#[test]
fn a_command_that_cannot_be_executed() {
    for (words, more) in [
        ("[\"/no/such/program\"]", ""),
        ("[]", "entrypoint = [\"/etc/passwd\"]"),
    ] {
        let class = pilot("odd", &[], more).replace("command = []", &format!("command = {words}"));
        let instance = Instance::running(&config("1s", 8, &class));
        let status = instance.wait_reason("back-off");
        let program = if more.is_empty() {
            "/no/such/program"
        } else {
            "/etc/passwd"
        };
        assert!(text_of(&status).contains(program), "{}", text_of(&status));
        instance.wait_containers("none left", PATIENCE, <[_]>::is_empty);
        std::thread::sleep(seconds(3.0));
        let tries = tries(&instance.status().unwrap());
        // One probe, the launches of one tick, and perhaps the second try.
        assert!(
            (1..=6).contains(&tries),
            "{tries} launches in the first seconds"
        );
    }
}

#[test]
fn an_image_that_does_not_exist() {
    // Nothing listens on the discard port: what is tested is the answer, not the internet.
    let name = "127.0.0.1:9/science/none:1";
    let missing = pilot("lost", &["true"], "").replace(&image(), name);
    let instance = Instance::running(&config("1s", 3, &missing));
    let status = instance.wait_reason("back-off");
    assert!(
        text_of(&status).contains("'lost'") && text_of(&status).contains(name),
        "{}",
        text_of(&status)
    );
    instance.say(&["why"]).must(0, &[name]);
    stays(seconds(2.0), || instance.containers());
    assert_eq!(instance.containers(), []);
    assert_eq!(
        read(instance.state_dir().join("images")),
        "",
        "what did not come needs not be removed"
    );
}

#[test]
fn a_good_reload_counts_and_a_bad_one_does_not() {
    let mut instance = Instance::running(&config("1s", 1, &sleeper()));
    let first = instance.wait_running(1);
    instance.configure(&config("1s", 2, &sleeper()));
    instance.signal(Signal::HUP);
    let two = instance.wait_running(2);
    assert!(two.is_superset(&first));

    let bad = config("1s", 3, &sleeper())
        .replace("command", "comand")
        .replace("\"16MiB\"", "\"much\"");
    instance.configure(&bad);
    instance.signal(Signal::HUP);
    let status = instance.wait_status("the problem", PATIENCE, |status| {
        status["problems"][0].is_string()
    });
    let problem = status["problems"][0].as_str().unwrap();
    for words in ["config.toml:", "comand", "command", "stays in force"] {
        assert!(problem.contains(words), "'{words}' in {problem}");
    }
    instance.say(&["status"]).must(0, &["comand"]);
    instance.say(&["config"]).must(78, &["comand", "memory"]);
    instance.say(&["check"]).must(78, &["comand"]);
    let one = two.first().unwrap();
    instance.say(&["kill", &one[..12]]).must(0, &[]);
    assert!(poll(PATIENCE, || (!is_running(one)).then_some(())).is_some());
    instance.wait_running(2);

    instance.configure(&config("1s", 3, &sleeper()));
    instance.signal(Signal::HUP);
    instance.wait_running(3);
    instance.wait_status("well again", PATIENCE, |status| {
        status["problems"][0].is_null()
    });
    assert_eq!(instance.end(), 0);
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let mut instance = Instance::new(
        "[loop]\ninterval = \"-3s\"\n[[pilot]]\nname = \"x\"\ncpus = 0\nmemory = \"1KiB\"\nimag = \"b\"\n",
    );
    let problems = [
        "config.toml:2:",
        "interval",
        "config.toml:5:",
        "cpus",
        "config.toml:6:",
        "memory",
        "config.toml:7:",
        "imag",
        "'image'",
    ];
    for command in [
        &["run"][..],
        &["start"],
        &["run", "--once"],
        &["config"],
        &["check", "--offline"],
    ] {
        instance.say(command).must(78, &problems);
    }
    assert_eq!(instance.status(), None);
    instance.configure("[loop\n");
    instance.say(&["run"]).must(78, &["config.toml:1:"]);
    fs::remove_file(instance.config_file()).unwrap();
    instance
        .say(&["run"])
        .must(78, &["config.toml", "plancton config --default"]);
    instance.run(&[]);
    assert_eq!(instance.wait_end(), 78);
}

#[test]
fn wrong_words_change_nothing() {
    let instance = Instance::new(&config("1s", 1, &sleeper()));
    for (words, text) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["snooze"], "DURATION"),
        (&["snooze", "-1h"], "-1"),
        (&["snooze", "0s"], "zero"),
        (&["drain", "--bye", "2h"], "--by"),
        (&["kill"], "PILOT"),
        (&["status", "--jsn"], "--json"),
        (&["replay"], "FILE"),
    ] {
        instance.say(words).must(64, &[text, "plancton help"]);
    }
    assert!(!instance.run_dir().exists() && !instance.state_dir().exists());
    instance.say(&["status"]).must(3, &["plancton start"]);
    instance.say(&["status", "--json"]).must(3, &[]);
    instance.say(&["why"]).must(3, &[]);
    instance.say(&["health"]).must(1, &[]);
}

#[test]
fn an_engine_that_is_not_there_is_a_state() {
    let mut instance = Instance::new(&config("1s", 1, &sleeper()));
    let real = std::mem::replace(
        &mut instance.socket,
        instance.base.join("engine.sock").display().to_string(),
    );
    for command in [
        &["check"][..],
        &["reap"],
        &["kill", "abcdef"],
        &["purge", "--dry-run"],
        &["run", "--once"],
        &["try"],
    ] {
        instance.say(command).must(69, &["engine.sock"]);
    }
    instance.run(&[]);
    let status = instance.wait_reason("engine-down");
    assert_eq!(status["state"], "waiting");
    assert!(
        text_of(&status).contains("engine.sock"),
        "{}",
        text_of(&status)
    );
    instance.say(&["health"]).must(0, &[]);
    instance.say(&["status"]).must(0, &["engine.sock"]);
    assert!(!instance.has_ended());

    symlink(real, &instance.socket).unwrap();
    instance.wait_running(1);
    instance.wait_status("well again", PATIENCE, |status| {
        status["problems"][0].is_null()
    });
}

/// A file system of its own for a run directory, so small that it can be filled.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> SmallDisk {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32k", "none"])
            .arg(&at)
            .status()
            .unwrap();
        assert!(mounted.success());
        SmallDisk(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_under_the_run_directory() {
    if !is_root() {
        println!("not tested: only root can mount a disk that is small enough to fill");
        return;
    }
    let mut instance = Instance::new(&config("1s", 1, &sleeper()));
    let disk = SmallDisk::new(instance.run_dir());
    let filler = disk.0.join("filler");
    let fill = || drop(fs::write(&filler, vec![0; 1 << 20]));
    fill();
    instance.say(&["run"]).must(
        1,
        &[
            instance.run_dir().to_str().unwrap(),
            "the disk is full",
            "free some space",
        ],
    );

    fs::remove_file(&filler).unwrap();
    instance.run(&[]);
    let pilots = instance.wait_running(1);
    fill();
    assert!(
        poll(PATIENCE, || instance
            .log()
            .contains("the disk is full")
            .then_some(()))
        .is_some(),
        "it says so"
    );
    kill(pilots.first().unwrap());
    instance.wait_containers("a replacement", PATIENCE, |list| {
        list.len() == 1 && !pilots.contains(&list[0].id)
    });
    assert!(!instance.has_ended());

    fs::remove_file(&filler).unwrap();
    let now = instance.wait_running(1).first().unwrap().clone();
    instance.wait_status("told again", PATIENCE, |status| {
        status["pilots"][0]["id"] == now.as_str()
    });
    assert_eq!(
        instance.log().matches("the disk is full").count(),
        1,
        "said once, not at each tick"
    );
    assert_eq!(instance.end(), 0);
}
