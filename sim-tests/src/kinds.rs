//! How often each kind of thing happened in a run: operations, branches, conditions, refusals,
//! limits.
//!
//! Every kind is in the list from the beginning, with 0: what a set of seeds never did is a kind that
//! none of its checks has seen, and `--not-vacuous` fails on it.

use std::collections::BTreeMap;

use tally_client::{
    Branch,
    history::{Compare, Condition, Kind, Level, Op, Part, Record, Status},
};
use tally_proto::reason;

/// Counts by kind.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Reasons that a run must bring about: every reason that a client of a healthy, misused or broken
/// cluster is told.
///
/// Left out: `KEY_NOT_FOUND`, which a history has as an answer; `NOT_LEADER` and `NOT_PROPOSED`,
/// which the library keeps to itself for as long as another node may do better;
/// `TOKEN_OF_ANOTHER_CLUSTER`, as there is one cluster; `MEMBERSHIP_REFUSED`, which the operator is
/// told; `QUOTA_TABLE_FULL`, as no run sets so many; `NO_STATE_MAJORITY`, as it takes a voter that is down while
/// another one differs; and limits on bytes that take more than a run writes (`TOO_MANY_BYTES_IN_FLIGHT`,
/// `TOO_MANY_SESSION_BYTES`, `REQUEST_BYTES_MAX`).
const REASONS: [&str; 21] = [
    reason::ABOVE_CEILING,
    reason::ANSWER_TOO_LARGE,
    reason::BELOW_FLOOR,
    reason::CONDITION_FAILED,
    reason::COUNTER_NOT_FOUND,
    reason::DEDUP_TABLE_FULL,
    reason::IDEMPOTENCY_KEY_REUSED,
    reason::NO_QUORUM,
    reason::OUTCOME_UNKNOWN,
    reason::OVERFLOW,
    reason::QUOTA_EXCEEDED,
    reason::SEQUENCE_REUSED,
    reason::SEQUENCE_TOO_OLD,
    reason::SESSION_EXPIRED,
    reason::SESSION_TABLE_FULL,
    reason::SESSION_WINDOW_FULL,
    reason::SHARE_EXCEEDED,
    reason::STALENESS_BOUND_EXCEEDED,
    reason::STATE_DIFFERS,
    reason::TOKEN_NOT_REACHED,
    reason::TOO_MANY_IN_FLIGHT,
];

/// Situations that nodes, and the members of a cluster, get into.
pub(crate) const SITUATIONS: &[&str] = &[
    "grown to four voters",
    "grown to five voters",
    "grown to six voters",
    "shrunk to four voters",
    "shrunk to three voters",
    "a learner that stayed one for long",
    "a leader alone with learners",
    "a change of voters interrupted",
    "a change of voters open for a second",
    "leadership transferred while links are cut",
    "a voter replaced while links are cut",
    "a removed node left running",
    "a removed node that ended itself",
    "a removed node that does not start again",
    "a cluster formed at a member's address",
    "a stranger's address shown as trouble",
    "a node of another cluster refused as a member",
    "a majority's disks lost and put back",
    "a wiped node sent away by one that remembers",
    "a node started with an older release than before",
    "an upgrade finalized while things break",
    "a backup restored into another cluster",
    "a restore interrupted, and gone on with",
    "a restore taken back, and begun anew",
    "a replica that differs found out",
    "a replica that differs started anew",
    "a replica that differs replaced",
];

const OPS: [&str; 10] = [
    "incr",
    "get",
    "set",
    "cas of a counter",
    "delete of a counter",
    "configure",
    "put",
    "read",
    "cas of a key",
    "delete of a key",
];

const COMPARES: [Compare; 6] = [
    Compare::Equal,
    Compare::NotEqual,
    Compare::Less,
    Compare::LessOrEqual,
    Compare::Greater,
    Compare::GreaterOrEqual,
];

/// What records say.
pub(crate) fn of_records(records: &[Record]) -> Counts {
    let mut counts = Counts::new();
    nothing_yet(&mut counts);
    for record in records {
        one(record, &mut counts);
    }
    counts
}

