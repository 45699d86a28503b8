//! A configuration from elsewhere, under the owner's consent: what it may bring, what the owner has to permit for it, and
//! what is refused. It adds pilots and metrics targets and can make the machine give less, never more. Pure.

use super::keys::{Allow, Influx, Owner, PilotClass, Share, When};
use super::values::{Auto, Image, Mount, OnBattery};
use super::{Config, parse};
use toml::{Table, Value};

/// Pilots, targets and hours: every target has a queue of its own in memory, every class is looked at in each tick.
const MOST: [usize; 3] = [32, 2, 16];

/// The keys of [share] and [owner] by which less can be given. `cpus` is not among them: "auto" is not known here.
const LOWERED: &str = "max-pilots reserve-cpus reserve-memory reserve-disk on-battery min-battery max-temperature calm-for";

/// What a remote configuration comes to on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RemoteConfig {
    rules: Vec<When>,
    pub pilots: Vec<PilotClass>,
    pub influxdb: Vec<Influx>,
    /// By what the machine gives less, one line each.
    pub lowered: Vec<String>,
    /// What the owner has to permit, one line each, sorted.
    pub permissions: Vec<String>,
    /// What it gets because [allow] names it.
    pub granted: Vec<String>,
    /// What it does not get, and why.
    pub refused: Vec<String>,
}

/// Errors: as of [`parse`], or too much of something.
pub fn read_remote(text: &str, url: &str, local: &Config) -> Result<RemoteConfig, Vec<String>> {
    let config = parse(text, url)?;
    let counts = [
        config.pilots.len(),
        config.influxdb.len(),
        config.when.len(),
    ];
    let tables = ["[[pilot]]", "[[influxdb]]", "[[when]]"];
    for ((count, most), what) in counts.into_iter().zip(MOST).zip(tables) {
        if count > most {
            let text =
                format!("{count} tables of {what}; no more than {most} are taken from elsewhere");
            return Err(vec![format!("{url}: {text}")]);
        }
    }
    let mut remote = RemoteConfig::default();
    // Every value is good; which keys are given is seen in the text alone.
    remote.add_rules(text.parse().unwrap_or_default());
    for pilot in config.pilots {
        remote.add_pilot(pilot, local);
    }
    for target in config.influxdb {
        remote.add_target(target);
    }
    for list in [&mut remote.permissions, &mut remote.refused] {
        list.sort();
        list.dedup();
    }
    Ok(remote)
}

/// The number of a published text, which only grows; 0: it has none.
pub fn read_serial(text: &str) -> u64 {
    let table: Table = text.parse().unwrap_or_default();
    let serial = table.get("serial").and_then(Value::as_integer);
    serial.map_or(0, |serial| u64::try_from(serial).unwrap_or(0))
}

impl RemoteConfig {
    /// What was not permitted yet.
    pub fn beyond(&self, permitted: &[String]) -> Vec<String> {
        let new = self.permissions.iter();
        new.filter(|line| !permitted.contains(line))
            .cloned()
            .collect()
    }

    fn add_rules(&mut self, mut written: Table) {
        let mut always = Table::new();
        for name in ["loop", "share", "owner", "engine", "allow"] {
            if let Some(Value::Table(table)) = written.remove(name) {
                always.extend(table);
            }
        }
        // There it means "as many as fit".
        always.retain(|key, value| key != "max-pilots" || *value != Value::Integer(0));
        let when = written.remove("when").and_then(|when| when.try_into().ok());
        let when: Vec<Table> = when.unwrap_or_default();
        for rule in std::iter::once(always).chain(when) {
            let hours = rule
                .get("hours")
                .and_then(Value::as_str)
                .unwrap_or("always");
            let (mut lowering, hours) = (Table::new(), hours.to_owned());
            for (key, value) in rule {
                if LOWERED.split(' ').any(|known| known == key) {
                    self.lowered.push(format!("{key} = {value} ({hours})"));
                    lowering.insert(key, value);
                } else if key != "hours" {
                    let text = format!("{key}: that is the owner's alone; ignored");
                    self.refused.push(text);
                }
            }
            lowering.insert("hours".to_owned(), hours.into());
            self.rules.push(lowering.try_into().unwrap_or_default());
        }
    }

