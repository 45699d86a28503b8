//! The configuration that the owner has joined: its files in STATE/remote, how it is fetched, and what becomes of it.
//! `joined.json` (the consent) is written by commands alone and the rest by whoever fetched it, so that neither undoes the
//! other's. What is on disk is the truth: the daemon reads it again whenever it may have changed.

use crate::config::{Allow, Config, Offer, read_offer};
use crate::report;
use crate::state::{self, Durable, StateError};
use crate::units::draw;
use crate::{clock, web};
use minisign_verify::{PublicKey, Signature};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration has some hundred bytes a class.
const TEXT_LIMIT: usize = 64 << 10;
/// For the whole of a request: a server that sends a byte a second is not waited for.
const LIMIT: Duration = Duration::from_secs(30);
const REDIRECTS: u32 = 4;
/// At the start it is looked at within so many seconds: machines that start together do not ask together.
const FIRST: f64 = 30.0;
/// As long as nothing is in force a node has nothing to do, and looks this often, in seconds.
const AGAIN: f64 = 60.0;

/// What the owner agreed to.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Joined {
    pub url: String,
    /// Of minisign, as base64; empty: nothing is signed.
    pub key: String,
    /// See [`Offer::asks`].
    pub accepted: Vec<String>,
    /// The url came with the deployment of this daemon, and with it the consent to all that it may ask for.
    pub is_trusted: bool,
}

impl Joined {
    fn accepts(&self, offer: &Offer) -> bool {
        self.is_trusted || offer.unaccepted(&self.accepted).is_empty()
    }
}

/// What is known of the server's text, in its own words, and when (seconds since 1970) it was looked at and had changed.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
struct Seen {
    etag: String,
    modified: String,
    looked: f64,
    changed: f64,
}

/// A text as it was fetched.
pub struct Fetched {
    pub text: String,
    etag: String,
    modified: String,
}

fn directory(state: &Path) -> PathBuf {
    state.join("remote")
}

fn path(state: &Path, name: &str) -> PathBuf {
    directory(state).join(name)
}

/// In force, and newer but not accepted yet.
const IN_FORCE: &str = "config.toml";
const WAITING: &str = "waiting.toml";

fn read_json<T: Default + for<'a> Deserialize<'a>>(state: &Path, name: &str) -> Option<T> {
    let content = state::read_file(&path(state, name), TEXT_LIMIT).ok()??;
    serde_json::from_str(&content).ok()
}

fn read_text(state: &Path, name: &str) -> Option<String> {
    state::read_file(&path(state, name), TEXT_LIMIT).ok()?
}

/// For nobody else to read: a token may be in it.
fn write(state: &Path, name: &str, content: &[u8]) -> Result<(), StateError> {
    state::write_file(&path(state, name), content, 0o600, Durable::Yes)
}

/// `None`: nothing was joined, or the file is broken and with it the consent.
pub fn read_joined(state: &Path) -> Option<Joined> {
    read_json::<Joined>(state, "joined.json").filter(|joined| !joined.url.is_empty())
}

/// What was fetched from another url, or under another key, goes.
pub fn write_joined(state: &Path, joined: &Joined) -> Result<(), StateError> {
    if read_joined(state)
        .is_some_and(|before| (before.url, before.key) != (joined.url.clone(), joined.key.clone()))
    {
        let _ = leave(state);
    }
    state::make_directory(&directory(state), 0o700)?;
    write(
        state,
        "joined.json",
        &serde_json::to_vec(joined).unwrap_or_default(),
    )
}

/// Nothing of it is left.
pub fn leave(state: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(directory(state))
}

/// The newer text that waits for consent.
pub fn read_waiting(state: &Path) -> Option<String> {
    read_text(state, WAITING)
}

/// Puts an accepted text in force; none waits then.
pub fn put_in_force(state: &Path, text: &str) -> Result<(), StateError> {
    let (now, before) = (
        clock::now().epoch,
        read_json::<Seen>(state, "seen.json").unwrap_or_default(),
    );
    // Who joins has just looked.
    let looked = if before.looked > 0.0 {
        before.looked
    } else {
        now
    };
    replace(
        state,
        text,
        &Seen {
            looked,
            changed: now,
            ..before
        },
    )
}

