//! What the owner asks of a running daemon, as files in its control directory: it is woken by them at once.

use super::{Place, fail, remove, run, say, wait_until};
use crate::cli::{Exit, parse_by};
use crate::clock;
use crate::decide::{Drain, Snooze};
use crate::state::{self, StateError, control};
use crate::units::format_rough;
use std::path::Path;
use std::time::Duration;

/// A daemon that does not carry a force-stop out within this time, and so much more a pilot, is not waited for.
const FORCE_STOP_PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_PER_PILOT: Duration = Duration::from_millis(300);

pub fn request_drain(state: &Path, stop: bool, by: Option<f64>) -> Result<(), StateError> {
    control::request_drain(
        state,
        &Drain {
            stop,
            by,
            since: clock::now().epoch,
        },
    )
}

pub fn drain(place: &Place, stop: bool, by: Option<&str>) -> Exit {
    let by = match by
        .map(|text| parse_by(text, &jiff::Zoned::now()))
        .transpose()
    {
        Ok(by) => by,
        Err(error) => return fail(Exit::Usage, error),
    };
    if let Err(exit) = run::control_directory(place) {
        return exit;
    }
    let dirs = place.addressed();
    if let Err(error) = request_drain(&dirs.state, stop, by) {
        return fail(Exit::Failed, error);
    }
    let then = if stop {
        "; the daemon ends with the last one"
    } else {
        ""
    };
    let until = by.map_or(String::new(), |by| {
        let left = Duration::from_secs_f64((by - clock::now().epoch).max(0.0));
        format!("; what still runs in {} is stopped", format_rough(left))
    });
    say(&format!(
        "draining: nothing is started, running pilots may finish{until}{then}\n`plancton resume` ends the drain\n"
    ));
    tell_when_idle(&dirs.run);
    Exit::Done
}

pub fn snooze(place: &Place, duration: Duration) -> Exit {
    if let Err(exit) = run::control_directory(place) {
        return exit;
    }
    let dirs = place.addressed();
    let until = clock::now().epoch + duration.as_secs_f64();
    match control::request_snooze(&dirs.state, &Snooze { until }) {
        Ok(()) => {
            say(&format!(
                "snoozing for {}: pilots are paused, nothing is started\n`plancton resume` ends it sooner\n",
                format_rough(duration)
            ));
            tell_when_idle(&dirs.run);
            Exit::Done
        }
        Err(error) => fail(Exit::Failed, error),
    }
}

pub fn resume(place: &Place) -> Exit {
    if let Err(exit) = run::control_directory(place) {
        return exit;
    }
    let dirs = place.addressed();
    match control::resume(&dirs.state) {
        Ok(()) => {
            say("no drain or snooze is in force any more\n");
            tell_when_idle(&dirs.run);
            Exit::Done
        }
        Err(error) => fail(Exit::Failed, error),
    }
}

fn tell_when_idle(run: &Path) {
    if !run::is_running(run) {
        say("(no daemon runs now; the next one finds it so)\n");
    }
}

/// Every pilot goes now, and the daemon ends. Where no daemon carries it out, this command does.
pub fn force_stop(place: &Place) -> Exit {
    let dirs = place.addressed();
    if run::is_running(&dirs.run) {
        let pilots = state::read_status(&dirs.run)
            .ok()
            .flatten()
            .map_or(0, |status| status.pilots.len());
        let patience =
            FORCE_STOP_PATIENCE + PATIENCE_PER_PILOT * u32::try_from(pilots).unwrap_or(u32::MAX);
        if let Err(error) = control::request_force_stop(&dirs.state) {
            return fail(Exit::Failed, error);
        }
        if wait_until(patience, || !run::is_running(&dirs.run)) {
            say("plancton has removed its pilots and ended\n");
            return Exit::Done;
        }
        super::complain(format!(
            "the daemon has not carried it out within {} s; removing the pilots here",
            patience.as_secs()
        ));
    }
    let exit = remove::remove_own(place, remove::Grace::None);
    if exit == Exit::Done && !run::is_running(&dirs.run) {
        let _ = control::clear(&dirs.state, control::Request::ForceStop);
    }
    exit
}
