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

/// What is between the bars of a line.
fn cells(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = table.trim().lines();
    lines.map(|line| line.split('|').map(str::trim).collect())
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
    for row in cells(
        "[share] cpuset | 4-7,9 | 1,
         [share] cpuset | 3 | +1
         [share] cpuset | 0,2 | 1 ,2
         [share] cpuset | 0-1 | 0-9999999
         [engine] socket | /run/x.sock | x.sock
         [engine] socket | unix:///run/x.sock | unix://x
         [engine] socket | | unix:/x",
    ) {
        let said = |value: &str| problems(&format!("{} = \"{value}\"", row[0].replace(' ', "\n")));
        assert_eq!(said(row[1]), "", "{row:?}");
        assert_ne!(said(row[row.len() - 1]), "", "{row:?}");
    }
}

#[test]
fn urls_of_targets() {
    // User, password and database come from the url where no key has them.
    for row in cells(
        "http://h:8086#db | http://h:8086,,,db,false
         http://u:p@h:8086#db | http://h:8086,u,p,db,false
         insecure_https://u:p%40%2f@h/influx/#d | https://h/influx,u,p@/,d,true
         https://u:a@b:c@[::1]:8086#d b | https://[::1]:8086,u,a@b:c,d b,false
         http://u:100%@h#d | http://h,u,100%,d,false",
    ) {
        let config = parse(&target(&format!("url = \"{}\"", row[0])), "c").unwrap();
        let found = &config.influxdb[0];
        let (password, insecure) = (found.password.0.as_str(), found.insecure.to_string());
        let parts = [
            &found.url,
            &found.user,
            password,
            &found.database,
            &insecure,
        ];
        assert_eq!(parts.join(","), row[1]);
        assert!(!format!("{config:?}{}", config.to_toml()).contains("p@/"));
    }
    for bad in "|h:8086#d|ftp://h#d|http://#d|http://:8086#d|http://h o#d|http://h/?db=x|https:/h"
        .split('|')
    {
        let said = problems(&target(&format!("url = \"{bad}\"")));
        assert!(said.contains("expects http://HOST:PORT"), "{bad}");
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
    let mounts = [&pilot.mounts[0], &pilot.mounts[1]];
    let shown = mounts.map(ToString::to_string);
    assert_eq!(shown, ["/a:/b:ro", "/c:/d:rw,rslave"]);
    let read_only = mounts.map(values::Mount::is_read_only);
    assert_eq!(read_only, [true, false]);
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
    for row in cells(
        "0 8 | Auto Fixed(6.5) Pause None
         0 9 | Fixed(1) Auto Stop Some(false)
         4 23 | Fixed(2) Fixed(6.5) Pause Some(true)
         5 5 | Fixed(2) Auto Stop Some(true)
         5 7 | Fixed(1) Auto Stop Some(false)",
    ) {
        let (weekday, hour) = row[0].split_once(' ').unwrap();
        let minute = hour.parse::<u16>().unwrap() * 60;
        let (share, owner, last) = config.effective(weekday.parse().unwrap(), minute);
        let last = last.map(|hours| hours.starts_with("Fri"));
        let (pilots, cpus, battery) = (share.max_pilots, share.cpus, owner.on_battery);
        assert_eq!(format!("{pilots:?} {cpus:?} {battery:?} {last:?}"), row[1]);
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
        let mut document: Table = toml::from_str(text).unwrap();
        document.remove("when");
        let first = |value: Value| value.get(0).cloned().unwrap_or(value);
        let tables = document
            .into_iter()
            .map(|(name, value)| (name, first(value)));
        let keys = |(name, table): (String, Value)| {
            let keys: Vec<String> = table.as_object().unwrap().keys().cloned().collect();
            format!("{name}: {}", keys.join(" "))
        };
        tables.map(keys).collect()
    };
    assert_eq!(keys(&text), keys(&whole.to_toml()));
}

#[test]
fn hours_of_the_week() {
    // A stretch over midnight belongs to the day it starts on.
    for row in cells(
        "Mon-Fri 09:00-18:00 | 0 9:00, 4 17:59 | 0 8:59, 4 18:00, 5 12:00
         Sat,Sun | 6 23:59, 5 0:00 | 0 0:00
         Fri-Mon | 0 12:00, 4 0:00 | 1 12:00
         22:00-06:00 | 0 23:00, 0 5:59 | 0 6:00
         Fri 22:00-06:00 | 4 22:00, 5 5:59 | 4 5:00, 5 22:00
         Sun 22:00-06:00 | 0 1:00 | 6 1:00
         sat 20:00-24:00 | 5 23:59 | 6 0:00
         always | 0 0:00, 6 23:59 | 
         Mon 8:00-9:30; Sat,Sun | 6 3:00, 0 9:29 | 0 9:30",
    ) {
        for (moments, expected) in [(row[1], true), (row[2], false)] {
            for moment in moments.split(", ").filter(|moment| !moment.is_empty()) {
                let parts = moment.split([' ', ':']).map(str::parse);
                let parts: Vec<usize> = parts.map(Result::unwrap).collect();
                let minute = (parts[0] * 24 + parts[1]) * 60 + parts[2];
                assert_eq!(in_hours(row[0], minute), Some(expected), "{row:?}");
            }
        }
    }
    let bad = ",Mon;,Mo-Fri,Mon-,Mon 9-18,Mon 09:00-25:00,09:60-10:00,+9:00-10:00,09:00-09:00,24:00-06:00,Mon 09:00 - 18:00";
    for bad in bad.split(',') {
        assert_eq!(in_hours(bad, 0), None, "{bad}");
    }
}

#[test]
fn image_references() {
    let sha = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
    let table = "busybox | docker.io | busybox | latest
                 a/b:1.2-x_Y | docker.io | a/b | 1.2-x_Y
                 localhost:5000/a/b:tag | localhost:5000 | localhost:5000/a/b | tag
                 localhost/a | localhost | localhost/a | latest
                 registry.example.org/a | registry.example.org | registry.example.org/a | latest
                 [::1]:5000/a:t | [::1]:5000 | [::1]:5000/a | t
                 HOST/a | HOST | HOST/a | latest
                 a__b/c--d.e_f:t | docker.io | a__b/c--d.e_f | t
                 h:1/a@SHA | h:1 | h:1/a | SHA
                 a:t@SHA | docker.io | a | SHA"
        .replace("SHA", sha);
    for row in cells(&table) {
        let image = Image::parse(row[0]).unwrap();
        let found = [image.registry(), image.name.as_str(), image.tag.as_str()];
        assert_eq!(found, row[1..]);
        assert_eq!(Image::parse(&image.to_string()), Some(image));
    }
    let (long_tag, long_name) = (format!("a:{}", "t".repeat(129)), "a".repeat(256));
    let digest = format!("a@sha256:{}", "A".repeat(64));
    let bad = " :tag @sha256:00 [x]/a Busybox a//b a/ /a -a ä h:1/ a:b:c https://h/a a: a:-x a@ a@sha256:00";
    for text in bad
        .split(' ')
        .chain([&*long_tag, &long_name, &digest, "a b"])
    {
        assert_eq!(Image::parse(text), None, "{text}");
    }
}
