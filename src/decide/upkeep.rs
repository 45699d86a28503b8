//! What is due whatever the owner does: time limits, the end of a grace, the removal of what has ended.

use super::ends::Cause;
use super::memory::Stopping;
use super::{Action, CREATED_GRACE, Memory, Pilot, PilotState, Tick};

/// A pilot that is gone after less than this, in seconds, may not have worked at all.
const MIN_RUNTIME: f64 = 5.0;

/// Pilots whose time is up, and pilots whose limits do not hold.
pub(super) fn end_expired(tick: &mut Tick, memory: &mut Memory) {
    let refuse = tick.share.missing_limits == crate::config::MissingLimits::Refuse;
    let due: Vec<(Pilot, Cause)> = tick
        .own()
        .filter(|pilot| matches!(pilot.state, PilotState::Running | PilotState::Paused))
        .filter_map(|pilot| match () {
            () if pilot.expiry.is_over(tick.seen.at) => Some((pilot.clone(), Cause::Ttl)),
            () if refuse && pilot.unlimited.is_some() => Some((pilot.clone(), Cause::Unlimited)),
            () => None,
        })
        .collect();
    for (pilot, cause) in due {
        if let (Cause::Unlimited, Some(what)) = (cause, &pilot.unlimited) {
            memory.back_off(&pilot.class, what, tick.now);
        }
        stop(tick, memory, &pilot, cause);
    }
}

/// SIGTERM now and SIGKILL when the pilot's grace is over. The engine's blocking stop is not used.
pub(super) fn stop(tick: &mut Tick, memory: &mut Memory, pilot: &Pilot, cause: Cause) {
    if memory.stopping.contains_key(&pilot.id) {
        return;
    }
    memory.stopping.insert(
        pilot.id.clone(),
        Stopping {
            cause,
            killed: false,
            kill_at: tick.now + pilot.grace,
        },
    );
    tick.actions.push(match pilot.state {
        PilotState::Created => removal(pilot),
        state => Action::Terminate {
            id: pilot.id.clone(),
            paused: state == PilotState::Paused,
        },
    });
}

pub(super) fn kill(tick: &mut Tick, memory: &mut Memory, pilot: &Pilot, cause: Cause) {
    let stopping = memory.stopping.entry(pilot.id.clone()).or_insert(Stopping {
        cause,
        killed: false,
        kill_at: tick.now,
    });
    if !stopping.killed {
        stopping.kill_at = tick.now;
    }
}

/// Sends the SIGKILLs that are due. Repeated each interval while the pilot is still there.
pub(super) fn finish_stopping(tick: &mut Tick, memory: &mut Memory) {
    let interval = tick.config.loop_.interval.as_secs_f64();
    for pilot in tick
        .pilots
        .iter()
        .filter(|pilot| pilot.own && pilot.state.holds_room())
    {
        let Some(stopping) = memory.stopping.get_mut(&pilot.id) else {
            continue;
        };
        if stopping.kill_at > tick.now {
            continue;
        }
        (stopping.killed, stopping.kill_at) = (true, tick.now + interval);
        tick.actions.push(match pilot.state {
            PilotState::Created => removal(pilot),
            state => Action::Kill {
                id: pilot.id.clone(),
                paused: state == PilotState::Paused,
            },
        });
    }
}

/// Own containers that hold no capacity any more, or never will.
pub(super) fn clear_ended(tick: &mut Tick, memory: &mut Memory) {
    for pilot in tick.pilots.iter().filter(|pilot| pilot.own) {
        let starting = memory
            .launching
            .iter()
            .any(|launch| launch.name == pilot.name);
        let stale = tick.seen.at.epoch - pilot.created > CREATED_GRACE;
        let action = match pilot.state {
            PilotState::Exited => {
                let (name, class) = (pilot.name.clone(), pilot.class.clone());
                Action::Remove {
                    id: pilot.id.clone(),
                    name,
                    class,
                }
            }
            PilotState::Dead => removal(pilot),
            PilotState::Created if stale && !starting => removal(pilot),
            _ => continue,
        };
        if memory.is_free(&pilot.id, tick.now) {
            memory.busy.insert(pilot.id.clone(), f64::INFINITY);
            if pilot.state == PilotState::Exited && tick.seen.at.epoch - pilot.created < MIN_RUNTIME
            {
                memory
                    .classes
                    .entry(pilot.class.clone())
                    .or_default()
                    .ended_early
                    .insert(pilot.id.clone());
            }
            tick.actions.push(action);
        }
    }
}

/// It never ran: there is nothing to be told of its end.
fn removal(pilot: &Pilot) -> Action {
    Action::Remove {
        id: pilot.id.clone(),
        name: String::new(),
        class: String::new(),
    }
}
