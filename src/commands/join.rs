//! `join` and `leave`: a configuration from elsewhere, under the owner's consent. What it asks for is shown before anything
//! is written down, and the daemon learns of it at once. Joining the same address again consents to what it asks by now.

use super::*;
use crate::config::RemoteConfig;

/// Of the lines that somebody else wrote.
const LINE: usize = 500;

pub fn join(context: &Context) -> Done {
    let (config, state) = (context.config()?, &context.dirs.state);
    let (url, mut joined) = (&context.text("URL"), Joined::default());
    let before = remote::read_joined(state).filter(|before| before.url == *url);
    let before = before.unwrap_or_default();
    let key = context.options.text("key").unwrap_or(before.key.clone());
    let usage = |why| Failure(Exit::Usage, why);
    remote::check(url, &key, &config.allow).map_err(usage)?;
    (joined.url, joined.key) = (url.clone(), key);
    let failed = |why: String| format!("{url}: {}; nothing was joined", clean_line(&why, LINE));
    let (text, remote) = remote::fetch(state, &joined, &config).map_err(failed)?;
    let hash = remote::hash(&text);
    say(&format!("{url} ({hash})\n{}", describe(&remote)))?;
    if !before.accepted.is_empty() {
        say(&list("New in it", &before.beyond(&remote)))?;
    }
    if !context.options.has("yes") {
        ask()?;
    }
    joined.accepted = remote.permissions;
    context.dirs.prepare(Path::new("/"))?;
    remote::write_joined(state, &joined)?;
    remote::put_in_force(state, &text)?;
    let daemon = match run::send(&context.dirs.run, Signal::HUP) {
        true => "the daemon takes it over now",
        false => "`plancton start` starts the daemon",
    };
    let text = format!("{url} is joined; {daemon}\n`plancton leave` ends it, at any time\n");
    say(&text)
}

pub fn leave(context: &Context) -> Done {
    let Some(Joined { url, .. }) = remote::read_joined(&context.dirs.state) else {
        return say("nothing is joined\n");
    };
    let failed = |error| format!("{url}: {error}; it is still joined");
    remote::leave(&context.dirs.state).map_err(failed)?;
    run::send(&context.dirs.run, Signal::HUP);
    let pilots = "its pilots that run go on to their end; `plancton kill PILOT` ends one\n";
    let text = format!("{url} is left: nothing more is started for it, and {pilots}");
    say(&text)
}

/// Errors: the owner does not want it, or is not there.
fn ask() -> Done {
    if !std::io::stdin().is_terminal() {
        let text = "stdin is not a terminal; read the above, then use `plancton join --yes`";
        return Err(Failure(Exit::Usage, text.to_owned()));
    }
    say("\njoin? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err("nothing was changed".into()),
    }
}

/// All that a consent is about.
fn describe(remote: &RemoteConfig) -> String {
    let pilots = remote.pilots.iter().map(|pilot| {
        let (name, image) = (&pilot.name, &pilot.image);
        format!("'{name}': {image}, {} cores, {}", pilot.cpus, pilot.memory)
    });
    [
        list("It asks for", &remote.permissions),
        list("It gets, because your [allow] names it", &remote.granted),
        list("It does not get", &remote.refused),
        list("Its pilots", &pilots.collect::<Vec<_>>()),
        list("It makes this machine give less", &remote.lowered),
        "\nYour [share] and [owner] hold for its pilots as for any others. They are told this machine's name and their limits.\n".to_owned(),
    ]
    .concat()
}

fn list(title: &str, lines: &[String]) -> String {
    let line = |line: &String| format!("\n  - {}", clean_line(line, LINE));
    match lines.iter().map(line).collect::<String>().as_str() {
        "" => String::new(),
        lines => format!("\n{title}:{lines}\n"),
    }
}
