//! A made-up root for tests, below the temporary directory, removed when dropped.

use super::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Tree(PathBuf);

impl Tree {
    /// Each pair is a path and the file's content; a path that ends in `/` is a directory.
    pub fn new(entries: &[(&str, &str)]) -> Tree {
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plancton-host-{}-{unique}", std::process::id());
        let tree = Tree(std::env::temp_dir().join(name));
        std::fs::create_dir(&tree.0).unwrap();
        for (path, content) in entries {
            tree.put(path, content);
        }
        tree
    }

    /// Devices below /sys/class: "hwmon/hwmon0 name=coretemp temp1_label=Core+0; thermal/thermal_zone0 …".
    pub fn of_devices(class: &str, text: &str) -> Tree {
        let tree = Tree::new(&[("sys/class/", "")]);
        for device in text.split(';').filter(|device| !device.trim().is_empty()) {
            let (dir, files) = device.trim().split_once(' ').unwrap();
            for (file, content) in files.split(' ').map(|file| file.split_once('=').unwrap()) {
                let path = format!("sys/class/{class}{dir}/{file}");
                tree.put(&path, content.replace('+', " ") + "\n");
            }
        }
        tree
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let full = self.room_for(path);
        if path.ends_with('/') {
            std::fs::create_dir_all(full).unwrap();
        } else {
            std::fs::write(full, content).unwrap();
        }
    }

    pub fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.room_for(path)).unwrap();
    }

    /// Something on which a careless read would wait for ever.
    pub fn fifo(&self, path: &str) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, self.room_for(path), kind, mode, 0).unwrap();
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.path(path)).unwrap();
    }

    fn room_for(&self, path: &str) -> PathBuf {
        let full = self.0.join(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        full
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What no file of these should ever hold; every reader is tried on each.
pub const GARBAGE: [&[u8]; 8] = [
    b"",
    b"\n",
    b"\0\xff\xfe garbage",
    b"some",
    b")(",
    b"-1",
    b"99999999999999999999999999 NaN inf",
    b"cpu \xc3\xa9 -5,3-1,,0-4294967295 0-99999999999",
];

#[test]
fn small_facts() {
    let groups = "root:x:0:\nplancton-x:x:7:\nplancton:x:998:ann\n";
    let tree = Tree::new(&[("etc/group", groups)]);
    assert_eq!(group_id(tree.root(), "plancton"), Some(998));
    assert_eq!(group_id(tree.root(), "ann"), None);
    assert_eq!(boot_id(tree.root()), "");
    for content in GARBAGE {
        for file in ["etc/group", "proc/meminfo", "proc/pressure/memory"] {
            tree.put(file, content);
        }
        assert_eq!(group_id(tree.root(), "some"), None);
        assert_eq!(read_memory(tree.root()), None);
        assert_eq!(read_pressure_percent(tree.root()), None);
    }
    assert!(read_disk_free(Path::new("/")).is_ok());
    let gone = read_disk_free(Path::new("/none/such")).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}

#[test]
fn memory_pressure_and_disk() {
    let tree = Tree::new(&[]);
    for (text, expected) in [
        (
            "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 6 kB\n",
            Some((9, 6)),
        ),
        ("MemTotal: 0 kB\nMemAvailable: 0 kB\n", None),
        ("MemTotal: 10 kB\nMemAvailable: 600 kB\n", Some((10, 10))),
    ] {
        tree.put("proc/meminfo", text);
        let found = read_memory(tree.root()).map(|(total, free)| (total / 1024, free / 1024));
        assert_eq!(found, expected, "{text}");
    }
    let [user, system] =
        ["user", "system"].map(|s| format!("sys/fs/cgroup/{s}.slice/memory.pressure"));
    for (file, text, expected) in [
        (
            "proc/pressure/memory",
            "some avg10=9.50 avg60=0\nfull avg10=8",
            9.5,
        ),
        (&user, "some avg10=1", 1.0),
        (&system, "some avg10=3 total=1", 3.0),
        (&system, "some avg10=nan", 1.0),
        (&system, "full avg10=7", 1.0),
    ] {
        tree.put(file, text);
        assert_eq!(read_pressure_percent(tree.root()), Some(expected), "{text}");
    }
    // Blocks or files, whichever are less.
    for (files_free, files, free) in [(900, 1_000, 50), (10, 1_000, 1), (0, 1_000, 0), (0, 0, 50)] {
        assert_eq!(least_free(50, 100, files_free, files), Bytes(free));
    }
}
