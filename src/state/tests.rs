//! In made-up directories, removed afterwards.

use super::control::{self, Request};
use super::*;
use crate::report::{Drain, Snooze};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

struct Temp(PathBuf);

impl Temp {
    fn new() -> Temp {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plancton-state-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Temp(path)
    }

    /// Prepared as a daemon does it.
    fn dirs(&self, group_file: &str) -> Dirs {
        std::fs::write(self.0.join("group"), group_file).unwrap();
        let dirs = Dirs {
            run: self.0.join("deep/run"),
            state: self.0.join("state"),
            config: self.0.join("config"),
            scope: Scope::Given,
        };
        dirs.prepare(&self.0.join("group")).unwrap();
        dirs
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn resolved(uid: u32, env: &[(&str, &str)], options: &Options) -> (String, Scope) {
    let find = |name: &str| env.iter().find(|(known, _)| *known == name);
    let dirs = Dirs::resolve(
        uid,
        |name| find(name).map(|(_, value)| value.into()),
        options,
    );
    let paths = [&dirs.run, &dirs.state, &dirs.config].map(|path| path.display().to_string());
    (paths.join(" "), dirs.scope)
}

#[test]
fn where_everything_is() {
    let none = Options::default();
    let xdg = [
        ("XDG_RUNTIME_DIR", "/run/7"),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_CONFIG_HOME", "/c"),
    ];
    let home = [
        ("HOME", "/home/u"),
        ("XDG_STATE_HOME", "relative"),
        ("XDG_CONFIG_HOME", ""),
    ];
    let machine = "/run/plancton /var/lib/plancton /etc/plancton/config.toml";
    for (uid, env, paths, scope) in [
        (0, &xdg[..], machine, Scope::Machine),
        (
            7,
            &xdg,
            "/run/7/plancton /s/plancton /c/plancton/config.toml",
            Scope::User,
        ),
        (
            7,
            &home,
            "/tmp/plancton-7 /home/u/.local/state/plancton /home/u/.config/plancton/config.toml",
            Scope::User,
        ),
        (
            7,
            &[],
            "/tmp/plancton-7 /tmp/plancton-7/state /tmp/plancton-7/config/config.toml",
            Scope::User,
        ),
    ] {
        assert_eq!(resolved(uid, env, &none), (paths.to_owned(), scope));
    }
    let given = Options {
        run_dir: Some("r".into()),
        config: Some("c".into()),
        ..none
    };
    assert_eq!(
        resolved(0, &[], &given),
        ("r /var/lib/plancton c".to_owned(), Scope::Given)
    );
}

#[test]
fn whose_daemon() {
    let temp = Temp::new();
    let dirs = |name: &str, scope| {
        let run = temp.0.join(name);
        std::fs::create_dir_all(&run).unwrap();
        Dirs {
            state: run.join("state"),
            config: run.join("config"),
            run,
            scope,
        }
    };
    let own = dirs("own", Scope::User);
    let machine = dirs("machine", Scope::Machine);
    let given = dirs("given", Scope::Given);
    let asks = |dirs: &Dirs| dirs.clone().addressed(machine.clone());
    assert_eq!(asks(&own), own, "there is no other");
    write_status(&machine.run, &Status::default()).unwrap();
    assert_eq!(asks(&own), machine, "the user has none");
    assert_eq!(asks(&given), given, "asked for");
    let lock = take_lock(&own.run).unwrap();
    assert_eq!(asks(&own), own, "the user's runs");
    drop(lock);
    write_status(&own.run, &Status::default()).unwrap();
    assert_eq!(asks(&own), own, "the user's ran");
}

#[test]
fn one_daemon_a_directory() {
    let temp = Temp::new();
    assert_eq!(probe_lock(&temp.0), Probe::Free);
    assert_eq!(probe_lock(&temp.0.join("absent")), Probe::Free);
    assert_eq!(names(&temp.0), [""; 0], "a probe creates nothing");
    let lock = take_lock(&temp.0).unwrap();
    let pid = std::process::id();
    assert_eq!(probe_lock(&temp.0), Probe::Held(Some(pid)));
    let error = take_lock(&temp.0).unwrap_err().to_string();
    let begin = format!(
        "{}: another daemon (pid {pid}) runs there",
        temp.0.display()
    );
    assert!(error.starts_with(&begin), "{error}");
    assert!(
        error.contains("`plancton stop`") && error.contains("--run-dir"),
        "{error}"
    );
    assert_eq!(
        probe_lock(&temp.0),
        Probe::Held(Some(pid)),
        "the pid is still there"
    );
    assert_eq!(mode(&temp.0.join("lock")), 0o600, "nobody else can hold it");
    drop(lock);
    assert_eq!(probe_lock(&temp.0), Probe::Free);
    let longer = temp.0.join("lock");
    std::fs::write(&longer, "999999999999 garbage").unwrap();
    let _lock = take_lock(&temp.0).unwrap();
    assert_eq!(
        std::fs::read_to_string(&longer).unwrap(),
        format!("{pid}\n")
    );
}

#[test]
fn a_lock_is_no_link() {
    let temp = Temp::new();
    std::fs::write(temp.0.join("precious"), "text").unwrap();
    symlink(temp.0.join("precious"), temp.0.join("lock")).unwrap();
    assert!(take_lock(&temp.0).is_err());
    assert_eq!(probe_lock(&temp.0), Probe::Unknown);
    assert_eq!(
        std::fs::read_to_string(temp.0.join("precious")).unwrap(),
        "text"
    );
}

#[test]
fn files_are_whole() {
    let temp = Temp::new();
    let path = temp.0.join("file");
    let left = temp.0.join(format!(".file.{}.tmp", std::process::id()));
    std::fs::write(&left, "left over").unwrap();
    for (content, mode_bits, durable) in
        [("one", 0o644, Durable::No), ("second", 0o660, Durable::Yes)]
    {
        write_file(&path, content.as_bytes(), mode_bits, durable).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        assert_eq!(mode(&path), mode_bits);
        assert_eq!(names(&temp.0), ["file"], "nothing else stays");
    }
    let absent = temp.0.join("absent/file");
    let error = write_file(&absent, b"", 0o644, Durable::No).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("absent/file: cannot write: No such file"),
        "{error}"
    );
    std::fs::create_dir(temp.0.join("busy")).unwrap();
    assert!(write_file(&temp.0.join("busy"), b"", 0o644, Durable::No).is_err());
    assert_eq!(names(&temp.0), ["busy", "file"]);
}

#[test]
fn a_full_disk_says_so() {
    let error = StateError::Io {
        path: "/run/x".into(),
        doing: "write",
        error: Errno::NOSPC.into(),
    };
    let text = "/run/x: cannot write: the disk is full; it stays as it was, free some space there";
    assert_eq!(error.to_string(), text);
    if Path::new("/dev/full").exists() {
        let error = File::create("/dev/full")
            .unwrap()
            .write_all(b"x")
            .unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC));
    }
}

