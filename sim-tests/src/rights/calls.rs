//! The guests' side: what each call was told, held against the rights as of the state that its answer names.
//!
//! | told | what must be so |
//! |---|---|
//! | an answer to a write, or a refusal that looked at what is stored | the rights within its log entry allow it (or, before or after a change in that very entry, did) |
//! | the answer to a read, or that there is no such item | the rights of the state with the applied index of the answer allow it, all of it |
//! | at LINEARIZABLE | that state has every change of rights that was acknowledged before the call |
//! | at BOUNDED, or with a claim of an age | every one that was acknowledged before that age |
//! | PERMISSION_DENIED to a write | the rights within its entry do not allow it |
//! | PERMISSION_DENIED to a read | the rights of some state do not that the level lets it read |
//! | UNAUTHENTICATED | what was shown does not count in some state that is no older than the call, or is over by the clock of some node; who shows nothing may be told so by a node that has not heard yet that authentication is off |
//! | anything but that, to one whose token was over by every node's clock | authentication is off in the state of the answer |
//! | `values_hidden`, and no value | what was written to may not be read, and the reverse |
//!
//! At LOCAL and SESSION the state may be old; what it shows is what its own rights allow.

use tally_client::reason;

use super::model::{Need, Rights, Says};

/// What a call asks for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// In short, for people.
    pub(crate) what: String,
    /// All that it takes.
    pub(crate) needs: Vec<Need>,
    /// The items that it writes to, with the permission to read them; nothing for a read.
    pub(crate) writes: Option<Vec<Need>>,
    /// The level of a read.
    pub(crate) level: Freshness,
    /// The token that is shown; `None` for nothing, or for what is no token.
    pub(crate) token: Option<u64>,
    /// When it was made, in simulated ms.
    pub(crate) call_ms: u64,
}

/// How new the state of a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As new as the call.
    Linearizable,
    /// At most so many ms older.
    Bounded(u64),
    /// Any.
    Any,
}

/// What it was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Why it was refused; empty: it was answered.
    pub(crate) reason: String,
    /// Applied index of the header, if there was one.
    pub(crate) applied: Option<u64>,
    /// The greatest age that a read's answer claims.
    pub(crate) staleness_ms: Option<u64>,
    /// A remembered answer.
    pub(crate) replayed: bool,
    /// `values_hidden`.
    pub(crate) hidden: bool,
    /// It holds a value, a bound, or whether something existed.
    pub(crate) shows: bool,
    /// Names that a list shows which are not under its prefix.
    pub(crate) foreign: Option<String>,
    /// When it was told, in simulated ms.
    pub(crate) ret_ms: u64,
}

/// What is known when a call is judged, which is when the run is over.
pub(super) struct Known<'a> {
    pub(super) versions: &'a [(u64, Rights)],
    /// When a change was acknowledged, and its entry.
    pub(super) acked: &'a [(u64, u64)],
    /// How wrong the nodes' wall clocks were at most, in ms, each way.
    pub(super) clocks: (i64, i64),
    pub(super) epoch_ms: u64,
    /// The first rights of all.
    pub(super) none: &'a Rights,
}

