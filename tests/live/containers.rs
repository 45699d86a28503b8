//! What a pilot is to the engine, and what it sees of itself from inside.

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// What the engine says about the only pilot of a configuration.
fn inspect_pilot(instance: &Instance) -> Value {
    let id = instance.wait_running(1).first().unwrap().clone();
    inspect(&id).unwrap()
}

#[track_caller]
fn holds(found: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
}

#[test]
fn limits_and_rights_of_a_plain_pilot() {
    let words = "grep -E '^(Uid|CapBnd|NoNewPrivs)' /proc/self/status; cat /proc/self/oom_score_adj; hostname; echo end; sleep 600";
    let instance = Instance::running(&config(
        "1s",
        1,
        &pilot("plain", &["sh", "-c", words], "swap = \"8MiB\""),
    ));
    let seen = inspect_pilot(&instance);
    let swap_limit =
        serde_json::from_str::<Value>(&call("GET", "/info", None).1).unwrap()["SwapLimit"] == true;
    holds(
        &seen["HostConfig"],
        &json!({
            "NanoCpus": 100_000_000, "Memory": 16 << 20, "PidsLimit": 512, "OomScoreAdj": 1000, "Init": true,
            "CapDrop": ["ALL"], "CapAdd": [], "SecurityOpt": ["no-new-privileges"], "Privileged": false,
            "NetworkMode": "none", "AutoRemove": false, "Binds": null, "ReadonlyRootfs": false,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        }),
    );
    if swap_limit {
        assert_eq!(seen["HostConfig"]["MemorySwap"], 24 << 20);
    }
    assert_eq!(seen["Config"]["User"], "65534:65534");
    let id = seen["Id"].as_str().unwrap();
    let said = poll(PATIENCE, || {
        Some(logs(id)).filter(|text| text.contains("end\n"))
    })
    .expect("its words");
    let lines = [
        "65534\t65534\t65534\t65534",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "1000\n",
    ];
    for line in lines
        .iter()
        .copied()
        .chain([seen["Config"]["Hostname"].as_str().unwrap()])
    {
        assert!(said.contains(line), "'{line}' in {said}");
    }
    let parent = seen["HostConfig"]["CgroupParent"].as_str().unwrap();
    match is_root() {
        true => assert!(
            ["/plancton", "plancton.slice"].contains(&parent),
            "{parent}"
        ),
        false => assert_eq!(parent, "", "only root has a parent group"),
    }
}

