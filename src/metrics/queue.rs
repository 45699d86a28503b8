//! What waits for one target, and what becomes of a batch by the server's answer. Pure: the time comes in as a number.
//! A server that is away costs the oldest lines beyond the bound; one that refuses a batch costs the lines it refuses;
//! neither can keep later lines from being sent.

use crate::units::draw;

/// Bytes of encoded lines.
const BOUND: usize = 1 << 20;
/// Longest wait between two tries, in seconds, and the longest that a server may ask for.
const BACK_OFF_MOST: f64 = 60.0;
const ASKED_MOST: f64 = 600.0;
/// How often a flush that is refused is halved: enough to find a line in a full queue, or a few in a usual one.
const SPLITS: u32 = 32;

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Status {
        code: u16,
        /// The server's own words.
        message: String,
        /// Seconds.
        retry_after: Option<f64>,
    },
    /// No answer, or nothing could be asked.
    Failed(String),
}

#[derive(Debug, Default)]
pub struct Queue {
    /// Whole lines, the oldest first.
    text: String,
    /// At most so many bytes a batch: less after a server found one too large.
    batch_most: usize,
    /// Halvings that are left to this flush.
    splits: u32,
    /// Something of this flush was taken.
    takes: bool,
    /// Seconds between two batches.
    flush: f64,
    /// When the next batch goes.
    pub due: f64,
    /// Failures in a row.
    failures: i32,
    pub sent: u64,
    pub dropped: u64,
    pub errors: u64,
    pub error: Option<String>,
}

fn count_lines(text: &str) -> u64 {
    u64::try_from(text.matches('\n').count()).unwrap_or(u64::MAX)
}

impl Queue {
    /// Machines that start together do not send together.
    pub fn new(flush: f64, now: f64) -> Queue {
        let due = now + flush * draw(now);
        Queue {
            batch_most: BOUND,
            splits: SPLITS,
            flush,
            due,
            ..Queue::default()
        }
    }

    pub fn push(&mut self, lines: &str) {
        self.text.push_str(lines);
        self.keep_bound();
    }

    /// The oldest lines give way.
    fn keep_bound(&mut self) {
        let Some(over) = self.text.len().checked_sub(BOUND).filter(|over| *over > 0) else {
            return;
        };
        // At the end of the line that the bound cuts: bytes, because the bound may cut a letter too.
        let bytes = self.text.as_bytes().get(over - 1..).unwrap_or_default();
        let line = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(self.text.len(), |at| over + at);
        self.dropped += self.text.get(..line).map_or(0, count_lines);
        self.text.replace_range(..line, "");
    }

    pub fn waiting(&self) -> usize {
        self.text.len()
    }

    /// What is to be sent now, taken out; the next batch is due after the usual time, whatever comes of this one.
    pub fn take(&mut self, now: f64) -> Option<String> {
        if now < self.due {
            return None;
        }
        self.due = now + self.flush;
        let cut = match self.text.len() > self.batch_most {
            false => self.text.len(),
            true => {
                let bytes = self.text.as_bytes();
                let last = bytes
                    .iter()
                    .take(self.batch_most)
                    .rposition(|byte| *byte == b'\n');
                // A single line may be longer than that.
                last.or_else(|| bytes.iter().position(|byte| *byte == b'\n'))
                    .map_or(bytes.len(), |at| at + 1)
            }
        };
        let rest = self.text.split_off(cut);
        Some(std::mem::replace(&mut self.text, rest)).filter(|batch| !batch.is_empty())
    }

