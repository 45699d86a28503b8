//! The real binary and metrics targets that do everything wrong: what is sent, byte by byte, what becomes of it by the
//! server's answer, and that the loop never notices.

use crate::common::web::{Request, WebServer, reply, taken};
use crate::common::*;

/// Three pilots, and the lines of one target.
fn config(target: &str) -> String {
    made_up(3, "", &table(target))
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
        let line = "POST /path/api/v2/write?org=my%20org&bucket=b%26c&precision=ns";
        assert_eq!(request.line, line);
        for (name, value) in [
            ("authorization", "Token geheim"),
            ("content-type", "text/plain; charset=utf-8"),
            ("host", &server.host()),
        ] {
            assert_eq!(request.header(name), Some(value));
        }
        assert!(request.body.ends_with('\n') && !request.body.contains("\n\n"));
    }
    let name = &machine.status()["gone"][0]["name"];
    // Read to its last digit, as serde_json does not.
    let status = read(machine.path("run/status.json"));
    let gone = status.split("\"gone\":[").nth(1).unwrap();
    let [at, lived] = ["\"at\":", "\"lived\":"].map(|key| {
        let rest = gone.split(key).nth(1).unwrap();
        let number = rest.split([',', '}']).next().unwrap();
        number.parse::<f64>().unwrap()
    });
    let nanos = (at * 1e6) as u64 * 1000;
    let expected = format!(
        "container,class=p,hostname=h\\,\\ 1,instance=t1,killed=False,kind=failed,started=True \
         exit_code=3i,name={name},uptime={lived} {nanos}"
    );
    // The other series are golden (tests/golden.rs).
    assert_eq!(server.lines("container"), [expected]);
}

#[test]
fn version_1_with_password_from_url_or_file() {
    let server = WebServer::new();
    let url = format!("url = \"http://us%65r:ge:heim@{}#d b\"", server.host());
    let machine = running(&(url + "\nretention-policy = \"r\""));
    machine.until(|| server.writes() > 0);
    let request = server.requests()[0].clone();
    assert_eq!(request.line, "POST /write?db=d%20b&rp=r&precision=ns");
    let login = Some("Basic dXNlcjpnZTpoZWlt");
    assert_eq!(request.header("authorization"), login);

    let server = WebServer::new();
    let mut machine = Machine::new();
    let file = machine.file("password", "geheim\n");
    set_mode(&file, 0o644);
    let login = format!("user = \"u\"\npassword-file = {file:?}");
    machine.start(&config(&format!("{}\n{login}", version_1(&server))));
    machine.wait_problem("chmod");
    assert_eq!(server.writes(), 0);
    set_mode(&file, 0o640);
    machine.until(|| server.writes() > 0);
    let login = Some("Basic dTpnZWhlaW0=");
    assert_eq!(server.requests()[0].header("authorization"), login);
    machine.wait_well();
}

