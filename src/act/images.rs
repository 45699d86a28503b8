//! Brings images here, and takes away those that were replaced: what came with us goes with us, as soon as nobody uses it.
//! Credentials are read when they are needed, for one call, and are told to nobody but the engine.

use super::builtin;
use crate::config::{Image, ImageRef, PilotClass};
use crate::engine::{Engine, Outcome, Progress};
use crate::state;
use crate::units::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file with credentials has a few KiB.
const AUTH_LIMIT: usize = 1 << 20;

/// A pull under way, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pull {
    pub image: String,
    /// Bytes that came over the network, and that will in all as far as is known.
    pub bytes: u64,
    pub total: u64,
}

/// Read by the loop while a flight writes it.
pub type Pulling = Arc<Mutex<Option<Pull>>>;

pub fn read_pull(pulling: &Pulling) -> Option<Pull> {
    pulling
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// What a fetch needs to know besides its class.
pub struct Fetch {
    /// What containers are created from.
    pub image: String,
    pub state: PathBuf,
    /// Bytes a day; 0: no bound.
    pub per_day: u64,
    /// Days since 1970.
    pub day: u64,
    /// The images of all classes: what is not among them may go.
    pub wanted: Vec<String>,
    pub pulling: Pulling,
}

impl Fetch {
    /// Brings the image here. What was not here before is written down before it comes, so that a crash in between
    /// leaves a name too many there and never an image that nobody removes.
    pub fn run(&self, engine: &Engine, class: &PilotClass) -> Result<(), String> {
        let text = |error: crate::engine::Error| error.to_string();
        let before = engine.image(&self.image).map_err(text)?;
        if before.is_some() && class.image == Image::Builtin {
            return Ok(());
        }
        let known = state::read_images(&self.state).map_err(|error| error.to_string())?;
        let is_ours = before.is_none() || known.contains(&self.image);
        if is_ours {
            self.remember(&self.image)?;
        }
        let brought = self.bring(engine, class);
        if brought.is_err() && before.is_none() {
            let _ = state::remove_image(&self.state, &self.image);
        }
        brought?;
        let now = engine.image(&self.image).map_err(text)?;
        let now = now.ok_or_else(|| format!("{} is not in what was brought", self.image))?;
        if let Some(old) = before.filter(|old| is_ours && old.id != now.id) {
            self.remember(&old.id)?;
            log::info!(
                "{}: new pilots use the new image, the old one goes with its last pilot",
                self.image
            );
        }
        tidy(engine, &self.state, &self.wanted);
        Ok(())
    }

    fn remember(&self, image: &str) -> Result<(), String> {
        state::add_image(&self.state, image).map_err(|error| error.to_string())
    }

    fn bring(&self, engine: &Engine, class: &PilotClass) -> Result<(), String> {
        let text = |error: crate::engine::Error| error.to_string();
        match &class.image {
            Image::Builtin => {
                let tar = builtin::archive()
                    .map_err(|error| format!("our own binary can't be read: {error}"))?;
                let tag = self.image.rsplit(':').next().unwrap_or("latest");
                engine
                    .import(builtin::REPOSITORY, tag, &builtin::CHANGES, &tar)
                    .map(drop)
                    .map_err(text)
            }
            Image::Named(_) if !class.image_archive.is_empty() => {
                let failed = |error: String| format!("image-archive {error}");
                let file = crate::host::files::open(Path::new(&class.image_archive))
                    .map_err(|error| failed(error.to_string()))?;
                let length = file.metadata().map_err(|error| failed(error.to_string()))?;
                let length = length.len();
                engine.load(&file, length).map_err(text)
            }
            Image::Named(image) => self.pull(engine, class, image),
        }
    }

    fn pull(&self, engine: &Engine, class: &PilotClass, image: &ImageRef) -> Result<(), String> {
        let auth = read_auth(class, image)?;
        let today = state::read_pulled(&self.state, self.day);
        let used_up = |bytes: u64| match self.per_day > 0 && bytes > self.per_day {
            true => Err(format!(
                "pull-per-day ({}) is used up; it goes on tomorrow, or raise it",
                Bytes(self.per_day)
            )),
            false => Ok(()),
        };
        used_up(today)?;
        let (mut layers, mut seen) = (
            BTreeMap::new(),
            Pull {
                image: self.image.clone(),
                ..Pull::default()
            },
        );
        let mut on_progress = |progress: &Progress| {
            if progress.status != "Downloading" {
                return Ok(());
            }
            layers.insert(
                progress.id.clone(),
                (progress.current.unwrap_or(0), progress.total.unwrap_or(0)),
            );
            (seen.bytes, seen.total) = layers
                .values()
                .fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
            *self.pulling.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen.clone());
            used_up(today + seen.bytes)
        };
        let pulled = engine.pull(
            &image.name,
            image.pull_tag(),
            auth.as_deref(),
            &mut on_progress,
        );
        *self.pulling.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if seen.bytes > 0
            && let Err(error) = state::write_pulled(&self.state, self.day, today + seen.bytes)
        {
            log::warn!("{error}");
        }
        pulled.map(drop).map_err(|error| error.to_string())
    }
}

