//! Many daemons on one machine, each with an engine of its own that is none, beside one real InfluxDB and one web server
//! that publishes what they joined: what a node costs, and what the servers get. Started by `tests/bench.sh fleet`, which
//! shows the daemons made-up cgroups and takes the rows from here; all else they see is the machine's.
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;

use common::influx::Server;
use common::web::WebServer;
use common::*;
use std::thread::sleep;

/// Seconds, by default: from metrics to metrics, from list to list, and in which first looks are spread.
const FLUSH: f64 = 30.0;
const TICK: f64 = 10.0;
const FIRST: f64 = 30.0;
/// What a daemon may be late on a machine full of them, in seconds.
const LATE: f64 = 10.0;

fn number(name: &str, usual: f64) -> f64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// For a few nodes that do not care what the machine is used for besides.
fn owner(refresh: f64, most: u64) -> String {
    format!(
        "[share]\nreserve-cpus = 0\nreserve-memory = \"0\"\nreserve-disk = \"0\"\nmax-pilots = {most}\n\
         [owner]\nwhen-busy = \"yield\"\non-battery = \"run\"\nmin-battery = 0\nmax-temperature = 0\n\
         [allow]\nplain-http = true\nrefresh = \"{refresh:.0}s\"\n"
    )
}

fn project(server: &Server, lines: &str) -> String {
    let class =
        "name = \"sci\"\nimage = \"fake:1\"\ncpus = 0.01\nmemory = \"8MiB\"\nnetwork = \"none\"";
    let url = server.url();
    format!("[[pilot]]\n{class}\n{lines}\n[[influxdb]]\nurl = \"{url}#fleet\"\n")
}

/// A process whose group is a made-up one, in the namespace of this benchmark.
fn hold(root: &Path) -> Running {
    let holder = Running::new(Command::new("sleep").arg("infinity"));
    let group = format!("proc/{}/cgroup", holder.pid());
    let made_up = root.join(&group);
    fs::create_dir_all(made_up.parent().unwrap()).unwrap();
    fs::write(&made_up, "").unwrap();
    let mut mount = Command::new("mount");
    mount.arg("--bind").arg(made_up).arg(format!("/{group}"));
    say(&mut mount).must(0, &[]);
    holder
}

/// A node, and the process that its pilots share.
fn node(number: u64, config: &str, groups: &Path) -> (Machine, Running) {
    let name = format!("n{number:05}");
    let mut node = Machine::shown(&name, Scratch::new(), "/".into(), groups);
    let holder = hold(groups);
    node.configure(config);
    node.engine.world().next_id = number << 20;
    node.engine.world().holder = holder.pid().into();
    node.engine.world().memory = (mebibytes("meminfo", "MemTotal:") * 1024.0 * 1024.0) as u64;
    node.engine.up();
    (node, holder)
}

/// Of what is in force; empty: not known yet.
fn hash(node: &Machine) -> String {
    let hash = &node.status()["remote"]["hash"];
    hash.as_str().unwrap_or_default().to_owned()
}

/// MiB by a line of a file in /proc.
fn mebibytes(file: impl std::fmt::Display, line: &str) -> f64 {
    let text = read(format!("/proc/{file}"));
    let found = text.lines().find_map(|text| text.strip_prefix(line));
    let number = found.unwrap().split_whitespace().next().unwrap();
    number.parse::<f64>().unwrap() / 1024.0
}

/// Totals so far.
#[derive(Clone, Copy)]
struct Totals {
    daemons_cpu: f64,
    database_cpu: f64,
    lists: f64,
    /// Requests to the web server.
    looks: f64,
    /// Requests to the database, and the points and bytes in them.
    written: [f64; 3],
}

struct Fleet {
    nodes: Vec<Machine>,
    site: WebServer,
    server: Server,
    refresh: f64,
    _holders: Vec<Running>,
}

impl Fleet {
    /// All have joined, none runs.
    fn new(size: u64, refresh: f64) -> Fleet {
        let server = Server::influxdb(false, "");
        server.query("", "CREATE DATABASE fleet");
        let site = WebServer::site(&project(&server, ""));
        let (root, owner) = (given("FLEET_ROOT"), owner(refresh, 1));
        let nodes = (0..size).map(|number| node(number, &owner, root.as_ref()));
        let (nodes, holders): (Vec<Machine>, Vec<Running>) = nodes.unzip();
        for node in &nodes {
            node.done(&format!("join --yes {}", site.url()));
        }
        Fleet {
            nodes,
            site,
            server,
            refresh,
            _holders: holders,
        }
    }

