//! A container engine that is none: a little store of containers behind a Unix socket in the test's own process. It
//! behaves like an engine until a fault is switched on for a call, and writes down every call it gets.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

#[derive(Clone, Debug)]
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
    /// The body it was created with.
    pub body: Value,
    /// Signals that wait for the end of a pause.
    pending: Vec<String>,
}

/// One request, in the order of arrival.
#[derive(Clone, Debug)]
pub struct Call {
    pub at: Instant,
    pub what: &'static str,
    /// Id or name in the path.
    pub object: String,
    /// As sent, without the API version.
    pub path: String,
}

/// Of a container's first process, as long as it runs.
fn pid(id: &str) -> u32 {
    1_000 + u32::from_str_radix(&id[id.len() - 6..], 16).unwrap_or(0)
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

pub fn epoch() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
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

    pub fn add(
        &self,
        name: Option<&str>,
        state: &str,
        age: f64,
        labels: &[(&str, &str)],
    ) -> String {
        let mut world = self.world();
        let id = world.new_id();
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let created = epoch() - age;
        let was_started = !["created", "configured"].contains(&state);
        world.containers.push(Container {
            id: id.clone(),
            name: name.map(str::to_owned),
            labels,
            state: state.to_owned(),
            created,
            started: was_started.then_some(created),
            finished: ["exited", "dead"].contains(&state).then_some(created + 5.0),
            exit_code: 0,
            body: json!({"HostConfig": {"NanoCpus": 1_000_000_000u64, "Memory": 1u64 << 30, "PidsLimit": 512}}),
            pending: Vec::new(),
        });
        if ["running", "paused"].contains(&state) {
            world.make_group(&id);
        }
        world.most = world.most.max(world.containers.len());
        id
    }

    pub fn count_calls(&self, what: &str) -> usize {
        self.world()
            .calls
            .iter()
            .filter(|call| call.what == what)
            .count()
    }

    /// Ids of containers in this state, oldest first.
    pub fn in_state(&self, state: &str) -> Vec<String> {
        let world = self.world();
        let found = world
            .containers
            .iter()
            .filter(|container| container.state == state);
        found.map(|container| container.id.clone()).collect()
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.down();
        self.mend();
    }
}

impl World {
    fn new_id(&mut self) -> String {
        self.next_id += 1;
        format!("{:016x}", self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4)
    }

    pub fn find(&self, id: &str) -> Option<&Container> {
        self.containers
            .iter()
            .find(|container| container.id == id || container.name.as_deref() == Some(id))
    }

