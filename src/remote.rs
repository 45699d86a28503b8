//! The configuration that the owner has joined: its files in STATE/remote, how it is fetched, and what becomes of it.
//! `joined.json` (the consent) is written by commands alone and the rest by whoever fetched it, so that neither undoes the
//! other's. What is on disk is the truth: the daemon reads it again whenever it may have changed.

use crate::config::{Allow, Config, RemoteConfig, read_remote};
use crate::host::files;
use crate::report;
use crate::state::{self, Durable, StateError};
use crate::units::draw;
use crate::{clock, web};
use minisign_verify::{PublicKey, Signature};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A class has some hundred bytes.
const MOST_BYTES: u64 = files::LIMIT as u64;
/// For the whole of a request: a server that sends a byte a second is not waited for.
const LIMIT: Duration = Duration::from_secs(30);
const REDIRECTS: u32 = 4;
/// At the start it is looked at within so many seconds: machines that start together do not ask together.
const FIRST: f64 = 30.0;
/// As long as nothing is in force a node has nothing to do, and looks this often, in seconds.
const AGAIN: f64 = 60.0;
/// A broken text may have a problem in each line.
const SHOWN: usize = 3;

/// Their files in STATE/remote.
const JOINED: &str = "joined.json";
const IN_FORCE: &str = "config.toml";
const SEEN: &str = "seen.json";

/// What the owner agreed to.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Joined {
    pub url: String,
    /// Of minisign, as base64; empty: nothing is signed.
    pub key: String,
    /// See [`RemoteConfig::permissions`].
    pub accepted: Vec<String>,
    /// The url came with the deployment of this daemon, and with it the consent to all that it may ask for.
    pub is_trusted: bool,
}

impl Joined {
    /// What it asks for that was not permitted.
    pub fn beyond(&self, remote: &RemoteConfig) -> Vec<String> {
        match self.is_trusted {
            true => Vec::new(),
            false => remote.beyond(&self.accepted),
        }
    }
}

/// What is known of the server's text in force, in its own words, when (seconds since 1970) it was looked at and had
/// changed, and what a newer one asks for that was not permitted.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
struct Seen {
    etag: String,
    modified: String,
    looked: f64,
    changed: f64,
    waiting: Vec<String>,
}

/// A text as it was fetched, and what it comes to here.
pub struct Fetched {
    pub text: String,
    pub remote: RemoteConfig,
    etag: String,
    modified: String,
}

fn directory(state: &Path) -> PathBuf {
    state.join("remote")
}

fn read_text(state: &Path, name: &str) -> Option<String> {
    files::read_text(&directory(state).join(name)).ok()
}

fn read_seen(state: &Path) -> Seen {
    let text = read_text(state, SEEN).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// For nobody else to read: a token may be in it.
fn write(state: &Path, name: &str, content: &[u8]) -> Result<(), StateError> {
    state::write_file(&directory(state).join(name), content, 0o600, Durable::Yes)
}

fn write_json(state: &Path, name: &str, value: &impl Serialize) -> Result<(), StateError> {
    write(state, name, &serde_json::to_vec(value).unwrap_or_default())
}

/// `None`: nothing was joined, or the file is broken and with it the consent.
pub fn read_joined(state: &Path) -> Option<Joined> {
    let joined: Joined = serde_json::from_str(&read_text(state, JOINED)?).ok()?;
    (!joined.url.is_empty()).then_some(joined)
}

/// What was fetched from another url, or under another key, goes.
pub fn write_joined(state: &Path, joined: &Joined) -> Result<(), StateError> {
    let before = read_joined(state).unwrap_or_default();
    if (&before.url, &before.key) != (&joined.url, &joined.key) {
        let _ = leave(state);
    }
    state::make_directory(&directory(state), 0o700)?;
    write_json(state, JOINED, joined)
}

/// Nothing of it is left.
pub fn leave(state: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(directory(state))
}

/// What was permitted holds from now on.
pub fn put_in_force(state: &Path, fetched: Fetched) -> Result<(), StateError> {
    let now = clock::now().epoch;
    write(state, IN_FORCE, fetched.text.as_bytes())?;
    let seen = Seen {
        etag: fetched.etag,
        modified: fetched.modified,
        looked: now,
        changed: now,
        waiting: Vec::new(),
    };
    write_json(state, SEEN, &seen)
}

/// The first digits of its SHA-256.
pub fn hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    let first = digest.as_ref().iter().take(8);
    first.map(|byte| format!("{byte:02x}")).collect()
}

