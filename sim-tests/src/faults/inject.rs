//! Breaks things as planned, mends them when their time is over, and stays within what the protocol
//! promises to survive.
//!
//! **The atlas.** A majority must keep what it had synced. So at most a minority of the voters may
//! be damaged at a time (rotten, lost), counted until a replacement has taken the place of the
//! damaged one. A fault beyond that is skipped and reported as such. What only stops nodes, links
//! or clocks is never limited: the cluster may stop, but it may not lie.
//!
//! **Bit rot** strikes where it can be told from a torn tail: the log documents that damage to its
//! very last synced frame, before any later frame is written, looks like a torn tail. So bits flip
//! in old segments, snapshots, and the first half of the last segment.
//!
//! **Supervision**, as an init system would: a node that ended itself is started again after a
//! while. One whose disk was damaged and does not come back is replaced by the operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use tally_node::storage::simulated_disk::{CrashMode, Latency};
use turmoil::Sim;

use super::{
    links::{Links, Taken, Trouble},
    operator::{self, Desk, Task},
    plan::{Fault, Planned, Target},
};
use crate::{
    cluster::{Cluster, Condition, host_of},
    knobs::Knobs,
    trace_event,
};

/// How long a node that ended itself stays down.
const RESTART_AFTER_MS: u64 = 700;

/// How long a machine that came back empty is left to try, before the operator replaces it.
const REPLACE_AFTER_MS: u64 = 3_000;

/// What became of a planned fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Fate {
    /// It was installed.
    Installed,
    /// It was not, and why.
    Skipped(&'static str),
}

/// What was done about one planned fault.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// The fault.
    pub planned: Planned,
    /// When, in ms.
    pub at_ms: u64,
    /// What became of it.
    pub fate: Fate,
}

impl Done {
    /// Whether it was installed.
    pub fn is_installed(&self) -> bool {
        self.fate == Fate::Installed
    }
}

/// How a fault is undone.
enum Undo {
    Links(Taken),
    Restart(u64),
    Resume(u64, Taken),
    DiskLatency(u64),
    DiskRoom(u64),
    MessageLatency,
    MessageLoss,
}

/// Breaks and mends.
pub struct Injector {
    cluster: Cluster,
    desk: Desk,
    knobs: Knobs,
    client_hosts: Vec<String>,
    links: Links,
    plan: std::iter::Peekable<std::vec::IntoIter<Planned>>,
    undo: Vec<(u64, Undo)>,
    restart_at: BTreeMap<u64, u64>,
    /// Whose power fails between two disk operations to come.
    power_fails_soon: BTreeSet<u64>,
    /// Errors of each disk that were taken for the cause of an end.
    errors_seen: BTreeMap<u64, u64>,
    /// Damaged and not replaced yet.
    damaged: BTreeMap<u64, &'static str>,
    /// Ids of machines that were taken out of the cluster.
    retired: Vec<u64>,
    being_replaced: BTreeMap<u64, u64>,
    /// When machines that lost their disks are replaced.
    replace_at: BTreeMap<u64, u64>,
    rolling: Vec<u64>,
    healed: bool,
    losing: u32,
    next_id: u64,
    replacements_left: u64,
    done: Vec<Done>,
    failures: Vec<String>,
}

impl std::fmt::Debug for Injector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injector").field("damaged", &self.damaged).finish_non_exhaustive()
    }
}

