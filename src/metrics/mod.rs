//! Metrics: at each tick points for every target, encoded and put into its queue; the uplink's thread sends them.

mod line;
mod points;
mod queue;
mod send;
mod uplink;

use crate::config::Influx;
use crate::decide::{Decision, Observation};
use crate::engine::Counters;
use crate::report::{Sink, Status};
use points::{Tally, View};
use std::time::Duration;
use uplink::SenderThread;

pub use queue::Answer;

/// What a target says to an empty batch, for `check`.
pub fn probe(target: &Influx) -> Answer {
    send::write(target, "", None)
}

/// How long the daemon's end waits for the last flush.
const LAST_FLUSH: Duration = Duration::from_secs(2);

pub struct Metrics {
    instance: String,
    host: String,
    tally: Tally,
    outlets: Vec<Sender>,
    /// `None`: no target, or no thread.
    uplink: Option<SenderThread>,
}

/// What one target is told, and when next how things stand (boot-clock second).
struct Sender {
    view: View,
    flush: f64,
    sample_at: f64,
}

impl Metrics {
    pub fn new(instance: &str, host: &str, targets: &[Influx]) -> Metrics {
        let (instance, host) = (instance.to_owned(), host.to_owned());
        let mut metrics = Metrics {
            instance,
            host,
            tally: Tally::default(),
            outlets: Vec::new(),
            uplink: None,
        };
        metrics.aim(targets);
        metrics
    }

    /// At the start, and when the configuration was read again.
    pub fn aim(&mut self, targets: &[Influx]) {
        if self.uplink.is_none() && !targets.is_empty() {
            match SenderThread::start() {
                Ok(uplink) => self.uplink = Some(uplink),
                Err(error) => log::error!("no thread for metrics: {error}; none are sent"),
            }
        }
        if let Some(uplink) = &self.uplink {
            uplink.aim(targets);
        }
        let outlet = |target: &Influx| Sender {
            view: self.view(target),
            flush: target.flush.as_secs_f64(),
            sample_at: f64::NEG_INFINITY,
        };
        self.outlets = targets.iter().map(outlet).collect();
    }

    fn view(&self, target: &Influx) -> View {
        let host = self
            .host
            .split('.')
            .next()
            .filter(|_| target.owner_metrics)
            .unwrap_or_default();
        let host = Some(target.host_alias.as_str())
            .filter(|alias| !alias.is_empty())
            .unwrap_or(host);
        View {
            instance: self.instance.clone(),
            host: host.to_owned(),
            owner: target.owner_metrics,
        }
    }

    /// The targets' health, for the status.
    pub fn sinks(&self) -> Vec<Sink> {
        self.uplink.as_ref().map_or(Vec::new(), SenderThread::sinks)
    }

    /// Ends of pilots at once; how things stand at the tick nearest to each target's flush.
    pub fn tell(
        &mut self,
        status: &Status,
        seen: &Observation,
        decision: &Decision,
        engine: Counters,
        interval: f64,
    ) {
        let Some(uplink) = &self.uplink else {
            return;
        };
        let before = self.tally.ends;
        self.tally.count(&seen.news, &decision.ended);
        let now = seen.at.boot;
        let mut lines = vec![String::new(); self.outlets.len()];
        for (outlet, lines) in self.outlets.iter_mut().zip(&mut lines) {
            let mut points = outlet.view.ends(before, &decision.ended);
            if now + interval / 2.0 >= outlet.sample_at {
                let next = outlet.sample_at + outlet.flush;
                outlet.sample_at = if next > now { next } else { now + outlet.flush };
                points.extend(outlet.view.sample(status, seen, engine, &self.tally));
            }
            points.iter().for_each(|point| line::encode(point, lines));
        }
        if lines.iter().any(|lines| !lines.is_empty()) {
            uplink.push(lines.iter().map(String::as_str));
        }
    }

    /// The last points leave, if the targets take them soon.
    pub fn end(&self) {
        if let Some(uplink) = &self.uplink {
            uplink.end(LAST_FLUSH);
        }
    }
}
