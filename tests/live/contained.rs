//! Pilots that misbehave: what they ask for is theirs, what they try beyond it fails, and it is told what they were.

use crate::common::*;

/// Podman does since 5.0 only (containers/podman #13102); with others of it such a pilot was killed, by whomever.
fn engine_tells_of_memory() -> bool {
    let host = json!({"Memory": 16 << 20, "MemorySwap": 16 << 20, "NetworkMode": "none"});
    let body = json!({"Image": image(), "Cmd": ["tail", "/dev/zero"], "HostConfig": host, "Labels": {"io.plancton.cpus": "0.01"}});
    let greedy = Stranger(create("", &body));
    greedy.post("start");
    until(|| !is_running(&greedy.0));
    inspect(&greedy.0).unwrap()["State"]["OOMKilled"] == true
}

#[test]
fn too_much_memory_is_no_plain_failure() {
    let greedy = shell("greedy", "echo begin; tail /dev/zero", "");
    let instance = Instance::running(&config("1s", 1, &greedy));
    if !engine_tells_of_memory() {
        instance.wait_count("killed", 1);
        return skip("this engine does not say that a container ran out of memory");
    }
    let status = instance.wait_count("out-of-memory", 1);
    assert_eq!(status["counts"]["failed"], Value::Null);
    instance.wait_reason("back-off");
    instance.say("log").must(0, &["out-of-memory", "begin"]);
}

#[test]
fn a_fork_bomb_stays_in_its_pilot() {
    // the shell that can't fork any more ends, what it forked stays
    let words = "(for i in $(seq 300); do sleep 300 & done; echo all); exec sleep 300";
    let instance = Instance::running(&config("1s", 1, &shell("bomb", words, "pids = 32")));
    let id = instance.wait_one();
    logs_with(&id, "can't fork");
    // Not what the engine says: Podman starts a process in the pilot for that.
    let group = |pid: &str| read(format!("/proc/{pid}/cgroup"));
    let own = group(&inspect(&id).unwrap()["State"]["Pid"].to_string());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let names = processes.map(|process| process.file_name().into_string().unwrap());
    let number = names.filter(|name| group(name) == own).count();
    assert!((2..=32).contains(&number), "{number}");
}

#[test]
fn a_flood_of_words_is_cut() {
    let instance = Instance::running(&config("1s", 1, &shell("flood", "yes $(seq 200)", "")));
    let seen = inspect(&instance.wait_one()).unwrap();
    let file = seen["LogPath"].as_str().unwrap();
    let size = || fs::metadata(file).map_or(0, |found| found.len());
    if is_root() {
        until(|| size() > 300_000);
        let sizes = (0..80).map(|_| (std::thread::sleep(seconds(0.05)), size()).1);
        assert!(sizes.max().unwrap() < 2 << 20);
    }
    let log = format!("log {}", instance.containers()[0].name);
    instance.say(&log).must(0, &["1 2 3"]);
}

/// 50 MB/s for ten seconds at most.
#[test]
fn who_fills_the_disk_is_stopped_at_the_reserve() {
    let words = "i=0; while [ $i -lt 50 ]; do dd if=/dev/zero of=/tmp/f$i bs=1M count=10 2>/dev/null; i=$((i+1)); sleep 0.2; done; sleep 600";
    let info = get("/info").unwrap();
    let found = rustix::fs::statvfs(info["DockerRootDir"].as_str().unwrap()).unwrap();
    let reserve = ((found.f_bavail * found.f_frsize) >> 20) - 150;
    let class = shell("filler", words, "").replace("memory = \"16MiB\"", "memory = \"64MiB\"");
    let text = config("1s", 1, &class);
    let reserve = format!("reserve-disk = \"{reserve}MiB\"");
    let instance = Instance::running(&text.replace("reserve-disk = \"64MiB\"", &reserve));
    let id = poll(PATIENCE, || instance.running_ids().first().cloned()).expect("it runs");
    instance.wait_count("owner", 1);
    until(|| inspect(&id).is_none());
    instance.until(|| ["disk", "calming"].contains(&instance.reason().as_str()));
}

#[test]
fn an_empty_queue_is_asked_seldom_and_a_broken_class_costs_the_other_nothing() {
    let empty = "no-work-pause = \"10s\"\nmax = 2";
    let classes = shell("empty", "sleep 1.5; exit 75", empty)
        + &shell("broken", "echo oops; exit 1", "max = 2")
        + &shell("well", "sleep 600", "max = 2");
    let (start, instance) = (epoch(), Instance::running(&config("1s", 6, &classes)));
    let number_of_well = |status: &Value| {
        let pilots = members(&status["pilots"]).iter();
        pilots.filter(|pilot| pilot["class"] == "well").count()
    };
    instance.wait_status(|status| number_of_well(status) == 2);
    instance.wait_count("no-work", 2);
    let before = instance.count("no-work");
    until(|| epoch() - start >= 60.0);
    assert_eq!(number_of_well(&instance.status()), 2);
    // From the first start on; what a loaded machine delays belongs to the next minute.
    let minutes = ((epoch() - start) / 61.0).ceil() as u64;
    let (failed, empty) = (instance.count("failed"), instance.count("no-work") - before);
    let is_seldom = (1..=5 * minutes).contains(&failed);
    assert!(is_seldom, "{failed} starts of the broken class");
    assert!(empty <= 15 * minutes, "{empty} questions for work");
    instance.say("log").must(0, &["failed", "oops"]);
}

#[test]
fn what_cannot_be_executed_or_is_not_there() {
    let odd = pilot("odd", &["/no/such/program"], "");
    let entry = pilot("odd", &[], "entrypoint = [\"/etc/passwd\"]");
    // Nothing listens on the discard port: what is tested is the answer, not the internet.
    let image_name = "127.0.0.1:9/science/none:1";
    let lost = pilot("lost", &["true"], "").replace(&image(), image_name);
    let cases = [
        (odd, "/no/such/program"),
        (entry, "/etc/passwd"),
        (lost, image_name),
    ];
    at_once(cases, |(class, named)| {
        let instance = Instance::running(&config("1s", 8, &class));
        instance.wait_reason("back-off");
        // Podman's init program is started, and finds nothing to execute.
        if is_podman() && named.starts_with('/') {
            instance.say("log").must(0, &["failed to exec"]);
        } else {
            instance.wait_text(named);
        }
        instance.done("why");
        instance.wait_none();
        // One probe, the launches of one tick, and perhaps the second try.
        let tries = instance.count("launches") + instance.count("launch-failed");
        assert!(tries <= 6, "{tries} launches in the first seconds");
        assert_eq!(read(instance.path("state/images")), "");
    });
}
