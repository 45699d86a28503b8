//! The loop: observe, decide, act, report, wait. No call that can take long runs on it: what the engine is asked is in
//! flight, and lands here as a value.

mod engine_side;

use crate::act::{Caller, builtin, group, handed, images::read_pull, spec::Setting};
use crate::config::Config;
use crate::decide::{
    Action, Control, Decision, EngineState, LaunchResult, Memory, News, Observation, decide,
};
use crate::engine::{Engine, Error, EventStream, Listed, Lister};
use crate::executor::{Executor, Lane};
use crate::metrics::Metrics;
use crate::observe::facts::Facts;
use crate::observe::{Input, Observer, parent_for_engine};
use crate::record::keep::Recorder;
use crate::remote::Remote;
use crate::report::{self, LoopCost, Told};
use crate::state::{self, Dirs, Lock, control};
use crate::systemd::Manager;
use crate::units::Exit;
use crate::units::{count_pilots, whole};
use crate::wait::{Signals, Watch, wait};
use crate::{clock, host};
use engine_side::Greeting;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
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

/// What a flight brings back.
enum Done {
    Greeted(Box<Result<Greeting, Error>>),
    Prepared(Result<(), String>),
    Recorded(Result<(), String>),
    /// Whether what was joined has changed.
    Looked(Result<bool, String>),
    News(Option<News>),
}

struct Daemon {
    start: Start,
    /// The owner's own configuration.
    local: Config,
    remote: Remote,
    hands: Caller,
    root: PathBuf,
    boot_id: String,
    signals: Signals,
    control: Option<Watch>,
    /// The control files may have changed; where nothing is asked for they are read only then.
    control_changed: bool,
    asked_for: Control,
    executor: Executor<Done>,
    observer: Observer,
    memory: Memory,
    facts: Option<Facts>,
    lister: Lister,
    events: Option<EventStream>,
    engine_state: EngineState,
    /// The list that waits for its tick.
    list: Option<(Vec<Listed>, f64)>,
    /// Boot second at which the list in flight was asked for.
    asking: Option<f64>,
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
    swept: bool,
    /// Pilots whose end was announced, and how often a list still showed them running.
    ending: Vec<(String, u8)>,
    /// Something has happened since the last list was asked for.
    changed: bool,
    /// Boot second of the next regular tick; `None`: only an event can change anything.
    next_tick: Option<f64>,
    finished: Option<Exit>,
}

/// Runs until a signal, a force-stop or a finished drain. Errors: no signal pipe, no file descriptors.
pub fn run(start: Start) -> std::io::Result<Exit> {
    let mut daemon = Daemon::new(start)?;
    // Ready to manage: an engine that is not there yet is a state like any other.
    daemon.manager.ready();
    let exit = daemon.turn_until_the_end();
    daemon.leave();
    Ok(exit)
}

impl Daemon {
    fn turn_until_the_end(&mut self) -> Exit {
        loop {
            self.take_in();
            if let Some(exit) = self.end() {
                return exit;
            }
            if let Some(list) = self.list.take() {
                self.tick(Some(list));
            } else if self.is_due() {
                self.ask();
            }
            self.wait();
        }
    }

