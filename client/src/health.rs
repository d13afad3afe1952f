//! What the states of all nodes say together: whether writes are answered, and what may still fail.

use serde::Serialize;

use crate::{
    cluster::{NodeInfo, Status},
    words::Role,
};

/// How a cluster is, in one word.
///
/// ```
/// assert_ne!(tally_client::Verdict::Healthy, tally_client::Verdict::NoQuorum);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Verdict {
    /// Every node answers, and a majority follows one leader.
    Healthy,
    /// Writes are answered, or refused for one reason alone, and something wants to be looked at.
    Degraded,
    /// A majority answers and follows no leader: an election is under way, or the voters do not reach each
    /// other.
    NoLeader,
    /// No majority of the voters answers: writes and linearizable reads are refused.
    NoQuorum,
}

/// How a cluster is, as the node that was asked sees it.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let health = client.status().await?.health();
/// if health.verdict != tally_client::Verdict::Healthy {
///     eprintln!("{}", health.summary);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// In one word.
    pub verdict: Verdict,
    /// In one sentence.
    pub summary: String,
    /// Members with a vote.
    pub voters: usize,
    /// Those of them that answer and take part.
    pub voters_answering: usize,
    /// So many of those may fail, and writes are still answered.
    pub failures_tolerated: usize,
    /// Members that do not answer.
    pub unreachable: Vec<u64>,
    /// Who leads, if a majority says so.
    pub leader: Option<u64>,
}

impl Status {
    /// What the states of all nodes say together. (Of a status that was asked for with
    /// [`local_only`](crate::call::Read::local_only) it knows one node alone, and is no verdict.)
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// println!("{}", client.status().await?.health().summary);
    /// # Ok(()) }
    /// ```
    pub fn health(&self) -> Health {
        let voters = self.nodes.iter().filter(|node| node.is_voter).count();
        let takes_part = |node: &&NodeInfo| {
            let is_there = node.reachable && node.local_reads_only.is_empty();
            node.is_voter && is_there && !self.lacks_log(node)
        };
        let answering: Vec<&NodeInfo> = self.nodes.iter().filter(takes_part).collect();
        let quorum = voters / 2 + 1;
        let followers =
            |leader: u64| answering.iter().filter(|voter| voter.leader_id == leader).count();
        let leaders = answering.iter().filter(|node| node.role == Some(Role::Leader));
        let newest = leaders.max_by_key(|node| node.term).map(|node| node.id);
        let leader = newest.filter(|leader| followers(*leader) >= quorum);
        let silent = self.nodes.iter().filter(|node| !node.reachable);
        let unreachable: Vec<u64> = silent.map(|node| node.id).collect();
        let failures_tolerated = answering.len().saturating_sub(quorum);
        let troubles = self.troubles(leader, &unreachable);
        let verdict = match leader {
            _ if answering.len() < quorum => Verdict::NoQuorum,
            None => Verdict::NoLeader,
            Some(_) if troubles.is_empty() => Verdict::Healthy,
            Some(_) => Verdict::Degraded,
        };
        let answer = if answering.len() == 1 { "answers" } else { "answer" };
        let lacking = self.nodes.iter().filter(|node| node.is_voter && self.lacks_log(node));
        let lacking: Vec<u64> = lacking.map(|node| node.id).collect();
        let mut of_voters = format!("{} of {voters} voters {answer}", answering.len());
        if verdict == Verdict::NoQuorum && !lacking.is_empty() {
            of_voters += &format!(" and can vote, {} waits for a snapshot", named(&lacking));
        }
        let summary = match (verdict, failures_tolerated) {
            (Verdict::NoQuorum, _) if voters == 0 => {
                "NO QUORUM: the node that was asked knows of no voters".to_owned()
            }
            (Verdict::NoQuorum, _) => format!("NO QUORUM: {of_voters}; writes are refused"),
            (Verdict::NoLeader, _) => format!(
                "NO LEADER: {of_voters}; an election is under way, or they do not reach each other; \
                 writes wait"
            ),
            (Verdict::Healthy, tolerated) => {
                let may_fail = match tolerated {
                    0 => "none".to_owned(),
                    1 => "any one".to_owned(),
                    more => format!("any {more}"),
                };
                let id = leader.unwrap_or_default();
                format!("healthy: {of_voters}, node {id} leads; {may_fail} may fail")
            }
            (Verdict::Degraded, 0) => {
                format!("DEGRADED: {}; one more failure stops writes", troubles.join("; "))
            }
            (Verdict::Degraded, more) => {
                format!("DEGRADED: {}; {more} more may fail", troubles.join("; "))
            }
        };
        Health {
            verdict,
            summary,
            voters,
            voters_answering: answering.len(),
            failures_tolerated,
            unreachable,
            leader,
        }
    }

    /// Its log ends before the leader's begins: until it has been sent a snapshot it acknowledges no write.
    fn lacks_log(&self, node: &NodeInfo) -> bool {
        let leaders = self.nodes.iter().filter(|node| node.role == Some(Role::Leader));
        let newest = leaders.max_by_key(|leader| leader.term);
        newest.is_some_and(|leader| node.reachable && node.last_log_index < leader.purged_index)
    }

