//! The one way in which this program reads a file that it does not own: opened without waiting, never more than a limit,
//! and only from regular files (those of /proc, /sys and cgroups are regular, with a size of 0). Errors name the file.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::{path::Path, str::FromStr};

/// More than any file read here has, except /proc/stat on machines with many interrupts.
pub const LIMIT: usize = 64 << 10;

/// What failed, and at which file.
pub fn failed(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    let why = match error.kind() {
        ErrorKind::NotFound => "not there".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {why}", path.display()))
}

/// A password or a token; never one that everybody has access to.
pub fn read_secret(path: &Path) -> io::Result<String> {
    let found = std::fs::metadata(path).map_err(|error| failed(path, error))?;
    if found.mode() & 0o007 == 0 {
        return read_text(path);
    }
    let why = "everybody on this machine has access to this secret; run chmod o=";
    let why = format!("{why} {}", path.display());
    Err(failed(path, io::Error::other(why)))
}

/// A plain file, opened without waiting for anything: what is to be streamed (archives, recordings).
pub fn open(path: &Path) -> io::Result<File> {
    open_plain(File::options().read(true), path)
}

/// Likewise, made if it is not there, to be written at its end.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    open_plain(File::options().read(true).append(true).create(true), path)
}

fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = options.custom_flags(flags).open(path);
    let file = file.map_err(|error| failed(path, error))?;
    match file.metadata().is_ok_and(|found| found.is_file()) {
        true => Ok(file),
        false => Err(failed(path, io::Error::other("not a regular file"))),
    }
}

/// The whole of a plain file of at most `limit` bytes.
pub fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    // What the kernel gives at once.
    let mut bytes = Vec::with_capacity(4096);
    let mut file = open(path)?.take(limit as u64 + 1);
    let read = match file.read_to_end(&mut bytes) {
        Ok(length) if length > limit => Err(io::Error::other(format!("longer than {limit} bytes"))),
        read => read,
    };
    read.map_err(|error| failed(path, error)).map(|_| bytes)
}

/// The whole text of a plain file of at most `LIMIT` bytes; bytes that are not UTF-8 are replaced.
pub fn read_text(path: &Path) -> io::Result<String> {
    read_text_up_to(path, LIMIT)
}

/// As [`read_text`], for the few files that are longer.
pub fn read_text_up_to(path: &Path, limit: usize) -> io::Result<String> {
    read(path, limit).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What a file of one word, line or number holds; `None` where it cannot be read as that.
pub fn read_value<T: FromStr>(path: &Path) -> Option<T> {
    read_text(path).ok()?.trim().parse().ok()
}

/// The number behind `key` in a file of lines "key number"; `None` where there is no such line.
pub fn find_number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next()?.trim_end_matches(':') == key;
        words.next().filter(|_| found)?.parse().ok()
    })
}

/// The sorted names in a directory; none where it cannot be read.
pub fn read_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    // No directory read here has as many entries; in a runaway one the rest is not seen.
    let names = entries.take(20_000);
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};

    #[test]
    fn only_regular_files_within_the_limit() {
        let long = "x".repeat(10_000);
        let tree = Tree::new(&[("plain", "text"), ("long", &long), ("dir/", "")]);
        tree.fifo("fifo");
        tree.link("link", "plain");
        for (name, expected) in [
            ("plain", Ok("text".to_owned())),
            ("link", Ok("text".to_owned())),
            ("long", Err(ErrorKind::Other)),
            ("dir", Err(ErrorKind::Other)),
            ("fifo", Err(ErrorKind::Other)),
            ("/dev/zero", Err(ErrorKind::Other)),
            ("plain/below", Err(ErrorKind::NotADirectory)),
            ("gone", Err(ErrorKind::NotFound)),
        ] {
            let read = read_text_up_to(&tree.path(name), 9_999).map_err(|e| e.kind());
            assert_eq!(read, expected, "{name}");
        }
        assert_eq!(read_text(&tree.path("long")).unwrap(), long);
        assert!(!read_text(Path::new("/proc/self/stat")).unwrap().is_empty());
        assert_eq!(read_names(tree.root()).first().unwrap(), "dir");
        assert!(read_names(&tree.path("plain")).is_empty());
    }

    #[test]
    fn numbers() {
        let tree = Tree::new(&[("n", "7\n")]);
        assert_eq!(read_value(&tree.path("n")), Some(7));
        for content in GARBAGE {
            tree.put("n", content);
            assert_eq!(read_value::<u64>(&tree.path("n")), None);
        }
        let find = |key| find_number("anon_thp 6\nanon 5\nMemTotal:  7 kB\nbad x\n", key);
        let found = ["anon", "MemTotal", "bad", "none"].map(find);
        assert_eq!(found, [Some(5), Some(7), None, None]);
    }
}
