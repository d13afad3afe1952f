//! What bugs on purpose need beside the line that they break: built for simulations alone.
//!
//! Some need to know what the machine must not: the clock and the id of the node that applies. It says
//! so just before it does ([`enter`]), and that is kept for the thread, as the switch is: all nodes of a
//! simulation share one.

use std::{cell::Cell, ops::ControlFlow};

use bytes::Bytes;

use super::{
    command::{
        Action, Answer, Command, CounterAdd, CounterSet, OnViolation, Operation, OperationAnswer,
        Reply, SessionStamp,
    },
    keys::{RecordKey, Space},
    query,
    records::SessionAnswerRecord,
    view::{Overlay, View},
    work::Work,
};

thread_local! {
    static NODE: Cell<u64> = const { Cell::new(0) };
    static WALL_MS: Cell<u64> = const { Cell::new(0) };
}

/// What this thread applies next, it applies for this node, whose wall clock shows this.
pub fn enter(node_id: u64, wall_ms: u64) {
    NODE.set(node_id);
    WALL_MS.set(wall_ms);
}

/// The node that applies.
pub fn node_id() -> u64 {
    NODE.get()
}

/// The wall clock of the node that applies.
pub(crate) fn wall_ms() -> u64 {
    WALL_MS.get()
}

/// Makes one bit of a hash touch many.
const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What seeds the hash maps of the node that applies.
pub(crate) fn node_hash() -> u64 {
    NODE.get().wrapping_mul(HASH_FACTOR)
}

/// One replica leaves something else behind, and answers as the others do: a bit of a counter is another.
pub(crate) fn spoil_at_one_node<V: View + ?Sized>(overlay: &mut Overlay<'_, V>, log_index: u64) {
    if node_id() != 2 || !log_index.is_multiple_of(64) {
        return;
    }
    let (start, end) = Space::Counter.range();
    let mut first = None;
    overlay.scan(&start, &end, &mut |key, value| {
        first = Some((Bytes::copy_from_slice(key), value.to_vec()));
        ControlFlow::Break(())
    });
    if let Some((key, mut value)) = first {
        *value.last_mut().expect("a counter has a value") ^= 1;
        overlay.put(key, value.into());
    }
}

/// Applies commands in the order in which a hash map of theirs would be walked through: one that is
/// seeded, as such maps are, and differently on each node.
pub(crate) fn in_hash_order<V: View + ?Sized>(
    work: &mut Work<'_, '_, V>,
    commands: &[Command],
) -> Vec<Reply> {
    let hash = |at: &usize| {
        let Command { fingerprint, session, .. } = &commands[*at];
        let (session, number) = session.map_or((0, 0), |it| (it.session_id, it.sequence));
        [u64::from(fingerprint.0[0]), session, number]
            .into_iter()
            .fold(node_hash(), |hash, word| (hash ^ word).wrapping_mul(HASH_FACTOR).rotate_left(31))
    };
    let mut order: Vec<usize> = (0..commands.len()).collect();
    order.sort_by_key(hash);
    let mut replies: Vec<_> =
        order.into_iter().map(|at| (at, work.command(&commands[at]))).collect();
    replies.sort_by_key(|(at, _)| *at);
    replies.into_iter().map(|(_, reply)| reply).collect()
}

/// What is said to a duplicate: the counter as it is, not as the write left it.
pub(crate) fn with_present_value<V: View + ?Sized>(
    work: &mut Work<'_, '_, V>,
    command: &Command,
    mut reply: Reply,
) -> Reply {
    if let Action::Single(
        Operation::CounterAdd(CounterAdd { name, .. })
        | Operation::CounterSet(CounterSet { name, .. }),
    ) = &command.action
        && let Ok(Answer::Single(OperationAnswer::CounterChanged(change))) = &mut reply.result
        && let Some(record) = work.counter(name)
    {
        change.value = record.value;
        change.revision = record.modified_revision;
    }
    reply
}

/// What is answered before it is proposed: the answer that the session remembers.
pub fn remembered(view: &impl View, command: &Command) -> Option<Reply> {
    let SessionStamp { session_id, sequence, .. } = command.session?;
    let key = RecordKey::SessionAnswer { session_id, sequence };
    let record: SessionAnswerRecord = query::get(view, key)?;
    let same = record.fingerprint == command.fingerprint;
    same.then_some(Reply { replayed: true, ..record.reply })
}

/// What is answered before it is proposed: the refusal of an Add on the present state.
pub fn refused_by_bounds(view: &impl View, command: &Command) -> Option<Reply> {
    let Action::Single(Operation::CounterAdd(add)) = &command.action else { return None };
    if add.on_violation != OnViolation::Reject {
        return None;
    }
    let stored = query::counter(view, &add.name);
    let (_, obstacle) = add.reach(stored);
    let refusal = obstacle?.refuse(&add.name, stored.map_or(0, |stored| stored.value));
    let revision = query::meta(view).revision;
    Some(Reply { result: Err(refusal), revision, replayed: false, kept: None, hidden: false })
}
