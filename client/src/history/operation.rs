//! One operation of a history, alone or as part of an atomic step.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{answer::base64, counter::Expect};

/// What was asked.
///
/// ```
/// use tally_client::history::Op;
///
/// assert_eq!(serde_json::to_string(&Op::BatchGet)?, r#""batch_get""#);
/// assert!(Op::BatchGet.is_read() && !Op::Incr.is_read());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Moves a counter.
    Incr,
    /// Reads a counter.
    Get,
    /// Replaces a counter's value.
    Set,
    /// Replaces a counter's stored bounds.
    Configure,
    /// Stores a key.
    Put,
    /// Reads a key.
    Read,
    /// Stores a counter or key that is as expected.
    Cas,
    /// Removes a counter or key.
    Delete,
    /// Several operations in one step.
    Apply,
    /// Several reads of one state.
    BatchGet,
}

impl Op {
    /// It has no effect.
    ///
    /// ```
    /// assert!(tally_client::history::Op::Get.is_read());
    /// ```
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Read | Self::BatchGet)
    }
}

/// Where a name lives, if the operation alone does not say it.
///
/// ```
/// use tally_client::history::{Kind, Part};
///
/// assert_eq!(Part::delete_counter("hits").kind, Some(Kind::Counter));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A counter.
    Counter,
    /// A key.
    Key,
}

/// A value: of a counter, or of a key.
///
/// ```
/// use tally_client::history::Scalar;
///
/// assert_eq!(serde_json::to_string(&Scalar::Int(7))?, "7");
/// assert_eq!(serde_json::to_string(&Scalar::from(&b"hi"[..]))?, r#""hi""#);
/// assert_eq!(serde_json::to_string(&Scalar::from(&b"\xff"[..]))?, r#"{"base64":"/w=="}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A counter's value.
    Int(i64),
    /// A key's value.
    Text(String),
    /// A key's value that is no UTF-8.
    Bytes {
        /// In standard base64 with padding.
        base64: String,
    },
}

impl From<i64> for Scalar {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&[u8]> for Scalar {
    fn from(value: &[u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { base64: base64(value) },
        }
    }
}

/// What came back.
///
/// ```
/// use tally_client::history::Answer;
///
/// let answer: Answer = serde_json::from_str(r#"{"value":null,"version":0}"#)?;
/// assert_eq!(answer.value, Some(None));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The value after the operation; `Some(None)` if there is none, `None` if it was not told.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "told")]
    pub value: Option<Option<Scalar>>,
    /// Of a read: the revision that last changed the item. Of a write: its own revision, or that of
    /// the store if it changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of a read: the revision that created the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// The counter's value before a write; 0 if it did not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// How far an `incr` moved the counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_delta: Option<i64>,
    /// It existed before a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existed: Option<bool>,
    /// The revision that had changed a key before a write; 0 if it did not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<u64>,
    /// The counter's stored floor: `Some(None)` if it has none, `None` if it was not told. Of a
    /// delete: what it was before.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "told")]
    pub floor: Option<Option<i64>>,
    /// The counter's stored ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "told")]
    pub ceiling: Option<Option<i64>>,
}

/// A field that is there, even if it is null.
fn told<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// One operation, its arguments and its result.
///
/// ```
/// use tally_client::history::Part;
///
/// let part = Part::incr("stock", -5).floor(0).saturate();
/// assert_eq!(part.delta, Some(-5));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What was asked.
    pub op: Op,
    /// Where the name lives: `cas` and `delete` are of a key unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What to add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<i64>,
    /// Lowest value allowed: for this `incr`, or stored by a `configure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<i64>,
    /// Highest value allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<i64>,
    /// At a bound, move as far as it allows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub saturate: bool,
    /// Refuse to create the counter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_exist: bool,
    /// The new value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Scalar>,
    /// Only if this is the value; `Some(None)`: only if it does not exist; `None`: nothing expected.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "told")]
    pub expect: Option<Option<Scalar>>,
    /// Only if this revision was the last to change it; 0 for one that does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_version: Option<u64>,
    /// Only if it exists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expect_present: bool,
    /// What came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Answer>,
}

impl Part {
    fn new(op: Op, key: Option<String>) -> Self {
        Self {
            op,
            kind: None,
            key,
            delta: None,
            floor: None,
            ceiling: None,
            saturate: false,
            must_exist: false,
            value: None,
            expect: None,
            expect_version: None,
            expect_present: false,
            result: None,
        }
    }

    /// Adds to a counter.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::incr("hits", 1);
    /// ```
    pub fn incr(name: impl Into<String>, delta: i64) -> Self {
        Self { delta: Some(delta), ..Self::new(Op::Incr, Some(name.into())) }
    }

    /// Reads a counter.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::get("hits");
    /// ```
    pub fn get(name: impl Into<String>) -> Self {
        Self::new(Op::Get, Some(name.into()))
    }

    /// Sets a counter.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::set("stock", 100);
    /// ```
    pub fn set(name: impl Into<String>, value: i64) -> Self {
        Self { value: Some(value.into()), ..Self::new(Op::Set, Some(name.into())) }
    }

