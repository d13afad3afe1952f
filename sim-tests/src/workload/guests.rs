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

use std::{rc::Rc, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    Client, Error, Header, ReadLevel, Transport,
    apply::{Compare, Condition, Operation},
    proto::{self as v1, counters_client::CountersClient, keys_client::KeysClient},
};
use tally_node::machine::auth::Permissions;
use tally_proto::status::Details;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use super::{HOSTS, Workload, user::lull};
use crate::{
    cluster::Cluster,
    env::{connect_client, mix, simulated_ms},
    rights::{Asked, Freshness, Need, Told, mark_of_add},
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

    async fn by_library(
        &mut self,
        client: &Client,
        ask: &Ask,
        idem: Option<String>,
        level: ReadLevel,
    ) -> Told {
        macro_rules! write {
            ($call:expr, $shows:expr) => {{
                let mut call = $call;
                if let Some(idem) = idem {
                    call = call.idempotency_key(idem);
                }
                match call.await {
                    Ok(answer) => Told {
                        replayed: answer.write.replayed,
                        hidden: answer.write.values_hidden,
                        shows: $shows(&answer),
                        ..answered(&answer.header, false)
                    },
                    Err(error) => refused(&error),
                }
            }};
        }
        let changed = |change: &tally_client::CounterChange| {
            change.existed || change.value != 0 || change.value_before != 0
        };
        match ask.clone() {
            Ask::Add { name, delta, floor: None } => {
                write!(client.counter(name).add(delta), changed)
            }
            Ask::Add { name, delta, floor: Some(floor) } => {
                write!(client.counter(name).add(delta).floor(floor), changed)
            }
            Ask::Set { name, value } => write!(client.counter(name).set(value), changed),
            Ask::Put { key, text } => {
                let shown = |change: &tally_client::KeyChange| {
                    change.existed || change.previous_revision != 0
                };
                write!(client.keys().put(key, text), shown)
            }
            Ask::Step { when, then, otherwise } => {
                let mut step = client.apply().then(Operation::counter_add(then.0, then.1));
                if let Some(when) = when {
                    step = step.when(Condition::counter_value(when, Compare::Less, 0));
                }
                if let Some((name, delta)) = otherwise {
                    step = step.otherwise(Operation::counter_add(name, delta));
                }
                write!(step, |_: &tally_client::Applied| false)
            }
            Ask::Get { name } => match client.counter(name).get().level(level).await {
                Ok(value) => answered(&value.header, true),
                Err(error) => refused(&error),
            },
            Ask::Read { key } => match client.keys().get(key).level(level).await {
                Ok(value) => answered(&value.header, true),
                Err(error) => refused(&error),
            },
            Ask::List { prefix } => {
                let mut list = client.counters().list().prefix(&prefix).page_size(2);
                if let Some(page) = self.page_of(true, &prefix) {
                    list = list.page_token(page);
                }
                match list.level(level).await {
                    Ok(page) => {
                        let names = page.items.iter().map(|item| item.name.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(true, prefix, page.next_page_token.unwrap_or_default());
                        Told { foreign, ..answered(&page.header, true) }
                    }
                    Err(error) => refused(&error),
                }
            }
            Ask::Scan { prefix } => {
                let mut scan = client.keys().scan().prefix(&prefix).page_size(2);
                if let Some(page) = self.page_of(false, &prefix) {
                    scan = scan.page_token(page);
                }
                match scan.level(level).await {
                    Ok(page) => {
                        let names = page.items.iter().map(|item| item.key.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(false, prefix, page.next_page_token.unwrap_or_default());
                        Told { foreign, ..answered(&page.header, true) }
                    }
                    Err(error) => refused(&error),
                }
            }
        }
    }

    /// A page is taken up where it ended, or another begun: with its token and another prefix, too, which
    /// must be refused.
    fn page_of(&mut self, is_list: bool, prefix: &str) -> Option<String> {
        let (of_list, of, _) = self.page.as_ref()?;
        let fits = *of_list == is_list && of == prefix;
        let wanted = if fits { self.rng.random_bool(0.8) } else { self.rng.random_bool(0.1) };
        wanted.then(|| self.page.take()).flatten().map(|(_, _, token)| token)
    }

    fn goes_on(&mut self, is_list: bool, prefix: String, token: String) {
        self.page = (!token.is_empty()).then_some((is_list, prefix, token));
    }

    async fn by_itself(&mut self, ask: &Ask, idem: Option<String>, freshness: Freshness) -> Told {
        let Some(channel) = self.channel().await else {
            return Told { reason: "NOT_REACHED".to_owned(), ..Told::default() };
        };
        let mut read = v1::ReadOptions::default();
        match freshness {
            Freshness::Linearizable => read.set_level(v1::ReadLevel::Linearizable),
            Freshness::Any => read.set_level(v1::ReadLevel::Local),
            Freshness::Bounded(ms) => {
                read.set_level(v1::ReadLevel::Bounded);
                read.max_staleness_ms = ms;
            }
        }
        let read = Some(read);
        let options =
            idem.map(|key| v1::WriteOptions { idempotency_key: Some(key), ..Default::default() });
        let shown = self.shown.clone();
        let (counters, keys) = (CountersClient::new(channel.clone()), KeysClient::new(channel));
        match ask.clone() {
            Ask::Add { name, delta, floor } => {
                let bounds = floor.map(|floor| v1::Bounds { floor: Some(floor), ceiling: None });
                let call =
                    v1::CountersAddRequest { name, delta, bounds, options, ..Default::default() };
                let mut client = counters;
                changed(within(client.add(with(&shown, call))).await)
            }
            Ask::Set { name, value } => {
                let mut client = counters;
                let call = v1::CountersSetRequest { name, value, options };
                changed(within(client.set(with(&shown, call))).await)
            }
            Ask::Put { key, text } => {
                let mut client = keys;
                let call =
                    v1::KeysPutRequest { key, value: text.into(), options, ..Default::default() };
                match within(client.put(with(&shown, call))).await {
                    Ok(answer) => {
                        let change = answer.change.unwrap_or_default();
                        let write = answer.write.unwrap_or_default();
                        Told {
                            replayed: write.replayed,
                            hidden: write.values_hidden,
                            shows: change.existed || change.previous_revision != 0,
                            ..answered(&answer.header.unwrap_or_default().into(), false)
                        }
                    }
                    Err(status) => refused_by(&status),
                }
            }
            Ask::Step { .. } => unreachable!("a step is asked for through the library"),
            Ask::Get { name } => {
                let mut client = counters;
                let call = v1::CountersGetRequest { name, read };
                match within(client.get(with(&shown, call))).await {
                    Ok(answer) => answered(&answer.header.unwrap_or_default().into(), true),
                    Err(status) => refused_by(&status),
                }
            }
            Ask::Read { key } => {
                let mut client = keys;
                match within(client.get(with(&shown, v1::KeysGetRequest { key, read }))).await {
                    Ok(answer) => answered(&answer.header.unwrap_or_default().into(), true),
                    Err(status) => refused_by(&status),
                }
            }
            Ask::List { prefix } => {
                let mut client = counters;
                let page_token = self.page_of(true, &prefix).unwrap_or_default();
                let call = v1::CountersListRequest {
                    prefix: prefix.clone(),
                    page_size: 2,
                    page_token,
                    read,
                };
                match within(client.list(with(&shown, call))).await {
                    Ok(answer) => {
                        let names = answer.counters.iter().map(|item| item.name.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(true, prefix, answer.next_page_token);
                        Told {
                            foreign,
                            ..answered(&answer.header.unwrap_or_default().into(), true)
                        }
                    }
                    Err(status) => refused_by(&status),
                }
            }
            Ask::Scan { prefix } => {
                let mut client = keys;
                let page_token = self.page_of(false, &prefix).unwrap_or_default();
                let call = v1::KeysScanRequest {
                    prefix: prefix.clone(),
                    page_size: 2,
                    page_token,
                    read,
                    ..Default::default()
                };
                match within(client.scan(with(&shown, call))).await {
                    Ok(answer) => {
                        let names = answer.items.iter().map(|item| item.key.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(false, prefix, answer.next_page_token);
                        Told {
                            foreign,
                            ..answered(&answer.header.unwrap_or_default().into(), true)
                        }
                    }
                    Err(status) => refused_by(&status),
                }
            }
        }
    }

    async fn channel(&mut self) -> Option<Channel> {
        let addresses = self.cluster.addresses();
        let Way::Single(node, channel) = &mut self.way else { return None };
        if channel.is_none() {
            let endpoint = Endpoint::from_shared(format!("http://{}", addresses[*node]));
            let connecting = connect_client(endpoint.expect("a host and a port make an address"));
            let connected =
                tokio::time::timeout(Duration::from_millis(PATIENCE_MS / 3), connecting);
            *channel = connected.await.ok().and_then(Result::ok);
        }
        channel.clone()
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

fn with<T>(shown: &Option<String>, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_millis(PATIENCE_MS));
    if let Some(shown) = shown {
        let shown = format!("Bearer {shown}").parse().expect("a token is a word");
        request.metadata_mut().insert("authorization", shown);
    }
    request
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let patience = Duration::from_millis(PATIENCE_MS + PATIENCE_MS / 4);
    let answer = tokio::time::timeout(patience, call).await;
    let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer came")));
    answer.map(tonic::Response::into_inner)
}

fn answered(header: &Header, is_read: bool) -> Told {
    Told {
        applied: Some(header.applied_index),
        staleness_ms: header.staleness_max.filter(|_| is_read).map(|age| age.as_millis() as u64),
        shows: is_read,
        ..Told::default()
    }
}

fn refused(error: &Error) -> Told {
    let header = error.header();
    Told {
        reason: error.reason().to_owned(),
        applied: header.as_ref().map(|header| header.applied_index),
        staleness_ms: header
            .as_ref()
            .and_then(|it| it.staleness_max)
            .map(|age| age.as_millis() as u64),
        ..Told::default()
    }
}

fn refused_by(status: &tonic::Status) -> Told {
    let details = Details::parse(status);
    let reason = match details.reason.as_str() {
        "" => "NO_ANSWER",
        reason => reason,
    };
    let header = details.header.clone().unwrap_or_default();
    Told {
        reason: reason.to_owned(),
        applied: details.header.as_ref().map(|header| header.applied_index),
        staleness_ms: header.staleness_ms_max,
        ..Told::default()
    }
}

fn changed(answer: Result<v1::CountersWriteResponse, tonic::Status>) -> Told {
    match answer {
        Ok(answer) => {
            let change = answer.change.unwrap_or_default();
            let write = answer.write.unwrap_or_default();
            Told {
                replayed: write.replayed,
                hidden: write.values_hidden,
                shows: change.existed || change.value != 0 || change.value_before != 0,
                ..answered(&answer.header.unwrap_or_default().into(), false)
            }
        }
        Err(status) => refused_by(&status),
    }
}

/// A name that is not under the prefix.
fn foreign<'a>(prefix: &str, mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    names.find(|name| !name.starts_with(prefix)).map(str::to_owned)
}
