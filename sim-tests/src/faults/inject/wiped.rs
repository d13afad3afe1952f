//! A majority wiped: the machines come back empty, with the members that a first start has, and must
//! wait. What was on their disks is put back, and the cluster goes on, with nothing lost.

use std::collections::BTreeMap;

use turmoil::Sim;

use super::{Injector, RESTART_AFTER_MS, Undo, copies::Copy};
use crate::{
    cluster::{Condition, host_of},
    faults::links::Trouble,
    trace_event,
};

/// Disks are gone for at least so long: enough for elections, had the wiped ones formed a cluster.
const WIPED_MS_MIN: u64 = 5_000;

/// Machines whose disks are lost for a while.
pub(super) type Wiped = BTreeMap<u64, Copy>;

impl Injector {
    pub(super) fn wipe_majority(
        &mut self,
        sim: &mut Sim<'_>,
        pick: u64,
        until_ms: u64,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        self.may_change_members()?;
        let members = self.members();
        let first: Vec<u64> = (1..=self.knobs.nodes).collect();
        if members != first || self.asked != self.voters || !self.desk.is_idle() {
            return Err("the members are no longer those of the first start");
        }
        if self.knobs.nodes < 3 || !members.iter().all(|id| self.is_up(*id)) {
            return Err("too few nodes run");
        }
        if !self.copies.is_empty() || !self.rolling.is_empty() {
            return Err("a node waits for a copy of its disk, or to be restarted");
        }
        let turn = (pick % self.knobs.nodes) as usize;
        let order = members.iter().cycle().skip(turn).take(members.len()).copied();
        let majority = members.len() / 2 + 1;
        let (wiped, others): (Vec<_>, Vec<_>) =
            order.enumerate().partition(|(at, _)| *at < majority);
        let ids =
            |some: Vec<(usize, u64)>| some.into_iter().map(|(_, id)| id).collect::<Vec<u64>>();
        let (wiped, others) = (ids(wiped), ids(others));
        // Half of the time somebody who knows the cluster can be asked, and sends them away.
        if pick >> 32 & 1 == 1 {
            self.cut(sim, self.between(&wiped, &others, Trouble::Cut), until_ms)?;
        }
        for id in wiped {
            self.cluster.kill(sim, id);
            let machine = self.cluster.machine(id);
            let copy = (machine.disk().fork(pick), machine.stores().save());
            machine.disk().wipe();
            machine.stores().wipe();
            self.invariants.lends_disk(id);
            self.wiped.insert(id, copy);
            self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
        }
        trace_event!("fault", "the disks of {:?} are lost", self.wiped.keys());
        self.undo.push((until_ms.max(now_ms + WIPED_MS_MIN), Undo::DisksBack));
        Ok(())
    }

    /// Machines that lost a majority's disks serve nothing.
    pub(super) fn watch_wiped(&mut self) {
        let ids: Vec<u64> = self.wiped.keys().copied().collect();
        for id in ids {
            if self.cluster.machine(id).condition() == Condition::Running {
                self.failures.push(format!(
                    "node {id} serves, though its disk was lost with those of a majority"
                ));
            }
        }
    }

    /// Whether a machine without its disk may end itself so, and is left alone then.
    pub(super) fn is_sent_away(&mut self, id: u64, reason: &str) -> bool {
        if !self.wiped.contains_key(&id) || !reason.contains("another data directory") {
            return false;
        }
        if self.sent_away.insert(id) {
            trace_event!(&host_of(id), "ended itself: {reason}");
            self.happens("a wiped node sent away by one that remembers");
            if !self.cluster.machine(id).needs_a_person() {
                self.failures.push(format!("node {id} asks to be started again: {reason}"));
            }
        }
        true
    }

    /// What was on the disks is there again.
    pub(super) fn disks_come_back(&mut self, sim: &mut Sim<'_>) {
        for (id, (disk, stores)) in std::mem::take(&mut self.wiped) {
            self.cluster.cut_power(sim, id);
            let machine = self.cluster.machine(id);
            machine.disk().put_back(&disk);
            machine.stores().put_back(&stores);
            self.invariants.gets_disk_back(id);
            trace_event!(&host_of(id), "has its disk again");
            // Not here: until it has started its condition is still that of the run before.
            self.restart_at.insert(id, 0);
        }
        self.sent_away.clear();
        self.happens("a majority's disks lost and put back");
    }
}
