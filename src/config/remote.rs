//! A configuration from elsewhere, under the owner's consent: what it may bring, what it is asked to be accepted for, and
//! what is refused. It adds pilots and metrics targets and can make the machine give less, never more. Pure.

use super::keys::{Allow, Influx, Owner, PilotClass, Section, Share};
use super::values::{Auto, Image, OnBattery};
use super::when::Hours;
use super::{Config, When, read};

/// Every target has a queue of its own in memory, and every class is looked at in each tick.
const MOST_PILOTS: usize = 32;
const MOST_TARGETS: usize = 2;
const MOST_HOURS: usize = 16;

/// The keys of [share] and [owner] by which less can be given. `cpus` is not among them: "auto" is not known here.
const LOWERED: [&str; 8] = [
    "max-pilots",
    "reserve-cpus",
    "reserve-memory",
    "reserve-disk",
    "on-battery",
    "min-battery",
    "max-temperature",
    "calm-for",
];

/// What a remote configuration comes to on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    rules: Vec<When>,
    pub pilots: Vec<PilotClass>,
    pub influxdb: Vec<Influx>,
    /// What the owner has to accept, one line each, sorted.
    pub asks: Vec<String>,
    /// What it gets because [allow] names it.
    pub granted: Vec<String>,
    /// What it does not get, and why.
    pub refused: Vec<String>,
}

/// Errors: as of [`super::parse`], or too much of something.
pub fn read_offer(text: &str, url: &str, local: &Config) -> Result<Offer, Vec<String>> {
    let (config, given) = read(text, url)?;
    for (count, most, what) in [
        (config.pilots.len(), MOST_PILOTS, "[[pilot]]"),
        (config.influxdb.len(), MOST_TARGETS, "[[influxdb]]"),
        (config.when.len(), MOST_HOURS, "[[when]]"),
    ] {
        if count > most {
            return Err(vec![format!(
                "{url}: {count} tables of {what}; no more than {most} are taken from elsewhere"
            )]);
        }
    }
    let mut offer = Offer::default();
    let always = When {
        hours: Hours::always(),
        keys: given,
        share: config.share,
        owner: config.owner,
    };
    for mut rule in std::iter::once(always).chain(config.when) {
        let (lowering, others) = rule.keys.into_iter().partition(|key| LOWERED.contains(key));
        rule.keys = lowering;
        offer.refused.extend(
            Vec::into_iter(others).map(|key| format!("{key}: that is the owner's alone; ignored")),
        );
        offer.rules.push(rule);
    }
    for pilot in config.pilots {
        match pilot.denied(local) {
            Some(why) => offer.refused.push(format!(
                "[[pilot]] '{}': {why}; the class is left out",
                pilot.name
            )),
            None => {
                offer.asks.extend(pilot.asks(&local.allow));
                offer.granted.extend(pilot.granted());
                offer.pilots.push(pilot);
            }
        }
    }
    for sink in config.influxdb {
        let files = [&sink.password_file, &sink.token_file, &sink.ca_file].map(String::as_str);
        if let Some(file) = files.into_iter().find(|file| !file.is_empty()) {
            offer.refused.push(format!(
                "[[influxdb]] {}: it names {file} of this machine; left out",
                sink.title()
            ));
            continue;
        }
        offer.asks.push(format!(
            "metrics to {}: figures of its pilots, none of the owner",
            sink.title()
        ));
        offer.influxdb.push(Influx {
            owner_metrics: false,
            ..sink
        });
    }
    for list in [&mut offer.asks, &mut offer.granted, &mut offer.refused] {
        // It is shown, and logged: a value must not break the line or the terminal.
        list.iter_mut()
            .for_each(|line| *line = line.replace(char::is_control, " "));
        list.sort();
        list.dedup();
    }
    Ok(offer)
}