#[test]
fn directories_are_ours() {
    let temp = Temp::new();
    let open = temp.0.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
    let ours = open.join("ours");
    std::fs::create_dir(&ours).unwrap();
    std::fs::set_permissions(&ours, PermissionsExt::from_mode(0o777)).unwrap();
    make_directory(&ours, 0o700).unwrap();
    assert_eq!(mode(&ours), 0o700);
    symlink(&ours, open.join("link")).unwrap();
    let error = make_directory(&open.join("link"), 0o700)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("link: it is a link in a directory where anybody may write"),
        "{error}"
    );
    std::fs::write(open.join("file"), "").unwrap();
    assert!(make_directory(&open.join("file"), 0o700).is_err());
    if is_root() {
        let theirs = open.join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(12_345), None).unwrap();
        let error = make_directory(&theirs, 0o700).unwrap_err().to_string();
        assert!(
            error.contains("theirs: it belongs to another user"),
            "{error}"
        );
    }
    // Elsewhere a link is the administrator's choice.
    symlink(&ours, temp.0.join("link")).unwrap();
    make_directory(&temp.0.join("link"), 0o700).unwrap();
    make_directory(&temp.0.join("a/b/c"), 0o755).unwrap();
    assert_eq!(mode(&temp.0.join("a/b/c")), 0o755);
}

