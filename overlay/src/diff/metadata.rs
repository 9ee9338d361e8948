//! What there is to know of a file besides its content.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::lowers::stat;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A fifo.
    Fifo,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A socket, which layers cannot hold.
    Socket,
}

/// What statx(2) tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Permissions with setuid, setgid and sticky bit: the low 12 bits of its mode.
    pub mode: u32,
    /// Its owner, as the caller sees it.
    pub uid: u32,
    /// Its group, as the caller sees it.
    pub gid: u32,
    /// Bytes of content or of a symlink's target; 0 for others.
    pub size: u64,
    /// When its content was last changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Major and minor number of a device; 0 for others.
    pub device: (u32, u32),
    /// How many names it has on its filesystem.
    pub links: u32,
}

impl Metadata {
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        stat(file).map(|found| Metadata::new(&found))
    }

    pub(crate) fn new(found: &Statx) -> Self {
        let kind = kind(found);
        let size = match kind {
            FileKind::Regular | FileKind::Symlink => found.stx_size,
            _ => 0,
        };
        Metadata {
            kind,
            mode: u32::from(found.stx_mode) & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            device: (found.stx_rdev_major, found.stx_rdev_minor),
            links: found.stx_nlink,
        }
    }

    /// Equal in all that a layer can tell of it.
    pub(crate) fn is_same(&self, other: &Metadata) -> bool {
        let links = other.links;
        Metadata { links, ..*self } == *other
    }

    /// The same for the root of a tree, whose times are those of its mount.
    pub(crate) fn is_same_root(&self, other: &Metadata) -> bool {
        let modified = other.modified;
        Metadata { modified, ..*self }.is_same(other)
    }
}

pub(crate) fn file_type(found: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(found.stx_mode))
}

fn kind(found: &Statx) -> FileKind {
    match file_type(found) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::CharacterDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::Regular,
    }
}
