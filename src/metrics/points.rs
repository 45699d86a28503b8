//! What one target is told, as InfluxDB's line protocol: from a tick's status, observation and decision to lines. Pure.
//! Series, fields and types are a contract with dashboards (README): they are added to, never changed, because a database
//! fixes the type of a field by its first write. `daemon`, `measurement` and `container` are those of the first Plancton.

use crate::config::Influx;
use crate::decide::{Code, Counts, EndKind, Finished, Observation, PilotState};
use crate::engine::Counters;
use crate::report::{Pilot, Status};
use crate::units::{float as to_float, whole, word};
use std::collections::BTreeSet;

/// Kinds of ends, of which each class has a count.
const ENDS: &str = "done no-work failed out-of-memory ttl owner drained killed never-ran";

#[derive(Clone, Debug, PartialEq)]
pub struct View {
    instance: String,
    /// Empty: not told.
    host: String,
    /// Whether what tells of the owner is.
    owner: bool,
}

/// Reasons that say what the owner does.
fn tells_of_owner(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Hold | Program | Battery | Temperature | Memory | MemoryPressure | Busy | Calming
    )
}

/// Microseconds of the clock, and below them a number: no two points of a series share a time, of which a database would
/// keep one only.
fn nanos(epoch: f64, number: usize) -> u64 {
    whole(epoch * 1e6) * 1_000 + u64::try_from(number % 1_000).unwrap_or(0)
}

/// `None`: left out, as is what is no number.
type Field = Option<String>;

fn float(key: &str, value: impl Into<Option<f64>>) -> Field {
    let number = value.into().filter(|number| number.is_finite())?;
    Some(format!("{key}={number}"))
}

fn integer(key: &str, value: impl Into<Option<u64>>) -> Field {
    let number = i64::try_from(value.into()?).unwrap_or(i64::MAX);
    Some(format!("{key}={number}i"))
}

fn text(key: &str, value: &str) -> Field {
    Some(format!("{key}=\"{}\"", escape(value, &['"', '\\'])))
}

/// Whatever ends a line, or is no sign at all, becomes a blank.
fn escape(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if special.contains(&c) {
            escaped.push('\\');
        }
        escaped.push(if c.is_control() { ' ' } else { c });
    }
    escaped
}

impl View {
    pub fn new(target: &Influx, instance: &str, host: &str) -> View {
        let host = host.split('.').next().filter(|_| target.owner_metrics);
        let alias = Some(target.host_alias.as_str()).filter(|alias| !alias.is_empty());
        View {
            instance: instance.to_owned(),
            host: alias.or(host).unwrap_or_default().to_owned(),
            owner: target.owner_metrics,
        }
    }

    /// One line with its end; none if it has no field. Tags are sorted, as servers like them best, and never empty.
    fn line(&self, series: &str, at: u64, tags: &[(&str, &str)], fields: &[Field]) -> String {
        let fields: Vec<&str> = fields.iter().flatten().map(String::as_str).collect();
        if fields.is_empty() {
            return String::new();
        }
        let mut line = series.to_owned();
        let ours = [("hostname", &*self.host), ("instance", &*self.instance)];
        for (key, value) in BTreeSet::from_iter(ours.iter().chain(tags)) {
            // A backslash at the end would take the next sign with it, and has no escape of its own.
            let value = value.trim_end_matches(|c: char| c == '\\' || c.is_control());
            if !value.is_empty() {
                line += &format!(",{key}={}", escape(value, &[',', '=', ' ']));
            }
        }
        format!("{line} {} {at}\n", fields.join(","))
    }

    /// One line for each pilot whose end was learned of at a tick.
    pub fn ends(&self, ended: &[Finished]) -> String {
        let truth = |is_so| if is_so { "True" } else { "False" };
        let line = |(number, end): (usize, &Finished)| {
            let by_us = matches!(end.kind, EndKind::Ttl | EndKind::Owner | EndKind::Drained);
            let kind = word(end.kind);
            let tags = [
                ("class", end.class.as_str()),
                ("kind", &kind),
                ("started", truth(end.kind != EndKind::NeverRan)),
                ("killed", truth(by_us)),
            ];
            let fields = [
                float("uptime", end.lived),
                text("name", &end.name),
                integer("exit_code", u64::try_from(end.exit_code).unwrap_or(0)),
            ];
            self.line("container", nanos(end.at, number), &tags, &fields)
        };
        ended.iter().enumerate().map(line).collect()
    }

