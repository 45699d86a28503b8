//! In made-up directories, removed afterwards.

use super::*;
use crate::decide::{Control, Drain, Snooze};
use crate::host::tests::Tree;
use crate::units::Moment;
use crate::{clock, host};
use std::os::unix::fs::{PermissionsExt, symlink};

fn dirs_in(temp: &Tree) -> Dirs {
    Dirs {
        run: temp.path("deep/run"),
        state: temp.path("state"),
        config: temp.path("config"),
        scope: Scope::Given,
    }
}

/// As a daemon makes them, with that in /etc/group.
fn prepared(temp: &Tree, group: &str) -> Dirs {
    temp.put("etc/group", group);
    let dirs = dirs_in(temp);
    dirs.prepare(temp.root()).unwrap();
    dirs
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn at(boot: f64, epoch: f64) -> Moment {
    Moment {
        awake: boot,
        boot,
        epoch,
    }
}

/// In whole seconds, which JSON keeps to the last bit.
fn now() -> Moment {
    let now = clock::now();
    at(now.boot, now.epoch.round())
}

fn this_boot() -> String {
    host::boot_id(Path::new("/"))
}

fn asked(dirs: &Dirs, now: Moment) -> Control {
    control::read(dirs, now, &this_boot()).0
}

#[test]
fn where_everything_is() {
    let xdg = "XDG_RUNTIME_DIR=/run/7 XDG_STATE_HOME=/s XDG_CONFIG_HOME=/c";
    let home = "HOME=/home/u XDG_STATE_HOME=relative XDG_CONFIG_HOME=";
    let machine = "/run/plancton /var/lib/plancton /etc/plancton/config.toml";
    let of_xdg = "/run/7/plancton /s/plancton /c/plancton/config.toml";
    let of_home =
        "/tmp/plancton-7 /home/u/.local/state/plancton /home/u/.config/plancton/config.toml";
    let nowhere = "/tmp/plancton-7 /tmp/plancton-7/.local/state/plancton /tmp/plancton-7/.config/plancton/config.toml";
    let shown = |dirs: &Dirs| {
        let paths = [&dirs.run, &dirs.state, &dirs.config].map(|path| path.to_string_lossy());
        paths.join(" ")
    };
    for (uid, env, paths, scope) in [
        (0, xdg, machine, Scope::Machine),
        (7, xdg, of_xdg, Scope::User),
        (7, home, of_home, Scope::User),
        (7, "", nowhere, Scope::User),
    ] {
        let mut env = env.split(' ').filter_map(|pair| pair.split_once('='));
        let dirs = Dirs::usual(uid, |name| {
            env.clone()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        });
        assert_eq!(
            (shown(&dirs).as_str(), dirs.scope),
            (paths, scope),
            "{:?}",
            env.next()
        );
    }
    let given = Dirs::machine().given([Some("r".into()), None, Some("c".into())]);
    assert_eq!(
        (shown(&given).as_str(), given.scope),
        ("r /var/lib/plancton c", Scope::Given)
    );
    let config = Dirs::machine().given([None, None, Some("c".into())]);
    assert_eq!(config.scope, Scope::Machine);
}

#[test]
fn whose_daemon() {
    let temp = Tree::new(&[]);
    let dirs = |name: &str, scope| {
        let run = Some(temp.path(name));
        std::fs::create_dir_all(temp.path(name)).unwrap();
        Dirs {
            scope,
            ..Dirs::machine().given([run, None, None])
        }
    };
    let [own, machine, given] = [
        ("own", Scope::User),
        ("machine", Scope::Machine),
        ("given", Scope::Given),
    ]
    .map(|(name, scope)| dirs(name, scope));
    let asks = |dirs: &Dirs| dirs.clone().addressed(machine.clone());
    assert_eq!(asks(&own), own, "there is no other");
    write_json(&machine.run, STATUS, &1, 0o644).unwrap();
    assert_eq!(asks(&own), machine, "the user has none");
    assert_eq!(asks(&given), given, "asked for");
    write_json(&own.run, STATUS, &1, 0o644).unwrap();
    assert_eq!(asks(&own), own, "the user's ran");
}

/// To its own process a lock is free: a second daemon is among the tests of the program.
#[test]
fn one_daemon_an_engine_and_instance() {
    let temp = Tree::new(&[]);
    assert!(!is_running(temp.root()) && !is_running(&temp.path("absent")));
    let lock = temp.path("lock");
    assert!(!lock.exists(), "a probe creates nothing");
    let other = temp.path("other");
    std::fs::create_dir(&other).unwrap();
    let take = |run: &Path, instance: &str| take_lock(run, &temp.path("engine.sock"), instance);
    let _held = take(temp.root(), "a").unwrap();
    let error = take(&other, "a").unwrap_err().to_string();
    assert!(
        error.contains(&format!("(pid {})", std::process::id())),
        "{error}"
    );
    take(&other, "b").unwrap();
    std::fs::remove_file(&lock).unwrap();
    temp.put("precious", "text");
    symlink(temp.path("precious"), &lock).unwrap();
    assert!(take(temp.root(), "c").is_err(), "a lock is no link");
    assert!(!is_running(temp.root()));
    let precious = std::fs::read_to_string(temp.path("precious")).unwrap();
    assert_eq!(precious, "text");
}

/// The daemon's process would lose its lock by asking who holds it: nothing that runs in it does.
#[test]
fn only_commands_ask_who_holds_the_lock() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for name in "daemon.rs daemon act observe metrics remote.rs site.rs history.rs".split(' ') {
        let path = source.join(name);
        let below = files::read_names(&path).into_iter();
        for file in below.map(|name| path.join(name)).chain([path.clone()]) {
            let text = files::read_text(&file).unwrap_or_default();
            for asks in ["lock_holder", "is_running(&", "addressed(", "commands::"] {
                assert!(!text.contains(asks), "{asks} in {}", file.display());
            }
        }
    }
}

