//! One line for each command and reply: logs and test scripts share them.
//!
//! A key's value is shown as text if it is short printable ASCII, else by its size, so that a line
//! stays a line.

use std::fmt::{self, Display, Formatter, Result};

use bytes::Bytes;

use super::command::{
    Action, Answer, ApplyStep, Bounds, Command, Comparison, Condition, CounterChange,
    CounterExpectation, CounterRecord, KeyChange, KeyExpectation, KeyRecord, OnViolation,
    Operation, OperationAnswer, Reply, Test,
};

/// Values up to this many bytes are shown.
const VALUE_SHOWN_BYTES_MAX: usize = 32;

struct Value<'a>(&'a Bytes);

impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let printable = self.0.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        match std::str::from_utf8(self.0) {
            Ok(text) if printable && text.len() <= VALUE_SHOWN_BYTES_MAX => write!(f, "{text:?}"),
            _ => write!(f, "({} bytes)", self.0.len()),
        }
    }
}

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

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Operation::CounterAdd { name, delta, bounds, on_violation, must_exist } => {
                write!(f, "add {name:?} {delta}{bounds}")?;
                if *on_violation == OnViolation::Saturate {
                    write!(f, " saturate")?;
                }
                if *must_exist {
                    write!(f, " must_exist")?;
                }
                Ok(())
            }
            Operation::CounterGet { name } => write!(f, "counter {name:?}"),
            Operation::CounterSet { name, value } => write!(f, "set {name:?} {value}"),
            Operation::CounterCompareAndSet { name, expect, value } => match expect {
                CounterExpectation::Value(expected) => {
                    write!(f, "cas {name:?} {value} value={expected}")
                }
                CounterExpectation::Revision(revision) => {
                    write!(f, "cas {name:?} {value} revision={revision}")
                }
                CounterExpectation::Absent => write!(f, "cas {name:?} {value} absent"),
            },
            Operation::CounterDelete { name } => write!(f, "delete {name:?}"),
            Operation::CounterConfigure { name, bounds } => {
                write!(f, "configure {name:?}{bounds}")
            }
            Operation::KeyPut { key, value, expect } => {
                write!(f, "put {key:?} {}{expect}", Value(value))
            }
            Operation::KeyGet { key } => write!(f, "key {key:?}"),
            Operation::KeyDelete { key, expect } => write!(f, "remove {key:?}{expect}"),
        }
    }
}

/// Each bound with a space in front, nothing for none.
impl Display for Bounds {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if let Some(floor) = self.floor {
            write!(f, " floor={floor}")?;
        }
        if let Some(ceiling) = self.ceiling {
            write!(f, " ceiling={ceiling}")?;
        }
        Ok(())
    }
}

/// With a space in front, nothing for none.
impl Display for KeyExpectation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            KeyExpectation::Any => Ok(()),
            KeyExpectation::Absent => write!(f, " absent"),
            KeyExpectation::Present => write!(f, " present"),
            KeyExpectation::Revision(revision) => write!(f, " revision={revision}"),
            KeyExpectation::Value(value) => write!(f, " value={}", Value(value)),
        }
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
            Answer::Done => write!(f, "done"),
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

impl Display for CounterChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if !self.existed {
            write!(f, "(missing) ")?;
        }
        write!(f, "{} -> {}{}", self.value_before, self.value, self.bounds)?;
        write!(f, " asked {} applied {}", self.delta_requested, self.delta_applied)?;
        write!(f, " r{}", self.revision)
    }
}

impl Display for KeyChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.existed {
            true => write!(f, "r{} -> r{}", self.previous_revision, self.revision),
            false => write!(f, "(missing) -> r{}", self.revision),
        }
    }
}

impl Display for CounterRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}{}", self.value, self.bounds)?;
        write!(f, " created r{} modified r{}", self.created_revision, self.modified_revision)
    }
}

impl Display for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> Result {
        write!(f, "{}", Value(&self.value))?;
        write!(f, " created r{} modified r{}", self.created_revision, self.modified_revision)
    }
}
