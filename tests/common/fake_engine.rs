//! A container engine that is none: a little store of containers behind a Unix socket in the test's own process. It
//! behaves like an engine until a fault is switched on for a call, and writes down every call it gets.

use super::web::read_request;
use super::{epoch, seconds};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Refused, and not carried out.
    Status(u16, &'static str),
    /// Bytes that are no HTTP.
    Garbage,
    /// 200 with this body instead of the engine's.
    Body(&'static str),
    /// Carried out, and the answer ends in its middle.
    Truncated,
    /// No answer for as long as the fault holds, and then none either.
    Stall,
    /// The same, but carried out first.
    StallAfter,
    /// Carried out this much later, when nobody waits for the answer any more.
    Late(Duration),
    /// Carried out, and the connection closed before the first byte.
    LostReply,
    /// An answer that never ends.
    Huge,
    /// The lines of a stream, one a second, and then nothing for as long as the fault holds.
    Steps(&'static [&'static str]),
    /// A byte now and then, more slowly than anybody waits.
    Drip,
    /// 201 with a warning.
    Warning(&'static str),
    /// Says that it was done, and does nothing.
    Pretend(u16),
}

#[derive(Clone, Debug, Default)]
pub struct Container {
    pub id: String,
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub state: String,
    /// Epoch seconds.
    pub created: f64,
    pub started: Option<f64>,
    pub finished: Option<f64>,
    pub exit_code: i64,
    pub pid: u32,
    /// The body it was created with.
    pub body: Value,
    /// Signals that wait for the end of a pause.
    pending: Vec<String>,
}

/// One request, in the order of arrival.
#[derive(Clone, Debug)]
pub struct Call {
    pub what: &'static str,
    /// Id or name in the path.
    pub object: String,
    is_head: bool,
    /// As sent, without the API version.
    pub path: String,
}

/// The whole of it, to be looked at and changed by tests.
pub struct World {
    pub containers: Vec<Container>,
    pub calls: Vec<Call>,
    pub faults: BTreeMap<&'static str, Fault>,
    /// What /_ping says.
    pub api: &'static str,
    /// Returns everything, whatever the filter says.
    pub ignores_filter: bool,
    /// A TERM ends a pilot.
    pub obeys_term: bool,
    /// The limits of new containers are not set.
    pub holds_limits: bool,
    /// The most containers there were at once.
    pub most: usize,
    /// Where the groups of running containers are made.
    root: PathBuf,
    listeners: Vec<UnixStream>,
    connections: Vec<UnixStream>,
    /// Where several engines show one machine, each begins elsewhere.
    pub next_id: u64,
}

const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

struct Shared {
    world: Mutex<World>,
    changed: Condvar,
}

pub struct FakeEngine {
    pub socket: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

/// A test that failed must not take the others' engine along.
fn lock(shared: &Shared) -> MutexGuard<'_, World> {
    shared.world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeEngine {
    /// `root` is the machine that the daemon is shown. Not yet to be reached.
    pub fn new(socket: &Path, root: &Path) -> FakeEngine {
        let world = World {
            containers: Vec::new(),
            calls: Vec::new(),
            faults: BTreeMap::new(),
            api: "1.41",
            ignores_filter: false,
            obeys_term: true,
            holds_limits: true,
            most: 0,
            root: root.to_owned(),
            listeners: Vec::new(),
            connections: Vec::new(),
            next_id: 1,
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            changed: Condvar::new(),
        });
        FakeEngine {
            socket: socket.to_owned(),
            shared,
            accepting: None,
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared)
    }

    /// Comes (back), with the containers it had.
    pub fn up(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let going = Arc::new(AtomicBool::new(false));
        let (shared, ends) = (Arc::clone(&self.shared), Arc::clone(&going));
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                let connection = connection.unwrap();
                let shared = Arc::clone(&shared);
                lock(&shared)
                    .connections
                    .push(connection.try_clone().unwrap());
                std::thread::spawn(move || serve(&shared, connection));
            }
        });
        self.accepting = Some((going, thread));
    }

    /// Goes away: nobody listens, every connection is closed. The socket's file stays, as after a crash.
    pub fn down(&mut self) {
        if let Some((going, thread)) = self.accepting.take() {
            going.store(true, Ordering::SeqCst);
            let _ = UnixStream::connect(&self.socket);
            thread.join().unwrap();
        }
        let mut world = self.world();
        world.listeners.clear();
        for connection in std::mem::take(&mut world.connections) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn fault(&self, what: &'static str, fault: Fault) {
        self.world().faults.insert(what, fault);
    }

    /// Every call is well again.
    pub fn mend(&self) {
        self.world().faults.clear();
        self.shared.changed.notify_all();
    }

    /// A container's process exits.
    pub fn end(&self, id: &str, exit_code: i64) {
        self.world().end(id, exit_code);
    }

    /// A container that is there already, since `age` seconds.
    pub fn add(
        &self,
        name: Option<&str>,
        state: &str,
        age: f64,
        labels: &[(&str, &str)],
    ) -> String {
        let mut world = self.world();
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let labels = labels.collect();
        let created = epoch() - age;
        let was_started = !["created", "configured"].contains(&state);
        let id = world.push(Container {
            name: name.map(str::to_owned),
            labels,
            state: state.to_owned(),
            created,
            started: was_started.then_some(created),
            finished: ["exited", "dead"].contains(&state).then_some(created + 5.0),
            body: json!({"HostConfig": {"NanoCpus": 1_000_000_000u64, "Memory": 1u64 << 30, "PidsLimit": 512}}),
            ..Container::default()
        });
        if ["running", "paused"].contains(&state) {
            world.make_group(&id);
        }
        id
    }

    pub fn ends(&self, ids: &[String], exit_code: i64) {
        ids.iter().for_each(|id| self.end(id, exit_code));
    }

    pub fn count_calls(&self, what: &str) -> usize {
        let world = self.world();
        world.calls.iter().filter(|call| call.what == what).count()
    }

    /// Ids of containers in this state, oldest first.
    pub fn in_state(&self, state: &str) -> Vec<String> {
        let world = self.world();
        let found = world.containers.iter().filter(|one| one.state == state);
        found.map(|one| one.id.clone()).collect()
    }

    pub fn number(&self) -> usize {
        self.world().containers.len()
    }

    pub fn has(&self, id: &str) -> bool {
        self.world().find(id).is_some()
    }

    /// The calls that come while this time passes.
    pub fn calls_during(&self, time: f64) -> Vec<Call> {
        let before = self.world().calls.len();
        std::thread::sleep(seconds(time));
        self.world().calls[before..].to_vec()
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.down();
        self.mend();
    }
}

