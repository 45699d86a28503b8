//! What all tests share: an instance of the real binary with directories of its own, beside a real engine (`engine`) or on a
//! made-up machine with a made-up one (`machine`, `fake_engine`), and servers for it to talk to (`web`, `influx`).
//! Nothing waits for a time: what is wanted is polled for, because no machine is quiet.
#![allow(dead_code, unused_imports)] // each test file uses a part

pub mod engine;
pub mod fake_engine;
pub mod influx;
pub mod machine;
pub mod web;

pub use engine::*;
pub use fake_engine::{Call, FakeEngine};
pub use machine::*;
pub use rustix::process::{Pid, Signal, kill_process};
pub use serde_json::{Value, json};
pub use std::collections::{BTreeMap, BTreeSet};
pub use std::fmt::Debug;
pub use std::fs::{self, File};
pub use std::io::Write;
pub use std::os::unix::fs::{MetadataExt, PermissionsExt};
pub use std::path::{Path, PathBuf};
pub use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
pub use std::time::{Duration, Instant, SystemTime};

/// For what takes as long as the machine and its other users make it take.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const LABEL: &str = "io.plancton.instance";
pub const PLANCTON: &str = env!("CARGO_BIN_EXE_plancton");

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub fn epoch() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

pub fn given(name: &str) -> String {
    let value = std::env::var(name);
    value.unwrap_or_else(|_| panic!("{name} is not set; run these tests with tests/run.sh"))
}

/// What is in the repository.
pub fn in_house(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is found is what is written there; `BLESS=1` writes it.
#[track_caller]
pub fn is_golden(file: impl AsRef<Path>, found: &str) {
    let file = in_house(file);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, found).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(found, golden, "{}", file.display());
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program in the PATH.
pub fn is_here(program: &str) -> bool {
    say(Command::new("sh").args(["-c", &format!("command -v {program}")])).code == 0
}

/// What this test can't show here: tests/run.sh counts it as skipped, with the reason, and not as passed.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("?"));
    eprint!("skipped: {line}");
    if let Some(file) = std::env::var_os("PLANCTON_TEST_SKIPPED") {
        log_file(file.as_ref()).write_all(line.as_bytes()).unwrap();
    }
}

/// Looks until there is something to see. `None`: it was not there in time.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() >= end {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

pub fn becomes(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    poll(limit, || is_so().then_some(())).is_some()
}

#[track_caller]
pub fn until(is_so: impl FnMut() -> bool) {
    assert!(becomes(PATIENCE, is_so), "not within {PATIENCE:?}");
}

/// Fails until what `look` gives stays the same for as long as `time`.
#[track_caller]
pub fn stays<T: PartialEq + Debug>(time: Duration, look: impl Fn() -> T) {
    let first = look();
    let changed = poll(time, || Some(look()).filter(|now| *now != first));
    assert_eq!(changed, None, "it was {first:?}");
}

/// Without the space around it; empty: there is none.
pub fn read(path: impl AsRef<Path>) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

pub fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, mknodat};
    mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// The members of a JSON list; none if it is none.
pub fn members(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// For further lines.
fn log_file(path: &Path) -> File {
    let file = File::options().create(true).append(true).open(path);
    file.unwrap()
}

/// User and system time of a process and all its threads, also those that have ended, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = read(format!("/proc/{pid}/stat"));
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    let ticks = fields.skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// A program that is killed when it is dropped.
pub struct Running(pub Child);

impl Running {
    pub fn new(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program for which a file is /proc/stat and nobody is short of memory, under its own pid.
fn with_stat(stat: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    let calm = "avg10=0.00 avg60=0.00 avg300=0.00 total=0";
    let pressure = format!("some {calm}\nfull {calm}\n");
    fs::write(stat.with_file_name("calm"), pressure).unwrap();
    let script = "mount --bind \"$0\" /proc/stat; cd /sys/fs/cgroup
        for file in /proc/pressure/memory user.slice/memory.pressure system.slice/memory.pressure; do
          [ ! -e $file ] || mount --bind \"${0%stat}calm\" $file
        done; cd /; exec \"$@\"";
    command.args(["-m", "sh", "-ec", script]).arg(stat);
    command.arg(program);
    command
}

/// Root may show a program another /proc/stat.
fn can_show_stat() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let scratch = Scratch::new();
        is_root() && say(&mut with_stat(&scratch.file("stat", ""), "true")).code == 0
    })
}