impl Injector {
    /// With a plan for a cluster whose clients live on these hosts.
    pub fn new(
        cluster: Cluster,
        desk: Desk,
        knobs: Knobs,
        client_hosts: Vec<String>,
        plan: Vec<Planned>,
    ) -> Self {
        let next_id = cluster.ids().len() as u64 + 1;
        for id in cluster.ids() {
            set_up(&cluster, &knobs, id);
        }
        Injector {
            cluster,
            desk,
            client_hosts,
            links: Links::default(),
            plan: plan.into_iter().peekable(),
            undo: Vec::new(),
            restart_at: BTreeMap::new(),
            power_fails_soon: BTreeSet::new(),
            errors_seen: BTreeMap::new(),
            damaged: BTreeMap::new(),
            retired: Vec::new(),
            being_replaced: BTreeMap::new(),
            replace_at: BTreeMap::new(),
            rolling: Vec::new(),
            healed: false,
            losing: 0,
            next_id,
            replacements_left: knobs.nodes.saturating_sub(1),
            knobs,
            done: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// What became of the plan so far.
    pub fn done(&self) -> &[Done] {
        &self.done
    }

    /// Nodes that did not start, or ended themselves, without a fault that explains it.
    pub fn take_failures(&mut self) -> Vec<String> {
        std::mem::take(&mut self.failures)
    }

    /// Ids of the machines that still belong to the cluster.
    pub fn members(&self) -> Vec<u64> {
        self.cluster.ids().into_iter().filter(|id| !self.retired.contains(id)).collect()
    }

    /// Whether nothing is broken, being mended or to be administered any more.
    pub fn is_calm(&self) -> bool {
        self.undo.is_empty()
            && self.restart_at.is_empty()
            && self.being_replaced.is_empty()
            && self.replace_at.is_empty()
            && self.rolling.is_empty()
            && self.desk.is_idle()
            && self
                .members()
                .iter()
                .all(|id| self.cluster.machine(*id).condition() == Condition::Running)
    }

    /// Does what is due at this simulated millisecond.
    pub fn step(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.supervise(sim, now_ms);
        self.follow_operator(sim);
        self.roll(sim);
        let due: Vec<Undo> = {
            let (due, later) = std::mem::take(&mut self.undo)
                .into_iter()
                .partition::<Vec<_>, _>(|(at_ms, _)| *at_ms <= now_ms);
            self.undo = later;
            due.into_iter().map(|(_, undo)| undo).collect()
        };
        for undo in due {
            self.mend(sim, undo);
        }
        while let Some(planned) = self.plan.next_if(|planned| planned.at_ms <= now_ms) {
            let fate = match self.install(sim, &planned, now_ms) {
                Ok(()) => Fate::Installed,
                Err(why) => Fate::Skipped(why),
            };
            trace_event!("fault", "{planned}: {fate:?}");
            self.done.push(Done { planned, at_ms: now_ms, fate });
        }
    }

    /// Mends everything at once: the faults are over.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        trace_event!("fault", "everything is mended");
        self.plan = Vec::new().into_iter().peekable();
        self.desk.drop_transfers();
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.mend(sim, undo);
        }
        self.rolling.clear();
        self.healed = true;
    }

    fn supervise(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for id in self.members() {
            let machine = self.cluster.machine(id);
            if machine.disk().is_dead() && !machine.life().is_over() {
                // A power cut between two disk operations has struck.
                trace_event!(&host_of(id), "the power failed between two disk operations");
                self.power_fails_soon.remove(&id);
                self.cluster.cut_power(sim, id);
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
            }
            let Condition::Failed(reason) = machine.condition() else { continue };
            if self.restart_at.contains_key(&id) || self.being_replaced.contains_key(&id) {
                continue;
            }
            trace_event!(&host_of(id), "ended itself: {reason}");
            let errors = machine.disk().counts().errors;
            let errors_before = self.errors_seen.insert(id, errors).unwrap_or(0);
            let explained = errors > errors_before || self.power_fails_soon.remove(&id);
            self.cluster.cut_power(sim, id);
            if self.damaged.contains_key(&id) {
                self.replace(sim, id);
                continue;
            }
            if !explained && !self.expects_end(&reason) {
                self.failures.push(format!("node {id}: {reason}"));
            }
            self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
        }
        if self.healed {
            for id in self.members() {
                let condition = self.cluster.machine(id).condition();
                if matches!(condition, Condition::Down | Condition::Stopped)
                    && !self.being_replaced.contains_key(&id)
                {
                    self.restart_at.entry(id).or_insert(now_ms);
                }
            }
        }
        let lost: Vec<u64> =
            self.replace_at.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in lost {
            self.replace_at.remove(&id);
            if !self.being_replaced.contains_key(&id) && !self.retired.contains(&id) {
                self.restart_at.remove(&id);
                self.cluster.cut_power(sim, id);
                self.replace(sim, id);
            }
        }
        let due: Vec<u64> =
            self.restart_at.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in due {
            self.restart_at.remove(&id);
            trace_event!(&host_of(id), "is started");
            self.cluster.restart(sim, id);
        }
    }

    /// Whether a node may end itself for this reason without any fault of its disk.
    fn expects_end(&self, reason: &str) -> bool {
        // A machine that was taken out of the cluster, and does not know yet.
        reason.contains("refused by its peers") && !self.being_replaced.is_empty()
    }

    fn follow_operator(&mut self, sim: &mut Sim<'_>) {
        for (task, worked) in self.desk.take_done() {
            let Task::Replace { old, new } = task else { continue };
            assert!(worked, "the operator replaces until it is done");
            trace_event!(&host_of(old), "is taken out; {} has its place", host_of(new));
            if self.cluster.machine(old).condition() != Condition::Down {
                self.cluster.kill(sim, old);
            }
            self.restart_at.remove(&old);
            self.damaged.remove(&old);
            self.being_replaced.remove(&old);
            self.retired.push(old);
        }
    }

