//! Scenarios of members that come and go, and of what must not become one.

use super::{Scenario, knobs::*};
use crate::{
    faults::plan::{Break, Fault, Target},
    knobs::COMPARED_SELDOM_MS,
};

/// In the order in which they are listed and run.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "five-grow-and-shrink",
        shows: "Five voters become six, five, four and three, one at a time, while leaders are cut off, \
                killed and transferred. At each size a majority goes on: four of six, three of five, three \
                of four, two of three. Each change is two entries, the first with both sets of voters.",
        look_at: "`the voters are to change`, then `the voters are`; that clients are \
                  answered in between",
        seed: 1,
        lesson: &[
            "node {n} is a new machine",
            "the voters are to change: a majority of 1, 2, 3, 4, 5 and one of 1, 2, 3, 4, 5, {n} are needed",
            "the voters are 1, 2, 3, 4, 5, {n}",
            "operator has done promote {n}",
            "the leader, node {a}, is cut off",
            "leads in term",
            "the operator removes a follower, node {b}",
            "the voters are to change",
            "operator has done remove {b}",
            "node {b} is no member any more",
            "the operator removes the leader, node {c}",
            "operator has done remove {c}",
            "leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: five,
        faults: &[
            (4_000, 0, Fault::Grow),
            (6_500, 2_000, Fault::Isolate(Target::Leader)),
            (10_000, 0, Fault::Shrink(Target::Follower(0), 0)),
            (13_000, 1_500, Fault::Kill(Target::Leader)),
            (16_000, 0, Fault::Shrink(Target::Leader, 0)),
            (19_000, 3_000, Fault::Halves(0b0110)),
            (24_000, 0, Fault::Shrink(Target::Follower(1), 0)),
            (27_000, 0, Fault::TransferLeader),
            (30_000, 3_000, Fault::Isolate(Target::Leader)),
            (35_000, 0, Fault::Grow),
            (38_000, 3_000, Fault::Isolate(Target::Leader)),
        ],
    },
    Scenario {
        name: "voters-change-while-the-network-splits",
        shows: "A leader is cut off, killed or loses its power between the two entries of a change, and \
                the operator is away for a while. Until the change is ended a majority of both sets is \
                needed. Whoever leads next finds the first entry or does not; the operator asks again, \
                and is told that it is done when the old set is left behind. (Once a promotion was \
                confirmed while both sets stood, and stayed so for ever.)",
        look_at: "`while voters change`; `the voters are` before and after; `has done`",
        seed: 3,
        lesson: &[
            "when the voters change next: the leader is cut off",
            "node {n} the voters are to change",
            "while voters change isolate",
            "leads in term",
            "promote at node {k}: the outcome is unknown",
            "the voters are 1, 2, 3, 4, 5, {m}",
            "operator has done promote {m}",
            "while voters change kill",
            "leads in term",
            "operator has done remove {b}",
            "while voters change power cut",
            "leads in term",
            "operator has done remove {c}",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: five,
        faults: &[
            (4_000, 3_000, Fault::WhenJoint(Break::Isolate, 4)),
            (4_010, 0, Fault::Grow),
            (12_000, 3_000, Fault::WhenJoint(Break::Kill, 12)),
            (12_010, 0, Fault::Shrink(Target::Follower(0), 0)),
            (20_000, 4_000, Fault::WhenJoint(Break::Halves(0b010_0110), 20)),
            (20_010, 0, Fault::Replace(Target::Follower(1))),
            (29_000, 1_500, Fault::WhenJoint(Break::PowerCut, 8)),
            (29_010, 0, Fault::Shrink(Target::Leader, 0)),
            (36_000, 3_000, Fault::WhenJoint(Break::Mute, 16)),
            (36_010, 0, Fault::Grow),
        ],
    },
    Scenario {
        name: "a-learner-decides-nothing",
        shows: "A learner is held for long, and the leader alone with it on one side again and again. \
                With the learner it has two of four nodes and one of three voters: it commits nothing and \
                confirms no read, while the other two elect and go on.",
        look_at: "`leads in term` on the other side; what clients are told at the old \
                  leader (NO_QUORUM)",
        seed: 1,
        lesson: &[
            "operator has done add learner {l}",
            "the leader, node {n}, is alone with the learners",
            "leads in term",
            "refused with NO_QUORUM…(node {n})",
            "refused with NO_QUORUM…(node {l})",
            "over: the cut between node {n} and the other voters",
            "operator has done promote {l}",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: watched_by_many,
        faults: &[
            (4_000, 0, Fault::Learner(18_000, true)),
            (7_000, 4_000, Fault::WithLearners),
            (13_000, 4_000, Fault::WithLearners),
            (19_000, 2_500, Fault::WithLearners),
            (25_000, 0, Fault::Shrink(Target::Follower(0), 0)),
            (28_000, 0, Fault::Learner(15_000, false)),
            (31_000, 4_000, Fault::WithLearners),
            (37_000, 4_000, Fault::WithLearners),
        ],
    },
    Scenario {
        name: "removed-and-still-asked",
        shows: "Nodes are removed while they are cut off, the leader first, and clients still reach them. \
                Such a node does not know it: it answers LOCAL reads from its past, says how old they may \
                be, and nothing else. When it reaches a member again it learns it, ends itself, and does \
                not start any more.",
        look_at: "`is no member any more`; what clients are told at that node; `is started \
                  again, though it was removed`, and how it ends",
        seed: 91,
        lesson: &[
            "the operator removes a follower, node {n}, which is cut off",
            "operator has done remove {n}",
            "node {n} is no member any more",
            "(node {n}, BOUNDED, at most…newer revisions were acknowledged before|--read local: …(node {n}, LOCAL, at most",
            "refused with NO_QUORUM…(node {n})",
            "node {n} is started again, though it was removed",
            "node {n} ended itself…was removed from its cluster",
        ],
        knobs: five,
        faults: &[
            (5_000, 0, Fault::Shrink(Target::Leader, 8_000)),
            (18_000, 0, Fault::Grow),
            (22_000, 0, Fault::Shrink(Target::Follower(0), 9_000)),
            (33_000, 0, Fault::Shrink(Target::Follower(1), 0)),
        ],
    },
    Scenario {
        name: "another-cluster-at-a-members-address",
        shows: "A member is down, and a node of another cluster has its address, under its id or under \
                another; a second one elsewhere goes on calling that address when the member is back. \
                Members show that somebody else answers there; each cluster refuses the other's nodes; \
                none ends itself, and no log gets an entry of the other one.",
        look_at: "`has its address`; the operator's `a mistake at` lines; after `is \
                  started` the member catches up",
        seed: 1,
        lesson: &[
            "node {n} is down; node {n} of another cluster has its address",
            "operator a mistake at node…is of cluster",
            "never: node {n} gets a snapshot",
            "node {n} is started",
            "node {n} has installed the snapshot",
            "node {m} is down; node {o} of another cluster has its address",
            "leads in term",
            "node {m} is started",
            "never: node {m} ended itself",
            "kept in the end every node runs",
        ],
        knobs: five,
        faults: &[
            (4_000, 9_000, Fault::Stranger(Target::Follower(0), true)),
            (16_000, 9_000, Fault::Stranger(Target::Leader, false)),
            (28_000, 9_000, Fault::Stranger(Target::Leader, true)),
        ],
    },
    Scenario {
        name: "two-of-three-wiped",
        shows: "Two of three machines lose their disks at once. If the third is reached, it sends them \
                away, as it remembers their directories; if not, they wait for it and serve nothing, \
                though they are a majority of the first members. The old disks are put back, and all that \
                was acknowledged is there.",
        look_at: "`the disks of … are lost`; what clients are told by a node that waits \
                  (NODE_STARTING); no `leads in term` until `has its disk again`",
        seed: 1,
        lesson: &[
            "the disks of nodes…are lost",
            "refused with NODE_STARTING",
            "never: leads in term",
            "has its disk again",
            "leads in term",
            "the disks of nodes…are lost",
            "does not start: node {n} has an empty or another data directory than the one that its peers met",
            "never: leads in term",
            "node {n} has its disk again",
            "node {n} opens its log",
            "the disks of nodes…are lost",
            "refused with NODE_STARTING",
            "never: leads in term",
            "has its disk again",
            "leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: as_it_is,
        faults: &[
            (6_000, 8_000, Fault::WipeMajority(1 << 32)),
            (20_000, 8_000, Fault::WipeMajority(1)),
            (34_000, 8_000, Fault::WipeMajority((1 << 32) + 2)),
        ],
    },
    Scenario {
        name: "three-of-five-wiped",
        shows: "The same with five nodes: three of them, without the other two.",
        look_at: "as in two-of-three-wiped",
        seed: 1,
        lesson: &[
            "the disks of nodes…are lost",
            "refused with NODE_STARTING",
            "never: leads in term",
            "has its disk again",
            "the disks of nodes…are lost",
            "does not start: node {n} has an empty or another data directory than the one that its peers met",
            "never: leads in term",
            "node {n} has its disk again",
            "leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: five,
        faults: &[
            (6_000, 8_000, Fault::WipeMajority((1 << 32) + 1)),
            (20_000, 8_000, Fault::WipeMajority(3)),
        ],
    },
    Scenario {
        name: "a-new-node-loses-power-before-its-first-flush",
        shows: "A node is added, gets a snapshot from before that, learns that it is a member, and is \
                killed before its state is flushed again: after the start its state is from before it was \
                added. It catches up once more. (Once it took that for its removal, and never started \
                again.)",
        look_at: "`has installed the snapshot` at the new node, `is started`, and that it \
                  holds the same state in the end",
        seed: 1,
        lesson: &[
            "node {n} is a new machine",
            "node {n} has installed the snapshot",
            "operator has done promote {n}",
            "node {n} is killed|the power of node {n} fails",
            "node {n} is started",
            "never: node {n} ended itself",
            "kept in the end every node runs, and all hold the same state",
        ],
        knobs: |knobs| {
            short_log(knobs);
            // The leader has one when the node comes, and the node makes none itself for some seconds, as
            // that would flush its state; nor does a comparison.
            knobs.snapshot_after_entries = 700;
            knobs.flush_interval_ms = 5_000;
            knobs.compare_interval_ms = COMPARED_SELDOM_MS;
        },
        faults: &[
            (6_000, 0, Fault::Grow),
            (7_500, 300, Fault::Kill(Target::Any(3))),
            (14_000, 0, Fault::Grow),
            (16_000, 300, Fault::PowerCut(Target::Any(4))),
            (22_000, 0, Fault::Learner(12_000, true)),
            (24_000, 300, Fault::Kill(Target::Any(5))),
            (26_000, 300, Fault::PowerCut(Target::Any(5))),
        ],
    },
];
