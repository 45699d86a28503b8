//! What this machine gave, as one HTML page with its pictures in it. Pure. Pictures stretch with the page, texts do not: they
//! stand beside the pictures, placed by per cent. Whatever comes from outside is escaped.

use super::history::{Row, cpu_time, grouped, parts, word};
use super::{clean, number, rough};
use crate::decide::EndKind;
use crate::record::{Hours, Sums, by_day, local, total};
use crate::units::{float, whole};
use jiff::{ToSpan, civil::Weekday, tz::TimeZone};
use std::fmt::Write;

/// So much is shown hour by hour, the rest by day.
const BY_HOUR: u64 = 14 * 24;
const BY_DAY: i64 = 366 + 30;
/// Reasons that get a row of their own.
const MOST_ROWS: usize = 8;

/// One step to the right in a picture: when that was, and the text below where there is one.
struct Bin {
    when: String,
    mark: Option<String>,
    sums: Sums,
}

/// Layers of a picture, the lowest first: style, name, value.
type Layer = (&'static str, &'static str, fn(&Sums) -> f64);

const CPU: [Layer; 2] = [
    ("given", "given", |sums| sums.given_cpu_seconds.0 / 3600.0),
    ("owner", "the owner’s", |sums| {
        sums.owner_cpu_seconds.0 / 3600.0
    }),
];
const PILOTS: [Layer; 3] = [
    ("given", "done", |sums| {
        ended(sums, |kind| kind == EndKind::Done)
    }),
    ("rule", "told to end", |sums| ended(sums, is_by_rule)),
    ("bad", "failed", |sums| {
        ended(sums, |kind| kind != EndKind::Done && !is_by_rule(kind))
    }),
];

fn is_by_rule(kind: EndKind) -> bool {
    matches!(kind, EndKind::Ttl | EndKind::Owner | EndKind::Drained)
}

fn ended(sums: &Sums, is_meant: fn(EndKind) -> bool) -> f64 {
    float(
        sums.ended()
            .into_iter()
            .filter(|(kind, _)| is_meant(*kind))
            .map(|(_, count)| count)
            .sum(),
    )
}