    /// One turn. Without a list nothing is changed, but what holds is still told.
    fn tick(&mut self, list: Option<(Vec<Listed>, f64)>) {
        let observation = self.observe(list.as_ref());
        if let Some((list, _)) = &list {
            self.sweep_files(list);
        }
        let decision = decide(&self.start.config, &mut self.memory, &observation);
        self.act(&decision);
        if let Some(write) = self
            .history
            .as_mut()
            .and_then(|history| history.tick(&observation, &decision))
        {
            self.executor
                .go(Lane::File, move || Done::Recorded(write()));
        }
        self.report(
            &observation,
            &decision,
            list.as_ref().map_or(&[], |(list, _)| list),
        );
        if self.start.dry_run {
            self.memory.forget_launches();
        }
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
        if self.control_changed || self.control.is_none() || self.asked_for != Default::default() {
            self.control_changed = false;
            let requests = control::read(&self.start.dirs.state, now.epoch);
            self.told.control_problems(&requests.problems);
            self.asked_for = requests.asked;
        }
        let input = Input {
            now,
            local,
            facts: self.facts.as_ref(),
            engine: self.engine_state.clone(),
            list: list.map(|(list, asked_at)| (list.as_slice(), *asked_at)),
            news: std::mem::take(&mut self.news),
            control: self.asked_for.clone(),
            share: &share,
            owner: &owner,
            instance: &self.start.instance,
            boot_id: &self.boot_id,
            contended: self.contended,
            interval: self.start.config.loop_.interval.as_secs_f64(),
        };
        let observation = self.observer.observe(input);
        if let Some(file) = &mut self.start.record {
            let line = serde_json::to_string(&observation).unwrap_or_default();
            if let Err(error) = writeln!(file, "{line}") {
                log::warn!("the record of observations: {error}; recording ends here");
                self.start.record = None;
            }
        }
        observation
    }

    fn act(&mut self, decision: &Decision) {
        self.contended = decision.contended;
        let (share, now) = (&self.start.config.share, clock::now());
        let setting = Setting {
            instance: self.start.instance.clone(),
            host: self.start.host.clone(),
            boot_id: self.boot_id.clone(),
            parent: self.facts.as_ref().and_then(parent_for_engine),
            cpuset: share.cpuset.clone(),
            refuse_missing_limits: share.missing_limits == crate::config::MissingLimits::Refuse,
            layer_quota: self.facts.as_ref().is_some_and(|facts| facts.layer_quota),
            run: self.start.dirs.run.clone(),
            pull_per_day: share.pull_per_day.0,
            now,
        };
        // Replacements before removals: a removal that is under way already would slow the start down.
        let (launches, others): (Vec<&Action>, Vec<&Action>) = decision
            .actions
            .iter()
            .partition(|action| matches!(action, Action::Launch { .. }));
        for action in launches.into_iter().chain(others) {
            if let Some((lane, job)) = self.hands.job(action, &self.start.config.pilots, &setting) {
                self.executor.go(lane, move || Done::News(job()));
            }
        }
        if decision.actions.contains(&Action::MendGroup) {
            self.mend_group();
        }
        if self.asked_for.pull
            && let Err(error) = control::clear(&self.start.dirs.state, control::Request::Pull)
        {
            log::warn!("{error}");
        }
    }

    /// After a crash or a lost reply, copies of files for pilots that the engine does not know. With a start in flight they may be its own.
    fn sweep_files(&mut self, list: &[Listed]) {
        if self.swept || self.executor.count(Lane::Start) > 0 {
            return;
        }
        let names = list
            .iter()
            .flat_map(|listed| &listed.names)
            .map(|name| name.trim_start_matches('/'))
            .collect();
        handed::sweep(&self.start.dirs.run, &names);
        self.swept = true;
    }

    fn mend_group(&mut self) {
        let ours = self.facts.as_ref().filter(|facts| facts.parent.is_ok());
        let Some(layout) = ours.and_then(|facts| facts.layout) else {
            return;
        };
        let (root, limit) = (self.root.clone(), self.memory_limit());
        if !self.start.dry_run {
            self.executor.go(Lane::Clean, move || {
                Done::Prepared(group::prepare(&root, layout, limit))
            });
        }
    }

    /// What pilots may use together, so that the kernel can act between two ticks; `None`: the machine is smaller than
    /// its reserve.
    fn memory_limit(&self) -> Option<u64> {
        let total = host::memory::read_memory(&self.root).ok()?.total.0;
        total
            .checked_sub(self.start.config.share.reserve_memory.0)
            .filter(|limit| *limit > 0)
    }

