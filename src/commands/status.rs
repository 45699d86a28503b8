//! `status`, `why` and `health`: what the daemon wrote about itself at its last turn.

use super::context::{Context, Done, Failure, complain, is_running, say};
use super::view;
use crate::clock;
use crate::report::Status;
use crate::state::{self, control};
use crate::units::Exit;
use crate::wait::{Signals, wait};
use std::io::IsTerminal;

/// The status of a daemon that runs, else the exit code for it with a sentence that says what now.
fn read(context: &Context) -> Result<Status, Failure> {
    let dirs = context.addressed();
    let status = state::read_status(&dirs.run)?;
    if let Some(status) = status.filter(|_| is_running(&dirs.run)) {
        return Ok(status);
    }
    let asked = control::read(&dirs.state, clock::now().epoch).asked;
    if asked.drain.is_some() {
        say(
            "a drain is in force; a daemon that starts here launches nothing until `plancton resume`\n",
        )?;
    }
    say(
        "plancton is not running; `plancton start` starts it, `plancton try` shows what it does\n",
    )?;
    Err(Failure(Exit::NotRunning, String::new()))
}

pub fn status(context: &Context) -> Done {
    if context.options.watch {
        return watch(context);
    }
    let status = read(context)?;
    if context.options.json {
        return say(&(serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"));
    }
    let whole = view::Screen {
        height: None,
        ..screen()
    };
    say(&view::render(&status, clock::now().epoch, &whole))
}

/// Redraws in place once a second; Ctrl-C ends it.
fn watch(context: &Context) -> Done {
    let mut signals = Signals::catch()?;
    let mut drawing = Drawing::begin();
    while !signals.wants_end() {
        let status = read(context)?;
        drawing.show(&view::render(&status, clock::now().epoch, &screen()))?;
        wait(Some(1.0), &mut signals, None, None);
    }
    Ok(())
}

/// What is drawn on: the terminal's size, and colour where it is wanted (`NO_COLOR`).
pub fn screen() -> view::Screen {
    let out = std::io::stdout();
    let terminal = out.is_terminal();
    let size = rustix::termios::tcgetwinsize(&out)
        .ok()
        .filter(|size| terminal && size.ws_col > 0);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == *"dumb");
    view::Screen {
        width: size.map_or(80, |size| size.ws_col),
        height: size.map(|size| size.ws_row),
        colour: if terminal && !plain {
            view::Colour::On
        } else {
            view::Colour::Off
        },
        zone: jiff::tz::TimeZone::system(),
    }
}

/// A text that is drawn over and over: in place on a terminal, one after the other elsewhere.
pub struct Drawing {
    terminal: bool,
}

impl Drawing {
    pub fn begin() -> Drawing {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            let _ = say("\x1b[?25l\x1b[2J");
        }
        Drawing { terminal }
    }

    pub fn show(&mut self, text: &str) -> Done {
        if self.terminal {
            // Each line clears what was behind it, so that nothing flickers.
            say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
        } else {
            say(&format!("{text}\n"))
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        if self.terminal {
            let _ = say("\x1b[?25h");
        }
    }
}

pub fn why(context: &Context) -> Done {
    say(&view::render_why(
        &read(context)?,
        clock::now().epoch,
        &screen(),
    ))
}

/// Whether the loop turns, whatever the engine does.
pub fn health(context: &Context) -> Done {
    let status = read(context).map_err(|failure| {
        complain(&failure.1);
        Failure::from("")
    })?;
    let now = clock::now().epoch;
    match status.is_stale(now) {
        false => Ok(()),
        true => Err(format!("the loop has not turned for {:.0} s", now - status.tick).into()),
    }
}
