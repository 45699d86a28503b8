//! What is told to metrics targets: from a tick's status, observation and decision to points. Pure.
//! Series, fields and types are a contract with dashboards (README): they are added to, never changed.
//! `daemon`, `measurement` and `container` are those of the first Plancton, with its types.

use super::line::{Field, Point};
use crate::decide::{Code, EndKind, Finished, LaunchResult, News, Observation, PilotState};
use crate::engine::Counters;
use crate::report::{Status, word};
use crate::units::{float, whole};
use std::collections::BTreeMap;

/// What is told to one target.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub instance: String,
    /// Empty: not told.
    pub host: String,
    /// Whether what tells of the owner is.
    pub owner: bool,
}

/// Launches and ends since the daemon started.
#[derive(Debug, Default)]
pub struct Tally {
    classes: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Ends that were counted, all classes together.
    pub ends: usize,
}

/// Reasons that say what the owner does.
fn tells_of_owner(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Hold | Program | Battery | Temperature | Memory | MemoryPressure | Busy | Calming
    )
}

impl Tally {
    pub fn count(&mut self, news: &[News], ended: &[Finished]) {
        let started = news.iter().filter_map(|news| match news {
            News::Launched {
                class,
                result: LaunchResult::Started(_),
                ..
            } => Some((class, "launches")),
            _ => None,
        });
        for (class, what) in started.chain(ended.iter().map(|gone| (&gone.class, gone.kind.name())))
        {
            *self
                .classes
                .entry(class.clone())
                .or_default()
                .entry(what)
                .or_default() += 1;
        }
        self.ends += ended.len();
    }
}

/// Microseconds of the clock, and below them a number: no two points of a series share a time, of which a database would
/// keep one only.
fn nanos(epoch: f64, number: usize) -> u64 {
    whole(epoch * 1e6) * 1_000 + u64::try_from(number % 1_000).unwrap_or(0)
}