    /// What wants to be looked at while writes are answered.
    fn troubles(&self, leader: Option<u64>, unreachable: &[u64]) -> Vec<String> {
        let mut troubles = Vec::new();
        if !unreachable.is_empty() {
            troubles.push(format!("{} unreachable", named(unreachable)));
        }
        for node in self.nodes.iter().filter(|node| node.reachable) {
            let id = node.id;
            if !node.local_reads_only.is_empty() {
                troubles.push(format!("node {id} serves local reads only"));
            }
            if node.is_voter && self.lacks_log(node) {
                troubles.push(format!(
                    "node {id} has to be sent a snapshot, and acknowledges nothing until it has it"
                ));
            }
            if node.disk_nearly_full {
                troubles.push(match leader == Some(id) {
                    true => format!("node {id} leads with a full disk, so writes are refused"),
                    false => format!("the disk of node {id} is nearly full"),
                });
            }
        }
        troubles
    }
}

fn named(ids: &[u64]) -> String {
    let all: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three voters of which the second leads.
    fn three() -> Status {
        let node = |id: u64| NodeInfo {
            id,
            role: Some(if id == 2 { Role::Leader } else { Role::Follower }),
            is_voter: true,
            reachable: true,
            term: 5,
            leader_id: 2,
            ..NodeInfo::default()
        };
        Status {
            nodes: (1..=3).map(node).collect(),
            dedup: Default::default(),
            next_node_id: 0,
            header: Default::default(),
        }
    }

    fn lose(status: &mut Status, id: u64) {
        let node = &mut status.nodes[id as usize - 1];
        *node = NodeInfo { id, role: None, is_voter: node.is_voter, ..NodeInfo::default() };
    }

    #[track_caller]
    fn check(status: &Status, verdict: Verdict, tolerated: usize, summary: &str) {
        let health = status.health();
        assert_eq!((health.verdict, health.failures_tolerated), (verdict, tolerated));
        assert_eq!(health.summary, summary);
    }

    #[test]
    fn a_majority_with_a_leader_answers_writes() {
        let mut status = three();
        let healthy = "healthy: 3 of 3 voters answer, node 2 leads; any one may fail";
        check(&status, Verdict::Healthy, 1, healthy);
        lose(&mut status, 3);
        let degraded = "DEGRADED: node 3 unreachable; one more failure stops writes";
        check(&status, Verdict::Degraded, 0, degraded);
        assert_eq!((status.health().leader, status.health().unreachable), (Some(2), vec![3]));
        lose(&mut status, 1);
        let lost = "NO QUORUM: 1 of 3 voters answers; writes are refused";
        check(&status, Verdict::NoQuorum, 0, lost);
        assert_eq!(status.health().leader, None, "it may believe that it leads");
    }

    #[test]
    fn a_leader_is_one_that_a_majority_follows() {
        let mut status = three();
        for follower in [1, 3] {
            status.nodes[follower as usize - 1].leader_id = 0;
        }
        let none = "NO LEADER: 3 of 3 voters answer; an election is under way, or they do not reach \
                    each other; writes wait";
        check(&status, Verdict::NoLeader, 1, none);
    }

    #[test]
    fn a_learner_has_no_vote_and_one_node_no_other() {
        let mut status = three();
        status.nodes.push(NodeInfo { id: 4, role: None, ..NodeInfo::default() });
        let degraded = "DEGRADED: node 4 unreachable; 1 more may fail";
        check(&status, Verdict::Degraded, 1, degraded);
        status.nodes = vec![NodeInfo { leader_id: 2, ..status.nodes.remove(1) }];
        let healthy = "healthy: 1 of 1 voters answers, node 2 leads; none may fail";
        check(&status, Verdict::Healthy, 0, healthy);
    }

    /// A replacement with nothing in its log was counted as one of three, and the restart of another named safe.
    #[test]
    fn who_waits_for_a_snapshot_is_counted_for_nothing() {
        let mut status = three();
        for (node, last) in status.nodes.iter_mut().zip([900, 910, 905]) {
            (node.last_log_index, node.purged_index) = (last, 300);
        }
        let healthy = "healthy: 3 of 3 voters answer, node 2 leads; any one may fail";
        check(&status, Verdict::Healthy, 1, healthy);
        status.nodes[2].last_log_index = 0;
        let degraded = "DEGRADED: node 3 has to be sent a snapshot, and acknowledges nothing until it has it; one \
                        more failure stops writes";
        check(&status, Verdict::Degraded, 0, degraded);
        lose(&mut status, 1);
        let lost = "NO QUORUM: 1 of 3 voters answers and can vote, node 3 waits for a snapshot; writes are refused";
        check(&status, Verdict::NoQuorum, 0, lost);
    }

    #[test]
    fn what_refuses_writes_is_named() {
        let mut status = three();
        status.nodes[1].disk_nearly_full = true;
        status.nodes[0].local_reads_only = "its log is gone".into();
        let degraded = "DEGRADED: node 1 serves local reads only; node 2 leads with a full disk, so \
                        writes are refused; one more failure stops writes";
        check(&status, Verdict::Degraded, 0, degraded);
    }
}
