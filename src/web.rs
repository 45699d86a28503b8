//! How other machines are asked over HTTP (the engine is not: that client is our own): certificates, and a time-out for
//! every step.

use crate::host::files;
use crate::units::clean_line;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;

/// For each step but the body: on a slow line a mebibyte takes its time.
const STEP: Duration = Duration::from_secs(5);
const BODY: Duration = Duration::from_secs(30);
/// More certificates than anybody has.
const CA_LIMIT: usize = 1 << 20;

/// Every status is an answer, and no redirect is followed. Errors: what is wrong with the file of certificates to trust
/// (empty: the public ones).
pub fn config(ca_file: &str, insecure: bool) -> Result<ConfigBuilder<AgentScope>, String> {
    let roots = match ca_file {
        "" => RootCerts::WebPki,
        file => RootCerts::Specific(Arc::new(read_certificates(file)?)),
    };
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .disable_verification(insecure)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("plancton/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(STEP))
        .timeout_connect(Some(STEP))
        .timeout_send_request(Some(STEP))
        .timeout_send_body(Some(BODY))
        .timeout_recv_response(Some(STEP))
        .timeout_recv_body(Some(BODY))
        .input_buffer_size(16 << 10)
        .output_buffer_size(16 << 10);
    Ok(config)
}

/// What went wrong on the way, in plain words, with the way out.
pub fn explain(error: &ureq::Error) -> String {
    let text = error.to_string();
    let known = [
        (
            "CaUsedAsEndEntity",
            "its certificate is one of a CA, which can't be a server's too; make it anew with \
             -addext basicConstraints=critical,CA:FALSE, or let a CA sign another one",
        ),
        (
            "UnknownIssuer",
            "nobody who is trusted here has signed its certificate; let ca-file be the certificate of the CA that did",
        ),
        (
            "NotValidForName",
            "its certificate is for another name; use that name in the url",
        ),
        (
            "NotValidYet",
            "its certificate is not valid yet; see to the clocks",
        ),
        ("Expired", "its certificate has expired"),
        (
            "InvalidContentType",
            "it does not speak TLS there; use http:// or its port for TLS",
        ),
        ("timeout", "no answer in time"),
    ];
    let found = known.iter().find(|(word, _)| text.contains(word));
    found.map_or(text, |(_, plain)| (*plain).to_owned())
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
    let text = files::read_text_up_to(Path::new(file), CA_LIMIT)
        .map_err(|error| format!("ca-file {error}"))?;
    let items = parse_pem(text.as_bytes());
    let found: Vec<_> = items
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(format!(
            "ca-file {file}: no certificate in it; it must be PEM text"
        ));
    }
    Ok(found)
}
