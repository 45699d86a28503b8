//! What waits for one target, and what becomes of a batch by the server's answer. Pure: the time comes in as a number.
//! A server that is away costs the oldest lines beyond the bound; one that refuses lines costs those lines; neither can
//! keep later lines from being sent.

use crate::report::Sink;
use crate::units::draw;

/// Bytes of encoded lines.
const BOUND: usize = 1 << 20;
/// Longest wait between two tries, in seconds, and the longest that a server may ask for.
const BACK_OFF_MOST: f64 = 60.0;
const ASKED_MOST: f64 = 600.0;
/// How often a flush that is refused is halved: enough to find a line in a full queue, or a few in a usual one.
const SPLITS: u32 = 20;

/// What came of a batch, with the server's words.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Taken,
    TooLarge(String),
    /// The server says that lines are bad: how many, where it has taken the others.
    BadLines(String, Option<u64>),
    /// Nothing is wrong with the lines. The status, 0 where there was no answer; and how many seconds the server asks to wait.
    Failed(u16, String, Option<f64>),
}

#[derive(Debug, Default, PartialEq)]
pub enum Phase {
    #[default]
    Sending,
    /// The next batch is the last one.
    Ending,
    Ended,
}

#[derive(Debug, Default)]
pub struct Queue {
    /// Whole lines, the oldest first.
    text: String,
    /// At most so many bytes a batch: less after a server found one too large.
    batch_most: usize,
    /// Halvings that are left to this flush.
    splits: u32,
    /// Seconds between two batches.
    flush: f64,
    /// When the next batch goes.
    pub due: f64,
    pub phase: Phase,
    /// Failures in a row.
    failures: i32,
    pub health: Sink,
}

fn count_lines(text: &str) -> u64 {
    u64::try_from(text.matches('\n').count()).unwrap_or(u64::MAX)
}

impl Queue {
    /// Machines that start together do not send together.
    pub fn new(flush: f64, now: f64) -> Queue {
        Queue {
            batch_most: BOUND,
            splits: SPLITS,
            flush,
            due: now + flush * draw(now),
            ..Queue::default()
        }
    }

    /// The oldest lines give way to what is too much.
    pub fn push(&mut self, lines: &str) {
        self.text.push_str(lines);
        if self.text.len() > BOUND {
            let over = self.text.len() - BOUND;
            let cut = self.end_of_line(over - 1);
            self.health.dropped += self.text.get(..cut).map_or(0, count_lines);
            self.text.replace_range(..cut, "");
        }
    }

    /// The place behind the line that the byte `at` is in.
    fn end_of_line(&self, at: usize) -> usize {
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        end.map_or(self.text.len(), |end| at + end + 1)
    }

    pub fn health(&self) -> Sink {
        Sink {
            waiting_bytes: self.text.len(),
            ..self.health.clone()
        }
    }

    /// What is to be sent now, taken out; the next batch is due after the usual time, whatever comes of this one.
    pub fn take(&mut self, now: f64) -> Option<String> {
        if now < self.due {
            return None;
        }
        self.due = now + self.flush;
        let most = self.text.as_bytes().get(..self.batch_most);
        let last = most.and_then(|bytes| bytes.iter().rposition(|byte| *byte == b'\n'));
        let cut = match (most, last) {
            (None, _) => self.text.len(),
            (Some(_), Some(last)) => last + 1,
            // A single line may be longer than that.
            (Some(_), None) => self.end_of_line(0),
        };
        let rest = self.text.split_off(cut);
        Some(std::mem::replace(&mut self.text, rest)).filter(|batch| !batch.is_empty())
    }

    /// What becomes of the batch.
    pub fn settle(&mut self, batch: String, answer: Answer, now: f64) {
        let lines = count_lines(&batch);
        match answer {
            Answer::Taken => {
                self.health.sent += lines;
                // What was refused in this flush stays told until one that is taken whole.
                self.health.error.take_if(|_| self.splits == SPLITS);
                self.go_on(now);
            }
            Answer::TooLarge(why) if lines > 1 => self.send_halves(batch, why, now),
            Answer::BadLines(why, None) if lines > 1 && self.splits > 0 => {
                self.splits -= 1;
                self.send_halves(batch, why, now);
            }
            Answer::TooLarge(why) => self.drop_lines(lines, lines, why, now),
            Answer::BadLines(why, bad) => self.drop_lines(lines, bad.unwrap_or(lines), why, now),
            Answer::Failed(_, why, asked) => {
                self.fail(format!("{why}; the points wait"));
                self.put_back(batch);
                let doubled = self.flush * 2f64.powi(self.failures.min(16));
                let back_off = doubled.min(BACK_OFF_MOST).max(self.flush);
                let asked = asked.unwrap_or(0.0).min(ASKED_MOST);
                self.due = now + asked.max(back_off * (0.75 + 0.5 * draw(now)));
                self.failures += 1;
            }
        }
    }

    fn send_halves(&mut self, batch: String, why: String, now: f64) {
        self.fail(format!("{why}; sent again in smaller pieces"));
        self.batch_most = batch.len() / 2;
        self.put_back(batch);
        self.due = now;
    }

    fn drop_lines(&mut self, lines: u64, bad: u64, why: String, now: f64) {
        let bad = bad.clamp(1, lines);
        self.health.sent += lines - bad;
        self.health.dropped += bad;
        self.fail(format!("{why}; what it refuses is dropped"));
        self.go_on(now);
    }

    /// One batch a flush, unless the server takes them only in pieces.
    fn go_on(&mut self, now: f64) {
        self.failures = 0;
        if !self.text.is_empty() && self.batch_most < BOUND {
            self.due = now;
        } else {
            self.splits = SPLITS;
        }
        self.batch_most = (2 * self.batch_most).min(BOUND);
    }

    fn fail(&mut self, error: String) {
        self.health.errors += 1;
        self.health.error = Some(error);
    }

    /// Before what has come meanwhile.
    fn put_back(&mut self, batch: String) {
        let newer = std::mem::replace(&mut self.text, batch);
        self.push(&newer);
    }
}
