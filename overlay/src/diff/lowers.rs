//! The layers below, one directory of them at a time.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Problem;
use super::metadata::file_type;
use super::xattrs::{self, Opened};
use crate::beneath;
use crate::error::{Error, Result};
use crate::marks::{Marks, is_whiteout};

/// A directory as overlayfs merges it: those of the layers that have it, the top one first.
#[derive(Debug, Default)]
pub(crate) struct Lowers {
    /// Which layers have it.
    layers: Vec<usize>,
    /// It in each of these, unless they were closed.
    directories: Vec<Directory>,
}

/// A directory of one layer, or of the upper.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    opaque: Opaque,
    /// Whether any xattr is on it.
    pub(crate) has_xattrs: bool,
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
    pub(crate) fn new(fd: OwnedFd, marks: Marks, path: &Path) -> Result<Self> {
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
        Ok(Directory {
            fd,
            opaque,
            has_xattrs: !list.is_empty(),
        })
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.opaque == Opaque::Yes
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
        self.opaque == Opaque::WithXattrWhiteouts
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
    pub(crate) fn roots(directories: Vec<Directory>) -> Self {
        let layers = (0..directories.len()).collect();
        Lowers {
            layers,
            directories,
        }
    }

    /// How many fds it takes.
    pub(crate) fn open(&self) -> usize {
        self.directories.len()
    }

    pub(crate) fn close(&mut self) {
        self.directories = Vec::new();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.directories.len() < self.layers.len()
    }

    /// The topmost directory, whose metadata are those of the merged one.
    pub(crate) fn top(&self) -> Option<&Directory> {
        self.directories.first()
    }

    /// What the merged directory has of that name.
    pub(crate) fn find(&self, name: &CStr, marks: Marks) -> Result<Option<Statx>, Errno> {
        for directory in &self.directories {
            if let Some(found) = directory.find(name)? {
                let hidden = directory.is_whiteout(name, &found, marks);
                return Ok((!hidden).then_some(found));
            }
        }
        Ok(None)
    }

    /// The directory `name` of the merged directory; without any directories where it has none.
    pub(crate) fn child(&self, name: &CStr, marks: Marks, path: &Path) -> Result<Lowers> {
        let within = self.directories.iter().map(|directory| &directory.fd);
        merged(self.layers.iter().copied().zip(within), name, marks, path)
    }

    /// The directory at `path` below these roots, whose parent is `parent`.
    pub(crate) fn descendant(&self, parent: &Lowers, marks: Marks, path: &Path) -> Result<Lowers> {
        let root = |layer: &usize| Some((*layer, &self.directories.get(*layer)?.fd));
        merged(parent.layers.iter().filter_map(root), path, marks, path)
    }

    /// The one at `path` below these roots that was `closed`.
    pub(crate) fn again(&self, closed: &Lowers, marks: Marks, path: &Path) -> Result<Lowers> {
        let found = self.descendant(closed, marks, path)?;
        if found.layers == closed.layers {
            return Ok(found);
        }
        let path = path.to_owned();
        Err(Problem::Changed { path }.into())
    }

    /// Whether the merged directory has anything in it.
    pub(crate) fn has_entries(&self, marks: Marks) -> Result<bool, Errno> {
        for directory in &self.directories {
            for name in directory.names()? {
                if self.find(&name, marks)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The file `name` of the merged directory, opened with `flags`.
    pub(crate) fn open_file(&self, name: &CStr, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        for directory in &self.directories {
            match beneath::open(&directory.fd, name, flags) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }
}

/// Those of the directories `name` that overlayfs merges, each in one of the directories `within` of layers.
fn merged<'a>(
    within: impl Iterator<Item = (usize, &'a OwnedFd)>,
    name: impl Arg + Copy,
    marks: Marks,
    path: &Path,
) -> Result<Lowers> {
    let mut merged = Lowers::default();
    for (layer, parent) in within {
        let fd = match beneath::open(parent, name, DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            // A whiteout, or a file that hides directories below.
            Err(Errno::NOTDIR | Errno::LOOP) => break,
            Err(errno) => return Err(Error::sys("open directory of layer", path)(errno)),
        };
        let found = Directory::new(fd, marks, path)?;
        let last = found.is_opaque();
        merged.layers.push(layer);
        merged.directories.push(found);
        if last {
            break;
        }
    }
    Ok(merged)
}

/// What statx(2) tells of an open file.
pub(crate) fn stat(file: impl AsFd) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}
