//! Tells the service manager how the daemon is, in datagrams to the socket that it named (sd_notify(3)): ready, reloading,
//! stopping, a status line on change, and a sign of life at half of the watchdog's time. Without such a socket: nothing.

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{ffi::OsStr, os::linux::net::SocketAddrExt, os::unix::ffi::OsStrExt, time::Duration};

#[derive(Default)]
pub struct Manager {
    to: Option<UnixDatagram>,
    /// Seconds between two signs of life; `None`: nobody waits for them.
    beat: Option<f64>,
    /// Boot second of the next one.
    next: f64,
    status: String,
}

impl Manager {
    /// What `variable` says of NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; what cannot be used is as if it were not there.
    pub fn find(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Manager {
        let to = variable("NOTIFY_SOCKET").and_then(|name| connect(&name));
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let limit = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours && to.is_some());
        Manager {
            to,
            beat: limit.map(|micros| Duration::from_micros(micros).as_secs_f64() / 2.0),
            ..Manager::default()
        }
    }

    /// One line for `systemctl status`.
    pub fn status(&mut self, text: String) {
        if self.to.is_some() && self.status != text {
            self.send(&format!("STATUS={}", text.replace('\n', " ")));
            self.status = text;
        }
    }

    /// A sign of life if it is time for one, at this boot second. When the next is due; `None`: never.
    pub fn live(&mut self, now: f64) -> Option<f64> {
        let beat = self.beat?;
        if now >= self.next {
            self.send("WATCHDOG=1");
            self.next = now + beat;
        }
        Some(self.next)
    }

    /// `READY=1`, `RELOADING=1`, `STOPPING=1`. A manager that does not listen is no reason to do anything else.
    pub fn send(&self, text: &str) {
        if let Some(socket) = &self.to {
            let _ = socket.send(text.as_bytes());
        }
    }
}

/// `/path`, or `@name` in the abstract namespace.
fn connect(name: &OsStr) -> Option<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 200];
        let next = || {
            let length = socket.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        std::iter::from_fn(next).collect()
    }

    fn manager(name: &str, watchdog: [&str; 2]) -> Manager {
        let [micros, pid] = watchdog;
        Manager::find(|variable| {
            let value = match variable {
                "NOTIFY_SOCKET" => name,
                "WATCHDOG_USEC" => micros,
                _ => pid,
            };
            Some(value.into()).filter(|_| !value.is_empty())
        })
    }

    #[test]
    fn what_a_manager_hears() {
        let unique = format!("plancton-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&unique);
        let abstract_name = SocketAddr::from_abstract_name(&unique).unwrap();
        for (name, socket) in [
            (path.display().to_string(), UnixDatagram::bind(&path)),
            (
                format!("@{unique}"),
                UnixDatagram::bind_addr(&abstract_name),
            ),
        ] {
            let socket = socket.unwrap();
            let own = std::process::id().to_string();
            for none in [["30000000", "1"], ["0", &own], ["soon", ""]] {
                assert_eq!(manager(&name, none).live(1.0), None, "{name} {none:?}");
            }
            let mut manager = manager(&name, ["30000000", &own]);
            manager.send("READY=1");
            manager.status("waiting: a\nb".to_owned());
            manager.status("waiting: a\nb".to_owned());
            assert_eq!(heard(&socket), ["READY=1", "STATUS=waiting: a b"], "{name}");
            let due = [100.0, 101.0, 115.0].map(|now| manager.live(now));
            assert_eq!(due, [115.0, 115.0, 130.0].map(Some));
            assert_eq!(heard(&socket), ["WATCHDOG=1"; 2], "{name}");
        }
        std::fs::remove_file(&path).unwrap();
        // Nobody listens there, or not by datagrams of this kind.
        for name in [&path.display().to_string(), "", "vsock:2:1"] {
            assert_eq!(manager(name, ["30000000", ""]).live(1.0), None, "{name}");
        }
    }
}
