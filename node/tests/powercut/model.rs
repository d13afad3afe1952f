//! What a disk holds, and what is left of it after a power cut.
//!
//! The rules are those of the disk contract (`storage/disk.rs`), which are those of POSIX taken at
//! their word, and harder than what common file systems do:
//! - bytes written since the last fsync of their file are kept, lost or torn, each 512-byte sector
//!   for itself; so is the file's length;
//! - names made, renamed or removed since the last fsync of their directory are there or not, each
//!   operation for itself. A rename happens or does not. An fsync of the file does not help its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use rand::{Rng as _, rngs::SmallRng};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// The root directory, by FUSE's convention.
pub(crate) const ROOT: u64 = 1;

type Page = Arc<[u8; PAGE]>;

static ZERO: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE]));

/// What a power cut does to what was not fsynced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All of it is gone.
    Everything,
    /// Each sector and each name may be kept, file by file more or less of it.
    AtRandom,
}

/// What a power cut took away.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lost {
    pub(crate) pages: u64,
    pub(crate) names: u64,
}

#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) len: u64,
    /// Pages that are missing are zeros.
    pages: BTreeMap<u64, Page>,
    durable_len: u64,
    durable: BTreeMap<u64, Page>,
    /// What each page was since the last fsync, oldest first.
    unsynced: BTreeMap<u64, Vec<Page>>,
    /// What the length was since the last fsync, oldest first.
    unsynced_lens: Vec<u64>,
    handles: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(crate) enum Inode {
    File(File),
    Directory(Directory),
}

/// A change of names that no fsync of a directory has covered yet.
#[derive(Debug, Clone)]
enum NameChange {
    Link { at: Place, inode: u64 },
    Unlink { at: Place },
    Rename { from: Place, to: Place, inode: u64 },
}

/// A name in a directory.
type Place = (u64, String);

impl NameChange {
    fn places(&self) -> Vec<&Place> {
        match self {
            NameChange::Link { at, .. } | NameChange::Unlink { at } => vec![at],
            NameChange::Rename { from, to, .. } => vec![from, to],
        }
    }

    fn touches(&self, directory: u64) -> bool {
        self.places().iter().any(|(touched, _)| *touched == directory)
    }
}

/// Why an operation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Missing,
    Exists,
    NotEmpty,
    WrongKind,
}

#[derive(Debug)]
pub(crate) struct Model {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    changes: Vec<NameChange>,
    /// fsync answers and does nothing.
    pub(crate) lies: bool,
}

impl Default for Model {
    fn default() -> Self {
        let root = Inode::Directory(Directory::default());
        let inodes = BTreeMap::from([(ROOT, root)]);
        Model { inodes, next: ROOT + 1, changes: Vec::new(), lies: false }
    }
}

impl File {
    /// A new file that its maker has open.
    pub(crate) fn opened() -> File {
        File { handles: 1, ..File::default() }
    }

    fn page(&self, number: u64) -> &Page {
        self.pages.get(&number).unwrap_or(&ZERO)
    }

