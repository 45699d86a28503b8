//! Many daemons on one machine, each with an engine of its own that is none, beside one real InfluxDB and one web server
//! that publishes what they joined: what a node costs, and what the servers get. Started by `tests/bench.sh fleet`, which
//! shows the daemons made-up cgroups and takes the rows from here; all else they see is the machine's.
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;

use common::influx::Server;
use common::web::WebServer;
use common::{FakeEngine, Scratch, Value, becomes};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Seconds, by default: from metrics to metrics, from list to list, and in which first looks are spread.
const FLUSH: f64 = 30.0;
const TICK: f64 = 10.0;
const FIRST: f64 = 30.0;
/// What a daemon may be late on a machine full of them, in seconds.
const LATE: f64 = 10.0;

fn given(name: &str, usual: f64) -> f64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// For a few nodes that do not care what the machine is used for besides.
fn owner(refresh: f64) -> String {
    format!(
        "[share]\nreserve-cpus = 0\nreserve-memory = \"0\"\nreserve-disk = \"0\"\nmax-pilots = 1\n\
         [owner]\nwhen-busy = \"yield\"\non-battery = \"run\"\nmin-battery = 0\nmax-temperature = 0\n\
         [allow]\nplain-http = true\nrefresh = \"{refresh:.0}s\"\n"
    )
}

fn project(server: &Server, lines: &str) -> String {
    format!(
        "[[pilot]]\nname = \"sci\"\nimage = \"fake:1\"\ncpus = 0.01\nmemory = \"8MiB\"\nnetwork = \"none\"\n{lines}\n\
         [[influxdb]]\nurl = \"{}#fleet\"\n",
        server.url()
    )
}

struct Node {
    engine: FakeEngine,
    directory: PathBuf,
    name: String,
    child: Option<Child>,
}

impl Node {
    fn new(number: usize, scratch: &Scratch, root: &Path, refresh: f64) -> Node {
        let name = format!("n{number:05}");
        let directory = scratch.0.join(&name);
        scratch.file(&format!("{name}/config.toml"), owner(refresh));
        let mut engine = FakeEngine::new(&directory.join("engine.sock"), root);
        engine.world().next_id = (number as u64) << 20;
        engine.up();
        Node {
            engine,
            directory,
            name,
            child: None,
        }
    }

