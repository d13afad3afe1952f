//! A store that is linearizable by construction, or breaks one promise on purpose, under random
//! clients. What it does to its state is done by the node's own state machine, so that the checker's
//! second copy of the semantics is held against the first.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tally_client::history::{Compare, Condition, Kind, Level, Op, Part, Record, Status};
use tally_node::machine::{
    apply,
    command::{self, Action},
    memory::MemoryView,
    query,
    view::{Overlay, Writes},
};

use super::{
    MS,
    machine::{action, changed, look, tell},
    several,
};

/// What the store does wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A write is acknowledged and not kept.
    Lost,
    /// A write is executed a second time.
    Doubled,
    /// A linearizable read sees an old state, and says so.
    Stale,
    /// A linearizable read sees an old state, and claims to have seen the newest.
    StaleAndLies,
    /// A write is acknowledged before it is applied, after others that come later.
    Late,
    /// The recorder loses an acknowledged write.
    Unrecorded,
}

/// What clients do.
#[derive(Debug, Clone)]
pub(super) struct Mix {
    pub(super) clients: usize,
    pub(super) operations: usize,
    /// In a thousand writes, how many are never answered.
    pub(super) unknown: u32,
    /// Only adds to one bounded counter, and reads of it.
    pub(super) hot: bool,
    /// Of these only adds of 1.
    pub(super) rising: bool,
}

struct Pending {
    record: Record,
    /// What has been answered, once it was applied.
    answered: bool,
    /// Nobody will hear of it.
    orphan: bool,
}

pub(super) struct Store {
    random: SmallRng,
    mix: Mix,
    fault: Fault,
    /// The fault has happened.
    pub(super) did: bool,
    /// It has, but perhaps nobody could see it.
    pub(super) is_unclear: bool,
    now: u64,
    index: u64,
    state: MemoryView,
    /// Every state, with the time of its beginning and its revision.
    states: Vec<(u64, u64, MemoryView)>,
    /// The highest revision that an answer has told.
    told: u64,
    known: BTreeMap<u64, u64>,
    pending: Vec<Option<Pending>>,
    orphans: Vec<Pending>,
    last_idem: Vec<Option<Record>>,
    late: Option<Record>,
    unique: u64,
    pub(super) history: Vec<Record>,
}

impl Store {
    pub(super) fn run(seed: u64, mix: Mix, fault: Fault) -> Self {
        let settings = command::Settings {
            sessions_max: 1,
            session_idle_ms: 1,
            idempotency_window_ms: 1_000_000,
            idempotency_bytes_max: 1 << 30,
        };
        let mut store = Self {
            random: SmallRng::seed_from_u64(seed),
            fault,
            did: false,
            is_unclear: false,
            now: 0,
            index: 0,
            state: MemoryView::default(),
            states: Vec::new(),
            told: 0,
            known: BTreeMap::new(),
            pending: (0..mix.clients).map(|_| None).collect(),
            orphans: Vec::new(),
            last_idem: vec![None; mix.clients],
            late: None,
            unique: 0,
            history: Vec::new(),
            mix,
        };
        store.commit(Action::CreateCluster { cluster_id: 1, settings }, None);
        store.work();
        store
    }

    fn revision(&self) -> u64 {
        query::meta(&self.state).revision
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random.random_ratio(per_mille, 1000)
    }

