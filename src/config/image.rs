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
        let bad = |why: &str| Err(format!("image '{text}' {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest.rfind(':').filter(|colon| *colon >= path_start) {
            Some(colon) => (rest.get(..colon).unwrap_or_default(), rest.get(colon + 1..)),
            None => (rest, None),
        };
        if name.is_empty() {
            return bad("has no name; write [registry[:port]/]path[:tag]");
        }
        if name.contains("://") {
            return bad("is written without a scheme such as https://");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first), rest),
            _ => (None, name),
        };
        if registry.is_some_and(|registry| !registry_is_valid(registry)) {
            return bad("has a bad registry; write a host name and perhaps :port");
        }
        if !path.split('/').all(component_is_valid) {
            return bad(
                "has a bad name; between slashes go lower-case letters and digits, separated by '.', '_', '__' or '-'",
            );
        }
        if name.len() > 255 {
            return bad("has a name of more than 255 characters");
        }
        if tag.is_some_and(|tag| !tag_is_valid(tag)) {
            return bad(
                "has a bad tag; write up to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'",
            );
        }
        if digest.is_some_and(|digest| !digest_is_valid(digest)) {
            return bad("has a bad digest; write sha256: and 64 hexadecimal digits");
        }
        let tag = tag.or(if digest.is_none() {
            Some("latest")
        } else {
            None
        });
        Ok(ImageRef {
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The engine's `fromImage` parameter of a pull; always sent together with [`ImageRef::pull_tag`].
    pub fn from_image(&self) -> &str {
        &self.name
    }

    /// The engine's `tag` parameter of a pull: it takes a digest as well, and the digest decides. Never empty.
    pub fn pull_tag(&self) -> &str {
        self.digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or("latest")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first part is a registry when a path could not look like it, as engines decide it.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.contains(|c: char| c.is_ascii_uppercase())
}

fn registry_is_valid(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((address, port)) => {
            let hex = |c: char| c.is_ascii_hexdigit() || c == ':';
            if !address.contains(':') || !address.chars().all(hex) {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => ("v6", Some(port)),
                None if port.is_empty() => ("v6", None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    host.split('.').all(label)
        && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn component_is_valid(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.trim_matches('-').is_empty();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.split(alphanumeric).all(separator)
}

fn tag_is_valid(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn digest_is_valid(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_references() {
        let sha = format!("sha256:{}", "0a".repeat(32));
        for (text, name, tag, digest, full) in [
            ("busybox", "busybox", Some("latest"), None, "busybox:latest"),
            ("a/b:1.2-x_Y", "a/b", Some("1.2-x_Y"), None, "a/b:1.2-x_Y"),
            (
                "localhost:5000/a/b:tag",
                "localhost:5000/a/b",
                Some("tag"),
                None,
                "localhost:5000/a/b:tag",
            ),
            (
                "localhost:5000/a/b",
                "localhost:5000/a/b",
                Some("latest"),
                None,
                "localhost:5000/a/b:latest",
            ),
            (
                "localhost/a",
                "localhost/a",
                Some("latest"),
                None,
                "localhost/a:latest",
            ),
            (
                "registry.example.org/a",
                "registry.example.org/a",
                Some("latest"),
                None,
                "registry.example.org/a:latest",
            ),
            (
                "[::1]:5000/a:t",
                "[::1]:5000/a",
                Some("t"),
                None,
                "[::1]:5000/a:t",
            ),
            ("HOST/a", "HOST/a", Some("latest"), None, "HOST/a:latest"),
            (
                "a__b/c--d.e_f:t",
                "a__b/c--d.e_f",
                Some("t"),
                None,
                "a__b/c--d.e_f:t",
            ),
            (
                &format!("host/a@{sha}"),
                "host/a",
                None,
                Some(sha.as_str()),
                &format!("host/a@{sha}"),
            ),
            (
                &format!("h:1/a:t@{sha}"),
                "h:1/a",
                Some("t"),
                Some(sha.as_str()),
                &format!("h:1/a:t@{sha}"),
            ),
        ] {
            let image = ImageRef::parse(text).unwrap();
            assert_eq!(image.name, name, "{text}");
            assert_eq!(image.tag.as_deref(), tag, "{text}");
            assert_eq!(image.digest.as_deref(), digest, "{text}");
            assert_eq!(image.to_string(), full, "{text}");
            assert_eq!(ImageRef::parse(full), Ok(image.clone()), "{full}");
            assert_eq!(image.from_image(), name, "{text}");
            assert_eq!(image.pull_tag(), digest.or(tag).unwrap(), "{text}");
        }
    }

    #[test]
    fn bad_references() {
        for (text, why) in [
            ("", "has no name"),
            (":tag", "has no name"),
            ("@sha256:00", "has no name"),
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
            ("https://h/a", "is written without a scheme"),
            ("h:/a", "has a bad registry"),
            ("h:99999/a", "has a bad registry"),
            ("h:+5/a", "has a bad registry"),
            ("-h.x/a", "has a bad registry"),
            ("h..x/a", "has a bad registry"),
            ("a:", "has a bad tag"),
            ("a:-x", "has a bad tag"),
            ("a:b:c", "has a bad name"),
            (&format!("a:{}", "t".repeat(129)), "has a bad tag"),
            (&"a".repeat(256), "has a name of more than 255"),
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