impl Known<'_> {
    /// The rights of a state: those after its last entry.
    fn after(&self, applied: u64) -> &Rights {
        let at = self.versions.partition_point(|(index, _)| *index <= applied);
        at.checked_sub(1).map_or(self.none, |at| &self.versions[at].1)
    }

    /// All rights that there were within an entry.
    fn within(&self, index: u64) -> impl Iterator<Item = &Rights> {
        let changes = self.versions.iter().filter(move |(at, _)| *at == index);
        std::iter::once(self.after(index.saturating_sub(1)))
            .chain(changes.map(|(_, rights)| rights))
    }

    /// All rights of states from this entry on.
    fn since(&self, index: u64) -> impl Iterator<Item = &Rights> {
        let later = self.versions.iter().filter(move |(at, _)| *at > index);
        std::iter::once(self.after(index)).chain(later.map(|(_, rights)| rights))
    }

    /// The newest entry that was known to be there at a moment.
    fn acked_before(&self, ms: u64) -> u64 {
        let acked = self.acked.iter().filter(|(at, _)| *at < ms);
        acked.map(|(_, index)| *index).max().unwrap_or(0)
    }

    /// When a token is over, by the wall clock of whoever is asked; it has the same end in all rights.
    fn expires_ms(&self, token: Option<u64>) -> Option<u64> {
        let token = token?;
        let known = self.versions.iter().find_map(|(_, rights)| rights.token(token))?;
        Some(known.expires_wall_ms).filter(|end| *end != 0)
    }

    pub(super) fn judge(&self, asked: &Asked, told: &Told) -> Option<String> {
        let expires_ms = self.expires_ms(asked.token);
        let by_clock = |ms: u64, error: i64| (self.epoch_ms + ms).saturating_add_signed(error);
        // (A millisecond each for what was rounded.)
        let was_over =
            expires_ms.is_some_and(|end| end + 2 < by_clock(asked.call_ms, self.clocks.0));
        let may_be_over =
            expires_ms.is_some_and(|end| end <= by_clock(told.ret_ms + 2, self.clocks.1));
        let is_write = asked.writes.is_some();
        match told.reason.as_str() {
            reason::UNAUTHENTICATED => {
                let new_enough = self.acked_before(asked.call_ms);
                let is_stranger = |rights: &Rights| rights.says(asked.token, &[]) == Says::Stranger;
                let by_what_it_is = self.since(new_enough).any(is_stranger);
                let was_on = self.since(0).any(|rights| rights.on);
                let by_time = (asked.token.is_none() || may_be_over) && was_on;
                (!by_what_it_is && !by_time)
                    .then(|| "somebody who is known was taken for a stranger".to_owned())
            }
            reason::PERMISSION_DENIED => {
                let denies = |rights: &Rights| rights.says(asked.token, &asked.needs) == Says::No;
                let is_right = match (is_write, told.applied) {
                    (true, Some(applied)) => self.within(applied).any(denies),
                    _ => self.since(self.oldest(asked)).any(denies),
                };
                (!is_right).then(|| "it was denied, and the rights allow it".to_owned())
            }
            "" | reason::COUNTER_NOT_FOUND | reason::KEY_NOT_FOUND => {
                let applied = told.applied?;
                let says = |rights: &Rights| rights.says(asked.token, &asked.needs) == Says::Yes;
                if is_write {
                    // (A remembered answer is a fact; it takes no right but to be who it was.)
                    let needs: &[Need] = if told.replayed { &[] } else { &asked.needs };
                    let mut within = self.within(applied);
                    if !within.any(|rights| rights.says(asked.token, needs) == Says::Yes) {
                        return Some("it was done, and the rights do not allow it".to_owned());
                    }
                } else if !says(self.after(applied)) {
                    return Some("it was shown, and the rights do not allow it".to_owned());
                }
                let on = match is_write {
                    true => self.within(applied).all(|rights| rights.on),
                    false => self.after(applied).on,
                };
                if was_over && on {
                    return Some("what it showed was over".to_owned());
                }
                self.is_old(asked, told, applied).or_else(|| self.values(asked, told, applied))
            }
            _ => None,
        }
    }

    /// The oldest state that a read may be decided by.
    fn oldest(&self, asked: &Asked) -> u64 {
        match asked.level {
            Freshness::Linearizable => self.acked_before(asked.call_ms),
            Freshness::Bounded(ms) => self.acked_before(asked.call_ms.saturating_sub(ms)),
            Freshness::Any => 0,
        }
    }

    fn is_old(&self, asked: &Asked, told: &Told, applied: u64) -> Option<String> {
        let claimed = told.staleness_ms.filter(|_| asked.writes.is_none());
        let claimed = claimed.map_or(0, |ms| self.acked_before(asked.call_ms.saturating_sub(ms)));
        let oldest = self.oldest(asked).max(claimed);
        (asked.writes.is_none() && applied < oldest).then(|| {
            format!("it was decided by the rights of entry {applied}, and those of {oldest} are promised")
        })
    }

    fn values(&self, asked: &Asked, told: &Told, applied: u64) -> Option<String> {
        if let Some(foreign) = &told.foreign {
            return Some(format!("a list shows {foreign:?}"));
        }
        let writes = asked.writes.as_ref().filter(|_| told.reason.is_empty())?;
        // Of each item that is written to: may it be read?
        let reads = |rights: &Rights| {
            let each = writes.iter();
            each.map(|need| rights.says(asked.token, std::slice::from_ref(need)) == Says::Yes)
                .collect::<Vec<_>>()
        };
        let within: Vec<Vec<bool>> = self.within(applied).map(reads).collect();
        let all = within.iter().flatten().all(|may| *may);
        let none = !within.iter().flatten().any(|may| *may);
        if none && told.shows {
            return Some("a value was shown to who may not read it".to_owned());
        }
        if none && !told.hidden {
            return Some("what is not known was not called so".to_owned());
        }
        (all && told.hidden).then(|| "values were hidden from who may read them".to_owned())
    }
}
