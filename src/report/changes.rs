//! What is logged: a problem when it begins, when its cause changes and when it ends; the state when it or its reason
//! changes; what became of a pilot. `status` shows the problems that hold.

use super::{Remote, Sink, Status};
use crate::decide::{Code, LaunchResult, News, Pilot, State};
use crate::units::{PilotId, word};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Changes {
    /// By subject: the text, and how often it was met.
    problems: BTreeMap<&'static str, (String, u64)>,
    state: Option<(State, Code)>,
    /// The last failing call, so that one that fails at each tick is logged once.
    failed: Option<(PilotId, String)>,
}

impl Changes {
    /// `None`: the subject is well again.
    pub fn problem(&mut self, subject: &'static str, text: Option<impl ToString>) {
        let (before, count) = self.problems.remove(subject).unwrap_or_default();
        match text.map(|text| text.to_string()) {
            Some(text) => {
                if text != before {
                    log::warn!("{subject}: {text}");
                }
                self.problems.insert(subject, (text, count + 1));
            }
            None if count > 0 => log::info!("{subject}: well again (after {count} times)"),
            None => {}
        }
    }

    /// Several of one subject; none of them: it is well.
    pub fn problem_list(&mut self, subject: &'static str, texts: &[String]) {
        self.problem(subject, (!texts.is_empty()).then(|| texts.join("; ")));
    }

    pub fn sinks(&mut self, sinks: &[Sink]) {
        let failing = sinks
            .iter()
            .filter_map(|sink| Some(format!("{}: {}", sink.url, sink.error.as_ref()?)));
        self.problem_list("metrics", &failing.collect::<Vec<_>>());
    }

    /// What the owner has to know of a configuration from elsewhere.
    pub fn remote(&mut self, remote: Option<&Remote>) {
        let (waiting, refused) = remote.map_or((&[][..], &[][..]), |remote| {
            (&remote.waiting, &remote.refused)
        });
        self.problem_list(
            "joined, and waiting for `plancton join` to be accepted",
            waiting,
        );
        self.problem_list("joined, and not granted", refused);
    }

    /// One line each, for `status`.
    pub fn problems(&self) -> Vec<String> {
        self.problems
            .iter()
            .map(|(subject, (text, _))| format!("{subject}: {text}"))
            .collect()
    }

    pub fn state(&mut self, status: &Status) {
        let now = Some((status.state, status.reason.code));
        if std::mem::replace(&mut self.state, now) != now {
            log::info!("{}: {}", word(status.state), status.reason.text);
        }
    }

    /// What calls in flight brought back.
    pub fn news(&mut self, news: &[News]) {
        for news in news {
            if let News::Failed(id, what) = news {
                let now = Some((id.clone(), what.clone()));
                if std::mem::replace(&mut self.failed, now.clone()) == now {
                    continue;
                }
            }
            log_news(news);
        }
    }
}

fn log_news(news: &News) {
    match news {
        News::Launched { name, result, .. } => match result {
            LaunchResult::Started(id) => log::info!("{name} started ({id})"),
            LaunchResult::NoImage => log::info!("{name}: its image is not here yet"),
            LaunchResult::MountMissing(source) => {
                log::warn!("{name}: {source} is not on this machine; trying again later")
            }
            LaunchResult::Failed(why) | LaunchResult::Lost(why) => {
                log::warn!("{name} was not started: {why}")
            }
        },
        News::Fetched {
            class,
            result: Ok(()),
        } => log::info!("the image of '{class}' is here"),
        News::Fetched {
            class,
            result: Err(why),
        } => {
            log::warn!("the image of '{class}': {why}; trying again later")
        }
        News::Removed(Pilot { name, .. }, Some(ended)) => {
            let (lived, code) = (ended.lived.unwrap_or(0.0), ended.exit_code);
            log::info!("{name} ended after {lived:.0} s with exit code {code}");
        }
        News::Failed(id, what) => {
            log::warn!("{id}: {what}; decided about again at the next tick")
        }
        News::Removed(..) | News::Changed(_) => {}
    }
}
