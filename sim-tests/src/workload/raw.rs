//! Clients of other people's making: they speak gRPC to one node of their choice, without the library
//! between.
//!
//! They do what the library never would: several linearizable reads at one follower at once, writes
//! with neither session nor key, numbers and keys used for a second request, numbers below the
//! watermark and far above it, sessions that are left to their end or left behind. What such a client
//! is promised by its session or its key it checks itself, since a history doesn't know of either:
//!
//! - a session ends no earlier than its idle time after the last call that it was used for;
//! - a key is remembered for at least as long as an answer said;
//! - a number that is unanswered, in a session that is open, is never called too old, reused or out
//!   of the window.
//!
//! Sessions and keys have files of their own (`raw/session`, `raw/keyed`); what the wire says is told to a
//! history in `raw/records`.

mod keyed;
mod records;
mod session;

use std::{rc::Rc, time::Duration};

use futures_util::future::join_all;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    CounterChange, CounterValue, ReadLevel,
    history::{Part, Request},
    proto::{self as v1, counters_client::CountersClient},
};
use tally_proto::status::Details;
use tonic::transport::{Channel, Endpoint};

pub(super) use self::records::tell_header;
use self::{
    keyed::Kept,
    records::{Changed, Failed, changed, read},
    session::Session,
};
use super::{Workload, hot, user::lull};
use crate::{
    cluster::Cluster,
    env::{connect_client, simulated_ms},
    trace_event,
};

/// Reads at once at one node.
const BURST_MAX: usize = 8;
/// Reads of a burst begin within this time of each other: within a round or two.
const BURST_SPREAD_MS: u64 = 12;
/// In a race, so many reads, one so many ms after the other, beside so many writes, each followed by a
/// read.
const RACE_READS: usize = 24;
const RACE_READ_EVERY_MS: u64 = 5;
const RACE_WRITES: usize = 4;
/// A call that is not answered is given up after this.
const PATIENCE_MS: u64 = 2_500;

/// One such client.
pub(super) struct Raw {
    pub(super) number: u64,
    pub(super) workload: Workload,
    pub(super) cluster: Cluster,
    pub(super) rng: SmallRng,
    channels: Vec<Option<Channel>>,
    session: Option<Session>,
    kept: Vec<Kept>,
    calls: u64,
    /// A session token, and the applied index that it stands for.
    token: Option<(Vec<u8>, u64)>,
    /// A write under a new key whose outcome is unknown.
    unsure: Option<Kept>,
}

fn now_ms() -> u64 {
    simulated_ms().unwrap_or(0)
}

impl Raw {
    pub(super) fn new(number: u64, workload: Workload, cluster: Cluster, rng: SmallRng) -> Raw {
        let (channels, kept) = (Vec::new(), Vec::new());
        let (session, calls, token, unsure) = (None, 0, None, None);
        Raw { number, workload, cluster, rng, channels, session, kept, calls, token, unsure }
    }

    pub(super) async fn live(mut self) {
        let shared = Rc::clone(&self.workload.shared);
        while !shared.ready.get() && !shared.stop.get() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !shared.stop.get() {
            let think = self.rng.random_range(0..=shared.knobs.think_ms_max);
            tokio::time::sleep(Duration::from_millis(think)).await;
            lull(&shared).await;
            let began = now_ms();
            let what = self.act().await;
            let took = now_ms() - began;
            trace_event!(&format!("raw-{}", self.number), "{what} ({took} ms)");
        }
        self.close().await;
        shared.running.set(shared.running.get() - 1);
    }

    async fn act(&mut self) -> String {
        let node = self.rng.random_range(0..self.cluster.addresses().len());
        let Some(channel) = self.channel(node).await else {
            return format!("does not reach node {}", node + 1);
        };
        self.calls += 1;
        match self.rng.random_range(0..20) {
            0..5 => self.burst(channel).await,
            5 | 6 => self.race(channel).await,
            7..10 => self.bounded(channel).await,
            10 => self.by_token(channel).await,
            11 | 12 => self.unstamped(channel).await,
            13..16 => self.in_session(channel).await,
            16..19 => self.under_key(channel).await,
            _ => self.greedy(channel).await,
        }
    }