    fn add_pilot(&mut self, pilot: PilotClass, local: &Config) {
        let wishes = pilot.wishes(&local.allow);
        let is_taken = local.pilots.iter().any(|own| own.name == pilot.name);
        let why = match wishes.iter().find(|(_, allowed, _)| !allowed) {
            _ if is_taken => "a class of this machine's owner has that name".to_owned(),
            Some((key, _, what)) => {
                format!("it asks for {what}, which [allow] {key} does not name")
            }
            None => {
                self.permissions.extend(pilot.permissions(&local.allow));
                self.granted.extend(pilot.granted());
                self.pilots.push(pilot);
                return;
            }
        };
        let name = &pilot.name;
        self.refused
            .push(format!("[[pilot]] '{name}': {why}; the class is left out"));
    }

    fn add_target(&mut self, mut target: Influx) {
        let title = target.title();
        let files = [&target.password_file, &target.token_file, &target.ca_file];
        if let Some(file) = files.into_iter().find(|file| !file.is_empty()) {
            let what = format!("[[influxdb]] {title}: it names {file} of this machine; left out");
            self.refused.push(what);
            return;
        }
        let what = format!("metrics to {title}: figures of its pilots, none of the owner");
        self.permissions.push(what);
        target.owner_metrics = false;
        self.influxdb.push(target);
    }
}

impl PilotClass {
    /// What it gets beyond a plain container.
    pub fn granted(&self) -> Vec<String> {
        let wishes = self.wishes(&Allow::default()).into_iter();
        wishes.map(|(_, _, what)| what).collect()
    }

    /// The same, each with the key of [allow] for it, and whether that names it.
    fn wishes(&self, allow: &Allow) -> Vec<(&'static str, bool, String)> {
        let listed =
            |list: &[String], name: &str| list.iter().any(|one| one.eq_ignore_ascii_case(name));
        let mut wishes = Vec::new();
        let mut wish = |key, allowed, what| wishes.push((key, allowed, what));
        if self.privileged {
            let what = "every power over this machine (privileged)";
            wish("privileged", allow.privileged, what.to_owned());
        }
        for name in &self.cap_add {
            let allowed = listed(&allow.cap_add, name);
            wish("cap-add", allowed, format!("the capability {name}"));
        }
        for device in &self.devices {
            let allowed = allow.devices.contains(&device.host);
            wish("devices", allowed, format!("the device {device}"));
        }
        for mount in &self.mounts {
            let allowed = allow.mounts.iter().any(|known| is_below(mount, known));
            wish("mounts", allowed, format!("the mount {mount}"));
        }
        let handed = self.files.iter().map(|file| &file.source);
        for file in handed.chain([&self.auth_file, &self.image_archive]) {
            let allowed = allow.files.contains(file);
            if !file.is_empty() {
                wish("files", allowed, format!("the file {file}"));
            }
        }
        if !["bridge", "none"].contains(&self.network.as_str()) {
            let allowed = listed(&allow.networks, &self.network);
            wish("networks", allowed, format!("the network {}", self.network));
        }
        for (field, value) in &self.host_config {
            let what = format!("the engine's field {field} = {value}");
            wish("host-config", allow.host_config, what);
        }
        wishes
    }

    /// What [allow] leaves to the owner's consent.
    fn permissions(&self, allow: &Allow) -> Vec<String> {
        let mut lines = Vec::new();
        if let Image::Named(image) = &self.image {
            let (name, registry) = (&image.name, image.registry());
            if !allow.registries.iter().any(|known| known == registry) {
                lines.push(format!(
                    "containers of {name}, from the registry {registry}"
                ));
            }
        }
        let user = self.user.split(':').next().unwrap_or_default();
        if ["", "0", "root"].contains(&user) {
            lines.push("containers whose user is root inside".to_owned());
        }
        if self.network == "bridge" {
            lines.push("access to the network for them".to_owned());
        }
        // The room of [share] counts neither.
        if self.swap.0 > 0 {
            lines.push(format!("{} of swap space for each of them", self.swap));
        }
        if self.pids > PilotClass::default().pids {
            lines.push(format!("{} processes in each of them", self.pids));
        }
        lines
    }
}

