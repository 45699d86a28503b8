//! `check`: looks at everything that a daemon here will need, and names a fix for each problem. Changes nothing.
//! Each row of the table is one look; the last line is what to do first.

use super::context::{Context, Done, Failure, is_running, no_engine, say};
use crate::config::{Auto, Config, Influx, MissingLimits, OnBattery, PilotClass};
use crate::host::{self, cpu, programs::find_running, sensors};
use crate::metrics::{Answer, write};
use crate::observe::facts::{Facts, not_delegated, read_facts};
use crate::remote;
use crate::report::Status;
use crate::site::machine_root;
use crate::units::{Bytes, Exit, float, word};
use Verdict::{Bad, Good, Note};
use rustix::fs::{Access, access, stat};
use std::collections::BTreeSet;
use std::path::{Display, Path, PathBuf};

enum Verdict {
    Good,
    /// Works, but not as well as it could, or gives away more than usual.
    Note,
    Bad(Exit),
}

const BAD: Verdict = Bad(Exit::Failed);

type Finding = (Verdict, String);

/// What is looked at.
struct Seen<'a> {
    context: &'a Context,
    config: Config,
    /// The engine's socket and what it says about itself; offline it is not asked.
    engine: Result<(PathBuf, Facts), Failure>,
    root: PathBuf,
}

/// `None`: there is nothing to say.
type Look = fn(&Seen) -> Option<Vec<Finding>>;

const LOOKS: [(&str, Look); 14] = [
    ("configuration", configuration),
    ("rights", rights),
    ("directories", directories),
    ("group", group),
    ("engine", engine),
    ("mounts", mounts),
    ("limits", limits),
    ("protection", protection),
    ("room", room),
    ("disk", disk),
    ("sensors", sensors),
    ("daemon", daemon),
    ("metrics", metrics),
    ("joined", joined),
];
/// So many of them are about the text of the configuration alone.
const OFFLINE: usize = 2;

pub fn check(context: &Context) -> Done {
    let (config, root) = (context.config()?, machine_root());
    let (engine, looks) = match context.options.offline {
        true => (Err("not asked".into()), OFFLINE),
        false => (ask(context, &config, &root), LOOKS.len()),
    };
    let seen = Seen {
        context,
        config,
        engine,
        root,
    };
    let mut first_bad = None;
    for (subject, look) in LOOKS.iter().take(looks) {
        for (verdict, text) in look(&seen).unwrap_or_default() {
            let mark = match verdict {
                Good => "ok  ",
                Note => "note",
                Bad(_) => "BAD ",
            };
            say(&format!("{mark} {subject:<14} {text}\n"))?;
            if let (Bad(exit), None) = (verdict, &first_bad) {
                first_bad = Some((exit, format!("first {subject}: {text}\n")));
            }
        }
    }
    if let Some((exit, text)) = first_bad {
        say(&text)?;
        return Err(Failure(exit, String::new()));
    }
    match seen.config.pilots.is_empty() {
        true => say("first add a [[pilot]]: nothing will run without\n"),
        false => say("ready\n"),
    }
}

impl Seen<'_> {
    fn facts(&self) -> Option<&Facts> {
        Some(&self.engine.as_ref().ok()?.1)
    }
}

fn ask(context: &Context, config: &Config, root: &Path) -> Result<(PathBuf, Facts), Failure> {
    let engine = context.engine(config)?;
    let facts = read_facts(&engine, root, context.is_root).map_err(no_engine)?;
    Ok((engine.socket().to_owned(), facts))
}

fn configuration(seen: &Seen) -> Option<Vec<Finding>> {
    let (file, classes) = (seen.context.dirs.config.display(), seen.config.pilots.len());
    Some(vec![match seen.context.config_file() {
        None => (Note, format!("{file} is not there; the defaults hold")),
        Some(_) => (Good, format!("{file}, pilot classes: {classes}")),
    }])
}

/// What takes an image out of its box.
fn rights(seen: &Seen) -> Option<Vec<Finding>> {
    let pilots = seen.config.pilots.iter();
    let pilots = pilots.map(|pilot| (&pilot.name, pilot.granted().join(", ")));
    let pilots = pilots.filter(|(_, granted)| !granted.is_empty());
    let advice = "trust their image as you trust yourself";
    let text = |(name, granted)| format!("pilots of '{name}' get {granted}: {advice}");
    Some(pilots.map(|pilot| (Note, text(pilot))).collect())
}

/// Only what keeps a daemon from starting here.
fn directories(seen: &Seen) -> Option<Vec<Finding>> {
    let dirs = &seen.context.dirs;
    let mut findings = Vec::new();
    for directory in [&dirs.run, &dirs.state] {
        let mut above = directory.ancestors();
        let nearest = above.find(|path| path.exists())?;
        if let Err(error) = access(nearest, Access::WRITE_OK) {
            let way_out = "run as its owner, or give another --run-dir and --state-dir";
            findings.push((BAD, format!("{}: {error}; {way_out}", nearest.display())));
        }
    }
    (!is_running(&dirs.run)).then_some(findings)
}

