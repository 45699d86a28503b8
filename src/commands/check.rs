//! `check`: looks at everything that a daemon here will need, and names a fix for each problem. Changes nothing.
//! Each row of the table is one look and the lines that come of it.

use super::context::{Context, Done, Failure, GROUP_FILE, is_running, say};
use crate::config::{Auto, Config, Influx, MissingLimits, PilotClass};
use crate::host::{disk, files, memory, power, thermal, topology};
use crate::metrics::{Answer, probe};
use crate::observe::facts::{Facts, read_facts};
use crate::remote;
use crate::state;
use crate::units::{Bytes, Exit, float};
use std::path::{Path, PathBuf};

enum Verdict {
    Good,
    /// Works, but not as well as it could, or gives away more than usual.
    Note,
    Bad(Exit),
}

struct Finding {
    verdict: Verdict,
    text: String,
}

fn good(text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding {
        verdict: Verdict::Good,
        text,
    }
}

fn note(text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding {
        verdict: Verdict::Note,
        text,
    }
}

fn bad(exit: Exit, text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding {
        verdict: Verdict::Bad(exit),
        text,
    }
}

/// What the looks are about.
struct Machine<'a> {
    context: &'a Context,
    /// The default one where the file has problems.
    config: Config,
    problems: Option<Failure>,
    /// `None`: not asked.
    engine: Option<Result<Facts, Failure>>,
}

impl Machine<'_> {
    fn facts(&self) -> Option<&Facts> {
        self.engine.as_ref()?.as_ref().ok()
    }
}

type Look = fn(&Machine) -> Vec<Finding>;

/// What a configuration says by itself.
const OFFLINE: [(&str, Look); 2] = [("configuration", configuration), ("rights", rights)];
/// What this machine, its engine and the servers say.
const ONLINE: [(&str, Look); 12] = [
    ("run directory", |machine| {
        directory(machine, &machine.context.dirs.run)
    }),
    ("state directory", |machine| {
        directory(machine, &machine.context.dirs.state)
    }),
    ("group", group),
    ("engine", engine),
    ("mounts", mounts),
    ("limits", limits),
    ("protection", protection),
    ("room", room),
    ("disk", disk),
    ("sensors", sensors),
    ("metrics", metrics),
    ("joined", joined),
];

pub fn check(context: &Context) -> Done {
    let offline = context.options.offline;
    let (config, problems) = match context.config() {
        Ok(config) => (config, None),
        Err(failure) => (Config::default(), Some(failure)),
    };
    let engine = (!offline).then(|| {
        let engine = context.engine(&config)?;
        Ok(read_facts(&engine, Path::new("/"), context.is_root)?)
    });
    let machine = Machine {
        context,
        config,
        problems,
        engine,
    };
    let online = ONLINE.iter().filter(|_| !offline);
    let mut first_bad = None;
    for (subject, look) in OFFLINE.iter().chain(online) {
        for Finding { verdict, text } in look(&machine) {
            let mark = match verdict {
                Verdict::Good => "ok  ",
                Verdict::Note => "note",
                Verdict::Bad(exit) => {
                    first_bad.get_or_insert_with(|| (exit, format!("{subject}: {text}")));
                    "BAD "
                }
            };
            say(&format!("{mark} {subject:<14} {text}\n"))?;
        }
    }
    let Some((exit, first)) = first_bad else {
        return say(match machine.config.pilots.is_empty() {
            true => "nothing to run yet: add a [[pilot]], `plancton config --default` shows how\n",
            false => "ready\n",
        });
    };
    say(&format!("first: {first}\n"))?;
    Err(Failure::new(exit, ""))
}

