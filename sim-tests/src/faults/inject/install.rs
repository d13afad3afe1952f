//! Bringing each fault of a plan about.

use std::time::Duration;

use tally_node::storage::simulated_disk::Latency;
use turmoil::Sim;

use super::{Injector, RESTART_AFTER_MS, Undo, until::Until};
use crate::{
    cluster::host_of,
    faults::{
        links::Trouble,
        moments::Moment,
        operator::Task,
        plan::{Fault, Planned, Target},
    },
    trace_event,
};

/// How long a machine that came back empty is left to try, before the operator replaces it.
const REPLACE_AFTER_MS: u64 = 3_000;

/// A copy of a disk is put back after this at the soonest: the node has started since, and told its peers.
const PUT_BACK_AFTER_MS: u64 = 4_000;

/// A machine whose power failed at a chosen moment stays down for so long at most.
const DOWN_MS_MAX: u64 = 3_000;

/// A node is left behind only where others give up their log after at most so many entries.
const BEHIND_MAX: u64 = 300;

impl Injector {
    pub(super) fn install(
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
            Fault::Depose(longer_ms) => {
                let id = self.resolve_running(Target::Leader)?;
                let consensus = self.cluster.consensus(id);
                let term = consensus.and_then(|consensus| consensus.leadership().term_as_leader());
                let until = Until::Deposed { term: term.ok_or("nobody leads")?, longer_ms };
                self.cut_until(sim, id, until, now_ms)
            }
            Fault::LeaveBehind(target, power_fails) => {
                if self.knobs.snapshot_after_entries + self.knobs.log_entries_kept > BEHIND_MAX {
                    return Err("the log that it needs is kept for too long");
                }
                let id = self.resolve_running(target)?;
                self.cut_until(sim, id, Until::LeftBehind(id), now_ms)?;
                if let Some(steps) = power_fails {
                    let disk = self.cluster.machine(id).disk().clone();
                    self.traps.set(id, Moment::Install, steps, disk);
                    self.down_ms.insert(id, planned.for_ms.min(DOWN_MS_MAX));
                }
                Ok(())
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
            Fault::Stall(target, stall_ms, drip_ms) => {
                let id = self.resolve(target)?;
                let (wires, time) = (self.cluster.wires(), (now_ms, now_ms + stall_ms));
                for other in self.others(id) {
                    wires.stall(&host_of(other), &host_of(id), time, drip_ms);
                }
                Ok(())
            }
            Fault::Slow(latency_ms) => {
                sim.set_max_message_latency(Duration::from_millis(latency_ms));
                self.slow += 1;
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
                self.down_ms.insert(id, planned.for_ms.min(DOWN_MS_MAX));
                Ok(())
            }
            Fault::PowerCutOn(target, moment, steps) => {
                let id = self.resolve(target)?;
                let disk = self.cluster.machine(id).disk().clone();
                self.traps.set(id, moment, steps, disk);
                self.down_ms.insert(id, planned.for_ms.min(DOWN_MS_MAX));
                Ok(())
            }
            Fault::PowerCutTwo(one, other, apart_ms) => {
                let (one, other) = (self.resolve_running(one)?, self.resolve_running(other)?);
                if one == other {
                    return Err("it is the same node");
                }
                self.cluster.cut_power(sim, one);
                self.undo.push((until, Undo::Restart(one)));
                self.second_cuts.push((now_ms + apart_ms, other, now_ms + planned.for_ms / 2));
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
                self.ails(id);
                self.is_slow(id, until, planned.for_ms);
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
                self.ails(id);
                self.is_slow(id, until, sync_ms);
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
            Fault::StoreError(target, flush) => {
                let id = self.resolve_running(target)?;
                self.cluster.machine(id).fail_store(flush);
                Ok(())
            }
            Fault::ReadError(target) => {
                let id = self.resolve_running(target)?;
                self.cluster.machine(id).disk().fail_reads(1);
                Ok(())
            }
            Fault::FullDisk(target) => {
                let id = self.resolve(target)?;
                self.cluster.machine(id).disk().set_capacity(Some(0));
                self.ails(id);
                self.undo.push((until, Undo::DiskRoom(id)));
                Ok(())
            }
            Fault::BitRot(target, pick) => {
                let id = self.resolve_running(target)?;
                self.may_damage(id)?;
                let (file, offset, bit) = self.rotten_place(id, pick).ok_or("nothing to rot")?;
                self.cluster.cut_power(sim, id);
                let flipped = self.cluster.machine(id).disk().flip_bit(&file, offset, bit);
                trace_event!(&host_of(id), "bit {bit} of {file} at {offset}: flipped {flipped}");
                self.damaged.insert(id, "bit rot");
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
                Ok(())
            }
            Fault::StoredBit(target) => self.flip_stored_bit(sim, target, planned.for_ms, now_ms),
            Fault::LoseDisk(target) => {
                let id = self.resolve_running(target)?;
                self.may_damage(id)?;
                let machine = self.cluster.machine(id);
                self.cluster.cut_power(sim, id);
                machine.disk().wipe();
                self.invariants.loses_disk(id);
                machine.stores().wipe();
                self.damaged.insert(id, "lost disk");
                self.replace_at.insert(id, now_ms + RESTART_AFTER_MS + REPLACE_AFTER_MS);
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
                Ok(())
            }
            Fault::LoseLog(target) => {
                let id = self.resolve_running(target)?;
                self.may_damage(id)?;
                self.cluster.cut_power(sim, id);
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
                if !self.cluster.machine(id).disk().lose("wal") {
                    return Err("it had no log yet");
                }
                // It has forgotten its vote and what it acknowledged, and must take part in nothing.
                self.invariants.loses_disk(id);
                self.damaged.insert(id, "lost log");
                Ok(())
            }
            Fault::OlderCopy(target) => {
                let id = self.resolve_running(target)?;
                self.may_damage(id)?;
                if !self.copies.is_empty() {
                    return Err("one copy at a time");
                }
                self.cluster.kill(sim, id);
                let machine = self.cluster.machine(id);
                let copy = (machine.disk().fork(planned.number as u64), machine.stores().save());
                self.copies.insert(id, copy);
                self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
                self.undo.push((until.max(now_ms + PUT_BACK_AFTER_MS), Undo::PutBack(id)));
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
                if !self.voters.contains(&id) || !self.asked.contains(&id) {
                    return Err("it is no voter, or leaves already");
                }
                if !self.wiped.is_empty() {
                    return Err("a majority has lost its disks");
                }
                if !self.being_replaced.is_empty() || self.replacements_left == 0 {
                    return Err("one node is replaced at a time, and never all of them");
                }
                if !self.damaged.is_empty() {
                    return Err("a damaged node waits to be replaced");
                }
                self.replace(sim, id);
                Ok(())
            }
            Fault::UnheardVote => self.expect_unheard_vote(sim, now_ms),
            Fault::PromotionWhileCutOff => self.promote_while_cut_off(sim, now_ms),
            Fault::OverruledPromotion => self.overrule_promotion(now_ms),
            Fault::RollingRestart(hasty) => {
                if !self.rolling.is_empty() {
                    return Err("one rolling restart at a time");
                }
                let running = self.members().into_iter().filter(|id| self.is_up(*id));
                self.rolling = running.collect();
                self.rolls_hastily = hasty;
                if let Some(first) = self.rolling.last() {
                    self.cluster.stop(*first);
                }
                Ok(())
            }
            Fault::Grow => self.grow(sim),
            Fault::Shrink(target, apart_ms) => self.shrink(sim, target, apart_ms, now_ms),
            Fault::Learner(hold_ms, promoted) => self.add_learner(sim, now_ms + hold_ms, promoted),
            Fault::WithLearners => self.split_with_learners(sim, until),
            Fault::WhenJoint(broken, later_ms) => {
                self.wait_for_joint(broken, later_ms, planned.for_ms);
                Ok(())
            }
            Fault::Restore(pick) => self.restore(sim, pick),
            Fault::WipeMajority(pick) => self.wipe_majority(sim, pick, until, now_ms),
            Fault::Stranger(target, under_its_id) => {
                self.let_stranger_in(sim, target, under_its_id, until, now_ms)
            }
        }
    }
}
