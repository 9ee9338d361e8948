//! One file, and what belongs to it besides its data.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps,
    Uid, XattrFlags, chmodat, chownat, lgetxattr, llistxattr, lsetxattr, makedev, mkdirat, mknodat,
    readlinkat, statx, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::contents::{self, Copied};
use crate::{Marks, beneath};

/// The most the kernel gives for a list of names, and for a value.
const XATTR_MAX: usize = 64 << 10;

/// What is asked about a file: no more than it takes to make another like it.
const ASKED: StatxFlags = StatxFlags::BASIC_STATS;

/// A name in an opened directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
}

pub(super) fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(found.stx_mode.into())
}

impl Entry<'_> {
    pub(super) fn stat(&self) -> Result<Statx, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        statx(self.directory, self.name, flags, ASKED)
    }

    pub(super) fn make_directory(&self) -> Result<(), Errno> {
        mkdirat(self.directory, self.name, Mode::RWXU)
    }

    /// Makes `to` a copy of it, which is no directory.
    pub(super) fn copy_to(
        &self,
        to: &Entry<'_>,
        found: &Statx,
        marks: Marks,
    ) -> Result<Copied, Errno> {
        let mut copied = Copied::Bytes(0);
        match kind(found) {
            FileType::RegularFile => copied = self.copy_data_to(to)?,
            FileType::Symlink => {
                let target = readlinkat(self.directory, self.name, Vec::new())?;
                symlinkat(target, to.directory, to.name)?;
            }
            kind => {
                let device = makedev(found.stx_rdev_major, found.stx_rdev_minor);
                mknodat(to.directory, to.name, kind, Mode::RUSR | Mode::WUSR, device)?;
            }
        }
        self.copy_attributes_to(to, found, marks)?;
        Ok(copied)
    }

    /// Without blocking on what has become a FIFO since.
    fn copy_data_to(&self, to: &Entry<'_>) -> Result<Copied, Errno> {
        let from = beneath::open(self.directory, self.name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let now = statx(&from, c"", AtFlags::EMPTY_PATH, ASKED)?;
        if kind(&now) != FileType::RegularFile {
            return Err(Errno::STALE);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR;
        let file: OwnedFd = beneath::create(to.directory, to.name, flags, mode)?;
        contents::copy(from, file, now.stx_size)
    }

    /// Owner before mode, which a change of owner reduces, and both before xattrs, of which it takes capabilities away. Times
    /// last.
    pub(super) fn copy_attributes_to(
        &self,
        to: &Entry<'_>,
        found: &Statx,
        marks: Marks,
    ) -> Result<(), Errno> {
        let (owner, group) = (Uid::from_raw(found.stx_uid), Gid::from_raw(found.stx_gid));
        let itself = AtFlags::SYMLINK_NOFOLLOW;
        chownat(to.directory, to.name, Some(owner), Some(group), itself)?;
        if kind(found) != FileType::Symlink {
            let mode = Mode::from_raw_mode(found.stx_mode.into());
            chmodat(to.directory, to.name, mode, AtFlags::empty())?;
        }
        self.copy_xattrs_to(to, marks)?;
        let times = Timestamps {
            last_access: time(found.stx_atime),
            last_modification: time(found.stx_mtime),
        };
        utimensat(to.directory, to.name, &times, itself)
    }

    /// All but overlayfs's own, which say how a layer is to be stacked.
    fn copy_xattrs_to(&self, to: &Entry<'_>, marks: Marks) -> Result<(), Errno> {
        let (from, to) = (self.path(), to.path());
        let mut list = vec![0; XATTR_MAX];
        let length = match llistxattr(from.as_c_str(), &mut list[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
            done => done?,
        };
        let mut value = vec![0; XATTR_MAX];
        for name in list[..length].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            if marks.shown(name.to_bytes()).is_none() {
                continue;
            }
            match lgetxattr(from.as_c_str(), name, &mut value[..]) {
                // It was removed meanwhile.
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
                Ok(length) => {
                    lsetxattr(to.as_c_str(), name, &value[..length], XattrFlags::empty())?;
                }
            }
        }
        Ok(())
    }

    /// The value of an xattr, up to 2 bytes of it: longer ones are cut. None if there is none.
    pub(super) fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, Errno> {
        let mut value = [0; 2];
        match lgetxattr(self.path().as_c_str(), name, &mut value) {
            Ok(length) => Ok(Some(value[..length].to_vec())),
            Err(Errno::RANGE) => Ok(Some(value.to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// For calls that take no directory: its last part is not followed by those that are used here.
    fn path(&self) -> CString {
        let directory = format!("/proc/thread-self/fd/{}/", self.directory.as_raw_fd());
        let path = [directory.as_bytes(), self.name.to_bytes()].concat();
        // Neither half has a NUL inside.
        CString::new(path).unwrap_or_default()
    }
}

fn time(stamp: StatxTimestamp) -> Timespec {
    Timespec {
        tv_sec: stamp.tv_sec,
        tv_nsec: stamp.tv_nsec.into(),
    }
}
