//! Applying the steps of a restore; what holds is in [`super::restore`].

use std::ops::ControlFlow;

use bytes::{Buf, Bytes};
use tally_seeded_bugs as seeded_bugs;

use super::{
    auth::{
        AUTH_BYTES_MAX, AuthMeta, RoleLimit, RoleRecord, TokenRecord, UserIdRecord, UserRecord,
    },
    idempotency::idempotency_entry_bytes,
    item::{CounterRecord, KeyRecord},
    keys::{RecordKey, Space},
    limits::{IDEMPOTENCY_KEY_BYTES_MAX, NAME_BYTES_MAX, QUOTAS_MAX, VALUE_BYTES_MAX},
    node_ids::NodeIdCommand,
    quota::QuotaRecord,
    records::{IdempotencyRecord, Record},
    reply::{Answer, Refusal},
    restore::{
        ABORT_ITEMS, REVISION_JUMP, Recovery, RestoreBegin, RestoreCommand, RestoreMeta,
        RestorePhase, RestoreRefusal, SPACES, next_in_chain,
    },
    view::View,
    work::Work,
};

/// Longest idempotency key as it is stored: with its user's id around it.
const STORED_KEY_BYTES_MAX: usize = IDEMPOTENCY_KEY_BYTES_MAX + 32;

