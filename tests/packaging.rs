//! What is shipped around the binary is in step with it: man pages and completions have every command, option, key, reason and
//! field and no other, units say what they must. The packages' life on a machine: tests/machine-test.sh.
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PLANCTON: &str = env!("CARGO_BIN_EXE_plancton");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref())
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path =
            std::env::temp_dir().join(format!("plancton-packaging-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn say(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Man pages and completions, in a directory of their own.
fn texts(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    quiet(
        Command::new(root().join("packaging/texts.sh"))
            .arg(PLANCTON)
            .arg(&scratch.0),
    );
    scratch
}

/// Runs it; it has nothing to say.
fn quiet(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

fn exists(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap()
        .status
        .success()
}

/// The names in the first column of the overview.
fn commands(overview: &str) -> Vec<&str> {
    let lines = overview.split("\nOptions,").next().unwrap().lines();
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty()).collect()
}

/// A man page as the texts say it, with plain hyphens.
fn page(scratch: &Scratch, file: &str) -> String {
    read(scratch.0.join(file)).replace("\\-", "-")
}

/// Of a page: what stands between a heading and the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let rest = page.split_once(&format!("\n.SH {heading}\n"));
    let rest = rest.unwrap_or_else(|| panic!("no {heading}")).1;
    rest.split("\n.SH ").next().unwrap()
}

/// The words in the titles of a section's paragraphs.
fn titles(section: &str) -> BTreeSet<&str> {
    let titles = section
        .split("\n.TP\n")
        .skip(1)
        .filter_map(|part| part.lines().next());
    let words = titles.flat_map(|title| {
        let title = title.trim_start_matches(".BR").trim_start_matches(".B");
        title.split(|c: char| !(c.is_ascii_lowercase() || c == '-' || c == '_'))
    });
    words.filter(|word| !word.is_empty()).collect()
}

#[test]
fn commands_and_options() {
    let scratch = texts("options");
    let man = page(&scratch, "plancton.1");
    let [zsh, fish] = ["_plancton", "plancton.fish"].map(|file| read(scratch.0.join(file)));
    let overview = say(Command::new(PLANCTON).arg("help"));
    let commands = commands(&overview);
    let described = section(&man, "COMMANDS")
        .lines()
        .filter_map(|line| line.strip_prefix(".SS ")?.split(' ').next());
    assert_eq!(described.collect::<Vec<_>>(), commands);
    let mut options = 0;
    for command in &commands {
        let in_zsh = zsh.contains(&format!("'{command}:"));
        assert!(
            in_zsh && fish.contains(&format!("-a {command} ")),
            "{command}"
        );
        let help = say(Command::new(PLANCTON).args(["help", command])) + &overview;
        for line in help.lines().filter(|line| line.starts_with("  -")) {
            let Some((_, rest)) = line.split_once("--") else {
                continue;
            };
            let option = rest.split([' ', ',']).next().unwrap();
            options += 1;
            let typed = say(Command::new("bash").env("FILE", scratch.0.join("plancton.bash")).args([
                "-c",
                "source \"$FILE\"; COMP_WORDS=(plancton $0 --$1); COMP_CWORD=2; _plancton; echo \"${COMPREPLY[@]}\"",
                command,
                option,
            ]));
            let is_offered = typed
                .split_whitespace()
                .any(|word| word == format!("--{option}"));
            assert!(is_offered, "bash: {command} --{option}: {typed}");
            for (text, wanted) in [
                (&man, format!("--{option}")),
                (&zsh, format!("'--{option}[")),
                (&fish, format!(" -l {option} ")),
            ] {
                assert!(text.contains(&wanted), "{wanted}");
            }
        }
    }
    assert!(options > 150, "{options}");
    for (shell, file) in [
        ("bash", "plancton.bash"),
        ("zsh", "_plancton"),
        ("fish", "plancton.fish"),
    ] {
        if exists(shell) {
            say(Command::new(shell).arg("-n").arg(scratch.0.join(file)));
        }
    }
}

/// Series and their fields: tests/live_metrics.rs.
#[test]
fn keys_reasons_and_fields() {
    let scratch = texts("keys");
    let man = page(&scratch, "plancton.toml.5");
    let default = say(Command::new(PLANCTON).args(["config", "--default"]));
    let is_key = |line: &&str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        line.starts_with('[') || key.is_some_and(|key| !key.contains(' '))
    };
    let lines = default.lines();
    let keys: Vec<&str> = lines
        .map(|line| line.trim_start_matches("# "))
        .filter(is_key)
        .collect();
    let described = section(&man, "KEYS").lines().filter_map(|line| {
        let key = line
            .strip_prefix("\\fB")
            .filter(|line| line.contains(" = "));
        let key = key.and_then(|key| key.strip_suffix("\\fR"));
        key.or(line.strip_prefix(".SS "))
    });
    assert!(keys.len() > 45, "{keys:?}");
    assert_eq!(described.collect::<Vec<_>>(), keys);

    let man = page(&scratch, "plancton.1");
    let source = read(root().join("src/decide/reason.rs"));
    let codes = source.split_once("pub enum Code {").unwrap().1;
    let codes = codes.split("/// A word of another version").next().unwrap();
    let codes = codes
        .lines()
        .map(|line| line.trim().trim_end_matches(','))
        .filter(|line| !line.is_empty() && line.chars().all(char::is_alphanumeric));
    let plain = |name: &str| name.replace('-', "").to_lowercase();
    let codes: BTreeSet<String> = codes.map(plain).collect();
    let described = titles(section(&man, "STATES AND REASONS"));
    assert_eq!(
        described.into_iter().map(plain).collect::<BTreeSet<_>>(),
        codes
    );

    let status = section(&man, "STATUS FOR SCRIPTS");
    let golden = read(root().join("tests/golden/status.json"));
    let mut golden: BTreeMap<&str, serde_json::Value> = serde_json::from_str(&golden).unwrap();
    assert_eq!(titles(status), golden.keys().copied().collect());
    golden.remove("counts");
    let words: BTreeSet<&str> = status
        .split(|c: char| !(c.is_ascii_lowercase() || c == '_'))
        .collect();
    for (field, value) in &golden {
        let inside = value.get(0).unwrap_or(value).as_object();
        for key in inside.into_iter().flat_map(|inside| inside.keys()) {
            assert!(words.contains(key.as_str()), "{field}.{key}");
        }
    }
}