/// As a user who may do nothing, or one of its own; with the binary, since the build directory may be closed to others.
pub fn as_user(user: u32, scratch: &Scratch, plain: &Command) -> Command {
    let binary = scratch.0.join("plancton");
    if !binary.exists() {
        // By another process: one that is forked here meanwhile would hold it open for writing.
        scratch.tool(&format!("cp {PLANCTON} plancton"));
    }
    set_mode(&scratch.0, 0o777);
    let mut command = Command::new("setpriv");
    let group = format!("--regid={user}");
    command.args([&format!("--reuid={user}"), &group, "--clear-groups"]);
    command.arg(binary).args(plain.get_args());
    let given = plain.get_envs();
    command.envs(given.filter_map(|(key, value)| Some((key, value?))));
    command.env("HOME", &scratch.0).env_remove("DOCKER_HOST");
    command
}

/// What a command said, and its exit code.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn must(self, code: i32, words: &[&str]) -> Said {
        let text = self.text();
        assert_eq!(self.code, code, "{text}");
        for word in words {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
        self
    }

    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

pub fn say(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// A directory of its own, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch::below(&std::env::temp_dir())
    }

    pub fn below(place: &Path) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("plancton-live-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a tool there.
    #[track_caller]
    pub fn tool(&self, line: &str) {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        say(command.args(words).current_dir(&self.0)).must(0, &[]);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A made-up engine may still be writing there.
        let is_gone = || fs::remove_dir_all(&self.0).is_ok() || !self.0.exists();
        becomes(Duration::from_secs(5), is_gone);
    }
}

/// The binary with a place of its own: configuration, log, `run` and `state` are in `scratch`.
pub struct Instance {
    /// Ends before what it writes to goes.
    daemon: Option<Running>,
    pub name: String,
    pub scratch: Scratch,
    /// The engine that it is told to use.
    pub socket: PathBuf,
    /// The machine that it is shown; none: this one, with its real engine.
    pub root: Option<PathBuf>,
    /// On the real machine: it sees what else its CPUs do.
    pub sees_load: bool,
}

impl Instance {
    /// Starts nothing yet.
    pub fn new(config: &str) -> Instance {
        Instance::below(&std::env::temp_dir(), config)
    }

    /// In a directory on another file system, perhaps: `/dev/shm` is in memory, as /run is.
    pub fn below(place: &Path, config: &str) -> Instance {
        let scratch = Scratch::below(place);
        let name = scratch.0.file_name().unwrap().to_str().unwrap();
        let name = name.trim_start_matches("plancton-").to_owned();
        let instance = Instance {
            name,
            socket: engine::socket().into(),
            scratch,
            root: None,
            sees_load: false,
            daemon: None,
        };
        instance.configure(config);
        instance.file("stat", fs::read("/proc/stat").unwrap());
        instance
    }

    /// With its daemon.
    pub fn running(config: &str) -> Instance {
        let mut instance = Instance::new(config);
        instance.run("");
        instance
    }

    pub fn configure(&self, config: &str) {
        self.file("config.toml", config);
    }

    /// Writes the configuration anew and has the daemon read it.
    pub fn reload(&self, config: &str) {
        self.configure(config);
        self.signal(Signal::HUP);
    }

    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        self.scratch.file(name, text)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    /// With the options that name this place.
    pub fn command(&self, line: &str) -> Command {
        // With a /proc/stat that stands still a machine is idle, whatever its other users do.
        let is_still = self.root.is_none() && !self.sees_load && can_show_stat();
        let program = std::env::var("BENCH_BINARY").unwrap_or(PLANCTON.to_owned());
        let mut command = match is_still {
            true => with_stat(&self.path("stat"), &program),
            false => Command::new(program),
        };
        let engine = format!("unix://{}", self.socket.display());
        command.args(["--instance", &self.name, "--engine", &engine]);
        command.arg("--config").arg(self.path("config.toml"));
        command.arg("--run-dir").arg(self.path("run"));
        command.arg("--state-dir").arg(self.path("state"));
        if let Some(root) = &self.root {
            command.env("PLANCTON_MADE_UP_ROOT", root);
        }
        command.env_remove("DOCKER_HOST").env_remove("RUST_LOG");
        command.env("NO_PROXY", "127.0.0.1");
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn say(&self, line: &str) -> Said {
        say(&mut self.command(line))
    }

    /// One that must succeed.
    #[track_caller]
    pub fn done(&self, line: &str) -> Said {
        self.say(line).must(0, &[])
    }

    /// The daemon.
    pub fn run(&mut self, more: &str) {
        self.run_as("-v run", more);
    }

    pub fn run_as(&mut self, verb: &str, more: &str) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let mut command = self.command(&format!("{verb} {more}"));
        command.stdout(Stdio::null());
        command.stderr(log_file(&self.path("log")));
        self.daemon = Some(Running::new(&mut command));
    }

