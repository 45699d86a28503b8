//! The built-in pilot: counts the primes of a window by a plain segmented sieve, and checks itself first, so that a machine
//! that computes wrongly says nothing. Everything it did stands in the line `result:` and can be computed again anywhere.

use super::context::{Context, Done, say};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(20);
const BEGIN: u64 = 1_000_000_000_000;
/// Up to here the sieving primes take 2 MB.
const LIMIT: u64 = 10_000_000_000_000;
/// Numbers that are sieved at once; their marks fit into a second-level cache.
const SEGMENT: u64 = 1 << 19;
/// What a line with a result begins with.
pub const RESULT: &str = "result: kind=primes";
/// From, to, and how many primes are known to be between.
const KNOWN: [(u64, u64, u64); 2] = [
    (0, 1_000_000, 78_498),
    (1_000_000_000_000, 1_000_001_000_000, 36_249),
];

/// Counts until the time or the window is over.
pub fn pilot(context: &Context) -> Done {
    let options = &context.options;
    let time = options.duration.unwrap_or(TIME);
    let (from, end) = (options.from.unwrap_or(BEGIN), options.to.unwrap_or(LIMIT));
    if from >= end || end > LIMIT {
        let hint = format!("the end must be above the start and at most {LIMIT}");
        return Err(format!("no window goes from {from} to {end}: {hint}").into());
    }
    say(&format!("pilot: counting primes from {from}\n"))?;
    let sieve = Sieve::new();
    for (from, to, known) in KNOWN {
        let (_, counted) = sieve.count(from, to, None);
        if counted != known {
            let wrong = format!("{counted} primes from {from} to {to} instead of {known}");
            return Err(
                format!("this machine computes wrongly: {wrong}; nothing was computed").into(),
            );
        }
    }
    say("pilot: self-check passed, both counts as known\n")?;
    let time = options.to.is_none().then_some(time);
    let (to, primes) = sieve.count(from, end, time);
    say(&format!("{RESULT} from={from} to={to} primes={primes}\n"))
}

/// The primes up to the root of [`LIMIT`], whose multiples are struck out.
struct Sieve(Vec<u64>);

impl Sieve {
    fn new() -> Sieve {
        let root = LIMIT.isqrt();
        let mut is_composite = vec![false; index(root) + 1];
        let mut primes = Vec::new();
        for number in 2..=root {
            if is_composite.get(index(number)) == Some(&false) {
                primes.push(number);
                strike(&mut is_composite, number * number, number);
            }
        }
        Sieve(primes)
    }

    /// Until the end or the time is reached: the first number that was not looked at, and how many were primes.
    fn count(&self, from: u64, end: u64, time: Option<Duration>) -> (u64, u64) {
        let start = Instant::now();
        let (mut to, mut primes) = (from, 0);
        while to < end && time.is_none_or(|time| start.elapsed() < time) {
            let next = (to + SEGMENT).min(end);
            primes += self.count_segment(to, next);
            to = next;
        }
        (to, primes)
    }

    fn count_segment(&self, from: u64, to: u64) -> u64 {
        let mut is_composite = vec![false; index(to - from)];
        for prime in self.0.iter().take_while(|prime| *prime * *prime < to) {
            let first = from.next_multiple_of(*prime).max(prime * prime);
            strike(&mut is_composite, first - from, *prime);
        }
        let primes = is_composite.iter().filter(|is_composite| !**is_composite);
        // 0 and 1 are neither.
        primes.count() as u64 - 2.min(to).saturating_sub(from)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn strike(is_composite: &mut [bool], first: u64, step: u64) {
    let multiples = is_composite
        .iter_mut()
        .skip(index(first))
        .step_by(index(step));
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
                assert_eq!(sieve.count(from, to, None), (to, expected), "{from}..{to}");
            }
        }
        for (from, to, primes) in [
            (0, 10_000_000, 664_579),
            (LIMIT - 1_000, LIMIT, 26),
            KNOWN[1],
        ] {
            assert_eq!(sieve.count(from, to, None), (to, primes), "{from}..{to}");
        }
    }
}
