//! The daemon's own directories, and nothing else: where they are, who may write there, who holds them, small files written
//! whole or not at all, the status file and the notes about images. What the owner asks for is in [`control`].

pub mod control;

use crate::{host::files, host::group_id, units::lock};
use rustix::fs::{self as sys, FlockOperation, Mode, OFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk, geteuid};
use rustix::{io::Errno, net::sockopt::socket_peercred};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::{ffi::OsString, fs::File, os::fd::OwnedFd, sync::Mutex};

/// In bytes: a status of 1,000 pilots has 300 kB.
const LIMIT: usize = 8 << 20;
pub const STATUS: &str = "status.json";
/// What pilots said last.
pub const LOG_TAILS: &str = "log-tails.json";

/// Names the object and the deed of a failed system call, and what now.
fn failed<E: Into<io::Error>>(path: &Path, doing: &'static str) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        let then = match error.kind() {
            ErrorKind::StorageFull => "the disk is full, free some space there",
            ErrorKind::NotFound => "`plancton start` makes what is missing",
            ErrorKind::PermissionDenied => {
                "use sudo, or join the group: `sudo usermod -aG plancton $USER`, then log in again"
            }
            _ => "see to its owner and its file system, or give another --run-dir or --state-dir",
        };
        let text = format!("{}: cannot {doing}: {error}; {then}", path.display());
        io::Error::new(error.kind(), text)
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
            run: "/run/plancton".into(),
            state: "/var/lib/plancton".into(),
            config: "/etc/plancton/config.toml".into(),
            scope: Scope::Machine,
        }
    }

    /// By user and environment. As the XDG rules ask, a variable that is no absolute path is ignored.
    pub fn usual(uid: u32, env: impl Fn(&str) -> Option<OsString>) -> Dirs {
        if uid == 0 {
            return Dirs::machine();
        }
        let is_absolute = |path: &PathBuf| path.is_absolute();
        let absolute = |name: &str| env(name).map(PathBuf::from).filter(is_absolute);
        let fallback = PathBuf::from(format!("/tmp/plancton-{uid}"));
        let home = absolute("HOME").unwrap_or(fallback.clone());
        let below = |name: &str, usual: &str| {
            let base = absolute(name).unwrap_or_else(|| home.join(usual));
            base.join("plancton")
        };
        Dirs {
            run: absolute("XDG_RUNTIME_DIR").map_or(fallback, |base| base.join("plancton")),
            state: below("XDG_STATE_HOME", ".local/state"),
            config: below("XDG_CONFIG_HOME", ".config").join("config.toml"),
            scope: Scope::User,
        }
    }

    /// With what the command line names in place of the usual.
    pub fn given(mut self, [run, state, config]: [Option<PathBuf>; 3]) -> Dirs {
        if run.is_some() || state.is_some() {
            self.scope = Scope::Given;
        }
        self.run = run.unwrap_or(self.run);
        self.state = state.unwrap_or(self.state);
        self.config = config.unwrap_or(self.config);
        self
    }

    /// Whose daemon a command speaks to: a user who has none of their own speaks to the machine's.
    pub fn addressed(self, machine: Dirs) -> Dirs {
        let is_own = has_status(&self.run) || is_running(&self.run);
        if self.scope == Scope::User && !is_own && has_status(&machine.run) {
            return machine;
        }
        self
    }

    /// Makes what is missing, for a daemon. The machine's control directories are for the group plancton of `root`.
    pub fn prepare(&self, root: &Path) -> io::Result<()> {
        let is_root = geteuid().is_root();
        let mode = if is_root { 0o755 } else { 0o700 };
        make_directory(&self.run, mode)?;
        make_directory(&self.state, mode)?;
        let group = group_id(root, "plancton");
        control::prepare(self, group.filter(|_| is_root))
    }
}

