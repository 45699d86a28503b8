//! Is one of the programs running that must have the machine alone? By exact process name, as the kernel keeps it (15
//! bytes); kernel threads, zombies and the pilots' own processes do not count.

use super::files::{self, ReadError, Why};
use procfs::FromRead;
use procfs::process::Stat;
use std::collections::BTreeMap;
use std::path::Path;

/// TASK_COMM_LEN without its final NUL.
const LONGEST_NAME: usize = 15;
/// PF_KTHREAD of include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// Some 40 ms of reading. Beyond it the answer is an error, not a "no".
const MOST_PROCESSES: usize = 8_192;

/// A process this many scans old is read at each; until then it may still be the script that becomes the program.
const YOUNG_SCANS: u8 = 12;
/// Older ones are read at one scan in so many, because a name costs some 5 µs: 80 s at an interval of 10 s.
const ROUNDS: u32 = 8;

/// What a scan remembers, so that the next one is cheap.
#[derive(Debug, Default)]
pub struct Programs {
    names: Vec<String>,
    /// How many scans each process has been there for, up to `YOUNG_SCANS`.
    seen: BTreeMap<u32, u8>,
    running: Option<u32>,
    turn: u32,
}

impl Programs {
    /// One of `names` that runs. A process whose cgroup path holds one of `own` (the parent group's name, container ids)
    /// is a pilot's: else a pilot that runs the named program would hold itself back for ever.
    pub fn find_running(
        &mut self,
        root: &Path,
        names: &[String],
        own: &[&str],
    ) -> Result<Option<String>, ReadError> {
        if self.names != names {
            let names = names.to_vec();
            *self = Programs {
                names,
                ..Programs::default()
            };
        }
        if names.is_empty() {
            return Ok(None);
        }
        let proc = root.join("proc");
        let read = |pid: u32| find_name(&proc.join(pid.to_string()), names, own);
        if let Some(name) = self.running.and_then(read) {
            return Ok(Some(name));
        }
        self.running = None;
        let pids = read_pids(&proc)?;
        for pid in self.choose(&pids) {
            if let Some(name) = read(pid) {
                self.running = Some(pid);
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The processes to read now: new, young, and a part of the old ones. At the first scan all, and all are old.
    fn choose(&mut self, pids: &[u32]) -> Vec<u32> {
        let before = std::mem::take(&mut self.seen);
        self.turn = self.turn.wrapping_add(1);
        let mut chosen = Vec::new();
        for pid in pids {
            let scans = match before.get(pid) {
                Some(scans) => scans.saturating_add(1).min(YOUNG_SCANS),
                None if before.is_empty() => YOUNG_SCANS,
                None => 0,
            };
            let in_turn = pid % ROUNDS == self.turn % ROUNDS;
            if scans < YOUNG_SCANS || in_turn || !before.contains_key(pid) {
                chosen.push(*pid);
            }
            self.seen.insert(*pid, scans);
        }
        chosen
    }
}

fn read_pids(proc: &Path) -> Result<Vec<u32>, ReadError> {
    let entries = std::fs::read_dir(proc).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error);
        ReadError::system(proc, errno.unwrap_or(rustix::io::Errno::IO))
    })?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pids: Vec<u32> = pids.take(MOST_PROCESSES + 1).collect();
    if pids.len() > MOST_PROCESSES {
        return Err(ReadError::new(proc, Why::TooMany(MOST_PROCESSES)));
    }
    Ok(pids)
}

/// The name that this process runs under. One that ended since is no longer running: its missing files are no failure.
fn find_name(dir: &Path, names: &[String], own: &[&str]) -> Option<String> {
    let comm = files::read_text(&dir.join("comm")).ok()?;
    let comm = comm.trim_end_matches('\n');
    let name = names.iter().find(|name| matches(name, comm))?;
    (is_alive_program(dir) && !is_own(dir, own)).then(|| name.clone())
}

fn matches(name: &str, comm: &str) -> bool {
    let kept = name.as_bytes().get(..LONGEST_NAME);
    !name.is_empty() && kept.unwrap_or(name.as_bytes()) == comm.as_bytes()
}

/// Only for the few whose name matches, because /proc/PID/stat costs the kernel more than comm does.
fn is_alive_program(dir: &Path) -> bool {
    let text = files::read_text(&dir.join("stat")).unwrap_or_default();
    parse_stat(&text).is_some_and(|stat| {
        !matches!(stat.state, 'Z' | 'X' | 'x') && stat.flags & KERNEL_THREAD == 0
    })
}

/// `procfs` slices around the parentheses without looking: what it would panic on is refused before.
fn parse_stat(text: &str) -> Option<Stat> {
    let text = text.trim();
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    text.get(..open.checked_sub(1)?)?;
    text.get(open + 1..close)?;
    text.get(close + 2..)?;
    Stat::from_read(text.as_bytes()).ok()
}

