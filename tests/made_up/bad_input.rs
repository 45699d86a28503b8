//! What people type and configure wrongly, and machines that are not as they should be: each case has its exit code
//! and names the object. Nothing here needs an engine; two cases need root.

use crate::common::*;
use std::os::unix::net::UnixListener;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 64;
const NO_ENGINE: i32 = 69;
const CONFIGURATION: i32 = 78;

fn good() -> String {
    made_up(1, "", "")
}

/// The daemon does not run, and there is no engine.
fn configured() -> Machine {
    let machine = Machine::without_engine();
    machine.configure(&good());
    machine
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
    let machine = configured();
    for case in LINES.lines() {
        let mut parts = case.trim().split('|');
        let [line, code, about] = [(); 3].map(|()| parts.next().unwrap());
        println!("{line}");
        machine.say(line).must(code.parse().unwrap(), &[about]);
    }
    assert!(!machine.path("run").exists() && !machine.path("state").exists());
}

/// Each kind of thing in a socket's place, and each command that needs one.
#[test]
fn sockets_that_are_none() {
    let long = format!("/{}", "x".repeat(300));
    at_once(
        ["none.sock", "plain", "root", "dead.sock", &long],
        |socket| {
            let mut machine = configured();
            machine.file("plain", "");
            drop(UnixListener::bind(machine.path("dead.sock")).unwrap());
            machine.socket = machine.path(socket);
            let shown = machine.socket.display().to_string();
            let lines = "run --once|check|reap|kill x|purge --dry-run|purge|force-stop";
            for line in lines.split('|') {
                machine.say(line).must(NO_ENGINE, &[&shown[..20]]);
            }
        },
    );
    let machine = configured();
    machine.say("try --for 1s").must(NO_ENGINE, &[]);
    let mut command = Command::new(PLANCTON);
    command.env("DOCKER_HOST", "tcp://127.0.0.1:2375");
    let about = ["DOCKER_HOST", "tcp://127.0.0.1:2375"];
    say(command.args(["run", "--once"])).must(USAGE, &about);
}

#[test]
fn what_listens_is_no_engine() {
    at_once(["garbage", "404 no", "stall", "lost-reply"], |fault| {
        let machine = Machine::new();
        machine.configure(&good().replace("timeout = \"20s\"", "timeout = \"1s\""));
        machine.engine.fault("ping", fault);
        for line in ["run --once", "check"] {
            machine.say(line).must(NO_ENGINE, &["engine.sock"]);
        }
    });
}

#[test]
fn configurations() {
    let all_wrong = b"[loop]\nintervall = \"1s\"\n[share]\ncpus = 0\nreserve-memory = \"-1GiB\"\n[owner]\n\
        busy-for = \"-5s\"\n[[pilot]]\nname = \"A b\"\nimage = \"x:y:z\"\ncpus = 0\nmemory = \"1MiB\"\npids = 0\n\
        ttl = \"0s\"\n";
    let everywhere = "2:1: 4:8: 5:18: 7:12: 9:8: 10:9: 11:8: 12:10: 13:8: 14:7:";
    let no_cpus = b"[[pilot]]\nname = \"p\"\nimage = \"x\"\ncpus = \"two\"\n";
    let remote = b"[engine]\nsocket = \"tcp://127.0.0.1:2375\"\n";
    let wrong_key = b"[share]\nreserve_memory = \"1GiB\"\n";
    let machine = Machine::without_engine();
    for (text, about) in [
        (&b"[loop]\ninterval = \"\xe9\"\n"[..], "UTF-8"),
        (b"[loop\n", "1:6:"),
        (&[0; 64], "1:1:"),
        (wrong_key, "2:1: reserve-memory"),
        (b"[engines]\nsocket = \"\"\n", "1:2: 'engine'"),
        (no_cpus, "4:8: cpus"),
        (b"[[pilot]]\nname = \"p\"\n", "1: image"),
        (remote, "2:10: tcp://"),
        (all_wrong, everywhere),
        (&[b'#'; 8 << 20], "longer than"),
    ] {
        refused(&machine, &machine.file("config.toml", text), about);
    }
    make_fifo(&machine.path("fifo"));
    refused(&machine, &machine.path("none.toml"), "not there");
    for file in [
        machine.path("root"),
        machine.path("fifo"),
        "/dev/zero".into(),
    ] {
        refused(&machine, &file, "regular file");
    }
    let made = machine.path("run").exists();
    assert!(!made, "what failed made no directories");
}

