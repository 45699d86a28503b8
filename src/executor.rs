//! Turns calls that may take longer than the loop can wait for into jobs: each runs on a thread, and what it brings back
//! comes in by the one channel on which the loop waits. One idle thread is kept, so that a quiet tick starts none. Lanes
//! keep slow calls from standing in front of urgent ones. No job is ever lost: one for which there is no thread is tried
//! again whenever one ends, and after a moment.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::{thread::Builder, time::Duration};

/// What a call is, by how it competes with others: a name, and how many may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(&'static str, usize);

impl Lane {
    /// The list, and the engine's first answers.
    pub const LOOK: Lane = Lane("look", 1);
    /// Where a pilot runs.
    pub const GROUP: Lane = Lane("group", 2);
    /// Signals and pauses: never behind anything else.
    pub const URGENT: Lane = Lane("urgent", 8);
    /// Creates and starts. Their number is the decision's, not the lane's.
    pub const START: Lane = Lane("start", 64);
    /// Removals: after the replacements are up.
    pub const REMOVE: Lane = Lane("remove", 2);
    /// Imports and pulls.
    pub const IMAGE: Lane = Lane("image", 1);
    /// Files: a disk may take its time.
    pub const FILE: Lane = Lane("file", 1);
    /// Servers elsewhere.
    pub const WEB: Lane = Lane("web", 1);
}

/// Enough for a call with its JSON, and for TLS; stacks are only resident as far as they are touched.
const STACK_BYTES: usize = 512 * 1024;
/// A replacement's start goes before removals, but a crowd of starts must not pile up the dead for ever.
const MOST_REMOVALS_HELD: usize = 16;
/// Until a thread that was refused is asked for again.
const ASKED_AGAIN: Duration = Duration::from_millis(500);

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// The way to give a thread its next job, which comes back with the result. A thread to which there is no way any more ends.
type Hand = SyncSender<Box<dyn FnOnce() + Send>>;
type Back<T> = (Option<(Lane, Hand)>, T);

pub struct Executor<T> {
    sender: Sender<Back<T>>,
    receiver: Receiver<Back<T>>,
    running: Vec<Lane>,
    idle: Option<Hand>,
    waiting: Vec<(Lane, Job<T>)>,
    /// Why the last thread could not be started; `None`: it could.
    pub refused: Option<String>,
}

impl<T: Send + 'static> Executor<T> {
    pub fn new() -> Executor<T> {
        let (sender, receiver) = channel();
        Executor {
            sender,
            receiver,
            running: Vec::new(),
            idle: None,
            waiting: Vec::new(),
            refused: None,
        }
    }

    /// What tells the loop something now and then, for as long as the daemon lives. Errors: there is no thread for it.
    pub fn follow(
        &self,
        name: &str,
        source: impl FnOnce(&dyn Fn(T)) + Send + 'static,
    ) -> std::io::Result<()> {
        let sender = self.sender.clone();
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        // The loop is gone when it does not listen: nobody is left to tell.
        let started = thread.spawn(move || source(&|value| drop(sender.send((None, value)))));
        started.map(drop)
    }

    pub fn go(&mut self, lane: Lane, job: impl FnOnce() -> T + Send + 'static) {
        self.waiting.push((lane, Box::new(job)));
        self.start_waiting();
    }

    /// Running or waiting for it.
    pub fn count(&self, lane: Lane) -> usize {
        let waiting = self.waiting.iter().filter(|(of, _)| *of == lane).count();
        self.running_in(lane) + waiting
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    fn running_in(&self, lane: Lane) -> usize {
        self.running.iter().filter(|of| **of == lane).count()
    }

    fn start_waiting(&mut self) {
        let removals = self.count(Lane::REMOVE) - self.running_in(Lane::REMOVE);
        self.refused = None;
        for (lane, job) in std::mem::take(&mut self.waiting) {
            let is_starting = self.running_in(Lane::START) > 0;
            let is_held = lane == Lane::REMOVE && removals <= MOST_REMOVALS_HELD && is_starting;
            if is_held || self.refused.is_some() || self.running_in(lane) >= lane.1 {
                self.waiting.push((lane, job));
            } else {
                self.spawn(lane, job);
            }
        }
    }

    /// The job is handed over when there is a thread for it.
    fn spawn(&mut self, lane: Lane, job: Job<T>) {
        match self.idle.take().map_or_else(|| start(lane), Ok) {
            Ok(thread) => {
                let (sender, hand) = (self.sender.clone(), thread.clone());
                let work = move || drop(sender.send((Some((lane, hand)), job())));
                let _ = thread.send(Box::new(work));
                self.running.push(lane);
            }
            Err(error) => {
                self.refused = Some(format!("no thread could be started: {error}"));
                self.waiting.push((lane, job));
            }
        }
    }

    /// Waits for so many seconds (infinite: for ever) or until something comes back, and starts what waited for that.
    pub fn wait(&mut self, seconds: f64) -> Vec<T> {
        // One millisecond more than asked: a wait that ends just before its time would be waited for twice.
        let time = Duration::try_from_secs_f64(seconds.max(0.0) + 0.001).unwrap_or(Duration::MAX);
        let most = self.refused.as_ref().map_or(time, |_| ASKED_AGAIN);
        let first = self.receiver.recv_timeout(time.min(most));
        let mut values = Vec::new();
        for (done, value) in first.into_iter().chain(self.receiver.try_iter()) {
            if let Some((lane, hand)) = done {
                let place = self.running.iter().position(|of| *of == lane);
                place.map(|place| self.running.swap_remove(place));
                self.idle = Some(hand);
            }
            values.push(value);
        }
        self.start_waiting();
        values
    }
}

fn start(lane: Lane) -> std::io::Result<Hand> {
    let (hand, jobs) = sync_channel::<Box<dyn FnOnce() + Send>>(1);
    let thread = Builder::new().name(lane.0.to_owned());
    let thread = thread.stack_size(STACK_BYTES);
    thread.spawn(move || jobs.into_iter().for_each(|job| job()))?;
    Ok(hand)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(executor: &mut Executor<u32>, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let more = executor.wait(5.0);
            assert!(!more.is_empty());
            values.extend(more);
        }
        values
    }

    #[test]
    fn an_urgent_call_does_not_wait_for_a_slow_one() {
        let mut executor = Executor::new();
        let (release, held) = channel::<()>();
        executor.go(Lane::IMAGE, move || held.recv().map_or(0, |()| 1));
        executor.go(Lane::IMAGE, || 2);
        executor.go(Lane::URGENT, || 3);
        assert_eq!(wait(&mut executor, 1), [3]);
        assert_eq!(executor.count(Lane::IMAGE), 2);
        release.send(()).unwrap();
        assert_eq!(wait(&mut executor, 2), [1, 2]);
        assert!(executor.is_empty());
    }

    #[test]
    fn removals_wait_for_starts_and_a_source_needs_no_lane() {
        let mut executor = Executor::new();
        let (release, held) = channel::<()>();
        executor.go(Lane::START, move || held.recv().map_or(0, |()| 1));
        executor.go(Lane::REMOVE, || 2);
        assert_eq!(executor.running_in(Lane::REMOVE), 0);
        executor.follow("source", |post| post(7)).unwrap();
        assert_eq!(wait(&mut executor, 1), [7]);
        release.send(()).unwrap();
        assert_eq!(wait(&mut executor, 2), [1, 2]);
    }
}
