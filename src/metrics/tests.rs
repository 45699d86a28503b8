use super::points::View;
use super::send::{Said, judge};
use super::{Answer, Queue, lock};
use crate::config::Influx;
use crate::decide::{Code, EndKind, Finished, Observation, Reason};
use crate::engine::Engine;
use crate::report::{Cpus, Pilot, Status};
use crate::site::Site;
use crate::state::Dirs;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const AT: &str = "1800000000250000000\n";

fn target(host_alias: &str, owner_metrics: bool) -> Influx {
    Influx {
        host_alias: host_alias.to_owned(),
        owner_metrics,
        ..Influx::default()
    }
}

/// What such a target is told of a tick, by one or the other.
fn lines_of(target: &Influx, code: Code, tell: impl Fn(&View) -> String) -> String {
    let pilot = Pilot {
        class: "x y\\".to_owned(),
        ..Pilot::default()
    };
    let status = Status {
        tick: 1_800_000_000.25,
        cpus: Cpus {
            pilots: Some(f64::NAN),
            foreign: Some(0.5),
            ..Cpus::default()
        },
        pilots: vec![pilot],
        reason: Reason::of(code, 1.5, 2.0, "said to people only"),
        ..Status::default()
    };
    let counts = ["done", "out-of-memory"].map(|what| (("c".to_owned(), what.to_owned()), 1));
    let seen = Observation {
        charge: Some(50),
        temperature: Some(61.5),
        ..Observation::default()
    };
    let engine = Arc::new(Engine::new("/nowhere", Duration::ZERO));
    let (instance, tag) = ("i,=\n".to_owned(), String::new());
    let mut site = Site::new(engine, Dirs::machine(), instance, tag);
    site.host = "host.domain".to_owned();
    tell(&View {
        target,
        site: &site,
        status: &status,
        seen: &seen,
        counts: &counts.into(),
    })
}

fn end(kind: EndKind, name: &str) -> Finished {
    Finished {
        name: name.to_owned(),
        class: "c".to_owned(),
        kind,
        at: 1_800_000_000.25,
        lived: 7.5,
        exit_code: 3,
        log_tail: String::new(),
    }
}

#[test]
fn each_end_is_a_line_of_its_own() {
    let tags = "hostname=host,instance=i\\,\\=";
    for (kind, told) in [
        (EndKind::Done, "killed=False,kind=done,started=True"),
        (EndKind::Ttl, "killed=True,kind=ttl,started=True"),
        (
            EndKind::NeverRan,
            "killed=False,kind=never-ran,started=False",
        ),
    ] {
        let [class, killed] = ["class=c", told];
        let line = format!(
            "container,{class},{tags},{killed} exit_code=3i,name=\"a \\\"\\\\ ü \",uptime=7.5 {AT}"
        );
        let ended = [end(kind, "a \"\\ ü\n")];
        let lines = lines_of(&target("", true), Code::Busy, |view| view.ends(&ended));
        assert_eq!(lines, line);
    }
    let ended: Vec<Finished> = (0..300).map(|_| end(EndKind::Done, "n")).collect();
    let lines = lines_of(&target("", true), Code::Busy, |view| view.ends(&ended));
    assert_eq!(lines.lines().collect::<BTreeSet<_>>().len(), 300);
}

#[test]
fn what_is_told_of_the_owner() {
    let all = lines_of(&target("", true), Code::Busy, |view| view.sample());
    for line in [
        "plancton_decision,code=busy,hostname=host,instance=i\\,\\= reason=\"busy\",state=\"waiting\",threshold=2,value=1.5 ",
        "plancton_host,hostname=host,instance=i\\,\\= battery=50i,cpus_foreign=0.5,cpus_given=0,cpus_total=0,memory_given=0i,\
         on_battery=false,temperature=61.5 ",
        "plancton_pilots,class=x\\ y,hostname=host,instance=i\\,\\= done=0i,drained=0i,",
        "plancton_pilots,class=c,hostname=host,instance=i\\,\\= done=1i,drained=0i,failed=0i,killed=0i,launches=0i,never-ran=0i,\
         no-work=0i,out-of-memory=1i,owner=0i,running=0i,ttl=0i ",
    ] {
        assert!(all.contains(line), "{line}\nin\n{all}");
    }
    let less = lines_of(&target("", false), Code::Busy, |view| view.sample());
    for word in [
        "foreign",
        "idle",
        "battery",
        "temperature",
        "available",
        "value",
        "busy",
        "hostname",
    ] {
        assert!(!less.contains(word), "{word} in\n{less}");
    }
    assert!(less.contains(
        "plancton_decision,code=owner,instance=i\\,\\= reason=\"owner\",state=\"waiting\" "
    ));
    let named = lines_of(&target("alias", false), Code::Full, |view| view.sample());
    assert!(named.contains("code=full,hostname=alias,") && named.contains("value=1.5"));
}

