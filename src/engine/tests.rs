//! The client against a scripted fake: a thread that answers each connection's request with the bytes it was given.

use super::*;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(5);
pub const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const PING: &str = "HTTP/1.1 200 OK\r\nAPI-Version: 1.41\r\nServer: Fake/1\r\n\r\nOK";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Holds the connection, silent, until the client leaves.
const STALL: &str = "STALL";

pub struct Fake {
    directory: PathBuf,
    thread: JoinHandle<Vec<String>>,
}

impl Fake {
    pub fn start(answers: &[&str]) -> (Fake, Engine) {
        let directory = new_directory();
        let socket = directory.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers: Vec<String> = answers.iter().map(|text| (*text).to_owned()).collect();
        let serve = move |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = read_request(&mut stream);
            match answer.as_str() {
                STALL => assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0),
                text => stream.write_all(text.as_bytes()).unwrap(),
            }
            request
        };
        let thread = std::thread::spawn(|| answers.into_iter().map(serve).collect());
        (Fake { directory, thread }, Engine::new(socket, PATIENCE))
    }

    /// The request lines it saw.
    pub fn finish(self) -> Vec<String> {
        let requests = self.thread.join().unwrap();
        std::fs::remove_dir_all(self.directory).unwrap();
        requests
    }
}

/// What `ask` brings when the engine answers with this, after a ping; and the request line.
fn with_answer<T>(answer: &str, ask: impl FnOnce(&Engine) -> T) -> (T, String) {
    let (fake, engine) = Fake::start(&[PING, answer]);
    let found = ask(&engine);
    (found, fake.finish().remove(1))
}

fn new_directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("plancton-engine-{}-{count}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// The request line; the body is read too.
fn read_request(stream: &mut UnixStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("\r\nHost: localhost\r\n") && head.contains("Connection: close\r\n"));
    let (_, length) = head.split_once("Content-Length: ").unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let line = head.lines().next().unwrap();
    line.trim_end_matches(" HTTP/1.1").to_owned()
}

pub fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}")
}

pub fn refusal(status: u16, message: &str) -> String {
    answer(status, &format!(r#"{{"message":"{message}"}}"#))
}

fn in_two_chunks(text: &str, cut: usize) -> String {
    let (first, second) = text.split_at(cut);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    [CHUNKED, &chunk(first), &chunk(second)].concat()
}

fn id() -> PilotId {
    PilotId::new(ID).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.map_or_else(|error| error.to_string(), |outcome| format!("{outcome:?}"))
}

/// (answer, status, body)
const ANSWERS: [(&str, u16, &str); 4] = [
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nApi-Version: 1.41\r\n\r\nhello",
        200,
        "hello",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n002\r\nlo\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        200,
        "hello",
    ),
    (
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        204,
        "",
    ),
    ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK", 200, "OK"),
];

fn decode(first: &[u8], second: &[u8]) -> io::Result<(u16, String)> {
    let (mut answer, mut body) = (Answer::receive(first.chain(second))?, String::new());
    answer.read_to_string(&mut body)?;
    Ok((answer.status, body))
}

#[test]
fn every_split_gives_the_same_and_every_prefix_is_an_error() {
    for (answer, status, body) in ANSWERS {
        for cut in 0..=answer.len() {
            let (first, second) = answer.as_bytes().split_at(cut);
            let whole = decode(first, second).unwrap();
            assert_eq!(whole, (status, body.to_owned()), "{cut} of {answer}");
            if cut < answer.len() {
                let error = decode(first, b"").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{cut} of {answer}");
            }
        }
    }
    let until_close = decode(b"HTTP/1.1 200 OK\r\n\r\nab", b"c").unwrap();
    assert_eq!(until_close, (200, "abc".to_owned()));
}

#[test]
fn garbage_is_told_from_an_end() {
    let endless = "x".repeat(70_000);
    for bad in [
        "SSH-2.0-x\r\n",
        "\0\0\0\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\nX: {endless}"),
        &format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(99)),
        &format!("{CHUNKED}x\r\n"),
        &format!("{CHUNKED}\r\n"),
        &format!("{CHUNKED}1\nx"),
        &format!("{CHUNKED}1\r\nxy\r\n"),
        &format!("{CHUNKED}-1\r\n"),
        &format!("{CHUNKED}1;{endless}"),
        &format!("{CHUNKED}fffffffffffffffff\r\n"),
    ] {
        let error = decode(bad.as_bytes(), b"").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{bad:.60}");
    }
}

