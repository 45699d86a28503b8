//! The one thread that talks to metrics targets, behind their bounded queues: the loop only ever adds lines and looks at
//! counters. It sleeps until a flush is due.

use super::queue::{Answer, Queue};
use super::send;
use crate::clock;
use crate::config::Influx;
use crate::report::Sink;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// At the end of the daemon each target gets one request of at most this.
const LAST: Duration = Duration::from_secs(1);
/// TLS is computed on it; only what is used is resident.
const STACK_BYTES: usize = 512 << 10;

struct Sender {
    /// The configuration, by which an outlet is known over a reload.
    target: Arc<Influx>,
    queue: Queue,
    /// Why its database, which is missing, is not created: that is tried once, and again after it was there.
    refusal: Option<String>,
}

#[derive(Default)]
struct Inner {
    outlets: Vec<Sender>,
    is_ending: bool,
    has_ended: bool,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    bell: Condvar,
}

pub struct SenderThread(Arc<Shared>);

impl SenderThread {
    /// Errors: no thread.
    pub fn start() -> std::io::Result<SenderThread> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("uplink".to_owned())
            .stack_size(STACK_BYTES);
        thread.spawn(move || work(&of_thread))?;
        Ok(SenderThread(shared))
    }

    /// What has not changed keeps its queue.
    pub fn aim(&self, targets: &[Influx]) {
        let (mut inner, now) = (lock(&self.0), clock::now().boot);
        let mut before = std::mem::take(&mut inner.outlets);
        inner.outlets = targets
            .iter()
            .map(
                |target| match before.iter().position(|outlet| *outlet.target == *target) {
                    Some(index) => before.swap_remove(index),
                    None => {
                        let queue = Queue::new(target.flush.as_secs_f64(), now);
                        Sender {
                            target: Arc::new(target.clone()),
                            queue,
                            refusal: None,
                        }
                    }
                },
            )
            .collect();
        self.0.bell.notify_all();
    }

    /// Lines for the targets, in their order.
    pub fn push<'a>(&self, lines: impl Iterator<Item = &'a str>) {
        for (outlet, lines) in lock(&self.0).outlets.iter_mut().zip(lines) {
            outlet.queue.push(lines);
        }
    }

    pub fn sinks(&self) -> Vec<Sink> {
        let inner = lock(&self.0);
        let sinks = inner.outlets.iter().map(|outlet| Sink {
            url: outlet.target.title(),
            sent: outlet.queue.sent,
            dropped: outlet.queue.dropped,
            errors: outlet.queue.errors,
            waiting_bytes: outlet.queue.waiting(),
            error: outlet.queue.error.clone(),
        });
        sinks.collect()
    }

    /// Sends what waits, and waits no longer than that.
    pub fn end(&self, patience: Duration) {
        let mut inner = lock(&self.0);
        inner.is_ending = true;
        let now = clock::now().boot;
        inner
            .outlets
            .iter_mut()
            .for_each(|outlet| outlet.queue.due = now);
        self.0.bell.notify_all();
        drop(
            self.0
                .bell
                .wait_timeout_while(inner, patience, |inner| !inner.has_ended),
        );
    }
}

fn work(shared: &Shared) {
    let mut inner = lock(shared);
    while !inner.has_ended {
        let now = clock::now().boot;
        let due = inner.outlets.iter_mut().find_map(|outlet| {
            let batch = outlet.queue.take(now)?;
            Some((Arc::clone(&outlet.target), batch, outlet.refusal.take()))
        });
        if let Some((target, batch, refusal)) = due {
            let limit = inner.is_ending.then_some(LAST);
            drop(inner);
            let (answer, refusal) = deliver(&target, &batch, limit, refusal);
            inner = lock(shared);
            // Finished by a reload, it takes its batch along.
            if let Some(outlet) = inner
                .outlets
                .iter_mut()
                .find(|outlet| Arc::ptr_eq(&outlet.target, &target))
            {
                outlet.refusal = refusal;
                outlet.queue.settle(batch, answer, clock::now().boot);
            }
        } else if inner.is_ending {
            inner.has_ended = true;
            shared.bell.notify_all();
        } else {
            let due = inner
                .outlets
                .iter()
                .map(|outlet| outlet.queue.due)
                .reduce(f64::min);
            // Without a target nothing is due until somebody rings.
            let seconds = due.map_or(3_600.0, |due| (due - now).clamp(0.0, 3_600.0));
            let woken = shared
                .bell
                .wait_timeout(inner, Duration::from_secs_f64(seconds));
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The answer, and why a missing database is not created from now on. That reason goes before the server's "not found",
/// which it says each time.
fn deliver(
    target: &Influx,
    batch: &str,
    limit: Option<Duration>,
    refusal: Option<String>,
) -> (Answer, Option<String>) {
    let begun = Instant::now();
    let answer = send::write(target, batch, limit);
    match answer {
        Answer::Status { code: 404, .. } if target.bucket.is_empty() => {}
        Answer::Status {
            code: 200..=299, ..
        } => return (answer, None),
        _ => return (answer, refusal),
    }
    if let Some(why) = refusal {
        return (Answer::Failed(why.clone()), Some(why));
    }
    let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    let why = match send::create_database(target, left) {
        Answer::Status {
            code: 200..=299, ..
        } => return (send::write(target, batch, left), None),
        Answer::Status { code, message, .. } => format!("status {code}: {message}"),
        Answer::Failed(why) => why,
    };
    let why = format!("there is no database, and it can't be created: {why}");
    (Answer::Failed(why.clone()), Some(why))
}

/// A thread that panicked left whole lines and counters.
fn lock(shared: &Shared) -> MutexGuard<'_, Inner> {
    shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
}
