//! Golden scenarios: recorded observations of a story, replayed by the real binary. `BLESS=1` writes the answers anew.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "jsonl") {
            continue;
        }
        let config = file.with_extension("toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_plancton"));
        let output = command
            .arg("--config")
            .arg(&config)
            .arg("replay")
            .arg(&file)
            .output()
            .unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let golden = file.with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        assert_eq!(
            found,
            fs::read_to_string(&golden).unwrap(),
            "{}",
            file.display()
        );
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} scenarios were found");
}