#[test]
fn versions_are_negotiated() {
    for (header, version) in [
        ("Api-Version: 1.41\r\n", "v1.41"),
        ("API-VERSION: 1.54\r\n", "v1.47"),
        ("", "v1.47"),
    ] {
        let ping = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: 2\r\n\r\nOK");
        let info = answer(200, r#"{"ServerVersion":"1","SecurityOptions":null}"#);
        let (fake, engine) = Fake::start(&[&ping, &info, &answer(200, "null")]);
        assert!(engine.info().is_ok() && engine.info().is_err());
        let path = format!("GET /{version}/info");
        assert_eq!(fake.finish(), ["GET /_ping", &path, &path]);
        assert_eq!(engine.counters().calls, 3);
    }
}

#[test]
fn what_is_not_an_engine() {
    for (ping, why) in [
        ("SSH-2.0-OpenSSH\r\n", "not a container engine"),
        ("HTTP/1.1 200 OK\r\nApi-Version: 1.30\r\n\r\n", "API '1.30'"),
        ("HTTP/1.1 200 OK\r\nApi-Version: one\r\n\r\n", "API 'one'"),
    ] {
        let (fake, engine) = Fake::start(&[ping]);
        let error = engine.list().unwrap_err();
        assert!(
            matches!(&error, Error::Unreachable(text) if text.contains(why)),
            "{error}"
        );
        fake.finish();
    }
}

#[test]
fn replies_that_are_lost() {
    for lost in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[]",
        &format!("{CHUNKED}2\r\n[]\r\n"),
        &answer(200, "{}"),
        &answer(200, r#"[{"Id":"../x"}]"#),
    ] {
        let (fake, engine) = Fake::start(&[PING, lost]);
        let error = engine.list().unwrap_err();
        assert!(matches!(error, Error::ReplyLost(_)), "{error}");
        assert_eq!(fake.finish().len(), 2, "nothing is asked twice");
    }
}

#[test]
fn a_stall_ends_at_the_deadline() {
    let allowed = Duration::from_millis(200);
    for stall in [&[STALL][..], &[PING, STALL]] {
        let (fake, engine) = Fake::start(stall);
        let begun = Instant::now();
        let error = Engine::new(&engine.socket, allowed).list().unwrap_err();
        let took = begun.elapsed();
        assert!(error.to_string().ends_with("no answer within 200ms"));
        assert!(matches!(error, Error::ReplyLost(_)));
        assert!(took >= allowed && took < Duration::from_secs(2), "{took:?}");
        fake.finish();
    }
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let directory = new_directory();
    let path = directory.join("full.sock");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let error = Engine::new(&path, allowed).ping().unwrap_err();
    assert!(matches!(error, Error::Unreachable(why) if why.contains("no connection in time")));
    std::fs::remove_dir_all(directory).unwrap();
}

/// A byte now and then keeps nobody waiting for longer than twice the deadline.
#[test]
fn a_drip_ends_at_the_deadline() {
    let directory = new_directory();
    let listener = UnixListener::bind(directory.join("s")).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let bytes = PING.bytes().cycle();
        let is_open = |byte| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&[byte]).is_ok()
        };
        bytes.map(is_open).take_while(|open| *open).count()
    });
    let error = Engine::new(directory.join("s"), Duration::from_millis(100)).ping();
    assert!(matches!(error, Err(Error::ReplyLost(_))), "{error:?}");
    assert!(thread.join().unwrap() < 50);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_list_of_each_engine_is_checked_again() {
    let docker = format!(
        r#"[{{"Id":"{ID}","Names":["/p"],"State":"running","Created":1700000000,"Image":"x","Ports":[],
        "Labels":{{"a":"b","io.plancton.instance":"system","io.plancton.stop-grace":"3"}}}},{{"Id":"{ID}","Labels":null}}]"#
    );
    let docker = in_two_chunks(&docker, 20) + "0\r\n\r\n";
    let sparse =
        format!(r#"[{{"Id":"{ID}","Names":null,"Labels":{{"io.plancton.instance":""}}}}]"#);
    for (answer, names, created, grace) in [
        (docker, &["/p"][..], Some(1.7e9), Some("3")),
        (answer(200, &sparse), &[], None, None),
    ] {
        let (listed, request) = with_answer(&answer, Engine::list);
        let [listed] = &listed.unwrap()[..] else {
            panic!("{answer}");
        };
        assert_eq!(listed.names, names);
        assert_eq!(
            (listed.created, listed.labels.grace.as_deref()),
            (created, grace)
        );
        let filter = "filters=%7B%22label%22:%5B%22io.plancton.instance%22%5D%7D";
        assert_eq!(
            request,
            format!("GET /v1.41/containers/json?all=1&{filter}")
        );
    }
}