    fn sum(&self, of: impl Fn(&Machine) -> f64) -> f64 {
        self.nodes.iter().map(of).sum()
    }

    fn start(&mut self) {
        for node in &mut self.nodes {
            node.run_as("-q run", "");
        }
    }

    fn pilots(&self) -> f64 {
        self.sum(|node| node.pilots().len() as f64)
    }

    fn looks(&self) -> f64 {
        self.site.requests().len() as f64
    }

    /// What the database counts of its own requests: requests, points, bytes.
    fn written(&self) -> [f64; 3] {
        let counters: Value = serde_json::from_str(&self.server.get("/debug/vars")).unwrap();
        let mut counters = counters.as_object().unwrap().iter();
        let (_, http) = counters.find(|(key, _)| key.starts_with("httpd")).unwrap();
        let names = ["writeReq", "pointsWrittenOK", "writeReqBytes"];
        names.map(|name| http["values"][name].as_f64().unwrap())
    }

    fn totals(&self) -> Totals {
        Totals {
            // Finer than the hundredths of a second in /proc, of which a daemon needs a few a minute.
            daemons_cpu: self.sum(|node| node.status()["loop"]["cpu_ms"].as_f64().unwrap() / 1e3),
            database_cpu: cpu_ticks(self.server.pid()) as f64 / 100.0,
            lists: self.sum(|node| node.engine.count_calls("list") as f64),
            looks: self.looks(),
            written: self.written(),
        }
    }

    /// Every daemon tells what is in force.
    fn wait_for_all(&self) {
        let silent = || self.sum(|node| f64::from(u8::from(hash(node).is_empty())));
        let is_so = becomes(seconds(2.0 * FLUSH), || silent() == 0.0);
        assert!(is_so, "{} daemons say nothing", silent());
    }

    /// Seconds from a change until each has it in force, the first one first.
    fn change(&self) -> Vec<f64> {
        let old = hash(&self.nodes[0]);
        let text = project(&self.server, "env = { CHANGED = \"1\" }");
        self.site.publish(&text);
        let (begun, mut reached) = (Instant::now(), Vec::new());
        let mut waiting: Vec<&Machine> = self.nodes.iter().collect();
        while !waiting.is_empty() && begun.elapsed() < seconds(self.refresh + LATE) {
            waiting.retain(|node| {
                let is_new = !["", &old].contains(&&*hash(node));
                reached.extend(is_new.then(|| begun.elapsed().as_secs_f64()));
                !is_new
            });
            sleep(seconds(0.2));
        }
        let late = waiting.len();
        assert_eq!(late, 0, "have not learned of the change");
        reached
    }

    /// All end, and all start again. Seconds of the end, requests to the database during it, and requests to the web server
    /// and the database in each second after it.
    fn restart(&mut self) -> (f64, f64, Vec<f64>, Vec<f64>) {
        let (begun, before) = (Instant::now(), self.written()[0]);
        self.nodes.iter().for_each(|node| node.signal(Signal::TERM));
        for node in &mut self.nodes {
            node.wait_end();
        }
        let (ended, mut writes) = (begun.elapsed().as_secs_f64(), self.written()[0]);
        let (last, mut looks) = (writes - before, self.looks());
        let (begun, mut at) = (Instant::now(), 0.0);
        self.start();
        let (mut looks_by_second, mut writes_by_second) = (Vec::new(), Vec::new());
        for second in 1..=(FLUSH + 5.0) as u64 {
            sleep(Duration::from_secs(second).saturating_sub(begun.elapsed()));
            let (written, asked) = (self.written()[0], self.looks());
            // A busy machine may be late with the look itself.
            let now = begun.elapsed().as_secs_f64();
            looks_by_second.push((asked - looks) / (now - at));
            writes_by_second.push((written - writes) / (now - at));
            (looks, writes, at) = (asked, written, now);
        }
        (ended, last, looks_by_second, writes_by_second)
    }
}

fn row(figure: &str, value: f64, unit: &str, bound: &str, budget: f64) {
    println!("row|{figure}|{value}|{unit}|{bound}|{budget:.4}");
}

