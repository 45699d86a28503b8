//! A made-up machine of 16 idle cores, and the real binary running on it against a fake engine. What the build machine
//! is doing has no influence on what is decided.

use super::*;
use std::ops::{Deref, DerefMut};

pub struct Machine {
    pub engine: FakeEngine,
    instance: Instance,
}

const CPUS: u32 = 16;

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

impl Machine {
    /// The engine is up, the daemon does not run.
    pub fn new() -> Machine {
        let mut machine = Machine::without_engine();
        machine.engine.up();
        machine
    }

    pub fn without_engine() -> Machine {
        let scratch = Scratch::new();
        let cpus = (0..CPUS).map(|cpu| format!("cpu{cpu} 6 0 6 6000 0 0 0 0 0 0\n"));
        let stat = "cpu  100 0 100 100000 0 0 0 0 0 0\n".to_owned() + &cpus.collect::<String>();
        let memory = "MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\n";
        for (name, text) in [
            ("proc/stat", stat.as_str()),
            ("proc/meminfo", memory),
            ("proc/1/cmdline", "init"),
            (
                "proc/sys/kernel/random/boot_id",
                "00000000-0000-4000-8000-000000000001\n",
            ),
            ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
            ("sys/class/thermal/thermal_zone0/temp", "50000\n"),
            (
                "sys/devices/system/cpu/online",
                &format!("0-{}\n", CPUS - 1),
            ),
        ] {
            scratch.file(&format!("root/{name}"), text);
        }
        for controller in ["cpu", "cpuacct", "memory", "pids"] {
            scratch.file(&format!("root/sys/fs/cgroup/{controller}/tasks"), "");
        }
        let (socket, root) = (scratch.0.join("engine.sock"), scratch.0.join("root"));
        let instance = Instance {
            name: "t1".to_owned(),
            scratch,
            socket: socket.clone(),
            root: Some(root.clone()),
            sees_load: true,
            daemon: None,
        };
        let engine = FakeEngine::new(&socket, &root);
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
        let so = becomes(PATIENCE, || self.pilots().len() == count);
        let calls = || {
            self.engine
                .world()
                .calls
                .iter()
                .rev()
                .take(30)
                .cloned()
                .collect::<Vec<_>>()
        };
        assert!(
            so,
            "{count} pilots: {:#}\n{:?}\n{}",
            self.status(),
            calls(),
            self.log()
        );
    }

    /// The first of the running pilots exits.
    pub fn end_one(&self, exit_code: i64) -> String {
        let id = self.pilots()[0].clone();
        self.engine.end(&id, exit_code);
        id
    }

    /// The daemon lives, counts as healthy, and has written its status in the last three seconds.
    #[track_caller]
    pub fn assert_well(&mut self) {
        assert!(!self.has_ended(), "{}", self.log());
        self.say(&["health"]).must(0, &[]);
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
        let ended = running
            .into_iter()
            .map(|(case, thread)| (case, thread.join()));
        let failed: Vec<String> = ended
            .filter(|(_, end)| end.is_err())
            .map(|(case, _)| case)
            .collect();
        assert!(failed.is_empty(), "failed: {failed:#?}");
    });
}