/// The status, whether the body is JSON, its words, and what that means.
const ANSWERS: &str = r#"
204|-||Taken
200|-|<html>|Failed("status 200 and not 204, so it took nothing: <html>", Some(9.0))
302|-||Failed("status 302 and not 204, so it took nothing: ", Some(9.0))
413|-|x|Refused("status 413: x")
400|json|partial write: x dropped=3|Refused("status 400: partial write: x dropped=3")
400|json|unable to parse 'x'|Refused("status 400: unable to parse 'x'")
422|json|field type conflict|Refused("status 422: field type conflict")
400|json|org is required|Failed("status 400: org is required", Some(9.0))
400|-|Client sent HTTP to HTTPS|Failed("status 400: Client sent HTTP to HTTPS", Some(9.0))
400|-|unable to parse request|Failed("status 400: unable to parse request", Some(9.0))
400|json|no database selected|Failed("status 400: no database selected", Some(9.0))
400|json|no such endpoints|Failed("status 400: no such endpoints", Some(9.0))
400|json|writing requires points|Refused("status 400: writing requires points")
401|json|unable to parse authentication credentials|Failed("status 401: unable to parse authentication credentials", Some(9.0))
404|json|database not found|Failed("status 404: database not found", Some(9.0))
429|-||Failed("status 429: ", Some(9.0))
503|-|<html>|Failed("status 503: <html>", Some(9.0))
418|-||Failed("status 418: ", Some(9.0))
"#;

#[test]
fn what_an_answer_means() {
    for row in ANSWERS.trim().lines() {
        let [status, kind, words, meaning] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let said = Said {
            status: status.parse().unwrap(),
            words: words.to_owned(),
            is_json: kind == "json",
            retry_after: Some(9.0),
        };
        assert_eq!(format!("{:?}", judge(said)), meaning);
    }
}

fn lines(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| format!("a v={number}\n")).collect()
}

fn new_queue(flush: f64) -> Queue {
    Queue {
        flush,
        ..Queue::default()
    }
}

fn failed(asked: Option<f64>) -> Answer {
    Answer::Failed("away".to_owned(), asked)
}

fn refused() -> Answer {
    Answer::Refused("no".to_owned())
}

/// One flush to a server that takes what `judge` says: what it took, the requests, and the seconds to the next one.
fn flush(queue: &mut Queue, judge: impl Fn(&str) -> Answer) -> (String, usize, f64) {
    let (mut taken, mut requests) = (String::new(), 0);
    let wait = queue.send(0.5, |lines| {
        requests += 1;
        let answer = judge(lines);
        taken += if answer == Answer::Taken { lines } else { "" };
        answer
    });
    (taken, requests, wait)
}

/// Of ten lines: sent, dropped, left, and the seconds to the next try.
#[test]
fn what_becomes_of_a_batch() {
    for (answer, counts, wait) in [
        (Answer::Taken, [10, 0, 0], 30.0),
        (refused(), [0, 10, 0], 30.0),
        (failed(None), [0, 0, 10], 30.0),
        (failed(Some(100.0)), [0, 0, 10], 100.0),
        (failed(Some(1e9)), [0, 0, 10], 600.0),
    ] {
        let mut queue = new_queue(30.0);
        queue.push(&lines(0..10));
        let (_, _, wait_is) = flush(&mut queue, |_| answer.clone());
        let health = lock(&queue.health);
        let left = health.waiting_bytes as u64 / 6;
        assert_eq!([health.sent, health.dropped, left], counts, "{answer:?}");
        assert!((wait_is - wait).abs() < 1e-9, "{answer:?}");
        assert_eq!(health.error.is_none(), answer == Answer::Taken);
    }
}