/// A directory (with its parents) that nobody else can have prepared for us: where anybody may create files, as in /tmp,
/// it must be no link and belong to us, and gets the mode again.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    let doing = "create the directory";
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(failed(path, doing))?;
    match sys::mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => {
            let is_shared = sys::stat(parent).is_ok_and(|parent| parent.st_mode & 0o002 != 0);
            if !is_shared && path.is_dir() {
                return Ok(());
            }
            let found = path.symlink_metadata().map_err(failed(path, doing))?;
            if !found.is_dir() || found.uid() != geteuid().as_raw() {
                let why = "it is no directory of ours, and not used; remove it or give another --run-dir and --state-dir";
                let why = format!("{}: {why}", path.display());
                return Err(io::Error::other(why));
            }
        }
        made => made.map_err(failed(path, doing))?,
    }
    set_mode(path, mode)
}

/// Whatever the umask says.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    sys::chmod(path, Mode::from_raw_mode(mode)).map_err(failed(path, "set the mode"))
}

/// One daemon a run directory (the lock on `RUN/lock`), and one an engine and instance, wherever its directories are (a name
/// among the sockets of this network namespace). The kernel gives both back whatever way their holder ends.
pub type Lock = (File, Option<OwnedFd>);

fn open_lock(run: &Path, flags: OFlags) -> rustix::io::Result<File> {
    // 0600: who can open the file can hold the lock, and keep the daemon from starting.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    sys::open(run.join("lock"), flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Takes both, and writes our pid into the file, for people. To be called once: the first is a process's, which loses it with
/// any file of that name that it closes. Only commands ask who holds it ([`probe_lock`]); a test sees to that.
pub fn take_lock(run: &Path, engine: &Path, instance: &str) -> io::Result<Lock> {
    let path = run.join("lock");
    let mut file =
        open_lock(run, OFlags::RDWR | OFlags::CREATE).map_err(failed(&path, "open the lock"))?;
    match sys::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => return Err(held(run, lock_holder(run))),
        Err(errno) => return Err(failed(&path, "take the lock")(errno)),
    }
    let pid = std::process::id();
    let written = file.set_len(0).and_then(|()| writeln!(file, "{pid}"));
    written.map_err(failed(&path, "write the pid"))?;
    Ok((file, hold_name(engine, instance)?))
}

/// `None`: the name can't be had, or somebody who could not be our twin sits on it; the other lock is all there is then.
fn hold_name(engine: &Path, instance: &str) -> io::Result<Option<OwnedFd>> {
    let path = engine.canonicalize().unwrap_or_else(|_| engine.to_owned());
    let name = format!("plancton {} {instance}", path.display());
    // The kernel takes 107 bytes as the name of a socket.
    let start = name.len().saturating_sub(107);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let name = name.as_bytes().get(start..).unwrap_or_default();
    let (ours, other) = (socket()?, socket()?);
    let address = SocketAddrUnix::new_abstract_name(name)?;
    if net::bind(&ours, &address).is_ok() && net::listen(&ours, 64).is_ok() {
        return Ok(Some(ours));
    }
    // Anybody may take a name: only root and ourselves are believed.
    match net::connect(&other, &address).and_then(|()| socket_peercred(&other)) {
        Ok(holder) if holder.uid.is_root() || holder.uid == geteuid() => {
            Err(held(engine, Some(holder.pid)))
        }
        // Others have asked before us, and nobody answers them: a name that is listened on is held.
        Err(Errno::AGAIN) => Err(held(engine, None)),
        _ => Ok(None),
    }
}

fn held(place: &Path, pid: Option<Pid>) -> io::Error {
    let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    let why = format!("another daemon{pid} of this instance runs there");
    let then = "end it with `plancton stop`, or give this one its own --run-dir, --state-dir and --instance";
    io::Error::other(format!("{}: {why}; {then}", place.display()))
}

/// Asks the kernel; takes and creates nothing. `None`: it is free.
fn probe_lock(run: &Path) -> rustix::io::Result<Option<Flock>> {
    match open_lock(run, OFlags::RDONLY) {
        Ok(file) => fcntl_getlk(&file, &FlockType::WriteLock.into()),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The process that holds a run directory, if that can be seen from here (not from another pid namespace).
pub fn lock_holder(run: &Path) -> Option<Pid> {
    probe_lock(run).ok()??.pid
}

/// True while a daemon holds the run directory. A user may not ask that of root's: its status goes away with it.
pub fn is_running(run: &Path) -> bool {
    probe_lock(run).map_or_else(|_| has_status(run), |held| held.is_some())
}

/// Whether a written file must survive a power cut: what is in the state directory must, what is in the run directory need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    Yes,
    No,
}

/// Writes a small file whole or not at all: readers see the old content or the new one.
pub fn write_file(path: &Path, content: &[u8], mode: u32, durable: Durable) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        // One that a predecessor with our pid has left over, which is the rule in a container.
        let _ = std::fs::remove_file(&temporary);
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
    write().map_err(|error| {
        // Nothing more can be done about it if the removal fails too.
        let _ = std::fs::remove_file(&temporary);
        failed(path, "write")(error)
    })
}