impl View {
    fn point(&self, series: &'static str, at: u64, fields: Vec<(&'static str, Field)>) -> Point {
        let tags = BTreeMap::from([
            ("hostname", self.host.clone()),
            ("instance", self.instance.clone()),
        ]);
        Point {
            series,
            tags,
            fields,
            at,
        }
    }

    /// One point for each pilot whose end was learned of, after `before` others: pilots may end in the same microsecond and
    /// be learned of at different ticks.
    pub fn ends(&self, before: usize, ended: &[Finished]) -> Vec<Point> {
        let point = |(number, gone): (usize, &Finished)| {
            let truth = |is_so| if is_so { "True" } else { "False" }.to_owned();
            let by_us = matches!(gone.kind, EndKind::Ttl | EndKind::Owner | EndKind::Drained);
            let fields = vec![
                ("uptime", Field::Float(gone.lived)),
                ("name", Field::Text(gone.name.clone())),
                (
                    "exit_code",
                    Field::Integer(u64::try_from(gone.exit_code).unwrap_or(0)),
                ),
            ];
            let mut point = self.point("container", nanos(gone.at, before + number), fields);
            point.tags.extend([
                ("class", gone.class.clone()),
                ("kind", gone.kind.name().to_owned()),
                ("started", truth(gone.kind != EndKind::NeverRan)),
                ("killed", truth(by_us)),
            ]);
            point
        };
        ended.iter().enumerate().map(point).collect()
    }

    /// How things stand.
    pub fn sample(
        &self,
        status: &Status,
        seen: &Observation,
        engine: Counters,
        tally: &Tally,
    ) -> Vec<Point> {
        let at = nanos(status.tick, 0);
        let daemon = vec![
            ("uptime", Field::Float(status.tick - status.since)),
            ("containers", Field::Float(float(running(status, None)))),
            ("status", Field::Text(status.state.name().to_owned())),
        ];
        let calls = vec![
            ("calls", Field::Integer(engine.calls)),
            ("failed", Field::Integer(engine.failed)),
            ("seconds", Field::Float(engine.time.as_secs_f64())),
        ];
        let busy = seen
            .cpu
            .filter(|_| self.owner)
            .map(|cpu| ("cpu_eff", Field::Float(100.0 * cpu.busy / seen.threads)));
        let mut points = vec![
            self.point("daemon", at, daemon),
            self.point("measurement", at, busy.into_iter().collect()),
            self.point("plancton_host", at, self.host_fields(status, seen)),
            self.point("plancton_engine", at, calls),
            self.point(
                "plancton_pilots",
                at,
                vec![("cpu_seconds", Field::Float(status.given_seconds))],
            ),
            self.decision(status, at),
        ];
        points.extend(self.classes(status, tally, at));
        points.extend(status.sinks.iter().map(|sink| {
            let fields = vec![
                ("sent", Field::Integer(sink.sent)),
                ("dropped", Field::Integer(sink.dropped)),
                ("errors", Field::Integer(sink.errors)),
            ];
            let mut point = self.point("plancton_sink", at, fields);
            point.tags.insert("sink", sink.url.clone());
            point
        }));
        points
    }

    fn host_fields(&self, status: &Status, seen: &Observation) -> Vec<(&'static str, Field)> {
        let (cpus, memory) = (&status.cpus, &status.memory);
        let float = |key, value: Option<f64>| Some((key, Field::Float(value?)));
        let bytes = |key, value: Option<u64>| Some((key, Field::Integer(value?)));
        let shared = [
            float("cpus_total", Some(cpus.total)),
            float("cpus_given", Some(cpus.given)),
            float("cpus_pilots", cpus.pilots),
            bytes("memory_total", seen.memory.map(|memory| memory.total)),
            bytes("memory_given", Some(memory.given)),
            bytes("memory_pilots", memory.pilots),
        ];
        let of_owner = [
            float("cpus_foreign", cpus.foreign),
            float("cpus_idle", cpus.idle),
            bytes("memory_foreign", memory.foreign),
            bytes(
                "memory_available",
                seen.memory.map(|memory| memory.available),
            ),
            bytes("disk_free", status.disk.as_ref().map(|disk| disk.free)),
            float("memory_pressure", seen.memory_pressure),
            float("temperature", seen.temperature),
            bytes("battery", seen.charge.map(u64::from)),
            Some(("on_battery", Field::Flag(seen.on_battery))),
        ];
        shared
            .into_iter()
            .chain(of_owner.into_iter().filter(|_| self.owner))
            .flatten()
            .collect()
    }

    fn decision(&self, status: &Status, at: u64) -> Point {
        let reason = &status.reason;
        let is_told = self.owner || !tells_of_owner(reason.code);
        let mut fields = vec![("state", Field::Text(status.state.name().to_owned()))];
        if is_told {
            fields.extend([
                ("value", Field::Float(reason.value)),
                ("threshold", Field::Float(reason.threshold)),
            ]);
        }
        let code = if is_told {
            word(reason.code)
        } else {
            "owner".to_owned()
        };
        fields.push(("reason", Field::Text(code.clone())));
        let mut point = self.point("plancton_decision", at, fields);
        point.tags.insert("code", code);
        point
    }

    /// Every class that has, or had, a pilot.
    fn classes(&self, status: &Status, tally: &Tally, at: u64) -> Vec<Point> {
        let mut classes: BTreeMap<&str, Option<&BTreeMap<&str, u64>>> = BTreeMap::new();
        classes.extend(
            status
                .pilots
                .iter()
                .map(|pilot| (pilot.class.as_str(), None)),
        );
        classes.extend(
            tally
                .classes
                .iter()
                .map(|(class, counts)| (class.as_str(), Some(counts))),
        );
        let point = |(class, counts): (&str, Option<&BTreeMap<&str, u64>>)| {
            let count = |what: &'static str| {
                let count = counts
                    .and_then(|counts| counts.get(what))
                    .copied()
                    .unwrap_or(0);
                (what, Field::Integer(count))
            };
            let mut fields = vec![
                ("running", Field::Integer(running(status, Some(class)))),
                count("launches"),
            ];
            fields.extend(EndKind::ALL.map(|kind| count(kind.name())));
            let mut point = self.point("plancton_pilots", at, fields);
            point.tags.insert("class", class.to_owned());
            point
        };
        classes.into_iter().map(point).collect()
    }
}

