//! `check`: looks at everything that a daemon here will need, and names a fix for each problem. Changes nothing.

use super::{Place, run, say};
use crate::cli::Exit;
use crate::config::{Auto, Config, Influx, MissingLimits, PilotClass};
use crate::host::{disk, memory, power, thermal, topology};
use crate::metrics::{Answer, probe};
use crate::observe::facts::{Facts, read_facts};
use crate::remote;
use crate::report::Status;
use crate::state;
use crate::units::{Bytes, float};
use std::path::Path;

/// How a finding is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Works, but not as well as it could, or gives away more than usual.
    Careful,
    Bad,
}

/// Collects what was found, and the worst of it.
struct Findings {
    exit: Exit,
    text: String,
}

impl Findings {
    fn add(&mut self, verdict: Verdict, subject: &str, text: impl AsRef<str>) {
        let mark = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Careful => "note",
            Verdict::Bad => "BAD ",
        };
        self.text
            .push_str(&format!("{mark} {subject:<14} {}\n", text.as_ref()));
    }

    fn bad(&mut self, exit: Exit, subject: &str, text: impl AsRef<str>) {
        self.add(Verdict::Bad, subject, text);
        if self.exit == Exit::Done {
            self.exit = exit;
        }
    }
}

pub fn check(place: &Place, offline: bool) -> Exit {
    let mut findings = Findings {
        exit: Exit::Done,
        text: String::new(),
    };
    let config = configuration(place, &mut findings);
    if !offline {
        directories(place, &mut findings);
        let facts = engine(place, &config, &mut findings);
        if let Some(facts) = &facts {
            mounts(place, facts, &mut findings);
            limits(facts, &config, &mut findings);
            protection(place, facts, &mut findings);
            room(facts, &config, &mut findings);
        }
        sensors(&mut findings);
        config
            .influxdb
            .iter()
            .for_each(|target| metrics(target, &mut findings));
        joined(place, &config, &mut findings);
    }
    say(&findings.text);
    findings.exit
}

fn configuration(place: &Place, findings: &mut Findings) -> Config {
    let file = &place.dirs.config;
    if place.options.config.is_none() && !file.exists() {
        findings.add(
            Verdict::Careful,
            "configuration",
            format!(
                "{} is not there; the defaults hold, and no pilot is configured",
                file.display()
            ),
        );
        return Config::default();
    }
    match super::read_config(file) {
        Err(problems) => {
            for problem in problems.lines() {
                findings.bad(Exit::Configuration, "configuration", problem);
            }
            Config::default()
        }
        Ok(config) => {
            findings.add(
                Verdict::Good,
                "configuration",
                format!("{}, {} pilot classes", file.display(), config.pilots.len()),
            );
            if config.pilots.is_empty() {
                findings.add(
                    Verdict::Careful,
                    "configuration",
                    "no [[pilot]]: nothing will run; `plancton config --default` shows how to add one",
                );
            }
            for pilot in &config.pilots {
                rights(pilot, findings);
            }
            config
        }
    }
}

/// What gives the machine away to whoever wrote the image.
fn rights(pilot: &PilotClass, findings: &mut Findings) {
    let writable = || {
        pilot
            .mounts
            .iter()
            .filter(|mount| !mount.read_only)
            .map(|mount| mount.source.as_str())
    };
    let system = |source: &&str| {
        [
            "/", "/etc", "/usr", "/bin", "/lib", "/boot", "/dev", "/proc", "/sys", "/var", "/run",
            "/root", "/home",
        ]
        .contains(source)
            || source.ends_with("docker.sock")
    };
    let mut given: Vec<String> = Vec::new();
    if pilot.privileged {
        given.push("privileged".to_owned());
    }
    if pilot.network == "host" {
        given.push("the host's network".to_owned());
    }
    given.extend(
        pilot
            .cap_add
            .iter()
            .map(|name| format!("the capability {name}")),
    );
    if pilot
        .host_config
        .as_object()
        .is_some_and(|raw| !raw.is_empty())
    {
        given.push("raw host-config".to_owned());
    }
    given.extend(
        writable()
            .filter(system)
            .map(|source| format!("{source} to write to")),
    );
    if !given.is_empty() {
        findings.add(
            Verdict::Careful,
            "rights",
            format!(
                "pilots of '{}' get {}: their image can take over this machine",
                pilot.name,
                given.join(", ")
            ),
        );
    }
}

