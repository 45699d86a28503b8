//! Makes, mends and removes the parent group of all pilots: an idle group beside (not below) the owner's, because weights
//! compete only among siblings. With the systemd driver all of it goes through systemd, which rewrites what it did not
//! write; else through the cgroup files.

use super::*;
use crate::host::cgroup::{CPU_IDLE, Group, IO_WEIGHTS, MEMORY_LIMIT};
use crate::host::{files, read_memory};
use crate::site::has_slice;
use std::process::Command;
use std::time::{Duration, Instant};

/// The slice as the package ships it; written where there is no package.
const SLICE: &str = include_str!("../../packaging/systemd/plancton.slice");
const SLICE_FILE: &str = "run/systemd/system/plancton.slice";

/// Makes the group idle and bounds its memory, so that so many bytes stay for the owner. Calling it again mends what was
/// lost. Errors name the file or the call.
pub fn prepare(root: &Path, facts: &Facts, reserve: u64) -> io::Result<()> {
    let (layout, Ok(group), true) = (facts.layout, &facts.parent, facts.is_ours) else {
        return Ok(());
    };
    // The machine may be smaller than its reserve.
    let limit = read_memory(root).and_then(|(total, _)| total.checked_sub(reserve));
    let memory_limit = limit.filter(|limit| *limit > 0);
    if layout.is_systemd {
        prepare_slice(root, facts, group, memory_limit)?;
        if layout.is_v2 {
            return Ok(());
        }
    }
    // Only where we write or measure: the engine makes the group in the other hierarchies itself. In cgroup v2 a child has
    // the files of a controller only when its parent hands that down.
    for controller in ["cpu", "cpuacct", "memory"] {
        let dir = group.file((controller, "", ""));
        let Some(parent) = dir.parent().filter(|parent| parent.is_dir()) else {
            continue;
        };
        if !dir.is_dir() {
            fs::create_dir(&dir).map_err(|error| files::failed(&dir, error))?;
        }
        let _ = write(&parent.join("cgroup.subtree_control"), "+cpu +memory +pids");
    }
    write(&group.file(CPU_IDLE), "1")?;
    for weight in IO_WEIGHTS {
        // Not every scheduler takes the least weight, and without one there is nothing to lower.
        let _ = write(&group.file(weight), "1");
    }
    let file = group.file(MEMORY_LIMIT);
    memory_limit.map_or(Ok(()), |limit| write(&file, &limit.to_string()))
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    let opened = fs::OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| files::failed(file, error))
}

fn prepare_slice(root: &Path, facts: &Facts, group: &Group, limit: Option<u64>) -> io::Result<()> {
    if !facts.is_rootless && !has_slice(root, "system") {
        let file = root.join(SLICE_FILE);
        fs::write(&file, SLICE).map_err(|error| files::failed(&file, error))?;
        systemctl(facts, "daemon-reload")?;
    }
    systemctl(facts, "start plancton.slice")?;
    if !group.exists() {
        // Its directory was taken away: systemd makes it again only for a unit that is not active.
        systemctl(facts, "stop plancton.slice")?;
        systemctl(facts, "start plancton.slice")?;
    }
    let limit = limit.map_or("infinity".to_owned(), |limit| limit.to_string());
    let set = format!("set-property --runtime plancton.slice CPUWeight=idle MemoryMax={limit}");
    systemctl(facts, &set)
}

/// Of the machine's manager, or of the user's own.
fn systemctl(facts: &Facts, arguments: &str) -> io::Result<()> {
    let manager = Some("--user").filter(|_| facts.is_rootless);
    let manager = manager.unwrap_or("--system");
    let mut command = Command::new("systemctl");
    let why = match command.arg(manager).args(arguments.split(' ')).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let why = format!("systemctl {manager} {arguments}: {}", why.trim());
    Err(io::Error::other(why))
}

/// Removes the group, and the slice that we wrote. The groups of pilots that have just gone may be there for `patience`
/// more. A group in use stays: that is no error.
pub fn remove(root: &Path, facts: &Facts, patience: Duration) {
    let (layout, Ok(group), true) = (facts.layout, &facts.parent, facts.is_ours) else {
        return;
    };
    let start = Instant::now();
    let is_left = |dir: &PathBuf| {
        if layout.is_systemd {
            let mut below = files::read_names(dir).into_iter();
            return below.any(|name| dir.join(name).is_dir());
        }
        // What an engine leaves below it: Podman makes an empty group `conmon`.
        let _ = fs::remove_dir(dir.join("conmon"));
        dir.exists() && fs::remove_dir(dir).is_err()
    };
    while group.dirs().iter().any(is_left) {
        if start.elapsed() >= patience {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if layout.is_systemd {
        let _ = systemctl(facts, "stop plancton.slice");
        remove_slice(root, facts);
    }
}

/// What was set at run time is ours, and so is a slice with our text.
fn remove_slice(root: &Path, facts: &Facts) {
    let user = rustix::process::geteuid().as_raw();
    let manager = match facts.is_rootless {
        true => format!("run/user/{user}/systemd/user.control"),
        false => "run/systemd/system.control".to_owned(),
    };
    let was_set = fs::remove_dir_all(root.join(manager).join("plancton.slice.d")).is_ok();
    let slice = root.join(SLICE_FILE);
    let is_ours = files::read_text(&slice).is_ok_and(|text| text == SLICE);
    if is_ours && fs::remove_file(slice).is_ok() || was_set {
        let _ = systemctl(facts, "daemon-reload");
    }
}
