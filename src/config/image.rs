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
    pub fn parse(text: &str) -> Result<ImageRef, String> {
        let (rest, digest) = split_at_sign(text, text.find('@'));
        let colon = rest
            .rfind(':')
            .filter(|colon| Some(*colon) > rest.rfind('/'));
        let (name, tag) = split_at_sign(rest, colon);
        let (_, path) = split_registry(name);
        let good = [
            (
                !name.is_empty(),
                "no name; write [registry[:port]/]path[:tag]",
            ),
            (!name.contains("://"), "a scheme; leave out all up to ://"),
            (
                path.split('/').all(component_is_valid) && name.len() <= 255,
                "a bad name; write lower-case letters and digits, with '.', '_' or '-' between them",
            ),
            (
                tag.is_none_or(tag_is_valid),
                "a bad tag; write up to 128 letters, digits, '_', '.' or '-'",
            ),
            (
                digest.is_none_or(digest_is_valid),
                "a bad digest; write sha256: and 64 hexadecimal digits",
            ),
        ];
        if let Some((_, why)) = good.iter().find(|(good, _)| !good) {
            return Err(format!("image '{text}' has {why}"));
        }
        Ok(ImageRef {
            name: name.to_owned(),
            tag: tag
                .or(digest.is_none().then_some("latest"))
                .map(str::to_owned),
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

    type Good = (
        &'static str,
        &'static str,
        Option<&'static str>,
        &'static str,
    );

    /// Without a digest: what is written, the name, the tag, the whole.
    #[rustfmt::skip]
    const GOOD: [Good; 10] = [
        ("busybox", "busybox", Some("latest"), "busybox:latest"),
        ("a/b:1.2-x_Y", "a/b", Some("1.2-x_Y"), "a/b:1.2-x_Y"),
        ("localhost:5000/a/b:tag", "localhost:5000/a/b", Some("tag"), "localhost:5000/a/b:tag"),
        ("localhost:5000/a/b", "localhost:5000/a/b", Some("latest"), "localhost:5000/a/b:latest"),
        ("localhost/a", "localhost/a", Some("latest"), "localhost/a:latest"),
        ("registry.example.org/a", "registry.example.org/a", Some("latest"), "registry.example.org/a:latest"),
        ("[::1]:5000/a:t", "[::1]:5000/a", Some("t"), "[::1]:5000/a:t"),
        ("[::1]/a:t", "[::1]/a", Some("t"), "[::1]/a:t"),
        ("HOST/a", "HOST/a", Some("latest"), "HOST/a:latest"),
        ("a__b/c--d.e_f:t", "a__b/c--d.e_f", Some("t"), "a__b/c--d.e_f:t"),
    ];

    #[test]
    fn good_references() {
        for (text, name, tag, full) in GOOD {
            let image = ImageRef::parse(text).unwrap();
            assert_eq!(
                (image.name.as_str(), image.tag.as_deref()),
                (name, tag),
                "{text}"
            );
            assert_eq!(image.to_string(), full, "{text}");
            assert_eq!(image.pull_tag(), tag.unwrap(), "{text}");
            assert_eq!(ImageRef::parse(full), Ok(image), "{full}");
        }
    }

    #[test]
    fn registries() {
        for (text, registry) in [
            ("busybox", "docker.io"),
            ("a/b:1", "docker.io"),
            ("localhost/a", "localhost"),
            ("localhost:5000/a/b:t", "localhost:5000"),
            ("registry.example.org/a", "registry.example.org"),
            ("HOST/a", "HOST"),
        ] {
            assert_eq!(
                ImageRef::parse(text).unwrap().registry(),
                registry,
                "{text}"
            );
        }
    }

    #[test]
    fn digests() {
        for (name, tag) in [("host/a", None), ("h:1/a", Some("t")), ("a", None)] {
            let text = format!(
                "{name}{}@{SHA}",
                tag.map(|t| format!(":{t}")).unwrap_or_default()
            );
            let image = ImageRef::parse(&text).unwrap();
            assert_eq!(
                (image.name.as_str(), image.tag.as_deref()),
                (name, tag),
                "{text}"
            );
            assert_eq!(
                (image.digest.as_deref(), image.pull_tag()),
                (Some(SHA), SHA),
                "{text}"
            );
            assert_eq!(image.to_string(), text);
        }
    }

    #[test]
    fn bad_references() {
        for (text, why) in [
            ("", "has no name"),
            (":tag", "has no name"),
            ("@sha256:00", "has no name"),
            ("[x]/a", "has a bad name"),
            ("Busybox", "has a bad name"),
            ("a//b", "has a bad name"),
            ("a/", "has a bad name"),
            ("/a", "has a bad name"),
            ("a b", "has a bad name"),
            ("-a", "has a bad name"),
            ("a-", "has a bad name"),
            ("a..b", "has a bad name"),
            ("a___b", "has a bad name"),
            ("a._b", "has a bad name"),
            ("ä", "has a bad name"),
            ("h:1/", "has a bad name"),
            ("https://h/a", "has a scheme"),
            ("a:", "has a bad tag"),
            ("a:-x", "has a bad tag"),
            ("a:b:c", "has a bad name"),
            (&format!("a:{}", "t".repeat(129)), "has a bad tag"),
            (&"a".repeat(256), "has a bad name"),
            ("a@", "has a bad digest"),
            ("a@sha256:00", "has a bad digest"),
            (&format!("a@sha256:{}", "A".repeat(64)), "has a bad digest"),
            (&format!("a@md5:{}", "a".repeat(64)), "has a bad digest"),
        ] {
            let error = ImageRef::parse(text).unwrap_err();
            let expected = format!("image '{text}' {why}");
            assert!(error.starts_with(&expected), "{error} / {expected}");
        }
    }
}
