//! Backups in an S3-compatible object store.
//!
//! **An object with a backup's name was read back whole and found right.** It is uploaded in parts under a name that
//! ends in `.partial`, and there is nothing under that name either before the last part is in. Then all of it is read
//! from the store again and checked as any backup is, and only then does the store copy it to its name, which it does
//! at once or not at all. So whatever ends this in the middle leaves what was there before.
//!
//! It holds two parts in memory. Each request is tried again for a while ([`REQUEST_RETRIES`], [`RETRY_MAX`]); what
//! fails then is an error, and whoever asked begins anew later.
//!
//! Leaves out: what a process that was killed has uploaded of an object that never came to be. The store keeps it,
//! unseen by everybody, until its rule for incomplete uploads removes it. Nor is any of this simulated: signatures
//! need the wall clock.

mod credentials;
#[cfg(any(test, feature = "faults"))]
pub mod faults;
mod http;
mod settings;
#[cfg(test)]
mod tests;
mod upload;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use tally_proto::backup::{Footer, Header, Reader};
use tokio::runtime::Handle;

use self::credentials::Credentials;
pub use self::{
    credentials::CredentialsFrom,
    settings::{Location, Settings},
    upload::Upload,
};

/// A request that could not be made, or that the store could not answer, is tried so often again …
pub const REQUEST_RETRIES: usize = 10;

/// … within so long, and no longer: the node keeps a snapshot for the backup meanwhile, and a signature is good for
/// five minutes.
pub const RETRY_MAX: Duration = Duration::from_secs(60);

/// Stores copy an object of so many bytes at once, and no larger one. Such a one is sent to its name in parts.
const COPY_BYTES_MAX: u64 = 5 << 30;

/// So much of an object is read for its header, which is shorter.
const HEADER_BYTES: u64 = 4096;

const _: () = assert!(tally_proto::backup::HEADER_BODY_BYTES_MAX + 64 <= HEADER_BYTES as usize);

/// So much of what a store says of an error is shown.
const PROBLEM_CHARS_MAX: usize = 400;

/// Why it did not work. Its text has no credentials in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is wrong before the store is asked anything.
    #[error("{0}")]
    Settings(String),
    /// The store does not have it.
    #[error("{object}: it is not there")]
    NotFound {
        /// Where.
        object: String,
    },
    /// The store does not let these credentials do it.
    #[error("{object}: the store refuses these credentials: {problem}")]
    Refused {
        /// Where.
        object: String,
        /// What the store said.
        problem: String,
    },
    /// The store did not do it, or could not be asked.
    #[error("{object}: {problem}")]
    Failed {
        /// Where.
        object: String,
        /// What happened.
        problem: String,
    },
    /// It was read, and is no backup or a damaged one.
    #[error("{object}: {problem}")]
    Wrong {
        /// Where.
        object: String,
        /// What is wrong.
        problem: String,
    },
}

/// What an object was found to be, after all of it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What it says in front …
    pub header: Header,
    /// … and at its end.
    pub footer: Footer,
    /// Its size.
    pub bytes: u64,
}

/// Where the bytes go that are read.
enum Sink<'a> {
    Nowhere,
    File(&'a mut (dyn io::Write + Send)),
    Object(&'a mut Upload),
}

/// A bucket, below a prefix, with the credentials as they were when it was opened.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    location: Location,
    credentials: Arc<Credentials>,
    runtime: Handle,
    part_bytes_min: usize,
    copy_bytes_max: u64,
}

impl Store {
    fn new(
        objects: Arc<dyn ObjectStore>,
        location: Location,
        credentials: Credentials,
        runtime: Handle,
    ) -> Self {
        let credentials = Arc::new(credentials);
        let (part_bytes_min, copy_bytes_max) = (upload::PART_BYTES_MIN, COPY_BYTES_MAX);
        Self { objects, location, credentials, runtime, part_bytes_min, copy_bytes_max }
    }

    /// Over a store of a test's own, with limits that are reached with a few bytes.
    #[cfg(any(test, feature = "faults"))]
    pub fn over(
        objects: Arc<dyn ObjectStore>,
        location: Location,
        part_bytes_min: usize,
        copy_bytes_max: u64,
    ) -> Self {
        let store = Self::new(objects, location, Credentials::default(), Handle::current());
        Self { part_bytes_min, copy_bytes_max, ..store }
    }