    fn report(&mut self, observation: &Observation, decision: &Decision, list: &[Listed]) {
        let engine = self.hands.engine.counters();
        self.cost.calls = engine.calls;
        let sinks = self.metrics.sinks();
        self.told.sinks(&sinks);
        let status = report::status(&report::Seen {
            start: &self.start,
            observation,
            decision,
            list,
            last_rows: &self.last_rows,
            pull: read_pull(&self.hands.pulling),
            facts: self.facts.as_ref(),
            memory: &self.memory,
            told: &self.told,
            cost: &self.cost,
            sinks: &sinks,
            remote: self.remote.told.as_ref(),
        });
        let interval = self.start.config.loop_.interval.as_secs_f64();
        self.metrics
            .tell(&status, observation, decision, engine, interval);
        self.told.log_changes(&status, &observation.news);
        self.manager.status(format!(
            "{}, {}: {}",
            status.state.name(),
            count_pilots(status.pilots.len()),
            status.reason.text
        ));
        let written = state::write_status(&self.start.dirs.run, &status);
        self.told
            .problem("status", written.err().map(|error| error.to_string()));
        self.last_rows = status.pilots;
    }

    fn wait(&mut self) {
        let now = clock::now().boot;
        self.cost.turned(now, clock::process_cpu());
        let pending =
            self.list.is_some() || (self.changed && self.asking.is_none() && self.facts.is_some());
        // A command that came while the engine is asked is told when that takes long.
        let silent_at = self
            .asking
            .filter(|_| self.changed || self.control_changed)
            .map(|asked_at| asked_at + SILENT);
        let due = [
            self.next_tick,
            silent_at,
            self.manager.live(now),
            self.remote.due,
        ]
        .into_iter()
        .flatten()
        .reduce(f64::min);
        let seconds = if pending {
            Some(0.0)
        } else {
            due.map(|at| (at - now).max(0.0))
        };
        let others = [
            Some(self.executor.as_fd()),
            self.events.as_ref().map(AsFd::as_fd),
            self.lister.as_fd(),
        ];
        let woken = wait(seconds, &mut self.signals, self.control.as_ref(), others);
        self.cost.woke(clock::now().boot);
        self.changed |= woken.control;
        self.control_changed |= woken.control;
        let [_, events, list] = woken.ready;
        if events {
            self.read_events();
        }
        if list {
            self.read_list();
        }
    }

    /// What has landed since the last turn.
    fn take_in(&mut self) {
        for landed in self.executor.landed() {
            match landed {
                Done::Greeted(greeting) => match *greeting {
                    Ok(greeting) => self.greeted(greeting),
                    Err(error) => self.engine_failed(&error),
                },
                Done::Recorded(result) => self.told.problem("history", result.err()),
                Done::Prepared(result) => self.told.problem("group", result.err()),
                Done::Looked(result) => {
                    if result == Ok(true) {
                        self.adopt();
                    }
                    self.remote.looked(&self.start.dirs.state, &self.local);
                    self.told.problem("remote configuration", result.err());
                }
                Done::News(news) => {
                    self.changed |= news.is_some();
                    self.swept &= !news.as_ref().is_some_and(leaves_files);
                    self.news.extend(news);
                }
            }
        }
        if self.signals.take_reload() {
            self.reload();
        }
        if let Some(job) = self
            .remote
            .job(&self.start.dirs.state, &self.local, clock::now().boot)
        {
            self.executor.go(Lane::Web, move || Done::Looked(job()));
        }
    }

    fn is_due(&self) -> bool {
        let now = clock::now().boot;
        let silent = self.asking.is_none_or(|asked_at| now - asked_at >= SILENT);
        ((self.changed || self.control_changed) && silent)
            || self.next_tick.is_some_and(|at| now >= at)
    }

    fn reload(&mut self) {
        self.manager.reloading(clock::now().awake);
        let read = self
            .start
            .config_file
            .as_deref()
            .map(crate::commands::context::read_config);
        match read.transpose() {
            Ok(config) => {
                log::info!("the configuration was read again");
                self.local = config.unwrap_or_else(|| self.local.clone());
                self.told.problem("configuration", None);
                self.adopt();
            }
            Err(problems) => {
                let text = format!("{problems}; the configuration read last stays in force");
                self.told.problem("configuration", Some(text));
            }
        }
        self.manager.ready();
    }

