//! The walk over an upper directory, with the layers' directories beside it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec::IntoIter;

use rustix::fs::{FileType, OFlags, Statx, readlinkat};
use rustix::io::{Errno, pread};

use super::Problem;
use super::lowers::{DIRECTORY, Directory, Lowers, stat};
use super::metadata::{FileKind, Metadata, file_type};
use super::xattrs::{self, Opened, Xattrs};
use crate::beneath;
use crate::error::{Error, Result};
use crate::marks::Marks;

/// The longest path: what the kernel takes, and so others who read the layer.
const LONGEST: usize = 4096;

/// Directories of layers that stay open, besides the layers and those of where the walk is. More are closed, and opened again.
const MOST_OPEN: usize = 64;

/// Where the walk is.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The upper, for errors.
    upper: PathBuf,
    pub(crate) marks: Marks,
    compare_content: bool,
    /// Also those that hide nothing.
    every_whiteout: bool,
    /// The directories above, the root first.
    stack: Vec<Level>,
    path: Vec<u8>,
    /// The root's step, until it was taken.
    start: Option<Entry>,
}

#[derive(Debug)]
struct Level {
    directory: Directory,
    names: IntoIter<CString>,
    lowers: Lowers,
    /// Of the directory's path.
    length: usize,
}

/// What the walk comes by.
#[derive(Debug)]
pub(crate) enum Step {
    /// A directory, which is entered: [`Walk::directory`] is it.
    Enter(Entry),
    /// Anything else: [`Walk::directory`] has it.
    File(Entry),
    /// A name the layers have and the upper hides.
    Whiteout,
    /// A directory is left: [`Walk::path`] is its.
    Leave,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) metadata: Metadata,
    pub(crate) standing: Standing,
    /// It hides what the layers have in this directory.
    pub(crate) opaque: bool,
    /// Device and inode.
    pub(crate) id: (u32, u32, u64),
}

/// How something in the upper stands to the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Added,
    Modified,
    Unchanged,
}

impl Walk {
    pub(crate) fn new(
        path: &Path,
        marks: Marks,
        compare_content: bool,
        upper: Directory,
        lowers: Lowers,
    ) -> Result<Self> {
        let mut walk = Walk {
            upper: path.to_owned(),
            marks,
            compare_content,
            every_whiteout: false,
            stack: Vec::new(),
            path: Vec::new(),
            start: None,
        };
        let found = stat(&upper.fd).map_err(walk.failed("statx"))?;
        let metadata = Metadata::new(&found);
        let standing = walk.root_standing(&metadata, &upper, &lowers)?;
        walk.start = Some(Entry::new(c"", &found, standing, false));
        walk.push(upper, lowers)?;
        Ok(walk)
    }

    /// Tells of whiteouts of nothing too, as all are where no layers are given.
    pub(crate) fn with_every_whiteout(mut self) -> Self {
        self.every_whiteout = true;
        self
    }

    /// Of the present step, below the upper; empty for the root.
    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The same for errors, with the upper.
    pub(crate) fn named(&self) -> PathBuf {
        match self.path.is_empty() {
            true => self.upper.clone(),
            false => self.upper.join(self.path()),
        }
    }

    pub(crate) fn directory(&self) -> Result<BorrowedFd<'_>> {
        match self.stack.last() {
            Some(level) => Ok(level.directory.fd.as_fd()),
            None => Err(self.failed("walk")(Errno::NOENT)),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Step>> {
        if let Some(root) = self.start.take() {
            return Ok(Some(Step::Enter(root)));
        }
        loop {
            let Some(level) = self.stack.last_mut() else {
                return Ok(None);
            };
            self.path.truncate(level.length);
            let Some(name) = level.names.next() else {
                self.stack.pop();
                return Ok(Some(Step::Leave));
            };
            self.reopen()?;
            self.append(&name)?;
            if let Some(step) = self.look(name)? {
                return Ok(Some(step));
            }
        }
    }

    /// For `map_err` after `op` on the present path.
    pub(crate) fn failed(&self, op: &'static str) -> impl FnOnce(Errno) -> Error {
        move |errno| Error::sys(op, &self.named())(errno)
    }

    /// Opens the regular file of the present step to be read.
    pub(crate) fn open(&self, entry: &Entry) -> Result<OwnedFd> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = beneath::open(self.directory()?, entry.name.as_c_str(), flags)
            .map_err(self.failed("open"))?;
        self.check_same(entry, &file)?;
        Ok(file)
    }

