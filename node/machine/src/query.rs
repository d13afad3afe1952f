//! The read side: what can be asked of a state. Each answer is consistent in itself.
//!
//! A page ends at its number of items or when one more would pass its bytes; it says whether more
//! follows. Page tokens, and which state may be read, are the caller's business.

use std::ops::ControlFlow;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tally_seeded_bugs as seeded_bugs;

use super::{
    item::{CounterRecord, KeyRecord},
    keys::{MACHINE_END, RecordKey, Space, key_as_given},
    limits::RECORD_OVERHEAD_BYTES,
    owner::Owner,
    records::{IdempotencyRecord, Meta, OwnerRecord, Record, SessionRecord, decode_stored},
    view::View,
};

/// Items in ascending order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Names and items.
    pub items: Vec<(String, T)>,
    /// Something follows: ask again after the last name.
    pub more: bool,
}

/// Which names a page goes through, in ascending byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range<'a> {
    /// Only names that begin with this.
    pub prefix: &'a str,
    /// Only names from this one on.
    pub start: Option<&'a str>,
    /// Only names before this one.
    pub end: Option<&'a str>,
    /// Only names after this one: where the page before ended.
    pub after: Option<&'a str>,
}

/// How long a page may get. One item is always returned, so that a reader gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// At most this many items.
    pub items_max: usize,
    /// At most about this many bytes of names and values.
    pub bytes_max: usize,
}

/// A batch read that would return too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the values asked for are larger than {bytes_max} bytes together")]
pub struct TooLarge {
    /// The limit.
    pub bytes_max: usize,
}

/// What the leader's admission looks at before it proposes a write under a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLoad {
    /// Whose it is: the id of the user that opened it, 0 for one that was opened while authentication was off.
    pub user: u64,
    /// Lowest number that may still be asked for.
    pub watermark: u64,
    /// Stored answers, those that wait for removal included.
    pub answers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Log time at which it ends, unless it is used before.
    pub expires_at_ms: u64,
}

/// One idempotency key, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyEntry {
    /// The key.
    pub key: String,
    /// Log time at which its answer was stored.
    pub stored_at_ms: u64,
    /// Log time at which it expires.
    pub expires_at_ms: u64,
}

/// The record about the whole store.
pub fn meta<V: View + ?Sized>(view: &V) -> Meta {
    get(view, RecordKey::Meta).unwrap_or_default()
}

/// One counter.
pub fn counter<V: View + ?Sized>(view: &V, name: &str) -> Option<CounterRecord> {
    get(view, RecordKey::Counter(name))
}

/// Several counters, in the order asked for.
pub fn counters<V: View + ?Sized>(view: &V, names: &[String]) -> Vec<Option<CounterRecord>> {
    names.iter().map(|name| counter(view, name)).collect()
}

/// One key.
pub fn key<V: View + ?Sized>(view: &V, key: &str) -> Option<KeyRecord> {
    get(view, RecordKey::Key(key))
}

/// Several keys, in the order asked for; refused if names and values are above `bytes_max`.
pub fn keys<V: View + ?Sized>(
    view: &V,
    names: &[String],
    bytes_max: usize,
) -> Result<Vec<Option<KeyRecord>>, TooLarge> {
    let mut bytes = 0;
    let mut records = Vec::with_capacity(names.len());
    for name in names {
        let record = key(view, name);
        bytes += item_bytes(name, record.as_ref().map_or(0, |record| record.value.len()));
        if bytes > bytes_max {
            return Err(TooLarge { bytes_max });
        }
        records.push(record);
    }
    Ok(records)
}

/// A page of counters.
pub fn list_counters<V: View + ?Sized>(
    view: &V,
    range: Range<'_>,
    limits: PageLimits,
) -> Page<CounterRecord> {
    page(view, Space::Counter, range, limits, |record: CounterRecord| (record, 0))
}

/// A page of keys; with `keys_only` their values are left empty.
pub fn scan_keys<V: View + ?Sized>(
    view: &V,
    range: Range<'_>,
    limits: PageLimits,
    keys_only: bool,
) -> Page<KeyRecord> {
    page(view, Space::Key, range, limits, |mut record: KeyRecord| {
        if keys_only {
            record.value = Bytes::new();
        }
        let bytes = record.value.len();
        (record, bytes)
    })
}

/// What a session holds; `None` if it is not open by the state's log time.
pub fn session_load<V: View + ?Sized>(view: &V, session_id: u64) -> Option<SessionLoad> {
    let session: SessionRecord = get(view, RecordKey::Session(session_id))?;
    if session.expires_at_ms <= meta(view).log_time_ms {
        return None;
    }
    Some(SessionLoad {
        user: session.user,
        watermark: session.watermark,
        answers: session.answers,
        bytes: session.answer_bytes,
        expires_at_ms: session.expires_at_ms,
    })
}