    /// What becomes of the batch.
    pub fn settle(&mut self, batch: String, answer: Answer, now: f64) {
        let lines = count_lines(&batch);
        match answer {
            Answer::Status {
                code: 200..=299, ..
            } => {
                self.sent += lines;
                (self.failures, self.takes) = (0, true);
                // What was refused in this flush stays told until one that is taken whole.
                self.error.take_if(|_| self.splits == SPLITS);
                self.go_on(now);
            }
            Answer::Status {
                code: code @ (400 | 413 | 422),
                message,
                ..
            } if lines > 1
                && (code == 413 || (self.splits > 0 && told_dropped(&message).is_none())) =>
            {
                self.splits -= u32::from(code != 413);
                self.fail(format!(
                    "status {code}: {message}; sent again in smaller pieces"
                ));
                self.batch_most = batch.len() / 2;
                self.put_back(batch);
                self.due = now;
            }
            // Sent again it would fail again.
            Answer::Status {
                code: code @ (400 | 402 | 405..=407 | 409..=428 | 430..=499),
                message,
                ..
            } => {
                let lost = told_dropped(&message).unwrap_or(lines).clamp(1, lines);
                self.sent += lines - lost;
                self.dropped += lost;
                self.fail(format!(
                    "status {code}: {message}; what it refuses is dropped"
                ));
                self.failures = 0;
                self.takes |= lost < lines;
                self.go_on(now);
            }
            Answer::Status {
                code,
                message,
                retry_after,
            } => {
                self.fail(format!("status {code}: {message}; the points wait"));
                self.wait(batch, retry_after, now);
            }
            Answer::Failed(why) => {
                self.fail(format!("{why}; the points wait"));
                self.wait(batch, None, now);
            }
        }
    }

    /// One batch a flush, unless the server takes them only in pieces.
    fn go_on(&mut self, now: f64) {
        if !self.text.is_empty() && self.batch_most < BOUND {
            self.due = now;
        } else {
            // Who refuses everything is not asked about each line again.
            self.splits = if std::mem::take(&mut self.takes) {
                SPLITS
            } else {
                1
            };
        }
        self.batch_most = (2 * self.batch_most).min(BOUND);
    }

    fn fail(&mut self, error: String) {
        self.errors += 1;
        self.error = Some(error);
    }

    fn wait(&mut self, batch: String, asked: Option<f64>, now: f64) {
        self.put_back(batch);
        let doubled = self.flush * 2f64.powi(self.failures.min(16));
        let jitter = 0.75 + 0.5 * draw(now);
        let back_off = doubled.min(BACK_OFF_MOST).max(self.flush) * jitter;
        self.due = now + back_off.max(asked.unwrap_or(0.0).min(ASKED_MOST));
        self.failures = self.failures.saturating_add(1);
    }

    /// Before what has come meanwhile.
    fn put_back(&mut self, mut batch: String) {
        batch.push_str(&self.text);
        self.text = batch;
        self.keep_bound();
    }
}

