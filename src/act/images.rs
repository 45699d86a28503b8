//! Brings images here, and takes away those that were replaced: what came with us goes with us, as soon as nobody uses it.
//! The built-in one holds this very binary and nothing else (and, where it is not static, the loader and the libraries it
//! runs with), and is made without a registry and without the internet.

use super::*;
use crate::{host::files, site::Pull};
use std::error::Error;
use std::hash::{DefaultHasher, Hasher};

/// Repository of the built-in image; its tag is the version and a digest of the content.
pub const BUILTIN: &str = "plancton-builtin";
/// What the engine is told about its file system.
const CHANGES: [&str; 2] = ["ENTRYPOINT [\"/plancton\"]", "CMD [\"pilot\"]"];

/// Of a file of it, in bytes.
const LARGEST: usize = 1 << 30;
/// Through /proc, so that an upgrade under a running daemon does no harm.
const OWN: &str = "/proc/self/exe";

/// What containers of a class are created from.
pub fn name(image: &Image, builtin_tag: &str) -> String {
    match image.is_builtin() {
        true => format!("{BUILTIN}:{builtin_tag}"),
        false => image.to_string(),
    }
}

/// Brings the image of a class here. What was not here before is written down before it comes, so that a crash in between
/// leaves a name too many there and never an image that nobody removes.
pub fn fetch(site: &Site, config: &Config, class: &PilotClass) -> Result<(), Box<dyn Error>> {
    let (engine, state) = (&site.engine, &site.dirs.state);
    let image = name(&class.image, &site.builtin_tag);
    let before = engine.image(&image)?;
    if before.is_some() && class.image.is_builtin() {
        return Ok(());
    }
    let is_ours = before.is_none() || state::read_images(state)?.contains(&image);
    if is_ours {
        state::note_image(state, &image, true)?;
    }
    let brought = bring(site, config, class);
    if brought.is_err() && before.is_none() {
        state::note_image(state, &image, false)?;
    }
    brought?;
    let now = engine.image(&image)?;
    let now = now.ok_or_else(|| format!("{image} is not in what was brought"))?;
    if let Some(old) = before.filter(|old| old.id != now.id) {
        // Of a name that the owner had before, what was fetched is ours all the same, and what was there is not.
        let ours = if is_ours { &old.id } else { &now.id };
        state::note_image(state, ours, true)?;
        log::info!("{image}: new pilots use the new image, the old one goes with its last pilot");
    }
    tidy(site, config);
    Ok(())
}

fn bring(site: &Site, config: &Config, class: &PilotClass) -> Result<(), Box<dyn Error>> {
    let engine = &site.engine;
    if class.image.is_builtin() {
        engine.import(BUILTIN, &site.builtin_tag, &CHANGES, &archive()?)?;
    } else if class.image_archive.is_empty() {
        pull(site, config.share.pull_per_day, class)?;
    } else {
        let file = files::open(Path::new(&class.image_archive));
        let file = file.map_err(|error| format!("image-archive {error}"))?;
        engine.load(&file, file.metadata()?.len())?;
    }
    Ok(())
}

fn pull(site: &Site, per_day: Bytes, class: &PilotClass) -> Result<(), String> {
    let login = credentials::read(class)?;
    let day = whole(clock::now().epoch / 86_400.0);
    let today = state::read_pulled(&site.dirs.state, day);
    let used_up = format!("pull-per-day ({per_day}) is used up; it goes on tomorrow, or raise it");
    let bounded = |bytes| match per_day.0 == 0 || bytes <= per_day.0 {
        true => Ok(()),
        false => Err(used_up.clone()),
    };
    bounded(today)?;
    let (mut layers, mut pull) = (BTreeMap::new(), Pull::default());
    pull.image = class.image.to_string();
    let header = login.header();
    let mut told = |layer: &str, done, total| {
        layers.insert(layer.to_owned(), (done, total));
        pull.bytes = layers.values().map(|(done, _)| done).sum();
        pull.total = layers.values().map(|(_, total)| total).sum();
        *site.pulling() = Some(pull.clone());
        bounded(today + pull.bytes)
    };
    let pulled = site.engine.pull(&class.image, header.as_deref(), &mut told);
    *site.pulling() = None;
    if pull.bytes > 0
        && let Err(error) = state::write_pulled(&site.dirs.state, day, today + pull.bytes)
    {
        log::warn!("{error}");
    }
    pulled.map_err(|error| login.hide(&error.to_string()))
}

/// Removes images that came with us and that no class names any more, unless a container uses them.
pub fn tidy(site: &Site, config: &Config) {
    let (engine, state) = (&site.engine, &site.dirs.state);
    // The built-in one stays for the next time: it costs no network, and `purge` knows it.
    let builtin = Image::default();
    let wanted = config.pilots.iter().map(|class| &class.image);
    let wanted = wanted.chain([&builtin]);
    let wanted: Vec<_> = wanted.map(|image| name(image, &site.builtin_tag)).collect();
    let mut ours = state::read_images(state).unwrap_or_default();
    ours.retain(|image| !wanted.contains(image));
    for image in ours {
        let Ok(found) = engine.image(&image) else {
            continue;
        };
        let names = found.map(|found| found.repo_tags).unwrap_or_default();
        let is_wanted = names.iter().any(|name| wanted.contains(name));
        // Somebody has given an image of ours another name: it is theirs now.
        let is_theirs = image.starts_with("sha256:") && !names.is_empty();
        if !is_wanted && (is_theirs || engine.image_remove(&image).is_ok()) {
            log::info!("{image} is no longer Plancton's");
            let _ = state::note_image(state, &image, false);
        }
    }
}

