//! Records: what frames carry. The numbers of kinds and the layouts are frozen by the fixture in
//! `fixtures/`; a new kind is a new format version.

use bytes::Bytes;

use super::types::{Ballot, LogId};

/// What the log holds besides entries, as of some record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LogState {
    pub vote: Option<Ballot>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

/// Bytes of an entry record before its payload.
pub(super) const ENTRY_PREFIX_BYTES: usize = 17;

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Record<'a> {
    /// Head of a segment: the state that the records before led to.
    State(LogState),
    /// A vote.
    Vote(Ballot),
    /// The committed hint.
    Committed(Option<LogId>),
    /// An entry.
    Entry(LogId, u8, &'a [u8]),
    /// Entries behind this one are gone.
    Truncate(Option<LogId>),
    /// Entries up to this one are gone; with a jump all are, and the log goes on behind it.
    Purge { upto: LogId, jump: bool },
    /// Nothing; its frame says what is durable.
    Seal,
}

impl<'a> Record<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Record::State(_) => 1,
            Record::Vote(_) => 2,
            Record::Committed(_) => 3,
            Record::Entry(..) => 4,
            Record::Truncate(_) => 5,
            Record::Purge { .. } => 6,
            Record::Seal => 7,
        }
    }

    /// Bytes of the payload, at most.
    pub(super) fn bytes_max(&self) -> usize {
        match self {
            Record::Entry(_, _, payload) => ENTRY_PREFIX_BYTES + payload.len(),
            _ => 96,
        }
    }

    pub(super) fn encode(&self, buf: &mut Vec<u8>) {
        match self {
            Record::State(state) => {
                match state.vote {
                    None => buf.push(0),
                    Some(vote) => {
                        buf.push(1);
                        put_ballot(buf, vote);
                    }
                }
                for id in [state.committed, state.purged, state.last] {
                    put_optional_id(buf, id);
                }
            }
            Record::Vote(vote) => put_ballot(buf, *vote),
            Record::Committed(id) | Record::Truncate(id) => put_optional_id(buf, *id),
            Record::Entry(id, kind, payload) => {
                put_id(buf, *id);
                buf.push(*kind);
                buf.extend_from_slice(payload);
            }
            Record::Purge { upto, jump } => {
                put_id(buf, *upto);
                buf.push(u8::from(*jump));
            }
            Record::Seal => {}
        }
    }

    /// `None` where the bytes are none of ours, though their checksum is right.
    pub(super) fn decode(kind: u8, bytes: &'a [u8]) -> Option<Record<'a>> {
        let mut rest = bytes;
        let rest = &mut rest;
        let record = match kind {
            1 => Record::State(LogState {
                vote: match take(rest)? {
                    [0] => None,
                    [1] => Some(take_ballot(rest)?),
                    _ => return None,
                },
                committed: take_optional_id(rest)?,
                purged: take_optional_id(rest)?,
                last: take_optional_id(rest)?,
            }),
            2 => Record::Vote(take_ballot(rest)?),
            3 => Record::Committed(take_optional_id(rest)?),
            4 => {
                let id = take_id(rest)?;
                let [kind] = take(rest)?;
                Record::Entry(id, kind, std::mem::take(rest))
            }
            5 => Record::Truncate(take_optional_id(rest)?),
            6 => Record::Purge { upto: take_id(rest)?, jump: take_flag(rest)? },
            7 => Record::Seal,
            _ => return None,
        };
        rest.is_empty().then_some(record)
    }
}

/// Takes an entry out of a record that was read back.
pub(super) fn entry(kind: u8, payload: &[u8]) -> Option<(LogId, u8, Bytes)> {
    match Record::decode(kind, payload)? {
        Record::Entry(id, kind, payload) => Some((id, kind, Bytes::copy_from_slice(payload))),
        _ => None,
    }
}

fn put_id(buf: &mut Vec<u8>, id: LogId) {
    buf.extend_from_slice(&id.term.to_le_bytes());
    buf.extend_from_slice(&id.index.to_le_bytes());
}