    /// How things stand.
    pub fn sample(
        &self,
        status: &Status,
        seen: &Observation,
        counts: &Counts,
        engine: Counters,
    ) -> String {
        let at = nanos(status.tick, 0);
        let daemon = [
            float("uptime", status.tick - status.since),
            float("containers", to_float(running(status, None))),
            text("status", &word(status.state)),
        ];
        let busy = seen.cpu.filter(|_| self.owner);
        let busy = float("cpu_eff", busy.map(|cpu| 100.0 * cpu.busy / seen.threads));
        let calls = [
            integer("calls", engine.calls),
            integer("failed", engine.failed),
            float("seconds", engine.time.as_secs_f64()),
        ];
        let given = float("cpu_seconds", status.given_seconds);
        let mut lines = self.line("daemon", at, &[], &daemon);
        lines += &self.line("measurement", at, &[], &[busy]);
        lines += &self.line("plancton_host", at, &[], &self.host(status, seen));
        lines += &self.line("plancton_engine", at, &[], &calls);
        lines += &self.line("plancton_pilots", at, &[], &[given]);
        lines += &self.decision(status, at);
        lines += &self.classes(status, counts, at);
        for target in &status.sinks {
            let fields = [
                integer("sent", target.sent),
                integer("dropped", target.dropped),
                integer("errors", target.errors),
            ];
            lines += &self.line("plancton_sink", at, &[("sink", &target.url)], &fields);
        }
        lines
    }

    fn host(&self, status: &Status, seen: &Observation) -> Vec<Field> {
        let (cpus, memory, seen_memory) = (&status.cpus, &status.memory, seen.memory);
        let mut fields = vec![
            float("cpus_total", cpus.total),
            float("cpus_given", cpus.given),
            float("cpus_pilots", cpus.pilots),
            integer("memory_total", seen_memory.map(|memory| memory.total)),
            integer("memory_given", memory.given),
            integer("memory_pilots", memory.pilots),
        ];
        if self.owner {
            let available = seen_memory.map(|memory| memory.available);
            fields.extend([
                float("cpus_foreign", cpus.foreign),
                float("cpus_idle", cpus.idle),
                integer("memory_foreign", memory.foreign),
                integer("memory_available", available),
                integer("disk_free", status.disk.as_ref().map(|disk| disk.free)),
                float("memory_pressure", seen.memory_pressure),
                float("temperature", seen.temperature),
                integer("battery", seen.charge.map(u64::from)),
                Some(format!("on_battery={}", seen.on_battery)),
            ]);
        }
        fields
    }

    fn decision(&self, status: &Status, at: u64) -> String {
        let reason = &status.reason;
        let is_told = self.owner || !tells_of_owner(reason.code);
        let code = word(reason.code);
        let code = if is_told { code.as_str() } else { "owner" };
        let number = |value| Some(value).filter(|_| is_told);
        let fields = [
            text("state", &word(status.state)),
            float("value", number(reason.value)),
            float("threshold", number(reason.threshold)),
            text("reason", code),
        ];
        self.line("plancton_decision", at, &[("code", code)], &fields)
    }

    /// Every class that has, or had, a pilot.
    fn classes(&self, status: &Status, counts: &Counts, at: u64) -> String {
        let now = status.pilots.iter().map(|pilot| &pilot.class);
        let had = counts.keys().filter(|(_, what)| what != "launch-failed");
        let classes: BTreeSet<&String> = now.chain(had.map(|(class, _)| class)).collect();
        let line = |class: &String| {
            let count = |what: &str| {
                let count = counts.get(&(class.clone(), what.to_owned()));
                integer(what, count.copied().unwrap_or(0))
            };
            let running = integer("running", running(status, Some(class)));
            let mut fields = vec![running, count("launches")];
            fields.extend(ENDS.split(' ').map(count));
            self.line("plancton_pilots", at, &[("class", class)], &fields)
        };
        classes.into_iter().map(line).collect()
    }
}

/// Pilots that run, of a class or of all.
fn running(status: &Status, class: Option<&str>) -> u64 {
    let is_of = |pilot: &&Pilot| class.is_none_or(|class| pilot.class == class);
    let pilots = status.pilots.iter().filter(is_of);
    pilots
        .map(|pilot| u64::from(pilot.state == PilotState::Running))
        .sum()
}
