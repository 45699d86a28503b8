//! `join` and `leave`: a configuration from elsewhere, under the owner's consent. What it asks for is shown before anything
//! is written down, and the daemon learns of it at once. Joining the same address again consents to what it asks by now.

use super::context::{Context, Done, Failure, failed, say};
use super::run;
use crate::config::Offer;
use crate::remote::{self, Joined};
use crate::units::{Exit, clean_line};
use std::io::IsTerminal;

/// Of the lines that somebody else wrote.
const LINE: usize = 500;

pub fn join(context: &Context) -> Done {
    let options = &context.options;
    let config = context.config()?;
    let url = options.argument.clone().unwrap_or_default();
    let url = url.to_string_lossy().into_owned();
    let before = remote::read_joined(&context.dirs.state).filter(|before| before.url == url);
    let before = before.unwrap_or_default();
    let key = options.key.clone().unwrap_or(before.key);
    let usage = |why| Failure::new(Exit::Usage, why);
    remote::check_url(&url, &config.allow).map_err(usage)?;
    if !key.is_empty() {
        remote::check_key(&key).map_err(usage)?;
    }
    let joined = Joined {
        url,
        key,
        ..Joined::default()
    };
    let nothing = |why| failed(format!("{}: {why}; nothing was joined", joined.url));
    let fetched = remote::fetch(&joined, &config.allow).map_err(nothing)?;
    let offer = remote::read(&fetched.text, &joined.url, &config).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(|line| clean_line(line, LINE)).collect();
        failed(format!("{}\nnothing was joined", problems.join("\n")))
    })?;
    say(&format!(
        "{} ({})\n",
        joined.url,
        remote::hash(&fetched.text)
    ))?;
    say(&describe(&offer))?;
    if !before.accepted.is_empty() {
        say(&list("New in it", &offer.unaccepted(&before.accepted)))?;
    }
    if !options.yes {
        ask()?;
    }
    let accepted = Joined {
        accepted: offer.asks,
        ..joined
    };
    consent(context, &accepted, &fetched.text).map_err(|failure| as_root(context, failure))
}

fn consent(context: &Context, joined: &Joined, text: &str) -> Done {
    context.prepare()?;
    remote::write_joined(&context.dirs.state, joined)?;
    remote::put_in_force(&context.dirs.state, text)?;
    let daemon = match run::reload(context) {
        true => "the daemon takes it over now",
        false => "`plancton start` starts the daemon",
    };
    say(&format!(
        "{} is joined; {daemon}\n`plancton leave` ends it, at any time\n",
        joined.url
    ))
}

pub fn leave(context: &Context) -> Done {
    let Some(Joined { url, .. }) = remote::read_joined(&context.dirs.state) else {
        return say("nothing is joined\n");
    };
    remote::leave(&context.dirs.state).map_err(|error| {
        as_root(
            context,
            failed(format!("{url}: {error}; it is still joined")),
        )
    })?;
    run::reload(context);
    say(&format!(
        "{url} is left: nothing is started for it any more\nIts pilots that run go on to their end; `plancton kill PILOT` ends one\n"
    ))
}

fn as_root(context: &Context, failure: Failure) -> Failure {
    let text = match context.is_root {
        true => failure.text,
        false => failure.text + " (the machine's daemon is joined by root: use sudo)",
    };
    Failure::new(failure.exit, text)
}

/// Errors: the owner does not want it, or is not there.
fn ask() -> Done {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "stdin is not a terminal; read the above, then use `plancton join --yes`",
        ));
    }
    say("\njoin? [y/N] ")?;
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(failed("nothing was changed")),
    }
}

/// All that a consent is about.
fn describe(offer: &Offer) -> String {
    let pilots = offer.pilots.iter().map(|pilot| {
        let (name, image) = (&pilot.name, &pilot.image);
        format!("'{name}': {image}, {} cores, {}", pilot.cpus, pilot.memory)
    });
    let lists = [
        ("It asks for", offer.asks.clone()),
        (
            "It gets, because your [allow] names it",
            offer.granted.clone(),
        ),
        ("It does not get", offer.refused.clone()),
        ("Its pilots", pilots.collect()),
        ("It makes this machine give less", offer.lowered()),
    ];
    let lists: String = lists
        .iter()
        .map(|(title, lines)| list(title, lines))
        .collect();
    lists
        + "\nYour [share] and [owner] hold for its pilots as for any others. They are told this machine's name and their limits.\n"
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines = lines
        .iter()
        .map(|line| format!("  - {}\n", clean_line(line, LINE)));
    format!("\n{title}:\n{}", lines.collect::<String>())
}
