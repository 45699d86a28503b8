//! Whole configurations: exact problems with their places, conf/plancton.toml in step with the code, and the way back to text.

use super::*;
use crate::units::Bytes;
use std::time::Duration;

fn problems(text: &str) -> Vec<String> {
    parse(text, "c").err().unwrap_or_default()
}

/// A pilot with one more line.
fn pilot(line: &str) -> String {
    format!("[[pilot]]\nname = \"a\"\nimage = \"builtin\"\n{line}\n")
}

#[test]
fn empty_is_default() {
    assert_eq!(parse("", "c"), Ok(Config::default()));
    assert_eq!(parse("\u{feff}# nothing\r\n", "c"), Ok(Config::default()));
    assert!(Config::default().pilots.is_empty());
}

/// Text, and the only problem it has.
#[rustfmt::skip]
const TABLE_PROBLEMS: [(&str, &str); 23] = [
    ("[loop]\n  interval = 30", "c:2:14: [loop] interval: expects a duration such as \"30s\", found integer 30"),
    ("[loop]\ninterval = \"-5s\"", "c:2:12: [loop] interval: '-5s' is not a duration; write it as a number with s, m, h or d, such as \"30s\" or \"1h30m\""),
    ("[loop]\ninterval = \"500ms\"", "c:2:12: [loop] interval: \"500ms\" is out of range; write a value from \"1s\" to \"1h\""),
    ("[loop]\nlaunches-per-tick = -1", "c:2:21: [loop] launches-per-tick: expects a whole number of 0 or more, found integer -1"),
    ("[loop]\nlaunches-per-tick = 65", "c:2:21: [loop] launches-per-tick: 65 is out of range; write a value from 1 to 64"),
    ("[share]\nreserve-cpu = 1", "c:2:1: unknown key 'reserve-cpu' in [share]; did you mean 'reserve-cpus'?"),
    ("[share]\ninterval = \"10s\"", "c:2:1: unknown key 'interval' in [share]; 'interval' belongs into [loop]"),
    ("[share]\nwallpaper = 1", "c:2:1: unknown key 'wallpaper' in [share]; 'plancton config --default' explains all there are"),
    ("[shares]\ncpus = 1", "c:1:2: unknown table 'shares'; did you mean [share]?"),
    ("[[pilots]]\nname = \"a\"", "c:1:3: unknown table 'pilots'; did you mean [[pilot]]?"),
    ("cpus = 1", "c:1:1: unknown table 'cpus'; 'cpus' belongs into [share]"),
    ("share = 1", "c:1:9: [share] expects one table, found integer 1"),
    ("[[share]]\ncpus = 1", "c:1:1: [share] expects one table, found a list"),
    ("[pilot]\nname = \"a\"", "c:1:1: [[pilot]] expects double brackets, found a table"),
    ("pilot = [1]", "c:1:10: [[pilot]] expects double brackets, found integer 1"),
    ("[share]\ncpus = 0", "c:2:8: [share] cpus: 0 is out of range; write a value from 0.01 to 8192, or \"auto\""),
    ("[share]\nreserve-cpus = -0.5", "c:2:16: [share] reserve-cpus: -0.5 is out of range; write a value from 0 to 8192, or \"auto\""),
    ("[share]\ncpus = \"all\"", "c:2:8: [share] cpus: expects \"auto\" or a number of cores, found string \"all\""),
    ("[share]\ncpus = nan", "c:2:8: [share] cpus: expects \"auto\" or a number of cores, found float nan"),
    ("[share]\nreserve-memory = 2", "c:2:18: [share] reserve-memory: expects a size such as \"2GiB\", found integer 2"),
    ("[share]\nmissing-limits = \"igno\\nre\"", "c:2:18: [share] missing-limits: expects \"refuse\" or \"warn\", found string \"igno\\nre\""),
    ("[owner]\npause-while-running = [\"x\", 3, [], \"/usr/bin/x\"]", "c:2:29: [owner] pause-while-running: expects a string such as \"abc\", found integer 3\nc:2:32: [owner] pause-while-running: expects a string such as \"abc\", found a list"),
    ("[engine]\nsocket = \"tcp://h:1\"", "c:2:10: [engine] socket: 'tcp://h:1' is not a Unix socket; write \"/path\" or \"unix:///path\", or \"\" to have it found"),
];

