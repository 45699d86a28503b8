//! `replay`: what the decision would do with recorded observations, and why.

use super::{Place, fail, say};
use crate::act::describe;
use crate::cli::Exit;
use crate::decide::{Memory, Observation, decide};
use crate::units::PilotId;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

/// One line a change: the second since the first observation, the state, the actions, the reason.
pub fn replay(place: &Place, file: &Path) -> Exit {
    let config = match place.config() {
        Ok((config, _)) => config,
        Err(exit) => return exit,
    };
    let reader = match File::open(file) {
        Ok(file) => BufReader::new(file),
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::NotFound => {
                    "no such file; `plancton run --record FILE` writes one".to_owned()
                }
                _ => error.to_string(),
            };
            return fail(Exit::Failed, format!("{}: {why}", file.display()));
        }
    };
    let mut memory = Memory::new(1);
    let (mut first, mut last) = (None, None);
    for (number, line) in reader.lines().enumerate() {
        let read = line.map_err(|error| error.to_string());
        let parsed = read.and_then(|line| {
            serde_json::from_str::<Observation>(&line).map_err(|error| error.to_string())
        });
        let observation = match parsed {
            Ok(observation) => observation,
            Err(error) => {
                let text = format!(
                    "{}:{}: {error}; the replay ends here",
                    file.display(),
                    number + 1
                );
                return fail(Exit::Failed, text);
            }
        };
        let start = *first.get_or_insert(observation.at.boot);
        let decision = decide(&config, &mut memory, &observation);
        memory.forget_launches();
        let now = (decision.state, decision.reason.code);
        if last.replace(now) != Some(now) || !decision.actions.is_empty() {
            let name = |id: &PilotId| {
                let known = observation
                    .pilots
                    .iter()
                    .flatten()
                    .find(|pilot| pilot.id == *id);
                known.map_or(id.to_string(), |pilot| pilot.name.clone())
            };
            let seconds = observation.at.boot - start;
            let actions: Vec<String> = decision
                .actions
                .iter()
                .map(|action| describe(action, name))
                .collect();
            let actions = if actions.is_empty() {
                "nothing".to_owned()
            } else {
                actions.join(", ")
            };
            say(&format!(
                "{seconds:9.1} s  {}: {actions} ({})\n",
                decision.state.name(),
                decision.reason.text
            ));
        }
    }
    Exit::Done
}
