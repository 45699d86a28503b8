//! `check`: looks at everything that a daemon here will need, and names a way out of each problem. Changes nothing. What
//! holds on this machine is what an observation and a decision say, the same that a daemon goes by; the last line is what
//! to do first.

use super::*;
use crate::config::{Influx, MissingLimits, Owner};
use crate::host::sensors::{find_sensors, read_celsius};
use crate::metrics::{Answer, write};
use crate::site::{Facts, not_delegated};
use crate::{daemon::look, observe::Observer, units::Bytes};
use rustix::fs::stat;

/// What is found, as it is marked.
const GOOD: &str = "ok  ";
/// Works, but not as well as it could, or gives away more than usual.
const NOTE: &str = "note";
const BAD: &str = "BAD ";

/// Says what is found, one line each, and keeps the first problem.
#[derive(Default)]
struct Findings(Option<[String; 2]>);

impl Findings {
    fn add(&mut self, mark: &str, topic: &str, text: &str) -> Done {
        // What to do about it, or what it leads to.
        let way_out = entry(include_str!("check.txt"), topic).filter(|_| mark != GOOD);
        let way_out = way_out.unwrap_or_default();
        if mark == BAD && self.0.is_none() {
            self.0 = Some([format!("first {topic}: "), format!("{text}{way_out}")]);
        }
        line(&format!("{mark} {topic:<14} "), &format!("{text}{way_out}"))
    }
}

/// Wrapped on a terminal; other readers get one line.
fn line(label: &str, text: &str) -> Done {
    let mut page = view::Page::of_terminal();
    page.width = page.height.map_or(usize::MAX, |_| page.width);
    page.row(label, text);
    say(&page.text())
}

pub fn check(context: &Context) -> Done {
    let (local, mut found, mut exit) = (context.config()?, Findings::default(), Exit::Failed);
    let (file, is_there) = (&context.dirs.config, context.config_file().is_some());
    let text = format!("{}, pilot classes: {}", file.display(), local.pilots.len());
    found.add(if is_there { GOOD } else { NOTE }, "configuration", &text)?;
    let mut remote = Remote::default();
    let config = remote.adopt(&context.dirs.state, &local);
    if let Some(told) = &remote.told {
        let classes = config.pilots.len() - local.pilots.len();
        let text = format!("{}, pilot classes: {classes}", told.url);
        found.add(GOOD, "joined", &text)?;
        let mut refused = told.waiting.iter().chain(&told.refused);
        refused.try_for_each(|why| found.add(NOTE, "joined", why))?;
    }
    for pilot in &config.pilots {
        let (name, granted) = (&pilot.name, pilot.granted().join(", "));
        if !granted.is_empty() {
            found.add(NOTE, "rights", &format!("pilots of '{name}' get {granted}"))?;
        }
    }
    if !context.options.has("offline") {
        if let Err(Failure(code, why)) = engine(context, &config, &mut found) {
            exit = code;
            found.add(BAD, "engine", &why)?;
        }
        let mut targets = config.influxdb.iter();
        targets.try_for_each(|target| metrics(target, &mut found))?;
    }
    match found.0 {
        None if config.pilots.is_empty() => say("first add a [[pilot]]: none is configured\n"),
        None => say("ready\n"),
        Some([label, text]) => line(&label, &text).and(Err(Failure(exit, String::new()))),
    }
}

/// The engine, and the machine as a daemon would see it at its first tick. Errors: there is no engine.
fn engine(context: &Context, config: &Config, found: &mut Findings) -> Done {
    let site = Arc::new(context.site(config)?);
    let (facts, mut seen, ..) = look(&site, None, Default::default()).map_err(no_engine)?;
    if let Some(why) = &facts.unsupported {
        return Err(no_engine(why));
    }
    (seen.at, seen.local, seen.engine) = (clock::now(), clock::local(), EngineState::Up);
    let mut observer = Observer::new(&site.root);
    let seen = observer.observe(&site, seen, Some(&facts), config);
    let decision = decide(config, &mut PolicyState::new(1), &seen);
    let socket = &site.engine.socket;
    let (name, version) = (&facts.engine.name, &facts.engine.version);
    let text = format!("{name} {version} (API {}) at", facts.engine.api);
    found.add(GOOD, "engine", &format!("{text} {}", socket.display()))?;
    // A daemon that runs on it sees more than a command does, and from inside of its service manager's walls.
    let is_its = |status: &Status| socket == Path::new(&status.engine.socket);
    let daemon = context.status().filter(is_its);
    if let Some(status) = &daemon {
        let text = format!("{}: {}", word(status.state), status.reason.text);
        let fails = status.reason.code == crate::decide::Code::BackOff;
        found.add(if fails { BAD } else { GOOD }, "daemon", &text)?;
    }
    let status = daemon.unwrap_or_else(|| Status {
        problems: decision.void.clone(),
        ..Status::of(config, &seen, &decision, &[])
    });
    let mut problems = status.problems.iter();
    problems.try_for_each(|problem| found.add(BAD, "problem", problem))?;
    if context.is_root && host::group_id(&site.root, "plancton").is_none() {
        found.add(NOTE, "group", "only root can drain or snooze")?;
    }
    limits(context, config, &facts, found)?;
    protection(&site, &facts, &status, found)?;
    rules(config, &seen, &decision, found)?;
    let sensors = find_sensors(&site.root);
    let heat = |(celsius, name)| format!("processor at {celsius:.0} °C ({name})");
    match read_celsius(&sensors).map(heat) {
        Some(text) => found.add(GOOD, "sensors", &text),
        // Another limit than the usual one is a problem by itself.
        None if config.owner.max_temperature != Owner::default().max_temperature => Ok(()),
        None => found.add(NOTE, "sensors", "the processor has no sensor"),
    }
}

