//! What people type and configure wrongly, and machines that are not as they should be: each case has its exit code
//! and a message that names the object and the way out. Nothing here needs an engine; two cases need root.
// threads: 8
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::print_stderr
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, dead_code)]

#[path = "common/fake_engine.rs"]
mod fake_engine;
#[path = "common/machine.rs"]
mod machine;

use fake_engine::Fault;
use machine::{Machine, PATIENCE, Scratch, becomes};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const NOT_RUNNING: i32 = 3;
const USAGE: i32 = 64;
const NO_ENGINE: i32 = 69;
const CONFIGURATION: i32 = 78;

const GOOD: &str = "[loop]\ninterval = \"1s\"\n[engine]\ntimeout = \"2s\"\n[share]\nreserve-cpus = 0\n\
                    reserve-disk = \"1MiB\"\nmax-pilots = 1\n[[pilot]]\nname = \"p\"\nimage = \"fake:1\"\n\
                    memory = \"64MiB\"\n";

/// The binary, with directories below the scratch and no engine.
fn command(scratch: &Path, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (option, name) in [("--run-dir", "run"), ("--state-dir", "state")] {
        command.arg(option).arg(scratch.join(name));
    }
    command
        .args(["--instance", "bad"])
        .env_remove("RUST_LOG")
        .env_remove("DOCKER_HOST")
        .stdin(Stdio::null());
    command
}

fn plancton(scratch: &Scratch) -> Command {
    let mut command = command(&scratch.0, Path::new(env!("CARGO_BIN_EXE_plancton")));
    command.arg("--engine").arg(scratch.0.join("none.sock"));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat())
        .into_owned()
}

fn assert_says(case: &str, output: &Output, exit: i32, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(exit), "{case}: {text}");
    for word in words {
        assert!(text.contains(word), "{case}: '{word}' is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{case}: {text}");
}

#[test]
fn command_lines() {
    let cases: [(&str, i32, &[&str]); 27] = [
        ("garbage", USAGE, &["'garbage'", "plancton help"]),
        ("statsu", USAGE, &["'statsu'", "did you mean status"]),
        (
            "--confg x run",
            USAGE,
            &["--confg", "did you mean --config"],
        ),
        (
            "run --onec",
            USAGE,
            &["--onec", "did you mean --once", "plancton help run"],
        ),
        ("drain --watch", USAGE, &["`drain` has no option --watch"]),
        ("run extra", USAGE, &["extra", "unexpected"]),
        ("run --once=yes", USAGE, &["once"]),
        ("snooze", USAGE, &["DURATION is missing", "help snooze"]),
        ("snooze soon", USAGE, &["'soon'", "\"30s\""]),
        ("snooze 5", USAGE, &["'5'", "\"30s\""]),
        ("snooze 0s", USAGE, &["zero"]),
        ("snooze -- -5m", USAGE, &["'-5m'", "\"30s\""]),
        ("drain --by", USAGE, &["missing", "--by"]),
        ("drain --by yesterday", USAGE, &["'yesterday'", "18:00"]),
        ("drain --by 25:00", USAGE, &["'25:00'", "18:00"]),
        (
            "drain --by 2001-01-01T00:00:00Z",
            USAGE,
            &["is over already"],
        ),
        ("try --for x", USAGE, &["'x'", "\"30s\""]),
        ("kill", USAGE, &["PILOT is missing"]),
        ("replay", USAGE, &["FILE is missing"]),
        (
            "replay nowhere",
            FAILED,
            &["nowhere", "not there", "run --record"],
        ),
        ("replay /", FAILED, &["/: not a regular file"]),
        ("pilot --from 9 --to 3", FAILED, &["from 9 to 3"]),
        ("status", NOT_RUNNING, &["is not running", "plancton start"]),
        (
            "status --json",
            NOT_RUNNING,
            &["is not running", "plancton start"],
        ),
        ("why", NOT_RUNNING, &["is not running", "plancton start"]),
        ("health", FAILED, &["is not running", "plancton start"]),
        ("stop", DONE, &["is not running"]),
    ];
    let scratch = Scratch::new();
    for (line, exit, words) in cases {
        let output = plancton(&scratch).args(line.split(' ')).output().unwrap();
        assert_says(line, &output, exit, words);
    }
    assert!(
        !scratch.0.join("run").exists(),
        "what failed made no directories"
    );
}

