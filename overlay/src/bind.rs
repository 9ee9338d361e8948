//! One layer, read-only: overlayfs refuses a single layer without an upper, a copy of its mount does the same.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Error, Inner, Result};
use crate::{directory, sys};

pub(crate) fn mount(layer: &Path) -> Result<OwnedFd> {
    let source = directory::open_as("open layer", layer)?;
    let copy = directory::clone_mount(source.as_fd()).map_err(|errno| match errno {
        Errno::INVAL => Error::from(Inner::UnclonableLayer {
            path: layer.to_owned(),
            errno: errno.into(),
        }),
        Errno::NOSYS => unsupported("open_tree", "5.2", errno),
        _ => Error::sys("open_tree", layer)(errno),
    })?;
    sys::set_read_only(copy.as_fd()).map_err(|errno| match errno {
        Errno::NOSYS => unsupported("mount_setattr", "5.12", errno),
        _ => Error::sys("mount_setattr", layer)(errno),
    })?;
    Ok(copy)
}

fn unsupported(feature: &'static str, since: &'static str, errno: Errno) -> Error {
    Error::from(Inner::Unsupported {
        feature,
        since,
        errno: errno.into(),
    })
}