    fn set_page(&mut self, number: u64, page: Page) {
        let page = if *page == [0; PAGE] { Arc::clone(&ZERO) } else { page };
        self.unsynced.entry(number).or_default().push(Arc::clone(&page));
        put_page(&mut self.pages, number, page);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            // What is cut off reads as zeros if the file grows again.
            let first = len / PAGE as u64;
            let beyond: Vec<u64> = self.pages.range(first..).map(|(number, _)| *number).collect();
            for number in beyond {
                let mut page = *self.page(number).as_ref();
                let keep = len.saturating_sub(number * PAGE as u64).min(PAGE as u64) as usize;
                page[keep..].fill(0);
                self.set_page(number, Arc::new(page));
            }
        }
        if len != self.len {
            self.len = len;
            self.unsynced_lens.push(len);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let (number, start) = (position / PAGE as u64, (position % PAGE as u64) as usize);
            let count = (PAGE - start).min(bytes.len() - at);
            let mut page = *self.page(number).as_ref();
            page[start..start + count].copy_from_slice(&bytes[at..at + count]);
            self.set_page(number, Arc::new(page));
            at += count;
        }
        if offset + bytes.len() as u64 > self.len {
            self.set_len(offset + bytes.len() as u64);
        }
    }

    fn read(&self, offset: u64, count: usize) -> Vec<u8> {
        let end = (offset + count as u64).min(self.len);
        let mut bytes = Vec::with_capacity(count);
        let mut position = offset;
        while position < end {
            let (number, start) = (position / PAGE as u64, (position % PAGE as u64) as usize);
            let count = ((PAGE - start) as u64).min(end - position) as usize;
            bytes.extend_from_slice(&self.page(number)[start..start + count]);
            position += count as u64;
        }
        bytes
    }

    fn sync(&mut self) {
        for (number, mut versions) in std::mem::take(&mut self.unsynced) {
            let last = versions.pop().expect("a version is pushed with each entry");
            put_page(&mut self.durable, number, last);
        }
        self.unsynced_lens.clear();
        self.durable_len = self.len;
    }

    fn cut(&mut self, loss: Loss, random: &mut SmallRng, lost: &mut Lost) {
        let kept_percent = match loss {
            Loss::Everything => 0,
            Loss::AtRandom => [0, 20, 80, 100][random.random_range(0..4)],
        };
        let mut keeps = |of: usize| match random.random_range(0..100) < kept_percent {
            // Mostly the newest; now and then one that was overwritten later.
            true if random.random_ratio(3, 4) => of,
            true => random.random_range(0..=of),
            false => 0,
        };
        let kept_len = keeps(self.unsynced_lens.len());
        let mut len = self.durable_len;
        if kept_len > 0 {
            len = self.unsynced_lens[kept_len - 1];
        }
        let mut pages = self.durable.clone();
        for (number, versions) in &self.unsynced {
            let old = self.durable.get(number).unwrap_or(&ZERO);
            let mut page = **old;
            for sector in 0..PAGE / SECTOR {
                let kept = keeps(versions.len());
                if kept > 0 {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    page[range.clone()].copy_from_slice(&versions[kept - 1][range]);
                }
            }
            if page != **versions.last().expect("never empty") {
                lost.pages += 1;
            }
            put_page(&mut pages, *number, Arc::new(page));
        }
        // Nothing is left beyond the end.
        let last = len / PAGE as u64;
        pages.retain(|number, _| *number <= last);
        if let Some(page) = pages.get_mut(&last) {
            let mut cut = **page;
            cut[(len % PAGE as u64) as usize..].fill(0);
            *page = Arc::new(cut);
        }
        self.durable.clone_from(&pages);
        self.pages = pages;
        (self.len, self.durable_len) = (len, len);
        self.unsynced.clear();
        self.unsynced_lens.clear();
        self.handles = 0;
    }
}

fn put_page(pages: &mut BTreeMap<u64, Page>, number: u64, page: Page) {
    if Arc::ptr_eq(&page, &ZERO) {
        pages.remove(&number);
    } else {
        pages.insert(number, page);
    }
}

impl Model {
    pub(crate) fn inode(&self, inode: u64) -> Option<&Inode> {
        self.inodes.get(&inode)
    }

    fn directory(&mut self, inode: u64) -> Result<&mut Directory, Refusal> {
        match self.inodes.get_mut(&inode) {
            Some(Inode::Directory(directory)) => Ok(directory),
            Some(Inode::File(_)) => Err(Refusal::WrongKind),
            None => Err(Refusal::Missing),
        }
    }