/// Sessions that are open, in ascending order of their ids: the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// Ids and records.
    pub items: Vec<(u64, SessionRecord)>,
    /// Where to go on: the last id that was looked at. None if all were.
    pub looked_at: Option<u64>,
}

/// Sessions that are open by the state's log time, with ids above `after`, of one owner or of all.
///
/// It ends after `items_max` of them (above 0), or after it has looked at `looked_at_max`, those that it
/// leaves out included: with a filter, a page may hold nothing though more follows.
pub fn list_sessions<V: View + ?Sized>(
    view: &V,
    after: u64,
    owner: Option<Owner>,
    items_max: usize,
    looked_at_max: usize,
) -> Sessions {
    let log_time_ms = meta(view).log_time_ms;
    let start = RecordKey::Session(after.saturating_add(1)).encode();
    let (_, end) = Space::Session.range();
    let mut sessions = Sessions { items: Vec::new(), looked_at: None };
    let (mut last, mut looked_at) = (after, 0);
    view.scan(&start, &end, &mut |key, value| {
        if sessions.items.len() >= items_max || looked_at >= looked_at_max {
            sessions.looked_at = Some(last);
            return ControlFlow::Break(());
        }
        let Ok(RecordKey::Session(session_id)) = RecordKey::decode(key) else {
            panic!("the space of sessions holds a malformed key: {key:02x?}");
        };
        (last, looked_at) = (session_id, looked_at + 1);
        let session: SessionRecord = decode_stored(key, value);
        let is_asked_for = owner.is_none_or(|owner| session.owner == Some(owner));
        if is_asked_for && log_time_ms < session.expires_at_ms {
            sessions.items.push((session_id, session));
        }
        ControlFlow::Continue(())
    });
    sessions
}

/// Who holds the most sessions, and how many, the most first and at most so many; equal ones in the
/// order of their addresses. It looks at each owner, of which there are no more than sessions. Sessions
/// that have ended are counted until they are removed.
pub fn owners<V: View + ?Sized>(view: &V, owners_max: usize) -> Vec<(Owner, u64)> {
    let (start, end) = Space::SessionOwner.range();
    let mut owners = Vec::new();
    view.scan(&start, &end, &mut |key, value| {
        let Ok(RecordKey::SessionOwner(owner)) = RecordKey::decode(key) else {
            panic!("the space of owners holds a malformed key: {key:02x?}");
        };
        let record: OwnerRecord = decode_stored(key, value);
        owners.push((owner, record.sessions));
        ControlFlow::Continue(())
    });
    owners.sort_by_key(|(_, sessions)| std::cmp::Reverse(*sessions));
    owners.truncate(owners_max);
    owners
}

/// The idempotency key that expires first. While all windows are equal, it is the oldest too.
pub fn first_idempotency_expiry<V: View + ?Sized>(view: &V) -> Option<IdempotencyEntry> {
    let index_key = first_key(view, Space::IdempotencyExpiry)?;
    let Ok(RecordKey::IdempotencyExpiry { expires_at_ms, key }) = RecordKey::decode(&index_key)
    else {
        panic!("the index of idempotency keys holds a malformed key: {index_key:02x?}");
    };
    let as_given = key_as_given(key).to_owned();
    let record: IdempotencyRecord = get(view, RecordKey::Idempotency(key))
        .expect("an idempotency key in the index of expiry has a record");
    Some(IdempotencyEntry { key: as_given, stored_at_ms: record.stored_at_ms, expires_at_ms })
}

/// The log time at which something expires next, if anything can. While there is one, log time
/// has to go on, and the leader proposes ticks. One that has passed means that housekeeping is
/// behind, and that more ticks help it.
pub fn next_expiry_log_time<V: View + ?Sized>(view: &V) -> Option<u64> {
    let time = |space| {
        let key = first_key(view, space)?;
        match RecordKey::decode(&key) {
            Ok(RecordKey::SessionExpiry { expires_at_ms, .. })
            | Ok(RecordKey::IdempotencyExpiry { expires_at_ms, .. }) => Some(expires_at_ms),
            other => panic!("an index of expiry holds something else: {other:?}"),
        }
    };
    let (sessions, keys) = (time(Space::SessionExpiry), time(Space::IdempotencyExpiry));
    match (sessions, keys) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Whether a quota has not counted all that was there when it was set: each tick counts a piece.
pub fn quotas_count<V: View + ?Sized>(view: &V) -> bool {
    meta(view).quotas.counting > 0
}

/// Whether something waits to be removed that more ticks would remove.
pub fn housekeeping_due<V: View + ?Sized>(view: &V) -> bool {
    first_key(view, Space::SessionGarbage).is_some()
        || next_expiry_log_time(view).is_some_and(|time| time <= meta(view).log_time_ms)
}

/// SHA-256 over all records of the machine in order: equal on replicas that applied the same
/// entries.
pub fn state_hash<V: View + ?Sized>(view: &V) -> [u8; 32] {
    let mut hash = Sha256::new();
    view.scan(&[0], &[MACHINE_END], &mut |key, value| {
        // Lengths in front, so that no two states are the same sequence of bytes.
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key);
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value);
        ControlFlow::Continue(())
    });
    hash.finalize().into()
}

