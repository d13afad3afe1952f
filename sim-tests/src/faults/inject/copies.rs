//! Older copies of a disk that are put back: the node must learn that it has forgotten something, from a
//! peer that can tell it, before it takes part.

use tally_node::storage::{simulated_disk::SimulatedDisk, simulated_store::SimulatedStores};
use turmoil::Sim;

use super::Injector;
use crate::{
    cluster::{Condition, host_of},
    trace_event,
};

/// What a disk holds, and the stores on it.
pub(super) type Copy = (SimulatedDisk, SimulatedStores);

impl Injector {
    /// Puts an older copy of its disk back into a node's machine, where a peer that it reaches knows of a
    /// start since: what that node has forgotten can be told from nothing else.
    pub(super) fn put_back(&mut self, sim: &mut Sim<'_>, id: u64) -> Result<(), &'static str> {
        let (disk, stores) = self.copies.remove(&id).ok_or("there is no copy")?;
        self.may_damage(id)?;
        if !self.is_healthy(id) {
            return Err("the node does not run");
        }
        let peer = self.who_knows_a_start_since(id, &disk).ok_or("nobody could tell")?;
        self.cluster.cut_power(sim, id);
        let machine = self.cluster.machine(id);
        machine.disk().put_back(&disk);
        machine.stores().put_back(&stores);
        self.invariants.loses_disk(id);
        self.damaged.insert(id, "older copy");
        self.put_back.insert(id, peer);
        trace_event!(&host_of(id), "has an older copy of its disk; node {peer} can tell");
        self.cluster.restart(sim, id);
        Ok(())
    }

    fn who_knows_a_start_since(&self, id: u64, copy: &SimulatedDisk) -> Option<u64> {
        let identity = |disk: &SimulatedDisk| -> Option<serde_json::Value> {
            serde_json::from_slice(disk.contents().get("IDENTITY")?).ok()
        };
        let own = identity(copy)?;
        let of_copy = own["start"]["number"].as_u64()?;
        // It greets members only, and those that were some when the copy was made (seed 3182: a machine
        // that waits to be added can tell, and is not asked).
        let is_greeted =
            |peer: &u64| self.voters.contains(peer) && own["peers"].get(peer.to_string()).is_some();
        let knows = |peer: &u64| {
            let identity = identity(self.cluster.machine(*peer).disk());
            let known =
                identity.and_then(|it| it["peer_starts"][id.to_string()]["number"].as_u64());
            known.is_some_and(|known| known > of_copy)
        };
        let mut others = self.others(id).into_iter();
        others.find(|peer| is_greeted(peer) && self.can_tell(id, *peer) && knows(peer))
    }

    fn can_tell(&self, id: u64, peer: u64) -> bool {
        self.is_healthy(peer)
            && self.is_linked(id, peer)
            && self.slow == 0
            && self.losing == 0
            && self.replacements_left > 0
    }

    /// A node that comes back as an older copy must learn so before it takes part, from a peer that can
    /// tell it. Where another fault takes that peer away first, nobody could have told, and the machine is
    /// switched off: the documentation names this as what is not seen.
    pub(super) fn watch_put_back(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for (id, peer) in self.put_back.clone() {
            let failed = matches!(self.cluster.machine(id).condition(), Condition::Failed(_));
            if failed {
                self.put_back.remove(&id);
            } else if !self.can_tell(id, peer) || self.cluster.wires().is_stalled(now_ms) {
                self.put_back.remove(&id);
                self.cluster.cut_power(sim, id);
                self.replace(sim, id);
            }
        }
    }
}