/// Adds lines to a file, all of them or none, behind an empty one: a crash may have left a line open.
pub fn append_lines(path: &Path, lines: &str) -> io::Result<()> {
    let append = || -> io::Result<()> {
        let mut file = File::options().append(true).create(true).open(path)?;
        let length = file.metadata()?.len();
        file.write_all(format!("\n{lines}").as_bytes())
            .and_then(|()| file.sync_all())
            .inspect_err(|_| drop(file.set_len(length)))
    };
    append().map_err(failed(path, "write"))
}

/// The text of a plain file of ours; `None` if there is none. Errors: one of more than `limit` bytes, too.
pub fn read_file(path: &Path, limit: usize) -> io::Result<Option<String>> {
    match files::read_text_up_to(path, limit) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// If it is there.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(failed(path, "remove")(error))
        }
        _ => Ok(()),
    }
}

/// A daemon works here, or did and has not ended well.
pub fn has_status(run: &Path) -> bool {
    run.join(STATUS).exists()
}

/// Of what a daemon says: the status for everybody, with its `mode`.
pub fn write_json(run: &Path, name: &str, value: &impl Serialize, mode: u32) -> io::Result<()> {
    let mut text = lock(&TEXT);
    text.0.clear();
    serde_json::to_writer(&mut *text, value)?;
    write_file(&run.join(name), &text.0, mode, Durable::No)
}

/// JSON comes in pieces of a few bytes, which musl's memcpy takes many times longer to copy than this loop. Kept, since a status
/// of many pilots would need new pages at each tick.
struct Text(Vec<u8>);

static TEXT: Mutex<Text> = Mutex::new(Text(Vec::new()));

impl Write for Text {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        piece.iter().for_each(|byte| self.0.push(*byte));
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For root and the group that may control us, and nobody else.
pub fn write_log_tails(dirs: &Dirs, tails: &impl Serialize) -> io::Result<()> {
    let path = dirs.run.join(LOG_TAILS);
    write_json(&dirs.run, LOG_TAILS, tails, 0o640)?;
    let [control, _] = control::directories(dirs);
    let group = sys::stat(&control).ok().map(|found| found.st_gid);
    // Where it is not given to that group, nobody else comes this far.
    chown(&path, None, group).or(Ok(()))
}

/// Of what a daemon writes; `None` if none has.
pub fn read_json<T: DeserializeOwned>(run: &Path, name: &str) -> io::Result<Option<T>> {
    let path = run.join(name);
    let text = read_file(&path, LIMIT)?;
    let read = text.map(|text| serde_json::from_slice(text.as_bytes()));
    read.transpose().map_err(failed(&path, "read the status"))
}

/// The images that Plancton brought to this engine, oldest first: those that `purge` may remove.
pub fn read_images(state: &Path) -> io::Result<Vec<String>> {
    let text = read_file(&state.join("images"), LIMIT)?.unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Remembers an image as ours, or forgets it; with the last one goes the file.
pub fn note_image(state: &Path, image: &str, is_ours: bool) -> io::Result<()> {
    let (path, mut images) = (state.join("images"), read_images(state)?);
    if images.iter().any(|known| known == image) == is_ours {
        return Ok(());
    }
    images.retain(|known| known != image);
    images.extend(is_ours.then(|| image.to_owned()));
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

pub fn write_pulled(state: &Path, day: u64, bytes: u64) -> io::Result<()> {
    let text = format!("{day} {bytes}\n");
    write_file(&state.join("pulled"), text.as_bytes(), 0o644, Durable::No)
}

#[cfg(test)]
mod tests;
