//! The sending side of a stream: packs of what is queued, each made when the connection wants one.
//!
//! A pack is bounded in calls and bytes, and what is in one counts as sent. Leaves out: who waits for the
//! answers (`pending`), and how a call gets a place in the queue (`exchange`).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use tally_proto::v1;
use tokio::{sync::mpsc, time::Instant};

use super::pending::Pending;

/// A node takes at most this many calls in one pack.
const PACK_CALLS_MAX: usize = 1024;

/// A pack is not filled above this, so that a small call does not wait behind many large ones.
pub(super) const PACK_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) call: v1::Call,
    pub(super) bytes: usize,
}

/// The stream's sending side: makes a pack of what is queued whenever the connection wants one.
pub(super) struct Packer {
    pub(super) queued: mpsc::Receiver<Queued>,
    pending: Arc<Pending>,
    /// Taken from the queue, not yet in a pack.
    pub(super) ready: Vec<Queued>,
    has_yielded: bool,
}

impl Drop for Packer {
    fn drop(&mut self) {
        // Closed first: a call that comes later finds no queue, one that came before is refused here.
        self.queued.close();
        self.pending.refuse_queued();
    }
}

impl Stream for Packer {
    type Item = v1::StreamExchangeRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ready.is_empty() {
                this.has_yielded = false;
                if ready!(this.queued.poll_recv_many(cx, &mut this.ready, PACK_CALLS_MAX)) == 0 {
                    return Poll::Ready(None);
                }
            }
            if !this.has_yielded {
                // The scheduler runs a task that was just woken next. Standing back once lets the
                // other callers, woken by the same pack of answers, queue theirs too; a lone caller
                // waits for nobody.
                this.has_yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let room = PACK_CALLS_MAX.saturating_sub(this.ready.len());
            if room > 0 {
                // Pending or closed makes no difference: there is something to send.
                let _ = this.queued.poll_recv_many(cx, &mut this.ready, room);
            }
            let Some(calls) = this.pack() else { return Poll::Ready(None) };
            if !calls.is_empty() {
                return Poll::Ready(Some(v1::StreamExchangeRequest { calls }));
            }
        }
    }
}

impl Packer {
    pub(super) fn new(queued: mpsc::Receiver<Queued>, pending: Arc<Pending>) -> Self {
        Self { queued, pending, ready: Vec::new(), has_yielded: false }
    }

    /// The next pack, empty if all callers have left; nothing if the stream has ended.
    pub(super) fn pack(&mut self) -> Option<Vec<v1::Call>> {
        let mut state = self.pending.lock();
        if state.closed {
            // The connection may hold on to this side of an ended stream: nobody must wait for that.
            self.queued.close();
            return None;
        }
        let mut bytes = 0;
        let mut fits = |queued: &Queued| {
            let first = bytes == 0;
            bytes += queued.bytes;
            first || bytes <= PACK_BYTES_MAX
        };
        let count = self.ready.iter().take_while(|queued| fits(queued)).count();
        let mut calls = Vec::with_capacity(count);
        for Queued { call, .. } in self.ready.drain(..count) {
            if let Some(waiter) = state.waiters.get_mut(&call.id) {
                waiter.sent = true;
                calls.push(call);
            }
        }
        if state.silent_since.is_none() && !calls.is_empty() {
            state.silent_since = Some(Instant::now());
            self.pending.owing.notify_one();
        }
        Some(calls)
    }
}
