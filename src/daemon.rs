//! The loop: observe, decide, act, report, wait. No call that can take long runs on it: such calls are jobs, and what they
//! bring back comes in here as a value.

mod jobs;

pub use jobs::look;

use crate::act::{self, files, group};
use crate::config::{self, Config};
use crate::decide::{Action, Decision, EngineState, News, Observation, PolicyState, decide};
use crate::executor::{Executor, Lane};
use crate::history::{self, History, add_hours};
use crate::report::{self, Changes, Status};
use crate::state::{self, control};
use crate::systemd::Manager;
use crate::units::{Exit, count_pilots, whole, word};
use crate::{clock, metrics::Metrics, observe::Observer, remote::Remote, site::Site};
use jobs::{EngineSide, Then};
use std::io::{self, Write};
use std::{collections::BTreeMap, fs::File, sync::Arc, time::Duration};

/// Seconds after which an engine counts as silent: then it is not waited for before something is told.
const SILENT: f64 = 1.0;
/// How long the groups of the last pilots may take to go.
const GROUP_PATIENCE: Duration = Duration::from_secs(2);

/// How the loop is started.
pub struct Start {
    /// The owner's own; its file is read again on SIGHUP.
    pub config: Config,
    /// End after the first full tick and what it set off.
    pub once: bool,
    /// Says what it would do, and does nothing.
    pub dry_run: bool,
    /// Observations, one JSON object a line.
    pub recording: Option<File>,
}

struct Daemon {
    /// With the owner's own configuration.
    start: Start,
    site: Arc<Site>,
    /// In force: the owner's with what was joined.
    config: Arc<Config>,
    remote: Remote,
    executor: Executor<Then>,
    engine: EngineSide,
    observer: Observer,
    news: Vec<News>,
    policy: PolicyState,
    changes: Changes,
    /// What this machine gave; a dry run gives nothing.
    history: Option<History>,
    manager: Manager,
    metrics: Metrics,
    /// The last one.
    status: Status,
    /// Boot second.
    started: f64,
    /// The copies of files that nobody uses were removed.
    swept: bool,
    /// Something has happened since the engine was asked last.
    changed: bool,
    /// Boot second of the next regular tick; `None`: only an event can change anything.
    next_tick: Option<f64>,
    finished: Option<Exit>,
}

/// Runs until a signal, a force-stop or a finished drain. Errors: no signals, no threads for what is followed.
pub fn run(site: Arc<Site>, start: Start) -> io::Result<Exit> {
    let mut daemon = Daemon::new(site, start)?;
    // Ready to manage: an engine that is not there yet is a state like any other.
    daemon.manager.send("READY=1");
    let exit = loop {
        for then in daemon.wait() {
            then(&mut daemon);
        }
        // `--once` waits for what its tick set off.
        let is_idle = !daemon.start.once || daemon.executor.is_empty();
        if let Some(exit) = daemon.finished.filter(|_| is_idle) {
            break exit;
        }
        if daemon.asks_at() <= clock::now().boot {
            daemon.ask();
        }
    };
    daemon.leave();
    Ok(exit)
}

impl Daemon {
    /// One turn, with what a job has seen of the engine. Without pilots in it nothing is changed, but what holds is told.
    fn tick(&mut self, seen: Observation) {
        let observation = self.observe(seen);
        let mut decision = decide(&self.config, &mut self.policy, &observation);
        self.ask_for_groups();
        self.act(&mut decision);
        self.sweep_files(&observation);
        self.record(&observation, &decision);
        self.report(&observation, &decision);
        let at = observation.at.boot;
        let next = decision.wake_in.map(|seconds| at + seconds);
        // The list may not know of an announced end at once: looks after 10 ms, 20, and so on.
        let waited = at - self.engine.announced_at;
        let again = (waited < 1.0).then_some(at + waited.max(0.01));
        self.next_tick = next.into_iter().chain(again).reduce(f64::min);
        self.finish(&observation, &decision);
        self.engine.last.1 = observation.pilots.unwrap_or_default();
    }

    fn observe(&mut self, seen: Observation) -> Observation {
        let at = clock::now();
        let seen = Observation {
            at,
            local: clock::local(),
            engine: self.engine.state.clone(),
            engine_since: self.engine.since,
            news: std::mem::take(&mut self.news),
            ..seen
        };
        let facts = self.engine.facts.as_deref();
        self.observer.observe(&self.site, seen, facts, &self.config)
    }

