//! Nodes of two releases, and the end of an upgrade while things break.

use tally_node::machine::version::FormatVersion;

use turmoil::Sim;

use super::Injector;
use crate::{
    cluster::{Condition, host_of},
    trace_event,
};

impl Injector {
    /// Restarts whoever is still of the older release once that is over, one after the other, and counts what came of it.
    pub(super) fn follow_releases(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let Some(until_ms) = self.knobs.releases_mixed_until_ms else { return };
        for id in self.cluster.ids() {
            for _ in 0..self.cluster.machine(id).take_went_back() {
                self.happens("a node started with an older release than before");
            }
        }
        if now_ms < until_ms {
            return;
        }
        if !self.upgrades && self.rolling.is_empty() && !self.healed {
            self.upgrades = true;
            trace_event!("operator", "all are restarted with the newest release");
            let runs = |id: &u64| self.cluster.machine(*id).condition() == Condition::Running;
            self.rolling = self.members().into_iter().filter(runs).collect();
            self.rolls_hastily = false;
            if let Some(first) = self.rolling.last() {
                self.cluster.stop(*first);
            }
        }
        if self.upgrades && self.rolling.is_empty() {
            self.upgrade_those_left(sim);
        }
        let reached = |id: u64| {
            let consensus = self.cluster.consensus(id)?;
            (consensus.cluster_version() == FormatVersion::MAX).then_some(())
        };
        if !self.finalized && self.members().into_iter().find_map(reached).is_some() {
            self.finalized = true;
            self.happens("an upgrade finalized while things break");
        }
    }

    /// A machine that waited to be added had no node that could be stopped in its turn. Left as it was, it would be refused
    /// for ever by a cluster that has the new version, and whoever adds it would ask for ever (seed 18).
    fn upgrade_those_left(&self, sim: &mut Sim<'_>) {
        for id in self.members() {
            let machine = self.cluster.machine(id);
            let lives = matches!(machine.condition(), Condition::Running | Condition::Starting);
            if lives && machine.is_older() {
                trace_event!(
                    &host_of(id),
                    "is started with the newest release, as it was not with the others"
                );
                self.cluster.restart(sim, id);
            }
        }
    }
}
