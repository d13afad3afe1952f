//! The model as a mounted file system.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rand::rngs::SmallRng;

use super::model::{Directory, File, Inode, Loss, Lost, Model, Refusal};

/// The kernel remembers nothing: what it asks for is what the model holds.
const NO_CACHE: Duration = Duration::ZERO;

const O_TRUNC: i32 = 0o1000;

#[derive(Debug, Default)]
struct Disk {
    model: Model,
    /// The power is off: every operation fails.
    is_off: bool,
    /// Counts power cuts. Handles carry it: one from before a cut does nothing after it.
    life: u64,
}

/// A mounted disk whose power can be cut.
#[derive(Debug)]
pub(crate) struct LossyDisk {
    disk: Arc<Mutex<Disk>>,
    session: Option<BackgroundSession>,
}

impl LossyDisk {
    /// Mounts an empty one. Needs `/dev/fuse` and the right to mount.
    pub(crate) fn mount(at: &Path) -> io::Result<LossyDisk> {
        std::fs::create_dir_all(at)?;
        let disk = Arc::new(Mutex::new(Disk::default()));
        let mut config = fuser::Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("lossy".to_owned())];
        let session = fuser::spawn_mount(Mounted(Arc::clone(&disk)), at, &config)?;
        Ok(LossyDisk { disk, session: Some(session) })
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power. From this instant on every operation of a process that still runs fails.
    pub(crate) fn cut(&self, loss: Loss, random: &mut SmallRng) -> Lost {
        let mut disk = self.lock();
        disk.is_off = true;
        disk.life += 1;
        disk.model.cut(loss, random)
    }

    /// Gives the power back.
    pub(crate) fn power_on(&self) {
        self.lock().is_off = false;
    }

    /// From now on fsync answers and does nothing.
    pub(crate) fn lie_about_fsync(&self) {
        self.lock().model.lies = true;
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("a lossy disk was not unmounted: {error}");
        }
    }
}

struct Mounted(Arc<Mutex<Disk>>);

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Errno {
        match refusal {
            Refusal::Missing => Errno::ENOENT,
            Refusal::Exists => Errno::EEXIST,
            Refusal::NotEmpty => Errno::ENOTEMPTY,
            Refusal::WrongKind => Errno::EINVAL,
        }
    }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn attributes(number: u64, inode: &Inode) -> FileAttr {
    let (kind, size, perm, nlink) = match inode {
        Inode::File(file) => (FileType::RegularFile, file.len, 0o644, 1),
        Inode::Directory(_) => (FileType::Directory, 4096, 0o755, 2),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Mounted {
    /// Runs an operation, unless the power is off.
    fn run<T>(&self, operation: impl FnOnce(&mut Model) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut disk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.is_off {
            return Err(Errno::EIO);
        }
        operation(&mut disk.model)
    }

    /// … on an open file.
    fn run_on<T>(
        &self,
        handle: FileHandle,
        operation: impl FnOnce(&mut Model) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut disk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.is_off || disk.life != handle.0 {
            return Err(Errno::EIO);
        }
        operation(&mut disk.model)
    }

    fn handle(&self) -> FileHandle {
        FileHandle(self.0.lock().unwrap_or_else(PoisonError::into_inner).life)
    }

    fn answer_empty(
        &self,
        reply: ReplyEmpty,
        operation: impl FnOnce(&mut Model) -> Result<(), Errno>,
    ) {
        match self.run(operation) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, made: Inode) -> Result<FileAttr, Errno> {
        self.run(|model| {
            let number = model.make(parent.0, text(name)?, made)?;
            Ok(attributes(number, model.inode(number).ok_or(Errno::ENOENT)?))
        })
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.run(|model| {
            let number = model.lookup(parent.0, text(name)?).ok_or(Errno::ENOENT)?;
            Ok(attributes(number, model.inode(number).ok_or(Errno::ENOENT)?))
        });
        match found {
            Ok(found) => reply.entry(&NO_CACHE, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.run(|model| Ok(attributes(ino.0, model.inode(ino.0).ok_or(Errno::ENOENT)?))) {
            Ok(found) => reply.attr(&NO_CACHE, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.run(|model| {
            if let Some(size) = size {
                model.set_len(ino.0, size)?;
            }
            Ok(attributes(ino.0, model.inode(ino.0).ok_or(Errno::ENOENT)?))
        });
        match changed {
            Ok(found) => reply.attr(&NO_CACHE, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make(parent, name, Inode::Directory(Directory::default())) {
            Ok(made) => reply.entry(&NO_CACHE, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer_empty(reply, |model| Ok(model.unlink(parent.0, text(name)?)?));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer_empty(reply, |model| Ok(model.unlink(parent.0, text(name)?)?));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.answer_empty(reply, |model| {
            let from = (parent.0, text(name)?.to_owned());
            Ok(model.rename(from, (newparent.0, text(newname)?.to_owned()))?)
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.run(|model| {
            if flags.0 & O_TRUNC != 0 {
                model.set_len(ino.0, 0)?;
            }
            Ok(model.opened(ino.0)?)
        });
        match opened {
            // Past the page cache: what a process has written is in the model.
            Ok(()) => reply.opened(self.handle(), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let file = File::opened();
        match self.make(parent, name, Inode::File(file)) {
            Ok(made) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NO_CACHE, &made, Generation(0), self.handle(), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.run_on(fh, |model| Ok(model.read(ino.0, offset, size as usize)?)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.run_on(fh, |model| Ok(model.write(ino.0, offset, data)?)) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("the kernel cuts writes")),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // A cut has closed what was open before it.
        let _ = self.run_on(fh, |model| {
            model.closed(ino.0);
            Ok(())
        });
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.run_on(fh, |model| Ok(model.sync_file(ino.0)?)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer_empty(reply, |model| Ok(model.sync_directory(ino.0)?));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.run(|model| {
            let Some(Inode::Directory(directory)) = model.inode(ino.0) else {
                return Err(Errno::ENOENT);
            };
            let mut entries = vec![
                (ino.0, FileType::Directory, ".".to_owned()),
                (ino.0, FileType::Directory, "..".to_owned()),
            ];
            for (name, number) in &directory.names {
                let inode = model.inode(*number).ok_or(Errno::EIO)?;
                entries.push((*number, attributes(*number, inode).kind, name.clone()));
            }
            Ok(entries)
        });
        match listed {
            Err(error) => reply.error(error),
            Ok(entries) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                for (at, (number, kind, name)) in entries.into_iter().enumerate().skip(start) {
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        self.answer_empty(reply, |model| {
            let Some(Inode::File(file)) = model.inode(ino.0) else { return Err(Errno::ENOENT) };
            let len = file.len;
            if mode == 0 {
                return Ok(model.set_len(ino.0, len.max(offset + length))?);
            }
            if mode == KEEP_SIZE | PUNCH_HOLE {
                let end = (offset + length).min(len);
                let zeros = vec![0; usize::try_from(end.saturating_sub(offset)).expect("memory")];
                return Ok(model.write(ino.0, offset, &zeros)?);
            }
            Err(Errno::EOPNOTSUPP)
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 24;
        reply.statfs(BLOCKS, BLOCKS / 2, BLOCKS / 2, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
