//! Scenarios that pin a story: of a bug that was found, or of one that the design must keep out. One long table.

use super::{Scenario, knobs::*};
use crate::{
    faults::{
        moments::Moment,
        plan::{Fault, Target},
    },
    knobs::COMPARED_SELDOM_MS,
};

/// In the order in which they are listed and run.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "power-failures",
        shows: "All machines lose their power at once, in the middle of writes, again and again; then \
                single ones. Of what was not synced some sectors survive, some do not, and some are \
                torn. Nothing that was acknowledged is gone.",
        look_at: "`opens its log, and drops … of a write that was torn`; what was kept at \
                  the end",
        seed: 1,
        lesson: &[
            "the power of all machines fails at once",
            "opens its log, and drops…of a write that was torn",
            "leads in term",
            "the power of all machines fails at once",
            "opens its log, and drops…of a write that was torn",
            "leads in term",
            "the power of the leader, node {n}, fails",
            "node {n} opens its log",
            "leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: many_writes,
        faults: &[
            (4_000, 1_000, Fault::PowerCutAll),
            (8_000, 1_000, Fault::PowerCutAll),
            (12_000, 1_000, Fault::PowerCutAll),
            (16_000, 1_000, Fault::PowerCutAll),
            (20_000, 1_000, Fault::PowerCutAll),
            (24_000, 1_000, Fault::PowerCut(Target::Leader)),
            (28_000, 1_000, Fault::PowerCut(Target::Leader)),
            (32_000, 1_000, Fault::PowerCut(Target::Follower(0))),
            (36_000, 1_000, Fault::PowerCutAll),
        ],
    },
    Scenario {
        name: "overruled-and-left-behind",
        shows: "A leader is cut off with entries that only it has, until the others have given up the log \
                that it needs. It drops those entries, gets a snapshot, and its power fails in the middle: \
                the next start finds the old log or the shortened one, the old state or the new one.",
        look_at: "`drops entries that no majority has`, `gets a snapshot`, `ended itself`, \
                  and where the node goes on",
        seed: 1,
        lesson: &[
            "the leader, node {n}, is cut off until…its power fails",
            "leads in term",
            "node {n} is left behind, and comes back",
            "node {n} drops entries that no majority has",
            "node {n} gets a snapshot",
            "node {n} ended itself…crashed",
            "node {n} opens its log",
            "node {n} has installed the snapshot",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: |knobs| {
            short_log(knobs);
            knobs.clients = 24;
            knobs.entries_in_flight = 64;
            knobs.snapshot_after_entries = 6;
            knobs.reads = 0.1;
            knobs.think_ms_max = 150;
        },
        faults: &[
            (4_000, 0, Fault::LeaveBehind(Target::Leader, Some(1))),
            (9_000, 0, Fault::LeaveBehind(Target::Leader, Some(3))),
            (14_000, 0, Fault::LeaveBehind(Target::Leader, Some(0))),
            (19_000, 0, Fault::LeaveBehind(Target::Leader, Some(7))),
            (24_000, 0, Fault::LeaveBehind(Target::Leader, Some(10))),
            (29_000, 0, Fault::LeaveBehind(Target::Leader, Some(13))),
            (34_000, 0, Fault::LeaveBehind(Target::Leader, Some(16))),
        ],
    },
    Scenario {
        name: "overruled-before-a-power-failure",
        shows: "A leader is cut off with entries that only it has, and drops them when it is back. Then all \
                machines lose their power, long before that part of the log is purged or the state flushed: \
                what was dropped stays dropped, and what took its place is there.",
        look_at: "`drops entries that no majority has`, and `opens its log` after it",
        seed: 1,
        lesson: &[
            "the leader, node {n}, is cut off…until another leads",
            "node {n} drops entries that no majority has",
            "the power of all machines fails at once",
            "node {n} opens its log",
            "leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: |knobs| {
            many_writes(knobs);
            knobs.clients = 24;
            knobs.entries_in_flight = 64;
            knobs.value_bytes_max = 100;
            knobs.snapshot_after_entries = 1_000_000;
            knobs.flush_interval_ms = 5_000;
            knobs.compare_interval_ms = COMPARED_SELDOM_MS;
        },
        faults: &[
            (4_000, 0, Fault::Depose(300)),
            (9_000, 500, Fault::PowerCutAll),
            (14_000, 0, Fault::Depose(300)),
            (19_000, 500, Fault::PowerCutAll),
            (24_000, 0, Fault::Depose(300)),
            (29_000, 500, Fault::PowerCutAll),
            (34_000, 0, Fault::Depose(300)),
            (39_000, 500, Fault::PowerCutAll),
        ],
    },
    Scenario {
        name: "appends-that-come-behind-newer-ones",
        shows: "What the leader sends to a follower is held up for as long as the leader waits for an answer: it \
                connects anew and sends a snapshot and newer entries. Then the old ones come, little by little, and \
                say less than the follower has acknowledged by then. They take nothing away.",
        look_at: "the stalls, the snapshots by a new connection, and that no follower gives up what it has \
                  acknowledged behind them",
        seed: 1,
        lesson: &[
            "what old connections bring…node {n}, waits",
            "node {n} has installed the snapshot",
            "what old connections bring…node {m}, waits",
            "node {m} has installed the snapshot",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: |knobs| {
            many_writes(knobs);
            knobs.disk_sync_us = 3_000;
            knobs.value_bytes_max = 100;
            (knobs.heartbeat_ms, knobs.election_ms_min, knobs.election_ms_max) = (50, 200, 360);
        },
        // A leader waits for an answer for four times the longest election timeout, 1,440 ms here.
        faults: &[
            (3_000, 600, Fault::Stall(Target::Follower(0), 1_520, 240)),
            (8_000, 600, Fault::Stall(Target::Follower(1), 1_560, 300)),
            (13_000, 600, Fault::Stall(Target::Follower(0), 1_600, 60)),
            (18_000, 600, Fault::Stall(Target::Follower(1), 1_640, 20)),
            (23_000, 600, Fault::Stall(Target::Follower(0), 1_680, 350)),
            (28_000, 600, Fault::Stall(Target::Follower(1), 1_500, 120)),
            (33_000, 600, Fault::Stall(Target::Follower(0), 1_540, 400)),
            (38_000, 600, Fault::Stall(Target::Follower(1), 1_580, 200)),
        ],
    },
    Scenario {
        name: "a-used-file-becomes-the-next-segment",
        shows: "The log is full of large entries and purged often, so files are used again and again. The \
                power fails as one of them begins as the log's next segment: its header is there, torn or \
                not there, old bytes behind it. What was acknowledged lies before it, all of it synced.",
        look_at: "`ended itself` as its log moves on, then `opens its log, and drops … of a \
                  write that was torn`",
        seed: 1,
        lesson: &[
            "the power of…node {n}…fails…after its log moves on into a used file",
            "node {n} ended itself: …wal/",
            "node {n} opens its log, and drops…of a write that was torn",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: |knobs| {
            short_log(knobs);
            knobs.segment_bytes = 64 * 1024;
            knobs.value_bytes_max = 4_000;
            knobs.think_ms_max = 40;
        },
        faults: &[
            (4_000, 500, Fault::PowerCutOn(Target::Leader, Moment::Segment, 0)),
            (8_000, 500, Fault::PowerCutOn(Target::Leader, Moment::Segment, 1)),
            (12_000, 500, Fault::PowerCutOn(Target::Follower(0), Moment::Segment, 0)),
            (16_000, 500, Fault::PowerCutOn(Target::Any(0), Moment::Segment, 0)),
            (16_000, 500, Fault::PowerCutOn(Target::Any(1), Moment::Segment, 0)),
            (22_000, 500, Fault::PowerCutOn(Target::Any(1), Moment::Segment, 1)),
            (22_000, 500, Fault::PowerCutOn(Target::Any(2), Moment::Segment, 0)),
            (28_000, 500, Fault::PowerCutOn(Target::Leader, Moment::Segment, 2)),
            (33_000, 500, Fault::PowerCutOn(Target::Follower(1), Moment::Segment, 3)),
            (38_000, 500, Fault::PowerCutOn(Target::Leader, Moment::Segment, 0)),
        ],
    },
    Scenario {
        name: "deposed-while-callers-wait",
        shows: "A leader is cut off, asked by many, and comes back just when another leads. What it \
                had in its log is overruled; those who wait for it are told that the outcome is \
                unknown, or get the answer of the write that the library sent again.",
        look_at: "`drops entries that no majority has`, and the outcomes of the calls that \
                  were under way",
        seed: 1,
        lesson: &[
            "the leader, node {n}, is cut off from the other nodes, clients still reach it, until another leads",
            "outcome UNKNOWN",
            "answered after",
            "what it waited for has happened",
            "leads in term",
            "node {n} drops entries that no majority has",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: patient,
        faults: &[
            (5_000, 0, Fault::Depose(0)),
            (11_000, 0, Fault::Depose(50)),
            (17_000, 0, Fault::Depose(200)),
            (23_000, 0, Fault::Depose(0)),
            (29_000, 0, Fault::Depose(100)),
        ],
    },
    Scenario {
        name: "no-place-for-a-session",
        shows: "The table of sessions is full, so most users write under keys that the library draws. Leaders \
                are cut off from clients and die while answers are on their way: what is sent again is \
                counted once, as each write keeps its key.",
        look_at: "adds at the hot counter, each with an answer or UNKNOWN; that none is \
                  counted twice",
        seed: 1,
        lesson: &[
            "clients do not reach the leader, node {n}",
            "--idempotency-key …answered after|--idempotency-key …answered from memory",
            "over: the cut between clients and node {n}",
            "the leader, node {m}, is killed",
            "counter add hot-0…answered from memory: it counts once|counter add hot-0…answered after",
            "leads in term",
            "kept no acknowledged write is lost or counted twice…sent again got the first answer again",
        ],
        knobs: |knobs| {
            one_hot_counter(knobs);
            knobs.clients = 16;
            knobs.reads = 0.1;
            knobs.think_ms_max = 60;
            knobs.deadline_ms = 8_000;
            knobs.sessions_max = 2;
            knobs.sessions_share_percent = 100;
            knobs.idempotency_window_ms = 86_400_000;
            knobs.idempotency_bytes_max = 100_000_000;
        },
        faults: &[
            (6_000, 2_000, Fault::CutClients(Target::Leader)),
            (11_000, 1_000, Fault::Kill(Target::Leader)),
            (15_000, 2_000, Fault::CutClients(Target::Leader)),
            (20_000, 1_000, Fault::PowerCut(Target::Leader)),
            (24_000, 2_000, Fault::CutClients(Target::Leader)),
            (29_000, 3_000, Fault::IsolateFromAll(Target::Leader)),
            (36_000, 2_000, Fault::CutClients(Target::Leader)),
        ],
    },
    Scenario {
        name: "a-vote-that-nobody-heard",
        shows: "A leader is cut off with entries that only it has. Of the two others one stands for \
                election, and the third is gone before it hears of it. The leader starts anew: it has more \
                log than the one that stood, and an earlier term. Each refuses the other, until a refusal \
                tells of the later term.",
        look_at: "`a vote that … does not hear`, and who `leads in term` next, while the \
                  third is away",
        seed: 1,
        lesson: &[
            "the leader, node {n}, is cut off; whoever stands for election next is not heard",
            "a vote that node {m} does not hear",
            "never: leads in term",
            "node {n} opens its log",
            "node {n} leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: quick_disks,
        faults: &[(5_000, 0, Fault::UnheardVote), (26_000, 0, Fault::UnheardVote)],
    },
    Scenario {
        name: "asked-for-a-change-while-cut-off",
        shows: "A leader that is cut off is asked to make a learner a voter. It asks a majority first whether it leads, \
                as before each change, so that nothing of the change is in any log. It comes back when the log that it \
                needs is gone, and gets a snapshot. The learner gets its vote when it is asked for again, by two \
                entries of another leader.",
        look_at: "what `promote` is told at the node that is cut off; `is left behind`, `has installed the snapshot`; that \
                  nobody says `the voters are to change` before the learner is promoted at last",
        seed: 2,
        lesson: &[
            "operator has done add learner {l}",
            "the leader, node {n}, is cut off, asked to promote a learner",
            "never: the voters are to change",
            "leads in term",
            "never: the voters are to change",
            "promote at node {n}: no leader with a quorum was found",
            "operator gave up try promotion at {n}",
            "never: the voters are to change",
            "node {n} is left behind, and comes back",
            "never: the voters are to change",
            "node {n} has installed the snapshot",
            "the voters are to change: a majority of 1, 2, 3 and one of 1, 2, 3, {l} are needed",
            "the voters are 1, 2, 3, {l}",
            "operator has done promote {l}",
            "never: removed from its cluster",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: short_log,
        faults: &[
            (2_000, 0, Fault::Learner(34_000, true)),
            (7_000, 0, Fault::PromotionWhileCutOff),
            (17_000, 0, Fault::PromotionWhileCutOff),
            (27_000, 0, Fault::PromotionWhileCutOff),
        ],
    },
    Scenario {
        name: "members-that-were-overruled",
        shows: "A leader makes a learner a voter, and has that change in its log alone: before anybody gets the entry, \
                the power of all others fails, and it is cut off. It comes back when the log that it needs is gone, and \
                gets a snapshot: with it, the voters are again those that the others know. Nothing of the change is \
                left: the learner gets its vote when it is asked for again, by two entries of another leader.",
        look_at: "`the voters are to change` at the node that is cut off; `is left behind`, `has installed the \
                  snapshot`; that nobody else says so before the learner is promoted at last",
        seed: 1,
        lesson: &[
            "operator has done add learner {l}",
            "the leader, node {n}, is asked to promote a learner; as soon as it has that in its log",
            "node {n} the voters are to change: a majority of 1, 2, 3 and one of 1, 2, 3, {l} are needed",
            "never: the voters are 1, 2, 3, {l}",
            "leads in term",
            "never: the voters are 1, 2, 3, {l}",
            "node {n} is left behind, and comes back",
            "never: the voters are 1, 2, 3, {l}",
            "node {n} has installed the snapshot",
            "never: the voters are 1, 2, 3, {l}",
            "the voters are to change: a majority of 1, 2, 3 and one of 1, 2, 3, {l} are needed",
            "the voters are 1, 2, 3, {l}",
            "operator has done promote {l}",
            "never: removed from its cluster",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: short_log,
        faults: &[
            (2_000, 0, Fault::Learner(34_000, true)),
            (7_000, 0, Fault::OverruledPromotion),
            (17_000, 0, Fault::OverruledPromotion),
            (27_000, 0, Fault::OverruledPromotion),
        ],
    },
    Scenario {
        name: "comes-new-when-nobody-writes",
        shows: "A new machine joins while nobody writes, and its power fails at the leader's first word. \
                Meanwhile the leader gives up all of its log behind a snapshot, with the entry that the new \
                one joined by: it knows nothing of what the new one has, and has no entry to find out with. \
                It sends the snapshot.",
        look_at: "`ended itself` at the new machine, and `has installed the snapshot` soon \
                  after it is back",
        seed: 1,
        lesson: &[
            "node {n} is a new machine, for the place of node {o}",
            "node {n} ended itself…crashed",
            "node {n} is started",
            "node {n} has installed the snapshot",
            "operator has replaced node {o} by node {n}",
            "node {o} ended itself…was removed from its cluster",
        ],
        knobs: |knobs| {
            short_log(knobs);
            knobs.snapshot_after_entries = 1;
            // What they leave behind ends, and ends are entries.
            knobs.raw_clients = 0;
            knobs.lull_ms = Some((8_000, 44_000));
        },
        faults: &[
            (14_000, 0, Fault::Replace(Target::Follower(0))),
            (14_010, 2_500, Fault::PowerCutOn(Target::Any(3), Moment::Vote, 0)),
        ],
    },
    Scenario {
        name: "alone-with-a-slow-disk",
        shows: "A cluster of one, whose disk takes 100 ms for a sync: longer than the pause between two looks \
                at whether an election is due. After each power cut it saves one vote for itself, and leads.",
        look_at: "`leads in term` after each power cut: a term more each time, and soon",
        seed: 1,
        lesson: &[
            "leads in term 1",
            "the power of the leader, node 1, fails",
            "leads in term 2",
            "the power of the leader, node 1, fails",
            "leads in term 3",
            "the leader, node 1, is killed",
            "leads in term 4",
            "never: leads in term",
            "kept no acknowledged write is lost or counted twice",
        ],
        knobs: |knobs| {
            one_hot_counter(knobs);
            knobs.nodes = 1;
            knobs.disk_sync_us = 100_000;
        },
        faults: &[
            (6_000, 500, Fault::PowerCut(Target::Leader)),
            (16_000, 500, Fault::PowerCut(Target::Leader)),
            (26_000, 500, Fault::Kill(Target::Leader)),
        ],
    },
    Scenario {
        name: "who-may-do-what",
        shows: "Authentication is on. An admin grants, revokes, makes and deletes users, roles and tokens all the \
                time, in some seeds also switches it off and on, while nodes fail as the seed draws it and guests \
                call with every token that there ever was, through any node. Each write is decided by the rights \
                at its own place in the log, each read by those of the state that it reads, whoever passed it on.",
        look_at: "what the admin changes, with the entry that changed it; what guests are denied, with the entry or \
                  state that decided; the leaders in between (`--detail events` has all that guests are told)",
        seed: 1,
        lesson: &[
            "admin has switched authentication on",
            "admin puts guest-",
            "PERMISSION_DENIED (entry",
            "admin revokes token",
            "PERMISSION_DENIED (entry",
            "auditor has read everything",
        ],
        knobs: rights,
        faults: &[],
    },
    Scenario {
        name: "above-a-hard-limit",
        shows: "Quotas come, change and go on the names that users use, while a leader dies and another is cut off. \
                Above a hard limit what grows is refused, and nothing else; what is refused is done when it is asked \
                for again after something was deleted. Whoever leads knows what is used, as all replicas do: it is \
                part of the state.",
        look_at: "what is set, with the entry that set it, and `QUOTA_EXCEEDED` after it, under the next leader as \
                  well (`--detail events` has every answer)",
        seed: 1,
        lesson: &[
            "quotas sets",
            "QUOTA_EXCEEDED",
            "the leader, node {n}, is killed",
            "leads in term",
            "QUOTA_EXCEEDED",
            "auditor has read everything",
        ],
        knobs: quotas,
        faults: &[
            (12_000, 2_000, Fault::Kill(Target::Leader)),
            (20_000, 5_000, Fault::Isolate(Target::Leader)),
            (30_000, 2_000, Fault::PowerCut(Target::Leader)),
        ],
    },
];
