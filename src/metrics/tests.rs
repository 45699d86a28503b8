use super::points::View;
use super::queue::{Answer, Queue};
use super::send::{Said, judge, read_retry_after};
use crate::config::Influx;
use crate::decide::{Code, EndKind, Finished, Observation, Reason};
use crate::engine::Counters;
use crate::report::{Cpus, Pilot, Status};
use std::collections::BTreeSet;

const AT: &str = "1800000000250000000\n";

fn view(host_alias: &str, owner_metrics: bool) -> View {
    let target = Influx {
        host_alias: host_alias.to_owned(),
        owner_metrics,
        ..Influx::default()
    };
    View::new(&target, "i,=\n", "host.domain")
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
            "container,{class},{tags},{killed} uptime=7.5,name=\"a \\\"\\\\ ü \",exit_code=3i {AT}"
        );
        assert_eq!(view("", true).ends(&[end(kind, "a \"\\ ü\n")]), line);
    }
    let ended: Vec<Finished> = (0..300).map(|_| end(EndKind::Done, "n")).collect();
    let lines = view("", true).ends(&ended);
    assert_eq!(lines.lines().collect::<BTreeSet<_>>().len(), 300);
}

fn sample(view: &View, code: Code) -> String {
    let pilot = |class: &str| Pilot {
        class: class.to_owned(),
        ..Pilot::default()
    };
    let status = Status {
        tick: 1_800_000_000.25,
        cpus: Cpus {
            pilots: Some(f64::NAN),
            foreign: Some(0.5),
            ..Cpus::default()
        },
        pilots: vec![pilot("x y\\")],
        reason: Reason::of(code, 1.5, 2.0, "said to people only"),
        ..Status::default()
    };
    let counts = ["done", "out-of-memory"].map(|what| (("c".to_owned(), what.to_owned()), 1));
    let seen = Observation {
        charge: Some(50),
        temperature: Some(61.5),
        ..Observation::default()
    };
    view.sample(&status, &seen, &counts.into(), Counters::default())
}

#[test]
fn what_is_told_of_the_owner() {
    let all = sample(&view("", true), Code::Busy);
    for line in [
        "plancton_decision,code=busy,hostname=host,instance=i\\,\\= state=\"waiting\",value=1.5,threshold=2,reason=\"busy\" ",
        "plancton_host,hostname=host,instance=i\\,\\= cpus_total=0,cpus_given=0,memory_given=0i,cpus_foreign=0.5,\
         temperature=61.5,battery=50i,on_battery=false ",
        "plancton_pilots,class=x\\ y,hostname=host,instance=i\\,\\= running=0i,launches=0i,done=0i,",
        "plancton_pilots,class=c,hostname=host,instance=i\\,\\= running=0i,launches=0i,done=1i,no-work=0i,failed=0i,out-of-memory=1i,",
    ] {
        assert!(all.contains(line), "{line}\nin\n{all}");
    }
    let less = sample(&view("", false), Code::Busy);
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
        "plancton_decision,code=owner,instance=i\\,\\= state=\"waiting\",reason=\"owner\" "
    ));
    let named = sample(&view("alias", false), Code::Full);
    assert!(named.contains("code=full,hostname=alias,") && named.contains("value=1.5"));
}

/// The status, whether the body is JSON, its words, and what that means.
const ANSWERS: &str = r#"
204|-||Taken
200|-|<html>|Failed(200, "status 200 and not 204, so it took nothing: <html>", Some(9.0))
302|-||Failed(302, "status 302 and not 204, so it took nothing: ", Some(9.0))
413|-|x|TooLarge("status 413: x")
400|json|partial write: x dropped=3|BadLines("status 400: partial write: x dropped=3", Some(3))
400|json|unable to parse 'x'|BadLines("status 400: unable to parse 'x'", None)
422|json|field type conflict|BadLines("status 422: field type conflict", None)
400|json|org is required|Failed(400, "status 400: org is required", Some(9.0))
400|-|Client sent HTTP to HTTPS|Failed(400, "status 400: Client sent HTTP to HTTPS", Some(9.0))
400|-|unable to parse request|Failed(400, "status 400: unable to parse request", Some(9.0))
418|-||Failed(418, "status 418: ", Some(9.0))
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

#[test]
fn retry_after() {
    for (text, seconds) in [
        ("120", Some(120.0)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60.0)),
        ("Sun, 06 Nov 1994 08:40:37 GMT", Some(0.0)),
        ("soon", None),
        ("-5", None),
    ] {
        assert_eq!(read_retry_after(text, 784_111_777.0), seconds, "{text}");
    }
}

fn lines(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| format!("a v={number}\n")).collect()
}

fn failed(asked: Option<f64>) -> Answer {
    Answer::Failed(503, "away".to_owned(), asked)
}