    /// Sets a counter that is as expected.
    ///
    /// ```
    /// # use tally_client::{counter::Expect, history::Part};
    /// let part = Part::cas_counter("turn", Expect::Value(1), 2);
    /// assert_eq!(part.expect, Some(Some(1.into())));
    /// ```
    pub fn cas_counter(name: impl Into<String>, expect: Expect, value: i64) -> Self {
        let mut part = Self::new(Op::Cas, Some(name.into()));
        part.kind = Some(Kind::Counter);
        part.value = Some(value.into());
        match expect {
            Expect::Value(value) => part.expect = Some(Some(value.into())),
            Expect::Revision(revision) => part.expect_version = Some(revision),
            Expect::Absent => part.expect = Some(None),
        }
        part
    }

    /// Removes a counter.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::delete_counter("hits");
    /// ```
    pub fn delete_counter(name: impl Into<String>) -> Self {
        Self { kind: Some(Kind::Counter), ..Self::new(Op::Delete, Some(name.into())) }
    }

    /// Replaces both stored bounds of a counter.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::configure("stock").floor(0);
    /// ```
    pub fn configure(name: impl Into<String>) -> Self {
        Self::new(Op::Configure, Some(name.into()))
    }

    /// Stores a key. With an expectation it is a `cas`.
    ///
    /// ```
    /// # use tally_client::history::{Op, Part};
    /// assert_eq!(Part::put("greeting", "hello").op, Op::Put);
    /// assert_eq!(Part::put("greeting", "hello").if_absent().op, Op::Cas);
    /// ```
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let value = Scalar::from(&*value.into());
        Self { value: Some(value), ..Self::new(Op::Put, Some(key.into())) }
    }

    /// Reads a key.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::read("greeting");
    /// ```
    pub fn read(key: impl Into<String>) -> Self {
        Self::new(Op::Read, Some(key.into()))
    }

    /// Removes a key.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::delete("greeting").if_version(7);
    /// ```
    pub fn delete(key: impl Into<String>) -> Self {
        Self::new(Op::Delete, Some(key.into()))
    }

    /// The head of an atomic step; its parts are the record's.
    pub(crate) fn apply() -> Self {
        Self::new(Op::Apply, None)
    }

    /// The head of a batch read.
    pub(crate) fn batch_get() -> Self {
        Self::new(Op::BatchGet, None)
    }

    /// Lowest value allowed.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::incr("stock", -1).floor(0);
    /// ```
    #[must_use]
    pub fn floor(self, floor: i64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// Highest value allowed.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::incr("seats", 1).ceiling(300);
    /// ```
    #[must_use]
    pub fn ceiling(self, ceiling: i64) -> Self {
        Self { ceiling: Some(ceiling), ..self }
    }

    /// At a bound, move as far as it allows.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::incr("stock", -5).floor(0).saturate();
    /// ```
    #[must_use]
    pub fn saturate(self) -> Self {
        Self { saturate: true, ..self }
    }

    /// Refuse to create the counter.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::incr("stock", -1).must_exist();
    /// ```
    #[must_use]
    pub fn must_exist(self) -> Self {
        Self { must_exist: true, ..self }
    }

    /// Only if the key does not exist.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// assert_eq!(Part::put("lock", "me").if_absent().expect, Some(None));
    /// ```
    #[must_use]
    pub fn if_absent(self) -> Self {
        Self { expect: Some(None), ..self }.conditional()
    }

    /// Only if the key exists.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::delete("lock").if_present();
    /// ```
    #[must_use]
    pub fn if_present(self) -> Self {
        Self { expect_present: true, ..self }.conditional()
    }

    /// Only if this revision was the last to change the key.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::put("lock", "me").if_version(7);
    /// ```
    #[must_use]
    pub fn if_version(self, version: u64) -> Self {
        Self { expect_version: Some(version), ..self }.conditional()
    }

    /// Only if the key exists with this value.
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// let part = Part::put("lock", "me").if_value("you");
    /// assert_eq!(part.expect, Some(Some(b"you".as_slice().into())));
    /// ```
    #[must_use]
    pub fn if_value(self, value: impl AsRef<[u8]>) -> Self {
        Self { expect: Some(Some(value.as_ref().into())), ..self }.conditional()
    }

    fn conditional(mut self) -> Self {
        if self.op == Op::Put {
            self.op = Op::Cas;
        }
        self
    }

    /// The item is a counter. (`apply` and `batch_get` have no item.)
    ///
    /// ```
    /// # use tally_client::history::Part;
    /// assert!(Part::delete_counter("hits").is_counter() && !Part::delete("hits").is_counter());
    /// ```
    pub fn is_counter(&self) -> bool {
        match self.op {
            Op::Incr | Op::Get | Op::Set | Op::Configure => true,
            Op::Cas | Op::Delete => self.kind == Some(Kind::Counter),
            Op::Put | Op::Read | Op::Apply | Op::BatchGet => false,
        }
    }
}
