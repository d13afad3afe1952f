//! Opening the state at the start of a node, whatever the last run left.
//!
//! The state can come from three places: the generation that the pointer names, the newest local
//! snapshot, and, if the log was never purged, nothing at all (the log replays everything). Each is
//! good only if it reaches to where the log begins. The first that does is taken:
//!
//! | generation | snapshot | outcome |
//! |---|---|---|
//! | good, not behind the log's begin | not newer | the generation |
//! | good | newer, and the log has its last entry (a crash during an install) | a new generation of the snapshot |
//! | good | newer, and the log ends before (a crash early in an install) | the generation; the snapshot is removed |
//! | good, ahead of the log's end | any | refused: the log was lost, or is an older copy |
//! | damaged, missing, or behind the log's begin | reaches the log's begin | set aside; a new generation of the snapshot |
//! | the same | none, but the log was never purged | set aside; an empty generation |
//! | the same | does not reach | refused: nothing is moved, people decide |
//!
//! What is damaged is renamed, never deleted.

use std::{
    io,
    sync::{Arc, atomic::AtomicU32},
};

use tally_seeded_bugs as seeded_bugs;
use tokio::sync::{Mutex, Notify};

use super::{
    LogExtent, StateHooks, StateOptions, StateStore, Writer, compared,
    core::Core,
    error::StateError,
    hash,
    install::{fill, fill_empty},
    layout::{
        POINTER, Pointer, SNAPSHOT_DIR, STATE_DIR, generation_path, parse_generation,
        parse_snapshot, read_pointer, snapshot_path, write_pointer,
    },
    meta::{META_KEY, Meta, MetaError, VERSION},
    snapshots::Snapshots,
};
use crate::{
    byte_store::{ByteStore, StoreFactory},
    disk::Disk,
    log_id::LogId,
    snapshot::{
        SnapshotInfo,
        reader::{SnapshotError, verify},
    },
};

impl StateStore {
    /// Opens the state of a node, makes it if there is none, or rebuilds it from the local snapshot
    /// if it has to be.
    ///
    pub async fn open(
        disk: Arc<dyn Disk>,
        factory: Arc<dyn StoreFactory>,
        options: StateOptions,
        hooks: StateHooks,
        log: LogExtent,
    ) -> Result<Arc<Self>, StateError> {
        let opening = Opening { disk: disk.as_ref(), factory: factory.as_ref(), log };
        opening.make_directories().await.map_err(StateError::io(STATE_DIR))?;
        let (snapshot, beyond_log) = opening.newest_snapshot().await?;
        let (generation, store, meta) = opening.state(snapshot.as_ref()).await?;
        let hash = hash::stored_or_counted(store.as_ref(), &meta);
        let hash = hash.map_err(StateError::io(&generation_path(generation)))?;
        opening.remove_unfinished(&beyond_log).await?;
        opening.remove_other_generations(generation).await;
        let state = Arc::new(StateStore {
            core: std::sync::RwLock::new(Core::new(store, options.cache(), meta, hash)),
            writer: Mutex::new(Writer { generation }),
            snapshots: Snapshots::new(snapshot),
            flush_wanted: Notify::new(),
            room: Notify::new(),
            abandoned: AtomicU32::new(0),
            building: false.into(),
            compared: compared::Compared::default(),
            failed: false.into(),
            closed: false.into(),
            disk,
            factory,
            options,
            hooks,
        });
        state.remove_older_snapshots().await;
        Ok(state)
    }
}

/// One attempt at opening.
struct Opening<'a> {
    disk: &'a dyn Disk,
    factory: &'a dyn StoreFactory,
    log: LogExtent,
}

/// What the pointer leads to.
enum Pointed {
    /// A store, with what its records are.
    Good(u64, Arc<dyn ByteStore>, Meta),
    /// No pointer: this node never had a state, or never finished making its first one.
    Nothing,
    /// Something that can't be used.
    Bad { path: String, reason: String },
}

