//! What of the host a pilot sees: mounts, scratch memory and devices, each from one text such as `/data:/data:ro`.
//! Pure: whether a path exists is looked at before a launch, not here.

use super::values::exact_size;
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::fmt;

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "slave", "rslave", "shared", "rshared",
];

/// `/host:/container[:OPTIONS]`, read-only unless `rw` is among the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub source: String,
    pub target: String,
    pub read_only: bool,
    /// One of the kernel's words, `rprivate` unless given.
    pub propagation: String,
}

/// `/path` or `/path:64MiB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    pub target: String,
    /// `None`: bounded by the pilot's memory alone.
    pub size: Option<Bytes>,
}

/// A file of this machine that a pilot gets a copy of: `{ source = "/a", target = "/b", mode = "0400" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    pub source: String,
    pub target: String,
    /// Of the copy; `0400` unless given.
    pub mode: u32,
}

/// `/dev/a[:/dev/b[:rwm]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub host: String,
    pub container: String,
    /// Some of `r` (read), `w` (write) and `m` (make the node).
    pub permissions: String,
}

impl Mount {
    pub fn parse(text: &str) -> Result<Mount, String> {
        let (source, rest) = text.split_once(':').ok_or_else(|| {
            format!("mount '{text}' has no path in the container; write \"/host:/container\"")
        })?;
        let (target, options) = rest.split_once(':').unwrap_or((rest, "ro"));
        let (source, target) = (absolute(source, text)?, absolute(target, text)?);
        let mut mount = Mount {
            source,
            target,
            read_only: true,
            propagation: "rprivate".to_owned(),
        };
        for option in options.split(',') {
            match option {
                "ro" => mount.read_only = true,
                "rw" => mount.read_only = false,
                word if PROPAGATIONS.contains(&word) => mount.propagation = word.to_owned(),
                _ => {
                    let known = PROPAGATIONS.join(", ");
                    return Err(format!(
                        "mount '{text}': unknown option '{option}'; write ro or rw, and perhaps one of {known}"
                    ));
                }
            }
        }
        Ok(mount)
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "ro" } else { "rw" };
        write!(f, "{}:{}:{mode}", self.source, self.target)?;
        match self.propagation.as_str() {
            "rprivate" => Ok(()),
            word => write!(f, ",{word}"),
        }
    }
}

impl Tmpfs {
    pub fn parse(text: &str) -> Result<Tmpfs, String> {
        let (target, size) = text
            .split_once(':')
            .map_or((text, None), |(target, size)| (target, Some(size)));
        Ok(Tmpfs {
            target: absolute(target, text)?,
            size: size.map(Bytes::parse).transpose()?,
        })
    }
}

impl fmt::Display for Tmpfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target)?;
        self.size
            .iter()
            .try_for_each(|size| write!(f, ":{}", exact_size(*size)))
    }
}

impl Handed {
    pub fn from_table(table: &BTreeMap<String, String>) -> Result<Handed, String> {
        if let Some(key) = table
            .keys()
            .find(|key| !["source", "target", "mode"].contains(&key.as_str()))
        {
            return Err(format!(
                "unknown key '{key}'; a file has source, target and mode"
            ));
        }
        let path = |key: &str| {
            let text = table
                .get(key)
                .ok_or_else(|| format!("a file has no {key}; write {key} = \"/path\""))?;
            absolute(text, text)
        };
        let mode = table.get("mode").map_or("0400", String::as_str);
        let mode =
            u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777 && *mode & 0o400 != 0).ok_or_else(|| {
                format!("mode '{mode}' is not an octal mode that its user can read; write one such as \"0400\"")
            })?;
        Ok(Handed {
            source: path("source")?,
            target: path("target")?,
            mode,
        })
    }
}

impl Device {
    pub fn parse(text: &str) -> Result<Device, String> {
        let (host, rest) = text.split_once(':').unwrap_or((text, text));
        let (container, permissions) = rest.split_once(':').unwrap_or((rest, "rwm"));
        if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(format!(
                "device '{text}': permissions '{permissions}' are not some of \"rwm\""
            ));
        }
        let (host, container) = (absolute(host, text)?, absolute(container, text)?);
        Ok(Device {
            host,
            container,
            permissions: permissions.to_owned(),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.container, self.permissions)
    }
}

