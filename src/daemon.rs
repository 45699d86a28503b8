//! The loop: observe, decide, act, report, wait. No call that can take long runs on it: such calls are jobs, and what they
//! bring back comes in here as a value.

mod engine_side;
mod jobs;

use crate::act::{self, files, group};
use crate::config::Config;
use crate::decide::{
    Action, Control, Decision, EngineState, LaunchResult, News, Observation, PolicyState, decide,
};
use crate::engine::Listed;
use crate::executor::{Executor, Lane};
use crate::history::{self, History};
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::remote::Remote;
use crate::report::{self, Changes, Loop, Status};
use crate::site::Site;
use crate::state::{self, Lock, control};
use crate::systemd::Manager;
use crate::units::{Exit, count_pilots, whole, word};
use crate::wait::{Signals, Watch, wait};
use crate::{clock, host};
use engine_side::EngineSide;
use jobs::Finished;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Seconds after which an engine counts as silent: then it is not waited for before something is told.
const SILENT: f64 = 1.0;

/// Seconds between two looks at the control files.
const LOOKS_APART: f64 = 0.5;

/// How long the groups of the last pilots may take to go.
const GROUP_PATIENCE: Duration = Duration::from_secs(1);

/// How the loop is started.
pub struct Start {
    pub site: Arc<Site>,
    /// The owner's own.
    pub config: Config,
    /// Read again on SIGHUP.
    pub config_file: Option<PathBuf>,
    /// End after the first full tick and what it set off.
    pub once: bool,
    /// Says what it would do, and does nothing.
    pub dry_run: bool,
    /// Observations, one JSON object a line.
    pub recording: Option<File>,
    #[expect(dead_code, reason = "it is held as long as the loop turns, not read")]
    pub lock: Lock,
}

struct Daemon {
    /// With the owner's own configuration.
    start: Start,
    site: Arc<Site>,
    /// In force: the owner's with what was joined.
    config: Arc<Config>,
    remote: Remote,
    signals: Signals,
    control: Option<Watch>,
    asked_for: Control,
    executor: Executor<Finished>,
    engine: EngineSide,
    observer: Observer,
    news: Vec<News>,
    policy: PolicyState,
    changes: Changes,
    /// What this machine gave; a dry run gives nothing.
    history: Option<History>,
    manager: Manager,
    metrics: Metrics,
    /// Those of the last status, for the times when the engine does not say.
    last_pilots: Vec<report::Pilot>,
    turning: Loop,
    /// Boot second.
    started: f64,
    /// The copies of files that nobody uses were removed.
    swept: bool,
    /// Something has happened since the last list was asked for.
    changed: bool,
    /// The control files may have changed; where nothing is asked for they are read only then.
    control_changed: bool,
    /// Boot second at which they changed last.
    control_at: f64,
    /// Boot second of the next regular tick; `None`: only an event can change anything.
    next_tick: Option<f64>,
    finished: Option<Exit>,
}

/// Runs until a signal, a force-stop or a finished drain. Errors: no signal pipe, no file descriptors.
pub fn run(start: Start) -> std::io::Result<Exit> {
    let mut daemon = Daemon::new(start)?;
    // Ready to manage: an engine that is not there yet is a state like any other.
    daemon.manager.ready();
    let exit = loop {
        daemon.take_in();
        if let Some(exit) = daemon.exit() {
            break exit;
        }
        if let Some(list) = daemon.engine.list.take() {
            daemon.tick(Some(list));
        } else if daemon.asks_at() <= clock::now().boot {
            daemon.ask();
        }
        daemon.wait();
    };
    daemon.leave();
    Ok(exit)
}

