//! Which faults a seed brings, and when: drawn before the run, so that a failing run can be shrunk
//! by leaving faults out.

use std::{
    fmt,
    mem::{Discriminant, discriminant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde::Serialize;

use super::moments::Moment;
use crate::{env::mix, knobs::Knobs};

/// Which node a fault strikes. Who leads is only known when the moment comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Target {
    /// The node that leads; the first one if none does.
    Leader,
    /// The n-th of those that do not lead.
    Follower(u64),
    /// The n-th of all.
    Any(u64),
}

/// What is broken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Fault {
    /// One node alone; its clients still reach it.
    Isolate(Target),
    /// One node alone, without its clients.
    IsolateFromAll(Target),
    /// The leader alone, until the others have another one and a while longer, in ms; its clients
    /// still reach it.
    Depose(u64),
    /// One node alone, until the others have given up the log that it needs. With a number, its power
    /// fails so many disk operations after it begins to install the snapshot that it gets then.
    LeaveBehind(Target, Option<u64>),
    /// The nodes in two halves, by the bits of a mask.
    Halves(u64),
    /// One link cut, and all others whole: who reaches whom is not transitive.
    CutLink(Target, Target),
    /// Nothing from the first reaches the second.
    OneWay(Target, Target),
    /// Nothing that the node sends to other nodes arrives; what they send does.
    Mute(Target),
    /// Nothing that other nodes send to the node arrives; what it sends does.
    Deaf(Target),
    /// Clients do not reach the node.
    CutClients(Target),
    /// Messages of the node's links wait, and arrive together at the end.
    Hold(Target),
    /// What the node's present connections bring it waits for so many ms, then comes in pieces, so
    /// many ms apart; new connections are not affected.
    Stall(Target, u64, u64),
    /// Messages take up to so many ms.
    Slow(u64),
    /// Messages get lost, together with the connection they are on: one in so many.
    Lose(u64),
    /// The process is killed.
    Kill(Target),
    /// The power of one machine fails.
    PowerCut(Target),
    /// The power of all machines fails at once.
    PowerCutAll,
    /// The power fails at the n-th disk operation from now, between any two.
    PowerCutAtStep(Target, u64),
    /// The power fails so many disk operations after the node has done something.
    PowerCutOn(Target, Moment, u64),
    /// The power of two machines fails, the second so many ms after the first.
    PowerCutTwo(Target, Target, u64),
    /// The leader is isolated, and a follower bounced while the others elect.
    BounceInElection(u64),
    /// The machine stands still: nothing goes in or out, and its disk does not answer.
    Pause(Target),
    /// Stopped in good order.
    Stop(Target),
    /// Syncs take so many ms.
    SlowDisk(Target, u64),
    /// The next sync fails.
    SyncError(Target),
    /// The next write fails.
    WriteError(Target),
    /// The next flush of the state's store fails (true), or the next write to it.
    StoreError(Target, bool),
    /// The next read of a file fails.
    ReadError(Target),
    /// The disk is full.
    FullDisk(Target),
    /// One bit of the disk flips, then the power fails. The file and the bit are drawn from this.
    BitRot(Target, u64),
    /// The power fails, and one bit flips in what the node has stored of its state: what it is told of when
    /// that is overwritten. When it has been found out and so much time has passed, the operator replaces it.
    StoredBit(Target),
    /// The disk is lost with all that is on it; the machine comes back empty.
    LoseDisk(Target),
    /// The log is lost, and what lies beside it is not: a volume that is not mounted.
    LoseLog(Target),
    /// All of the disk is put back from a copy that was made before the node's last start.
    OlderCopy(Target),
    /// The wall clock is wrong by so many ms.
    WrongClock(Target, i64),
    /// The wall clock gains so many µs a second.
    DriftingClock(Target, i64),
    /// The operator transfers leadership.
    TransferLeader,
    /// The operator replaces a node with a new machine, under a new id.
    Replace(Target),
    /// The operator restarts every node, one after the other: the next one when the one before can answer
    /// linearizable reads again, as an orchestrator does that asks for its health, or (true) as soon
    /// as that one was started.
    RollingRestart(bool),
    /// Of three voters, the leader is cut off and the first that stands for election is not heard: the
    /// third one is cut off just then, for so long, and the leader starts anew. It has more log than the
    /// one that stood, and knows of no such term.
    UnheardVote,
    /// The leader is cut off, asked to make a learner a voter, and stays away until the others have given up
    /// the log that it needs. (Where the others can't elect it might get its way, so no seed draws it.)
    PromotionWhileCutOff,
    /// The leader is asked to make a learner a voter. As soon as it has the change in its log, all other
    /// machines lose their power before they have the entry, and it is cut off until the others have given up
    /// the log that it needs.
    OverruledPromotion,
    /// The operator adds a new machine as a voter.
    Grow,
    /// The operator removes a voter, whose process goes on. It is cut off from the other nodes, and not
    /// from clients, from before its removal on, for so many ms.
    Shrink(Target, u64),
    /// The operator adds a new machine as a learner, and after so many ms promotes it (true) or removes
    /// it.
    Learner(u64, bool),
    /// The leader and all learners on one side, the other voters on the other; clients reach both.
    WithLearners,
    /// A break, so many ms after an entry is next appended that names two sets of voters: while a
    /// change of the voters is under way. The operator does nothing as long as it lasts.
    WhenJoint(Break, u64),
    /// The disks of a majority are lost at once, while nobody who knows the cluster reaches those
    /// machines; then what was on the disks is put back. Whose they are is drawn from this.
    WipeMajority(u64),
    /// The operator backs the cluster up and restores the backup into another, empty one, whose power fails
    /// meanwhile. When, and whose, is drawn from this.
    Restore(u64),
    /// A node goes down, and one of another cluster comes up at its address: under its id, or (false)
    /// under one that nobody here knows. Another node of that cluster, elsewhere, knows this address.
    Stranger(Target, bool),
}

