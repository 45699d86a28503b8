//! Whole configurations: problems with their places, conf/plancton.toml in step with the code, and the way back to text.

use super::*;
use crate::units::Bytes;
use std::time::Duration;

fn problems(text: &str) -> String {
    parse(text, "c").err().unwrap_or_default().join("\n")
}

fn target(lines: &str) -> String {
    format!("[[influxdb]]\n{lines}\n")
}

#[test]
fn empty_is_default() {
    assert_eq!(parse("", "c"), Ok(Config::default()));
    assert_eq!(parse("\u{feff}# nothing\r\n", "c"), Ok(Config::default()));
    assert!(Config::default().pilots.is_empty());
}

/// Texts and what is said of them; `BLESS=1` writes it anew.
const PROBLEMS: &str = include_str!("../../tests/golden/problems.txt");

#[test]
fn every_problem_has_its_place() {
    let mut found = String::new();
    for case in PROBLEMS.split(">>>\n").skip(1) {
        let (text, _) = case.split_once("\n<<<\n").unwrap();
        let said = problems(text);
        assert!(
            !said.contains("geheim") && !said.contains("77777"),
            "{said}"
        );
        found += &format!(">>>\n{text}\n<<<\n{said}\n");
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write("tests/golden/problems.txt", &found).unwrap();
    }
    assert_eq!(found, PROBLEMS);
    // However many there are, it ends, and soon.
    let many: String = (0..20_000).map(|n| format!("key{n} = 1\n")).collect();
    assert_eq!(
        parse(&("[share]\n".to_owned() + &many), "c")
            .unwrap_err()
            .len(),
        100
    );
}

#[test]
fn cpu_lists_and_sockets() {
    for (key, text, is_good) in [
        ("share]\ncpuset", "4-7,9", true),
        ("share]\ncpuset", "", true),
        ("share]\ncpuset", "1,", false),
        ("share]\ncpuset", "+1", false),
        ("share]\ncpuset", "1 ,2", false),
        ("share]\ncpuset", "0-9999999", false),
        ("engine]\nsocket", "", true),
        ("engine]\nsocket", "/run/x.sock", true),
        ("engine]\nsocket", "unix:///run/x.sock", true),
        ("engine]\nsocket", "x.sock", false),
        ("engine]\nsocket", "unix://x", false),
        ("engine]\nsocket", "unix:/x", false),
    ] {
        assert_eq!(
            problems(&format!("[{key} = \"{text}\"")).is_empty(),
            is_good,
            "{key} {text}"
        );
    }
}

#[test]
fn urls_of_targets() {
    for (url, base, user, password, database, insecure) in [
        ("http://h:8086#db", "http://h:8086", "", "", "db", false),
        (
            "http://u:p@h:8086#db",
            "http://h:8086",
            "u",
            "p",
            "db",
            false,
        ),
        (
            "insecure_https://u:p%40%2f@h/influx/#d",
            "https://h/influx",
            "u",
            "p@/",
            "d",
            true,
        ),
        (
            "https://u:a@b:c@[::1]:8086#d b",
            "https://[::1]:8086",
            "u",
            "a@b:c",
            "d b",
            false,
        ),
        ("http://u:100%@h#d", "http://h", "u", "100%", "d", false),
    ] {
        let config = parse(&target(&format!("url = \"{url}\"")), "c").unwrap();
        let found = &config.influxdb[0];
        assert_eq!(
            [
                &found.url,
                &found.user,
                found.password.expose(),
                &found.database
            ],
            [base, user, password, database]
        );
        assert_eq!(found.insecure, insecure, "{url}");
        assert!(!format!("{config:?}{}", config.to_toml()).contains("p@/"));
    }
    for bad in [
        "",
        "h:8086#d",
        "ftp://h#d",
        "http://#d",
        "http://:8086#d",
        "http://h o#d",
        "http://h/?db=x",
        "https:/h",
    ] {
        assert!(
            problems(&target(&format!("url = \"{bad}\""))).contains("expects http://HOST:PORT"),
            "{bad}"
        );
    }
}

const FULL: &str = r#"
share.cpus = 6.5
share.cpuset = "4-7,9"
[loop]
interval = "1m30s"
[owner]
when-busy = "pause"
max-temperature = 0
pause-while-running = ["game \"x\"", "\u007f\u0001"]
[[when]]
hours = "Mon-Fri 09:00-18:00; Sat"
max-pilots = 1
on-battery = "stop"
cpus = "auto"
[[when]]
hours = "Fri 22:00-06:00"
max-pilots = 2
[engine]
instance = "two"
[[pilot]]
name = "full"
image = "localhost:5000/a/b"
command = ["sh", "-c", "echo 'x'\n\t\\"]
cpus = 2
memory = "1073741825B"
env = { PATH = "/bin", "x.y" = "äb" }
files = [{ source = "/a", target = "/b", mode = "0440" }]
mounts = ["/a:/b", "/c:/d:rw,rslave"]
tmpfs = ["/tmp:64MiB", "/x"]
devices = ["/dev/fuse", "/dev/a:/dev/b:r"]
cap-add = ["SYS_PTRACE"]
[pilot.host-config]
ShmSize = 67108864
StorageOpt = { size = "1G" }
Sysctls = { "net.x" = "1", deep = [{ a = 1.0, b = true }], none = {} }
[[pilot]]
name = "builtin"
image = "builtin"
"#;