/// Whether it is in the folder that the owner allows, and no more writable than that.
fn is_below(mount: &Mount, known: &str) -> bool {
    let writable = known.strip_suffix(":rw");
    let below = mount.source.strip_prefix(writable.unwrap_or(known));
    let below = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below && (mount.read_only || writable.is_some())
}

impl Config {
    /// With what a remote configuration brings; its rules make [`Config::effective`] give less.
    pub fn with(&self, remote: &RemoteConfig) -> Config {
        let mut config = self.clone();
        config.pilots.extend(remote.pilots.iter().cloned());
        config.influxdb.extend(remote.influxdb.iter().cloned());
        config.lowered.clone_from(&remote.rules);
        config
    }

    /// Rule by rule the stricter one of the owner's and of what was joined, in which later tables win key by key.
    pub(super) fn lowered(
        &self,
        mut share: Share,
        mut owner: Owner,
        weekday: u8,
        minute: u16,
    ) -> (Share, Owner) {
        let rules = self
            .lowered
            .iter()
            .filter(|rule| rule.hours.contains(weekday, minute));
        let asked: Table = rules
            .flat_map(|rule| Table::try_from(rule).unwrap_or_default())
            .collect();
        let asked: When = asked.try_into().unwrap_or_default();
        share.max_pilots = match (share.max_pilots, asked.max_pilots.unwrap_or_default()) {
            (Auto::Fixed(own), Auto::Fixed(other)) => Auto::Fixed(own.min(other)),
            (Auto::Auto, any) | (any, Auto::Auto) => any,
        };
        share.reserve_cpus = match (share.reserve_cpus, asked.reserve_cpus.unwrap_or_default()) {
            (Auto::Fixed(own), Auto::Fixed(other)) => Auto::Fixed(own.max(other)),
            // "auto" is one core at most.
            (Auto::Auto, Auto::Fixed(other)) if other > 0.0 => Auto::Fixed(other.max(1.0)),
            (own, _) => own,
        };
        share.reserve_memory = share
            .reserve_memory
            .max(asked.reserve_memory.unwrap_or_default());
        share.reserve_disk = share
            .reserve_disk
            .max(asked.reserve_disk.unwrap_or_default());
        owner.calm_for = owner.calm_for.max(asked.calm_for.unwrap_or_default());
        owner.on_battery = owner
            .on_battery
            .max(asked.on_battery.unwrap_or(OnBattery::Run));
        owner.min_battery = owner.min_battery.max(asked.min_battery.unwrap_or(0));
        let limits = [owner.max_temperature, asked.max_temperature.unwrap_or(0)];
        let limits = limits.into_iter().filter(|celsius| *celsius > 0);
        owner.max_temperature = limits.min().unwrap_or(0);
        (share, owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::units::Bytes;

    const URL: &str = "https://example.org/plancton.toml";

    fn pilot(lines: &str) -> String {
        format!("[[pilot]]\nname = \"p\"\nimage = \"reg.example/p:1\"\n{lines}\n")
    }

    fn remote(text: &str, local: &str) -> RemoteConfig {
        read_remote(text, URL, &parse(local, "c").unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_allowed_leaves_its_class_out() {
        for (lines, allow, why) in [
            (
                "privileged = true",
                "privileged = true",
                "every power over this machine (privileged), which [allow] privileged",
            ),
            (
                "cap-add = [\"SYS_ADMIN\"]",
                "cap-add = [\"sys_admin\"]",
                "the capability SYS_ADMIN, which [allow] cap-add",
            ),
            (
                "devices = [\"/dev/fuse\"]",
                "devices = [\"/dev/fuse\"]",
                "/dev/fuse:/dev/fuse:rwm, which [allow] devices",
            ),
            (
                "mounts = [\"/:/host\"]",
                "mounts = [\"/\"]",
                "the mount /:/host:ro, which [allow] mounts",
            ),
            (
                "mounts = [\"/data/a:/a:rw\"]",
                "mounts = [\"/data:rw\"]",
                "the mount /data/a:/a:rw, which",
            ),
            (
                "files = [{ source = \"/etc/k\", target = \"/k\" }]",
                "files = [\"/etc/k\"]",
                "the file /etc/k, which",
            ),
            (
                "auth-file = \"/etc/a\"",
                "files = [\"/etc/a\"]",
                "the file /etc/a, which [allow] files",
            ),
            (
                "image-archive = \"/a.tar\"",
                "files = [\"/a.tar\"]",
                "the file /a.tar, which [allow] files",
            ),
            (
                "network = \"host\"",
                "networks = [\"host\"]",
                "the network host, which [allow] networks",
            ),
            (
                "network = \"container:x\"",
                "networks = [\"container:x\"]",
                "the network container:x, which",
            ),
            (
                "host-config = { ShmSize = 1 }",
                "host-config = true",
                "the engine's field ShmSize = 1, which",
            ),
        ] {
            let text = pilot(lines);
            let refused = remote(&text, "");
            assert_eq!(refused.pilots, [], "{lines}");
            assert!(
                refused.permissions.is_empty() && refused.granted.is_empty(),
                "{refused:?}"
            );
            assert!(refused.refused[0].contains(why), "{:?}", refused.refused);
            let taken = remote(&text, &format!("[allow]\n{allow}\n"));
            assert_eq!(
                (taken.pilots.len(), taken.refused.len()),
                (1, 0),
                "{lines}: {:?}",
                taken.refused
            );
            assert!(
                !taken.permissions.is_empty() && taken.granted.len() == 1,
                "{taken:?}"
            );
        }
        for (mount, allow) in [
            ("/cvmfs:/c:rw", "/cvmfs"),
            ("/cvmfs2:/c", "/cvmfs"),
            ("/:/c", "/cvmfs"),
        ] {
            let refused = remote(
                &pilot(&format!("mounts = [\"{mount}\"]")),
                &format!("[allow]\nmounts = [\"{allow}\"]"),
            );
            assert_eq!(refused.pilots, [], "{mount}");
        }
        let own = "[[pilot]]\nname = \"p\"\nimage = \"builtin\"\n";
        assert!(
            remote(&pilot(""), own).refused[0]
                .contains("a class of this machine's owner has that name")
        );
    }

    #[test]
    fn what_has_to_be_accepted() {
        let text = pilot("user = \"0:0\"")
            + "[[influxdb]]\nurl = \"http://u:geheim@m:1#d\"\nowner-metrics = true\n";
        let found = remote(&text, "");
        let asks = [
            "access to the network for them",
            "containers of reg.example/p, from the registry reg.example",
            "containers whose user is root inside",
            "metrics to http://m:1#d: figures of its pilots, none of the owner",
        ];
        assert_eq!(found.permissions, asks);
        assert!(!found.influxdb[0].owner_metrics);
        // A newer tag is nothing new; another place is.
        let accepted: Vec<String> = asks.map(str::to_owned).to_vec();
        assert_eq!(
            remote(&text.replace("p:1", "p:2"), "").beyond(&accepted),
            [""; 0]
        );
        for (from, to, new) in [
            (
                "reg.example",
                "evil.example",
                "containers of evil.example/p, from the registry evil.example",
            ),
            (
                "m:1",
                "m:2",
                "metrics to http://m:2#d: figures of its pilots, none of the owner",
            ),
            (
                "user",
                "swap = \"64GiB\"\nuser",
                "64GiB of swap space for each of them",
            ),
            (
                "user",
                "pids = 4000000\nuser",
                "4000000 processes in each of them",
            ),
        ] {
            assert_eq!(remote(&text.replace(from, to), "").beyond(&accepted), [new]);
        }
        let plain = remote(
            &pilot("network = \"none\""),
            "[allow]\nregistries = [\"reg.example\"]",
        );
        assert_eq!((plain.permissions.len(), plain.pilots.len()), (0, 1));
        for key in ["password-file", "ca-file"] {
            let sink = format!("[[influxdb]]\nurl = \"http://u@m#d\"\n{key} = \"/etc/shadow\"\n");
            let found = remote(&sink, "");
            assert!(
                found.influxdb.is_empty() && found.refused[0].contains("it names /etc/shadow"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn it_can_only_lower() {
        let local = "[share]\nmax-pilots = 8\nreserve-memory = \"1GiB\"\n[owner]\non-battery = \"run\"\nmax-temperature = 0\n\
                     [[when]]\nhours = \"Mon\"\nmax-pilots = 4\n";
        let parsed = parse(local, "c").unwrap();
        // Weekday; what is asked for; pilots, memory, battery, least charge and heat that come of it.
        for (weekday, text, expected) in [
            (1, "", (8, 1, OnBattery::Run, 30, 0)),
            (1, "[share]\nmax-pilots = 3", (3, 1, OnBattery::Run, 30, 0)),
            (0, "[share]\nmax-pilots = 6", (4, 1, OnBattery::Run, 30, 0)),
            (0, "[share]\nmax-pilots = 3", (3, 1, OnBattery::Run, 30, 0)),
            (
                1,
                "[share]\nmax-pilots = 99\nreserve-memory = \"0\"",
                (8, 1, OnBattery::Run, 30, 0),
            ),
            (
                1,
                "[share]\nreserve-memory = \"3GiB\"",
                (8, 3, OnBattery::Run, 30, 0),
            ),
            (
                1,
                "[owner]\non-battery = \"pause\"\nmin-battery = 50\nmax-temperature = 70",
                (8, 1, OnBattery::Pause, 50, 70),
            ),
            (
                1,
                "[owner]\nmin-battery = 0\nmax-temperature = 0",
                (8, 1, OnBattery::Run, 30, 0),
            ),
            // Its own hours raise what it lowered itself, and nothing beyond that.
            (
                1,
                "[share]\nmax-pilots = 2\n[[when]]\nhours = \"Tue\"\nmax-pilots = 5",
                (5, 1, OnBattery::Run, 30, 0),
            ),
            (
                1,
                "[[when]]\nhours = \"Tue\"\nmax-pilots = 0",
                (0, 1, OnBattery::Run, 30, 0),
            ),
        ] {
            let remote = remote(text, local);
            assert_eq!(remote.refused, [""; 0], "{text}");
            let (share, owner, _) = parsed.with(&remote).effective(weekday, 600);
            let Auto::Fixed(pilots) = share.max_pilots else {
                panic!("{text}")
            };
            let memory = share.reserve_memory;
            let found = (
                pilots,
                memory,
                owner.on_battery,
                owner.min_battery,
                owner.max_temperature,
            );
            let (pilots, gib, battery, charge, heat) = expected;
            assert_eq!(
                found,
                (pilots, Bytes(gib << 30), battery, charge, heat),
                "{text}"
            );
        }
        for (text, key) in [
            ("[share]\ncpus = 64", "cpus"),
            ("[share]\nmissing-limits = \"warn\"", "missing-limits"),
            ("[owner]\nwhen-busy = \"yield\"", "when-busy"),
            ("[loop]\ninterval = \"1s\"", "interval"),
            ("[engine]\nsocket = \"/evil\"", "socket"),
            ("[allow]\nprivileged = true", "privileged"),
            ("[[when]]\nhours = \"Mon\"\nsmt = true", "smt"),
        ] {
            let remote = remote(text, local);
            assert_eq!(
                remote.refused,
                [format!("{key}: that is the owner's alone; ignored")],
                "{text}"
            );
            let merged = Config {
                lowered: Vec::new(),
                ..parsed.with(&remote)
            };
            assert_eq!(merged, parsed, "{text}");
        }
    }

    #[test]
    fn too_much_is_refused_as_a_whole() {
        for (table, count) in [
            ("[[pilot]]\nname = \"p#\"\nimage = \"builtin\"\n", 33),
            ("[[influxdb]]\nurl = \"http://h##d\"\n", 3),
        ] {
            let text: String = (0..count)
                .map(|number| table.replacen('#', &number.to_string(), 1))
                .collect();
            let problems = read_remote(&text, URL, &Config::default()).unwrap_err();
            assert!(
                problems[0].contains("are taken from elsewhere"),
                "{problems:?}"
            );
        }
        assert!(read_remote("[[pilot]]\nname = ", URL, &Config::default()).is_err());
    }
}
