//! What others write, broken in a million ways: whatever is read here never panics, never hangs and stays small. The same
//! inputs at each run; `PLANCTON_FUZZ_RUNS` and `PLANCTON_FUZZ_SEED` ask for more (tests/hard.sh fuzz).

#![allow(clippy::cast_possible_truncation)]

use crate::act::credentials;
use crate::config::{self, Config, Image, PilotClass, parse, read_remote};
use crate::decide::{Observation, PolicyState, decide};
use crate::engine::Engine;
use crate::host::tests::Tree;
use crate::host::{self, cgroup};
use crate::observe::Observer;
use crate::site::{Site, read_facts};
use crate::state::{self, Dirs, control};
use crate::units::{Moment, PilotId, clean_text, parse_cpu_list};
use crate::{history, remote};
use serde_json::json;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// One input that takes longer hangs (who runs this ends what never ends); a busy machine stands still for some seconds.
const LONGEST: Duration = Duration::from_secs(20);
/// Bytes of an input.
const MOST: usize = 256 << 10;
/// What breaks readers: edges of numbers, ends of texts, deep and wrong kinds.
const WORDS: &str = "0 -1 1e308 -1e309 NaN inf 18446744073709551615 18446744073709551616 -9223372036854775808 \
    4294967296 65536 0.0000001 null true {} [] \"\" \" ''' [[ [[pilot]]\n \\u0000 \u{202e} \0 \n \r\n : = , - / .. %n é \
    9999-12-31T23:59:60Z 99999999d 16EiB ffffffffffffffff\r\n 0-4294967295 max";
/// How many there are, and of them numbers.
const MANY: usize = 42;
const NUMBERS: usize = 12;

/// Deterministic (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % limit.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn word(&mut self, among: usize) -> &'static str {
        let number = self.below(among);
        WORDS.split(' ').nth(number).unwrap_or("\n")
    }

    fn broken(&mut self, seed: &str) -> Vec<u8> {
        let mut bytes = seed.as_bytes().to_vec();
        for _ in 0..=self.below(6) {
            let from = self.below(bytes.len() + 1);
            let to = (from + self.below(24)).min(bytes.len());
            let flipped = bytes.get(from).unwrap_or(&0) ^ 1 << self.below(8);
            let is_digit = |at: &usize| bytes[*at].is_ascii_digit();
            let mut rest = from..bytes.len();
            let number = rest.find(is_digit).unwrap_or(bytes.len());
            let behind = rest.find(|at| !is_digit(at)).unwrap_or(bytes.len());
            let (place, other) = match self.below(7) {
                0 => (from..bytes.len(), Vec::new()),
                1 => (from..to, Vec::new()),
                2 => (from..to, self.word(MANY).into()),
                3 => (from..from, self.word(MANY).into()),
                4 => (from..from, bytes[from..to].repeat(1 + self.below(200))),
                5 => (number..behind, self.word(NUMBERS).into()),
                _ => (from..bytes.len().min(from + 1), vec![flipped]),
            };
            bytes.splice(place, other);
        }
        bytes.truncate(MOST);
        bytes
    }
}

