//! The real binary and web servers that publish configurations, good and hostile ones: what is joined runs, what was not
//! consented to changes nothing and is named in `status`, and a server that is away takes nothing from anybody.
// needs: minisign openssl
// threads: 8
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::web::{Request, WebServer, respond};
use common::*;
use std::fs;
use std::io::{Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

const OWNER: &str = "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n";
const TARGET: &str = "[[influxdb]]\nurl = \"http://127.0.0.1:9#d\"\n";

/// As a project publishes it.
fn project(lines: &str) -> String {
    format!(
        "[[pilot]]\nname = \"sci\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n{lines}\n"
    )
}

fn owner() -> String {
    format!("{OWNER}[allow]\nplain-http = true\nrefresh = \"1s\"\n")
}

fn page(site: &WebServer) -> String {
    site.url() + "/plancton.toml"
}

fn join(machine: &Machine, url: &str) -> Said {
    machine.say(&["join", "--yes", url])
}

/// Three of its pilots run.
fn joined(site: &WebServer) -> Machine {
    let mut machine = Machine::new();
    machine.configure(&owner());
    join(&machine, &page(site)).must(0, &[]);
    machine.run(&[]);
    machine.wait_for_pilots(3);
    machine
}

fn remote(machine: &Machine) -> Value {
    machine.status()["remote"].clone()
}

#[test]
fn nobody_joins_unasked() {
    let site = WebServer::site(&(project("") + TARGET));
    let machine = Machine::new();
    machine.configure(&owner());
    // Nobody is there to be asked, and nothing happens.
    let shown = [
        "fake",
        "docker.io",
        "http://127.0.0.1:9#d",
        "'sci'",
        "64MiB",
        "--yes",
    ];
    machine.say(&["join", &page(&site)]).must(64, &shown);
    machine.configure(OWNER);
    for url in [
        "http://127.0.0.1/x",
        "https://u:p@h/x",
        "file:///etc/passwd",
        "https://",
    ] {
        assert_eq!(join(&machine, url).code, 64, "{url}");
    }
    assert!(!machine.path("state/remote").exists());
}

#[test]
fn joined_changed_and_left() {
    let site = WebServer::site(&(project("") + TARGET));
    let mut machine = Machine::new();
    machine.start(&owner());
    machine.wait_reason("no-pilot");
    join(&machine, &page(&site)).must(0, &[]);
    machine.wait_for_pilots(3);
    let hash = remote(&machine)["hash"].clone();
    assert_eq!(hash.as_str().map(str::len), Some(16));
    let has_tag = |request: &&Request| request.header("if-none-match").is_some();
    machine.until(|| site.requests().iter().filter(has_tag).count() >= 2);
    assert!(machine.say(&["check"]).out.contains(&page(&site)));
    machine.say(&["config"]).must(0, &["sci"]);
    machine.say(&["status"]).must(0, &[hash.as_str().unwrap()]);

    // A change reaches the daemon within `refresh`, and touches no pilot.
    let running = machine.pilots();
    site.publish(&(project("env = { NEW = \"1\" }\nmax = 2") + TARGET));
    machine.until(|| remote(&machine)["hash"] != hash);
    assert_eq!(machine.pilots(), running);
    machine.engine.ends(&running, 0);
    machine.wait_for_pilots(2);
    let is_new = |id: &String| {
        machine.engine.world().find(id).unwrap().body["Env"]
            .to_string()
            .contains("NEW=1")
    };
    assert!(machine.pilots().iter().all(is_new));

    // What is left is forgotten, and its pilots go on to their end.
    let left = machine.pilots();
    machine.say(&["leave"]).must(0, &[]);
    machine.wait_status(|status| status["remote"].is_null() && status["sinks"] == json!([]));
    assert_eq!(machine.pilots(), left);
    assert!(!machine.path("state/remote").exists());
    let asked = site.requests().len();
    machine.engine.ends(&left, 0);
    machine.until(|| machine.pilots().is_empty() && machine.reason() == "no-pilot");
    assert_eq!(site.requests().len(), asked);
}

/// What a project may not have, and what it would need to be accepted for: nothing changes, and it is said.
#[test]
fn hostile_texts() {
    let class = |number: usize| format!("[[pilot]]\nname = \"p{number}\"\nimage = \"fake:1\"\n");
    let evil = "[[influxdb]]\nurl = \"http://evil.example#d\"\n";
    let secret =
        "[[influxdb]]\nurl = \"http://e#d\"\nuser = \"u\"\npassword-file = \"/etc/shadow\"\n";
    let cases = [
        (project("privileged = true"), "privileged"),
        (project("mounts = [\"/:/host:rw\"]"), "/:/host:rw"),
        (
            project("mounts = [\"/var/run/docker.sock:/s\"]"),
            "/var/run/docker.sock",
        ),
        (project("network = \"host\""), "network host"),
        (project("cap-add = [\"SYS_ADMIN\"]"), "SYS_ADMIN"),
        (project("devices = [\"/dev/mem\"]"), "/dev/mem"),
        (project("host-config = { PidMode = \"host\" }"), "PidMode"),
        (
            project("files = [{ source = \"/etc/shadow\", target = \"/s\" }]"),
            "/etc/shadow",
        ),
        (
            project("").replace("fake:1", "evil.example/fake:1"),
            "evil.example/fake",
        ),
        (project("user = \"0\""), "root"),
        (project("") + evil, "http://evil.example#d"),
        (project("") + secret, "/etc/shadow"),
        (
            project("") + "[share]\ncpus = 1000\nmax-pilots = 10000\n",
            "cpus: ",
        ),
        (project("") + "[allow]\nprivileged = true\n", "privileged: "),
        (
            project("max = 10000") + "[engine]\nsocket = \"/tmp/evil\"\n",
            "socket: ",
        ),
        ((0..10_000).map(class).collect(), "64 KiB"),
        ((0..33).map(class).collect(), "32"),
        ("\0\u{1b}[2J[[[".repeat(9), "TOML"),
        (project("unheard-of = 1"), "unheard-of"),
    ];
    at_once(cases, |(text, named)| {
        let site = WebServer::site(&project(""));
        let machine = joined(&site);
        let running = machine.pilots();
        site.publish(&text);
        machine.wait_problem(named);
        assert_eq!(machine.pilots(), running);
        // Those that end are replaced, if at all, by the ones that were agreed to.
        machine.end_one(0);
        machine.wait_count("done", 1);
        let world = machine.engine.world();
        assert!(world.containers.len() <= 3 && world.most <= 4);
        for container in &world.containers {
            let host = &container.body["HostConfig"];
            assert_eq!(
                (&container.body["Image"], &host["NetworkMode"]),
                (&json!("fake:1"), &json!("bridge"))
            );
            let told = host.to_string();
            for never in [
                "\"Privileged\":true",
                "\"PidMode\":\"host\"",
                "SYS_ADMIN",
                "/dev/mem",
                "shadow",
                "docker.sock",
            ] {
                assert!(!told.contains(never), "{told}");
            }
        }
        drop(world);
        assert!(!machine.status()["sinks"].to_string().contains("evil"));
        assert!(!machine.log().contains('\u{1b}'));
    });
}

/// What goes wrong on the way is said, and what was joined stays in force.
#[test]
fn hostile_servers() {
    // The answer, and what is said of it. The gibibyte is written on until the client hangs up.
    const ANSWERS: [(&str, &[u8]); 9] = [
        (
            "status 503",
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "status 404",
            b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "redirects",
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "no more than",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n[[pilot]]\n",
        ),
        (
            "no more than",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n[[pilot]]\n",
        ),
        ("how long", b"HTTP/1.1 200 OK\r\n\r\n[[pilot]]\n"),
        (
            "64 KiB",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n",
        ),
        (
            "UTF-8",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        ),
        ("http", b"\0\0\0 garbage\r\n\r\n"),
    ];
    at_once(ANSWERS, |(named, answer)| {
        let site = WebServer::site(&project(""));
        let mut machine = joined(&site);
        let before = (machine.pilots(), remote(&machine)["hash"].clone());
        site.answer_raw(move |_, stream| {
            stream.write_all(answer)?;
            let rest = if named == "64 KiB" { 16_384 } else { 0 };
            (0..rest).try_for_each(|_| stream.write_all(&[b'#'; 65_536]))
        });
        machine.wait_problem(&page(&site));
        machine.wait_problem(named);
        assert_eq!((machine.pilots(), remote(&machine)["hash"].clone()), before);
        machine.assert_well();
        site.publish(&project(""));
        machine.wait_well();
    });
}

#[test]
fn what_is_beyond_the_consent_is_accepted_or_goes_away() {
    let site = WebServer::site(&project(""));
    let machine = joined(&site);
    let more = project("").replace("fake:1", "evil.example/fake:1");
    // Taken back by the project, it is no question any more.
    for text in [&more, &project(""), &more] {
        site.publish(text);
        match text == &more {
            true => machine.wait_problem("evil.example/fake"),
            false => machine.wait_well(),
        }
    }
    machine
        .say(&["join", &page(&site)])
        .must(64, &["evil.example/fake"]);
    join(&machine, &page(&site)).must(0, &[]);
    machine.wait_well();
    machine.end_one(0);
    let is_of_it = |one: &fake_engine::Container| one.body["Image"] == "evil.example/fake:1";
    machine.until(|| machine.engine.world().containers.iter().any(is_of_it));
}

/// The machine gives less when the project says so, and never more.
#[test]
fn a_project_can_lower() {
    let site = WebServer::site(&(project("") + "[share]\nmax-pilots = 1\n"));
    let mut machine = Machine::new();
    machine.configure(&owner());
    join(&machine, &page(&site)).must(0, &["max-pilots = 1"]);
    machine.run(&[]);
    machine.wait_for_pilots(1);
    site.publish(&(project("") + "[share]\nmax-pilots = 1000\n"));
    machine.wait_for_pilots(3);
    machine.wait_reason("max-pilots");
}

/// Down at the start, and for as long as it likes.
#[test]
fn a_server_that_is_away() {
    let site = WebServer::site(&project(""));
    let mut machine = joined(&site);
    site.answer_raw(|_, _| Ok(()));
    machine.wait_problem(&page(&site));
    machine.crash();
    let before = machine.pilots();
    machine.run(&[]);
    machine.wait_problem(&page(&site));
    assert_eq!(machine.pilots(), before);
    machine.end_one(0);
    machine.wait_count("done", 1);
    machine.wait_for_pilots(3);
    let looked = remote(&machine)["looked"].as_f64().unwrap();
    assert!(
        looked > 0.0 && looked < epoch() - 0.5,
        "it was not looked at since: {looked}"
    );
    site.publish(&project("max = 2"));
    machine.wait_well();
}

/// As in a container: the address comes with the deployment, and with it the consent, but not what [allow] must name.
#[test]
fn a_url_from_the_environment() {
    let site =
        WebServer::site(&(project("") + &project("privileged = true").replace("sci", "bad")));
    let machine = Machine::new();
    machine.configure(&owner());
    let mut command = machine.command(&["run"]);
    say(command.env("PLANCTON_CONFIG_URL", "ftp://x")).must(78, &["PLANCTON_CONFIG_URL"]);
    let mut child = command
        .env("PLANCTON_CONFIG_URL", page(&site))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_so = becomes(PATIENCE, || {
        machine.pilots().len() == 3 && machine.problems().contains("'bad'")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_so, "{}", machine.problems());
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

fn tool(scratch: &Scratch, line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    say(command.args(words).current_dir(&scratch.0)).must(0, &[]);
}

impl Secure {
    /// `days` from now its certificate ends; negative: it has. It shows the certificate of `who`: `site`, or the `ca` itself.
    fn new(days: i32, who: &str) -> Secure {
        let scratch = Scratch::new();
        scratch.file(
            "ext",
            "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n",
        );
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for line in [
            format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=ca"),
            format!("req {key} -keyout site.key -out csr -subj /CN=site"),
            format!(
                "x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out site.crt -days {days}"
            ),
        ] {
            tool(&scratch, &format!("openssl {line}"));
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let files = format!("-key {who}.key -cert {who}.crt");
        let line = format!("s_server -HTTP -quiet {files} -accept 127.0.0.1:{port}");
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(&scratch.0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        let server = Secure {
            child,
            port,
            scratch,
        };
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
        server
    }

    fn page(&self, name: &str, head: &str, body: &str) {
        let length = body.len();
        self.scratch.file(
            name,
            format!("HTTP/1.0 {head}\r\nContent-Length: {length}\r\n\r\n{body}"),
        );
    }

    fn url(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.port)
    }

    fn allow(&self, more: &str) -> String {
        let ca = self.scratch.0.join("ca.crt");
        format!("{OWNER}[allow]\nca-file = {ca:?}\nrefresh = \"1s\"\n{more}")
    }
}

#[test]
fn https_certificates_and_redirects() {
    let [good, expired] = [2, -1].map(|days| Secure::new(days, "site"));
    let its_own = Secure::new(2, "ca");
    let machine = Machine::new();
    for (server, page, config, why) in [
        (&good, "loop", good.allow(""), "redirects"),
        (&good, "away", good.allow(""), "https"),
        (&good, "away", good.allow("plain-http = true\n"), "https"),
        (&good, "good", OWNER.to_owned(), "certificate"),
        (&good, "good", expired.allow(""), "certificate"),
        (&expired, "good", expired.allow(""), "expired"),
        (&its_own, "good", its_own.allow(""), "basicconstraints"),
    ] {
        machine.configure(&config);
        let said = join(&machine, &server.url(page));
        assert!(
            said.code == 1 && said.text().to_lowercase().contains(why),
            "{page}: {}",
            said.text()
        );
        assert!(!machine.path("state/remote").exists(), "{page}");
    }
    machine.configure(&good.allow(""));
    for page in ["good", "moved"] {
        join(&machine, &good.url(page)).must(0, &[]);
    }
    let kept = fs::metadata(machine.path("state/remote")).unwrap();
    assert_eq!(
        kept.permissions().mode() & 0o777,
        0o700,
        "a token may be in it"
    );
}

#[test]
fn what_is_not_signed_is_not_taken() {
    let scratch = Scratch::new();
    let keys = ["ours", "other"].map(|name| {
        tool(
            &scratch,
            &format!("minisign -G -W -p {name}.pub -s {name}.key"),
        );
        let public = read(scratch.0.join(format!("{name}.pub")));
        public.lines().nth(1).unwrap().to_owned()
    });
    let sign = |text: &str, key: &str| {
        scratch.file("text", text);
        tool(
            &scratch,
            &format!("minisign -S -W -s {key}.key -m text -x signature"),
        );
        fs::read_to_string(scratch.0.join("signature")).unwrap()
    };
    let site = WebServer::new();
    let publish = |text: &str, signature: &str| {
        let (text, signature) = (text.to_owned(), signature.to_owned());
        site.answer_raw(move |request, stream| -> Result<()> {
            let is_signature = request.line.contains(".minisig");
            respond(
                stream,
                200,
                "",
                if is_signature { &signature } else { &text },
            )
        });
    };
    let mut machine = Machine::new();
    machine.configure(&owner());
    let with_serial = |serial: u32| {
        format!(
            "serial = {serial}\n{}",
            project(&format!("max = {}", serial + 1))
        )
    };
    let (good, newer) = (with_serial(1), with_serial(2));
    let url = page(&site);
    let join = |machine: &Machine, key: &str| machine.say(&["join", "--yes", "--key", key, &url]);
    let wrong = [
        sign(&good, "other"),
        sign(&project(""), "ours"),
        "garbage".to_owned(),
        String::new(),
    ];
    for signature in &wrong {
        publish(&good, signature);
        join(&machine, &keys[0]).must(1, &[".minisig"]);
    }
    assert_eq!(join(&machine, "RWQnonsense").code, 64);
    publish(&good, &sign(&good, "ours"));
    join(&machine, &keys[0]).must(0, &[]);
    machine.run(&[]);
    machine.wait_for_pilots(2);
    let before = (remote(&machine)["hash"].clone(), machine.pilots());
    for signature in &wrong {
        publish(&newer, signature);
        machine.wait_problem(".minisig");
        assert_eq!((remote(&machine)["hash"].clone(), machine.pilots()), before);
        publish(&good, &sign(&good, "ours"));
        machine.wait_well();
    }
    publish(&newer, &sign(&newer, "ours"));
    machine.wait_for_pilots(3);
    // Whoever replays an old one, or signs without counting, changes nothing.
    for text in [good, project("max = 1")] {
        publish(&text, &sign(&text, "ours"));
        machine.wait_problem("is not above 2");
        join(&machine, &keys[0]).must(1, &["is not above 2"]);
        assert_eq!(machine.pilots().len(), 3);
    }
}
