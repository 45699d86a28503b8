//! What belongs together in a table of [[influxdb]]: the parts of its url, and the keys that exclude each other.
//! Pure. No text here repeats a url or a secret: both end up in logs.

use super::keys::Influx;
use super::values::Secret;
use percent_encoding::percent_decode_str;

impl Influx {
    /// What it is called: `http://host:8086#plancton`. Nothing of it is secret.
    pub fn title(&self) -> String {
        format!("{}#{}{}", self.url, self.database, self.bucket)
    }

    /// With what the url says in the keys for it: `[insecure_]http[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH][#DATABASE]`.
    pub(super) fn settle(mut self) -> Result<Influx, String> {
        let url = self.url.clone();
        let (url, database) = url.split_once('#').unwrap_or((&url, ""));
        let safe = url.strip_prefix("insecure_");
        let (scheme, rest) = safe.unwrap_or(url).split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let is_plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}?".contains(c);
        let is_host = !host.is_empty()
            && !host.starts_with(':')
            && [host, path].concat().chars().all(is_plain);
        if !is_host || !["http", "https"].contains(&scheme) {
            return Err("url: expects http://HOST:PORT or https://HOST:PORT".to_owned());
        }
        self.insecure |= safe.is_some();
        self.url = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut written = self.password.expose().to_owned();
        for (key, given, of_url) in [
            ("user", &mut self.user, decode(user)),
            ("password", &mut written, decode(password)),
            ("database", &mut self.database, database.to_owned()),
        ] {
            match (given.is_empty(), of_url.is_empty()) {
                (_, true) => {}
                (true, false) => *given = of_url,
                (false, false) => {
                    return Err(format!("the url has a {key} too; write it in one place"));
                }
            }
        }
        self.password = Secret::new(written);
        self.contradiction()
            .map_or(Ok(self), |why| Err(why.to_owned()))
    }

    fn contradiction(&self) -> Option<&'static str> {
        let given = |text: &String| !text.is_empty();
        let (v1, v2) = (given(&self.database), given(&self.bucket));
        let [user, org, retention, authority] =
            [&self.user, &self.org, &self.retention_policy, &self.ca_file].map(given);
        let passwords = (
            !self.password.expose().is_empty(),
            given(&self.password_file),
        );
        let tokens = (!self.token.expose().is_empty(), given(&self.token_file));
        Some(match (v1, v2) {
            (true, true) => "database is for version 1 and bucket for version 2; write one of them",
            (false, false) => {
                "nowhere to write to; give a database (version 1) or a bucket (version 2)"
            }
            _ if passwords == (true, true) => "password and password-file; write one of them",
            _ if tokens == (true, true) => "token and token-file; write one of them",
            _ if passwords != (false, false) && !user => "a password without a user; add user",
            _ if user && v2 => "user and password are for version 1; a bucket wants a token",
            _ if tokens != (false, false) && v1 => {
                "a token is for version 2; a database wants user and password"
            }
            _ if org && v1 => "org is for version 2; a database has none",
            _ if retention && v2 => "retention-policy is for version 1; a bucket has its own",
            _ if authority && self.insecure => {
                "ca-file is not looked at when insecure; write one of them"
            }
            _ => return None,
        })
    }
}
