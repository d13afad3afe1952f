//! Histories: what clients asked and were told, one operation a line, for a checker to judge.
//!
//! A [`Recorder`] writes them. The format is JSON lines that a program in any language can write or
//! read, so that another checker can judge Tally and Tally's can judge other histories
//! (`tally-sim check FILE`):
//!
//! ```json
//! {"client":3,"op":"incr","key":"stock","delta":-1,"floor":0,"idem":"order-17","call":1200,"ret":5300,"status":"ok","result":{"value":6,"version":42,"before":7}}
//! {"client":4,"op":"cas","key":"lock","value":"me","expect":null,"call":1300,"ret":null,"status":"unknown"}
//! {"client":4,"op":"read","key":"lock","call":9000,"ret":9400,"status":"ok","result":{"value":null,"version":0},"level":"linearizable","revision":42}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `client` | who asked. One number is one user of one client: what it was told before bounds what a session read may show it |
//! | `op` | counters: `incr`, `get`, `set`, `configure`, and `cas` and `delete` with `"kind":"counter"`; keys: `put`, `read`, `cas`, `delete`; both: `apply`, `batch_get` |
//! | `key` | name of the counter or key |
//! | `delta`, `floor`, `ceiling`, `saturate`, `must_exist` | arguments of `incr`; `floor` and `ceiling` of `configure` |
//! | `value` | argument of `set`, `put`, `cas`: a number for a counter; for a key its text, or `{"base64":…}` if it is no UTF-8 |
//! | `expect` | only if this is the value; `null` is "absent", a missing field expects nothing |
//! | `expect_version`, `expect_present` | only if this is the revision that last changed it; only if it exists |
//! | `ops` | the parts of `apply` and `batch_get`, each with its own `op`, `key`, arguments and `result` |
//! | `when`, `else_ops`, `branch` | of an `apply` with conditions: they, what runs if one fails, and which branch ran (`then`, `else`) |
//! | `idem` | the logical write: equal `idem` is the same write sent again on purpose, which must count once |
//! | `call`, `ret` | nanoseconds on one clock, the same for all clients; `ret` is `null` if nothing came back |
//! | `status` | `ok`; `fail`: this call certainly had no effect; `unknown`: it may have been applied, or may still be |
//! | `result` | `value` after the operation (`null`: absent) and `version`, the revision that made it; more in [`Answer`] |
//!
//! All other fields say what the answer claimed about itself; a checker may ignore them. See
//! [`Record`].
//!
//! ```
//! use tally_client::history::{Record, Status};
//!
//! let line = r#"{"client":1,"op":"get","key":"hits","call":5,"ret":9,"status":"ok",
//!     "result":{"value":7,"version":3}}"#;
//! let record: Record = serde_json::from_str(line)?;
//! assert_eq!(record.status, Status::Ok);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod condition;
mod operation;
mod recorder;
mod told;

use serde::{Deserialize, Serialize};

pub use self::{
    condition::{Compare, Condition},
    operation::{Answer, Kind, Op, Part, Scalar},
    recorder::{Pending, Recorder, Request},
    told::Told,
};
use crate::{Branch, Consistency, ReadLevel};

/// What became of an operation.
///
/// ```
/// use tally_client::history::Status;
///
/// assert_eq!(serde_json::to_string(&Status::Unknown)?, r#""unknown""#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was answered.
    Ok,
    /// It certainly had no effect. Of other calls of the same logical write that says nothing, unless
    /// the state decided it.
    Fail,
    /// It may have been applied, or may still be.
    Unknown,
}

/// A promise about a read.
///
/// ```
/// use tally_client::{ReadLevel, history::Level};
///
/// assert_eq!(Level::from(&ReadLevel::Local), Level::Local);
/// assert!(Level::Local < Level::Linearizable);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Some past state.
    Local,
    /// Own writes are seen, and reads never go back.
    Session,
    /// Not older than a bound.
    Bounded,
    /// Sees every write acknowledged before the read began.
    Linearizable,
}

impl Level {
    /// The level of an answer, as its header says it; nothing for one of a newer release.
    ///
    /// ```
    /// use tally_client::{Consistency, history::Level};
    ///
    /// assert_eq!(Level::of(Consistency::Local), Some(Level::Local));
    /// assert_eq!(Level::of(Consistency::Unknown(7)), None);
    /// ```
    pub fn of(consistency: Consistency) -> Option<Level> {
        match consistency {
            Consistency::Linearizable => Some(Level::Linearizable),
            Consistency::Bounded => Some(Level::Bounded),
            Consistency::Session => Some(Level::Session),
            Consistency::Local => Some(Level::Local),
            Consistency::Unspecified | Consistency::Unknown(_) => None,
        }
    }
}

