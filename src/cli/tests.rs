//! Tables: arguments and what they mean.

use super::*;

fn run(line: &str) -> Result<Cli, Usage> {
    parse(line.split_whitespace().map(OsString::from))
}

/// Each line with the command as `{:?}` shows it.
const COMMANDS: &[(&str, &str)] = &[
    ("", "Help(None)"),
    ("help", "Help(None)"),
    ("--help", "Help(None)"),
    ("-h", "Help(None)"),
    ("help drain", "Help(Some(\"drain\"))"),
    ("drain --help", "Help(Some(\"drain\"))"),
    ("--help drain", "Help(Some(\"drain\"))"),
    ("snooze -h", "Help(Some(\"snooze\"))"),
    ("help help", "Help(Some(\"help\"))"),
    ("--version", "Version"),
    ("-V", "Version"),
    ("try", "Try { duration: None }"),
    ("try --for 60s", "Try { duration: Some(60s) }"),
    ("--for=1m try", "Try { duration: Some(60s) }"),
    (
        "run",
        "Run { once: false, dry_run: false, drain: false, record: None }",
    ),
    (
        "run --once --dry-run --drain --record x.jsonl",
        "Run { once: true, dry_run: true, drain: true, record: Some(\"x.jsonl\") }",
    ),
    ("start", "Start"),
    ("stop", "Stop"),
    ("status", "Status { json: false, watch: false }"),
    ("status --json", "Status { json: true, watch: false }"),
    ("--watch status", "Status { json: false, watch: true }"),
    ("why", "Why"),
    ("health", "Health"),
    ("drain", "Drain { stop: false, by: None }"),
    (
        "drain --stop --by 18:00",
        "Drain { stop: true, by: Some(\"18:00\") }",
    ),
    ("resume", "Resume"),
    ("snooze 2h", "Snooze(7200s)"),
    ("force-stop", "ForceStop"),
    ("kill plancton-a-1", "Kill(\"plancton-a-1\")"),
    ("log", "Log(None)"),
    ("log plancton-a-1", "Log(Some(\"plancton-a-1\"))"),
    ("pull", "Pull"),
    ("kill -- -odd", "Kill(\"-odd\")"),
    ("check", "Check { offline: false }"),
    ("check --offline", "Check { offline: true }"),
    ("config", "Config { default: false }"),
    ("config --default", "Config { default: true }"),
    ("replay x", "Replay(\"x\")"),
    ("history", "History { days: 14, json: false, csv: false }"),
    (
        "history --days 3 --csv",
        "History { days: 3, json: false, csv: true }",
    ),
    (
        "history --json",
        "History { days: 14, json: true, csv: false }",
    ),
    ("report", "Report(\"plancton-report.html\")"),
    ("report -", "Report(\"-\")"),
    ("report a.html", "Report(\"a.html\")"),
    (
        "join https://h/c.toml",
        "Join { url: \"https://h/c.toml\", key: None, yes: false }",
    ),
    (
        "join --yes --key RWx https://h/c",
        "Join { url: \"https://h/c\", key: Some(\"RWx\"), yes: true }",
    ),
    ("accept", "Accept { yes: false }"),
    ("accept --yes", "Accept { yes: true }"),
    ("leave", "Leave"),
    ("reap", "Reap"),
    ("purge", "Purge { dry_run: false, keep_state: false }"),
    (
        "purge --dry-run",
        "Purge { dry_run: true, keep_state: false }",
    ),
    (
        "purge --keep-state",
        "Purge { dry_run: false, keep_state: true }",
    ),
    ("pilot", "Pilot { duration: 20s, from: None, to: None }"),
    (
        "pilot --for 5s --from 10_000 --to 20000",
        "Pilot { duration: 5s, from: Some(10000), to: Some(20000) }",
    ),
];

#[test]
fn commands() {
    for (line, expected) in COMMANDS {
        let command = run(line).map(|cli| format!("{:?}", cli.command));
        assert_eq!(command.as_deref(), Ok(*expected), "{line}");
    }
    for topic in help::TOPICS {
        let tried = COMMANDS
            .iter()
            .any(|(line, _)| line.split(' ').any(|word| word == topic.name));
        assert!(tried, "{} is in the table", topic.name);
    }
}

