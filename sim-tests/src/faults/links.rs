//! The state of each link, as the sum of all faults on it.
//!
//! Faults overlap, and turmoil's links remember only what was last asked of them. So the faults are
//! counted here for each direction, and turmoil is told what follows from the counts whenever they
//! change.

use std::collections::BTreeMap;

use tally_proto::seeded_bugs;
use turmoil::Sim;

use crate::env::Wires;

/// What a fault does to messages in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// They are lost.
    Cut,
    /// They wait until the trouble is over.
    Held,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    cut: u32,
    held: u32,
}

/// All links between hosts, by their names.
#[derive(Debug)]
pub struct Links {
    directions: BTreeMap<(String, String), Counts>,
    /// Told of every cut, to watch that it holds.
    wires: Wires,
    now_ms: u64,
}

/// Directions of links that one fault has taken.
pub type Taken = Vec<(String, String, Trouble)>;

impl Links {
    /// All whole.
    pub fn new(wires: Wires) -> Self {
        Links { directions: BTreeMap::new(), wires, now_ms: 0 }
    }

    /// Says what time it is.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Whether messages pass in both directions.
    pub fn is_whole(&self, a: &str, b: &str) -> bool {
        self.counts(a, b) == Counts::default() && self.counts(b, a) == Counts::default()
    }

    /// Brings trouble to some directions.
    pub fn take(&mut self, sim: &mut Sim<'_>, taken: &Taken) {
        self.change(sim, taken, |counts, trouble| match trouble {
            Trouble::Cut => counts.cut += 1,
            Trouble::Held => counts.held += 1,
        });
    }

    /// Takes it away again.
    pub fn give_back(&mut self, sim: &mut Sim<'_>, taken: &Taken) {
        self.change(sim, taken, |counts, trouble| match trouble {
            Trouble::Cut => counts.cut -= 1,
            Trouble::Held => counts.held -= 1,
        });
    }

    /// Whether some link is cut in one direction only.
    pub fn has_one_way(&self) -> bool {
        self.directions.keys().any(|(from, to)| self.is_cut(from, to) != self.is_cut(to, from))
    }

    /// Whether some link is cut.
    pub fn has_cut(&self) -> bool {
        self.directions.values().any(|counts| counts.cut > 0)
    }

    /// Whether messages from one host are lost on their way to another.
    pub fn is_cut(&self, from: &str, to: &str) -> bool {
        self.counts(from, to).cut > 0
    }

    fn counts(&self, from: &str, to: &str) -> Counts {
        self.directions.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
    }

    fn change(&mut self, sim: &mut Sim<'_>, taken: &Taken, change: impl Fn(&mut Counts, Trouble)) {
        for (from, to, trouble) in taken {
            let before = (self.state(from, to), self.state(to, from));
            let direction = (from.clone(), to.clone());
            change(self.directions.entry(direction).or_default(), *trouble);
            let cut = self.is_cut(from, to).then_some(self.now_ms);
            self.wires.set_cut(from, to, cut);
            let now = (self.state(from, to), self.state(to, from));
            if before != now {
                set(sim, from, to, now);
            }
        }
    }

    /// Cut wins over held, as turmoil can't do both on one link.
    fn state(&self, from: &str, to: &str) -> Option<Trouble> {
        let (there, back) = (self.counts(from, to), self.counts(to, from));
        match there {
            Counts { cut: 1.., .. } => Some(Trouble::Cut),
            _ if back.cut > 0 => None,
            // turmoil holds both directions or none.
            _ if there.held + back.held > 0 => Some(Trouble::Held),
            _ => None,
        }
    }
}

fn set(sim: &mut Sim<'_>, a: &str, b: &str, now: (Option<Trouble>, Option<Trouble>)) {
    if seeded_bugs::is_on("partition-does-nothing") {
        return;
    }
    match now {
        (Some(Trouble::Cut), Some(Trouble::Cut)) => sim.partition(a, b),
        (Some(Trouble::Cut), _) => {
            sim.repair(a, b);
            sim.partition_oneway(a, b);
        }
        (_, Some(Trouble::Cut)) => {
            sim.repair(a, b);
            sim.partition_oneway(b, a);
        }
        (Some(Trouble::Held), _) | (_, Some(Trouble::Held)) => sim.hold(a, b),
        (None, None) => {
            sim.repair(a, b);
            // What was held goes on its way.
            sim.release(a, b);
        }
    }
}