/// What is broken while the voters change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Break {
    /// The leader alone.
    Isolate,
    /// The nodes in two halves, by the bits of a mask.
    Halves(u64),
    /// Nothing that the leader sends arrives.
    Mute,
    /// The leader's process is killed.
    Kill,
    /// The leader's power fails.
    PowerCut,
    /// The power of all machines fails.
    PowerCutAll,
}

impl Break {
    /// As a fault of its own.
    pub fn fault(self) -> Fault {
        match self {
            Break::Isolate => Fault::Isolate(Target::Leader),
            Break::Halves(mask) => Fault::Halves(mask),
            Break::Mute => Fault::Mute(Target::Leader),
            Break::Kill => Fault::Kill(Target::Leader),
            Break::PowerCut => Fault::PowerCut(Target::Leader),
            Break::PowerCutAll => Fault::PowerCutAll,
        }
    }
}

/// One fault of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// Number in its plan, for shrinking and for reports.
    pub number: usize,
    /// When, in simulated ms.
    pub at_ms: u64,
    /// How long until it is undone, in ms; unused where nothing is to be undone.
    pub for_ms: u64,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?} for {} ms", self.number, self.fault, self.for_ms)
    }
}

/// Faults before this have a cluster that never served.
const FIRST_MS: u64 = 2_000;

