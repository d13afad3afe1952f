//! Backups in an S3-compatible object store: what a node does with [`tally_backup_store`], which says what holds there.

use std::sync::Arc;

use async_trait::async_trait;
use tally_backup_store::{Checked, Error, Store, Upload};
use tally_proto::backup::Footer;

use super::{
    names::Names,
    schedule::{Destination, Made, Parts, Source},
};

/// Opens the store. It is opened for each backup, so that credentials which were changed count, and no connection is
/// kept from one day to the next.
pub(crate) type Open = Arc<dyn Fn() -> Result<Store, Error> + Send + Sync>;

/// Below a prefix of a bucket.
pub(crate) struct InStore {
    pub(crate) open: Open,
    /// `s3://bucket/prefix`.
    pub(crate) location: String,
}

fn text(error: Error) -> String {
    error.to_string()
}

#[async_trait]
impl Destination for InStore {
    /// The newest by its name, which it has as all of it was right. It is not read again: that would fetch all of it
    /// with each start.
    async fn newest(&self, names: &Names) -> Result<Option<Made>, String> {
        let store = (self.open)().map_err(text)?;
        let all = store.names(|name| names.is_one(name)).await.map_err(text)?;
        for name in names.newest_first(all) {
            match store.header(&name).await {
                Ok((header, bytes)) => return Ok(Some(Made { name, header, bytes })),
                Err(error @ (Error::Wrong { .. } | Error::NotFound { .. })) => {
                    tracing::error!(problem = %error, "a backup is not right any more");
                }
                Err(error) => return Err(text(error)),
            }
        }
        Ok(None)
    }

    async fn make(&self, names: &Names, source: &dyn Source) -> Result<Made, String> {
        let store = (self.open)().map_err(text)?;
        // No snapshot is built for a store that does not answer.
        store.names(|_| false).await.map_err(text)?;
        let mut parts = source.begin().await?;
        let header = parts.header().clone();
        let mut upload = store.upload(names.partial(), parts.about_bytes()).await.map_err(text)?;
        let footer = match send(&mut *parts, &mut upload).await {
            Ok(footer) => footer,
            Err(problem) => {
                upload.abort().await;
                return Err(problem);
            }
        };
        // The snapshot is not needed any more.
        drop(parts);
        let bytes = upload.finish().await.map_err(text)?;
        let found = store.check(names.partial()).await.map_err(text)?;
        if found != (Checked { header, footer, bytes }) {
            return Err(format!("{}: it is not what was written", store.shown(names.partial())));
        }
        let name = names.of(&found.header);
        store.rename(names.partial(), &name, &found).await.map_err(text)?;
        Ok(Made { name, header: found.header, bytes })
    }

    async fn remove_older(&self, names: &Names, kept: usize, made: &str) -> Result<(), String> {
        let store = (self.open)().map_err(text)?;
        let all = store.names(|name| names.is_one(name)).await.map_err(text)?;
        for name in names.too_many(all, kept, made) {
            store.remove(&name).await.map_err(text)?;
        }
        Ok(())
    }

    fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.location.trim_end_matches('/'))
    }
}

async fn send(parts: &mut dyn Parts, upload: &mut Upload) -> Result<Footer, String> {
    loop {
        let part = parts.part().await?;
        upload.write(part.data).await.map_err(text)?;
        if let Some(footer) = part.footer {
            return Ok(footer);
        }
        // Whoever stops the node is not to wait for it.
        tokio::task::yield_now().await;
    }
}
