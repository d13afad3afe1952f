//! One line for each command and reply: logs and test scripts share them.
//!
//! What belongs to one operation alone is shown beside it ([`super::operation`]), what items have in
//! common in [`super::item`].

use std::fmt::{Display, Formatter, Result};

use super::{
    command::{Action, ApplyStep, Command, Comparison, Condition, RestoreCommand, Test},
    item::Value,
    node_ids::NodeIdCommand,
    reply::{Answer, OperationAnswer, Reply},
    restore::Recovery,
};

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if let Some(stamp) = &self.session {
            let (id, sequence) = (stamp.session_id, stamp.sequence);
            write!(f, "[session {id} #{sequence} from {}] ", stamp.lowest_unanswered)?;
        }
        if let Some(key) = &self.idempotency {
            write!(f, "[key {:?} for {} ms] ", key.key, key.window_ms)?;
        }
        self.action.fmt(f)
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Action::Single(operation) => operation.fmt(f),
            Action::Apply(step) => step.fmt(f),
            Action::OpenSession { idle_timeout_ms } => write!(f, "open idle={idle_timeout_ms}"),
            Action::OpenOwnedSession { idle_timeout_ms, owner, share_percent } => {
                write!(f, "open idle={idle_timeout_ms} for {owner} share={share_percent}%")
            }
            Action::RenewSession { session_id, lowest_unanswered } => {
                write!(f, "renew {session_id} from {lowest_unanswered}")
            }
            Action::CloseSession { session_id } => write!(f, "close {session_id}"),
            Action::Tick => write!(f, "tick"),
            Action::CreateCluster { cluster_id, settings } => write!(
                f,
                "create {cluster_id:032x} sessions={} idle={} window={} bytes={}",
                settings.sessions_max,
                settings.session_idle_ms,
                settings.idempotency_window_ms,
                settings.idempotency_bytes_max
            ),
            Action::Auth(change) => change.fmt(f),
            Action::Restore(step) => match step {
                RestoreCommand::Begin(backup) => write!(
                    f,
                    "begin a restore of revision {} in {} blocks",
                    backup.revision, backup.blocks
                ),
                RestoreCommand::Block { number, payload } => {
                    write!(f, "restore block {number} of {} bytes", payload.len())
                }
                RestoreCommand::Finish { .. } => write!(f, "finish the restore"),
                RestoreCommand::Abort => write!(f, "abort the restore"),
                RestoreCommand::Recover(recovery) => {
                    let Recovery { node_id, lost } = recovery;
                    write!(f, "node {node_id} goes on alone, without {lost:?}")
                }
            },
            Action::CreateSecureCluster { cluster_id, .. } => {
                write!(f, "create {cluster_id:032x} with authentication")
            }
            Action::CreateClusterAt { cluster_id, secret_hash, version, .. } => {
                let secure = if secret_hash.is_some() { " with authentication" } else { "" };
                write!(f, "create {cluster_id:032x} at version {version}{secure}")
            }
            Action::RaiseVersion { to } => write!(f, "raise the version to {to}"),
            Action::Compare => write!(f, "compare the replicas"),
            Action::NodeId(NodeIdCommand::Claim { node_id, incarnation, .. }) => {
                write!(f, "claim node id {node_id} for {incarnation}")
            }
            Action::NodeId(NodeIdCommand::Retire { node_id, .. }) => {
                write!(f, "retire node id {node_id}")
            }
            Action::NodeId(NodeIdCommand::Drain { node_id, drained, .. }) => {
                write!(f, "node {node_id} {} lead", if *drained { "is not to" } else { "may" })
            }
            Action::Quota(change) => change.fmt(f),
        }
    }
}

impl Display for ApplyStep {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "apply")?;
        for condition in &self.conditions {
            write!(f, " if {condition}")?;
        }
        for operation in &self.operations {
            write!(f, " do {operation}")?;
        }
        for operation in &self.else_operations {
            write!(f, " else {operation}")?;
        }
        Ok(())
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} ", self.target)?;
        match &self.test {
            Test::Exists(true) => write!(f, "exists"),
            Test::Exists(false) => write!(f, "absent"),
            Test::Revision(comparison, revision) => write!(f, "revision {comparison} {revision}"),
            Test::CounterValue(comparison, value) => write!(f, "value {comparison} {value}"),
            Test::KeyValue(comparison, value) => write!(f, "value {comparison} {}", Value(value)),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Comparison::Equal => "==",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        })
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.result {
            Ok(answer) => answer.fmt(f)?,
            Err(refusal) => write!(f, "refused: {refusal}")?,
        }
        write!(f, " @{}", self.revision)?;
        if self.replayed {
            write!(f, " replayed")?;
        }
        if self.hidden {
            write!(f, " in part")?;
        }
        if let Some(kept) = &self.kept {
            write!(f, " kept until {} ({} ms)", kept.until_log_time_ms, kept.for_ms)?;
        }
        Ok(())
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Answer::Single(answer) => answer.fmt(f),
            Answer::Apply { else_branch, answers } => {
                write!(f, "{}", if *else_branch { "else" } else { "then" })?;
                let mut separator = ": ";
                for answer in answers {
                    write!(f, "{separator}{answer}")?;
                    separator = "; ";
                }
                Ok(())
            }
            Answer::SessionOpened { session_id, idle_timeout_ms } => {
                write!(f, "opened {session_id} idle={idle_timeout_ms}")
            }
            Answer::SessionRenewed => write!(f, "renewed"),
            Answer::SessionClosed { existed: true } => write!(f, "closed"),
            Answer::SessionClosed { existed: false } => write!(f, "was not open"),
            Answer::AuthChanged { id: 0 } => write!(f, "changed"),
            Answer::AuthChanged { id } => write!(f, "made {id}"),
            Answer::NodeIdClaimed { node_id } => write!(f, "node id {node_id}"),
            Answer::NodeIdRefused { next_id } => write!(f, "not that node id; {next_id} is free"),
            Answer::Restored { phase, next } => write!(f, "{phase:?}, block {next} is next"),
            Answer::Done => write!(f, "done"),
            Answer::QuotaChanged { existed: true } => write!(f, "there was one"),
            Answer::QuotaChanged { existed: false } => write!(f, "there was none"),
        }
    }
}

impl Display for OperationAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            OperationAnswer::CounterChanged(change) => change.fmt(f),
            OperationAnswer::CounterRead(Some(record)) => record.fmt(f),
            OperationAnswer::KeyChanged(change) => change.fmt(f),
            OperationAnswer::KeyRead(Some(record)) => record.fmt(f),
            OperationAnswer::CounterRead(None) | OperationAnswer::KeyRead(None) => {
                write!(f, "missing")
            }
        }
    }
}
