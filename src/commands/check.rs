//! `check`: looks at everything that a daemon here will need, and names a fix for each problem. Changes nothing.
//! Each row of the table is one look; the last line is what to do first.

use super::context::{Context, Done, Failure, is_running, no_engine, say};
use crate::config::{Auto, Config, Influx, MissingLimits, OnBattery, PilotClass};
use crate::host::{cpu, disk, memory, power, thermal};
use crate::metrics::{Answer, write};
use crate::observe::facts::{Facts, not_delegated, read_facts};
use crate::remote;
use crate::report::Status;
use crate::site::machine_root;
use crate::units::{Bytes, Exit, float};
use Verdict::{Bad, Good, Note};
use rustix::fs::{Access, access, stat};
use std::path::{Path, PathBuf};

enum Verdict {
    Good,
    /// Works, but not as well as it could, or gives away more than usual.
    Note,
    Bad(Exit),
}

const BAD: Verdict = Bad(Exit::Failed);

type Finding = (Verdict, String);

/// What is looked at. The default configuration stands for a broken one, and the engine is not asked offline.
struct Seen<'a> {
    context: &'a Context,
    config: Config,
    problem: Option<Failure>,
    facts: Option<Result<Facts, Failure>>,
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
    let (config, problem) = match context.config() {
        Ok(config) => (config, None),
        Err(failure) => (Config::default(), Some(failure)),
    };
    let root = machine_root();
    let (facts, looks) = match context.options.offline {
        true => (None, OFFLINE),
        false => (Some(ask(context, &config, &root)), LOOKS.len()),
    };
    let seen = Seen {
        context,
        config,
        problem,
        facts,
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
        self.facts.as_ref()?.as_ref().ok()
    }
}

fn ask(context: &Context, config: &Config, root: &Path) -> Result<Facts, Failure> {
    let engine = context.engine(config)?;
    read_facts(&engine, root, context.is_root).map_err(no_engine)
}

fn configuration(seen: &Seen) -> Option<Vec<Finding>> {
    if let Some(Failure(exit, problems)) = &seen.problem {
        let lines = problems.lines();
        return Some(lines.map(|line| (Bad(*exit), line.to_owned())).collect());
    }
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
    let is_there = crate::host::group_id(&seen.root, "plancton").is_some();
    let text = "there is no group plancton: only root can drain or snooze; \
                `groupadd --system plancton` and `usermod -aG plancton USER` change that";
    (seen.context.is_root && !is_there).then(|| vec![(Note, text.to_owned())])
}

fn engine(seen: &Seen) -> Option<Vec<Finding>> {
    Some(match seen.facts.as_ref()? {
        Err(Failure(exit, text)) => vec![(Bad(*exit), text.clone())],
        Ok(facts) => {
            let text = format!("{} {} (API {})", facts.name, facts.version, facts.api);
            let unsupported = facts.unsupported.clone();
            let unsupported = unsupported.map(|why| (Bad(Exit::EngineUnavailable), why));
            std::iter::once((Good, text)).chain(unsupported).collect()
        }
    })
}

/// In a container of its own the daemon sees of the machine only what is mounted: all else is the container's, ends with
/// it, and says nothing about the machine.
fn mounts(seen: &Seen) -> Option<Vec<Finding>> {
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let (own, dirs) = (stat("/").ok()?.st_dev, &seen.context.dirs);
    let places = [&dirs.run, &dirs.state].into_iter();
    let places = places.chain(&seen.facts()?.disks);
    let is_mounted = |path: &Path| stat(path).is_ok_and(|found| found.st_dev != own);
    let mut findings = Vec::new();
    for path in places.filter(|path| !is_mounted(path)) {
        let path = path.display();
        let text = format!("{path} is not the machine's; mount it: -v {path}:{path}");
        findings.push((BAD, text));
    }
    let is_contained = marks.iter().any(|mark| Path::new(mark).exists());
    is_contained.then_some(findings)
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
    let status = seen.context.status();
    let same = |status: &Status| {
        let engine = seen.context.engine(&seen.config).ok();
        engine.is_some_and(|engine| engine.socket() == Path::new(&status.engine.socket))
    };
    let status = status.filter(same);
    let (level, text) = match (status, &facts.parent) {
        (Some(status), _) => (status.protection.level, status.protection.text),
        (None, Err(why)) => (
            "none".to_owned(),
            format!("{why}; one core is kept free instead"),
        ),
        (None, Ok(_)) => (
            "possible".to_owned(),
            "the first pilot proves it".to_owned(),
        ),
    };
    let verdict = if level == "none" { Note } else { Good };
    let missing = if facts.is_rootless {
        not_delegated(&seen.root)
    } else {
        Vec::new()
    };
    let delegation = (!missing.is_empty()).then(|| {
        let file = "/etc/systemd/system/user@.service.d/delegate.conf";
        let text = format!(
            "your own manager may not use the controllers {}; as root write \"[Service]\" and \
             \"Delegate=cpu cpuset io memory pids\" as two lines into {file}, then log in again",
            missing.join(", ")
        );
        (BAD, text)
    });
    let findings = std::iter::once((verdict, format!("{level}: {text}")));
    Some(findings.chain(delegation).collect())
}

