//! Credentials for a registry, as the engine's own command line would send them for an image: read when they are needed,
//! for one call, and told to nobody but the engine.

use crate::config::{Image, PilotClass};
use crate::host::files;
use crate::web;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file with credentials has a few KiB.
const LIMIT: usize = 1 << 20;

/// The value of X-Registry-Auth; `None`: the registry is asked without. A file that nobody named never stops an image that
/// may need no credentials. Errors: the `auth-file` of the class can't be used.
pub fn read(class: &PilotClass) -> Result<Option<String>, String> {
    if !class.auth_file.is_empty() {
        let file = Path::new(&class.auth_file);
        let failed = |why: String| format!("{}: {why}", file.display());
        let found = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?;
        if found.mode() & 0o007 != 0 {
            let why = "everybody on this machine may read these credentials; chmod 600 it";
            return Err(failed(why.to_owned()));
        }
        return find(&read_file(file)?, &class.image).map_err(failed);
    }
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let file = directory.or_else(home).map(|dir| dir.join("config.json"));
    let Some(file) = file.filter(|file| file.exists()) else {
        return Ok(None);
    };
    let found = read_file(&file).and_then(|config| find(&config, &class.image));
    Ok(found.unwrap_or_else(|why| {
        warn_once(format!(
            "{}: {why}; images are pulled without credentials",
            file.display()
        ));
        None
    }))
}

fn read_file(file: &Path) -> Result<Value, String> {
    let text = files::read(file, LIMIT).map_err(|error| error.to_string())?;
    if text.trim_ascii().is_empty() {
        return Err("the file is empty".to_owned());
    }
    serde_json::from_slice(&text).map_err(|error| format!("not JSON: {error}"))
}

fn warn_once(text: String) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if !warned.contains(&text) {
        log::warn!("{text}");
        warned.insert(text);
    }
}

/// What an entry's key stands for: a registry, or with a path a part of it alone. Keys of old are addresses, such as
/// `https://index.docker.io/v1/`; their path says nothing.
fn place_of(key: &str) -> String {
    let place = match key.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None => key.trim_end_matches('/'),
    };
    let place = place
        .strip_suffix("/v1")
        .or(place.strip_suffix("/v2"))
        .unwrap_or(place);
    match place {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        place => place.to_owned(),
    }
}