#[test]
fn files_are_whole() {
    let temp = Tree::new(&[]);
    let path = temp.path("file");
    let left = temp.path(&format!(".file.{}.tmp", std::process::id()));
    std::fs::write(&left, "left over").unwrap();
    for (content, bits, durable) in [("one", 0o644, Durable::No), ("two", 0o660, Durable::Yes)] {
        write_file(&path, content.as_bytes(), bits, durable).unwrap();
        assert_eq!(read_file(&path, 3).unwrap().as_deref(), Some(content));
        assert_eq!(mode(&path), bits);
    }
    assert!(read_file(&path, 2).is_err(), "too long");
    assert_eq!(read_file(&temp.path("absent"), 9).unwrap(), None);
    temp.put("busy/", "");
    for name in ["absent/file", "busy"] {
        let error = write_file(&temp.path(name), b"", 0o644, Durable::No).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(files::read_names(temp.root()), ["busy", "file"]);
    // A line that a crash has left open is ended.
    append_lines(&path, "three\n").unwrap();
    assert_eq!(
        read_file(&path, 99).unwrap().as_deref(),
        Some("two\nthree\n")
    );
}

#[test]
fn notes_about_images() {
    let temp = Tree::new(&[]);
    for image in ["b", "a", "b"] {
        note_image(temp.root(), image, true).unwrap();
    }
    assert_eq!(read_images(temp.root()).unwrap(), ["b", "a"]);
    for image in ["b", "a", "never"] {
        note_image(temp.root(), image, false).unwrap();
    }
    assert!(!temp.path("images").exists());
    write_pulled(temp.root(), 7, 12).unwrap();
    assert_eq!(
        [7, 8, 1].map(|day| read_pulled(temp.root(), day)),
        [12, 0, 0]
    );
}

#[test]
fn directories_are_ours() {
    let temp = Tree::new(&[]);
    let shared = temp.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o1777)).unwrap();
    let ours = shared.join("ours");
    std::fs::create_dir(&ours).unwrap();
    make_directory(&ours, 0o700).unwrap();
    assert_eq!(mode(&ours), 0o700);
    symlink(&ours, shared.join("link")).unwrap();
    std::fs::write(shared.join("file"), "").unwrap();
    let theirs = shared.join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&theirs, Some(12_345), None).unwrap();
        assert!(make_directory(&theirs, 0o700).is_err());
    }
    for refused in ["link", "file"] {
        assert!(make_directory(&shared.join(refused), 0o700).is_err());
    }
    // Elsewhere a link is the administrator's choice.
    symlink(&ours, temp.path("link")).unwrap();
    make_directory(&temp.path("link"), 0o700).unwrap();
    make_directory(&temp.path("a/b/c"), 0o755).unwrap();
    assert_eq!(mode(&temp.path("a/b/c")), 0o755);
}

