//! A short form of what tests/hard.sh does to a real engine: killed at any moment, no threads, no descriptors, and files
//! that never end where files are expected. Two cases need root.

use crate::common::*;
use rustix::process::{Resource, Rlimit, prlimit};

fn limit(pid: u32, what: Resource, soft: u64) {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    let (current, maximum) = (Some(soft), Some(4096));
    let before = prlimit(pid, what, Rlimit { current, maximum }).unwrap();
    assert_ne!(before.current, Some(soft));
}

/// A crash between any two calls: every slot is filled again, none twice, and no pilot that runs is touched.
#[test]
fn killed_at_any_moment() {
    at_once(0..6u32, |seed| {
        let mut machine = Machine::new();
        machine.configure(&made_up(3, "", ""));
        let mut random = seed.wrapping_mul(2_654_435_761) | 1;
        for _ in 0..5 {
            machine.run("");
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let moment = f64::from(random >> 8) / f64::from(1u32 << 24) * 1.5;
            std::thread::sleep(seconds(moment));
            machine.crash();
            assert!(machine.pilots().len() <= 3);
        }
        machine.run("");
        machine.wait_for_pilots(3);
        // A container that was created and never started goes.
        machine.until(|| machine.engine.number() == 3);
        let [kills, starts] = ["kill", "start"].map(|what| machine.engine.count_calls(what));
        assert_eq!((kills, starts), (0, 3));
    });
}

/// What is not a plain file where a file of the owner's is expected: said, by a loop that goes on and ends when it is told to.
#[test]
fn files_that_never_end() {
    let cases =
        ["image-archive", "auth-file"].map(|key| ["fifo", "/dev/zero"].map(|file| (key, file)));
    at_once(cases.concat(), |(key, file)| {
        let mut machine = Machine::new();
        make_fifo(&machine.path("fifo"));
        let file = machine.path(file).display().to_string();
        let config = made_up(3, "", &format!("{key} = {file:?}"));
        machine.engine.fault("create", "404 No such image");
        machine.start(&config.replace("fake:1", "reg.example/none:1"));
        machine.until(|| machine.status().to_string().contains(&file));
        machine.assert_well();
        assert_eq!(machine.end(), 0);
    });
    let machine = Machine::without_engine();
    machine.configure(&made_up(3, "", ""));
    let fifo = machine.path("recording");
    make_fifo(&fifo);
    for line in ["replay", "run --record"] {
        let line = format!("{line} {}", fifo.display());
        machine.say(&line).must(1, &["regular file"]);
    }
    let long = File::create(machine.path("config.toml")).unwrap();
    long.set_len(200 << 20).unwrap();
    machine.say("check").must(78, &["longer than"]);
}

/// No descriptor is left for anything: it waits instead of spinning, and goes on once there are some.
#[test]
fn no_descriptors() {
    let mut machine = Machine::running(&made_up(3, "", ""), 3);
    limit(machine.pid(), Resource::Nofile, 3);
    let calls = machine.engine.calls_during(4.0).len();
    assert!(calls < 20, "{calls} calls");
    let ticks = cpu_ticks(machine.pid());
    assert!(ticks < 150, "{ticks} hundredths of a second");
    limit(machine.pid(), Resource::Nofile, 1024);
    machine.end_one(0);
    machine.wait_for_pilots(3);
    machine.assert_well();
}

/// Not one more thread can be started: that is said, nothing is lost, and all goes on with the one there is.
#[test]
fn no_threads() {
    if !is_root() {
        return skip("a user of its own is made by root");
    }
    // Nobody else's, so that the kernel counts the daemon's threads alone.
    let user = 54321;
    let machine = Machine::new();
    machine.configure(&made_up(3, "", ""));
    set_mode(&machine.socket, 0o777);
    let mut command = as_user(user, &machine.scratch, &machine.command("run"));
    let log = File::create(machine.path("log")).unwrap();
    let daemon = Running::new(command.stderr(log));
    machine.wait_for_pilots(3);
    let limit = |number: &str| {
        let as_them = format!("--reuid={user} --regid={user} --clear-groups");
        let limit = format!("prlimit --pid {} --nproc={number}:", daemon.pid());
        machine.scratch.tool(&format!("setpriv {as_them} {limit}"));
    };
    limit("1");
    // The idle one does what it can, one job after the other.
    let before = machine.pilots();
    machine.engine.ends(&before, 0);
    machine.until(|| machine.log().contains("no thread could be started"));
    machine.wait_for_pilots(3);
    assert!(!machine.pilots().iter().any(|id| before.contains(id)));
    limit("1000");
    machine.wait_well();
}
