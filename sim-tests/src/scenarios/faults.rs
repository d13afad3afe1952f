//! Scenarios of a cluster whose members stay: links, disks, power, leaders. One long table.

use super::{Scenario, knobs::*};
use crate::faults::plan::{Fault, Target};

/// In the order in which they are listed and run.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "minority-leader",
        shows: "A leader that is cut off from the majority keeps believing in itself for a while. \
                It acknowledges nothing: what it is asked ends as NO_QUORUM or unknown, while the \
                others elect a new leader and go on. When the link is back it steps down, and the \
                entries that it could not commit are dropped.",
        look_at: "the fault; `leads in term` on another node soon after; what clients are \
                  told meanwhile at the node that is cut off (NO_QUORUM) and of what they \
                  had sent it (UNKNOWN); `drops entries that no majority has` when the link \
                  is back",
        seed: 3,
        lesson: &[
            "the leader, node {n}, is cut off",
            "outcome UNKNOWN",
            "leads in term",
            "refused with NO_QUORUM…(node {n})",
            "over: the cut around node {n}",
            "node {n} drops entries that no majority has",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: as_it_is,
        faults: &[(8_000, 6_000, Fault::Isolate(Target::Leader))],
    },
    Scenario {
        name: "split-brain-that-does-not-happen",
        shows: "The cluster is divided again and again, each time with the leader on the small \
                side. There may be two nodes that believe they lead, never two that commit: each \
                counter has one history, and the auditor's final sums agree with every answer.",
        look_at: "`leads in term` lines: each term has one leader; the auditor, and what \
                  was kept, at the end",
        seed: 1,
        lesson: &[
            "the leader, node {a}, is cut off",
            "leads in term",
            "over: the cut around node {a}",
            "the leader, node {b}, is cut off",
            "leads in term",
            "over: the cut around node {b}",
            "nothing that the leader, node {c}, sends to other nodes arrives",
            "leads in term",
            "over: the silence of node {c}",
            "nothing that other nodes send to the leader, node {d}, arrives",
            "leads in term",
            "over: the deafness of node {d}",
            "auditor has read everything",
            "kept one order of all…agrees with real time",
            "kept no acknowledged write is lost or counted twice",
        ],
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
        look_at: "reads at the follower that is cut off: what a LOCAL one is worth (its \
                  node, its age, what it does not know of), and those refused with \
                  STALENESS_BOUND_EXCEEDED or NO_QUORUM",
        seed: 9,
        lesson: &[
            "a follower, node {n}, is cut off",
            "--read local: …(node {n}, LOCAL, at most…newer revisions were acknowledged before",
            "refused with STALENESS_BOUND_EXCEEDED…(node {n})",
            "get…refused with NO_QUORUM…(node {n})",
            "over: the cut around node {n}",
            "kept each read was as fresh as it said",
        ],
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
        look_at: "calls whose outcome is UNKNOWN; `--idempotency-key …` with an answer from \
                  memory; at the end, how many were sent again and got the first answer \
                  again",
        seed: 1,
        lesson: &[
            "messages get lost",
            "outcome UNKNOWN",
            "--idempotency-key …answered from memory: it counts once",
            "over: lost messages",
            "kept no acknowledged write is lost or counted twice; …of unknown outcome were applied, once each; …sent again got the first answer again",
        ],
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
        look_at: "what is not there: during neither fault does a call take a second \
                  (`answered after`), and nobody else leads; how many writes were acknowledged \
                  meanwhile",
        seed: 1,
        lesson: &[
            "each sync of a follower, node {a}'s disk takes 400 ms",
            "never: answered after",
            "never: refused with",
            "never: outcome UNKNOWN",
            "never: leads in term",
            "over: the slow disk of node {a}; {x} writes were acknowledged meanwhile",
            "each sync of the leader, node {b}'s disk takes 400 ms",
            "never: answered after",
            "never: refused with",
            "never: outcome UNKNOWN",
            "never: leads in term",
            "over: the slow disk of node {b}; {y} writes were acknowledged meanwhile",
            "kept one order of all…agrees with real time",
        ],
        knobs: as_it_is,
        faults: &[
            (6_000, 8_000, Fault::SlowDisk(Target::Follower(0), 400)),
            (20_000, 8_000, Fault::SlowDisk(Target::Leader, 400)),
        ],
    },
    Scenario {
        name: "answers-and-stores-nothing",
        shows: "A follower comes back for which the others have no log any more, and its disk hangs, so the snapshot \
                that it is sent is not installed. It answers heartbeats all the same. Then the other follower is \
                killed. A majority answers, and nothing can be stored by one: the leader says that it has no quorum, \
                at once for all that comes, and nobody waits for a deadline to be told so.",
        look_at: "that nobody else leads meanwhile; NO_QUORUM soon after the other follower is killed; that it goes \
                  on when that one is back",
        seed: 1,
        lesson: &[
            "each sync of a follower, node {a}'s disk takes 20 s",
            "a follower, node {b}, is killed",
            "never: leads in term",
            "refused with NO_QUORUM",
            "never: leads in term",
            "node {b} is started",
            "node {a} has installed the snapshot",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: short_log,
        faults: &[
            (4_000, 0, Fault::LeaveBehind(Target::Follower(0), None)),
            (6_000, 20_000, Fault::SlowDisk(Target::Follower(0), 20_000)),
            (7_500, 12_000, Fault::Kill(Target::Follower(1))),
        ],
    },
    Scenario {
        name: "rolling-restart",
        shows: "An upgrade: each node is stopped in good order and started again. A leader hands \
                over before it stops, so users see a pause of milliseconds and no unknown outcome \
                that a retry does not settle.",
        look_at: "`is started, in its turn`; who `leads in term` next; what clients are \
                  told by a node that stops (SHUTTING_DOWN); and that no call takes a second \
                  (`answered after`)",
        seed: 3,
        lesson: &[
            "the operator restarts every node",
            "never: answered after",
            "node {a} is started, in its turn",
            "never: answered after",
            "refused with SHUTTING_DOWN",
            "never: answered after",
            "node {b} is started, in its turn",
            "never: answered after",
            "leads in term",
            "never: answered after",
            "node {c} is started, in its turn",
            "never: answered after",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: as_it_is,
        faults: &[(8_000, 0, Fault::RollingRestart(false))],
    },
    Scenario {
        name: "leader-loses-its-tail",
        shows: "A leader with a slow disk commits through its followers, loses power before its own \
                sync returns, and starts again first. It must win a new term before it leads: in its \
                old one it would use the indexes of what it has forgotten for other entries. (Why \
                `enable_leader_restore` is off.)",
        look_at: "`opens its log` right after the power cut, and `leads in term` with a \
                  higher term",
        seed: 1,
        lesson: &[
            "each sync of the leader, node {n}'s disk takes 600 ms",
            "the power of the leader, node {n}, fails",
            "node {n} opens its log, and drops…of a write that was torn",
            "leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: quick_disks,
        faults: &[
            (6_000, 1_500, Fault::SlowDisk(Target::Leader, 600)),
            (7_500, 30, Fault::PowerCut(Target::Leader)),
            (12_000, 1_500, Fault::SlowDisk(Target::Leader, 600)),
            (13_500, 60, Fault::PowerCut(Target::Leader)),
            (18_000, 1_500, Fault::SlowDisk(Target::Leader, 600)),
            (19_500, 10, Fault::PowerCut(Target::Leader)),
            (24_000, 1_500, Fault::SlowDisk(Target::Leader, 600)),
            (25_500, 100, Fault::PowerCut(Target::Leader)),
            (30_000, 1_500, Fault::SlowDisk(Target::Leader, 600)),
            (31_500, 30, Fault::PowerCut(Target::Leader)),
        ],
    },
    Scenario {
        name: "reads-without-a-quorum",
        shows: "Many linearizable reads at a leader that has just been cut off, or has just been \
                elected and has committed nothing yet. Each waits for a quorum round or is told \
                NO_QUORUM; none may ask again and again without waiting. (Once a leader that was \
                refused a round at once asked again in a loop, on a full core.)",
        look_at: "reads refused with NO_QUORUM, and the time that each took; that the run \
                  ends",
        seed: 6,
        lesson: &[
            "the leader, node {n}, is cut off",
            "leads in term",
            "over: the cut around node {n}",
            "the operator lets another node lead",
            "leads in term",
            "nothing that other nodes send to the leader, node {m}, arrives",
            "get…refused with NO_QUORUM after 1.…(node {m})",
            "leads in term",
            "over: the deafness of node {m}",
        ],
        knobs: |knobs| {
            patient(knobs);
            knobs.reads = 0.9;
        },
        faults: &[
            (5_000, 3_000, Fault::Isolate(Target::Leader)),
            (11_000, 0, Fault::TransferLeader),
            (14_000, 2_000, Fault::Isolate(Target::Leader)),
            (19_000, 0, Fault::TransferLeader),
            (19_200, 3_000, Fault::Isolate(Target::Leader)),
            (26_000, 2_000, Fault::Deaf(Target::Leader)),
            (32_000, 3_000, Fault::IsolateFromAll(Target::Leader)),
        ],
    },
    Scenario {
        name: "writes-at-a-node-that-ends",
        shows: "Writes wait at a node that knows of no leader, and Raft ends below them: the node is \
                stopped in good order, or its disk fails. Each is told that its outcome is unknown, \
                or that it was not applied. (Once such a write waited on a closed channel, which does \
                not wait, on a full core.)",
        look_at: "what clients are told by a node that ends: NO_QUORUM, \
                  UNKNOWN; that the run ends",
        seed: 3,
        lesson: &[
            "the leader, node {n}, is cut off",
            "is stopped in good order",
            "outcome UNKNOWN",
            "the next sync of…node {m}…fails",
            "node {m} ended itself: syncing",
            "outcome UNKNOWN",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: patient,
        faults: &[
            (5_000, 4_000, Fault::Isolate(Target::Follower(0))),
            (6_500, 500, Fault::Stop(Target::Follower(0))),
            (13_000, 4_000, Fault::Isolate(Target::Leader)),
            (13_800, 500, Fault::Stop(Target::Any(0))),
            (22_000, 3_000, Fault::PowerCut(Target::Follower(0))),
            (22_100, 3_000, Fault::PowerCut(Target::Follower(1))),
            (22_600, 0, Fault::SyncError(Target::Leader)),
            (30_000, 4_000, Fault::Isolate(Target::Leader)),
            (30_500, 0, Fault::SyncError(Target::Any(0))),
            (30_500, 0, Fault::SyncError(Target::Any(1))),
        ],
    },
    Scenario {
        name: "deaf-leader",
        shows: "A leader that sends and hears nothing. It must stop being followed: the others notice \
                that its connections are half dead, elect another, and go on.",
        look_at: "`leads in term` on another node within seconds; NO_QUORUM at the deaf one",
        seed: 1,
        lesson: &[
            "nothing that other nodes send to the leader, node {n}, arrives",
            "leads in term",
            "refused with NO_QUORUM…(node {n})",
            "over: the deafness of node {n}",
            "nothing that other nodes send to the leader, node {m}, arrives",
            "leads in term",
            "refused with NO_QUORUM…(node {m})",
            "over: the deafness of node {m}",
        ],
        knobs: as_it_is,
        faults: &[
            (6_000, 18_000, Fault::Deaf(Target::Leader)),
            (28_000, 15_000, Fault::Deaf(Target::Leader)),
        ],
    },
    Scenario {
        name: "left-behind-again-and-again",
        shows: "A follower that is cut off until the log that it needs is purged, and comes back just \
                then. It gets a snapshot, and goes on from there with entries. (Once the leader's \
                stream to it went on from entries that were purged, with messages that carried \
                nothing, for ever.) In between its power fails while it installs the snapshot: the \
                next start has the old state or the new one.",
        look_at: "`is left behind, and comes back`, `gets a snapshot`, `has installed the \
                  snapshot`; once, `ended itself` in between",
        seed: 1,
        lesson: &[
            "a follower, node {n}, is cut off until…its power fails…into the snapshot",
            "node {n} is left behind, and comes back",
            "node {n} gets a snapshot",
            "node {n} ended itself…crashed",
            "node {n} is started",
            "node {n} has installed the snapshot",
            "a follower, node {m}, is cut off until",
            "node {m} is left behind, and comes back",
            "node {m} has installed the snapshot",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: short_log,
        faults: &[
            (4_000, 0, Fault::LeaveBehind(Target::Follower(0), None)),
            (9_000, 0, Fault::LeaveBehind(Target::Follower(1), Some(12))),
            (9_500, 3_000, Fault::Stall(Target::Follower(1), 1_500, 50)),
            (15_000, 0, Fault::LeaveBehind(Target::Follower(0), Some(14))),
            (21_000, 0, Fault::LeaveBehind(Target::Follower(1), Some(9))),
            (27_000, 0, Fault::LeaveBehind(Target::Follower(0), None)),
            (27_100, 3_000, Fault::Stall(Target::Leader, 1_500, 50)),
            (33_000, 0, Fault::LeaveBehind(Target::Follower(1), Some(17))),
        ],
    },
    Scenario {
        name: "slow-answers-do-not-make-it-younger",
        shows: "Messages take up to 120 ms, and a counter changes all the time. A follower that asks \
                its leader for a read index counts the age of what it knows from when it asked, not \
                from when the answer came: so what a read says of its staleness is true to the \
                millisecond.",
        look_at: "reads with a bound, the age that their answers state, and those refused \
                  with STALENESS_BOUND_EXCEEDED",
        seed: 1,
        lesson: &[
            "messages take up to 120 ms",
            "--read bounded…BOUNDED, at most…newer revisions were acknowledged before",
            "refused with STALENESS_BOUND_EXCEEDED",
            "over: slow messages",
            "kept each read was as fresh as it said; …said how old they may be",
        ],
        knobs: watched_counter,
        faults: &[(4_000, 12_000, Fault::Slow(120)), (20_000, 20_000, Fault::Slow(80))],
    },
    Scenario {
        name: "reads-that-come-while-a-round-runs",
        shows: "Linearizable reads at followers without a pause, and writes that are acknowledged while \
                a round for earlier reads runs. A read that comes after such an acknowledgement must \
                not share that round: its index was taken before the write. One follower's disk is \
                slow, so that it lags.",
        look_at: "the slow disk and the slow messages; reads at other levels that do not know \
                  the newest; at the end, the one order, and how many rounds confirmed several \
                  linearizable reads at once",
        seed: 1,
        lesson: &[
            "each sync of a follower, node {n}'s disk takes 60 ms",
            "messages take up to 40 ms",
            "--read local: …LOCAL, at most…newer revisions were acknowledged before|--read session: …newer revisions were acknowledged before|--read bounded…newer revisions were acknowledged before",
            "over: the slow disk of node {n}",
            "kept one order of all…agrees with real time",
            "kept…rounds at followers confirmed several linearizable reads at once",
        ],
        knobs: |knobs| {
            watched_counter(knobs);
            knobs.clients = 4;
            knobs.raw_clients = 8;
        },
        faults: &[
            (4_000, 12_000, Fault::SlowDisk(Target::Follower(0), 60)),
            (4_000, 12_000, Fault::Slow(40)),
            (18_000, 12_000, Fault::SlowDisk(Target::Follower(1), 150)),
            (18_000, 12_000, Fault::Slow(100)),
            (32_000, 12_000, Fault::Slow(200)),
        ],
    },
];
