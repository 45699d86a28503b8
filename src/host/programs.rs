//! Is one of the programs running that must have the machine alone? A program is what was started: the last part of its
//! file or of its first argument, a script behind its interpreter, a Windows program behind its loader, a flatpak. Not the
//! name of a thread, and not who merely mentions it. Kernel threads and zombies have no arguments; the pilots' own
//! processes do not count.

use super::files::{self, ReadError};
use std::path::Path;

/// What runs the program that its arguments name. Versions and the like behind it (python3.11, wine64-preloader) don't matter.
const INTERPRETERS: [&str; 24] = [
    "bash", "box", "dash", "deno", "dotnet", "electron", "gjs", "guile", "java", "julia", "ksh",
    "lua", "mono", "node", "nodejs", "perl", "php", "pypy", "python", "rscript", "ruby", "sh",
    "wine", "zsh",
];
/// Their options that have a value of their own, and those behind which there is a text instead of a program.
const OPTIONS_WITH_VALUE: [&str; 6] = ["-W", "-X", "-cp", "-r", "-O", "-o"];
const OPTIONS_WITH_TEXT: [&str; 4] = ["-c", "-e", "-E", "--eval"];

/// One of `names` that runs. A process whose cgroup path holds one of `own` (the parent group's name, container ids) is a
/// pilot's: else a pilot that runs the named program would hold itself back for ever. Errors: other users' processes are
/// hidden, so that it can't be said.
pub fn find_running(
    root: &Path,
    names: &[String],
    own: &[&str],
) -> Result<Option<String>, ReadError> {
    if names.is_empty() {
        return Ok(None);
    }
    let proc = root.join("proc");
    let processes = files::read_names(&proc).into_iter();
    let mut processes = processes.filter(|name| name.parse::<u32>().is_ok());
    match processes.find_map(|pid| find_name(&proc.join(pid), names, own)) {
        Some(name) => Ok(Some(name.clone())),
        None => files::read_text(&proc.join("1/cmdline")).map(|_| None),
    }
}

/// The name that this process runs under. One that ended since is no longer running: its missing files are no failure.
fn find_name<'a>(process: &Path, names: &'a [String], own: &[&str]) -> Option<&'a String> {
    let cmdline = files::read_beginning(&process.join("cmdline"), 4096).unwrap_or_default();
    let cmdline = String::from_utf8_lossy(&cmdline);
    let file = std::fs::read_link(process.join("exe")).unwrap_or_default();
    let file = file.to_string_lossy();
    let mut programs = parse_programs(&cmdline);
    programs.push(last_part(file.trim_end_matches(" (deleted)")));
    let runs = |name: &&String| programs.iter().any(|program| is_named(program, name));
    let cgroup = || files::read_text(&process.join("cgroup")).unwrap_or_default();
    let is_flatpak = |name: &&String| {
        name.matches('.').count() > 1 && cgroup().contains(&format!("app-flatpak-{name}-"))
    };
    let mut found = names.iter().filter(|name| !name.is_empty());
    let name = found.find(|name| runs(name) || is_flatpak(name))?;
    let cgroup = cgroup();
    let is_own = own.iter().any(|id| !id.is_empty() && cgroup.contains(id));
    (!is_own).then_some(name)
}

/// What a command line runs: its program and, behind an interpreter, what that runs.
fn parse_programs(cmdline: &str) -> Vec<&str> {
    let mut arguments = cmdline.split('\0').filter(|argument| !argument.is_empty());
    let mut programs: Vec<&str> = arguments.next().map(last_part).into_iter().collect();
    while programs.last().is_some_and(|last| is_interpreter(last)) {
        match arguments.next() {
            None => break,
            Some(option) if OPTIONS_WITH_TEXT.contains(&option) => break,
            Some(option) if OPTIONS_WITH_VALUE.contains(&option) => drop(arguments.next()),
            Some(option) if option.starts_with('-') => {}
            Some(program) => programs.push(last_part(program)),
        }
    }
    programs
}

/// Of a path of either kind. A login shell has a dash in front; who overwrites their arguments leaves one text of all.
fn last_part(path: &str) -> &str {
    let path = path.split(" --").next().unwrap_or(path);
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    name.trim_start_matches('-')
}

fn is_interpreter(program: &str) -> bool {
    let is_letter = |c: &char| c.is_ascii_alphabetic() || *c == '_';
    let stem: String = program.chars().take_while(is_letter).collect();
    INTERPRETERS.contains(&stem.to_lowercase().as_str())
}