fn configuration(machine: &Machine) -> Vec<Finding> {
    if let Some(failure) = &machine.problems {
        let problems = failure.text.lines();
        return problems.map(|line| bad(failure.exit, line)).collect();
    }
    let Some(file) = machine.context.config_file() else {
        let file = machine.context.dirs.config.display();
        return vec![note(format!(
            "{file} is not there; the defaults hold, and no pilot is configured"
        ))];
    };
    match machine.config.pilots.len() {
        0 => vec![
            good(file.display().to_string()),
            note(
                "no [[pilot]]: nothing will run; `plancton config --default` shows how to add one",
            ),
        ],
        1 => vec![good(format!("{}, 1 pilot class", file.display()))],
        more => vec![good(format!("{}, {more} pilot classes", file.display()))],
    }
}

/// Who may write there has the machine.
const SYSTEM_PLACES: [&str; 13] = [
    "/", "/etc", "/usr", "/bin", "/lib", "/boot", "/dev", "/proc", "/sys", "/var", "/run", "/root",
    "/home",
];

/// What gives the machine away to whoever wrote the image.
fn rights(machine: &Machine) -> Vec<Finding> {
    let given = |pilot: &PilotClass| {
        let writable = pilot.mounts.iter().filter(|mount| !mount.read_only);
        let system = writable
            .map(|mount| mount.source.as_str())
            .filter(|source| SYSTEM_PLACES.contains(source) || source.ends_with("docker.sock"));
        let fields = pilot.host_config.as_object();
        let whole = [
            (pilot.privileged, "privileged"),
            (pilot.network == "host", "the host's network"),
            (
                fields.is_some_and(|fields| !fields.is_empty()),
                "raw host-config",
            ),
        ];
        let whole = whole.iter().filter(|(is_given, _)| *is_given);
        whole
            .map(|(_, what)| (*what).to_owned())
            .chain(
                pilot
                    .cap_add
                    .iter()
                    .map(|name| format!("the capability {name}")),
            )
            .chain(system.map(|source| format!("{source} to write to")))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let pilots = machine.config.pilots.iter();
    let pilots = pilots.map(|pilot| (&pilot.name, given(pilot)));
    let pilots = pilots.filter(|(_, given)| !given.is_empty());
    pilots
        .map(|(name, given)| {
            note(format!(
                "pilots of '{name}' get {given}: their image can take over this machine"
            ))
        })
        .collect()
}

fn directory(machine: &Machine, directory: &Path) -> Vec<Finding> {
    let mut above = directory.ancestors();
    let nearest = above.find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK) {
        Ok(()) => vec![good(directory.display().to_string())],
        Err(_) if is_running(&machine.context.dirs.run) => Vec::new(),
        Err(error) => vec![bad(
            Exit::Failed,
            format!(
                "{}: {error}; run as its owner, or give another --run-dir and --state-dir",
                nearest.display()
            ),
        )],
    }
}

fn group(machine: &Machine) -> Vec<Finding> {
    let groups = files::read_text_up_to(Path::new(GROUP_FILE), 1 << 20).unwrap_or_default();
    let is_there = groups.lines().any(|line| line.starts_with("plancton:"));
    if is_there || !machine.context.is_root {
        return Vec::new();
    }
    vec![note(
        "there is no group plancton: only root can drain or snooze; `groupadd --system plancton` and `usermod -aG plancton USER` change that",
    )]
}

fn engine(machine: &Machine) -> Vec<Finding> {
    match &machine.engine {
        None => Vec::new(),
        Some(Err(failure)) => vec![bad(failure.exit, &failure.text)],
        Some(Ok(facts)) => {
            let text = format!("{} {} (API {})", facts.name, facts.version, facts.api);
            let unsupported = facts.unsupported.iter();
            let unsupported = unsupported.map(|why| bad(Exit::EngineUnavailable, why));
            std::iter::once(good(text)).chain(unsupported).collect()
        }
    }
}

