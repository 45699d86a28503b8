//! The built-in payload: counts the primes, the pairs of twin primes and the largest gap between neighbouring primes in a
//! window [from, to) of the whole numbers, with a segmented sieve over the odd ones.
//! The `result:` line can be checked anywhere: `plancton pilot --from FROM --to TO` counts the window again, and so does any
//! other program (`primesieve FROM TO-1 -c12`). Before it begins it counts two windows whose counts are known.
//! A sieve at 10^13 and its 230,000 sieving primes take about 1.5 MB.

use crate::units::{float, format_duration, format_rough};
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Windows are chosen below this.
const CHOSEN_BELOW: u64 = 10_000_000_000_000;
/// And may be asked for up to this: the sieving primes take 10 MB there.
const LIMIT: u64 = 1_000_000_000_000_000;
/// 64-bit words in a block; 256 KiB stay in the second-level cache, and each visit of a sieving prime strikes more than once.
const BLOCK_WORDS: usize = 32 * 1024;
/// How far one set of sieving primes reaches, so that positions inside fit 32 bits.
const REACH: u64 = 1 << 32;
/// A word holds the odd numbers of this many.
const NUMBERS_PER_WORD: u64 = 128;
/// The multiples of the smallest primes come as a pattern that repeats after 3*5*7*11 words.
const PATTERN_PRIMES: [usize; 4] = [3, 5, 7, 11];
const PATTERN_WORDS: usize = 1155;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Counts that are known: (from, to, primes, twins, largest gap).
const KNOWN: [(u64, u64, u64, u64, u64); 2] =
    [(0, 1_000_000, 78_498, 8_169, 114), (1_000_000_000_000, 1_000_001_000_000, 36_249, 1_746, 236)];

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

#[derive(Debug)]
pub enum PilotError {
    /// A known window was counted otherwise: this machine computes wrongly.
    SelfCheck {
        expected: Summary,
        counted: Summary,
    },
    Window(String),
    Write(io::Error),
}

impl fmt::Display for PilotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PilotError::SelfCheck { expected, counted } => write!(
                f,
                "the self-check failed, this machine computes wrongly: expected '{expected}', counted '{counted}'; nothing was computed"
            ),
            PilotError::Window(text) => f.write_str(text),
            PilotError::Write(error) => write!(f, "the result cannot be written: {error}"),
        }
    }
}

impl From<io::Error> for PilotError {
    fn from(error: io::Error) -> PilotError {
        PilotError::Write(error)
    }
}

/// Checks itself, counts until the time or the window is over, and writes its progress and the result as lines.
pub fn run(work: &Work, out: &mut dyn Write) -> Result<Summary, PilotError> {
    let from = work.from.unwrap_or_else(choose_window);
    let to = work.to.unwrap_or(LIMIT);
    if from >= to || to > LIMIT {
        return Err(PilotError::Window(format!(
            "the window from {from} to {to} is not one: the end must be above the start and at most {LIMIT}"
        )));
    }
    let until = match work.to {
        Some(to) => format!("to {to}"),
        None => format!("for {}", format_duration(work.duration)),
    };
    writeln!(out, "pilot: counting primes from {from} {until}")?;
    out.flush()?;
    self_check()?;
    let checked = KNOWN.map(|(_, _, primes, _, _)| primes.to_string());
    writeln!(out, "pilot: self-check passed, {} primes as known", checked.join(" and "))?;
    out.flush()?;

    let begin = Instant::now();
    let mut next_line = PROGRESS_EVERY;
    let mut counter = Counter::new(from, BLOCK_WORDS);
    loop {
        counter.step(to);
        let elapsed = begin.elapsed();
        let timed_out = work.to.is_none() && elapsed >= work.duration;
        if counter.sum.to >= to || timed_out {
            break;
        }
        if elapsed >= next_line {
            next_line += PROGRESS_EVERY;
            let sum = counter.sum;
            let billions = float(sum.to - sum.from) / 1e9;
            let time = format_rough(elapsed);
            writeln!(out, "progress: {time}, {billions:.1} billion numbers, {} primes", sum.primes)?;
            out.flush()?;
        }
    }
    writeln!(out, "{}", counter.sum)?;
    out.flush()?;
    Ok(counter.sum)
}

