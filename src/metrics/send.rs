//! One request to a metrics target and its answer. Blocks its thread, with a time-out for every step; secrets are read here,
//! sent, and nowhere repeated.

use super::queue::Answer;
use crate::config::Influx;
use crate::host::files;
use crate::web;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use ureq::RequestBuilder;
use ureq::typestate::WithBody;

/// The server's own words are cut here, in characters.
const LONGEST_MESSAGE: usize = 200;
const ANSWER_LIMIT: u64 = 64 << 10;

/// `limit`: for the whole of it, where nobody can wait for long.
pub fn write(target: &Influx, lines: &str, limit: Option<Duration>) -> Answer {
    let (path, version_2) = if target.bucket.is_empty() {
        ("/write", false)
    } else {
        ("/api/v2/write", true)
    };
    call(target, path, lines, limit, |mut request| {
        let keys = [("db", &target.database), ("rp", &target.retention_policy)];
        let keys = if version_2 {
            [("org", &target.org), ("bucket", &target.bucket)]
        } else {
            keys
        };
        for (key, value) in keys.into_iter().filter(|(_, value)| !value.is_empty()) {
            request = request.query(key, value);
        }
        request
            .query("precision", "ns")
            .content_type("text/plain; charset=utf-8")
    })
}

/// Of version 1 only.
pub fn create_database(target: &Influx, limit: Option<Duration>) -> Answer {
    let name = target.database.replace('\\', "\\\\").replace('"', "\\\"");
    call(target, "/query", "", limit, |request| {
        request.query("q", format!("CREATE DATABASE \"{name}\""))
    })
}

type Request = RequestBuilder<WithBody>;

fn call(
    target: &Influx,
    path: &str,
    body: &str,
    limit: Option<Duration>,
    complete: impl FnOnce(Request) -> Request,
) -> Answer {
    let secret = match secret(target) {
        Ok(secret) => secret,
        Err(why) => return Answer::Failed(why),
    };
    let agent = match web::config(&target.ca_file, target.insecure) {
        Ok(config) => config.timeout_global(limit).build().new_agent(),
        Err(why) => return Answer::Failed(why),
    };
    let mut request = complete(agent.post(format!("{}{path}", target.url)));
    if !target.user.is_empty() {
        let login = BASE64_STANDARD.encode(format!("{}:{secret}", target.user));
        request = request.header("Authorization", format!("Basic {login}"));
    } else if !secret.is_empty() {
        request = request.header("Authorization", format!("Token {secret}"));
    }
    // A server may repeat what it was sent.
    let shown = |text: &str| {
        let text = if secret.is_empty() {
            text.to_owned()
        } else {
            text.replace(&secret, "***")
        };
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(LONGEST_MESSAGE)
            .collect::<String>()
    };
    match request.send(body) {
        Err(error) => Answer::Failed(shown(&error.to_string())),
        Ok(mut response) => {
            let code = response.status().as_u16();
            let header = response
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok());
            let retry_after =
                header.and_then(|text| read_retry_after(text, crate::clock::now().epoch));
            let text = response
                .body_mut()
                .with_config()
                .limit(ANSWER_LIMIT)
                .read_to_string()
                .unwrap_or_default();
            Answer::Status {
                code,
                message: shown(&read_message(&text)),
                retry_after,
            }
        }
    }
}

/// Password or token, as it is now: a file may have been changed.
fn secret(target: &Influx) -> Result<String, String> {
    let file = if target.password_file.is_empty() {
        &target.token_file
    } else {
        &target.password_file
    };
    if file.is_empty() {
        let written = if target.password.is_empty() {
            &target.token
        } else {
            &target.password
        };
        return Ok(written.expose().to_owned());
    }
    let found = std::fs::metadata(file).map_err(|error| format!("{file}: {error}"))?;
    if found.mode() & 0o007 != 0 {
        return Err(format!(
            "{file}: everybody on this machine has access to this secret; run chmod o= {file}"
        ));
    }
    files::read_text(Path::new(file))
        .map(|text| text.trim().to_owned())
        .map_err(|error| error.to_string())
}

/// The `error` or `message` of a JSON answer, else all of it.
fn read_message(text: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let named = ["error", "message"]
        .into_iter()
        .find_map(|key| json.get(key)?.as_str());
    named.unwrap_or(text).trim().to_owned()
}

/// Seconds from now: given as such, or as an HTTP date.
fn read_retry_after(text: &str, now: f64) -> Option<f64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(f64::from(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let epoch = std::time::SystemTime::from(date.timestamp())
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    Some((epoch.as_secs_f64() - now).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn retry_after() {
        let now = 784_111_777.0;
        for (text, seconds) in [
            ("120", Some(120.0)),
            (" 0 ", Some(0.0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60.0)),
            ("Sun, 06 Nov 1994 08:40:37 GMT", Some(0.0)),
            ("soon", None),
            ("-5", None),
        ] {
            assert_eq!(read_retry_after(text, now), seconds, "{text}");
        }
    }

    #[test]
    fn messages() {
        for (text, message) in [
            ("{\"error\":\"no database\"}\n", "no database"),
            ("{\"code\":\"invalid\",\"message\":\"m\"}", "m"),
            ("plain\n", "plain"),
            ("[1]", "[1]"),
            ("", ""),
        ] {
            assert_eq!(read_message(text), message);
        }
    }

    #[test]
    fn secret_files() {
        let file = std::env::temp_dir().join(format!("plancton-secret-{}", std::process::id()));
        std::fs::write(&file, "geheim \n").unwrap();
        let target = Influx {
            token_file: file.display().to_string(),
            ..Influx::default()
        };
        for (mode, is_taken) in [
            (0o600, true),
            (0o640, true),
            (0o644, false),
            (0o602, false),
            (0o601, false),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = secret(&target);
            assert_eq!(found.is_ok(), is_taken, "{mode:o}: {found:?}");
            assert!(found.is_ok_and(|text| text == "geheim") || !is_taken);
        }
        let error = secret(&target).unwrap_err();
        assert!(
            error.contains(&format!("run chmod o= {}", file.display())),
            "{error}"
        );
        std::fs::remove_file(&file).unwrap();
        assert!(secret(&target).is_err());
    }
}
