//! A second way to ask the real engine, which has nothing in common with the one under test, and small classes of pilots.

use super::*;
use std::io::Read;
use std::os::unix::net::UnixStream;

/// Path of the engine's socket.
pub fn socket() -> String {
    given("PLANCTON_TEST_ENGINE")
}

pub fn image() -> String {
    given("PLANCTON_TEST_IMAGE")
}

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
    let length = format!("Content-Length: {}", body.len());
    let kind = "Host: engine\r\nContent-Type: application/json";
    let request = format!("{method} {path} HTTP/1.0\r\n{kind}\r\n{header}{length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let is_end = |four: &[u8]| four == b"\r\n\r\n";
    let body = answer.split_off(answer.windows(4).position(is_end).unwrap() + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body)
}

/// `None`: there is no such thing.
pub fn get(path: &str) -> Option<Value> {
    let (status, body) = call("GET", path, None);
    (status == 200).then(|| serde_json::from_str(&body).unwrap())
}

#[track_caller]
pub fn post(path: &str, body: Option<&Value>) -> String {
    let (status, answer) = call("POST", path, body);
    assert!(status < 400, "{path}: {answer}");
    answer
}

/// It has words of its own for much of what it is told.
pub fn is_podman() -> bool {
    get("/version").unwrap()["Components"][0]["Name"] == "Podman Engine"
}

pub fn inspect(id: &str) -> Option<Value> {
    get(&format!("/containers/{id}/json"))
}

pub fn is_running(id: &str) -> bool {
    inspect(id).is_some_and(|seen| seen["State"]["Running"] == true)
}

/// As an end that Plancton has nothing to do with: a SIGTERM could be lost on a pilot that has only just started.
pub fn kill(id: &str) {
    post(&format!("/containers/{id}/kill"), None);
}

pub fn delete(id: &str) {
    call("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
}

/// What a container said, between the frame heads of the engine's stream.
pub fn logs(id: &str) -> String {
    let path = format!("/containers/{id}/logs?stdout=1&stderr=1");
    call("GET", &path, None).1
}

/// Once these words are in it.
#[track_caller]
pub fn logs_with(id: &str, words: &str) -> String {
    let found = || Some(logs(id)).filter(|text| text.contains(words));
    poll(PATIENCE, found).unwrap_or_else(|| panic!("'{words}' in: {}", logs(id)))
}

pub fn image_id(name: &str) -> Option<String> {
    let id = get(&format!("/images/{name}/json"))?["Id"].clone();
    id.as_str().map(str::to_owned)
}

#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub state: String,
}

/// All containers with this instance's label.
pub fn containers(instance: &str) -> Vec<Container> {
    let filter = format!("%7B%22label%22%3A%5B%22{LABEL}%3D{instance}%22%5D%7D");
    let list = get(&format!("/containers/json?all=1&filters={filter}")).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let container = |one: &Value| Container {
        id: text(&one["Id"]),
        name: text(&one["Names"][0]).replace('/', ""),
        state: text(&one["State"]),
    };
    members(&list).iter().map(container).collect()
}

/// Whatever an instance left behind, in use by others or not.
pub fn clean(instance: &str) {
    // A call that was in flight when the daemon was killed may still make one.
    std::thread::sleep(seconds(0.2));
    let is_clean = becomes(PATIENCE, || {
        let left = containers(instance);
        left.iter().for_each(|one| delete(&one.id));
        left.is_empty()
    });
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    for hierarchy in hierarchies.flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("plancton"));
    }
    let is_clean = is_clean || std::thread::panicking();
    assert!(is_clean, "containers of {instance} can't be removed");
}

/// A container; its id.
pub fn create(query: &str, body: &Value) -> String {
    let answer = post(&format!("/containers/create{query}"), Some(body));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["Id"].as_str().unwrap().to_owned()
}

/// A container that Plancton did not start.
pub struct Stranger(pub String);

impl Stranger {
    /// `labels` beside one that keeps it from counting as a whole core.
    pub fn new(name: &str, labels: &Value, command: &[&str]) -> Stranger {
        let mut labels = labels.clone();
        labels["io.plancton.cpus"] = "0.01".into();
        let host = json!({"NetworkMode": "none"});
        let body = json!({"Image": image(), "Cmd": command, "Labels": labels, "HostConfig": host});
        let stranger = Stranger(create(&format!("?name={name}"), &body));
        stranger.post("start");
        stranger
    }

    pub fn post(&self, what: &str) {
        post(&format!("/containers/{}/{what}", self.0), None);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        delete(&self.0);
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

/// A shell that a SIGTERM ends after a second of grace.
pub fn shell(name: &str, words: &str, more: &str) -> String {
    let more = format!("stop-grace = \"1s\"\n{more}");
    pilot(name, &["sh", "-c", words], &more)
}

pub fn sleeper() -> String {
    pilot("sleeper", &["sleep", "600"], "stop-grace = \"1s\"")
}

/// A shell that a SIGTERM does not end.
pub fn stubborn(more: &str) -> String {
    let words = "trap '' TERM; echo ready; while :; do sleep 1; done";
    pilot("stubborn", &["sh", "-c", words], more)
}

impl Instance {
    pub fn containers(&self) -> Vec<Container> {
        containers(&self.name)
    }

    /// Ids of those that run.
    pub fn running_ids(&self) -> BTreeSet<String> {
        let list = self.containers().into_iter();
        let running = list.filter(|one| one.state == "running");
        running.map(|one| one.id).collect()
    }

    /// Waits until exactly so many run, and nothing else of this instance is there.
    #[track_caller]
    pub fn wait_running(&self, number: usize) -> BTreeSet<String> {
        self.wait_containers(|list| list.len() == number && are(list, "running"));
        self.running_ids()
    }

    /// The only pilot's id.
    #[track_caller]
    pub fn wait_one(&self) -> String {
        self.wait_running(1).first().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_containers(&self, is_so: impl Fn(&[Container]) -> bool) {
        self.until(|| is_so(&self.containers()));
    }

    #[track_caller]
    pub fn wait_none(&self) {
        self.wait_containers(<[_]>::is_empty);
    }
}

pub fn are(list: &[Container], state: &str) -> bool {
    list.iter().all(|one| one.state == state)
}