#[test]
fn values_arrive() {
    let config = parse(FULL, "c").unwrap();
    assert_eq!(*config.loop_.interval, Duration::from_secs(90));
    assert_eq!(config.share.cpus, Auto::Fixed(6.5));
    assert_eq!(config.owner.when_busy, WhenBusy::Pause);
    assert_eq!(config.pilots[1], PilotClass::default());
    let pilot = &config.pilots[0];
    assert_eq!(pilot.image.to_string(), "localhost:5000/a/b:latest");
    assert_eq!(pilot.memory, Bytes((1 << 30) + 1));
    assert_eq!(
        (pilot.env["PATH"].as_str(), pilot.files[0].mode.0),
        ("/bin", 0o440)
    );
    assert_eq!(
        (
            pilot.mounts[1].read_only,
            pilot.mounts[1].propagation.as_str()
        ),
        (false, "rslave")
    );
    assert_eq!(
        (pilot.tmpfs[0].size, pilot.tmpfs[1].size),
        (Some(Bytes(64 << 20)), None)
    );
    let shown = |devices: &[Device]| devices.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        shown(&pilot.devices),
        ["/dev/fuse:/dev/fuse:rwm", "/dev/a:/dev/b:r"]
    );
    let json = r#"{"ShmSize":67108864,"StorageOpt":{"size":"1G"},"Sysctls":{"deep":[{"a":1.0,"b":true}],"net.x":"1","none":{}}}"#;
    assert_eq!(serde_json::to_string(&pilot.host_config).unwrap(), json);
}

#[test]
fn written_and_read_back() {
    for text in ["", FULL] {
        let config = parse(text, "c").unwrap();
        let written = config.to_toml();
        assert_eq!(parse(&written, "c").as_ref(), Ok(&config), "{written}");
        assert_eq!(parse(&written, "c").unwrap().to_toml(), written);
    }
    let secrets = target("url = \"http://u:geheim@h#d\"")
        + &target("url = \"http://h\"\nbucket = \"b\"\ntoken = \"geheim\"");
    let config = parse(&secrets, "c").unwrap();
    let shown = format!("{config:?}{}", config.to_toml());
    assert!(
        shown.contains("password = \"***\"")
            && shown.contains("token = \"***\"")
            && !shown.contains("geheim"),
        "{shown}"
    );
}

#[test]
fn later_hours_win_key_by_key() {
    let config = parse(FULL, "c").unwrap();
    let (mon, fri, sat) = (0, 4, 5);
    let own = Auto::Fixed(6.5);
    for (weekday, hour, max_pilots, cpus, on_battery, last) in [
        (mon, 8, Auto::Auto, own, OnBattery::Pause, None),
        (mon, 9, Auto::Fixed(1), Auto::Auto, OnBattery::Stop, Some(0)),
        (fri, 23, Auto::Fixed(2), own, OnBattery::Pause, Some(1)),
        (sat, 5, Auto::Fixed(2), Auto::Auto, OnBattery::Stop, Some(1)),
        (sat, 7, Auto::Fixed(1), Auto::Auto, OnBattery::Stop, Some(0)),
    ] {
        let (share, owner, index) = config.effective(weekday, hour * 60);
        let found = (share.max_pilots, share.cpus, owner.on_battery, index);
        assert_eq!(
            found,
            (max_pilots, cpus, on_battery, last),
            "{weekday} {hour}"
        );
        assert_eq!(share.cpuset, "4-7,9");
    }
}

/// The commented keys and table headers of conf/plancton.toml as TOML. Each key has an explanation before it.
fn uncommented() -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c == '-';
    let is_key = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| !key.is_empty() && key.chars().all(plain))
    };
    let (mut text, mut explained, mut table) = (String::new(), false, "");
    for line in DEFAULT_TEXT.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_table = bare.starts_with("[[") || line.starts_with('[');
        if is_table {
            table = bare;
        }
        if is_key(bare) {
            assert!(explained || table == "[[when]]", "{table} {line}");
        }
        explained = line.starts_with("# ") && !is_key(bare) && !is_table;
        text += if is_key(bare) || is_table { bare } else { "" };
        text += "\n";
    }
    text
}

#[test]
fn shipped_text_is_in_step_with_the_code() {
    assert_eq!(parse(DEFAULT_TEXT, "conf"), Ok(Config::default()));
    let text = uncommented();
    let config = parse(&text, "conf").unwrap();
    // All there are at their defaults, but for the database, which has none.
    let whole = Config {
        when: config.when.clone(),
        pilots: vec![PilotClass::default()],
        influxdb: vec![Influx {
            database: "plancton".to_owned(),
            ..Influx::default()
        }],
        ..Config::default()
    };
    assert_eq!((&config, config.when.len()), (&whole, 1));
    let keys = |text: &str| -> Vec<String> {
        let document: toml::Table = text.parse().unwrap();
        let table = |value: &toml::Value| {
            value
                .as_array()
                .map_or(value, |list| &list[0])
                .as_table()
                .unwrap()
                .clone()
        };
        let tables = document.iter().filter(|(name, _)| *name != "when");
        tables
            .flat_map(|(name, value)| {
                table(value)
                    .into_iter()
                    .map(move |(key, _)| format!("{name}.{key}"))
            })
            .collect()
    };
    assert_eq!(keys(&text), keys(&whole.to_toml()));
}

