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
        if self.user.is_empty() {
            self.user = decode(user);
        }
        if self.password.expose().is_empty() {
            self.password = Secret::parse(&decode(password)).unwrap_or_default();
        }
        if self.database.is_empty() {
            self.database = database.to_owned();
        }
        self.contradiction()
            .map_or(Ok(self), |why| Err(why.to_owned()))
    }

    fn contradiction(&self) -> Option<&'static str> {
        let given = |text: &String| !text.is_empty();
        let (v1, v2) = (given(&self.database), given(&self.bucket));
        let (user, org) = (given(&self.user), given(&self.org));
        let passwords = [
            !self.password.expose().is_empty(),
            given(&self.password_file),
        ];
        let tokens = [!self.token.expose().is_empty(), given(&self.token_file)];
        let (password, token) = (passwords != [false; 2], tokens != [false; 2]);
        let of_v1 = user || password || given(&self.retention_policy);
        Some(match (v1, v2) {
            (true, true) => "database is for version 1 and bucket for version 2; write one of them",
            (false, false) => {
                "nowhere to write to; give a database (version 1) or a bucket (version 2)"
            }
            _ if passwords == [true; 2] => "password and password-file; write one of them",
            _ if tokens == [true; 2] => "token and token-file; write one of them",
            _ if of_v1 && v2 => {
                "user, password and retention-policy are for version 1; a bucket wants a token"
            }
            _ if (token || org) && v1 => {
                "org and token are for version 2; a database wants user and password"
            }
            _ if password && !user => "a password without a user; add user",
            _ if self.insecure && given(&self.ca_file) => {
                "ca-file is not looked at when insecure; write one of them"
            }
            _ => return None,
        })
    }
}
