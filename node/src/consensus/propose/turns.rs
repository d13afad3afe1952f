//! Whose proposal is next: each client identity waits in a lane of its own, and they take turns.
//!
//! # Turns
//! Deficit round robin (Shreedhar and Varghese, 1995), counted in what a command costs to apply: a lane is
//! served until its credit is used up, and gets [`QUANTUM`] more with each turn. So of two who ask for more
//! than there is, each gets half, whoever has more connections, more calls under way or larger steps. A lane
//! that was empty comes before those that were not, as in FQ-CoDel (RFC 8290, section 4.1.1); emptied, it goes
//! behind all others, so that asking again and again is no way past them. Within a lane, and so within a
//! stream, proposals keep their order; between lanes there never was one.
//!
//! # Short entries while somebody asks for little
//! A turn alone is of little use to who has one call under way: it is in the next entry, behind all entries
//! that were proposed before and beside what the next one holds for others. So while anybody asks for no more
//! than a quantum at once (*light*), those who ask for more (*heavy*) have one such entry under way
//! ([`HEAVY_ENTRIES_MAX`]) and get a little of it ([`allotment`]). Without anybody else, or among heavy ones
//! alone, entries are as long and as many as ever.
//!
//! How little: what is small beside the time that an entry takes anyway. With disks and a network that are
//! quick a light one waits for little but for the others' operations, so it is [`HEAVY_COST_MIN`]; where an entry
//! takes milliseconds whatever it holds, more of them are not felt, and heavy ones would starve for nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX, Proposal};
use crate::{
    env::shares::Identity,
    machine::command::{Action, Command},
};

/// Credit for one turn, in operations. `deploy/bench/flood.sh`: with 64, somebody with as many calls under way
/// counted as light and doubled another one's p99.
const QUANTUM: i64 = 16;

/// What heavy lanes get of an entry together, while there is a light one, at least and at most. With 16 in place of 8
/// heavy ones got a quarter more, and a light one beside thousands of unary calls waited a fifth longer at its median and
/// a third longer at its p99 (`deploy/bench/flood.sh`). Fewer than 8 were not tried.
const HEAVY_COST_MIN: i64 = 8;
const HEAVY_COST_MAX: i64 = 64;

/// What a call costs beside its operation, where heavy lanes get little: its own frames, task and answer, on the threads on
/// which those who ask for little wait, too. `deploy/bench/flood.sh`, beside 4,096 unary calls of another: with 0 a light
/// one's p99 is 2.3 and 2.4 times what it is alone and the others get 14,000 a second; with 1 it is 1.6 to 2.3 times in
/// four runs, and 10,000 to 11,600; with 2 1.7 times in all three, and 10,700 to 11,700.
const CALL_COST: i64 = 2;

/// So long an entry takes for each operation of heavy lanes that it may hold. Well above what an operation costs
/// wherever it was measured (18 to 60 µs, all three nodes and the clients on two cores), or else each longer entry
/// would allow a still longer one.
const HEAVY_OPERATION: Duration = Duration::from_micros(100);

/// Entries with something of heavy lanes that are under way meanwhile. With two a light one's entry waits for the
/// operations of both: a fifth more at the median, with 16 of them each.
pub(super) const HEAVY_ENTRIES_MAX: usize = 1;

/// A light lane counts as there for so long after it was served.
const LIGHT_FOR: Duration = Duration::from_secs(1);

/// Bytes that cost as much as an operation.
const BYTES_PER_OPERATION: usize = 4096;

/// What it costs to apply a proposal, in operations.
fn cost(command: &Command, size_bytes: usize) -> i64 {
    let operations = match &command.action {
        Action::Apply(step) => {
            // One branch runs.
            let branch = step.operations.len().max(step.else_operations.len());
            step.conditions.len() + branch
        }
        _ => 1,
    };
    i64::try_from(operations.max(1) + size_bytes / BYTES_PER_OPERATION).unwrap_or(i64::MAX)
}

#[derive(Debug)]
struct Waiting {
    proposal: Proposal,
    cost: i64,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    /// Of all that wait.
    cost: i64,
    /// May be below zero after a command that cost more than there was.
    credit: i64,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The node's own commands, which wait for nobody.
    own: VecDeque<Proposal>,
    /// Each stands in one of the two queues of turns.
    lanes: BTreeMap<Identity, Lane>,
    /// Those that were empty before.
    fresh: VecDeque<Identity>,
    round: VecDeque<Identity>,
    waiting: usize,
    light_until: Option<Instant>,
}

