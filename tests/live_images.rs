//! Images from a real registry: credentials, a tag that moves under running pilots, digests, archives, a registry that is
//! away. What came here with Plancton goes again with its last user.
// needs: registry
// threads: 3
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;

/// `{"username":"tester","password":"secret"}` in base64, as the engine wants it.
const LOGIN: &str = "X-Registry-Auth: eyJ1c2VybmFtZSI6InRlc3RlciIsInBhc3N3b3JkIjoic2VjcmV0In0=\r\n";

fn open() -> String {
    given("PLANCTON_TEST_REGISTRY")
}

fn closed() -> String {
    given("PLANCTON_TEST_CLOSED_REGISTRY")
}

fn remove_image(name: &str) {
    call("DELETE", &format!("/images/{name}?force=1"), None);
}

fn tag(image: &str, repository: &str) {
    let path = format!("/images/{image}/tag?repo={repository}&tag=1");
    post(&path, None);
}

/// A new image with one more label, in the registry only: made under another of its names. Its id and digest.
fn publish(name: &str, label: &str) -> (String, String) {
    let repository = &name.replace("127.0.0.1", "localhost");
    let container = create("", &json!({"Image": image(), "Cmd": ["true"]}));
    let config = json!({"Labels": {"test": label}, "Cmd": ["sleep", "600"]});
    let path = format!("/commit?container={container}&repo={repository}&tag=1");
    post(&path, Some(&config));
    delete(&container);
    let path = format!("/images/{repository}/push?tag=1");
    let (_, pushed) = call_with("POST", &path, None, LOGIN);
    let pushed = String::from_utf8_lossy(&pushed).into_owned();
    assert!(!pushed.contains("error"), "{pushed}");
    let digest = pushed.split("digest: ").nth(1).expect(&pushed)[..71].to_owned();
    let id = image_id(&format!("{repository}:1")).unwrap();
    remove_image(&format!("{repository}:1"));
    (id, digest)
}

fn class(image_name: &str, more: &str) -> String {
    let more = format!("stop-grace = \"1s\"\n{more}");
    let class = pilot("p", &[], &more).replace("command = []\n", "");
    let class = class.replace(&image(), image_name);
    config("1s", 1, &class)
}

fn two(text: String) -> String {
    text.replace("max-pilots = 1", "max-pilots = 2")
}

/// Nothing of it is left, as it was before.
fn purge(instance: &mut Instance, images: &[&str]) {
    instance.done("force-stop");
    instance.wait_end();
    instance.done("purge");
    for image in images {
        assert_eq!(image_id(image), None, "{image}");
    }
}

#[test]
fn credentials_open_a_closed_registry() {
    let name = format!("{}/closed", closed());
    publish(&name, "closed");
    let image = format!("{name}:1");
    let mut instance = Instance::running(&class(&image, ""));
    instance.wait_text("no basic auth credentials");
    // "tester:wrong" and "tester:secret" in base64.
    for (login, mode, words) in [
        ("dGVzdGVyOndyb25n", 0o600, "unauthorized"),
        ("dGVzdGVyOnNlY3JldA==", 0o644, "chmod o="),
        ("dGVzdGVyOnNlY3JldA==", 0o600, ""),
    ] {
        let text = json!({"auths": {closed(): {"auth": login}}}).to_string();
        let file = instance.file("auth.json", text);
        set_mode(&file, mode);
        instance.end();
        instance.start(&class(&image, &format!("auth-file = {file:?}")));
        if words.is_empty() {
            instance.wait_running(1);
        } else {
            instance.wait_text(words);
            assert_eq!(image_id(&image), None);
        }
    }
    let told = instance.log() + &instance.status().to_string() + &instance.say("config").out;
    let is_told = told.contains("secret\"") || told.contains("dGVzdGVyOnNlY3JldA");
    assert!(!is_told, "{told}");
    purge(&mut instance, &[&image]);
}