/// Draws the faults of a seed for a run whose last part, from `until_ms` on, is free of them.
pub fn draw(seed: u64, knobs: &Knobs, until_ms: u64) -> Vec<Planned> {
    let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0xfa]));
    let families: Vec<Favoured> =
        families(knobs).into_iter().map(|family| Favoured::draw(family, rng, knobs)).collect();
    let mut plan = Vec::new();
    if families.is_empty() {
        return plan;
    }
    let mut at_ms = FIRST_MS + rng.random_range(0..knobs.fault_every_ms);
    while at_ms < until_ms {
        let family =
            families.choose_weighted(rng, |family| family.weight).expect("weights are above zero");
        let fault = family.fault(rng, knobs);
        // Around the times at which elections happen, often; sometimes far longer.
        let for_ms = match rng.random_range(0..10) {
            0..3 => rng.random_range(10..knobs.election_ms_min),
            3..8 => rng.random_range(knobs.election_ms_min..4 * knobs.election_ms_max),
            8 => rng.random_range(3_000..12_000),
            _ => rng.random_range(8_000..20_000),
        };
        let mut push = |at_ms: u64, for_ms: u64, fault| {
            if at_ms < until_ms {
                let for_ms = for_ms.min(until_ms - at_ms);
                plan.push(Planned { number: 0, at_ms, for_ms, fault });
            }
        };
        if let Some((later_ms, for_ms, beside)) = beside(&fault, rng, knobs) {
            push(at_ms + later_ms, for_ms, beside);
        }
        push(at_ms, for_ms, fault);
        // Several at once now and then: the gap may be short.
        at_ms += rng.random_range(knobs.fault_every_ms / 10..2 * knobs.fault_every_ms);
    }
    if knobs.stored_bits_flip {
        plan.extend(stored_bits(seed, until_ms));
    }
    if knobs.restores {
        let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0x4e57]));
        let (at_ms, fault) = (rng.random_range(RESTORED_MS), Fault::Restore(rng.random()));
        if at_ms < until_ms {
            plan.push(Planned { number: 0, at_ms, for_ms: 0, fault });
        }
    }
    plan.sort_by_key(|planned| planned.at_ms);
    for (number, planned) in plan.iter_mut().enumerate() {
        planned.number = number;
    }
    plan
}

/// Stored bits that flip, from draws of their own. Several, as each is left out where something else is damaged.
fn stored_bits(seed: u64, until_ms: u64) -> Vec<Planned> {
    let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0xd1ff, 1]));
    let mut plan = Vec::new();
    let mut at_ms = rng.random_range(STORED_BY_MS..2 * STORED_BY_MS);
    while at_ms < until_ms {
        let for_ms = rng.random_range(500..10_000).min(until_ms - at_ms);
        plan.push(Planned { number: 0, at_ms, for_ms, fault: Fault::StoredBit(target(rng)) });
        at_ms += rng.random_range(4_000..15_000);
    }
    plan
}

/// When a backup is made: not of nothing, and not when everything is mended.
const RESTORED_MS: std::ops::Range<u64> = 6_000..35_000;

/// By then something is stored.
const STORED_BY_MS: u64 = 5_000;

/// What goes with a change of the members in about half of the cases: at random times, a network that
/// splits hardly ever meets a change that takes some milliseconds. So many ms later, for so many ms.
fn beside(fault: &Fault, rng: &mut SmallRng, knobs: &Knobs) -> Option<(u64, u64, Fault)> {
    if rng.random_bool(0.4) {
        return None;
    }
    let for_ms = rng.random_range(knobs.election_ms_min..6_000);
    match fault {
        Fault::Learner(hold_ms, _) if rng.random_bool(0.7) => {
            Some((rng.random_range(300..*hold_ms), for_ms, Fault::WithLearners))
        }
        Fault::Grow | Fault::Shrink(..) | Fault::Learner(..) | Fault::Replace(_) => {
            Some((0, for_ms, when_joint(rng, knobs)))
        }
        _ => None,
    }
}

fn when_joint(rng: &mut SmallRng, knobs: &Knobs) -> Fault {
    let broken = match rng.random_range(0..8) {
        0..2 => Break::Isolate,
        2..4 => Break::Halves(rng.random()),
        4 => Break::Mute,
        5 => Break::Kill,
        6 => Break::PowerCut,
        _ => Break::PowerCutAll,
    };
    // From right after the leader has it in its log to about when it is done.
    let round_ms = 2 * knobs.latency_ms_max + knobs.disk_sync_us / 500;
    Fault::WhenJoint(broken, rng.random_range(0..2 * round_ms))
}

