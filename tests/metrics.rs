//! The real binary and metrics targets that do everything wrong: what is sent, byte by byte, what becomes of it by the
//! server's answer, and that the loop never notices.
// threads: 16
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::web::{Reply, Request, TAKEN, WebServer};
use common::*;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Three pilots, and the lines of one target.
fn config(target: &str) -> String {
    format!(
        "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n{}",
        table(target)
    )
}

fn table(target: &str) -> String {
    format!("[[influxdb]]\nflush = \"1s\"\nhost-alias = \"h, 1\"\n{target}\n")
}

fn version_1(server: &WebServer) -> String {
    format!("url = \"{}\"\ndatabase = \"d\"", server.url())
}

fn running(target: &str) -> Machine {
    Machine::running(&config(target), 3)
}

/// Ends one pilot, and waits until it is learned of.
fn end_one(machine: &Machine, exit_code: i64) {
    let before = gone(machine);
    machine.end_one(exit_code);
    machine.until(|| gone(machine) > before && !machine.pilots().is_empty());
}

fn gone(machine: &Machine) -> usize {
    (machine.count("done") + machine.count("failed")) as usize
}

fn target(machine: &Machine, key: &str) -> u64 {
    machine.status()["sinks"][0][key].as_u64().unwrap_or(0)
}

#[track_caller]
fn all_distinct<T: Ord>(lines: &[T]) {
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len());
}

#[test]
fn version_2_byte_by_byte() {
    let server = WebServer::new();
    let lines = "org = \"my org\"\nbucket = \"b&c\"\ntoken = \"geheim\"";
    let machine = running(&format!("url = \"{}/path/\"\n{lines}", server.url()));
    end_one(&machine, 3);
    machine.until(|| server.lines("container").len() == 1);
    for request in server.requests() {
        assert_eq!(
            request.line,
            "POST /path/api/v2/write?org=my%20org&bucket=b%26c&precision=ns"
        );
        assert_eq!(request.header("authorization"), Some("Token geheim"));
        assert_eq!(
            request.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(request.header("host"), Some(server.host().as_str()));
        assert!(request.body.ends_with('\n') && !request.body.contains("\n\n"));
    }
    let gone = machine.status()["gone"][0].clone();
    let nanos = (gone["at"].as_f64().unwrap() * 1e6) as u64 * 1000;
    let expected = format!(
        "container,class=p,hostname=h\\,\\ 1,instance=t1,killed=False,kind=failed,started=True \
         uptime={},name=\"{}\",exit_code=3i {nanos}",
        gone["lived"].as_f64().unwrap(),
        gone["name"].as_str().unwrap()
    );
    assert_eq!(server.lines("container"), [expected]);
    for series in [
        "daemon",
        "measurement",
        "plancton_host",
        "plancton_pilots",
        "plancton_decision",
        "plancton_engine",
        "plancton_sink",
    ] {
        machine.until(|| !server.lines(series).is_empty());
        for line in server.lines(series) {
            assert!(line.contains("hostname=h\\,\\ 1,instance=t1"), "{line}");
            let at: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(at > 1_600_000_000_000_000_000, "nanoseconds: {line}");
        }
    }
}

#[test]
fn version_1_with_password_from_url_or_file() {
    let server = WebServer::new();
    let url = format!("url = \"http://us%65r:ge:heim@{}#d b\"", server.host());
    let machine = running(&(url + "\nretention-policy = \"r\""));
    machine.until(|| server.writes() > 0);
    let request = server.requests()[0].clone();
    assert_eq!(request.line, "POST /write?db=d%20b&rp=r&precision=ns");
    assert_eq!(
        request.header("authorization"),
        Some("Basic dXNlcjpnZTpoZWlt")
    );

    let server = WebServer::new();
    let mut machine = Machine::new();
    let file = machine.file("password", "geheim\n");
    let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o644);
    let login = format!("user = \"u\"\npassword-file = {file:?}");
    machine.start(&config(&format!("{}\n{login}", version_1(&server))));
    machine.wait_problem("chmod");
    assert_eq!(server.writes(), 0);
    allow(0o640);
    machine.until(|| server.writes() > 0);
    assert_eq!(
        server.requests()[0].header("authorization"),
        Some("Basic dTpnZWhlaW0=")
    );
    machine.wait_well();
}