fn directories(place: &Place, findings: &mut Findings) {
    for (subject, directory) in [
        ("run directory", &place.dirs.run),
        ("state directory", &place.dirs.state),
    ] {
        let nearest = directory
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let writable = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK);
        match (writable, run::is_running(&place.dirs.run)) {
            (Ok(()), _) => findings.add(Verdict::Good, subject, directory.display().to_string()),
            (Err(_), true) => {}
            (Err(error), false) => findings.bad(
                Exit::Failed,
                subject,
                format!(
                    "{}: {error}; run as its owner, or give another --run-dir and --state-dir",
                    nearest.display()
                ),
            ),
        }
    }
    if place.is_root && !in_group_file("plancton") {
        findings.add(
            Verdict::Careful,
            "group",
            "there is no group plancton: only root can drain or snooze; `groupadd --system plancton` and `usermod -aG plancton USER` change that",
        );
    }
}

fn in_group_file(group: &str) -> bool {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    text.lines()
        .any(|line| line.split(':').next() == Some(group))
}

fn engine(place: &Place, config: &Config, findings: &mut Findings) -> Option<Facts> {
    let engine = match place.engine(config) {
        Ok(engine) => engine,
        Err(exit) => {
            findings.bad(exit, "engine", "no socket to look at");
            return None;
        }
    };
    match read_facts(&engine, Path::new("/"), place.is_root) {
        Err(error) => {
            findings.bad(Exit::EngineUnavailable, "engine", error.to_string());
            None
        }
        Ok(facts) => {
            let text = format!(
                "{} {} (API {}) on {}",
                facts.name,
                facts.version,
                facts.api,
                engine.socket().display()
            );
            findings.add(Verdict::Good, "engine", text);
            if let Some(why) = &facts.unsupported {
                findings.bad(Exit::EngineUnavailable, "engine", why);
            }
            Some(facts)
        }
    }
}