#[test]
fn the_control_directory_is_for_the_group() {
    for (group_file, with_group) in [
        ("root:x:0:\nplancton:x:54321:me\n", 0o2770),
        ("plancton2:x:54321:\nroot:x:0:plancton\n", 0o700),
        ("plancton:x:none:\n", 0o700),
        ("", 0o700),
    ] {
        let temp = Temp::new();
        let dirs = temp.dirs(group_file);
        let control = control::directory(&dirs.state);
        let expected = if is_root() { with_group } else { 0o700 };
        assert_eq!(mode(&control), expected, "{group_file}");
        dirs.prepare(&temp.0.join("group")).unwrap();
        assert_eq!(mode(&control), expected, "a second time");
        control::request_snooze(&dirs.state, &Snooze { until: 1.0 }).unwrap();
        assert_eq!(mode(&control.join("snooze")), 0o660);
        if expected == 0o2770 {
            use std::os::unix::fs::MetadataExt;
            let file = std::fs::metadata(control.join("snooze")).unwrap();
            assert_eq!(file.gid(), 54_321, "from the directory");
            assert_eq!(mode(&dirs.state), 0o755, "members pass through");
        }
    }
}

#[test]
fn requests_come_and_go() {
    let temp = Temp::new();
    let state = temp.dirs("").state;
    assert_eq!(control::read(&state, 50.0), control::Requests::default());
    let drain = Drain {
        stop: true,
        by: Some(99.5),
        since: 40.0,
    };
    control::request_drain(&state, &drain).unwrap();
    control::request_snooze(&state, &Snooze { until: 60.0 }).unwrap();
    control::request_force_stop(&state).unwrap();
    let read = control::read(&state, 50.0);
    assert_eq!(read.asked.drain, Some(drain));
    assert_eq!(read.asked.snooze, Some(Snooze { until: 60.0 }));
    assert!(read.asked.force_stop && read.problems.is_empty());
    assert_eq!(control::read(&state, 60.0).asked.snooze, None, "it is over");
    control::clear(&state, Request::ForceStop).unwrap();
    assert!(!control::read(&state, 50.0).asked.force_stop);
    control::resume(&state).unwrap();
    assert_eq!(names(&control::directory(&state)), [""; 0]);
    control::resume(&state).unwrap();
}

#[test]
fn garbage_is_the_owners() {
    let huge = "9".repeat(10_000);
    for garbage in [
        "",
        "{",
        "null",
        "drain please",
        "7",
        "{\"stop\":7}",
        huge.as_str(),
        "\0",
    ] {
        let temp = Temp::new();
        let state = temp.dirs("").state;
        let control = control::directory(&state);
        std::fs::write(control.join("drain"), garbage).unwrap();
        std::fs::write(control.join("snooze"), garbage).unwrap();
        let written = std::fs::metadata(control.join("snooze"))
            .unwrap()
            .modified()
            .unwrap();
        let written = written
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs() as f64;
        let read = control::read(&state, written + 10.0);
        assert!(
            (read.asked.drain.unwrap().since - written).abs() < 0.1,
            "{garbage}"
        );
        assert_eq!(
            read.asked.snooze,
            Some(Snooze {
                until: written + 3600.0
            }),
            "{garbage}"
        );
        assert_eq!(read.problems.len(), 2, "{:?}", read.problems);
        assert!(read.problems[1].contains("control/snooze: cannot be understood"));
        assert_eq!(control::read(&state, written + 3601.0).asked.snooze, None);
        // A file from the future does not snooze for years.
        assert_eq!(
            control::read(&state, 1000.0).asked.snooze,
            Some(Snooze { until: 4600.0 })
        );
    }
    let temp = Temp::new();
    let state = temp.dirs("").state;
    std::fs::write(control::directory(&state).join("drain"), "{}").unwrap();
    assert!(
        control::read(&state, 1.0).asked.drain.unwrap().since > 1.0,
        "the file's time"
    );
}

