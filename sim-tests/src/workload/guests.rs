//! Guests: callers who show tokens, of users whose rights an admin changes all the time (`guests/admin`).
//!
//! They call through the library, over streams that last longer than their rights, and without it, by single calls
//! at a node of their choice, which forwards what it can't order. They show whatever tokens there ever were:
//! revoked, over, of users who are gone, also none, and such as nobody made. They read and write side by side
//! names on which their roles differ, spend and fill, send writes again under keys that others use as well, and take
//! lists up again where another page ended. Their names are their own (`g/…`), so that the history of the
//! ordinary users, who may do everything, needs to know nothing of them. What they are told is judged by
//! [`crate::rights`].

mod admin;
mod ways;

use std::{rc::Rc, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{Client, ReadLevel, Transport};
use tally_node::machine::auth::Permissions;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{HOSTS, Workload, user::lull};
use crate::{
    cluster::Cluster,
    env::{connect_client, mix, simulated_ms},
    rights::{Asked, Freshness, Need, mark_of_add},
    trace_event,
};

/// How many guests call at once.
const GUESTS: u64 = 6;
/// Users that they call as.
const USERS: u64 = 4;
/// Prefixes that rules and lists are about.
const PREFIXES: [&str; 6] = ["g/", "g/a", "g/a/", "g/b/", "g/a/1", ""];
/// Names, of counters and of keys.
const NAMES: [&str; 6] = ["g/a/1", "g/a/2", "g/a/11", "g/ab", "g/b/1", "g/c"];
/// Idempotency keys: so few that users' keys are equal.
const KEYS: u64 = 6;
/// A guest goes, and comes back as another, after so many calls at most.
const CALLS_MAX: u32 = 30;
/// Pause between two calls, in ms.
const THINK_MS_MAX: u64 = 120;
/// A guest waits so long for an answer, in ms.
const PATIENCE_MS: u64 = 1_500;
/// Tokens of so many of the last ones are shown most of the time.
const NEWEST: usize = 8;

/// A token that was made.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) token: String,
    pub(super) id: u64,
    pub(super) user: String,
}

/// What a guest asks for.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Add { name: String, delta: i64, floor: Option<i64> },
    Set { name: String, value: i64 },
    Put { key: String, text: String },
    Step { when: Option<String>, then: (String, i64), otherwise: Option<(String, i64)> },
    Get { name: String },
    Read { key: String },
    List { prefix: String },
    Scan { prefix: String },
}

/// How it calls.
enum Way {
    Library(Box<Client>),
    Single(usize, Option<Channel>),
}

struct Guest {
    number: u64,
    workload: Workload,
    cluster: Cluster,
    rng: SmallRng,
    /// The token, as it is shown.
    shown: Option<String>,
    /// Its id, if it is one.
    token: Option<u64>,
    way: Way,
    /// Where a list went on: prefix and token.
    page: Option<(bool, String, String)>,
}

fn now_ms() -> u64 {
    simulated_ms().unwrap_or(0)
}

impl Workload {
    /// Puts the guests of a host into the simulation, and the admin on the first.
    pub(super) fn receive_guests(&self, cluster: &Cluster, host: u64) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        let running = |count| self.shared.running.set(self.shared.running.get() + count);
        if host == 0 {
            running(1);
            tasks.push(tokio::task::spawn_local(self.clone().administer(cluster.clone())));
        }
        for number in (0..GUESTS).filter(|guest| guest % HOSTS.len() as u64 == host) {
            running(1);
            let guest = Guest {
                number,
                workload: self.clone(),
                cluster: cluster.clone(),
                rng: SmallRng::seed_from_u64(mix(self.shared.seed, &[0x9e57, number])),
                shown: None,
                token: None,
                way: Way::Single(0, None),
                page: None,
            };
            tasks.push(tokio::task::spawn_local(guest.live()));
        }
        tasks
    }
}

impl Guest {
    async fn live(mut self) {
        let shared = Rc::clone(&self.workload.shared);
        while !shared.stop.get() {
            self.come();
            for _ in 0..self.rng.random_range(1..=CALLS_MAX) {
                if shared.stop.get() {
                    break;
                }
                let think = self.rng.random_range(0..=THINK_MS_MAX);
                tokio::time::sleep(Duration::from_millis(think)).await;
                lull(&shared).await;
                self.call().await;
            }
        }
        shared.running.set(shared.running.get() - 1);
    }

