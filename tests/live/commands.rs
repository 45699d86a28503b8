//! What the owner asks for, and their rules. The interval of commands is so long that only the command itself can be what
//! woke the loop.

use crate::common::*;

const INTERVAL: &str = "40s";

#[test]
fn drain_resume_and_snooze_take_effect_at_once() {
    let instance = Instance::running(&config(INTERVAL, 3, &sleeper()));
    let pilots = instance.wait_running(3);
    let all_are =
        |state: &str| instance.wait_containers(|list| list.len() == 3 && are(list, state));
    instance.say("drain").must(0, &["plancton resume"]);
    instance.wait_for("/state", "draining");
    instance.done("resume");
    instance.wait_for("/state", "active");
    instance.say("snooze 1h").must(0, &["plancton resume"]);
    all_are("paused");
    instance.done("resume");
    all_are("running");
    // One that ends by itself, whatever a busy engine makes of it meanwhile.
    let start = epoch();
    instance.say("snooze 3s").must(0, &["3s"]);
    instance.wait_for("/state", "snoozed");
    instance.say("status").must(0, &["plancton resume"]);
    instance.wait_for("/state", "active");
    assert!(epoch() - start >= 2.5);
    all_are("running");
    assert_eq!(instance.running_ids(), pilots, "the same pilots as before");
}

#[test]
fn a_drain_launches_nothing_and_survives_a_restart() {
    let mut instance = Instance::running(&config("1s", 2, &sleeper()));
    let pilots = instance.wait_running(2);
    instance.done("drain");
    instance.wait_for("/state", "draining");
    let (first, second) = (pilots.first().unwrap(), pilots.last().unwrap());
    instance.done(&format!("kill {}", &first[..12]));
    instance.wait_containers(|list| list.len() == 1);
    assert_eq!(instance.end(), 0);
    let how = ["drain", "plancton resume"];
    instance.say("status").must(3, &how);
    instance.run("");
    instance.wait_status(|status| {
        status["reason"]["code"] == "drain" && !status["cpus"]["foreign"].is_null()
    });
    stays(seconds(2.0), || instance.containers());
    let said = instance.done("status").out;
    let first_line = said.lines().next().unwrap();
    assert!(first_line.contains("plancton resume"), "{first_line}");
    instance.done("resume");
    assert!(instance.wait_running(2).contains(second));
}

#[test]
fn drain_stop_ends_the_daemon_with_the_last_pilot() {
    let mut instance = Instance::running(&config(INTERVAL, 2, &sleeper()));
    let pilots = instance.wait_running(2);
    instance.done("drain --stop");
    instance.wait_for("/state", "draining");
    for (number, id) in pilots.iter().enumerate() {
        assert!(!instance.has_ended(), "with {number} of 2 pilots gone");
        kill(id);
        instance.wait_containers(|list| list.len() == 1 - number);
    }
    assert_eq!(instance.wait_end(), 0);
    // It is carried out, and so consumed.
    assert!(!instance.path("state/control/drain").exists());
    instance.run("");
    instance.wait_running(2);
}

#[test]
fn drain_by_stops_what_still_runs_then() {
    let mut instance = Instance::running(&config(INTERVAL, 2, &sleeper()));
    instance.wait_running(2);
    let start = epoch();
    instance.done("drain --by 2s");
    instance.wait_none();
    assert!(epoch() - start >= 1.9);
    let status = instance.wait_count("drained", 2);
    assert_eq!(status["state"], "draining");
    assert!(!instance.has_ended(), "without --stop the daemon stays");
}

#[test]
fn force_stop_removes_every_pilot_and_ends_the_daemon() {
    // A TERM would not do.
    let mut instance = Instance::running(&config(INTERVAL, 3, &stubborn("stop-grace = \"5m\"")));
    instance.wait_running(3);
    instance.done("force-stop");
    assert_eq!(instance.wait_end(), 0);
    assert_eq!(instance.containers(), []);
    assert!(!instance.path("state/control/force-stop").exists());
    // Without a daemon the command does it.
    instance.run("");
    instance.wait_running(3);
    instance.crash();
    instance.say("force-stop").must(0, &["3 pilots"]);
    assert_eq!(instance.containers(), []);
}

#[test]
fn kill_ends_one_pilot_of_ours() {
    let instance = Instance::running(&config(INTERVAL, 2, &sleeper()));
    let other = Instance::running(&config(INTERVAL, 1, &sleeper()));
    let (pilots, theirs) = (instance.wait_running(2), other.wait_one());
    let name = instance.containers()[0].name.clone();
    let kill = |name: &str| instance.say(&format!("kill {name}"));
    kill(&name).must(0, &[&name]);
    instance.until(|| instance.running_ids() != pilots);
    for wrong in ["plancton-nobody-000000", &theirs[..12], "a"] {
        kill(wrong).must(1, &[wrong]);
    }
    assert_eq!(other.wait_one(), theirs);
    let after = instance.wait_running(2);
    let same = after.intersection(&pilots).count();
    assert_eq!(same, 1, "another one takes its place");
}