impl Daemon {
    /// One turn, with the list and the boot second at which it was asked for. Without a list nothing is changed, but what
    /// holds is still told.
    fn tick(&mut self, list: Option<(Vec<Listed>, f64)>) {
        let observation = self.observe(list.as_ref());
        let decision = decide(&self.config, &mut self.policy, &observation);
        self.ask_for_groups();
        self.act(&decision);
        let listed = list.map(|(list, _)| list).unwrap_or_default();
        self.sweep_files(&listed, &observation);
        self.record(&observation, &decision);
        self.report(&observation, &decision);
        self.next_tick = decision
            .wake_in
            .map(|seconds| observation.at.boot + seconds);
        self.look_again_soon(&observation);
        self.finished = self
            .finished
            .or_else(|| self.is_finished(&observation, &decision));
    }

    fn observe(&mut self, list: Option<&(Vec<Listed>, f64)>) -> Observation {
        let now = clock::now();
        if self.control_changed || self.control.is_none() || self.asked_for != Control::default() {
            self.control_changed = false;
            let (asked, problems) = control::read(&self.site.dirs, now, &self.site.boot_id);
            self.changes.problem("control files", &problems);
            self.asked_for = asked;
        }
        let seen = Observation {
            at: now,
            local: clock::local(),
            engine: self.engine.state.clone(),
            engine_since: self.engine.since,
            listed_at: list.map_or(0.0, |(_, asked_at)| *asked_at),
            news: std::mem::take(&mut self.news),
            control: self.asked_for.clone(),
            ..Observation::default()
        };
        let (list, facts) = (
            list.map(|(list, _)| list.as_slice()),
            self.engine.facts.as_deref(),
        );
        self.observer.observe(seen, list, facts, &self.config)
    }

    fn act(&mut self, decision: &Decision) {
        self.observer.contended = decision.contended;
        if self.asked_for.pull && self.engine.state == EngineState::Up {
            self.clear(control::PULL);
        }
        // Replacements before removals: a removal that is under way already would slow the start down.
        let is_launch = |action: &&Action| matches!(action, Action::Launch(..));
        let (launches, others): (Vec<_>, Vec<_>) = decision.actions.iter().partition(is_launch);
        let Some(facts) = self.engine.facts.clone() else {
            return;
        };
        for action in launches.into_iter().chain(others) {
            let text = act::describe(action);
            if self.start.dry_run {
                log::info!("dry run: would {text}");
                continue;
            }
            log::debug!("{text}");
            if *action == Action::MendGroup {
                self.mend_group();
            }
            if let Some((lane, job)) = act::job(action, &self.site, &self.config, &facts) {
                self.executor.go(lane, move || Finished::News(job()));
            }
        }
        if self.start.dry_run {
            self.policy.forget_launches();
        }
    }

    fn clear(&self, request: &str) {
        if let Err(error) = control::clear(&self.site.dirs, request) {
            log::warn!("{error}");
        }
    }

    /// After a crash or a lost reply, copies of files for pilots that the engine does not know. With a start under way they
    /// may be its own.
    fn sweep_files(&mut self, list: &[Listed], observation: &Observation) {
        if self.swept || observation.pilots.is_none() || self.executor.count(Lane::Start) > 0 {
            return;
        }
        let names = list.iter().flat_map(|listed| &listed.names);
        let names = names.map(|name| name.trim_start_matches('/')).collect();
        files::sweep(&self.site.dirs.run, &names);
        self.swept = true;
    }

    /// Into the history of what was given, and into the recording if there is one.
    fn record(&mut self, observation: &Observation, decision: &Decision) {
        if let Some(history) = &mut self.history {
            history.tick(observation, decision);
            if let Some(hours) = history.take_due(observation.at.boot) {
                let state = self.site.dirs.state.clone();
                self.executor.go(Lane::File, move || {
                    let written = history::append(&state, &hours);
                    Finished::Recorded(written.map_err(|error| (hours, error.to_string())))
                });
            }
        }
        if let Some(file) = &mut self.start.recording {
            let line = serde_json::to_string(observation).unwrap_or_default();
            if let Err(error) = writeln!(file, "{line}") {
                log::warn!("the recording: {error}; it ends here");
                self.start.recording = None;
            }
        }
    }