/// Tag of the built-in image: the version, and a digest of its files.
pub fn builtin_tag() -> io::Result<String> {
    let mut digest = DefaultHasher::new();
    digest.write(&archive()?);
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!("{version}-{:016x}", digest.finish()))
}

/// Our own executable, and the loader and the libraries mapped into this process (none when it is static).
fn archive() -> io::Result<Vec<u8>> {
    let maps = files::read_text_up_to(Path::new("/proc/self/maps"), LARGEST)?;
    let words = maps.split_whitespace();
    let libraries = words.filter(|word| word.starts_with('/') && word.contains(".so"));
    let mut paths: Vec<&str> = libraries.collect();
    if !paths.is_empty() {
        // The loader is asked for by the name in the executable, which may be a link to the mapped file.
        paths.extend(["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]);
    }
    paths.push(OWN);
    paths.sort_unstable();
    paths.dedup();
    let mut tar = Vec::new();
    for path in paths.into_iter().filter(|path| Path::new(path).exists()) {
        let inside = path.replace(OWN, "/plancton");
        let content = files::read(Path::new(path), LARGEST)?;
        append(&mut tar, inside.trim_start_matches('/'), &content);
    }
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

/// One file as a ustar entry: 512 bytes of header, the content, zeros up to the next block.
fn append(tar: &mut Vec<u8>, path: &str, content: &[u8]) {
    let (none, size) = (0, content.len());
    let head = format!("{path:\0<100}0000755\0{none:07o}\0{none:07o}\0{size:011o}\0{none:011o}\0");
    // A plain file, without a link.
    let end = format!("0{:\0<100}ustar\0{none:02}{:\0<247}", "", "");
    // As if it were eight blanks itself.
    let sum = head.bytes().chain(end.bytes()).map(u32::from).sum::<u32>() + 8 * u32::from(b' ');
    tar.extend(format!("{head}{sum:06o}\0 {end}").bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{Fake, PING, answer};
    use crate::host::tests::Tree;
    use crate::state::Dirs;
    use std::sync::Arc;

    /// What was here before stays. What was fetched in its place goes when that is replaced, and until then `purge` knows
    /// its id: containrrr/watchtower #510, Kitware/romanesco #105.
    #[test]
    fn an_image_that_the_owner_had_before() {
        let image = |id, names| {
            answer(
                200,
                &format!(r#"{{"Id":"sha256:{id}","RepoTags":[{names}]}}"#),
            )
        };
        let named = r#""r.example/p:1""#;
        let (old, first, second) = (
            image("old", named),
            image("first", named),
            image("second", named),
        );
        let (nameless, done) = (image("first", ""), answer(200, "{}"));
        let (fake, engine) = Fake::start(&[
            PING, &old, &done, &first, &first, // fetched, and kept as long as it has the name
            &first, &done, &second, &nameless, &done, &second,
        ]);
        let tree = Tree::new(&[("state/", "")]);
        let dirs = Dirs {
            state: tree.path("state"),
            ..Dirs::machine()
        };
        let site = Site::new(Arc::new(engine), dirs, "t".to_owned(), "1".to_owned());
        let config =
            crate::config::parse("[[pilot]]\nname = \"a\"\nimage = \"r.example/p:1\"\n", "c")
                .unwrap();
        for expected in ["sha256:first", "sha256:second"] {
            fetch(&site, &config, &config.pilots[0]).unwrap();
            assert_eq!(state::read_images(&site.dirs.state).unwrap(), [expected]);
        }
        let asked = fake.finish();
        let removals: Vec<_> = asked
            .iter()
            .filter(|line| line.starts_with("DELETE"))
            .collect();
        assert_eq!(removals, ["DELETE /v1.41/images/sha256:first"]);
    }

    #[test]
    fn tar_reads_what_we_write() {
        let mut tar = Vec::new();
        append(&mut tar, "plancton", b"binary");
        append(&mut tar, "lib/x.so", &[7; 600]);
        tar.resize(tar.len() + 1024, 0);
        let file = std::env::temp_dir().join(format!("plancton-tar-{}", std::process::id()));
        std::fs::write(&file, &tar).unwrap();
        let mut command = std::process::Command::new("tar");
        let listing = command.arg("tvf").arg(&file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        let text = String::from_utf8(listing.stdout).unwrap();
        for words in ["-rwxr-xr-x 0/0", " 600 ", "lib/x.so"] {
            assert!(listing.status.success() && text.contains(words), "{text}");
        }
    }

    #[test]
    fn the_test_binary_brings_its_loader_along() {
        let (tar, mut at, mut names) = (archive().unwrap(), 0, String::new());
        while tar[at] != 0 {
            let header = String::from_utf8_lossy(&tar[at..at + 135]).into_owned();
            names += header.split('\0').next().unwrap();
            let size = usize::from_str_radix(&header[124..], 8).unwrap();
            at += 512 + size.next_multiple_of(512);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert_eq!(names.contains("ld-linux"), maps.contains(".so"));
        assert!(tar.len() > 100_000 && names.contains("plancton"));
        let tag = builtin_tag().unwrap();
        assert!(tag.starts_with(env!("CARGO_PKG_VERSION")));
    }
}
