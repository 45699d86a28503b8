//! A made-up machine of 16 idle cores, and the real binary running on it against a fake engine. What the build machine
//! is doing has no influence on what is decided.

use super::*;
use std::ops::{Deref, DerefMut};

pub struct Machine {
    pub engine: FakeEngine,
    instance: Instance,
}

impl Deref for Machine {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

/// One class of one-core pilots, at most so many, looked at each second; `share` are further lines of [share], `more` follow
/// those of the class. An engine may take as long to answer as a busy machine makes it.
pub fn made_up(most: u32, share: &str, more: &str) -> String {
    format!(
        "[loop]\ninterval = \"1s\"\nlaunches-per-tick = 4\n[engine]\ntimeout = \"20s\"\n\
         [share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = {most}\n{share}\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\nstop-grace = \"1s\"\n{more}\n"
    )
}

impl Machine {
    /// The engine is up, the daemon does not run.
    pub fn new() -> Machine {
        let mut machine = Machine::without_engine();
        machine.engine.up();
        machine
    }

    pub fn without_engine() -> Machine {
        const FILES: &str = "proc/meminfo MemTotal: 67108864 kB\nMemAvailable: 60000000 kB|\
            proc/1/cmdline init|proc/sys/kernel/random/boot_id 00000000-0000-4000-8000-000000000001|\
            sys/class/thermal/thermal_zone0/type x86_pkg_temp|sys/class/thermal/thermal_zone0/temp 50000|\
            sys/devices/system/cpu/online 0-15|sys/fs/cgroup/cpu/tasks |sys/fs/cgroup/cpuacct/tasks |\
            sys/fs/cgroup/memory/tasks |sys/fs/cgroup/pids/tasks ";
        let scratch = Scratch::new();
        for (name, text) in FILES.split('|').filter_map(|file| file.split_once(' ')) {
            scratch.file(&format!("root/{name}"), format!("{text}\n"));
        }
        let cpus = (0..16).map(|cpu| format!("cpu{cpu} 6 0 6 6000 0 0 0 0 0 0\n"));
        let stat = "cpu  100 0 100 100000 0 0 0 0 0 0\n".to_owned() + &cpus.collect::<String>();
        scratch.file("root/proc/stat", stat);
        let root = scratch.0.join("root");
        Machine::shown("t1", scratch, root.clone(), &root)
    }

    /// `groups`: where the fake engine makes the groups of its containers.
    pub fn shown(name: &str, scratch: Scratch, root: PathBuf, groups: &Path) -> Machine {
        let socket = scratch.0.join("engine.sock");
        let engine = FakeEngine::new(&socket, groups);
        let instance = Instance {
            name: name.to_owned(),
            scratch,
            socket,
            root: Some(root),
            sees_load: true,
            daemon: None,
        };
        Machine { engine, instance }
    }

    /// With its daemon, and so many pilots of it.
    #[track_caller]
    pub fn running(config: &str, pilots: usize) -> Machine {
        let mut machine = Machine::new();
        machine.start(config);
        machine.wait_for_pilots(pilots);
        machine
    }

    /// Ids of running pilots.
    pub fn pilots(&self) -> Vec<String> {
        self.engine.in_state("running")
    }

    #[track_caller]
    pub fn wait_for_pilots(&self, count: usize) {
        if !becomes(PATIENCE, || self.pilots().len() == count) {
            let calls = self.engine.world().calls.clone();
            let last = &calls[calls.len().saturating_sub(30)..];
            let (status, log) = (self.status(), self.log());
            panic!("{count} pilots: {status:#}\n{last:?}\n{log}");
        }
    }

    /// The first of the running pilots exits.
    pub fn end_one(&self, exit_code: i64) -> String {
        let id = self.pilots()[0].clone();
        self.engine.world().end(&id, exit_code);
        id
    }

    /// The daemon lives, counts as healthy, and has written its status in the last three seconds.
    #[track_caller]
    pub fn assert_well(&mut self) {
        assert!(!self.has_ended(), "{}", self.log());
        self.done("health");
        self.until(|| epoch() - self.status()["tick"].as_f64().unwrap_or(0.0) < 3.0);
    }
}

/// Runs every case of a table at once (they mostly wait), and names those that fail.
pub fn at_once<T: Send + Clone + Debug>(
    cases: impl IntoIterator<Item = T>,
    test: impl Fn(T) + Sync,
) {
    std::thread::scope(|scope| {
        let test = &test;
        let start = |case: T| (format!("{case:.300?}"), scope.spawn(move || test(case)));
        let running: Vec<_> = cases.into_iter().map(start).collect();
        let ended = running.into_iter();
        let failed = ended.filter_map(|(case, thread)| thread.join().is_err().then_some(case));
        let failed: Vec<String> = failed.collect();
        assert!(failed.is_empty(), "failed: {failed:#?}");
    });
}
