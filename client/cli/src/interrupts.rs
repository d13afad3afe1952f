//! Ctrl-C and SIGTERM, for commands that have something to say, or to remove, before they end.
//!
//! The first one cuts the work short; what was measured is printed, and what was made removed. Each further one
//! ends what is waited for then: calls without an answer, or the removal. One too many ends the process.

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::output::Exit;

/// The work, the calls that are under way, the removal: there is nothing else to wait for.
const ENDINGS: u32 = 3;

/// How often somebody wanted this process to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts(watch::Receiver<u32>);

/// Commands that listen now.
static LISTENING: AtomicU32 = AtomicU32::new(0);

struct Listening;

impl Listening {
    fn begin() -> Self {
        LISTENING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends this process at SIGTERM while no command listens for it: once one has, the signal no longer does that by
/// itself, and a shell lives longer than its commands. On a thread of its own, as an editor blocks the shell's.
pub(crate) fn end_at_sigterm() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            while terminate.recv().await.is_some() {
                if LISTENING.load(Ordering::Relaxed) == 0 {
                    std::process::exit(Exit::CutShort as i32);
                }
            }
        });
    });
}

impl Interrupts {
    /// From here on, a signal no longer ends the process by itself.
    pub(crate) fn listen() -> Self {
        let (count, counted) = watch::channel(0);
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        if let (Ok(mut interrupt), Ok(mut terminate)) = signals {
            let listening = Listening::begin();
            tokio::spawn(async move {
                let _listening = listening;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        // The command is over; a shell goes on, and its next one listens by itself.
                        () = count.closed() => return,
                    }
                    if *count.borrow() >= ENDINGS {
                        std::process::exit(Exit::CutShort as i32);
                    }
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        Self(counted)
    }

    /// For work that ends when whoever waits for it no longer does.
    pub(crate) fn never() -> Self {
        Self(watch::channel(0).1)
    }

    pub(crate) fn is_cut_short(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Returns after so many of them, if there ever are.
    async fn after(&self, count: u32) {
        let mut counted = self.0.clone();
        if counted.wait_for(|counted| *counted >= count).await.is_err() {
            // Nobody listens any more, so there will be no other.
            std::future::pending().await
        }
    }

    /// Returns at the first.
    pub(crate) async fn first(&self) {
        self.after(1).await;
    }

    /// Does it, unless the work is cut short.
    pub(crate) async fn work<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.after(1) => None,
        }
    }

    /// Does what comes behind the work, until somebody does not want to wait for that either.
    pub(crate) async fn ending<T>(&self, ending: impl Future<Output = T>) -> Option<T> {
        let so_far = *self.0.borrow();
        tokio::select! {
            done = ending => Some(done),
            () = self.after(so_far + 1) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    /// A shell runs many commands: signals are not counted on for one that is over, until they are too many.
    #[tokio::test]
    async fn nobody_counts_for_a_command_that_is_over() {
        drop(Interrupts::listen());
        let next = Interrupts::listen();
        kill_process(getpid(), Signal::INT).unwrap();
        next.first().await;
        drop(next);
        for _ in 0..=ENDINGS {
            tokio::time::sleep(Duration::from_millis(20)).await;
            kill_process(getpid(), Signal::INT).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
