//! The throw-away upper: a tmpfs of bounded size that is attached nowhere. And an empty layer of the same make.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::fs::{Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{getegid, geteuid};

use crate::context::{Context, Refusal};
use crate::error::{Error, Result};
use crate::upper::Directories;

/// Its name in errors.
pub(crate) const NAME: &str = "scratch upper";
/// The name in errors of the layer below a single one.
pub(crate) const EMPTY: &str = "empty layer";

/// The options of its tmpfs. Inodes are bounded too: an empty file costs the kernel memory that `size` does not count.
pub(crate) fn options(size: u64) -> [(&'static str, String); 2] {
    let inodes = size.div_ceil(4096).max(1024);
    [
        ("size", size.to_string()),
        ("nr_inodes", inodes.to_string()),
    ]
}

/// Mounts it detached, and makes the directories. Their fds do not keep the mount: it is among them.
pub(crate) fn mount(size: u64, top: BorrowedFd<'_>) -> Result<Directories> {
    let tmpfs = detached(size).map_err(|refusal| refusal.on(Path::new(NAME)))?;
    let directories = populate(tmpfs.as_fd(), top)?;
    Ok(Directories {
        mount: Some(tmpfs),
        ..directories
    })
}

/// An empty directory to be a layer, on a mount of its own: the fd is to be kept as [`Directories`] keep theirs.
pub(crate) fn empty() -> Result<OwnedFd> {
    detached(1 << 16).map_err(|refusal| refusal.on(Path::new(EMPTY)))
}

/// One with nothing but an upper and a workdir, for a trial.
pub(crate) fn bare() -> Result<(OwnedFd, Directories), Refusal> {
    let tmpfs = detached(1 << 16)?;
    let make = |name: &'static str| {
        let silent = |errno| Refusal::silent("mkdir", errno);
        mkdirat(&tmpfs, name, Mode::RWXU).map_err(silent)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&tmpfs, name, flags, Mode::empty()).map_err(silent)
    };
    let directories = Directories {
        upper: make("upper")?,
        work: make("work")?,
        mount: None,
    };
    Ok((tmpfs, directories))
}

fn detached(size: u64) -> Result<OwnedFd, Refusal> {
    let context = Context::open("tmpfs")?;
    for (key, value) in options(size) {
        context.string(key, &value)?;
    }
    context.create()?;
    context.mount(MountAttrFlags::empty())
}

/// Makes upper and work in it. The root of an overlay looks like its upper's: it gets mode and owner of `top`.
pub(crate) fn populate(scratch: BorrowedFd<'_>, top: BorrowedFd<'_>) -> Result<Directories> {
    let failed = |op| Error::sys(op, Path::new(NAME));
    let like = fstat(top).map_err(failed("fstat top layer for"))?;
    make(scratch, "upper")?;
    make(scratch, "work")?;
    adopt_owner(scratch, &like).map_err(failed("chown"))?;
    chmodat(
        scratch,
        "upper",
        Mode::from_raw_mode(like.st_mode),
        AtFlags::empty(),
    )
    .map_err(failed("chmod"))?;
    Ok(Directories {
        upper: open(scratch, "upper")?,
        work: open(scratch, "work")?,
        mount: None,
    })
}

/// Opens the directory `name` of it.
pub(crate) fn open(scratch: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(scratch, name, flags, Mode::empty()).map_err(Error::sys("open", Path::new(NAME)))
}

pub(crate) fn make(scratch: impl AsFd, name: &str) -> Result<()> {
    mkdirat(scratch, name, Mode::RWXU).map_err(Error::sys("mkdir", Path::new(NAME)))
}

/// An owner without an id in this user namespace shows as the overflow id, which cannot be given: EINVAL.
fn adopt_owner(scratch: BorrowedFd<'_>, like: &Stat) -> Result<(), Errno> {
    let (owner, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    if (owner, group) == (geteuid(), getegid()) {
        return Ok(());
    }
    match chownat(scratch, "upper", Some(owner), Some(group), AtFlags::empty()) {
        Err(Errno::INVAL) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_bounded_by_the_size() {
        let inodes = |size| options(size)[1].1.clone();
        assert_eq!(inodes(1), "1024");
        assert_eq!(inodes(1 << 30), "262144");
        assert_eq!(options(1 << 20)[0], ("size", "1048576".to_owned()));
    }
}
