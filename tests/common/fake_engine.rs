//! A container engine that is none: a little store of containers behind a Unix socket in the test's own process. It
//! behaves like an engine until a fault is switched on for a call, and writes down every call it gets.

use super::web::{HttpServer, Request, lock, reply};
use super::*;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong with a call: one of these, or a status with a message, which is refused and not carried out.
/// - garbage: bytes that are no HTTP
/// - body TEXT: 200 with this body instead of the engine's
/// - truncated: carried out, and the answer ends in its middle
/// - stall: no answer for as long as the fault holds, and then none either; stall-after: the same, but carried out first
/// - late: carried out three seconds later, when nobody waits for the answer any more
/// - lost-reply: carried out, and the connection closed before the first byte
/// - huge: an answer that never ends
/// - steps LINES: of a stream, one a second, and then nothing for as long as the fault holds
/// - drip: a byte now and then, more slowly than anybody waits
/// - warning TEXT: 201 with it
/// - pretend CODE: says that it was done, and does nothing
const FAULTS: &str =
    "garbage body truncated stall stall-after late lost-reply huge steps drip warning pretend";

#[derive(Clone, Debug, Default)]
pub struct Container {
    pub id: String,
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub state: &'static str,
    /// Epoch seconds.
    created: f64,
    started: Option<f64>,
    finished: Option<f64>,
    exit_code: i64,
    pid: u64,
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
    /// As sent, without the API version.
    pub path: String,
}

/// The whole of it, to be looked at and changed by tests.
#[derive(Default)]
pub struct World {
    pub containers: Vec<Container>,
    pub calls: Vec<Call>,
    faults: BTreeMap<&'static str, &'static str>,
    /// What /_ping says.
    pub api: &'static str,
    /// Bytes of the machine that the engine says it is on.
    pub memory: u64,
    /// Returns everything, whatever the filter says.
    pub ignores_filter: bool,
    /// No pilot ends by a TERM.
    pub ignores_term: bool,
    /// The limits of new containers are not set.
    pub loses_limits: bool,
    /// The most containers there were at once.
    pub most: usize,
    /// Where the groups of running containers are made.
    root: PathBuf,
    /// Where it says to keep its data; empty: the same.
    pub data_root: PathBuf,
    /// The groups of new containers can't be found.
    pub hides_groups: bool,
    listeners: Vec<UnixStream>,
    /// Where several engines show one machine, each begins elsewhere.
    pub next_id: u64,
    /// A process of the real machine that is all pilots' first one; 0: each has its own. Its file in /proc, below `root`,
    /// always has the group of the pilot that was inspected last.
    pub holder: u64,
    /// Containers are in groups below this one, as it is where a daemon has made an idle group; empty: there is none.
    pub parent: &'static str,
}

pub type Labels<'a> = &'a [(&'a str, &'a str)];

pub struct FakeEngine {
    socket: PathBuf,
    world: Arc<Mutex<World>>,
    server: Option<HttpServer>,
}