impl World {
    fn push(&mut self, container: Container) -> String {
        self.next_id += 1;
        let id = format!("{:016x}", self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4);
        let pid = 1_000 + u32::try_from(self.next_id % 1_000_000).unwrap();
        let id_of = id.clone();
        self.containers.push(Container {
            id,
            pid,
            ..container
        });
        self.most = self.most.max(self.containers.len());
        id_of
    }

    pub fn find(&self, id: &str) -> Option<&Container> {
        let is_it = |one: &&Container| one.id == id || one.name.as_deref() == Some(id);
        self.containers.iter().find(is_it)
    }

    fn find_mut(&mut self, id: &str) -> Option<&mut Container> {
        let is_it = |one: &&mut Container| one.id == id || one.name.as_deref() == Some(id);
        self.containers.iter_mut().find(is_it)
    }

    /// As the kernel would show them, below the daemon's root.
    fn group_dir(&self, controller: &str, id: &str) -> PathBuf {
        self.root
            .join(format!("sys/fs/cgroup/{controller}/docker/{id}"))
    }

    fn make_group(&self, id: &str) {
        let container = self.find(id).unwrap();
        let host = &container.body["HostConfig"];
        let number = |key: &str| host[key].as_u64().unwrap_or(0);
        let quota = match self.holds_limits {
            true => (number("NanoCpus") / 10_000).to_string(),
            false => "-1".to_owned(),
        };
        for (controller, file, text) in [
            ("cpu", "cpu.cfs_quota_us", quota),
            ("cpu", "cpu.cfs_period_us", "100000".to_owned()),
            ("cpuacct", "cpuacct.usage", "0".to_owned()),
            (
                "memory",
                "memory.limit_in_bytes",
                number("Memory").to_string(),
            ),
            (
                "memory",
                "memory.stat",
                "total_rss 0\ntotal_shmem 0".to_owned(),
            ),
            ("pids", "pids.max", number("PidsLimit").to_string()),
        ] {
            let dir = self.group_dir(controller, id);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), "1\n").unwrap();
            fs::write(dir.join(file), text).unwrap();
        }
        let process = self.root.join(format!("proc/{}", container.pid));
        let _ = fs::create_dir_all(&process);
        let _ = fs::write(
            process.join("cgroup"),
            format!("1:cpu,cpuacct:/docker/{id}\n"),
        );
    }

    /// The processes go first, as they do in a kernel.
    fn remove_group(&self, id: &str) {
        let dirs = CONTROLLERS.map(|controller| self.group_dir(controller, id));
        for dir in dirs.iter().filter(|dir| dir.is_dir()) {
            fs::write(dir.join("cgroup.procs"), "").unwrap();
        }
        dirs.iter().for_each(|dir| drop(fs::remove_dir_all(dir)));
        let pid = self.find(id).map_or(0, |container| container.pid);
        let _ = fs::remove_dir_all(self.root.join(format!("proc/{pid}")));
    }

    fn end(&mut self, id: &str, exit_code: i64) {
        self.remove_group(id);
        let Some(container) = self.find_mut(id) else {
            return;
        };
        container.state = "exited".to_owned();
        container.exit_code = exit_code;
        container.finished = Some(epoch());
        let mut attributes: BTreeMap<String, String> = container.labels.clone();
        attributes.insert("exitCode".to_owned(), exit_code.to_string());
        let event = json!({"Type": "container", "Action": "die", "Actor": {"ID": container.id, "Attributes": attributes}});
        let text = format!("{event}\n");
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.listeners
            .retain_mut(|stream| stream.write_all(chunk.as_bytes()).is_ok());
    }

    fn signal(&mut self, id: &str, signal: &str) -> Answer {
        let obeys = self.obeys_term;
        let Some(container) = self.find_mut(id) else {
            return no_container(id);
        };
        match container.state.as_str() {
            "paused" => container.pending.push(signal.to_owned()),
            "running" if signal == "KILL" => self.end(id, 137),
            "running" if obeys => self.end(id, 143),
            "running" => {}
            _ => return message(409, &format!("Container {id} is not running")),
        }
        (204, Value::Null)
    }

    fn pause(&mut self, id: &str) -> Answer {
        let Some(container) = self.find_mut(id) else {
            return no_container(id);
        };
        if container.state != "running" {
            return message(409, &format!("Container {id} is not running"));
        }
        container.state = "paused".to_owned();
        (204, Value::Null)
    }

    fn unpause(&mut self, id: &str) -> Answer {
        let Some(container) = self.find_mut(id) else {
            return no_container(id);
        };
        if container.state != "paused" {
            return message(500, &format!("Container {id} is not paused"));
        }
        container.state = "running".to_owned();
        for signal in std::mem::take(&mut container.pending) {
            self.signal(id, &signal);
        }
        (204, Value::Null)
    }

    fn create(&mut self, name: &str, body: &[u8]) -> Answer {
        if self.find(name).is_some() {
            return message(
                409,
                &format!("Conflict. The container name \"/{name}\" is already in use"),
            );
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return message(400, "bad body");
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let labels = body["Labels"].as_object().into_iter().flatten();
        let labels = labels
            .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
            .collect();
        let warnings = match self.faults.get("create") {
            Some(Fault::Warning(text)) => vec![*text],
            _ => vec![],
        };
        let id = self.push(Container {
            name: Some(name.to_owned()),
            labels,
            state: "created".to_owned(),
            created: epoch(),
            body,
            ..Container::default()
        });
        (201, json!({"Id": id, "Warnings": warnings}))
    }

    fn start(&mut self, id: &str) -> Answer {
        let Some(container) = self.find_mut(id) else {
            return no_container(id);
        };
        if container.state == "running" {
            return (304, Value::Null);
        }
        container.state = "running".to_owned();
        container.started = Some(epoch());
        self.make_group(id);
        (204, Value::Null)
    }

    fn remove(&mut self, id: &str, forced: bool) -> Answer {
        let Some(container) = self.find(id) else {
            return no_container(id);
        };
        if container.state == "running" && !forced {
            return message(409, "You cannot remove a running container");
        }
        self.remove_group(id);
        self.containers.retain(|container| container.id != id);
        (204, Value::Null)
    }

    fn list(&self, path: &str) -> Answer {
        let filtered = path.contains("filters=") && !self.ignores_filter;
        let shown = |container: &&Container| {
            !filtered || container.labels.contains_key("io.plancton.instance")
        };
        let row = |container: &Container| {
            json!({
                "Id": container.id, "Names": container.name.as_ref().map(|name| vec![format!("/{name}")]),
                "State": container.state, "Created": container.created as u64, "Labels": container.labels,
                "Image": "fake:1", "ImageID": "sha256:1",
            })
        };
        (200, self.containers.iter().filter(shown).map(row).collect())
    }

    fn inspect(&self, id: &str) -> Answer {
        let Some(container) = self.find(id) else {
            return no_container(id);
        };
        let time = |seconds: Option<f64>| match seconds {
            Some(seconds) => jiff::Timestamp::from_millisecond((seconds * 1e3) as i64)
                .unwrap()
                .to_string(),
            None => "0001-01-01T00:00:00Z".to_owned(),
        };
        let running = ["running", "paused"].contains(&container.state.as_str());
        let state = json!({
            "Status": container.state, "Running": running, "Paused": container.state == "paused", "Pid": if running { container.pid } else { 0 },
            "ExitCode": container.exit_code, "StartedAt": time(container.started), "FinishedAt": time(container.finished),
        });
        (
            200,
            json!({
                "Id": container.id, "Name": container.name, "Created": time(Some(container.created)), "State": state,
                "Config": {"Image": "fake:1", "Labels": container.labels}, "HostConfig": container.body["HostConfig"],
            }),
        )
    }

    fn info(&self) -> Answer {
        (
            200,
            json!({
                "ServerVersion": "0.fake", "CgroupDriver": "cgroupfs", "CgroupVersion": "1", "NCPU": 16,
                "MemTotal": 1u64 << 36, "DockerRootDir": self.root, "OperatingSystem": "none",
                "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"], "MemoryLimit": true,
                "SwapLimit": true, "CpuCfsQuota": true, "PidsLimit": true, "Name": "fake",
            }),
        )
    }

    fn carry_out(&mut self, call: &Call, body: &[u8]) -> Answer {
        let (id, path) = (call.object.as_str(), call.path.as_str());
        match call.what {
            "ping" => (200, json!("OK")),
            "info" => self.info(),
            "list" => self.list(path),
            "create" => self.create(id, body),
            "inspect" => self.inspect(id),
            "start" => self.start(id),
            "kill" => self.signal(id, path.rsplit('=').next().unwrap()),
            "pause" => self.pause(id),
            "unpause" => self.unpause(id),
            "remove" => self.remove(id, path.contains("force=1")),
            "logs" => (200, json!("last words")),
            "image" => (200, json!({"Id": "sha256:1"})),
            "pull" => (200, json!({"status": "Pull complete"})),
            _ => message(404, "page not found"),
        }
    }
}