#[track_caller]
fn refused(machine: &Machine, file: &Path, about: &str) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let about: Vec<&str> = about.split(' ').chain([name]).collect();
    for line in ["run", "start", "config", "check --offline"] {
        let line = format!("--config {} {line}", file.display());
        machine.say(&line).must(CONFIGURATION, &about);
    }
}

/// The binary as somebody who may do nothing: as nobody where we are root, else as we are.
fn as_nobody(machine: &Machine, line: &str) -> Command {
    let plain = machine.command(line);
    match is_root() {
        true => as_user(65534, &machine.scratch, &plain),
        false => plain,
    }
}

#[test]
fn what_is_forbidden() {
    let machine = configured();
    let _listener = UnixListener::bind(&machine.socket).unwrap();
    set_mode(&machine.socket, 0o000);
    for line in ["run --once", "check", "kill x"] {
        let about = ["engine.sock", "permission denied"];
        say(&mut as_nobody(&machine, line)).must(NO_ENGINE, &about);
    }
    let file = machine.file("closed/config.toml", good());
    set_mode(&file, if is_root() { 0o600 } else { 0o000 });
    let line = format!("--config {} run", file.display());
    say(&mut as_nobody(&machine, &line)).must(CONFIGURATION, &["config.toml"]);
    set_mode(machine.path("closed"), 0o500);
    for option in ["--run-dir", "--state-dir"] {
        let line = format!("{option} {} run", machine.path("closed/x").display());
        say(&mut as_nobody(&machine, &line)).must(FAILED, &["closed/x"]);
    }
    set_mode(machine.path("closed"), 0o700);
}

#[test]
fn files_that_cannot_be() {
    let machine = configured();
    let file = machine.file("file", "").display().to_string();
    for option in ["--run-dir", "--state-dir"] {
        for path in [&file, &format!("{file}/x")] {
            let line = format!("{option} {path} run");
            machine.say(&line).must(FAILED, &[path, option]);
        }
    }
    let line = format!("run --record {}", machine.path("no/where").display());
    machine.say(&line).must(FAILED, &["no/where"]);
    for (text, place) in [
        ("garbage\n", "line 1"),
        ("{}\n{\"at\": x\n", "line 2"),
        ("\0\0\n", "line 1"),
    ] {
        machine.file("file", text);
        let line = format!("replay {file}");
        machine.say(&line).must(FAILED, &[&file, place]);
    }
}

#[test]
fn a_second_daemon() {
    let mut machine = Machine::running(&good(), 1);
    let pid = machine.wait_listed(1)["pid"].to_string();
    let run_dir = machine.path("run").display().to_string();
    machine.say("run").must(FAILED, &[&run_dir, &pid]);
    // Wherever its directories are: it is the engine and the instance that count.
    let elsewhere = machine.path("elsewhere").display().to_string();
    let once = format!("--run-dir {elsewhere} --state-dir {elsewhere} run --once");
    machine.say(&once).must(FAILED, &[&pid]);
    machine.say("start").must(DONE, &[&pid]);
    machine.assert_well();
    let nobody = "plancton-p-nobody";
    let kill = format!("kill {nobody}");
    machine.say(&kill).must(FAILED, &[nobody]);
    assert_eq!(machine.engine.count_calls("kill"), 0);
    machine.end();
    // The lock went with its holder. One turn ends where nothing is configured, too.
    machine.done("run --once");
    machine.configure("[share]\nreserve-disk = \"1MiB\"\n");
    machine.done("run --once");
}

#[test]
fn a_reload_that_fails_keeps_the_last_good_configuration() {
    let mut machine = Machine::running(&good(), 1);
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
    machine.reload(&made_up(2, "", ""));
    machine.wait_for_pilots(2);
    machine.wait_well();
}

