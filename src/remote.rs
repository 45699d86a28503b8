//! The configuration that the owner has joined: its files in STATE/remote, how it is fetched, and what becomes of it.
//! `joined.json` (the consent) is written by commands alone and the rest by whoever fetched it, so that neither undoes the
//! other's. What is on disk is the truth: the daemon reads it again whenever it may have changed.

use crate::config::{Allow, Config, RemoteConfig, read_remote, read_serial};
use crate::state::{self, Durable};
use crate::units::{clean_line, draw};
use crate::{clock, host::files, report, web};
use minisign_verify::{PublicKey, Signature};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// Its files in the state directory.
const DIRECTORY: &str = "remote";
const JOINED: &str = "remote/joined.json";
const IN_FORCE: &str = "remote/config.toml";
const SEEN: &str = "remote/seen.json";

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
        let mut lines = remote.permissions.clone();
        lines.retain(|line| !self.is_trusted && !self.accepted.contains(line));
        lines
    }
}

fn read_text(state: &Path, name: &str) -> String {
    files::read_text(&state.join(name)).unwrap_or_default()
}

/// What was known of the server when it was asked last.
fn read_seen(state: &Path) -> report::Remote {
    serde_json::from_slice(read_text(state, SEEN).as_bytes()).unwrap_or_default()
}

/// For nobody else to read: a token may be in it.
fn write(state: &Path, name: &str, content: &str) -> io::Result<()> {
    state::write_file(&state.join(name), content.as_bytes(), 0o600, Durable::Yes)
}

/// `None`: nothing was joined, or the file is broken and with it the consent.
pub fn read_joined(state: &Path) -> Option<Joined> {
    let joined: Joined = serde_json::from_slice(read_text(state, JOINED).as_bytes()).ok()?;
    (!joined.url.is_empty()).then_some(joined)
}

/// What was fetched from another url, or under another key, goes.
pub fn write_joined(state: &Path, joined: &Joined) -> io::Result<()> {
    let before = read_joined(state).unwrap_or_default();
    if (&before.url, &before.key) != (&joined.url, &joined.key) {
        let _ = leave(state);
    }
    state::make_directory(&state.join(DIRECTORY), 0o700)?;
    write(state, JOINED, &serde_json::to_string(joined)?)
}

/// Nothing of it is left.
pub fn leave(state: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(state.join(DIRECTORY))
}

fn write_seen(state: &Path, changed: f64, waiting: Vec<String>) -> io::Result<()> {
    let seen = report::Remote {
        looked: clock::now().epoch,
        changed,
        waiting,
        ..report::Remote::default()
    };
    write(state, SEEN, &serde_json::to_string(&seen)?)
}

/// What was permitted holds from now on.
pub fn put_in_force(state: &Path, text: &str) -> io::Result<()> {
    write(state, IN_FORCE, text)?;
    write_seen(state, clock::now().epoch, Vec::new())
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
    let shorten = |problems: Vec<String>| clean_line(&problems.join("; "), 500);
    let mut remote = read_remote(text, url, local).map_err(shorten)?;
    let machine = files::read_value(Path::new("/etc/machine-id"));
    let machine = machine.unwrap_or_else(crate::host::name);
    for target in &mut remote.influxdb {
        target.host_alias = format!("node-{}", hash(&format!("{url} {machine}")));
    }
    Ok(remote)
}

/// Whether a url can be joined, and a key (empty: none) be one. A login in the url would end up in `status`.
pub fn check(url: &str, key: &str, allow: &Allow) -> Result<(), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_graphic() && !"@\\\"<>".contains(c);
    let is_taken = scheme == "https" || scheme == "http" && allow.plain_http;
    if !is_taken || rest.is_empty() || !rest.chars().all(is_plain) {
        let write = "write https://HOST/PATH without a login; [allow] plain-http takes http:// too";
        return Err(format!("'{url}' can't be joined; {write}"));
    }
    if !key.is_empty() && PublicKey::from_base64(key).is_err() {
        let advice = "it is the second line of the .pub file";
        return Err(format!("'{key}' is no public key of minisign; {advice}"));
    }
    Ok(())
}

/// What was joined, or is to be: its text, and what that comes to here. Errors: no address, no (whole) answer, no text of a
/// sensible size, no good signature, an old text, a text with problems.
pub fn fetch(dir: &Path, joined: &Joined, own: &Config) -> Result<(String, RemoteConfig), String> {
    let (Joined { url, key, .. }, allow) = (joined, &own.allow);
    let text = get(url, allow)?;
    if !key.is_empty() {
        let place = format!("{url}.minisig");
        let why = |why: String| format!("its signature {place}: {why}");
        let signature = get(&place, allow).map_err(why)?;
        Signature::decode(&signature)
            .and_then(|it| PublicKey::from_base64(key)?.verify(text.as_bytes(), &it, false))
            .map_err(|error| why(error.to_string()))?;
        let before = read_joined(dir).filter(|it| it.url == *url && it.key == *key);
        let last = before.map_or(String::new(), |_| read_text(dir, IN_FORCE));
        let (serial, before) = (read_serial(&text), read_serial(&last));
        if last != text && serial <= before {
            let why = "an old text is refused, and each signed one counts `serial` up";
            return Err(format!("its serial {serial} is not above {before}: {why}"));
        }
    }
    let remote = read(&text, url, own)?;
    Ok((text, remote))
}

