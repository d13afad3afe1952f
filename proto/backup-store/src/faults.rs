//! A store in memory that fails when it is told to: at any one of the requests that it gets, in any of the ways that
//! stores have.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart, memory::InMemory, path::Path,
};

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store says that it could not do it, and did not.
    Fails,
    /// It did it, and its answer is lost.
    AnswerLost,
    /// It does not know the credentials.
    Refuses,
    /// There is never an answer: whoever waits is the one to end.
    Hangs,
    /// A bit of what was sent is another in what it keeps.
    Damages,
}

#[derive(Debug, Default)]
struct Told {
    /// The requests so far.
    requests: u64,
    /// From this one on …
    at: u64,
    /// … so many …
    many: u64,
    /// … end so.
    fault: Option<Fault>,
}

/// The store.
#[derive(Debug, Clone, Default)]
pub struct Faulty {
    /// What it keeps. Asked here it does not fail.
    pub objects: Arc<InMemory>,
    told: Arc<Mutex<Told>>,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

impl Faulty {
    /// So many requests end like this, after so many that do not; 0 after 0: none.
    pub fn tell(&self, fault: Fault, after: u64, many: u64) {
        let mut told = self.told();
        (told.at, told.many, told.fault) = (told.requests + after, many, Some(fault));
    }

    /// How many requests it got.
    pub fn requests(&self) -> u64 {
        self.told().requests
    }

    /// Names of all that is there.
    pub async fn names(&self) -> Vec<String> {
        let all: Vec<_> = self.objects.list(None).try_collect().await.expect("it is in memory");
        all.iter().map(|object: &ObjectMeta| object.location.to_string()).collect()
    }

    /// All bytes of an object.
    pub async fn bytes(&self, name: &str) -> bytes::Bytes {
        let object = self.objects.get(&Path::from(name)).await.expect("it is there");
        object.bytes().await.expect("it is in memory")
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the request that comes now ends, if not well.
    fn fault(&self) -> Option<Fault> {
        let mut told = self.told();
        let number = told.requests;
        told.requests += 1;
        let is_meant = number >= told.at && number - told.at < told.many;
        told.fault.filter(|_| is_meant)
    }

    /// Does what was asked for, or not.
    async fn answer<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        after(self.fault(), work).await
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "Faulty", source: what.into() }
}

async fn after<T>(fault: Option<Fault>, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    match fault {
        None | Some(Fault::Damages) => work.await,
        Some(Fault::Fails) => Err(failed("told to fail")),
        Some(Fault::AnswerLost) => {
            work.await?;
            Err(failed("the answer was lost"))
        }
        Some(Fault::Refuses) => Err(Error::PermissionDenied {
            path: String::new(),
            source: "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
                .into(),
        }),
        Some(Fault::Hangs) => future::pending().await,
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.answer(self.objects.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.answer(self.objects.put_multipart_opts(location, options)).await?;
        Ok(Box::new(FaultyUpload { store: self.clone(), upload }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.answer(self.objects.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let removed = locations.and_then(move |location| {
            let store = store.clone();
            async move {
                store.answer(store.objects.delete(&location)).await?;
                Ok(location)
            }
        });
        removed.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (fault, all) = (self.fault(), self.objects.list(prefix));
        futures_util::stream::once(after(fault, future::ready(Ok(all)))).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.answer(self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.answer(self.objects.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: Faulty,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let fault = self.store.fault();
        let part = match fault {
            Some(Fault::Damages) => {
                let mut bytes = part.iter().flatten().copied().collect::<Vec<u8>>();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes.into()
            }
            _ => part,
        };
        Box::pin(after(fault, self.upload.put_part(part)))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.answer(self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.answer(self.upload.abort()).await
    }
}