    fn act(&mut self, decision: &mut Decision) {
        self.observer.groups.contended = decision.contended;
        // Replacements before removals: a removal that is under way already would slow the start down.
        let is_later = |action: &Action| !matches!(action, Action::Launch(..));
        decision.actions.sort_by_key(is_later);
        for action in decision.actions.drain(..) {
            let text = act::describe(&action);
            if self.start.dry_run {
                log::info!("dry run: would {text}");
            } else if let (Some(lane), Some(facts)) = (act::lane(&action), &self.engine.facts) {
                log::debug!("{text}");
                let (site, facts) = (Arc::clone(&self.site), Arc::clone(facts));
                let config = Arc::clone(&self.config);
                let job = move || act::carry_out(action, &site, &config, &facts);
                self.go(lane, job, Daemon::learn);
            } else {
                self.mend_group();
            }
        }
        if self.start.dry_run {
            self.policy.forget_launches();
        }
    }

    /// After a crash or a lost reply, copies of files for pilots that the engine does not know. With a start under way, or one
    /// that has come back since the list was asked for, they may be its own.
    fn sweep_files(&mut self, observation: &Observation) {
        if let Some(pilots) = &observation.pilots
            && !self.swept
            && self.executor.count(Lane::START) == 0
            && observation.news.is_empty()
        {
            let names: Vec<_> = pilots.iter().map(|pilot| pilot.name.as_str()).collect();
            files::sweep(&self.site.dirs.run, &names);
            self.swept = true;
        }
    }

