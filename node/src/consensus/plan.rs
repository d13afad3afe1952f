//! What a step of the membership would do: how many voters there would be, how many of them may fail, and why it is
//! better not done.
//!
//! Nothing is changed here. What is looked at is what this leader knows now; the step itself looks again.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{Consensus, applied::Applied};
use crate::machine::given_ids::{next_node_id, node_id_record};

/// A learner that has more to apply is not made a voter yet: as one, it would be counted for majorities that it can't
/// help to reach, or lead and answer nobody.
pub(super) const PROMOTION_LAG_MAX: u64 = 1000;

/// … where the log is that long: of a shorter one it may have a tenth more to apply. A young or restored cluster may have
/// all of its data in a few hundred entries.
const PROMOTION_LAG_SHARE: u64 = 10;

/// A tenth of nearly nothing is less than what comes while it is asked.
const PROMOTION_LAG_MIN: u64 = 64;

/// Entries that a learner may have to apply when it is made a voter.
fn promotion_lag_max(commit_index: u64) -> u64 {
    (commit_index / PROMOTION_LAG_SHARE).clamp(PROMOTION_LAG_MIN, PROMOTION_LAG_MAX)
}

/// How often it is looked whether everybody was heard: far more often than an election timeout.
const LISTENS_AGAIN: Duration = Duration::from_millis(10);

/// A set of voters, and whom of them the leader hears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Members without a vote.
    pub learners: BTreeSet<u64>,
    /// Voters that have not been heard of lately.
    pub silent: BTreeSet<u64>,
}

impl Voters {
    /// So many have to agree.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// So many may fail, if all others are well.
    pub fn tolerated_failures(&self) -> usize {
        self.voters.len().saturating_sub(self.quorum())
    }

    /// So many more may fail now; below 0, so many are missing.
    pub fn spare(&self) -> i64 {
        let heard = self.voters.len().saturating_sub(self.silent.len());
        heard as i64 - self.quorum() as i64
    }
}

/// A step that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Add a node without a vote.
    AddLearner {
        /// Its id.
        node_id: u64,
        /// Address of its peer port.
        peer_address: String,
        /// Its data directory, if it was asked.
        incarnation: String,
    },
    /// Give a learner a vote.
    Promote {
        /// Who.
        node_id: u64,
        /// Also if fewer voters may fail then.
        accept_fewer_failures: bool,
    },
    /// Take a member out.
    Remove {
        /// Who.
        node_id: u64,
        /// Also if fewer voters may fail then.
        accept_fewer_failures: bool,
    },
    /// Let another voter lead.
    TransferLeader {
        /// Who; nobody in particular.
        to: Option<u64>,
    },
    /// Keep a voter from leading, or let it again.
    Drain {
        /// Who.
        node_id: u64,
        /// It may again.
        undo: bool,
    },
}

/// What a step would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Before it.
    pub before: Voters,
    /// After it.
    pub after: Voters,
    /// Whom it is about.
    pub node_id: u64,
    /// It is so already.
    pub is_so: bool,
    /// Why it would be refused.
    pub refusal: Option<String>,
    /// That passes by itself.
    pub passes: bool,
    /// What an operator should know before.
    pub note: Option<String>,
    /// Entries that the member has not applied of what is committed.
    pub lag_entries: Option<u64>,
    /// The next id that nobody has had.
    pub next_node_id: u64,
}

/// Refuses voters of whom no majority is heard, as the change could never be committed, or nothing after it; and
/// fewer that may fail, unless that was said.
fn judge(before: &Voters, after: &Voters, accepted: bool, silent_ms: u128) -> Option<String> {
    let Voters { voters, silent, .. } = after;
    if after.spare() < 0 {
        return Some(format!(
            "it would leave no quorum: of the voters {voters:?} it would have, {silent:?} have not been heard of for \
             {silent_ms} ms. Start them again, or remove them first (`tally cluster remove`)"
        ));
    }
    if !accepted && after.spare() < before.spare() {
        return Some(format!(
            "it would leave the voters {voters:?}, of whom {} may fail now before writes stop; as it is, {} may. Add a \
             voter first (`tally cluster add`), or replace one (`tally cluster replace`); \
             `--accept-fewer-failures` does it all the same",
            after.spare(),
            before.spare()
        ));
    }
    None
}

