//! The version of the formats that the cluster has: who reads which, and raising it.
//!
//! **Claim.** The cluster gets a version only if every member, voters and learners, has said within [`HEARD_WITHIN`] that
//! it reads it; and who becomes a member afterwards reads it, too.
//!
//! **It relies on** the introductions of nodes, once a second to each member from each (`peer::hello`), of which a node is
//! believed that is of this cluster and has the directory that is known; and on the lock of membership changes
//! (`Consensus::one_change`).
//!
//! **The steps.** The leader looks at the members and proposes `RaiseVersion` while it holds the lock, so it adds nobody
//! meanwhile; whom it asked before, and adds behind it, it compares with the version once more (`add_learner`). A later
//! leader that adds a node has applied all that was committed before it was asked, the entry among it, and compares the
//! node with the version then (`peer::hello`, `probe`). A member that goes back to an older release between what it said
//! and the entry is refused by its own data directory and by its peers: that is the promise from this entry on, and the
//! operator who does both at once is told by the node.
//!
//! **What breaks it:** not to listen to what members say (the bug on purpose `finalize-unheard`).
//!
//! A new cluster begins with what its first members read: there is nothing to go back to. An older one keeps its version
//! until somebody finalizes the upgrade, or, with `upgrade_finalize = "auto"`, its leader does.

use std::time::Duration;

use tally_proto::seeded_bugs;
use tokio::time::Instant;

use super::{
    Consensus,
    error::{Error, NotProposed},
    members::MemberError,
    tasks::own_command,
};
use crate::machine::{
    command::Action,
    query,
    version::{FormatRange, FormatVersion},
};

/// A member that said nothing for so long is not counted on. It says it once a second, and an answer may take another.
pub const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How often a leader that is to finalize by itself looks whether it can.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// What a member said of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberFormats {
    /// The member.
    pub node_id: u64,
    /// What it said, and how long ago, if it ever did.
    pub said: Option<(FormatRange, Duration)>,
}

/// What finalizing an upgrade would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradePlan {
    /// The version that the cluster has.
    pub version: FormatVersion,
    /// The newest that all members read that were heard.
    pub to: FormatVersion,
    /// There is nothing to do.
    pub is_so: bool,
    /// Why it would be refused.
    pub refusal: Option<String>,
    /// That passes by itself.
    pub passes: bool,
    /// The members.
    pub members: Vec<MemberFormats>,
}

/// Judges what members said.
fn plan(version: FormatVersion, members: Vec<MemberFormats>) -> UpgradePlan {
    let heard = |it: &MemberFormats| match it.said {
        _ if seeded_bugs::is_on("finalize-unheard") => Some(FormatRange::OURS),
        Some((formats, ago)) if ago <= HEARD_WITHIN => Some(formats),
        Some(_) | None => None,
    };
    let said = |it: &MemberFormats| it.said.map(|(formats, _)| formats.max);
    let newest = members.iter().filter_map(said).max().unwrap_or(version).max(version);
    let to = members.iter().filter_map(heard).map(|it| it.max).min().unwrap_or(version);
    let mut plan = UpgradePlan {
        version,
        to: to.max(version),
        is_so: false,
        refusal: None,
        passes: false,
        members,
    };
    if newest == version {
        plan.is_so = true;
        return plan;
    }
    let silent: Vec<&MemberFormats> =
        plan.members.iter().filter(|it| heard(it).is_none()).collect();
    let behind = plan.members.iter().find(|it| heard(it).is_some_and(|it| it.max <= version));
    if let Some(member) = behind
        && let Some(formats) = heard(member)
    {
        plan.refusal = Some(format!(
            "node {} reads version {formats} of the formats, and others up to {newest}: start it with the new release \
             first",
            member.node_id
        ));
    } else if let Some(member) = silent.first() {
        let id = member.node_id;
        let since = match member.said {
            Some((_, ago)) => format!("for {} s", ago.as_secs()),
            None => "since this leader started".to_owned(),
        };
        // One that was never heard may be about to say it.
        plan.passes = member.said.is_none();
        plan.refusal = Some(format!(
            "node {id} has not said {since} which versions of the formats it reads, and once the upgrade is finalized it \
             could never come back with an older release: start it again, or take it out of the cluster \
             (`tally cluster remove {id}`)"
        ));
    }
    plan
}

impl Consensus {
    /// The version of the formats that the cluster has, as far as this node has applied.
    pub fn cluster_version(&self) -> FormatVersion {
        query::meta(&self.state().view()).version
    }

    /// Those that this node reads.
    pub fn own_formats(&self) -> FormatRange {
        self.inner.others.own_formats()
    }