/// The call, the status of its answer, the body (of a refusal: its message), and what comes of it.
const OUTCOMES: &str = r#"
start|204||()
start|304||()
start|404|No such container: x|start 0123456789ab: No such container: x (status 404)
start|500||start 0123456789ab: refused without a reason (status 500)
pause|204||()
pause|404|No such container: x|()
pause|404 plain|page not found|pause 0123456789ab: page not found (status 404)
pause|409|is\u001b[1m paused\u202e\n|()
pause|500|Container x is not running|()
pause|500|freezer\u001b is\u202e busy\n|pause 0123456789ab: freezer is busy (status 500)
remove|204||()
remove|404|No such container: x|()
remove|409|removal of x is already in progress|()
remove|409|You cannot remove a running container|remove 0123456789ab: You cannot remove a running container (status 409)
remove|400|bad|remove 0123456789ab: bad (status 400)
inspect|404|No such container: x|None
inspect|404|page not found|inspect 0123456789ab: page not found (status 404)
create|201 plain|{"Id":"ID","Warnings":["no swap"]}|Some(Created { id: PilotId("ID"), warnings: ["no swap"] })
create|409|Conflict. The name is in use|create n: Conflict. The name is in use (status 409)
create|404|No such image: x:latest|None
create|404|page not found|create n: page not found (status 404)
"#;

#[test]
fn outcomes() {
    for row in OUTCOMES.replace("ID\"", &format!("{ID}\"")).trim().lines() {
        let [what, status, body, outcome] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let answer = match status.split_once(' ') {
            Some((status, _)) => answer(status.parse().unwrap(), body),
            None if body.is_empty() && status < "400" => format!("HTTP/1.1 {status} X\r\n\r\n"),
            None => refusal(status.parse().unwrap(), body),
        };
        let (found, _) = with_answer(&answer, |engine| match what {
            "start" => text(engine.start(&id())),
            "remove" => text(engine.remove(&id())),
            "inspect" => text(engine.inspect(&id())),
            "create" => text(engine.create("n", json!({"Image": "x"}))),
            what => text(engine.tell(&id(), what)),
        });
        let found = found.split("engine.sock: ").last().unwrap();
        assert_eq!(found, outcome, "{row}");
    }
}

#[test]
fn what_is_told_of_a_container() {
    let ended = r#""State":{"OOMKilled":true,"ExitCode":137,"StartedAt":"0001-01-01T00:00:00Z",
        "FinishedAt":"2015-01-06T17:47:31.5+02:00"},"Config":null"#;
    let ended = answer(200, &format!(r#"{{"Id":"{ID}",{ended}}}"#));
    let log = answer(200, "\u{1}\0\0\0\0\0\0\u{3}ab\n\u{2}\0\0\0\0\0\0\u{2}c\n");
    let (fake, engine) = Fake::start(&[PING, &ended, &log, &answer(200, "raw\u{1b}[1m")]);
    let state = engine.inspect(&id()).unwrap().unwrap().state;
    assert!(state.oom_killed && !state.running && state.exit_code == 137);
    let times = (state.started_at, state.finished_at);
    assert_eq!(times, (None, Some(1_420_559_251.5)));
    assert_eq!(engine.logs(&id(), 5, 4).unwrap(), "b\nc\n");
    assert_eq!(engine.logs(&id(), 5, 9).unwrap(), "raw[1m");
    fake.finish();
}

#[test]
fn an_engine_without_its_init_program() {
    let podman = refusal(500, "lookup init binary: catatonit: not found");
    let created = answer(201, &format!(r#"{{"Id":"{ID}"}}"#));
    let answers = [PING, &podman, &created, &podman, &podman];
    let (fake, engine) = Fake::start(&answers);
    let create = || engine.create("n", json!({"HostConfig": {"Init": true}}));
    assert!(create().is_ok());
    assert!(create().is_err(), "it is not asked again and again");
    assert_eq!(fake.finish().len(), answers.len());
}

#[test]
fn pulls() {
    let progress = r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"l"}{"status":"x"}"#;
    let failed = "{\"status\":\"Pulling\",\"id\":\"2\"}\r\n{\"errorDetail\":{\"message\":\"manifest\\u001b unknown\"},\"error\":\"e\"}\r\n";
    let image = Image::parse("h:5000/x:2").unwrap();
    for (stream, outcome) in [
        (answer(200, progress), "()"),
        (answer(200, failed), "manifest unknown"),
        (answer(200, r#"{"error":"denied"}"#), "denied"),
        (answer(200, r#"{"message":"no route"}"#), "no route"),
        (answer(200, r#"{"status":"x"#), "the answer is cut off"),
        (
            refusal(429, "toomanyrequests"),
            "toomanyrequests (status 429)",
        ),
    ] {
        let mut seen = Vec::new();
        let mut told = |layer: &str, current, total| {
            seen.push((layer.to_owned(), current, total));
            Ok(())
        };
        let (pulled, request) = with_answer(&stream, |engine| engine.pull(&image, None, &mut told));
        assert!(text(pulled).ends_with(outcome), "{outcome}");
        let downloaded = [("l".to_owned(), 1, 2)];
        assert_eq!(seen, downloaded[..usize::from(outcome == "()")]);
        assert_eq!(
            request,
            "POST /v1.41/images/create?fromImage=h:5000/x&tag=2"
        );
    }
}

#[test]
fn imports_are_named_afterwards_because_the_tag_may_be_ignored() {
    let stream = answer(200, r#"{"status":"sha256:1"}"#);
    let (fake, engine) = Fake::start(&[PING, &stream, &answer(201, "")]);
    let imported = engine.import("r", "t", &["CMD [\"/x\"]"], &[7; 200_000]);
    assert_eq!(imported, Ok(()));
    let requests = fake.finish();
    let create = "POST /v1.41/images/create?fromSrc=-&repo=r&tag=t&changes=CMD%20%5B%22/x%22%5D";
    assert_eq!(requests[1], create);
    assert_eq!(requests[2], "POST /v1.41/images/sha256:1/tag?repo=r&tag=t");
}

#[test]
fn events_tell_of_the_ends_of_ours() {
    let event = |action: &str, label: &str| {
        format!(
            r#"{{"Action":"{action}","Actor":{{"ID":"{action}","Attributes":{{"{label}":""}}}}}}"#
        )
    };
    let stream = [
        event("die", "io.plancton.instance"),
        event("died", "io.plancton.instance"),
        event("start", "io.plancton.instance"),
        event("die", "other"),
    ]
    .concat();
    for (answer, ends, end) in [
        (answer(200, &stream), 2, "()"),
        (
            in_two_chunks(&stream, 30),
            2,
            "connection lost: the answer is cut off",
        ),
        (refusal(500, "no"), 0, "(status 500)"),
        (
            answer(200, "{oops"),
            0,
            "key must be a string at line 1 column 2",
        ),
    ] {
        let mut seen = Vec::new();
        let mut on_end = |id: &str| seen.push(id.to_owned());
        let (found, request) = with_answer(&answer, |engine| engine.follow_events(&mut on_end));
        assert_eq!(seen, ["die", "died"][..ends]);
        assert!(text(found).ends_with(end), "{end}");
        assert!(request.starts_with("GET /v1.41/events?filters=%7B"));
    }
}