fn nothing_yet(counts: &mut Counts) {
    let mut expect = |name: String| {
        counts.insert(name, 0);
    };
    for op in OPS {
        expect(format!("answered: {op}"));
        expect(format!("answered in a step: {op}"));
    }
    for reason in REASONS {
        expect(format!("told: {reason}"));
    }
    for kind in ["counter", "key"] {
        for test in ["existence", "revision", "value"] {
            expect(format!("condition held: {test} of a {kind}"));
            expect(format!("condition failed: {test} of a {kind}"));
        }
    }
    for compare in COMPARES {
        expect(format!("condition held: {}", sign(compare)));
        expect(format!("condition failed: {}", sign(compare)));
    }
    for level in [Level::Linearizable, Level::Bounded, Level::Session, Level::Local] {
        expect(format!("answered at {level:?}"));
    }
    for other in [
        "steps: then",
        "steps: else",
        "steps: else that writes",
        "steps: one name twice",
        "steps: refused after their first operation",
        "steps: refused in else",
        "writes given up by their callers",
        "a client that died with calls under way",
        "bounded reads answered weaker, as allowed",
        "first pages",
        "later pages",
        "session opened",
        "session closed",
        "session refused by a host's share",
        "write under a key for want of a session",
        "key forgotten after its window",
        "a write answered from memory after a restore",
        "a write that no backup holds sent again after a restore",
    ] {
        expect(other.to_owned());
    }
}

fn one(record: &Record, counts: &mut Counts) {
    let mut add = |name: String| *counts.entry(name).or_default() += 1;
    let answered = record.status == Status::Ok;
    if let Some(reason) = record.reason.as_deref().filter(|reason| REASONS.contains(reason)) {
        add(format!("told: {reason}"));
    }
    if record.ret.is_none() && record.reason.is_none() && !record.is_read() {
        add("writes given up by their callers".to_owned());
    }
    if answered && record.is_read() {
        add(format!("answered at {:?}", record.level.unwrap_or(Level::Linearizable)));
        if record.level == Some(Level::Bounded) && record.consistency == Some(Level::Local) {
            add("bounded reads answered weaker, as allowed".to_owned());
        }
    }
    if record.part.op != Op::Apply {
        if let Some(op) = name_of(&record.part).filter(|_| answered) {
            add(format!("answered: {op}"));
        }
        return;
    }
    let refused = record.refused_part.unwrap_or_default();
    if refused.op.is_some_and(|op| op > 0) {
        add("steps: refused after their first operation".to_owned());
    }
    if refused.op.is_some() && refused.else_branch {
        add("steps: refused in else".to_owned());
    }
    if let Some(condition) = refused.condition.and_then(|at| record.when.get(at as usize)) {
        condition_names(condition).for_each(|name| add(format!("condition failed: {name}")));
    }
    if !answered {
        return;
    }
    let ran = match record.branch {
        Some(Branch::Else) => {
            add("steps: else".to_owned());
            &record.else_ops
        }
        _ => {
            add("steps: then".to_owned());
            let held = record.when.iter().flat_map(condition_names);
            held.for_each(|name| add(format!("condition held: {name}")));
            &record.ops
        }
    };
    if record.branch == Some(Branch::Else) && ran.iter().any(|part| !part.op.is_read()) {
        add("steps: else that writes".to_owned());
    }
    let same = |(at, part): (usize, &Part)| {
        let of = |part: &Part| (part.is_counter(), part.key.clone());
        ran[..at].iter().any(|before| of(before) == of(part))
    };
    if ran.iter().enumerate().any(same) {
        add("steps: one name twice".to_owned());
    }
    for op in ran.iter().filter_map(name_of) {
        add(format!("answered in a step: {op}"));
    }
}

fn name_of(part: &Part) -> Option<&'static str> {
    Some(match (part.op, part.is_counter()) {
        (Op::Incr, _) => "incr",
        (Op::Get, _) => "get",
        (Op::Set, _) => "set",
        (Op::Configure, _) => "configure",
        (Op::Put, _) => "put",
        (Op::Read, _) => "read",
        (Op::Cas, true) => "cas of a counter",
        (Op::Cas, false) => "cas of a key",
        (Op::Delete, true) => "delete of a counter",
        (Op::Delete, false) => "delete of a key",
        (Op::Apply | Op::BatchGet, _) => return None,
    })
}

fn condition_names(condition: &Condition) -> impl Iterator<Item = String> + use<> {
    let kind = if condition.kind == Kind::Counter { "counter" } else { "key" };
    let test = match (condition.exists, condition.version) {
        (Some(_), _) => "existence",
        (None, Some(_)) => "revision",
        (None, None) => "value",
    };
    let compare = condition.compare.filter(|_| condition.exists.is_none());
    let compare = compare.map(|compare| sign(compare).to_owned());
    std::iter::once(format!("{test} of a {kind}")).chain(compare)
}

fn sign(compare: Compare) -> &'static str {
    match compare {
        Compare::Equal => "==",
        Compare::NotEqual => "!=",
        Compare::Less => "<",
        Compare::LessOrEqual => "<=",
        Compare::Greater => ">",
        Compare::GreaterOrEqual => ">=",
    }
}
