//! The client against a scripted fake: a thread that answers each connection's request with the bytes it was given.

use super::*;
use crate::units::PilotId;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(5);
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PING: &str = "HTTP/1.1 200 OK\r\nAPI-Version: 1.41\r\nServer: Fake/1\r\n\r\nOK";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Holds the connection, silent, until the client leaves.
const STALL: &str = "STALL";

struct Fake {
    directory: PathBuf,
    thread: JoinHandle<Vec<String>>,
}

impl Fake {
    fn start(answers: &[&str]) -> (Fake, Engine) {
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

fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn refusal(status: u16, message: &str) -> String {
    answer(status, &format!(r#"{{"message":"{message}"}}"#))
}

fn id() -> PilotId {
    PilotId::new(ID).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.map_or_else(|error| error.to_string(), |outcome| format!("{outcome:?}"))
}

/// (answer, status, body)
const ANSWERS: [(&str, u16, &str); 5] = [
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
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}",
        409,
        "{}",
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
            assert_eq!(
                decode(first, second).unwrap(),
                (status, body.to_owned()),
                "{cut} of {answer}"
            );
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
        "\0\0\0",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\nX: {endless}"),
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
    let too_new = "client version 1.41 is too old. Minimum supported API version is 1.60";
    let (fake, engine) = Fake::start(&[PING, &refusal(400, too_new), PING, &answer(200, "[]")]);
    let error = engine.list().unwrap_err();
    assert!(
        error.is_unreachable() && error.to_string().contains("is 1.60"),
        "{error}"
    );
    assert_eq!(engine.list(), Ok(Vec::new()));
    assert_eq!(fake.finish().len(), 4);
}

#[test]
fn what_is_not_an_engine() {
    for (ping, why) in [
        ("SSH-2.0-OpenSSH\r\n", "not a container engine"),
        (&answer(404, "no"), "/_ping has status 404"),
        (
            "HTTP/1.1 200 OK\r\nApi-Version: 1.30\r\n\r\n",
            "speaks API 1.30",
        ),
        (
            "HTTP/1.1 200 OK\r\nApi-Version: one\r\n\r\n",
            "'one' is not an API version",
        ),
    ] {
        let (fake, engine) = Fake::start(&[ping]);
        let error = engine.list().unwrap_err();
        assert!(
            error.is_unreachable() && error.to_string().contains(why),
            "{error}"
        );
        fake.finish();
    }
}

#[test]
fn replies_that_are_lost() {
    let cut = format!("{CHUNKED}2\r\n[]\r\n");
    for lost in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[]",
        &cut,
        &answer(200, "{}"),
    ] {
        let (fake, engine) = Fake::start(&[PING, lost]);
        let error = engine.list().unwrap_err();
        assert!(error.reply_lost(), "{error}");
        assert_eq!(fake.finish().len(), 2, "nothing is asked twice");
    }
}

#[test]
fn a_stall_ends_at_the_deadline() {
    let allowed = Duration::from_millis(200);
    for stall in [&[STALL][..], &[PING, STALL]] {
        let (fake, engine) = Fake::start(stall);
        let begun = Instant::now();
        let error = Engine::new(engine.socket(), allowed).list().unwrap_err();
        let took = begun.elapsed();
        assert!(
            error.to_string().ends_with("no answer within 200ms") && error.reply_lost(),
            "{error}"
        );
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
    assert!(error.is_unreachable(), "{error}");
    assert!(
        error.to_string().ends_with("no connection within 200ms"),
        "{error}"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_list_of_each_engine_is_checked_again() {
    let docker = format!(
        r#"[{{"Id":"{ID}","Names":["/p"],"State":"running","Created":1700000000,"Image":"x","Ports":[],
        "Labels":{{"a":"b","io.plancton.instance":"system","io.plancton.stop-grace":"3"}}}},{{"Id":"{ID}","Labels":null}}]"#
    );
    let (first, second) = docker.split_at(20);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let docker = [CHUNKED, &chunk(first), &chunk(second), "0\r\n\r\n"].concat();
    let sparse =
        format!(r#"[{{"Id":"{ID}","Names":null,"Labels":{{"io.plancton.instance":""}}}}]"#);
    let (fake, engine) = Fake::start(&[
        PING,
        &docker,
        &answer(200, &sparse),
        &answer(200, r#"[{"Id":"../x"}]"#),
    ]);
    let listed = engine.list().unwrap();
    assert_eq!(
        (listed.len(), listed[0].names.clone()),
        (1, vec!["/p".to_owned()])
    );
    assert_eq!(
        (listed[0].created, listed[0].labels.grace.as_deref()),
        (Some(1.7e9), Some("3"))
    );
    let listed = engine.list().unwrap();
    assert_eq!(
        (listed.len(), listed[0].names.len(), listed[0].created),
        (1, 0, None)
    );
    assert!(engine.list().unwrap_err().reply_lost());
    let filter = "filters=%7B%22label%22%3A%5B%22io.plancton.instance%22%5D%7D";
    assert_eq!(
        fake.finish()[1],
        format!("GET /v1.41/containers/json?all=1&{filter}")
    );
}

/// The call, the status of its answer, the body (of a refusal: its message), and what comes of it.
const OUTCOMES: &str = r#"
start|204||Done
start|304||Done
start|404|No such container: x|Gone
start|404 plain|page not found|start 0123456789ab: page not found (status 404)
start|409|is\u001b[1m paused\u202e\n|Busy("is[1m paused")
start|500|Container x is not running|Busy("Container x is not running")
start|500||start 0123456789ab: refused without a reason (status 500)
remove|204||Done
remove|404|No such container: x|Done
remove|409|removal of x is already in progress|Done
remove|409|You cannot remove a running container|Busy("You cannot remove a running container")
remove|500|device busy|Busy("device busy")
remove|400|bad|remove 0123456789ab: bad (status 400)
inspect|404|No such container: x|None
inspect|404|page not found|inspect 0123456789ab: page not found (status 404)
create|201 plain|{"Id":"ID","Warnings":["no swap"]}|Created(Created { id: PilotId("ID"), warnings: ["no swap"] })
create|409|Conflict. The name is in use|NameTaken
create|500|the name x is already in use by y|NameTaken
create|404|No such image: x:latest|NoImage
create|400|minimum memory limit is 6MB|create n: minimum memory limit is 6MB (status 400)
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
        let (fake, engine) = Fake::start(&[PING, &answer]);
        let found = match what {
            "start" => text(engine.start(&id())),
            "remove" => text(engine.remove(&id())),
            "inspect" => text(engine.inspect(&id())),
            _ => text(engine.create("n", serde_json::json!({"Image": "x"}))),
        };
        let found = found
            .split_once("engine.sock: ")
            .map_or(&*found, |(_, found)| found);
        assert_eq!(found, outcome, "{row}");
        fake.finish();
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
    let docker = answer(200, r#"{"InitCommit":{"ID":"N/A"}}"#);
    let answers = [PING, &podman, &created, &docker, &created, &podman];
    let (fake, engine) = Fake::start(&answers);
    let create = || engine.create("n", serde_json::json!({"HostConfig": {"Init": true}}));
    assert!(create().is_ok());
    assert!(engine.info().unwrap().lacks_init() && create().is_ok());
    assert!(create().is_err(), "it is not asked again and again");
    assert_eq!(fake.finish().len(), answers.len());
}

#[test]
fn pulls() {
    let progress = r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"l"}{"status":"x"}"#;
    let failed = "{\"status\":\"Pulling\",\"id\":\"2\"}\r\n{\"errorDetail\":{\"message\":\"manifest\\u001b unknown\"},\"error\":\"e\"}\r\n";
    for (stream, outcome) in [
        (answer(200, progress), "()"),
        (answer(200, failed), "manifest unknown"),
        (answer(200, r#"{"error":"denied"}"#), "denied"),
        (answer(200, r#"{"message":"no route"}"#), "no route"),
        (
            answer(200, r#"{"status":"x"#),
            "connection lost: the answer is cut off",
        ),
        (
            refusal(429, "toomanyrequests"),
            "toomanyrequests (status 429)",
        ),
    ] {
        let (fake, engine) = Fake::start(&[PING, &stream]);
        let mut seen = Vec::new();
        let pulled = engine.pull("h:5000/x", "2", None, &mut |layer, current, total| {
            seen.push((layer.to_owned(), current, total));
            Ok(())
        });
        assert!(text(pulled).ends_with(outcome), "{outcome}");
        let downloaded = [("l".to_owned(), 1, 2)];
        assert_eq!(seen, downloaded[..usize::from(outcome == "()")]);
        let path = "POST /v1.41/images/create?fromImage=h%3A5000%2Fx&tag=2";
        assert_eq!(fake.finish()[1], path);
    }
}

#[test]
fn imports_are_named_afterwards_where_the_tag_was_ignored() {
    let stream = answer(200, r#"{"status":"sha256:1"}"#);
    let missing = refusal(404, "No such image: r:t");
    let (fake, engine) = Fake::start(&[PING, &stream, &missing, &answer(201, "")]);
    assert_eq!(
        engine.import("r", "t", &["CMD [\"/x\"]"], &[7; 200_000]),
        Ok(())
    );
    let requests = fake.finish();
    let create = "POST /v1.41/images/create?fromSrc=-&repo=r&tag=t&changes=CMD%20%5B%22%2Fx%22%5D";
    assert_eq!(requests[1], create);
    assert_eq!(requests[3], "POST /v1.41/images/sha256:1/tag?repo=r&tag=t");
}

#[test]
fn events_tell_of_the_ends_of_ours() {
    let event = |kind: &str, action: &str, label: &str| {
        format!(
            r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"{action}","Attributes":{{"{label}":""}}}}}}"#
        )
    };
    let stream = [
        event("container", "die", "io.plancton.instance"),
        event("container", "died", "io.plancton.instance"),
        event("container", "start", "io.plancton.instance"),
        event("image", "die", "io.plancton.instance"),
        event("container", "die", "other"),
    ]
    .concat();
    let (first, second) = stream.split_at(30);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let cut = [CHUNKED, &chunk(first), &chunk(second)].concat();
    for (answer, ends, error) in [
        (
            &*answer(200, &stream),
            2,
            "events: the engine ended the stream",
        ),
        (&cut, 2, "connection lost: the answer is cut off"),
        (&refusal(500, "no"), 0, "(status 500)"),
        (
            &answer(200, "{oops"),
            0,
            "unreadable answer: key must be a string at line 1 column 2",
        ),
    ] {
        let (fake, engine) = Fake::start(&[PING, answer]);
        let mut seen = Vec::new();
        let found = engine.follow_events(&mut |id| seen.push(id.to_owned()));
        assert_eq!(seen, ["die", "died"][..ends]);
        assert!(found.to_string().ends_with(error), "{found}");
        assert!(fake.finish()[1].starts_with("GET /v1.41/events?filters=%7B"));
    }
}
