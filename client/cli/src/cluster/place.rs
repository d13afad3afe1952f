//! What is left of a replacement whose old node is gone: nothing, if its place was taken.
//!
//! # Why nothing is left
//! `replace` takes its steps in one order, and asks for each only after the one before it was answered as done: the new
//! node is added, it gets a vote if the old one has one, and last of all the old one is removed. So where the removal
//! was asked for by this command, whatever had to be done before it is done, also if the command broke off right then.
//! A voter's successor votes already. One that has no vote is the successor of a learner, and to give it one would change
//! the quorum though nobody has asked for that. Where somebody else took the old one out (`remove`, `forget`), nobody
//! knows whether it had a vote, and a vote is nothing to guess: `promote` gives it.
//!
//! # Where its place was not taken
//! A node that is no member can't be the one that took it. To add it would be one more member and not another one, so
//! that is for `add`, which says so.

use tally_client::proto::ClusterPlan;

use crate::output::escaped;

/// The end of a replacement of a node that is gone, by the node that the plan would add; or why it is refused.
pub(super) fn taken(old: u64, address: &str, coming: &ClusterPlan) -> Result<String, String> {
    let (new, address) = (coming.node_id, escaped(address));
    if !coming.is_so {
        return Err(format!(
            "node {old} is gone already, and node {new} at {address} is no member, so it did not take its place: \
             nothing is there to replace. `tally cluster members` shows who is a member; `tally cluster add {new} \
             {address}` adds one more"
        ));
    }
    let votes = coming.before.as_ref().is_some_and(|before| before.voters.contains(&new));
    Ok(match votes {
        true => format!("node {new} has the place of node {old}: it is a voter"),
        false => format!(
            "node {new} has the place of node {old}: it is a learner, and stays one (`tally cluster promote {new}` \
             gives it a vote)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use tally_client::proto::ClusterVoters;

    use super::*;

    fn coming(is_so: bool) -> ClusterPlan {
        let before =
            ClusterVoters { voters: vec![1, 2, 3], learners: vec![5], ..Default::default() };
        ClusterPlan { node_id: 5, is_so, before: Some(before), ..Default::default() }
    }

    #[test]
    fn a_member_keeps_what_it_has() {
        let learner = taken(4, "e:1", &coming(true)).unwrap();
        assert!(learner.contains("node 5 has the place of node 4: it is a learner"), "{learner}");
        let voter = ClusterPlan { node_id: 3, ..coming(true) };
        let voter = taken(4, "c:1", &voter).unwrap();
        assert_eq!(voter, "node 3 has the place of node 4: it is a voter");
    }

    #[test]
    fn who_is_no_member_took_no_place() {
        let refused = taken(4, "e:1", &coming(false)).unwrap_err();
        assert!(refused.contains("node 4 is gone already"), "{refused}");
        assert!(refused.contains("`tally cluster add 5 e:1`"), "{refused}");
    }
}
