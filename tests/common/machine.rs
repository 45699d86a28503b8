//! A made-up machine of 16 idle cores, and the real binary running on it against a fake engine. What the build machine
//! is doing has no influence on what is decided.

use crate::fake_engine::FakeEngine;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long enough for a machine on which everybody builds.
pub const PATIENCE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory of its own, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("plancton-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
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

/// Polls until it is so; false when patience is over.
pub fn becomes(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Machine {
    pub engine: FakeEngine,
    pub scratch: Scratch,
    child: Option<Child>,
}

const CPUS: u32 = 16;

impl Machine {
    /// The engine is up, the daemon does not run.
    pub fn new() -> Machine {
        let mut machine = Machine::without_engine();
        machine.engine.up();
        machine
    }

    pub fn without_engine() -> Machine {
        let scratch = Scratch::new();
        let mut stat = String::from("cpu  100 0 100 100000 0 0 0 0 0 0\n");
        for cpu in 0..CPUS {
            stat.push_str(&format!("cpu{cpu} 6 0 6 6000 0 0 0 0 0 0\n"));
        }
        stat.push_str(
            "intr 0\nctxt 1\nbtime 1700000000\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n",
        );
        scratch.file("root/proc/stat", stat);
        scratch.file(
            "root/proc/meminfo",
            "MemTotal: 67108864 kB\nMemFree: 60000000 kB\nMemAvailable: 60000000 kB\n",
        );
        scratch.file(
            "root/proc/sys/kernel/random/boot_id",
            "00000000-0000-4000-8000-000000000001\n",
        );
        scratch.file(
            "root/sys/devices/system/cpu/online",
            format!("0-{}\n", CPUS - 1),
        );
        scratch.file(
            "root/sys/class/thermal/thermal_zone0/type",
            "x86_pkg_temp\n",
        );
        scratch.file("root/sys/class/thermal/thermal_zone0/temp", "50000\n");
        for controller in ["cpu", "cpuacct", "memory", "pids"] {
            fs::create_dir_all(scratch.0.join("root/sys/fs/cgroup").join(controller)).unwrap();
        }
        let engine = FakeEngine::new(&scratch.0.join("engine.sock"), &scratch.0.join("root"));
        Machine {
            engine,
            scratch,
            child: None,
        }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.scratch.0.join("run")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plancton"));
        command
            .args([
                "--instance",
                "t1",
                "--engine",
                &format!("unix://{}", self.engine.socket.display()),
            ])
            .arg("--config")
            .arg(self.scratch.0.join("config.toml"))
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--state-dir")
            .arg(self.scratch.0.join("state"))
            .env("PLANCTON_MADE_UP_ROOT", self.scratch.0.join("root"))
            .env_remove("DOCKER_HOST")
            .env_remove("RUST_LOG")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null());
        command
    }

    pub fn tell(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Writes the configuration and starts the loop.
    pub fn start(&mut self, config: &str) {
        self.scratch.file("config.toml", config);
        let log = fs::File::create(self.scratch.0.join("log")).unwrap();
        let mut command = self.command();
        self.child = Some(
            command
                .args(["-v", "run"])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.0.join("log")).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        let text = fs::read_to_string(self.run_dir().join("status.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub fn reason(&self) -> String {
        self.status()["reason"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn wait_for(&self, what: &str, is_so: impl FnMut() -> bool) {
        self.wait_within(PATIENCE, what, is_so);
    }

    pub fn wait_within(&self, patience: Duration, what: &str, is_so: impl FnMut() -> bool) {
        if !becomes(patience, is_so) {
            let world = self.engine.world();
            let containers: Vec<_> = world
                .containers
                .iter()
                .map(|c| (&c.name, &c.state))
                .collect();
            let calls: Vec<_> = world
                .calls
                .iter()
                .rev()
                .take(30)
                .map(|c| (c.what, &c.object))
                .collect();
            panic!(
                "not within {patience:?}: {what}\ncontainers: {containers:?}\nlast calls: {calls:?}\nstatus: {}\nlog:\n{}",
                self.status(),
                self.log()
            );
        }
    }

    pub fn wait_for_pilots(&self, count: usize) {
        self.wait_for(&format!("{count} pilots run"), || {
            self.engine.in_state("running").len() == count
        });
    }

    /// The daemon lives, counts as healthy, and has written its status in the last three seconds.
    pub fn assert_well(&mut self) {
        let ended = self.child.as_mut().unwrap().try_wait().unwrap();
        assert!(
            ended.is_none(),
            "the daemon ended with {ended:?}: {}",
            self.log()
        );
        let health = self.tell(&["health"]);
        assert!(health.status.success(), "{health:?}");
        let age = || crate::fake_engine::epoch() - self.status()["tick"].as_f64().unwrap_or(0.0);
        assert!(
            becomes(PATIENCE, || age() < 3.0),
            "the status is {} s old",
            age()
        );
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// How the daemon ended, and after how long.
    pub fn wait_for_end(&mut self, patience: Duration) -> (ExitStatus, Duration) {
        let (start, child) = (Instant::now(), self.child.as_mut().unwrap());
        let mut ended = None;
        let has_ended = becomes(patience, || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        assert!(
            has_ended,
            "the daemon has not ended within {patience:?}: {}",
            self.log()
        );
        (ended.unwrap(), start.elapsed())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs every case of a table at once: they mostly wait.
pub fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        let test = &test;
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}
