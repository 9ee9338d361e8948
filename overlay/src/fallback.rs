//! The layers as a copy, where there is no overlayfs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result};
use crate::flatten::{self, Flatten};
use crate::marks::Marks;
use crate::mount::{Applied, Made, OverlayMount};
use crate::overlay::Overlay;
use crate::upper::{Directories, Upper};
use crate::{directory, native, sys};

/// Copies what `overlay` would show to `directory`. Where that would not be the same, `refused` stays the answer.
pub(crate) fn copy(overlay: &Overlay, directory: &Path, refused: Error) -> Result<OverlayMount> {
    if !refused.is_of_overlayfs() || overlay.has_idmaps() || !overlay.data().is_empty() {
        return Err(refused);
    }
    let mut layers = overlay.layers().to_vec();
    let mut _lock = None;
    if let Some(Upper::Directories { upper, work }) = overlay.upper() {
        _lock = overlay.claim(&Directories::open(upper, work)?)?;
        layers.insert(0, upper.clone());
    }
    let marks = match overlay.needs_userxattr()? {
        true => Marks::User,
        false => Marks::Trusted,
    };
    flatten::into_directory(&layers, directory, Flatten::Copy, marks)?;
    let fd = mounted(overlay, directory)?;
    Ok(OverlayMount::new(Made {
        fd,
        applied: Applied::Copied,
        effective: None,
        lock: None,
        upper: None,
    }))
}

/// A detached mount of it, or without the right to mount itself, if it is to have no attributes that only a mount has.
fn mounted(overlay: &Overlay, path: &Path) -> Result<OwnedFd> {
    let opened = directory::open_as("open copy", path)?;
    let attributes = native::attributes(overlay.attributes(), overlay.is_read_only());
    match directory::clone_mount(opened.as_fd()) {
        Err(_) if attributes == MountAttrFlags::empty() => Ok(opened),
        Err(errno) => Err(Error::sys("clone the mount of", path)(errno)),
        Ok(copy) => {
            sys::mount_setattr(copy.as_fd(), attributes.bits().into(), None)
                .map_err(Error::sys("mount_setattr", path))?;
            Ok(copy)
        }
    }
}