    fn file(&mut self, inode: u64) -> Result<&mut File, Refusal> {
        match self.inodes.get_mut(&inode) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Directory(_)) => Err(Refusal::WrongKind),
            None => Err(Refusal::Missing),
        }
    }

    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Option<u64> {
        match self.inodes.get(&parent)? {
            Inode::Directory(directory) => directory.names.get(name).copied(),
            Inode::File(_) => None,
        }
    }

    pub(crate) fn make(&mut self, parent: u64, name: &str, made: Inode) -> Result<u64, Refusal> {
        let inode = self.next;
        let directory = self.directory(parent)?;
        if directory.names.contains_key(name) {
            return Err(Refusal::Exists);
        }
        directory.names.insert(name.to_owned(), inode);
        self.next += 1;
        self.inodes.insert(inode, made);
        self.changes.push(NameChange::Link { at: (parent, name.to_owned()), inode });
        Ok(inode)
    }

    pub(crate) fn unlink(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let inode = self.lookup(parent, name).ok_or(Refusal::Missing)?;
        if let Some(Inode::Directory(removed)) = self.inodes.get(&inode)
            && !removed.names.is_empty()
        {
            return Err(Refusal::NotEmpty);
        }
        self.directory(parent)?.names.remove(name);
        self.changes.push(NameChange::Unlink { at: (parent, name.to_owned()) });
        self.collect();
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: Place, to: Place) -> Result<(), Refusal> {
        let inode = self.lookup(from.0, &from.1).ok_or(Refusal::Missing)?;
        if let Some(Inode::Directory(over)) =
            self.lookup(to.0, &to.1).and_then(|over| self.inodes.get(&over))
            && !over.names.is_empty()
        {
            return Err(Refusal::NotEmpty);
        }
        self.directory(to.0)?;
        self.directory(from.0)?.names.remove(&from.1);
        self.directory(to.0)?.names.insert(to.1.clone(), inode);
        self.changes.push(NameChange::Rename { from, to, inode });
        self.collect();
        Ok(())
    }

    pub(crate) fn opened(&mut self, inode: u64) -> Result<(), Refusal> {
        self.file(inode)?.handles += 1;
        Ok(())
    }

    pub(crate) fn closed(&mut self, inode: u64) {
        if let Ok(file) = self.file(inode) {
            file.handles = file.handles.saturating_sub(1);
            if file.handles == 0 {
                self.collect();
            }
        }
    }

    pub(crate) fn read(&mut self, inode: u64, at: u64, count: usize) -> Result<Vec<u8>, Refusal> {
        Ok(self.file(inode)?.read(at, count))
    }

    pub(crate) fn write(&mut self, inode: u64, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        self.file(inode)?.write(at, bytes);
        Ok(())
    }

    pub(crate) fn set_len(&mut self, inode: u64, len: u64) -> Result<(), Refusal> {
        self.file(inode)?.set_len(len);
        Ok(())
    }

    pub(crate) fn sync_file(&mut self, inode: u64) -> Result<(), Refusal> {
        let lies = self.lies;
        let file = self.file(inode)?;
        if !lies {
            file.sync();
        }
        Ok(())
    }

    pub(crate) fn sync_directory(&mut self, inode: u64) -> Result<(), Refusal> {
        self.directory(inode)?;
        if !self.lies {
            let due: BTreeSet<usize> =
                (0..self.changes.len()).filter(|at| self.changes[*at].touches(inode)).collect();
            self.make_durable(due);
            self.collect();
        }
        Ok(())
    }

    /// Makes changes of names durable, and with each those before it that concern the same names.
    fn make_durable(&mut self, mut due: BTreeSet<usize>) {
        for at in (0..self.changes.len()).rev() {
            if due.contains(&at) {
                let places = self.changes[at].places();
                let needs = |earlier: &usize| {
                    self.changes[*earlier].places().iter().any(|place| places.contains(place))
                };
                due.extend((0..at).filter(needs));
            }
        }
        let changes = std::mem::take(&mut self.changes);
        for (at, change) in changes.into_iter().enumerate() {
            if !due.contains(&at) {
                self.changes.push(change);
                continue;
            }
            match change {
                NameChange::Link { at, inode } => self.durable_name(at, Some(inode)),
                NameChange::Unlink { at } => self.durable_name(at, None),
                NameChange::Rename { from, to, inode } => {
                    self.durable_name(from, None);
                    self.durable_name(to, Some(inode));
                }
            }
        }
    }

    fn durable_name(&mut self, (directory, name): Place, inode: Option<u64>) {
        // A directory may be gone by now; then its names do not matter any more.
        if let Ok(directory) = self.directory(directory) {
            match inode {
                Some(inode) => directory.durable.insert(name, inode),
                None => directory.durable.remove(&name),
            };
        }
    }

    /// Forgets what no name leads to, now or after a power cut, and nobody has open.
    fn collect(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for inode in self.inodes.values() {
            if let Inode::Directory(directory) = inode {
                named.extend(directory.names.values().chain(directory.durable.values()));
            }
        }
        for change in &self.changes {
            match change {
                NameChange::Link { at, inode } => named.extend([at.0, *inode]),
                NameChange::Unlink { at } => named.extend([at.0]),
                NameChange::Rename { from, to, inode } => named.extend([from.0, to.0, *inode]),
            }
        }
        self.inodes.retain(|number, inode| {
            named.contains(number) || matches!(inode, Inode::File(file) if file.handles > 0)
        });
    }

    /// Cuts the power: what is left is what a disk would hold.
    pub(crate) fn cut(&mut self, loss: Loss, random: &mut SmallRng) -> Lost {
        let mut lost = Lost::default();
        let kept_percent = match loss {
            Loss::Everything => 0,
            Loss::AtRandom => [0, 50, 100][random.random_range(0..3)],
        };
        let kept: BTreeSet<usize> = (0..self.changes.len())
            .filter(|_| random.random_range(0..100) < kept_percent)
            .collect();
        self.make_durable(kept);
        lost.names = self.changes.len() as u64;
        self.changes.clear();
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.cut(loss, random, &mut lost),
                Inode::Directory(directory) => directory.names.clone_from(&directory.durable),
            }
        }
        self.collect();
        lost
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn random() -> SmallRng {
        SmallRng::seed_from_u64(1)
    }

    fn new_file(model: &mut Model, name: &str) -> u64 {
        model.make(ROOT, name, Inode::File(File::default())).unwrap()
    }

    #[test]
    fn only_what_was_synced_is_left() {
        let mut model = Model::default();
        let (kept, nameless) = (new_file(&mut model, "kept"), new_file(&mut model, "nameless"));
        model.write(kept, 0, b"old bytes").unwrap();
        model.sync_file(kept).unwrap();
        model.unlink(ROOT, "nameless").unwrap();
        model.sync_directory(ROOT).unwrap();
        let late = new_file(&mut model, "late");
        model.sync_file(late).unwrap();
        model.write(kept, 0, b"new").unwrap();
        model.write(kept, 10_000, b"further").unwrap();

        let lost = model.cut(Loss::Everything, &mut random());
        assert_eq!((lost.pages, lost.names), (2, 1));
        assert_eq!(model.lookup(ROOT, "kept"), Some(kept));
        assert_eq!(model.read(kept, 0, 100).unwrap(), b"old bytes");
        assert_eq!(model.lookup(ROOT, "late"), None, "its directory was not synced");
        assert!(model.inode(late).is_none() && model.inode(nameless).is_none());
    }

    #[test]
    fn a_rename_happens_or_does_not() {
        for seed in 0..200 {
            let mut model = Model::default();
            let old = new_file(&mut model, "name");
            model.sync_directory(ROOT).unwrap();
            let new = new_file(&mut model, "name.new");
            model.rename((ROOT, "name.new".into()), (ROOT, "name".into())).unwrap();
            model.cut(Loss::AtRandom, &mut SmallRng::seed_from_u64(seed));
            let now = model.lookup(ROOT, "name").unwrap();
            assert!(now == old || now == new);
            assert!(now == old || model.lookup(ROOT, "name.new").is_none());
        }
    }

    #[test]
    fn each_sector_is_old_or_new() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut model = Model::default();
            let file = new_file(&mut model, "file");
            model.write(file, 0, &[1; 2 * SECTOR]).unwrap();
            model.sync_file(file).unwrap();
            model.sync_directory(ROOT).unwrap();
            model.write(file, 0, &[2; 2 * SECTOR]).unwrap();
            model.cut(Loss::AtRandom, &mut SmallRng::seed_from_u64(seed));
            let bytes = model.read(file, 0, 4096).unwrap();
            assert_eq!(bytes.len(), 2 * SECTOR);
            for sector in bytes.chunks(SECTOR) {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
            }
            seen.insert((bytes[0], bytes[SECTOR]));
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros() {
        let mut model = Model::default();
        let file = new_file(&mut model, "file");
        model.write(file, 0, &[7; 10_000]).unwrap();
        model.set_len(file, 5_000).unwrap();
        model.set_len(file, 9_000).unwrap();
        let bytes = model.read(file, 0, 20_000).unwrap();
        assert_eq!(bytes.len(), 9_000);
        assert!(bytes[..5_000].iter().all(|byte| *byte == 7));
        assert!(bytes[5_000..].iter().all(|byte| *byte == 0));
    }
}
