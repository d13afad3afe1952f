//! Atomic steps over counters and keys: conditions, and operations that run all or not at all. The
//! operations themselves are made in [`counter`](crate::counter) and [`keys`](crate::keys).

use bytes::Bytes;
use tally_proto::v1::{self, condition, operation::Kind};

use crate::{
    answer::{Applied, Branch, Header, OperationResult},
    call::{Write, answers},
    client::Client,
};

/// An atomic step before it is sent.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// use tally_client::apply::{Apply, Compare, Condition, Operation};
///
/// // Take one unit of stock and write the order, or do neither.
/// let step: Apply = client.apply();
/// let applied = step
///     .when(Condition::counter_value("stock", Compare::GreaterOrEqual, 1))
///     .then(Operation::counter_add("stock", -1))
///     .then(Operation::key_put("order/4711", "1 unit"))
///     .otherwise(Operation::counter_add("turned-away", 1))
///     .await?;
/// println!("{:?}", applied.branch);
/// # Ok(()) }
/// ```
pub type Apply = Write<v1::TransactionsApplyRequest>;

impl Client {
    /// An atomic step of up to 128 operations.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::apply::Operation;
    ///
    /// let from = Operation::counter_add("account/1", -5).floor(0);
    /// client.apply().then(from).then(Operation::counter_add("account/2", 5)).await?;
    /// # Ok(()) }
    /// ```
    pub fn apply(&self) -> Apply {
        Write::new(self, v1::TransactionsApplyRequest::default())
    }
}

impl Apply {
    /// Adds a condition; all must hold.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::apply::{Condition, Operation};
    ///
    /// let step = client.apply().when(Condition::key_exists("order/4711", false));
    /// step.then(Operation::counter_add("stock", -1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn when(mut self, condition: impl Into<Condition>) -> Self {
        self.request.conditions.push(condition.into().0);
        self
    }

    /// Adds an operation that runs if all conditions hold.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::apply::Operation;
    ///
    /// client.apply().then(Operation::counter_add("hits", 1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn then(mut self, operation: impl Into<Operation>) -> Self {
        self.request.operations.push(operation.into().0);
        self
    }

    /// Adds an operation that runs if a condition does not hold. Without any, such a step is
    /// refused with [`CONDITION_FAILED`](crate::reason::CONDITION_FAILED).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::apply::{Compare, Condition, Operation};
    ///
    /// let step = client.apply().when(Condition::counter_value("stock", Compare::Greater, 0));
    /// let step = step.then(Operation::counter_add("stock", -1));
    /// step.otherwise(Operation::counter_add("turned-away", 1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn otherwise(mut self, operation: impl Into<Operation>) -> Self {
        self.request.else_operations.push(operation.into().0);
        self
    }
}

/// How a stored value (left) is compared with the given one (right).
///
/// ```
/// use tally_client::apply::{Compare, Condition};
///
/// let enough = Condition::counter_value("stock", Compare::GreaterOrEqual, 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Stored equals given.
    Equal,
    /// Stored differs from given.
    NotEqual,
    /// Stored is below given.
    Less,
    /// Stored is not above given.
    LessOrEqual,
    /// Stored is above given.
    Greater,
    /// Stored is not below given.
    GreaterOrEqual,
}

impl From<Compare> for v1::Comparison {
    fn from(compare: Compare) -> Self {
        match compare {
            Compare::Equal => Self::Equal,
            Compare::NotEqual => Self::NotEqual,
            Compare::Less => Self::Less,
            Compare::LessOrEqual => Self::LessOrEqual,
            Compare::Greater => Self::Greater,
            Compare::GreaterOrEqual => Self::GreaterOrEqual,
        }
    }
}

/// What must hold for a step's operations to run.
///
/// ```
/// use tally_client::apply::Condition;
///
/// let new = Condition::key_exists("order/4711", false);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Condition(v1::Condition);

impl From<v1::Condition> for Condition {
    fn from(condition: v1::Condition) -> Self {
        Self(condition)
    }
}

