//! The real binary and web servers that publish configurations, good and hostile ones: what is joined runs, what was not
//! consented to changes nothing and is named in `status`, and a server that is away takes nothing from anybody.
// needs: minisign openssl
// threads: 8
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, dead_code)]

#[path = "common/fake_engine.rs"]
mod fake_engine;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/site.rs"]
mod site;

use machine::{Machine, PATIENCE, Scratch, at_once, becomes};
use rustix::process::Signal;
use serde_json::Value;
use site::{Site, lock};
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const OWNER: &str = "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n";
const ALLOW: &str = "[allow]\nplain-http = true\nrefresh = \"1s\"\n";

/// As a project publishes it.
fn project(lines: &str) -> String {
    format!(
        "[[pilot]]\nname = \"sci\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n{lines}\n"
    )
}

fn owner() -> String {
    format!("{OWNER}{ALLOW}")
}

/// Three of its pilots run.
fn joined(site: &Site) -> Machine {
    let mut machine = Machine::new();
    machine.scratch.file("config.toml", owner());
    let said = machine.tell(&["join", "--yes", &site.url()]);
    assert!(said.status.success(), "{said:?}");
    machine.start(&owner());
    machine.wait_for_pilots(3);
    machine
}

fn said(machine: &Machine, arguments: &[&str]) -> (Option<i32>, String) {
    let output = machine.tell(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn remote(machine: &Machine) -> Value {
    machine.status()["remote"].clone()
}

fn problems(machine: &Machine) -> String {
    machine.status()["problems"].to_string()
}

#[test]
fn nobody_joins_unasked() {
    let sink = "[[influxdb]]\nurl = \"http://127.0.0.1:9#d\"\n";
    let site = Site::new(&(project("privileged = false") + sink));
    let machine = Machine::new();
    machine.scratch.file("config.toml", owner());
    // Nobody is there to be asked, and nothing happens.
    let (code, text) = said(&machine, &["join", &site.url()]);
    assert_eq!(code, Some(64), "{text}");
    for words in [
        "containers of fake, from the registry docker.io",
        "access to the network for them",
        "metrics to http://127.0.0.1:9#d: figures of its pilots, none of the owner",
        "'sci': fake:1, 1 cores, 64MiB",
        "plancton join --yes",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert!(!machine.scratch.0.join("state/remote").exists());
}

#[test]
fn joined_changed_and_left() {
    let sink = "[[influxdb]]\nurl = \"http://127.0.0.1:9#d\"\n";
    let site = Site::new(&(project("privileged = false") + sink));
    let mut machine = Machine::new();
    machine.start(&owner());
    machine.wait_for("it waits for pilots", || machine.reason() == "no-pilot");
    let (code, text) = said(&machine, &["join", "--yes", &site.url()]);
    assert!(
        code == Some(0) && text.contains("the daemon takes it over now"),
        "{text}"
    );
    machine.wait_for_pilots(3);
    let hash = remote(&machine)["hash"].clone();
    assert_eq!(hash.as_str().map(str::len), Some(16));
    machine.wait_for("it is asked for again, if it is new", || {
        lock(&site.heads)
            .iter()
            .filter(|head| head.contains("if-none-match: \""))
            .count()
            >= 2
    });
    let (_, text) = said(&machine, &["check"]);
    assert!(
        text.contains(&format!(
            "ok   joined         {}: classes for this machine: 1",
            site.url()
        )),
        "{text}"
    );
    assert!(
        machine
            .tell(&["config"])
            .stdout
            .starts_with(b"# in force, from ")
    );
    let (_, text) = said(&machine, &["status"]);
    assert!(
        text.contains("Joined") && text.contains(hash.as_str().unwrap()),
        "{text}"
    );

    // A change reaches the daemon within `refresh`, and touches no pilot.
    let running = machine.engine.in_state("running");
    site.publish(&(project("env = { NEW = \"1\" }\nmax = 2") + sink));
    machine.wait_for("the change is there", || remote(&machine)["hash"] != hash);
    assert_eq!(machine.engine.in_state("running"), running);
    running.iter().for_each(|id| machine.engine.end(id, 0));
    let has_new = || {
        let world = machine.engine.world();
        let mut running = world
            .containers
            .iter()
            .filter(|container| container.state == "running");
        running.clone().count() == 2
            && running.all(|container| container.body["Env"].to_string().contains("NEW=1"))
    };
    machine.wait_for("the next ones are as it says", has_new);

    let left = machine.engine.in_state("running");
    let (code, text) = said(&machine, &["leave"]);
    assert!(code == Some(0) && text.contains("is left"), "{text}");
    machine.wait_for("it is forgotten", || {
        remote(&machine).is_null() && machine.status()["sinks"] == Value::Array(vec![])
    });
    assert_eq!(
        machine.engine.in_state("running"),
        left,
        "they go on to their end"
    );
    assert!(!machine.scratch.0.join("state/remote").exists());
    let asked = site.requests();
    left.iter().for_each(|id| machine.engine.end(id, 0));
    machine.wait_for("nothing is started for it", || {
        machine.engine.in_state("running").is_empty() && machine.reason() == "no-pilot"
    });
    assert_eq!(site.requests(), asked);
}

/// What a project may not have, and what it would need to be accepted for: nothing changes, and it is said.
#[test]
fn hostile_texts() {
    let many: String = (0..10_000)
        .map(|n| format!("[[pilot]]\nname = \"p{n}\"\nimage = \"fake:1\"\n"))
        .collect();
    let few: String = many
        .lines()
        .take(99)
        .map(|line| format!("{line}\n"))
        .collect();
    let cases = [
        (project("privileged = true"), "[allow] privileged"),
        (project("mounts = [\"/:/host:rw\"]"), "the mount /:/host:rw"),
        (
            project("mounts = [\"/var/run/docker.sock:/s\"]"),
            "the mount /var/run/docker.sock:/s:ro",
        ),
        (project("network = \"host\""), "the network host"),
        (
            project("cap-add = [\"SYS_ADMIN\"]"),
            "the capability SYS_ADMIN",
        ),
        (project("devices = [\"/dev/mem\"]"), "/dev/mem"),
        (
            project("host-config = { PidMode = \"host\" }"),
            "the engine's field PidMode",
        ),
        (
            project("files = [{ source = \"/etc/shadow\", target = \"/s\" }]"),
            "the file /etc/shadow",
        ),
        (
            project("").replace("fake:1", "evil.example/fake:1"),
            "containers of evil.example/fake",
        ),
        (project("user = \"0\""), "containers whose user is root"),
        (
            project("") + "[[influxdb]]\nurl = \"http://evil.example#d\"\n",
            "metrics to http://evil.example#d",
        ),
        (
            project("")
                + "[[influxdb]]\nurl = \"http://e#d\"\nuser = \"u\"\npassword-file = \"/etc/shadow\"\n",
            "/etc/shadow",
        ),
        (
            project("") + "[share]\ncpus = 1000\nmax-pilots = 10000\n",
            "cpus: that is the owner's alone",
        ),
        (
            project("") + "[allow]\nprivileged = true\n",
            "privileged: that is the owner's alone",
        ),
        (
            project("max = 10000") + "[engine]\nsocket = \"/tmp/evil\"\n",
            "socket: that is the owner's alone",
        ),
        (many, "more than 64 KiB"),
        (few, "no more than 32 [[pilot]]"),
        ("\0\u{1b}[2J[[[".repeat(9), "not valid TOML"),
        (project("unheard-of = 1"), "unknown key 'unheard-of'"),
    ];
    at_once(cases, |(text, named)| {
        let site = Site::new(&project(""));
        let machine = joined(&site);
        let running = machine.engine.in_state("running");
        site.publish(&text);
        machine.wait_for(named, || problems(&machine).contains(named));
        assert_eq!(machine.engine.in_state("running"), running, "{named}");
        // Those that end are replaced, if at all, by the ones that were agreed to.
        machine.engine.end(&running[0], 0);
        machine.wait_for("the end is learned of", || {
            machine.status()["counts"]["done"] == 1
        });
        let world = machine.engine.world();
        assert!(
            world.containers.len() <= 3 && world.most <= 4,
            "{named}: {}",
            world.most
        );
        for container in &world.containers {
            let body = &container.body;
            assert_eq!(body["Image"], "fake:1", "{named}");
            let host = &body["HostConfig"];
            assert!(
                host["Privileged"] != true && host["NetworkMode"] == "bridge",
                "{named}: {host}"
            );
            assert!(host["PidMode"].as_str().unwrap_or("").is_empty(), "{named}");
            assert_eq!(host["CapAdd"].as_array().map_or(0, Vec::len), 0, "{named}");
            assert_eq!(host["Devices"].as_array().map_or(0, Vec::len), 0, "{named}");
            assert!(
                !host.to_string().contains("shadow") && !host.to_string().contains("docker.sock"),
                "{named}"
            );
        }
        drop(world);
        assert!(
            !machine.status()["sinks"].to_string().contains("evil"),
            "{named}"
        );
        assert!(!machine.log().contains('\u{1b}'), "{named}");
    });
}

/// What goes wrong on the way is said, and what was joined stays in force.
#[test]
fn hostile_servers() {
    type Case = (
        &'static str,
        &'static str,
        fn(&str, &mut TcpStream) -> std::io::Result<()>,
    );
    let cases: [Case; 9] = [
        ("an error", "status 503", |_, stream| {
            stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        }),
        ("nothing there", "status 404", |_, stream| {
            stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        }),
        ("a redirect", "status 302: redirects", |_, stream| {
            stream.write_all(
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            )
        }),
        ("a cut body", "no more than", |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n[[pilot]]\n")
        }),
        ("a cut piece", "no more than", |_, stream| {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n[[pilot]]\n",
            )
        }),
        ("no length", "does not say how long", |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[[pilot]]\n")
        }),
        ("a gibibyte", "no more than 64 KiB", |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")?;
            (0..16_384).try_for_each(|_| stream.write_all(&[b'#'; 65_536]))
        }),
        ("no text", "no UTF-8", |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe")
        }),
        ("no HTTP", "http", |_, stream| {
            stream.write_all(b"\0\0\0 garbage\r\n\r\n")
        }),
    ];
    at_once(cases, |(what, named, answer)| {
        let site = Site::new(&project(""));
        let mut machine = joined(&site);
        let (running, hash) = (
            machine.engine.in_state("running"),
            remote(&machine)["hash"].clone(),
        );
        site.answer(answer);
        machine.wait_for(what, || {
            problems(&machine).contains(&format!("{}: ", site.url()))
        });
        assert!(
            problems(&machine).contains(named),
            "{what}: {}",
            problems(&machine)
        );
        assert_eq!(
            (
                machine.engine.in_state("running"),
                remote(&machine)["hash"].clone()
            ),
            (running, hash),
            "{what}"
        );
        machine.assert_well();
        site.publish(&project(""));
        machine.wait_for("well again", || problems(&machine) == "[]");
    });
}