#[test]
fn problems_of_single_tables() {
    for (text, expected) in TABLE_PROBLEMS {
        assert_eq!(problems(text).join("\n"), expected, "{text}");
    }
}

/// A line of the pilot "a" (line 4 of the text), and the only problem it has, without the beginning that all have.
#[rustfmt::skip]
const PILOT_PROBLEMS: [(&str, &str); 25] = [
    ("cpus = 0", "8: [[pilot]] \"a\" cpus: 0 is out of range; write a value from 0.01 to 8192"),
    ("cpus = -1.5", "8: [[pilot]] \"a\" cpus: -1.5 is out of range; write a value from 0.01 to 8192"),
    ("memory = \"4MiB\"", "10: [[pilot]] \"a\" memory: \"4MiB\" is too little; write \"6MiB\" or more"),
    ("memory = \"0\"", "10: [[pilot]] \"a\" memory: \"0\" is too little; write \"6MiB\" or more"),
    ("pids = 1", "8: [[pilot]] \"a\" pids: 1 is too little; write 8 or more"),
    ("ttl = \"0\"", "7: [[pilot]] \"a\" ttl: \"0s\" is too little; write \"1s\" or more"),
    ("stop-grace = \"11m\"", "14: [[pilot]] \"a\" stop-grace: \"11m\" is out of range; write a value from \"0s\" to \"10m\""),
    ("weight = 0", "10: [[pilot]] \"a\" weight: 0 is out of range; write a value from 1 to 1000"),
    ("command = \"sleep 1\"", "11: [[pilot]] \"a\" command: expects a list such as [\"a\", \"b\"], found string \"sleep 1\""),
    ("env = [1]", "7: [[pilot]] \"a\" env: expects a table such as { NAME = \"value\" }, found a list"),
    ("env = { N = 1 }", "13: [[pilot]] \"a\" env: expects a string such as \"abc\", found integer 1"),
    ("mounts = [\"/a\"]", "11: [[pilot]] \"a\" mounts: mount '/a' has no path in the container; write \"/host:/container\""),
    ("host-config = { nanocpus = 1 }", "15: [[pilot]] \"a\" host-config: 'nanocpus' is set by Plancton itself; use the key for it, or leave it out"),
    ("host-config = { Memory = 1 }", "15: [[pilot]] \"a\" host-config: 'Memory' is set by Plancton itself; use the key for it, or leave it out"),
    ("host-config = { CpusetCpus = \"0\" }", "15: [[pilot]] \"a\" host-config: 'CpusetCpus' is set by Plancton itself; use the key for it, or leave it out"),
    ("host-config = { X = { y = [inf] } }", "28: [[pilot]] \"a\" host-config: expects a number such as 1.5, found float inf"),
    ("host-config = { X = 99999999999999999999 }", "21: [[pilot]] \"a\" host-config: 99999999999999999999 is too large a number"),
    ("image = \"B\"", "1: not valid TOML: duplicate key"),
    ("cpu = 1", "1: unknown key 'cpu' in [[pilot]] \"a\"; did you mean 'cpus'?"),
    ("labels = []", "1: unknown key 'labels' in [[pilot]] \"a\"; 'plancton config --default' explains all there are"),
    ("files = [\"/a\"]", "10: [[pilot]] \"a\" files: expects a table such as { source = \"/a\", target = \"/b\", mode = \"0400\" }, found string \"/a\""),
    ("image-archive = \"a.tar\"", "17: [[pilot]] \"a\" image-archive: 'a.tar' in 'a.tar' is not a path from the root; start it with '/' and leave out '..'"),
    ("pausable = \"yes\"", "12: [[pilot]] \"a\" pausable: expects true or false, found string \"yes\""),
    ("max = 1979-05-27", "7: [[pilot]] \"a\" max: expects a whole number of 0 or more, found date 1979-05-27"),
    ("max = 0xfffffffff", "7: [[pilot]] \"a\" max: expects a whole number of 0 or more, found integer 0xfffffffff"),
];

