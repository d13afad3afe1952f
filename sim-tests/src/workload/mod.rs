//! What clients do while things break: every operation, every read level, sessions and idempotency
//! keys, hot and spread names, bounds that are nearly reached, units that move between counters.
//!
//! Each user is a task that makes one call after the other through the shipped client library and
//! records it ([`tally_client::history`]). Users may share a client, as tasks of a service do. Who
//! asks what is drawn from the seed; nothing here judges an answer.

mod early;
mod guests;
mod pages;
mod quotas;
mod raw;
pub(crate) mod restoring;
mod sentinel;
mod step;
mod user;
mod write;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tally_client::{
    Client, ReadLevel, Transport,
    history::{self, Part, Pending, Recorder, Request, Told},
};
use tally_proto::seeded_bugs;
use turmoil::Sim;

use self::{raw::Raw, user::User, write::Write};
use crate::{
    cluster::Cluster,
    env::{mix, simulated_now},
    knobs::Knobs,
    rights,
};

/// Turmoil hosts that clients live on.
pub(crate) const HOSTS: [&str; 2] = ["clients-a", "clients-b"];

/// Counters between which units move; their sum stays.
const ACCOUNTS: u64 = 4;
/// What each begins with.
const ACCOUNT_UNITS: i64 = 50;
/// Counters with stored bounds.
const STOCKS: u64 = 2;
/// Their ceiling; the floor is 0.
const STOCK_CEILING: i64 = 40;
/// Counters with values near the ends of what fits in 64 bits.
const FAR: u64 = 2;
/// Number of the first client that does without the library.
const RAW: u64 = 500;
/// Number of the one who reads everything in the end.
const AUDITOR: u64 = 2_000;
/// Writes remembered for sending again.
const RESENDABLE_MAX: usize = 32;

pub(crate) use self::sentinel::is_overwritten;

/// Whether a client makes its calls through the library.
pub(crate) fn uses_library(client: u64) -> bool {
    !(RAW..2 * RAW).contains(&client)
}

/// A shared view on all users.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    knobs: Knobs,
    book: Rc<Book>,
    stop: Cell<bool>,
    ready: Cell<bool>,
    running: Cell<u64>,
    /// Writes under an idempotency key that somebody may send again.
    resendable: RefCell<Vec<(String, Write)>>,
    /// Where users have rights.
    rights: Option<rights::Book>,
    /// Where there are quotas.
    quotas: Option<crate::quotas::Book>,
    /// Tokens that were made.
    passes: RefCell<Vec<guests::Pass>>,
    /// What guests asked for under a key, with it.
    keyed: RefCell<Vec<(guests::Ask, String)>>,
    seed: u64,
}

/// Records every call, and counts the calls by itself: a recorder that forgets some would let the
/// judge of histories see what is left of a violation.
#[derive(Debug)]
struct Book {
    recorder: Recorder,
    calls: Cell<u64>,
    /// What clients saw at once to be wrong.
    wrong: RefCell<Vec<String>>,
    /// What no record stands for.
    happened: RefCell<BTreeMap<String, u64>>,
}

impl Book {
    fn begin(&self, user: u64, request: impl Into<Request>) -> Pending {
        self.calls.set(self.calls.get() + 1);
        self.recorder.begin(user, request)
    }

    fn finish<T: Told>(&self, pending: Pending, result: &tally_client::Result<T>) {
        if seeded_bugs::is_on("recorder-drops-failures") && result.is_err() {
            return std::mem::forget(pending);
        }
        pending.finish(result);
    }

    /// The same for what the library's types do not hold.
    fn finish_told<T: Told>(&self, pending: Pending, told: T) {
        pending.finish(&Ok::<T, tally_client::Error>(told));
    }

    fn wrong(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }

    fn happened(&self, what: &str) {
        *self.happened.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }
}

