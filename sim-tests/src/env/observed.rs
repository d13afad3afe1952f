//! What nodes say to each other, for a recording of the run: votes, appends and the like.
//!
//! The lab's observers ([`tally_lab::wire`]) read along where a node writes to a connection with another one, and the
//! trace is told what became whole with each write. They see bytes that are sent in any case, and have neither time nor
//! randomness: a run that is recorded is the run that is not. Where nobody records, there are none.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr};

use tally_lab::wire::{Carried, Observer, observers};

use crate::{cluster::PEER_PORT, trace};

/// Reads what one end of a connection writes.
pub(super) struct Reader {
    observer: Observer,
    from: SocketAddr,
    to: SocketAddr,
}

thread_local! {
    /// Of connections that one end has made and the other has not taken yet, that other's: by who dialled, and whom.
    static WAITING: RefCell<BTreeMap<(SocketAddr, SocketAddr), Observer>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// A run begins: connections of the one before are no more, and its addresses come again.
pub(crate) fn forget() {
    WAITING.with_borrow_mut(BTreeMap::clear);
}

impl Reader {
    /// Of a connection between nodes, if a recording is made. `dialled`: by this end.
    pub(super) fn of(stream: &turmoil::net::TcpStream, dialled: bool) -> Option<Reader> {
        let (from, to) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let key = if dialled { (from, to) } else { (to, from) };
        if key.1.port() != PEER_PORT || !trace::is_recording() {
            return None;
        }
        let observer = WAITING.with_borrow_mut(|waiting| {
            waiting.remove(&key).unwrap_or_else(|| {
                let (asks, answers) = observers();
                let (own, other) = if dialled { (asks, answers) } else { (answers, asks) };
                waiting.insert(key, other);
                own
            })
        });
        Some(Reader { observer, from, to })
    }

    /// These bytes were written, and so are the last that were sent.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        let has = bits(self.observer.pass(bytes));
        trace::sent_has(self.from, self.to, has);
    }
}

/// As a recording has them: a bit for each of [`tally_player::MESSAGE_WORDS`].
fn bits(carried: Carried) -> u8 {
    let Carried { votes, appends, heartbeats, answers, snapshots, others } = carried;
    let counts = [votes, appends, heartbeats, answers, snapshots, others];
    counts.iter().enumerate().map(|(bit, count)| u8::from(*count > 0) << bit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_its_bit() {
        let of = |word: &str| {
            let at = tally_player::MESSAGE_WORDS.iter().position(|one| *one == word);
            1 << at.expect("it is a word")
        };
        let carried = Carried { votes: 2, heartbeats: 1, ..Carried::default() };
        assert_eq!(bits(carried), of("votes") | of("heartbeats"));
        let carried = Carried { appends: 1, answers: 1, snapshots: 1, others: 1, ..carried };
        assert_eq!(bits(carried), 0b11_1111);
        assert_eq!(bits(Carried { others: 1, ..Carried::default() }), of("others"));
        assert_eq!(bits(Carried { snapshots: 1, ..Carried::default() }), of("snapshots"));
    }
}