    fn report(&mut self, observation: &Observation, decision: &Decision) {
        self.turning.calls = self.site.engine.counters().calls;
        self.turning.awake = observation.at.awake;
        self.turning.interval = self.interval();
        let sinks = self.metrics.health();
        self.changes.sinks(&sinks);
        self.changes.problem("jobs", self.executor.refused.clone());
        if observation.pilots.is_some() {
            self.changes.problem("rules", &decision.void);
        }
        let at = observation.at;
        // Everybody may read a status, but not what pilots said last: that has a file of its own.
        let without_tail = |gone: &report::Finished| report::Finished {
            log_tail: String::new(),
            ..gone.clone()
        };
        let mut status = Status {
            instance: self.site.instance.clone(),
            since: at.epoch - (at.boot - self.started),
            engine: self.engine.seen(self.site.engine.socket()),
            counts: self.policy.counts.clone(),
            gone: self.policy.gone.iter().map(without_tail).collect(),
            pull: self.site.pull(),
            problems: self.changes.problems(),
            sinks,
            remote: self.remote.told.clone(),
            turning: self.turning.clone(),
            ..Status::of(&self.config, observation, decision, &self.last_pilots)
        };
        if let Some(asked_at) = self.engine.asked_at {
            // Turning is no sign of life while a question is not answered, not even by an error.
            status.due = status.due.map(|due| due - (observation.at.boot - asked_at));
        }
        self.metrics
            .tell(&self.site, &status, observation, decision);
        self.changes.news(&observation.news);
        self.changes.state(&status);
        let (state, pilots) = (word(status.state), count_pilots(status.pilots.len()));
        self.manager
            .status(format!("{state}, {pilots}: {}", status.reason.text));
        let dirs = &self.site.dirs;
        if !decision.ended.is_empty() {
            let written = state::write_log_tails(dirs, &self.policy.gone);
            self.changes.problem("log", written.err());
        }
        let written = state::write_status(&dirs.run, &status);
        self.changes.problem("status", written.err());
        self.last_pilots = status.pilots;
    }

    fn wait(&mut self) {
        let now = clock::now().boot;
        self.turning.turned(now, clock::process_cpu());
        let is_stuck = |at: f64| now - at > report::patience(self.interval());
        let live_at = match self.engine.asked_at.is_some_and(is_stuck) {
            true => None,
            false => self.manager.live(now),
        };
        // Files that somebody keeps touching are looked at twice a second.
        let look_at = self.control_at + LOOKS_APART;
        let control = self.control.as_ref().filter(|_| now >= look_at);
        let look_at = (now < look_at).then_some(look_at);
        let times = [live_at, self.remote.due, look_at].into_iter().flatten();
        let due = times.fold(self.asks_at(), f64::min);
        let due = if self.engine.list.is_some() { now } else { due };
        let seconds = due.is_finite().then(|| (due - now).max(0.0));
        let jobs = Some(self.executor.as_fd());
        let has_changed = wait(seconds, &mut self.signals, control, jobs);
        let now = clock::now().boot;
        self.turning.woken = now;
        if has_changed {
            (self.control_changed, self.control_at) = (true, now);
        }
    }

    /// Boot second at which the engine is to be asked for the next tick; infinite: only an event can change anything. What
    /// happens while it is asked already is told when its answer takes long.
    fn asks_at(&self) -> f64 {
        let changed_at = match self.engine.asked_at {
            Some(at) => at + SILENT,
            None => 0.0,
        };
        let changed_at = (self.changed || self.control_changed).then_some(changed_at);
        let times = [self.next_tick, changed_at].into_iter().flatten();
        times.fold(f64::INFINITY, f64::min)
    }

    /// The owner's configuration or what was joined has changed.
    fn adopt(&mut self) {
        let config = self.remote.adopt(&self.site.dirs.state, &self.start.config);
        let before = std::mem::replace(&mut self.config, Arc::new(config));
        self.policy
            .forget_changed(&before, &self.config, clock::now().epoch);
        self.changes.remote(self.remote.told.as_ref());
        self.metrics.aim(&self.config.influxdb);
        self.mend_group();
        self.changed = true;
    }

