//! Writes the parent group of all pilots: an idle group beside (not below) the owner's, because weights compete only
//! among siblings. Made by us where we are root, mended when something reset it, removed at the end.

use crate::host::cgroup::{Driver, Group, Layout, Version, find_parent};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The slice as the package ships it; written where there is no package.
const SLICE: &str = include_str!("../../packaging/systemd/plancton.slice");
const SLICE_FILE: &str = "run/systemd/system/plancton.slice";
const SLICE_INSTALLED: [&str; 3] = [
    "etc/systemd/system/plancton.slice",
    "usr/lib/systemd/system/plancton.slice",
    "lib/systemd/system/plancton.slice",
];

/// Makes the group idle and bounds its memory (bytes; `None`: the machine is too small for a bound). Calling it again
/// mends what was lost. Errors name the file.
pub fn prepare(root: &Path, layout: Layout, memory_limit: Option<u64>) -> Result<(), String> {
    let group = find_parent(root, layout);
    match layout.driver {
        Driver::Systemd if !group.exists() => write_slice(root)?,
        Driver::Systemd => {}
        Driver::Cgroupfs => make(&group)?,
    }
    write(&file(&group, "cpu", "cpu.idle")?, "1")?;
    for (weight, _) in group.read_io_weights() {
        // Not every scheduler takes the least weight, and without one there is nothing to lower.
        let _ = write(&weight, "1");
    }
    if let Some(limit) = memory_limit {
        let name = if layout.version == Version::V1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        write(&file(&group, "memory", name)?, &limit.to_string())?;
    }
    Ok(())
}

fn file(group: &Group, controller: &str, name: &str) -> Result<PathBuf, String> {
    group
        .file(controller, name)
        .ok_or_else(|| format!("the {controller} controller of cgroups is not mounted here"))
}

/// Removes the group in every hierarchy, and the slice that we wrote. The groups of pilots that have just gone may be there
/// for `patience` more. A group in use stays: that is no error.
pub fn remove(root: &Path, layout: Layout, patience: Duration) {
    let start = Instant::now();
    let group = find_parent(root, layout);
    while group
        .dirs()
        .filter(|dir| fs::remove_dir(dir).is_err() && dir.exists())
        .count()
        > 0
    {
        if start.elapsed() >= patience {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let slice = root.join(SLICE_FILE);
    if layout.driver == Driver::Systemd
        && fs::read_to_string(&slice).is_ok_and(|text| text == SLICE)
    {
        let _ = systemctl(&["stop", "plancton.slice"]);
        let _ = fs::remove_file(slice);
        let _ = systemctl(&["daemon-reload"]);
    }
}

fn write_slice(root: &Path) -> Result<(), String> {
    if !SLICE_INSTALLED.iter().any(|file| root.join(file).exists()) {
        write_new(&root.join(SLICE_FILE), SLICE)?;
        systemctl(&["daemon-reload"])?;
    }
    systemctl(&["start", "plancton.slice"])
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
    let mut open = fs::OpenOptions::new();
    let result = open
        .write(true)
        .open(file)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    result.map_err(|error| format!("{}: {error}", file.display()))
}

fn write_new(file: &Path, text: &str) -> Result<(), String> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let result = fs::create_dir_all(directory).and_then(|()| fs::write(file, text));
    result.map_err(|error| format!("{}: {error}", file.display()))
}
