//! Changes to records, ordered by key, with a place of their own for remembered answers.
//!
//! Nearly all that a write on a counter leaves behind is its answer: put in with its number, and taken
//! out a moment later when its caller has it. In one ordered map of keys as bytes those two cost more
//! than everything else that applying does. So answers lie in chunks, [`CHUNK`] numbers of one session
//! side by side: finding one is a search among few whole numbers, and no key is made for it.
//!
//! The other records are found by a hash of their keys, and walked through by an ordered set of them: with
//! 100,000 counters an ordered map compares seventeen keys, each of them somewhere else in memory, and a
//! write looks for its counter in three such maps.
//!
//! What is seen from outside is one map in the byte order of the keys.

mod key;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map, btree_set, hash_map},
    fmt,
    iter::Peekable,
    ops::Bound,
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use self::key::{Inner, Place};
pub use self::key::{Key, KeyBytes};

/// What is to become of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this value.
    Put(Bytes),
    /// It has this value, and what lies below does not have the record. If it is deleted before it
    /// gets there, nothing has to be done below.
    Insert(Bytes),
    /// It is gone.
    Delete,
}

impl Change {
    /// The value afterwards, if there is a record.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Change::Put(value) | Change::Insert(value) => Some(value),
            Change::Delete => None,
        }
    }

    /// The change that this one and then a `later` one come to; `None` if nothing is left to do.
    pub fn then(&self, later: Change) -> Option<Change> {
        match (self, later) {
            (Change::Insert(_), Change::Delete) => None,
            (Change::Insert(_), Change::Put(value)) => Some(Change::Insert(value)),
            // Above a record that is there or was deleted here, "not below" is not known any more.
            (Change::Put(_) | Change::Delete, Change::Insert(value)) => Some(Change::Put(value)),
            (_, later) => Some(later),
        }
    }
}

/// Numbers in a chunk. A session that uses one number of a chunk pays for the places of all, so not many.
const CHUNK: usize = 16;

/// What a chunk takes, with its share of a node of the tree.
const CHUNK_BYTES: usize = size_of::<Chunk>() + 48;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Chunk {
    used: u8,
    places: [Option<Change>; CHUNK],
}

const IN_ORDER: &str = "each key in the order has a change";

/// Changes of records that are not answers.
#[derive(Clone, Default, PartialEq, Eq)]
struct Others {
    /// Nothing is done in its order. Its seed is of this process, as clients choose the names.
    by_key: HashMap<Bytes, Change, RandomState>,
    /// The same keys.
    order: BTreeSet<Bytes>,
}

impl Others {
    fn update(
        &mut self,
        key: Bytes,
        decide: impl FnOnce(&[u8], Option<&Change>) -> Option<Change>,
    ) {
        match self.by_key.entry(key) {
            hash_map::Entry::Vacant(entry) => {
                if let Some(change) = decide(entry.key(), None) {
                    self.order.insert(entry.key().clone());
                    entry.insert(change);
                }
            }
            hash_map::Entry::Occupied(mut entry) => match decide(entry.key(), Some(entry.get())) {
                Some(change) => drop(entry.insert(change)),
                None => {
                    let (key, _) = entry.remove_entry();
                    self.order.remove(&key);
                }
            },
        }
    }

    fn range(&self, keys: (Bound<&[u8]>, Bound<&[u8]>)) -> InOrder<'_> {
        InOrder { keys: self.order.range::<[u8], _>(keys), by_key: &self.by_key }
    }
}

/// Changes by key, in ascending byte order of the keys. See the module.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// By the number of the chunk. None of them is empty.
    answers: BTreeMap<u128, Box<Chunk>>,
    /// How many answers are in them.
    answer_count: usize,
    others: Others,
}

impl Changes {
    /// None.
    pub fn new() -> Changes {
        Changes::default()
    }

