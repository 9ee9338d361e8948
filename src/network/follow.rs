//! How `/etc/hosts` and `/etc/resolv.conf` of a container follow its networks while it runs.
//!
//! Each is a file in memory that the start mounted, and it is written in place, so that whoever has it open or mounted elsewhere
//! sees it. What is at its path now is the container's to say: it may have unmounted it, mounted something else there, or put a
//! link, a pipe or a filesystem of its own in the way. So nothing is opened but what is surely one of those files: reached
//! without a link, in a directory of the root's own mount or of memory, a mount of its own in memory, and with the very text that
//! was written last. What is not, is the container's own by now, and stays as it is.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, open, openat2,
    statx,
};

use super::Attached;
use super::files::Files;
use crate::running::Running;

/// More mounts than this tells of are the container's own work.
const MOST_MOUNTS: u64 = 1 << 20;

/// What was written last: `None` for a file that the caller has mounted.
#[derive(Debug, Default)]
pub(super) struct Written {
    hosts: Option<String>,
    resolv_conf: Option<String>,
}

impl Written {
    /// What a start writes, but for those of these paths.
    pub(super) fn at_start(files: &Files, taken: impl Fn(&str) -> bool) -> Self {
        let unless_taken = |path, text: &String| (!taken(path)).then(|| text.clone());
        Written {
            hosts: unless_taken("/etc/hosts", &files.hosts),
            resolv_conf: unless_taken("/etc/resolv.conf", &files.resolv_conf),
        }
    }
}

impl Running {
    /// Has its files say what its networks are now. What the container has made of them is no failure of the caller's.
    pub(super) fn refresh_files(&self, attached: &Attached) {
        let mut written = attached.written();
        let written = &mut *written;
        let Some(files) = self.files() else {
            return;
        };
        let each = [
            ("hosts", &mut written.hosts, files.hosts),
            ("resolv.conf", &mut written.resolv_conf, files.resolv_conf),
        ];
        let mut changed = each.into_iter().filter_map(|(name, last, text)| {
            let last = last.as_mut().filter(|last| **last != text)?;
            Some((name, last, text))
        });
        let Some(first) = changed.next() else {
            return;
        };
        let Ok(inside) = Inside::of(self) else {
            return;
        };
        for (name, last, text) in std::iter::once(first).chain(changed) {
            if inside.rewrite(name, last, &text).is_ok() {
                *last = text;
            }
        }
    }
}

/// `/etc` of a container as its program sees it, and the filesystems there.
struct Inside {
    etc: OwnedFd,
    mounts: String,
}

impl Inside {
    fn of(running: &Running) -> io::Result<Self> {
        let process = format!("/proc/{}", running.pid());
        let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = open(process.as_str(), path, Mode::empty())?;
        let root = rustix::fs::openat(&process, "root", path, Mode::empty())?;
        let table = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = rustix::fs::openat(&process, "mountinfo", table, Mode::empty())?;
        let mut mounts = String::new();
        File::from(table)
            .take(MOST_MOUNTS)
            .read_to_string(&mut mounts)?;
        // The number was the program's all the time: nobody else has it before that is waited for.
        if !matches!(running.try_wait(), Ok(None)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = Inside {
            etc: beneath(root.as_fd(), "etc", path)?,
            mounts,
        };
        let (of_root, of_etc) = (Place::of(root.as_fd())?, Place::of(inside.etc.as_fd())?);
        match of_etc.mount == of_root.mount || inside.filesystem(&of_etc) == Some("tmpfs") {
            true => Ok(inside),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Only if it says `last` now.
    fn rewrite(&self, name: &str, last: &str, text: &str) -> io::Result<()> {
        let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = beneath(self.etc.as_fd(), name, path)?;
        let place = Place::of(found.as_fd())?;
        if !place.is_file_mount || self.filesystem(&place) != Some("tmpfs") {
            return Err(io::ErrorKind::NotFound.into());
        }
        let found = format!("/proc/self/fd/{}", found.as_raw_fd());
        // Who has a lease on it is not waited for.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(open(found.as_str(), flags, Mode::empty())?);
        let mut now = Vec::new();
        (&file).take(last.len() as u64 + 1).read_to_end(&mut now)?;
        if now != last.as_bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Whoever reads meanwhile sees empty lines, and never the end of an old one.
        let mut padded = text.as_bytes().to_vec();
        padded.resize(text.len().max(last.len()), b'\n');
        file.write_all_at(&padded, 0)?;
        file.set_len(text.len() as u64)
    }

    fn filesystem(&self, place: &Place) -> Option<&str> {
        filesystem(&self.mounts, place.mount)
    }
}

/// What is somewhere. The filesystem, which the container may have to answer for, is not asked.
struct Place {
    mount: u64,
    /// Whether it is a file with a mount of its own.
    is_file_mount: bool,
}

impl Place {
    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(fd, "", flags, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
        if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let is_file = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
        let is_root = found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Ok(Place {
            mount: found.stx_mnt_id,
            is_file_mount: is_file && is_root,
        })
    }
}

/// Without a link on the way.
fn beneath(at: BorrowedFd<'_>, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(at, name, flags, Mode::empty(), resolve)
}

/// Of which kind the mount of this id is, in the text of a `mountinfo`.
fn filesystem(mounts: &str, id: u64) -> Option<&str> {
    let is_it = |line: &&str| {
        let first = line.split(' ').next();
        first.is_some_and(|first| first.parse() == Ok(id))
    };
    let line = mounts.lines().find(is_it)?;
    line.split_once(" - ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_mount_is_read_behind_any_number_of_fields() {
        let mounts = "24 1 0:22 / / rw shared:1 master:2 - overlay overlay rw\n\
                      240 24 0:30 /0 /etc/hosts rw - tmpfs none rw\n24";
        assert_eq!(filesystem(mounts, 24), Some("overlay"));
        assert_eq!(filesystem(mounts, 240), Some("tmpfs"));
        assert_eq!(filesystem(mounts, 2), None);
        assert_eq!(filesystem("7 cut off", 7), None);
    }
}
