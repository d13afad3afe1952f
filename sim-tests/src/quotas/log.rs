//! The log's side: every committed write in its place, against the items and quotas there. It shares no code with the
//! machine: it keeps the names and bytes of all items, and adds them up whenever a quota is asked.

use std::collections::BTreeMap;

use tally_node::machine::{
    command::{Action, Answer, Command, Operation, Refusal, Reply, StepPart},
    quota::{QuotaCommand, QuotaLimits, QuotaUnit, Scope},
};

use crate::entries::Entries;

/// A new quota counts so many items at once, and bytes of items, for all that one entry sets: a little less than the
/// documentation says. Of one that has more to count it is not known when it begins to refuse …
const COUNTED_AT_ONCE: (u64, u64) = (1_000, 4_000_000);
/// … but after so many entries it does: each counts as much again, and no run stores ten times that.
const COUNTED_AFTER: u64 = 20;

/// A quota as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) scope: Scope,
    pub(super) prefix: String,
    pub(super) limits: QuotaLimits,
    /// Items and bytes.
    pub(super) used: (u64, u64),
    /// It has counted all.
    pub(super) sure: bool,
}

/// All items, by their bytes.
type Items = BTreeMap<(Scope, String), u64>;

#[derive(Debug, Clone, Copy)]
struct Quota {
    limits: QuotaLimits,
    /// It has counted all from this entry on, at the latest.
    sure_from: u64,
}

/// What the log has said so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Entries,
    items: Items,
    quotas: BTreeMap<(Scope, String), Quota>,
    /// What new quotas of this entry had to count.
    counted: (u64, u64),
    /// All quotas from each entry on that changed something about them.
    versions: Vec<(u64, Vec<Listed>)>,
    pub(super) wrong: Vec<String>,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

impl Log {
    pub(super) fn appended(&mut self, term: u64, index: u64, payload: &[u8]) {
        self.entries.appended(term, index, payload);
    }

    pub(super) fn judged(&self) -> u64 {
        self.entries.judged()
    }

    pub(super) fn applied(&mut self, term: u64, index: u64, replies: &[Reply]) {
        let Some(batch) = self.entries.applied(term, index) else { return };
        self.counted = (0, 0);
        for (command, reply) in batch.commands.iter().zip(replies) {
            if let Err(wrong) = self.command(index, command, reply) {
                self.wrong.push(format!(
                    "entry {index}: {wrong}: {} was answered {reply:?}",
                    command.action
                ));
            }
        }
        let now = self.listed(index);
        if self.versions.last().is_none_or(|(_, last)| *last != now) {
            self.versions.push((index, now));
        }
    }

    /// What is wrong about a list of the state after this log index.
    pub(super) fn differs(&self, applied: u64, told: &[Listed]) -> Option<String> {
        let at = self.versions.partition_point(|(index, _)| *index <= applied);
        let known = at.checked_sub(1).map_or(&[][..], |at| &self.versions[at].1[..]);
        // One that counts yet says what it has found so far.
        let same = |(told, known): (&Listed, &Listed)| {
            let both = |one: &Listed| (one.scope, one.prefix.clone(), one.limits);
            both(told) == both(known) && (!(told.sure && known.sure) || told.used == known.used)
        };
        let is_right = told.len() == known.len() && told.iter().zip(known).all(same);
        (!is_right).then(|| {
            format!("the quotas after entry {applied} were told as {told:?}, and are {known:?}")
        })
    }

    fn listed(&self, index: u64) -> Vec<Listed> {
        let listed = |((scope, prefix), quota): (&(Scope, String), &Quota)| Listed {
            scope: *scope,
            prefix: prefix.clone(),
            limits: quota.limits,
            used: used(&self.items, *scope, prefix),
            sure: index >= quota.sure_from,
        };
        self.quotas.iter().map(listed).collect()
    }

