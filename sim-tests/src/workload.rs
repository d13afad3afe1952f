//! What clients do while things break: every operation, every read level, sessions and idempotency
//! keys, hot and spread names, bounds that are nearly reached, units that move between counters.
//!
//! Each user is a task that makes one call after the other through the shipped client library and
//! records it ([`tally_client::history`]). Users may share a client, as tasks of a service do. Who
//! asks what is drawn from the seed; nothing here judges an answer.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    Client, ReadLevel, Transport,
    apply::{Compare, Condition, Operation},
    counter::Expect,
    history::{self, Kind, Part, Recorder, Request},
};
use turmoil::Sim;

use crate::{
    cluster::Cluster,
    env::{mix, simulated_ms},
    knobs::Knobs,
    trace_event,
};

/// Turmoil hosts that clients live on.
pub const HOSTS: [&str; 2] = ["clients-a", "clients-b"];

/// Counters between which units move; their sum stays.
const ACCOUNTS: u64 = 4;
/// What each begins with.
const ACCOUNT_UNITS: i64 = 50;
/// Counters with stored bounds.
const STOCKS: u64 = 2;
/// Their ceiling; the floor is 0.
const STOCK_CEILING: i64 = 40;
/// Number of the one who reads everything in the end.
const AUDITOR: u64 = 2_000;
/// Writes remembered for sending again.
const RESENDABLE_MAX: usize = 32;

/// A shared view on all users.
#[derive(Debug, Clone)]
pub struct Workload {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    knobs: Knobs,
    recorder: Recorder,
    stop: Cell<bool>,
    ready: Cell<bool>,
    running: Cell<u64>,
    /// Writes under an idempotency key that somebody may send again.
    resendable: RefCell<Vec<(String, Write)>>,
    seed: u64,
}

/// A write, so that it can be sent again as it was.
#[derive(Debug, Clone)]
enum Write {
    Add {
        name: String,
        delta: i64,
        floor: Option<i64>,
        ceiling: Option<i64>,
        saturate: bool,
        must_exist: bool,
    },
    Set {
        name: String,
        value: i64,
    },
    CasCounter {
        name: String,
        expect: Expect,
        value: i64,
    },
    DeleteCounter {
        name: String,
    },
    Configure {
        name: String,
        floor: i64,
        ceiling: i64,
    },
    Put {
        key: String,
        value: String,
        expect: KeyExpect,
    },
    Delete {
        key: String,
        if_revision: Option<u64>,
    },
    Transfer {
        from: String,
        to: String,
        units: i64,
    },
    Order {
        stock: String,
        order: String,
    },
    Branching {
        name: String,
        limit: i64,
    },
}

#[derive(Debug, Clone, Copy)]
enum KeyExpect {
    Nothing,
    Absent,
    Present,
    Revision(u64),
}

impl Workload {
    /// Puts the users into the simulation.
    pub fn start(sim: &mut Sim<'_>, cluster: &Cluster, knobs: &Knobs, seed: u64) -> Workload {
        let recorder = Recorder::in_memory(|| simulated_ns().unwrap_or(0));
        let shared = Shared {
            knobs: knobs.clone(),
            recorder,
            stop: Cell::new(false),
            ready: Cell::new(false),
            running: Cell::new(0),
            resendable: RefCell::default(),
            seed,
        };
        let workload = Workload { shared: Rc::new(shared) };
        for (at, host) in HOSTS.iter().enumerate() {
            let (workload, cluster) = (workload.clone(), cluster.clone());
            sim.client(*host, async move {
                workload.host(&cluster, at as u64).await;
                Ok(())
            });
        }
        workload
    }

    /// Lets the users end after their present call.
    pub fn stop(&self) {
        self.shared.stop.set(true);
    }

    /// Whether all users have ended.
    pub fn is_over(&self) -> bool {
        self.shared.ready.get() && self.shared.running.get() == 0
    }

    /// What was recorded.
    pub fn records(&self) -> Vec<history::Record> {
        self.shared.recorder.records()
    }

    /// One more write, then a linearizable look at everything, all recorded. Says whether it worked.
    pub async fn audit(&self, client: &Client) -> bool {
        let level = ReadLevel::Linearizable;
        let user = AUDITOR;
        let pending = self.shared.recorder.begin(user, Part::incr("audit", 1));
        let written = client.counter("audit").add(1).await;
        let worked = written.is_ok();
        pending.finish(&written);
        if !worked {
            return false;
        }
        for names in self.counters().chunks(64) {
            let request = Request::batch_get(names.iter().cloned()).level(&level);
            let pending = self.shared.recorder.begin(user, request);
            let result = client.counters().batch_get(names.iter().cloned()).await;
            let worked = result.is_ok();
            pending.finish(&result);
            if !worked {
                return false;
            }
        }
        for keys in self.keys().chunks(64) {
            let request = Request::batch_read(keys.iter().cloned()).level(&level);
            let pending = self.shared.recorder.begin(user, request);
            let result = client.keys().batch_get(keys.iter().cloned()).await;
            let worked = result.is_ok();
            pending.finish(&result);
            if !worked {
                return false;
            }
        }
        true
    }