impl Offer {
    /// What was not accepted yet.
    pub fn unaccepted(&self, accepted: &[String]) -> Vec<String> {
        self.asks
            .iter()
            .filter(|ask| !accepted.contains(ask))
            .cloned()
            .collect()
    }

    /// By what the machine gives less, one line each.
    pub fn lowered(&self) -> Vec<String> {
        let rules = self.rules.iter().flat_map(|rule| {
            let lines = rule.keys.iter();
            lines.map(move |key| {
                let value = rule
                    .share
                    .write(key)
                    .or_else(|| rule.owner.write(key))
                    .unwrap_or_default();
                format!("{key} = {value} ({})", rule.hours)
            })
        });
        rules.collect()
    }
}

impl PilotClass {
    /// Why this machine does not run it.
    fn denied(&self, local: &Config) -> Option<String> {
        let allow = &local.allow;
        if local.pilots.iter().any(|own| own.name == self.name) {
            return Some("a class of this machine's owner has that name".to_owned());
        }
        let beyond = |key: &str, what: &str| {
            Some(format!(
                "it asks for {what}, which [allow] {key} does not name"
            ))
        };
        let listed =
            |list: &[String], name: &str| list.iter().any(|known| known.eq_ignore_ascii_case(name));
        if self.privileged && !allow.privileged {
            return beyond("privileged", "the rights of a privileged container");
        }
        if let Some(capability) = self
            .cap_add
            .iter()
            .find(|name| !listed(&allow.cap_add, name))
        {
            return beyond("cap-add", &format!("the capability {capability}"));
        }
        if let Some(device) = self
            .devices
            .iter()
            .find(|device| !allow.devices.contains(&device.host))
        {
            return beyond("devices", &device.to_string());
        }
        let is_allowed = |mount: &&super::Mount| {
            allow.mounts.iter().any(|known| {
                let (path, writable) = known
                    .strip_suffix(":rw")
                    .map_or((known.as_str(), false), |path| (path, true));
                let below = mount
                    .source
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                below && (mount.read_only || writable)
            })
        };
        if let Some(mount) = self.mounts.iter().find(|mount| !is_allowed(mount)) {
            return beyond("mounts", &format!("the mount {mount}"));
        }
        if let Some(file) = self.host_files().find(|file| !allow.files.contains(file)) {
            return beyond("files", &format!("the file {file}"));
        }
        if !["bridge", "none"].contains(&self.network.as_str())
            && !listed(&allow.networks, &self.network)
        {
            return beyond("networks", &format!("the network {}", self.network));
        }
        match self
            .host_config
            .as_object()
            .and_then(|fields| fields.keys().next())
        {
            Some(field) if !allow.host_config => {
                beyond("host-config", &format!("the engine's field {field}"))
            }
            _ => None,
        }
    }

    /// Files of this machine that Plancton would read for it.
    fn host_files(&self) -> impl Iterator<Item = &String> {
        let handed = self.files.iter().map(|file| &file.source);
        handed
            .chain([&self.auth_file, &self.image_archive])
            .filter(|file| !file.is_empty())
    }

    /// What [allow] leaves to the owner's consent.
    fn asks(&self, allow: &Allow) -> Vec<String> {
        let usual = PilotClass::default();
        let root = self
            .user
            .split(':')
            .next()
            .is_some_and(|user| ["", "0", "root"].contains(&user));
        let source = match &self.image {
            Image::Named(image) => Some((&image.name, image.registry())),
            Image::Builtin => None,
        };
        let source =
            source.filter(|(_, registry)| !allow.registries.iter().any(|known| known == registry));
        let source = source
            .map(|(name, registry)| format!("containers of {name}, from the registry {registry}"));
        let root = root.then(|| "containers whose user is root inside".to_owned());
        let network =
            (self.network == "bridge").then(|| "access to the network for them".to_owned());
        // The room of [share] counts neither.
        let swap =
            (self.swap.0 > 0).then(|| format!("{} of swap space for each of them", self.swap));
        let pids =
            (self.pids > usual.pids).then(|| format!("{} processes in each of them", self.pids));
        [source, root, network, swap, pids]
            .into_iter()
            .flatten()
            .collect()
    }