impl Consensus {
    /// The voters as they are, an open change counted as done.
    pub(super) fn voters_now(&self) -> Voters {
        let metrics = self.leadership().metrics();
        let membership = metrics.membership_config.membership();
        let voters = membership.get_joint_config().last().cloned().unwrap_or_default();
        let learners = membership.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id));
        let learners = learners.collect();
        let silent = self.leadership().silent(&voters, self.no_quorum_after());
        Voters { voters, learners, silent }
    }

    /// Waits until this leader has heard of every voter once, or as long as one that is there may take to be heard: a
    /// leader that was elected just now has heard of none, and would count those that are well as silent.
    pub async fn has_listened(&self) {
        let until = Instant::now() + self.no_quorum_after() / 2;
        let never_heard = || {
            let (voters, _) = self.members();
            self.leadership().silent(&voters, Duration::MAX)
        };
        while self.must_lead().is_ok() && !never_heard().is_empty() && Instant::now() < until {
            tokio::time::sleep(LISTENS_AGAIN).await;
        }
    }

    /// Ids that are, or were, in use as far as this node knows without looking at the state.
    pub fn used_ids(&self, met: &[u64]) -> Vec<u64> {
        let (_, members) = self.members();
        let used: BTreeSet<u64> =
            members.iter().map(|(id, _)| *id).chain(met.iter().copied()).collect();
        used.into_iter().collect()
    }

    /// The next id for a new node; 0 if there is none.
    pub fn next_node_id(&self, met: &[u64]) -> u64 {
        next_node_id(&self.state().view(), self.used_ids(met))
    }

    /// Asks those nodes that a step is judged by what they have applied.
    async fn applied_for(&self, step: &Step) -> Applied {
        match step {
            Step::Promote { node_id, .. } | Step::TransferLeader { to: Some(node_id) } => {
                self.ask_applied(BTreeSet::from([*node_id])).await
            }
            Step::TransferLeader { to: None } => self.successors_applied().await,
            Step::AddLearner { .. } | Step::Remove { .. } | Step::Drain { .. } => {
                Applied::default()
            }
        }
    }

    /// What a step would do, by what this leader knows and those say that it is about.
    pub async fn plan(&self, step: &Step, met: &[u64]) -> Plan {
        let applied = self.applied_for(step).await;
        let before = self.voters_now();
        let next_node_id = self.next_node_id(met);
        let plan = Plan { after: before.clone(), before, next_node_id, ..Plan::default() };
        match step {
            Step::AddLearner { node_id, peer_address, incarnation } => {
                self.plan_learner(plan, *node_id, peer_address, incarnation)
            }
            Step::Promote { node_id, accept_fewer_failures } => {
                self.plan_promotion(plan, *node_id, *accept_fewer_failures, &applied)
            }
            Step::Remove { node_id, accept_fewer_failures } => {
                self.plan_removal(plan, *node_id, *accept_fewer_failures, met)
            }
            Step::TransferLeader { to } => self.plan_transfer(plan, *to, &applied),
            Step::Drain { node_id, undo } => self.plan_drain(plan, *node_id, *undo),
        }
    }

    fn plan_learner(&self, plan: Plan, node_id: u64, address: &str, incarnation: &str) -> Plan {
        let mut plan = Plan { node_id, ..plan };
        let (_, members) = self.members();
        if let Some((_, member)) = members.iter().find(|(id, _)| *id == node_id) {
            plan.is_so = member.peer_address == address;
            if !plan.is_so {
                plan.refusal = Some(format!(
                    "node {node_id} is a member at {}; an id is never used again. The next free one is {}",
                    member.peer_address, plan.next_node_id
                ));
            }
            return plan;
        }
        plan.after.learners.insert(node_id);
        let record = node_id_record(&self.state().view(), node_id);
        if record.is_some_and(|record| record.retired || record.incarnation != incarnation) {
            plan.refusal = Some(used_id(node_id, plan.next_node_id));
        }
        plan
    }

    fn plan_promotion(&self, plan: Plan, node_id: u64, accepted: bool, applied: &Applied) -> Plan {
        let mut plan = Plan { node_id, ..plan };
        plan.lag_entries = self.lag_of(node_id, applied);
        if plan.before.voters.contains(&node_id) {
            plan.is_so = true;
            return plan;
        }
        if !plan.before.learners.contains(&node_id) {
            plan.refusal = Some(format!(
                "node {node_id} is not a learner: add it first (`tally cluster add {node_id} ADDRESS`)"
            ));
            return plan;
        }
        plan.after.learners.remove(&node_id);
        plan.after.voters.insert(node_id);
        let silent_ms = self.no_quorum_after().as_millis();
        let is_silent = !self
            .leadership()
            .silent(&BTreeSet::from([node_id]), self.no_quorum_after())
            .is_empty();
        let lag_max = promotion_lag_max(self.leadership().commit_index());
        let lacks_log = self.leadership().lacks_log(node_id);
        plan.refusal = match plan.lag_entries {
            _ if is_silent => Some(format!(
                "node {node_id} has not been heard of for {silent_ms} ms; as a voter it would be counted for \
                 majorities that it can't help to reach. Look at that node: is it running, and reached at its address?"
            )),
            None => Some(format!(
                "node {node_id} does not say how much of the log it has applied. Wait, and promote it when it does"
            )),
            Some(_) if lacks_log => Some(format!(
                "node {node_id} has acknowledged nothing of the log yet, or less than a snapshot has that it must be sent \
                 first: as a voter it would be counted for majorities that it can't help to reach. Wait, and promote it \
                 then; if it stays so, that node's status and log, and this leader's, say why"
            )),
            Some(behind) if behind > lag_max => Some(format!(
                "node {node_id} is {behind} entries behind in what it has applied; it may be {lag_max} at most. \
                 Wait, and promote it then"
            )),
            Some(_) => judge(&plan.before, &plan.after, accepted, silent_ms),
        };
        let is_near = !lacks_log && plan.lag_entries.is_some_and(|behind| behind <= lag_max);
        plan.passes = plan.refusal.is_some() && (is_silent || !is_near);
        plan.note = even(&plan.after);
        plan
    }

    fn plan_removal(&self, plan: Plan, node_id: u64, accepted: bool, met: &[u64]) -> Plan {
        let mut plan = Plan { node_id, ..plan };
        let is_voter = plan.after.voters.remove(&node_id);
        plan.after.silent.remove(&node_id);
        if !plan.after.learners.remove(&node_id) && !is_voter {
            let was =
                node_id_record(&self.state().view(), node_id).is_some() || met.contains(&node_id);
            plan.is_so = was;
            if !was {
                plan.refusal = Some(format!("node {node_id} is no member, and never was one"));
            }
            return plan;
        }
        if is_voter && plan.after.voters.is_empty() {
            plan.refusal = Some(format!(
                "node {node_id} is the only voter: nothing would be left. To move the cluster to another machine, \
                 replace it (`tally cluster replace {node_id} ADDRESS`)"
            ));
        } else if is_voter {
            let silent_ms = self.no_quorum_after().as_millis();
            plan.refusal = judge(&plan.before, &plan.after, accepted, silent_ms);
            plan.note = even(&plan.after);
        }
        plan
    }

    fn plan_transfer(&self, plan: Plan, to: Option<u64>, applied: &Applied) -> Plan {
        let mut plan = plan;
        match to.or_else(|| self.furthest_voter(applied)) {
            None => plan.refusal = Some("there is no other voter that may lead".to_owned()),
            Some(to) => {
                plan.node_id = to;
                plan.is_so = to == self.node_id();
                plan.lag_entries = self.lag_of(to, applied);
                if !plan.before.voters.contains(&to) {
                    plan.refusal = Some(format!(
                        "node {to} is not a voter: the voters are {:?}",
                        plan.before.voters
                    ));
                } else if self.drained().contains(&to) {
                    plan.refusal = Some(format!(
                        "node {to} is drained, which means that it is not to lead: end that first (`tally cluster drain \
                         {to} --undo`), or name another voter"
                    ));
                } else if plan.before.silent.contains(&to) {
                    plan.refusal = Some(format!(
                        "node {to} has not been heard of for {} ms: nobody would lead until others have elected another. \
                         Look at that node, or name another voter",
                        self.no_quorum_after().as_millis()
                    ));
                } else if let Some(behind) = plan.lag_entries.filter(|it| *it > PROMOTION_LAG_MAX) {
                    plan.note = Some(format!(
                        "node {to} is {behind} entries behind in what it has applied: it answers nobody until it has \
                         worked them off"
                    ));
                }
            }
        }
        plan
    }

    /// Whoever is left to lead has to be there: a cluster in which nobody stands has no leader.
    fn plan_drain(&self, plan: Plan, node_id: u64, undo: bool) -> Plan {
        let mut plan = Plan { node_id, ..plan };
        let Voters { voters, silent, .. } = &plan.before;
        if !voters.contains(&node_id) {
            plan.refusal = Some(format!(
                "node {node_id} is not a voter, so it never leads: the voters are {voters:?}"
            ));
            return plan;
        }
        // A removal writes that first. The record of one that is retired is never one of a drained node, so a drain would
        // be answered with "done" and nothing else.
        let record = node_id_record(&self.state().view(), node_id);
        if !undo && record.is_some_and(|record| record.retired) {
            plan.refusal = Some(format!(
                "node {node_id} is about to be taken out, or its removal stopped half-way: its id is retired, and it can't \
                 be drained any more. Give its removal again (`tally cluster remove {node_id}`)"
            ));
            return plan;
        }
        let (drained, leads) = (self.drained(), node_id == self.node_id());
        plan.is_so = drained.contains(&node_id) != undo && (undo || !leads);
        if plan.is_so || undo {
            return plan;
        }
        let may_lead = |id: &&u64| **id != node_id && !silent.contains(id) && !drained.contains(id);
        if !voters.iter().any(|id| may_lead(&id)) {
            plan.refusal = Some(format!(
                "nobody would be left to lead: of the voters {voters:?}, {silent:?} have not been heard of for {} ms, \
                 and {drained:?} are drained. Start one of them again, or let one lead again (`tally cluster drain \
                 NODE_ID --undo`)",
                self.no_quorum_after().as_millis()
            ));
        } else if leads {
            plan.note = Some(format!("node {node_id} leads, and hands leadership over"));
        }
        plan
    }
}