#[test]
fn commands_that_need_an_engine() {
    let scratch = Scratch::new();
    for line in [
        "kill x",
        "reap",
        "purge --dry-run",
        "purge",
        "force-stop",
        "run --once",
        "check",
        "try --for 1s",
    ] {
        let output = plancton(&scratch).args(line.split(' ')).output().unwrap();
        assert_says(
            line,
            &output,
            NO_ENGINE,
            &[
                "none.sock",
                "no such socket",
                "install or start",
                "--engine",
            ],
        );
    }
}

#[test]
fn configurations() {
    let scratch = Scratch::new();
    let file = |name: &str, text: &[u8]| scratch.file(name, text);
    let all_wrong = "[loop]\nintervall = \"1s\"\n[share]\ncpus = 0\nreserve-memory = \"-1GiB\"\n[owner]\n\
                     busy-for = \"-5s\"\n[[pilot]]\nname = \"A b\"\nimage = \"x:y:z\"\ncpus = 0\nmemory = \"1MiB\"\npids = 0\n\
                     ttl = \"0s\"\n";
    fs::create_dir(scratch.0.join("folder.toml")).unwrap();
    let pipe = scratch.0.join("pipe.toml");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let cases: [(PathBuf, &[&str]); 14] = [
        (pipe, &["pipe.toml", "not a regular file"]),
        ("/dev/zero".into(), &["/dev/zero", "not a regular file"]),
        (
            file("long.toml", &[b'#'; 1 << 20]),
            &["long.toml", "longer than"],
        ),
        (
            scratch.0.join("none.toml"),
            &["none.toml", "not there", "--config"],
        ),
        (
            scratch.0.join("folder.toml"),
            &["folder.toml", "not a regular file"],
        ),
        (
            file("latin.toml", b"[loop]\ninterval = \"\xe9\"\n"),
            &["latin.toml", "UTF-8"],
        ),
        (
            file("cut.toml", b"[loop\n"),
            &["cut.toml:1:6", "not valid TOML"],
        ),
        (
            file("nul.toml", &[0; 64]),
            &["nul.toml:1:1", "not valid TOML"],
        ),
        (
            file("key.toml", b"[share]\nreserve_memory = \"1GiB\"\n"),
            &["key.toml:2:1", "did you mean 'reserve-memory'"],
        ),
        (
            file("table.toml", b"[engines]\nsocket = \"\"\n"),
            &["table.toml:1:2", "did you mean [engine]"],
        ),
        (
            file(
                "type.toml",
                b"[[pilot]]\nname = \"p\"\nimage = \"x\"\ncpus = \"two\"\n",
            ),
            &["type.toml:4:8", "cpus"],
        ),
        (
            file("less.toml", b"[[pilot]]\nname = \"p\"\n"),
            &["less.toml:1:", "has no image"],
        ),
        (
            file(
                "socket.toml",
                b"[engine]\nsocket = \"tcp://127.0.0.1:2375\"\n",
            ),
            &["socket.toml:2:10", "tcp://", "unix://"],
        ),
        (
            file("all.toml", all_wrong.as_bytes()),
            &[
                "all.toml:2:1: unknown key 'intervall' in [loop]; did you mean 'interval'?",
                "all.toml:4:8: [share] cpus",
                "all.toml:5:18: [share] reserve-memory: '-1GiB'",
                "all.toml:7:12: [owner] busy-for: '-5s'",
                "all.toml:9:8: ",
                "all.toml:10:9: ",
                "all.toml:11:8: [[pilot]] \"A b\" cpus",
                "all.toml:12:10: [[pilot]] \"A b\" memory: \"1MiB\" is too little; write \"6MiB\"",
                "all.toml:13:8: ",
                "all.toml:14:7: ",
            ],
        ),
    ];
    for (file, words) in &cases {
        let tell = |arguments: &[&str]| {
            plancton(&scratch)
                .arg("--config")
                .arg(file)
                .args(arguments)
                .output()
                .unwrap()
        };
        let case = file.display().to_string();
        for arguments in [
            &["run"][..],
            &["start"],
            &["config"],
            &["check", "--offline"],
        ] {
            assert_says(&case, &tell(arguments), CONFIGURATION, words);
        }
        assert_says(
            &case,
            &tell(&["run"]),
            CONFIGURATION,
            &["nothing was started"],
        );
    }
    assert!(
        !scratch.0.join("run").exists(),
        "what failed made no directories"
    );
}

