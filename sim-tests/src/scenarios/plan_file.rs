//! A plan of `tallyd chaos`, or one that the lab wrote down, as a scenario: the same faults, on a calm cluster and its
//! users, the same way each time for a seed.

use tally_lab::chaos::plan::{self, Plan};

use super::{Scenario, knobs::as_it_is};
use crate::faults::plan::{Fault, Target};

/// So long until the cluster has a leader and its users are at work.
const BEGINS_AT_MS: u64 = 5_000;

/// Reads a plan, for three nodes, or for five if it names one more than these have.
pub fn of_plan(text: &str) -> Result<Scenario, String> {
    let (plan, nodes) = match Plan::parse(text, 3) {
        Ok(plan) => (plan, 3),
        Err(problem) => (Plan::parse(text, 5).map_err(|_| problem)?, 5),
    };
    // Whoever struck first strikes at once.
    let first_ms = plan.faults.iter().map(|planned| planned.at_ms).min().unwrap_or(0);
    let mut faults = Vec::new();
    for planned in &plan.faults {
        let at_ms = planned.at_ms - first_ms + BEGINS_AT_MS;
        let all = faults_of(planned.fault, nodes)?;
        faults.extend(all.into_iter().map(|fault| (at_ms, planned.for_ms, fault)));
    }
    Ok(Scenario {
        name: "plan",
        shows: "Faults of a plan.",
        look_at: "what clients are told while each lasts, and what is kept in the end",
        seed: 1,
        lesson: &[],
        knobs: if nodes == 3 { as_it_is } else { |knobs| knobs.nodes = 5 },
        faults: faults.leak(),
    })
}

fn target(target: plan::Target) -> Target {
    match target {
        plan::Target::Leader => Target::Leader,
        plan::Target::Follower(at) => Target::Follower(at),
        plan::Target::Node(id) => Target::Any(id - 1),
    }
}

/// What a fault between real processes is between simulated ones.
fn faults_of(fault: plan::Fault, nodes: u64) -> Result<Vec<Fault>, String> {
    let all = || (0..nodes).map(Target::Any);
    let none = |why: &str| Err(format!("`{fault}` has no like in the simulator: {why}"));
    Ok(match fault {
        plan::Fault::Kill(at) => vec![Fault::Kill(target(at))],
        plan::Fault::KillAll => all().map(Fault::Kill).collect(),
        plan::Fault::Pause(at) => vec![Fault::Pause(target(at))],
        plan::Fault::Cut(at) => vec![Fault::Isolate(target(at))],
        plan::Fault::CutAll => {
            let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
            pairs.map(|(a, b)| Fault::CutLink(Target::Any(a), Target::Any(b))).collect()
        }
        plan::Fault::OneWay(from, to) => vec![Fault::OneWay(target(from), target(to))],
        plan::Fault::CutClients(at) => vec![Fault::CutClients(target(at))],
        // turmoil makes all messages slow, or loses any: not those of one link.
        plan::Fault::Slow(_, ms) | plan::Fault::SlowAnswers(_, ms) => vec![Fault::Slow(ms)],
        // Never all of them: that would be a cut.
        plan::Fault::Lossy(_, percent) => vec![Fault::Lose((100 / u64::from(percent)).max(2))],
        plan::Fault::FullDisk(at) => vec![Fault::FullDisk(target(at))],
        plan::Fault::Clock(at, ms) => vec![Fault::WrongClock(target(at), ms)],
        plan::Fault::LoseAnswers(_) => return none("cut-clients loses them, and requests too"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_begins_when_the_cluster_is_at_work() {
        let scenario = of_plan("at 2s for 1s cut leader\nat 4s for 500ms kill node 3\n").unwrap();
        let expected = [
            (5_000, 1_000, Fault::Isolate(Target::Leader)),
            (7_000, 500, Fault::Kill(Target::Any(2))),
        ];
        assert_eq!(scenario.faults, expected);
        assert_eq!(of_plan("at 1s for 1s cut all").unwrap().faults.len(), 3);
    }

    /// One line of each kind that the lab's *Copy what was done* makes.
    #[test]
    fn what_the_lab_writes_down_is_done() {
        let lines = [
            "one-way leader to follower 2",
            "cut-clients leader",
            "slow leader 100ms",
            "slow-answers follower 2 50ms",
            "lossy follower 1 10%",
            "lossy leader 70%",
            "kill follower 1",
            "pause leader",
            "full-disk follower 2",
            "clock leader +3600000ms",
        ];
        for line in lines {
            let scenario = of_plan(&format!("at 1s for 1s {line}   # in the lab something else"));
            assert_eq!(scenario.unwrap_or_else(|why| panic!("{line}: {why}")).faults.len(), 1);
        }
        assert_eq!(of_plan("at 1s for 1s lossy leader 70%").unwrap().faults[0].2, Fault::Lose(2));
    }

    #[test]
    fn what_the_simulator_does_not_have_is_said() {
        let problem = of_plan("at 1s for 1s lose-answers leader").unwrap_err();
        assert!(problem.contains("no like in the simulator"), "{problem}");
        assert!(of_plan("at 1s for 1s explode leader").unwrap_err().contains("line 1"));
        assert!(of_plan("at 1s for 1s kill node 5").is_ok());
        let two = of_plan("at 1s for 1s one-way leader to follower 4").unwrap();
        assert_eq!(two.faults[0].2, Fault::OneWay(Target::Leader, Target::Follower(3)));
        assert!(of_plan("at 1s for 1s kill node 6").is_err());
    }
}