fn group(seen: &Seen) -> Option<Vec<Finding>> {
    let is_there = host::group_id(&seen.root, "plancton").is_some();
    let text = "there is no group plancton: only root can drain or snooze; \
                `groupadd --system plancton` and `usermod -aG plancton USER` change that";
    (seen.context.is_root && !is_there).then(|| vec![(Note, text.to_owned())])
}

fn engine(seen: &Seen) -> Option<Vec<Finding>> {
    let (socket, facts) = match &seen.engine {
        Ok((socket, facts)) => (socket.display(), facts),
        Err(Failure(exit, text)) => return Some(vec![(Bad(*exit), text.clone())]),
    };
    let (name, version, api) = (&facts.name, &facts.version, &facts.api);
    let text = format!("{name} {version} (API {api}) at {socket}");
    let lack = "without an init program (docker-init): pilots run without one";
    Some(vec![match &facts.unsupported {
        Some(why) => (Bad(Exit::EngineUnavailable), why.clone()),
        None if facts.lacks_init => (Note, format!("{text}, {lack}")),
        None => (Good, text),
    }])
}

/// In a container of its own the daemon sees of the machine only what is mounted: all else is the container's, ends with
/// it, and says nothing about the machine.
fn mounts(seen: &Seen) -> Option<Vec<Finding>> {
    let mut marks = ["/.dockerenv", "/run/.containerenv"].iter();
    marks.find(|mark| Path::new(mark).exists())?;
    let (own, dirs) = (stat("/").ok()?.st_dev, &seen.context.dirs);
    let places = [&dirs.run, &dirs.state].into_iter();
    let places = places.chain(&seen.facts()?.disks);
    let is_mounted = |path: &Path| stat(path).is_ok_and(|found| found.st_dev != own);
    let text = |path: Display| format!("{path} is not the machine's; mount it: -v {path}:{path}");
    let missing = places.filter(|path| !is_mounted(path));
    Some(missing.map(|path| (BAD, text(path.display()))).collect())
}

fn limits(seen: &Seen) -> Option<Vec<Finding>> {
    let facts = seen.facts()?;
    let missing = facts.missing.join(", ");
    let way_out = "see to the kernel's cgroup controllers, or set missing-limits = \"warn\"";
    let text = format!("the engine cannot hold these limits: {missing}; {way_out}");
    let mut findings = vec![match seen.config.share.missing_limits {
        _ if missing.is_empty() => (Good, "CPU, memory and number of processes".to_owned()),
        MissingLimits::Warn => (Note, text),
        MissingLimits::Refuse => (BAD, text),
    }];
    if !facts.swap_limit {
        let text = "a pilot may swap beyond its memory; boot with swapaccount=1 to change that";
        findings.push((Note, text.to_owned()));
    }
    Some(findings)
}

/// What can be said before a pilot has run; after that the daemon knows.
fn protection(seen: &Seen) -> Option<Vec<Finding>> {
    let facts = seen.facts()?;
    // A daemon that runs on this engine has looked at a pilot; nothing else is proof.
    let (socket, _) = seen.engine.as_ref().ok()?;
    let is_its = |status: &Status| socket == Path::new(&status.engine.socket);
    let known = seen.context.status().filter(is_its);
    let known = known.map(|status| status.protection);
    let mut findings = vec![match (known, &facts.parent) {
        (Some(known), _) if known.level == "none" => (Note, known.text),
        (Some(known), _) => (Good, known.text),
        (None, Ok(_)) => (Good, "possible; the first pilot proves it".to_owned()),
        (None, Err(why)) => (Note, format!("none: {why}; one core is kept free instead")),
    }];
    let missing = not_delegated(&seen.root).join(", ");
    if facts.is_rootless && !missing.is_empty() {
        let file = "/etc/systemd/system/user@.service.d/delegate.conf";
        let lines = "\"[Service]\" and \"Delegate=cpu cpuset io memory pids\" as two lines";
        let text = format!("your own manager may not use the controllers {missing}");
        let way_out = format!("as root write {lines} into {file}, then log in again");
        findings.push((BAD, format!("{text}; {way_out}")));
    }
    Some(findings)
}

