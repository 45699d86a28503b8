//! What one target is told, as InfluxDB's line protocol: from a tick's status, observation and decision to lines. Pure.
//! Series, fields and types are a contract with dashboards (README): they are added to, never changed, because a database
//! fixes the type of a field by its first write. `daemon`, `measurement` and `container` are those of the first Plancton.

use crate::config::Influx;
use crate::decide::{Code, Counts, EndKind, Finished, Observation, PilotState};
use crate::engine::Counters;
use crate::report::Status;
use crate::units::{float, whole, word};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// All that is counted.
const COUNTED: &str =
    "launches done no-work failed out-of-memory ttl owner drained killed never-ran";

/// Reasons that say what the owner does.
fn tells_of_owner(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Hold | Program | Battery | Temperature | Memory | MemoryPressure | Busy | Calming
    )
}

/// Who tells whom.
pub struct View<'a> {
    pub target: &'a Influx,
    pub instance: &'a str,
    pub host: &'a str,
}

/// Microseconds of the clock, and below them a number: no two points of a series share a time, of which a database would
/// keep one only.
fn nanos(epoch: f64, number: usize) -> u64 {
    whole(epoch * 1e6) * 1_000 + u64::try_from(number % 1_000).unwrap_or(0)
}

/// What is null is left out, as is what is no number.
type Field<'a> = (&'a str, Value);

fn encode((key, value): &Field) -> Option<String> {
    let value = match value {
        Value::Null => return None,
        Value::Number(number) if number.is_f64() => number.as_f64()?.to_string(),
        Value::Number(number) => format!("{}i", number.as_i64().unwrap_or(i64::MAX)),
        Value::String(text) => format!("\"{}\"", escape(text, "\"\\")),
        other => other.to_string(),
    };
    Some(format!("{key}={value}"))
}

/// Whatever ends a line, or is no sign at all, becomes a blank.
fn escape(text: &str, special: &str) -> String {
    let escaped = |c: char| {
        let mark = special.contains(c).then_some('\\');
        mark.into_iter()
            .chain([if c.is_control() { ' ' } else { c }])
    };
    text.chars().flat_map(escaped).collect()
}

