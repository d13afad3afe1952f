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
//! Here is the one who does it, step by step. Each kind of fault has a file of its own, and so have those
//! that watch what came of it (`supervise`, `copies`, `differing`, `removed`, `restored`, `strangers`, `wiped`, `members`).

mod copies;
mod differing;
mod install;
mod members;
mod releases;
mod removed;
mod restored;
mod staged;
mod strangers;
mod supervise;
mod targets;
mod until;
mod wiped;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use tally_node::storage::simulated_disk::CrashMode;
use tally_proto::seeded_bugs;
use turmoil::Sim;

use self::copies::Copy;
pub(crate) use self::targets::Whom;
use super::{
    links::{Links, Taken},
    moments::Traps,
    operator::Desk,
    plan::Planned,
};
use crate::{
    cluster::{Cluster, Condition, host_of},
    invariants::Invariants,
    kinds,
    knobs::Knobs,
    trace_event,
    workload::Workload,
};

/// How long a node that ended itself stays down.
const RESTART_AFTER_MS: u64 = 700;

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
    /// Who was who then.
    pub whom: Whom,
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
    PutBack(u64),
    Settle(u64, bool),
    DisksBack,
}

/// Breaks and mends.
pub(crate) struct Injector {
    cluster: Cluster,
    desk: Desk,
    knobs: Knobs,
    client_hosts: Vec<String>,
    links: Links,
    plan: std::iter::Peekable<std::vec::IntoIter<Planned>>,
    undo: Vec<(u64, Undo)>,
    /// Cuts that wait for something to happen.
    waiting: Vec<until::Waiting>,
    unheard_votes: Vec<staged::UnheardVote>,
    unheard_changes: Vec<staged::UnheardChange>,
    restart_at: BTreeMap<u64, u64>,
    /// How long machines stay down whose power fails between two disk operations to come.
    down_ms: BTreeMap<u64, u64>,
    traps: Traps,
    invariants: Invariants,
    /// Nodes with something wrong that does not stop them, and how many things.
    ailing: BTreeMap<u64, u32>,
    /// Until when a disk may be busy with what it began while it was slow.
    busy_until_ms: BTreeMap<u64, u64>,
    now_ms: u64,
    /// A second power cut to come: when, whose, and how long it lasts.
    second_cuts: Vec<(u64, u64, u64)>,
    /// Errors of each disk that were taken for the cause of an end.
    errors_seen: BTreeMap<u64, u64>,
    /// Copies of disks that are to be put back.
    copies: BTreeMap<u64, Copy>,
    /// Nodes that were started on an older copy, each with a peer that can tell.
    put_back: BTreeMap<u64, u64>,
    /// Damaged and not replaced yet.
    damaged: BTreeMap<u64, &'static str>,
    /// Ids of machines that were taken out of the cluster.
    retired: Vec<u64>,
    being_replaced: BTreeMap<u64, u64>,
    /// Nodes in whose stored state a bit has flipped.
    differing: BTreeMap<u64, differing::Differing>,
    /// When machines that lost their disks are replaced.
    replace_at: BTreeMap<u64, u64>,
    /// Those that are to be restarted, the next one last, …
    rolling: Vec<u64>,
    /// … whether it is waited for the one before, …
    rolls_hastily: bool,
    /// … and who that is, with the log index that it must have applied.
    rolls_behind: Option<(u64, u64)>,
    /// All were told to restart with the newest release.
    upgrades: bool,
    finalized: bool,
    healed: bool,
    losing: u32,
    slow: u32,
    next_id: u64,
    replacements_left: u64,
    done: Vec<Done>,
    failures: Vec<String>,
    /// The voters, as the operator was told last …
    voters: BTreeSet<u64>,
    /// … and when all has been done that was asked for.
    asked: BTreeSet<u64>,
    /// What the operator was told.
    told: Vec<BTreeSet<u64>>,
    /// Nodes that have no vote yet.
    learners: BTreeSet<u64>,
    /// Members whose removal was asked for.
    leaving: BTreeSet<u64>,
    removed: BTreeMap<u64, removed::Removed>,
    taken_out_ms: BTreeMap<u64, u64>,
    machines_left: u64,
    joint_breaks: Vec<members::WaitsForJoint>,
    joints_seen: u64,
    joint_since_ms: Option<u64>,
    size_seen: usize,
    strangers: Vec<strangers::Strangers>,
    workload: Workload,
    /// The cluster that a backup is restored into.
    other: Option<restored::Other>,
    wiped: wiped::Wiped,
    /// Of those that were wiped, who was told that it must not run.
    sent_away: BTreeSet<u64>,
    happened: BTreeMap<&'static str, u64>,
}