impl Condition {
    fn new(
        target: condition::Target,
        test: condition::Test,
        comparison: impl Into<v1::Comparison>,
    ) -> Self {
        let comparison = comparison.into() as i32;
        Self(v1::Condition { target: Some(target), test: Some(test), comparison })
    }

    /// A counter's value; one that does not exist fails.
    ///
    /// ```
    /// # use tally_client::apply::{Compare, Condition};
    /// let enough = Condition::counter_value("stock", Compare::GreaterOrEqual, 1);
    /// ```
    pub fn counter_value(name: impl Into<String>, compare: Compare, value: i64) -> Self {
        let target = condition::Target::Counter(name.into());
        Self::new(target, condition::Test::CounterValue(value), compare)
    }

    /// A counter exists, or does not.
    ///
    /// ```
    /// # use tally_client::apply::Condition;
    /// let new = Condition::counter_exists("stock", false);
    /// ```
    pub fn counter_exists(name: impl Into<String>, exists: bool) -> Self {
        let target = condition::Target::Counter(name.into());
        Self::new(target, condition::Test::Exists(exists), v1::Comparison::Unspecified)
    }

    /// The revision that last changed a counter; 0 if it does not exist.
    ///
    /// ```
    /// # use tally_client::apply::{Compare, Condition};
    /// let untouched = Condition::counter_revision("stock", Compare::Equal, 17);
    /// ```
    pub fn counter_revision(name: impl Into<String>, compare: Compare, revision: u64) -> Self {
        let target = condition::Target::Counter(name.into());
        Self::new(target, condition::Test::Revision(revision), compare)
    }

    /// A key's value, bytewise; one that does not exist fails.
    ///
    /// ```
    /// # use tally_client::apply::{Compare, Condition};
    /// let mine = Condition::key_value("lock", Compare::Equal, "me");
    /// ```
    pub fn key_value(key: impl Into<String>, compare: Compare, value: impl Into<Bytes>) -> Self {
        let target = condition::Target::Key(key.into());
        Self::new(target, condition::Test::KeyValue(value.into()), compare)
    }

    /// A key exists, or does not.
    ///
    /// ```
    /// # use tally_client::apply::Condition;
    /// let new = Condition::key_exists("order/4711", false);
    /// ```
    pub fn key_exists(key: impl Into<String>, exists: bool) -> Self {
        let target = condition::Target::Key(key.into());
        Self::new(target, condition::Test::Exists(exists), v1::Comparison::Unspecified)
    }

    /// The revision that last changed a key; 0 if it does not exist.
    ///
    /// ```
    /// # use tally_client::apply::{Compare, Condition};
    /// let untouched = Condition::key_revision("lock", Compare::Equal, 17);
    /// ```
    pub fn key_revision(key: impl Into<String>, compare: Compare, revision: u64) -> Self {
        let target = condition::Target::Key(key.into());
        Self::new(target, condition::Test::Revision(revision), compare)
    }
}

/// One operation of a step. It sees what those before it did.
///
/// ```
/// use tally_client::apply::Operation;
///
/// let take = Operation::counter_add("stock", -1).floor(0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Operation(pub(crate) v1::Operation);

impl From<v1::Operation> for Operation {
    fn from(operation: v1::Operation) -> Self {
        Self(operation)
    }
}

impl Operation {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(v1::Operation { kind: Some(kind) })
    }
}

answers! {
    Write<v1::TransactionsApplyRequest> -> Applied:
        |answer: v1::TransactionsApplyResponse| {
            let change = answer.change.unwrap_or_default();
            Applied {
                branch: match change.branch() {
                    v1::Branch::Else => Branch::Else,
                    _ => Branch::Then,
                },
                results: change.results.into_iter().map(OperationResult::from).collect(),
                revision: change.revision,
                write: answer.write.map(Into::into).unwrap_or_default(),
                header: Header::of(answer.header),
            }
        };
}
