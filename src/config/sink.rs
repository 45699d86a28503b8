//! What belongs together in a table of [[influxdb]]: the parts of its url, and the keys that exclude each other.
//! Pure. No text here repeats a url or a secret: both end up in logs.

use super::keys::Influx;
use super::values::Secret;

/// `[insecure_]http[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH][#DATABASE]`, taken apart.
#[derive(Debug, PartialEq)]
pub struct Parts {
    /// Scheme, host and path alone.
    base: String,
    user: String,
    password: Secret,
    database: String,
    insecure: bool,
}

pub fn split_url(text: &str) -> Result<Parts, String> {
    let (rest, insecure) = text
        .strip_prefix("insecure_")
        .map_or((text, false), |rest| (rest, true));
    let (rest, database) = rest.split_once('#').unwrap_or((rest, ""));
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| rest.starts_with(scheme));
    let scheme = scheme.ok_or("expects http://HOST:PORT or https://HOST:PORT")?;
    let rest = rest.get(scheme.len()..).unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let is_plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}?".contains(c);
    if host.is_empty() || host.starts_with(':') || !host.chars().chain(path.chars()).all(is_plain) {
        return Err(
            "has no host, or signs that no host or path has; write http://HOST:PORT".to_owned(),
        );
    }
    Ok(Parts {
        base: format!("{scheme}{host}{}", path.trim_end_matches('/')),
        user: decode_percent(user),
        password: Secret::new(decode_percent(password)),
        database: database.to_owned(),
        insecure,
    })
}

