//! A configuration from elsewhere, under the owner's consent: what it may bring, what the owner has to permit for it, and
//! what is refused. It adds pilots and metrics targets and can make the machine give less, never more. Pure.

use super::{values::Mount, *};
use crate::units::{clean_line, is_within};

/// The keys of [share] and [owner] by which less can be given. `cpus` is not among them: "auto" is not known here.
const LOWERED: &str = "max-pilots reserve-cpus reserve-memory reserve-disk on-battery min-battery max-temperature calm-for";

/// What a remote configuration comes to on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RemoteConfig {
    rules: Vec<Table>,
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
    if config.pilots.len() > 32 || config.influxdb.len() > 2 || config.when.len() > 16 {
        // Every target has a queue of its own in memory, and every class is looked at in each tick.
        let most = "32 [[pilot]], 2 [[influxdb]] and 16 [[when]] are taken from elsewhere";
        return Err(vec![format!("{url}: no more than {most}")]);
    }
    let mut remote = RemoteConfig::default();
    // Every value is good; which keys are given is seen in the text alone.
    remote.add_rules(&toml::from_str(text).unwrap_or_default(), config.when);
    let (pilots, targets) = (config.pilots.into_iter(), config.influxdb.into_iter());
    pilots.for_each(|pilot| remote.add_pilot(pilot, local));
    targets.for_each(|target| remote.add_target(target));
    for list in [&mut remote.permissions, &mut remote.refused] {
        *list = list.iter().map(|line| clean_line(line, LINE)).collect();
        list.sort();
        list.dedup();
    }
    Ok(remote)
}

/// The number of a published text, which only grows; 0: it has none.
pub fn read_serial(text: &str) -> u64 {
    let table: Table = toml::from_str(text).unwrap_or_default();
    table.get("serial").and_then(Value::as_u64).unwrap_or(0)
}

impl RemoteConfig {
    fn add_rules(&mut self, written: &Table, whens: Vec<Table>) {
        let always = written.values().filter_map(Value::as_object).flatten();
        // There it means "as many as fit".
        let always = always.filter(|(key, value)| *key != "max-pilots" || **value != 0);
        let always = always.map(|(key, value)| (key.clone(), value.clone()));
        self.rules = [vec![always.collect()], whens].concat();
        for rule in &mut self.rules {
            let (hours, not_taken) = (hours(rule).to_owned(), "that is the owner's alone; ignored");
            rule.retain(|key, value| {
                let is_lowering = LOWERED.split(' ').any(|known| known == key);
                match key.as_str() {
                    "hours" => return true,
                    _ if is_lowering => self.lowered.push(format!("{key} = {value} ({hours})")),
                    _ => self.refused.push(format!("{key}: {not_taken}")),
                }
                is_lowering
            });
        }
    }

    fn add_pilot(&mut self, pilot: PilotClass, local: &Config) {
        let wishes = pilot.wishes(&local.allow);
        let name = &pilot.name;
        let mut why = "a class of this machine's owner has that name".to_owned();
        if local.pilots.iter().all(|own| own.name != *name) {
            let Some((key, _, what)) = wishes.iter().find(|(_, is_allowed, _)| !is_allowed) else {
                self.permissions.extend(pilot.permissions(&local.allow));
                self.granted.extend(pilot.granted());
                return self.pilots.push(pilot);
            };
            why = format!("it asks for {what}, which [allow] {key} does not name");
        }
        let what = format!("[[pilot]] '{name}': {why}; the class is left out");
        self.refused.push(what);
    }

