//! The body of a request as it comes in: there is room for a message before it is received, and an end
//! to waiting for the rest of it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tally_proto::{reason, status::StatusBuilder, v1::Outcome};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};

use super::{SMALL_BYTES, Shape, call::Call, room::Held};

/// A message of a stream that has begun must be there when its caller was waited for as long as this
/// in all: the deadline of a unary call that brings none.
pub(crate) const MESSAGE_TIME_MAX: Duration = super::deadline::DEADLINE_DEFAULT;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Where in its messages a body is.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// What is still to come of the message that has begun.
    missing_bytes: usize,
    complete: u64,
}

impl Messages {
    fn is_between(&self) -> bool {
        self.prefix_bytes == 0
    }

    /// Goes past these bytes. Says how long the message is that has its prefix in them, and not its end.
    fn pass(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let mut begun = None;
        while !bytes.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let n = bytes.len().min(PREFIX_BYTES - self.prefix_bytes);
                self.prefix[self.prefix_bytes..][..n].copy_from_slice(&bytes[..n]);
                self.prefix_bytes += n;
                bytes.advance(n);
                if self.prefix_bytes < PREFIX_BYTES {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.missing_bytes = u32::from_be_bytes(length) as usize;
                begun = Some(self.missing_bytes);
            }
            let n = bytes.len().min(self.missing_bytes);
            self.missing_bytes -= n;
            bytes.advance(n);
            if self.missing_bytes == 0 {
                self.prefix_bytes = 0;
                self.complete += 1;
                begun = None;
            }
        }
        begun
    }
}

/// See the module.
pub(super) struct Received {
    inner: Incoming,
    call: Arc<Call>,
    messages: Messages,
    /// For the message that is being received.
    room: Option<Held>,
    /// Bytes that wait until there is room for their message.
    waits: Option<(Bytes, BoxFuture<'static, Held>)>,
    /// How much longer the caller of a stream is waited for within one message, and since when.
    patience: Duration,
    waits_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Received {
    pub(super) fn new(inner: Incoming, call: Arc<Call>) -> Received {
        Received {
            inner,
            call,
            messages: Messages::default(),
            room: None,
            waits: None,
            patience: MESSAGE_TIME_MAX,
            waits_since: None,
            timer: None,
        }
    }

    /// Data has come. Gives back what can go on at once.
    fn receive(&mut self, data: Bytes) -> Option<Bytes> {
        if let Some(since) = self.waits_since.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
        let complete = self.messages.complete;
        let begun = self.messages.pass(&data);
        if self.messages.complete > complete {
            self.room = None;
            self.patience = MESSAGE_TIME_MAX;
            self.call.received();
        }
        match begun {
            // More than the limit is refused by who decodes it, as soon as it sees the prefix.
            Some(bytes) if bytes > SMALL_BYTES && bytes <= self.call.message_bytes_max() => {
                let room = Arc::clone(self.call.room()).request(bytes);
                self.waits = Some((data, Box::pin(room)));
                None
            }
            _ => Some(data),
        }
    }

    /// Nothing has come; perhaps for too long.
    fn poll_late(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let until = match (self.call.shape(), self.call.answer_by()) {
            (Shape::Unary, Some(deadline)) => deadline,
            _ if self.messages.is_between() => return Poll::Pending,
            _ => *self.waits_since.get_or_insert_with(Instant::now) + self.patience,
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(late(self.call.shape())))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The request was not complete in time. Nothing of it was looked at, which says nothing of what came
/// before it on its stream.
fn late(shape: Shape) -> Status {
    let message = "the deadline passed before the request had come in whole";
    let (reason, outcome) = match shape {
        Shape::Unary => (reason::NOT_PROPOSED, Outcome::NotApplied),
        Shape::Stream | Shape::Watch => (reason::DEADLINE_EXCEEDED, Outcome::Unknown),
    };
    StatusBuilder::new(Code::DeadlineExceeded, reason, message).outcome(outcome).into_tonic()
}

impl Body for Received {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if let Some((_, room)) = &mut this.waits {
                let Poll::Ready(room) = room.as_mut().poll(context) else {
                    return this.poll_late(context).map_err(Into::into);
                };
                this.room = Some(room);
                let (data, _) = this.waits.take().expect("it was just there");
                // What it waited here is not its caller's doing.
                this.waits_since = None;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Pending => return this.poll_late(context).map_err(Into::into),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(data) = this.receive(data) {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    }
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(ended) => return Poll::Ready(ended.map(|end| end.map_err(Into::into))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waits.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        message.resize(PREFIX_BYTES + bytes, 7);
        message
    }

    /// However the bytes are cut, each message is counted once, and only one that has begun and has not
    /// ended is told.
    #[test]
    fn messages_are_found_however_they_are_cut() {
        let stream: Vec<u8> = [0, 1, 9, 0, 300, 5].into_iter().flat_map(message).collect();
        for step in 1..=stream.len() {
            let mut messages = Messages::default();
            for part in stream.chunks(step) {
                let begun = messages.pass(part);
                assert!(begun.is_none() || messages.missing_bytes > 0, "{step}");
            }
            assert_eq!((messages.complete, messages.is_between()), (6, true), "{step}");
        }
        let mut messages = Messages::default();
        let half = [message(3), message(1000)[..500].to_vec()].concat();
        assert_eq!(messages.pass(&half), Some(1000));
        assert_eq!(messages.pass(&[7; 100]), None);
        assert_eq!((messages.complete, messages.missing_bytes), (1, 405));
    }
}
