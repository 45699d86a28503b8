//! The real binary and web servers that publish configurations, good and hostile ones: what is joined runs, what was not
//! consented to changes nothing and is named in `status`, and a server that is away takes nothing from anybody.

use crate::common::influx::{EC_KEY, free_port};
use crate::common::web::{WebServer, reply};
use crate::common::*;
use std::net::TcpStream;

const OWNER: &str = "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n";
const TARGET: &str = "[[influxdb]]\nurl = \"http://127.0.0.1:9#d\"\n";

/// As a project publishes it.
fn project(lines: &str) -> String {
    let class = "name = \"sci\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"";
    format!("[[pilot]]\n{class}\n{lines}\n")
}

fn owner() -> String {
    format!("{OWNER}[allow]\nplain-http = true\nrefresh = \"1s\"\n")
}

/// Of an owner who has not joined.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.configure(&owner());
    machine
}

fn page(site: &WebServer) -> String {
    site.url() + "/plancton.toml"
}

fn join(machine: &Machine, url: &str) -> Said {
    machine.say(&format!("join --yes {url}"))
}

/// Three of its pilots run.
fn joined(site: &WebServer) -> Machine {
    let mut machine = machine();
    join(&machine, &page(site)).must(0, &[]);
    machine.run("");
    machine.wait_for_pilots(3);
    machine
}

fn hash(machine: &Machine) -> Value {
    machine.status()["remote"]["hash"].clone()
}

#[test]
fn nobody_joins_unasked() {
    let site = WebServer::site(&(project("") + TARGET));
    let machine = machine();
    // Nobody is there to be asked, and nothing happens.
    let shown = "fake docker.io http://127.0.0.1:9#d 'sci' 64MiB --yes";
    let shown: Vec<&str> = shown.split(' ').collect();
    let join_it = format!("join {}", page(&site));
    machine.say(&join_it).must(64, &shown);
    machine.configure(OWNER);
    for url in "http://127.0.0.1/x https://u:p@h/x file:///etc/passwd https://".split(' ') {
        join(&machine, url).must(64, &[]);
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
    machine.until(|| hash(&machine).is_string());
    let first = hash(&machine);
    assert_eq!(first.as_str().map(str::len), Some(16));
    machine.until(|| site.requests().len() >= 3);
    assert!(machine.say("check").out.contains(&page(&site)));
    machine.say("config").must(0, &["sci"]);
    machine.say("status").must(0, &[first.as_str().unwrap()]);

    // A change reaches the daemon within `refresh`, and touches no pilot.
    let running = machine.pilots();
    site.publish(&(project("env = { NEW = \"1\" }\nmax = 2") + TARGET));
    machine.until(|| hash(&machine) != first);
    assert_eq!(machine.pilots(), running);
    machine.engine.ends(&running, 0);
    machine.wait_for_pilots(2);
    for id in machine.pilots() {
        let env = machine.engine.world().find(&id).unwrap().body["Env"].to_string();
        assert!(env.contains("NEW=1"), "{env}");
    }

    // What is left is forgotten, and its pilots go on to their end.
    let left = machine.pilots();
    machine.done("leave");
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
    // Lines of the class, or tables after it, and what is named.
    const LINES: &str = r#"privileged = true | privileged
        mounts = ["/:/host:rw"] | /:/host:rw
        mounts = ["/var/run/docker.sock:/s"] | /var/run/docker.sock
        network = "host" | network host
        cap-add = ["SYS_ADMIN"] | SYS_ADMIN
        devices = ["/dev/mem"] | /dev/mem
        host-config = { PidMode = "host" } | PidMode
        files = [{ source = "/etc/shadow", target = "/s" }] | /etc/shadow
        user = "0" | root
        [[influxdb]]; url = "http://evil.example#d" | http://evil.example#d
        [[influxdb]]; url = "http://e#d"; user = "u"; password-file = "/etc/shadow" | /etc/shadow
        [share]; cpus = 1000; max-pilots = 10000 | cpus:
        [allow]; privileged = true | privileged: 
        max = 10000; [engine]; socket = "/tmp/evil" | socket: 
        unheard-of = 1 | unheard-of"#;
    let lines = LINES.lines().map(|line| {
        let (text, named) = line.trim_start().split_once(" | ").unwrap();
        (project(&text.replace("; ", "\n")), named)
    });
    let other = project("").replace("fake:1", "evil.example/fake:1");
    let cases = lines.chain([
        (other, "evil.example/fake"),
        ((0..10_000).map(class).collect(), "64 KiB"),
        ((0..33).map(class).collect(), "32"),
        ("\0\u{1b}[2J[[[".repeat(9), "TOML"),
    ]);
    const NEVER: &str =
        "\"Privileged\":true|\"PidMode\":\"host\"|SYS_ADMIN|/dev/mem|shadow|docker.sock";
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
            assert_eq!(container.body["Image"], "fake:1");
            assert_eq!(host["NetworkMode"], "bridge");
            let told = host.to_string();
            let mut never = NEVER.split('|');
            assert!(!never.any(|never| told.contains(never)), "{told}");
        }
        drop(world);
        assert!(!machine.status()["sinks"].to_string().contains("evil"));
        assert!(!machine.log().contains('\u{1b}'));
    });
}