/// Status and body; null: none.
type Answer = (u16, Value);

fn message(status: u16, text: &str) -> Answer {
    (status, json!({ "message": text }))
}

fn no_container(id: &str) -> Answer {
    message(404, &format!("No such container: {id}"))
}

/// The calls of one connection, one after the other.
fn serve(shared: &Shared, mut stream: UnixStream) {
    while let Some((line, _, body)) = read_request(&mut stream) {
        let (method, path) = line.split_once(' ').unwrap();
        let call = name_call(method, path);
        let mut world = lock(shared);
        world.calls.push(call.clone());
        let fault = ["any", call.what].map(|what| world.faults.get(what).cloned());
        let fault = fault.into_iter().flatten().last();
        drop(world);
        if call.what == "events" && fault.is_none() {
            if stream.write_all(ENDLESS).is_ok() {
                lock(shared).listeners.push(stream);
            }
            return;
        }
        let carry_out = || lock(shared).carry_out(&call, &body);
        // These are done although, or before, it goes wrong.
        let is_done = matches!(
            fault,
            Some(Fault::Garbage | Fault::LostReply | Fault::Huge | Fault::StallAfter)
        );
        if is_done {
            carry_out();
        }
        let is_late = matches!(fault, Some(Fault::Late(_)));
        let answered = answer_call(shared, &mut stream, &call, fault, carry_out);
        if is_late {
            carry_out();
        }
        if answered.is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// `None`: the connection is to be closed.
fn answer_call(
    shared: &Shared,
    stream: &mut UnixStream,
    call: &Call,
    fault: Option<Fault>,
    carry_out: impl Fn() -> Answer,
) -> Option<()> {
    let api = lock(shared).api;
    let encoded = |answer: Answer| encode(call, api, answer);
    let wait = |most: f64| wait_while(shared, call.what, seconds(most));
    let mut send = |bytes: &[u8]| stream.write_all(bytes).ok();
    let fault = match fault {
        None | Some(Fault::Warning(_)) => return send(&encoded(carry_out())),
        Some(Fault::Status(code, text)) => return send(&encoded(message(code, text))),
        Some(Fault::Pretend(code)) => return send(&encoded((code, Value::Null))),
        Some(fault) => fault,
    };
    match fault {
        Fault::Body(text) => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            return send(&[head.as_bytes(), text.as_bytes()].concat());
        }
        Fault::Drip => {
            for byte in encoded(carry_out()) {
                send(&[byte])?;
                wait(0.3);
            }
            return Some(());
        }
        Fault::Garbage => send(b"SSH-2.0-nothing here speaks HTTP\r\n\r\n")?,
        Fault::Truncated => {
            let bytes = encoded(carry_out());
            return send(&bytes[..bytes.len() - 2]).and(None);
        }
        Fault::Huge => {
            send(ENDLESS)?;
            loop {
                send(&[b"10000\r\n", [b' '; 0x10000].as_slice(), b"\r\n"].concat())?;
            }
        }
        Fault::Steps(lines) => {
            send(ENDLESS)?;
            for line in lines {
                send(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
                wait(1.0);
            }
            wait(60.0);
        }
        Fault::Stall | Fault::StallAfter => wait(60.0),
        Fault::Late(after) => std::thread::sleep(after),
        _ => {}
    }
    None
}

const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Until the call is well again, or the time is over.
fn wait_while(shared: &Shared, what: &str, most: Duration) {
    let world = lock(shared);
    let is_faulty =
        |world: &mut World| world.faults.contains_key(what) || world.faults.contains_key("any");
    drop(shared.changed.wait_timeout_while(world, most, is_faulty));
}

fn encode(call: &Call, api: &str, (status, body): Answer) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status} Status\r\nApi-Version: {api}\r\nServer: Fake/1 (linux)\r\n");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let length = match status {
        204 | 304 => String::new(),
        _ => format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ),
    };
    let body = if call.is_head { "" } else { &body };
    format!("{head}{length}\r\n{body}").into_bytes()
}

