//! What one target is told, as InfluxDB's line protocol: from a tick's status, observation and decision to lines. Pure.
//! Series, fields and types are a contract with dashboards (README): they are added to, never changed, because a database
//! fixes the type of a field by its first write. `daemon`, `measurement` and `container` are those of the first Plancton.

use super::*;
use crate::decide::{EndKind, Finished, PilotState};
use crate::units::{float, whole, word};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// All that is counted.
const ENDS: &str = "launches done no-work failed out-of-memory ttl owner drained killed never-ran";

/// Fields of `plancton_host` that say nothing of the owner.
const OF_HOST: &str = "cpus_total cpus_given cpus_pilots memory_total memory_given memory_pilots";

/// Reasons that say what the owner does.
const OF_OWNER: &str = "hold program battery temperature memory memory-pressure busy calming";

/// Who tells whom, and what.
pub struct View<'a> {
    pub target: &'a Influx,
    pub site: &'a Site,
    pub status: &'a Status,
    pub seen: &'a Observation,
    pub counts: &'a Counts,
}

/// Microseconds of the clock, and below them a number: no two points of a series share a time, of which a database would
/// keep one only.
fn nanos(epoch: f64, number: usize) -> u64 {
    whole(epoch * 1e6) * 1_000 + u64::try_from(number % 1_000).unwrap_or(0)
}

/// What is null is left out, as is what is no number.
fn encode((key, value): (&String, &Value)) -> Option<String> {
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
    fn line(&self, series: &str, at: u64, tags: &[(&str, &str)], fields: &Value) -> String {
        let fields = fields.as_object().into_iter().flatten();
        let fields: Vec<String> = fields.filter_map(encode).collect();
        if fields.is_empty() {
            return String::new();
        }
        let mut line = series.to_owned();
        let alias = Some(&*self.target.host_alias).filter(|alias| !alias.is_empty());
        let first = self.site.host.split('.').next();
        let host = alias.or(first.filter(|_| self.target.owner_metrics));
        let host = host.unwrap_or("");
        let ours = [("hostname", host), ("instance", &self.site.instance)];
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
            let exit_code = end.exit_code.max(0);
            let fields = json!({"uptime": end.lived, "name": end.name, "exit_code": exit_code});
            self.line("container", nanos(end.at, number), &tags, &fields)
        };
        ended.iter().enumerate().map(line).collect()
    }

    /// How things stand.
    pub fn sample(&self) -> String {
        let (status, seen) = (self.status, self.seen);
        let (at, mut lines) = (nanos(status.tick, 0), String::new());
        let mut add = |series, tags: &[(&str, &str)], fields| {
            lines += &self.line(series, at, tags, &fields);
        };
        // Every class that has, or had, a pilot.
        let had = self.counts.keys();
        let had = had.filter(|(_, what)| what != "launch-failed");
        let mut running: BTreeMap<&str, u64> = had.map(|(class, _)| (&**class, 0)).collect();
        for pilot in &status.pilots {
            let runs = u64::from(pilot.state == PilotState::Running);
            *running.entry(&pilot.class).or_default() += runs;
        }
        let (uptime, containers) = (status.tick - status.since, float(running.values().sum()));
        let daemon = json!({"uptime": uptime, "containers": containers, "status": status.state});
        add("daemon", &[], daemon);
        let busy = seen.cpu.filter(|_| self.target.owner_metrics);
        let busy = busy.map(|cpu| 100.0 * cpu.busy / seen.threads);
        add("measurement", &[], json!({"cpu_eff": busy}));
        add("plancton_host", &[], self.of_host());
        let engine = *self.site.engine.counters();
        let seconds = engine.time.as_secs_f64();
        let calls = json!({"calls": engine.calls, "failed": engine.failed, "seconds": seconds});
        add("plancton_engine", &[], calls);
        let given = json!({"cpu_seconds": status.given_seconds});
        add("plancton_pilots", &[], given);
        let reason = &status.reason;
        let is_told =
            self.target.owner_metrics || OF_OWNER.split(' ').all(|of| of != word(reason.code));
        let told = Some(reason).filter(|_| is_told);
        let code = told.map_or("owner".to_owned(), |reason| word(reason.code));
        let decision = json!({
            "state": status.state, "reason": code, "value": told.map(|reason| reason.value),
            "threshold": told.map(|reason| reason.threshold),
        });
        add("plancton_decision", &[("code", &code)], decision);
        for (class, running) in running {
            let count = |what: &str| self.counts.get(&(class.to_owned(), what.to_owned()));
            let counted = ENDS.split(' ');
            let counted = counted.map(|what| (what, *count(what).unwrap_or(&0)));
            let fields = counted.chain([("running", running)]).collect();
            add("plancton_pilots", &[("class", class)], fields);
        }
        for sink in &status.sinks {
            let fields = json!({"sent": sink.sent, "dropped": sink.dropped, "errors": sink.errors});
            add("plancton_sink", &[("sink", &sink.url)], fields);
        }
        lines
    }

    fn of_host(&self) -> Value {
        let (cpus, memory, seen) = (&self.status.cpus, &self.status.memory, self.seen);
        let used = seen.memory;
        let (total, available) = (used.map(|used| used.total), used.map(|used| used.available));
        let mut fields = json!({
            "cpus_total": cpus.total, "cpus_given": cpus.given, "cpus_pilots": cpus.pilots,
            "memory_total": total, "memory_given": memory.given, "memory_pilots": memory.pilots,
            "cpus_foreign": cpus.foreign, "cpus_idle": cpus.idle, "memory_foreign": memory.foreign,
            "memory_available": available, "memory_pressure": seen.memory_pressure,
            "disk_free": seen.disk_free, "temperature": seen.temperature, "battery": seen.charge,
            "on_battery": seen.on_battery,
        });
        let all = fields.as_object_mut();
        if let Some(all) = all.filter(|_| !self.target.owner_metrics) {
            all.retain(|key, _| OF_HOST.split(' ').any(|known| known == key));
        }
        fields
    }
}