#[test]
fn control_is_for_the_group() {
    for (group_file, with_group) in [
        ("root:x:0:\nplancton:x:54321:me\n", 0o2770),
        ("plancton2:x:54321:\nroot:x:0:plancton\n", 0o700),
        ("plancton:x:none:\n", 0o700),
    ] {
        let temp = Tree::new(&[]);
        let expected = if is_root() { with_group } else { 0o700 };
        for _ in ["first", "second"] {
            for directory in control::directories(&prepared(&temp, group_file)) {
                assert_eq!(mode(&directory), expected, "{group_file}");
            }
        }
        let dirs = dirs_in(&temp);
        control::request(&dirs, control::DRAIN, &Drain::default()).unwrap();
        let [_, lasting] = control::directories(&dirs).map(|path| path.join("drain"));
        assert_eq!(mode(&lasting), 0o660);
        write_log_tails(&dirs, &["a"]).unwrap();
        assert_eq!(mode(&dirs.run.join(LOG_TAILS)), 0o640);
        let tails: Option<[String; 1]> = read_json(&dirs.run, LOG_TAILS).unwrap();
        assert_eq!(tails, Some(["a".to_owned()]));
        if expected == 0o2770 {
            for file in [lasting, dirs.run.join(LOG_TAILS)] {
                assert_eq!(sys::stat(file).unwrap().st_gid, 54_321);
            }
        }
    }
}

#[test]
fn requests_come_and_go() {
    let temp = Tree::new(&[]);
    let dirs = prepared(&temp, "");
    let now = now();
    assert_eq!(asked(&dirs, now), Control::default());
    let drain = Drain {
        stop: true,
        by: Some(now.epoch + 99.5),
        since: now.epoch - 40.0,
    };
    let until = now.epoch + 60.0;
    control::request(&dirs, control::DRAIN, &drain).unwrap();
    control::request(&dirs, control::SNOOZE, &Snooze { until }).unwrap();
    control::request(&dirs, control::FORCE_STOP, &()).unwrap();
    let expected = Control {
        drain: Some(drain),
        snooze: Some(Snooze { until }),
        force_stop: true,
        pull: false,
    };
    assert_eq!(asked(&dirs, now), expected);
    let later = at(now.boot + 60.0, now.epoch + 60.0);
    assert_eq!(asked(&dirs, later).snooze, None, "it is over");
    for name in [
        control::FORCE_STOP,
        control::DRAIN,
        control::SNOOZE,
        control::PULL,
    ] {
        control::clear(&dirs, name).unwrap();
    }
    assert_eq!(asked(&dirs, now), Control::default());
    // A command that comes before any daemon.
    let error = control::request(&dirs_in(&Tree::new(&[])), control::PULL, &()).unwrap_err();
    assert!(error.to_string().contains("plancton start"), "{error}");
}

/// Issue: a day back made an hour's snooze 25, a day forward ended it and let `drain --by` stop pilots.
#[test]
fn a_clock_that_is_set_moves_no_end() {
    let temp = Tree::new(&[]);
    let dirs = prepared(&temp, "");
    let now = now();
    let drain = Drain {
        stop: false,
        by: Some(now.epoch + 7200.0),
        since: now.epoch,
    };
    let until = now.epoch + 3600.0;
    control::request(&dirs, control::DRAIN, &drain).unwrap();
    control::request(&dirs, control::SNOOZE, &Snooze { until }).unwrap();
    for set in [-86_400.0, 0.0, 86_400.0] {
        let half = at(now.boot + 1800.0, now.epoch + 1800.0 + set);
        let asked = asked(&dirs, half);
        let left = asked
            .snooze
            .map(|snooze| (snooze.until - half.epoch).round());
        let by = asked
            .drain
            .and_then(|drain| drain.by)
            .map(|by| (by - half.epoch).round());
        assert_eq!((left, by), (Some(1800.0), Some(5400.0)), "{set}");
        let over = at(now.boot + 3601.0, now.epoch + 3601.0 + set);
        assert_eq!(super::tests::asked(&dirs, over).snooze, None, "{set}");
    }
    // After a boot only the wall clock is left.
    let booted = at(20.0, now.epoch + 1800.0);
    let read = control::read(&dirs, booted, "another").0;
    assert_eq!(read.snooze, Some(Snooze { until }));
    assert_eq!(read.drain, Some(drain));
}