/// Of ten lines: sent, dropped, left, and the seconds to the next try.
#[test]
fn what_becomes_of_a_batch() {
    let bad = |number| Answer::BadLines(String::new(), number);
    for (answer, counts, wait) in [
        (Answer::Taken, [10, 0, 0], 30.0..=30.0),
        (bad(Some(3)), [7, 3, 0], 30.0..=30.0),
        (bad(Some(0)), [9, 1, 0], 30.0..=30.0),
        (bad(None), [0, 0, 10], 0.0..=0.0),
        (Answer::TooLarge(String::new()), [0, 0, 10], 0.0..=0.0),
        (failed(None), [0, 0, 10], 22.0..=38.0),
        (failed(Some(100.0)), [0, 0, 10], 100.0..=100.0),
        (failed(Some(1e9)), [0, 0, 10], 600.0..=600.0),
    ] {
        let mut queue = Queue::new(30.0, 5.0);
        queue.push(&lines(0..10));
        assert_eq!(queue.take(queue.due - 0.1), None);
        let batch = queue.take(100.0).unwrap();
        queue.settle(batch, answer.clone(), 100.0);
        let left = queue.health().waiting_bytes as u64 / 6;
        assert_eq!(
            [queue.health().sent, queue.health().dropped, left],
            counts,
            "{answer:?}"
        );
        assert!(
            wait.contains(&(queue.due - 100.0)),
            "{answer:?}: {}",
            queue.due
        );
        assert_eq!(queue.health().error.is_none(), answer == Answer::Taken);
    }
}

#[test]
fn failures_wait_longer_and_longer_and_lose_nothing() {
    let (mut queue, mut now) = (Queue::new(1.0, 0.0), 100.0);
    for (number, wait) in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
        .into_iter()
        .enumerate()
    {
        queue.push(&lines(number..=number));
        let batch = queue.take(now).unwrap();
        queue.settle(batch, failed(None), now);
        assert!(
            (wait * 0.75..=wait * 1.25).contains(&(queue.due - now)),
            "{wait}"
        );
        now = queue.due;
    }
    let batch = queue.take(now).unwrap();
    assert_eq!(batch, lines(0..8), "all, in order");
    queue.settle(batch, Answer::Taken, now);
    assert_eq!(
        (
            queue.health().sent,
            queue.health().dropped,
            queue.due - now,
            queue.health().error
        ),
        (8, 0, 1.0, None)
    );
}

/// Flushes of 100 lines to a server that takes what `judge` says; what it took, and the most requests of a flush.
fn flushes(queue: &mut Queue, count: usize, judge: impl Fn(&str) -> Answer) -> (String, usize) {
    let (mut taken, mut most) = (String::new(), 0);
    for flush in 0..count {
        queue.push(&lines(flush * 100..(flush + 1) * 100));
        let (now, mut requests) = (queue.due, 0);
        while let Some(batch) = queue.take(now) {
            requests += 1;
            let answer = judge(&batch);
            taken += if answer == Answer::Taken { &batch } else { "" };
            queue.settle(batch, answer, now);
        }
        most = most.max(requests);
    }
    (taken, most)
}

#[test]
fn what_is_refused_costs_itself() {
    for poison in [0, 1, 49, 98, 99] {
        let mut queue = Queue::new(30.0, 0.0);
        let is_bad =
            |line: &str| line.trim_start_matches("a v=").parse::<usize>().unwrap() % 100 == poison;
        let (taken, most) = flushes(&mut queue, 20, |batch| match batch.lines().any(is_bad) {
            true => Answer::BadLines(String::new(), None),
            false => Answer::Taken,
        });
        assert_eq!(
            taken,
            lines((0..2_000).filter(|number| number % 100 != poison))
        );
        assert_eq!(
            (
                queue.health().sent,
                queue.health().dropped,
                queue.health().waiting_bytes
            ),
            (1_980, 20, 0)
        );
        assert!(
            most <= 20 && queue.health().error.is_some(),
            "{most} requests"
        );
        flushes(&mut queue, 1, |_| Answer::Taken);
        assert_eq!(queue.health().error, None);
    }
    let mut queue = Queue::new(30.0, 0.0);
    let (taken, most) = flushes(&mut queue, 20, |_| Answer::BadLines(String::new(), None));
    assert!(
        taken.is_empty() && queue.health().dropped == 2_000 && most <= 50,
        "{most} requests"
    );
    let (taken, most) = flushes(&mut queue, 1, |batch| match batch.len() > 60 {
        true => Answer::TooLarge(String::new()),
        false => Answer::Taken,
    });
    assert!(taken == lines(0..100) && most < 50, "{most} requests");
}

#[test]
fn the_oldest_give_way() {
    let mut queue = Queue::new(30.0, 0.0);
    let line = |n: usize| format!("ö{n:06} v=\"{}\"\n", "é".repeat(n % 70));
    let all: String = (0..20_000).map(line).collect();
    (0..20_000).for_each(|n| queue.push(&line(n)));
    let batch = queue.take(100.0).unwrap();
    assert!(all.ends_with(&batch) && batch.starts_with('ö'));
    assert!(batch.len() <= 1 << 20 && batch.len() > (1 << 20) - 200);
    assert_eq!(
        queue.health().dropped + batch.lines().count() as u64,
        20_000
    );
    // What comes while a batch is under way counts too.
    queue.push(&line(7));
    queue.settle(batch, failed(None), 100.0);
    assert!(queue.health().waiting_bytes <= 1 << 20);
    queue.push(&"x".repeat(2 << 20));
    assert_eq!(
        queue.health().waiting_bytes,
        0,
        "a line that can't be kept is none"
    );
}
