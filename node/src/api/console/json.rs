//! The API's messages as JSON. What JavaScript can't hold exactly, the values of counters, is text.

use serde_json::{Value, json};
use tally_proto::v1;

/// Of a value in a list so many bytes are shown: it may have a MiB.
pub(super) const LISTED_BYTES_MAX: usize = 256;

/// What an answer is worth.
pub(super) fn header(header: &v1::ResponseHeader) -> Value {
    let ground = match header.staleness_ground() {
        v1::StalenessGround::Unspecified => None,
        v1::StalenessGround::ReadIndex => Some("read_index"),
        v1::StalenessGround::EarlierReadIndex => Some("earlier_read_index"),
    };
    let level = match header.consistency() {
        v1::ReadLevel::Unspecified => None,
        v1::ReadLevel::Linearizable => Some("linearizable"),
        v1::ReadLevel::Bounded => Some("bounded"),
        v1::ReadLevel::Session => Some("session"),
        v1::ReadLevel::Local => Some("local"),
    };
    json!({
        "level": level,
        "cluster_id": header.cluster_id,
        "node_id": header.node_id,
        "role": role(header.role()),
        "term": header.term,
        "applied_index": header.applied_index,
        "revision": header.revision,
        "staleness_ms_max": header.staleness_ms_max,
        "staleness_ground": ground,
        "session_token": hex(&header.session_token),
        "state_differs": header.state_differs,
    })
}

fn role(role: v1::Role) -> Option<&'static str> {
    match role {
        v1::Role::Unspecified => None,
        v1::Role::Leader => Some("leader"),
        v1::Role::Follower => Some("follower"),
        v1::Role::Learner => Some("learner"),
    }
}

pub(super) fn counter(counter: &v1::Counter) -> Value {
    let bound = |bound: Option<i64>| bound.map(|bound| bound.to_string());
    let bounds = counter.bounds.unwrap_or_default();
    json!({
        "name": counter.name,
        "value": counter.value.to_string(),
        "floor": bound(bounds.floor),
        "ceiling": bound(bounds.ceiling),
        "created_revision": counter.created_revision,
        "modified_revision": counter.modified_revision,
        "modified_wall_time_ms": counter.modified_wall_time_ms,
    })
}

/// A key, with so much of its value.
pub(super) fn key(item: &v1::KeyValue, bytes_max: usize) -> Value {
    let bytes = item.value.len();
    let mut shown = &item.value[..bytes.min(bytes_max)];
    // A letter is not cut in two, and what is no text is shown as bytes.
    let is_cut = shown.len() < bytes;
    if is_cut
        && let Err(error) = std::str::from_utf8(shown)
        && error.error_len().is_none()
    {
        shown = &shown[..error.valid_up_to()];
    }
    let text = std::str::from_utf8(shown).ok();
    json!({
        "name": item.key,
        "value": text,
        "value_hex": text.is_none().then(|| hex(shown)),
        "value_bytes": bytes,
        "value_is_cut": is_cut,
        "created_revision": item.created_revision,
        "modified_revision": item.modified_revision,
        "modified_wall_time_ms": item.modified_wall_time_ms,
    })
}

/// The nodes, and whether there are enough.
pub(super) fn status(status: &v1::ClusterStatusResponse) -> Value {
    let voters: Vec<_> =
        status.nodes.iter().filter(|node| node.role() != v1::Role::Learner).collect();
    let reachable = voters.iter().filter(|node| node.reachable).count();
    json!({
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "voters": voters.len(),
        "quorum": voters.len() / 2 + 1,
        "voters_reachable": reachable,
        "next_node_id": status.next_node_id,
        "dedup": status.dedup.as_ref().map(dedup),
    })
}

fn node(node: &v1::NodeStatus) -> Value {
    let role_now = if node.reachable { role(node.role()) } else { None };
    json!({
        "id": node.id,
        "role": role_now,
        "is_voter": node.role() != v1::Role::Learner,
        "reachable": node.reachable,
        "drained": node.drained,
        "address": node.address,
        "peer_address": node.peer_address,
        "version": node.version,
        "pid": node.pid,
        "term": node.term,
        "leader_id": node.leader_id,
        "last_log_index": node.last_log_index,
        "commit_index": node.commit_index,
        "applied_index": node.applied_index,
        "snapshot_index": node.snapshot_index,
        "purged_index": node.purged_index,
        "lag_entries": node.lag_entries,
        "revision": node.revision,
        "log_bytes": node.log_bytes,
        "state_bytes": node.state_bytes,
        "disk_free_bytes": node.disk_free_bytes,
        "disk_nearly_full": node.disk_nearly_full,
        "local_reads_only": node.local_reads_only,
        "note": node.note,
    })
}

fn dedup(dedup: &v1::DedupStatus) -> Value {
    json!({
        "sessions": dedup.sessions,
        "sessions_max": dedup.sessions_max,
        "keys": dedup.keys,
        "key_bytes": dedup.key_bytes,
        "key_bytes_max": dedup.key_bytes_max,
        "sessions_warning": dedup.sessions_warning,
        "key_bytes_warning": dedup.key_bytes_warning,
    })
}

/// What a step of the membership would do, or has done.
pub(super) fn plan(plan: &v1::ClusterPlan) -> Value {
    json!({
        "node_id": plan.node_id,
        "is_so": plan.is_so,
        "refusal": plan.refusal,
        "passes": plan.passes,
        "note": plan.note,
        "lag_entries": plan.lag_entries,
        "next_node_id": plan.next_node_id,
        "before": plan.before.as_ref().map(voters),
        "after": plan.after.as_ref().map(voters),
    })
}

fn voters(voters: &v1::ClusterVoters) -> Value {
    json!({
        "voters": voters.voters,
        "learners": voters.learners,
        "quorum": voters.quorum,
        "tolerated_failures": voters.tolerated_failures,
        "silent": voters.silent,
        "spare": voters.spare,
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &[u8], bytes_max: usize) -> (Value, Value, Value) {
        let mut told =
            key(&v1::KeyValue { value: value.to_vec().into(), ..Default::default() }, bytes_max);
        (told["value"].take(), told["value_hex"].take(), told["value_is_cut"].take())
    }

    #[test]
    fn a_value_is_text_where_it_is_and_no_letter_is_cut_in_two() {
        assert_eq!(shown("čaj".as_bytes(), 9), (json!("čaj"), Value::Null, json!(false)));
        assert_eq!(shown("ač".as_bytes(), 2), (json!("a"), Value::Null, json!(true)));
        assert_eq!(shown(&[0xff, 0, 1], 2), (Value::Null, json!("ff00"), json!(true)));
        assert_eq!(shown(b"", 2), (json!(""), Value::Null, json!(false)));
    }

    #[test]
    fn a_counter_keeps_all_of_its_digits() {
        let bounds = Some(v1::Bounds { floor: Some(i64::MIN), ceiling: None });
        let told = counter(&v1::Counter { value: i64::MAX, bounds, ..Default::default() });
        assert_eq!(told["value"], "9223372036854775807");
        assert_eq!(
            (&told["floor"], &told["ceiling"]),
            (&json!("-9223372036854775808"), &Value::Null)
        );
    }
}