/// What the engine can't do, or can't be seen to do.
fn limits(context: &Context, config: &Config, facts: &Facts, found: &mut Findings) -> Done {
    let missing = facts.missing().join(", ");
    let (mark, text) = match config.share.missing_limits {
        _ if missing.is_empty() => (GOOD, "CPU, memory and number of processes".to_owned()),
        MissingLimits::Warn => (NOTE, format!("the engine cannot limit {missing}")),
        MissingLimits::Refuse => (BAD, format!("the engine cannot limit {missing}")),
    };
    found.add(mark, "limits", &text)?;
    if !facts.info.swap_limit {
        found.add(NOTE, "swap", "a pilot may swap beyond its memory")?;
    }
    // In a container of its own the daemon sees of the machine only what is mounted: all else is the container's, ends
    // with it, and says nothing about the machine. A mark may lie where a machine's root was once an image, but engines
    // mount the name of the host, too.
    let device = |path: &Path| stat(path).ok().map(|found| found.st_dev);
    let [own, name] = ["/", "/etc/hostname"].map(|path| device(Path::new(path)));
    let mut marks = ["/.dockerenv", "/run/.containerenv"].iter();
    let is_contained = own != name && marks.any(|mark| Path::new(mark).exists());
    let places = [&context.dirs.run, &context.dirs.state].into_iter();
    for path in places.chain(&facts.disks).filter(|_| is_contained) {
        if [None, own].contains(&device(path)) {
            let path = path.display();
            let text = format!("{path} is not the machine's; mount it: -v {path}:{path}");
            found.add(BAD, "mounts", &text)?;
        }
    }
    Ok(())
}

/// How the owner is kept from feeling it.
fn protection(site: &Site, facts: &Facts, status: &Status, found: &mut Findings) -> Done {
    let is_open = status.protection.level == "none";
    let mark = if is_open { NOTE } else { GOOD };
    found.add(mark, "protection", &status.protection.text)?;
    let missing = not_delegated(&site.root).join(", ");
    if facts.is_rootless && !missing.is_empty() {
        let text = format!("your own manager may not use the controllers {missing}");
        found.add(BAD, "delegation", &text)?;
    }
    let Some(disk) = &status.disk else {
        return Ok(());
    };
    let (free, reserve) = (Bytes(disk.free), Bytes(disk.reserve));
    let mark = if free < reserve { BAD } else { GOOD };
    found.add(mark, "disk", &format!("{free} free, {reserve} reserved"))
}

/// What pilots and the owner's rules find here.
fn rules(config: &Config, seen: &Observation, decision: &Decision, found: &mut Findings) -> Done {
    let cores = decision.capacity.cap.min(seen.cores);
    let memory = seen.memory.unwrap_or_default().total;
    let memory = Bytes(memory.saturating_sub(config.share.reserve_memory.0));
    for pilot in &config.pilots {
        let (name, cpus, needed) = (&pilot.name, pilot.cpus, pilot.memory);
        let fits = cpus <= cores && needed <= memory;
        let text = format!("'{name}' needs {cpus} of {cores} cores and {needed} of {memory}");
        found.add(if fits { GOOD } else { BAD }, "room", &text)?;
    }
    let power = if seen.on_battery { "battery" } else { "mains" };
    found.add(GOOD, "sensors", &format!("on {power} power"))
}

/// Asks a target to take nothing at all: that shows address, certificate, credentials and database.
fn metrics(target: &Influx, found: &mut Findings) -> Done {
    let way_out = "check the server, the database or bucket, the user and password or token";
    let (mark, text) = match write(target, "", None) {
        // There are servers that call an empty batch a bad one.
        Answer::Taken | Answer::Refused(_) => (GOOD, "it takes points".to_owned()),
        Answer::Failed(why, _) => (BAD, format!("{why}; {way_out}")),
    };
    found.add(mark, "metrics", &format!("{}: {text}", target.title()))
}