/// What heavy lanes may have of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heavy {
    /// All of it.
    All,
    /// So much, as [`cost`] counts.
    Some(i64),
    /// Nothing.
    Nothing,
}

/// What heavy lanes get of an entry while there is a light one, by the time that entries with something of them take
/// from being proposed to being answered.
pub(super) fn allotment(entry_takes: Duration) -> Heavy {
    let operations = entry_takes.as_micros() / HEAVY_OPERATION.as_micros();
    let operations = i64::try_from(operations).unwrap_or(i64::MAX);
    Heavy::Some(operations.clamp(HEAVY_COST_MIN, HEAVY_COST_MAX))
}

/// How long entries with something of heavy lanes take: a moving mean, so that one flush of a disk says little.
#[derive(Debug, Default)]
pub(super) struct EntryTime(AtomicU64);

impl EntryTime {
    /// One more took so long.
    pub(super) fn record(&self, took: Duration) {
        let (took, mean) = (took.as_micros(), self.mean().as_micros());
        let next = if mean == 0 { took } else { (7 * mean + took) / 8 };
        self.0.store(u64::try_from(next).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The mean.
    pub(super) fn mean(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// The next entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its proposals; none if nobody waits who may have something of it.
    pub(super) batch: Vec<Proposal>,
    /// There is something of a heavy lane among them.
    pub(super) has_heavy: bool,
}

/// What an entry has of its room.
#[derive(Debug, Default)]
struct Taken {
    batch: Vec<Proposal>,
    size_bytes: usize,
    opens_session: bool,
    is_full: bool,
}

impl Taken {
    /// Whether one more fits. If not, the entry is closed.
    fn fits(&mut self, next: &Proposal) -> bool {
        // A session's id is the index of the entry that opens it: one to an entry.
        let opens = next.command.action.opens_session() && self.opens_session;
        let is_too_large =
            !self.batch.is_empty() && self.size_bytes + next.size_bytes > ENTRY_BYTES_MAX;
        self.is_full |= opens || is_too_large || self.batch.len() >= ENTRY_COMMANDS_MAX;
        !self.is_full
    }

    fn put(&mut self, proposal: Proposal) {
        self.opens_session |= proposal.command.action.opens_session();
        self.size_bytes += proposal.size_bytes;
        self.batch.push(proposal);
    }
}

impl Turns {
    /// One more waits.
    pub(super) fn put(&mut self, proposal: Proposal) {
        self.waiting += 1;
        let Some(identity) = proposal.waiter.identity() else {
            return self.own.push_back(proposal);
        };
        let cost = cost(&proposal.command, proposal.size_bytes);
        let lane = self.lanes.entry(identity).or_insert_with(|| {
            self.fresh.push_back(identity);
            Lane { credit: QUANTUM, ..Lane::default() }
        });
        lane.cost += cost;
        lane.waiting.push_back(Waiting { proposal, cost });
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// The next entry.
    pub(super) fn take(&mut self, heavy: Heavy) -> Entry {
        let mut has_heavy = false;
        let mut taken = Taken::default();
        while let Some(next) = self.own.front()
            && taken.fits(next)
        {
            taken.put(self.own.pop_front().expect("it was just there"));
        }
        let mut heavy_left = match heavy {
            Heavy::All => i64::MAX,
            Heavy::Some(cost) => cost,
            Heavy::Nothing => 0,
        };
        // Heavy lanes that got their part of this entry; their turn stands for the next one.
        let mut held_back = Vec::new();
        while !taken.is_full
            && let Some((identity, is_fresh)) = self.next()
        {
            let lane = self.lanes.get_mut(&identity).expect("who has a turn has a lane");
            let is_heavy = lane.cost > QUANTUM;
            while !taken.is_full
                && lane.credit > 0
                && (!is_heavy || heavy_left > 0)
                && let Some(next) = lane.waiting.front()
                && taken.fits(&next.proposal)
            {
                let Waiting { proposal, cost } =
                    lane.waiting.pop_front().expect("it was just there");
                lane.credit -= cost;
                lane.cost -= cost;
                if is_heavy {
                    heavy_left -= cost + i64::from(proposal.waiter.is_a_call()) * CALL_COST;
                    has_heavy = true;
                }
                taken.put(proposal);
            }
            if lane.waiting.is_empty() {
                if is_fresh && !self.round.is_empty() {
                    // It keeps its place behind the others, so that it can't be fresh again before they had turns.
                    self.round.push_back(identity);
                } else {
                    self.lanes.remove(&identity);
                }
            } else if lane.credit <= 0 {
                lane.credit += QUANTUM;
                self.round.push_back(identity);
            } else if taken.is_full {
                match is_fresh {
                    true => self.fresh.push_front(identity),
                    false => self.round.push_front(identity),
                }
            } else {
                held_back.push(identity);
            }
        }
        for identity in held_back.into_iter().rev() {
            self.round.push_front(identity);
        }
        self.waiting -= taken.batch.len();
        Entry { batch: taken.batch, has_heavy }
    }

    fn next(&mut self) -> Option<(Identity, bool)> {
        match self.fresh.pop_front() {
            Some(identity) => Some((identity, true)),
            None => Some((self.round.pop_front()?, false)),
        }
    }

    /// Whether heavy lanes have to leave room for light ones.
    pub(super) fn are_short(&mut self, now: Instant) -> bool {
        if self.lanes.len() > 1
            && self.lanes.values().any(|lane| (1..=QUANTUM).contains(&lane.cost))
            && self.lanes.values().any(|lane| lane.cost > QUANTUM)
        {
            self.light_until = Some(now + LIGHT_FOR);
        }
        self.light_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        consensus::propose::{Answerer, Outcome, Ticket, Waiter},
        env::shares::ShareRule,
        machine::command::{ApplyStep, CounterGet, Fingerprint, Operation},
    };

    const HEAVY: u64 = 1;
    const LIGHT: u64 = 2;

    struct Queue {
        turns: Turns,
        room: crate::consensus::admission::Room,
        /// Each comes in a call of its own, and not in a stream.
        in_calls: bool,
    }

    struct Nobody;

    impl Answerer for Nobody {
        fn answer(self: Box<Self>, _: Outcome) {}
    }

    impl Queue {
        fn new() -> Queue {
            let rule = ShareRule { percent: 100, report_only: true };
            let room = crate::consensus::admission::Room::new(1 << 20, 1 << 30, rule);
            Queue { turns: Turns::default(), room, in_calls: false }
        }

        fn put(&mut self, user: Option<u64>, action: Action, size_bytes: usize) {
            let admission =
                user.map(|user| self.room.admit_now(Identity::User(user), size_bytes).unwrap());
            let waiter = match admission {
                Some(admission) if !self.in_calls => Waiter::answerer(Box::new(Nobody), admission),
                admission => Waiter::task(tokio::sync::oneshot::channel().0, admission),
            };
            let command = Command {
                session: None,
                idempotency: None,
                fingerprint: Fingerprint::default(),
                action,
                caller: None,
            };
            self.turns.put(Proposal {
                command,
                size_bytes,
                ticket: Arc::new(Ticket::default()),
                since: Instant::now(),
                deadline: Instant::now(),
                waiter,
            });
        }

        fn add(&mut self, user: u64, times: usize) {
            for _ in 0..times {
                self.put(Some(user), Action::Tick, 100);
            }
        }

        /// Whose proposals are in the next entry, and how many.
        fn take(&mut self) -> BTreeMap<Option<u64>, usize> {
            let mut of = BTreeMap::new();
            let heavy = match self.turns.are_short(Instant::now()) {
                true => Heavy::Some(HEAVY_COST_MIN),
                false => Heavy::All,
            };
            for proposal in self.turns.take(heavy).batch {
                let user = proposal.waiter.identity().map(|identity| match identity {
                    Identity::User(user) => user,
                    other => panic!("{other:?}"),
                });
                *of.entry(user).or_default() += 1;
            }
            of
        }
    }

    fn of(user: u64, count: usize) -> (Option<u64>, usize) {
        (Some(user), count)
    }

    #[tokio::test(start_paused = true)]
    async fn alone_everything_that_waits_is_one_entry_in_its_order() {
        let mut queue = Queue::new();
        queue.add(HEAVY, ENTRY_COMMANDS_MAX + 10);
        for bytes in [1, 2, 3] {
            queue.put(None, Action::Tick, bytes);
        }
        let first = queue.turns.take(Heavy::All).batch;
        let sizes: Vec<_> = first.iter().take(4).map(|proposal| proposal.size_bytes).collect();
        assert_eq!((first.len(), &sizes[..]), (ENTRY_COMMANDS_MAX, &[1, 2, 3, 100][..]));
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, 13)]));
        assert!(queue.turns.is_empty() && queue.turns.lanes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_little_is_in_the_next_entry_and_that_is_short() {
        let mut queue = Queue::new();
        queue.add(HEAVY, 5000);
        queue.add(LIGHT, 1);
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, 8), of(LIGHT, 1)]));
        // With enough of that under way, only light ones are proposed.
        assert!(queue.turns.take(Heavy::Nothing).batch.is_empty());
        queue.add(LIGHT, 1);
        let entry = queue.turns.take(Heavy::Nothing);
        assert_eq!((entry.batch.len(), entry.has_heavy), (1, false));
        // It may come again at any moment …
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, 8)]));
        queue.add(LIGHT, 2);
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, 8), of(LIGHT, 2)]));
        // … and does not.
        tokio::time::advance(LIGHT_FOR).await;
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, ENTRY_COMMANDS_MAX)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_costs_more_than_its_operation_where_heavy_ones_get_little() {
        let mut queue = Queue { in_calls: true, ..Queue::new() };
        queue.add(HEAVY, 5000);
        queue.add(LIGHT, 1);
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, 3), of(LIGHT, 1)]));
        // So many calls at once are still little.
        queue.add(LIGHT, 16);
        assert_eq!(queue.take(), BTreeMap::from([of(HEAVY, 3), of(LIGHT, 16)]));
    }

    #[test]
    fn heavy_ones_get_what_is_small_beside_the_time_of_an_entry() {
        let time = EntryTime::default();
        assert_eq!(allotment(time.mean()), Heavy::Some(HEAVY_COST_MIN), "nothing is known yet");
        time.record(Duration::from_millis(2));
        assert_eq!(allotment(time.mean()), Heavy::Some(20));
        // One slow flush among many entries.
        time.record(Duration::from_millis(10));
        assert_eq!(allotment(time.mean()), Heavy::Some(30));
        for _ in 0..50 {
            time.record(Duration::from_millis(10));
        }
        assert_eq!(allotment(time.mean()), Heavy::Some(HEAVY_COST_MAX));
        for _ in 0..50 {
            time.record(Duration::from_micros(300));
        }
        assert_eq!(allotment(time.mean()), Heavy::Some(HEAVY_COST_MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_ask_for_more_than_there_is_get_half_each_whatever_their_steps_cost() {
        let mut queue = Queue::new();
        let operation = Operation::CounterGet(CounterGet { name: "hits".into() });
        let step = ApplyStep {
            conditions: Vec::new(),
            operations: vec![operation; 128],
            else_operations: Vec::new(),
        };
        for _ in 0..200 {
            queue.put(Some(HEAVY), Action::Apply(step.clone()), 100);
        }
        queue.add(LIGHT, 10_000);
        let entry = queue.take();
        let (steps, adds) = (entry[&Some(HEAVY)], entry[&Some(LIGHT)]);
        let share = (steps * 128) as f64 / adds as f64;
        assert!((0.9..1.1).contains(&share), "{entry:?}");
        let mut left = ENTRY_COMMANDS_MAX;
        while left > 0 {
            left = queue.take().into_values().sum();
        }
        assert!(queue.turns.is_empty() && queue.turns.lanes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn asking_again_and_again_is_no_way_past_the_others() {
        let mut queue = Queue::new();
        // More that is light than an entry holds, and one that always comes back.
        for user in 10..10 + ENTRY_COMMANDS_MAX as u64 {
            queue.add(user, 2);
        }
        queue.add(LIGHT, 1);
        for _ in 0..2 {
            assert!(!queue.take().contains_key(&Some(LIGHT)), "others were first");
        }
        assert_eq!(queue.take(), BTreeMap::from([of(LIGHT, 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_opens_one_session_and_has_so_many_bytes() {
        let mut queue = Queue::new();
        for _ in 0..2 {
            queue.put(Some(LIGHT), Action::OpenSession { idle_timeout_ms: 0 }, 100);
        }
        queue.put(Some(LIGHT), Action::Tick, ENTRY_BYTES_MAX - 50);
        queue.put(Some(LIGHT), Action::Tick, 2 * ENTRY_BYTES_MAX);
        for _ in 0..4 {
            assert_eq!(queue.take(), BTreeMap::from([of(LIGHT, 1)]));
        }
        assert!(queue.turns.is_empty());
    }
}
