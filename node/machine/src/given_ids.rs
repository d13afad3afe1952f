//! Ids of nodes: each is given to one data directory, once, for as long as the cluster exists.
//!
//! **Claim.** Two data directories never take part in the cluster under one id, also not one after the other: what a
//! node has acknowledged and voted for is in its directory, and whoever came under its id without that could help to
//! elect a leader that lacks what is committed.
//!
//! **It relies on** the order of the log: ids are given where an entry is applied, so that two directories that ask
//! at once, of two leaders even, are decided one after the other, and on a record that is never removed.
//!
//! **The steps.** A directory is named by its incarnation, random bits that were drawn when it was made. An id without
//! a record is free, and its first claim makes the record. A second claim of the same directory is the same claim
//! (its answer was lost, or the node was started again before it became a member), so it is told the same; one of
//! another directory is refused. Before a member is taken out its record says that it is retired, so that a claim of
//! its very directory is refused from then on, too. Members from before there were records get theirs with the first
//! command after that, since each carries the ids that its leader knows; and a leader sends one before it takes
//! anybody out, so no id leaves the membership without one.
//!
//! **What breaks it:** a membership that loses a member without [`NodeIdCommand::Retire`], or a record that is
//! removed. (`an_id_is_given_once`.)

use std::ops::ControlFlow;

use super::{
    keys::{RecordKey, Space},
    node_ids::{NodeIdCommand, NodeIdRecord},
    query::get,
    records::{Record, decode_stored},
    reply::Answer,
    view::View,
    work::Work,
};

impl<V: View + ?Sized> Work<'_, '_, V> {
    pub(super) fn change_node_ids(&mut self, command: &NodeIdCommand) -> Answer {
        match command {
            NodeIdCommand::Claim { node_id, incarnation, used } => {
                self.note_used(used);
                self.claim(*node_id, incarnation)
            }
            NodeIdCommand::Retire { node_id, used } => {
                self.note_used(used);
                let record = node_id_record(&*self.overlay, *node_id).unwrap_or_default();
                let record = NodeIdRecord { retired: true, drained: false, ..record };
                self.put_node_id(*node_id, &record);
                Answer::Done
            }
            NodeIdCommand::Drain { node_id, drained, used } => {
                self.note_used(used);
                let record = node_id_record(&*self.overlay, *node_id).unwrap_or_default();
                let drained = *drained && !record.retired;
                self.put_node_id(*node_id, &NodeIdRecord { drained, ..record });
                Answer::Done
            }
        }
    }

    fn note_used(&mut self, used: &[u64]) {
        for id in used {
            if node_id_record(&*self.overlay, *id).is_none() {
                self.put_node_id(*id, &NodeIdRecord::default());
            }
        }
    }

    fn claim(&mut self, wanted: u64, incarnation: &str) -> Answer {
        let ids = node_ids(&*self.overlay);
        let next_id = next_of(&ids);
        let held = ids.iter().find(|(_, record)| record.incarnation == incarnation);
        if let Some((id, record)) = held {
            let is_this = wanted == 0 || wanted == *id;
            return match is_this && !record.retired {
                true => Answer::NodeIdClaimed { node_id: *id },
                false => Answer::NodeIdRefused { next_id },
            };
        }
        let node_id = if wanted == 0 { next_id } else { wanted };
        let is_used = ids.iter().any(|(id, _)| *id == node_id);
        if node_id == 0 || is_used {
            return Answer::NodeIdRefused { next_id };
        }
        let record =
            NodeIdRecord { incarnation: incarnation.to_owned(), ..NodeIdRecord::default() };
        self.put_node_id(node_id, &record);
        Answer::NodeIdClaimed { node_id }
    }

    fn put_node_id(&mut self, node_id: u64, record: &NodeIdRecord) {
        self.overlay.put(RecordKey::NodeId(node_id).encode(), record.encode());
    }
}

/// The record of an id.
pub fn node_id_record<V: View + ?Sized>(view: &V, node_id: u64) -> Option<NodeIdRecord> {
    get(view, RecordKey::NodeId(node_id))
}

/// All ids that were ever used, ascending, as far as there are records. A cluster has as many as it ever had nodes.
pub fn node_ids<V: View + ?Sized>(view: &V) -> Vec<(u64, NodeIdRecord)> {
    let (start, end) = Space::NodeId.range();
    let mut ids = Vec::new();
    view.scan(&start, &end, &mut |key, value| {
        if let Ok(RecordKey::NodeId(id)) = RecordKey::decode(key) {
            ids.push((id, decode_stored(key, value)));
        }
        ControlFlow::Continue(())
    });
    ids
}

/// The next id above all that were ever used, these included; 0 if there is none.
pub fn next_node_id<V: View + ?Sized>(view: &V, used: impl IntoIterator<Item = u64>) -> u64 {
    let recorded = node_ids(view).last().map(|(id, _)| *id);
    above(recorded.into_iter().chain(used).max())
}

fn next_of(ids: &[(u64, NodeIdRecord)]) -> u64 {
    above(ids.last().map(|(id, _)| *id))
}

