//! The order that revisions give: does it explain every answer?
//!
//! **Argument.** As for the general check (`check/order.rs`): each add has the revision that it made,
//! each read the one whose state it saw, so all that was answered has its place. Counters touch each other
//! only by sharing revisions. So each counter is walked along by itself, from one look at it to the next;
//! where two looks differ by more than the second did itself, unknown adds must have happened between the
//! two, and how many is known as all those to one counter ask for the same. Which of them made which
//! revision without a writer, for all counters together, is `fill.rs`'s. The revisions that a read tells
//! (the one that last changed the counter, the one that created it) pin the last and the first of them.

use super::{
    Adds, Deed, LeftOpen, Op,
    fill::{Fill, Job, fill},
    pack::NOT_TOLD,
    time::Reached,
};
use crate::check::{Rule, Verdict};

/// More wrong answers than this are consequences of the first ones.
const MISMATCHES_MAX: usize = 10;

/// What a counter is after the last look at it.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Nothing was known before the first look.
    seen: bool,
    value: i64,
    exists: bool,
    version: u64,
    /// The revision that created it, as far as that is known.
    created: u64,
    /// The first of the jobs that created it, if they did.
    created_by: Option<usize>,
    /// The revision that was looked at last, and by whom.
    place: u64,
    by: Option<u32>,
    /// What the last answer says that it is, if that is something else.
    otherwise: Option<i64>,
    /// Unknown adds that have happened.
    used: usize,
}

/// What the unknown adds to a counter ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    None,
    Each(i64),
    Several,
}

struct Walk<'a, 'q> {
    adds: &'a Adds<'q>,
    states: Vec<State>,
    unknown: Vec<Unknown>,
    jobs: Vec<Job>,
    /// Revisions without a writer.
    gaps: Vec<(u64, u64)>,
    /// All revisions up to this one are in `gaps` or have a writer.
    revision: u64,
    wrong: Vec<String>,
}

/// Jobs, and the revisions without a writer.
type Jobs = (Vec<Job>, Vec<(u64, u64)>);

/// Why an answer is wrong.
type Mismatch = Result<(), String>;

