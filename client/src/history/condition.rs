//! What an `apply` depends on: its conditions, and which branch ran.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::operation::{Kind, Scalar};

/// How a stored value (left) is compared with the given one (right).
///
/// ```
/// use tally_client::history::Compare;
///
/// assert!(Compare::GreaterOrEqual.holds(&2, &1));
/// assert_eq!(serde_json::to_string(&Compare::GreaterOrEqual)?, r#"">=""#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// Stored equals given.
    #[serde(rename = "==")]
    Equal,
    /// Stored differs from given.
    #[serde(rename = "!=")]
    NotEqual,
    /// Stored is below given.
    #[serde(rename = "<")]
    Less,
    /// Stored is not above given.
    #[serde(rename = "<=")]
    LessOrEqual,
    /// Stored is above given.
    #[serde(rename = ">")]
    Greater,
    /// Stored is not below given.
    #[serde(rename = ">=")]
    GreaterOrEqual,
}

impl Compare {
    /// Whether it holds.
    ///
    /// ```
    /// assert!(tally_client::history::Compare::NotEqual.holds("a", "b"));
    /// ```
    pub fn holds<T: Ord + ?Sized>(self, stored: &T, given: &T) -> bool {
        match self {
            Self::Equal => stored == given,
            Self::NotEqual => stored != given,
            Self::Less => stored < given,
            Self::LessOrEqual => stored <= given,
            Self::Greater => stored > given,
            Self::GreaterOrEqual => stored >= given,
        }
    }
}

/// One condition of an `apply`: on existence, on the revision, or on the value.
///
/// ```
/// use tally_client::history::Condition;
///
/// let text = r#"{"kind":"counter","key":"stock","compare":">=","value":1}"#;
/// let condition: Condition = serde_json::from_str(text)?;
/// assert_eq!(condition.value, Some(1.into()));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Where the name lives.
    pub kind: Kind,
    /// The name.
    pub key: String,
    /// It exists, or does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// How `version` or `value` is compared; equal if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
    /// The revision that last changed it; 0 if it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The value; what does not exist fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Scalar>,
}

impl Condition {
    /// It exists, or does not.
    ///
    /// ```
    /// use tally_client::history::{Condition, Kind};
    ///
    /// let new = Condition::exists(Kind::Key, "order/4711", false);
    /// ```
    pub fn exists(kind: Kind, key: impl Into<String>, exists: bool) -> Self {
        let key = key.into();
        Self { kind, key, exists: Some(exists), compare: None, version: None, value: None }
    }

    /// The revision that last changed it.
    ///
    /// ```
    /// use tally_client::history::{Compare, Condition, Kind};
    ///
    /// let untouched = Condition::version(Kind::Counter, "stock", Compare::Equal, 17);
    /// ```
    pub fn version(kind: Kind, key: impl Into<String>, compare: Compare, version: u64) -> Self {
        let compare = Some(compare);
        Self { compare, version: Some(version), exists: None, ..Self::exists(kind, key, true) }
    }

    /// The value.
    ///
    /// ```
    /// use tally_client::history::{Compare, Condition, Kind};
    ///
    /// let enough = Condition::value(Kind::Counter, "stock", Compare::GreaterOrEqual, 1);
    /// ```
    pub fn value(
        kind: Kind,
        key: impl Into<String>,
        compare: Compare,
        value: impl Into<Scalar>,
    ) -> Self {
        let compare = Some(compare);
        Self { compare, value: Some(value.into()), exists: None, ..Self::exists(kind, key, true) }
    }
}

/// A branch in lower case, as everything else in a history.
pub(super) mod branch {
    use super::*;
    use crate::Branch;

    pub(in crate::history) fn serialize<S: Serializer>(
        branch: &Option<Branch>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        branch
            .map(|branch| if branch == Branch::Then { "then" } else { "else" })
            .serialize(serializer)
    }

    pub(in crate::history) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Branch>, D::Error> {
        match Option::<String>::deserialize(deserializer)?.as_deref() {
            None => Ok(None),
            Some("then") => Ok(Some(Branch::Then)),
            Some("else") => Ok(Some(Branch::Else)),
            Some(other) => Err(D::Error::unknown_variant(other, &["then", "else"])),
        }
    }
}
