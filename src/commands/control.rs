//! What the owner asks of a running daemon, as files in its control directory: it is woken by them at once.

use super::context::{Context, Done, Failure, all_well, complain, is_running, say, wait_until};
use super::{pilots, run};
use crate::act::images;
use crate::clock;
use crate::decide::{Drain, Snooze};
use crate::state::Dirs;
use crate::state::control::{self, Kept};
use crate::units::{Exit, clean_line, format_rough, parse_duration};
use jiff::civil::Time;
use jiff::{Timestamp, Zoned};
use rustix::process::Signal;
use std::time::Duration;

/// A daemon that does not carry a force-stop out within this time, and so much more a pilot, is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_PER_PILOT: Duration = Duration::from_millis(300);

pub fn drain(context: &Context) -> Done {
    let now = Zoned::now();
    let by = context.options.by.as_ref();
    let by = by.map(|text| parse_by(&clean_line(text, 40), &now));
    let by = by.transpose().map_err(|why| Failure(Exit::Usage, why))?;
    let since = now.timestamp().as_duration().as_secs_f64();
    let stop = context.options.stop;
    let dirs = prepared(context)?;
    let kept = control::request(&dirs, control::DRAIN, &Drain { stop, by, since })?;
    let mut text = "draining: nothing is started, running pilots may finish".to_owned();
    if let Some(by) = by {
        let left = format_rough(Duration::from_secs_f64(by - since));
        text += &format!("; what still runs in {left} is stopped");
    }
    if stop {
        text += "; the daemon ends with the last one";
    }
    say_asked(
        &dirs,
        kept,
        &(text + "\n`plancton resume` ends the drain\n"),
    )
}

pub fn snooze(context: &Context) -> Done {
    let duration = context.options.duration.unwrap_or_default();
    let until = clock::now().epoch + duration.as_secs_f64();
    let dirs = prepared(context)?;
    let kept = control::request(&dirs, control::SNOOZE, &Snooze { until })?;
    let duration = format_rough(duration);
    let text = "pilots are paused, nothing is started\n`plancton resume` ends it sooner";
    say_asked(&dirs, kept, &format!("snoozing for {duration}: {text}\n"))
}

pub fn resume(context: &Context) -> Done {
    let dirs = prepared(context)?;
    control::clear(&dirs, control::DRAIN)?;
    control::clear(&dirs, control::SNOOZE)?;
    say_asked(
        &dirs,
        Kept::Always,
        "no drain or snooze is in force any more\n",
    )
}

/// Whose daemon is asked; one that never ran has no control directory yet.
fn prepared(context: &Context) -> Result<Dirs, Failure> {
    let dirs = context.addressed();
    if dirs == context.dirs && !control::directories(&dirs).iter().any(|path| path.is_dir()) {
        context.prepare()?;
    }
    Ok(dirs)
}

fn say_asked(dirs: &Dirs, kept: Kept, text: &str) -> Done {
    say(text)?;
    if kept == Kept::UntilReboot {
        say("(the disk of the state directory does not take it, so it ends with the next boot)\n")?;
    }
    match is_running(&dirs.run) {
        true => Ok(()),
        false => say("(no daemon is running now; the next one finds it so)\n"),
    }
}

/// Through the daemon where one runs, else right here.
pub fn pull(context: &Context) -> Done {
    let dirs = context.addressed();
    if is_running(&dirs.run) {
        control::request(&dirs, control::PULL, &())?;
        let unless = "unless a rule of the owner's holds pilots back";
        return say(&format!(
            "the daemon looks for newer images now, {unless}\n"
        ));
    }
    let config = context.config()?;
    let site = context.site(&config)?;
    context.prepare()?;
    let mut problems = Vec::new();
    for class in config.pilots.iter().filter(|class| class.is_refreshable()) {
        match images::fetch(&site, &config, class) {
            Ok(()) => say(&format!("{} is here\n", class.image))?,
            Err(why) => problems.push(format!("{}: {why}", class.image)),
        }
    }
    all_well(&problems)
}

/// Every pilot goes now, and the daemon ends. Where no daemon carries it out, this command does.
pub fn force_stop(context: &Context) -> Done {
    let dirs = context.addressed();
    if is_running(&dirs.run) {
        let pilots = context.status().map_or(0, |status| status.pilots.len());
        let patience = PATIENCE + PATIENCE_PER_PILOT * u32::try_from(pilots).unwrap_or(u32::MAX);
        let told = control::request(&dirs, control::FORCE_STOP, &());
        if told.is_ok() && wait_until(patience, || !is_running(&dirs.run)) {
            return say("plancton has removed its pilots and ended\n");
        }
        let late = || "the daemon has not done it in time".to_owned();
        let why = told.err().map_or_else(late, |error| error.to_string());
        if dirs != context.dirs {
            return Err(format!("{why}; root can end it").into());
        }
        complain(&format!("{why}; ending it and removing the pilots here"));
        run::end_daemon(context, &[Signal::TERM, Signal::KILL])?;
    }
    pilots::remove_own(context)?;
    // What is left of the request would end the next daemon; where it could not be written, nothing is.
    let _ = control::clear(&dirs, control::FORCE_STOP);
    Ok(())
}

/// The TIME of `drain --by`, in seconds since 1970: `18:00` (its next occurrence where `now` is), a duration from now, or
/// RFC 3339. Errors: a sentence.
fn parse_by(text: &str, now: &Zoned) -> Result<f64, String> {
    let hint = "write 18:00, a duration such as 2h, or 2030-01-31T18:00:00+01:00";
    let hint = |_| format!("'{text}' is not a time; {hint}");
    let at = if let Ok(duration) = parse_duration(text) {
        now.timestamp() + duration
    } else if let Ok(time) = text.parse::<Time>() {
        let today = now.with().time(time).build().map_err(hint)?;
        let tomorrow = today.tomorrow().map_err(hint)?;
        let next = if today > *now { today } else { tomorrow };
        next.timestamp()
    } else {
        text.parse::<Timestamp>().map_err(hint)?
    };
    if at < now.timestamp() {
        return Err(format!("'{text}' is over already"));
    }
    Ok(at.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now: Zoned = "2026-03-28T20:00:00+01:00[+01:00]".parse().unwrap();
        for (text, expected) in [
            ("21:30", "2026-03-28T21:30:00+01:00"),
            ("18:00", "2026-03-29T18:00:00+01:00"),
            ("20:00", "2026-03-29T20:00:00+01:00"),
            ("06:05", "2026-03-29T06:05:00+01:00"),
            ("2h", "2026-03-28T22:00:00+01:00"),
            ("0", "2026-03-28T20:00:00+01:00"),
            ("2026-04-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            let expected = expected.as_duration().as_secs_f64();
            assert_eq!(parse_by(text, &now), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "tomorrow",
            "24:00",
            "12:60",
            "12:5",
            "-1:00",
            "2026-01-01T00:00:00Z",
        ] {
            assert!(parse_by(bad, &now).is_err(), "{bad}");
        }
    }
}