fn replace(state: &Path, text: &str, seen: &Seen) -> Result<(), StateError> {
    write(state, IN_FORCE, text.as_bytes())?;
    note(state, seen)?;
    state::remove_file(&path(state, WAITING))
}

fn note(state: &Path, seen: &Seen) -> Result<(), StateError> {
    write(
        state,
        "seen.json",
        &serde_json::to_vec(seen).unwrap_or_default(),
    )
}

/// The first digits of its SHA-256.
pub fn hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a text of that url comes to here. Its targets get a name for this machine that says nothing, and that no other url
/// knows: figures of many nodes would be one heap without.
pub fn read(text: &str, url: &str, local: &Config) -> Result<Offer, Vec<String>> {
    let mut offer = read_offer(text, url, local)?;
    for sink in &mut offer.influxdb {
        let machine =
            std::fs::read_to_string("/etc/machine-id").unwrap_or_else(|_| crate::host::name());
        sink.host_alias = format!("node-{}", hash(&format!("{url} {}", machine.trim())));
    }
    Ok(offer)
}

/// Whether a url can be joined. A login in it would end up in `status`.
pub fn check_url(url: &str, allow: &Allow) -> Result<(), String> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://").filter(|_| allow.plain_http));
    match rest {
        None => Err(format!(
            "'{url}' does not begin with https://; [allow] plain-http = true takes http:// too"
        )),
        Some(rest)
            if rest.is_empty()
                || !rest
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !"@\\\"<>".contains(c)) =>
        {
            Err(format!(
                "'{url}' is not an address without a login; write https://HOST/PATH"
            ))
        }
        Some(_) => Ok(()),
    }
}

/// What was joined, or is to be. Errors: no address, no (whole) answer, no text of a sensible size, no good signature.
pub fn fetch(joined: &Joined, allow: &Allow) -> Result<Fetched, String> {
    let fetched = fetch_if_new(joined, allow, &Seen::default())?;
    fetched.ok_or_else(|| "status 304 without having asked for it".to_owned())
}

