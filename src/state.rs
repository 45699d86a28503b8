//! The daemon's own directories, and nothing else: where they are, who may write there, small files written whole or not
//! at all, the status file and the notes about images. The lock is in [`lock`], what the owner asks for in [`control`].

pub mod control;
mod lock;

pub use lock::{Lock, Probe, probe_lock, take_lock};

use crate::host::{files, group_id};
use rustix::fs::{self as sys, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A status of 1,000 pilots has 300 kB.
const STATUS_LIMIT: usize = 8 << 20;
const IMAGES_LIMIT: usize = 1 << 20;
const LOG_TAILS: &str = "log-tails.json";

/// Which of our own files could not be used, why, and what now.
#[derive(Debug)]
pub struct StateError(String);

impl std::error::Error for StateError {}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names the object and the deed of a failed system call.
fn failed<E: Into<io::Error>>(path: &Path, doing: &'static str) -> impl FnOnce(E) -> StateError {
    move |error| {
        let error = error.into();
        let then = match error.kind() {
            ErrorKind::StorageFull => "the disk is full, free some space there",
            ErrorKind::NotFound => "`plancton start` makes what is missing",
            ErrorKind::PermissionDenied => {
                "members of the group plancton may ask a daemon (`sudo usermod -aG plancton $USER`, \
                 then log in again); else give another --run-dir and --state-dir"
            }
            _ => "see to its owner and its file system, or give another --run-dir or --state-dir",
        };
        StateError(format!(
            "{}: cannot {doing}: {error}; {then}",
            path.display()
        ))
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

    /// By user and environment. As the XDG rules ask, a variable that is no absolute path is ignored.
    pub fn usual(uid: u32, env: impl Fn(&str) -> Option<OsString>) -> Dirs {
        if uid == 0 {
            return Dirs::machine();
        }
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

    /// With what the command line names in place of the usual.
    pub fn given(
        self,
        run: Option<PathBuf>,
        state: Option<PathBuf>,
        config: Option<PathBuf>,
    ) -> Dirs {
        let is_given = run.is_some() || state.is_some();
        Dirs {
            run: run.unwrap_or(self.run),
            state: state.unwrap_or(self.state),
            config: config.unwrap_or(self.config),
            scope: if is_given { Scope::Given } else { self.scope },
        }
    }

    /// Whose daemon a command speaks to: a user who has none of their own speaks to the machine's.
    pub fn addressed(self, machine: Dirs) -> Dirs {
        let is_own = matches!(probe_lock(&self.run), Probe::Held(_)) || has_status(&self.run);
        if self.scope == Scope::User && !is_own && has_status(&machine.run) {
            return machine;
        }
        self
    }

    /// Makes what is missing, for a daemon. The machine's control directories are for the group plancton of `root`.
    pub fn prepare(&self, root: &Path) -> Result<(), StateError> {
        let is_root = rustix::process::geteuid().is_root();
        let mode = if is_root { 0o755 } else { 0o700 };
        make_directory(&self.run, mode)?;
        make_directory(&self.state, mode)?;
        let group = group_id(root, "plancton");
        control::prepare(self, group.filter(|_| is_root))
    }
}

/// A directory (with its parents) that nobody else can have prepared for us: where anybody may create files, as in /tmp,
/// it must be no link and belong to us, and gets the mode again.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), StateError> {
    let doing = "create the directory";
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(failed(path, doing))?;
    match sys::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => return set_mode(path, mode),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(path, doing)(errno)),
    }
    let is_shared = sys::stat(parent).is_ok_and(|parent| parent.st_mode & 0o002 != 0);
    if !is_shared && path.is_dir() {
        return Ok(());
    }
    let found = sys::lstat(path).map_err(failed(path, doing))?;
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if is_directory && found.st_uid == rustix::process::geteuid().as_raw() {
        return set_mode(path, mode);
    }
    let what = "it is no directory of ours, and not used";
    let then = "remove it or give another --run-dir and --state-dir";
    Err(StateError(format!("{}: {what}; {then}", path.display())))
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
    replace(path, content, mode, durable).map_err(failed(path, "write"))
}

