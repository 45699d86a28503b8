//! What is shipped around the binary is in step with it: configurations are valid, man pages and completions have every
//! command, option, key, reason and field and no other, units say what they must, and the tree of dependencies stays
//! short. The packages' life on a machine: tests/machine-test.sh.
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn shipped(path: &str) -> String {
    fs::read_to_string(in_house(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).unwrap();
    let found = entries.map(|entry| match entry.unwrap().path() {
        path if path.is_dir() => files(&path, ending),
        path => vec![path],
    });
    let ends = |path: &PathBuf| path.to_string_lossy().ends_with(ending);
    found.flatten().filter(ends).collect()
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> Said {
    say(Command::new(program).args(arguments).current_dir(dir))
}

/// What Plancton says.
fn plancton(arguments: &[&str]) -> String {
    run(PLANCTON, arguments, Path::new("/")).must(0, &[]).out
}

/// Plancton takes it.
fn check(config: &Path) {
    let config = config.to_str().unwrap();
    let said = plancton(&["--config", config, "check", "--offline"]);
    assert!(said.contains("ok   configuration"), "{config}: {said}");
}

/// Man pages and completions, in a directory of their own.
fn texts() -> Scratch {
    let scratch = Scratch::new();
    let script = in_house("packaging/texts.sh");
    let said = say(Command::new(script).args([PLANCTON.as_ref(), scratch.0.as_os_str()]));
    assert_eq!(said.must(0, &[]).text(), "");
    scratch
}

/// A man page as the texts say it, with plain hyphens.
fn page(scratch: &Scratch, file: &str) -> String {
    read(scratch.0.join(file)).replace("\\-", "-")
}

/// Of a page: what stands between a heading and the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let rest = page.split_once(&format!("\n.SH {heading}\n")).unwrap().1;
    rest.split("\n.SH ").next().unwrap()
}

/// The words in the titles of a section's paragraphs.
fn titles(section: &str) -> BTreeSet<&str> {
    let parts = section.split("\n.TP\n").skip(1);
    let words = parts.flat_map(|part| {
        let title = part.lines().next().unwrap_or_default();
        let title = title.trim_start_matches(".BR").trim_start_matches(".B");
        title.split(|c: char| !(c.is_ascii_lowercase() || c == '-' || c == '_'))
    });
    words.filter(|word| !word.is_empty()).collect()
}

#[test]
fn shipped_configurations_are_valid() {
    let folders = ["conf", "packaging"].map(in_house);
    let found = folders.map(|folder| files(&folder, ".toml")).concat();
    assert!(found.contains(&in_house("conf/plancton.toml")));
    found.iter().for_each(|file| check(file));
}

#[test]
fn few_crates() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let question = "tree --offline --locked --prefix none -e normal,build";
    let arguments: Vec<&str> = question.split(' ').collect();
    let text = run(&cargo, &arguments, Path::new(ROOT)).must(0, &[]).out;
    let names = text.lines().filter_map(|line| line.split(" (").next());
    let names = names.map(str::trim).filter(|name| !name.is_empty());
    let crates: BTreeSet<&str> = names.collect();
    assert!((5..=60).contains(&crates.len()), "{crates:?}");
}

#[test]
fn commands_and_options() {
    let scratch = texts();
    let man = page(&scratch, "plancton.1");
    let [zsh, fish] = ["_plancton", "plancton.fish"].map(|file| read(scratch.0.join(file)));
    let overview = plancton(&["help"]);
    let lines = overview.split("\nOptions,").next().unwrap().lines();
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let lines = section(&man, "COMMANDS").lines();
    let described = lines.filter_map(|line| line.strip_prefix(".SS ")?.split(' ').next());
    assert_eq!(described.collect::<Vec<_>>(), commands);
    let mut options = 0;
    for command in &commands {
        assert!(zsh.contains(&format!("'{command}:")), "{command}");
        assert!(fish.contains(&format!("-a {command} ")), "{command}");
        let help = plancton(&["help", command]) + &overview;
        let lines = help.lines().filter(|line| line.starts_with("  -"));
        for option in lines.filter_map(|line| line.split_once("--")) {
            let option = option.1.split([' ', ',']).next().unwrap();
            options += 1;
            let script = "source ./plancton.bash; COMP_WORDS=(plancton $0 --$1); COMP_CWORD=2; _plancton; \
                echo \"${COMPREPLY[@]}\"";
            let typed = run("bash", &["-c", script, command, option], &scratch.0)
                .must(0, &[])
                .out;
            let wanted = format!("--{option}");
            let is_offered = typed.split_whitespace().any(|word| word == wanted);
            assert!(is_offered, "bash: {command} --{option}: {typed}");
            assert!(man.contains(&wanted), "{wanted}");
            assert!(zsh.contains(&format!("'{wanted}[")), "{wanted}");
            assert!(fish.contains(&format!(" -l {option} ")), "{wanted}");
        }
    }
    assert!(options > 150, "{options}");
    for (shell, file) in [
        ("bash", "plancton.bash"),
        ("zsh", "_plancton"),
        ("fish", "plancton.fish"),
    ] {
        match is_here(shell) {
            true => drop(run(shell, &["-n", file], &scratch.0).must(0, &[])),
            false => println!("no {shell} here"),
        }
    }
}

