//! Quotas: how many items there may be whose names begin with a prefix, and how many bytes they may have.
//!
//! A quota is about counters or about keys, and about a prefix; the empty prefix is all of them. It has up to four
//! limits, and says what is used of them. One without limits only counts.
//!
//! **What it promises.** Above a hard limit an operation is refused that would leave more in use than before: one that
//! creates an item, or puts a greater value into a key. Nothing else ever is: not adds to a counter that exists
//! (whatever its value, it has the same bytes), not deletes, reads, conditions, nor values that are as large as before
//! or smaller. So nothing has to be switched back on: an operation is judged by what is in use at that moment, and a
//! delete is room for the next one. A limit may be set below what is in use.
//!
//! **Usage is exact.** It changes in the very entry that writes the item, and is taken back with a step that is
//! refused. A write that neither creates, removes nor resizes an item looks at no quota, and one in a store without
//! quotas looks nothing up for them.
//!
//! **A new quota counts what is there** before it refuses anything. No entry may go through an unbounded number of
//! items, so it counts in pieces: one at once when it is set (so that a quota over few items counts all of them and is
//! ready with its answer), and more with each entry that follows, in the order of names. The last name that was counted
//! is in its record: what is written up to there changes its usage, what is written behind it will be found. From the
//! entry on that counts the last item it refuses. **That entry depends on the log alone**: on how many entries and
//! commands it holds since the quota was set, and on the items; so replicas agree on it, but commands that are grouped
//! into other entries may find it one entry earlier or later. It is the one thing about answers that housekeeping
//! decides, and only where a quota is set over more items than one piece has ([`super::limits::HOUSEKEEPING_ITEMS_BASE`]).
//!
//! Whether a refusal is remembered: no (`apply.rs`). Room may come in the next moment, and a caller who tries again
//! under the same number or key wants the write done.
//!
//! Here are the types; `quotas.rs` has the quotas while an entry is applied, `quota_work.rs` what is done to them.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::auth::Scope;

/// What a counter counts towards the bytes of a quota beside its name: its value. Whatever that and its bounds are,
/// it is the same, so that nothing that is done to a counter makes it larger.
pub const COUNTER_VALUE_BYTES: u64 = 8;

/// What a counter counts towards the bytes of a quota.
///
/// ```
/// assert_eq!(tally_machine::quota::counter_bytes("stock/1"), 7 + 8);
/// ```
pub fn counter_bytes(name: &str) -> u64 {
    name.len() as u64 + COUNTER_VALUE_BYTES
}

/// What a key counts towards the bytes of a quota.
///
/// ```
/// assert_eq!(tally_machine::quota::key_bytes("cart/1", 100), 6 + 100);
/// ```
pub fn key_bytes(name: &str, value_bytes: usize) -> u64 {
    (name.len() + value_bytes) as u64
}

/// The limits of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuotaLimits {
    /// Items above which it says so.
    pub soft_items: Option<u64>,
    /// Items above which it refuses more.
    pub hard_items: Option<u64>,
    /// Bytes above which it says so.
    pub soft_bytes: Option<u64>,
    /// Bytes above which it refuses more.
    pub hard_bytes: Option<u64>,
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Used {
    /// Items.
    pub items: u64,
    /// Their bytes, by [`counter_bytes`] and [`key_bytes`].
    pub bytes: u64,
}

/// How far a quota has counted what was there when it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counted {
    /// All of it.
    All,
    /// Nothing yet.
    Nothing,
    /// Items up to this name, and that one.
    UpTo(String),
}

impl Counted {
    /// Whether an item of this name is in the usage, if it exists.
    pub(crate) fn holds(&self, name: &str) -> bool {
        match self {
            Counted::All => true,
            Counted::Nothing => false,
            Counted::UpTo(last) => name <= last.as_str(),
        }
    }
}

/// A quota as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRecord {
    /// Its limits.
    pub limits: QuotaLimits,
    /// What is used, as far as it has counted.
    pub used: Used,
    /// How far it has.
    pub counted: Counted,
}

/// Of quotas in the record about the whole store: what spares a store without them any look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuotaMeta {
    /// How many there are.
    pub quotas: u64,
    /// How many of them have not counted all yet.
    pub counting: u64,
}

/// A change of quotas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaCommand {
    /// Makes a quota, or replaces the limits of one.
    Set {
        /// Counters or keys.
        scope: Scope,
        /// What their names begin with; empty for all.
        prefix: String,
        /// All of its limits.
        limits: QuotaLimits,
    },
    /// Removes a quota.
    Delete {
        /// Its scope.
        scope: Scope,
        /// Its prefix.
        prefix: String,
    },
}

/// What a limit is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuotaUnit {
    /// Items.
    Items,
    /// Bytes.
    Bytes,
}

impl QuotaUnit {
    /// Each.
    pub const ALL: [QuotaUnit; 2] = [QuotaUnit::Items, QuotaUnit::Bytes];
}

impl QuotaRecord {
    /// One that has counted nothing yet.
    pub(crate) fn new(limits: QuotaLimits) -> Self {
        Self { limits, used: Used::default(), counted: Counted::Nothing }
    }

    /// It has counted all that was there: what it says is all there is, and it refuses.
    pub fn is_ready(&self) -> bool {
        self.counted == Counted::All
    }

    /// What is used, and the limits for it: soft, then hard.
    pub fn of(&self, unit: QuotaUnit) -> (u64, Option<u64>, Option<u64>) {
        let QuotaLimits { soft_items, hard_items, soft_bytes, hard_bytes } = self.limits;
        match unit {
            QuotaUnit::Items => (self.used.items, soft_items, hard_items),
            QuotaUnit::Bytes => (self.used.bytes, soft_bytes, hard_bytes),
        }
    }

    /// Whether more is used than the soft limit says. (While it counts, too: what it has found is there.)
    pub fn is_above_soft(&self, unit: QuotaUnit) -> bool {
        let (used, soft, _) = self.of(unit);
        soft.is_some_and(|soft| used > soft)
    }

    /// Whether more is used than one of the soft limits says.
    pub fn has_passed_soft(&self) -> bool {
        QuotaUnit::ALL.into_iter().any(|unit| self.is_above_soft(unit))
    }
}

/// Which items a quota is about, in words.
pub struct Over<'a>(pub Scope, pub &'a str);

impl fmt::Display for Over<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Over(scope, "") => write!(f, "all {scope}s"),
            Over(scope, prefix) => write!(f, "{scope}s that begin with {prefix:?}"),
        }
    }
}

impl fmt::Display for QuotaUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuotaUnit::Items => "items",
            QuotaUnit::Bytes => "bytes",
        })
    }
}

/// Each limit with a space in front, nothing for none.
impl fmt::Display for QuotaLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, limit) in [
            ("soft_items", self.soft_items),
            ("hard_items", self.hard_items),
            ("soft_bytes", self.soft_bytes),
            ("hard_bytes", self.hard_bytes),
        ] {
            if let Some(limit) = limit {
                write!(f, " {name}={limit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for QuotaRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items {} bytes{}", self.used.items, self.used.bytes, self.limits)?;
        match &self.counted {
            Counted::All => Ok(()),
            Counted::Nothing => write!(f, " nothing counted yet"),
            Counted::UpTo(name) => write!(f, " counted up to {name:?}"),
        }
    }
}

impl fmt::Display for QuotaCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuotaCommand::Set { scope, prefix, limits } => {
                write!(f, "quota on {}{limits}", Over(*scope, prefix))
            }
            QuotaCommand::Delete { scope, prefix } => {
                write!(f, "no quota on {}", Over(*scope, prefix))
            }
        }
    }
}
