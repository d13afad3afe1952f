//! `tally cluster restart-plan`: whom to restart next, and whether now.
//!
//! It asks one node for the status of all and changes nothing. Who was restarted is told by how long each runs. Learners
//! go first, then followers, and the leader last: it hands leadership over when it is stopped, and once only.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tally_client::{Client, NodeInfo, Role};

use super::{
    RestartPlan,
    show::list,
    upgrades::{asked_of_older_release, asked_older},
};
use crate::{
    args::Time,
    output::{Exit, Failure, Output, table},
};

/// Entries that a member may be behind: with more it is still catching up, from the restart before perhaps.
const LAG_ENTRIES_MAX: u64 = 1000;

/// The reason in an error for programs.
const NOT_SAFE: &str = "RESTART_NOT_SAFE";

/// What is to be done.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Plan {
    /// Who is next; null if nobody is left, or it is not safe now.
    next: Option<u64>,
    /// All run for less than was said.
    all_restarted: bool,
    /// Why nobody is to be restarted now; empty: it is safe.
    problems: Vec<String>,
    /// What is to be known of this answer; empty: nothing.
    note: String,
    /// In the order in which they are to be restarted, those that were at the end.
    nodes: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Entry {
    id: u64,
    role: String,
    release: Option<String>,
    uptime_ms: Option<u64>,
    restarted: bool,
}

/// How long a node runs. One of a release that does not say it has not been restarted with one that does.
fn runs(node: &NodeInfo) -> Option<Duration> {
    (node.reachable && node.format_max > 0).then_some(node.uptime)
}

/// What keeps whoever would be next from being restarted.
fn problems(nodes: &[NodeInfo], next: &NodeInfo, accept_interruption: bool) -> Vec<String> {
    let ids = |keep: &dyn Fn(&NodeInfo) -> bool| -> Vec<u64> {
        nodes.iter().filter(|node| keep(node)).map(|node| node.id).collect()
    };
    let mut problems = Vec::new();
    let mut problem = |ids: Vec<u64>, what: &str| {
        if !ids.is_empty() {
            let plural = if ids.len() == 1 { "node" } else { "nodes" };
            problems.push(format!("{plural} {}: {what}", list(&ids)));
        }
    };
    problem(ids(&|node| !node.reachable), "no answer; start it again first, or take it out");
    let reached = |node: &NodeInfo, is_so: bool| node.reachable && is_so;
    let begins = nodes.iter().filter(|node| node.role == Some(Role::Leader));
    let begins = begins.map(|leader| leader.purged_index).max().unwrap_or(0);
    let lacks = |node: &NodeInfo| reached(node, node.last_log_index < begins);
    problem(
        ids(&lacks),
        "it has to be sent a snapshot first, and acknowledges nothing until then; see its status and log",
    );
    let behind = |node: &NodeInfo| {
        reached(node, node.lag_entries > LAG_ENTRIES_MAX && node.last_log_index >= begins)
    };
    problem(ids(&behind), &format!("more than {LAG_ENTRIES_MAX} entries behind; let it catch up"));
    let apart = |node: &NodeInfo| reached(node, !node.local_reads_only.is_empty());
    problem(ids(&apart), "it serves local reads only, and is counted for no majority");
    let full = |node: &NodeInfo| reached(node, node.disk_nearly_full);
    problem(ids(&full), "its disk is nearly full; make room first");
    let changing = |node: &NodeInfo| reached(node, node.membership_open);
    problem(ids(&changing), "a change of the voters is under way; let it end");
    let restoring = |node: &NodeInfo| reached(node, node.restore_under_way);
    problem(ids(&restoring), "a backup is being restored; let it end");
    let leaders: std::collections::BTreeSet<u64> =
        nodes.iter().filter(|node| node.reachable).map(|node| node.leader_id).collect();
    if leaders.contains(&0) || leaders.len() > 1 {
        problems
            .push("not all know the same leader: an election is under way, or just was".to_owned());
    }
    let voters = nodes.iter().filter(|node| node.is_voter).count();
    let quorum = voters / 2 + 1;
    let left =
        nodes.iter().filter(|node| node.is_voter && node.reachable && node.id != next.id).count();
    if next.is_voter && left < quorum && !accept_interruption {
        problems.push(format!(
            "without node {} {left} of {voters} voters are left, and {quorum} have to agree: writes stop until it is back \
             (`--accept-interruption` names it all the same)",
            next.id
        ));
    }
    let may_lead = |node: &NodeInfo| node.is_voter && node.id != next.id && !node.drained;
    if next.role == Some(Role::Leader) && voters > 1 && !nodes.iter().any(may_lead) {
        problems.push(format!(
            "node {} leads, and all other voters are drained: let one lead (`tally cluster drain NODE_ID --undo`)",
            next.id
        ));
    }
    problems
}

