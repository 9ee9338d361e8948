//! The layers below, one directory of them at a time.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::Problem;
use super::metadata::file_type;
use super::xattrs::{self, Opened};
use crate::beneath;
use crate::error::{Error, Result};
use crate::marks::{Marks, is_whiteout};
use crate::roots::{Id, KEPT, Roots, id};

/// A directory as overlayfs merges it: those of the layers that have it, the top one first. Some of these are open, the others
/// are opened each time.
#[derive(Debug)]
pub(crate) struct Lowers {
    roots: Arc<Roots>,
    /// Below the roots; empty for these.
    path: Vec<u8>,
    merged: Vec<Merged>,
}

/// The directory of one layer.
#[derive(Debug)]
struct Merged {
    layer: usize,
    id: Id,
    found: Found,
    /// Unless it was closed.
    fd: Option<Arc<OwnedFd>>,
}

/// A directory of one layer, or of the upper.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: Arc<OwnedFd>,
    found: Found,
}

/// What its xattrs say.
#[derive(Clone, Copy, Debug)]
struct Found {
    opaque: Opaque,
    /// Whether there is any.
    has_xattrs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opaque {
    No,
    /// It hides what layers below have.
    Yes,
    /// Files in it may be whiteouts.
    WithXattrWhiteouts,
}

impl Directory {
    /// Reads the marks on an open directory, which must be one a plain layer can hold.
    pub(crate) fn new(fd: Arc<OwnedFd>, marks: Marks, path: &Path) -> Result<Self> {
        let failed = |op| Error::sys(op, path);
        let list = xattrs::names(&fd, Opened::Readable).map_err(failed("listxattr"))?;
        if xattrs::lists(&list, marks.redirect()) {
            return Err(Error::from(Problem::Elsewhere {
                path: path.to_owned(),
                mark: marks.redirect(),
                option: "redirect_dir",
            }));
        }
        let mut opaque = Opaque::No;
        if xattrs::lists(&list, marks.opaque()) {
            let mut value = [0; 2];
            let read = rustix::fs::fgetxattr(&fd, marks.opaque(), &mut value);
            opaque = match (read, value[0]) {
                (Ok(1), b'y') => Opaque::Yes,
                (Ok(1), b'x') => Opaque::WithXattrWhiteouts,
                _ => Opaque::No,
            };
        }
        let has_xattrs = !list.is_empty();
        let found = Found { opaque, has_xattrs };
        Ok(Directory { fd, found })
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.found.opaque == Opaque::Yes
    }

    /// Whether any xattr is on it.
    pub(crate) fn has_xattrs(&self) -> bool {
        self.found.has_xattrs
    }

