//! Connections that send with fewer system calls.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is held back at most.
const WAITING_BYTES_MAX: usize = 32 << 10;

/// A larger buffer is given back when it is empty: most connections are idle most of the time.
const IDLE_BYTES_MAX: usize = 8 << 10;

/// A byte stream whose writes wait for each other until it is flushed.
///
/// HTTP/2 in `h2` sends a message of more than 256 bytes with a system call of its own if the stream
/// below takes several slices at once, and gathers up to 1,024 bytes if it does not: a connection that
/// answers 64 calls with a value of 256 bytes each makes 64 calls of the system, or two. So this says
/// that it takes one slice at a time, and keeps frame headers until what they belong to comes.
///
/// `h2` flushes whenever it has nothing more to write, so nothing waits longer than that; who uses it
/// for something else has to flush too.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tally_proto::gathered::Gathered;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let (one, mut other) = tokio::io::duplex(1024);
/// let mut one = Gathered::new(one);
/// one.write_all(b"both ").await?;
/// one.write_all(b"at once").await?;
/// one.flush().await?;
/// let mut buffer = [0; 64];
/// let read = other.read(&mut buffer).await?;
/// assert_eq!(&buffer[..read], b"both at once");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Gathered<S> {
    stream: S,
    /// Written by the user, and not yet to the stream from `sent` on.
    waiting: Vec<u8>,
    sent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    /// Over a stream.
    pub fn new(stream: S) -> Self {
        Gathered { stream, waiting: Vec::new(), sent: 0 }
    }

    /// The stream below, for another layer between the two. Nothing may have been written that was not flushed.
    pub fn into_inner(self) -> S {
        assert!(self.waiting.is_empty(), "what was written and not flushed would be lost");
        self.stream
    }

    /// Sends what waits, and then `more` of which it may send a part: how much, it says. Sends `more`
    /// only after all that waited.
    fn poll_send(&mut self, context: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = &self.waiting[self.sent..];
            let waits = waiting.len();
            if waits == 0 && more.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let stream = Pin::new(&mut self.stream);
            let sent = match (waiting, more) {
                ([], more) => ready!(stream.poll_write(context, more))?,
                (waiting, []) => ready!(stream.poll_write(context, waiting))?,
                (waiting, more) => {
                    let both = [IoSlice::new(waiting), IoSlice::new(more)];
                    ready!(stream.poll_write_vectored(context, &both))?
                }
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if sent < waits {
                self.sent += sent;
                continue;
            }
            self.sent = 0;
            self.waiting.clear();
            if self.waiting.capacity() > IDLE_BYTES_MAX {
                self.waiting = Vec::new();
            }
            if more.is_empty() || sent > waits {
                return Poll::Ready(Ok(sent - waits));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.len() + bytes.len() <= WAITING_BYTES_MAX {
            self.waiting.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_send(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context, &[]))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A stream that takes a few bytes at a time, lets the writer wait in between, and counts.
    struct Narrow {
        taken: Vec<u8>,
        calls: usize,
        at_once: usize,
        waits: bool,
    }

    impl Narrow {
        fn new(at_once: usize) -> Narrow {
            Narrow { taken: Vec::new(), calls: 0, at_once, waits: false }
        }

        fn poll_take<'a>(
            &mut self,
            context: &mut Context<'_>,
            slices: impl Iterator<Item = &'a [u8]>,
        ) -> Poll<io::Result<usize>> {
            self.waits = !self.waits;
            if self.waits {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.calls += 1;
            let before = self.taken.len();
            let bytes = slices.flatten().take(self.at_once);
            self.taken.extend(bytes);
            Poll::Ready(Ok(self.taken.len() - before))
        }
    }

    impl AsyncRead for Narrow {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_take(context, [bytes].into_iter())
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_take(context, slices.iter().map(|slice| &slice[..]))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Everything arrives once and in order, however little the stream takes at a time.
    #[tokio::test]
    async fn all_that_is_written_arrives_in_order() {
        for at_once in [1, 7, 1000, WAITING_BYTES_MAX, 1 << 20] {
            let mut gathered = Gathered::new(Narrow::new(at_once));
            let mut expected = Vec::new();
            let sizes = [0, 1, 9, 300, 16_384, 9, 16_384, 40_000, 5, WAITING_BYTES_MAX, 1];
            for (round, size) in sizes.into_iter().enumerate() {
                let bytes: Vec<_> = (0..size).map(|at| (at * 31 + round) as u8).collect();
                gathered.write_all(&bytes).await.unwrap();
                expected.extend(bytes);
                if round % 3 == 2 {
                    gathered.flush().await.unwrap();
                    assert_eq!(gathered.stream.taken, expected, "flushed at {at_once}");
                }
            }
            gathered.shutdown().await.unwrap();
            assert_eq!(gathered.stream.taken, expected, "shut down at {at_once}");
            assert!(gathered.waiting.capacity() <= IDLE_BYTES_MAX);
        }
    }

    #[tokio::test]
    async fn small_writes_leave_in_one_call_and_a_header_with_what_follows() {
        let mut gathered = Gathered::new(Narrow::new(1 << 20));
        for _ in 0..64 {
            gathered.write_all(&[7; 300]).await.unwrap();
        }
        gathered.flush().await.unwrap();
        assert_eq!(gathered.stream.calls, 1);
        gathered.write_all(&[7; 9]).await.unwrap();
        gathered.write_all(&[7; WAITING_BYTES_MAX]).await.unwrap();
        assert_eq!(gathered.stream.calls, 2);
        gathered.flush().await.unwrap();
        assert_eq!(gathered.stream.calls, 2, "nothing was left");
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_is_an_error() {
        let mut gathered = Gathered::new(Narrow::new(0));
        gathered.write_all(b"lost").await.unwrap();
        let error = gathered.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        let mut buffer = [0; 1];
        assert_eq!(gathered.read(&mut buffer).await.unwrap(), 0);
    }
}
