//! One request to a metrics target and what its answer means. Blocks its thread, with a time-out for every step; secrets
//! are read here, sent, and nowhere repeated, not even where the server repeats them.

use crate::{config::Influx, host::files, web};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::{path::Path, time::Duration};

/// What servers say of lines that they don't take, all of them in JSON.
const LINES: &str = "partial write|line protocol|unable to parse|field type| point|no data written";

/// What came of a batch, with the server's words.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Taken,
    /// It has too many lines, or bad ones.
    Refused(String),
    /// Nothing is wrong with the lines; how many seconds the server asks to wait.
    Failed(String, Option<f64>),
}

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
    ask(target, lines, limit).map_or_else(|why| Answer::Failed(why, None), judge)
}

/// Success is 204, nothing else: any page of a proxy, a login or another program has a 200. And a refusal speaks of the
/// lines only where the server says so.
pub(super) fn judge(said: Said) -> Answer {
    let (status, words) = (said.status, said.words);
    let text = words.to_lowercase();
    let is_about_lines = LINES.split('|').any(|about| text.contains(about));
    let why = match status {
        ..400 => format!("status {status} and not 204, so it took nothing: {words}"),
        _ => format!("status {status}: {words}"),
    };
    match status {
        204 => Answer::Taken,
        413 => Answer::Refused(why),
        400 | 422 if said.is_json && is_about_lines => Answer::Refused(why),
        _ => Answer::Failed(why, said.retry_after),
    }
}

fn ask(target: &Influx, lines: &str, limit: Option<Duration>) -> Result<Said, String> {
    let secret = secret(target)?;
    let login = BASE64_STANDARD.encode(format!("{}:{secret}", target.user));
    let config = web::config(&target.url, &target.ca_file, target.insecure)?;
    let limit = limit.or(Some(web::WHOLE));
    let agent = config.timeout_global(limit).build().new_agent();
    let is_v1 = target.bucket.is_empty();
    let path = if is_v1 { "/write" } else { "/api/v2/write" };
    let (db, rp) = (&target.database, &target.retention_policy);
    let (org, bucket) = (&target.org, &target.bucket);
    let query = [("db", db), ("rp", rp), ("org", org), ("bucket", bucket)];
    let query = query.into_iter().filter(|(_, value)| !value.is_empty());
    let mut request = agent
        .post(format!("{}{path}", target.url))
        .query_pairs(query)
        .query("precision", "ns")
        .content_type("text/plain; charset=utf-8");
    if !target.user.is_empty() {
        request = request.header("Authorization", format!("Basic {login}"));
    } else if !secret.is_empty() {
        request = request.header("Authorization", format!("Token {secret}"));
    }
    // A server may repeat what it was sent, and say more than anybody reads.
    let shown = |text: &str| web::hide(text, &[&secret, &login], 200);
    let mut response = request
        .send(lines)
        .map_err(|error| shown(&web::explain(&target.url, &error)))?;
    // A date, which it may be too, is not worth reading: tries get fewer by themselves.
    let header = response.headers().get("retry-after");
    let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok());
    let body = response.body_mut().with_config().limit(64 << 10);
    let text = body.read_to_string().unwrap_or_default();
    let json: Value = serde_json::from_slice(text.as_bytes()).unwrap_or_default();
    let field = |key| json.get(key).and_then(Value::as_str);
    let named = field("error").or_else(|| field("message"));
    Ok(Said {
        status: response.status().as_u16(),
        words: shown(named.unwrap_or(&text)),
        retry_after: seconds.map(f64::from),
        is_json: json.is_object(),
    })
}

/// Password or token, as it is now: a file may have been changed.
fn secret(target: &Influx) -> Result<String, String> {
    let file = [&*target.password_file, &*target.token_file].concat();
    if file.is_empty() {
        return Ok([&*target.password.0, &target.token.0].concat());
    }
    let text = files::read_secret(Path::new(&file)).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}
