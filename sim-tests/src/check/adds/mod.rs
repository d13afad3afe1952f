//! Histories of adds to counters and of linearizable reads of them: judged whole, in little memory.
//!
//! That is what `tally demo` and `tally bench add-hot` record, by the million. Such a history leaves next
//! to nothing to search for, so it needs no search, and an operation of it is a few numbers, so it need
//! not be held as text. What a message quotes is read again from where it came from.
//!
//! The verdict is that of the general checks, or there is none: what isn't such a history, or is one that
//! leaves a choice open, is judged by those (`tests/adds.rs` holds one against the other). The checks
//! are the same ones, in the same order:
//!
//! - *Revisions explain every answer* (`order.rs` here): each counter goes from answer to answer, and what
//!   nobody was told is made by writes of unknown outcome (`fill.rs`).
//! - *Real time* (`time.rs`'s argument): each operation against the highest revision that was reached
//!   before its call. Of linearizable reads that settles claims of staleness and falling revisions too,
//!   as both are about revisions that were reached before the call.
//! - *Each counter alone.* If both of these hold, the order of revisions is one order of all operations
//!   that explains every answer and agrees with real time. Restricted to one counter it still does, so
//!   each counter is linearizable, whether or not revisions were believed: they only proposed the order,
//!   and it was verified. If one of these does not hold, each counter is judged by `chain.rs`.
//! - *Sums* (`books.rs`'s argument).

mod fill;
mod order;
mod pack;
mod time;

pub(super) use self::pack::Pack;
use self::pack::{Deed, Op};
use super::{
    Assumptions, Rule, Verdict,
    chain::{self, Alone, Chain},
    logical,
};

/// A history of adds and reads.
pub(super) struct Adds<'q> {
    ops: Vec<Op>,
    names: Vec<String>,
    /// Of each counter the writes of unknown outcome, in the order of their calls.
    unknown: Vec<Vec<u32>>,
    /// The history begins after this revision.
    base: u64,
    assumptions: Assumptions,
    /// How a line is quoted.
    quote: &'q dyn Fn(u64) -> String,
}

/// The history leaves a choice open that is not made here.
struct LeftOpen;

impl Adds<'_> {
    /// The verdict; nothing if it is left to the general checks.
    pub(super) fn judge(&self, mut verdict: Verdict) -> Option<Verdict> {
        verdict.counts.names = self.names.len() as u64;
        let explained = self.explained(&mut verdict).ok()?;
        let in_time = self.in_time(&mut verdict);
        if !(explained && in_time) {
            self.alone(&mut verdict);
        }
        self.sums(&mut verdict);
        Some(verdict)
    }

    /// Operations with the lines that they are on, each line once.
    fn quoted(&self, operations: impl IntoIterator<Item = u32>) -> String {
        let mut lines: Vec<u64> =
            operations.into_iter().map(|index| self.ops[index as usize].line).collect();
        lines.dedup();
        lines.into_iter().map(|line| format!("\n  {}", (self.quote)(line))).collect()
    }

    fn name(&self, name: u32) -> String {
        logical::counter_named(&self.names[name as usize])
    }

    /// Each counter alone, whatever revisions say.
    fn alone(&self, verdict: &mut Verdict) {
        let unseen = self.base > 0;
        let empty = || Chain { unseen, ..Chain::default() };
        let mut chains: Vec<Chain> = self.names.iter().map(|_| empty()).collect();
        for (index, op) in self.ops.iter().enumerate() {
            let chain = &mut chains[op.name as usize];
            let deed = match op.deed {
                Deed::Unknown { delta } => {
                    chain.unknown.push((op.call, delta));
                    continue;
                }
                Deed::Add { delta, before, after, existed } => {
                    chain::Deed::Add { delta, before, after, existed }
                }
                Deed::Read { value, .. } => chain::Deed::Read(value),
            };
            chain.steps.push(chain::Step { call: op.call, ret: op.ret, deed, operation: index });
        }
        for (name, mut chain) in chains.into_iter().enumerate() {
            match chain.judge() {
                Alone::Linearizable => {}
                // Something else is wrong already, and this would take a search.
                Alone::NotOneWay => verdict.notes.push(format!(
                    "{} alone was not judged, as it rises and falls",
                    self.name(name as u32)
                )),
                Alone::Contradiction { message, operations } => {
                    let quoted = self.quoted(operations.iter().map(|index| *index as u32));
                    let name = self.name(name as u32);
                    verdict.violation(
                        Rule::NotLinearizable,
                        format!(
                            "{name} alone, whatever revisions say, has no order that explains its \
                             answers: {message}:{quoted}"
                        ),
                    );
                }
            }
        }
    }

    /// What a counter is in the end against the sum of what was acknowledged.
    fn sums(&self, verdict: &mut Verdict) {
        #[derive(Default, Clone)]
        struct Account {
            began_at_zero: bool,
            acknowledged: i128,
            answered: u64,
            last_answer: u64,
        }
        let mut accounts = vec![Account::default(); self.names.len()];
        for op in &self.ops {
            if let Deed::Add { delta, before, existed, .. } = op.deed {
                let account = &mut accounts[op.name as usize];
                account.began_at_zero |= existed == Some(false) && before == 0;
                account.acknowledged += i128::from(delta);
                account.answered += 1;
                account.last_answer = account.last_answer.max(op.ret);
            }
        }
        for op in &self.ops {
            let Deed::Read { value, .. } = op.deed else { continue };
            let account = &accounts[op.name as usize];
            let unknown = &self.unknown[op.name as usize];
            let knows_start = self.base == 0 || account.began_at_zero;
            let is_written = account.answered > 0 || !unknown.is_empty();
            if !is_written || !knows_start || op.call <= account.last_answer {
                continue;
            }
            verdict.counts.sums += 1;
            let deltas = unknown.iter().map(|index| match self.ops[*index as usize].deed {
                Deed::Unknown { delta } => i128::from(delta),
                _ => 0,
            });
            let down: i128 = deltas.clone().filter(|delta| *delta < 0).sum();
            let up: i128 = deltas.filter(|delta| *delta > 0).sum();
            let held = i128::from(value.unwrap_or(0));
            let (low, high) = (account.acknowledged + down, account.acknowledged + up);
            if !(low..=high).contains(&held) {
                let quoted = (self.quote)(op.line);
                verdict.violation(
                    Rule::WrongSum,
                    format!(
                        "{} is {held} in the end, but {} acknowledged adds make {}, and {} of \
                         unknown outcome between {down} and {up} more: {quoted}",
                        self.name(op.name),
                        account.answered,
                        account.acknowledged,
                        unknown.len(),
                    ),
                );
            }
        }
    }
}