/// As in urls: `%40` is `@`. What is no such sequence stays as it is.
fn decode_percent(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.zip(part.get(2..)) {
            Some((byte, rest)) => bytes.extend([&[byte], rest.as_bytes()].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Influx {
    /// What it is called: `http://host:8086#plancton`. Nothing of it is secret.
    pub fn title(&self) -> String {
        format!("{}#{}{}", self.url, self.database, self.bucket)
    }

    /// Puts what the url says into the keys for it; all that does not go together comes back.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let Ok(parts) = split_url(&self.url) else {
            return Vec::new();
        };
        let twice = [
            ("user", !parts.user.is_empty() && !self.user.is_empty()),
            (
                "password",
                !parts.password.is_empty() && !self.password.is_empty(),
            ),
            (
                "database",
                !parts.database.is_empty() && !self.database.is_empty(),
            ),
        ];
        let twice = twice.into_iter().filter(|(_, is_twice)| *is_twice);
        let mut problems: Vec<String> = twice
            .map(|(key, _)| format!("the url has a {key} too; write it in one place"))
            .collect();
        self.url = parts.base;
        self.insecure |= parts.insecure;
        if !parts.user.is_empty() {
            self.user = parts.user;
        }
        if !parts.password.is_empty() {
            self.password = parts.password;
        }
        if !parts.database.is_empty() {
            self.database = parts.database;
        }
        problems.extend(self.contradictions().map(str::to_owned));
        problems
    }

    fn contradictions(&self) -> impl Iterator<Item = &'static str> {
        let (v1, v2) = (!self.database.is_empty(), !self.bucket.is_empty());
        let [has_user, has_org] = [&self.user, &self.org].map(|text| !text.is_empty());
        let has_password = !self.password.is_empty() || !self.password_file.is_empty();
        let has_token = !self.token.is_empty() || !self.token_file.is_empty();
        [
            (
                v1 && v2,
                "database is for version 1 and bucket for version 2; write one of them",
            ),
            (
                !v1 && !v2,
                "nowhere to write to; give a database (version 1), or a bucket (version 2)",
            ),
            (
                !self.password.is_empty() && !self.password_file.is_empty(),
                "password and password-file; write one of them",
            ),
            (
                !self.token.is_empty() && !self.token_file.is_empty(),
                "token and token-file; write one of them",
            ),
            (
                has_password && !has_user,
                "a password without a user; add user",
            ),
            (
                has_user && v2,
                "user and password are for version 1; a bucket wants a token",
            ),
            (
                has_token && v1,
                "a token is for version 2; a database wants user and password",
            ),
            (has_org && v1, "org is for version 2; a database has none"),
            (
                !self.retention_policy.is_empty() && v2,
                "retention-policy is for version 1; a bucket has its own",
            ),
            (
                !self.ca_file.is_empty() && self.insecure,
                "ca-file is not looked at when insecure; write one of them",
            ),
        ]
        .into_iter()
        .filter_map(|(is_wrong, text)| is_wrong.then_some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn sink(lines: &str) -> Result<Influx, String> {
        let parsed =
            parse(&format!("[[influxdb]]\n{lines}\n"), "c").map_err(|problems| problems.join("\n"));
        parsed.map(|mut config| config.influxdb.remove(0))
    }

    #[test]
    fn urls() {
        for (url, base, user, password, database, insecure) in [
            ("http://h:8086#db", "http://h:8086", "", "", "db", false),
            (
                "http://u:p@h:8086#db",
                "http://h:8086",
                "u",
                "p",
                "db",
                false,
            ),
            (
                "insecure_https://u:p%40%2f@h/influx/#d",
                "https://h/influx",
                "u",
                "p@/",
                "d",
                true,
            ),
            (
                "https://u:a@b:c@[::1]:8086#d b",
                "https://[::1]:8086",
                "u",
                "a@b:c",
                "d b",
                false,
            ),
            ("http://u:100%@h#d", "http://h", "u", "100%", "d", false),
        ] {
            let found = sink(&format!("url = \"{url}\"")).unwrap();
            let parts = (
                found.url.as_str(),
                found.user.as_str(),
                found.password.expose(),
                found.database.as_str(),
            );
            assert_eq!(
                (parts, found.insecure),
                ((base, user, password, database), insecure),
                "{url}"
            );
        }
        for bad in [
            "",
            "h:8086#d",
            "ftp://h#d",
            "http://#d",
            "http://:8086#d",
            "http://h o#d",
            "http://h/?db=x",
            "https:/h",
        ] {
            assert!(split_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_does_not_go_together() {
        let file = "password-file = \"/p\"";
        for (lines, why) in [
            (
                "url = \"http://h\"",
                "[[influxdb]] #1: nowhere to write to; give a database",
            ),
            (
                "database = \"d\"",
                "c:1:1: [[influxdb]] #1 has no url; write one such as url = \"http://127.0.0.1:8086\"",
            ),
            (
                "url = \"http://h#d\"\nbucket = \"b\"",
                "database is for version 1 and bucket for version 2",
            ),
            (
                "url = \"http://h#d\"\ndatabase = \"b\"",
                "the url has a database too; write it in one place",
            ),
            (
                "url = \"http://u:geheim@h#d\"\nuser = \"v\"",
                "the url has a user too",
            ),
            (
                &format!("url = \"http://u:geheim@h#d\"\n{file}"),
                "password and password-file; write one",
            ),
            (
                &format!("url = \"http://h#d\"\n{file}"),
                "a password without a user; add user",
            ),
            (
                "url = \"http://u:geheim@h\"\nbucket = \"b\"",
                "a bucket wants a token",
            ),
            (
                "url = \"http://h#d\"\ntoken = \"geheim\"",
                "a database wants user and password",
            ),
            (
                "url = \"http://h\"\nbucket = \"b\"\ntoken = \"geheim\"\ntoken-file = \"/t\"",
                "token and token-file",
            ),
            (
                "url = \"http://h\"\nbucket = \"b\"\nretention-policy = \"r\"",
                "a bucket has its own",
            ),
            ("url = \"http://h#d\"\norg = \"o\"", "org is for version 2"),
            (
                "url = \"insecure_https://h#d\"\nca-file = \"/c\"",
                "ca-file is not looked at when insecure",
            ),
            (
                "url = \"geheim://h#d\"",
                "c:2:7: [[influxdb]] #1 url: expects http://HOST:PORT",
            ),
            (
                "url = \"http://h#d\"\npassword = 77777",
                "c:3:12: [[influxdb]] #1 password: expects a string in quotes",
            ),
            (
                "url = \"http://h#d\"\npassword = \"***\"",
                "stands for a secret that is not shown",
            ),
            (
                "url = \"http://h#d\"\nflush = \"500ms\"",
                "flush: \"500ms\" is out of range",
            ),
            (
                "url = \"http://geheim:x@h#d\"\ntokn = \"x\"",
                "unknown key 'tokn' in [[influxdb]] #1; did you mean 'token'?",
            ),
        ] {
            let problem = sink(lines).unwrap_err();
            assert!(
                problem.contains(why) && !problem.contains('\n'),
                "{lines}: {problem}"
            );
            assert!(
                !problem.contains("geheim") && !problem.contains("77777"),
                "{problem}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = "[[influxdb]]\nurl = \"http://u:geheim@h#d\"\n[[influxdb]]\nurl = \"http://h\"\nbucket = \"b\"\ntoken = \"geheim\"\n";
        let config = parse(text, "c").unwrap();
        let (written, debug) = (config.to_toml(), format!("{config:?}"));
        assert!(
            written.contains("password = \"***\"") && written.contains("token = \"***\""),
            "{written}"
        );
        assert!(
            written.contains("url = \"http://h\"\ndatabase = \"d\"\n"),
            "{written}"
        );
        assert!(
            !written.contains("geheim") && !debug.contains("geheim"),
            "{written}\n{debug}"
        );
        let open = "[[influxdb]]\nurl = \"insecure_https://h:1/x#d\"\nhost-alias = \"a\"\n";
        let config = parse(open, "c").unwrap();
        assert_eq!(parse(&config.to_toml(), "c"), Ok(config));
    }
}