fn put_optional_id(buf: &mut Vec<u8>, id: Option<LogId>) {
    buf.push(u8::from(id.is_some()));
    if let Some(id) = id {
        put_id(buf, id);
    }
}

fn put_ballot(buf: &mut Vec<u8>, ballot: Ballot) {
    buf.extend_from_slice(&ballot.term.to_le_bytes());
    buf.push(u8::from(ballot.committed));
    buf.push(u8::from(ballot.node_id.is_some()));
    if let Some(node) = ballot.node_id {
        buf.extend_from_slice(&node.to_le_bytes());
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_flag(bytes: &mut &[u8]) -> Option<bool> {
    match take(bytes)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

/// An id; none has the last index, as there would be none after it.
fn take_id(bytes: &mut &[u8]) -> Option<LogId> {
    let id = LogId { term: take_u64(bytes)?, index: take_u64(bytes)? };
    (id.index < u64::MAX).then_some(id)
}

fn take_optional_id(bytes: &mut &[u8]) -> Option<Option<LogId>> {
    Some(if take_flag(bytes)? { Some(take_id(bytes)?) } else { None })
}

fn take_ballot(bytes: &mut &[u8]) -> Option<Ballot> {
    Some(Ballot {
        term: take_u64(bytes)?,
        committed: take_flag(bytes)?,
        node_id: if take_flag(bytes)? { Some(take_u64(bytes)?) } else { None },
    })
}

impl LogState {
    /// The state after a record. What recovery reads back and what the writer says at the head of a
    /// segment go through here, so that they can be compared.
    pub(super) fn apply(&mut self, record: &Record<'_>) {
        match record {
            Record::State(state) => *self = *state,
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(id) => self.committed = *id,
            Record::Entry(id, ..) => self.last = Some(*id),
            Record::Truncate(keep) => self.last = *keep,
            Record::Purge { upto, jump } => {
                self.purged = Some(*upto);
                if *jump {
                    self.last = Some(*upto);
                }
            }
            Record::Seal => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_cut_ones_do_not() {
        let id = LogId { term: 3, index: 9 };
        let vote = Ballot { term: 4, node_id: Some(1), committed: true };
        let state =
            LogState { vote: Some(vote), committed: None, purged: Some(id), last: Some(id) };
        let records = [
            Record::State(state),
            Record::State(LogState::default()),
            Record::Vote(vote),
            Record::Vote(Ballot { node_id: None, ..vote }),
            Record::Committed(None),
            Record::Committed(Some(id)),
            Record::Entry(id, 7, b"payload"),
            Record::Truncate(None),
            Record::Purge { upto: id, jump: true },
            Record::Seal,
        ];
        for record in records {
            let mut buf = Vec::new();
            record.encode(&mut buf);
            assert!(buf.len() <= record.bytes_max(), "{record:?}");
            let read = Record::decode(record.kind(), &buf);
            assert_eq!(format!("{read:?}"), format!("{:?}", Some(record)));
            if !matches!(record, Record::Entry(..) | Record::Seal) {
                assert!(Record::decode(record.kind(), &buf[..buf.len() - 1]).is_none());
                buf.push(0);
                assert!(Record::decode(record.kind(), &buf).is_none());
            }
        }
        assert!(Record::decode(8, &[]).is_none());
    }

    /// What goes on behind the last index that there is would begin at 0 again.
    #[test]
    fn an_id_that_nothing_can_follow_is_none() {
        let last = LogId { term: 1, index: u64::MAX };
        let records = [
            Record::Entry(last, 1, b"payload"),
            Record::Committed(Some(last)),
            Record::Truncate(Some(last)),
            Record::Purge { upto: last, jump: true },
            Record::State(LogState { last: Some(last), ..LogState::default() }),
        ];
        for record in records {
            let mut buf = Vec::new();
            record.encode(&mut buf);
            assert!(Record::decode(record.kind(), &buf).is_none(), "{record:?}");
        }
    }
}
