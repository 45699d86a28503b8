//! The owner's side on a real engine: giving back, protection, the parent group of all pilots, and a loop that nothing
//! wakes. One at a time, because they measure load. Other users of the engine are waited for, or named where they keep
//! something from being seen.
// threads: 1
// alone
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;

/// Processes of the owner.
fn hogs(script: &str) -> Vec<Running> {
    let hog = |_| Running::new(Command::new("sh").args(["-c", script]));
    (0..cores()).map(hog).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// With these [owner] keys in place of those that are there.
fn with_owner(text: &str, keys: &str) -> String {
    let key = |line: &str| line.split(' ').next().unwrap().to_owned();
    let named: Vec<String> = keys.lines().map(key).collect();
    let others = text.lines().filter(|line| !named.contains(&key(line)));
    let others = others.collect::<Vec<_>>().join("\n") + "\n";
    others.replace("[owner]\n", &format!("[owner]\n{keys}\n"))
}

/// As many busy pilots as there are cores.
fn busy_machine(when_busy: &str) -> Instance {
    let busy = shell("busy", "while :; do :; done", "").replace("cpus = 0.1", "cpus = 0.7");
    let text = config("1s", cores() as u32, &busy);
    let keys = format!("when-busy = \"{when_busy}\"\nbusy-for = \"2s\"\ncalm-for = \"3s\"");
    let mut instance = Instance::running(&with_owner(&text, &keys));
    instance.wait_running(cores());
    see_load(&mut instance, true);
    instance
}

/// From its next daemon on; what this machine's other users do is no calm to wait for.
fn see_load(instance: &mut Instance, sees_load: bool) {
    assert_eq!(instance.end(), 0);
    instance.sees_load = sees_load;
    instance.run("");
}

#[test]
fn a_busy_owner_pauses_pilots_and_calm_wakes_them() {
    let mut instance = busy_machine("pause");
    // Not quite every moment: an old freezer cannot freeze what gets no CPU at all, and such a pilot is in nobody's way.
    let hogs =
        hogs("while :; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.004; done");
    // As many as the need asks for: a core of it rides along.
    let status = instance.wait_status(|status| status["pilots"].to_string().contains("\"paused\""));
    let code = &status["reason"]["code"];
    assert!(code == "busy" || code == "calming", "{code}");
    drop(hogs);
    see_load(&mut instance, false);
    instance.wait_containers(|list| list.len() == cores() && are(list, "running"));
}

#[test]
fn with_protection_pilots_yield_inside_the_kernel() {
    if !is_root() {
        return skip("only root makes the idle group");
    }
    let instance = busy_machine("auto");
    instance.wait_for("/protection/level", "verified");
    let _hogs = hogs("while :; do :; done");
    let (most, least) = (0.3 * cores() as f64, 0.8 * cores() as f64);
    instance.wait_status(|status| {
        let cpus = &status["cpus"];
        status["reason"]["code"] == "busy"
            && cpus["foreign"].as_f64() > Some(least)
            && cpus["pilots"].as_f64() < Some(most)
    });
    instance.wait_containers(|list| are(list, "running"));
}

/// The first of these files of the parent group that there is, with either version and driver.
fn group_file(names: &[&str]) -> Option<PathBuf> {
    let hierarchies = ["", "cpu", "cpu,cpuacct", "memory", "pids"].iter();
    let groups =
        hierarchies.flat_map(|dir| ["plancton", "plancton.slice"].map(|group| (dir, group)));
    let groups = groups.map(|(dir, group)| Path::new("/sys/fs/cgroup").join(dir).join(group));
    let mut files = groups.flat_map(|group| names.iter().map(move |name| group.join(name)));
    files.find(|file| file.exists())
}

/// The first file of a pilot's own group that is there: version 1, then version 2.
fn pilot_file(id: &str, names: [&str; 2]) -> String {
    let groups = ["", "libpod-", "docker-", "libpod-"]
        .iter()
        .zip(["", "", ".scope", ".scope"]);
    let groups: Vec<String> = groups
        .map(|(before, after)| format!("{before}{id}{after}"))
        .collect();
    let of = |name| groups.iter().map(move |group| format!("{group}/{name}"));
    let files: Vec<String> = names.into_iter().flat_map(of).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    read(group_file(&files).unwrap())
}

#[test]
fn pilots_run_in_an_idle_group_that_is_kept_and_removed() {
    let mut instance = Instance::running(&config("1s", 2, &sleeper()));
    let pilots = instance.wait_running(2);
    let seen = inspect(pilots.first().unwrap()).unwrap();
    let parent = &seen["HostConfig"]["CgroupParent"];
    if !is_root() {
        assert_eq!(parent, "");
        return skip("only root makes the idle group");
    }
    assert!(
        parent == "/plancton" || parent == "plancton.slice",
        "{parent}"
    );
    instance.wait_for("/protection/level", "verified");
    let idle = group_file(&["cpu.idle"]).expect("a kernel with idle groups");
    assert_eq!(read(&idle), "1");
    let total = read("/proc/meminfo");
    let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    let memory = ["memory.limit_in_bytes", "memory.max"];
    let most: u64 = read(group_file(&memory).unwrap()).parse().unwrap();
    assert!(most <= total * 1024 - (64 << 20), "{most} of {total} KiB");
    for id in &pilots {
        assert_eq!(pilot_file(id, memory), (16 << 20).to_string());
        assert_eq!(pilot_file(id, ["pids.max", "pids.max"]), "512");
        let quota = pilot_file(id, ["cpu.cfs_quota_us", "cpu.max"]);
        assert!(quota == "10000" || quota == "10000 100000", "{quota}");
    }
    // Somebody resets it, as systemd does with slices that it stops.
    fs::write(&idle, "0").unwrap();
    until(|| read(&idle) == "1");
    instance.wait_for("/protection/level", "verified");
    assert_eq!(instance.running_ids(), pilots);
    // Pilots outlive the daemon, and so does their group.
    assert_eq!(instance.end(), 0);
    assert!(idle.exists());
    instance.run("");
    instance.wait_for("/protection/level", "verified");
    // As Podman leaves it.
    let memory = group_file(&memory).unwrap();
    if parent == "/plancton" {
        fs::create_dir(idle.with_file_name("conmon")).unwrap();
        fs::create_dir(memory.with_file_name("conmon")).unwrap();
    }
    instance.done("force-stop");
    assert_eq!(instance.wait_end(), 0);
    let others = || {
        let mut processes = fs::read_dir("/proc").unwrap().flatten();
        processes.any(|process| read(process.path().join("comm")) == "plancton")
    };
    let is_gone = becomes(seconds(5.0), || !idle.exists() && !memory.exists());
    let below = fs::read_dir(idle.parent().unwrap());
    let below: Vec<_> = below
        .into_iter()
        .flatten()
        .flatten()
        .map(|found| found.file_name())
        .collect();
    assert!(is_gone || others(), "nobody is left, but {below:?}");
}

/// Context switches of all threads of a process.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let texts = tasks.map(|task| read(task.path().join("status")) + "\n");
    let texts: String = texts.collect();
    let lines = texts.lines().filter(|line| line.contains("ctxt_switches"));
    let numbers = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    numbers.sum()
}

#[test]
fn without_a_pilot_there_are_no_ticks() {
    let instance = Instance::running(&config("1s", 4, ""));
    let status = instance.wait_reason("no-pilot");
    let is_due = !status["due"].is_null();
    assert!(status["state"] == "waiting" && !is_due, "no turn is due");
    instance.done("health");
    // A pilot of another instance that ends is a reason to look; three quiet seconds in a minute are not too much to ask.
    until(|| {
        let before = switches(instance.pid());
        std::thread::sleep(seconds(3.0));
        switches(instance.pid()) == before
    });
    instance.reload(&config("1s", 1, &sleeper()));
    instance.wait_running(1);
    instance.reload(&config("1s", 1, ""));
    // What runs is still looked after.
    instance.wait_reason("no-pilot");
    instance.wait_listed(1);
    let name = &instance.containers()[0].name;
    instance.done(&format!("kill {name}"));
    instance.wait_none();
    instance.wait_for("/due", Value::Null);
}