#[test]
fn what_waits_is_accepted_or_goes_away() {
    let site = Site::new(&project(""));
    let machine = joined(&site);
    let more = project("").replace("fake:1", "evil.example/fake:1");
    site.publish(&more);
    machine.wait_for("it waits", || {
        problems(&machine).contains("evil.example/fake")
    });
    assert_eq!(
        remote(&machine)["waiting"][0],
        "containers of evil.example/fake, from the registry evil.example"
    );
    // Taken back by the project, it is no question any more.
    site.publish(&project(""));
    machine.wait_for("it is gone", || problems(&machine) == "[]");

    site.publish(&more);
    machine.wait_for("it waits", || {
        problems(&machine).contains("evil.example/fake")
    });
    let (code, text) = said(&machine, &["join", &site.url()]);
    assert!(
        code == Some(64) && text.contains("New in it:\n  - containers of evil.example/fake"),
        "{text}"
    );
    assert_eq!(said(&machine, &["join", "--yes", &site.url()]).0, Some(0));
    machine.wait_for("it is in force", || problems(&machine) == "[]");
    machine
        .engine
        .end(&machine.engine.in_state("running")[0], 0);
    machine.wait_for("a pilot of it", || {
        machine
            .engine
            .world()
            .containers
            .iter()
            .any(|container| container.body["Image"] == "evil.example/fake:1")
    });
}