impl Adds<'_> {
    /// Whether an order explains all answers.
    pub(super) fn explained(&self, verdict: &mut Verdict) -> Result<bool, LeftOpen> {
        let is_answered =
            |index: &u32| !matches!(self.ops[*index as usize].deed, Deed::Unknown { .. });
        let mut placed: Vec<u32> = (0..self.ops.len() as u32).filter(is_answered).collect();
        placed.sort_by_key(|index| {
            let op = &self.ops[*index as usize];
            (op.revision, u8::from(matches!(op.deed, Deed::Read { .. })))
        });
        let last = placed.last().map_or(self.base, |index| self.ops[*index as usize].revision);
        verdict.counts.revisions = last.saturating_sub(self.base);
        let is_unique = self.unique(&mut placed, verdict);
        if !is_unique {
            // As in the general check: the order is none, and all else is judged without it.
            return Ok(false);
        }
        let mut walk = Walk::new(self);
        for index in &placed {
            walk.look(*index)?;
            if walk.wrong.len() >= MISMATCHES_MAX {
                break;
            }
        }
        let unanswered: usize = self.unknown.iter().map(Vec::len).sum();
        let gaps: u64 = walk.gaps.iter().map(|(first, last)| last - first + 1).sum();
        let must_fill = !self.assumptions.others_write;
        if must_fill && gaps > unanswered as u64 && walk.wrong.is_empty() {
            let (first, _) = walk.gaps[0];
            let message = format!(
                "{gaps} revisions have no writer, and the {unanswered} writes of unknown outcome can \
                 have made only as many as they are; the first is {first}, {} (if others wrote to the \
                 store at that time, say so)",
                self.around(&placed, first)
            );
            verdict.violation(Rule::UnexplainedRevision, message);
            return Ok(false);
        }
        if !walk.wrong.is_empty() {
            for message in walk.wrong {
                verdict.violation(Rule::WrongAnswer, message);
            }
            return Ok(false);
        }
        let (jobs, gaps) = walk.into_jobs()?;
        match fill(jobs, &gaps, must_fill) {
            Fill::Filled(count) => {
                verdict.counts.unknown_applied = count;
                Ok(true)
            }
            Fill::NoWriter(revision) => {
                let message = format!(
                    "revision {revision} has no writer, and no write of unknown outcome can have made \
                     it, {}",
                    self.around(&placed, revision)
                );
                verdict.violation(Rule::UnexplainedRevision, message);
                Ok(false)
            }
            Fill::TooLate(job) => {
                let (before, after) = job.looks;
                let name = self.name(job.name);
                let unknown = self.unknown[job.name as usize].iter().take(3).copied();
                let message = format!(
                    "{name}: no choice among its {} writes of unknown outcome explains what became of \
                     it between these two:{}\nwrites of unknown outcome on it:{}",
                    self.unknown[job.name as usize].len(),
                    self.quoted(before.into_iter().chain(after)),
                    self.quoted(unknown)
                );
                verdict.violation(Rule::WrongAnswer, message);
                Ok(false)
            }
        }
    }

    /// Two adds can't have made one revision: takes the second ones out.
    fn unique(&self, placed: &mut Vec<u32>, verdict: &mut Verdict) -> bool {
        let mut made: Option<(u64, u32)> = None;
        let mut are_unique = true;
        placed.retain(|index| {
            let op = &self.ops[*index as usize];
            let Deed::Add { .. } = op.deed else { return true };
            if let Some((_, other)) = made.filter(|(revision, _)| *revision == op.revision) {
                are_unique = false;
                let both = self.quoted([other, *index]);
                let message = format!("two changes made revision {}:{both}", op.revision);
                verdict.violation(Rule::DuplicateRevision, message);
                return false;
            }
            made = Some((op.revision, *index));
            true
        });
        are_unique
    }

    /// Between which answers a revision is.
    fn around(&self, placed: &[u32], revision: u64) -> String {
        let after = placed.partition_point(|index| self.ops[*index as usize].revision < revision);
        let before = after.checked_sub(1).map(|at| placed[at]);
        let both = self.quoted(before.into_iter().chain(placed.get(after).copied()));
        if before.is_some() {
            format!("between these two:{both}")
        } else {
            format!("before:{both}")
        }
    }
}

impl<'a, 'q> Walk<'a, 'q> {
    fn new(adds: &'a Adds<'q>) -> Self {
        let deltas = |unknown: &Vec<u32>| {
            let mut deltas = unknown.iter().map(|index| match adds.ops[*index as usize].deed {
                Deed::Unknown { delta } => delta,
                _ => 0,
            });
            match deltas.next() {
                None => Unknown::None,
                Some(first) if deltas.all(|delta| delta == first) => Unknown::Each(first),
                Some(_) => Unknown::Several,
            }
        };
        let initial =
            State { seen: adds.base == 0, created: NOT_TOLD, place: adds.base, ..State::default() };
        Self {
            adds,
            states: vec![initial; adds.names.len()],
            unknown: adds.unknown.iter().map(deltas).collect(),
            jobs: Vec::new(),
            gaps: Vec::new(),
            revision: adds.base,
            wrong: Vec::new(),
        }
    }

    fn gap_before(&mut self, next: u64) {
        if next > self.revision + 1 {
            self.gaps.push((self.revision + 1, next - 1));
        }
        self.revision = self.revision.max(next.saturating_sub(1));
    }