/// The user's own engine comes first, and a socket that may not be used is passed over as long as there is another.
#[test]
fn whose_engine() {
    let machine = Machine::without_engine();
    machine.configure("[engine]\ntimeout = \"1s\"\n");
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
        // As it is found, not as the tests say it.
        let told = as_nobody(&machine, "check");
        let is_other = |word: &&std::ffi::OsStr| !word.to_string_lossy().contains("engine");
        let mut command = Command::new(told.get_program());
        command.args(told.get_args().filter(is_other));
        command.env_remove("DOCKER_HOST");
        command.env("HOME", &machine.scratch.0);
        command.env("XDG_RUNTIME_DIR", &machine.scratch.0);
        say(&mut command).must(NO_ENGINE, &[machine.path(used).to_str().unwrap()]);
    }
}

/// The machine of `check-void.txt`: a processor without a sensor, a battery without a charge, the engine's disk elsewhere,
/// and other users' programs hidden.
fn without_inputs() -> (Machine, String) {
    let machine = Machine::new();
    for (file, text) in [("type", "Battery\n"), ("status", "Discharging\n")] {
        machine.file(&format!("root/sys/class/power_supply/BAT0/{file}"), text);
    }
    fs::remove_dir_all(machine.path("root/sys/class/thermal")).unwrap();
    fs::remove_file(machine.path("root/proc/1/cmdline")).unwrap();
    machine.engine.world().data_root = machine.path("nowhere");
    let rules =
        "[owner]\non-battery = \"run\"\nmax-temperature = 80\npause-while-running = [\"game\"]\n";
    (machine, good() + rules)
}

const VOID: [&str; 4] = [
    "max-temperature",
    "min-battery",
    "reserve-disk",
    "pause-while-running",
];

/// Each rule that lacks its input is called by its name, by `check` and by a daemon's `status`.
#[test]
fn void_rules_are_named() {
    let (mut machine, config) = without_inputs();
    machine.configure(&config);
    let said = machine.say("check").must(FAILED, &VOID);
    let problems = said
        .out
        .lines()
        .filter(|line| line.starts_with("BAD  problem "));
    assert_eq!(problems.count(), VOID.len());
    assert!(
        said.out
            .lines()
            .last()
            .unwrap()
            .starts_with("first problem")
    );
    // What differs from one who runs this to another.
    let is_of_all = |line: &&str| !line.starts_with("note group ");
    let lines: Vec<&str> = said.out.lines().filter(is_of_all).collect();
    let place = machine.scratch.0.display().to_string();
    let found = lines.join("\n").replace(&place, "PLACE") + "\n";
    is_golden("tests/golden/check-void.txt", &found);
    machine.run("");
    VOID.iter().for_each(|key| machine.wait_problem(key));
    let problems = machine.say("status --json").out;
    let problems: Value = serde_json::from_str(&problems).unwrap();
    let problems = problems["problems"].to_string();
    assert!(VOID.iter().all(|key| problems.contains(key)), "{problems}");
}

/// Pilots whose use can't be read are paused, and `check` and `status` say why.
#[test]
fn a_use_that_cannot_be_read_is_named() {
    let mut machine = Machine::new();
    machine.engine.world().hides_groups = true;
    machine.start(&(good() + "[owner]\nbusy-for = \"5s\"\n"));
    machine.wait_problem("their CPU use could not be read");
    machine.until(|| machine.engine.in_state("paused").len() == 1);
    let about = ["BAD  problem", "their CPU use could not be read"];
    machine.say("check").must(FAILED, &about);
}

/// What gives the machine back needs neither a daemon that listens nor a place to write to.
#[test]
fn the_owner_is_obeyed_by_a_daemon_that_hangs() {
    at_once(["purge", "force-stop"], |command| {
        let written = env!("CARGO_TARGET_TMPDIR");
        let mounts = format!("mounts = [\"{written}:/data:rw\", \"/proc:/p\"]\n");
        let mut machine = Machine::running(&(good() + &mounts), 1);
        if command == "purge" {
            machine.signal(Signal::STOP);
        } else {
            for control in ["state/control", "run/control"] {
                fs::remove_dir_all(machine.path(control)).unwrap();
                machine.file(control, "no directory");
            }
        }
        let said = machine.done(command).out;
        machine.wait_end();
        assert_eq!(machine.engine.number(), 0);
        // What pilots wrote to is named, and left alone.
        let stays = format!("{written} stays: pilots of 'p' wrote to it");
        assert_eq!(said.contains(&stays), command == "purge", "{said}");
        assert!(!said.contains("/proc"), "{said}");
    });
}