    async fn channel(&mut self, node: usize) -> Option<Channel> {
        let addresses = self.cluster.addresses();
        self.channels.resize(addresses.len(), None);
        if self.channels[node].is_none() {
            let endpoint = Endpoint::from_shared(format!("http://{}", addresses[node]));
            let connecting = connect_client(endpoint.expect("a host and a port make an address"));
            let patience = Duration::from_millis(PATIENCE_MS / 4);
            let connected = tokio::time::timeout(patience, connecting).await;
            self.channels[node] = connected.ok().and_then(Result::ok);
        }
        // A broken connection shows at the next call; so now and then a new one.
        if self.rng.random_bool(0.1) {
            self.channels[node].take()
        } else {
            self.channels[node].clone()
        }
    }

    fn hot_name(&mut self) -> String {
        hot(self.rng.random_range(0..self.workload.shared.knobs.hot_counters))
    }

    /// Several linearizable reads at one node, some of them while a round for others runs.
    async fn burst(&mut self, channel: Channel) -> String {
        let count = self.rng.random_range(2..=BURST_MAX);
        let mut reads = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.hot_name();
            let delay = Duration::from_millis(self.rng.random_range(0..=BURST_SPREAD_MS));
            let read = self.read(channel.clone(), name, ReadLevel::Linearizable);
            reads.push(async move {
                tokio::time::sleep(delay).await;
                read.await.is_ok()
            });
        }
        let answered = join_all(reads).await.into_iter().filter(|answered| *answered).count();
        format!("reads {count} at once: {answered} are answered")
    }

    async fn bounded(&mut self, channel: Channel) -> String {
        let bound_ms = *[1, 5, 20, 60, 200].choose(&mut self.rng).expect("not empty");
        let level = ReadLevel::Bounded {
            max_staleness: Duration::from_millis(bound_ms),
            allow_fallback: self.rng.random_bool(0.3),
        };
        let name = self.hot_name();
        let read = self.read(channel, name, level).await;
        format!("reads not older than {bound_ms} ms: {}", brief(&read))
    }

    /// A read at a node that may not have applied what this client has seen elsewhere.
    async fn by_token(&mut self, channel: Channel) -> String {
        if self.token.is_none() {
            return "has seen nothing yet".to_owned();
        }
        let name = self.hot_name();
        let read = self.read(channel, name, ReadLevel::Session(None)).await;
        format!("reads what it has seen: {}", brief(&read))
    }

    /// The future holds nothing of this client, so that several run at once.
    fn read(
        &mut self,
        channel: Channel,
        name: String,
        level: ReadLevel,
    ) -> impl Future<Output = Result<CounterValue, Details>> + use<> {
        let book = self.workload.shared.book.clone();
        let (number, seen) = (self.number, self.token.clone());
        async move {
            let mut options = v1::ReadOptions::default();
            let mut request = Request::from(Part::get(&name)).level(&level);
            match &level {
                ReadLevel::Linearizable => options.set_level(v1::ReadLevel::Linearizable),
                ReadLevel::Bounded { max_staleness, allow_fallback } => {
                    options.set_level(v1::ReadLevel::Bounded);
                    options.max_staleness_ms = max_staleness.as_millis() as u64;
                    options.allow_fallback = *allow_fallback;
                }
                ReadLevel::Session(_) => {
                    let (token, applied_index) = seen.unwrap_or_default();
                    options.set_level(v1::ReadLevel::Session);
                    options.session_token = token.into();
                    options.wait_ms = 1;
                    request = request.token(applied_index);
                }
                ReadLevel::Local => options.set_level(v1::ReadLevel::Local),
            }
            let pending = book.begin(number, request);
            let call = v1::CountersGetRequest { name, read: Some(options) };
            let answer = within(CountersClient::new(channel).get(patient(call))).await;
            match answer {
                Ok(answer) => {
                    let value = read(answer.into_inner());
                    book.finish_told(pending, value.clone());
                    Ok(value)
                }
                Err(status) => {
                    let details = Details::parse(&status);
                    let failed = Failed { details: &details, is_write: false, idem: None };
                    book.finish_told(pending, failed);
                    Err(details)
                }
            }
        }
    }

    /// Adds, recorded under a name for its logical write that may hang on the answer.
    async fn add(
        &mut self,
        channel: Channel,
        call: v1::CountersAddRequest,
        idem: impl Fn(Result<&CounterChange, &Details>) -> Option<String>,
    ) -> Result<CounterChange, Details> {
        let book = self.workload.shared.book.clone();
        let pending = book.begin(self.number, Part::incr(&call.name, call.delta));
        match within(CountersClient::new(channel).add(patient(call))).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                if let Some(header) = answer.header.as_ref().filter(|h| !h.session_token.is_empty())
                {
                    self.token = Some((header.session_token.to_vec(), header.applied_index));
                }
                let change = changed(answer);
                let idem = idem(Ok(&change));
                book.finish_told(pending, Changed { change: &change, idem });
                Ok(change)
            }
            Err(status) => {
                let details = Details::parse(&status);
                let idem = idem(Err(&details));
                book.finish_told(pending, Failed { details: &details, is_write: true, idem });
                Err(details)
            }
        }
    }

    /// With neither session nor key; sometimes more at once than a node may have in flight.
    async fn unstamped(&mut self, channel: Channel) -> String {
        let name = self.hot_name();
        if self.rng.random_bool(0.5) {
            let call = v1::CountersAddRequest { name, delta: 1, ..Default::default() };
            let added = self.add(channel, call, |_| None).await;
            return format!("adds once: {}", told(&added));
        }
        let count = self.rng.random_range(4..=12);
        let adds = (0..count).map(|_| self.add_once(channel.clone(), name.clone()));
        let adds: Vec<_> = adds.collect();
        join_all(adds).await;
        format!("adds {count} at once")
    }

    /// One more, recorded, with neither session nor key; whether it was answered. The future holds
    /// nothing of this client.
    fn add_once(&self, channel: Channel, name: String) -> impl Future<Output = bool> + use<> {
        let (book, number) = (self.workload.shared.book.clone(), self.number);
        async move {
            let pending = book.begin(number, Part::incr(&name, 1));
            let call = v1::CountersAddRequest { name, delta: 1, ..Default::default() };
            let answer = within(CountersClient::new(channel).add(patient(call))).await;
            let is_answered = answer.is_ok();
            match answer {
                Ok(answer) => book.finish_told(pending, changed(answer.into_inner())),
                Err(status) => {
                    let details = Details::parse(&status);
                    let failed = Failed { details: &details, is_write: true, idem: None };
                    book.finish_told(pending, failed);
                }
            }
            is_answered
        }
    }

    /// Reads at one node without a pause, so that a round of its runs at any time; and at another node
    /// writes, each followed by a read at the first, which comes while a round runs that began before
    /// the write.
    async fn race(&mut self, channel: Channel) -> String {
        let writer = self.rng.random_range(0..self.cluster.addresses().len());
        let Some(writer) = self.channel(writer).await else {
            return "reaches no second node".to_owned();
        };
        let name = self.hot_name();
        let at_once =
            |raw: &mut Raw| raw.read(channel.clone(), name.clone(), ReadLevel::Linearizable);
        let mut running = Vec::with_capacity(RACE_READS);
        for at in 0..RACE_READS as u64 {
            let read = at_once(self);
            running.push(async move {
                tokio::time::sleep(Duration::from_millis(RACE_READ_EVERY_MS * at)).await;
                read.await.is_ok()
            });
        }
        let mut pairs = Vec::with_capacity(RACE_WRITES);
        for _ in 0..RACE_WRITES {
            pairs.push((self.add_once(writer.clone(), name.clone()), at_once(self)));
        }
        let pairs = async move {
            for (write, read) in pairs {
                if !write.await {
                    // It may be gone for good: the others would only wait as long.
                    break;
                }
                let _ = read.await;
            }
        };
        let (answered, ()) = futures_util::future::join(join_all(running), pairs).await;
        let answered = answered.into_iter().filter(|answered| *answered).count();
        format!("reads {RACE_READS} in a row beside writes: {answered} are answered")
    }

    fn wrong(&self, what: String) {
        self.workload.shared.book.wrong(format!("raw client {}: {what}", self.number));
    }
}

fn patient<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_millis(PATIENCE_MS));
    request
}

/// A connection that breaks is made anew before the call goes out, and that may take for ever.
async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<tonic::Response<T>, tonic::Status> {
    let patience = Duration::from_millis(PATIENCE_MS + PATIENCE_MS / 4);
    let late = |_| Err(tonic::Status::deadline_exceeded("no answer came"));
    tokio::time::timeout(patience, call).await.unwrap_or_else(late)
}

fn told(result: &Result<CounterChange, Details>) -> String {
    match result {
        Ok(change) => format!("{} at revision {}", change.value, change.revision),
        Err(details) => details.reason.clone(),
    }
}

fn brief(result: &Result<CounterValue, Details>) -> String {
    match result {
        Ok(counter) => counter.value.to_string(),
        Err(details) => details.reason.clone(),
    }
}
