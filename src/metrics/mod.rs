//! Metrics: at each tick lines for every target, handed to a thread of its own, which keeps them until a flush is due. The
//! loop waits for no server, but for a moment at the end. A server that is away costs the oldest lines beyond the bound;
//! one that refuses lines costs those lines; neither can keep later lines from being sent.

mod points;
mod send;
#[cfg(test)]
mod tests;

pub use send::{Answer, write};

use crate::decide::{Counts, Decision, Observation};
use crate::report::{Sink, Status};
use crate::{clock, config::Influx, site::Site, units::draw, units::lock};
use points::View;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Longest wait between two tries, in seconds, and the longest that a server may ask for.
const BACK_OFF_MOST: f64 = 60.0;
const ASKED_MOST: f64 = 600.0;
/// How long the daemon's end waits for a request of the last flush; for all of it twice as long.
const LAST_REQUEST: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Metrics {
    targets: Vec<Target>,
}

struct Target {
    config: Influx,
    /// Boot second at which it is told next how things stand.
    sample_at: f64,
    /// `None`: nothing more is to be sent. When it is closed, what waits is sent now, if that goes at once.
    lines: SyncSender<Option<String>>,
    health: Arc<Mutex<Sink>>,
    thread: JoinHandle<()>,
}

impl Metrics {
    /// At the start, and when the configuration was read again. A target that has not changed keeps its queue.
    pub fn aim(&mut self, targets: &[Influx]) {
        let mut before = std::mem::take(&mut self.targets);
        for config in targets {
            let known = before.iter().position(|known| known.config == *config);
            match known.map_or_else(|| start(config), |index| Ok(before.swap_remove(index))) {
                Ok(target) => self.targets.push(target),
                Err(error) => log::error!("no thread for metrics: {error}; none are sent"),
            }
        }
        for target in before {
            // A queue that is full ends all the same, after it was sent.
            let _ = target.lines.try_send(None);
        }
    }

    /// The targets' health, for the status.
    pub fn health(&self) -> Vec<Sink> {
        let health = |target: &Target| lock(&target.health).clone();
        self.targets.iter().map(health).collect()
    }

    /// Ends of pilots at once; how things stand at the tick nearest to each target's flush.
    pub fn tell(
        &mut self,
        site: &Site,
        status: &Status,
        seen: &Observation,
        decision: &Decision,
        counts: &Counts,
    ) {
        let (now, interval) = (seen.at.boot, status.turning.interval);
        for target in &mut self.targets {
            let view = View {
                target: &target.config,
                site,
                status,
                seen,
                counts,
            };
            let mut lines = view.ends(&decision.ended);
            if now + interval / 2.0 >= target.sample_at {
                let flush = target.config.flush.as_secs_f64();
                let next = target.sample_at + flush;
                target.sample_at = if next > now { next } else { now + flush };
                lines += &view.sample();
            }
            let number = lines.lines().count() as u64;
            if number > 0 && target.lines.try_send(Some(lines)).is_err() {
                lock(&target.health).dropped += number;
            }
        }
    }

    /// The last points leave, if the targets take them soon.
    pub fn end(&mut self) {
        let threads = self.targets.drain(..).map(|target| target.thread);
        let (threads, begun) = (Vec::from_iter(threads), Instant::now());
        let is_sending = || threads.iter().any(|thread| !thread.is_finished());
        while is_sending() && begun.elapsed() < 2 * LAST_REQUEST {
            sleep(Duration::from_millis(10));
        }
    }
}

