//! The table of pilots: as many as there is room for, and as many columns. Pure.

use super::{Ink, Pen, clean, rough};
use crate::report::{Pilot, Status};

const COLUMNS: usize = 6;
const HEADS: [&str; COLUMNS] = ["PILOT", "CLASS", "STATE", "FOR", "LEFT", "IMAGE"];
/// Columns of times stand to the right.
const RIGHT: [bool; COLUMNS] = [false, false, false, true, true, false];
/// What a narrow screen goes without, in this order: the image, the class (it is in the name).
const DISPENSABLE: [usize; 2] = [5, 1];
const GAP: usize = 2;
/// An image is shown from here on, cut if need be.
const SHORTEST_IMAGE: usize = 12;
/// So many pilots are shown however low the screen is.
const FEWEST: usize = 3;

/// At most `room` lines, with an empty one before; nothing at all without pilots.
pub(super) fn draw(pen: &Pen, status: &Status, room: usize) -> Vec<String> {
    if status.pilots.is_empty() {
        return Vec::new();
    }
    // The empty line and the heads take two; the line "+ 37 more" takes one only if it is needed.
    let rows = match room.saturating_sub(2) {
        rows if rows >= status.pilots.len() => rows,
        rows => rows.saturating_sub(1).max(FEWEST),
    };
    let cells: Vec<[String; COLUMNS]> = status.pilots.iter().take(rows).map(|pilot| row(pen, pilot)).collect();
    let widths = widths(pen.width, &cells);
    let mut lines = vec![String::new()];
    let heads = HEADS.map(str::to_owned);
    lines.push(pen.paint(Ink::Faint, line(&heads, &widths).trim_end()));
    lines.extend(cells.iter().map(|row| line(row, &widths)));
    let more = status.pilots.len().saturating_sub(cells.len());
    if more > 0 {
        lines.push(pen.paint(Ink::Faint, &format!("+ {more} more")));
    }
    lines
}

fn row(pen: &Pen, pilot: &Pilot) -> [String; COLUMNS] {
    let time = |since: Option<f64>| since.map_or("-".to_owned(), rough);
    let left = match pilot.deadline.map(|deadline| deadline - pen.now) {
        Some(left) if left <= 0.0 => "over".to_owned(),
        left => time(left),
    };
    let plain = |text: &str| match clean(text) {
        text if text.is_empty() => "-".to_owned(),
        text => text,
    };
    [
        plain(&pilot.name),
        plain(&pilot.class),
        plain(&pilot.state),
        time(pilot.started.map(|started| pen.now - started)),
        left,
        plain(&pilot.image),
    ]
}

/// The width of each column; 0: it is left out.
fn widths(screen: usize, cells: &[[String; COLUMNS]]) -> [usize; COLUMNS] {
    let mut widths = HEADS.map(str::len);
    for row in cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let total = |widths: &[usize; COLUMNS]| {
        let shown = widths.iter().filter(|width| **width > 0);
        shown.map(|width| width + GAP).sum::<usize>().saturating_sub(GAP)
    };
    let [name, .., image] = widths;
    let over = total(&widths).saturating_sub(screen);
    if let Some(last) = widths.last_mut().filter(|_| image >= SHORTEST_IMAGE + over) {
        *last = image - over;
        return widths;
    }
    for column in DISPENSABLE {
        if total(&widths) > screen {
            widths.iter_mut().skip(column).take(1).for_each(|width| *width = 0);
        }
    }
    let over = total(&widths).saturating_sub(screen);
    if let Some(first) = widths.first_mut() {
        *first = name.saturating_sub(over).max(HEADS.map(str::len).into_iter().max().unwrap_or(0));
    }
    widths
}

fn line(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let mut shown = Vec::new();
    for ((cell, width), right) in cells.iter().zip(*widths).zip(RIGHT) {
        if width == 0 {
            continue;
        }
        let cell = shorten(cell, width);
        shown.push(match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
    }
    shown.join(&" ".repeat(GAP))
}

/// Loses its beginning, because the end of a name or an image tells it from the others.
fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let end: String = text.chars().skip(length + 1 - width).collect();
    format!("…{end}")
}