    /// As somebody, by some way.
    fn come(&mut self) {
        let passes = self.workload.shared.passes.borrow();
        let guests: Vec<&Pass> =
            passes.iter().filter(|pass| pass.user.starts_with("guest")).collect();
        let newest = &guests[guests.len().saturating_sub(NEWEST)..];
        let pass = match self.rng.random_range(0..20) {
            0 => None,
            1..4 => guests.choose(&mut self.rng),
            _ => newest.choose(&mut self.rng),
        };
        (self.shown, self.token) = match pass {
            None => (None, None),
            // The right id, and a secret that is not.
            Some(pass) if self.rng.random_bool(0.04) => {
                let secret: String =
                    (0..64).map(|_| if self.rng.random() { '0' } else { 'f' }).collect();
                (Some(format!("tally_{}_{secret}", pass.id)), None)
            }
            Some(pass) => (Some(pass.token.clone()), Some(pass.id)),
        };
        drop(passes);
        self.page = None;
        self.way = if self.rng.random_bool(0.5) {
            Way::Single(self.rng.random_range(0..self.cluster.addresses().len()), None)
        } else {
            let number = 3_000 + self.number;
            let mut builder = Client::builder(self.cluster.addresses())
                .seed(mix(self.workload.shared.seed, &[0x9e58, number, now_ms()]))
                .connector(connect_client)
                .deadline(Duration::from_millis(PATIENCE_MS));
            if let Some(shown) = &self.shown {
                builder = builder.bearer_token(shown.clone());
            }
            if self.rng.random_bool(0.3) {
                builder = builder.transport(Transport::Unary);
            }
            if self.rng.random_bool(0.5) {
                builder = builder.one_shot();
            }
            Way::Library(Box::new(builder.build().expect("the settings are valid")))
        };
    }

    async fn call(&mut self) {
        let shared = Rc::clone(&self.workload.shared);
        let rights = shared.rights.clone().expect("this seed has rights");
        let again = self
            .rng
            .random_bool(0.15)
            .then(|| shared.keyed.borrow().choose(&mut self.rng).cloned());
        let (ask, idem) = match again.flatten() {
            // Whoever asked for it first.
            Some((ask, idem)) => (ask, Some(idem)),
            None => {
                let ask = self.draw();
                let has_key = ask.writes().is_some() && self.rng.random_bool(0.3);
                let idem = has_key.then(|| format!("guests-{}", self.rng.random_range(0..KEYS)));
                if let Some(idem) = &idem {
                    let mut keyed = shared.keyed.borrow_mut();
                    keyed.push((ask.clone(), idem.clone()));
                    if keyed.len() > 2 * KEYS as usize {
                        keyed.remove(0);
                    }
                }
                if let Some(mark) = ask.mark().filter(|_| idem.is_none()) {
                    rights.asks(mark, self.token);
                }
                (ask, idem)
            }
        };
        let ask = match &self.way {
            Way::Library(_) => ask,
            Way::Single(..) => ask.alone(),
        };
        let (level, freshness) = self.level();
        let asked = Asked {
            what: format!("{ask:?} under {idem:?}, guest {} with {:?}", self.number, self.token),
            needs: ask.needs(),
            writes: ask.writes(),
            level: freshness,
            token: self.token,
            call_ms: now_ms(),
        };
        let mut told = match &self.way {
            Way::Library(client) => {
                let client = client.clone();
                self.by_library(&client, &ask, idem, level).await
            }
            Way::Single(..) => self.by_itself(&ask, idem, freshness).await,
        };
        told.ret_ms = now_ms();
        let what = if told.reason.is_empty() { "answered" } else { &told.reason };
        let at = told.applied.unwrap_or(0);
        trace_event!(&format!("guest-{}", self.number), "{}: {what} (entry {at})", asked.what);
        rights.told(asked, told);
    }

