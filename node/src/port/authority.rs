//! The `:authority` of a request, made harmless before HTTP/2 is read.
//!
//! gRPC's C core (Python, C++, Ruby, PHP) sends what it was given as the authority: of a static list
//! `a:1,b:2,c:3` all of it, of a socket its path. By RFC 3986 that is none, and h2 refuses the request as
//! malformed, in `convert_poll_message`, before anybody above it sees the call. A node has no use for an
//! authority. So each byte that could be in the way is replaced by `-` on its way to h2; what is a host with a
//! port, or an address in brackets, stays as it came.
//!
//! # Why it changes nothing else
//! Claim: what h2 reads differs in the values of `:authority` alone, and each is as long as it was.
//! 1. It follows frames by their lengths, and header blocks by the forms of HPACK (RFC 7541 section 6), in whatever
//!    pieces they come. For both no table is needed.
//! 2. Bytes are replaced in one place: in the value of a literal, both without Huffman's code, whose name is entry
//!    1 of the static table or spelt out, as the C core does. Lengths stay, and with them frames and the sizes
//!    of HPACK's table; a later reference to an entry of that table finds the value as h2 has stored it. (A new
//!    value under the name of an entry of the dynamic table is not seen. Nobody sends one: an authority is the
//!    channel's, and its field is repeated as a whole.)
//! 3. What it can't follow (a number that is too long, a frame that ends too early) it leaves alone from there on,
//!    and so it does with all that follows; h2 judges it.
//!
//! What breaks it: a replacement of another length, or one that looks ahead.

/// What a client says first.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// `:authority`, without a value, in HPACK's static table.
const AUTHORITY: usize = 1;
const AUTHORITY_NAME: &[u8] = b":authority";
/// No number in a header block is larger: the ports take far smaller ones.
const NUMBER_MAX: usize = 1 << 24;

/// Where in a connection's bytes it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    at: At,
    block: Block,
    /// A header block goes on with the next frame.
    is_open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Preface {
        left: usize,
    },
    FrameHead {
        had: usize,
        head: [u8; FRAME_HEAD_BYTES],
    },
    /// Length of the padding of a frame of headers.
    PadLength {
        left: usize,
        has_priority: bool,
    },
    /// Bytes before the header block, then it, then its padding.
    Priority {
        skip: usize,
        left: usize,
        padding: usize,
    },
    Fragment {
        left: usize,
        padding: usize,
    },
    Skip {
        left: usize,
    },
    /// It lost its way.
    Lost,
}

/// Where in a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// At the first byte of a field.
    Field,
    /// In the rest of a number.
    Number { value: usize, shift: u32, then: Then },
    /// At the length of a string.
    Length { then: Then },
    /// In a string.
    Text { left: usize, then: Then },
}

/// What comes after a number or a string, or is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next field: what this is of does not matter.
    Field,
    /// The number is an index; a value follows.
    Index,
    /// A name, and a value after it. Of `:authority` it had so many bytes, and no other.
    Name { like: usize },
    /// Another name.
    OtherName,
    /// A value.
    Value,
    /// That of `:authority`.
    Authority(Seen),
}

/// What the value of an authority had so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// It is within the brackets of an address.
    Bracket,
    Host,
    /// A colon, and so perhaps a port.
    Port,
}

impl Default for Authority {
    fn default() -> Self {
        Self { at: At::Preface { left: PREFACE_BYTES }, block: Block::Field, is_open: false }
    }
}

