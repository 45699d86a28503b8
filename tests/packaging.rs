//! What is shipped around the binary is in step with it: every option and key is in the man pages and completions, units
//! say what they must, nothing is broken before it reaches a machine. The packages' life on one: tests/packages.sh.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

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

fn texts(scratch: &Scratch) {
    let said = Command::new(root().join("packaging/texts.sh"))
        .arg(PLANCTON)
        .arg(&scratch.0)
        .output()
        .unwrap();
    assert!(
        said.status.success() && said.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
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
fn commands() -> Vec<String> {
    let overview = say(Command::new(PLANCTON).arg("help"));
    let overview = overview.split("\nOptions,").next().unwrap();
    let lines = overview
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '));
    lines
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_is_in_man_page_and_completions() {
    let scratch = Scratch::new("options");
    texts(&scratch);
    let [man, zsh, fish] =
        ["plancton.8", "_plancton", "plancton.fish"].map(|file| read(scratch.0.join(file)));
    let man = man.replace("\\-", "-");
    let commands = commands();
    assert!(
        commands.len() > 15 && commands.contains(&"purge".to_owned()),
        "{commands:?}"
    );
    let mut options = 0;
    for command in &commands {
        let help = say(Command::new(PLANCTON).args(["help", command]));
        assert!(
            man.contains(help.lines().next().unwrap().trim_start_matches("plancton ")),
            "{command} in the man page"
        );
        assert!(
            zsh.contains(&format!("'{command}:")) && fish.contains(&format!("-a {command} ")),
            "{command}"
        );
        for line in help
            .lines()
            .chain(say(Command::new(PLANCTON).arg("help")).lines())
        {
            let Some(at) = line.find("--").filter(|_| line.starts_with("  -")) else {
                continue;
            };
            let option = line[at + 2..].split([' ', ',']).next().unwrap();
            options += 1;
            let typed = say(Command::new("bash").env("FILE", scratch.0.join("plancton.bash")).args([
                "-c",
                "source \"$FILE\"; COMP_WORDS=(plancton $0 --$1); COMP_CWORD=2; _plancton; echo \"${COMPREPLY[@]}\"",
                command,
                option,
            ]));
            assert!(
                typed
                    .split_whitespace()
                    .any(|word| word == format!("--{option}")),
                "bash: {command} --{option}: {typed}"
            );
            assert!(
                man.contains(&format!("--{option}")),
                "the man page: --{option}"
            );
            assert!(zsh.contains(&format!("'--{option}[")), "zsh: --{option}");
            assert!(fish.contains(&format!(" -l {option} ")), "fish: --{option}");
        }
    }
    assert!(options > 150, "{options}");
    for (shell, file) in [
        ("bash", "plancton.bash"),
        ("zsh", "_plancton"),
        ("fish", "plancton.fish"),
    ] {
        assert!(
            !exists(shell)
                || Command::new(shell)
                    .arg("-n")
                    .arg(scratch.0.join(file))
                    .status()
                    .unwrap()
                    .success()
        );
    }
}

#[test]
fn every_key_is_in_the_man_page() {
    let scratch = Scratch::new("keys");
    texts(&scratch);
    let man = read(scratch.0.join("plancton.toml.5")).replace("\\-", "-");
    let default = say(Command::new(PLANCTON).args(["config", "--default"]));
    let keys: Vec<&str> = default
        .lines()
        .filter_map(|line| line.strip_prefix("# ").or(Some(line)))
        .filter(|line| {
            line.starts_with('[')
                || line
                    .split(" = ")
                    .next()
                    .is_some_and(|key| !key.contains(' ') && line.contains(" = "))
        })
        .collect();
    assert!(keys.len() > 45, "{keys:?}");
    for key in keys {
        assert!(
            man.contains(&format!("\\fB{key}\\fR")) || man.contains(&format!(".SH {key}")),
            "{key}"
        );
    }
    if exists("groff") {
        for page in ["plancton.8", "plancton.toml.5", "plancton-site.7"] {
            let said = Command::new("groff")
                .args(["-man", "-Tutf8", "-ww", "-z"])
                .arg(scratch.0.join(page))
                .output()
                .unwrap();
            assert!(
                said.stderr.is_empty(),
                "{page}: {}",
                String::from_utf8_lossy(&said.stderr)
            );
        }
    }
}

/// What the guide tells administrators to write is a good configuration, and its figures are those of the golden scenarios.
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
    let golden = ["96", "48"]
        .map(|cores| read(root().join(format!("tests/scenarios/node-{cores}-cores.txt"))))
        .concat();
    let figures: Vec<&str> = examples()
        .filter(|text| text.contains(" pilots; ") || text.contains("held back"))
        .collect();
    for text in &figures {
        assert!(
            golden.contains(&format!("({})", text.trim())),
            "no scenario says: {text}"
        );
    }
    assert_eq!((configurations, figures.len()), (5, 3));
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