fn above(highest: Option<u64>) -> u64 {
    highest.unwrap_or(0).checked_add(1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply,
        codec::{decode_batch, encode_batch},
        command::{Action, Batch, Command},
        memory::MemoryView,
        reply::Reply,
        view::{Overlay, Writes},
    };

    fn batch(command: NodeIdCommand) -> Batch {
        let command = Command {
            session: None,
            idempotency: None,
            fingerprint: Default::default(),
            action: Action::NodeId(command),
            caller: None,
        };
        Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] }
    }

    fn run(state: &mut MemoryView, command: NodeIdCommand) -> Answer {
        let mut writes = Writes::default();
        let mut replies = apply(&mut Overlay::new(state, &mut writes), 1, &batch(command));
        state.commit(writes);
        let Reply { result, .. } = replies.pop().expect("one command, one reply");
        result.expect("it is answered")
    }

    fn claim(state: &mut MemoryView, node_id: u64, incarnation: &str) -> Answer {
        let (incarnation, used) = (incarnation.to_owned(), vec![1, 2, 3]);
        run(state, NodeIdCommand::Claim { node_id, incarnation, used })
    }

    #[test]
    fn an_id_is_given_once() {
        let mut state = MemoryView::default();
        let claimed = |node_id| Answer::NodeIdClaimed { node_id };
        let refused = |next_id| Answer::NodeIdRefused { next_id };
        assert_eq!(claim(&mut state, 3, "c"), refused(4), "it is a member's");
        assert_eq!(claim(&mut state, 0, "d"), claimed(4));
        assert_eq!(claim(&mut state, 0, "e"), claimed(5), "two that join at once");
        assert_eq!(claim(&mut state, 0, "d"), claimed(4), "its answer was lost");
        assert_eq!(claim(&mut state, 4, "d"), claimed(4));
        assert_eq!(claim(&mut state, 7, "d"), refused(6), "a directory has one id");
        assert_eq!(claim(&mut state, 4, "x"), refused(6));
        assert_eq!(claim(&mut state, 9, "x"), claimed(9), "one that its operator chose");
        assert_eq!(claim(&mut state, 8, "y"), claimed(8), "below it nobody was");
        run(&mut state, NodeIdCommand::Retire { node_id: 4, used: vec![] });
        assert_eq!(claim(&mut state, 4, "d"), refused(10), "it was taken out");
        assert_eq!(claim(&mut state, 0, "d"), refused(10));
        run(&mut state, NodeIdCommand::Retire { node_id: 2, used: vec![] });
        assert_eq!(claim(&mut state, 2, "z"), refused(10));
        assert!(node_id_record(&state, 2).expect("it was").retired);
        assert_eq!(next_node_id(&state, []), 10);
        assert_eq!(next_node_id(&state, [20]), 21);
        assert_eq!(claim(&mut state, u64::MAX, "last"), claimed(u64::MAX));
        assert_eq!(claim(&mut state, 0, "more"), refused(0), "there is none above");
        assert_eq!(next_node_id(&state, []), 0);
    }

    #[test]
    fn who_is_drained_is_remembered_until_it_is_undone_or_gone() {
        let mut state = MemoryView::default();
        let drain = |state: &mut MemoryView, drained| {
            let command = NodeIdCommand::Drain { node_id: 4, drained, used: vec![1, 4] };
            assert_eq!(run(state, command), Answer::Done);
            node_id_record(state, 4).expect("it is noted").drained
        };
        assert_eq!(claim(&mut state, 4, "d"), Answer::NodeIdClaimed { node_id: 4 });
        assert!(drain(&mut state, true));
        assert_eq!(node_id_record(&state, 4).expect("as before").incarnation, "d");
        assert!(!drain(&mut state, false) && drain(&mut state, true));
        run(&mut state, NodeIdCommand::Retire { node_id: 4, used: vec![] });
        assert!(!node_id_record(&state, 4).expect("it was").drained);
        assert!(!drain(&mut state, true), "it is none any more");
        assert!(node_id_record(&state, 1).is_some(), "who else is there is noted, too");
    }

    /// Pins the bytes of the log and of the state.
    #[test]
    fn node_ids_are_frozen() {
        let head = [&[1, 0, 0, 1, 0, 0][..], &[0; 32], &[11]].concat();
        for (command, tail) in [
            (
                NodeIdCommand::Claim { node_id: 4, incarnation: "ab".into(), used: vec![1, 300] },
                &[0, 4, 2, b'a', b'b', 2, 1, 0xac, 2][..],
            ),
            (NodeIdCommand::Retire { node_id: 3, used: vec![] }, &[1, 3, 0]),
            (NodeIdCommand::Drain { node_id: 3, drained: true, used: vec![2] }, &[2, 3, 1, 1, 2]),
        ] {
            let bytes = [&head[..], tail].concat();
            assert_eq!(encode_batch(&batch(command.clone())), bytes);
            assert_eq!(decode_batch(&bytes), Ok(batch(command)));
        }
        let record = NodeIdRecord { incarnation: "ab".into(), retired: true, drained: false };
        assert_eq!(record.encode().as_ref(), [1, 2, b'a', b'b', 1, 0]);
        assert_eq!(NodeIdRecord::decode(&record.encode()), Ok(record));
    }
}
