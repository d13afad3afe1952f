//! Answers, as plain data.

use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tally_proto::v1;

use crate::{
    token::SessionToken,
    words::{Consistency, Role, StalenessGround, as_millis, some_as_millis},
};

/// What an answer is worth: which promise it keeps and who gave it.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let hits = client.counter("hits").get().await?;
/// println!("{} by node {}", hits.header.consistency, hits.header.node_id);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Header {
    /// The promise kept.
    pub consistency: Consistency,
    /// Id of the cluster.
    pub cluster_id: String,
    /// The node that answered.
    pub node_id: u64,
    /// Its role when it answered.
    pub role: Role,
    /// Its Raft term.
    pub term: u64,
    /// Log index of the last entry that the state includes.
    pub applied_index: u64,
    /// Revision of the store in that state.
    pub revision: u64,
    /// The state is no older than this, to the millisecond, if that can be proven. In JSON
    /// `staleness_ms_max`.
    #[serde(rename = "staleness_ms_max", serialize_with = "some_as_millis")]
    pub staleness_max: Option<Duration>,
    /// What proves it.
    pub staleness_ground: Option<StalenessGround>,
    /// Token of that state, for reads at session level anywhere.
    pub session_token: SessionToken,
}

impl Header {
    pub(crate) fn of(header: Option<v1::ResponseHeader>) -> Self {
        header.map(Self::from).unwrap_or_default()
    }
}

impl From<v1::ResponseHeader> for Header {
    fn from(header: v1::ResponseHeader) -> Self {
        let ground = StalenessGround::of(header.staleness_ground);
        Self {
            consistency: Consistency::of(header.consistency),
            role: Role::of(header.role),
            staleness_ground: Some(ground).filter(|ground| *ground != StalenessGround::Unspecified),
            cluster_id: header.cluster_id,
            node_id: header.node_id,
            term: header.term,
            applied_index: header.applied_index,
            revision: header.revision,
            staleness_max: header.staleness_ms_max.map(Duration::from_millis),
            session_token: SessionToken(header.session_token),
        }
    }
}

/// How a write was made safe to repeat.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let change = client.counter("stock").add(-1).idempotency_key("order-4711").await?;
/// if change.write.replayed {
///     println!("this order was counted before");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WriteInfo {
    /// The answer is the stored one of an earlier attempt; nothing was executed now.
    pub replayed: bool,
    /// With an idempotency key: the log time (counted from the cluster's beginning) up to which the key is
    /// remembered. In JSON `kept_until_log_time_ms`.
    #[serde(rename = "kept_until_log_time_ms", serialize_with = "as_millis")]
    pub kept_until_log_time: Duration,
    /// With an idempotency key: how much log time was left of that. In JSON `kept_for_ms`.
    #[serde(rename = "kept_for_ms", serialize_with = "as_millis")]
    pub kept_for: Duration,
    /// The caller may not read what it wrote to: values, bounds and whether it existed are left out, and what is
    /// 0 or nothing there is not known. In JSON it is there if it is true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub values_hidden: bool,
}

impl From<v1::WriteInfo> for WriteInfo {
    fn from(info: v1::WriteInfo) -> Self {
        Self {
            replayed: info.replayed,
            kept_until_log_time: Duration::from_millis(info.kept_until_log_time_ms),
            kept_for: Duration::from_millis(info.kept_for_ms),
            values_hidden: info.values_hidden,
        }
    }
}

/// One counter as stored.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let hits = client.counter("hits").get().await?;
/// println!("{} = {} since revision {}", hits.name, hits.value, hits.modified_revision);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CounterValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: i64,
    /// Lowest value allowed, if bounded.
    pub floor: Option<i64>,
    /// Highest value allowed, if bounded.
    pub ceiling: Option<i64>,
    /// Revision that created it.
    pub created_revision: u64,
    /// Revision that last changed it.
    pub modified_revision: u64,
    /// Wall clock of the leader at that change, in ms since 1970. For display only.
    pub modified_wall_time_ms: u64,
    /// What the answer is worth. Shared by all items of one answer, and left out of each.
    #[serde(skip_serializing_if = "is_default")]
    pub header: Header,
}