impl std::fmt::Debug for Injector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injector").field("damaged", &self.damaged).finish_non_exhaustive()
    }
}

impl Injector {
    /// With a plan for a cluster whose clients live on these hosts.
    pub(crate) fn new(
        cluster: Cluster,
        desk: Desk,
        knobs: Knobs,
        client_hosts: Vec<String>,
        plan: Vec<Planned>,
        watched: (Traps, Invariants, Workload),
    ) -> Self {
        let next_id = cluster.ids().len() as u64 + 1;
        let (traps, invariants, workload) = watched;
        for id in cluster.ids() {
            set_up(&cluster, &knobs, &invariants, id);
        }
        let voters: BTreeSet<u64> = cluster.ids().into_iter().collect();
        Injector {
            desk,
            client_hosts,
            links: Links::new(cluster.wires().clone()),
            plan: plan.into_iter().peekable(),
            undo: Vec::new(),
            waiting: Vec::new(),
            unheard_votes: Vec::new(),
            unheard_changes: Vec::new(),
            restart_at: BTreeMap::new(),
            down_ms: BTreeMap::new(),
            traps,
            invariants,
            ailing: BTreeMap::new(),
            busy_until_ms: BTreeMap::new(),
            now_ms: 0,
            second_cuts: Vec::new(),
            cluster,
            errors_seen: BTreeMap::new(),
            copies: BTreeMap::new(),
            put_back: BTreeMap::new(),
            damaged: BTreeMap::new(),
            retired: Vec::new(),
            being_replaced: BTreeMap::new(),
            differing: BTreeMap::new(),
            replace_at: BTreeMap::new(),
            rolling: Vec::new(),
            rolls_hastily: false,
            rolls_behind: None,
            upgrades: false,
            finalized: false,
            healed: false,
            losing: 0,
            slow: 0,
            next_id,
            replacements_left: knobs.nodes.saturating_sub(1),
            knobs,
            done: Vec::new(),
            failures: Vec::new(),
            asked: voters.clone(),
            voters,
            told: Vec::new(),
            learners: BTreeSet::new(),
            leaving: BTreeSet::new(),
            removed: BTreeMap::new(),
            taken_out_ms: BTreeMap::new(),
            machines_left: members::MACHINES_MAX,
            joint_breaks: Vec::new(),
            joints_seen: 0,
            joint_since_ms: None,
            size_seen: 0,
            strangers: Vec::new(),
            workload,
            other: None,
            wiped: BTreeMap::new(),
            sent_away: BTreeSet::new(),
            happened: kinds::SITUATIONS.iter().map(|what| (*what, 0)).collect(),
        }
    }

    /// What became of the plan so far.
    pub(crate) fn done(&self) -> &[Done] {
        &self.done
    }

    /// Nodes that did not start, or ended themselves, without a fault that explains it.
    pub(crate) fn take_failures(&mut self) -> Vec<String> {
        std::mem::take(&mut self.failures)
    }

    /// Ids of the machines that still belong to the cluster.
    pub(crate) fn members(&self) -> Vec<u64> {
        self.cluster.ids().into_iter().filter(|id| !self.retired.contains(id)).collect()
    }

    /// Whether a node runs, and nothing that was done to it makes it slow.
    pub(super) fn is_healthy(&self, id: u64) -> bool {
        self.is_well(id)
            && !self.being_replaced.contains_key(&id)
            && !self.leaving.contains(&id)
            && !self.rolling.contains(&id)
    }

    /// The same, whatever the operator means to do with it.
    fn is_well(&self, id: u64) -> bool {
        self.cluster.machine(id).condition() == Condition::Running
            && self.ailing.get(&id).is_none_or(|ailing| *ailing == 0)
            && self.busy_until_ms.get(&id).is_none_or(|until_ms| *until_ms <= self.now_ms)
    }

    /// Whether messages pass between two nodes in both directions, in their usual time.
    pub(super) fn is_linked(&self, a: u64, b: u64) -> bool {
        self.links.is_whole(&host_of(a), &host_of(b))
    }