    /// What it has of that name. None too where another process took it away.
    pub(crate) fn find(&self, name: &CStr) -> Result<Option<Statx>, Errno> {
        match statx(&self.fd, name, NO_FOLLOW, StatxFlags::BASIC_STATS) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether `found`, of that name, hides what layers below have.
    pub(crate) fn is_whiteout(&self, name: &CStr, found: &Statx, marks: Marks) -> bool {
        let kind = file_type(found);
        if is_whiteout(kind, found.stx_rdev_major, found.stx_rdev_minor) {
            return true;
        }
        self.found.opaque == Opaque::WithXattrWhiteouts
            && kind == FileType::RegularFile
            && found.stx_size == 0
            && beneath::open(&self.fd, name, OFlags::PATH)
                .and_then(|file| xattrs::names(file, Opened::Path))
                .is_ok_and(|list| xattrs::lists(&list, marks.whiteout()))
    }

    /// The names in it, sorted by their bytes.
    pub(crate) fn names(&self) -> Result<Vec<CString>, Errno> {
        let mut buffer = vec![MaybeUninit::uninit(); 1 << 15];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

pub(crate) const NO_FOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
/// How directories are opened.
pub(crate) const DIRECTORY: OFlags = OFlags::DIRECTORY;

impl Lowers {
    /// The roots of layers, the top one first.
    pub(crate) fn roots(roots: Roots, marks: Marks) -> Result<Self> {
        let mut lowers = Lowers {
            roots: Arc::new(roots),
            path: Vec::new(),
            merged: Vec::new(),
        };
        for layer in 0..lowers.roots.len() {
            let path = lowers.roots.path(layer).unwrap_or(Path::new(""));
            let fd = lowers
                .roots
                .fd(layer)
                .map_err(Error::sys("open layer", path))?;
            let root = Directory::new(fd, marks, path)?;
            lowers.push(layer, root)?;
        }
        Ok(lowers)
    }

    /// No directory of no layer.
    pub(crate) fn none() -> Self {
        Lowers {
            roots: Arc::new(Roots::none()),
            path: Vec::new(),
            merged: Vec::new(),
        }
    }

    /// How many fds it takes.
    pub(crate) fn open(&self) -> usize {
        self.merged.iter().filter(|one| one.fd.is_some()).count()
    }

    pub(crate) fn close(&mut self) {
        self.merged.iter_mut().for_each(|one| one.fd = None);
    }

    /// Opens again what was closed, as much as stays open.
    pub(crate) fn reopen(&mut self, path: &Path) -> Result<()> {
        for at in 0..self.merged.len().min(KEPT) {
            if self.merged[at].fd.is_none() {
                let opened = self.directory(&self.merged[at]).map_err(changed(path))?;
                self.merged[at].fd = Some(opened.fd);
            }
        }
        Ok(())
    }

    /// The topmost directory, whose metadata are those of the merged one.
    pub(crate) fn top(&self) -> Result<Option<Directory>, Errno> {
        self.directories().next().transpose()
    }

    /// What the merged directory has of that name.
    pub(crate) fn find(&self, name: &CStr, marks: Marks) -> Result<Option<Statx>, Errno> {
        for directory in self.directories() {
            let directory = directory?;
            if let Some(found) = directory.find(name)? {
                let hidden = directory.is_whiteout(name, &found, marks);
                return Ok((!hidden).then_some(found));
            }
        }
        Ok(None)
    }

    /// The directory `name` of the merged directory, at `path` in errors; without any directories where it has none.
    pub(crate) fn child(&self, name: &CStr, marks: Marks, path: &Path) -> Result<Lowers> {
        let mut below = self.path.clone();
        if !below.is_empty() {
            below.push(b'/');
        }
        below.extend_from_slice(name.to_bytes());
        let mut child = Lowers {
            roots: Arc::clone(&self.roots),
            path: below,
            merged: Vec::new(),
        };
        for parent in &self.merged {
            let within = self.directory(parent).map_err(changed(path))?;
            let fd = match beneath::open(&within.fd, name, DIRECTORY) {
                Ok(fd) => Arc::new(fd),
                Err(Errno::NOENT) => continue,
                // A whiteout, or a file that hides directories below.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(errno) => return Err(Error::sys("open directory of layer", path)(errno)),
            };
            let found = Directory::new(fd, marks, path)?;
            let last = found.is_opaque();
            child.push(parent.layer, found)?;
            if last {
                break;
            }
        }
        Ok(child)
    }

    /// Whether the merged directory has anything in it.
    pub(crate) fn has_entries(&self, marks: Marks) -> Result<bool, Errno> {
        for directory in self.directories() {
            for name in directory?.names()? {
                if self.find(&name, marks)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The file `name` of the merged directory, opened with `flags`.
    pub(crate) fn open_file(&self, name: &CStr, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        for directory in self.directories() {
            match beneath::open(&directory?.fd, name, flags) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    fn directories(&self) -> impl Iterator<Item = Result<Directory, Errno>> {
        self.merged.iter().map(|one| self.directory(one))
    }

    /// `ESTALE` where the layer has another one there than it had.
    fn directory(&self, merged: &Merged) -> Result<Directory, Errno> {
        let found = merged.found;
        if let Some(fd) = &merged.fd {
            let fd = Arc::clone(fd);
            return Ok(Directory { fd, found });
        }
        let root = self.roots.fd(merged.layer)?;
        let fd = match self.path.as_slice() {
            [] => root,
            path => Arc::new(beneath::open(root, path, DIRECTORY)?),
        };
        match id(&fd)? == merged.id {
            true => Ok(Directory { fd, found }),
            false => Err(Errno::STALE),
        }
    }

    fn push(&mut self, layer: usize, directory: Directory) -> Result<()> {
        let failed = |errno| Error::sys("stat directory of layer", Path::new("."))(errno);
        self.merged.push(Merged {
            layer,
            id: id(&directory.fd).map_err(failed)?,
            found: directory.found,
            fd: (self.merged.len() < KEPT).then_some(directory.fd),
        });
        Ok(())
    }
}

/// For `map_err` where a directory that was there is to be opened again.
fn changed(path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_owned();
    move |errno| match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => {
            Problem::Changed { path }.into()
        }
        errno => Error::sys("open directory of layer", &path)(errno),
    }
}

/// What statx(2) tells of an open file.
pub(crate) fn stat(file: impl AsFd) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}