    /// None, with room for as many records as another one has: making room later takes milliseconds if
    /// there are hundreds of thousands.
    pub fn with_room_of(other: &Changes) -> Changes {
        let by_key =
            HashMap::with_capacity_and_hasher(other.others.by_key.len(), RandomState::default());
        Changes { others: Others { by_key, ..Others::default() }, ..Changes::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.answer_count + self.others.by_key.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The change under a key.
    pub fn get(&self, key: &[u8]) -> Option<&Change> {
        let Some(place) = Place::of(key) else { return self.others.by_key.get(key) };
        let (chunk, at) = place.chunk();
        self.answers.get(&chunk)?.places[at].as_ref()
    }

    /// Bytes that all answers take beside their values.
    pub fn answer_overhead_bytes(&self) -> usize {
        self.answers.len() * CHUNK_BYTES
    }

    /// Replaces the change under a key by what `decide` makes of it; `None` stands for no change.
    pub fn update(
        &mut self,
        key: Key,
        decide: impl FnOnce(&[u8], Option<&Change>) -> Option<Change>,
    ) {
        match key {
            Key::Answer { session_id, sequence } => {
                let place = Place::new(session_id, sequence);
                let (key, (chunk, at)) = (place.bytes(), place.chunk());
                let mut entry = match self.answers.entry(chunk) {
                    btree_map::Entry::Occupied(entry) => entry,
                    btree_map::Entry::Vacant(entry) => {
                        let Some(change) = decide(&key, None) else { return };
                        let mut chunk = Box::<Chunk>::default();
                        chunk.used = 1;
                        chunk.places[at] = Some(change);
                        entry.insert(chunk);
                        self.answer_count += 1;
                        return;
                    }
                };
                let chunk = entry.get_mut();
                let place = &mut chunk.places[at];
                let before = place.is_some();
                *place = decide(&key, place.as_ref());
                match (before, place.is_some()) {
                    (false, true) => {
                        chunk.used += 1;
                        self.answer_count += 1;
                    }
                    (true, false) => {
                        chunk.used -= 1;
                        self.answer_count -= 1;
                        if chunk.used == 0 {
                            entry.remove();
                        }
                    }
                    _ => {}
                }
            }
            Key::Other(bytes) => self.others.update(bytes, decide),
        }
    }

    /// Puts a change in, whatever was there.
    pub fn insert(&mut self, key: impl Into<Key>, change: Change) {
        self.update(key.into(), |_, _| Some(change));
    }

    /// Takes a change out.
    pub fn remove(&mut self, key: &[u8]) {
        self.update(Bytes::copy_from_slice(key).into(), |_, _| None);
    }

    /// All, in ascending order.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_in((Bound::Unbounded, Bound::Unbounded), Some(Place(0)), None)
    }

    /// Those with `start <= key < end`, in ascending order; none if that is no range.
    pub fn range<'a>(&'a self, start: &[u8], end: &[u8]) -> Iter<'a> {
        if start >= end {
            return Iter::default();
        }
        let keys = (Bound::Included(start), Bound::Excluded(end));
        self.iter_in(keys, Place::at_or_after(start), Place::at_or_after(end))
    }

    /// Others with such keys, and answers from one place on (if there is none, then no answers) to
    /// before another one, which does not lie before it.
    fn iter_in<'a>(
        &'a self,
        keys: (Bound<&[u8]>, Bound<&[u8]>),
        from: Option<Place>,
        to: Option<Place>,
    ) -> Iter<'a> {
        let answers = from.map(|from| {
            let last = to.map_or(u128::MAX, |to| to.chunk().0);
            let chunks = self.answers.range(from.chunk().0..=last);
            Answers { chunks, open: None, from, to }.peekable()
        });
        Iter { answers, others: Some(self.others.range(keys).peekable()) }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Answers in the order of their places.
struct Answers<'a> {
    chunks: btree_map::Range<'a, u128, Box<Chunk>>,
    /// The chunk that is gone through, and where in it.
    open: Option<(u128, &'a Chunk, usize)>,
    from: Place,
    /// Before this one.
    to: Option<Place>,
}