impl Authority {
    /// Passes on bytes that came from the client.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.at {
                At::Lost => return,
                At::Preface { left } | At::Skip { left } => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.next_frame();
                    }
                    taken
                }
                At::FrameHead { had, head } => {
                    let taken = bytes.len().min(FRAME_HEAD_BYTES - *had);
                    head[*had..][..taken].copy_from_slice(&bytes[..taken]);
                    *had += taken;
                    if *had == FRAME_HEAD_BYTES {
                        let head = *head;
                        self.frame(head);
                    }
                    taken
                }
                At::PadLength { left, has_priority } => {
                    let (left, padding) = (*left - 1, usize::from(bytes[0]));
                    let skip = if *has_priority { PRIORITY_BYTES } else { 0 };
                    self.fragment(skip, left, padding);
                    1
                }
                At::Priority { skip, left, padding } => {
                    let taken = bytes.len().min(*skip);
                    *skip -= taken;
                    if *skip == 0 {
                        let (left, padding) = (*left, *padding);
                        self.fragment(0, left, padding);
                    }
                    taken
                }
                At::Fragment { left, padding } => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    let (left, padding) = (*left, *padding);
                    let is_followed = bytes[..taken].iter_mut().all(|byte| self.block.pass(byte));
                    if !is_followed {
                        self.at = At::Lost;
                    } else if left == 0 {
                        self.padding(padding);
                    }
                    taken
                }
            };
            bytes = &mut bytes[taken..];
        }
    }

    fn next_frame(&mut self) {
        self.at = At::FrameHead { had: 0, head: [0; FRAME_HEAD_BYTES] };
    }

    /// A frame begins.
    fn frame(&mut self, head: [u8; FRAME_HEAD_BYTES]) {
        let [high, middle, low, kind, flags, ..] = head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if self.is_open != (kind == CONTINUATION) {
            // Within a header block comes nothing else.
            self.at = At::Lost;
            return;
        }
        match kind {
            HEADERS | CONTINUATION => {
                if !self.is_open {
                    self.block = Block::Field;
                }
                self.is_open = flags & END_HEADERS == 0;
                let has_priority = kind == HEADERS && flags & PRIORITY != 0;
                if kind == HEADERS && flags & PADDED != 0 {
                    self.at = match length {
                        0 => At::Lost,
                        left => At::PadLength { left, has_priority },
                    };
                } else {
                    self.fragment(if has_priority { PRIORITY_BYTES } else { 0 }, length, 0);
                }
            }
            _ if length == 0 => self.next_frame(),
            _ => self.at = At::Skip { left: length },
        }
    }

    /// What is left of a frame of headers: bytes to skip, a part of the header block, padding.
    fn fragment(&mut self, skip: usize, left: usize, padding: usize) {
        match left.checked_sub(skip + padding) {
            None => self.at = At::Lost,
            Some(_) if skip > 0 => self.at = At::Priority { skip, left: left - skip, padding },
            Some(0) => self.padding(padding),
            Some(left) => self.at = At::Fragment { left, padding },
        }
    }

    fn padding(&mut self, left: usize) {
        match left {
            0 => self.next_frame(),
            left => self.at = At::Skip { left },
        }
    }
}

impl Block {
    /// The next byte; false if it can't be followed.
    fn pass(&mut self, byte: &mut u8) -> bool {
        *self = match *self {
            Block::Field => match *byte {
                field if field & 0x80 != 0 => Self::number(field, 0x7f, Then::Field),
                field if field & 0x40 != 0 => Self::number(field, 0x3f, Then::Index),
                field if field & 0x20 != 0 => Self::number(field, 0x1f, Then::Field),
                field => Self::number(field, 0x0f, Then::Index),
            },
            Block::Length { then } => {
                let is_coded = *byte & 0x80 != 0;
                let then = match then {
                    // Of coded text the bytes are not those of the text.
                    Then::Authority(_) if is_coded => Then::Value,
                    Then::Name { .. } if is_coded => Then::OtherName,
                    then => then,
                };
                Self::number(*byte, 0x7f, then)
            }
            Block::Number { value, shift, then } => {
                if shift > 21 {
                    return false;
                }
                let value = value + (usize::from(*byte & 0x7f) << shift);
                match *byte & 0x80 {
                    0 if value > NUMBER_MAX => return false,
                    0 => Self::after(value, then),
                    _ => Block::Number { value, shift: shift + 7, then },
                }
            }
            Block::Text { left, then } => {
                let then = match then {
                    Then::Authority(seen) => Then::Authority(harmless(byte, seen)),
                    Then::Name { like } if AUTHORITY_NAME.get(like) == Some(byte) => {
                        Then::Name { like: like + 1 }
                    }
                    Then::Name { .. } => Then::OtherName,
                    then => then,
                };
                match left - 1 {
                    0 => Self::after_text(then),
                    left => Block::Text { left, then },
                }
            }
        };
        true
    }

