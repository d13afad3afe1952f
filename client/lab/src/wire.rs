//! What travels between nodes, by what it is: an observer beside the copy reads HTTP/2 as it passes.
//!
//! A connection between nodes carries gRPC over HTTP/2 from its first byte, so who reads along knows of each piece of
//! data which call it belongs to, and of each call what was asked for. An [`Observer`] has one direction of one
//! connection and counts the messages that passed whole ([`Carried`]).
//!
//! It only looks. It gets bytes that are carried in any case and gives none back, so nothing depends on what it makes
//! of them. It is never wrong on purpose: from where it does not understand a connection, it counts nothing more of
//! it, in either direction. It keeps a connection's open calls, one block of headers and what HPACK remembers, each up
//! to what a node's port allows; the rest is passed over.

mod message;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use loona_hpack::Decoder;
use serde::Serialize;
use tally_proto::http2::{PEER, PEER_PORT};

use self::message::Messages;

/// Calls of a connection that are remembered at once. A node has fewer open ([`PEER_PORT`]); twice as many, as one that
/// was given up may be followed by its successor before the node has seen that.
const CALLS_MAX: usize = 2 * PEER_PORT.calls_max as usize;

/// Messages between nodes that have passed whole; of a link, since the lab began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// Votes that were asked for and the answers to that, in advance (pre-votes) as well.
    pub votes: u64,
    /// Appends with entries.
    pub appends: u64,
    /// Appends without: heartbeats, and what else tells how far the log is committed.
    pub heartbeats: u64,
    /// Answers to appends of both kinds, and to snapshots.
    pub answers: u64,
    /// Parts of snapshots.
    pub snapshots: u64,
    /// All else that nodes ask each other, and the answers to it.
    pub others: u64,
}

impl Carried {
    fn count(&mut self, kind: Kind) {
        *match kind {
            Kind::Vote => &mut self.votes,
            Kind::Append => &mut self.appends,
            Kind::Heartbeat => &mut self.heartbeats,
            Kind::Answer => &mut self.answers,
            Kind::Snapshot => &mut self.snapshots,
            Kind::Other => &mut self.others,
        } += 1;
    }
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, more: Carried) {
        self.votes += more.votes;
        self.appends += more.appends;
        self.heartbeats += more.heartbeats;
        self.answers += more.answers;
        self.snapshots += more.snapshots;
        self.others += more.others;
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vote,
    Append,
    Heartbeat,
    Answer,
    Snapshot,
    Other,
}

/// What a call asks for, as far as its messages are told apart by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Vote,
    Append,
    Snapshot,
    Other,
}

impl Method {
    /// By the call's path: service and method, as `peer.proto` has them.
    fn of(path: &[u8]) -> Method {
        match path.strip_prefix(b"/tally.peer.v1.Peer/") {
            Some(b"Vote" | b"PreVote") => Method::Vote,
            Some(b"Append") => Method::Append,
            Some(b"InstallSnapshot") => Method::Snapshot,
            _ => Method::Other,
        }
    }
}

/// What the two directions of a connection know of each other.
#[derive(Default)]
struct Shared {
    /// Open calls by their stream.
    calls: BTreeMap<u32, Call>,
    /// The stream of the newest call. Who dialled opens them in growing order.
    newest: u32,
    /// Something came that was not understood.
    is_lost: bool,
}

/// An open call.
struct Call {
    method: Method,
    /// Its messages: of who asks, …
    asked: Messages,
    /// … and of who answers.
    answered: Messages,
}

/// Not understood: no more is told of this connection.
#[derive(Debug)]
struct Lost;

/// Reads one direction of a connection.
pub struct Observer {
    shared: Arc<Mutex<Shared>>,
    /// It is the direction of who dialled, and has what only that needs.
    asking: Option<Asking>,
    /// What is still to come of the first bytes.
    preface: &'static [u8],
    /// Nothing came yet behind the preface.
    is_first: bool,
    /// A frame's head as far as it came, …
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    /// … and the frame whose payload comes now.
    frame: Option<Frame>,
    /// The call whose headers go on in the next frame.
    headers_of: Option<u32>,
}

/// What the direction of who dialled has: the paths of calls are among its headers. Those of answers are not needed.
struct Asking {
    decoder: Decoder<'static>,
    /// The headers of one call, as they are coded.
    block: Vec<u8>,
}

