//! Syncs that take long, told in the log: nothing is acknowledged meanwhile, and a person who looks for
//! the cause of slow writes finds it here.

use std::time::Duration;

use tokio::time::Instant;

/// A sync that takes so long is told of. An SSD needs a few milliseconds; with this much a leader's writes
/// come near to the time after which followers doubt it. (etcd warns at a second.)
const SLOW: Duration = Duration::from_millis(500);

/// A disk that stays slow is told of this often, with the worst of that time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What has been slow since it was last told.
#[derive(Debug, Default)]
pub(super) struct SlowSyncs {
    told_at: Option<Instant>,
    count: u64,
    worst: Duration,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
struct News {
    count: u64,
    worst: Duration,
}

impl SlowSyncs {
    /// A sync has ended.
    pub(super) fn ended(&mut self, began: Instant) {
        if let Some(News { count, worst }) = self.note(began.elapsed(), Instant::now()) {
            let worst_ms = worst.as_millis() as u64;
            tracing::warn!(count, worst_ms, "the disk is slow: syncs of the log take long");
        }
    }

    fn note(&mut self, took: Duration, now: Instant) -> Option<News> {
        if took >= SLOW {
            self.count += 1;
            self.worst = self.worst.max(took);
        }
        if self.count == 0 || self.told_at.is_some_and(|at| now - at < TOLD_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(News {
            count: std::mem::take(&mut self.count),
            worst: std::mem::take(&mut self.worst),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_sync_is_told_at_once_and_further_ones_together() {
        let mut slow = SlowSyncs::default();
        let start = Instant::now();
        let mut at = |seconds, took_ms| {
            let now = start + Duration::from_secs(seconds);
            let news = slow.note(Duration::from_millis(took_ms), now)?;
            Some((news.count, news.worst.as_millis()))
        };
        assert_eq!(at(0, 499), None);
        assert_eq!(at(1, 600), Some((1, 600)));
        assert_eq!(at(2, 700), None, "it was told a second ago");
        assert_eq!(at(3, 650), None);
        assert_eq!(at(11, 3), Some((2, 700)), "what has gathered, at the next sync");
        assert_eq!(at(12, 3), None);
    }
}