/// What a text of that url comes to here. Its targets get a name for this machine that says nothing, and that no other url
/// knows: figures of many nodes would be one heap without.
fn read(text: &str, url: &str, local: &Config) -> Result<RemoteConfig, String> {
    let mut remote = read_remote(text, url, local).map_err(|problems| {
        let shown = problems.iter().take(SHOWN).cloned();
        let shown = shown.collect::<Vec<_>>().join("; ");
        match problems.len().saturating_sub(SHOWN) {
            0 => shown,
            more => format!("{shown}; and {more} more"),
        }
    })?;
    let machine = files::read_word(Path::new("/etc/machine-id"));
    let machine = machine.unwrap_or_else(crate::host::name);
    for target in &mut remote.influxdb {
        target.host_alias = format!("node-{}", hash(&format!("{url} {machine}")));
    }
    Ok(remote)
}

/// Whether a url can be joined. A login in it would end up in `status`.
pub fn check_url(url: &str, allow: &Allow) -> Result<(), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if scheme != "https" && !(scheme == "http" && allow.plain_http) {
        return Err(format!(
            "'{url}' does not begin with https://; [allow] plain-http = true takes http:// too"
        ));
    }
    let is_plain = |c: char| c.is_ascii_graphic() && !"@\\\"<>".contains(c);
    if rest.is_empty() || !rest.chars().all(is_plain) {
        return Err(format!(
            "'{url}' is not an address without a login; write https://HOST/PATH"
        ));
    }
    Ok(())
}

pub fn check_key(key: &str) -> Result<(), String> {
    let read = PublicKey::from_base64(key).map(drop);
    read.map_err(|why| {
        format!(
            "'{key}' is no public key of minisign ({why}); it is the second line of the .pub file"
        )
    })
}

fn verify(key: &str, text: &str, signature: &str) -> Result<(), minisign_verify::Error> {
    let signature = Signature::decode(signature)?;
    PublicKey::from_base64(key)?.verify(text.as_bytes(), &signature, false)
}

/// What was joined, or is to be. Errors: no address, no (whole) answer, no text of a sensible size, no good signature, a
/// text with problems.
pub fn fetch(joined: &Joined, local: &Config) -> Result<Fetched, String> {
    let fetched = fetch_if_new(joined, local, &Seen::default())?;
    fetched.ok_or_else(|| "status 304 without having asked for it".to_owned())
}

/// `None`: it is as it was seen.
fn fetch_if_new(joined: &Joined, local: &Config, seen: &Seen) -> Result<Option<Fetched>, String> {
    let Some((text, etag, modified)) = get(&joined.url, &local.allow, seen)? else {
        return Ok(None);
    };
    if !joined.key.is_empty() {
        let place = format!("{}.minisig", joined.url);
        let why = |why: String| format!("its signature {place}: {why}");
        let signature = get(&place, &local.allow, &Seen::default()).map_err(why)?;
        let (signature, ..) = signature.unwrap_or_default();
        verify(&joined.key, &text, &signature).map_err(|error| why(error.to_string()))?;
    }
    let remote = read(&text, &joined.url, local)?;
    Ok(Some(Fetched {
        text,
        remote,
        etag,
        modified,
    }))
}

