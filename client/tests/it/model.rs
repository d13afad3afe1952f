//! What the fake cluster agrees on: counters, keys, sessions and the answers that it remembers.

#[path = "model_store.rs"]
mod store;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tally_client::proto as v1;
use tally_proto::{reason, status::StatusBuilder, v1::answer::Response, v1::call::Request};
use tonic::Code;

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) cluster_id: String,
    pub(crate) counters: BTreeMap<String, i64>,
    pub(crate) keys: BTreeMap<String, Bytes>,
    pub(crate) log_index: u64,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) window: u64,
    pub(crate) idle_timeout_ms: u64,
    pub(crate) remembered_keys: BTreeMap<String, (Request, Response)>,
    /// How often each logical write was executed, by session number or key.
    pub(crate) executions: BTreeMap<String, u32>,
    /// No session can be opened any more.
    pub(crate) sessions_full: bool,
    /// How often one was asked for.
    pub(crate) opens: u32,
    pub(crate) renewals: u32,
    pub(crate) closed: u32,
    /// Of counters and keys.
    pub(crate) revision: u64,
    pub(crate) quotas: Vec<v1::Quota>,
    /// So often somebody else writes before the next page is read.
    pub(crate) writes_between_pages: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) watermark: u64,
    pub(crate) answers: BTreeMap<u64, (Request, Response)>,
    pub(crate) most_above_watermark: u64,
}

pub(crate) fn refusal(code: Code, why: &str, outcome: v1::Outcome, decided: bool) -> Response {
    let detail = v1::WriteOutcome {
        outcome: outcome as i32,
        decided_in_apply: decided,
        ..v1::WriteOutcome::default()
    };
    Response::Error(StatusBuilder::new(code, why, why).detail(&detail).build())
}

/// The same with a request to wait for so long: a client that has less time left ends there.
pub(crate) fn refusal_for(wait: Duration, code: Code, why: &str, outcome: v1::Outcome) -> Response {
    let detail = v1::WriteOutcome { outcome: outcome as i32, ..Default::default() };
    Response::Error(StatusBuilder::new(code, why, why).detail(&detail).retry_after(wait).build())
}

impl Model {
    /// Executes a request as a leader's state machine would, at most once for each stamp.
    pub(crate) fn execute(&mut self, mut request: Request) -> Response {
        let Some(options) = options(&mut request).and_then(Option::take) else {
            return self.run(request, None);
        };
        let stamp = options.session;
        if let Some(stamp) = &stamp
            && let Some(session) = self.sessions.get_mut(&stamp.session_id)
        {
            assert!(stamp.sequence >= stamp.lowest_unanswered, "{stamp:?} answers itself");
            session.watermark = session.watermark.max(stamp.lowest_unanswered);
            session.answers.retain(|&sequence, _| sequence >= session.watermark);
            let above = stamp.sequence + 1 - session.watermark.min(stamp.sequence);
            session.most_above_watermark = session.most_above_watermark.max(above);
            assert!(above <= self.window, "{stamp:?} is outside of the window");
            if let Some((first, answer)) = session.answers.get(&stamp.sequence) {
                assert_eq!(first, &request, "one number, two requests");
                return replayed(answer.clone());
            }
            if stamp.sequence < session.watermark {
                let why = reason::SEQUENCE_TOO_OLD;
                return refusal(Code::FailedPrecondition, why, v1::Outcome::Unknown, true);
            }
        }
        if let Some((first, answer)) =
            options.idempotency_key.as_ref().and_then(|key| self.remembered_keys.get(key))
        {
            if first != &request {
                let why = reason::IDEMPOTENCY_KEY_REUSED;
                return refusal(Code::AlreadyExists, why, v1::Outcome::NotApplied, true);
            }
            return replayed(answer.clone());
        }
        if let Some(stamp) = &stamp
            && !self.sessions.contains_key(&stamp.session_id)
        {
            let why = reason::SESSION_EXPIRED;
            return refusal(Code::FailedPrecondition, why, v1::Outcome::Unknown, true);
        }
        let name = match (&stamp, &options.idempotency_key) {
            (_, Some(key)) => Some(key.clone()),
            (Some(stamp), _) => Some(format!("{}/{}", stamp.session_id, stamp.sequence)),
            _ => None,
        };
        let answer = self.run(request.clone(), name);
        if let Some(key) = options.idempotency_key {
            self.remembered_keys.insert(key, (request.clone(), answer.clone()));
        }
        if let Some(session) = stamp.as_ref().and_then(|at| self.sessions.get_mut(&at.session_id)) {
            session.answers.insert(stamp.unwrap().sequence, (request, answer.clone()));
        }
        answer
    }