    /// A number that begins in the low bits of a byte.
    fn number(byte: u8, bits: u8, then: Then) -> Self {
        match byte & bits {
            all if all == bits => Block::Number { value: usize::from(bits), shift: 0, then },
            value => Self::after(usize::from(value), then),
        }
    }

    fn after(number: usize, then: Then) -> Self {
        match then {
            Then::Field => Block::Field,
            Then::Index => Block::Length {
                then: match number {
                    0 => Then::Name { like: 0 },
                    AUTHORITY => Then::Authority(Seen::Nothing),
                    _ => Then::Value,
                },
            },
            then if number == 0 => Self::after_text(then),
            then => Block::Text { left: number, then },
        }
    }

    fn after_text(then: Then) -> Self {
        match then {
            Then::Name { like } if like == AUTHORITY_NAME.len() => {
                Block::Length { then: Then::Authority(Seen::Nothing) }
            }
            Then::Name { .. } | Then::OtherName => Block::Length { then: Then::Value },
            _ => Block::Field,
        }
    }
}

/// The next byte of an authority, as it may stay: what is a host and a port does.
fn harmless(byte: &mut u8, seen: Seen) -> Seen {
    match (*byte, seen) {
        (b'[', Seen::Nothing) => return Seen::Bracket,
        (b']', Seen::Bracket) => return Seen::Host,
        (_, Seen::Bracket) => return Seen::Bracket,
        (b':', Seen::Host) => return Seen::Port,
        (b'.' | b'-' | b'_' | b'~', _) => {}
        (byte, _) if byte.is_ascii_alphanumeric() => {}
        _ => *byte = b'-',
    }
    if seen == Seen::Port { Seen::Port } else { Seen::Host }
}

#[cfg(test)]
mod tests {
    use http::uri;

    use super::*;

