//! `tally cluster`: who belongs to the cluster, and changing it one step at a time.
//!
//! Each step shows what it does to the quorum before it does it, and is decided by the leader, whoever is asked. A step
//! that was done is answered as done, so that a command that broke off is taken up again by giving it again, also by
//! somebody else: what is left to do is read from the membership and nowhere else.

mod place;
mod restarts;
mod show;
mod snapshots;
mod steps;
mod upgrades;

use clap::{Args, Subcommand};
use tally_client::Client;

use self::steps::Operator;
use crate::{
    args::Time,
    output::{Exit, Failure, Output},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Shows the members, who votes, how many may fail, and the next id that nobody had.
    Members,
    /// Adds a node, which runs already with an empty data directory: as a learner, and as a voter once it has caught up.
    Add(Add),
    /// Makes a learner a voter.
    Promote(Promote),
    /// Takes a member out. Its id is never used again.
    Remove(Remove),
    /// Takes out a learner that is gone or never came. Unlike `remove` it can cost nobody a vote, nor stop a node that
    /// runs: both are refused.
    Forget(Forget),
    /// Puts a new node, which runs already with an empty data directory, into the place of a member: adds it, promotes
    /// it once it has caught up, hands leadership over if the old one has it, and removes the old one. Broken off, the
    /// same command goes on where it stopped.
    Replace(Replace),
    /// Lets another voter lead.
    TransferLeader(TransferLeader),
    /// Keeps a voter from leading until it is undone, as before work on its machine: it hands leadership over, and stands
    /// for no election while anybody else can lead.
    Drain(Drain),
    /// Shows which release and which versions of the formats the members have; `finalize` ends an upgrade.
    Upgrade(Upgrade),
    /// Says which node to restart next, and whether that is safe now: status 3 if it is not.
    RestartPlan(RestartPlan),
    /// Has nodes build a snapshot of their state now, one after the other, and waits until each is stored.
    Snapshot(Snapshot),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct How {
    /// Say what it would do, and change nothing. Status 3 if it would be refused.
    #[arg(long)]
    pub(crate) preview: bool,
    /// Do not ask first. Without a terminal nobody is asked.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Patience {
    /// How long the new node may take to catch up: a number with ms, s, m or h.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) wait: Time,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Its id, as it was started with; `auto` is whatever it is (with TLS between nodes it has to be said).
    #[arg(value_name = "NODE_ID|auto", value_parser = node_id_or_auto)]
    pub(crate) node_id: NodeId,
    /// Address of its peer port, as other nodes reach it.
    #[arg(value_name = "PEER_HOST:PORT")]
    pub(crate) address: String,
    /// Leave it a learner: it serves bounded, session and local reads, and has no vote.
    #[arg(long)]
    pub(crate) learner: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// The learner.
    pub(crate) node_id: u64,
    /// Do it though fewer voters may fail afterwards than may fail now.
    #[arg(long)]
    pub(crate) accept_fewer_failures: bool,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The member.
    pub(crate) node_id: u64,
    /// Do it though fewer voters may fail afterwards than may fail now.
    #[arg(long)]
    pub(crate) accept_fewer_failures: bool,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// The learner.
    pub(crate) node_id: u64,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// Who goes.
    #[arg(value_name = "OLD")]
    pub(crate) old: u64,
    /// Address of the peer port of who comes.
    #[arg(value_name = "NEW_PEER_HOST:PORT")]
    pub(crate) address: String,
    /// The new one's id, as it was started with. Default: whatever it is (with TLS between nodes it has to be said).
    #[arg(long, value_name = "NODE_ID", value_parser = node_id_or_auto, default_value = "auto")]
    pub(crate) id: NodeId,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct TransferLeader {
    /// Who is to lead. Default: the voter that has applied most.
    pub(crate) node_id: Option<u64>,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The voter.
    pub(crate) node_id: u64,
    /// It may lead again.
    #[arg(long)]
    pub(crate) undo: bool,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    #[command(subcommand)]
    pub(crate) what: Option<UpgradeStep>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeStep {
    /// Shows which release and which versions of the formats the members have.
    Status,
    /// Gives the cluster the newest version of the formats that all members read. From then on none of them can go back
    /// to a release that does not read it.
    Finalize(How),
}

#[derive(Debug, Args)]
pub(crate) struct RestartPlan {
    /// Nodes that run no longer than this count as restarted: a number with ms, s, m or h.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) within: Time,
    /// Name a node also if writes stop while it restarts, as with one voter or two.
    #[arg(long)]
    pub(crate) accept_interruption: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// Which member. Default: each.
    pub(crate) node_id: Option<u64>,
    /// How long each may take: a number with ms, s, m or h.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) wait: Time,
}

/// 0 is whichever id a node has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeId(pub(crate) u64);

fn node_id_or_auto(text: &str) -> Result<NodeId, String> {
    match text {
        "auto" => Ok(NodeId(0)),
        text => match text.parse() {
            Ok(id) if id > 0 => Ok(NodeId(id)),
            _ => Err("it is a number above 0, or auto".to_owned()),
        },
    }
}

pub(crate) async fn run(
    client: &Client,
    command: &Cluster,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        Cluster::Members => {
            let status = client.status().await?;
            output.result(&show::Members::of(&status), show::Members::text)?;
            Ok(Exit::Done)
        }
        Cluster::Add(add) => Operator::new(client, &add.how, output).add(add).await,
        Cluster::Promote(it) => Operator::new(client, &it.how, output).promote(it).await,
        Cluster::Remove(it) => Operator::new(client, &it.how, output).remove(it).await,
        Cluster::Forget(it) => Operator::new(client, &it.how, output).forget(it).await,
        Cluster::Replace(it) => Operator::new(client, &it.how, output).replace(it).await,
        Cluster::TransferLeader(it) => Operator::new(client, &it.how, output).transfer(it).await,
        Cluster::Drain(it) => Operator::new(client, &it.how, output).drain(it).await,
        Cluster::Upgrade(it) => upgrades::run(client, it, output).await,
        Cluster::RestartPlan(it) => restarts::plan(client, it, output).await,
        Cluster::Snapshot(it) => snapshots::build(client, it, output).await,
    }
}