type Family = fn(&mut SmallRng, &Knobs) -> Fault;

/// A family as one seed draws from it. What is drawn evenly from everything in every seed seldom
/// meets itself; so a seed favours some families, and one fault in each.
struct Favoured {
    family: Family,
    weight: u32,
    favourite: Discriminant<Fault>,
    /// How often the favourite is drawn where another fault would be.
    favour: f64,
}

/// Attempts to draw a favourite; then what was drawn last is good enough.
const FAVOURITE_DRAWS: usize = 30;

impl Favoured {
    fn draw(family: Family, rng: &mut SmallRng, knobs: &Knobs) -> Favoured {
        Favoured {
            family,
            weight: *[1, 1, 2, 4].choose(rng).expect("not empty"),
            favourite: discriminant(&family(rng, knobs)),
            favour: *[0.0, 0.0, 0.3, 0.6].choose(rng).expect("not empty"),
        }
    }

    fn fault(&self, rng: &mut SmallRng, knobs: &Knobs) -> Fault {
        let mut fault = (self.family)(rng, knobs);
        if rng.random_bool(self.favour) {
            for _ in 0..FAVOURITE_DRAWS {
                if discriminant(&fault) == self.favourite {
                    break;
                }
                fault = (self.family)(rng, knobs);
            }
        }
        fault
    }
}

fn families(knobs: &Knobs) -> Vec<Family> {
    let on = knobs.faults;
    let all: [(bool, Family); 7] = [
        (on.partitions, partition),
        (on.messages, messages),
        (on.processes, process),
        (on.disks, disk),
        (on.clocks, clock),
        (on.operations, operation),
        (on.members, members),
    ];
    all.into_iter().filter_map(|(on, family)| on.then_some(family)).collect()
}

/// The leader as often as all others together: faults elsewhere seldom matter.
fn target(rng: &mut SmallRng) -> Target {
    match rng.random_range(0..4) {
        0..2 => Target::Leader,
        2 => Target::Follower(rng.random_range(0..4)),
        _ => Target::Any(rng.random_range(0..5)),
    }
}

fn partition(rng: &mut SmallRng, _: &Knobs) -> Fault {
    match rng.random_range(0..16) {
        10..14 => Fault::Depose(rng.random_range(0..400)),
        14..16 => {
            let power_fails = rng.random_bool(0.7).then(|| install_step(rng));
            // A leader too, with those who wait for what it could not commit.
            Fault::LeaveBehind(target(rng), power_fails)
        }
        0..2 => Fault::Isolate(target(rng)),
        2 => Fault::IsolateFromAll(target(rng)),
        3..5 => Fault::Halves(rng.random()),
        5 => Fault::CutLink(target(rng), Target::Follower(rng.random_range(0..4))),
        6 => Fault::OneWay(target(rng), Target::Follower(rng.random_range(0..4))),
        7 => Fault::Mute(target(rng)),
        8 => Fault::Deaf(target(rng)),
        _ => Fault::CutClients(target(rng)),
    }
}

fn messages(rng: &mut SmallRng, knobs: &Knobs) -> Fault {
    match rng.random_range(0..7) {
        0..2 => Fault::Hold(target(rng)),
        // About as long as a leader waits for an answer before it connects anew.
        2 | 3 => Fault::Stall(
            Target::Follower(rng.random_range(0..4)),
            4 * knobs.election_ms_max + rng.random_range(20..20 + knobs.election_ms_max),
            rng.random_range(5..400),
        ),
        4 => Fault::Stall(target(rng), rng.random_range(200..2_500), rng.random_range(1..100)),
        5 => Fault::Slow(rng.random_range(knobs.latency_ms_max..2 * knobs.election_ms_max)),
        _ => Fault::Lose(rng.random_range(20..400)),
    }
}

