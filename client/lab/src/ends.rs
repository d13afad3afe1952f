//! The signals that end a run. They are caught from the start, so that one which comes early leaves nothing behind either.

use std::{
    future::poll_fn,
    io,
    task::Poll::{Pending, Ready},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Terminate, interrupt, and where they are not ignored, hangup and quit.
pub(crate) struct Ends(Vec<Signal>);

impl Ends {
    /// From now on none of them ends the process by itself.
    pub(crate) fn caught() -> io::Result<Ends> {
        let ignored = ignored();
        // `nohup` has hangups ignored, and catching them would undo that.
        let both = [SignalKind::hangup(), SignalKind::quit()];
        let heeded = both.into_iter().filter(|kind| ignored >> (kind.as_raw_value() - 1) & 1 == 0);
        let kinds = [SignalKind::terminate(), SignalKind::interrupt()].into_iter().chain(heeded);
        Ok(Ends(kinds.map(signal).collect::<io::Result<_>>()?))
    }

    /// Waits until one has come since they are caught.
    pub(crate) async fn come(&mut self) {
        poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Ready(()) } else { Pending }
        })
        .await;
    }
}

/// The signals that this process ignores, the lowest bit for signal 1. Where the system does not tell: all.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX)
}