fn self_check() -> Result<(), PilotError> {
    for (from, to, primes, twins, largest_gap) in KNOWN {
        let expected = Summary { from, to, primes, twins, largest_gap };
        let counted = count(from, to, BLOCK_WORDS);
        if counted != expected {
            return Err(PilotError::SelfCheck { expected, counted });
        }
    }
    Ok(())
}

/// A start below [`CHOSEN_BELOW`] that differs from host to host and from run to run (FNV-1a of host name, time and pid).
fn choose_window() -> u64 {
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos().to_le_bytes();
    let pid = std::process::id().to_le_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in host.iter().chain(&nanos).chain(&pid) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Round, so that people can read it.
    hash % CHOSEN_BELOW / 1_000_000 * 1_000_000
}

/// One window, whole.
fn count(from: u64, to: u64, block_words: usize) -> Summary {
    let mut counter = Counter::new(from, block_words);
    while counter.sum.to < to {
        counter.step(to);
    }
    counter.sum
}

/// Counts block after block.
struct Counter {
    sieve: Sieve,
    sum: Summary,
    /// The last prime seen, 0 before the first.
    last: u64,
}

impl Counter {
    fn new(from: u64, block_words: usize) -> Counter {
        Counter {
            sieve: Sieve::new(from / NUMBERS_PER_WORD, block_words),
            sum: Summary { from, to: from, ..Summary::default() },
            last: 0,
        }
    }