fn is_default(header: &Header) -> bool {
    *header == Header::default()
}

impl CounterValue {
    pub(crate) fn new(counter: v1::Counter, header: Header) -> Self {
        let bounds = counter.bounds.unwrap_or_default();
        Self {
            name: counter.name,
            value: counter.value,
            floor: bounds.floor,
            ceiling: bounds.ceiling,
            created_revision: counter.created_revision,
            modified_revision: counter.modified_revision,
            modified_wall_time_ms: counter.modified_wall_time_ms,
            header,
        }
    }
}

/// What a write did to a counter.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let change = client.counter("stock").add(-5).floor(0).saturate().await?;
/// println!("{} -> {}, moved by {}", change.value_before, change.value, change.delta_applied);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CounterChange {
    /// Value before; 0 if the counter did not exist.
    pub value_before: i64,
    /// Value after.
    pub value: i64,
    /// Delta asked for.
    pub delta_requested: i64,
    /// Delta applied.
    pub delta_applied: i64,
    /// Revision of this change; of the store, if nothing changed.
    pub revision: u64,
    /// The counter existed before.
    pub existed: bool,
    /// Stored floor after; before, for a delete.
    pub floor: Option<i64>,
    /// Stored ceiling after; before, for a delete.
    pub ceiling: Option<i64>,
    /// Whether it was replayed.
    #[serde(flatten)]
    pub write: WriteInfo,
    /// What the answer is worth. Inside an [`Applied`] it is there once, and left out here.
    #[serde(skip_serializing_if = "is_default")]
    pub header: Header,
}

impl CounterChange {
    pub(crate) fn new(change: v1::CounterChange, write: WriteInfo, header: Header) -> Self {
        let bounds = change.bounds.unwrap_or_default();
        Self {
            value_before: change.value_before,
            value: change.value,
            delta_requested: change.delta_requested,
            delta_applied: change.delta_applied,
            revision: change.revision,
            existed: change.existed,
            floor: bounds.floor,
            ceiling: bounds.ceiling,
            write,
            header,
        }
    }
}

/// One key as stored.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let item = client.keys().get("greeting").await?;
/// println!("{} is {} bytes", item.key, item.value.len());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value. Serialised as `value` if it is UTF-8, else as `value_base64`.
    #[serde(flatten, serialize_with = "text_or_base64")]
    pub value: Bytes,
    /// Revision that created it.
    pub created_revision: u64,
    /// Revision that last changed it.
    pub modified_revision: u64,
    /// Wall clock of the leader at that change, in ms since 1970. For display only.
    pub modified_wall_time_ms: u64,
    /// What the answer is worth. Shared by all items of one answer, and left out of each.
    #[serde(skip_serializing_if = "is_default")]
    pub header: Header,
}

impl KeyValue {
    pub(crate) fn new(item: v1::KeyValue, header: Header) -> Self {
        Self {
            key: item.key,
            value: item.value,
            created_revision: item.created_revision,
            modified_revision: item.modified_revision,
            modified_wall_time_ms: item.modified_wall_time_ms,
            header,
        }
    }
}

fn text_or_base64<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;
    let mut map = serializer.serialize_map(Some(1))?;
    match std::str::from_utf8(value) {
        Ok(text) => map.serialize_entry("value", text)?,
        Err(_) => map.serialize_entry("value_base64", &base64(value))?,
    }
    map.end()
}

/// Standard base64 with padding (RFC 4648 section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, &byte| group << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * digit) & 63) as usize];
            text.push(if digit <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// What a write did to a key.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let change = client.keys().put("greeting", "hello").await?;
/// println!("revision {} after {}", change.revision, change.previous_revision);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct KeyChange {
    /// Revision of this change; of the store, if nothing changed.
    pub revision: u64,
    /// The key existed before.
    pub existed: bool,
    /// Revision that last changed the key before; 0 if it did not exist.
    pub previous_revision: u64,
    /// Whether it was replayed.
    #[serde(flatten)]
    pub write: WriteInfo,
    /// What the answer is worth. Inside an [`Applied`] it is there once, and left out here.
    #[serde(skip_serializing_if = "is_default")]
    pub header: Header,
}