    fn run(&mut self, request: Request, name: Option<String>) -> Response {
        self.log_index += 1;
        if let Some(name) = name {
            let times = self.executions.entry(name.clone()).or_default();
            *times += 1;
            assert_eq!(*times, 1, "{name} was executed twice");
        }
        match request {
            Request::CountersAdd(add) => self.add(&add),
            Request::CountersGet(get) => match self.counters.get(&get.name) {
                Some(&value) => Response::CountersGet(v1::CountersGetResponse {
                    header: Some(self.header()),
                    counter: Some(v1::Counter { name: get.name, value, ..Default::default() }),
                }),
                None => Response::Error(
                    StatusBuilder::new(Code::NotFound, reason::COUNTER_NOT_FOUND, "no").build(),
                ),
            },
            Request::CountersBatchGet(batch) => {
                let (found, missing): (Vec<_>, Vec<_>) =
                    batch.names.into_iter().partition(|name| self.counters.contains_key(name));
                let counter = |name: String| {
                    let value = self.counters[&name];
                    v1::Counter { name, value, ..Default::default() }
                };
                let counters = found.into_iter().map(counter).collect();
                let header = Some(self.header());
                Response::CountersBatchGet(v1::CountersBatchGetResponse {
                    header,
                    counters,
                    missing,
                })
            }
            Request::KeysPut(put) => {
                let existed = self.keys.insert(put.key, put.value).is_some();
                self.revision += 1;
                Response::KeysPut(v1::KeysWriteResponse {
                    header: Some(self.header()),
                    change: Some(v1::KeyChange {
                        revision: self.log_index,
                        existed,
                        ..Default::default()
                    }),
                    ..Default::default()
                })
            }
            Request::SessionsOpen(_) => {
                self.opens += 1;
                if self.sessions_full {
                    let why = reason::SESSION_TABLE_FULL;
                    let not_applied = v1::Outcome::NotApplied;
                    return refusal(Code::ResourceExhausted, why, not_applied, true);
                }
                self.sessions.insert(self.log_index, Session::default());
                Response::SessionsOpen(v1::SessionsOpenResponse {
                    header: Some(self.header()),
                    session_id: self.log_index,
                    idle_timeout_ms: self.idle_timeout_ms,
                    window: self.window,
                })
            }
            Request::SessionsRenew(renew) => {
                self.renewals += 1;
                if !self.sessions.contains_key(&renew.session_id) {
                    let why = reason::SESSION_EXPIRED;
                    return refusal(Code::FailedPrecondition, why, v1::Outcome::Unknown, true);
                }
                Response::SessionsRenew(v1::SessionsRenewResponse { header: Some(self.header()) })
            }
            Request::SessionsClose(close) => {
                let closed = self.sessions.remove(&close.session_id).is_some();
                self.closed += u32::from(closed);
                let header = Some(self.header());
                Response::SessionsClose(v1::SessionsCloseResponse { header, closed })
            }
            Request::SessionsList(list) => {
                let after = list.page_token.parse().unwrap_or(0);
                let owned = |id: &u64| list.owner.is_empty() || owner_of(*id) == list.owner;
                let ids: Vec<u64> =
                    self.sessions.keys().copied().filter(|id| *id > after).filter(owned).collect();
                let size = list.page_size as usize;
                let info = |id: &u64| v1::SessionInfo {
                    session_id: *id,
                    owner: owner_of(*id),
                    expires_in_ms: self.idle_timeout_ms,
                    ..Default::default()
                };
                let more = ids.len() > size;
                Response::SessionsList(v1::SessionsListResponse {
                    header: Some(self.header()),
                    sessions: ids.iter().take(size).map(info).collect(),
                    next_page_token: if more { ids[size - 1].to_string() } else { String::new() },
                    sessions_open: self.sessions.len() as u64,
                    sessions_max: 10,
                    share_percent: 50,
                    owners: vec![v1::SessionOwner { owner: "10.0.0.1".into(), sessions: 2 }]
                        .into_iter()
                        .take(list.owners_max as usize)
                        .collect(),
                })
            }
            Request::QuotasSet(set) => {
                let v1::QuotasSetRequest { scope, prefix, limits } = set;
                let existed = self.remove_quota(scope, &prefix);
                self.quotas.push(v1::Quota { scope, prefix, limits, ..Default::default() });
                let header = Some(self.header());
                Response::QuotasSet(v1::QuotasSetResponse { header, existed })
            }
            Request::QuotasDelete(delete) => {
                let existed = self.remove_quota(delete.scope, &delete.prefix);
                let header = Some(self.header());
                Response::QuotasDelete(v1::QuotasDeleteResponse { header, existed })
            }
            Request::QuotasList(_) => {
                let (header, quotas) = (Some(self.header()), self.quotas.clone());
                Response::QuotasList(v1::QuotasListResponse { header, quotas })
            }
            other => self.store(other),
        }
    }

