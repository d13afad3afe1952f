//! Slow operations: which are told in the log, and how many lines that may be.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lines a second. A cluster that stands still makes every operation slow, and says the same of each.
pub const LINES_PER_SECOND: u32 = 5;

/// Says which operations are slow, and when one of them may have a line.
#[derive(Debug)]
pub struct Slow {
    above: Option<Duration>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    second: Option<Instant>,
    lines: u32,
    untold: u64,
}

impl Slow {
    /// Above so many ms; 0 for none.
    pub fn above_ms(ms: u64) -> Slow {
        Slow { above: (ms > 0).then(|| Duration::from_millis(ms)), told: Mutex::default() }
    }

    /// Whether an operation that took so long is one.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.above.is_some_and(|above| took > above)
    }

    /// One was slow: if it may have a line, how many before it had none.
    pub fn tell(&self) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.second.is_none_or(|began| began.elapsed() >= Duration::from_secs(1)) {
            told.second = Some(Instant::now());
            told.lines = 0;
        }
        if told.lines == LINES_PER_SECOND {
            told.untold += 1;
            return None;
        }
        told.lines += 1;
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_are_bounded_and_what_is_left_out_is_counted() {
        let slow = Slow::above_ms(500);
        assert!(
            !slow.is_slow(Duration::from_millis(500)) && slow.is_slow(Duration::from_millis(501))
        );
        let told: Vec<_> = (0..8).map(|_| slow.tell()).collect();
        assert_eq!(told[..5], [Some(0); 5]);
        assert_eq!(told[5..], [None; 3]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(slow.tell(), Some(3));
        assert_eq!(slow.tell(), Some(0));
        assert!(!Slow::above_ms(0).is_slow(Duration::MAX));
    }
}