#[test]
fn a_moved_tag_is_a_rolling_update() {
    let name = format!("{}/rolling", open());
    let (old, _) = publish(&name, "old");
    let image = format!("{name}:1");
    let mut instance = Instance::running(&two(class(&image, "image-refresh = \"2s\"")));
    let first = instance.wait_running(2);
    let image_of = |id: &String| inspect(id).map_or(Value::Null, |seen| seen["Image"].clone());
    assert!(first.iter().all(|id| image_of(id) == old.as_str()));
    let (new, _) = publish(&name, "new");
    until(|| image_id(&image).as_ref() == Some(&new));
    let go_on = first.iter().all(|id| is_running(id));
    assert!(go_on, "running pilots go on");
    let (one, other) = (first.first().unwrap(), first.last().unwrap());
    kill(one);
    let is_new = |id: &String| image_of(id) == new.as_str();
    until(|| instance.running_ids().iter().any(is_new));
    // The old image stays as long as it is used.
    assert!(is_running(other) && image_id(&old).is_some());
    kill(other);
    until(|| image_id(&old).is_none());
    purge(&mut instance, &[&image, &new]);
}

#[test]
fn a_digest_stays_what_it_is() {
    let name = format!("{}/pinned", open());
    let (old, digest) = publish(&name, "old");
    publish(&name, "new");
    let text = class(&format!("{name}@{digest}"), "image-refresh = \"1s\"");
    let mut instance = Instance::running(&text);
    let seen = inspect(&instance.wait_one()).unwrap();
    assert_eq!(seen["Image"], old.as_str());
    purge(&mut instance, &[&old]);
}

#[test]
fn an_archive_needs_no_registry() {
    let name = "plancton-test/archived";
    let image_name = format!("{name}:1");
    tag(&image(), name);
    let (status, tar) = call_with("GET", &format!("/images/{image_name}/get"), None, "");
    assert_eq!(status, 200);
    remove_image(&image_name);
    let mut instance = Instance::new("");
    let file = instance.path("image.tar");
    let words = format!("image-archive = {file:?}\ncommand = [\"sleep\", \"600\"]");
    instance.start(&class(&image_name, &words));
    instance.wait_text("image.tar");
    instance.end();
    fs::write(&file, &tar).unwrap();
    instance.run("");
    instance.wait_running(1);
    purge(&mut instance, &[&image_name]);
    // An archive of something else.
    instance.start(&class("plancton-test/other:1", &words));
    instance.wait_text("plancton-test/other:1");
    remove_image(&image_name);
}

#[test]
fn a_registry_that_is_away_costs_nothing_but_the_refresh() {
    let name = format!("{}/away", open());
    publish(&name, "away");
    let (image, none) = (format!("{name}:1"), format!("{}/none:1", open()));
    let other = pilot("q", &[], "").replace(&engine::image(), &none);
    let refresh = "image-refresh = \"1s\"";
    let mut instance = Instance::running(&(two(class(&image, refresh)) + &other));
    instance.wait_running(2);
    instance.end();
    // The same image under the name of a registry that is not there.
    let absent = "127.0.0.1:9/away";
    tag(&image, absent);
    instance.start(&two(class(&format!("{absent}:1"), refresh)));
    instance.until(|| instance.log().contains("connection refused"));
    instance.wait_running(2);
    instance.done("pull");
    remove_image(&format!("{absent}:1"));
    purge(&mut instance, &[&image]);
}

#[test]
fn a_day_has_its_bound() {
    let name = format!("{}/bounded", open());
    publish(&name, "bounded");
    // What was brought earlier on that day counts.
    let text = class(&format!("{name}:1"), "").replace("[share]", "[share]\npull-per-day = \"1B\"");
    let mut instance = Instance::new(&text);
    let day = epoch() as u64 / 86_400;
    instance.file("state/pulled", format!("{day} 5\n"));
    instance.run("");
    instance.wait_text("pull-per-day");
    assert_eq!(image_id(&format!("{name}:1")), None);
}