/// In a container of its own the daemon sees of the machine only what is mounted.
fn mounts(machine: &Machine) -> Vec<Finding> {
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let is_contained = marks.iter().any(|mark| Path::new(mark).exists());
    let Some(facts) = machine.facts().filter(|_| is_contained) else {
        return Vec::new();
    };
    // The fifth word of a line is where it is mounted; those of the container itself do not outlive it.
    let mounted = files::read_text_up_to(Path::new("/proc/self/mountinfo"), 1 << 20);
    let mounted = mounted.unwrap_or_default();
    let points = mounted.lines().filter_map(|line| line.split(' ').nth(4));
    let points: Vec<&str> = points.filter(|point| *point != "/").collect();
    let dirs = &machine.context.dirs;
    let places = [
        (
            &dirs.run,
            "",
            "`status` and the lock end with this container",
        ),
        (
            &dirs.state,
            "",
            "a drain ends with this container, and images stay behind",
        ),
        (&facts.data_root, ":ro", "the disk's reserve is not watched"),
    ];
    let places = places
        .into_iter()
        .filter(|(path, ..)| !points.iter().any(|point| path.starts_with(point)));
    let mut findings: Vec<Finding> = places
        .map(|(path, mode, without)| {
            let path = path.display();
            bad(
                Exit::Failed,
                format!("{path} is not the machine's: {without}; mount it: -v {path}:{path}{mode}"),
            )
        })
        .collect();
    let group = facts.parent.as_ref().ok();
    let groups = group.and_then(|group| Some(group.file("cpu", "")?.parent()?.to_owned()));
    let is_read_only = |path: &PathBuf| {
        let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
        rustix::fs::statvfs(path).is_ok_and(|seen| seen.f_flag.contains(read_only))
    };
    if let Some(groups) = groups.filter(is_read_only) {
        findings.push(bad(
            Exit::Failed,
            format!(
                "{} can't be written, and the owner is not protected; mount it: -v /sys/fs/cgroup:/sys/fs/cgroup",
                groups.display()
            ),
        ));
    }
    findings
}

fn limits(machine: &Machine) -> Vec<Finding> {
    let Some(facts) = machine.facts() else {
        return Vec::new();
    };
    let missing = facts.missing.iter().map(|what| {
        let text = format!(
            "the engine cannot hold the {what} limit (the kernel lacks it, or its cgroup controller is off)"
        );
        match machine.config.share.missing_limits {
            MissingLimits::Warn => note(text),
            _ => bad(
                Exit::Failed,
                format!("{text}; missing-limits = \"warn\" runs pilots all the same"),
            ),
        }
    });
    let mut findings: Vec<Finding> = missing.collect();
    if findings.is_empty() {
        findings.push(good("CPU, memory and number of processes"));
    }
    if !facts.swap_limit {
        findings.push(note(
            "swap is not accounted: a pilot may swap beyond its memory; boot with swapaccount=1 to change that",
        ));
    }
    findings
}

fn protection(machine: &Machine) -> Vec<Finding> {
    let Some(facts) = machine.facts() else {
        return Vec::new();
    };
    // A daemon that runs has looked at a pilot; nothing else is proof.
    let run = machine.context.addressed().run;
    let status = state::read_status(&run).ok().flatten();
    if let Some(status) = status.filter(|_| is_running(&run)) {
        let text = format!("{}: {}", status.protection.level, status.protection.text);
        return vec![match status.protection.level.as_str() {
            "none" => note(text),
            _ => good(text),
        }];
    }
    // `cpu.idle` came with Linux 5.15 for both versions of cgroups.
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let has_idle_groups = (numbers.next(), numbers.next()) >= (Some(5), Some(15));
    vec![match &facts.parent {
        Err(why) => note(format!("none: {why}; one core is kept free instead")),
        Ok(_) if !has_idle_groups => note(
            "none: this kernel has no idle groups; Linux 5.15 and newer have. One core is kept free instead",
        ),
        Ok(_) => good("an idle group can be made; the first pilot proves it"),
    }]
}

