//! Real servers for metrics, each with directories and ports of its own, asked with curl: nothing that is under test here
//! takes part in the looking.

use super::*;
use std::net::TcpListener;

/// Free when it was looked for, never given twice, and below the ports that outgoing connections get: another server on
/// it would answer in this one's place.
fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let next =
        || 20_000 + (std::process::id() * 61 + GIVEN.fetch_add(1, Ordering::Relaxed)) % 12_000;
    let mut ports = (0..12_000).map(|_| u16::try_from(next()).unwrap());
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

fn run(command: &mut Command) -> String {
    say(command).must(0, &[]).out
}

fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["-q", "-sS", "--noproxy", "*", "--max-time", "30"])
        .args(arguments);
    command
}

/// A certificate for 127.0.0.1 with its key in one file each.
pub fn certificate(scratch: &Scratch, name: &str) -> (PathBuf, PathBuf) {
    let [cert, key] = ["crt", "key"].map(|ending| scratch.0.join(format!("{name}.{ending}")));
    let words = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    );
    let mut command = Command::new("openssl");
    command
        .args(words.split_whitespace())
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key);
    run(&mut command);
    (cert, key)
}

pub struct Server {
    pub scratch: Scratch,
    pub port: u16,
    command: Vec<String>,
    scheme: &'static str,
    login: Option<&'static str>,
    child: Option<Child>,
}

impl Server {
    /// InfluxDB 1.x; with TLS if there is a certificate, with users if there is a login of an admin (`name:password`).
    pub fn influxdb(is_secure: bool, login: Option<&'static str>) -> Server {
        let (scratch, port) = (Scratch::new(), free_port());
        let base = scratch.0.display().to_string();
        let mut http = format!(
            "bind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\nauth-enabled = {}\n",
            login.is_some()
        );
        if is_secure {
            let (cert, key) = certificate(&scratch, "server");
            http += &format!(
                "https-enabled = true\nhttps-certificate = {cert:?}\nhttps-private-key = {key:?}\n"
            );
        }
        let config = format!(
            "reporting-enabled = false\nbind-address = \"127.0.0.1:{}\"\n[meta]\ndir = \"{base}/meta\"\n\
             [data]\ndir = \"{base}/data\"\nwal-dir = \"{base}/wal\"\nquery-log-enabled = false\n\
             [monitor]\nstore-enabled = false\n[subscriber]\nenabled = false\n[logging]\nlevel = \"error\"\n[http]\n{http}",
            free_port()
        );
        let file = scratch.file("influxdb.toml", config).display().to_string();
        let command = vec![given("PLANCTON_TEST_INFLUXD"), "-config".to_owned(), file];
        let scheme = if is_secure { "https" } else { "http" };
        let mut server = Server {
            scratch,
            port,
            command,
            scheme,
            login,
            child: None,
        };
        server.up();
        if let Some((name, password)) = login.and_then(|login| login.split_once(':')) {
            server.query(
                "",
                &format!("CREATE USER \"{name}\" WITH PASSWORD '{password}' WITH ALL PRIVILEGES"),
            );
        }
        server
    }

    pub fn victoriametrics() -> Server {
        let (scratch, port) = (Scratch::new(), free_port());
        let command = vec![
            given("PLANCTON_TEST_VICTORIAMETRICS"),
            format!("-storageDataPath={}", scratch.0.join("data").display()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
            "-loggerLevel=ERROR".to_owned(),
            "-search.latencyOffset=0s".to_owned(),
            // Otherwise what came last is seen only later.
            "-search.disableCache".to_owned(),
        ];
        let mut server = Server {
            scratch,
            port,
            command,
            scheme: "http",
            login: None,
            child: None,
        };
        server.up();
        server
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub fn up(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.scratch.0.join("server.log"))
            .unwrap();
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .env("HOME", &self.scratch.0)
            .stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let ping = format!("{}/ping", self.url());
        let ping = || say(&mut curl(&["-k", "-o", "/dev/null", &ping])).code == 0;
        assert!(
            becomes(PATIENCE, ping),
            "{:?}: {}",
            self.command,
            self.log()
        );
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.0.join("server.log")).unwrap_or_default()
    }

    /// Ends it as a service manager does; its data stay.
    pub fn down(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if !becomes(PATIENCE, || child.try_wait().unwrap().is_some()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The series of an InfluxQL query; an error of the server fails, but for a database that is not there (yet).
    pub fn query(&self, database: &str, query: &str) -> Vec<Value> {
        let (url, db, q) = (
            format!("{}/query", self.url()),
            format!("db={database}"),
            format!("q={query}"),
        );
        let mut command = curl(&["-k", &url, "--data-urlencode", &db, "--data-urlencode", &q]);
        if let Some(login) = self.login {
            command.args(["-u", login]);
        }
        let answer: Value = serde_json::from_str(&run(&mut command)).unwrap();
        let results = answer["results"]
            .as_array()
            .unwrap_or_else(|| panic!("{query}: {answer}"));
        let is_fine = |why: &str| why.starts_with("database not found");
        assert!(
            results
                .iter()
                .all(|result| result["error"].as_str().is_none_or(is_fine)),
            "{query}: {answer}"
        );
        let series = results
            .iter()
            .filter_map(|result| result["series"].as_array());
        series.flatten().cloned().collect()
    }

    /// The second column of the first row; 0 without rows.
    pub fn number(&self, database: &str, query: &str) -> f64 {
        let series = self.query(database, query);
        series
            .first()
            .and_then(|series| series["values"][0][1].as_f64())
            .unwrap_or(0.0)
    }

    /// What a GET answers.
    pub fn get(&self, path: &str) -> String {
        run(&mut curl(&["-g", &format!("{}{path}", self.url())]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
        if std::thread::panicking() {
            eprintln!("---- log of {:?} ----\n{}", self.command, self.log());
        }
    }
}