    fn add_target(&mut self, mut target: Influx) {
        let title = target.title();
        let files = [&target.password_file, &target.token_file, &target.ca_file];
        if let Some(file) = files.into_iter().find(|file| !file.is_empty()) {
            let what = format!("[[influxdb]] {title}: it names {file} of this machine; left out");
            return self.refused.push(what);
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
        let mut wishes = Vec::new();
        let mut wish = |key, is_allowed, what| wishes.push((key, is_allowed, what));
        if self.privileged {
            let what = "every power over this machine (privileged)";
            wish("privileged", allow.privileged, what.to_owned());
        }
        let mut names = |key, list: &[String], what: &str, name: &str| {
            let is_allowed = list.iter().any(|known| known.eq_ignore_ascii_case(name));
            wish(key, is_allowed, format!("{what} {name}"));
        };
        for name in &self.cap_add {
            names("cap-add", &allow.cap_add, "the capability", name);
        }
        if !["bridge", "none"].contains(&self.network.as_str()) {
            names("networks", &allow.networks, "the network", &self.network);
        }
        for device in &self.devices {
            let host = device.split(':').next().unwrap_or_default();
            let is_allowed = allow.devices.iter().any(|known| known == host);
            wish("devices", is_allowed, format!("the device {device}"));
        }
        for mount in &self.mounts {
            let is_allowed = allow.mounts.iter().any(|known| is_below(mount, known));
            wish("mounts", is_allowed, format!("the mount {mount}"));
        }
        let files = self.files.iter().map(|file| &file.source);
        let files = files.chain([&self.auth_file, &self.image_archive]);
        for file in files.filter(|file| !file.is_empty()) {
            let what = format!("the file {file}");
            wish("files", allow.files.contains(file), what);
        }
        for (field, value) in &self.host_config {
            let what = format!("the engine's field {field} = {value}");
            wish("host-config", allow.host_config, what);
        }
        wishes
    }

    /// What [allow] leaves to the owner's consent.
    fn permissions(&self, allow: &Allow) -> Vec<String> {
        let (name, registry) = (&self.image.name, self.image.registry());
        let is_known = self.image.is_builtin() || allow.registries.iter().any(|it| it == registry);
        let user = self.user.split(':').next().unwrap_or_default();
        let is_root = ["", "0", "root"].contains(&user);
        let most = PilotClass::default().pids;
        let lines = [
            (!is_known).then(|| format!("containers of {name}, from the registry {registry}")),
            is_root.then(|| "containers whose user is root inside".to_owned()),
            (self.network == "bridge").then(|| "access to the network for them".to_owned()),
            // The room of [share] counts neither.
            (self.swap.0 > 0).then(|| format!("{} of swap space for each of them", self.swap)),
            (self.pids > most).then(|| format!("{} processes in each of them", self.pids)),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// Whether it is in the folder that the owner allows, and no more writable than that.
fn is_below(mount: &Mount, known: &str) -> bool {
    let writable = known.strip_suffix(":rw");
    let is_below = is_within(&mount.source, writable.unwrap_or(known));
    is_below && (mount.is_read_only() || writable.is_some())
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
}

/// Key by key the stricter one.
pub(super) fn lower(share: &mut Share, other: &Share) {
    share.max_pilots = share.max_pilots.min(other.max_pilots);
    share.reserve_cpus = match (share.reserve_cpus, other.reserve_cpus) {
        (Auto::Fixed(own), Auto::Fixed(other)) => Auto::Fixed(own.max(other)),
        // "auto" is one core at most.
        (Auto::Auto, Auto::Fixed(other)) if other > 0.0 => Auto::Fixed(other.max(1.0)),
        (own, _) => own,
    };
    share.reserve_memory = share.reserve_memory.max(other.reserve_memory);
    share.reserve_disk = share.reserve_disk.max(other.reserve_disk);
}

/// Likewise; a temperature of 0 is no limit.
pub(super) fn protect(owner: &mut Owner, other: &Owner) {
    owner.calm_for = owner.calm_for.max(other.calm_for);
    owner.on_battery = owner.on_battery.max(other.on_battery);
    owner.min_battery = owner.min_battery.max(other.min_battery);
    let limits = [owner.max_temperature, other.max_temperature];
    let limits = limits.into_iter().filter(|limit| *limit > 0);
    owner.max_temperature = limits.min().unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://example.org/plancton.toml";

    fn pilot(lines: &str) -> String {
        format!("[[pilot]]\nname = \"p\"\nimage = \"reg.example/p:1\"\n{lines}\n")
    }

    fn read(text: &str, local: &str) -> RemoteConfig {
        read_remote(text, URL, &parse(local, "c").unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_allowed_leaves_its_class_out() {
        // A line of the class, one of [allow], and what is said without it.
        for rule in r#"
            privileged = true | privileged = true | every power over this machine (privileged), which [allow] privileged
            cap-add = ["SYS_ADMIN"] | cap-add = ["sys_admin"] | the capability SYS_ADMIN, which [allow] cap-add
            devices = ["/dev/fuse"] | devices = ["/dev/fuse"] | the device /dev/fuse, which [allow] devices
            mounts = ["/:/host"] | mounts = ["/"] | the mount /:/host:ro, which [allow] mounts
            mounts = ["/data/a:/a:rw"] | mounts = ["/data:rw"] | the mount /data/a:/a:rw, which
            files = [{ source = "/etc/k", target = "/k" }] | files = ["/etc/k"] | the file /etc/k, which
            auth-file = "/etc/a" | files = ["/etc/a"] | the file /etc/a, which [allow] files
            image-archive = "/a.tar" | files = ["/a.tar"] | the file /a.tar, which [allow] files
            network = "host" | networks = ["host"] | the network host, which [allow] networks
            network = "container:x" | networks = ["container:x"] | the network container:x, which
            host-config = { ShmSize = 1 } | host-config = true | the engine's field ShmSize = 1, which"#
            .trim()
            .lines()
        {
            let parts: Vec<&str> = rule.split('|').map(str::trim).collect();
            let refused = read(&pilot(parts[0]), "");
            assert!(refused.pilots.is_empty() && refused.permissions.is_empty());
            assert!(refused.refused[0].contains(parts[2]), "{:?}", refused.refused);
            let taken = read(&pilot(parts[0]), &format!("[allow]\n{}\n", parts[1]));
            assert!(taken.refused.is_empty() && taken.granted.len() == 1, "{taken:?}");
            assert!(taken.pilots.len() == 1 && !taken.permissions.is_empty());
        }
        for mount in ["/cvmfs:/c:rw", "/cvmfs2:/c", "/:/c"] {
            let text = pilot(&format!("mounts = [\"{mount}\"]"));
            let refused = read(&text, "[allow]\nmounts = [\"/cvmfs\"]");
            assert_eq!(refused.pilots, [], "{mount}");
        }
        let own = "[[pilot]]\nname = \"p\"\nimage = \"builtin\"\n";
        let taken = "a class of this machine's owner has that name";
        assert!(read(&pilot(""), own).refused[0].contains(taken));
    }

    #[test]
    fn what_has_to_be_permitted() {
        let sink = "[[influxdb]]\nurl = \"http://u:geheim@m:1#d\"\nowner-metrics = true\n";
        let text = pilot("user = \"0:0\"") + sink;
        let found = read(&text, "");
        let asked = [
            "access to the network for them",
            "containers of reg.example/p, from the registry reg.example",
            "containers whose user is root inside",
            "metrics to http://m:1#d: figures of its pilots, none of the owner",
        ];
        assert_eq!(found.permissions, asked);
        assert!(!found.influxdb[0].owner_metrics);
        // A newer tag is nothing new; another place is.
        for row in r#"
            p:1 | p:2 |
            reg.example | evil | containers of evil/p, from the registry docker.io
            m:1 | m:2 | metrics to http://m:2#d: figures of its pilots, none of the owner
            user | swap = "64GiB";user | 64GiB of swap space for each of them
            user | pids = 4000000;user | 4000000 processes in each of them"#
            .trim()
            .lines()
        {
            let [from, to, new] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
                panic!("{row}");
            };
            let to = to.replace(';', "\n");
            let newer = read(&text.replace(from, &to), "");
            let is_new = |line: &String| !found.permissions.contains(line);
            let lines: Vec<String> = newer.permissions.into_iter().filter(is_new).collect();
            assert_eq!(lines.join(";"), new);
        }
        let plain = pilot("network = \"none\"");
        let plain = read(&plain, "[allow]\nregistries = [\"reg.example\"]");
        assert_eq!((plain.permissions.len(), plain.pilots.len()), (0, 1));
        for key in ["password-file", "ca-file"] {
            let sink = format!("[[influxdb]]\nurl = \"http://u@m#d\"\n{key} = \"/etc/shadow\"\n");
            let found = read(&sink, "");
            assert!(found.influxdb.is_empty() && found.refused[0].contains("it names /etc/shadow"));
        }
    }

    #[test]
    fn it_can_only_lower() {
        let local = "[share]\nmax-pilots = 8\nreserve-memory = \"1GiB\"\n[owner]\non-battery = \"BATTERY\"\nmax-temperature = 0\n\
                     [[when]]\nhours = \"Mon\"\nmax-pilots = 4\n";
        // Weekday and on-battery here; what is asked for; pilots, cores, memory, battery, least charge and heat of it.
        for row in r#"
            1 run | | Fixed(8) Auto 1GiB Run 30 0
            1 run | [share];max-pilots = 3 | Fixed(3) Auto 1GiB Run 30 0
            0 run | [share];max-pilots = 6 | Fixed(4) Auto 1GiB Run 30 0
            0 run | [share];max-pilots = 3 | Fixed(3) Auto 1GiB Run 30 0
            1 run | [share];max-pilots = 0 | Fixed(8) Auto 1GiB Run 30 0
            1 run | [share];max-pilots = 99;reserve-memory = "0" | Fixed(8) Auto 1GiB Run 30 0
            1 run | [share];reserve-memory = "3GiB" | Fixed(8) Auto 3GiB Run 30 0
            1 run | [share];reserve-cpus = 0.5 | Fixed(8) Fixed(1.0) 1GiB Run 30 0
            1 run | [share];reserve-cpus = 0 | Fixed(8) Auto 1GiB Run 30 0
            1 run | [owner];min-battery = 50;max-temperature = 70 | Fixed(8) Auto 1GiB Run 50 70
            1 run | [owner];min-battery = 0;max-temperature = 0 | Fixed(8) Auto 1GiB Run 30 0
            1 run | [owner];on-battery = "pause" | Fixed(8) Auto 1GiB Pause 30 0
            1 run | [owner];on-battery = "stop" | Fixed(8) Auto 1GiB Stop 30 0
            1 pause | [owner];on-battery = "stop" | Fixed(8) Auto 1GiB Stop 30 0
            1 pause | [owner];on-battery = "run" | Fixed(8) Auto 1GiB Pause 30 0
            1 stop | [owner];on-battery = "pause" | Fixed(8) Auto 1GiB Stop 30 0
            1 run | [share];max-pilots = 2;[[when]];hours = "Tue";max-pilots = 5 | Fixed(5) Auto 1GiB Run 30 0
            1 run | [[when]];hours = "Tue";max-pilots = 0 | Fixed(0) Auto 1GiB Run 30 0"#
            .trim()
            .lines()
        {
            let parts: Vec<&str> = row.split('|').map(str::trim).collect();
            let (weekday, battery) = parts[0].split_once(' ').unwrap();
            let local = local.replace("BATTERY", battery);
            let remote = read(&parts[1].replace(';', "\n"), &local);
            let own = parse(&local, "c").unwrap().with(&remote);
            let (share, owner, _) = own.effective(weekday.parse().unwrap(), 600);
            let (pilots, cpus) = (share.max_pilots, share.reserve_cpus);
            let (battery, charge) = (owner.on_battery, owner.min_battery);
            let (memory, heat) = (share.reserve_memory, owner.max_temperature);
            let found = format!("{pilots:?} {cpus:?} {memory} {battery:?} {charge} {heat}");
            assert_eq!(found, parts[2], "{row}");
            assert!(remote.refused.is_empty());
        }
        let others = "[loop]|interval = \"1s\"|[share]|cpus = 64|missing-limits = \"warn\"|[owner]|when-busy = \"yield\"|\
                      [engine]|socket = \"/evil\"|[allow]|privileged = true|[[when]]|hours = \"Mon\"|smt = true";
        let (remote, own) = (read(&others.replace('|', "\n"), ""), Config::default());
        let keys = "cpus interval missing-limits privileged smt socket when-busy".split(' ');
        let refused = keys.map(|key| format!("{key}: that is the owner's alone; ignored"));
        assert_eq!(remote.refused, refused.collect::<Vec<_>>());
        let (share, owner, _) = own.with(&remote).effective(0, 0);
        assert_eq!((share, owner), (own.share, own.owner));
    }

    #[test]
    fn too_much_is_refused_as_a_whole() {
        let class = "[[pilot]]\nname = \"p#\"\nimage = \"builtin\"\n";
        for (table, count) in [(class, 33), ("[[influxdb]]\nurl = \"http://h##d\"\n", 3)] {
            let numbers = 0..count;
            let text = numbers.map(|n: u32| table.replacen('#', &n.to_string(), 1));
            let text: String = text.collect();
            let problems = read_remote(&text, URL, &Config::default()).unwrap_err();
            assert!(problems[0].contains("are taken from elsewhere"));
        }
        assert!(read_remote("[[pilot]]\nname = ", URL, &Config::default()).is_err());
        let serials = ["serial = 7\n[loop]", "serial = -1", "serial = \"7\"", ""].map(read_serial);
        assert_eq!(serials, [7, 0, 0, 0]);
    }
}
