//! Members that come and go, and what must not become one.
//!
//! - **Growing and shrinking**, one voter at a time, through even sizes. Voters are at least three, so
//!   that one damaged disk leaves a majority; a cluster of one may grow and does not shrink again.
//! - **Changes that stay open**: a break that waits until an entry with two sets of voters is appended,
//!   and an operator who is away for as long as it lasts.
//! - **Removed nodes** go on running, some for ever; some are started again later. Clients know their
//!   addresses and go on asking. Whoever was a member and reaches one learns it and ends itself, for a
//!   person to look after, and does not start again.
//! - **Strangers**: two nodes of another cluster, one of them at the address of a member that is down.
//!   Each cluster has an address of the other one's in its books, so all calls of Raft cross.
//! - **A majority wiped**: the machines come back empty, with the members that a first start has, and
//!   must wait. What was on their disks is put back, and the cluster goes on, with nothing lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use tally_node::consensus::membership::decode_membership;
use turmoil::Sim;

use super::{Injector, RESTART_AFTER_MS, Undo, set_up};
use crate::{
    cluster::{
        CLIENT_PORT, Cluster, Condition, Machine, PEER_PORT, STRANGERS_CLIENT_PORT, host_of,
    },
    faults::{
        links::Trouble,
        operator::{Mistake, Task},
        plan::{Break, Planned, Target},
    },
    trace_event,
};

/// Voters at most; at least see the module's text.
const VOTERS_MAX: usize = 6;
const VOTERS_MIN: usize = 3;

/// Machines that are added to a cluster that grows, or as learners.
pub(super) const MACHINES_MAX: u64 = 5;

/// What a node says that was removed.
const REMOVED: &str = "was removed from its cluster";

/// A removed node that reaches a member which has applied that it is none any more learns it in this
/// time: it greets every second, a greeting on a connection that is dead takes a second, and the next
/// one makes a new connection.
const LEARNS_WITHIN_MS: u64 = 6_000;

/// The same of a stranger that answers at a member's address.
const TROUBLE_WITHIN_MS: u64 = 6_000;

/// A stranger stays for at least so long: two nodes form a cluster first.
const STRANGER_MS_MIN: u64 = 8_000;

/// Disks are gone for at least so long: enough for elections, had the wiped ones formed a cluster.
const WIPED_MS_MIN: u64 = 5_000;

/// Ids of strangers begin here, those of nodes elsewhere, and those at a member's address.
const ELSEWHERE_ID: u64 = 900;
const GUEST_ID: u64 = 950;

/// A node that was taken out, and whose machine is there.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Since when it could have learned it.
    could_learn_ms: Option<u64>,
    /// It has said that it knows.
    knows: bool,
    /// When its process is started anew.
    starts_again_ms: Option<u64>,
    /// How often the process had been started when it knew.
    boots: u64,
}

/// A break that waits for a change of the voters.
#[derive(Debug)]
pub(super) struct WaitsForJoint {
    broken: Break,
    later_ms: u64,
    for_ms: u64,
    /// When it is brought about, once that is known.
    at_ms: Option<u64>,
}

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

/// Machines whose disks are lost for a while.
pub(super) type Wiped = BTreeMap<u64, super::Copy>;