fn most(figure: &str, value: f64, unit: &str, budget: f64) {
    row(figure, value, unit, "at-most", budget);
}

/// The most requests in a second when so many come at random within so many seconds: five times the usual deviation.
fn crowd(requests: f64, seconds: f64) -> f64 {
    let mean = requests / seconds;
    1.0 + mean + 5.0 * mean.sqrt()
}

fn highest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, f64::max)
}

fn report_memory(fleet: &Fleet, size: f64) {
    let resident = |node: &Machine| mebibytes(format!("{}/status", node.pid()), "VmRSS:");
    let sum = fleet.sum(resident);
    let largest = highest(fleet.nodes.iter().map(resident));
    most("resident memory of a daemon, mean", sum / size, "MiB", 2.5);
    most("the largest", largest, "MiB", 3.0);
    let shared = fleet.sum(|node| mebibytes(format!("{}/smaps_rollup", node.pid()), "Pss:"));
    println!("note|all {size} daemons: {sum:.0} MiB; {shared:.0} MiB where they share one binary");
}

fn report_steady(fleet: &Fleet, before: Totals, after: Totals, window: f64) {
    let (size, minutes, refresh) = (fleet.nodes.len() as f64, window / 60.0, fleet.refresh);
    report_memory(fleet, size);
    let calls = (after.lists - before.lists) * TICK / window / size;
    most("engine calls of a daemon a tick", calls, "", 1.1);
    // A millisecond a tick, two for what goes over the network.
    let budget = 60.0 / TICK + 2.0 * (60.0 / FLUSH + 60.0 / (0.9 * refresh));
    let cpu = after.daemons_cpu - before.daemons_cpu;
    let figure = "CPU of a daemon a minute, looks and metrics too";
    most(figure, 1e3 * cpu / minutes / size, "ms", budget);
    let share = 100.0 * cpu / window;
    println!("note|all daemons: {share:.2} % of a core; a list each {TICK} s");
    let [writes, points, bytes] =
        [0, 1, 2].map(|at| (after.written[at] - before.written[at]) / minutes);
    let figure = "requests at InfluxDB a minute and node";
    most(figure, writes / size, "", 60.0 / FLUSH * 1.05);
    println!("note|InfluxDB: {writes:.0} requests, {points:.0} points, {bytes:.0} bytes a minute");
    let database = after.database_cpu - before.database_cpu;
    let (share, each) = (
        100.0 * database / window,
        1e3 * database / (writes * minutes),
    );
    let resident = mebibytes(format!("{}/status", fleet.server.pid()), "VmRSS:");
    let series = &fleet.server.query("fleet", "SHOW SERIES CARDINALITY")[0]["values"][0][0];
    println!("note|InfluxDB: {share:.2} % of a core, {each:.2} ms a request, {resident:.0} MiB");
    println!("note|InfluxDB: {series} series");
    let looks = (after.looks - before.looks) / minutes;
    let budget = 60.0 / (0.9 * refresh) * 1.2;
    let figure = "requests at the web server a minute and node";
    most(figure, looks / size, "", budget);
    let usual = size / 54.0;
    println!("note|web server: {looks:.0} requests a minute; with refresh as usual: {usual:.1}");
}

fn report_change(fleet: &Fleet) {
    let reached = fleet.change();
    let (first, median) = (reached[0], reached[reached.len() / 2]);
    println!("note|a change reaches the first after {first:.1} s, half after {median:.1} s");
    let (last, refresh) = (highest(reached), fleet.refresh);
    let figure = "a change reaches the last node, to refresh";
    most(figure, last / refresh, "times", 1.0 + 1.0 / refresh);
}

fn report_restart(fleet: &mut Fleet) {
    let (size, spread) = (fleet.nodes.len() as f64, FIRST.min(fleet.refresh));
    let (ended, last, looks, writes) = fleet.restart();
    fleet.wait_for_all();
    println!("note|all end at once: within {ended:.1} s, with {last:.0} last requests to InfluxDB");
    println!("note|looks by second: {looks:.0?}");
    println!("note|requests at InfluxDB by second: {writes:.0?}");
    let figure = "all start: most looks at the web server a second";
    most(figure, highest(looks), "", crowd(size, spread));
    let figure = "all start: most requests at InfluxDB a second";
    most(figure, highest(writes), "", crowd(size, FLUSH));
}