impl Workload {
    /// Puts the users into the simulation.
    pub(crate) fn start(
        sim: &mut Sim<'_>,
        cluster: &Cluster,
        knobs: &Knobs,
        (rights, quotas): (Option<rights::Book>, Option<crate::quotas::Book>),
        seed: u64,
    ) -> Workload {
        let recorder = Recorder::in_memory(|| simulated_ns().unwrap_or(0));
        let shared = Shared {
            knobs: knobs.clone(),
            book: Rc::new(Book {
                recorder,
                calls: Cell::new(0),
                wrong: RefCell::default(),
                happened: RefCell::default(),
            }),
            stop: Cell::new(false),
            ready: Cell::new(false),
            running: Cell::new(0),
            resendable: RefCell::default(),
            rights,
            quotas,
            passes: RefCell::default(),
            keyed: RefCell::default(),
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
    pub(crate) fn stop(&self) {
        self.shared.stop.set(true);
    }

    /// Whether all users have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.ready.get() && self.shared.running.get() == 0
    }

    /// What was recorded.
    pub(crate) fn records(&self) -> Vec<history::Record> {
        self.shared.book.recorder.records()
    }

    /// What clients saw at once to be wrong, since it was last asked for.
    pub(crate) fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.book.wrong.borrow_mut())
    }

    /// How often something happened that no record stands for.
    pub(crate) fn happened(&self) -> BTreeMap<String, u64> {
        self.shared.book.happened.borrow().clone()
    }

    /// How many calls users have made.
    pub(crate) fn calls(&self) -> u64 {
        self.shared.book.calls.get()
    }

    /// One more write, then a linearizable look at everything, all recorded. Says whether it worked.
    pub(crate) async fn audit(&self, client: &Client) -> bool {
        let level = ReadLevel::Linearizable;
        let user = AUDITOR;
        let pending = self.shared.book.begin(user, Part::incr("audit", 1));
        let written = client.counter("audit").add(1).await;
        let worked = written.is_ok();
        self.shared.book.finish(pending, &written);
        if !worked {
            return false;
        }
        for names in self.counters().chunks(64) {
            let request = Request::batch_get(names.iter().cloned()).level(&level);
            let pending = self.shared.book.begin(user, request);
            let result = client.counters().batch_get(names.iter().cloned()).await;
            let worked = result.is_ok();
            self.shared.book.finish(pending, &result);
            if !worked {
                return false;
            }
        }
        for keys in self.keys().chunks(64) {
            let request = Request::batch_read(keys.iter().cloned()).level(&level);
            let pending = self.shared.book.begin(user, request);
            let result = client.keys().batch_get(keys.iter().cloned()).await;
            let worked = result.is_ok();
            self.shared.book.finish(pending, &result);
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
        let few = (0..STOCKS).map(stock).chain((0..ACCOUNTS).map(account)).chain((0..FAR).map(far));
        hot.chain(spread).chain(few).collect()
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
            for node in cluster.ids() {
                tokio::task::spawn_local(self.clone().come_first(cluster.clone(), node));
            }
            self.set_up(cluster).await;
            if knobs.rights {
                self.set_up_rights(cluster).await;
            }
            self.shared.ready.set(true);
        }
        let mut tasks = Vec::new();
        if knobs.rights {
            // Before, nobody has a token.
            while !self.shared.ready.get() && !self.shared.stop.get() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tasks.extend(self.receive_guests(cluster, host));
        }
        if knobs.quotas && host == 0 {
            self.shared.running.set(self.shared.running.get() + 1);
            tasks.push(tokio::task::spawn_local(self.clone().keep_quotas(cluster.clone())));
        }
        if knobs.stored_bits_flip && host == 0 {
            self.shared.running.set(self.shared.running.get() + 1);
            tasks.push(tokio::task::spawn_local(self.clone().overwrite(cluster.clone())));
        }
        let mut client = None;
        for user in users {
            // Some share the client of the one before.
            let shared = client.clone().filter(|_| rng.random_bool(0.3));
            let own = shared.unwrap_or_else(|| {
                let (own, has_session) = self.client(cluster, user, &mut rng);
                (Rc::new(own), has_session)
            });
            client = Some(own.clone());
            let (own, has_session) = own;
            self.shared.running.set(self.shared.running.get() + 1);
            let user = User {
                number: user,
                client: own,
                cluster: cluster.clone(),
                has_session,
                workload: self.clone(),
                rng: SmallRng::seed_from_u64(mix(self.shared.seed, &[0xacc, user])),
                known: BTreeMap::new(),
                texts: BTreeMap::new(),
                writes: 0,
            };
            tasks.push(tokio::task::spawn_local(user.live()));
        }
        drop(client);
        for raw in (0..knobs.raw_clients).filter(|raw| raw % HOSTS.len() as u64 == host) {
            self.shared.running.set(self.shared.running.get() + 1);
            let number = RAW + raw;
            let rng = SmallRng::seed_from_u64(mix(self.shared.seed, &[0x4a3, number]));
            let raw = Raw::new(number, self.clone(), cluster.clone(), rng);
            tasks.push(tokio::task::spawn_local(raw.live()));
        }
        for task in tasks {
            task.await.expect("a user does not panic");
        }
    }

    /// A client, and whether it wants a session.
    fn client(&self, cluster: &Cluster, user: u64, rng: &mut SmallRng) -> (Client, bool) {
        let knobs = &self.shared.knobs;
        let mut builder = if rng.random_bool(0.3) {
            // It knows one node, and learns of others from hints.
            let addresses = cluster.addresses();
            let own = addresses[(user as usize) % addresses.len()].clone();
            let builder = Client::builder([own])
                .seed(mix(self.shared.seed, &[0x0e, user]))
                .connector(crate::env::connect_client);
            cluster.shown_by(builder)
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
        let mut has_session = true;
        builder = if rng.random_bool(0.15) && knobs.keys_outlive_calls() {
            has_session = false;
            builder.one_shot()
        } else if rng.random_bool(0.2) {
            // As short as the service allows: it must be renewed while things break.
            builder.session_idle_timeout(Duration::from_secs(10))
        } else {
            builder
        };
        (builder.build().expect("the settings are valid"), has_session)
    }

    /// Bounds and first values, before anything breaks.
    async fn set_up(&self, cluster: &Cluster) {
        let client = cluster.client(1_000).deadline(Duration::from_secs(20)).build();
        let client = client.expect("the settings are valid");
        for at in 0..STOCKS {
            let part = Part::configure(stock(at)).floor(0).ceiling(STOCK_CEILING);
            let pending = self.shared.book.begin(1_000, part);
            let call = client.counter(stock(at)).configure().floor(0).ceiling(STOCK_CEILING);
            self.shared.book.finish(pending, &call.await);
        }
        for at in 0..ACCOUNTS {
            let pending = self.shared.book.begin(1_000, Part::set(account(at), ACCOUNT_UNITS));
            self.shared.book.finish(pending, &client.counter(account(at)).set(ACCOUNT_UNITS).await);
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

fn far(at: u64) -> String {
    format!("far-{at}")
}

fn key(at: u64) -> String {
    format!("key-{at:02}")
}

fn simulated_ns() -> Option<u64> {
    simulated_now().map(|elapsed| elapsed.as_nanos() as u64)
}