    fn command(&mut self, index: u64, command: &Command, reply: &Reply) -> Result<(), String> {
        if reply.replayed {
            return match refused_by_quota(&reply.result) {
                Some(_) => Err("a refusal of a quota was remembered".to_owned()),
                None => Ok(()),
            };
        }
        match (&command.action, &reply.result) {
            (Action::Quota(change), Ok(Answer::QuotaChanged { existed })) => {
                self.change(index, change, *existed)
            }
            (Action::Single(operation), Ok(Answer::Single(_))) => {
                self.done(index, std::slice::from_ref(operation))
            }
            (Action::Apply(step), Ok(Answer::Apply { else_branch, .. })) => {
                let branch = if *else_branch { &step.else_operations } else { &step.operations };
                self.done(index, branch)
            }
            (Action::Single(operation), Err(refusal)) => {
                self.refused(index, std::slice::from_ref(operation), refusal)
            }
            (Action::Apply(step), Err(Refusal::Step { part, refusal })) => {
                let up_to = match part {
                    StepPart::Condition(_) => &[][..],
                    StepPart::Operation(at) => &step.operations[..=*at as usize],
                    StepPart::ElseOperation(at) => &step.else_operations[..=*at as usize],
                };
                self.refused(index, up_to, refusal)
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, index: u64, change: &QuotaCommand, existed: bool) -> Result<(), String> {
        let before = match change.clone() {
            QuotaCommand::Delete { scope, prefix } => {
                self.count("removed");
                self.quotas.remove(&(scope, prefix)).is_some()
            }
            QuotaCommand::Set { scope, prefix, limits } => {
                self.count("set");
                let (items, bytes) = used(&self.items, scope, &prefix);
                let quota = self.quotas.get_mut(&(scope, prefix.clone()));
                let existed = quota.is_some();
                if let Some(quota) = quota {
                    quota.limits = limits;
                } else {
                    self.counted = (self.counted.0 + items, self.counted.1 + bytes);
                    let at_once =
                        self.counted.0 <= COUNTED_AT_ONCE.0 && self.counted.1 <= COUNTED_AT_ONCE.1;
                    let sure_from = if at_once { index } else { index + COUNTED_AFTER };
                    self.quotas.insert((scope, prefix), Quota { limits, sure_from });
                }
                existed
            }
        };
        match before == existed {
            true => Ok(()),
            false => Err("whether the quota was there is told wrongly".to_owned()),
        }
    }

    /// These were done, one after the other: no quota may have been in the way of any.
    fn done(&mut self, index: u64, operations: &[Operation]) -> Result<(), String> {
        let mut outcome = Ok(());
        for operation in operations {
            let Some(effect) = Effect::of(operation) else { continue };
            if let Some(refusal) = self.in_the_way(&effect, |_, quota| index >= quota.sure_from) {
                outcome = Err(format!("it was done, and {refusal}"));
            }
            let above = self.is_above(&effect);
            if above && effect.grows(&self.items) == (0, 0) {
                self.count("done above a hard limit, as it does not grow");
            }
            effect.take(&mut self.items);
        }
        outcome
    }

    /// The last of these was refused, after the others would have been done.
    fn refused(
        &mut self,
        index: u64,
        up_to: &[Operation],
        refusal: &Refusal,
    ) -> Result<(), String> {
        let Some((scope, prefix)) = quota_of(refusal) else { return Ok(()) };
        let named = (scope, prefix.to_owned());
        let Some((last, before)) = up_to.split_last().filter(|_| self.quotas.contains_key(&named))
        else {
            return Err("there is no such quota, or nothing that it could refuse".to_owned());
        };
        self.count("refused");
        let kept = self.items.clone();
        for effect in before.iter().filter_map(Effect::of) {
            effect.take(&mut self.items);
        }
        let expected = Effect::of(last).and_then(|effect| {
            // Of those that may count yet only the one that is named is known to refuse.
            self.in_the_way(&effect, |of, quota| index >= quota.sure_from || *of == named)
        });
        self.items = kept;
        let is_right = match (&expected, refusal) {
            (Some(Refusal::QuotaExceeded { .. }), Refusal::QuotaHidden { .. }) => true,
            (Some(expected), told) => expected == told,
            (None, _) => false,
        };
        let expected = expected.map_or("nothing".to_owned(), |refusal| refusal.to_string());
        match is_right {
            true => Ok(()),
            false => Err(format!("it was refused by a quota, and in the way is this: {expected}")),
        }
    }

    /// The refusal of the first quota that does not allow it, of those that are asked.
    fn in_the_way(
        &self,
        effect: &Effect<'_>,
        is_asked: impl Fn(&(Scope, String), &Quota) -> bool,
    ) -> Option<Refusal> {
        let (one, more) = effect.grows(&self.items);
        self.quotas.iter().filter(|(of, quota)| is_asked(of, quota)).find_map(
            |((scope, prefix), quota)| {
                if *scope != effect.scope || !effect.name.starts_with(prefix) {
                    return None;
                }
                let (items, bytes) = used(&self.items, *scope, prefix);
                [
                    (QuotaUnit::Items, items, one, quota.limits.hard_items),
                    (QuotaUnit::Bytes, bytes, more, quota.limits.hard_bytes),
                ]
                .into_iter()
                .find_map(|(unit, used, grows_by, limit)| {
                    let limit = limit.filter(|limit| grows_by > 0 && used + grows_by > *limit)?;
                    let (scope, prefix) = (*scope, prefix.clone());
                    Some(Refusal::QuotaExceeded { scope, prefix, unit, used, limit, grows_by })
                })
            },
        )
    }

    /// Whether some quota on it has as much in use as it allows, or more.
    fn is_above(&self, effect: &Effect<'_>) -> bool {
        self.quotas.iter().any(|((scope, prefix), quota)| {
            let (items, bytes) = used(&self.items, *scope, prefix);
            *scope == effect.scope
                && effect.name.starts_with(prefix)
                && (quota.limits.hard_items.is_some_and(|limit| items >= limit)
                    || quota.limits.hard_bytes.is_some_and(|limit| bytes >= limit))
        })
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// What an operation that is done leaves of its item: so many bytes, or nothing.
struct Effect<'a> {
    scope: Scope,
    name: &'a str,
    after: Option<u64>,
}

impl<'a> Effect<'a> {
    /// Reads have none.
    fn of(operation: &'a Operation) -> Option<Self> {
        let counter = |name: &'a str| (Scope::Counters, name, Some(name.len() as u64 + 8));
        let (scope, name, after) = match operation {
            Operation::CounterAdd(it) => counter(&it.name),
            Operation::CounterSet(it) => counter(&it.name),
            Operation::CounterCompareAndSet(it) => counter(&it.name),
            Operation::CounterConfigure(it) => counter(&it.name),
            Operation::CounterDelete(it) => (Scope::Counters, &*it.name, None),
            Operation::KeyPut(it) => {
                (Scope::Keys, &*it.key, Some((it.key.len() + it.value.len()) as u64))
            }
            Operation::KeyDelete(it) => (Scope::Keys, &*it.key, None),
            Operation::CounterGet(_) | Operation::KeyGet(_) => return None,
        };
        Some(Effect { scope, name, after })
    }

    /// Items and bytes more than before.
    fn grows(&self, items: &Items) -> (u64, u64) {
        let before = items.get(&(self.scope, self.name.to_owned()));
        let is_new = before.is_none() && self.after.is_some();
        let more = self.after.unwrap_or(0).saturating_sub(before.copied().unwrap_or(0));
        (u64::from(is_new), more)
    }

    fn take(&self, items: &mut Items) {
        let at = (self.scope, self.name.to_owned());
        match self.after {
            Some(bytes) => items.insert(at, bytes),
            None => items.remove(&at),
        };
    }
}

fn used(items: &Items, scope: Scope, prefix: &str) -> (u64, u64) {
    let of_prefix = items.iter().filter(|((of, name), _)| *of == scope && name.starts_with(prefix));
    of_prefix.fold((0, 0), |(items, bytes), (_, more)| (items + 1, bytes + more))
}

fn refused_by_quota(result: &Result<Answer, Refusal>) -> Option<(Scope, &str)> {
    match result {
        Err(Refusal::Step { refusal, .. }) => quota_of(refusal),
        Err(refusal) => quota_of(refusal),
        Ok(_) => None,
    }
}

fn quota_of(refusal: &Refusal) -> Option<(Scope, &str)> {
    match refusal {
        Refusal::QuotaExceeded { scope, prefix, .. }
        | Refusal::QuotaHidden { scope, prefix, .. } => Some((*scope, prefix)),
        _ => None,
    }
}