fn room(machine: &Machine) -> Vec<Finding> {
    let share = &machine.config.share;
    let topology = topology::read_topology(Path::new("/"));
    let cores = topology.map_or(0.0, |topology| float(topology.count_cores(&[]) as u64));
    let cores = match share.cpus {
        Auto::Fixed(cpus) => cpus.min(cores),
        Auto::Auto => cores,
    };
    let memory = memory::read_memory(Path::new("/")).map_or(Bytes(0), |memory| memory.total);
    let memory = Bytes(memory.0.saturating_sub(share.reserve_memory.0));
    let pilots = machine
        .config
        .pilots
        .iter()
        .filter(|_| machine.facts().is_some());
    pilots
        .map(|pilot| {
            let text = format!(
                "'{}' takes {} cores and {}; this machine gives at most {cores} cores and {memory}",
                pilot.name, pilot.cpus, pilot.memory
            );
            match pilot.cpus <= cores && pilot.memory <= memory {
                true => good(text),
                false => note(
                    text + ": it never fits; make it smaller, or lower the reserves in [share]",
                ),
            }
        })
        .collect()
}

fn disk(machine: &Machine) -> Vec<Finding> {
    let Some(facts) = machine.facts() else {
        return Vec::new();
    };
    let (place, reserve) = (facts.data_root.display(), machine.config.share.reserve_disk);
    vec![match disk::read_disk(&facts.data_root) {
        Ok(disk) if disk.free < reserve => bad(
            Exit::Failed,
            format!(
                "{place}: {} free, {reserve} are reserved; free some space or lower reserve-disk",
                disk.free
            ),
        ),
        Ok(disk) => good(format!("{place}: {} free", disk.free)),
        Err(error) => note(format!("{error}: the reserve is not watched")),
    }]
}

fn sensors(_: &Machine) -> Vec<Finding> {
    let power = power::read_power(Path::new("/"));
    let battery = match (power.has_battery, power.on_battery) {
        (false, _) => "no battery",
        (true, false) => "on mains power",
        (true, true) => "on its battery",
    };
    let heat = thermal::Sensors::discover(Path::new("/")).read_celsius();
    let heat = heat.map_or("no processor temperature".to_owned(), |celsius| {
        format!("processor at {celsius:.0} °C")
    });
    vec![good(format!("{battery}, {heat}"))]
}

fn metrics(machine: &Machine) -> Vec<Finding> {
    machine.config.influxdb.iter().map(target).collect()
}

/// Asks a target to take nothing at all: that shows address, certificate, credentials and database.
fn target(target: &Influx) -> Finding {
    let title = target.title();
    let (code, said) = match probe(target) {
        Answer::Status { code, message, .. } => (code, format!("status {code}: {message}")),
        Answer::Failed(why) => (0, why),
    };
    match code {
        // There are servers that call an empty batch a bad one.
        200..=299 | 400 => good(format!("{title}: it takes them")),
        404 if target.bucket.is_empty() => note(format!(
            "{title}: {said}; the first points create it, if the user may do that"
        )),
        401 | 403 => bad(
            Exit::Failed,
            format!("{title}: {said}; see to user and password, or to the token and its rights"),
        ),
        _ => bad(
            Exit::Failed,
            format!(
                "{title}: {said}; see to the server and the keys of [[influxdb]]; pilots run without metrics"
            ),
        ),
    }
}

fn joined(machine: &Machine) -> Vec<Finding> {
    let Some(joined) = remote::read_joined(&machine.context.dirs.state) else {
        return Vec::new();
    };
    let (config, url) = (&machine.config, &joined.url);
    let read = remote::fetch(&joined, &config.allow).and_then(|fetched| {
        remote::read(&fetched.text, url, config).map_err(|problems| problems.join("; "))
    });
    match read {
        Ok(offer) => {
            let classes = offer.pilots.len();
            let text = format!("{url}: {classes} classes for this machine");
            let refused = offer.refused.iter().map(note);
            std::iter::once(good(text)).chain(refused).collect()
        }
        Err(why) => vec![bad(
            Exit::Failed,
            format!("{url}: {why}; what was accepted last stays in force"),
        )],
    }
}