/// The same for any file.
pub fn replace(path: &Path, content: &[u8], mode: u32, durable: Durable) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    // One that a predecessor with our pid has left over, which is the rule in a container.
    remove_if_there(&temporary)?;
    let write = || -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(sys::open(&temporary, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(content)?;
        sys::fchmod(&file, Mode::from_raw_mode(mode))?;
        if durable == Durable::No {
            return std::fs::rename(&temporary, path);
        }
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        #[expect(clippy::disallowed_methods, reason = "a directory of ours")]
        let directory = File::open(path.parent().unwrap_or(path))?;
        directory.sync_all()
    };
    // Nothing more can be done about it if the removal fails too.
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Adds lines to a file, all of them or none, and ends a line that a crash has left open.
pub fn append_lines(path: &Path, lines: &str) -> Result<(), StateError> {
    let append = || -> io::Result<()> {
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let (length, mut last) = (file.metadata()?.len(), [b'\n']);
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        let open = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{open}{lines}").as_bytes())
            .and_then(|()| file.sync_all())
            .inspect_err(|_| drop(file.set_len(length)))
    };
    append().map_err(failed(path, "write"))
}

/// The text of a plain file of ours; `None` if there is none. Errors: one of more than `limit` bytes, too.
pub fn read_file(path: &Path, limit: usize) -> Result<Option<String>, StateError> {
    match files::read_text_up_to(path, limit) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError(error.to_string())),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    let removed = std::fs::remove_file(path);
    removed.or_else(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(()),
        _ => Err(error),
    })
}

pub fn remove_file(path: &Path) -> Result<(), StateError> {
    remove_if_there(path).map_err(failed(path, "remove"))
}

fn status_path(run: &Path) -> PathBuf {
    run.join("status.json")
}

/// A daemon works here, or did and has not ended well.
pub fn has_status(run: &Path) -> bool {
    status_path(run).exists()
}

/// Readable by everybody on the machine.
pub fn write_status(run: &Path, status: &impl Serialize) -> Result<(), StateError> {
    let path = status_path(run);
    // Room for the usual one at once: it is written at each tick.
    let mut text = Vec::with_capacity(16 << 10);
    serde_json::to_writer(&mut text, status).map_err(failed(&path, "encode the status"))?;
    text.push(b'\n');
    write_file(&path, &text, 0o644, Durable::No)
}

/// `None` if no daemon has written one.
pub fn read_status<T: DeserializeOwned>(run: &Path) -> Result<Option<T>, StateError> {
    let path = status_path(run);
    let text = read_file(&path, STATUS_LIMIT)?;
    let status = text.map(|text| serde_json::from_str(&text)).transpose();
    status.map_err(failed(&path, "read the status"))
}

/// At an orderly end: what is no longer true.
pub fn remove_status(run: &Path) -> Result<(), StateError> {
    remove_file(&run.join(LOG_TAILS))?;
    remove_file(&status_path(run))
}

/// What pilots said last, by name: for root and the group that may control us, and nobody else.
pub fn write_log_tails(dirs: &Dirs, tails: &BTreeMap<String, String>) -> Result<(), StateError> {
    let path = dirs.run.join(LOG_TAILS);
    let text = serde_json::to_vec(tails).map_err(failed(&path, "encode the logs"))?;
    write_file(&path, &text, 0o600, Durable::No)?;
    let [control, _] = control::directories(dirs);
    let group = sys::stat(&control).ok().map(|found| found.st_gid);
    if std::os::unix::fs::chown(&path, None, group).is_ok() {
        set_mode(&path, 0o640)?;
    }
    Ok(())
}

/// None of them where they may not be read.
pub fn read_log_tails(run: &Path) -> BTreeMap<String, String> {
    let text = files::read_text_up_to(&run.join(LOG_TAILS), STATUS_LIMIT).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// The images that Plancton brought to this engine, oldest first: those that `purge` may remove.
pub fn read_images(state: &Path) -> Result<Vec<String>, StateError> {
    let text = read_file(&state.join("images"), IMAGES_LIMIT)?.unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
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
    let text = images.join("\n") + "\n";
    write_file(&path, text.as_bytes(), 0o644, Durable::Yes)
}

/// Bytes that images brought over the network on that day (since 1970); a file that says nothing says 0.
pub fn read_pulled(state: &Path, day: u64) -> u64 {
    let text = files::read_text(&state.join("pulled")).unwrap_or_default();
    let of_day = text.trim().strip_prefix(&format!("{day} "));
    of_day.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

pub fn write_pulled(state: &Path, day: u64, bytes: u64) -> Result<(), StateError> {
    let text = format!("{day} {bytes}\n");
    write_file(&state.join("pulled"), text.as_bytes(), 0o644, Durable::No)
}

#[cfg(test)]
mod tests;