fn name_call(method: &str, path: &str) -> Call {
    let versioned = path
        .strip_prefix("/v")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let path = versioned.unwrap_or(path).to_owned();
    let (plain, query) = path.split_once('?').unwrap_or((&path, ""));
    let parts: Vec<&str> = plain.trim_start_matches('/').split('/').collect();
    const ACTIONS: [&str; 6] = ["start", "kill", "pause", "unpause", "logs", "inspect"];
    let action = |word: &str| {
        ACTIONS
            .into_iter()
            .find(|action| *action == word.replace("json", "inspect"))
    };
    let (what, object) = match (method, parts.as_slice()) {
        (_, ["_ping"]) => ("ping", ""),
        (_, ["info"]) => ("info", ""),
        (_, ["events"]) => ("events", ""),
        (_, ["containers", "json"]) => ("list", ""),
        (_, ["containers", "create"]) => ("create", query.trim_start_matches("name=")),
        ("DELETE", ["containers", id]) => ("remove", *id),
        (_, ["containers", id, word]) => (action(word).unwrap_or("unknown"), *id),
        (_, ["images", "create"]) => ("pull", ""),
        (_, ["images", .., "json"]) => ("image", ""),
        _ => ("unknown", plain),
    };
    Call {
        what,
        object: object.to_owned(),
        is_head: method == "HEAD",
        path: path.clone(),
    }
}
