//! The one way in which this program reads a file that it does not own: opened without waiting, never more than a limit,
//! and only from regular files (those of /proc, /sys and cgroups are regular, with a size of 0).

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any file read here has, except /proc/stat on machines with many interrupts.
pub const LIMIT: usize = 64 << 10;
/// What the kernel gives at once.
const PAGE: usize = 4096;
/// No directory read here has as many entries as this; in a runaway one the rest is not seen.
const MOST_ENTRIES: usize = 20_000;

/// Why a file could not be read; compared to log a cause only when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The file, or what it describes, is not there (any more).
    Missing,
    /// A fifo, device, socket or directory in the file's place.
    NotRegular,
    /// Longer than this many bytes.
    TooLong(usize),
    /// Everybody on this machine has access to it.
    Public,
    /// Read, but not what was expected there.
    Malformed(&'static str),
    System(Errno),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    pub path: PathBuf,
    pub why: Why,
}

impl ReadError {
    pub fn new(path: &Path, why: Why) -> ReadError {
        let path = path.to_owned();
        ReadError { path, why }
    }

    pub fn malformed(path: &Path, expected: &'static str) -> ReadError {
        ReadError::new(path, Why::Malformed(expected))
    }

    pub fn is_missing(&self) -> bool {
        self.why == Why::Missing
    }

    pub fn system(path: &Path, errno: Errno) -> ReadError {
        // A file of a group or device that goes away under an open descriptor answers ENODEV.
        let why = match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO => Why::Missing,
            other => Why::System(other),
        };
        ReadError::new(path, why)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match self.why {
            Why::Missing => f.write_str("not there"),
            Why::NotRegular => f.write_str("not a regular file"),
            Why::TooLong(limit) => write!(f, "longer than {limit} bytes"),
            Why::Public => write!(
                f,
                "everybody on this machine has access to this secret; run chmod o= {}",
                self.path.display()
            ),
            Why::Malformed(expected) => write!(f, "no {expected} in it"),
            Why::System(Errno::ACCESS | Errno::PERM) => f.write_str("permission denied"),
            Why::System(errno) => errno.fmt(f),
        }
    }
}

/// A password or a token; never one that everybody has access to.
pub fn read_secret(path: &Path) -> Result<String, ReadError> {
    let stat = rustix::fs::stat(path).map_err(|errno| ReadError::system(path, errno))?;
    if stat.st_mode & 0o007 != 0 {
        return Err(ReadError::new(path, Why::Public));
    }
    read_text(path)
}

/// A plain file, opened without waiting for anything: what is to be streamed (archives, recordings).
pub fn open(path: &Path) -> Result<File, ReadError> {
    let failed = |errno| ReadError::system(path, errno);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ReadError::new(path, Why::NotRegular));
    }
    Ok(File::from(file))
}

/// The whole of a plain file of at most `limit` bytes.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>, ReadError> {
    let bytes = read_beginning(path, limit + 1)?;
    match bytes.len() > limit {
        true => Err(ReadError::new(path, Why::TooLong(limit))),
        false => Ok(bytes),
    }
}

/// At most so many bytes of a file that may be longer.
pub fn read_beginning(path: &Path, most: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::with_capacity(PAGE.min(most));
    let read = open(path)?.take(most as u64).read_to_end(&mut bytes);
    read.map_err(|error| {
        ReadError::system(path, Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    Ok(bytes)
}

/// The whole text of a plain file of at most `LIMIT` bytes; bytes that are not UTF-8 are replaced.
pub fn read_text(path: &Path) -> Result<String, ReadError> {
    read_text_up_to(path, LIMIT)
}

/// As [`read_text`], for the few files that are longer.
pub fn read_text_up_to(path: &Path, limit: usize) -> Result<String, ReadError> {
    let bytes = read(path, limit)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file that holds one word or line; `None` where it cannot be read.
pub fn read_word(path: &Path) -> Option<String> {
    Some(read_text(path).ok()?.trim().to_owned())
}

/// A file that holds one number.
pub fn read_u64(path: &Path) -> Option<u64> {
    read_word(path)?.parse().ok()
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
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.take(MOST_ENTRIES);
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
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
            ("long", Err(Why::TooLong(9_999))),
            ("dir", Err(Why::NotRegular)),
            ("fifo", Err(Why::NotRegular)),
            ("/dev/zero", Err(Why::NotRegular)),
            ("plain/below", Err(Why::Missing)),
        ] {
            let read = read_text_up_to(&tree.path(name), 9_999).map_err(|e| e.why);
            assert_eq!(read, expected, "{name}");
        }
        assert_eq!(read_text(&tree.path("long")), Ok(long));
        assert!(!read_text(Path::new("/proc/self/stat")).unwrap().is_empty());
        let beginning = read_beginning(&tree.path("long"), 99);
        assert_eq!(beginning.map(|bytes| bytes.len()), Ok(99));
        assert!(read_text(&tree.path("gone")).unwrap_err().is_missing());
        assert_eq!(read_names(tree.root()).first().unwrap(), "dir");
        assert!(read_names(&tree.path("plain")).is_empty());
    }

    #[test]
    fn numbers() {
        let tree = Tree::new(&[("n", "7\n")]);
        assert_eq!(read_u64(&tree.path("n")), Some(7));
        for content in GARBAGE {
            tree.put("n", content);
            assert_eq!(read_u64(&tree.path("n")), None);
        }
        let find = |key| find_number("anon_thp 6\nanon 5\nMemTotal:  7 kB\nbad x\n", key);
        let found = ["anon", "MemTotal", "bad", "none"].map(find);
        assert_eq!(found, [Some(5), Some(7), None, None]);
    }
}
