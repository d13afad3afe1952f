//! Brings a plan about: who is struck is found out when a fault begins, and where faults overlap each link and each
//! process is what all of them together make of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::plan::{Fault, Source, Target};
use crate::{
    commands::leader,
    lab::Lab,
    links::{self, CLIENTS, lock},
    nodes::{Process, Wrong},
};

/// How often it is looked what is due.
const EVERY: Duration = Duration::from_millis(10);

/// What a fault does while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Link(u64, u64, links::Fault),
    Dead(u64),
    Paused(u64),
    FullDisk(u64),
    Clock(u64, i64),
}

/// A fault that lasts.
#[derive(Debug)]
struct Active {
    until: Instant,
    told: String,
    effects: Vec<Effect>,
}

/// Brings plans about.
pub(super) struct Faults {
    lab: Arc<Lab>,
    active: Mutex<Vec<Active>>,
    /// Nodes that are dead because a fault killed them.
    killed: Mutex<BTreeSet<u64>>,
    /// What nodes did that no fault did: each ended by itself.
    ended: Mutex<Vec<String>>,
}

impl Faults {
    pub(super) fn new(lab: Arc<Lab>) -> Faults {
        let (active, killed, ended) = Default::default();
        Faults { lab, active, killed, ended }
    }

    /// Plays a source of plans until told to stop; then everything is mended.
    pub(super) async fn play(&self, source: &Source, mut stop: watch::Receiver<bool>) {
        let mut turns = tokio::time::interval(EVERY);
        'rounds: for round in 0.. {
            let (plan, began) = (source.round(round), Instant::now());
            let mut left = plan.faults.iter().peekable();
            let ends = began + Duration::from_millis(plan.length_ms);
            while Instant::now() < ends {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => break 'rounds,
                    _ = turns.tick() => {}
                }
                let now = Instant::now();
                self.end_those_due(now);
                let is_due = |at_ms: u64| began + Duration::from_millis(at_ms) <= now;
                while let Some(planned) = left.next_if(|planned| is_due(planned.at_ms)) {
                    self.begin(planned.fault, now + Duration::from_millis(planned.for_ms));
                }
                self.bring_about();
            }
        }
        self.mend();
    }

    /// Ends all faults. Nodes start, links are clean.
    fn mend(&self) {
        lock(&self.active).clear();
        self.bring_about();
        self.lab.tell(0, "everything is mended");
    }

    /// What nodes did by themselves.
    pub(super) fn ended(&self) -> Vec<String> {
        lock(&self.ended).clone()
    }

    fn end_those_due(&self, now: Instant) {
        lock(&self.active).retain(|active| {
            let lasts = active.until > now;
            if !lasts {
                self.lab.tell(0, format!("over: {}", active.told));
            }
            lasts
        });
    }

    fn begin(&self, fault: Fault, until: Instant) {
        let effects = self.effects(fault);
        let mut nodes: Vec<u64> = effects.iter().map(Effect::node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let shown: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let told = match nodes.len() as u64 == self.lab.nodes.count() {
            true => fault.to_string(),
            false => format!("{fault} (node {})", shown.join(", ")),
        };
        self.lab.tell(0, told.clone());
        for effect in &effects {
            if let Effect::Dead(node) = effect {
                lock(&self.killed).insert(*node);
                self.lab.nodes.kill(*node);
            }
        }
        lock(&self.active).push(Active { until, told, effects });
    }

    /// Nobody is two at once: while nobody leads, the first node stands for the leader.
    fn node(&self, target: Target) -> u64 {
        let leader = leader(&self.lab).unwrap_or(1);
        let follower = |at: u64| {
            let mut others = self.lab.nodes.ids().filter(|id| *id != leader);
            others.nth(at as usize).expect("a plan names those that there are")
        };
        match target {
            Target::Node(id) => id,
            Target::Leader => leader,
            Target::Follower(at) => follower(at),
        }
    }

    fn effects(&self, fault: Fault) -> Vec<Effect> {
        let all = || self.lab.nodes.ids();
        let cut = links::Fault { cut: true, ..Default::default() };
        let both = |one: u64, other: u64, fault: links::Fault| {
            [Effect::Link(one, other, fault), Effect::Link(other, one, fault)]
        };
        let around = |at: u64, fault: links::Fault| {
            let others = all().filter(move |id| *id != at);
            others.flat_map(move |other| both(at, other, fault)).collect()
        };
        match fault {
            Fault::Kill(at) => vec![Effect::Dead(self.node(at))],
            Fault::KillAll => all().map(Effect::Dead).collect(),
            Fault::Pause(at) => vec![Effect::Paused(self.node(at))],
            Fault::Cut(at) => around(self.node(at), cut),
            Fault::CutAll => all().flat_map(|at| around(at, cut)).collect(),
            Fault::OneWay(from, to) => {
                let from = self.node(from);
                // Of two names that are the same node now, the second is another one.
                let to = match self.node(to) {
                    to if to == from => all().find(|id| *id != from).unwrap_or(to),
                    to => to,
                };
                vec![Effect::Link(from, to, cut)]
            }
            Fault::CutClients(at) => both(CLIENTS, self.node(at), cut).to_vec(),
            Fault::LoseAnswers(at) => {
                let breaks = links::Fault { breaks: true, ..Default::default() };
                vec![Effect::Link(self.node(at), CLIENTS, breaks)]
            }
            Fault::Slow(at, ms) => {
                around(self.node(at), links::Fault { delay_ms: ms, ..Default::default() })
            }
            Fault::SlowAnswers(at, ms) => {
                let slow = links::Fault { delay_ms: ms, ..Default::default() };
                vec![Effect::Link(self.node(at), CLIENTS, slow)]
            }
            Fault::Lossy(at, percent) => {
                around(self.node(at), links::Fault { loss_percent: percent, ..Default::default() })
            }
            Fault::FullDisk(at) => vec![Effect::FullDisk(self.node(at))],
            Fault::Clock(at, ms) => vec![Effect::Clock(self.node(at), ms)],
        }
    }

    /// Makes links and processes what all faults together ask for. A node that is dead and was not killed has ended
    /// by itself: that is told, and it is started again.
    fn bring_about(&self) {
        let effects: Vec<Effect> =
            lock(&self.active).iter().flat_map(|active| active.effects.clone()).collect();
        self.lab.links.set_all(|from, to| together(&effects, from, to));
        for node in self.lab.nodes.ids() {
            if let Err(error) = self.lab.nodes.set_wrong(node, wrong_with(&effects, node)) {
                self.lab.tell(0, format!("node {node}: {error}"));
            }
            let is_to_be_dead = effects.contains(&Effect::Dead(node));
            let is_to_pause = effects.contains(&Effect::Paused(node));
            let problem = match self.lab.nodes.process(node).1 {
                Process::Dead if is_to_be_dead => continue,
                Process::Dead => {
                    if !lock(&self.killed).remove(&node) {
                        let what = format!("node {node} ended by itself");
                        self.lab.tell(0, what.clone());
                        lock(&self.ended).push(what);
                    }
                    self.lab.nodes.start_one(node)
                }
                Process::Running if is_to_pause => self.lab.nodes.pause(node, true),
                Process::Paused if !is_to_pause => self.lab.nodes.pause(node, false),
                Process::Running | Process::Paused => continue,
            };
            if let Err(error) = problem {
                self.lab.tell(0, format!("node {node}: {error}"));
            }
        }
    }
}

