//! What the states of all nodes say together: whether writes are answered, and what may still fail.

use serde::Serialize;

use crate::cluster::{NodeInfo, Status};

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
        let nodes = &self.nodes;
        let takes_part = |node: &&NodeInfo| node.reachable && node.local_reads_only.is_empty();
        let voters: Vec<&NodeInfo> = nodes.iter().filter(|node| node.is_voter).collect();
        let answering: Vec<&NodeInfo> = voters.iter().copied().filter(takes_part).collect();
        let quorum = voters.len() / 2 + 1;
        let followers = |leader: &NodeInfo| {
            answering.iter().filter(|voter| voter.leader_id == leader.id).count()
        };
        let leaders = answering.iter().filter(|node| node.role == "leader");
        let leader = leaders.max_by_key(|node| node.term).filter(|it| followers(it) >= quorum);
        let ids = |nodes: Vec<&NodeInfo>| nodes.iter().map(|node| node.id).collect::<Vec<u64>>();
        let unreachable = ids(nodes.iter().filter(|node| !node.reachable).collect());
        let tolerated = answering.len().saturating_sub(quorum);
        let mut troubles = Vec::new();
        if !unreachable.is_empty() {
            troubles.push(format!("{} unreachable", named(&unreachable)));
        }
        for node in nodes.iter().filter(|node| node.reachable) {
            if !node.local_reads_only.is_empty() {
                troubles.push(format!("node {} serves local reads only", node.id));
            }
            if node.disk_nearly_full && leader.is_some_and(|leader| leader.id == node.id) {
                let id = node.id;
                troubles.push(format!("node {id} leads with a full disk, so writes are refused"));
            } else if node.disk_nearly_full {
                troubles.push(format!("the disk of node {} is nearly full", node.id));
            }
        }
        let answer = |count: usize| if count == 1 { "answers" } else { "answer" };
        let of_voters =
            format!("{} of {} voters {}", answering.len(), voters.len(), answer(answering.len()));
        let (verdict, summary) = if voters.is_empty() {
            let summary = "NO QUORUM: the node that was asked knows of no voters".to_owned();
            (Verdict::NoQuorum, summary)
        } else if answering.len() < quorum {
            (Verdict::NoQuorum, format!("NO QUORUM: {of_voters}; writes are refused"))
        } else {
            match leader {
                None => {
                    let why = "an election is under way, or they do not reach each other";
                    (Verdict::NoLeader, format!("NO LEADER: {of_voters}; {why}; writes wait"))
                }
                Some(leader) if troubles.is_empty() => {
                    let may_fail = match tolerated {
                        0 => "none may fail".to_owned(),
                        1 => "any one may fail".to_owned(),
                        more => format!("any {more} may fail"),
                    };
                    let id = leader.id;
                    let summary = format!("healthy: {of_voters}, node {id} leads; {may_fail}");
                    (Verdict::Healthy, summary)
                }
                Some(_) => {
                    let next = match tolerated {
                        0 => "one more failure stops writes".to_owned(),
                        more => format!("{more} more may fail"),
                    };
                    let summary = format!("DEGRADED: {}; {next}", troubles.join("; "));
                    (Verdict::Degraded, summary)
                }
            }
        };
        Health {
            verdict,
            summary,
            voters: voters.len(),
            voters_answering: answering.len(),
            failures_tolerated: tolerated,
            unreachable,
            leader: leader.map(|leader| leader.id),
        }
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
            role: if id == 2 { "leader" } else { "follower" },
            is_voter: true,
            reachable: true,
            term: 5,
            leader_id: 2,
            ..NodeInfo::default()
        };
        Status {
            nodes: (1..=3).map(node).collect(),
            dedup: Default::default(),
            header: Default::default(),
        }
    }

    fn lose(status: &mut Status, id: u64) {
        let node = &mut status.nodes[id as usize - 1];
        *node =
            NodeInfo { id, role: "unreachable", is_voter: node.is_voter, ..NodeInfo::default() };
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
        status.nodes.push(NodeInfo { id: 4, role: "unreachable", ..NodeInfo::default() });
        let degraded = "DEGRADED: node 4 unreachable; 1 more may fail";
        check(&status, Verdict::Degraded, 1, degraded);
        status.nodes = vec![NodeInfo { leader_id: 2, ..status.nodes.remove(1) }];
        let healthy = "healthy: 1 of 1 voters answers, node 2 leads; none may fail";
        check(&status, Verdict::Healthy, 0, healthy);
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
