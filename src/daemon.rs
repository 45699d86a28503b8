//! The loop: observe, decide, act, report, wait. No call that can take long runs on it: such calls are jobs, and what they
//! bring back comes in here as a value.

mod engine_side;
mod jobs;

use crate::act::images::{self, Images, Pulling};
use crate::act::{self, Setting, builtin, files, group};
use crate::config::{Config, MissingLimits};
use crate::decide::{Action, Control, Decision, LaunchResult, Memory, News, Observation, decide};
use crate::engine::{Engine, Listed};
use crate::executor::{Executor, Lane};
use crate::metrics::Metrics;
use crate::observe::{Input, Observer};
use crate::record::keep::Recorder;
use crate::remote::Remote;
use crate::report::{self, LoopCost, Told};
use crate::state::{self, Dirs, Lock, control};
use crate::systemd::Manager;
use crate::units::{Exit, count_pilots, whole};
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

/// How long the groups of the last pilots may take to go.
const GROUP_PATIENCE: Duration = Duration::from_secs(1);

/// How the loop is started.
pub struct Start {
    /// The owner's own at first, and from then on with what was joined.
    pub config: Config,
    /// Read again on SIGHUP.
    pub config_file: Option<PathBuf>,
    pub dirs: Dirs,
    pub engine: Arc<Engine>,
    pub instance: String,
    pub host: String,
    /// End after the first full tick and what it set off.
    pub once: bool,
    pub dry_run: bool,
    /// Observations, one JSON object a line.
    pub record: Option<File>,
    #[expect(dead_code, reason = "it is held as long as the loop turns, not read")]
    pub lock: Lock,
}

