//! The built-in payload: counts the primes, the pairs of twin primes and the largest gap between neighbouring primes in a
//! window [from, to) of the whole numbers, with a segmented sieve over the odd ones.
//! The `result:` line can be checked anywhere: `plancton pilot --from FROM --to TO` counts the window again, and so does any
//! other program (`primesieve FROM TO-1 -c12`). Before it begins it counts two windows whose counts are known.
//! A sieve at 10^13 and its 230,000 sieving primes take about 2.5 MB.

use crate::units::{float, format_duration, format_rough};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

/// Windows are chosen below this.
const CHOSEN_BELOW: u64 = 10_000_000_000_000;
/// And may be asked for up to this: the sieving primes take 16 MB there.
const LIMIT: u64 = 1_000_000_000_000_000;
/// No machine counts as many numbers in a second; bounds how many sieving primes a window of unknown end needs.
const FASTEST: u64 = 10_000_000_000;
/// 64-bit words in a block; 256 KiB stay in the second-level cache, and each visit of a sieving prime strikes more than once.
const BLOCK_WORDS: usize = 32 * 1024;
/// A word holds the odd numbers of this many.
const NUMBERS_PER_WORD: u64 = 128;
/// The multiples of the smallest primes come as a pattern that repeats after 3*5*7*11 words.
const PATTERN_PRIMES: [usize; 4] = [3, 5, 7, 11];
const PATTERN_WORDS: usize = 1155;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Counts that are known.
const KNOWN: [Summary; 2] = [
    Summary {
        from: 0,
        to: 1_000_000,
        primes: 78_498,
        twins: 8_169,
        largest_gap: 114,
    },
    Summary {
        from: 1_000_000_000_000,
        to: 1_000_001_000_000,
        primes: 36_249,
        twins: 1_746,
        largest_gap: 236,
    },
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub duration: Duration,
    /// `None`: a place of its own choice.
    pub from: Option<u64>,
    /// The first number that is not looked at any more; `None`: as far as `duration` reaches.
    pub to: Option<u64>,
}

/// What was counted in [from, to). Twins and gaps are of two primes that are both inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub from: u64,
    pub to: u64,
    pub primes: u64,
    pub twins: u64,
    pub largest_gap: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "result: kind=primes from={} to={} primes={} twins={} largest-gap={}",
            self.from, self.to, self.primes, self.twins, self.largest_gap
        )
    }
}

/// Reads a `result:` line back; `None` for any other line.
pub fn parse_result(line: &str) -> Option<Summary> {
    let fields = line.trim().strip_prefix("result: kind=primes ")?;
    let number = |name: &str| {
        let mut words = fields.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    let summary = Summary {
        from: number("from")?,
        to: number("to")?,
        primes: number("primes")?,
        twins: number("twins")?,
        largest_gap: number("largest-gap")?,
    };
    (summary.from <= summary.to).then_some(summary)
}

/// Checks itself, counts until the time or the window is over, and writes its progress and the result as lines.
pub fn run(work: &Work, out: &mut dyn Write) -> io::Result<Summary> {
    let from = work.from.unwrap_or_else(choose_window);
    let reach = FASTEST.saturating_mul(work.duration.as_secs() + 1);
    let to = work.to.unwrap_or(from.saturating_add(reach).min(LIMIT));
    if from >= to || to > LIMIT {
        let text = format!("the end must be above the start and at most {LIMIT}");
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("no window goes from {from} to {to}: {text}"),
        ));
    }
    let until = match work.to {
        Some(to) => format!("to {to}"),
        None => format!("for {}", format_duration(work.duration)),
    };
    let mut say = |line: String| {
        let said = writeln!(out, "{line}").and_then(|()| out.flush());
        said.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the result cannot be written: {error}"),
            )
        })
    };
    say(format!("pilot: counting primes from {from} {until}"))?;
    self_check()?;
    let [first, second] = KNOWN.map(|known| known.primes);
    say(format!(
        "pilot: self-check passed, {first} and {second} primes as known"
    ))?;

    let begin = Instant::now();
    let mut next_line = PROGRESS_EVERY;
    let mut counter = Counter::new(from, to, BLOCK_WORDS);
    loop {
        counter.step();
        let sum = counter.sum;
        let elapsed = begin.elapsed();
        if sum.to >= to || work.to.is_none() && elapsed >= work.duration {
            say(sum.to_string())?;
            return Ok(sum);
        }
        if elapsed >= next_line {
            next_line += PROGRESS_EVERY;
            let (time, billions) = (format_rough(elapsed), float(sum.to - sum.from) / 1e9);
            say(format!(
                "progress: {time}, {billions:.1} billion numbers, {} primes",
                sum.primes
            ))?;
        }
    }
}