impl Plan {
    fn of(nodes: &[NodeInfo], within: Duration, accept_interruption: bool) -> Plan {
        let restarted = |node: &NodeInfo| runs(node).is_some_and(|runs| runs <= within);
        let rank = |node: &NodeInfo| match node.role {
            Some(Role::Leader) => 2,
            _ if node.is_voter => 1,
            _ => 0,
        };
        let mut order: Vec<&NodeInfo> = nodes.iter().collect();
        // Of those of one kind whoever has run longest.
        let runs_longest = |node| std::cmp::Reverse(runs(node).unwrap_or(Duration::MAX));
        order.sort_by_key(|node| (restarted(node), rank(node), runs_longest(node), node.id));
        let next = order.iter().find(|node| !restarted(node));
        let problems =
            next.map_or_else(Vec::new, |next| problems(nodes, next, accept_interruption));
        let entries = order.iter().map(|node| Entry {
            id: node.id,
            role: node.role.map_or_else(|| "unreachable".to_owned(), |role| role.to_string()),
            release: node.reachable.then(|| node.version.clone()),
            uptime_ms: runs(node).map(|runs| u64::try_from(runs.as_millis()).unwrap_or(u64::MAX)),
            restarted: restarted(node),
        });
        Plan {
            next: next.filter(|_| problems.is_empty()).map(|node| node.id),
            all_restarted: next.is_none(),
            nodes: entries.collect(),
            problems,
            note: String::new(),
        }
    }

