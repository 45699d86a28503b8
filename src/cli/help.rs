//! The one table of commands and options. The parser takes from it what exists, and every text about the commands
//! (overview, `--help`, later man pages and completions) is made from it, so that they cannot disagree. Pure.

use super::Exit;

/// One option; `value` names what follows it and is empty for a flag.
#[derive(Debug, PartialEq, Eq)]
pub struct Opt {
    pub long: &'static str,
    pub short: Option<char>,
    pub value: &'static str,
    pub summary: &'static str,
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: &'static str,
    /// Its one argument, empty where it has none; in brackets where it may be left out.
    pub arguments: &'static str,
    pub summary: &'static str,
    pub options: &'static [Opt],
    /// Lines below 80 columns.
    pub text: &'static str,
    /// Empty where it would be the bare command.
    pub example: &'static str,
    /// The heading in the overview, above the first command of a group.
    pub group: &'static str,
}

impl Topic {
    /// `drain [--stop] [--by TIME]`
    pub fn synopsis(&self) -> String {
        let options: String = self
            .options
            .iter()
            .map(|option| format!(" [{}]", option.spelling()))
            .collect();
        format!("{}{options} {}", self.name, self.arguments)
            .trim_end()
            .to_owned()
    }
}

impl Opt {
    /// `--by TIME`
    pub fn spelling(&self) -> String {
        format!("--{} {}", self.long, self.value)
            .trim_end()
            .to_owned()
    }
}

/// The command of that name.
pub fn topic(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

/// Every option of every command, the common ones first.
pub fn all_options() -> impl Iterator<Item = &'static Opt> + Clone {
    GLOBAL
        .iter()
        .chain(TOPICS.iter().flat_map(|topic| topic.options))
}

/// The help of one command, or the overview.
pub fn text(name: Option<&str>) -> String {
    match name.and_then(topic) {
        Some(topic) => command(topic),
        None => overview(),
    }
}

fn overview() -> String {
    let mut text = String::from(
        "Plancton gives a machine's idle time to science: it fills unused CPU and memory\n\
         with disposable pilot containers, and gets out of the way of the owner.\n\n\
         Usage: plancton [OPTIONS] COMMAND\n",
    );
    for topic in TOPICS {
        if !topic.group.is_empty() {
            text.push_str(&format!("\n{}\n", topic.group));
        }
        let left = format!("{} {}", topic.name, topic.arguments);
        text.push_str(&format!("  {left:<17} {}\n", topic.summary));
    }
    text.push_str("\nOptions, before or after the command\n");
    list_options(&mut text, GLOBAL);
    text.push_str("\nExit codes\n");
    for (exit, meaning) in Exit::ALL {
        text.push_str(&format!("  {:<4} {meaning}\n", exit.code()));
    }
    text.push_str("\nStart with `plancton try`. More on each: `plancton help COMMAND`\n");
    text
}

fn command(topic: &Topic) -> String {
    let mut text = format!(
        "plancton {}\n\n{}.\n\n{}\n",
        topic.synopsis(),
        topic.summary,
        topic.text
    );
    if !topic.options.is_empty() {
        text.push_str("\nOptions\n");
        list_options(&mut text, topic.options);
    }
    if !topic.example.is_empty() {
        text.push_str(&format!("\nExample\n  {}\n", topic.example));
    }
    text
}

fn list_options(text: &mut String, options: &[Opt]) {
    let left = |option: &Opt| match option.short {
        Some(letter) => format!("-{letter}, {}", option.spelling()),
        None => option.spelling(),
    };
    let width = options
        .iter()
        .map(|option| left(option).len())
        .max()
        .unwrap_or(0);
    for option in options {
        text.push_str(&format!(
            "  {:<width$}   {}\n",
            left(option),
            option.summary
        ));
    }
}

const fn flag(long: &'static str, summary: &'static str) -> Opt {
    with(long, "", summary)
}

const fn with(long: &'static str, value: &'static str, summary: &'static str) -> Opt {
    Opt {
        long,
        short: None,
        value,
        summary,
    }
}