/// The machine gives less when the project says so, and never more.
#[test]
fn a_project_can_lower() {
    let site = Site::new(&(project("") + "[share]\nmax-pilots = 1\n"));
    let mut machine = Machine::new();
    machine.scratch.file("config.toml", owner());
    assert!(
        said(&machine, &["join", "--yes", &site.url()])
            .1
            .contains("max-pilots = 1 (always)")
    );
    machine.start(&owner());
    machine.wait_for_pilots(1);
    site.publish(&(project("") + "[share]\nmax-pilots = 1000\n"));
    machine.wait_for_pilots(3);
    machine.wait_for("a full machine", || machine.reason() == "max-pilots");
}

/// Down at the start, and for as long as it likes.
#[test]
fn a_server_that_is_away() {
    let site = Site::new(&project(""));
    let mut machine = joined(&site);
    site.answer(|_, _| Ok(()));
    machine.wait_for("it is said", || problems(&machine).contains(&site.url()));
    machine.signal(Signal::KILL);
    machine.wait_for_end(PATIENCE);
    let before = machine.engine.in_state("running");
    machine.start(&owner());
    machine.wait_for("it is said again", || {
        problems(&machine).contains(&site.url())
    });
    assert_eq!(machine.engine.in_state("running"), before);
    machine.engine.end(&before[0], 0);
    machine.wait_for("the last good one goes on", || {
        machine.status()["counts"]["done"] == 1 && machine.engine.in_state("running").len() == 3
    });
    let looked = remote(&machine)["looked"].as_f64().unwrap();
    assert!(
        looked > 0.0 && looked < fake_engine::epoch() - 0.5,
        "it was not looked at since: {looked}"
    );
    site.publish(&project("max = 2"));
    machine.wait_for("back again", || problems(&machine) == "[]");
}