    fn look(&mut self, index: u32) -> Result<(), LeftOpen> {
        let op = self.adds.ops[index as usize];
        let (until, after) = match op.deed {
            Deed::Add { .. } => (op.revision - 1, op.revision),
            _ => (op.revision, op.revision),
        };
        self.gap_before(until + 1);
        self.revision = self.revision.max(after);
        let name = op.name as usize;
        if !self.states[name].seen {
            // What unknown adds did before anybody looked can't be counted.
            if !self.gaps.is_empty() && self.unknown[name] != Unknown::None {
                return Err(LeftOpen);
            }
            self.states[name] = learned(&op, index);
            return Ok(());
        }
        if !self.gaps.is_empty() && self.unknown[name] == Unknown::Several {
            return Err(LeftOpen);
        }
        let seen = match op.deed {
            Deed::Add { delta, before, after, existed } => {
                self.add(index, &op, [delta, before, after], existed)?
            }
            Deed::Read { value, version, created } => {
                self.read(index, &op, value, version, created)?
            }
            Deed::Unknown { .. } => Ok(()),
        };
        if let Err(why) = seen {
            let before = self.states[name].by;
            let both = self.adds.quoted(before.into_iter().chain([index]));
            self.wrong.push(format!("{}: {why}:{both}", self.adds.name(op.name)));
        }
        let state = &mut self.states[name];
        (state.place, state.by) = (after, Some(index));
        if let Deed::Add { delta, before, after, .. } = op.deed {
            // Where an answer is wrong, the order knows better; but perhaps all others agree with it.
            let expected = state.value.wrapping_add(delta);
            state.otherwise = (after != expected || before != state.value).then_some(after);
            (state.value, state.exists, state.version) = (expected, true, op.revision);
        }
        Ok(())
    }

    fn add(
        &mut self,
        index: u32,
        op: &Op,
        [delta, before, after]: [i64; 3],
        existed: Option<bool>,
    ) -> Result<Mismatch, LeftOpen> {
        if i128::from(before) + i128::from(delta) != i128::from(after) {
            return Ok(Err(format!(
                "the answer of an add of {delta} contradicts itself: {before} before, and {after} after"
            )));
        }
        let did_exist = self.states[op.name as usize].exists;
        let moved = match self.moved(op.name, before, index, op.revision - 1, NOT_TOLD)? {
            Ok(moved) => moved,
            Err(why) => return Ok(Err(why)),
        };
        let state = &mut self.states[op.name as usize];
        let exists = did_exist || moved;
        if !exists {
            state.created = op.revision;
        }
        if existed.is_some_and(|told| told != exists) {
            let is = if exists { "it was there" } else { "it was not there" };
            return Ok(Err(format!("{is} when the second came, which was told otherwise")));
        }
        Ok(Ok(()))
    }

    fn read(
        &mut self,
        index: u32,
        op: &Op,
        value: Option<i64>,
        version: u64,
        created: u64,
    ) -> Result<Mismatch, LeftOpen> {
        let told = if value.is_some() { version } else { NOT_TOLD };
        let moved = match self.moved(op.name, value.unwrap_or(0), index, op.revision, told)? {
            Ok(moved) => moved,
            Err(why) => return Ok(Err(why)),
        };
        let state = &mut self.states[op.name as usize];
        state.exists |= moved;
        let exists = state.exists;
        if exists != value.is_some() {
            let is = if exists { "it was there" } else { "it was not there" };
            return Ok(Err(format!(
                "{is} in the state that was read, and the read says otherwise"
            )));
        }
        if !exists {
            let is_right = version == NOT_TOLD || version == 0;
            return Ok(if is_right {
                Ok(())
            } else {
                Err("what is absent has no revision".into())
            });
        }
        if moved {
            state.version = version;
        } else if version != NOT_TOLD && state.version == NOT_TOLD {
            // An unknown add was the last to change it, and only now it is told which revision that was.
            return Err(LeftOpen);
        } else if version != NOT_TOLD && state.version != version {
            let is = state.version;
            return Ok(Err(format!(
                "revision {is} was the last to change it, and the read says {version}"
            )));
        }
        if created == NOT_TOLD {
            return Ok(Ok(()));
        }
        Ok(match (state.created, state.created_by) {
            (NOT_TOLD, Some(first)) => {
                state.created = created;
                self.pin_first(first, created)
            }
            (NOT_TOLD, None) => Ok(()),
            (is, _) if is == created => Ok(()),
            (is, _) => Err(format!("revision {is} created it, and the read says {created}")),
        })
    }