    /// Opens the present step's file, whatever it is, by `O_PATH`.
    pub(crate) fn open_path(&self, entry: &Entry) -> Result<OwnedFd> {
        let file = beneath::open(self.directory()?, entry.name.as_c_str(), OFlags::PATH)
            .map_err(self.failed("open"))?;
        self.check_same(entry, &file)?;
        Ok(file)
    }

    /// What an overlay would show of `file`.
    pub(crate) fn xattrs(&self, file: impl AsFd, opened: Opened) -> Result<Xattrs> {
        xattrs::shown(file, opened, self.marks, &self.named())
    }

    pub(crate) fn target(&self, entry: &Entry) -> Result<CString> {
        readlinkat(self.directory()?, &entry.name, Vec::new()).map_err(self.failed("readlink"))
    }

    fn append(&mut self, name: &CStr) -> Result<()> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        if self.path.len() < LONGEST {
            return Ok(());
        }
        Err(Error::from(Problem::LongPath {
            path: self.named(),
            length: self.path.len(),
            limit: LONGEST - 1,
        }))
    }

    /// None for what is no change: a whiteout of nothing, and what went meanwhile.
    fn look(&mut self, name: CString) -> Result<Option<Step>> {
        let Some(level) = self.stack.last() else {
            return Ok(None);
        };
        let Some(found) = level.directory.find(&name).map_err(self.failed("statx"))? else {
            return Ok(None);
        };
        let lower = level
            .lowers
            .find(&name, self.marks)
            .map_err(self.failed("statx in layers"))?;
        if level.directory.is_whiteout(&name, &found, self.marks) {
            let told = lower.is_some() || self.every_whiteout;
            return Ok(told.then_some(Step::Whiteout));
        }
        if file_type(&found) == FileType::Directory {
            return self.enter(&name, lower.as_ref()).map(Some);
        }
        let standing = match lower {
            None => Standing::Added,
            Some(lower) if self.compare_content => self.compare(&name, &found, &lower)?,
            Some(_) => Standing::Modified,
        };
        self.check_has_content(&name, &found)?;
        Ok(Some(Step::File(Entry::new(&name, &found, standing, false))))
    }

    fn enter(&mut self, name: &CStr, lower: Option<&Statx>) -> Result<Step> {
        self.save_fds();
        let fd = beneath::open(self.directory()?, name, DIRECTORY)
            .map_err(self.failed("open directory"))?;
        let upper = Directory::new(Arc::new(fd), self.marks, &self.named())?;
        let found = stat(&upper.fd).map_err(self.failed("statx"))?;
        let mut lowers = match lower.map(file_type) {
            Some(FileType::Directory) => self.lowers_of(name)?,
            _ => Lowers::none(),
        };
        let mut opaque = false;
        if upper.is_opaque() {
            opaque = lowers
                .has_entries(self.marks)
                .map_err(self.failed("read directory of layer"))?;
        }
        let standing = match lower {
            None => Standing::Added,
            Some(_) if opaque => Standing::Modified,
            Some(lower) => self.directory_standing(&found, lower, &upper, &lowers)?,
        };
        if upper.is_opaque() {
            lowers = Lowers::none();
        }
        self.push(upper, lowers)?;
        Ok(Step::Enter(Entry::new(name, &found, standing, opaque)))
    }

    fn save_fds(&mut self) {
        let levels = self.stack.get_mut(1..).unwrap_or_default();
        let open: usize = levels.iter().map(|level| level.lowers.open()).sum();
        if open > MOST_OPEN {
            levels.iter_mut().for_each(|level| level.lowers.close());
        }
    }

    /// Undoes the closing where the walk has come back to.
    fn reopen(&mut self) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(&self.path));
        match self.stack.last_mut() {
            Some(level) => level.lowers.reopen(path),
            None => Ok(()),
        }
    }

    /// The layers' directories of the present path, which is `name` in that of the walk.
    fn lowers_of(&self, name: &CStr) -> Result<Lowers> {
        match self.stack.last() {
            Some(level) => level.lowers.child(name, self.marks, &self.named()),
            None => Ok(Lowers::none()),
        }
    }

    fn push(&mut self, directory: Directory, lowers: Lowers) -> Result<()> {
        let names = directory.names().map_err(self.failed("read directory"))?;
        self.stack.push(Level {
            directory,
            names: names.into_iter(),
            lowers,
            length: self.path.len(),
        });
        Ok(())
    }

    fn root_standing(
        &self,
        metadata: &Metadata,
        upper: &Directory,
        lowers: &Lowers,
    ) -> Result<Standing> {
        let Some(top) = lowers.top().map_err(self.failed("open layer"))? else {
            return Ok(Standing::Added);
        };
        let lower = Metadata::new(&stat(&top.fd).map_err(self.failed("statx layer"))?);
        Ok(
            match metadata.is_same_root(&lower) && self.same_xattrs(upper, &top)? {
                true => Standing::Unchanged,
                false => Standing::Modified,
            },
        )
    }

    fn directory_standing(
        &self,
        found: &Statx,
        lower: &Statx,
        upper: &Directory,
        lowers: &Lowers,
    ) -> Result<Standing> {
        let same = Metadata::new(found).is_same(&Metadata::new(lower));
        let top = lowers
            .top()
            .map_err(self.failed("open directory of layer"))?;
        let Some(top) = top.filter(|_| same) else {
            return Ok(Standing::Modified);
        };
        Ok(match self.same_xattrs(upper, &top)? {
            true => Standing::Unchanged,
            false => Standing::Modified,
        })
    }

    fn same_xattrs(&self, upper: &Directory, lower: &Directory) -> Result<bool> {
        if !upper.has_xattrs() && !lower.has_xattrs() {
            return Ok(true);
        }
        let of = |directory: &Directory| self.xattrs(&directory.fd, Opened::Readable);
        Ok(of(upper)? == of(lower)?)
    }

    /// A copy-up of nothing but metadata has no blocks of data; to look at each file's xattrs would double the time of a walk.
    fn check_has_content(&self, name: &CStr, found: &Statx) -> Result<()> {
        let regular = file_type(found) == FileType::RegularFile;
        if !regular || found.stx_blocks.saturating_mul(512) >= found.stx_size {
            return Ok(());
        }
        let file =
            beneath::open(self.directory()?, name, OFlags::PATH).map_err(self.failed("open"))?;
        let list = xattrs::names(file, Opened::Path).map_err(self.failed("listxattr"))?;
        xattrs::refuse_metacopy(&list, self.marks, &self.named())
    }

    fn check_same(&self, entry: &Entry, file: &OwnedFd) -> Result<()> {
        let found = stat(file).map_err(self.failed("statx"))?;
        if id(&found) == entry.id && Metadata::new(&found).kind == entry.metadata.kind {
            return Ok(());
        }
        let path = self.named();
        Err(Problem::Changed { path }.into())
    }

    /// Whether a file is the layer's in every respect.
    fn compare(&self, name: &CStr, found: &Statx, lower: &Statx) -> Result<Standing> {
        let metadata = Metadata::new(found);
        let same = metadata.is_same(&Metadata::new(lower)) && self.same_content(name, &metadata)?;
        Ok(match same {
            true => Standing::Unchanged,
            false => Standing::Modified,
        })
    }

    fn same_content(&self, name: &CStr, metadata: &Metadata) -> Result<bool> {
        let (flags, opened) = match metadata.kind {
            FileKind::Regular => (OFlags::NONBLOCK | OFlags::NOCTTY, Opened::Readable),
            _ => (OFlags::PATH, Opened::Path),
        };
        let Some(level) = self.stack.last() else {
            return Ok(false);
        };
        let upper = beneath::open(&level.directory.fd, name, flags).map_err(self.failed("open"))?;
        let lower = level
            .lowers
            .open_file(name, flags)
            .map_err(self.failed("open in layers"))?;
        let Some(lower) = lower else { return Ok(false) };
        if self.xattrs(&upper, opened)? != self.xattrs(&lower, opened)? {
            return Ok(false);
        }
        match metadata.kind {
            FileKind::Regular => same_bytes(&upper, &lower).map_err(self.failed("read")),
            FileKind::Symlink => {
                let target = |link: &OwnedFd| readlinkat(link, c"", Vec::new());
                Ok(target(&upper).map_err(self.failed("readlink"))?
                    == target(&lower).map_err(self.failed("readlink"))?)
            }
            _ => Ok(true),
        }
    }
}

impl Entry {
    fn new(name: &CStr, found: &Statx, standing: Standing, opaque: bool) -> Self {
        Entry {
            name: name.to_owned(),
            metadata: Metadata::new(found),
            standing,
            opaque,
            id: id(found),
        }
    }
}

fn id(found: &Statx) -> (u32, u32, u64) {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
}

fn same_bytes(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let mut buffers = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut offset = 0;
    loop {
        let count = pread(one, &mut buffers.0, offset)?;
        if count == 0 {
            return Ok(pread(other, &mut buffers.1[..1], offset)? == 0);
        }
        let mut compared = 0;
        while compared < count {
            let at = offset + compared as u64;
            match pread(other, &mut buffers.1[compared..count], at)? {
                0 => return Ok(false),
                more => compared += more,
            }
        }
        if buffers.0[..count] != buffers.1[..count] {
            return Ok(false);
        }
        offset += count as u64;
    }
}