fn process(rng: &mut SmallRng, _: &Knobs) -> Fault {
    match rng.random_range(0..19) {
        0..2 => Fault::Kill(target(rng)),
        2..5 => Fault::PowerCut(target(rng)),
        5 => Fault::PowerCutAll,
        6..8 => Fault::PowerCutAtStep(target(rng), rng.random_range(0..60)),
        8 => Fault::BounceInElection(rng.random_range(0..4)),
        9..11 => Fault::Pause(target(rng)),
        11 => Fault::PowerCutTwo(
            target(rng),
            Target::Follower(rng.random_range(0..4)),
            *[0, 1, 5, 20, 200].choose(rng).expect("not empty"),
        ),
        12..17 => power_cut_on(rng),
        17 => Fault::Stop(target(rng)),
        _ => Fault::UnheardVote,
    }
}

fn power_cut_on(rng: &mut SmallRng) -> Fault {
    use Moment::{Append, Install, Purge, Segment, Snapshot, Synced, Truncate, Vote};
    let moments =
        [Vote, Vote, Append, Synced, Truncate, Purge, Snapshot, Install, Install, Segment, Segment];
    let moment = *moments.choose(rng).expect("not empty");
    let steps = match moment {
        Install => install_step(rng),
        Segment => rng.random_range(0..4),
        _ if rng.random() => rng.random_range(0..3),
        _ => rng.random_range(0..25),
    };
    Fault::PowerCutOn(target(rng), moment, steps)
}

/// An install is long, and most of it is not the part that matters: a whole new state is filled and
/// then takes the place of the old one.
fn install_step(rng: &mut SmallRng) -> u64 {
    if rng.random() { rng.random_range(7..17) } else { rng.random_range(0..24) }
}

fn disk(rng: &mut SmallRng, _: &Knobs) -> Fault {
    match rng.random_range(0..18) {
        15..17 => Fault::ReadError(target(rng)),
        17 => Fault::WipeMajority(rng.random()),
        0..3 => Fault::SlowDisk(target(rng), rng.random_range(20..800)),
        3..5 => Fault::SyncError(target(rng)),
        5 => Fault::WriteError(target(rng)),
        6 => Fault::FullDisk(target(rng)),
        7..9 => Fault::BitRot(target(rng), rng.random()),
        9 => Fault::LoseDisk(target(rng)),
        10 => Fault::LoseLog(target(rng)),
        11 | 12 => Fault::OlderCopy(target(rng)),
        _ => Fault::StoreError(target(rng), rng.random()),
    }
}

fn clock(rng: &mut SmallRng, _: &Knobs) -> Fault {
    const DAY_MS: i64 = 86_400_000;
    if rng.random() {
        Fault::WrongClock(target(rng), rng.random_range(-400 * DAY_MS..400 * DAY_MS))
    } else {
        Fault::DriftingClock(target(rng), rng.random_range(-200_000..200_000))
    }
}

fn operation(rng: &mut SmallRng, _: &Knobs) -> Fault {
    match rng.random_range(0..6) {
        0..3 => Fault::TransferLeader,
        3..5 => Fault::Replace(target(rng)),
        _ => Fault::RollingRestart(true),
    }
}

/// A node that is to be removed is cut off from the others for so long at most.
const APART_MS_MAX: u64 = 12_000;

fn members(rng: &mut SmallRng, knobs: &Knobs) -> Fault {
    match rng.random_range(0..20) {
        0..4 => Fault::Grow,
        4..9 => {
            let apart = rng.random_bool(0.5);
            let apart_ms = if apart { rng.random_range(500..APART_MS_MAX) } else { 0 };
            Fault::Shrink(target(rng), apart_ms)
        }
        9..12 => Fault::Learner(rng.random_range(2_000..15_000), rng.random_bool(0.6)),
        12 => Fault::WithLearners,
        13..15 => when_joint(rng, knobs),
        15..18 => Fault::Stranger(target(rng), rng.random()),
        _ => Fault::WipeMajority(rng.random()),
    }
}