    fn counters(&self) -> Vec<String> {
        let knobs = &self.shared.knobs;
        let hot = (0..knobs.hot_counters).map(hot);
        let spread = (0..knobs.spread).map(counter);
        hot.chain(spread).chain((0..STOCKS).map(stock)).chain((0..ACCOUNTS).map(account)).collect()
    }

    fn keys(&self) -> Vec<String> {
        (0..self.shared.knobs.spread).map(key).collect()
    }

    /// The users of one host.
    async fn host(&self, cluster: &Cluster, host: u64) {
        let knobs = &self.shared.knobs;
        let mut rng = SmallRng::seed_from_u64(mix(self.shared.seed, &[0x05e5, host]));
        let users: Vec<u64> =
            (0..knobs.clients).filter(|user| user % HOSTS.len() as u64 == host).collect();
        if host == 0 {
            self.set_up(cluster).await;
            self.shared.ready.set(true);
        }
        let mut tasks = Vec::new();
        let mut client = None;
        for user in users {
            // Some share the client of the one before.
            let shared = client.clone().filter(|_| rng.random_bool(0.3));
            let own = shared.unwrap_or_else(|| self.client(cluster, user, &mut rng));
            client = Some(own.clone());
            self.shared.running.set(self.shared.running.get() + 1);
            let user = User {
                number: user,
                client: own,
                workload: self.clone(),
                rng: SmallRng::seed_from_u64(mix(self.shared.seed, &[0xacc, user])),
                known: BTreeMap::new(),
                writes: 0,
            };
            tasks.push(tokio::task::spawn_local(user.live()));
        }
        for task in tasks {
            task.await.expect("a user does not panic");
        }
    }

    fn client(&self, cluster: &Cluster, user: u64, rng: &mut SmallRng) -> Client {
        let knobs = &self.shared.knobs;
        let mut builder = if rng.random_bool(0.3) {
            // It knows one node, and learns of others from hints.
            let addresses = cluster.addresses();
            let own = addresses[(user as usize) % addresses.len()].clone();
            Client::builder([own])
                .seed(mix(self.shared.seed, &[0x0e, user]))
                .connector(crate::env::connect_client)
        } else {
            cluster.client(user)
        };
        builder = builder.deadline(Duration::from_millis(knobs.deadline_ms));
        if rng.random_bool(0.5) {
            let attempt = rng.random_range(knobs.election_ms_max..4 * knobs.election_ms_max);
            builder = builder.attempt_timeout(Duration::from_millis(attempt));
        }
        if rng.random_bool(0.3) {
            builder = builder.transport(Transport::Unary);
        }
        builder = if rng.random_bool(0.15) {
            builder.one_shot()
        } else if rng.random_bool(0.2) {
            // As short as the service allows: it must be renewed while things break.
            builder.session_idle_timeout(Duration::from_secs(10))
        } else {
            builder
        };
        builder.build().expect("the settings are valid")
    }

    /// Bounds and first values, before anything breaks.
    async fn set_up(&self, cluster: &Cluster) {
        let client = cluster.client(1_000).deadline(Duration::from_secs(20)).build();
        let client = client.expect("the settings are valid");
        for at in 0..STOCKS {
            let part = Part::configure(stock(at)).floor(0).ceiling(STOCK_CEILING);
            let pending = self.shared.recorder.begin(1_000, part);
            let call = client.counter(stock(at)).configure().floor(0).ceiling(STOCK_CEILING);
            pending.finish(&call.await);
        }
        for at in 0..ACCOUNTS {
            let pending = self.shared.recorder.begin(1_000, Part::set(account(at), ACCOUNT_UNITS));
            pending.finish(&client.counter(account(at)).set(ACCOUNT_UNITS).await);
        }
    }
}

fn hot(at: u64) -> String {
    format!("hot-{at}")
}

fn counter(at: u64) -> String {
    format!("counter-{at:02}")
}

fn stock(at: u64) -> String {
    format!("stock-{at}")
}

fn account(at: u64) -> String {
    format!("account-{at}")
}

