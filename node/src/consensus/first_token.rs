//! The first token of a cluster that begins with authentication on: made by the node that gives the cluster its id,
//! and left in a file of its data directory, as nobody is there yet to be told.
//!
//! The file is written, and on the disk, before the entry is proposed that has the hash: what counts can always be
//! read. A proposal may be lost, or another node's come first; then the file is one that counts nowhere, and is
//! removed as soon as this node knows what its cluster began with.

use std::{io, sync::Arc};

use crate::{
    env::Random,
    machine::{
        auth::secret::{format_token, hash_secret, parse_token},
        users,
    },
    storage::{
        disk::{Disk, OpenMode},
        state::StateStore,
    },
};

/// In the data directory.
pub const FILE: &str = "admin-token";

/// Id of the first token: the first id is that of its user.
const FIRST_TOKEN_ID: u64 = 2;

/// Where the file is.
pub struct FirstToken {
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// As it is called in the log.
    pub shown_path: String,
}

impl FirstToken {
    /// Makes a secret and leaves the token in the file. What is stored of it.
    pub(super) async fn make(&self, random: &dyn Random) -> io::Result<[u8; 32]> {
        let secret = random.next_secret();
        self.remove().await?;
        let text = format_token(FIRST_TOKEN_ID, &secret) + "\n";
        let mut file = self.disk.open(FILE, OpenMode::CreateNew).await?;
        file.write_at(0, text.as_bytes()).await?;
        file.sync().await?;
        self.disk.sync_dir("").await?;
        Ok(hash_secret(&secret))
    }

    /// Says where the token is, if this node made it, and removes a file that counts nowhere.
    pub(super) async fn settle(&self, state: &StateStore) -> io::Result<()> {
        let file = match self.disk.open(FILE, OpenMode::Read).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let bytes = file.read_at(0, file.len().await?.min(256) as usize).await?;
        let text = String::from_utf8_lossy(&bytes);
        let shown = parse_token(text.trim());
        let counts = shown.is_some_and(|(id, secret)| {
            let record = users::token(&state.view(), id);
            record.is_some_and(|record| record.secret_hash == hash_secret(&secret))
        });
        if counts {
            tracing::info!(
                file = self.shown_path,
                "the first token of this cluster, of user admin, is in this file: keep it elsewhere, and remove \
                 the file"
            );
            return Ok(());
        }
        drop(file);
        self.remove().await
    }

    async fn remove(&self) -> io::Result<()> {
        match self.disk.remove_file(FILE).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