    fn find_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.containers
            .iter_mut()
            .find(|container| container.id == id || container.name.as_deref() == Some(id))
    }

    /// As the kernel would show them, below the daemon's root.
    fn group_dirs(&self, id: &str) -> Vec<PathBuf> {
        let dir = |controller: &str| {
            self.root
                .join(format!("sys/fs/cgroup/{controller}/docker/{id}"))
        };
        ["cpu", "cpuacct", "memory", "pids"].map(dir).to_vec()
    }

    fn make_group(&self, id: &str) {
        let line =
            format!("4:cpu,cpuacct:/docker/{id}\n3:memory:/docker/{id}\n2:pids:/docker/{id}\n");
        let process = self.root.join(format!("proc/{}", pid(id)));
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("cgroup"), line).unwrap();
        let host = self
            .find(id)
            .map(|container| container.body["HostConfig"].clone())
            .unwrap_or_default();
        let number = |key: &str| host[key].as_u64().unwrap_or(0);
        let quota = match self.holds_limits {
            true => (number("NanoCpus") / 10_000).to_string(),
            false => "-1".to_owned(),
        };
        let memory = number("Memory").to_string();
        let pids = number("PidsLimit").to_string();
        let files = [
            ("cpu.cfs_quota_us", quota.as_str()),
            ("cpu.cfs_period_us", "100000"),
            ("cpuacct.usage", "0"),
            ("memory.limit_in_bytes", &memory),
            ("memory.stat", "total_rss 0\ntotal_shmem 0"),
            ("pids.max", &pids),
        ];
        for dir in self.group_dirs(id) {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), "1\n").unwrap();
            let controller = dir
                .iter()
                .rev()
                .nth(2)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            for (file, text) in files
                .iter()
                .filter(|(file, _)| file.starts_with(&format!("{controller}.")))
            {
                fs::write(dir.join(file), text).unwrap();
            }
        }
    }

    /// The processes go first, as they do in a kernel.
    fn remove_group(&self, id: &str) {
        let _ = fs::remove_dir_all(self.root.join(format!("proc/{}", pid(id))));
        for dir in self.group_dirs(id).iter().filter(|dir| dir.is_dir()) {
            fs::write(dir.join("cgroup.procs"), "").unwrap();
        }
        for dir in self.group_dirs(id) {
            let _ = fs::remove_dir_all(dir);
        }
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
        answer(204, Value::Null)
    }

    fn pause(&mut self, id: &str) -> Answer {
        let Some(container) = self.find_mut(id) else {
            return no_container(id);
        };
        if container.state != "running" {
            return message(409, &format!("Container {id} is not running"));
        }
        container.state = "paused".to_owned();
        answer(204, Value::Null)
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
        answer(204, Value::Null)
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
        let id = self.new_id();
        let warnings = match self.faults.get("create") {
            Some(Fault::Warning(text)) => vec![*text],
            _ => vec![],
        };
        self.containers.push(Container {
            id: id.clone(),
            name: Some(name.to_owned()),
            labels,
            state: "created".to_owned(),
            created: epoch(),
            started: None,
            finished: None,
            exit_code: 0,
            body,
            pending: Vec::new(),
        });
        self.most = self.most.max(self.containers.len());
        answer(201, json!({"Id": id, "Warnings": warnings}))
    }

    fn start(&mut self, id: &str) -> Answer {
        let Some(container) = self.find_mut(id) else {
            return no_container(id);
        };
        if container.state == "running" {
            return answer(304, Value::Null);
        }
        container.state = "running".to_owned();
        container.started = Some(epoch());
        self.make_group(id);
        answer(204, Value::Null)
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
        answer(204, Value::Null)
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
        answer(200, self.containers.iter().filter(shown).map(row).collect())
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
        let pid = |id: &str| if running { pid(id) } else { 0 };
        let state = json!({
            "Status": container.state, "Running": running, "Paused": container.state == "paused", "Pid": pid(id),
            "ExitCode": container.exit_code, "StartedAt": time(container.started), "FinishedAt": time(container.finished),
        });
        answer(
            200,
            json!({
                "Id": container.id, "Name": container.name, "Created": time(Some(container.created)), "State": state,
                "Config": {"Image": "fake:1", "Labels": container.labels}, "HostConfig": container.body["HostConfig"],
            }),
        )
    }

    fn info(&self) -> Answer {
        answer(
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
            "ping" => answer(200, json!("OK")),
            "info" => self.info(),
            "list" => self.list(path),
            "create" => self.create(id, body),
            "inspect" => self.inspect(id),
            "start" => self.start(id),
            "kill" => self.signal(id, path.rsplit('=').next().unwrap()),
            "pause" => self.pause(id),
            "unpause" => self.unpause(id),
            "remove" => self.remove(id, path.contains("force=1")),
            "logs" => answer(200, json!("last words")),
            "image" => answer(200, json!({"Id": "sha256:1"})),
            "pull" => answer(200, json!({"status": "Pull complete"})),
            _ => message(404, "page not found"),
        }
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn answer(status: u16, body: Value) -> Answer {
    let is_bare = body.is_null() || status == 204 || status == 304;
    Answer {
        status,
        body: if is_bare {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        },
    }
}

fn message(status: u16, text: &str) -> Answer {
    answer(status, json!({"message": text}))
}

fn no_container(id: &str) -> Answer {
    message(404, &format!("No such container: {id}"))
}

/// The calls of one connection, one after the other.
fn serve(shared: &Shared, mut stream: UnixStream) {
    while let Some((method, path, body)) = read_request(&mut stream) {
        let call = name_call(&method, &path);
        let (fault, api) = {
            let mut world = lock(shared);
            world.calls.push(call.clone());
            let fault = world
                .faults
                .get(call.what)
                .or_else(|| world.faults.get("any"))
                .cloned();
            (fault, world.api)
        };
        if call.what == "events" && fault.is_none() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            if stream.write_all(head.as_bytes()).is_ok() {
                lock(shared).listeners.push(stream);
            }
            return;
        }
        let carry_out = || lock(shared).carry_out(&call, &body);
        if answer_call(shared, &mut stream, &method, api, &call, fault, carry_out).is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// `None`: the connection is to be closed.
fn answer_call(
    shared: &Shared,
    stream: &mut UnixStream,
    method: &str,
    api: &str,
    call: &Call,
    fault: Option<Fault>,
    carry_out: impl FnOnce() -> Answer,
) -> Option<()> {
    let mut send = |bytes: &[u8]| stream.write_all(bytes).ok();
    match fault {
        None | Some(Fault::Warning(_)) => send(&encode(method, api, &carry_out())),
        Some(Fault::Status(code, text)) => send(&encode(method, api, &message(code, text))),
        Some(Fault::Pretend(code)) => send(&encode(method, api, &answer(code, Value::Null))),
        Some(Fault::Body(text)) => send(&encode(
            method,
            api,
            &Answer {
                status: 200,
                body: text.into(),
            },
        )),
        Some(Fault::Garbage) => {
            carry_out();
            send(b"SSH-2.0-nothing here speaks HTTP\r\n\r\n").and(None)
        }
        Some(Fault::Truncated) => {
            let bytes = encode(method, api, &carry_out());
            send(&bytes[..bytes.len() - 2]).and(None)
        }
        Some(Fault::LostReply) => {
            carry_out();
            None
        }
        Some(Fault::Huge) => {
            carry_out();
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                send(&[b"10000\r\n", [b' '; 0x10000].as_slice(), b"\r\n"].concat())?;
            }
        }
        Some(Fault::Steps(lines)) => {
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for line in lines {
                send(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
                wait_while(shared, call.what, Duration::from_secs(1));
            }
            wait_while(shared, call.what, Duration::from_secs(60));
            None
        }
        Some(Fault::Drip) => {
            for byte in encode(method, api, &carry_out()) {
                send(&[byte])?;
                wait_while(shared, call.what, Duration::from_millis(300));
            }
            Some(())
        }
        Some(Fault::Stall) => {
            wait_while(shared, call.what, Duration::from_secs(60));
            None
        }
        Some(Fault::StallAfter) => {
            carry_out();
            wait_while(shared, call.what, Duration::from_secs(60));
            None
        }
        Some(Fault::Late(after)) => {
            std::thread::sleep(after);
            carry_out();
            None
        }
    }
}

/// Until the call is well again, or the time is over.
fn wait_while(shared: &Shared, what: &str, most: Duration) {
    let world = lock(shared);
    let is_faulty =
        |world: &mut World| world.faults.contains_key(what) || world.faults.contains_key("any");
    drop(shared.changed.wait_timeout_while(world, most, is_faulty));
}

fn encode(method: &str, api: &str, answer: &Answer) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {} Status\r\nApi-Version: {api}\r\nServer: Fake/1 (linux)\r\n",
        answer.status
    );
    let mut bytes = head.into_bytes();
    if ![204, 304].contains(&answer.status) {
        bytes.extend(
            format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                answer.body.len()
            )
            .bytes(),
        );
    }
    bytes.extend(b"\r\n");
    if method != "HEAD" {
        bytes.extend(&answer.body);
    }
    bytes
}