/// As in a container: the address comes with the deployment, and with it the consent, but not what [allow] must name.
#[test]
fn a_url_from_the_environment() {
    let site = Site::new(&(project("") + &project("privileged = true").replace("sci", "bad")));
    let machine = Machine::new();
    machine.scratch.file("config.toml", owner());
    let mut command = machine.command();
    let mut child = command
        .arg("run")
        .env("PLANCTON_CONFIG_URL", site.url())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let runs = becomes(PATIENCE, || machine.engine.in_state("running").len() == 3);
    let refused = becomes(PATIENCE, || problems(&machine).contains("'bad'"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(runs && refused, "{}", problems(&machine));
    let mut command = machine.command();
    let bad = command
        .arg("run")
        .env("PLANCTON_CONFIG_URL", "ftp://x")
        .output()
        .unwrap();
    assert!(
        bad.status.code() == Some(78)
            && String::from_utf8_lossy(&bad.stderr).contains("PLANCTON_CONFIG_URL: ")
    );
}

/// `openssl s_server`, which sends whole answers from files.
struct Secure {
    child: Child,
    port: u16,
    scratch: Scratch,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Secure {
    /// `days` from now its certificate ends; negative: it has.
    fn new(days: i32) -> Secure {
        let scratch = Scratch::new();
        let own = &scratch.0;
        scratch.file(
            "ext",
            "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n",
        );
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(
            own,
            &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=ca"),
        );
        openssl(
            own,
            &format!("req {key} -keyout key -out csr -subj /CN=site"),
        );
        openssl(
            own,
            &format!(
                "x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out crt -days {days}"
            ),
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut command = Command::new("openssl");
        command.args([
            "s_server",
            "-HTTP",
            "-quiet",
            "-key",
            "key",
            "-cert",
            "crt",
            "-accept",
            &format!("127.0.0.1:{port}"),
        ]);
        let child = command
            .current_dir(own)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Secure {
            child,
            port,
            scratch,
        };
        assert!(
            becomes(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok()),
            "openssl s_server"
        );
        server
    }

    fn page(&self, name: &str, head: &str, body: &str) {
        self.scratch.file(
            name,
            format!(
                "HTTP/1.0 {head}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
    }

    fn url(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.port)
    }

    fn allow(&self, more: &str) -> String {
        let ca: PathBuf = self.scratch.0.join("ca.crt");
        format!("{OWNER}[allow]\nca-file = {ca:?}\nrefresh = \"1s\"\n{more}")
    }
}

#[test]
fn https_certificates_and_redirects() {
    let (good, expired) = (Secure::new(2), Secure::new(-1));
    let machine = Machine::new();
    let join = |server: &Secure, page: &str, config: &str| {
        machine.scratch.file("config.toml", config);
        said(&machine, &["join", "--yes", &server.url(page)])
    };
    for server in [&good, &expired] {
        server.page("good", "200 OK", &project(""));
        server.page(
            "loop",
            &format!("302 Found\r\nLocation: {}", server.url("loop")),
            "",
        );
        server.page("away", "302 Found\r\nLocation: http://127.0.0.1:1/good", "");
        server.page(
            "moved",
            &format!("302 Found\r\nLocation: {}", server.url("good")),
            "",
        );
    }
    for (server, page, config, why) in [
        (&good, "loop", good.allow(""), "redirects"),
        (&good, "away", good.allow(""), "https"),
        (&good, "away", good.allow("plain-http = true\n"), "https"),
        (&good, "good", OWNER.to_owned(), "certificate"),
        (&good, "good", expired.allow(""), "certificate"),
        (&expired, "good", expired.allow(""), "expired"),
    ] {
        let (code, text) = join(server, page, &config);
        assert_eq!(code, Some(1), "{page}: {text}");
        assert!(
            text.to_lowercase().contains(why) && text.contains("nothing was joined"),
            "{page}: {text}"
        );
        assert!(!machine.scratch.0.join("state/remote").exists(), "{page}");
    }
    for page in ["good", "moved"] {
        let (code, text) = join(&good, page, &good.allow(""));
        assert!(code == Some(0), "{page}: {text}");
    }
    for (url, code) in [
        ("http://127.0.0.1/x", 64),
        ("https://u:p@h/x", 64),
        ("file:///etc/passwd", 64),
        ("https://", 64),
    ] {
        machine.scratch.file("config.toml", good.allow(""));
        assert_eq!(
            said(&machine, &["join", "--yes", url]).0,
            Some(code),
            "{url}"
        );
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(machine.scratch.0.join("state/remote"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o700, "a token may be in it");
}

#[test]
fn what_is_not_signed_is_not_taken() {
    let scratch = Scratch::new();
    let keys = ["ours", "other"].map(|name| {
        minisign(&scratch, &format!("-G -W -p {name}.pub -s {name}.key"));
        let public = fs::read_to_string(scratch.0.join(format!("{name}.pub"))).unwrap();
        public.lines().nth(1).unwrap().to_owned()
    });
    let sign = |text: &str, key: &str| {
        scratch.file("text", text);
        minisign(
            &scratch,
            &format!("-S -W -s {key}.key -m text -x signature"),
        );
        fs::read_to_string(scratch.0.join("signature")).unwrap()
    };
    let site = Site::new("");
    let publish = |text: &str, signature: String| {
        let text = text.to_owned();
        site.answer(move |head, stream| {
            let body = if head.contains(".minisig ") {
                &signature
            } else {
                &text
            };
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        });
    };
    let mut machine = Machine::new();
    machine.scratch.file("config.toml", owner());
    let good = "serial = 1\n".to_owned() + &project("max = 2");
    let join = |key: &str| said(&machine, &["join", "--yes", "--key", key, &site.url()]);
    let wrong = [
        sign(&good, "other"),
        sign(&project(""), "ours"),
        "garbage".to_owned(),
        String::new(),
    ];
    for signature in wrong.clone() {
        publish(&good, signature);
        let (code, text) = join(&keys[0]);
        assert!(
            code == Some(1) && text.contains(".minisig: ") && text.contains("nothing was joined"),
            "{text}"
        );
    }
    assert_eq!(join("RWQnonsense").0, Some(64));
    publish(&good, sign(&good, "ours"));
    let (code, text) = join(&keys[0]);
    assert_eq!(code, Some(0), "{text}");
    machine.start(&owner());
    machine.wait_for_pilots(2);
    let (hash, running) = (
        remote(&machine)["hash"].clone(),
        machine.engine.in_state("running"),
    );
    let newer = "serial = 2\n".to_owned() + &project("max = 3");
    for signature in wrong {
        publish(&newer, signature);
        machine.wait_for("it is refused", || {
            problems(&machine).contains(".minisig: ")
        });
        assert_eq!(
            (
                &remote(&machine)["hash"],
                machine.engine.in_state("running").len()
            ),
            (&hash, running.len())
        );
        publish(&good, sign(&good, "ours"));
        machine.wait_for("well again", || problems(&machine) == "[]");
    }
    publish(&newer, sign(&newer, "ours"));
    machine.wait_for_pilots(3);
    // Whoever replays an old one, or signs without counting, changes nothing.
    for (text, named) in [
        (good, "its serial 1 is not above 2"),
        (project("max = 1"), "its serial 0 is not above 2"),
    ] {
        publish(&text, sign(&text, "ours"));
        machine.wait_for(named, || problems(&machine).contains(named));
        let arguments = ["join", "--yes", "--key", &keys[0], &site.url()];
        let (code, text) = said(&machine, &arguments);
        assert!(code == Some(1) && text.contains(named), "{text}");
        assert_eq!(machine.engine.in_state("running").len(), 3);
    }
}

fn minisign(scratch: &Scratch, arguments: &str) {
    let mut command = Command::new("minisign");
    let output = command
        .args(arguments.split(' '))
        .current_dir(&scratch.0)
        .output()
        .unwrap();
    assert!(output.status.success(), "minisign {arguments}: {output:?}");
}
