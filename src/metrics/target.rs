//! One target: what it is told, its bounded queue, and the thread that sends from there, which sleeps until a flush is due.
//! The loop only ever adds lines and looks at counters.

use super::points::View;
use super::queue::{Answer, Phase, Queue};
use super::send;
use crate::clock;
use crate::config::Influx;
use crate::report::Sink;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// At the end of the daemon the target gets one request of at most this.
const LAST: Duration = Duration::from_secs(1);
/// TLS is computed on it; only what is used is resident.
const STACK_BYTES: usize = 512 << 10;

#[derive(Clone)]
pub struct Target {
    pub config: Arc<Influx>,
    pub view: View,
    /// Boot second at which it is told next how things stand.
    pub sample_at: f64,
    queue: Arc<(Mutex<Queue>, Condvar)>,
}

impl Target {
    /// Errors: no thread.
    pub fn start(config: &Influx, view: View) -> std::io::Result<Target> {
        let mut queue = Queue::new(config.flush.as_secs_f64(), clock::now().boot);
        queue.health.url = config.title();
        let target = Target {
            config: Arc::new(config.clone()),
            view,
            sample_at: f64::NEG_INFINITY,
            queue: Arc::new((Mutex::new(queue), Condvar::new())),
        };
        let worker = target.clone();
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        let thread = thread.stack_size(STACK_BYTES);
        thread.spawn(move || worker.work())?;
        Ok(target)
    }

    /// A thread that panicked left whole lines and counters.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, lines: &str) {
        self.lock().push(lines);
    }

    pub fn health(&self) -> Sink {
        self.lock().health()
    }

    /// Nothing more is sent.
    pub fn stop(&self) {
        *self.lock() = Queue::default();
        self.end();
    }

    /// What waits is sent now, if that goes at once.
    pub fn end(&self) {
        let mut queue = self.lock();
        (queue.due, queue.phase) = (0.0, Phase::Ending);
        self.queue.1.notify_all();
    }

    pub fn wait_for_end(&self, patience: Duration) {
        let is_sending = |queue: &mut Queue| queue.phase != Phase::Ended;
        let (queue, bell) = (self.lock(), &self.queue.1);
        drop(bell.wait_timeout_while(queue, patience, is_sending));
    }

    fn work(&self) {
        let mut refusal = None;
        let mut queue = self.lock();
        while queue.phase != Phase::Ended {
            let now = clock::now().boot;
            if let Some(batch) = queue.take(now) {
                let limit = (queue.phase == Phase::Ending).then_some(LAST);
                drop(queue);
                let answer = deliver(&self.config, &batch, limit, &mut refusal);
                queue = self.lock();
                queue.settle(batch, answer, clock::now().boot);
            } else if queue.phase == Phase::Ending {
                queue.phase = Phase::Ended;
                self.queue.1.notify_all();
            } else {
                let seconds = (queue.due - now).clamp(0.0, 3_600.0);
                let wait = Duration::from_secs_f64(seconds);
                let woken = self.queue.1.wait_timeout(queue, wait);
                queue = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// A missing database is created, once: why that is not possible is kept in `refusal` and goes before the server's "not
/// found", which it says each time.
fn deliver(
    target: &Influx,
    batch: &str,
    limit: Option<Duration>,
    refusal: &mut Option<String>,
) -> Answer {
    let begun = Instant::now();
    let answer = send::write(target, batch, limit);
    if !matches!(answer, Answer::Failed(404, ..)) || !target.bucket.is_empty() {
        refusal.take_if(|_| answer == Answer::Taken);
        return answer;
    }
    let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    if refusal.is_none() {
        match send::create_database(target, left) {
            Ok(()) => return send::write(target, batch, left),
            Err(why) => *refusal = Some(why),
        }
    }
    let why = refusal.as_deref().unwrap_or_default();
    let why = format!("there is no database, and it can't be created: {why}");
    Answer::Failed(404, why, None)
}
