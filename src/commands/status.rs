//! `status`, `why` and `health`: what the daemon wrote about itself at its last turn.

use super::{Place, fail, run, say, screen, view};
use crate::cli::Exit;
use crate::clock;
use crate::report::Status;
use crate::state::{self, control};
use crate::wait::{Signals, wait};
use std::io::IsTerminal;

/// The status of a daemon that runs, else the exit code for it with a sentence that says what now.
fn read(place: &Place) -> Result<Status, Exit> {
    let dirs = place.addressed();
    match state::read_status(&dirs.run) {
        Ok(Some(status)) if run::is_running(&dirs.run) => Ok(status),
        Ok(_) => {
            let now = clock::now().epoch;
            let asked = control::read(&dirs.state, now).asked;
            if asked.drain.is_some() {
                say(
                    "a drain is in force; a daemon that starts here launches nothing until `plancton resume`\n",
                );
            }
            say(
                "plancton does not run; `plancton start` starts it, `plancton try` shows what it does\n",
            );
            Err(Exit::NotRunning)
        }
        Err(error) => Err(fail(Exit::Failed, error)),
    }
}

pub fn status(place: &Place, json: bool, watch: bool) -> Exit {
    if watch {
        return watch_status(place);
    }
    match read(place) {
        Ok(status) if json => {
            say(&(serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"));
            Exit::Done
        }
        Ok(status) => {
            let whole = view::Screen {
                height: None,
                ..screen()
            };
            say(&view::render(&status, clock::now().epoch, &whole));
            Exit::Done
        }
        Err(exit) => exit,
    }
}

/// Redraws in place once a second; Ctrl-C ends it.
fn watch_status(place: &Place) -> Exit {
    let Ok(mut signals) = Signals::catch() else {
        return fail(Exit::Failed, "no signal handler could be set");
    };
    let mut drawing = Drawing::begin();
    while !signals.wants_end() {
        let status = match read(place) {
            Ok(status) => status,
            Err(exit) => return exit,
        };
        drawing.show(&view::render(&status, clock::now().epoch, &screen()));
        wait(Some(1.0), &mut signals, None, [None; 3]);
    }
    Exit::Done
}

/// A text that is drawn over and over: in place on a terminal, one after the other elsewhere.
pub struct Drawing {
    terminal: bool,
}

impl Drawing {
    pub fn begin() -> Drawing {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            say("\x1b[?25l\x1b[2J");
        }
        Drawing { terminal }
    }

    pub fn show(&mut self, text: &str) {
        if self.terminal {
            // Each line clears what was behind it, so that nothing flickers.
            say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")));
        } else {
            say(&format!("{text}\n"));
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        if self.terminal {
            say("\x1b[?25h");
        }
    }
}

pub fn why(place: &Place) -> Exit {
    match read(place) {
        Ok(status) => {
            say(&view::render_why(&status, clock::now().epoch, &screen()));
            Exit::Done
        }
        Err(exit) => exit,
    }
}

/// Whether the loop turns, whatever the engine does.
pub fn health(place: &Place) -> Exit {
    match read(place) {
        Ok(status) if status.is_stale(clock::now().epoch) => {
            let late = clock::now().epoch - status.tick;
            fail(
                Exit::Failed,
                format!("the loop has not turned for {late:.0} s"),
            )
        }
        Ok(_) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}