#[test]
fn pages_render_without_warnings() {
    let scratch = texts("pages");
    let pages = [
        "plancton.1",
        "plancton.toml.5",
        "plancton-metrics.7",
        "plancton-site.7",
    ];
    for (program, options) in [
        ("mandoc", &["-Tlint"][..]),
        ("groff", &["-man", "-Tutf8", "-ww", "-z"]),
    ] {
        match exists(program) {
            true => quiet(
                Command::new(program)
                    .args(options)
                    .args(pages)
                    .current_dir(&scratch.0),
            ),
            false => println!("skipped: no {program} here"),
        }
    }
}

/// What the guide tells administrators to write is a good configuration, and its numbers are those of the golden scenarios.
#[test]
fn the_guides_examples_hold() {
    let scratch = Scratch::new("guide");
    let guide = read(root().join("packaging/plancton-site.7")).replace("\\-", "-");
    let examples = || {
        guide
            .split(".EX\n")
            .skip(1)
            .filter_map(|rest| rest.split_once(".EE"))
            .map(|(example, _)| example)
    };
    let mut configurations = 0;
    for example in examples().filter(|example| example.starts_with('[')) {
        let file = scratch.0.join("config.toml");
        fs::write(&file, example).unwrap();
        say(Command::new(PLANCTON)
            .arg("--config")
            .arg(&file)
            .args(["check", "--offline"]));
        configurations += 1;
    }
    assert_eq!(configurations, 7);
    let table = examples().find(|text| text.starts_with("cores "));
    for row in table.unwrap().lines().skip(1) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let file = format!("tests/scenarios/node-{}-cores.txt", cells[0]);
        let golden = read(root().join(file));
        let mut numbers = golden
            .lines()
            .nth(1)
            .unwrap()
            .split(|c: char| !c.is_ascii_digit());
        assert!(
            numbers.any(|number| Some(&number) == cells.last()),
            "{row}: {golden}"
        );
    }
    let scenario = read(root().join("tests/scenarios/node-96-cores.toml"));
    let plain = |text: &str| {
        text.lines()
            .filter(|line| line.contains(" = "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        examples().any(|example| plain(example) == plain(&scenario)),
        "the guide shows what was replayed"
    );
}

#[test]
fn units_keep_their_promises() {
    let folder = root().join("packaging/systemd");
    let service = read(folder.join("plancton.service"));
    for line in [
        "Type=notify",
        "Restart=on-failure",
        "RestartPreventExitStatus=64 78",
        "CapabilityBoundingSet=CAP_CHOWN",
        "RuntimeDirectoryPreserve=yes",
        "NoNewPrivileges=yes",
    ] {
        assert!(service.lines().any(|there| there == line), "{line}");
    }
    let set: Vec<&str> = service
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    for never in [
        "ProtectProc=",
        "ProcSubset=",
        "ProtectControlGroups=",
        "DynamicUser=",
    ] {
        assert!(
            !set.iter().any(|line| line.starts_with(never)),
            "{never} hides what the daemon must see"
        );
    }
    if exists("systemd-analyze") {
        let unit = folder.join("plancton.service");
        let said = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=23"])
            .arg(&unit)
            .output();
        let said = said.unwrap();
        // Before version 250 it knows no offline look.
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(
            said.status.success() || text.contains("unrecognized option"),
            "exposure above 2.3: {text}"
        );
    }
}
