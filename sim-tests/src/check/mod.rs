//! The judge of a history: what clients were told, held against what Tally promises.
//!
//! It knows nothing of the cluster. It takes what [`tally_client::history`] has recorded, and looks
//! for an order of all operations that explains every answer and agrees with real time. Writes
//! whose outcome is unknown may be in that order, at any time after their call, or not.
//!
//! The checks, each with its argument in its own file:
//!
//! | file | what it holds against the history |
//! |---|---|
//! | `logical.rs` | the same write sent twice has one effect and one answer |
//! | `order.rs`, `search.rs`, `play.rs` | the order that revisions give explains every answer on all counters and keys at once: atomic steps, batch reads, conditions, bounds, refusals; and each revision has a writer |
//! | `time.rs` | that order agrees with real time (with `order.rs`: strict serializability) |
//! | `levels.rs` | reads at each level keep what was asked and what they claim |
//! | `single.rs`, `chain.rs` | each counter and key alone is linearizable, whatever revisions say |
//! | `books.rs` | sums: nothing lost or counted twice, transfers balance, bounds hold |
//!
//! `model.rs` is the store's semantics for one item, written a second time. `adds/` is all of these for
//! files of adds and reads of counters alone, which may have millions of lines.
//!
//! A violation is certain. What could not be decided within a stated budget is counted as undecided
//! and is not a pass. A page of a list or scan is judged as the batch read that it is: whoever records
//! it names all that it covers.
//!
//! ```
//! use tally_client::history::Record;
//! use tally_sim::check;
//!
//! let lines = [
//!     r#"{"client":1,"op":"incr","key":"hits","delta":1,"call":0,"ret":9,"status":"ok",
//!         "result":{"value":1,"version":1}}"#,
//!     r#"{"client":2,"op":"get","key":"hits","call":20,"ret":29,"status":"ok",
//!         "result":{"value":null,"version":0},"revision":0}"#,
//! ];
//! let history: Vec<Record> = lines.map(|line| serde_json::from_str(line).unwrap()).into();
//! let verdict = check::judge(&history);
//! assert_eq!(verdict.violations[0].rule, check::Rule::RealTime);
//! ```

mod adds;
mod books;
mod chain;
pub mod file;
mod levels;
mod logical;
mod model;
mod order;
mod play;
mod search;
mod show;
mod single;
#[cfg(test)]
mod tests;
mod time;

use serde::Serialize;
use tally_client::history::Record;

pub(crate) use self::show::show;
use self::{logical::History, order::Order};

/// What is known about a history besides its lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Assumptions {
    /// The store was empty when the history began, even if no answer tells of its first revisions.
    /// Else the history begins at the lowest revision that an answer tells of, and what was before
    /// is not known.
    pub from_the_beginning: bool,
    /// Others wrote to the store at the same time, to counters and keys that the history does not
    /// name.
    pub others_write: bool,
    /// A local read never shows an older state than the same node has shown before. That is more
    /// than the level promises: a node may restart behind where it was.
    pub local_never_falls: bool,
}

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A line makes no sense: it is no history of a store.
    Malformed,
    /// Two changes were told the same revision.
    DuplicateRevision,
    /// A revision has no writer: nothing that may have been applied explains it.
    UnexplainedRevision,
    /// An answer is not what the operations before it lead to.
    WrongAnswer,
    /// The order of revisions contradicts real time: a stale read, a read of the future, writes or
    /// reads in the wrong order.
    RealTime,
    /// Only for one counter or key, and without believing in revisions: no order explains the
    /// answers.
    NotLinearizable,
    /// The same write, sent again, was executed again.
    ExecutedTwice,
    /// The same write, sent again, was answered differently.
    ReplayDiffers,
    /// An answer claims less than was asked for.
    WeakerThanAsked,
    /// A read is older than its bound, or than it claims.
    TooOld,
    /// A session read does not show what its client had seen.
    SessionWentBack,
    /// A node's revision or applied index fell, as one client saw it.
    RevisionFell,
    /// A counter is not the sum of what was applied to it.
    WrongSum,
    /// Transfers did not balance.
    BrokenSum,
    /// A counter was outside its bounds.
    BoundBroken,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// What happened, with the operations concerned.
    pub message: String,
}

/// How much was checked, so that nobody takes an empty history for a good one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Lines.
    pub operations: u64,
    /// Of them answered.
    pub ok: u64,
    /// Without any effect.
    pub failed: u64,
    /// With an unknown outcome.
    pub unknown: u64,
    /// Counters and keys.
    pub names: u64,
    /// Revisions that the history explains.
    pub revisions: u64,
    /// Writes of unknown outcome that must have been applied.
    pub unknown_applied: u64,
    /// The same write, answered again.
    pub replayed: u64,
    /// Refusals that were held against the state that refused.
    pub refusals: u64,
    /// Linearizable reads.
    pub linearizable_reads: u64,
    /// Bounded reads.
    pub bounded_reads: u64,
    /// Session reads.
    pub session_reads: u64,
    /// Local reads.
    pub local_reads: u64,
    /// Claims of staleness.
    pub staleness_claims: u64,
    /// Final values held against the sum of what was applied.
    pub sums: u64,
    /// Batch reads whose sum had to be that of the transfers before.
    pub transfer_sums: u64,
    /// Checks that ended without a verdict.
    pub undecided: u64,
}

/// What the history proves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Verdict {
    /// Broken promises, at most [`VIOLATIONS_MAX`] of them.
    pub violations: Vec<Violation>,
    /// What was checked.
    pub counts: Counts,
    /// What was not checked, or not decided, and why.
    pub notes: Vec<String>,
}

/// One fault often breaks many answers; more messages than this help nobody.
pub const VIOLATIONS_MAX: usize = 100;

impl Verdict {
    /// Every check was decided, and nothing is wrong.
    ///
    /// ```
    /// assert!(tally_sim::check::judge(&[]).passed());
    /// ```
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.counts.undecided == 0
    }

    fn violation(&mut self, rule: Rule, message: impl Into<String>) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, message: message.into() });
        }
    }

    fn undecided(&mut self, note: impl Into<String>) {
        self.counts.undecided += 1;
        self.notes.push(note.into());
    }
}

/// Judges a history, in any order of its records, of a store that was empty when it began.
///
/// ```
/// let verdict = tally_sim::check::judge(&[]);
/// assert_eq!(verdict.counts.operations, 0);
/// ```
pub fn judge(records: &[Record]) -> Verdict {
    judge_with(records, Assumptions { from_the_beginning: true, ..Assumptions::default() })
}

/// Judges a history of which more, or less, is known.
///
/// ```
/// use tally_sim::check::{Assumptions, judge_with};
///
/// let shared = Assumptions { others_write: true, ..Assumptions::default() };
/// assert!(judge_with(&[], shared).passed());
/// ```
pub fn judge_with(records: &[Record], assumptions: Assumptions) -> Verdict {
    let mut verdict = Verdict::default();
    let history = History::read(records, assumptions, &mut verdict);
    let order = Order::find(&history, &mut verdict);
    let in_time = time::check(&history, &order, &mut verdict);
    levels::check(&history, &order, &mut verdict);
    single::check(&history, &order, order.found && in_time, &mut verdict);
    books::check(&history, &mut verdict);
    verdict
}
