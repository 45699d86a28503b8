//! The two bars: who uses the processors and the memory, what is promised, what is left. Pure.
//! A kind of part differs from the others by its character as well as by its colour.

use super::{Pen, ink, number, size};
use crate::report::Status;
use crate::units::{float, whole};

/// In one unit; `None` where it was not measured.
struct Bar {
    name: &'static str,
    title: String,
    total: f64,
    owner: Option<f64>,
    pilots: Option<f64>,
    given: f64,
    reserve: f64,
    format: fn(f64) -> String,
}

/// Two bars, each with its legend below.
pub(super) fn draw(pen: &Pen, status: &Status) -> Vec<String> {
    let (cpus, memory) = (&status.cpus, &status.memory);
    let cores = if number(cpus.total) == "1" {
        "core"
    } else {
        "cores"
    };
    let cpu = Bar {
        name: "CPU",
        title: format!("{} {cores}", number(cpus.total)),
        total: cpus.total,
        owner: cpus.foreign,
        pilots: cpus.pilots,
        given: cpus.given,
        reserve: cpus.reserve,
        format: number,
    };
    let memory = Bar {
        name: "Memory",
        title: size(memory.total),
        total: float(memory.total),
        owner: memory.foreign.map(float),
        pilots: memory.pilots.map(float),
        given: float(memory.given),
        reserve: float(memory.reserve),
        format: |bytes| number(bytes / float(1 << 30)),
    };
    let mut lines = cpu.draw(pen);
    lines.push(String::new());
    lines.extend(memory.draw(pen));
    lines
}

impl Bar {
    /// The parts fill the total: what does not fit any more is cut, the reserve first.
    fn draw(&self, pen: &Pen) -> Vec<String> {
        const LEFT: usize = 8;
        let fine = |value: f64| if value > 0.0 { value.min(1e300) } else { 0.0 };
        let measured = |value: Option<f64>| value.map_or("?".to_owned(), self.format);
        let (owner, pilots) = (
            fine(self.owner.unwrap_or(0.0)),
            fine(self.pilots.unwrap_or(0.0)),
        );
        let (total, reserve) = (fine(self.total), fine(self.reserve));
        let promised = fine(self.given - pilots);
        let free = fine(total - owner - pilots - promised - reserve);
        let parts = [
            ("owner", "█", ink::OWNER, owner, measured(self.owner)),
            ("pilots", "▒", ink::GOOD, pilots, measured(self.pilots)),
            (
                "promised",
                "░",
                ink::GOOD,
                promised,
                (self.format)(promised),
            ),
            (
                "free",
                "·",
                ink::FAINT,
                free,
                measured(self.owner.map(|_| free)),
            ),
            ("reserve", "╱", ink::FAINT, reserve, (self.format)(reserve)),
        ];
        let cells = pen
            .width
            .saturating_sub(LEFT + self.title.chars().count() + 2)
            .min(64);
        let mut bar = pen.paint(ink::STRONG, &format!("{:<LEFT$}", self.name));
        let (mut reached, mut drawn) = (0.0, 0);
        let mut legend = Vec::new();
        for (name, mark, ink, amount, label) in parts {
            reached += amount;
            let end = (reached / total.max(f64::MIN_POSITIVE)).min(1.0) * float(cells as u64);
            let end = usize::try_from(whole(end.round())).unwrap_or(cells);
            bar.push_str(&pen.paint(ink, &mark.repeat(end - drawn)));
            drawn = end;
            // Only kinds that there are, but always whose machine it is and who else is there.
            if label != "0" || matches!(name, "owner" | "pilots" | "free") {
                let length = name.len() + label.chars().count() + 3;
                legend.push((format!("{} {name} {label}", pen.paint(ink, mark)), length));
            }
        }
        let rest = " ".repeat(cells - drawn);
        let mut lines = vec![format!("{bar}{rest}  {}", self.title)];
        lines.extend(
            pen.flow(legend, "   ", LEFT)
                .iter()
                .map(|line| format!("{:LEFT$}{line}", "")),
        );
        lines
    }
}
