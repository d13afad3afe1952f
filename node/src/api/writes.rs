//! The writes: each becomes one command, goes through consensus, and comes back as what the machine
//! decided.
//!
//! Writes of one operation are given as pairs of conversions, from the request (`Single`) and into
//! the answer, since they come in two ways: through `super::requests`, and directly from a stream
//! (`super::direct`).

use tally_proto::{
    seeded_bugs,
    v1::{self, answer::Response, call::Request},
};

use super::{
    Answered, Api, Call,
    convert::{self, Step},
    seen,
    status::{Invalid, Kind},
};
use crate::{
    consensus::propose::{Applied, Outcome},
    machine::{
        codec::size_hint_of,
        command::{Action, Answer, Command, CounterChange, KeyChange, OperationAnswer},
        limits,
    },
    metrics::requests::Method,
};

/// What every successful write answers besides its own result.
pub(super) struct Written {
    answer: Answer,
    header: v1::ResponseHeader,
    revision: u64,
    write: v1::WriteInfo,
}

impl Written {
    pub(super) fn answer(&self) -> &Answer {
        &self.answer
    }

    pub(super) fn into_header(self) -> v1::ResponseHeader {
        self.header
    }

    fn counter_change(&self) -> &CounterChange {
        match &self.answer {
            Answer::Single(OperationAnswer::CounterChanged(change)) => change,
            other => unreachable!("the machine answered {other:?} to a write on a counter"),
        }
    }

    fn key_change(&self) -> &KeyChange {
        match &self.answer {
            Answer::Single(OperationAnswer::KeyChanged(change)) => change,
            other => unreachable!("the machine answered {other:?} to a write on a key"),
        }
    }
}

/// What has to be known of a command when its outcome is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    can_repeat: bool,
    has_session: bool,
}

impl Facts {
    pub(super) fn of(command: &Command) -> Facts {
        Facts { can_repeat: convert::can_repeat(command), has_session: command.session.is_some() }
    }
}

impl Api {
    /// The command of a request that may already be found wrong.
    pub(super) fn command(
        &self,
        call: &Call,
        action: Result<Action, Invalid>,
        options: Option<v1::WriteOptions>,
    ) -> Answered<Command> {
        if !seeded_bugs::is_on("over-is-asked-once") {
            self.still_counts(call, Kind::Write, &call.who)?;
        }
        // The same token may be good after the restore: whoever asks again is looked up again.
        if self.is_of_before(&call.who) {
            return Err(self.restore_under_way(call, Kind::Write));
        }
        let caller = self.caller(&call.who);
        let command: Command = action
            .and_then(|action| convert::command(action, options, caller))
            .map_err(|invalid| self.invalid(call, Kind::Write, &invalid))?;
        // As it would be in apply. Said here, a write is not on its way to the log when the restore ends, behind which it
        // would be nobody's, though its caller may show the same token then.
        if self.consensus.cluster_id().is_restored()
            && !matches!(command.action, Action::Restore(_))
        {
            return Err(self.restore_under_way(call, Kind::Write));
        }
        tracing::debug!(request = %call.request_id, action = %command.action, "a write");
        #[cfg(feature = "seeded-bugs")]
        if seeded_bugs::is_on("rights-at-receipt") {
            self.may_by_this_node(call, &command.action)?;
        }
        Ok(command)
    }

    /// What became of a write, as it is told.
    pub(super) fn written(&self, call: &Call, facts: Facts, outcome: Outcome) -> Answered<Written> {
        let applied = outcome.map_err(|error| self.write_error(call, &error, facts.can_repeat))?;
        let header = self.write_header(&applied);
        let reply = applied.reply;
        if reply.replayed {
            let meters = &self.node.metrics.writes;
            match facts.has_session {
                true => meters.replays_by_session.add(1),
                false => meters.replays_by_key.add(1),
            };
        }
        match reply.result {
            Ok(answer) => {
                let revision = reply.revision;
                let write = v1::WriteInfo {
                    replayed: reply.replayed,
                    kept_until_log_time_ms: reply.kept.map_or(0, |kept| kept.until_log_time_ms),
                    kept_for_ms: reply.kept.map_or(0, |kept| kept.for_ms),
                    values_hidden: reply.hidden,
                };
                Ok(Written { answer, header, revision, write })
            }
            Err(ref refusal) => Err(self.refused(call, refusal, &reply, header, facts.has_session)),
        }
    }

    /// Runs a write whose request may already be found wrong.
    pub(super) async fn write(
        &self,
        call: &Call,
        action: Result<Action, Invalid>,
        options: Option<v1::WriteOptions>,
    ) -> Answered<Written> {
        let action = action.map_err(|invalid| self.invalid(call, Kind::Write, &invalid))?;
        let key = options
            .as_ref()
            .and_then(|options| options.idempotency_key.as_ref())
            .map_or(0, String::len);
        let size = size_hint_of(&action, key);
        let admitted =
            self.consensus.admit(call.who.identity(), size, call.when_full, call.deadline).await;
        let admission =
            admitted.map_err(|refusal| self.write_error(call, &refusal.into(), false))?;
        let admission = admission.traced(call.trace_context(), self.consensus.tracer());
        let admission = admission.known_at(call.who.known_at());
        // Only now, as it makes a digest of the whole request: what is refused is to cost little.
        let command = self.command(call, Ok(action), options)?;
        let facts = Facts::of(&command);
        if self.node.metrics.hot.wants_next() {
            seen::count_hot(&self.node.metrics, &command.action);
        }
        let outcome =
            self.consensus.write(command, admission, call.deadline, &call.request_id).await;
        if let Ok(Applied { times: Some(times), .. }) = &outcome {
            let _ = call.times.set(*times);
        }
        self.written(call, facts, outcome)
    }

