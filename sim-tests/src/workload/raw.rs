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

use std::{rc::Rc, time::Duration};

use futures_util::future::join_all;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    CounterChange, CounterValue, Header, ReadLevel,
    history::{Answer, Level, Part, Record, RefusedPart, Request, Status, Told},
    proto::{self as v1, counters_client::CountersClient, sessions_client::SessionsClient},
};
use tally_proto::{reason, status::Details};
use tonic::transport::{Channel, Endpoint};

use super::{Workload, counter, hot, user::lull};
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
/// Numbers and keys whose promise is checked.
const PROBES_MAX: usize = 6;
/// At so many nodes it is tried to close a session; otherwise it ends by itself.
const CLOSE_AT_MAX: usize = 3;
/// Sessions opened in a row by one that means no good.
const GREEDY_SESSIONS: u64 = 24;

/// What a session promised.
#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    idle_ms: u64,
    next: u64,
    low: u64,
    /// A number that has an answer.
    answered: Option<u64>,
    /// It lives at least until then, in simulated ms.
    lives_until_ms: u64,
}

/// A write under a key, and what its answer promised.
#[derive(Debug, Clone)]
struct Kept {
    key: String,
    name: String,
    delta: i64,
    revision: u64,
    /// What the history calls this execution.
    idem: String,
    /// It is remembered at least until then, in simulated ms.
    until_ms: u64,
}

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

/// An error as a history has it.
struct Failed<'a> {
    details: &'a Details,
    is_write: bool,
    idem: Option<String>,
}

impl Told for Failed<'_> {
    fn tell(&self, record: &mut Record) {
        let Failed { details, is_write, idem } = self;
        record.idem.clone_from(idem);
        if let Some(header) = details.header.clone() {
            tell_header(&header.into(), record);
        }
        // Where in the history it was decided, which other writes of its log entry may have followed.
        let decided_at = details.outcome.and_then(|outcome| outcome.decided_at_revision);
        record.revision = decided_at.or(record.revision);
        if !is_write && details.reason == reason::COUNTER_NOT_FOUND {
            let absent = Answer { value: Some(None), version: Some(0), ..Answer::default() };
            record.part.result = Some(absent);
            return;
        }
        // A connection that broke has no reason of ours.
        let reason = Some(details.reason.as_str()).filter(|reason| !reason.is_empty());
        record.reason = Some(reason.unwrap_or(reason::NO_ANSWER).to_owned());
        let outcome = details.outcome.as_ref().map(v1::WriteOutcome::outcome);
        record.status = match outcome {
            Some(v1::Outcome::NotApplied) => Status::Fail,
            _ if *is_write => Status::Unknown,
            _ => Status::Fail,
        };
        let found = |bound: &v1::BoundFailure| Answer {
            value: Some(Some(bound.value.into())),
            ..Answer::default()
        };
        record.found = details.bound.as_ref().map(found);
        record.refused_part = details.step.as_ref().map(|_| RefusedPart::default());
    }
}

/// What an answer's header says of itself.
pub(super) fn tell_header(header: &Header, record: &mut Record) {
    record.consistency = match header.consistency {
        "LINEARIZABLE" => Some(Level::Linearizable),
        "BOUNDED" => Some(Level::Bounded),
        "SESSION" => Some(Level::Session),
        "LOCAL" => Some(Level::Local),
        _ => None,
    };
    if header.cluster_id.is_empty() {
        return;
    }
    record.staleness_ms = header.staleness_ms_max;
    record.node = Some(header.node_id);
    record.term = Some(header.term);
    record.applied = Some(header.applied_index);
    record.revision = Some(header.revision);
}

/// A change, and under which execution of a key it is recorded.
struct Changed<'a> {
    change: &'a CounterChange,
    idem: Option<String>,
}

impl Told for Changed<'_> {
    fn tell(&self, record: &mut Record) {
        self.change.tell(record);
        record.idem.clone_from(&self.idem);
    }
}

fn now_ms() -> u64 {
    simulated_ms().unwrap_or(0)
}

fn changed(answer: v1::CountersWriteResponse) -> CounterChange {
    let change = answer.change.unwrap_or_default();
    let bounds = change.bounds.unwrap_or_default();
    CounterChange {
        value_before: change.value_before,
        value: change.value,
        delta_requested: change.delta_requested,
        delta_applied: change.delta_applied,
        revision: change.revision,
        existed: change.existed,
        floor: bounds.floor,
        ceiling: bounds.ceiling,
        write: answer.write.map(Into::into).unwrap_or_default(),
        header: answer.header.map(Into::into).unwrap_or_default(),
    }
}