/// Failures after which everything arrives all the same: whatever does not speak of the lines.
#[test]
fn what_is_kept_arrives() {
    let cases: [Reply; 11] = [
        Some((401, "", "{\"error\":\"authorization failed\"}")),
        Some((403, "", "")),
        Some((
            404,
            "",
            "{\"code\":\"not found\",\"message\":\"bucket not found\"}",
        )),
        Some((429, "Retry-After: 1\r\n", "")),
        Some((500, "", "oops")),
        Some((503, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "")),
        Some((302, "Location: http://127.0.0.1:1/\r\n", "")),
        // A path too many, a hotspot, a server that speaks https there, and whatever is no answer at all.
        Some((200, "", "{\"write\": \"/api/v2/write\"}")),
        Some((200, "", "<html>Please accept</html>")),
        Some((400, "", "Client sent an HTTP request to an HTTPS server.\n")),
        Some((418, "", "")),
    ];
    at_once(cases, |reply| {
        let server = WebServer::new();
        server.answer_raw(move |_, stream| {
            let (code, headers, body) = reply.unwrap();
            web::respond(stream, code, headers, body)
        });
        let machine = running(&format!("url = \"{}\"\nbucket = \"b\"", server.url()));
        [0, 3, 0]
            .iter()
            .for_each(|exit_code| end_one(&machine, *exit_code));
        machine.wait_problem("the points wait");
        machine.until(|| server.writes() >= 2);
        server.answer(|_| TAKEN);
        machine.until(|| server.lines("container").len() == 3);
        machine.wait_well();
        machine.until(|| target(&machine, "sent") > 3);
        assert_eq!(target(&machine, "dropped"), 0);
        all_distinct(&server.lines("container"));
    });
}

#[test]
fn retry_after_is_waited_for() {
    let server = WebServer::new();
    server.answer(|_| Some((429, "Retry-After: 4\r\n", "")));
    let machine = running(&version_1(&server));
    machine.until(|| server.writes() == 1);
    server.answer(|_| TAKEN);
    machine.until(|| server.writes() >= 2);
    let requests = server.requests();
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(4));
}

#[test]
fn a_poison_line_blocks_nothing() {
    let server = WebServer::new();
    let mut refused = 0;
    server.answer(move |_| {
        refused += 1;
        let why = "{\"error\":\"partial write: field type conflict dropped=2\"}";
        if refused <= 2 {
            Some((400, "", why))
        } else {
            TAKEN
        }
    });
    let machine = running(&version_1(&server));
    machine.until(|| server.lines("daemon").len() >= 2);
    machine.until(|| target(&machine, "errors") == 2 && target(&machine, "sent") > 0);
    assert_eq!(target(&machine, "dropped"), 4);
    let requests = server.requests();
    let lines: Vec<&str> = requests
        .iter()
        .flat_map(|request| request.body.lines())
        .collect();
    all_distinct(&lines);
}

/// A server that takes a batch only as a whole, and never one series.
#[test]
fn a_refused_series_costs_itself() {
    let server = WebServer::new();
    let refuses = |request: &Request| request.body.contains("plancton_decision,");
    server.answer(move |request| {
        let why =
            "{\"code\":\"unprocessable entity\",\"message\":\"failure writing points: schema\"}";
        if refuses(request) {
            Some((422, "", why))
        } else {
            TAKEN
        }
    });
    let machine = running(&version_1(&server));
    end_one(&machine, 0);
    let others = [
        "container",
        "daemon",
        "measurement",
        "plancton_host",
        "plancton_pilots",
        "plancton_engine",
    ];
    machine.until(|| others.iter().all(|series| !server.lines(series).is_empty()));
    machine.until(|| server.lines("daemon").len() >= 4 && target(&machine, "dropped") >= 3);
    machine.wait_problem("status 422: failure writing points: schema");
    let refused: Vec<Request> = server.requests().into_iter().filter(refuses).collect();
    let is_alone = |request: &&Request| request.body.lines().count() == 1;
    let alone = refused.iter().filter(is_alone).count();
    // Only what is refused by itself is lost, and it is found in a few requests of some eight lines a tick.
    assert!(
        target(&machine, "dropped").abs_diff(alone as u64) <= 1,
        "{alone}"
    );
    assert!(
        refused.len() <= 6 * (alone + 1),
        "{} requests for {alone} lines",
        refused.len()
    );
}

