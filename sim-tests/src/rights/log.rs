//! The log's side: every committed command with who is said to have asked for it, in its place, against the rights
//! there. An entry is judged when the first node has applied it; that the others answer and hold the same is
//! `invariants`' to see.

use std::collections::BTreeMap;

use tally_node::machine::{
    auth::Permissions,
    command::{
        Action, Answer, Command, Fingerprint, Found, Operation, OperationAnswer, Refusal, Reply,
        StepPart,
    },
};

use super::model::{Need, Rights, need_of, needs_of};
use crate::entries::Entries;

/// What the log has said so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Entries,
    /// Rights from each change on: the index of its entry, and they themselves.
    pub(super) versions: Vec<(u64, Rights)>,
    now: Rights,
    /// Who opened each session; 0 is everybody while authentication is off.
    sessions: BTreeMap<u64, u64>,
    /// Whose key stood for which requests.
    keys: BTreeMap<(u64, String), Vec<Fingerprint>>,
    /// Which token was shown for a write, by what makes it the only one of its kind.
    pub(super) shown: BTreeMap<String, Option<u64>>,
    pub(super) wrong: Vec<String>,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

impl Log {
    pub(super) fn appended(&mut self, term: u64, index: u64, payload: &[u8]) {
        self.entries.appended(term, index, payload);
    }

    pub(super) fn applied(&mut self, term: u64, index: u64, replies: &[Reply]) {
        let Some(batch) = self.entries.applied(term, index) else { return };
        for (command, reply) in batch.commands.iter().zip(replies) {
            if let Some(wrong) = self.command(index, command, reply) {
                self.wrong.push(format!(
                    "entry {index}: {wrong}: {} asked for by {:?} was answered {:?}",
                    command.action, command.caller, reply
                ));
            }
        }
    }

    fn command(&mut self, index: u64, command: &Command, reply: &Reply) -> Option<String> {
        let is_own = matches!(
            command.action,
            Action::Tick
                | Action::Compare
                | Action::CreateCluster { .. }
                | Action::CreateClusterAt { .. }
                | Action::RaiseVersion { .. }
                | Action::NodeId(_)
        );
        if is_own {
            return None;
        }
        let spoke = self.spoke_for(command);
        let on = self.now.on;
        let user = match self.now.caller(command.caller) {
            _ if !on => 0,
            Some(user) => user,
            None => {
                self.count("strangers refused in the log");
                let is_refused = reply.result == Err(Refusal::Unauthenticated);
                return (!is_refused).then(|| "nobody that is known was served".to_owned());
            }
        };
        let wrong = match &command.action {
            Action::Auth(change) => {
                let is_made = match &reply.result {
                    Ok(Answer::AuthChanged { id }) => Some(*id),
                    _ => None,
                };
                let may = !on || self.now.is_admin(user);
                if let Some(id) = is_made {
                    self.now.change(change, id);
                    self.versions.push((index, self.now.clone()));
                    self.count("changes of rights");
                }
                (is_made.is_some() && !may).then(|| "rights were changed by no admin".to_owned())
            }
            Action::OpenSession { .. } | Action::OpenOwnedSession { .. } => {
                self.sessions.insert(index, user);
                None
            }
            Action::Single(_) | Action::Apply(_) => self.write(user, command, reply),
            _ => None,
        };
        if reply.result == Err(Refusal::Unauthenticated) {
            return Some("somebody who is known was taken for a stranger".to_owned());
        }
        spoke.or(wrong)
    }

    /// Whether a write of which it is known who asked for it names somebody else.
    fn spoke_for(&self, command: &Command) -> Option<String> {
        let shown = *self.shown.get(&mark_of(&command.action)?)?;
        let named = command.caller.map(|caller| caller.token);
        // A node need not find out who somebody is while authentication is off.
        let is_right = named.is_none() || named == shown;
        (!is_right)
            .then(|| format!("it was asked for with token {shown:?}, and the entry names another"))
    }