struct Daemon {
    start: Start,
    /// The owner's own configuration.
    local: Config,
    remote: Remote,
    root: PathBuf,
    boot_id: String,
    builtin_tag: String,
    pulling: Pulling,
    signals: Signals,
    control: Option<Watch>,
    asked_for: Control,
    executor: Executor<Finished>,
    observer: Observer,
    memory: Memory,
    engine: EngineSide,
    news: Vec<News>,
    told: Told,
    /// What this machine gave; a dry run gives nothing.
    history: Option<Recorder>,
    manager: Manager,
    metrics: Metrics,
    /// The pilots as last told, for the times when the engine does not say.
    last_rows: Vec<report::Pilot>,
    cost: LoopCost,
    contended: bool,
    /// The copies of files that nobody uses were removed.
    swept: bool,
    /// Something has happened since the last list was asked for.
    changed: bool,
    /// The control files may have changed; where nothing is asked for they are read only then.
    control_changed: bool,
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
        } else if daemon.is_due() {
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
        let decision = decide(&self.start.config, &mut self.memory, &observation);
        self.act(&decision);
        let listed = list.map(|(list, _)| list).unwrap_or_default();
        self.sweep_files(&listed, &observation);
        self.record(&observation, &decision);
        self.report(&observation, &decision, &listed);
        self.next_tick = decision
            .wake_in
            .map(|seconds| observation.at.boot + seconds);
        self.look_again_soon(&observation);
        self.finished = self
            .finished
            .or_else(|| self.is_finished(&observation, &decision));
    }

    fn observe(&mut self, list: Option<&(Vec<Listed>, f64)>) -> Observation {
        let local = clock::local();
        let (share, owner, _) = self.start.config.effective(local.weekday, local.minute);
        let now = clock::now();
        if self.control_changed || self.control.is_none() || self.asked_for != Control::default() {
            self.control_changed = false;
            let requests = control::read(&self.start.dirs.state, now.epoch);
            self.told.control_problems(&requests.problems);
            self.asked_for = requests.asked;
        }
        self.observer.observe(Input {
            now,
            local,
            facts: self.engine.facts.as_ref(),
            engine: self.engine.state.clone(),
            list: list.map(|(list, asked_at)| (list.as_slice(), *asked_at)),
            news: std::mem::take(&mut self.news),
            control: self.asked_for.clone(),
            share: &share,
            owner: &owner,
            instance: &self.start.instance,
            boot_id: &self.boot_id,
            contended: self.contended,
            interval: self.interval(),
        })
    }

    fn act(&mut self, decision: &Decision) {
        self.contended = decision.contended;
        if self.asked_for.pull
            && let Err(error) = control::clear(&self.start.dirs.state, control::Request::Pull)
        {
            log::warn!("{error}");
        }
        if decision.actions.is_empty() {
            return;
        }
        let (setting, engine) = (Arc::new(self.setting()), Arc::clone(&self.start.engine));
        // Replacements before removals: a removal that is under way already would slow the start down.
        let is_launch = |action: &&Action| matches!(action, Action::Launch { .. });
        let (launches, others): (Vec<_>, Vec<_>) = decision.actions.iter().partition(is_launch);
        for action in launches.into_iter().chain(others) {
            let text = act::describe(action, ToString::to_string);
            if self.start.dry_run {
                log::info!("dry run: would {text}");
                continue;
            }
            log::debug!("{text}");
            if *action == Action::MendGroup {
                self.mend_group();
            }
            let pilots = &self.start.config.pilots;
            if let Some((lane, job)) = act::job(action, pilots, &engine, &setting) {
                self.executor.go(lane, move || Finished::News(job()));
            }
        }
        if self.start.dry_run {
            self.memory.forget_launches();
        }
    }

    fn setting(&self) -> Setting {
        let share = &self.start.config.share;
        Setting {
            instance: self.start.instance.clone(),
            host: self.start.host.clone(),
            boot_id: self.boot_id.clone(),
            run: self.start.dirs.run.clone(),
            parent: self
                .engine
                .facts
                .as_ref()
                .and_then(|facts| facts.parent_name()),
            cpuset: share.cpuset.clone(),
            refuse_missing_limits: share.missing_limits == MissingLimits::Refuse,
            images: Images {
                state: self.start.dirs.state.clone(),
                pull_per_day: share.pull_per_day.0,
                builtin_tag: self.builtin_tag.clone(),
                wanted: images::names(&self.start.config.pilots, &self.builtin_tag),
                pulling: self.pulling.clone(),
            },
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
        files::sweep(&self.start.dirs.run, &names);
        self.swept = true;
    }

    /// Into the history of what was given, and into the recording if there is one.
    fn record(&mut self, observation: &Observation, decision: &Decision) {
        let history = self.history.as_mut();
        if let Some(write) = history.and_then(|history| history.tick(observation, decision)) {
            self.executor
                .go(Lane::File, move || Finished::Recorded(write()));
        }
        if let Some(file) = &mut self.start.record {
            let line = serde_json::to_string(observation).unwrap_or_default();
            if let Err(error) = writeln!(file, "{line}") {
                log::warn!("the recording: {error}; it ends here");
                self.start.record = None;
            }
        }
    }

    fn report(&mut self, observation: &Observation, decision: &Decision, list: &[Listed]) {
        let engine = self.start.engine.counters();
        self.cost.calls = engine.calls;
        let sinks = self.metrics.sinks();
        self.told.sinks(&sinks);
        self.told.problem("jobs", self.executor.refused.clone());
        let mut status = report::status(&report::Seen {
            start: &self.start,
            observation,
            decision,
            list,
            last_rows: &self.last_rows,
            pull: self.pulling.read(),
            facts: self.engine.facts.as_ref(),
            memory: &self.memory,
            told: &self.told,
            cost: &self.cost,
            sinks: &sinks,
            remote: self.remote.told.as_ref(),
        });
        if let Some(asked_at) = self.engine.asked_at {
            // Turning is no sign of life while a question is not answered, not even by an error.
            status.due = status.due.map(|due| due - (observation.at.boot - asked_at));
        }
        self.metrics
            .tell(&status, observation, decision, engine, self.interval());
        self.told.log_changes(&status, &observation.news);
        let (state, pilots) = (status.state.name(), count_pilots(status.pilots.len()));
        self.manager
            .status(format!("{state}, {pilots}: {}", status.reason.text));
        let written = state::write_status(&self.start.dirs.run, &status);
        self.told
            .problem("status", written.err().map(|error| error.to_string()));
        self.last_rows = status.pilots;
    }

    fn wait(&mut self) {
        let now = clock::now().boot;
        self.cost.turned(now, clock::process_cpu());
        let is_asked = self.engine.asked_at.is_some();
        let pending = self.changed && !is_asked && self.engine.facts.is_some();
        // A command that came while the engine is asked is told when that takes long.
        let waits = self.changed || self.control_changed;
        let silent_at = self.engine.asked_at.filter(|_| waits).map(|at| at + SILENT);
        let is_stuck = self
            .engine
            .asked_at
            .is_some_and(|at| now - at > report::patience(self.interval()));
        let live_at = if is_stuck {
            None
        } else {
            self.manager.live(now)
        };
        let times = [self.next_tick, silent_at, live_at, self.remote.due];
        let due = times.into_iter().flatten().reduce(f64::min);
        let seconds = if pending {
            Some(0.0)
        } else {
            due.map(|at| (at - now).max(0.0))
        };
        let jobs = Some(self.executor.as_fd());
        let control = wait(seconds, &mut self.signals, self.control.as_ref(), jobs);
        self.cost.woke(clock::now().boot);
        self.changed |= control;
        self.control_changed |= control;
    }

    fn is_due(&self) -> bool {
        let now = clock::now().boot;
        let is_silent = self.engine.asked_at.is_none_or(|at| now - at >= SILENT);
        let is_tick = self.next_tick.is_some_and(|at| now >= at);
        ((self.changed || self.control_changed) && is_silent) || is_tick
    }

    /// The owner's configuration or what was joined has changed.
    fn adopt(&mut self) {
        let config = self.remote.adopt(&self.start.dirs.state, &self.local);
        let before = std::mem::replace(&mut self.start.config, config);
        self.memory
            .forget_changed(&before, &self.start.config, clock::now().epoch);
        self.told.remote(self.remote.told.as_ref());
        self.metrics.aim(&self.start.config.influxdb);
        self.mend_group();
        self.changed = true;
    }

    fn mend_group(&mut self) {
        let Some(layout) = self
            .engine
            .facts
            .as_ref()
            .and_then(|facts| facts.our_layout())
        else {
            return;
        };
        let (root, limit) = (self.root.clone(), self.memory_limit());
        if !self.start.dry_run {
            let job = move || Finished::Prepared(group::prepare(&root, layout, limit));
            self.executor.go(Lane::Remove, job);
        }
    }

    /// Bytes that pilots may use together, so that the kernel can act between two ticks; `None`: the machine is smaller
    /// than its reserve.
    fn memory_limit(&self) -> Option<u64> {
        let total = host::memory::read_memory(&self.root).ok()?.total.0;
        let limit = total.checked_sub(self.start.config.share.reserve_memory.0);
        limit.filter(|limit| *limit > 0)
    }

    fn interval(&self) -> f64 {
        self.start.config.loop_.interval.as_secs_f64()
    }

    fn is_finished(&mut self, observation: &Observation, decision: &Decision) -> Option<Exit> {
        if decision.finished {
            // Carried out, and so consumed: the next start is a new beginning.
            for request in [control::Request::ForceStop, control::Request::Drain] {
                if let Err(error) = control::clear(&self.start.dirs.state, request) {
                    log::warn!("{error}");
                }
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
        self.told.log_news(&self.news);
        if let Some(Err(error)) = self.history.as_mut().map(Recorder::finish) {
            log::warn!("{error}");
        }
        if let Err(error) = state::remove_status(&self.start.dirs.run) {
            log::warn!("{error}");
        }
        self.metrics.end();
        if let Some(layout) = self
            .engine
            .facts
            .as_ref()
            .and_then(|facts| facts.our_layout())
        {
            // Pilots that go on keep the group, and the end is not to wait for them.
            let is_empty = self.last_rows.is_empty();
            let patience = if is_empty {
                GROUP_PATIENCE
            } else {
                Duration::ZERO
            };
            group::remove(&self.root, layout, patience);
        }
    }

    fn new(mut start: Start) -> std::io::Result<Daemon> {
        let root = machine_root();
        let seed = whole(clock::now().epoch * 1e6) ^ u64::from(std::process::id()) << 40;
        let control = Watch::new(&control::directory(&start.dirs.state));
        let mut told = Told::default();
        let unwatched =
            |error| format!("control files can't be watched ({error}); they are read at each tick");
        told.problem("control", control.as_ref().err().map(unwatched));
        let (local, mut remote) = (start.config.clone(), Remote::default());
        start.config = remote.adopt(&start.dirs.state, &local);
        told.remote(remote.told.as_ref());
        let hold_dirs = vec![
            start.dirs.run.join("inhibit.d"),
            PathBuf::from("/etc/plancton/inhibit.d"),
        ];
        Ok(Daemon {
            local,
            remote,
            boot_id: clock::boot_id(&root),
            builtin_tag: builtin::tag()?,
            pulling: Pulling::default(),
            signals: Signals::catch()?,
            control: control.ok(),
            asked_for: Control::default(),
            executor: Executor::new()?,
            observer: Observer::new(&root, hold_dirs),
            memory: Memory::new(seed),
            engine: EngineSide::default(),
            news: Vec::new(),
            told,
            history: (!start.dry_run).then(|| Recorder::open(&start.dirs.state)),
            manager: Manager::find(|name| std::env::var_os(name)),
            metrics: Metrics::new(&start.instance, &start.host, &start.config.influxdb),
            last_rows: Vec::new(),
            cost: LoopCost::new(clock::now().boot),
            contended: false,
            swept: false,
            changed: false,
            control_changed: true,
            next_tick: Some(0.0),
            finished: None,
            root,
            start,
        })
    }
}

/// Where /proc and /sys are read. Builds for tests can be shown a made-up machine; a release sees only its own.
fn machine_root() -> PathBuf {
    let made_up = std::env::var_os("PLANCTON_MADE_UP_ROOT").filter(|_| cfg!(debug_assertions));
    made_up.map_or_else(|| PathBuf::from("/"), PathBuf::from)
}
