//! The client against a scripted fake: a thread that answers each request of each connection with the bytes it was given.

use super::*;
use crate::units::PilotId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Nothing in these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(5);
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Fake {
    directory: PathBuf,
    thread: JoinHandle<Vec<String>>,
}

/// An answer to one request. Behind the last one the connection is closed; an empty one sends nothing.
type Script = Vec<Vec<String>>;

impl Fake {
    /// One list of answers a connection, in order.
    fn start(script: &[&[&str]]) -> (Fake, Engine) {
        let directory = new_directory();
        let socket = directory.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let owned = |answers: &&[&str]| answers.iter().map(|a| (*a).to_owned()).collect();
        let script: Script = script.iter().map(owned).collect();
        let thread = std::thread::spawn(move || serve(&listener, script));
        let engine = Engine::new(socket, PATIENCE);
        (Fake { directory, thread }, engine)
    }

    /// The request lines it saw.
    fn finish(self) -> Vec<String> {
        let requests = self.thread.join().unwrap();
        std::fs::remove_dir_all(self.directory).unwrap();
        requests
    }
}

fn new_directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("plancton-engine-{}-{count}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn serve(listener: &UnixListener, script: Script) -> Vec<String> {
    let mut requests = Vec::new();
    for answers in script {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "nobody connects");
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for answer in answers {
            let Some(request) = read_request(&mut stream) else {
                break;
            };
            requests.push(request);
            match answer.as_str() {
                // Holds the connection, silent, until the client leaves.
                "STALL" => assert_eq!(read_request(&mut stream), None),
                text => stream.write_all(text.as_bytes()).unwrap(),
            }
        }
    }
    requests
}

/// The request line, with what follows it read too; `None` when the client is gone.
fn read_request(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    let line = head.lines().next().unwrap();
    Some(line.trim_end_matches(" HTTP/1.1").to_owned())
}

const PING: &str =
    "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nServer: Fake/1\r\nContent-Length: 2\r\n\r\n";
const NONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn answer(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn refusal(status: u16, message: &str) -> String {
    answer(status, &format!(r#"{{"message":"{message}"}}"#))
}

fn id() -> PilotId {
    PilotId::new(ID).unwrap()
}

fn stalled(engine: &Engine) -> Engine {
    Engine::new(engine.socket(), Duration::from_millis(200))
}

#[test]
fn versions_are_negotiated() {
    for (header, version) in [
        ("Api-Version: 1.41\r\n", "v1.41"),
        ("API-VERSION: 1.54\r\n", "v1.47"),
        ("", "v1.47"),
    ] {
        let ping = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: 2\r\n\r\n");
        let (fake, engine) = Fake::start(&[&[
            &ping,
            &answer(200, r#"{"ServerVersion":"1"}"#),
            &answer(200, "[]"),
        ]]);
        assert!(engine.info().is_ok() && engine.info().is_err());
        let path = format!("GET /{version}/info");
        assert_eq!(fake.finish(), ["HEAD /_ping", &path, &path]);
        assert_eq!(engine.counters().calls, 3);
    }
}

#[test]
fn ping_falls_back_to_get() {
    let get = format!("{PING}OK");
    let (fake, engine) = Fake::start(&[&["HTTP/1.1 405 X\r\n\r\n", &get]]);
    let ping = engine.ping().unwrap();
    assert_eq!(
        (ping.api_version.to_string(), ping.server.as_str()),
        ("1.41".into(), "Fake/1")
    );
    assert_eq!(fake.finish(), ["HEAD /_ping", "GET /_ping"]);
}

#[test]
fn engines_too_old_or_too_new() {
    let old = "HTTP/1.1 200 OK\r\nApi-Version: 1.30\r\n\r\n";
    let (fake, engine) = Fake::start(&[&[old]]);
    let error = engine.list().unwrap_err();
    assert!(matches!(error.fault, Fault::Version(_)) && error.is_unreachable());
    assert!(error.to_string().contains("1.30"), "{error}");
    fake.finish();

    let refused = refusal(
        400,
        "client version 1.41 is too old. Minimum supported API version is 1.60",
    );
    let (fake, engine) = Fake::start(&[&[PING, &refused, PING, &answer(200, "[]")]]);
    let error = engine.list().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("Minimum supported API version is 1.60"),
        "{error}"
    );
    assert_eq!(*lock(&engine.version), None);
    assert_eq!(engine.list(), Ok(Vec::new()));
    assert_eq!(fake.finish().len(), 4);
}

#[test]
fn a_dead_kept_connection_is_retried_once() {
    // The second request is read and dropped without an answer: the fake closes behind an empty one.
    let (fake, engine) = Fake::start(&[&[PING, ""], &[NONE]]);
    assert_eq!(engine.start(&id()), Ok(Outcome::Done));
    let start = format!("POST /v1.41/containers/{ID}/start");
    assert_eq!(fake.finish(), ["HEAD /_ping", &start, &start]);

    // Once: a fresh connection that dies too is an error.
    let (fake, engine) = Fake::start(&[&[PING, ""], &[""]]);
    let error = engine.start(&id()).unwrap_err();
    assert!(error.reply_lost() && !error.is_unreachable(), "{error}");
    assert_eq!(fake.finish().len(), 3);
}

#[test]
fn a_lost_create_is_not_repeated() {
    let (fake, engine) = Fake::start(&[&[PING], &[""]]);
    let error = engine
        .create("plancton-x", &serde_json::json!({}))
        .unwrap_err();
    assert!(error.reply_lost(), "{error}");
    let requests = fake.finish();
    assert_eq!(
        requests,
        [
            "HEAD /_ping",
            "POST /v1.41/containers/create?name=plancton-x"
        ]
    );
}

#[test]
fn a_cut_answer_is_an_error() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[]";
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n";
    for cut in [head, chunk, "HTTP/1.1 200"] {
        let (fake, engine) = Fake::start(&[&[PING, cut]]);
        let error = engine.list().unwrap_err();
        assert!(matches!(error.fault, Fault::Truncated(_)), "{error}");
        assert_eq!(fake.finish().len(), 2);
    }
}

#[test]
fn a_chunked_list_is_checked_again() {
    let ours = format!(r#"{{"Id":"{ID}","Labels":{{"io.plancton.instance":"system"}}}}"#);
    let list = format!(r#"[{ours},{{"Id":"{ID}","Labels":null}}]"#);
    let (first, second) = list.split_at(20);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    let (fake, engine) = Fake::start(&[&[PING, &chunked, &answer(200, r#"[{"Id":"?"}]"#)]]);
    assert_eq!(engine.list().unwrap().len(), 1);
    assert!(matches!(
        engine.list().unwrap_err().fault,
        Fault::Garbage(_)
    ));
    let requests = fake.finish();
    let filter = "filters=%7B%22label%22%3A%5B%22io.plancton.instance%22%5D%7D";
    assert_eq!(
        requests[1],
        format!("GET /v1.41/containers/json?all=1&{filter}")
    );
}

#[test]
fn a_stall_ends_at_the_deadline() {
    for stall in [&["STALL"][..], &[PING, "STALL"]] {
        let (fake, engine) = Fake::start(&[stall]);
        let engine = stalled(&engine);
        let begun = Instant::now();
        let error = engine.list().unwrap_err();
        let took = begun.elapsed();
        assert!(
            matches!(error.fault, Fault::NoAnswer(_)) && error.reply_lost(),
            "{error}"
        );
        assert!(
            took >= Duration::from_millis(200) && took < Duration::from_secs(2),
            "{took:?}"
        );
        drop(engine);
        fake.finish();
    }
}

#[test]
fn a_full_backlog_ends_at_the_deadline() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let directory = new_directory();
    let path = directory.join("full.sock");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let engine = Engine::new(&path, Duration::from_millis(200));
    let error = engine.ping().unwrap_err();
    assert!(error.is_unreachable() && !error.reply_lost(), "{error}");
    assert!(
        error.to_string().ends_with("no connection within 200ms"),
        "{error}"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_not_an_engine() {
    let (fake, engine) = Fake::start(&[&["SSH-2.0-OpenSSH\r\n"]]);
    assert!(matches!(
        engine.list().unwrap_err().fault,
        Fault::NotAnEngine(_)
    ));
    fake.finish();
    let (fake, engine) = Fake::start(&[&["HTTP/1.1 404 X\r\n\r\n", &answer(404, "no")]]);
    let error = engine.list().unwrap_err();
    assert!(
        error.to_string().contains("/_ping has status 404"),
        "{error}"
    );
    fake.finish();

    let directory = new_directory();
    let plain = directory.join("plain");
    std::fs::write(&plain, "x").unwrap();
    let error = Engine::new(&plain, PATIENCE).ping().unwrap_err();
    assert!(matches!(error.fault, Fault::NotAnEngine(_)), "{error}");
    let error = Engine::new(directory.join("none"), PATIENCE)
        .ping()
        .unwrap_err();
    assert_eq!(error.fault, Fault::Missing, "{error}");
    let dead = directory.join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let error = Engine::new(&dead, PATIENCE).ping().unwrap_err();
    assert!(
        matches!(error.fault, Fault::Refused(_)) && error.is_unreachable(),
        "{error}"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

/// Plays each answer to one call and compares the outcome's debug text, or finds the words in the error.
fn table(call: impl Fn(&Engine) -> String, rows: &[(String, &str)]) {
    let mut answers = vec![PING];
    answers.extend(rows.iter().map(|(answer, _)| answer.as_str()));
    let (fake, engine) = Fake::start(&[&answers]);
    for (answer, outcome) in rows {
        assert_eq!(call(&engine), *outcome, "{answer}");
    }
    assert_eq!(fake.finish().len(), answers.len());
}

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(outcome) => format!("{outcome:?}"),
        Err(Error {
            fault: Fault::Status(code, message),
            ..
        }) => format!("{code}: {message}"),
        Err(other) => format!("{other:?}"),
    }
}

#[test]
fn outcomes_of_start_kill_and_pause() {
    let gone = || refusal(404, &format!("No such container: {ID}"));
    table(
        |engine| text(engine.start(&id())),
        &[
            (NONE.to_owned(), "Done"),
            ("HTTP/1.1 304 X\r\n\r\n".to_owned(), "Done"),
            (refusal(409, "paused"), r#"Busy("paused")"#),
            (gone(), "Gone"),
            (answer(404, "page not found\n"), "404: page not found"),
            (
                refusal(404, "network x not found"),
                "404: network x not found",
            ),
            (answer(500, ""), "500: refused without a reason"),
        ],
    );
    table(
        |engine| text(engine.kill(&id(), "TERM")),
        &[
            (NONE.to_owned(), "Done"),
            (refusal(409, "is not running"), r#"Busy("is not running")"#),
            (gone(), "Gone"),
            (refusal(500, "broken"), "500: broken"),
        ],
    );
    table(
        |engine| text(engine.unpause(&id())),
        &[
            (
                refusal(500, "Container x is not paused"),
                r#"Busy("Container x is not paused")"#,
            ),
            (NONE.to_owned(), "Done"),
        ],
    );
}

#[test]
fn outcomes_of_remove_and_inspect() {
    let gone = || refusal(404, &format!("No such container: {ID}"));
    table(
        |engine| text(engine.remove(&id())),
        &[
            (NONE.to_owned(), "Done"),
            (answer(200, "[]"), "Done"),
            (gone(), "Done"),
            (
                refusal(409, "removal of container x is already in progress"),
                "Done",
            ),
            (
                refusal(409, "You cannot remove a running container"),
                r#"Busy("You cannot remove a running container")"#,
            ),
            (refusal(500, "device busy"), r#"Busy("device busy")"#),
            (refusal(400, "bad"), "400: bad"),
        ],
    );
    table(
        |engine| text(engine.inspect(&id()).map(|found| found.is_some())),
        &[
            (answer(200, &format!(r#"{{"Id":"{ID}"}}"#)), "true"),
            (gone(), "false"),
            (answer(404, "page not found"), "404: page not found"),
            (refusal(500, "x"), "500: x"),
        ],
    );
}

#[test]
fn outcomes_of_create() {
    let created = answer(201, &format!(r#"{{"Id":"{ID}","Warnings":["no swap"]}}"#));
    for (answer, outcome) in [
        (
            created,
            format!(r#"Created {{ id: PilotId("{ID}"), warnings: ["no swap"] }}"#),
        ),
        (
            refusal(409, "Conflict. The name is in use"),
            "NameTaken".to_owned(),
        ),
        (
            refusal(500, "the name x is already in use by y"),
            "NameTaken".to_owned(),
        ),
        (
            refusal(404, "No such image: x:latest"),
            "NoImage".to_owned(),
        ),
        (
            refusal(400, "minimum memory limit is 6MB"),
            "400: minimum memory limit is 6MB".to_owned(),
        ),
    ] {
        let (fake, engine) = Fake::start(&[&[PING], &[&answer]]);
        assert_eq!(
            text(engine.create("n", &serde_json::json!({"Image": "x"}))),
            outcome
        );
        fake.finish();
    }
}

#[test]
fn pulls() {
    let found = answer(200, r#"{"Id":"sha256:1","RepoTags":["h:5000/x:2"]}"#);
    let failed = "{\"status\":\"Pulling\",\"id\":\"2\"}\r\n{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"e\"}\r\n";
    let progress = r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"l"}"#;
    let missing = refusal(404, "No such image: h:5000/x:2");
    for (stream, inspect, outcome) in [
        (answer(200, progress), Some(&found), "sha256:1"),
        (
            answer(200, progress),
            Some(&missing),
            "the image is not there",
        ),
        (answer(200, failed), None, "manifest unknown"),
        (answer(200, r#"{"message":"no route"}"#), None, "no route"),
        (
            answer(200, r#"{"status":"x"#),
            None,
            "cut off in its last object",
        ),
        (
            refusal(429, "toomanyrequests"),
            None,
            "toomanyrequests (status 429)",
        ),
    ] {
        let mut second = vec![stream.as_str()];
        second.extend(inspect.map(String::as_str));
        let (fake, engine) = Fake::start(&[&[PING], &second]);
        let mut seen = Vec::new();
        let result = engine.pull("h:5000/x", "2", None, &mut |p| {
            seen.push(p.clone());
            Ok(())
        });
        let text = result.map_or_else(|error| error.to_string(), |image| image.id);
        assert!(text.contains(outcome), "{text}");
        assert_eq!(
            seen.iter().any(|p| p.total == Some(2)),
            stream.contains("Downloading")
        );
        let path = "POST /v1.41/images/create?fromImage=h%3A5000%2Fx&tag=2";
        assert!(fake.finish().contains(&path.to_owned()));
    }
}

#[test]
fn imports_are_named_afterwards_where_the_tag_was_ignored() {
    let stream = answer(200, r#"{"status":"sha256:1"}"#);
    let image = answer(200, r#"{"Id":"sha256:1"}"#);
    let missing = refusal(404, "No such image: r:t");
    let tagged = answer(201, "");
    let (fake, engine) = Fake::start(&[&[PING], &[&stream, &missing, &tagged, &image]]);
    let imported = engine
        .import("r", "t", &["CMD [\"/x\"]"], &[7; 200_000])
        .unwrap();
    assert_eq!(imported.id, "sha256:1");
    let requests = fake.finish();
    assert_eq!(
        requests[1],
        "POST /v1.41/images/create?fromSrc=-&repo=r&tag=t&changes=CMD%20%5B%22%2Fx%22%5D"
    );
    assert_eq!(requests[3], "POST /v1.41/images/sha256:1/tag?repo=r&tag=t");
}

#[test]
fn events_do_not_block() {
    let event = format!(
        r#"{{"Type":"container","Action":"die","Actor":{{"ID":"{ID}","Attributes":{{"io.plancton.instance":"system"}}}}}}"#
    );
    let (first, second) = event.split_at(30);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let stream = format!("{head}{}{}", chunk(first), chunk(second));
    for (answer, end) in [
        (stream, "the engine ended the stream"),
        (refusal(500, "no"), "(status 500)"),
    ] {
        let (fake, engine) = Fake::start(&[&[PING], &[&answer]]);
        let mut events = EventStream::open(&engine).unwrap();
        let (mut seen, begun) = (Vec::new(), Instant::now());
        let error = loop {
            assert!(begun.elapsed() < PATIENCE);
            match events.read() {
                Ok(more) => seen.extend(more),
                Err(error) => break error,
            }
        };
        assert_eq!(
            seen.iter().filter(|id| *id == ID).count(),
            usize::from(answer.contains("die"))
        );
        assert!(error.to_string().contains(end), "{error}");
        assert!(fake.finish()[1].starts_with("GET /v1.41/events?filters=%7B"));
    }
    let (fake, engine) = Fake::start(&[&[PING], &["STALL"]]);
    let mut events = EventStream::open(&engine).unwrap();
    assert_eq!(events.read(), Ok(Vec::new()));
    drop((events, engine));
    fake.finish();
}

#[test]
fn logs_without_their_framing() {
    let log = "\u{1}\0\0\0\0\0\0\u{3}ab\n\u{2}\0\0\0\0\0\0\u{2}c\n";
    let (fake, engine) = Fake::start(&[&[PING, &answer(200, log)]]);
    assert_eq!(engine.logs(&id(), 5, 4), Ok(b"b\nc\n".to_vec()));
    assert!(fake.finish()[1].ends_with("/logs?stdout=1&stderr=1&tail=5"));
}