impl From<&ReadLevel> for Level {
    fn from(level: &ReadLevel) -> Self {
        match level {
            ReadLevel::Linearizable => Self::Linearizable,
            ReadLevel::Bounded { .. } => Self::Bounded,
            ReadLevel::Session(_) => Self::Session,
            ReadLevel::Local => Self::Local,
        }
    }
}

/// The part of a refused `apply` that was in the way.
///
/// ```
/// use tally_client::history::RefusedPart;
///
/// let part: RefusedPart = serde_json::from_str(r#"{"op":1,"else_branch":false}"#)?;
/// assert_eq!(part, RefusedPart { op: Some(1), ..Default::default() });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RefusedPart {
    /// Index in `when`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<u32>,
    /// Index in the branch that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<u32>,
    /// That branch was `else_ops`.
    #[serde(default)]
    pub else_branch: bool,
}

/// One operation of a history: what was asked, when, and what came back.
///
/// ```
/// use tally_client::history::{Op, Part, Record, Status};
///
/// let mut record = Record::new(1, Part::incr("hits", 1), 100);
/// record.ret = Some(250);
/// record.status = Status::Ok;
/// let line = serde_json::to_string(&record)?;
/// assert!(line.starts_with(r#"{"client":1,"op":"incr","key":"hits","delta":1"#));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Who asked.
    pub client: u64,
    /// What was asked, and the result.
    #[serde(flatten)]
    pub part: Part,
    /// The parts of an `apply` or a `batch_get`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Part>,
    /// The conditions of an `apply`: all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
    /// What runs instead of `ops` if a condition does not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub else_ops: Vec<Part>,
    /// Which of the two ran; missing means `ops`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "condition::branch")]
    pub branch: Option<Branch>,
    /// The logical write: equal means the same write, sent again on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idem: Option<String>,
    /// When it was called, in nanoseconds.
    pub call: u64,
    /// When its answer was there, in nanoseconds.
    pub ret: Option<u64>,
    /// What became of it.
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a refusal found in its way: the value, and the revision that last changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Answer>,
    /// The part of an `apply` that was in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_part: Option<RefusedPart>,
    /// The answer is a stored one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<bool>,
    /// The promise that a read asked for; missing means linearizable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The bound that a bounded read asked for, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_ms: Option<u64>,
    /// A bounded read allowed a weaker answer if nobody could prove the bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// The applied index of the token that a session read was given; 0 if it is not known. Missing:
    /// the read demands all that its client was told before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The promise that the answer claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Level>,
    /// The answer claims to be no older than this many ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<u64>,
    /// The node that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// Its term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// Log index of the last entry that the state includes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Revision of the store in that state. Of a refused write: the one at which it was decided, after
    /// which others of its log entry may have changed more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

impl Record {
    /// An operation that was called and of which nothing is known yet.
    ///
    /// ```
    /// use tally_client::history::{Part, Record, Status};
    ///
    /// let record = Record::new(1, Part::put("greeting", "hello"), 100);
    /// assert_eq!((record.status, record.ret), (Status::Unknown, None));
    /// ```
    pub fn new(client: u64, part: Part, call: u64) -> Self {
        Self {
            client,
            part,
            ops: Vec::new(),
            when: Vec::new(),
            else_ops: Vec::new(),
            branch: None,
            idem: None,
            call,
            ret: None,
            status: Status::Unknown,
            reason: None,
            found: None,
            refused_part: None,
            replayed: None,
            level: None,
            bound_ms: None,
            fallback: false,
            token: None,
            consistency: None,
            staleness_ms: None,
            node: None,
            term: None,
            applied: None,
            revision: None,
        }
    }

    /// It only reads, so it has no effect whatever became of it.
    ///
    /// ```
    /// use tally_client::history::{Part, Record};
    ///
    /// assert!(Record::new(1, Part::get("hits"), 0).is_read());
    /// ```
    pub fn is_read(&self) -> bool {
        self.part.op.is_read()
    }
}

#[cfg(test)]
mod tests;
