//! What of the log this node reads: entries are looked at before they are applied, and the cluster's version is written
//! down before anything of it is.

use std::{io, sync::Arc};

use openraft::EntryPayload as Payload;

use crate::{
    consensus::types::Entry,
    env::identity::Identity,
    machine::{
        codec,
        command::{Action, Batch, Command},
        gate,
        version::{self, FormatRange, FormatVersion},
    },
};

/// Which versions of the formats the node reads, and where the cluster's is written down.
#[derive(Clone)]
pub struct Versions {
    /// Those that it reads.
    pub formats: FormatRange,
    /// Where that of the cluster is written down.
    pub identity: Arc<Identity>,
}

impl std::fmt::Debug for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Versions").field("formats", &self.formats).finish_non_exhaustive()
    }
}

/// An entry that is applied next.
pub(super) struct Ready {
    pub(super) entry: Entry,
    /// What is in it, if it is one of ours.
    pub(super) batch: Option<Batch>,
}

impl Ready {
    pub(super) fn of(entry: Entry) -> io::Result<Ready> {
        let batch = match &entry.payload {
            Payload::Normal(payload) => {
                let batch = codec::decode_batch(&payload.batch);
                Some(batch.map_err(|error| {
                    io::Error::other(format!(
                        "log entry {}: {error}. A newer release may have written it: start that again",
                        entry.log_id
                    ))
                })?)
            }
            Payload::Blank | Payload::Membership(_) => None,
        };
        Ok(Ready { entry, batch })
    }

    fn commands(&self) -> &[Command] {
        self.batch.as_ref().map_or(&[], |batch| &batch.commands)
    }

    /// The version of the formats that the cluster has from this entry on, if it says one.
    pub(super) fn raises(&self) -> Option<FormatVersion> {
        self.commands().iter().find_map(|command| gate::raises(&command.action))
    }
}

impl Versions {
    /// Refuses an entry that needs more than this node reads, and writes a new version down, durably, before anything of
    /// it is: a node that an older release starts on this directory from here on refuses by the file `IDENTITY`, before
    /// it has changed anything. (A cluster that begins with a version has nothing to go back to, so that is written down
    /// behind its first entry: [`Self::has_become`].)
    pub(super) async fn look_at(&self, ready: &Ready) -> io::Result<()> {
        let Versions { formats, identity } = self;
        let (raises, max) = (ready.raises(), formats.max);
        let unread = |version: FormatVersion| {
            let (index, why) = (ready.entry.log_id.index, version::unreadable(version, *formats));
            io::Error::other(format!("log entry {index} can't be applied: {why}"))
        };
        if let Some(to) = raises.filter(|to| !formats.has(*to)) {
            return Err(unread(to));
        }
        if max < FormatVersion::MAX {
            let needed = ready.commands().iter().map(|command| gate::needed(&command.action)).max();
            if let Some(needed) = needed.filter(|needed| *needed > max) {
                return Err(unread(needed));
            }
        }
        let raise = |command: &Command| matches!(command.action, Action::RaiseVersion { .. });
        match raises.filter(|_| ready.commands().iter().any(raise)) {
            Some(to) => identity.raise_version(to).await,
            None => Ok(()),
        }
    }

    /// The state has a version now: from entries that were applied before this process, from a snapshot, or from the
    /// cluster's first entry.
    pub(super) async fn has_become(&self, cluster: FormatVersion) -> io::Result<()> {
        self.identity.raise_version(cluster).await?;
        // A snapshot of a later version reaches only a node whose peers could not tell it before: here it ends, and by
        // its directory it does not start again.
        match self.formats.has(cluster) {
            true => Ok(()),
            false => Err(io::Error::other(version::unreadable(cluster, self.formats))),
        }
    }
}
