//! What waits for one target, and what becomes of a batch by the server's answer. Pure: the time comes in as a number.
//! A server that is away costs the oldest lines beyond the bound; one that refuses a batch costs that batch; neither can
//! keep later lines from being sent.

use crate::units::draw;

/// Bytes of encoded lines.
const BOUND: usize = 1 << 20;
/// Longest wait between two tries, in seconds, and the longest that a server may ask for.
const BACK_OFF_MOST: f64 = 60.0;
const ASKED_MOST: f64 = 600.0;

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

#[derive(Debug)]
pub struct Queue {
    /// Whole lines, the oldest first.
    text: String,
    /// At most so many bytes a batch: less after a server found one too large.
    batch_most: usize,
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
        let (text, error) = Default::default();
        Queue { text, batch_most: BOUND, flush, due, failures: 0, sent: 0, dropped: 0, errors: 0, error }
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
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(self.text.len(), |at| over + at);
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
                let last = bytes.iter().take(self.batch_most).rposition(|byte| *byte == b'\n');
                // A single line may be longer than that.
                last.or_else(|| bytes.iter().position(|byte| *byte == b'\n')).map_or(bytes.len(), |at| at + 1)
            }
        };
        let rest = self.text.split_off(cut);
        Some(std::mem::replace(&mut self.text, rest)).filter(|batch| !batch.is_empty())
    }

    /// What becomes of the batch.
    pub fn settle(&mut self, batch: String, answer: Answer, now: f64) {
        let lines = count_lines(&batch);
        match answer {
            Answer::Status { code: 200..=299, .. } => {
                self.sent += lines;
                (self.failures, self.error) = (0, None);
                self.go_on(now);
                self.batch_most = (2 * self.batch_most).min(BOUND);
            }
            Answer::Status { code: code @ 413, message, .. } if lines > 1 => {
                self.fail(format!("status {code}: {message}; sent again in smaller pieces"));
                self.batch_most = batch.len() / 2;
                self.put_back(batch);
                self.due = now;
            }
            // Sent again it would fail again.
            Answer::Status { code: code @ (400 | 402 | 405..=407 | 409..=428 | 430..=499), message, .. } => {
                let lost = told_dropped(&message).unwrap_or(lines).clamp(1, lines);
                self.sent += lines - lost;
                self.dropped += lost;
                self.fail(format!("status {code}: {message}; what it refuses is dropped"));
                self.failures = 0;
                self.go_on(now);
            }
            Answer::Status { code, message, retry_after } => {
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
        }
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
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, retry_after: Option<f64>) -> Answer {
        Answer::Status { code, message: message.to_owned(), retry_after }
    }

    /// Of ten lines: sent, dropped, left, and the seconds to the next try.
    #[test]
    fn answers() {
        let lines: String = (0..10).map(|n| format!("a v={n}\n")).collect();
        for (answer, sent, dropped, left, wait) in [
            (status(204, "", None), 10, 0, 0, 30.0..=30.0),
            (status(200, "", None), 10, 0, 0, 30.0..=30.0),
            (status(400, "partial write: x dropped=3", None), 7, 3, 0, 30.0..=30.0),
            (status(400, "partial write: x dropped=0", None), 9, 1, 0, 30.0..=30.0),
            (status(400, "unable to parse 'x'", None), 0, 10, 0, 30.0..=30.0),
            (status(422, "field type conflict", None), 0, 10, 0, 30.0..=30.0),
            (status(415, "", None), 0, 10, 0, 30.0..=30.0),
            (status(401, "authorization failed", None), 0, 0, 10, 22.0..=38.0),
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
            assert!(wait.contains(&(queue.due - 100.0)), "{answer:?}: {}", queue.due);
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
        let bounds = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0].map(|wait| wait * 0.75..=wait * 1.25);
        assert!(bounds.iter().zip(&waits).all(|(bounds, wait)| bounds.contains(wait)), "{waits:?}");
        let batch = queue.take(now).unwrap();
        assert_eq!(batch, (0..12).map(|n| format!("a v={n}\n")).collect::<String>(), "all, in order");
        queue.settle(batch, status(204, "", None), now);
        assert_eq!((queue.sent, queue.dropped, queue.due - now, queue.failures), (12, 0, 1.0, 0));
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
            let code = if batch.len() > 60 || is_poison { 413 } else { 204 };
            taken.push_str(if code == 204 { &batch } else { "" });
            queue.settle(batch, status(code, "", None), now);
        }
        let expected: String = lines.iter().filter(|line| !line.contains("line42")).map(String::as_str).collect();
        assert_eq!(taken, expected);
        assert_eq!((queue.sent, queue.dropped), (99, 1));
        assert!(requests < 150, "{requests}");
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
