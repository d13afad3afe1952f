//! How members and steps are shown.

use serde::Serialize;
use tally_client::{
    NodeInfo, Status,
    proto::{ClusterPlan, ClusterVoters},
};

use crate::output::{escaped, table};

/// The members, as the asked node sees them.
#[derive(Debug, Serialize)]
pub(super) struct Members<'a> {
    members: Vec<Member<'a>>,
    voters: Vec<u64>,
    learners: Vec<u64>,
    quorum: usize,
    tolerated_failures: usize,
    /// Voters that did not answer the asked node.
    unreachable: Vec<u64>,
    next_node_id: u64,
}

#[derive(Debug, Serialize)]
struct Member<'a> {
    id: u64,
    role: String,
    is_voter: bool,
    reachable: bool,
    address: &'a str,
    peer_address: &'a str,
    lag_entries: Option<u64>,
    drained: bool,
    note: &'a str,
}

impl Members<'_> {
    pub(super) fn of(status: &Status) -> Members<'_> {
        let members = status.nodes.iter().map(|node| Member {
            id: node.id,
            role: node.role.map_or_else(|| "unreachable".to_owned(), |role| role.to_string()),
            is_voter: node.is_voter,
            reachable: node.reachable,
            address: &node.address,
            peer_address: &node.peer_address,
            lag_entries: node.reachable.then_some(node.lag_entries),
            drained: node.drained,
            note: &node.note,
        });
        let ids = |keep: &dyn Fn(&NodeInfo) -> bool| -> Vec<u64> {
            status.nodes.iter().filter(|node| keep(node)).map(|node| node.id).collect()
        };
        let voters = ids(&|node| node.is_voter);
        let quorum = voters.len() / 2 + 1;
        Members {
            members: members.collect(),
            learners: ids(&|node| !node.is_voter),
            quorum,
            tolerated_failures: voters.len().saturating_sub(quorum),
            unreachable: ids(&|node| node.is_voter && !node.reachable),
            next_node_id: status.next_node_id,
            voters,
        }
    }

    pub(super) fn text(&self) -> String {
        let head = ["id", "role", "votes", "lag", "address", "peer address", "note"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.members.iter().map(|member| {
            vec![
                member.id.to_string(),
                member.role.clone(),
                match (member.is_voter, member.drained) {
                    (true, false) => "yes",
                    (true, true) => "yes, drained",
                    (false, _) => "no",
                }
                .to_owned(),
                member.lag_entries.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
                member.address.to_owned(),
                member.peer_address.to_owned(),
                member.note.to_owned(),
            ]
        }));
        let voters = self.voters.len();
        let mut text = table(&rows);
        text += &format!(
            "\n{voters} voters: {} have to agree, {} may fail",
            self.quorum, self.tolerated_failures
        );
        if !self.unreachable.is_empty() {
            text += &format!("; not reached now: {}", list(&self.unreachable));
        }
        if self.next_node_id > 0 {
            text += &format!("\nthe next free id is {}", self.next_node_id);
        }
        text
    }
}

/// Ids, as a person writes them.
pub(super) fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Voters, and what they are good for, on a line.
fn voters(what: &str, voters: Option<&ClusterVoters>) -> String {
    let Some(voters) = voters else { return String::new() };
    let mut text = format!(
        "  {what}  voters {}: {} have to agree, {} may fail",
        list(&voters.voters),
        voters.quorum,
        voters.tolerated_failures
    );
    if !voters.silent.is_empty() {
        let now = match voters.spare {
            spare if spare < 0 => "there is no quorum".to_owned(),
            spare => format!("{spare} more may fail now"),
        };
        text += &format!("; not heard of: {}, so {now}", list(&voters.silent));
    }
    if !voters.learners.is_empty() {
        text += &format!("; learners {}", list(&voters.learners));
    }
    text + "\n"
}

/// What a step does.
pub(super) fn plan(step: &str, plan: &ClusterPlan) -> String {
    if plan.is_so {
        return format!("{step}: it is so already");
    }
    let mut text = format!("{step}\n");
    text += &voters("before", plan.before.as_ref());
    text += &voters("after ", plan.after.as_ref());
    if !plan.note.is_empty() {
        text += &format!("  note    {}\n", escaped(&plan.note));
    }
    text.trim_end().to_owned()
}

/// The same for programs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StepShown {
    step: String,
    node_id: u64,
    is_so: bool,
    refusal: String,
    note: String,
    lag_entries: Option<u64>,
    before: Option<VotersShown>,
    after: Option<VotersShown>,
}

#[derive(Debug, Clone, Serialize)]
struct VotersShown {
    voters: Vec<u64>,
    learners: Vec<u64>,
    quorum: u32,
    tolerated_failures: u32,
    silent: Vec<u64>,
    spare: i32,
}

impl StepShown {
    pub(super) fn of(step: &str, plan: &ClusterPlan) -> Self {
        let voters = |voters: &ClusterVoters| VotersShown {
            voters: voters.voters.clone(),
            learners: voters.learners.clone(),
            quorum: voters.quorum,
            tolerated_failures: voters.tolerated_failures,
            silent: voters.silent.clone(),
            spare: voters.spare,
        };
        Self {
            step: step.to_owned(),
            node_id: plan.node_id,
            is_so: plan.is_so,
            refusal: plan.refusal.clone(),
            note: plan.note.clone(),
            lag_entries: plan.lag_entries,
            before: plan.before.as_ref().map(voters),
            after: plan.after.as_ref().map(voters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shown_with_what_may_fail_before_and_after() {
        let before = ClusterVoters {
            voters: vec![1, 2, 3],
            quorum: 2,
            tolerated_failures: 1,
            silent: vec![3],
            ..Default::default()
        };
        let after = ClusterVoters { voters: vec![1, 2], quorum: 2, ..Default::default() };
        let mut shown = ClusterPlan {
            before: Some(before),
            after: Some(after),
            note: "2 voters\ntolerate".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            plan("remove node 3", &shown),
            "remove node 3\n  before  voters 1, 2, 3: 2 have to agree, 1 may fail; not heard of: 3, so 0 more may fail \
             now\n  after   voters 1, 2: 2 have to agree, 0 may fail\n  note    2 voters\\ntolerate"
        );
        shown.is_so = true;
        assert_eq!(plan("remove node 3", &shown), "remove node 3: it is so already");
    }
}