/// Failures after which everything arrives all the same: whatever does not speak of the lines.
#[test]
fn what_is_kept_arrives() {
    let cases = [
        (401, "", "{\"error\":\"authorization failed\"}"),
        (403, "", ""),
        (404, "", "{\"message\":\"bucket not found\"}"),
        (429, "Retry-After: 1\r\n", ""),
        (500, "", "oops"),
        (503, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", ""),
        (302, "Location: http://127.0.0.1:1/\r\n", ""),
        // A path too many, a hotspot, a server that speaks https there, and whatever is no answer at all.
        (200, "", "{\"write\": \"/api/v2/write\"}"),
        (200, "", "<html>Please accept</html>"),
        (400, "", "Client sent an HTTP request to an HTTPS server.\n"),
        (418, "", ""),
    ];
    at_once(cases, |(code, headers, body)| {
        let server = WebServer::new();
        server.answer(move |_| reply(code, headers, body));
        let machine = running(&format!("url = \"{}\"\nbucket = \"b\"", server.url()));
        for exit_code in [0, 3, 0] {
            end_one(&machine, exit_code);
        }
        machine.wait_problem("the points wait");
        machine.until(|| server.writes() >= 2);
        server.answer(|_| taken());
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
    server.answer(|_| reply(429, "Retry-After: 4\r\n", ""));
    let machine = running(&version_1(&server));
    machine.until(|| server.writes() >= 1);
    server.answer(|_| taken());
    machine.until(|| server.writes() >= 2);
    let requests = server.requests();
    assert!(requests[1].at - requests[0].at >= seconds(4.0));
}

/// A server that takes a batch only as a whole, and never one series.
#[test]
fn a_refused_series_costs_itself() {
    let server = WebServer::new();
    let refuses = |request: &Request| request.body.contains("plancton_decision,");
    let why = "{\"code\":\"unprocessable entity\",\"message\":\"failure writing points: schema\"}";
    server.answer(move |request| match refuses(request) {
        true => reply(422, "", why),
        false => taken(),
    });
    let machine = running(&version_1(&server));
    end_one(&machine, 0);
    let others = "container daemon measurement plancton_host plancton_pilots plancton_engine";
    let has = |series| !server.lines(series).is_empty();
    machine.until(|| others.split(' ').all(has));
    machine.until(|| server.lines("daemon").len() >= 4 && target(&machine, "dropped") >= 3);
    machine.wait_problem("status 422: failure writing points: schema");
    let refused = || -> Vec<Request> {
        let requests = server.requests().into_iter();
        requests.filter(refuses).collect()
    };
    let is_alone = |request: &Request| request.body.lines().count() == 1;
    let alone = || refused().into_iter().filter(is_alone).count();
    // Only what is refused by itself is lost, and it is found in a few requests of some eight lines a tick.
    machine.until(|| target(&machine, "dropped").abs_diff(alone() as u64) <= 1);
    let (alone, all) = (alone(), refused().len());
    assert!(all <= 6 * (alone + 1), "{all} requests for {alone} lines");
}

#[test]
fn too_large_is_sent_in_pieces() {
    let server = WebServer::new();
    let is_large = |request: &Request| request.body.len() > 700;
    server.answer(move |request| match is_large(request) {
        true => reply(413, "", ""),
        false => taken(),
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
fn points_wait_for_a_missing_database() {
    let server = WebServer::new();
    server.answer(|_| reply(404, "", "{\"error\":\"database not found: \\\"d\\\"\"}"));
    let machine = running(&version_1(&server));
    machine.wait_problem("status 404: database not found");
    server.answer(|_| taken());
    machine.until(|| server.lines("daemon").len() >= 2);
    assert_eq!(target(&machine, "dropped"), 0);
}

/// A server that is away, or that accepts and says nothing: the loop turns as ever, and all points arrive afterwards.
#[test]
fn the_loop_never_waits_for_a_server() {
    at_once([false, true], |is_silent| {
        let mut server = WebServer::new();
        let mut machine = running(&version_1(&server));
        machine.until(|| server.writes() > 0);
        match is_silent {
            true => server.answer(|_| None),
            false => server.down(),
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
        machine.assert_no_gap();
        server.answer(|_| taken());
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
        let arrived = server.lines("container").len();
        assert_eq!(arrived, usize::from(!is_silent));
    });
}

#[test]
fn a_reload_changes_targets() {
    let [first, second] = [WebServer::new(), WebServer::new()];
    let mut machine = Machine::running(&made_up(3, "", ""), 3);
    let text = config(&version_1(&first));
    machine.reload(&text);
    machine.until(|| first.writes() >= 2);
    let other = |text: &str| text.replace("h, 1", "other");
    machine.reload(&(text + &other(&table(&version_1(&second)))));
    machine.until(|| second.writes() >= 2);
    machine.reload(&other(&config(&version_1(&second))));
    machine.wait_status(|status| members(&status["sinks"]).len() == 1);
    let (gone, writes) = (first.writes(), second.writes());
    machine.until(|| second.writes() >= writes + 4);
    assert_eq!(first.writes(), gone);
    let lines = second.lines("daemon");
    assert!(lines.iter().all(|line| line.contains("hostname=other,")));
    // A target that stays keeps its counts.
    assert!(target(&machine, "sent") > 0);
    machine.assert_well();
}

#[test]
fn secrets_are_never_shown() {
    let server = WebServer::new();
    let echo = "{\"error\":\"bad password gEhEiM for user u: Basic dTpnRWhFaU0= \\u001b[2J\"}";
    server.answer(move |_| reply(401, "", echo));
    let mut machine = Machine::new();
    let url = format!("url = \"http://u:gEhEiM@{}#d\"", server.host());
    machine.start(&config(&url));
    machine.wait_problem("bad password *** for user u: Basic *** [2J");
    let lines = "config|check|status|status --json|-v -v -v check".split('|');
    let mut told: Vec<String> = lines.map(|line| machine.say(line).text()).collect();
    told.push(say(machine.command("check").env("RUST_LOG", "trace")).text());
    told.push(machine.log());
    for text in told {
        let is_shown = text.contains("gEhEiM") || text.contains("dTpnRWhFaU0=");
        assert!(text.len() > 100 && !is_shown, "{text}");
    }
}

#[test]
fn check_looks_at_each_target() {
    let server = WebServer::new();
    let machine = Machine::new();
    let check = |target: &str| {
        machine.configure(&config(target));
        let said = machine.say("check").out;
        let line = said.lines().find(|line| line.contains("metrics"));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    for (code, body, verdict) in [
        (204, "", "ok"),
        (400, "{\"message\":\"writing requires points\"}", "ok"),
        (200, "<html>", "BAD"),
        (400, "plain HTTP to HTTPS", "BAD"),
        (404, "{\"error\":\"database not found\"}", "BAD"),
        (401, "no", "BAD"),
        (500, "no", "BAD"),
    ] {
        server.answer(move |_| reply(code, "", body));
        assert_eq!(check(&version_1(&server)), verdict, "{code} {body}");
    }
    let mut requests = server.requests().into_iter();
    // It writes nothing.
    assert!(requests.all(|request| request.body.is_empty()));
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
    for round in 0..4 {
        for number in 0..200 {
            let name = format!("plancton-p-{round:03}{number:03}");
            machine.engine.add_own(&name, "exited", 10.0, &long);
        }
        machine.until(|| machine.engine.in_state("exited").is_empty());
    }
    machine.until(|| target(&machine, "dropped") > 0);
    let waiting = target(&machine, "waiting_bytes");
    assert!((1_000_000..=1 << 20).contains(&waiting), "{waiting}");
    machine.assert_well();
    server.up();
    machine.until(|| target(&machine, "waiting_bytes") < 100_000);
    let mut requests = server.requests().into_iter();
    assert!(requests.any(|request| request.body.len() > 1_000_000));
}