fn given(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `share`: of the runs that are asked for, one in so many, for what is slower.
fn fuzz(name: &str, share: u64, seeds: &[&str], mut read: impl FnMut(&[u8], &mut Random)) {
    let runs = given("PLANCTON_FUZZ_RUNS", 2_000).div_ceil(share);
    let mut random = Random(given("PLANCTON_FUZZ_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    for run in 0..runs {
        let whole = seeds.get(run as usize).map(|seed| seed.as_bytes().to_vec());
        let input = whole.unwrap_or_else(|| {
            let seed = *random.one(seeds);
            random.broken(seed)
        });
        let start = Instant::now();
        let end = catch_unwind(AssertUnwindSafe(|| read(&input, &mut random)));
        slowest = slowest.max(start.elapsed());
        let is_well = end.is_ok() && slowest < LONGEST;
        assert!(is_well, "{name}, run {run}: {}", input.escape_ascii());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = host::files::find_number(&status, "VmHWM").unwrap_or(0);
    let (ms, slowest) = (begun.elapsed().as_millis(), slowest.as_millis());
    println!("fuzz {name}: {runs} executions in {ms} ms, slowest {slowest} ms, peak {peak} kB");
}

const CONFIG: &str =
    "[owner]\npause-while-running = [\"game\"]\n[[pilot]]\nname = \"a\"\nimage = \"p\"\n";
/// One with every key, one with a joined text's.
const CONFIGURATIONS: [&str; 3] = [
    include_str!("../tests/golden/whole.toml"),
    include_str!("../tests/fuzz/joined.toml"),
    CONFIG,
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn configuration() {
    for seed in CONFIGURATIONS {
        parse(seed, "c").unwrap();
    }
    fuzz("configuration", 2, &CONFIGURATIONS, |input, random| {
        if let Ok(config) = parse(&text(input), "c") {
            config.effective(random.below(9) as u8, random.below(1_500) as u16);
            let _ = parse(&config.to_toml(), "again");
        }
        let words = clean_text(&text(input), random.below(100));
        let _ = (Image::parse(&words), parse_cpu_list(&words));
    });
}

#[test]
fn joined_texts() {
    let allow = "[allow]\nmounts = [\"/cvmfs\"]\nfiles = [\"/etc/token\"]\n";
    let local = parse(allow, "c").unwrap();
    fuzz("joined text", 2, &CONFIGURATIONS, |input, random| {
        let input = text(input);
        let _ = config::read_serial(&input);
        if let Ok(found) = read_remote(&input, "https://a.example/p.toml", &local) {
            let both = local.with(&found);
            both.effective(random.below(7) as u8, random.below(1_440) as u16);
            let reserve = |config: &Config| config.effective(0, 600).0.reserve_memory;
            assert!(reserve(&both) >= reserve(&local));
        }
    });
}

/// What an engine answers, `@` for an id: lists, single objects, streams, refusals; and a log.
const ANSWERS: &str = include_str!("../tests/fuzz/answers.txt");
const LOG: &str = "\u{1}\0\0\0\0\0\0\u{5}hello\u{2}\0\0\0\0\0\0\u{3}err";

/// Whole answers, each body with a good and with another status and in both framings.
fn framed() -> Vec<String> {
    let head = "Api-Version: 1.41\r\nServer: Fake\r\n";
    let statuses = "201 Created|404 None|409 Conflict|500 Oops|304 Same".split('|');
    let framed = ANSWERS.lines().chain([LOG]).zip(statuses.cycle());
    let framed = framed.flat_map(|(body, status)| {
        let body = body.replace('@', ID);
        let length = body.len();
        let long = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
        [
            format!("HTTP/1.1 {status}\r\n{long}"),
            format!("HTTP/1.1 200 OK\r\n{long}"),
            format!("HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n{chunks}"),
        ]
    });
    framed.collect()
}

#[test]
fn engine_answers() {
    let tree = Tree::new(&[("archive", "1234")]);
    let socket = tree.path("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let next: Arc<Mutex<Vec<u8>>> = Arc::default();
    let says = Arc::clone(&next);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut request = BufReader::new(connection.unwrap());
            let mut line = String::from("head");
            while line.trim() != "" {
                line.clear();
                request.read_line(&mut line).unwrap();
            }
            let _ = request.get_mut().write_all(&says.lock().unwrap());
        }
    });
    let engine = Engine::new(&socket, Duration::from_secs(10));
    let seeds = framed();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let id = PilotId::new(ID).unwrap();
    let reference = Image::parse("p:1").unwrap();
    let file = std::fs::File::open(tree.path("archive")).unwrap();
    fuzz("engine answers", 2, &seeds, |input, random| {
        *next.lock().unwrap() = input.to_vec();
        match random.below(14) {
            0 => drop(engine.list()),
            1 => drop(engine.inspect(&id)),
            2 => drop(engine.create("p", json!({}))),
            3 => drop(engine.start(&id)),
            4 => drop(engine.kill(&id, "TERM")),
            5 => drop(engine.remove(&id)),
            6 => drop(engine.logs(&id, 20, 8_192)),
            7 => drop(engine.image("p:1")),
            8 => drop(engine.import("p", "1", &[], b"tar")),
            9 => drop(engine.load(&file, 4)),
            10 => drop(engine.pull(&reference, Some("e30="), &mut |_, _, _| Ok(()))),
            11 => drop(engine.follow_events(&mut |_| ())),
            12 => drop((engine.tell(&id, "pause"), engine.image_remove("p"))),
            _ => drop(read_facts(&engine, tree.root(), true)),
        }
    });
}

/// Path and content of what is read on a machine: the kernel's, the owner's and our own that somebody else may have written.
/// `|` is the end of a line, `^` a zero and `@` an id.
const FILES: &str = include_str!("../tests/fuzz/machine.txt");

/// The whole way from the files of a machine, one of them broken at a time, to a decision.
#[test]
fn machines() {
    let text = FILES.replace('@', ID).replace('^', "\0");
    let entries = text.lines().filter_map(|line| line.split_once(' '));
    let entries: Vec<(&str, &str)> = entries.collect();
    let tree = Tree::new(&[]);
    let put = |(name, text): (&str, &str)| tree.put(name, text.replace('|', "\n"));
    entries.iter().for_each(|entry| put(*entry));
    let mode = Permissions::from_mode(0o600);
    std::fs::set_permissions(tree.path("auth.json"), mode).unwrap();
    let dirs = Dirs {
        run: tree.path("run"),
        state: tree.path("state"),
        ..Dirs::machine()
    };
    let class = PilotClass {
        auth_file: tree.path("auth.json").display().to_string(),
        image: Image::parse("reg.example:5000/a/p:1").unwrap(),
        ..PilotClass::default()
    };
    let engine = Arc::new(Engine::new(tree.path("none"), Duration::from_secs(1)));
    let mut site = Site::new(engine, dirs.clone(), "t".to_owned(), "1".to_owned());
    site.root = tree.root().to_owned();
    let site = Arc::new(site);
    let config = parse(CONFIG, "c").unwrap();
    let (mut observer, mut policy) = (Observer::new(&site.root), PolicyState::new(1));
    let seeds: Vec<&str> = entries.iter().map(|(_, content)| *content).collect();
    let id = PilotId::new(ID).unwrap();
    fuzz("files", 4, &seeds, |input, random| {
        let (name, content) = *random.one(&entries);
        // A broken line is several, and none, too.
        let broken = String::from_utf8_lossy(input).replace('|', "\n");
        tree.put(name, &broken);
        if random.below(8) == 0 {
            observer = Observer::new(&site.root);
        }
        let second = random.below(100_000) as f64;
        let at = Moment {
            awake: second,
            boot: second,
            epoch: 1_700_000_000.0 + second,
        };
        let seen = Observation {
            at,
            pilots: Some(Vec::new()),
            ..Observation::default()
        };
        let seen = observer.observe(&site, seen, None, &config);
        decide(&config, &mut policy, &seen);
        let group = cgroup::group_of_pid(tree.root(), 7, &id);
        let _ = group.map(|group| (group.read_limits(), group.read_usage_seconds()));
        host::boot_id(tree.root());
        host::group_id(tree.root(), "plancton");
        let drain = control::read(&dirs, at, "b").0.drain;
        assert!(drain.is_some() || name == "state/control/drain" && broken == "false");
        let _ = credentials::read(&class);
        let _ = history::read(&dirs.state);
        let _ = state::read_images(&dirs.state);
        remote::read_joined(&dirs.state);
        state::read_pulled(&dirs.state, 20_000);
        put((name, content));
    });
}

#[test]
fn recordings() {
    let scenario = include_str!("../tests/scenarios/game.jsonl");
    let more = include_str!("../tests/scenarios/disk-fills.jsonl");
    let seeds: Vec<&str> = scenario.lines().chain(more.lines()).collect();
    let config = parse(CONFIG, "c").unwrap();
    let mut policy = PolicyState::new(1);
    fuzz("recordings", 1, &seeds, |input, _| {
        if let Ok(seen) = serde_json::from_slice::<Observation>(input) {
            let decision = decide(&config, &mut policy, &seen);
            assert!(decision.wake_in.is_none_or(|seconds| seconds > 0.0));
        }
    });
}