#[test]
fn problems_of_pilots() {
    for (line, expected) in PILOT_PROBLEMS {
        let found = problems(&pilot(line)).join("\n");
        assert_eq!(found, format!("c:4:{expected}"), "{line}");
    }
}

#[test]
fn problems_between_keys() {
    let two = pilot("") + &pilot("");
    let files = pilot("user = \"nobody\"\nfiles = [{ source = \"/a\", target = \"/b\" }]");
    let no_name = "[[pilot]]\n[[pilot]]\nname = \"A\"\nimage = \"a:\"\n";
    for (text, expected) in [
        (
            two.as_str(),
            "c:6:8: [[pilot]] \"a\" name: an earlier [[pilot]] has this name; give each its own",
        ),
        (
            files.as_str(),
            "c:1:1: [[pilot]] \"a\" files: copies belong to the pilot's user, so write user as numbers, \"UID:GID\"",
        ),
        (
            no_name,
            "c:1:1: [[pilot]] #1 has no image; write one such as image = \"builtin\" or \"busybox:1.36\"\n\
             c:1:1: [[pilot]] #1 has no name; write one such as name = \"science\"\n\
             c:3:8: [[pilot]] \"A\" name: 'A' is not a name; write 1 to 32 of a-z, 0-9 and '-', not starting with '-'\n\
             c:4:9: [[pilot]] \"A\" image: image 'a:' has a bad tag; write up to 128 letters, digits, '_', '.' or '-'",
        ),
    ] {
        assert_eq!(problems(text).join("\n"), expected, "{text}");
    }
}

#[test]
fn problems_of_hours() {
    let text = "[[when]]\nhours = \"Mo\"\n[[when]]\nmax-pilots = 0\n[[when]]\nhours = \"Sat\"\nmax-pilot = 0\nbusy-for = 3\ninterval = \"1s\"\n";
    assert_eq!(
        problems(text),
        [
            "c:2:9: [[when]] \"Mo\" hours: 'Mo' is no time of the week; write days, times or both, such as \"Mon-Fri 09:00-18:00\"",
            "c:3:1: [[when]] #2 has no hours; write one such as hours = \"Mon-Fri 09:00-18:00\"",
            "c:7:1: unknown key 'max-pilot' in [[when]] \"Sat\"; did you mean 'max-pilots'?",
            "c:8:12: [[when]] \"Sat\" busy-for: expects a duration such as \"30s\", found integer 3",
            "c:9:1: unknown key 'interval' in [[when]] \"Sat\"; 'interval' belongs into [loop]",
        ]
    );
}

#[test]
fn syntax_errors_beside_other_problems() {
    for (text, expected) in [
        (
            "[loop]\ninterval = 10s\nlaunches-per-tick = 0\n[share]\nsmt = yes\n",
            "c:2:12: not valid TOML: string values must be quoted, expected literal string\n\
             c:3:21: [loop] launches-per-tick: 0 is out of range; write a value from 1 to 64\n\
             c:5:7: not valid TOML: string values must be quoted, expected literal string",
        ),
        ("[loop]\n[loop]\n", "c:2:2: not valid TOML: duplicate key"),
        // What is missing may stand in the line that was not understood.
        (
            "[[pilot]]\nname \"a\"\n",
            "c:2:6: not valid TOML: key with no value, expected `=`",
        ),
        (
            "ä = \"ö\" x",
            "c:1:1: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`",
        ),
        (
            "[share]\n\"\\u001b\" = 1",
            "c:2:1: unknown key ' ' in [share]; 'plancton config --default' explains all there are",
        ),
    ] {
        assert_eq!(problems(text).join("\n"), expected, "{text}");
    }
}

