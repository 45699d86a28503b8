//! A short form of what tests/hard.sh does to a real engine: killed at any moment, no threads, no descriptors, and files
//! that never end where files are expected. Two cases need root.
// threads: 8
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

const GOOD: &str = "[loop]\ninterval = \"1s\"\nlaunches-per-tick = 4\n[engine]\ntimeout = \"2s\"\n[share]\nreserve-cpus = 0\n\
                    reserve-disk = \"1MiB\"\nmax-pilots = 3\n[[pilot]]\nname = \"p\"\nimage = \"fake:1\"\n\
                    min-runtime = \"0s\"\nmemory = \"64MiB\"\nstop-grace = \"1s\"\n";

fn limit(pid: u32, what: Resource, soft: u64) {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    let before = prlimit(
        pid,
        what,
        Rlimit {
            current: Some(soft),
            maximum: Some(4096),
        },
    )
    .unwrap();
    assert_ne!(before.current, Some(soft));
}

/// A crash between any two calls: every slot is filled again, none twice, and no pilot that runs is touched.
#[test]
fn killed_at_any_moment() {
    at_once(0..6u32, |seed| {
        let mut machine = Machine::new();
        machine.configure(GOOD);
        let mut random = seed.wrapping_mul(2_654_435_761) | 1;
        for _ in 0..5 {
            machine.run(&[]);
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(seconds(
                f64::from(random >> 8) / f64::from(1u32 << 24) * 1.5,
            ));
            machine.crash();
            assert!(machine.pilots().len() <= 3);
        }
        machine.run(&[]);
        machine.wait_for_pilots(3);
        // A container that was created and never started goes.
        machine.until(|| machine.engine.number() == 3);
        let world = machine.engine.world();
        let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &world.calls {
            *calls.entry(call.what).or_default() += 1;
        }
        let count = |what| calls.get(what).copied().unwrap_or(0);
        assert_eq!((count("kill"), count("start")), (0, 3), "{calls:?}");
    });
}

/// What is not a plain file where a file of the owner's is expected: said, by a loop that goes on and ends when it is told to.
#[test]
fn files_that_never_end() {
    let cases =
        ["image-archive", "auth-file"].map(|key| ["fifo", "/dev/zero"].map(|file| (key, file)));
    at_once(cases.concat(), |(key, file)| {
        let mut machine = Machine::new();
        let fifo = machine.path("fifo");
        say(Command::new("mkfifo").args(["-m", "600"]).arg(&fifo)).must(0, &[]);
        let file = if file == "fifo" { fifo } else { file.into() };
        let image = "image = \"reg.example/none:1\"\n";
        let config = GOOD.replace("image = \"fake:1\"\n", image);
        machine
            .engine
            .fault("create", Fault::Status(404, "No such image"));
        machine.start(&format!("{config}{key} = \"{}\"\n", file.display()));
        machine.until(|| {
            machine
                .status()
                .to_string()
                .contains(file.to_str().unwrap())
        });
        machine.assert_well();
        assert_eq!(machine.end(), 0);
    });
    let machine = Machine::without_engine();
    machine.configure(GOOD);
    let fifo = machine.path("recording");
    say(Command::new("mkfifo").arg(&fifo)).must(0, &[]);
    machine
        .say(&["replay", fifo.to_str().unwrap()])
        .must(1, &["regular file"]);
    let long = fs::File::create(machine.path("config.toml")).unwrap();
    long.set_len(200 << 20).unwrap();
    machine.say(&["check"]).must(78, &["longer than"]);
}

/// No descriptor is left for anything: it waits instead of spinning, and goes on once there are some.
#[test]
fn no_descriptors() {
    let mut machine = Machine::running(GOOD, 3);
    limit(machine.pid(), Resource::Nofile, 3);
    let calls = machine.engine.calls_during(4.0).len();
    assert!(calls < 20, "{calls} calls");
    let stat = read(format!("/proc/{}/stat", machine.pid()));
    let fields = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .skip(11)
        .take(2);
    let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    assert!(ticks < 150, "{ticks} hundredths of a second");
    limit(machine.pid(), Resource::Nofile, 1024);
    machine.end_one(0);
    machine.wait_for_pilots(3);
    machine.assert_well();
}

/// A user of its own, whose threads are counted by the kernel and who may be limited.
fn as_stranger(machine: &Machine) -> Child {
    let binary = machine.path("plancton");
    fs::copy(PLANCTON, &binary).unwrap();
    let everybody =
        |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    everybody(&machine.scratch.0);
    everybody(&machine.socket);
    let plain = machine.command(&["run"]);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
        .arg(binary);
    let given = plain
        .get_envs()
        .filter_map(|(key, value)| Some((key, value?)));
    command
        .args(plain.get_args())
        .envs(given)
        .env("HOME", &machine.scratch.0);
    command
        .stderr(fs::File::create(machine.path("log")).unwrap())
        .spawn()
        .unwrap()
}

/// Not one thread can be started: that is said, nothing is lost, and all goes on once there are some.
#[test]
fn no_threads() {
    if !is_root() {
        return skip("a user of its own is made by root");
    }
    let machine = Machine::new();
    machine.configure(GOOD);
    let mut daemon = as_stranger(&machine);
    machine.wait_for_pilots(3);
    let limit = |number: &str| {
        let pid = daemon.id().to_string();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=54321",
            "--regid=54321",
            "--clear-groups",
            "prlimit",
            "--pid",
            &pid,
        ]);
        say(command.arg(format!("--nproc={number}:"))).must(0, &[]);
    };
    limit("1");
    machine.end_one(0);
    machine.wait_problem("thread");
    let tick = || machine.status()["tick"].as_f64();
    let before = tick();
    machine.until(|| tick() > before);
    limit("1000");
    machine.wait_for_pilots(3);
    machine.wait_well();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
