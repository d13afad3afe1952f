//! Faults in words.

use super::{Line, span};
use crate::faults::{
    inject::{Done, Fate, Whom},
    moments::Moment,
    plan::{Fault, Target},
};

/// A line as each begins, and one as it ends if it lasts, with how many writes were acknowledged in between;
/// what is undone at `mended_ms` with everything else has no end of its own.
pub(super) fn lines(done: &[Done], mended_ms: Option<u64>, acked_ms: &[u64]) -> Vec<Line> {
    let mut lines = Vec::new();
    for Done { planned, at_ms, whom, fate } in done {
        let words = Words { whom: Some(whom), for_ms: planned.for_ms };
        let mut text = words.of(&planned.fault).replace(",;", ";").replace(",,", ",");
        if let Fate::Skipped(why) = fate {
            text += &format!(" – left out: {why}");
        }
        lines.push(Line::new(*at_ms, "fault", text));
        let end_ms = at_ms + planned.for_ms;
        let end = words.end_of(&planned.fault).filter(|_| *fate == Fate::Installed);
        if let Some(end) = end.filter(|_| mended_ms.is_none_or(|mended_ms| end_ms < mended_ms)) {
            let meanwhile = acked_ms.partition_point(|ms| *ms < end_ms)
                - acked_ms.partition_point(|ms| *ms < *at_ms);
            let meanwhile = match meanwhile {
                0 => "no write was acknowledged meanwhile".to_owned(),
                1 => "1 write was acknowledged meanwhile".to_owned(),
                writes => format!("{writes} writes were acknowledged meanwhile"),
            };
            lines.push(Line::new(end_ms, "fault", format!("{end}; {meanwhile}")));
        }
    }
    lines
}

struct Words<'a> {
    /// Nobody knows yet.
    whom: Option<&'a Whom>,
    for_ms: u64,
}