#[test]
fn hold_files_and_programs_hold_pilots_back() {
    let rules = "[owner]\nstarve-limit = \"4s\"\npause-while-running = [\"plancton-game\"]";
    let text = config("1s", 2, &sleeper()).replace("[owner]", rules);
    let instance = Instance::running(&text);
    instance.wait_running(2);
    let all_are =
        |state: &str| instance.wait_containers(|list| !list.is_empty() && are(list, state));
    // A fifo in place of a file is no reason, and nothing that a reader would hang on.
    let why = "electricity is expensive until 20:00";
    let hold = instance.file("run/inhibit.d/price.hold", format!("{why}\nmore"));
    make_fifo(&instance.path("run/inhibit.d/a.hold"));
    instance.wait_reason("hold");
    instance.wait_text(why);
    all_are("paused");
    fs::remove_file(hold).unwrap();
    all_are("running");
    instance.done("health");

    let game = instance.path("plancton-game");
    fs::copy("/bin/sleep", &game).unwrap();
    let game = Running::new(Command::new(game).arg("600"));
    instance.wait_reason("program");
    // Paused for the starve-limit they hold memory for nothing.
    instance.wait_none();
    instance.wait_count("owner", 2);
    drop(game);
    instance.wait_running(2);
}

#[test]
fn a_disk_below_its_reserve_stops_the_youngest_and_starts_nothing() {
    let text = config("1s", 3, &sleeper());
    let mut instance = Instance::running(&text);
    instance.wait_running(3);
    instance.reload(&text.replace("reserve-disk = \"64MiB\"", "reserve-disk = \"900TiB\""));
    instance.wait_reason("disk");
    instance.wait_none();
    stays(seconds(3.0), || instance.containers().len());
    assert_eq!(instance.end(), 0);
}

/// All instances of one binary share one image, so that this is one test.
#[test]
fn the_builtin_pilot_computes_and_leaves_no_trace() {
    let class = pilot("builtin", &["pilot", "--for", "2s"], "read-only = true");
    let class = class.replace(&image(), "builtin").replace("0.1", "0.15");
    let instance = Instance::running(&config("1s", 1, &class));
    let status = instance.wait_count("done", 1);
    let mut gone = members(&status["gone"]).iter();
    let done = gone.find(|gone| gone["kind"] == "done").unwrap();
    let log = format!("log {}", done["name"].as_str().unwrap());
    check_result(&instance, &instance.done(&log).out);
    let image = read(instance.path("state/images"));
    instance.say("purge --dry-run").must(0, &[&image]);
    assert!(image.starts_with("plancton-builtin:") && image_id(&image).is_some());
    instance.done("purge");
    assert_eq!((instance.containers(), image_id(&image)), (vec![], None));
    assert!(!instance.path("run").exists() && !instance.path("state").exists());
    instance.done("purge");

    let instance = Instance::new(&config("1s", 1, &class));
    let temporary = instance.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = instance.command("try --for 30s");
    command.env("TMPDIR", &temporary);
    // Where others take every core for as long as that, it says so with 1, and is tried again.
    let trying = std::thread::spawn(move || {
        let mut tries = (0..5).map(|_| say(&mut command));
        tries.find(|said| said.code != 1).expect("a free moment")
    });
    let name = || {
        let place = fs::read_dir(&temporary).ok()?.next()?.ok()?;
        Some(place.file_name().to_str()?.replace("plancton-", ""))
    };
    let mut names = BTreeSet::new();
    until(|| {
        names.extend(name());
        names.iter().any(|name| !containers(name).is_empty())
    });
    let said = trying.join().unwrap().must(0, &[]);
    check_result(&instance, &said.out);
    assert!(!said.out.contains('\x1b'));
    assert!(names.iter().all(|name| containers(name).is_empty()));
    assert_eq!(image_id(&image), None);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

/// A `result:` line is true if counting its window again gives the same line.
#[track_caller]
fn check_result(instance: &Instance, text: &str) {
    let mut lines = text.lines().filter_map(|line| line.split_once("result: "));
    let line = lines.next().expect(text).1;
    let number = |name: &str| {
        let mut words = line.split(' ').filter_map(|word| word.strip_prefix(name));
        words.next().unwrap()
    };
    assert!(number("primes=").parse::<u64>().unwrap() > 0, "{line}");
    let again = format!("pilot --from {} --to {}", number("from="), number("to="));
    instance.say(&again).must(0, &[line]);
}
