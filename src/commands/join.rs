//! `join`, `leave` and `accept`: a configuration from elsewhere, under the owner's consent. What is asked for is shown
//! before it is written down, and the daemon learns of it at once.

use super::view::clean;
use super::{Place, fail, run, say};
use crate::cli::Exit;
use crate::config::{Config, Offer};
use crate::metrics;
use crate::remote::{self, Joined};
use std::fmt::Write as _;
use std::io::IsTerminal;

pub fn join(place: &Place, url: &str, key: Option<&str>, yes: bool) -> Exit {
    let (config, _) = match place.config() {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let is_fine =
        remote::check_url(url, &config.allow).and_then(|()| key.map_or(Ok(()), remote::check_key));
    if let Err(why) = is_fine {
        return fail(Exit::Usage, why);
    }
    let key = key.unwrap_or_default().to_owned();
    let joined = Joined {
        url: url.to_owned(),
        key,
        ..Joined::default()
    };
    let fetched = match remote::fetch(&joined, &config.allow) {
        Ok(fetched) => fetched,
        Err(why) => return fail(Exit::Failed, format!("{url}: {why}; nothing was joined")),
    };
    let offer = match remote::read(&fetched.text, url, &config) {
        Ok(offer) => offer,
        Err(problems) => {
            return fail(
                Exit::Failed,
                clean_lines(&problems) + "\nplancton: nothing was joined",
            );
        }
    };
    say(&describe(place, url, &fetched.text, &offer, &config));
    if let Some(exit) = refused(yes, "join") {
        return exit;
    }
    consent(
        place,
        Joined {
            accepted: offer.asks,
            ..joined
        },
        &fetched.text,
    )
}

/// A newer text that asks for more than was accepted.
pub fn accept(place: &Place, yes: bool) -> Exit {
    let state = &place.dirs.state;
    let (Some(joined), Some(text)) = (remote::read_joined(state), remote::read_waiting(state))
    else {
        say("nothing waits to be accepted\n");
        return Exit::Done;
    };
    let (config, _) = match place.config() {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let offer = match remote::read(&text, &joined.url, &config) {
        Ok(offer) => offer,
        Err(problems) => {
            return fail(
                Exit::Failed,
                clean_lines(&problems) + "\nplancton: what was accepted last stays in force",
            );
        }
    };
    say(&describe(place, &joined.url, &text, &offer, &config));
    say(&list("New in it", &offer.unaccepted(&joined.accepted)));
    if let Some(exit) = refused(yes, "accept") {
        return exit;
    }
    consent(
        place,
        Joined {
            accepted: offer.asks,
            ..joined
        },
        &text,
    )
}

pub fn leave(place: &Place) -> Exit {
    let Some(joined) = remote::read_joined(&place.dirs.state) else {
        say("nothing is joined\n");
        return Exit::Done;
    };
    if let Err(error) = remote::leave(&place.dirs.state) {
        return fail(
            Exit::Failed,
            format!(
                "{}: {error}; it is still joined{}",
                joined.url,
                as_root(place)
            ),
        );
    }
    run::reload(place);
    say(&format!(
        "{} is left: nothing is started for it any more\nIts pilots that run go on to their end; `plancton kill PILOT` ends one\n",
        joined.url
    ));
    Exit::Done
}

fn consent(place: &Place, joined: Joined, text: &str) -> Exit {
    let state = &place.dirs.state;
    let prepared = place.dirs.prepare(std::path::Path::new("/etc/group"));
    let written = prepared.and_then(|()| remote::write_joined(state, &joined));
    if let Err(error) = written.and_then(|()| remote::put_in_force(state, text)) {
        return fail(Exit::Failed, format!("{error}{}", as_root(place)));
    }
    let daemon = match run::reload(place) {
        true => "the daemon takes it over now",
        false => "`plancton start` starts the daemon",
    };
    say(&format!(
        "{} is joined; {daemon}\n`plancton leave` ends it, at any time\n",
        joined.url
    ));
    Exit::Done
}

fn as_root(place: &Place) -> &'static str {
    if place.is_root {
        ""
    } else {
        " (the machine's daemon is joined by root: use sudo)"
    }
}

/// `None`: the owner wants it.
fn refused(yes: bool, command: &str) -> Option<Exit> {
    if yes {
        return None;
    }
    if !std::io::stdin().is_terminal() {
        return Some(fail(
            Exit::Usage,
            format!("nobody is there to ask; read the above, then `plancton {command} --yes`"),
        ));
    }
    say(&format!("\n{command}? [y/N] "));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    let is_yes = read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    (!is_yes).then(|| fail(Exit::Failed, "nothing was changed"))
}

/// All that a consent is about.
fn describe(place: &Place, url: &str, text: &str, offer: &Offer, config: &Config) -> String {
    let mut told = format!("{url} ({})\n", remote::hash(text));
    told += &list("It asks for", &offer.asks);
    told += &list("It gets, because your [allow] names it", &offer.granted);
    told += &list("It does not get", &offer.refused);
    let pilots = offer.pilots.iter();
    let pilots = pilots.map(|pilot| {
        format!(
            "'{}': {}, {} cores, {}",
            pilot.name, pilot.image, pilot.cpus, pilot.memory
        )
    });
    told += &list("Its pilots", &pilots.collect::<Vec<_>>());
    told += &list("It makes this machine give less", &offer.lowered());
    if let Some(sink) = offer.influxdb.first() {
        told +=
            "\nWhat it would be sent, with figures for zeros and each class's name for CLASS:\n";
        for line in metrics::example(&place.instance(config), sink) {
            let _ = writeln!(told, "  {line}");
        }
    }
    told + "\nYour [share] and [owner] hold for its pilots as for any others. They are told this machine's name and their limits.\n"
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines
        .iter()
        .map(|line| format!("  - {}\n", clean(line)))
        .collect();
    format!("\n{title}:\n{lines}")
}

fn clean_lines(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| clean(line))
        .collect::<Vec<_>>()
        .join("\n")
}
