//! The messages of a call: gRPC puts five bytes before each. Of a message no more is kept than where one is in it.

use super::{Lost, take};

/// What stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The messages that one side of a call sends.
#[derive(Default)]
pub(super) struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// Bytes that are still to come of the message behind a whole prefix.
    left: usize,
    skim: Skim,
}

impl Messages {
    /// Reads data, cut anywhere, and tells of each message that ends in it whether it has entries, if that is asked for
    /// (`skims`): `None` where that can't be said, as the message is no append or is compressed.
    pub(super) fn read(
        &mut self,
        mut data: &[u8],
        skims: bool,
        mut tell: impl FnMut(Option<bool>),
    ) -> Result<(), Lost> {
        while !data.is_empty() {
            if self.prefix_filled < PREFIX_BYTES {
                let part = take(&mut data, PREFIX_BYTES - self.prefix_filled);
                self.prefix[self.prefix_filled..][..part.len()].copy_from_slice(part);
                self.prefix_filled += part.len();
                if self.prefix_filled < PREFIX_BYTES {
                    break;
                }
                let [compressed, l0, l1, l2, l3] = self.prefix;
                self.left = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                self.skim = match compressed {
                    0 => Skim::default(),
                    1 => Skim::Lost,
                    _ => return Err(Lost),
                };
            }
            let part = take(&mut data, self.left);
            self.left -= part.len();
            if skims {
                self.skim.read(part);
            }
            if self.left == 0 {
                self.prefix_filled = 0;
                tell(if skims { self.skim.has_entries() } else { None });
            }
        }
        Ok(())
    }
}

/// Field of `AppendRequest` that has an entry.
const ENTRIES: u64 = 5;

/// Bytes of the longest number (Protocol Buffers: 64 bits, seven in each byte).
const NUMBER_BYTES_MAX: u32 = 10;

/// Where one is in an append: at the top alone, as what a field has in it is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skim {
    /// Within the number and the type of a field: its value so far, and bytes of it.
    Tag(Number),
    /// Within the length of a field.
    Length(Number),
    /// Within a number that is a field.
    Value(Number),
    /// So many bytes are to be passed over, then comes a field.
    Within(u64),
    /// There was an entry; what comes is no matter.
    HasEntries,
    /// It is no such message.
    Lost,
}

/// A number of which some bytes have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Number {
    value: u64,
    bytes: u32,
}

impl Number {
    /// Takes one more byte; says whether it was the last.
    fn add(&mut self, byte: u8) -> Option<bool> {
        if self.bytes == NUMBER_BYTES_MAX {
            return None;
        }
        // Of the tenth byte one bit counts; others are shifted out.
        self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        Some(byte & 0x80 == 0)
    }
}

impl Default for Skim {
    fn default() -> Skim {
        Skim::Tag(Number::default())
    }
}

impl Skim {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            match self {
                Skim::HasEntries | Skim::Lost => return,
                Skim::Within(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    *left -= take(&mut bytes, most).len() as u64;
                    if *left == 0 {
                        *self = Skim::default();
                    }
                    continue;
                }
                Skim::Tag(number) => match number.add(*byte) {
                    None => *self = Skim::Lost,
                    Some(false) => {}
                    Some(true) => *self = Skim::field(number.value),
                },
                Skim::Length(number) => match number.add(*byte) {
                    None => *self = Skim::Lost,
                    Some(false) => {}
                    Some(true) if number.value == 0 => *self = Skim::default(),
                    Some(true) => *self = Skim::Within(number.value),
                },
                Skim::Value(number) => match number.add(*byte) {
                    None => *self = Skim::Lost,
                    Some(false) => {}
                    Some(true) => *self = Skim::default(),
                },
            }
            bytes = rest;
        }
    }

    /// Behind a field's number and type.
    fn field(tag: u64) -> Skim {
        match (tag >> 3, tag & 7) {
            (ENTRIES, 2) => Skim::HasEntries,
            // Numbers of a field begin with 1.
            (0, _) => Skim::Lost,
            (_, 0) => Skim::Value(Number::default()),
            (_, 1) => Skim::Within(8),
            (_, 2) => Skim::Length(Number::default()),
            (_, 5) => Skim::Within(4),
            _ => Skim::Lost,
        }
    }

    /// At the end of the message. One that ends within a field is none.
    fn has_entries(self) -> Option<bool> {
        match self {
            Skim::HasEntries => Some(true),
            Skim::Tag(Number { bytes: 0, .. }) => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tally_proto::peer::v1::{AppendRequest, Ballot, Entry, LogId};

    use super::*;

    /// What is said of a message, however it is cut.
    fn has_entries(message: &[u8]) -> Option<bool> {
        let skimmed = |pieces: &[&[u8]]| {
            let mut skim = Skim::default();
            pieces.iter().for_each(|piece| skim.read(piece));
            skim.has_entries()
        };
        let said = skimmed(&[message]);
        for at in 0..message.len() {
            let (before, behind) = message.split_at(at);
            assert_eq!(skimmed(&[before, behind]), said, "cut at {at}");
        }
        said
    }

    #[test]
    fn an_append_without_entries_is_a_heartbeat() {
        assert_eq!(has_entries(&[]), Some(false));
        let mut request = AppendRequest {
            cluster_id: "c".repeat(200),
            target_node_id: u64::MAX,
            ballot: Some(Ballot { term: 1 << 50, node_id: Some(3), committed: true }),
            previous: Some(LogId::default()),
            entries: Vec::new(),
            leader_commit: Some(LogId { term: 1, index: 2 }),
        };
        assert_eq!(has_entries(&request.encode_to_vec()), Some(false));
        request.entries.push(Entry::default());
        assert_eq!(has_entries(&request.encode_to_vec()), Some(true), "an empty entry is one");
    }

    #[test]
    fn fields_of_later_releases_are_passed_over() {
        // Each type that there is; what is in them looks like an entry.
        let unknown: [&[u8]; 4] = [
            &[15 << 3, 0x80 | 0x2a, 0x2a],
            &[14 << 3 | 1, 0x2a, 0, 0x2a, 0, 0x2a, 0, 0x2a, 0],
            &[13 << 3 | 5, 0x2a, 0, 0x2a, 0],
            &[12 << 3 | 2, 2, 0x2a, 0],
        ];
        let unknown = unknown.concat();
        assert_eq!(has_entries(&unknown), Some(false));
        let entry = [0x2a, 0];
        assert_eq!(has_entries(&[&unknown[..], &entry].concat()), Some(true));
        assert_eq!(has_entries(&[&entry[..], &unknown].concat()), Some(true), "in any order");
    }

    #[test]
    fn what_is_no_message_is_neither() {
        for broken in [
            // The end within a tag, a length, a number, a text.
            &[0x80][..],
            &[0x0a],
            &[0x10, 0x80],
            &[0x0a, 3, b'a', b'b'],
            // A field 0, an old group, a number of eleven bytes.
            &[0x02, 0],
            &[0x0b],
            &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            assert_eq!(has_entries(broken), None, "{broken:?}");
        }
    }
}
