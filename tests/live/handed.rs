//! Files handed to a pilot: for its user's eyes only, nowhere else, and gone with it.

use crate::common::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const SECRET: &str = "correct-horse-battery-staple";

fn class(source: &Path) -> String {
    let words = "ls -ln /run/secrets/token; wc -c </run/secrets/token; echo x >/run/secrets/token; echo end; sleep 600";
    let file = format!(
        "{{ source = \"{}\", target = \"/run/secrets/token\" }}",
        source.display()
    );
    config(
        "1s",
        1,
        &pilot(
            "p",
            &["sh", "-c", words],
            &format!("stop-grace = \"1s\"\nuser = \"1234:1235\"\nfiles = [{file}]"),
        ),
    )
}

/// Running with a secret, as root on a tmpfs.
fn with_secret() -> (Instance, PathBuf) {
    let mut instance = Instance::in_memory("");
    let source = instance.base.join("token");
    fs::write(&source, SECRET).unwrap();
    instance.configure(&class(&source));
    instance.run(&[]);
    (instance, source)
}

fn said(id: &str) -> String {
    poll(PATIENCE, || {
        Some(logs(id)).filter(|text| text.contains("end\n"))
    })
    .expect("its words")
}

fn copies(instance: &Instance) -> Vec<PathBuf> {
    fs::read_dir(instance.run_dir().join("files"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn a_secret_is_for_its_pilot_alone() {
    if !is_root() {
        return; // only root may give a file to another user
    }
    let (instance, source) = with_secret();
    let id = instance.wait_running(1).first().unwrap().clone();
    let words = said(&id);
    assert!(
        words.contains("-r--------") && words.contains(" 1234     1235 "),
        "{words}"
    );
    assert!(
        words.contains(&format!("\n{}\n", SECRET.len()))
            || words.contains(&SECRET.len().to_string()),
        "{words}"
    );
    assert!(
        words.contains("can't create /run/secrets/token"),
        "it is read-only: {words}"
    );
    let [place] = copies(&instance).try_into().unwrap();
    let (dir, copy) = (
        fs::metadata(&place).unwrap(),
        fs::metadata(place.join("0")).unwrap(),
    );
    assert_eq!(
        (
            dir.mode() & 0o777,
            copy.mode() & 0o777,
            copy.uid(),
            copy.gid()
        ),
        (0o700, 0o400, 1234, 1235)
    );
    assert_eq!(fs::read_to_string(place.join("0")).unwrap(), SECRET);
    // Nowhere else: not in what the engine knows or keeps, not in what we say.
    let (_, layers) = call_with("GET", &format!("/containers/{id}/export"), None, "");
    assert!(layers.len() > 1_000_000, "a whole file system");
    let image = inspect(&id).unwrap()["Image"].as_str().unwrap().to_owned();
    let told = [
        inspect(&id).unwrap().to_string(),
        call("GET", &format!("/images/{image}/json"), None).1,
        logs(&id),
        instance.log(),
        instance.status().unwrap().to_string(),
        instance.say(&["config"]).out,
        String::from_utf8_lossy(&layers).into_owned(),
    ];
    assert!(!told.iter().any(|text| text.contains(SECRET)));
    // A rotated file reaches the next pilot, and the old copy goes.
    fs::write(&source, "new").unwrap();
    kill(&id);
    let next = poll(PATIENCE, || {
        instance
            .running_ids()
            .into_iter()
            .find(|other| *other != id)
    })
    .expect("the next pilot");
    assert!(said(&next).contains("3\n"), "{}", said(&next));
    let old_is_gone = poll(PATIENCE, || (!place.exists()).then_some(()));
    assert!(
        old_is_gone.is_some() && copies(&instance).len() == 1,
        "{:?}",
        copies(&instance)
    );
    instance.say(&["force-stop"]).must(0, &[]);
    assert_eq!(copies(&instance), Vec::<PathBuf>::new());
}

#[test]
fn no_copy_is_left_after_a_crash() {
    if !is_root() {
        return; // as above
    }
    let (mut instance, _) = with_secret();
    let id = instance.wait_running(1).first().unwrap().clone();
    let [old] = copies(&instance).try_into().unwrap();
    instance.crash();
    call("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
    assert!(old.exists(), "nobody was there to remove it");
    instance.run(&[]);
    instance.wait_running(1);
    assert!(
        poll(PATIENCE, || (!old.exists()).then_some(())).is_some(),
        "orphans go at the start"
    );
    assert_eq!(copies(&instance).len(), 1);
}

#[test]
fn what_can_not_be_handed_over_holds_its_class() {
    let instance = Instance::on_disk("");
    let source = instance.base.join("token");
    instance.configure(&class(&source));
    let mut instance = instance;
    fs::write(&source, SECRET).unwrap();
    instance.run(&[]);
    let reason = |words: &str| {
        let is_told = |s: &serde_json::Value| s["reason"]["text"].as_str().unwrap().contains(words);
        instance.wait_status(words, PATIENCE, is_told);
    };
    reason("handed over in memory only");
    assert_eq!((instance.containers(), copies(&instance)), (vec![], vec![]));
    let mut instance = Instance::in_memory("");
    let source = instance.base.join("not-there");
    instance.configure(&class(&source));
    instance.run(&[]);
    let status = instance.wait_reason("mount-missing");
    assert!(
        status["reason"]["text"]
            .as_str()
            .unwrap()
            .contains("not-there"),
        "{status:#}"
    );
    assert_eq!(
        (instance.containers(), json!(copies(&instance).len())),
        (vec![], json!(0))
    );
}