/// Pilots that run, of a class or of all.
fn running(status: &Status, class: Option<&str>) -> u64 {
    let of_class = status
        .pilots
        .iter()
        .filter(|pilot| class.is_none_or(|class| pilot.class == class));
    of_class
        .filter(|pilot| pilot.state == PilotState::Running)
        .map(|_| 1)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::line::encode;
    use super::*;
    use crate::decide::{CpuUse, MemoryUse, Reason};
    use crate::report::{Cpus, Pilot, Sink};
    use crate::units::PilotId;
    use std::collections::BTreeSet;

    fn view(host: &str, owner: bool) -> View {
        View {
            instance: "system".to_owned(),
            host: host.to_owned(),
            owner,
        }
    }

    fn gone(kind: EndKind) -> Finished {
        let (name, log_tail) = ("plancton-c-1".to_owned(), String::new());
        Finished {
            name,
            class: "c".to_owned(),
            kind,
            at: 1_800_000_000.25,
            lived: 7.5,
            exit_code: 3,
            log_tail,
        }
    }

    fn text(points: &[Point]) -> String {
        let mut lines = String::new();
        points.iter().for_each(|point| encode(point, &mut lines));
        lines
    }

    fn sample(view: &View, code: Code) -> String {
        let pilot = |state| Pilot {
            class: "c".to_owned(),
            state,
            ..Pilot::default()
        };
        let status = Status {
            since: 1_799_999_990.0,
            tick: 1_800_000_000.5,
            cpus: Cpus {
                total: 4.0,
                foreign: Some(0.5),
                idle: Some(1.5),
                pilots: Some(2.0),
                ..Cpus::default()
            },
            reason: Reason::new(code, 1.5, 2.0, "said to people only"),
            pilots: [PilotState::Running, PilotState::Running, PilotState::Paused]
                .map(pilot)
                .to_vec(),
            sinks: vec![Sink {
                url: "http://h:1".to_owned(),
                sent: 5,
                dropped: 2,
                errors: 1,
                ..Sink::default()
            }],
            given_seconds: 99.5,
            ..Status::default()
        };
        let cpu = Some(CpuUse {
            busy: 2.5,
            ..CpuUse::default()
        });
        let memory = Some(MemoryUse {
            total: 9,
            available: 4,
            ..MemoryUse::default()
        });
        let (charge, temperature) = (Some(50), Some(61.5));
        let seen = Observation {
            threads: 4.0,
            cpu,
            memory,
            charge,
            temperature,
            ..Default::default()
        };
        let mut tally = Tally::default();
        let result = LaunchResult::Started(PilotId::new(&"a".repeat(64)).unwrap());
        let started = News::Launched {
            class: "c".to_owned(),
            name: String::new(),
            at: 0.0,
            result,
        };
        tally.count(
            &[started],
            &[
                gone(EndKind::Done),
                gone(EndKind::Done),
                gone(EndKind::OutOfMemory),
            ],
        );
        let counters = Counters {
            calls: 8,
            failed: 1,
            time: std::time::Duration::from_millis(250),
        };
        text(&view.sample(&status, &seen, counters, &tally))
    }

    #[test]
    fn a_sample() {
        let lines = sample(&view("h", true), Code::Busy);
        let at = "1800000000500000000\n";
        for line in [
            "daemon,hostname=h,instance=system uptime=10.5,containers=2,status=\"waiting\" ",
            "measurement,hostname=h,instance=system cpu_eff=62.5 ",
            "plancton_decision,code=busy,hostname=h,instance=system state=\"waiting\",value=1.5,threshold=2,reason=\"busy\" ",
            "plancton_engine,hostname=h,instance=system calls=8i,failed=1i,seconds=0.25 ",
            "plancton_pilots,hostname=h,instance=system cpu_seconds=99.5 ",
            "plancton_pilots,class=c,hostname=h,instance=system running=2i,launches=1i,done=2i,no-work=0i,failed=0i,out-of-memory=1i,\
             ttl=0i,owner=0i,drained=0i,killed=0i,never-ran=0i ",
            "plancton_sink,hostname=h,instance=system,sink=http://h:1 sent=5i,dropped=2i,errors=1i ",
            "plancton_host,hostname=h,instance=system cpus_total=4,cpus_given=0,cpus_pilots=2,memory_total=9i,memory_given=0i,\
             cpus_foreign=0.5,cpus_idle=1.5,memory_available=4i,temperature=61.5,battery=50i,on_battery=false ",
        ] {
            assert!(
                lines.contains(&format!("{line}{at}")),
                "{line}\nin\n{lines}"
            );
        }
        assert_eq!(lines.lines().count(), 8);
    }

    #[test]
    fn nothing_of_the_owner() {
        let lines = sample(&view("", false), Code::Busy);
        for word in [
            "measurement",
            "foreign",
            "idle",
            "battery",
            "temperature",
            "available",
            "value",
            "busy",
            "hostname",
        ] {
            assert!(!lines.contains(word), "{word} in\n{lines}");
        }
        assert!(
            lines.contains(
                "plancton_decision,code=owner,instance=system state=\"waiting\",reason=\"owner\" "
            ),
            "{lines}"
        );
        let lines = sample(&view("alias", false), Code::Full);
        assert!(
            lines.contains("code=full,hostname=alias") && lines.contains("value=1.5"),
            "{lines}"
        );
    }

    #[test]
    fn each_end_is_a_point() {
        let ended: Vec<Finished> = (0..300).map(|_| gone(EndKind::Done)).collect();
        let (now, later) = (
            view("h", true).ends(0, &ended),
            view("h", true).ends(300, &ended),
        );
        assert_eq!(
            now.iter()
                .chain(&later)
                .map(|point| point.at)
                .collect::<BTreeSet<_>>()
                .len(),
            600
        );
        for (kind, tags) in [
            (EndKind::Done, "killed=False,kind=done,started=True"),
            (EndKind::Ttl, "killed=True,kind=ttl,started=True"),
            (EndKind::Killed, "killed=False,kind=killed,started=True"),
            (
                EndKind::NeverRan,
                "killed=False,kind=never-ran,started=False",
            ),
        ] {
            let line = text(&view("h", true).ends(0, &[gone(kind)]));
            let expected = format!("container,class=c,hostname=h,instance=system,{tags} ");
            let fields = "uptime=7.5,name=\"plancton-c-1\",exit_code=3i 1800000000250000000\n";
            assert_eq!(line, expected + fields);
        }
    }
}
