//! Counters and keys: what is stored of one, what a write did to it, and what is said of it.
//!
//! A record's fields and their order are on disk (see [`super::records`]), and so are those of a change,
//! in remembered answers: append only with a new format.

use std::fmt::{Display, Formatter, Result};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bounds of a counter; `None` is the limit of int64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// Lowest value allowed.
    pub floor: Option<i64>,
    /// Highest value allowed.
    pub ceiling: Option<i64>,
}

/// A counter as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// Its value.
    pub value: i64,
    /// Its bounds.
    pub bounds: Bounds,
    /// Revision that created it.
    pub created_revision: u64,
    /// Revision that last changed it.
    pub modified_revision: u64,
    /// Wall clock of the leader at the last change, for display.
    pub modified_wall_time_ms: u64,
}

/// A key as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its value.
    pub value: Bytes,
    /// Revision that created it.
    pub created_revision: u64,
    /// Revision that last changed it.
    pub modified_revision: u64,
    /// Wall clock of the leader at the last change, for display.
    pub modified_wall_time_ms: u64,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A counter.
    Counter(String),
    /// A key.
    Key(String),
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Target::Counter(name) => write!(f, "counter {name:?}"),
            Target::Key(key) => write!(f, "key {key:?}"),
        }
    }
}

/// What a failed condition found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// No such item.
    Nothing,
    /// A counter.
    Counter {
        /// Its value.
        value: i64,
        /// Revision that last changed it.
        modified_revision: u64,
    },
    /// A key.
    Key {
        /// Its value, if at most 1 KiB.
        value: Option<Bytes>,
        /// Size of its value.
        size_bytes: u64,
        /// Revision that last changed it.
        modified_revision: u64,
    },
    /// Something that the caller may not read.
    Hidden,
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Found::Nothing => write!(f, "it does not exist"),
            Found::Hidden => write!(f, "what is stored is not yours to read"),
            Found::Counter { value, modified_revision } => {
                write!(f, "its value is {value}, at revision {modified_revision}")
            }
            Found::Key { size_bytes, modified_revision, .. } => {
                write!(f, "its value has {size_bytes} bytes, at revision {modified_revision}")
            }
        }
    }
}

/// What happened to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterChange {
    /// Value before; 0 if it did not exist.
    pub value_before: i64,
    /// Value after.
    pub value: i64,
    /// Delta asked for; for others than Add, the difference saturated to int64.
    pub delta_requested: i64,
    /// Delta applied, saturated to int64.
    pub delta_applied: i64,
    /// Revision of the change, or of the store if nothing changed.
    pub revision: u64,
    /// It existed before.
    pub existed: bool,
    /// Stored bounds after; before, for a delete.
    pub bounds: Bounds,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Revision of the change, or of the store if nothing changed.
    pub revision: u64,
    /// It existed before.
    pub existed: bool,
    /// Revision that last changed it before; 0 if it did not exist.
    pub previous_revision: u64,
}

/// Each bound with a space in front, nothing for none.
impl Display for Bounds {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if let Some(floor) = self.floor {
            write!(f, " floor={floor}")?;
        }
        if let Some(ceiling) = self.ceiling {
            write!(f, " ceiling={ceiling}")?;
        }
        Ok(())
    }
}

impl Display for CounterRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}{}", self.value, self.bounds)?;
        write!(f, " created r{} modified r{}", self.created_revision, self.modified_revision)
    }
}

impl Display for KeyRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", Value(&self.value))?;
        write!(f, " created r{} modified r{}", self.created_revision, self.modified_revision)
    }
}

impl Display for CounterChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if !self.existed {
            write!(f, "(missing) ")?;
        }
        write!(f, "{} -> {}{}", self.value_before, self.value, self.bounds)?;
        write!(f, " asked {} applied {}", self.delta_requested, self.delta_applied)?;
        write!(f, " r{}", self.revision)
    }
}

impl Display for KeyChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.existed {
            true => write!(f, "r{} -> r{}", self.previous_revision, self.revision),
            false => write!(f, "(missing) -> r{}", self.revision),
        }
    }
}

/// Values up to this many bytes are shown.
const VALUE_SHOWN_BYTES_MAX: usize = 32;

/// A value as it is shown.
pub(super) struct Value<'a>(pub(super) &'a Bytes);

impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let printable = self.0.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        match std::str::from_utf8(self.0) {
            Ok(text) if printable && text.len() <= VALUE_SHOWN_BYTES_MAX => write!(f, "{text:?}"),
            _ => write!(f, "({} bytes)", self.0.len()),
        }
    }
}
