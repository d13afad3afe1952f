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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        consensus::types::{EntryPayload, log_id},
        env::identity::IdentityError,
        machine::command::Fingerprint,
        storage::simulated_disk::SimulatedDisk,
    };

    const OLD: FormatRange = FormatRange::UNSAID;
    const TWO: FormatVersion = FormatVersion(2);

    fn entry(action: Action) -> Entry {
        let command = Command {
            session: None,
            idempotency: None,
            fingerprint: Fingerprint::default(),
            action,
            caller: None,
        };
        let batch = Batch { log_time_ms: 1, wall_time_ms: 0, commands: vec![command] };
        let payload = EntryPayload { batch: codec::encode_batch(&batch), traced: None };
        Entry { log_id: log_id(1, 5), payload: Payload::Normal(payload) }
    }

    async fn on(disk: &SimulatedDisk, formats: FormatRange) -> Versions {
        let identity = Identity::open(Arc::new(disk.mount()), 7, 1).await.expect("it opens");
        Versions { formats, identity: Arc::new(identity) }
    }

    /// What a start on this directory with a release comes to.
    async fn starts(disk: &SimulatedDisk, formats: FormatRange) -> Result<(), IdentityError> {
        on(disk, formats).await.identity.check_version(formats).await
    }

    /// The end of an upgrade is in the log of a node that went back to the older release meanwhile: it ends before that
    /// entry, and the newer release goes on from there.
    #[tokio::test]
    async fn an_older_node_ends_before_the_entry_and_the_newer_goes_on() {
        let disk = SimulatedDisk::new(1);
        let ready = Ready::of(entry(Action::RaiseVersion { to: TWO })).expect("it is read");
        let error = on(&disk, OLD).await.look_at(&ready).await.expect_err("it can't be applied");
        let says = error.to_string();
        assert!(says.contains("log entry 5") && says.contains("start the newer release"), "{says}");
        starts(&disk, OLD).await.expect("nothing of it is written");
        let newer = on(&disk, FormatRange::OURS).await;
        newer.look_at(&ready).await.expect("it reads that");
        // Before the entry is applied: a crash here leaves a directory that the older release refuses.
        let refused = starts(&disk, OLD).await.expect_err("there is no way back");
        assert!(matches!(refused, IdentityError::ClusterVersion { .. }), "{refused}");
        starts(&disk, FormatRange::OURS).await.expect("the newer release goes on");
    }

    /// A state of a later version that reaches an older node as a snapshot ends it, and it does not start again on that.
    #[tokio::test]
    async fn a_snapshot_of_a_newer_version_ends_an_older_node() {
        let disk = SimulatedDisk::new(1);
        let older = on(&disk, OLD).await;
        older.has_become(FormatVersion::FIRST).await.expect("it reads that");
        starts(&disk, OLD).await.expect("as ever");
        let error = older.has_become(TWO).await.expect_err("it does not read that");
        assert!(error.to_string().contains("start the newer release again"), "{error}");
        let refused = starts(&disk, OLD).await.expect_err("the directory says it");
        assert!(refused.to_string().contains("Nothing was changed"), "{refused}");
        on(&disk, FormatRange::OURS).await.has_become(TWO).await.expect("the newer one has it");
    }

    /// What a release does not know at all is refused by the entry that it is in.
    #[tokio::test]
    async fn an_entry_of_an_unknown_release_is_named() {
        let Payload::Normal(payload) = entry(Action::Tick).payload else { unreachable!() };
        let mut batch = payload.batch.to_vec();
        batch[0] = 9;
        let payload = EntryPayload { batch: batch.into(), traced: None };
        let unknown = Entry { log_id: log_id(1, 5), payload: Payload::Normal(payload) };
        let says = Ready::of(unknown).err().expect("it is not read").to_string();
        assert!(says.contains("A newer release may have written it"), "{says}");
    }
}