    fn mend_group(&mut self) {
        let facts = self.engine.facts.clone();
        if let Some(facts) = facts.filter(|_| !self.start.dry_run) {
            let (site, limit) = (Arc::clone(&self.site), self.memory_limit());
            let job = move || Finished::Prepared(group::prepare(&site.root, &facts, limit));
            self.executor.go(Lane::File, job);
        }
    }

    /// Bytes that pilots may use together, so that the kernel can act between two ticks; `None`: the machine is smaller
    /// than its reserve.
    fn memory_limit(&self) -> Option<u64> {
        let total = host::read_memory(&self.site.root)?.0;
        let limit = total.checked_sub(self.config.share.reserve_memory.0);
        limit.filter(|limit| *limit > 0)
    }

    fn interval(&self) -> f64 {
        self.config.loop_.interval.as_secs_f64()
    }

    fn is_finished(&mut self, observation: &Observation, decision: &Decision) -> Option<Exit> {
        if decision.finished {
            // Carried out, and so consumed: the next start is a new beginning.
            self.clear(control::FORCE_STOP);
            if self.asked_for.drain.is_some_and(|drain| drain.stop) {
                self.clear(control::DRAIN);
            }
            return Some(Exit::Done);
        }
        let is_full = observation.cpu.is_some() && observation.pilots.is_some();
        (self.start.once && is_full).then_some(Exit::Done)
    }

    fn exit(&self) -> Option<Exit> {
        if self.signals.wants_end() {
            return Some(Exit::Done);
        }
        // `--once` waits for what its tick set off.
        self.finished
            .filter(|_| !self.start.once || self.executor.is_empty())
    }

    fn leave(&mut self) {
        self.manager.stopping();
        // What has come back since the last tick.
        self.changes.news(&self.news);
        let state = &self.site.dirs.state;
        if let Some(history) = &self.history
            && let Err(error) = history::append(state, &history.unwritten)
        {
            log::warn!("{error}");
        }
        if let Err(error) = state::remove_status(&self.site.dirs.run) {
            log::warn!("{error}");
        }
        self.metrics.end();
        let facts = self.engine.facts.clone();
        if let Some(facts) = facts.filter(|_| !self.start.dry_run) {
            // Pilots that go on keep the group, and the end is not to wait for them.
            let is_empty = self.last_pilots.is_empty();
            let patience = if is_empty {
                GROUP_PATIENCE
            } else {
                Duration::ZERO
            };
            group::remove(&self.site.root, &facts, patience);
        }
    }

    fn new(start: Start) -> std::io::Result<Daemon> {
        let (site, mut remote, mut changes) = (
            Arc::clone(&start.site),
            Remote::default(),
            Changes::default(),
        );
        let config = remote.adopt(&site.dirs.state, &start.config);
        changes.remote(remote.told.as_ref());
        let mut metrics = Metrics::default();
        metrics.aim(&config.influxdb);
        let control = Watch::new(&control::directories(&site.dirs));
        let unwatched =
            |error| format!("control files can't be watched ({error}); they are read at each tick");
        changes.problem("control", control.as_ref().err().map(unwatched));
        let seed = whole(clock::now().epoch * 1e6) ^ u64::from(std::process::id()) << 40;
        Ok(Daemon {
            metrics,
            history: (!start.dry_run).then(History::default),
            observer: Observer::new(Arc::clone(&site)),
            config: Arc::new(config),
            remote,
            signals: Signals::catch()?,
            control: control.ok(),
            asked_for: Control::default(),
            executor: Executor::new()?,
            engine: EngineSide::default(),
            news: Vec::new(),
            policy: PolicyState::new(seed),
            changes,
            manager: Manager::find(|name| std::env::var_os(name)),
            last_pilots: Vec::new(),
            turning: Loop {
                woken: clock::now().boot,
                ..Loop::default()
            },
            started: clock::now().boot,
            swept: false,
            changed: false,
            control_changed: true,
            control_at: 0.0,
            next_tick: Some(0.0),
            finished: None,
            site,
            start,
        })
    }
}
