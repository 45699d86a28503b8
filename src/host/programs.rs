//! Is one of the programs running that must have the machine alone? A program is what was started: the last part of its
//! file or of its first argument, a script behind its interpreter, a Windows program behind its loader, a flatpak. Not the
//! name of a thread, and not who merely mentions it. Kernel threads and zombies have no arguments; the pilots' own
//! processes do not count.

use super::files;
use std::io::{self, Read};
use std::path::Path;

/// What runs the program that its arguments name. Versions and the like behind it (python3.11, wine64-preloader) don't matter.
const INTERPRETERS: &str = "bash box bun busybox dash deno dotnet electron fish gjs guile java julia ksh lua mono node nodejs \
    perl php pwsh pypy python rscript ruby sh tclsh wine wish zsh";
/// Their options that have a value of their own, and those behind which there is a text instead of a program.
const WITH_VALUE: &str = " -W -X -cp -classpath --class-path -r --require --import -O -o ";
const WITH_TEXT: [&str; 4] = ["-c", "-e", "-E", "--eval"];

/// One of `names` that runs. A process whose cgroup path holds one of `own` (the parent group's name, container ids) is a
/// pilot's: else a pilot that runs the named program would hold itself back for ever. Errors: other users' processes are
/// hidden, so that it can't be said.
pub fn find_running(root: &Path, names: &[String], own: &[&str]) -> io::Result<Option<String>> {
    let proc = root.join("proc");
    let mut processes = match names.is_empty() {
        true => return Ok(None),
        false => files::read_names(&proc).into_iter(),
    };
    let found = processes.find_map(|name| {
        name.parse::<u32>().ok()?;
        find_name(&proc.join(name), names, own)
    });
    match found {
        None => files::open(&proc.join("1/cmdline")).map(|_| None),
        Some(name) => Ok(Some(name.clone())),
    }
}

/// The name that this process runs under. One that ended since is no longer running: its missing files are no failure.
fn find_name<'a>(process: &Path, names: &'a [String], own: &[&str]) -> Option<&'a String> {
    let mut cmdline = [0; 4096];
    let length = files::open(&process.join("cmdline")).and_then(|mut file| file.read(&mut cmdline));
    let cmdline = String::from_utf8_lossy(cmdline.get(..length.unwrap_or(0))?);
    let file = std::fs::read_link(process.join("exe")).unwrap_or_default();
    let file = file.to_string_lossy();
    let mut programs = parse_programs(&cmdline);
    programs.push(last_part(file.trim_end_matches(" (deleted)")));
    let cgroup = || files::read_text(&process.join("cgroup")).unwrap_or_default();
    let runs = |name: &&String| {
        let is_flatpak = || cgroup().contains(&format!("app-flatpak-{name}-"));
        programs.iter().any(|program| is_named(program, name))
            || (name.matches('.').count() > 1 && is_flatpak())
    };
    let name = names.iter().filter(|name| !name.is_empty()).find(runs)?;
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
            Some(option) if WITH_TEXT.contains(&option) => break,
            Some(option) if WITH_VALUE.contains(&format!(" {option} ")) => drop(arguments.next()),
            Some(option) if option.starts_with('-') || option.contains('=') => {}
            Some(program) => {
                programs.push(last_part(program));
                programs.extend(program.strip_suffix("/app.asar").map(last_part));
            }
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
    let mut stems = program.split(|c: char| !(c.is_ascii_alphabetic() || c == '_'));
    let stem = stems.next().unwrap_or_default().to_lowercase();
    INTERPRETERS.split(' ').any(|name| name == stem)
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
    /// its README names; after `not` what must not be taken for it. The last are Electron's, from a distribution and with its own
    /// (evilsocket/opensnitch #1442), Minecraft (lihaoyun6/QuickRecorder #217), what the manuals of php, node, java and busybox
    /// give to run a program by, AppImages, a flatpak's sandbox, and Proton's wrapper.
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
        not kworker/0:1 | |
        obsidian | /usr/lib/electron37/electron | /usr/lib/electron37/electron,--ozone-platform-hint=auto,/usr/lib/obsidian/app.asar
        signal-desktop | /usr/lib/signal-desktop/signal-desktop | /usr/lib/signal-desktop/signal-desktop,--type=renderer,--app-path=/usr/lib/signal-desktop/resources/app.asar
        net.minecraft.client.main.Main | /usr/lib/jvm/java-21/bin/java | java,-Xmx4G,-Djava.library.path=/x,-cp,a.jar:b.jar,net.minecraft.client.main.Main,--username,ann
        artisan | /usr/bin/php8.2 | php,-d,memory_limit=-1,artisan,serve
        app | /usr/bin/node | node,--require,ts-node/register,/srv/app.js
        app | /usr/bin/node | node,--max-old-space-size=4096,/srv/app.js
        run.sh | /usr/bin/busybox | busybox,sh,/opt/run.sh
        jupyterlab | /usr/bin/python3.11 | /usr/bin/python3,-m,jupyterlab,--no-browser
        build | /usr/bin/fish | fish,build.fish
        freecad | /tmp/.mount_FreeCAab12/usr/bin/freecad | /home/ann/FreeCAD_0.21.AppImage
        FreeCAD_0.21 | /tmp/.mount_FreeCAab12/usr/bin/freecad | /home/ann/FreeCAD_0.21.AppImage
        minecraft | /usr/bin/java | java,-Xmx2G,-jar,/home/ann/minecraft.jar
        org.x.Main | /usr/bin/java | java,-classpath,/x/y.jar,org.x.Main
        game | /usr/bin/wine-preloader | C:\Program Files\My Game\Game.EXE,-w
        game.exe | /usr/bin/wine64 | wine64,/home/ann/games/Game.exe
        App | /usr/share/dotnet/dotnet | dotnet,/opt/App.dll
        not game | /usr/bin/grep | grep,-r,game
        not game | /usr/bin/python3.11 | python3,-c,import game,game
        not game | /usr/bin/tail | tail,-f,/var/log/game
        game | /usr/bin/tclsh8.6 | tclsh8.6,/opt/game.tcl
        game | /usr/bin/bun | bun,/opt/game.ts
        not steam | /usr/bin/bwrap | bwrap,--args,42,--,steam
        not steam.sh | /usr/bin/python3.12 | python3,/opt/proton/proton,waitforexitandrun,/home/ann/steam.sh";

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
        assert_eq!(find_running(tree.root(), &[], &[]).unwrap(), None);
        tree.put("proc/1/cmdline", "init");
        tree.fifo("proc/8/cmdline");
        for content in GARBAGE {
            tree.put("proc/7/cmdline", content);
            assert_eq!(find_running(tree.root(), &names, &[]).unwrap(), None);
        }
    }
}