#[test]
fn hours_of_the_week() {
    const MON: u8 = 0;
    const FRI: u8 = 4;
    const SAT: u8 = 5;
    const SUN: u8 = 6;
    for (text, weekday, (hour, minute), expected) in [
        ("Mon-Fri 09:00-18:00", MON, (9, 0), true),
        ("Mon-Fri 09:00-18:00", MON, (8, 59), false),
        ("Mon-Fri 09:00-18:00", FRI, (17, 59), true),
        ("Mon-Fri 09:00-18:00", FRI, (18, 0), false),
        ("Mon-Fri 09:00-18:00", SAT, (12, 0), false),
        ("Sat,Sun", SUN, (23, 59), true),
        ("Sat,Sun", MON, (0, 0), false),
        ("Fri-Mon", MON, (12, 0), true),
        ("Fri-Mon", 1, (12, 0), false),
        ("22:00-06:00", MON, (23, 0), true),
        ("22:00-06:00", MON, (5, 59), true),
        ("22:00-06:00", MON, (6, 0), false),
        // A stretch over midnight belongs to the day it starts on.
        ("Fri 22:00-06:00", FRI, (5, 0), false),
        ("Fri 22:00-06:00", SAT, (5, 59), true),
        ("Fri 22:00-06:00", SAT, (22, 0), false),
        ("Sun 22:00-06:00", MON, (1, 0), true),
        ("Sun 22:00-06:00", SUN, (1, 0), false),
        ("sat 20:00-24:00", SAT, (23, 59), true),
        ("sat 20:00-24:00", SUN, (0, 0), false),
        ("Mon 8:00-9:30; Sat,Sun", SUN, (3, 0), true),
        ("Mon 8:00-9:30; Sat,Sun", MON, (9, 29), true),
        ("Mon 8:00-9:30; Sat,Sun", MON, (9, 30), false),
    ] {
        let hours = when::Hours::parse(text).unwrap();
        assert_eq!(
            hours.contains(weekday, hour * 60 + minute),
            expected,
            "{text} {weekday} {hour}"
        );
    }
    for bad in ",Mon;,Mo-Fri,Mon-,Mon 9-18,Mon 09:00-25:00,09:60-10:00,+9:00-10:00,09:00-09:00,24:00-06:00,Mon 09:00 - 18:00".split(',') {
        assert_eq!(when::Hours::parse(bad), None, "{bad}");
    }
}

#[test]
fn image_references() {
    let sha = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
    for (text, registry, name, tag) in [
        ("busybox", "docker.io", "busybox", Some("latest")),
        ("a/b:1.2-x_Y", "docker.io", "a/b", Some("1.2-x_Y")),
        (
            "localhost:5000/a/b:tag",
            "localhost:5000",
            "localhost:5000/a/b",
            Some("tag"),
        ),
        ("localhost/a", "localhost", "localhost/a", Some("latest")),
        (
            "registry.example.org/a",
            "registry.example.org",
            "registry.example.org/a",
            Some("latest"),
        ),
        ("[::1]:5000/a:t", "[::1]:5000", "[::1]:5000/a", Some("t")),
        ("HOST/a", "HOST", "HOST/a", Some("latest")),
        ("a__b/c--d.e_f:t", "docker.io", "a__b/c--d.e_f", Some("t")),
        (&format!("h:1/a@{sha}"), "h:1", "h:1/a", None),
        (&format!("a:t@{sha}"), "docker.io", "a", Some("t")),
    ] {
        let image = ImageRef::parse(text).unwrap();
        assert_eq!(
            (image.registry(), image.name.as_str(), image.tag.as_deref()),
            (registry, name, tag),
            "{text}"
        );
        let pulled = if text.contains('@') {
            sha
        } else {
            tag.unwrap()
        };
        assert_eq!(image.pull_tag(), pulled);
        assert_eq!(ImageRef::parse(&image.to_string()), Some(image), "{text}");
    }
    let (long_tag, long_name) = (format!("a:{}", "t".repeat(129)), "a".repeat(256));
    let digest = format!("a@sha256:{}", "A".repeat(64));
    let bad = " :tag @sha256:00 [x]/a Busybox a//b a/ /a -a a- a..b a___b a._b ä h:1/ a:b:c https://h/a a: a:-x a@ a@sha256:00";
    for text in bad
        .split(' ')
        .chain([&*long_tag, &long_name, &digest, "a b"])
    {
        assert_eq!(ImageRef::parse(text), None, "{text}");
    }
}