#[test]
fn options_before_and_after() {
    for line in [
        "--config c.toml --engine unix:///e --instance i --run-dir r --state-dir s -vv -q status",
        "status -qvv --config=c.toml --engine unix:///e --instance=i --run-dir r --state-dir s",
        "--config other --config c.toml -v status --engine unix:///e -v --instance i -q --run-dir r --state-dir s",
    ] {
        let options = run(line).unwrap().options;
        let expected = Options {
            config: Some("c.toml".into()),
            engine: Some("unix:///e".to_owned()),
            instance: Some("i".to_owned()),
            run_dir: Some("r".into()),
            state_dir: Some("s".into()),
            verbosity: 1,
        };
        assert_eq!(options, expected, "{line}");
    }
    assert_eq!(run("-qqq stop").unwrap().options.verbosity, -3);
}

const ERRORS: &[(&str, &str)] = &[
    (
        "stauts",
        "there is no command 'stauts'; did you mean status; see `plancton help`",
    ),
    (
        "snoze 1h",
        "there is no command 'snoze'; did you mean snooze; see `plancton help`",
    ),
    ("xyzzy", "there is no command 'xyzzy'; see `plancton help`"),
    (
        "help stat",
        "there is no command 'stat'; did you mean status; see `plancton help`",
    ),
    (
        "status --jason",
        "there is no option --jason; did you mean --json; see `plancton help status`",
    ),
    (
        "--confg x status",
        "there is no option --confg; did you mean --config; see `plancton help`",
    ),
    (
        "status --stop",
        "`status` has no option --stop; see `plancton help status`",
    ),
    ("-x status", "there is no option -x; see `plancton help`"),
    (
        "snooze -5m",
        "there is no option -5, and a duration can't be negative; see `plancton help snooze`",
    ),
    ("snooze", "DURATION is missing; see `plancton help snooze`"),
    ("kill", "PILOT is missing; see `plancton help kill`"),
    (
        "snooze 2h 3h",
        "'3h' is one word too many; see `plancton help snooze`",
    ),
    (
        "stop now",
        "'now' is one word too many; see `plancton help stop`",
    ),
    (
        "snooze 0",
        "a duration of zero does nothing; see `plancton help snooze`",
    ),
    (
        "pilot --from -3",
        "--from '-3' is not a whole number; see `plancton help pilot`",
    ),
    (
        "status --config",
        "--config needs a value: --config FILE; see `plancton help status`",
    ),
    (
        "report a b",
        "'b' is one word too many; see `plancton help report`",
    ),
    (
        "-v",
        "which command? there are only options; see `plancton help`",
    ),
];

#[test]
fn errors_name_the_nearest() {
    for (line, message) in ERRORS {
        assert_eq!(run(line).unwrap_err().to_string(), *message, "{line}");
    }
    for line in ["status --json=1", "try --for soon", "snooze 1y"] {
        let text = run(line).unwrap_err().to_string();
        assert!(text.contains("; see `plancton help"), "{text}");
    }
    assert_eq!(Exit::Usage.code(), 64);
}

#[test]
fn not_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![b'a', 0xff]);
    let path = parse([OsString::from("replay"), bad()]).unwrap();
    assert_eq!(path.command, Command::Replay(bad().into()));
    assert!(parse([OsString::from("kill"), bad()]).is_err());
    assert!(parse([bad()]).is_err());
}

#[test]
fn times() {
    let now: Zoned = "2026-03-28T20:00:00+01:00[+01:00]".parse().unwrap();
    let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
    for (text, expected) in [
        ("21:30", at("2026-03-28T21:30:00+01:00")),
        ("18:00", at("2026-03-29T18:00:00+01:00")),
        ("20:00", at("2026-03-29T20:00:00+01:00")),
        ("6:05", at("2026-03-29T06:05:00+01:00")),
        ("2h", at("2026-03-28T22:00:00+01:00")),
        ("0", at("2026-03-28T20:00:00+01:00")),
        ("2026-04-01T00:00:00Z", at("2026-04-01T00:00:00Z")),
    ] {
        let seconds = parse_by(text, &now).unwrap();
        assert!(
            (seconds - expected as f64).abs() < 0.001,
            "{text}: {seconds}"
        );
    }
    for bad in [
        "",
        "tomorrow 06:00",
        "24:00",
        "12:60",
        "12:5",
        ":30",
        "-1:00",
        "+1:00",
        "noon",
    ] {
        let error = parse_by(bad, &now).unwrap_err();
        assert!(
            error.contains("is not a time; write 18:00"),
            "{bad}: {error}"
        );
    }
    assert!(
        parse_by("2026-01-01T00:00:00Z", &now)
            .unwrap_err()
            .contains("is over already")
    );
}

#[test]
fn distances() {
    for (a, b, expected) in [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("cpu", "cpus", 1),
        ("kitten", "sitting", 3),
        ("ä", "a", 1),
    ] {
        assert_eq!(words::distance(a, b), expected, "{a} {b}");
    }
}
