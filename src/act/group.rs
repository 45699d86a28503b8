//! Makes, mends and removes the parent group of all pilots: an idle group beside (not below) the owner's, because weights
//! compete only among siblings. With the systemd driver all of it goes through systemd, which rewrites what it did not
//! write; else through the cgroup files.

use crate::host::cgroup::{Driver, Group, Layout, Version, parent_group};
use crate::observe::facts::SLICES;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The slice as the package ships it; written where there is no package.
const SLICE: &str = include_str!("../../packaging/systemd/plancton.slice");
const SLICE_NAME: &str = "plancton.slice";
const SLICE_FILE: &str = "run/systemd/system/plancton.slice";
/// Makes the group idle and bounds its memory (bytes; `None`: the machine is too small for a bound). Calling it again
/// mends what was lost. Errors name the file or the call.
pub fn prepare(root: &Path, layout: Layout, memory_limit: Option<u64>) -> Result<(), String> {
    let group = parent_group(root, layout);
    if layout.driver == Driver::Systemd {
        prepare_slice(root, &group, memory_limit)?;
        if layout.version == Version::V2 {
            return Ok(());
        }
    }
    make(&group)?;
    write(&file(&group, "cpu", "cpu.idle")?, "1")?;
    for weight in group.io_weights() {
        // Not every scheduler takes the least weight, and without one there is nothing to lower.
        let _ = write(&weight, "1");
    }
    let name = match layout.version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    match memory_limit {
        Some(limit) => write(&file(&group, "memory", name)?, &limit.to_string()),
        None => Ok(()),
    }
}

fn prepare_slice(root: &Path, group: &Group, memory_limit: Option<u64>) -> Result<(), String> {
    if !SLICES.iter().any(|file| root.join(file).exists()) {
        let file = root.join(SLICE_FILE);
        fs::write(&file, SLICE).map_err(|error| format!("{}: {error}", file.display()))?;
        systemctl(&["daemon-reload"])?;
    }
    systemctl(&["start", SLICE_NAME])?;
    if !group.exists() {
        // Its directory was taken away: systemd makes it again only for a unit that is not active.
        systemctl(&["stop", SLICE_NAME])?;
        systemctl(&["start", SLICE_NAME])?;
    }
    let limit = memory_limit.map_or("infinity".to_owned(), |limit| limit.to_string());
    let limit = format!("MemoryMax={limit}");
    systemctl(&[
        "set-property",
        "--runtime",
        SLICE_NAME,
        "CPUWeight=idle",
        &limit,
    ])
}

/// Removes the group, and the slice that we wrote. The groups of pilots that have just gone may be there for `patience`
/// more. A group in use stays: that is no error.
pub fn remove(root: &Path, layout: Layout, patience: Duration) {
    let group = parent_group(root, layout);
    if layout.driver == Driver::Systemd {
        if group.dirs().iter().any(|dir| has_children(dir)) {
            return;
        }
        let _ = systemctl(&["stop", SLICE_NAME]);
        let _ = systemctl(&["revert", SLICE_NAME]);
        let slice = root.join(SLICE_FILE);
        if fs::read_to_string(&slice).is_ok_and(|text| text == SLICE) {
            let _ = fs::remove_file(slice);
            let _ = systemctl(&["daemon-reload"]);
        }
        return;
    }
    let start = Instant::now();
    while group
        .dirs()
        .iter()
        .any(|dir| dir.exists() && !is_removed(dir))
        && start.elapsed() < patience
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has_children(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().is_dir())
}

/// With what an engine leaves below it: Podman makes an empty group `conmon`.
fn is_removed(dir: &Path) -> bool {
    let _ = fs::remove_dir(dir.join("conmon"));
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let shown = arguments.join(" ");
    match Command::new("systemctl").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "systemctl {shown}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("systemctl {shown}: {error}")),
    }
}

fn file(group: &Group, controller: &str, name: &str) -> Result<PathBuf, String> {
    group
        .file(controller, name)
        .ok_or_else(|| format!("the {controller} controller of cgroups is not mounted here"))
}

/// Only where we write or measure: the engine makes the group in the other hierarchies itself. In cgroup v2 a child has
/// the files of a controller only when its parent hands that down.
fn make(group: &Group) -> Result<(), String> {
    for controller in ["cpu", "cpuacct", "memory"] {
        let Some(dir) = group.file(controller, "") else {
            continue;
        };
        if !dir.is_dir() {
            fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let hand_down = dir
            .parent()
            .map(|parent| parent.join("cgroup.subtree_control"));
        if let Some(file) = hand_down.filter(|file| file.exists()) {
            let _ = write(&file, "+cpu +memory +pids");
        }
    }
    Ok(())
}

fn write(file: &Path, value: &str) -> Result<(), String> {
    let opened = fs::OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| format!("{}: {error}", file.display()))
}