    /// Runs a write of one operation.
    pub(super) async fn write_single(&self, call: &Call, single: Single) -> Answered<Written> {
        let Single { action, options } = single;
        self.write(call, action, options).await
    }

    pub(crate) async fn transactions_apply(
        &self,
        call: &Call,
        mut request: v1::TransactionsApplyRequest,
    ) -> Answered<v1::TransactionsApplyResponse> {
        let options = request.options.take();
        let action = convert::apply(request);
        let (then_names, else_names) = match &action {
            Ok(Action::Apply(step)) => {
                (convert::read_names(&step.operations), convert::read_names(&step.else_operations))
            }
            _ => (Vec::new(), Vec::new()),
        };
        let written = self.write(call, action, options).await?;
        let Answer::Apply { else_branch, answers } = written.answer else {
            unreachable!("the machine answered {:?} to an atomic step", written.answer)
        };
        let (branch, names) = if else_branch {
            (v1::Branch::Else, else_names)
        } else {
            (v1::Branch::Then, then_names)
        };
        let results = answers
            .into_iter()
            .zip(names)
            .map(|(answer, name)| convert::operation_answer_to_wire(answer, name))
            .collect();
        Ok(v1::TransactionsApplyResponse {
            header: Some(written.header),
            change: Some(v1::StepChange {
                branch: branch as i32,
                results,
                revision: written.revision,
            }),
            write: Some(written.write),
        })
    }

    pub(crate) async fn sessions_open(
        &self,
        call: &Call,
        request: v1::SessionsOpenRequest,
    ) -> Answered<v1::SessionsOpenResponse> {
        let idle_timeout_ms = request.idle_timeout_ms;
        let allowed = limits::SESSION_IDLE_MS_MIN..=limits::SESSION_IDLE_MS_MAX;
        let action = if idle_timeout_ms == 0 || allowed.contains(&idle_timeout_ms) {
            // The address goes along to the leader, in the command, and from there into the log.
            let share_percent = self.node.sessions_share_percent;
            Ok(match call.who.from {
                Some(from) => {
                    let owner = from.network();
                    Action::OpenOwnedSession { idle_timeout_ms, owner, share_percent }
                }
                None => Action::OpenSession { idle_timeout_ms },
            })
        } else {
            let description = format!("must be 0 or {} to {}", allowed.start(), allowed.end());
            Err(Invalid::new("idle_timeout_ms", description))
        };
        let written = self.write(call, action, None).await?;
        match written.answer {
            Answer::SessionOpened { session_id, idle_timeout_ms } => Ok(v1::SessionsOpenResponse {
                header: Some(written.header),
                session_id,
                idle_timeout_ms,
                window: limits::SESSION_WINDOW,
            }),
            other => unreachable!("the machine answered {other:?} to an open"),
        }
    }

    pub(crate) async fn sessions_renew(
        &self,
        call: &Call,
        request: v1::SessionsRenewRequest,
    ) -> Answered<v1::SessionsRenewResponse> {
        let action = Action::RenewSession {
            session_id: request.session_id,
            lowest_unanswered: request.lowest_unanswered,
        };
        let written = self.write(call, Ok(action), None).await?;
        Ok(v1::SessionsRenewResponse { header: Some(written.header) })
    }

    pub(crate) async fn sessions_close(
        &self,
        call: &Call,
        request: v1::SessionsCloseRequest,
    ) -> Answered<v1::SessionsCloseResponse> {
        let action = Action::CloseSession { session_id: request.session_id };
        let written = self.write(call, Ok(action), None).await?;
        let closed = matches!(written.answer, Answer::SessionClosed { existed: true });
        Ok(v1::SessionsCloseResponse { header: Some(written.header), closed })
    }
}

/// A write of one operation, whose request may already be found wrong.
pub(super) struct Single {
    pub(super) action: Result<Action, Invalid>,
    pub(super) options: Option<v1::WriteOptions>,
}

impl<S: Step<Options = v1::WriteOptions>> From<S> for Single {
    fn from(mut request: S) -> Single {
        let options = request.take_options();
        Single { action: request.operation().map(Action::Single), options }
    }
}

impl From<Written> for v1::CountersWriteResponse {
    fn from(written: Written) -> Self {
        let change = convert::counter_change_to_wire(written.counter_change());
        Self { header: Some(written.header), change: Some(change), write: Some(written.write) }
    }
}

impl From<Written> for v1::KeysWriteResponse {
    fn from(written: Written) -> Self {
        let change = convert::key_change_to_wire(written.key_change());
        Self { header: Some(written.header), change: Some(change), write: Some(written.write) }
    }
}

/// How the answer to a write of one operation is made.
pub(super) type Respond = fn(Written) -> Response;

/// A request, taken apart.
pub(super) enum Split {
    /// A write of one operation.
    Write(Single, Method, Respond),
    /// Anything else, as it was.
    Other(Option<Request>),
}

/// Takes a request apart if it is a write of one operation.
pub(super) fn split(request: Option<Request>) -> Split {
    macro_rules! kind {
        (write $variant:ident $request:ident) => {
            Split::Write($request.into(), Method::$variant, |written| {
                Response::$variant(written.into())
            })
        };
        ($other:ident $variant:ident $request:ident) => {
            Split::Other(Some(Request::$variant($request)))
        };
    }
    macro_rules! split {
        ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
            $($kind:ident $field:ident $variant:ident($message:ident) -> $answer:ident: $method:ident;)*
        })*) => {
            match request {
                None => Split::Other(None),
                $($(Some(Request::$variant(request)) => kind!($kind $variant request),)*)*
            }
        };
    }
    tally_proto::requests!(split)
}