    /// What members have said.
    fn member_formats(&self) -> Vec<MemberFormats> {
        let (_, members) = self.members();
        let said = |node_id| match node_id == self.node_id() {
            true => Some((self.own_formats(), Duration::ZERO)),
            false => self.inner.others.formats(node_id),
        };
        members
            .into_iter()
            .map(|(node_id, _)| MemberFormats { node_id, said: said(node_id) })
            .collect()
    }

    /// What finalizing the upgrade would do, by what this leader knows.
    pub fn plan_upgrade(&self) -> UpgradePlan {
        plan(self.cluster_version(), self.member_formats())
    }

    /// The version with which a cluster begins that this leader creates.
    pub(super) fn first_version(&self) -> FormatVersion {
        let plan = plan(FormatVersion::FIRST, self.member_formats());
        match plan.refusal {
            None => plan.to,
            Some(_) => FormatVersion::FIRST,
        }
    }

    /// Gives the cluster the newest version that all members read.
    pub async fn finalize_upgrade(&self) -> Result<UpgradePlan, MemberError> {
        self.must_lead()?;
        let _one = self.one_change()?;
        let mut plan = self.plan_upgrade();
        if let Some(refusal) = plan.refusal.take() {
            return Err(MemberError::UpgradeRefused(refusal));
        }
        if plan.is_so {
            return Ok(plan);
        }
        let until = Instant::now() + self.no_quorum_after();
        let raise = own_command(Action::RaiseVersion { to: plan.to });
        match self.write_here(raise, None, until).await {
            Ok(_) => {
                let (from, to) = (plan.version, plan.to);
                tracing::info!(%from, %to, "the upgrade is finalized: the cluster has a new version");
                Ok(plan)
            }
            Err(Error::NotProposed(NotProposed::NotLeader(_))) => Err(MemberError::NotLeader),
            Err(Error::NotProposed(NotProposed::NoQuorum { .. })) => Err(MemberError::NoQuorum),
            Err(Error::NotProposed(NotProposed::ShuttingDown)) => Err(MemberError::ShuttingDown),
            Err(Error::NotProposed(refusal)) => Err(MemberError::NotNow(refusal.to_string())),
            Err(Error::Unknown(unknown)) => Err(MemberError::Unknown(unknown.to_string())),
        }
    }

    /// Finalizes upgrades as soon as that can be, for as long as the node runs.
    pub async fn finalize_by_itself(self) {
        loop {
            tokio::time::sleep(LOOKS_EVERY).await;
            if self.must_lead().is_err() || !self.is_cluster_known() {
                continue;
            }
            let plan = self.plan_upgrade();
            if plan.is_so || plan.refusal.is_some() {
                continue;
            }
            if let Err(error) = self.finalize_upgrade().await {
                tracing::debug!(%error, "the upgrade is not finalized yet");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(version: u32, said: &[Option<(u32, u64)>]) -> UpgradePlan {
        let members = (1..).zip(said).map(|(node_id, said)| MemberFormats {
            node_id,
            said: said.map(|(max, ago)| (FormatRange::said(1, max), Duration::from_secs(ago))),
        });
        plan(FormatVersion(version), members.collect())
    }

    #[test]
    fn a_version_is_reached_when_all_have_said_so_lately() {
        let all = judged(1, &[Some((2, 0)), Some((2, 1)), Some((3, 5))]);
        assert_eq!((all.to, all.is_so, all.refusal), (FormatVersion(2), false, None));
        let done = judged(2, &[Some((2, 0)), Some((2, 0))]);
        assert!(done.is_so && done.refusal.is_none(), "{done:?}");
        let alone = judged(1, &[Some((2, 0))]);
        assert_eq!((alone.to, alone.refusal), (FormatVersion(2), None));
    }

    #[test]
    fn whoever_is_behind_or_silent_is_named() {
        let behind = judged(1, &[Some((2, 0)), Some((1, 0)), None]);
        let refusal = behind.refusal.expect("node 2 is behind");
        assert!(refusal.contains("node 2 reads version 1") && !behind.passes, "{refusal}");
        let silent = judged(1, &[Some((2, 0)), Some((2, 6)), Some((2, 1))]);
        let refusal = silent.refusal.expect("node 2 is silent");
        assert!(refusal.contains("node 2 has not said for 6 s"), "{refusal}");
        assert!(refusal.contains("tally cluster remove 2") && !silent.passes, "{refusal}");
        let unmet = judged(1, &[Some((2, 0)), None]);
        assert!(unmet.passes && unmet.refusal.is_some(), "{unmet:?}");
        // Nobody reads more than the cluster has: whoever is away is nobody's business.
        let nothing = judged(2, &[Some((2, 0)), None]);
        assert!(nothing.is_so && nothing.refusal.is_none(), "{nothing:?}");
    }
}
