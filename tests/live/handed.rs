//! Files handed to a pilot: for its user's eyes only, nowhere else, and gone with it.

use crate::common::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const SECRET: &str = "correct-horse-battery-staple";

fn class(source: &Path) -> String {
    let words = "ls -ln /run/secrets/token; wc -c </run/secrets/token; echo x >/run/secrets/token; echo end; sleep 600";
    let file = format!("files = [{{ source = {source:?}, target = \"/run/secrets/token\" }}]");
    config(
        "1s",
        1,
        &shell("p", words, &format!("user = \"1234:1235\"\n{file}")),
    )
}

/// Running with a secret, on a tmpfs; `None`: not without root, who alone may give a file to another user.
fn with_secret() -> Option<(Instance, PathBuf)> {
    if !is_root() {
        skip("only root may give a file to another user");
        return None;
    }
    let mut instance = Instance::in_memory("");
    let source = instance.file("token", SECRET);
    instance.start(&class(&source));
    Some((instance, source))
}

fn copies(instance: &Instance) -> Vec<PathBuf> {
    let entries = fs::read_dir(instance.run_dir().join("files"))
        .into_iter()
        .flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_secret_is_for_its_pilot_alone() {
    let Some((mut instance, source)) = with_secret() else {
        return;
    };
    let id = instance.wait_one();
    let words = logs_with(&id, "end\n");
    for part in [
        "-r--------",
        " 1234     1235 ",
        "can't create /run/secrets/token",
    ] {
        assert!(words.contains(part), "{words}");
    }
    let [place] = copies(&instance).try_into().unwrap();
    let (dir, copy) = (
        fs::metadata(&place).unwrap(),
        fs::metadata(place.join("0")).unwrap(),
    );
    assert_eq!((dir.mode() & 0o777, copy.mode() & 0o777), (0o700, 0o400));
    assert_eq!(
        (copy.uid(), copy.gid(), read(place.join("0"))),
        (1234, 1235, SECRET.to_owned())
    );
    // Nowhere else: not in what the engine knows or keeps, not in what we say.
    let (_, layers) = call_with("GET", &format!("/containers/{id}/export"), None, "");
    assert!(layers.len() > 1_000_000, "a whole file system");
    let image = inspect(&id).unwrap()["Image"].as_str().unwrap().to_owned();
    for text in [
        inspect(&id).unwrap().to_string(),
        call("GET", &format!("/images/{image}/json"), None).1,
        words,
        instance.log(),
        instance.status().to_string(),
        instance.say(&["config"]).out,
        String::from_utf8_lossy(&layers).into_owned(),
    ] {
        assert!(!text.contains(SECRET));
    }
    // A rotated file reaches the next pilot, and the old copy goes.
    fs::write(&source, "new").unwrap();
    kill(&id);
    let next = poll(PATIENCE, || {
        instance
            .running_ids()
            .into_iter()
            .find(|other| *other != id)
    });
    logs_with(&next.unwrap(), "3\n");
    until(|| !place.exists() && copies(&instance).len() == 1);
    instance.say(&["force-stop"]).must(0, &[]);
    instance.wait_end();
    assert_eq!(copies(&instance), Vec::<PathBuf>::new());
}

#[test]
fn no_copy_is_left_after_a_crash() {
    let Some((mut instance, _)) = with_secret() else {
        return;
    };
    let id = instance.wait_one();
    let [old] = copies(&instance).try_into().unwrap();
    instance.crash();
    delete(&id);
    assert!(old.exists(), "nobody was there to remove it");
    instance.run(&[]);
    instance.wait_running(1);
    until(|| !old.exists() && copies(&instance).len() == 1);
}

#[test]
fn what_can_not_be_handed_over_holds_its_class() {
    for (mut instance, is_there, named) in [
        (Instance::on_disk(""), true, "memory"),
        (Instance::in_memory(""), false, "token"),
    ] {
        let source = instance.path("token");
        if is_there {
            fs::write(&source, SECRET).unwrap();
        }
        instance.start(&class(&source));
        instance.wait_text(named);
        assert_eq!((instance.containers(), copies(&instance)), (vec![], vec![]));
    }
}