#[test]
fn failures_wait_longer_and_longer_and_lose_nothing() {
    let mut queue = new_queue(1.0);
    for (number, wait) in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
        .into_iter()
        .enumerate()
    {
        queue.push(&lines(number..=number));
        let (_, _, wait_is) = flush(&mut queue, |_| failed(None));
        assert!((wait_is - wait).abs() < 1e-9, "{wait_is}");
    }
    let (taken, _, wait) = flush(&mut queue, |_| Answer::Taken);
    assert_eq!(taken, lines(0..8), "all, in order");
    let health = lock(&queue.health);
    assert_eq!((health.sent, health.dropped), (8, 0));
    assert!(health.error.is_none() && (wait - 1.0).abs() < 1e-9);
}

/// Flushes of 100 lines; what was taken, and the most requests of a flush.
fn flushes(queue: &mut Queue, count: usize, judge: impl Fn(&str) -> Answer) -> (String, usize) {
    let (mut all, mut most) = (String::new(), 0);
    for number in 0..count {
        queue.push(&lines(number * 100..(number + 1) * 100));
        let (taken, requests, _) = flush(queue, &judge);
        (all, most) = (all + &taken, most.max(requests));
    }
    (all, most)
}

#[test]
fn what_is_refused_costs_itself() {
    for poison in [0, 1, 49, 98, 99] {
        let mut queue = new_queue(30.0);
        let is_bad =
            |line: &str| line.trim_start_matches("a v=").parse::<usize>().unwrap() % 100 == poison;
        let (taken, most) = flushes(&mut queue, 20, |batch| match batch.lines().any(is_bad) {
            true => refused(),
            false => Answer::Taken,
        });
        let well = lines((0..2_000).filter(|number| number % 100 != poison));
        assert_eq!(taken, well);
        let health = lock(&queue.health).clone();
        let counts = (health.sent, health.dropped, health.waiting_bytes);
        assert_eq!(counts, (1_980, 20, 0));
        assert!(most <= 20 && health.error.is_some(), "{most} requests");
        flushes(&mut queue, 1, |_| Answer::Taken);
        assert_eq!(lock(&queue.health).error, None);
    }
    let mut queue = new_queue(30.0);
    let (taken, most) = flushes(&mut queue, 20, |_| refused());
    assert!(taken.is_empty() && most <= 50, "{most} requests");
    assert_eq!(lock(&queue.health).dropped, 2_000);
    let (taken, most) = flushes(&mut queue, 1, |batch| match batch.len() > 60 {
        true => refused(),
        false => Answer::Taken,
    });
    assert!(taken == lines(0..100) && most < 50, "{most} requests");
    assert_eq!(lock(&queue.health).error, None);
}

/// What was not sent when a server goes away in the middle waits in its order.
#[test]
fn away_in_the_middle() {
    let mut queue = new_queue(30.0);
    queue.push(&lines(0..8));
    flush(&mut queue, |batch| match batch {
        _ if batch.lines().count() > 2 => refused(),
        _ if batch.contains("v=4") => failed(None),
        _ => Answer::Taken,
    });
    assert_eq!(lock(&queue.health).sent, 4);
    let (taken, ..) = flush(&mut queue, |_| Answer::Taken);
    assert_eq!(taken, lines(4..8));
}

#[test]
fn the_oldest_give_way() {
    let mut queue = new_queue(30.0);
    let line = |n: usize| format!("ö{n:06} v=\"{}\"\n", "é".repeat(n % 70));
    let all: String = (0..20_000).map(line).collect();
    (0..20_000).for_each(|n| queue.push(&line(n)));
    let kept = Vec::from(queue.lines.clone()).concat();
    assert!(all.ends_with(&kept) && kept.starts_with('ö'));
    assert!(kept.len() <= 1 << 20 && kept.len() > (1 << 20) - 200);
    let lost = lock(&queue.health).dropped;
    assert_eq!(lost + kept.lines().count() as u64, 20_000);
    queue.push(&"x".repeat(2 << 20));
    assert!(queue.lines.is_empty(), "a line that can't be kept is none");
}
