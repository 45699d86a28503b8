//! Metrics: at each tick lines for every target, put into its queue; a thread of its own sends them from there. Nothing
//! here waits for a server, but for a moment at the end.

mod points;
mod queue;
mod send;
mod target;
#[cfg(test)]
mod tests;

pub use queue::Answer;
pub use send::write;

use crate::config::Influx;
use crate::decide::{Counts, Decision, Observation};
use crate::engine::Counters;
use crate::report::{Sink, Status};
use points::View;
use std::time::Duration;
use target::Target;

/// How long the daemon's end waits for the last flush.
const LAST_FLUSH: Duration = Duration::from_secs(2);

pub struct Metrics {
    instance: String,
    host: String,
    targets: Vec<Target>,
}

impl Metrics {
    pub fn new(instance: &str, host: &str, targets: &[Influx]) -> Metrics {
        let mut metrics = Metrics {
            instance: instance.to_owned(),
            host: host.to_owned(),
            targets: Vec::new(),
        };
        metrics.aim(targets);
        metrics
    }

    /// At the start, and when the configuration was read again. A target that has not changed keeps its queue.
    pub fn aim(&mut self, targets: &[Influx]) {
        let mut before = std::mem::take(&mut self.targets);
        for config in targets {
            if let Some(index) = before.iter().position(|known| *known.config == *config) {
                self.targets.push(before.swap_remove(index));
                continue;
            }
            let view = View::new(config, &self.instance, &self.host);
            match Target::start(config, view) {
                Ok(target) => self.targets.push(target),
                Err(error) => log::error!("no thread for metrics: {error}; none are sent"),
            }
        }
        before.iter().for_each(Target::stop);
    }

    /// The targets' health, for the status.
    pub fn health(&self) -> Vec<Sink> {
        self.targets.iter().map(Target::health).collect()
    }

    /// Ends of pilots at once; how things stand at the tick nearest to each target's flush.
    pub fn tell(
        &mut self,
        status: &Status,
        seen: &Observation,
        decision: &Decision,
        counts: &Counts,
        engine: Counters,
        interval: f64,
    ) {
        let now = seen.at.boot;
        for target in &mut self.targets {
            let mut lines = target.view.ends(&decision.ended);
            if now + interval / 2.0 >= target.sample_at {
                let flush = target.config.flush.as_secs_f64();
                let next = target.sample_at + flush;
                target.sample_at = if next > now { next } else { now + flush };
                lines += &target.view.sample(status, seen, counts, engine);
            }
            target.push(&lines);
        }
    }

    /// The last points leave, if the targets take them soon.
    pub fn end(&self) {
        self.targets.iter().for_each(Target::end);
        for target in &self.targets {
            target.wait_for_end(LAST_FLUSH);
        }
    }
}
