//! What is set on a file beside its data, by as few calls as do it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod,
    chownat, fchmod, fchown, fsetxattr, fstat, futimens, getxattr, listxattr, lsetxattr, openat,
    utimensat,
};
use rustix::io::Errno;

use super::lower::{Lower, proc_path};
use super::pax::Time;
use crate::marks::Marks;

/// As it is to be on disk: ids mapped, xattrs filtered and escaped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Xattrs,
}

/// Whose what this process makes is, and which bits of a mode the kernel takes from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
}

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A call that failed, and its errno.
pub(crate) type Failed = (&'static str, Errno);

fn of(op: &'static str) -> impl Fn(Errno) -> Failed {
    move |errno| (op, errno)
}

/// Told of each xattr that could not be set; an error ends it all.
pub(crate) type OnXattr<'a> = &'a mut dyn FnMut(&[u8], Errno) -> Result<(), Errno>;

impl Meta {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.xattrs
            .iter()
            .map(|(name, value)| (name.len() + value.len() + 48) as u64)
            .sum()
    }

    /// Of something in a layer below: as it is there, but for overlayfs's own notes.
    pub(crate) fn of_lower(lower: &Lower, marks: Marks) -> Result<Self, Failed> {
        let Stat {
            st_mode,
            st_uid,
            st_gid,
            st_mtime,
            st_mtime_nsec,
            ..
        } = lower.stat;
        Ok(Meta {
            mode: st_mode & 0o7777,
            uid: st_uid,
            gid: st_gid,
            mtime: Time {
                seconds: st_mtime,
                nanoseconds: u32::try_from(st_mtime_nsec).unwrap_or(0),
            },
            xattrs: xattrs_of(lower, marks).map_err(of("read xattrs in lower layer of"))?,
        })
    }

    /// Whether changing the owner, or the umask, left another mode than asked for.
    fn needs_chmod(&self, maker: Maker) -> bool {
        self.mode & 0o7000 != 0 || self.mode & maker.umask != 0
    }

    fn owner(&self, maker: Maker) -> Option<(Option<Uid>, Option<Gid>)> {
        let same = (self.uid, self.gid) == (maker.uid, maker.gid);
        (!same).then(|| (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))))
    }

    fn times(&self) -> Timestamps {
        let time = Timespec {
            tv_sec: self.mtime.seconds,
            tv_nsec: self.mtime.nanoseconds.into(),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }

    /// On a file that was just made with the mode's permissions. The order matters: a chown takes set-id bits and
    /// capabilities away, and all but utimensat(2) itself changes times.
    pub(crate) fn set_on_file(
        &self,
        file: BorrowedFd<'_>,
        maker: Maker,
        on_xattr: OnXattr<'_>,
    ) -> Result<(), Failed> {
        if let Some((uid, gid)) = self.owner(maker) {
            fchown(file, uid, gid).map_err(of("chown"))?;
        }
        if self.needs_chmod(maker) {
            fchmod(file, Mode::from_raw_mode(self.mode)).map_err(of("chmod"))?;
        }
        self.set_xattrs(on_xattr, |name, value| {
            fsetxattr(file, name, value, XattrFlags::empty())
        })?;
        futimens(file, &self.times()).map_err(of("utimensat"))
    }

    /// On a directory in which nothing more is made.
    pub(crate) fn set_on_directory(
        &self,
        directory: BorrowedFd<'_>,
        maker: Maker,
        opaque: Option<Marks>,
        on_xattr: OnXattr<'_>,
    ) -> Result<(), Failed> {
        if let Some(marks) = opaque {
            fsetxattr(directory, marks.opaque(), b"y", XattrFlags::empty())
                .map_err(of("mark as opaque"))?;
        }
        if let Some((uid, gid)) = self.owner(maker) {
            fchown(directory, uid, gid).map_err(of("chown"))?;
        }
        fchmod(directory, Mode::from_raw_mode(self.mode)).map_err(of("chmod"))?;
        self.set_xattrs(on_xattr, |name, value| {
            fsetxattr(directory, name, value, XattrFlags::empty())
        })?;
        futimens(directory, &self.times()).map_err(of("utimensat"))
    }

    /// On a symlink or a node that was just made in `parent`.
    pub(crate) fn set_on_name(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
        maker: Maker,
        on_xattr: OnXattr<'_>,
    ) -> Result<(), Failed> {
        if let Some((uid, gid)) = self.owner(maker) {
            chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(of("chown"))?;
        }
        if kind != FileType::Symlink && self.needs_chmod(maker) {
            let node = node(parent, name, kind).map_err(of("open"))?;
            chmod(proc_path(node.as_fd()), Mode::from_raw_mode(self.mode)).map_err(of("chmod"))?;
        }
        if !self.xattrs.is_empty() {
            let path = [proc_path(parent).as_bytes(), b"/", name].concat();
            self.set_xattrs(on_xattr, |name, value| {
                lsetxattr(path.as_slice(), name, value, XattrFlags::empty())
            })?;
        }
        utimensat(parent, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW).map_err(of("utimensat"))
    }

    fn set_xattrs(
        &self,
        on_xattr: OnXattr<'_>,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Failed> {
        for (name, value) in &self.xattrs {
            if let Err(errno) = set(name, value) {
                on_xattr(name, errno).map_err(of("setxattr"))?;
            }
        }
        Ok(())
    }
}

/// By an fd, so that the mode is not set on what another may have put there: chmod follows symlinks.
fn node(parent: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(parent, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&node)?.st_mode) == kind {
        true => Ok(node),
        false => Err(Errno::STALE),
    }
}

fn xattrs_of(lower: &Lower, marks: Marks) -> Result<Xattrs, Errno> {
    let path = proc_path(lower.fd.as_fd());
    let mut names = vec![0; 64 << 10];
    let length = match listxattr(&path, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut all = Vec::new();
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0) {
        let own = marks.shown(name).is_none();
        if name.is_empty() || own || super::xattrs::is_filtered(name) {
            continue;
        }
        let length = getxattr(&path, name, &mut value)?;
        all.push((name.to_vec(), value[..length].to_vec()));
    }
    Ok(all)
}