fn room(seen: &Seen) -> Option<Vec<Finding>> {
    let share = &seen.config.share;
    let (cores, _) = cpu::read_topology(&seen.root)?.count(&BTreeSet::new());
    let cores = match share.cpus {
        Auto::Fixed(cpus) => cpus.min(float(cores as u64)),
        Auto::Auto => float(cores as u64),
    };
    let memory = host::read_memory(&seen.root)?.0;
    let memory = Bytes(memory.saturating_sub(share.reserve_memory.0));
    let given = format!("this machine gives at most {cores} cores and {memory}");
    let look = |pilot: &PilotClass| {
        let (name, wanted, most) = (&pilot.name, pilot.cpus, pilot.memory);
        let text = format!("'{name}' takes {wanted} cores and {most}; {given}");
        let way_out = "it never fits; make it smaller, or lower the reserves in [share]";
        match wanted <= cores && most <= memory {
            true => (Good, text),
            false => (Note, format!("{text}: {way_out}")),
        }
    };
    Some(seen.config.pilots.iter().map(look).collect())
}

fn disk(seen: &Seen) -> Option<Vec<Finding>> {
    let reserve = seen.config.share.reserve_disk;
    let look = |place: &PathBuf| match host::read_disk_free(place) {
        Err(error) if reserve.0 == 0 => (Note, error.to_string()),
        Err(error) => {
            let text = "nothing runs while reserve-disk can't be watched; \"0\" does without";
            (BAD, format!("{error}: {text}"))
        }
        Ok(free) if free < reserve => {
            let text = format!("{}: {free} free, {reserve} are", place.display());
            (
                BAD,
                format!("{text} reserved; free some space or lower reserve-disk"),
            )
        }
        Ok(free) => (Good, format!("{}: {free} free", place.display())),
    };
    Some(seen.facts()?.disks.iter().map(look).collect())
}

/// What the owner's rules go by, and which of them is void without.
fn sensors(seen: &Seen) -> Option<Vec<Finding>> {
    let (owner, power) = (&seen.config.owner, sensors::read_power(&seen.root));
    let battery = match (power.has_battery, power.on_battery) {
        (false, _) => "no battery",
        (true, false) => "on mains power",
        (true, true) => "on its battery",
    };
    let mut findings = vec![(Good, battery.to_owned())];
    let programs = &owner.pause_while_running;
    if let Err(error) = find_running(&seen.root, programs, &[]) {
        let text = "pause-while-running does not see the programs of others here";
        findings.push((Note, format!("{text}: {error}")));
    }
    if power.has_battery && power.charge_percent.is_none() && owner.on_battery == OnBattery::Run {
        let text = "min-battery is void: the charge can't be read; set on-battery = \"pause\"";
        findings.push((BAD, text.to_owned()));
    }
    let sensors = sensors::find_sensors(&seen.root);
    if let Some((celsius, sensor)) = sensors::read_celsius(&sensors) {
        findings.push((Good, format!("processor at {celsius:.0} °C ({sensor})")));
    } else if owner.max_temperature > 0 {
        let text = "max-temperature is void: no sensor of the processor; load its driver or set 0";
        findings.push((Note, text.to_owned()));
    }
    Some(findings)
}

/// What a daemon that runs sees: more than a command does, and from inside of its service manager's walls.
fn daemon(seen: &Seen) -> Option<Vec<Finding>> {
    let status = seen.context.status()?;
    let text = format!("{}: {}", word(status.state), status.reason.text);
    let problems = status.problems.into_iter().map(|problem| (BAD, problem));
    Some(std::iter::once((Good, text)).chain(problems).collect())
}

fn metrics(seen: &Seen) -> Option<Vec<Finding>> {
    Some(seen.config.influxdb.iter().map(target).collect())
}

/// Asks a target to take nothing at all: that shows address, certificate, credentials and database.
fn target(target: &Influx) -> Finding {
    let title = target.title();
    match write(target, "", None) {
        // There are servers that call an empty batch a bad one.
        Answer::Taken | Answer::BadLines(..) => (Good, format!("{title}: it takes them")),
        Answer::Failed(404, why, _) if target.bucket.is_empty() => {
            (Note, format!("{title}: {why}; the first points create it"))
        }
        Answer::TooLarge(why) | Answer::Failed(_, why, _) => {
            let way_out = "see to its server, and to user and password or token and rights";
            (BAD, format!("{title}: {why}; {way_out}"))
        }
    }
}

fn joined(seen: &Seen) -> Option<Vec<Finding>> {
    let state = &seen.context.dirs.state;
    let joined = remote::read_joined(state)?;
    let url = &joined.url;
    let remote = match remote::fetch(state, &joined, &seen.config) {
        Ok((_, remote)) => remote,
        Err(why) => {
            let text = "what was accepted last stays in force";
            return Some(vec![(BAD, format!("{url}: {why}; {text}"))]);
        }
    };
    let text = format!("{url}: classes for this machine: {}", remote.pilots.len());
    let refused = remote.refused.into_iter().map(|why| (Note, why));
    Some(std::iter::once((Good, text)).chain(refused).collect())
}