    /// What it gets because [allow] names it.
    pub fn granted(&self) -> Vec<String> {
        let mut granted = Vec::new();
        if self.privileged {
            granted.push("every power over this machine (privileged)".to_owned());
        }
        if !["bridge", "none"].contains(&self.network.as_str()) {
            granted.push(format!("the network {}", self.network));
        }
        granted.extend(
            self.cap_add
                .iter()
                .map(|capability| format!("the capability {capability}")),
        );
        granted.extend(
            self.devices
                .iter()
                .map(|device| format!("the device {device}")),
        );
        granted.extend(self.mounts.iter().map(|mount| format!("the mount {mount}")));
        granted.extend(self.host_files().map(|file| format!("the file {file}")));
        let fields = self.host_config.as_object().into_iter().flatten();
        granted.extend(fields.map(|(field, value)| format!("the engine's {field} = {value}")));
        granted
    }
}

impl Config {
    /// With what an offer brings; its rules make [`Config::effective`] give less.
    pub fn with(&self, offer: &Offer) -> Config {
        let mut config = self.clone();
        config.pilots.extend(offer.pilots.iter().cloned());
        config.influxdb.extend(offer.influxdb.iter().cloned());
        config.lowered.clone_from(&offer.rules);
        config
    }

    pub(super) fn lower(
        &self,
        share: &mut Share,
        owner: &mut Owner,
        weekday: u8,
        minute_of_day: u16,
    ) {
        let (mut by_share, mut by_owner) = (Share::default(), Owner::default());
        let rules = || {
            self.lowered
                .iter()
                .filter(|rule| rule.hours.contains(weekday, minute_of_day))
        };
        for (rule, key) in rules().flat_map(|rule| rule.keys.iter().map(move |key| (rule, key))) {
            by_share.take(key, &rule.share);
            by_owner.take(key, &rule.owner);
        }
        for key in rules().flat_map(|rule| &rule.keys) {
            lower_one(key, share, owner, (&by_share, &by_owner));
        }
    }
}