    fn commit(&mut self, action: Action, idem: Option<&str>) -> command::Reply {
        let key = idem.map(|key| command::IdempotencyKey { key: key.to_owned(), window_ms: 0 });
        let command = command::Command {
            session: None,
            idempotency: key,
            fingerprint: Default::default(),
            action,
            caller: None,
        };
        let batch = command::Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] };
        let mut writes = Writes::default();
        self.index += 1;
        let reply = apply(&mut Overlay::new(&self.state, &mut writes), self.index, &batch);
        self.state.commit(writes);
        if !self.mix.hot {
            // Weak reads look back; the hot counter has none.
            self.states.push((self.now, self.revision(), self.state.clone()));
        }
        reply.into_iter().next().unwrap()
    }

    fn work(&mut self) {
        let mut begun = 0;
        while begun < self.mix.operations || self.pending.iter().any(Option::is_some) {
            self.now += self.random.random_range(0..=MS);
            let client = self.random.random_range(0..self.mix.clients);
            match self.pending[client].take() {
                None if begun < self.mix.operations => {
                    begun += 1;
                    let record = self.ask(client);
                    self.pending[client] = Some(Pending { record, answered: false, orphan: false });
                }
                None => {}
                Some(pending) => self.go_on(client, pending),
            }
            self.orphan();
        }
        self.look_at_all();
    }

    /// A write that nobody waits for any more may be applied at any time, or never.
    fn orphan(&mut self) {
        if !self.orphans.is_empty() && self.chance(100) {
            let at = self.random.random_range(0..self.orphans.len());
            let mut orphan = self.orphans.swap_remove(at);
            if self.random.random() {
                self.serve(&mut orphan.record);
            }
        }
    }

    fn go_on(&mut self, client: usize, mut pending: Pending) {
        let is_read = pending.record.is_read();
        if !pending.answered && !is_read && self.chance(self.mix.unknown) {
            pending.orphan = true;
            let mut record = pending.record.clone();
            record.status = Status::Unknown;
            self.history.push(record);
            self.orphans.push(pending);
            return;
        }
        if !pending.answered {
            self.serve(&mut pending.record);
            pending.answered = true;
            self.pending[client] = Some(pending);
            return;
        }
        let mut record = pending.record;
        record.ret = Some(self.now);
        self.answer(client, record);
    }

    fn answer(&mut self, client: usize, record: Record) {
        let made = record.part.result.as_ref().and_then(|result| result.version).unwrap_or(0);
        let is_change = record.status == Status::Ok && !record.is_read();
        let made = if is_change { made } else { 0 };
        self.told = self.told.max(made).max(record.revision.unwrap_or(0));
        let known = self.known.entry(client as u64).or_default();
        *known = (*known).max(made).max(record.revision.unwrap_or(0));
        if record.idem.is_some() {
            self.last_idem[client] = Some(record.clone());
        }
        // (Only a write that others come after: the last one leaves no trace.)
        let is_new = record.replayed == Some(false) && record.idem.is_none();
        let takes = is_change && is_new && changed(&record);
        if self.fault == Fault::Unrecorded && takes && !self.did && self.chance(100) {
            self.did = true;
            return;
        }
        self.history.push(record);
    }

    /// The last word: everything is read once all is answered.
    fn look_at_all(&mut self) {
        self.now += MS;
        if let Some(mut record) = self.late.take() {
            let told = record.part.result.as_ref().and_then(|result| result.version);
            // Nothing else was changed in the meantime, so it was as if it had been in time.
            self.is_unclear = Some(self.revision()) < told;
            self.serve(&mut record);
        }
        let mut record = several("batch_get", 99, 0, 0);
        record.call = self.now;
        record.ops = if self.mix.hot {
            vec![Part::get("c0")]
        } else {
            let names = ["c0", "c1", "c2"].map(Part::get).into_iter();
            names.chain(["k0", "k1", "k2"].map(Part::read)).collect()
        };
        self.read(&mut record);
        record.ret = Some(self.now + 1);
        self.history.push(record);
    }

    fn ask(&mut self, client: usize) -> Record {
        if let Some(again) = self.last_idem[client].take()
            && self.random.random()
        {
            let mut record = Record::new(again.client, again.part, self.now);
            record.idem = again.idem;
            record.ops = again.ops;
            record.when = again.when;
            record.else_ops = again.else_ops;
            return record;
        }
        let mut record = if self.mix.hot { self.ask_hot() } else { self.ask_any() };
        record.client = client as u64;
        record.call = self.now;
        if !record.is_read() && !self.mix.hot && self.chance(100) {
            self.unique += 1;
            record.idem = Some(format!("i{}", self.unique));
        }
        record
    }

    fn ask_hot(&mut self) -> Record {
        let part = match self.random.random_range(0..10) {
            0..9 if self.mix.rising => Part::incr("c0", 1),
            0..4 => Part::incr("c0", 1),
            4..8 => Part::incr("c0", -1).floor(0),
            8 => Part::incr("c0", 2).ceiling(6),
            _ => Part::get("c0"),
        };
        Record::new(0, part, 0)
    }

    fn counter(&mut self) -> String {
        format!("c{}", self.random.random_range(0..3))
    }

    fn key(&mut self) -> String {
        format!("k{}", self.random.random_range(0..3))
    }

    fn part(&mut self) -> Part {
        let (counter, key) = (self.counter(), self.key());
        self.unique += 1;
        let text = format!("v{}", self.unique);
        let small = self.random.random_range(-4..=4);
        let revision = self.revision().saturating_sub(self.random.random_range(0..3));
        match self.random.random_range(0..20) {
            0..5 => Part::incr(counter, small),
            5 => Part::incr(counter, -3).floor(-2),
            6 => Part::incr(counter, 5).ceiling(4).saturate(),
            7 => Part::incr(counter, small).must_exist(),
            8 => Part::incr(counter, i64::MAX),
            9 => Part::set(counter, small),
            10 => Part::configure(counter).floor(-5).ceiling(small + 2),
            11 => {
                use tally_client::counter::Expect;
                let expect = match self.random.random_range(0..3) {
                    0 => Expect::Absent,
                    1 => Expect::Value(small),
                    _ => Expect::Revision(revision),
                };
                Part::cas_counter(counter, expect, small)
            }
            12 => Part::delete_counter(counter),
            13 if self.random.random_bool(0.5) => Part::put(key, text).if_value("the same"),
            13 => Part::put(key, text).if_absent(),
            14 => Part::put(key, text).if_version(revision),
            15 => Part::put(key, "the same"),
            16 => Part::delete(key).if_present(),
            17 => Part::delete(key),
            _ => Part::put(key, text),
        }
    }

    fn ask_any(&mut self) -> Record {
        let kind = self.random.random_range(0..20);
        let (counter, key) = (self.counter(), self.key());
        match kind {
            0..9 => Record::new(0, self.part(), 0),
            9..12 => {
                let mut record = several("apply", 0, 0, 0);
                (record.status, record.ret) = (Status::Unknown, None);
                record.ops = vec![self.part(), Part::get(counter.clone()), self.part()];
                if self.random.random() {
                    let compare = [Compare::Less, Compare::GreaterOrEqual][kind % 2];
                    record.when = vec![Condition::value(Kind::Counter, counter, compare, 1)];
                }
                if self.random.random() {
                    record.when.push(Condition::exists(Kind::Key, key.clone(), true));
                    record.else_ops = vec![self.part(), Part::read(key)];
                }
                record
            }
            12..14 => {
                let mut record = several("batch_get", 0, 0, 0);
                record.ops = vec![Part::get("c0"), Part::get("c1"), Part::read("k0")];
                record
            }
            14 => self.weak(Part::get(counter), Level::Local),
            15 => self.weak(Part::read(key), Level::Session),
            16 => self.weak(Part::get(counter), Level::Bounded),
            17 => Record::new(0, Part::read(key), 0),
            _ => Record::new(0, Part::get(counter), 0),
        }
    }

    fn weak(&mut self, part: Part, level: Level) -> Record {
        let mut record = Record::new(0, part, 0);
        record.level = Some(level);
        record.bound_ms = (level == Level::Bounded).then(|| self.random.random_range(1..30));
        record
    }

    /// Applies or reads it now.
    fn serve(&mut self, record: &mut Record) {
        if record.is_read() {
            return self.read(record);
        }
        let faulty = !self.did && record.idem.is_none() && self.chance(50);
        let before = self.state.clone();
        let action = action(record);
        let reply = self.commit(action.clone(), record.idem.as_deref());
        tell(record, &reply);
        let takes = record.status == Status::Ok && changed(record);
        match self.fault {
            Fault::Lost if faulty && takes => {
                self.state = before;
                self.states.pop();
                self.did = true;
            }
            Fault::Late if faulty && takes && self.late.is_none() => {
                self.state = before;
                self.states.pop();
                self.did = true;
                self.late = Some(record.clone());
            }
            Fault::Doubled if faulty && takes => {
                let revision = self.revision();
                self.commit(action, None);
                self.did = self.revision() > revision;
            }
            _ => {}
        }
    }

    fn read(&mut self, record: &mut Record) {
        let level = record.level.unwrap_or(Level::Linearizable);
        let now = (self.now, self.revision(), self.state.clone());
        let mut lie = None;
        let (_, revision, state) = match level {
            Level::Linearizable => match self.stale() {
                Some(old) if self.fault == Fault::Stale => old,
                Some(old) => {
                    lie = Some(self.revision());
                    old
                }
                None => now,
            },
            _ => self.past(record, level),
        };
        let several = record.part.op == Op::BatchGet;
        let parts = if several { &mut record.ops } else { std::slice::from_mut(&mut record.part) };
        let mut differs = false;
        for part in parts {
            part.result = Some(look(&state, part));
            differs |= part.result != Some(look(&self.state, part));
        }
        record.status = Status::Ok;
        record.revision = Some(lie.unwrap_or(revision));
        record.consistency = Some(level);
        if level == Level::Linearizable && revision != self.revision() {
            // An old state that is honest about its revision is seen to be old only by what was
            // told; one that lies only by what differs.
            self.did = match lie {
                None => revision < self.told_before(record.call),
                Some(_) => differs,
            };
        }
    }

    fn told_before(&self, call: u64) -> u64 {
        let told = self.history.iter().filter(|record| record.ret.is_some_and(|ret| ret < call));
        let reached = |record: &Record| {
            let own = record.part.result.as_ref().and_then(|result| result.version);
            let own = own.filter(|_| record.status == Status::Ok && !record.is_read());
            record.revision.max(own)
        };
        told.filter_map(reached).max().unwrap_or(0)
    }

    fn stale(&mut self) -> Option<(u64, u64, MemoryView)> {
        let stale = matches!(self.fault, Fault::Stale | Fault::StaleAndLies);
        if !stale || self.did || self.states.len() < 5 || !self.chance(200) {
            return None;
        }
        let at = self.random.random_range(0..self.states.len() - 2);
        Some(self.states[at].clone())
    }

    /// A state that a weak read may show.
    fn past(&mut self, record: &mut Record, level: Level) -> (u64, u64, MemoryView) {
        let known = self.known.get(&record.client).copied().unwrap_or(0);
        let floor = match level {
            Level::Session => known,
            Level::Bounded => {
                let since = self.now.saturating_sub(record.bound_ms.unwrap_or(0) * MS);
                let old = self.states.iter().filter(|(from, _, _)| *from <= since);
                old.map(|(_, revision, _)| *revision).max().unwrap_or(0)
            }
            Level::Local | Level::Linearizable => 0,
        };
        let allowed: Vec<usize> =
            (0..self.states.len()).filter(|at| self.states[*at].1 >= floor).collect();
        // A store that lost what it acknowledged has none.
        let newest = self.states.len() - 1;
        let random = self.random.random_range(0..allowed.len().max(1));
        let at = allowed.get(random).copied().unwrap_or(newest);
        self.states[at].clone()
    }
}