#[test]
fn too_large_is_sent_in_pieces() {
    let server = WebServer::new();
    let is_large = |request: &Request| request.body.len() > 700;
    server.answer(move |request| {
        if is_large(request) {
            Some((413, "", ""))
        } else {
            TAKEN
        }
    });
    let machine = running(&version_1(&server));
    end_one(&machine, 0);
    let series = ["container", "daemon", "plancton_host", "plancton_sink"];
    machine.until(|| series.iter().all(|series| !server.lines(series).is_empty()));
    assert!(server.requests().iter().any(is_large));
    machine.until(|| target(&machine, "sent") > 8);
    assert_eq!(target(&machine, "dropped"), 0);
}

#[test]
fn a_missing_database_is_created_once() {
    let missing = Some((404, "", "{\"error\":\"database not found: \\\"d\\\"\"}"));
    let server = WebServer::new();
    let mut is_there = false;
    server.answer(move |request| {
        is_there |= request.line.starts_with("POST /query");
        if is_there { TAKEN } else { missing }
    });
    let machine = running(&version_1(&server));
    machine.until(|| server.lines("daemon").len() >= 2);
    let lines: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    let write = "POST /write?db=d&precision=ns";
    assert_eq!(
        lines[..3],
        [write, "POST /query?q=CREATE%20DATABASE%20%22d%22", write]
    );
    assert_eq!(
        (target(&machine, "errors"), target(&machine, "dropped")),
        (0, 0)
    );

    // Who may only write asks once, and goes on trying to write.
    let server = WebServer::new();
    let is_query = |request: &Request| request.line.contains("query");
    server.answer(move |request| {
        if is_query(request) {
            Some((403, "", "no"))
        } else {
            missing
        }
    });
    let machine = running(&version_1(&server));
    machine.wait_problem("status 403: no");
    machine.until(|| server.writes() >= 3);
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| is_query(request))
            .count(),
        1
    );
}

/// A server that is away, or that accepts and says nothing: the loop turns as ever, and all points arrive afterwards.
#[test]
fn the_loop_never_waits_for_a_server() {
    at_once([false, true], |is_silent| {
        let mut server = WebServer::new();
        let mut machine = running(&version_1(&server));
        machine.until(|| server.writes() > 0);
        if is_silent {
            server.answer(|_| None);
        } else {
            server.down();
        }
        let start = epoch();
        for number in 0.. {
            end_one(&machine, 0);
            if number >= 20 && epoch() - start > 8.0 {
                break;
            }
        }
        machine.wait_problem("the points wait");
        machine.assert_well();
        let gap = machine.status()["loop"]["longest_gap_ms"].as_f64().unwrap();
        assert!(gap < 2_000.0, "the loop was away for {gap} ms");
        server.answer(|_| TAKEN);
        if !is_silent {
            server.up();
        }
        let ended = gone(&machine);
        machine.until(|| server.lines("container").len() >= ended);
        assert_eq!(server.lines("container").len(), ended);
        all_distinct(&server.lines("container"));
        assert_eq!(target(&machine, "dropped"), 0);
        // What was measured meanwhile arrives too.
        assert!(server.lines("daemon").len() >= 8);
    });
}

#[test]
fn the_end_flushes_and_does_not_hang() {
    at_once([false, true], |is_silent| {
        let server = WebServer::new();
        let text = config(&version_1(&server)).replace("flush = \"1s\"", "flush = \"1h\"");
        let mut machine = Machine::running(&text, 3);
        end_one(&machine, 0);
        assert_eq!(server.writes(), 0, "the first flush is far away");
        if is_silent {
            server.answer(|_| None);
        }
        let start = epoch();
        assert_eq!(machine.end(), 0);
        assert!(epoch() - start < 10.0);
        assert_eq!(server.writes(), 1);
        assert_eq!(server.lines("container").len(), usize::from(!is_silent));
    });
}

