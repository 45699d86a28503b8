//! Real servers for metrics, each with directories and ports of its own, asked with curl: nothing that is under test here
//! takes part in the looking.

use super::*;
use std::net::TcpListener;

/// Free when it was looked for, never given twice, and below the ports that outgoing connections get: another server on
/// it would answer in this one's place.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let given = || std::process::id() * 61 + GIVEN.fetch_add(1, Ordering::Relaxed);
    let mut ports = (0..12_000).map(|_| 20_000 + (given() % 12_000) as u16);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

fn curl(arguments: &[&str]) -> Said {
    let mut command = Command::new("curl");
    command.args(["-q", "-k", "-sS", "--noproxy", "*", "--max-time", "30"]);
    say(command.args(arguments))
}

pub const EC_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A certificate for 127.0.0.1 with its key: NAME.crt and NAME.key.
pub fn certificate(scratch: &Scratch, name: &str) {
    scratch.tool(&format!(
        "openssl req -x509 {EC_KEY} -days 2 -subj /CN={name} -addext subjectAltName=IP:127.0.0.1 \
         -addext basicConstraints=critical,CA:FALSE -out {name}.crt -keyout {name}.key"
    ));
}

pub struct Server {
    pub scratch: Scratch,
    command: String,
    url: String,
    login: &'static str,
    child: Option<Running>,
}

impl Server {
    /// InfluxDB 1.x; with TLS if there is to be a certificate, with users if there is a login of an admin (`name:password`).
    pub fn influxdb(is_secure: bool, login: &'static str) -> Server {
        let (scratch, port) = (Scratch::new(), free_port());
        let base = scratch.0.display().to_string();
        let (mut scheme, mut secure) = ("http", String::new());
        if is_secure {
            certificate(&scratch, "server");
            let files = format!("\"{base}/server.crt\"\nhttps-private-key = \"{base}/server.key\"");
            scheme = "https";
            secure = format!("https-enabled = true\nhttps-certificate = {files}\n");
        }
        let (has_users, inner) = (!login.is_empty(), free_port());
        let config = format!(
            "reporting-enabled = false\nbind-address = \"127.0.0.1:{inner}\"\n[meta]\ndir = \"{base}/meta\"\n\
             [data]\ndir = \"{base}/data\"\nwal-dir = \"{base}/wal\"\nquery-log-enabled = false\n\
             [monitor]\nstore-enabled = false\n[subscriber]\nenabled = false\n[logging]\nlevel = \"error\"\n\
             [http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\nauth-enabled = {has_users}\n{secure}"
        );
        let file = scratch.file("influxdb.toml", config);
        let command = format!(
            "{} -config {}",
            given("PLANCTON_TEST_INFLUXD"),
            file.display()
        );
        let server = Server::start(
            scratch,
            command,
            format!("{scheme}://127.0.0.1:{port}"),
            login,
        );
        if let Some((name, password)) = login.split_once(':') {
            let user = format!("CREATE USER \"{name}\" WITH PASSWORD '{password}'");
            server.query("", &(user + " WITH ALL PRIVILEGES"));
        }
        server
    }

    pub fn victoriametrics() -> Server {
        let (scratch, port) = (Scratch::new(), free_port());
        let program = given("PLANCTON_TEST_VICTORIAMETRICS");
        let data = scratch.0.join("data");
        // Without the last two what came last is seen only later.
        let command = format!(
            "{program} -storageDataPath={} -httpListenAddr=127.0.0.1:{port} -loggerLevel=ERROR \
             -search.latencyOffset=0s -search.disableCache",
            data.display()
        );
        Server::start(scratch, command, format!("http://127.0.0.1:{port}"), "")
    }

    fn start(scratch: Scratch, command: String, url: String, login: &'static str) -> Server {
        let mut server = Server {
            scratch,
            command,
            url,
            login,
            child: None,
        };
        server.up();
        server
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn up(&mut self) {
        let log = log_file(&self.scratch.0.join("server.log"));
        let mut words = self.command.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("HOME", &self.scratch.0);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(Running::new(&mut command));
        let ping = format!("{}/ping", self.url);
        let answers = || curl(&["-o", "/dev/null", &ping]).code == 0;
        assert!(becomes(PATIENCE, answers), "{}", self.log());
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().pid()
    }

    fn log(&self) -> String {
        self.command.clone() + "\n" + &read(self.scratch.0.join("server.log"))
    }

    /// Ends it as a service manager does; its data stay.
    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.signal(Signal::TERM);
            becomes(PATIENCE, || child.has_ended());
        }
    }

    /// The series of an InfluxQL query; an error of the server fails, but for a database that is not there (yet).
    pub fn query(&self, database: &str, query: &str) -> Vec<Value> {
        let (url, db) = (format!("{}/query", self.url), format!("db={database}"));
        let q = format!("q={query}");
        let login = if self.login.is_empty() {
            ":"
        } else {
            self.login
        };
        let data = "--data-urlencode";
        let said = curl(&["-u", login, &url, data, &db, data, &q]);
        let answer = said.must(0, &[]).json();
        let results = members(&answer["results"]);
        let is_fine = |result: &Value| {
            let error = result["error"].as_str();
            error.is_none_or(|why| why.starts_with("database not found"))
        };
        let is_fine = !results.is_empty() && results.iter().all(is_fine);
        assert!(is_fine, "{query}: {answer}");
        let series = results.iter().flat_map(|result| members(&result["series"]));
        series.cloned().collect()
    }

    /// The second column of the first row; 0 without rows.
    pub fn number(&self, database: &str, query: &str) -> f64 {
        let series = self.query(database, query);
        let first = series.first().map(|series| &series["values"][0][1]);
        first.and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// What a GET answers.
    pub fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.url);
        curl(&["-g", &url]).must(0, &[]).out
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
        if std::thread::panicking() {
            eprintln!("---- log of {}", self.log());
        }
    }
}