impl View<'_> {
    /// One line with its end; none if it has no field. Tags are sorted, as servers like them best, and never empty.
    fn line(&self, series: &str, at: u64, tags: &[(&str, &str)], fields: &[Field]) -> String {
        let fields: Vec<String> = fields.iter().filter_map(encode).collect();
        if fields.is_empty() {
            return String::new();
        }
        let mut line = series.to_owned();
        let alias = Some(&*self.target.host_alias).filter(|alias| !alias.is_empty());
        let first = self.host.split('.').next();
        let host = alias.or(first.filter(|_| self.target.owner_metrics));
        let ours = [
            ("hostname", host.unwrap_or("")),
            ("instance", self.instance),
        ];
        for (key, value) in BTreeSet::from_iter(ours.iter().chain(tags)) {
            // A backslash at the end would take the next sign with it, and has no escape of its own.
            let value = value.trim_end_matches(|c: char| c == '\\' || c.is_control());
            if !value.is_empty() {
                line += &format!(",{key}={}", escape(value, ",= "));
            }
        }
        format!("{line} {} {at}\n", fields.join(","))
    }

    /// One line for each pilot whose end was learned of at a tick.
    pub fn ends(&self, ended: &[Finished]) -> String {
        let truth = |is_so| if is_so { "True" } else { "False" };
        let line = |(number, end): (usize, &Finished)| {
            let kind = word(end.kind);
            let by_us = matches!(end.kind, EndKind::Ttl | EndKind::Owner | EndKind::Drained);
            let tags = [
                ("class", end.class.as_str()),
                ("kind", &kind),
                ("started", truth(end.kind != EndKind::NeverRan)),
                ("killed", truth(by_us)),
            ];
            let fields = [
                ("uptime", end.lived.into()),
                ("name", end.name.as_str().into()),
                ("exit_code", end.exit_code.max(0).into()),
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
        engine: Counters,
        counts: &Counts,
    ) -> String {
        let (at, mut lines) = (nanos(status.tick, 0), String::new());
        let mut add = |series, tag: &[(&str, &str)], fields: &[Field]| {
            lines += &self.line(series, at, tag, fields);
        };
        // Every class that has, or had, a pilot.
        let had = counts.keys().filter(|(_, what)| what != "launch-failed");
        let mut running: BTreeMap<&str, u64> = had.map(|(class, _)| (&**class, 0)).collect();
        for pilot in &status.pilots {
            let runs = u64::from(pilot.state == PilotState::Running);
            *running.entry(&pilot.class).or_default() += runs;
        }
        let daemon = [
            ("uptime", (status.tick - status.since).into()),
            ("containers", float(running.values().sum()).into()),
            ("status", json!(status.state)),
        ];
        add("daemon", &[], &daemon);
        let busy = seen.cpu.filter(|_| self.target.owner_metrics);
        let busy = busy.map(|cpu| 100.0 * cpu.busy / seen.threads);
        add("measurement", &[], &[("cpu_eff", busy.into())]);
        add("plancton_host", &[], &self.of_host(status, seen));
        let calls = [
            ("calls", engine.calls.into()),
            ("failed", engine.failed.into()),
            ("seconds", engine.time.as_secs_f64().into()),
        ];
        add("plancton_engine", &[], &calls);
        let given = ("cpu_seconds", status.given_seconds.into());
        add("plancton_pilots", &[], &[given]);
        let (code, decision) = self.decision(status);
        add("plancton_decision", &[("code", &code)], &decision);
        for (class, running) in running {
            let mut fields: Vec<Field> = vec![("running", running.into())];
            fields.extend(COUNTED.split(' ').map(|what| {
                let count = counts.get(&(class.to_owned(), what.to_owned()));
                (what, (*count.unwrap_or(&0)).into())
            }));
            add("plancton_pilots", &[("class", class)], &fields);
        }
        for target in &status.sinks {
            let fields = [
                ("sent", target.sent.into()),
                ("dropped", target.dropped.into()),
                ("errors", target.errors.into()),
            ];
            add("plancton_sink", &[("sink", &target.url)], &fields);
        }
        lines
    }

    /// Its code, and the fields.
    fn decision(&self, status: &Status) -> (String, [Field<'static>; 4]) {
        let reason = &status.reason;
        let told =
            Some(reason).filter(|_| self.target.owner_metrics || !tells_of_owner(reason.code));
        let code = told.map_or("owner".to_owned(), |reason| word(reason.code));
        let fields = [
            ("state", json!(status.state)),
            ("value", told.map(|reason| reason.value).into()),
            ("threshold", told.map(|reason| reason.threshold).into()),
            ("reason", code.as_str().into()),
        ];
        (code, fields)
    }

    fn of_host(&self, status: &Status, seen: &Observation) -> Vec<Field<'static>> {
        let (cpus, memory, used) = (&status.cpus, &status.memory, seen.memory);
        let mut fields: Vec<Field> = vec![
            ("cpus_total", cpus.total.into()),
            ("cpus_given", cpus.given.into()),
            ("cpus_pilots", cpus.pilots.into()),
            ("memory_total", used.map(|used| used.total).into()),
            ("memory_given", memory.given.into()),
            ("memory_pilots", memory.pilots.into()),
        ];
        if self.target.owner_metrics {
            fields.extend([
                ("cpus_foreign", cpus.foreign.into()),
                ("cpus_idle", cpus.idle.into()),
                ("memory_foreign", memory.foreign.into()),
                ("memory_available", used.map(|used| used.available).into()),
                ("disk_free", seen.disk_free.into()),
                ("memory_pressure", seen.memory_pressure.into()),
                ("temperature", seen.temperature.into()),
                ("battery", seen.charge.into()),
                ("on_battery", seen.on_battery.into()),
            ]);
        }
        fields
    }
}
