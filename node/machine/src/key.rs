//! Operations on keys.

use bytes::Bytes;

use super::{
    command::{Found, KeyChange, KeyExpectation, KeyRecord, Refusal, Target},
    limits::CONDITION_VALUE_BYTES_MAX,
    view::View,
    work::Work,
};

impl<V: View + ?Sized> Work<'_, '_, V> {
    pub(super) fn key_put(
        &mut self,
        key: &str,
        value: &Bytes,
        expect: &KeyExpectation,
    ) -> Result<KeyChange, Refusal> {
        let before = self.key(key);
        check(key, before.as_ref(), expect)?;
        let revision = self.next_revision();
        let record = KeyRecord {
            value: value.clone(),
            created_revision: before.as_ref().map_or(revision, |before| before.created_revision),
            modified_revision: revision,
            modified_wall_time_ms: self.wall_time_ms,
        };
        self.set_key(key, Some(record));
        Ok(change(before.as_ref(), revision))
    }

    pub(super) fn key_delete(
        &mut self,
        key: &str,
        expect: &KeyExpectation,
    ) -> Result<KeyChange, Refusal> {
        let before = self.key(key);
        check(key, before.as_ref(), expect)?;
        if before.is_none() {
            return Ok(change(None, self.meta.revision));
        }
        let revision = self.next_revision();
        self.set_key(key, None);
        Ok(change(before.as_ref(), revision))
    }
}

/// What a failed condition says about a key.
pub(super) fn found(record: Option<&KeyRecord>) -> Found {
    let Some(KeyRecord { value, modified_revision, .. }) = record else {
        return Found::Nothing;
    };
    Found::Key {
        // A copy, so that the remembered refusal does not keep the memory of a whole batch alive.
        value: (value.len() <= CONDITION_VALUE_BYTES_MAX).then(|| Bytes::copy_from_slice(value)),
        size_bytes: value.len() as u64,
        modified_revision: *modified_revision,
    }
}

fn check(key: &str, before: Option<&KeyRecord>, expect: &KeyExpectation) -> Result<(), Refusal> {
    let holds = match expect {
        KeyExpectation::Any => true,
        KeyExpectation::Absent => before.is_none(),
        KeyExpectation::Present => before.is_some(),
        // A missing key has revision 0, here as in the conditions of an atomic step.
        KeyExpectation::Revision(revision) => {
            before.map_or(0, |before| before.modified_revision) == *revision
        }
        KeyExpectation::Value(value) => before.is_some_and(|before| before.value == *value),
    };
    if holds {
        return Ok(());
    }
    Err(Refusal::ConditionFailed { target: Target::Key(key.to_owned()), found: found(before) })
}

fn change(before: Option<&KeyRecord>, revision: u64) -> KeyChange {
    KeyChange {
        revision,
        existed: before.is_some(),
        previous_revision: before.map_or(0, |before| before.modified_revision),
    }
}
