//! Killing leaders: whom, and how long until the cluster is whole again.

use std::{
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    time::Duration,
};

use serde::Serialize;
use tally_client::{Client, NodeInfo, Role, Status};
use tokio::time::{Instant, sleep};

use super::{Demo, RUNS_FOR, Shared};
use crate::{
    output::{Failure, note},
    procs,
};

/// A killed node is back within this time, or nobody restarts it.
const BACK_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Serialize)]
pub(super) struct Kill {
    pub(super) round: u32,
    pub(super) node_id: u64,
    pub(super) pid: u32,
    /// From the signal to the first acknowledged add that was sent after it.
    pub(super) first_success_ms: u64,
    /// From the signal until the node answered again.
    pub(super) back_ms: u64,
}

/// Who leads, as the newest term says.
pub(super) fn leader(status: &Status) -> Result<&NodeInfo, Failure> {
    let leaders =
        status.nodes.iter().filter(|node| node.reachable && node.role == Some(Role::Leader));
    leaders
        .max_by_key(|node| node.term)
        .ok_or_else(|| Failure::unable("the cluster has no leader".to_owned()))
}

/// Refuses to kill what may be a stranger: the process must be a node, and the node's address one of
/// this machine's.
pub(super) fn killable(node: &NodeInfo) -> Result<(), Failure> {
    let addresses = node.address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let is_here = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    let local = addresses.is_ok_and(|all| all.iter().any(|address| is_here(address.ip())));
    if local && procs::is_node(node.pid) {
        return Ok(());
    }
    Err(Failure::unable(format!(
        "node {} at {} says that it is process {}, which is no tallyd on this machine: not killed",
        node.id, node.address, node.pid
    )))
}

/// Kills one leader after the other, and notes each that is back.
pub(super) async fn kill_leaders(
    demo: &Demo,
    watcher: &Client,
    shared: &Shared,
    kills: &mut Vec<Kill>,
) -> Result<(), Failure> {
    for round in 1..=demo.rounds {
        sleep(Duration::from_secs(demo.seconds)).await;
        let status = wait_for(watcher, BACK_WITHIN, |status| leader(status).is_ok()).await?;
        let victim = leader(&status)?.clone();
        killable(&victim)?;
        let killed = Instant::now();
        {
            let mut successes = shared.successes();
            successes.waiting_since = Some(killed);
            successes.first_after = None;
        }
        procs::kill(victim.pid).map_err(|error| Failure::unable(error.to_string()))?;
        note(&format!(
            "round {round} of {}: SIGKILL to node {}, leader of term {} (process {})",
            demo.rounds, victim.id, victim.term, victim.pid
        ));
        let is_back = |status: &Status| {
            let other = |node: &&NodeInfo| node.id == victim.id && node.pid != victim.pid;
            status.nodes.iter().find(other).is_some_and(|node| node.reachable)
        };
        wait_for(watcher, BACK_WITHIN, is_back).await?;
        let back_ms = killed.elapsed().as_millis() as u64;
        let first_success_ms = loop {
            let successes = shared.successes().first_after;
            if let Some(first) = successes {
                break (first - killed).as_millis() as u64;
            }
            sleep(Duration::from_millis(20)).await;
        };
        note(&format!(
            "round {round} of {}: writes again after {first_success_ms} ms; node {} back after \
             {back_ms} ms",
            demo.rounds, victim.id
        ));
        kills.push(Kill { round, node_id: victim.id, pid: victim.pid, first_success_ms, back_ms });
        sleep(RUNS_FOR).await;
    }
    Ok(())
}

/// Asks for the status until it is as wanted.
async fn wait_for(
    watcher: &Client,
    patience: Duration,
    wanted: impl Fn(&Status) -> bool,
) -> Result<Status, Failure> {
    let began = Instant::now();
    loop {
        if let Ok(status) = watcher.status().await
            && wanted(&status)
        {
            return Ok(status);
        }
        if began.elapsed() > patience {
            return Err(Failure::unable(format!(
                "the cluster did not become whole again within {} s: does somebody start a killed \
                 node again?",
                patience.as_secs()
            )));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
