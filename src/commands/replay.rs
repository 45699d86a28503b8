//! `replay`: what the decision would do with recorded observations, and why.

use super::context::{Context, Done, failed, say};
use crate::act::describe;
use crate::decide::{Decision, Memory, Observation, decide};
use crate::host::files;
use crate::units::PilotId;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

/// One line a change: the second since the first observation, the state, the actions, the reason.
pub fn replay(context: &Context) -> Done {
    let config = context.config()?;
    let file = PathBuf::from(context.options.argument.clone().unwrap_or_default());
    let opened = files::open(&file).map_err(|error| {
        failed(format!(
            "{error}; `plancton run --record FILE` writes a recording"
        ))
    })?;
    let mut memory = Memory::new(1);
    let (mut first, mut last) = (None, None);
    for (number, line) in BufReader::new(opened).lines().enumerate() {
        let observation = line.map_err(|error| error.to_string()).and_then(|line| {
            serde_json::from_str::<Observation>(&line).map_err(|error| error.to_string())
        });
        let observation = observation.map_err(|error| {
            let place = format!("{}:{}", file.display(), number + 1);
            failed(format!("{place}: {error}; the replay ends here"))
        })?;
        let start = *first.get_or_insert(observation.at.boot);
        let decision = decide(&config, &mut memory, &observation);
        memory.forget_launches();
        let now = (decision.state, decision.reason.code);
        if last.replace(now) != Some(now) || !decision.actions.is_empty() {
            say(&line_of(&decision, &observation, start))?;
        }
    }
    Ok(())
}

fn line_of(decision: &Decision, observation: &Observation, start: f64) -> String {
    let name = |id: &PilotId| {
        let mut pilots = observation.pilots.iter().flatten();
        let known = pilots.find(|pilot| pilot.id == *id);
        known.map_or(id.to_string(), |pilot| pilot.name.clone())
    };
    let actions = decision.actions.iter().map(|action| describe(action, name));
    let actions = match actions.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "nothing".to_owned(),
        actions => actions,
    };
    format!(
        "{:9.1} s  {}: {actions} ({})\n",
        observation.at.boot - start,
        decision.state.name(),
        decision.reason.text
    )
}
