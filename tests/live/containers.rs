//! What a pilot is to the engine, and what it sees of itself from inside.

use crate::common::*;

#[track_caller]
fn holds(found: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn limits_and_rights_of_a_plain_pilot() {
    let words = "grep -E '^(Uid|CapBnd|NoNewPrivs)' /proc/self/status; cat /proc/self/oom_score_adj; hostname; echo end; sleep 600";
    let class = pilot("plain", &["sh", "-c", words], "swap = \"8MiB\"");
    let instance = Instance::running(&config("1s", 1, &class));
    let seen = inspect(&instance.wait_one()).unwrap();
    let host = &seen["HostConfig"];
    holds(
        host,
        &json!({
            "NanoCpus": 100_000_000, "Memory": 16 << 20, "PidsLimit": 512, "OomScoreAdj": 1000, "Init": true,
            "CapAdd": [], "SecurityOpt": ["no-new-privileges"], "Privileged": false,
            "NetworkMode": "none", "AutoRemove": false, "ReadonlyRootfs": false,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        }),
    );
    // Podman names what it drops, and keeps the bounds of the log to itself; both are also seen in what they do.
    if !is_podman() {
        let log = json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}});
        holds(host, &json!({"CapDrop": ["ALL"], "LogConfig": log}));
    }
    if get("/info").unwrap()["SwapLimit"] == true {
        assert_eq!(host["MemorySwap"], 24 << 20);
    }
    assert_eq!(seen["Config"]["User"], "65534:65534");
    let said = logs_with(text(&seen["Id"]), "end\n");
    let own = text(&seen["Config"]["Hostname"]);
    let (user, rights) = ("65534\t65534\t65534\t65534", "CapBnd:\t0000000000000000");
    for line in [user, rights, "NoNewPrivs:\t1", "1000\n", own] {
        assert!(said.contains(line), "'{line}' in {said}");
    }
}

#[test]
fn names_labels_and_environment() {
    let more = "ttl = \"2h\"\nstop-grace = \"7s\"";
    let class = pilot("two-words", &["sleep", "600"], more);
    let instance = Instance::running(&config("1s", 1, &class));
    let seen = inspect(&instance.wait_one()).unwrap();
    let (_, id) = text(&seen["Name"])
        .split_once("/plancton-two-words-")
        .unwrap();
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    assert!(id.len() == 6 && id.bytes().all(is_plain), "{id}");
    let hostname = text(&seen["Config"]["Hostname"]);
    let is_named = hostname.starts_with("plancton-") && hostname.ends_with(id);
    assert!(is_named && hostname.len() <= 63, "{hostname}");
    let labels = &seen["Config"]["Labels"];
    let (class, cpus) = ("io.plancton.class", "io.plancton.cpus");
    let expected = json!({LABEL: instance.name, class: "two-words", cpus: "0.1"});
    holds(labels, &expected);
    assert!(text(&labels["io.plancton.version"]).starts_with(|c: char| c.is_ascii_digit()));
    let expires = text(&labels["io.plancton.expires"]);
    let (boot, second) = expires.rsplit_once(':').unwrap();
    assert_eq!(boot, read("/proc/sys/kernel/random/boot_id"));
    let awake = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    let left = second.parse::<i64>().unwrap() - awake;
    let is_near = (7_000..=7_200).contains(&left);
    assert!(is_near, "{left} s are left of two hours");
    let deadline: f64 = text(&labels["io.plancton.deadline"]).parse().unwrap();
    let shown = instance.wait_listed(1)["pilots"][0]["deadline"].as_f64();
    assert!((shown.unwrap() - deadline).abs() < 60.0);
    let env = members(&seen["Config"]["Env"]);
    let deadline = format!("PLANCTON_DEADLINE={deadline:.0}");
    let fixed = "PLANCTON_CLASS=two-words PLANCTON_CPUS=0.1 PLANCTON_MEMORY_BYTES=16777216";
    for word in fixed.split(' ').chain([&*deadline]) {
        assert!(env.contains(&word.into()), "{word} in {env:?}");
    }
}

#[test]
fn what_a_class_asks_for() {
    let mut instance = Instance::new("");
    let [data, out] = ["data", "out"].map(|name| {
        let dir = instance.path(name);
        fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o777);
        dir
    });
    fs::write(data.join("in"), "seen\n").unwrap();
    let words = "cat /data/in >/out/copy; touch /data/x 2>/out/refused; touch /scratch/x /x 2>>/out/refused; \
                 ls -l /dev/nothing >>/out/copy; echo $GREETING >>/out/copy; sleep 600";
    let more = format!(
        "mounts = [\"{}:/data\", \"{}:/out:rw\"]\ntmpfs = [\"/scratch:1MiB\"]\nread-only = true\n\
         devices = [\"/dev/null:/dev/nothing:rw\"]\nenv = {{ GREETING = \"a = b\" }}\nuser = \"1000:1001\"",
        data.display(),
        out.display()
    );
    let class = pilot("rich", &["sh", "-c", words], &more);
    instance.start(&config("1s", 1, &class));
    let seen = inspect(&instance.wait_one()).unwrap();
    let mounts = members(&seen["Mounts"]);
    let are_bound = mounts.iter().all(|mount| mount["Type"] == "bind");
    assert!(mounts.len() == 2 && are_bound, "{mounts:?}");
    until(|| read(out.join("copy")).contains("a = b"));
    let copy = read(out.join("copy"));
    let is_whole = copy.contains("seen") && copy.contains("/dev/nothing");
    assert!(is_whole, "{copy}");
    let refused = read(out.join("refused"));
    assert_eq!(refused.matches("Read-only file system").count(), 2);
    assert!(!data.join("x").exists());
}