impl Words<'_> {
    fn node(&self, target: Target) -> String {
        let id = self.whom.and_then(|whom| whom.id(target));
        match (target, id) {
            (Target::Leader, Some(id)) => format!("the leader, node {id},"),
            (Target::Leader, None) => "the leader".to_owned(),
            (Target::Follower(_), Some(id)) => format!("a follower, node {id},"),
            (Target::Follower(_), None) => "a follower".to_owned(),
            (Target::Any(_), Some(id)) => format!("node {id}"),
            (Target::Any(_), None) => "a node".to_owned(),
        }
    }

    /// The end of what was begun, where the nodes do not tell of it themselves.
    fn end_of(&self, fault: &Fault) -> Option<String> {
        let node = |target: &Target| {
            let id = self.whom.and_then(|whom| whom.id(*target));
            id.map_or_else(|| "a node".to_owned(), |id| format!("node {id}"))
        };
        let what = match fault {
            Fault::Isolate(at) | Fault::IsolateFromAll(at) => {
                format!("the cut around {}", node(at))
            }
            Fault::Halves(_) => "the split of the network".to_owned(),
            Fault::CutLink(one, other) => {
                format!("the cut between {} and {}", node(one), node(other))
            }
            Fault::OneWay(one, other) => {
                format!("the cut from {} to {}", node(one), node(other))
            }
            Fault::Mute(at) => format!("the silence of {}", node(at)),
            Fault::Deaf(at) => format!("the deafness of {}", node(at)),
            Fault::CutClients(at) => format!("the cut between clients and {}", node(at)),
            Fault::Hold(at) => format!("the wait of {}'s messages", node(at)),
            Fault::Slow(_) => "slow messages".to_owned(),
            Fault::Lose(_) => "lost messages".to_owned(),
            Fault::SlowDisk(at, _) => format!("the slow disk of {}", node(at)),
            Fault::FullDisk(at) => format!("the full disk of {}", node(at)),
            Fault::WithLearners => {
                format!("the cut between {} and the other voters", node(&Target::Leader))
            }
            _ => return None,
        };
        Some(format!("over: {what}"))
    }

    fn of(&self, fault: &Fault) -> String {
        let lasts = span(self.for_ms);
        let node = |target: &Target| self.node(*target);
        match fault {
            Fault::Isolate(at) => {
                format!(
                    "{} is cut off from the other nodes for {lasts}; clients still reach it",
                    node(at)
                )
            }
            Fault::IsolateFromAll(at) => {
                format!("{} is cut off from everybody for {lasts}", node(at))
            }
            Fault::Depose(ms) => format!(
                "{} is cut off from the other nodes, clients still reach it, until another leads and {} more",
                node(&Target::Leader),
                span(*ms)
            ),
            Fault::LeaveBehind(at, None) => {
                format!(
                    "{} is cut off until the others have given up the log that it needs",
                    node(at)
                )
            }
            Fault::LeaveBehind(at, Some(steps)) => format!(
                "{} is cut off until the others have given up the log that it needs; its power fails {steps} \
                 disk operations into the snapshot that it gets then",
                node(at)
            ),
            Fault::Halves(_) => format!("the network splits in two for {lasts}"),
            Fault::CutLink(one, other) => {
                format!("the link between {} and {} is cut for {lasts}", node(one), node(other))
            }
            Fault::OneWay(one, other) => {
                format!("nothing from {} reaches {} for {lasts}", node(one), node(other))
            }
            Fault::Mute(at) => {
                format!("nothing that {} sends to other nodes arrives for {lasts}", node(at))
            }
            Fault::Deaf(at) => {
                format!("nothing that other nodes send to {} arrives for {lasts}", node(at))
            }
            Fault::CutClients(at) => format!("clients do not reach {} for {lasts}", node(at)),
            Fault::Hold(at) => {
                format!("messages of {} wait for {lasts}, and arrive together then", node(at))
            }
            Fault::Stall(at, ms, _) => {
                format!(
                    "what old connections bring {} waits for {}, then drips",
                    node(at),
                    span(*ms)
                )
            }
            Fault::Slow(ms) => format!("messages take up to {} for {lasts}", span(*ms)),
            Fault::Lose(one_in) => {
                format!("messages get lost with their connections, one in {one_in}, for {lasts}")
            }
            Fault::Kill(at) => format!("{} is killed, and is back after {lasts}", node(at)),
            Fault::PowerCut(at) => format!("the power of {} fails for {lasts}", node(at)),
            Fault::PowerCutAll => format!("the power of all machines fails at once, for {lasts}"),
            Fault::PowerCutAtStep(at, steps) => {
                format!("the power of {} fails after {steps} disk operations", node(at))
            }
            Fault::PowerCutOn(at, moment, steps) => format!(
                "the power of {} fails {steps} disk operations after {}",
                node(at),
                moment_in_words(*moment)
            ),
            Fault::PowerCutTwo(one, other, ms) => {
                format!(
                    "the power of {} fails, and {} later that of {}",
                    node(one),
                    span(*ms),
                    node(other)
                )
            }
            Fault::BounceInElection(_) => {
                format!(
                    "{} is cut off, and a follower restarts in the election",
                    node(&Target::Leader)
                )
            }
            Fault::Pause(at) => format!("the machine of {} stands still for {lasts}", node(at)),
            Fault::Stop(at) => format!("{} is stopped in good order for {lasts}", node(at)),
            Fault::SlowDisk(at, ms) => {
                format!(
                    "each sync of {}'s disk takes {} for {lasts}",
                    node(at).trim_end_matches(','),
                    span(*ms)
                )
            }
            Fault::SyncError(at) => format!("the next sync of {} fails", node(at)),
            Fault::WriteError(at) => format!("the next write of {} fails", node(at)),
            Fault::StoreError(at, _) => {
                format!("the next write of {} to its state's store fails", node(at))
            }
            Fault::ReadError(at) => format!("the next read of {} fails", node(at)),
            Fault::FullDisk(at) => format!("the disk of {} is full for {lasts}", node(at)),
            Fault::BitRot(at, _) => {
                format!("a bit on the disk of {} flips, then its power fails", node(at))
            }
            Fault::StoredBit(at) => {
                format!("the power of {} fails, and a bit of its stored state flips", node(at))
            }
            Fault::LoseDisk(at) => {
                format!("the disk of {} is lost; the machine comes back empty", node(at))
            }
            Fault::LoseLog(at) => {
                format!("the log of {} is lost, and what lies beside it is not", node(at))
            }
            Fault::OlderCopy(at) => {
                format!("the disk of {} is put back from an older copy", node(at))
            }
            Fault::WrongClock(at, ms) => {
                format!("the wall clock of {} is wrong by {ms} ms from now on", node(at))
            }
            Fault::DriftingClock(at, us) => {
                format!("the wall clock of {} gains {us} µs a second", node(at))
            }
            Fault::TransferLeader => "the operator lets another node lead".to_owned(),
            Fault::Replace(at) => format!("the operator replaces {} by a new machine", node(at)),
            Fault::RollingRestart(hasty) => {
                let when =
                    if *hasty { "as soon as it was started" } else { "when it has caught up" };
                format!(
                    "the operator restarts every node, one after the other: the next one {when}"
                )
            }
            Fault::UnheardVote => format!(
                "{} is cut off; whoever stands for election next is not heard, as the third is cut off then",
                node(&Target::Leader)
            ),
            Fault::PromotionWhileCutOff => format!(
                "{} is cut off, asked to promote a learner, and stays away until it is left behind",
                node(&Target::Leader)
            ),
            Fault::OverruledPromotion => format!(
                "{} is asked to promote a learner; as soon as it has that in its log, it is cut off until it is \
                 left behind, and the power of all others fails",
                node(&Target::Leader)
            ),
            Fault::Grow => "the operator adds a new machine as a voter".to_owned(),
            Fault::Shrink(at, 0) => {
                format!("the operator removes {}; its process goes on", node(at))
            }
            Fault::Shrink(at, ms) => format!(
                "the operator removes {}, which is cut off from the other nodes for {}; its process goes on",
                node(at),
                span(*ms)
            ),
            Fault::Learner(ms, promoted) => {
                let then = if *promoted { "promotes" } else { "removes" };
                format!("the operator adds a learner, and {then} it after {}", span(*ms))
            }
            Fault::WithLearners => {
                format!("{} is alone with the learners for {lasts}", node(&Target::Leader))
            }
            Fault::WhenJoint(broken, _) => {
                let words = Words { whom: None, ..*self };
                format!("when the voters change next: {}", words.of(&broken.fault()))
            }
            Fault::Restore(_) => {
                "the operator backs the cluster up, and restores it into another one, whose power fails meanwhile"
                    .to_owned()
            }
            Fault::WipeMajority(_) => format!("a majority's disks are lost at once, for {lasts}"),
            Fault::Stranger(at, same_id) => {
                let id = if *same_id { "its id" } else { "another id" };
                format!(
                    "{} is down for {lasts}; a node of another cluster has its address, under {id}",
                    node(at)
                )
            }
        }
    }
}

fn moment_in_words(moment: Moment) -> &'static str {
    match moment {
        Moment::Vote => "its vote is saved",
        Moment::Append => "entries are handed to its log",
        Moment::Synced => "entries are synced",
        Moment::Truncate => "it is about to drop entries of an overruled leader",
        Moment::Purge => "its log is about to be purged",
        Moment::Snapshot => "it has built a snapshot",
        Moment::Install => "it is about to install a snapshot",
        Moment::Segment => "its log moves on into a used file",
    }
}
