//! Tables: arguments and what they mean.

use super::*;

fn run(line: &str) -> Result<Options, String> {
    parse(line.split_whitespace().map(OsString::from))
}

/// What is typed, and what it comes to: the command, the balance of -v and -q, and what is given.
const LINES: &str = "
     | help 0 COMMAND=
    help | help 0
    -h | help 0 COMMAND=
    help drain | help 0 COMMAND=drain
    drain -h | help 0 COMMAND=drain
    --help drain | help 0 COMMAND=drain
    -V | version 0
    try --for 60s | try 0 for=60s
    --for=1m try | try 0 for=1m
    run --once --dry-run | run 0 dry-run= once=
    run --drain --record x | run 0 drain= record=x
    status --json | status 0 json=
    --watch status | status 0 watch=
    drain --stop --by 18:00 | drain 0 by=18:00 stop=
    snooze 2h | snooze 0 DURATION=2h
    kill a | kill 0 PILOT=a
    kill -- -odd | kill 0 PILOT=-odd
    log | log 0
    log a | log 0 PILOT=a
    check --offline | check 0 offline=
    config --default | config 0 default=
    replay x | replay 0 FILE=x
    history --days 3 | history 0 days=3
    report - | report 0 FILE=-
    join --key K --yes u | join 0 URL=u key=K yes=
    purge --keep-state | purge 0 keep-state=
    pilot --from 10_000 --to 20000 | pilot 0 from=10_000 to=20000
    --config other --config c stop | stop 0 config=c
    stop --engine unix:///e --instance=i | stop 0 engine=unix:///e instance=i
    --run-dir r stop --state-dir s | stop 0 run-dir=r state-dir=s
    -v status -vv -q | status 2
    -qqq stop | stop -3";

#[test]
fn command_lines() {
    for line in LINES.trim_start_matches('\n').lines() {
        let (typed, expected) = line.split_once('|').unwrap();
        let found = run(typed).unwrap();
        let mut words = vec![found.command.to_owned(), found.verbosity.to_string()];
        let given = found.given.iter();
        words.extend(given.map(|(name, value)| format!("{name}={}", value.to_str().unwrap())));
        assert_eq!(words.join(" "), expected.trim(), "{typed}");
    }
    let options = run("pilot --from 10_000 --for 1m --instance i").unwrap();
    assert_eq!(options.number("from"), Some(10_000));
    assert_eq!(options.duration("for"), Some(Duration::from_secs(60)));
    assert_eq!(options.text("instance"), Some("i".to_owned()));
    assert!(options.path("to").is_none() && !options.has("to"));
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
    let options = parse(["replay".into(), bad()]).unwrap();
    assert_eq!(options.path("FILE"), Some(bad().into()));
    assert!(parse([bad()]).is_err());
    assert!(parse(["drain".into(), "--by".into(), bad()]).is_err());
}

#[test]
fn every_page_declares_what_it_explains() {
    let overview = help("");
    for command in commands() {
        let page = help(command);
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