fn read(answer: v1::CountersGetResponse) -> CounterValue {
    let counter = answer.counter.unwrap_or_default();
    let bounds = counter.bounds.unwrap_or_default();
    CounterValue {
        name: counter.name,
        value: counter.value,
        floor: bounds.floor,
        ceiling: bounds.ceiling,
        created_revision: counter.created_revision,
        modified_revision: counter.modified_revision,
        header: answer.header.map(Into::into).unwrap_or_default(),
        ..CounterValue::default()
    }
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
                _ => options.set_level(v1::ReadLevel::Local),
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

    async fn open(&mut self, channel: Channel, idle_ms: u64) -> Result<Session, Details> {
        let began = now_ms();
        let request = v1::SessionsOpenRequest { idle_timeout_ms: idle_ms };
        let opened = within(SessionsClient::new(channel).open(patient(request))).await;
        let book = &self.workload.shared.book;
        match opened {
            Ok(opened) => {
                let opened = opened.into_inner();
                book.happened("session opened");
                Ok(Session {
                    id: opened.session_id,
                    idle_ms: opened.idle_timeout_ms,
                    next: 1,
                    low: 1,
                    answered: None,
                    lives_until_ms: began + opened.idle_timeout_ms,
                })
            }
            Err(status) => {
                let details = Details::parse(&status);
                book.happened(&format!("told: {}", details.reason));
                if status.message().contains("it may hold") {
                    book.happened("session refused by a host's share");
                }
                Err(details)
            }
        }
    }

    /// Works in a session of its own, and tries what a session must refuse.
    async fn in_session(&mut self, channel: Channel) -> String {
        let Some(mut session) = self.session else {
            return match self.open(channel, 0).await {
                Ok(session) => {
                    self.session = Some(session);
                    format!("opens session {}", session.id)
                }
                Err(details) => format!("opens no session: {}", details.reason),
            };
        };
        // Some are left until they are near their end, a little before or after it.
        if self.rng.random_bool(0.2) {
            let left = session.lives_until_ms.saturating_sub(now_ms()).min(6_000);
            let wait = (left + self.rng.random_range(0..80)).saturating_sub(40);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let answered = session.answered.filter(|number| *number >= session.low);
        let (sequence, delta) = match (self.rng.random_range(0..8), answered) {
            // The number of an answered write, for another request and for its own.
            (0, Some(number)) => (number, 7),
            (1, Some(number)) => (number, 1),
            (2, _) if session.low > 1 => (session.low - 1, 1),
            (3, _) => (session.low + 70_000, 1),
            _ => (session.next, 1),
        };
        let is_own = sequence == session.next;
        let repeats = answered == Some(sequence) && delta == 1;
        let stamp =
            v1::SessionStamp { session_id: session.id, sequence, lowest_unanswered: session.low };
        let options = v1::WriteOptions { session: Some(stamp), ..Default::default() };
        let name = counter(0);
        let call =
            v1::CountersAddRequest { name, delta, options: Some(options), ..Default::default() };
        let idem = (is_own || repeats).then(|| format!("session-{}-{sequence}", session.id));
        let began = now_ms();
        let added = self.add(channel.clone(), call, |_| idem.clone()).await;
        let what = format!("adds in session {} number {sequence}: {}", session.id, told(&added));
        match &added {
            Ok(change) => {
                self.lives_on(&mut session, began);
                if is_own {
                    session.answered = Some(sequence);
                    session.next += 1;
                    // Later numbers may say that it is answered, or not yet.
                    if self.rng.random_bool(0.5) {
                        session.low = session.next;
                    }
                }
                if !is_own && !change.write.replayed {
                    self.wrong(format!(
                        "session {}: number {sequence} was executed though it had an answer, is \
                         below the watermark or out of the window",
                        session.id
                    ));
                }
            }
            Err(details) => {
                self.judge_refusal(&session, details, is_own, sequence);
                if details.reason == reason::SESSION_EXPIRED {
                    self.session = None;
                    return what;
                }
                if is_own {
                    // It may be applied yet: the number is given up.
                    session.next += 1;
                }
            }
        }
        self.session = Some(session);
        if self.rng.random_bool(0.03) {
            self.close().await;
        } else if self.rng.random_bool(0.03) {
            // Left behind, as by a client that died.
            self.session = None;
        }
        what
    }

    fn lives_on(&self, session: &mut Session, call_ms: u64) {
        session.lives_until_ms = session.lives_until_ms.max(call_ms + session.idle_ms);
    }

    fn judge_refusal(&self, session: &Session, details: &Details, is_own: bool, sequence: u64) {
        let reason = details.reason.as_str();
        if reason == reason::SESSION_EXPIRED && now_ms() < session.lives_until_ms {
            self.wrong(format!(
                "session {} ended {} ms before its idle time was over",
                session.id,
                session.lives_until_ms - now_ms()
            ));
        }
        let of_numbers =
            [reason::SEQUENCE_REUSED, reason::SEQUENCE_TOO_OLD, reason::SESSION_WINDOW_FULL];
        if is_own && of_numbers.contains(&reason) {
            self.wrong(format!(
                "session {}: {reason} for number {sequence}, which is unanswered",
                session.id
            ));
        }
    }

    async fn close(&mut self) {
        let Some(session) = self.session.take() else { return };
        // Of many nodes most may be gone for good, and each would be waited for.
        for node in (0..self.cluster.addresses().len()).rev().take(CLOSE_AT_MAX) {
            let Some(channel) = self.channel(node).await else { continue };
            let request = v1::SessionsCloseRequest { session_id: session.id };
            if within(SessionsClient::new(channel).close(patient(request))).await.is_ok() {
                self.workload.shared.book.happened("session closed");
                return;
            }
        }
    }

    /// Under a key, again and again, also when its window is about to end, and for another request.
    async fn under_key(&mut self, channel: Channel) -> String {
        let unsure = self.unsure.take();
        let sure = self.kept.choose(&mut self.rng).cloned();
        let sure = sure.filter(|_| unsure.is_none() && self.rng.random_bool(0.6));
        let mut other = false;
        if let Some(kept) = &sure {
            let left = kept.until_ms.saturating_sub(now_ms());
            if left < 4_000 && self.rng.random_bool(0.5) {
                let wait = (left + self.rng.random_range(0..80)).saturating_sub(40);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            other = self.rng.random_bool(0.2);
        }
        let is_new = unsure.is_none() && sure.is_none();
        let new = || Kept {
            key: format!("raw-{}-{}", self.number, self.calls),
            name: counter(1),
            delta: 1,
            revision: 0,
            idem: String::new(),
            until_ms: 0,
        };
        let first = sure.clone().or(unsure).unwrap_or_else(new);
        let options = v1::WriteOptions { idempotency_key: first.key.clone(), ..Default::default() };
        let delta = if other { first.delta + 10 } else { first.delta };
        let call = v1::CountersAddRequest {
            name: first.name.clone(),
            delta,
            options: Some(options),
            ..Default::default()
        };
        let known = sure.clone();
        let key = first.key.clone();
        // Each execution under a key is a logical write of its own; its repeats tell its revision. One
        // that repeats an attempt of unknown outcome is the same as that attempt.
        let idem = |result: Result<&CounterChange, &Details>| match (result, &known) {
            (Ok(change), Some(known))
                if change.write.replayed && known.revision == change.revision =>
            {
                Some(known.idem.clone())
            }
            (Ok(change), _) if change.write.replayed => Some(format!("{key}?")),
            (Ok(change), _) => Some(format!("{key}@{}", change.revision)),
            (Err(details), _) => {
                let replayed = details.outcome.is_some_and(|outcome| outcome.replayed);
                (is_new || replayed).then(|| format!("{key}?"))
            }
        };
        let began = now_ms();
        let added = self.add(channel, call, &idem).await;
        let is_due = sure.as_ref().filter(|kept| now_ms() < kept.until_ms);
        self.kept.retain(|kept| kept.key != first.key);
        match &added {
            Ok(change) => {
                if let Some(due) = is_due
                    && (other || change.revision != due.revision)
                {
                    self.wrong(format!(
                        "key {}: executed at revision {} though it was to be remembered, from \
                         revision {}, for {} ms more",
                        first.key,
                        change.revision,
                        due.revision,
                        due.until_ms - now_ms()
                    ));
                }
                if sure.is_some() && !change.write.replayed {
                    self.workload.shared.book.happened("key forgotten after its window");
                }
                self.kept.push(Kept {
                    revision: change.revision,
                    idem: idem(Ok(change)).unwrap_or_default(),
                    delta,
                    until_ms: began + change.write.kept_for_ms,
                    ..first.clone()
                });
                if self.kept.len() > PROBES_MAX {
                    self.kept.remove(0);
                }
            }
            Err(details) => {
                let reused = details.reason == reason::IDEMPOTENCY_KEY_REUSED;
                if reused && !other && sure.is_some() {
                    self.wrong(format!("key {}: REUSED for its own request", first.key));
                }
                let outcome = details.outcome.unwrap_or_default();
                let is_new_refusal = outcome.decided_in_apply
                    && !reused
                    && details.reason != reason::DEDUP_TABLE_FULL;
                if is_new_refusal && is_due.is_some() {
                    self.wrong(format!(
                        "key {}: decided anew, with {}, though it was to be remembered",
                        first.key, details.reason
                    ));
                }
                if outcome.outcome() == v1::Outcome::NotApplied && !is_new_refusal {
                    // What it was before is what it is.
                    self.kept.extend(sure.clone());
                } else if is_new {
                    self.unsure = Some(first.clone());
                }
            }
        }
        let other = if other { " for another request" } else { "" };
        format!("adds under key {}{other}: {}", first.key, told(&added))
    }

    /// Opens sessions for as long as it gets some, and leaves them to their end.
    async fn greedy(&mut self, channel: Channel) -> String {
        if self.workload.shared.knobs.sessions_max > GREEDY_SESSIONS {
            return "wants nothing".to_owned();
        }
        for opened in 0..GREEDY_SESSIONS {
            if let Err(details) = self.open(channel.clone(), 0).await {
                return format!("opens {opened} sessions, then {}", details.reason);
            }
        }
        "opens sessions without end".to_owned()
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