impl<'a> Iterator for Answers<'a> {
    type Item = (Place, &'a Change);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (number, chunk, at) = match self.open.take() {
                Some(open) => open,
                None => {
                    let (number, chunk) = self.chunks.next()?;
                    (*number, &**chunk, 0)
                }
            };
            if at + 1 < CHUNK {
                self.open = Some((number, chunk, at + 1));
            }
            let place = Place::of_chunk(number, at);
            if self.to.is_some_and(|to| place >= to) {
                self.open = None;
                return None;
            }
            if let Some(change) = &chunk.places[at]
                && place >= self.from
            {
                return Some((place, change));
            }
        }
    }
}

/// Other records in the order of their keys.
struct InOrder<'a> {
    keys: btree_set::Range<'a, Bytes>,
    by_key: &'a HashMap<Bytes, Change, RandomState>,
}

impl<'a> Iterator for InOrder<'a> {
    type Item = (&'a Bytes, &'a Change);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.keys.next()?;
        let change = self.by_key.get(key).expect(IN_ORDER);
        Some((key, change))
    }
}

/// Changes in ascending order of their keys.
#[derive(Default)]
pub struct Iter<'a> {
    answers: Option<Peekable<Answers<'a>>>,
    others: Option<Peekable<InOrder<'a>>>,
}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Iter")
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (KeyBytes<'a>, &'a Change);

    fn next(&mut self) -> Option<Self::Item> {
        let other = self.others.as_mut().and_then(Peekable::peek);
        let answer = self.answers.as_mut().and_then(Peekable::peek);
        let answer_first = match (answer, other) {
            (Some((place, _)), Some((key, _))) => place.bytes()[..] < key[..],
            (answer, _) => answer.is_some(),
        };
        if answer_first {
            let (place, change) = self.answers.as_mut()?.next()?;
            return Some((place.bytes(), change));
        }
        let (key, change) = self.others.as_mut()?.next()?;
        Some((KeyBytes(Inner::Other(key)), change))
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = (KeyBytes<'a>, &'a Change);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Changes that are taken out: answers first, then the others, each in ascending order.
#[derive(Debug)]
pub struct IntoIter {
    answers: btree_map::IntoIter<u128, Box<Chunk>>,
    open: Option<(u128, Box<Chunk>, usize)>,
    order: btree_set::IntoIter<Bytes>,
    by_key: HashMap<Bytes, Change, RandomState>,
}

impl Iterator for IntoIter {
    type Item = (Key, Change);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.open.as_ref().is_none_or(|(_, _, at)| *at == CHUNK) {
                self.open = self.answers.next().map(|(number, chunk)| (number, chunk, 0));
            }
            let Some((number, chunk, at)) = &mut self.open else {
                let key = self.order.next()?;
                let change = self.by_key.remove(&key).expect(IN_ORDER);
                return Some((Key::Other(key), change));
            };
            let place = Place::of_chunk(*number, *at);
            let change = chunk.places[*at].take();
            *at += 1;
            if let Some(change) = change {
                return Some((place.key(), change));
            }
        }
    }
}

impl IntoIterator for Changes {
    type Item = (Key, Change);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        let Others { by_key, order } = self.others;
        IntoIter { answers: self.answers.into_iter(), open: None, order: order.into_iter(), by_key }
    }
}

impl<K: Into<Key>> Extend<(K, Change)> for Changes {
    fn extend<I: IntoIterator<Item = (K, Change)>>(&mut self, changes: I) {
        changes.into_iter().for_each(|(key, change)| self.insert(key, change));
    }
}

impl<K: Into<Key>> FromIterator<(K, Change)> for Changes {
    fn from_iter<I: IntoIterator<Item = (K, Change)>>(changes: I) -> Changes {
        let mut all = Changes::new();
        all.extend(changes);
        all
    }
}

impl<const N: usize> From<[(Bytes, Change); N]> for Changes {
    fn from(changes: [(Bytes, Change); N]) -> Changes {
        changes.into_iter().collect()
    }
}