    /// The owner's configuration or what was joined has changed.
    fn adopt(&mut self) {
        let config = self.remote.adopt(&self.start.dirs.state, &self.local);
        self.memory
            .forget_changed(&self.start.config, &config, clock::now().epoch);
        self.start.config = config;
        self.told.remote(self.remote.told.as_ref());
        self.metrics.aim(&self.start.config.influxdb);
        self.mend_group();
        self.changed = true;
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
        (self.start.once && observation.cpu.is_some() && observation.pilots.is_some())
            .then_some(Exit::Done)
    }

    fn end(&self) -> Option<Exit> {
        if self.signals.wants_end() {
            return Some(Exit::Done);
        }
        // `--once` waits for what its tick set off.
        self.finished
            .filter(|_| !self.start.once || self.executor.is_empty())
    }

    fn leave(&mut self) {
        self.manager.stopping();
        // What has landed since the last tick.
        self.told.log_news(&self.news);
        if let Some(Err(error)) = self.history.as_mut().map(Recorder::finish) {
            log::warn!("{error}");
        }
        if let Err(error) = state::remove_status(&self.start.dirs.run) {
            log::warn!("{error}");
        }
        self.metrics.end();
        if let Some((layout, _)) = self
            .facts
            .as_ref()
            .and_then(|f| f.layout.zip(f.parent.as_ref().ok()))
        {
            // Pilots that go on keep the group, and the end is not to wait for them.
            let patience = if self.last_rows.is_empty() {
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
        if let Err(error) = &control {
            told.problem(
                "control",
                Some(format!(
                    "control files can't be watched ({error}); they are read at each tick"
                )),
            );
        }
        let (local, mut remote) = (start.config.clone(), Remote::default());
        start.config = remote.adopt(&start.dirs.state, &local);
        told.remote(remote.told.as_ref());
        Ok(Daemon {
            local,
            remote,
            hands: Caller {
                engine: Arc::clone(&start.engine),
                state: start.dirs.state.clone(),
                dry_run: start.dry_run,
                builtin_tag: builtin::tag()?,
                pulling: Arc::default(),
            },
            boot_id: clock::boot_id(&root),
            signals: Signals::catch()?,
            control: control.ok(),
            control_changed: true,
            asked_for: Control::default(),
            executor: Executor::new()?,
            observer: Observer::new(&root, hold_dirs(&start.dirs.run)),
            memory: Memory::new(seed),
            facts: None,
            lister: Lister::new(Arc::clone(&start.engine)),
            events: None,
            engine_state: EngineState::Unknown,
            list: None,
            asking: None,
            news: Vec::new(),
            told,
            history: (!start.dry_run).then(|| Recorder::open(&start.dirs.state)),
            manager: Manager::find(|name| std::env::var_os(name)),
            metrics: Metrics::new(&start.instance, &start.host, &start.config.influxdb),
            last_rows: Vec::new(),
            cost: LoopCost::new(clock::now().boot),
            contended: false,
            swept: false,
            ending: Vec::new(),
            changed: false,
            next_tick: Some(0.0),
            finished: None,
            root,
            start,
        })
    }
}

/// It may have files of its own, and there is no pilot whose end takes them back.
fn leaves_files(news: &News) -> bool {
    match news {
        News::Launched { result, .. } => matches!(result, LaunchResult::Lost(_)),
        News::Removed { name, .. } => name.is_empty(),
        _ => false,
    }
}

/// Where /proc and /sys are read. Builds for tests can be shown a made-up machine; a release sees only its own.
fn machine_root() -> PathBuf {
    let made_up = std::env::var_os("PLANCTON_MADE_UP_ROOT").filter(|_| cfg!(debug_assertions));
    made_up.map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Where `*.hold` files hold pilots back.
fn hold_dirs(run: &Path) -> Vec<PathBuf> {
    vec![
        run.join("inhibit.d"),
        PathBuf::from("/etc/plancton/inhibit.d"),
    ]
}