impl Opening<'_> {
    async fn make_directories(&self) -> io::Result<()> {
        for directory in [STATE_DIR, SNAPSHOT_DIR] {
            self.disk.create_dir_all(directory).await?;
        }
        self.disk.sync_dir("").await
    }

    /// Removes unfinished files, and finds the newest snapshot that is whole. All of it is read:
    /// from here on the log is purged on the strength of it.
    ///
    /// One that ends behind the log's end is none: what this node builds is of its own state, which
    /// the log has reached, and one that it receives counts from the log's jump on. Those come second.
    async fn newest_snapshot(&self) -> Result<(Option<SnapshotInfo>, Vec<LogId>), StateError> {
        let io = StateError::io(SNAPSHOT_DIR);
        let names = self.disk.list(SNAPSHOT_DIR).await.map_err(&io)?;
        for name in names.iter().filter(|name| name.ends_with(".tmp")) {
            self.disk.remove_file(&format!("{SNAPSHOT_DIR}/{name}")).await.map_err(&io)?;
        }
        let mut log_ids: Vec<LogId> =
            names.iter().filter_map(|name| parse_snapshot(name)).collect();
        log_ids.sort();
        let beyond_log = log_ids.extract_if(.., |log_id| !self.log.has(*log_id)).collect();
        for log_id in log_ids.into_iter().rev() {
            let path = snapshot_path(log_id);
            match verify(self.disk, &path).await {
                Ok(info) if info.last_log_id == log_id => {
                    // The last run may have crashed between the rename and the directory's sync.
                    self.disk.sync_dir(SNAPSHOT_DIR).await.map_err(&io)?;
                    return Ok((Some(info), beyond_log));
                }
                Ok(info) => {
                    self.set_file_aside(&path, &format!("it is of {}", info.last_log_id)).await?;
                }
                Err(error @ SnapshotError::Damaged { .. }) => {
                    self.set_file_aside(&path, &error.to_string()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((None, beyond_log))
    }

    /// Removes what an install that never got to the log's jump has left.
    async fn remove_unfinished(&self, snapshots: &[LogId]) -> Result<(), StateError> {
        for log_id in snapshots {
            let path = snapshot_path(*log_id);
            tracing::info!(path, "a snapshot whose install was cut short is removed");
            self.disk.remove_file(&path).await.map_err(StateError::io(&path))?;
        }
        Ok(())
    }

    async fn set_file_aside(&self, path: &str, reason: &str) -> Result<(), StateError> {
        tracing::warn!(path, reason, "set aside, it can't be used");
        let aside = format!("{path}.damaged");
        self.disk.rename(path, &aside).await.map_err(StateError::io(path))
    }

    async fn state(
        &self,
        snapshot: Option<&SnapshotInfo>,
    ) -> Result<(u64, Arc<dyn ByteStore>, Meta), StateError> {
        let pointed = self.pointed().await?;
        let (path, reason) = match pointed {
            Pointed::Good(generation, store, meta) => {
                let snapshot_at = snapshot.map(|snapshot| snapshot.last_log_id);
                if meta.applied >= self.log.purged && meta.applied >= snapshot_at {
                    if let Err(error) = self.check_log(generation, &meta) {
                        store.close().await;
                        return Err(error);
                    }
                    return Ok((generation, store, meta));
                }
                store.close().await;
                drop(store);
                if meta.applied >= self.log.purged {
                    // A snapshot was being installed. The generation is fine, just old: replacing
                    // it loses nothing, and it is removed with the other left-overs.
                    return self.rebuild(snapshot).await;
                }
                let path = generation_path(generation);
                (path, self.behind("the byte store", meta.applied))
            }
            Pointed::Nothing => (POINTER.into(), "there is no state yet".into()),
            Pointed::Bad { path, reason } => (path, reason),
        };
        self.check_rebuild(&path, &reason, snapshot)?;
        self.set_store_aside(&path, &reason).await?;
        self.rebuild(snapshot).await
    }

    /// Follows the pointer.
    async fn pointed(&self) -> Result<Pointed, StateError> {
        let generation = match read_pointer(self.disk).await.map_err(StateError::io(POINTER))? {
            Pointer::Generation(generation) => generation,
            Pointer::Missing => return Ok(Pointed::Nothing),
            Pointer::Damaged(reason) => {
                return Ok(Pointed::Bad { path: POINTER.into(), reason: reason.into() });
            }
            Pointer::NewerFormat(version) => {
                let path = POINTER.into();
                return Err(StateError::NewerFormat { path, version, supported: 1 });
            }
        };
        let path = generation_path(generation);
        let store = match self.factory.open(&path).await {
            Ok(store) => store,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) =>
            {
                return Ok(Pointed::Bad { path, reason: error.to_string() });
            }
            Err(source) => return Err(StateError::Io { path, source }),
        };
        match store.get(&META_KEY) {
            Ok(Some(record)) => match Meta::decode(&record) {
                Ok(meta) => Ok(Pointed::Good(generation, store, meta)),
                Err(MetaError::Damaged) => {
                    store.close().await;
                    Ok(Pointed::Bad { path, reason: "its own record makes no sense".into() })
                }
                Err(MetaError::NewerFormat(version)) => Err(StateError::NewerFormat {
                    path,
                    version: version.into(),
                    supported: VERSION.into(),
                }),
            },
            Ok(None) => {
                store.close().await;
                Ok(Pointed::Bad { path, reason: "it lacks the record that says what it is".into() })
            }
            Err(error) => Ok(Pointed::Bad { path, reason: error.to_string() }),
        }
    }

    /// The state is never ahead of its log.
    fn check_log(&self, generation: u64, meta: &Meta) -> Result<(), StateError> {
        if seeded_bugs::is_on("lost-log-accepted") {
            return Ok(());
        }
        match meta.applied {
            Some(applied) if !self.log.has(applied) => Err(StateError::AheadOfLog {
                path: generation_path(generation),
                applied,
                log_end: match self.log.last {
                    Some(last) => format!("at {last}"),
                    None => "before its first entry".into(),
                },
            }),
            _ => Ok(()),
        }
    }

    /// Whether the local snapshot, or nothing at all, can stand in for the state.
    fn check_rebuild(
        &self,
        path: &str,
        reason: &str,
        snapshot: Option<&SnapshotInfo>,
    ) -> Result<(), StateError> {
        let snapshot = snapshot.map(|snapshot| snapshot.last_log_id);
        if snapshot >= self.log.purged {
            return Ok(());
        }
        Err(StateError::Unrecoverable {
            path: path.into(),
            reason: reason.into(),
            no_substitute: self.behind("the newest local snapshot", snapshot),
        })
    }

    fn behind(&self, what: &str, reaches: Option<LogId>) -> String {
        let reaches = match reaches {
            Some(log_id) => format!("ends at {log_id}"),
            None => "holds nothing".into(),
        };
        let purged = self.log.purged.expect("only a purged log leaves anything behind");
        format!("{what} {reaches}, and the log no longer has what is up to {purged}")
    }

    /// Moves what can't be used out of the way, so that people can look at it.
    async fn set_store_aside(&self, path: &str, reason: &str) -> Result<(), StateError> {
        if path != POINTER {
            tracing::warn!(path, reason, "the state is rebuilt; its old directory is set aside");
            return self.rename_aside(path).await;
        }
        match self.factory.list(STATE_DIR).await {
            Ok(names) => {
                // Without a pointer nothing says which of them was the state, so all are kept.
                for name in names.iter().filter(|name| !name.contains('.')) {
                    tracing::warn!(name, reason, "a generation without a pointer is set aside");
                    self.rename_aside(&format!("{STATE_DIR}/{name}")).await?;
                }
                Ok(())
            }
            Err(error) => Err(StateError::io(STATE_DIR)(error)),
        }
    }

    async fn rename_aside(&self, path: &str) -> Result<(), StateError> {
        for attempt in 1.. {
            let aside = match attempt {
                1 => format!("{path}.damaged"),
                _ => format!("{path}.damaged-{attempt}"),
            };
            match self.factory.rename(path, &aside).await {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // It is missing, which is why the state is rebuilt.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                done => return done.map_err(StateError::io(path)),
            }
        }
        unreachable!("names do not run out")
    }

    /// A new generation, of the snapshot or empty, named by the pointer.
    async fn rebuild(
        &self,
        snapshot: Option<&SnapshotInfo>,
    ) -> Result<(u64, Arc<dyn ByteStore>, Meta), StateError> {
        let names = self.factory.list(STATE_DIR).await.map_err(StateError::io(STATE_DIR))?;
        let newest = names.iter().filter_map(|name| parse_generation(name)).max();
        let pointed = match read_pointer(self.disk).await.map_err(StateError::io(POINTER))? {
            Pointer::Generation(generation) => Some(generation),
            _ => None,
        };
        let generation = newest.max(pointed).unwrap_or(0) + 1;
        let (store, meta) = match snapshot {
            Some(snapshot) => fill(self.disk, self.factory, generation, snapshot).await?,
            None => fill_empty(self.factory, generation).await?,
        };
        write_pointer(self.disk, generation).await.map_err(StateError::io(POINTER))?;
        Ok((generation, store, meta))
    }

    async fn remove_other_generations(&self, current: u64) {
        let Ok(names) = self.factory.list(STATE_DIR).await else { return };
        for name in names {
            let damaged = name.contains('.');
            if damaged || parse_generation(&name).is_none_or(|generation| generation == current) {
                continue;
            }
            let path = format!("{STATE_DIR}/{name}");
            if let Err(error) = self.factory.remove(&path).await {
                tracing::warn!(path, %error, "an old generation could not be removed");
            }
        }
    }
}
