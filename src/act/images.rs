//! Brings images here, and takes away those that were replaced: what came with us goes with us, as soon as nobody uses it.

use super::{builtin, credentials};
use crate::config::{Config, PilotClass};
use crate::engine::Outcome;
use crate::host::files;
use crate::site::{Pull, Site};
use crate::units::{Bytes, whole};
use crate::{clock, state};
use std::collections::BTreeMap;
use std::path::Path;

/// What containers of a class are created from.
pub fn name(class: &PilotClass, builtin_tag: &str) -> String {
    match class.image.is_builtin() {
        true => builtin::name(builtin_tag),
        false => class.image.to_string(),
    }
}

/// Brings the image of a class here. What was not here before is written down before it comes, so that a crash in between
/// leaves a name too many there and never an image that nobody removes.
pub fn fetch(site: &Site, config: &Config, class: &PilotClass) -> Result<(), String> {
    let (engine, state) = (&site.engine, &site.dirs.state);
    let text = |error: crate::engine::Error| error.to_string();
    let image = name(class, &site.builtin_tag);
    let remember = |image: &str| state::add_image(state, image).map_err(|error| error.to_string());
    let before = engine.image(&image).map_err(text)?;
    if before.is_some() && class.image.is_builtin() {
        return Ok(());
    }
    let known = state::read_images(state).map_err(|error| error.to_string())?;
    let is_ours = before.is_none() || known.contains(&image);
    if is_ours {
        remember(&image)?;
    }
    let brought = bring(site, config, class, &image);
    if brought.is_err() && before.is_none() {
        let _ = state::remove_image(state, &image);
    }
    brought?;
    let now = engine.image(&image).map_err(text)?;
    let now = now.ok_or_else(|| format!("{image} is not in what was brought"))?;
    if let Some(old) = before.filter(|old| old.id != now.id) {
        // Of a name that the owner had before, what was fetched is ours all the same, and what was there is not.
        remember(if is_ours { &old.id } else { &now.id })?;
        log::info!("{image}: new pilots use the new image, the old one goes with its last pilot");
    }
    tidy(site, config);
    Ok(())
}

fn bring(site: &Site, config: &Config, class: &PilotClass, name: &str) -> Result<(), String> {
    let engine = &site.engine;
    if class.image.is_builtin() {
        let tar =
            builtin::archive().map_err(|why| format!("our own binary can't be read: {why}"))?;
        let tag = &site.builtin_tag;
        let made = engine.import(builtin::REPOSITORY, tag, &builtin::CHANGES, &tar);
        return made.map_err(|error| error.to_string());
    }
    if !class.image_archive.is_empty() {
        let archive = Path::new(&class.image_archive);
        let file = files::open(archive).map_err(|error| format!("image-archive {error}"))?;
        let length = file.metadata().map_or(0, |found| found.len());
        let loaded = engine.load(&file, length);
        return loaded.map_err(|error| error.to_string());
    }
    let auth = credentials::read(class)?;
    let pulled = pull(site, config, class, name, auth.as_deref());
    site.set_pull(None);
    pulled
}

fn pull(
    site: &Site,
    config: &Config,
    class: &PilotClass,
    name: &str,
    auth: Option<&str>,
) -> Result<(), String> {
    let day = whole(clock::now().epoch / 86_400.0);
    let today = state::read_pulled(&site.dirs.state, day);
    let per_day = config.share.pull_per_day.0;
    let bounded = |bytes: u64| match per_day > 0 && bytes > per_day {
        true => Err(format!(
            "pull-per-day ({}) is used up; it goes on tomorrow, or raise it",
            Bytes(per_day)
        )),
        false => Ok(()),
    };
    bounded(today)?;
    let mut layers = BTreeMap::new();
    let mut bytes = 0;
    let mut on_progress = |layer: &str, done: u64, total: u64| {
        layers.insert(layer.to_owned(), (done, total));
        bytes = layers.values().map(|(done, _)| done).sum();
        site.set_pull(Some(Pull {
            image: name.to_owned(),
            bytes,
            total: layers.values().map(|(_, total)| total).sum(),
        }));
        bounded(today + bytes)
    };
    let image = &class.image;
    let pulled = site
        .engine
        .pull(&image.name, &image.tag, auth, &mut on_progress);
    if bytes > 0
        && let Err(error) = state::write_pulled(&site.dirs.state, day, today + bytes)
    {
        log::warn!("{error}");
    }
    pulled.map_err(|error| credentials::hide(&error.to_string(), auth))
}

/// Removes images that came with us and that no class names any more, unless a container uses them.
pub fn tidy(site: &Site, config: &Config) {
    let (engine, state) = (&site.engine, &site.dirs.state);
    let wanted = config
        .pilots
        .iter()
        .map(|class| name(class, &site.builtin_tag));
    // The built-in one stays for the next time: it costs no network, and `purge` knows it.
    let wanted: Vec<String> = wanted.chain([builtin::name(&site.builtin_tag)]).collect();
    for image in state::read_images(state).unwrap_or_default() {
        if wanted.contains(&image) {
            continue;
        }
        let found = engine.image(&image).ok().flatten();
        let names = found.map(|found| found.repo_tags).unwrap_or_default();
        if names.iter().any(|name| wanted.contains(name)) {
            continue;
        }
        // Somebody has given an image of ours another name: it is theirs now.
        let is_theirs = image.starts_with("sha256:") && !names.is_empty();
        let is_gone = || {
            matches!(
                engine.image_remove(&image),
                Ok(Outcome::Done | Outcome::Gone)
            )
        };
        if is_theirs || is_gone() {
            let what = if is_theirs {
                "has another name now and stays"
            } else {
                "removed"
            };
            log::info!("{image}: {what}");
            let _ = state::remove_image(state, &image);
        }
    }
}
