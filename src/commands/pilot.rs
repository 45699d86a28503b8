//! The built-in pilot: counts the primes of a window by a plain segmented sieve, and checks itself first, so that a machine
//! that computes wrongly says nothing. Everything it did stands in the line `result:` and can be computed again anywhere.

use super::context::{Context, Done, failed, say};
use crate::units::{float, format_duration, format_rough};
use std::fmt;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(20);
const BEGIN: u64 = 1_000_000_000_000;
/// Up to here the sieving primes take 2 MB.
const LIMIT: u64 = 10_000_000_000_000;
/// Numbers that are sieved at once; their marks fit into a second-level cache.
const SEGMENT: u64 = 1 << 19;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Counts that are known.
const KNOWN: [Counted; 2] = [
    Counted {
        from: 0,
        to: 1_000_000,
        primes: 78_498,
    },
    Counted {
        from: 1_000_000_000_000,
        to: 1_000_001_000_000,
        primes: 36_249,
    },
];

/// The primes in [from, to).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub from: u64,
    pub to: u64,
    pub primes: u64,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted { from, to, primes } = self;
        write!(f, "result: kind=primes from={from} to={to} primes={primes}")
    }
}

/// Reads a `result:` line back; `None` for any other line.
pub fn parse_result(line: &str) -> Option<Counted> {
    let fields = line.trim().strip_prefix("result: kind=primes ")?;
    let number = |name: &str| {
        let mut words = fields.split(' ');
        words.find_map(|word| word.strip_prefix(name)?.parse().ok())
    };
    let (from, to, primes) = (number("from=")?, number("to=")?, number("primes=")?);
    (from <= to).then_some(Counted { from, to, primes })
}

/// Counts until the time or the window is over.
pub fn pilot(context: &Context) -> Done {
    let options = &context.options;
    let time = options.duration.unwrap_or(TIME);
    let from = options.from.unwrap_or(BEGIN);
    let to = options.to.unwrap_or(LIMIT);
    if from >= to || to > LIMIT {
        let why = format!("the end must be above the start and at most {LIMIT}");
        return Err(failed(format!("no window goes from {from} to {to}: {why}")));
    }
    let until = match options.to {
        Some(to) => format!("to {to}"),
        None => format!("for {}", format_duration(time)),
    };
    say(&format!("pilot: counting primes from {from} {until}\n"))?;
    let sieve = Sieve::new();
    for known in KNOWN {
        let counted = sieve.count(known.from, known.to);
        if counted != known.primes {
            return Err(failed(format!(
                "the self-check failed, this machine computes wrongly: expected '{known}', counted {counted}; nothing was computed"
            )));
        }
    }
    say("pilot: self-check passed, both counts as known\n")?;
    let (begin, mut next_line) = (Instant::now(), PROGRESS_EVERY);
    let mut sum = Counted {
        from,
        to: from,
        primes: 0,
    };
    while sum.to < to && (options.to.is_some() || begin.elapsed() < time) {
        let end = (sum.to + SEGMENT).min(to);
        sum.primes += sieve.count_segment(sum.to, end);
        sum.to = end;
        if begin.elapsed() >= next_line {
            next_line += PROGRESS_EVERY;
            say(&format!(
                "progress: {}, {:.2} billion numbers, {} primes\n",
                format_rough(begin.elapsed()),
                float(sum.to - from) / 1e9,
                sum.primes
            ))?;
        }
    }
    say(&format!("{sum}\n"))
}

/// The primes whose multiples are struck out.
struct Sieve(Vec<usize>);

impl Sieve {
    /// Those up to the root of [`LIMIT`].
    fn new() -> Sieve {
        let root = usize::try_from(LIMIT.isqrt()).unwrap_or(usize::MAX);
        let mut is_composite = vec![false; root + 1];
        let mut primes = Vec::new();
        for number in 2..=root {
            if is_composite.get(number) == Some(&false) {
                primes.push(number);
                strike(&mut is_composite, number * number, number);
            }
        }
        Sieve(primes)
    }

    fn count(&self, from: u64, to: u64) -> u64 {
        let segments = (to - from).div_ceil(SEGMENT);
        let begins = (0..segments).map(|number| from + number * SEGMENT);
        begins
            .map(|begin| self.count_segment(begin, (begin + SEGMENT).min(to)))
            .sum()
    }

    fn count_segment(&self, from: u64, to: u64) -> u64 {
        let index = |number: u64| usize::try_from(number - from).unwrap_or(usize::MAX);
        let mut is_composite = vec![false; index(to)];
        for prime in &self.0 {
            let square = (prime * prime) as u64;
            if square >= to {
                break;
            }
            let first = from.next_multiple_of(*prime as u64).max(square);
            strike(&mut is_composite, index(first), *prime);
        }
        let primes = is_composite
            .iter()
            .filter(|is_composite| !**is_composite)
            .count() as u64;
        // 0 and 1 are neither.
        primes - 2.min(to).saturating_sub(from)
    }
}

fn strike(is_composite: &mut [bool], first: usize, step: usize) {
    let multiples = is_composite.iter_mut().skip(first).step_by(step);
    multiples.for_each(|is_composite| *is_composite = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let sieve = Sieve::new();
        let is_prime = |n: u64| n > 1 && (2..=n.isqrt()).all(|d| !n.is_multiple_of(d));
        for from in (0..30).chain([120, 121, 127, SEGMENT - 20]) {
            for to in (from + 1..from + 40).chain([from + 700]) {
                let expected = (from..to).filter(|n| is_prime(*n)).count() as u64;
                assert_eq!(sieve.count(from, to), expected, "{from}..{to}");
            }
        }
        for (from, to, primes) in [
            (0, 10_000_000, 664_579),
            (LIMIT - 1_000, LIMIT, 26),
            (KNOWN[1].from, KNOWN[1].to, KNOWN[1].primes),
        ] {
            assert_eq!(sieve.count(from, to), primes, "{from}..{to}");
        }
    }

    #[test]
    fn lines() {
        let line = "result: kind=primes from=0 to=1000000 primes=78498";
        assert_eq!(KNOWN[0].to_string(), line);
        assert_eq!(parse_result(line), Some(KNOWN[0]));
        for bad in [
            "",
            "progress: 5s",
            "result: kind=primes from=0 to=9",
            "result: kind=other from=0 to=9 primes=4",
            "result: kind=primes from=9 to=0 primes=4",
            "result: kind=primes from=0 to=-9 primes=4",
        ] {
            assert_eq!(parse_result(bad), None, "{bad}");
        }
    }
}
