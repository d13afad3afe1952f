//! The body of an answer as it goes out: its room is given back when the network has its bytes, and not
//! before.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tally_proto::http2;
use tonic::Status;

use super::{
    SMALL_BYTES, Shape,
    call::{Call, Going, Unsent},
    room::Along,
};

/// Bytes that are handed to h2 at once: large enough to cost nothing, and so small that a slow reader is
/// told from one that does not read.
const PART_BYTES: usize = 256 * 1024;

const _: () = assert!(http2::CLIENT_PORT.send_buffer_bytes_max >= 2 * PART_BYTES);

/// See the module.
pub(super) struct Answer {
    inner: tonic::body::Body,
    call: Arc<Call>,
    along: Option<Along>,
    /// What was made and not yet handed to h2, and what counts it.
    rest: Bytes,
    going: Option<Arc<Going>>,
}

/// Some of them, as h2 holds them.
struct Part {
    bytes: Bytes,
    going: Option<Arc<Going>>,
    _unsent: Option<Unsent>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(going) = &self.going else { return };
        going.gone.fetch_add(1, Ordering::Relaxed);
        if going.parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            going.sent.wake();
        }
    }
}

impl Answer {
    pub(super) fn new(inner: tonic::body::Body, call: Arc<Call>, along: Option<Along>) -> Answer {
        Answer { inner, call, along, rest: Bytes::new(), going: None }
    }

    fn part(&mut self) -> Bytes {
        let bytes = self.rest.split_to(self.rest.len().min(PART_BYTES));
        let going = self.going.clone();
        if let Some(going) = &going {
            going.parts.fetch_add(1, Ordering::AcqRel);
        }
        // A large unary answer is given up at its deadline; everything else by how long it waits.
        let is_timed = going.is_some() && self.call.shape() == Shape::Unary;
        let unsent = (!is_timed).then(|| self.call.unsent());
        Bytes::from_owner(Part { bytes, going, _unsent: unsent })
    }

    /// Ready when the bytes of a large unary answer have gone. Its end follows them, so that the call
    /// can be reset for as long as h2 holds some.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(going) = &self.going else { return Poll::Ready(()) };
        if self.call.shape() == Shape::Unary && going.parts.load(Ordering::Acquire) > 0 {
            going.sent.register(context.waker());
            if going.parts.load(Ordering::Acquire) > 0 {
                return Poll::Pending;
            }
        }
        self.going = None;
        Poll::Ready(())
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.part()))));
        }
        if this.poll_sent(context).is_pending() {
            return Poll::Pending;
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        match frame.into_data() {
            Ok(data) => {
                let room = this.along.as_ref().and_then(Along::take);
                if room.is_some() || data.len() > SMALL_BYTES {
                    let going = Arc::new(Going { _room: room, ..Going::default() });
                    if this.call.shape() == Shape::Unary {
                        this.call.watch(&going);
                    }
                    this.going = Some(going);
                }
                this.rest = data;
                Poll::Ready(Some(Ok(Frame::data(this.part()))))
            }
            Err(trailers) => Poll::Ready(Some(Ok(trailers))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.going.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