impl FakeEngine {
    /// `root` is the machine that the daemon is shown. Not yet to be reached.
    pub fn new(socket: &Path, root: &Path) -> FakeEngine {
        let world = World {
            api: "1.41",
            memory: 1 << 36,
            root: root.to_owned(),
            ..World::default()
        };
        FakeEngine {
            socket: socket.to_owned(),
            world: Arc::new(Mutex::new(world)),
            server: None,
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Comes (back), with the containers it had.
    pub fn up(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let world = self.world.clone();
        self.server = Some(HttpServer::new(listener, move |request, stream| {
            serve(&world, request, stream)
        }));
    }

    /// Goes away: nobody listens, every connection is closed. The socket's file stays, as after a crash.
    pub fn down(&mut self) {
        self.server = None;
        self.world().listeners.clear();
    }

    pub fn fault(&self, what: &'static str, fault: &'static str) {
        let kind = fault.split(' ').next().unwrap();
        let is_known = FAULTS.split(' ').any(|known| known == kind);
        assert!(is_known || kind.parse::<u16>().is_ok(), "{kind}");
        self.world().faults.insert(what, fault);
    }

    /// Every call is well again.
    pub fn mend(&self) {
        self.world().faults.clear();
    }

    /// Containers' processes exit.
    pub fn ends(&self, ids: &[String], exit_code: i64) {
        ids.iter().for_each(|id| self.world().end(id, exit_code));
    }

    /// One that the daemon of a `Machine` made.
    pub fn add_own(&self, name: &str, state: &'static str, age: f64, class: &str) -> String {
        let (class, cpus) = (("io.plancton.class", class), ("io.plancton.cpus", "1"));
        self.add(name, state, age, &[(LABEL, "t1"), class, cpus])
    }

    /// A container that is there already, since `age` seconds; the name may be empty.
    pub fn add(&self, name: &str, state: &'static str, age: f64, labels: Labels) -> String {
        let mut world = self.world();
        let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let created = epoch() - age;
        let was_started = !["created", "configured"].contains(&state);
        let has_ended = ["exited", "dead"].contains(&state);
        let cpus = labels.iter().find(|(key, _)| *key == "io.plancton.cpus");
        let cpus: f64 = cpus.and_then(|(_, cpus)| cpus.parse().ok()).unwrap_or(1.0);
        let limits =
            json!({"NanoCpus": (cpus * 1e9) as u64, "Memory": 1u64 << 30, "PidsLimit": 512});
        let id = world.push(Container {
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            labels: labels.iter().map(label).collect(),
            state,
            created,
            started: was_started.then_some(created),
            finished: has_ended.then_some(created + 5.0),
            body: json!({ "HostConfig": limits }),
            ..Container::default()
        });
        if ["running", "paused"].contains(&state) {
            world.make_group(&id);
        }
        id
    }

    pub fn count_calls(&self, what: &str) -> usize {
        let calls = &self.world().calls;
        calls.iter().filter(|call| call.what == what).count()
    }

    /// Ids of containers in this state, oldest first.
    pub fn in_state(&self, state: &str) -> Vec<String> {
        let containers = &self.world().containers;
        let found = containers.iter().filter(|one| one.state == state);
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
        let own = 1_000 + self.next_id % 1_000_000;
        let pid = if self.holder == 0 { own } else { self.holder };
        self.containers.push(Container {
            id: id.clone(),
            pid,
            ..container
        });
        self.most = self.most.max(self.containers.len());
        id
    }

    fn place(&self, id: &str) -> Option<usize> {
        let is_it = |one: &Container| one.id == id || one.name.as_deref() == Some(id);
        self.containers.iter().position(is_it)
    }

    pub fn find(&self, id: &str) -> Option<&Container> {
        Some(&self.containers[self.place(id)?])
    }

    fn fault_of(&self, what: &str) -> &'static str {
        let fault = self.faults.get(what).or(self.faults.get("any"));
        fault.copied().unwrap_or_default()
    }

    /// As the kernel would show it, below the daemon's root.
    fn group_dir(&self, controller: &str, id: &str) -> PathBuf {
        let group = self.group_of(id);
        self.root.join(format!("sys/fs/cgroup/{controller}{group}"))
    }

    fn group_of(&self, id: &str) -> String {
        let parent = Some(self.parent).filter(|parent| !parent.is_empty());
        format!("/{}/{id}", parent.unwrap_or("docker"))
    }

    fn make_group(&self, id: &str) {
        let container = self.find(id).unwrap();
        let number = |key: &str| container.body["HostConfig"][key].as_i64().unwrap_or(0);
        let (cpus, memory, pids) = (number("NanoCpus"), number("Memory"), number("PidsLimit"));
        let quota = if self.loses_limits { -1 } else { cpus / 10_000 };
        let usage = "memory.stat total_rss 0\ntotal_shmem 0";
        for (controller, files) in [
            (
                "cpu",
                format!("cpu.cfs_quota_us {quota}|cpu.cfs_period_us 100000"),
            ),
            ("cpuacct", "cpuacct.usage 0".to_owned()),
            ("memory", format!("memory.limit_in_bytes {memory}|{usage}")),
            ("pids", format!("pids.max {pids}")),
        ] {
            let dir = self.group_dir(controller, id);
            fs::create_dir_all(&dir).unwrap();
            let files = files.split('|').filter_map(|file| file.split_once(' '));
            for (file, text) in files.chain([("cgroup.procs", "1\n")]) {
                fs::write(dir.join(file), text).unwrap();
            }
        }
        self.show_group(container);
    }

    /// In its process's file, which several may share.
    fn show_group(&self, container: &Container) {
        let process = self.root.join(format!("proc/{}", container.pid));
        let _ = fs::create_dir_all(&process);
        let groups = format!("1:cpu,cpuacct:{}\n", self.group_of(&container.id));
        if !self.hides_groups {
            let _ = fs::write(process.join("cgroup"), groups);
        }
    }

    /// The processes go first, as they do in a kernel.
    fn remove_group(&self, id: &str) {
        let controllers = ["cpu", "cpuacct", "memory", "pids"];
        let dirs = controllers.map(|controller| self.group_dir(controller, id));
        for dir in &dirs {
            let _ = fs::write(dir.join("cgroup.procs"), "");
        }
        dirs.iter().for_each(|dir| drop(fs::remove_dir_all(dir)));
        if self.holder == 0 {
            let pid = self.find(id).map_or(0, |container| container.pid);
            let _ = fs::remove_dir_all(self.root.join(format!("proc/{pid}")));
        }
    }

    pub fn end(&mut self, id: &str, exit_code: i64) {
        self.remove_group(id);
        let Some(at) = self.place(id) else {
            return;
        };
        let container = &mut self.containers[at];
        (container.state, container.exit_code) = ("exited", exit_code);
        container.finished = Some(epoch());
        let mut attributes = container.labels.clone();
        attributes.insert("exitCode".to_owned(), exit_code.to_string());
        let actor = json!({"ID": container.id, "Attributes": attributes});
        let event = json!({"Type": "container", "Action": "die", "Actor": actor});
        let chunk = chunk(&format!("{event}\n"));
        let is_sent = |stream: &mut UnixStream| stream.write_all(&chunk).is_ok();
        self.listeners.retain_mut(is_sent);
    }

    /// What changes one container.
    fn change(&mut self, what: &str, id: &str, path: &str) -> Answer {
        let Some(at) = self.place(id) else {
            return no_container(id);
        };
        let container = &mut self.containers[at];
        let signal = path.rsplit('=').next().unwrap();
        match (what, container.state) {
            ("start", "running") => return (304, Value::Null),
            ("start", _) => {
                (container.state, container.started) = ("running", Some(epoch()));
                self.make_group(id);
            }
            ("kill", "paused") => container.pending.push(path.to_owned()),
            ("kill", "running") if signal == "KILL" => self.end(id, 137),
            ("kill", "running") if self.ignores_term => {}
            ("kill", "running") => self.end(id, 143),
            ("pause", "running") => container.state = "paused",
            ("unpause", "paused") => {
                container.state = "running";
                for path in std::mem::take(&mut container.pending) {
                    self.change("kill", id, &path);
                }
            }
            ("unpause", _) => return message(500, &format!("Container {id} is not paused")),
            ("remove", "running") if !path.contains("force=1") => {
                return message(409, "You cannot remove a running container");
            }
            ("remove", _) => {
                self.remove_group(id);
                self.containers.remove(at);
            }
            _ => return message(409, &format!("Container {id} is not running")),
        }
        (204, Value::Null)
    }

    fn create(&mut self, name: &str, body: &str) -> Answer {
        if self.find(name).is_some() {
            let why = format!("Conflict. The container name \"/{name}\" is already in use");
            return message(409, &why);
        }
        let Ok(body) = serde_json::from_str::<Value>(body) else {
            return message(400, "bad body");
        };
        let fault = self.fault_of("create");
        let warnings: Vec<&str> = fault.strip_prefix("warning ").into_iter().collect();
        let id = self.push(Container {
            name: Some(name.to_owned()),
            labels: serde_json::from_value(body["Labels"].clone()).unwrap_or_default(),
            state: "created",
            created: epoch(),
            body,
            ..Container::default()
        });
        (201, json!({"Id": id, "Warnings": warnings}))
    }

    fn list(&self, path: &str) -> Answer {
        let filtered = path.contains("filters=") && !self.ignores_filter;
        let shown = |container: &&Container| !filtered || container.labels.contains_key(LABEL);
        let row = |container: &Container| {
            let names = container.name.iter().map(|name| format!("/{name}"));
            json!({
                "Id": container.id, "Names": names.collect::<Vec<_>>(), "State": container.state,
                "Created": container.created as u64, "Labels": container.labels, "Image": "fake:1", "ImageID": "sha256:1",
            })
        };
        (200, self.containers.iter().filter(shown).map(row).collect())
    }

    fn inspect(&self, id: &str) -> Answer {
        let Some(container) = self.find(id) else {
            return no_container(id);
        };
        let time = |seconds: Option<f64>| {
            let millis = seconds.map_or(-62_135_596_800_000, |seconds| (seconds * 1e3) as i64);
            let time = jiff::Timestamp::from_millisecond(millis);
            time.unwrap().to_string()
        };
        let running = ["running", "paused"].contains(&container.state);
        if running && self.holder != 0 {
            self.show_group(container);
        }
        let state = json!({
            "Status": container.state, "Running": running, "Paused": container.state == "paused", "Pid": if running { container.pid } else { 0 },
            "ExitCode": container.exit_code, "StartedAt": time(container.started), "FinishedAt": time(container.finished),
        });
        let seen = json!({
            "Id": container.id, "Name": container.name, "Created": time(Some(container.created)), "State": state,
            "Config": {"Image": "fake:1", "Labels": container.labels}, "HostConfig": container.body["HostConfig"],
        });
        (200, seen)
    }

    fn info(&self) -> Value {
        let is_told = !self.data_root.as_os_str().is_empty();
        let data_root = if is_told { &self.data_root } else { &self.root };
        let rootless = self.parent.is_empty().then_some("name=rootless");
        let mut security = vec!["name=seccomp,profile=default"];
        security.extend(rootless);
        json!({
            "ServerVersion": "0.fake", "CgroupDriver": "cgroupfs", "CgroupVersion": "1", "NCPU": 16, "MemTotal": self.memory,
            "DockerRootDir": data_root, "OperatingSystem": "none", "Name": "fake", "MemoryLimit": true, "SwapLimit": true,
            "CpuCfsQuota": true, "PidsLimit": true, "SecurityOptions": security,
        })
    }

    fn carry_out(&mut self, call: &Call, body: &str) -> Answer {
        let (id, path) = (call.object.as_str(), call.path.as_str());
        match call.what {
            "ping" => (200, json!("OK")),
            "info" => (200, self.info()),
            "list" => self.list(path),
            "create" => self.create(id, body),
            "inspect" => self.inspect(id),
            "logs" => (200, json!("last words")),
            "image" => (200, json!({"Id": "sha256:1"})),
            "pull" => (200, json!({"status": "Pull complete"})),
            "unknown" => message(404, "page not found"),
            what => self.change(what, id, path),
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

/// One call; whether the connection stays open.
fn serve(world: &Mutex<World>, request: &Request, stream: &mut UnixStream) -> bool {
    let call = name_call(&request.line);
    lock(world).calls.push(call.clone());
    let fault = lock(world).fault_of(call.what);
    let api = lock(world).api;
    let carry_out = || encode(api, lock(world).carry_out(&call, &request.body));
    // Until the call is well again, or the time is over.
    let wait = |most| {
        becomes(seconds(most), || lock(world).fault_of(call.what).is_empty());
    };
    // The daemon may well hang up.
    let mut send = |bytes: &[u8]| stream.write_all(bytes).is_ok();
    let (kind, text) = fault.split_once(' ').unwrap_or((fault, ""));
    match kind {
        "" if call.what == "events" => {
            send(ENDLESS);
            let listener = stream.try_clone().unwrap();
            lock(world).listeners.push(listener);
            return true;
        }
        "" | "warning" => drop(send(&carry_out())),
        "pretend" => drop(send(&encode(api, (text.parse().unwrap(), Value::Null)))),
        "body" => drop(send(&reply(200, "", text).unwrap())),
        "drip" => {
            let mut bytes = carry_out().into_iter();
            while bytes.next().is_some_and(|byte| send(&[byte])) {
                wait(0.3);
            }
        }
        "truncated" => {
            let bytes = carry_out();
            send(&bytes[..bytes.len() - 2]);
        }
        "garbage" => {
            carry_out();
            send(b"SSH-2.0-nothing here speaks HTTP\r\n\r\n");
        }
        "huge" => {
            carry_out();
            send(ENDLESS);
            while send(&chunk(&" ".repeat(0x10000))) {}
        }
        "steps" => {
            send(ENDLESS);
            for line in text.lines() {
                send(&chunk(line));
                wait(1.0);
            }
            wait(60.0);
        }
        "stall" => wait(60.0),
        "stall-after" => {
            carry_out();
            wait(60.0);
        }
        "lost-reply" => drop(carry_out()),
        "late" => {
            std::thread::sleep(seconds(3.0));
            carry_out();
        }
        code => drop(send(&encode(api, message(code.parse().unwrap(), text)))),
    }
    false
}

const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn encode(api: &str, (status, body): Answer) -> Vec<u8> {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let length = match status {
        204 | 304 => String::new(),
        _ => format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ),
    };
    format!("HTTP/1.1 {status} Status\r\nApi-Version: {api}\r\nServer: Fake/1 (linux)\r\n{length}\r\n{body}").into_bytes()
}

fn name_call(line: &str) -> Call {
    let (method, path) = line.split_once(' ').unwrap();
    let versioned = path.strip_prefix("/v");
    let path = versioned.map_or(path, |rest| &rest[rest.find('/').unwrap()..]);
    let (plain, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<&str> = plain.trim_start_matches('/').split('/').collect();
    let (what, object) = match (method, parts.as_slice()) {
        (_, ["_ping"]) => ("ping", ""),
        (_, ["info"]) => ("info", ""),
        (_, ["events"]) => ("events", ""),
        (_, ["containers", "json"]) => ("list", ""),
        (_, ["containers", "create"]) => ("create", query.trim_start_matches("name=")),
        ("DELETE", ["containers", id]) => ("remove", *id),
        (_, ["containers", id, "json"]) => ("inspect", *id),
        (_, ["containers", id, "start"]) => ("start", *id),
        (_, ["containers", id, "kill"]) => ("kill", *id),
        (_, ["containers", id, "pause"]) => ("pause", *id),
        (_, ["containers", id, "unpause"]) => ("unpause", *id),
        (_, ["containers", id, "logs"]) => ("logs", *id),
        (_, ["images", "create"]) => ("pull", ""),
        (_, ["images", .., "json"]) => ("image", ""),
        _ => ("unknown", plain),
    };
    Call {
        what,
        object: object.to_owned(),
        path: path.to_owned(),
    }
}
