//! Calls that may take longer than the loop can wait: each runs on a short-lived thread, lands as a value and wakes the
//! loop. Lanes keep slow calls from standing in front of urgent ones.

use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What a call is, by how it competes with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The list, and the engine's first answers.
    Look,
    /// Signals and pauses: never behind anything else.
    Urgent,
    /// Creates and starts. Their number is the decision's, not the lane's.
    Start,
    /// Removals: after the replacements are up.
    Clean,
    /// Imports and pulls.
    Image,
    /// Files that must survive a power cut: a disk may take its time.
    File,
    /// Servers elsewhere.
    Web,
}

const LANES: usize = 7;

impl Lane {
    fn index(self) -> usize {
        match self {
            Lane::Look => 0,
            Lane::Urgent => 1,
            Lane::Start => 2,
            Lane::Clean => 3,
            Lane::Image => 4,
            Lane::File => 5,
            Lane::Web => 6,
        }
    }

    /// Threads at once.
    fn width(self) -> usize {
        match self {
            Lane::Look | Lane::Image | Lane::File | Lane::Web => 1,
            Lane::Urgent => 8,
            Lane::Start => 64,
            Lane::Clean => 2,
        }
    }
}

/// Enough for a call with its JSON, and for TLS; stacks are only resident as far as they are touched.
const STACK_BYTES: usize = 512 * 1024;

type Job<T> = Box<dyn FnOnce() -> T + Send>;

pub struct Executor<T> {
    sender: Sender<(Lane, T)>,
    receiver: Receiver<(Lane, T)>,
    bell: Arc<OwnedFd>,
    flying: [usize; LANES],
    waiting: [VecDeque<Job<T>>; LANES],
}

impl<T: Send + 'static> Executor<T> {
    /// Errors: no more file descriptors.
    pub fn new() -> std::io::Result<Executor<T>> {
        let (sender, receiver) = channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Executor {
            sender,
            receiver,
            bell,
            flying: [0; LANES],
            waiting: Default::default(),
        })
    }

    pub fn go(&mut self, lane: Lane, job: impl FnOnce() -> T + Send + 'static) {
        if let Some(queue) = self.waiting.get_mut(lane.index()) {
            queue.push_back(Box::new(job));
        }
        self.take_off();
    }

    /// In flight or waiting for it.
    pub fn count(&self, lane: Lane) -> usize {
        let flying = self.flying.get(lane.index()).copied().unwrap_or(0);
        flying + self.waiting.get(lane.index()).map_or(0, VecDeque::len)
    }

    pub fn is_empty(&self) -> bool {
        self.flying.iter().all(|count| *count == 0) && self.waiting.iter().all(VecDeque::is_empty)
    }

    fn take_off(&mut self) {
        for lane in [
            Lane::Look,
            Lane::Urgent,
            Lane::Start,
            Lane::Clean,
            Lane::Image,
            Lane::File,
            Lane::Web,
        ] {
            let held = lane == Lane::Clean
                && self
                    .flying
                    .get(Lane::Start.index())
                    .is_some_and(|count| *count > 0);
            // A replacement's start goes first, but a crowd of starts must not pile up the dead for ever.
            let most = if held {
                usize::from(self.count(Lane::Clean) > 16)
            } else {
                lane.width()
            };
            let index = lane.index();
            let (Some(flying), Some(queue)) =
                (self.flying.get_mut(index), self.waiting.get_mut(index))
            else {
                continue;
            };
            while *flying < most {
                let Some(job) = queue.pop_front() else { break };
                let (sender, bell) = (self.sender.clone(), Arc::clone(&self.bell));
                let thread = std::thread::Builder::new()
                    .name(format!("{lane:?}"))
                    .stack_size(STACK_BYTES);
                let started = thread.spawn(move || {
                    // The loop is gone when it does not listen: nobody is left to tell.
                    let _ = sender.send((lane, job()));
                    let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
                });
                match started {
                    Ok(_) => *flying += 1,
                    Err(error) => {
                        log::error!(
                            "no thread for a {lane:?} call: {error}; it is decided about again at the next tick"
                        );
                        break;
                    }
                }
            }
        }
    }

    /// What has come back, and off go those that waited for it.
    pub fn landed(&mut self) -> Vec<T> {
        let mut count = [0u8; 8];
        // Nothing to read means nobody rang since the last time.
        let _ = rustix::io::read(&*self.bell, &mut count);
        let mut values = Vec::new();
        while let Ok((lane, value)) = self.receiver.try_recv() {
            if let Some(flying) = self.flying.get_mut(lane.index()) {
                *flying = flying.saturating_sub(1);
            }
            values.push(value);
        }
        self.take_off();
        values
    }
}

impl<T> AsFd for Executor<T> {
    /// Readable when something has landed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
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
        assert_eq!(
            poll(&mut fds, Some(&timeout)).unwrap(),
            1,
            "a landing rings the bell"
        );
        executor.landed()
    }

    #[test]
    fn an_urgent_call_does_not_wait_for_a_slow_one() {
        let mut executor = Executor::new().unwrap();
        let (release, held) = mpsc::channel::<()>();
        executor.go(Lane::Image, move || held.recv().map_or(0, |()| 1));
        executor.go(Lane::Image, || 2);
        executor.go(Lane::Urgent, || 3);
        assert_eq!(wait(&mut executor), [3]);
        assert_eq!(executor.count(Lane::Image), 2, "one image call at a time");
        release.send(()).unwrap();
        let mut landed = wait(&mut executor);
        while landed.len() < 2 {
            landed.extend(wait(&mut executor));
        }
        assert_eq!(landed, [1, 2]);
        assert!(executor.is_empty());
    }

    #[test]
    fn removals_wait_for_starts() {
        let mut executor = Executor::new().unwrap();
        let (release, held) = mpsc::channel::<()>();
        executor.go(Lane::Start, move || held.recv().map_or(0, |()| 1));
        executor.go(Lane::Clean, || 2);
        assert_eq!(executor.flying[Lane::Clean.index()], 0);
        release.send(()).unwrap();
        assert_eq!(wait(&mut executor), [1]);
        assert_eq!(wait(&mut executor), [2]);
    }
}
