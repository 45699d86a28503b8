//! How other machines are asked over HTTP (the engine is not: that client is our own): certificates, proxies, a time-out for
//! every step, and what went wrong in plain words.

use crate::{host::files, units::clean_line};
use rustls::Error;
use rustls::crypto::{KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};
use ureq::config::ConfigBuilder;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::{Agent, Proxy};

/// A server that is there says so soon.
const CONNECT: Duration = Duration::from_secs(5);
/// For a whole exchange: on a slow line a mebibyte takes its time, but a server that sends a byte a second is not waited for.
pub const WHOLE: Duration = Duration::from_secs(30);

/// For requests to `url`. Every status is an answer, and no redirect is followed. Errors: what is wrong with the file of
/// certificates to trust (empty: the public ones).
pub fn config(url: &str, ca: &str, insecure: bool) -> Result<ConfigBuilder<AgentScope>, String> {
    let roots = match ca {
        "" => RootCerts::WebPki,
        file => RootCerts::Specific(Arc::new(read_certificates(file)?)),
    };
    let mut provider = ring::default_provider();
    provider.key_provider = &NoKeys;
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .disable_verification(insecure)
        .unversioned_rustls_crypto_provider(Arc::new(provider))
        .build();
    Ok(Agent::config_builder()
        .tls_config(tls)
        .proxy(proxy(url, |name| std::env::var(name).ok())?)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("plancton/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(CONNECT))
        .timeout_global(Some(WHOLE))
        .input_buffer_size(16 << 10)
        .output_buffer_size(16 << 10))
}

/// We show no certificate of our own, and do without what signs with one.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::UnsupportedNameType)
    }
}

/// What went wrong on the way to `url`, with the way out, and which proxy is in between.
pub fn explain(url: &str, error: &ureq::Error) -> String {
    let text = error.to_string();
    // A word of an error, and what to do about it.
    let advice = include_str!("web.txt").lines();
    let mut advice = advice.filter_map(|line| line.split_once(": "));
    let known = advice.find(|(word, _)| text.contains(word));
    let why = known.map_or(text.trim_start_matches("io: "), |(_, advice)| advice);
    match proxy(url, |name| std::env::var(name).ok()) {
        Ok(Some(proxy)) => format!("by the proxy {}:{}: {why}", proxy.host(), proxy.port()),
        _ => why.to_owned(),
    }
}

/// By the variables that curl and Go take, in lower or upper case: the one for the url's scheme, else `all_proxy`; none for
/// what `no_proxy` names and, as with Go, for this machine itself. Errors: one of a kind that is not known here, which must
/// not be passed by.
fn proxy(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let value = |name: &str| {
        let found = variable(name).or_else(|| variable(&name.to_uppercase()));
        found.filter(|value| !value.is_empty())
    };
    let uri: Uri = url.to_lowercase().parse().unwrap_or_default();
    let own = format!("{}_proxy", uri.scheme_str().unwrap_or("http"));
    let text = value(&own).or_else(|| value("all_proxy"));
    let direct = value("no_proxy").unwrap_or_default().to_lowercase();
    let Some(text) = text.filter(|_| !is_direct(&uri, &direct)) else {
        return Ok(None);
    };
    let way_out = "write it as http://host:port or socks5h://host:port";
    let proxy = Proxy::new(text.trim()).map(Some);
    proxy.map_err(|error| format!("{own} or all_proxy: {error}; {way_out}"))
}

/// Entries are names, with all below them, or addresses, of one port where they name it; `*` is everything.
fn is_direct(uri: &Uri, entries: &str) -> bool {
    const AROUND: [char; 4] = ['*', '.', '[', ']'];
    let host = uri.host().unwrap_or_default().trim_matches(AROUND);
    let is_tls = uri.scheme_str() == Some("https");
    let usual = if is_tls { 443 } else { 80 };
    let port = format!(":{}", uri.port_u16().unwrap_or(usual));
    let is_own = host.parse().is_ok_and(|own: IpAddr| own.is_loopback());
    let is_named = |entry: &str| {
        let name = entry.trim_end_matches(&port).trim_matches(AROUND);
        let rest = host.strip_suffix(name).filter(|_| !name.is_empty());
        entry == "*" || rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    is_own || host == "localhost" || entries.split([',', ' ', '\t']).any(is_named)
}

/// One line of somebody else's words, without secrets that we told them.
pub fn hide(text: &str, secrets: &[&str], limit: usize) -> String {
    let mut text = clean_line(text, usize::MAX);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
    }
    text.chars().take(limit).collect()
}