/// Every key of a class that the engine is told of: what is written, where `inspect` has it, and as what.
#[test]
fn each_key_is_read_back() {
    const KEYS: &str = r#"entrypoint = ["sleep"] | /Config/Entrypoint | ["sleep"]
        command = ["600"] | /Config/Cmd | ["600"]
        user = "12:34" | /Config/User | "12:34"
        cpus = 0.25 | /HostConfig/NanoCpus | 250000000
        memory = "24MiB" | /HostConfig/Memory | 25165824
        pids = 33 | /HostConfig/PidsLimit | 33
        stop-grace = "3s" | /Config/StopTimeout | 3
        ttl = "1h" | /Config/Labels/io.plancton.class | "k"
        env = { A = "b c" } | /Config/Env | "A=b c"
        mounts = ["/usr:/m:private"] | /Mounts/0/Propagation | "private"
        tmpfs = ["/t:1MiB"] | /HostConfig/Tmpfs/~1t | "rw,nosuid,nodev,exec,mode=1777,size=1048576"
        devices = ["/dev/null:/dev/n:r"] | /HostConfig/Devices/0/CgroupPermissions | "r"
        cap-add = ["CHOWN"] | /HostConfig/CapAdd | ["CHOWN"]
        read-only = true | /HostConfig/ReadonlyRootfs | true
        network = "none" | /HostConfig/NetworkMode | "none"
        host-config = { Ulimits = [{ Name = "nofile", Soft = 64, Hard = 64 }, { Name = "nproc", Soft = 99, Hard = 99 }] } | /HostConfig/Ulimits/0/Hard | 64
        privileged = true | /HostConfig/Privileged | true"#;
    let keys = KEYS.lines().map(|line| line.trim().split(" | "));
    let keys: Vec<Vec<&str>> = keys.map(Iterator::collect).collect();
    let lines = keys.iter().map(|key| format!("{}\n", key[0]));
    let (image, lines) = (image(), lines.collect::<String>());
    let class = format!("[[pilot]]\nname = \"k\"\nimage = \"{image}\"\n{lines}");
    let instance = Instance::running(&config("1s", 1, &class));
    let seen = inspect(&instance.wait_one()).unwrap();
    for key in keys {
        // Podman has other options of a tmpfs, too, and does not say what a privileged pilot has anyway.
        let names = ["tmpfs", "devices", "cap-add"];
        if is_podman() && names.iter().any(|name| key[0].starts_with(name)) {
            continue;
        }
        // The engine may put its own cap_ before a name, and its own variables beside ours.
        let found = seen.pointer(key[1]).cloned().unwrap_or_default();
        let found = found.to_string().replace("CAP_", "");
        let found: Value = serde_json::from_str(&found).unwrap();
        let expected: Value = serde_json::from_str(key[2]).unwrap();
        let is_it = found == expected || members(&found).contains(&expected);
        assert!(is_it, "{} became {found}", key[0]);
    }
    let shown = ["privileged", "CHOWN", "Ulimits"];
    instance.say("check --offline").must(0, &shown);
}

/// What a class may not ask for, by the field's name: it would undo what Plancton promises.
#[test]
fn own_fields_are_refused_by_name() {
    const FIELDS: &str = "NanoCpus CpuQuota CpusetCpus Memory MemorySwap PidsLimit CgroupParent OomScoreAdj \
        OomKillDisable RestartPolicy AutoRemove Labels LogConfig Init Binds Mounts Tmpfs Devices CapAdd CapDrop Privileged \
        NetworkMode ReadonlyRootfs nanocpus";
    let instance = Instance::new("");
    for field in FIELDS.split_whitespace() {
        let raw = format!("host-config = {{ {field} = 1 }}");
        instance.configure(&config("1s", 1, &pilot("p", &["true"], &raw)));
        let said = instance.say("check --offline");
        said.must(78, &[&format!("\"{field}\"")]);
    }
}

#[test]
fn a_missing_mount_holds_its_class() {
    let mut instance = Instance::new("");
    let source = instance.path("not/there");
    let mount = format!("mounts = [\"{}:/data\"]", source.display());
    let held = pilot("held", &["sleep", "600"], &mount);
    instance.start(&config("1s", 2, &format!("{held}{}", sleeper())));
    let number_of = |status: &Value, class: &str| {
        let pilots = members(&status["pilots"]).iter();
        let is_it = |pilot: &&Value| pilot["class"] == class && pilot["state"] == "running";
        pilots.filter(is_it).count()
    };
    instance.wait_status(|status| number_of(status, "sleeper") == 2);
    // One pilot more is allowed than the sleepers may be: only the held class is left.
    instance.reload(&config("1s", 3, &format!("{held}{}max = 2\n", sleeper())));
    instance.wait_reason("mount-missing");
    instance.wait_text(source.to_str().unwrap());
    assert!(!source.exists() && instance.containers().len() == 2);
    fs::create_dir_all(&source).unwrap();
    instance.wait_status(|status| number_of(status, "held") == 1);
}
