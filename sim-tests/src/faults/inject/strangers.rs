//! Strangers: two nodes of another cluster, one of them at the address of a member that is down.
//!
//! Each cluster has an address of the other one's in its books, so all calls of Raft cross. Members show
//! that somebody else answers there; no node ends itself, and none becomes a member of the other cluster.

use std::{collections::BTreeMap, rc::Rc};

use turmoil::Sim;

use super::{Injector, Undo, members::VOTERS_MIN};
use crate::{
    cluster::{
        CLIENT_PORT, Cluster, Condition, Machine, PEER_PORT, STRANGERS_CLIENT_PORT, host_of,
    },
    faults::{
        operator::{Mistake, Task},
        plan::Target,
    },
    trace_event,
};

/// The same of a stranger that answers at a member's address.
const TROUBLE_WITHIN_MS: u64 = 6_000;

/// A stranger stays for at least so long: two nodes form a cluster first.
const STRANGER_MS_MIN: u64 = 8_000;

/// Ids of strangers begin here, those of nodes elsewhere, and those at a member's address.
const ELSEWHERE_ID: u64 = 900;

const GUEST_ID: u64 = 950;

/// Two nodes of another cluster.
pub(super) struct Strangers {
    /// The member whose address one of them has.
    at: u64,
    guest: Rc<Machine>,
    elsewhere: Rc<Machine>,
    elsewhere_id: u64,
    elsewhere_host: String,
    mistakes_asked: bool,
    trouble_shown: bool,
    /// Since when each member could show that its address leads elsewhere.
    could_show_ms: BTreeMap<u64, u64>,
}

impl Injector {
    pub(super) fn let_stranger_in(
        &mut self,
        sim: &mut Sim<'_>,
        target: Target,
        under_its_id: bool,
        until_ms: u64,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        self.may_change_members()?;
        let at = self.resolve_running(target)?;
        if self.voters.len() < VOTERS_MIN
            || !self.voters.contains(&at)
            || self.leaving.contains(&at)
        {
            return Err("too few are left, or it is no voter");
        }
        if self.strangers.iter().any(|strangers| strangers.is_in(&self.cluster)) {
            return Err("there is a stranger already");
        }
        let number = self.strangers.len() as u64;
        let elsewhere_id = ELSEWHERE_ID + number;
        let elsewhere_host = format!("elsewhere-{number}");
        let id = if under_its_id { at } else { GUEST_ID + number };
        let first = BTreeMap::from([
            (elsewhere_id, format!("{elsewhere_host}:{PEER_PORT}")),
            (id, format!("{}:{PEER_PORT}", host_of(at))),
        ]);
        self.cluster.kill(sim, at);
        let elsewhere =
            self.cluster.stranger(sim, &elsewhere_host, elsewhere_id, first.clone(), |_| {});
        let guest = self.cluster.let_in(sim, at, id, first);
        trace_event!(&host_of(at), "is down; node {id} of another cluster has its address");
        self.strangers.push(Strangers {
            at,
            guest,
            elsewhere,
            elsewhere_id,
            elsewhere_host,
            mistakes_asked: false,
            trouble_shown: false,
            could_show_ms: BTreeMap::new(),
        });
        self.undo.push((until_ms.max(now_ms + STRANGER_MS_MIN), Undo::Restart(at)));
        Ok(())
    }

    /// Two clusters meet, and stay two.
    pub(super) fn watch_strangers(&mut self, now_ms: u64) {
        for mut strangers in std::mem::take(&mut self.strangers) {
            self.watch_pair(&mut strangers, now_ms);
            self.strangers.push(strangers);
        }
    }

    fn watch_pair(&mut self, strangers: &mut Strangers, now_ms: u64) {
        for machine in [&strangers.guest, &strangers.elsewhere] {
            if let Condition::Failed(reason) = machine.condition() {
                self.failures.push(format!("a node of another cluster ended itself: {reason}"));
            }
        }
        let cluster_of = |machine: &Machine| machine.consensus()?.cluster_id().get();
        let Some(theirs) = cluster_of(&strangers.elsewhere) else { return };
        let members: Vec<u64> = self.members();
        for id in &members {
            if cluster_of(&self.cluster.machine(*id)) == Some(theirs) {
                self.failures.push(format!("node {id} is of another cluster now"));
            }
        }
        if !strangers.is_in(&self.cluster) {
            return;
        }
        if !strangers.mistakes_asked {
            strangers.mistakes_asked = true;
            self.happens("a cluster formed at a member's address");
            self.make_mistakes(strangers);
        }
        let is_calm = self.is_network_calm(now_ms);
        for id in members.into_iter().filter(|id| *id != strangers.at) {
            let could = is_calm && self.is_healthy(id) && self.is_linked(id, strangers.at);
            let consensus = self.cluster.consensus(id).filter(|consensus| {
                could && consensus.is_member(strangers.at) && consensus.is_member(id)
            });
            if consensus.is_none() {
                strangers.could_show_ms.remove(&id);
                continue;
            }
            let peers = self.cluster.machine(id).peers();
            if let Some(trouble) = peers.and_then(|peers| peers.trouble(strangers.at)) {
                if trouble.contains("of cluster") && !strangers.trouble_shown {
                    strangers.trouble_shown = true;
                    self.happens("a stranger's address shown as trouble");
                }
                strangers.could_show_ms.remove(&id);
                continue;
            }
            let since = *strangers.could_show_ms.entry(id).or_insert(now_ms);
            if now_ms - since > TROUBLE_WITHIN_MS {
                self.failures.push(format!(
                    "a node of another cluster has the address of node {}, and node {id}, which reaches \
                     it, has not shown it for {} ms",
                    strangers.at,
                    now_ms - since
                ));
            }
        }
    }

    /// A node of each cluster is given to the other one as a learner.
    fn make_mistakes(&mut self, strangers: &Strangers) {
        let address = |id: u64, port: u16| format!("{}:{port}", host_of(id));
        let members = self.members().into_iter().filter(|id| self.is_up(*id)).collect::<Vec<_>>();
        self.desk.ask(Task::Mistake(Mistake {
            asked: members.iter().map(|id| address(*id, CLIENT_PORT)).collect(),
            node_id: strangers.elsewhere_id,
            peer_address: format!("{}:{PEER_PORT}", strangers.elsewhere_host),
        }));
        if let Some(given) = members.iter().find(|id| **id != strangers.at) {
            self.desk.ask(Task::Mistake(Mistake {
                asked: vec![
                    format!("{}:{CLIENT_PORT}", strangers.elsewhere_host),
                    address(strangers.at, STRANGERS_CLIENT_PORT),
                ],
                node_id: *given,
                peer_address: address(*given, PEER_PORT),
            }));
        }
    }
}

impl Strangers {
    /// Whether one still has the address of a member.
    fn is_in(&self, cluster: &Cluster) -> bool {
        let guest = cluster.machine(self.at).guest();
        guest.is_some_and(|guest| Rc::ptr_eq(&guest, &self.guest))
    }
}
