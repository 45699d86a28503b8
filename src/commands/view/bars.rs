//! The two bars: who uses the processors and the memory, what is promised, what is left. Pure.
//! A kind of part differs from the others by its character as well as by its colour.

use super::{Ink, Pen, number, size};
use crate::report::Status;
use crate::units::{float, whole};

/// One kind of part, in the order of the bar.
struct Part {
    name: &'static str,
    mark: char,
    ink: Ink,
    amount: f64,
    /// As text, in the unit of the bar.
    label: String,
}

/// Two bars, each with its legend below.
pub(super) fn draw(pen: &Pen, status: &Status, lines: &mut Vec<String>) {
    let cpus = &status.cpus;
    let amounts = Amounts {
        total: cpus.total,
        owner: cpus.foreign,
        pilots: cpus.pilots,
        given: cpus.given,
        reserve: cpus.reserve,
    };
    let cores = if number(cpus.total) == "1" { "core" } else { "cores" };
    let title = format!("{} {cores}", number(cpus.total));
    bar(pen, "CPU", &title, &amounts.parts(number), lines);
    lines.push(String::new());
    let memory = &status.memory;
    let amounts = Amounts {
        total: float(memory.total),
        owner: memory.foreign.map(float),
        pilots: memory.pilots.map(float),
        given: float(memory.given),
        reserve: float(memory.reserve),
    };
    let gib = |bytes: f64| number(bytes / float(1 << 30));
    bar(pen, "Memory", &size(memory.total), &amounts.parts(gib), lines);
}

/// In one unit; `None` where it was not measured.
struct Amounts {
    total: f64,
    owner: Option<f64>,
    pilots: Option<f64>,
    given: f64,
    reserve: f64,
}

impl Amounts {
    /// The parts fill the total: what does not fit any more is cut, the reserve first.
    fn parts(&self, format: impl Fn(f64) -> String) -> Vec<Part> {
        let measured = |value: Option<f64>| value.map_or("?".to_owned(), &format);
        let fine = |value: f64| {
            if value.is_finite() { value.max(0.0) } else { 0.0 }
        };
        let (owner, pilots) = (fine(self.owner.unwrap_or(0.0)), fine(self.pilots.unwrap_or(0.0)));
        let (total, reserve) = (fine(self.total), fine(self.reserve));
        let promised = (fine(self.given) - pilots).max(0.0);
        let free = (total - owner - pilots - promised - reserve).max(0.0);
        let mut parts = vec![
            part("owner", '█', Ink::Owner, owner, measured(self.owner)),
            part("pilots", '▒', Ink::Good, pilots, measured(self.pilots)),
            part("promised", '░', Ink::Good, promised, format(promised)),
            part("free", '·', Ink::Faint, free, measured(self.owner.map(|_| free))),
            part("reserve", '╱', Ink::Faint, reserve, format(reserve)),
        ];
        let mut left = total;
        for part in &mut parts {
            let amount = part.amount.clamp(0.0, left);
            left -= amount;
            part.amount = amount / total.max(f64::MIN_POSITIVE);
        }
        parts
    }
}

fn part(name: &'static str, mark: char, ink: Ink, amount: f64, label: String) -> Part {
    Part { name, mark, ink, amount, label }
}

fn bar(pen: &Pen, name: &str, title: &str, parts: &[Part], lines: &mut Vec<String>) {
    const LEFT: usize = 8;
    let cells = pen.width.saturating_sub(LEFT + title.chars().count() + 2).min(64);
    let mut bar = String::new();
    let (mut reached, mut drawn) = (0.0, 0);
    for part in parts {
        reached += part.amount;
        let end = usize::try_from(whole((reached * float(cells as u64)).round())).unwrap_or(0);
        let count = end.min(cells).saturating_sub(drawn);
        drawn += count;
        bar.push_str(&pen.paint(part.ink, &part.mark.to_string().repeat(count)));
    }
    let rest = " ".repeat(cells.saturating_sub(drawn));
    let name = pen.paint(Ink::Strong, &format!("{name:<LEFT$}"));
    lines.push(format!("{name}{bar}{rest}  {title}"));

    // The legend: only kinds that there are, but always whose machine it is and who else is there.
    let mut line = " ".repeat(LEFT);
    let mut used = LEFT;
    let worth_naming = |part: &&Part| part.label != "0" || matches!(part.name, "owner" | "pilots" | "free");
    for part in parts.iter().filter(worth_naming) {
        let length = part.name.len() + part.label.chars().count() + 3;
        if used > LEFT && used + 3 + length > pen.width {
            lines.push(std::mem::replace(&mut line, " ".repeat(LEFT)));
            used = LEFT;
        }
        if used > LEFT {
            line.push_str("   ");
            used += 3;
        }
        let mark = pen.paint(part.ink, &part.mark.to_string());
        line.push_str(&format!("{mark} {} {}", part.name, part.label));
        used += length;
    }
    lines.push(line);
}