/// A state directory that takes nothing, and somebody who keeps touching what the daemon watches.
#[test]
fn requests_that_are_refused_or_never_end() {
    let machine = Machine::running(&good(), 1);
    fs::remove_dir_all(machine.path("state/control/")).unwrap();
    machine.file("state/control", "no directory");
    machine.say("drain").must(DONE, &["next boot"]);
    machine.wait_for("/state", "draining");
    machine.done("resume");
    machine.wait_for("/state", "active");
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
    let machine = Machine::running(&good(), 1);
    // With its reader; with its terminal comes a SIGHUP.
    for is_hung_up in [false, true] {
        let mut command = machine.command("status --watch");
        let mut watch = Running::new(command.stdout(Stdio::piped()));
        let mut reader = watch.0.stdout.take().unwrap();
        reader.read_exact(&mut [0; 8]).unwrap();
        match is_hung_up {
            true => watch.signal(Signal::HUP),
            false => drop(reader),
        }
        until(|| watch.has_ended());
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = machine.command("config").stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(FAILED));
}

/// A log that nobody reads: a full pipe, from before the start.
#[test]
fn a_full_log_holds_nothing_up() {
    let machine = Machine::new();
    machine.configure(&good());
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let _daemon = Running::new(machine.command("-v run").stderr(writer));
    machine.wait_for_pilots(1);
    machine.end_one(0);
    machine.wait_status(|status| status["gone"][0].is_object());
}

/// The daemon with a file system of its own for the run directory, seen by it alone and those below it.
fn on_small_disk(machine: &Machine, script: &str) -> Command {
    fs::create_dir_all(machine.path("run")).unwrap();
    let plain = machine.command("run");
    let mount = "mount -t tmpfs -o size=64k,mode=755 small \"$0\"";
    let script = format!("{mount} && {script} exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    command.arg(machine.path("run"));
    command.arg(plain.get_program()).args(plain.get_args());
    let given = plain.get_envs();
    command.envs(given.filter_map(|(key, value)| Some((key, value?))));
    command
}

#[test]
fn a_disk_that_is_full_or_fills_up() {
    let can_mount = || say(Command::new("unshare").args(["-m", "true"])).code == 0;
    if !is_root() || !can_mount() {
        return skip("a full disk is made with mount in a namespace, which needs root");
    }
    let machine = Machine::new();
    machine.configure(&good());
    let run_dir = machine.path("run").display().to_string();
    let mut command = on_small_disk(&machine, "cat /dev/zero 2>/dev/null >\"$0/fill\";");
    say(&mut command).must(FAILED, &[&run_dir, "the disk is full"]);
    assert_eq!(machine.engine.count_calls("create"), 0);

    let log = File::create(machine.path("log")).unwrap();
    let daemon = Running::new(on_small_disk(&machine, "").stderr(log));
    // The process keeps its id from the shell to the daemon, and root sees its mounts.
    let run = PathBuf::from(format!("/proc/{}/root{run_dir}", daemon.pid()));
    let status = || read(run.join("status.json"));
    machine.until(|| status().contains("\"pilots\":[{"));
    fs::write(run.join("fill"), [0; 1 << 20]).unwrap_err();
    machine.until(|| machine.log().contains("the disk is full"));
    let last = status();
    let is_whole = serde_json::from_str::<Value>(&last).is_ok();
    assert!(is_whole, "the last status stays whole: {last}");
    fs::remove_file(run.join("fill")).unwrap();
    machine.until(|| status() != last);
    // Said once, and pilots run on.
    assert_eq!(machine.log().matches("the disk is full").count(), 1);
    assert_eq!(machine.pilots().len(), 1);
}