#[test]
fn sockets_that_are_none() {
    let scratch = Scratch::new();
    scratch.file("plain", "not a socket");
    let dead = scratch.0.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let long = format!("/{}", "x".repeat(300));
    let shown = scratch.0.display().to_string();
    let cases: [(String, i32, &[&str]); 7] = [
        (
            format!("{shown}/none"),
            NO_ENGINE,
            &["/none", "no such socket", "--engine"],
        ),
        (
            format!("unix://{shown}/plain"),
            NO_ENGINE,
            &["/plain", "not a socket", "--engine"],
        ),
        (
            shown.clone(),
            NO_ENGINE,
            &[&shown, "not a container engine", "--engine"],
        ),
        (
            dead.display().to_string(),
            NO_ENGINE,
            &["dead.sock", "connection refused", "start the engine"],
        ),
        (long, NO_ENGINE, &["xxxx"]),
        (
            "tcp://127.0.0.1:2375".to_owned(),
            USAGE,
            &["--engine", "tcp://127.0.0.1:2375", "unix:///PATH"],
        ),
        (
            "relative.sock".to_owned(),
            USAGE,
            &["--engine", "relative.sock", "unix:///PATH"],
        ),
    ];
    for (engine, exit, words) in &cases {
        for arguments in [&["run", "--once"][..], &["check"], &["reap"]] {
            let output = plancton(&scratch)
                .args(["--engine", engine])
                .args(arguments)
                .output()
                .unwrap();
            assert_says(&format!("{engine} {arguments:?}"), &output, *exit, words);
        }
    }
    let mut from_environment = command(&scratch.0, Path::new(env!("CARGO_BIN_EXE_plancton")));
    let output = from_environment
        .env("DOCKER_HOST", "tcp://127.0.0.1:2375")
        .args(["run", "--once"])
        .output()
        .unwrap();
    assert_says(
        "DOCKER_HOST",
        &output,
        USAGE,
        &["DOCKER_HOST", "tcp://127.0.0.1:2375", "unix:///PATH"],
    );
}