#[test]
fn the_nearest_key() {
    for (name, expected) in [
        ("reserve-cpu", Some("reserve-cpus")),
        ("reserve_memory", Some("reserve-memory")),
        ("maxpilots", Some("max-pilots")),
        ("CPUs", None),
        ("wallpaper", None),
    ] {
        assert_eq!(
            crate::units::nearest(name, Share::KEYS.iter().copied()),
            expected,
            "{name}"
        );
    }
}

#[test]
fn columns_count_characters() {
    let text = pilot("env = { N = \"äöü\", M = 1 }");
    assert_eq!(
        problems(&text),
        ["c:4:24: [[pilot]] \"a\" env: expects a string such as \"abc\", found integer 1"]
    );
}

#[test]
fn cpu_lists() {
    for (text, expected) in [
        ("", Some(vec![])),
        ("4-7,9", Some(vec![4, 5, 6, 7, 9])),
        ("3,1,1-2", Some(vec![1, 2, 3])),
        ("7-4", None),
        ("a", None),
        ("1,", None),
        ("-1", None),
        ("+1", None),
        ("1 ,2", None),
        ("0-9999999", None),
    ] {
        assert_eq!(parse_cpuset(text).ok(), expected, "{text}");
    }
    let error = problems("[share]\ncpuset = \"7-4\"").join("\n");
    assert_eq!(
        error,
        "c:2:10: [share] cpuset: '7-4' is not a list of CPU numbers up to 8191; write one such as \"4-7,9\", or \"\" for any"
    );
}

