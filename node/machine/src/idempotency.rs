//! Idempotency keys: the application's own names for its writes.
//!
//! A key is live until its window of log time has passed, whether or not its record is still
//! there. A live key is never evicted: when the table is full, new keyed writes are refused.

use bytes::Bytes;
use tally_seeded_bugs as seeded_bugs;

use super::{
    command::{Fingerprint, Kept, Refusal, Reply},
    keys::RecordKey,
    limits::RECORD_OVERHEAD_BYTES,
    records::{IdempotencyRecord, Record, decode_stored},
    view::View,
    work::Work,
};

/// What a live key knows.
#[derive(Debug)]
pub(super) enum Keyed {
    /// The answer to the same request.
    Same(Reply),
    /// It was used for another one.
    Other,
}

/// What an idempotency key counts towards the limit on the table's bytes.
///
/// Two records are kept: the answer by key, and the key by expiry. Each costs its ordinal and the
/// key's bytes, the second eight more for the time, and each [`RECORD_OVERHEAD_BYTES`] in trees and
/// files. `record_bytes` is the stored answer: about 70 for a counter's change. So a table sustains
/// `idempotency_bytes_max / (window x bytes)` new keys a second.
///
/// ```
/// // 16-byte keys on increments: 176 bytes each, so 1 GiB sustains 70 a second for a day.
/// assert_eq!(tally_machine::idempotency_entry_bytes(16, 70), 176);
/// ```
pub fn idempotency_entry_bytes(key_bytes: usize, record_bytes: usize) -> u64 {
    2 * (1 + key_bytes as u64 + RECORD_OVERHEAD_BYTES) + 8 + record_bytes as u64
}

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// What is remembered under a key, if it is live.
    pub(super) fn live_key(&mut self, key: &str, fingerprint: &Fingerprint) -> Option<Keyed> {
        let record_key = RecordKey::Idempotency(key).encode();
        let bytes = self.overlay.get(&record_key)?;
        let record: IdempotencyRecord = decode_stored(&record_key, &bytes);
        if record.expires_at_ms <= self.meta.log_time_ms {
            return None;
        }
        Some(if record.fingerprint == *fingerprint {
            Keyed::Same(record.reply)
        } else {
            Keyed::Other
        })
    }

    /// Stores an answer under a key that is not live; refused if the table has no room.
    pub(super) fn remember_by_key(
        &mut self,
        key: &str,
        window_ms: u64,
        fingerprint: Fingerprint,
        reply: &Reply,
    ) -> Result<Kept, Refusal> {
        // What has expired under this very key makes room first.
        self.remove_key(key);
        let window_max_ms = self.meta.settings.idempotency_window_ms;
        let window_ms = match window_ms {
            0 => window_max_ms,
            asked => asked.min(window_max_ms),
        };
        let stored_at_ms = self.meta.log_time_ms;
        let expires_at_ms = stored_at_ms.saturating_add(window_ms);
        let kept = Kept { until_log_time_ms: expires_at_ms, for_ms: window_ms };
        let reply = Reply { kept: Some(kept), ..reply.clone() }.as_stored();
        let expires_at_ms = match seeded_bugs::is_on("key-forgotten-early") {
            true => stored_at_ms.saturating_add(window_ms / 2),
            false => expires_at_ms,
        };
        let record = IdempotencyRecord { fingerprint, expires_at_ms, stored_at_ms, reply }.encode();

        let bytes = idempotency_entry_bytes(key.len(), record.len());
        let bytes_max = self.meta.settings.idempotency_bytes_max;
        // Keys that have expired and wait for housekeeping must not be seen, so they make room
        // first. What is removed has at least the size of the smallest entry, so few have to go.
        while self.meta.idempotency_bytes + bytes > bytes_max {
            if !self.remove_an_expired_key() {
                return Err(Refusal::DedupTableFull { bytes_max });
            }
        }
        self.overlay.put(RecordKey::Idempotency(key).encode(), record);
        let expiry = RecordKey::IdempotencyExpiry { expires_at_ms, key };
        self.overlay.put(expiry.encode(), Bytes::new());
        self.meta.idempotency_keys += 1;
        self.meta.idempotency_bytes += bytes;
        Ok(kept)
    }

    /// Removes a key's records, if there are any.
    pub(super) fn remove_key(&mut self, key: &str) {
        let record_key = RecordKey::Idempotency(key).encode();
        let Some(bytes) = self.overlay.get(&record_key) else {
            return;
        };
        let record: IdempotencyRecord = decode_stored(&record_key, &bytes);
        assert!(
            record.expires_at_ms <= self.meta.log_time_ms,
            "idempotency key {key:?} would be forgotten before its window has passed"
        );
        let expires_at_ms = record.expires_at_ms;
        self.overlay.delete(RecordKey::IdempotencyExpiry { expires_at_ms, key }.encode());
        self.overlay.delete(record_key);
        self.meta.idempotency_keys -= 1;
        self.meta.idempotency_bytes -= idempotency_entry_bytes(key.len(), bytes.len());
    }
}
