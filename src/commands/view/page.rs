//! What this machine gave, as one HTML page with its pictures in it. Pure. Pictures stretch with the page, texts do not: they
//! stand beside the pictures, placed by per cent. Whatever comes from outside is escaped.

use super::history::{Row, cpu_time, grouped, local as local_time, parts, word};
use super::{clean, number, rough};
use crate::decide::EndKind;
use crate::record::{Hours, Sums, by_day, local, total};
use crate::units::{float, whole};
use jiff::{ToSpan, tz::TimeZone};
use std::fmt::Write;

/// Days that are shown hour by hour.
const BY_HOUR: i64 = 14;
const BY_DAY: i64 = 366 + 30;
/// Reasons that get a row of their own.
const MOST_ROWS: usize = 8;

/// One step to the right in a picture.
#[derive(Default)]
struct Bin {
    /// For the reader who points at it.
    when: String,
    /// Below the picture, where a day or a month begins.
    mark: Option<String>,
    /// `None`: nothing is known of it.
    sums: Option<Sums>,
}

/// Layers of a picture, the lowest first: style, name, value.
type Layer = (&'static str, &'static str, fn(&Sums) -> f64);

const CPU: [Layer; 2] = [
    ("given", "given", |sums| sums.given_cpu_seconds.0 / 3600.0),
    ("owner", "the owner’s", |sums| sums.owner_cpu_seconds.0 / 3600.0),
];
const PILOTS: [Layer; 3] = [
    ("given", "done", |sums| ended(sums, |kind| kind == EndKind::Done)),
    ("rule", "told to end", |sums| ended(sums, is_by_rule)),
    ("bad", "failed", |sums| ended(sums, |kind| kind != EndKind::Done && !is_by_rule(kind))),
];

fn is_by_rule(kind: EndKind) -> bool {
    matches!(kind, EndKind::Ttl | EndKind::Owner | EndKind::Drained)
}

fn ended(sums: &Sums, is_meant: fn(EndKind) -> bool) -> f64 {
    float(sums.ended().into_iter().filter(|(kind, _)| is_meant(*kind)).map(|(_, count)| count).sum())
}

pub fn render(hours: &Hours, host: &str, now: f64, zone: &TimeZone) -> String {
    let sums = total(hours.values());
    let now = local_time(now, zone);
    let first = hours.keys().next().map_or(now.clone(), |hour| local(*hour, zone));
    let date = |at: &jiff::Zoned| at.strftime("%-d %B %Y").to_string();
    let from = if first.date() == now.date() { String::new() } else { date(&first) + " to " };
    let period = format!("{from}{}, {}", date(&now), now.strftime("%H:%M"));
    let mut figures = figure("Hour by hour", "cores", &by_hours(hours, &now, zone));
    if now.date().since(first.date()).is_ok_and(|span| i64::from(span.get_days()) >= BY_HOUR) {
        figures += &figure("Day by day", "hours a day", &by_days(hours, &now, zone));
    }
    let lists = parts(&sums);
    let lists: String =
        lists.iter().zip(["given", "given", "held"]).map(|((title, rows), style)| list(title, style, rows)).collect();
    let version = env!("CARGO_PKG_VERSION");
    fill(
        include_str!("page.html"),
        &[
            ("host", &escape(host)),
            ("period", &period),
            ("tiles", &tiles(&sums)),
            ("figures", &figures),
            ("lists", &lists),
            ("version", version),
        ],
    )
}

/// In one pass: what was filled in is not looked at again.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for (name, rest) in pieces.filter_map(|piece| piece.split_once("}}")) {
        text += values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        text += rest;
    }
    text
}

fn escape(text: &str) -> String {
    let replaced = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => c.to_string(),
    };
    clean(text).chars().map(replaced).collect()
}

fn tiles(sums: &Sums) -> String {
    let all: u64 = sums.ended().values().sum();
    let done = sums.ended().get(&EndKind::Done).copied().unwrap_or(0);
    let (watched, given) = (sums.observed_seconds.0, sums.given_cpu_seconds.0);
    let busy = given + sums.owner_cpu_seconds.0;
    let per_cent = |part: f64, of: f64| format!("{:.0} %", 100.0 * part / of.max(1.0));
    let tiles = [
        (cpu_time(given), "of CPU given to science".to_owned()),
        (grouped(done), format!("pilots done, of {} that ended", grouped(all))),
        (
            number(given / watched.max(1.0)),
            format!("cores given on average, {} of all CPU in use", per_cent(given, busy)),
        ),
        (
            rough(sums.held_back()),
            format!("held back, {} of the {} watched", per_cent(sums.held_back(), watched), rough(watched)),
        ),
    ];
    tiles
        .iter()
        .map(|(value, text)| format!("<div class=\"card tile\"><b>{value}</b><span>{text}</span></div>"))
        .collect()
}