    fn command(&self) -> Command {
        let binary =
            std::env::var("BENCH_BINARY").unwrap_or(env!("CARGO_BIN_EXE_plancton").to_owned());
        let mut command = Command::new(binary);
        command.args(["-q", "--instance", &self.name]);
        command.args([
            "--engine",
            &format!("unix://{}", self.engine.socket.display()),
        ]);
        for (option, file) in [
            ("--config", "config.toml"),
            ("--run-dir", "run"),
            ("--state-dir", "state"),
        ] {
            command.arg(option).arg(self.directory.join(file));
        }
        command.env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .unwrap();
        let child = self
            .command()
            .arg("run")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn terminate(&self) {
        let _ = kill_process(
            Pid::from_raw(self.pid().try_into().unwrap()).unwrap(),
            Signal::TERM,
        );
    }

    fn status(&self) -> String {
        fs::read_to_string(self.directory.join("run/status.json")).unwrap_or_default()
    }

    fn told(&self) -> Value {
        serde_json::from_str(&self.status()).unwrap_or_default()
    }

    /// Of what is in force; empty: not known yet.
    fn hash(&self) -> String {
        self.told()["remote"]["hash"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// User and system time of a process and all its threads, also those that have ended.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// MiB by a line of a file in /proc.
fn mebibytes(pid: u32, file: &str, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let found = text.lines().find_map(|text| {
        text.strip_prefix(line)?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    found.unwrap() / 1024.0
}

/// Totals so far.
#[derive(Clone, Copy)]
struct Totals {
    daemons_cpu: f64,
    database_cpu: f64,
    lists: f64,
    /// Requests to the web server.
    looks: f64,
    /// Requests to the database, and what was in them.
    writes: f64,
    points: f64,
    bytes: f64,
}

struct Fleet {
    nodes: Vec<Node>,
    site: WebServer,
    server: Server,
    refresh: f64,
    #[expect(dead_code, reason = "it is removed last")]
    scratch: Scratch,
}

impl Fleet {
    /// All have joined, none runs.
    fn new(size: usize, refresh: f64) -> Fleet {
        let (server, scratch) = (Server::influxdb(false, None), Scratch::new());
        server.query("", "CREATE DATABASE fleet");
        let site = WebServer::site(&project(&server, ""));
        let root =
            PathBuf::from(std::env::var("FLEET_ROOT").expect("run it with tests/bench.sh fleet"));
        let nodes: Vec<Node> = (0..size)
            .map(|number| Node::new(number, &scratch, &root, refresh))
            .collect();
        for node in &nodes {
            let said = node
                .command()
                .args(["join", "--yes", &site.url()])
                .output()
                .unwrap();
            assert!(said.status.success(), "{said:?}");
        }
        Fleet {
            nodes,
            site,
            server,
            refresh,
            scratch,
        }
    }

    fn size(&self) -> f64 {
        self.nodes.len() as f64
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().map(Node::pid)
    }

    /// What the database counts of its own requests: (requests, points, bytes).
    fn written(&self) -> (f64, f64, f64) {
        let counters: Value = serde_json::from_str(&self.server.get("/debug/vars")).unwrap();
        let (_, http) = counters
            .as_object()
            .unwrap()
            .iter()
            .find(|(key, _)| key.starts_with("httpd"))
            .unwrap();
        let [writes, points, bytes] = ["writeReq", "pointsWrittenOK", "writeReqBytes"]
            .map(|name| http["values"][name].as_f64().unwrap());
        (writes, points, bytes)
    }

    fn totals(&self) -> Totals {
        let (writes, points, bytes) = self.written();
        Totals {
            // Finer than the hundredths of a second in /proc, of which a daemon needs a few a minute.
            daemons_cpu: self
                .nodes
                .iter()
                .map(|node| node.told()["loop"]["cpu_ms"].as_f64().unwrap() / 1e3)
                .sum(),
            database_cpu: cpu_seconds(self.server.pid()),
            lists: self
                .nodes
                .iter()
                .map(|node| node.engine.count_calls("list"))
                .sum::<usize>() as f64,
            looks: self.site.requests().len() as f64,
            writes,
            points,
            bytes,
        }
    }

    /// Every daemon tells what is in force.
    fn wait_for_all(&self) {
        let all = || self.nodes.iter().all(|node| !node.hash().is_empty());
        let silent = || {
            self.nodes
                .iter()
                .filter(|node| node.hash().is_empty())
                .count()
        };
        assert!(
            becomes(Duration::from_secs_f64(2.0 * FLUSH), all),
            "{} daemons say nothing",
            silent()
        );
    }

    /// Seconds from a change until each has it in force, the first one first.
    fn change(&self) -> Vec<f64> {
        let old = self.nodes[0].hash();
        self.site
            .publish(&project(&self.server, "env = { CHANGED = \"1\" }"));
        let (begun, mut reached) = (Instant::now(), Vec::new());
        let mut waiting: Vec<&Node> = self.nodes.iter().collect();
        while !waiting.is_empty() && begun.elapsed().as_secs_f64() < self.refresh + LATE {
            waiting.retain(|node| {
                let status = node.status();
                let has_new = status.contains("\"hash\"") && !status.contains(&old);
                reached.extend(has_new.then(|| begun.elapsed().as_secs_f64()));
                !has_new
            });
            sleep(Duration::from_millis(200));
        }
        assert!(
            waiting.is_empty(),
            "{} daemons have not learned of the change",
            waiting.len()
        );
        reached
    }

    /// All end, and all start again. Seconds of the end, requests to the database during it, and requests to the web server
    /// and the database in each second after it.
    fn restart(&mut self) -> (f64, f64, Vec<f64>, Vec<f64>) {
        let (begun, before) = (Instant::now(), self.written().0);
        self.nodes.iter().for_each(Node::terminate);
        for node in &mut self.nodes {
            node.child.take().unwrap().wait().unwrap();
        }
        let (ended, last) = (begun.elapsed().as_secs_f64(), self.written().0 - before);
        let (begun, mut at) = (Instant::now(), 0.0);
        let (mut looks, mut writes) = (self.site.requests().len() as f64, before + last);
        self.nodes.iter_mut().for_each(Node::start);
        let mut seconds = Vec::new();
        for second in 1..=(FLUSH + 5.0) as u64 {
            sleep(Duration::from_secs(second).saturating_sub(begun.elapsed()));
            let (written, asked, now) = (
                self.written().0,
                self.site.requests().len() as f64,
                begun.elapsed().as_secs_f64(),
            );
            // A busy machine may be late with the look itself.
            seconds.push((
                (asked - looks) / (now - at),
                (written - writes) / (now - at),
            ));
            (looks, writes, at) = (asked, written, now);
        }
        let (looks, writes) = seconds.into_iter().unzip();
        (ended, last, looks, writes)
    }
}

fn row(figure: &str, value: f64, unit: &str, bound: &str, budget: f64) {
    println!("row|{figure}|{value}|{unit}|{bound}|{budget:.4}");
}

fn note(text: &str) {
    println!("note|{text}");
}

/// The most requests in a second when so many come at random within so many seconds: five times the usual deviation.
fn crowd(requests: f64, seconds: f64) -> f64 {
    let mean = requests / seconds;
    1.0 + mean + 5.0 * mean.sqrt()
}

fn report_steady(fleet: &Fleet, before: Totals, after: Totals, window: f64) {
    let (size, minutes) = (fleet.size(), window / 60.0);
    let of = |file: &str, line: &str| {
        fleet
            .pids()
            .map(|pid| mebibytes(pid, file, line))
            .collect::<Vec<_>>()
    };
    let resident = of("status", "VmRSS:");
    let proportional: f64 = of("smaps_rollup", "Pss:").iter().sum();
    let sum: f64 = resident.iter().sum();
    row(
        "resident memory of a daemon, mean",
        sum / size,
        "MiB",
        "at-most",
        2.5,
    );
    row(
        "the largest",
        resident.iter().copied().fold(0.0, f64::max),
        "MiB",
        "at-most",
        3.0,
    );
    note(&format!(
        "all {size} daemons: {sum:.0} MiB resident; {proportional:.0} MiB, {:.2} each, where they share one binary",
        proportional / size
    ));
    let cpu = after.daemons_cpu - before.daemons_cpu;
    let lists = after.lists - before.lists;
    row(
        "engine calls of a daemon a tick",
        lists * TICK / window / size,
        "",
        "at-most",
        1.1,
    );
    // A millisecond a tick, two for what goes over the network.
    let budget = 60.0 / TICK + 2.0 * (60.0 / FLUSH + 60.0 / (0.9 * fleet.refresh));
    row(
        "CPU of a daemon a minute, looks and metrics too",
        1e3 * cpu / minutes / size,
        "ms",
        "at-most",
        budget,
    );
    note(&format!(
        "all daemons: {:.2} % of a core; a list each {TICK} s",
        100.0 * cpu / window
    ));
    let writes = (after.writes - before.writes) / minutes;
    row(
        "requests at InfluxDB a minute and node",
        writes / size,
        "",
        "at-most",
        60.0 / FLUSH * 1.05,
    );
    let (points, bytes) = (
        (after.points - before.points) / minutes,
        (after.bytes - before.bytes) / minutes,
    );
    let database = after.database_cpu - before.database_cpu;
    note(&format!(
        "InfluxDB: {writes:.0} requests, {points:.0} points, {:.0} KiB a minute; {:.1} points and {:.0} bytes a request",
        bytes / 1024.0,
        points / writes,
        bytes / writes
    ));
    let series = &fleet.server.query("fleet", "SHOW SERIES CARDINALITY")[0]["values"][0][0];
    note(&format!(
        "InfluxDB: {:.2} % of a core, {:.2} ms a request, {:.0} MiB resident, {series} series",
        100.0 * database / window,
        1e3 * database / (writes * minutes),
        mebibytes(fleet.server.pid(), "status", "VmRSS:")
    ));
    let looks = (after.looks - before.looks) / minutes;
    let mean = 60.0 / (0.9 * fleet.refresh);
    row(
        "requests at the web server a minute and node",
        looks / size,
        "",
        "at-most",
        mean * 1.2,
    );
    note(&format!(
        "web server: {looks:.0} requests a minute with refresh {} s; by default (1 h): {:.1}",
        fleet.refresh,
        size / 54.0
    ));
}

/// A benchmark of some minutes.
fn main() {
    let (size, refresh) = (given("FLEET", 200.0), given("FLEET_REFRESH", 60.0));
    let mut fleet = Fleet::new(size as usize, refresh);
    let begun = Instant::now();
    fleet.nodes.iter_mut().for_each(Node::start);
    fleet.wait_for_all();
    note(&format!(
        "{size} daemons: all up {:.1} s after the first start",
        begun.elapsed().as_secs_f64()
    ));
    // Every one has sent once and looked once.
    sleep(Duration::from_secs_f64(FLUSH + 5.0).saturating_sub(begun.elapsed()));
    let pilots: usize = fleet
        .nodes
        .iter()
        .map(|node| node.engine.in_state("running").len())
        .sum();
    row(
        "daemons with their pilot",
        pilots as f64,
        "",
        "at-least",
        size,
    );

    let (before, begun) = (fleet.totals(), Instant::now());
    // As many seconds of each node's round as of another's.
    sleep(Duration::from_secs_f64(
        FLUSH * (1.0 + refresh / FLUSH).ceil(),
    ));
    let (after, window) = (fleet.totals(), begun.elapsed().as_secs_f64());
    report_steady(&fleet, before, after, window);

    let reached = fleet.change();
    let (first, median, last) = (
        reached[0],
        reached[reached.len() / 2],
        reached[reached.len() - 1],
    );
    note(&format!(
        "a change reaches the first node after {first:.1} s, half of them after {median:.1} s"
    ));
    row(
        "a change reaches the last node, to refresh",
        last / refresh,
        "times",
        "at-most",
        1.0 + 1.0 / refresh,
    );

    let (ended, last, looks, writes) = fleet.restart();
    fleet.wait_for_all();
    note(&format!(
        "all end at once: within {ended:.1} s, with {last:.0} last requests to InfluxDB"
    ));
    let peak = |requests: &[f64]| requests.iter().copied().fold(0.0, f64::max);
    let spread = FIRST.min(refresh);
    row(
        "all start: most looks at the web server a second",
        peak(&looks),
        "",
        "at-most",
        crowd(size, spread),
    );
    row(
        "all start: most requests at InfluxDB a second",
        peak(&writes),
        "",
        "at-most",
        crowd(size, FLUSH),
    );
    note(&format!("looks by second: {looks:.0?}"));
    note(&format!("requests at InfluxDB by second: {writes:.0?}"));
    let now: usize = fleet
        .nodes
        .iter()
        .map(|node| node.engine.in_state("running").len())
        .sum();
    row(
        "pilots that went on through it",
        now as f64,
        "",
        "at-least",
        pilots as f64,
    );
    let troubles = fleet
        .nodes
        .iter()
        .map(|node| node.told()["problems"].to_string());
    // One user has 128 watches, and may not have them all: then the files are read at each tick.
    let troubles: Vec<String> = troubles
        .filter(|problems| problems != "[]" && !problems.starts_with("[\"control: "))
        .collect();
    troubles
        .first()
        .into_iter()
        .for_each(|problems| note(problems));
    row(
        "daemons that tell of a problem",
        troubles.len() as f64,
        "",
        "at-most",
        0.0,
    );
}