/// Series and their fields: tests/live_metrics.rs.
#[test]
fn keys_reasons_and_fields() {
    let scratch = texts();
    let man = page(&scratch, "plancton.toml.5");
    let default = plancton(&["config", "--default"]);
    let is_key = |line: &&str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        line.starts_with('[') || key.is_some_and(|key| !key.contains(' '))
    };
    let lines = default.lines().map(|line| line.trim_start_matches("# "));
    let keys: Vec<&str> = lines.filter(is_key).collect();
    let described = section(&man, "KEYS").lines().filter_map(|line| {
        let key = line
            .strip_prefix("\\fB")
            .filter(|line| line.contains(" = "));
        key.and_then(|key| key.strip_suffix("\\fR"))
            .or(line.strip_prefix(".SS "))
    });
    assert!(keys.len() > 45, "{keys:?}");
    assert_eq!(described.collect::<Vec<_>>(), keys);

    let man = page(&scratch, "plancton.1");
    let source = shipped("src/decide/reason.rs");
    let codes = source.split_once("pub enum Code {").unwrap().1;
    let codes = codes.split("/// A word of another version").next().unwrap();
    let codes = codes.lines().map(|line| line.trim().trim_end_matches(','));
    let codes = codes.filter(|line| !line.is_empty() && line.chars().all(char::is_alphanumeric));
    let plain = |name: &str| name.replace('-', "").to_lowercase();
    let described = titles(section(&man, "STATES AND REASONS"))
        .into_iter()
        .map(plain);
    assert_eq!(
        described.collect::<BTreeSet<_>>(),
        codes.map(plain).collect()
    );

    let status = section(&man, "STATUS FOR SCRIPTS");
    let golden = shipped("tests/golden/status.json");
    let mut golden: BTreeMap<&str, Value> = serde_json::from_str(&golden).unwrap();
    assert_eq!(titles(status), golden.keys().copied().collect());
    golden.remove("counts");
    let words = status.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let words: BTreeSet<&str> = words.collect();
    for (field, value) in &golden {
        let inside = value.get(0).unwrap_or(value).as_object();
        for key in inside.into_iter().flat_map(|inside| inside.keys()) {
            assert!(words.contains(key.as_str()), "{field}.{key}");
        }
    }
}

#[test]
fn pages_render_without_warnings() {
    let scratch = texts();
    for (program, options) in [("mandoc", "-Tlint"), ("groff", "-man -Tutf8 -ww -z")] {
        if !is_here(program) {
            skip(&format!("no {program} here"));
            continue;
        }
        let pages = "plancton.1 plancton.toml.5 plancton-metrics.7 plancton-site.7".split(' ');
        let arguments: Vec<&str> = options.split(' ').chain(pages).collect();
        let said = run(program, &arguments, &scratch.0).must(0, &[]);
        assert_eq!(said.text(), "", "{program}");
    }
}

/// What the guide tells administrators to write is a good configuration, and its numbers are those of the golden scenarios.
#[test]
fn the_guides_examples_hold() {
    let scratch = Scratch::new();
    let guide = shipped("packaging/plancton-site.7").replace("\\-", "-");
    let examples = guide.split(".EX\n").skip(1);
    let examples: Vec<&str> = examples
        .filter_map(|rest| Some(rest.split_once(".EE")?.0))
        .collect();
    let configurations = examples.iter().filter(|example| example.starts_with('['));
    configurations
        .clone()
        .for_each(|example| check(&scratch.file("config.toml", example)));
    assert_eq!(configurations.count(), 7);
    let table = examples.iter().find(|text| text.starts_with("cores "));
    for row in table.unwrap().lines().skip(1) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let golden = shipped(&format!("tests/scenarios/node-{}-cores.txt", cells[0]));
        let line = golden.lines().nth(1).unwrap();
        let mut numbers = line.split(|c: char| !c.is_ascii_digit());
        assert!(
            numbers.any(|number| Some(&number) == cells.last()),
            "{row}: {golden}"
        );
    }
    let plain = |text: &str| -> Vec<String> {
        let keys = text.lines().filter(|line| line.contains(" = "));
        keys.map(str::to_owned).collect()
    };
    let replayed = plain(&shipped("tests/scenarios/node-96-cores.toml"));
    assert!(
        examples.iter().any(|example| plain(example) == replayed),
        "the guide shows what was replayed"
    );
}

#[test]
fn units_keep_their_promises() {
    let service = shipped("packaging/systemd/plancton.service");
    let set: Vec<&str> = service
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    for line in [
        "Type=notify",
        "Restart=on-failure",
        "RestartPreventExitStatus=64 78",
        "CapabilityBoundingSet=CAP_CHOWN",
        "RuntimeDirectoryPreserve=yes",
        "NoNewPrivileges=yes",
    ] {
        assert!(set.contains(&line), "{line}");
    }
    // They hide what the daemon must see.
    for never in [
        "ProtectProc=",
        "ProcSubset=",
        "ProtectControlGroups=",
        "DynamicUser=",
    ] {
        assert!(!set.iter().any(|line| line.starts_with(never)), "{never}");
    }
    if !is_here("systemd-analyze") {
        return println!("no systemd-analyze here");
    }
    let question = "security --offline=true --threshold=23 packaging/systemd/plancton.service";
    let arguments: Vec<&str> = question.split(' ').collect();
    let said = run("systemd-analyze", &arguments, Path::new(ROOT));
    // Before version 250 it knows no offline look.
    let is_old = said.text().contains("unrecognized option");
    assert!(
        said.code == 0 || is_old,
        "exposure above 2.3: {}",
        said.text()
    );
}