    fn table(&self) -> String {
        let head = ["id", "role", "release", "runs for", "restarted"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.extend(self.nodes.iter().map(|node| {
            let restarted = if node.restarted { "yes" } else { "no" };
            vec![
                node.id.to_string(),
                node.role.clone(),
                or_dash(node.release.clone()),
                or_dash(node.uptime_ms.map(|ms| runs_for(Duration::from_millis(ms)))),
                restarted.to_owned(),
            ]
        }));
        table(&rows)
    }

    fn text(&self) -> String {
        let table = self.table();
        let Some(next) = self.next else { return format!("{table}\nall were restarted") };
        let leads =
            self.nodes.iter().any(|node| node.id == next && node.role == Role::Leader.to_string());
        let how = match leads && self.nodes.len() > 1 {
            true => "it leads, and hands leadership over when it is stopped by SIGTERM",
            false => "stop it by SIGTERM",
        };
        let note = match self.note.is_empty() {
            true => String::new(),
            false => format!("\n{}", self.note),
        };
        format!("{table}\nnext: node {next}, and it is safe now: {how}. Then ask again{note}")
    }
}

fn runs_for(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(super) async fn plan(
    client: &Client,
    asked: &RestartPlan,
    output: Output,
) -> Result<Exit, Failure> {
    let status = client.status().await?;
    let Time(within) = asked.within;
    let mut plan = Plan::of(&status.nodes, within, asked.accept_interruption);
    plan.note = asked_of_older_release(&status).map(asked_older).unwrap_or_default();
    if !plan.problems.is_empty() {
        let message = format!("not now: {}", plan.problems.join("; "));
        return Err(Failure::refused_now(NOT_SAFE, message, &json!(plan)));
    }
    output.result(&plan, Plan::text)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn node(id: u64, role: Role, hours: u32) -> NodeInfo {
        NodeInfo {
            id,
            role: Some(role),
            is_voter: role != Role::Learner,
            reachable: true,
            leader_id: 2,
            format_max: 2,
            uptime: hours * HOUR + Duration::from_secs(1),
            ..NodeInfo::default()
        }
    }

    fn five() -> Vec<NodeInfo> {
        vec![
            node(1, Role::Follower, 5),
            node(2, Role::Leader, 9),
            node(3, Role::Follower, 7),
            node(4, Role::Learner, 2),
        ]
    }

    #[test]
    fn learners_then_followers_then_the_leader() {
        let mut nodes = five();
        let mut named = Vec::new();
        loop {
            let plan = Plan::of(&nodes, HOUR, false);
            assert_eq!(plan.problems, Vec::<String>::new());
            let Some(next) = plan.next else {
                assert!(plan.all_restarted);
                break;
            };
            named.push(next);
            let node = nodes.iter_mut().find(|node| node.id == next).expect("it is one of them");
            node.uptime = Duration::ZERO;
        }
        assert_eq!(named, [4, 3, 1, 2]);
    }

    /// They were all taken for restarted just now, as what they do not say is 0.
    #[test]
    fn nodes_of_an_older_release_are_next() {
        let mut nodes = five();
        nodes[0].format_max = 0;
        nodes[0].uptime = Duration::ZERO;
        nodes[3].uptime = Duration::ZERO;
        let plan = Plan::of(&nodes, HOUR, false);
        assert_eq!(plan.next, Some(1));
        assert_eq!((plan.nodes[0].uptime_ms, plan.nodes[0].restarted), (None, false));
    }

    #[test]
    fn who_waits_for_a_snapshot_is_waited_for() {
        let mut nodes = five();
        for node in &mut nodes {
            (node.last_log_index, node.purged_index) = (900, 300);
        }
        assert_eq!(Plan::of(&nodes, HOUR, false).problems, Vec::<String>::new());
        nodes[2].last_log_index = 0;
        let plan = Plan::of(&nodes, HOUR, false);
        assert_eq!(plan.next, None);
        assert!(
            plan.problems[0].starts_with("node 3: it has to be sent a snapshot"),
            "{:?}",
            plan.problems
        );
    }

    #[test]
    fn nobody_is_named_while_something_is_wrong() {
        type Spoil = fn(&mut NodeInfo);
        let spoils: [(Spoil, &str); 8] = [
            (|node| node.reachable = false, "node 1: no answer"),
            (|node| node.lag_entries = 1001, "node 1: more than 1000 entries behind"),
            (|node| node.local_reads_only = "full".to_owned(), "local reads only"),
            (|node| node.disk_nearly_full = true, "disk is nearly full"),
            (|node| node.membership_open = true, "change of the voters"),
            (|node| node.restore_under_way = true, "being restored"),
            (|node| node.leader_id = 0, "not all know the same leader"),
            (|node| node.leader_id = 3, "not all know the same leader"),
        ];
        for (spoil, says) in spoils {
            let mut nodes = five();
            spoil(&mut nodes[0]);
            let plan = Plan::of(&nodes, HOUR, true);
            assert_eq!(plan.next, None, "{says}");
            assert!(plan.problems.join("; ").contains(says), "{:?} says {says:?}", plan.problems);
        }
    }

    #[test]
    fn an_interruption_is_accepted_or_it_is_not_safe() {
        let mut nodes = vec![node(1, Role::Follower, 5), node(2, Role::Leader, 9)];
        let plan = Plan::of(&nodes, HOUR, false);
        assert!(plan.next.is_none() && plan.problems[0].contains("writes stop"), "{plan:?}");
        assert_eq!(Plan::of(&nodes, HOUR, true).next, Some(1));
        nodes.remove(0);
        assert_eq!(Plan::of(&nodes, HOUR, true).next, Some(2));
        // Nobody is there to take over.
        let mut nodes = five();
        nodes[3].uptime = Duration::ZERO;
        for at in [0, 2] {
            nodes[at].uptime = Duration::ZERO;
            nodes[at].drained = true;
        }
        let plan = Plan::of(&nodes, HOUR, false);
        assert!(plan.next.is_none() && plan.problems[0].contains("are drained"), "{plan:?}");
    }
}