    /// One node after the other is stopped and started, the next one when the one before is back.
    fn roll(&mut self, sim: &mut Sim<'_>) {
        let Some(id) = self.rolling.last().copied() else { return };
        let gone = self.retired.contains(&id) || self.being_replaced.contains_key(&id);
        match self.cluster.machine(id).condition() {
            // It was asked to stop, and has not yet.
            Condition::Running | Condition::Starting if !gone => return,
            Condition::Stopped if !gone => {
                trace_event!(&host_of(id), "is started, in its turn");
                self.cluster.restart(sim, id);
            }
            // Something else happened to it meanwhile, and takes its own course.
            _ => {}
        }
        self.rolling.pop();
        if let Some(next) = self.rolling.last() {
            self.cluster.stop(*next);
        }
    }

    fn mend(&mut self, sim: &mut Sim<'_>, undo: Undo) {
        match undo {
            Undo::Links(taken) => self.links.give_back(sim, &taken),
            Undo::Restart(id) => {
                let down = matches!(
                    self.cluster.machine(id).condition(),
                    Condition::Down | Condition::Stopped
                );
                if down && !self.retired.contains(&id) && !self.restart_at.contains_key(&id) {
                    trace_event!(&host_of(id), "is started");
                    self.cluster.restart(sim, id);
                }
            }
            Undo::Resume(id, taken) => {
                trace_event!(&host_of(id), "goes on");
                self.cluster.machine(id).disk().set_latency(self.knobs.disk_latency());
                self.links.give_back(sim, &taken);
            }
            Undo::DiskLatency(id) => {
                self.cluster.machine(id).disk().set_latency(self.knobs.disk_latency());
            }
            Undo::DiskRoom(id) => self.cluster.machine(id).disk().set_capacity(None),
            Undo::MessageLatency => {
                sim.set_max_message_latency(Duration::from_millis(self.knobs.latency_ms_max));
            }
            Undo::MessageLoss => {
                self.losing -= 1;
                if self.losing == 0 {
                    sim.set_fail_rate(0.0);
                }
            }
        }
    }