/// The entry that says most about this image. Errors: it can't be read.
fn find(config: &Value, image: &Image) -> Result<Option<String>, String> {
    let path = match image.name.strip_prefix(image.registry()) {
        Some(path) => path.trim_start_matches('/'),
        None => image.name.as_str(),
    };
    let whole = format!("{}/{path}", image.registry());
    let is_part = |place: &str| {
        let rest = whole.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let auths = config.get("auths").and_then(Value::as_object);
    let entries = auths
        .into_iter()
        .flatten()
        .map(|(key, entry)| (place_of(key), key, entry));
    let entry = entries
        .filter(|(place, ..)| is_part(place))
        .max_by_key(|(place, ..)| place.len());
    let has_helper = ["credsStore", "credHelpers"]
        .iter()
        .any(|key| config.get(key).is_some_and(|value| !value.is_null()));
    let Some((_, key, entry)) = entry else {
        return Ok(None);
    };
    let found = encode(key, entry)?;
    if found.is_none() && has_helper {
        warn_once(format!(
            "the credentials of {key} are with a helper program, which is not asked; the image is pulled without, \
             or name an auth-file that has them"
        ));
    }
    Ok(found)
}

/// Takes out of a text what was sent in X-Registry-Auth: a registry may repeat it.
pub fn hide(text: &str, auth: Option<&str>) -> String {
    let sent = auth.and_then(|auth| URL_SAFE.decode(auth).ok());
    let sent: Value = sent.map_or(Value::Null, |sent| {
        serde_json::from_slice(&sent).unwrap_or_default()
    });
    let word = |key: &str| sent.get(key).and_then(Value::as_str).unwrap_or_default();
    let password = word("password");
    let login = STANDARD.encode(format!("{}:{password}", word("username")));
    let (identity, registry) = (word("identitytoken"), word("registrytoken"));
    web::hide(text, &[&login, password, identity, registry], 1_000)
}

/// `None`: the entry is empty.
fn encode(key: &str, entry: &Value) -> Result<Option<String>, String> {
    let text = |name: &str| {
        let text = entry.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let mut known = Map::new();
    let (mut user, mut password) = (text("username"), text("password"));
    if let Some(auth) = text("auth") {
        let bad = || format!("the entry of {key} is not base64 of USER:PASSWORD");
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| bad())?;
        let pair = String::from_utf8(bytes).map_err(|_| bad())?;
        let (name, word) = pair.split_once(':').ok_or_else(bad)?;
        user = Some(name.to_owned());
        password = Some(word.trim_end_matches('\0').to_owned());
    }
    let tokens = [
        ("identitytoken", text("identitytoken")),
        ("registrytoken", text("registrytoken")),
    ];
    for (name, value) in [("username", user), ("password", password)]
        .into_iter()
        .chain(tokens)
    {
        known.extend(value.map(|value| (name.to_owned(), json!(value))));
    }
    if known.is_empty() {
        return Ok(None);
    }
    known.insert("serveraddress".to_owned(), json!(key));
    Ok(Some(URL_SAFE.encode(Value::Object(known).to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each writer leaves, and what is sent for an image: its password or token, or nothing.
    #[test]
    fn credentials_by_image() {
        let config = json!({ "auths": {
            "127.0.0.1:5000": { "auth": "dTpwOnc=" },
            "https://index.docker.io/v1/": { "auth": "YTpi" },
            "https://token.example": { "identitytoken": "t>?" },
            "my.repo.example.com": { "username": "u@example.com", "password": "pw" },
            "quay.example/team": { "auth": "dGVhbTp0" },
            "quay.example/team/private": { "username": "p", "password": "deep" },
            "legacy.example/v2/": { "auth": "bDps" },
            "nul.example": { "auth": "dTpwAAA=" },
            "bad.example": { "auth": "!" },
            "ghcr.example": {},
        }, "credsStore": "desktop"});
        for (image, expected) in [
            ("127.0.0.1:5000/x:1", Some("p:w")),
            ("busybox", Some("b")),
            ("docker.io/library/busybox:1", Some("b")),
            ("token.example/x", Some("t>?")),
            ("my.repo.example.com/a/b:1", Some("pw")),
            ("quay.example/team/public", Some("t")),
            ("quay.example/team/private/x", Some("deep")),
            ("quay.example/teamwork/x", None),
            ("quay.example/other", None),
            ("legacy.example/x", Some("l")),
            ("nul.example/x", Some("p")),
            ("ghcr.example/org/pub:1", None),
            ("elsewhere.example/x", None),
        ] {
            let sent = find(&config, &Image::parse(image).unwrap()).unwrap();
            let sent = sent.map(|auth| {
                serde_json::from_slice::<Value>(&URL_SAFE.decode(auth).unwrap()).unwrap()
            });
            let secret = sent.as_ref().and_then(|sent| {
                let secret = sent.get("password").or(sent.get("identitytoken"));
                secret.and_then(Value::as_str)
            });
            assert_eq!(secret, expected, "{image}");
        }
        let sent = find(&config, &Image::parse("127.0.0.1:5000/x").unwrap()).unwrap();
        let echo = "401: Basic dTpwOnc= is wrong (p:w)";
        let told = hide(echo, sent.as_deref());
        assert_eq!(told, "401: Basic *** is wrong (***)");
        let bad = Image::parse("bad.example/x").unwrap();
        assert!(find(&config, &bad).unwrap_err().contains("bad.example"));
    }
}
