//! Metrics: at each tick lines for every target, put into its queue; a thread of its own sends them from there. Nothing
//! here waits for a server, but for a moment at the end.

mod points;
mod queue;
mod send;
mod sender;
#[cfg(test)]
mod tests;

pub use queue::Answer;
pub use send::write;

use crate::config::Influx;
use crate::decide::{Decision, Observation};
use crate::engine::Counters;
use crate::report::{Sink, Status};
use points::{Tally, View};
use sender::Sender;
use std::time::Duration;

/// How long the daemon's end waits for the last flush.
const LAST_FLUSH: Duration = Duration::from_secs(2);

pub struct Metrics {
    instance: String,
    host: String,
    tally: Tally,
    targets: Vec<Target>,
}

struct Target {
    sender: Sender,
    view: View,
    /// Boot second at which it is told next how things stand.
    sample_at: f64,
}

impl Metrics {
    pub fn new(instance: &str, host: &str, targets: &[Influx]) -> Metrics {
        let mut metrics = Metrics {
            instance: instance.to_owned(),
            host: host.to_owned(),
            tally: Tally::default(),
            targets: Vec::new(),
        };
        metrics.aim(targets);
        metrics
    }

    /// At the start, and when the configuration was read again. A target that has not changed keeps its queue.
    pub fn aim(&mut self, targets: &[Influx]) {
        let mut before = std::mem::take(&mut self.targets);
        for target in targets {
            let known = before
                .iter()
                .position(|known| *known.sender.target == *target);
            if let Some(index) = known {
                self.targets.push(before.swap_remove(index));
                continue;
            }
            match Sender::start(target) {
                Ok(sender) => self.targets.push(Target {
                    sender,
                    view: View::new(target, &self.instance, &self.host),
                    sample_at: f64::NEG_INFINITY,
                }),
                Err(error) => log::error!("no thread for metrics: {error}; none are sent"),
            }
        }
        before.iter().for_each(|target| target.sender.stop());
    }

    /// The targets' health, for the status.
    pub fn health(&self) -> Vec<Sink> {
        let health = |target: &Target| target.sender.health();
        self.targets.iter().map(health).collect()
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
        let before = self.tally.ends;
        self.tally.count(&seen.news, &decision.ended);
        let now = seen.at.boot;
        for target in &mut self.targets {
            let mut lines = target.view.ends(before, &decision.ended);
            if now + interval / 2.0 >= target.sample_at {
                let flush = target.sender.target.flush.as_secs_f64();
                let next = target.sample_at + flush;
                target.sample_at = if next > now { next } else { now + flush };
                lines += &target.view.sample(status, seen, engine, &self.tally);
            }
            target.sender.push(&lines);
        }
    }

    /// The last points leave, if the targets take them soon.
    pub fn end(&self) {
        self.targets.iter().for_each(|target| target.sender.end());
        for target in &self.targets {
            target.sender.wait_for_end(LAST_FLUSH);
        }
    }
}
