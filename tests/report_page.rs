//! The page of `report` in a real browser: at desk and phone width, light and dark, no text lies on another or is cut, and
//! nothing is said to the console.
// needs: browser
// threads: 1
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::*;

/// So many hours up to now, with long names and large numbers.
fn page(scratch: &Scratch, hours: u64) -> String {
    let now = (epoch() / 3600.0) as u64;
    let line = |hour: u64| {
        let (owner, busy, pressure) = (hour % 24 * 3000, hour * 7919 % 3000, hour % 300);
        let given = 230_000 - owner;
        format!(
            "[{hour},[3600,{given},{owner},{{\"a-class-with-quite-a-long-name-for-a-phone\":[228000,{{\"done\":1203,\"ttl\":3}}],\
             \"<b>&amp;\":[5,{{\"out-of-memory\":2,\"never-ran\":1}}]}},{{\"busy\":{busy},\"memory-pressure\":{pressure},\
             \"mount-missing\":9,\"engine-unsupported\":1}}]]\n"
        )
    };
    let with_gaps = (now - hours..now).filter(|hour| hour / 24 % 11 != 4 || hours < 100);
    scratch.file("state/history", with_gaps.map(line).collect::<String>());
    let mut command = Command::new(PLANCTON);
    command.arg("--state-dir").arg(scratch.0.join("state"));
    command.arg("--run-dir").arg(scratch.0.join("run"));
    say(command.args(["report", "-"])).must(0, &[]).out
}

type Look = (u32, bool);
const DESK: Look = (1280, false);
const DARK_DESK: Look = (1280, true);
const PHONE: Look = (390, false);
const DARK_PHONE: Look = (390, true);

fn browse(scratch: &Scratch, page: &str, (width, is_dark): Look, what: &str) -> Said {
    let file = scratch.file("page.html", page);
    let options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync \
        --disable-component-update --hide-scrollbars --disable-dev-shm-usage --enable-logging=stderr";
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60", &given("PLANCTON_TEST_BROWSER")]);
    let (scheme, profile) = (u8::from(!is_dark), scratch.0.join("profile"));
    let line = format!(
        "{options} --blink-settings=preferredColorScheme={scheme} --window-size={width},1600 \
         --user-data-dir={} {what} file://{}",
        profile.display(),
        file.display()
    );
    say(command.args(line.split_whitespace())).must(0, &[])
}

fn console(said: &Said) -> Vec<&str> {
    let lines = said.err.lines();
    lines.filter(|line| line.contains("CONSOLE")).collect()
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
fn seen(scratch: &Scratch, page: &str, look: Look) -> (u32, String, u64, Vec<String>) {
    let start = page.find("<meta http-equiv").unwrap();
    let end = start + page[start..].find('>').unwrap() + 1;
    let copy = format!("{}{}", &page[..start], &page[end..]);
    let copy = copy.replace("</body>", &format!("{LOOK}</body>"));
    let copy = copy.replace('&', "&amp;").replace('"', "&quot;");
    // A window is never narrower than 500; a frame is.
    let width = look.0;
    let frame = format!(
        "<html style=\"color-scheme: light dark\"><body><iframe width={width} height=1600 style=\"border:0\" srcdoc=\"{copy}\"></iframe></body></html>"
    );
    let dump = browse(scratch, &frame, look, "--dump-dom").out;
    let said = dump.rsplit("SEEN ").next().unwrap();
    serde_json::from_str(said.split(" END").next().unwrap()).unwrap()
}

#[test]
fn no_text_on_another() {
    let scratch = Scratch::new();
    for hours in [3, 60, 24 * 20, 24 * 366] {
        let page = page(&scratch, hours);
        let papers = [DESK, DARK_PHONE].map(|look| {
            let (inner, paper, texts, wrong) = seen(&scratch, &page, look);
            assert_eq!(wrong, [""; 0], "{hours} hours at {look:?}");
            assert!(inner == look.0 && texts > 40, "{inner} {texts}");
            paper
        });
        assert_ne!(papers[0], papers[1], "dark is another paper");
    }
    // The look sees what it should.
    let broken = page(&scratch, 24 * 20).replace(
        "</style>",
        "footer p { margin-top: -3rem !important } h1 { white-space: nowrap; font-size: 9rem }</style>",
    );
    let (.., wrong) = seen(&scratch, &broken, PHONE);
    for kind in ["overlap: ", "outside: "] {
        assert!(wrong.iter().any(|line| line.starts_with(kind)), "{wrong:?}");
    }
}

#[test]
fn pictures_are_drawn_and_the_console_is_silent() {
    let scratch = Scratch::new();
    let page = page(&scratch, 24 * 60);
    let shot = scratch.0.join("shot.png");
    let take = format!("--screenshot={}", shot.display());
    for look in [DARK_DESK, PHONE] {
        let said = browse(&scratch, &page, look, &take);
        assert_eq!(console(&said), [""; 0], "{look:?}");
        let bytes = fs::read(&shot).unwrap();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((number(16), number(20)), (look.0, 1600));
        assert!(bytes.len() > 20_000, "an empty picture");
        fs::remove_file(&shot).unwrap();
    }
    // What is forbidden would be told: the page may load nothing.
    let broken = page.replace("</body>", "<img src=\"http://127.0.0.1:9/x.png\"></body>");
    assert!(!console(&browse(&scratch, &broken, PHONE, &take)).is_empty());
}
