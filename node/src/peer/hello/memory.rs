//! What nodes remember of each other: what this one says it has promised, what it learns of others, and
//! how it compares what others remember of it with what it is.
//!
//! It promises that a node which comes back with less than a peer remembers is told from one which did
//! not. Leaves out: who is asked, when, and who is believed; that is `hello`.

use tally_proto::{peer::v1 as wire, seeded_bugs};

use super::{Greeter, LOGS, NotWelcome, lock};
use crate::env::identity::Start;

impl Greeter {
    /// What this node has promised, from what is durable.
    pub(super) async fn promised(&self) -> wire::Promised {
        let Start { number, nonce } = self.identity.start().await;
        let committed = self.log.committed().map_or(0, |committed| committed.index);
        let held_index = committed.min(self.log.synced_index().unwrap_or(0));
        let vote_term = self.log.saved_term();
        wire::Promised { start: number, start_nonce: nonce, vote_term, held_index }
    }

    pub(super) async fn known(&self) -> Vec<wire::KnownNode> {
        let incarnations = self.identity.known().await;
        let starts = self.identity.peer_starts().await;
        let told = lock(&self.told).clone();
        let own = wire::KnownNode {
            node_id: self.identity.node_id(),
            incarnation: self.identity.incarnation().to_owned(),
            promised: Some(self.promised().await),
        };
        let others = incarnations.into_iter().map(|(node_id, incarnation)| {
            let start = starts.get(&node_id).cloned().unwrap_or_default();
            let (vote_term, held_index) = told.get(&node_id).copied().unwrap_or_default();
            let acknowledged = self.roster.get().map_or(0, |roster| roster.acknowledged(node_id));
            let promised = wire::Promised {
                start: start.number,
                start_nonce: start.nonce,
                vote_term,
                held_index: held_index.max(acknowledged),
            };
            wire::KnownNode { node_id, incarnation, promised: Some(promised) }
        });
        others.chain([own]).collect()
    }

    /// Whether somebody is who this node takes it for: not met before and without a record, or with this directory.
    pub(super) async fn is_known(&self, node_id: u64, incarnation: &str) -> bool {
        let known = self.identity.known().await.remove(&node_id);
        let known = known.or_else(|| self.peers.incarnation_of(node_id));
        known.is_none_or(|known| known == incarnation)
    }

    /// Whether something may be remembered of a node: it belongs to the cluster, as far as this node
    /// knows. One that waits to be added knows of nobody yet.
    pub(super) fn belongs(&self, node_id: u64) -> bool {
        let members = self.members();
        members.is_empty() || members.contains_key(&node_id)
    }

    /// Looks for this node in what a node that it knows remembers, and learns the rest.
    pub(super) async fn learn(
        &self,
        peer: u64,
        known: &[wire::KnownNode],
    ) -> Result<(), NotWelcome> {
        for node in known {
            if node.node_id == self.identity.node_id() {
                self.compare(peer, node).await?;
            } else if self.belongs(node.node_id) {
                self.remember(node).await;
            }
        }
        Ok(())
    }

    /// Remembers what is said of a node, unless it is of another directory than the one known.
    pub(super) async fn remember(&self, node: &wire::KnownNode) {
        let id = node.node_id;
        if self.peers.incarnation_of(id).is_some_and(|known| known != node.incarnation) {
            return;
        }
        match self.identity.meet(id, &node.incarnation).await {
            Ok(known) if known == node.incarnation => self.peers.set_incarnation(id, &known),
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(target: LOGS, %error, "a peer's incarnation could not be stored");
                return;
            }
        }
        let Some(promised) = &node.promised else { return };
        if promised.start > 0 {
            let start = Start { number: promised.start, nonce: promised.start_nonce.clone() };
            if let Err(error) = self.identity.saw_start(id, start).await {
                tracing::warn!(target: LOGS, %error, "a peer's start could not be stored");
            }
        }
        let mut told = lock(&self.told);
        let (vote_term, held_index) = told.entry(id).or_default();
        *vote_term = promised.vote_term.max(*vote_term);
        *held_index = promised.held_index.max(*held_index);
    }

    /// Compares what a peer remembers of this node with what it is.
    async fn compare(&self, peer: u64, node: &wire::KnownNode) -> Result<(), NotWelcome> {
        let (node_id, own) = (self.identity.node_id(), self.identity.incarnation());
        if node.incarnation != own {
            if seeded_bugs::is_on("wiped-disk-votes") {
                return Ok(());
            }
            let known = node.incarnation.clone();
            return Err(NotWelcome::AnotherIncarnation { node_id, known, own: own.to_owned() });
        }
        let Some(remembered) = &node.promised else { return Ok(()) };
        if seeded_bugs::is_on("older-copy-votes") || seeded_bugs::is_on("lost-log-accepted") {
            return Ok(());
        }
        let older = |remembered: String, now: String| {
            Err(NotWelcome::OlderCopy { node_id, peer, remembered, now })
        };
        let start = self.identity.start().await;
        if remembered.start > start.number
            || remembered.start == start.number && remembered.start_nonce != start.nonce
        {
            return older(
                format!("started for the {}th time", remembered.start),
                format!("this is, by its own count, another {}th start", start.number),
            );
        }
        // What was told in this run holds now; so does what an earlier run told, or it is lost.
        let term = self.log.saved_term();
        if remembered.vote_term > term {
            return older(
                format!("voted in term {}", remembered.vote_term),
                format!("its log knows of no vote after term {term}"),
            );
        }
        let last = self.log.last().map_or(0, |last| last.index);
        if remembered.held_index > last {
            return older(
                format!("held the log up to committed entry {}", remembered.held_index),
                format!("its log ends at {last}"),
            );
        }
        Ok(())
    }
}