fn read_request(stream: &mut UnixStream) -> Option<(String, String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().unwrap())
            });
            let whole = end + 4 + length.unwrap_or(0);
            if bytes.len() >= whole {
                let mut words = head.split(' ');
                let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
                return Some((method, path, bytes[end + 4..whole].to_vec()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend(&buffer[..count]),
        }
    }
}

fn name_call(method: &str, path: &str) -> Call {
    let versioned = path
        .strip_prefix("/v")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let path = versioned.unwrap_or(path).to_owned();
    let (plain, query) = path.split_once('?').unwrap_or((&path, ""));
    let parts: Vec<&str> = plain.trim_start_matches('/').split('/').collect();
    let (what, object) = match (method, parts.as_slice()) {
        (_, ["_ping"]) => ("ping", ""),
        (_, ["info"]) => ("info", ""),
        (_, ["events"]) => ("events", ""),
        (_, ["containers", "json"]) => ("list", ""),
        (_, ["containers", "create"]) => ("create", query.trim_start_matches("name=")),
        (_, ["containers", id, "json"]) => ("inspect", *id),
        (_, ["containers", id, "start"]) => ("start", *id),
        (_, ["containers", id, "kill"]) => ("kill", *id),
        (_, ["containers", id, "pause"]) => ("pause", *id),
        (_, ["containers", id, "unpause"]) => ("unpause", *id),
        (_, ["containers", id, "logs"]) => ("logs", *id),
        ("DELETE", ["containers", id]) => ("remove", *id),
        (_, ["images", "create"]) => ("pull", ""),
        (_, ["images", .., "json"]) => ("image", ""),
        _ => ("unknown", plain),
    };
    Call {
        at: Instant::now(),
        what,
        object: object.to_owned(),
        path: path.clone(),
    }
}