impl Effect {
    fn node(&self) -> u64 {
        match self {
            Effect::Link(CLIENTS, node, _) | Effect::Link(node, ..) => *node,
            Effect::Dead(node) | Effect::Paused(node) => *node,
            Effect::FullDisk(node) | Effect::Clock(node, _) => *node,
        }
    }
}

/// What is wrong with a node's machine under several faults: steps of its clock add up.
fn wrong_with(effects: &[Effect], node: u64) -> Wrong {
    let steps = effects.iter().filter_map(|effect| match effect {
        Effect::Clock(at, ms) if *at == node => Some(*ms),
        _ => None,
    });
    Wrong { clock_offset_ms: steps.sum(), disk_full: effects.contains(&Effect::FullDisk(node)) }
}

/// What a direction does under several faults: the worst of each kind.
fn together(effects: &[Effect], from: u64, to: u64) -> links::Fault {
    let on_it = effects.iter().filter_map(|effect| match effect {
        Effect::Link(a, b, fault) if (*a, *b) == (from, to) => Some(*fault),
        _ => None,
    });
    on_it.fold(links::Fault::default(), |sum, fault| links::Fault {
        cut: sum.cut || fault.cut,
        delay_ms: sum.delay_ms.max(fault.delay_ms),
        loss_percent: sum.loss_percent.max(fault.loss_percent),
        breaks: sum.breaks || fault.breaks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_under_several_faults_is_as_bad_as_the_worst_of_each() {
        let slow = |ms| links::Fault { delay_ms: ms, ..Default::default() };
        let cut = links::Fault { cut: true, ..Default::default() };
        let effects =
            [Effect::Link(1, 2, slow(5)), Effect::Link(1, 2, slow(50)), Effect::Link(2, 1, cut)];
        assert_eq!(together(&effects, 1, 2), slow(50));
        assert_eq!(together(&effects, 2, 1), cut);
        assert_eq!(together(&effects, 1, 3), links::Fault::default());
        assert_eq!(together(&effects[..1], 1, 2), slow(5), "what is over is over");
    }

    #[test]
    fn steps_of_a_clock_add_up_and_are_of_one_node() {
        let effects = [Effect::Clock(1, 5_000), Effect::Clock(1, -2_000), Effect::FullDisk(2)];
        assert_eq!(wrong_with(&effects, 1), Wrong { clock_offset_ms: 3_000, disk_full: false });
        assert_eq!(wrong_with(&effects, 2), Wrong { clock_offset_ms: 0, disk_full: true });
        assert_eq!(wrong_with(&effects, 3), Wrong::default());
    }
}