    /// Into the history of what was given, and into the recording if there is one.
    fn record(&mut self, observation: &Observation, decision: &Decision) {
        if let Some(history) = &mut self.history {
            history.tick(observation, decision);
            if let Some(hours) = history.take_due(observation.at.boot) {
                let state = self.site.dirs.state.clone();
                let job = move || (history::append(&state, &hours).err(), hours);
                self.go(Lane::FILE, job, |daemon, (problem, hours)| {
                    if let Some(history) = daemon.history.as_mut().filter(|_| problem.is_some()) {
                        add_hours(&mut history.unwritten, hours);
                    }
                    daemon.changes.problem("history", problem);
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
        let at = observation.at;
        let mut turning = self.status.turning.clone();
        turning.calls = self.site.engine.counters().calls;
        (turning.awake, turning.interval) = (at.awake, self.config.interval());
        let sinks = self.metrics.health();
        self.changes.sinks(&sinks);
        self.changes.problem("jobs", &self.executor.refused);
        if observation.pilots.is_some() {
            self.changes.problem("rules", &decision.void);
        }
        let facts = self.engine.facts.as_ref();
        let mut counts = BTreeMap::new();
        for ((_, what), count) in &self.policy.counts {
            *counts.entry(what.clone()).or_default() += count;
        }
        // Everybody may read a status, but not what pilots said last: that has a file of its own.
        let mut gone = Vec::from(self.policy.gone.clone());
        gone.iter_mut().for_each(|gone| gone.log_tail.clear());
        let mut status = Status {
            instance: self.site.instance.clone(),
            since: at.epoch - (at.boot - self.started),
            engine: facts.map(|facts| facts.engine.clone()).unwrap_or_default(),
            counts,
            gone,
            pull: self.site.pulling().clone(),
            problems: self.changes.problems(),
            sinks,
            remote: self.remote.told.clone(),
            turning,
            ..Status::of(&self.config, observation, decision, &self.status.pilots)
        };
        if let Some(asked_at) = self.engine.asked_at {
            // Turning is no sign of life while a question is not answered, not even by an error.
            status.due = status.due.map(|due| due - (at.boot - asked_at));
        }
        let (metrics, counts) = (&mut self.metrics, &self.policy.counts);
        metrics.tell(&self.site, &status, observation, decision, counts);
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
        let written = state::write_json(&dirs.run, state::STATUS, &status, 0o644);
        self.changes.problem("status", written.err());
        self.status = status;
    }

    /// Until something comes back, or it is time for something.
    fn wait(&mut self) -> Vec<Then> {
        let now = clock::now().boot;
        // What lay between two waits is a gap in which nothing would have been noticed.
        let turning = &mut self.status.turning;
        turning.turns += 1;
        turning.cpu_ms = clock::process_cpu() * 1e3;
        turning.longest_gap_ms = turning.longest_gap_ms.max((now - turning.woken) * 1e3);
        let (state, config) = (&self.site.dirs.state, &self.start.config);
        if let Some(job) = self.remote.job(state, config, now) {
            self.go(Lane::WEB, job, Daemon::fetched);
        }
        let patience = report::patience(self.config.interval());
        let is_stuck = self.engine.asked_at.is_some_and(|at| now - at > patience);
        let live_at = (!is_stuck).then(|| self.manager.live(now));
        let times = [live_at.flatten(), self.remote.due].into_iter().flatten();
        let due = times.fold(self.asks_at(), f64::min);
        let back = self.executor.wait(due - now);
        self.status.turning.woken = clock::now().boot;
        back
    }

    /// Boot second at which the engine is to be asked for the next tick; infinite: only an event can change anything. What
    /// happens while it is asked already is told when its answer takes long.
    fn asks_at(&self) -> f64 {
        let changed_at = self.engine.asked_at.map_or(0.0, |at| at + SILENT);
        let times = [self.next_tick, self.changed.then_some(changed_at)];
        times.into_iter().flatten().fold(f64::INFINITY, f64::min)
    }

    /// What was asked for and is carried out is consumed: the next start is a new beginning.
    fn finish(&mut self, observation: &Observation, decision: &Decision) {
        let (asked, is_up) = (&observation.control, observation.engine == EngineState::Up);
        let is_drained = asked.drain.is_some_and(|drain| drain.stop);
        for (request, is_done) in [
            (control::PULL, asked.pull && is_up),
            (control::FORCE_STOP, decision.finished),
            (control::DRAIN, decision.finished && is_drained),
        ] {
            if is_done && let Err(error) = control::clear(&self.site.dirs, request) {
                log::warn!("{error}");
            }
        }
        // Where nothing is configured there is no second tick for a rate.
        let is_full = observation.cpu.is_some() || decision.wake_in.is_none();
        let is_once = self.start.once && is_full && observation.pilots.is_some();
        if decision.finished || is_once {
            self.finished = Some(Exit::Done);
        }
    }

    fn leave(&mut self) {
        self.manager.send("STOPPING=1");
        // What has come back since the last tick.
        self.changes.news(&self.news);
        let dirs = &self.site.dirs;
        if let Some(history) = &self.history {
            let written = history::append(&dirs.state, &history.unwritten);
            self.changes.problem("history", written.err());
        }
        // What is no longer true.
        let told = [state::LOG_TAILS, state::STATUS].map(|name| dirs.run.join(name));
        let removed = told.iter().map(|path| state::remove_file(path));
        self.changes
            .problem("status", removed.filter_map(Result::err));
        self.metrics.end();
        if let Some(facts) = self.engine.facts.clone().filter(|_| !self.start.dry_run) {
            // Pilots that go on keep the group, and the end is not to wait for them.
            let patience = GROUP_PATIENCE * u32::from(self.status.pilots.is_empty());
            group::remove(&self.site.root, &facts, patience);
        }
    }

    fn new(site: Arc<Site>, start: Start) -> io::Result<Daemon> {
        let (mut remote, mut changes) = (Remote::default(), Changes::default());
        let config = remote.adopt(&site.dirs.state, &start.config);
        changes.remote(remote.told.as_ref());
        let mut metrics = Metrics::default();
        metrics.aim(&config.influxdb);
        let executor = Executor::new();
        jobs::follow_signals(&executor)?;
        jobs::follow_engine(&executor, &site)?;
        let unwatched = jobs::follow_control(&executor, &site.dirs).err();
        changes.problem("control files are read at each tick only", unwatched);
        let now = clock::now();
        let mut status = Status::default();
        status.turning.woken = now.boot;
        let seed = whole(now.epoch * 1e6) ^ u64::from(std::process::id()) << 40;
        Ok(Daemon {
            metrics,
            history: (!start.dry_run).then(History::default),
            observer: Observer::new(&site.root),
            config: Arc::new(config),
            remote,
            executor,
            engine: EngineSide::default(),
            news: Vec::new(),
            policy: PolicyState::new(seed),
            changes,
            manager: Manager::find(|name| std::env::var_os(name)),
            status,
            started: now.boot,
            swept: false,
            changed: false,
            next_tick: Some(0.0),
            finished: None,
            site,
            start,
        })
    }
}
