//! What people type and configure wrongly, and machines that are not as they should be: each case has its exit code
//! and names the object. Nothing here needs an engine; two cases need root.
// threads: 8
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;
use rustix::process::{Pid, Signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const NOT_RUNNING: i32 = 3;
const USAGE: i32 = 64;
const NO_ENGINE: i32 = 69;
const CONFIGURATION: i32 = 78;

const GOOD: &str = "[loop]\ninterval = \"1s\"\n[engine]\ntimeout = \"2s\"\n[share]\nreserve-cpus = 0\n\
                    reserve-disk = \"1MiB\"\nmax-pilots = 1\n[[pilot]]\nname = \"p\"\nimage = \"fake:1\"\n\
                    memory = \"64MiB\"\n";

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn command_lines() {
    // The line, its exit code, and what it is about.
    const LINES: &str = "garbage|64|garbage
        statsu|64|status
        --confg x run|64|--config
        run --onec|64|--once
        drain --watch|64|--watch
        run extra|64|extra
        run --once=yes|64|once
        snooze|64|DURATION
        snooze soon|64|'soon'
        snooze 5|64|'5'
        snooze 0s|64|zero
        snooze -- -5m|64|'-5m'
        drain --by|64|--by
        drain --by yesterday|64|'yesterday'
        drain --by 25:00|64|'25:00'
        drain --by 2001-01-01T00:00:00Z|64|is over
        try --for x|64|'x'
        kill|64|PILOT
        replay|64|FILE
        replay nowhere|1|nowhere
        replay /|1|regular file
        pilot --from 9 --to 3|1|9
        --engine tcp://127.0.0.1:2375 check|64|tcp://127.0.0.1:2375
        --engine relative.sock check|64|relative.sock
        status|3|plancton start
        status --json|3|plancton start
        why|3|plancton start
        health|1|plancton start
        stop|0|not running";
    let machine = Machine::without_engine();
    machine.configure(GOOD);
    for case in LINES.lines() {
        let [line, code, about] = case
            .trim()
            .split('|')
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let said = say(machine.command(&[]).args(words(line)));
        assert_eq!(said.code.to_string(), code, "{line}: {}", said.text());
        said.must(code.parse().unwrap(), &[about]);
    }
    assert!(!machine.run_dir().exists() && !machine.state_dir().exists());
    assert_eq!((NOT_RUNNING, USAGE), (3, 64));
}

/// Each kind of thing in a socket's place, and each command that needs one.
#[test]
fn sockets_that_are_none() {
    let mut machine = Machine::without_engine();
    machine.configure(GOOD);
    let dead = machine.path("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let long = Path::new("/").join("x".repeat(300));
    let plain = machine.file("plain", "");
    for socket in [
        machine.path("none.sock"),
        plain,
        machine.path("root"),
        dead,
        long,
    ] {
        machine.socket = socket;
        let shown = machine.socket.display().to_string();
        for line in [
            "run --once",
            "check",
            "reap",
            "kill x",
            "purge --dry-run",
            "purge",
            "force-stop",
        ] {
            machine.say(&words(line)).must(NO_ENGINE, &[&shown[..20]]);
        }
    }
    machine.say(&["try", "--for", "1s"]).must(NO_ENGINE, &[]);
    let mut command = Command::new(PLANCTON);
    command
        .env("DOCKER_HOST", "tcp://127.0.0.1:2375")
        .args(["run", "--once"]);
    say(&mut command).must(USAGE, &["DOCKER_HOST", "tcp://127.0.0.1:2375"]);
}

#[test]
fn what_listens_is_no_engine() {
    at_once(
        [
            Fault::Garbage,
            Fault::Status(404, "no"),
            Fault::Stall,
            Fault::LostReply,
        ],
        |fault| {
            let machine = Machine::new();
            machine.configure(GOOD);
            machine.engine.fault("ping", fault);
            for line in ["run --once", "check"] {
                machine.say(&words(line)).must(NO_ENGINE, &["engine.sock"]);
            }
        },
    );
}

#[test]
fn configurations() {
    let all_wrong = b"[loop]\nintervall = \"1s\"\n[share]\ncpus = 0\nreserve-memory = \"-1GiB\"\n[owner]\n\
        busy-for = \"-5s\"\n[[pilot]]\nname = \"A b\"\nimage = \"x:y:z\"\ncpus = 0\nmemory = \"1MiB\"\npids = 0\n\
        ttl = \"0s\"\n";
    let everywhere = "2:1: 4:8: 5:18: 7:12: 9:8: 10:9: 11:8: 12:10: 13:8: 14:7:";
    let machine = Machine::without_engine();
    for (text, about) in [
        (&b"[loop]\ninterval = \"\xe9\"\n"[..], "UTF-8"),
        (b"[loop\n", "1:6:"),
        (&[0; 64], "1:1:"),
        (
            b"[share]\nreserve_memory = \"1GiB\"\n",
            "2:1: reserve-memory",
        ),
        (b"[engines]\nsocket = \"\"\n", "1:2: [engine]"),
        (
            b"[[pilot]]\nname = \"p\"\nimage = \"x\"\ncpus = \"two\"\n",
            "4:8: cpus",
        ),
        (b"[[pilot]]\nname = \"p\"\n", "1: image"),
        (
            b"[engine]\nsocket = \"tcp://127.0.0.1:2375\"\n",
            "2:10: tcp://",
        ),
        (all_wrong, everywhere),
    ] {
        let file = machine.file("config.toml", text);
        refused(&machine, &file, &words(about));
    }
    for (file, about) in [
        (machine.path("none.toml"), "not there"),
        (machine.path("root"), "regular file"),
    ] {
        refused(&machine, &file, &[about]);
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        machine.path("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    refused(&machine, &machine.path("fifo"), &["regular file"]);
    refused(&machine, Path::new("/dev/zero"), &["regular file"]);
    machine.file("long.toml", vec![b'#'; 8 << 20]);
    refused(&machine, &machine.path("long.toml"), &["longer than"]);
    assert!(
        !machine.run_dir().exists(),
        "what failed made no directories"
    );
}

#[track_caller]
fn refused(machine: &Machine, file: &Path, about: &[&str]) {
    for line in ["run", "start", "config", "check --offline"] {
        let mut command = machine.command(&["--config"]);
        let said = say(command.arg(file).args(words(line))).must(CONFIGURATION, about);
        assert!(
            said.text()
                .contains(file.file_name().unwrap().to_str().unwrap())
        );
    }
}

/// The binary as somebody who may do nothing: as nobody where we are root, else as we are.
fn as_nobody(machine: &Machine, arguments: &[&str]) -> Command {
    let plain = machine.command(arguments);
    if !is_root() {
        return plain;
    }
    // The build directory may be closed to others.
    let binary = machine.path("plancton");
    if !binary.exists() {
        fs::copy(PLANCTON, &binary).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary);
    command
        .args(plain.get_args())
        .env("HOME", &machine.scratch.0)
        .env_remove("DOCKER_HOST");
    command
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_forbidden() {
    let machine = Machine::without_engine();
    set_mode(&machine.scratch.0, 0o777);
    let _listener = UnixListener::bind(&machine.socket).unwrap();
    set_mode(&machine.socket, 0o000);
    machine.configure(GOOD);
    for line in ["run --once", "check", "kill x"] {
        say(&mut as_nobody(&machine, &words(line)))
            .must(NO_ENGINE, &["engine.sock", "permission denied"]);
    }
    let file = machine.file("closed/config.toml", GOOD);
    set_mode(&file, if is_root() { 0o600 } else { 0o000 });
    say(as_nobody(&machine, &["--config"]).arg(&file).arg("run"))
        .must(CONFIGURATION, &["config.toml"]);
    set_mode(&machine.path("closed"), 0o500);
    for option in ["--run-dir", "--state-dir"] {
        let below = machine.path("closed/x");
        say(as_nobody(&machine, &[option]).arg(below).arg("run")).must(FAILED, &["closed/x"]);
    }
    set_mode(&machine.path("closed"), 0o700);
}

#[test]
fn files_that_cannot_be() {
    let machine = Machine::without_engine();
    machine.configure(GOOD);
    let file = machine.file("file", "");
    for option in ["--run-dir", "--state-dir"] {
        for path in [&file, &file.join("x")] {
            let path = path.to_str().unwrap();
            machine
                .say(&[option, path, "run"])
                .must(FAILED, &[path, option]);
        }
    }
    let nowhere = machine.path("no/where");
    machine
        .say(&["run", "--record", nowhere.to_str().unwrap()])
        .must(FAILED, &["no/where"]);
    for (text, place) in [
        ("garbage\n", "line 1"),
        ("{}\n{\"at\": x\n", "line 2"),
        ("\0\0\n", "line 1"),
    ] {
        let file = machine.file("record", text);
        let file = file.to_str().unwrap();
        machine.say(&["replay", file]).must(FAILED, &[file, place]);
    }
}

#[test]
fn a_second_daemon() {
    let mut machine = Machine::running(GOOD, 1);
    let pid = machine.status()["pid"].to_string();
    machine
        .say(&["run"])
        .must(FAILED, &[&machine.run_dir().display().to_string(), &pid]);
    // Wherever its directories are: it is the engine and the instance that count.
    let elsewhere = machine.path("elsewhere").display().to_string();
    let once = [
        "--run-dir",
        &elsewhere,
        "--state-dir",
        &elsewhere,
        "run",
        "--once",
    ];
    machine.say(&once).must(FAILED, &[&pid]);
    machine.say(&["start"]).must(DONE, &[&pid]);
    machine.assert_well();
    machine
        .say(&["kill", "plancton-p-nobody"])
        .must(FAILED, &["'plancton-p-nobody'"]);
    assert_eq!(machine.engine.count_calls("kill"), 0);
    machine.end();
    // The lock went with its holder.
    machine.say(&["run", "--once"]).must(DONE, &[]);
}

#[test]
fn a_reload_that_fails_keeps_the_last_good_configuration() {
    let mut machine = Machine::running(GOOD, 1);
    for (bad, about) in [
        ("[loop]\nintervall = 1\n", "config.toml:2:1"),
        ("[", "config.toml:1:"),
    ] {
        machine.reload(bad);
        machine.wait_problem(about);
        machine.assert_well();
    }
    fs::remove_file(machine.path("config.toml")).unwrap();
    machine.signal(Signal::HUP);
    machine.wait_problem("not there");
    machine.reload(&GOOD.replace("max-pilots = 1", "max-pilots = 2"));
    machine.wait_for_pilots(2);
    machine.wait_well();
}

/// The user's own engine comes first, and a socket that may not be used is passed over as long as there is another.
#[test]
fn whose_engine() {
    let machine = Machine::without_engine();
    set_mode(&machine.scratch.0, 0o777);
    let config = machine.file("config.toml", "[engine]\ntimeout = \"1s\"\n");
    let mut listeners = Vec::new();
    fs::create_dir(machine.path("podman")).unwrap();
    for (name, mode, used) in [
        ("podman/podman.sock", 0o777, "podman/podman.sock"),
        ("docker.sock", 0o777, "docker.sock"),
        ("docker.sock", 0, "podman/podman.sock"),
    ] {
        let socket = machine.path(name);
        let _ = fs::remove_file(&socket);
        listeners.push(UnixListener::bind(&socket).unwrap());
        set_mode(&socket, mode);
        let mut command = as_nobody(&machine, &[]);
        let without_engine: Vec<_> = command.get_args().map(|word| word.to_owned()).collect();
        let keep = without_engine
            .into_iter()
            .filter(|word| !word.to_string_lossy().contains("engine"));
        let mut plain = Command::new(command.get_program());
        plain
            .args(keep)
            .env("HOME", &machine.scratch.0)
            .env_remove("DOCKER_HOST");
        command = plain;
        command
            .env("XDG_RUNTIME_DIR", &machine.scratch.0)
            .arg("--config")
            .arg(&config);
        say(command.arg("check")).must(NO_ENGINE, &[machine.path(used).to_str().unwrap()]);
    }
}

/// A limit on what can't be measured is called by its name.
#[test]
fn void_rules_are_named() {
    let machine = Machine::new();
    for (file, text) in [("type", "Battery\n"), ("status", "Discharging\n")] {
        machine.file(&format!("root/sys/class/power_supply/BAT0/{file}"), text);
    }
    fs::remove_dir_all(machine.path("root/sys/class/thermal")).unwrap();
    let rules = "[owner]\non-battery = \"run\"\nmax-temperature = 80\n";
    machine.configure(&format!("{GOOD}{rules}"));
    let named = [
        "BAD  sensors        min-battery",
        "note sensors        max-temperature",
    ];
    let said = machine.say(&["check"]).must(FAILED, &named);
    assert!(said.out.lines().last().unwrap().starts_with("first "));
}

/// What gives the machine back needs neither a daemon that listens nor a place to write to.
#[test]
fn the_owner_is_obeyed_by_a_daemon_that_hangs() {
    for command in ["purge", "force-stop"] {
        let mut machine = Machine::running(GOOD, 1);
        if command == "purge" {
            machine.signal(Signal::STOP);
        } else {
            for control in ["state/control", "run/control"] {
                fs::remove_dir_all(machine.path(control)).unwrap();
                machine.file(control, "no directory");
            }
        }
        machine.say(&[command]).must(DONE, &[]);
        machine.wait_end();
        assert_eq!(machine.engine.number(), 0, "{command}");
    }
}

/// A state directory that takes nothing, and somebody who keeps touching what the daemon watches.
#[test]
fn requests_that_are_refused_or_never_end() {
    let machine = Machine::running(GOOD, 1);
    fs::remove_dir_all(machine.control("")).unwrap();
    machine.file("state/control", "no directory");
    machine.say(&["drain"]).must(DONE, &["next boot"]);
    machine.wait_status(|status| status["state"] == "draining");
    machine.say(&["resume"]).must(DONE, &[]);
    machine.wait_status(|status| status["state"] == "active");
    let before = machine.engine.count_calls("list");
    let start = epoch();
    while epoch() - start < 3.0 {
        machine.file("run/control/x", "");
        std::thread::sleep(seconds(0.002));
    }
    let looks = machine.engine.count_calls("list") - before;
    assert!(looks < 15, "{looks} looks in 3 s");
}

#[test]
fn a_command_ends_with_its_reader() {
    use std::io::Read;
    let machine = Machine::running(GOOD, 1);
    // With its reader; with its terminal comes a SIGHUP.
    for is_hung_up in [false, true] {
        let mut command = machine.command(&["status", "--watch"]);
        let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = watch.stdout.take().unwrap();
        reader.read_exact(&mut [0; 8]).unwrap();
        if is_hung_up {
            rustix::process::kill_process(Pid::from_child(&watch), Signal::HUP).unwrap();
        } else {
            drop(reader);
        }
        until(|| watch.try_wait().unwrap().is_some());
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = machine.command(&["config"]).stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(FAILED));
}

/// A log that nobody reads: a full pipe, from before the start.
#[test]
fn a_full_log_holds_nothing_up() {
    let machine = Machine::new();
    machine.configure(GOOD);
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut daemon = machine
        .command(&["-v", "run"])
        .stderr(writer)
        .spawn()
        .unwrap();
    let ends = || {
        machine.wait_for_pilots(1);
        machine.end_one(0);
        machine.wait_status(|status| status["gone"][0].is_object());
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ends));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    drop(reader);
    assert!(ended.is_ok());
}

/// A file system of its own for the run directory, seen by this one process and those below it. `None`: not here.
fn on_small_disk(machine: &Machine, script: &str) -> Option<Command> {
    let probe = Command::new("unshare").args(["-m", "true"]).status();
    if !is_root() || !probe.is_ok_and(|status| status.success()) {
        skip("a full disk is made with mount in a namespace, which needs root");
        return None;
    }
    fs::create_dir_all(machine.run_dir()).unwrap();
    let plain = machine.command(&["run"]);
    let script =
        format!("mount -t tmpfs -o size=64k,mode=755 small \"$0\" && {script} exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .arg(machine.run_dir());
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(
        plain
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    Some(command)
}

#[test]
fn a_disk_that_is_full_or_fills_up() {
    let machine = Machine::new();
    machine.configure(GOOD);
    let Some(mut command) = on_small_disk(&machine, "cat /dev/zero 2>/dev/null >\"$0/fill\";")
    else {
        return;
    };
    say(&mut command).must(
        FAILED,
        &[machine.run_dir().to_str().unwrap(), "the disk is full"],
    );
    assert_eq!(machine.engine.count_calls("create"), 0);

    let log = fs::File::create(machine.path("log")).unwrap();
    let mut child = on_small_disk(&machine, "")
        .unwrap()
        .stderr(log)
        .spawn()
        .unwrap();
    // The process keeps its id from the shell to the daemon, and root sees its mounts.
    let run = format!("/proc/{}/root{}", child.id(), machine.run_dir().display());
    let run = Path::new(&run);
    let status = || read(run.join("status.json"));
    machine.until(|| status().contains("\"pilots\":[{"));
    fs::write(run.join("fill"), [0; 1 << 20]).unwrap_err();
    machine.until(|| machine.log().contains("the disk is full"));
    let last = status();
    assert!(
        serde_json::from_str::<Value>(&last).is_ok(),
        "the last status stays whole: {last}"
    );
    fs::remove_file(run.join("fill")).unwrap();
    machine.until(|| status() != last);
    // Said once, and pilots run on.
    assert_eq!(machine.log().matches("the disk is full").count(), 1);
    assert_eq!(machine.pilots().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
}