/// What goes wrong on the way is said, and what was joined stays in force.
#[test]
fn hostile_servers() {
    // What is said of it, and the answer; of what is too long more is written than anybody may read.
    const ANSWERS: &str = "status 503:503 Busy|Content-Length: 0|
        status 404:404 No|Content-Length: 0|
        redirects:302 Found|Location: http://127.0.0.1:1/|Content-Length: 0|
        no more than:200 OK|Content-Length: 5000||[[pilot]]
        no more than:200 OK|Transfer-Encoding: chunked||ff|[[pilot]]
        how long:200 OK||[[pilot]]
        64 KiB:200 OK|Content-Length: 1073741824|
        UTF-8:200 OK|Content-Length: 2||\u{ff}\u{fe}
        http:garbage";
    at_once(ANSWERS.lines(), |line| {
        let (named, answer) = line.trim().split_once(':').unwrap();
        let site = WebServer::site(&project(""));
        let mut machine = joined(&site);
        let before = (machine.pilots(), hash(&machine));
        let head = if named == "http" {
            "\0\0\0 "
        } else {
            "HTTP/1.1 "
        };
        let text = format!("{head}{}\r\n", answer.replace('|', "\r\n"));
        // Each character is a byte.
        let mut bytes: Vec<u8> = text.chars().map(|letter| letter as u8).collect();
        bytes.extend(vec![b'#'; if named == "64 KiB" { 16 << 20 } else { 0 }]);
        site.answer(move |_| Some(bytes.clone()));
        machine.wait_problem(&page(&site));
        machine.wait_problem(named);
        assert_eq!((machine.pilots(), hash(&machine)), before);
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
    let line = format!("join {}", page(&site));
    machine.say(&line).must(64, &["evil.example/fake"]);
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
    let mut machine = machine();
    join(&machine, &page(&site)).must(0, &["max-pilots = 1"]);
    machine.run("");
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
    site.answer(|_| Some(Vec::new()));
    machine.wait_problem(&page(&site));
    machine.crash();
    let before = machine.pilots();
    machine.run("");
    machine.wait_problem(&page(&site));
    assert_eq!(machine.pilots(), before);
    machine.end_one(0);
    machine.wait_count("done", 1);
    machine.wait_for_pilots(3);
    let looked = machine.status()["remote"]["looked"].as_f64().unwrap();
    let is_old = looked > 0.0 && looked < epoch() - 0.5;
    assert!(is_old, "it was not looked at since: {looked}");
    site.publish(&project("max = 2"));
    machine.wait_well();
}

/// As in a container: the address comes with the deployment, and with it the consent, but not what [allow] must name.
#[test]
fn a_url_from_the_environment() {
    let bad = project("privileged = true").replace("sci", "bad");
    let site = WebServer::site(&(project("") + &bad));
    let machine = machine();
    let mut command = machine.command("run");
    say(command.env("PLANCTON_CONFIG_URL", "ftp://x")).must(78, &["PLANCTON_CONFIG_URL"]);
    command.env("PLANCTON_CONFIG_URL", page(&site));
    let _daemon = Running::new(command.stderr(Stdio::null()));
    machine.wait_for_pilots(3);
    machine.wait_problem("'bad'");
}

/// `openssl s_server`, which sends whole answers from files.
struct Secure {
    url: String,
    scratch: Scratch,
    _server: Running,
}

impl Secure {
    /// `days` from now its certificate ends; negative: it has. It shows the certificate of `who`: `site`, or the `ca` itself.
    fn new(days: i32, who: &str) -> Secure {
        let scratch = Scratch::new();
        let extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";
        scratch.file("ext", extensions);
        let signed = "x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext";
        for line in [
            format!("req -x509 {EC_KEY} -keyout ca.key -out ca.crt -days 2 -subj /CN=ca"),
            format!("req {EC_KEY} -keyout site.key -out csr -subj /CN=site"),
            format!("{signed} -out site.crt -days {days}"),
        ] {
            scratch.tool(&format!("openssl {line}"));
        }
        let (port, files) = (free_port(), format!("-key {who}.key -cert {who}.crt"));
        let line = format!("s_server -HTTP -quiet {files} -accept 127.0.0.1:{port}");
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(&scratch.0);
        let server = Running::new(command.stdout(Stdio::null()).stderr(Stdio::null()));
        until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        let url = format!("https://127.0.0.1:{port}");
        for (name, location, body) in [
            ("good", String::new(), project("")),
            ("loop", format!("{url}/loop"), String::new()),
            ("away", "http://127.0.0.1:1/good".to_owned(), String::new()),
            ("moved", format!("{url}/good"), String::new()),
        ] {
            let (code, length) = (if location.is_empty() { 200 } else { 302 }, body.len());
            let head = format!("HTTP/1.0 {code} Status\r\nLocation: {location}");
            let answer = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
            scratch.file(name, answer);
        }
        Secure {
            url,
            scratch,
            _server: server,
        }
    }

    fn allow(&self, more: &str) -> String {
        let ca = self.scratch.0.join("ca.crt");
        format!("{OWNER}[allow]\nca-file = {ca:?}\nrefresh = \"1s\"\n{more}")
    }
}

#[test]
fn https_certificates_and_redirects() {
    if !is_here("openssl") {
        return skip("no openssl here");
    }
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
        let said = join(&machine, &format!("{}/{page}", server.url));
        let said = said.must(1, &[]).text().to_lowercase();
        assert!(said.contains(why), "{page}: {said}");
        assert!(!machine.path("state/remote").exists(), "{page}");
    }
    machine.configure(&good.allow(""));
    for page in ["good", "moved"] {
        join(&machine, &format!("{}/{page}", good.url)).must(0, &[]);
    }
    let kept = fs::metadata(machine.path("state/remote")).unwrap();
    assert_eq!(kept.mode() & 0o777, 0o700, "a token may be in it");
}

#[test]
fn what_is_not_signed_is_not_taken() {
    if !is_here("minisign") {
        return skip("no minisign here");
    }
    let scratch = Scratch::new();
    let keys = ["ours", "other"].map(|name| {
        scratch.tool(&format!("minisign -G -W -p {name}.pub -s {name}.key"));
        let public = read(scratch.0.join(format!("{name}.pub")));
        public.lines().nth(1).unwrap().to_owned()
    });
    let sign = |text: &str, key: &str| {
        scratch.file("text", text);
        scratch.tool(&format!("minisign -S -W -s {key}.key -m text -x signature"));
        fs::read_to_string(scratch.0.join("signature")).unwrap()
    };
    let site = WebServer::new();
    let publish = |text: &str, signature: &str| {
        let (text, signature) = (text.to_owned(), signature.to_owned());
        site.answer(move |request| match request.line.contains(".minisig") {
            true => reply(200, "", &signature),
            false => reply(200, "", &text),
        });
    };
    let mut machine = machine();
    let with_serial = |serial: u32| {
        let class = project(&format!("max = {}", serial + 1));
        format!("serial = {serial}\n{class}")
    };
    let (good, newer) = (with_serial(1), with_serial(2));
    let url = page(&site);
    let join = |machine: &Machine, key: &str| machine.say(&format!("join --yes --key {key} {url}"));
    let [foreign, of_other] = [sign(&good, "other"), sign(&project(""), "ours")];
    let wrong = [foreign, of_other, "garbage".to_owned(), String::new()];
    for signature in &wrong {
        publish(&good, signature);
        join(&machine, &keys[0]).must(1, &[".minisig"]);
    }
    join(&machine, "RWQnonsense").must(64, &[]);
    publish(&good, &sign(&good, "ours"));
    join(&machine, &keys[0]).must(0, &[]);
    machine.run("");
    machine.wait_for_pilots(2);
    let before = (hash(&machine), machine.pilots());
    for signature in &wrong {
        publish(&newer, signature);
        machine.wait_problem(".minisig");
        assert_eq!((hash(&machine), machine.pilots()), before);
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
