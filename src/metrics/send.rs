//! One request to a metrics target and what its answer means. Blocks its thread, with a time-out for every step; secrets
//! are read here, sent, and nowhere repeated, not even where the server repeats them.

use super::queue::Answer;
use crate::config::Influx;
use crate::host::files;
use crate::{clock, web};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The server's own words are cut here, in characters.
const LONGEST_MESSAGE: usize = 200;
const ANSWER_LIMIT: u64 = 64 << 10;
/// What servers say of lines that they don't take, all of them in JSON.
const ABOUT_LINES: [&str; 6] = [
    "partial write",
    "line protocol",
    "unable to parse",
    "field type",
    "points",
    "no data",
];

#[derive(Debug)]
pub(super) struct Said {
    pub status: u16,
    /// One line; without our secrets.
    pub words: String,
    pub is_json: bool,
    /// Seconds.
    pub retry_after: Option<f64>,
}

/// `limit`: for the whole of it, where nobody can wait for long.
pub fn write(target: &Influx, lines: &str, limit: Option<Duration>) -> Answer {
    let (path, [place, part]) = match target.bucket.as_str() {
        "" => {
            let policy = ("rp", target.retention_policy.as_str());
            ("/write", [("db", target.database.as_str()), policy])
        }
        bucket => {
            let bucket = ("bucket", bucket);
            ("/api/v2/write", [("org", target.org.as_str()), bucket])
        }
    };
    let query = [place, part, ("precision", "ns")];
    match ask(target, path, &query, lines, limit) {
        Ok(said) => judge(said),
        Err(why) => Answer::Failed(0, why, None),
    }
}

/// Success is 204, nothing else: any page of a proxy, a login or another program has a 200. And a refusal speaks of the
/// lines only where the server says so.
pub(super) fn judge(said: Said) -> Answer {
    let (status, words) = (said.status, said.words);
    let text = words.to_lowercase();
    let is_about_lines = said.is_json && ABOUT_LINES.iter().any(|about| text.contains(about));
    match status {
        204 => Answer::Taken,
        413 => Answer::TooLarge(format!("status 413: {words}")),
        400 | 422 if is_about_lines => {
            // Of a batch that was taken in part: `partial write: … dropped=2`.
            let number = words.split_once("dropped=").map(|(_, rest)| rest);
            let digits = number.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
            let dropped = digits.and_then(|digits| digits.parse().ok());
            Answer::BadLines(format!("status {status}: {words}"), dropped)
        }
        ..400 => {
            let why = format!("status {status} and not 204, so it took nothing: {words}");
            Answer::Failed(status, why, said.retry_after)
        }
        _ => Answer::Failed(
            status,
            format!("status {status}: {words}"),
            said.retry_after,
        ),
    }
}

/// Of version 1 only. Errors: why there is none.
pub fn create_database(target: &Influx, limit: Option<Duration>) -> Result<(), String> {
    let name = target.database.replace('\\', "\\\\").replace('"', "\\\"");
    let query = format!("CREATE DATABASE \"{name}\"");
    let said = ask(target, "/query", &[("q", &query)], "", limit)?;
    match said.status {
        200 | 204 => Ok(()),
        status => Err(format!("status {status}: {}", said.words)),
    }
}

fn ask(
    target: &Influx,
    path: &str,
    query: &[(&str, &str)],
    body: &str,
    limit: Option<Duration>,
) -> Result<Said, String> {
    let secret = secret(target)?;
    let login = BASE64_STANDARD.encode(format!("{}:{secret}", target.user));
    let config = web::config(&target.url, &target.ca_file, target.insecure)?;
    let agent = config.timeout_global(limit).build().new_agent();
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    let mut request = agent
        .post(format!("{}{path}", target.url))
        .query_pairs(given.copied())
        .content_type("text/plain; charset=utf-8");
    if !target.user.is_empty() {
        request = request.header("Authorization", format!("Basic {login}"));
    } else if !secret.is_empty() {
        request = request.header("Authorization", format!("Token {secret}"));
    }
    // A server may repeat what it was sent.
    let shown = |text: &str| web::hide(text, &[&secret, &login], LONGEST_MESSAGE);
    let mut response = request
        .send(body)
        .map_err(|error| shown(&web::explain(&target.url, &error)))?;
    let header = response.headers().get("retry-after");
    let header = header.and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|text| read_retry_after(text, clock::now().epoch));
    let body = response.body_mut().with_config().limit(ANSWER_LIMIT);
    let text = body.read_to_string().unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let field = |key| json.get(key).and_then(Value::as_str);
    let named = field("error").or_else(|| field("message"));
    Ok(Said {
        status: response.status().as_u16(),
        words: shown(named.unwrap_or(&text)),
        retry_after,
        is_json: json.is_object(),
    })
}

/// Password or token, as it is now: a file may have been changed.
fn secret(target: &Influx) -> Result<String, String> {
    let files = [&target.password_file, &target.token_file];
    let Some(file) = files.into_iter().find(|file| !file.is_empty()) else {
        let written = [&target.password, &target.token];
        let written = written
            .into_iter()
            .find(|secret| !secret.expose().is_empty());
        return Ok(written.map_or(String::new(), |secret| secret.expose().to_owned()));
    };
    let text = files::read_secret(Path::new(file)).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

/// Seconds from now: given as such, or as an HTTP date.
pub(super) fn read_retry_after(text: &str, now: f64) -> Option<f64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(f64::from(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let epoch = date.timestamp().as_duration().as_secs_f64();
    Some((epoch - now).max(0.0))
}