/// With or without its extension; Windows does not know capital letters. `ps` shows the first 15 bytes of a name.
fn is_named(program: &str, name: &str) -> bool {
    let stem = program.rsplit_once('.').map_or(program, |(stem, _)| stem);
    let is_windows = program.to_lowercase().ends_with(".exe");
    let same = |text: &str| text == name || (is_windows && text.eq_ignore_ascii_case(name));
    same(program) || same(stem) || (name.len() == 15 && program.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};
    /// What is looked for; the executable, and the arguments. The first is shared/cases/program-renamed, the next three what
    /// its README names; after `not` what must not be taken for it.
    const PROCESSES: &str = r"
        VPinballX_BGFX | /opt/vpx/VPinballX_BGFX | /opt/vpx/VPinballX_BGFX,-play,table.vpx
        pwsh | /opt/microsoft/powershell/7/pwsh | pwsh
        firefox | /app/lib/firefox/firefox | /app/lib/firefox/firefox
        org.mozilla.firefox | /app/lib/firefox/firefox | /app/lib/firefox/firefox
        enshrouded.exe | /usr/bin/wine64-preloader | Z:\steam\enshrouded.exe,-log
        Enshrouded | /usr/bin/wine64-preloader | /usr/bin/wine64-preloader,/usr/bin/wine64,C:\games\enshrouded.exe
        game.py | /usr/bin/python3.11 | /usr/bin/python3,-u,/opt/x/game.py
        game | /usr/bin/python3.11 | python3.11,-W,ignore,game.py,steam
        not steam | /usr/bin/python3.11 | python3.11,-W,ignore,game.py,steam
        server | /usr/lib/jvm/bin/java | java,-Xmx4G,-cp,lib/a.jar,-jar,/srv/server.jar,nogui
        run.sh | /usr/bin/bash | /bin/bash,./run.sh
        bash | /usr/bin/bash | -bash
        not vim | /usr/bin/bash | bash,-c,vim
        not steam | /usr/bin/vim | vim,/home/ann/steam
        not steam | /usr/bin/less | less,steam
        python3 | /usr/bin/python3.11 | python3,x.py
        steam | /home/ann/.steam/steam (deleted) | something,else
        Discord | /usr/share/discord/Discord | /usr/share/discord/Discord --type=zygote --dir=/home/ann/steam
        not steam | /usr/share/discord/Discord | /usr/share/discord/Discord --type=zygote --dir=/home/ann/steam
        blender | | /snap/blender/current/blender,file.blend
        a-very-long-nam | /usr/bin/a-very-long-name | a-very-long-name
        not a-very-long-na | /usr/bin/a-very-long-name | a-very-long-name
        not Main | /opt/vpx/VPinballX_BGFX | /opt/vpx/VPinballX_BGFX
        not kworker/0:1 | | ";

    #[test]
    fn programs() {
        for line in PROCESSES.trim().lines() {
            let parts: Vec<&str> = line.split('|').map(str::trim).collect();
            let tree = Tree::new(&[
                ("proc/1/cmdline", "/sbin/init\0"),
                ("proc/42/comm", "Main\n"),
            ]);
            tree.put("proc/42/cmdline", parts[2].replace(',', "\0"));
            tree.put(
                "proc/42/cgroup",
                "0::/u.slice/app-flatpak-org.mozilla.firefox-77.scope\n",
            );
            if !parts[1].is_empty() {
                tree.link("proc/42/exe", parts[1]);
            }
            let name = parts[0].trim_start_matches("not ");
            let names = ["", "other", name].map(str::to_owned);
            let found = |own: &[&str]| find_running(tree.root(), &names, own).unwrap();
            let expected = (name == parts[0]).then(|| name.to_owned());
            assert_eq!(found(&["/plancton/", ""]), expected, "{line}");
            assert_eq!(found(&["firefox-77"]), None, "a pilot's: {line}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at() {
        let names = ["game".to_owned()];
        let tree = Tree::new(&[]);
        assert!(find_running(tree.root(), &names, &[]).is_err());
        assert_eq!(find_running(tree.root(), &[], &[]), Ok(None));
        tree.put("proc/1/cmdline", "init");
        tree.fifo("proc/8/cmdline");
        for content in GARBAGE {
            tree.put("proc/7/cmdline", content);
            assert_eq!(find_running(tree.root(), &names, &[]), Ok(None));
        }
    }
}