fn room(seen: &Seen) -> Option<Vec<Finding>> {
    let share = &seen.config.share;
    let cores = cpu::read_topology(&seen.root)?.count_cores(&[]);
    let cores = match share.cpus {
        Auto::Fixed(cpus) => cpus.min(float(cores as u64)),
        Auto::Auto => float(cores as u64),
    };
    let memory = memory::read_memory(&seen.root).ok()?.total.0;
    let memory = Bytes(memory.saturating_sub(share.reserve_memory.0));
    let given = format!("this machine gives at most {cores} cores and {memory}");
    let look = |pilot: &PilotClass| {
        let wanted = format!(
            "'{}' takes {} cores and {}",
            pilot.name, pilot.cpus, pilot.memory
        );
        let way_out = "it never fits; make it smaller, or lower the reserves in [share]";
        match pilot.cpus <= cores && pilot.memory <= memory {
            true => (Good, format!("{wanted}; {given}")),
            false => (Note, format!("{wanted}; {given}: {way_out}")),
        }
    };
    Some(seen.config.pilots.iter().map(look).collect())
}

fn disk(seen: &Seen) -> Option<Vec<Finding>> {
    let reserve = seen.config.share.reserve_disk;
    let look = |place: &PathBuf| match disk::read_disk(place) {
        Err(error) => {
            let text = "nothing runs while reserve-disk can't be watched; \"0\" does without";
            (
                if reserve.0 > 0 { BAD } else { Note },
                format!("{error}: {text}"),
            )
        }
        Ok(disk) => {
            let text = format!("{}: {} free", place.display(), disk.free);
            let way_out = "are reserved; free some space or lower reserve-disk";
            match disk.free < reserve {
                true => (BAD, format!("{text}, {reserve} {way_out}")),
                false => (Good, text),
            }
        }
    };
    Some(seen.facts()?.disks.iter().map(look).collect())
}

/// What the owner's rules go by, and which of them is void without.
fn sensors(seen: &Seen) -> Option<Vec<Finding>> {
    let (owner, power) = (&seen.config.owner, power::read_power(&seen.root));
    let battery = match (power.has_battery, power.on_battery) {
        (false, _) => "no battery",
        (true, false) => "on mains power",
        (true, true) => "on its battery",
    };
    let sensors = thermal::Sensors::discover(&seen.root);
    let heat = sensors.read();
    let heat = heat.map(|found| format!("processor at {:.0} °C ({})", found.celsius, found.sensor));
    let mut findings = vec![(Good, battery.to_owned())];
    if power.has_battery && power.charge_percent.is_none() && owner.on_battery == OnBattery::Run {
        let limit = owner.min_battery;
        let text = "is void: the charge can't be read; set on-battery = \"pause\"";
        findings.push((BAD, format!("min-battery = {limit} {text}")));
    }
    findings.push(match (heat, owner.max_temperature) {
        (Some(heat), _) => (Good, heat),
        (None, 0) => (Good, "no sensor of the processor".to_owned()),
        (None, limit) => {
            let text = "is void: no sensor of the processor is found; load its driver or set 0";
            (Note, format!("max-temperature = {limit} {text}"))
        }
    });
    Some(findings)
}

/// What a daemon that runs sees: more than a command does, and from inside of its service manager's walls.
fn daemon(seen: &Seen) -> Option<Vec<Finding>> {
    let status = seen.context.status()?;
    let text = format!("{}: {}", status.state.name(), status.reason.text);
    let problems = status.problems.into_iter().map(|problem| (BAD, problem));
    Some(std::iter::once((Good, text)).chain(problems).collect())
}

fn metrics(seen: &Seen) -> Option<Vec<Finding>> {
    Some(seen.config.influxdb.iter().map(target).collect())
}

/// Asks a target to take nothing at all: that shows address, certificate, credentials and database.
fn target(target: &Influx) -> Finding {
    let title = target.title();
    let (status, said) = match write(target, "", None) {
        // There are servers that call an empty batch a bad one.
        Answer::Taken | Answer::BadLines(..) => return (Good, format!("{title}: it takes them")),
        Answer::TooLarge(why) => (413, why),
        Answer::Failed(status, why, _) => (status, why),
    };
    let (verdict, way_out) = match status {
        404 if target.bucket.is_empty() => (Note, "the first points create it"),
        401 | 403 => (
            BAD,
            "see to user and password, or to the token and its rights",
        ),
        _ => (
            BAD,
            "see to the server and [[influxdb]]; pilots run without metrics",
        ),
    };
    (verdict, format!("{title}: {said}; {way_out}"))
}

fn joined(seen: &Seen) -> Option<Vec<Finding>> {
    let state = &seen.context.dirs.state;
    let joined = remote::read_joined(state)?;
    let url = &joined.url;
    let fetched = remote::fetch(state, &joined, &seen.config);
    Some(match fetched.map(|fetched| fetched.remote) {
        Err(why) => vec![(
            BAD,
            format!("{url}: {why}; what was accepted last stays in force"),
        )],
        Ok(remote) => {
            let text = format!("{url}: classes for this machine: {}", remote.pilots.len());
            let refused = remote.refused.into_iter().map(|why| (Note, why));
            std::iter::once((Good, text)).chain(refused).collect()
        }
    })
}