/// The text, its etag, and when it was modified; `None`: it has not changed.
fn get(url: &str, allow: &Allow, seen: &Seen) -> Result<Option<(String, String, String)>, String> {
    check_url(url, allow)?;
    let is_safe = url.starts_with("https://");
    let config = web::config(&allow.ca_file, false)?
        .https_only(is_safe)
        .max_redirects(if is_safe { REDIRECTS } else { 0 })
        .max_redirects_will_error(is_safe)
        .timeout_global(Some(LIMIT));
    let mut request = config.build().new_agent().get(url);
    for (name, value) in [
        ("if-none-match", &seen.etag),
        ("if-modified-since", &seen.modified),
    ] {
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let mut response = request.call().map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200 => {}
        304 => return Ok(None),
        code @ 301..=308 => {
            return Err(format!(
                "status {code}: redirects are followed between https addresses only"
            ));
        }
        code => return Err(format!("status {code}")),
    }
    let header = |name: &str| {
        let value = response.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    if header("content-length").is_empty() && header("transfer-encoding").is_empty() {
        return Err("the server does not say how long its answer is, so that a cut one would not be noticed".to_owned());
    }
    let (etag, modified) = (header("etag"), header("last-modified"));
    let body = response.body_mut().with_config().limit(MOST_BYTES);
    let body = body.read_to_vec();
    let body = body.map_err(|error| format!("{error}; no more than 64 KiB are taken"))?;
    let text = String::from_utf8(body).map_err(|_| "the answer is no UTF-8 text".to_owned())?;
    Ok(Some((text, etag, modified)))
}

/// Fetches what was joined, checks it whole, and puts it in force where it asks for nothing new. Blocks its thread.
/// `true`: something has changed on disk.
fn look(state: &Path, joined: &Joined, local: &Config) -> Result<bool, String> {
    let failed = |error: StateError| error.to_string();
    let before = read_seen(state);
    let fetched = fetch_if_new(joined, local, &before)?;
    let mut seen = Seen {
        looked: clock::now().epoch,
        waiting: Vec::new(),
        ..before.clone()
    };
    if let Some(fetched) = fetched {
        seen.waiting = joined.beyond(&fetched.remote);
        if read_text(state, IN_FORCE).as_ref() == Some(&fetched.text) {
            (seen.etag, seen.modified) = (fetched.etag, fetched.modified);
        } else if seen.waiting.is_empty() {
            return put_in_force(state, fetched).map(|()| true).map_err(failed);
        }
    }
    let has_changed = seen.waiting != before.waiting;
    write_json(state, SEEN, &seen)
        .map(|()| has_changed)
        .map_err(failed)
}

/// The daemon's side.
#[derive(Default)]
pub struct Remote {
    joined: Option<Joined>,
    /// Boot second at which it is fetched next; `None`: nothing is joined, or it is being fetched.
    pub due: Option<f64>,
    pub told: Option<report::Remote>,
}

impl Remote {
    /// The local configuration with what is in force on disk. Another url is looked at soon.
    pub fn adopt(&mut self, state: &Path, local: &Config) -> Config {
        let before = self.joined.take();
        self.joined = read_joined(state);
        self.told = None;
        let Some(joined) = &self.joined else {
            self.due = None;
            return local.clone();
        };
        if before.is_none_or(|before| before.url != joined.url) {
            let (now, refresh) = (clock::now().boot, local.allow.refresh.as_secs_f64());
            self.due = Some(now + FIRST.min(refresh) * draw(now));
        }
        let seen = read_seen(state);
        let mut told = report::Remote {
            url: joined.url.clone(),
            looked: seen.looked,
            changed: seen.changed,
            waiting: seen.waiting,
            ..report::Remote::default()
        };
        let mut config = local.clone();
        if let Some(text) = read_text(state, IN_FORCE) {
            match read(&text, &joined.url, local) {
                Ok(remote) if joined.beyond(&remote).is_empty() => {
                    config = local.with(&remote);
                    told.hash = hash(&text);
                    told.refused = remote.refused;
                }
                Ok(remote) => told.waiting = joined.beyond(&remote),
                Err(problems) => told.refused = vec![problems],
            }
        }
        self.told = Some(told);
        config
    }

    /// What is to be done off the loop, when it is time.
    pub fn job(
        &mut self,
        state: &Path,
        local: &Config,
        now: f64,
    ) -> Option<impl FnOnce() -> Result<bool, String> + Send + use<>> {
        let due = self.due.take_if(|due| now >= *due);
        let joined = self.joined.clone().filter(|_| due.is_some())?;
        let (state, local) = (state.to_owned(), local.clone());
        let next = "what was accepted last stays in force; it is looked at again";
        Some(move || {
            look(&state, &joined, &local).map_err(|why| format!("{}: {why}; {next}", joined.url))
        })
    }

    /// A look is over: the next one is due before `refresh` is.
    pub fn looked(&mut self, state: &Path, local: &Config) {
        let (now, refresh) = (clock::now().boot, local.allow.refresh.as_secs_f64());
        let Some(told) = &mut self.told else { return };
        let wait = match told.hash.is_empty() {
            true => refresh.min(AGAIN),
            false => refresh,
        };
        self.due = Some(now + wait * (0.8 + 0.2 * draw(now)));
        let seen = read_seen(state);
        (told.looked, told.changed) = (seen.looked, seen.changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that starts before its network has no configuration yet, and must not wait for an hour.
    #[test]
    fn the_next_look() {
        for (hash, refresh, bounds) in [
            ("", 3_600, 48.0..=60.0),
            ("", 5, 4.0..=5.0),
            ("0123", 3_600, 2_880.0..=3_600.0),
        ] {
            let told = report::Remote {
                hash: hash.to_owned(),
                ..report::Remote::default()
            };
            let mut remote = Remote {
                joined: Some(Joined::default()),
                due: None,
                told: Some(told),
            };
            let mut local = Config::default();
            local.allow.refresh.0 = Duration::from_secs(refresh);
            let before = clock::now().boot;
            remote.looked(Path::new("/nonexistent"), &local);
            let wait = remote.due.unwrap() - before;
            assert!(
                bounds.contains(&wait) || (wait - bounds.end()).abs() < 0.1,
                "'{hash}' {refresh}: {wait}"
            );
        }
    }
}
