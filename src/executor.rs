//! Turns calls that may take longer than the loop can wait for into jobs: each runs on a short-lived thread, and what it
//! brings back wakes the loop. Lanes keep slow calls from standing in front of urgent ones. No job is ever lost: one for
//! which there is no thread waits for the next turn.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// What a call is, by how it competes with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The list, and the engine's first answers.
    Look,
    /// Where a pilot runs.
    Group,
    /// Signals and pauses: never behind anything else.
    Urgent,
    /// Creates and starts. Their number is the decision's, not the lane's.
    Start,
    /// Removals: after the replacements are up.
    Remove,
    /// Imports and pulls.
    Image,
    /// Files: a disk may take its time.
    File,
    /// Servers elsewhere.
    Web,
}

impl Lane {
    /// Threads at once.
    fn width(self) -> usize {
        match self {
            Lane::Look | Lane::Image | Lane::File | Lane::Web => 1,
            Lane::Remove | Lane::Group => 2,
            Lane::Urgent => 8,
            Lane::Start => 64,
        }
    }
}

/// Enough for a call with its JSON, and for TLS; stacks are only resident as far as they are touched.
const STACK_BYTES: usize = 512 * 1024;
/// A replacement's start goes before removals, but a crowd of starts must not pile up the dead for ever.
const MOST_REMOVALS_HELD: usize = 16;

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// Brings a value to the loop from any thread.
pub struct Outbox<T> {
    sender: Sender<(Option<Lane>, T)>,
    bell: Arc<OwnedFd>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Outbox<T> {
        Outbox {
            sender: self.sender.clone(),
            bell: Arc::clone(&self.bell),
        }
    }
}

impl<T> Outbox<T> {
    pub fn post(&self, value: T) {
        self.send(None, value);
    }

    fn send(&self, lane: Option<Lane>, value: T) {
        // The loop is gone when it does not listen: nobody is left to tell.
        let _ = self.sender.send((lane, value));
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

pub struct Executor<T> {
    outbox: Outbox<T>,
    receiver: Receiver<(Option<Lane>, T)>,
    running: Vec<Lane>,
    waiting: Vec<(Lane, Job<T>)>,
    /// Why the last thread could not be started; `None`: it could.
    pub refused: Option<String>,
}

impl<T: Send + 'static> Executor<T> {
    /// Errors: no more file descriptors.
    pub fn new() -> std::io::Result<Executor<T>> {
        let (sender, receiver) = channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Executor {
            outbox: Outbox { sender, bell },
            receiver,
            running: Vec::new(),
            waiting: Vec::new(),
            refused: None,
        })
    }

    pub fn outbox(&self) -> Outbox<T> {
        self.outbox.clone()
    }

    pub fn go(&mut self, lane: Lane, job: impl FnOnce() -> T + Send + 'static) {
        self.waiting.push((lane, Box::new(job)));
        self.start_waiting();
    }

    /// Running or waiting for it.
    pub fn count(&self, lane: Lane) -> usize {
        self.running_in(lane) + self.waiting_for(lane)
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    fn running_in(&self, lane: Lane) -> usize {
        self.running.iter().filter(|other| **other == lane).count()
    }

    fn waiting_for(&self, lane: Lane) -> usize {
        self.waiting.iter().filter(|(of, _)| *of == lane).count()
    }

    fn is_open(&self, lane: Lane, removals_waiting: usize) -> bool {
        let is_held = lane == Lane::Remove
            && self.running_in(Lane::Start) > 0
            && removals_waiting <= MOST_REMOVALS_HELD;
        !is_held && self.running_in(lane) < lane.width()
    }

    fn start_waiting(&mut self) {
        let removals = self.waiting_for(Lane::Remove);
        self.refused = None;
        for (lane, job) in std::mem::take(&mut self.waiting) {
            if self.refused.is_some() || !self.is_open(lane, removals) {
                self.waiting.push((lane, job));
            } else if let Some(job) = self.spawn(lane, job) {
                self.waiting.push((lane, job));
            }
        }
    }

    /// Gives the job back when there is no thread for it.
    fn spawn(&mut self, lane: Lane, job: Job<T>) -> Option<Job<T>> {
        let slot = Arc::new(Mutex::new(Some(job)));
        let take = |slot: &Mutex<Option<Job<T>>>| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let (inside, outbox) = (Arc::clone(&slot), self.outbox.clone());
        let thread = std::thread::Builder::new()
            .name(format!("{lane:?}"))
            .stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            if let Some(job) = take(&inside) {
                outbox.send(Some(lane), job());
            }
        });
        match started {
            Ok(_) => {
                self.running.push(lane);
                None
            }
            Err(error) => {
                self.refused = Some(format!("no thread could be started: {error}"));
                take(&slot)
            }
        }
    }

    /// What has come back; those that waited for it are started.
    pub fn finished(&mut self) -> Vec<T> {
        let mut count = [0u8; 8];
        // Nothing to read means nobody rang since the last time.
        let _ = rustix::io::read(&*self.outbox.bell, &mut count);
        let mut values = Vec::new();
        while let Ok((lane, value)) = self.receiver.try_recv() {
            let place = self.running.iter().position(|of| Some(*of) == lane);
            if let Some(place) = place {
                self.running.swap_remove(place);
            }
            values.push(value);
        }
        self.start_waiting();
        values
    }
}

impl<T> AsFd for Executor<T> {
    /// Readable when something has come back.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.outbox.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::sync::mpsc;

    fn wait(executor: &mut Executor<u32>) -> Vec<u32> {
        let timeout = rustix::time::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&*executor, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1);
        executor.finished()
    }

    #[test]
    fn an_urgent_call_does_not_wait_for_a_slow_one() {
        let mut executor = Executor::new().unwrap();
        let (release, held) = mpsc::channel::<()>();
        executor.go(Lane::Image, move || held.recv().map_or(0, |()| 1));
        executor.go(Lane::Image, || 2);
        executor.go(Lane::Urgent, || 3);
        assert_eq!(wait(&mut executor), [3]);
        assert_eq!(executor.count(Lane::Image), 2);
        release.send(()).unwrap();
        let mut finished = wait(&mut executor);
        while finished.len() < 2 {
            finished.extend(wait(&mut executor));
        }
        assert_eq!(finished, [1, 2]);
        assert!(executor.is_empty());
    }

    #[test]
    fn removals_wait_for_starts_and_a_post_needs_no_lane() {
        let mut executor = Executor::new().unwrap();
        let (release, held) = mpsc::channel::<()>();
        executor.go(Lane::Start, move || held.recv().map_or(0, |()| 1));
        executor.go(Lane::Remove, || 2);
        assert_eq!(executor.running_in(Lane::Remove), 0);
        executor.outbox().post(7);
        assert_eq!(wait(&mut executor), [7]);
        release.send(()).unwrap();
        assert_eq!(wait(&mut executor), [1]);
        assert_eq!(wait(&mut executor), [2]);
    }
}
