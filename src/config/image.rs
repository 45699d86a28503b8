//! Image references as the distribution project's reference grammar has them: `[registry[:port]/]path[:tag][@digest]`.
//! The tag is looked for after the last slash only, so that a registry's port is never taken for one.
//! Pure; the engine completes a name without a registry by itself, nothing is added here.

use std::fmt;

/// One image, checked. `name` keeps the registry; with neither tag nor digest given, `tag` is `latest`,
/// because an engine that is asked for no tag pulls all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    pub name: String,
    pub tag: Option<String>,
    /// With its algorithm: `sha256:…`.
    pub digest: Option<String>,
}

const NAME: &str =
    "a bad name; write lower-case letters and digits, with '.', '_' or '-' between them";
const TAG: &str = "a bad tag; write up to 128 letters, digits, '_', '.' or '-'";
const DIGEST: &str = "a bad digest; write sha256: and 64 hexadecimal digits";

impl ImageRef {
    pub fn parse(text: &str) -> Result<ImageRef, String> {
        let (rest, digest) = split_at_sign(text, text.find('@'));
        let colon = rest.rfind(':');
        let (name, tag) = split_at_sign(rest, colon.filter(|at| Some(*at) > rest.rfind('/')));
        let mut parts = split_registry(name).1.split('/');
        let is_name = parts.all(component_is_valid) && name.len() <= 255;
        let wrong = [
            (
                name.is_empty(),
                "no name; write [registry[:port]/]path[:tag]",
            ),
            (name.contains("://"), "a scheme; leave out all up to ://"),
            (!is_name, NAME),
            (!tag.is_none_or(tag_is_valid), TAG),
            (!digest.is_none_or(digest_is_valid), DIGEST),
        ];
        if let Some((_, why)) = wrong.iter().find(|(is_wrong, _)| *is_wrong) {
            return Err(format!("image '{text}' has {why}"));
        }
        let usual = digest.is_none().then_some("latest");
        Ok(ImageRef {
            name: name.to_owned(),
            tag: tag.or(usual).map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Who keeps it; `docker.io` where the name does not say.
    pub fn registry(&self) -> &str {
        split_registry(&self.name).0.unwrap_or("docker.io")
    }

    /// What a pull sends as `tag` beside `name` as `fromImage`: engines take a digest there too, and it decides.
    pub fn pull_tag(&self) -> &str {
        let digest = self.digest.as_deref();
        digest.or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest
            .iter()
            .try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// The first part is a registry when a path could not look like it: so engines decide. They also judge it.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    let is_registry = |first: &str| {
        first == "localhost" || first.contains(|c: char| ".:".contains(c) || c.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    }
}

/// What is before and behind the one-byte sign at that place.
fn split_at_sign(text: &str, sign: Option<usize>) -> (&str, Option<&str>) {
    match sign.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?))) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

fn component_is_valid(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| matches!(s, "." | "_" | "__") || s.trim_matches('-').is_empty();
    text.starts_with(plain) && text.ends_with(plain) && text.split(plain).all(separator)
}

fn tag_is_valid(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = |c: char| word(c) || c == '.' || c == '-';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(rest)
}

fn digest_is_valid(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(digit))
}
