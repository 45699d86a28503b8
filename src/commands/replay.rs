//! `replay`: what the decision would do with recorded observations, and why.

use super::context::{Context, Done, say};
use crate::act::describe;
use crate::decide::{Observation, PolicyState, decide};
use crate::host::files;
use crate::units::word;
use std::io::BufReader;
use std::path::PathBuf;

/// One line a change: the second since the first observation, the state, the actions, the reason.
pub fn replay(context: &Context) -> Done {
    let config = context.config()?;
    let file = PathBuf::from(context.options.argument.clone().unwrap_or_default());
    let opened = files::open(&file)
        .map_err(|error| format!("{error}; `plancton run --record FILE` writes a recording"))?;
    let mut policy = PolicyState::new(1);
    let (mut first, mut last) = (None, None);
    let recording = serde_json::Deserializer::from_reader(BufReader::new(opened));
    for observation in recording.into_iter::<Observation>() {
        let shown = file.display();
        let observation =
            observation.map_err(|error| format!("{shown}: {error}; the replay ends here"))?;
        let seconds = observation.at.boot - *first.get_or_insert(observation.at.boot);
        let decision = decide(&config, &mut policy, &observation);
        policy.forget_launches();
        let now = (decision.state, decision.reason.code);
        if last.replace(now) == Some(now) && decision.actions.is_empty() {
            continue;
        }
        let actions = decision.actions.iter().map(describe);
        let actions = actions.collect::<Vec<_>>().join(", ");
        let actions = if actions.is_empty() {
            "nothing"
        } else {
            &actions
        };
        let (state, reason) = (word(decision.state), &decision.reason.text);
        say(&format!("{seconds:9.1} s  {state}: {actions} ({reason})\n"))?;
    }
    Ok(())
}