/// From midnight thirteen days ago, or the first day there is, to this hour.
fn by_hours(hours: &Hours, now: &jiff::Zoned, zone: &TimeZone) -> Vec<Bin> {
    let this = whole(float(u64::try_from(now.timestamp().as_second()).unwrap_or(0)) / 3600.0);
    let earliest = now.date().checked_sub((BY_HOUR - 1).days()).unwrap_or_default();
    let known = hours.keys().find(|hour| local(**hour, zone).date() >= earliest).copied().unwrap_or(this).min(this);
    let day = local(known, zone).date();
    let start = (0..25).rev().filter_map(|back| known.checked_sub(back)).find(|hour| local(*hour, zone).date() == day);
    let bins = start.unwrap_or(known)..=this;
    let every = if bins.clone().count() <= 72 { 6 } else { 24 };
    let bin = |hour: u64| {
        let at = local(hour, zone);
        let format = if at.hour() == 0 { "%a %-d" } else { "%H:%M" };
        Bin {
            when: at.strftime("%a %-d %b %H:%M").to_string(),
            mark: (at.hour() % every == 0).then(|| at.strftime(format).to_string()),
            sums: hours.get(&hour).cloned(),
        }
    };
    bins.map(bin).collect()
}

fn by_days(hours: &Hours, now: &jiff::Zoned, zone: &TimeZone) -> Vec<Bin> {
    let mut days = by_day(hours, zone);
    let earliest = now.date().checked_sub(BY_DAY.days()).unwrap_or_default();
    let first = days.keys().find(|date| **date >= earliest).copied().unwrap_or(now.date());
    let dates = first.series(1.day()).take_while(|date| *date <= now.date());
    let dates: Vec<_> = dates.collect();
    let few = dates.len() <= 62;
    let bin = |date: jiff::civil::Date| {
        let begins = if few { date.weekday() == jiff::civil::Weekday::Monday } else { date.day() == 1 };
        let format = match (few, date.month()) {
            (true, _) => "%-d %b",
            (false, 1) => "%Y",
            (false, _) => "%b",
        };
        let mark = begins.then(|| date.strftime(format).to_string());
        Bin { when: date.strftime("%a %-d %b %Y").to_string(), mark, sums: days.remove(&date) }
    };
    dates.into_iter().map(bin).collect()
}

/// Three pictures above one another with one time below: CPU, pilots, reasons.
fn figure(title: &str, unit: &str, bins: &[Bin]) -> String {
    let sums = total(bins.iter().filter_map(|bin| bin.sums.as_ref()));
    let summary =
        format!("{} given, {} the owner’s", cpu_time(sums.given_cpu_seconds.0), cpu_time(sums.owner_cpu_seconds.0));
    let mut text = format!(
        "<section class=\"card\"><div class=\"head\"><h2>{title}</h2><span class=\"soft\">{summary}</span></div>"
    );
    text += &plot(&format!("CPU, {unit}"), "tall", bins, &CPU);
    text += &plot("Pilots", "low", bins, &PILOTS);
    text += "<h3>Held back, by reason</h3>";
    let fraction = |bin: &Bin, seconds: f64| {
        let watched = bin.sums.as_ref().map_or(0.0, |sums| sums.observed_seconds.0);
        if watched > 0.0 { seconds / watched } else { 0.0 }
    };
    let mut reasons: Vec<_> = sums.held_back_seconds.into_iter().collect();
    reasons.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (code, _) in reasons.into_iter().take(MOST_ROWS) {
        let of = |bin: &Bin| bin.sums.as_ref().and_then(|sums| sums.held_back_seconds.get(&code)).map_or(0.0, |s| s.0);
        text += &strip(&word(code), "held", bins, |bin| fraction(bin, of(bin)));
    }
    text += &strip("Plancton ran", "ran", bins, |bin| if bin.sums.is_some() { 1.0 } else { 0.0 });
    text += &marks(bins);
    text + "</section>"
}