/// Of a batch that was taken in part: `partial write: … dropped=2`.
fn told_dropped(message: &str) -> Option<u64> {
    let (_, number) = message.split_once("dropped=")?;
    number
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, retry_after: Option<f64>) -> Answer {
        Answer::Status {
            code,
            message: message.to_owned(),
            retry_after,
        }
    }

    /// Of ten lines: sent, dropped, left, and the seconds to the next try.
    #[test]
    fn answers() {
        let lines: String = (0..10).map(|n| format!("a v={n}\n")).collect();
        for (answer, sent, dropped, left, wait) in [
            (status(204, "", None), 10, 0, 0, 30.0..=30.0),
            (status(200, "", None), 10, 0, 0, 30.0..=30.0),
            (
                status(400, "partial write: x dropped=3", None),
                7,
                3,
                0,
                30.0..=30.0,
            ),
            (
                status(400, "partial write: x dropped=0", None),
                9,
                1,
                0,
                30.0..=30.0,
            ),
            (
                status(400, "unable to parse 'x'", None),
                0,
                0,
                10,
                0.0..=0.0,
            ),
            (
                status(422, "field type conflict", None),
                0,
                0,
                10,
                0.0..=0.0,
            ),
            (status(409, "", None), 0, 10, 0, 30.0..=30.0),
            (status(415, "", None), 0, 10, 0, 30.0..=30.0),
            (
                status(401, "authorization failed", None),
                0,
                0,
                10,
                22.0..=38.0,
            ),
            (status(403, "", None), 0, 0, 10, 22.0..=38.0),
            (status(404, "bucket not found", None), 0, 0, 10, 22.0..=38.0),
            (status(408, "", None), 0, 0, 10, 22.0..=38.0),
            (status(413, "", None), 0, 0, 10, 0.0..=0.0),
            (status(429, "", Some(100.0)), 0, 0, 10, 100.0..=100.0),
            (status(429, "", Some(1e9)), 0, 0, 10, 600.0..=600.0),
            (status(503, "", Some(1.0)), 0, 0, 10, 22.0..=38.0),
            (status(302, "", None), 0, 0, 10, 22.0..=38.0),
            (Answer::Failed("refused".to_owned()), 0, 0, 10, 22.0..=38.0),
        ] {
            let mut queue = Queue::new(30.0, 5.0);
            assert!(queue.due >= 5.0 && queue.due <= 35.0, "{}", queue.due);
            queue.push(&lines);
            assert_eq!(queue.take(queue.due - 0.1), None);
            let batch = queue.take(100.0).unwrap();
            assert_eq!((batch.as_str(), queue.waiting()), (lines.as_str(), 0));
            queue.settle(batch, answer.clone(), 100.0);
            let found = (queue.sent, queue.dropped, count_lines(&queue.text));
            assert_eq!(found, (sent, dropped, left), "{answer:?}");
            assert!(
                wait.contains(&(queue.due - 100.0)),
                "{answer:?}: {}",
                queue.due
            );
            assert_eq!(queue.error.is_some(), queue.errors == 1, "{answer:?}");
            assert_eq!(queue.error.is_none(), sent == 10, "{answer:?}");
        }
    }

    #[test]
    fn failures_wait_longer_and_longer_and_lose_nothing() {
        let (mut queue, mut now, mut waits) = (Queue::new(1.0, 0.0), 100.0, Vec::new());
        for number in 0..12 {
            queue.push(&format!("a v={number}\n"));
            let batch = queue.take(now).unwrap();
            queue.settle(batch, Answer::Failed(String::new()), now);
            waits.push(queue.due - now);
            now = queue.due;
        }
        let bounds =
            [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0].map(|wait| wait * 0.75..=wait * 1.25);
        assert!(
            bounds
                .iter()
                .zip(&waits)
                .all(|(bounds, wait)| bounds.contains(wait)),
            "{waits:?}"
        );
        let batch = queue.take(now).unwrap();
        assert_eq!(
            batch,
            (0..12).map(|n| format!("a v={n}\n")).collect::<String>(),
            "all, in order"
        );
        queue.settle(batch, status(204, "", None), now);
        assert_eq!(
            (queue.sent, queue.dropped, queue.due - now, queue.failures),
            (12, 0, 1.0, 0)
        );
    }

    #[test]
    fn too_large_is_halved_down_to_a_line() {
        let mut queue = Queue::new(30.0, 0.0);
        let lines: Vec<String> = (0..100).map(|n| format!("line{n:02} v=1\n")).collect();
        queue.push(&lines.concat());
        let (mut taken, mut requests, now) = (String::new(), 0, 50.0);
        while let Some(batch) = queue.take(now) {
            requests += 1;
            // One line is more than this server ever takes.
            let is_poison = batch.contains("line42");
            let code = if batch.len() > 60 || is_poison {
                413
            } else {
                204
            };
            taken.push_str(if code == 204 { &batch } else { "" });
            queue.settle(batch, status(code, "", None), now);
        }
        let expected: String = lines
            .iter()
            .filter(|line| !line.contains("line42"))
            .map(String::as_str)
            .collect();
        assert_eq!(taken, expected);
        assert_eq!((queue.sent, queue.dropped), (99, 1));
        assert!(requests < 150, "{requests}");
    }

    /// Line by line what a server takes of so many, in flushes of them; how many requests the dearest flush took, and the last.
    fn flushes(
        queue: &mut Queue,
        count: usize,
        lines: usize,
        takes: impl Fn(usize) -> bool,
    ) -> (String, [usize; 2]) {
        let (mut taken, mut requests) = (String::new(), Vec::new());
        for flush in 0..count {
            (flush * lines..(flush + 1) * lines).for_each(|n| queue.push(&format!("a v={n}\n")));
            let now = queue.due;
            requests.push(0);
            while let Some(batch) = queue.take(now) {
                *requests.last_mut().unwrap() += 1;
                let number = |line: &str| line.split_once('=').unwrap().1.parse::<usize>().unwrap();
                let is_taken = batch.lines().all(|line| takes(number(line)));
                taken.push_str(if is_taken { &batch } else { "" });
                queue.settle(
                    batch,
                    if is_taken {
                        status(204, "", None)
                    } else {
                        status(400, "bad", None)
                    },
                    now,
                );
            }
        }
        (
            taken,
            [*requests.iter().max().unwrap(), *requests.last().unwrap()],
        )
    }

    #[test]
    fn a_poison_line_costs_itself() {
        for poison in [0, 1, 49, 98, 99] {
            let mut queue = Queue::new(30.0, 0.0);
            let (taken, [most, _]) = flushes(&mut queue, 20, 100, |line| line % 100 != poison);
            let expected: Vec<String> = (0..2_000)
                .filter(|n| n % 100 != poison)
                .map(|n| format!("a v={n}\n"))
                .collect();
            assert_eq!(taken, expected.concat(), "line {poison} of 100");
            assert_eq!((queue.sent, queue.dropped, queue.waiting()), (1_980, 20, 0));
            assert!(most <= 20, "{most} requests for line {poison} of 100");
            assert!(queue.error.is_some());
            flushes(&mut queue, 1, 100, |_| true);
            assert_eq!(queue.error, None);
        }
        // In a full queue, as after a long outage.
        let mut queue = Queue::new(30.0, 0.0);
        let (_, [most, _]) = flushes(&mut queue, 1, 90_000, |line| line != 0);
        assert_eq!((queue.sent, queue.dropped), (89_999, 1));
        assert!(most <= 50, "{most}");
    }

    #[test]
    fn who_refuses_everything_is_not_asked_about_each_line() {
        let mut queue = Queue::new(30.0, 0.0);
        let (taken, [most, last]) = flushes(&mut queue, 20, 1_000, |_| false);
        assert_eq!((taken.as_str(), queue.sent), ("", 0));
        assert!(
            most <= 80 && last <= 3 && queue.dropped == 20_000,
            "{most}, {last}, {} dropped",
            queue.dropped
        );
        // Well again, but for a line: a half is lost, and then nothing but that line.
        flushes(&mut queue, 3, 1_000, |line| line % 1_000 != 7);
        let lost = 3_000 - queue.sent;
        assert!(
            (450..=550).contains(&lost) && queue.waiting() == 0,
            "{lost}"
        );
        // Every other line is refused: that is too dear to find out.
        let (_, [most, _]) = flushes(&mut queue, 5, 1_000, |line| line % 2 == 0);
        assert!(most <= 80, "{most}");
    }

    #[test]
    fn the_oldest_give_way() {
        let mut queue = Queue::new(30.0, 0.0);
        let line = |n: usize| format!("ö{n:06} v=\"{}\"\n", "é".repeat(n % 70));
        let mut all = String::new();
        for number in 0..20_000 {
            queue.push(&line(number));
            all.push_str(&line(number));
            assert!(queue.waiting() <= BOUND);
        }
        assert!(queue.waiting() > BOUND - 200 && queue.dropped > 0);
        assert!(all.ends_with(&queue.text) && queue.text.starts_with('ö'));
        assert_eq!(queue.dropped + count_lines(&queue.text), 20_000);
        // What comes while a batch is under way counts too.
        let batch = queue.take(100.0).unwrap();
        queue.push(&line(7));
        queue.settle(batch, Answer::Failed(String::new()), 100.0);
        assert!(queue.waiting() <= BOUND && queue.text.ends_with(&line(7)));
        queue.push(&"x".repeat(2 * BOUND));
        assert_eq!(queue.waiting(), 0, "a line that can't be kept is none");
    }
}