    fn install(
        &mut self,
        sim: &mut Sim<'_>,
        planned: &Planned,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        let until = now_ms + planned.for_ms;
        match planned.fault.clone() {
            Fault::Isolate(target) => {
                let id = self.resolve(target)?;
                self.cut(sim, self.between(&[id], &self.others(id), Trouble::Cut), until)
            }
            Fault::IsolateFromAll(target) => {
                let id = self.resolve(target)?;
                let taken = self.around(id, Trouble::Cut);
                self.cut(sim, taken, until)
            }
            Fault::Halves(mask) => {
                let (one, other): (Vec<u64>, Vec<u64>) =
                    self.members().into_iter().partition(|id| mask >> (id % 64) & 1 == 1);
                self.cut(sim, self.between(&one, &other, Trouble::Cut), until)
            }
            Fault::CutLink(a, b) => {
                let (a, b) = (self.resolve(a)?, self.resolve(b)?);
                self.cut(sim, self.between(&[a], &[b], Trouble::Cut), until)
            }
            Fault::OneWay(from, to) => {
                let (from, to) = (self.resolve(from)?, self.resolve(to)?);
                self.cut_one_way(sim, &[from], &[to], until)
            }
            Fault::Mute(target) => {
                let id = self.resolve(target)?;
                self.cut_one_way(sim, &[id], &self.others(id), until)
            }
            Fault::Deaf(target) => {
                let id = self.resolve(target)?;
                self.cut_one_way(sim, &self.others(id), &[id], until)
            }
            Fault::CutClients(target) => {
                let host = host_of(self.resolve(target)?);
                let taken = self.client_hosts.iter().flat_map(|client| {
                    [
                        (client.clone(), host.clone(), Trouble::Cut),
                        (host.clone(), client.clone(), Trouble::Cut),
                    ]
                });
                self.cut(sim, taken.collect(), until)
            }
            Fault::Hold(target) => {
                let id = self.resolve(target)?;
                self.cut(sim, self.between(&[id], &self.others(id), Trouble::Held), until)
            }
            Fault::Slow(latency_ms) => {
                sim.set_max_message_latency(Duration::from_millis(latency_ms));
                self.undo.push((until, Undo::MessageLatency));
                Ok(())
            }
            Fault::Lose(one_in) => {
                if self.links.has_one_way() {
                    return Err("turmoil can't lose messages while a link is cut in one direction");
                }
                sim.set_fail_rate(1.0 / one_in as f64);
                self.losing += 1;
                self.undo.push((until, Undo::MessageLoss));
                Ok(())
            }
            Fault::Kill(target) => {
                let id = self.resolve_running(target)?;
                self.cluster.kill(sim, id);
                self.undo.push((until, Undo::Restart(id)));
                Ok(())
            }
            Fault::PowerCut(target) => {
                let id = self.resolve_running(target)?;
                self.cluster.cut_power(sim, id);
                self.undo.push((until, Undo::Restart(id)));
                Ok(())
            }
            Fault::PowerCutAll => {
                for id in self.members() {
                    if self.is_up(id) {
                        self.cluster.cut_power(sim, id);
                        self.undo.push((now_ms + planned.for_ms / 2 + 50 * id, Undo::Restart(id)));
                    }
                }
                Ok(())
            }
            Fault::PowerCutAtStep(target, step) => {
                let id = self.resolve_running(target)?;
                self.cluster.machine(id).disk().crash_after_steps(step);
                self.power_fails_soon.insert(id);
                Ok(())
            }
            Fault::BounceInElection(nth) => {
                let leader = self.resolve_running(Target::Leader)?;
                let follower = self.resolve_running(Target::Follower(nth))?;
                let taken = self.between(&[leader], &self.others(leader), Trouble::Cut);
                self.cut(sim, taken, until)?;
                let when = now_ms + self.knobs.election_ms_min;
                self.cluster.kill(sim, follower);
                self.undo.push((when, Undo::Restart(follower)));
                Ok(())
            }
            Fault::Pause(target) => {
                let id = self.resolve_running(target)?;
                let taken = self.around(id, Trouble::Held);
                self.links.take(sim, &taken);
                let still = Duration::from_millis(planned.for_ms);
                let latency = Latency { read: still, write: still, sync: still };
                self.cluster.machine(id).disk().set_latency(latency);
                self.undo.push((until, Undo::Resume(id, taken)));
                Ok(())
            }
            Fault::Stop(target) => {
                let id = self.resolve_running(target)?;
                self.cluster.stop(id);
                // It needs its grace to stop; a restart before would kill it.
                self.undo.push((until + 3_000, Undo::Restart(id)));
                Ok(())
            }
            Fault::SlowDisk(target, sync_ms) => {
                let id = self.resolve(target)?;
                let sync = Duration::from_millis(sync_ms);
                let latency = Latency { sync, ..self.knobs.disk_latency() };
                self.cluster.machine(id).disk().set_latency(latency);
                self.undo.push((until, Undo::DiskLatency(id)));
                Ok(())
            }
            Fault::SyncError(target) => {
                let id = self.resolve_running(target)?;
                self.cluster.machine(id).disk().fail_syncs(1);
                Ok(())
            }
            Fault::WriteError(target) => {
                let id = self.resolve_running(target)?;
                self.cluster.machine(id).disk().fail_writes(1);
                Ok(())
            }
            Fault::FullDisk(target) => {
                let id = self.resolve(target)?;
                self.cluster.machine(id).disk().set_capacity(Some(0));
                self.undo.push((until, Undo::DiskRoom(id)));
                Ok(())
            }
            Fault::BitRot(target, pick) => {
                let id = self.resolve_running(target)?;
                self.may_damage()?;
                let (file, offset, bit) = self.rotten_place(id, pick).ok_or("nothing to rot")?;
                self.cluster.cut_power(sim, id);
                let flipped = self.cluster.machine(id).disk().flip_bit(&file, offset, bit);
                trace_event!(&host_of(id), "bit {bit} of {file} at {offset}: flipped {flipped}");
                self.damaged.insert(id, "bit rot");
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
                Ok(())
            }
            Fault::LoseDisk(target) => {
                let id = self.resolve_running(target)?;
                self.may_damage()?;
                let machine = self.cluster.machine(id);
                self.cluster.cut_power(sim, id);
                machine.disk().wipe();
                machine.stores().wipe();
                self.damaged.insert(id, "lost disk");
                self.replace_at.insert(id, now_ms + RESTART_AFTER_MS + REPLACE_AFTER_MS);
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
                Ok(())
            }
            Fault::WrongClock(target, offset_ms) => {
                let id = self.resolve(target)?;
                self.cluster.machine(id).wall_clock().set_offset_ms(offset_ms);
                Ok(())
            }
            Fault::DriftingClock(target, drift_ppm) => {
                let id = self.resolve(target)?;
                self.cluster.machine(id).wall_clock().set_drift_ppm(drift_ppm);
                Ok(())
            }
            Fault::TransferLeader => {
                self.desk.ask(Task::TransferLeader);
                Ok(())
            }
            Fault::Replace(target) => {
                let id = self.resolve(target)?;
                if !self.being_replaced.is_empty() || self.replacements_left == 0 {
                    return Err("one node is replaced at a time, and never all of them");
                }
                if !self.damaged.is_empty() {
                    return Err("a damaged node waits to be replaced");
                }
                self.replace(sim, id);
                Ok(())
            }
            Fault::RollingRestart => {
                if !self.rolling.is_empty() {
                    return Err("one rolling restart at a time");
                }
                let running = self.members().into_iter().filter(|id| self.is_up(*id));
                self.rolling = running.collect();
                if let Some(first) = self.rolling.last() {
                    self.cluster.stop(*first);
                }
                Ok(())
            }
        }
    }