/// The careful one of both values.
fn lower_one(
    key: &str,
    share: &mut Share,
    owner: &mut Owner,
    (by_share, by_owner): (&Share, &Owner),
) {
    match key {
        "max-pilots" => {
            share.max_pilots = match (share.max_pilots, by_share.max_pilots) {
                (Auto::Fixed(own), Auto::Fixed(other)) => Auto::Fixed(own.min(other)),
                (Auto::Auto, any) | (any, Auto::Auto) => any,
            }
        }
        "reserve-cpus" => {
            share.reserve_cpus = match (share.reserve_cpus, by_share.reserve_cpus) {
                (Auto::Fixed(own), Auto::Fixed(other)) => Auto::Fixed(own.max(other)),
                // "auto" is one core at most.
                (Auto::Auto, Auto::Fixed(other)) if other >= 1.0 => Auto::Fixed(other),
                (own, _) => own,
            }
        }
        "reserve-memory" => {
            share.reserve_memory = share.reserve_memory.max(by_share.reserve_memory)
        }
        "reserve-disk" => share.reserve_disk = share.reserve_disk.max(by_share.reserve_disk),
        "on-battery" if by_owner.on_battery == OnBattery::Pause => {
            owner.on_battery = OnBattery::Pause
        }
        "min-battery" => owner.min_battery = owner.min_battery.max(by_owner.min_battery),
        "max-temperature" => {
            let heats = [owner.max_temperature, by_owner.max_temperature];
            owner.max_temperature = heats
                .into_iter()
                .filter(|heat| *heat > 0)
                .min()
                .unwrap_or(0);
        }
        "calm-for" => owner.calm_for = owner.calm_for.max(by_owner.calm_for),
        _ => {}
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

    fn offer(text: &str, local: &str) -> Offer {
        read_offer(text, URL, &parse(local, "c").unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_allowed_leaves_its_class_out() {
        for (lines, allow, why) in [
            (
                "privileged = true",
                "privileged = true",
                "a privileged container, which [allow] privileged",
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
                "the engine's field ShmSize, which",
            ),
        ] {
            let text = pilot(lines);
            let refused = offer(&text, "");
            assert_eq!(refused.pilots, [], "{lines}");
            assert!(
                refused.asks.is_empty() && refused.granted.is_empty(),
                "{refused:?}"
            );
            assert!(refused.refused[0].contains(why), "{:?}", refused.refused);
            let taken = offer(&text, &format!("[allow]\n{allow}\n"));
            assert_eq!(
                (taken.pilots.len(), taken.refused.len()),
                (1, 0),
                "{lines}: {:?}",
                taken.refused
            );
            assert!(
                !taken.asks.is_empty() && taken.granted.len() == 1,
                "{taken:?}"
            );
        }
        for (mount, allow) in [
            ("/cvmfs:/c:rw", "/cvmfs"),
            ("/cvmfs2:/c", "/cvmfs"),
            ("/:/c", "/cvmfs"),
        ] {
            let refused = offer(
                &pilot(&format!("mounts = [\"{mount}\"]")),
                &format!("[allow]\nmounts = [\"{allow}\"]"),
            );
            assert_eq!(refused.pilots, [], "{mount}");
        }
        let own = "[[pilot]]\nname = \"p\"\nimage = \"builtin\"\n";
        assert!(
            offer(&pilot(""), own).refused[0]
                .contains("a class of this machine's owner has that name")
        );
    }

    #[test]
    fn what_has_to_be_accepted() {
        let text = pilot("user = \"0:0\"")
            + "[[influxdb]]\nurl = \"http://u:geheim@m:1#d\"\nowner-metrics = true\n";
        let found = offer(&text, "");
        let asks = [
            "access to the network for them",
            "containers of reg.example/p, from the registry reg.example",
            "containers whose user is root inside",
            "metrics to http://m:1#d: figures of its pilots, none of the owner",
        ];
        assert_eq!(found.asks, asks);
        assert!(!found.influxdb[0].owner_metrics);
        // A newer tag is nothing new; another place is.
        let accepted: Vec<String> = asks.map(str::to_owned).to_vec();
        assert_eq!(
            offer(&text.replace("p:1", "p:2"), "").unaccepted(&accepted),
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
            assert_eq!(
                offer(&text.replace(from, to), "").unaccepted(&accepted),
                [new]
            );
        }
        let plain = offer(
            &pilot("network = \"none\""),
            "[allow]\nregistries = [\"reg.example\"]",
        );
        assert_eq!((plain.asks.len(), plain.pilots.len()), (0, 1));
        for key in ["password-file", "ca-file"] {
            let sink = format!("[[influxdb]]\nurl = \"http://u@m#d\"\n{key} = \"/etc/shadow\"\n");
            let found = offer(&sink, "");
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
            let offer = offer(text, local);
            assert_eq!(offer.refused, [""; 0], "{text}");
            let (share, owner, _) = parsed.with(&offer).effective(weekday, 600);
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
            let offer = offer(text, local);
            assert_eq!(
                offer.refused,
                [format!("{key}: that is the owner's alone; ignored")],
                "{text}"
            );
            let merged = Config {
                lowered: Vec::new(),
                ..parsed.with(&offer)
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
            let problems = read_offer(&text, URL, &Config::default()).unwrap_err();
            assert!(
                problems[0].contains("are taken from elsewhere"),
                "{problems:?}"
            );
        }
        assert!(read_offer("[[pilot]]\nname = ", URL, &Config::default()).is_err());
    }
}