/// Several items read at one point in the history.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let batch = client.counters().batch_get(["hits", "misses"]).await?;
/// for counter in &batch.items {
///     println!("{} = {}", counter.name, counter.value);
/// }
/// println!("missing: {:?}", batch.missing);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Batch<T> {
    /// The items that exist, in the order asked.
    pub items: Vec<T>,
    /// The names that do not exist, in the order asked.
    pub missing: Vec<String>,
    /// What the answer is worth.
    pub header: Header,
}

/// One page of a list. It is consistent in itself; two pages are two reads.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let mut page = client.keys().scan().prefix("user/").await?;
/// while let Some(next) = page.next_page_token.take() {
///     page = client.keys().scan().prefix("user/").page_token(next).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page<T> {
    /// The items, in ascending order of their names.
    pub items: Vec<T>,
    /// Token of the next page, unless this is the last.
    pub next_page_token: Option<String>,
    /// What the answer is worth.
    pub header: Header,
}

/// What an atomic step did.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// use tally_client::apply::Operation;
///
/// let applied = client.apply().then(Operation::counter_add("stock", -1)).await?;
/// println!("{:?}: {:?}", applied.branch, applied.results);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The branch that ran.
    pub branch: Branch,
    /// One result for each operation of that branch, in order.
    pub results: Vec<OperationResult>,
    /// Revision of the store after the step.
    pub revision: u64,
    /// Whether it was replayed.
    #[serde(flatten)]
    pub write: WriteInfo,
    /// What the answer is worth.
    pub header: Header,
}

/// Which operations of an atomic step ran.
///
/// ```
/// assert_ne!(tally_client::Branch::Then, tally_client::Branch::Else);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Branch {
    /// All conditions held.
    Then,
    /// One did not.
    Else,
}

/// The answer of one operation in an atomic step.
///
/// ```no_run
/// # fn example(applied: tally_client::Applied) {
/// use tally_client::OperationResult;
///
/// if let Some(OperationResult::CounterChange(change)) = applied.results.first() {
///     println!("{}", change.value);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationResult {
    /// A write on a counter.
    CounterChange(CounterChange),
    /// A read of a counter that exists.
    Counter(CounterValue),
    /// A write on a key.
    KeyChange(KeyChange),
    /// A read of a key that exists.
    Item(KeyValue),
    /// A read of what does not exist.
    Missing,
}

impl From<v1::OperationResult> for OperationResult {
    fn from(result: v1::OperationResult) -> Self {
        use v1::operation_result::Kind;
        match result.kind {
            Some(Kind::CounterChange(change)) => Self::CounterChange(CounterChange::new(
                change,
                WriteInfo::default(),
                Header::default(),
            )),
            Some(Kind::Counter(counter)) => {
                Self::Counter(CounterValue::new(counter, Header::default()))
            }
            Some(Kind::KeyChange(change)) => Self::KeyChange(KeyChange {
                revision: change.revision,
                existed: change.existed,
                previous_revision: change.previous_revision,
                ..Default::default()
            }),
            Some(Kind::Item(item)) => Self::Item(KeyValue::new(item, Header::default())),
            Some(Kind::Missing(_)) | None => Self::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_value_is_text_if_it_can_be() {
        let json = |value: &'static [u8]| {
            let item = KeyValue { value: Bytes::from_static(value), ..Default::default() };
            serde_json::to_value(item).unwrap()
        };
        assert_eq!(json(b"hi")["value"], "hi");
        assert_eq!(json(b"\xff")["value_base64"], "/w==");
        assert_eq!(json(b"\xff").get("value"), None);
    }
}
