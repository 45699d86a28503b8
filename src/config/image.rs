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

impl ImageRef {
    pub fn parse(text: &str) -> Option<ImageRef> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let mut path = split_registry(name).1.split('/');
        let is_name = path.all(component_is_valid) && name.len() <= 255;
        let is_fine = is_name && tag.is_none_or(tag_is_valid) && digest.is_none_or(digest_is_valid);
        let usual = digest.is_none().then_some("latest");
        is_fine.then(|| ImageRef {
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
