//! A word to whoever waits at a terminal: what is in the way, and for how long it is still tried.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use tally_client::Trouble;
use tokio::time::timeout;

use crate::output::{escaped, forget_printed, has_printed, note};

/// Nobody wonders before.
pub(crate) const SILENT_FOR: Duration = Duration::from_secs(1);

/// What each node that was asked last said, or why it said nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<BTreeMap<String, String>>>);

impl Waiting {
    /// Takes note of an attempt that failed.
    pub(crate) fn note(&self, trouble: &Trouble<'_>) {
        // Messages of connections begin with the address.
        let message = trouble.message.strip_prefix(trouble.node).unwrap_or(trouble.message);
        let message = message.trim_start_matches(": ").to_owned();
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.insert(trouble.node.to_owned(), message);
    }

    /// Another command begins: what was said of those before is forgotten.
    pub(crate) fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        forget_printed();
    }

    /// Does it, and says after a moment what is in the way, if somebody looks.
    pub(crate) async fn tell<T>(&self, deadline: Duration, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        if !io::stderr().is_terminal() || deadline <= SILENT_FOR {
            return work.await;
        }
        // What it reads from standard input it reads before it waits for anything, and that is no wait.
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await
        {
            return done;
        }
        if let Ok(done) = timeout(SILENT_FOR, &mut work).await {
            return done;
        }
        if !has_printed() {
            note(&self.text(deadline - SILENT_FOR));
        }
        work.await
    }

    fn text(&self, left: Duration) -> String {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = troubles.iter().map(|(node, why)| format!("{node} ({})", escaped(why)));
        let nodes: Vec<String> = nodes.collect();
        let from =
            if nodes.is_empty() { String::new() } else { format!(" from {}", nodes.join(", ")) };
        format!("no answer{from} yet; still trying for {} s", left.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_named_with_what_it_said_last() {
        let waiting = Waiting::default();
        assert_eq!(waiting.text(Duration::from_secs(9)), "no answer yet; still trying for 9 s");
        let mut troubles = waiting.0.lock().unwrap();
        troubles.insert("a:7401".into(), "Connection refused (os error 111)".into());
        troubles.insert("b:7401".into(), "no quorum".into());
        drop(troubles);
        let text = "no answer from a:7401 (Connection refused (os error 111)), b:7401 (no quorum) yet; \
                    still trying for 4 s";
        assert_eq!(waiting.text(Duration::from_secs(4)), text);
    }
}
