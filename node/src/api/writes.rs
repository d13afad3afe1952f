//! The writes: each becomes one command, goes through consensus, and comes back as what the machine
//! decided.

use tally_proto::v1;

use super::{
    Answered, Api, Call,
    convert::{self, Expect},
    status::{Invalid, Kind},
};
use crate::{
    consensus::{propose::size_hint, read::Provided},
    machine::{
        command::{Action, Answer, CounterChange, KeyChange, Operation, OperationAnswer},
        limits,
    },
};

/// What every successful write answers besides its own result.
struct Written {
    answer: Answer,
    header: v1::ResponseHeader,
    revision: u64,
    write: v1::WriteInfo,
}

impl Api {
    /// Runs a write whose request may already be found wrong.
    async fn write(
        &self,
        call: &Call,
        action: Result<Action, Invalid>,
        options: Option<v1::WriteOptions>,
    ) -> Answered<Written> {
        let command = action
            .and_then(|action| convert::command(action, options))
            .map_err(|invalid| self.invalid(call, Kind::Write, &invalid))?;
        tracing::debug!(request = %call.request_id, action = %command.action, "a write");
        let can_repeat = convert::can_repeat(&command);
        let has_session = command.session.is_some();
        let size = size_hint(&command);
        let admission = self
            .consensus
            .admit(size, call.when_full, call.deadline)
            .await
            .map_err(|refusal| self.write_error(call, &refusal.into(), can_repeat))?;
        let applied = self
            .consensus
            .write(command, admission, call.deadline, &call.request_id)
            .await
            .map_err(|error| self.write_error(call, &error, can_repeat))?;
        let reply = applied.reply;
        let header = self.header(Provided::Linearizable, None, applied.log_index, reply.revision);
        match reply.result {
            Ok(answer) => {
                let revision = reply.revision;
                let write = v1::WriteInfo {
                    replayed: reply.replayed,
                    kept_until_log_time_ms: reply.kept.map_or(0, |kept| kept.until_log_time_ms),
                    kept_for_ms: reply.kept.map_or(0, |kept| kept.for_ms),
                };
                Ok(Written { answer, header, revision, write })
            }
            Err(ref refusal) => Err(self.refused(call, refusal, &reply, header, has_session)),
        }
    }

    /// Runs a write of one counter operation.
    async fn write_counter(
        &self,
        call: &Call,
        operation: Result<Operation, Invalid>,
        options: Option<v1::WriteOptions>,
    ) -> Answered<(CounterChange, v1::ResponseHeader, v1::WriteInfo)> {
        let written = self.write(call, operation.map(Action::Single), options).await?;
        match written.answer {
            Answer::Single(OperationAnswer::CounterChanged(change)) => {
                Ok((change, written.header, written.write))
            }
            other => unreachable!("the machine answered {other:?} to a write on a counter"),
        }
    }

    /// Runs a write of one key operation.
    async fn write_key(
        &self,
        call: &Call,
        operation: Result<Operation, Invalid>,
        options: Option<v1::WriteOptions>,
    ) -> Answered<(KeyChange, v1::ResponseHeader, v1::WriteInfo)> {
        let written = self.write(call, operation.map(Action::Single), options).await?;
        match written.answer {
            Answer::Single(OperationAnswer::KeyChanged(change)) => {
                Ok((change, written.header, written.write))
            }
            other => unreachable!("the machine answered {other:?} to a write on a key"),
        }
    }

    pub(crate) async fn counters_add(
        &self,
        call: &Call,
        request: v1::CountersAddRequest,
    ) -> Answered<v1::CountersAddResponse> {
        let operation = convert::add(v1::CounterAdd {
            name: request.name,
            delta: request.delta,
            bounds: request.bounds,
            on_violation: request.on_violation,
            if_missing: request.if_missing,
        });
        let (change, header, write) = self.write_counter(call, operation, request.options).await?;
        Ok(v1::CountersAddResponse {
            header: Some(header),
            change: Some(convert::counter_change_to_wire(&change)),
            write: Some(write),
        })
    }

    pub(crate) async fn counters_set(
        &self,
        call: &Call,
        request: v1::CountersSetRequest,
    ) -> Answered<v1::CountersSetResponse> {
        let operation = convert::set(request.name, request.value);
        let (change, header, write) = self.write_counter(call, operation, request.options).await?;
        Ok(v1::CountersSetResponse {
            header: Some(header),
            change: Some(convert::counter_change_to_wire(&change)),
            write: Some(write),
        })
    }

    pub(crate) async fn counters_compare_and_set(
        &self,
        call: &Call,
        request: v1::CountersCompareAndSetRequest,
    ) -> Answered<v1::CountersCompareAndSetResponse> {
        use v1::counters_compare_and_set_request::Expect as Wire;

        let expect = request.expect.map(|expect| match expect {
            Wire::ExpectValue(value) => Expect::Value(value),
            Wire::ExpectRevision(revision) => Expect::Revision(revision),
            Wire::ExpectAbsent(absent) => Expect::Absent(absent),
        });
        let operation = convert::compare_and_set(request.name, expect, request.value);
        let (change, header, write) = self.write_counter(call, operation, request.options).await?;
        Ok(v1::CountersCompareAndSetResponse {
            header: Some(header),
            change: Some(convert::counter_change_to_wire(&change)),
            write: Some(write),
        })
    }

    pub(crate) async fn counters_delete(
        &self,
        call: &Call,
        request: v1::CountersDeleteRequest,
    ) -> Answered<v1::CountersDeleteResponse> {
        let operation = convert::counter_delete(request.name);
        let (change, header, write) = self.write_counter(call, operation, request.options).await?;
        Ok(v1::CountersDeleteResponse {
            header: Some(header),
            deleted: change.existed,
            change: Some(convert::counter_change_to_wire(&change)),
            write: Some(write),
        })
    }

    pub(crate) async fn counters_configure(
        &self,
        call: &Call,
        request: v1::CountersConfigureRequest,
    ) -> Answered<v1::CountersConfigureResponse> {
        let operation = convert::configure(request.name, request.bounds);
        let (change, header, write) = self.write_counter(call, operation, request.options).await?;
        Ok(v1::CountersConfigureResponse {
            header: Some(header),
            change: Some(convert::counter_change_to_wire(&change)),
            write: Some(write),
        })
    }

    pub(crate) async fn keys_put(
        &self,
        call: &Call,
        request: v1::KeysPutRequest,
    ) -> Answered<v1::KeysPutResponse> {
        let operation = convert::key_put(request.key, request.value, request.condition);
        let (change, header, write) = self.write_key(call, operation, request.options).await?;
        Ok(v1::KeysPutResponse {
            header: Some(header),
            revision: change.revision,
            existed: change.existed,
            previous_revision: change.previous_revision,
            write: Some(write),
        })
    }

    pub(crate) async fn keys_delete(
        &self,
        call: &Call,
        request: v1::KeysDeleteRequest,
    ) -> Answered<v1::KeysDeleteResponse> {
        let operation = convert::key_delete(request.key, request.condition);
        let (change, header, write) = self.write_key(call, operation, request.options).await?;
        Ok(v1::KeysDeleteResponse {
            header: Some(header),
            deleted: change.existed,
            revision: change.revision,
            previous_revision: change.previous_revision,
            write: Some(write),
        })
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
            branch: branch as i32,
            results,
            revision: written.revision,
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
            Ok(Action::OpenSession { idle_timeout_ms })
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
