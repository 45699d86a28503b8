//! What was said already: problems are logged when they begin, when their cause changes and when they end, with a count;
//! reasons when they change. `status` shows the problems that hold.

use super::{Remote, Sink, Status};
use crate::decide::{Code, LaunchResult, News};
use crate::units::PilotId;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Told {
    /// By subject: the text, and how often it was met.
    problems: BTreeMap<&'static str, (String, u64)>,
    reason: Option<(Code, super::State)>,
    /// The last failing call, so that one that fails at each tick is told once.
    failed: Option<(PilotId, String)>,
}

impl Told {
    /// `None`: the subject is well again.
    pub fn problem(&mut self, subject: &'static str, text: Option<String>) {
        let before = self.problems.remove(subject);
        match (before, text) {
            (Some((old, count)), Some(text)) => {
                if old != text {
                    log::warn!("{subject}: {text}");
                }
                self.problems.insert(subject, (text, count + 1));
            }
            (None, Some(text)) => {
                log::warn!("{subject}: {text}");
                self.problems.insert(subject, (text, 1));
            }
            (Some((_, count)), None) => log::info!("{subject}: well again (after {count} times)"),
            (None, None) => {}
        }
    }

    pub fn control_problems(&mut self, problems: &[String]) {
        self.problem(
            "control files",
            (!problems.is_empty()).then(|| problems.join("; ")),
        );
    }

    pub fn sinks(&mut self, sinks: &[Sink]) {
        let failing: Vec<String> = sinks
            .iter()
            .filter_map(|sink| Some(format!("{}: {}", sink.url, sink.error.as_ref()?)))
            .collect();
        self.problem("metrics", (!failing.is_empty()).then(|| failing.join("; ")));
    }

    /// What the owner has to know of a configuration from elsewhere.
    pub fn remote(&mut self, remote: Option<&Remote>) {
        let listed = |list: &[String], what: &str| {
            (!list.is_empty()).then(|| format!("{what}: {}", list.join("; ")))
        };
        let waiting = "a newer one asks for more; `plancton join` the same address again to see and accept it";
        self.problem(
            "joined",
            remote.and_then(|remote| listed(&remote.waiting, waiting)),
        );
        self.problem(
            "not granted",
            remote.and_then(|remote| listed(&remote.refused, &remote.url)),
        );
    }

    /// One line each, for `status`.
    pub fn problems(&self) -> Vec<String> {
        self.problems
            .iter()
            .map(|(subject, (text, _))| format!("{subject}: {text}"))
            .collect()
    }

    /// What calls in flight brought back.
    pub fn log_news(&mut self, news: &[News]) {
        for news in news {
            if let News::Failed { id, what } = news {
                let now = Some((id.clone(), what.clone()));
                if now == self.failed {
                    continue;
                }
                self.failed = now;
            }
            log_one(news);
        }
    }

    /// The log line of a tick: only when something is new.
    pub fn log_changes(&mut self, status: &Status, news: &[News]) {
        self.log_news(news);
        let now = (status.reason.code, status.state);
        if self.reason.replace(now) != Some(now) {
            log::info!("{}: {}", status.state.name(), status.reason.text);
        }
    }
}

fn log_one(news: &News) {
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
        } => log::warn!("the image of '{class}': {why}; trying again later"),
        News::Removed {
            name,
            ended: Some(ended),
            ..
        } => {
            let lived = ended.lived.unwrap_or(0.0);
            log::info!(
                "{name} ended after {lived:.0} s with exit code {}",
                ended.exit_code
            );
        }
        News::Removed { .. } | News::Changed(_) => {}
        News::Failed { id, what } => {
            log::warn!("{id}: {what}; decided about again at the next tick")
        }
    }
}
