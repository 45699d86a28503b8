//! The table of pilots: as many as there is room for, and as many columns. Pure.

use super::{Pen, clean, ink, rough};
use crate::report::{Pilot, Status};

const COLUMNS: usize = 6;
const HEADS: [&str; COLUMNS] = ["PILOT", "CLASS", "STATE", "FOR", "LEFT", "IMAGE"];
/// Columns of times stand to the right.
const RIGHT: [bool; COLUMNS] = [false, false, false, true, true, false];
/// How a narrow screen is made do, step by step: a column is shortened, or if that takes it below a width, has another
/// one; 0 leaves it out. First the image, then the class (it is in the name), then the name.
const STEPS: [(usize, usize, usize); 3] = [(5, 12, 0), (1, usize::MAX, 0), (0, 5, 5)];
const GAP: usize = 2;
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
    let heads = HEADS.map(str::to_owned);
    let cells: Vec<_> = status
        .pilots
        .iter()
        .take(rows)
        .map(|pilot| row(pen, pilot))
        .collect();
    let widths = widths(pen.width, &heads, &cells);
    let mut lines = vec![
        String::new(),
        pen.paint(ink::FAINT, line(&heads, &widths).trim_end()),
    ];
    lines.extend(cells.iter().map(|row| line(row, &widths)));
    let more = status.pilots.len() - cells.len();
    if more > 0 {
        lines.push(pen.paint(ink::FAINT, &format!("+ {more} more")));
    }
    lines
}

fn row(pen: &Pen, pilot: &Pilot) -> [String; COLUMNS] {
    let left = match pilot.deadline.map(|deadline| deadline - pen.now) {
        Some(left) if left <= 0.0 => "over".to_owned(),
        left => left.map(rough).unwrap_or_default(),
    };
    let running = pilot
        .started
        .map(|started| rough(pen.now - started))
        .unwrap_or_default();
    [
        clean(&pilot.name),
        clean(&pilot.class),
        clean(&pilot.state),
        running,
        left,
        clean(&pilot.image),
    ]
    .map(|cell| {
        if cell.is_empty() {
            "-".to_owned()
        } else {
            cell
        }
    })
}

/// The width of each column; 0: it is left out.
fn widths(
    screen: usize,
    heads: &[String; COLUMNS],
    cells: &[[String; COLUMNS]],
) -> [usize; COLUMNS] {
    let mut widths = [0; COLUMNS];
    for row in cells.iter().chain([heads]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for (column, shortest, otherwise) in STEPS {
        let total: usize = widths
            .iter()
            .filter(|width| **width > 0)
            .map(|width| width + GAP)
            .sum();
        let over = total.saturating_sub(GAP + screen);
        if let Some(width) = widths.get_mut(column).filter(|_| over > 0) {
            *width = Some(width.saturating_sub(over))
                .filter(|width| *width >= shortest)
                .unwrap_or(otherwise);
        }
    }
    widths
}

fn line(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let shown = cells
        .iter()
        .zip(*widths)
        .zip(RIGHT)
        .filter(|((_, width), _)| *width > 0);
    let shown = shown.map(|((cell, width), right)| match right {
        true => format!("{:>width$}", shorten(cell, width)),
        false => format!("{:<width$}", shorten(cell, width)),
    });
    shown.collect::<Vec<_>>().join(&" ".repeat(GAP))
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