fn self_check() -> io::Result<()> {
    for known in KNOWN {
        let counted = count(known.from, known.to, BLOCK_WORDS);
        if counted != known {
            return Err(io::Error::other(format!(
                "the self-check failed, this machine computes wrongly: expected '{known}', counted '{counted}'; nothing was computed"
            )));
        }
    }
    Ok(())
}

/// A start below [`CHOSEN_BELOW`] that differs from run to run; round, so that people can read it.
fn choose_window() -> u64 {
    let random = RandomState::new().hash_one(std::process::id());
    random % CHOSEN_BELOW / 1_000_000 * 1_000_000
}

/// One window, whole.
fn count(from: u64, to: u64, block_words: usize) -> Summary {
    let mut counter = Counter::new(from, to, block_words);
    while counter.sum.to < to {
        counter.step();
    }
    counter.sum
}

/// Counts block after block.
struct Counter {
    /// What was counted up to now.
    sum: Summary,
    /// The end of the window.
    limit: u64,
    /// The last prime seen, 0 before the first.
    last: u64,
    /// The block, a bit for each odd number: set where it is composite.
    words: Vec<u64>,
    /// The number of the block's first word; word `k` begins at 128 `k`.
    word: u64,
    /// The sieving primes, those of the pattern left out.
    primes: Vec<u32>,
    /// For each prime whose square was reached its next odd multiple, as a position from the block's beginning.
    next: Vec<u32>,
    pattern: Vec<u64>,
}

impl Counter {
    fn new(from: u64, limit: u64, block_words: usize) -> Counter {
        let mut pattern = vec![0; PATTERN_WORDS];
        for prime in PATTERN_PRIMES {
            strike(&mut pattern, prime / 2, prime);
        }
        let sum = Summary {
            from,
            to: from,
            ..Summary::default()
        };
        let (words, word) = (vec![0; block_words], from / NUMBERS_PER_WORD);
        Counter {
            sum,
            limit,
            last: 0,
            words,
            word,
            primes: sieving_primes(limit),
            next: Vec::new(),
            pattern,
        }
    }

    /// The first number after the block.
    fn end(&self) -> u64 {
        (self.word + self.words.len() as u64) * NUMBERS_PER_WORD
    }

    /// Counts the block and goes on to the next.
    fn step(&mut self) {
        let (from, to) = (self.sum.to, self.end().min(self.limit));
        if from <= 2 && to > 2 {
            // The one even prime is not in the sieve.
            self.sum.primes += 1;
            self.last = 2;
        }
        self.sieve();
        for (index, composites) in (self.word..).zip(&self.words) {
            let low = index * NUMBERS_PER_WORD;
            let mut primes = !composites & window_mask(low, from, to);
            self.sum.primes += u64::from(primes.count_ones());
            while primes != 0 {
                let prime = low + 2 * u64::from(primes.trailing_zeros()) + 1;
                primes &= primes - 1;
                if self.last > 0 {
                    let gap = prime - self.last;
                    self.sum.twins += u64::from(gap == 2);
                    self.sum.largest_gap = self.sum.largest_gap.max(gap);
                }
                self.last = prime;
            }
        }
        self.sum.to = to;
        self.word += self.words.len() as u64;
    }

    /// Sets the bits of all composites of the block, and leaves `next` at the one after.
    fn sieve(&mut self) {
        let offset = usize::try_from(self.word % PATTERN_WORDS as u64).unwrap_or(0);
        for (word, pattern) in self
            .words
            .iter_mut()
            .zip(self.pattern.iter().cycle().skip(offset))
        {
            *word = *pattern;
        }
        if let Some(first) = self.words.first_mut().filter(|_| self.word == 0) {
            // 1 is no prime, and 3, 5, 7 and 11 are.
            *first = *first & !0b10_1110 | 1;
        }
        let (low, end) = (self.word * NUMBERS_PER_WORD, self.end());
        for prime in self
            .primes
            .iter()
            .skip(self.next.len())
            .map(|prime| u64::from(*prime))
        {
            if prime * prime >= end {
                break;
            }
            let first = (prime * prime).max((low / prime + 1) * prime);
            let odd = if first % 2 == 0 { first + prime } else { first };
            // At most two primes behind the block, which fits.
            self.next
                .push(u32::try_from((odd - low) / 2).unwrap_or(u32::MAX));
        }
        let block_bits = self.words.len() * 64;
        for (prime, next) in self.primes.iter().zip(&mut self.next) {
            let after = strike(&mut self.words, *next as usize, *prime as usize);
            *next = u32::try_from(after - block_bits).unwrap_or(u32::MAX);
        }
    }
}