/// Removes images that came with us and that no class names any more, unless a container uses them.
pub fn tidy(engine: &Engine, state: &Path, wanted: &[String]) {
    for image in state::read_images(state).unwrap_or_default() {
        if wanted.contains(&image) {
            continue;
        }
        // Somebody has given an image of ours another name: it is theirs now.
        let is_renamed = image.starts_with("sha256:")
            && engine
                .image(&image)
                .ok()
                .flatten()
                .is_some_and(|found| !found.repo_tags.is_empty());
        if is_renamed
            || matches!(
                engine.image_remove(&image),
                Ok(Outcome::Done | Outcome::Gone)
            )
        {
            log::info!(
                "{image}: {}",
                if is_renamed {
                    "has another name now and stays"
                } else {
                    "removed"
                }
            );
            let _ = state::remove_image(state, &image);
        }
    }
}

/// The value of X-Registry-Auth; `None`: the registry is asked without. Errors: the file named by the class can't be used.
fn read_auth(class: &PilotClass, image: &ImageRef) -> Result<Option<String>, String> {
    let is_named = !class.auth_file.is_empty();
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let usual = || {
        std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(home)
            .map(|dir| dir.join("config.json"))
    };
    let file = if is_named {
        Some(PathBuf::from(&class.auth_file))
    } else {
        usual()
    };
    let Some(file) = file else {
        return Ok(None);
    };
    if !is_named && !file.exists() {
        return Ok(None);
    }
    let failed = |why: String| format!("{}: {why}", file.display());
    let found = fs::metadata(&file).map_err(|error| failed(error.to_string()))?;
    if found.mode() & 0o007 != 0 && is_named {
        return Err(failed(
            "everybody on this machine may read these credentials; chmod 600 it".to_owned(),
        ));
    }
    let text = crate::host::files::read(&file, AUTH_LIMIT).map_err(|error| error.to_string())?;
    let config: Value =
        serde_json::from_slice(&text).map_err(|error| failed(format!("not JSON: {error}")))?;
    encode_auth(&config, image.registry()).map_err(failed)
}

/// From `auths` as `docker login` writes them. Docker's own registry goes by an address of its own.
fn encode_auth(config: &Value, registry: &str) -> Result<Option<String>, String> {
    let host = |key: &str| {
        let host = key
            .split_once("://")
            .map_or(key, |(_, rest)| rest)
            .split('/')
            .next()
            .unwrap_or(key)
            .to_owned();
        if host == "index.docker.io" {
            "docker.io".to_owned()
        } else {
            host
        }
    };
    let auths = config.get("auths").and_then(Value::as_object);
    let Some((key, entry)) = auths
        .into_iter()
        .flatten()
        .find(|(key, _)| host(key) == registry)
    else {
        return Ok(None);
    };
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let value = if let Some(token) = text("identitytoken") {
        json!({ "identitytoken": token, "serveraddress": key })
    } else if let Some(auth) = text("auth") {
        let bad = || format!("the entry of {key} is not base64 of USER:PASSWORD");
        let pair = STANDARD
            .decode(auth)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(bad)?;
        let (user, password) = pair.split_once(':').ok_or_else(bad)?;
        json!({ "username": user, "password": password.trim_end_matches('\0'), "serveraddress": key })
    } else {
        return Err(format!(
            "the entry of {key} holds no credentials (a helper program has them); use auth-file"
        ));
    };
    Ok(Some(URL_SAFE.encode(value.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_by_registry() {
        let config = json!({ "auths": {
            "127.0.0.1:5000": { "auth": "dTpwOnc=" },
            "https://index.docker.io/v1/": { "auth": "YTpi" },
            "https://token.example": { "identitytoken": "t>?" },
            "bad.example": { "auth": "!" },
            "helper.example": {},
        }});
        let decoded = |registry: &str| {
            let auth = encode_auth(&config, registry).unwrap()?;
            Some(serde_json::from_slice::<Value>(&URL_SAFE.decode(auth).unwrap()).unwrap())
        };
        assert_eq!(decoded("127.0.0.1:5000").unwrap()["password"], "p:w");
        assert_eq!(decoded("docker.io").unwrap()["username"], "a");
        assert_eq!(decoded("token.example").unwrap()["identitytoken"], "t>?");
        assert_eq!(decoded("elsewhere.example"), None);
        for bad in ["bad.example", "helper.example"] {
            assert!(encode_auth(&config, bad).unwrap_err().contains(bad));
        }
    }
}
