//! Files handed to a pilot: for its user's eyes only, nowhere else, and gone with it.

use crate::common::*;

const SECRET: &str = "correct-horse-battery-staple";

fn class(source: &Path) -> String {
    let words = "ls -ln /run/secrets/token; wc -c </run/secrets/token; echo x >/run/secrets/token; echo end; sleep 600";
    let file = format!("files = [{{ source = {source:?}, target = \"/run/secrets/token\" }}]");
    let more = format!("user = \"1234:1235\"\n{file}");
    config("1s", 1, &shell("p", words, &more))
}

/// Running with a secret, on a tmpfs; `None`: not without root, who alone may give a file to another user.
fn with_secret() -> Option<(Instance, PathBuf)> {
    if !is_root() {
        skip("only root may give a file to another user");
        return None;
    }
    let mut instance = Instance::below(Path::new("/dev/shm"), "");
    let source = instance.file("token", SECRET);
    instance.start(&class(&source));
    Some((instance, source))
}

fn copies(instance: &Instance) -> Vec<PathBuf> {
    let entries = fs::read_dir(instance.path("run/files"));
    let entries = entries.into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_secret_is_for_its_pilot_alone() {
    let Some((mut instance, source)) = with_secret() else {
        return;
    };
    let id = instance.wait_one();
    let words = logs_with(&id, "end\n");
    let refused = "can't create /run/secrets/token";
    for part in ["-r--------", " 1234     1235 ", refused] {
        assert!(words.contains(part), "{words}");
    }
    let [place] = copies(&instance).try_into().unwrap();
    let file = place.join("0");
    let [dir, copy] = [&place, &file].map(|path| fs::metadata(path).unwrap());
    assert_eq!((dir.mode() & 0o777, copy.mode() & 0o777), (0o700, 0o400));
    assert_eq!((copy.uid(), copy.gid()), (1234, 1235));
    assert_eq!(read(file), SECRET);
    // Nowhere else: not in what the engine knows or keeps, not in what we say.
    let (_, layers) = call_with("GET", &format!("/containers/{id}/export"), None, "");
    assert!(layers.len() > 1_000_000, "a whole file system");
    let seen = inspect(&id).unwrap();
    let image = seen["Image"].as_str().unwrap();
    for text in [
        seen.to_string(),
        call("GET", &format!("/images/{image}/json"), None).1,
        words,
        instance.log(),
        instance.status().to_string(),
        instance.say("config").out,
        String::from_utf8_lossy(&layers).into_owned(),
    ] {
        assert!(!text.contains(SECRET));
    }
    // A rotated file reaches the next pilot, and the old copy goes.
    fs::write(&source, "new").unwrap();
    kill(&id);
    until(|| !instance.running_ids().is_empty() && !instance.running_ids().contains(&id));
    logs_with(&instance.wait_one(), "3\n");
    until(|| !place.exists() && copies(&instance).len() == 1);
    instance.done("force-stop");
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
    instance.run("");
    instance.wait_running(1);
    until(|| !old.exists() && copies(&instance).len() == 1);
}

#[test]
fn what_can_not_be_handed_over_holds_its_class() {
    let disk = env!("CARGO_TARGET_TMPDIR");
    for (place, is_there, named) in [(disk, true, "memory"), ("/dev/shm", false, "token")] {
        let mut instance = Instance::below(Path::new(place), "");
        let source = instance.path("token");
        if is_there {
            fs::write(&source, SECRET).unwrap();
        }
        instance.start(&class(&source));
        instance.wait_text(named);
        assert_eq!((instance.containers(), copies(&instance)), (vec![], vec![]));
    }
}