    fn write(&mut self, user: u64, command: &Command, reply: &Reply) -> Option<String> {
        let needs = needs_of(&command.action);
        let may = |log: &Log, need: &Need| !log.now.on || log.now.allows(user, need);
        let is_allowed = needs.iter().all(|need| may(self, need));
        let key = command.idempotency.as_ref().map(|key| (user, key.key.clone()));
        let sessions = &self.sessions;
        let session = command.session.map(|stamp| sessions.get(&stamp.session_id).copied());
        let is_own_session = session.is_none_or(|of| of == Some(user));
        let of_key = key.as_ref().and_then(|key| self.keys.get(key));
        let is_own_key = of_key.is_some_and(|of| of.contains(&command.fingerprint));
        if reply.replayed {
            self.count("remembered answers given under rights");
            let is_its_own = is_own_key || (session.is_some() && is_own_session);
            if !is_its_own {
                return Some("a remembered answer of somebody else was given".to_owned());
            }
            if !is_allowed {
                self.count("remembered answers to who may not do it any more");
            }
        }
        // Refusals of numbers and keys look at nothing that is stored.
        let is_of_mechanism = matches!(
            reply.result,
            Err(Refusal::SessionExpired { .. }
                | Refusal::SequenceTooOld { .. }
                | Refusal::SequenceOutOfWindow { .. }
                | Refusal::SequenceReused { .. }
                | Refusal::IdempotencyKeyReused { .. })
        );
        let is_denied = matches!(reply.result, Err(Refusal::PermissionDenied { .. }));
        if is_denied {
            self.count("writes denied");
            let said = "it was denied, and the rights allow it".to_owned();
            return is_allowed.then_some(said);
        }
        if !reply.replayed && !is_of_mechanism {
            if !is_allowed {
                return Some("it was done, and the rights do not allow it".to_owned());
            }
            if !is_own_session {
                return Some("it was done in a session of somebody else".to_owned());
            }
            self.count(if self.now.on { "writes allowed" } else { "writes while rights are off" });
            if let Some(key) = key {
                self.keys.entry(key).or_default().push(command.fingerprint);
            }
        }
        if let Err(Refusal::IdempotencyKeyReused { key }) = &reply.result {
            let is_known = self.keys.contains_key(&(user, key.clone()));
            if !is_known {
                return Some("a key of somebody else was told".to_owned());
            }
        }
        self.values(user, command, reply)
    }

    /// Whether something is shown of what may not be read.
    fn values(&mut self, user: u64, command: &Command, reply: &Reply) -> Option<String> {
        let on = self.now.on;
        let reads = |rights: &Rights, operation: &Operation| {
            let need = Need { permissions: Permissions::READ, ..need_of(operation) };
            !on || rights.allows(user, &need)
        };
        let mut hides = false;
        let mut shows = None;
        let mut look = |rights: &Rights, operation: &Operation, shown: Option<String>| {
            if reads(rights, operation) {
                return;
            }
            hides = true;
            shows = shows.take().or(shown);
        };
        match (&command.action, &reply.result) {
            (Action::Single(operation), Ok(Answer::Single(answer))) => {
                look(&self.now, operation, shown_by(operation, answer));
            }
            (Action::Single(operation), Err(refusal)) => {
                look(&self.now, operation, shown_by_refusal(refusal));
            }
            (Action::Apply(step), Ok(Answer::Apply { else_branch, answers })) => {
                let branch = if *else_branch { &step.else_operations } else { &step.operations };
                for (operation, answer) in branch.iter().zip(answers) {
                    look(&self.now, operation, shown_by(operation, answer));
                }
            }
            (Action::Apply(step), Err(Refusal::Step { part, refusal })) => {
                let operation = match part {
                    StepPart::Condition(_) => None,
                    StepPart::Operation(at) => step.operations.get(*at as usize),
                    StepPart::ElseOperation(at) => step.else_operations.get(*at as usize),
                };
                if let Some(operation) = operation {
                    look(&self.now, operation, shown_by_refusal(refusal));
                }
            }
            _ => return None,
        }
        if let Some(shown) = shows {
            return Some(format!("{shown} was shown to who may not read it"));
        }
        if hides {
            self.count("answers without values");
        }
        // What hides nothing says so, or its zeros would be taken for nothing known.
        (reply.hidden && !hides).then(|| "values were hidden from who may read them".to_owned())
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// What makes a write of the guests the only one of its kind.
fn mark_of(action: &Action) -> Option<String> {
    match action {
        Action::Single(Operation::CounterAdd(add)) => {
            Some(super::mark_of_add(&add.name, add.delta))
        }
        Action::Single(Operation::KeyPut(put)) => {
            Some(String::from_utf8_lossy(&put.value).into_owned())
        }
        _ => None,
    }
}

/// A value in an answer, or that there was one.
fn shown_by(operation: &Operation, answer: &OperationAnswer) -> Option<String> {
    match answer {
        OperationAnswer::CounterChanged(change) => {
            let is_add = matches!(operation, Operation::CounterAdd(_));
            let moved = !is_add && change.delta_applied != 0;
            let is_bare = (change.value_before, change.value) == (0, 0)
                && !change.existed
                && change.bounds == Default::default();
            (moved || !is_bare).then(|| format!("the counter's value ({change:?})"))
        }
        OperationAnswer::CounterRead(Some(_)) => Some("a counter".to_owned()),
        OperationAnswer::KeyChanged(change) => (change.existed || change.previous_revision != 0)
            .then(|| "that the key was there".to_owned()),
        OperationAnswer::KeyRead(Some(_)) => Some("a key".to_owned()),
        OperationAnswer::CounterRead(None) | OperationAnswer::KeyRead(None) => None,
    }
}

fn shown_by_refusal(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::BelowFloor { .. } | Refusal::AboveCeiling { .. } | Refusal::Overflow { .. } => {
            Some("a value in a refusal".to_owned())
        }
        Refusal::ConditionFailed { found, .. } if *found != Found::Hidden => {
            Some("what was found instead".to_owned())
        }
        _ => None,
    }
}
