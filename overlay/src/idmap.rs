//! Layers whose files have other owners: their mounts, with the ids of a user namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Inner, Result};
use crate::{directory, sys};

/// A user namespace, for the layer of this number or for those without one of their own.
#[derive(Clone, Debug)]
pub(crate) struct Idmap {
    pub(crate) layer: Option<usize>,
    pub(crate) namespace: Arc<OwnedFd>,
}

impl PartialEq for Idmap {
    fn eq(&self, other: &Self) -> bool {
        self.layer == other.layer && Arc::ptr_eq(&self.namespace, &other.namespace)
    }
}

impl Eq for Idmap {}

/// A detached mount of `layer` that shows the files with the ids of `namespace`.
pub(crate) fn mapped(
    path: &Path,
    layer: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    let copy = directory::clone_mount(layer).map_err(Error::sys("clone the mount of", path))?;
    match sys::mount_setattr(copy.as_fd(), sys::MOUNT_ATTR_IDMAP, Some(namespace)) {
        Ok(()) => Ok(copy),
        Err(errno @ (Errno::NOSYS | Errno::OPNOTSUPP)) => Err(Inner::Unsupported {
            feature: "idmapped mount",
            path: path.to_owned(),
            since: "5.12, and 5.19 below overlayfs",
            errno: Some(errno.into()),
        }
        .into()),
        Err(errno) => Err(Error::sys("idmap the mount of", path)(errno)),
    }
}
