//! The client's session: one number for each write, so that a retry can never count twice.
//!
//! A number is unanswered until its caller has the answer or the library gave it up. The lowest
//! unanswered number travels with every write; below it the cluster forgets. At most `window`
//! numbers may be above it, and a write that would be one too many waits here.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tally_proto::v1::{SessionStamp, SessionsOpenResponse};
use tokio::{sync::Notify, time::Instant};

/// What a node may allow; it also bounds this side's memory.
const WINDOW_MAX: u64 = 65_536;

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) idle_timeout: Duration,
    window: u64,
    numbers: Mutex<Numbers>,
    room: Notify,
}

#[derive(Debug)]
struct Numbers {
    /// The lowest unanswered number; the next one if all are answered.
    low: u64,
    /// For each number from `low` on that was given out: whether it is answered.
    answered: VecDeque<bool>,
    last_used: Instant,
}

impl Numbers {
    fn next(&self) -> u64 {
        self.low + self.answered.len() as u64
    }
}

impl Session {
    pub(crate) fn new(opened: &SessionsOpenResponse) -> Self {
        Self {
            id: opened.session_id,
            idle_timeout: Duration::from_millis(opened.idle_timeout_ms.max(1)),
            window: opened.window.clamp(1, WINDOW_MAX),
            numbers: Mutex::new(Numbers {
                low: 1,
                answered: VecDeque::new(),
                last_used: Instant::now(),
            }),
            room: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a number, waiting while the window is full.
    pub(crate) async fn ticket(self: &Arc<Self>) -> Ticket {
        loop {
            let room = self.room.notified();
            if let Some(ticket) = self.try_ticket() {
                return ticket;
            }
            room.await;
        }
    }

    /// Takes a number if there is room.
    pub(crate) fn try_ticket(self: &Arc<Self>) -> Option<Ticket> {
        let mut numbers = self.lock();
        if numbers.answered.len() as u64 >= self.window {
            return None;
        }
        let sequence = numbers.next();
        numbers.answered.push_back(false);
        numbers.last_used = Instant::now();
        let has_more_room = (numbers.answered.len() as u64) < self.window;
        drop(numbers);
        if has_more_room {
            // Room often comes in bulk, when the lowest number is answered late: each that got in
            // lets the next one look.
            self.room.notify_one();
        }
        Some(Ticket { session: self.clone(), sequence })
    }

    fn answered(&self, sequence: u64) {
        let mut numbers = self.lock();
        let Some(index) = sequence.checked_sub(numbers.low) else { return };
        if let Some(answered) = numbers.answered.get_mut(index as usize) {
            *answered = true;
        }
        let before = numbers.low;
        while numbers.answered.front() == Some(&true) {
            numbers.answered.pop_front();
            numbers.low += 1;
        }
        if numbers.low > before {
            drop(numbers);
            self.room.notify_one();
        }
    }

    /// The lowest unanswered number.
    pub(crate) fn lowest_unanswered(&self) -> u64 {
        self.lock().low
    }

    /// When it has to be renewed unless it is used before.
    pub(crate) fn renew_at(&self) -> Instant {
        self.lock().last_used + self.idle_timeout / 3
    }

    pub(crate) fn renewed(&self) {
        self.lock().last_used = Instant::now();
    }
}

/// One number of a session, unanswered for as long as this lives.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) session: Arc<Session>,
    pub(crate) sequence: u64,
}

impl Ticket {
    /// The stamp for an attempt made now.
    pub(crate) fn stamp(&self) -> SessionStamp {
        SessionStamp {
            session_id: self.session.id,
            sequence: self.sequence,
            lowest_unanswered: self.session.lowest_unanswered(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.answered(self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(window: u64) -> Arc<Session> {
        let opened =
            SessionsOpenResponse { session_id: 7, idle_timeout_ms: 3000, window, header: None };
        Arc::new(Session::new(&opened))
    }

    #[tokio::test]
    async fn the_watermark_is_the_lowest_unanswered_number() {
        let session = session(10);
        let (one, two, three) =
            (session.ticket().await, session.ticket().await, session.ticket().await);
        assert_eq!((one.sequence, two.sequence, three.sequence), (1, 2, 3));
        drop(two);
        assert_eq!(three.stamp().lowest_unanswered, 1);
        drop(one);
        assert_eq!(three.stamp().lowest_unanswered, 3);
        drop(three);
        assert_eq!(session.lowest_unanswered(), 4);
        assert_eq!(session.ticket().await.sequence, 4);
    }

    #[tokio::test]
    async fn a_full_window_waits_for_its_lowest_number() {
        let session = session(3);
        let one = session.ticket().await;
        let others = [session.ticket().await, session.ticket().await];
        drop(others);
        let patience = Duration::from_millis(100);
        assert!(tokio::time::timeout(patience, session.ticket()).await.is_err());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move { session.ticket().await })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(one);
        // All three come in at once, though only one number was answered.
        for waiting in waiting {
            assert!(tokio::time::timeout(patience, waiting).await.is_ok());
        }
    }

    #[tokio::test]
    async fn use_puts_off_the_renewal() {
        let session = session(3);
        let before = session.renew_at();
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(session.ticket().await);
        assert!(session.renew_at() - before >= Duration::from_millis(5));
    }
}
