//! Operations on counters and keys: what each is, does, and says of itself.
//!
//! All of an operation stands in one place, beside others of its kind ([`counter`], [`key`]): its fields,
//! what it does, its canonical bytes, its size, and how it is shown. This file has the list of them, and
//! [`bounds`] what the values of counters are judged by.
//!
//! These types are what the log holds, so the position of a variant in [`Operation`] and the order of an
//! operation's fields are part of the format on disk: append a variant, never change one that is there. Its
//! [`Kind::TAG`] and its canonical bytes are frozen as well ([`super::fingerprint`]).

mod bounds;
mod counter;
mod key;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::{counter::*, key::*};
use super::{
    canonical::Canonical,
    item::{CounterRecord, Found, KeyRecord},
    reply::{OperationAnswer, Refusal},
    view::View,
    work::Work,
};

/// What each operation has.
pub(super) trait Kind: fmt::Display {
    /// Its tag in the canonical encoding.
    const TAG: u8;

    /// It only reads its item.
    const IS_READ: bool = false;

    /// It does nothing but make room, so it is let through when the disk is nearly full.
    const FREES_ROOM: bool = false;

    /// The name of its item.
    fn name(&self) -> &str;

    /// Bytes of the values that it brings.
    fn value_bytes(&self) -> usize {
        0
    }

    /// Its fields in the canonical encoding, behind the tag, in their order.
    fn canonical(&self, into: &mut Canonical);

    /// Does it. A refusal undoes nothing: the caller rolls back to where the command began.
    fn run<V: View + ?Sized>(&self, work: &mut Work<'_, '_, V>)
    -> Result<OperationAnswer, Refusal>;
}

/// One operation, alone or inside a [`super::command::ApplyStep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Moves a counter.
    CounterAdd(CounterAdd),
    /// Reads a counter.
    CounterGet(CounterGet),
    /// Replaces a counter's value.
    CounterSet(CounterSet),
    /// Replaces a counter's value if what is stored is as expected.
    CounterCompareAndSet(CounterCompareAndSet),
    /// Removes a counter and its bounds.
    CounterDelete(CounterDelete),
    /// Replaces a counter's stored bounds.
    CounterConfigure(CounterConfigure),
    /// Stores a key.
    KeyPut(KeyPut),
    /// Reads a key.
    KeyGet(KeyGet),
    /// Removes a key.
    KeyDelete(KeyDelete),
}

/// The same of whichever operation it is.
macro_rules! of {
    ($operation:expr, $it:ident => $what:expr) => {
        match $operation {
            Operation::CounterAdd($it) => $what,
            Operation::CounterGet($it) => $what,
            Operation::CounterSet($it) => $what,
            Operation::CounterCompareAndSet($it) => $what,
            Operation::CounterDelete($it) => $what,
            Operation::CounterConfigure($it) => $what,
            Operation::KeyPut($it) => $what,
            Operation::KeyGet($it) => $what,
            Operation::KeyDelete($it) => $what,
        }
    };
}

impl Operation {
    /// The name of its item.
    pub fn item_name(&self) -> &str {
        of!(self, it => it.name())
    }

    /// Its item is a key, and no counter.
    pub fn is_on_key(&self) -> bool {
        matches!(self, Operation::KeyPut(_) | Operation::KeyGet(_) | Operation::KeyDelete(_))
    }

    /// Its canonical bytes, with the tag.
    pub(super) fn canonical(&self, into: &mut Canonical) {
        fn tagged<K: Kind>(it: &K, into: &mut Canonical) {
            into.tag(K::TAG);
            it.canonical(into);
        }
        of!(self, it => tagged(it, into));
    }

    /// About how many bytes it takes in a log entry.
    pub(super) fn size_hint(&self) -> usize {
        /// Numbers and tags.
        const FIXED: usize = 32;
        FIXED + of!(self, it => it.name().len() + it.value_bytes())
    }

    /// The name of the item that it reads, if it is a read: its answer does not say it.
    pub fn reads(&self) -> Option<&str> {
        fn reads<K: Kind>(it: &K) -> Option<&str> {
            K::IS_READ.then(|| it.name())
        }
        of!(self, it => reads(it))
    }

    /// Whether it does nothing but make room.
    pub fn frees_room(&self) -> bool {
        fn frees_room<K: Kind>(_: &K) -> bool {
            K::FREES_ROOM
        }
        of!(self, it => frees_room(it))
    }

    /// Does it.
    pub(super) fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        of!(self, it => it.run(work))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        of!(self, it => it.fmt(f))
    }
}

/// What a failed condition says about a counter.
pub(super) fn counter_found(record: Option<CounterRecord>) -> Found {
    counter::found(record)
}

/// What a failed condition says about a key.
pub(super) fn key_found(record: Option<&KeyRecord>) -> Found {
    key::found(record)
}
