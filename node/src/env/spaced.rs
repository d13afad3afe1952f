//! Lines of the log for what happens often: one at once, and then one in a while, with a count.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often the same is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Says when it is time for a line.
#[derive(Debug, Default)]
pub struct Spaced(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told_at: Option<Instant>,
    since: u64,
}

impl Spaced {
    /// It happened again. How often since the last line, this time included, if one is due.
    pub fn happened(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.since += 1;
        if state.told_at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            return None;
        }
        state.told_at = Some(Instant::now());
        Some(std::mem::take(&mut state.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_at_once_and_then_one_in_a_while() {
        let spaced = Spaced::default();
        assert_eq!(spaced.happened(), Some(1));
        for _ in 0..5 {
            assert_eq!(spaced.happened(), None);
        }
        tokio::time::advance(TOLD_EVERY).await;
        assert_eq!(spaced.happened(), Some(6));
        assert_eq!(spaced.happened(), None);
    }
}
