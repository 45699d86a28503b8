//! `replay`: what the decision would do with recorded observations, and why.

use super::context::{Context, Done, say};
use crate::act::describe;
use crate::decide::{Observation, PolicyState, decide};
use crate::host::files;
use crate::units::PilotId;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// One line a change: the second since the first observation, the state, the actions, the reason.
pub fn replay(context: &Context) -> Done {
    let config = context.config()?;
    let file = context
        .options
        .argument
        .as_ref()
        .map(Path::new)
        .unwrap_or(Path::new("-"));
    let opened = files::open(file)
        .map_err(|error| format!("{error}; `plancton run --record FILE` writes a recording"))?;
    let mut policy = PolicyState::new(1);
    let (mut first, mut last) = (None, None);
    for (number, line) in BufReader::new(opened).lines().enumerate() {
        let observation = line.map_err(|error| error.to_string());
        let observation = observation.and_then(|line| {
            serde_json::from_str::<Observation>(&line).map_err(|error| error.to_string())
        });
        let place = format!("{}:{}", file.display(), number + 1);
        let observation =
            observation.map_err(|error| format!("{place}: {error}; the replay ends here"))?;
        let seconds = observation.at.boot - *first.get_or_insert(observation.at.boot);
        let decision = decide(&config, &mut policy, &observation);
        policy.forget_launches();
        let now = (decision.state, decision.reason.code);
        if last.replace(now) == Some(now) && decision.actions.is_empty() {
            continue;
        }
        let name = |id: &PilotId| {
            let mut pilots = observation.pilots.iter().flatten();
            let known = pilots.find(|pilot| pilot.id == *id);
            known.map_or(id.to_string(), |pilot| pilot.name.clone())
        };
        let actions = decision.actions.iter().map(|action| describe(action, name));
        let actions = actions.collect::<Vec<_>>().join(", ");
        let actions = if actions.is_empty() {
            "nothing"
        } else {
            &actions
        };
        let (state, reason) = (decision.state.name(), &decision.reason.text);
        say(&format!("{seconds:9.1} s  {state}: {actions} ({reason})\n"))?;
    }
    Ok(())
}
