//! Credentials for a registry, as the engine's own command line would send them for an image: read when they are needed,
//! for one call, and told to nobody but the engine.

use super::*;
use crate::{host::files, units::is_within, web};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// One entry of a file as Docker, Podman and others write it (config.json, auth.json), and what is sent of it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Login {
    /// USER:PASSWORD in base64.
    #[serde(skip_serializing)]
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
    serveraddress: String,
}

impl Login {
    fn is_empty(&self) -> bool {
        self.username.is_empty() && self.identitytoken.is_empty() && self.registrytoken.is_empty()
    }

    /// The value of X-Registry-Auth; `None`: the registry is asked without.
    pub fn header(&self) -> Option<String> {
        let sent = serde_json::to_string(self).ok()?;
        (!self.is_empty()).then(|| URL_SAFE.encode(sent))
    }

    /// Takes out of a text what was sent: a registry may repeat it.
    pub fn hide(&self, text: &str) -> String {
        let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
        let sent = self.header().unwrap_or_default();
        let (identity, registry) = (&self.identitytoken, &self.registrytoken);
        let secrets = [&sent, &pair, &self.password, identity, registry];
        web::hide(text, &secrets.map(String::as_str), 1_000)
    }
}

/// For a class's image. A file that nobody named never stops an image that may need no credentials. Errors: the
/// `auth-file` of the class can't be used.
pub fn read(class: &PilotClass) -> Result<Login, String> {
    if !class.auth_file.is_empty() {
        let file = Path::new(&class.auth_file);
        return parse(file, files::read_secret(file), &class.image);
    }
    let place = |name, below| Some(PathBuf::from(std::env::var_os(name)?).join(below));
    let own = place("DOCKER_CONFIG", "config.json");
    let file = own.or_else(|| place("HOME", ".docker/config.json"));
    let Some(file) = file.filter(|file| file.exists()) else {
        return Ok(Login::default());
    };
    let found = parse(&file, files::read_text(&file), &class.image);
    Ok(found.unwrap_or_else(|why| {
        log::warn!("{why}; images are pulled without credentials");
        Login::default()
    }))
}

fn parse(file: &Path, text: io::Result<String>, image: &Image) -> Result<Login, String> {
    let text = text.map_err(|error| error.to_string())?;
    let config = serde_json::from_slice(text.as_bytes()).map_err(|why| format!("not JSON: {why}"));
    let found = config.and_then(|config| find(&config, image));
    found.map_err(|why| format!("{}: {why}", file.display()))
}

/// What an entry's key stands for: a registry, or with a path a part of it alone. Keys of old are addresses, such as
/// `https://index.docker.io/v1/`; their path says nothing.
fn place_of(key: &str) -> String {
    let place = match key.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None => key.trim_end_matches('/'),
    };
    let place = place.trim_end_matches("/v1").trim_end_matches("/v2");
    let (registry, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    match registry {
        "index.docker.io" | "registry-1.docker.io" => format!("docker.io{path}"),
        _ => place.to_owned(),
    }
}

/// The entry that says most about this image, if there is one.
fn find(config: &Value, image: &Image) -> Result<Login, String> {
    let path = image.name.trim_start_matches(image.registry());
    let path = path.trim_start_matches('/');
    // Its whole name, as places are written.
    let image = match place_of(image.registry()) {
        hub if hub == "docker.io" && !path.contains('/') => format!("{hub}/library/{path}"),
        registry => format!("{registry}/{path}"),
    };
    let of_it = |(key, _): &(&String, &Value)| is_within(&image, &place_of(key));
    let entries = |kind: &str| config[kind].as_object().into_iter().flatten();
    // Where a helper is named, what the file itself has is left from before.
    let (helper, nothing) = (entries("credHelpers").find(of_it), json!({}));
    let helper = helper.map(|(key, _)| (key, &nothing));
    // Of those that say as much, the shortest: Docker leaves tokens of a session behind the registry's address.
    let says_most = |(key, _): &(&String, _)| (place_of(key).len(), Reverse(key.len()));
    let best = || entries("auths").filter(of_it).max_by_key(says_most);
    let Some((key, entry)) = helper.or_else(best) else {
        return Ok(Login::default());
    };
    let bad = || format!("the entry of {key} is not base64 of USER:PASSWORD");
    let login = decode(key, entry).ok_or_else(bad)?;
    if login.is_empty() {
        let why = "are with a helper program, which is not asked";
        let then = "the image is pulled without, or name an auth-file that has them";
        log::warn!("the credentials of {key} {why}; {then}");
    }
    Ok(login)
}