fn fetch_if_new(joined: &Joined, allow: &Allow, seen: &Seen) -> Result<Option<Fetched>, String> {
    let fetched = get(&joined.url, allow, seen)?;
    if let Some(fetched) = fetched.as_ref().filter(|_| !joined.key.is_empty()) {
        let place = format!("{}.minisig", joined.url);
        let signature = get(&place, allow, &Seen::default())
            .map_err(|why| format!("its signature {place}: {why}"))?;
        let signature = signature.map_or(String::new(), |signature| signature.text);
        verify(&joined.key, &fetched.text, &signature)
            .map_err(|why| format!("its signature {place}: {why}"))?;
    }
    Ok(fetched)
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

/// `None`: it has not changed.
fn get(url: &str, allow: &Allow, seen: &Seen) -> Result<Option<Fetched>, String> {
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
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    match response.status().as_u16() {
        304 => return Ok(None),
        200 => {}
        code @ 301..=308 => {
            return Err(format!(
                "status {code}: redirects are followed between https addresses only"
            ));
        }
        code => return Err(format!("status {code}")),
    }
    if header("content-length").is_empty() && header("transfer-encoding").is_empty() {
        return Err("the server does not say how long its answer is, so that a cut one would not be noticed".to_owned());
    }
    let (etag, modified) = (
        header("etag").to_owned(),
        header("last-modified").to_owned(),
    );
    let body = response
        .body_mut()
        .with_config()
        .limit(TEXT_LIMIT as u64)
        .read_to_vec();
    let body = body.map_err(|error| format!("{error}; no more than 64 KiB are taken"))?;
    let text = String::from_utf8(body).map_err(|_| "the answer is no UTF-8 text".to_owned())?;
    Ok(Some(Fetched {
        text,
        etag,
        modified,
    }))
}

/// Fetches what was joined, checks it whole, and puts it in force where it asks for nothing new. Blocks its thread.
/// `true`: something has changed on disk.
fn look(state: &Path, joined: &Joined, local: &Config) -> Result<bool, String> {
    let before: Seen = read_json(state, "seen.json").unwrap_or_default();
    let now = clock::now().epoch;
    let fetched = fetch_if_new(joined, &local.allow, &before)?;
    let has_changed = match fetched {
        None => note(
            state,
            &Seen {
                looked: now,
                ..before
            },
        )
        .map(|()| false),
        Some(Fetched {
            text,
            etag,
            modified,
        }) => {
            let seen = Seen {
                etag,
                modified,
                looked: now,
                changed: before.changed,
            };
            let [in_force, waiting] = [IN_FORCE, WAITING].map(|name| read_text(state, name));
            if in_force.as_ref() == Some(&text) {
                // What waited was taken back.
                state::remove_file(&path(state, WAITING))
                    .and_then(|()| note(state, &seen))
                    .map(|()| waiting.is_some())
            } else if waiting.as_ref() == Some(&text) {
                note(state, &seen).map(|()| false)
            } else {
                let offer =
                    read(&text, &joined.url, local).map_err(|problems| shorten(&problems))?;
                let written = match joined.accepts(&offer) {
                    true => replace(
                        state,
                        &text,
                        &Seen {
                            changed: now,
                            ..seen
                        },
                    ),
                    false => {
                        write(state, WAITING, text.as_bytes()).and_then(|()| note(state, &seen))
                    }
                };
                written.map(|()| true)
            }
        }
    };
    has_changed.map_err(|error| error.to_string())
}

/// A broken text may have a problem in each line.
fn shorten(problems: &[String]) -> String {
    let more = problems.len().saturating_sub(3);
    let shown = problems.get(..3).unwrap_or(problems).join("; ");
    if more > 0 {
        format!("{shown}; and {more} more")
    } else {
        shown
    }
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
        let joined = read_joined(state);
        if joined.as_ref().map(|joined| &joined.url)
            != self.joined.as_ref().map(|joined| &joined.url)
        {
            let now = clock::now().boot;
            let soon = FIRST.min(local.allow.refresh.as_secs_f64());
            self.due = joined.as_ref().map(|_| now + soon * draw(now));
        }
        self.joined = joined;
        self.told = None;
        let Some(joined) = &self.joined else {
            return local.clone();
        };
        let mut told = report::Remote {
            url: joined.url.clone(),
            ..report::Remote::default()
        };
        told.waiting = read_waiting(state).map_or(Vec::new(), |text| {
            let offer = read(&text, &joined.url, local).unwrap_or_default();
            offer.unaccepted(&joined.accepted)
        });
        let mut config = local.clone();
        if let Some(text) = read_text(state, IN_FORCE) {
            match read(&text, &joined.url, local) {
                Ok(offer) if joined.accepts(&offer) => {
                    config = local.with(&offer);
                    told.hash = hash(&text);
                    told.refused = offer.refused;
                }
                Ok(offer) => told.waiting = offer.unaccepted(&joined.accepted),
                Err(problems) => told.refused = problems,
            }
        }
        self.told = Some(told);
        self.date(state);
        config
    }

    fn date(&mut self, state: &Path) {
        if let Some(told) = &mut self.told {
            let seen: Seen = read_json(state, "seen.json").unwrap_or_default();
            (told.looked, told.changed) = (seen.looked, seen.changed);
        }
    }

    /// What is to be done off the loop, when it is time.
    pub fn job(
        &mut self,
        state: &Path,
        local: &Config,
        now: f64,
    ) -> Option<impl FnOnce() -> Result<bool, String> + Send + use<>> {
        let joined = self
            .joined
            .clone()
            .filter(|_| self.due.is_some_and(|due| now >= due))?;
        let (state, local) = (state.to_owned(), local.clone());
        self.due = None;
        let next = "what was accepted last stays in force; it is looked at again";
        Some(move || {
            look(&state, &joined, &local).map_err(|why| format!("{}: {why}; {next}", joined.url))
        })
    }

    /// A look is over: the next one is due before `refresh` is.
    pub fn looked(&mut self, state: &Path, local: &Config) {
        let (now, refresh) = (clock::now().boot, local.allow.refresh.as_secs_f64());
        let is_idle = self.told.as_ref().is_some_and(|told| told.hash.is_empty());
        let wait = if is_idle { refresh.min(AGAIN) } else { refresh };
        self.due = self
            .joined
            .as_ref()
            .map(|_| now + wait * (0.8 + 0.2 * draw(now)));
        self.date(state);
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
            local.allow.refresh = Duration::from_secs(refresh);
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
