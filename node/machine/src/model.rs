//! What the machine must answer, written as naively as possible: maps, unbounded integers, whole
//! copies to undo, nothing removed before it has to be. It shares types with the machine and no
//! code but the canonical sizes that a full table is judged by.

mod quotas;

use std::collections::{BTreeMap, HashMap};

use self::quotas::{Quota, over_quota};
use super::{
    command::*,
    idempotency_entry_bytes,
    limits::SESSION_WINDOW,
    quota::Scope,
    records::{IdempotencyRecord, Record},
};

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) counters: HashMap<String, CounterRecord>,
    pub(super) keys: HashMap<String, KeyRecord>,
    pub(super) revision: u64,
    pub(super) now: u64,
    settings: Settings,
    created: bool,
    sessions: HashMap<u64, Session>,
    promises: HashMap<String, Promise>,
    quotas: BTreeMap<(Scope, String), Quota>,
    /// Items and bytes that this entry may still count for quotas.
    left: (u64, u64),
    wall: u64,
}

#[derive(Debug, Clone)]
struct Session {
    of: Option<Owner>,
    idle: u64,
    ends: u64,
    used: u64,
    watermark: u64,
    answers: HashMap<u64, (Fingerprint, Reply)>,
}

#[derive(Debug, Clone)]
struct Promise {
    fingerprint: Fingerprint,
    until: u64,
    reply: Reply,
    bytes: u64,
}

impl Model {
    pub(super) fn apply(&mut self, index: u64, batch: &Batch, items: usize) -> Vec<Reply> {
        self.now = self.now.max(batch.log_time_ms);
        self.wall = batch.wall_time_ms;
        self.left = (items as u64, items as u64 * 4096);
        let replies = batch.commands.iter().map(|command| self.command(index, command)).collect();
        self.count_on();
        replies
    }

