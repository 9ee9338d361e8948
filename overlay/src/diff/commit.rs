//! A diff as a directory that is a layer.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, removexattr,
    renameat, setxattr, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::Problem;
use super::lowers::{DIRECTORY, Directory};
use super::metadata::{FileKind, Metadata};
use super::options::Diff;
use super::walk::{Entry, Standing, Step, Walk};
use super::write::{Links, MOST_OMITTED, Omitted, OmittedPart};
use super::xattrs::{self, Opened, Xattrs};
use crate::beneath;
use crate::contents;
use crate::directory::by_fd;
use crate::error::{Error, Result};

/// What a layer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of content of regular files, holes included; a file of several names counts once.
    pub bytes: u64,
    /// Files, directories and whiteouts; a file of several names counts once.
    pub inodes: u64,
}

/// A layer that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// What it takes, its root not counted.
    pub usage: Usage,
    /// What a layer cannot hold, at most the first 1000.
    pub skipped: Vec<Omitted>,
}

pub(super) fn copy(diff: &Diff, target: &Path) -> Result<Committed> {
    Commit::new(diff, target, false)?.run()
}

pub(super) fn moving(diff: &Diff, target: &Path) -> Result<Committed> {
    Commit::new(diff, target, true)?.run()
}

/// What it would take.
pub(super) fn usage(diff: &Diff) -> Result<Usage> {
    used(diff.walk()?)
}

/// What a layer takes whose whiteouts all hide something: the layers below need not be looked at.
pub(crate) fn usage_of_layer(layer: &Diff) -> Result<Usage> {
    used(layer.walk()?.with_every_whiteout())
}

fn used(mut walk: Walk) -> Result<Usage> {
    let mut seen = HashSet::new();
    let mut usage = Usage::default();
    while let Some(step) = walk.next()? {
        match step {
            Step::Enter(_) if walk.path().as_os_str().is_empty() => {}
            Step::Enter(_) | Step::Whiteout => usage.inodes += 1,
            Step::File(entry) => {
                if entry.metadata.links < 2 || seen.insert(entry.id) {
                    usage.inodes += 1;
                    // Holes count: a few files of the largest size are more than there is a number for.
                    usage.bytes = usage.bytes.saturating_add(content(&entry.metadata));
                }
            }
            Step::Leave => {}
        }
    }
    Ok(usage)
}

fn content(metadata: &Metadata) -> u64 {
    match metadata.kind {
        FileKind::Regular => metadata.size,
        _ => 0,
    }
}

struct Commit {
    walk: Walk,
    moving: bool,
    target: PathBuf,
    /// The directories that are being filled, the root first.
    stack: Vec<Level>,
    links: Links,
    done: Committed,
}

struct Level {
    fd: Arc<OwnedFd>,
    name: CString,
    metadata: Metadata,
    /// It stays, also with nothing in it.
    stays: bool,
}

impl Commit {
    fn new(diff: &Diff, target: &Path, moving: bool) -> Result<Self> {
        let walk = diff.walk()?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            openat(CWD, target, flags, Mode::empty()).map_err(Error::sys("open target", target))?;
        let root = Directory::new(Arc::new(fd), walk.marks, target)?;
        if !root
            .names()
            .map_err(Error::sys("read directory", target))?
            .is_empty()
        {
            let path = target.to_owned();
            return Err(Problem::NotEmpty { path }.into());
        }
        // The root's step names no directory to be made: it is found here.
        let metadata = Metadata::of(&root.fd).map_err(Error::sys("statx", target))?;
        let root = Level {
            fd: root.fd,
            name: CString::default(),
            metadata,
            stays: true,
        };
        Ok(Commit {
            walk,
            moving,
            target: target.to_owned(),
            stack: vec![root],
            links: Links::default(),
            done: Committed {
                usage: Usage::default(),
                skipped: Vec::new(),
            },
        })
    }

    fn run(mut self) -> Result<Committed> {
        while let Some(step) = self.walk.next()? {
            match step {
                Step::Enter(entry) => self.enter(&entry)?,
                Step::File(entry) if entry.standing == Standing::Unchanged => {}
                Step::File(entry) => self.file(&entry)?,
                Step::Whiteout => self.whiteout()?,
                Step::Leave => self.leave()?,
            }
        }
        Ok(self.done)
    }