    /// The next block, up to `limit` at most.
    fn step(&mut self, limit: u64) {
        let (from, to) = (self.sum.to, self.sieve.end().min(limit));
        if from <= 2 && to > 2 {
            // The one even prime is not in the sieve.
            self.sum.primes += 1;
            self.last = 2;
        }
        self.sieve.strike();
        for (index, composites) in (self.sieve.word..).zip(&self.sieve.words) {
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
        self.sieve.advance();
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

/// One block of odd numbers, a bit each: set where the number is composite.
struct Sieve {
    words: Vec<u64>,
    /// The number of the first word; word `k` begins at 128 `k`.
    word: u64,
    /// The number up to which the sieving primes suffice.
    reach: u64,
    /// Half the distance from each sieving prime (above 11) to the one before: at most 105 below 10^7.5.
    half_gaps: Vec<u8>,
    /// For each sieving prime its next odd multiple, as a position from the block's beginning.
    next: Vec<u32>,
    pattern: Vec<u64>,
}

impl Sieve {
    fn new(word: u64, block_words: usize) -> Sieve {
        let mut sieve = Sieve {
            words: vec![0; block_words],
            word,
            reach: 0,
            half_gaps: Vec::new(),
            next: Vec::new(),
            pattern: vec![0; PATTERN_WORDS],
        };
        for prime in PATTERN_PRIMES {
            strike(&mut sieve.pattern, prime / 2, prime);
        }
        sieve.find_primes();
        sieve
    }

    /// The first number after the block.
    fn end(&self) -> u64 {
        (self.word + self.words.len() as u64) * NUMBERS_PER_WORD
    }

    /// Finds the sieving primes for the next [`REACH`] numbers and their first multiples from here on.
    fn find_primes(&mut self) {
        let low = self.word * NUMBERS_PER_WORD;
        self.reach = low + REACH;
        self.half_gaps.clear();
        self.next.clear();
        // One prime in ten numbers at most: growing step by step would need the memory twice.
        let most = usize::try_from(self.reach.isqrt() / 10).unwrap_or(0);
        self.half_gaps.reserve_exact(most);
        self.next.reserve_exact(most);
        let mut last = 11;
        for prime in small_primes(self.reach.isqrt()).filter(|prime| *prime > 11) {
            self.half_gaps.push(u8::try_from((prime - last) / 2).unwrap_or(u8::MAX));
            last = prime;
            let first = (prime * prime).max((low / prime + 1) * prime);
            let odd = if first % 2 == 0 { first + prime } else { first };
            // Below REACH / 2 + prime, which fits.
            self.next.push(u32::try_from((odd - low) / 2).unwrap_or(u32::MAX));
        }
    }

    /// Sets the bits of all composites of the block.
    fn strike(&mut self) {
        let offset = usize::try_from(self.word % PATTERN_WORDS as u64).unwrap_or(0);
        let pattern = self.pattern.iter().cycle().skip(offset);
        for (word, pattern) in self.words.iter_mut().zip(pattern) {
            *word = *pattern;
        }
        if let Some(first) = self.words.first_mut().filter(|_| self.word == 0) {
            // 1 is no prime, and 3, 5, 7 and 11 are.
            *first = *first & !0b10_1110 | 1;
        }
        let block_bits = self.words.len() * 64;
        let mut prime = 11;
        for (half_gap, next) in self.half_gaps.iter().zip(&mut self.next) {
            prime += usize::from(*half_gap) * 2;
            let after = strike(&mut self.words, *next as usize, prime);
            *next = u32::try_from(after - block_bits).unwrap_or(u32::MAX);
        }
    }

    /// On to the next block.
    fn advance(&mut self) {
        self.word += self.words.len() as u64;
        if self.end() > self.reach {
            self.find_primes();
        }
    }
}

/// Sets every `step`th bit from `bit` on, and says where it would go on.
fn strike(words: &mut [u64], mut bit: usize, step: usize) -> usize {
    while let Some(word) = words.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
        bit += step;
    }
    bit
}

/// The odd primes up to and with `limit`, by the plain sieve.
fn small_primes(limit: u64) -> impl Iterator<Item = u64> {
    let size = usize::try_from(limit / NUMBERS_PER_WORD + 1).unwrap_or(1);
    let mut words = vec![0; size];
    let root = usize::try_from(limit.isqrt()).unwrap_or(0);
    for odd in (3..=root).step_by(2) {
        let is_prime = words.get(odd / 128).is_some_and(|word: &u64| word >> (odd / 2 % 64) & 1 == 0);
        if is_prime {
            strike(&mut words, odd * odd / 2, odd);
        }
    }
    (1..)
        .step_by(2)
        .zip(bits(words))
        .filter_map(move |(odd, composite)| (!composite && odd > 1 && odd <= limit).then_some(odd))
}

fn bits(words: Vec<u64>) -> impl Iterator<Item = bool> {
    words.into_iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1))
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
        for (to, primes) in [(10, 4), (100, 25), (1000, 168), (100_000, 9592), (10_000_000, 664_579)] {
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
                assert_eq!(count(from, from + 200_001, words), expected, "{from} {words}");
            }
        }
        assert_eq!(count(9_999_999_999_873, 9_999_999_999_973, 1).primes, 1);
    }

    /// A new set of sieving primes in the middle of a window changes nothing.
    #[test]
    fn beyond_reach() {
        let from = 5_000_000_000;
        let mut whole = Counter::new(from, 64);
        let mut renewed = Counter::new(from, 64);
        for _ in 0..10 {
            whole.step(LIMIT);
            renewed.sieve.reach = 0;
            renewed.step(LIMIT);
        }
        assert_eq!(whole.sum, renewed.sum);
    }

    #[test]
    fn lines() {
        let mut out = Vec::new();
        let work = Work { duration: Duration::from_secs(9), from: Some(0), to: Some(1_000_000) };
        let summary = run(&work, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(last, "result: kind=primes from=0 to=1000000 primes=78498 twins=8169 largest-gap=114");
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
        let mut work = Work { duration: Duration::from_millis(1), from: None, to: None };
        let summary = run(&work, &mut out).unwrap();
        assert!(summary.from < CHOSEN_BELOW && summary.to > summary.from && summary.primes > 0);
        assert!(summary.twins > 0 && summary.largest_gap > 0);
        for (from, to) in [(10, Some(10)), (10, Some(3)), (0, Some(LIMIT + 1)), (LIMIT, None)] {
            work.from = Some(from);
            work.to = to;
            assert!(matches!(run(&work, &mut out), Err(PilotError::Window(_))), "{from} {to:?}");
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
        assert!(matches!(run(&work, &mut Closed), Err(PilotError::Write(_))));
    }
}
