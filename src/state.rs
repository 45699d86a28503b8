//! The daemon's own directories, and nothing else: where they are, who may write there, the lock, small files written whole
//! or not at all, the status file and the list of images. What users ask for through the control directory is in [`control`].

pub mod control;
mod lock;

pub use lock::{Lock, Probe, probe_lock, take_lock};

use crate::cli::Options;
use crate::report::Status;
use rustix::fs::{self as sys, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A status of 1,000 pilots has 300 kB.
const STATUS_LIMIT: u64 = 8 << 20;

/// Held: another daemon has the directory. NotOurs: a directory in a place where anybody can write. Forbidden and
/// NeverStarted: what a request runs into.
#[derive(Debug)]
pub enum StateError {
    Held {
        run: PathBuf,
        pid: Option<u32>,
    },
    NotOurs {
        path: PathBuf,
        what: &'static str,
    },
    Forbidden {
        path: PathBuf,
    },
    NeverStarted {
        path: PathBuf,
    },
    Io {
        path: PathBuf,
        doing: &'static str,
        error: io::Error,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Held { run, pid } => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                write!(
                    f,
                    "{}: another daemon{pid} runs there; end it with `plancton stop`, or give this one its own --run-dir, --state-dir and --instance",
                    run.display()
                )
            }
            StateError::NotOurs { path, what } => write!(
                f,
                "{}: {what}; it is not used, remove it or give another --run-dir and --state-dir",
                path.display()
            ),
            StateError::Forbidden { path } => write!(
                f,
                "{}: permission denied; nothing was changed. Members of the group plancton may do this: \
                 `sudo usermod -aG plancton $USER`, then log in again (or use sudo now)",
                path.display()
            ),
            StateError::NeverStarted { path } => write!(
                f,
                "{}: nothing to write to: no daemon was started here yet; `plancton start` starts one",
                path.display()
            ),
            StateError::Io { path, doing, error } if error.kind() == io::ErrorKind::StorageFull => {
                write!(
                    f,
                    "{}: cannot {doing}: the disk is full; it stays as it was, free some space there",
                    path.display()
                )
            }
            StateError::Io { path, doing, error } => write!(
                f,
                "{}: cannot {doing}: {error}; see to its owner and its file system, or give another --run-dir or --state-dir",
                path.display()
            ),
        }
    }
}