    pub(super) fn live_sessions(&self) -> Vec<u64> {
        let live = self.sessions.iter().filter(|(_, session)| self.now < session.ends);
        let mut ids: Vec<u64> = live.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// How many an owner has open, and all others.
    fn live_sessions_of(&self, owner: Owner) -> (u64, u64) {
        let live = self.sessions.values().filter(|session| self.now < session.ends);
        let (own, other): (Vec<_>, Vec<_>) = live.partition(|session| session.of == Some(owner));
        (own.len() as u64, other.len() as u64)
    }

    fn say(&self, result: Result<Answer, Refusal>) -> Reply {
        Reply { result, revision: self.revision, replayed: false, kept: None, hidden: false }
    }

    fn again(&self, reply: &Reply) -> Reply {
        let mut reply = reply.clone();
        reply.replayed = true;
        reply.kept = reply
            .kept
            .map(|kept| Kept { for_ms: kept.until_log_time_ms.saturating_sub(self.now), ..kept });
        reply
    }

    fn session(&mut self, id: u64, lowest: u64) -> Option<&mut Session> {
        let now = self.now;
        let session = self.sessions.get_mut(&id)?;
        if now >= session.ends {
            assert!(now - session.used >= session.idle, "session {id} ended before its idle time");
            return None;
        }
        session.watermark = session.watermark.max(lowest);
        session.used = now;
        if session.ends < now + session.idle {
            session.ends = now + session.idle + session.idle / 64;
        }
        Some(session)
    }

    fn command(&mut self, index: u64, command: &Command) -> Reply {
        match &command.action {
            Action::Tick | Action::Compare => self.say(Ok(Answer::Done)),
            Action::CreateCluster { settings, .. } => {
                if !self.created {
                    self.settings = *settings;
                }
                self.created = true;
                self.say(Ok(Answer::Done))
            }
            Action::OpenSession { idle_timeout_ms }
            | Action::OpenOwnedSession { idle_timeout_ms, .. } => {
                let sessions_max = self.settings.sessions_max;
                if self.live_sessions().len() as u64 >= sessions_max {
                    return self.say(Err(Refusal::SessionTableFull { sessions_max }));
                }
                let mut of = None;
                if let Action::OpenOwnedSession { owner, share_percent, .. } = command.action {
                    let (held, others) = self.live_sessions_of(owner);
                    // In floating point, where the machine has whole numbers.
                    let free = (sessions_max - others) as f64;
                    let share_max = (free * f64::from(share_percent) / 100.0).ceil() as u64;
                    if held >= share_max {
                        return self.say(Err(Refusal::SessionShareFull {
                            owner,
                            held,
                            share_max,
                            share_percent,
                            sessions_max,
                        }));
                    }
                    of = Some(owner);
                }
                let idle = match *idle_timeout_ms {
                    0 => self.settings.session_idle_ms,
                    idle => idle,
                };
                let session = Session {
                    of,
                    idle,
                    ends: self.now + idle,
                    used: self.now,
                    watermark: 1,
                    answers: HashMap::new(),
                };
                self.sessions.insert(index, session);
                self.say(Ok(Answer::SessionOpened { session_id: index, idle_timeout_ms: idle }))
            }
            Action::RenewSession { session_id, lowest_unanswered } => {
                let result = match self.session(*session_id, *lowest_unanswered) {
                    Some(_) => Ok(Answer::SessionRenewed),
                    None => Err(Refusal::SessionExpired { session_id: *session_id }),
                };
                self.say(result)
            }
            Action::CloseSession { session_id } => {
                let existed = self.session(*session_id, 0).is_some();
                self.sessions.remove(session_id);
                self.say(Ok(Answer::SessionClosed { existed }))
            }
            Action::Single(_) | Action::Apply(_) => self.write(command),
            // Of users, ids of nodes, versions and restores it knows nothing (`auth_tests.rs`, `node_ids.rs`, `gate.rs`,
            // `restore_tests.rs`).
            Action::Auth(_)
            | Action::CreateSecureCluster { .. }
            | Action::NodeId(_)
            | Action::RaiseVersion { .. }
            | Action::CreateClusterAt { .. }
            | Action::Restore(_) => {
                unreachable!("not drawn")
            }
            Action::Quota(change) => {
                let result = self.quota(change);
                self.say(result)
            }
        }
    }

    fn write(&mut self, command: &Command) -> Reply {
        let mut refusal = None;
        let mut remember = None;
        if let Some(SessionStamp { session_id, sequence, lowest_unanswered }) = command.session {
            match self.session(session_id, lowest_unanswered) {
                None => refusal = Some(Refusal::SessionExpired { session_id }),
                Some(Session { watermark, answers, .. }) => {
                    let watermark = *watermark;
                    if sequence < watermark {
                        refusal = Some(Refusal::SequenceTooOld { sequence, watermark });
                    } else if let Some((fingerprint, reply)) = answers.get(&sequence).cloned() {
                        if fingerprint == command.fingerprint {
                            return self.again(&reply);
                        }
                        return self.say(Err(Refusal::SequenceReused { sequence }));
                    } else if sequence - watermark >= SESSION_WINDOW {
                        let window = SESSION_WINDOW;
                        refusal =
                            Some(Refusal::SequenceOutOfWindow { sequence, watermark, window });
                    } else {
                        remember = Some((session_id, sequence));
                    }
                }
            }
        }
        let promise = command.idempotency.as_ref().and_then(|key| self.promises.get(&key.key));
        let reply = match promise {
            Some(promise) if self.now < promise.until => {
                if promise.fingerprint == command.fingerprint {
                    self.again(&promise.reply)
                } else {
                    let key = command.idempotency.as_ref().unwrap().key.clone();
                    self.say(Err(Refusal::IdempotencyKeyReused { key }))
                }
            }
            _ => match refusal {
                Some(refusal) => return self.say(Err(refusal)),
                None => self.execute(command),
            },
        };
        if let Some((id, sequence)) = remember
            && !over_quota(&reply)
        {
            let session = self.sessions.get_mut(&id).unwrap();
            session.answers.insert(sequence, (command.fingerprint, reply.clone()));
        }
        reply
    }

    fn execute(&mut self, command: &Command) -> Reply {
        let before = (self.counters.clone(), self.keys.clone(), self.revision);
        let result = match &command.action {
            Action::Single(operation) => self.operation(operation).map(Answer::Single),
            Action::Apply(step) => self.step(step),
            _ => unreachable!(),
        };
        if result.is_err() {
            (self.counters, self.keys, self.revision) = before.clone();
        }
        let mut reply = self.say(result);
        let Some(key) = &command.idempotency else {
            return reply;
        };
        if over_quota(&reply) {
            return reply;
        }
        let window = match key.window_ms {
            0 => self.settings.idempotency_window_ms,
            window => window.min(self.settings.idempotency_window_ms),
        };
        let until = self.now + window;
        reply.kept = Some(Kept { until_log_time_ms: until, for_ms: 0 });
        let record = IdempotencyRecord {
            fingerprint: command.fingerprint,
            expires_at_ms: until,
            stored_at_ms: self.now,
            reply: reply.clone(),
        };
        reply.kept = Some(Kept { until_log_time_ms: until, for_ms: window });
        let bytes = idempotency_entry_bytes(key.key.len(), record.encode().len());
        let live = self.promises.values().filter(|promise| self.now < promise.until);
        let bytes_max = self.settings.idempotency_bytes_max;
        if live.map(|promise| promise.bytes).sum::<u64>() + bytes > bytes_max {
            (self.counters, self.keys, self.revision) = before;
            return self.say(Err(Refusal::DedupTableFull { bytes_max }));
        }
        let fingerprint = command.fingerprint;
        let promise = Promise { fingerprint, until, reply: reply.clone(), bytes };
        self.promises.insert(key.key.clone(), promise);
        reply
    }

    fn step(&mut self, step: &ApplyStep) -> Result<Answer, Refusal> {
        let failed = step.conditions.iter().position(|condition| !self.holds(condition));
        let else_branch = failed.is_some();
        if let Some(index) = failed
            && step.else_operations.is_empty()
        {
            let target = step.conditions[index].target.clone();
            let found = self.found(&target);
            let refusal = Box::new(Refusal::ConditionFailed { target, found });
            return Err(Refusal::Step { part: StepPart::Condition(index as u32), refusal });
        }
        let operations = if else_branch { &step.else_operations } else { &step.operations };
        let mut answers = Vec::new();
        let mut read = 0;
        for (index, operation) in operations.iter().enumerate() {
            let index = index as u32;
            let part = match else_branch {
                true => StepPart::ElseOperation(index),
                false => StepPart::Operation(index),
            };
            let refuse = |refusal| Refusal::Step { part, refusal: Box::new(refusal) };
            let answer = self.operation(operation).map_err(refuse)?;
            match &answer {
                OperationAnswer::CounterRead(Some(_)) => read += 8,
                OperationAnswer::KeyRead(Some(record)) => read += record.value.len(),
                _ => {}
            }
            if read > 16384 {
                return Err(refuse(Refusal::AnswerTooLarge { bytes_max: 16384 }));
            }
            answers.push(answer);
        }
        Ok(Answer::Apply { else_branch, answers })
    }

    fn holds(&self, condition: &Condition) -> bool {
        fn compare<T: Ord>(comparison: Comparison, a: T, b: T) -> bool {
            match comparison {
                Comparison::Equal => a == b,
                Comparison::NotEqual => a != b,
                Comparison::Less => a < b,
                Comparison::LessOrEqual => a <= b,
                Comparison::Greater => a > b,
                Comparison::GreaterOrEqual => a >= b,
            }
        }
        let (exists, revision, number, bytes) = match &condition.target {
            Target::Counter(name) => match self.counters.get(name) {
                Some(counter) => (true, counter.modified_revision, Some(counter.value), None),
                None => (false, 0, None, None),
            },
            Target::Key(key) => match self.keys.get(key) {
                Some(key) => (true, key.modified_revision, None, Some(key.value.clone())),
                None => (false, 0, None, None),
            },
        };
        match &condition.test {
            Test::Exists(wanted) => exists == *wanted,
            Test::Revision(comparison, wanted) => compare(*comparison, revision, *wanted),
            Test::CounterValue(comparison, wanted) => {
                number.is_some_and(|number| compare(*comparison, number, *wanted))
            }
            Test::KeyValue(comparison, wanted) => {
                bytes.is_some_and(|bytes| compare(*comparison, bytes, wanted.clone()))
            }
        }
    }

    fn found(&self, target: &Target) -> Found {
        match target {
            Target::Counter(name) => self.counters.get(name).map_or(Found::Nothing, |counter| {
                let CounterRecord { value, modified_revision, .. } = *counter;
                Found::Counter { value, modified_revision }
            }),
            Target::Key(key) => self.keys.get(key).map_or(Found::Nothing, |key| Found::Key {
                value: (key.value.len() <= 1024).then(|| key.value.clone()),
                size_bytes: key.value.len() as u64,
                modified_revision: key.modified_revision,
            }),
        }
    }

    fn operation(&mut self, operation: &Operation) -> Result<OperationAnswer, Refusal> {
        match operation {
            Operation::CounterGet(CounterGet { name }) => {
                Ok(OperationAnswer::CounterRead(self.counters.get(name).copied()))
            }
            Operation::KeyGet(KeyGet { key }) => {
                Ok(OperationAnswer::KeyRead(self.keys.get(key).cloned()))
            }
            Operation::KeyPut(KeyPut { key, expect, .. })
            | Operation::KeyDelete(KeyDelete { key, expect }) => {
                let stored = self.keys.get(key);
                let before = stored.map(|key| key.modified_revision);
                let holds = match expect {
                    KeyExpectation::Any => true,
                    KeyExpectation::Absent => before.is_none(),
                    KeyExpectation::Present => before.is_some(),
                    KeyExpectation::Revision(revision) => before.unwrap_or(0) == *revision,
                    KeyExpectation::Value(value) => stored.is_some_and(|key| key.value == value),
                };
                if !holds {
                    let target = Target::Key(key.clone());
                    let found = self.found(&target);
                    return Err(Refusal::ConditionFailed { target, found });
                }
                if let Operation::KeyPut(KeyPut { value, .. }) = operation {
                    let bytes = |value: &bytes::Bytes| (key.len() + value.len()) as u64;
                    let size = stored.map(|key| bytes(&key.value));
                    if let Some(refusal) = self.over_quota(Scope::Keys, key, size, bytes(value)) {
                        return Err(refusal);
                    }
                    self.revision += 1;
                    let created = self.keys.get(key).map(|key| key.created_revision);
                    let record = KeyRecord {
                        value: value.clone(),
                        created_revision: created.unwrap_or(self.revision),
                        modified_revision: self.revision,
                        modified_wall_time_ms: self.wall,
                    };
                    self.keys.insert(key.clone(), record);
                } else if self.keys.remove(key).is_some() {
                    self.revision += 1;
                }
                Ok(OperationAnswer::KeyChanged(KeyChange {
                    revision: self.revision,
                    existed: before.is_some(),
                    previous_revision: before.unwrap_or(0),
                }))
            }
            _ => self.counter(operation).map(OperationAnswer::CounterChanged),
        }
    }

    fn counter(&mut self, operation: &Operation) -> Result<CounterChange, Refusal> {
        let (Operation::CounterAdd(CounterAdd { name, .. })
        | Operation::CounterSet(CounterSet { name, .. })
        | Operation::CounterCompareAndSet(CounterCompareAndSet { name, .. })
        | Operation::CounterDelete(CounterDelete { name })
        | Operation::CounterConfigure(CounterConfigure { name, .. })) = operation
        else {
            unreachable!()
        };
        let before = self.counters.get(name).copied();
        let old = before.map_or(0, |before| i128::from(before.value));
        let stored = before.map_or(Bounds::default(), |before| before.bounds);
        let refuse_low = |floor: i128| Refusal::BelowFloor {
            name: name.clone(),
            value: old as i64,
            floor: floor as i64,
        };
        let refuse_high = |ceiling: i128| Refusal::AboveCeiling {
            name: name.clone(),
            value: old as i64,
            ceiling: ceiling as i64,
        };
        let within = |value: i128, bounds: Bounds| {
            match bounds.floor.map(i128::from) {
                Some(floor) if value < floor => return Err(refuse_low(floor)),
                _ => {}
            }
            match bounds.ceiling.map(i128::from) {
                Some(ceiling) if value > ceiling => Err(refuse_high(ceiling)),
                _ => Ok(()),
            }
        };
        let (new, bounds, asked) = match operation {
            Operation::CounterAdd(CounterAdd {
                delta, bounds, on_violation, must_exist, ..
            }) => {
                if *must_exist && before.is_none() {
                    return Err(Refusal::CounterNotFound { name: name.clone() });
                }
                let floors = [stored.floor, bounds.floor].into_iter().flatten().map(i128::from);
                let ceilings =
                    [stored.ceiling, bounds.ceiling].into_iter().flatten().map(i128::from);
                let (floor, ceiling) = (floors.max(), ceilings.min());
                let mut new = old + i128::from(*delta);
                let mut obstacle = None;
                if *delta > 0 && ceiling.is_some_and(|ceiling| new > ceiling) {
                    obstacle = Some(refuse_high(ceiling.unwrap()));
                    new = ceiling.unwrap().max(old);
                } else if *delta < 0 && floor.is_some_and(|floor| new < floor) {
                    obstacle = Some(refuse_low(floor.unwrap()));
                    new = floor.unwrap().min(old);
                } else if i64::try_from(new).is_err() {
                    let value = old as i64;
                    obstacle = Some(Refusal::Overflow { name: name.clone(), value });
                    new = if new > 0 { i64::MAX.into() } else { i64::MIN.into() };
                }
                if let (Some(obstacle), OnViolation::Reject) = (obstacle, on_violation) {
                    return Err(obstacle);
                }
                (Some(new), stored, Some(*delta))
            }
            Operation::CounterSet(CounterSet { value, .. }) => {
                within((*value).into(), stored)?;
                (Some((*value).into()), stored, None)
            }
            Operation::CounterCompareAndSet(CounterCompareAndSet { expect, value, .. }) => {
                let holds = match expect {
                    CounterExpectation::Value(value) => {
                        before.is_some() && old == i128::from(*value)
                    }
                    CounterExpectation::Revision(revision) => {
                        before.map_or(0, |before| before.modified_revision) == *revision
                    }
                    CounterExpectation::Absent => before.is_none(),
                };
                if !holds {
                    let target = Target::Counter(name.clone());
                    let found = self.found(&target);
                    return Err(Refusal::ConditionFailed { target, found });
                }
                within((*value).into(), stored)?;
                (Some((*value).into()), stored, None)
            }
            Operation::CounterDelete(CounterDelete { .. }) => (None, stored, None),
            Operation::CounterConfigure(CounterConfigure { bounds, .. }) => {
                within(old, *bounds)?;
                (Some(old), *bounds, None)
            }
            _ => unreachable!(),
        };
        let idle = match operation {
            Operation::CounterAdd(CounterAdd { .. }) => before.is_some() && new == Some(old),
            Operation::CounterDelete(CounterDelete { .. }) => before.is_none(),
            _ => false,
        };
        if !idle {
            let bytes = name.len() as u64 + 8;
            if let Some(refusal) =
                self.over_quota(Scope::Counters, name, before.map(|_| bytes), bytes)
                && new.is_some()
            {
                return Err(refusal);
            }
            self.revision += 1;
            match new {
                None => {
                    self.counters.remove(name);
                }
                Some(value) => {
                    let revision = self.revision;
                    let created = before.map_or(revision, |before| before.created_revision);
                    let record = CounterRecord {
                        value: value as i64,
                        bounds,
                        created_revision: created,
                        modified_revision: revision,
                        modified_wall_time_ms: self.wall,
                    };
                    self.counters.insert(name.clone(), record);
                }
            }
        }
        let value = new.unwrap_or(0);
        let moved = (value - old).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Ok(CounterChange {
            value_before: old as i64,
            value: value as i64,
            delta_requested: asked.unwrap_or(moved),
            delta_applied: moved,
            revision: self.revision,
            existed: before.is_some(),
            bounds,
        })
    }
}