/// Errors: no thread.
fn start(config: &Influx) -> std::io::Result<Target> {
    // The thread may be busy with a request for so many ticks before lines are lost.
    let (sender, receiver) = sync_channel(1_000);
    let queue = Queue {
        flush: config.flush.as_secs_f64(),
        ..Queue::default()
    };
    let (target, health) = (config.clone(), Arc::clone(&queue.health));
    lock(&health).url = config.title();
    // TLS is computed on it; only what is used is resident.
    let thread = Builder::new().stack_size(512 << 10);
    let thread = thread.name("metrics".to_owned());
    Ok(Target {
        config: config.clone(),
        sample_at: f64::NEG_INFINITY,
        lines: sender,
        health,
        thread: thread.spawn(move || work(&target, queue, &receiver))?,
    })
}

fn work(target: &Influx, mut queue: Queue, lines: &Receiver<Option<String>>) {
    let now = clock::now().boot;
    // Machines that start together do not send together.
    let mut due = now + queue.flush * draw(now);
    loop {
        let wait = (due - clock::now().boot).max(0.0);
        let limit = match lines.recv_timeout(Duration::from_secs_f64(wait)) {
            Ok(None) => return,
            Ok(Some(lines)) => {
                queue.push(&lines);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(LAST_REQUEST),
        };
        let pause = queue.send(draw(due), |lines| write(target, lines, limit));
        if limit.is_some() {
            return;
        }
        due = clock::now().boot + pause;
    }
}

/// What waits for one target.
#[derive(Default)]
struct Queue {
    /// The oldest first, each with its end.
    lines: VecDeque<String>,
    /// Seconds between two flushes.
    flush: f64,
    /// Failures in a row.
    failures: i32,
    health: Arc<Mutex<Sink>>,
}

impl Queue {
    /// The oldest lines give way to what is more than a mebibyte.
    fn push(&mut self, lines: &str) {
        let mut health = lock(&self.health);
        for line in lines.split_inclusive('\n') {
            health.waiting_bytes += line.len();
            self.lines.push_back(line.to_owned());
        }
        while health.waiting_bytes > 1 << 20
            && let Some(line) = self.lines.pop_front()
        {
            health.waiting_bytes -= line.len();
            health.dropped += 1;
        }
    }

    /// Sends all that waits, in smaller and smaller pieces where the server does not take it whole. The seconds to the next
    /// time; `chance` is from 0 to 1.
    fn send(&mut self, chance: f64, mut send: impl FnMut(&str) -> Answer) -> f64 {
        let mut pieces = vec![Vec::from(std::mem::take(&mut self.lines))];
        // How much more often than it takes a piece a server may refuse one before the others are no longer halved: enough to
        // find a line in a full queue, or a few in a usual one.
        let (mut splits, mut error, mut away) = (20u32, None, None);
        while let Some(mut piece) = pieces.pop().filter(|piece| !piece.is_empty()) {
            let answer = send(&piece.concat());
            let (mut health, number) = (lock(&self.health), piece.len());
            health.errors += u64::from(answer != Answer::Taken);
            match answer {
                Answer::Taken => {
                    health.sent += number as u64;
                    splits += 1;
                }
                Answer::Refused(_) if number > 1 && splits > 0 => {
                    splits -= 1;
                    let rest = piece.split_off(number / 2);
                    pieces.extend([rest, piece]);
                }
                Answer::Refused(why) => {
                    health.dropped += number as u64;
                    error = Some(format!("{why}; what it refuses is dropped"));
                }
                Answer::Failed(why, asked) => {
                    error = Some(format!("{why}; the points wait"));
                    away = Some(asked.unwrap_or(0.0));
                    pieces.push(piece);
                    self.lines = pieces.drain(..).rev().flatten().collect();
                }
            }
        }
        let mut health = lock(&self.health);
        health.error = error;
        health.waiting_bytes = self.lines.iter().map(String::len).sum();
        let Some(asked) = away else {
            self.failures = 0;
            return self.flush;
        };
        let doubled = self.flush * 2f64.powi(self.failures.min(16));
        let back_off = doubled.min(BACK_OFF_MOST).max(self.flush);
        self.failures += 1;
        asked.min(ASKED_MOST).max(back_off * (0.75 + 0.5 * chance))
    }
}
