//! Pilots that misbehave: what they ask for is theirs, what they try beyond it fails, and it is told what they were.

use crate::common::*;
use serde_json::Value;
use std::time::Instant;

fn shell(name: &str, words: &str, more: &str) -> String {
    pilot(
        name,
        &["sh", "-c", words],
        &format!("stop-grace = \"1s\"\n{more}"),
    )
}

fn count(status: &Value, kind: &str) -> u64 {
    status["counts"][kind].as_u64().unwrap_or(0)
}

#[test]
fn too_much_memory_is_no_plain_failure() {
    let instance = Instance::running(&config(
        "1s",
        1,
        &shell("greedy", "echo begin; tail /dev/zero", ""),
    ));
    let status = instance.wait_status("its end", PATIENCE, |status| {
        count(status, "out-of-memory") > 0
    });
    assert_eq!(count(&status, "failed"), 0, "{:#}", status["counts"]);
    assert!(
        status["reason"]["text"]
            .as_str()
            .unwrap()
            .contains("memory limit"),
        "{:#}",
        status["reason"]
    );
    instance.say(&["log"]).must(0, &["out-of-memory", "begin"]);
}

#[test]
fn a_fork_bomb_stays_in_its_pilot() {
    let words = "for i in $(seq 300); do sleep 300 & done; echo all; wait";
    let instance = Instance::running(&config("1s", 1, &shell("bomb", words, "pids = 32")));
    let id = instance.wait_running(1).first().unwrap().clone();
    let refused = poll(PATIENCE, || {
        Some(logs(&id)).filter(|text| text.contains("can't fork"))
    });
    assert!(refused.is_some(), "{}", logs(&id));
    let top: Value =
        serde_json::from_str(&call("GET", &format!("/containers/{id}/top"), None).1).unwrap();
    assert!(
        top["Processes"]
            .as_array()
            .is_none_or(|list| list.len() <= 32),
        "{top}"
    );
}

#[test]
fn a_flood_of_words_is_cut() {
    let instance = Instance::running(&config("1s", 1, &shell("flood", "yes $(seq 200)", "")));
    let id = instance.wait_running(1).first().unwrap().clone();
    let file = inspect(&id).unwrap()["LogPath"]
        .as_str()
        .unwrap()
        .to_owned();
    let size = || std::fs::metadata(&file).map_or(0, |found| found.len());
    if is_root() {
        let grown = poll(PATIENCE, || (size() > 300_000).then_some(()));
        assert!(grown.is_some(), "{file} has {} bytes", size());
        let most = (0..80)
            .map(|_| poll(seconds(0.05), || None).unwrap_or_else(size))
            .max()
            .unwrap();
        assert!(most < 2 << 20, "{file} grew to {most} bytes");
    }
    instance
        .say(&["log", &instance.containers()[0].name])
        .must(0, &["1 2 3"]);
}

#[test]
fn scratch_has_its_size() {
    let words = "dd if=/dev/zero of=/tmp/a bs=1M count=9; touch /x; echo end; sleep 600";
    let instance = Instance::running(&config(
        "1s",
        1,
        &shell("scratch", words, "scratch = \"4MiB\""),
    ));
    let id = instance.wait_running(1).first().unwrap().clone();
    let said = poll(PATIENCE, || {
        Some(logs(&id)).filter(|text| text.contains("end\n"))
    })
    .expect("its words");
    let host_config = &inspect(&id).unwrap()["HostConfig"];
    assert!(said.contains("No space left"), "{said}");
    if host_config["StorageOpt"]["size"].is_null() {
        assert!(
            said.contains("Read-only file system") && host_config["Tmpfs"]["/tmp"].is_string(),
            "{host_config}"
        );
        let large = Instance::running(&config(
            "1s",
            1,
            &shell("large", "sleep 600", "scratch = \"1GiB\""),
        ));
        let is_told = |s: &Value| {
            s["reason"]["text"]
                .as_str()
                .unwrap()
                .contains("scratch 1GiB: the engine's disk holds")
        };
        large.wait_status("why not", PATIENCE, is_told);
        assert_eq!(large.containers(), []);
    }
}

/// 50 MB/s for ten seconds at most.
#[test]
fn who_fills_the_disk_is_stopped_at_the_reserve() {
    let words = "i=0; while [ $i -lt 50 ]; do dd if=/dev/zero of=/tmp/f$i bs=1M count=10 2>/dev/null; i=$((i+1)); sleep 0.2; done; sleep 600";
    let root: Value = serde_json::from_str(&call("GET", "/info", None).1).unwrap();
    let root = root["DockerRootDir"].as_str().unwrap().to_owned();
    let free = || {
        let found = rustix::fs::statvfs(&root).unwrap();
        (found.f_bavail * found.f_frsize) >> 20
    };
    let reserve = free() - 150;
    let class = shell("filler", words, "memory = \"64MiB\"").replace("memory = \"16MiB\"\n", "");
    let text = config("1s", 1, &class).replace(
        "reserve-disk = \"64MiB\"",
        &format!("reserve-disk = \"{reserve}MiB\""),
    );
    let instance = Instance::running(&text);
    let id = poll(PATIENCE, || instance.running_ids().first().cloned()).expect("it runs");
    instance.wait_status("stopped for the owner", PATIENCE, |status| {
        count(status, "owner") > 0
    });
    assert!(
        poll(PATIENCE, || inspect(&id).is_none().then_some(())).is_some(),
        "and its room is free again"
    );
    instance.wait_status("why", PATIENCE, |status| {
        ["disk", "calming"].contains(&status["reason"]["code"].as_str().unwrap())
    });
}

#[test]
fn an_empty_queue_is_asked_seldom_and_a_broken_class_costs_the_other_nothing() {
    let classes = [
        shell(
            "empty",
            "sleep 1.5; exit 75",
            "no-work-pause = \"10s\"\nmax = 2",
        ),
        shell("broken", "echo oops; exit 1", "max = 2"),
        shell("well", "sleep 600", "max = 2"),
    ];
    let (start, instance) = (
        Instant::now(),
        Instance::running(&config("1s", 6, &classes.concat())),
    );
    instance.wait_status("the well class has its room", PATIENCE, |status| {
        status["pilots"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pilot| pilot["class"] == "well")
            .count()
            == 2
    });
    let status = instance.wait_status("no work", PATIENCE, |status| count(status, "no-work") >= 2);
    let (before, since) = (count(&status, "no-work"), Instant::now());
    poll(seconds(60.0), || {
        (since.elapsed() >= seconds(30.0) && start.elapsed() >= seconds(60.0)).then_some(())
    });
    let status = instance.status().unwrap();
    let (failed, empty) = (count(&status, "failed"), count(&status, "no-work") - before);
    // From the first start on; what a loaded machine delays belongs to the next minute.
    let minutes = start.elapsed().as_secs().div_ceil(61);
    assert!(
        (1..=5 * minutes).contains(&failed),
        "{failed} starts of the broken class in {minutes} minutes"
    );
    assert!(
        (1..=15).contains(&empty),
        "{empty} more questions for work in a minute at most"
    );
    let well: Vec<&Value> = status["pilots"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pilot| pilot["class"] == "well")
        .collect();
    assert_eq!(well.len(), 2, "{:#}", status["pilots"]);
    instance
        .say(&["log"])
        .must(0, &["failed", "exit code 1", "oops"]);
}
