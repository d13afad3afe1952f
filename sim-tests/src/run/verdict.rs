//! What came of a run once it is over: what clients saw is judged, what answers say of themselves is
//! compared with what the nodes did, the harness doubts itself, and everything is counted.

use tally_client::history::{Level, Record, Status};
use tally_proto::reason;

use super::{Outcome, Run};
use crate::{
    check::{Assumptions, judge_with},
    faults::inject::Fate,
    invariants::NodeCounts,
    kinds::{self, Counts},
    player::Recorder,
    quotas, rights, trace, workload,
};

/// Each sector that was not synced survives a power cut about every second time; all of so many only
/// if power cuts do nothing.
const SECTORS_AT_RISK_MIN: u64 = 24;

impl Run<'_> {
    pub(super) fn into_outcome(mut self) -> Outcome {
        let records = self.workload.records();
        let mut counts = self.counts(&records);
        let mut undecided = 0;
        let doubts = self.doubts(&records);
        self.violate("harness", doubts);
        if self.violations.is_empty() {
            // (What guests and the admin write is in no history; it is judged by rights.)
            let whole = Assumptions {
                from_the_beginning: true,
                others_write: self.rights.is_some(),
                ..Assumptions::default()
            };
            let verdict = judge_with(&records, whole);
            let broken = verdict
                .violations
                .iter()
                .map(|violation| format!("{:?}: {}", violation.rule, violation.message))
                .collect();
            self.violate("history", broken);
            let claims = self.claims(&records);
            self.violate("history", claims);
            let told = self.rights.as_ref().map(rights::Book::judge).unwrap_or_default();
            self.violate("rights", told);
            for (name, count) in [
                ("revisions explained", verdict.counts.revisions),
                ("unknown writes that were applied", verdict.counts.unknown_applied),
                ("writes sent again under a key", verdict.counts.replayed),
                ("refusals explained", verdict.counts.refusals),
                ("staleness claims checked", verdict.counts.staleness_claims),
                ("session reads checked", verdict.counts.session_reads),
                ("sums of transfers checked", verdict.counts.transfer_sums),
            ] {
                counts.insert(name.to_owned(), count);
            }
            undecided = verdict.counts.undecided;
        }
        Outcome {
            seed: self.seed,
            knobs: self.knobs,
            violations: self.violations,
            counts,
            undecided,
            acted: 0,
            faults: self.injector.done().to_vec(),
            simulated_ms: self.now_ms,
            trace: trace::recorded(),
            records,
            heard: trace::heard(),
            recorder: self.recorder.map(Recorder::with_messages),
        }
    }

    /// What answers say of themselves and the history alone can't judge.
    fn claims(&self, records: &[Record]) -> Vec<String> {
        let of_numbers =
            [reason::SEQUENCE_REUSED, reason::SEQUENCE_TOO_OLD, reason::SESSION_WINDOW_FULL];
        let mut wrong = Vec::new();
        for record in records {
            let reason = record.reason.as_deref().unwrap_or_default();
            if workload::uses_library(record.client) && of_numbers.contains(&reason) {
                wrong.push(format!(
                    "client {} was told {reason}, and the library uses each number once and in its \
                     window",
                    record.client
                ));
            }
            if [reason::UNAUTHENTICATED, reason::PERMISSION_DENIED].contains(&reason) {
                wrong.push(format!(
                    "client {}, who may do everything, was told {reason}",
                    record.client
                ));
            }
            let knew_since_ms = record
                .node
                .zip(record.ret)
                .and_then(|(node, ret)| self.invariants.knew_since_ms(node, (record.call, ret)));
            if let Some(at_ms) = knew_since_ms
                && record.status == Status::Ok
                && record.consistency != Some(Level::Local)
            {
                wrong.push(format!(
                    "client {} was answered by node {:?} at {:?}, {} ms after that node had found that its \
                     state differs",
                    record.client,
                    record.node.unwrap_or_default(),
                    record.consistency,
                    record.call / 1_000_000 - at_ms
                ));
            }
            // What an answer is of is one state. (A refused write tells instead at which revision it was
            // decided, after which its log entry may have led to more.)
            let refused = !record.is_read() && record.status != Status::Ok;
            let is_of = |after: u64, told: u64| told == after || refused && told < after;
            if let (Some(applied), Some(revision)) = (record.applied, record.revision)
                && !self
                    .invariants
                    .revision_after(applied)
                    .is_some_and(|after| is_of(after, revision))
            {
                wrong.push(format!(
                    "client {} was told a state at applied index {applied} with revision {revision}; \
                     after that entry it was {:?}",
                    record.client,
                    self.invariants.revision_after(applied)
                ));
            }
        }
        wrong
    }

    /// What shows that this run proves less than it seems to: the harness itself is wrong.
    fn doubts(&self, records: &[Record]) -> Vec<String> {
        let mut doubts = Vec::new();
        for (from, to, bytes) in self.cluster.wires().crossed() {
            doubts.push(format!("{bytes} bytes from {from} reached {to} though the link was cut"));
        }
        let disks =
            self.cluster.ids().into_iter().map(|id| self.cluster.machine(id).disk().counts());
        let (at_risk, harmed) = disks.fold((0, 0), |(at_risk, harmed), disk| {
            (at_risk + disk.sectors_at_risk, harmed + disk.sectors_lost + disk.sectors_torn)
        });
        if at_risk >= SECTORS_AT_RISK_MIN && harmed == 0 {
            doubts.push(format!("power cuts could take {at_risk} sectors, and took none"));
        }
        let calls = self.workload.calls();
        let is_whole = self.violations.is_empty() && self.workload.is_over();
        if is_whole && records.len() as u64 != calls {
            doubts.push(format!("users made {calls} calls, and {} are recorded", records.len()));
        }
        doubts
    }

    fn counts(&self, records: &[Record]) -> Counts {
        let NodeCounts {
            elections,
            applied,
            truncations,
            snapshots_built,
            snapshots_installed,
            torn_tails,
            states_compared,
            comparisons,
            replays,
            rounds_shared_leading,
            rounds_shared_following,
            large_installs,
            joint_installs,
        } = self.invariants.counts();
        let disks =
            self.cluster.ids().into_iter().map(|id| self.cluster.machine(id).disk().counts());
        let disks: Vec<_> = disks.collect();
        let stores =
            self.cluster.ids().into_iter().map(|id| self.cluster.machine(id).store_errors());
        let stores: Vec<u64> = stores.collect();
        let of = |is: &dyn Fn(&Record) -> bool| records.iter().filter(|r| is(r)).count() as u64;
        let with_reason = |reason: &str| of(&|r| r.reason.as_deref() == Some(reason));
        let faults = |fate: fn(&Fate) -> bool| {
            self.injector.done().iter().filter(|done| fate(&done.fate)).count() as u64
        };
        let mut counts = kinds::of_records(records);
        let all = [
            ("elections", elections),
            ("entries applied", applied),
            ("logs truncated", truncations),
            ("snapshots built", snapshots_built),
            ("snapshots installed", snapshots_installed),
            ("torn tails cut", torn_tails),
            ("states compared", states_compared),
            ("comparisons by the replicas", comparisons),
            ("remembered answers given", replays),
            ("rounds shared by several reads at a leader", rounds_shared_leading),
            ("rounds shared by several reads elsewhere", rounds_shared_following),
            ("snapshots of several blocks installed", large_installs),
            ("snapshots installed while voters change", joint_installs),
            ("sectors lost in power cuts", disks.iter().map(|disk| disk.sectors_lost).sum()),
            ("sectors torn in power cuts", disks.iter().map(|disk| disk.sectors_torn).sum()),
            ("disk errors", disks.iter().map(|disk| disk.errors).sum()),
            ("errors of the state's store", stores.iter().sum()),
            ("calls", records.len() as u64),
            ("writes acknowledged", of(&|r| !r.is_read() && r.status == Status::Ok)),
            ("writes refused", of(&|r| !r.is_read() && r.status == Status::Fail)),
            ("writes unknown", of(&|r| r.status == Status::Unknown)),
            ("reads answered", of(&|r| r.is_read() && r.status == Status::Ok)),
            ("reads refused", of(&|r| r.is_read() && r.status == Status::Fail)),
            ("bounded reads refused", with_reason("STALENESS_BOUND_EXCEEDED")),
            ("no quorum", with_reason("NO_QUORUM")),
            ("bounds refused", with_reason("BELOW_FLOOR") + with_reason("ABOVE_CEILING")),
            ("conditions failed", with_reason("CONDITION_FAILED")),
            ("faults installed", faults(|fate| *fate == Fate::Installed)),
            ("faults skipped", faults(|fate| *fate != Fate::Installed)),
        ];
        counts.extend(all.map(|(name, count)| (name.to_owned(), count)));
        let members = self.injector.happened().iter();
        counts.extend(members.map(|(name, count)| ((*name).to_owned(), *count)));
        // Clients go on asking nodes that were taken out.
        let taken_out = self.injector.taken_out();
        let by_removed = |record: &Record| {
            let removed_ms = record.node.and_then(|node| taken_out.get(&node));
            removed_ms.is_some_and(|at_ms| record.call > at_ms * 1_000_000)
        };
        counts.insert("calls that a removed node answered".to_owned(), of(&by_removed));
        let of_rights = self.rights.as_ref().map(rights::Book::counts).unwrap_or_default();
        let of_quotas = self.quotas.as_ref().map(quotas::Book::counts).unwrap_or_default();
        let happened = self.workload.happened().into_iter();
        for (name, count) in happened.chain(of_rights).chain(of_quotas) {
            *counts.entry(name).or_default() += count;
        }
        counts
    }
}
