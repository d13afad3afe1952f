//! A backup that is restored into another cluster, whose power fails while it is.
//!
//! The other cluster's machines are on hosts of their own, out of reach of the other faults; here their power fails
//! right behind calls of the operator, of one of them or of all. What the operator does, and what is judged of it, is
//! in `workload/restoring`. Here it is looked at that it comes to its end, and that all nodes of the other cluster hold
//! the same then.

use std::{collections::BTreeMap, rc::Rc};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tally_node::{machine::query, storage::simulated_disk::CrashMode};
use turmoil::Sim;

use super::Injector;
use crate::{
    cluster::{CLIENT_PORT, Condition, Machine, PEER_PORT},
    trace_event,
    workload::restoring::{self, Restoring},
};

/// Machines of the other cluster.
const MACHINES: u64 = 3;

/// Ids of its nodes begin here.
const FIRST_ID: u64 = 801;

/// Their logs take a block of a backup as one entry, as those of all clusters do but the simulated ones: a third of a
/// segment has room for a block of the greatest size (seeds 2155 and 2212).
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
const _: () = assert!(SEGMENT_BYTES_MIN as usize / 3 > tally_proto::backup::BLOCK_BYTES_MAX);

/// Their power fails at most so often.
const CUTS_MAX: u64 = 6;

/// Power is gone for at most so long: also for longer than the others wait for a leader.
const DOWN_MS_MAX: u64 = 2_500;

/// Once everything is restored and every machine runs, all hold the same within so long: elections, and a log to catch
/// up with.
const EQUAL_WITHIN_MS: u64 = 15_000;

/// The other cluster, and how far it is.
pub(super) struct Other {
    machines: Vec<Rc<Machine>>,
    restoring: Rc<Restoring>,
    rng: SmallRng,
    /// At which step of the operator the power fails next, and how often it may.
    next_cut: u64,
    cuts_left: u64,
    cuts: u64,
    /// Power that is to fail: when, and whose.
    fails: Vec<(u64, usize)>,
    /// When a machine is started again.
    starts: BTreeMap<usize, u64>,
    done_ms: Option<u64>,
    is_over: bool,
}

impl Injector {
    pub(super) fn restore(&mut self, sim: &mut Sim<'_>, pick: u64) -> Result<(), &'static str> {
        if self.other.is_some() {
            return Err("one backup is restored in a run");
        }
        let mut rng = SmallRng::seed_from_u64(pick);
        let host = |id: u64| format!("restored-{id}");
        let ids = FIRST_ID..FIRST_ID + MACHINES;
        let first: BTreeMap<u64, String> =
            ids.clone().map(|id| (id, format!("{}:{PEER_PORT}", host(id)))).collect();
        let machines = ids.clone().map(|id| {
            let machine = self.cluster.stranger(sim, &host(id), id, first.clone(), |config| {
                config.log_segment_bytes = config.log_segment_bytes.max(SEGMENT_BYTES_MIN);
            });
            machine.disk().set_crash_mode(CrashMode::Harsh);
            machine.disk().set_latency(self.knobs.disk_latency());
            machine
        });
        let machines = machines.collect();
        let restoring = Rc::new(Restoring {
            addresses: ids.map(|id| format!("{}:{CLIENT_PORT}", host(id))).collect(),
            is_taken_back: rng.random_bool(0.4).into(),
            ..Restoring::default()
        });
        let work = self.workload.clone().restore(self.cluster.clone(), Rc::clone(&restoring));
        sim.client(restoring::HOST, async move {
            work.await;
            Ok(())
        });
        self.other = Some(Other {
            machines,
            restoring,
            next_cut: rng.random_range(1..4),
            cuts_left: rng.random_range(0..=CUTS_MAX),
            rng,
            cuts: 0,
            fails: Vec::new(),
            starts: BTreeMap::new(),
            done_ms: None,
            is_over: false,
        });
        Ok(())
    }

    /// Whether nothing is being restored.
    pub(super) fn has_restored(&self) -> bool {
        self.other.as_ref().is_none_or(|other| other.is_over)
    }

    pub(super) fn watch_restored(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let Some(mut other) = self.other.take() else { return };
        if !other.is_over {
            self.watch_other(sim, &mut other, now_ms);
        }
        self.other = Some(other);
    }

    fn watch_other(&mut self, sim: &mut Sim<'_>, other: &mut Other, now_ms: u64) {
        for (at, machine) in other.machines.iter().enumerate() {
            if let Condition::Failed(reason) = machine.condition()
                && !other.starts.contains_key(&at)
            {
                self.failures.push(format!("{}: {reason}", machine.host()));
            }
        }
        other.draw_cuts(self.healed, now_ms);
        for (_, at) in other.fails.extract_if(.., |(at_ms, _)| *at_ms <= now_ms) {
            other.machines[at].cut_power(sim);
            let down_ms = other.rng.random_range(50..DOWN_MS_MAX);
            other.starts.insert(at, now_ms + down_ms);
            trace_event!(other.machines[at].host(), "the power fails for {down_ms} ms");
        }
        let (due, later) = std::mem::take(&mut other.starts)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, at_ms)| *at_ms <= now_ms);
        other.starts = later;
        for at in due.into_keys() {
            trace_event!(other.machines[at].host(), "is started");
            other.machines[at].start(sim);
        }
        if !other.restoring.is_done.get() || !other.starts.is_empty() || !other.fails.is_empty() {
            return;
        }
        let done_ms = *other.done_ms.get_or_insert(now_ms);
        if !other.are_equal() {
            if now_ms > done_ms + EQUAL_WITHIN_MS {
                other.is_over = true;
                self.failures.push(format!(
                    "nodes of a restored cluster do not hold the same {EQUAL_WITHIN_MS} ms after the restore"
                ));
            }
            return;
        }
        other.is_over = true;
        trace_event!(restoring::HOST, "all nodes of the restored cluster hold the same");
        self.happens("a backup restored into another cluster");
        if other.cuts > 0 && other.restoring.began_again.get() {
            self.happens("a restore interrupted, and gone on with");
        }
        if other.restoring.was_taken_back.get() {
            self.happens("a restore taken back, and begun anew");
        }
        for machine in &other.machines {
            machine.cut_power(sim);
        }
    }
}

impl Other {
    fn draw_cuts(&mut self, healed: bool, now_ms: u64) {
        let is_due = self.restoring.steps.get() >= self.next_cut;
        let is_under_way = !self.fails.is_empty() || !self.starts.is_empty();
        if healed || !is_due || self.cuts_left == 0 || is_under_way {
            return;
        }
        self.cuts_left -= 1;
        self.cuts += 1;
        self.next_cut = self.restoring.steps.get() + self.rng.random_range(1..4);
        let all = 0..self.machines.len();
        let struck: Vec<usize> = match self.rng.random_bool(0.4) {
            true => all.collect(),
            false => vec![self.rng.random_range(all)],
        };
        for at in struck {
            self.fails.push((now_ms + self.rng.random_range(0..30), at));
        }
    }

    /// Whether all of them run and hold the same.
    fn are_equal(&self) -> bool {
        let mut states = self.machines.iter().map(|machine| {
            let consensus = machine.consensus()?;
            let view = consensus.state().view();
            Some((view.applied()?.index, query::state_hash(&view)))
        });
        let first = states.next().flatten();
        first.is_some() && states.all(|state| state == first)
    }
}
