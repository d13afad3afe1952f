//! Writing an object, part by part.

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload, PutPayloadMut};
use tokio::task::JoinSet;

use super::{Error, Store};

/// The least size of a part: stores want 5 MiB, all but the last.
pub(crate) const PART_BYTES_MIN: usize = 8 << 20;

/// Stores take 10,000 parts. A backup may turn out larger than the snapshot by which its parts are measured, but not
/// by so much: both hold the same records, compressed.
const PARTS_PLANNED: u64 = 2500;

/// All parts of an object but the last have the same size, as some stores want it.
pub(crate) fn part_bytes(about_bytes: u64, least: usize) -> usize {
    let part_bytes = (about_bytes / PARTS_PLANNED).next_multiple_of(1 << 20);
    usize::try_from(part_bytes).unwrap_or(usize::MAX).max(least)
}

/// An object that is being written. One part is sent while the next is gathered.
///
/// Dropped, it never comes to be; what was sent of it stays with the store until that forgets it.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    name: String,
    parts: Box<dyn MultipartUpload>,
    part_bytes: usize,
    gathered: PutPayloadMut,
    /// One, or none.
    under_way: JoinSet<object_store::Result<()>>,
    bytes: u64,
}

impl Upload {
    pub(crate) async fn begin(store: Store, name: &str, part_bytes: usize) -> Result<Self, Error> {
        let parts = store.objects.put_multipart(&store.key(name)).await;
        Ok(Self {
            parts: parts.map_err(|error| store.error(name, error))?,
            name: name.to_owned(),
            part_bytes,
            gathered: PutPayloadMut::new(),
            under_way: JoinSet::new(),
            bytes: 0,
            store,
        })
    }

    /// The next bytes of it. Waits while there are two parts in memory.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.part_bytes - self.gathered.content_length();
            self.gathered.push(bytes.split_to(room.min(bytes.len())));
            if self.gathered.content_length() == self.part_bytes {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Sends the last part, and has the store make the object of them all. Its size.
    pub async fn finish(mut self) -> Result<u64, Error> {
        match self.complete().await {
            Ok(()) => Ok(self.bytes),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Gives it up, and has the store forget its parts.
    pub async fn abort(mut self) {
        self.under_way.shutdown().await;
        // If that fails, the store's rule for incomplete uploads is left. What went wrong first is what is told.
        let _ = self.parts.abort().await;
    }

    async fn complete(&mut self) -> Result<(), Error> {
        if !self.gathered.is_empty() {
            self.send().await?;
        }
        self.sent().await?;
        let completed = self.parts.complete().await;
        completed.map(drop).map_err(|error| self.store.error(&self.name, error))
    }

    async fn send(&mut self) -> Result<(), Error> {
        self.sent().await?;
        let part: PutPayload = std::mem::take(&mut self.gathered).freeze();
        let sending = self.parts.put_part(part);
        self.under_way.spawn_on(sending, &self.store.runtime);
        Ok(())
    }

    /// The part that is under way is with the store.
    async fn sent(&mut self) -> Result<(), Error> {
        while let Some(sent) = self.under_way.join_next().await {
            let sent = sent.unwrap_or_else(|error| Err(error.into()));
            sent.map_err(|error| self.store.error(&self.name, error))?;
        }
        Ok(())
    }
}