fn is_own(dir: &Path, own: &[&str]) -> bool {
    let cgroup = files::read_text(&dir.join("cgroup")).unwrap_or_default();
    own.iter().any(|id| !id.is_empty() && cgroup.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    fn add(tree: &Tree, pid: u32, comm: &str, state: char, flags: u32, cgroup: &str) {
        let rest = "0 ".repeat(43);
        let stat = format!("{pid} ({comm}) {state} 1 1 1 0 -1 {flags} {rest}\n");
        tree.put(&format!("proc/{pid}/comm"), format!("{comm}\n"));
        tree.put(&format!("proc/{pid}/stat"), stat);
        tree.put(&format!("proc/{pid}/cgroup"), cgroup);
    }

    #[test]
    fn names() {
        let tree = Tree::new(&[("proc/self/comm", "steam\n"), ("proc/stat", "cpu 1\n")]);
        add(&tree, 1, "init", 'S', 0, "0::/init.scope\n");
        add(&tree, 20, "zoom", 'Z', 0, "0::/user.slice\n");
        add(&tree, 21, "kworker/0:1", 'I', KERNEL_THREAD, "0::/\n");
        add(&tree, 22, "a-very-long-nam", 'R', 0, "0::/user.slice\n");
        add(&tree, 23, "odd ) (name", 'S', 0x40_0000, "0::/user.slice\n");
        add(&tree, 24, "python3", 'S', 0, "5:cpu:/plancton/abcdef\n");
        add(&tree, 25, "blender", 'S', 0, "0::/docker/0123456789ab\n");
        for (names, expected) in [
            (vec![], None),
            (vec!["steam"], None),
            (vec!["init"], Some("init")),
            (vec!["ini"], None),
            (vec!["Init"], None),
            (vec![""], None),
            (vec!["zoom"], None),
            (vec!["kworker/0:1"], None),
            (vec!["steam", "a-very-long-name"], Some("a-very-long-name")),
            (vec!["a-very-long-na"], None),
            (vec!["odd ) (name"], Some("odd ) (name")),
            (vec!["python3"], None),
            (vec!["blender"], None),
        ] {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            let found = Programs::default().find_running(
                tree.root(),
                &names,
                &["/plancton/", "0123456789ab", ""],
            );
            assert_eq!(found.unwrap().as_deref(), expected, "{names:?}");
        }
        let names = ["python3".to_owned()];
        let found = Programs::default().find_running(tree.root(), &names, &[]);
        assert_eq!(found.unwrap().as_deref(), Some("python3"));
    }

    #[test]
    fn garbage_and_every_prefix_are_survived() {
        let tree = Tree::new(&[("proc/7/comm", "game\n")]);
        let names = ["game".to_owned()];
        let running = || {
            Programs::default()
                .find_running(tree.root(), &names, &[])
                .unwrap()
        };
        assert_eq!(running(), None);
        for content in GARBAGE {
            tree.put("proc/7/stat", content);
            assert_eq!(running(), None);
        }
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        for end in (0..=stat.len()).filter(|end| stat.is_char_boundary(*end)) {
            tree.put("proc/7/stat", &stat[..end]);
            running();
        }
        assert_eq!(running().as_deref(), Some("game"));
        tree.remove("proc/7/comm");
        tree.fifo("proc/7/comm");
        assert_eq!(running(), None);
        assert!(
            Programs::default()
                .find_running(&tree.path("none"), &names, &[])
                .is_err()
        );
    }

    #[test]
    fn too_many_to_look_at_is_an_error() {
        let tree = Tree::new(&[("proc/", "")]);
        for pid in 0..=MOST_PROCESSES {
            std::fs::create_dir(tree.path(&format!("proc/{pid}"))).unwrap();
        }
        let error = Programs::default()
            .find_running(tree.root(), &["x".to_owned()], &[])
            .unwrap_err();
        assert_eq!(error.why, Why::TooMany(MOST_PROCESSES));
    }

    #[test]
    fn a_scan_reads_new_young_and_some_old_processes() {
        let tree = Tree::new(&[]);
        let old: Vec<u32> = (1..=40).collect();
        let mut programs = Programs::default();
        assert_eq!(programs.choose(&old).len(), 40);
        let mut read = std::collections::BTreeSet::new();
        for _ in 0..ROUNDS {
            let chosen = programs.choose(&old);
            assert_eq!(chosen.len(), 5);
            read.extend(chosen);
        }
        assert_eq!(read.len(), 40);

        // A script that becomes the program, whatever its pid; an old process that does; the program's end.
        for pid in [100, 101] {
            add(&tree, 1, "init", 'S', 0, "");
            let names = ["game".to_owned()];
            let mut programs = Programs::default();
            let mut running = || programs.find_running(tree.root(), &names, &[]).unwrap();
            assert_eq!(running(), None);
            add(&tree, pid, "sh", 'S', 0, "");
            assert_eq!(running(), None);
            assert_eq!(running(), None);
            add(&tree, pid, "game", 'S', 0, "");
            assert_eq!(running().as_deref(), Some("game"));
            add(&tree, pid, "game", 'Z', 0, "");
            assert_eq!(running(), None);
            add(&tree, 1, "game", 'S', 0, "");
            assert!((0..ROUNDS).any(|_| running().is_some()));
        }
        // Other names: all are read again.
        let other = ["init".to_owned()];
        add(&tree, 1, "init", 'S', 0, "");
        let found = programs.find_running(tree.root(), &other, &[]);
        assert_eq!(found.unwrap().as_deref(), Some("init"));
    }
}