#[test]
fn names_labels_and_environment() {
    let instance = Instance::running(&config(
        "1s",
        1,
        &pilot(
            "two-words",
            &["sleep", "600"],
            "ttl = \"2h\"\nstop-grace = \"7s\"",
        ),
    ));
    let seen = inspect_pilot(&instance);
    let name = seen["Name"].as_str().unwrap();
    let id = name.strip_prefix("/plancton-two-words-").unwrap();
    assert!(
        id.len() == 6
            && id
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
        "{name}"
    );
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let hostname = seen["Config"]["Hostname"].as_str().unwrap();
    assert!(
        hostname.starts_with("plancton-") && hostname.ends_with(id) && hostname.len() <= 63,
        "{hostname}"
    );
    assert!(
        hostname.contains(
            &host
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .take(40)
                .collect::<String>()
        )
    );
    let labels = &seen["Config"]["Labels"];
    holds(
        labels,
        &json!({LABEL: instance.name, "io.plancton.class": "two-words", "io.plancton.cpus": "0.1"}),
    );
    assert!(
        labels["io.plancton.version"]
            .as_str()
            .unwrap()
            .starts_with(|c: char| c.is_ascii_digit())
    );
    let (boot, second) = labels["io.plancton.expires"]
        .as_str()
        .unwrap()
        .rsplit_once(':')
        .unwrap();
    assert_eq!(boot, read("/proc/sys/kernel/random/boot_id"));
    let awake = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    let left = second.parse::<i64>().unwrap() - awake;
    assert!(
        (7_100..=7_200).contains(&left),
        "{left} s are left of two hours"
    );
    let status = instance.wait_status("the pilot", PATIENCE, |status| {
        status["pilots"][0]["name"].is_string()
    });
    let deadline: f64 = labels["io.plancton.deadline"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((status["pilots"][0]["deadline"].as_f64().unwrap() - deadline).abs() < 5.0);
    let env: BTreeSet<&str> = seen["Config"]["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect();
    for word in [
        "PLANCTON_CLASS=two-words",
        "PLANCTON_CPUS=0.1",
        "PLANCTON_MEMORY_BYTES=16777216",
    ] {
        assert!(env.contains(word), "{word} in {env:?}");
    }
    assert!(
        env.contains(format!("PLANCTON_DEADLINE={deadline:.0}").as_str()),
        "{env:?}"
    );
}

#[test]
fn what_a_class_asks_for() {
    let mut instance = Instance::new("");
    let (data, out) = (instance.base.join("data"), instance.base.join("out"));
    for dir in [&data, &out] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(data.join("in"), "seen\n").unwrap();
    let words = "cat /data/in >/out/copy; touch /data/x 2>/out/refused; touch /scratch/x /x 2>>/out/refused; \
                 ls -l /dev/nothing >>/out/copy; echo $GREETING >>/out/copy; sleep 600";
    let more = format!(
        "mounts = [\"{}:/data\", \"{}:/out:rw\"]\ntmpfs = [\"/scratch:1MiB\"]\nread-only = true\n\
         devices = [\"/dev/null:/dev/nothing:rw\"]\ncap-add = [\"SYS_PTRACE\"]\nenv = {{ GREETING = \"a = b\" }}\n\
         user = \"1000:1001\"\npids = 20\nhost-config = {{ ShmSize = 1048576, NanoCpus = 5 }}",
        data.display(),
        out.display()
    );
    let mut text = config("1s", 1, &pilot("rich", &["sh", "-c", words], &more));
    instance.configure(&text);
    instance.say(&["config"]).must(78, &["NanoCpus"]);
    text = text.replace(", NanoCpus = 5", "");
    instance.configure(&text);
    instance.run(&[]);
    let seen = inspect_pilot(&instance);
    holds(
        &seen["HostConfig"],
        &json!({"Binds": null, "PidsLimit": 20, "ReadonlyRootfs": true, "ShmSize": 1 << 20, "CapAdd": ["SYS_PTRACE"], "CapDrop": ["ALL"]}),
    );
    let mounts = seen["HostConfig"]["Mounts"].as_array().unwrap();
    assert!(
        mounts.len() == 2 && mounts.iter().all(|mount| mount["Type"] == "bind"),
        "{mounts:?}"
    );
    assert_eq!(seen["Config"]["User"], "1000:1001");
    let copy = poll(PATIENCE, || {
        Some(read(out.join("copy"))).filter(|text| text.contains("a = b"))
    })
    .expect("its words");
    assert!(
        copy.contains("seen") && copy.contains("/dev/nothing"),
        "{copy}"
    );
    let refused = read(out.join("refused"));
    assert_eq!(
        refused.matches("Read-only file system").count(),
        2,
        "{refused}"
    );
    assert!(!data.join("x").exists());
}

/// Every key of a class that the engine is told of: what is written, where `inspect` has it, and as what.
#[test]
fn each_key_is_read_back() {
    let plain = [
        (
            "entrypoint = [\"sleep\"]",
            "/Config/Entrypoint",
            json!(["sleep"]),
        ),
        ("command = [\"600\"]", "/Config/Cmd", json!(["600"])),
        ("user = \"12:34\"", "/Config/User", json!("12:34")),
        ("cpus = 0.25", "/HostConfig/NanoCpus", json!(250_000_000)),
        ("memory = \"24MiB\"", "/HostConfig/Memory", json!(24 << 20)),
        ("pids = 33", "/HostConfig/PidsLimit", json!(33)),
        ("stop-grace = \"3s\"", "/Config/StopTimeout", json!(3)),
        (
            "ttl = \"1h\"",
            "/Config/Labels/io.plancton.class",
            json!("k"),
        ),
        ("env = { A = \"b c\" }", "/Config/Env/5", json!("A=b c")),
        (
            "mounts = [\"/usr:/m:private\"]",
            "/HostConfig/Mounts/0/BindOptions/Propagation",
            json!("private"),
        ),
        (
            "tmpfs = [\"/t:1MiB\"]",
            "/HostConfig/Tmpfs/~1t",
            json!("rw,nosuid,nodev,exec,mode=1777,size=1048576"),
        ),
        (
            "devices = [\"/dev/null:/dev/n:r\"]",
            "/HostConfig/Devices/0/CgroupPermissions",
            json!("r"),
        ),
        (
            "cap-add = [\"CHOWN\"]",
            "/HostConfig/CapAdd",
            json!(["CHOWN"]),
        ),
        (
            "read-only = true",
            "/HostConfig/ReadonlyRootfs",
            json!(true),
        ),
        (
            "network = \"none\"",
            "/HostConfig/NetworkMode",
            json!("none"),
        ),
        (
            "host-config = { Ulimits = [{ Name = \"nofile\", Soft = 64, Hard = 64 }] }",
            "/HostConfig/Ulimits/0/Hard",
            json!(64),
        ),
        ("privileged = true", "/HostConfig/Privileged", json!(true)),
    ];
    let lines: Vec<&str> = plain.iter().map(|(line, ..)| *line).collect();
    let class = format!(
        "[[pilot]]\nname = \"k\"\nimage = \"{}\"\n{}\n",
        image(),
        lines.join("\n")
    );
    let instance = Instance::running(&config("1s", 1, &class));
    let seen = inspect_pilot(&instance);
    for (line, pointer, expected) in plain {
        // The engine may put its own cap_ before a name.
        let found = seen
            .pointer(pointer)
            .cloned()
            .unwrap_or_default()
            .to_string()
            .replace("CAP_", "");
        assert_eq!(
            found,
            expected.to_string(),
            "{line}: {:#}",
            seen["HostConfig"]
        );
    }
    instance.say(&["check", "--offline"]).must(
        0,
        &["privileged", "the capability CHOWN", "raw host-config"],
    );
}

/// What a class may not ask for, by the field's name: it would undo what Plancton promises.
#[test]
fn own_fields_are_refused_by_name() {
    let instance = Instance::new("");
    for field in [
        "NanoCpus",
        "CpuQuota",
        "CpusetCpus",
        "Memory",
        "MemorySwap",
        "PidsLimit",
        "CgroupParent",
        "OomScoreAdj",
        "OomKillDisable",
        "RestartPolicy",
        "AutoRemove",
        "Labels",
        "LogConfig",
        "Init",
        "Binds",
        "Mounts",
        "Tmpfs",
        "Devices",
        "CapAdd",
        "CapDrop",
        "Privileged",
        "NetworkMode",
        "ReadonlyRootfs",
        "StorageOpt",
        "nanocpus",
    ] {
        instance.configure(&config(
            "1s",
            1,
            &pilot("p", &["true"], &format!("host-config = {{ {field} = 1 }}")),
        ));
        instance
            .say(&["check", "--offline"])
            .must(78, &[&format!("'{field}' is set by Plancton itself")]);
    }
}

#[test]
fn a_missing_mount_holds_its_class() {
    let mut instance = Instance::new("");
    let source = instance.base.join("not/there");
    let held = pilot(
        "held",
        &["sleep", "600"],
        &format!("mounts = [\"{}:/data\"]", source.display()),
    );
    instance.configure(&config("1s", 2, &format!("{held}{}", sleeper())));
    instance.run(&[]);
    instance.wait_status("the other class goes on", PATIENCE, |status| {
        let pilots = status["pilots"].as_array().unwrap();
        pilots.len() == 2
            && pilots
                .iter()
                .all(|pilot| pilot["class"] == "sleeper" && pilot["state"] == "running")
    });
    // One pilot more is allowed than the sleepers may be: only the held class is left.
    instance.configure(&config("1s", 3, &format!("{held}{}max = 2\n", sleeper())));
    instance.signal(Signal::HUP);
    let status = instance.wait_reason("mount-missing");
    let source_text = source.display().to_string();
    assert!(
        status["reason"]["text"]
            .as_str()
            .unwrap()
            .contains(&source_text),
        "{status:#}"
    );
    assert!(!source.exists(), "the engine must not create it");
    assert_eq!(
        instance.containers().len(),
        2,
        "and no container is left of the try"
    );

    fs::create_dir_all(&source).unwrap();
    instance.wait_status("it is there now", PATIENCE, |status| {
        status["pilots"]
            .as_array()
            .unwrap()
            .iter()
            .any(|pilot| pilot["class"] == "held")
    });
}