/// In a container of its own the daemon sees of the machine only what is mounted.
fn mounts(place: &Place, facts: &Facts, findings: &mut Findings) {
    if !["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|mark| Path::new(mark).exists())
    {
        return;
    }
    // The fifth word of a line is where it is mounted; those of the container itself do not outlive it.
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<&Path> = mounted
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .collect();
    let is_mounted = |path: &Path| {
        points
            .iter()
            .any(|point| *point != Path::new("/") && path.starts_with(point))
    };
    let (run, state, data) = (&place.dirs.run, &place.dirs.state, &facts.data_root);
    for (path, mode, without) in [
        (run, "", "`status` and the lock end with this container"),
        (
            state,
            "",
            "a drain ends with this container, and images stay behind",
        ),
        (data, ":ro", "the disk's reserve is not watched"),
    ] {
        if !is_mounted(path) {
            let text = format!("{without}; mount it: -v {0}:{0}{mode}", path.display());
            findings.bad(
                Exit::Failed,
                "mounts",
                format!("{} is not the machine's: {text}", path.display()),
            );
        }
    }
    let groups = facts
        .parent
        .as_ref()
        .ok()
        .and_then(|group| group.file("cpu", "")?.parent().map(Path::to_owned));
    let is_read_only = |path: &std::path::PathBuf| {
        rustix::fs::statvfs(path)
            .is_ok_and(|seen| seen.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    if let Some(groups) = groups.filter(is_read_only) {
        let text = format!(
            "{} can't be written, and the owner is not protected",
            groups.display()
        );
        findings.bad(
            Exit::Failed,
            "mounts",
            format!("{text}; mount it: -v /sys/fs/cgroup:/sys/fs/cgroup"),
        );
    }
}

fn limits(facts: &Facts, config: &Config, findings: &mut Findings) {
    let warn = config.share.missing_limits == MissingLimits::Warn;
    for what in &facts.missing {
        let text = format!(
            "the engine cannot hold the {what} limit (the kernel lacks it, or its cgroup controller is off)"
        );
        match warn {
            true => findings.add(Verdict::Careful, "limits", text),
            false => findings.bad(
                Exit::Failed,
                "limits",
                format!("{text}; missing-limits = \"warn\" runs pilots all the same"),
            ),
        }
    }
    if facts.missing.is_empty() {
        findings.add(
            Verdict::Good,
            "limits",
            "CPU, memory and number of processes",
        );
    }
    if !facts.swap_limit {
        findings.add(
            Verdict::Careful,
            "limits",
            "swap is not accounted: a pilot may swap beyond its memory; boot with swapaccount=1 to change that",
        );
    }
}

fn protection(place: &Place, facts: &Facts, findings: &mut Findings) {
    // A daemon that runs has looked at a pilot; nothing else is proof.
    let told = state::read_status(&place.addressed().run)
        .ok()
        .flatten()
        .filter(|_| run::is_running(&place.addressed().run));
    if let Some(Status { protection, .. }) = told {
        let verdict = if protection.level == "none" {
            Verdict::Careful
        } else {
            Verdict::Good
        };
        findings.add(
            verdict,
            "protection",
            format!("{}: {}", protection.level, protection.text),
        );
        return;
    }
    match &facts.parent {
        Err(why) => findings.add(Verdict::Careful, "protection", format!("none: {why}; one core is kept free instead")),
        Ok(_) if !has_idle_groups() => findings.add(
            Verdict::Careful,
            "protection",
            "none: this kernel has no idle groups; Linux 5.15 and newer have. One core is kept free instead",
        ),
        Ok(_) => findings.add(Verdict::Good, "protection", "an idle group can be made; the first pilot proves it"),
    }
}

/// `cpu.idle` came with Linux 5.15 for both versions of cgroups.
fn has_idle_groups() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse::<u32>().ok());
    numbers
        .next()
        .zip(numbers.next())
        .is_some_and(|version| version >= (5, 15))
}

fn room(facts: &Facts, config: &Config, findings: &mut Findings) {
    let cores =
        topology::read_topology(Path::new("/")).map_or(0, |topology| topology.count_cores(&[]));
    let cores = match config.share.cpus {
        Auto::Fixed(cpus) => cpus.min(float(cores as u64)),
        Auto::Auto => float(cores as u64),
    };
    let memory = memory::read_memory(Path::new("/")).map_or(Bytes(0), |memory| memory.total);
    let left = memory.0.saturating_sub(config.share.reserve_memory.0);
    for pilot in &config.pilots {
        let fits = pilot.cpus <= cores && pilot.memory.0 <= left;
        let text = format!(
            "'{}' takes {} cores and {}; this machine gives at most {cores} cores and {}",
            pilot.name,
            pilot.cpus,
            pilot.memory,
            Bytes(left)
        );
        let (verdict, then) = if fits {
            (Verdict::Good, "")
        } else {
            (
                Verdict::Careful,
                ": it never fits; make it smaller, or lower the reserves in [share]",
            )
        };
        findings.add(verdict, "room", text + then);
    }
    match disk::read_disk(&facts.data_root) {
        Ok(disk) if disk.free < config.share.reserve_disk => findings.bad(
            Exit::Failed,
            "disk",
            format!(
                "{}: {} free, {} are reserved; free some space or lower reserve-disk",
                facts.data_root.display(),
                disk.free,
                config.share.reserve_disk
            ),
        ),
        Ok(disk) => findings.add(
            Verdict::Good,
            "disk",
            format!("{}: {} free", facts.data_root.display(), disk.free),
        ),
        Err(error) => findings.add(
            Verdict::Careful,
            "disk",
            format!("{error}: the reserve is not watched"),
        ),
    }
}

/// Asks a target to take nothing at all: that shows address, certificate, credentials and database.
fn metrics(target: &Influx, findings: &mut Findings) {
    let (code, said) = match probe(target) {
        Answer::Status { code, message, .. } => (code, format!("status {code}: {message}")),
        Answer::Failed(why) => (0, why),
    };
    let (verdict, way_out) = match code {
        // There are servers that call an empty batch a bad one.
        200..=299 | 400 => (Verdict::Good, "it takes them"),
        404 if target.bucket.is_empty() => (
            Verdict::Careful,
            "the first points create it, if the user may do that",
        ),
        401 | 403 => (
            Verdict::Bad,
            "see to user and password, or to the token and its rights",
        ),
        _ => (
            Verdict::Bad,
            "see to the server and the keys of [[influxdb]]; pilots run without metrics",
        ),
    };
    let text = if verdict == Verdict::Good {
        way_out.to_owned()
    } else {
        format!("{said}; {way_out}")
    };
    match verdict {
        Verdict::Bad => findings.bad(
            Exit::Failed,
            "metrics",
            format!("{}: {text}", target.title()),
        ),
        _ => findings.add(verdict, "metrics", format!("{}: {text}", target.title())),
    }
}

fn joined(place: &Place, config: &Config, findings: &mut Findings) {
    let Some(joined) = remote::read_joined(&place.dirs.state) else {
        return;
    };
    let read = remote::fetch(&joined, &config.allow).and_then(|fetched| {
        remote::read(&fetched.text, &joined.url, config).map_err(|problems| problems.join("; "))
    });
    match read {
        Ok(offer) => {
            let text = format!(
                "{}: {} classes for this machine",
                joined.url,
                offer.pilots.len()
            );
            findings.add(Verdict::Good, "joined", text);
            offer
                .refused
                .iter()
                .for_each(|why| findings.add(Verdict::Careful, "joined", why));
        }
        Err(why) => {
            let text = format!(
                "{}: {why}; what was accepted last stays in force",
                joined.url
            );
            findings.bad(Exit::Failed, "joined", text);
        }
    }
}

fn sensors(findings: &mut Findings) {
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
    findings.add(Verdict::Good, "sensors", format!("{battery}, {heat}"));
}