fn key(at: u64) -> String {
    format!("key-{at:02}")
}

fn simulated_ns() -> Option<u64> {
    turmoil::sim_elapsed().map(|elapsed| elapsed.as_nanos() as u64)
}

/// One who makes one call after the other.
struct User {
    number: u64,
    client: Client,
    workload: Workload,
    rng: SmallRng,
    /// Value (of a counter) and revision, as last seen, to base conditions on.
    known: BTreeMap<String, (i64, u64)>,
    writes: u64,
}

impl User {
    async fn live(mut self) {
        let shared = Rc::clone(&self.workload.shared);
        while !shared.ready.get() && !shared.stop.get() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !shared.stop.get() {
            let think = self.rng.random_range(0..=shared.knobs.think_ms_max);
            tokio::time::sleep(Duration::from_millis(think)).await;
            if self.rng.random_bool(shared.knobs.reads) {
                self.read().await;
            } else {
                self.write().await;
            }
        }
        shared.running.set(shared.running.get() - 1);
    }

    fn deadline(&mut self) -> Duration {
        let knobs = &self.workload.shared.knobs;
        let ms = if self.rng.random_bool(knobs.short_deadlines) {
            self.rng.random_range(3..60)
        } else {
            knobs.deadline_ms
        };
        Duration::from_millis(ms)
    }

    fn level(&mut self) -> ReadLevel {
        match self.rng.random_range(0..10) {
            0..5 => ReadLevel::Linearizable,
            5 | 6 => ReadLevel::Bounded {
                max_staleness: Duration::from_millis(self.rng.random_range(1..2_000)),
                allow_fallback: self.rng.random_bool(0.2),
            },
            7 | 8 => ReadLevel::Session(None),
            _ => ReadLevel::Local,
        }
    }

    fn counter_name(&mut self) -> String {
        let knobs = &self.workload.shared.knobs;
        if self.rng.random_bool(knobs.hot) {
            return hot(self.rng.random_range(0..knobs.hot_counters));
        }
        match self.rng.random_range(0..4) {
            0 => stock(self.rng.random_range(0..STOCKS)),
            1 => account(self.rng.random_range(0..ACCOUNTS)),
            _ => counter(self.rng.random_range(0..knobs.spread)),
        }
    }

    fn key_name(&mut self) -> String {
        key(self.rng.random_range(0..self.workload.shared.knobs.spread))
    }

    async fn read(&mut self) {
        let (level, deadline) = (self.level(), self.deadline());
        let recorder = self.workload.shared.recorder.clone();
        let began = simulated_ms();
        let what;
        match self.rng.random_range(0..10) {
            0..5 => {
                let name = self.counter_name();
                let pending =
                    recorder.begin(self.number, Request::from(Part::get(&name)).level(&level));
                let call = self.client.counter(&name).get().level(level).deadline(deadline);
                let result = call.await;
                if let Ok(counter) = &result {
                    self.known.insert(name.clone(), (counter.value, counter.modified_revision));
                }
                what = format!("get {name}: {}", brief(&result, |counter| counter.value));
                pending.finish(&result);
            }
            5..8 => {
                let name = self.key_name();
                let pending =
                    recorder.begin(self.number, Request::from(Part::read(&name)).level(&level));
                let call = self.client.keys().get(&name).level(level).deadline(deadline);
                let result = call.await;
                if let Ok(item) = &result {
                    self.known.insert(name.clone(), (0, item.modified_revision));
                }
                what = format!("read {name}: {}", brief(&result, |item| item.modified_revision));
                pending.finish(&result);
            }
            _ => {
                let names: Vec<String> = (0..ACCOUNTS).map(account).collect();
                let pending =
                    recorder.begin(self.number, Request::batch_get(names.clone()).level(&level));
                let call = self.client.counters().batch_get(names).level(level).deadline(deadline);
                let result = call.await;
                what = format!("batch get: {}", brief(&result, |batch| batch.items.len() as i64));
                pending.finish(&result);
            }
        }
        self.tell(began, &what);
    }

    fn tell(&self, began: Option<u64>, what: &str) {
        let took = simulated_ms().unwrap_or(0) - began.unwrap_or(0);
        trace_event!(&format!("user-{}", self.number), "{what} ({took} ms)");
    }

