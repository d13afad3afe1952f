//! Operations on keys.

use std::fmt::{self, Display, Formatter};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        canonical::Canonical,
        item::{Found, KeyChange, KeyRecord, Target, Value},
        limits::CONDITION_VALUE_BYTES_MAX,
        reply::{
            OperationAnswer::{self, KeyChanged},
            Refusal,
        },
        view::View,
        work::Work,
    },
    Kind,
};

/// Stores a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPut {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// What must hold.
    pub expect: KeyExpectation,
}

/// What a write on a key expects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeyExpectation {
    /// Nothing.
    #[default]
    Any,
    /// No such key.
    Absent,
    /// The key exists.
    Present,
    /// This revision.
    Revision(u64),
    /// The key exists and has this value.
    Value(Bytes),
}

impl Kind for KeyPut {
    const TAG: u8 = 7;

    fn name(&self) -> &str {
        &self.key
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.key);
        into.bytes(&self.value);
        self.expect.canonical(into);
    }

    fn value_bytes(&self) -> usize {
        self.value.len() + self.expect.bytes()
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        let KeyPut { key, value, expect } = self;
        let before = work.key(key);
        check(key, before.as_ref(), expect)?;
        let revision = work.next_revision();
        let record = KeyRecord {
            value: value.clone(),
            created_revision: before.as_ref().map_or(revision, |before| before.created_revision),
            modified_revision: revision,
            modified_wall_time_ms: work.wall_time_ms,
        };
        work.set_key(key, Some(record))?;
        Ok(KeyChanged(change(before.as_ref(), revision)))
    }
}

impl Display for KeyPut {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "put {:?} {}{}", self.key, Value(&self.value), self.expect)
    }
}

/// Reads a key (inside an [`crate::command::ApplyStep`] only).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGet {
    /// The key.
    pub key: String,
}

impl Kind for KeyGet {
    const TAG: u8 = 8;
    const IS_READ: bool = true;

    fn name(&self) -> &str {
        &self.key
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.key);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        Ok(OperationAnswer::KeyRead(work.key(&self.key)))
    }
}

impl Display for KeyGet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}", self.key)
    }
}

/// Removes a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDelete {
    /// The key.
    pub key: String,
    /// What must hold.
    pub expect: KeyExpectation,
}

impl Kind for KeyDelete {
    const TAG: u8 = 9;
    const FREES_ROOM: bool = true;

    fn name(&self) -> &str {
        &self.key
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.key);
        self.expect.canonical(into);
    }

    fn value_bytes(&self) -> usize {
        self.expect.bytes()
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        let KeyDelete { key, expect } = self;
        let before = work.key(key);
        check(key, before.as_ref(), expect)?;
        if before.is_none() {
            return Ok(KeyChanged(change(None, work.meta.revision)));
        }
        let revision = work.next_revision();
        work.set_key(key, None)?;
        Ok(KeyChanged(change(before.as_ref(), revision)))
    }
}

impl Display for KeyDelete {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "remove {:?}{}", self.key, self.expect)
    }
}

impl KeyExpectation {
    fn canonical(&self, into: &mut Canonical) {
        match self {
            KeyExpectation::Any => into.tag(1),
            KeyExpectation::Absent => into.tag(2),
            KeyExpectation::Present => into.tag(3),
            KeyExpectation::Revision(revision) => {
                into.tag(4);
                into.u64(*revision);
            }
            KeyExpectation::Value(value) => {
                into.tag(5);
                into.bytes(value);
            }
        }
    }

    fn bytes(&self) -> usize {
        if let KeyExpectation::Value(value) = self { value.len() } else { 0 }
    }
}

/// With a space in front, nothing for none.
impl Display for KeyExpectation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            KeyExpectation::Any => Ok(()),
            KeyExpectation::Absent => write!(f, " absent"),
            KeyExpectation::Present => write!(f, " present"),
            KeyExpectation::Revision(revision) => write!(f, " revision={revision}"),
            KeyExpectation::Value(value) => write!(f, " value={}", Value(value)),
        }
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