    fn level(&mut self) -> (ReadLevel, Freshness) {
        match self.rng.random_range(0..10) {
            0..5 => (ReadLevel::Linearizable, Freshness::Linearizable),
            5..8 => (ReadLevel::Local, Freshness::Any),
            _ => {
                let ms = *[20, 100, 500].choose(&mut self.rng).expect("not empty");
                let max_staleness = Duration::from_millis(ms);
                let level = ReadLevel::Bounded { max_staleness, allow_fallback: false };
                (level, Freshness::Bounded(ms))
            }
        }
    }

    fn name(&mut self) -> String {
        (*NAMES.choose(&mut self.rng).expect("not empty")).to_owned()
    }

    /// Different each time, so that it says who asked.
    fn delta(&mut self) -> i64 {
        let delta = self.rng.random_range(1..1_000_000_000);
        if self.rng.random() { delta } else { -delta }
    }

    fn draw(&mut self) -> Ask {
        let (name, delta) = (self.name(), self.delta());
        let prefix = (*PREFIXES.choose(&mut self.rng).expect("not empty")).to_owned();
        // A list of everything would show what ordinary users write.
        let prefix = if prefix.is_empty() { "g".to_owned() } else { prefix };
        match self.rng.random_range(0..20) {
            0..7 => {
                let floor = self.rng.random_bool(0.1).then_some(i64::MIN + 1);
                Ask::Add { name, delta, floor }
            }
            7 => Ask::Set { name, value: delta },
            8..11 => Ask::Put { key: name, text: format!("of {}: {delta}", self.number) },
            11..13 => {
                let when = self.rng.random_bool(0.5).then(|| self.name());
                let otherwise = when.as_ref().map(|_| (self.name(), self.delta()));
                Ask::Step { when, then: (name, delta), otherwise }
            }
            13 | 14 => Ask::Get { name },
            15 => Ask::Read { key: name },
            16 | 17 => Ask::List { prefix },
            _ => Ask::Scan { prefix },
        }
    }
}

impl Ask {
    fn needs(&self) -> Vec<Need> {
        let way = |delta: i64| match delta < 0 {
            true => Permissions::DECREASE,
            false => Permissions::INCREASE,
        };
        match self {
            Ask::Add { name, delta, floor: None } => vec![Need::counter(name, way(*delta))],
            Ask::Add { name, delta, floor: Some(_) } => {
                vec![Need::counter(name, way(*delta).and(Permissions::READ))]
            }
            Ask::Set { name, .. } => vec![Need::counter(name, Permissions::WRITE)],
            Ask::Put { key, .. } => vec![Need::key(key, Permissions::WRITE)],
            Ask::Step { when, then, otherwise } => {
                let when = when.iter().map(|name| Need::counter(name, Permissions::READ));
                let adds = std::iter::once(then).chain(otherwise);
                when.chain(adds.map(|(name, delta)| Need::counter(name, way(*delta)))).collect()
            }
            Ask::Get { name } | Ask::List { prefix: name } => {
                vec![Need::counter(name, Permissions::READ)]
            }
            Ask::Read { key: name } | Ask::Scan { prefix: name } => {
                vec![Need::key(name, Permissions::READ)]
            }
        }
    }

    /// What it writes to, to be read; nothing of a read.
    fn writes(&self) -> Option<Vec<Need>> {
        match self {
            Ask::Add { name, .. } | Ask::Set { name, .. } => {
                Some(vec![Need::counter(name, Permissions::READ)])
            }
            Ask::Put { key, .. } => Some(vec![Need::key(key, Permissions::READ)]),
            Ask::Step { then, otherwise, .. } => {
                let adds = std::iter::once(then).chain(otherwise);
                Some(adds.map(|(name, _)| Need::counter(name, Permissions::READ)).collect())
            }
            _ => None,
        }
    }

    /// Of a step what it would do first.
    fn alone(self) -> Ask {
        match self {
            Ask::Step { then: (name, delta), .. } => Ask::Add { name, delta, floor: None },
            other => other,
        }
    }

    fn mark(&self) -> Option<String> {
        match self {
            Ask::Add { name, delta, .. } => Some(mark_of_add(name, *delta)),
            Ask::Put { text, .. } => Some(text.clone()),
            _ => None,
        }
    }
}