    /// For `map_err` after `op` on the present path of the new layer.
    fn failed(&self, op: &'static str) -> impl FnOnce(Errno) -> Error {
        let path = self.target.join(self.walk.path());
        move |errno| Error::sys(op, &path)(errno)
    }

    fn here(&self) -> Result<BorrowedFd<'_>> {
        match self.stack.last() {
            Some(level) => Ok(level.fd.as_fd()),
            None => Err(self.failed("fill")(Errno::NOENT)),
        }
    }

    fn enter(&mut self, entry: &Entry) -> Result<()> {
        if self.walk.path().as_os_str().is_empty() {
            if let Some(root) = self.stack.first_mut() {
                root.metadata = entry.metadata;
            }
        } else {
            self.make_directory(entry)?;
        }
        let made = self.here()?;
        let xattrs = self.walk.xattrs(self.walk.directory()?, Opened::Readable)?;
        self.set_xattrs(made, Opened::Readable, &xattrs)?;
        if entry.opaque {
            fsetxattr(made, self.walk.marks.opaque(), b"y", XattrFlags::empty())
                .map_err(self.failed("mark opaque"))?;
        }
        Ok(())
    }

    fn make_directory(&mut self, entry: &Entry) -> Result<()> {
        let name = entry.name.as_c_str();
        mkdirat(self.here()?, name, Mode::RWXU).map_err(self.failed("mkdir"))?;
        let fd = beneath::open(self.here()?, name, DIRECTORY).map_err(self.failed("open"))?;
        self.stack.push(Level {
            fd: Arc::new(fd),
            name: entry.name.clone(),
            metadata: entry.metadata,
            stays: entry.standing != Standing::Unchanged,
        });
        if entry.standing != Standing::Unchanged {
            self.count(0);
        }
        Ok(())
    }

    /// Something was made: it, and what it is in, stays.
    fn count(&mut self, bytes: u64) {
        self.done.usage.inodes += 1;
        self.done.usage.bytes = self.done.usage.bytes.saturating_add(bytes);
        for level in self.stack.iter_mut().rev().skip_while(|level| level.stays) {
            if !level.stays {
                level.stays = true;
                self.done.usage.inodes += 1;
            }
        }
    }

    fn leave(&mut self) -> Result<()> {
        let Some(level) = self.stack.pop() else {
            return Ok(());
        };
        if !level.stays {
            return unlinkat(self.here()?, &level.name, AtFlags::REMOVEDIR)
                .map_err(self.failed("rmdir"));
        }
        self.own(&level.fd, &level.metadata)
    }

    /// Owner, then mode, which a change of owner may cut, then times, which anything may change.
    fn own(&self, made: &OwnedFd, metadata: &Metadata) -> Result<()> {
        let (owner, group) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        fchown(made, Some(owner), Some(group)).map_err(self.failed("chown"))?;
        fchmod(made, Mode::from_raw_mode(metadata.mode)).map_err(self.failed("chmod"))?;
        futimens(made, &times(metadata)).map_err(self.failed("utimensat"))
    }

    fn whiteout(&mut self) -> Result<()> {
        let name = self.walk.path().file_name().unwrap_or_default().as_bytes();
        mknodat(
            self.here()?,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        )
        .map_err(self.failed("mknod"))?;
        self.count(0);
        Ok(())
    }

    fn file(&mut self, entry: &Entry) -> Result<()> {
        if entry.metadata.kind == FileKind::Socket {
            let path = self.walk.path().to_owned();
            let what = OmittedPart::Socket;
            if self.done.skipped.len() < MOST_OMITTED {
                self.done.skipped.push(Omitted { path, what });
            }
            return Ok(());
        }
        let path = self.walk.path().as_os_str().as_bytes().to_vec();
        let first = self.links.first_of(entry, &path);
        let is_new = first.is_none();
        if !self.moves(entry)? {
            match first {
                Some(first) => self.link(&first, &entry.name)?,
                None => self.make(entry)?,
            }
        }
        let bytes = if is_new { content(&entry.metadata) } else { 0 };
        self.count(bytes);
        if !is_new {
            self.done.usage.inodes -= 1;
        }
        Ok(())
    }

    fn link(&self, first: &[u8], name: &CStr) -> Result<()> {
        let Some(root) = self.stack.first() else {
            return Ok(());
        };
        let first = beneath::open(&root.fd, first, OFlags::PATH).map_err(self.failed("open"))?;
        linkat(
            CWD,
            by_fd(&first),
            self.here()?,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )
        .map_err(self.failed("link"))
    }

    /// Moves the file, where that was asked for and both are on one filesystem.
    fn moves(&self, entry: &Entry) -> Result<bool> {
        if !self.moving {
            return Ok(false);
        }
        let file = self.walk.open_path(entry)?;
        let list = xattrs::names(&file, Opened::Path).map_err(self.walk.failed("listxattr"))?;
        xattrs::refuse_metacopy(&list, self.walk.marks, &self.walk.named())?;
        let name = entry.name.as_c_str();
        match renameat(self.walk.directory()?, name, self.here()?, name) {
            Ok(()) => {}
            Err(Errno::XDEV) => return Ok(false),
            Err(errno) => return Err(self.failed("rename")(errno)),
        }
        for name in xattrs::split(&list) {
            if self.walk.marks.shown(name.to_bytes()).is_none() {
                removexattr(by_fd(&file), name).map_err(self.failed("removexattr"))?;
            }
        }
        Ok(true)
    }

    fn make(&self, entry: &Entry) -> Result<()> {
        let name = entry.name.as_c_str();
        let here = self.here()?;
        let mode = Mode::from_raw_mode(entry.metadata.mode);
        let kind = match entry.metadata.kind {
            FileKind::Regular => return self.make_regular(entry),
            FileKind::Symlink => {
                let target = self.walk.target(entry)?;
                symlinkat(target.as_c_str(), here, name).map_err(self.failed("symlink"))?;
                return self.finish_special(entry);
            }
            FileKind::Fifo => FileType::Fifo,
            FileKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::CharacterDevice,
        };
        let (major, minor) = entry.metadata.device;
        mknodat(here, name, kind, mode, makedev(major, minor)).map_err(self.failed("mknod"))?;
        self.finish_special(entry)
    }

    fn make_regular(&self, entry: &Entry) -> Result<()> {
        let source = self.walk.open(entry)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = beneath::create(self.here()?, entry.name.as_c_str(), flags, mode)
            .map_err(self.failed("create"))?;
        contents::copy(&source, &made, entry.metadata.size).map_err(self.failed("copy to"))?;
        let xattrs = self.walk.xattrs(&source, Opened::Readable)?;
        let (owner, group) = (entry.metadata.uid, entry.metadata.gid);
        fchown(
            &made,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(group)),
        )
        .map_err(self.failed("chown"))?;
        // After the owner: its change takes file capabilities away.
        self.set_xattrs(made.as_fd(), Opened::Readable, &xattrs)?;
        fchmod(&made, Mode::from_raw_mode(entry.metadata.mode)).map_err(self.failed("chmod"))?;
        futimens(&made, &times(&entry.metadata)).map_err(self.failed("utimensat"))
    }

    fn finish_special(&self, entry: &Entry) -> Result<()> {
        let (name, here) = (entry.name.as_c_str(), self.here()?);
        let (owner, group) = (entry.metadata.uid, entry.metadata.gid);
        let (owner, group) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)));
        chownat(here, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("chown"))?;
        let made = beneath::open(here, name, OFlags::PATH).map_err(self.failed("open"))?;
        if entry.metadata.kind != FileKind::Symlink {
            let mode = Mode::from_raw_mode(entry.metadata.mode);
            rustix::fs::chmod(by_fd(&made), mode).map_err(self.failed("chmod"))?;
        }
        let source = self.walk.open_path(entry)?;
        let xattrs = self.walk.xattrs(&source, Opened::Path)?;
        self.set_xattrs(made.as_fd(), Opened::Path, &xattrs)?;
        utimensat(
            here,
            name,
            &times(&entry.metadata),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(self.failed("utimensat"))
    }

    fn set_xattrs(&self, made: BorrowedFd<'_>, opened: Opened, xattrs: &Xattrs) -> Result<()> {
        for (name, value) in xattrs {
            let stored = self.walk.marks.stored(name);
            let name = OsStr::from_bytes(&stored);
            match opened {
                Opened::Readable => fsetxattr(made, name, value, XattrFlags::empty()),
                Opened::Path => setxattr(by_fd(made), name, value, XattrFlags::empty()),
            }
            .map_err(self.failed("setxattr"))?;
        }
        Ok(())
    }
}

fn times(metadata: &Metadata) -> Timestamps {
    let (seconds, nanoseconds) = metadata.modified;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
