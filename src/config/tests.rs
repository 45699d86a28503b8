//! Whole configurations: problems with their places, conf/plancton.toml in step with the code, and the way back to text.

use super::*;
use crate::units::Bytes;
use std::time::Duration;

fn problems(text: &str) -> String {
    parse(text, "c").err().unwrap_or_default().join("\n")
}

/// A pilot with one more line, the fourth.
fn pilot(line: &str) -> String {
    format!("[[pilot]]\nname = \"a\"\nimage = \"builtin\"\n{line}\n")
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

/// Text, and what is said of it: one line for each problem.
#[rustfmt::skip]
const PROBLEMS: [(&str, &str); 33] = [
    ("[loop]\n  interval = 30", "c:2:14: [loop] interval: invalid type: integer `30`, expected a duration such as \"30s\""),
    ("[loop]\ninterval = \"-5s\"", "c:2:12: [loop] interval: '-5s' is not a duration; write it as a number with s, m, h or d, such as \"30s\" or \"1h30m\""),
    ("[loop]\ninterval = \"2h\"", "c:2:12: [loop] interval: \"2h\" is too much; write \"1h\" or less"),
    ("[loop]\nlaunches-per-tick = 0x41", "c:2:21: [loop] launches-per-tick: 65 is too much; write 64 or less"),
    ("[loop]\nlaunches-per-tick = -1", "c:2:21: [loop] launches-per-tick: -1 is too little; write 1 or more\nc:2:21: [loop] launches-per-tick: invalid value: integer `-1`, expected a whole number of 0 or more"),
    ("loop = 3", "c:1:8: [loop] stands in a line of its own, with its keys below it"),
    ("[[loop]]", "c:1:1: [loop] stands in a line of its own, with its keys below it"),
    ("[pilot]\nname = \"a\"", "c:1:1: [[pilot]] stands in a line of its own, with its keys below it"),
    ("pilot = [1]", "c:1:10: [[pilot]] stands in a line of its own, with its keys below it"),
    ("[engines]\n[x]", "c:1:2: unknown table 'engines'; did you mean [engine]?\nc:2:2: unknown table 'x'; 'plancton config --default' explains all there are"),
    ("[pilots]", "c:1:2: unknown table 'pilots'; did you mean [[pilot]]?"),
    ("[share]\nreserve_memory = 0\nwallpaper = 1", "c:2:1: unknown key 'reserve_memory' in [share]; did you mean 'reserve-memory'?\nc:3:1: unknown key 'wallpaper' in [share]; 'plancton config --default' explains all there are"),
    ("[share]\ncpus = 0\nreserve-cpus = \"some\"", "c:2:8: [share] cpus: 0 is too little; write 0.01 or more\nc:3:16: [share] reserve-cpus: invalid type: string \"some\", expected a number such as 1.5, or \"auto\""),
    ("[share]\ncpus = nan", "c:2:8: [share] cpus: nan is too little; write 0.01 or more"),
    ("[share]\nreserve-memory = 2\nsmt = \"no\"", "c:2:18: [share] reserve-memory: invalid type: integer `2`, expected a size such as \"2GiB\"\nc:3:7: [share] smt: invalid type: string \"no\", expected a boolean"),
    ("[share]\ncpuset = \"7-4\"", "c:2:10: [share] cpuset: '7-4' is not a list of CPU numbers; write one such as \"4-7,9\", or \"\" for any"),
    ("[owner]\nwhen-busy = \"panic\"", "c:2:13: [owner] when-busy: unknown variant `panic`, expected one of `auto`, `yield`, `pause`, `stop`"),
    ("[owner]\nmin-battery = 101\npause-while-running = [\"/usr/bin/x\"]", "c:2:15: [owner] min-battery: 101 is too much; write 100 or less\nc:3:23: [owner] pause-while-running: '/usr/bin/x' is not a program's name; write it without its folder"),
    ("[engine]\nsocket = \"tcp://h:1\"\ninstance = \"A\"", "c:2:10: [engine] socket: 'tcp://h:1' is not a Unix socket; write \"/path\" or \"unix:///path\", or \"\" to have it found\nc:3:12: [engine] instance: 'A' is not a name; write 1 to 32 of a-z, 0-9 and '-', not starting with '-'"),
    ("[[when]]\nhours = \"Mo\"\n[[when]]\nmax-pilots = 0\n[[when]]\nhours = \"Sat\"\nmax-pilot = 0\nmin-battery = 101", "c:2:9: [[when]] \"Mo\" hours: 'Mo' is no time of the week; write days, times or both, such as \"Mon-Fri 09:00-18:00\"\nc:3:1: [[when]] #2 has no hours; write one such as hours = \"Mon-Fri 09:00-18:00\"\nc:7:1: unknown key 'max-pilot' in [[when]] \"Sat\"; did you mean 'max-pilots'?\nc:8:15: [[when]] \"Sat\" min-battery: 101 is too much; write 100 or less"),
    ("[[pilot]]\n[[pilot]]\nname = \"A\"\nimage = \"a:\"", "c:1:1: [[pilot]] #1 has no image; write one such as image = \"builtin\" or \"busybox:1.36\"\nc:1:1: [[pilot]] #1 has no name; write one such as name = \"science\"\nc:3:8: [[pilot]] \"A\" name: 'A' is not a name; write 1 to 32 of a-z, 0-9 and '-', not starting with '-'\nc:4:9: [[pilot]] \"A\" image: image 'a:' has a bad tag; write up to 128 letters, digits, '_', '.' or '-'"),
    ("[[pilot]]\nname=\"a\"\nimage=\"b\"\n[[pilot]]\nname=\"a\"\nimage=\"b\"", "c:4:1: [[pilot]] \"a\": an earlier one has this name; give each its own"),
    ("[loop]\ninterval = 10s\nlaunches-per-tick = 0\n[share]\nsmt = yes\n", "c:2:12: not valid TOML: string values must be quoted, expected literal string\nc:3:21: [loop] launches-per-tick: 0 is too little; write 1 or more\nc:5:7: not valid TOML: string values must be quoted, expected literal string"),
    ("[loop]\n[loop]\n", "c:2:2: not valid TOML: duplicate key"),
    // What is missing may stand in the line that was not understood.
    ("[[pilot]]\nname \"a\"\n", "c:2:6: not valid TOML: key with no value, expected `=`"),
    ("ä = \"ö\" x", "c:1:1: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`"),
    ("[share]\n\"\\u001b\" = 1", "c:2:1: unknown key ' ' in [share]; 'plancton config --default' explains all there are"),
    ("[[influxdb]]\nurl = \"http://geheim:x@h#d\"\ntokn = \"x\"", "c:3:1: unknown key 'tokn' in [[influxdb]] #1; did you mean 'token'?"),
    ("[[influxdb]]\nurl = \"http://h#d\"\npassword = 77777", "c:3:12: [[influxdb]] #1 password: expected a string in quotes"),
    ("[[influxdb]]\nurl = \"http://h#d\"\nuser = \"u\"\npassword = \"***\"", "c:4:12: [[influxdb]] #1 password: '***' stands for a secret; write the secret itself"),
    ("[[influxdb]]\ndatabase = \"d\"", "c:1:1: [[influxdb]] #1 has no url; write one such as url = \"http://127.0.0.1:8086\""),
    ("[[influxdb]]\nurl = \"http://h#d\"\nflush = \"500ms\"", "c:3:9: [[influxdb]] #1 flush: \"500ms\" is too little; write \"1s\" or more"),
    ("[allow]\nca-file = \"a\"\nrefresh = \"8d\"", "c:2:11: [allow] ca-file: 'a' is not a path from the root; start it with '/' and leave out '..'\nc:3:11: [allow] refresh: \"8d\" is too much; write \"168h\" or less"),
];

/// A line of the pilot "a", and the only problem it has, without the beginning that all have.
#[rustfmt::skip]
const PILOT_PROBLEMS: [(&str, &str); 24] = [
    ("cpus = -1.5", "8: [[pilot]] \"a\" cpus: -1.5 is too little; write 0.01 or more"),
    ("memory = \"4MiB\"", "10: [[pilot]] \"a\" memory: \"4MiB\" is too little; write \"6MiB\" or more"),
    ("pids = 1", "8: [[pilot]] \"a\" pids: 1 is too little; write 8 or more"),
    ("ttl = \"0\"", "7: [[pilot]] \"a\" ttl: \"0\" is too little; write \"1s\" or more"),
    ("stop-grace = \"11m\"", "14: [[pilot]] \"a\" stop-grace: \"11m\" is too much; write \"10m\" or less"),
    ("weight = 0", "10: [[pilot]] \"a\" weight: 0 is too little; write 1 or more"),
    ("command = \"sleep 1\"", "11: [[pilot]] \"a\" command: invalid type: string \"sleep 1\", expected a list such as [\"a\", \"b\"]"),
    ("env = [1]", "7: [[pilot]] \"a\" env: invalid type: sequence, expected a table such as { NAME = \"value\" }"),
    ("env = { N = \"äöü\", M = 1 }", "24: [[pilot]] \"a\" env: invalid type: integer `1`, expected a string"),
    ("mounts = [\"/a:/b\", \"/a\"]", "20: [[pilot]] \"a\" mounts: mount '/a': write \"/host:/container\" or \"/host:/container:OPTIONS\""),
    ("mounts = [\"/a:/b:Z\"]", "11: [[pilot]] \"a\" mounts: mount '/a:/b:Z': unknown option 'Z'; write ro or rw, and perhaps one of private, rprivate, slave, rslave, shared, rshared"),
    ("mounts = [\"/a:/b/../..\"]", "11: [[pilot]] \"a\" mounts: '/b/../..' is not a path from the root; start it with '/' and leave out '..'"),
    ("tmpfs = [\"/tmp:ro\"]", "10: [[pilot]] \"a\" tmpfs: 'ro' is not a size; write it as a number with KiB, MiB, GiB or TiB, such as \"2GiB\""),
    ("devices = [\"/dev/a:/dev/b:rx\"]", "12: [[pilot]] \"a\" devices: device '/dev/a:/dev/b:rx': permissions 'rx' are not some of \"rwm\""),
    ("host-config = { nanocpus = 1 }", "15: [[pilot]] \"a\" host-config: 'nanocpus' is set by Plancton itself; use the key for it, or leave it out"),
    ("image = \"B\"", "1: not valid TOML: duplicate key"),
    ("labels = []", "1: unknown key 'labels' in [[pilot]] \"a\"; 'plancton config --default' explains all there are"),
    ("files = [\"/a\"]", "10: [[pilot]] \"a\" files: invalid type: string \"/a\", expected a table such as { source = \"/a\", target = \"/b\" }"),
    ("files = [{ source = \"/a\", tarjet = \"/b\" }]", "27: unknown key 'tarjet' in [[pilot]] \"a\"; did you mean 'target'?"),
    ("files = [{ source = \"/a\" }]", "10: [[pilot]] \"a\" files: missing field `target`"),
    ("files = [{ source = \"/a\", target = \"/b\", mode = \"0200\" }]", "49: [[pilot]] \"a\" files: mode '0200' is none that its user can read; write one such as \"0400\""),
    ("image-archive = \"a.tar\"", "17: [[pilot]] \"a\" image-archive: 'a.tar' is not a path from the root; start it with '/' and leave out '..'"),
    ("max = 1979-05-27", "7: [[pilot]] \"a\" max: invalid type: map, expected a whole number of 0 or more"),
    ("max = 0xfffffffff", "7: [[pilot]] \"a\" max: invalid value: integer `68719476735`, expected a whole number of 0 or more"),
];

#[test]
fn every_problem_has_its_place() {
    for (text, expected) in PROBLEMS {
        assert_eq!(problems(text), expected, "{text}");
    }
    for (line, expected) in PILOT_PROBLEMS {
        assert_eq!(problems(&pilot(line)), format!("c:4:{expected}"), "{line}");
    }
    for lines in [
        "user = \"nobody\"\nfiles = [{ source = \"/a\", target = \"/b\" }]",
        "files = [{ source = \"a\", target = \"/b\" }]",
    ] {
        assert!(problems(&pilot(lines)).starts_with("c:1:1: [[pilot]] \"a\": "));
    }
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

#[test]
fn what_does_not_go_together_in_a_target() {
    for (lines, why) in [
        ("url = \"http://h\"", "nowhere to write to"),
        (
            "url = \"http://h#d\"\nbucket = \"b\"",
            "database is for version 1 and bucket for version 2",
        ),
        (
            "url = \"http://h#d\"\ndatabase = \"b\"",
            "the url has a database too",
        ),
        (
            "url = \"http://u:geheim@h#d\"\nuser = \"v\"",
            "the url has a user too",
        ),
        (
            "url = \"http://u:geheim@h#d\"\npassword-file = \"/p\"",
            "password and password-file",
        ),
        (
            "url = \"http://h#d\"\npassword-file = \"/p\"",
            "a password without a user",
        ),
        (
            "url = \"http://u:geheim@h\"\nbucket = \"b\"",
            "user and password are for version 1; a bucket wants a token",
        ),
        (
            "url = \"http://h#d\"\ntoken = \"geheim\"",
            "a token is for version 2; a database wants user and password",
        ),
        (
            "url = \"http://h\"\nbucket = \"b\"\ntoken = \"geheim\"\ntoken-file = \"/t\"",
            "token and token-file",
        ),
        (
            "url = \"http://h\"\nbucket = \"b\"\nretention-policy = \"r\"",
            "retention-policy is for version 1; a bucket has its own",
        ),
        ("url = \"http://h#d\"\norg = \"o\"", "org is for version 2"),
        (
            "url = \"insecure_https://h#d\"\nca-file = \"/c\"",
            "ca-file is not looked at",
        ),
        ("url = \"geheim://h#d\"", "url: expects http://HOST:PORT"),
    ] {
        let problem = problems(&target(lines));
        let expected = format!("c:1:1: [[influxdb]] #1: {why}");
        assert!(
            problem.starts_with(&expected) && !problem.contains("geheim"),
            "{lines}: {problem}"
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
    for bad in [
        "",
        "Mon;",
        "Mo-Fri",
        "Mon-",
        "Mon 9-18",
        "Mon 09:00-25:00",
        "09:60-10:00",
        "+9:00-10:00",
        "09:00-09:00",
        "24:00-06:00",
        "Mon 09:00 - 18:00",
    ] {
        assert!(
            when::Hours::parse(bad)
                .unwrap_err()
                .contains("is no time of the week"),
            "{bad}"
        );
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
        assert_eq!(ImageRef::parse(&image.to_string()), Ok(image), "{text}");
    }
    let (long_tag, long_name) = (format!("a:{}", "t".repeat(129)), "a".repeat(256));
    let digest = format!("a@sha256:{}", "A".repeat(64));
    for (why, bad) in [
        ("no name", vec!["", ":tag", "@sha256:00"]),
        (
            "a bad name",
            vec![
                "[x]/a", "Busybox", "a//b", "a/", "/a", "a b", "-a", "a-", "a..b", "a___b", "a._b",
                "ä", "h:1/", "a:b:c", &long_name,
            ],
        ),
        ("a scheme", vec!["https://h/a"]),
        ("a bad tag", vec!["a:", "a:-x", &long_tag]),
        ("a bad digest", vec!["a@", "a@sha256:00", &digest]),
    ] {
        for text in bad {
            let expected = format!("image '{text}' has {why}");
            assert!(
                ImageRef::parse(text).unwrap_err().starts_with(&expected),
                "{text}"
            );
        }
    }
}