pub(super) fn get<V: View + ?Sized, R: Record>(view: &V, key: RecordKey<'_>) -> Option<R> {
    let key = key.encode();
    view.get(&key).map(|bytes| decode_stored(&key, &bytes))
}

fn first_key<V: View + ?Sized>(view: &V, space: Space) -> Option<Bytes> {
    let (start, end) = space.range();
    let mut first = None;
    view.scan(&start, &end, &mut |key, _| {
        first = Some(Bytes::copy_from_slice(key));
        ControlFlow::Break(())
    });
    first
}

/// What an item counts towards the bytes of an answer: name, value, and the numbers around them.
fn item_bytes(name: &str, value_bytes: usize) -> usize {
    name.len() + value_bytes + 2 * RECORD_OVERHEAD_BYTES as usize
}

fn page<V: View + ?Sized, R: Record, T>(
    view: &V,
    space: Space,
    range: Range<'_>,
    limits: PageLimits,
    mut item: impl FnMut(R) -> (T, usize),
) -> Page<T> {
    let (start, end) = scan_range(space, range);
    let mut page = Page { items: Vec::new(), more: false };
    let mut bytes = 0;
    let mut skips = range.after.is_some() && seeded_bugs::is_on("page-skips-an-item");
    view.scan(&start, &end, &mut |key, value| {
        if std::mem::take(&mut skips) {
            return ControlFlow::Continue(());
        }
        if page.items.len() >= limits.items_max {
            page.more = true;
            return ControlFlow::Break(());
        }
        let name = match RecordKey::decode(key) {
            Ok(RecordKey::Counter(name)) | Ok(RecordKey::Key(name)) => name,
            other => panic!("the space {space:?} holds something else: {other:?}"),
        };
        let (item, value_bytes) = item(decode_stored(key, value));
        bytes += item_bytes(name, value_bytes);
        if bytes > limits.bytes_max && !page.items.is_empty() {
            page.more = true;
            return ControlFlow::Break(());
        }
        page.items.push((name.to_owned(), item));
        ControlFlow::Continue(())
    });
    page
}