impl Injector {
    /// How often each situation has come about.
    pub fn happened(&self) -> &BTreeMap<&'static str, u64> {
        &self.happened
    }

    pub(super) fn happens(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// Ids of nodes that were taken out and left running, each with the simulated ms of its end as a
    /// member.
    pub fn taken_out(&self) -> &BTreeMap<u64, u64> {
        &self.taken_out_ms
    }

    /// What the operator was told that is not so: after each change that was confirmed, the voters were,
    /// by a committed entry, exactly those that were asked for.
    pub fn told_and_not_so(&self) -> Option<String> {
        let not_so = self.told.iter().find(|voters| !self.invariants.were_voters(voters));
        if let Some(voters) = not_so {
            return Some(format!(
                "the operator was told that the voters are {voters:?}, and no committed entry says so; \
                 the last one says {:?}",
                self.invariants.committed_voters()
            ));
        }
        let last = self.invariants.committed_voters();
        let expected = std::slice::from_ref(&self.voters);
        (self.told.last().is_some() && last != expected).then(|| {
            format!(
                "the operator was told that the voters are {:?}, and they are {last:?}",
                self.voters
            )
        })
    }

    fn may_change_members(&self) -> Result<(), &'static str> {
        if !self.damaged.is_empty() || !self.being_replaced.is_empty() || !self.wiped.is_empty() {
            return Err("a damaged node waits to be replaced");
        }
        Ok(())
    }

    fn new_machine(&mut self, sim: &mut Sim<'_>) -> Result<u64, &'static str> {
        if self.machines_left == 0 {
            return Err("there are no more machines");
        }
        self.machines_left -= 1;
        let new = self.next_id;
        self.next_id += 1;
        self.cluster.add(sim, new);
        set_up(&self.cluster, &self.knobs, &self.invariants, new);
        trace_event!(&host_of(new), "is a new machine");
        Ok(new)
    }

    pub(super) fn grow(&mut self, sim: &mut Sim<'_>) -> Result<(), &'static str> {
        self.may_change_members()?;
        if self.asked.len() >= VOTERS_MAX {
            return Err("there are voters enough");
        }
        let new = self.new_machine(sim)?;
        self.asked.insert(new);
        self.learners.insert(new);
        self.desk.ask(Task::AddLearner(new));
        self.desk.ask(Task::Promote(new));
        Ok(())
    }

    pub(super) fn shrink(
        &mut self,
        sim: &mut Sim<'_>,
        target: Target,
        apart_ms: u64,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        self.may_change_members()?;
        let id = self.resolve(target)?;
        if self.asked.len() <= VOTERS_MIN || self.replacements_left == 0 {
            return Err("the voters are few");
        }
        if !self.asked.contains(&id) || !self.voters.contains(&id) {
            return Err("it is no voter, or leaves already");
        }
        if apart_ms > 0 {
            let taken = self.between(&[id], &self.others(id), Trouble::Cut);
            self.cut(sim, taken, now_ms + apart_ms)?;
        }
        self.replacements_left -= 1;
        self.asked.remove(&id);
        self.leaving.insert(id);
        self.desk.ask(Task::Remove(id));
        Ok(())
    }

    pub(super) fn add_learner(
        &mut self,
        sim: &mut Sim<'_>,
        until_ms: u64,
        promoted: bool,
    ) -> Result<(), &'static str> {
        self.may_change_members()?;
        let new = self.new_machine(sim)?;
        self.learners.insert(new);
        self.desk.ask(Task::AddLearner(new));
        self.undo.push((until_ms, Undo::Settle(new, promoted)));
        Ok(())
    }

    /// A learner becomes a voter, or goes.
    pub(super) fn settle(&mut self, id: u64, promoted: bool) {
        if promoted && self.asked.len() < VOTERS_MAX {
            self.asked.insert(id);
            self.desk.ask(Task::Promote(id));
        } else {
            self.leaving.insert(id);
            self.desk.ask(Task::Remove(id));
        }
        self.happens("a learner that stayed one for long");
    }

    pub(super) fn split_with_learners(
        &mut self,
        sim: &mut Sim<'_>,
        until_ms: u64,
    ) -> Result<(), &'static str> {
        let leader = self.resolve_running(Target::Leader)?;
        let is_up = |id: &u64| self.learners.contains(id) && self.is_up(*id);
        let (mut one, other): (Vec<u64>, Vec<u64>) =
            self.others(leader).into_iter().partition(is_up);
        if one.is_empty() {
            return Err("there is no learner");
        }
        one.push(leader);
        self.cut(sim, self.between(&one, &other, Trouble::Cut), until_ms)?;
        self.happens("a leader alone with learners");
        Ok(())
    }

    pub(super) fn wait_for_joint(&mut self, broken: Break, later_ms: u64, for_ms: u64) {
        self.joint_breaks.push(WaitsForJoint { broken, later_ms, for_ms, at_ms: None });
    }

    /// Brings about what waited until voters change.
    pub(super) fn watch_changes(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let joints = self.invariants.joints();
        let begins = joints > self.joints_seen;
        self.joints_seen = joints;
        for waiting in &mut self.joint_breaks {
            if begins && waiting.at_ms.is_none() {
                waiting.at_ms = Some(now_ms + waiting.later_ms);
            }
        }
        let due: Vec<WaitsForJoint> = self
            .joint_breaks
            .extract_if(.., |waiting| waiting.at_ms.is_some_and(|at_ms| at_ms <= now_ms))
            .collect();
        for WaitsForJoint { broken, for_ms, .. } in due {
            let planned = Planned { number: 0, at_ms: now_ms, for_ms, fault: broken.fault() };
            let installed = self.install(sim, &planned, now_ms);
            trace_event!("fault", "while voters change: {broken:?} for {for_ms} ms: {installed:?}");
            if installed.is_ok() {
                self.desk.be_away(now_ms + for_ms);
                self.happens("a change of voters interrupted");
            }
        }
        let voters = self.invariants.committed_voters();
        let is_joint = voters.len() > 1;
        if !is_joint {
            self.joint_since_ms = None;
        } else if now_ms - *self.joint_since_ms.get_or_insert(now_ms) == JOINT_LONG_MS {
            self.happens("a change of voters open for a second");
        }
        let size = voters.last().map_or(0, BTreeSet::len);
        if !is_joint && size != self.size_seen {
            if self.size_seen > 0 {
                match (size, size > self.size_seen) {
                    (4, true) => self.happens("grown to four voters"),
                    (5, true) => self.happens("grown to five voters"),
                    (6, true) => self.happens("grown to six voters"),
                    (4, false) => self.happens("shrunk to four voters"),
                    (3, false) => self.happens("shrunk to three voters"),
                    _ => {}
                }
            }
            self.size_seen = size;
        }
    }

    /// What the operator has done.
    pub(super) fn changed(&mut self, sim: &mut Sim<'_>, task: Task, worked: bool, now_ms: u64) {
        match task {
            Task::TransferLeader | Task::AddLearner(_) => {}
            Task::TryRemoval { .. } if !worked => {}
            Task::Mistake(mistake) => {
                if worked {
                    self.failures.push(format!(
                        "a node of another cluster was added as a member: {mistake:?}"
                    ));
                }
            }
            Task::Promote(id) => {
                self.learners.remove(&id);
                self.voters.insert(id);
                self.told.push(self.voters.clone());
            }
            Task::Remove(id) | Task::TryRemoval { old: id, .. } => {
                self.learners.remove(&id);
                if self.voters.remove(&id) {
                    self.told.push(self.voters.clone());
                }
                self.retire(sim, id, now_ms);
            }
            Task::Replace { old, new } => {
                trace_event!(&host_of(old), "is taken out; {} has its place", host_of(new));
                self.voters.insert(new);
                self.told.push(self.voters.clone());
                self.voters.remove(&old);
                self.told.push(self.voters.clone());
                self.retire(sim, old, now_ms);
            }
        }
    }

    /// A member is none any more. A process that runs goes on.
    fn retire(&mut self, sim: &mut Sim<'_>, id: u64, now_ms: u64) {
        self.leaving.remove(&id);
        self.being_replaced.remove(&id);
        self.restart_at.remove(&id);
        self.retired.push(id);
        if self.damaged.remove(&id).is_some() {
            if self.cluster.machine(id).condition() != Condition::Down {
                self.cluster.kill(sim, id);
            }
            return;
        }
        trace_event!(&host_of(id), "is no member any more");
        self.taken_out_ms.insert(id, now_ms);
        let starts_again_ms = match id % 3 {
            0 => None,
            1 => Some(now_ms + 3_000),
            _ => Some(now_ms + 9_000),
        };
        self.removed.insert(id, Removed { starts_again_ms, ..Removed::default() });
        if self.is_up(id) {
            self.happens("a removed node left running");
        }
    }

    /// Whether the process of a member may end for this reason: it leaves, and learned of it.
    pub(super) fn learns_that_it_leaves(&self, id: u64, reason: &str) -> bool {
        self.leaving.contains(&id) && reason.contains(REMOVED)
    }

    /// Removed nodes learn that they are, and serve nothing then.
    pub(super) fn watch_removed(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for (id, mut removed) in std::mem::take(&mut self.removed) {
            let machine = self.cluster.machine(id);
            if machine.disk().is_dead() && !machine.life().is_over() {
                self.cluster.cut_power(sim, id);
            }
            match machine.condition() {
                Condition::Failed(reason) if reason.contains(REMOVED) => {
                    if removed.boots != machine.boots() {
                        trace_event!(&host_of(id), "ended itself: {reason}");
                        let again = removed.knows;
                        self.happens(match again {
                            false => "a removed node that ended itself",
                            true => "a removed node that does not start again",
                        });
                        if !machine.needs_a_person() {
                            self.failures.push(format!(
                                "node {id} was removed, and asks to be started again: {reason}"
                            ));
                        }
                    }
                    (removed.knows, removed.boots) = (true, machine.boots());
                    removed.could_learn_ms = None;
                }
                Condition::Running if removed.knows && removed.boots != machine.boots() => {
                    self.failures
                        .push(format!("node {id} was removed, knew it, and serves all the same"));
                }
                Condition::Running | Condition::Starting => {
                    let by = self.who_tells(id).filter(|_| self.is_network_calm(now_ms));
                    let since = by.map(|_| removed.could_learn_ms.unwrap_or(now_ms));
                    removed.could_learn_ms = since;
                    if let (Some(by), Some(since)) = (by, since)
                        && now_ms - since > LEARNS_WITHIN_MS
                    {
                        self.failures.push(format!(
                            "node {id} was removed, reaches node {by} that knows, and runs on for {} ms",
                            now_ms - since
                        ));
                    }
                }
                Condition::Failed(_) | Condition::Stopped | Condition::Down => {
                    removed.could_learn_ms = None;
                }
            }
            if removed.starts_again_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                removed.starts_again_ms = None;
                removed.could_learn_ms = None;
                trace_event!(&host_of(id), "is started again, though it was removed");
                self.cluster.restart(sim, id);
            }
            self.removed.insert(id, removed);
        }
    }

    /// A member that a removed node reaches, knows, and that has applied the removal. None too where the
    /// removed node itself has not applied that it was ever a member: it waits to be added, for ever.
    fn who_tells(&self, id: u64) -> Option<u64> {
        if !self.is_well(id) || !applied_members(&self.cluster, id)?.contains(&id) {
            return None;
        }
        let known = self.cluster.consensus(id)?.members().1;
        let tells = |peer: &u64| {
            known.iter().any(|(known, _)| known == peer)
                && self.is_healthy(*peer)
                && self.is_linked(id, *peer)
                && applied_members(&self.cluster, *peer).is_some_and(|all| !all.contains(&id))
        };
        self.members().into_iter().find(tells)
    }

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
        let elsewhere = self.cluster.stranger(sim, &elsewhere_host, elsewhere_id, first.clone());
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

/// A change of the voters is open for long after this.
const JOINT_LONG_MS: u64 = 1_000;

impl Strangers {
    /// Whether one still has the address of a member.
    fn is_in(&self, cluster: &Cluster) -> bool {
        let guest = cluster.machine(self.at).guest();
        guest.is_some_and(|guest| Rc::ptr_eq(&guest, &self.guest))
    }
}

/// The members as of what a node has applied.
fn applied_members(cluster: &Cluster, id: u64) -> Option<BTreeSet<u64>> {
    let membership = cluster.consensus(id)?.state().membership();
    let members = decode_membership(&membership.encoded).ok()?;
    Some(members.nodes().map(|(id, _)| *id).collect())
}