    /// Whether some link is cut in one direction only.
    /// The links that it cuts.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(super) fn has_one_way(&self) -> bool {
        self.links.has_one_way()
    }

    /// Whether no message of any link is lost or late.
    pub(super) fn is_network_calm(&self, now_ms: u64) -> bool {
        self.slow == 0 && self.losing == 0 && !self.cluster.wires().is_stalled(now_ms)
    }

    /// Whether nothing is broken, being mended or to be administered any more.
    pub(crate) fn is_calm(&self) -> bool {
        self.undo.is_empty()
            && self.waiting.is_empty()
            && self.unheard_votes.is_empty()
            && self.unheard_changes.is_empty()
            && self.restart_at.is_empty()
            && self.being_replaced.is_empty()
            && self.is_differing_over()
            && self.has_restored()
            && self.replace_at.is_empty()
            && self.rolling.is_empty()
            && self.desk.is_idle()
            && self
                .members()
                .iter()
                .all(|id| self.cluster.machine(*id).condition() == Condition::Running)
    }

    /// Does what is due at this simulated millisecond.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.links.set_now(now_ms);
        self.now_ms = now_ms;
        self.watch_put_back(sim, now_ms);
        self.watch_differing(sim, now_ms);
        self.supervise(sim, now_ms);
        self.cut_second(sim, now_ms);
        self.follow_operator(sim, now_ms);
        self.watch_changes(sim, now_ms);
        self.watch_removed(sim, now_ms);
        self.watch_strangers(now_ms);
        self.watch_restored(sim, now_ms);
        self.watch_wiped();
        self.roll(sim);
        self.follow_releases(sim, now_ms);
        self.look_whether_happened(now_ms);
        self.look_who_stands(sim, now_ms);
        self.look_who_changes(sim, now_ms);
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
            let whom = self.whom();
            let fate = match self.install(sim, &planned, now_ms) {
                Ok(()) => Fate::Installed,
                Err(why) => Fate::Skipped(why),
            };
            trace_event!("fault", "{planned}: {fate:?}");
            self.done.push(Done { planned, at_ms: now_ms, whom, fate });
        }
        // Where turmoil loses a message it mends the link afterwards, in both directions, also one
        // that was cut in one of them. A link gets there while messages are lost when a cut of both
        // directions ends over a cut of one (found by the watch on cuts, seed 700).
        if self.losing > 0 && self.links.has_one_way() {
            sim.set_fail_rate(0.0);
        }
    }

    /// Mends everything at once: the faults are over.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        trace_event!("fault", "everything is mended");
        self.plan = Vec::new().into_iter().peekable();
        self.desk.drop_transfers();
        self.look_whether_happened(u64::MAX);
        self.look_who_stands(sim, u64::MAX);
        self.unheard_changes.clear();
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.mend(sim, undo);
        }
        self.rolling.clear();
        self.rolls_behind = None;
        self.second_cuts.clear();
        self.joint_breaks.clear();
        self.traps.clear();
        self.healed = true;
    }

    fn follow_operator(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for (task, worked) in self.desk.take_done() {
            self.changed(sim, task, worked, now_ms);
        }
        for _ in 0..self.desk.take_refused_mistakes() {
            self.happens("a node of another cluster refused as a member");
        }
    }

    fn mend(&mut self, sim: &mut Sim<'_>, undo: Undo) {
        match undo {
            Undo::PutBack(id) => {
                if let Err(why) = self.put_back(sim, id) {
                    trace_event!(&host_of(id), "its copy is not put back: {why}");
                }
            }
            Undo::Settle(id, promoted) => self.settle(id, promoted),
            Undo::DisksBack => self.disks_come_back(sim),
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
                self.recovers(id);
                self.links.give_back(sim, &taken);
            }
            Undo::DiskLatency(id) => {
                self.recovers(id);
                self.cluster.machine(id).disk().set_latency(self.knobs.disk_latency());
            }
            Undo::DiskRoom(id) => {
                self.recovers(id);
                self.cluster.machine(id).disk().set_capacity(None);
            }
            Undo::MessageLatency => {
                self.slow -= 1;
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

    fn ails(&mut self, id: u64) {
        *self.ailing.entry(id).or_default() += 1;
    }

    /// A disk that is slow until then may have begun something just before, which takes as long as it took
    /// then (seed 3104: a sync begun at the end of a pause of 9 s).
    fn is_slow(&mut self, id: u64, until_ms: u64, latency_ms: u64) {
        let busy_until_ms = self.busy_until_ms.entry(id).or_default();
        *busy_until_ms = (until_ms + latency_ms).max(*busy_until_ms);
    }

    fn recovers(&mut self, id: u64) {
        *self.ailing.entry(id).or_default() -= 1;
    }
}

fn set_up(cluster: &Cluster, knobs: &Knobs, invariants: &Invariants, id: u64) {
    let machine = cluster.machine(id);
    invariants.watch_disk(id, machine.disk().clone());
    let keeps = seeded_bugs::is_on("crash-keeps-unsynced");
    machine.disk().set_crash_mode(if keeps { CrashMode::KeepAll } else { CrashMode::Harsh });
    machine.disk().set_latency(knobs.disk_latency());
    machine.set_store_latency(Duration::from_micros(knobs.store_us));
}
