//! Members that come and go.
//!
//! - **Growing and shrinking**, one voter at a time, through even sizes. Voters are at least three, so
//!   that one damaged disk leaves a majority; a cluster of one may grow and does not shrink again.
//! - **Changes that stay open**: a break that waits until an entry with two sets of voters is appended,
//!   and an operator who is away for as long as it lasts.
//!
//! What becomes of nodes that were removed, of strangers and of a wiped majority has files of its own
//! (`removed`, `strangers`, `wiped`).

use std::collections::{BTreeMap, BTreeSet};

use turmoil::Sim;

use super::{Injector, Undo, set_up};
use crate::{
    cluster::host_of,
    faults::{
        links::Trouble,
        operator::Task,
        plan::{Break, Planned, Target},
    },
    trace_event,
};

/// Voters at most; at least see the module's text.
const VOTERS_MAX: usize = 6;
pub(super) const VOTERS_MIN: usize = 3;

/// Machines that are added to a cluster that grows, or as learners.
pub(super) const MACHINES_MAX: u64 = 5;

/// A break that waits for a change of the voters.
#[derive(Debug)]
pub(super) struct WaitsForJoint {
    broken: Break,
    later_ms: u64,
    for_ms: u64,
    /// When it is brought about, once that is known.
    at_ms: Option<u64>,
}

impl Injector {
    /// How often each situation has come about.
    pub(crate) fn happened(&self) -> &BTreeMap<&'static str, u64> {
        &self.happened
    }

    pub(super) fn happens(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// Ids of nodes that were taken out and left running, each with the simulated ms of its end as a
    /// member.
    pub(crate) fn taken_out(&self) -> &BTreeMap<u64, u64> {
        &self.taken_out_ms
    }

    /// What the operator was told that is not so: after each change that was confirmed, the voters were,
    /// by a committed entry, exactly those that were asked for.
    pub(crate) fn told_and_not_so(&self) -> Option<String> {
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

    pub(super) fn may_change_members(&self) -> Result<(), &'static str> {
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
            Task::TransferLeader if worked && self.links.has_cut() => {
                self.happens("leadership transferred while links are cut");
            }
            Task::TransferLeader | Task::AddLearner(_) => {}
            Task::TryPromotion { .. } if !worked => {}
            Task::Mistake(mistake) => {
                if worked {
                    self.failures.push(format!(
                        "a node of another cluster was added as a member: {mistake:?}"
                    ));
                }
            }
            Task::Promote(id) | Task::TryPromotion { learner: id, .. } => {
                self.learners.remove(&id);
                self.voters.insert(id);
                self.told.push(self.voters.clone());
            }
            Task::Remove(id) => {
                self.learners.remove(&id);
                if self.voters.remove(&id) {
                    self.told.push(self.voters.clone());
                }
                self.retire(sim, id, now_ms);
            }
            Task::Replace { old, new } => {
                if self.links.has_cut() {
                    self.happens("a voter replaced while links are cut");
                }
                trace_event!(&host_of(old), "is taken out; {} has its place", host_of(new));
                self.voters.insert(new);
                self.told.push(self.voters.clone());
                self.voters.remove(&old);
                self.told.push(self.voters.clone());
                self.retire(sim, old, now_ms);
            }
        }
    }
}

/// A change of the voters is open for long after this.
const JOINT_LONG_MS: u64 = 1_000;
