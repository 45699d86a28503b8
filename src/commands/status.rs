//! `status`, `why` and `health`: what the daemon wrote about itself at its last turn.

use super::context::{Context, Done, Failure, complain, is_running, say};
use super::view::{self, Screen};
use crate::clock;
use crate::host::boot_id;
use crate::report::Status;
use crate::state::control;
use crate::units::Exit;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// The status of a daemon that runs, else the exit code for it with a sentence that says what now.
fn read(context: &Context) -> Result<Status, Failure> {
    let dirs = context.addressed();
    let status = Status::read(&dirs.run)?;
    if let Some(status) = status.filter(|_| is_running(&dirs.run)) {
        return Ok(status);
    }
    let requests = control::read(&dirs, clock::now(), &boot_id(Path::new("/")));
    if requests.asked.drain.is_some() {
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
    let mut screen = Screen::of_terminal();
    screen.height = None;
    say(&view::render(&status, &screen))
}

pub fn why(context: &Context) -> Done {
    let status = read(context)?;
    say(&view::render_why(&status, &Screen::of_terminal()))
}

/// Whether the loop turns, whatever the engine does.
pub fn health(context: &Context) -> Done {
    let status = read(context).map_err(|failure| {
        complain(&failure.1);
        Failure::from("")
    })?;
    let now = clock::now();
    if status.is_stuck(now) {
        let late = now.awake - status.turning.awake;
        return Err(format!("the loop has not got on for {late:.0} s").into());
    }
    Ok(())
}

/// Redraws in place once a second, until a signal, its terminal or its reader ends it.
fn watch(context: &Context) -> Done {
    loop {
        let status = read(context)?;
        redraw(&view::render(&status, &Screen::of_terminal()))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Draws a text over the last one on a terminal, and below it elsewhere.
pub fn redraw(text: &str) -> Done {
    if std::io::stdout().is_terminal() {
        // Each line clears what was behind it, so that nothing flickers.
        return say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")));
    }
    say(&format!("{text}\n"))
}