/// A path from the root without `..`; `whole` is the text it stands in.
pub fn absolute(path: &str, whole: &str) -> Result<String, String> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!(
            "'{path}' in '{whole}' is not a path from the root; start it with '/' and leave out '..'"
        ));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        for (text, read_only, propagation, full) in [
            ("/a:/b", true, "rprivate", "/a:/b:ro"),
            ("/a:/b:ro", true, "rprivate", "/a:/b:ro"),
            ("/a:/b:rw", false, "rprivate", "/a:/b:rw"),
            ("/:/host:rslave", true, "rslave", "/:/host:ro,rslave"),
            ("/a:/b:rw,rshared", false, "rshared", "/a:/b:rw,rshared"),
        ] {
            let mount = Mount::parse(text).unwrap();
            assert_eq!(
                (mount.read_only, mount.propagation.as_str()),
                (read_only, propagation),
                "{text}"
            );
            assert_eq!(mount.to_string(), full, "{text}");
            assert_eq!(Mount::parse(full), Ok(mount), "{full}");
        }
        for (text, why) in [
            ("", "mount '' has no path in the container"),
            (
                "/a",
                "mount '/a' has no path in the container; write \"/host:/container\"",
            ),
            ("a:/b", "'a' in 'a:/b' is not a path from the root"),
            ("/a:b", "'b' in '/a:b' is not a path"),
            ("/a:/b/../..", "'/b/../..' in '/a:/b/../..' is not a path"),
            (
                "/a:/b:Z",
                "mount '/a:/b:Z': unknown option 'Z'; write ro or rw",
            ),
            (
                "/a:/b:",
                "mount '/a:/b:': unknown option ''; write ro or rw",
            ),
            ("/a:/b:ro:rw", "mount '/a:/b:ro:rw': unknown option 'ro:rw'"),
        ] {
            let error = Mount::parse(text).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn handed_files() {
        let parse = |pairs: &[(&str, &str)]| {
            Handed::from_table(
                &pairs
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            )
        };
        let file = parse(&[("source", "/a"), ("target", "/b")]).unwrap();
        assert_eq!(
            (file.source.as_str(), file.target.as_str(), file.mode),
            ("/a", "/b", 0o400)
        );
        assert_eq!(
            parse(&[("source", "/a"), ("target", "/b"), ("mode", "0440")])
                .unwrap()
                .mode,
            0o440
        );
        for (pairs, why) in [
            (&[("source", "/a")][..], "a file has no target"),
            (&[("target", "/a")], "a file has no source"),
            (
                &[("source", "a"), ("target", "/b")],
                "'a' in 'a' is not a path from the root",
            ),
            (
                &[("source", "/a"), ("target", "/b"), ("mode", "0200")],
                "mode '0200' is not an octal mode that its user",
            ),
            (
                &[("source", "/a"), ("target", "/b"), ("mode", "9")],
                "mode '9' is not",
            ),
            (
                &[("source", "/a"), ("target", "/b"), ("owner", "x")],
                "unknown key 'owner'",
            ),
        ] {
            let error = parse(pairs).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn scratch_and_devices() {
        for (text, target, size) in [
            ("/tmp", "/tmp", None),
            ("/x:64MiB", "/x", Some(Bytes(64 << 20))),
        ] {
            let tmpfs = Tmpfs::parse(text).unwrap();
            assert_eq!(
                (tmpfs.target.as_str(), tmpfs.size),
                (target, size),
                "{text}"
            );
            assert_eq!(Tmpfs::parse(&tmpfs.to_string()), Ok(tmpfs), "{text}");
        }
        for bad in ["", "tmp", "/tmp:", "/tmp:64", "/tmp:ro"] {
            assert!(Tmpfs::parse(bad).is_err(), "{bad}");
        }
        for (text, full) in [
            ("/dev/fuse", "/dev/fuse:/dev/fuse:rwm"),
            ("/dev/a:/dev/b", "/dev/a:/dev/b:rwm"),
            ("/dev/a:/dev/b:r", "/dev/a:/dev/b:r"),
        ] {
            let device = Device::parse(text).unwrap();
            assert_eq!(device.to_string(), full);
            assert_eq!(Device::parse(full), Ok(device));
        }
        for bad in ["", "fuse", "/dev/a:b", "/dev/a:/dev/b:", "/dev/a:/dev/b:rx"] {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
    }
}
