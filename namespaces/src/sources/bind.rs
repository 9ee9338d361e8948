//! Sources of bind mounts.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{HostPath, Identity, Target, Tree};
use crate::error::{Error, Result};
use crate::mount::{Bind, Change, Depth, Links, Propagation, Source};
use crate::sys;

/// A clone of the tree of mounts behind a bind mount's source. A caller without the right to make one leaves it to the child.
pub(super) fn open_bind(
    step: &'static str,
    bind: &Bind,
    changes: &[Change],
) -> Result<(Tree<OwnedFd>, Target)> {
    let name = bind.source.name();
    let tree = clone_tree(step, bind)?;
    let Tree::Detached(fd) = &tree else {
        if bind.mapping.is_some() {
            return Err(Error::path("idmap the mount source", name)(Errno::PERM));
        }
        let stat = match &tree {
            Tree::Path(host) => rustix::fs::stat(&host.path).map_err(Error::path(step, name))?,
            Tree::Detached(fd) => rustix::fs::fstat(fd).map_err(Error::path(step, name))?,
        };
        return Ok((tree, kind_of(stat.st_mode)));
    };
    let stat = rustix::fs::fstat(fd).map_err(Error::path(step, name))?;
    change(fd.as_fd(), name, changes)?;
    if let Some(mapping) = &bind.mapping {
        idmap(fd.as_fd(), name, mapping.namespace()?.as_fd())?;
    }
    Ok((tree, kind_of(stat.st_mode)))
}

fn clone_tree(step: &'static str, bind: &Bind) -> Result<Tree<OwnedFd>> {
    match &bind.source {
        Source::Path(path) => {
            if bind.links == Links::Follow && bind.propagation == Propagation::Private {
                match open_tree(CWD, path, tree_flags(bind.depth)) {
                    Err(Errno::PERM) => {}
                    other => return other.map(Tree::Detached).map_err(Error::path(step, path)),
                }
            }
            let file = open_path(step, path, bind.links)?;
            clone_from(step, bind, file.as_fd(), &stat(file.as_fd(), path)?)
        }
        Source::Fd(fd) => clone_from(
            step,
            bind,
            fd.as_fd(),
            &stat(fd.as_fd(), bind.source.name())?,
        ),
        Source::Detached(fd) => fd
            .try_clone()
            .map(Tree::Detached)
            .map_err(Error::sys("duplicate a detached mount")),
    }
}

/// A clone of the tree behind `file`, which is not looked up again.
pub(super) fn clone_from(
    step: &'static str,
    bind: &Bind,
    file: BorrowedFd<'_>,
    stat: &Statx,
) -> Result<Tree<OwnedFd>> {
    let name = bind.source.name();
    if bind.propagation != Propagation::Private {
        require_peers(bind.propagation, file, name)?;
    }
    let flags = tree_flags(bind.depth) | OpenTreeFlags::AT_EMPTY_PATH;
    match open_tree(file, "", flags) {
        Err(Errno::PERM) => Ok(Tree::Path(HostPath {
            path: path_of(&bind.source, file)?,
            links: bind.links,
            depth: bind.depth,
            propagation: bind.propagation,
            identity: Identity::of(stat),
        })),
        // A detached mount, which could not be cloned before 6.15.
        Err(Errno::INVAL) if matches!(bind.source, Source::Fd(_)) => file
            .try_clone_to_owned()
            .map(Tree::Detached)
            .map_err(Error::path(step, name)),
        other => other.map(Tree::Detached).map_err(Error::path(step, name)),
    }
}

fn tree_flags(depth: Depth) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match depth {
        Depth::Top => flags,
        Depth::Recursive => flags | OpenTreeFlags::AT_RECURSIVE,
    }
}

/// An `O_PATH` fd.
pub(super) fn open_path(step: &'static str, path: &Path, links: Links) -> Result<OwnedFd> {
    let resolve = match links {
        Links::Follow => ResolveFlags::empty(),
        Links::Refuse => ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve).map_err(Error::path(step, path))
}

/// Where the child finds the source again.
fn path_of(source: &Source, file: BorrowedFd<'_>) -> Result<PathBuf> {
    match source {
        Source::Path(path) => Ok(path.clone()),
        Source::Fd(_) | Source::Detached(_) => {
            fs::read_link(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
                .map_err(Error::sys("read the path of a file descriptor"))
        }
    }
}

pub(super) fn stat(file: BorrowedFd<'_>, name: &Path) -> Result<Statx> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, mask).map_err(Error::path("statx", name))
}

fn kind_of(mode: u32) -> Target {
    if FileType::from_raw_mode(mode) == FileType::Directory {
        Target::Directory
    } else {
        Target::File
    }
}

impl Identity {
    fn of(stat: &Statx) -> Self {
        Identity {
            inode: stat.stx_ino,
            major: stat.stx_dev_major,
            minor: stat.stx_dev_minor,
        }
    }
}

pub(super) fn change(tree: BorrowedFd<'_>, name: &Path, changes: &[Change]) -> Result<()> {
    for change in changes {
        sys::mount_setattr(tree, change).map_err(Error::path("mount_setattr", name))?;
    }
    Ok(())
}

fn idmap(tree: BorrowedFd<'_>, name: &Path, namespace: BorrowedFd<'_>) -> Result<()> {
    match sys::idmap(tree, namespace) {
        Err(Errno::INVAL) => {
            let hint =
                "its filesystem, or one mounted below it, has no idmapped mounts in this kernel";
            Err(Error::unsupported_on("an idmapped mount", name, hint))
        }
        other => other.map_err(Error::path("idmap the mount source", name)),
    }
}

/// Fails unless mounts of the host's can reach a clone of the mount that `file` is on: to ask for it in vain is a mistake.
fn require_peers(wanted: Propagation, file: BorrowedFd<'_>, name: &Path) -> Result<()> {
    let id = stat(file, name)?.stx_mnt_id.to_string();
    let table = fs::read("/proc/thread-self/mountinfo").map_err(Error::sys("read mountinfo"))?;
    let lines = table.split(|&byte| byte == b'\n');
    let mut lines = lines.map(String::from_utf8_lossy);
    let line = lines.find(|line| line.split(' ').next() == Some(&id));
    let line = line.unwrap_or_default();
    // Optional fields stand between the sixth and a dash.
    let mut fields = line.split(' ').skip(6).take_while(|field| *field != "-");
    let reaches = fields.any(|field| match wanted {
        Propagation::Private => true,
        Propagation::Slave => field.starts_with("shared:") || field.starts_with("master:"),
        Propagation::Shared => field.starts_with("shared:"),
    });
    if reaches {
        return Ok(());
    }
    let reason = "is not on a shared mount, from which mounts could show up";
    Err(Error::invalid("mount source", name, reason))
}