fn scan_range(space: Space, range: Range<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut start, mut end) = space.prefix_range(range.prefix);
    let encode = |name: &str| [&[space as u8], name.as_bytes()].concat();
    if let Some(from) = range.start {
        start = start.max(encode(from));
    }
    if let Some(after) = range.after {
        // The least key above a name is the name with a zero byte behind it.
        let mut above = encode(after);
        if !seeded_bugs::is_on("page-repeats-its-last") {
            above.push(0);
        }
        start = start.max(above);
    }
    if let Some(before) = range.end {
        end = end.min(encode(before));
    }
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{memory::MemoryView, view::Writes},
        *,
    };

    fn state() -> MemoryView {
        let mut writes = Writes::default();
        for (index, name) in (1..).zip(["a", "a/1", "a/2", "a0", "b", "ä"]) {
            let key = KeyRecord {
                value: Bytes::from(vec![b'v'; 100]),
                created_revision: index,
                modified_revision: index,
                modified_wall_time_ms: 0,
            };
            writes.put(RecordKey::Key(name).encode(), key.encode());
            let counter = CounterRecord {
                value: index as i64,
                bounds: Default::default(),
                created_revision: index,
                modified_revision: index,
                modified_wall_time_ms: 0,
            };
            writes.put(RecordKey::Counter(name).encode(), counter.encode());
        }
        let mut state = MemoryView::default();
        state.commit(writes);
        state
    }

    fn names<T>(page: &Page<T>) -> Vec<&str> {
        page.items.iter().map(|(name, _)| name.as_str()).collect()
    }

    const WIDE: PageLimits = PageLimits { items_max: 100, bytes_max: 100_000 };

    #[test]
    fn ranges() {
        let state = state();
        let list = |range| {
            let counters = list_counters(&state, range, WIDE);
            let keys = scan_keys(&state, range, WIDE, true);
            assert_eq!(names(&counters), names(&keys));
            assert!(!keys.more && keys.items.iter().all(|(_, key)| key.value.is_empty()));
            names(&counters).join(" ")
        };
        let all = Range::default();
        assert_eq!(list(all), "a a/1 a/2 a0 b ä");
        assert_eq!(list(Range { prefix: "a/", ..all }), "a/1 a/2");
        assert_eq!(list(Range { prefix: "ä", ..all }), "ä");
        assert_eq!(list(Range { start: Some("a/2"), end: Some("b"), ..all }), "a/2 a0");
        assert_eq!(list(Range { after: Some("a"), end: Some("a0"), ..all }), "a/1 a/2");
        assert_eq!(list(Range { prefix: "a", after: Some("a/2"), ..all }), "a0 ".trim());
        assert_eq!(list(Range { prefix: "a", start: Some("b"), ..all }), "");
        assert_eq!(list(Range { start: Some("b"), end: Some("a"), ..all }), "");
    }

    #[test]
    fn pages_end_at_items_or_bytes() {
        let state = state();
        for limits in [
            PageLimits { items_max: 2, ..WIDE },
            PageLimits { bytes_max: 2 * (3 + 100 + 64), ..WIDE },
            PageLimits { bytes_max: 0, ..WIDE },
        ] {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let range = Range { after: after.as_deref(), ..Range::default() };
                let page = scan_keys(&state, range, limits, false);
                assert!((1..=2).contains(&page.items.len()), "{limits:?}");
                seen.extend(page.items.iter().map(|(name, _)| name.clone()));
                if !page.more {
                    break;
                }
                after = seen.last().cloned();
            }
            assert_eq!(seen.join(" "), "a a/1 a/2 a0 b ä", "{limits:?}");
        }
    }

    #[test]
    fn pages_of_sessions_end_at_items_or_at_what_they_looked_at() {
        let mut writes = Writes::default();
        let owner = |last: u8| Owner::new([10, 0, 0, last].into());
        for id in 1..=10u64 {
            let session = SessionRecord {
                idle_timeout_ms: 100,
                // The fifth has ended.
                expires_at_ms: if id == 5 { 10 } else { 200 },
                watermark: 1,
                removed_below: 1,
                highest_sequence: 0,
                answers: 0,
                answer_bytes: 0,
                garbage_queued: false,
                opened_wall_time_ms: 0,
                owner: (id > 1).then(|| owner(if id % 3 == 0 { 3 } else { 1 })),
                user: 0,
            };
            writes.put(RecordKey::Session(id).encode(), session.encode());
        }
        let meta = Meta { log_time_ms: 100, ..Meta::default() };
        writes.put(RecordKey::Meta.encode(), meta.encode());
        for (last, sessions) in [(3, 3), (1, 6), (9, 3)] {
            let record = OwnerRecord { sessions }.encode();
            writes.put(RecordKey::SessionOwner(owner(last)).encode(), record);
        }
        let mut state = MemoryView::default();
        state.commit(writes);

        let list = |after, of: Option<u8>, items_max, looked_at_max| {
            let page = list_sessions(&state, after, of.map(owner), items_max, looked_at_max);
            let ids: Vec<u64> = page.items.iter().map(|(id, _)| *id).collect();
            (ids, page.looked_at)
        };
        assert_eq!(list(0, None, 100, 100), (vec![1, 2, 3, 4, 6, 7, 8, 9, 10], None));
        assert_eq!(list(0, None, 5, 100), (vec![1, 2, 3, 4, 6], Some(6)));
        assert_eq!(list(6, None, 5, 100), (vec![7, 8, 9, 10], None));
        assert_eq!(list(6, None, 4, 100), (vec![7, 8, 9, 10], None));
        assert_eq!(list(0, Some(3), 100, 100), (vec![3, 6, 9], None));
        assert_eq!(list(0, Some(3), 100, 4), (vec![3], Some(4)));
        assert_eq!(list(6, Some(3), 100, 2), (vec![], Some(8)));
        assert_eq!(list(8, Some(3), 100, 2), (vec![9], None));
        assert_eq!(list(u64::MAX, None, 100, 100), (vec![], None));
        assert_eq!(owners(&state, 2), [(owner(1), 6), (owner(3), 3)]);
        assert_eq!(owners(&state, 9).len(), 3);
    }

    #[test]
    fn batches() {
        let state = state();
        let asked = ["b".to_owned(), "none".to_owned(), "a".to_owned()];
        let values: Vec<_> = counters(&state, &asked).iter().map(|c| c.map(|c| c.value)).collect();
        assert_eq!(values, [Some(5), None, Some(1)]);
        let found = keys(&state, &asked, 1000).unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(keys(&state, &asked, 300), Err(TooLarge { bytes_max: 300 }));
    }
}