/// The idle group of a daemon, as cgroup v1 shows it.
const IDLE: &str = "cpu/plancton/cpu.idle 1|cpu/plancton/cpu.shares 2|cpuacct/plancton/cpuacct.usage 0|\
    memory/plancton/memory.limit_in_bytes 0|memory/plancton/memory.stat total_rss 0\ntotal_shmem 0";

/// What a tick costs beside so many pilots of one engine, all adopted.
fn many(pilots: u64, budget: f64) {
    let config = format!(
        "[loop]\ninterval = \"1s\"\n{}[[pilot]]\nname = \"sci\"\nimage = \"fake:1\"\nnetwork = \"none\"\n",
        owner(600.0, pilots)
    );
    let groups = PathBuf::from(given("FLEET_ROOT"));
    let (mut node, _holder) = node(pilots, &config, &groups);
    node.engine.world().parent = "plancton";
    for (file, text) in IDLE.split('|').filter_map(|file| file.split_once(' ')) {
        let file = groups.join("sys/fs/cgroup").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    for number in 0..pilots {
        let labels = [
            (LABEL, node.name.as_str()),
            ("io.plancton.class", "sci"),
            ("io.plancton.cpus", "0.0001"),
        ];
        let name = format!("plancton-{number}");
        node.engine.add(&name, "running", 60.0, &labels);
    }
    node.run_as("-q run", "");
    node.wait_listed(pilots as usize);
    let cost = || {
        let status = node.status();
        let number = |name: &str| status["loop"][name].as_f64().unwrap();
        (number("cpu_ms"), status["tick"].as_f64().unwrap())
    };
    sleep(seconds(15.0));
    assert_eq!(node.status()["protection"]["level"], "verified");
    let before = cost();
    sleep(seconds(30.0));
    let after = cost();
    let each = (after.0 - before.0) / (after.1 - before.1);
    most(
        &format!("CPU a tick at {pilots} pilots"),
        each,
        "ms",
        budget,
    );
    let resident = mebibytes(format!("{}/status", node.pid()), "VmRSS:");
    let budget = 6.0 * pilots as f64 / 1e3;
    most(
        &format!("resident memory at {pilots} pilots"),
        resident,
        "MiB",
        budget,
    );
    row(
        "pilots that went on",
        node.pilots().len() as f64,
        "",
        "at-least",
        pilots as f64,
    );
}

/// A benchmark of some minutes.
fn main() {
    if std::env::args().any(|argument| argument == "many") {
        many(1_000, 5.0);
        return many(5_000, 30.0);
    }
    let (size, refresh) = (number("FLEET", 200.0), number("FLEET_REFRESH", 60.0));
    let mut fleet = Fleet::new(size as u64, refresh);
    let begun = Instant::now();
    fleet.start();
    fleet.wait_for_all();
    let up = begun.elapsed().as_secs_f64();
    println!("note|{size} daemons: all up {up:.1} s after the first start");
    // Every one has sent once and looked once.
    sleep(seconds(FLUSH + 5.0).saturating_sub(begun.elapsed()));
    let pilots = fleet.pilots();
    row("daemons with their pilot", pilots, "", "at-least", size);

    let (before, begun) = (fleet.totals(), Instant::now());
    // As many seconds of each node's round as of another's.
    sleep(seconds(FLUSH * (1.0 + refresh / FLUSH).ceil()));
    let (after, window) = (fleet.totals(), begun.elapsed().as_secs_f64());
    report_steady(&fleet, before, after, window);
    report_change(&fleet);
    report_restart(&mut fleet);
    let figure = "pilots that went on through it";
    row(figure, fleet.pilots(), "", "at-least", pilots);
    // One user has 128 watches, and may not have them all: then the files are read at each tick.
    let troubles = fleet.nodes.iter().map(|node| node.problems());
    let is_trouble = |problems: &String| problems != "[]" && !problems.starts_with("[\"control: ");
    let troubles: Vec<String> = troubles.filter(is_trouble).collect();
    if let Some(problems) = troubles.first() {
        println!("note|{problems}");
    }
    let figure = "daemons that tell of a problem";
    most(figure, troubles.len() as f64, "", 0.0);
}
