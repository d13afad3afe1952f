//! `tally cluster upgrade`.

use serde::Serialize;
use tally_client::{Client, Status, proto::UpgradePlan, reason};
use tokio::time::{Instant, sleep};

use super::{
    How, Upgrade, UpgradeStep,
    steps::{LOOK_EVERY, STEP_PATIENCE, is_passing, is_wanted},
};
use crate::output::{Exit, Failure, Output, line, table};

pub(super) async fn run(
    client: &Client,
    upgrade: &Upgrade,
    output: Output,
) -> Result<Exit, Failure> {
    match &upgrade.what {
        None | Some(UpgradeStep::Status) => {
            let status = client.status().await?;
            output.result(&Shown::of(&status), Shown::text)?;
            Ok(Exit::Done)
        }
        Some(UpgradeStep::Finalize(how)) => finalize(client, how, output).await,
    }
}

/// The members, as the asked node sees them.
#[derive(Debug, Serialize)]
struct Shown {
    /// The version that the cluster has, as far as the furthest member has applied.
    version: u32,
    /// The newest that all members read; null if one does not answer.
    all_read: Option<u32>,
    /// The node that was asked, if it is of a release from before nodes said what they read: then nothing is known of
    /// the others either.
    asked_older: Option<u64>,
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    id: u64,
    release: Option<String>,
    /// Null if it does not answer.
    format_min: Option<u32>,
    format_max: Option<u32>,
    cluster_version: Option<u32>,
}

impl Shown {
    fn of(status: &Status) -> Shown {
        // A release that does not say it reads the first version alone.
        let members: Vec<Member> = status
            .nodes
            .iter()
            .map(|node| Member {
                id: node.id,
                release: node.reachable.then(|| node.version.clone()),
                format_min: node.reachable.then_some(node.format_min.max(1)),
                format_max: node.reachable.then_some(node.format_max.max(1)),
                cluster_version: node.reachable.then_some(node.cluster_version.max(1)),
            })
            .collect();
        let version = members.iter().filter_map(|member| member.cluster_version).max().unwrap_or(1);
        let all_read = members.iter().map(|member| member.format_max).min().flatten();
        Shown { version, all_read, asked_older: asked_of_older_release(status), members }
    }

