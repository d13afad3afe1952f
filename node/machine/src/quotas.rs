//! The quotas while one entry is applied: they are charged for what is written, refuse, and count.

use std::ops::ControlFlow;

use tally_seeded_bugs as seeded_bugs;

use super::{
    item::KeyRecord,
    keys::{RecordKey, Space},
    limits::QUOTA_COUNT_BYTES_PER_ITEM,
    quota::{Counted, QuotaRecord, QuotaUnit, Scope, Used, counter_bytes, key_bytes},
    records::{Record, decode_stored},
    reply::Refusal,
    view::{Overlay, View},
};

/// All quotas, counters before keys, by prefix.
pub fn quotas<V: View + ?Sized>(view: &V) -> Vec<(Scope, String, QuotaRecord)> {
    let (start, end) = Space::Quota.range();
    let mut quotas = Vec::new();
    view.scan(&start, &end, &mut |key, value| {
        let Ok(RecordKey::Quota { scope, prefix }) = RecordKey::decode(key) else {
            panic!("the space of quotas holds a malformed key: {key:02x?}");
        };
        quotas.push((scope, prefix.to_owned(), decode_stored(key, value)));
        ControlFlow::Continue(())
    });
    quotas
}

/// A quota while one entry is applied.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) scope: Scope,
    pub(crate) prefix: String,
    pub(crate) record: QuotaRecord,
    pub(crate) dirty: bool,
}

/// The quotas while one entry is applied: read when the first of them is asked for, all of them, and written back at
/// its end, as hot records are.
#[derive(Debug)]
pub(crate) struct Quotas {
    /// In the order of their keys; nothing before anybody asks.
    loaded: Option<Vec<Quota>>,
    /// While recording: what was used of a quota before each change, and whether it was to be written then.
    journal: Vec<(usize, Used, bool)>,
    recording: bool,
    /// What this entry may still count.
    left: CountLeft,
}

/// How much one entry counts: items, and bytes of items, as values may be large. (The last one may pass the bytes.)
#[derive(Debug, Clone, Copy)]
struct CountLeft {
    items: u64,
    bytes: u64,
}

impl Quotas {
    /// Not read yet; this entry may count so many items.
    pub(crate) fn new(items: usize) -> Quotas {
        let items = items as u64;
        let left = CountLeft { items, bytes: items * QUOTA_COUNT_BYTES_PER_ITEM };
        Quotas { loaded: None, journal: Vec::new(), recording: false, left }
    }

    /// The quotas, in the order of their keys.
    pub(crate) fn load<V: View + ?Sized>(&mut self, view: &V) -> &mut Vec<Quota> {
        self.loaded.get_or_insert_with(|| {
            let quota = |(scope, prefix, record)| Quota { scope, prefix, record, dirty: false };
            quotas(view).into_iter().map(quota).collect()
        })
    }

    /// Reads them anew when they are asked for next, as something else is going to write them. There are none now.
    pub(crate) fn forget(&mut self) {
        let loaded = self.loaded.take().unwrap_or_default();
        assert!(loaded.is_empty(), "{loaded:?} would be written over");
    }

    pub(crate) fn begin(&mut self) {
        self.recording = true;
    }

    pub(crate) fn commit(&mut self) {
        self.journal.clear();
        self.recording = false;
    }

    pub(crate) fn roll_back(&mut self) {
        let quotas = self.loaded.as_deref_mut().unwrap_or_default();
        if seeded_bugs::is_on("quota-keeps-what-a-refused-step-took") {
            self.journal.clear();
        }
        // Backwards: if a quota was charged twice, what it held first wins.
        for (at, used, dirty) in self.journal.drain(..).rev() {
            quotas[at].record.used = used;
            quotas[at].dirty = dirty;
        }
        self.recording = false;
    }

    /// Charges each quota that counts an item, if each allows it that refuses.
    pub(crate) fn charge<V: View + ?Sized>(
        &mut self,
        view: &V,
        (scope, name): (Scope, &str),
        before: Option<u64>,
        after: Option<u64>,
    ) -> Result<(), Refusal> {
        self.load(view);
        let Quotas { loaded, journal, recording, .. } = self;
        let quotas = loaded.as_deref_mut().unwrap_or_default();
        // As if what is written anew were more.
        let is_new = seeded_bugs::is_on("quota-refuses-an-add") && before == after;
        let judged = before.filter(|_| !is_new);
        for quota in quotas.iter().filter(|quota| quota.is_about(scope, name)) {
            // One that still counts would refuse by a part of what is used.
            if quota.record.is_ready()
                && let Some(refusal) = quota.refuse(judged, after)
                && !seeded_bugs::is_on("quota-never-refuses")
            {
                return Err(refusal);
            }
        }
        for (at, quota) in quotas.iter_mut().enumerate() {
            if quota.is_about(scope, name) && quota.record.counted.holds(name) {
                if *recording {
                    journal.push((at, quota.record.used, quota.dirty));
                }
                quota.charge(before, after);
            }
        }
        Ok(())
    }