fn read_certificates(file: &str) -> Result<Vec<Certificate<'static>>, String> {
    // More certificates than anybody has.
    let text = files::read_text_up_to(Path::new(file), 1 << 20);
    let text = text.map_err(|error| format!("ca-file {error}"))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = parse_pem(text.as_bytes()).filter_map(certificate).collect();
    let found = Some(found).filter(|found| !found.is_empty());
    found.ok_or_else(|| format!("ca-file {file}: no certificate in it; it must be PEM text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        for (variables, url, expected) in [
            ("", "http://h", None),
            ("http_proxy=http://p:3128", "http://h", Some("p:3128")),
            ("HTTP_PROXY=p:3128", "http://h", Some("p:3128")),
            ("http_proxy=p:1", "https://h", None),
            ("https_proxy=http://u:w@p", "https://h", Some("p:80")),
            ("ALL_PROXY=p:1;https_proxy=q:2", "http://h", Some("p:1")),
            ("ALL_PROXY=p:1;https_proxy=q:2", "https://h", Some("q:2")),
            ("all_proxy=p:1", "http://127.0.0.1:8086", None),
            ("all_proxy=p:1", "http://[::1]:8086", None),
            ("all_proxy=p:1;NO_PROXY=x, h.org", "http://a.H.org", None),
            ("all_proxy=p:1;no_proxy=.h.org", "http://h.org", None),
            (
                "all_proxy=p:1;no_proxy=*.h.org,",
                "http://xh.org",
                Some("p:1"),
            ),
            ("all_proxy=p:1;no_proxy=10.9.9.9", "http://10.9.9.9:1", None),
            ("all_proxy=p:1;no_proxy=*", "http://h", None),
            // SAP/open-ux-tools #722, unjs/node-fetch-native #125.
            (
                "all_proxy=p:1;no_proxy=h.org:8086",
                "http://h.org:8086",
                None,
            ),
            (
                "all_proxy=p:1;no_proxy=h.org:8086",
                "http://h.org:80",
                Some("p:1"),
            ),
            ("all_proxy=p:1;no_proxy=h.org:443", "https://h.org", None),
            ("all_proxy=p:1;no_proxy=[fd00::1]", "http://[fd00::1]", None),
            ("all_proxy=p:1;no_proxy=H.ORG.", "http://h.org", None),
            ("all_proxy=p:1;no_proxy=h.org", "http://h.org.", None),
            ("ALL_PROXY=p:1;no_proxy= a ,\th.org ", "http://h.org", None),
            // httpie/cli #676, and what curl takes besides.
            ("ALL_PROXY=socks5h://p:9050", "https://h", Some("p:9050")),
            ("https_proxy=socks5://p", "https://h", Some("p:1080")),
            (
                "HTTPS_PROXY=https://u:w@p:8443/",
                "https://h",
                Some("p:8443"),
            ),
            ("http_proxy=quic://u:secret@p", "http://h", Some("error")),
            ("http_proxy=http://", "http://h", Some("error")),
        ] {
            let found = proxy(url, |name| {
                let mut pairs = variables.split(';').filter_map(|pair| pair.split_once('='));
                let pair = pairs.find(|(key, _)| *key == name);
                pair.map(|(_, value)| value.to_owned())
            });
            let found = match found {
                Ok(proxy) => proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())),
                Err(text) => Some(if text.contains("secret") {
                    text
                } else {
                    "error".to_owned()
                }),
            };
            assert_eq!(found.as_deref(), expected, "{variables} {url}");
        }
    }

    /// A client that can't speak with a proxy of this kind would end the program.
    #[test]
    fn a_socks_proxy_that_is_not_there_is_an_error() {
        let proxy = Proxy::new("socks5h://127.0.0.1:1").unwrap();
        let config = config("http://example.org", "", false).unwrap();
        let agent = config.proxy(Some(proxy)).build().new_agent();
        assert!(agent.get("http://example.org").call().is_err());
    }
}
