//! Tables: arguments and what they mean.

use super::*;

fn run(line: &str) -> Result<Options, String> {
    parse(line.split_whitespace().map(OsString::from))
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

type Set = fn(&mut Options);

const LINES: [(&str, &str, Set); 32] = [
    ("", "help", |_| {}),
    ("help", "help", |_| {}),
    ("-h", "help", |o| o.argument = Some("".into())),
    ("help drain", "help", |o| o.argument = Some("drain".into())),
    ("drain -h", "help", |o| o.argument = Some("drain".into())),
    ("--help drain", "help", |o| {
        o.argument = Some("drain".into())
    }),
    ("-V", "version", |_| {}),
    ("try --for 60s", "try", |o| o.duration = seconds(60)),
    ("--for=1m try", "try", |o| o.duration = seconds(60)),
    ("run --once --dry-run", "run", |o| {
        (o.once, o.dry_run) = (true, true);
    }),
    ("run --drain --record x", "run", |o| {
        (o.drain, o.record) = (true, Some("x".into()));
    }),
    ("status --json", "status", |o| o.json = true),
    ("--watch status", "status", |o| o.watch = true),
    ("drain --stop --by 18:00", "drain", |o| {
        (o.stop, o.by) = (true, Some("18:00".to_owned()));
    }),
    ("snooze 2h", "snooze", |o| {
        (o.argument, o.duration) = (Some("2h".into()), seconds(7200));
    }),
    ("kill a", "kill", |o| o.argument = Some("a".into())),
    ("kill -- -odd", "kill", |o| o.argument = Some("-odd".into())),
    ("log", "log", |_| {}),
    ("log a", "log", |o| o.argument = Some("a".into())),
    ("check --offline", "check", |o| o.offline = true),
    ("config --default", "config", |o| o.default = true),
    ("replay x", "replay", |o| o.argument = Some("x".into())),
    ("history --days 3", "history", |o| o.days = Some(3)),
    ("report -", "report", |o| o.argument = Some("-".into())),
    ("join --key K --yes u", "join", |o| {
        (o.key, o.yes) = (Some("K".to_owned()), true);
        o.argument = Some("u".into());
    }),
    ("purge --keep-state", "purge", |o| o.keep_state = true),
    ("pilot --from 10_000 --to 20000", "pilot", |o| {
        (o.from, o.to) = (Some(10_000), Some(20_000));
    }),
    ("--config other --config c stop", "stop", |o| {
        o.config = Some("c".into());
    }),
    ("stop --engine unix:///e --instance=i", "stop", |o| {
        o.engine = Some("unix:///e".to_owned());
        o.instance = Some("i".to_owned());
    }),
    ("--run-dir r stop --state-dir s", "stop", |o| {
        (o.run_dir, o.state_dir) = (Some("r".into()), Some("s".into()));
    }),
    ("-v status -vv -q", "status", |o| o.verbosity = 2),
    ("-qqq stop", "stop", |o| o.verbosity = -3),
];

#[test]
fn command_lines() {
    for (line, command, set) in LINES {
        let mut expected = Options {
            command,
            ..Options::default()
        };
        set(&mut expected);
        assert_eq!(run(line), Ok(expected), "{line}");
    }
}

#[test]
fn errors_name_what_is_wrong_and_where_to_read() {
    for (line, words, page) in [
        ("stauts", "'stauts'; did you mean status?", "help"),
        ("xyzzy", "unknown command 'xyzzy'", "help"),
        ("help stat", "did you mean status?", "help help"),
        ("status --jason", "did you mean --json?", "help status"),
        ("--confg x status", "did you mean --config?", "help"),
        ("status --stop", "has no option --stop", "help status"),
        ("-x status", "-x", "help"),
        ("snooze", "DURATION is missing", "help snooze"),
        ("kill", "PILOT is missing", "help kill"),
        ("snooze 2h 3h", "3h", "help snooze"),
        ("stop now", "now", "help stop"),
        ("report a b", "b", "help report"),
        ("snooze 0", "zero", "help snooze"),
        ("snooze 1y", "'1y'", "help snooze"),
        ("pilot --from -3", "'-3'", "help pilot"),
        ("status --config", "--config", "help status"),
        ("status --json=1", "--json", "help status"),
        ("-v", "command is missing", "help"),
    ] {
        let error = run(line).unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
        let end = format!("; see `plancton {page}`");
        assert!(error.ends_with(&end), "{line}: {error}");
    }
}

#[test]
fn not_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![b'a', 0xff]);
    let path = parse(["replay".into(), bad()]).unwrap();
    assert_eq!(path.argument, Some(bad()));
    assert!(parse([bad()]).is_err());
    assert!(parse(["drain".into(), "--by".into(), bad()]).is_err());
}

#[test]
fn every_page_declares_what_it_explains() {
    let overview = help("").unwrap();
    for command in commands() {
        let page = help(command).unwrap();
        let (synopsis, rest) = page.split_once("\n\n").unwrap();
        let summary = rest.lines().next().unwrap().trim_end_matches('.');
        assert!(overview.contains(summary), "{command}: {summary}");
        let listed = rest.lines().filter(|line| line.starts_with("  --"));
        for line in listed {
            let option = line.trim_start().split("   ").next().unwrap();
            assert!(synopsis.contains(&format!("[{option}]")), "{option}");
        }
        if let Some((_, example)) = rest.split_once("\nExample\n") {
            let words = example.split_whitespace().skip(1);
            let words = words.take_while(|word| !["&&", ">"].contains(word));
            parse(words.map(Into::into)).unwrap();
        }
    }
    for line in HELP.lines() {
        assert!(
            line.chars().count() < 80 && line == line.trim_end(),
            "{line}"
        );
    }
}
