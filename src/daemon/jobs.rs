//! What jobs bring back, and what becomes of it.

use super::{Daemon, LaunchResult, News, clock};
use crate::config::Config;
use crate::engine::Error;
use crate::executor::Lane;
use crate::history::{Hours, add_hours};
use crate::host::cgroup::Group;
use crate::units::PilotId;

pub(super) enum Finished {
    Looked(Box<Result<super::engine_side::Look, Error>>),
    /// A pilot has ended, as an event says.
    Ended(String),
    EventsEnded,
    /// Where a pilot runs.
    Group(PilotId, Option<Group>),
    /// The parent group.
    Prepared(Result<(), String>),
    /// Or what is still to be written.
    Recorded(Result<(), (Hours, String)>),
    /// The configuration was read again.
    Configured(Box<Result<Config, String>>),
    /// Whether what was joined has changed.
    Fetched(Result<bool, String>),
    News(Option<News>),
}

impl Daemon {
    /// What has come back since the last turn, and signals.
    pub(super) fn take_in(&mut self) {
        for finished in self.executor.finished() {
            match finished {
                Finished::Looked(look) => match *look {
                    Ok(look) => self.looked(look),
                    Err(error) => self.engine_failed(&error),
                },
                Finished::Ended(id) => {
                    self.changed = true;
                    self.engine.ending.push((id, 0));
                }
                Finished::EventsEnded => self.engine.may_be_new = true,
                Finished::Group(id, group) => {
                    self.changed |= group.is_some();
                    self.observer.groups.learn(id, group);
                }
                Finished::Prepared(result) => self.changes.problem("group", result.err()),
                Finished::Recorded(result) => {
                    let (hours, problem) = result.err().unzip();
                    if let Some(history) = &mut self.history {
                        add_hours(&mut history.unwritten, hours.unwrap_or_default());
                    }
                    self.changes.problem("history", problem);
                }
                Finished::Configured(result) => self.configured(*result),
                Finished::Fetched(result) => {
                    if result == Ok(true) {
                        self.adopt();
                    }
                    self.remote
                        .looked(&self.site.dirs.state, &self.start.config);
                    self.changes.problem("remote configuration", result.err());
                }
                Finished::News(news) => {
                    self.changed |= news.is_some();
                    self.swept &= !news.as_ref().is_some_and(leaves_files);
                    self.news.extend(news);
                }
            }
        }
        if self.signals.take_reload() {
            self.reload();
        }
        let (state, now) = (&self.site.dirs.state, clock::now().boot);
        if let Some(job) = self.remote.job(state, &self.start.config, now) {
            self.executor
                .go(Lane::Web, move || Finished::Fetched(job()));
        }
    }

    fn reload(&mut self) {
        self.manager.reloading(clock::now().awake);
        match self.start.config_file.clone() {
            Some(file) => self.executor.go(Lane::File, move || {
                Finished::Configured(Box::new(crate::config::load(&file)))
            }),
            None => self.configured(Ok(self.start.config.clone())),
        }
    }

    fn configured(&mut self, result: Result<Config, String>) {
        let refused = result.as_ref().err();
        let stays = |problems| format!("{problems}; the configuration read last stays in force");
        self.changes.problem("configuration", refused.map(stays));
        if let Ok(config) = result {
            log::info!("the configuration was read again");
            self.start.config = config;
            self.adopt();
        }
        self.manager.ready();
    }
}

/// It may have files of its own, and there may be no pilot whose end takes them back.
fn leaves_files(news: &News) -> bool {
    matches!(
        news,
        News::Launched {
            result: LaunchResult::Lost(_),
            ..
        }
    )
}
