//! Named scenarios that teach: a calm cluster of three, its users, and a few chosen faults.
//!
//! `tally-sim replay --scenario NAME --seed 1` prints what happens; the text of each scenario says
//! what to look at. The checks are those of every run.

use crate::{
    faults::plan::{Fault, Planned, Target},
    knobs::Knobs,
};

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Where to look in its timeline.
    pub look_at: &'static str,
    /// What is special about the cluster and its users.
    pub knobs: fn(&mut Knobs),
    /// Faults: at so many ms, for so many ms, what.
    pub faults: &'static [(u64, u64, Fault)],
}

impl Scenario {
    /// Its faults as a plan.
    pub fn plan(&self) -> Vec<Planned> {
        let planned = |(number, (at_ms, for_ms, fault)): (usize, &(u64, u64, Fault))| Planned {
            number,
            at_ms: *at_ms,
            for_ms: *for_ms,
            fault: fault.clone(),
        };
        self.faults.iter().enumerate().map(planned).collect()
    }
}

fn as_it_is(_: &mut Knobs) {}

fn many_reads(knobs: &mut Knobs) {
    knobs.reads = 0.7;
    knobs.clients = 8;
}

fn one_hot_counter(knobs: &mut Knobs) {
    knobs.hot_counters = 1;
    knobs.hot = 0.8;
    knobs.clients = 8;
}

fn impatient(knobs: &mut Knobs) {
    one_hot_counter(knobs);
    knobs.short_deadlines = 0.3;
    knobs.resends = 0.3;
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "minority-leader",
        shows: "A leader that is cut off from the majority keeps believing in itself for a while. \
                It acknowledges nothing: what it is asked ends as NO_QUORUM or unknown, while the \
                others elect a new leader and go on. When the link is back it steps down, and the \
                entries that it could not commit are dropped.",
        look_at: "the `fault` lines; `leads in term` on another node soon after; users' NO_QUORUM \
                  and unknown outcomes in between; `drops its log behind` when the link is back",
        knobs: as_it_is,
        faults: &[(8_000, 6_000, Fault::Isolate(Target::Leader))],
    },
    Scenario {
        name: "split-brain-that-does-not-happen",
        shows: "The cluster is divided again and again, each time with the leader on the small \
                side. There may be two nodes that believe they lead, never two that commit: each \
                counter has one history, and the auditor's final sums agree with every answer.",
        look_at: "`leads in term` lines: each term has one leader; the auditor at the end",
        knobs: one_hot_counter,
        faults: &[
            (5_000, 3_000, Fault::Isolate(Target::Leader)),
            (11_000, 3_000, Fault::Isolate(Target::Leader)),
            (17_000, 3_000, Fault::Mute(Target::Leader)),
            (23_000, 3_000, Fault::CutLink(Target::Leader, Target::Follower(0))),
            (29_000, 3_000, Fault::Deaf(Target::Leader)),
        ],
    },
    Scenario {
        name: "stale-follower-read",
        shows: "A follower that no longer hears the leader. LOCAL reads there still answer, and \
                answer the past; BOUNDED reads are refused once the bound can't be proven; \
                LINEARIZABLE reads there end as NO_QUORUM. This is the choice of PACELC: latency \
                and availability, or consistency, and each answer says which one it got.",
        look_at: "reads that end with STALENESS_BOUND_EXCEEDED or NO_QUORUM while the fault lasts",
        knobs: many_reads,
        faults: &[
            (6_000, 8_000, Fault::Isolate(Target::Follower(0))),
            (18_000, 8_000, Fault::Isolate(Target::Follower(1))),
        ],
    },
    Scenario {
        name: "lost-answer-and-retry",
        shows: "Answers get lost after the write was applied, and deadlines are too short. The \
                library sends each write again under its sequence number, and users do under their \
                idempotency keys; the cluster answers from memory and counts once.",
        look_at: "users' unknown outcomes, the same call `under a key` later with the same answer; \
                  the count of remembered answers in `tally-sim run --scenario \
                  lost-answer-and-retry`",
        knobs: impatient,
        faults: &[
            (5_000, 8_000, Fault::Lose(40)),
            (16_000, 4_000, Fault::CutClients(Target::Leader)),
            (24_000, 8_000, Fault::Lose(40)),
        ],
    },
    Scenario {
        name: "slow-disk",
        shows: "One follower's syncs take 400 ms, then the leader's. A slow follower costs nothing: \
                the majority without it acknowledges. A slow leader still commits through its \
                followers, whose syncs count as much as its own.",
        look_at: "the milliseconds at the ends of users' lines, before and during the faults",
        knobs: as_it_is,
        faults: &[
            (6_000, 8_000, Fault::SlowDisk(Target::Follower(0), 400)),
            (20_000, 8_000, Fault::SlowDisk(Target::Leader, 400)),
        ],
    },
    Scenario {
        name: "rolling-restart",
        shows: "An upgrade: each node is stopped in good order and started again. A leader hands \
                over before it stops, so users see a pause of milliseconds and no unknown outcome \
                that a retry does not settle.",
        look_at: "`is started, in its turn`; who `leads in term` next; users' milliseconds meanwhile",
        knobs: as_it_is,
        faults: &[(8_000, 0, Fault::RollingRestart)],
    },
];

/// The scenario with this name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