/// A record of a block, found right.
struct Restored {
    key: Bytes,
    value: Bytes,
    /// Where it is found by when it expires.
    expiry: Option<Bytes>,
}

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// Does one step, or leaves everything as it was.
    pub(super) fn restore(&mut self, command: &RestoreCommand) -> Result<Answer, Refusal> {
        let done = match command {
            RestoreCommand::Begin(backup) => self.begin_restore(backup),
            RestoreCommand::Block { number, payload } => self.restore_block(*number, payload),
            RestoreCommand::Finish { content } => self.finish_restore(content),
            RestoreCommand::Abort => self.abort_restore(),
            RestoreCommand::Recover(recovery) => {
                self.recover(recovery);
                Ok(())
            }
        };
        done.map_err(Refusal::Restore)?;
        let RestoreMeta { phase, next, .. } = self.meta.restore;
        Ok(Answer::Restored { phase, next })
    }

    fn begin_restore(&mut self, backup: &RestoreBegin) -> Result<(), RestoreRefusal> {
        let meta = &self.meta;
        match meta.restore.phase {
            RestorePhase::UnderWay if meta.restore.backup == *backup => return Ok(()),
            RestorePhase::UnderWay => return Err(RestoreRefusal::AnotherUnderWay),
            RestorePhase::Aborting => return Err(RestoreRefusal::Aborting),
            RestorePhase::Nothing | RestorePhase::Done => {}
        }
        let (counters, keys) = (meta.counters, meta.keys);
        let (sessions, idempotency_keys) = (meta.sessions, meta.idempotency_keys);
        if counters + keys + sessions + idempotency_keys > 0
            && !seeded_bugs::is_on("restore-over-what-is-there")
        {
            return Err(RestoreRefusal::NotEmpty { counters, keys, sessions, idempotency_keys });
        }
        let quotas = meta.quotas.quotas;
        if quotas > 0 {
            return Err(RestoreRefusal::OtherQuotas { quotas });
        }
        if meta.auth.users > 1 || meta.auth.roles > 1 || meta.auth.tokens > 1 {
            return Err(RestoreRefusal::OtherUsers);
        }
        if meta.auth.enabled && !backup.auth_enabled {
            return Err(RestoreRefusal::WithoutUsers);
        }
        // What earlier commands of this entry left (deletions, as nothing is stored) comes before the blocks, which go
        // past what it holds of items and quotas.
        self.forget_items();
        self.meta.log_time_ms = self.meta.log_time_ms.max(backup.log_time_ms);
        self.meta.restore = RestoreMeta {
            phase: RestorePhase::UnderWay,
            backup: *backup,
            shift_ms: self.meta.log_time_ms - backup.log_time_ms,
            ..RestoreMeta::default()
        };
        Ok(())
    }

    fn restore_under_way(&self) -> Result<RestoreMeta, RestoreRefusal> {
        match self.meta.restore.phase {
            RestorePhase::UnderWay => Ok(self.meta.restore),
            RestorePhase::Aborting => Err(RestoreRefusal::Aborting),
            RestorePhase::Nothing | RestorePhase::Done => Err(RestoreRefusal::NotUnderWay),
        }
    }

    fn restore_block(&mut self, number: u64, payload: &Bytes) -> Result<(), RestoreRefusal> {
        let mut restore = self.restore_under_way()?;
        if number < restore.next {
            return Ok(());
        }
        if number > restore.next || number >= restore.backup.blocks {
            return Err(RestoreRefusal::OutOfOrder { next: restore.next });
        }
        // All of it is looked at before anything is stored.
        let mut records = self.records_of(payload, &mut restore)?;
        if seeded_bugs::is_on("restore-forgets-a-record") && !records.is_empty() {
            records.remove(0);
        }
        if seeded_bugs::is_on("restore-forgets-keys") {
            records.retain(|record| record.key[0] != Space::Idempotency as u8);
        }
        for Restored { key, value, expiry } in records {
            match RecordKey::decode(&key) {
                Ok(RecordKey::Counter(_)) => self.meta.counters += 1,
                Ok(RecordKey::Key(_)) => self.meta.keys += 1,
                Ok(RecordKey::Idempotency(name)) => {
                    self.meta.idempotency_keys += 1;
                    self.meta.idempotency_bytes += idempotency_entry_bytes(name.len(), value.len());
                }
                Ok(RecordKey::Quota { .. }) => {
                    self.meta.quotas.quotas += 1;
                    self.meta.quotas.counting += 1;
                }
                _ => {}
            }
            if let Some(expiry) = expiry {
                self.overlay.put(expiry, Bytes::new());
            }
            self.overlay.put(key, value);
        }
        restore.next += 1;
        restore.chain = next_in_chain(&restore.chain, payload);
        self.meta.restore = restore;
        Ok(())
    }

    /// The records of a block, as they are to be stored.
    fn records_of(
        &self,
        payload: &Bytes,
        restore: &mut RestoreMeta,
    ) -> Result<Vec<Restored>, RestoreRefusal> {
        let malformed = |what: &str| RestoreRefusal::Malformed(what.to_owned());
        let mut rest = payload.clone();
        let mut records: Vec<Restored> = Vec::new();
        let mut last = Bytes::new();
        while !rest.is_empty() {
            let (key, value) =
                split_record(&mut rest).ok_or_else(|| malformed("a record is cut off"))?;
            if key <= last {
                return Err(malformed("keys do not ascend"));
            }
            last = key.clone();
            let record = checked(&key, value, restore).map_err(malformed)?;
            if self.overlay.get(&record.key).is_some() {
                return Err(malformed("a record comes twice"));
            }
            records.push(record);
        }
        if restore.staged_bytes > AUTH_BYTES_MAX {
            return Err(malformed("more users, roles and tokens than a cluster may have"));
        }
        let is_quota = |record: &&Restored| record.key[0] == Space::Quota as u8;
        let quotas = records.iter().filter(is_quota).count() as u64;
        if self.meta.quotas.quotas + quotas > QUOTAS_MAX as u64 {
            return Err(malformed("more quotas than a cluster may have"));
        }
        Ok(records)
    }

    fn finish_restore(&mut self, content: &[u8; 32]) -> Result<(), RestoreRefusal> {
        if self.meta.restore.phase == RestorePhase::Done
            && self.meta.restore.backup.content == *content
        {
            return Ok(());
        }
        let RestoreMeta { backup, next, chain, .. } = self.restore_under_way()?;
        if backup.content != *content {
            return Err(RestoreRefusal::AnotherUnderWay);
        }
        if next < backup.blocks {
            return Err(RestoreRefusal::Incomplete { next, blocks: backup.blocks });
        }
        if chain != *content {
            return Err(RestoreRefusal::Mismatch);
        }
        self.replace_users(&backup);
        let meta = &mut self.meta;
        meta.revision = meta.revision.max(backup.revision).saturating_add(REVISION_JUMP);
        meta.restore_epoch = meta.restore_epoch.max(backup.epoch).saturating_add(1);
        meta.restore = RestoreMeta { phase: RestorePhase::Done, backup, ..RestoreMeta::default() };
        Ok(())
    }

    /// The backup's users, roles and tokens in place of this cluster's, if it has any.
    fn replace_users(&mut self, backup: &RestoreBegin) {
        let staged = self.some_records(&Space::Staged.range(), usize::MAX);
        if staged.is_empty() && !backup.auth_enabled {
            return;
        }
        for space in SPACES.iter().filter(|space| is_auth(**space)) {
            for (key, _) in self.some_records(&space.range(), usize::MAX) {
                self.overlay.delete(key);
            }
        }
        let mut auth = AuthMeta {
            enabled: backup.auth_enabled,
            last_id: backup.auth_last_id,
            ..AuthMeta::default()
        };
        for (staged_key, value) in staged {
            let key = staged_key.slice(1..);
            match RecordKey::decode(&key) {
                Ok(RecordKey::User(id)) => {
                    auth.users += 1;
                    auth.last_id = auth.last_id.max(id);
                }
                Ok(RecordKey::Token(id)) => {
                    auth.tokens += 1;
                    auth.last_id = auth.last_id.max(id);
                }
                Ok(RecordKey::Role(_)) => auth.roles += 1,
                _ => {}
            }
            auth.bytes += (key.len() + value.len()) as u64;
            self.overlay.delete(staged_key);
            self.overlay.put(key, value);
        }
        self.meta.auth = auth;
        self.forget_rights();
    }

    fn recover(&mut self, recovery: &Recovery) {
        let meta = &mut self.meta;
        meta.revision = meta.revision.saturating_add(REVISION_JUMP);
        meta.restore_epoch = meta.restore_epoch.saturating_add(1);
        for node_id in &recovery.lost {
            self.change_node_ids(&NodeIdCommand::Retire {
                node_id: *node_id,
                used: vec![recovery.node_id],
            });
        }
    }

    /// Removes some of what was restored. What a cluster that was restored holds is not touched: it is none any more.
    fn abort_restore(&mut self) -> Result<(), RestoreRefusal> {
        if !self.meta.restore.is_under_way() {
            return Err(RestoreRefusal::NotUnderWay);
        }
        self.meta.restore.phase = RestorePhase::Aborting;
        let mut left = ABORT_ITEMS;
        let spaces = [
            Space::Quota,
            Space::Counter,
            Space::Key,
            Space::Idempotency,
            Space::IdempotencyExpiry,
            Space::Staged,
        ];
        for space in spaces {
            let records = self.some_records(&space.range(), left);
            left -= records.len();
            for (key, value) in records {
                match RecordKey::decode(&key) {
                    // They have counted nothing yet ([`Work::count_for_quotas`]).
                    Ok(RecordKey::Quota { .. }) => {
                        self.meta.quotas.quotas -= 1;
                        self.meta.quotas.counting -= 1;
                    }
                    Ok(RecordKey::Counter(_)) => self.meta.counters -= 1,
                    Ok(RecordKey::Key(_)) => self.meta.keys -= 1,
                    Ok(RecordKey::Idempotency(name)) => {
                        let bytes = idempotency_entry_bytes(name.len(), value.len());
                        self.meta.idempotency_keys -= 1;
                        self.meta.idempotency_bytes -= bytes;
                        let record = IdempotencyRecord::decode(&value);
                        let expires_at_ms = record.map_or(0, |record| record.expires_at_ms);
                        let expiry = RecordKey::IdempotencyExpiry { expires_at_ms, key: name };
                        self.overlay.delete(expiry.encode());
                    }
                    _ => {}
                }
                if space != Space::Key || !seeded_bugs::is_on("aborted-restore-leaves-keys") {
                    self.overlay.delete(key);
                }
            }
            if left == 0 {
                return Ok(());
            }
        }
        self.meta.restore = RestoreMeta::default();
        Ok(())
    }

    /// Records of a range, in their order, at most so many.
    fn some_records(&self, range: &([u8; 1], [u8; 1]), most: usize) -> Vec<(Bytes, Bytes)> {
        let mut records = Vec::new();
        if most > 0 {
            self.overlay.scan(&range.0, &range.1, &mut |key, value| {
                records.push((Bytes::copy_from_slice(key), value.clone()));
                if records.len() >= most {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
        }
        records
    }
}

fn is_auth(space: Space) -> bool {
    matches!(space, Space::User | Space::UserId | Space::Role | Space::Token | Space::RoleLimit)
}

/// The next record of a block; nothing if it is cut off.
fn split_record(rest: &mut Bytes) -> Option<(Bytes, Bytes)> {
    if rest.len() < 8 {
        return None;
    }
    let (key, value) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
    if rest.len() < key.checked_add(value)? {
        return None;
    }
    let (key, value) = (rest.split_to(key), rest.split_to(value));
    // It outlives its block by far: a slice would keep all of that in memory.
    Some((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
}

/// A record as it is to be stored, if it is one that a cluster could hold: whoever may restore shall not be able to
/// stop the nodes by what they could not read.
fn checked(key: &Bytes, value: Bytes, restore: &mut RestoreMeta) -> Result<Restored, &'static str> {
    fn read<R: Record>(value: &Bytes) -> Result<R, &'static str> {
        R::decode(value).map_err(|_| "a record can't be read")
    }
    let is_known =
        |created: u64, modified: u64| created <= modified && modified <= restore.backup.revision;
    let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
    let decoded = RecordKey::decode(key).map_err(|_| "a record's key is none")?;
    let mut expiry = None;
    let mut value = value;
    match decoded {
        RecordKey::Counter(name) => {
            let record: CounterRecord = read(&value)?;
            let bounds = record.bounds;
            let is_within = bounds.floor.is_none_or(|floor| floor <= record.value)
                && bounds.ceiling.is_none_or(|ceiling| record.value <= ceiling);
            if !is_name(name)
                || !is_within
                || !is_known(record.created_revision, record.modified_revision)
            {
                return Err("a counter that can't be");
            }
        }
        RecordKey::Key(name) => {
            let record: KeyRecord = read(&value)?;
            let is_right = is_name(name) && record.value.len() <= VALUE_BYTES_MAX;
            if !is_right || !is_known(record.created_revision, record.modified_revision) {
                return Err("a key that can't be");
            }
        }
        RecordKey::Idempotency(name) => {
            let mut record: IdempotencyRecord = read(&value)?;
            if !(1..=STORED_KEY_BYTES_MAX).contains(&name.len())
                || record.reply.revision > restore.backup.revision
            {
                return Err("an idempotency key that can't be");
            }
            let later = |at: u64| at.saturating_add(restore.shift_ms);
            record.expires_at_ms = later(record.expires_at_ms);
            record.stored_at_ms = later(record.stored_at_ms);
            if let Some(kept) = &mut record.reply.kept {
                kept.until_log_time_ms = later(kept.until_log_time_ms);
            }
            let expires_at_ms = record.expires_at_ms;
            expiry = Some(RecordKey::IdempotencyExpiry { expires_at_ms, key: name }.encode());
            value = record.encode();
        }
        RecordKey::User(_) => drop(read::<UserRecord>(&value)?),
        RecordKey::UserId(_) => drop(read::<UserIdRecord>(&value)?),
        RecordKey::Role(_) => drop(read::<RoleRecord>(&value)?),
        RecordKey::Token(_) => drop(read::<TokenRecord>(&value)?),
        RecordKey::RoleLimit(_) => drop(read::<RoleLimit>(&value)?),
        RecordKey::Quota { prefix, .. } => {
            let record: QuotaRecord = read(&value)?;
            if prefix.len() > NAME_BYTES_MAX {
                return Err("a quota that can't be");
            }
            // What it says is used is not believed: a delete of more than that would stop the nodes. It counts anew.
            value = QuotaRecord::new(record.limits).encode();
        }
        _ => return Err("a record of a kind that no backup has"),
    }
    let key = match is_auth(decoded.space()) {
        true => {
            restore.staged_bytes += (key.len() + value.len()) as u64;
            RecordKey::Staged(key).encode()
        }
        false => key.clone(),
    };
    Ok(Restored { key, value, expiry })
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