    fn text(&self) -> String {
        let head = ["id", "release", "reads", "cluster version"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.extend(self.members.iter().map(|member| {
            let reads =
                member.format_min.zip(member.format_max).map(|(min, max)| match min == max {
                    true => format!("version {min}"),
                    false => format!("versions {min} to {max}"),
                });
            vec![
                member.id.to_string(),
                or_dash(member.release.clone()),
                or_dash(reads),
                or_dash(member.cluster_version.map(|version| version.to_string())),
            ]
        }));
        if let Some(asked) = self.asked_older {
            return table(&rows) + "\n" + &asked_older(asked);
        }
        let newest = self.members.iter().filter_map(|member| member.format_max).max().unwrap_or(1);
        let version = self.version;
        let is = format!("the cluster has version {version} of the formats");
        table(&rows)
            + "\n"
            + &match self.all_read {
                _ if newest <= version => format!("{is}: nothing is left to finalize"),
                Some(all) if all > version => format!(
                    "{is}, and all members read up to {all}: until `tally cluster upgrade finalize` any of them may go \
                     back to the release before"
                ),
                _ => format!(
                    "{is}, and not all members are known to read more: restart the others with the new release (`tally \
                     cluster restart-plan`), or take them back to the one before"
                ),
            }
    }
}

/// What finalizing did, or would do.
#[derive(Debug, Serialize)]
struct Finalized {
    preview: bool,
    version: u32,
    to: u32,
    is_so: bool,
    refusal: String,
    members: Vec<Heard>,
}

#[derive(Debug, Serialize)]
struct Heard {
    id: u64,
    /// Null if it was never heard.
    format_min: Option<u32>,
    format_max: Option<u32>,
    heard_ms_ago: Option<u64>,
}

impl Finalized {
    fn of(plan: &UpgradePlan, preview: bool) -> Finalized {
        let members = plan.members.iter().map(|member| Heard {
            id: member.node_id,
            format_min: member.heard_ms_ago.map(|_| member.format_min),
            format_max: member.heard_ms_ago.map(|_| member.format_max),
            heard_ms_ago: member.heard_ms_ago,
        });
        Finalized {
            preview,
            version: plan.version,
            to: plan.to,
            is_so: plan.is_so,
            refusal: plan.refusal.clone(),
            members: members.collect(),
        }
    }
}

/// Whether a node says that it does not know the request.
fn is_unknown(reason: &str) -> bool {
    matches!(reason, reason::INVALID_REQUEST | reason::UNIMPLEMENTED)
}

/// The node that was asked, if it is of a release from before nodes said what they read, which passes on nothing of what
/// newer ones say.
pub(super) fn asked_of_older_release(status: &Status) -> Option<u64> {
    let asked = status.nodes.iter().find(|node| node.id == status.header.node_id)?;
    (asked.format_max == 0).then_some(asked.id)
}

/// What is said of that.
pub(super) fn asked_older(id: u64) -> String {
    format!(
        "node {id}, which was asked, is of a release that does not know how long nodes run and what they read: once one runs \
         the new release, ask that one (`--endpoints`)"
    )
}

async fn ask(client: &Client, preview: bool) -> Result<UpgradePlan, Failure> {
    let until = Instant::now() + STEP_PATIENCE;
    loop {
        let call = client.finalize_upgrade();
        let call = if preview { call.preview() } else { call };
        match call.await {
            Ok(answer) => {
                let plan = answer.plan.map(|plan| *plan).unwrap_or_default();
                // A member is about to say what it reads.
                if !(preview && plan.passes && Instant::now() < until) {
                    return Ok(plan);
                }
            }
            Err(error) if is_unknown(error.reason()) => {
                let message = "the node that was asked, or the leader, is of a release from before clusters had versions: \
                               restart it with the new one first";
                let plan = serde_json::Value::Null;
                return Err(Failure::refused_now(
                    reason::UPGRADE_REFUSED,
                    message.to_owned(),
                    &plan,
                ));
            }
            // It is asked again: what was done is answered as done.
            Err(error) if is_passing(&error) && Instant::now() < until => {}
            Err(error) => return Err(error.into()),
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn finalize(client: &Client, how: &How, output: Output) -> Result<Exit, Failure> {
    let plan = ask(client, true).await?;
    if !plan.refusal.is_empty() {
        let message = format!("refused to finalize the upgrade: {}", plan.refusal);
        let value = serde_json::to_value(Finalized::of(&plan, how.preview));
        let value = value.expect("plain data can be JSON");
        return Err(Failure::refused_now(reason::UPGRADE_REFUSED, message, &value));
    }
    if plan.is_so {
        let text =
            format!("the cluster has version {} of the formats: it is so already", plan.version);
        output.result(&Finalized::of(&plan, how.preview), |_| text)?;
        return Ok(Exit::Done);
    }
    if !output.json {
        line(&format!(
            "finalize the upgrade\n  before  version {} of the formats: each member may go back to the release before\n  \
             after   version {}: none can go back to a release that does not read it",
            plan.version, plan.to
        ))?;
    }
    if !is_wanted(how, output, "finalize the upgrade?")? {
        let text = "nothing was done: it is a preview".to_owned();
        output.result(&Finalized::of(&plan, true), |_| text)?;
        return Ok(Exit::Done);
    }
    let done = ask(client, false).await?;
    let text = format!("done: the cluster has version {} of the formats", done.to);
    output.result(&Finalized::of(&done, false), |_| text)?;
    Ok(Exit::Done)
}