fn decode(key: &str, entry: &Value) -> Option<Login> {
    let mut login = Login::deserialize(entry).ok()?;
    login.serveraddress = key.to_owned();
    if !login.auth.is_empty() {
        // Some writers break lines, and some leave the padding out.
        let text = login.auth.replace(['\r', '\n', '='], "");
        let pair = String::from_utf8(STANDARD_NO_PAD.decode(text.trim()).ok()?).ok()?;
        let (user, password) = pair.split_once(':')?;
        login.username = user.to_owned();
        login.password = password.trim_matches('\0').to_owned();
    }
    Some(login)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is sent for an image: the user and the password or token; nothing: "".
    fn sent(config: &Value, image: &str) -> String {
        let image = Image::parse(image).unwrap();
        let login = find(config, &image).unwrap_or_else(|why| panic!("{why}"));
        let header = login
            .header()
            .map(|header| URL_SAFE.decode(header).unwrap());
        let sent: Value = header.map_or(Value::Null, |sent| serde_json::from_slice(&sent).unwrap());
        let words = ["username", "password", "identitytoken"]
            .map(|key| sent[key].as_str().unwrap_or_default());
        words
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// What each writer leaves, and what is sent for an image of whom.
    #[test]
    fn credentials_by_image() {
        let mixed = json!({ "auths": {
            "127.0.0.1:5000": { "auth": "dTpwOnc=" },
            "https://token.example": { "identitytoken": "t>?" },
            "quay.example/team": { "auth": "dGVhbTp0" },
            "quay.example/team/private": { "username": "p", "password": "deep" },
            "legacy.example/v2/": { "auth": "bDps" },
            "nul.example": { "auth": "dTpwAAA=" },
        }, "credsStore": "desktop"});
        // docker login by browser leaves tokens beside the entry.
        let browser = json!({ "auths": {
            "https://index.docker.io/v1/": { "auth": "YTpi" },
            "https://index.docker.io/v1/access-token": { "auth": "YTphY2Nlc3M=" },
            "https://index.docker.io/v1/refresh-token": { "auth": "YTpyZWZyZXNo" },
        }});
        // podman, buildah and skopeo login: containers-auth.json(5), which has namespaces too.
        let podman = json!({ "auths": {
            "docker.io": { "auth": "aHViOng=" },
            "docker.io/library/busybox": { "auth": "b25lOnk=" },
            "registry.example:5000/a": { "auth": "cG9ydDp6" },
        }});
        // Deepomatic/dmake #54.
        let helper = json!({ "auths": {}, "credHelpers": { "gcr.io": "gcloud" } });
        // az acr login: bazel-contrib/rules_oci #600, testcontainers/testcontainers-dotnet #841.
        let azure =
            json!({ "auths": { "x.azurecr.io": { "auth": "MDAwMDo=", "identitytoken": "jwt" } } });
        // kubectl create secret docker-registry has all three; base64(1) breaks lines.
        let kubernetes = json!({ "auths": { "https://reg.example/v1/": {
            "username": "k", "password": "s", "email": "k@example.com", "auth": "a\nzpz\n" } } });
        // docker-credential-desktop leaves the padding out: kubernetes/kubernetes #82147.
        let desktop = json!({ "auths": { "reg.example": { "auth": "dTpwdw" } } });
        let hub =
            json!({ "auths": { "https://index.docker.io/v1/": {} }, "credsStore": "desktop" });
        let ghcr = json!({ "auths": { "ghcr.io": {} }, "credsStore": "desktop" });
        // kubewarden/adm-controller #1734, GoogleContainerTools/jib #3395.
        let jib = json!({ "auths": { "my.repo.example.com": { "username": "u@example.com", "password": "pw" } } });
        for (config, image, expected) in [
            (&mixed, "127.0.0.1:5000/x:1", "u p:w"),
            (&mixed, "token.example/x", "t>?"),
            (&mixed, "quay.example/team/public", "team t"),
            (&mixed, "quay.example/team/private/x", "p deep"),
            (&mixed, "quay.example/teamwork/x", ""),
            (&mixed, "quay.example/other", ""),
            (&mixed, "legacy.example/x", "l l"),
            (&mixed, "nul.example/x", "u p"),
            (&mixed, "elsewhere.example/x", ""),
            (&browser, "busybox", "a b"),
            (&browser, "docker.io/library/busybox:1", "a b"),
            (&browser, "index.docker.io/a/b", "a b"),
            (&podman, "busybox", "one y"),
            (&podman, "alpine", "hub x"),
            (&podman, "a/busybox", "hub x"),
            (&podman, "registry.example:5000/a/b:1", "port z"),
            (&podman, "registry.example/a/b:1", ""),
            (&helper, "gcr.io/x/y", ""),
            (&azure, "x.azurecr.io/y:1", "0000 jwt"),
            (&kubernetes, "reg.example/y:1", "k s"),
            (&desktop, "reg.example/y:1", "u pw"),
            (&hub, "busybox", ""),
            (&ghcr, "ghcr.io/org/pub:1", ""),
            (&jib, "my.repo.example.com/a/b:1", "u@example.com pw"),
        ] {
            assert_eq!(sent(config, image), expected, "{image}");
        }
    }

    /// Keys with and without a scheme, a port and a path of old; and a helper for one registry beside what was left for it
    /// before, and beside others (GoogleContainerTools/jib #1819).
    #[test]
    fn keys_in_every_form() {
        let b64 = |user: &str| STANDARD.encode(format!("{user}:z"));
        let split = json!({ "auths": { "gcr.io": {"auth": b64("old")}, "eu.gcr.io": {"auth": b64("e")}, "quay.io": { "auth": b64("q") } }, "credHelpers": { "gcr.io": "gcloud" } });
        let forms = json!({ "auths": { "index.docker.io/v1/": {"auth": b64("hub")},
            "http://one.example": {"auth": b64("one")}, "https://two.example:5000/v2/": {"auth": b64("two")},
            "three.example/": {"auth": b64("three")}, "https://four.example/v1": {"auth": b64("four")},
            "five.example": {"username": "five", "identitytoken": "tok"} }});
        let slashless = json!({ "auths": { "https://index.docker.io/v1": {"auth": b64("hub")} } });
        for (config, image, expected) in [
            (&split, "gcr.io/x/y", ""),
            (&split, "quay.io/x/y", "q z"),
            (&split, "eu.gcr.io/x/y", "e z"),
            (&forms, "a/b", "hub z"),
            (&forms, "one.example/b", "one z"),
            (&forms, "two.example:5000/b", "two z"),
            (&forms, "two.example/b", ""),
            (&forms, "three.example/b", "three z"),
            (&forms, "four.example/b", "four z"),
            (&forms, "five.example/b", "five tok"),
            (&slashless, "a/b", "hub z"),
        ] {
            assert_eq!(sent(config, image), expected, "{image}");
        }
    }

    #[test]
    fn what_is_sent_does_not_come_back_and_what_is_broken_is_named() {
        let config = json!({ "auths": { "a.example": { "auth": "dTpwOnc=" }, "b.example": { "auth": "!" } } });
        let image = |name| Image::parse(name).unwrap();
        let login = find(&config, &image("a.example/x")).unwrap();
        let told = login.hide("401: Basic dTpwOnc= is wrong (p:w)");
        assert_eq!(told, "401: Basic *** is wrong (***)");
        let bad = find(&config, &image("b.example/x"));
        assert!(bad.is_err_and(|why| why.contains("b.example")));
    }
}
