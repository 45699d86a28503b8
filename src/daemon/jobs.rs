//! What runs beside the loop, and what becomes of what it brings back: the one question to the engine a tick and all other
//! jobs, the engine's events, signals, changes of the control files.

use super::*;
use crate::decide::Pilot;
use crate::site::{Facts, read_facts};
use crate::{engine::Error, host::cgroup::group_of_pid, observe::read_pilot, state::Dirs};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{read, retry_on_intr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::thread::sleep;

/// Until a stream of events that ended is asked for again.
const PAUSE: Duration = Duration::from_secs(3);
/// Between two looks at control files that somebody keeps touching.
const LOOKS_APART: Duration = Duration::from_millis(500);

/// What becomes of what came back, on the loop.
pub(super) type Then = Box<dyn FnOnce(&mut Daemon) + Send>;

/// What one question brings: who the engine is, what the job has read for the next tick (no pilots of an engine that can't
/// be used), problems with the control files, and the engine's list as it came.
pub type Look = (Arc<Facts>, Observation, Vec<String>, Vec<u8>);

/// The engine's list as it came, and what was read from it: with many pilots the same comes tick after tick.
type LastList = (Vec<u8>, Vec<Pilot>);

/// How the loop stands with its engine.
#[derive(Default)]
pub(super) struct EngineSide {
    /// `None`: it was not asked yet, or could not be reached since.
    pub facts: Option<Arc<Facts>>,
    /// It may be another one now, and is asked who it is once more.
    may_be_new: bool,
    pub state: EngineState,
    /// Epoch second of its last greeting: what started before may have ended with the engine.
    pub since: f64,
    /// Boot second at which the question under way was asked.
    pub asked_at: Option<f64>,
    /// Boot second of the last announced end.
    pub announced_at: f64,
    /// Nothing while a question is under way, which has it.
    pub last: LastList,
}

impl Daemon {
    /// Off the loop; `then` takes in what it brings back.
    pub(super) fn go<T: Send + 'static>(
        &mut self,
        lane: Lane,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Daemon, T) + Send + 'static,
    ) {
        self.executor.go(lane, move || -> Then {
            let value = job();
            Box::new(move |daemon| then(daemon, value))
        });
    }

    /// Sends for what the next tick needs. An engine that has not answered the last question is not asked another; a
    /// command that came meanwhile is at least told.
    pub(super) fn ask(&mut self) {
        let now = clock::now().boot;
        if let Some(asked_at) = self.engine.asked_at {
            let seconds = now - asked_at;
            let text = format!("no answer for {seconds:.0} s; pilots stay as they are");
            return self.stay(EngineState::Down(text));
        }
        self.engine.asked_at = Some(now);
        (self.next_tick, self.changed) = (Some(now + self.config.interval()), false);
        let is_known = |facts: &Arc<Facts>| facts.unsupported.is_none() && !self.engine.may_be_new;
        let facts = self.engine.facts.clone().filter(is_known);
        let site = Arc::clone(&self.site);
        let last = std::mem::take(&mut self.engine.last);
        let job = move || look(&site, facts, last);
        self.go(Lane::LOOK, job, Daemon::looked);
    }

    /// The engine is a state, never an exit: while it fails pilots stay as they are, and it is asked again at the next tick.
    fn looked(&mut self, look: Result<Look, Error>) {
        self.engine.asked_at = None;
        self.changes.problem("engine", look.as_ref().err());
        let state = match look {
            Ok((facts, seen, problems, text)) => {
                self.changes.problem("control files", &problems);
                let known = self.engine.facts.replace(Arc::clone(&facts));
                if known.is_none_or(|known| !Arc::ptr_eq(&known, &facts)) {
                    (self.engine.may_be_new, self.engine.since) = (false, clock::now().epoch);
                    self.mend_group();
                }
                let Some(why) = &facts.unsupported else {
                    (self.engine.state, self.engine.last.0) = (EngineState::Up, text);
                    return self.tick(seen);
                };
                EngineState::Unsupported(why.clone())
            }
            Err(error) => {
                let is_away = matches!(error, Error::Unreachable(_));
                self.engine.facts.take_if(|_| is_away);
                EngineState::Down(error.to_string())
            }
        };
        self.stay(state);
        if self.start.once {
            self.finished = Some(Exit::EngineUnavailable);
        }
    }

    /// A turn without the engine.
    fn stay(&mut self, state: EngineState) {
        (self.engine.state, self.changed) = (state, false);
        let site = &self.site;
        let (control, problems) = control::read(&site.dirs, clock::now(), &site.boot_id);
        self.changes.problem("control files", &problems);
        self.tick(Observation {
            control,
            ..Observation::default()
        });
    }

    /// The groups of pilots that have just started are asked for by their first process.
    pub(super) fn ask_for_groups(&mut self) {
        for id in std::mem::take(&mut self.observer.groups.unknown) {
            let site = Arc::clone(&self.site);
            let job = move || {
                let seen = site.engine.inspect(&id).ok().flatten();
                let group = seen.and_then(|seen| group_of_pid(&site.root, seen.state.pid, &id));
                (id, group)
            };
            self.go(Lane::GROUP, job, |daemon, (id, group)| {
                daemon.changed |= group.is_some();
                daemon.observer.groups.learn(id, group);
            });
        }
    }

    fn signalled(&mut self, signal: i32) {
        if signal != SIGHUP {
            // The end waits for nothing.
            (self.start.once, self.finished) = (false, Some(Exit::Done));
            return;
        }
        let micros = whole(clock::now().awake * 1e6);
        self.manager
            .send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        let (file, config) = (self.site.dirs.config.clone(), self.start.config.clone());
        // Without one the defaults hold; one that is gone is missed.
        let job = move || match file.exists() || config != Config::default() {
            true => config::load(&file),
            false => Ok(config),
        };
        self.go(Lane::FILE, job, Daemon::configured);
    }

    fn configured(&mut self, result: Result<Config, String>) {
        let refused = result.as_ref().err();
        let stays = |problems| format!("{problems}; the configuration read last stays in force");
        self.changes.problem("configuration", refused.map(stays));
        if let Ok(config) = result {
            log::info!("the configuration was read again");
            self.start.config = config;
            self.adopt();
        }
        self.manager.send("READY=1");
    }

    /// The owner's configuration or what was joined has changed.
    fn adopt(&mut self) {
        let config = self.remote.adopt(&self.site.dirs.state, &self.start.config);
        let before = std::mem::replace(&mut self.config, Arc::new(config));
        let now = clock::now().epoch;
        self.policy.forget_changed(&before, &self.config, now);
        self.changes.remote(self.remote.told.as_ref());
        self.metrics.aim(&self.config.influxdb);
        self.mend_group();
        self.changed = true;
    }

    /// Makes the parent group, with a bound on its memory, so that the kernel can act between two ticks.
    pub(super) fn mend_group(&mut self) {
        let Some(facts) = self.engine.facts.clone().filter(|_| !self.start.dry_run) else {
            return;
        };
        let (site, reserve) = (Arc::clone(&self.site), self.config.share.reserve_memory.0);
        let job = move || group::prepare(&site.root, &facts, reserve).err();
        let then = |daemon: &mut Daemon, problem| daemon.changes.problem("group", problem);
        self.go(Lane::FILE, job, then);
    }

    /// What came of an action.
    pub(super) fn learn(&mut self, news: Option<News>) {
        // A launch may leave files of its own, and no pilot whose end takes them back.
        self.swept &= !matches!(news, Some(News::Launched(..)));
        self.changed |= news.is_some();
        self.news.extend(news);
    }

    /// What was joined was looked at, and may have changed.
    pub(super) fn fetched(&mut self, result: Result<(), String>) {
        if result.is_ok() {
            self.adopt();
        }
        self.remote.looked(&self.start.config);
        self.changes.problem("remote configuration", result.err());
    }
}

