//! Images from a real registry: credentials, a tag that moves under running pilots, digests, archives, a registry that is
//! away. What came here with Plancton goes again with its last user.
// needs: registry
// threads: 3
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// `{"username":"tester","password":"secret"}` in base64, as the engine wants it.
const LOGIN: &str = "X-Registry-Auth: eyJ1c2VybmFtZSI6InRlc3RlciIsInBhc3N3b3JkIjoic2VjcmV0In0=\r\n";

fn registry(closed: bool) -> String {
    let name = if closed {
        "PLANCTON_TEST_CLOSED_REGISTRY"
    } else {
        "PLANCTON_TEST_REGISTRY"
    };
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; run these tests with tests/run.sh"))
}

fn image_id(name: &str) -> Option<String> {
    let (status, body) = call("GET", &format!("/images/{name}/json"), None);
    (status == 200).then(|| {
        serde_json::from_str::<Value>(&body).unwrap()["Id"]
            .as_str()
            .unwrap()
            .to_owned()
    })
}

fn remove_image(name: &str) {
    call("DELETE", &format!("/images/{name}?force=1"), None);
}

/// A new image with one more label, in the registry only: made under another of its names. Its id and digest.
fn publish(name: &str, label: &str) -> (String, String) {
    let repository = &name.replace("127.0.0.1", "localhost");
    let body = json!({"Image": image(), "Cmd": ["true"]});
    let (_, made) = call("POST", "/containers/create", Some(&body));
    let container = serde_json::from_str::<Value>(&made).unwrap()["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    let config = json!({"Labels": {"test": label}, "Cmd": ["sleep", "600"]});
    let (status, answer) = call(
        "POST",
        &format!("/commit?container={container}&repo={repository}&tag=1"),
        Some(&config),
    );
    assert_eq!(status, 201, "{answer}");
    call("DELETE", &format!("/containers/{container}?force=1"), None);
    let (status, pushed) = call_with(
        "POST",
        &format!("/images/{repository}/push?tag=1"),
        None,
        LOGIN,
    );
    let pushed = String::from_utf8_lossy(&pushed).into_owned();
    assert!(
        status == 200 && pushed.contains("digest: sha256:") && !pushed.contains("error"),
        "{pushed}"
    );
    let digest = pushed.split("digest: ").nth(1).unwrap()[..71].to_owned();
    let id = image_id(&format!("{repository}:1")).unwrap();
    remove_image(&format!("{repository}:1"));
    (id, digest)
}

fn class(image: &str, more: &str) -> String {
    config(
        "1s",
        1,
        &format!(
            "[[pilot]]\nname = \"p\"\nimage = \"{image}\"\ncpus = 0.1\nmemory = \"16MiB\"\nnetwork = \"none\"\nstop-grace = \"1s\"\n{more}\n"
        ),
    )
}

fn auth_file(instance: &Instance, password: &str, mode: u32) -> String {
    let file = instance.base.join(format!("auth-{password}.json"));
    // "tester:secret" and "tester:wrong" in base64.
    let auth = if password == "secret" {
        "dGVzdGVyOnNlY3JldA=="
    } else {
        "dGVzdGVyOndyb25n"
    };
    fs::write(
        &file,
        json!({"auths": {registry(true): {"auth": auth}}}).to_string(),
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    format!("auth-file = \"{}\"\n", file.display())
}

#[test]
fn credentials_open_a_closed_registry() {
    let name = format!("{}/closed", registry(true));
    publish(&name, "closed");
    let image = format!("{name}:1");
    let mut instance = Instance::new(&class(&image, ""));
    let without = |instance: &Instance, words: &str| {
        instance.wait_status(words, PATIENCE, |status| {
            status["reason"]["text"].as_str().unwrap().contains(words)
        });
        assert_eq!(image_id(&image), None);
    };
    instance.run(&[]);
    without(&instance, "no basic auth credentials");
    for (password, mode, words) in [
        ("wrong", 0o600, "unauthorized"),
        ("secret", 0o644, "chmod 600"),
    ] {
        let auth = auth_file(&instance, password, mode);
        instance.end();
        instance.configure(&class(&image, &auth));
        instance.run(&[]);
        without(&instance, words);
    }
    let auth = auth_file(&instance, "secret", 0o600);
    instance.end();
    instance.configure(&class(&image, &auth));
    instance.run(&[]);
    instance.wait_running(1);
    let told =
        instance.log() + &instance.status().unwrap().to_string() + &instance.say(&["config"]).out;
    for secret in ["secret\"", "dGVzdGVyOnNlY3JldA"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    // Purged, it is as it was before.
    instance.say(&["force-stop"]).must(0, &[]);
    instance.wait_end();
    instance.say(&["purge"]).must(0, &[]);
    assert_eq!(image_id(&image), None);
}

#[test]
fn a_moved_tag_is_a_rolling_update() {
    let name = format!("{}/rolling", registry(false));
    let (old, _) = publish(&name, "old");
    let image = format!("{name}:1");
    let instance = Instance::running(
        &class(&image, "image-refresh = \"2s\"").replace("max-pilots = 1", "max-pilots = 2"),
    );
    let first = instance.wait_running(2);
    let image_of = |id: &String| inspect(id).unwrap()["Image"].as_str().unwrap().to_owned();
    assert!(first.iter().all(|id| image_of(id) == old));
    let (new, _) = publish(&name, "new");
    let arrived = poll(PATIENCE, || image_id(&image).filter(|id| *id == new));
    assert!(
        arrived.is_some(),
        "the moved tag was looked up again: {}",
        instance.log()
    );
    assert!(
        first.iter().all(|id| is_running(id)),
        "running pilots go on"
    );
    let (one, other) = (first.iter().next().unwrap(), first.iter().nth(1).unwrap());
    kill(one);
    let replaced = poll(PATIENCE, || {
        let now: Vec<String> = instance
            .containers()
            .into_iter()
            .filter(|c| c.state == "running")
            .map(|c| c.id)
            .collect();
        now.iter()
            .any(|id| inspect(id).is_some_and(|seen| seen["Image"] == new.as_str()))
            .then_some(())
    });
    assert!(replaced.is_some(), "a new pilot has the new image");
    assert!(
        is_running(other) && image_id(&old).is_some(),
        "the old image stays as long as it is used"
    );
    kill(other);
    assert!(
        poll(PATIENCE, || image_id(&old).is_none().then_some(())).is_some(),
        "gone after its last pilot"
    );
    instance.say(&["force-stop"]).must(0, &[]);
    instance.say(&["purge"]).must(0, &[]);
    assert_eq!((image_id(&image), image_id(&new)), (None, None));
}

#[test]
fn a_digest_stays_what_it_is() {
    let name = format!("{}/pinned", registry(false));
    let (old, digest) = publish(&name, "old");
    publish(&name, "new");
    let pinned = format!("{name}@{digest}");
    let instance = Instance::running(&class(&pinned, "image-refresh = \"1s\""));
    let id = instance.wait_running(1).into_iter().next().unwrap();
    assert_eq!(inspect(&id).unwrap()["Image"], old.as_str());
    instance.say(&["force-stop"]).must(0, &[]);
    instance.say(&["purge"]).must(0, &[]);
    assert_eq!(image_id(&old), None);
}

#[test]
fn an_archive_needs_no_registry() {
    let name = "plancton-test/archived";
    call(
        "POST",
        &format!("/images/{}/tag?repo={name}&tag=1", image()),
        None,
    );
    let (status, tar) = call_with("GET", &format!("/images/{name}:1/get"), None, "");
    assert_eq!(status, 200);
    remove_image(&format!("{name}:1"));
    let instance = Instance::new("");
    let file = instance.base.join("image.tar");
    let words = format!(
        "image-archive = \"{}\"\ncommand = [\"sleep\", \"600\"]",
        file.display()
    );
    instance.configure(&class(&format!("{name}:1"), &words));
    let mut instance = instance;
    instance.run(&[]);
    instance.wait_status("what is missing", PATIENCE, |s| {
        s["reason"]["text"].as_str().unwrap().contains("image.tar")
    });
    instance.end();
    fs::write(&file, &tar).unwrap();
    instance.run(&[]);
    instance.wait_running(1);
    // An archive of something else.
    instance.say(&["force-stop"]).must(0, &[]);
    instance.wait_end();
    instance.say(&["purge"]).must(0, &[]);
    assert_eq!(image_id(&format!("{name}:1")), None);
    instance.configure(&class("plancton-test/other:1", &words));
    instance.run(&[]);
    instance.wait_status("it is not in there", PATIENCE, |s| {
        s["reason"]["text"]
            .as_str()
            .unwrap()
            .contains("plancton-test/other:1 is not in what was brought")
    });
    remove_image(&format!("{name}:1"));
}

#[test]
fn a_registry_that_is_away_costs_nothing_but_the_refresh() {
    let name = format!("{}/away", registry(false));
    publish(&name, "away");
    let (image, gone) = (format!("{name}:1"), format!("{}/none:1", registry(false)));
    let both = class(&image, "image-refresh = \"1s\"").replace("max-pilots = 1", "max-pilots = 2")
        + &format!("[[pilot]]\nname = \"q\"\nimage = \"{gone}\"\ncpus = 0.1\nmemory = \"16MiB\"\n");
    let mut instance = Instance::running(&both);
    instance.wait_running(2);
    instance.say(&["stop"]).must(0, &[]);
    instance.wait_end();
    // The same image under the name of a registry that is not there.
    let absent = "127.0.0.1:9/away";
    call(
        "POST",
        &format!("/images/{image}/tag?repo={absent}&tag=1"),
        None,
    );
    let again = class(&format!("{absent}:1"), "image-refresh = \"1s\"");
    instance.configure(&again.replace("max-pilots = 1", "max-pilots = 2"));
    instance.run(&[]);
    assert!(
        poll(PATIENCE, || instance
            .log()
            .contains("connection refused")
            .then_some(()))
        .is_some(),
        "{}",
        instance.log()
    );
    assert_eq!(
        instance.wait_running(2).len(),
        2,
        "pilots go on with the local image"
    );
    instance
        .say(&["pull"])
        .must(0, &["looks for newer images now"]);
    instance.say(&["force-stop"]).must(0, &[]);
    remove_image(&format!("{absent}:1"));
    instance.say(&["purge"]).must(0, &[]);
    assert_eq!(image_id(&image), None);
}

#[test]
fn a_day_has_its_bound() {
    let name = format!("{}/bounded", registry(false));
    publish(&name, "bounded");
    // What was brought earlier on that day counts.
    let instance = Instance::new(
        &class(&format!("{name}:1"), "").replace("[share]", "[share]\npull-per-day = \"1B\""),
    );
    fs::create_dir_all(instance.state_dir()).unwrap();
    let day = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 86_400;
    fs::write(instance.state_dir().join("pulled"), format!("{day} 5\n")).unwrap();
    let mut instance = instance;
    instance.run(&[]);
    let is_told = |s: &Value| {
        s["reason"]["text"]
            .as_str()
            .unwrap()
            .contains("pull-per-day (1B) is used up")
    };
    instance.wait_status("the bound", PATIENCE, is_told);
    fs::write(instance.state_dir().join("pulled"), "another day\n").unwrap();
    remove_image(&format!("{name}:1"));
}