    /// Counts a piece for a quota; whether it has all then. It has if no more items are left than this entry may still
    /// count.
    pub(crate) fn count<V: View + ?Sized>(&mut self, at: usize, view: &V) -> bool {
        let Quotas { loaded, left, .. } = self;
        let quota = &mut loaded.as_deref_mut().expect("quotas are read before they count")[at];
        let Quota { scope, prefix, record, dirty } = quota;
        if seeded_bugs::is_on("quota-begins-at-nothing") {
            (record.counted, *dirty) = (Counted::All, true);
        }
        let space = match scope {
            Scope::Counters => Space::Counter,
            Scope::Keys => Space::Key,
        };
        let (mut start, end) = space.prefix_range(prefix);
        match &record.counted {
            Counted::All => return true,
            Counted::Nothing => {}
            Counted::UpTo(name) => {
                start.truncate(1);
                start.extend_from_slice(name.as_bytes());
                // The least that is behind it.
                start.push(0);
            }
        }
        let (mut last, mut more) = (Vec::new(), false);
        let left_before = left.items;
        let used = &mut record.used;
        view.scan(&start, &end, &mut |key, value| {
            if left.items == 0 || left.bytes == 0 {
                more = true;
                return ControlFlow::Break(());
            }
            let bytes = match RecordKey::decode(key) {
                Ok(RecordKey::Counter(name)) => counter_bytes(name),
                Ok(RecordKey::Key(name)) => {
                    let record: KeyRecord = decode_stored(key, value);
                    key_bytes(name, record.value.len())
                }
                other => panic!("the space {space:?} holds something else: {other:?}"),
            };
            used.items += 1;
            used.bytes += bytes;
            left.items -= 1;
            left.bytes = left.bytes.saturating_sub(bytes);
            last.clear();
            last.extend_from_slice(&key[1..]);
            ControlFlow::Continue(())
        });
        if !more {
            record.counted = Counted::All;
        } else if left.items < left_before {
            let name = String::from_utf8(last).expect("it was read as text just before");
            record.counted = Counted::UpTo(name);
        } else {
            return false;
        }
        *dirty = true;
        !more
    }

    pub(crate) fn flush<V: View + ?Sized>(self, overlay: &mut Overlay<'_, V>) {
        for Quota { scope, prefix, record, dirty } in self.loaded.unwrap_or_default() {
            if dirty {
                overlay.put(RecordKey::Quota { scope, prefix: &prefix }.encode(), record.encode());
            }
        }
    }
}

impl Quota {
    fn is_about(&self, scope: Scope, name: &str) -> bool {
        self.scope == scope && name.starts_with(&self.prefix)
    }

    /// Why an item may not have what it gets, if so.
    fn refuse(&self, before: Option<u64>, after: Option<u64>) -> Option<Refusal> {
        let grows = [
            (QuotaUnit::Items, u64::from(before.is_none() && after.is_some())),
            (QuotaUnit::Bytes, after.unwrap_or(0).saturating_sub(before.unwrap_or(0))),
        ];
        grows.into_iter().find_map(|(unit, grows_by)| {
            let (used, _, hard) = self.record.of(unit);
            let limit = hard?;
            let is_over = grows_by > 0 && used.saturating_add(grows_by) > limit;
            is_over.then(|| Refusal::QuotaExceeded {
                scope: self.scope,
                prefix: self.prefix.clone(),
                unit,
                used,
                limit,
                grows_by,
            })
        })
    }

    fn charge(&mut self, before: Option<u64>, after: Option<u64>) {
        if after.is_none() && seeded_bugs::is_on("quota-forgets-a-delete") {
            return;
        }
        let used = &mut self.record.used;
        let removed = (u64::from(before.is_some()), before.unwrap_or(0));
        let (Some(items), Some(bytes)) =
            (used.items.checked_sub(removed.0), used.bytes.checked_sub(removed.1))
        else {
            panic!(
                "the quota on {:?} {:?} has less in use, {used:?}, than one item of it, {before:?}",
                self.scope, self.prefix
            );
        };
        used.items = items + u64::from(after.is_some());
        used.bytes = bytes + after.unwrap_or(0);
        self.dirty = true;
    }
}

/// Where a quota is, or where it would be put.
pub(crate) fn find(quotas: &[Quota], scope: Scope, prefix: &str) -> Result<usize, usize> {
    quotas.binary_search_by(|quota| (quota.scope, quota.prefix.as_str()).cmp(&(scope, prefix)))
}