/// Names the object and the deed of a failed system call.
fn failed<E: Into<io::Error>>(path: &Path, doing: &'static str) -> impl FnOnce(E) -> StateError {
    move |error| StateError::Io {
        path: path.to_owned(),
        doing,
        error: error.into(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// root's: the one daemon of the machine.
    Machine,
    User,
    /// Given by --run-dir or --state-dir.
    Given,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    pub run: PathBuf,
    pub state: PathBuf,
    /// The configuration file, the one given or the usual one.
    pub config: PathBuf,
    pub scope: Scope,
}

impl Dirs {
    /// Those of the machine's daemon.
    pub fn machine() -> Dirs {
        Dirs {
            run: PathBuf::from("/run/plancton"),
            state: PathBuf::from("/var/lib/plancton"),
            config: PathBuf::from("/etc/plancton/config.toml"),
            scope: Scope::Machine,
        }
    }

    /// Pure: by user id, environment and options. As the XDG rules ask, a variable that is no absolute path is ignored.
    pub fn resolve(uid: u32, env: impl Fn(&str) -> Option<OsString>, options: &Options) -> Dirs {
        let mut dirs = if uid == 0 {
            Dirs::machine()
        } else {
            Dirs::of_user(uid, env)
        };
        if options.run_dir.is_some() || options.state_dir.is_some() {
            dirs.scope = Scope::Given;
        }
        dirs.run = options.run_dir.clone().unwrap_or(dirs.run);
        dirs.state = options.state_dir.clone().unwrap_or(dirs.state);
        dirs.config = options.config.clone().unwrap_or(dirs.config);
        dirs
    }

    fn of_user(uid: u32, env: impl Fn(&str) -> Option<OsString>) -> Dirs {
        let absolute = |name: &str| {
            env(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let fallback = PathBuf::from(format!("/tmp/plancton-{uid}"));
        let home = absolute("HOME");
        let below = |name: &str, in_home: &str, last: &str| {
            absolute(name)
                .or_else(|| home.as_ref().map(|home| home.join(in_home)))
                .map_or_else(|| fallback.join(last), |base| base.join("plancton"))
        };
        Dirs {
            run: absolute("XDG_RUNTIME_DIR").map_or(fallback.clone(), |base| base.join("plancton")),
            state: below("XDG_STATE_HOME", ".local/state", "state"),
            config: below("XDG_CONFIG_HOME", ".config", "config").join("config.toml"),
            scope: Scope::User,
        }
    }

    /// Whose daemon a command speaks to: a user who has none of their own speaks to the machine's.
    pub fn addressed(self, machine: Dirs) -> Dirs {
        let own =
            || matches!(probe_lock(&self.run), Probe::Held(_)) || status_path(&self.run).exists();
        if self.scope == Scope::User && !own() && status_path(&machine.run).exists() {
            return machine;
        }
        self
    }

    /// Makes what is missing, for a daemon. `group_file` is /etc/group: the machine's control directory is for the group plancton.
    pub fn prepare(&self, group_file: &Path) -> Result<(), StateError> {
        let root = rustix::process::geteuid().is_root();
        let mode = if root { 0o755 } else { 0o700 };
        make_directory(&self.run, mode)?;
        make_directory(&self.state, mode)?;
        let group = control::group(group_file).filter(|_| root);
        control::prepare(&self.state, group)
    }
}

/// A directory (with its parents) that nobody else can have prepared for us: where anybody may create files, as in /tmp,
/// it must be no link and belong to us, and gets the mode again.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), StateError> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(failed(path, "create the directory"))?;
    match sys::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => return set_mode(path, mode),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(path, "create the directory")(errno)),
    }
    let anybody = sys::stat(parent).is_ok_and(|parent| parent.st_mode & 0o002 != 0);
    let found = if anybody {
        sys::lstat(path)
    } else {
        sys::stat(path)
    };
    let found = found.map_err(failed(path, "create the directory"))?;
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory if !anybody => return Ok(()),
        FileType::Directory if found.st_uid == rustix::process::geteuid().as_raw() => {
            return set_mode(path, mode);
        }
        FileType::Directory => "it belongs to another user",
        FileType::Symlink => "it is a link in a directory where anybody may write",
        _ => "it is not a directory",
    };
    Err(StateError::NotOurs {
        path: path.to_owned(),
        what,
    })
}

/// Whatever the umask says.
fn set_mode(path: &Path, mode: u32) -> Result<(), StateError> {
    sys::chmod(path, Mode::from_raw_mode(mode)).map_err(failed(path, "set the mode"))
}

/// Whether a written file must survive a power cut: what is in the state directory must, what is in the run directory need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    Yes,
    No,
}

/// Writes a small file whole or not at all: readers see the old content or the new one.
pub fn write_file(
    path: &Path,
    content: &[u8],
    mode: u32,
    durable: Durable,
) -> Result<(), StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || sys::open(&temporary, flags, Mode::from_raw_mode(0o600));
        let opened = match open() {
            // Left over by a predecessor with our pid, which is the rule in a container.
            Err(Errno::EXIST) => remove_if_there(&temporary).and_then(|()| Ok(open()?)),
            opened => Ok(opened?),
        };
        let mut file = File::from(opened?);
        file.write_all(content)?;
        sys::fchmod(&file, Mode::from_raw_mode(mode))?;
        match (durable, path.parent()) {
            (Durable::Yes, Some(parent)) => {
                file.sync_all()?;
                std::fs::rename(&temporary, path)?;
                File::open(parent)?.sync_all()
            }
            _ => std::fs::rename(&temporary, path),
        }
    };
    write().map_err(|error| {
        // Nothing more can be done about it if this fails too.
        let _ = std::fs::remove_file(&temporary);
        failed(path, "write")(error)
    })
}