/// A frame's head: length, type, flags and stream.
const HEAD_BYTES: usize = 9;

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Their flags.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What [`PRIORITY`] says, before the headers.
const PRIORITY_BYTES: usize = 5;

/// Makes the observers of a new connection: of what its client sends, and of what its server does.
pub fn observers() -> (Observer, Observer) {
    let shared = Arc::<Mutex<Shared>>::default();
    let observer = |asking, preface| Observer {
        shared: Arc::clone(&shared),
        asking,
        preface,
        is_first: true,
        head: [0; HEAD_BYTES],
        head_filled: 0,
        frame: None,
        headers_of: None,
    };
    let mut decoder = Decoder::new();
    decoder.set_max_allowed_table_size(PEER_PORT.header_table_bytes as usize);
    let asking = Asking { decoder, block: Vec::new() };
    (observer(Some(asking), PREFACE), observer(None, b""))
}

impl Observer {
    /// Looks at the next bytes, cut anywhere, and says what became whole with them.
    ///
    /// What a client sends has to be shown before what its server answers to it.
    pub fn pass(&mut self, bytes: &[u8]) -> Carried {
        let mut carried = Carried::default();
        let shared = Arc::clone(&self.shared);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if !shared.is_lost && self.read(&mut shared, bytes, &mut carried).is_err() {
            // What became whole before is as true as it was.
            *shared = Shared { is_lost: true, ..Shared::default() };
            self.asking = None;
        }
        carried
    }

    fn read(
        &mut self,
        shared: &mut Shared,
        mut bytes: &[u8],
        carried: &mut Carried,
    ) -> Result<(), Lost> {
        let preface = take(&mut bytes, self.preface.len());
        self.preface = self.preface.strip_prefix(preface).ok_or(Lost)?;
        while !bytes.is_empty() {
            let Some(frame) = &mut self.frame else {
                let part = take(&mut bytes, HEAD_BYTES - self.head_filled);
                self.head[self.head_filled..][..part.len()].copy_from_slice(part);
                self.head_filled += part.len();
                if self.head_filled == HEAD_BYTES {
                    self.head_filled = 0;
                    self.begin(shared)?;
                }
                continue;
            };
            let content = frame.content(&mut bytes)?;
            let (kind, stream, is_whole) = (frame.kind, frame.stream, frame.left == 0);
            match (kind, &mut self.asking) {
                (DATA, asking) => {
                    if let Some(call) = shared.calls.get_mut(&stream) {
                        call.read(asking.is_some(), content, carried)?;
                    }
                }
                (HEADERS | CONTINUATION, Some(Asking { block, .. })) => {
                    if block.len() + content.len() > PEER_PORT.header_bytes_max as usize {
                        return Err(Lost);
                    }
                    block.extend_from_slice(content);
                }
                _ => {}
            }
            if is_whole {
                self.end(shared)?;
            }
        }
        Ok(())
    }

    /// A frame's head is there.
    fn begin(&mut self, shared: &mut Shared) -> Result<(), Lost> {
        let frame = Frame::new(&self.head)?;
        let Frame { kind, stream, .. } = frame;
        let bytes_max = match self.asking {
            Some(_) => PEER_PORT.frame_bytes_max,
            None => PEER.frame_bytes_max,
        };
        let is_of_call = match kind {
            DATA | HEADERS | RST_STREAM | CONTINUATION => true,
            SETTINGS | PING | GOAWAY => false,
            _ => stream != 0,
        };
        // Nothing comes between the headers of a call.
        let goes_on = (kind == CONTINUATION).then_some(stream);
        if frame.left > bytes_max as usize
            || is_of_call != (stream != 0)
            || goes_on != self.headers_of
            || (self.is_first && kind != SETTINGS)
        {
            return Err(Lost);
        }
        self.is_first = false;
        let opens = self.asking.is_some() && kind == HEADERS && stream > shared.newest;
        if opens {
            // Even numbers are the server's.
            if stream % 2 == 0 || shared.calls.len() == CALLS_MAX {
                return Err(Lost);
            }
            shared.newest = stream;
            shared.calls.insert(stream, Call::new());
        }
        // Of a call that nobody opened nothing comes; of one that has ended, something may.
        if stream > shared.newest && matches!(kind, DATA | HEADERS | RST_STREAM) {
            return Err(Lost);
        }
        let is_whole = frame.left == 0;
        self.frame = Some(frame);
        if is_whole { self.end(shared) } else { Ok(()) }
    }

