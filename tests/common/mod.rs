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
pub use fake_engine::{Call, FakeEngine, Fault};
pub use machine::{Machine, at_once};
use rustix::process::{Pid, Signal, kill_process};
pub use serde_json::{Value, json};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

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
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; run these tests with tests/run.sh"))
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What this test can't show here: tests/run.sh counts it as skipped, with the reason, and not as passed.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("?"));
    eprint!("skipped: {line}");
    if let Some(file) = std::env::var_os("PLANCTON_TEST_SKIPPED") {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(file)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
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

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Runs a program for which a file is /proc/stat, under its own pid.
fn with_stat(stat: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /proc/stat && exec \"$@\"";
    command
        .args(["-m", "sh", "-c", script])
        .arg(stat)
        .arg(program);
    command
}

/// Root may show a program another /proc/stat.
fn can_show_stat() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let probe = || {
        let scratch = Scratch::new();
        is_root() && say(&mut with_stat(&scratch.file("stat", ""), "true")).code == 0
    };
    *CAN.get_or_init(probe)
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
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The binary with a place of its own: configuration, log, `run` and `state` are in `scratch`.
pub struct Instance {
    pub name: String,
    pub scratch: Scratch,
    /// The engine that it is told to use.
    pub socket: PathBuf,
    /// The machine that it is shown; none: this one, with its real engine.
    pub root: Option<PathBuf>,
    /// On the real machine: it sees what else its CPUs do.
    pub sees_load: bool,
    daemon: Option<Child>,
}

impl Instance {
    /// Starts nothing yet.
    pub fn new(config: &str) -> Instance {
        Instance::in_scratch(Scratch::new(), config)
    }

    /// On a tmpfs, as /run is one.
    pub fn in_memory(config: &str) -> Instance {
        Instance::in_scratch(Scratch::below(Path::new("/dev/shm")), config)
    }

    /// Where nothing is in memory only.
    pub fn on_disk(config: &str) -> Instance {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Instance::in_scratch(Scratch::below(place), config)
    }

    fn in_scratch(scratch: Scratch, config: &str) -> Instance {
        let name = scratch.0.file_name().unwrap().to_str().unwrap();
        let instance = Instance {
            name: name.trim_start_matches("plancton-").to_owned(),
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
        instance.run(&[]);
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

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    pub fn control(&self, name: &str) -> PathBuf {
        self.path("state/control").join(name)
    }

    /// With the options that name this place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // With a /proc/stat that stands still a machine is idle, whatever its other users do.
        let is_still = self.root.is_none() && !self.sees_load && can_show_stat();
        let mut command = match is_still {
            true => with_stat(&self.path("stat"), PLANCTON),
            false => Command::new(PLANCTON),
        };
        let engine = format!("unix://{}", self.socket.display());
        command.args(["--instance", &self.name, "--engine", &engine]);
        for (option, name) in [
            ("--config", "config.toml"),
            ("--run-dir", "run"),
            ("--state-dir", "state"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        if let Some(root) = &self.root {
            command.env("PLANCTON_MADE_UP_ROOT", root);
        }
        command
            .env_remove("DOCKER_HOST")
            .env_remove("RUST_LOG")
            .env("NO_PROXY", "127.0.0.1");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn say(&self, arguments: &[&str]) -> Said {
        say(&mut self.command(arguments))
    }

    /// The daemon.
    pub fn run(&mut self, more: &[&str]) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut command = self.command(&["-v", "run"]);
        command.args(more).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    pub fn start(&mut self, config: &str) {
        self.configure(config);
        self.run(&[]);
    }

    /// What all daemons of this instance said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// As a crash does: nothing of the daemon's own is carried out any more.
    pub fn crash(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// SIGTERM, and its exit code.
    pub fn end(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    #[track_caller]
    pub fn wait_end(&mut self) -> i32 {
        let daemon = self.daemon.as_mut().unwrap();
        let status = poll(PATIENCE, || daemon.try_wait().unwrap());
        let code = status.expect("the daemon ends").code();
        self.daemon = None;
        code.unwrap_or(-1)
    }

    pub fn has_ended(&mut self) -> bool {
        self.daemon.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// The status file; null while there is none, or still that of another daemon.
    pub fn status(&self) -> Value {
        let text = fs::read_to_string(self.run_dir().join("status.json"));
        let status = text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
        let is_ours = |daemon: &Child| status["pid"] == daemon.id();
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
            panic!(
                "not within {PATIENCE:?}, but {:#}\n{}",
                self.status(),
                self.log()
            );
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

    #[track_caller]
    pub fn wait_reason(&self, code: &str) -> Value {
        self.wait_status(|status| status["reason"]["code"] == code)
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
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.name, self.log());
        }
        if self.root.is_none() {
            // Of a daemon that `start` has put into the background.
            if self.run_dir().join("status.json").exists() {
                let _ = self.command(&["stop"]).output();
            }
            engine::clean(&self.name);
        }
    }
}