/// Adds lines to a file, all of them or none, and ends a line that a crash has left open.
pub fn append_lines(path: &Path, lines: &str) -> Result<(), StateError> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let append = || -> io::Result<()> {
        let mut file = File::from(sys::open(path, flags, Mode::from_raw_mode(0o644))?);
        let (length, mut last) = (file.metadata()?.len(), [b'\n']);
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        let open = if last == [b'\n'] { "" } else { "\n" };
        let written = file
            .write_all(format!("{open}{lines}").as_bytes())
            .and_then(|()| file.sync_all());
        written.inspect_err(|_| drop(file.set_len(length)))
    };
    append().map_err(failed(path, "write"))
}

/// What a regular file has, and no more than `limit` of it; `None` if there is none.
pub fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StateError> {
    let read = read_plain(path, limit).map_err(failed(path, "read"))?;
    Ok(read.map(|(content, _)| content))
}

/// Reads a regular file that is no link, and no more than `limit` of it; `None` if there is none.
fn read_plain(path: &Path, limit: u64) -> io::Result<Option<(Vec<u8>, sys::Stat)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let refuse = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let file = match sys::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => return refuse("it is a link"),
        Err(errno) => return Err(errno.into()),
    };
    let found = sys::fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return refuse("it is not a plain file");
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some((content, found)))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn remove_file(path: &Path) -> Result<(), StateError> {
    remove_if_there(path).map_err(failed(path, "remove"))
}

fn status_path(run: &Path) -> PathBuf {
    run.join("status.json")
}

/// Readable by everybody on the machine.
pub fn write_status(run: &Path, status: &Status) -> Result<(), StateError> {
    let path = status_path(run);
    // Capacity for the usual one at once: it is written at each tick.
    let mut text = Vec::with_capacity(16 << 10);
    serde_json::to_writer(&mut text, status).map_err(failed(&path, "encode the status"))?;
    text.push(b'\n');
    write_file(&path, &text, 0o644, Durable::No)
}

/// `None` if no daemon has written one.
pub fn read_status(run: &Path) -> Result<Option<Status>, StateError> {
    let path = status_path(run);
    let status = read_file(&path, STATUS_LIMIT)?
        .map(|content| serde_json::from_slice(&content))
        .transpose();
    status.map_err(failed(&path, "read the status"))
}

/// At an orderly end: what is no longer true.
pub fn remove_status(run: &Path) -> Result<(), StateError> {
    remove_file(&status_path(run))
}

/// The images that Plancton brought to this engine, oldest first: those that `purge` may remove.
pub fn read_images(state: &Path) -> Result<Vec<String>, StateError> {
    let path = state.join("images");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(&path, "read the list of images")(error)),
    }
}

/// Remembers an image; does nothing if it is in the list.
pub fn add_image(state: &Path, image: &str) -> Result<(), StateError> {
    let mut images = read_images(state)?;
    if images.iter().any(|known| known == image) {
        return Ok(());
    }
    images.push(image.to_owned());
    write_images(state, &images)
}

/// Forgets an image; with the last one goes the file.
pub fn remove_image(state: &Path, image: &str) -> Result<(), StateError> {
    let mut images = read_images(state)?;
    images.retain(|known| known != image);
    write_images(state, &images)
}

fn write_images(state: &Path, images: &[String]) -> Result<(), StateError> {
    let path = state.join("images");
    if images.is_empty() {
        return remove_file(&path);
    }
    write_file(
        &path,
        (images.join("\n") + "\n").as_bytes(),
        0o644,
        Durable::Yes,
    )
}

/// Bytes that images brought over the network on that day (since 1970); a file that says nothing says 0.
pub fn read_pulled(state: &Path, day: u64) -> u64 {
    let text = std::fs::read_to_string(state.join("pulled")).unwrap_or_default();
    let pulled = text
        .trim()
        .split_once(' ')
        .filter(|(of, _)| of.parse() == Ok(day));
    pulled
        .and_then(|(_, bytes)| bytes.parse().ok())
        .unwrap_or(0)
}

pub fn write_pulled(state: &Path, day: u64, bytes: u64) -> Result<(), StateError> {
    write_file(
        &state.join("pulled"),
        format!("{day} {bytes}\n").as_bytes(),
        0o644,
        Durable::No,
    )
}

#[cfg(test)]
mod tests;