#[test]
fn garbage_is_the_owners() {
    let huge = "9".repeat(10_000);
    for garbage in ["", "{", "null", "drain", "7", "{\"stop\":7}", &huge, "\0"] {
        let temp = Tree::new(&[]);
        let dirs = prepared(&temp, "");
        let [_, control] = control::directories(&dirs);
        for name in ["drain", "snooze"] {
            std::fs::write(control.join(name), garbage).unwrap();
        }
        let written = sys::stat(control.join("snooze")).unwrap().st_mtime as f64;
        let (asked_for, problems) = control::read(&dirs, at(5.0, written + 10.0), "b");
        let drain = asked_for.drain.unwrap();
        assert!((drain.since - written).abs() < 1.1, "{garbage}");
        assert_eq!(problems.len(), 2, "{:?}", problems);
        // A file from the future does not snooze for years.
        for (now, from) in [(written + 10.0, written), (1000.0, 1000.0)] {
            let snooze = asked(&dirs, at(5.0, now)).snooze;
            assert_eq!(snooze.map(|snooze| snooze.until), Some(from + 3600.0));
        }
        assert_eq!(asked(&dirs, at(5.0, written + 3601.0)).snooze, None);
    }
}

#[test]
fn what_is_no_plain_file_is_removed() {
    let temp = Tree::new(&[]);
    let dirs = prepared(&temp, "");
    let [_, control] = control::directories(&dirs);
    temp.put("elsewhere", "{}");
    symlink(temp.path("elsewhere"), control.join("drain")).unwrap();
    std::fs::create_dir(control.join("snooze")).unwrap();
    let fifo = control.join("force-stop");
    sys::mkfifoat(sys::CWD, fifo, Mode::from_raw_mode(0o600)).unwrap();
    std::fs::create_dir_all(control.join("pull/full")).unwrap();
    let (asked_for, problems) = control::read(&dirs, at(1.0, 1.0), "b");
    assert_eq!(asked_for, Control::default());
    assert_eq!(problems.len(), 4, "{:?}", problems);
    assert_eq!(files::read_names(&control), ["pull"], "it is stepped over");
    assert!(temp.path("elsewhere").exists());
    assert_eq!(control::read(&dirs, at(1.0, 1.0), "b").1.len(), 1);
}

/// A disk that takes nothing: the directory in which the request should be written does not let itself be written to.
#[test]
fn a_refused_request_goes_the_other_way() {
    let temp = Tree::new(&[]);
    let dirs = prepared(&temp, "");
    let [brief, lasting] = control::directories(&dirs);
    // A directory that is not empty takes the place of a file that can't be replaced.
    std::fs::create_dir_all(lasting.join("drain/full")).unwrap();
    let is_kept = control::request(&dirs, control::DRAIN, &Drain::default()).unwrap();
    assert!(!is_kept);
    assert!(brief.join("drain").is_file());
    let now = now();
    assert!(asked(&dirs, now).drain.is_some());
    std::fs::remove_dir_all(lasting.join("drain")).unwrap();
    control::request(&dirs, control::DRAIN, &Drain::default()).unwrap();
    assert!(!brief.join("drain").exists(), "one place");
    // What can't be removed from a disk is no request any more.
    std::fs::write(brief.join("drain"), "false").unwrap();
    assert_eq!(asked(&dirs, now).drain, None);
    control::clear(&dirs, control::DRAIN).unwrap();
    assert_eq!(files::read_names(&brief), [""; 0]);
}

/// What cannot be looked at may be a drain: nothing is launched, nothing else changes.
#[test]
fn in_doubt_nothing_is_launched() {
    let temp = Tree::new(&[]);
    let mut dirs = prepared(&temp, "");
    // A path that is too long is an error of the system.
    dirs.state = dirs.state.join("x".repeat(300));
    let (asked_for, problems) = control::read(&dirs, at(1.0, 77.0), "b");
    assert_eq!(asked_for.drain.map(|drain| drain.since), Some(77.0));
    assert!(!asked_for.force_stop && asked_for.snooze.is_none());
    assert_eq!(problems.len(), 4);
}