    /// Brings a counter to the value that the next look met, by unknown adds; whether it took any.
    fn moved(
        &mut self,
        name: u32,
        met: i64,
        index: u32,
        until: u64,
        version: u64,
    ) -> Result<Result<bool, String>, LeftOpen> {
        let state = &mut self.states[name as usize];
        let otherwise = state.otherwise.take();
        if otherwise == Some(met) && state.value != met {
            // An answer that was called wrong, and the next one that agrees with it.
            state.value = met;
            return Ok(Ok(false));
        }
        if met == state.value {
            return Ok(Ok(false));
        }
        let is = state.value;
        let nobody = || {
            format!(
                "it was {is} after the first of these, and {met} when the second came; nobody moved it"
            )
        };
        let gap = i128::from(met) - i128::from(is);
        let delta = match self.unknown[name as usize] {
            Unknown::None => return Ok(Err(nobody())),
            _ if self.gaps.is_empty() => return Ok(Err(nobody())),
            Unknown::Several => return Err(LeftOpen),
            Unknown::Each(delta) => i128::from(delta),
        };
        let left = self.adds.unknown[name as usize].len() - state.used;
        let wanted = usize::try_from(gap / delta).unwrap_or(usize::MAX);
        if gap % delta != 0 || gap / delta < 0 || wanted > left {
            return Ok(Err(format!(
                "it was {is} after the first of these, and {met} when the second came; {left} adds of \
                 {delta}, of unknown outcome, are left that may have moved it"
            )));
        }
        if !state.exists {
            state.created_by = Some(self.jobs.len());
        }
        let looks = (state.by, Some(index));
        let window = Job { name, from: state.place + 1, to: Some(until), looks };
        self.jobs.extend(std::iter::repeat_n(window, wanted));
        state.used += wanted;
        state.value = met;
        if version != NOT_TOLD
            && let Some((last, others)) = self.jobs.split_last_mut()
        {
            if !(last.from..=until).contains(&version) {
                return Ok(Err(format!(
                    "the read says that revision {version} was the last to change it, and it was \
                     changed after revision {}",
                    last.from - 1
                )));
            }
            (last.from, last.to) = (version, Some(version));
            let same = others.len() - (wanted - 1);
            for other in &mut others[same..] {
                other.to = Some(version - 1);
            }
        }
        Ok(Ok(true))
    }

    /// The first of the unknown adds that created a counter made this revision.
    fn pin_first(&mut self, first: usize, revision: u64) -> Mismatch {
        let window = self.jobs[first];
        if revision < window.from || window.to.is_some_and(|to| to < revision) {
            return Err(format!("a read says that revision {revision} created it, which can't be"));
        }
        for job in &mut self.jobs[first + 1..] {
            if job.name == window.name && job.looks == window.looks {
                job.from = job.from.max(revision + 1);
            }
        }
        (self.jobs[first].from, self.jobs[first].to) = (revision, Some(revision));
        Ok(())
    }

    /// The jobs with what the calls of their adds allow, those that may be left among them.
    fn into_jobs(mut self) -> Result<Jobs, LeftOpen> {
        if self.gaps.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        if self.unknown.contains(&Unknown::Several) {
            return Err(LeftOpen);
        }
        for (name, state) in self.states.iter().enumerate() {
            let left = self.adds.unknown[name].len() - state.used;
            if left > 0 && !state.seen {
                return Err(LeftOpen);
            }
            let from = state.place + 1;
            let job = Job { name: name as u32, from, to: None, looks: (state.by, None) };
            self.jobs.extend(std::iter::repeat_n(job, left));
        }
        let reached = Reached::new(self.adds);
        let mut taken = vec![0; self.states.len()];
        for job in &mut self.jobs {
            let name = job.name as usize;
            let add = self.adds.unknown[name][taken[name]];
            taken[name] += 1;
            let call = self.adds.ops[add as usize].call;
            let release = reached.before(call).map_or(0, |(highest, _)| highest + 1);
            job.from = job.from.max(release);
        }
        Ok((self.jobs, self.gaps))
    }
}

/// What the first look at a counter tells of it.
fn learned(op: &Op, index: u32) -> State {
    let state = State {
        seen: true,
        created: NOT_TOLD,
        place: op.revision,
        by: Some(index),
        exists: true,
        ..State::default()
    };
    match op.deed {
        Deed::Add { after, .. } => State { value: after, version: op.revision, ..state },
        Deed::Read { value: Some(value), version, created } => {
            let version = if version == NOT_TOLD { op.revision } else { version };
            State { value, version, created, ..state }
        }
        Deed::Read { value: None, .. } | Deed::Unknown { .. } => State { exists: false, ..state },
    }
}
