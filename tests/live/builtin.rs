//! The built-in pilot and its image, and the commands that leave nothing behind. All instances of one binary share one
//! image, so these tests go one after the other.

use crate::common::*;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

static IMAGE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    IMAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn builtin(seconds: u32) -> String {
    let command = format!("command = [\"pilot\", \"--for\", \"{seconds}s\"]");
    pilot("builtin", &[], "read-only = true")
        .replace(&image(), "builtin")
        .replace("command = []", &command)
        .replace("0.1", "0.15")
}

/// A `result:` line is true if counting its window again gives the same line.
#[track_caller]
fn check_result(instance: &Instance, text: &str) {
    let line = text
        .lines()
        .find_map(|line| line.split_once("result: "))
        .expect(text)
        .1;
    let number = |name: &str| {
        line.split(' ')
            .find_map(|word| word.strip_prefix(name))
            .unwrap()
            .to_owned()
    };
    let (from, to) = (number("from="), number("to="));
    assert!(from.parse::<u64>().unwrap() < to.parse().unwrap(), "{line}");
    assert!(number("primes=").parse::<u64>().unwrap() > 0, "{line}");
    instance
        .say(&["pilot", "--from", &from, "--to", &to])
        .must(0, &[line]);
}

#[test]
fn the_builtin_pilot_computes_and_purge_removes_everything() {
    let _alone = alone();
    let instance = Instance::running(&config("1s", 1, &builtin(2)));
    instance.wait_status("one done", PATIENCE, |status| {
        status["counts"]["done"].as_u64() >= Some(1)
    });
    let said = instance.say(&["status", "--json"]).out;
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    let words = status["gone"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|gone| gone["log_tail"].as_str());
    check_result(&instance, words.unwrap());
    let image = read(instance.state_dir().join("images"));
    assert!(
        image.starts_with("plancton-builtin:") && has_image(&image),
        "{image}"
    );

    let dry = instance
        .say(&["purge", "--dry-run"])
        .must(0, &[&image, instance.run_dir().to_str().unwrap()]);
    assert!(has_image(&image) && instance.status().is_some(), "{dry:?}");
    instance
        .say(&["purge"])
        .must(0, &["nothing of Plancton's is left"]);
    assert_eq!(instance.containers(), []);
    assert!(!has_image(&image), "{image} is still there");
    assert!(!instance.run_dir().exists() && !instance.state_dir().exists());
    instance.say(&["purge"]).must(0, &[]);
}

#[test]
fn try_leaves_no_trace() {
    let _alone = alone();
    let instance = Instance::new(&config("1s", 1, &builtin(2)));
    let temporary = instance.base.join("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = instance.command(&["try", "--for", "20s"]);
    command.env("TMPDIR", &temporary);
    let trying = std::thread::spawn(move || say(&mut command));
    // While it runs, its files say what it brought along.
    let base = poll(PATIENCE, || {
        Some(fs::read_dir(&temporary).ok()?.next()?.ok()?.path())
    })
    .expect("a directory of its own");
    let image = poll(PATIENCE, || {
        Some(read(base.join("state/images"))).filter(|text| !text.is_empty())
    })
    .expect("an image");
    let id = base
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .replace("plancton-", "");
    assert!(
        poll(PATIENCE, || containers(&id).first().map(drop)).is_some(),
        "pilots of the instance {id}"
    );
    let said = trying
        .join()
        .unwrap()
        .must(0, &["CPU seconds were given", "Every trace"]);
    check_result(&instance, &said.out);
    assert!(!said.out.contains('\x1b'));
    assert_eq!(containers(&id), []);
    assert!(!has_image(&image), "{image} is still there");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert!(!instance.run_dir().exists() && !instance.state_dir().exists());
}
