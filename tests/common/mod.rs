//! What the live tests share: an instance of the real binary with directories of its own, and a second way to ask the
//! engine that has nothing in common with the one under test. Whatever a test made goes when its `Instance` goes.
#![allow(dead_code)] // each test file uses a part

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// For what takes as long as the machine and its other users make it take.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const LABEL: &str = "io.plancton.instance";

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn given(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; run these tests with tests/run.sh"))
}

/// Path of the engine's socket.
pub fn socket() -> String {
    given("PLANCTON_TEST_ENGINE")
}

pub fn image() -> String {
    given("PLANCTON_TEST_IMAGE")
}

/// Only root makes the idle group; as a plain user its absence is what is tested.
pub fn is_root() -> bool {
    std::env::var("PLANCTON_TEST_ROOT").is_ok_and(|value| value == "1")
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

// ---- the engine ----

/// One call with its answer as text.
pub fn call(method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let (status, body) = call_with(method, path, body, "");
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// One call: HTTP/1.0, so that the answer ends with the connection. `header`: nothing, or a line of its own.
pub fn call_with(method: &str, path: &str, body: Option<&Value>, header: &str) -> (u16, Vec<u8>) {
    let body = body.map_or(String::new(), Value::to_string);
    let mut stream = UnixStream::connect(socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\n");
    write!(
        stream,
        "{head}{header}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let status = String::from_utf8_lossy(&answer[..end])
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    (status, answer[end + 4..].to_vec())
}

#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub state: String,
}

impl Container {
    /// Running, paused or about to start.
    pub fn holds_room(&self) -> bool {
        ["created", "running", "paused"].contains(&self.state.as_str())
    }
}

/// All containers with this instance's label.
pub fn containers(instance: &str) -> Vec<Container> {
    let filter = format!("%7B%22label%22%3A%5B%22{LABEL}%3D{instance}%22%5D%7D");
    let (status, body) = call(
        "GET",
        &format!("/containers/json?all=1&filters={filter}"),
        None,
    );
    assert_eq!(status, 200, "{body}");
    let list: Vec<Value> = serde_json::from_str(&body).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |one: &Value| text(&one["Names"][0]).trim_start_matches('/').to_owned();
    list.iter()
        .map(|one| Container {
            id: text(&one["Id"]),
            name: name(one),
            state: text(&one["State"]),
        })
        .collect()
}

/// `None`: there is no such container.
pub fn inspect(id: &str) -> Option<Value> {
    let (status, body) = call("GET", &format!("/containers/{id}/json"), None);
    (status == 200).then(|| serde_json::from_str(&body).unwrap())
}

pub fn is_running(id: &str) -> bool {
    inspect(id).is_some_and(|seen| seen["State"]["Running"] == true)
}

/// As an end that Plancton has nothing to do with: a SIGTERM could be lost on a pilot that has only just started.
pub fn kill(id: &str) {
    let (status, answer) = call("POST", &format!("/containers/{id}/kill"), None);
    assert_eq!(status, 204, "{answer}");
}

/// What a container said, between the frame heads of the engine's stream.
pub fn logs(id: &str) -> String {
    call(
        "GET",
        &format!("/containers/{id}/logs?stdout=1&stderr=1"),
        None,
    )
    .1
}

pub fn has_image(name: &str) -> bool {
    call("GET", &format!("/images/{name}/json"), None).0 == 200
}

/// A container that Plancton did not start.
pub struct Stranger(pub String);

impl Stranger {
    /// `labels` beside one that keeps it from counting as a whole core.
    pub fn new(name: &str, labels: &Value, command: &[&str]) -> Stranger {
        let mut labels = labels.clone();
        labels["io.plancton.cpus"] = "0.01".into();
        let body = json!({"Image": image(), "Cmd": command, "Labels": labels, "HostConfig": {"NetworkMode": "none"}});
        let (status, answer) = call(
            "POST",
            &format!("/containers/create?name={name}"),
            Some(&body),
        );
        assert_eq!(status, 201, "{answer}");
        let id = serde_json::from_str::<Value>(&answer).unwrap()["Id"]
            .as_str()
            .unwrap()
            .to_owned();
        let stranger = Stranger(id);
        stranger.act("POST", "/start");
        stranger
    }

    pub fn act(&self, method: &str, what: &str) {
        let (status, answer) = call(method, &format!("/containers/{}{what}", self.0), None);
        assert!(status < 400, "{what}: {answer}");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        call(
            "DELETE",
            &format!("/containers/{}?force=1&v=1", self.0),
            None,
        );
    }
}

// ---- an instance ----

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
        let text = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "{text}");
        for word in words {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
        self
    }
}

/// A configuration that nothing about this machine but its CPU bears on: at most `most` pilots.
pub fn config(interval: &str, most: u32, pilots: &str) -> String {
    format!(
        "[loop]\ninterval = \"{interval}\"\n\
         [share]\nmax-pilots = {most}\nreserve-cpus = 0\nreserve-memory = \"64MiB\"\nreserve-disk = \"64MiB\"\n\
         [owner]\nwhen-busy = \"yield\"\ncalm-for = \"1s\"\non-battery = \"run\"\nmin-battery = 0\nmax-temperature = 0\n{pilots}"
    )
}

/// A small class; `more` are further lines of its table.
pub fn pilot(name: &str, command: &[&str], more: &str) -> String {
    let image = image();
    format!(
        "[[pilot]]\nname = \"{name}\"\nimage = \"{image}\"\ncommand = {command:?}\ncpus = 0.1\nmemory = \"16MiB\"\n\
         network = \"none\"\n{more}\n"
    )
}

pub fn sleeper() -> String {
    pilot("sleeper", &["sleep", "600"], "stop-grace = \"1s\"")
}

/// A shell that a SIGTERM does not end.
pub fn stubborn(more: &str) -> String {
    pilot(
        "stubborn",
        &[
            "sh",
            "-c",
            "trap '' TERM; echo ready; while :; do sleep 1; done",
        ],
        more,
    )
}

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Instance {
    pub name: String,
    /// Configuration, log, `run` and `state` are in there.
    pub base: PathBuf,
    /// The engine that it is told to use.
    pub socket: String,
    daemon: Option<Child>,
}

impl Instance {
    /// Starts nothing yet.
    pub fn new(config: &str) -> Instance {
        Instance::below(&std::env::temp_dir(), config)
    }

    /// On a tmpfs, as /run is one.
    pub fn in_memory(config: &str) -> Instance {
        Instance::below(Path::new("/dev/shm"), config)
    }

    /// Where nothing is in memory only.
    pub fn on_disk(config: &str) -> Instance {
        Instance::below(Path::new(env!("CARGO_TARGET_TMPDIR")), config)
    }

    fn below(place: &Path, config: &str) -> Instance {
        let name = format!(
            "live-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let base = place.join(format!("plancton-{name}"));
        fs::create_dir(&base).unwrap();
        let instance = Instance {
            name,
            base,
            socket: socket(),
            daemon: None,
        };
        instance.configure(config);
        instance
    }

    /// With its daemon.
    pub fn running(config: &str) -> Instance {
        let mut instance = Instance::new(config);
        instance.run(&[]);
        instance
    }

    pub fn configure(&self, config: &str) {
        fs::write(self.config_file(), config).unwrap();
    }

    pub fn config_file(&self) -> PathBuf {
        self.base.join("config.toml")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.base.join("run")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.base.join("state")
    }

    pub fn control(&self, name: &str) -> PathBuf {
        self.state_dir().join("control").join(name)
    }

    /// With the options that name this place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plancton"));
        command.args([
            "--instance",
            &self.name,
            "--engine",
            &format!("unix://{}", self.socket),
        ]);
        command
            .arg("--config")
            .arg(self.config_file())
            .arg("--run-dir")
            .arg(self.run_dir());
        command
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(arguments);
        command
            .env_remove("DOCKER_HOST")
            .env_remove("RUST_LOG")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn say(&self, arguments: &[&str]) -> Said {
        say(&mut self.command(arguments))
    }

    pub fn run(&mut self, more: &[&str]) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let mut command = self.command(&["-v", "run"]);
        command
            .args(more)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    fn log_file(&self) -> PathBuf {
        self.base.join("log")
    }

    /// What all daemons of this instance said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(
            Pid::from_raw(self.pid().try_into().unwrap()).unwrap(),
            signal,
        )
        .unwrap();
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
        let mut daemon = self.daemon.take().unwrap();
        let Some(status) = poll(PATIENCE, || daemon.try_wait().unwrap()) else {
            self.daemon = Some(daemon);
            panic!("the daemon has not ended");
        };
        status.code().unwrap_or(-1)
    }

    pub fn has_ended(&mut self) -> bool {
        self.daemon.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// The status file; `None` while there is none.
    pub fn status(&self) -> Option<Value> {
        let text = fs::read_to_string(self.run_dir().join("status.json")).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    #[track_caller]
    pub fn wait_status(
        &self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Value {
        poll(limit, || self.status().filter(&is_so)).unwrap_or_else(|| {
            panic!(
                "{what}: not within {limit:?}, but {:#}",
                self.status().unwrap_or_default()
            )
        })
    }

    #[track_caller]
    pub fn wait_reason(&self, code: &str) -> Value {
        self.wait_status(code, PATIENCE, |status| status["reason"]["code"] == code)
    }

    pub fn containers(&self) -> Vec<Container> {
        containers(&self.name)
    }

    /// Ids of those that run.
    pub fn running_ids(&self) -> BTreeSet<String> {
        self.containers()
            .into_iter()
            .filter(|one| one.state == "running")
            .map(|one| one.id)
            .collect()
    }

    /// Waits until exactly so many run, and nothing else of this instance is there.
    #[track_caller]
    pub fn wait_running(&self, number: usize) -> BTreeSet<String> {
        self.wait_containers(&format!("{number} running pilots"), PATIENCE, |list| {
            list.len() == number && list.iter().all(|one| one.state == "running")
        });
        self.running_ids()
    }

    #[track_caller]
    pub fn wait_containers(
        &self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&[Container]) -> bool,
    ) {
        let so = poll(limit, || is_so(&self.containers()).then_some(()));
        assert!(
            so.is_some(),
            "{what}: not within {limit:?}, but {:#?}",
            self.containers()
        );
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Of a daemon that `start` has put into the background.
        if self.run_dir().join("status.json").exists() {
            let _ = self.command(&["stop"]).output();
        }
        if std::thread::panicking() {
            let _ = writeln!(
                std::io::stderr(),
                "---- log of {} ----\n{}",
                self.name,
                self.log()
            );
        }
        // A call that was in flight when the daemon was killed may still make one.
        std::thread::sleep(seconds(0.2));
        let clean = poll(PATIENCE, || {
            let left = containers(&self.name);
            left.iter().for_each(|one| {
                drop(call(
                    "DELETE",
                    &format!("/containers/{}?force=1&v=1", one.id),
                    None,
                ))
            });
            left.is_empty().then_some(())
        });
        // What a daemon that was killed could not remove; in use by others, it stays.
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = fs::remove_dir(hierarchy.path().join("plancton"));
        }
        let _ = fs::remove_dir_all(&self.base);
        if clean.is_none() && !std::thread::panicking() {
            panic!("containers of {} could not be removed", self.name);
        }
    }
}

pub fn say(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
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