    /// Names of objects right below the prefix, in no order, of those that are wanted.
    pub async fn names(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let prefix = Some(&self.location.prefix).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| Path::from(prefix.as_str()));
        let mut objects = self.objects.list(prefix.as_ref());
        let mut names = Vec::new();
        while let Some(object) = objects.try_next().await.map_err(|error| self.error("", error))? {
            // Also what lies deeper is listed.
            let name = object.location.filename().unwrap_or_default();
            if wanted(name) && object.location == self.key(name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Begins to write an object, of about so many bytes. Nothing is there under its name before
    /// [`Upload::finish`].
    pub async fn upload(&self, name: &str, about_bytes: u64) -> Result<Upload, Error> {
        Upload::begin(self.clone(), name, upload::part_bytes(about_bytes, self.part_bytes_min))
            .await
    }

    /// Reads an object whole, and checks all of it.
    pub async fn check(&self, name: &str) -> Result<Checked, Error> {
        self.read(name, Sink::Nowhere).await
    }

    /// Reads an object whole into a file, and checks all of it.
    pub async fn fetch(
        &self,
        name: &str,
        file: &mut (dyn io::Write + Send),
    ) -> Result<Checked, Error> {
        self.read(name, Sink::File(file)).await
    }

    /// What an object says of itself in front, and its size. The rest is not looked at.
    pub async fn header(&self, name: &str) -> Result<(Header, u64), Error> {
        let key = self.key(name);
        let failed = |error| self.error(name, error);
        let bytes = self.objects.head(&key).await.map_err(failed)?.size;
        let front = self.objects.get_range(&key, 0..bytes.min(HEADER_BYTES)).await;
        let mut reader = Reader::new();
        reader.give(&front.map_err(failed)?);
        let read = reader.next_block();
        match (reader.header(), read) {
            // What follows the header is not whole here.
            (Some(header), _) => Ok((header.clone(), bytes)),
            (None, Err(error)) => Err(self.wrong(name, error)),
            (None, Ok(_)) => Err(self.wrong(name, "it ends before its header does")),
        }
    }

    /// Gives an object another name, which it has afterwards, whole, or does not have at all.
    pub async fn rename(&self, from: &str, to: &str, checked: &Checked) -> Result<(), Error> {
        if checked.bytes <= self.copy_bytes_max {
            let copied = self.objects.copy(&self.key(from), &self.key(to)).await;
            copied.map_err(|error| self.error(to, error))?;
        } else {
            let mut upload = self.upload(to, checked.bytes).await?;
            let read = self.read(from, Sink::Object(&mut upload)).await;
            match read {
                Ok(read) if read == *checked => upload.finish().await.map(drop)?,
                other => {
                    upload.abort().await;
                    other?;
                    return Err(self.wrong(from, "it has changed since it was checked"));
                }
            }
        }
        let there =
            self.objects.head(&self.key(to)).await.map_err(|error| self.error(to, error))?;
        if there.size != checked.bytes {
            let _ = self.remove(to).await;
            let problem = format!("it has {} bytes, and {} were copied", there.size, checked.bytes);
            return Err(self.wrong(to, problem));
        }
        // What is left under the other name is no backup's name, and is replaced by the next.
        let _ = self.remove(from).await;
        Ok(())
    }

    /// Removes an object.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        match self.objects.delete(&self.key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(name, error)),
        }
    }

    /// An object, for people.
    pub fn shown(&self, name: &str) -> String {
        self.location.shown(name)
    }

    async fn read(&self, name: &str, mut sink: Sink<'_>) -> Result<Checked, Error> {
        let failed = |error| self.error(name, error);
        let object = self.objects.get(&self.key(name)).await.map_err(failed)?;
        let mut stream = object.into_stream();
        let mut reader = Reader::new();
        while let Some(bytes) = stream.next().await {
            let bytes: Bytes = bytes.map_err(failed)?;
            reader.give(&bytes);
            match &mut sink {
                Sink::Nowhere => {}
                Sink::File(file) => {
                    file.write_all(&bytes).map_err(|error| Error::Settings(error.to_string()))?;
                }
                Sink::Object(upload) => upload.write(bytes).await?,
            }
            while reader.next_block().map_err(|error| self.wrong(name, error))?.is_some() {}
        }
        let bytes = reader.bytes();
        let (header, footer) = reader.finish().map_err(|error| self.wrong(name, error))?;
        Ok(Checked { header, footer, bytes })
    }

    fn key(&self, name: &str) -> Path {
        Path::from(self.location.key(name))
    }

    fn wrong(&self, name: &str, problem: impl std::fmt::Display) -> Error {
        Error::Wrong { object: self.shown(name), problem: problem.to_string() }
    }

    fn error(&self, name: &str, error: object_store::Error) -> Error {
        let object = self.shown(name);
        let text = error.to_string();
        let problem = self.credentials.hide(&said(&text));
        match error {
            object_store::Error::NotFound { .. } => Error::NotFound { object },
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => Error::Refused { object, problem },
            // Of a list it is told in words alone.
            _ if text.contains("403 Forbidden") || text.contains("401 Unauthorized") => {
                Error::Refused { object, problem }
            }
            _ => Error::Failed { object, problem },
        }
    }
}

/// What a store means by its answer: the code and the message of its XML, if there is one, and a line of bounded length.
fn said(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(content, _)| content)
    };
    // In front stand the request, with all of its address, and how often it was tried.
    let why = match text.split_once(" - ") {
        Some((request, why)) if request.contains("Error performing ") => why,
        _ => text,
    };
    let text = match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => why.to_owned(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(PROBLEM_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}