    async fn write(&mut self) {
        let shared = Rc::clone(&self.workload.shared);
        if self.rng.random_bool(shared.knobs.resends) {
            let again = shared.resendable.borrow().choose(&mut self.rng).cloned();
            if let Some((idem, write)) = again {
                self.send(&write, Some(idem)).await;
                return;
            }
        }
        let write = self.draw_write();
        self.writes += 1;
        let idem =
            self.rng.random_bool(0.15).then(|| format!("key-{}-{}", self.number, self.writes));
        if let Some(idem) = &idem {
            let mut resendable = shared.resendable.borrow_mut();
            if resendable.len() == RESENDABLE_MAX {
                let at = self.rng.random_range(0..RESENDABLE_MAX);
                resendable.swap_remove(at);
            }
            resendable.push((idem.clone(), write.clone()));
        }
        self.send(&write, idem).await;
    }

    fn draw_write(&mut self) -> Write {
        match self.rng.random_range(0..20) {
            0..8 => {
                let name = self.counter_name();
                let is_account = name.starts_with("account");
                let is_stock = name.starts_with("stock");
                let delta = match (is_account, is_stock) {
                    // Accounts keep their sum; only transfers move them.
                    (true, _) => 0,
                    (_, true) => self.rng.random_range(-9..=9),
                    _ => *[1, 1, 1, 1, -1, 5].choose(&mut self.rng).expect("not empty"),
                };
                let own_bounds = !is_account && self.rng.random_bool(0.15);
                Write::Add {
                    name,
                    delta,
                    floor: own_bounds.then(|| self.rng.random_range(-5..5)),
                    ceiling: own_bounds.then(|| self.rng.random_range(5..60)),
                    saturate: self.rng.random_bool(0.2),
                    must_exist: self.rng.random_bool(0.1),
                }
            }
            8 => Write::Set { name: self.spread_counter(), value: self.rng.random_range(-20..20) },
            9 => {
                let name = self.spread_counter();
                let expect = match (self.known.get(&name), self.rng.random_range(0..3)) {
                    (Some((value, _)), 0) => Expect::Value(*value),
                    (Some((_, revision)), 1) => Expect::Revision(*revision),
                    _ => Expect::Absent,
                };
                Write::CasCounter { name, expect, value: self.rng.random_range(-20..20) }
            }
            10 => Write::DeleteCounter { name: self.spread_counter() },
            11 => {
                let floor = self.rng.random_range(-60..0);
                Write::Configure {
                    name: self.spread_counter(),
                    floor,
                    ceiling: self.rng.random_range(floor..80),
                }
            }
            12..15 => {
                let key = self.key_name();
                let expect = match (self.known.get(&key), self.rng.random_range(0..6)) {
                    (Some((_, revision)), 0 | 1) => KeyExpect::Revision(*revision),
                    (_, 2) => KeyExpect::Absent,
                    (_, 3) => KeyExpect::Present,
                    _ => KeyExpect::Nothing,
                };
                // Unique, so that a read tells which write it saw.
                let value = format!("{}/{}", self.number, self.writes);
                Write::Put { key, value, expect }
            }
            15 => {
                let key = self.key_name();
                let known = self.known.get(&key).map(|known| known.1);
                Write::Delete { key, if_revision: known.filter(|_| self.rng.random()) }
            }
            16 | 17 => {
                let from = self.rng.random_range(0..ACCOUNTS);
                let to = (from + self.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
                let units = self.rng.random_range(1..30);
                Write::Transfer { from: account(from), to: account(to), units }
            }
            18 => Write::Order {
                stock: stock(self.rng.random_range(0..STOCKS)),
                order: self.key_name(),
            },
            _ => Write::Branching {
                name: self.spread_counter(),
                limit: self.rng.random_range(-5..15),
            },
        }
    }

    fn spread_counter(&mut self) -> String {
        counter(self.rng.random_range(0..self.workload.shared.knobs.spread))
    }

    async fn send(&mut self, write: &Write, idem: Option<String>) {
        let deadline = self.deadline();
        let recorder = self.workload.shared.recorder.clone();
        let client = self.client.clone();
        let began = simulated_ms();
        let mut request = write.request();
        if let Some(idem) = &idem {
            request = request.idem(idem.clone());
        }
        let pending = recorder.begin(self.number, request);
        macro_rules! outcome {
            ($call:expr, $what:expr) => {{
                let mut call = $call.deadline(deadline);
                if let Some(idem) = &idem {
                    call = call.idempotency_key(idem.clone());
                }
                let result = call.await;
                let told = brief(&result, $what);
                pending.finish(&result);
                told
            }};
        }
        let told = match write.clone() {
            Write::Add { name, delta, floor, ceiling, saturate, must_exist } => {
                let mut add = client.counter(name).add(delta);
                if let Some(floor) = floor {
                    add = add.floor(floor);
                }
                if let Some(ceiling) = ceiling {
                    add = add.ceiling(ceiling);
                }
                if saturate {
                    add = add.saturate();
                }
                if must_exist {
                    add = add.fail_if_missing();
                }
                outcome!(add, |change| change.value)
            }
            Write::Set { name, value } => {
                outcome!(client.counter(name).set(value), |change| change.value)
            }
            Write::CasCounter { name, expect, value } => {
                let call = client.counter(name).compare_and_set(expect, value);
                outcome!(call, |change| change.value)
            }
            Write::DeleteCounter { name } => {
                outcome!(client.counter(name).delete(), |change| change.value_before)
            }
            Write::Configure { name, floor, ceiling } => {
                let call = client.counter(name).configure().floor(floor).ceiling(ceiling);
                outcome!(call, |change| change.value)
            }
            Write::Put { key, value, expect } => {
                let put = client.keys().put(key, value);
                let put = match expect {
                    KeyExpect::Nothing => put,
                    KeyExpect::Absent => put.if_absent(),
                    KeyExpect::Present => put.if_present(),
                    KeyExpect::Revision(revision) => put.if_revision(revision),
                };
                outcome!(put, |change| change.revision)
            }
            Write::Delete { key, if_revision } => {
                let mut delete = client.keys().delete(key);
                if let Some(revision) = if_revision {
                    delete = delete.if_revision(revision);
                }
                outcome!(delete, |change| change.revision)
            }
            Write::Transfer { from, to, units } => {
                let call = client
                    .apply()
                    .then(Operation::counter_add(from, -units).floor(0))
                    .then(Operation::counter_add(to, units));
                outcome!(call, |applied| applied.revision)
            }
            Write::Order { stock, order } => {
                let call = client
                    .apply()
                    .then(Operation::counter_add(stock, -1))
                    .then(Operation::key_put(order, "ordered"));
                outcome!(call, |applied| applied.revision)
            }
            Write::Branching { name, limit } => {
                let call = client
                    .apply()
                    .when(Condition::counter_value(&name, Compare::Less, limit))
                    .then(Operation::counter_add(&name, 3))
                    .otherwise(Operation::counter_get(&name));
                outcome!(call, |applied| applied.revision)
            }
        };
        let again = if idem.is_some() { " under a key" } else { "" };
        self.tell(began, &format!("{write:?}{again}: {told}"));
    }
}

impl Write {
    /// As the history has it.
    fn request(&self) -> Request {
        match self.clone() {
            Write::Add { name, delta, floor, ceiling, saturate, must_exist } => {
                let mut part = Part::incr(name, delta);
                part.floor = floor;
                part.ceiling = ceiling;
                part.saturate = saturate;
                part.must_exist = must_exist;
                part.into()
            }
            Write::Set { name, value } => Part::set(name, value).into(),
            Write::CasCounter { name, expect, value } => {
                Part::cas_counter(name, expect, value).into()
            }
            Write::DeleteCounter { name } => Part::delete_counter(name).into(),
            Write::Configure { name, floor, ceiling } => {
                Part::configure(name).floor(floor).ceiling(ceiling).into()
            }
            Write::Put { key, value, expect } => {
                let part = Part::put(key, value);
                match expect {
                    KeyExpect::Nothing => part,
                    KeyExpect::Absent => part.if_absent(),
                    KeyExpect::Present => part.if_present(),
                    KeyExpect::Revision(revision) => part.if_version(revision),
                }
                .into()
            }
            Write::Delete { key, if_revision } => match if_revision {
                Some(revision) => Part::delete(key).if_version(revision).into(),
                None => Part::delete(key).into(),
            },
            Write::Transfer { from, to, units } => {
                Request::apply([Part::incr(from, -units).floor(0), Part::incr(to, units)])
            }
            Write::Order { stock, order } => {
                Request::apply([Part::incr(stock, -1), Part::put(order, "ordered")])
            }
            Write::Branching { name, limit } => Request::apply([Part::incr(&name, 3)])
                .when(history::Condition::value(
                    Kind::Counter,
                    &name,
                    history::Compare::Less,
                    limit,
                ))
                .otherwise(Part::get(&name)),
        }
    }
}

/// An answer or an error in a few words.
fn brief<T, V: std::fmt::Display>(
    result: &tally_client::Result<T>,
    value: impl Fn(&T) -> V,
) -> String {
    match result {
        Ok(answer) => value(answer).to_string(),
        Err(error) => match error.outcome() {
            Some(outcome) => format!("{} ({outcome:?})", error.reason()),
            None => error.reason().to_owned(),
        },
    }
}