#[test]
fn a_reload_changes_targets() {
    let [first, second] = [WebServer::new(), WebServer::new()];
    let text = config(&version_1(&first));
    let mut machine = Machine::running(text.split("[[influxdb]]").next().unwrap(), 3);
    machine.reload(&text);
    machine.until(|| first.writes() >= 2);
    let other = |text: &str| text.replace("h, 1", "other");
    machine.reload(&(text + &other(&table(&version_1(&second)))));
    machine.until(|| second.writes() >= 2);
    machine.reload(&other(&config(&version_1(&second))));
    machine.wait_status(|status| status["sinks"].as_array().unwrap().len() == 1);
    let (gone, writes) = (first.writes(), second.writes());
    machine.until(|| second.writes() >= writes + 4);
    assert_eq!(first.writes(), gone);
    assert!(
        second
            .lines("daemon")
            .iter()
            .all(|line| line.contains("hostname=other,"))
    );
    // A target that stays keeps its counts.
    assert!(target(&machine, "sent") > 0);
    machine.assert_well();
}

#[test]
fn secrets_are_never_shown() {
    let server = WebServer::new();
    let echo = "{\"error\":\"bad password gEhEiM for user u: Basic dTpnRWhFaU0= \\u001b[2J\"}";
    server.answer(move |_| Some((401, "", echo)));
    let mut machine = Machine::new();
    machine.start(&config(&format!(
        "url = \"http://u:gEhEiM@{}#d\"",
        server.host()
    )));
    machine.wait_problem("bad password *** for user u: Basic *** [2J");
    let mut told = vec![machine.log()];
    for line in [
        "config",
        "check",
        "status",
        "status --json",
        "-v -v -v check",
    ] {
        told.push(machine.say(&line.split(' ').collect::<Vec<_>>()).text());
    }
    told.push(say(machine.command(&["check"]).env("RUST_LOG", "trace")).text());
    for text in told {
        assert!(
            text.len() > 100 && !text.contains("gEhEiM") && !text.contains("dTpnRWhFaU0="),
            "{text}"
        );
    }
}

#[test]
fn check_looks_at_each_target() {
    let server = WebServer::new();
    let machine = Machine::new();
    let check = |target: &str| {
        machine.configure(&config(target));
        let said = machine.say(&["check"]).out;
        let line = said.lines().find(|line| line.contains("metrics"));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    for (reply, verdict) in [
        (TAKEN, "ok"),
        (
            Some((400, "", "{\"message\":\"writing requires points\"}")),
            "ok",
        ),
        (Some((200, "", "<html>")), "BAD"),
        (Some((400, "", "plain HTTP to HTTPS")), "BAD"),
        (
            Some((404, "", "{\"error\":\"database not found\"}")),
            "note",
        ),
        (Some((401, "", "no")), "BAD"),
        (Some((500, "", "no")), "BAD"),
    ] {
        server.answer(move |_| reply);
        assert_eq!(check(&version_1(&server)), verdict, "{reply:?}");
    }
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.body.is_empty()),
        "it writes nothing"
    );
    for target in [
        "url = \"https://127.0.0.1:1\"\ndatabase = \"d\"\nca-file = \"/nowhere\"",
        "url = \"http://127.0.0.1:1#d\"",
    ] {
        assert_eq!(check(target), "BAD", "{target}");
    }
}

/// More ends than fit while nobody takes them: the oldest give way, and what is left arrives in one request.
#[test]
fn a_full_queue_is_bounded() {
    let mut server = WebServer::new();
    server.down();
    let mut machine = running(&version_1(&server));
    let long = "é".repeat(1_000);
    let labels = [
        (LABEL, "t1"),
        ("io.plancton.class", &long),
        ("io.plancton.cpus", "1"),
    ];
    for round in 0..4 {
        for number in 0..200 {
            let name = format!("plancton-p-{round:03}{number:03}");
            machine.engine.add(Some(&name), "exited", 10.0, &labels);
        }
        machine.until(|| machine.engine.in_state("exited").is_empty());
    }
    machine.until(|| target(&machine, "dropped") > 0);
    let waiting = target(&machine, "waiting_bytes");
    assert!((1_000_000..=1 << 20).contains(&waiting), "{waiting}");
    machine.assert_well();
    server.up();
    machine.until(|| target(&machine, "waiting_bytes") < 100_000);
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.body.len() > 1_000_000),
        "in one request"
    );
}