/// Layers on one another, a legend above and a scale beside. Each bin says its figures to the reader who points at it.
fn plot(title: &str, height: &str, bins: &[Bin], layers: &[Layer]) -> String {
    let value = |bin: &Bin, layer: &Layer| bin.sums.as_ref().map_or(0.0, layer.2);
    let sum = |bin: &Bin, layers: &[Layer]| layers.iter().map(|layer| value(bin, layer)).sum::<f64>();
    let top = round_up(bins.iter().map(|bin| sum(bin, layers)).fold(0.0, f64::max));
    let mut text = format!("<h3>{title}<span class=\"legend\">");
    for (style, name, _) in layers {
        let _ = write!(text, "<span><i class=\"{style}\"></i>{name}</span>");
    }
    let _ = write!(
        text,
        "</span></h3><div class=\"plot\"><div class=\"scale\"><span style=\"top:0\">{}</span>\
         <span style=\"top:50%\">{}</span><span style=\"top:100%\">0</span></div>\
         <svg class=\"{height}\" viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">",
        number(top),
        number(top / 2.0),
        bins.len(),
    );
    let _ = write!(text, "<path class=\"grid\" d=\"M0 0H{0}M0 50H{0}M0 100H{0}\"/>", bins.len());
    // From the whole to the lowest layer, each over the one before: no seams.
    for (index, (style, ..)) in layers.iter().enumerate().rev() {
        let _ = write!(text, "<path class=\"{style}\" d=\"M0 100");
        let mut before = 0;
        for (x, bin) in bins.iter().enumerate() {
            let height = sum(bin, layers.get(..=index).unwrap_or_default()) / top;
            let height = whole((height * 1000.0).round());
            if height != before {
                let _ = write!(text, "H{x}V{}", float(1000 - height.min(1000)) / 10.0);
            }
            before = height;
        }
        let _ = write!(text, "H{}V100z\"/>", bins.len());
    }
    for (x, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.sums.is_some()) {
        let figures: Vec<String> = layers.iter().map(|l| format!("{} {}", number(value(bin, l)), l.1)).collect();
        let said = format!("{}: {}", bin.when, figures.join(", "));
        let _ = write!(text, "<rect class=\"tip\" x=\"{x}\" width=\"1\" height=\"100\"><title>{said}</title></rect>");
    }
    text + "</svg></div>"
}

/// The next of 1, 2, 4, 6, 8, 10 times a power of ten, so that its half is short, too.
fn round_up(value: f64) -> f64 {
    let value = if value.is_finite() { value.max(0.2) } else { 1.0 };
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * power).find(|top| *top >= value - 1e-9).unwrap_or(10.0 * power)
}

/// How much of each bin, in four shades.
fn strip(name: &str, style: &str, bins: &[Bin], fraction: impl Fn(&Bin) -> f64) -> String {
    let shade = |bin: &Bin| match fraction(bin) {
        part if part < 0.005 => 0,
        part if part < 0.25 => 1,
        part if part < 0.5 => 2,
        part if part < 0.85 => 3,
        _ => 4,
    };
    let shades: Vec<u8> = bins.iter().map(shade).collect();
    let mut text = format!(
        "<div class=\"plot row\"><div class=\"name\">{name}</div><svg class=\"strip\" viewBox=\"0 0 {} 1\" \
         preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name}\">",
        bins.len()
    );
    for wanted in 1..=4 {
        let mut path = String::new();
        let mut x = 0;
        for run in shades.chunk_by(|a, b| a == b) {
            if run.first() == Some(&wanted) {
                let _ = write!(path, "M{x} 0h{0}v1h-{0}z", run.len());
            }
            x += run.len();
        }
        if !path.is_empty() {
            let _ = write!(text, "<path class=\"{style} q{wanted}\" d=\"{path}\"/>");
        }
    }
    text + "</svg></div>"
}

/// Below the pictures, where there is room: on a narrow screen only every few of them.
fn marks(bins: &[Bin]) -> String {
    let mut text = String::new();
    let (mut next, mut next_major) = (100.0, 100.0);
    let width = float(bins.len().max(1) as u64);
    // From the right, so that a first day or month of which little is left gives way.
    for (x, mark) in bins.iter().enumerate().rev().filter_map(|(x, bin)| Some((x, bin.mark.as_ref()?))) {
        let at = 100.0 * float(x as u64) / width;
        if next - at < 5.5 {
            continue;
        }
        let is_major = next_major - at >= 20.0 || (next_major == 100.0 && at <= 84.0);
        next = at;
        if is_major {
            next_major = at;
        }
        let class = if is_major { "" } else { " class=\"minor\"" };
        let _ = write!(text, "<span{class} style=\"left:{at:.2}%\">{mark}</span>");
    }
    format!("<div class=\"plot\"><div></div><div class=\"days\">{text}</div></div>")
}

fn list(title: &str, style: &str, rows: &[Row]) -> String {
    let largest = rows.iter().map(|row| row.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut text = format!("<div class=\"card\"><h2>{title}</h2>");
    if rows.is_empty() {
        text += "<p class=\"soft\">nothing yet</p>";
    }
    for row in rows {
        let _ = write!(
            text,
            "<div class=\"item\"><div><span>{}</span><span>{}</span></div>\
             <svg viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\"><rect class=\"{style}\" width=\"{:.1}\" height=\"1\"/></svg></div>",
            escape(&row.label),
            escape(&row.text),
            (100.0 * row.value / largest).max(0.5),
        );
    }
    text + "</div>"
}
