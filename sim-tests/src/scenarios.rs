//! Named scenarios: a calm cluster of three or five, its users, and a few chosen faults. Some teach; others
//! pin the story of a bug that was found, or of one that the design must keep out.
//!
//! `tally-sim replay --scenario NAME --seed 1` prints what happens; the text of each scenario says
//! what to look at. The checks are those of every run. `tally-sim run --scenario all` runs them all.
//! A story holds whatever a seed draws, so a change of the workload does not lose it, as it would
//! lose the number of a seed.
//!
//! Here is what one is; the scenarios themselves are tables, of a cluster that stays as it is
//! (`scenarios/faults`, and `scenarios/pinned` for stories of bugs) and of members that come and go
//! (`scenarios/members`).

mod faults;
mod knobs;
mod members;
mod pinned;
mod plan_file;

pub use self::plan_file::of_plan;
use crate::{
    faults::plan::{Fault, Planned},
    knobs::Knobs,
};

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Where to look in its story.
    pub look_at: &'static str,
    /// The seed that shows it.
    pub seed: u64,
    /// What its story has at that seed, in this order, or it shows nothing: patterns as `story/lesson` says.
    pub lesson: &'static [&'static str],
    /// What is special about the cluster and its users.
    pub knobs: fn(&mut Knobs),
    /// Faults: at so many ms, for so many ms, what.
    pub faults: &'static [(u64, u64, Fault)],
}

impl Scenario {
    /// Its faults as a plan.
    pub fn plan(&self) -> Vec<Planned> {
        let planned = |(number, (at_ms, for_ms, fault)): (usize, &(u64, u64, Fault))| Planned {
            number,
            at_ms: *at_ms,
            for_ms: *for_ms,
            fault: fault.clone(),
        };
        self.faults.iter().enumerate().map(planned).collect()
    }
}

/// Situations that few seeds get into, and the scenario that must bring each about: it shows nothing
/// where it does not.
pub const BRINGS: &[(&str, &str)] = &[
    (
        "a-used-file-becomes-the-next-segment",
        "the power failed as a used file became the log's next segment",
    ),
    ("overruled-and-left-behind", "the power failed in an install over a log just cut back"),
];

/// All scenarios.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    faults::SCENARIOS.iter().chain(pinned::SCENARIOS).chain(members::SCENARIOS)
}

/// The scenario with this name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}