/// The bits of the word at `low` whose numbers are in [from, to).
fn window_mask(low: u64, from: u64, to: u64) -> u64 {
    // Of the odd numbers low + 1, low + 3, …, `end - low` / 2 are below `end`.
    let below = |end: u64| match end.saturating_sub(low) / 2 {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    below(to) & !below(from)
}

/// Sets every `step`th bit from `bit` on, and says where it would go on.
fn strike(words: &mut [u64], mut bit: usize, step: usize) -> usize {
    while let Some(word) = words.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
        bit += step;
    }
    bit
}

/// The primes above 11 whose squares are at most `limit`, by the plain sieve.
fn sieving_primes(limit: u64) -> Vec<u32> {
    let root = usize::try_from(limit.isqrt()).unwrap_or(0);
    let mut words = vec![0; root / 128 + 1];
    let mut primes = Vec::new();
    for odd in (3..=root).step_by(2) {
        let is_prime = words
            .get(odd / 128)
            .is_some_and(|word: &u64| word >> (odd / 2 % 64) & 1 == 0);
        if is_prime {
            strike(&mut words, odd * odd / 2, odd);
            primes.extend(u32::try_from(odd).ok().filter(|_| odd > 11));
        }
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By division alone.
    fn slowly(from: u64, to: u64) -> Summary {
        let is_prime = |n: u64| n > 1 && (2..=n.isqrt()).all(|d| !n.is_multiple_of(d));
        let primes: Vec<u64> = (from..to).filter(|n| is_prime(*n)).collect();
        let gaps = || primes.windows(2).map(|pair| pair[1] - pair[0]);
        Summary {
            from,
            to,
            primes: primes.len() as u64,
            twins: gaps().filter(|gap| *gap == 2).count() as u64,
            largest_gap: gaps().max().unwrap_or(0),
        }
    }

    #[test]
    fn known_counts() {
        self_check().unwrap();
        for (to, primes) in [
            (10, 4),
            (100, 25),
            (1000, 168),
            (100_000, 9592),
            (10_000_000, 664_579),
        ] {
            assert_eq!(count(0, to, BLOCK_WORDS).primes, primes, "{to}");
        }
    }

    #[test]
    fn every_small_window() {
        for from in (0..40).chain([120, 121, 127, 128, 129, 16_000]) {
            for to in (from + 1..from + 50).chain([from + 700]) {
                assert_eq!(count(from, to, 2), slowly(from, to), "{from}..{to}");
            }
        }
    }

    #[test]
    fn block_size_does_not_matter() {
        for from in [1_000_003, 9_999_999_999_873] {
            let expected = count(from, from + 200_001, BLOCK_WORDS);
            for words in [13, 100, 1155] {
                assert_eq!(
                    count(from, from + 200_001, words),
                    expected,
                    "{from} {words}"
                );
            }
        }
        assert_eq!(count(9_999_999_999_873, 9_999_999_999_973, 1).primes, 1);
    }

    #[test]
    fn lines() {
        let mut out = Vec::new();
        let work = Work {
            duration: Duration::from_secs(9),
            from: Some(0),
            to: Some(1_000_000),
        };
        let summary = run(&work, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "result: kind=primes from=0 to=1000000 primes=78498 twins=8169 largest-gap=114"
        );
        assert_eq!(parse_result(last), Some(summary));
        for bad in [
            "",
            "progress: 5s",
            "result: kind=primes from=0 to=9",
            "result: kind=other from=0 to=9 primes=4 twins=2 largest-gap=2",
            "result: kind=primes from=9 to=0 primes=4 twins=2 largest-gap=2",
            "result: kind=primes from=0 to=-9 primes=4 twins=2 largest-gap=2",
        ] {
            assert_eq!(parse_result(bad), None, "{bad}");
        }
    }

    #[test]
    fn time_and_windows() {
        let mut out = Vec::new();
        let mut work = Work {
            duration: Duration::from_millis(1),
            from: None,
            to: None,
        };
        let summary = run(&work, &mut out).unwrap();
        assert!(summary.from < CHOSEN_BELOW && summary.to > summary.from && summary.primes > 0);
        assert!(summary.twins > 0 && summary.largest_gap > 0);
        for (from, to) in [
            (10, Some(10)),
            (10, Some(3)),
            (0, Some(LIMIT + 1)),
            (LIMIT, None),
        ] {
            work.from = Some(from);
            work.to = to;
            let error = run(&work, &mut out).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{from} {to:?}");
        }
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        work.from = Some(0);
        work.to = Some(100);
        assert_eq!(
            run(&work, &mut Closed).unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
    }
}