    /// All of a frame has come.
    fn end(&mut self, shared: &mut Shared) -> Result<(), Lost> {
        let Some(Frame { kind, flags, stream, .. }) = self.frame.take() else { return Ok(()) };
        if matches!(kind, HEADERS | CONTINUATION) {
            let is_last = flags & END_HEADERS != 0;
            self.headers_of = (!is_last).then_some(stream);
            if let (true, Some(asking)) = (is_last, &mut self.asking) {
                let method = asking.method()?;
                // Headers behind a call's messages have no path: it stays what it was.
                if let (Some(call), Some(method)) = (shared.calls.get_mut(&stream), method) {
                    call.method = method;
                }
            }
        }
        // The answer's end is the call's, whether or not more was to be asked.
        let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        if kind == RST_STREAM || (ends && self.asking.is_none()) {
            shared.calls.remove(&stream);
        }
        Ok(())
    }
}

impl Asking {
    /// Takes a block of headers that is whole, and says what they ask for.
    fn method(&mut self) -> Result<Option<Method>, Lost> {
        let mut method = None;
        let decoded = self.decoder.decode_with_cb(&self.block, |name, value| {
            if *name == *b":path" {
                method = Some(Method::of(&value));
            }
        });
        self.block.clear();
        decoded.map_err(|_| Lost)?;
        Ok(method)
    }
}

impl Call {
    fn new() -> Call {
        Call { method: Method::Other, asked: Messages::default(), answered: Messages::default() }
    }

    /// Reads data of either side, and counts the messages that end in it.
    fn read(&mut self, asks: bool, data: &[u8], carried: &mut Carried) -> Result<(), Lost> {
        let Call { method, asked, answered } = self;
        match (*method, asks) {
            (Method::Append, true) => asked.read(data, true, |says| {
                carried.count(match says {
                    Some(true) => Kind::Append,
                    Some(false) => Kind::Heartbeat,
                    None => Kind::Other,
                });
            }),
            (method, asks) => {
                let kind = match (method, asks) {
                    (Method::Vote, _) => Kind::Vote,
                    (Method::Append | Method::Snapshot, false) => Kind::Answer,
                    (Method::Snapshot, true) => Kind::Snapshot,
                    _ => Kind::Other,
                };
                let messages = if asks { asked } else { answered };
                messages.read(data, false, |_| carried.count(kind))
            }
        }
    }
}

/// A frame whose payload comes.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Bytes of the payload that are still to come: of what stands before the content, …
    front: usize,
    /// … of the content and the padding behind it, all three together, …
    left: usize,
    /// … and of the padding.
    padding: usize,
    /// The first byte to come says how long the padding is.
    says_padding: bool,
}

impl Frame {
    fn new(head: &[u8; HEAD_BYTES]) -> Result<Frame, Lost> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        let has_content = matches!(kind, DATA | HEADERS);
        let says_padding = has_content && flags & PADDED != 0;
        let mut front = usize::from(says_padding);
        if kind == HEADERS && flags & PRIORITY != 0 {
            front += PRIORITY_BYTES;
        }
        let left = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if front > left {
            return Err(Lost);
        }
        // The first bit has no meaning.
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Ok(Frame { kind, flags, stream, front, left, padding: 0, says_padding })
    }

    /// Takes what has come of the payload, and gives what of it is content.
    fn content<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<&'a [u8], Lost> {
        if self.says_padding
            && let [padding] = take(bytes, 1)
        {
            self.says_padding = false;
            self.front -= 1;
            self.left -= 1;
            self.padding = usize::from(*padding);
        }
        let front = take(bytes, self.front).len();
        self.front -= front;
        self.left -= front;
        let content = self.left.checked_sub(self.front + self.padding).ok_or(Lost)?;
        let content = if self.front == 0 { take(bytes, content) } else { &[] };
        self.left -= content.len();
        if self.front == 0 && self.left <= self.padding {
            let padding = take(bytes, self.left).len();
            self.left -= padding;
            self.padding -= padding;
        }
        Ok(content)
    }
}

/// Takes so many bytes, or all if there are fewer.
fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    taken
}