#[test]
fn what_listens_is_no_engine() {
    let cases = [
        (Fault::Garbage, "not a container engine"),
        (
            Fault::Status(404, "404 page not found"),
            "not a container engine",
        ),
        (Fault::Stall, "no answer within 2s"),
        (Fault::LostReply, "connection lost"),
    ];
    for (fault, words) in cases {
        let machine = Machine::new();
        machine.scratch.file("config.toml", GOOD);
        machine.engine.fault("ping", fault.clone());
        for arguments in [&["run", "--once"][..], &["check"]] {
            assert_says(
                &format!("{fault:?}"),
                &machine.tell(arguments),
                NO_ENGINE,
                &["engine.sock", words],
            );
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The binary as somebody who may do nothing: as nobody where we are root, else as we are.
fn as_nobody(scratch: &Scratch) -> Command {
    if !is_root() {
        return command(&scratch.0, Path::new(env!("CARGO_BIN_EXE_plancton")));
    }
    // The build directory may be closed to others.
    let binary = scratch.0.join("plancton");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_plancton"), &binary).unwrap();
    }
    let plain = command(&scratch.0, &binary);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(plain.get_program())
        .args(plain.get_args());
    command
        .env_remove("RUST_LOG")
        .env_remove("DOCKER_HOST")
        .env("HOME", &scratch.0)
        .stdin(Stdio::null());
    command
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_forbidden() {
    let scratch = Scratch::new();
    set_mode(&scratch.0, 0o777);
    let socket = scratch.0.join("closed.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    set_mode(&socket, 0o000);
    for arguments in [&["run", "--once"][..], &["check"], &["kill", "x"]] {
        let output = as_nobody(&scratch)
            .arg("--engine")
            .arg(&socket)
            .args(arguments)
            .output()
            .unwrap();
        let words = [
            "closed.sock",
            "permission denied",
            "run as root or join the group",
        ];
        assert_says(&format!("{arguments:?}"), &output, NO_ENGINE, &words);
    }
    let closed = scratch.0.join("closed");
    fs::create_dir(&closed).unwrap();
    let file = scratch.file("closed/config.toml", GOOD);
    set_mode(&closed, 0o500);
    let below = |name: &str| closed.join(name);
    for option in ["--run-dir", "--state-dir"] {
        let output = as_nobody(&scratch)
            .arg("--engine")
            .arg(&socket)
            .arg(option)
            .arg(below("x"))
            .arg("run")
            .output();
        let words = ["closed/x", "ermission denied", "--run-dir", "--state-dir"];
        assert_says(option, &output.unwrap(), FAILED, &words);
    }
    if is_root() {
        set_mode(&file, 0o600);
    } else {
        set_mode(&file, 0o000);
    }
    let output = as_nobody(&scratch)
        .arg("--config")
        .arg(&file)
        .arg("run")
        .output()
        .unwrap();
    assert_says(
        "a closed configuration",
        &output,
        CONFIGURATION,
        &["config.toml", "ermission denied", "nothing was started"],
    );
    set_mode(&closed, 0o700);
}

#[test]
fn directories_that_cannot_be() {
    let scratch = Scratch::new();
    scratch.file("file", "");
    for option in ["--run-dir", "--state-dir"] {
        for (below, words) in [
            ("file", "it is no directory of ours"),
            ("file/x", "cannot create the directory"),
        ] {
            let path = scratch.0.join(below);
            let output = plancton(&scratch)
                .arg(option)
                .arg(&path)
                .arg("run")
                .output()
                .unwrap();
            assert_says(
                below,
                &output,
                FAILED,
                &[path.to_str().unwrap(), words, "--run-dir", "--state-dir"],
            );
        }
    }
    let output = plancton(&scratch)
        .args(["run", "--record"])
        .arg(scratch.0.join("no/where"))
        .output()
        .unwrap();
    assert_says(
        "--record",
        &output,
        FAILED,
        &["no/where", "nothing is recorded"],
    );
}

#[test]
fn a_second_daemon() {
    let mut machine = Machine::new();
    machine.start(GOOD);
    machine.wait_for_pilots(1);
    let pid = machine.status()["pid"].to_string();
    let run = machine.run_dir().display().to_string();
    let second = machine.tell(&["run"]);
    assert_says(
        "a second daemon",
        &second,
        FAILED,
        &[&run, &format!("pid {pid}"), "plancton stop", "--run-dir"],
    );
    // Wherever its directories are: it is the engine and the instance that count.
    let elsewhere = machine.scratch.0.join("elsewhere");
    let mut other = machine.command();
    other.arg("--run-dir").arg(&elsewhere);
    other.arg("--state-dir").arg(&elsewhere);
    let output = other.args(["run", "--once"]).output().unwrap();
    assert_says("elsewhere", &output, FAILED, &[&format!("pid {pid}")]);
    assert_says(
        "start",
        &machine.tell(&["start"]),
        DONE,
        &["already running", &pid],
    );
    machine.assert_well();
    let unknown = machine.tell(&["kill", "plancton-p-nobody"]);
    assert_says(
        "kill",
        &unknown,
        FAILED,
        &["'plancton-p-nobody'", "'t1'", "plancton status"],
    );
    assert_eq!(machine.engine.count_calls("kill"), 0);
    machine.signal(Signal::TERM);
    machine.wait_for_end(PATIENCE);
    assert!(
        machine.tell(&["run", "--once"]).status.success(),
        "the lock went with its holder"
    );
}

#[test]
fn a_reload_that_fails_keeps_the_last_good_configuration() {
    let mut machine = Machine::new();
    machine.start(GOOD);
    machine.wait_for_pilots(1);
    for (bad, words) in [
        ("[loop]\nintervall = 1\n", "did you mean 'interval'"),
        ("[", "not valid TOML"),
    ] {
        machine.scratch.file("config.toml", bad);
        machine.signal(Signal::HUP);
        machine.wait_for("the problem is told", || {
            machine.status()["problems"].to_string().contains(words)
        });
        let problems = machine.status()["problems"].to_string();
        assert!(
            problems.contains("config.toml:") && problems.contains("stays in force"),
            "{problems}"
        );
        machine.assert_well();
    }
    fs::remove_file(machine.scratch.0.join("config.toml")).unwrap();
    machine.signal(Signal::HUP);
    machine.wait_for("the problem is told", || {
        machine.status()["problems"]
            .to_string()
            .contains("not there")
    });
    machine.scratch.file(
        "config.toml",
        GOOD.replace("max-pilots = 1", "max-pilots = 2"),
    );
    machine.signal(Signal::HUP);
    machine.wait_for_pilots(2);
    machine.wait_for("no problem is left", || {
        machine.status()["problems"] == serde_json::json!([])
    });
}

#[test]
fn images_and_commands_that_are_none() {
    let cases = [
        (
            "create",
            Fault::Status(404, "No such image: fake:1"),
            "fake:1",
        ),
        (
            "start",
            Fault::Status(
                400,
                "OCI runtime create failed: exec: \"nope\": executable file not found",
            ),
            "nope",
        ),
        (
            "create",
            Fault::Status(400, "Minimum memory limit allowed is 6MB"),
            "Minimum memory",
        ),
    ];
    for (what, fault, words) in cases {
        let mut machine = Machine::new();
        machine.engine.fault(what, fault);
        machine.start(GOOD);
        machine.wait_for(words, || {
            let reason = machine.status()["reason"]["text"].to_string();
            reason.contains("'p'") && reason.contains("tried again") && reason.contains(words)
        });
        machine.assert_well();
        let why = said(&machine.tell(&["why"]));
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn recordings_that_are_none() {
    let scratch = Scratch::new();
    for (text, words) in [
        ("garbage\n", ":1: "),
        ("{}\n{\"at\":\n", ":2: "),
        ("\u{0}\u{0}\n", ":1: "),
    ] {
        let file = scratch.file("record", text);
        let output = plancton(&scratch)
            .arg("replay")
            .arg(&file)
            .output()
            .unwrap();
        assert_says(
            text,
            &output,
            FAILED,
            &[&format!("{}{words}", file.display()), "ends here"],
        );
    }
}

/// The user's own engine comes first, and a socket that may not be used is passed over as long as there is another.
#[test]
fn whose_engine() {
    let scratch = Scratch::new();
    set_mode(&scratch.0, 0o777);
    let named = |name: &str| scratch.0.join(name).display().to_string();
    fs::create_dir(scratch.0.join("podman")).unwrap();
    let mut listeners = Vec::new();
    for (name, mode) in [
        ("podman/podman.sock", 0o777),
        ("docker.sock", 0o777),
        ("docker.sock", 0),
    ] {
        let socket = scratch.0.join(name);
        let _ = fs::remove_file(&socket);
        listeners.push(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        set_mode(&socket, mode);
        let mut command = as_nobody(&scratch);
        let command = command.env("XDG_RUNTIME_DIR", &scratch.0).arg("--config");
        let config = scratch.file("config.toml", "[engine]\ntimeout = \"1s\"\n");
        let output = command.arg(config).arg("check").output().unwrap();
        let used = if mode == 0 {
            "podman/podman.sock"
        } else {
            name
        };
        assert_says(name, &output, NO_ENGINE, &[&named(used)]);
    }
}

/// A limit on what can't be measured is called by its name.
#[test]
fn void_rules_are_named() {
    let machine = Machine::new();
    let supply = "root/sys/class/power_supply/BAT0";
    machine.scratch.file(&format!("{supply}/type"), "Battery\n");
    machine
        .scratch
        .file(&format!("{supply}/status"), "Discharging\n");
    fs::remove_dir_all(machine.scratch.0.join("root/sys/class/thermal")).unwrap();
    let rules = "[owner]\non-battery = \"run\"\nmax-temperature = 80\n";
    machine
        .scratch
        .file("config.toml", format!("{GOOD}{rules}"));
    let words = [
        "BAD  sensors        min-battery is void",
        "note sensors        max-temperature is void",
    ];
    let output = machine.tell(&["check"]);
    assert_says("check", &output, FAILED, &words);
    let last = said(&output).lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("first "), "{last}");
}

/// What gives the machine back needs neither a daemon that listens nor a place to write to.
#[test]
fn the_owner_is_obeyed_by_a_daemon_that_hangs() {
    for (command, then) in [
        ("purge", "nothing of Plancton's is left"),
        ("force-stop", "removed"),
    ] {
        let mut machine = Machine::new();
        machine.start(GOOD);
        machine.wait_for_pilots(1);
        if command == "purge" {
            machine.signal(Signal::STOP);
        } else {
            for control in ["state/control", "run/control"] {
                fs::remove_dir_all(machine.scratch.0.join(control)).unwrap();
                machine.scratch.file(control, "no directory");
            }
        }
        assert_says(command, &machine.tell(&[command]), DONE, &[then]);
        machine.wait_for_end(PATIENCE);
        assert_eq!(machine.engine.world().containers.len(), 0, "{command}");
    }
}

/// A state directory that takes nothing, and somebody who keeps touching what the daemon watches.
#[test]
fn requests_that_are_refused_or_never_end() {
    let mut machine = Machine::new();
    machine.start(GOOD);
    machine.wait_for_pilots(1);
    fs::remove_dir_all(machine.scratch.0.join("state/control")).unwrap();
    machine.scratch.file("state/control", "no directory");
    assert_says("drain", &machine.tell(&["drain"]), DONE, &["next boot"]);
    machine.wait_for("it drains", || machine.status()["state"] == "draining");
    assert_says("resume", &machine.tell(&["resume"]), DONE, &[]);
    machine.wait_for("it goes on", || machine.status()["state"] == "active");
    let before = machine.engine.count_calls("list");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        machine.scratch.file("run/control/x", "");
        std::thread::sleep(Duration::from_millis(2));
    }
    let looks = machine.engine.count_calls("list") - before;
    assert!(looks < 15, "{looks} looks in 3 s");
}

#[test]
fn a_command_ends_with_its_reader() {
    use std::io::Read;
    let mut machine = Machine::new();
    machine.start(GOOD);
    machine.wait_for_pilots(1);
    let mut command = machine.command();
    let watch = command.args(["status", "--watch"]).stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut reader = watch.stdout.take().unwrap();
    reader.read_exact(&mut [0; 8]).unwrap();
    drop(reader);
    assert!(becomes(PATIENCE, || watch.try_wait().unwrap().is_some()));
    // With its terminal comes a SIGHUP.
    let mut command = machine.command();
    let watch = command.args(["status", "--watch"]).stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut reader = watch.stdout.take().unwrap();
    reader.read_exact(&mut [0; 8]).unwrap();
    let pid = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    assert!(becomes(PATIENCE, || watch.try_wait().unwrap().is_some()));
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = machine.command();
    let output = command.arg("config").stdout(full.unwrap()).output();
    assert_says("config", &output.unwrap(), FAILED, &["standard output: "]);
}

/// A file system of its own for the run directory, seen by this one process and those below it.
fn on_small_disk(machine: &Machine, arguments: &str) -> Option<Command> {
    if !is_root() {
        eprintln!("skipped: a full disk is made with mount, which needs root");
        return None;
    }
    let probe = Command::new("unshare").args(["-m", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mount namespace can be made here");
        return None;
    }
    let run = machine.run_dir();
    fs::create_dir_all(&run).unwrap();
    let plain = machine.command();
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs -o size=64k,mode=755 small \"$0\" && {arguments}");
    command
        .args(["-m", "sh", "-c", &script])
        .arg(&run)
        .arg(plain.get_program())
        .args(plain.get_args());
    for (key, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.stdin(Stdio::null());
    Some(command)
}

#[test]
fn a_disk_that_is_full_at_the_start() {
    let machine = Machine::new();
    machine.scratch.file("config.toml", GOOD);
    let Some(mut command) = on_small_disk(
        &machine,
        "{ cat /dev/zero >\"$0/fill\"; exec \"$@\" run; } 2>&1",
    ) else {
        return;
    };
    let output = command.output().unwrap();
    let run = machine.run_dir().display().to_string();
    assert_says(
        "a full disk",
        &output,
        FAILED,
        &[&run, "the disk is full", "free some space"],
    );
    assert_eq!(machine.engine.count_calls("create"), 0);
}

#[test]
fn a_disk_that_fills_up() {
    let machine = Machine::new();
    machine.scratch.file("config.toml", GOOD);
    let Some(mut command) = on_small_disk(&machine, "exec \"$@\" run") else {
        return;
    };
    let log = fs::File::create(machine.scratch.0.join("log")).unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    // The process keeps its id from the shell to the daemon, and root sees its mounts.
    let run = PathBuf::from(format!(
        "/proc/{}/root{}",
        child.id(),
        machine.run_dir().display()
    ));
    let status = || fs::read_to_string(run.join("status.json")).unwrap_or_default();
    machine.wait_for("the daemon turns", || status().contains("\"pilots\":[{"));
    fs::write(run.join("fill"), [0; 1 << 20]).unwrap_err();
    machine.wait_for("the problem is logged", || {
        machine.log().contains("the disk is full")
    });
    let last = status();
    let text = machine.log();
    assert!(
        text.contains("status.json") && text.contains("free some space"),
        "{text}"
    );
    assert!(
        serde_json::from_str::<serde_json::Value>(&last).is_ok(),
        "the last status stays whole: {last}"
    );
    fs::remove_file(run.join("fill")).unwrap();
    machine.wait_for("it is written again", || {
        machine.log().contains("status: well again") && status() != last
    });
    assert_eq!(
        machine.log().matches("the disk is full").count(),
        1,
        "said once: {}",
        machine.log()
    );
    assert_eq!(machine.engine.in_state("running").len(), 1, "pilots run on");
    child.kill().unwrap();
    assert!(becomes(PATIENCE, || child.try_wait().unwrap().is_some()));
}
