//! The page of `report` in a real browser: at desk and phone width, light and dark, no text lies on another or is cut, and
//! nothing is said to the console.
// needs: browser
// threads: 1
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn scratch(name: &str) -> Scratch {
    let path = std::env::temp_dir().join(format!("plancton-page-{}-{name}", std::process::id()));
    fs::create_dir_all(path.join("state")).unwrap();
    Scratch(path)
}

/// So many hours up to now, with long names and large numbers.
fn page(scratch: &Scratch, hours: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 3600;
    let line = |hour: u64| {
        let (owner, busy) = (hour % 24 * 3000, hour * 7919 % 3000);
        format!(
            "[{hour},[3600,{},{owner},{{\"a-class-with-quite-a-long-name-for-a-phone\":[228000,{{\"done\":1203,\"ttl\":3}}],\
             \"<b>&amp;\":[5,{{\"out-of-memory\":2,\"never-ran\":1}}]}},{{\"busy\":{busy},\"memory-pressure\":{},\
             \"mount-missing\":9,\"engine-unsupported\":1}}]]\n",
            230_000 - owner,
            hour % 300
        )
    };
    let text: String = (now - hours..now)
        .filter(|hour| hour / 24 % 11 != 4 || hours < 100)
        .map(line)
        .collect();
    fs::write(scratch.0.join("state/history"), text).unwrap();
    let mut plancton = Command::new(env!("CARGO_BIN_EXE_plancton"));
    plancton
        .arg("--state-dir")
        .arg(scratch.0.join("state"))
        .arg("--run-dir")
        .arg(scratch.0.join("run"));
    let said = plancton.args(["report", "-"]).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()
}

#[derive(Clone, Copy)]
struct Look {
    width: u32,
    dark: bool,
}

fn browse(scratch: &Scratch, page: &str, look: Look, what: &str) -> Output {
    let file = scratch.0.join("page.html");
    fs::write(&file, page).unwrap();
    let program = std::env::var("PLANCTON_TEST_BROWSER").unwrap_or_else(|_| {
        panic!("PLANCTON_TEST_BROWSER is not set; run these tests with tests/run.sh")
    });
    let profile = scratch.0.join("profile");
    let output = Command::new("timeout")
        .args([
            "-k",
            "5",
            "60",
            &program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr"])
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            if look.dark { 0 } else { 1 }
        ))
        .arg(format!("--window-size={},1600", look.width))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(what)
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn console(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines()
        .filter(|line| line.contains("CONSOLE"))
        .map(str::to_owned)
        .collect()
}

/// In a copy without the policy: where every line of text lies, and what is wrong with it.
const LOOK: &str = "<script>
const boxes = [], wrong = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; node = walk.nextNode();) {
  if (!node.data.trim() || node.parentElement.closest('script, style, noscript')) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects()) {
    // A line of text is higher than its letters.
    const slack = box.height * 0.15;
    if (box.width) boxes.push([box.left, box.top + slack, box.right, box.bottom - slack, node.data.trim()]);
  }
}
boxes.forEach((a, i) => {
  if (a[0] < 0 || a[2] > innerWidth) wrong.push('outside: ' + a[4]);
  boxes.slice(i + 1).forEach(b => {
    if (Math.min(a[2], b[2]) - Math.max(a[0], b[0]) > 1 && Math.min(a[3], b[3]) - Math.max(a[1], b[1]) > 1)
      wrong.push('overlap: ' + a[4] + ' / ' + b[4]);
  });
});
document.querySelectorAll('main *').forEach(e => {
  if (getComputedStyle(e).overflow === 'hidden' && e.scrollWidth > e.clientWidth)
    wrong.push('cut: ' + e.textContent);
});
if (document.documentElement.scrollWidth > innerWidth) wrong.push('wider than the window');
parent.document.body.append('SEEN ' + JSON.stringify([innerWidth, getComputedStyle(document.body).backgroundColor, boxes.length, wrong]) + ' END');
</script>";

/// Width, colour of the paper, number of texts, and what is wrong.
fn seen(scratch: &Scratch, page: &str, look: Look) -> (u64, String, u64, Vec<String>) {
    let start = page.find("<meta http-equiv").unwrap();
    let end = start + page[start..].find('>').unwrap() + 1;
    let copy =
        format!("{}{}", &page[..start], &page[end..]).replace("</body>", &format!("{LOOK}</body>"));
    let copy = copy.replace('&', "&amp;").replace('"', "&quot;");
    // A window is never narrower than 500; a frame is.
    let frame = format!(
        "<html style=\"color-scheme: light dark\"><body><iframe width={} height=1600 style=\"border:0\" srcdoc=\"{copy}\"></iframe></body></html>",
        look.width
    );
    let output = browse(scratch, &frame, look, "--dump-dom");
    let dump = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = dump
        .rsplit("SEEN ")
        .next()
        .and_then(|rest| rest.split(" END").next());
    let json = json.unwrap_or_else(|| panic!("the script said nothing: {dump}"));
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

#[test]
fn no_text_on_another() {
    let scratch = scratch("texts");
    for hours in [3, 60, 24 * 20, 24 * 366] {
        let page = page(&scratch, hours);
        let mut papers = Vec::new();
        for (width, dark) in [(1280, false), (390, true)] {
            let (inner, paper, texts, wrong) = seen(&scratch, &page, Look { width, dark });
            assert_eq!(wrong, [""; 0], "{hours} hours at {width}");
            assert_eq!(inner, u64::from(width));
            assert!(texts > 40, "{texts}");
            papers.push(paper);
        }
        assert_ne!(papers[0], papers[1], "dark is another paper");
    }
    // The look sees what it should.
    let broken = page(&scratch, 24 * 20).replace(
        "</style>",
        "footer p { margin-top: -3rem !important } h1 { white-space: nowrap; font-size: 9rem }</style>",
    );
    let (.., wrong) = seen(
        &scratch,
        &broken,
        Look {
            width: 390,
            dark: false,
        },
    );
    assert!(
        wrong.iter().any(|line| line.starts_with("overlap: ")),
        "{wrong:?}"
    );
    assert!(
        wrong.iter().any(|line| line.starts_with("outside: ")),
        "{wrong:?}"
    );
}

#[test]
fn pictures_are_drawn_and_the_console_is_silent() {
    let scratch = scratch("pictures");
    let page = page(&scratch, 24 * 60);
    let shot = scratch.0.join("shot.png");
    let take = format!("--screenshot={}", shot.display());
    for (width, dark) in [(1280, true), (390, false)] {
        let output = browse(&scratch, &page, Look { width, dark }, &take);
        assert_eq!(console(&output), [""; 0], "{width}");
        let size = size_of_png(&shot);
        assert_eq!(size, (width, 1600));
        assert!(
            fs::metadata(&shot).unwrap().len() > 20_000,
            "an empty picture"
        );
        fs::remove_file(&shot).unwrap();
    }
    // What is forbidden would be told: the page may load nothing.
    let broken = page.replace("</body>", "<img src=\"http://127.0.0.1:9/x.png\"></body>");
    let look = Look {
        width: 390,
        dark: false,
    };
    let said = console(&browse(&scratch, &broken, look, &take));
    assert!(!said.is_empty(), "{said:?}");
}

fn size_of_png(file: &Path) -> (u32, u32) {
    let bytes = fs::read(file).unwrap();
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}