/// What is said of an id that somebody has, or had.
pub(super) fn used_id(node_id: u64, next_id: u64) -> String {
    format!(
        "node {node_id} is, or was, another data directory: an id is never used again, not with an emptied directory \
         either. Start the node with an empty directory under the next free id, {next_id}"
    )
}

fn even(after: &Voters) -> Option<String> {
    let count = after.voters.len();
    (count > 0 && count.is_multiple_of(2)).then(|| {
        format!(
            "{count} voters tolerate no more failures than {}: add one more, or remove one",
            count - 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(voters: &[u64], silent: &[u64]) -> Voters {
        Voters {
            voters: voters.iter().copied().collect(),
            silent: silent.iter().copied().collect(),
            ..Voters::default()
        }
    }

    #[test]
    fn how_many_may_fail() {
        for (count, quorum, tolerated) in [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2)] {
            let ids: Vec<u64> = (1..=count).collect();
            let all = voters(&ids, &[]);
            assert_eq!((all.quorum(), all.tolerated_failures()), (quorum, tolerated), "{count}");
            assert_eq!(all.spare(), tolerated as i64);
        }
        assert_eq!(voters(&[1, 2, 3], &[3]).spare(), 0);
        assert_eq!(voters(&[1, 2, 3], &[2, 3]).spare(), -1);
    }

    #[test]
    fn a_step_that_costs_the_quorum_or_a_failure_is_refused() {
        let refused = |before: &Voters, after: &Voters, accepted| judge(before, after, accepted, 1);
        let three = voters(&[1, 2, 3], &[]);
        let fewer = refused(&three, &voters(&[1, 2], &[]), false).expect("one fewer may fail");
        assert!(fewer.contains("0 may fail now") && fewer.contains("1 may."), "{fewer}");
        assert_eq!(refused(&three, &voters(&[1, 2], &[]), true), None, "it was said");
        let one_down = voters(&[1, 2, 3], &[3]);
        assert_eq!(refused(&one_down, &voters(&[1, 2], &[]), false), None, "it could not help");
        let lost = refused(&one_down, &voters(&[1, 3], &[3]), true).expect("no flag for that");
        assert!(lost.contains("would leave no quorum") && lost.contains("{3}"), "{lost}");
        assert_eq!(refused(&three, &voters(&[1, 2, 3, 4], &[]), false), None);
        assert!(even(&voters(&[1, 2, 3, 4], &[])).is_some() && even(&three).is_none());
        assert_eq!(refused(&voters(&[1], &[]), &voters(&[1, 2], &[]), false), None);
    }

    /// With less than a thousand entries in all, a node that held nothing was made a voter, and the old one removed.
    #[test]
    fn a_short_log_allows_little_to_be_missing() {
        let allowed = [0, 52, 640, 2_000, 10_000, 1 << 40].map(promotion_lag_max);
        assert_eq!(allowed, [64, 64, 64, 200, 1_000, 1_000]);
    }
}
