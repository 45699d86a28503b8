//! Turns one line of the engine's list into a pilot, by its labels. What cannot be read errs towards leaving it alone.

use crate::decide::{Expiry, Pilot, PilotState};
use crate::engine::{Labels, Listed};
use crate::units::float;

/// Of a pilot without a deadline of any kind, seconds after it was created.
const USUAL_TTL: f64 = 86_400.0;
/// Longer than any grace that a configuration may ask for, in seconds.
const LONGEST_GRACE: f64 = 3_600.0;

pub fn read_pilot(listed: &Listed, instance: &str, boot_id: &str) -> Pilot {
    let labels = &listed.labels;
    // Unknown is doubtful, and what is doubtful is not over.
    let created = listed.created.unwrap_or(f64::INFINITY);
    let name = listed
        .names
        .first()
        .map_or("", |name| name.trim_start_matches('/'));
    let number = |text: &Option<String>| {
        let number = text.as_deref().and_then(|text| text.parse::<f64>().ok());
        number.filter(|number| number.is_finite())
    };
    Pilot {
        id: listed.id.clone(),
        name: if name.is_empty() {
            listed.id.to_string()
        } else {
            name.to_owned()
        },
        class: labels.class.clone().unwrap_or_default(),
        image: listed.image.clone(),
        own: labels.instance.as_deref() == Some(instance),
        state: match listed.state.as_str() {
            "created" => PilotState::Created,
            "running" => PilotState::Running,
            "paused" => PilotState::Paused,
            "exited" | "stopped" => PilotState::Exited,
            "dead" => PilotState::Dead,
            "removing" => PilotState::Removing,
            _ => PilotState::Other,
        },
        created,
        expiry: expiry(labels, created, boot_id),
        // One core, so that room is never given twice.
        cpus: number(&labels.cpus)
            .filter(|cpus| *cpus > 0.0)
            .unwrap_or(1.0),
        memory: labels
            .memory
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        grace: number(&labels.grace)
            .unwrap_or(10.0)
            .clamp(0.0, LONGEST_GRACE),
        used: None,
        unlimited: None,
    }
}

/// `BOOT_ID:SECONDS` of this boot's awake clock, else the epoch second of the deadline label, else `created` plus a day.
fn expiry(labels: &Labels, created: f64, boot_id: &str) -> Expiry {
    let of_boot = labels
        .expires
        .as_deref()
        .and_then(|text| text.rsplit_once(':'));
    let of_boot = of_boot.filter(|(boot, _)| !boot.is_empty() && *boot == boot_id);
    if let Some(second) = of_boot.and_then(|(_, second)| second.parse::<u64>().ok()) {
        return Expiry::Awake(float(second));
    }
    let deadline = labels
        .deadline
        .as_deref()
        .and_then(|text| text.parse::<u64>().ok())
        .map(float);
    Expiry::Epoch(deadline.unwrap_or(created + USUAL_TTL))
}
