//! Whom a fault strikes, which links that takes, and what may be damaged.

use serde::Serialize;
use turmoil::Sim;

use super::{Injector, Undo};
use crate::{
    cluster::{Condition, host_of},
    faults::{
        links::{Taken, Trouble},
        operator,
        plan::Target,
    },
};

/// Who is who at the moment of a fault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Whom {
    /// The node that leads.
    pub leader: Option<u64>,
    /// All that belong to the cluster.
    pub members: Vec<u64>,
}

impl Whom {
    /// The node that a target means.
    pub fn id(&self, target: Target) -> Option<u64> {
        let nth = |ids: &[u64], n: u64| match ids.len() as u64 {
            0 => None,
            len => Some(ids[(n % len) as usize]),
        };
        match target {
            Target::Leader => self.leader.or(self.members.first().copied()),
            Target::Follower(n) => {
                let follows = |id: &u64| Some(*id) != self.leader;
                nth(&self.members.iter().copied().filter(follows).collect::<Vec<_>>(), n)
            }
            Target::Any(n) => nth(&self.members, n),
        }
    }
}

impl Injector {
    pub(super) fn cut(
        &mut self,
        sim: &mut Sim<'_>,
        taken: Taken,
        until: u64,
    ) -> Result<(), &'static str> {
        if taken.is_empty() {
            return Err("there is no such link");
        }
        self.links.take(sim, &taken);
        self.undo.push((until, Undo::Links(taken)));
        Ok(())
    }

    pub(super) fn cut_one_way(
        &mut self,
        sim: &mut Sim<'_>,
        from: &[u64],
        to: &[u64],
        until: u64,
    ) -> Result<(), &'static str> {
        if self.losing > 0 {
            return Err("turmoil can't cut one direction while messages are lost");
        }
        let taken = from.iter().flat_map(|from| {
            let others = to.iter().filter(move |to| *to != from);
            others.map(move |to| (host_of(*from), host_of(*to), Trouble::Cut))
        });
        self.cut(sim, taken.collect(), until)
    }

    /// Both directions of all links between two groups.
    pub(super) fn between(&self, one: &[u64], other: &[u64], trouble: Trouble) -> Taken {
        let mut taken = Taken::new();
        for a in one {
            for b in other.iter().filter(|b| *b != a) {
                taken.push((host_of(*a), host_of(*b), trouble));
                taken.push((host_of(*b), host_of(*a), trouble));
            }
        }
        taken
    }

    /// All links of a node.
    pub(super) fn around(&self, id: u64, trouble: Trouble) -> Taken {
        let mut taken = self.between(&[id], &self.others(id), trouble);
        for other in self.client_hosts.iter().map(String::as_str).chain([operator::HOST]) {
            taken.push((host_of(id), other.to_owned(), trouble));
            taken.push((other.to_owned(), host_of(id), trouble));
        }
        taken
    }

    pub(super) fn others(&self, id: u64) -> Vec<u64> {
        self.members().into_iter().filter(|other| *other != id).collect()
    }

    pub(super) fn is_up(&self, id: u64) -> bool {
        matches!(self.cluster.machine(id).condition(), Condition::Running | Condition::Starting)
    }

    /// Who is meant by which target now.
    pub(super) fn whom(&self) -> Whom {
        let members = self.members();
        let leader = self.cluster.leader().filter(|id| members.contains(id));
        Whom { leader, members }
    }

    pub(super) fn resolve(&self, target: Target) -> Result<u64, &'static str> {
        let whom = self.whom();
        whom.id(target).ok_or(if whom.members.is_empty() {
            "there is no node"
        } else {
            "there is no such node"
        })
    }

    pub(super) fn resolve_running(&self, target: Target) -> Result<u64, &'static str> {
        let id = self.resolve(target)?;
        if self.is_up(id) && !self.rolling.contains(&id) {
            Ok(id)
        } else {
            Err("the node does not run")
        }
    }

    /// Damage beyond a minority may lose what was acknowledged: nobody promises otherwise.
    pub(super) fn may_damage(&self, id: u64) -> Result<(), &'static str> {
        if !self.damaged.is_empty() || !self.being_replaced.is_empty() {
            return Err("another node is damaged or being replaced");
        }
        if !self.wiped.is_empty() {
            return Err("a majority has lost its disks");
        }
        // A change that waits for this very node would be waited for by the one that replaces it.
        if !self.voters.contains(&id) || self.asked != self.voters {
            return Err("it is no voter, or the voters change");
        }
        if self.knobs.nodes < 3 || self.replacements_left == 0 {
            return Err("too few nodes would be left whole");
        }
        Ok(())
    }

    /// A file, an offset and a bit where rot can be told from a torn tail.
    pub(super) fn rotten_place(&self, id: u64, pick: u64) -> Option<(String, u64, u8)> {
        let machine = self.cluster.machine(id);
        let files = machine.disk().contents();
        let segments = files.keys().rev().filter(|path| path.starts_with("wal/"));
        // One that is written to, and one that waits to be the next.
        let last: Vec<String> = segments.take(2).cloned().collect();
        let mut places = Vec::new();
        for (path, bytes) in &files {
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            let rotten = match path {
                path if last.contains(path) => {
                    // A recycled segment has old frames behind the new ones.
                    let frames = written.min(machine.disk().written_end(path) as usize);
                    if frames < 32 * 1024 { 0 } else { frames / 2 }
                }
                path if path.starts_with("wal/") || path.contains("snapshot") => written,
                _ => 0,
            };
            if rotten > 0 {
                places.push((path.clone(), rotten as u64));
            }
        }
        if places.is_empty() {
            return None;
        }
        let (path, rotten) = places.swap_remove((pick % places.len() as u64) as usize);
        Some((path, (pick >> 8) % rotten, (pick >> 3) as u8 % 8))
    }
}