#[test]
fn sockets() {
    for good in ["", "/run/x.sock", "unix:///run/x.sock"] {
        let config = parse(&format!("[engine]\nsocket = \"{good}\""), "c").unwrap();
        assert_eq!(config.engine.socket, good);
    }
    for bad in ["x.sock", "unix://", "unix://x", "tcp://h:1", "unix:/x"] {
        assert_eq!(
            problems(&format!("[engine]\nsocket = \"{bad}\"")).len(),
            1,
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
mounts = ["/a:/b", "/c:/d:rw,rslave"]
tmpfs = ["/tmp:64MiB"]
devices = ["/dev/fuse"]
cap-add = ["SYS_PTRACE"]
[pilot.host-config]
ShmSize = 67108864
SecurityOpt = ["a=b"]
Sysctls = { "net.x" = "1", deep = [{ a = 1.0, b = true, c = 1979-05-27 }], none = {} }
[[pilot]]
name = "builtin"
image = "builtin"
"#;

#[test]
fn values_arrive() {
    let config = parse(FULL, "c").unwrap();
    assert_eq!(config.loop_.interval, Duration::from_secs(90));
    assert_eq!(config.share.cpus, Auto::Fixed(6.5));
    assert_eq!(config.owner.when_busy, WhenBusy::Pause);
    assert_eq!(config.pilots[1], PilotClass::default());
    let pilot = &config.pilots[0];
    assert_eq!(pilot.image.to_string(), "localhost:5000/a/b:latest");
    assert_eq!(pilot.memory, Bytes((1 << 30) + 1));
    assert_eq!(pilot.env["PATH"], "/bin");
    assert_eq!(pilot.mounts[1].propagation, "rslave");
    assert_eq!(pilot.tmpfs[0].size, Some(Bytes(64 << 20)));
    let json = r#"{"SecurityOpt":["a=b"],"ShmSize":67108864,"Sysctls":{"deep":[{"a":1.0,"b":true,"c":"1979-05-27"}],"net.x":"1","none":{}}}"#;
    assert_eq!(pilot.host_config.to_string(), json);
}

#[test]
fn written_and_read_back() {
    for text in ["", FULL] {
        let config = parse(text, "c").unwrap();
        let written = config.to_toml();
        assert_eq!(parse(&written, "c"), Ok(config.clone()), "{written}");
        assert_eq!(parse(&written, "c").unwrap().to_toml(), written);
    }
    let written = Config::default().to_toml();
    assert!(
        written.starts_with(
            "[loop]\ninterval = \"10s\"\nlaunches-per-tick = 4\n\n[share]\ncpus = \"auto\"\n"
        ),
        "{written}"
    );
}

#[test]
fn later_hours_win_key_by_key() {
    let config = parse(FULL, "c").unwrap();
    let (mon, fri, sat) = (0, 4, 5);
    for (weekday, minute, max_pilots, cpus, on_battery, last) in [
        (
            mon,
            8 * 60,
            Auto::Auto,
            Auto::Fixed(6.5),
            OnBattery::Pause,
            None,
        ),
        (
            mon,
            9 * 60,
            Auto::Fixed(1),
            Auto::Auto,
            OnBattery::Stop,
            Some(0),
        ),
        (
            fri,
            23 * 60,
            Auto::Fixed(2),
            Auto::Fixed(6.5),
            OnBattery::Pause,
            Some(1),
        ),
        (
            sat,
            5 * 60,
            Auto::Fixed(2),
            Auto::Auto,
            OnBattery::Stop,
            Some(1),
        ),
        (
            sat,
            7 * 60,
            Auto::Fixed(1),
            Auto::Auto,
            OnBattery::Stop,
            Some(0),
        ),
    ] {
        let (share, owner, index) = config.effective(weekday, minute);
        let found = (share.max_pilots, share.cpus, owner.on_battery, index);
        assert_eq!(
            found,
            (max_pilots, cpus, on_battery, last),
            "{weekday} {minute}"
        );
        assert_eq!(share.cpuset, "4-7,9");
    }
}

/// The commented keys and table headers of conf/plancton.toml as TOML.
fn uncommented() -> String {
    let is_key = |line: &str| {
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        !key.is_empty() && key.chars().all(plain)
    };
    let mut text = String::new();
    for line in DEFAULT_TEXT.lines() {
        let bare = line
            .strip_prefix("# ")
            .filter(|bare| is_key(bare) || bare.starts_with("[["));
        text.push_str(bare.unwrap_or(line));
        text.push('\n');
    }
    text
}

#[test]
fn shipped_text_is_in_step_with_the_code() {
    assert_eq!(parse(DEFAULT_TEXT, "conf"), Ok(Config::default()));
    let text = uncommented();
    let mut config = parse(&text, "conf").unwrap();
    assert_eq!(std::mem::take(&mut config.pilots), [PilotClass::default()]);
    // One of two keys is required; it has no default.
    let sink = Influx {
        database: "plancton".to_owned(),
        ..Influx::default()
    };
    assert_eq!(std::mem::take(&mut config.influxdb), [sink]);
    let whens = std::mem::take(&mut config.when);
    assert_eq!(
        (whens.len(), whens[0].keys.as_slice()),
        (1, ["max-pilots", "on-battery"].as_slice())
    );
    assert_eq!(config, Config::default());

    let document = DeTable::parse(&text).unwrap().into_inner();
    let tables = [
        ("loop", Loop::KEYS),
        ("share", Share::KEYS),
        ("owner", Owner::KEYS),
        ("engine", EngineKeys::KEYS),
        ("pilot", PilotClass::KEYS),
        ("influxdb", Influx::KEYS),
        ("allow", Allow::KEYS),
    ];
    for (name, keys) in tables {
        let value = document.get(name).unwrap().get_ref();
        let table = value
            .as_array()
            .map_or(value, |list| list.iter().next().unwrap().get_ref())
            .as_table()
            .unwrap();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        let found: Vec<&str> = table.keys().map(|key| key.get_ref().as_ref()).collect();
        assert_eq!(found, expected, "[{name}]");
    }
}

#[test]
fn each_key_of_the_shipped_text_is_explained() {
    let text = uncommented();
    let (mut before, mut table, mut keys) = ("", "", 0);
    for line in text.lines() {
        if line.starts_with('[') {
            table = line;
        } else if line.contains(" = ") && !line.starts_with('#') && table != "[[when]]" {
            assert!(before.starts_with("# "), "{table} {line}");
            keys += 1;
        }
        before = line;
    }
    let known = [
        Loop::KEYS,
        Share::KEYS,
        Owner::KEYS,
        EngineKeys::KEYS,
        PilotClass::KEYS,
        Influx::KEYS,
        Allow::KEYS,
    ];
    assert_eq!(keys, known.concat().len());
}
