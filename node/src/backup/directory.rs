//! Backups in a directory.
//!
//! A file gets its name when it is whole: it is written beside it, synced, read again from the disk and found right. So
//! whatever ends this in the middle leaves what was there before, and something called `.partial` that the next one
//! replaces.
//!
//! Leaves out: where else copies are kept. A directory on the node's own disk is lost with it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use tally_proto::backup::{Footer, Header, Reader, SteadyFile};

use super::{
    names::Names,
    schedule::{Destination, Made, Source},
};

/// Made if it is missing, for its owner alone.
#[derive(Debug, Clone)]
pub(crate) struct Directory(pub(crate) PathBuf);

#[async_trait]
impl Destination for Directory {
    /// The newest that is right.
    async fn newest(&self, names: &Names) -> Result<Option<Made>, String> {
        let found = names.newest_first(self.all()).into_iter().find_map(|name| {
            match read(&self.0.join(&name)) {
                Ok((header, _, bytes)) => Some(Made { name, header, bytes }),
                Err(problem) => {
                    tracing::error!(%problem, "a backup is not right any more");
                    None
                }
            }
        });
        Ok(found)
    }

    async fn make(&self, names: &Names, source: &dyn Source) -> Result<Made, String> {
        let directory = &self.0;
        let partial = directory.join(names.partial());
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("{path}: {error}")
        };
        let mut file = SteadyFile::new(begin(directory, &partial).map_err(at(&partial))?);
        let mut parts = source.begin().await?;
        let footer = loop {
            let part = parts.part().await?;
            file.write_all(&part.data).map_err(at(&partial))?;
            if let Some(footer) = part.footer {
                break footer;
            }
            // Whoever stops the node is not to wait for it.
            tokio::task::yield_now().await;
        };
        file.finish().map_err(at(&partial))?;
        let (header, found, bytes) = read(&partial)?;
        if (&header, found) != (parts.header(), footer) {
            return Err(format!("{}: it is not what was written", partial.display()));
        }
        let name = names.of(&header);
        let path = directory.join(&name);
        fs::rename(&partial, &path).map_err(at(&path))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))?;
        Ok(Made { name, header, bytes })
    }

    async fn remove_older(&self, names: &Names, kept: usize, made: &str) -> Result<(), String> {
        for name in names.too_many(self.all(), kept, made) {
            let path = self.0.join(name);
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn shown(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Directory {
    /// Names of all that is in it.
    fn all(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

fn begin(directory: &Path, partial: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial)
}

/// Reads a backup whole.
fn read(path: &Path) -> Result<(Header, Footer, u64), String> {
    let all = || {
        let (mut file, mut reader) = (File::open(path)?, Reader::new());
        while reader.next_block_of(&mut file)?.is_some() {}
        let bytes = reader.bytes();
        let (header, footer) = reader.finish()?;
        Ok((header, footer, bytes))
    };
    all().map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_this_cluster_stay_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::new("42251adc3323cb936f6b4c9d1eaf8bc9", 1);
        let name = |revision| names.of(&Header { revision, ..Header::default() });
        let file = |name: &str| fs::write(dir.path().join(name), "x").unwrap();
        (1..=5).for_each(|revision| file(&name(revision)));
        let others = ["tally-00000000-r1.backup", "tally-42251adc.partial", "notes"];
        others.into_iter().for_each(file);
        let directory = Directory(dir.path().to_owned());
        directory.remove_older(&names, 2, &name(5)).await.unwrap();
        assert_eq!(names.newest_first(directory.all()), [name(5), name(4)]);
        assert!(others.iter().all(|other| dir.path().join(other).exists()));
        let newest = directory.newest(&names).await.unwrap();
        assert!(newest.is_none(), "none of them is right");
    }
}