/// Off the loop: an engine, a disk may take their time.
pub fn look(site: &Site, known: Option<Arc<Facts>>, last: LastList) -> Result<Look, Error> {
    let (now, is_root) = (clock::now(), rustix::process::geteuid().is_root());
    let facts = match known {
        Some(facts) => facts,
        None => Arc::new(read_facts(&site.engine, &site.root, is_root)?),
    };
    let (mut text, pilots) = last;
    let listed = match facts.unsupported {
        Some(_) => Some(Vec::new()),
        None => site.engine.list_changes(&mut text)?,
    };
    let read = |listed| read_pilot(listed, &site.instance, &site.boot_id);
    let read_all = |listed: Vec<_>| listed.into_iter().map(read).collect();
    let (control, problems) = control::read(&site.dirs, now, &site.boot_id);
    let seen = Observation {
        pilots: Some(listed.map_or(pilots, read_all)),
        listed_at: now.boot,
        disk_free: facts.read_disk_free(),
        control,
        ..Observation::default()
    };
    Ok((facts, seen, problems, text))
}

/// SIGTERM and SIGINT (end), SIGHUP (reload). Errors: the kernel refuses a handler, or there is no thread.
pub(super) fn follow_signals(executor: &Executor<Then>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    executor.follow("signals", move |post| {
        for signal in signals.forever() {
            post(Box::new(move |daemon| daemon.signalled(signal)));
        }
    })
}

/// A request is a file moved into a control directory, its end a file removed. Errors: a directory is missing, the user's
/// inotify instances are used up, or there is no thread.
pub(super) fn follow_control(executor: &Executor<Then>, dirs: &Dirs) -> io::Result<()> {
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    let moves = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
    for directory in control::directories(dirs) {
        let changes = moves | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
        inotify::add_watch(&fd, directory, changes)?;
    }
    executor.follow("control", move |post| {
        let mut changes = [0u8; 16 << 10];
        while retry_on_intr(|| read(&fd, &mut changes)).is_ok() {
            post(Box::new(|daemon| daemon.changed = true));
            sleep(LOOKS_APART);
        }
    })
}

/// The engine's events: a stream that ends is asked for again, after a pause. Errors: there is no thread.
pub(super) fn follow_engine(executor: &Executor<Then>, site: &Site) -> io::Result<()> {
    let engine = Arc::clone(&site.engine);
    executor.follow("events", move |post| {
        loop {
            let end = engine.follow_events(&mut |_| {
                post(Box::new(|daemon| {
                    daemon.changed = true;
                    daemon.engine.announced_at = clock::now().boot;
                }));
            });
            log::debug!("the stream of events has ended ({end:?}), and is asked for again");
            post(Box::new(|daemon| daemon.engine.may_be_new = true));
            sleep(PAUSE);
        }
    })
}