    pub fn start(&mut self, config: &str) {
        self.configure(config);
        self.run("");
    }

    /// What all daemons of this instance said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.daemon.as_ref().unwrap().signal(signal);
    }

    /// As a crash does: nothing of the daemon's own is carried out any more.
    pub fn crash(&mut self) {
        drop(self.daemon.take().unwrap());
    }

    /// SIGTERM, and its exit code.
    pub fn end(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    #[track_caller]
    pub fn wait_end(&mut self) -> i32 {
        let daemon = &mut self.daemon.as_mut().unwrap().0;
        let status = poll(PATIENCE, || daemon.try_wait().unwrap());
        let code = status.expect("the daemon ends").code();
        self.daemon = None;
        code.unwrap_or(-1)
    }

    pub fn has_ended(&mut self) -> bool {
        self.daemon.as_mut().unwrap().has_ended()
    }

    /// The status file; null while there is none, or still that of another daemon.
    pub fn status(&self) -> Value {
        let text = fs::read_to_string(self.path("run/status.json"));
        let status = text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
        let is_ours = |daemon: &Running| status["pid"] == daemon.pid();
        match self.daemon.as_ref().is_none_or(is_ours) {
            true => status,
            false => Value::Null,
        }
    }

    pub fn reason(&self) -> String {
        let code = &self.status()["reason"]["code"];
        code.as_str().unwrap_or_default().to_owned()
    }

    pub fn problems(&self) -> String {
        self.status()["problems"].to_string()
    }

    /// How many pilots ended so.
    pub fn count(&self, kind: &str) -> u64 {
        self.status()["counts"][kind].as_u64().unwrap_or(0)
    }

    #[track_caller]
    pub fn until(&self, is_so: impl FnMut() -> bool) {
        if !becomes(PATIENCE, is_so) {
            let (status, log) = (self.status(), self.log());
            panic!("not within {PATIENCE:?}, but {status:#}\n{log}");
        }
    }

    #[track_caller]
    pub fn wait_status(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut status = Value::Null;
        self.until(|| {
            status = self.status();
            is_so(&status)
        });
        status
    }

    /// Until the status has this value there, as in `/pilots/0/name`.
    #[track_caller]
    pub fn wait_for(&self, place: &str, value: impl Into<Value>) -> Value {
        let value = value.into();
        self.wait_status(|status| *status.pointer(place).unwrap_or(&Value::Null) == value)
    }

    #[track_caller]
    pub fn wait_reason(&self, code: &str) -> Value {
        self.wait_for("/reason/code", code)
    }

    /// Until it tells of so many pilots.
    #[track_caller]
    pub fn wait_listed(&self, number: usize) -> Value {
        self.wait_status(|status| {
            status["pilots"].is_array() && members(&status["pilots"]).len() == number
        })
    }

    /// Until the reason's text has these words in it.
    #[track_caller]
    pub fn wait_text(&self, words: &str) -> Value {
        self.wait_status(|status| status["reason"]["text"].to_string().contains(words))
    }

    #[track_caller]
    pub fn wait_problem(&self, words: &str) {
        self.until(|| self.problems().contains(words));
    }

    #[track_caller]
    pub fn wait_well(&self) {
        self.until(|| self.problems() == "[]");
    }

    #[track_caller]
    pub fn wait_count(&self, kind: &str, number: u64) -> Value {
        self.wait_status(|status| status["counts"][kind].as_u64().unwrap_or(0) >= number)
    }

    /// The loop was never away for longer than a busy machine makes it.
    #[track_caller]
    pub fn assert_no_gap(&self) {
        let gap = self.status()["loop"]["longest_gap_ms"].as_f64().unwrap();
        assert!(gap < 3_000.0, "the loop was away for {gap} ms");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.daemon = None;
        if std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.name, self.log());
        }
        if self.root.is_none() {
            // Of a daemon that `start` has put into the background.
            if self.path("run/status.json").exists() {
                self.say("stop");
            }
            engine::clean(&self.name);
        }
    }
}