    /// It counts nothing, and refuses nothing.
    fn remove_quota(&mut self, scope: i32, prefix: &str) -> bool {
        let before = self.quotas.len();
        self.quotas.retain(|quota| quota.scope != scope || quota.prefix != prefix);
        self.quotas.len() < before
    }

    fn add(&mut self, add: &v1::CountersAddRequest) -> Response {
        let before = self.counters.get(&add.name).copied().unwrap_or_default();
        let after = before + add.delta;
        if add.bounds.and_then(|bounds| bounds.floor).is_some_and(|floor| after < floor) {
            let outcome = v1::WriteOutcome {
                outcome: v1::Outcome::NotApplied as i32,
                decided_in_apply: true,
                ..v1::WriteOutcome::default()
            };
            let why = reason::BELOW_FLOOR;
            return Response::Error(
                StatusBuilder::new(Code::FailedPrecondition, why, why)
                    .detail(&outcome)
                    .detail(&v1::AnswerState { header: Some(self.header()) })
                    .build(),
            );
        }
        self.counters.insert(add.name.clone(), after);
        self.revision += 1;
        Response::CountersAdd(v1::CountersWriteResponse {
            header: Some(self.header()),
            change: Some(v1::CounterChange {
                value_before: before,
                value: after,
                delta_requested: add.delta,
                delta_applied: add.delta,
                revision: self.log_index,
                ..Default::default()
            }),
            write: None,
        })
    }

    pub(crate) fn header(&self) -> v1::ResponseHeader {
        v1::ResponseHeader {
            cluster_id: self.cluster_id.clone(),
            applied_index: self.log_index,
            revision: self.revision,
            consistency: v1::ReadLevel::Linearizable as i32,
            session_token: [&self.log_index.to_be_bytes(), self.cluster_id.as_bytes()]
                .concat()
                .into(),
            ..Default::default()
        }
    }
}

/// Sessions with even ids are of one owner, the others of another.
fn owner_of(session_id: u64) -> String {
    format!("10.0.0.{}", session_id % 2)
}

fn replayed(mut answer: Response) -> Response {
    if let Response::CountersAdd(added) = &mut answer {
        added.write = Some(v1::WriteInfo { replayed: true, ..Default::default() });
    }
    answer
}

pub(crate) fn options(request: &mut Request) -> Option<&mut Option<v1::WriteOptions>> {
    match request {
        Request::CountersAdd(add) => Some(&mut add.options),
        Request::CountersDelete(delete) => Some(&mut delete.options),
        Request::KeysPut(put) => Some(&mut put.options),
        Request::KeysDelete(delete) => Some(&mut delete.options),
        Request::TransactionsApply(step) => Some(&mut step.options),
        _ => None,
    }
}