    fn passed(authority: &str) -> String {
        let mut bytes = authority.as_bytes().to_vec();
        bytes.iter_mut().fold(Seen::Nothing, |seen, byte| harmless(byte, seen));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_host_with_a_port_stays_and_what_is_none_becomes_one() {
        for stays in ["127.0.0.1:7401", "tally.example", "tally_1~x:80", "[::1]:7401", "[fe80::1]"]
        {
            assert_eq!(passed(stays), stays);
        }
        for (given, becomes) in [
            ("127.0.0.1:7401,127.0.0.1:7402", "127.0.0.1:7401-127.0.0.1-7402"),
            ("[::1]:7401,[::1]:7402", "[::1]:7401----1--7402"),
            ("/var/run/tally.sock", "-var-run-tally.sock"),
            ("a@b%2Cc", "a-b-2Cc"),
            (":7401", "-7401"),
        ] {
            assert_eq!(passed(given), becomes);
            assert!(becomes.parse::<uri::Authority>().is_ok(), "{becomes}");
        }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn text(text: &[u8]) -> Vec<u8> {
        assert!(text.len() < 127);
        [&[text.len() as u8], text].concat()
    }

    const LIST: &[u8] = b"a:1,b:2";
    const HARMLESS: &[u8] = b"a:1-b-2";

    /// A connection with all that surrounds authorities, which are this.
    fn connection(authority: &[u8]) -> Vec<u8> {
        let long = [b','; 300];
        // Indexed, a resized table, names by index and by text, long strings, coded text, both literals.
        let block = [
            &[0x82, 0x3f, 0xe1, 0x1f][..],
            &[&[0x41], &text(authority)[..]].concat(),
            &[&[0x40], &text(b"x,y")[..], &text(b"p,q:r")].concat(),
            &[&[0x40], &text(b":authority")[..], &text(authority)].concat(),
            &[&[0x00], &text(b":authorit")[..], &text(b"p,q:r")].concat(),
            &[&[0x00], &text(b":authority2")[..], &text(b"p,q:r")].concat(),
            &[&[0x10, 0x83], &b",,,"[..], &text(b"p,q:r")].concat(),
            &[&[0x0f, 0x2f], &text(b"1,2")[..]].concat(),
            &[&[0x44, 0x7f, 0xad, 0x01], &long[..]].concat(),
            &[0x41, 0x83, b',', b',', b','],
            &[&[0x01], &text(authority)[..]].concat(),
            &[&[0x11], &text(authority)[..]].concat(),
            &[0xff, 0x80, 0x01, 0xbe],
        ]
        .concat();
        let (first, rest) = block.split_at(9);
        let padded = [&[3, 9, 9, 9, 9, 9], &block[..], b",,,"].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[]),
            frame(0, 0, b"\x41\x03a,b"),
            frame(HEADERS, END_HEADERS, &block),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded),
            frame(HEADERS, 0, first),
            frame(CONTINUATION, 0, &[]),
            frame(CONTINUATION, END_HEADERS, rest),
            frame(0, 1, &[b','; 70]),
            frame(HEADERS, END_HEADERS | PADDED, &[1, b',']),
            frame(HEADERS, END_HEADERS, &[&[0x41], &text(authority)[..]].concat()),
        ]
        .concat()
    }

    #[test]
    fn only_authorities_change_in_whatever_pieces_a_connection_comes() {
        let wanted = connection(HARMLESS);
        for size in (1..40).chain([wanted.len()]) {
            let mut came = connection(LIST);
            let mut authority = Authority::default();
            came.chunks_mut(size).for_each(|piece| authority.pass(piece));
            assert_eq!(came, wanted, "in pieces of {size}");
            assert_ne!(authority.at, At::Lost);
        }
    }

    #[test]
    fn what_it_can_not_follow_it_leaves_alone() {
        let good = frame(HEADERS, END_HEADERS, &[&[0x41], &text(LIST)[..]].concat());
        for bad in [
            // A number that never ends, padding that is longer than its frame, no room for a priority, a frame
            // within a header block, a block that goes on after its end.
            frame(HEADERS, END_HEADERS, &[0xff; 12]),
            frame(HEADERS, END_HEADERS | PADDED, &[9, 0x82]),
            frame(HEADERS, END_HEADERS | PADDED, &[]),
            frame(HEADERS, END_HEADERS | PRIORITY, &[0, 0]),
            frame(HEADERS, 0, &[0x82]),
            frame(CONTINUATION, END_HEADERS, &[0x82]),
        ] {
            let mut came = [&[b' '; PREFACE_BYTES][..], &bad, &good].concat();
            let before = came.clone();
            let mut authority = Authority::default();
            authority.pass(&mut came);
            assert_eq!((came, authority.at), (before, At::Lost), "{bad:?}");
        }
    }

    #[test]
    fn noise_is_followed_or_given_up_and_never_longer_or_shorter() {
        use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
        let mut random = SmallRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let mut noise = vec![0u8; random.random_range(0..200)];
            random.fill(&mut noise[..]);
            let kinds = [frame(HEADERS, random.random(), &noise), noise];
            let mut came = [&[b' '; PREFACE_BYTES][..], &kinds[0], &kinds[1]].concat();
            let mut pieces = came.clone();
            let (mut whole, mut cut) = (Authority::default(), Authority::default());
            whole.pass(&mut came);
            pieces.chunks_mut(random.random_range(1..50)).for_each(|piece| cut.pass(piece));
            assert_eq!((came, whole), (pieces, cut));
        }
    }
}