#[test]
fn only_plain_files_count() {
    let temp = Temp::new();
    let state = temp.dirs("").state;
    let control = control::directory(&state);
    std::fs::write(temp.0.join("elsewhere"), "{}").unwrap();
    symlink(temp.0.join("elsewhere"), control.join("drain")).unwrap();
    std::fs::create_dir(control.join("snooze")).unwrap();
    sys::mkfifoat(
        sys::CWD,
        control.join("force-stop"),
        Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let read = control::read(&state, 1.0);
    assert_eq!(
        (read.asked.drain, read.asked.snooze, read.asked.force_stop),
        (None, None, false)
    );
    let problems = read.problems.join("\n");
    for needle in [
        "drain: it is a link; ignored, remove it",
        "snooze: it is not a plain file",
        "force-stop: it is not",
    ] {
        assert!(problems.contains(needle), "{needle}: {problems}");
    }
    // A new request takes the place of the link, and the link's target stays.
    control::request_drain(&state, &Drain::default()).unwrap();
    assert!(control::read(&state, 1.0).asked.drain.is_some());
    assert_eq!(
        std::fs::read_to_string(temp.0.join("elsewhere")).unwrap(),
        "{}"
    );
}

#[test]
fn requests_that_cannot_be_written() {
    let temp = Temp::new();
    let error = control::request_force_stop(&temp.0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no daemon was started here yet"), "{error}");
    let forbidden = StateError::Forbidden {
        path: "/c/drain".into(),
    }
    .to_string();
    assert!(
        forbidden.contains("/c/drain: permission denied"),
        "{forbidden}"
    );
    assert!(
        forbidden.contains("`sudo usermod -aG plancton $USER`"),
        "{forbidden}"
    );
    if !is_root() {
        let state = temp.dirs("").state;
        std::fs::set_permissions(control::directory(&state), PermissionsExt::from_mode(0o500))
            .unwrap();
        let error = control::request_force_stop(&state).unwrap_err();
        assert!(matches!(error, StateError::Forbidden { .. }), "{error}");
    }
}

/// What cannot be read may be a drain: nothing is launched, nothing else changes.
#[test]
fn doubt_is_a_drain() {
    let temp = Temp::new();
    let state = temp.0.join("x".repeat(300));
    let read = control::read(&state, 5.0);
    assert_eq!(read.asked.drain.map(|drain| drain.since), Some(5.0));
    assert_eq!((read.asked.snooze, read.asked.force_stop), (None, false));
    assert!(
        read.problems[0].contains("launching nothing until it can be read"),
        "{:?}",
        read.problems
    );
}

#[test]
fn status_file() {
    let temp = Temp::new();
    assert!(read_status(&temp.0).unwrap().is_none());
    let status = Status {
        pid: 5,
        tick: 1.5,
        ..Status::default()
    };
    write_status(&temp.0, &status).unwrap();
    assert_eq!(mode(&temp.0.join("status.json")), 0o644);
    assert_eq!(read_status(&temp.0).unwrap(), Some(status));
    std::fs::write(temp.0.join("status.json"), "{\"pid\":").unwrap();
    let error = read_status(&temp.0).unwrap_err().to_string();
    assert!(
        error.contains("status.json: cannot read the status: EOF"),
        "{error}"
    );
    remove_status(&temp.0).unwrap();
    remove_status(&temp.0).unwrap();
    assert_eq!(names(&temp.0), [""; 0]);
}

#[test]
fn images() {
    let temp = Temp::new();
    let list = || read_images(&temp.0).unwrap();
    assert_eq!(list(), [""; 0]);
    for image in ["b:1", "a@sha256:0", "b:1"] {
        add_image(&temp.0, image).unwrap();
    }
    assert_eq!(list(), ["b:1", "a@sha256:0"]);
    remove_image(&temp.0, "b:1").unwrap();
    remove_image(&temp.0, "unknown").unwrap();
    assert_eq!(list(), ["a@sha256:0"]);
    remove_image(&temp.0, "a@sha256:0").unwrap();
    assert_eq!(names(&temp.0), [""; 0], "with the last one goes the file");
}