    fn cut(&mut self, sim: &mut Sim<'_>, taken: Taken, until: u64) -> Result<(), &'static str> {
        if taken.is_empty() {
            return Err("there is no such link");
        }
        self.links.take(sim, &taken);
        self.undo.push((until, Undo::Links(taken)));
        Ok(())
    }

    fn cut_one_way(
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
    fn between(&self, one: &[u64], other: &[u64], trouble: Trouble) -> Taken {
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
    fn around(&self, id: u64, trouble: Trouble) -> Taken {
        let mut taken = self.between(&[id], &self.others(id), trouble);
        for other in self.client_hosts.iter().map(String::as_str).chain([operator::HOST]) {
            taken.push((host_of(id), other.to_owned(), trouble));
            taken.push((other.to_owned(), host_of(id), trouble));
        }
        taken
    }

    fn others(&self, id: u64) -> Vec<u64> {
        self.members().into_iter().filter(|other| *other != id).collect()
    }

    fn is_up(&self, id: u64) -> bool {
        matches!(self.cluster.machine(id).condition(), Condition::Running | Condition::Starting)
    }

    fn resolve(&self, target: Target) -> Result<u64, &'static str> {
        let members = self.members();
        let leader = self.cluster.leader().filter(|id| members.contains(id));
        let nth = |ids: Vec<u64>, n: u64| match ids.len() as u64 {
            0 => Err("there is no such node"),
            len => Ok(ids[(n % len) as usize]),
        };
        match target {
            Target::Leader => leader.or(members.first().copied()).ok_or("there is no node"),
            Target::Follower(n) => {
                nth(members.into_iter().filter(|id| Some(*id) != leader).collect(), n)
            }
            Target::Any(n) => nth(members, n),
        }
    }

    fn resolve_running(&self, target: Target) -> Result<u64, &'static str> {
        let id = self.resolve(target)?;
        if self.is_up(id) && !self.rolling.contains(&id) {
            Ok(id)
        } else {
            Err("the node does not run")
        }
    }

    /// Damage beyond a minority may lose what was acknowledged: nobody promises otherwise.
    fn may_damage(&self) -> Result<(), &'static str> {
        if !self.damaged.is_empty() || !self.being_replaced.is_empty() {
            return Err("another node is damaged or being replaced");
        }
        if self.knobs.nodes < 3 || self.replacements_left == 0 {
            return Err("too few nodes would be left whole");
        }
        Ok(())
    }

    /// A file, an offset and a bit where rot can be told from a torn tail.
    fn rotten_place(&self, id: u64, pick: u64) -> Option<(String, u64, u8)> {
        let files = self.cluster.machine(id).disk().contents();
        let last_segment = files.keys().rfind(|path| path.starts_with("wal/")).cloned();
        let mut places = Vec::new();
        for (path, bytes) in &files {
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            let rotten = match &last_segment {
                Some(last) if last == path => {
                    if written < 32 * 1024 {
                        0
                    } else {
                        written / 2
                    }
                }
                _ if path.starts_with("wal/") || path.contains("snapshot") => written,
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

    fn replace(&mut self, sim: &mut Sim<'_>, old: u64) {
        let new = self.next_id;
        self.next_id += 1;
        self.replacements_left = self.replacements_left.saturating_sub(1);
        self.cluster.add(sim, new);
        set_up(&self.cluster, &self.knobs, new);
        trace_event!(&host_of(new), "is a new machine, for the place of {}", host_of(old));
        self.being_replaced.insert(old, new);
        self.desk.ask(Task::Replace { old, new });
    }
}

fn set_up(cluster: &Cluster, knobs: &Knobs, id: u64) {
    let machine = cluster.machine(id);
    machine.disk().set_crash_mode(CrashMode::Harsh);
    machine.disk().set_latency(knobs.disk_latency());
    machine.set_store_latency(Duration::from_micros(knobs.store_us));
}