fn get(url: &str, allow: &Allow) -> Result<String, String> {
    check(url, "", allow)?;
    let is_safe = url.starts_with("https://");
    let config = web::config(url, &allow.ca_file, false)?
        .https_only(is_safe)
        .max_redirects(if is_safe { 4 } else { 0 })
        .max_redirects_will_error(is_safe);
    let response = config.build().new_agent().get(url).call();
    let mut response = response.map_err(|error| web::explain(url, &error))?;
    let redirects = "redirects are followed between https addresses only";
    match response.status().as_u16() {
        200 => {}
        code @ 301..=308 => return Err(format!("status {code}: {redirects}")),
        code => return Err(format!("status {code}")),
    }
    let says = |header| response.headers().contains_key(header);
    if !says("content-length") && !says("transfer-encoding") {
        let why = "the server does not say how long its answer is: a cut one would pass";
        return Err(why.to_owned());
    }
    // A class has some hundred bytes.
    let body = response.body_mut().with_config().limit(64 << 10);
    let body = body.read_to_vec();
    let body = body.map_err(|error| format!("{error}; no more than 64 KiB are taken"))?;
    String::from_utf8(body).map_err(|_| "the answer is no UTF-8 text".to_owned())
}

/// Fetches what was joined, checks it whole, and puts it in force where it asks for nothing new. Blocks its thread.
fn look(state: &Path, joined: &Joined, local: &Config) -> Result<(), String> {
    let (text, remote) = fetch(state, joined, local)?;
    let waiting = joined.beyond(&remote);
    let written = match waiting.is_empty() && text != read_text(state, IN_FORCE) {
        true => put_in_force(state, &text),
        false => write_seen(state, read_seen(state).changed, waiting),
    };
    written.map_err(|error| error.to_string())
}

pub type Job = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The daemon's side.
#[derive(Default)]
pub struct Remote {
    /// Boot second at which it is fetched next; `None`: nothing is joined, or it is being fetched.
    pub due: Option<f64>,
    pub told: Option<report::Remote>,
}

impl Remote {
    /// The local configuration with what is in force on disk. Another url is looked at soon.
    pub fn adopt(&mut self, state: &Path, local: &Config) -> Config {
        let before = self.told.take();
        let Some(joined) = read_joined(state) else {
            self.due = None;
            return local.clone();
        };
        if before.is_none_or(|told| told.url != joined.url) {
            let (now, refresh) = (clock::now().boot, local.allow.refresh.as_secs_f64());
            // Within half a minute: machines that start together do not ask together.
            self.due = Some(now + refresh.min(30.0) * draw(now));
        }
        let (mut config, mut told) = (local.clone(), read_seen(state));
        told.url.clone_from(&joined.url);
        let text = read_text(state, IN_FORCE);
        match read(&text, &joined.url, local) {
            _ if text.is_empty() => {}
            Ok(remote) if joined.beyond(&remote).is_empty() => {
                config = local.with(&remote);
                told.hash = hash(&text);
                told.refused = remote.refused;
            }
            Ok(remote) => told.waiting = joined.beyond(&remote),
            Err(problems) => told.refused = vec![problems],
        }
        self.told = Some(told);
        config
    }

    /// What is to be done off the loop, when it is time.
    pub fn job(&mut self, state: &Path, local: &Config, now: f64) -> Option<Job> {
        self.due.take_if(|due| now >= *due)?;
        let (state, joined, local) = (state.to_owned(), read_joined(state)?, local.clone());
        let next = "what was accepted last stays in force; it is looked at again";
        Some(Box::new(move || {
            look(&state, &joined, &local).map_err(|why| format!("{}: {why}; {next}", joined.url))
        }))
    }

    /// A look is over: the next one is due before `refresh` is.
    pub fn looked(&mut self, local: &Config) {
        let (now, refresh) = (clock::now().boot, local.allow.refresh.as_secs_f64());
        self.due = self.told.as_ref().map(|told| {
            // Without anything in force a node has nothing to do.
            let most = if told.hash.is_empty() { 60.0 } else { refresh };
            now + refresh.min(most) * (0.8 + 0.2 * draw(now))
        });
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
                due: None,
                told: Some(told),
            };
            let mut local = Config::default();
            local.allow.refresh.0 = std::time::Duration::from_secs(refresh);
            let before = clock::now().boot;
            remote.looked(&local);
            let wait = remote.due.unwrap() - before;
            assert!(
                bounds.contains(&wait) || (wait - bounds.end()).abs() < 0.1,
                "'{hash}' {refresh}: {wait}"
            );
        }
    }
}