const fn short(letter: char, long: &'static str, summary: &'static str) -> Opt {
    Opt {
        long,
        short: Some(letter),
        value: "",
        summary,
    }
}

/// What every command understands.
pub const GLOBAL: &[Opt] = &[
    with(
        "config",
        "FILE",
        "the configuration, instead of the usual file",
    ),
    with("engine", "unix://PATH", "the container engine's socket"),
    with(
        "instance",
        "NAME",
        "the name that marks this daemon's pilots",
    ),
    with("run-dir", "DIR", "where lock and status file are"),
    with("state-dir", "DIR", "where drain and snooze are remembered"),
    short('v', "verbose", "say more (twice: everything)"),
    short('q', "quiet", "say less"),
    short('h', "help", "explain the command"),
    short('V', "version", "print the version"),
];

const PLAIN: Topic = Topic {
    name: "",
    arguments: "",
    summary: "",
    options: &[],
    text: "",
    example: "",
    group: "",
};

/// Every command, in the order of the overview.
pub const TOPICS: &[Topic] = &[
    Topic {
        name: "try",
        summary: "Watch it work on this machine, then remove every trace",
        options: &[with(
            "for",
            "DURATION",
            "end by itself after that long (else Ctrl-C ends it)",
        )],
        text: "\
Fills the idle cores with the built-in pilot, which counts prime numbers.
Needs no configuration, no registry and no internet. At the end it sums up
what was computed, and removes its containers, its image and its files.",
        example: "plancton try --for 60s",
        group: "Begin",
        ..PLAIN
    },
    Topic {
        name: "check",
        summary: "Find out what is missing, with a fix for each problem",
        options: &[flag(
            "offline",
            "look at the configuration only: ask no engine and no server",
        )],
        text: "\
One line each for configuration, engine, limits, protection, permissions and
metrics: fine, or the problem and the command that solves it. Changes nothing.",
        ..PLAIN
    },
    Topic {
        name: "config",
        summary: "Print the configuration in force",
        options: &[flag(
            "default",
            "print the commented default configuration instead",
        )],
        text: "\
Every key with its value: yours where you set it, else the default.",
        example: "plancton config --default > plancton.toml",
        ..PLAIN
    },
    Topic {
        name: "status",
        summary: "Show what runs, what is given, and why",
        options: &[
            flag("json", "for scripts: the status file as it is"),
            flag("watch", "draw it again every second until Ctrl-C"),
        ],
        text: "\
The first line tells of a drain or snooze and how to end it. Without a daemon
of your own, you see the machine's. Exits with 3 if the daemon does not run.",
        example: "plancton status --watch",
        group: "Look",
        ..PLAIN
    },
    Topic {
        name: "why",
        summary: "Say in one sentence why pilots run or do not run",
        text: "\
The reason of the decision in force, with the value measured and its threshold.",
        ..PLAIN
    },
    Topic {
        name: "health",
        summary: "Exit with 0 if the daemon's loop turns",
        text: "\
For service managers: a daemon that waits for its engine is healthy too.",
        example: "plancton health && echo well",
        ..PLAIN
    },
    Topic {
        name: "history",
        summary: "Show what this machine gave, day by day",
        options: &[
            with("days", "N", "so many days back from today (14)"),
            flag("json", "for scripts"),
            flag("csv", "one line a figure: date, figure, of what, value"),
        ],
        text: "\
CPU hours given, pilots by end and by class, and what held Plancton back. The
daemon keeps this record by itself, for a year; no server is needed.",
        example: "plancton history --days 30",
        ..PLAIN
    },
    Topic {
        name: "report",
        arguments: "[FILE]",
        summary: "Write the same as a page with pictures",
        text: "\
One HTML file for any browser, with nothing in it from elsewhere; without FILE
it is plancton-report.html in this directory, with - standard output.",
        example: "plancton report /tmp/plancton.html",
        ..PLAIN
    },
    Topic {
        name: "drain",
        summary: "Launch nothing more; let the pilots finish",
        options: &[
            flag("stop", "end the daemon when the last pilot is gone"),
            with(
                "by",
                "TIME",
                "stop what still runs then: 18:00, 2h or RFC 3339",
            ),
        ],
        text: "\
Lasts until `plancton resume`, also across a restart of the daemon or of the
machine. Members of the group plancton can do this to the machine's daemon.",
        example: "plancton drain --by 18:00",
        group: "Have the machine back",
        ..PLAIN
    },
    Topic {
        name: "snooze",
        arguments: "DURATION",
        summary: "Pause pilots and launch nothing for that long",
        text: "\
The pilots keep their memory, use no CPU, and go on afterwards.
`plancton resume` ends it earlier; another snooze replaces the first.",
        example: "plancton snooze 2h",
        ..PLAIN
    },
    Topic {
        name: "resume",
        summary: "End a drain or a snooze",
        text: "\
Pilots go on and are launched again. Does no harm if there is nothing to end.",
        ..PLAIN
    },
    Topic {
        name: "kill",
        arguments: "PILOT",
        summary: "End one pilot now",
        text: "\
PILOT is a name or the beginning of an id, as `plancton status` shows them.
Another one may take its place: use `plancton drain` first if none should.",
        example: "plancton kill plancton-builtin-3f9a1c",
        ..PLAIN
    },
    Topic {
        name: "log",
        arguments: "[PILOT]",
        summary: "The last lines of a failed pilot, or of the one named",
        text: "\
Without a name: of the pilot that failed last. Of failed pilots the last lines
are kept while the daemon runs; one that is still there can be asked itself.",
        ..PLAIN
    },
    Topic {
        name: "pull",
        summary: "Look for newer images now",
        text: "\
New pilots use the new image, running ones go on with the one they have. The
old image is removed after its last pilot, if it came here with Plancton.",
        ..PLAIN
    },
    Topic {
        name: "force-stop",
        summary: "Remove every pilot now and end the daemon",
        text: "\
What the pilots were doing is lost. Nothing runs until the daemon is started.",
        ..PLAIN
    },
    Topic {
        name: "join",
        arguments: "URL",
        summary: "Run the pilots of a project that publishes a configuration",
        options: &[
            with(
                "key",
                "PUBKEY",
                "take only what is signed with this key of minisign",
            ),
            flag(
                "yes",
                "for scripts: accept what it asks for without being asked",
            ),
        ],
        text: "\
Shows what it asks for and all that it would be sent, and asks you. It can add
pilots and make this machine give less: [share] and [owner] stay yours, and it
gets nothing that [allow] does not name. It is looked at again every hour; one
that asks for more waits for `plancton accept`. Signatures are at URL.minisig.",
        example: "plancton join https://project.example.org/plancton.toml",
        group: "Projects",
    },
    Topic {
        name: "accept",
        summary: "Accept what a newer configuration of the project asks for",
        options: &[flag("yes", "for scripts: without being asked")],
        text: "\
Shows it first, and what is new. Until then the one accepted stays in force.",
        ..PLAIN
    },
    Topic {
        name: "leave",
        summary: "Have nothing to do with the project any more",
        text: "\
Nothing is started for it from then on. Its pilots that run go on to their end.",
        ..PLAIN
    },
    Topic {
        name: "run",
        summary: "Be the daemon, in the foreground",
        options: &[
            flag("once", "one turn of the loop, then end"),
            flag("dry-run", "say what would be done, and do none of it"),
            flag("drain", "begin with a drain"),
            with(
                "record",
                "FILE",
                "append each observation, for `plancton replay`",
            ),
        ],
        text: "\
What systemd and containers start. SIGTERM or Ctrl-C ends it and leaves the
pilots to the next start. SIGHUP reads the configuration again.",
        example: "plancton run --once --dry-run",
        group: "The daemon",
        ..PLAIN
    },
    Topic {
        name: "start",
        summary: "Start the daemon in the background",
        text: "\
With the systemd unit in place this is `systemctl start plancton`; elsewhere
the daemon is started as a process of its own.",
        ..PLAIN
    },
    Topic {
        name: "stop",
        summary: "End the daemon; pilots go on to their end",
        text: "\
The pilots outlive the daemon until they finish or their ttl is over, and a
daemon started meanwhile takes them over. To end them as well use
`plancton force-stop`; to wait for them, `plancton drain --stop`.",
        ..PLAIN
    },
    Topic {
        name: "replay",
        arguments: "FILE",
        summary: "Show what would be decided on recorded observations",
        text: "\
FILE comes from `plancton run --record FILE`. Prints what the configuration
given decides at each turn, to try a change before it is made.",
        example: "plancton --config new.toml replay monday.jsonl",
        ..PLAIN
    },
    Topic {
        name: "reap",
        summary: "End the pilots whose time is over, without the daemon",
        text: "\
Run by a timer, so that a pilot's ttl holds even if the daemon is dead. As
root: the pilots of every instance; else your own.",
        ..PLAIN
    },
    Topic {
        name: "purge",
        summary: "Remove everything Plancton ever created here",
        options: &[
            flag("dry-run", "list it, and remove nothing"),
            flag(
                "keep-state",
                "leave drains and logs, for a package that may come back",
            ),
        ],
        text: "\
Pilots, the images it fetched, control groups and files. As root: those of
every instance; else your own. Your configuration stays.",
        example: "plancton purge --dry-run",
        ..PLAIN
    },
    Topic {
        name: "pilot",
        summary: "The built-in pilot: count prime numbers for a while",
        options: &[
            with("for", "DURATION", "how long (20s)"),
            with(
                "from",
                "N",
                "where to begin (else a random place below 10^13)",
            ),
            with("to", "N", "end there instead of after a time"),
        ],
        text: "\
Counts the primes, the pairs of twin primes and the largest gap from N on, with
a sieve that it first checks against known counts. The line `result:` at the
end can be checked on any machine: give its from and to again, or ask another
program, as in `primesieve FROM TO -c12` (that counts up to and with TO).",
        example: "plancton pilot --from 9000000000000 --to 9000100000000",
        group: "Inside",
        ..PLAIN
    },
    Topic {
        name: "help",
        arguments: "[COMMAND]",
        summary: "Explain a command",
        text: "\
Without a command: the overview. `plancton COMMAND --help` says the same.",
        example: "plancton help drain",
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_fits_and_says_something() {
        for name in TOPICS.iter().map(|topic| Some(topic.name)).chain([None]) {
            let text = text(name);
            for line in text.lines() {
                assert!(line.chars().count() < 80, "{name:?}: {line}");
                assert_eq!(line, line.trim_end(), "{name:?}: blanks at the end");
            }
            assert!(text.lines().count() > 4, "{name:?}");
        }
        for topic in TOPICS {
            assert!(
                (1..=6).contains(&topic.text.lines().count()),
                "{}",
                topic.name
            );
            assert!(
                topic.example.is_empty() || topic.example.contains("plancton "),
                "{}",
                topic.name
            );
            assert!(overview().contains(topic.summary), "{}", topic.name);
            assert!(command(topic).contains(&topic.synopsis()));
        }
    }

    #[test]
    fn examples_are_accepted() {
        for topic in TOPICS {
            let words = topic.example.split_whitespace().skip(1);
            let words = words.take_while(|word| !["&&", ">"].contains(word));
            let parsed = crate::cli::parse(words.map(Into::into));
            assert!(parsed.is_ok(), "{}: {parsed:?}", topic.example);
        }
    }

    /// The parser looks an option up before it knows the command, so that one name must mean one shape.
    #[test]
    fn one_name_one_shape() {
        for option in all_options() {
            for other in all_options().filter(|other| other.long == option.long) {
                assert_eq!(option.value, other.value, "--{}", option.long);
                assert_eq!(option.short, other.short, "--{}", option.long);
            }
        }
        for (i, topic) in TOPICS.iter().enumerate() {
            assert!(
                TOPICS
                    .iter()
                    .skip(i + 1)
                    .all(|other| other.name != topic.name)
            );
        }
    }
}