pub fn render(hours: &Hours, host: &str, now: f64, zone: &TimeZone) -> String {
    let sums = total(hours.values());
    let first = hours.keys().next().copied().unwrap_or_default();
    let (this, now) = (whole(now / 3600.0), local(whole(now), zone));
    let mut figures = figure("Hour by hour", "cores", &by_hours(hours, this, zone));
    if this.saturating_sub(first) >= BY_HOUR {
        figures += &figure("Day by day", "hours a day", &by_days(hours, &now, zone));
    }
    let lists = parts(&sums).into_iter().zip(["given", "given", "held"]);
    format!(
        include_str!("page.html"),
        style = include_str!("page.css"),
        host = escape(host),
        from = local(first * 3600, zone).strftime("%-d %B %Y"),
        to = now.strftime("%-d %B %Y, %H:%M"),
        tiles = tiles(&sums),
        figures = figures,
        lists = lists
            .map(|((title, rows), style)| list(title, style, &rows))
            .collect::<String>(),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn escape(text: &str) -> String {
    clean(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn tiles(sums: &Sums) -> String {
    let ended = sums.ended();
    let (watched, given) = (sums.observed_seconds.0.max(1.0), sums.given_cpu_seconds.0);
    let used = 100.0 * given / (given + sums.owner_cpu_seconds.0).max(1.0);
    let (held, all) = (
        100.0 * sums.held_back() / watched,
        grouped(ended.values().sum()),
    );
    let done = grouped(ended.get(&EndKind::Done).copied().unwrap_or(0));
    let tiles = [
        (cpu_time(given), "of CPU given to science".to_owned()),
        (done, format!("pilots done, of {all} that ended")),
        (
            number(given / watched),
            format!("cores given on average, {used:.0} % of all CPU in use"),
        ),
        (
            rough(sums.held_back()),
            format!("held back, {held:.0} % of the {} watched", rough(watched)),
        ),
    ];
    tiles
        .map(|(value, text)| {
            format!("<div class=\"card tile\"><b>{value}</b><span>{text}</span></div>")
        })
        .concat()
}

/// From the first hour there is, but not longer ago than is shown by the hour.
fn by_hours(hours: &Hours, this: u64, zone: &TimeZone) -> Vec<Bin> {
    let first = hours
        .range(this.saturating_sub(BY_HOUR - 1)..)
        .next()
        .map_or(this, |(hour, _)| *hour);
    let every = if this.saturating_sub(first) < 48 {
        3
    } else {
        24
    };
    let bin = |hour: u64| {
        let at = local(hour.saturating_mul(3600), zone);
        let mark = if at.hour() == 0 { "%a %-d" } else { "%H:%M" };
        Bin {
            when: at.strftime("%a %-d %b %H:%M").to_string(),
            mark: (at.hour() % every == 0).then(|| at.strftime(mark).to_string()),
            sums: hours.get(&hour).cloned().unwrap_or_default(),
        }
    };
    (first.min(this)..=this).map(bin).collect()
}

fn by_days(hours: &Hours, now: &jiff::Zoned, zone: &TimeZone) -> Vec<Bin> {
    let mut days = by_day(hours, zone);
    let earliest = now.date().checked_sub(BY_DAY.days()).unwrap_or_default();
    let first = days
        .range(earliest..)
        .next()
        .map_or(now.date(), |(date, _)| *date);
    let bin = |date: jiff::civil::Date| Bin {
        when: date.strftime("%a %-d %b %Y").to_string(),
        mark: (date.weekday() == Weekday::Monday).then(|| date.strftime("%-d %b").to_string()),
        sums: days.remove(&date).unwrap_or_default(),
    };
    first
        .series(1.day())
        .take_while(|date| *date <= now.date())
        .map(bin)
        .collect()
}

/// Three pictures above one another with one time below: CPU, pilots, reasons.
fn figure(title: &str, unit: &str, bins: &[Bin]) -> String {
    let sums = total(bins.iter().map(|bin| &bin.sums));
    let [given, owner] =
        [sums.given_cpu_seconds, sums.owner_cpu_seconds].map(|seconds| cpu_time(seconds.0));
    let mut text = format!(
        "<section class=\"card\"><div class=\"head\"><h2>{title}</h2>\
         <span class=\"soft\">{given} given, {owner} the owner’s</span></div>"
    );
    text += &plot(&format!("CPU, {unit}"), "tall", bins, &CPU);
    text += &plot("Pilots", "low", bins, &PILOTS);
    text += "<h3>Held back, by reason</h3>";
    let mut reasons: Vec<_> = sums.held_back_seconds.into_iter().collect();
    reasons.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (code, _) in reasons.into_iter().take(MOST_ROWS) {
        let seconds = |sums: &Sums| {
            sums.held_back_seconds
                .get(&code)
                .map_or(0.0, |seconds| seconds.0)
        };
        text += &strip(&word(code), "held", bins, seconds);
    }
    text += &strip("Plancton ran", "ran", bins, |sums| sums.observed_seconds.0);
    text + &marks(bins) + "</section>"
}

/// Layers on one another, a legend above and a scale beside. Each bin says its figures to the reader who points at it.
fn plot(title: &str, height: &str, bins: &[Bin], layers: &[Layer]) -> String {
    let sum =
        |bin: &Bin, layers: &[Layer]| layers.iter().map(|layer| layer.2(&bin.sums)).sum::<f64>();
    let top = round_up(bins.iter().map(|bin| sum(bin, layers)).fold(0.2, f64::max));
    let legend = layers
        .iter()
        .map(|(style, name, _)| format!("<span><i class=\"{style}\"></i>{name}</span>"));
    let mut text = format!(
        "<h3>{title}<span class=\"legend\">{}</span></h3><div class=\"plot\"><div class=\"scale\">\
         <span style=\"top:0\">{}</span><span style=\"top:50%\">{}</span><span style=\"top:100%\">0</span></div>\
         <svg class=\"{height}\" viewBox=\"0 0 {3} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">\
         <path class=\"grid\" d=\"M0 0H{3}M0 50H{3}M0 100H{3}\"/>",
        legend.collect::<String>(),
        number(top),
        number(top / 2.0),
        bins.len(),
    );
    // From the whole to the lowest layer, each over the one before: no seams.
    for (index, (style, ..)) in layers.iter().enumerate().rev() {
        let _ = write!(text, "<path class=\"{style}\" d=\"M0 100");
        for (x, bin) in bins.iter().enumerate() {
            let _ = write!(
                text,
                "V{:.1}H{}",
                100.0 - 100.0 * sum(bin, layers.get(..=index).unwrap_or_default()) / top,
                x + 1
            );
        }
        text += "V100z\"/>";
    }
    for (x, bin) in bins
        .iter()
        .enumerate()
        .filter(|(_, bin)| bin.sums.observed_seconds.0 > 0.0)
    {
        let figures = layers
            .iter()
            .map(|(_, name, of)| format!(", {} {name}", number(of(&bin.sums))));
        let said = bin.when.clone() + &figures.collect::<String>();
        let _ = write!(
            text,
            "<rect class=\"tip\" x=\"{x}\" width=\"1\" height=\"100\"><title>{said}</title></rect>"
        );
    }
    text + "</svg></div>"
}

/// The next of 1, 2, 4, 6, 8, 10 times a power of ten, so that its half is short, too.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|top| *top >= value)
        .unwrap_or(10.0 * power)
}

/// How much of the time that was watched, in four shades.
fn strip(name: &str, style: &str, bins: &[Bin], seconds: impl Fn(&Sums) -> f64) -> String {
    let shade = |bin: &Bin| {
        whole((4.0 * seconds(&bin.sums) / bin.sums.observed_seconds.0.max(1.0)).ceil()).min(4)
    };
    let mut text = format!(
        "<div class=\"plot row\"><div class=\"name\">{name}</div><svg class=\"strip\" viewBox=\"0 0 {} 1\" \
         preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name}\">",
        bins.len()
    );
    let mut x = 0;
    for run in bins.chunk_by(|a, b| shade(a) == shade(b)) {
        let (shade, width) = (run.first().map_or(0, shade), run.len());
        if shade > 0 {
            let _ = write!(
                text,
                "<rect class=\"{style} q{shade}\" x=\"{x}\" width=\"{width}\" height=\"1\"/>"
            );
        }
        x += width;
    }
    text + "</svg></div>"
}

/// Below the pictures, where there is room: on a narrow screen only every few of them.
fn marks(bins: &[Bin]) -> String {
    let mut text = String::new();
    let (mut next, mut next_major) = (100.0, 104.0);
    for (x, mark) in bins
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(x, bin)| Some((x, bin.mark.as_ref()?)))
    {
        let at = 100.0 * float(x as u64) / float(bins.len() as u64);
        if next - at >= 5.5 {
            next = at;
            let is_major = next_major - at >= 20.0;
            let style = if is_major { "major" } else { "minor" };
            next_major = if is_major { at } else { next_major };
            let _ = write!(
                text,
                "<span class=\"{style}\" style=\"left:{at:.2}%\">{mark}</span>"
            );
        }
    }
    format!("<div class=\"plot\"><div></div><div class=\"days\">{text}</div></div>")
}

fn list(title: &str, style: &str, rows: &[Row]) -> String {
    let largest = rows
        .iter()
        .map(|row| row.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut text = format!("<div class=\"card\"><h2>{title}</h2>");
    if rows.is_empty() {
        text += "<p class=\"soft\">nothing yet</p>";
    }
    for Row {
        label,
        value,
        text: said,
    } in rows
    {
        let (label, width) = (escape(label), (100.0 * value / largest).max(0.5));
        let _ = write!(
            text,
            "<div class=\"item\"><div><span>{label}</span><span>{said}</span></div><svg viewBox=\"0 0 100 1\" \
             preserveAspectRatio=\"none\"><rect class=\"{style}\" width=\"{width:.1}\" height=\"1\"/></svg></div>"
        );
    }
    text + "</div>"
}
